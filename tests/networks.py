"""Small networks that hold what engines trip over, and what is compared before and after handing one in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

on_every_device = pytest.mark.parametrize("device", ["cpu", *["cuda"] * torch.cuda.is_available()])
"""Runs a test on the CPU, and on an NVIDIA GPU too where there is one."""

IMAGE_SHAPE = (3, 8, 8)
NUM_CLASSES = 5


class Branches(nn.Module):
    """Branches, a shared module, in-place and functional operations, grouped convolutions, a 1×1 map, no activations
    between two normalisations, a constant tensor: all in one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pattern", torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8))
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(8)
        self.shared = nn.Conv2d(8, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.grouped_norm = nn.BatchNorm2d(8, affine=False)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.activation = nn.ReLU(inplace=True)
        self.narrow = nn.Conv2d(16, 6, 3, stride=4, padding=1)
        self.narrow_norm = nn.BatchNorm2d(6)
        self.single = nn.Conv2d(6, 6, 3, padding=1)
        self.hidden = nn.Linear(6, 7)
        self.classifier = nn.Linear(7, NUM_CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        x = functional.relu_(self.stem_norm(self.stem(pixels + self.pattern)))
        y = self.shared(x)
        y += x
        z = self.grouped_norm(self.grouped(y)).relu_()
        z = self.shared(z)
        z = self.activation(z)
        both = torch.cat([self.depthwise(y), self.depthwise(z)], dim=1)
        x = self.narrow_norm(self.narrow(both))
        x = self.single(x).add_(x)
        x = functional.adaptive_avg_pool2d(functional.relu(x), 1)
        return self.classifier(functional.relu(self.hidden(x.flatten(1))))  # type: ignore[no-any-return]


class Plain(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.classifier = nn.Linear(6, NUM_CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(pixels)))
        return self.classifier(functional.relu(self.second(x)).mean((2, 3)))  # type: ignore[no-any-return]


class DataDependent(Plain):
    """Looks at values to decide what to run; no graph describes it."""

    def forward(self, pixels: Tensor) -> Tensor:
        logits = super().forward(pixels)
        return logits if bool(logits.sum() > 0) else logits.clone()


class MeanBrightness(nn.Module):
    """Two logits from the mean pixel: (0, scale · mean + shift), then perhaps a ReLU."""

    def __init__(self, *, scale: float, shift: float, final_relu: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2)
        self.final_relu = final_relu
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[0.0], [scale]]))
            self.layer.bias.copy_(torch.tensor([0.0, shift]))

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.layer(pixels.mean((1, 2, 3))[:, None])
        return functional.relu(logits) if self.final_relu else logits


def make_lively(model: nn.Module, pixels: Tensor, classifier: str, *, seed: int = 0) -> nn.Module:
    """Give an untrained network normalisation statistics, and logits that differ between ``pixels``; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        if norm.affine:
            with torch.no_grad():
                norm.weight.copy_(0.5 + torch.rand(norm.weight.shape, generator=generator))
                norm.bias.copy_(torch.randn(norm.bias.shape, generator=generator) / 4)
    model.eval()
    for norm in norms:
        norm.train()
    outputs: list[Tensor] = []
    last = model.get_submodule(classifier)
    handle = last.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        model(pixels.clone())
        model.eval()
        model(pixels.clone())
        handle.remove()
        dimensions = [0, *range(2, outputs[-1].ndim)]
        mean, std = outputs[-1].mean(dimensions), outputs[-1].std(dimensions) + 1e-12
        last.weight.div_(std.reshape(-1, *[1] * (last.weight.ndim - 1)))
        last.bias.sub_(mean).div_(std)
    return model


def make_images(num_images: int = 24, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random images of ``IMAGE_SHAPE``, each with a brightness of its own, and labels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(num_images, *IMAGE_SHAPE, generator=generator)
    pixels = pixels * torch.rand(num_images, 3, 1, 1, generator=generator)
    return pixels, torch.arange(num_images) % NUM_CLASSES


def make_branches(seed: int = 0) -> nn.Module:
    """A lively ``Branches``."""
    return _make(Branches, seed)


def make_plain(seed: int = 0) -> nn.Module:
    """A lively ``Plain``."""
    return _make(Plain, seed)


def make_data_dependent(seed: int = 0) -> nn.Module:
    """A lively ``DataDependent``, with the weights of ``make_plain``."""
    return _make(DataDependent, seed)


def _make(network: type[nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network()
    return make_lively(model, make_images(64, seed=1)[0], "classifier", seed=seed)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that handing it in must not change, in a form that ``==`` compares."""
    tensors = {**model.state_dict(keep_vars=True)}
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "values": {name: tensor.detach().numpy().tobytes() for name, tensor in tensors.items()},
        "places": {name: (tensor.data_ptr(), tensor.stride(), tensor.dtype) for name, tensor in tensors.items()},
        "requires_grad": {name: tensor.requires_grad for name, tensor in tensors.items()},
        "gradients": {
            name: None if parameter.grad is None else parameter.grad.numpy().tobytes()
            for name, parameter in model.named_parameters()
        },
        "modes": {name: module.training for name, module in model.named_modules()},
        "in_place": {name: getattr(module, "inplace", None) for name, module in model.named_modules()},
        "types": {name: type(module) for name, module in model.named_modules()},
        "hooks": {
            (name, kind): tuple(getattr(module, kind).values())
            for name, module in model.named_modules()
            for kind in hooks
        },
    }


def unsettle(model: nn.Module, *, hooks: bool = True) -> nn.Module:
    """Give a model a state of its own in every respect that ``snapshot`` looks at (hooks keep it from `fast`)."""
    model.train()
    for index, module in enumerate(model.modules()):
        module.training = index % 2 == 0
        if isinstance(module, nn.BatchNorm2d):
            module.training = False
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 != 0)
        parameter.grad = torch.full_like(parameter, 0.5) if index % 2 else None
    if hooks:
        model.register_forward_hook(_do_nothing)
        next(iter(model.children())).register_forward_pre_hook(_do_nothing_before)
    return model


def _do_nothing(module: nn.Module, inputs: Any, output: Any) -> None:
    """A hook that is only there to be found again."""


def _do_nothing_before(module: nn.Module, inputs: Any) -> None:
    """A hook that is only there to be found again."""
