"""One layer's response curves, and its weights on the same threshold axis."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from fss_core.figures.drawing import Drawing
from fss_core.figures.style import Palette, palette, small
from fss_core.responses import LayerFacts
from fss_core.specs import GLOBAL_LAYER
from fss_core.summaries import ControlBand, RemovedWeights, ResponseCurves, filter_title

_MARGIN = {"l": 58, "r": 14}
"""The same in both figures, so that their threshold axes lie under each other."""

_RULED = {"showline": True, "ticks": "outside", "ticklen": 3}
_FULL_HEIGHT = {"y0": 0, "y1": 1, "yref": "paper"}
_HIDDEN = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}


def response_figure(
    curves: ResponseCurves,
    control: ControlBand | None = None,
    *,
    dark: bool = False,
    threshold_index: int | None = None,
) -> go.Figure:
    """Draw accuracy over the threshold: clean and adversarial with bands, what they are compared with, the control.

    Args:
        curves: of one layer and filter.
        control: of the same layer; left out if it is not measured.
        dark: which design.
        threshold_index: the chosen threshold.

    Returns:
        The figure.
    """
    colours = palette(dark)
    drawing = Drawing(dark, height=340, margin=_MARGIN | {"t": 56, "b": 42})
    drawing.update_layout(
        hovermode="x unified",
        legend={
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"size": 11},
            "itemclick": False,
            "traceorder": "normal",
        },
    )
    drawing.update_axis("x", range=[0, 1], title="threshold position t", hoverformat=".3f", **_RULED)
    drawing.update_axis(
        "y",
        range=[-0.02, 1.02],
        title="accuracy",
        **_RULED,
        showgrid=True,
        gridcolor=colours.faint,
        tickvals=[0, 0.2, 0.4, 0.6, 0.8, 1],
        tickformat=".1f",
    )
    if control is not None:
        about = f"range of {control.num_draws} draws, n = {control.num_images}"
        for kind, own, dash in (("clean", control.clean, "solid"), ("adversarial", control.adversarial, "dash")):
            _band(drawing, control.positions, own.low, own.high, colours.control)
            style = {"color": colours.muted, "width": 1, "dash": dash}
            _line(drawing, control.positions, (own.mean, own.low, own.high), f"random, {kind}", style, about, rank=4)
    about = f"{curves.spec.level * 100:g} %, n = {curves.num_images}"
    for kind, curve, dash, colour, band in (
        ("clean", curves.clean, "solid", colours.ink, colours.ink_band),
        ("adversarial", curves.adversarial, "dash", colours.accent, colours.accent_band),
    ):
        _band(drawing, curves.positions, curve.low, curve.high, band)
        style = {"color": colour, "width": 2, "dash": dash}
        _line(drawing, curves.positions, (curve.accuracy, curve.low, curve.high), kind, style, about, rank=1)
        if curves.spec.reference == "retained":
            style = {"color": colour, "width": 1, "dash": "dashdot"}
            drawing.add_scatter(
                x=small(curves.positions),
                y=small(curve.reference),
                mode="lines",
                line=style,
                name=f"reference, {kind}",
                legendrank=2,
                hovertemplate="%{y:.3f}",
            )
        drawing.add_scatter(
            x=[0, 1],
            y=[curve.unfiltered.value] * 2,
            mode="lines",
            line={"color": colour, "width": 1, "dash": "dot"},
            name=f"unfiltered, {kind} ({curve.unfiltered.value:.3f})",
            legendrank=3,
            hoverinfo="skip",
        )
    level = {"x0": 0, "x1": 1, "y0": curves.chance, "y1": curves.chance}
    drawing.add_shape(type="line", line={"color": colours.muted, "width": 1, "dash": "dot"}, **level)
    drawing.add_annotation(
        text="chance",
        x=1,
        xanchor="right",
        y=curves.chance,
        yanchor="top",
        font={"size": 10, "color": colours.muted},
    )
    if threshold_index is not None:
        _rule(drawing, float(curves.positions[threshold_index]), colours)
    return drawing.finished()


def response_alt(curves: ResponseCurves) -> str:
    """Say what the response curves show, in a sentence."""
    lowest = int(np.argmin(curves.clean.accuracy))
    parts = [
        f"{kind} accuracy {curve.unfiltered.value:.2f} without a filter, from {curve.accuracy.min():.2f} to "
        f"{curve.accuracy.max():.2f} with it"
        for kind, curve in (("clean", curves.clean), ("adversarial", curves.adversarial))
    ]
    layer = "the whole network" if curves.layer == GLOBAL_LAYER else curves.layer
    return (
        f"Accuracy of {layer} under the {filter_title(curves.filter).lower()} filter over {len(curves.positions)} "
        f"thresholds, n = {curves.num_images}: {'; '.join(parts)}; clean accuracy is lowest at t = "
        f"{curves.positions[lowest]:.2f}."
    )


def histogram_figure(
    facts: LayerFacts, removed: RemovedWeights, *, dark: bool = False, log_counts: bool = True
) -> go.Figure:
    """Draw a layer's weights as a histogram on the threshold axis, and shade what a filter removes.

    Args:
        facts: of the layer.
        removed: by the filter at the chosen threshold.
        dark: which design.
        log_counts: let the count axis be logarithmic, since most weights lie near 0.

    Returns:
        The figure; for the whole network, whose layers have each their own axis, a sentence in its place.
    """
    colours = palette(dark)
    drawing = Drawing(dark, height=190, margin=_MARGIN | {"t": 26, "b": 42})
    drawing.update_layout(showlegend=False, bargap=0, barmode="overlay", hovermode="closest")
    _note(drawing, removed.sentence, colours, x=0, xanchor="left", y=1, yanchor="bottom")
    if not facts.histogram.size:
        drawing.update_axis("x", visible=False)
        drawing.update_axis("y", visible=False)
        _note(drawing, "Every layer has thresholds of its own: no common weight axis.", colours, x=0.5, y=0.5)
        return drawing.finished()
    edges = facts.histogram_edges
    low, high = float(edges[0]), float(edges[-1])
    centres = (edges[:-1] + edges[1:]) / 2
    start, stop = removed.interval or (math.inf, math.inf)
    gone = (centres >= start) & (centres <= stop)
    for own, colour in ((~gone, colours.muted), (gone, colours.accent)):
        drawing.add_bar(
            x=small(centres[own]),
            y=facts.histogram[own].astype(np.int32),
            width=float(edges[1] - edges[0]),
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate="weight %{x:.4g}: %{y:,} weights<extra></extra>",
        )
    drawing.update_axis(
        "x", range=[low, high], nticks=9, title="weight (at the left end t = 0, at the right t = 1)", **_RULED
    )
    drawing.update_axis(
        "y",
        type="log" if log_counts else "linear",
        range=_count_range(facts.histogram, log_counts),
        title="weights",
        **_RULED,
        showgrid=True,
        gridcolor=colours.faint,
        dtick=1 if log_counts else None,
        nticks=5,
    )
    if removed.interval is not None and start < stop:
        drawing.add_shape(
            type="rect",
            x0=max(start, low),
            x1=min(stop, high),
            **_FULL_HEIGHT,
            fillcolor=colours.accent_band,
            line={"width": 0},
            layer="below",
        )
    if removed.threshold is not None:
        _rule(drawing, removed.threshold, colours)
    return drawing.finished()


def histogram_alt(facts: LayerFacts, removed: RemovedWeights) -> str:
    """Say what the histogram shows, in a sentence."""
    if not facts.histogram.size:
        return f"All weights of the network: {removed.sentence}."
    ends = f"from {facts.histogram_edges[0]:.3g} to {facts.histogram_edges[-1]:.3g}"
    return f"Histogram of the weights of {facts.name}, {ends}; at t = {removed.position:.2f}, {removed.sentence}."


def _count_range(counts: npt.NDArray[np.int64], log_counts: bool) -> list[float]:
    highest = max(int(counts.max()), 1)
    return [math.log10(0.7), math.log10(highest * 1.5)] if log_counts else [0, highest * 1.05]


def _band(
    drawing: Drawing,
    x: npt.NDArray[np.float64],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    colour: str,
) -> None:
    drawing.add_scatter(x=small(x), y=small(high), **_HIDDEN)
    drawing.add_scatter(x=small(x), y=small(low), fill="tonexty", fillcolor=colour, **_HIDDEN)


def _line(
    drawing: Drawing,
    x: npt.NDArray[np.float64],
    values: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]],
    name: str,
    line: dict[str, Any],
    about: str,
    *,
    rank: int,
) -> None:
    """A curve whose hover label gives its interval: values are centre, low, high."""
    centre, low, high = values
    drawing.add_scatter(
        x=small(x),
        y=small(centre),
        customdata=small(np.stack([low, high], axis=1)),
        mode="lines",
        line=line,
        name=name,
        legendrank=rank,
        hovertemplate=f"%{{y:.3f}} [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}] ({about})",
    )


def _rule(drawing: Drawing, x: float, colours: Palette) -> None:
    drawing.add_shape(type="line", x0=x, x1=x, **_FULL_HEIGHT, line={"color": colours.ink, "width": 1})


def _note(drawing: Drawing, text: str, colours: Palette, **place: Any) -> None:
    font = {"size": 12, "color": colours.muted}
    drawing.add_annotation(text=text, xref="paper", yref="paper", font=font, **place)
