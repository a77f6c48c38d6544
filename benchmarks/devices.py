"""What a GPU brings, and what shorter arithmetic changes: ``python -m benchmarks.devices --device cuda``.

A few layers of each network, 3 filters × 25 thresholds, 256 clean and 256 frozen adversarial images, by both engines in
every arithmetic that the device has. Prints seconds, ratios, the device's peak memory, and how many predictions differ
from those of full forward passes in float32 on the CPU (of a sample of filtered networks). Let nothing else run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.engine import ATTACK, NUM_THRESHOLDS, ROWS, random_network
from fss_core.attacks import run_attack
from fss_core.computing import prepare_to_compute
from fss_core.engines import make_engine
from fss_core.measuring import Measurer
from fss_core.models import seeded
from fss_core.responses import Predictions
from fss_core.specs import IMAGES_PER_CHUNK, Arithmetic, ResponseSpec

NUM_IMAGES = 256
NUM_LAYERS = 5
CHECKED = (4, 10, 14)
"""Thresholds at which filtered networks are run on the CPU, too: of high-pass, low-pass and pulse."""


def main() -> None:
    """Measure and print the table."""
    prepare_to_compute()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda (default), mps, cpu")
    parser.add_argument("--only", default=None, metavar="NETWORK", help="one network")
    options = parser.parse_args()
    on_cuda = torch.device(options.device).type == "cuda"
    if on_cuda:
        print(torch.cuda.get_device_name(options.device), flush=True)
    for network, size in ROWS:
        if options.only in (None, network):
            _compare(network, size, options.device, ["float32", *["tf32"] * on_cuda, "bf16"])


def _compare(network: str, size: int, device: str, arithmetics: list[Arithmetic]) -> None:
    model, shape = random_network(network, size), (3, size, size)
    with seeded(0):
        pixels, labels = torch.rand((NUM_IMAGES, *shape)), torch.randint(0, 10, (NUM_IMAGES,))
    if torch.device(device).type != "cpu":
        model = model.to(device)
    adversarial = run_attack(model, pixels.to(device), labels.to(device), ATTACK).pixels.cpu()
    model = model.cpu()
    every = list(Measurer(model, shape, ResponseSpec(num_thresholds=2)).layers)
    layers = every[:: max(len(every) // NUM_LAYERS, 1)][:NUM_LAYERS]
    images = pixels, labels, adversarial
    expected = _on_the_cpu(model, shape, layers, images)
    first = 0.0
    for arithmetic in arithmetics:
        for engine in ("reference", "fast"):
            spec = ResponseSpec(num_thresholds=NUM_THRESHOLDS, engine=engine, arithmetic=arithmetic)
            measurer = Measurer(model, shape, spec, device=device)
            _measure(measurer, layers[:1], tuple(own[:8] for own in images))
            if torch.device(device).type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            started = time.perf_counter()
            found = _measure(measurer, layers, images)
            seconds = time.perf_counter() - started
            first = first or seconds
            memory = (
                f", {torch.cuda.max_memory_allocated(device) / 2**20:.0f} MB"
                if torch.device(device).type == "cuda"
                else ""
            )
            got = np.stack([own for name in layers for own in _checked(found[name])])
            print(
                f"{network} {size}×{size}, {len(layers)} of {len(every)} layers, {NUM_IMAGES} + {NUM_IMAGES} images, "
                f"{arithmetic}, {engine}: {seconds:.2f} s, {first / seconds:.1f}× the reference in float32{memory}; "
                f"{int((got != expected).sum())} of {got.size} predictions differ from the CPU's",
                flush=True,
            )


def _chunks() -> Iterator[slice]:
    return (slice(start, start + IMAGES_PER_CHUNK) for start in range(0, NUM_IMAGES, IMAGES_PER_CHUNK))


def _measure(measurer: Measurer, layers: list[str], images: tuple[Tensor, ...]) -> dict[str, Predictions]:
    pixels, labels, adversarial = images
    chunks = [chunk for chunk in _chunks() if chunk.start < len(pixels)]
    unfiltered = [measurer.unfiltered(pixels[c], adversarial[c], None) for c in chunks]
    return {
        name: Predictions.join(
            [
                measurer.measure(name, pixels[c], labels[c], adversarial[c], own)
                for c, own in zip(chunks, unfiltered, strict=True)
            ]
        )
        for name in layers
    }


def _checked(found: Predictions) -> list[np.ndarray]:
    return [own[row, k] for own in (found.clean, found.adversarial) for row, k in enumerate(CHECKED)]


def _on_the_cpu(model: nn.Module, shape: tuple[int, ...], layers: list[str], images: tuple[Tensor, ...]) -> np.ndarray:
    """Predictions of the checked filtered networks, by full forward passes in float32."""
    measurer = Measurer(model, shape, ResponseSpec(num_thresholds=NUM_THRESHOLDS))
    engine = make_engine("reference", model, shape)
    prepared = [engine.prepare(own, layers) for own in images[::2]]
    cells = []
    for name in layers:
        group = measurer.filters_of(name)
        for own in prepared:
            cells += [
                own.predict(group.weights(measurer.rows[row], k)).numpy().astype(np.uint8)
                for row, k in enumerate(CHECKED)
            ]
    return np.stack(cells)


if __name__ == "__main__":
    main()
