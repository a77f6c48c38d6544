"""What texts say of what a network answers: numbers and words, by the name that they have in a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fss_core.live.answers import Attacked, Sweep
from fss_core.numerals import signed, with_interval
from fss_core.responses import Responses
from fss_core.scores import Kind, Score, score_responses
from fss_core.specs import CONTROL_FILTER, ScoreSpec
from fss_core.stories.needs import Ready
from fss_core.summaries import (
    Accuracy,
    ControlBand,
    RemovedWeights,
    ResponseCurves,
    ScoreArea,
    filter_title,
)

Fields = dict[str, str]

SIZES: tuple[float, ...] = tuple(size / 255 for size in (0, 0.5, 1, 2, 4, 8, 16, 32, 64, 128))
"""Sizes ε of the attack that can be chosen, in pixels on [0, 1]."""


def epsilon_words(epsilon: float) -> str:
    """Write ε.

    >>> epsilon_words(2 / 255)
    '2/255'
    """
    return f"{epsilon * 255:.3g}/255"


def percent(share: float) -> str:
    """Write a share.

    >>> percent(0.3), percent(0.985)
    ('30 %', '98.5 %')
    """
    return f"{round(100 * share, 1):g} %"


def accuracy_words(accuracy: Accuracy) -> str:
    """Write an accuracy with its interval.

    >>> accuracy_words(Accuracy.of(82, 100))
    '0.82 [0.73, 0.88]'
    """
    return with_interval(accuracy.value, accuracy.low, accuracy.high)


def about(ready: Ready, num_images: int, epsilon: float | None = None) -> Fields:
    """Say what every step that asks a network can say."""
    return {
        "network": ready.network_title,
        "dataset": ready.dataset_title,
        "epoch": str(ready.network.epoch),
        "images": str(num_images),
        "epsilon": epsilon_words(ready.epsilon if epsilon is None else epsilon),
    }


def sizes_with(calibrated: float) -> tuple[float, ...]:
    """List the sizes that can be chosen, the calibrated one among them, in order.

    >>> len(sizes_with(2 / 255)), len(sizes_with(3 / 255))
    (10, 11)
    """
    near = [size for size in SIZES if abs(size - calibrated) < 1e-9]
    return tuple(sorted({*SIZES, *([] if near else [calibrated])}))


def first_fooled(answer: Attacked) -> int:
    """Find the first image that is right, and wrong once attacked; the first one if there is none.

    Returns:
        Its place among the images.
    """
    fooled = np.flatnonzero(answer.right[0] & ~answer.right[1])
    return int(fooled[0]) if len(fooled) else 0


def perturbation_scale(epsilon: float) -> float:
    """Choose by how much a perturbation is enlarged: ε becomes black or white, from a grey middle.

    >>> perturbation_scale(0.5)
    1.0
    """
    return 0.5 / epsilon if epsilon else 1.0


def largest_change(answer: Attacked) -> float:
    """Find the largest change of a pixel of the one image, on [0, 1]."""
    return float(np.abs(answer.adversarial - answer.clean).max())


def attack_fields(answer: Attacked, ready: Ready, epsilon: float, position: float | None) -> Fields:
    """Say what an attack does; ``position`` is that of the filter's threshold, if there is one."""
    names = ready.class_names
    said = [names[int(row.argmax())] for row in answer.probabilities]
    right = [name == names[answer.label] for name in said]
    if not np.any(answer.adversarial != answer.clean):
        outcome = "The picture is unchanged, and so is the answer."
    elif said[0] == said[1]:
        outcome = f"The answer stays {said[1]}, {'which is right' if right[1] else 'which is wrong anyway'}."
    elif right[0]:
        outcome = f"The right answer, {said[0]}, has become {said[1]}: the network is fooled."
    else:
        outcome = f"The answer has moved from {said[0]} to {said[1]}; the image is a {names[answer.label]}."
    clean, attacked = (Accuracy.of(int(row.sum()), len(row)) for row in answer.right)
    return about(ready, answer.right.shape[1], epsilon) | {
        "calibrated_epsilon": epsilon_words(ready.epsilon),
        "label": names[answer.label],
        "clean_prediction": said[0],
        "clean_confidence": percent(float(answer.probabilities[0].max())),
        "adversarial_prediction": said[1],
        "adversarial_confidence": percent(float(answer.probabilities[1].max())),
        "outcome": outcome,
        "scale": f"{perturbation_scale(epsilon):.3g}",
        "clean_accuracy": accuracy_words(clean),
        "adversarial_accuracy": accuracy_words(attacked),
        "zero_gradient": percent(float(answer.zero_gradient.mean())),
        "chance": f"{ready.chance:.2f}",
        "position": "none" if position is None else f"{position:.2f}",
    }


def sweep_accuracies(sweep: Sweep) -> list[Accuracy]:
    """Count what is right at each size."""
    return [Accuracy.of(int(row.sum()), len(row)) for row in sweep.right]


def sweep_fields(sweep: Sweep, ready: Ready, chosen: int) -> Fields:
    """Say how accurate the network is at a size of the attack."""
    found = sweep_accuracies(sweep)
    lost = int((sweep.right[0] & ~sweep.right[chosen]).sum())
    return about(ready, sweep.right.shape[1], float(sweep.epsilons[chosen])) | {
        "calibrated_epsilon": epsilon_words(ready.epsilon),
        "clean_accuracy": accuracy_words(found[0]),
        "adversarial_accuracy": accuracy_words(found[chosen]),
        "lost": str(lost),
        "chance": f"{ready.chance:.2f}",
        "zero_gradient": percent(float(sweep.zero_gradient.mean())),
    }


def filter_fields(
    ready: Ready, curves: ResponseCurves, control: ControlBand | None, removed: RemovedWeights, k: int
) -> Fields:
    """Say what a filter removes at a threshold, and what that does."""

    def at(values: npt.NDArray[np.float64]) -> str:
        return f"{values[k]:.2f}"

    def with_band(accuracy: Sequence[npt.NDArray[np.float64]]) -> str:
        return f"{accuracy[0][k]:.2f} [{accuracy[1][k]:.2f}, {accuracy[2][k]:.2f}]"

    return about(ready, curves.num_images) | {
        "layer": curves.layer,
        "filter": filter_title(curves.filter).lower(),
        "position": f"{removed.position:.2f}",
        "threshold": "none" if removed.threshold is None else f"{removed.threshold:.3g}",
        "removed": f"{removed.num_removed:,.0f}",
        "weights": f"{removed.num_weights:,}",
        "share": percent(removed.num_removed / removed.num_weights),
        "clean_before": accuracy_words(curves.clean.unfiltered),
        "clean_accuracy": with_band((curves.clean.accuracy, curves.clean.low, curves.clean.high)),
        "adversarial_before": accuracy_words(curves.adversarial.unfiltered),
        "adversarial_accuracy": with_band(
            (curves.adversarial.accuracy, curves.adversarial.low, curves.adversarial.high)
        ),
        "random_clean": "not asked for" if control is None else at(control.clean.mean),
        "random_adversarial": "not asked for" if control is None else at(control.adversarial.mean),
    }


def area_fields(ready: Ready, curves: ResponseCurves, area: ScoreArea, k: int) -> Fields:
    """Say how far a score has been added up."""
    curve = curves.clean if area.kind == "clean" else curves.adversarial
    so_far, score, relative = (
        "not measurable" if math.isnan(value) else signed(value)
        for value in (float(area.so_far[k]), area.score, float(area.relative[k]))
    )
    return about(ready, area.num_images) | {
        "layer": area.layer,
        "filter": filter_title(area.filter).lower(),
        "kind": area.kind,
        "position": f"{area.positions[k]:.2f}",
        "accuracy": f"{curve.accuracy[k]:.2f}",
        "before": accuracy_words(curve.unfiltered),
        "relative": relative,
        "so_far": so_far,
        "score": score,
    }


# Calls ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Scores of one layer, as rows.

    Attributes:
        scores: one a row.
        titles: of the rows.
        chosen: the one that texts speak of.
        control: the difference of its filter to the random control is looked at in this one's ``beyond_chance``.
    """

    scores: tuple[Score, ...]
    titles: tuple[str, ...]
    chosen: Score


def first_images(responses: Responses, num_images: int) -> Responses:
    """Keep the first images only."""
    return replace(
        responses,
        labels=responses.labels[:num_images],
        unfiltered=responses.unfiltered.images(0, num_images),
        layers=tuple(replace(own, predictions=own.predictions.images(0, num_images)) for own in responses.layers),
    )


def layer_calls(responses: Responses, filter: str, kind: Kind | str, tolerance: float, num_images: int) -> Calls:
    """Score the one layer of some responses.

    Args:
        responses: of one layer, under the three filters.
        filter: which one texts speak of.
        kind: which score; ``"all"`` for the three kinds of one filter in place of one kind of all filters.
        tolerance: η.
        num_images: score on so many of the images.

    Returns:
        The scores.
    """
    spec = ScoreSpec(tolerance=tolerance)
    scored = score_responses(first_images(responses, num_images), reference=spec.reference, tolerance=tolerance)
    if kind == "all":
        rows = [own for own in scored.rows if own.filter == filter]
        titles: list[str] = [own.kind for own in rows]
        chosen = next(own for own in rows if own.kind == "adversarial")
    else:
        rows = [own for own in scored.rows if own.kind == kind]
        titles = [filter_title(own.filter).replace(" filters", "").replace("the three", "three") for own in rows]
        chosen = next(own for own in rows if own.filter == filter)
    return Calls(scores=tuple(rows), titles=tuple(titles), chosen=chosen)


def calls_fields(ready: Ready, calls: Calls, tolerance: float, kind: str) -> Fields:
    """Say what the call is, why, and whether removing random weights would have done the same."""
    own = calls.chosen
    known = own.score is not None and own.low is not None and own.high is not None
    numbers = {
        name: signed(value) if value is not None else "not measurable"
        for name, value in (("score", own.score), ("low", own.low), ("high", own.high))
    }
    if own.score is None or own.low is None or own.high is None:
        sentence = f"It is not measurable: {own.reason}."
        width = "not measurable"
    else:
        width = f"{own.high - own.low:.3f}"
        where = {"fragile": "below −η", "robust": "within ±η", "antifragile": "above η"}[str(own.call)]
        lies = "the whole interval lies there: decided" if own.certainty == "decided" else "but not its whole interval"
        sentence = f"The score lies {where}, {lies}{'' if own.certainty == 'decided' else ': leaning'}."
    return (
        about(ready, own.num_images)
        | numbers
        | {
            "layer": own.layer,
            "filter": filter_title(own.filter).lower(),
            "kind": own.kind if kind != "all" else "adversarial",
            "width": width,
            "call": str(own.call or "not measurable"),
            "certainty": own.certainty if known else "no call",
            "tolerance": f"{tolerance:g}",
            "sentence": sentence,
            "chance_sentence": _beyond_chance(calls),
        }
    )


def _beyond_chance(calls: Calls) -> str:
    own = calls.chosen
    controls = [row for row in calls.scores if row.filter == CONTROL_FILTER and row.kind == own.kind]
    if own.call == "antifragile" and own.beyond_chance is not None:
        return (
            "Beyond chance: removing random weights does less."
            if own.beyond_chance
            else "Not shown to be beyond chance: removing random weights may do the same."
        )
    if controls and controls[0].score is not None and own.score is not None:
        return f"Removing as many random weights scores {signed(controls[0].score)}."
    return "No call that could be owed to chance."
