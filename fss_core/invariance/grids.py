"""A comparison as a grid of cells: the numbers, letters and words behind its heatmap."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fss_core.invariance.groups import entries_by_row
from fss_core.invariance.lookup import Candidate
from fss_core.invariance.reports import letter
from fss_core.invariance.results import Entry, Invariance, RowStability, ScoreTable
from fss_core.numerals import signed_interval
from fss_core.specs import Normalise
from fss_core.summaries import filter_title


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementCell:
    """One cell.

    Attributes:
        numbers: the score and the ends of its interval; ``None`` where there is none.
        letter: the call; ``"…"`` where nothing is measured.
        is_leaning: whether the interval has not wholly the call of the score.
        text: what it says beyond its row, its column and its numbers, in HTML.
    """

    numbers: tuple[float, float, float] | None
    letter: str
    is_leaning: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GridColumn:
    """One column.

    Attributes:
        label: of the epoch, data set or network.
        filter: whose scores it has.
        heading: above it, as plain text.
        text: what all its cells have in common, in HTML.
        is_there: whether it is measured.
    """

    label: str
    filter: str
    heading: str
    text: str
    is_there: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AgreementGrid:
    """Scores of the same rows in several columns, in groups.

    Attributes:
        normalise: the unit of the scores.
        rows: names, in order.
        row_texts: what all cells of a row have in common, in HTML.
        groups: headings of the groups, each with the number of its columns.
        columns: in order.
        cells: R × C.
        marks: beside each row, whether its call stays; empty for none.
    """

    normalise: Normalise
    rows: tuple[str, ...]
    row_texts: tuple[str, ...]
    groups: tuple[tuple[str, int], ...]
    columns: tuple[GridColumn, ...]
    cells: tuple[tuple[AgreementCell, ...], ...]
    marks: tuple[str, ...]

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The scores, (R, C); NaN where there is none."""
        found = [np.nan if cell.numbers is None else cell.numbers[0] for row in self.cells for cell in row]
        return np.array(found, dtype=np.float64).reshape(len(self.rows), len(self.columns))

    @property
    def letters(self) -> list[list[str]]:
        """What is written in the cells, R × C."""
        return [[cell.letter for cell in row] for row in self.cells]


def epochs_grid(found: Invariance, candidates: Sequence[Candidate]) -> AgreementGrid:
    """Arrange one score by layer and epoch; epochs that are missing have a column, too.

    Args:
        found: of the epochs that are there.
        candidates: all epochs, in order.
    """
    return _grid(
        {found.filter: found.table},
        candidates,
        found,
        groups=((f"{found.kind.capitalize()}, {filter_title(found.filter).lower()}, by epoch", len(candidates)),),
    )


def comparison_grid(
    tables: Mapping[str, ScoreTable], candidates: Sequence[Candidate], found: Invariance
) -> AgreementGrid:
    """Arrange the scores of several filters side by side: a group of columns for each data set or network.

    Args:
        tables: filter → scores of the columns that are there; all of the same rows.
        candidates: those that are there, in order.
        found: of one of the filters; its calls say what stays.
    """
    return _grid(tables, candidates, found, groups=tuple((own.short_title, len(tables)) for own in candidates))


_HEADINGS = {"high_pass": "High", "low_pass": "Low", "pulse": "Pulse", "mean": "Mean"}


def _grid(
    tables: Mapping[str, ScoreTable],
    candidates: Sequence[Candidate],
    found: Invariance,
    *,
    groups: tuple[tuple[str, int], ...],
) -> AgreementGrid:
    rows = found.table.rows
    by_cell = {(own.row, own.column, name): own for name, table in tables.items() for own in table.entries}
    columns = []
    for own in candidates:
        for name in tables:
            epoch = own.label if found.across == "epochs" and len(tables) == 1 else _HEADINGS.get(name, name)
            columns.append(
                GridColumn(
                    label=own.label,
                    filter=name,
                    heading=epoch,
                    text=_column_text(own, name, found),
                    is_there=own.measured is not None,
                )
            )
    return AgreementGrid(
        normalise=found.spec.normalise,
        rows=tuple(row.name for row in rows),
        row_texts=tuple(f"<b>{html.escape(row.name, quote=False)}</b>, {_kind(row.layer_kind)}" for row in rows),
        groups=groups,
        columns=tuple(columns),
        cells=tuple(
            tuple(_cell(by_cell.get((row.name, own.label, own.filter)), found.across == "networks") for own in columns)
            for row in rows
        ),
        marks=tuple(map(_mark, found.calls.rows)),
    )


def _kind(kind: str) -> str:
    return html.escape(kind, quote=False).replace("x", "×") if kind[:1].isdigit() else html.escape(kind, quote=False)


def _column_text(own: Candidate, name: str, found: Invariance) -> str:
    words = f"{html.escape(own.title, quote=False)}, {filter_title(name).lower()}, {found.kind} score"
    if own.measured is None:
        return words
    attack = own.measured.responses.attack
    epsilon = "" if attack is None else f", ε = {attack.epsilon * 255:.3g}/255"
    level = f"{found.spec.level * 100:g} % interval"
    return f"{words}<br>{level}, n = {own.measured.responses.num_images}{epsilon}"


def _cell(entry: Entry | None, is_cell: bool) -> AgreementCell:
    if entry is None:
        return AgreementCell(numbers=None, letter="…", is_leaning=False, text="not measured")
    if entry.score is None or entry.low is None or entry.high is None:
        absent = entry.reason in ("not measured", "no such layer")
        letters = "" if absent else "·"
        return AgreementCell(
            numbers=None, letter=letters, is_leaning=False, text=html.escape(entry.reason, quote=False)
        )
    words = f"{entry.call}, {entry.certainty}"
    if is_cell:
        words += f"; mean of {entry.num_layers} layer{'s' if entry.num_layers > 1 else ''}"
    return AgreementCell(
        numbers=(entry.score, entry.low, entry.high),
        letter=letter(entry),
        is_leaning=entry.certainty == "leaning",
        text=words,
    )


def _mark(row: RowStability) -> str:
    if row.share is None:
        return ""
    return "●" if row.call is not None else f"{row.share:.0%}"


def cell_words(grid: AgreementGrid, row: int, column: int) -> str:
    """Say everything about a cell, in HTML."""
    cell = grid.cells[row][column]
    lines = [grid.row_texts[row], grid.columns[column].text]
    if cell.numbers is not None:
        lines.append(signed_interval(*cell.numbers))
    return "<br>".join([*lines, cell.text])


def stability_words(found: Invariance) -> str:
    """Say in how many rows the call stays; counts are of the rows with a call in at least two columns."""
    able = [own for own in entries_by_row(found.table).values() if sum(entry.call is not None for entry in own) > 1]
    kept = sum(own.call is not None and own.share is not None for own in found.calls.rows)
    return f"the call is the same in all columns in {kept} of {len(able)}"
