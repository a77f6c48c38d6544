"""The board of requested work: durable, shared, and the same request once."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fss_core.jobs.board import Board, Task
from fss_core.jobs.rates import Rates
from fss_core.jobs.requests import MeasureRequest
from fss_core.specs import MeasurementSpec, StoreError, TrainingSpec, from_json
from fss_core.store import Store

REQUEST = {"spec": {"epoch": 3}, "whole": True}


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    with Store(tmp_path / "results") as store:
        yield Board(store)


def task(name: str, seconds: float = 1.0, **more: bool) -> Task:
    return Task(name=name, units=seconds, rate="r", seconds=seconds, **more)


# Runs -----------------------------------------------------------------------------------------------------


def test_the_same_request_is_one_run_whoever_asks(board: Board) -> None:
    first = board.ask("measure", REQUEST)
    second = Board(Store(board.store.directory)).ask("measure", dict(reversed(REQUEST.items())))
    assert first.key == second.key
    assert [run.key for run in board.runs()] == [first.key]
    assert (first.state, first.request, first.reason) == ("queued", REQUEST, "")
    assert board.ask("another", REQUEST).key != first.key


def test_asking_again_leaves_a_running_run_alone_and_renews_an_ended_one(board: Board) -> None:
    run = board.ask("measure", REQUEST)
    board.begin(run.key)
    board.put_tasks(run.key, [task("a")])
    assert board.ask("measure", REQUEST).state == "running"
    assert len(board.tasks(run.key)) == 1
    board.end(run.key, "failed", "two\nlines")
    ended = board.get(run.key)
    assert (ended.state, ended.reason) == ("failed", "two lines")
    assert ended.finished is not None
    again = board.ask("measure", REQUEST)
    assert (again.state, again.reason, again.started, again.finished) == ("queued", "", None, None)
    assert board.tasks(run.key) == []


def test_a_request_survives_everything_but_deletion(board: Board) -> None:
    run = board.ask("measure", REQUEST)
    board.log(run.key, "something")
    assert [own.key for own in Board(Store(board.store.directory)).open_runs()] == [run.key]
    board.delete(run.key)
    assert board.runs() == []
    assert board.log_lines(run.key) == []
    with pytest.raises(StoreError, match=r"no run '.*'; `fss runs list` shows them"):
        board.get(run.key)


def test_cancelling_what_nobody_works_on_ends_it_at_once(board: Board) -> None:
    run = board.ask("measure", REQUEST)
    assert not board.wants_stop(run.key)
    board.cancel(run.key)
    assert board.get(run.key).state == "cancelled"
    assert board.wants_stop(run.key)
    board.cancel(run.key)  # again: nothing happens
    assert [line.text for line in board.log_lines(run.key)] == ["asked for", "cancelled"]


def test_cancelling_what_somebody_works_on_asks_them(board: Board) -> None:
    run = board.ask("measure", REQUEST)
    with board.store.claim(run.lease):
        board.begin(run.key)
        assert board.is_live(run)
        board.cancel(run.key)
        assert board.get(run.key).state == "cancelling"
        assert board.wants_stop(run.key)
        board.begin(run.key)  # too late
        assert board.get(run.key).state == "cancelling"
    assert not board.is_live(run)


def test_whoever_works_on_a_deleted_run_stops(board: Board) -> None:
    run = board.ask("measure", REQUEST)
    board.delete(run.key)
    assert board.wants_stop(run.key)


def test_beginning_again_keeps_the_first_start(board: Board) -> None:
    run = board.ask("measure", REQUEST)
    board.begin(run.key)
    started = board.get(run.key).started
    board.begin(run.key)
    assert board.get(run.key).started == started


def test_the_latest_is_listed_first_and_open_runs_in_their_turn(board: Board) -> None:
    keys = [board.ask("measure", {"n": number}).key for number in range(3)]
    board.end(keys[1], "done")
    assert [run.key for run in board.runs()] == keys[::-1]
    assert [run.key for run in board.open_runs()] == [keys[0], keys[2]]


def test_a_run_is_found_by_the_beginning_of_its_key(board: Board) -> None:
    run = board.ask("measure", REQUEST)
    assert board.find(run.key[:6]).key == run.key
    for start in ("", "zzz"):
        with pytest.raises(StoreError, match=r"no run|several runs"):
            board.find(start)


def test_a_request_that_is_no_json_is_read_as_empty(board: Board) -> None:
    run = board.ask("measure", REQUEST)
    with sqlite3.connect(board.store.directory / "index.sqlite") as connection:
        connection.execute("UPDATE runs SET request = '{'")
    assert board.get(run.key).request == {}


def test_many_threads_may_ask_at_once(board: Board) -> None:
    threads = [threading.Thread(target=board.ask, args=("measure", {"n": number % 3})) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(board.runs()) == 3


# Tasks ----------------------------------------------------------------------------------------------------


def test_tasks_move_from_waiting_to_done(board: Board) -> None:
    run = board.ask("measure", REQUEST)
    board.put_tasks(run.key, [task("train", 5, wide=True), task("layers", 9, ready=False)])
    board.start_task(run.key, "train")
    board.move_task(run.key, "train", 0.4, "epoch 1")
    first, second = board.tasks(run.key)
    assert (first.name, first.state, first.share, first.detail, first.wide) == (
        "train",
        "running",
        0.4,
        "epoch 1",
        True,
    )
    assert (second.state, second.share, second.started) == ("waiting", 0.0, None)
    board.finish_task(run.key, "train")
    board.put_tasks(run.key, [task("layers:a"), task("layers:b")])
    rows = board.tasks(run.key)
    assert [(row.name, row.state) for row in rows] == [
        ("train", "done"),
        ("layers:a", "waiting"),
        ("layers:b", "waiting"),
    ]
    assert rows[0].finished is not None
    assert rows[0].finished >= rows[0].started


@pytest.mark.parametrize(("share", "kept"), [(-1.0, 0.0), (2.0, 1.0), (0.25, 0.25)])
def test_a_share_stays_between_nothing_and_all(board: Board, share: float, kept: float) -> None:
    run = board.ask("measure", REQUEST)
    board.put_tasks(run.key, [task("a")])
    board.move_task(run.key, "a", share, "")
    assert board.tasks(run.key)[0].share == kept


def test_a_task_under_way_when_its_run_ends_waits_again(board: Board) -> None:
    run = board.ask("measure", REQUEST)
    board.put_tasks(run.key, [task("a")])
    board.start_task(run.key, "a")
    board.end(run.key, "cancelled")
    assert board.tasks(run.key)[0].state == "waiting"


# Rates ----------------------------------------------------------------------------------------------------


def test_what_was_learned_before_counts_half_each_time(board: Board) -> None:
    board.add_rate("r", 100, 10)
    assert board.rates() == {"r": 0.1}
    board.add_rate("r", 100, 40)
    assert board.rates()["r"] == pytest.approx((5 + 40) / (50 + 100))
    board.add_rate("nothing", 0, 3)
    board.add_rate("nothing", 3, 0)
    assert set(board.rates()) == {"r"}


def test_a_rate_is_measured_then_scaled_then_typical() -> None:
    shape = (3, 32, 32)
    typical = Rates({}).find("forward", "resnet18", shape, "cpu", 2)
    assert typical.basis == "typical"
    assert typical.seconds == pytest.approx(1 / 1630)
    measured = Rates({typical.key: 0.5}).find("forward", "resnet18", shape, "cpu", 2)
    assert (measured.basis, measured.seconds) == ("measured", 0.5)
    # Twice as slow as typical at one thing: twice as slow at another.
    scaled = Rates({typical.key: 2 / 1630}).find("backward", "squeezenet1_1", (3, 64, 64), "cpu", 1)
    assert scaled.basis == "scaled"
    assert scaled.seconds == pytest.approx(2 * 4 * 2 / 1970)
    assert Rates({typical.key: 2 / 1630}).find("forward", "resnet18", shape, "cuda", 2).basis == "typical"
    assert Rates({}).find("forward", "a network of one's own", (1, 8, 8), "cpu", 1).seconds > 0


# Requests -------------------------------------------------------------------------------------------------


def test_a_request_comes_back_from_the_board_with_its_key(board: Board) -> None:
    spec = MeasurementSpec(training=TrainingSpec(network="resnet18", dataset="mnist"), epoch=2, epsilon=1)
    request = MeasureRequest(spec=spec, whole=True, control=True, layers=("conv1",))
    run = board.ask(request.kind, request.to_json())
    assert run.key == request.key
    assert from_json(MeasureRequest, run.request) == request
    assert from_json(MeasureRequest, run.request).key == request.key


def test_the_parts_of_a_request_share_what_they_can() -> None:
    spec = MeasurementSpec(training=TrainingSpec(network="resnet18", dataset="mnist"), epoch=2)
    assert list(MeasureRequest(spec=spec).parts()) == ["layers"]
    parts = MeasureRequest(spec=spec, whole=True, control=True).parts()
    assert list(parts) == ["layers", "whole", "control"]
    assert parts["layers"] == spec
    assert parts["control"].response.filters == ("random",)
    assert (parts["whole"].response.scope, len(parts["whole"].response.filters)) == ("global", 4)


def test_a_request_says_what_it_is_for() -> None:
    spec = MeasurementSpec(
        training=TrainingSpec(network="resnet18", dataset="mnist", seed=1), epoch=2, num_images=40, epsilon=8 / 255
    )
    assert MeasureRequest(spec=spec, control=True, layers=("a", "b")).words() == (
        "ResNet-18 on mnist, epoch 2, initialisation 1; FGSM frozen, ε = 8/255; 40 images, 25 thresholds; "
        "with random control; 2 layers"
    )


def test_times_on_the_board_are_times_of_the_clock(board: Board) -> None:
    before = time.time()
    run = board.ask("measure", REQUEST)
    assert before <= run.asked <= time.time()
