"""What single ideas of the fast engine bring: ``python -m benchmarks.ideas``.

Filtered networks of layers spread over each network are run on 100 + 100 images by the fast engine as it is, and by one
that lacks an idea, in turns; the ratio of the sums of medians is printed, and whether they predict the same. Then the
convolutions that are done otherwise than by the library, beside the library's, with the rounding errors of both: their
root mean square on normal numbers, in standard deviations of the exact results. Let nothing else run.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import nn

from benchmarks.engine import ROWS, random_network
from fss_core.computing import prepare_to_compute
from fss_core.engines import Engine, make_engine
from fss_core.graphs import tensor_shapes, trace
from fss_core.models import filterable_modules
from fss_core.products import ProductConv, as_product
from fss_core.winograd import by_winograd

NUM_IMAGES = 200
NUM_LAYERS = 6
WITHOUT = {
    "minimal filtering": ("fss_core.fast_engine.by_winograd", lambda conv, shape: None),
    "products": ("fss_core.fast_engine.as_product", lambda conv, shape: None),
    "memory used again": ("fss_core.graphs.reuse_memory", lambda built: None),
}


def main() -> None:
    """Measure and print the table."""
    prepare_to_compute()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7, help="of each pass (default: 7)")
    parser.add_argument("--only", default=None, metavar="NETWORK", help="one network")
    options = parser.parse_args()
    for network, size in ROWS:
        if options.only in (None, network):
            _compare_engines(network, size, options.repetitions)
            _compare_convolutions(network, size, options.repetitions)


def _compare_engines(network: str, size: int, repetitions: int) -> None:
    model = random_network(network, size)
    shape = (3, size, size)
    pixels = torch.rand((NUM_IMAGES, *shape), generator=torch.Generator().manual_seed(0))
    engines: dict[str, Engine] = {"": make_engine("fast", model, shape)}
    layers = list(filterable_modules(model))
    layers = layers[1 :: max(len(layers) // NUM_LAYERS, 1)]
    seconds: dict[str, list[float]] = {}
    predicted: dict[str, list[list[int]]] = {}
    for idea, (place, nothing) in WITHOUT.items():
        with patch(place, nothing):
            engines[idea] = make_engine("fast", model, shape)
            for layer in layers:  # what is left out is left out when a graph is cut, which is done once
                engines[idea].prepare(pixels[:2], [layer])
    for layer in layers:
        weights = {layer: 1.01 * model.get_parameter(f"{layer}.weight").detach()}
        prepared = {idea: engine.prepare(pixels, [layer]) for idea, engine in engines.items()}
        times: dict[str, list[float]] = {idea: [] for idea in engines}
        for _ in range(repetitions + 1):
            for idea, own in prepared.items():
                started = time.perf_counter()
                own.predict(weights)
                times[idea].append(time.perf_counter() - started)
        for idea, own in prepared.items():
            predicted.setdefault(idea, []).append(own.predict(weights).tolist())
            seconds.setdefault(idea, []).append(statistics.median(times[idea][1:]))
    whole = sum(seconds[""])
    for idea in WITHOUT:
        same = "the same" if predicted[idea] == predicted[""] else "OTHER"
        print(
            f"{network} {size}×{size}, {len(layers)} layers: {1000 * whole:.0f} ms, without {idea} "
            f"{sum(seconds[idea]) / whole:.2f} times as long; {same} predictions",
            flush=True,
        )


def _compare_convolutions(network: str, size: int, repetitions: int) -> None:
    root = trace(random_network(network, size))
    modules = dict(root.named_modules(remove_duplicate=False))
    with torch.no_grad():
        shapes = tensor_shapes(root, torch.zeros(2, 3, size, size))
    seen = set()
    for node in root.graph.nodes:
        conv = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(conv, nn.Conv2d):
            continue
        given = shapes[node.all_input_nodes[0]][1:]
        kind = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, given)
        conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
        instead = by_winograd(conv, given) or as_product(conv, given)
        if instead is None or kind in seen:
            continue
        seen.add(kind)
        maps = torch.rand(NUM_IMAGES, *given).contiguous(memory_format=torch.channels_last)
        library, own = (_milliseconds(lambda run=run, maps=maps: run(maps), repetitions) for run in (conv, instead))
        library_error, own_error = _rounding_errors(conv, instead, given)
        how = "product" if isinstance(instead, ProductConv) else "minimal filtering"
        print(
            f"  {conv.kernel_size[0]} × {conv.kernel_size[1]}, {conv.in_channels} → {conv.out_channels} channels, "
            f"{given[1]} × {given[2]} pixels: library {library:.2f} ms, {how} {own:.2f} ms: "
            f"{library / own:.1f} times; rounding errors {library_error:.1e} and {own_error:.1e}",
            flush=True,
        )


def _rounding_errors(conv: nn.Conv2d, instead: nn.Module, given: tuple[int, ...]) -> list[float]:
    maps = torch.randn((NUM_IMAGES, *given), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = copy.deepcopy(conv).double()(maps.double())
        errors = [run(maps.contiguous(memory_format=torch.channels_last)) - exact for run in (conv, instead)]
    return [float(error.square().mean().sqrt() / exact.std()) for error in errors]


def _milliseconds(run: Callable[[], object], repetitions: int) -> float:
    seconds = []
    with torch.no_grad():
        for _ in range(repetitions + 1):
            started = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[1:])


if __name__ == "__main__":
    main()
