"""How responses lie in the store: piece by piece, as each is finished, and whole again when asked for.

A measurement's pieces are its header, the facts of each layer and filter, the unfiltered network's predictions per
chunk of images, and the filtered networks' per layer, filter and chunk. A chunk holds up to
``specs.IMAGES_PER_CHUNK`` images and may be shorter until more are asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fss_core.responses import LayerFacts, LayerResponse, Predictions, Responses
from fss_core.specs import IMAGES_PER_CHUNK, AttackSpec, Filter, ResponseSpec, StoreError, filter_rows
from fss_core.store import Store, StoredArrays

_FACT_ARRAYS = ("thresholds", "num_kept", "num_live_kept", "changes", "histogram", "histogram_edges")
_FACTS_PER_ROW = ("num_kept", "num_live_kept", "changes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A run of consecutive probe images, never across a multiple of ``specs.IMAGES_PER_CHUNK``.

    Attributes:
        index: which chunk of the probe split.
        start: first image, counted from the beginning of the probe split.
        stop: one past the last.
    """

    index: int
    start: int
    stop: int

    @property
    def num_images(self) -> int:
        """How many images it has."""
        return self.stop - self.start


def chunks(num_images: int) -> list[Chunk]:
    """Divide the first images of the probe split into chunks.

    >>> [(chunk.start, chunk.stop) for chunk in chunks(150)]
    [(0, 100), (100, 150)]
    """
    size = IMAGES_PER_CHUNK
    return [
        Chunk(index=start // size, start=start, stop=min(start + size, num_images))
        for start in range(0, num_images, size)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What is known of a measurement before any image has been looked at.

    Attributes:
        costs: layer → relative cost of one of its filtered networks, in network order.
        num_classes: logits of the network.
        notes: what was not as asked for.
    """

    costs: dict[str, float]
    num_classes: int
    notes: tuple[str, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers' names, in network order."""
        return tuple(self.costs)


class ResponseArchive:
    """The pieces of one measurement.

    Args:
        store: where they lie.
        key: of ``specs.response_key``.
        spec: what is measured; its filters say which pieces :meth:`load` looks for.
    """

    def __init__(self, store: Store, key: str, spec: ResponseSpec) -> None:
        """Remember where to look."""
        self.store = store
        self.key = key
        self.spec = spec

    def _name(self, *parts: object) -> str:
        return "/".join(("responses", self.key, *(str(part) for part in parts)))

    def delete(self, layers: Sequence[str] | None = None) -> None:
        """Forget everything, or some layers' pieces and whatever is damaged."""
        if layers is None:
            self.store.delete_prefix(self._name(""))
            return
        for name in layers:
            for part in ("layer", "facts"):
                self.store.delete_prefix(self._name(part, name, ""))
        self.store.delete_damaged(self._name(""))

    def header(self) -> Header | None:
        """Read the header, if the measurement was ever begun."""
        found = self.store.get(self._name("header"))
        if found is None:
            return None
        meta = cast(dict[str, Any], found.meta)
        return Header(costs=dict(meta["costs"]), num_classes=meta["num_classes"], notes=tuple(meta["notes"]))

    def put_header(self, header: Header) -> None:
        """Write the header."""
        meta = {"costs": list(header.costs.items()), "num_classes": header.num_classes, "notes": list(header.notes)}
        self.store.put(self._name("header"), {}, meta=meta)

    def facts(self, layer: str) -> LayerFacts | None:
        """Read what the filters do to a layer's weights; ``None`` unless all of them are there."""
        pieces = [self._facts(layer, name) for name in self.spec.filters]
        known = [piece for piece in pieces if piece is not None]
        if len(known) < len(pieces):
            return None
        arrays: dict[str, Any] = {name: known[0].arrays[name] for name in _FACT_ARRAYS}
        for name in _FACTS_PER_ROW:
            arrays[name] = np.concatenate([piece.arrays[name] for piece in known])
        return LayerFacts(**cast(dict[str, Any], known[0].meta), **arrays)

    def _facts(self, layer: str, name: Filter) -> StoredArrays | None:
        return self.store.get(self._name("facts", layer, name))

    def has_facts(self, layer: str, name: Filter) -> bool:
        """Say whether the facts of one layer and filter are there."""
        return self._facts(layer, name) is not None

    def put_facts(self, name: Filter, facts: LayerFacts) -> None:
        """Write the facts of one layer and filter."""
        arrays = {part: getattr(facts, part) for part in _FACT_ARRAYS}
        meta = {part: getattr(facts, part) for part in ("name", "kind", "relative_depth", "num_weights", "num_live")}
        self.store.put(self._name("facts", facts.name, name), arrays, meta=meta)

    def unfiltered(self, chunk: Chunk) -> tuple[npt.NDArray[np.int64], Predictions] | None:
        """Read the labels and the unfiltered network's predictions, if all of the chunk's images are there."""
        found = self.store.get(self._name("unfiltered", chunk.index))
        if found is None or len(found.arrays["labels"]) < chunk.num_images:
            return None
        return found.arrays["labels"][: chunk.num_images], _predictions(found.arrays).images(0, chunk.num_images)

    def put_unfiltered(self, chunk: Chunk, labels: npt.NDArray[np.int64], predictions: Predictions) -> None:
        """Write the labels and the unfiltered network's predictions of a whole chunk."""
        self._put_longer(self._name("unfiltered", chunk.index), {"labels": labels, **_arrays(predictions, labels)})

    def predictions(self, layer: str, name: Filter, chunk: Chunk) -> Predictions | None:
        """Read the filtered networks' predictions for as many of the chunk's images as there are; ``None`` for none."""
        found = self.store.get(self._name("layer", layer, name, chunk.index))
        return None if found is None else _predictions(found.arrays).images(0, chunk.num_images)

    def put_predictions(
        self, layer: str, name: Filter, chunk: Chunk, labels: npt.NDArray[np.int64], predictions: Predictions
    ) -> None:
        """Write the filtered networks' predictions, from the beginning of a chunk."""
        arrays = _arrays(predictions, labels[: predictions.num_images])
        self._put_longer(self._name("layer", layer, name, chunk.index), arrays)

    def _put_longer(self, name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write a chunk unless a longer one is there: whoever wakes up late must not shorten what another has done."""
        found = self.store.get(name)
        if found is None or found.arrays["clean"].shape[-1] <= arrays["clean"].shape[-1]:
            self.store.put(name, arrays, meta={})

    def missing_images(self, num_images: int) -> dict[str, dict[Filter, int]]:
        """Count, for each layer and filter, the images among the first n that are still to be measured.

        Returns:
            Layer → filter → number, in network order; empty if the measurement was never begun.
        """
        header = self.header()
        known = set(self.store.keys(self._name("")))
        return {
            layer: {name: self._num_missing(layer, name, num_images, known) for name in self.spec.filters}
            for layer in (header.layers if header else ())
        }

    def _num_missing(self, layer: str, name: Filter, num_images: int, known: set[str]) -> int:
        """Count the images of one layer and filter; only the last chunk can be short, so only that one is read."""
        if self._name("facts", layer, name) not in known:
            return num_images
        there = [chunk for chunk in chunks(num_images) if self._name("layer", layer, name, chunk.index) in known]
        if not there:
            return num_images
        last = self.predictions(layer, name, there[-1])
        return num_images - sum(chunk.num_images for chunk in there[:-1]) - (0 if last is None else last.num_images)

    def layer(self, layer: str, num_images: int) -> LayerResponse | None:
        """Read one layer's response, if all of it is there."""
        if not num_images:
            return None
        facts = self.facts(layer)
        parts: list[Predictions] = []
        for chunk in chunks(num_images):
            pieces = [self.predictions(layer, name, chunk) for name in self.spec.filters]
            known = [piece for piece in pieces if piece is not None]
            if len(known) < len(pieces) or any(piece.num_images < chunk.num_images for piece in known):
                return None
            parts.append(Predictions.join(known, axis=0))
        if facts is None:
            return None
        return LayerResponse(facts=facts, predictions=Predictions.join(parts))

    def load(
        self,
        num_images: int,
        *,
        attack: AttackSpec,
        layers: Sequence[str] | None = None,
        is_settled: Callable[[Responses, LayerResponse, int], bool] | None = None,
    ) -> tuple[Responses, tuple[str, ...]] | None:
        """Put a measurement together from its pieces.

        Args:
            num_images: the first n images.
            attack: recorded in the result.
            layers: which layers; all by default.
            is_settled: takes responses without layers, what there is of one layer, and the number of all; says whether
                that is enough of it. By default, nothing less than all n images is.

        Returns:
            The responses of the complete layers, and the names of the others; ``None`` if not even the unfiltered
            network has been run on all the images.

        Raises:
            StoreError: a piece is broken, or of another schema.
        """
        header = self.header()
        known = [self.unfiltered(chunk) for chunk in chunks(num_images)] if header else []
        unfiltered = [piece for piece in known if piece is not None]
        if header is None or not unfiltered or len(unfiltered) < len(known):
            return None
        wanted = [name for name in header.layers if layers is None or name in layers]
        responses = Responses(
            spec=self.spec,
            attack=attack,
            rows=filter_rows(self.spec.filters, self.spec.num_draws),
            labels=np.concatenate([labels for labels, _ in unfiltered]),
            num_classes=header.num_classes,
            unfiltered=Predictions.join([predictions for _, predictions in unfiltered]),
            layers=(),
            notes=header.notes,
        )
        found = {name: self.layer(name, num_images) for name in wanted}
        if is_settled is not None:
            for name in [own for own, response in found.items() if response is None]:
                begun = self.layer(name, min(num_images, self._num_complete(name)))
                if begun is not None and is_settled(responses, begun, len(wanted)):
                    found[name] = begun
        complete = tuple(response for response in found.values() if response is not None)
        return replace(responses, layers=complete), tuple(name for name, own in found.items() if own is None)

    def note_asked(self, num_images: int, *, stopping: bool) -> None:
        """Note that so many images were asked for: of every layer, or until its calls are decided (``stopping``)."""
        before = self._asked()
        if not before and (already := self.num_images()):  # measured before such notes were kept
            self.store.put(self._name("asked", already, "full"), {}, meta={"when": 0.0})
        how = "labels" if stopping else "full"
        self.store.put(self._name("asked", num_images, how), {}, meta={"when": time.time()})

    def _asked(self) -> dict[tuple[int, str], float]:
        """Read how many images were asked for, and how, and when last."""
        found = {}
        prefix = self._name("asked", "")
        for name in self.store.keys(prefix):
            number, how = name.removeprefix(prefix).split("/")
            if (piece := self.store.get(name)) is not None:
                found[int(number), how] = float(cast(dict[str, Any], piece.meta)["when"])
        return found

    def num_images(self, *, stopping: bool = False) -> int:
        """Count the images, of the numbers that were asked for, on which the most layers are complete.

        While a finished measurement grows, that is the number it had; while the first one runs, the number it will
        have. It is never a number at which a layer merely stopped.

        Args:
            stopping: take what was asked for last until calls are decided, if anything was.
        """
        header = self.header()
        if header is None:
            return 0
        asked = self._asked()
        if stopping and (until := {number: when for (number, how), when in asked.items() if how == "labels"}):
            return max(until, key=lambda number: until[number])
        unfiltered = self._count(lambda index: self.store.get(self._name("unfiltered", index)), "labels")
        counts = [min(unfiltered, number) for layer in header.layers if (number := self._num_complete(layer))]
        numbers = {min(unfiltered, number) for number, _ in asked} or counts
        return max(numbers, key=lambda number: (sum(own >= number for own in counts), number), default=unfiltered)

    def _num_complete(self, layer: str) -> int:
        """Count the images, from the first on, that a layer was measured on under every filter."""

        def piece(name: Filter, index: int) -> StoredArrays | None:
            return self.store.get(self._name("layer", layer, name, index))

        return min(self._count(partial(piece, name), "clean") for name in self.spec.filters)

    @staticmethod
    def _count(piece: Callable[[int], StoredArrays | None], array: str) -> int:
        """Add up the images of consecutive pieces, up to the first that is not a whole chunk."""
        total = 0
        while total % IMAGES_PER_CHUNK == 0 and (found := piece(total // IMAGES_PER_CHUNK)) is not None:
            total += found.arrays[array].shape[-1]
        return total


def _arrays(predictions: Predictions, labels: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    """Predictions as arrays, with packed bits beside them for readers that only ask what is right."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "clean": predictions.clean,
        "adversarial": predictions.adversarial,
        "clean_right": np.packbits(predictions.clean == labels, axis=-1),
        "adversarial_right": np.packbits(predictions.adversarial == labels, axis=-1),
    }
    if predictions.zero_gradient is not None:
        arrays["zero_gradient"] = np.packbits(predictions.zero_gradient, axis=-1)
    return arrays


def _predictions(arrays: Mapping[str, npt.NDArray[Any]]) -> Predictions:
    clean, adversarial = arrays["clean"], arrays["adversarial"]
    if clean.shape != adversarial.shape:
        raise StoreError(
            f"a stored chunk has {clean.shape} clean and {adversarial.shape} adversarial predictions; use --refresh"
        )
    packed = arrays.get("zero_gradient")
    return Predictions(
        clean=clean,
        adversarial=adversarial,
        zero_gradient=None
        if packed is None
        else np.unpackbits(packed, axis=-1, count=clean.shape[-1]).astype(np.bool_),
    )
