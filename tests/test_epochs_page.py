"""The page Epochs: every state in words, and numbers that are the core's, on epochs whose every call is known."""

from __future__ import annotations

import json
import re
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import columns
import pictures
import pytest
from pictures import ROOT, alts, complaints, cut, links, text_of, tiles
from streamlit.testing.v1 import AppTest

from fss_core.data import dataset_card
from fss_core.flow import archive_of
from fss_core.invariance import Invariance, measure_invariance
from fss_core.invariance.groups import group_rows
from fss_core.invariance.lookup import ComparisonSpec, find_candidates
from fss_core.invariance.reports import invariance_json
from fss_core.jobs.board import Board
from fss_core.numerals import signed
from fss_core.specs import ScoreSpec
from fss_core.store import Store
from pages.common import agreement, epochs


@pytest.fixture
def store(columns_store: Store, runners: list[Path]) -> Store:
    """A store with all of it; no process is started."""
    return columns_store


def show(**changes: object) -> AppTest:
    """Open the page at an address."""
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
    page.switch_page("pages/epochs.py")
    page.query_params = pictures.view(**changes)
    page.run()
    assert not page.exception, page.exception
    return page


def found(store: Store, epochs: tuple[int, ...] = (1, 2), **how: Any) -> Invariance:
    """What the core says of some epochs at the ε of epoch 2."""
    spec = ComparisonSpec(
        across="epochs", measurement=pictures.request().spec, labels=tuple(str(epoch) for epoch in epochs)
    )
    responses = {own.label: own.measured.responses for own in find_candidates(store, spec) if own.measured is not None}
    assert len(responses) == len(epochs)
    return measure_invariance(responses, across="epochs", **how)


def table(page: AppTest) -> dict[str, list[str]]:
    """The table of columns: title → the text of its other cells."""
    html = next(own.value for own in page.get("html") if "split-half" in own.value)
    rows = re.findall(r"<tr>(.*?)</tr>", html)[1:]
    cells = [re.findall(r"<td.*?>(.*?)</td>", row) for row in rows]
    return {first: rest for first, *rest in cells}


# What is there --------------------------------------------------------------------------------------------


def test_tiles_table_matrix_and_groups_say_what_the_core_says(store: Store) -> None:
    page = show()
    assert complaints(page) == []
    own = found(store)
    for name, statistic in (
        ("Same call everywhere", own.calls.share),
        ("Fleiss’ κ", own.calls.kappa),
        ("Gwet’s AC1", own.calls.ac1),
    ):
        value, note = tiles(page)[name]
        assert value == f"{statistic.value:.2f}"
        assert statistic.null is not None
        assert f"6 layers in 2 of 2 columns; null {statistic.null.mean:.2f}" in note
    assert own.calls.share.value == pytest.approx(4 / 6)  # "hurts" and "helps" change, the dead layer has no call
    said = alts(page)
    tau = own.rankings[0].tau
    assert f"epoch 1 and epoch 2: {tau.value:.2f}" in said["tau_matrix"]
    assert "the call stays in 4." in said["epochs_heatmap"]
    assert "7 rows by 4 columns" in said["epochs_heatmap"]
    groups = group_rows(own)
    assert (groups.apart, groups.open) == (("hurts",), ("helps",))  # 110 images do not decide that nothing changes
    assert groups.alone == ("dead",)
    text = text_of(page)
    assert "<b>Decided calls differ</b> (1): hurts</p>" in text
    assert "<b>A call in fewer than two</b> (1): dead</p>" in text


def test_every_column_has_its_n_its_epsilon_and_where_it_is_from_and_what_is_missing_says_why(store: Store) -> None:
    page = show()
    rows = table(page)
    assert list(rows) == ["epoch 0", "epoch 1", "epoch 2", "epoch 3"]
    for epoch in ("epoch 1", "epoch 2"):
        assert rows[epoch][:3] == ["110", "6/255 (calibrated on epoch 2)", "measured here"]
    assert rows["epoch 0"] == ["measured at ε = 3/255 only"]
    assert rows["epoch 3"] == ["not measured (epoch 0, 1, 2 is)"]
    commands = [own.value for own in page.code]
    start = "fss score --network squeezenet1_1 --dataset bars"
    assert commands == [f"{start} --epoch {epoch} --images 110 --thresholds 5 --epsilon 6/255" for epoch in (0, 3)]
    [address] = [query for label, query in links(page) if "epoch 3" in label]
    assert address | {"epoch": "3", "epsilon": "6/255", "images": "110", "thresholds": "5"} == address
    assert Board(store).runs() == []  # looking starts nothing


def test_the_score_that_is_chosen_is_the_one_that_is_compared(store: Store) -> None:
    page = show(score_kind="clean", score_filter="pulse", tolerance=0.2)
    own = found(store, kind="clean", filter="pulse", spec=ScoreSpec(tolerance=0.2))
    assert tiles(page)["Same call everywhere"][0] == f"{own.calls.share.value:.2f}"
    assert f"{own.rankings[0].tau.value:.2f}" in alts(page)["tau_matrix"]
    page.selectbox(key="score_kind").set_value("difference").run()
    assert page.session_state["kind"] == "difference"  # the drill-down follows
    other = found(store, kind="difference", filter="pulse", spec=ScoreSpec(tolerance=0.2))
    assert tiles(page)["Same call everywhere"][0] == f"{other.calls.share.value:.2f}"


def test_nothing_is_read_or_resampled_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    resampled, read = [], []
    count, find = agreement.measure_invariance, agreement.find_candidate
    monkeypatch.setattr(agreement, "measure_invariance", lambda *own, **how: resampled.append(1) or count(*own, **how))
    monkeypatch.setattr(agreement, "find_candidate", lambda *own: read.append(own[2]) or find(*own))
    page = show()
    assert (len(resampled), sorted(read)) == (1, ["0", "1", "2", "3"])
    page.number_input(key="epoch").set_value(1).run()
    page.multiselect(key="layers").set_value(["idle"]).run()
    show()  # another viewer
    assert (len(resampled), len(read)) == (1, 4)
    card, spec = dataset_card(columns.DATASET), pictures.request(epoch=1, epsilon=columns.EPSILON).spec
    key = archive_of(store, spec, pictures.checkpoint_of(1), card, spec.attack(columns.EPSILON)).key
    found = store.get(f"responses/{key}/layer/idle/pulse/1")
    assert found is not None
    store.delete(f"responses/{key}/layer/idle/pulse/1")
    page.run()
    assert (len(resampled), read[4:]) == (2, ["1"])  # only what is another now
    store.put(f"responses/{key}/layer/idle/pulse/1", found.arrays, meta={})
    page.run()
    assert len(resampled) == 2


def test_epochs_are_chosen_in_a_box_and_stand_in_the_address(store: Store) -> None:
    page = show(epochs="2")
    assert list(table(page)) == ["epoch 2"]
    assert tiles(page)["Same call everywhere"] == ("–", "not defined: one epoch: there is nothing to compare it with")
    assert [own for own in page.button if own.key == "play"] == []
    page.multiselect(key="epochs").set_value([1, 2]).run()
    assert list(table(page)) == ["epoch 1", "epoch 2"]
    assert page.query_params["epochs"] == "1,2"
    page = show(epochs="2,x")
    assert "epochs must be whole numbers with commas, got '2,x'" in text_of(page)


def test_trajectories_are_those_that_move_most_or_those_that_are_chosen(store: Store) -> None:
    own = found(store)
    page = show()
    said = alts(page)["trajectories"]
    scores = {(entry.row, entry.column): entry for entry in own.table.entries}
    first, last = scores["hurts", "1"], scores["hurts", "2"]
    assert (
        f"hurts from {signed(first.score, 2)} (antifragile) at epoch 1 to {signed(last.score, 2)} (fragile) at epoch 2"
        in said
    )
    assert "dead" not in said
    page.multiselect(key="layers").set_value(["idle"]).run()
    assert "idle from +0.00 (robust)" in alts(page)["trajectories"]
    assert "hurts" not in alts(page)["trajectories"]
    assert page.query_params["layers"] == "idle"


def test_an_epoch_after_the_one_that_epsilon_is_from_is_a_caution(store: Store) -> None:
    later = pictures.make_checkpoint(5)
    pictures.write(store, later, layers=tuple(columns.PLACES), calibrated=False)
    page = show()
    [caution] = complaints(page)
    assert "ε was calibrated on epoch 2, not on the last one that is compared" in caution
    assert complaints(show(epochs="1,2")) == []


# Looking into a cell --------------------------------------------------------------------------------------


def test_the_drill_down_is_that_of_the_epoch_in_the_side_bar(store: Store) -> None:
    page = show(layer="hurts")
    assert "accuracy of hurts" in alts(page)["curves"].lower()
    late = alts(page)["curves"]
    page.number_input(key="epoch").set_value(1).run()
    assert alts(page)["curves"] != late
    assert "Epoch 1" in [own.value for own in page.header]
    [address] = [query for label, query in links(page) if label == "Open this epoch in Explore"]
    assert address | {"epoch": "1", "epsilon": "6/255", "layer": "hurts"} == address
    page.number_input(key="epoch").set_value(3).run()
    assert "curves" not in alts(page)
    assert "measures this epoch at the ε of all" in text_of(page)


def test_measure_asks_for_the_epoch_at_the_epsilon_of_all(store: Store, runners: list[Path]) -> None:
    page = show(epoch=3, control=0, whole=0)
    page.button(key="measure").click().run()
    assert not page.exception, page.exception
    [run] = Board(store).runs()
    spec = run.request["spec"]
    assert (spec["epoch"], spec["epsilon"]) == (3, columns.EPSILON)
    assert runners


# Playing --------------------------------------------------------------------------------------------------


def test_the_slider_moves_the_epoch_and_playing_stops_at_the_end(store: Store) -> None:
    page = show()
    assert "at epoch 2:" in alts(page)["profile"]
    page.select_slider(key="frame").set_value("1").run()
    assert not page.exception, page.exception
    assert "at epoch 1:" in alts(page)["profile"]
    assert page.number_input(key="epoch").value == 1
    page.button(key="play").click().run()
    assert page.session_state["playing"]
    assert page.button(key="play").label == "Stop"
    page.button(key="play").click().run()
    assert not page.session_state["playing"]
    assert page.button(key="play").label == "Play"


# Not there ------------------------------------------------------------------------------------------------


def test_nothing_measured_says_what_the_view_is_and_what_brings_it(store: Store) -> None:
    page = show(thresholds=7)
    text = text_of(page)
    assert "all attacked with **one ε**" in text
    assert "No epoch is measured" in text
    assert "Begin with the last" in text
    commands = [own.value for own in page.code]
    assert commands[0] == "fss score --network squeezenet1_1 --dataset bars --epoch 0 --images 110 --thresholds 7"
    assert "epochs_heatmap" not in alts(page)
    assert Board(store).runs() == []


def test_an_epoch_that_is_measured_in_part_or_damaged_is_missing_with_its_reason(store: Store) -> None:
    card, spec = dataset_card(columns.DATASET), pictures.request(epoch=1, epsilon=columns.EPSILON).spec
    checkpoint = pictures.checkpoint_of(1)
    archive = archive_of(store, spec, checkpoint, card, spec.attack(columns.EPSILON))
    assert store.delete(f"responses/{archive.key}/layer/idle/pulse/1")
    page = show()
    assert table(page)["epoch 1"] == ["6 of 7 layers are measured"]
    cut(store, f"responses/{archive.key}/header")
    page = show()
    [reason] = table(page)["epoch 1"]
    assert "header" in reason or "damaged" in reason
    assert "curves" in alts(page)  # epoch 2 is shown all the same


def test_a_control_that_is_damaged_takes_nothing_else_away(store: Store) -> None:
    card, spec = dataset_card(columns.DATASET), pictures.request().spec
    key = archive_of(store, spec, pictures.checkpoint_of(), card, spec.attack(columns.EPSILON)).key
    cut(store, f"responses/{key}/layer/idle/random/0")
    page = show()
    assert page.error
    assert "curves" not in alts(page)
    assert {"epochs_heatmap", "tau_matrix", "trajectories", "profile"} <= set(alts(page))
    assert "Open this epoch in Explore" in [label for label, _ in links(page)]


def test_many_epochs_are_thinned_evenly_with_both_ends() -> None:
    labels = [str(epoch) for epoch in range(101)]
    kept = epochs.thinned(labels, 57)
    assert (kept[0], kept[-1], len(kept)) == ("0", "100", 1000 // 57)
    steps = {int(after) - int(before) for before, after in pairwise(kept)}
    assert max(steps) - min(steps) <= 1
    assert epochs.thinned(labels[:5], 57) == tuple(labels[:5])


def test_a_view_that_was_left_while_it_played_does_not_go_on_playing(store: Store) -> None:
    page = show()
    page.session_state["playing"] = True
    page.session_state["played_at"] = time.monotonic() - 60
    page.run()
    assert not page.exception, page.exception
    assert not page.session_state["playing"]
    assert page.button(key="play").label == "Play"


def test_what_is_saved_is_what_the_core_says(store: Store) -> None:
    page = show()
    labels = [own.label for own in page.get("download_button")]
    for label in ("Scores (CSV)", "Rankings (CSV)", "Calls (CSV)", "Everything (JSON)"):
        assert label in labels
    spec = ComparisonSpec(across="epochs", measurement=pictures.request().spec)
    candidates = find_candidates(store, spec)
    written = json.loads(json.dumps(invariance_json(spec, candidates, found(store)), allow_nan=False))
    assert [own["label"] for own in written["columns"]] == ["0", "1", "2"]
    assert written["groups"]["apart"] == ["hurts"]
