"""The figures that lessons add: an attack, a score as an area, calls, verdicts; and all of them enlarged."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pictures
import plotly.graph_objects as go
import pytest
import reference

from fss_core.figures.areas import area_alt, area_figure, calls_alt, calls_figure
from fss_core.figures.attacks import attack_alt, attack_figure, sweep_alt, sweep_figure
from fss_core.figures.style import DARK, LIGHT, enlarged
from fss_core.figures.verdicts import verdicts_alt, verdicts_figure
from fss_core.flow import find_measured
from fss_core.numerals import signed
from fss_core.responses import Responses
from fss_core.retraining.comparing import Estimate
from fss_core.scores import score_responses
from fss_core.specs import SYNAPTIC_FILTERS, ScoreSpec
from fss_core.store import Store
from fss_core.stories.fields import first_images, layer_calls
from fss_core.summaries import Accuracy, score_area


@pytest.fixture
def responses(known_store: Store) -> Responses:
    measured = find_measured(known_store, pictures.request().spec)
    assert measured is not None
    return measured.responses


def named(figure: go.Figure, name: str) -> Any:
    [trace] = [own for own in figure.data if own.name == name]
    return trace


# Areas ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["hurts", "helps", "slightly"])
@pytest.mark.parametrize("filter", [*SYNAPTIC_FILTERS, "mean"])
@pytest.mark.parametrize("kind", ["clean", "adversarial"])
@pytest.mark.parametrize("how", ["unfiltered", "retained"])
def test_the_whole_area_is_the_score(responses: Responses, layer: str, filter: str, kind: Any, how: Any) -> None:
    area = score_area(responses, layer, filter, kind, ScoreSpec(reference=how))
    rows = score_responses(responses, reference=how).rows
    [score] = [own.score for own in rows if (own.layer, own.filter, own.kind) == (layer, filter, kind)]
    assert area.score == pytest.approx(score, abs=1e-12)
    assert area.so_far[0] == 0
    # By hand: trapezoids, one after the other.
    total = 0.0
    for k in range(1, len(area.positions)):
        heights = [float(area.relative[i] - area.reference[i]) for i in (k - 1, k)]
        total += sum(heights) / 2 * float(area.positions[k] - area.positions[k - 1])
        assert area.so_far[k] == pytest.approx(total, abs=1e-12)


def test_the_mean_of_the_three_is_the_reference_of_the_tests(responses: Responses) -> None:
    area = score_area(responses, "hurts", "mean", "clean", ScoreSpec())
    assert area.score == pytest.approx(pictures.expected_score("hurts", "clean"), abs=1e-12)


@pytest.mark.parametrize("spec", [ScoreSpec(normalise="p0"), ScoreSpec(integration="simpson")])
def test_other_areas_are_refused(responses: Responses, spec: ScoreSpec) -> None:
    with pytest.raises(ValueError, match="by the trapezoid rule"):
        score_area(responses, "hurts", "mean", "clean", spec)
    with pytest.raises(ValueError, match="clean or an adversarial score"):
        score_area(responses, "hurts", "mean", "difference", ScoreSpec())


@pytest.mark.parametrize("dark", [False, True])
def test_the_fill_ends_at_the_threshold_and_never_crosses_the_reference(responses: Responses, dark: bool) -> None:
    area = score_area(responses, "hurts", "high_pass", "clean", ScoreSpec())
    figure = area_figure(area, threshold_index=2, dark=dark)
    lost, gained = named(figure, "lost"), named(figure, "gained")
    assert max(lost.x) == max(gained.x) == 0.5
    assert max(lost.y) <= 1 + 1e-6
    assert min(gained.y) >= 1 - 1e-6
    np.testing.assert_allclose(named(figure, "response").y, area.relative, atol=1e-6)
    assert f"area so far {signed(area.so_far[2])}" in figure.layout.annotations[0].text
    whole = area_figure(area, threshold_index=4, dark=dark)
    assert f"score {signed(area.score)}" in whole.layout.annotations[0].text
    assert f"in all {signed(area.score)}" in area_alt(area, 2)


def test_what_is_not_measurable_is_said(responses: Responses) -> None:
    few = first_images(responses, 20)
    area = score_area(few, "hurts", "mean", "adversarial", ScoreSpec())
    assert area.reason
    assert area.reason in area_alt(area, 1)
    assert "Not measurable" in area_figure(area, threshold_index=1).layout.annotations[0].text


# Calls ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True])
def test_calls_are_drawn_where_they_lie(responses: Responses, dark: bool) -> None:
    one = replace(responses, layers=responses.layers[:1])
    calls = layer_calls(one, "mean", "adversarial", 0.05, one.num_images)
    figure = calls_figure(calls.scores, calls.titles, 0.05, dark=dark)
    trace = named(figure, "scores")
    np.testing.assert_allclose(trace.x, [own.score for own in calls.scores], atol=1e-6)
    band = figure.layout.shapes[0]
    assert (band.x0, band.x1) == (-0.05, 0.05)
    assert [own.filter for own in calls.scores] == [*SYNAPTIC_FILTERS, "mean"]
    expected = pictures.expected_score("hurts", "adversarial")
    assert calls.chosen.score == pytest.approx(expected)
    assert reference.call(expected, 0.05) == calls.chosen.call
    assert f"{signed(calls.chosen.score)}" in calls_alt(calls.scores, calls.titles, 0.05)


def test_a_wide_tolerance_makes_everything_robust_and_few_images_a_wide_interval(responses: Responses) -> None:
    one = replace(responses, layers=responses.layers[:1])
    assert {own.call for own in layer_calls(one, "mean", "clean", 2.0, one.num_images).scores} == {"robust"}
    widths = [
        own.high - own.low
        for num_images in (50, 110)
        for own in [layer_calls(one, "mean", "clean", 0.05, num_images).chosen]
        if own.high is not None and own.low is not None
    ]
    assert widths[0] > widths[1]
    kinds = layer_calls(one, "mean", "all", 0.05, one.num_images)
    assert kinds.titles == ("clean", "adversarial", "difference")
    assert kinds.chosen.kind == "adversarial"


# Attacks and verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True])
def test_an_attack_is_drawn_as_it_is(dark: bool) -> None:
    rng = np.random.default_rng(0)
    clean = rng.random((1, 8, 8), dtype=np.float32)
    chances = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], dtype=np.float32)
    figure = attack_figure(clean, clean, chances, ("a", "<b>", "c"), 1, scale=3.0, dark=dark)
    assert [own.text for own in figure.layout.annotations] == ["image", "change", "attacked"]
    np.testing.assert_allclose(named(figure, "image").y, chances[0])
    np.testing.assert_allclose(named(figure, "attacked").y, chances[1])
    assert figure.layout.xaxis.ticktext[1] == "<b>&lt;b&gt;</b>"
    moved = attack_figure(clean, np.clip(clean + 0.1, 0, 1), chances, ("a", "b", "c"), 0, scale=5.0, dark=dark)
    assert moved.layout.annotations[1].text == "change<br>× 5"
    assert moved.layout.images[0].source == figure.layout.images[0].source
    assert moved.layout.images[1].source != figure.layout.images[1].source
    words = attack_alt(chances, ("a", "b", "c"), 0, 4 / 255, 4 / 255)
    assert (
        "ε = 4/255, largest change 4/255. The network says a with probability 0.700; of the attacked image c" in words
    )


@pytest.mark.parametrize("dark", [False, True])
def test_a_sweep_marks_what_is_chosen_and_what_is_calibrated(dark: bool) -> None:
    found = [Accuracy.of(right, 50) for right in (40, 30, 10)]
    sizes = (0.0, 2 / 255, 8 / 255)
    figure = sweep_figure(sizes, found, chance=0.1, chosen=2, calibrated=2 / 255, dark=dark)
    trace = named(figure, "accuracy")
    np.testing.assert_allclose(trace.y, [0.8, 0.6, 0.2], atol=1e-6)
    assert np.argmax(trace.marker.size) == 2
    [note] = [own for own in figure.layout.annotations if own.text == "calibrated"]
    assert note.x == 1
    assert "0.60 at 2/255" in sweep_alt(sizes, found)


@pytest.mark.parametrize("dark", [False, True])
def test_verdicts_are_filled_where_the_interval_leaves_zero(dark: bool) -> None:
    def between(low: float, value: float, high: float) -> Estimate:
        return Estimate(value=value, low=low, high=high, basis="images", seed_values=(value,))

    found = [between(0.1, 0.2, 0.3), between(-0.1, 0.0, 0.1), None, between(-0.3, -0.2, -0.1)]
    titles = ["one", "two", "three", "<four>"]
    figure = verdicts_figure(titles, found, "FGSM", dark=dark)
    trace = named(figure, "differences")
    assert list(trace.y) == [0, 1, 3]
    assert list(trace.marker.symbol) == ["circle", "circle-open", "circle"]
    assert [own.text for own in figure.layout.annotations] == ["one", "two", "three: not tested", "&lt;four&gt;"]
    assert "three: not tested" in verdicts_alt(titles, found, "FGSM")


# For the back of the hall ---------------------------------------------------------------------------------


def test_enlarging_enlarges_what_is_read(responses: Responses) -> None:
    area = score_area(responses, "hurts", "high_pass", "clean", ScoreSpec())
    plain = area_figure(area, threshold_index=2)
    before = plain.to_json()
    large = enlarged(plain, 1.5)
    assert plain.to_json() == before
    sent = [[own["x"] for own in json.loads(figure.to_json())["data"]] for figure in (large, plain)]
    assert sent[0] == sent[1]
    assert large.layout.height == 1.5 * plain.layout.height
    assert large.layout.margin.l == 1.5 * plain.layout.margin.l
    for place in ("font", "xaxis.tickfont", "xaxis.title.font", "yaxis.tickfont", "hoverlabel.font"):
        assert large.layout[place].size == pytest.approx(1.5 * plain.layout[place].size)
    assert large.layout.annotations[0].font.size == pytest.approx(1.5 * plain.layout.annotations[0].font.size)
    assert large.layout.xaxis.range == plain.layout.xaxis.range
    assert large.layout.xaxis.title.text == plain.layout.xaxis.title.text
    with pytest.raises(ValueError, match="factor must be at least 1"):
        enlarged(plain, 0.5)


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_what_is_read_has_the_contrast_of_level_aa(colours: Any) -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in (colours.ink, colours.muted, colours.accent):
        low, high = sorted((luminance(colour), luminance(colours.ground)))
        assert (high + 0.05) / (low + 0.05) > 4.5
