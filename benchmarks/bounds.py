"""What bounds the fast engine: products that must be done, and passes over memory between operations."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from fss_core.filters import UNFILTERED
from fss_core.graphs import tensor_shapes, trace
from fss_core.measuring import Measurer
from fss_core.winograd import by_winograd

_SIDE = 2048
"""Of the matrices whose product is timed."""
_COPIED = 2**20
"""Float32 numbers copied at once, as many as a middling layer makes of 200 images; caches hold them."""
_REPETITIONS = 3


@dataclass(frozen=True, slots=True)
class Speeds:
    """What the cores reach at their best.

    Attributes:
        products: floating point operations a second, in a matrix product.
        copies: bytes read and written a second, in a copy that caches hold.
    """

    products: float
    copies: float

    @classmethod
    def measure(cls) -> Speeds:
        """Time both."""
        left, given, made = torch.rand(_SIDE, _SIDE), torch.rand(_COPIED), torch.empty(_COPIED)
        return cls(
            products=2 * _SIDE**3 / _least_seconds(lambda: left @ left),
            copies=2 * given.nbytes / _least_seconds(lambda: made.copy_(given)),
        )

    @classmethod
    def median(cls, measured: Sequence[Speeds]) -> Speeds:
        """Take the medians of several."""
        return cls(
            products=statistics.median(own.products for own in measured),
            copies=statistics.median(own.copies for own in measured),
        )


def _least_seconds(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_REPETITIONS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


class _Bounding(TorchDispatchMode):
    """Adds up the least seconds of each operation: its products, or what it reads and writes, if that takes longer."""

    def __init__(self, speeds: Speeds) -> None:
        super().__init__()
        self._speeds = speeds
        self.seconds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = [own for own in tree_leaves((args, kwargs)) if isinstance(own, Tensor)]
        results = [own for own in tree_leaves(made) if isinstance(own, Tensor)]
        if func._schema.is_mutable or not _shares_memory(given, results):  # views move nothing
            count = flop_registry.get(func.overloadpacket)
            operations = 0 if count is None else count(*args, **(kwargs or {}), out_val=made)
            moved = sum(min(own.nbytes, own.untyped_storage().nbytes()) for own in (*given, *results))
            self.seconds += max(operations / self._speeds.products, moved / self._speeds.copies)
        return made


def _shares_memory(given: list[Tensor], results: list[Tensor]) -> bool:
    own = {tensor.untyped_storage().data_ptr() for tensor in given}
    return any(tensor.untyped_storage().data_ptr() in own for tensor in results)


def least_seconds(measurer: Measurer, layers: list[str], images: Tensor, speeds: Speeds) -> float:
    """Say how long the operations on filtered networks would take at the speeds of a matrix product and of a copy.

    Each operation counts as what takes longer: its products (those of padding, too, where a library convolves), or what
    it reads and writes. That Python asks for them, and that weights are filtered, is not counted.

    Args:
        measurer: of the network.
        layers: which layers are filtered, one at a time, by all filters.
        images: (N, C, H, W), a batch as the engine takes them.
        speeds: of the cores.

    Returns:
        Seconds for all filtered networks that differ, on these images.
    """
    seconds = 0.0
    for name in layers:
        prepared = measurer.engine.prepare(images, [name])
        weights = measurer.filters_of(name).weights(measurer.rows[0], 1)
        prepared.predict(weights)  # libraries set themselves up
        with _Bounding(speeds) as bounding:
            prepared.predict(weights)
        seconds += bounding.seconds * _num_different(measurer, name)
    return seconds


def needed_share(model: nn.Module, shape: tuple[int, int, int], measurer: Measurer, layers: list[str]) -> float:
    """Say which share of the products of full passes of all filtered networks is needed.

    Only those are whose taps lie on the map (fewer still by minimal filtering, where the engine does that), downstream
    of the filtered layer, of filtered networks that differ.

    Args:
        model: the network.
        shape: (C, H, W) of the images.
        measurer: of that network.
        layers: which layers are filtered, one at a time, by all filters.
    """
    root = trace(copy.deepcopy(model).eval())
    modules = dict(root.named_modules(remove_duplicate=False))
    with torch.no_grad():
        shapes = tensor_shapes(root, torch.zeros(2, *shape))
    full, on_map = {}, {}
    for node in root.graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d | nn.Linear):
            full[node], on_map[node] = _products(module, shapes[node.all_input_nodes[0]], shapes[node])
    needed = 0.0
    for name in layers:
        after: set[object] = set()
        for node in root.graph.nodes:
            if node.target == name or any(source in after for source in node.all_input_nodes):
                after.add(node)
        downstream = sum(products for node, products in on_map.items() if node in after)
        needed += _num_different(measurer, name) * downstream
    num_networks = len(layers) * len(measurer.rows) * measurer.spec.num_thresholds
    return needed / (num_networks * sum(full.values()))


def _num_different(measurer: Measurer, name: str) -> int:
    """Count the filtered networks of a layer that differ from the unfiltered one and from each other."""
    group = measurer.filters_of(name)
    cells = {group.signature(row, k) for row in measurer.rows for k in range(measurer.spec.num_thresholds)}
    return len(cells - {tuple(UNFILTERED for _ in group.filters)})


def _products(module: nn.Conv2d | nn.Linear, given: tuple[int, ...], made: tuple[int, ...]) -> tuple[int, int]:
    """Count a layer's products for one image, and those that the fast engine needs: none of padding."""
    if isinstance(module, nn.Linear):
        own = module.weight.numel() * torch.Size(made[1:-1]).numel()
        return own, own
    taps = module.weight.numel() // torch.Size(module.kernel_size).numel()
    on_map = taps
    for axis in (0, 1):
        start, step, apart = int(module.padding[axis]), module.stride[axis], module.dilation[axis]
        places = [
            position * step - start + tap * apart
            for position in range(made[2 + axis])
            for tap in range(module.kernel_size[axis])
        ]
        on_map *= sum(0 <= place < given[2 + axis] for place in places)
    full = module.weight.numel() * torch.Size(made[2:]).numel()
    fewer = by_winograd(module, given[1:])
    return full, on_map if fewer is None else fewer.num_products
