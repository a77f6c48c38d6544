"""What the resident process computes; needs torch."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, singledispatchmethod

import numpy as np
import torch
from torch import Tensor, nn

from fss_core import attacks
from fss_core.checkpoints import find_checkpoint, load_network
from fss_core.conditions import full_precision
from fss_core.data import load_dataset
from fss_core.filters import LayerFilters
from fss_core.live.answers import Answer, Attacked, Layers, Response, Sweep
from fss_core.live.requests import AttackRequest, Filtered, LayersRequest, Network, RespondRequest, SweepRequest
from fss_core.measuring import Measurer
from fss_core.models import describe_layers
from fss_core.responses import LayerResponse, Predictions, Responses
from fss_core.specs import (
    CONTROL_FILTER,
    SYNAPTIC_FILTERS,
    AttackSpec,
    CheckpointError,
    FilterRow,
    ResponseSpec,
    UnknownLayerError,
    choose,
)


class Laboratory:
    """Answers requests, and keeps the few networks and images that were asked for last.

    Reads checkpoints and data sets below ``FSS_CACHE_DIR``; writes nothing.
    """

    def __init__(self) -> None:
        """Begin with nothing loaded."""
        self._network = lru_cache(maxsize=2)(self._load_network)
        self._measurer = lru_cache(maxsize=2)(self._make_measurer)
        self._frozen = lru_cache(maxsize=4)(self._attack_unfiltered)
        self._unfiltered = lru_cache(maxsize=4)(self._predict_unfiltered)

    @singledispatchmethod
    def answer(self, request: object) -> Answer:
        """Answer a request.

        Raises:
            CheckpointError: the network is not there, or is another one by now.
            UnknownLayerError: the network has no such layer.
            ValueError: there are not so many images, or the request makes no sense.
        """
        raise ValueError(f"no such question: {type(request).__name__}")

    # Networks and images

    def _load_network(self, network: Network) -> nn.Module:
        found = find_checkpoint(network.training, network.epoch)
        if found is None or not found.kept or found.sha256 != network.sha256:
            own = network.training
            raise CheckpointError(
                f"epoch {network.epoch} of {own.network} on {own.dataset}, initialisation {own.seed}, is not there any "
                "more; look again"
            )
        return load_network(found)

    def _make_measurer(self, network: Network, num_thresholds: int) -> Measurer:
        shape = load_dataset(network.training.dataset).image_shape
        spec = ResponseSpec(filters=(*SYNAPTIC_FILTERS, CONTROL_FILTER), num_thresholds=num_thresholds)
        return Measurer(self._network(network), shape, spec)

    def _images(self, network: Network, num_images: int) -> tuple[Tensor, Tensor]:
        probe = load_dataset(network.training.dataset).probe
        if num_images > len(probe.labels):
            raise ValueError(f"num_images must be at most {len(probe.labels)}, got {num_images}")
        return probe.pixels(0, num_images), torch.from_numpy(np.array(probe.labels[:num_images]))

    def _attack_unfiltered(self, network: Network, epsilon: float, num_images: int) -> attacks.Attacked:
        pixels, labels = self._images(network, num_images)
        return attacks.run_attack(self._network(network), pixels, labels, AttackSpec(epsilon=epsilon))

    def _predict_unfiltered(
        self, network: Network, num_thresholds: int, epsilon: float, num_images: int
    ) -> Predictions:
        pixels, _ = self._images(network, num_images)
        frozen = self._frozen(network, epsilon, num_images)
        measurer = self._measurer(network, num_thresholds)
        return measurer.unfiltered(pixels, frozen.pixels, frozen.zero_gradient.numpy())

    # Answers

    @answer.register
    def _(self, request: AttackRequest) -> Attacked:
        pixels, labels = self._images(request.network, request.num_images)
        model = self._network(request.network)
        with _replaced(model, request.filtered):
            if request.epsilon:
                spec = AttackSpec(epsilon=request.epsilon)
                attacked = attacks.run_attack(model, pixels, labels, spec)
            else:
                attacked = attacks.Attacked(pixels=pixels, zero_gradient=torch.zeros(len(pixels), dtype=torch.bool))
            with torch.no_grad(), full_precision():
                logits = torch.stack([model(pixels), model(attacked.pixels)])
        one = request.index
        return Attacked(
            clean=pixels[one].numpy(),
            adversarial=attacked.pixels[one].numpy(),
            probabilities=logits[:, one].softmax(1).numpy(),
            label=int(labels[one]),
            zero_gradient=attacked.zero_gradient.numpy(),
            right=(logits.argmax(2) == labels).numpy(),
        )

    @answer.register
    def _(self, request: SweepRequest) -> Sweep:
        pixels, labels = self._images(request.network, request.num_images)
        model = self._network(request.network)
        right = []
        path = attacks.FgsmPath.of(model, pixels, labels)
        with torch.no_grad(), full_precision():
            for epsilon in request.epsilons:
                right.append((model(path.pixels(epsilon)).argmax(1) == labels).numpy())
        return Sweep(
            epsilons=np.array(request.epsilons, dtype=np.float64),
            right=np.stack(right),
            zero_gradient=path.zero_gradient.numpy(),
        )

    @answer.register
    def _(self, request: RespondRequest) -> Response:
        measurer = self._measurer(request.network, request.num_thresholds)
        choose(request.layer, measurer.layers, what="filterable layer called", error=UnknownLayerError)
        pixels, labels = self._images(request.network, request.num_images)
        frozen = self._frozen(request.network, request.epsilon, request.num_images)
        unfiltered = self._unfiltered(request.network, request.num_thresholds, request.epsilon, request.num_images)
        row = FilterRow(filter=request.filter, draw=request.draw)
        predictions = measurer.measure(request.layer, pixels, labels, frozen.pixels, unfiltered, rows=[row])
        return Response(
            responses=Responses(
                spec=replace(measurer.spec, filters=(request.filter,)),
                attack=AttackSpec(epsilon=request.epsilon),
                rows=(row,),
                labels=labels.numpy(),
                num_classes=measurer.num_classes,
                unfiltered=unfiltered,
                layers=(LayerResponse(facts=measurer.facts(request.layer, [row]), predictions=predictions),),
                notes=measurer.notes,
            )
        )

    @answer.register
    def _(self, request: LayersRequest) -> Layers:
        shape = load_dataset(request.network.training.dataset).image_shape
        layers = [own.layer for own in describe_layers(self._network(request.network), shape).values()]
        return Layers(names=tuple(own.name for own in layers), kinds=tuple(own.kind for own in layers))


class _replaced:
    """Lends a network with one layer filtered for a block, and gives its weights back afterwards."""

    def __init__(self, model: nn.Module, filtered: Filtered | None) -> None:
        self._weight: Tensor | None = None
        if filtered is None:
            return
        modules = dict(model.named_modules())
        choose(filtered.layer, modules, what="filterable layer called", error=UnknownLayerError)
        weight = getattr(modules[filtered.layer], "weight", None)
        if not isinstance(modules[filtered.layer], nn.Conv2d | nn.Linear) or not isinstance(weight, nn.Parameter):
            raise UnknownLayerError(f"{filtered.layer} has no weights that can be filtered")
        # Whether a weight is live decides nothing here: only which of them are removed.
        live = torch.ones_like(weight, dtype=torch.bool)
        filters = LayerFilters(weight, live, num_thresholds=filtered.num_thresholds, name=filtered.layer)
        removal = filters.removal(FilterRow(filter=filtered.filter), filtered.k)
        self._weight, self._own, self._other = weight, weight.data, filters.apply(removal)

    def __enter__(self) -> None:
        if self._weight is not None:
            self._weight.data = self._other

    def __exit__(self, *exception: object) -> None:
        if self._weight is not None:
            self._weight.data = self._own
