"""How quick the dashboard is, through a real browser: ``python -m benchmarks.dashboard``.

A server of its own shows a measured ShuffleNet of 57 layers, and what is published, to a headless Chromium of 1280 ×
900 pixels. What is not in ``--directory`` yet is measured first, which takes a minute or two. Every figure is printed
beside its bound, if it has one; nothing is asserted. Times are by the clock of the tab, from the start of a navigation,
a mouse button or a key going down, until what is waited for is drawn; the download of scripts that a browser does once
is in one figure only. Let nothing else run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

from tests.browsing import Cell, Explore, Server, chromium, wait_for

VIEW = "/?images=60&thresholds=5&control=0"
EMPTY = f"{VIEW}&init=7"
"""Nothing is measured of this initialisation."""
NUM_FIRST_VIEWS = 5
LIVE_SLIDERS = ((1, "another image is attacked"), (2, "an image is attacked with another ε"))
"""Steps of the story about adversarial images, and what their slider asks of the resident process."""
LIVE_LAYERS = ("conv1.0", "stage2.1.branch2.0", "stage3.1.branch2.3", "stage3.4.branch2.0", "conv5.0")
"""From the input, below which most is computed anew, to the output."""

_STUDY = {"network": "shufflenet_v2_x1_0", "dataset": "cifar10", "train": 10_000, "images": 200, "thresholds": 13}
EPOCHS = f"/epochs?{urlencode(_STUDY | {'epoch': 8})}"
COMPARE = f"/compare?{urlencode(_STUDY | {'epoch': 8})}"
"""Views of what is published, which need no data set: 57 layers at five epochs, and on three data sets."""

_SEEN = {
    "heatmap": ".st-key-heatmap .main-svg text",
    "offer": ".st-key-offer [data-testid=stCaptionContainer]",
    "epochs_heatmap": ".st-key-epochs_heatmap .main-svg text",
    "compare_heatmap": ".st-key-compare_heatmap .main-svg text",
}
_SINCE_NAVIGATION = """() => new Promise(resolve =>
    requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now()))))"""
_WATCH = """([event, charts]) => {
    const plots = () => charts.map(chart => document.querySelector(
        `.st-key-${chart} :is([role=figure], .fss-quiet)`));
    const names = () => plots().map(plot => plot?.ariaLabel ?? plot?.innerText);
    const drawings = () => plots().map(plot => plot?.innerHTML);
    const oldNames = names(), oldDrawings = drawings();
    const isNew = (found, old) => found.every((own, index) => own && own !== old[index]);
    window.drawn = new Promise(resolve => addEventListener(event, ({timeStamp}) => {
        const look = () => requestAnimationFrame(() => {
            if (isNew(names(), oldNames) && isNew(drawings(), oldDrawings)) {
                requestAnimationFrame(() => resolve(performance.now() - timeStamp));
            } else look();
        });
        look();
    }, {capture: true, once: true}));
}"""
"""Notes how long it takes from an event until charts have other names, or texts are others, and are drawn otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What was measured of one thing.

    Attributes:
        name: what it is.
        unit: of its values.
        median: of all repetitions.
        worst: of all repetitions.
        repetitions: how often it was measured.
        bound: what it should stay below; ``None`` if nothing is promised.
    """

    name: str
    unit: str
    median: float
    worst: float
    repetitions: int
    bound: float | None


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--directory", type=Path, default=None, help="keep the measured result here, for the next time")
    parser.add_argument("--repetitions", type=int, default=20, help="of clicks and of changes of η (default: 20)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(temporary) / "cache" if options.directory is None else options.directory
        found = []
        for figure in measure(cache, Path(temporary) / "server.log", options.repetitions):
            found.append(asdict(figure))
            if not options.json:
                print(describe(figure), flush=True)
    if options.json:
        print(json.dumps(found, indent=1))


def describe(figure: Figure) -> str:
    """Put a figure into words."""
    bound = "" if figure.bound is None else f"; bound {figure.bound:g} {figure.unit}"
    times = "once" if figure.repetitions == 1 else f"worst of {figure.repetitions}: {figure.worst:.3g}"
    return f"{figure.name}: {figure.median:.3g} {figure.unit} ({times}){bound}"


def measure(cache: Path, log: Path, repetitions: int) -> Iterator[Figure]:
    """Measure everything.

    Args:
        cache: of the server; the result is measured there if it is missing.
        log: where the server writes.
        repetitions: of clicks and of changes of η.

    Yields:
        One figure after the other.
    """
    with chromium() as browser:

        def visit() -> Explore:
            return Explore(browser.new_context(viewport={"width": 1280, "height": 900}).new_page(), url)

        with _serving(cache, log) as server:
            port, url = server.port, server.url
            view = visit()
            view.open(VIEW)
            if not view.offer.startswith("Measured"):
                view.press("Measure")
                wait_for(lambda: view.offer.startswith("Measured"), 1800, "everything is measured")
        with _serving(cache, log, port=port):
            newcomer = visit()
            yield _figure("first view, scripts downloaded", "s", [_first_view(newcomer, VIEW, "heatmap")])
        newcomer.page.context.close()  # left open, it would be shown the view by each server that is started below, too
        # The same tab visits servers that were just started: its cache has the scripts, they have loaded nothing yet.
        view.page.goto("about:blank")
        started = []
        for _ in range(NUM_FIRST_VIEWS):
            with _serving(cache, log, port=port):
                started.append(_first_view(view, VIEW, "heatmap"))
        yield _figure("first view of a server just started", "s", started, 2.5)
        with _serving(cache, log, port=port) as server:
            yield from _use(view, server, repetitions)
        with tempfile.TemporaryDirectory() as empty, _serving(Path(empty), log, port=port) as server:
            yield from _compare(view, server, repetitions)


@contextmanager
def _serving(cache: Path, log: Path, *, port: int | None = None) -> Iterator[Server]:
    server = Server(cache, log, port=port)
    try:
        yield server
    finally:
        server.stop()


def _use(view: Explore, server: Server, repetitions: int) -> Iterator[Figure]:
    """Measure what a person does after the first view."""
    _first_view(view, VIEW, "heatmap")
    again = [_first_view(view, VIEW, "heatmap") for _ in range(NUM_FIRST_VIEWS)]
    yield _figure("view of a server that was visited before", "s", again, 2.5)
    empty = [_first_view(view, EMPTY, "offer") for _ in range(NUM_FIRST_VIEWS)]
    yield _figure("view of what is not measured", "s", empty, 2.5)
    view.open(VIEW)
    column = [own for own in view.cells() if own.has_score and own.column == "High-pass, adversarial score"]
    layers = (column[1:] * repetitions)[:repetitions]  # the first is chosen already
    clicks = [
        _timed(view, "mousedown", ["curves", "histogram"], lambda own=own: view.click_cell(own)) for own in layers
    ]
    yield _figure("click on a cell until its curve and histogram are drawn", "s", [own[0] for own in clicks], 0.5)
    yield _figure("sent and received for a click", "kB", [own[1] for own in clicks])
    slider = view.slider("Tolerance η")
    slider.press("Home")  # each step to the right is a tolerance that nobody has asked for yet
    changes = [_timed(view, "keydown", ["heatmap"], partial(slider.press, "ArrowRight")) for _ in range(repetitions)]
    yield _figure("change of η until the heatmap is labelled anew", "s", [own[0] for own in changes], 0.5)
    yield _figure("sent and received for a change of η", "kB", [own[1] for own in changes])
    yield from _ask(view, min(repetitions, 5))
    yield _figure("memory of the page's process", "MB", [server.process.memory_info().rss / 1e6], 200)


def _compare(view: Explore, server: Server, repetitions: int) -> Iterator[Figure]:
    """Measure Epochs and Compare on what is published, with an empty store."""
    for name, address, chart in (("Epochs", EPOCHS, "epochs_heatmap"), ("Compare", COMPARE, "compare_heatmap")):
        _first_view(view, address, chart)
        again = [_first_view(view, address, chart) for _ in range(NUM_FIRST_VIEWS)]
        yield _figure(f"{name}, view of a server that was visited before", "s", again, 2.5)
    view.open(EPOCHS)
    cells = [own for own in view.cells("epochs_heatmap") if own.has_score]
    layers = [own for own in cells if own.column.startswith("epoch 8")][1:]  # the first is chosen already
    clicks = _clicks(view, "epochs_heatmap", layers, ["curves", "histogram"], repetitions)
    yield _figure("Epochs, click on a layer until its curve and histogram are drawn", "s", clicks, 0.5)
    epochs = [own for own in cells if own.layer == layers[0].layer]
    clicks = _clicks(view, "epochs_heatmap", epochs, ["curves"], repetitions)
    yield _figure("Epochs, click on an epoch until its curve is drawn", "s", clicks, 0.5)
    view.open(COMPARE)
    cells = [own for own in view.cells("compare_heatmap") if own.has_score]
    layers = [own for own in cells if own.column == cells[-1].column][1:]
    clicks = _clicks(view, "compare_heatmap", layers, ["compare_cell"], repetitions)
    yield _figure("Compare, click on a layer until it is read below", "s", clicks, 0.5)
    memory = server.process.memory_info().rss / 1e6
    yield _figure("memory of the page's process after Epochs and Compare", "MB", [memory], 200)


def _clicks(view: Explore, key: str, cells: list[Cell], answers: list[str], repetitions: int) -> list[float]:
    """Click one cell after the other; return the seconds until the answers are drawn."""
    cells = (cells * repetitions)[:repetitions]
    return [_timed(view, "mousedown", answers, partial(view.click_cell, cell, key))[0] for cell in cells]


def _ask(view: Explore, repetitions: int) -> Iterator[Figure]:
    """Measure how long the steps of Learn that ask a network take to answer."""
    control = view.page.locator(".st-key-learn_control")

    def go(story: str, step: int, chart: str) -> None:
        view.open(f"/learn?story={story}&step={step}")
        wait_for(lambda: view.figure_names(f".st-key-{chart}"), 120, "the figure of the step is drawn")

    for step, what in LIVE_SLIDERS:
        go("adversarial", step, "learn_attack")
        slider = control.get_by_role("slider")
        slider.press("Home")
        slide = partial(slider.press, "ArrowRight")
        answers = [_timed(view, "keydown", ["learn_attack"], slide)[0] for _ in range(repetitions)]
        yield _figure(f"Learn, until {what}", "s", answers, 1.0)
    go("filters", 1, "learn_curves")
    answers = []
    for layer in LIVE_LAYERS[1:] + LIVE_LAYERS[:1]:  # the first is chosen already
        view.settle()
        box = control.get_by_role("combobox")
        box.click()
        box.fill(layer)
        answers.append(_timed(view, "keydown", ["learn_curves"], partial(box.press, "Enter"))[0])
    yield _figure("Learn, until another layer is filtered", "s", answers, 1.0)


def _first_view(view: Explore, address: str, what: str) -> float:
    """Open a view anew; return the seconds from the start of the navigation until it is drawn."""
    view.page.goto("about:blank")
    view.page.goto(view.url + address, wait_until="commit")
    view.page.wait_for_function("selector => document.querySelector(selector)", arg=_SEEN[what], polling="raf")
    milliseconds = view.page.evaluate(_SINCE_NAVIGATION)
    view.settle()
    return float(milliseconds) / 1000


def _timed(view: Explore, event: str, charts: Sequence[str], act: Callable[[], None]) -> tuple[float, float]:
    """Do something; return the seconds until charts are drawn otherwise, and the kilobytes that it took."""
    view.settle()
    before = view.num_bytes
    view.page.evaluate(_WATCH, [event, list(charts)])
    act()
    milliseconds = view.page.evaluate("() => window.drawn")
    view.settle()
    return float(milliseconds) / 1000, (view.num_bytes - before) / 1000


def _figure(name: str, unit: str, values: Sequence[float], bound: float | None = None) -> Figure:
    return Figure(
        name=name,
        unit=unit,
        median=statistics.median(values),
        worst=max(values),
        repetitions=len(values),
        bound=bound,
    )


if __name__ == "__main__":
    main()
