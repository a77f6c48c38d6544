"""The fixed splits and the fingerprints."""

import hashlib
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fss_core.data.splits import POOL_SIZES, fingerprint, held_out_sizes, split_counts, split_indices

MNIST_TEST_CLASSES = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def reference_counts(class_sizes: list[int], split_sizes: list[int]) -> list[list[int]]:
    """Largest remainder, split after split, with fractions and loops."""
    left = list(class_sizes)
    table = []
    for size in split_sizes:
        total = sum(left)
        quotas = [Fraction(n * size, total) if total else Fraction(0) for n in left]
        row = [int(quota) for quota in quotas]
        while sum(row) < size:
            gaps = [quota - have for quota, have in zip(quotas, row, strict=True)]
            row[gaps.index(max(gaps))] += 1
        left = [n - have for n, have in zip(left, row, strict=True)]
        table.append(row)
    return table


@st.composite
def classes_and_splits(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    class_sizes = draw(st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any))
    total = sum(class_sizes)
    cuts = sorted(draw(st.lists(st.integers(0, total), min_size=2, max_size=3)))
    edges = [0, *cuts, total]
    return class_sizes, [b - a for a, b in pairwise(edges)]


@given(classes_and_splits())
def test_counts_equal_the_slow_reference(case):
    class_sizes, sizes = case
    counts = split_counts(np.array(class_sizes), {str(i): size for i, size in enumerate(sizes)})
    assert [row.tolist() for row in counts.values()] == reference_counts(class_sizes, sizes)


@given(classes_and_splits())
def test_splits_partition_the_images_in_proportion(case):
    class_sizes, sizes = case
    labels = np.repeat(np.arange(len(class_sizes)), class_sizes)
    names = {str(i): size for i, size in enumerate(sizes)}
    splits = split_indices(labels, names)
    assert {name: len(part) for name, part in splits.items()} == names
    np.testing.assert_array_equal(np.sort(np.concatenate(list(splits.values()))), np.arange(len(labels)))
    for name, part in splits.items():
        share = np.array(class_sizes) * names[name] / len(labels)
        assert (np.abs(np.bincount(labels[part], minlength=len(class_sizes)) - share) < 2).all()


def test_mnist_like_test_set_splits_exactly():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), MNIST_TEST_CLASSES))
    splits = split_indices(labels, held_out_sizes(10_000))
    assert {name: len(part) for name, part in splits.items()} == {"calibration": 1000, "probe": 4000, "report": 5000}
    assert np.bincount(labels[splits["calibration"]]).tolist() == [98, 114, 103, 101, 98, 89, 96, 103, 97, 101]


def test_splits_are_in_random_order_and_random_within_a_class():
    labels = np.repeat(np.arange(10), 500)
    probe = split_indices(labels, POOL_SIZES)["probe"]
    # 100 of 500 shuffled images, 50 a class: each class has 10 in the mean, 2.8 standard deviation.
    assert np.bincount(labels[probe[:100]], minlength=10).min() >= 2
    assert not np.array_equal(probe, np.sort(probe))
    zeros = probe[labels[probe] == 0]
    assert zeros.max() > 400  # not the first 50 of the class
    assert zeros.min() < 100


def test_splits_never_change():
    splits = split_indices(np.arange(40) % 4, {"a": 8, "b": 32})
    assert splits["a"].tolist() == [12, 26, 23, 32, 25, 14, 27, 1]
    assert hashlib.sha256(splits["b"].astype("<i8").tobytes()).hexdigest()[:16] == "4a62285199e4cf59"


def test_sizes_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="must add up to 10, got"):
        split_counts(np.array([5, 5]), {"a": 5, "b": 4})


@pytest.mark.parametrize(("number", "sizes"), [(20, (2, 8, 10)), (1000, (100, 400, 500)), (25, (3, 10, 12))])
def test_held_out_sizes(number, sizes):
    assert tuple(held_out_sizes(number).values()) == sizes


@given(st.lists(st.integers(10, 40), min_size=2, max_size=30))
def test_ten_test_images_a_class_put_every_class_into_every_split(class_sizes):
    counts = split_counts(np.array(class_sizes), held_out_sizes(sum(class_sizes)))
    assert min(part.min() for part in counts.values()) >= 1


def some_images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2000, 1, 3, 2), dtype=np.uint8), rng.integers(0, 5, 2000)


def test_fingerprint_is_the_hash_of_shapes_types_pixels_and_labels():
    images, labels = some_images()
    text = b"uint8 (2000, 1, 3, 2) int64 (2000,)" + images.tobytes() + labels.tobytes()
    assert fingerprint(images, labels) == hashlib.sha256(text).hexdigest()


def test_fingerprint_changes_with_one_pixel_one_label_and_the_shape():
    images, labels = some_images()
    seen = {fingerprint(images, labels), fingerprint(images.reshape(2000, 1, 2, 3), labels)}
    images[1999, 0, 2, 1] ^= 1
    seen.add(fingerprint(images, labels))
    labels[1999] += 1
    seen.add(fingerprint(images, labels))
    assert len(seen) == 4


def test_fingerprint_refuses_other_types():
    images, labels = some_images()
    with pytest.raises(ValueError, match="must be N uint8 and N int64, got 2000 float64"):
        fingerprint(images / 255, labels)
    with pytest.raises(ValueError, match="got 2000 uint8 and 1999 int64"):
        fingerprint(images, labels[1:])
