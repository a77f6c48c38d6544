"""The page Explore, on a store whose every number can be worked out."""

from __future__ import annotations

import io
import json
import re
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pictures
import pytest
import reference
import streamlit as st
from pictures import LAYERS, NUM_IMAGES, alts, complaints, cut, is_offered, key_of, open_page, request, text_of, tiles
from streamlit.testing.v1 import AppTest

from fss_core.explore import find_picture, portable, score_picture
from fss_core.exports import export_zip
from fss_core.flow import Measured
from fss_core.imports import delete_imported, import_zip, read_zip
from fss_core.jobs import requests
from fss_core.jobs.board import Board, Task
from fss_core.jobs.requests import MeasureRequest
from fss_core.numerals import signed
from fss_core.scores import score_responses
from fss_core.specs import GLOBAL_LAYER, ResponseSpec, ScoreSpec, response_key
from fss_core.store import SCHEMA, Store
from pages.common import heatmaps, known, progress, sidebar

EPSILON_TILE, ORIGIN = "Size ε of the attack", "Measured here."


@pytest.fixture(autouse=True)
def _no_process(runners: list[Path]) -> None:
    """No test of this module starts one."""


def opened(**changes: object) -> AppTest:
    """The view of the made-up measurement, without an exception."""
    page = open_page(**pictures.view(**changes))
    assert not page.exception, page.exception
    return page


def runs() -> list[Any]:
    with Store() as store:
        return Board(store).runs()


def without_exception(page: AppTest) -> AppTest:
    assert not page.exception, page.exception
    return page


# A first look ----------------------------------------------------------------------------------------------


def test_a_first_look_is_marked_until_the_layer_is_measured(
    known_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "PREVIEW_IMAGES", 20)
    monkeypatch.setattr(requests, "PREVIEW_THRESHOLDS", pictures.NUM_THRESHOLDS)
    known_store.delete(f"responses/{key_of(known_store)}/layer/helps/pulse/1")
    page = opened(layer="helps", filter="pulse", kind="clean")
    assert "Only a first look so far: 1 of the layers" in alts(page)["heatmap"]
    traces = json.loads(page.get("plotly_chart")[0].proto.spec)["data"]
    names = {text for trace in traces for text in trace.get("text", []) if isinstance(text, str)}
    assert {"<i>helps </i>", "hurts "} <= names
    assert tiles(page)["Layers, clean"][1].endswith("; 1 by a first look")
    said = text_of(page)
    assert "Names in italics: a first look</b>, n = 20 images at 5 thresholds, until n = 110 at 5 are measured" in said
    assert "n = 20" in next(own.value for own in page.get("html") if "a first look<br>" in own.value)
    assert is_offered(page)
    assert alts(page)["curves"].startswith("Accuracy of helps under the pulse filter")


# Nothing measured -----------------------------------------------------------------------------------------


def test_an_empty_page_says_what_this_is_and_what_measuring_takes(empty_cache: Path) -> None:
    page = without_exception(open_page())
    text = text_of(page)
    assert "set some of the weights of one layer to zero" in text
    for word in ("**fragile**", "**robust**", "**antifragile**"):
        assert word in text
    assert "Nothing is measured on this machine yet" in text
    assert page.title[0].value == "ShuffleNet V2 x1.0 on MNIST (5,000 digits), epoch 3"
    assert is_offered(page)
    assert complaints(page) == []
    time = (
        r"About (a few seconds|\d+ (s|min|h)\b).* \(a guess from another machine: nothing has been measured here yet\)"
    )
    assert re.search(time, page.sidebar.caption[-1].value)
    assert re.search(rf"\*\*Measure\*\*, in the side bar, .* 300 images, .* 25 thresholds.*{time}", text)


def test_the_estimate_says_what_it_rests_on(known_store: Store) -> None:
    board = Board(known_store)
    for work in ("forward", "backward"):
        board.add_rate(f"{work}/resnet18/1x8x8/cpu/1", 1000, 1.0)
    page = opened(epoch=1)
    assert "scaled from other work on this machine" in page.sidebar.caption[-1].value


def test_measure_asks_for_exactly_one_run(empty_cache: Path, runners: list[Path]) -> None:
    first, second = open_page(), open_page()
    assert runners == []
    without_exception(first.button(key="measure").click().run())
    (run,) = runs()
    assert run.state == "queued"
    assert run.request["spec"]["training"]["network"] == "shufflenet_v2_x1_0"
    assert (run.request["whole"], run.request["control"]) == (True, True)
    assert runners
    assert not is_offered(first)
    assert first.button(key="measure").label == "Measuring …"
    assert not first.button(key="cancel").disabled
    (bar,) = first.get("progress")
    assert "waiting for a worker" in bar.proto.text
    assert "fills row by row" in text_of(first)
    # Another viewer, whose page is older than the run, asks for the same.
    without_exception(second.button(key="measure").click().run())
    assert [own.key for own in runs()] == [run.key]
    third = without_exception(open_page())
    assert third.get("progress")
    assert not is_offered(third)


def test_a_run_is_cancelled_and_asked_for_again(empty_cache: Path) -> None:
    page = open_page()
    page.button(key="measure").click().run()
    without_exception(page.button(key="cancel").click().run())
    assert [run.state for run in runs()] == ["cancelled"]
    assert not page.get("progress")
    assert "What was finished is kept" in page.info[0].value
    assert is_offered(page)
    page.button(key="measure").click().run()
    assert [run.state for run in runs()] == ["queued"]


def test_a_failed_run_says_why_and_is_tried_again(known_store: Store) -> None:
    board = Board(known_store)
    known_store.delete_prefix("responses/")
    run = board.ask("measure", request().to_json())
    board.end(run.key, "failed", "no *memory* for <b>that</b>; free some")
    page = opened()
    assert page.error[0].value == r"Measuring failed: no \*memory\* for \<b\>that\</b\>; free some"
    without_exception(page.button(key="retry").click().run())
    assert [(own.key, own.state) for own in board.runs()] == [(run.key, "queued")]
    assert not page.error


def test_a_failure_that_was_made_good_since_is_not_shown(known_store: Store) -> None:
    board = Board(known_store)
    board.end(board.ask("measure", request().to_json()).key, "failed", "no memory")
    assert "no memory" not in text_of(opened())


def test_a_quick_look_sets_the_controls_and_asks_for_nothing(empty_cache: Path, runners: list[Path]) -> None:
    page = without_exception(open_page().button(key="quick").click().run())
    state = page.session_state
    assert (state["images"], state["thresholds"], state["control"]) == (100, 9, False)
    assert (runs(), runners) == ([], [])
    assert not any(button.key == "quick" for button in page.button)


# Links ----------------------------------------------------------------------------------------------------


def test_links_that_are_listed_lead_to_what_they_name(known_cache: Path, runners: list[Path]) -> None:
    ((label, query),) = pictures.links(open_page())
    assert label.startswith("SqueezeNet-v1.1 on bars (image folder), epoch 2")
    page = without_exception(open_page(**query))
    assert page.query_params == pictures.view(layer="hurts", k=2)
    assert ORIGIN in text_of(page)
    assert complaints(page) == [own for own in complaints(page) if own.startswith("Not measurable")]
    assert (runs(), runners) == ([], [])


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilon": 8 / 255},
        {"epsilon": 0.1},
        {"attack_kind": "pgd", "attack_mode": "adaptive"},
        {"response": replace(request().spec.response, num_thresholds=11)},
    ],
    ids=str,
)
def test_links_reproduce_every_measurement_that_can_be_listed(known_store: Store, changes: dict[str, Any]) -> None:
    own = request(**changes)
    for part, spec in own.parts().items():
        known_store.record(f"another {part}", {"measurement": asdict(spec)})
    (_, query), _ = pictures.links(open_page())  # the latest comes first
    page = without_exception(open_page(**query))
    assert not any("link" in complaint for complaint in complaints(page))
    page.button(key="measure").click().run()
    (run,) = runs()
    assert run.key == own.key


def test_listed_measurements_are_told_apart(known_store: Store) -> None:
    for index, epsilon in enumerate((8 / 255, 0.1)):
        known_store.record(str(index), {"measurement": asdict(request(epsilon=epsilon).spec)})
    labels = [label for label, _ in pictures.links(open_page())]
    assert len(set(labels)) == len(labels) == 3


def test_a_link_that_was_copied_shows_the_same(known_cache: Path) -> None:
    chosen = {"reference": "retained", "normalise": "p0", "tolerance": 0.1, "level": 0.8, "together": True, "k": 3}
    chosen |= {"layer": "slightly", "filter": "pulse", "kind": "clean", "map": "weights"}
    page = opened(**chosen)
    again = without_exception(open_page(**page.query_params))
    assert again.query_params == page.query_params == pictures.view(**chosen)
    assert tiles(again) == tiles(page)
    assert alts(again) == alts(page)


@pytest.mark.parametrize(("seconds_later", "shown"), [(1, 0.1), (60, 0.05)], ids=["late", "back"])
def test_a_late_address_undoes_nothing_and_an_earlier_one_leads_back(
    known_cache: Path, monkeypatch: pytest.MonkeyPatch, seconds_later: int, shown: float
) -> None:
    page = opened()
    now = [time.monotonic()]
    monkeypatch.setattr("pages.common.links.time", SimpleNamespace(monotonic=lambda: now[0]))
    before = dict(page.query_params)
    page.slider(key="tolerance").set_value(0.1).run()
    assert page.query_params == before | {"tolerance": "0.1"}
    now[0] += seconds_later
    page.query_params = before  # what a tab sends that has not heard of the change yet, or that was led back
    page.run()
    assert page.slider(key="tolerance").value == shown
    assert page.query_params == before | ({"tolerance": "0.1"} if shown == 0.1 else {})


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"dataset": "nope"}, "nope"),
        ({"dataset": "../../etc"}, "etc"),
        ({"network": "<b>x</b>"}, r"\<b\>x\</b\>"),
        ({"attack": "cw"}, "cw"),
        ({"mode": "sideways"}, "sideways"),
        ({"epoch": "-1"}, "epoch"),
        ({"epoch": "three"}, "epoch"),
        ({"init": "1.5"}, "initialisation"),
        ({"images": "0"}, "images"),
        ({"images": "9999999"}, "images"),
        ({"images": "²"}, "images"),
        ({"thresholds": "1"}, "thresholds"),
        ({"thresholds": "many"}, "thresholds"),
        ({"epsilon": "banana"}, "banana"),
        ({"epsilon": "2"}, "ε must lie"),
        ({"epsilon": "-8/255"}, "ε must lie"),
        ({"epsilon": "nan"}, "ε must lie"),
        ({"epsilon": "8/0"}, "ε must lie"),
        ({"epsilon": "0.0314 <b>x</b> and much more"}, "ε must lie"),
        ({"reference": "nothing"}, "nothing"),
        ({"normalise": "nothing"}, "nothing"),
        ({"integration": "nothing"}, "nothing"),
        ({"tolerance": "9"}, "tolerance"),
        ({"level": "7"}, "level"),
    ],
    ids=str,
)
def test_a_link_that_makes_no_sense_says_so_in_one_line(
    known_cache: Path, runners: list[Path], query: dict[str, str], words: str
) -> None:
    page = without_exception(open_page(**query))
    (line,) = complaints(page)
    assert words in line
    assert "\n" not in line
    assert (runs(), runners) == ([], [])


def test_a_link_problem_is_dismissed(known_cache: Path) -> None:
    page = open_page(epoch="-1")
    without_exception(page.button(key="dismiss").click().run())
    assert complaints(page) == []


# What is shown --------------------------------------------------------------------------------------------


def test_accuracies_intervals_and_epsilon_are_those_of_the_images(known_cache: Path) -> None:
    page = opened()
    found = tiles(page)
    for name, right in (("Clean accuracy", 88), ("Accuracy under FGSM", 55)):
        low, high = reference.wilson(right, NUM_IMAGES)
        assert found[name] == (f"{right / 110:.3f}", f"95% interval {low:.3f} to {high:.3f}, n = 110")
    assert found[EPSILON_TILE][0] == "6/255"
    assert found[EPSILON_TILE][1].startswith("frozen; calibrated with PGD on 30 images")
    assert found["Dead weights"][0] == "10.0%"
    assert "of 500" in found["Dead weights"][1]
    assert "No gradient" not in found
    assert page.title[0].value == "SqueezeNet-v1.1 on bars (image folder), epoch 2"
    assert ORIGIN in text_of(page)
    assert page.button(key="measure").label == "Measured"
    assert not is_offered(page)
    (warning,) = complaints(page)
    assert warning.startswith("Not measurable: 15 of 75 scores")


@pytest.mark.parametrize("kind", ["clean", "adversarial"])
def test_decided_and_leaning_calls_are_told_apart(known_store: Store, kind: str) -> None:
    value, note = tiles(opened())[f"Layers, {kind}"]
    picture = find_picture(known_store, request())
    assert picture is not None
    rows = [row for row in score_picture(picture, ScoreSpec()).layers.rows if (row.filter, row.kind) == ("mean", kind)]
    assert len(rows) == len(LAYERS)
    words = {"decided": value, "leaning": note}
    for certainty, text in words.items():
        for call in ("fragile", "robust", "antifragile"):
            letter = call[0].upper() if certainty == "decided" else call[0]
            count = sum((row.call, row.certainty) == (call, certainty) for row in rows)
            assert re.search(rf"\b{count} {letter}\b", text)
    assert note.endswith("1 not measurable")


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"tolerance": 0.01},
        {"tolerance": 0.03},
        {"tolerance": 0.3},
        {"reference": "retained"},
        {"normalise": "p0", "tolerance": 0.04},
        {"normalise": "none", "tolerance": 0.02},
        {"integration": "simpson", "tolerance": 0.04},
        {"reference": "retained", "normalise": "none", "integration": "simpson", "tolerance": 0.1},
    ],
    ids=str,
)
def test_scoring_re_labels_at_once(known_cache: Path, how: dict[str, Any]) -> None:
    page = opened()
    for name, value in how.items():
        widget = page.slider(key=name) if name == "tolerance" else page.selectbox(key=name)
        widget.set_value(value)
    without_exception(page.run())
    settings = {name: value for name, value in how.items() if name != "tolerance"}
    for kind in ("clean", "adversarial"):
        expected = pictures.expected_calls(kind, how.get("tolerance", 0.05), **settings)
        assert pictures.calls(page, kind) == expected
    heatmap = alts(page)["heatmap"]
    for call, number in pictures.expected_calls("difference", how.get("tolerance", 0.05), **settings).items():
        # The whole network, which behaves as the layer that hurts, is a row of the map.
        whole = reference.call(pictures.expected_score("hurts", "difference", **settings), how.get("tolerance", 0.05))
        shown = number + (call == whole)
        assert (f"{shown} {call}" in heatmap.split("difference: ")[1]) == (shown > 0)
    words = {"retained": "fraction of weights kept", "unfiltered": "Reference: the unfiltered network"}
    assert words[how.get("reference", "unfiltered")] in text_of(page)


def test_scoring_again_changes_counts() -> None:
    """The expectations above differ, or they would show nothing."""
    found = {
        str(pictures.expected_calls("clean", tolerance, **how))
        for tolerance, how in ((0.05, {}), (0.03, {}), (0.05, {"reference": "retained"}), (0.01, {"normalise": "none"}))
    }
    assert len(found) >= 3


@pytest.mark.parametrize(
    ("level", "together", "shown"), [(0.95, False, "95"), (0.8, False, "80"), (0.95, True, "99.9444")]
)
def test_level_and_together_widen_intervals(known_cache: Path, level: float, together: bool, shown: str) -> None:
    # 90 scores: five layers and the whole network, four filters and their mean, three kinds.
    page = opened(layer="slightly", filter="mean", kind="clean")
    page.selectbox(key="level").set_value(level)
    page.toggle(key="together").set_value(together)
    text = text_of(without_exception(page.run()))
    assert f"{shown} % interval, n = 110" in text
    assert ("all together" if together else "each by itself") in text


# Drill-down -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["hurts", "helps", "slightly"])
@pytest.mark.parametrize("kind", ["clean", "adversarial", "difference"])
def test_a_cell_is_chosen_in_boxes(known_cache: Path, layer: str, kind: str) -> None:
    page = opened()
    page.selectbox(key="layer").set_value(layer)
    page.selectbox(key="filter").set_value("mean")
    page.selectbox(key="kind").set_value(kind)
    without_exception(page.run())
    expected = signed(pictures.expected_score(layer, kind))
    (words,) = [own.value for own in page.get("html") if "accuracy unfiltered" in own.value]
    assert f"<br>{expected} [" in words
    assert f"<b>{layer}</b>" in words
    assert f"Accuracy of {layer} under the mean of the three filters filter over 5 thresholds" in alts(page)["curves"]
    assert f"weights of {layer}" in alts(page)["histogram"]


@pytest.mark.parametrize(("name", "k", "removed"), [("pulse", 0, 12), ("pulse", 2, 26), ("high_pass", 4, 100)])
def test_the_threshold_says_what_is_removed_and_which_images_change(
    known_cache: Path, name: str, k: int, removed: int
) -> None:
    page = opened(layer="hurts", filter=name)
    page.slider(key="k").set_value(k)
    found = alts(without_exception(page.run()))
    assert f"at t = {k / 4:.2f}, {removed} of 100 weights removed" in found["histogram"]
    changed = {
        kind: int((pictures.survives("hurts", name, 0, kind)[k] != pictures.unfiltered_right(kind)).sum())
        for kind in ("clean", "adversarial")
    }
    text = text_of(page)
    if changed["clean"]:
        assert f"clean: {changed['clean']} from right to wrong" in text
        assert f"adversarial: {changed['adversarial']} from right to wrong" in text
    else:
        assert "No prediction changes there, of 110 images" in text
    assert ("changed_images" in found) == (changed["clean"] > 0)


def test_the_whole_network_is_a_row_that_can_be_chosen(known_cache: Path) -> None:
    page = opened()
    page.selectbox(key="layer").set_value(GLOBAL_LAYER)
    without_exception(page.run())
    assert "Whole network" in text_of(page)
    assert alts(page)["curves"].startswith("Accuracy of the whole network")
    assert alts(page)["histogram"].startswith("All weights of the network")
    assert "6 layers by" in alts(page)["heatmap"]


def test_the_whole_network_is_left_out_where_it_was_not_asked_for(known_cache: Path) -> None:
    page = opened(whole=False)
    assert "5 layers by" in alts(page)["heatmap"]
    assert GLOBAL_LAYER not in page.selectbox(key="layer").options
    assert "Whole network" not in page.selectbox(key="layer").options


def test_which_weights_matter_is_another_map(known_cache: Path) -> None:
    page = opened(map="weights")
    found = alts(page)["weights_map"]
    assert "adversarial response to the pulse filter, 5 layers by 5 thresholds" in found
    # Of all pulses, the third takes what "hurts" needs: all of the accuracy above chance, and chance too.
    assert "Lowest −2.00 in hurts at t = 0.50, highest +2.00 in helps" in found
    page.selectbox(key="map_filter").set_value("high_pass")
    page.selectbox(key="map_kind").set_value("clean")
    assert "clean response to the high-pass filter" in alts(without_exception(page.run()))["weights_map"]


@pytest.mark.parametrize("k", ["99", "-1", "two", "1.5"])
def test_a_threshold_that_does_not_exist_is_none(known_cache: Path, k: str) -> None:
    for shown in ("scores", "weights"):
        page = without_exception(open_page(**pictures.view(map=shown, k=k)))
        assert 0 <= page.slider(key="k").value <= 4


@pytest.mark.parametrize("shown", ["scores", "weights"])
def test_a_threshold_chosen_among_more_is_let_go(known_cache: Path, shown: str) -> None:
    page = opened(map=shown)
    page.session_state["k"] = 20
    without_exception(page.run())
    assert 0 <= page.slider(key="k").value <= 4


@pytest.mark.parametrize(
    "query", [{"layer": "<b>nonsense</b>"}, {"filter": "nonsense"}, {"kind": "nonsense"}, {"map": "nonsense"}], ids=str
)
def test_a_cell_that_does_not_exist_is_another(known_cache: Path, query: dict[str, str]) -> None:
    page = without_exception(open_page(**query, **pictures.view()))
    assert page.session_state["layer"] == "hurts"
    assert "<b>nonsense" not in text_of(page)


# Incomplete -----------------------------------------------------------------------------------------------


def test_a_missing_control_is_no_filter_and_is_offered(known_store: Store) -> None:
    for part in ("layers", "whole"):
        for name in (*LAYERS, GLOBAL_LAYER):
            known_store.delete_prefix(f"responses/{key_of(known_store, part)}/layer/{name}/random")
    page = opened(filter="random")
    assert "Random control" not in page.selectbox(key="filter").options
    assert is_offered(page)
    assert "Whole network" in page.selectbox(key="layer").options


def test_a_layer_that_is_not_finished_is_a_row_without_a_score(known_store: Store) -> None:
    page = opened()
    assert "not measured" not in alts(page)["heatmap"]
    known_store.delete_prefix(f"responses/{key_of(known_store)}/layer/helps/")
    without_exception(page.run())
    assert "1 not measured" in alts(page)["heatmap"]
    assert "helps" not in page.selectbox(key="layer").options
    assert pictures.calls(page, "clean")["antifragile"] == 0
    assert is_offered(page)


def test_no_layer_at_all_is_a_state_of_its_own(known_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("layers", "whole"):
        known_store.delete_prefix(f"responses/{key_of(known_store, part)}/layer/")
    saved = captured_downloads(monkeypatch)
    page = opened()
    assert "No layer is finished yet." in [own.value for own in page.info]
    for content in saved.values():
        assert content()


# Nothing to compare with ----------------------------------------------------------------------------------


def test_a_network_at_chance_has_no_scores_and_says_why(known_store: Store) -> None:
    def right(kind: str) -> pictures.Right:
        return np.arange(NUM_IMAGES) % 4 == 0

    pictures.write(known_store, pictures.checkpoint_of(), right=right)
    page = opened()
    (warning,) = complaints(page)
    assert "near chance (0.250)" in warning
    assert "A larger n, another epoch or another ε may help" in warning
    assert "clean accuracy without a filter is 0.255" in warning
    for kind in ("clean", "adversarial"):
        assert pictures.calls(page, kind) == {"fragile": 0, "robust": 0, "antifragile": 0}
        assert tiles(page)[f"Layers, {kind}"][1].endswith("5 not measurable")
    assert "6 not measurable" in alts(page)["heatmap"]


def test_an_epsilon_at_which_nothing_is_left_has_clean_scores_only(known_store: Store) -> None:
    def right(kind: str) -> pictures.Right:
        return pictures.unfiltered_right(kind) & (kind == "clean")

    pictures.write(known_store, pictures.checkpoint_of(), right=right)
    page = opened()
    assert tiles(page)["Accuracy under FGSM"][0] == "0.000"
    assert "only 0 adversarial images are right" in complaints(page)[0].replace("\\", "")
    assert tiles(page)["Layers, adversarial"][1].endswith("5 not measurable")
    assert pictures.calls(page, "clean")["fragile"] == 1


# Damage ---------------------------------------------------------------------------------------------------


def harm_by_cutting(store: Store, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(store, key)


@pytest.mark.parametrize("harm", [harm_by_cutting, pictures.make_old])
@pytest.mark.parametrize("piece", ["header", "layer/idle/pulse/0", "facts/idle/random", "unfiltered/1", "epsilon"])
def test_what_cannot_be_read_is_named_and_measured_again(
    known_store: Store,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Store, str, pytest.MonkeyPatch], None],
    piece: str,
) -> None:
    (key,) = known_store.keys("epsilon/") if piece == "epsilon" else [f"responses/{key_of(known_store)}/{piece}"]
    before = known_store.count()
    harm(known_store, key, monkeypatch)
    page = opened()
    assert len(page.error) == 1
    assert "\n" not in page.error[0].value
    assert ("has schema 2" if harm is pictures.make_old else "is damaged") in page.error[0].value
    without_exception(page.button(key="repair").click().run())
    assert known_store.count() == before - 1
    (run,) = runs()
    assert (run.key, run.state) == (request().key, "queued")
    assert page.get("progress")
    assert not page.error


def test_more_images_than_there_are_is_no_damage(known_cache: Path) -> None:
    page = opened(images=121)
    said = [own for own in [*complaints(page), *(own.value for own in page.caption)] if "at most 120" in own]
    assert said
    assert all(button.key != "repair" for button in page.button)
    assert not is_offered(page)
    assert len(page.error) <= 1


def test_a_broken_checkpoint_is_named(known_cache: Path) -> None:
    (sidecar,) = (known_cache / "checkpoints").rglob("checkpoint.json")
    sidecar.write_text("{", encoding="utf-8")
    page = opened()
    assert "is broken" in page.error[0].value.replace("\\", "")
    assert "delete" in page.error[0].value
    # Nothing of this can be forgotten by a button that forgets results.
    assert all(button.key != "repair" for button in page.button)


def test_deleted_adversarial_images_come_with_a_remedy_that_works(known_store: Store) -> None:
    known_store.delete_prefix("adversarial/")
    page = opened(layer="hurts", filter="pulse", k=2)
    text = text_of(page)
    assert "adversarial images were deleted" in text
    assert not is_offered(page)
    assert "press Measure" not in text
    assert "--refresh" in text


def test_damaged_adversarial_images_come_with_a_remedy_that_works(known_store: Store) -> None:
    for key in known_store.keys("adversarial/"):
        cut(known_store, key)
    page = opened(layer="hurts", filter="pulse", k=2)
    assert "is damaged" in text_of(page)
    assert "--refresh" in text_of(page)


# Elsewhere ------------------------------------------------------------------------------------------------


def test_a_data_set_that_is_gone_comes_with_its_remedy(known_cache: Path) -> None:
    pictures.lose_folder(known_cache)
    page = opened()
    text = text_of(page.sidebar)
    assert "fss data add bars" in text
    assert "fss data fetch" not in text
    assert not is_offered(page)


def test_a_built_in_data_set_that_is_not_here_is_fetched(known_cache: Path) -> None:
    page = opened(dataset="cifar10")
    assert "fss data fetch cifar10" in text_of(page.sidebar)
    assert not is_offered(page)


def test_a_broken_list_of_data_sets_is_named(known_cache: Path) -> None:
    (known_cache / "datasets.json").write_text("{", encoding="utf-8")
    page = without_exception(open_page())
    assert "datasets.json" in text_of(page)


def export_here(store: Store) -> bytes:
    picture = find_picture(store, request())
    assert picture is not None
    target, measured = io.BytesIO(), portable(picture)
    export_zip(measured, score_responses(measured.responses), target)
    return target.getvalue()


def test_an_import_of_a_foreign_data_set_is_shown_with_its_origin(known_store: Store, known_cache: Path) -> None:
    import_zip(export_here(known_store))
    (known_cache / "datasets.json").unlink()
    page = opened()
    text = text_of(page)
    assert "Imported: measured elsewhere" in text
    assert "Not registered on this machine" in text
    assert tiles(page)["Clean accuracy"][0] == "0.800"
    assert pictures.calls(page, "clean") == pictures.expected_calls("clean")
    assert "imported results carry no images" in text
    assert not is_offered(page)
    (query,) = [query for label, query in pictures.links(page) if "imported" in label]
    assert "Imported: measured elsewhere" in text_of(without_exception(open_page(**query)))


def test_a_damaged_import_comes_with_a_remedy_that_works(known_store: Store, known_cache: Path) -> None:
    path = import_zip(export_here(known_store)).checkpoint.path
    pictures.lose_folder(known_cache)
    damage_tables(path)
    page = opened()
    [error] = page.error
    assert "\n" not in error.value
    assert "Delete it, and import a sound copy" in text_of(page)
    assert not [button for button in page.button if button.key == "repair"]
    assert "Runs, where it can be deleted" in [label for label, _ in pictures.links(page)] + [
        own.proto.label for own in page.get("page_link")
    ]
    assert delete_imported(path.stem)
    assert not opened().error


def test_a_damaged_published_result_comes_with_a_remedy(known_store: Store, known_cache: Path) -> None:
    (known_cache / "published").mkdir()
    path = known_cache / "published" / "study.zip"
    path.write_bytes(export_here(known_store))
    pictures.lose_folder(known_cache)
    damage_tables(path)
    page = opened()
    assert len(page.error) == 1
    assert "git checkout -- cache/published" in text_of(page)


def damage_tables(path: Path) -> None:
    """Change a byte of every table of an exported ZIP; its manifest stays."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            middle = len(content) // 2
            spoilt = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
            archive.writestr(name, spoilt if name.endswith(".parquet") else content)


def test_what_was_measured_on_a_gpu_is_listed_and_opened_without_one(
    known_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (progress, sidebar):
        monkeypatch.setattr(module, "num_gpus", lambda: 0)
    measured = import_zip(exported(replace_device(known_store, "cuda:0")))
    assert measured.spec.device_type == "cuda"
    [query] = [query for label, query in pictures.links(opened(init=7)) if "imported" in label]
    assert query["device"] == "cuda"
    page = without_exception(open_page(**query))
    assert "Imported: measured elsewhere" in text_of(page)
    assert page.query_params["device"] in ("cuda", ["cuda"])
    assert page.button(key="measure").disabled
    assert "This machine has no NVIDIA GPU: only what is there already" in text_of(page)


def replace_device(store: Store, device: str) -> Measured:
    picture = find_picture(store, request())
    assert picture is not None
    measured = portable(picture)
    spec, attack = replace(measured.spec, device=device), measured.responses.attack
    assert attack is not None
    key = response_key(
        response=spec.response,
        attack=attack,
        network=measured.checkpoint.identity,
        probe=measured.card.fingerprints["probe"],
        device_type=spec.device_type,
        schema=SCHEMA,
    )
    return replace(measured, spec=spec, key=key)


def exported(measured: Measured) -> bytes:
    target = io.BytesIO()
    export_zip(measured, score_responses(measured.responses), target)
    return target.getvalue()


def test_a_run_of_the_command_line_is_seen_here(known_store: Store) -> None:
    """It asks for the layers alone; the page for the whole network and the control, too."""
    known_store.delete_prefix("responses/")
    board = Board(known_store)
    run = board.ask("measure", MeasureRequest(spec=request().spec).to_json())
    with known_store.claim(run.lease, wait=False):
        board.begin(run.key)
        board.put_tasks(run.key, [Task(name=f"layers:{own}", units=1, rate="", seconds=10) for own in LAYERS])
        board.start_task(run.key, f"layers:{LAYERS[0]}")
        page = opened()
        assert is_offered(page)  # what it does not measure can be asked for
        assert "Asked for elsewhere, it measures some of this" in text_of(page)
        [bar] = page.get("progress")
        assert "filtering layer by layer" in bar.proto.text
        page.button(key="cancel").click().run()
        assert board.get(run.key).state == "cancelling"
    board.end(run.key, "cancelled")
    assert is_offered(opened())


@pytest.mark.parametrize(
    ("other", "is_seen"),
    [
        (MeasureRequest(spec=request(num_images=50).spec), True),
        (MeasureRequest(spec=request(device="cpu", attack_kind="FGSM").spec, control=True), True),
        (MeasureRequest(spec=request().spec, layers=("hurts",)), True),
        (MeasureRequest(spec=request().spec, layers=()), False),  # the network alone, for a lecture
        (MeasureRequest(spec=request(epoch=7).spec), False),
        (MeasureRequest(spec=replace(request().spec, response=ResponseSpec(num_thresholds=9))), False),
    ],
)
def test_another_run_is_seen_where_it_measures_some_of_the_same(
    known_store: Store, other: MeasureRequest, is_seen: bool
) -> None:
    known_store.delete_prefix("responses/")
    Board(known_store).ask("measure", other.to_json())
    page = opened()
    assert bool(page.get("progress")) == is_seen
    assert is_offered(page)


def test_a_run_that_is_struck_off_while_it_is_shown_is_gone(
    known_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    known_store.delete_prefix("responses/")
    board = Board(known_store)
    run = board.ask("measure", request().to_json())
    found = iter([run])  # the page has found it, and its strip looks a moment later
    monkeypatch.setattr(progress, "find_run", lambda *_: next(found, None))
    board.delete(run.key)
    page = opened()
    assert not page.error
    assert not page.get("progress")
    assert is_offered(page)


def test_a_large_network_is_shown_part_by_part(known_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heatmaps, "_MOST_ROWS", 4)
    page = opened()
    box = page.selectbox(key="rows")
    assert box.options == ["1 to 4 of 6", "5 to 6 of 6"]
    assert alts(page)["heatmap"].startswith("Heatmap of filtering scores, 4 layers")
    without_exception(box.set_value(1).run())
    assert alts(page)["heatmap"].startswith("Heatmap of filtering scores, 2 layers")
    assert page.query_params["rows"] in ("1", ["1"])
    assert alts(opened(rows=99))["heatmap"].startswith("Heatmap of filtering scores, 2 layers")


def test_everything_that_is_measured_can_be_reached(known_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (3, 4):
        training = replace(request().spec.training, seed=seed)
        known_store.record(f"of {seed}", {"measurement": asdict(request(training=training).spec)})
    every = pictures.links(opened(init=9))
    monkeypatch.setattr(known, "_MOST", 1)
    page = opened(init=9)
    assert pictures.links(page) == every
    assert len(every) == 3


def test_the_level_is_that_of_the_accuracies_too(known_cache: Path) -> None:
    for level, words in ((0.8, "80% interval"), (0.99, "99% interval")):
        assert tiles(opened(level=level))["Clean accuracy"][1].startswith(words)


def test_names_of_strangers_are_shown_as_they_are(known_store: Store) -> None:
    name = "<img src=x>*a*"
    pictures.write(known_store, pictures.checkpoint_of(), layers=(name,))
    page = opened()
    for element in page.get("html"):
        assert "<img" not in element.value
    for kind in ("markdown", "caption", "warning", "error", "info", "title"):
        for element in page.get(kind):
            assert "<img" not in element.value
            assert "*a*" not in element.value
    assert "&lt;img src=x&gt;*a*" in text_of(page)


# Downloads ------------------------------------------------------------------------------------------------


def captured_downloads(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], bytes]]:
    """Keep what download buttons would give."""
    found: dict[str, Callable[[], bytes]] = {}
    drawn = st.download_button

    def draw(label: str, data: Callable[[], bytes], *arguments: object, **options: Any) -> bool:
        found[options["key"]] = data
        return drawn(label, data, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(st, "download_button", draw)
    return found


def test_what_is_downloaded_is_what_is_shown(known_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = captured_downloads(monkeypatch)
    page = opened(reference="retained", tolerance=0.1)
    assert {button.key for button in page.get("download_button")} == saved.keys()
    picture = find_picture(known_store, request())
    assert picture is not None
    scores = score_picture(picture, ScoreSpec(reference="retained", tolerance=0.1))
    found = pd.read_csv(io.BytesIO(saved["save_csv"]()))
    assert len(found) == (5 + 1) * 15  # the whole network, too
    assert found["score"].dropna().tolist() == pytest.approx(
        [row.score for own in scores.all for row in own.rows if row.score is not None]
    )
    responses = pd.read_csv(io.BytesIO(saved["save_responses"]()))
    assert set(responses["layer"]) == {*LAYERS, GLOBAL_LAYER}
    assert "random" in set(responses["filter"])
    measured = read_zip(saved["save_zip"]())
    assert "random" in measured.spec.response.filters
    assert measured.responses.num_images == NUM_IMAGES
    for key in ("save_scores", "save_curves", "save_histogram", "save_images"):
        assert b"<html" in saved[key]()[:1000].lower()
