"""Scores by layer, as a heatmap that can be clicked."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from fss_core.figures.heat import ROW_HEIGHT, heat, left_margin, pale_ground, readable, row_names, words
from fss_core.figures.style import Palette, empty_figure, palette, plain, small
from fss_core.scores import KINDS, MEAN_FILTER, Kind
from fss_core.specs import GLOBAL_LAYER
from fss_core.summaries import ScoreCell, ScoreGrid, filter_title

MOST_CELLS = 1000
"""A chart that can be clicked stays quick up to here."""

CLICK_CONFIG: dict[str, Any] = {"displayModeBar": False, "doubleClick": False, "doubleClickDelay": 1}
"""For ``st.plotly_chart(config=…)`` of the score heatmap: other settings lose clicks. It has no button to save it."""

_HEADINGS = {"high_pass": "High", "low_pass": "Low", "pulse": "Pulse", "mean": "Mean", "random": "Rand."}
_CELL, _GAP, _STROKE = 20, 7, 6
"""Width of a cell, of a gap (between kinds of score, before the whole network), and distance of a hatching stroke from
the letter: whole numbers, since those are sent in half the bytes."""

_HATCH_OPACITY = 0.35
_EDGE = -_CELL // 2

_TOP, _BOTTOM = 44, 74


def score_heatmap(grid: ScoreGrid, *, dark: bool = False, selected: tuple[str, Kind, str] | None = None) -> go.Figure:
    """Draw scores by layer: colour, call letters, hatching for leaning calls, and a marker to click in every cell.

    What all cells of a row or a column have in common stands on the (invisible) axes, and the hover label takes it from
    there: repeated in every cell it would be most of the figure's size.

    Args:
        grid: of at most :data:`MOST_CELLS` cells.
        dark: which design.
        selected: a cell (layer, kind, filter) to frame.

    Returns:
        The figure. Its traces named "cells" hold the markers: see :func:`cell_of_point`.

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
    x = _CELL * np.arange(num_columns) + _GAP * (np.arange(num_columns) // len(grid.filters))
    y = _CELL * np.arange(num_rows) + _GAP * np.array([num_rows > 1 and name == GLOBAL_LAYER for name in grid.layers])
    figure = empty_figure(
        dark,
        height=_TOP + _BOTTOM + round(ROW_HEIGHT * (y[-1] + _CELL) / _CELL),
        margin={"l": left_margin(grid.layers), "r": 8, "t": _TOP, "b": _BOTTOM},
    )
    figure.update_layout(hovermode="closest", hoverdistance=-1, showlegend=False)
    for update, centres, ends, texts in (
        (figure.update_xaxes, x, [_EDGE, x[-1] - _EDGE], grid.column_texts),
        (figure.update_yaxes, y, [y[-1] - _EDGE, _EDGE], grid.row_texts),
    ):
        update(range=ends, tickvals=centres, ticktext=texts, ticks="", showticklabels=False)
    columns = [_HEADINGS.get(name, plain(name)) for _, name in grid.columns]
    figure.add_traces(
        [
            _cells(grid, x, y, colours),
            *_letters(grid, x, y, colours),
            _hatching(grid, x, y, colours),
            words(np.full(num_rows, _EDGE), y, row_names(grid.layers), colours.ink, position="middle left"),
            words(x, np.full(num_columns, _EDGE), columns, colours.muted, position="top center"),
            *_click_targets(grid, x, y),
        ]
    )
    _group_headings(figure, x, len(grid.filters), y, colours)
    if selected is not None and selected[0] in grid.layers and selected[1:] in grid.columns:
        _frame(figure, x[grid.columns.index(selected[1:])], y[grid.layers.index(selected[0])], colours)
    return figure


def cell_of_point(point_index: int, grid: ScoreGrid) -> tuple[str, Kind, str]:
    """Say which cell a click on the score heatmap met.

    Args:
        point_index: as Plotly reports it, of whichever trace.
        grid: what was drawn.

    Returns:
        Layer, kind of score, filter.

    Raises:
        ValueError: there is no such cell.
    """
    row, column = divmod(point_index, len(grid.columns))
    if not 0 <= row < len(grid.layers):
        raise ValueError(f"no cell {point_index} in a grid of {len(grid.layers)} × {len(grid.columns)}")
    return grid.layers[row], *grid.columns[column]


def score_heatmap_alt(grid: ScoreGrid) -> str:
    """Say what the score heatmap shows, in words."""
    shown = MEAN_FILTER if MEAN_FILTER in grid.filters else grid.filters[0]
    parts = []
    for kind in KINDS:
        column = grid.columns.index((kind, shown))
        calls = Counter(_call(row[column]) for row in grid.cells)
        parts.append(f"{kind}: " + ", ".join(f"{number} {call}" for call, number in calls.most_common()))
    return (
        f"Heatmap of filtering scores, {len(grid.layers)} layers by {len(grid.columns)} filters and kinds. "
        f"{filter_title(shown)}, {'; '.join(parts)}."
    )


def _call(cell: ScoreCell) -> str:
    if cell.score is None:
        return "not measured"
    return cell.score.call or "not measurable"


def _cells(grid: ScoreGrid, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], colours: Palette) -> go.Heatmap:
    """The coloured cells; where there is a gap, a column or row without values."""
    (edges_x, from_x), (edges_y, from_y) = _edges(x), _edges(y)
    z = np.full((len(from_y), len(from_x)), np.nan)
    z[np.ix_(from_y >= 0, from_x >= 0)] = grid.values
    return heat(edges_x, edges_y, z, colours, grid.spec.normalise, bar_offset=0)


def _edges(centres: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Turn centres of cells into edges; and say which centre lies between each two, −1 in a gap."""
    edges, between = [_EDGE], []
    for index, centre in enumerate(centres.tolist()):
        if centre + _EDGE > edges[-1]:
            edges.append(centre + _EDGE)
            between.append(-1)
        edges.append(centre - _EDGE)
        between.append(index)
    return np.array(edges), np.array(between)


def _letters(grid: ScoreGrid, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], colours: Palette) -> list[go.Scatter]:
    """The letters, one trace for each colour that can be read on the cells below."""
    inks, letters = readable(grid.values, colours), np.array(grid.letters)
    traces = []
    for ink in np.unique(inks).tolist():
        rows, columns = np.nonzero(inks == ink)
        traces.append(words(x[columns], y[rows], letters[rows, columns].tolist(), ink))
    return traces


def _hatching(grid: ScoreGrid, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], colours: Palette) -> go.Scatter:
    """A stroke on either side of the letter of a leaning cell."""
    rows, columns = np.nonzero(np.array([[cell.is_leaning for cell in row] for row in grid.cells], dtype=bool))
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


def _click_targets(grid: ScoreGrid, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> list[go.Scatter]:
    """An invisible marker in every cell: one trace for cells with numbers, one for those without.

    Each trace has a place for every cell, left empty where the marker is in the other, so that an index means the same
    cell in both.
    """
    cells = [cell for row in grid.cells for cell in row]
    numbers = np.array([cell.numbers or (np.nan,) * 3 for cell in cells])
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
                text=[cell.text if own else "" for cell, own in zip(cells, chosen, strict=True)],
                selected={"marker": {"opacity": 0}},
                hovertemplate=f"%{{y}}<br>%{{x}}<br>{shown}%{{text}}<extra></extra>",
                name="cells",
            )
        )
    return traces


def _group_headings(
    figure: go.Figure, x: npt.NDArray[np.int64], width: int, y: npt.NDArray[np.int64], colours: Palette
) -> None:
    """Name the kinds of score, and lay a pale ground under their cells, which shows where nothing is known."""
    rows = np.split(y, np.flatnonzero(np.diff(y) > _CELL) + 1)
    for index, kind in enumerate(KINDS):
        left, right = int(x[index * width]) + _EDGE, int(x[(index + 1) * width - 1]) - _EDGE
        figure.add_annotation(
            text=f"<b>{kind.capitalize()}</b>",
            x=(left + right) / 2,
            y=1,
            yref="paper",
            yshift=20,
            yanchor="bottom",
            showarrow=False,
            font={"size": 12, "color": colours.ink},
        )
        for group in rows:
            pale_ground(figure, colours, (left, right), (int(group[0]) + _EDGE, int(group[-1]) - _EDGE))


def _frame(figure: go.Figure, x: int, y: int, colours: Palette) -> None:
    place = {"x0": x + _EDGE, "x1": x - _EDGE, "y0": y + _EDGE, "y1": y - _EDGE}
    figure.add_shape(type="rect", line={"color": colours.ink, "width": 2}, **place)
