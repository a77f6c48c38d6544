"""A world small enough to retrain in a second: an image folder, and a network of the user's own, trained a little.

The images are 8×8 grey noise with a brighter bar whose place is the class. The network has normalisation, dropout and
biases; seeds 0 and 1 are trained here, with Adam's moments, and seed 7 is imported, without.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fss_core.specs import MeasurementSpec, ResponseSpec, TrainingSpec

if TYPE_CHECKING:
    from torch import nn

    from fss_core.checkpoints import Checkpoint

DATASET, NETWORK, FACTORY, EPOCH = "lanes", "lanes_net", "lanes:make_network", 3
LAYERS = ("conv1", "conv2", "conv3", "fc")
TRAINED_SEEDS, IMPORTED_SEED = (0, 1), 7
STEPS_PER_EPOCH, NUM_REPORT = 2, 150


def measurement(seed: int = 0) -> MeasurementSpec:
    """A small measurement of one of the checkpoints."""
    return MeasurementSpec(
        training=TrainingSpec(network=NETWORK, dataset=DATASET, seed=seed),
        epoch=EPOCH,
        num_images=120,
        epsilon=0.04,
        response=ResponseSpec(num_thresholds=5),
    )


def make_folder(root: Path, *, copies: int = 0) -> Path:
    """Write 240 training and 300 test images of four classes; the first ``copies`` test images of each are the same."""
    rng = np.random.default_rng(0)
    for part, number in (("train", 60), ("test", 75)):
        for label, name in enumerate("abcd"):
            folder = root / part / name
            folder.mkdir(parents=True)
            same = rng.integers(60, 160, (8, 8))
            for index in range(number):
                pixels = same.copy() if part == "test" and index < copies else rng.integers(60, 160, (8, 8))
                pixels[2 * label : 2 * label + 2] += 60
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:03}.png")
    return root


def make_network(*, num_classes: int, num_channels: int) -> nn.Module:
    """Build the network, untrained, under the global random state."""
    from torch import nn

    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(num_channels, 6, 3, padding=1, bias=False),
            norm1=nn.BatchNorm2d(6),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(6, 6, 3, padding=1),
            norm2=nn.BatchNorm2d(6),
            relu2=nn.ReLU(),
            conv3=nn.Conv2d(6, 6, 3, stride=2, padding=1),
            relu3=nn.ReLU(),
            flat=nn.Flatten(),
            dropout=nn.Dropout(0.2),
            fc=nn.Linear(96, num_classes),
        )
    )


def train(spec: TrainingSpec, epochs: int, learning_rate: float = 0.02) -> tuple[nn.Module, dict[str, object]]:
    """Train the network; return it with Adam's moments."""
    import torch

    from fss_core.conditions import seeded
    from fss_core.data import load_dataset
    from fss_core.training import epoch_batches, optimiser_state, random_seed, train_step

    split = load_dataset(DATASET).train
    with seeded(spec.seed):
        network = make_network(num_classes=4, num_channels=1)
    network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    for epoch in range(1, epochs + 1):
        with seeded(random_seed("dropout", spec.seed, epoch)):
            for indices in epoch_batches(len(split), batch_size=spec.batch_size, seed=spec.seed, epoch=epoch):
                train_step(network, optimiser, split, indices)
    return network, dict(optimiser_state(optimiser, network))


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, whatever was set before: so few steps end elsewhere where sums are rounded otherwise."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def make_cache(root: Path) -> Path:
    """Make a cache directory with the data set registered and all checkpoints in it; FSS_CACHE_DIR must name it."""
    import safetensors.torch

    from fss_core.checkpoints import import_checkpoint, save_checkpoint
    from fss_core.data import register_folder

    register_folder(DATASET, make_folder(root / "images"))
    for seed in TRAINED_SEEDS:
        spec = measurement(seed).training
        network, state = train(spec, EPOCH)
        save_checkpoint(
            spec,
            EPOCH,
            weights=network.state_dict(),
            state=state,  # type: ignore[arg-type]
            origin="trained",
            factory=FACTORY,
        )
    network, _ = train(measurement(IMPORTED_SEED).training, EPOCH)
    weights = root / "weights.safetensors"
    safetensors.torch.save_file({name: own.contiguous() for name, own in network.state_dict().items()}, weights)
    import_checkpoint(weights, network=NETWORK, dataset=DATASET, epoch=EPOCH, seed=IMPORTED_SEED, factory=make_network)
    return root


def checkpoint(seed: int = 0) -> Checkpoint:
    """Find one of the checkpoints."""
    from fss_core.checkpoints import find_checkpoint

    found = find_checkpoint(measurement(seed).training, EPOCH)
    assert found is not None
    return found
