"""Epochs and Compare as a person uses them: clicks, epochs that play and stop, links, both designs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pictures
import pytest
from browsing import CHROMIUM, Explore, Server, chromium, wait_for
from playwright.sync_api import Browser

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        CHROMIUM is None and os.environ.get("CI") != "true", reason="Chromium is not installed (Debian: chromium)"
    ),
]

Look = Callable[..., Explore]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(columns_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("server")
    shutil.copytree(columns_template, root / "cache")
    server = Server(root / "cache", root / "server.log")
    yield server
    server.stop()


@pytest.fixture
def look(server: Server, browser: Browser) -> Iterator[Look]:
    contexts = []

    def look(path: str, *, width: int = 1280, dark: bool = False, **changes: object) -> Explore:
        contexts.append(
            browser.new_context(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
        )
        view = Explore(contexts[-1].new_page(), server.url)
        view.open(f"/{path}?{urlencode(pictures.view(**changes))}")
        return view

    yield look
    for context in contexts:
        context.close()


def address(view: Explore) -> dict[str, str]:
    return {name: text for name, [text] in parse_qs(urlsplit(view.address).query).items()}


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (800, True)])
def test_a_click_on_a_cell_shows_that_layer_at_that_epoch(look: Look, width: int, dark: bool) -> None:
    view = look("epochs", width=width, dark=dark)
    cells = {(cell.layer, cell.column.split(",")[0]): cell for cell in view.cells("epochs_heatmap")}
    assert len(cells) == 7 * 4
    assert [cells["helps", f"epoch {epoch}"].has_score for epoch in range(4)] == [False, True, True, False]
    view.click_cell(cells["helps", "epoch 1"], "epochs_heatmap")
    wait_for(lambda: "epoch=1" in view.address, 30, "the address follows")
    view.settle()
    assert address(view) | {"epoch": "1", "layer": "helps", "filter": "mean"} == address(view)
    assert view.box("Layer").input_value() == "helps"
    wait_for(lambda: "helps" in "".join(view.figure_names(".st-key-curves")), 30, "its curves are drawn")
    [name] = view.figure_names(".st-key-curves")
    other = look("epochs", width=width, dark=dark)
    other.open(view.address)
    assert other.box("Layer").input_value() == "helps"
    wait_for(lambda: other.figure_names(".st-key-curves") == [name], 30, "the copy shows the same curves")
    assert view.complaints == other.complaints == []


def test_epochs_play_to_the_end_and_then_nothing_moves(look: Look) -> None:
    view = look("epochs", epoch=1)

    def shown() -> str:
        return " ".join(view.figure_names(".st-key-profile"))

    wait_for(lambda: "at epoch 1:" in shown(), 30, "the epoch of the address is shown")
    view.press("Play")
    wait_for(lambda: "at epoch 2:" in shown(), 30, "the next epoch is shown")
    wait_for(lambda: view.page.get_by_role("button", name="Play", exact=True).count() == 1, 30, "it stops by itself")
    wait_for(lambda: address(view).get("epoch") == "2", 30, "the address says where it stopped")
    view.settle()
    view.pause(3)
    assert view.quiet_seconds > 2  # nothing polls
    assert view.complaints == []


def test_a_click_on_a_comparison_is_read_below_and_can_be_pinned(look: Look) -> None:
    view = look("compare")
    cells = {(cell.layer, cell.column): cell for cell in view.cells("compare_heatmap")}
    [place] = [own for own in cells if own[0] == "idle" and own[1].startswith("bars2") and "pulse" in own[1]]
    view.click_cell(cells[place], "compare_heatmap")
    wait_for(lambda: address(view).get("row") == "idle", 30, "the address follows")
    view.settle()
    assert address(view) | {"column": "bars2", "score_filter": "pulse"} == address(view)
    assert "antifragile" in view.main.inner_text()
    view.press("Pin this view")
    view.settle()
    view.page.get_by_role("spinbutton", name="Epoch").fill("1")
    view.page.keyboard.press("Enter")
    wait_for(lambda: bool(view.figure_names(".st-key-tau_matrix")), 30, "both views are compared")
    view.settle()
    [name] = view.figure_names(".st-key-tau_matrix")
    assert "pinned and this view" in name
    assert view.complaints == []
