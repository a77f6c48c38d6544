"""What retraining gains or costs, network by network: paired differences with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from fss_core.figures.drawing import Drawing, interval_marks
from fss_core.figures.style import palette, plain, shorten
from fss_core.numerals import signed_interval
from fss_core.retraining.comparing import Estimate

_RULED = {"showline": True, "ticks": "outside", "ticklen": 3}


def verdicts_figure(
    titles: Sequence[str], estimates: Sequence[Estimate | None], what: str, *, dark: bool = False
) -> go.Figure:
    """Draw paired differences, one a row.

    Args:
        titles: of the rows, as plain texts.
        estimates: differences of accuracies; ``None`` where nothing was tested.
        what: is subtracted from what, for the axis.
        dark: which design.

    Returns:
        The figure; filled where the interval does not contain 0.
    """
    colours = palette(dark)
    drawing = Drawing(dark, height=100 + 50 * max(len(titles), 2), margin={"l": 14, "r": 14, "t": 10, "b": 50})
    drawing.update_layout(showlegend=False, hovermode="closest")
    known = [(row, own) for row, own in enumerate(estimates) if own is not None]
    ends = [end for _, own in known for end in (own.low, own.high)] + [-0.05, 0.05]
    pad = 0.06 * (max(ends) - min(ends))
    drawing.update_axis(
        "x",
        range=[max(min(ends) - pad, -1.05), min(max(ends) + pad, 1.05)],
        title=plain(what),
        tickformat="+.2f",
        nticks=6,
        showgrid=True,
        gridcolor=colours.faint,
        **_RULED,
    )
    drawing.update_axis("y", range=[len(titles) - 0.5, -0.6], visible=False)
    drawing.add_line("x", 0, line={"color": colours.muted, "width": 1.4})
    numbers = np.array([(own.value, own.low, own.high) for _, own in known], dtype=np.float64).reshape(-1, 3)
    away = [own.low > 0 or own.high < 0 for _, own in known]
    interval_marks(drawing, [row for row, _ in known], numbers, away, colours, name="differences", size=11, cap=6)
    for row, (own, title) in enumerate(zip(estimates, titles, strict=True)):
        drawing.add_annotation(
            text=plain(shorten(title, 44)) + (": not tested" if own is None else ""),
            x=0,
            xref="paper",
            xanchor="left",
            y=row - 0.18,
            yanchor="bottom",
            font={"size": 11, "color": colours.ink},
        )
    return drawing.finished()


def verdicts_alt(titles: Sequence[str], estimates: Sequence[Estimate | None], what: str) -> str:
    """Say what the differences are, in words."""
    parts = [
        f"{title}: not tested" if own is None else f"{title} {signed_interval(own.value, own.low, own.high)}"
        for title, own in zip(titles, estimates, strict=True)
    ]
    return f"{what}: {'; '.join(parts)}."
