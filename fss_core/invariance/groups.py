"""Which rows agree and which do not, by name; and where scores move most."""

from __future__ import annotations

from dataclasses import dataclass

from fss_core.invariance.results import Entry, Invariance, ScoreTable


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroups:
    """The rows of a comparison by whether their calls agree, each in its order.

    Attributes:
        decided: all columns give the same call, and all decide it.
        same: all give the same call, but not all decide it.
        open: calls differ, but no two decided ones do: more images may bring them together.
        apart: two columns decide different calls.
        alone: fewer than two columns give a call.
    """

    decided: tuple[str, ...]
    same: tuple[str, ...]
    open: tuple[str, ...]
    apart: tuple[str, ...]
    alone: tuple[str, ...]


GROUP_WORDS = {
    "decided": "the same call everywhere, and decided",
    "same": "the same call everywhere, not all decided",
    "open": "calls differ, but no two decided ones",
    "apart": "decided calls differ",
    "alone": "a call in fewer than two",
}
"""What each group is, in words."""


def group_rows(found: Invariance) -> RowGroups:
    """Sort rows by whether their calls agree."""
    groups: dict[str, list[str]] = {name: [] for name in GROUP_WORDS}
    for row, entries in entries_by_row(found.table).items():
        called = [own for own in entries if own.call is not None]
        calls = {own.call for own in called}
        decided = {own.call for own in called if own.certainty == "decided"}
        if len(called) < 2:
            group = "alone"
        elif len(calls) == 1:
            group = "decided" if all(own.certainty == "decided" for own in called) else "same"
        else:
            group = "apart" if len(decided) > 1 else "open"
        groups[group].append(row)
    return RowGroups(**{name: tuple(rows) for name, rows in groups.items()})


def entries_by_row(table: ScoreTable) -> dict[str, tuple[Entry, ...]]:
    """Put the entries of each row together, in the order of the columns."""
    width = len(table.columns)
    return {row.name: table.entries[width * index : width * (index + 1)] for index, row in enumerate(table.rows)}


def rows_that_move(table: ScoreTable, most: int = 4) -> tuple[str, ...]:
    """Name the rows whose scores lie farthest apart, in the rows' order."""

    def reach(entries: tuple[Entry, ...]) -> float:
        scores = [own.score for own in entries if own.score is not None]
        return max(scores) - min(scores) if scores else -1.0

    reaches = {name: reach(entries) for name, entries in entries_by_row(table).items()}
    chosen = sorted(reaches, key=lambda name: -reaches[name])[:most]
    return tuple(name for name in reaches if name in chosen and reaches[name] >= 0)
