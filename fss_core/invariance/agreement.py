"""Agreement of calls: the share of rows whose call stays, Fleiss' κ and Gwet's AC1, for many resamples at once."""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt

from fss_core.intervals import Values
from fss_core.invariance.rankings import Masked
from fss_core.scores import Call

Codes = npt.NDArray[np.int64]
"""Calls as numbers: 0 fragile, 1 robust, 2 antifragile."""

CALLS: tuple[Call, ...] = get_args(Call)


def call_codes(scores: Values, tolerance: float) -> Codes:
    """Call scores of any shape fragile (0), robust (1) or antifragile (2).

    >>> call_codes(np.array([-0.06, 0.05, 0.06]), 0.05).tolist()
    [0, 1, 2]
    """
    return 1 + (scores > tolerance).astype(np.int64) - (scores < -tolerance)


def count_calls(codes: Codes) -> Codes:
    """Count, for each row, the columns that give it each call: (…, C, R) → (…, R, 3)."""
    return np.stack([(codes == code).sum(axis=-2) for code in range(len(CALLS))], axis=-1)


def pair_agreement(counts: Codes) -> Values:
    """Compute, for each row, the share of pairs of columns that agree on it.

    Args:
        counts: (…, R, J), the columns that give each row each of J calls; every row has the same number of columns,
            at least 2.

    Returns:
        (…, R) on [0, 1].

    >>> pair_agreement(np.array([[4, 0, 0], [2, 2, 0]])).round(3).tolist()
    [1.0, 0.333]
    """
    num_columns = counts.sum(axis=-1)
    return np.asarray((counts * (counts - 1)).sum(axis=-1) / (num_columns * (num_columns - 1)))


def share_kept(counts: Codes) -> Masked:
    """Compute the share of rows to which all columns give the same call: (…, R, J) → (…), never masked."""
    return np.ma.masked_array((counts.max(axis=-1) == counts.sum(axis=-1)).mean(axis=-1))


def fleiss_kappa(counts: Codes) -> Masked:
    """Compute Fleiss' κ, the agreement beyond that of columns that draw calls from the pooled frequencies.

    Args:
        counts: as in :func:`pair_agreement`.

    Returns:
        (…), masked where all calls are equal: then there is nothing that could disagree.

    Source: Fleiss 1971, "Measuring nominal scale agreement among many raters".
    """
    return _beyond_chance(counts, (_frequencies(counts) ** 2).sum(axis=-1))


def gwet_ac1(counts: Codes) -> Masked:
    """Compute Gwet's AC1, which stays meaningful when most rows share a call.

    Args:
        counts: as in :func:`pair_agreement`; all J calls count as possible, whether given or not.

    Returns:
        (…), never masked; 1 where all calls are equal.

    Source: Gwet 2008, "Computing inter-rater reliability and its variance in the presence of high agreement".
    """
    frequencies = _frequencies(counts)
    return _beyond_chance(counts, (frequencies * (1 - frequencies)).sum(axis=-1) / (counts.shape[-1] - 1))


def _frequencies(counts: Codes) -> Values:
    pooled = counts.sum(axis=-2)
    return np.asarray(pooled / pooled.sum(axis=-1, keepdims=True))


def _beyond_chance(counts: Codes, by_chance: Values) -> Masked:
    undefined = by_chance == 1
    return np.ma.masked_array(
        (pair_agreement(counts).mean(axis=-1) - by_chance) / np.where(undefined, 1, 1 - by_chance), mask=undefined
    )
