"""Scores by layer, as a heatmap that can be clicked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from fss_core.figures.cells import CELL, EDGE, GAP, cell_at, draw_cells
from fss_core.figures.drawing import Drawing, Trace
from fss_core.figures.heat import ROW_HEIGHT, left_margin, pale_ground, row_names, words
from fss_core.figures.style import Palette, palette, plain
from fss_core.scores import KINDS, MEAN_FILTER, Kind
from fss_core.specs import GLOBAL_LAYER
from fss_core.summaries import ScoreCell, ScoreGrid, filter_title

MOST_CELLS = 1000
"""A chart that can be clicked stays quick up to here."""

CLICK_CONFIG: dict[str, Any] = {"displayModeBar": False, "doubleClick": False, "doubleClickDelay": 1}
"""For ``st.plotly_chart(config=…)`` of the score heatmap: other settings lose clicks. It has no button to save it."""

_HEADINGS = {
    "high_pass": "H high-pass",
    "low_pass": "L low-pass",
    "pulse": "P pulse",
    "mean": "M mean of the three",
    "random": "C random control",
}
"""A letter, for which a column has room, and what it means."""
_TOP, _BOTTOM = 44, 74


def score_heatmap(grid: ScoreGrid, *, dark: bool = False, selected: tuple[str, Kind, str] | None = None) -> go.Figure:
    """Draw scores by layer: colour, hatching for leaning calls, and a call letter to click in every cell.

    What all cells of a row or a column have in common stands on the (invisible) axes, and the hover label takes it from
    there: repeated in every cell it would be most of the figure's size.

    Args:
        grid: of at most :data:`MOST_CELLS` cells.
        dark: which design.
        selected: a cell (layer, kind, filter) to frame.

    Returns:
        The figure. Its traces named "cells" hold the letters: see :func:`cell_of_point`.

    Raises:
        ValueError: too many cells.
    """
    num_rows, num_columns = len(grid.layers), len(grid.columns)
    if num_rows * num_columns > MOST_CELLS:
        raise ValueError(
            f"a heatmap must have at most {MOST_CELLS} cells, got {num_rows} × {num_columns}; "
            "give score_grid fewer layers at a time"
        )
    colours = palette(dark)
    x, y = _centres(grid)
    drawing = Drawing(
        dark,
        height=_TOP + _BOTTOM + round(ROW_HEIGHT * (y[-1] + CELL) / CELL),
        margin={"l": left_margin(grid.layers), "r": 8, "t": _TOP, "b": _BOTTOM},
    )
    drawing.update_layout(hovermode="closest", hoverdistance=-1, showlegend=False)
    hidden: dict[str, Any] = {"ticks": "", "showticklabels": False}
    drawing.update_axis("x", range=[EDGE, x[-1] - EDGE], tickvals=x, ticktext=grid.column_texts, **hidden)
    drawing.update_axis("y", range=[y[-1] - EDGE, EDGE], tickvals=y, ticktext=grid.row_texts, **hidden)
    columns = [_HEADINGS[name][0] if name in _HEADINGS else plain(name) for _, name in grid.columns]
    draw_cells(drawing, grid, x, y, colours, grid.spec.normalise)
    drawing.add_traces(
        *_row_names(grid, y, colours),
        words(x, np.full(num_columns, EDGE), columns, colours.muted, position="top center", size=10),
    )
    _group_headings(drawing, x, len(grid.filters), y, colours)
    if selected is not None and selected[0] in grid.layers and selected[1:] in grid.columns:
        _frame(drawing, x[grid.columns.index(selected[1:])], y[grid.layers.index(selected[0])], colours)
    return drawing.finished()


def _row_names(grid: ScoreGrid, y: npt.NDArray[np.int64], colours: Palette) -> list[Trace]:
    """Write the rows' names; those of a first look are pale, and in italics."""
    names = row_names(grid.layers)
    traces = []
    for looked_at, form, colour in ((False, "{}", colours.ink), (True, "<i>{}</i>", colours.muted)):
        rows = [row for row, name in enumerate(grid.layers) if (name in grid.previewed) == looked_at]
        if rows:
            texts = [form.format(names[row]) for row in rows]
            traces.append(words(np.full(len(rows), EDGE), y[rows], texts, colour, position="middle left"))
    return traces


def _centres(grid: ScoreGrid) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Place the cells: kinds of score apart, and the whole network."""
    columns, rows = np.arange(len(grid.columns)), np.arange(len(grid.layers))
    apart = np.array([len(rows) > 1 and name == GLOBAL_LAYER for name in grid.layers])
    return CELL * columns + GAP * (columns // len(grid.filters)), CELL * rows + GAP * apart


def cell_of_point(place: tuple[float, float], grid: ScoreGrid) -> tuple[str, Kind, str]:
    """Say which cell a click on the score heatmap met.

    Args:
        place: x and y of the point, as Plotly reports them.
        grid: what was drawn.

    Returns:
        Layer, kind of score, filter.

    Raises:
        ValueError: there is no such cell.
    """
    row, column = cell_at(place, *_centres(grid))
    return grid.layers[row], *grid.columns[column]


def headings_legend(filters: Sequence[str]) -> str:
    """Say what the letters above columns mean.

    >>> headings_legend(["high_pass", "mean"])
    'Columns: H high-pass, M mean of the three.'
    """
    return f"Columns: {', '.join(_HEADINGS[name] for name in filters if name in _HEADINGS)}."


def score_heatmap_alt(grid: ScoreGrid) -> str:
    """Say what the score heatmap shows, in words."""
    shown = MEAN_FILTER if MEAN_FILTER in grid.filters else grid.filters[0]
    parts = []
    for kind in KINDS:
        column = grid.columns.index((kind, shown))
        calls = Counter(_call(row[column]) for row in grid.cells)
        parts.append(f"{kind}: " + ", ".join(f"{number} {call}" for call, number in calls.most_common()))
    looked_at = f" Only a first look so far: {len(grid.previewed)} of the layers." if grid.previewed else ""
    return (
        f"Heatmap of filtering scores, {len(grid.layers)} layers by {len(grid.columns)} filters and kinds. "
        f"{filter_title(shown)}, {'; '.join(parts)}.{looked_at}"
    )


def _call(cell: ScoreCell) -> str:
    if cell.score is None:
        return "not measured"
    return cell.score.call or "not measurable"


def _group_headings(
    drawing: Drawing, x: npt.NDArray[np.int64], width: int, y: npt.NDArray[np.int64], colours: Palette
) -> None:
    """Name the kinds of score, and lay a pale ground under their cells, which shows where nothing is known."""
    rows = np.split(y, np.flatnonzero(np.diff(y) > CELL) + 1)
    for index, kind in enumerate(KINDS):
        left, right = int(x[index * width]) + EDGE, int(x[(index + 1) * width - 1]) - EDGE
        drawing.add_annotation(
            text=f"<b>{kind.capitalize()}</b>",
            x=(left + right) / 2,
            y=1,
            yref="paper",
            yshift=20,
            yanchor="bottom",
            font={"size": 12, "color": colours.ink},
        )
        for group in rows:
            pale_ground(drawing, colours, (left, right), (int(group[0]) + EDGE, int(group[-1]) - EDGE))


def _frame(drawing: Drawing, x: int, y: int, colours: Palette) -> None:
    place = {"x0": x + EDGE, "x1": x - EDGE, "y0": y + EDGE, "y1": y - EDGE}
    drawing.add_shape(type="rect", line={"color": colours.ink, "width": 2}, **place)
