"""What both heatmaps of scores share: cells with a colour, hatching, and a call letter to click."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fss_core.figures.drawing import Drawing, Trace
from fss_core.figures.heat import heat, readable
from fss_core.figures.style import Palette, small
from fss_core.specs import Normalise

CELL, GAP = 20, 7
"""Width of a cell, and of a gap (between groups of columns, before the whole network): whole numbers, since those are
sent in half the bytes."""

EDGE = -CELL // 2
_STROKES = ((-9, 5, -3, -5), (3, 5, 9, -5))
"""Hatching, from a cell's centre: where a stroke on either side of the letter begins and ends, x and y."""


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


def draw_cells(
    drawing: Drawing,
    cells: Cells,
    x: npt.NDArray[np.int64],
    y: npt.NDArray[np.int64],
    colours: Palette,
    normalise: Normalise,
) -> None:
    """Draw cells: colours, hatching of those that lean, letters that can be read on them, hovered over and clicked.

    The letter is the one thing that is drawn of every cell by itself, since that takes a browser most of its time: all
    hatching is one line, and what a click meets is the letter.

    Args:
        drawing: where to.
        cells: R × C.
        x: (C,), centres of the columns, in units of which a cell has ``CELL``.
        y: (R,), centres of the rows.
        colours: of the design.
        normalise: the unit of the scores.
    """
    drawing.add_traces(_coloured(cells, x, y, colours, normalise), *_letters(cells, x, y, colours))
    leaning = np.argwhere(np.array([[cell.is_leaning for cell in row] for row in cells.cells], dtype=bool))
    if len(leaning):
        places = [(x[column], y[row], stroke) for row, column in leaning for stroke in _STROKES]
        path = "".join(f"M{a + own[0]},{b + own[1]}L{a + own[2]},{b + own[3]}" for a, b, own in places)
        drawing.add_shape(type="path", path=path, opacity=0.35, line={"width": 1, "color": colours.ink})


def cell_at(place: tuple[float, float], x: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Say which cell a click met.

    Args:
        place: x and y of the point that was clicked.
        x: (C,), centres of the columns.
        y: (R,), centres of the rows.

    Returns:
        Row and column.

    Raises:
        ValueError: there is no cell.
    """
    found = np.flatnonzero(y == place[1]), np.flatnonzero(x == place[0])
    if not (found[0].size and found[1].size):
        raise ValueError(f"no cell at {place} in a grid of {len(y)} × {len(x)}")
    return int(found[0][0]), int(found[1][0])


def _coloured(
    cells: Cells, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], colours: Palette, normalise: Normalise
) -> Trace:
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


def _letters(cells: Cells, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], colours: Palette) -> list[Trace]:
    """The letters: one trace for each colour that can be read on the cells below, one for cells without numbers."""
    inks, letters = readable(cells.values, colours), np.array(cells.letters)
    have = np.isfinite(cells.values)
    traces = []
    for ink, scored in sorted({*zip(inks.ravel().tolist(), have.ravel().tolist(), strict=True)}):
        rows, columns = np.nonzero((inks == ink) & (have == scored))
        own = [cells.cells[row][column] for row, column in zip(rows.tolist(), columns.tolist(), strict=True)]
        numbers = "%{customdata[0]:+.3f} [%{customdata[1]:+.3f}, %{customdata[2]:+.3f}]<br>" if scored else ""
        traces.append(
            {
                "type": "scatter",
                "x": small(x[columns]),
                "y": small(y[rows]),
                "mode": "text",
                "text": letters[rows, columns].tolist(),
                "textposition": "middle center",
                "textfont": {"size": 11, "color": ink},
                "unselected": {"textfont": {"color": ink}},  # a click elsewhere would fade the letters
                "customdata": small(np.array([cell.numbers for cell in own])) if scored else None,
                "hovertext": [cell.text for cell in own],
                "hovertemplate": f"%{{y}}<br>%{{x}}<br>{numbers}%{{hovertext}}<extra></extra>",
                "name": "cells",
            }
        )
    return traces
