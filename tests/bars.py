"""A world small enough to measure in a second: an image folder, and a network of the user's own with its weights.

The images are 8×8 grey noise with a bright bar whose place is the class; the network sums the places up. A cache made
here can be copied: it holds the registered folder, prepared, and the network imported as epoch 3.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import pytest
    from torch import nn

DATASET, NETWORK, FACTORY, EPOCH = "bars", "bars_net", "bars:make_network", 3
LAYERS = ("conv", "fc")
NUM_PROBE = 120
"""40 % of the test images: one whole chunk and a short one."""


def make_folder(root: Path) -> Path:
    """Write 16 training and 300 test images of four classes."""
    rng = np.random.default_rng(0)
    for part, number in (("train", 4), ("test", 75)):
        for label, name in enumerate("abcd"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = rng.integers(60, 160, (8, 8))
                pixels[2 * label : 2 * label + 2] += rng.integers(0, 60)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:03}.png")
    return root


def make_network(*, num_classes: int, num_channels: int) -> nn.Module:
    """Build the network, with the same weights every time."""
    from collections import OrderedDict

    import torch
    from torch import nn

    network = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(num_channels, 2, 3, padding=1),
            relu=nn.ReLU(),
            pool=nn.AvgPool2d(2),
            flat=nn.Flatten(),
            fc=nn.Linear(32, num_classes),
        )
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        network.conv.weight[:, 0, 1, 1] += 1
        for label in range(num_classes):
            network.fc.weight.view(num_classes, 2, 4, 4)[label, :, label] += 1
    return network


def make_cache(root: Path) -> Path:
    """Make a cache directory with the data set registered and the network imported; FSS_CACHE_DIR must name it."""
    import safetensors.torch

    from fss_core.checkpoints import import_checkpoint
    from fss_core.data import register_folder

    register_folder(DATASET, make_folder(root / "images"))
    weights = root / "weights.safetensors"
    safetensors.torch.save_file(make_network(num_classes=4, num_channels=1).state_dict(), weights)
    import_checkpoint(weights, network=NETWORK, dataset=DATASET, epoch=EPOCH, factory=FACTORY)
    return root


def make_template(factory: pytest.TempPathFactory) -> Path:
    """Make such a cache in a directory of its own, for tests to copy."""
    import pytest

    root = factory.mktemp("bars")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSS_CACHE_DIR", str(root))
        return make_cache(root)


def stop_after(num_calls: int) -> Callable[[], bool]:
    """Say that work must stop when it has been asked for so many times."""
    calls = iter(range(num_calls))
    return lambda: next(calls, None) is None


def environment(cache: Path) -> dict[str, str]:
    """The environment of a process that works in this world."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    own = {"FSS_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    return {name: value for name, value in os.environ.items() if name != "FSS_DATA_DIR"} | own
