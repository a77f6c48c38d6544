"""A measurement in a few numbers: accuracies, counts of calls, dead weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

from fss_core.intervals import wilson_interval
from fss_core.responses import Responses
from fss_core.scores import KINDS, MEAN_FILTER, Call, Kind, Score, Scores
from fss_core.specs import GLOBAL_LAYER

_LETTERS: dict[Call, str] = {"fragile": "F", "robust": "R", "antifragile": "A"}


def letter(score: Score) -> str:
    """Write a call as one letter: capital when decided, lower case when leaning, a dot when not measurable."""
    if score.call is None:
        return "·"
    return _LETTERS[score.call] if score.certainty == "decided" else _LETTERS[score.call].lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """A share of images that are right, with its interval.

    Attributes:
        value: fraction of the images.
        low: lower end of Wilson's interval.
        high: upper end.
        level: of the interval.
        num_right: images that are right.
        num_images: images in all.
    """

    value: float
    low: float
    high: float
    level: float
    num_right: int
    num_images: int

    @staticmethod
    def of(num_right: int, num_images: int, level: float = 0.95) -> Accuracy:
        """Count a share of images, and give it Wilson's interval.

        >>> round(Accuracy.of(50, 100).low, 12)
        0.403831530366
        """
        low, high = wilson_interval(num_right, num_images, level)
        return Accuracy(
            value=num_right / num_images, low=low, high=high, level=level, num_right=num_right, num_images=num_images
        )


def unfiltered_accuracy(responses: Responses, kind: Kind, level: float = 0.95) -> Accuracy:
    """Compute the accuracy of the unfiltered network on the images that were measured.

    Args:
        responses: of any layers.
        kind: ``"clean"`` or ``"adversarial"``.
        level: of Wilson's interval.

    Returns:
        Fractions and counts.

    Raises:
        ValueError: ``kind`` is the difference, which is no accuracy.
    """
    if kind == "difference":
        raise ValueError("kind must be 'clean' or 'adversarial', got 'difference'")
    predicted = responses.unfiltered.clean if kind == "clean" else responses.unfiltered.adversarial
    return Accuracy.of(int((predicted == responses.labels).sum()), responses.num_images, level)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCounts:
    """How many layers have each call.

    Attributes:
        decided: layers by call whose whole interval has that call.
        leaning: layers by call whose interval has not.
        not_measurable: layers without a score.
    """

    decided: Mapping[Call, int]
    leaning: Mapping[Call, int]
    not_measurable: int

    @property
    def total(self) -> int:
        """All layers counted."""
        return sum(self.decided.values()) + sum(self.leaning.values()) + self.not_measurable


def count_calls(scores: Scores, filter: str = MEAN_FILTER) -> dict[Kind, CallCounts]:
    """Count the calls of all layers under one filter; the whole network is not a layer.

    Args:
        scores: of a measurement.
        filter: a filter, or ``"mean"``.

    Returns:
        The counts by kind of score; all zero if there is no score under that filter.
    """
    found = Counter(
        (row.kind, row.call, row.certainty) for row in scores.rows if row.filter == filter and row.layer != GLOBAL_LAYER
    )

    def by_call(kind: Kind, certainty: str) -> Mapping[Call, int]:
        return MappingProxyType({call: found[kind, call, certainty] for call in get_args(Call)})  # type: ignore[index]

    return {
        kind: CallCounts(
            decided=by_call(kind, "decided"),
            leaning=by_call(kind, "leaning"),
            not_measurable=found[kind, None, "not measurable"],
        )
        for kind in KINDS
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadShare:
    """How many weights cannot change the output, whatever a filter does to them.

    Attributes:
        share: fraction of the weights that are dead.
        num_weights: weights in all.
        num_live: weights that can change the output, by geometry.
        num_layers: layers counted.
    """

    share: float
    num_weights: int
    num_live: int
    num_layers: int


def dead_share(responses: Responses) -> DeadShare | None:
    """Add the dead weights of all measured layers up.

    Returns:
        The share and what it is a share of; ``None`` if no layer was measured by itself.

    Source: METHOD, "Dead weights".
    """
    facts = [layer.facts for layer in responses.layers if layer.facts.name != GLOBAL_LAYER]
    if not facts:
        return None
    num_weights, num_live = sum(own.num_weights for own in facts), sum(own.num_live for own in facts)
    return DeadShare(
        share=1 - num_live / num_weights, num_weights=num_weights, num_live=num_live, num_layers=len(facts)
    )
