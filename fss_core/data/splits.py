"""The fixed splits of a data set, and the fingerprint that says which images a number was measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fss_core.data.raw import Images, Labels, RawDataset, RawImages
from fss_core.specs import DataError

SPLITS = ("train", "calibration", "probe", "report")

SPLIT_SEED = 231209821
"""Fixes which image is in which split and the order of all but train.

Never changed; it is the paper's arXiv number.
"""

POOL_SIZES = {"train": 3500, "calibration": 250, "probe": 500, "report": 750}
"""The splits of ``mnist5k``, whose 5,000 images come as one pool."""

MIN_TEST_IMAGES_PER_CLASS = 10
"""With 10 % of the test images for calibration, the fewest that put every class into every split."""

IMAGES_PER_BLOCK = 1024

Places = dict[str, NDArray[np.int64]]
"""Per split, indices into the images of a source."""


def split_counts(class_sizes: NDArray[np.int64], split_sizes: Mapping[str, int]) -> dict[str, NDArray[np.int64]]:
    """Share out the images of each class over the splits in proportion, every total exact (largest remainder).

    Args:
        class_sizes: (number of classes,) images per class.
        split_sizes: images per split; they add up to all images.

    Returns:
        Per split, the images to take of each class: (number of classes,), fewer than 2 away from proportion.

    Raises:
        ValueError: the sizes do not add up.

    >>> {name: [int(n) for n in counts] for name, counts in split_counts(np.array([6, 4]), {"a": 5, "b": 5}).items()}
    {'a': [3, 2], 'b': [3, 2]}

    Source: this project.
    """
    if sum(split_sizes.values()) != class_sizes.sum() or min(split_sizes.values()) < 0:
        raise ValueError(f"split sizes must add up to {class_sizes.sum()}, got {dict(split_sizes)}")
    left = class_sizes.astype(np.int64)
    counts = {}
    for name, size in split_sizes.items():
        # In whole numbers, so that no rounding of floats decides between equal remainders.
        share, remainder = np.divmod(left * size, max(int(left.sum()), 1))
        most = np.argsort(-remainder, kind="stable")[: size - int(share.sum())]
        share[most] += 1
        counts[name] = share
        left = left - share
    return counts


def split_indices(labels: Labels, split_sizes: Mapping[str, int]) -> dict[str, NDArray[np.int64]]:
    """Choose the images of each split: stratified, disjoint, the same every time, each split in random order.

    The random numbers are the raw stream of NumPy's PCG64, which NumPy keeps the same between versions, as it does not
    keep what ``Generator`` makes of it.

    Args:
        labels: int64 (N,).
        split_sizes: images per split; they add up to N.

    Returns:
        Per split, indices into ``labels``.

    Raises:
        ValueError: the sizes do not add up.

    Source: this project.
    """
    drawn = np.random.PCG64(SPLIT_SEED).random_raw(2 * len(labels))
    membership, order = drawn[: len(labels)], drawn[len(labels) :]
    counts = split_counts(np.bincount(labels), split_sizes)
    indices: dict[str, list[NDArray[np.int64]]] = {name: [] for name in split_sizes}
    for label in range(int(labels.max()) + 1):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(membership[members], kind="stable")]
        ends = np.cumsum([counts[name][label] for name in split_sizes])
        for name, part in zip(split_sizes, np.split(members, ends[:-1]), strict=True):
            indices[name].append(part)
    chosen = {name: np.concatenate(parts) for name, parts in indices.items()}
    return {name: part[np.argsort(order[part], kind="stable")] for name, part in chosen.items()}


def held_out_sizes(num_images: int) -> dict[str, int]:
    """Share out a test set: 10 % (rounded up) to calibration, 40 % (rounded down) to probe, the rest to report.

    >>> held_out_sizes(10_000)
    {'calibration': 1000, 'probe': 4000, 'report': 5000}
    """
    calibration, probe = -(-num_images // 10), num_images * 2 // 5
    return {"calibration": calibration, "probe": probe, "report": num_images - calibration - probe}


def fingerprint(images: Images, labels: Labels) -> str:
    """Hash images and labels: the SHA-256, in hexadecimal, over shapes, types, pixels and labels.

    Args:
        images: uint8 (N, C, H, W); read in blocks, so that mapped arrays stay on disk.
        labels: int64 (N,).

    Raises:
        ValueError: another type, or numbers that differ.
    """
    if images.dtype != np.uint8 or labels.dtype != np.int64 or len(images) != len(labels):
        raise ValueError(
            f"images and labels must be N uint8 and N int64, got {len(images)} {images.dtype} "
            f"and {len(labels)} {labels.dtype}"
        )
    sha = hashlib.sha256(f"uint8 {images.shape} int64 {labels.shape}".encode())
    for start in range(0, len(images), IMAGES_PER_BLOCK):
        sha.update(np.ascontiguousarray(images[start : start + IMAGES_PER_BLOCK]).data)
    sha.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return sha.hexdigest()


def split_places(raw: RawDataset, origin: str) -> list[tuple[RawImages, Places]]:
    """Say for each part of a raw data set which of its images go to which split, in which order.

    Args:
        raw: the data set as its source gives it.
        origin: what to call it in an error.

    Returns:
        Pairs of the part and, per split it fills, indices into it; train keeps the order of the source.

    Raises:
        DataError: a class has too few test images to be in every split.
    """
    if raw.test is None:
        places = split_indices(raw.train.labels, POOL_SIZES)
        return [(raw.train, places | {"train": np.sort(places["train"])})]
    per_class = np.bincount(raw.test.labels, minlength=len(raw.class_names))
    fewest = int(per_class.argmin())
    if per_class[fewest] < MIN_TEST_IMAGES_PER_CLASS:
        raise DataError(
            f"{origin}: every class needs at least {MIN_TEST_IMAGES_PER_CLASS} test images to be split, "
            f"{raw.class_names[fewest]!r} has {per_class[fewest]}; add some"
        )
    all_train = {"train": np.arange(len(raw.train.labels))}
    return [(raw.train, all_train), (raw.test, split_indices(raw.test.labels, held_out_sizes(len(raw.test.labels))))]
