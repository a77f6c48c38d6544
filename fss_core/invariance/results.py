"""What stays the same across epochs, data sets or networks: results, which say why a number is missing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from fss_core.scores import Call, Certainty, Kind
from fss_core.specs import ScoreSpec

if TYPE_CHECKING:
    import pandas as pd

Across = Literal["epochs", "datasets", "networks"]
State = Literal["defined", "too few", "tied", "not measurable", "not defined"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is compared: a layer, or, across networks, the layers of one kind in one fifth of the depth.

    Attributes:
        name: dotted module name, or the kind and the range of depths, as in ``"3x3 · 0.2–0.4"``.
        layer_kind: as in ``models.Layer``.
        relative_depth: 0 at the input, 1 at the output; the middle of the fifth.
    """

    name: str
    layer_kind: str
    relative_depth: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What rank agreement one column can show at best: the split-half τ.

    Attributes:
        value: mean τ-b between the rankings by two random halves of the images; ``None`` where there is none. Each half
            has half the images, and not the same ones, so agreement of columns measured on all images may exceed it.
        reason: why there is none; empty otherwise.
    """

    value: float | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """An epoch, a data set or a network.

    Attributes:
        label: as given.
        num_images: measured.
        epsilon: of the attack, in pixels on [0, 1]; ``None`` when the caller brought the adversarial images.
        ceiling: its split-half τ.
    """

    label: str
    num_images: int
    epsilon: float | None
    ceiling: Ceiling


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The score of one row in one column.

    Attributes:
        row: its name.
        column: its label.
        score: of the layer, or the mean of the cell's layers; ``None`` if not measurable.
        low: lower end of its interval over images.
        high: upper end.
        call: by the point estimate.
        certainty: decided, leaning, or not measurable.
        reason: why it is not measurable; empty otherwise.
        num_layers: the layers it is a mean of.
    """

    row: str
    column: str
    score: float | None
    low: float | None
    high: float | None
    call: Call | None
    certainty: Certainty
    reason: str
    num_layers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTable:
    """One score, rows × columns.

    Attributes:
        rows: layers in network order, or cells from input to output.
        columns: in the order given.
        entries: row by row, each with all columns.
    """

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    entries: tuple[Entry, ...]

    def to_dataframe(self) -> pd.DataFrame:
        """Tabulate the entries, one line each, with the fields of :class:`Entry` as columns; missing is ``<NA>``."""
        import pandas as pd

        frame = pd.DataFrame([asdict(entry) for entry in self.entries], columns=list(Entry.__dataclass_fields__))
        return frame.astype({**dict.fromkeys(("score", "low", "high"), "Float64"), "call": "string"})

    def grid(self, field: str) -> pd.DataFrame:
        """Lay out one field of :class:`Entry`, rows × columns, in their order."""
        frame = self.to_dataframe().pivot(index="row", columns="column", values=field)
        return frame.loc[[row.name for row in self.rows], [column.label for column in self.columns]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Null:
    """What a statistic is when layers are permuted within their kind, in each column by itself.

    Attributes:
        mean: over the permutations.
        low: lower end of the central range that holds ``level`` of them.
        high: upper end.
        share_as_high: of the permutations (the data as they are counted among them), those with at least the value
            that was found: a one-sided p-value. Where each kind has one layer it is 1: nothing can be permuted.
        num_permutations: with a defined value.
    """

    mean: float
    low: float
    high: float
    share_as_high: float
    num_permutations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """A measure of agreement, with an interval over images and the null to compare it with.

    Attributes:
        value: the estimate; ``None`` unless ``state`` is ``"defined"``.
        low: lower end of its basic bootstrap interval, which need not lie around the estimate, and holds the true value
            less often than its level says (see ``LOW_CEILING``); ``None`` without one.
        high: upper end.
        null: ``None`` without a value, or where no permutation has one.
        state: whether there is a value.
        reason: why there is no value, interval or null; empty if all are there.
    """

    value: float | None
    low: float | None
    high: float | None
    null: Null | None
    state: State
    reason: str

    def flat(self, name: str) -> dict[str, Any]:
        """Name its parts as columns of a table, the value after the statistic itself."""
        null = None if self.null is None else asdict(self.null)
        return {
            name: self.value,
            "low": self.low,
            "high": self.high,
            "null_mean": null and null["mean"],
            "null_low": null and null["low"],
            "null_high": null and null["high"],
            "null_share_as_high": null and null["share_as_high"],
            "state": self.state,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RankAgreement:
    """Whether two columns rank the rows alike.

    Attributes:
        first: label of a column.
        second: label of a later one.
        num_rows: rows with a score in both.
        tau: Kendall's τ-b over them.
    """

    first: str
    second: str
    num_rows: int
    tau: Statistic


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStability:
    """Whether the call of one row stays.

    Attributes:
        row: its name.
        num_columns: in which it has a call.
        share: of pairs of these columns, those that give it the same call; ``None`` with fewer than two.
        call: the call that all of them give; ``None`` if they differ, or there is none.
    """

    row: str
    num_columns: int
    share: float | None
    call: Call | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallAgreement:
    """Whether all columns call the rows alike.

    Attributes:
        columns: labels of those that are compared; one where nothing is measurable is not.
        num_rows: rows with a call in each of them.
        share: of these rows, those with the same call in all columns.
        kappa: Fleiss' κ; not defined when all calls are equal.
        ac1: Gwet's AC1, for when most rows share a call and κ collapses.
        rows: of each row by itself, in order.
    """

    columns: tuple[str, ...]
    num_rows: int
    share: Statistic
    kappa: Statistic
    ac1: Statistic
    rows: tuple[RowStability, ...]

    def to_dataframe(self) -> pd.DataFrame:
        """Tabulate the rows, one line each; missing is ``<NA>``."""
        import pandas as pd

        frame = pd.DataFrame([asdict(row) for row in self.rows], columns=list(RowStability.__dataclass_fields__))
        return frame.astype({"share": "Float64", "call": "string"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariance:
    """What stays the same across epochs, data sets or networks.

    Attributes:
        across: which of the three.
        spec: how scores are computed and called, and the level of all intervals.
        filter: a filter, or ``"mean"``.
        kind: clean, adversarial or difference.
        table: the scores.
        rankings: of each two columns.
        calls: of all columns.
        num_resamples: bootstrap resamples of the images.
        num_splits: random halvings of the images.
        num_permutations: of layers within kinds.
        seed: of all three.
        cautions: what a reader must know first.
    """

    across: Across
    spec: ScoreSpec
    filter: str
    kind: Kind
    table: ScoreTable
    rankings: tuple[RankAgreement, ...]
    calls: CallAgreement
    num_resamples: int
    num_splits: int
    num_permutations: int
    seed: int
    cautions: tuple[str, ...]

    def to_dataframe(self) -> pd.DataFrame:
        """Tabulate τ, one line for each two columns, with interval, null, state and reason; missing is ``<NA>``."""
        import pandas as pd

        lines = [
            {"first": pair.first, "second": pair.second, "num_rows": pair.num_rows, **pair.tau.flat("tau")}
            for pair in self.rankings
        ]
        numbers = ("tau", "low", "high", "null_mean", "null_low", "null_high", "null_share_as_high")
        names = ["first", "second", "num_rows", *numbers, "state", "reason"]
        return pd.DataFrame(lines, columns=names).astype(dict.fromkeys(numbers, "Float64"))

    def tau_grid(self) -> pd.DataFrame:
        """Lay out τ, columns × columns, with each column's split-half ceiling on the diagonal; missing is ``<NA>``."""
        import pandas as pd

        labels = [column.label for column in self.table.columns]
        grid = pd.DataFrame(index=labels, columns=labels, dtype="Float64")
        for column in self.table.columns:
            grid.loc[column.label, column.label] = column.ceiling.value
        for pair in self.rankings:
            grid.loc[pair.first, pair.second] = grid.loc[pair.second, pair.first] = pair.tau.value
        return grid
