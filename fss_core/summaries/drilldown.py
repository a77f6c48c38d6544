"""One filter of one layer at one threshold: which weights it removes, and which images it changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Literal

import numpy as np
import numpy.typing as npt

from fss_core.responses import LayerFacts, Responses
from fss_core.scores import MEAN_FILTER, Kind
from fss_core.specs import SYNAPTIC_FILTERS, FilterRow
from fss_core.summaries.curves import layer_of
from fss_core.summaries.maps import predictions_of, rows_of

Change = Literal["lost", "gained", "otherwise", "same"]
"""From right to wrong, from wrong to right, from one wrong class to another, or not at all."""

_BRIEF = 10
"""Characters of a class's name beside another: names of Tiny ImageNet's classes are lists of words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedWeights:
    """What a filter removes at a threshold; counts are means where several networks are averaged.

    Attributes:
        filter: a filter, or ``"mean"``.
        position: t on [0, 1].
        threshold: in the units of the weights; ``None`` for the whole network, whose layers have each their own.
        num_removed: weights removed.
        num_weights: weights in all.
        num_live_removed: likewise counting only weights that are not zero and can change the output.
        interval: the part of the weight axis that is removed, open towards an infinite end; ``None`` where it is not
            one part (the control, the mean, the whole network).
    """

    filter: str
    position: float
    threshold: float | None
    num_removed: float
    num_weights: int
    num_live_removed: float
    interval: tuple[float, float] | None

    @property
    def sentence(self) -> str:
        """Say it in words.

        >>> RemovedWeights(filter="pulse", position=0.5, threshold=0.0, num_removed=1200, num_weights=36000,
        ...                num_live_removed=1100, interval=(-0.1, 0.1)).sentence
        '1,200 of 36,000 weights removed (3.3 %), 1,100 of them live'
        """
        share = 100 * self.num_removed / self.num_weights
        return (
            f"{self.num_removed:,.0f} of {self.num_weights:,} weights removed ({share:.1f} %), "
            f"{self.num_live_removed:,.0f} of them live"
        )


def removed_weights(facts: LayerFacts, rows: Sequence[FilterRow], filter: str, k: int) -> RemovedWeights:
    """Say which weights a filter removes at threshold k.

    Args:
        facts: of the layer.
        rows: the rows of ``facts``, as ``Responses.rows``.
        filter: one of them, or ``"mean"``.
        k: from 0 to A − 1.

    Returns:
        Counts, and the interval on the weight axis.

    Raises:
        ValueError: the filter was not measured.
    """
    wanted = set(SYNAPTIC_FILTERS) if filter == MEAN_FILTER else {filter}
    chosen = [index for index, row in enumerate(rows) if row.filter in wanted]
    if not chosen:
        raise ValueError(f"filter {filter!r} was not measured")
    num_thresholds = facts.num_kept.shape[1]
    return RemovedWeights(
        filter=filter,
        position=k / (num_thresholds - 1),
        threshold=float(facts.thresholds[k]) if facts.thresholds.size else None,
        num_removed=facts.num_weights - float(facts.num_kept[chosen, k].mean()),
        num_weights=facts.num_weights,
        num_live_removed=_num_live(facts, rows) - float(facts.num_live_kept[chosen, k].mean()),
        interval=_interval(facts.thresholds, filter, k) if facts.thresholds.size else None,
    )


def _num_live(facts: LayerFacts, rows: Sequence[FilterRow]) -> int:
    """Count the live weights that are not zero.

    The pulses remove each of them once, so what A pulses keep is A − 1 times their number. Without pulses all live
    weights count, zero or not.
    """
    for index, row in enumerate(rows):
        if row.filter == "pulse":
            kept = facts.num_live_kept[index]
            return int(kept.sum()) // (len(kept) - 1)
    return facts.num_live


def _interval(thresholds: npt.NDArray[np.float64], filter: str, k: int) -> tuple[float, float] | None:
    own = float(thresholds[k])
    if filter == "high_pass":
        return -math.inf, own
    if filter == "low_pass":
        return own, math.inf
    if filter == "pulse":
        below = (float(thresholds[k - 1]) + own) / 2 if k > 0 else -math.inf
        above = (own + float(thresholds[k + 1])) / 2 if k + 1 < len(thresholds) else math.inf
        return below, above
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionChange:
    """What a filter does to the prediction of one image.

    Attributes:
        before: class predicted by the unfiltered network.
        after: class predicted by each filtered network: one, three for the mean of the filters, one per draw of the
            control.
        change: what happens under at least one of them.
    """

    before: int
    after: tuple[int, ...]
    change: Change


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedImage:
    """An image whose prediction changes, clean or adversarial.

    Attributes:
        index: position in the probe order.
        label: the true class.
        clean: what happens to the clean image.
        adversarial: what happens to the adversarial one.
    """

    index: int
    label: int
    clean: PredictionChange
    adversarial: PredictionChange

    def caption(self, class_names: Sequence[str] | None = None) -> str:
        """Write label and predictions under each other, as plain text: names may come from folders."""

        def name(index: int) -> str:
            known = class_names is not None and index < len(class_names)
            return class_names[index] if known and class_names is not None else str(index)

        def brief(index: int) -> str:
            own = name(index)
            return own if len(own) <= _BRIEF else f"{own[: _BRIEF - 1]}…"

        def line(title: str, own: PredictionChange) -> str:
            return f"{title}: {brief(own.before)} → {', '.join(brief(index) for index in own.after)}"

        return "\n".join(
            (f"{name(self.label)} (image {self.index})", line("clean", self.clean), line("adv.", self.adversarial))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeCounts:
    """How many images change, of one kind.

    Attributes:
        lost: right before, wrong under the filter.
        gained: wrong before, right under the filter.
        otherwise: from one wrong class to another; ``None`` where only what is right is known.
    """

    lost: int
    gained: int
    otherwise: int | None

    @property
    def total(self) -> int:
        """All images that change."""
        return self.lost + self.gained + (self.otherwise or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedImages:
    """The images that a filter changes at a threshold.

    Attributes:
        images: at most as many as asked for, losses and gains taking turns.
        num_changed: images that change, clean or adversarial, shown or not.
        clean: counts over all clean images.
        adversarial: counts over all adversarial images.
        num_images: n.
    """

    images: tuple[ChangedImage, ...]
    num_changed: int
    clean: ChangeCounts
    adversarial: ChangeCounts
    num_images: int


def changed_images(responses: Responses, layer: str, filter: str, k: int, limit: int = 12) -> ChangedImages:
    """Find the images whose prediction a filter changes at threshold k.

    Where several networks are averaged (``"mean"``, ``"random"``), an image changes if it does under any of them.

    Args:
        responses: in which the layer was measured.
        layer: its name.
        filter: one that was measured, or ``"mean"``.
        k: from 0 to A − 1.
        limit: images to show.

    Returns:
        The images, and counts over all.

    Raises:
        ValueError: the layer or the filter was not measured.
    """
    found, chosen = layer_of(responses, layer), rows_of(responses, filter)
    labels = responses.labels
    kinds: tuple[Kind, Kind] = ("clean", "adversarial")
    before: dict[Kind, npt.NDArray[np.int64]] = {}
    after: dict[Kind, npt.NDArray[np.int64]] = {}
    changes: dict[Kind, dict[Change, npt.NDArray[np.bool_]]] = {}
    for kind in kinds:
        filtered, unfiltered = predictions_of(responses, found, kind)
        before[kind], after[kind] = unfiltered.astype(np.int64), filtered[chosen, k].astype(np.int64)
        was_right = before[kind] == labels
        is_other = after[kind] != before[kind] if responses.classes_known else (after[kind] == labels) != was_right
        changed = is_other.any(axis=0)
        gained = ~was_right & (after[kind] == labels).any(axis=0)
        changes[kind] = {
            "lost": was_right & changed,
            "gained": gained,
            "otherwise": ~was_right & changed & ~gained,
        }

    def change_of(kind: Kind, index: int) -> PredictionChange:
        return PredictionChange(
            before=int(before[kind][index]),
            after=tuple(after[kind][:, index].tolist()),
            change=next((name for name, where in changes[kind].items() if where[index]), "same"),
        )

    groups = [np.flatnonzero(changes[kind][name]).tolist() for name in changes["clean"] for kind in kinds]
    order = list(dict.fromkeys(index for index in chain.from_iterable(zip_longest(*groups)) if index is not None))
    return ChangedImages(
        images=tuple(
            ChangedImage(
                index=index,
                label=int(labels[index]),
                clean=change_of("clean", index),
                adversarial=change_of("adversarial", index),
            )
            for index in order[:limit]
        ),
        num_changed=len(order),
        clean=_count(changes["clean"], responses.classes_known),
        adversarial=_count(changes["adversarial"], responses.classes_known),
        num_images=responses.num_images,
    )


def _count(changes: dict[Change, npt.NDArray[np.bool_]], classes_known: bool) -> ChangeCounts:
    lost, gained, otherwise = (int(changes[name].sum()) for name in ("lost", "gained", "otherwise"))
    return ChangeCounts(lost=lost, gained=gained, otherwise=otherwise if classes_known else None)
