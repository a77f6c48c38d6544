"""A data set so small that a network learns it in a second: 32 images of 1×28×28 in 4 classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from fss_core import data
from fss_core.specs import choose

NAME = "tiny"
NUM_IMAGES = 32


def make_dataset() -> data.Dataset:
    """Bars of noise whose place is the class, with one brightness per class."""
    random = np.random.default_rng(0)
    labels = np.arange(NUM_IMAGES, dtype=np.int64) % 4
    images = random.integers(0, 80, size=(NUM_IMAGES, 1, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 7 * label : 7 * label + 7] += np.uint8(100)
    split = data.Split(images=images, labels=labels, fingerprint="f" * 64)
    card = data.DatasetCard(
        name=NAME,
        title="Tiny",
        class_names=("top", "upper", "lower", "bottom"),
        image_shape=(1, 28, 28),
        mean=(float(images.mean() / 255),),
        std=(float(images.std() / 255),),
        split_sizes={name: NUM_IMAGES for name in data.SPLITS},
        fingerprints={name: split.fingerprint for name in data.SPLITS},
    )
    return data.Dataset(card=card, **{name: split for name in data.SPLITS})


def install(monkeypatch: Any) -> data.Dataset:
    """Make it the one registered data set; ``monkeypatch`` needs a ``setattr`` only."""
    dataset = make_dataset()

    def load(name: str) -> data.Dataset:
        choose(name, [NAME], what="data set")
        return dataset

    monkeypatch.setattr(data, "load_dataset", load)
    monkeypatch.setattr(data, "dataset_card", lambda name: load(name).card)
    return dataset
