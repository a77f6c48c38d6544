"""Long work: planned, carried out here or by a runner, cancelled, resumed, shared, and never half."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import bars
import numpy as np
import psutil
import pytest

from fss_core.explore import find_picture, score_picture, version_of
from fss_core.flow import Flow, Progress, find_measured
from fss_core.jobs import rates, requests, service
from fss_core.jobs import runner as runner_module
from fss_core.jobs.board import Board, Run, Task
from fss_core.jobs.here import carry_out
from fss_core.jobs.plans import plan_measurement
from fss_core.jobs.pool import Pool
from fss_core.jobs.progress import progress_of
from fss_core.jobs.rates import Machine
from fss_core.jobs.requests import MeasureRequest
from fss_core.jobs.runner import Runner
from fss_core.jobs.workers import Bench, Order
from fss_core.measurement import Measurement
from fss_core.measuring import Measurer
from fss_core.specs import (
    Cancelled,
    FssError,
    MeasurementSpec,
    NotFiniteError,
    ResponseSpec,
    ScoreSpec,
    StoreError,
    TrainingSpec,
    UnknownLayerError,
    from_json,
)
from fss_core.store import Store

SPEC = MeasurementSpec(
    training=TrainingSpec(network=bars.NETWORK, dataset=bars.DATASET),
    epoch=bars.EPOCH,
    num_images=60,
    epsilon=0.1,
    response=ResponseSpec(num_thresholds=5),
)
REQUEST = MeasureRequest(spec=SPEC, whole=True, control=True, factory=bars.FACTORY)
MACHINE = Machine(cores=2, workers=2)
ALL_TASKS = ["layers:conv", "layers:fc", "whole:(all layers)", "control:conv", "control:fc"]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bars.make_template(tmp_path_factory)


@pytest.fixture
def cache(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(template, tmp_path / "cache")
    for name, value in bars.environment(tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    return tmp_path / "cache"


def names(store: Store, request: MeasureRequest = REQUEST) -> list[str]:
    return [task.name for task in plan_measurement(store, request, MACHINE).tasks]


def assert_measured(store: Store, request: MeasureRequest = REQUEST) -> None:
    """Everything asked for is there, and equals what one quiet process measures."""
    assert names(store, request) == []
    for spec in request.parts().values():
        found = find_measured(store, spec)
        assert found is not None
        assert not found.missing
        with Store(store.directory.parent / "quiet") as quiet:
            expected = Flow(quiet, factory=bars.make_network).measure(spec)
        for own, other in zip(found.responses.layers, expected.responses.layers, strict=True):
            np.testing.assert_array_equal(own.predictions.clean, other.predictions.clean)
            np.testing.assert_array_equal(own.predictions.adversarial, other.predictions.adversarial)


# Plans ----------------------------------------------------------------------------------------------------


def test_a_plan_begins_with_what_is_not_known_and_ends_with_nothing(store: Store) -> None:
    plan = plan_measurement(store, REQUEST, MACHINE)
    assert [task.name for task in plan.tasks] == [
        "images:layers",
        "layers",
        "images:whole",
        "whole",
        "images:control",
        "control",
    ]
    assert [task.ready for task in plan.tasks] == [True, False, True, False, True, False]
    flow = Flow(store, factory=bars.make_network)
    Measurement(flow, SPEC).prepare()
    assert names(store)[:2] == ["layers:conv", "layers:fc"]
    Measurement(flow, REQUEST.parts()["whole"]).prepare()
    assert names(store) == ALL_TASKS
    flow.measure(SPEC)
    assert names(store) == ALL_TASKS[2:]
    for spec in REQUEST.parts().values():
        flow.measure(spec)
    assert names(store) == []
    done = plan_measurement(store, REQUEST, MACHINE)
    assert (done.seconds, done.first_seconds, done.basis) == (0.0, 0.0, "measured")


def test_a_larger_request_plans_only_what_is_new(store: Store) -> None:
    Flow(store, factory=bars.make_network).measure(SPEC)
    grown = replace(REQUEST, spec=replace(SPEC, num_images=bars.NUM_PROBE), whole=False, control=False)
    plan = plan_measurement(store, grown, MACHINE)
    assert plan.tasks[0].name == "images:layers"
    Measurement(Flow(store, factory=bars.make_network), grown.spec).prepare()
    plan = plan_measurement(store, grown, MACHINE)
    assert [task.name for task in plan.tasks] == ["layers:conv", "layers:fc"]
    whole = replace(grown, spec=replace(grown.spec, epsilon=0.2))
    Measurement(Flow(store, factory=bars.make_network), whole.spec).prepare()
    from_nothing = plan_measurement(store, whole, MACHINE)
    for task, other in zip(plan.tasks, from_nothing.tasks, strict=True):
        assert task.units == pytest.approx(other.units * (bars.NUM_PROBE - 60) / bars.NUM_PROBE)


def test_a_layers_cost_is_what_lies_downstream_of_it(store: Store) -> None:
    measurement = Measurement(Flow(store, factory=bars.make_network), SPEC)
    header = measurement.prepare()
    tasks = plan_measurement(store, replace(REQUEST, whole=False, control=False), MACHINE).tasks
    assert [task.units for task in tasks] == [header.costs[name] * 3 * 5 * 60 * 2 for name in bars.LAYERS]
    assert all(task.seconds > 0 for task in tasks)


def test_a_plan_for_an_epoch_that_is_not_trained_begins_with_training(store: Store) -> None:
    spec = replace(SPEC, training=replace(SPEC.training, network="shufflenet_v2_x1_0"), epsilon=None)
    tasks = plan_measurement(store, MeasureRequest(spec=spec), MACHINE).tasks
    assert [task.name for task in tasks] == ["train", "epsilon", "images:layers", "layers"]
    assert [task.ready for task in tasks] == [True, False, False, False]
    assert [task.wide for task in tasks] == [True, True, False, False]
    assert tasks[0].units == 3 * 16


def test_a_data_set_that_is_not_decoded_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path))
    spec = MeasurementSpec(training=TrainingSpec(network="resnet18", dataset="mnist5k"), epoch=1)
    with Store() as store:
        tasks = plan_measurement(store, MeasureRequest(spec=spec), MACHINE).tasks
    assert [task.name for task in tasks if task.ready] == ["data"]
    assert not (tmp_path / "prepared").exists()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> MeasureRequest:
    """The request with a first look, which pays already where so little is measured."""
    monkeypatch.setattr(requests, "PREVIEW_IMAGES", 10)
    monkeypatch.setattr(requests, "PREVIEW_THRESHOLDS", 3)
    return replace(REQUEST, preview=True)


def test_a_first_look_comes_first_and_is_taken_only_at_what_is_missing(store: Store, looks: MeasureRequest) -> None:
    first = ["images:layers", "images:preview", "preview", "layers"]
    plan = plan_measurement(store, looks, MACHINE)
    assert [task.name for task in plan.tasks] == [*first, "images:whole", "whole", "images:control", "control"]
    assert [task.name for task in plan.tasks if task.ready] == first[:2]
    assert 0 < plan.first_seconds < plan.seconds
    flow = Flow(store, factory=bars.make_network)
    for part in ("layers", "preview"):
        Measurement(flow, looks.parts()[part]).prepare()
    layers = [f"{part}:{name}" for part in ("preview", "layers") for name in bars.LAYERS]
    assert names(store, looks)[:4] == layers
    flow.measure(SPEC, layers=["conv"])
    assert names(store, looks)[:2] == ["preview:fc", "layers:fc"]
    flow.measure(SPEC)
    assert names(store, looks) == ["images:whole", "whole", "control:conv", "control:fc"]


def test_a_request_with_a_first_look_leaves_what_one_without_leaves(store: Store, looks: MeasureRequest) -> None:
    run = carry_out(store, looks)
    assert run is not None
    assert run.state == "done"
    assert_measured(store, looks)
    began = {row.name: row.started or 0.0 for row in Board(store).tasks(run.key)}
    for name in bars.LAYERS:
        assert began[f"preview:{name}"] < began["layers:conv"]


def test_a_first_look_stands_in_for_a_layer_until_that_is_measured(store: Store, looks: MeasureRequest) -> None:
    flow = Flow(store, factory=bars.make_network)
    assert find_picture(store, looks) is None
    Measurement(flow, SPEC).prepare()
    flow.measure(looks.parts()["preview"])
    picture = find_picture(store, looks)
    assert picture is not None
    assert picture.previewed == picture.layers.missing == bars.LAYERS
    assert not picture.is_complete
    scores = score_picture(picture, ScoreSpec()).layers
    assert {row.num_images for row in scores.rows} == {10}
    before = version_of(store, looks)
    flow.measure(SPEC, layers=["conv"])
    assert version_of(store, looks) != before
    picture = find_picture(store, looks)
    assert picture is not None
    assert picture.previewed == ("fc",)
    scores = score_picture(picture, ScoreSpec()).layers
    assert {row.layer: row.num_images for row in scores.rows} == {"conv": 60, "fc": 10}
    for layer, thresholds in (("conv", 5), ("fc", 3)):
        responses = picture.responses_of(layer)
        assert responses is not None
        assert responses.spec.num_thresholds == thresholds
    alone = find_picture(store, REQUEST)
    assert alone is not None
    assert alone.previewed == ()


def test_what_is_small_has_no_first_look_and_the_name_it_always_had() -> None:
    assert "preview" not in replace(REQUEST, preview=True).parts()
    assert replace(REQUEST, preview=True).key == REQUEST.key
    large = replace(REQUEST, spec=replace(SPEC, num_images=300, response=ResponseSpec()))
    assert replace(large, preview=True).key != large.key
    assert "preview" not in large.to_json()
    assert from_json(MeasureRequest, replace(large, preview=True).to_json()).parts().keys() >= {"preview", "layers"}


def test_what_cannot_be_done_is_refused_by_the_plan(store: Store) -> None:
    Measurement(Flow(store, factory=bars.make_network), SPEC).prepare()
    with pytest.raises(UnknownLayerError, match="conv9"):
        plan_measurement(store, replace(REQUEST, layers=("conv9",)), MACHINE)
    with pytest.raises(ValueError, match=f"num_images must be at most {bars.NUM_PROBE}"):
        plan_measurement(store, replace(REQUEST, spec=replace(SPEC, num_images=999)), MACHINE)


def test_more_workers_take_less_time_but_for_what_is_wide(store: Store) -> None:
    Measurement(Flow(store, factory=bars.make_network), SPEC).prepare()
    request = replace(REQUEST, whole=False, control=False)
    one, two = (plan_measurement(store, request, Machine(cores=2, workers=number)).seconds for number in (1, 2))
    # One worker has both cores: it is the rates that say what that is worth.
    assert two == pytest.approx(one)


# In this process ------------------------------------------------------------------------------------------


def test_carrying_out_leaves_everything_measured_and_a_run_that_is_done(store: Store) -> None:
    told: list[Progress] = []
    run = carry_out(store, REQUEST, on_progress=told.append)
    assert run is not None
    assert run.state == "done"
    assert run.started is not None
    assert run.finished is not None
    assert_measured(store)
    rows = Board(store).tasks(run.key)
    assert [row.name for row in rows if ":" in row.name and not row.name.startswith("images")] == ALL_TASKS
    assert all(row.state == "done" and row.share == 1 for row in rows)
    assert progress_of(Board(store), run).share == 1
    measured = [own.done / own.total for own in told if own.stage == "measure"]
    assert measured[-1] == pytest.approx(1)


def test_rates_are_learned_and_estimates_then_rest_on_them(store: Store) -> None:
    assert service.estimate(store, REQUEST).basis == "typical"
    carry_out(store, REQUEST)
    other = replace(REQUEST, spec=replace(SPEC, epsilon=0.2), whole=False, control=False)
    plan = plan_measurement(store, other, Machine(cores=rates.num_cores(), workers=1))
    known = Board(store).rates()
    assert any(key.startswith(f"forward/{bars.NETWORK}/1x8x8/cpu/") for key in known)
    layers = next(task for task in plan.tasks if task.name == "layers")
    assert layers.seconds == pytest.approx(layers.units * known[layers.rate])


def test_carrying_out_again_calls_no_network(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out(store, REQUEST)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(Measurer, "measure", refuse)
    run = carry_out(store, REQUEST)
    assert run is not None
    assert run.state == "done"


def test_somebody_else_can_cancel_what_is_carried_out_here(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fss_core.jobs.workers._SECONDS_BETWEEN_LOOKS", 0.0)
    told: list[str] = []

    def watch(progress: Progress) -> None:
        told.append(progress.detail)
        if progress.detail == "fc":
            Board(Store(store.directory)).cancel(REQUEST.key)

    with pytest.raises(Cancelled):
        carry_out(store, REQUEST, on_progress=watch)
    assert Board(store).get(REQUEST.key).state == "cancelled"
    assert "layers:conv" not in names(store)  # what was finished stays
    assert "layers:fc" in names(store)
    run = carry_out(store, REQUEST)
    assert run is not None
    assert run.state == "done"
    assert_measured(store)


def test_a_failure_is_kept_with_its_reason(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise NotFiniteError("a layer is\nbroken")

    monkeypatch.setattr(Measurer, "measure", fail)
    with pytest.raises(NotFiniteError):
        carry_out(store, REQUEST)
    run = Board(store).get(REQUEST.key)
    assert (run.state, run.reason) == ("failed", "a layer is broken")
    assert not Board(store).is_live(run)


def test_what_another_holds_is_not_carried_out_twice(store: Store) -> None:
    with store.claim(f"run/{REQUEST.key}"):
        assert carry_out(store, REQUEST) is None
    assert Board(store).get(REQUEST.key).state == "queued"


def test_results_that_vanish_end_the_run_instead_of_measuring_for_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    do = Bench.do

    def spoiled(self: Bench, order: Order, **named: Any) -> bool:
        done = do(self, order, **named)
        store.delete_prefix("responses/")
        return done

    monkeypatch.setattr(Bench, "do", spoiled)
    with pytest.raises(StoreError, match="vanished"):
        carry_out(store, REQUEST)
    assert Board(store).get(REQUEST.key).state == "failed"


# Progress -------------------------------------------------------------------------------------------------


def put(board: Board, key: str, *tasks: tuple[str, float, float, str], wide: bool = False) -> None:
    """Put tasks (name, expected seconds, share, state) that began ten seconds ago."""
    board.put_tasks(key, [Task(name=own[0], units=1, rate="", seconds=own[1], wide=wide) for own in tasks])
    now = time.time()
    with board.store.index.connect() as connection:
        for name, _, share, state in tasks:
            began = None if state == "waiting" else now - 10
            ended = now if state == "done" else None
            connection.execute(
                "UPDATE tasks SET share = ?, state = ?, started = ?, finished = ? WHERE run = ? AND name = ?",
                (share, state, began, ended, key, name),
            )


def test_progress_is_work_done_over_work_in_all(store: Store) -> None:
    board = Board(store)
    run = board.ask("measure", REQUEST.to_json())
    with store.claim(run.lease):
        board.begin(run.key)
        put(
            board,
            run.key,
            ("layers:a", 10, 1, "done"),
            ("layers:b", 20, 0.5, "running"),
            ("layers:c", 40, 0, "waiting"),
        )
        now = progress_of(board, board.get(run.key), workers=2)
    # 20 seconds were expected for what is done, and taken: 50 are left, for two workers.
    assert now.share == pytest.approx(20 / 70, rel=0.01)
    assert now.seconds_left == pytest.approx(25, rel=0.01)
    assert (now.stage, now.num_done, now.num_tasks, now.is_live) == ("filtering layer by layer", 1, 3, True)


def test_what_is_left_follows_the_rate_that_was_had(store: Store) -> None:
    board = Board(store)
    run = board.ask("measure", REQUEST.to_json())
    with store.claim(run.lease):
        board.begin(run.key)
        put(board, run.key, ("layers:a", 2, 1, "done"), ("layers:b", 8, 0, "waiting"))
        slow = progress_of(board, board.get(run.key), workers=1)
    assert slow.seconds_left == pytest.approx(8 * 5, rel=0.01)  # five times slower than expected
    assert slow.share == pytest.approx(0.2, rel=0.01)


def test_runs_that_take_turns_wait_for_each_other(store: Store) -> None:
    board = Board(store)
    short, long, interrupted = (
        board.ask("measure", replace(REQUEST, whole=False, layers=(name,)).to_json()) for name in "abc"
    )
    with store.claim(short.lease), store.claim(long.lease):
        for run, seconds, state in ((short, 10, "waiting"), (long, 40, "running"), (interrupted, 99, "waiting")):
            board.begin(run.key)
            put(board, run.key, ("layers:a", seconds, 0, state))
        found = [progress_of(board, board.get(run.key), workers=1) for run in (short, long, interrupted)]
    assert [own.seconds_left for own in found] == pytest.approx([20, 50, 99])
    assert [own.stage for own in found] == ["waiting for its turn", "filtering layer by layer", "waiting for a worker"]


def test_a_wide_task_is_not_divided_between_workers(store: Store) -> None:
    board = Board(store)
    run = board.ask("measure", REQUEST.to_json())
    put(board, run.key, ("train", 30, 0, "waiting"), wide=True)
    assert progress_of(board, run, workers=4).seconds_left == pytest.approx(30)


def test_an_open_run_that_nobody_works_on_says_so(store: Store) -> None:
    board = Board(store)
    run = board.ask("measure", REQUEST.to_json())
    assert progress_of(board, run).stage == "waiting for a worker"
    board.begin(run.key)
    interrupted = progress_of(board, board.get(run.key))
    assert (interrupted.stage, interrupted.is_live) == ("waiting for a worker", False)


# Starting a runner ----------------------------------------------------------------------------------------


class FakeProcess:
    """A runner that is never there."""

    def __init__(self, code: int | None) -> None:
        self.returncode = code

    def poll(self) -> int | None:
        return self.returncode


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    commands: list[list[str]] = []

    def start(command: list[str], **_: Any) -> FakeProcess:
        commands.append(command)
        return FakeProcess(None)

    monkeypatch.setattr(service.subprocess, "Popen", start)
    monkeypatch.setattr(service, "_runners", {})
    return commands


def test_a_runner_is_started_once_and_only_where_there_is_work(store: Store, started: list[list[str]]) -> None:
    service.keep_going(store)
    assert started == []
    service.ask(store, REQUEST)
    service.ask(store, REQUEST)
    service.keep_going(store)
    assert len(started) == 1
    assert started[0][1:] == ["-m", "fss_core.jobs.runner", "--parent", str(os.getpid())]


def test_no_runner_is_started_beside_a_living_one(store: Store, started: list[list[str]]) -> None:
    with store.claim(service.RUNNER_LEASE):
        service.ask(store, REQUEST)
    assert started == []
    service.keep_going(store)
    assert len(started) == 1


def test_a_runner_that_failed_is_not_started_again_at_once(
    store: Store, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    service.ask(store, REQUEST)
    process, when = service._runners[store.directory]
    process.returncode = 1
    service.runner_log().write_text("Traceback\nImportError: no dask\n")
    service.keep_going(store)
    assert len(started) == 1
    assert service.runner_problem(store) == "ImportError: no dask"
    monkeypatch.setitem(service._runners, store.directory, (process, when - 60))
    service.keep_going(store)
    assert len(started) == 2
    assert service.runner_problem(store) == ""


def test_asking_imports_neither_torch_nor_dask(cache: Path) -> None:
    code = (
        "import sys\nfrom fss_core.jobs import service\nfrom fss_core.jobs.board import Board\n"
        "from fss_core.store import Store\nwith Store() as store:\n    service.keep_going(store)\n"
        "    Board(store).ask('measure', {})\n"
        "print([name for name in ('torch', 'dask', 'distributed') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_workers_talk_over_tls_and_on_this_machine_only() -> None:
    with mock.patch.dict(os.environ), Pool(1) as pool:  # Dask leaves MKL_NUM_THREADS in it
        assert pool._cluster is not None
        addresses = [pool._cluster.scheduler_address, *pool._client.nthreads()]
    assert len(addresses) == 2
    assert all(address.startswith("tls://127.0.0.1:") for address in addresses)


# The runner, with a pool of this test's own ---------------------------------------------------------------


class FakeFuture:
    """A task that ends when the test says so."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.status = "pending"
        self.outcome: bool | BaseException = True

    def done(self) -> bool:
        return self.status != "pending"

    def finish(self, outcome: bool | BaseException = True) -> None:
        self.outcome = outcome
        self.status = "error" if isinstance(outcome, BaseException) else "finished"

    def result(self) -> bool:
        assert isinstance(self.outcome, bool)
        return self.outcome

    def exception(self) -> BaseException | None:
        return self.outcome if isinstance(self.outcome, BaseException) else None


class FakePool:
    """Two workers that do what the test makes them do."""

    is_local = True
    machine = MACHINE

    def __init__(self, _: int | None = None) -> None:
        self.futures: list[FakeFuture] = []
        self.killed: list[FakeFuture] = []
        self.closed = False
        self.ready = MACHINE.workers

    def num_ready(self) -> int:
        return self.ready

    def submit(self, order: Order) -> FakeFuture:
        self.futures.append(FakeFuture(order))
        return self.futures[-1]

    def kill(self, future: FakeFuture) -> None:
        self.killed.append(future)

    def close(self) -> None:
        self.closed = True

    @property
    def under_way(self) -> list[FakeFuture]:
        return [own for own in self.futures if not own.done()]


Plans = dict[str, list[list[Task]]]


@pytest.fixture
def world(store: Store, monkeypatch: pytest.MonkeyPatch) -> tuple[Runner, FakePool, Plans]:
    """A runner whose plans are the test's: per run, a list of plans, one after the other."""
    pool, plans = FakePool(), {}
    monkeypatch.setattr(runner_module, "Pool", lambda _: pool)

    class Made:
        def __init__(self, tasks: list[Task]) -> None:
            self.tasks = tuple(tasks)

    def plan(_: Store, run: Run, __: Machine) -> Made:
        found = plans[run.key]
        return Made(found.pop(0) if found else [])

    monkeypatch.setattr(runner_module, "plan_run", plan)
    return Runner(store), pool, plans


def narrow(*found: str) -> list[Task]:
    return [Task(name=name, units=1, rate="", seconds=1) for name in found]


def wide(name: str) -> Task:
    return Task(name=name, units=1, rate="", seconds=1, wide=True)


def ask(runner: Runner, plans: Plans, *found: list[Task], number: int = 0) -> Run:
    run = runner.board.ask("measure", {"number": number})
    plans[run.key] = list(found)
    return run


def test_no_more_tasks_are_under_way_than_there_are_workers(world: tuple[Runner, FakePool, Plans]) -> None:
    runner, pool, plans = world
    run = ask(runner, plans, narrow("a", "b", "c"))
    runner._round()
    assert [own.order.task.name for own in pool.under_way] == ["a", "b"]
    assert {own.order.threads for own in pool.futures} == {1}
    pool.futures[0].finish()
    runner._round()
    assert [own.order.task.name for own in pool.under_way] == ["b", "c"]
    for own in pool.under_way:
        own.finish()
    runner._round()
    assert runner.board.get(run.key).state == "done"
    assert not runner.board.is_live(run)


def test_a_task_waits_for_a_worker_that_is_ready(world: tuple[Runner, FakePool, Plans]) -> None:
    runner, pool, plans = world
    ask(runner, plans, narrow("a", "b", "c"))
    for ready, under_way in enumerate((0, 1, 2)):
        pool.ready = ready
        runner._round()
        assert len(pool.under_way) == under_way


def test_a_wide_task_has_all_cores_and_nothing_beside_it(world: tuple[Runner, FakePool, Plans]) -> None:
    runner, pool, plans = world
    ask(runner, plans, narrow("a"), number=0)
    ask(runner, plans, [wide("train"), *narrow("b")], number=1)
    runner._round()
    assert [own.order.task.name for own in pool.under_way] == ["a"]
    runner._round()
    assert len(pool.under_way) == 1  # the other worker is kept free for the wide one
    pool.futures[0].finish()
    runner._round()
    runner._round()
    assert [(own.order.task.name, own.order.threads) for own in pool.under_way] == [("train", 2)]
    pool.futures[1].finish()
    runner._round()
    assert [own.order.task.name for own in pool.under_way] == ["b"]


@pytest.mark.parametrize(("seconds", "first"), [(-1.0, ["a0", "a1", "b0", "b1"]), (60.0, ["a0", "a1", "a2", "a3"])])
def test_runs_take_turns_that_last_a_while(
    world: tuple[Runner, FakePool, Plans], seconds: float, first: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "_TURN_SECONDS", seconds)
    runner, pool, plans = world
    ask(runner, plans, narrow(*[f"a{n}" for n in range(4)]), number=0)
    ask(runner, plans, narrow(*[f"b{n}" for n in range(4)]), number=1)
    order = []
    for _ in range(4):
        runner._round()
        for own in pool.under_way:
            order.append(own.order.task.name)
            own.finish()
    assert sorted(order[:4]) == first
    assert len(order) == 8


def test_a_layer_in_another_s_hands_is_tried_last_and_then_waited_for(world: tuple[Runner, FakePool, Plans]) -> None:
    runner, pool, plans = world
    ask(runner, plans, narrow("a", "b", "c"))
    runner._round()
    pool.futures[0].finish(False)  # a is held elsewhere
    runner._round()
    assert [(own.order.task.name, own.order.wait) for own in pool.under_way] == [("b", False), ("c", False)]
    for own in pool.under_way:
        own.finish()
    runner._round()
    assert [(own.order.task.name, own.order.wait) for own in pool.under_way] == [("a", True)]


def test_a_cancelled_run_starts_nothing_more_and_ends_when_its_tasks_have(
    world: tuple[Runner, FakePool, Plans],
) -> None:
    runner, pool, plans = world
    run = ask(runner, plans, narrow("a", "b", "c"))
    runner._round()
    runner.board.cancel(run.key)
    runner._round()
    assert runner.board.get(run.key).state == "cancelling"
    for own in pool.under_way:
        own.finish(Cancelled("stopped"))
    runner._round()
    assert runner.board.get(run.key).state == "cancelled"
    assert len(pool.futures) == 2
    assert pool.killed == []


def test_a_task_that_hangs_loses_its_worker_though_its_run_was_asked_for_again(
    world: tuple[Runner, FakePool, Plans], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, pool, plans = world
    run = ask(runner, plans, narrow("a"), narrow("a"))
    runner._round()
    runner.board.cancel(run.key)
    runner._round()
    runner.board.ask("measure", run.request)
    monkeypatch.setattr(runner_module, "_GRACE_SECONDS", 0.0)
    runner._round()
    assert pool.killed == pool.futures[:1]
    runner._round()
    assert [own.order.task.name for own in pool.futures[1:]] == ["a"]
    assert runner.board.get(run.key).state == "running"


def test_a_run_that_is_asked_for_again_while_it_stops_goes_on(world: tuple[Runner, FakePool, Plans]) -> None:
    runner, pool, plans = world
    run = ask(runner, plans, narrow("a", "b"), narrow("b"))
    runner._round()
    runner.board.cancel(run.key)
    runner._round()
    assert runner.board.ask("measure", run.request).state == "queued"
    for own in pool.under_way:
        own.finish(Cancelled("stopped"))
    runner._round()
    assert runner.board.get(run.key).state == "queued"
    runner._round()
    assert [own.order.task.name for own in pool.under_way] == ["b"]
    pool.futures[-1].finish()
    runner._round()
    assert runner.board.get(run.key).state == "done"


def test_a_task_that_does_not_listen_loses_its_worker(
    world: tuple[Runner, FakePool, Plans], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, pool, plans = world
    run = ask(runner, plans, narrow("a"))
    runner._round()
    runner.board.cancel(run.key)
    runner._round()
    assert pool.killed == []
    monkeypatch.setattr(runner_module, "_GRACE_SECONDS", 0.0)
    runner._round()
    assert pool.killed == pool.futures
    assert runner.board.get(run.key).state == "cancelled"


def test_a_failure_ends_the_run_once_the_other_tasks_have_ended(world: tuple[Runner, FakePool, Plans]) -> None:
    runner, pool, plans = world
    run = ask(runner, plans, narrow("a", "b", "c"))
    runner._round()
    pool.futures[0].finish(NotFiniteError("weights are NaN"))
    runner._round()
    assert runner.board.get(run.key).state == "running"
    pool.futures[1].finish()
    runner._round()
    ended = runner.board.get(run.key)
    assert (ended.state, ended.reason) == ("failed", "weights are NaN")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (type("KilledWorker", (Exception,), {})("x"), "a lost its worker again and again"),
        (RuntimeError("odd"), "unexpected RuntimeError in a: odd; the log says where"),
        (ValueError("num_images must be at least 1"), "num_images must be at least 1"),
    ],
)
def test_every_failure_has_a_reason_in_one_line(
    world: tuple[Runner, FakePool, Plans], error: Exception, reason: str
) -> None:
    runner, pool, plans = world
    run = ask(runner, plans, narrow("a"))
    runner._round()
    pool.futures[0].finish(error)
    runner._round()
    ended = runner.board.get(run.key)
    assert ended.state == "failed"
    assert ended.reason.startswith(reason)
    assert "\n" not in ended.reason
    if isinstance(error, RuntimeError):
        assert any("RuntimeError: odd" in line.text for line in runner.board.log_lines(run.key))


def test_a_plan_that_never_ends_is_a_failure(world: tuple[Runner, FakePool, Plans]) -> None:
    runner, pool, plans = world
    run = ask(runner, plans, narrow("a"), narrow("a"))
    runner._round()
    pool.futures[0].finish()
    runner._round()
    assert "its result is not there" in runner.board.get(run.key).reason


def test_workers_that_cannot_be_started_fail_the_run(
    world: tuple[Runner, FakePool, Plans], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, _, plans = world

    def fail(_: int | None) -> None:
        raise OSError("no ports left")

    monkeypatch.setattr(runner_module, "Pool", fail)
    run = ask(runner, plans, narrow("a"))
    runner._round()
    assert "the workers cannot be started (OSError: no ports left)" in runner.board.get(run.key).reason


def test_the_command_line_s_run_is_left_to_it(world: tuple[Runner, FakePool, Plans]) -> None:
    runner, pool, plans = world
    run = ask(runner, plans, narrow("a"))
    with runner.board.store.claim(run.lease):
        runner._round()
        assert pool.futures == []
    runner._round()
    assert len(pool.futures) == 1


def test_a_run_whose_worker_died_while_it_was_cancelled_is_cancelled(world: tuple[Runner, FakePool, Plans]) -> None:
    runner, pool, plans = world
    run = ask(runner, plans, narrow("a"))
    with runner.board.store.claim(run.lease):
        runner.board.begin(run.key)
        runner.board.cancel(run.key)
    runner._round()
    assert runner.board.get(run.key).state == "cancelled"
    assert pool.futures == []


def test_a_runner_that_stops_leaves_its_runs_open_and_its_pool_closed(world: tuple[Runner, FakePool, Plans]) -> None:
    runner, pool, plans = world
    run = ask(runner, plans, narrow("a"))
    rounds = iter([False, True])
    runner._should_stop = lambda: next(rounds)
    runner.serve()
    assert pool.closed
    assert runner.board.get(run.key).state == "running"
    assert not runner.board.is_live(run)


def test_a_runner_without_work_goes_after_a_while(store: Store) -> None:
    started = time.monotonic()
    Runner(store, idle_seconds=0.3).serve()
    assert 0.3 <= time.monotonic() - started < 5


# The runner, with Dask ------------------------------------------------------------------------------------


def wait_for(found: Callable[[], Any], seconds: float = 90) -> Any:
    until = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)
    return value


@pytest.fixture
def runner_process(cache: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts runners in processes of their own, and ends them with all they started."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "fss_core.jobs.runner", "--idle-seconds", "60", *options]
        with (cache / "runner.log").open("ab") as log:
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        return processes[-1]

    yield start
    for process in processes:
        kill_tree(process.pid)
        process.wait()


def kill_tree(pid: int) -> None:
    try:
        found = psutil.Process(pid)
        family = [*found.children(recursive=True), found]
    except psutil.NoSuchProcess:
        return
    for own in family:
        try:
            own.kill()
        except psutil.NoSuchProcess:
            pass


def slow_down(cache: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Make every filtered layer of the workers take its time, through a sitecustomize of theirs."""
    folder = cache / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys, importlib.abc, importlib.util\n"
        "class Finder(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name != 'fss_core.measuring': return None\n"
        "        sys.meta_path.remove(self)\n"
        "        spec = importlib.util.find_spec(name)\n"
        "        run = spec.loader.exec_module\n"
        "        def load(module):\n"
        "            run(module)\n"
        "            import time\n"
        "            measure = module.Measurer.measure\n"
        "            def slow(self, *arguments, on_pass=lambda: None, **named):\n"
        f"                for _ in range({int(seconds * 20)}):\n"
        "                    time.sleep(0.05); on_pass()\n"
        "                return measure(self, *arguments, on_pass=on_pass, **named)\n"
        "            module.Measurer.measure = slow\n"
        "        spec.loader.exec_module = load\n"
        "        return spec\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ["PYTHONPATH"]]))


def state_of(store: Store) -> str:
    return Board(store).get(REQUEST.key).state


@pytest.mark.slow
def test_dask_s_workers_measure_everything_as_one_process_does(
    store: Store, runner_process: Callable[..., subprocess.Popen[bytes]]
) -> None:
    Board(store).ask("measure", REQUEST.to_json())
    process = runner_process()
    assert wait_for(lambda: state_of(store) in ("done", "failed") and state_of(store)) == "done"
    assert_measured(store)
    listening = {
        own.laddr.ip
        for one in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True))
        for own in one.net_connections(kind="inet")
        if own.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not store.is_held(service.RUNNER_LEASE)


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_runner_cost_nothing_that_was_finished(
    store: Store,
    cache: Path,
    runner_process: Callable[..., subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow_down(cache, monkeypatch, 1.0)
    board = Board(store)
    run = board.ask("measure", REQUEST.to_json())
    process = runner_process()

    def running() -> list[str]:
        return [row.name for row in board.tasks(run.key) if row.state == "running" and row.name.startswith("layers:")]

    wait_for(running)
    workers = [
        own for own in psutil.Process(process.pid).children(recursive=True) if "spawn_main" in " ".join(own.cmdline())
    ]
    assert workers
    for own in workers:
        own.send_signal(signal.SIGKILL)
    wait_for(lambda: [row for row in board.tasks(run.key) if row.name == "layers:fc" and row.state == "done"])
    kill_tree(process.pid)
    process.wait()
    assert board.get(run.key).state == "running"
    assert not board.is_live(run)
    left = names(store)
    assert "layers:fc" not in left
    assert left
    runner_process()
    assert wait_for(lambda: state_of(store) in ("done", "failed") and state_of(store)) == "done"
    assert_measured(store)


class Warming:
    """A warm-up that is over, or not."""

    def __init__(self, is_over: bool) -> None:
        self.is_over = is_over

    def done(self) -> bool:
        return self.is_over


def test_workers_are_ready_when_they_are_there_warm_and_not_just_killed() -> None:
    class Cluster:
        class scheduler:
            workers: ClassVar = {"cold": 1, "warm": 1, "in place of another": 1, "killed": 1}

    pool = object.__new__(Pool)
    pool._cluster = Cluster()
    pool._warming = {"cold": Warming(False), "warm": Warming(True), "gone": Warming(False)}  # type: ignore[dict-item]
    pool._killed = {"killed"}
    assert pool.num_ready() == 2
    pool._cluster, pool.machine = None, Machine(cores=4, workers=3)
    assert pool.num_ready() == 3


@pytest.mark.slow
def test_a_cancellation_takes_effect_within_three_seconds_also_where_nobody_listens(
    store: Store,
    cache: Path,
    runner_process: Callable[..., subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow_down(cache, monkeypatch, 600)
    board = Board(store)
    run = board.ask("measure", REQUEST.to_json())
    process = runner_process()
    wait_for(lambda: [row for row in board.tasks(run.key) if row.state == "running" and row.name == "layers:fc"])
    asked = time.monotonic()
    board.cancel(run.key)
    wait_for(lambda: state_of(store) == "cancelled", 10)
    assert time.monotonic() - asked < 3
    # Again, and now the workers are stopped by the system: they cannot listen.
    board.ask("measure", REQUEST.to_json())
    wait_for(lambda: [row for row in board.tasks(run.key) if row.state == "running" and row.name.startswith("layers:")])
    for own in psutil.Process(process.pid).children(recursive=True):
        if "spawn_main" in " ".join(own.cmdline()):
            own.suspend()
    asked = time.monotonic()
    board.cancel(run.key)
    wait_for(lambda: state_of(store) == "cancelled", 30)
    assert time.monotonic() - asked < 3


@pytest.mark.slow
def test_a_runner_and_its_workers_end_with_the_parent_and_the_work_stays_open(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down(cache, monkeypatch, 600)
    board = Board(store)
    run = board.ask("measure", REQUEST.to_json())
    code = (
        "import subprocess, sys, os, time\n"
        "subprocess.Popen([sys.executable, '-m', 'fss_core.jobs.runner', '--parent', str(os.getpid())])\n"
        "time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: [row for row in board.tasks(run.key) if row.state == "running" and row.name == "layers:conv"])
    children = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    wait_for(lambda: not store.is_held(service.RUNNER_LEASE), 30)
    wait_for(lambda: not any(own.is_running() and own.status() != psutil.STATUS_ZOMBIE for own in children), 30)
    assert (board.get(run.key).state, board.is_live(run)) == ("running", False)


@pytest.mark.slow
def test_a_cluster_of_the_user_s_own(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch, runner_process: Callable[..., subprocess.Popen[bytes]]
) -> None:
    import distributed

    with (
        mock.patch.dict(os.environ),  # Dask leaves MKL_NUM_THREADS=1 in it, which trains other networks
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
        ) as cluster,
    ):
        monkeypatch.setenv("FSS_SCHEDULER", cluster.scheduler_address)
        Board(store).ask("measure", REQUEST.to_json())
        runner_process()
        assert wait_for(lambda: state_of(store) in ("done", "failed") and state_of(store)) == "done"
        assert_measured(store)


@pytest.mark.slow
def test_a_cluster_that_is_not_there_fails_the_run_with_the_remedy(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSS_SCHEDULER", "tcp://127.0.0.1:9")
    with pytest.raises(FssError, match=r"no workers at FSS_SCHEDULER=tcp://127.0.0.1:9 .*unset the variable"):
        Pool()
