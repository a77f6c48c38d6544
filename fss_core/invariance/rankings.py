"""Kendall's τ-b between the rankings of several columns, for many resamples at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fss_core.intervals import Values

Masked = np.ma.MaskedArray[Any, np.dtype[np.float64]]
"""Values that need not all be defined; those that are not are masked, never NaN."""

TIE = 1e-9
"""Scores nearer than this to the next are tied: what differs is the rounding of sums, not the images."""

_LARGEST_BLOCK = 1_000_000
"""Comparisons of two rows held in memory at a time."""


def dense_ranks(scores: Values) -> npt.NDArray[np.int64]:
    """Rank scores along the last axis; tied ones share a rank.

    Args:
        scores: (…, R), finite.

    Returns:
        (…, R), 0 for the lowest.

    >>> dense_ranks(np.array([0.3, -1.0, 0.1 + 0.2])).tolist()
    [1, 0, 1]
    """
    order = np.argsort(scores, axis=-1)
    rises = np.diff(np.take_along_axis(scores, order, axis=-1), axis=-1) > TIE
    ranks = np.zeros(scores.shape, dtype=np.int64)
    np.put_along_axis(ranks, order[..., 1:], np.cumsum(rises, axis=-1), axis=-1)
    return ranks


def kendall_tau(scores: Values) -> Masked:
    """Compute Kendall's τ-b between the rankings that each two columns give the same rows.

    Args:
        scores: (K, C, R), finite: K resamples of C columns of R rows.

    Returns:
        (K, C, C), masked where a column has no two rows that differ.

    Source: Kendall 1945, "The treatment of ties in ranking problems": (concordant − discordant pairs of rows) /
    √(pairs untied in one column × pairs untied in the other).

    >>> kendall_tau(np.array([[[1.0, 2.0, 3.0], [1.0, 3.0, 2.0]]]))[0, 0, 1].round(3)
    np.float64(0.333)
    """
    num_resamples, num_columns, num_rows = scores.shape
    first, second = np.triu_indices(num_rows, k=1)
    agreed = np.zeros((num_resamples, num_columns, num_columns))
    block = max(1, _LARGEST_BLOCK // max(1, num_columns * len(first)))
    for start in range(0, num_resamples, block):
        # Ranks, and sums of at most 2²⁴ signs, are exact in single precision.
        ranks = dense_ranks(scores[start : start + block]).astype(np.float32)
        signs = ranks[..., first]
        signs -= ranks[..., second]
        np.sign(signs, out=signs)
        agreed[start : start + block] = signs @ signs.swapaxes(-1, -2)
    untied = np.diagonal(agreed, axis1=-2, axis2=-1)
    scale = np.sqrt(untied[:, :, None] * untied[:, None, :])
    return np.ma.masked_array(agreed / np.where(scale > 0, scale, 1), mask=scale == 0)
