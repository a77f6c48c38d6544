"""Invariance: which layers stay fragile, robust or antifragile across epochs, data sets or networks.

Scores of the same rows in several columns are compared by rank (Kendall's τ-b, of each two columns) and by call
(the share that stays, Fleiss' κ and Gwet's AC1, of all columns). Everything is recomputed from per-image values, so
neither a network nor a data set is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np

from fss_core.invariance.columns import ColumnScores, list_rows, score_column
from fss_core.invariance.comparing import Comparison, Draws
from fss_core.invariance.results import (
    Across,
    CallAgreement,
    Ceiling,
    Column,
    Entry,
    Invariance,
    Null,
    RankAgreement,
    Row,
    RowStability,
    ScoreTable,
    State,
    Statistic,
)
from fss_core.responses import Responses
from fss_core.scores import KINDS, MEAN_FILTER, Kind, score_filters
from fss_core.specs import ScoreSpec

__all__ = [
    "Across",
    "CallAgreement",
    "Ceiling",
    "Column",
    "Entry",
    "Invariance",
    "Null",
    "RankAgreement",
    "Row",
    "RowStability",
    "ScoreTable",
    "State",
    "Statistic",
    "measure_invariance",
    "tabulate_scores",
]

LOW_CEILING = 0.5
"""A split-half τ below which the images say little of a ranking.

In simulations (20 to 57 layers, 100 and 300 images, all degrees of agreement) the 95 % interval of τ held the true one
in 75 to 90 % of the cases above it, and in 40 to 75 % below: τ is no smooth function of the scores.
"""


def measure_invariance(
    responses: Mapping[str, Responses],
    *,
    across: Across,
    spec: ScoreSpec | None = None,
    filter: str = MEAN_FILTER,
    kind: Kind = "adversarial",
    num_resamples: int = 1000,
    num_splits: int = 100,
    num_permutations: int = 1000,
    seed: int = 0,
) -> Invariance:
    """Compare one score across epochs or data sets of one network, or across networks on one data set.

    Across epochs and networks all columns must have the same images; a resample then draws the same images in each.
    Across data sets each draws its own. Across networks the rows are cells: layers of one kind in one fifth of the
    depth, with their mean score.

    Args:
        responses: label → responses, in the order in which they are to be shown.
        across: what the labels are.
        spec: how scores are computed and called, and the level of all intervals; by default ``ScoreSpec()``.
        filter: a filter that was measured, or ``"mean"`` of the paper's three.
        kind: clean, adversarial or difference.
        num_resamples: bootstrap resamples of the images.
        num_splits: random halvings of the images, for the ceiling.
        num_permutations: of layers within kinds, for the null.
        seed: of all three, 0 or more.

    Returns:
        Scores, rankings and calls; what cannot be compared is there too, with its state and reason.

    Raises:
        ValueError: nothing to compare, an unknown setting, a filter that was not measured, columns that should have
            the same images and do not, or too few resamples for the level.

    Source: METHOD, "Invariance".
    """
    spec = spec or ScoreSpec()
    _check_settings(across, kind, spec.level, num_resamples, num_splits, num_permutations, seed)
    columns = {str(label): own for label, own in responses.items()}
    _check_columns(columns, across, filter)
    rows, scored = _score_columns(columns, across, spec, filter, kind)
    comparison = Comparison(
        scored,
        across=across,
        tolerance=spec.tolerance,
        level=spec.level,
        draws=Draws(num_resamples=num_resamples, num_splits=num_splits, num_permutations=num_permutations, seed=seed),
    )
    ceilings = comparison.split_halves()
    return Invariance(
        across=across,
        spec=spec,
        filter=filter,
        kind=kind,
        table=_table(columns, rows, scored, ceilings),
        rankings=comparison.rankings(),
        calls=comparison.calls(),
        num_resamples=num_resamples,
        num_splits=num_splits,
        num_permutations=num_permutations,
        seed=seed,
        cautions=_cautions(columns, across, ceilings),
    )


def tabulate_scores(
    responses: Mapping[str, Responses], *, across: Across, spec: ScoreSpec, filter: str, kind: Kind
) -> ScoreTable:
    """Tabulate one score as :func:`measure_invariance` does, but compare nothing: that takes a fraction of the time.

    Args:
        responses: label → responses.
        across: what the labels are.
        spec: how scores are computed and called.
        filter: a filter that was measured, or ``"mean"``.
        kind: clean, adversarial or difference.

    Returns:
        The scores; its columns have no ceilings.

    Raises:
        ValueError: as :func:`measure_invariance`.
    """
    columns = {str(label): own for label, own in responses.items()}
    _check_columns(columns, across, filter)
    rows, scored = _score_columns(columns, across, spec, filter, kind)
    return _table(columns, rows, scored, [Ceiling(value=None, reason="not asked for")] * len(columns))


def _score_columns(
    columns: Mapping[str, Responses], across: Across, spec: ScoreSpec, filter: str, kind: Kind
) -> tuple[tuple[Row, ...], dict[str, ColumnScores]]:
    rows = list_rows(list(columns.values()), across)
    return rows, {
        label: score_column(label, own, rows, across=across, spec=spec, filter=filter, kind=kind)
        for label, own in columns.items()
    }


def _table(
    columns: Mapping[str, Responses],
    rows: tuple[Row, ...],
    scored: Mapping[str, ColumnScores],
    ceilings: Sequence[Ceiling],
) -> ScoreTable:
    return ScoreTable(
        rows=rows,
        columns=tuple(
            Column(label=label, num_images=own.num_images, epsilon=_epsilon(own), ceiling=ceiling)
            for (label, own), ceiling in zip(columns.items(), ceilings, strict=True)
        ),
        entries=tuple(entry for line in zip(*(own.entries for own in scored.values()), strict=True) for entry in line),
    )


def _check_settings(
    across: str, kind: str, level: float, num_resamples: int, num_splits: int, num_permutations: int, seed: int
) -> None:
    if across not in get_args(Across):
        raise ValueError(f"across must be one of {', '.join(get_args(Across))}, got {across!r}")
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    fewest = math.ceil(round(2 / (1 - level), 6))
    if num_resamples < fewest:
        raise ValueError(
            f"num_resamples must be at least {fewest} for intervals at a level of {level:g}, got {num_resamples}"
        )
    if num_splits < 1 or num_permutations < 1:
        raise ValueError(f"num_splits and num_permutations must be at least 1, got {num_splits} and {num_permutations}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")


def _check_columns(columns: Mapping[str, Responses], across: Across, filter: str) -> None:
    if not columns:
        raise ValueError("no responses to compare; give at least one column")
    first, *_ = columns
    for label, own in columns.items():
        if filter not in (known := score_filters(own)):
            raise ValueError(f"{label} has no filter {filter!r}; it has {', '.join(known)}")
        if across != "datasets" and not np.array_equal(own.labels, columns[first].labels):
            raise ValueError(
                f"{label} and {first} have different images ({own.num_images} and {columns[first].num_images}); "
                f"{across} are compared on the same ones"
            )


def _epsilon(responses: Responses) -> float | None:
    return None if responses.attack is None else responses.attack.epsilon


def _cautions(columns: Mapping[str, Responses], across: Across, ceilings: Sequence[Ceiling]) -> tuple[str, ...]:
    titles = {label: f"epoch {label}" if across == "epochs" and label.isdecimal() else label for label in columns}
    found = [f"{titles[label]}: {caution}" for label, own in columns.items() for caution in own.cautions]
    if across == "epochs" and len({own.attack for own in columns.values()}) > 1:
        epsilons = [f"{epsilon * 255:.3g}/255" for own in columns.values() if (epsilon := _epsilon(own)) is not None]
        found.append(f"the attack is not the same at all epochs (ε = {', '.join(dict.fromkeys(epsilons))})")
    num_thresholds = {own.spec.num_thresholds for own in columns.values()}
    if len(num_thresholds) > 1:
        found.append(
            f"the number of thresholds is not the same everywhere ({', '.join(map(str, sorted(num_thresholds)))})"
        )
    for label, ceiling in zip(columns, ceilings, strict=True):
        if ceiling.value is not None and ceiling.value < LOW_CEILING:
            found.append(
                f"{titles[label]}: these images hardly rank the rows (split-half τ {ceiling.value:.2f}); τ with it is "
                "drawn towards 0, and its interval holds less often than its level says"
            )
    return tuple(found)
