"""Scores over epochs: chosen layers as curves with bands, and all layers at one epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from fss_core.figures.drawing import Drawing
from fss_core.figures.style import palette, plain, shorten, small
from fss_core.invariance.groups import entries_by_row
from fss_core.invariance.results import Entry, Invariance
from fss_core.numerals import signed

MOST_TRAJECTORIES = 8
"""So many curves can be told apart."""

_STYLES = (
    ("#b34700", "#ff9a4d", "solid", "circle"),
    ("#0b5cad", "#6cb6ff", "solid", "triangle-down"),
    ("#0f766e", "#5fcfc4", "dash", "diamond"),
    ("#7a4bb0", "#c79bf2", "dash", "square"),
    ("#8a6100", "#f0c04a", "dashdot", "triangle-up"),
    ("#a3245a", "#f08ab0", "dashdot", "hourglass"),
    ("#2f6f2a", "#7ecb74", "dot", "cross"),
    ("#656d76", "#98a1ad", "dot", "x"),
)
"""Colour in the light and the dark design, how the line is broken, and the marker."""

_RULED = {"showline": True, "ticks": "outside", "ticklen": 3}


def trajectories_figure(found: Invariance, rows: Sequence[str], *, dark: bool = False) -> go.Figure:
    """Draw the scores of some layers over epochs, with bands.

    Args:
        found: across epochs.
        rows: names of layers, at most ``MOST_TRAJECTORIES``.
        dark: which design.

    Returns:
        The figure; a layer has a gap where it has no score, and the tolerance ±η is a pale band.

    Raises:
        ValueError: too many layers.
    """
    if len(rows) > MOST_TRAJECTORIES:
        raise ValueError(f"at most {MOST_TRAJECTORIES} layers can be told apart, got {len(rows)}")
    drawing = Drawing(dark, height=330, margin={"l": 52, "r": 10, "t": 12 + 20 * -(-len(rows) // 2), "b": 44})
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11}, "itemclick": False}
    drawing.update_layout(hovermode="closest", legend=legend)
    places = [int(own.label) for own in found.table.columns]
    margin = 0.04 * max(places[-1] - places[0], 1)
    drawing.update_axis(
        "x",
        range=[places[0] - margin, places[-1] + margin],
        title="epoch",
        **_ticks(places),
        **_RULED,
    )
    by_row = entries_by_row(found.table)
    _score_axis(drawing, [own for name in rows for own in by_row[name]], found, dark)
    for name, (light, night, dash, symbol) in zip(rows, _STYLES, strict=False):
        colour = night if dark else light
        entries = by_row[name]
        numbers = np.array(
            [(own.score, own.low, own.high) if own.score is not None else (np.nan,) * 3 for own in entries],
            dtype=np.float64,
        )
        for run in _runs(np.isfinite(numbers[:, 0])):
            band = np.array(places)[run]
            drawing.add_scatter(
                x=small(np.concatenate([band, band[::-1]])),
                y=small(np.concatenate([numbers[run, 2], numbers[run, 1][::-1]])),
                mode="lines",
                line={"width": 0},
                fill="toself",
                fillcolor=_pale(colour),
                hoverinfo="skip",
                showlegend=False,
            )
        drawing.add_scatter(
            x=small(np.array(places)),
            y=small(numbers[:, 0]),
            customdata=small(numbers[:, 1:]),
            text=[_call(own) for own in entries],
            mode="lines+markers",
            connectgaps=False,
            line={"color": colour, "width": 2, "dash": dash},
            marker={"color": colour, "symbol": symbol, "size": 7},
            name=plain(shorten(name)),
            hovertemplate=f"{plain(name)}, epoch %{{x}}<br>%{{y:+.3f}} [%{{customdata[0]:+.3f}}, "
            f"%{{customdata[1]:+.3f}}], {found.spec.level * 100:g} %, n = {found.table.columns[0].num_images}"
            "<br>%{text}<extra></extra>",
        )
    return drawing.finished()


def trajectories_alt(found: Invariance, rows: Sequence[str]) -> str:
    """Say what the curves show, in words."""
    parts = []
    for name in rows:
        scores = [own for own in entries_by_row(found.table)[name] if own.score is not None]
        if scores:
            first, last = scores[0], scores[-1]
            parts.append(
                f"{name} from {signed(first.score, 2)} ({first.call}) at epoch {first.column} to "
                f"{signed(last.score, 2)} ({last.call}) at epoch {last.column}"
            )
    return f"Scores over epochs: {'; '.join(parts) or 'none measurable'}."


def profile_figure(found: Invariance, label: str, *, dark: bool = False) -> go.Figure:
    """Draw the scores of all layers at one epoch, in network order, over those of the other epochs.

    Args:
        found: across epochs.
        label: which epoch.
        dark: which design.

    Returns:
        The figure; its axes are the same for every epoch.
    """
    colours = palette(dark)
    drawing = Drawing(dark, height=250, margin={"l": 52, "r": 22, "t": 24, "b": 42})
    drawing.update_layout(hovermode="closest", showlegend=False)
    rows = [row.name for row in found.table.rows]
    drawing.update_axis(
        "x",
        range=[-0.7, len(rows) - 0.3],
        title="layers in network order",
        tickvals=[0, len(rows) - 1],
        ticktext=["input", "output"],
        ticklabeloverflow="allow",
        **_RULED,
    )
    _score_axis(drawing, found.table.entries, found, dark)
    places = np.arange(len(rows))
    for column in found.table.columns:
        if column.label != label:
            others = _of_column(found, column.label)
            drawing.add_scatter(
                x=small(places),
                y=small(others[:, 0]),
                mode="markers",
                marker={"color": colours.muted, "size": 3, "opacity": 0.45},
                hoverinfo="skip",
            )
    own = _of_column(found, label)
    entries = [entry for entry in found.table.entries if entry.column == label]
    drawing.add_scatter(
        x=small(places),
        y=small(own[:, 0]),
        error_y={
            "type": "data",
            "symmetric": False,
            "array": small(own[:, 2] - own[:, 0]),
            "arrayminus": small(own[:, 0] - own[:, 1]),
            "color": colours.accent_band,
            "thickness": 3,
            "width": 0,
        },
        customdata=small(own[:, 1:]),
        text=[f"<b>{plain(name)}</b><br>{_call(entry)}" for name, entry in zip(rows, entries, strict=True)],
        mode="markers",
        marker={
            "color": colours.accent,
            "size": 7,
            "symbol": ["circle" if entry.certainty == "decided" else "circle-open" for entry in entries],
        },
        hovertemplate="%{text}<br>%{y:+.3f} [%{customdata[0]:+.3f}, %{customdata[1]:+.3f}]<extra></extra>",
    )
    drawing.add_annotation(
        text=f"<b>Epoch {label}</b>; filled: decided, open: leaning; grey: the other epochs",
        x=0,
        y=1,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        font={"size": 12, "color": colours.ink},
    )
    return drawing.finished()


def profile_alt(found: Invariance, label: str) -> str:
    """Say what the profile shows, in words."""
    entries = [own for own in found.table.entries if own.column == label]
    scored = [own for own in entries if own.score is not None]
    if not scored:
        return f"Scores of {len(entries)} layers at epoch {label}: none measurable."
    lowest, highest = (pick(scored, key=lambda own: own.score or 0.0) for pick in (min, max))
    counts = ", ".join(
        f"{sum(own.call == call for own in scored)} {call}" for call in ("fragile", "robust", "antifragile")
    )
    return (
        f"Scores of {len(entries)} layers at epoch {label}: {counts}; lowest {signed(lowest.score, 2)} in "
        f"{lowest.row}, highest {signed(highest.score, 2)} in {highest.row}."
    )


def _of_column(found: Invariance, label: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array(
        [
            (own.score, own.low, own.high) if own.score is not None else (np.nan,) * 3
            for own in found.table.entries
            if own.column == label
        ],
        dtype=np.float64,
    )


def _score_axis(drawing: Drawing, entries: Sequence[Entry], found: Invariance, dark: bool) -> None:
    """Fit the intervals of all entries, and mark 0 and the tolerance."""
    colours = palette(dark)
    tolerance = found.spec.tolerance
    ends = [end for own in entries for end in (own.low, own.high) if end is not None] + [-tolerance, tolerance]
    pad = 0.05 * (max(ends) - min(ends)) + 0.005
    drawing.update_axis(
        "y",
        range=[min(ends) - pad, max(ends) + pad],
        title=f"{found.kind} score",
        tickformat="+.2f",
        nticks=7,
        showgrid=True,
        gridcolor=colours.faint,
        **_RULED,
    )
    drawing.add_strip("y", -tolerance, tolerance, fillcolor=colours.ink_band, line={"width": 0}, layer="below")
    drawing.add_line("y", 0, line={"color": colours.muted, "width": 1, "dash": "dot"})


def _ticks(places: Sequence[int]) -> dict[str, list[int]] | dict[str, int]:
    return {"tickvals": list(places)} if len(places) <= 12 else {"nticks": 8}


def _runs(finite: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[slice]:
    """Where values follow each other without a gap."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], finite, [False]])))
    return [slice(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _call(entry: Entry) -> str:
    return plain(entry.reason) if entry.call is None else f"{entry.call}, {entry.certainty}"


def _pale(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.13)"
