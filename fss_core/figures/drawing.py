"""A figure in the making: what is drawn is collected, and checked by Plotly once."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from fss_core.figures.style import FONT, Palette, palette, small

Trace = dict[str, Any]
"""What Plotly draws, with its ``type`` and its settings."""

Axis = Literal["x", "y"]


class Drawing:
    """A figure in the making: transparent, in our type, with fixed axes that show only what they are told to.

    Plotly's own figure checks a trace twice as it is added, and with every setting of the layout much of what is there
    already; collected here and checked once, a figure is made three to six times as fast (``python -m
    benchmarks.figures``). Settings are those of Plotly's reference, but for what the methods say.

    Args:
        dark: which design.
        height: in pixels.
        margin: around the axes, in pixels, by the first letter of the side.
    """

    def __init__(self, dark: bool, *, height: int, margin: dict[str, int]) -> None:
        """Begin with nothing but axes."""
        colours = palette(dark)
        self._axis = {
            "fixedrange": True,
            "zeroline": False,
            "showgrid": False,
            "showline": False,
            "linecolor": colours.muted,
            "tickcolor": colours.muted,
            "tickfont": {"color": colours.muted, "size": 11},
            "title": {"font": {"color": colours.muted, "size": 12}, "standoff": 6},
        }
        self._traces: list[Trace] = []
        self._layout: dict[str, Any] = {
            "template": go.layout.Template(),
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": FONT, "size": 12, "color": colours.ink},
            "height": height,
            "margin": {"pad": 0} | margin,
            "dragmode": False,
            "hoverlabel": {
                "bgcolor": colours.ground,
                "bordercolor": colours.muted,
                "align": "left",
                "font": {"family": FONT, "size": 12, "color": colours.ink},
            },
            "xaxis": deepcopy(self._axis),
            "yaxis": deepcopy(self._axis),
            "shapes": [],
            "annotations": [],
            "images": [],
        }

    def finished(self) -> go.Figure:
        """Make the figure.

        Raises:
            ValueError: Plotly does not know a setting, or its value.
        """
        return go.Figure(data=self._traces, layout=self._layout)

    # What is drawn

    def add_traces(self, *traces: Trace) -> None:
        """Draw data, above what is drawn already."""
        self._traces += traces

    def add_scatter(self, **settings: Any) -> None:
        """Draw points, or a line through them, or an area."""
        self.add_traces({"type": "scatter", **settings})

    def add_bar(self, **settings: Any) -> None:
        """Draw bars."""
        self.add_traces({"type": "bar", **settings})

    def add_heatmap(self, **settings: Any) -> None:
        """Draw coloured cells."""
        self.add_traces({"type": "heatmap", **settings})

    def add_shape(self, **settings: Any) -> None:
        """Draw a shape."""
        self._layout["shapes"].append(settings)

    def add_annotation(self, **settings: Any) -> None:
        """Write a text, without an arrow."""
        self._layout["annotations"].append({"showarrow": False, **settings})

    def add_image(self, **settings: Any) -> None:
        """Lay an image."""
        self._layout["images"].append(settings)

    def add_line(self, axis: Axis, at: float, **settings: Any) -> None:
        """Draw a line across the axes where ``axis`` has a value."""
        self.add_strip(axis, at, at, type="line", **settings)

    def add_strip(self, axis: Axis, start: float, stop: float, **settings: Any) -> None:
        """Draw a rectangle across the axes between two values of ``axis``."""
        other = "y" if axis == "x" else "x"
        along = {f"{axis}ref": axis, f"{axis}0": start, f"{axis}1": stop}
        across = {f"{other}ref": f"{other} domain", f"{other}0": 0, f"{other}1": 1}
        self.add_shape(**{"type": "rect"} | along | across | settings)

    # Layout

    def update_layout(self, **settings: Any) -> None:
        """Set something of the layout; what a setting of several parts does not name stays as it is."""
        _merge(self._layout, settings)

    def update_axis(self, axis: Axis, *, title: str = "", **settings: Any) -> None:
        """Set something of an axis, likewise; ``title`` stands beside it."""
        named: dict[str, Any] = {"title": {"text": title}} if title else {}
        self.update_layout(**{f"{axis}axis": named | settings})

    def add_axes(self, number: str, x: dict[str, Any], y: dict[str, Any], *, title: str = "") -> None:
        """Make a pair of axes in place of the first, or beside it; each begins as the first did.

        Args:
            number: what they are called by, behind x and y; empty for the first pair.
            x: settings of the horizontal axis.
            y: settings of the vertical axis.
            title: of the horizontal axis.
        """
        for axis, settings in (("x", x), ("y", y)):
            self._layout[f"{axis}axis{number}"] = deepcopy(self._axis)
            self.update_layout(**{f"{axis}axis{number}": settings})
        if title:
            self.update_layout(**{f"xaxis{number}": {"title": {"text": title}}})


def _merge(into: dict[str, Any], settings: dict[str, Any]) -> None:
    for name, own in settings.items():
        if isinstance(own, dict) and isinstance(into.get(name), dict):
            _merge(into[name], own)
        else:
            into[name] = deepcopy(own) if isinstance(own, dict) else own


def interval_marks(
    drawing: Drawing,
    rows: Sequence[int],
    numbers: npt.NDArray[np.float64],
    filled: Sequence[bool],
    colours: Palette,
    *,
    name: str,
    size: int,
    cap: int,
) -> None:
    """Draw numbers with their intervals, one in a row: filled where something is decided.

    Args:
        drawing: where to.
        rows: of each number, on the y axis.
        numbers: (N, 3): value, low, high.
        filled: N times, whether the mark is.
        colours: of the design.
        name: of the trace.
        size: of a mark, in pixels.
        cap: half the width of an interval's ends, in pixels.
    """
    drawing.add_scatter(
        x=small(numbers[:, 0]),
        y=list(rows),
        error_x={
            "type": "data",
            "symmetric": False,
            "array": small(numbers[:, 2] - numbers[:, 0]),
            "arrayminus": small(numbers[:, 0] - numbers[:, 1]),
            "color": colours.accent,
            "thickness": 3,
            "width": cap,
        },
        customdata=small(numbers[:, 1:]),
        mode="markers",
        marker={
            "color": colours.accent,
            "size": size,
            "symbol": ["circle" if own else "circle-open" for own in filled],
        },
        hovertemplate="%{x:+.3f} [%{customdata[0]:+.3f}, %{customdata[1]:+.3f}]<extra></extra>",
        name=name,
    )
