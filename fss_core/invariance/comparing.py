"""Scored columns compared: rankings of each two, calls of all, each with an interval over images and a null."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from fss_core.intervals import Values
from fss_core.invariance.agreement import (
    CALLS,
    Codes,
    call_codes,
    count_calls,
    fleiss_kappa,
    gwet_ac1,
    pair_agreement,
    share_kept,
)
from fss_core.invariance.columns import ColumnScores
from fss_core.invariance.rankings import Masked, dense_ranks, kendall_tau
from fss_core.invariance.resampling import basic_interval
from fss_core.invariance.results import (
    Across,
    CallAgreement,
    Ceiling,
    Null,
    RankAgreement,
    RowStability,
    State,
    Statistic,
)
from fss_core.numerals import number

Rows = npt.NDArray[np.bool_]

FEWEST_LAYERS, FEWEST_CELLS = 2, 5

_COLUMN_NOUNS: dict[Across, str] = {"epochs": "epoch", "datasets": "data set", "networks": "network"}
_ROUNDING = 1e-9
"""Values of a statistic nearer than this are the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """How often, and from which seed, images are drawn and layers permuted.

    Attributes:
        num_resamples: bootstrap resamples of the images.
        num_splits: random halvings of the images.
        num_permutations: of layers within kinds.
        seed: of all three.
    """

    num_resamples: int
    num_splits: int
    num_permutations: int
    seed: int


class Comparison:
    """Compares columns of scores.

    Args:
        columns: label → scores, all of the same rows.
        across: what the columns are; the same images are drawn for all epochs, and for all networks.
        tolerance: η of the calls.
        level: of intervals and null ranges.
        draws: what is drawn.
    """

    def __init__(
        self, columns: Mapping[str, ColumnScores], *, across: Across, tolerance: float, level: float, draws: Draws
    ) -> None:
        """Score the resamples of every column."""
        self._labels, self._columns = tuple(columns), tuple(columns.values())
        self._noun = _COLUMN_NOUNS[across]
        self._rows_noun, self._fewest = ("cells", FEWEST_CELLS) if across == "networks" else ("layers", FEWEST_LAYERS)
        self._tolerance, self._level, self._draws = tolerance, level, draws
        self._streams = tuple(range(len(columns))) if across == "datasets" else (0,) * len(columns)
        self._scores = np.stack([column.scores for column in self._columns])
        self._present = np.stack([column.present for column in self._columns])
        drawn = [
            column.resampled(draws.num_resamples, seed=draws.seed, stream=stream)
            for column, stream in zip(self._columns, self._streams, strict=True)
        ]
        self._resampled = np.stack([scores for scores, _ in drawn], axis=1)
        self._usable = np.stack([usable for _, usable in drawn], axis=1)

    # Rankings ---------------------------------------------------------------------------------------------

    def split_halves(self) -> tuple[Ceiling, ...]:
        """Compute each column's mean τ-b between the rankings by two random halves of its images."""
        return tuple(self._split_half(index) for index in range(len(self._columns)))

    def _split_half(self, index: int) -> Ceiling:
        column = self._columns[index]
        if missing := self._nothing_to_rank((index,), column.present):
            return Ceiling(value=None, reason=missing.reason)
        halves = column.halves(self._draws.num_splits, seed=self._draws.seed, stream=self._streams[index])
        tau = kendall_tau(np.stack([scores for scores, _ in halves], axis=1)[..., column.present])[:, 0, 1]
        usable = np.all([usable for _, usable in halves], axis=0)
        defined = np.ma.masked_where(~usable, tau).compressed()
        if not defined.size:
            return Ceiling(value=None, reason=f"no half of the images ranks the {self._rows_noun}")
        return Ceiling(value=float(defined.mean()), reason="")

    def rankings(self) -> tuple[RankAgreement, ...]:
        """Compare the rankings of each two columns, over the rows that both have."""
        pairs = list(combinations(range(len(self._columns)), 2))
        taus: dict[tuple[int, int], Statistic] = {}
        with_same_rows: dict[bytes, list[tuple[int, int]]] = {}
        for pair in pairs:
            rows = self._rows_of(pair)
            if missing := self._nothing_to_rank(pair, rows):
                taus[pair] = missing
            else:
                with_same_rows.setdefault(rows.tobytes(), []).append(pair)
        for alike in with_same_rows.values():
            taus |= self._taus(alike)
        return tuple(
            RankAgreement(
                first=self._labels[pair[0]],
                second=self._labels[pair[1]],
                num_rows=int(self._rows_of(pair).sum()),
                tau=taus[pair],
            )
            for pair in pairs
        )

    def _rows_of(self, columns: Sequence[int]) -> Rows:
        return np.asarray(self._present[list(columns)].all(axis=0))

    def _nothing_to_rank(self, columns: Sequence[int], rows: Rows) -> Statistic | None:
        if missing := self._too_few(columns, rows):
            return missing
        for index in columns:
            if not dense_ranks(self._scores[index, rows]).any():
                where = f"{self._noun} {self._labels[index]}"
                return _missing("tied", f"{where}: all {rows.sum()} {self._rows_noun} have the same score")
        return None

    def _too_few(self, columns: Sequence[int], rows: Rows) -> Statistic | None:
        for index in columns:
            if not self._present[index].any():
                return _missing("not measurable", f"{self._noun} {self._labels[index]}: {self._columns[index].reason}")
        if rows.sum() < self._fewest:
            where = {1: "", 2: " in both"}.get(len(columns), " in every column")
            number = f"{self._rows_noun} with a score{where}: {rows.sum()}"
            return _missing("too few", f"{number}; at least {self._fewest} are needed")
        return None

    def _taus(self, pairs: list[tuple[int, int]]) -> dict[tuple[int, int], Statistic]:
        """Compute τ of pairs of columns that have the same rows in common, all at once."""
        columns, rows = sorted({index for pair in pairs for index in pair}), self._rows_of(pairs[0])
        tau = kendall_tau(self._scores[None, columns][..., rows])[0]
        resampled = kendall_tau(self._resampled[:, columns][..., rows])
        permuted = kendall_tau(self._permuted(columns, rows))
        found = {}
        for pair in pairs:
            first, second = (columns.index(index) for index in pair)
            unusable = ~self._usable[:, pair].all(axis=1)
            found[pair] = self._statistic(
                float(tau[first, second]),
                np.ma.masked_where(unusable, resampled[:, first, second]),
                permuted[:, first, second],
                bounds=(-1, 1),
            )
        return found

    # Calls ------------------------------------------------------------------------------------------------

    def calls(self) -> CallAgreement:
        """Compare the calls of all columns where anything is measurable, over the rows with a call in each of them."""
        columns = [index for index in range(len(self._columns)) if self._present[index].any()]
        rows = self._rows_of(columns) if columns else np.zeros(self._present.shape[1], dtype=bool)
        measures: dict[str, tuple[Callable[[Codes], Masked], tuple[float, float]]] = {
            "share": (share_kept, (0, 1)),
            "kappa": (fleiss_kappa, (-1, 1)),
            "ac1": (gwet_ac1, (-1, 1)),
        }
        missing = self._nothing_to_call(columns, rows)
        if missing is not None:
            statistics = dict.fromkeys(measures, missing)
        else:
            counts = [
                count_calls(call_codes(scores, self._tolerance))
                for scores in (
                    self._scores[None, columns][..., rows],
                    self._resampled[:, columns][..., rows],
                    self._permuted(columns, rows),
                )
            ]
            unusable = ~self._usable[:, columns].all(axis=1)
            statistics = {}
            for name, (measure, bounds) in measures.items():
                value, resampled, permuted = (measure(own) for own in counts)
                statistics[name] = (
                    _missing("not defined", f"all {rows.sum()} {self._rows_noun} have the same call everywhere")
                    if np.ma.getmaskarray(value)[0]
                    else self._statistic(
                        float(value[0]), np.ma.masked_where(unusable, resampled), permuted, bounds=bounds
                    )
                )
        return CallAgreement(
            columns=tuple(self._labels[index] for index in columns),
            num_rows=int(rows.sum()),
            rows=tuple(self._stability(row) for row in range(len(rows))),
            **statistics,
        )

    def _nothing_to_call(self, columns: Sequence[int], rows: Rows) -> Statistic | None:
        if len(self._columns) == 1:
            return _missing("not defined", f"one {self._noun}: there is nothing to compare it with")
        if len(columns) < 2:
            unmeasured = next(index for index in range(len(self._columns)) if index not in columns)
            return self._too_few([unmeasured], rows)
        return self._too_few(columns, rows)

    def _stability(self, row: int) -> RowStability:
        codes = call_codes(self._scores[self._present[:, row], row], self._tolerance)
        return RowStability(
            row=self._columns[0].entries[row].row,
            num_columns=len(codes),
            share=float(pair_agreement(count_calls(codes[:, None]))[0]) if len(codes) > 1 else None,
            call=CALLS[codes[0]] if len(set(codes.tolist())) == 1 else None,
        )

    # Both -------------------------------------------------------------------------------------------------

    def _permuted(self, columns: Sequence[int], rows: Rows) -> Values:
        return np.stack(
            [
                self._columns[index].permuted(rows, self._draws.num_permutations, seed=self._draws.seed, stream=index)
                for index in columns
            ],
            axis=1,
        )

    def _statistic(
        self, value: float, resampled: Masked, permuted: Masked, *, bounds: tuple[float, float]
    ) -> Statistic:
        interval, reason = self._interval(value, resampled, bounds)
        null = self._null(value, permuted.compressed())
        if null is None:
            reason = "; ".join(filter(None, [reason, "no null: not defined in any permutation"]))
        return Statistic(
            value=value,
            low=None if interval is None else interval[0],
            high=None if interval is None else interval[1],
            null=null,
            state="defined",
            reason=reason,
        )

    def _null(self, value: float, permuted: Values) -> Null | None:
        if not permuted.size:
            return None
        low, high = np.quantile(permuted, [(1 - self._level) / 2, (1 + self._level) / 2])
        return Null(
            mean=float(permuted.mean()),
            low=float(low),
            high=float(high),
            share_as_high=float((1 + (permuted >= value - _ROUNDING).sum()) / (1 + len(permuted))),
            num_permutations=len(permuted),
        )

    def _interval(
        self, value: float, resampled: Masked, bounds: tuple[float, float]
    ) -> tuple[tuple[float, float] | None, str]:
        """Compute the basic bootstrap interval, or say why there is none."""
        num_undefined = len(resampled) - int(resampled.count())
        if num_undefined > (1 - self._level) / 2 * len(resampled):
            return None, f"no interval: not defined in {num_undefined} of {len(resampled)} resamples"
        low, high = basic_interval(value, resampled, self._level)
        if low < high and (low >= bounds[1] or high <= bounds[0]):
            # Cut at the bounds it would be a point, and pass for certainty.
            lowest, highest = number(float(resampled.min())), number(float(resampled.max()))
            return None, (
                f"no interval: reflected at {number(value)}, what resamples give ({lowest} to {highest}) "
                f"lies beyond {bounds[1] if low >= bounds[1] else bounds[0]:g}"
            )
        return (max(low, bounds[0]), min(high, bounds[1])), ""


def _missing(state: State, reason: str) -> Statistic:
    return Statistic(value=None, low=None, high=None, null=None, state=state, reason=reason)
