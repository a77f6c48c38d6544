"""Scores by layer and threshold, as a heatmap: which weights matter."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go

from fss_core.figures.drawing import Drawing
from fss_core.figures.heat import ROW_HEIGHT, heat, left_margin, pale_ground, row_names, words
from fss_core.figures.style import palette, plain, small
from fss_core.numerals import signed
from fss_core.summaries import ThresholdMap, filter_title, layer_title

_TOP, _BOTTOM, _AXIS = 28, 116, 42
"""Pixels: above the cells, below them, and the part of that which the axis takes."""


def threshold_heatmap(found: ThresholdMap, *, dark: bool = False, threshold_index: int | None = None) -> go.Figure:
    """Draw a score resolved by threshold: with pulses, which weights matter.

    Args:
        found: the integrand, layers × thresholds.
        dark: which design.
        threshold_index: the chosen threshold, to be framed.

    Returns:
        The figure; dots mark filters that change nothing.
    """
    num_layers, num_thresholds = found.values.shape
    colours = palette(dark)
    height = ROW_HEIGHT * max(num_layers, 3)
    drawing = Drawing(
        dark,
        height=_TOP + height + _BOTTOM,
        margin={"l": left_margin(found.layers), "r": 8, "t": _TOP, "b": _BOTTOM},
    )
    drawing.update_layout(hovermode="closest", showlegend=False)
    ticks = [0, 0.25, 0.5, 0.75, 1]
    drawing.update_axis(
        "x",
        range=[-0.5, num_thresholds - 0.5],
        tickvals=[t * (num_thresholds - 1) for t in ticks],
        ticktext=[f"{t:g}" for t in ticks],
        ticks="outside",
        ticklen=3,
        title="threshold position t (0: smallest weight, 1: largest)",
    )
    rows = np.arange(num_layers)
    drawing.update_axis(
        "y",
        range=[num_layers - 0.5, -0.5],
        tickvals=rows,
        ticktext=[f"<b>{layer_title(name)}</b>" for name in found.layers],
        ticks="",
        showticklabels=False,
    )
    still, pending = np.argwhere(~found.changes & found.measured[:, None]), np.flatnonzero(~found.measured)
    cells = heat(
        np.arange(num_thresholds), rows, found.values, colours, found.spec.normalise, bar_offset=_AXIS / height
    )
    cells.update(
        text=[[_describe(found, row, k) for k in range(num_thresholds)] for row in range(num_layers)],
        hoverinfo="all",
        hoverongaps=False,
        hovertemplate="%{y}<br>%{text}<br>score at this threshold: %{z:+.3f}, "
        f"n = {found.num_images}<extra></extra>",
    )
    middle = np.full(len(pending), (num_thresholds - 1) / 2)
    drawing.add_traces(cells)
    drawing.add_scatter(
        x=small(still[:, 1]),
        y=small(still[:, 0]),
        mode="markers",
        marker={"symbol": "circle", "size": 3, "color": colours.muted},
        hoverinfo="skip",
    )
    drawing.add_traces(
        words(middle, pending, ["not measured yet"] * len(pending), colours.muted),
        words(np.full(num_layers, -0.5), rows, row_names(found.layers), colours.ink, position="middle left"),
    )
    title = f"<b>{filter_title(found.filter)}, {found.kind}</b>" + ("; dots: nothing changes" if len(still) else "")
    notes = [(title, {"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "yshift": 4}, colours.ink)]
    if found.reason:
        notes.append((f"Not measurable: {plain(found.reason)}", {"x": 0.5, "y": 0.5}, colours.muted))
    for text, place, colour in notes:
        drawing.add_annotation(text=text, xref="paper", yref="paper", font={"size": 12, "color": colour}, **place)
    pale_ground(drawing, colours, (-0.5, num_thresholds - 0.5), (-0.5, num_layers - 0.5))
    if threshold_index is not None:
        line = {"color": colours.ink, "width": 1.5}
        drawing.add_strip("x", threshold_index - 0.5, threshold_index + 0.5, line=line, fillcolor="rgba(0,0,0,0)")
    return drawing.finished()


def threshold_heatmap_alt(found: ThresholdMap) -> str:
    """Say what the threshold heatmap shows, in words."""
    start = (
        f"Heatmap of the {found.kind} response to the {filter_title(found.filter).lower()} filter, "
        f"{len(found.layers)} layers by {len(found.positions)} thresholds"
    )
    if found.reason:
        return f"{start}; not measurable: {found.reason}."
    if not np.isfinite(found.values).any():
        return f"{start}; nothing measured yet."
    low, high = (np.unravel_index(pick(found.values), found.values.shape) for pick in (np.nanargmin, np.nanargmax))
    ends = (
        f"{signed(found.values[where], 2)} in {found.layers[int(where[0])]} at t = {found.positions[where[1]]:.2f}"
        for where in (low, high)
    )
    return f"{start}. Lowest {', highest '.join(ends)}."


def _describe(found: ThresholdMap, row: int, k: int) -> str:
    text = f"t = {found.positions[k]:.3f}"
    if math.isfinite(found.thresholds[row, k]):
        text += f", threshold {found.thresholds[row, k]:.3g}"
    return text if found.changes[row, k] else f"{text}<br>nothing changes"
