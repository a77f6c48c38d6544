"""The page Runs: every state of a run in words, room on disk, and results from elsewhere."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pictures
import pytest
from pictures import links, open_page, request, text_of
from streamlit.testing.v1 import AppTest

from fss_core import results
from fss_core.explore import find_picture, portable
from fss_core.exports import export_zip
from fss_core.imports import import_zip, list_imported
from fss_core.jobs.board import Board, Task
from fss_core.jobs.kinds import words
from fss_core.jobs.requests import MeasureRequest
from fss_core.scores import score_responses
from fss_core.specs import ResponseSpec, TrainingSpec
from fss_core.store import Store
from pages.common import runs as runs_page

CLOCK = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


@pytest.fixture(autouse=True)
def _no_process(runners: list[Path]) -> None:
    """No test of this module starts one."""


@pytest.fixture
def board(known_store: Store) -> Board:
    return Board(known_store)


@pytest.fixture
def working() -> Iterator[ExitStack]:
    """Somebody who is at work on runs."""
    with ExitStack() as stack:
        yield stack


def open_runs() -> AppTest:
    page = open_page("pages/runs.py")
    assert not page.exception, page.exception
    return page


def press(page: AppTest, key: str) -> AppTest:
    page.button(key=key).click().run()
    assert not page.exception, page.exception
    return page


def keys(page: AppTest) -> list[str]:
    return [str(button.key) for button in page.button]


def put_tasks(board: Board, key: str) -> None:
    """Two tasks done of four that were expected to take as long."""
    names = ("layers:hurts", "layers:idle", "layers:helps", "layers:dead")
    board.put_tasks(key, [Task(name=name, units=1, rate="", seconds=100) for name in names])
    for name in names[:2]:
        board.start_task(key, name)
        board.finish_task(key, name)


# Runs -----------------------------------------------------------------------------------------------------


def test_without_runs_the_page_says_where_they_come_from(empty_cache: Path) -> None:
    page = open_runs()
    assert "Press **Measure** on the page Explore, or run `fss score`" in page.info[0].value


def test_every_state_has_its_words(board: Board, working: ExitStack, known_store: Store) -> None:
    states = ("queued", "running", "waiting", "cancelling", "cancelled", "failed", "done")
    own = {state: board.ask("measure", request(epoch=10 + index).to_json()) for index, state in enumerate(states)}
    for state in ("running", "waiting", "cancelling", "cancelled", "failed", "done"):
        if state in ("running", "cancelling"):
            working.enter_context(known_store.claim(own[state].lease, wait=False))
        board.begin(own[state].key)
    put_tasks(board, own["running"].key)
    board.start_task(own["running"].key, "layers:helps")
    board.move_task(own["running"].key, "layers:helps", 0.5, "helps <b>us</b>")
    board.cancel(own["cancelling"].key)
    board.end(own["cancelled"].key, "cancelled")
    board.end(own["failed"].key, "failed", "no *room* for <b>it</b>")
    board.end(own["done"].key, "done")
    page = open_runs()
    text = text_of(page)
    titles = {"waiting": "Running", "cancelling": "Stopping"}
    for index, state in enumerate(states):
        title = titles.get(state, state.capitalize())
        assert f"**{title}** · SqueezeNet-v1.1 on bars, epoch {10 + index}, initialisation 0; FGSM frozen, " in text
    bars = [element.proto for element in page.get("progress")]
    assert len(bars) == 4
    said = "\n".join(bar.text for bar in bars)
    assert said.count("waiting for a worker") == 2
    assert "stopping" in said
    (running,) = [bar for bar in bars if "filtering layer by layer" in bar.text]
    assert r"filtering layer by layer: helps \<b\>us\</b\>" in running.text
    assert "2 of 4 tasks done" in text
    assert r"no \*room\* for \<b\>it\</b\>" in page.error[0].value
    times = [caption.value for caption in page.caption if caption.value.startswith("asked for")]
    assert len(times) == len(states)
    assert all(
        re.match(rf"asked for {CLOCK}( · started {CLOCK})?( · took .+)? · \d+ of \d+ tasks", own) for own in times
    )
    assert sum("took" in own for own in times) == 3
    assert sum("started" in own for own in times) == 6
    offered = {
        "queued": {"cancel"},
        "running": {"cancel"},
        "waiting": {"cancel"},
        "cancelling": {"cancel"},
        "cancelled": {"retry", "delete"},
        "failed": {"retry", "delete"},
        "done": {"delete"},
    }
    for state, run in own.items():
        assert {key.partition("_")[0] for key in keys(page) if key.endswith(run.key)} == offered[state], state
    assert page.button(key=f"cancel_{own['cancelling'].key}").disabled
    assert not page.button(key=f"cancel_{own['running'].key}").disabled
    assert [label for label, _ in links(page)] == ["Open"] * 3


def test_only_the_latest_runs_are_listed_at_first(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_page, "_MOST_ENDED", 2)
    ended = [board.ask("measure", request(epoch=10 + number).to_json()) for number in range(4)]
    for run in ended:
        board.end(run.key, "failed", "no memory")
    waiting = board.ask("measure", request(epoch=9).to_json())
    page = open_runs()
    listed = [run.key for run in (waiting, *ended) if any(key.endswith(run.key) for key in keys(page))]
    assert listed == [run.key for run in (waiting, *ended[2:])]
    page.checkbox(key="every_run").check().run()
    assert all(any(key.endswith(run.key) for key in keys(page)) for run in ended)


def test_the_progress_is_that_of_the_work(board: Board, working: ExitStack, known_store: Store) -> None:
    run = board.ask("measure", request(epoch=10).to_json())
    working.enter_context(known_store.claim(run.lease, wait=False))
    board.begin(run.key)
    board.put_tasks(run.key, [Task(name=f"layers:{n}", units=1, rate="", seconds=100) for n in range(4)])
    with known_store.index.connect() as connection:
        connection.execute(
            "UPDATE tasks SET state = 'done', share = 1, started = 1000, finished = 1100 WHERE name < 'layers:2'"
        )
    (bar,) = open_runs().get("progress")
    assert bar.proto.value == 50
    assert bar.proto.text.startswith("50% · starting · about ")


def test_a_run_is_cancelled_and_tried_again(board: Board, runners: list[Path]) -> None:
    run = board.ask("measure", request(epoch=10).to_json())
    page = press(open_runs(), f"cancel_{run.key}")
    assert board.get(run.key).state == "cancelled"
    assert not page.get("progress")
    press(page, f"retry_{run.key}")
    assert [(own.key, own.state) for own in board.runs()] == [(run.key, "queued")]
    assert runners
    assert page.get("progress")


def test_a_run_that_somebody_works_on_is_asked_to_stop(board: Board, working: ExitStack, known_store: Store) -> None:
    run = board.ask("measure", request(epoch=10).to_json())
    working.enter_context(known_store.claim(run.lease, wait=False))
    board.begin(run.key)
    page = press(open_runs(), f"cancel_{run.key}")
    assert board.get(run.key).state == "cancelling"
    assert page.button(key=f"cancel_{run.key}").disabled


def test_opening_the_page_starts_no_work(board: Board, runners: list[Path]) -> None:
    board.end(board.ask("measure", request().to_json()).key, "cancelled")
    open_runs()
    assert runners == []
    assert [own.state for own in board.runs()] == ["cancelled"]


def test_what_was_asked_for_before_goes_on(board: Board, runners: list[Path], known_cache: Path) -> None:
    board.ask("measure", request(epoch=10).to_json())
    open_runs()
    assert set(runners) == {known_cache / "results"}


def test_a_result_is_deleted_with_its_run(board: Board, known_store: Store) -> None:
    run = board.ask("measure", request().to_json())
    board.end(run.key, "done")
    page = press(open_runs(), f"delete_{run.key}")
    assert [own.value for own in page.warning] == ["What was measured is forgotten, and has to be measured again."]
    page = press(page, "delete_no")
    assert not page.warning
    assert known_store.keys("responses/")
    page = press(press(page, f"delete_{run.key}"), "delete_yes")
    assert board.runs() == []
    assert known_store.keys("responses/") == []
    assert known_store.list_records() == []
    assert "Nothing was asked for yet" in page.info[0].value


def test_a_result_is_deleted_although_its_data_set_is_gone(board: Board, known_store: Store, known_cache: Path) -> None:
    run = board.ask("measure", request().to_json())
    board.end(run.key, "done")
    pictures.lose_folder(known_cache)
    page = press(press(open_runs(), f"delete_{run.key}"), "delete_yes")
    assert not page.error
    assert known_store.keys("responses/") == []
    assert board.runs() == []


def test_what_a_deletion_takes_with_it_is_named_and_struck_off(board: Board, known_store: Store) -> None:
    run, fewer, other = (
        board.ask("measure", own.to_json()) for own in (request(), request(num_images=50), request(epoch=7))
    )
    for own in (run, fewer, other):
        board.end(own.key, "done")
    page = press(open_runs(), f"delete_{run.key}")
    [said] = [own.value for own in page.warning]
    assert words(fewer).partition(";")[0] in said
    assert "50 images" in said
    assert "epoch 7" not in said
    press(page, "delete_yes")
    assert [own.key for own in board.runs()] == [other.key]


def test_a_first_look_that_others_share_takes_none_of_them_along(board: Board, known_store: Store) -> None:
    spec = request().spec
    run, finer = (
        board.ask(
            "measure",
            MeasureRequest(
                spec=replace(spec, num_images=300, response=ResponseSpec(num_thresholds=number)), preview=True
            ).to_json(),
        )
        for number in (25, 49)
    )
    for own in (run, finer):
        board.end(own.key, "done")
    page = press(open_runs(), f"delete_{run.key}")
    assert [own.value for own in page.warning] == ["What was measured is forgotten, and has to be measured again."]
    press(page, "delete_yes")
    assert [own.key for own in board.runs()] == [finer.key]


DAMAGES = (
    "state = 'resting'",
    "asked = 'noon'",
    "started = 'noon'",
    "finished = 'noon'",
    "reason = x'ff00'",
    "kind = CAST(x'ff41' AS TEXT)",
    "state = CAST(x'ff41' AS TEXT)",
)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("is_open", [False, True])
def test_a_damaged_run_can_be_struck_off(
    board: Board, known_store: Store, runners: list[Path], damage: str, is_open: bool
) -> None:
    run = board.ask("measure", request(epoch=10).to_json())
    if not is_open:
        board.end(run.key, "failed", "no memory")
    with known_store.index.connect() as connection:
        connection.execute(f"UPDATE runs SET {damage}")
        connection.execute("UPDATE log SET time = 'noon'")
    page = open_runs()
    assert "**Failed**" in text_of(page)
    assert board.open_runs() == []
    assert f"retry_{run.key}" not in keys(page)
    press(page, f"strike_{run.key}")
    assert board.runs() == []


@pytest.mark.parametrize("damage", ["asked = 'noon'", "state = 'resting'"])
def test_a_damaged_run_is_mended_by_asking_again(board: Board, known_store: Store, damage: str) -> None:
    run = board.ask("measure", request(epoch=10).to_json())
    with known_store.index.connect() as connection:
        connection.execute(f"UPDATE runs SET {damage}")
    assert board.get(run.key).is_damaged
    again = board.ask("measure", request(epoch=10).to_json())
    assert (again.key, again.state, again.is_damaged) == (run.key, "queued", False)


def test_where_results_lie_cannot_be_found_out_a_deletion_can_still_be_let_be(
    board: Board, known_store: Store, known_cache: Path
) -> None:
    run = board.ask("measure", request().to_json())
    board.end(run.key, "done")
    for path in (known_cache / "checkpoints").rglob("*.json"):
        path.write_text("{")
    page = press(open_runs(), f"delete_{run.key}")
    assert page.header
    press(page, "delete_no")
    assert [own.key for own in board.runs()] == [run.key]


def test_done_leads_to_its_picture(board: Board) -> None:
    board.end(board.ask("measure", request().to_json()).key, "done")
    ((_, query),) = links(open_runs())
    page = open_page(**query)
    assert not page.exception
    assert "Measured here." in text_of(page)
    assert page.query_params == pictures.view(layer="hurts", k=2)


@pytest.mark.parametrize(
    "stored",
    ["not JSON", "[]", json.dumps({"spec": {"training": {"network": "<b>x</b>"}}}), json.dumps({"later": True})],
)
@pytest.mark.parametrize("state", ["done", "queued"])
def test_a_request_of_another_version_can_be_struck_off(
    board: Board, known_store: Store, stored: str, state: str
) -> None:
    run = board.ask("measure", request().to_json())
    with known_store.index.connect() as connection:
        connection.execute("UPDATE runs SET request = ?, state = ? WHERE key = ?", (stored, state, run.key))
    page = open_runs()
    assert "a request that this version cannot read" in text_of(page)
    press(page, f"{'strike' if state == 'done' else 'cancel'}_{run.key}")
    assert [own.state for own in board.runs()] == ([] if state == "done" else ["cancelled"])
    assert known_store.count("responses/") > 0


def test_names_are_shown_as_they_are(board: Board) -> None:
    own = request(training=TrainingSpec(network="<b>*n*</b>", dataset="[d](http://x)"))
    run = board.ask("measure", own.to_json())
    board.log(run.key, "<b>*log*</b>")
    board.end(run.key, "failed", "run `fss *x*` <i>not</i> `why")
    page = open_runs()
    for kind in ("markdown", "caption", "error"):
        for element in page.get(kind):
            assert not re.search(r"(?<!\\)<[bi]>|(?<!\\)\*n|(?<!\\)\[d|(?<!\\)`why", element.value), element.value
    assert any("run `fss *x*` " in element.value for element in page.error)  # a command looks like one
    assert r"\<b\>\*n\*\</b\> on \[d\]" in text_of(page)
    assert any(element.value.endswith("  <b>*log*</b>") for element in page.text)
    assert any(element.value.endswith("asked for") for element in page.text)


def test_a_broken_index_is_named(known_store: Store, known_cache: Path) -> None:
    known_store.close()
    (known_cache / "results" / "index.sqlite").write_bytes(b"rubbish" * 1000)
    page = open_runs()
    assert page.error
    assert "index.sqlite" in page.error[0].value
    assert "delete it, the results beside it stay" in page.error[0].value
    assert len({own.value for own in page.error}) == len(page.error), "the same is said twice"


# Disk -----------------------------------------------------------------------------------------------------


def test_room_on_disk_is_listed(known_store: Store) -> None:
    (table,) = open_runs().dataframe
    found = {row.what: (row.MB, row.pieces) for row in table.value.itertuples()}
    expected = {own.title: (round(own.num_bytes / 1e6, 1), own.num_pieces) for own in results.disk_use(known_store)}
    assert found == expected
    assert found["Adversarial images"][1] == 2


def test_clearing_needs_a_yes(known_store: Store) -> None:
    page = open_runs()
    assert page.button(key="clear").disabled
    page.selectbox(key="clear_what").set_value("adversarial").run()
    assert "Yes, delete 2 pieces" in page.checkbox(key="clear_sure").label
    assert "images cannot be shown until then" in page.checkbox(key="clear_sure").label
    page.checkbox(key="clear_sure").check().run()
    press(page, "clear")
    assert known_store.count("adversarial/") == 0
    assert known_store.count("responses/") > 0
    assert not page.checkbox(key="clear_sure").value
    assert page.button(key="clear").disabled


def test_a_yes_is_for_one_kind_only(known_store: Store) -> None:
    page = open_runs()
    page.selectbox(key="clear_what").set_value("adversarial").run()
    page.checkbox(key="clear_sure").check().run()
    page.selectbox(key="clear_what").set_value("checkpoints").run()
    assert not page.checkbox(key="clear_sure").value
    assert page.button(key="clear").disabled


def test_nothing_is_cleared_while_something_is_measured(board: Board, known_store: Store) -> None:
    page = open_runs()
    page.checkbox(key="clear_sure").check().run()
    board.ask("measure", request(epoch=10).to_json())
    press(page, "clear")
    assert "cancel it first" in page.error[0].value
    assert known_store.count("responses/") > 0


# Results from elsewhere -----------------------------------------------------------------------------------


def export_here(store: Store) -> bytes:
    picture = find_picture(store, request())
    assert picture is not None
    target, measured = io.BytesIO(), portable(picture)
    export_zip(measured, score_responses(measured.responses), target)
    return target.getvalue()


def upload(page: AppTest, content: bytes) -> AppTest:
    page.file_uploader(key="upload").upload("export.zip", content, "application/zip").run()
    assert not page.exception, page.exception
    return page


def test_a_zip_is_imported_listed_and_deleted(known_store: Store, known_cache: Path) -> None:
    page = open_runs()
    assert "Nothing is imported." in text_of(page)
    upload(page, export_here(known_store))
    (entry,) = list_imported()
    assert r"Imported\:" in page.success[0].value or page.success[0].value.startswith("Imported: SqueezeNet-v1.1 on")
    assert any(label.startswith("SqueezeNet-v1.1 on bars (image folder), epoch 2") for label, _ in links(page))
    page.run()
    assert list_imported() == [entry]
    assert not page.error
    press(page, f"unimport_{entry.path.stem}")
    assert list_imported() == []
    # The file still lies in the uploader: it is not imported again behind the user's back.
    page.run()
    assert list_imported() == []


@pytest.mark.parametrize("content", [b"", b"no ZIP", b"PK\x05\x06" + bytes(18), None])
def test_a_broken_zip_is_refused_in_one_line(known_store: Store, content: bytes | None) -> None:
    page = upload(open_runs(), export_here(known_store)[:-200] if content is None else content)
    (error,) = page.error
    assert "\n" not in error.value
    assert "is not a sound export" in error.value
    assert list_imported() == []


def test_a_broken_import_is_listed_with_its_reason_and_deleted(known_cache: Path) -> None:
    (known_cache / "imported").mkdir()
    path = known_cache / "imported" / "<b>x<b>.zip"
    path.write_bytes(b"PK")
    page = open_runs()
    (error,) = page.error
    assert "is not a sound export" in error.value
    assert r"\<b\>x" in error.value
    press(page, "unimport_<b>x<b>")
    assert not path.exists()


def test_titles_of_strangers_are_shown_as_they_are(known_store: Store) -> None:
    picture = find_picture(known_store, request())
    assert picture is not None
    measured = portable(picture)
    strange = replace(measured, card=replace(measured.card, title="<i>t</i> *x* [a](b)"))
    target = io.BytesIO()
    export_zip(strange, score_responses(strange.responses), target)
    import_zip(target.getvalue())
    (known_store.directory.parent / "datasets.json").unlink()
    page = open_runs()
    ((label, _),) = links(page)
    assert r"\<i\>t\</i\> \*x\* \[a\](b)" in label
