"""The dashboard as a person uses it: a real server, a real Chromium, real measurements."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest
from browsing import CHROMIUM, Explore, Server, chromium, wait_for
from playwright.sync_api import Browser, BrowserContext

from fss_core.explore import find_picture, score_picture
from fss_core.jobs.board import Board, Run
from fss_core.jobs.kinds import read_request
from fss_core.jobs.requests import MeasureRequest
from fss_core.jobs.retraining_plans import RetrainRequest
from fss_core.results import forget_result
from fss_core.retraining import compare, verdict
from fss_core.retraining.lookup import find_retrained_seeds
from fss_core.specs import MeasurementSpec, ResponseSpec, ScoreSpec, TrainingSpec
from fss_core.store import Store
from fss_core.summaries import count_calls

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        CHROMIUM is None and os.environ.get("CI") != "true", reason="Chromium is not installed (Debian: chromium)"
    ),
]

VIEW = {"images": 60, "thresholds": 5, "control": 0}
"""Fewer images and thresholds than a new user is offered; the network, the data set and the epoch are the same."""
REQUEST = MeasureRequest(
    spec=MeasurementSpec(
        training=TrainingSpec(network="shufflenet_v2_x1_0", dataset="mnist5k"),
        epoch=3,
        num_images=60,
        response=ResponseSpec(num_thresholds=5),
    ),
    whole=True,
)
TITLE = "ShuffleNet V2 x1.0 on MNIST (5,000 digits), epoch 3"
SLOW = 400
"""Seconds that a measurement may take where a quiet machine takes 20; what must be quick has its own bound."""


class World:
    """A cache, and the server that works in it now.

    Args:
        directory: to put both in.
    """

    def __init__(self, directory: Path) -> None:
        self.cache = directory / "cache"
        self.log = directory / "server.log"
        self.server = self.start()

    def start(self) -> Server:
        self.server = Server(self.cache, self.log)
        return self.server


class Look(Protocol):
    """Opens the Explore view in a browser that was never there before."""

    def __call__(self, width: int = 1280, *, dark: bool = False) -> Explore: ...


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("world"))
    yield world
    world.server.stop()


@pytest.fixture(autouse=True)
def store(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("FSS_CACHE_DIR", str(world.cache))
    with Store() as store:
        yield store


@pytest.fixture
def look(world: World, browser: Browser, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Look]:
    views: list[Explore] = []
    contexts: list[BrowserContext] = []
    failed, written = request.session.testsfailed, world.log.stat().st_size

    def look(width: int = 1280, *, dark: bool = False) -> Explore:
        contexts.append(
            browser.new_context(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
        )
        views.append(Explore(contexts[-1].new_page(), world.server.url))
        return views[-1]

    yield look
    if request.session.testsfailed > failed:
        for index, view in enumerate(views):
            view.page.screenshot(path=tmp_path / f"view{index}.png", full_page=True)
    for context in contexts:
        context.close()
    assert [own for view in views for own in view.complaints] == []
    assert "Traceback" not in world.log.read_text(errors="replace")[written:]


@pytest.fixture
def measured(store: Store, look: Look) -> None:
    """See that REQUEST is measured; what a test before this one measured is not measured again."""
    view = look()
    view.open(VIEW)
    wait_for(lambda: view.offer, 60, "the side bar is drawn")
    if not view.offer.startswith("Measured"):
        if not Board(store).open_runs():  # the test before this one may have failed while it was measured
            view.press("Measure")
        wait_until_measured(view)


def wait_until_measured(view: Explore) -> None:
    wait_for(lambda: view.offer.startswith("Measured"), SLOW, "everything is measured")
    view.settle()


def wait_for_rows(view: Explore, more_than: int) -> int:
    """Wait until more rows are finished, but not all; say how many."""
    found = wait_for(
        lambda: now if (now := view.num_rows)[0] > more_than else None, SLOW, f"more than {more_than} rows are finished"
    )
    assert found is not None
    finished, rows = found
    assert finished < rows
    return finished


def wait_until_quiet(view: Explore, seconds: float) -> None:
    """Wait until server and browser have said nothing to each other for a while."""

    def is_quiet() -> bool:
        view.pause(0.1)
        return view.quiet_seconds >= seconds

    wait_for(is_quiet, 10 * seconds, f"{seconds:g} s without traffic")


def query(view: Explore) -> dict[str, str]:
    return query_of(view.address)


def query_of(address: str) -> dict[str, str]:
    return {key: values[0] for key, values in parse_qs(urlsplit(address).query).items()}


def open_run(store: Store) -> Run:
    [run] = wait_for(Board(store).open_runs, 30, "the run is on the board")
    return run


# A first visit --------------------------------------------------------------------------------------------


def test_a_new_user_measures_and_understands(world: World, store: Store, look: Look) -> None:
    view = look()
    view.open(VIEW)
    assert view.title == TITLE
    text = view.main.inner_text()
    for word in ("fragile", "robust", "antifragile", "Nothing is measured of this yet"):
        assert word in text
    assert re.search(r"About .*\b(s|min)\b", view.offer)
    assert Board(store).runs() == []
    assert world.server.listening() <= {"127.0.0.1", "::1"}

    view.press("Measure")
    stages: list[str] = []

    def rows() -> tuple[int, int]:
        if (stage := view.stage) and stage not in stages:
            stages.append(stage)
        return view.num_rows

    before, of = wait_for(lambda: now if (now := rows())[0] >= 2 else (), SLOW, "two rows are finished")
    assert before < of == 58
    wait_for(lambda: rows()[0] > before, SLOW, "another row is finished")
    places = [stages.index(stage) for stage in ("training", "choosing ε", "filtering layer by layer")]
    assert places == sorted(places)

    row = view.cells()[12:]  # the first row is shown unasked
    cell = next(own for own in row if own.has_score and own.column == "Low-pass, difference score")
    shown = [cell.layer, "Low-pass", "Difference"]
    view.click_cell(cell, until=lambda: [view.box(own).input_value() for own in ("Layer", "Filter", "Score")] == shown)

    def is_drawn() -> bool:
        # While rows are added, a chart and the one that takes its place can both be there for a moment.
        names = view.figure_names(".st-key-drilldown")
        starts = (
            f"Accuracy of {cell.layer} under the low-pass filter",
            f"Histogram of the weights of {cell.layer}",
            "",
        )
        are_there = len(names) == len(starts) and all(map(str.startswith, names, starts))
        return are_there and "images whose prediction changes" in names[-1]

    wait_for(is_drawn, 60, "curve, histogram and images of the cell")
    told = {"layer": cell.layer, "filter": "low_pass", "kind": "difference"}
    wait_for(lambda: told.items() <= query(view).items(), 30, "the address says which cell")

    assert world.server.listening() <= {"127.0.0.1", "::1"}
    wait_until_measured(view)
    wait_for(lambda: view.strip == "" and view.num_rows == (58, 58), 60, "all rows are drawn, and no strip")
    assert view.box("Layer").input_value() == cell.layer
    tiles = wait_for(lambda: view.tiles, 60, "the tiles are drawn")
    assert all("n = 60" in tiles[name] for name in ("Clean accuracy", "Accuracy under FGSM"))
    wait_until_quiet(view, 3)
    assert not any("torch" in Path(part.path).name for part in world.server.process.memory_maps())


# Links ----------------------------------------------------------------------------------------------------


def test_a_copied_link_shows_the_same_and_starts_nothing(measured: None, store: Store, look: Look) -> None:
    view = look()
    view.open(VIEW)
    view.choose("Layer", "stage2.1.branch2.3")
    view.page.get_by_role("radio", name="Which weights matter").click()
    view.box("Filter").nth(1).wait_for()
    view.slider("Tolerance η").press("ArrowRight")
    view.slider("Threshold").press("ArrowRight")
    wait_for(lambda: {"layer", "map", "tolerance", "k"} <= query(view).keys(), 30, "the address says it all")
    view.settle()

    def shown(view: Explore) -> dict[str, object]:
        return {
            "title": view.title,
            "layer": view.box("Layer").input_value(),
            "η": view.slider("Tolerance η").input_value(),
            "threshold": view.slider("Threshold").input_value(),
            "map": view.page.get_by_role("radio", checked=True).inner_text(),
            "charts": view.figure_names(""),
            "tiles": view.tiles,
        }

    asked = Board(store).runs()
    copy = look()
    copy.open(view.address)
    wait_for(lambda: shown(copy) == shown(view), 30, "the copy shows the same")
    assert shown(copy)["η"] == "0.055"
    assert shown(copy)["map"] == "Which weights matter"
    copy.open(VIEW | {"images": 61})
    assert "About" in copy.offer
    wait_until_quiet(copy, 1)
    assert Board(store).runs() == asked


def test_other_views_go_on_with_the_cell_that_was_clicked_last(measured: None, look: Look) -> None:
    view = look()
    view.open(VIEW)
    for cell in [own for own in view.cells() if own.has_score and own.column.startswith("Low-pass, clean")][1:3]:
        view.click_cell(cell, until=lambda layer=cell.layer: query(view).get("layer") == layer)
        view.settle()
    link = view.page.get_by_role("link", name="Epochs", exact=True)
    assert {"layer": cell.layer, "filter": "low_pass"}.items() <= query_of(str(link.get_attribute("href"))).items()
    link.click()
    wait_for(lambda: view.title.endswith("across epochs"), 30, "the other view is there")
    assert query(view)["layer"] == cell.layer
    view.page.go_back()
    wait_for(lambda: view.title.endswith("epoch 3"), 30, "the first view is back")
    wait_for(lambda: view.box("Layer").input_value() == cell.layer, 30, "it shows the same cell")


def test_controls_that_were_hidden_for_a_while_keep_what_they_said(measured: None, look: Look) -> None:
    view = look()
    view.open(VIEW | {"map": "weights", "map_filter": "low_pass"})
    view.box("Filter").nth(1).wait_for()
    view.page.get_by_role("radio", name="Scores by filter").click()
    cell = [own for own in view.cells() if own.has_score and own.column.startswith("Low-pass, clean")][3]
    view.click_cell(cell, until=lambda: query(view).get("layer") == cell.layer)
    view.settle()
    view.page.get_by_role("radio", name="Which weights matter").click()
    wait_for(lambda: view.box("Filter").count() == 2, 30, "the boxes are back")
    view.settle()
    assert [box.input_value() for box in (view.box("Filter").first, view.box("Score").first)] == [
        "Low-pass",
        "Adversarial",
    ]
    assert query(view)["map_filter"] == "low_pass"


BOXES = {
    "Network": "ResNet-50",
    "Data set": "MNIST",
    "Attack": "PGD",
    "Attack mode": "Adaptive: attack each",
    "Reference": "Fraction of weights kept",
    "Normalise": "Relative accuracy",
    "Integration": "Simpson",
    "Level": "99%",
    "Thresholds": "49",
}


def test_every_choice_travels_in_the_link(look: Look) -> None:
    view = look()
    view.open()
    for box, option in BOXES.items():
        view.choose(box, option)
    copy = look()
    copy.open(view.address)
    assert {box: copy.box(box).input_value() for box in BOXES} == BOXES
    assert copy.main.get_by_role("alert").count() == 0


def test_a_link_names_things_as_the_command_line_does(look: Look) -> None:
    view = look()
    view.open(
        {
            **{"network": "resnet50", "dataset": "mnist", "attack": "pgd", "mode": "adaptive"},
            **{"reference": "retained", "normalise": "p0", "integration": "simpson", "level": 0.99, "thresholds": 49},
        }
    )
    assert {box: view.box(box).input_value() for box in BOXES} == BOXES
    assert view.main.get_by_role("alert").count() == 0


def test_a_link_to_what_is_not_here_says_so(look: Look) -> None:
    view = look()
    view.open({"dataset": "<b>nowhere</b> www.example.com"})
    alert = view.main.get_by_role("alert")
    assert "no data set '<b>nowhere</b> www" in alert.inner_text()
    assert alert.get_by_role("link").count() == 0


# Several viewers, and runs that end early -----------------------------------------------------------------


def test_two_viewers_see_one_run_move(store: Store, look: Look) -> None:
    asked = len(Board(store).runs())
    views = [look(), look()]
    for view in views:
        view.open(VIEW | {"images": 100, "epsilon": "8/255"})
    for view in views:
        view.press("Measure")
    run = open_run(store)
    assert len(Board(store).runs()) == asked + 1
    one, two = views
    seen = wait_for_rows(two, 0)
    wait_for_rows(one, 0)
    two.page.reload()
    again = wait_for_rows(two, seen)
    assert two.strip
    assert again > seen
    for view in views:
        wait_until_measured(view)
    assert len(Board(store).runs()) == asked + 1
    assert Board(store).get(run.key).state == "done"
    log = [line.text for line in Board(store).log_lines(run.key)]
    assert log.count("done") == 1
    wait_for(lambda: one.figure_names("") == two.figure_names(""), 30, "both show the same")


@pytest.mark.parametrize("inside", ["training", "layer"])
def test_cancel_takes_effect_within_three_seconds(inside: str, store: Store, look: Look) -> None:
    view = look()
    few = {"images": 20, "thresholds": 25, "epsilon": "8/255", "control": 0, "whole": 0}
    view.open(few | {"epoch": 1 if inside == "training" else 0})
    view.choose("Network", "ResNet-50")
    view.press("Measure")
    finished = 0
    if inside == "training":
        wait_for(lambda: "training: epoch 1" in view.strip, SLOW, "training")
    else:
        finished = wait_for_rows(view, 0)
        wait_for(lambda: view.stage == "filtering layer by layer", 30, "the strip says what is done")
    run = open_run(store)
    started = time.monotonic()
    view.press("Cancel")
    wait_for(lambda: Board(store).get(run.key).state == "cancelled", 30, "the run is cancelled", pause=0.02)
    seconds = time.monotonic() - started
    print(f"cancelled inside a {inside} after {seconds:.2f} s")
    assert seconds <= 3
    view.page.get_by_text("Cancelled. What was finished is kept").wait_for()
    wait_for(lambda: "About" in view.offer and view.strip == "", 30, "it can be asked for again")
    wait_for(lambda: view.num_rows[0] >= finished, 30, "what was finished is shown")
    assert Board(store).open_runs() == []


def test_a_killed_worker_changes_nothing(measured: None, world: World, store: Store, look: Look) -> None:
    undisturbed = find_picture(store, REQUEST)
    assert undisturbed is not None
    assert undisturbed.is_complete
    forget_result(store, REQUEST)
    view = look()
    view.open(VIEW)
    view.press("Measure")
    wait_for_rows(view, 1)
    victim, *others = world.server.workers()
    assert others, "one worker a core, and a test of what another does needs two"
    victim.kill()
    wait_until_measured(view)
    assert Board(store).get(REQUEST.key).state == "done"
    assert victim not in world.server.workers()
    disturbed = find_picture(store, REQUEST)
    assert disturbed is not None
    for one, two in ((undisturbed.layers, disturbed.layers), (undisturbed.whole, disturbed.whole)):
        assert one is not None
        assert two is not None
        assert one.names == two.names
        for before, after in zip(one.responses.layers, two.responses.layers, strict=True):
            assert before.facts.name == after.facts.name
            np.testing.assert_array_equal(before.predictions.clean, after.predictions.clean)
            np.testing.assert_array_equal(before.predictions.adversarial, after.predictions.adversarial)


def test_a_run_outlives_the_server(world: World, store: Store, look: Look) -> None:
    view = look()
    asked_for = VIEW | {"epsilon": "6/255"}
    view.open(asked_for)
    view.press("Measure")
    finished = wait_for_rows(view, 1)
    run = open_run(store)
    world.server.kill()
    wait_for(lambda: not Board(store).is_live(run), 30, "nobody works on it")
    assert Board(store).get(run.key).state == "running"
    world.start()
    again = look()
    again.open(asked_for)
    wait_for(lambda: again.strip, 60, "the run goes on, and says so")
    wait_for(lambda: again.num_rows[0] >= finished, 60, "what was finished is shown")
    wait_until_measured(again)
    assert Board(store).get(run.key).state == "done"
    assert Board(store).get(run.key).key == run.key


# Looks ----------------------------------------------------------------------------------------------------


def test_another_tolerance_labels_anew(measured: None, store: Store, look: Look) -> None:
    picture = find_picture(store, REQUEST)
    assert picture is not None
    view = look()
    view.open(VIEW)
    labels = {}
    for key, tolerance in (("Home", 0.0), ("End", 0.3)):
        view.slider("Tolerance η").press(key)
        counts = count_calls(score_picture(picture, ScoreSpec(tolerance=tolerance)).layers)["clean"]
        wanted = " · ".join(f"{number} {call[0].upper()}" for call, number in counts.decided.items())
        wait_for(
            lambda wanted=wanted, tolerance=tolerance: (  # type: ignore[misc]
                view.tiles.get("Layers, clean", "").startswith(wanted) and f"±{tolerance:g};" in view.main.inner_text()
            ),
            30,
            f"{wanted} at η = {tolerance}",
        )
        view.settle()
        labels[key] = view.figure_names(".st-key-heatmap")
    assert labels["Home"] != labels["End"]


@pytest.mark.parametrize("width", [1280, 800])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_view_fits_and_is_named(measured: None, look: Look, width: int, dark: bool) -> None:
    view = look(width, dark=dark)

    def check() -> None:
        for target in ("document.documentElement", "document.querySelector('[data-testid=stMain]')"):
            wide, there = view.page.evaluate(f"(() => [{target}.scrollWidth, {target}.clientWidth])()")
            assert wide <= there, f"{target} scrolls sideways"
        assert view.page.get_by_test_id("stException").count() == 0
        assert all(len(name) > 40 for name in view.figure_names(""))

    view.open(VIEW)
    wait_for(lambda: len(view.figure_names("")) == 4, 30, "the charts are drawn")
    assert any(name.startswith("Heatmap of filtering scores, 58 layers") for name in view.figure_names(""))
    ink = view.plot.locator("text", has_text="conv1.0").first.evaluate("own => getComputedStyle(own).fill")
    assert ink == ("rgb(230, 233, 238)" if dark else "rgb(31, 35, 40)")
    check()
    view.page.get_by_role("radio", name="Which weights matter").click()
    wait_for(lambda: "thresholds" in view.figure_names(".st-key-explore_columns")[0], 30, "the other map is drawn")
    check()
    view.open("/runs")
    check()
    view.open({"images": 62})
    check()


def test_the_keyboard_reaches_and_changes_the_drill_down(measured: None, look: Look) -> None:
    view = look()
    view.open(VIEW)
    view.slider("Tolerance η").focus()

    def reached() -> bool:
        view.page.keyboard.press("Tab")
        return bool(view.page.evaluate("document.activeElement.getAttribute('aria-label') === 'Layer'"))

    wait_for(reached, 30, "Tab reaches the layers", pause=0)
    before = view.box("Layer").input_value()
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        view.page.keyboard.press(key)
    wait_for(lambda: query(view).get("layer", before) != before, 30, "another layer is chosen")
    layer = query(view)["layer"]
    wait_for(
        lambda: view.figure_names(".st-key-drilldown")[0].startswith(f"Accuracy of {layer} "), 30, "its curve is drawn"
    )


# Retrain --------------------------------------------------------------------------------------------------


def test_a_new_user_retrains_and_reads_the_verdict(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "cache"))  # an empty one
    own = World(tmp_path)
    try:
        view = Explore(browser.new_page(viewport={"width": 1280, "height": 900}), own.server.url)
        view.open(f"/retrain?{urlencode(VIEW | {'budget': 1, 'report': 150})}")
        assert view.title == TITLE.replace("epoch", "retrained from epoch")
        assert "no rule can choose" in view.main.inner_text()
        assert re.search(r"About .*\b(s|min)\b", view.offer)
        view.press("Retrain")

        seen: dict[str, int] = {}

        def is_retrained() -> bool:
            """Note which figures were there before the end, and how they grew."""
            for name in view.figure_names(""):
                seen.setdefault(name, len(seen))
            return view.offer.startswith("Retrained")

        wait_for(is_retrained, 3 * SLOW, "everything is retrained")
        view.settle()
        last = view.figure_names("")
        assert len(seen) > len(last)  # what each rule trains came first, and curves grew
        assert [name.split(" of ")[0].split(" over ")[0] for name in last] == [
            "Chart",
            "Clean, FGSM, PGD and transfer accuracy",
        ]
        tiles = view.tiles
        assert tiles.keys() == {"Against no retraining", "Against all"}
        assert all(re.match(r"(Holds|Does not hold|Undecided)\n", text) for text in tiles.values())
        with Store() as store:
            [run] = Board(store).runs()
            request = read_request(run)
            assert isinstance(request, RetrainRequest)
            [found] = find_retrained_seeds(store, request.spec, request.seeds)
        verdict_now = verdict(compare([found]))
        for line in verdict_now.lines:
            assert tiles[f"Against {line.against}"].startswith(line.outcome.capitalize())
        rows = view.main.locator("table tbody tr")
        assert rows.count() == len(request.spec.rules) + 1  # and no retraining
        assert view.complaints == []
        assert "Traceback" not in own.log.read_text(errors="replace")
    finally:
        own.server.stop()


# Runs -----------------------------------------------------------------------------------------------------


def test_runs_are_listed_deleted_and_exchanged(measured: None, store: Store, look: Look, tmp_path: Path) -> None:
    view = look()
    view.open(VIEW)
    shown = wait_for(lambda: view.tiles, 60, "the tiles are drawn")
    with view.page.expect_download() as download:
        view.press("Everything (ZIP of Parquet and manifest)")
    archive = tmp_path / download.value.suggested_filename
    download.value.save_as(archive)

    view.page.get_by_role("link", name="Runs").click()
    run = view.page.locator(f".st-key-run_{REQUEST.key[:12]}")
    run.get_by_text("60 images, 5 thresholds").wait_for()
    run.get_by_text("Log", exact=True).click()
    run.get_by_text("asked for", exact=False).nth(1).wait_for()
    wait_for(lambda: re.search("starting the workers|done", run.inner_text()), 30, "the log is shown")

    run.get_by_role("button", name="Delete result").click()
    run.get_by_role("button", name="Yes, delete it").click()
    run.wait_for(state="detached")
    assert find_picture(store, REQUEST) is None

    assert view.page.get_by_role("button", name="Clear", exact=True).is_disabled()
    view.choose("Clear", "Adversarial images")
    view.page.get_by_text("Yes, delete").click()
    wait_for(
        lambda: view.page.get_by_role("button", name="Clear", exact=True).is_enabled(), 30, "clearing is confirmed"
    )
    view.press("Clear")
    wait_for(lambda: store.count("adversarial/") == 0, 30, "adversarial images are cleared")

    view.page.get_by_label("file upload").set_input_files(archive)
    view.page.get_by_text("Imported: ").wait_for()
    view.open(VIEW)
    view.page.get_by_text("Imported: measured elsewhere").wait_for()
    wait_for(lambda: view.tiles == shown, 60, "the imported tiles are those of before")
    wait_for(lambda: "About" in view.offer, 60, "it can be measured here")
    view.page.get_by_text("imported results carry no images").wait_for()
    assert Board(store).open_runs() == []
