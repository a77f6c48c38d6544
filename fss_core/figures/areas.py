"""A score as an area, and scores with their intervals beside the tolerance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from fss_core.figures.drawing import Drawing, interval_marks
from fss_core.figures.style import palette, plain, small
from fss_core.numerals import signed, signed_interval
from fss_core.scores import Score
from fss_core.summaries import ScoreArea, filter_title, letter

_RULED = {"showline": True, "ticks": "outside", "ticklen": 3}
_BETTER = ("rgba(8,64,126,0.28)", "rgba(163,211,255,0.30)")
"""The fill above the reference in either design: the blue end of the heatmaps' scale."""


def area_figure(area: ScoreArea, *, threshold_index: int, dark: bool = False) -> go.Figure:
    """Draw the area between a response and its reference up to a threshold.

    Args:
        area: of a score.
        threshold_index: how far it is filled.
        dark: which design.

    Returns:
        The figure; below the reference in orange, above it in blue.
    """
    colours = palette(dark)
    drawing = Drawing(dark, height=380, margin={"l": 58, "r": 14, "t": 30, "b": 48})
    drawing.update_layout(showlegend=False, hovermode="closest")
    low = min(-0.1, float(np.nanmin(area.relative)) - 0.05) if not area.reason else -0.1
    high = max(1.15, float(np.nanmax(area.relative)) + 0.05) if not area.reason else 1.15
    drawing.update_axis("x", range=[0, 1], title="threshold position t", **_RULED)
    drawing.update_axis(
        "y",
        range=[low, high],
        title="r: 1 unfiltered, 0 chance",
        tickvals=[0, 0.5, 1],
        showgrid=True,
        gridcolor=colours.faint,
        **_RULED,
    )
    if area.reason:
        drawing.add_annotation(text=f"Not measurable: {plain(area.reason)}", x=0.5, y=0.5, xref="paper", yref="paper")
        return drawing.finished()
    # Between the thresholds, too, so that the fill changes its colour where the curves cross.
    fine = np.unique(np.concatenate([area.positions, np.linspace(0, 1, 241)]))
    fine = fine[fine <= area.positions[threshold_index] + 1e-12]
    reference = np.interp(fine, area.positions, area.reference)
    relative = np.interp(fine, area.positions, area.relative)
    fills = (
        ("lost", np.minimum(relative, reference), colours.accent_band.replace("0.14", "0.35").replace("0.18", "0.40")),
        ("gained", np.maximum(relative, reference), _BETTER[dark]),
    )
    for name, edge, fill in fills:
        drawing.add_scatter(
            x=small(np.concatenate([fine, fine[::-1]])),
            y=small(np.concatenate([edge, reference[::-1]])),
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=fill,
            hoverinfo="skip",
            name=name,
        )
    drawing.add_scatter(
        x=small(area.positions),
        y=small(area.reference),
        mode="lines",
        line={"color": colours.muted, "width": 1.6, "dash": "dash"},
        hoverinfo="skip",
        name="reference",
    )
    drawing.add_scatter(
        x=small(area.positions),
        y=small(area.relative),
        customdata=small(area.so_far),
        mode="lines+markers",
        line={"color": colours.ink, "width": 2.4},
        marker={"color": colours.ink, "size": 6},
        hovertemplate=f"t = %{{x:.3f}}: r = %{{y:.3f}}<br>area so far %{{customdata:+.3f}}, n = {area.num_images}"
        "<extra></extra>",
        name="response",
    )
    drawing.add_line("x", float(area.positions[threshold_index]), line={"color": colours.ink, "width": 1})
    whole = threshold_index == len(area.positions) - 1
    drawing.add_annotation(
        text=f"<b>{'score' if whole else 'area so far'} {signed(area.so_far[threshold_index])}</b>",
        x=0,
        y=1,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        font={"size": 13, "color": colours.ink},
    )
    return drawing.finished()


def area_alt(area: ScoreArea, threshold_index: int) -> str:
    """Say what the area shows, in a sentence."""
    start = f"The {area.kind} response of {area.layer} to the {filter_title(area.filter).lower()} filter as an area"
    if area.reason:
        return f"{start}; not measurable: {area.reason}."
    return (
        f"{start}, n = {area.num_images}: from t = 0 to {area.positions[threshold_index]:.2f} it is "
        f"{signed(area.so_far[threshold_index])}, in all {signed(area.score)}."
    )


def calls_figure(scores: Sequence[Score], titles: Sequence[str], tolerance: float, *, dark: bool = False) -> go.Figure:
    """Draw scores with their intervals beside the tolerance, each with its call.

    Args:
        scores: one a row, from the top; those that are not measurable leave a word.
        titles: of the rows, as plain texts.
        tolerance: η, drawn as a band.
        dark: which design.

    Returns:
        The figure.
    """
    colours = palette(dark)
    drawing = Drawing(dark, height=90 + 72 * len(scores), margin={"l": 14, "r": 14, "t": 14, "b": 50})
    drawing.update_layout(showlegend=False, hovermode="closest")
    ends = [end for own in scores for end in (own.low, own.high) if end is not None] + [-0.12, 0.12]
    pad = 0.06 * (max(ends) - min(ends))
    drawing.update_axis(
        "x",
        range=[min(ends) - pad, max(ends) + pad],
        title="score",
        tickformat="+.2f",
        nticks=6,
        showgrid=True,
        gridcolor=colours.faint,
        **_RULED,
    )
    drawing.update_axis("y", range=[len(scores) - 0.5, -0.6], visible=False)
    drawing.add_strip("x", -tolerance, tolerance, fillcolor=colours.ink_band, line={"width": 0}, layer="below")
    drawing.add_line("x", 0, line={"color": colours.muted, "width": 1, "dash": "dot"})
    known = [(row, own) for row, own in enumerate(scores) if own.score is not None]
    numbers = np.array([(own.score, own.low, own.high) for _, own in known], dtype=np.float64).reshape(-1, 3)
    decided = [own.certainty == "decided" for _, own in known]
    interval_marks(drawing, [row for row, _ in known], numbers, decided, colours, name="scores", size=13, cap=8)
    for row, (own, title) in enumerate(zip(scores, titles, strict=True)):
        words = f"<b>{letter(own)}</b> {own.call}, {own.certainty}" if own.call else "not measurable"
        drawing.add_annotation(
            text=f"{plain(title)}: {words}",
            x=0,
            xref="paper",
            xanchor="left",
            y=row - 0.22,
            yanchor="bottom",
            font={"size": 12, "color": colours.ink},
        )
    return drawing.finished()


def calls_alt(scores: Sequence[Score], titles: Sequence[str], tolerance: float) -> str:
    """Say what the scores are, in words."""
    parts = [
        f"{title}: not measurable ({own.reason})"
        if own.score is None
        else f"{title} {signed_interval(own.score, own.low, own.high)}, {own.call}, {own.certainty}"
        for own, title in zip(scores, titles, strict=True)
    ]
    return f"Scores beside a tolerance of {tolerance:g}, n = {scores[0].num_images}: {'; '.join(parts)}."
