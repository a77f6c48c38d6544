"""What each difference of the notebooks does to the mean score of the layers: a dot with its interval a line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from fss_core.errata.effects import Effect
from fss_core.errata.reports import change_words
from fss_core.figures.drawing import Drawing
from fss_core.figures.style import palette, plain, small

_LINE, _TOP, _BOTTOM = 26, 26, 48


def change_figure(effects: Sequence[Effect], titles: dict[str, str], *, dark: bool = False) -> go.Figure:
    """Draw changes with their intervals, one line a variant, around a line at no change.

    Args:
        effects: of one kind of score, each with a change.
        titles: variant → what to call it.
        dark: which design.

    Returns:
        The figure.
    """
    colours = palette(dark)
    found = [own for own in effects if own.change is not None]
    names = [plain(titles[own.variant]) + "  " for own in found]
    change = np.array([own.change or 0.0 for own in found])
    low = np.array([own.change_low or 0.0 for own in found])
    high = np.array([own.change_high or 0.0 for own in found])
    drawing = Drawing(
        dark,
        height=_TOP + _BOTTOM + _LINE * max(len(found), 2),
        margin={"l": 16 + round(6.6 * max(map(len, names), default=0)), "r": 12, "t": _TOP, "b": _BOTTOM},
    )
    reach = 1.08 * max(float(np.abs([low, high]).max()) if found else 0.0, 0.02)
    places = np.arange(len(found))
    drawing.update_layout(hovermode="closest", showlegend=False)
    drawing.update_axis("x", range=[-reach, reach], title="change of the mean score", showgrid=True, nticks=6)
    drawing.update_axis("x", gridcolor=colours.faint, zeroline=True, zerolinecolor=colours.muted, zerolinewidth=1)
    drawing.update_axis("y", range=[len(found) - 0.5, -0.5], tickvals=places, ticktext=names, ticks="")
    drawing.update_axis("y", tickfont={"color": colours.ink, "size": 12})
    drawing.add_scatter(
        x=small(change),
        y=small(places),
        mode="markers",
        marker={"color": colours.accent, "size": 8},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": small(high - change),
            "arrayminus": small(change - low),
            "color": colours.accent,
            "thickness": 1.5,
            "width": 4,
        },
        text=[
            f"{plain(titles[own.variant])}<br>{change_words(own)}<br>{own.num_layers} layers, n = {own.num_images}"
            for own in found
        ],
        hovertemplate="%{text}<extra></extra>",
    )
    return drawing.finished()


def change_alt(effects: Sequence[Effect], titles: dict[str, str]) -> str:
    """Say what the chart shows, in a sentence."""
    parts = [f"{titles[own.variant]} {change_words(own)}" for own in effects if own.change is not None]
    return f"Change of the mean score of the layers under each difference. {'; '.join(parts) or 'Nothing'}."
