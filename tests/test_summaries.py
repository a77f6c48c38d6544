"""What a person sees, against plain loops over METHOD: counts, grids, maps, curves, changed images."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scores import make_responses, random_responses, with_images

from fss_core.measuring import measure_responses
from fss_core.responses import Predictions, Responses
from fss_core.scores import KINDS, Scores, quadrature, score_responses
from fss_core.specs import CONTROL_FILTER, GLOBAL_LAYER, SYNAPTIC_FILTERS, ScoreSpec
from fss_core.summaries import (
    ScoreGrid,
    changed_images,
    control_band,
    count_calls,
    dead_share,
    join_control,
    letter,
    removed_weights,
    response_curves,
    score_grid,
    threshold_map,
    unfiltered_accuracy,
)

EVERY_FILTER = (*SYNAPTIC_FILTERS, CONTROL_FILTER)
SETTINGS = [
    ScoreSpec(normalise=normalise, reference=b, integration=rule)  # type: ignore[arg-type]
    for normalise in ("chance", "p0", "none")
    for b in ("unfiltered", "retained")
    for rule in ("trapezoid", "simpson")
]


def scored(responses: Responses, spec: ScoreSpec = ScoreSpec()) -> Scores:  # noqa: B008
    return score_responses(responses, reference=spec.reference, normalise=spec.normalise, integration=spec.integration)


def only(responses: Responses, filters: tuple[str, ...]) -> Responses:
    """The rows of some filters, as if nothing else had been measured."""
    chosen = [index for index, row in enumerate(responses.rows) if row.filter in filters]

    def rows(predictions: Predictions) -> Predictions:
        return Predictions(clean=predictions.clean[chosen], adversarial=predictions.adversarial[chosen])

    return replace(
        responses,
        spec=replace(responses.spec, filters=filters),  # type: ignore[arg-type]
        rows=tuple(responses.rows[index] for index in chosen),
        layers=tuple(
            replace(
                layer,
                predictions=rows(layer.predictions),
                facts=replace(
                    layer.facts,
                    num_kept=layer.facts.num_kept[chosen],
                    num_live_kept=layer.facts.num_live_kept[chosen],
                    changes=layer.facts.changes[chosen],
                ),
            )
            for layer in responses.layers
        ),
    )


def at_chance(num_images: int = 40) -> Responses:
    wrong = np.zeros((2, num_images), dtype=bool)
    return make_responses(
        np.zeros((1, 3, 3, num_images), dtype=bool), np.zeros((1, 3, 3, num_images), dtype=bool), wrong
    )


# Tiles ----------------------------------------------------------------------------------------------------


def test_accuracy_is_counted_and_has_wilsons_interval() -> None:
    responses = random_responses(0)
    for kind, predicted in (("clean", responses.unfiltered.clean), ("adversarial", responses.unfiltered.adversarial)):
        right = sum(int(a == b) for a, b in zip(predicted, responses.labels, strict=True))
        found = unfiltered_accuracy(responses, kind)  # type: ignore[arg-type]
        assert (found.num_right, found.num_images, found.value) == (right, 120, right / 120)
        assert (found.low, found.high) == pytest.approx(reference.wilson(right, 120))
    narrower = unfiltered_accuracy(responses, "clean", 0.5)
    assert narrower.high - narrower.low < 0.5 * (found.high - found.low)
    with pytest.raises(ValueError, match="difference"):
        unfiltered_accuracy(responses, "difference")


def test_calls_are_counted_by_certainty_without_the_whole_network() -> None:
    found = scored(random_responses(1, num_layers=4, change=0.6))
    whole = replace(found, rows=found.rows + tuple(replace(row, layer=GLOBAL_LAYER) for row in found.rows[:12]))
    for name in (*SYNAPTIC_FILTERS, "mean"):
        counts = count_calls(whole, name)
        for kind in KINDS:
            rows = [row for row in found.rows if row.filter == name and row.kind == kind]
            assert counts[kind].total == len(rows) == 4
            for call in ("fragile", "robust", "antifragile"):
                for certainty, by_call in (("decided", counts[kind].decided), ("leaning", counts[kind].leaning)):
                    assert by_call[call] == sum((row.call, row.certainty) == (call, certainty) for row in rows)
    assert count_calls(scored(at_chance()))["clean"].not_measurable == 1


def test_dead_weights_are_those_of_single_layers() -> None:
    responses = random_responses(0, num_layers=3)
    found = dead_share(responses)
    assert found is not None
    assert (found.share, found.num_weights, found.num_live, found.num_layers) == (pytest.approx(0.1), 300, 270, 3)
    whole = replace(responses.layers[0], facts=replace(responses.layers[0].facts, name=GLOBAL_LAYER))
    assert dead_share(replace(responses, layers=(*responses.layers, whole))) == found
    assert dead_share(replace(responses, layers=(whole,))) is None


# Grid -----------------------------------------------------------------------------------------------------


def test_a_grid_holds_every_score_in_its_place() -> None:
    responses = random_responses(2, num_layers=3, filters=EVERY_FILTER)
    found = scored(responses)
    names = ["layer0", "not yet", "layer1", "layer2"]
    grid = score_grid(
        [found], [GLOBAL_LAYER, *names], spec=found.spec, filters=("pulse", "mean", "random"), responses=[responses]
    )
    assert grid.layers == (*names, GLOBAL_LAYER)
    assert grid.columns == tuple((kind, name) for kind in KINDS for name in ("pulse", "mean", "random"))
    assert grid.filters == ("pulse", "mean", "random")
    assert grid.num_pending == 2
    scores = {(row.layer, row.kind, row.filter): row for row in found.rows}
    for i, layer in enumerate(grid.layers):
        for j, column in enumerate(grid.columns):
            cell = grid.cells[i][j]
            score = scores.get((layer, *column))
            assert cell.score == score
            assert cell.letter == grid.letters[i][j] == (letter(score) if score else "…")
            assert np.isnan(grid.values[i, j]) if score is None else grid.values[i, j] == score.score


def test_a_cell_says_everything_about_its_score() -> None:
    responses = random_responses(2, num_layers=2, filters=EVERY_FILTER)
    found = scored(responses)
    grid = score_grid([found], ["layer0", "layer1"], spec=found.spec, responses=[responses])
    seen = set()
    for i in range(2):
        for j, (kind, name) in enumerate(grid.columns):
            text, score = grid.text(i, j), grid.cells[i][j].score
            assert score is not None
            assert score.score is not None
            title = {"high_pass": "High-pass", "low_pass": "Low-pass", "pulse": "Pulse", "mean": "Mean of"}[name]
            for part in (
                f"<b>layer{i}</b>, 3×3 convolution",
                title,
                f"{kind} score",
                f"{score.score:+z.3f}".replace("-", "−"),
                f"95 % interval, n = 120, {'adversarial ' * (kind == 'difference')}accuracy unfiltered {score.p0:.3f}",
                f"{score.call}, {score.certainty}",
            ):
                assert part in text
            if score.num_images_to_decide is not None:
                assert "images would decide it" in text
            assert ("beyond chance" in text) == (score.beyond_chance is not None)
            seen.add(score.certainty)
    assert seen == {"decided", "leaning"}


def test_the_number_that_would_decide_is_rounded_up_to_two_digits() -> None:
    found = scored(random_responses(2))
    row = next(row for row in found.rows if row.certainty == "leaning")
    for number, shown in ((7, "7"), (98, "98"), (101, "110"), (1234, "1,300"), (99_500, "100,000")):
        own = replace(found, rows=(replace(row, num_images_to_decide=number),))
        grid = score_grid([own], ["layer0"], spec=found.spec, filters=(row.filter,))
        assert f"about {shown} images" in grid.text(0, KINDS.index(row.kind))
    own = replace(found, rows=(replace(row, num_images_to_decide=None),))
    assert "on ±η" in score_grid([own], ["layer0"], spec=found.spec, filters=(row.filter,)).text(
        0, KINDS.index(row.kind)
    )


def test_reasons_and_unusual_circumstances_are_told_once() -> None:
    found = scored(at_chance())
    grid = score_grid([found], ["layer0"], spec=found.spec)
    assert "not measurable" in grid.text(0, 0)
    assert grid.text(0, 0).count("only 0 clean images are right") == 1
    assert letter(found.rows[0]) == grid.letters[0][0] == "·"

    responses = random_responses(3, num_layers=3)
    more = scored(with_images(responses, np.arange(90)))
    last = replace(more, rows=tuple(row for row in more.rows if row.layer == "layer2"))
    grid = score_grid([scored(responses), last], ["layer0", "layer1", "layer2"], spec=ScoreSpec())
    assert "n = 90" in grid.text(2, 0)
    assert "n = 90" in grid.cells[2][0].text
    assert "n = " not in grid.cells[0][0].text
    assert "n = 120" in grid.text(0, 0)


def test_names_of_strangers_are_escaped_and_zero_gradients_told() -> None:
    responses = random_responses(0)
    layer = responses.layers[0]
    gradients = np.zeros(layer.predictions.clean.shape, dtype=bool)
    gradients[..., :30] = True
    layer = replace(
        layer,
        facts=replace(layer.facts, name="<img src=x>", kind="<k>"),
        predictions=replace(layer.predictions, zero_gradient=gradients),
    )
    responses = replace(responses, layers=(layer,))
    found = scored(responses)
    text = score_grid([found], ["<img src=x>"], spec=found.spec, responses=[responses]).text(0, 0)
    assert "&lt;img src=x&gt;" in text
    assert "&lt;k&gt;" in text
    assert "<img" not in text
    assert "attack without gradient: 25.0%" in text


def test_a_grid_of_nothing_measured_is_all_pending() -> None:
    grid = score_grid([], ["a", "b"], spec=ScoreSpec())
    assert isinstance(grid, ScoreGrid)
    assert grid.num_pending == 2
    assert np.isnan(grid.values).all()
    assert {letter for row in grid.letters for letter in row} == {"…"}


# Maps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SETTINGS, ids=lambda spec: f"{spec.normalise}-{spec.reference}-{spec.integration}")
@given(seed=st.integers(0, 1000), num_classes=st.integers(2, 20))
@settings(max_examples=5, deadline=None)
def test_a_map_adds_up_to_the_scores(spec: ScoreSpec, seed: int, num_classes: int) -> None:
    responses = random_responses(seed, num_layers=2, filters=EVERY_FILTER, num_classes=num_classes)
    scores = {(row.layer, row.filter, row.kind): row for row in scored(responses, spec).rows}
    for name in (*EVERY_FILTER, "mean"):
        for kind in KINDS:
            found = threshold_map(responses, name, kind, spec)
            integral = found.values @ quadrature(5, spec.integration)
            for layer, value in zip(found.layers, integral.tolist(), strict=True):
                score = scores[layer, name, kind]
                if score.score is None:
                    assert found.reason == score.reason
                    assert math.isnan(value)
                else:
                    assert value == pytest.approx(score.score, abs=1e-12)


def test_a_cell_of_a_map_is_the_integrand_written_out() -> None:
    responses = random_responses(5, num_images=100)
    layer = responses.layers[0]
    labels, c = responses.labels.tolist(), 0.1
    p0 = sum(a == b for a, b in zip(responses.unfiltered.clean.tolist(), labels, strict=True)) / 100
    found = threshold_map(responses, "pulse", "clean", ScoreSpec(reference="retained"))
    for k in range(5):
        p = sum(a == b for a, b in zip(layer.predictions.clean[2, k].tolist(), labels, strict=True)) / 100
        assert found.values[0, k] == pytest.approx((p - c) / (p0 - c) - layer.facts.num_kept[2, k] / 100)


def test_a_map_keeps_a_place_for_what_is_pending_and_flags_what_changes_nothing() -> None:
    responses = random_responses(0)
    changes = np.ones((3, 5), dtype=bool)
    changes[0, 0] = changes[1, 1] = False
    layer = responses.layers[0]
    layer = replace(layer, facts=replace(layer.facts, changes=changes))
    responses = replace(responses, layers=(layer,))
    found = threshold_map(responses, "high_pass", "clean", ScoreSpec(), ["first", "layer0"])
    assert found.layers == ("first", "layer0")
    assert found.measured.tolist() == [False, True]
    assert np.isnan(found.values[0]).all()
    assert found.changes[1].tolist() == [False, True, True, True, True]
    assert threshold_map(responses, "mean", "clean", ScoreSpec()).changes.all()
    with pytest.raises(ValueError, match="'random' was not measured; choose from high_pass"):
        threshold_map(responses, "random", "clean", ScoreSpec())


# Curves ---------------------------------------------------------------------------------------------------


def test_curves_of_one_filter_are_accuracies_with_wilsons_interval() -> None:
    responses = random_responses(3, num_images=60)
    found = response_curves(responses, "layer0", "low_pass", ScoreSpec())
    for predicted, curve in (
        (responses.layers[0].predictions.clean[1], found.clean),
        (responses.layers[0].predictions.adversarial[1], found.adversarial),
    ):
        for k in range(5):
            right = sum(a == b for a, b in zip(predicted[k].tolist(), responses.labels.tolist(), strict=True))
            assert curve.accuracy[k] == right / 60
            assert (curve.low[k], curve.high[k]) == pytest.approx(reference.wilson(right, 60))
    assert found.kept_fraction.tolist() == (responses.layers[0].facts.num_kept[1] / 100).tolist()


@pytest.mark.parametrize("spec", SETTINGS[::2], ids=lambda spec: f"{spec.normalise}-{spec.reference}")
@pytest.mark.parametrize("name", ["pulse", "mean", "random"])
def test_a_response_that_follows_its_reference_scores_nothing(spec: ScoreSpec, name: str) -> None:
    responses = random_responses(4, filters=EVERY_FILTER)
    curves = response_curves(responses, "layer0", name, spec)
    for kind, curve in (("clean", curves.clean), ("adversarial", curves.adversarial)):
        p0 = curve.unfiltered.value
        unit = {"chance": p0 - 0.1, "p0": p0, "none": 1.0}[spec.normalise]
        values = threshold_map(responses, name, kind, spec).values[0]  # type: ignore[arg-type]
        np.testing.assert_allclose((curve.accuracy - curve.reference) / unit, values, atol=1e-12)
        if spec.reference == "unfiltered":
            np.testing.assert_allclose(curve.reference, p0)
        elif spec.normalise == "chance":
            np.testing.assert_allclose(curve.reference, 0.1 + (p0 - 0.1) * curves.kept_fraction)
        else:
            np.testing.assert_allclose(curve.reference, p0 * curves.kept_fraction)


def test_the_mean_of_three_filters_has_an_interval_of_its_own() -> None:
    responses = random_responses(3, num_images=200, change=0.8)
    found = response_curves(responses, "layer0", "mean", ScoreSpec())
    right = (responses.layers[0].predictions.clean == responses.labels).mean(axis=0)
    half = 1.971957 * right.std(axis=1, ddof=1) / math.sqrt(200)  # t with 199 degrees of freedom
    np.testing.assert_allclose(found.clean.accuracy, right.mean(axis=1))
    np.testing.assert_allclose(found.clean.high - found.clean.low, 2 * half, rtol=1e-5)
    assert (found.clean.high <= 1).all()


@pytest.mark.parametrize("num_changed", [0, 1, 5])
def test_few_images_that_vary_still_have_a_band(num_changed: int) -> None:
    unfiltered = np.ones((2, 50), dtype=bool)
    clean = np.ones((1, 3, 3, 50), dtype=bool)
    clean[:, 0, :, :num_changed] = False
    found = response_curves(make_responses(clean, clean, unfiltered), "layer0", "mean", ScoreSpec()).clean
    np.testing.assert_allclose(found.accuracy, 1 - num_changed / 150)
    assert (found.low < found.accuracy - 0.02).all()
    assert (found.low > 0.7).all()
    assert (found.high <= 1).all()
    assert (found.high >= found.accuracy).all()


@given(seed=st.integers(0, 10_000), num_images=st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_bands_hold_their_curve_and_stay_on_the_unit_interval(seed: int, num_images: int) -> None:
    responses = random_responses(seed, num_images=num_images, num_thresholds=3, filters=EVERY_FILTER)
    for name in (*EVERY_FILTER, "mean"):
        found = response_curves(responses, "layer0", name, ScoreSpec())
        for curve in (found.clean, found.adversarial):
            assert (curve.low >= -1e-12).all()
            assert (curve.low <= curve.accuracy + 1e-9).all()
            assert (curve.accuracy <= curve.high + 1e-9).all()
            assert (curve.high <= 1 + 1e-12).all()
            assert (curve.high - curve.low > 0).all()


def test_a_layer_that_is_not_measured_is_named() -> None:
    with pytest.raises(ValueError, match="'other' is not among the 1 that are measured"):
        response_curves(random_responses(0), "other", "pulse", ScoreSpec())


def test_the_control_is_averaged_over_draws_wherever_it_was_measured() -> None:
    together = random_responses(6, filters=EVERY_FILTER)
    apart = only(together, (CONTROL_FILTER,))
    right = (apart.layers[0].predictions.adversarial == apart.labels).mean(axis=2)
    for responses in (together, apart):
        band = control_band(responses, "layer0")
        assert band is not None
        assert (band.num_draws, band.num_images) == (3, 120)
        for k in range(5):
            draws = [float(right[draw, k]) for draw in range(3)]
            assert band.adversarial.mean[k] == pytest.approx(sum(draws) / 3)
            assert (band.adversarial.low[k], band.adversarial.high[k]) == (min(draws), max(draws))
    assert control_band(only(together, SYNAPTIC_FILTERS), "layer0") is None
    assert control_band(apart, "other") is None


def test_a_control_measured_apart_can_be_joined() -> None:
    together = random_responses(6, num_layers=3, filters=EVERY_FILTER, change=0.5)
    alone, control = only(together, SYNAPTIC_FILTERS), only(together, (CONTROL_FILTER,))
    joined = join_control(alone, control)
    assert score_responses(joined).rows == score_responses(together).rows
    partial = join_control(alone, replace(control, layers=control.layers[1:2]))
    assert [layer.facts.name for layer in partial.layers] == ["layer1"]
    with pytest.raises(ValueError, match="already have"):
        join_control(together, control)
    with pytest.raises(ValueError, match="n = 100 and 5 thresholds beside n = 120"):
        join_control(alone, with_images(control, np.arange(100)))


# Drill-down -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured() -> tuple[torch.Tensor, Responses]:
    """A linear layer with ties and exact zeros, measured on noise."""
    generator = torch.Generator().manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))
    weight = (torch.randn(4, 16, generator=generator) * 4).round() / 4
    with torch.no_grad():
        network[1].weight.copy_(weight)
    pixels = torch.rand(40, 1, 4, 4, generator=generator)
    labels = torch.randint(0, 4, (40,), generator=generator)
    return weight, measure_responses(
        network, pixels, labels, (pixels + 0.1).clamp(0, 1), num_thresholds=7, filters=EVERY_FILTER
    )


@pytest.mark.parametrize("name", SYNAPTIC_FILTERS)
def test_removed_weights_are_those_in_the_interval(measured: tuple[torch.Tensor, Responses], name: str) -> None:
    weight, responses = measured
    values = weight.double().flatten().tolist()
    for k in range(7):
        keep = reference.keep_mask(weight, name, k, 7).flatten().tolist()
        found = removed_weights(responses.layers[0].facts, responses.rows, name, k)
        assert found.num_removed == keep.count(False)
        assert found.num_live_removed == sum(not kept and value != 0 for kept, value in zip(keep, values, strict=True))
        assert found.num_weights == 64
        assert found.position == k / 6
        assert found.threshold == pytest.approx(reference.thresholds(weight, 7)[k])
        assert found.interval is not None
        low, high = found.interval
        for value, kept in zip(values, keep, strict=True):
            inside = low <= value < high if name == "pulse" else low <= value <= high
            assert inside != kept


def test_the_control_and_the_mean_remove_no_interval(measured: tuple[torch.Tensor, Responses]) -> None:
    _, responses = measured
    facts = responses.layers[0].facts
    high = removed_weights(facts, responses.rows, "high_pass", 3)
    random = removed_weights(facts, responses.rows, CONTROL_FILTER, 3)
    assert random.num_removed == high.num_removed
    assert random.interval is None
    mean = removed_weights(facts, responses.rows, "mean", 3)
    parts = [removed_weights(facts, responses.rows, name, 3).num_removed for name in SYNAPTIC_FILTERS]
    assert mean.num_removed == pytest.approx(sum(parts) / 3)
    assert mean.interval is None
    assert f"{high.num_removed:.0f} of 64 weights removed" in high.sentence
    with pytest.raises(ValueError, match="not measured"):
        removed_weights(facts, responses.rows, "other", 3)


def test_the_whole_network_has_no_weight_axis(measured: tuple[torch.Tensor, Responses]) -> None:
    _, responses = measured
    facts = replace(responses.layers[0].facts, name=GLOBAL_LAYER, thresholds=np.empty(0))
    found = removed_weights(facts, responses.rows, "pulse", 3)
    assert found.threshold is None
    assert found.interval is None


@given(seed=st.integers(0, 1000), name=st.sampled_from((*EVERY_FILTER, "mean")), limit=st.integers(0, 40))
@settings(max_examples=25, deadline=None)
def test_changed_images_are_those_whose_prediction_changes(seed: int, name: str, limit: int) -> None:
    responses = random_responses(seed, num_images=50, filters=EVERY_FILTER)
    wanted = SYNAPTIC_FILTERS if name == "mean" else (name,)
    rows = [index for index, row in enumerate(responses.rows) if row.filter in wanted]
    found = changed_images(responses, "layer0", name, 2, limit)
    layer = responses.layers[0].predictions
    expected: dict[int, Any] = {}
    counts = {kind: dict.fromkeys(("lost", "gained", "otherwise"), 0) for kind in ("clean", "adversarial")}
    for image in range(50):
        label = int(responses.labels[image])
        changes = []
        for kind, predicted, unfiltered in (
            ("clean", layer.clean, responses.unfiltered.clean),
            ("adversarial", layer.adversarial, responses.unfiltered.adversarial),
        ):
            before, after = int(unfiltered[image]), tuple(int(predicted[row, 2, image]) for row in rows)
            change = "same"
            if any(own != before for own in after):
                change = "lost" if before == label else "gained" if label in after else "otherwise"
                counts[kind][change] += 1
            changes.append((before, after, change))
        if any(change[2] != "same" for change in changes):
            expected[image] = (label, *changes)
    assert found.num_changed == len(expected)
    assert len(found.images) == min(limit, len(expected))
    assert len({image.index for image in found.images}) == len(found.images)
    for image in found.images:
        own = [(part.before, part.after, part.change) for part in (image.clean, image.adversarial)]
        assert (image.label, *own) == expected[image.index]
    for kind, count in (("clean", found.clean), ("adversarial", found.adversarial)):
        assert {part: getattr(count, part) for part in counts[kind]} == counts[kind]
        assert count.total == sum(counts[kind].values())


def test_losses_and_gains_take_turns() -> None:
    unfiltered = np.repeat([[True] * 30 + [False] * 30], 2, axis=0)
    filtered = np.broadcast_to(~unfiltered[0], (1, 3, 3, 60))
    found = changed_images(make_responses(filtered, filtered, unfiltered), "layer0", "pulse", 0, 6)
    assert sorted(image.clean.change for image in found.images) == ["gained"] * 3 + ["lost"] * 3
    assert (found.clean.lost, found.clean.gained) == (30, 30)


def test_a_caption_names_classes_as_plain_text() -> None:
    found = changed_images(random_responses(0), "layer0", "pulse", 0).images[0]
    names = [f"<{index}>" for index in range(10)]
    first, clean, adversarial = found.caption(names).split("\n")
    assert first == f"<{found.label}> (image {found.index})"
    assert clean == f"clean: <{found.clean.before}> → <{found.clean.after[0]}>"
    assert adversarial.startswith("adv.: <")
    assert found.caption().startswith(f"{found.label} (image")


def test_importing_summaries_loads_neither_torch_nor_pandas_nor_plotly() -> None:
    heavy = ["torch", "pandas", "plotly", "streamlit"]
    code = f"import fss_core.summaries, sys, json; print(json.dumps([n for n in {heavy} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == []
