"""Learn as a teacher and a student use it: every step of every story, its control, arrow keys, links, a phone."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import lectures
import psutil
import pytest
from browsing import CHROMIUM, Explore, Server, chromium, wait_for
from playwright.sync_api import Browser

from fss_core.numerals import signed
from fss_core.stories import Step, Story, list_stories

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        CHROMIUM is None and os.environ.get("CI") != "true", reason="Chromium is not installed (Debian: chromium)"
    ),
]

SLOW = 400
"""Seconds that training may take where a quiet machine takes 30; an answer has a minute where a second is usual."""

STORIES = {own.name: own for own in list_stories()[0]}

_PLOT = """plot => plot._fullLayout && plot._fullData && ({  // none: its place is there, but nothing in it yet
    data: plot._fullData.map(own => ({
        name: own.name, x: Array.from(own.x || []), y: Array.from(own.y || []),
        size: own.marker && own.marker.size, high: own.error_x && Array.from(own.error_x.array || []),
    })),
    shapes: (plot._fullLayout.shapes || []).map(own => ({x0: own.x0, x1: own.x1})),
    notes: (plot._fullLayout.annotations || []).map(own => own.text),
    images: (plot._fullLayout.images || []).map(own => own.source),
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One whose cache has a small published study, and no network."""
    root = tmp_path_factory.mktemp("learn")
    (root / "cache").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        lectures.make_published(root / "cache", root / "work", patch)
    server = Server(root / "cache", root / "server.log")
    yield server
    server.stop()


class Lecture(Explore):
    """The Learn view in one tab."""

    def go(self, story: str, step: int, **more: object) -> None:
        """Open a step by its address."""
        self.open(f"/learn?{urlencode({'story': story, 'step': step} | more)}")

    @property
    def where(self) -> tuple[str, str]:
        """The story and the step that the address names."""
        query = {name: text for name, [text] in parse_qs(urlsplit(self.address).query).items()}
        return query.get("story", "adversarial"), query.get("step", "1")

    @property
    def names(self) -> str:
        """What is said of all charts."""
        return " ".join(self.figure_names("[class*=st-key-learn_]"))

    def wait(self) -> None:
        """Wait until the figure is there, and its words."""
        drawn = self.page.locator("[class*=st-key-learn_] .js-plotly-plot")
        wait_for(lambda: drawn.count() > 0 and self.names != "", 120, "the figure is drawn")
        self.page.get_by_role("button", name="Show the answer").wait_for()
        self.settle()

    def shown(self, key: str) -> dict[str, Any]:
        """Read a chart that has come to rest: it is drawn a moment after its words, later on a slow machine."""
        plot = self.plot_of(f"learn_{key}")

        def at_rest() -> dict[str, Any] | None:
            before = plot.evaluate(_PLOT)
            self.pause(0.2)
            return before if str(before) == str(plot.evaluate(_PLOT)) else None  # as text: no number is not itself

        return wait_for(at_rest, 60, f"{key} is drawn")

    def trace(self, key: str, name: str) -> dict[str, Any]:
        """Read a trace of a chart."""
        return next(own for own in self.shown(key)["data"] if own["name"] == name)

    @property
    def words(self) -> str:
        """The text of the step."""
        return self.page.locator(".st-key-learn_words").inner_text()

    def press_slider(self, key: str) -> None:
        """Move the step's slider, and wait until what is said of the figure has changed."""
        before = self.names
        self.page.locator(".st-key-learn_control").get_by_role("slider").press(key)
        wait_for(lambda: self.names not in ("", before), 60, f"{key} changes the figure")
        self.settle()

    def choose_in_box(self, option: str) -> None:
        """Choose in the step's box, of whose many options only some are there before one types."""
        self.settle()
        box = self.page.locator(".st-key-learn_control").get_by_role("combobox")
        box.click()
        box.fill(option)
        self.page.get_by_role("option", name=option, exact=True).click()

    def pick(self, option: str) -> None:
        """Choose in the step's box, and wait until what is said of the figure has changed."""
        before = self.names
        self.choose_in_box(option)
        wait_for(lambda: self.names not in ("", before), 60, f"{option} changes the figure")
        self.settle()


@pytest.fixture
def lecture(server: Server, browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Lecture]]:
    contexts, views = [], []

    def make(width: int = 1280, height: int = 900, *, dark: bool = False) -> Lecture:
        scheme: Any = "dark" if dark else "light"
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme))
        views.append(Lecture(contexts[-1].new_page(), server.url))
        return views[-1]

    yield make
    for index, view in enumerate(views):
        view.page.screenshot(path=tmp_path / f"last{index}.png", full_page=True)
    for context in contexts:
        context.close()
    assert [own for view in views for own in view.complaints] == []


def live_workers(server: Server) -> list[psutil.Process]:
    return [own for own in server.process.children() if "fss_core.live.worker" in " ".join(own.cmdline())]


# A network that is not there ------------------------------------------------------------------------------


def test_a_step_makes_the_network_that_it_needs(server: Server, lecture: Callable[..., Lecture]) -> None:
    view = lecture()
    view.go("adversarial", 1)
    button = view.page.get_by_role("button", name="Train the network of this story")
    button.wait_for()
    assert re.search(r"About .*\b(s|min)\b", view.offer)
    assert server.runners() == live_workers(server) == []  # an address starts nothing
    button.click()
    wait_for(lambda: view.stage, 120, "progress is shown")
    drawn = view.page.locator(".st-key-learn_attack .js-plotly-plot")
    wait_for(lambda: drawn.count() == 1, SLOW, "the step is shown as soon as the network is there")
    view.wait()
    assert len(live_workers(server)) == 1
    assert not any("torch" in Path(part.path).name for part in server.process.memory_maps())


# What the mathematics says --------------------------------------------------------------------------------


def attack(view: Lecture, step: Step) -> None:
    control = step.settings["control"]
    if control == "image":
        before = view.shown("attack")
        view.press_slider("ArrowRight")
        after = view.shown("attack")
        assert after["images"][0] != before["images"][0]
        assert after["images"][0] == after["images"][2]  # ε is 0
        for name in ("image", "attacked"):
            assert sum(view.trace("attack", name)["y"]) == pytest.approx(1, abs=1e-3)
    elif control == "epsilon":
        sizes = [change(view)]
        for _ in range(2):
            view.press_slider("ArrowRight")
            sizes.append(change(view))
        assert [largest for _, largest in sizes] == pytest.approx([size for size, _ in sizes], abs=0.01)
        assert sizes[0] < sizes[1] < sizes[2]
    else:
        view.press_slider("End")
        assert change(view)[1] == 0
        assert "For 100 % of 100 images the loss has no gradient" in " ".join(view.words.split())
        one, other = (view.trace("attack", name)["y"] for name in ("image", "attacked"))
        assert one == other


def change(view: Lecture) -> tuple[float, float]:
    """ε and the largest change of a pixel, in 1/255."""
    found = re.search(r"ε = ([\d.]+)/255, largest change ([\d.]+)/255", view.names)
    assert found
    return float(found[1]), float(found[2])


def sweep(view: Lecture, step: Step) -> None:
    trace = view.trace("sweep", "accuracy")
    assert trace["y"][0] > 0.5 > trace["y"][-1]
    text = view.words
    view.page.locator(".st-key-learn_control").get_by_role("slider").press("ArrowRight")
    wait_for(lambda: view.words != text, 60, "the text follows")
    view.settle()
    place = max(range(len(trace["x"])), key=lambda own: view.trace("sweep", "accuracy")["size"][own])
    assert f"the network gets {trace['y'][place]:.2f}" in " ".join(view.words.split())


def filtered(view: Lecture, step: Step) -> None:
    if step.settings["control"] == "layer":
        view.pick("fc")
        assert "Histogram of the weights of fc" in view.names
        return
    counts = [removed(view)]
    view.press_slider("ArrowRight")
    counts.append(removed(view))
    (first, of), (second, _) = counts
    if step.settings["filter"] == "high_pass":
        assert first < second <= of
        view.press_slider("End")
        assert removed(view) == (of, of)
    elif step.settings["filter"] == "low_pass":
        assert first > second
    else:
        view.press_slider("Home")
        total = removed(view)[0]
        for _ in range(int(step.settings["thresholds"]) - 1):
            view.press_slider("ArrowRight")
            total += removed(view)[0]
        assert total == of  # every weight belongs to one pulse


def removed(view: Lecture) -> tuple[int, int]:
    found = re.search(r"([\d,]+) of ([\d,]+) weights removed", view.names)
    assert found
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


def area(view: Lecture, step: Step) -> None:
    view.press_slider("End")
    found = re.search(r"to 1\.00 it is ([+−]\d\.\d+), in all ([+−]\d\.\d+)", view.names)
    assert found
    assert found[1] == found[2]
    response = view.trace("area", "response")
    heights = [y - 1 for y in response["y"]]
    steps = zip(heights[1:], heights[:-1], response["x"][1:], response["x"][:-1], strict=True)
    assert sum((a + b) / 2 * (x - w) for a, b, x, w in steps) == pytest.approx(
        float(found[1].replace("−", "-")), abs=2e-3
    )


def calls(view: Lecture, step: Step) -> None:
    control = step.settings["control"]
    scores = view.trace("calls", "scores")
    if control == "tolerance":
        view.press_slider("ArrowRight")
        assert view.shown("calls")["shapes"][0]["x1"] == pytest.approx(0.055)
        assert view.trace("calls", "scores")["x"] == scores["x"]  # a tolerance moves no score
        view.press_slider("End")
        assert "robust" in view.words
    elif control == "images":
        view.press_slider("Home")
        assert "n = 50:" in view.names
        assert view.trace("calls", "scores")["high"][-1] > scores["high"][-1]
    else:
        clean, adversarial, difference = scores["x"]
        assert difference == pytest.approx(adversarial - clean, abs=1e-5)
        view.pick("fc")
        clean, adversarial, difference = view.trace("calls", "scores")["x"]
        assert difference == pytest.approx(adversarial - clean, abs=1e-5)


def epochs(view: Lecture, step: Step) -> None:
    view.choose_in_box("clean")
    wait_for(lambda: "clean scores" in view.words, 60, "the text follows")
    view.settle()


def profile(view: Lecture, step: Step) -> None:
    assert "at epoch 2:" in view.names
    view.press_slider("ArrowLeft")
    assert "at epoch 1:" in view.names


def trajectories(view: Lecture, step: Step) -> None:
    view.pick("helps")
    assert view.trace("trajectories", "helps")["y"]
    assert "helps goes from" in " ".join(view.words.split())


def rankings(view: Lecture, step: Step) -> None:
    before = view.words
    view.choose_in_box("clean")
    wait_for(lambda: view.words != before, 60, "the text follows")
    view.settle()
    assert "by their clean score" in " ".join(view.words.split())


def coverage(view: Lecture, step: Step) -> None:
    frame = view.shown("coverage")["shapes"][-1]
    view.choose_in_box("all")
    wait_for(lambda: view.shown("coverage")["shapes"][-1]["x0"] == frame["x0"] + 1, 60, "the frame moves")
    assert "trains 7 of 7 layers: 100 %" in " ".join(view.words.split())


def retraining(view: Lecture, step: Step) -> None:
    for rule in ("all", "fragile"):
        view.pick(rule)
        ends = [own["y"][-1] for own in view.shown("retraining")["data"] if own["name"] == rule]
        assert ends[1] == pytest.approx(lectures.AFTER[rule])
        assert signed(lectures.AFTER[rule] - lectures.BEFORE["fgsm"]) in view.words


def verdicts(view: Lecture, step: Step) -> None:
    gain = lectures.AFTER["robust_antifragile"] - lectures.BEFORE["fgsm"]
    assert view.trace("verdicts", "differences")["x"] == pytest.approx([gain], abs=1e-5)
    view.pick("clean")
    assert view.trace("verdicts", "differences")["x"] == pytest.approx([0], abs=1e-5)


CHECKS: dict[str, Callable[[Lecture, Step], None]] = {
    "attack": attack,
    "sweep": sweep,
    "filter": filtered,
    "area": area,
    "calls": calls,
    "epochs": epochs,
    "profile": profile,
    "trajectories": trajectories,
    "rankings": rankings,
    "coverage": coverage,
    "retraining": retraining,
    "verdicts": verdicts,
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_every_step_does_what_the_mathematics_says(
    story: Story, lecture: Callable[..., Lecture], tmp_path: Path
) -> None:
    view = lecture()
    view.go(story.name, 1)
    for number, step in enumerate(story.steps, 1):
        wait_for(lambda number=number: view.where == (story.name, str(number)), 30, f"step {number} has its address")
        view.wait()
        assert f"Step {number} of {len(story.steps)}" in view.main.inner_text()
        CHECKS[step.show](view, step)
        assert view.where == (story.name, str(number))  # arrow keys were the control's
        view.press("Show the answer")
        wait_for(lambda: view.page.get_by_role("button", name="Show the answer").count() == 0, 30, "the answer")
        view.settle()
        view.page.screenshot(path=tmp_path / f"{story.name}-{number}.png", full_page=True)
        if number < len(story.steps):
            view.page.get_by_role("heading", level=1).click()  # so that no control has the focus
            view.page.keyboard.press("ArrowRight")


# Links, keys, phones, and a process that is gone ----------------------------------------------------------


def test_arrow_keys_go_on_and_back(lecture: Callable[..., Lecture]) -> None:
    view = lecture()
    view.go("scores", 5)
    view.wait()
    view.page.keyboard.press("ArrowRight")
    wait_for(lambda: view.where == ("training", "1"), 30, "the next story")
    view.wait()
    view.page.keyboard.press("ArrowLeft")
    wait_for(lambda: view.where == ("scores", "5"), 30, "and back")


def test_a_locked_link_shows_the_step_and_its_control_only(lecture: Callable[..., Lecture]) -> None:
    view = lecture()
    view.go("filters", 2, lock=1, at=6)
    view.wait()
    assert "t = 0.75" in view.names
    buttons = view.page.get_by_test_id("stMain").get_by_role("button").all_inner_texts()
    assert [own for own in buttons if own] == ["Show the answer"]
    assert view.page.get_by_test_id("stPageLink").count() == 0
    assert view.page.get_by_role("slider").count() == 1
    view.page.keyboard.press("ArrowRight")
    view.settle()
    assert view.where == ("filters", "2")
    view.press_slider("ArrowLeft")
    assert "lock=1" in view.address
    assert "at=5" in view.address


@pytest.mark.parametrize(("story", "step"), [("adversarial", 2), ("scores", 2), ("retraining", 2)])
def test_text_and_figure_stack_on_a_phone(
    lecture: Callable[..., Lecture], story: str, step: int, tmp_path: Path
) -> None:
    view = lecture(390, 844, dark=step == 2)
    view.go(story, step)
    view.wait()
    assert view.page.evaluate("document.documentElement.scrollWidth") <= 390
    words = view.page.locator(".st-key-learn_words").bounding_box()
    chart = view.page.locator("[class*=st-key-learn_] .js-plotly-plot").first.bounding_box()
    assert words is not None
    assert chart is not None
    assert words["y"] + words["height"] <= chart["y"]
    assert chart["x"] >= 0
    assert chart["x"] + chart["width"] <= 390
    view.page.screenshot(path=tmp_path / f"{story}-{step}-390.png", full_page=True)


def test_a_killed_process_is_started_again(server: Server, lecture: Callable[..., Lecture]) -> None:
    view = lecture()
    view.go("filters", 3)
    view.wait()
    workers = live_workers(server)
    assert workers
    for worker in workers:
        worker.kill()
    psutil.wait_procs(workers, 30)
    view.go("scores", 5)
    view.wait()
    view.pick("stage3.1.branch2.0")
    [other] = live_workers(server)
    assert other not in workers
