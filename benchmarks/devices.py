"""What a GPU brings, and what shorter arithmetic changes: ``python -m benchmarks.devices --device cuda``.

A few layers of each network, 3 filters × 25 thresholds, 256 clean and 256 frozen adversarial images, by the reference
engine and by the fast one in every arithmetic that the device has, also without recording what is asked of a GPU.
Prints seconds, ratios, and how many predictions differ from those of full forward passes in float32 on the CPU (of a
sample of filtered networks). Let nothing else run.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.engine import ATTACK, NUM_THRESHOLDS, ROWS, random_network
from fss_core.attacks import run_attack
from fss_core.computing import prepare_to_compute
from fss_core.conditions import seeded
from fss_core.engines import make_engine
from fss_core.measuring import Measurer
from fss_core.models import describe_layers
from fss_core.responses import Predictions
from fss_core.specs import IMAGES_PER_CHUNK, Arithmetic, Engine, ResponseSpec

NUM_IMAGES = 256
NUM_LAYERS = 5
CHECKED = (4, 10, 14)
"""Thresholds at which filtered networks are run on the CPU, too: of high-pass, low-pass and pulse."""


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to measure."""

    engine: Engine
    arithmetic: Arithmetic = "float32"
    recorded: bool = True

    def __str__(self) -> str:
        return f"{self.engine} in {self.arithmetic}{'' if self.recorded else ', operations asked for one by one'}"


REFERENCE = _Way("reference")


def main() -> None:
    """Measure and print the table."""
    prepare_to_compute()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda (default), mps, cpu")
    parser.add_argument("--only", choices=sorted({name for name, _ in ROWS}), help="one network")
    options = parser.parse_args()
    ways = [REFERENCE, _Way("fast"), _Way("fast", "bf16")]
    if torch.device(options.device).type == "cuda":
        print(torch.cuda.get_device_name(options.device), flush=True)
        ways += [_Way("fast", "tf32"), _Way("fast", recorded=False)]
    for network, size in ROWS:
        if options.only in (None, network):
            _compare(network, size, options.device, ways)


def _compare(network: str, size: int, device: str, ways: list[_Way]) -> None:
    model, shape = random_network(network, size), (3, size, size)
    with seeded(0):
        pixels, labels = torch.rand((NUM_IMAGES, *shape)), torch.randint(0, 10, (NUM_IMAGES,))
    adversarial = run_attack(model.to(device), pixels.to(device), labels.to(device), ATTACK).pixels.cpu()
    model = model.cpu()
    every = list(describe_layers(model, shape))
    layers = every[:: max(len(every) // NUM_LAYERS, 1)][:NUM_LAYERS]
    images = pixels, labels, adversarial
    expected = _on_the_cpu(model, shape, layers, images)
    print(
        f"{network} {size}×{size}, {len(layers)} of {len(every)} layers, {NUM_IMAGES} + {NUM_IMAGES} images", flush=True
    )
    seconds: dict[_Way, float] = {}
    for way in ways:
        spec = ResponseSpec(num_thresholds=NUM_THRESHOLDS, engine=way.engine, arithmetic=way.arithmetic)
        with nullcontext() if way.recorded else patch("fss_core.fast_engine.recorder", lambda device: None):
            measurer = Measurer(model, shape, spec, device=device)
            few = Measurer(model, shape, replace(spec, num_thresholds=3), device=device)
        _measure(few, layers, images)  # what a process does once
        started = time.perf_counter()
        found = _measure(measurer, layers, images)
        seconds[way] = time.perf_counter() - started
        got = np.stack([own for name in layers for own in _checked(found[name])])
        print(
            f"  {way}: {seconds[way]:.2f} s, {seconds[REFERENCE] / seconds[way]:.1f}× the reference; "
            f"{int((got != expected).sum())} of {got.size} predictions differ from the CPU's",
            flush=True,
        )


def _measure(measurer: Measurer, layers: list[str], images: tuple[Tensor, ...]) -> dict[str, Predictions]:
    pixels, labels, adversarial = images
    chunks = [slice(start, start + IMAGES_PER_CHUNK) for start in range(0, len(pixels), IMAGES_PER_CHUNK)]
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
