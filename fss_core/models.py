"""The paper's four networks, adapted to a data set, and a description of the layers that can be filtered.

Networks take pixels on [0, 1] and return logits: normalisation is their first operation, so ε is in pixels. Parameter
names are torchvision's own, so that weights trained elsewhere fit.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.shufflenetv2 import ShuffleNetV2
from torchvision.models.squeezenet import SqueezeNet

from fss_core.conditions import seeded
from fss_core.specs import NETWORKS, NotFiniteError, UnknownLayerError, choose

if TYPE_CHECKING:
    from fss_core.data import DatasetCard

FilterableModule = (nn.Conv2d, nn.Linear)


class Normalisation(nn.Module):
    """Subtract a data set's mean and divide by its standard deviation, per channel.

    Args:
        mean: one value per channel, in pixels on [0, 1].
        std: one value per channel, above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Keep mean and standard deviation as buffers, so that a checkpoint carries them."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise ``pixels`` of shape (N, C, H, W)."""
        return (pixels - self.mean) / self.std


class _NormalisedResNet(ResNet):  # type: ignore[misc]  # torchvision has no types
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.normalise(x))  # type: ignore[no-any-return]


class _NormalisedSqueezeNet(SqueezeNet):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.normalise(x))  # type: ignore[no-any-return]


class _NormalisedShuffleNet(ShuffleNetV2):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.normalise(x))  # type: ignore[no-any-return]


def _resnet(block: type[BasicBlock | Bottleneck], depths: list[int]) -> Callable[[int, int], nn.Module]:
    def build(num_classes: int, num_channels: int) -> nn.Module:
        network = _NormalisedResNet(block, depths, num_classes=num_classes)
        if num_channels != 3:
            network.conv1 = nn.Conv2d(num_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        return network

    return build


def _squeezenet(num_classes: int, num_channels: int) -> nn.Module:
    network = _NormalisedSqueezeNet("1_1", num_classes=num_classes)
    if num_channels != 3:
        stem = nn.Conv2d(num_channels, 64, kernel_size=3, stride=2)
        nn.init.kaiming_uniform_(stem.weight)
        nn.init.zeros_(stem.bias)  # type: ignore[arg-type]
        network.features[0] = stem
    return network


def _shufflenet(num_classes: int, num_channels: int) -> nn.Module:
    network = _NormalisedShuffleNet([4, 8, 4], [24, 116, 232, 464, 1024], num_classes=num_classes)
    if num_channels != 3:
        network.conv1[0] = nn.Conv2d(num_channels, 24, kernel_size=3, stride=2, padding=1, bias=False)
    return network


_BUILDERS: dict[str, Callable[[int, int], nn.Module]] = {
    "resnet18": _resnet(BasicBlock, [2, 2, 2, 2]),
    "resnet50": _resnet(Bottleneck, [3, 4, 6, 3]),
    "squeezenet1_1": _squeezenet,
    "shufflenet_v2_x1_0": _shufflenet,
}


def build_network(name: str, *, dataset: str | DatasetCard = "mnist5k", seed: int = 0) -> nn.Module:
    """Build one of the paper's networks, untrained, for a data set.

    The first convolution takes the data set's channels, the classifier gives its classes, normalisation comes first and
    no activation works in place.

    Args:
        name: a name from ``specs.NETWORKS``.
        dataset: a registered data set, or its card.
        seed: of the initialisation; the global random state is left alone.

    Returns:
        A module in training mode: pixels (N, C, H, W) on [0, 1] → logits (N, number of classes).

    Raises:
        UnknownNameError: there is no such network or data set.

    Source: torchvision; Pravin et al. 2024, "the paper's grid" in METHOD.
    """
    choose(name, NETWORKS, what="network")
    if isinstance(dataset, str):
        from fss_core.data import dataset_card

        dataset = dataset_card(dataset)
    with seeded(seed):
        network = _BUILDERS[name](dataset.num_classes, dataset.image_shape[0])
    network.normalise = Normalisation(dataset.mean, dataset.std)
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return network


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One filterable layer: a ``Conv2d`` or ``Linear`` weight tensor.

    Attributes:
        name: dotted module name.
        kind: ``stem``, ``3x3``, ``1x1``, ``depthwise``, ``downsample``, ``classifier``, ``linear``, or another ``kxk``.
        relative_depth: 0 at the input, 1 at the output, by position in network order.
        num_weights: entries of the weight tensor.
        num_live: entries that can change the output, by geometry (METHOD, "Dead weights").
        num_products: multiplications per image.
    """

    name: str
    kind: str
    relative_depth: float
    num_weights: int
    num_live: int
    num_products: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGeometry:
    """What filtering a layer needs to know of it.

    Attributes:
        layer: its description.
        weight: the raw weight tensor, detached.
        live: bool, like ``weight``; False where a weight multiplies padding only.
    """

    layer: Layer
    weight: Tensor
    live: Tensor


def filterable_modules(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """List the modules whose weights can be filtered, each weight tensor once, in order of registration.

    Raises:
        ValueError: a layer computes its weight from others at every call (weight or spectral normalisation).
    """
    found: dict[int, tuple[str, nn.Conv2d | nn.Linear]] = {}
    for name, module in model.named_modules():
        if isinstance(module, FilterableModule):
            if "weight" not in module._parameters:
                raise ValueError(
                    f"layer {name!r} must own its weight, but computes it anew at every call; remove its "
                    "parametrisation first (torch.nn.utils.parametrize.remove_parametrizations)"
                )
            found.setdefault(id(module.weight), (name, module))
    return dict(found.values())


def _live_along(size: int, *, kernel: int, stride: int, dilation: int, before: int, after: int) -> Tensor:
    """Which taps of a kernel, along one axis, read at least one pixel that is not padding."""
    num_positions = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
    reads = torch.arange(num_positions)[:, None] * stride - before + torch.arange(kernel)[None, :] * dilation
    return ((reads >= 0) & (reads < size)).any(dim=0)


def live_weights(module: nn.Conv2d | nn.Linear, input_shape: tuple[int, ...]) -> Tensor:
    """Mark the weights that can change a layer's output for inputs of one size.

    A tap of a convolution that reads padding at every output position multiplies zeros only; it is dead whatever its
    value. All weights of a ``Linear`` layer, and of a convolution that pads with something else than zeros, are live.

    Args:
        module: the layer.
        input_shape: of its input, (N, C, H, W) for a convolution.

    Returns:
        bool, like ``module.weight``.

    Source: METHOD, "Dead weights".

    >>> live_weights(nn.Conv2d(1, 1, 3, padding=1), (1, 1, 1, 1)).sum().item()
    1
    """
    live = torch.ones(module.weight.shape, dtype=torch.bool)
    if isinstance(module, nn.Linear) or module.padding_mode != "zeros":
        return live
    for axis in range(2):
        kernel, dilation = module.kernel_size[axis], module.dilation[axis]
        if isinstance(module.padding, str):
            both = dilation * (kernel - 1) if module.padding == "same" else 0
            before, after = both // 2, both - both // 2
        else:
            before = after = module.padding[axis]
        along = _live_along(
            input_shape[-2 + axis],
            kernel=kernel,
            stride=module.stride[axis],
            dilation=dilation,
            before=before,
            after=after,
        )
        live &= along.reshape(-1, 1) if axis == 0 else along
    return live


def _kind(name: str, module: nn.Conv2d | nn.Linear, *, first: bool, last: bool) -> str:
    if last:
        return "classifier"
    if isinstance(module, nn.Linear):
        return "linear"
    if first:
        return "stem"
    if module.groups == module.in_channels > 1:
        return "depthwise"
    if "downsample" in name.split("."):
        return "downsample"
    return "{}x{}".format(*module.kernel_size)


def describe_layers(model: nn.Module, image_shape: tuple[int, ...]) -> dict[str, LayerGeometry]:
    """Find a network's filterable layers, in the order in which it runs them.

    Args:
        model: any module that takes pixels (N, C, H, W); it is not changed.
        image_shape: (C, H, W) of one image.

    Returns:
        Layer name → description, raw weight and live weights. A layer that was not seen running comes last, with all
        weights live: other images may run it, or its weight may be used without it.

    Raises:
        NotFiniteError: a layer's weights, or the network's other parameters, hold NaN or infinity.
        ValueError: a layer computes its weight from others at every call.

    Source: METHOD, "Words" and "Invariance" (kinds, relative depth).
    """
    model = copy.deepcopy(model).eval()
    modules = filterable_modules(model)
    owner = {id(module.weight): name for name, module in modules.items()}
    live: dict[str, Tensor] = {}
    products: Counter[str] = Counter()

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, FilterableModule)
        name = owner[id(module.weight)]
        mask = live_weights(module, tuple(inputs[0].shape))
        live[name] = live[name] | mask if name in live else mask
        products[name] += module.weight.numel() * output.numel() // len(module.weight)

    for module in model.modules():
        if isinstance(module, FilterableModule):
            module.register_forward_hook(note)
    parameter = next(model.parameters(), torch.zeros(()))
    with torch.no_grad():
        model(torch.zeros((1, *image_shape), dtype=torch.float32, device=parameter.device))
    last = max(len(live) - 1, 0)
    for name, module in modules.items():
        live.setdefault(name, torch.ones(module.weight.shape, dtype=torch.bool))

    layers: dict[str, LayerGeometry] = {}
    for index, (name, mask) in enumerate(live.items()):
        weight = modules[name].weight.detach().cpu()
        if not bool(torch.isfinite(weight).all()):
            raise NotFiniteError(
                f"layer {name!r} has weights that are NaN or infinite; train again or import sound weights"
            )
        layer = Layer(
            name=name,
            kind=_kind(name, modules[name], first=index == 0, last=index == last),
            relative_depth=min(index / max(last, 1), 1.0),
            num_weights=weight.numel(),
            num_live=int(mask.sum()),
            num_products=products[name],
        )
        layers[name] = LayerGeometry(layer=layer, weight=weight, live=mask)
    _refuse_nan(model)
    return layers


def _refuse_nan(model: nn.Module) -> None:
    """Look at biases and normalisation too; a buffer may hold infinity, as a mask for attention does."""
    broken = [name for name, parameter in model.named_parameters() if not bool(torch.isfinite(parameter).all())]
    broken += [name for name, buffer in model.named_buffers() if bool(torch.isnan(buffer).any())]
    if broken:
        raise NotFiniteError(f"{broken[0]!r} holds NaN or infinity; train again or import sound weights")


def select_layers(known: list[str], wanted: list[str] | None, *, network: str = "the network") -> list[str]:
    """Return the wanted layers in network order; all of them for ``None``.

    Raises:
        UnknownLayerError: one of ``wanted`` is not a filterable layer.
    """
    if wanted is None:
        return known
    for name in wanted:
        choose(name, known, what=f"filterable layer in {network} called", error=UnknownLayerError)
    return [name for name in known if name in set(wanted)]
