"""What a network answers: plain arrays, and how they travel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, Self, cast

import numpy as np
import numpy.typing as npt

from fss_core.responses import LayerFacts, LayerResponse, Predictions, Responses
from fss_core.specs import CONTROL_FILTER, AttackSpec, FilterRow, ResponseSpec, from_json
from fss_core.store.entries import StoredArrays, encode

Arrays = Mapping[str, npt.NDArray[Any]]

_FACTS = ("thresholds", "num_kept", "num_live_kept", "changes", "histogram", "histogram_edges")


class Answer(Protocol):
    """What can be sent and read back."""

    def to_bytes(self) -> bytes:
        """Write it."""

    @classmethod
    def read(cls, found: StoredArrays) -> Self:
        """Read it back."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attacked:
    """Probe images under FGSM, one of them in full.

    Attributes:
        clean: float32 (C, H, W) on [0, 1], the one image.
        adversarial: likewise, attacked.
        probabilities: float32 (2, K), what the network makes of it, clean and attacked; rows sum to 1.
        label: its true class.
        zero_gradient: bool (N,), where the loss has no gradient, so that the attack does nothing; all False without an
            attack.
        right: bool (2, N), which images the network gets right, clean and attacked.
    """

    clean: npt.NDArray[np.float32]
    adversarial: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    label: int
    zero_gradient: npt.NDArray[np.bool_]
    right: npt.NDArray[np.bool_]

    def to_bytes(self) -> bytes:
        """Write it."""
        names = ("clean", "adversarial", "probabilities", "zero_gradient", "right")
        return encode({name: getattr(self, name) for name in names}, {"label": self.label})

    @classmethod
    def read(cls, found: StoredArrays) -> Attacked:
        """Read it back."""
        return cls(label=int(cast(int, found.meta["label"])), **found.arrays)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sweep:
    """Which images a network gets right under FGSM of several sizes.

    Attributes:
        epsilons: float64 (E,), in pixels on [0, 1].
        right: bool (E, N).
        zero_gradient: bool (N,), where the loss has no gradient, so that no size does anything.
    """

    epsilons: npt.NDArray[np.float64]
    right: npt.NDArray[np.bool_]
    zero_gradient: npt.NDArray[np.bool_]

    def to_bytes(self) -> bytes:
        """Write it."""
        names = ("epsilons", "right", "zero_gradient")
        return encode({name: getattr(self, name) for name in names}, {})

    @classmethod
    def read(cls, found: StoredArrays) -> Sweep:
        """Read it back."""
        return cls(**found.arrays)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Response:
    """One row of a layer's response.

    Attributes:
        responses: of one layer and one row.
    """

    responses: Responses

    def to_bytes(self) -> bytes:
        """Write it."""
        own = self.responses
        [layer], [row] = own.layers, own.rows
        assert own.attack is not None
        assert own.unfiltered.zero_gradient is not None
        arrays: dict[str, npt.NDArray[Any]] = {name: getattr(layer.facts, name) for name in _FACTS}
        arrays |= {
            "labels": own.labels,
            "unfiltered_clean": own.unfiltered.clean,
            "unfiltered_adversarial": own.unfiltered.adversarial,
            "unfiltered_zero": own.unfiltered.zero_gradient,
            "clean": layer.predictions.clean,
            "adversarial": layer.predictions.adversarial,
        }
        meta = {name: getattr(layer.facts, name) for name in ("name", "kind", "relative_depth", "num_weights")}
        meta |= {"num_live": layer.facts.num_live, "num_classes": own.num_classes, "notes": own.notes}
        return encode(arrays, meta | {"spec": asdict(own.spec), "attack": asdict(own.attack), "row": asdict(row)})

    @classmethod
    def read(cls, found: StoredArrays) -> Response:
        """Read it back."""
        arrays, meta = found.arrays, cast(dict[str, Any], found.meta)
        about: dict[str, Any] = {name: arrays[name] for name in _FACTS}
        about |= {name: meta[name] for name in ("name", "kind", "relative_depth", "num_weights", "num_live")}
        facts = LayerFacts(**about)
        return cls(
            responses=Responses(
                spec=from_json(ResponseSpec, meta["spec"]),
                attack=from_json(AttackSpec, meta["attack"]),
                rows=(FilterRow(**meta["row"]),),
                labels=arrays["labels"],
                num_classes=meta["num_classes"],
                unfiltered=Predictions(
                    clean=arrays["unfiltered_clean"],
                    adversarial=arrays["unfiltered_adversarial"],
                    zero_gradient=arrays["unfiltered_zero"],
                ),
                layers=(
                    LayerResponse(
                        facts=facts,
                        predictions=Predictions(clean=arrays["clean"], adversarial=arrays["adversarial"]),
                    ),
                ),
                notes=tuple(meta["notes"]),
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """The layers of a network that can be filtered.

    Attributes:
        names: in network order.
        kinds: of each.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """Write it."""
        return encode({}, {"names": self.names, "kinds": self.kinds})

    @classmethod
    def read(cls, found: StoredArrays) -> Layers:
        """Read it back."""
        names, kinds = (tuple(map(str, cast(list[str], found.meta[name]))) for name in ("names", "kinds"))
        return cls(names=names, kinds=kinds)


ANSWERS: dict[str, type[Attacked] | type[Sweep] | type[Response] | type[Layers]] = {
    "attack": Attacked,
    "sweep": Sweep,
    "respond": Response,
    "layers": Layers,
}
"""By the name of the request that they answer."""


def join_responses(parts: Sequence[Response]) -> Responses:
    """Put rows of the same layer under each other, as if they had been measured together.

    Args:
        parts: of one network, layer, attack and set of images; at least one. The control's draws come in order.

    Returns:
        The responses, which score as measured ones do.
    """
    first = parts[0].responses
    rows = tuple(row for part in parts for row in part.responses.rows)
    layers = [part.responses.layers[0] for part in parts]
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(own.facts, name) for own in layers])
        for name in ("num_kept", "num_live_kept", "changes")
    }
    filters = tuple(dict.fromkeys(row.filter for row in rows))
    draws = sum(row.filter == CONTROL_FILTER for row in rows) or first.spec.num_draws
    return replace(
        first,
        spec=replace(first.spec, filters=filters, num_draws=draws),
        rows=rows,
        layers=(
            LayerResponse(
                facts=replace(layers[0].facts, **joined),
                predictions=Predictions.join([own.predictions for own in layers], axis=0),
            ),
        ),
    )
