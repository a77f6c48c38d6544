"""What stays the same: scores by epoch, data set or network as a heatmap, and how alike their rankings are."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from fss_core.figures.cells import CELL, EDGE, GAP, cell_at, draw_cells
from fss_core.figures.drawing import Drawing
from fss_core.figures.grids import MOST_CELLS
from fss_core.figures.heat import ROW_HEIGHT, left_margin, pale_ground, readable_on, row_names, words
from fss_core.figures.style import palette, plain, shorten, small
from fss_core.invariance.grids import AgreementGrid
from fss_core.invariance.results import Invariance, Statistic
from fss_core.numerals import number, with_interval

_TOP, _BOTTOM, _MARK = 48, 74, 26
_FEWEST = 6
"""Columns that there is room for at least, so that few do not become wide."""

_CROWDED = 12
"""From so many columns on, their headings are single letters, and those of groups stand in several lines."""

_LINE, _LINE_HEIGHT = 11, 15
"""Characters in a line of a group's heading where it is crowded, and pixels."""

_LONGEST_LEVEL = 10
"""Characters of a name that stands level below the matrix; longer ones slant."""

_WITH_INTERVALS = 7
"""So many columns of the matrix have room for intervals."""

_WITH_INTERVALS_IN_A_LINE = 3
"""So many have room for an interval that is not broken."""


def agreement_heatmap(grid: AgreementGrid, *, dark: bool = False) -> go.Figure:
    """Draw scores by row and column in groups, one colour scale for all: colours, call letters, markers to click.

    Args:
        grid: of at most :data:`~fss_core.figures.MOST_CELLS` cells.
        dark: which design.

    Returns:
        The figure. Beside each row: ● where the call is the same in all columns, else the share of pairs of columns
        that agree.

    Raises:
        ValueError: too many cells.
    """
    num_rows, num_columns = len(grid.rows), len(grid.columns)
    if num_rows * num_columns > MOST_CELLS:
        raise ValueError(
            f"a heatmap must have at most {MOST_CELLS} cells, got {num_rows} × {num_columns}; choose fewer columns"
        )
    colours = palette(dark)
    x, y = _centres(grid)
    titles = _group_titles(grid)
    top = _TOP + _LINE_HEIGHT * max(title.count("<br>") for title in titles)
    right = max(int(x[-1]) - EDGE, _FEWEST * CELL)
    drawing = Drawing(
        dark,
        height=top + _BOTTOM + ROW_HEIGHT * max(num_rows, 2),
        margin={"l": left_margin(grid.rows), "r": 8, "t": top, "b": _BOTTOM},
    )
    drawing.update_layout(hovermode="closest", hoverdistance=-1, showlegend=False)
    drawing.update_axis(
        "x",
        range=[EDGE, right + (_MARK if any(grid.marks) else 0)],
        tickvals=x,
        ticktext=[own.text for own in grid.columns],
        ticks="",
        showticklabels=False,
    )
    drawing.update_axis(
        "y", range=[y[-1] - EDGE, EDGE], tickvals=y, ticktext=grid.row_texts, ticks="", showticklabels=False
    )
    there = np.array([own.is_there for own in grid.columns])
    headings = np.array([plain(text) for text in column_headings(grid)])
    draw_cells(drawing, grid, x, y, colours, grid.normalise)
    drawing.add_traces(
        words(np.full(num_rows, EDGE), y, row_names(grid.rows), colours.ink, position="middle left"),
        *(
            words(x[own], np.full(int(own.sum()), EDGE), headings[own].tolist(), ink, position="top center")
            for own, ink in ((there, colours.ink), (~there, colours.muted))
            if own.any()
        ),
    )
    if any(grid.marks):
        place = np.full(num_rows, x[-1] - EDGE + 4)
        drawing.add_traces(words(place, y, list(grid.marks), colours.muted, position="middle right"))
        drawing.add_traces(words(place[:1], np.array([EDGE]), ["stays"], colours.muted, position="top right"))
    start = 0
    for title, (_, width) in zip(titles, grid.groups, strict=True):
        own = x[start : start + width]
        left, end = int(own[0]) + EDGE, int(own[-1]) - EDGE
        drawing.add_annotation(
            text=f"<b>{title}</b>",
            align="left",
            x=left,
            xanchor="left",
            y=1,
            yref="paper",
            yshift=20,
            yanchor="bottom",
            font={"size": 12, "color": colours.ink},
        )
        pale_ground(drawing, colours, (left, end), (EDGE, int(y[-1]) - EDGE))
        start += width
    return drawing.finished()


def column_headings(grid: AgreementGrid) -> list[str]:
    """List what stands above the columns: filters in full where there is room, else by their first letter."""
    is_crowded = len(grid.groups) > 1 and len(grid.columns) >= _CROWDED
    return [own.heading[0] if is_crowded else shorten(own.heading, 10) for own in grid.columns]


def _group_titles(grid: AgreementGrid) -> list[str]:
    if len(grid.groups) == 1:
        return [plain(shorten(grid.groups[0][0], 70))]
    if len(grid.columns) < _CROWDED:
        return [plain(shorten(title, 24)) for title, _ in grid.groups]
    return ["<br>".join(plain(line) for line in _lines(shorten(title, 40))) for title, _ in grid.groups]


def _lines(title: str) -> list[str]:
    """Break a title at spaces, and behind hyphens.

    >>> _lines("SqueezeNet-v1.1")
    ['SqueezeNet-', 'v1.1']
    """
    return [line.replace("- ", "-") for line in textwrap.wrap(title.replace("-", "- "), _LINE, break_long_words=False)]


def _centres(grid: AgreementGrid) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Place the cells: groups of columns apart."""
    group_of = np.repeat(np.arange(len(grid.groups)), [width for _, width in grid.groups])
    return CELL * np.arange(len(grid.columns)) + GAP * group_of, CELL * np.arange(len(grid.rows))


def place_of_point(place: tuple[float, float], grid: AgreementGrid) -> tuple[int, int]:
    """Say which row and column a click on the heatmap met.

    Args:
        place: x and y of the point, as Plotly reports them.
        grid: what was drawn.

    Raises:
        ValueError: there is no such cell.
    """
    return cell_at(place, *_centres(grid))


def agreement_heatmap_alt(grid: AgreementGrid) -> str:
    """Say what the heatmap shows, in words."""
    names = {"F": "fragile", "R": "robust", "A": "antifragile", "·": "not measurable", "…": "not measured"}
    parts = []
    for index, column in enumerate(grid.columns):
        found = [row[index].letter.upper() for row in grid.cells]
        counts = ", ".join(f"{found.count(mark)} {name}" for mark, name in names.items() if mark in found)
        heading = column.heading if column.heading == column.label else f"{column.label}, {column.filter}"
        parts.append(f"{heading}: {counts}")
    kept = grid.marks.count("●")
    return f"Heatmap of scores, {len(grid.rows)} rows by {len(grid.columns)} columns; the call stays in {kept}. " + (
        f"{'; '.join(parts)}."
    )


def tau_matrix(found: Invariance, titles: dict[str, str], *, dark: bool = False) -> go.Figure:
    """Draw Kendall's τ between the rankings of each two columns, and on the diagonal each one's split-half ceiling.

    Args:
        found: of at least one column.
        titles: label → what to call a column.
        dark: which design.

    Returns:
        The figure; intervals stand in the cells where there is room for them, and on hover anyway.
    """
    colours = palette(dark)
    labels = [own.label for own in found.table.columns]
    size = len(labels)
    place = {label: index for index, label in enumerate(labels)}
    z = np.full((size, size), np.nan)
    texts = [["–"] * size for _ in labels]
    hover = [[""] * size for _ in labels]
    for index, column in enumerate(found.table.columns):
        ceiling = column.ceiling
        name = plain(titles[column.label])
        if ceiling.value is None:
            hover[index][index] = f"{name}: no split-half τ: {plain(ceiling.reason)}"
        else:
            z[index, index] = ceiling.value
            texts[index][index] = f"<i>{number(ceiling.value)}</i>"
            hover[index][index] = (
                f"{name}: split-half τ {number(ceiling.value)}, n = {column.num_images}<br>two halves of the images "
                "rank the rows so alike"
            )
    for pair in found.rankings:
        i, j = place[pair.first], place[pair.second]
        about = f"{plain(titles[pair.first])} and {plain(titles[pair.second])}, {pair.num_rows} rows<br>"
        for row, column_index in ((i, j), (j, i)):
            hover[row][column_index] = about + _hover(pair.tau, found.spec.level)
            if pair.tau.value is not None:
                z[row, column_index] = pair.tau.value
                texts[row][column_index] = _in_cell(pair.tau.value, pair.tau, size)
    names = [f"{plain(shorten(titles[label], 18))} " for label in labels]
    side = 44 if size <= _WITH_INTERVALS else 26
    longest = max(map(len, names))
    slant: dict[str, Any] = {"tickangle": -30} if longest > _LONGEST_LEVEL else {}
    left, bottom = 16 + round(6.3 * longest), 20 + round(3.4 * longest) if slant else 40
    drawing = Drawing(
        dark,
        height=40 + max(side * size, 60) + bottom,
        margin={"l": left, "r": 8, "t": 30, "b": bottom},
    )
    drawing.update_layout(hovermode="closest", showlegend=False)
    places = np.arange(size)
    drawing.update_axis(
        "x", range=[-0.5, size - 0.5], tickvals=places, ticktext=names, ticks="", side="bottom", **slant
    )
    drawing.update_axis("y", range=[size - 0.5, -0.5], tickvals=places, ticktext=names, ticks="")
    drawing.add_heatmap(
        x=small(places),
        y=small(places),
        z=small(z),
        zmin=-1,
        zmax=1,
        colorscale=[list(stop) for stop in colours.scale],
        showscale=False,
        xgap=1,
        ygap=1,
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        hoverongaps=True,
    )
    inks = np.where(np.isfinite(z), readable_on((np.nan_to_num(z) + 1) / 2, colours.scale), colours.muted)
    for ink in np.unique(inks).tolist():
        rows, columns = np.nonzero(inks == ink)
        drawing.add_traces(words(columns, rows, [texts[i][j] for i, j in zip(rows, columns, strict=True)], ink))
    drawing.add_annotation(
        text="<b>Kendall’s τ</b>; on the diagonal, slanted: its ceiling",
        x=0,
        xshift=8 - left,
        y=1,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        yshift=6,
        font={"size": 12, "color": colours.ink},
    )
    pale_ground(drawing, colours, (-0.5, size - 0.5), (-0.5, size - 0.5))
    return drawing.finished()


def tau_matrix_alt(found: Invariance, titles: dict[str, str]) -> str:
    """Say what the matrix shows, in words."""
    parts = [
        f"{titles[own.first]} and {titles[own.second]}: "
        + (own.tau.state if own.tau.value is None else f"{number(own.tau.value)}{_interval(own.tau, ' [{}, {}]')}")
        for own in found.rankings[:10]
    ]
    more = f"; and {len(found.rankings) - 10} more" if len(found.rankings) > 10 else ""
    return f"Kendall's tau between rankings. {'; '.join(parts) or 'One column only'}{more}."


def _interval(own: Statistic, template: str) -> str:
    return "" if own.low is None or own.high is None else template.format(number(own.low), number(own.high))


def _in_cell(value: float, own: Statistic, size: int) -> str:
    text = number(value)
    if size > _WITH_INTERVALS:
        return text
    return text + _interval(own, "<br>{} – {}" if size <= _WITH_INTERVALS_IN_A_LINE else "<br>{} –<br>{}")


def _hover(own: Statistic, level: float) -> str:
    if own.value is None:
        return f"{own.state}: {plain(own.reason)}"
    lines = [f"τ = {number(own.value)}"]
    lines[0] += _interval(own, " [{}, {}], " + f"{level * 100:g} % over images")
    if own.null is not None:
        null = with_interval(own.null.mean, own.null.low, own.null.high)
        lines.append(f"layers permuted within kinds: {null}")
    if own.reason:
        lines.append(plain(own.reason))
    return "<br>".join(lines)
