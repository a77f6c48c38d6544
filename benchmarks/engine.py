"""How much faster the fast engine is than plain full forward passes: ``python -m benchmarks.engine``.

Each row measures one network: every layer, 3 filters × 25 thresholds, 256 clean and 256 frozen adversarial images, with
the fast engine, against full forward passes timed on a sample of filtered networks and multiplied (a full forward pass
costs the same whatever was filtered; the spread of the sample is shown). A first look at the same layers is timed too,
from a network nothing is known of, against full forward passes of 300 + 300 images. Finished rows are kept in a file,
so that an interrupted run goes on with the next. ``--quick`` measures a sample of layers. Let nothing else run.

What bounds the ratio (:mod:`benchmarks.bounds`): each row says which share of the products of full passes is needed,
how fast the fast engine does them beside a matrix product on the same cores, and which ratio it would reach by doing
the same products as fast as that and nothing else. Then how long its operations, as they are, would take if each did
its products at that speed, or read and wrote at the speed of a copy, whichever takes longer.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.bounds import Speeds, needed_share, seconds_at_best
from fss_core.attacks import run_attack
from fss_core.computing import prepare_to_compute
from fss_core.conditions import seeded
from fss_core.data import DatasetCard
from fss_core.engines import make_engine
from fss_core.jobs.requests import PREVIEW_IMAGES, PREVIEW_THRESHOLDS
from fss_core.measuring import Measurer
from fss_core.models import build_network
from fss_core.responses import Predictions
from fss_core.specs import IMAGES_PER_CHUNK, AttackSpec, ResponseSpec

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
        needed_share: of the products of full passes of all filtered networks, those that are needed.
        gflops: the products and sums of full forward passes that the fast engine saved or did, in 10⁹ a second.
        matmul_gflops: of a matrix product on the same cores.
        copy_gigabytes: read and written a second, 10⁹ bytes, by a copy on them.
        seconds_at_best: how long the fast engine's operations would take at these two speeds.
        peak_megabytes: largest resident memory of the process once the fast engine has measured the first layer, before
            anything is compared.
        num_compared: predictions compared with full forward passes.
        num_different: of them, how many differ.
        largest_difference: of logits, between the two, relative to the largest logit.
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
    needed_share: float
    gflops: float
    matmul_gflops: float
    copy_gigabytes: float
    seconds_at_best: float
    peak_megabytes: float
    num_compared: int
    num_different: int
    largest_difference: float

    @property
    def ratio_at_product_speed(self) -> float:
        """How many times as fast as the reference the needed products would be at a matrix product's speed."""
        full_gflops = self.gflops * self.fast_seconds / self.reference_seconds
        return self.matmul_gflops / (full_gflops * self.needed_share)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two layers a network and 32 + 32 images, two minutes")
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
        # A process of its own, whose memory is that of one network.
        with ProcessPoolExecutor(1, get_context("spawn"), prepare_to_compute) as process:
            known.append(asdict(process.submit(measure, network, size, quick=options.quick).result()))
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
        f"{r.gflops:.0f} GFLOP/s of full passes, of whose products {r.needed_share:.0%} are needed: these at "
        f"{r.gflops * r.needed_share / r.matmul_gflops:.2f} of the speed of a matrix product ({r.matmul_gflops:.0f} "
        f"GFLOP/s), at which the ratio would be {r.ratio_at_product_speed:.1f}×; each operation at that speed or a "
        f"copy's ({r.copy_gigabytes:.0f} GB/s) would be {r.seconds_at_best:.1f} s, "
        f"{r.reference_seconds / r.seconds_at_best:.1f}× the reference and "
        f"{r.notebook_seconds / r.seconds_at_best:.1f}× the notebooks' procedure; peak {r.peak_megabytes:.0f} MB; "
        f"{r.num_different} of {r.num_compared} predictions differ, logits by at most {r.largest_difference:.0e} of "
        "the largest"
    )


def measure(network: str, size: int, *, quick: bool) -> Row:
    """Measure one network with weights that are random but have seen random images (BatchNorm statistics)."""
    num_images = 32 if quick else 256
    shape = (3, size, size)
    model = random_network(network, size)
    with seeded(0):
        number = max(num_images, PREVIEW_IMAGES)
        pixels, labels = torch.rand((number, *shape)), torch.randint(0, 10, (number,))
    adversarial = run_attack(model, pixels, labels, ATTACK).pixels
    for_preview = pixels[:PREVIEW_IMAGES], labels[:PREVIEW_IMAGES], adversarial[:PREVIEW_IMAGES]
    pixels, labels, adversarial = pixels[:num_images], labels[:num_images], adversarial[:num_images]
    spec = ResponseSpec(num_thresholds=NUM_THRESHOLDS)

    measurer = Measurer(model, shape, spec)
    layers = list(measurer.layers)
    if quick:
        layers = layers[len(layers) // 4 :: len(layers) // 2]
    sample = layers if quick else layers[len(layers) // 10 :: len(layers) // 5][:5]
    chunks = [slice(start, start + IMAGES_PER_CHUNK) for start in range(0, num_images, IMAGES_PER_CHUNK)]
    unfiltered = [measurer.unfiltered(pixels[c], adversarial[c], None) for c in chunks]
    measurer.measure(layers[0], pixels[:8], labels[:8], adversarial[:8], unfiltered[0].images(0, 8))
    plain = _Plain(model, pixels, labels, adversarial, num_networks=2 if quick else 4)
    anew = _Anew(model, pixels, labels, num_thresholds=3 if quick else 7)
    fast, speeds, peak = 0.0, [Speeds.measure()], 0
    for name in layers:
        started = time.perf_counter()
        found = Predictions.join(
            [
                measurer.measure(name, pixels[c], labels[c], adversarial[c], u)
                for c, u in zip(chunks, unfiltered, strict=True)
            ]
        )
        fast += time.perf_counter() - started
        peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if name in sample:  # cores do not keep their speed: what is compared takes turns
            plain.run(name, measurer, found)
            anew.run(name)
            speeds.append(Speeds.measure())
    preview = _preview(model, shape, layers, *for_preview)
    num_networks = len(layers) * 3 * NUM_THRESHOLDS
    median, usual = statistics.median(plain.passes), Speeds.median(speeds)
    chunk = torch.cat([pixels[chunks[0]], adversarial[chunks[0]]])
    at_best = seconds_at_best(measurer, layers, chunk, usual) * 2 * num_images / len(chunk)
    products = sum(own.layer.num_products for own in measurer.geometry.values())
    return Row(
        network=network,
        size=size,
        num_layers=len(layers),
        num_images=num_images,
        fast_seconds=fast,
        reference_seconds=median * num_networks,
        reference_spread=(min(plain.passes) / median, max(plain.passes) / median),
        notebook_seconds=statistics.median(plain.attacks) * num_networks,
        adaptive_seconds=anew.seconds_per_network * num_networks,
        preview_seconds=preview,
        networks_per_second=num_networks / fast,
        needed_share=needed_share(model, shape, measurer, layers),
        gflops=2 * products * 2 * num_images * num_networks / fast / 1e9,
        matmul_gflops=usual.products / 1e9,
        copy_gigabytes=usual.copies / 1e9,
        seconds_at_best=at_best,
        peak_megabytes=peak / 1024,
        num_compared=plain.num_compared,
        num_different=plain.num_different,
        largest_difference=plain.largest_difference,
    )


class _Plain:
    """Times full forward passes, and the reference notebooks' procedure, for a few filtered networks of some layers.

    Args:
        model: the network.
        pixels: (N, C, H, W).
        labels: (N,).
        adversarial: the same images, attacked.
        num_networks: of a layer, at most 4, each at another threshold; the filters take turns.
    """

    def __init__(
        self, model: nn.Module, pixels: Tensor, labels: Tensor, adversarial: Tensor, *, num_networks: int
    ) -> None:
        self._engine = make_engine("reference", model, tuple(pixels.shape[1:]))
        self._images = pixels, labels
        self._both = torch.cat([pixels, adversarial])
        self._thresholds = (4, 10, 14, 20)[:num_networks]
        self.passes: list[float] = []
        self.attacks: list[float] = []
        self.num_compared = self.num_different = 0
        self.largest_difference = 0.0

    def run(self, name: str, measurer: Measurer, found: Predictions) -> None:
        """Take one layer, and compare with what was predicted."""
        group = measurer.filters_of(name)
        prepared, fast = (engine.prepare(self._both, [name]) for engine in (self._engine, measurer.engine))
        for row, k in enumerate(self._thresholds):
            row %= len(measurer.rows)
            weights = group.weights(measurer.rows[row], k)
            started = time.perf_counter()
            predicted = prepared.predict(weights).numpy()
            self.passes.append(time.perf_counter() - started)
            started = time.perf_counter()
            with prepared.network(weights) as filtered:
                _notebook(filtered, *self._images)
            self.attacks.append(time.perf_counter() - started)
            same = np.concatenate([found.clean[row, k], found.adversarial[row, k]])
            self.num_different += int((predicted != same).sum())
            self.num_compared += len(predicted)
        expected, got = (own.logits(weights) for own in (prepared, fast))
        difference = float((got - expected).abs().max() / expected.abs().max())
        self.largest_difference = max(self.largest_difference, difference)


class _Anew:
    """Times filtered networks that the fast engine attacks anew by FGSM, all that differ of some layers.

    Args:
        model: the network.
        pixels: (N, C, H, W); chunks of the same size count as one that is timed.
        labels: (N,).
        num_thresholds: of each filter; what the filtered networks of a layer share is computed once for these instead
            of once for all thresholds, so that it weighs more than it should.
    """

    def __init__(self, model: nn.Module, pixels: Tensor, labels: Tensor, *, num_thresholds: int) -> None:
        self._measurer = Measurer(model, tuple(pixels.shape[1:]), ResponseSpec(num_thresholds=num_thresholds))
        self._images = pixels, labels
        sizes = [len(own) for own in pixels.split(IMAGES_PER_CHUNK)]
        self._seconds = dict.fromkeys(sizes, 0.0)
        self._num_networks = dict.fromkeys(sizes, 0)
        self._sizes = sizes

    def run(self, name: str) -> None:
        """Take one layer."""
        for size in self._seconds:
            pixels, labels = (own[:size] for own in self._images)
            unfiltered = self._measurer.unfiltered(pixels, pixels, np.zeros(size, dtype=bool))
            # What is done once for all images (weights sorted, the graph split) is not counted.
            self._measurer.measure(name, pixels[:2], labels[:2], None, unfiltered.images(0, 2), attack=ATTACK)

            def count(size: int = size) -> None:
                self._num_networks[size] += 1

            started = time.perf_counter()
            self._measurer.measure(name, pixels, labels, None, unfiltered, attack=ATTACK, on_pass=count)
            self._seconds[size] += time.perf_counter() - started

    @property
    def seconds_per_network(self) -> float:
        """For all images."""
        return sum(self._seconds[size] / self._num_networks[size] for size in self._sizes)


def _preview(
    model: nn.Module, shape: tuple[int, int, int], layers: list[str], pixels: Tensor, labels: Tensor, attacked: Tensor
) -> float:
    """Time a first look at some layers."""
    started = time.perf_counter()
    measurer = Measurer(model, shape, ResponseSpec(num_thresholds=PREVIEW_THRESHOLDS))
    unfiltered = measurer.unfiltered(pixels, attacked, None)
    for name in layers:
        measurer.measure(name, pixels, labels, attacked, unfiltered)
    return time.perf_counter() - started


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


if __name__ == "__main__":
    main()
