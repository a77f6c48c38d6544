"""Scores resolved by threshold: which weights of which layers matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fss_core.responses import Classes, LayerResponse, Responses
from fss_core.scores import MEAN_FILTER, Kind, accuracy_problem
from fss_core.specs import SYNAPTIC_FILTERS, ScoreSpec


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ThresholdMap:
    """The integrand of the scores of one filter and kind: layers × thresholds.

    Attributes:
        filter: a filter, ``"mean"`` or ``"random"``.
        kind: clean, adversarial, or their difference.
        spec: normalisation, reference and integration.
        layers: the rows, in the order asked for.
        measured: bool (L,), False for a layer that is not measured yet.
        positions: float64 (A,), t on [0, 1].
        thresholds: float64 (L, A) in the units of the weights; NaN for the whole network and what is not measured.
        values: float64 (L, A), r(t) − b(t) in the units of a score, so that integrated over t they are the score; NaN
            where there is none.
        changes: bool (L, A), whether the filter removes any weight that can change the output.
        num_images: n.
        reason: why nothing is measurable, in words; empty otherwise.
    """

    filter: str
    kind: Kind
    spec: ScoreSpec
    layers: tuple[str, ...]
    measured: npt.NDArray[np.bool_]
    positions: npt.NDArray[np.float64]
    thresholds: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    changes: npt.NDArray[np.bool_]
    num_images: int
    reason: str = ""


def threshold_map(
    responses: Responses, filter: str, kind: Kind, spec: ScoreSpec, layers: Sequence[str] | None = None
) -> ThresholdMap:
    """Resolve the scores of one filter and kind by threshold.

    Args:
        responses: of some layers.
        filter: one that was measured, or ``"mean"`` of the paper's three; the control's draws are averaged.
        kind: clean, adversarial, or their difference.
        spec: normalisation and reference.
        layers: the names of all rows, measured or not; those measured by default.

    Returns:
        The map; where the unfiltered network leaves nothing to compare with, a reason instead of values.

    Raises:
        ValueError: ``filter`` was not measured.

    Source: METHOD, "Scores": the integrand.
    """
    chosen = rows_of(responses, filter)
    by_name = {layer.facts.name: layer for layer in responses.layers}
    names = tuple(by_name if layers is None else layers)
    reason = accuracy_problem(responses, kind)
    shape = len(names), responses.spec.num_thresholds
    thresholds, values, changes = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=np.bool_)
    for index, name in enumerate(names):
        if name not in by_name:
            continue
        facts = by_name[name].facts
        if facts.thresholds.size:
            thresholds[index] = facts.thresholds
        changes[index] = facts.changes[chosen].any(axis=0)
        if not reason:
            values[index] = _integrand(responses, by_name[name], chosen, kind, spec)
    return ThresholdMap(
        filter=filter,
        kind=kind,
        spec=spec,
        layers=names,
        measured=np.array([name in by_name for name in names], dtype=np.bool_),
        positions=responses.positions,
        thresholds=thresholds,
        values=values,
        changes=changes,
        num_images=responses.num_images,
        reason=reason,
    )


def rows_of(responses: Responses, filter: str) -> list[int]:
    """Find the rows that a filter's response is the mean of.

    Raises:
        ValueError: it was not measured.
    """
    wanted = set(SYNAPTIC_FILTERS) if filter == MEAN_FILTER else {filter}
    chosen = [index for index, row in enumerate(responses.rows) if row.filter in wanted]
    if not wanted <= {row.filter for row in responses.rows}:
        measured = ", ".join(dict.fromkeys(row.filter for row in responses.rows))
        raise ValueError(f"filter {filter!r} was not measured; choose from {measured}")
    return chosen


def reference_curve(
    kept: npt.NDArray[np.float64], p0: float, chance: float, spec: ScoreSpec
) -> npt.NDArray[np.float64]:
    """Compute b(t) as an accuracy: a response that follows it scores 0.

    Args:
        kept: float64 (A,), fraction of the weights kept.
        p0: accuracy without a filter.
        chance: 1 / number of classes.
        spec: reference and normalisation.

    Returns:
        float64 (A,): p₀ itself for the unfiltered reference.
    """
    share = kept if spec.reference == "retained" else np.ones_like(kept)
    floor = chance if spec.normalise == "chance" else 0.0
    return np.asarray(floor + (p0 - floor) * share)


def _integrand(
    responses: Responses, layer: LayerResponse, chosen: list[int], kind: Kind, spec: ScoreSpec
) -> npt.NDArray[np.float64]:
    if kind == "difference":
        adversarial = _integrand(responses, layer, chosen, "adversarial", spec)
        return adversarial - _integrand(responses, layer, chosen, "clean", spec)
    predicted, before = predictions_of(responses, layer, kind)
    p0, chance = float((before == responses.labels).mean()), 1 / responses.num_classes
    p = (predicted[chosen] == responses.labels).mean(axis=(0, 2))
    kept = layer.facts.kept_fraction[chosen].mean(axis=0)
    distance = p - reference_curve(kept, p0, chance, spec)
    # (p − c)/(p₀ − c) − b is the distance from the reference curve, measured in units of p₀ − c; likewise without c.
    unit = {"chance": p0 - chance, "p0": p0, "none": 1.0}[spec.normalise]
    return np.asarray(distance / unit)


def predictions_of(responses: Responses, layer: LayerResponse, kind: Kind) -> tuple[Classes, Classes]:
    """Pick one kind of image: what the filtered networks (R, A, N) and the unfiltered one (N,) predict of it."""
    if kind == "clean":
        return layer.predictions.clean, responses.unfiltered.clean
    return layer.predictions.adversarial, responses.unfiltered.adversarial
