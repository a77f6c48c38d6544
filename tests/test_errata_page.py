"""The page of the errata: what is published is what is shown, and without it there is the command that makes it."""

from __future__ import annotations

import re
from pathlib import Path

import erratas
import pictures
import pytest
from pictures import ROOT, alts, complaints, links, text_of, tiles
from streamlit.testing.v1 import AppTest

from fss_core.errata.differences import DIFFERENCES
from fss_core.errata.effects import Effect
from fss_core.errata.records import BITS, ErrataRecord, errata_path
from fss_core.errata.reports import change_words, spread_words, value_words
from fss_core.numerals import signed


@pytest.fixture(autouse=True)
def _no_process(runners: list[Path]) -> None:
    """No test of this module starts one."""


@pytest.fixture
def record(empty_cache: Path) -> ErrataRecord:
    """A fresh cache in which only the comparison is published."""
    return erratas.publish(empty_cache / "published")


def show(**query: str) -> AppTest:
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
    page.switch_page("pages/errata.py")
    page.query_params = query
    page.run()
    assert not page.exception, page.exception
    return page


def words(cell: str) -> str:
    return " ".join(cell.split())


def table(page: AppTest) -> dict[str, list[list[str]]]:
    """Words of a difference, up to the first full stop after its title → its lines of numbers."""
    html = next(own.value for own in page.get("html") if "fss-errata" in own.value)
    found: dict[str, list[list[str]]] = {}
    for row in re.findall(r"<tr.*?>(.*?)</tr>", html, re.DOTALL)[1:]:
        cells = [words(re.sub("<.*?>", " ", cell)) for cell in re.findall(r"<td.*?>(.*?)</td>", row, re.DOTALL)]
        if len(cells) == 1:
            name = cells[0].partition(" Notebooks:")[0]
            found[name] = []
        else:
            found[name].append(cells)
    return found


def effect(record: ErrataRecord, variant: str, kind: str = "adversarial", scope: str = "layers") -> Effect:
    return next(own for own in record.effects if (own.variant, own.scope, own.kind) == (variant, scope, kind))


def test_without_a_comparison_the_page_says_what_differs_and_what_measures_it(empty_cache: Path) -> None:
    page = show()
    assert [own.value for own in page.title] == ["Errata and differences"]
    assert [own.value for own in page.code] == ["fss study --preset notebook"]
    assert complaints(page) == []
    assert table(page) == {f"{own.number}. {own.title}.": [] for own in DIFFERENCES}
    assert len(DIFFERENCES) == 8
    assert all(own.here in text_of(page) for own in DIFFERENCES)
    assert alts(page) == {}


def test_each_difference_stands_beside_what_it_does(record: ErrataRecord) -> None:
    page = show()
    assert complaints(page) == []
    rows = table(page)
    assert [name[:2] for name in rows if name[0].isdigit()] == [f"{number}." for number in range(1, 9)]
    for title, variant, scope in (
        ("1. Training mode.", "1", "layers"),
        ("3. Adaptive attack.", "3", "layers"),
        ("4. Half the width.", "4", "layers"),
        ("6. Last layer only.", "6", "whole"),
        ("7. Other score.", "7", "layers"),
        ("8. Pulses with gaps.", "8", "layers"),
        ("All at once : 1, 2, 3, 6, 7, 8", "all", "layers"),
    ):
        for place, kind in enumerate(("clean", "adversarial", "difference")):
            assert rows[title][0][1 + place] == change_words(effect(record, variant, kind, scope)), (title, kind)
    assert rows["8. Pulses with gaps."][0][2] == "0 (the same responses)"
    spread = next(own for own in record.spreads if own.kind == "adversarial")
    assert rows["5. One initialisation."][0][2] == f"±{spread_words(spread)} notebooks: 0"
    own = effect(record, "1")
    assert rows["1. Training mode."][0][4] == f"{own.num_calls_changed} of {own.num_layers}"
    same, theirs = rows["2. Attack not clamped."]
    assert (same[0], theirs[0]) == ("change, at ε = 2/255", "change, at ε = 30/255")
    assert theirs[2].startswith("only 12 adversarial images are right")
    text = text_of(page)
    assert "n = 120 probe images, 3 thresholds, 3 layers (every 28th)" in text
    assert "exactly the images right that the fast engine" in text


def test_all_at_once_stands_beside_the_corrected_method(record: ErrataRecord) -> None:
    found = tiles(show())
    for name, variant in (("Corrected: adversarial", "corrected"), ("All at once: adversarial", "all")):
        own = effect(record, variant)
        assert own.value is not None
        value, note = found[name]
        assert f"{value} {note}".startswith(value_words(own))
        assert value == signed(own.value)
        assert note.endswith("3 layers, n = 120")
    own = effect(record, "all")
    assert found["Layers with another call"][0] == str(own.num_calls_changed)
    tau = next(one for one in record.rankings if (one.variant, one.kind) == ("all", "adversarial"))
    assert found["Kendall’s τ of the ranking"][0] == f"{tau.tau:.2f}"


def test_layers_are_shown_under_each_difference(record: ErrataRecord) -> None:
    page = show(difference="3")
    said = alts(page)
    assert "3 rows by 10 columns" in said["errata_heatmap"]
    own = effect(record, "3")
    assert f"3. Adaptive attack {signed(own.change)}" in said["errata_changes"]
    html = next(own.value for own in page.get("html") if "mean of the three filters</th>" in own.value)
    assert "<th>3. Adaptive attack</th>" in html
    assert html.count("<tr>") == 1 + len(erratas.LAYERS)
    assert html.count("<td>another</td>") == own.num_calls_changed == 1
    page.selectbox(key="score_kind").set_value("clean").run()
    page.selectbox(key="difference").set_value("1").run()
    assert not page.exception
    assert "<th>1. Training mode</th>" in text_of(page)
    assert "Clean score, mean of the three" in text_of(page)


def test_a_difference_that_is_not_there_is_replaced_by_all_at_once(record: ErrataRecord) -> None:
    page = show(difference="99", score_kind="nothing")
    assert page.selectbox(key="difference").value == "all"
    assert page.selectbox(key="score_kind").value == "adversarial"


def test_the_cell_can_be_opened_in_explore(record: ErrataRecord) -> None:
    [(label, address)] = links(show())
    assert label == "Open this cell in Explore"
    wanted = {"network": "shufflenet_v2_x1_0", "dataset": "mnist5k", "epoch": "3", "images": "120", "thresholds": "3"}
    assert address | wanted == address


def test_a_damaged_comparison_is_said_to_be_so(record: ErrataRecord, empty_cache: Path) -> None:
    errata_path(empty_cache / "published").with_name(BITS).write_bytes(b"?")
    pictures.forget_pages()
    page = show()
    [error] = page.error
    assert "must have the SHA" in error.value
    assert page.title[0].value == "Errata and differences"
