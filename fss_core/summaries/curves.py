"""One layer's response over the threshold: accuracies with bands, the reference curve, the random control."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fss_core.intervals import (
    FEWEST_CONTRIBUTING,
    Estimand,
    Values,
    betting_interval,
    linear_interval,
    wilson_interval,
)
from fss_core.responses import LayerResponse, Predictions, Responses
from fss_core.scores import Kind, accuracy_problem
from fss_core.specs import CONTROL_FILTER, ScoreSpec
from fss_core.summaries.maps import predictions_of, reference_curve, rows_of
from fss_core.summaries.tiles import Accuracy, unfiltered_accuracy

_MEAN = Estimand(chance=0.0, reference=0.0, ratio=False)
"""The mean of q itself."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResponseCurve:
    """The accuracy of one layer's filtered networks on one kind of image, at each threshold.

    Attributes:
        accuracy: float64 (A,), fraction of the images; averaged over the filters or draws where there are several.
        low: float64 (A,), lower end of the interval at each threshold by itself.
        high: float64 (A,), upper end.
        reference: float64 (A,), the accuracy at which the score's integrand is 0.
        unfiltered: of the unfiltered network on the same images.
        reason: why there is no score, in words; empty otherwise.
    """

    accuracy: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    reference: npt.NDArray[np.float64]
    unfiltered: Accuracy
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResponseCurves:
    """One layer's response to one filter.

    Attributes:
        layer: its name.
        filter: a filter, or ``"mean"``.
        spec: what the reference curves are drawn for, and the level of the intervals.
        positions: float64 (A,), t on [0, 1].
        thresholds: float64 (A,) in the units of the weights; empty for the whole network.
        kept_fraction: float64 (A,), fraction of the weights kept.
        changes: bool (A,), whether any weight is removed that can change the output.
        clean: on clean images.
        adversarial: on adversarial images.
        chance: 1 / number of classes.
        num_images: n.
    """

    layer: str
    filter: str
    spec: ScoreSpec
    positions: npt.NDArray[np.float64]
    thresholds: npt.NDArray[np.float64]
    kept_fraction: npt.NDArray[np.float64]
    changes: npt.NDArray[np.bool_]
    clean: ResponseCurve
    adversarial: ResponseCurve
    chance: float
    num_images: int


def response_curves(responses: Responses, layer: str, filter: str, spec: ScoreSpec) -> ResponseCurves:
    """Compute how accurate a layer's filtered networks are at each threshold.

    Under a single filter an image is right or not, and the interval is Wilson's. Where several networks are averaged
    per image (the mean of three filters, the control's draws), an image has a value in between: the interval is then
    Student's t of the images' values, and where fewer than 10 images differ from the commonest value the betting
    interval, which holds for any bounded values; both are cut to [0, 1].

    Args:
        responses: in which the layer was measured.
        layer: its name.
        filter: one that was measured, or ``"mean"``.
        spec: reference, normalisation and level.

    Returns:
        The curves.

    Raises:
        ValueError: the layer or the filter was not measured.
    """
    found = layer_of(responses, layer)
    chosen = rows_of(responses, filter)
    kept = found.facts.kept_fraction[chosen].mean(axis=0)
    chance = 1 / responses.num_classes

    def curve(kind: Kind) -> ResponseCurve:
        per_image = (predictions_of(responses, found, kind)[0][chosen] == responses.labels).mean(axis=0)
        ends = np.array([_interval(values, len(chosen) == 1, spec.level) for values in per_image])
        unfiltered = unfiltered_accuracy(responses, kind, spec.level)
        return ResponseCurve(
            accuracy=per_image.mean(axis=1),
            low=ends[:, 0],
            high=ends[:, 1],
            reference=reference_curve(kept, unfiltered.value, chance, spec),
            unfiltered=unfiltered,
            reason=accuracy_problem(responses, kind),
        )

    return ResponseCurves(
        layer=layer,
        filter=filter,
        spec=spec,
        positions=responses.positions,
        thresholds=found.facts.thresholds,
        kept_fraction=kept,
        changes=np.asarray(found.facts.changes[chosen].any(axis=0)),
        clean=curve("clean"),
        adversarial=curve("adversarial"),
        chance=chance,
        num_images=responses.num_images,
    )


def _interval(values: Values, binary: bool, level: float) -> tuple[float, float]:
    """An interval for the mean of values (N,) on [0, 1]."""
    if binary:
        return wilson_interval(int(values.sum()), len(values), level)
    _, counts = np.unique(values.round(9), return_counts=True)
    varying = len(values) - int(counts.max())
    if varying >= FEWEST_CONTRIBUTING:
        mean = float(values.mean())
        low, high = linear_interval(mean, values - mean, level, len(values))
    else:
        low, high = betting_interval(_MEAN, values, np.zeros(len(values)), level)
    return max(low, 0.0), min(high, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ControlCurve:
    """The accuracy of the random control on one kind of image.

    Attributes:
        mean: float64 (A,), over the draws.
        low: float64 (A,), the least accurate draw at each threshold.
        high: float64 (A,), the most accurate.
    """

    mean: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ControlBand:
    """What removing as many weights as high-pass does, chosen at random, would do.

    Attributes:
        clean: on clean images.
        adversarial: on adversarial images.
        positions: float64 (A,), t on [0, 1].
        num_draws: draws that the means and ranges are over.
        num_images: n.
    """

    clean: ControlCurve
    adversarial: ControlCurve
    positions: npt.NDArray[np.float64]
    num_draws: int
    num_images: int


def control_band(responses: Responses, layer: str) -> ControlBand | None:
    """Compute a layer's random control, from whichever responses it was measured in.

    Args:
        responses: those of the layer, or separate ones with ``filters=("random",)``.
        layer: its name.

    Returns:
        The band; ``None`` if the control of that layer is not measured.
    """
    draws = [index for index, row in enumerate(responses.rows) if row.filter == CONTROL_FILTER]
    found = next((own for own in responses.layers if own.facts.name == layer), None)
    if not draws or found is None:
        return None

    def curve(kind: Kind) -> ControlCurve:
        accuracies = (predictions_of(responses, found, kind)[0][draws] == responses.labels).mean(axis=2)
        return ControlCurve(mean=accuracies.mean(axis=0), low=accuracies.min(axis=0), high=accuracies.max(axis=0))

    return ControlBand(
        clean=curve("clean"),
        adversarial=curve("adversarial"),
        positions=responses.positions,
        num_draws=len(draws),
        num_images=responses.num_images,
    )


def join_control(responses: Responses, control: Responses) -> Responses:
    """Put the rows of a separately measured control under those of the same layers.

    Scores of the result know which antifragile calls are beyond chance.

    Args:
        responses: without the control.
        control: with ``filters=("random",)``: the same images, attack, thresholds and network.

    Returns:
        The layers that both have, with the rows of both.

    Raises:
        ValueError: images, attack, predictions without a filter or number of thresholds differ, or the first already
            has a control.
    """
    if any(row.filter == CONTROL_FILTER for row in responses.rows):
        raise ValueError("responses already have the random control")
    same = (
        np.array_equal(responses.labels, control.labels)
        and np.array_equal(responses.unfiltered.clean, control.unfiltered.clean)
        and np.array_equal(responses.unfiltered.adversarial, control.unfiltered.adversarial)
        and responses.attack == control.attack
        and responses.spec.num_thresholds == control.spec.num_thresholds
    )
    if not same:
        raise ValueError(
            f"the control must be of the same network, images, attack and thresholds: got n = {control.num_images} and "
            f"{control.spec.num_thresholds} thresholds beside n = {responses.num_images} and "
            f"{responses.spec.num_thresholds}"
        )
    controls = {layer.facts.name: layer for layer in control.layers}
    return replace(
        responses,
        spec=replace(
            responses.spec,
            filters=(*responses.spec.filters, *control.spec.filters),
            seed=control.spec.seed,
            num_draws=control.spec.num_draws,
        ),
        rows=responses.rows + control.rows,
        layers=tuple(
            _joined(layer, controls[layer.facts.name]) for layer in responses.layers if layer.facts.name in controls
        ),
    )


def _joined(layer: LayerResponse, control: LayerResponse) -> LayerResponse:
    own, added = layer.facts, control.facts
    return LayerResponse(
        facts=replace(
            own,
            num_kept=np.concatenate([own.num_kept, added.num_kept]),
            num_live_kept=np.concatenate([own.num_live_kept, added.num_live_kept]),
            changes=np.concatenate([own.changes, added.changes]),
        ),
        predictions=Predictions.join([layer.predictions, control.predictions], axis=0),
    )


def layer_of(responses: Responses, name: str) -> LayerResponse:
    """Find a layer's response.

    Raises:
        ValueError: it was not measured.
    """
    for layer in responses.layers:
        if layer.facts.name == name:
            return layer
    raise ValueError(f"layer {name!r} is not among the {len(responses.layers)} that are measured")
