"""The errata in a real browser: a click on a cell reads its column below, and the address says so."""

from __future__ import annotations

import os
from pathlib import Path

import erratas
import pytest
from browsing import CHROMIUM, Explore, Server, chromium, wait_for

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        CHROMIUM is None and os.environ.get("CI") != "true", reason="Chromium is not installed (Debian: chromium)"
    ),
]


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (800, True)])
def test_a_click_on_a_cell_reads_its_column(tmp_path: Path, width: int, dark: bool) -> None:
    erratas.publish(tmp_path / "cache" / "published")
    server = Server(tmp_path / "cache", tmp_path / "server.log")
    try:
        with chromium() as browser:
            context = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
            )
            view = Explore(context.new_page(), server.url)
            view.open("/errata")
            assert view.title == "Errata and differences"
            cells = {(own.layer, own.column): own for own in view.cells("errata_heatmap")}
            assert {layer for layer, _ in cells} == set(erratas.LAYERS)
            assert len(cells) == 3 * 10
            [place] = [own for own in cells if own[0] == "second" and own[1].startswith("Adaptive attack")]
            view.click_cell(cells[place], "errata_heatmap")
            wait_for(lambda: "difference=3" in view.address, 30, "the address follows")
            view.settle()
            assert view.box("Beside the corrected method").input_value() == "3. Adaptive attack"
            assert view.main.get_by_role("columnheader", name="3. Adaptive attack").count() == 1
            view.choose("Score", "Clean")
            wait_for(lambda: "score_kind=clean" in view.address, 30, "the address follows")
            assert view.complaints == []
            overflow = view.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert overflow <= 0
            context.close()
    finally:
        server.stop()
