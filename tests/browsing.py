"""A real Streamlit server and the Explore view in a real Chromium, as a person uses them; for tests and benchmarks."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

import psutil
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium")
_FLAGS = (
    "--no-sandbox",  # a root user has none to use
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

T = TypeVar("T")


def wait_for(condition: Callable[[], T], seconds: float, what: str, *, pause: float = 0.1) -> T:
    """Ask again and again until the answer is yes, less often the longer it takes: what is watched has work to do.

    Raises:
        AssertionError: it was no all the time.
    """
    started = time.monotonic()
    while True:
        if found := condition():
            return found
        waited = time.monotonic() - started
        assert waited < seconds, f"{what}: not within {seconds:g} s"
        time.sleep(pause if waited < 5 else max(pause, 0.5))


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Server:
    """``streamlit run app.py`` on a free port, with a cache of its own.

    Args:
        cache: its cache directory; servers that are started one after the other may share one.
        log: where it writes.
        port: another than a free one, for a browser that is to know the address.
    """

    def __init__(self, cache: Path, log: Path, *, port: int | None = None) -> None:
        """Start it, and wait until it answers."""
        self.cache = cache
        self.log = log
        self.port = _free_port() if port is None else port
        self.url = f"http://localhost:{self.port}"
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [
                    *(sys.executable, "-m", "streamlit", "run", "app.py"),
                    *("--server.headless", "true", "--server.port", str(self.port)),
                ],
                cwd=ROOT,
                env=os.environ | {"FSS_CACHE_DIR": str(cache)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.process = psutil.Process(self._popen.pid)
        try:
            wait_for(self._answers, 60, "the server answers")
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        assert self._popen.poll() is None, self.log.read_text(errors="replace")
        with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            with urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=5) as response:
                return bool(response.status == 200)
        return False

    def runners(self) -> list[psutil.Process]:
        """List the processes that measure for it, without their workers: one, or none."""
        return [own for own in self.process.children() if _runs(own, "fss_core.jobs.runner")]

    def workers(self) -> list[psutil.Process]:
        """List the processes that do the runner's tasks."""
        below = [own for runner in self.runners() for own in runner.children(recursive=True)]
        return [own for own in below if _runs(own, "spawn_main")]

    def listening(self) -> set[str]:
        """List the addresses at which it and its children can be reached."""
        connections = [
            connection
            for process in (self.process, *self.process.children(recursive=True))
            for connection in process.net_connections("inet")
        ]
        return {own.laddr.ip for own in connections if own.status == psutil.CONN_LISTEN}

    def kill(self) -> None:
        """End it and all that it started with SIGKILL, as a power cut would."""
        family = [self.process, *self.process.children(recursive=True)] if self.process.is_running() else []
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._popen.wait(30)
        psutil.wait_procs(family, 30)

    def stop(self) -> None:
        """Ask it to end, and see that all that it started ends too."""
        family = self.process.children(recursive=True)
        self._popen.terminate()
        _, alive = psutil.wait_procs([self.process, *family], 30)
        self.kill()
        assert not alive, f"still there half a minute after the server was told to stop: {alive}"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def _runs(process: psutil.Process, word: str) -> bool:
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return word in " ".join(process.cmdline())
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell of the score heatmap, as it is drawn.

    Attributes:
        layer: its row, as the hover label names it.
        column: its column, as the hover label names it.
        x: in pixels from the left of the chart.
        y: in pixels from the top of the chart.
        has_score: whether there is a number in it.
    """

    layer: str
    column: str
    x: float
    y: float
    has_score: bool


_CELLS = """plot => {
    if (!plot._fullLayout || !plot._fullData) return null;  // a chart whose place is there, but nothing in it yet
    const {xaxis, yaxis} = plot._fullLayout, text = html => html.replace(/<br>.*/s, "").replace(/<[^>]*>/g, "");
    const scored = new Set(plot._fullData.filter(trace => trace.name === "cells" && trace.customdata)
        .flatMap(trace => Array.from(trace.x, (x, index) => `${x} ${trace.y[index]}`)));
    return Array.from(yaxis.tickvals).flatMap((row, i) => Array.from(xaxis.tickvals).map((column, j) => ({
        layer: text(yaxis.ticktext[i]).split(", ")[0],
        column: text(xaxis.ticktext[j]),
        x: xaxis._offset + xaxis.d2p(column),
        y: yaxis._offset + yaxis.d2p(row),
        has_score: scored.has(`${column} ${row}`),
    })));
}"""


class Explore:
    """The Explore view in one tab.

    Args:
        page: the tab.
        url: of the server.
    """

    def __init__(self, page: Page, url: str) -> None:
        """Listen to what the server and the tab say to each other."""
        self.page = page
        self.url = url
        self._last_frame = time.monotonic()
        self.num_bytes = 0
        self.complaints: list[str] = []
        page.set_default_timeout(60_000)
        page.on("websocket", self._listen)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._listen_to_plotly)

    def _listen_to_plotly(self, message: ConsoleMessage) -> None:
        """Note what Plotly does not understand: it draws something else in its place, and says so here only."""
        if message.text.startswith(("WARN:", "ERROR:")):
            self.complaints.append(message.text)

    def _listen(self, socket: object) -> None:
        for event in ("framereceived", "framesent"):
            socket.on(event, self._hear)  # type: ignore[attr-defined]

    def _hear(self, frame: str | bytes) -> None:
        self._last_frame = time.monotonic()
        self.num_bytes += len(frame)

    def open(self, view: str | Mapping[str, object] = "") -> None:
        """Open a view, given as an address or by its query parameters, and wait until it is drawn."""
        query = view if isinstance(view, str) else f"/?{urlencode(view)}"
        self.page.goto(query if query.startswith("http") else self.url + query)
        self.page.get_by_role("heading", level=1).wait_for()
        self.settle()

    def settle(self) -> None:
        """Wait until the server has answered what was done, and the tab has drawn the answer.

        A view that is being measured asks every second how things are: on a slow machine it is never quiet for long.
        """
        running = self.page.locator('[data-testid="stApp"]:not([data-test-script-state="notRunning"])')
        started = time.monotonic()

        def is_settled() -> bool:
            self.pause(0.1)
            enough = 0.8 if time.monotonic() - started < 8 else 0.2
            return running.count() == 0 and self.quiet_seconds > enough

        wait_for(is_settled, 60, "the server has answered")

    @property
    def quiet_seconds(self) -> float:
        """How long server and tab have said nothing to each other."""
        return time.monotonic() - self._last_frame

    # Reading

    @property
    def address(self) -> str:
        """What the address bar says now; what the tab was told last may be older."""
        return str(self.page.evaluate("location.href"))

    @property
    def title(self) -> str:
        """What the view is of."""
        return self.page.get_by_role("heading", level=1).inner_text()

    @property
    def main(self) -> Locator:
        """All but the side bar."""
        return self.page.get_by_test_id("stMain")

    @property
    def drilldown(self) -> Locator:
        """What is shown of one cell."""
        return self.page.locator(".st-key-drilldown")

    @property
    def offer(self) -> str:
        """What the button that measures says, and below it."""
        return " ".join(self._texts(".st-key-offer"))

    @property
    def strip(self) -> str:
        """What the progress strip says; empty if there is none."""
        return " ".join(self._texts(".st-key-strip [data-testid=stProgress]"))

    @property
    def stage(self) -> str:
        """The step that the progress strip names."""
        found = re.search(r"· ([^:·]+)", self.strip)
        return found[1].strip() if found else ""

    @property
    def tiles(self) -> dict[str, str]:
        """What the tiles say, by name."""
        texts = [text.split("\n", 1) for text in self._texts(".fss-tile")]
        return {text[0]: text[-1] for text in texts}

    def _texts(self, selector: str) -> list[str]:
        # At once: between counting elements and reading one, a view that is being measured may have been drawn anew.
        return list(self.page.locator(selector).evaluate_all("found => found.map(own => own.innerText)"))

    def figure_names(self, inside: str) -> list[str]:
        """List the accessible names of charts."""
        names = self.page.locator(f"{inside} [role=figure]").evaluate_all(
            "found => found.map(own => own.getAttribute('aria-label'))"
        )
        return [str(name) for name in names]

    @property
    def num_rows(self) -> tuple[int, int]:
        """How many rows of the heatmap are finished, and of how many; (0, 0) without a heatmap."""
        for name in self.figure_names(".st-key-heatmap"):
            rows = int(re.search(r"(\d+) layers", name)[1])  # type: ignore[index]
            pending = re.search(r"clean: [^;]*?(\d+) not measured", name)
            return rows - int(pending[1] if pending else 0), rows
        return 0, 0

    @property
    def plot(self) -> Locator:
        """The score heatmap."""
        return self.plot_of("heatmap")

    def plot_of(self, key: str) -> Locator:
        """Find a chart by its key."""
        return self.page.locator(f".st-key-{key} .js-plotly-plot").first

    def cells(self, key: str = "heatmap") -> list[Cell]:
        """List the cells of a score heatmap, row by row, as soon as it is drawn."""
        found = wait_for(lambda: self.plot_of(key).evaluate(_CELLS), 60, "the heatmap is drawn")
        return [Cell(**own) for own in found]

    def box(self, name: str) -> Locator:
        """Find a select box."""
        return self.page.get_by_role("combobox", name=name, exact=True)

    def slider(self, name: str) -> Locator:
        """Find a slider."""
        return self.page.get_by_role("slider", name=name)

    # Doing

    def press(self, name: str) -> None:
        """Press a button."""
        self.page.get_by_role("button", name=name, exact=True).click()

    def choose(self, box: str, option: str) -> None:
        """Choose in a select box."""
        self.settle()
        self.box(box).scroll_into_view_if_needed()
        self.settle()  # scrolling, and drawing anew, would close its list again
        self.box(box).click()
        self.page.get_by_role("option", name=option, exact=True).click()
        self.settle()

    def click_cell(self, cell: Cell, key: str = "heatmap", *, until: Callable[[], bool] | None = None) -> None:
        """Click the middle of a cell.

        Args:
            cell: which.
            key: of its chart.
            until: what the click brings about; while a chart is drawn anew it hears nothing, and a person who sees
                nothing happen clicks again.
        """

        def click() -> None:
            self.plot_of(key).click(position={"x": cell.x, "y": cell.y})

        click()
        if until is None:
            return
        for _ in range(3):
            with suppress(AssertionError):
                wait_for(until, 20, "the click is answered")
                return
            click()
        wait_for(until, 60, "one of four clicks is answered")

    def pause(self, seconds: float) -> None:
        """Let time pass while the tab is listened to."""
        self.page.wait_for_timeout(1000 * seconds)
