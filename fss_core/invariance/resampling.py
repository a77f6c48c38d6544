"""Chance made explicit: which images are drawn, which layers are permuted, and what follows for a statistic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from fss_core.intervals import Values
from fss_core.invariance.rankings import Masked

_BOOTSTRAP, _HALVES, _PERMUTATION = range(3)
_LARGEST_BLOCK = 2_000_000
"""Resamples × images held in memory at a time."""


def bootstrap_weights(num_resamples: int, num_images: int, *, seed: int, stream: int) -> Iterator[Values]:
    """Draw as many images as there are, with replacement, many times.

    Args:
        num_resamples: B.
        num_images: N.
        seed: same seed and stream, same draws.
        stream: which set of images; the draws of different streams are independent.

    Yields:
        Blocks of rows (·, N), B rows in all: how often each image is drawn.
    """
    rng = np.random.default_rng([seed, _BOOTSTRAP, stream])
    block = max(1, _LARGEST_BLOCK // num_images)
    for start in range(0, num_resamples, block):
        size = min(block, num_resamples - start)
        yield rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=size).astype(np.float64)


def half_weights(num_splits: int, num_images: int, *, seed: int, stream: int) -> Values:
    """Split the images into two random halves, many times.

    Args:
        num_splits: S.
        num_images: N, at least 2; if odd, the second half has one more.
        seed: same seed and stream, same splits.
        stream: which set of images.

    Returns:
        (2, S, N): 1 where an image is in the first half, and where it is in the second.
    """
    rng = np.random.default_rng([seed, _HALVES, stream])
    first = np.tile(np.arange(num_images) < num_images // 2, (num_splits, 1)).astype(np.float64)
    first = rng.permuted(first, axis=1)
    return np.stack([first, 1 - first])


def permutations_within(
    kinds: Sequence[str], num_permutations: int, *, seed: int, stream: int
) -> npt.NDArray[np.int64]:
    """Permute items within their kinds, many times.

    Args:
        kinds: L kinds, one an item.
        num_permutations: M.
        seed: same seed and stream, same permutations.
        stream: which column.

    Returns:
        (M, L), indices: place i is taken by an item of the same kind.

    >>> permutations_within(["a", "b", "b"], 4, seed=1, stream=0).tolist()
    [[0, 2, 1], [0, 2, 1], [0, 2, 1], [0, 1, 2]]
    """
    rng = np.random.default_rng([seed, _PERMUTATION, stream])
    _, codes = np.unique(np.array(kinds), return_inverse=True)
    places = np.argsort(codes, kind="stable")
    drawn = np.argsort(codes + rng.random((num_permutations, len(codes))), axis=1)
    permuted = np.empty_like(drawn)
    permuted[:, places] = drawn
    return permuted


def basic_interval(value: float, resampled: Masked, level: float) -> tuple[float, float]:
    """Reflect the quantiles of resampled values at the estimate (the basic, or reverse percentile, bootstrap).

    Noise in scores pulls rank correlations and agreements towards nothing, in a resample once more than in the
    estimate: the reflection takes it out again, where quantiles as such would double it. So the interval need not lie
    around the estimate.

    Args:
        value: the estimate.
        resampled: (B,), of which those not masked count.
        level: of the two-sided interval.

    Returns:
        Its ends, which may lie beyond what is possible.

    Source: Davison and Hinkley 1997, section 5.2.1.

    >>> low, high = basic_interval(0.5, np.ma.masked_array(np.linspace(0.2, 0.6, 101)), 0.9)
    >>> round(low, 6), round(high, 6)
    (0.42, 0.78)
    """
    low, high = np.quantile(resampled.compressed(), [(1 - level) / 2, (1 + level) / 2])
    return float(2 * value - high), float(2 * value - low)
