"""A plain loop that measures as the reference notebooks do, as far as it is told to; slow, and independent of engines.

Every filtered network is the whole network with some weights set to zero, run on all images, for every layer, filter
and threshold. With no switch on it gives exactly what ``measuring.measure_responses`` gives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fss_core.conditions import full_precision, seeded
from fss_core.errata.differences import NotebookProcedure
from fss_core.models import LayerGeometry, describe_layers, filterable_modules, select_layers
from fss_core.responses import Classes, LayerFacts, LayerResponse, Predictions, Responses
from fss_core.specs import (
    GLOBAL_LAYER,
    SYNAPTIC_FILTERS,
    AttackSpec,
    Filter,
    ResponseSpec,
    digest,
    filter_rows,
)

BATCH_SIZE = 100
"""Images per batch, as in the notebooks: in training mode a prediction depends on its batch."""


def measure_plainly(
    network: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    *,
    layers: Sequence[str],
    num_thresholds: int,
    epsilon: float,
    procedure: NotebookProcedure | None = None,
    known: Responses | None = None,
    whole: bool = True,
    seed: int = 0,
    on_network: Callable[[], None] = lambda: None,
) -> Responses:
    """Measure the responses of some layers to high-pass, low-pass and pulse, and then of the whole network.

    Args:
        network: pixels (N, C, H, W) on [0, 1] → logits, on the CPU; copied, never changed.
        pixels: float32 (N, C, H, W) on [0, 1].
        labels: int64 (N,).
        layers: which to filter, one at a time; those of the whole network are all.
        num_thresholds: A.
        epsilon: of FGSM, in pixels on [0, 1]; where the attack is not clamped it is the mean over channels of ε times
            the channel's standard deviation, for one ε of normalised tensors.
        procedure: which of the notebooks' ways to follow; none by default.
        known: the same network, layers and ε measured with the corrected method: what the procedure cannot change is
            taken from there.
        whole: whether the whole network is filtered at once, too.
        seed: of the order of images and of Dropout, where a procedure has such.
        on_network: called after each filtered network; what it raises ends the measurement.

    Returns:
        The responses: ``layers`` in network order, then :data:`~fss_core.specs.GLOBAL_LAYER` if asked for. Histograms
        are empty.

    Raises:
        NotFiniteError: a layer's weights are NaN or infinite.
        UnknownLayerError: the network has no such layer.

    Source: METHOD, "Words" and "What the reference notebooks do differently".
    """
    procedure = procedure or NotebookProcedure()
    geometry = describe_layers(network, tuple(pixels.shape[1:]))
    with full_precision():
        runner = _Runner(network, pixels, labels, procedure, epsilon, seed)
        unfiltered = runner.run("unfiltered", clean=True, adversarial=True)
        found = []
        for name in (*select_layers(list(geometry), list(layers)), *((GLOBAL_LAYER,) if whole else ())):
            group = geometry if name == GLOBAL_LAYER else {name: geometry[name]}
            before = None if known is None else next(own for own in known.layers if own.facts.name == name)
            found.append(_measure_group(name, group, runner, num_thresholds, before, on_network))
    spec = ResponseSpec(num_thresholds=num_thresholds, engine="reference")
    return Responses(
        spec=spec,
        attack=AttackSpec(epsilon=epsilon, mode="adaptive" if procedure.adaptive else "frozen"),
        rows=filter_rows(SYNAPTIC_FILTERS, spec.num_draws),
        labels=labels.numpy().astype(np.int64),
        num_classes=runner.num_classes,
        unfiltered=unfiltered,
        layers=tuple(found),
    )


def removed_weights(weight: Tensor, filter: Filter, k: int, num_thresholds: int, *, gapped: bool = False) -> Tensor:
    """Mark the weights that a filter removes at threshold k, by comparing each with the threshold.

    Args:
        weight: any shape, floating point.
        filter: high-pass, low-pass or pulse.
        k: from 0 to A − 1.
        num_thresholds: A.
        gapped: whether a pulse is that of the notebooks.

    Returns:
        bool, like ``weight``.

    Source: METHOD, "synaptic filter", and difference 8.

    >>> removed_weights(torch.tensor([-1.0, -0.4, 1.0]), "pulse", 1, 3).tolist()
    [False, True, False]
    >>> removed_weights(torch.tensor([-1.0, -0.4, 1.0]), "pulse", 1, 3, gapped=True).tolist()
    [False, False, False]
    """
    exact = weight.double()
    low, high = float(exact.min()), float(exact.max())
    thresholds: list[float] = np.linspace(low, high, num_thresholds).tolist()
    if filter == "high_pass":
        return exact <= thresholds[k]
    if filter == "low_pass":
        return exact >= thresholds[k]
    if gapped:
        half = (high - low) / (2 * num_thresholds)
        return (exact >= thresholds[k] - half) & (exact < thresholds[k] + half)
    begin = -np.inf if k == 0 else (thresholds[k - 1] + thresholds[k]) / 2
    end = np.inf if k == num_thresholds - 1 else (thresholds[k] + thresholds[k + 1]) / 2
    return (exact >= begin) & (exact < end)


def _measure_group(
    name: str,
    group: Mapping[str, LayerGeometry],
    runner: _Runner,
    num_thresholds: int,
    known: LayerResponse | None,
    on_network: Callable[[], None],
) -> LayerResponse:
    """Filter one layer, or all at once, with every filter at every threshold."""
    procedure, whole = runner.procedure, name == GLOBAL_LAYER
    members = list(group.values())
    written = members[-1:] if whole and procedure.last_layer_only else members
    shape = (len(SYNAPTIC_FILTERS), num_thresholds)
    kept, live_kept = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    changes, cells = np.zeros(shape, dtype=np.bool_), []
    for row, filter in enumerate(SYNAPTIC_FILTERS):
        for k in range(num_thresholds):
            masks = {}
            if not (filter == "pulse" and whole and procedure.last_layer_only):
                for own in written:
                    masks[own.layer.name] = removed_weights(
                        own.weight, filter, k, num_thresholds, gapped=procedure.gapped_pulses
                    )
            gone = {own.layer.name: masks.get(own.layer.name, torch.zeros_like(own.live)) for own in members}
            live = {own.layer.name: own.live & (own.weight != 0) for own in members}
            kept[row, k] = sum(int((~gone[own]).sum()) for own in gone)
            live_kept[row, k] = sum(int((~gone[own] & live[own]).sum()) for own in gone)
            changes[row, k] = any(bool((gone[own] & live[own]).any()) for own in gone)
            wanted = {
                kind: known is None or procedure.may_change(kind, filter, whole=whole)
                for kind in ("clean", "adversarial")
            }
            with runner.filtered(masks):
                own_cell = runner.run(f"{name}/{filter}/{k}", clean=wanted["clean"], adversarial=wanted["adversarial"])
            if known is not None:
                before = known.predictions
                own_cell = Predictions(
                    clean=own_cell.clean if wanted["clean"] else before.clean[row, k],
                    adversarial=own_cell.adversarial if wanted["adversarial"] else before.adversarial[row, k],
                    zero_gradient=own_cell.zero_gradient,
                )
            cells.append(own_cell)
            on_network()
    first = members[0].layer
    return LayerResponse(
        facts=LayerFacts(
            name=name,
            kind="all" if whole else first.kind,
            relative_depth=0.0 if whole else first.relative_depth,
            num_weights=sum(own.layer.num_weights for own in members),
            num_live=sum(own.layer.num_live for own in members),
            thresholds=np.empty(0)
            if whole
            else np.linspace(float(members[0].weight.min()), float(members[0].weight.max()), num_thresholds),
            num_kept=kept,
            num_live_kept=live_kept,
            changes=changes,
            histogram=np.empty(0, dtype=np.int64),
            histogram_edges=np.empty(0),
        ),
        predictions=Predictions.stack(cells, shape),
    )


class _Runner:
    """A network of its own and the images, run as a procedure says."""

    def __init__(
        self,
        network: nn.Module,
        pixels: Tensor,
        labels: Tensor,
        procedure: NotebookProcedure,
        epsilon: float,
        seed: int,
    ) -> None:
        self.procedure = procedure
        self._network = copy.deepcopy(network).train(procedure.training_mode).requires_grad_(False)
        self._modules = filterable_modules(self._network)
        self._pixels, self._labels, self._seed = pixels, labels, seed
        std = getattr(getattr(network, "normalise", None), "std", torch.ones(1, 1, 1))
        self._step = epsilon * std / std.mean() if procedure.unclamped else torch.tensor(epsilon)
        with torch.no_grad(), seeded(seed):
            self.num_classes = int(self._network(pixels[:2]).shape[-1])
        self._dtype = np.uint8 if self.num_classes < 256 else np.uint16
        self._frozen = None if procedure.adaptive else self._attack_unfiltered()

    @contextmanager
    def filtered(self, masks: Mapping[str, Tensor]) -> Iterator[None]:
        """Set the marked weights of some layers to zero for a block."""
        own = {name: self._modules[name].weight.data for name in masks}
        try:
            for name, mask in masks.items():
                self._modules[name].weight.data = own[name].masked_fill(mask, 0)
            yield
        finally:
            for name, weight in own.items():
                self._modules[name].weight.data = weight

    def run(self, what: str, *, clean: bool, adversarial: bool) -> Predictions:
        """Run the network as it stands on all images, batch by batch; what is not asked for stays 0.

        Args:
            what: names the network: decides the order of the images and Dropout, where there is such.
            clean: whether the images are run; where each network is attacked anew, they are anyway.
            adversarial: whether the attacked images are.
        """
        num_images = len(self._labels)
        on_clean: Classes = np.zeros(num_images, dtype=self._dtype)
        on_adversarial: Classes = np.zeros(num_images, dtype=self._dtype)
        zero_gradient = np.zeros(num_images, dtype=np.bool_)
        with seeded(self._seed_of(what)):
            for batch in self._batches():
                if adversarial and self._frozen is None:
                    attacked, nothing, predicted = self._attack(batch)
                    zero_gradient[batch] = nothing.numpy()
                    on_clean[batch] = predicted.numpy().astype(self._dtype)
                    on_adversarial[batch] = self._classes(attacked)
                    continue
                if clean:
                    on_clean[batch] = self._classes(self._pixels[batch])
                if adversarial:
                    assert self._frozen is not None
                    on_adversarial[batch] = self._classes(self._frozen[batch])
        return Predictions(
            clean=on_clean,
            adversarial=on_adversarial,
            zero_gradient=zero_gradient if self.procedure.adaptive else None,
        )

    def _seed_of(self, what: str) -> int:
        return int(digest([self._seed, what]), 16) % 2**63

    def _batches(self) -> Iterator[Tensor]:
        """Divide the images into batches: in their own order, or shuffled as the notebooks' loader does."""
        num_images = len(self._labels)
        order = torch.randperm(num_images) if self.procedure.training_mode else torch.arange(num_images)
        yield from torch.split(order, BATCH_SIZE)

    def _classes(self, pixels: Tensor) -> Classes:
        with torch.no_grad():
            predicted: Tensor = self._network(pixels).argmax(1)
        classes: Classes = predicted.numpy().astype(self._dtype)
        return classes

    def _attack_unfiltered(self) -> Tensor:
        attacked = torch.empty_like(self._pixels)
        with seeded(self._seed_of("attack")):
            for batch in self._batches():
                attacked[batch], _, _ = self._attack(batch)
        return attacked

    def _attack(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of FGSM on the network as it stands.

        Returns:
            The attacked images, where there was no gradient, and what was predicted before the step.
        """
        pixels = self._pixels[batch].clone().requires_grad_()
        with torch.enable_grad():
            logits = self._network(pixels)
            loss = F.cross_entropy(logits, self._labels[batch])
            (gradient,) = torch.autograd.grad(loss, pixels)
        attacked = (pixels + self._step * gradient.sign()).detach()
        nothing = (gradient == 0).flatten(1).all(dim=1)
        return (attacked if self.procedure.unclamped else attacked.clamp(0, 1)), nothing, logits.detach().argmax(1)
