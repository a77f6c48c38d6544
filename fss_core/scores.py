"""Responses → scores with intervals, calls and certainty, without touching a network.

A score integrates a response over the threshold's position t with fixed weights, so it is a function of two values per
image: q, the weighted share of thresholds at which the filtered network is right, and z, whether the unfiltered one is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from fss_core.intervals import (
    FEWEST_CONTRIBUTING,
    MARGIN_ABOVE_CHANCE,
    Estimand,
    Values,
    betting_interval,
    is_above_chance,
    linear_interval,
    num_contributing,
    standard_error,
    wilson_interval,
)
from fss_core.responses import Classes, LayerFacts, LayerResponse, Responses
from fss_core.specs import (
    CONTROL_FILTER,
    SYNAPTIC_FILTERS,
    AttackSpec,
    Integration,
    Normalise,
    NotMeasurableError,
    Reference,
    ScoreSpec,
)

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["clean", "adversarial", "difference"]
Call = Literal["fragile", "robust", "antifragile"]
Certainty = Literal["decided", "leaning", "not measurable"]

KINDS: tuple[Kind, ...] = ("clean", "adversarial", "difference")
MEAN_FILTER = "mean"
"""The overall row: the mean over high-pass, low-pass and pulse, taken per image."""

FEWEST_RIGHT = 20

_SMALLEST_DISTANCE = 1e-6
"""A score nearer than this to ±η lies on it: no number of images worth naming would tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One score of one layer.

    Attributes:
        layer: dotted module name, or ``specs.GLOBAL_LAYER``.
        filter: a filter, or ``"mean"``.
        kind: clean, adversarial, or their difference.
        score: the score (accuracy relative to the unfiltered network's, integrated over t); ``None`` if not measurable.
        low: lower end of its interval.
        high: upper end.
        standard_error: of the linearised score.
        call: fragile, robust or antifragile, by the point estimate; ``None`` if not measurable.
        certainty: ``"decided"`` if the whole interval has that call, else ``"leaning"``, or ``"not measurable"``.
        reason: why it is not measurable; empty otherwise.
        num_images: the images it was measured on (pairs, clean and adversarial).
        p0: accuracy of the unfiltered network on them; for the difference, on the adversarial ones.
        num_images_to_decide: about how many images would decide it; ``None`` unless leaning.
        beyond_chance: for an antifragile call, whether the paired difference to the random control is shown to be above
            0; ``None`` if there is no such call or no control. The control removes as many weights as high-pass does.
    """

    layer: str
    filter: str
    kind: Kind
    score: float | None
    low: float | None
    high: float | None
    standard_error: float | None
    call: Call | None
    certainty: Certainty
    reason: str
    num_images: int
    p0: float
    num_images_to_decide: int | None = None
    beyond_chance: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """All scores of a set of responses, and how they were computed.

    Attributes:
        spec: reference, normalisation, integration, tolerance, level.
        level_per_score: the level of each interval, higher than ``spec.level`` when all are to hold together.
        attack: how the adversarial images were made, if it is known.
        rows: layers in network order, then filters (``"mean"`` after the paper's three), then kinds.
        cautions: what a reader must know first.
    """

    spec: ScoreSpec
    level_per_score: float
    attack: AttackSpec | None
    rows: tuple[Score, ...]
    cautions: tuple[str, ...] = ()

    def to_dataframe(self) -> pd.DataFrame:
        """Tabulate the scores, one line each, with the fields of :class:`Score` as columns.

        Returns:
            Numbers that do not exist are missing (``<NA>``), never NaN.
        """
        import pandas as pd

        names = [field.name for field in fields(Score)]
        frame = pd.DataFrame([[getattr(row, name) for name in names] for row in self.rows], columns=names)
        types = dict.fromkeys(("score", "low", "high", "standard_error", "p0"), "Float64")
        types |= {"call": "string", "num_images_to_decide": "Int64", "beyond_chance": "boolean"}
        return frame.astype(types)


def quadrature(num_thresholds: int, integration: Integration = "trapezoid") -> Values:
    """Compute the weights ω of an integral over t on [0, 1] at evenly spaced thresholds.

    Args:
        num_thresholds: A, at least 2; odd for Simpson's rule.
        integration: ``"trapezoid"`` or ``"simpson"``.

    Returns:
        float64 (A,), which sum to 1.

    Raises:
        ValueError: Simpson's rule with an even number of thresholds.

    >>> quadrature(3, "simpson").round(3).tolist()
    [0.167, 0.667, 0.167]
    """
    if integration == "simpson":
        if num_thresholds % 2 == 0:
            raise ValueError(
                f"integration='simpson' needs an odd number of thresholds, got {num_thresholds}; use 'trapezoid'"
            )
        weights = np.full(num_thresholds, 2.0)
        weights[1::2] = 4.0
    else:
        weights = np.full(num_thresholds, 2.0)
    weights[[0, -1]] = 1.0
    return np.asarray(weights / weights.sum())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """What one layer's filter does to each image, integrated over t, for one kind of image.

    Attributes:
        estimand: which score.
        q: (N,) share of thresholds at which the filtered network is right.
        z: (N,) whether the unfiltered network is right.
        changed: bool (N,), whether any filtered network answers otherwise.
    """

    estimand: Estimand
    q: Values
    z: Values
    changed: npt.NDArray[np.bool_]

    def first(self, number: int) -> Curve:
        """Keep the first images."""
        return replace(self, q=self.q[:number], z=self.z[:number], changed=self.changed[:number])


def level_of_each(level: float, num_scores: int, *, simultaneous: bool) -> float:
    """Say at which level each score's interval is, if they are to hold by themselves or all together (Bonferroni).

    >>> round(level_of_each(0.95, 10, simultaneous=True), 3)
    0.995
    """
    return 1 - (1 - level) / max(num_scores, 1) if simultaneous else level


def score_responses(
    responses: Responses,
    *,
    reference: Reference = "unfiltered",
    normalise: Normalise = "chance",
    integration: Integration = "trapezoid",
    tolerance: float = 0.05,
    level: float = 0.95,
    simultaneous: bool = False,
    beside: int = 0,
    strict: bool = False,
) -> Scores:
    """Reduce responses to scores, and call each layer fragile, robust or antifragile.

    Args:
        responses: of :func:`fss_core.measure_responses`, or from the store.
        reference: ``"unfiltered"``: is performance kept; ``"retained"``: does it fall slower than the weights do.
        normalise: ``"chance"`` (a destroyed network is −1), ``"p0"`` (as the reference notebooks), ``"none"`` (points).
        integration: ``"trapezoid"``, or ``"simpson"`` for an odd number of thresholds.
        tolerance: η; a score within ±η is robust.
        level: of the intervals.
        simultaneous: let all intervals hold together (Bonferroni), not each by itself.
        beside: scores of other responses that are to hold together with these, too.
        strict: raise where a score is not measurable.

    Returns:
        The scores.

    Raises:
        NotMeasurableError: under ``strict``, naming the first score that has no meaning.
        ValueError: a setting is out of range, or Simpson's rule meets an even number of thresholds.

    Source: METHOD, "Scores" and "Labels".
    """
    spec = ScoreSpec(
        reference=reference, normalise=normalise, integration=integration, tolerance=tolerance, level=level
    )
    names = score_filters(responses)
    num_scores = len(responses.layers) * len(names) * len(KINDS) + beside
    own_level = level_of_each(level, num_scores, simultaneous=simultaneous)
    rows = tuple(
        score for layer in responses.layers for score in _score_layer(responses, layer, names, spec, own_level)
    )
    if strict:
        require_measurable(rows)
    return Scores(spec=spec, level_per_score=own_level, attack=responses.attack, rows=rows, cautions=responses.cautions)


def require_measurable(rows: Sequence[Score]) -> None:
    """Refuse scores that have no meaning.

    Raises:
        NotMeasurableError: naming the first.
    """
    for row in rows:
        if row.certainty == "not measurable":
            raise NotMeasurableError(f"{row.kind} score of {row.layer} under {row.filter}: {row.reason}")


def score_filters(responses: Responses) -> list[str]:
    """List the filters that have scores: those measured, and the mean when all of the paper's three are there."""
    measured: list[str] = list(dict.fromkeys(row.filter for row in responses.rows))
    if set(SYNAPTIC_FILTERS) <= set(measured):
        measured.insert(max(measured.index(name) for name in SYNAPTIC_FILTERS) + 1, MEAN_FILTER)
    return measured


def _rows_of(responses: Responses, name: str) -> list[int]:
    wanted = set(SYNAPTIC_FILTERS) if name == MEAN_FILTER else {name}
    return [index for index, row in enumerate(responses.rows) if row.filter in wanted]


def layer_curves(
    responses: Responses, layer: LayerResponse, names: list[str], spec: ScoreSpec
) -> dict[tuple[str, Kind], Curve]:
    """Integrate what filters do to each image over t.

    Args:
        responses: which ``layer`` is part of.
        layer: one layer.
        names: some of :func:`score_filters`.
        spec: reference, normalisation and integration.

    Returns:
        A curve per filter and kind of image, clean and adversarial.
    """
    weights = quadrature(responses.spec.num_thresholds, spec.integration)
    labels, unfiltered = responses.labels, responses.unfiltered
    both: tuple[tuple[Kind, Classes, Classes], ...] = (
        ("clean", layer.predictions.clean, unfiltered.clean),
        ("adversarial", layer.predictions.adversarial, unfiltered.adversarial),
    )
    curves: dict[tuple[str, Kind], Curve] = {}
    for name in names:
        chosen = _rows_of(responses, name)
        kept = layer.facts.kept_fraction[chosen].mean(axis=0)
        estimand = Estimand(
            chance=1 / responses.num_classes if spec.normalise == "chance" else 0.0,
            reference=float(weights @ kept) if spec.reference == "retained" else 1.0,
            ratio=spec.normalise != "none",
        )
        for kind, predicted, before in both:
            z = (before == labels).astype(np.float64)
            gain = (predicted[chosen] == labels) - z
            curves[name, kind] = Curve(
                estimand=estimand,
                q=z + np.tensordot(weights, gain.mean(axis=0), axes=1),
                z=z,
                changed=gain.any(axis=(0, 1)),
            )
    return curves


def _score_layer(
    responses: Responses, layer: LayerResponse, names: list[str], spec: ScoreSpec, level: float
) -> Iterator[Score]:
    curves = layer_curves(responses, layer, names, spec)
    for name in names:
        for kind in KINDS:
            yield score_curve(responses, layer, curves, name, kind, spec, level)


def score_curve(
    responses: Responses,
    layer: LayerResponse,
    curves: dict[tuple[str, Kind], Curve],
    name: str,
    kind: Kind,
    spec: ScoreSpec,
    level: float,
    *,
    anytime: bool = False,
) -> Score:
    """Score one layer under one filter, on clean images, on adversarial ones, or their difference.

    Args:
        responses: which ``layer`` is part of.
        layer: one layer.
        curves: of :func:`layer_curves`.
        name: of the filter, or ``"mean"``.
        kind: clean, adversarial or difference.
        spec: how.
        level: of the interval.
        anytime: take an interval that holds however the number of images came about.
    """
    about = {
        "layer": layer.facts.name,
        "filter": name,
        "kind": kind,
        "num_images": responses.num_images,
        "p0": float(_right(responses, kind).mean()),
    }
    if reason := why_not_measurable(responses, layer, name, kind):
        return _not_measurable(about, reason)
    parts = curve_parts(curves, name, kind)
    value, error, (low, high) = estimate_parts(parts, level, anytime=anytime)
    above_control = None
    has_control = any(own == CONTROL_FILTER for own, _ in curves)
    if value > spec.tolerance and has_control and name != CONTROL_FILTER:
        control = [(-sign, curve) for sign, curve in curve_parts(curves, CONTROL_FILTER, kind)]
        above_control = estimate_parts(parts + control, level, anytime=anytime)[2][0] > 0
    estimate = Score(
        **about,  # type: ignore[arg-type]
        score=value,
        low=low,
        high=high,
        standard_error=error,
        call=None,
        certainty="leaning",
        reason="",
        beyond_chance=above_control,
    )
    return _labelled(estimate, spec.tolerance)


def _labelled(score: Score, tolerance: float) -> Score:
    """Call a score by its value and its interval; what was found beside the control stays with an antifragile one."""
    if score.score is None or score.low is None or score.high is None:
        return score
    call = call_of(score.score, tolerance)
    decided = call_of(score.low, tolerance) == call == call_of(score.high, tolerance)
    return replace(
        score,
        call=call,
        certainty="decided" if decided else "leaning",
        num_images_to_decide=None
        if decided
        else _to_decide(score.score, score.low, score.high, tolerance, score.num_images),
        beyond_chance=score.beyond_chance if call == "antifragile" else None,
    )


def relabel(scores: Scores, tolerance: float) -> Scores:
    """Call every score anew at a larger tolerance; values and intervals do not depend on it.

    Args:
        scores: at a tolerance that is at most as large; at 0, any tolerance can follow.
        tolerance: η.

    Returns:
        The same as :func:`score_responses` at ``tolerance``.

    Raises:
        ValueError: the tolerance is smaller: then what was antifragile first is not known beside the control.
    """
    if tolerance < scores.spec.tolerance:
        raise ValueError(f"tolerance must be at least that of the scores, {scores.spec.tolerance:g}, got {tolerance:g}")
    return replace(
        scores,
        spec=replace(scores.spec, tolerance=tolerance),
        rows=tuple(_labelled(row, tolerance) for row in scores.rows),
    )


def curve_parts(curves: dict[tuple[str, Kind], Curve], name: str, kind: Kind) -> list[tuple[int, Curve]]:
    """Write a score as a signed sum of curves: the difference is adversarial minus clean."""
    if kind == "difference":
        return [(1, curves[name, "adversarial"]), (-1, curves[name, "clean"])]
    return [(1, curves[name, kind])]


def estimate_parts(
    parts: list[tuple[int, Curve]], level: float, *, anytime: bool = False
) -> tuple[float, float, tuple[float, float]]:
    """Estimate a signed sum of scores of the same images: value, standard error, interval.

    Where few images contribute, or the interval is to hold at ``anytime``, each part has its own interval from a bet,
    at a level at which all of them hold together.
    """
    value = sum(sign * curve.estimand.estimate(curve.q, curve.z) for sign, curve in parts)
    influence = np.sum([sign * curve.estimand.influence(curve.q, curve.z) for sign, curve in parts], axis=0)
    q, z = np.array([curve.q for _, curve in parts]), np.array([curve.z for _, curve in parts])
    changed = np.any([curve.changed for _, curve in parts], axis=0)
    contributing = num_contributing(q, z, changed)
    if contributing >= FEWEST_CONTRIBUTING and not anytime:
        interval = linear_interval(value, influence, level, contributing)
    else:
        own_level = 1 - (1 - level) / len(parts)
        ends = [(sign, betting_interval(curve.estimand, curve.q, curve.z, own_level)) for sign, curve in parts]
        low = sum(end[0] if sign > 0 else -end[1] for sign, end in ends)
        high = sum(end[1] if sign > 0 else -end[0] for sign, end in ends)
        interval = low, high
    return value, standard_error(influence), interval


def call_of(value: float, tolerance: float) -> Call:
    """Call a score fragile below −η, antifragile above η, and robust within.

    Args:
        value: the score.
        tolerance: η.

    Source: METHOD, "Labels".

    >>> call_of(-0.06, 0.05)
    'fragile'
    """
    if value < -tolerance:
        return "fragile"
    return "antifragile" if value > tolerance else "robust"


def _to_decide(value: float, low: float, high: float, tolerance: float, num_images: int) -> int | None:
    """About how many images bring the interval to one side of ±η, as its width falls with the square root of n."""
    call = call_of(value, tolerance)
    needs = []
    if call != "antifragile":
        needs.append((high - value, (tolerance if call == "robust" else -tolerance) - value))
    if call != "fragile":
        needs.append((value - low, value - (-tolerance if call == "robust" else tolerance)))
    ratio = max((half / distance if distance > _SMALLEST_DISTANCE else math.inf) for half, distance in needs)
    return None if math.isinf(ratio) else math.ceil(num_images * ratio**2)


def _not_measurable(about: dict[str, object], reason: str) -> Score:
    return Score(
        **about,  # type: ignore[arg-type]
        score=None,
        low=None,
        high=None,
        standard_error=None,
        call=None,
        certainty="not measurable",
        reason=reason,
    )


def why_not_measurable(responses: Responses, layer: LayerResponse, name: str, kind: Kind) -> str:
    """Say why a layer has no score under a filter, in words; empty if it has one."""
    return _unchanged(layer.facts, _rows_of(responses, name)) or accuracy_problem(responses, kind)


def _unchanged(facts: LayerFacts, chosen: list[int]) -> str:
    if facts.changes[chosen].any():
        return ""
    dead = facts.num_weights - facts.num_live
    return f"this filter removes no weight that can change the output ({dead} of {facts.num_weights} weights are dead)"


def _right(responses: Responses, kind: Kind) -> npt.NDArray[np.bool_]:
    unfiltered = responses.unfiltered
    predicted = unfiltered.clean if kind == "clean" else unfiltered.adversarial
    right: npt.NDArray[np.bool_] = predicted == responses.labels
    return right


def accuracy_problem(responses: Responses, kind: Kind) -> str:
    """Say why the unfiltered accuracy leaves nothing to compare with; empty where it leaves something.

    Source: METHOD, "Not measurable".
    """
    if kind == "difference":
        return accuracy_problem(responses, "clean") or accuracy_problem(responses, "adversarial")
    num_right, num_images = int(_right(responses, kind).sum()), responses.num_images
    where = f"(n = {num_images}"
    if kind == "adversarial" and responses.attack is not None:
        where += f", ε = {responses.attack.epsilon * 255:.3g}/255"
    where += ")"
    if num_right < FEWEST_RIGHT:
        return f"only {num_right} {kind} images are right without a filter; at least {FEWEST_RIGHT} are needed {where}"
    if not is_above_chance(num_right, num_images, responses.num_classes):
        return (
            f"{kind} accuracy without a filter is {num_right / num_images:.3f}, its lower 95 % bound "
            f"{wilson_interval(num_right, num_images)[0]:.3f} is below chance + 2 points "
            f"({1 / responses.num_classes + MARGIN_ABOVE_CHANCE:.3f}) {where}"
        )
    return ""
