"""Responses as arrays: which images are right, one bit each, and what filters keep; and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fss_core.responses import Classes, LayerFacts, LayerResponse, Predictions, Responses
from fss_core.specs import SYNAPTIC_FILTERS, AttackSpec, ResponseSpec, filter_rows

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """A layer, or the whole network, as it was measured.

    Attributes:
        name: dotted module name, or ``specs.GLOBAL_LAYER``.
        kind: as in ``models.Layer``.
        relative_depth: 0 at the input, 1 at the output.
        num_weights: in all.
        num_live: those that can change the output.
    """

    name: str
    kind: str
    relative_depth: float
    num_weights: int
    num_live: int


def arrays_of(responses: Responses) -> Arrays:
    """Keep what is right of each image, packed, and what filters keep; L layers × R filters × A thresholds."""
    labels = responses.labels

    def packed(found: Classes) -> npt.NDArray[np.uint8]:
        return np.packbits(found == labels, axis=-1)

    layers = responses.layers
    return {
        "clean": np.stack([packed(own.predictions.clean) for own in layers]),
        "adversarial": np.stack([packed(own.predictions.adversarial) for own in layers]),
        **{
            name: np.stack([getattr(own.facts, name) for own in layers])
            for name in ("num_kept", "num_live_kept", "changes")
        },
        "unfiltered_clean": packed(responses.unfiltered.clean),
        "unfiltered_adversarial": packed(responses.unfiltered.adversarial),
    }


def layers_of(responses: Responses) -> tuple[LayerRecord, ...]:
    """Describe the layers, in order."""
    return tuple(
        LayerRecord(**{name: getattr(own.facts, name) for name in LayerRecord.__dataclass_fields__})
        for own in responses.layers
    )


def responses_of(
    arrays: Mapping[str, npt.NDArray[Any]],
    labels: npt.NDArray[np.int64],
    *,
    layers: tuple[LayerRecord, ...],
    num_classes: int,
    epsilon: float,
    adaptive: bool,
    num_thresholds: int,
) -> Responses:
    """Put responses together from :func:`arrays_of`; a class that is wrong is not known."""
    num_images = len(labels)

    def classes(bits: npt.NDArray[np.uint8]) -> Classes:
        right = np.unpackbits(bits, axis=-1, count=num_images).astype(np.bool_)
        found: Classes = np.where(right, labels, num_classes).astype(np.uint16)
        return found

    spec = ResponseSpec(num_thresholds=num_thresholds, engine="reference")
    found = []
    for index, own in enumerate(layers):
        facts = LayerFacts(
            name=own.name,
            kind=own.kind,
            relative_depth=own.relative_depth,
            num_weights=own.num_weights,
            num_live=own.num_live,
            thresholds=np.empty(0),
            num_kept=arrays["num_kept"][index],
            num_live_kept=arrays["num_live_kept"][index],
            changes=arrays["changes"][index],
            histogram=np.empty(0, dtype=np.int64),
            histogram_edges=np.empty(0),
        )
        predictions = Predictions(
            clean=classes(arrays["clean"][index]), adversarial=classes(arrays["adversarial"][index])
        )
        found.append(LayerResponse(facts=facts, predictions=predictions))
    return Responses(
        spec=spec,
        attack=AttackSpec(epsilon=epsilon, mode="adaptive" if adaptive else "frozen"),
        rows=filter_rows(SYNAPTIC_FILTERS, spec.num_draws),
        labels=labels,
        num_classes=num_classes,
        unfiltered=Predictions(
            clean=classes(arrays["unfiltered_clean"]), adversarial=classes(arrays["unfiltered_adversarial"])
        ),
        layers=tuple(found),
        classes_known=False,
    )
