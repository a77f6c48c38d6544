"""The page Compare: data sets, networks and pinned views side by side, with numbers that are the core's."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import columns
import pictures
import pytest
from pictures import ROOT, alts, complaints, links, text_of, tiles
from streamlit.testing.v1 import AppTest

from fss_core.invariance import Across, Invariance, measure_invariance
from fss_core.invariance.groups import group_rows
from fss_core.invariance.lookup import ComparisonSpec, find_candidates, find_pair, list_known
from fss_core.jobs.board import Board
from fss_core.numerals import signed
from fss_core.store import Store


@pytest.fixture
def store(columns_store: Store, runners: list[Path]) -> Store:
    """A store with all of it; no process is started."""
    return columns_store


def show(**changes: object) -> AppTest:
    """Open the page at an address."""
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
    page.switch_page("pages/compare.py")
    page.query_params = pictures.view(**changes)
    page.run()
    assert not page.exception, page.exception
    return page


def found(store: Store, across: Across, **how: Any) -> Invariance:
    """What the core says of everything that is measured."""
    candidates = find_candidates(store, ComparisonSpec(across=across, measurement=pictures.request().spec))
    responses = {own.label: own.measured.responses for own in candidates if own.measured is not None}
    assert len(responses) == 2
    return measure_invariance(responses, across=across, **how)


def table(page: AppTest) -> dict[str, list[str]]:
    html = next(own.value for own in page.get("html") if "split-half" in own.value)
    cells = [re.findall(r"<td.*?>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)[1:]]
    return {first: rest for first, *rest in cells}


def test_data_sets_stand_side_by_side_each_with_its_own_epsilon(store: Store) -> None:
    page = show()
    assert complaints(page) == []
    own = found(store, "datasets")
    rows = table(page)
    assert {name: cells[1] for name, cells in rows.items()} == {
        "bars (image folder)": "6/255 (calibrated on epoch 2)",
        "bars2 (image folder)": "8/255 (calibrated on epoch 2)",
    }
    assert tiles(page)["Same call everywhere"][0] == f"{own.calls.share.value:.2f}"
    assert own.calls.share.value == pytest.approx(5 / 6)  # "idle" helps on the other one
    said = alts(page)
    assert "7 rows by 8 columns" in said["compare_heatmap"]  # two data sets, three filters and their mean
    assert "the call stays in 5." in said["compare_heatmap"]
    assert f"bars (image folder) and bars2 (image folder): {own.rankings[0].tau.value:.2f}" in said["tau_matrix"]
    assert group_rows(own).open == ("idle",)
    assert "<b>Calls differ, but no two decided ones</b> (1): idle</p>" in text_of(page)


def test_networks_are_compared_by_kind_and_depth(store: Store) -> None:
    page = show(across="networks")
    own = found(store, "networks")
    assert len(own.table.rows) == 6  # the dead layer shares a cell with another
    assert "6 rows by 8 columns" in alts(page)["compare_heatmap"]
    assert list(table(page)) == ["ResNet-18", "SqueezeNet-v1.1"]
    assert f"{own.rankings[0].tau.value:.2f}" in alts(page)["tau_matrix"]
    assert "by the kind" not in text_of(page)
    assert "one fifth of the depth" in text_of(page)
    page.selectbox(key="row").set_value("stem · 0.0–0.2").run()
    text = text_of(page)
    entry = next(own for own in own.table.entries if own.row == "stem · 0.0–0.2" and own.column == "resnet18")
    assert signed(entry.score) in text
    assert "mean of 1 layer" in text


def test_a_cell_can_be_read_and_leads_to_explore(store: Store) -> None:
    page = show(row="helps", column="bars2", score_filter="pulse")
    own = found(store, "datasets", filter="pulse")
    entry = next(one for one in own.table.entries if one.row == "helps" and one.column == "bars2")
    value, low, high = map(signed, (entry.score, entry.low, entry.high))
    assert f"{value} [{low}, {high}]" in text_of(page)
    [address] = [query for label, query in links(page) if label == "Open bars2 (image folder) in Explore"]
    wanted = {"dataset": "bars2", "layer": "helps", "filter": "pulse", "epsilon": "8/255", "network": columns.NETWORK}
    assert address | wanted == address


def test_what_is_chosen_and_not_measured_is_missing_with_its_command(store: Store) -> None:
    page = show(with_datasets="bars,mnist5k")
    assert table(page)["MNIST (5,000 digits)"] == ["not measured"]
    [command] = [own.value for own in page.code]
    assert command == "fss score --network squeezenet1_1 --dataset mnist5k --epoch 2 --images 110 --thresholds 5"
    assert "with a second, agreement can be computed" in text_of(page)
    assert Board(store).runs() == []


def test_nothing_measured_says_what_the_view_is(store: Store) -> None:
    page = show(thresholds=7)
    assert "Nothing of this is measured" in text_of(page)
    assert "by the kind and the relative depth" in text_of(page)
    assert "compare_heatmap" not in alts(page)


# Pinned ---------------------------------------------------------------------------------------------------


def test_a_pinned_view_is_compared_with_what_is_chosen_next(store: Store) -> None:
    page = show(across="pinned")
    assert "Nothing is pinned" in text_of(page)
    page.button(key="pin_view").click().run()
    assert not page.exception, page.exception
    assert "this view is the pinned one" in text_of(page).lower()
    page.number_input(key="epoch").set_value(1).run()
    known = list_known(store)
    first = pictures.request().spec
    across, pair = find_pair(store, first, replace(first, epoch=1), known)
    own = measure_invariance({one.label: one.measured.responses for one in pair if one.measured}, across=across)
    assert list(table(page)) == ["pinned: epoch 2", "this view: epoch 1"]
    assert tiles(page)["Same call everywhere"][0] == f"{own.calls.share.value:.2f}"
    address = dict(page.query_params)
    again = show(**address)
    assert list(table(again)) == ["pinned: epoch 2", "this view: epoch 1"]
    again.button(key="unpin").click().run()
    assert "pin" not in again.query_params


def test_views_that_share_neither_layers_nor_images_are_not_compared(store: Store) -> None:
    pin = "network=resnet18&dataset=bars&epoch=2&images=110&thresholds=5"
    page = show(across="pinned", pin=pin)
    assert list(table(page)) == ["pinned: ResNet-18", "this view: SqueezeNet-v1.1"]
    page = show(across="pinned", pin=pin, dataset="bars2")
    assert "neither layers nor images are the same" in text_of(page)
    page = show(across="pinned", pin=pin.replace("110", "50"))
    assert "has 50 images and this one 110" in text_of(page)


def test_a_pin_that_makes_no_sense_is_refused(store: Store) -> None:
    page = show(across="pinned", pin="shell=rm")
    assert "a pinned view has no 'shell'" in text_of(page)
    assert "Nothing is pinned" in text_of(page)
