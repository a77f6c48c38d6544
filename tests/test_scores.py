"""Scores against the slow reference, by hand where that can be done, and what is called what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from fss_core import scores
from fss_core.responses import LayerFacts, LayerResponse, Predictions, Responses
from fss_core.scores import KINDS, Score, Scores, quadrature, relabel, score_responses
from fss_core.specs import SYNAPTIC_FILTERS, AttackSpec, Filter, NotMeasurableError, ResponseSpec, filter_rows

Right = npt.NDArray[np.bool_]

NORMALISATIONS, REFERENCES = ("chance", "p0", "none"), ("unfiltered", "retained")


# Made-up responses ----------------------------------------------------------------------------------------


def classes(right: Right, labels: npt.NDArray[np.int64], num_classes: int) -> npt.NDArray[np.uint8]:
    """Predictions that are right exactly where ``right`` says so."""
    return np.where(right, labels, (labels + 1) % num_classes).astype(np.uint8)


def make_responses(
    clean: Right,
    adversarial: Right,
    unfiltered: Right,
    *,
    num_classes: int = 10,
    kept: npt.NDArray[np.int64] | None = None,
    changes: npt.NDArray[np.bool_] | None = None,
    filters: Sequence[Filter] = SYNAPTIC_FILTERS,
    labels: npt.NDArray[np.int64] | None = None,
) -> Responses:
    """Responses of layers × rows × thresholds × images (clean, adversarial), given what is right."""
    num_layers, num_rows, num_thresholds, num_images = clean.shape
    spec = ResponseSpec(filters=tuple(filters), num_thresholds=num_thresholds)
    rows = filter_rows(spec.filters, spec.num_draws)
    assert len(rows) == num_rows
    if labels is None:
        labels = np.arange(num_images) % num_classes
    whole = np.full((num_rows, num_thresholds), 50) if kept is None else kept
    layers = tuple(
        LayerResponse(
            facts=LayerFacts(
                name=f"layer{index}",
                kind="3x3",
                relative_depth=0.0,
                num_weights=100,
                num_live=90,
                thresholds=np.linspace(-1, 1, num_thresholds),
                num_kept=whole,
                num_live_kept=whole,
                changes=np.ones((num_rows, num_thresholds), dtype=bool) if changes is None else changes,
                histogram=np.zeros(200, dtype=np.int64),
                histogram_edges=np.linspace(-1, 1, 201),
            ),
            predictions=Predictions(
                clean=classes(clean[index], labels, num_classes),
                adversarial=classes(adversarial[index], labels, num_classes),
            ),
        )
        for index in range(num_layers)
    )
    return Responses(
        spec=spec,
        attack=AttackSpec(epsilon=8 / 255),
        rows=rows,
        labels=labels,
        num_classes=num_classes,
        unfiltered=Predictions(
            clean=classes(unfiltered[0], labels, num_classes), adversarial=classes(unfiltered[1], labels, num_classes)
        ),
        layers=layers,
    )


def random_responses(
    seed: int,
    *,
    num_images: int = 120,
    num_thresholds: int = 5,
    num_classes: int = 10,
    num_layers: int = 1,
    filters: Sequence[Filter] = SYNAPTIC_FILTERS,
    change: float = 0.3,
) -> Responses:
    """Responses of a network that is right on about 85 % (75 % attacked), some of whose images change."""
    rng = np.random.default_rng(seed)
    num_rows = len(filter_rows(filters, 3))
    unfiltered = rng.random((2, num_images)) < np.array([[0.85], [0.75]])
    shape = (2, num_layers, num_rows, num_thresholds, num_images)
    flips = rng.random(shape) < change * rng.random((1, num_layers, num_rows, num_thresholds, 1))
    clean, adversarial = unfiltered[:, None, None, None] ^ flips
    return make_responses(
        clean,
        adversarial,
        unfiltered,
        num_classes=num_classes,
        kept=np.sort(rng.integers(0, 101, (num_rows, num_thresholds)), axis=1)[:, ::-1],
        filters=filters,
        labels=rng.integers(0, num_classes, num_images),
    )


def with_images(responses: Responses, chosen: npt.NDArray[np.int64]) -> Responses:
    """The same responses of other images, in another order, some perhaps several times."""

    def choose(predictions: Predictions) -> Predictions:
        return Predictions(clean=predictions.clean[..., chosen], adversarial=predictions.adversarial[..., chosen])

    return replace(
        responses,
        labels=responses.labels[chosen],
        unfiltered=choose(responses.unfiltered),
        layers=tuple(replace(layer, predictions=choose(layer.predictions)) for layer in responses.layers),
    )


def repeated(responses: Responses, times: int) -> Responses:
    return with_images(responses, np.tile(np.arange(responses.num_images), times))


def by_cell(found: Scores) -> dict[tuple[str, str, str], Score]:
    return {(row.layer, row.filter, row.kind): row for row in found.rows}


def one(found: Scores, filter: str, kind: str, layer: str = "layer0") -> Score:
    return by_cell(found)[layer, filter, kind]


def uniform(p: Sequence[float], p0: float = 1.0, num_images: int = 100) -> tuple[Right, Right]:
    """Right at each threshold on the first images, as many as each accuracy says; and the unfiltered network's."""
    share = (np.arange(num_images) + 0.5) / num_images
    return np.array([share < own for own in p]), share < p0


def simple(
    clean: Sequence[float],
    adversarial: Sequence[float],
    p0: tuple[float, float],
    *,
    num_images: int = 100,
    **more: Any,
) -> Responses:
    """One layer under high-pass, with the accuracies given per threshold."""
    right, before = uniform(clean, p0[0], num_images)
    right_adversarial, before_adversarial = uniform(adversarial, p0[1], num_images)
    return make_responses(
        right[None, None],
        right_adversarial[None, None],
        np.array([before, before_adversarial]),
        filters=("high_pass",),
        **more,
    )


# Against the reference ------------------------------------------------------------------------------------


def expected_scores(
    responses: Responses, normalise: str, reference_curve: str, integration: str
) -> dict[tuple[str, str], float]:
    """Every score of the first layer, by the slow reference."""
    layer, labels = responses.layers[0], responses.labels
    found: dict[tuple[str, str], float] = {}
    for kind, filtered, unfiltered in (
        ("clean", layer.predictions.clean, responses.unfiltered.clean),
        ("adversarial", layer.predictions.adversarial, responses.unfiltered.adversarial),
    ):
        right = {
            name: np.mean(
                [filtered[i] == labels for i, row in enumerate(responses.rows) if row.filter == name], axis=0
            ).tolist()
            for name in dict.fromkeys(row.filter for row in responses.rows)
        }
        kept = {
            name: np.mean(
                [layer.facts.num_kept[i] / 100 for i, row in enumerate(responses.rows) if row.filter == name], axis=0
            ).tolist()
            for name in right
        }
        before = (unfiltered == labels).astype(float).tolist()
        settings = (responses.num_classes, normalise, reference_curve, integration)
        for name in right:
            found[name, kind] = reference.score(right[name], before, settings[0], kept[name], *settings[1:])
        if set(SYNAPTIC_FILTERS) <= set(right):
            found["mean", kind] = reference.mean_filter_score(right, before, settings[0], kept, *settings[1:])
    for name in dict.fromkeys(name for name, _ in found):
        found[name, "difference"] = reference.difference(found[name, "adversarial"], found[name, "clean"])
    return found


@pytest.mark.parametrize("integration", ["trapezoid", "simpson"])
@pytest.mark.parametrize("reference_curve", REFERENCES)
@pytest.mark.parametrize("normalise", NORMALISATIONS)
@given(
    seed=st.integers(0, 10**6),
    half_thresholds=st.integers(1, 4),
    odd=st.booleans(),
    num_images=st.integers(60, 140),
    num_classes=st.integers(3, 12),
    filters=st.permutations((*SYNAPTIC_FILTERS, "random")),
    num_filters=st.integers(1, 4),
)
@settings(max_examples=12, deadline=None)
def test_every_score_is_the_references(
    normalise: Any,
    reference_curve: Any,
    integration: Any,
    seed: int,
    half_thresholds: int,
    odd: bool,
    num_images: int,
    num_classes: int,
    filters: list[Filter],
    num_filters: int,
) -> None:
    responses = random_responses(
        seed,
        num_images=num_images,
        num_thresholds=2 * half_thresholds + (odd or integration == "simpson"),
        num_classes=num_classes,
        filters=filters[:num_filters],
    )
    found = score_responses(responses, normalise=normalise, reference=reference_curve, integration=integration)
    expected = expected_scores(responses, normalise, reference_curve, integration)
    assert {(row.filter, row.kind) for row in found.rows} == expected.keys()
    assert any(row.score is not None for row in found.rows)
    for row in found.rows:
        if row.score is None:
            continue
        assert row.low is not None
        assert row.high is not None
        assert row.score == pytest.approx(expected[row.filter, row.kind], abs=1e-12)
        assert row.low < row.score < row.high
        assert row.call == reference.call(row.score, 0.05)
        assert row.certainty == reference.certainty(row.low, row.high, 0.05)


@given(
    num_right=st.tuples(st.integers(0, 200), st.integers(0, 200)),
    num_images=st.integers(20, 200),
    num_classes=st.sampled_from([2, 10, 200]),
    normalise=st.sampled_from(NORMALISATIONS),
)
@settings(max_examples=80, deadline=None)
def test_not_measurable_is_the_references(
    num_right: tuple[int, int], num_images: int, num_classes: int, normalise: Any
) -> None:
    counts = [min(own, num_images) for own in num_right]
    unfiltered = np.array([np.arange(num_images) < own for own in counts])
    same = np.broadcast_to(unfiltered[:, None, None, None], (2, 1, 1, 2, num_images))
    responses = make_responses(same[0], same[1], unfiltered, num_classes=num_classes, filters=("pulse",))
    clean, adversarial = (reference.not_measurable(own, num_images, num_classes) for own in counts)
    expected = {"clean": clean, "adversarial": adversarial, "difference": clean or adversarial}
    for row in score_responses(responses, normalise=normalise).rows:
        assert (row.certainty == "not measurable") == expected[row.kind], row
        assert (row.score is None) == expected[row.kind]
        assert (row.call is None) == expected[row.kind]
        assert bool(row.reason) == expected[row.kind]


def test_a_reason_names_accuracy_number_and_epsilon() -> None:
    few = score_responses(simple([0.1, 0.1], [0.1, 0.1], (0.19, 0.5), num_classes=200))
    assert one(few, "high_pass", "clean").reason == (
        "only 19 clean images are right without a filter; at least 20 are needed (n = 100)"
    )
    near_chance = score_responses(simple([0.1, 0.1], [0.1, 0.1], (0.9, 0.16), num_images=200))
    for kind in ("adversarial", "difference"):
        assert one(near_chance, "high_pass", kind).reason == (
            "adversarial accuracy without a filter is 0.160, its lower 95 % bound 0.116 is below chance + 2 points "
            "(0.120) (n = 200, ε = 8/255)"
        )
    assert one(near_chance, "high_pass", "clean").certainty == "decided"


# By hand --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("normalise", "reference_curve", "expected"),
    [
        ("chance", "unfiltered", -0.25),  # ((0.9 - 0.1) + (0.5 - 0.1)) / 2 / (0.9 - 0.1) - 1
        ("chance", "retained", 0.0),  # the reference curve is (1 + 0.5) / 2
        ("p0", "unfiltered", 0.7 / 0.9 - 1),
        ("p0", "retained", 0.7 / 0.9 - 0.75),
        ("none", "unfiltered", -0.2),
        ("none", "retained", 0.7 - 0.75 * 0.9),
    ],
)
def test_two_thresholds(normalise: Any, reference_curve: Any, expected: float) -> None:
    responses = simple([0.9, 0.5], [0.9, 0.5], (0.9, 0.9), kept=np.array([[100, 50]]))
    found = score_responses(responses, normalise=normalise, reference=reference_curve)
    for kind in ("clean", "adversarial"):
        assert one(found, "high_pass", kind).score == pytest.approx(expected, abs=1e-12)
    assert one(found, "high_pass", "difference").score == pytest.approx(0, abs=1e-12)


def test_three_thresholds_by_simpson() -> None:
    responses = simple([1.0, 0.4, 0.1], [1.0, 1.0, 1.0], (1.0, 1.0))
    found = score_responses(responses, integration="simpson")
    assert one(found, "high_pass", "clean").score == pytest.approx((1 + 4 * (0.3 / 0.9) + 0) / 6 - 1)
    trapezoid = score_responses(responses)
    assert one(trapezoid, "high_pass", "clean").score == pytest.approx((1 + 2 * (0.3 / 0.9) + 0) / 4 - 1)


@pytest.mark.parametrize(
    ("integration", "num_thresholds"), [("trapezoid", 2), ("trapezoid", 7), ("simpson", 3), ("simpson", 9)]
)
def test_quadrature_integrates_lines_and_simpson_cubes(integration: Any, num_thresholds: int) -> None:
    t = np.linspace(0, 1, num_thresholds)
    weights = quadrature(num_thresholds, integration)
    assert weights.sum() == pytest.approx(1)
    assert weights @ t == pytest.approx(1 / 2)
    if integration == "simpson":
        assert weights @ t**3 == pytest.approx(1 / 4)


@pytest.mark.parametrize("num_thresholds", [2, 12])
def test_simpson_refuses_an_even_number(num_thresholds: int) -> None:
    responses = random_responses(0, num_thresholds=num_thresholds)
    with pytest.raises(ValueError, match=f"simpson' needs an odd number of thresholds, got {num_thresholds}"):
        score_responses(responses, integration="simpson")


def test_a_destroyed_network_is_minus_one_twice_and_zero_in_the_difference() -> None:
    num_images, num_classes = 120, 4
    labels = np.arange(num_images) % num_classes
    always_two = np.broadcast_to(labels == 2, (1, 3, 7, num_images))
    unfiltered = np.array([np.arange(num_images) < 100, np.arange(num_images) < 80])
    responses = make_responses(always_two, always_two, unfiltered, num_classes=num_classes)
    found = score_responses(responses)
    for name in (*SYNAPTIC_FILTERS, "mean"):
        assert one(found, name, "clean").score == pytest.approx(-1, abs=1e-12)
        assert one(found, name, "adversarial").score == pytest.approx(-1, abs=1e-12)
        assert one(found, name, "difference").score == pytest.approx(0, abs=1e-12)
        assert one(found, name, "difference").call == "robust"
        assert one(found, name, "clean").certainty == "decided"
    as_the_notebooks = score_responses(responses, normalise="p0")
    assert one(as_the_notebooks, "mean", "difference").score == pytest.approx(0.25 / (80 / 120) - 0.25 / (100 / 120))


@pytest.mark.parametrize("num_destroyed", [1, 3, 5])
def test_where_the_prediction_becomes_constant_the_difference_is_zero(num_destroyed: int) -> None:
    """The layer either changes nothing or everything, at the same thresholds for clean and adversarial images."""
    num_images, num_classes = 100, 10
    labels = np.arange(num_images) % num_classes
    unfiltered = np.array([np.arange(num_images) < 90, np.arange(num_images) < 50])
    right = np.repeat(unfiltered[:, None, None, None], 5, axis=3)
    right[:, :, :, -num_destroyed:] = labels == 7
    found = score_responses(make_responses(right[0], right[1], unfiltered, filters=("low_pass",)))
    assert one(found, "low_pass", "difference").score == pytest.approx(0, abs=1e-12)
    clean, adversarial = (one(found, "low_pass", kind).score for kind in ("clean", "adversarial"))
    assert clean == pytest.approx(adversarial, abs=1e-12)
    assert clean < -0.1


@pytest.mark.parametrize("normalise", NORMALISATIONS)
def test_an_untouched_network_scores_zero_with_an_interval(normalise: Any) -> None:
    found = score_responses(simple([0.8] * 4, [0.6] * 4, (0.8, 0.6)), normalise=normalise)
    for row in found.rows:
        assert row.score == pytest.approx(0, abs=1e-12)
        assert row.call == "robust"
        assert row.low is not None
        assert row.high is not None
        assert row.high - row.low > 0.01


def test_the_mean_is_taken_over_the_papers_three_only() -> None:
    found = score_responses(random_responses(5, filters=("random", *SYNAPTIC_FILTERS)))
    own = [one(found, name, "clean").score for name in SYNAPTIC_FILTERS]
    assert one(found, "mean", "clean").score == pytest.approx(np.mean(np.array(own, dtype=float)))
    assert [row.filter for row in found.rows[::3]] == ["random", *SYNAPTIC_FILTERS, "mean"]


def test_there_is_no_mean_of_two_filters() -> None:
    found = score_responses(random_responses(5, filters=("high_pass", "pulse")))
    assert {row.filter for row in found.rows} == {"high_pass", "pulse"}


# Shape of the result --------------------------------------------------------------------------------------


def test_the_contracts_columns_come_first_and_layers_in_order() -> None:
    responses = random_responses(1, num_layers=2)
    frame = score_responses(responses).to_dataframe()
    expected = "layer filter kind score low high standard_error call certainty reason num_images p0".split()
    assert frame.columns[: len(expected)].tolist() == expected
    assert frame["layer"].unique().tolist() == ["layer0", "layer1"]
    assert frame["filter"].unique().tolist() == [*SYNAPTIC_FILTERS, "mean"]
    assert frame["kind"].unique().tolist() == list(KINDS)
    assert len(frame) == 2 * 4 * 3
    assert (frame["num_images"] == responses.num_images).all()
    accuracy = (responses.unfiltered.adversarial == responses.labels).mean()
    assert frame.loc[frame["kind"] == "difference", "p0"].tolist() == pytest.approx([accuracy] * 8)


@pytest.mark.parametrize("p0", [(0.9, 0.8), (0.9, 0.1), (0.1, 0.1)])
def test_no_table_holds_nan(p0: tuple[float, float]) -> None:
    frame = score_responses(simple([0.1, 0.9], [0.1, 0.8], p0)).to_dataframe()
    assert frame["certainty"].eq("not measurable").sum() == {0.8: 0, 0.1: 2 if p0[0] == 0.9 else 3}[p0[1]]
    for cell in frame.to_numpy(dtype=object).ravel():
        assert not (isinstance(cell, float) and not math.isfinite(cell)), frame.to_string()


def test_a_filter_that_changes_nothing_is_shown_as_such() -> None:
    changes = np.ones((3, 5), dtype=bool)
    changes[1] = False
    responses = random_responses(2)
    layer = responses.layers[0]
    responses = replace(responses, layers=(replace(layer, facts=replace(layer.facts, changes=changes)),))
    found = score_responses(responses)
    for kind in KINDS:
        row = one(found, "low_pass", kind)
        assert row.certainty == "not measurable"
        assert row.call is None
        assert row.reason == ("this filter removes no weight that can change the output (10 of 100 weights are dead)")
        assert all(one(found, name, kind).score is not None for name in ("high_pass", "pulse", "mean"))


def test_strict_raises_what_is_not_measurable() -> None:
    assert score_responses(simple([0.9, 0.5], [0.5, 0.5], (0.9, 0.8)), strict=True).rows
    with pytest.raises(NotMeasurableError, match=r"^adversarial score of layer0 under high_pass: only 10 adversarial"):
        score_responses(simple([0.9, 0.5], [0.1, 0.1], (0.9, 0.1)), strict=True)


def test_cautions_are_passed_on() -> None:
    found = score_responses(replace(random_responses(0), notes=("measured by the reference engine",)))
    assert found.cautions == ("measured by the reference engine",)


@pytest.mark.parametrize("setting", [{"tolerance": -0.1}, {"level": 1.0}, {"normalise": "c"}, {"reference": "none"}])
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    (name,) = setting
    with pytest.raises(ValueError, match=f"^{name} must"):
        score_responses(random_responses(0), **setting)


# Images ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [0.01, 0.05, 0.6])
@pytest.mark.parametrize("reference_curve", REFERENCES)
def test_the_order_of_images_does_not_matter(change: float, reference_curve: Any) -> None:
    """Few changes: bets; many: the linearised score."""
    responses = random_responses(3, change=change, filters=(*SYNAPTIC_FILTERS, "random"))
    order = np.random.default_rng(0).permutation(responses.num_images)
    before, after = (
        score_responses(own, reference=reference_curve) for own in (responses, with_images(responses, order))
    )
    for row, other in zip(before.rows, after.rows, strict=True):
        assert (row.call, row.certainty, row.beyond_chance) == (other.call, other.certainty, other.beyond_chance)
        for name in ("score", "low", "high", "standard_error", "p0"):
            assert getattr(row, name) == pytest.approx(getattr(other, name), abs=1e-9)


def test_four_times_the_images_halve_the_width() -> None:
    responses = random_responses(4, num_images=250, change=0.6)
    for few, many in zip(score_responses(responses).rows, score_responses(repeated(responses, 4)).rows, strict=True):
        assert many.score == pytest.approx(few.score, abs=1e-12)
        widths = [row.high - row.low for row in (few, many)]  # type: ignore[operator]
        assert widths[0] / widths[1] == pytest.approx(2, rel=0.01)


def test_intervals_that_hold_together_are_wider() -> None:
    responses = random_responses(6, num_layers=3, change=0.5)
    alone, together = score_responses(responses), score_responses(responses, simultaneous=True)
    assert alone.level_per_score == 0.95
    assert together.level_per_score == pytest.approx(1 - 0.05 / (3 * 4 * 3))
    assert together.spec.level == 0.95
    for row, other in zip(alone.rows, together.rows, strict=True):
        assert (row.score, row.call) == (other.score, other.call)
        assert other.low < row.low  # type: ignore[operator]
        assert other.high > row.high  # type: ignore[operator]


# How many images decide -----------------------------------------------------------------------------------


def test_a_decided_score_needs_no_more_images() -> None:
    found = score_responses(simple([0.9, 0.1], [0.8, 0.1], (0.9, 0.8)))
    for kind in ("clean", "adversarial"):
        assert one(found, "high_pass", kind).certainty == "decided"
        assert one(found, "high_pass", kind).num_images_to_decide is None


@pytest.mark.parametrize(("p", "tolerance"), [(0.75, 0.25), (0.95, 0.05), (0.9, 0.1), (0.8, 0.2)])
def test_a_score_on_the_edge_is_never_decided(p: float, tolerance: float) -> None:
    """The score is the tolerance itself, exactly or but for the last bit, and no number of images would tell."""
    found = score_responses(simple([p, p], [1.0, 1.0], (1.0, 1.0)), normalise="none", tolerance=tolerance)
    row = one(found, "high_pass", "clean")
    assert row.certainty == "leaning"
    assert row.num_images_to_decide is None
    found.to_dataframe()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tolerance", [0.0, 0.01, 0.05, 0.3])
def test_another_tolerance_only_labels_anew(seed: int, tolerance: float) -> None:
    filters: tuple[Filter, ...] = (*SYNAPTIC_FILTERS, "random")
    rows = [row.filter for row in filter_rows(filters, 3)]
    rng = np.random.default_rng(seed)
    kept_right = [[0.3 if row == "random" else 0.6 for row in rows], [0.5 if row == "random" else 0.53 for row in rows]]
    responses = make_responses(
        *(rng.random((2, 2, len(rows), 5, 120)) < np.array(kept_right)[:, :, None, None]),
        rng.random((2, 120)) < 0.5,
        kept=np.tile(np.linspace(100, 0, 5, dtype=int), (len(rows), 1)),
        filters=filters,
        labels=rng.integers(0, 10, 120),
    )
    settings: dict[str, Any] = {"normalise": "p0", "level": 0.9, "simultaneous": True, "beside": 7}
    untolerant = score_responses(responses, tolerance=0, **settings)
    assert {row.beyond_chance for row in untolerant.rows} == {None, False, True}
    assert relabel(untolerant, tolerance) == score_responses(responses, tolerance=tolerance, **settings)


def test_a_smaller_tolerance_needs_the_responses() -> None:
    found = score_responses(random_responses(0), tolerance=0.1)
    assert relabel(found, 0.1) == found
    with pytest.raises(ValueError, match=r"tolerance must be at least that of the scores, 0.1, got 0.05"):
        relabel(found, 0.05)


@pytest.mark.parametrize("seed", range(4))
def test_the_number_of_images_named_decides(seed: int) -> None:
    responses = random_responses(seed, num_images=150, change=0.5)
    found = by_cell(score_responses(responses, tolerance=0.1))
    leaning = {cell: row for cell, row in found.items() if row.certainty == "leaning"}
    tried = 0
    for cell, row in leaning.items():
        assert row.num_images_to_decide is None or row.num_images_to_decide > 150
        if row.num_images_to_decide is None or not 300 < row.num_images_to_decide < 6000:
            continue
        tried += 1
        times = row.num_images_to_decide / 150
        enough, too_few = (
            by_cell(score_responses(repeated(responses, number), tolerance=0.1))[cell]
            for number in (math.ceil(times * 1.02), math.floor(times * 0.9))
        )
        assert enough.certainty == "decided"
        assert too_few.certainty == "leaning"
    assert tried


# Beyond chance --------------------------------------------------------------------------------------------


def controlled(filtered: float, control: float) -> Responses:
    """High-pass and its random control, with accuracies of both; unfiltered 0.6 of 200 images are right."""
    share = (np.arange(200) + 0.5) / 200
    right = np.stack([np.broadcast_to(share < own, (3, 200)) for own in (filtered, *[control] * 3)])
    return make_responses(right[None], right[None], np.array([share < 0.6] * 2), filters=("high_pass", "random"))


def test_antifragile_beyond_chance_needs_a_worse_control() -> None:
    assert one(score_responses(controlled(0.8, 0.6)), "high_pass", "clean").beyond_chance is True
    assert one(score_responses(controlled(0.8, 0.8)), "high_pass", "clean").beyond_chance is False
    assert one(score_responses(controlled(0.8, 0.9)), "high_pass", "clean").beyond_chance is False
    assert one(score_responses(controlled(0.61, 0.3)), "high_pass", "clean").beyond_chance is None
    assert one(score_responses(controlled(0.8, 0.8)), "random", "clean").beyond_chance is None
    assert one(score_responses(simple([1.0, 1.0], [1.0, 1.0], (0.6, 0.6))), "high_pass", "clean").beyond_chance is None


def test_the_control_is_compared_pair_by_pair() -> None:
    """Eight points better on the same images is shown with far fewer images than independent samples would need."""
    found = score_responses(controlled(0.8, 0.72))
    row, control = (one(found, name, "clean") for name in ("high_pass", "random"))
    assert row.beyond_chance is True
    unpaired = math.hypot(row.standard_error, control.standard_error)  # type: ignore[arg-type]
    assert row.score - control.score < 1.96 * unpaired  # type: ignore[operator]


def test_calls_and_letters_at_the_tolerance() -> None:
    assert [scores.call_of(value, 0.25) for value in (-0.26, -0.25, 0.0, 0.25, 0.26)] == [
        "fragile",
        "robust",
        "robust",
        "robust",
        "antifragile",
    ]
