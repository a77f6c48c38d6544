"""Responses: which classes every filtered network predicts, on clean and on adversarial images.

Plain arrays with named axes and what made them; ``measuring.py`` fills them, ``scores.py`` reduces them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fss_core.specs import (
    AttackSpec,
    FilterRow,
    ResponseSpec,
)

if TYPE_CHECKING:
    import pandas as pd


Classes = npt.NDArray[np.unsignedinteger[Any]]
"""Predicted classes; one byte each up to 256 classes, else two."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """What networks predict for the same images, clean and adversarial.

    Attributes:
        clean: predicted classes, (…, N).
        adversarial: predicted classes of the adversarial version of each image, (…, N).
        zero_gradient: bool (…, N), True where the attack found no gradient; ``None`` where nothing was attacked anew.
    """

    clean: Classes
    adversarial: Classes
    zero_gradient: npt.NDArray[np.bool_] | None = None

    @property
    def num_images(self) -> int:
        """N, the number of images."""
        return int(self.clean.shape[-1])

    def images(self, start: int, stop: int) -> Predictions:
        """Keep some images, counted as a slice counts."""
        return self._select((..., slice(start, stop)))

    def rows(self, start: int, stop: int) -> Predictions:
        """Keep some rows, along the first axis."""
        return self._select((slice(start, stop),))

    def _select(self, where: tuple[Any, ...]) -> Predictions:
        return Predictions(
            clean=self.clean[where],
            adversarial=self.adversarial[where],
            zero_gradient=None if self.zero_gradient is None else self.zero_gradient[where],
        )

    @staticmethod
    def stack(parts: Sequence[Predictions], shape: tuple[int, ...]) -> Predictions:
        """Put predictions of the same images under each other, as an array of the given shape × N."""
        return _together(parts, lambda arrays: np.stack(arrays).reshape((*shape, -1)))

    @staticmethod
    def join(parts: Sequence[Predictions], *, axis: int = -1) -> Predictions:
        """Put predictions side by side: along the images (the last axis), or along another."""
        return _together(parts, lambda arrays: np.concatenate(arrays, axis=axis))


def _together(parts: Sequence[Predictions], combine: Callable[[Sequence[Any]], Any]) -> Predictions:
    gradients = [part.zero_gradient for part in parts if part.zero_gradient is not None]
    assert len(gradients) in (0, len(parts)), "parts that know where the gradient was zero, and parts that do not"
    return Predictions(
        clean=combine([part.clean for part in parts]),
        adversarial=combine([part.adversarial for part in parts]),
        zero_gradient=combine(gradients) if gradients else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerFacts:
    """What filtering does to a layer's weights; the same for all images.

    Attributes:
        name: dotted module name, or ``specs.GLOBAL_LAYER``.
        kind: as in ``models.Layer``; ``"all"`` for the whole network.
        relative_depth: 0 at the input, 1 at the output; 0 for the whole network.
        num_weights: weights in all.
        num_live: weights that can change the output, by geometry.
        thresholds: float64 (A,) in the units of the weights; empty for the whole network, whose layers have each
            their own.
        num_kept: int64 (R, A), weights that each filter keeps.
        num_live_kept: int64 (R, A), likewise counting live, non-zero weights only.
        changes: bool (R, A), whether the filter removes any live, non-zero weight.
        histogram: int64 (200,), number of weights per bin; empty for the whole network.
        histogram_edges: float64 (201,); empty for the whole network.
    """

    name: str
    kind: str
    relative_depth: float
    num_weights: int
    num_live: int
    thresholds: npt.NDArray[np.float64]
    num_kept: npt.NDArray[np.int64]
    num_live_kept: npt.NDArray[np.int64]
    changes: npt.NDArray[np.bool_]
    histogram: npt.NDArray[np.int64]
    histogram_edges: npt.NDArray[np.float64]

    @property
    def kept_fraction(self) -> npt.NDArray[np.float64]:
        """Fraction of the weights that each filter keeps, (R, A)."""
        return self.num_kept / self.num_weights


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerResponse:
    """The response of one layer: R rows (filters and draws) × A thresholds × N images.

    Attributes:
        facts: what filtering does to the weights.
        predictions: predicted classes (R, A, N); of the first images only, where measuring stopped early.
    """

    facts: LayerFacts
    predictions: Predictions

    @property
    def zero_gradient_share(self) -> float | None:
        """Fraction of filtered networks and images whose attack had no gradient; ``None`` if not attacked anew."""
        found = self.predictions.zero_gradient
        return None if found is None else float(found.mean())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Responses:
    """Responses of some layers of one network, with everything that scores are computed from.

    Attributes:
        spec: what was asked for.
        attack: how adversarial images were made; ``None`` when the caller brought them.
        rows: the R rows of every layer, in order.
        labels: int64 (N,), the true classes.
        num_classes: logits of the network.
        unfiltered: predictions (N,) of the unfiltered network, on the same images.
        layers: in network order.
        notes: what was not as asked for, in words.
        classes_known: whether predicted classes are known; otherwise only which images filtered networks get right is,
            and a wrong class is written as ``num_classes``, which no class is.
    """

    spec: ResponseSpec
    attack: AttackSpec | None
    rows: tuple[FilterRow, ...]
    labels: npt.NDArray[np.int64]
    num_classes: int
    unfiltered: Predictions
    layers: tuple[LayerResponse, ...]
    notes: tuple[str, ...] = ()
    classes_known: bool = True

    @property
    def num_images(self) -> int:
        """N, the number of images."""
        return len(self.labels)

    @property
    def positions(self) -> npt.NDArray[np.float64]:
        """t, the position of each threshold on [0, 1], (A,)."""
        return np.linspace(0, 1, self.spec.num_thresholds)

    @property
    def cautions(self) -> tuple[str, ...]:
        """Say what a reader must know first: few classes predicted, accuracy near chance, and notes."""
        from fss_core.intervals import is_above_chance

        found = list(self.notes)
        predicted, present = (len(np.unique(classes)) for classes in (self.unfiltered.clean, self.labels))
        if predicted * 2 <= present:
            found.append(f"the unfiltered network predicts {predicted} of {present} classes")
        num_right = int((self.unfiltered.clean == self.labels).sum())
        if not is_above_chance(num_right, self.num_images, self.num_classes):
            accuracy = num_right / self.num_images
            found.append(f"clean accuracy {accuracy:.3f} is near chance ({1 / self.num_classes:.3f})")
        return tuple(found)

    def to_dataframe(self) -> pd.DataFrame:
        """Tabulate accuracies, one line per layer, filter and threshold; the control's draws are averaged.

        Returns:
            Columns ``layer``, ``filter``, ``threshold_index``, ``threshold`` (units of the weights; missing for the
            whole network), ``position`` (on [0, 1]), ``kept_fraction``, ``clean_accuracy``, ``adversarial_accuracy``
            (fractions), ``num_images``, and ``zero_gradient_share`` where every filtered network was attacked anew.
        """
        import pandas as pd

        frames = []
        num_thresholds = self.spec.num_thresholds
        for layer in self.layers:
            facts = layer.facts
            columns: dict[str, Any] = {
                "threshold": facts.thresholds if facts.thresholds.size else np.full(num_thresholds, np.nan),
                "position": self.positions,
            }
            for name in dict.fromkeys(row.filter for row in self.rows):
                chosen = [index for index, row in enumerate(self.rows) if row.filter == name]
                columns |= {
                    "kept_fraction": facts.kept_fraction[chosen].mean(axis=0),
                    "clean_accuracy": (layer.predictions.clean[chosen] == self.labels).mean(axis=(0, 2)),
                    "adversarial_accuracy": (layer.predictions.adversarial[chosen] == self.labels).mean(axis=(0, 2)),
                    "num_images": self.num_images,
                }
                if layer.predictions.zero_gradient is not None:
                    columns["zero_gradient_share"] = layer.predictions.zero_gradient[chosen].mean(axis=(0, 2))
                frame = pd.DataFrame(columns)
                frame.insert(0, "layer", facts.name)
                frame.insert(1, "filter", name)
                frame.insert(2, "threshold_index", np.arange(num_thresholds))
                frames.append(frame)
        if not frames:
            names = ("layer", "filter", "threshold_index", "threshold", "position", "kept_fraction")
            return pd.DataFrame(columns=[*names, "clean_accuracy", "adversarial_accuracy", "num_images"])
        return pd.concat(frames, ignore_index=True).astype({"threshold": "Float64"})
