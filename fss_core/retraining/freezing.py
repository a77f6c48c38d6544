"""What moves in retraining and what does not: chosen weights and biases, and proof that all else stood still."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fss_core.conditions import exact
from fss_core.filters import layer_thresholds, pulse_edges
from fss_core.models import FilterableModule, LayerGeometry
from fss_core.retraining.rules import Selection
from fss_core.specs import TrainingError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """What moves in one network.

    Attributes:
        parameters: by name, those that get gradients.
        masks: parameter name → bool, True where it moves; a parameter without one moves as a whole.
        statistics: names of the buffers that move.
        num_live: trained weights that can change the output.
    """

    parameters: dict[str, nn.Parameter]
    masks: dict[str, Tensor]
    statistics: frozenset[str]
    num_live: int

    def held(self, name: str, tensor: Tensor) -> Tensor:
        """Take what must not move of one of the network's tensors, flat; it may be empty."""
        if name in self.masks:
            return tensor[~self.masks[name]]
        moves = name in self.parameters or name in self.statistics
        return tensor.new_empty(0) if moves else tensor.flatten()


def pulse_mask(weight: Tensor, num_thresholds: int, pulses: tuple[int, ...]) -> Tensor:
    """Mark the weights that lie in some pulses.

    Args:
        weight: any shape, floating point; not modified.
        num_thresholds: A.
        pulses: which of the A pulses.

    Returns:
        bool, like ``weight``, on its device.

    Source: METHOD, "synaptic filter": pulse k holds e_k ≤ w < e_{k+1}, compared in float64.

    >>> pulse_mask(torch.tensor([-1.0, 0.0, 1.0]), 3, (0, 2)).tolist()
    [True, False, True]
    """
    inner = torch.from_numpy(pulse_edges(layer_thresholds(weight.cpu(), num_thresholds))[1:-1])
    pulse = torch.bucketize(exact(weight).contiguous(), inner, right=True)
    return torch.isin(pulse, torch.tensor(pulses)).to(weight.device)


def train_only(network: nn.Module, selection: Selection, geometry: Mapping[str, LayerGeometry]) -> Trained:
    """Let a network's chosen parameters have gradients, and no others.

    Args:
        network: changed: which parameters require gradients, and hooks that mask the gradients of chosen pulses.
        selection: what to train.
        geometry: of the network's layers.

    Returns:
        What moves from now on.

    Source: METHOD, "What is trained": a chosen layer's weight and its own bias; of pulses, their weights alone.
    """
    if selection.with_norms:
        network.requires_grad_(True)
        statistics = (f"{name}.{own}" for name, norm in _norms(network).items() for own, _ in norm.named_buffers())
        return Trained(
            parameters=dict(network.named_parameters()),
            masks={},
            statistics=frozenset(statistics),
            num_live=sum(own.layer.num_live for own in geometry.values()),
        )
    network.requires_grad_(False)
    parameters: dict[str, nn.Parameter] = {}
    masks: dict[str, Tensor] = {}
    num_live = 0
    for part in selection.parts:
        module, live = network.get_submodule(part.layer), geometry[part.layer].live
        assert isinstance(module, FilterableModule)
        name = f"{part.layer}.weight"
        parameters[name] = network.get_parameter(name)
        parameters[name].requires_grad_(True)
        if part.pulses is not None:
            assert selection.num_thresholds is not None
            masks[name] = pulse_mask(module.weight, selection.num_thresholds, part.pulses)
            module.weight.register_hook(partial(_where, masks[name]))  # type: ignore[no-untyped-call]
            live = live & masks[name].cpu()
        elif module.bias is not None:
            bias = f"{part.layer}.bias"
            parameters[bias] = network.get_parameter(bias)
            parameters[bias].requires_grad_(True)
        num_live += int(live.sum())
    return Trained(parameters=parameters, masks=masks, statistics=frozenset(), num_live=num_live)


def _where(mask: Tensor, tensor: Tensor) -> Tensor:
    return tensor.masked_fill(~mask, 0)


def mask_moments(optimiser: torch.optim.Optimizer, trained: Trained) -> None:
    """Forget the moments of weights that must not move, so that none of them coasts on.

    Args:
        optimiser: over the parameters of ``trained``; changed.
        trained: what moves.
    """
    for name, mask in trained.masks.items():
        for moment, tensor in optimiser.state.get(trained.parameters[name], {}).items():
            if moment != "step":
                tensor.masked_fill_(~mask, 0)


def enter_training(network: nn.Module, *, with_norms: bool) -> None:
    """Put a network into training mode, but not its normalisation layers, whose statistics would move.

    Args:
        network: changed.
        with_norms: put these into training mode as well.
    """
    network.train()
    if not with_norms:
        for norm in _norms(network).values():
            norm.eval()


def _norms(network: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in network.named_modules() if isinstance(module, _NormBase)}


def hash_frozen(network: nn.Module, trained: Trained) -> dict[str, str]:
    """Hash what must not move: parameters, masked weights and buffers, also those that no checkpoint holds.

    Returns:
        Name → the SHA-256, in hexadecimal, of values, shape and type.
    """
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    hashes = {}
    for name, tensor in tensors.items():
        held = trained.held(name, tensor.detach()).cpu().contiguous()
        if held.numel() > 0:
            about = f"{held.dtype} {tuple(tensor.shape)}".encode()
            hashes[name] = hashlib.sha256(about + held.view(torch.uint8).numpy().tobytes()).hexdigest()
    return hashes


def check_frozen(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Compare what ``hash_frozen`` found before and after a network was trained.

    Raises:
        TrainingError: something moved; the text names it.
    """
    moved = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    if moved:
        raise TrainingError(
            f"{len(moved)} frozen tensors moved in retraining, {min(moved)!r} among them; the network changes more "
            "than its gradients say, and cannot be retrained in part"
        )
