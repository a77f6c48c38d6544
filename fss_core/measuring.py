"""The measuring engine: which classes every filtered network predicts, on clean and on adversarial images.

:class:`Measurer` measures one layer on one batch of images, which is the unit of parallel, stored and resumable work.
:func:`measure_responses` runs it over layers and batches for images held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fss_core.attacks import check_images, check_labels, run_attack
from fss_core.conditions import computing_in, device_of
from fss_core.engines import Prepared, ReferenceEngine, make_engine
from fss_core.filters import UNFILTERED, LayerFilters, Signature
from fss_core.models import describe_layers, select_layers
from fss_core.responses import Classes, LayerFacts, LayerResponse, Predictions, Responses
from fss_core.specs import (
    GLOBAL_LAYER,
    IMAGES_PER_CHUNK,
    SYNAPTIC_FILTERS,
    Arithmetic,
    AttackSpec,
    Engine,
    Filter,
    FilterRow,
    ResponseSpec,
    Scope,
    filter_rows,
)


class _FilterGroup:
    """Layers that are filtered together: one for a local response, all for the global one.

    Args:
        filters: the filters of each layer, in network order.
        name: of the group.
        kind: of the group.
        relative_depth: of the group.
        num_live: weights that are live by geometry.
    """

    def __init__(
        self, filters: Mapping[str, LayerFilters], *, name: str, kind: str, relative_depth: float, num_live: int
    ) -> None:
        self.filters = filters
        self._about = {"name": name, "kind": kind, "relative_depth": relative_depth, "num_live": num_live}

    def signature(self, row: FilterRow, k: int) -> tuple[Signature, ...]:
        return tuple(own.signature(own.removal(row, k)) for own in self.filters.values())

    def weights(self, row: FilterRow, k: int) -> dict[str, Tensor]:
        return {name: own.apply(own.removal(row, k)) for name, own in self.filters.items()}

    def facts(self, rows: Iterable[FilterRow], num_thresholds: int) -> LayerFacts:
        own = list(self.filters.values())
        cells = [[[f.removal(row, k) for f in own] for k in range(num_thresholds)] for row in rows]
        kept = np.array(
            [[np.sum([f.num_kept(r) for f, r in zip(own, c, strict=True)], axis=0) for c in b] for b in cells]
        )
        single = own[0] if len(own) == 1 else None
        return LayerFacts(
            **self._about,  # type: ignore[arg-type]
            num_weights=sum(f.num_weights for f in own),
            thresholds=single.thresholds if single else np.empty(0),
            num_kept=kept[..., 0].astype(np.int64),
            num_live_kept=kept[..., 1].astype(np.int64),
            changes=np.array(
                [[any(f.signature(r) != UNFILTERED for f, r in zip(own, c, strict=True)) for c in b] for b in cells]
            ),
            histogram=single.histogram if single else np.empty(0, dtype=np.int64),
            histogram_edges=single.histogram_edges if single else np.empty(0),
        )


class Measurer:
    """Measures layers of one network, a batch of images at a time.

    Args:
        model: pixels (N, C, H, W) on [0, 1] → logits; copied, never changed.
        image_shape: (C, H, W).
        spec: filters, thresholds, scope, engine, seed.
        layers: which layers, by name; ``None`` means all.
        device: where to run.

    Attributes:
        spec: as given.
        device: as given.
        engine: runs the network.
        geometry: the layers, by name.
        rows: of the result: filters, a random one once for each draw.
        num_classes: logits of the network.
        notes: what should be said of how it was measured.

    Raises:
        NotFiniteError: a layer's weights are NaN or infinite.
        UnknownLayerError: the network has no such filterable layer.
        ValueError: arithmetic that the device does not have.
    """

    def __init__(
        self,
        model: nn.Module,
        image_shape: tuple[int, ...],
        spec: ResponseSpec,
        *,
        layers: Sequence[str] | None = None,
        device: str = "cpu",
    ) -> None:
        """Describe the layers and prepare the engine."""
        spec.check_arithmetic(device)
        self.spec = spec
        self.device = device
        self.geometry = describe_layers(model, image_shape)
        chosen = select_layers(list(self.geometry), None if layers is None else list(layers))
        self.geometry = {name: self.geometry[name] for name in chosen}
        self.rows = filter_rows(spec.filters, spec.num_draws)
        self.engine = make_engine(spec.engine, model, image_shape, device, spec.arithmetic)
        fell_back = spec.engine == "fast" and isinstance(self.engine, ReferenceEngine)
        self.notes = ("measured by the reference engine: the network cannot be traced",) if fell_back else ()
        self.num_classes = self.engine.num_classes
        self._dtype = np.uint8 if self.num_classes <= 256 else np.uint16
        self.filters_of = lru_cache(maxsize=1)(self._make_group)

    @property
    def layers(self) -> tuple[str, ...]:
        """What can be measured: the layers' names, or the one name of the whole network."""
        return tuple(self.geometry) if self.spec.scope == "local" else (GLOBAL_LAYER,)

    def _make_group(self, name: str) -> _FilterGroup:
        members = list(self.geometry.values()) if name == GLOBAL_LAYER else [self.geometry[name]]
        filters = {
            own.layer.name: LayerFilters(
                own.weight,
                own.live,
                num_thresholds=self.spec.num_thresholds,
                name=own.layer.name,
                seed=self.spec.seed,
                device=self.device,
            )
            for own in members
        }
        return _FilterGroup(
            filters,
            name=name,
            kind="all" if name == GLOBAL_LAYER else members[0].layer.kind,
            relative_depth=0.0 if name == GLOBAL_LAYER else members[0].layer.relative_depth,
            num_live=sum(own.layer.num_live for own in members),
        )

    def facts(self, name: str, rows: Sequence[FilterRow] | None = None) -> LayerFacts:
        """Say what filtering does to a layer's weights, for all rows or some."""
        return self.filters_of(name).facts(self.rows if rows is None else rows, self.spec.num_thresholds)

    def costs(self) -> dict[str, float]:
        """Estimate what one filtered network costs per image, by layer, relative to a whole forward pass.

        Half counts the products downstream of the layer, half the layers there, since small layers cost time too.
        """
        if self.spec.scope == "global":
            return {GLOBAL_LAYER: 1.0}
        products = np.array([float(own.layer.num_products) for own in self.geometry.values()])
        downstream = products[::-1].cumsum()[::-1] / max(products.sum(), 1.0)
        layers = np.arange(len(products), 0, -1) / len(products)
        return dict(zip(self.geometry, ((downstream + layers) / 2).tolist(), strict=True))

    def unfiltered(
        self, pixels: Tensor, adversarial: Tensor, zero_gradient: npt.NDArray[np.bool_] | None
    ) -> Predictions:
        """Run the unfiltered network.

        Args:
            pixels: float32 (N, C, H, W).
            adversarial: the same images, attacked.
            zero_gradient: bool (N,) where that attack found no gradient, if it is known.

        Returns:
            Predictions (N,).
        """
        with computing_in(self.spec.arithmetic, torch.device(self.device).type):
            prepared = self.engine.prepare(_both(pixels, adversarial, self.device), ())
            return self._predictions(prepared.predict({}), zero_gradient)

    def measure(
        self,
        name: str,
        pixels: Tensor,
        labels: Tensor,
        adversarial: Tensor | None,
        unfiltered: Predictions,
        *,
        attack: AttackSpec | None = None,
        rows: Sequence[FilterRow] | None = None,
        on_network: Callable[[], None] | None = None,
        on_pass: Callable[[], None] = lambda: None,
    ) -> Predictions:
        """Measure one layer on one batch: every filter at every threshold, networks that are the same only once.

        Args:
            name: one of :attr:`layers`.
            pixels: float32 (N, C, H, W).
            labels: int64 (N,).
            adversarial: the same images, attacked; ``None`` to attack every filtered network anew with ``attack``.
            unfiltered: what :meth:`unfiltered` returned for these images.
            attack: needed when ``adversarial`` is ``None``.
            rows: which of :attr:`rows`; all by default.
            on_network: called after each filter at each threshold; what it raises stops the work.
            on_pass: likewise, before each pass of an attack on a filtered network.

        Returns:
            Predictions (R, A, N).
        """
        group = self.filters_of(name)
        rows = self.rows if rows is None else rows
        frozen = adversarial is not None
        images = _both(pixels, adversarial, self.device) if adversarial is not None else pixels.to(self.device)
        if frozen:
            unfiltered = replace(unfiltered, zero_gradient=None)
        known = {tuple(UNFILTERED for _ in group.filters): unfiltered}
        cells = []
        with computing_in(self.spec.arithmetic, torch.device(self.device).type):
            prepared = self.engine.prepare(images, tuple(group.filters))
            for row in rows:
                for k in range(self.spec.num_thresholds):
                    signature = group.signature(row, k)
                    if signature not in known:
                        weights = group.weights(row, k)
                        if frozen:
                            known[signature] = self._predictions(prepared.predict(weights), None)
                        else:
                            assert attack is not None
                            known[signature] = self._attack_anew(prepared, weights, images, labels, attack, on_pass)
                    cells.append(known[signature])
                    if on_network is not None:
                        on_network()
        return Predictions.stack(cells, (len(rows), self.spec.num_thresholds))

    def _attack_anew(
        self,
        prepared: Prepared,
        weights: Mapping[str, Tensor],
        images: Tensor,
        labels: Tensor,
        attack: AttackSpec,
        on_pass: Callable[[], None],
    ) -> Predictions:
        with prepared.network(weights) as network:
            attacked = run_attack(
                network, images, labels.to(self.device), attack, num_classes=self.num_classes, on_pass=on_pass
            )
        # The attack saw clean images in float32.
        clean = attacked.classes if self.spec.arithmetic == "float32" else None
        adversarial = self.engine.prepare(attacked.pixels, tuple(weights)).predict(weights)
        return Predictions(
            clean=self._classes(prepared.predict(weights) if clean is None else clean),
            adversarial=self._classes(adversarial),
            zero_gradient=attacked.zero_gradient.numpy(),
        )

    def _classes(self, predicted: Tensor) -> Classes:
        classes: Classes = predicted.cpu().numpy().astype(self._dtype)
        return classes

    def _predictions(self, both: Tensor, zero_gradient: npt.NDArray[np.bool_] | None) -> Predictions:
        clean, adversarial = self._classes(both).reshape(2, -1)
        return Predictions(clean=clean, adversarial=adversarial, zero_gradient=zero_gradient)


def _both(pixels: Tensor, adversarial: Tensor, device: str) -> Tensor:
    return torch.cat([pixels, adversarial]).to(device)


def measure_responses(
    model: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    adversarial: Tensor | None = None,
    *,
    layers: Sequence[str] | None = None,
    filters: Sequence[Filter] = SYNAPTIC_FILTERS,
    num_thresholds: int = 25,
    engine: Engine = "fast",
    scope: Scope = "local",
    attack: AttackSpec | None = None,
    device: str = "cpu",
    arithmetic: Arithmetic = "float32",
    chunk_size: int | None = None,
    seed: int = 0,
    on_layer: Callable[[LayerResponse], None] | None = None,
) -> Responses:
    """Measure what a network predicts when the weights of each layer are filtered.

    Args:
        model: pixels (N, C, H, W) on [0, 1] → logits; any module. It is copied: weights, buffers, mode and hooks stay.
        pixels: float32 (N, C, H, W) on [0, 1].
        labels: int64 (N,), the true classes.
        adversarial: the same images, attacked on the unfiltered network ("frozen"). Leave it out and give ``attack`` to
            have every filtered network attacked anew ("adaptive").
        layers: names of the layers to filter; all by default.
        filters: which filters; ``"random"`` adds the control.
        num_thresholds: A, at least 2.
        engine: ``"fast"``, or ``"reference"`` for plain full forward passes.
        scope: ``"local"``, one layer at a time, or ``"global"``, all at once.
        attack: how to attack each filtered network; only without ``adversarial``.
        device: where to compute.
        arithmetic: in which networks predict; ``"tf32"`` and ``"bf16"`` may decide near ties otherwise.
        chunk_size: images per batch; memory grows with it, results do not depend on it.
        seed: of the random control.
        on_layer: called with each layer's response as soon as it is complete.

    Returns:
        The responses, layers in network order.

    Raises:
        NotFiniteError: weights or pixels are NaN or infinite.
        UnknownLayerError: a layer that the network does not have.
        ValueError: pixels outside [0, 1], labels without a logit, fewer than 2 thresholds, both or neither of
            ``adversarial`` and ``attack``, arithmetic that the device does not have.

    Source: METHOD, "Words" and "Adversarial images".
    """
    if attack is not None:
        attack = replace(attack, mode="adaptive")
    spec = ResponseSpec(
        filters=tuple(filters),
        num_thresholds=num_thresholds,
        scope=scope,
        engine=engine,
        seed=seed,
        arithmetic=arithmetic,
    )
    if (adversarial is None) == (attack is None):
        raise ValueError(
            "give either adversarial images (frozen) or attack=AttackSpec(…) (adaptive), not both or neither"
        )
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    check_images(pixels, labels)
    if adversarial is not None:
        check_images(adversarial, labels)
        if adversarial.shape != pixels.shape:
            raise ValueError(
                f"adversarial must have the shape of pixels {tuple(pixels.shape)}, got {tuple(adversarial.shape)}"
            )
        adversarial = adversarial.to(pixels.device)
    measurer = Measurer(model, tuple(pixels.shape[1:]), spec, layers=layers, device=device)
    check_labels(labels, measurer.num_classes)

    size = chunk_size or IMAGES_PER_CHUNK
    chunks = [slice(start, start + size) for start in range(0, len(pixels), size)]
    attacked: Sequence[Tensor]
    gradients: list[npt.NDArray[np.bool_] | None]
    if adversarial is not None:
        attacked, gradients = [adversarial[chunk] for chunk in chunks], [None] * len(chunks)
    else:
        assert attack is not None
        home = device_of(model)
        made = [run_attack(model, pixels[c].to(home), labels[c].to(home), attack) for c in chunks]
        attacked, gradients = [own.pixels for own in made], [own.zero_gradient.numpy() for own in made]
    unfiltered = [
        measurer.unfiltered(pixels[chunk], attacked[index].to(pixels.device), gradients[index])
        for index, chunk in enumerate(chunks)
    ]

    responses = []
    for name in measurer.layers:
        parts = [
            measurer.measure(
                name,
                pixels[chunk],
                labels[chunk],
                adversarial[chunk] if adversarial is not None else None,
                unfiltered[index],
                attack=attack,
            )
            for index, chunk in enumerate(chunks)
        ]
        responses.append(LayerResponse(facts=measurer.facts(name), predictions=Predictions.join(parts)))
        if on_layer is not None:
            on_layer(responses[-1])
    return Responses(
        spec=spec,
        attack=attack,
        rows=measurer.rows,
        labels=labels.cpu().numpy().astype(np.int64),
        num_classes=measurer.num_classes,
        unfiltered=Predictions.join(unfiltered),
        layers=tuple(responses),
        notes=measurer.notes,
    )
