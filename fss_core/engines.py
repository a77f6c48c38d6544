"""Two ways to run a network with some weights replaced: plainly, and fast.

Both answer one question, which classes a filtered network predicts, and must give the same answer. ``reference`` runs
the whole network as it stands; ``fast`` runs only what lies downstream of the filtered layers
(:mod:`fss_core.fast_engine`).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fss_core.conditions import device_of, full_precision, swapped
from fss_core.fast_engine import FastEngine
from fss_core.models import filterable_modules
from fss_core.specs import Arithmetic, NotFiniteError
from fss_core.specs import Engine as EngineName


class UntraceableNetworkWarning(UserWarning):
    """The fast engine cannot follow a network; the reference engine measures it instead."""


class Prepared(Protocol):
    """A batch of images, ready to be run through networks that differ in the same few layers."""

    def logits(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of each image (N, K), with these layers' weights replaced."""

    def predict(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the class predicted for each image, int64 (N,), with these layers' weights replaced."""

    def network(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[nn.Module]:
        """Lend the whole network, pixels → logits, with these layers' weights replaced, to attack these images.

        Gradients are right while it is lent.
        """


class Engine(Protocol):
    """Runs one network with the weights of some layers replaced."""

    num_classes: int

    def prepare(self, pixels: Tensor, layers: Collection[str]) -> Prepared:
        """Take a batch, float32 (N, C, H, W), and the layers that will be replaced."""


def make_engine(
    name: EngineName,
    model: nn.Module,
    image_shape: tuple[int, ...],
    device: str = "cpu",
    arithmetic: Arithmetic = "float32",
) -> Engine:
    """Make an engine for a network, in float32; the network handed in is copied, never changed.

    Args:
        name: ``"fast"`` or ``"reference"``.
        model: pixels (N, C, H, W) → logits.
        image_shape: (C, H, W).
        device: where to run.
        arithmetic: in which it will predict.

    Returns:
        The engine asked for; ``reference``, with an :class:`UntraceableNetworkWarning`, where a network cannot be
        traced.

    Raises:
        NotFiniteError: the network gives no numbers for a grey ramp.
    """
    with full_precision(torch.device(device).type), torch.no_grad():
        model = copy.deepcopy(model).eval().requires_grad_(False).to(device)
        sample = torch.linspace(0, 1, 2 * torch.Size(image_shape).numel(), device=device).reshape(2, *image_shape)
        if not bool(torch.isfinite(model(sample.clone())).all()):
            raise NotFiniteError("the network's logits are NaN or infinite; look at its normalisation, or train again")
        if name == "fast":
            try:
                # It rewrites what it is given, also when it fails.
                return FastEngine(copy.deepcopy(model), sample, saves_products=arithmetic == "float32")
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                warnings.warn(
                    f"the network cannot be traced ({reason}); the reference engine measures it, which is slower",
                    UntraceableNetworkWarning,
                    stacklevel=2,
                )
        return ReferenceEngine(model, sample)


class ReferenceEngine:
    """Runs plain full forward passes.

    Args:
        model: in eval mode; the engine's own.
        sample: a few images, to learn the number of classes.
    """

    def __init__(self, model: nn.Module, sample: Tensor) -> None:
        """Run the sample once."""
        self._model = model
        self._modules = filterable_modules(model)
        with torch.no_grad():
            self.num_classes = int(model(sample).shape[-1])

    def prepare(self, pixels: Tensor, layers: Collection[str]) -> Prepared:
        """Keep the images; every prediction runs the whole network."""
        return _PreparedWhole(self._model, self._modules, pixels)


@dataclass(frozen=True, slots=True)
class _PreparedWhole:
    model: nn.Module
    modules: Mapping[str, nn.Module]
    pixels: Tensor

    def logits(self, weights: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad(), self.network(weights) as model:
            return model(self.pixels.clone())  # type: ignore[no-any-return]

    def predict(self, weights: Mapping[str, Tensor]) -> Tensor:
        return self.logits(weights).argmax(1)

    @contextmanager
    def network(self, weights: Mapping[str, Tensor]) -> Iterator[nn.Module]:
        device = device_of(self.model)
        with swapped(self.modules, {name: weight.to(device) for name, weight in weights.items()}):
            yield self.model
