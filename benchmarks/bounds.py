"""What bounds the fast engine: the products that are needed; and its operations, as they are, each at its best."""

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

_SIDE = 1536
"""Of the matrices whose product is timed."""
_COPIED = (2**16, 2**18, 2**20, 2**22)
"""Float32 numbers copied at once, from what an inner cache holds to what a first layer makes of 200 images."""
_REPETITIONS = 3
_EMPTY = {torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.empty_strided, torch.ops.aten.new_empty}
"""Operations that neither read nor write."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """What the cores reach.

    Attributes:
        products: floating point operations a second, in a matrix product.
        copies: bytes read and written a second, in the fastest copy.
    """

    products: float
    copies: float

    @classmethod
    def measure(cls) -> Speeds:
        """Time both, now."""
        left = torch.rand(_SIDE, _SIDE)
        copies = [(torch.rand(size), torch.empty(size)) for size in _COPIED]
        return cls(
            products=2 * _SIDE**3 / _fastest(lambda: left @ left),
            copies=max(2 * a.nbytes / _fastest(lambda a=a, b=b: b.copy_(a)) for a, b in copies),
        )

    @classmethod
    def median(cls, measured: Sequence[Speeds]) -> Speeds:
        """Take the medians of several."""
        return cls(
            products=statistics.median(own.products for own in measured),
            copies=statistics.median(own.copies for own in measured),
        )


def _fastest(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_REPETITIONS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


class Bounding(TorchDispatchMode):
    """Adds up how long each operation would take: for its products or, if that is longer, to read and to write."""

    def __init__(self, speeds: Speeds) -> None:
        super().__init__()
        self._speeds = speeds
        self.seconds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        read = {name: own for name, own in (kwargs or {}).items() if name != "out"}
        given = [own for own in tree_leaves((args, read)) if isinstance(own, Tensor)]
        results = [own for own in tree_leaves(made) if isinstance(own, Tensor)]
        is_view = not func._schema.is_mutable and _shares_memory(given, results)
        if not is_view and func.overloadpacket not in _EMPTY:
            count = flop_registry.get(func.overloadpacket)
            operations = 0 if count is None else count(*args, **(kwargs or {}), out_val=made)
            moved = sum(min(own.nbytes, own.untyped_storage().nbytes()) for own in (*given, *results))
            self.seconds += max(operations / self._speeds.products, moved / self._speeds.copies)
        return made


def _shares_memory(given: list[Tensor], results: list[Tensor]) -> bool:
    own = {tensor.untyped_storage().data_ptr() for tensor in given}
    return any(tensor.untyped_storage().data_ptr() in own for tensor in results)


def seconds_at_best(measurer: Measurer, layers: list[str], images: Tensor, speeds: Speeds) -> float:
    """Say how long the fast engine's operations, as they are, would take at the speeds of a matrix product and a copy.

    Each counts as what takes longer: its products (those of padding, too, where the library convolves), or what it
    reads and writes. That they are asked for, and that weights are masked, is not counted.

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
        with Bounding(speeds) as bounding:
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
