"""How much faster the fast engine is than plain full forward passes: ``python -m benchmarks.engine``.

Each row measures one network: every layer, 3 filters × 25 thresholds, 256 clean and 256 frozen adversarial images, with
the fast engine, against full forward passes timed on a sample of filtered networks and multiplied (a full forward pass
costs the same whatever was filtered; the spread of the sample is shown). A first look at the same layers is timed too,
from a network nothing is known of, against full forward passes of 300 + 300 images. Finished rows are kept in a file,
so that an interrupted run goes on with the next. ``--quick`` measures a sample of layers. Let nothing else run.

What bounds the ratio: of the products of full passes, only those are needed whose taps lie on the map (fewer still by
minimal filtering, where the engine does that), downstream of the filtered layer, of filtered networks that differ. Each
row says which share that is, how fast the fast engine does them beside a matrix product on the same cores, and which
ratio it would reach by doing the same products as fast as that.
"""

from __future__ import annotations

import argparse
import copy
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
from fss_core.filters import UNFILTERED
from fss_core.graphs import tensor_shapes, trace
from fss_core.jobs.requests import PREVIEW_IMAGES, PREVIEW_THRESHOLDS
from fss_core.measuring import Measurer
from fss_core.models import build_network, seeded
from fss_core.responses import Predictions
from fss_core.specs import IMAGES_PER_CHUNK, AttackSpec, ResponseSpec
from fss_core.winograd import by_winograd

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
    needed_share: float
    gflops: float
    matmul_gflops: float
    peak_megabytes: float
    num_compared: int
    num_different: int

    @property
    def ratio_at_product_speed(self) -> float:
        """How many times as fast as the reference the needed products would be at a matrix product's speed."""
        full_gflops = self.gflops * self.fast_seconds / self.reference_seconds
        return self.matmul_gflops / (full_gflops * self.needed_share)


def main() -> None:
    """Measure and print the table."""
    prepare_to_compute()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a sample of layers and 32 + 32 images, minutes")
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
        f"{r.gflops:.0f} GFLOP/s of full passes, of whose products {r.needed_share:.0%} are needed: these at "
        f"{r.gflops * r.needed_share / r.matmul_gflops:.2f} of the speed of a matrix product ({r.matmul_gflops:.0f} "
        f"GFLOP/s), at which the ratio would be {r.ratio_at_product_speed:.1f}×; peak {r.peak_megabytes:.0f} MB; "
        f"{r.num_different} of {r.num_compared} predictions differ"
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
        layers = layers[:: max(len(layers) // 4, 1)]
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

    preview = _preview(model, shape, layers, *for_preview)

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
    adaptive = _adaptive(model, shape, sample[:: 2 if quick else 1], pixels, labels)
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
        needed_share=_needed_share(model, shape, measurer, layers),
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
    seconds = 0.0
    passes: list[None] = []
    for index, name in enumerate(layers):
        rows = [measurer.rows[index % len(measurer.rows)]]
        # What is done once for all filtered networks of a layer (its weights sorted, the graph split) is not counted.
        measurer.measure(name, pixels[:2], labels[:2], None, unfiltered.images(0, 2), attack=ATTACK, rows=rows)
        started = time.perf_counter()
        for start in range(0, len(pixels), IMAGES_PER_CHUNK):
            stop = min(start + IMAGES_PER_CHUNK, len(pixels))
            own = pixels[start:stop], labels[start:stop], None, unfiltered.images(start, stop)
            measurer.measure(name, *own, attack=ATTACK, rows=rows, on_pass=lambda: passes.append(None))
        seconds += time.perf_counter() - started
    return seconds * -(-len(pixels) // IMAGES_PER_PASS) / len(passes)


def _needed_share(model: nn.Module, shape: tuple[int, int, int], measurer: Measurer, layers: list[str]) -> float:
    """Say which share of the products of full passes of all filtered networks is needed, over some layers."""
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
        group = measurer.filters_of(name)
        nothing = tuple(UNFILTERED for _ in group.filters)
        differ = {group.signature(row, k) for row in measurer.rows for k in range(NUM_THRESHOLDS)} - {nothing}
        needed += len(differ) * sum(products for node, products in on_map.items() if node in after)
    return needed / (len(layers) * len(measurer.rows) * NUM_THRESHOLDS * sum(full.values()))


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
