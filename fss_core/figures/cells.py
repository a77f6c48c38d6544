"""What both heatmaps of scores share: cells with a colour, a call letter, hatching, and a marker to click."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from fss_core.figures.heat import ROW_HEIGHT, heat, readable, words
from fss_core.figures.style import Palette, small
from fss_core.specs import Normalise

CELL, GAP, _STROKE = 20, 7, 6
"""Width of a cell, of a gap (between groups of columns, before the whole network), and distance of a hatching stroke
from the letter: whole numbers, since those are sent in half the bytes."""

EDGE = -CELL // 2
_HATCH_OPACITY = 0.35


class Cell(Protocol):
    """What is drawn of one cell."""

    @property
    def numbers(self) -> tuple[float, float, float] | None:
        """The score and the ends of its interval; ``None`` where there is none."""

    @property
    def is_leaning(self) -> bool:
        """Whether the interval has not wholly the call of the score."""

    @property
    def text(self) -> str:
        """What it says beyond its row, its column and its numbers, in HTML."""


class Cells(Protocol):
    """What is drawn of all cells, rows × columns."""

    @property
    def cells(self) -> Sequence[Sequence[Cell]]:
        """Row by row."""

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The scores; NaN where there is none."""

    @property
    def letters(self) -> Any:
        """The calls as letters."""


def cell_traces(
    cells: Cells, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], colours: Palette, normalise: Normalise
) -> list[Any]:
    """Draw cells: colours, letters that can be read on them, hatching of those that lean.

    Args:
        cells: R × C.
        x: (C,), centres of the columns, in units of which a cell has ``CELL``.
        y: (R,), centres of the rows.
        colours: of the design.
        normalise: the unit of the scores.

    Returns:
        The traces.
    """
    return [
        _coloured(cells, x, y, colours, normalise),
        *_letters(cells, x, y, colours),
        _hatching(cells, x, y, colours),
    ]


def _coloured(
    cells: Cells, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], colours: Palette, normalise: Normalise
) -> go.Heatmap:
    """The coloured cells; where there is a gap, a column or row without values."""
    (edges_x, from_x), (edges_y, from_y) = _edges(x), _edges(y)
    z = np.full((len(from_y), len(from_x)), np.nan)
    z[np.ix_(from_y >= 0, from_x >= 0)] = cells.values
    return heat(edges_x, edges_y, z, colours, normalise, bar_offset=0)


def _edges(centres: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Turn centres of cells into edges; and say which centre lies between each two, −1 in a gap."""
    edges, between = [EDGE], []
    for index, centre in enumerate(centres.tolist()):
        if centre + EDGE > edges[-1]:
            edges.append(centre + EDGE)
            between.append(-1)
        edges.append(centre - EDGE)
        between.append(index)
    return np.array(edges), np.array(between)


def _letters(cells: Cells, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], colours: Palette) -> list[go.Scatter]:
    """The letters, one trace for each colour that can be read on the cells below."""
    inks, letters = readable(cells.values, colours), np.array(cells.letters)
    traces = []
    for ink in np.unique(inks).tolist():
        rows, columns = np.nonzero(inks == ink)
        traces.append(words(x[columns], y[rows], letters[rows, columns].tolist(), ink))
    return traces


def _hatching(cells: Cells, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], colours: Palette) -> go.Scatter:
    """A stroke on either side of the letter of a leaning cell."""
    rows, columns = np.nonzero(np.array([[cell.is_leaning for cell in row] for row in cells.cells], dtype=bool))
    return go.Scatter(
        x=small(np.concatenate([x[columns] - _STROKE, x[columns] + _STROKE])),
        y=small(np.tile(y[rows], 2)),
        mode="markers",
        marker={
            "symbol": "line-ne",
            "size": ROW_HEIGHT - 9,
            "opacity": _HATCH_OPACITY,
            "line": {"width": 1, "color": colours.ink},
        },
        unselected={"marker": {"opacity": _HATCH_OPACITY}},
        hoverinfo="skip",
    )


def click_targets(cells: Cells, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> list[go.Scatter]:
    """An invisible marker in every cell: one trace for cells with numbers, one for those without.

    Each trace has a place for every cell, left empty where the marker is in the other, so that an index means the same
    cell in both.
    """
    flat = [cell for row in cells.cells for cell in row]
    numbers = np.array([cell.numbers or (np.nan,) * 3 for cell in flat])
    have = np.isfinite(numbers[:, 0])
    traces = []
    for chosen, shown in (
        (have, "%{customdata[0]:+.3f} [%{customdata[1]:+.3f}, %{customdata[2]:+.3f}]<br>"),
        (~have, ""),
    ):
        if not chosen.any():
            continue
        traces.append(
            go.Scatter(
                x=small(np.where(chosen, np.tile(x, len(y)), np.nan)),
                y=small(np.where(chosen, np.repeat(y, len(x)), np.nan)),
                customdata=small(numbers) if shown else None,
                mode="markers",
                marker={"symbol": "square", "size": ROW_HEIGHT, "opacity": 0},
                text=[cell.text if own else "" for cell, own in zip(flat, chosen, strict=True)],
                selected={"marker": {"opacity": 0}},
                hovertemplate=f"%{{y}}<br>%{{x}}<br>{shown}%{{text}}<extra></extra>",
                name="cells",
            )
        )
    return traces
