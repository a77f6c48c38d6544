"""How much faster the fast engine is than plain full forward passes: ``python -m benchmarks.engine``.

Each row measures one network: every layer, 3 filters × 25 thresholds, 256 clean and 256 frozen adversarial images, with
the fast engine, against full forward passes timed on a sample of filtered networks and multiplied (a full forward pass
costs the same whatever was filtered; the spread of the sample is shown). A first look at the same layers is timed too,
from a network nothing is known of, against full forward passes of 300 + 300 images. Finished rows are kept in a file,
so that an interrupted run goes on with the next. ``--quick`` measures a sample of layers. Let nothing else run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fss_core.attacks import IMAGES_PER_PASS, run_attack
from fss_core.computing import prepare_to_compute
from fss_core.data import DatasetCard
from fss_core.engines import make_engine
from fss_core.jobs.requests import PREVIEW_IMAGES, PREVIEW_THRESHOLDS
from fss_core.measuring import Measurer
from fss_core.models import build_network, seeded
from fss_core.responses import Predictions
from fss_core.specs import AttackSpec, ResponseSpec

ROWS = (
    ("squeezenet1_1", 32),
    ("shufflenet_v2_x1_0", 32),
    ("resnet18", 32),
    ("resnet18", 64),
    ("resnet50", 32),
)
NUM_THRESHOLDS = 25
ATTACK = AttackSpec(epsilon=4 / 255)
SWEEP_IMAGES = 300
"""Of the plain sweep that a first look is compared with; as many attacked ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was measured of one network.

    Attributes:
        network: its name.
        size: height and width of the images.
        num_layers: layers the fast engine was timed on.
        num_images: clean images; as many adversarial ones.
        fast_seconds: all of those layers.
        reference_seconds: the same by full forward passes, from the median of the sample.
        reference_spread: smallest and largest ratio of a sampled pass to the median.
        notebook_seconds: the same by the reference notebooks' procedure: forward, backward, forward for every network.
        adaptive_seconds: the same by the fast engine, every filtered network re-attacked, from a sample; networks that
            are the same are counted as if each were attacked.
        preview_seconds: a first look at those layers by the fast engine, preparing the network included.
        networks_per_second: filtered networks the fast engine evaluated a second.
        gflops: the products and sums of full forward passes that the fast engine saved or did, in 10⁹ a second.
        matmul_gflops: of a matrix product on the same cores.
        peak_megabytes: largest resident memory of the process so far.
        num_compared: predictions compared with full forward passes.
        num_different: of them, how many differ.
    """

    network: str
    size: int
    num_layers: int
    num_images: int
    fast_seconds: float
    reference_seconds: float
    reference_spread: tuple[float, float]
    notebook_seconds: float
    adaptive_seconds: float
    preview_seconds: float
    networks_per_second: float
    gflops: float
    matmul_gflops: float
    peak_megabytes: float
    num_compared: int
    num_different: int


def main() -> None:
    """Measure and print the table."""
    prepare_to_compute()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a sample of layers and 64 + 64 images, under two minutes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--only", default=None, metavar="NETWORK", help="one network")
    parser.add_argument(
        "--file", type=Path, default=None, help="keep finished rows here, and skip those that are there"
    )
    options = parser.parse_args()
    known: list[dict[str, object]] = []
    if options.file is not None and options.file.exists():
        known = json.loads(options.file.read_text())
    for network, size in ROWS:
        if options.only not in (None, network) or any((r["network"], r["size"]) == (network, size) for r in known):
            continue
        known.append(asdict(measure(network, size, quick=options.quick)))
        if options.file is not None:
            options.file.write_text(json.dumps(known, indent=1))
        if not options.json:
            print(describe(known[-1]), flush=True)
    if options.json:
        print(json.dumps(known, indent=1))


def describe(row: dict[str, object]) -> str:
    """Put a row into words."""
    r = Row(**row)  # type: ignore[arg-type]
    low, high = r.reference_spread
    return (
        f"{r.network} {r.size}×{r.size}, {r.num_layers} layers, {r.num_images} + {r.num_images} images: "
        f"fast {r.fast_seconds:.1f} s; reference {r.reference_seconds:.1f} s "
        f"(sample {low:.2f} to {high:.2f} of its median), {r.reference_seconds / r.fast_seconds:.1f}×; "
        f"notebooks' procedure {r.notebook_seconds:.1f} s, "
        f"{r.notebook_seconds / r.fast_seconds:.1f}×; re-attacked by the fast engine {r.adaptive_seconds:.1f} s, "
        f"{r.notebook_seconds / r.adaptive_seconds:.1f}×; first look {r.preview_seconds:.1f} s, "
        f"{r.reference_seconds * SWEEP_IMAGES / r.num_images / r.preview_seconds:.0f}× sooner than {SWEEP_IMAGES} + "
        f"{SWEEP_IMAGES} images by the reference; {r.networks_per_second:.1f} filtered networks/s; "
        f"{r.gflops:.0f} GFLOP/s of full passes, matrix product {r.matmul_gflops:.0f}; peak {r.peak_megabytes:.0f} MB; "
        f"{r.num_different} of {r.num_compared} predictions differ"
    )


def measure(network: str, size: int, *, quick: bool) -> Row:
    """Measure one network with weights that are random but have seen random images (BatchNorm statistics)."""
    num_images = 64 if quick else 256
    shape = (3, size, size)
    model = random_network(network, size)
    with seeded(0):
        pixels, labels = torch.rand((num_images, *shape)), torch.randint(0, 10, (num_images,))
    adversarial = run_attack(model, pixels, labels, ATTACK).pixels
    spec = ResponseSpec(num_thresholds=NUM_THRESHOLDS)

    measurer = Measurer(model, shape, spec)
    layers = list(measurer.layers)
    if quick:
        layers = layers[:: max(len(layers) // 5, 1)]
    chunks = [slice(start, start + 100) for start in range(0, num_images, 100)]
    unfiltered = [measurer.unfiltered(pixels[c], adversarial[c], None) for c in chunks]
    measurer.measure(layers[0], pixels[:8], labels[:8], adversarial[:8], unfiltered[0].images(0, 8))
    started = time.perf_counter()
    found = {}
    for name in layers:
        found[name] = Predictions.join(
            [
                measurer.measure(name, pixels[c], labels[c], adversarial[c], u)
                for c, u in zip(chunks, unfiltered, strict=True)
            ]
        )
    fast = time.perf_counter() - started

    preview = _preview(model, shape, layers, pixels, labels, adversarial)

    reference = make_engine("reference", model, shape)
    both = torch.cat([pixels, adversarial])
    passes, attacks, different, compared = [], [], 0, 0
    sample = layers[:: max(len(layers) // 5, 1)][:5]
    thresholds = (4, 10, 14, 20)[: 1 if quick else 4]
    for name in sample:
        group = measurer.filters_of(name)
        for row, k in enumerate(thresholds):
            row %= len(measurer.rows)
            weights = group.weights(measurer.rows[row], k)
            prepared = reference.prepare(both, [name])
            started = time.perf_counter()
            predicted = prepared.predict(weights).numpy()
            passes.append(time.perf_counter() - started)
            started = time.perf_counter()
            with reference.replaced(weights) as filtered:
                _notebook(filtered, pixels, labels)
            attacks.append(time.perf_counter() - started)
            same = np.concatenate([found[name].clean[row, k], found[name].adversarial[row, k]])
            different += int((predicted != same).sum())
            compared += len(predicted)
    adaptive = _adaptive(model, shape, sample, pixels, labels)
    num_networks = len(layers) * 3 * NUM_THRESHOLDS
    median = statistics.median(passes)
    products = sum(own.layer.num_products for own in measurer.geometry.values())
    return Row(
        network=network,
        size=size,
        num_layers=len(layers),
        num_images=num_images,
        fast_seconds=fast,
        reference_seconds=median * num_networks,
        reference_spread=(min(passes) / median, max(passes) / median),
        notebook_seconds=statistics.median(attacks) * num_networks,
        adaptive_seconds=adaptive * num_networks,
        preview_seconds=preview,
        networks_per_second=num_networks / fast,
        gflops=2 * products * 2 * num_images * num_networks / fast / 1e9,
        matmul_gflops=_matmul_gflops(),
        peak_megabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        num_compared=compared,
        num_different=different,
    )


def _preview(
    model: nn.Module, shape: tuple[int, int, int], layers: list[str], pixels: Tensor, labels: Tensor, attacked: Tensor
) -> float:
    """Time a first look at some layers."""
    pixels, labels, attacked = (own[:PREVIEW_IMAGES] for own in (pixels, labels, attacked))
    started = time.perf_counter()
    measurer = Measurer(model, shape, ResponseSpec(num_thresholds=PREVIEW_THRESHOLDS))
    unfiltered = measurer.unfiltered(pixels, attacked, None)
    for name in layers:
        measurer.measure(name, pixels, labels, attacked, unfiltered)
    return time.perf_counter() - started


def _adaptive(
    model: nn.Module, shape: tuple[int, int, int], layers: list[str], pixels: Tensor, labels: Tensor
) -> float:
    """Time how long the fast engine takes for a filtered network that it re-attacks, from a few of some layers."""
    measurer = Measurer(model, shape, ResponseSpec(num_thresholds=5))
    unfiltered = measurer.unfiltered(pixels, pixels, np.zeros(len(pixels), dtype=bool))
    passes, seconds = itertools.count(), 0.0
    for index, name in enumerate(layers):
        rows = [measurer.rows[index % len(measurer.rows)]]
        # What is done once for all filtered networks of a layer (its weights sorted, the graph split) is not counted.
        measurer.measure(name, pixels[:2], labels[:2], None, unfiltered.images(0, 2), attack=ATTACK, rows=rows)
        started = time.perf_counter()
        measurer.measure(name, pixels, labels, None, unfiltered, attack=ATTACK, rows=rows, on_pass=lambda: next(passes))
        seconds += time.perf_counter() - started
    return seconds * -(-len(pixels) // IMAGES_PER_PASS) / next(passes)


def random_network(name: str, size: int) -> nn.Module:
    """Make a network for images of size × size pixels, with weights by lot that has seen random images."""
    card = DatasetCard(
        name="benchmark",
        title="random images",
        class_names=tuple(str(index) for index in range(10)),
        image_shape=(3, size, size),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        split_sizes={},
        fingerprints={},
    )
    model = build_network(name, dataset=card, seed=0).train()
    with seeded(0), torch.no_grad():
        for _ in range(10):
            model(torch.rand((64, *card.image_shape)))
    return model.eval()


def _notebook(network: nn.Module, pixels: Tensor, labels: Tensor) -> None:
    """Do what the reference notebooks do for every filtered network: forward, backward, forward on FGSM's images."""
    leaf = pixels.clone().requires_grad_()
    loss = F.cross_entropy(network(leaf), labels)
    (gradient,) = torch.autograd.grad(loss, leaf)
    with torch.no_grad():
        network((pixels + ATTACK.epsilon * gradient.sign()).clamp(0, 1))


def _matmul_gflops(side: int = 2048) -> float:
    left = torch.rand(side, side)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        left @ left
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds) / 1e9


if __name__ == "__main__":
    main()
