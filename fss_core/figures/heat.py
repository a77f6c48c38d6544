"""What both heatmaps share: the coloured cells, the names of their rows, words in cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fss_core.figures.drawing import Drawing, Trace
from fss_core.figures.style import Palette, plain, shorten, small
from fss_core.specs import GLOBAL_LAYER, Normalise

ROW_HEIGHT = 17
"""Pixels."""

_UNITS: dict[Normalise, str] = {
    "chance": "accuracy above chance ÷ the unfiltered network’s",
    "p0": "accuracy ÷ the unfiltered network’s",
    "none": "accuracy, as a fraction",
}
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
"""Of linear red, green and blue (WCAG 2)."""

_CHARACTER_WIDTH = 6.3
"""Pixels, of a row's name, on average."""


def row_names(layers: Sequence[str]) -> list[str]:
    """Write layers' names beside their rows, short and safe."""
    return [plain(shorten("Whole network" if name == GLOBAL_LAYER else name)) + " " for name in layers]


def left_margin(layers: Sequence[str]) -> int:
    """Leave room for the names, in pixels."""
    return 16 + round(_CHARACTER_WIDTH * max((len(shorten(name)) for name in layers), default=0))


def heat(
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    z: npt.NDArray[np.float64],
    colours: Palette,
    normalise: Normalise,
    *,
    bar_offset: float,
) -> Trace:
    """Colour cells by score, symmetrically around 0; NaN stays empty.

    Args:
        x: edges or centres of the columns.
        y: edges or centres of the rows.
        z: scores, rows × columns.
        colours: of the design.
        normalise: the unit of the scores.
        bar_offset: of the colour bar below the cells, as a fraction of their height.

    Returns:
        The trace, without hover labels.
    """
    reach = _reach(z)
    return {
        "type": "heatmap",
        "x": small(x),
        "y": small(y),
        "z": small(z),
        "zmin": -reach,
        "zmax": reach,
        "colorscale": [list(stop) for stop in colours.scale],
        "xgap": 1,
        "ygap": 1,
        "hoverinfo": "skip",
        "colorbar": {
            "orientation": "h",
            "thickness": 8,
            "len": 0.62,
            "x": 0.5,
            "xanchor": "center",
            "y": -bar_offset,
            "yanchor": "top",
            "ypad": 8,
            "tickvals": [-reach, 0, reach],
            "ticktext": [f"−{reach:.2f}", "0", f"+{reach:.2f}"],
            "tickfont": {"size": 11, "color": colours.muted},
            "outlinewidth": 0,
            "title": {
                "text": f"fragile ← 0 → antifragile<br>{_UNITS[normalise]}",
                "side": "bottom",
                "font": {"size": 11, "color": colours.muted},
            },
        },
    }


def readable(z: npt.NDArray[np.float64], colours: Palette) -> npt.NDArray[np.str_]:
    """Choose the colour of a letter on each cell that :func:`heat` paints: the one of more contrast; muted on none."""
    inks = readable_on((np.nan_to_num(z) / _reach(z) + 1) / 2, colours.scale)
    return np.where(np.isfinite(z), inks, colours.muted)


def readable_on(where: npt.NDArray[np.float64], scale: Sequence[tuple[float, str]]) -> npt.NDArray[np.str_]:
    """Choose the colour of a letter on each cell that is painted by a place, from 0 to 1, on a colour scale."""
    stops = [position for position, _ in scale]
    channels = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for _, colour in scale]) / 255
    fills = np.stack([np.interp(where, stops, channels[:, index]) for index in range(3)], axis=-1)
    luminance = np.where(fills <= 0.03928, fills / 12.92, ((fills + 0.055) / 1.055) ** 2.4) @ _LUMINANCE
    # The geometric middle between black (0.05) and white (1.05) is where their contrasts are equal.
    return np.where(luminance + 0.05 > math.sqrt(0.05 * 1.05), "#000000", "#ffffff")


def _reach(values: npt.NDArray[np.float64]) -> float:
    """The end of a symmetric colour scale: the largest score, rounded up to 0.05."""
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 1.0
    return max(math.ceil(largest * 20), 1) / 20


def pale_ground(drawing: Drawing, colours: Palette, x: tuple[float, float], y: tuple[float, float]) -> None:
    """Lay a ground under some cells, which shows where they have no colour."""
    place = {"x0": x[0], "x1": x[1], "y0": y[0], "y1": y[1]}
    drawing.add_shape(type="rect", fillcolor=colours.faint, opacity=0.6, line={"width": 0}, layer="below", **place)


def words(
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    texts: Sequence[str],
    colour: str,
    *,
    position: str = "middle center",
    size: int = 11,
) -> Trace:
    """Write words at places; also beyond the axes, if the place itself is on their edge."""
    return {
        "type": "scatter",
        "x": small(x),
        "y": small(y),
        "mode": "text",
        "text": list(texts),
        "textposition": position,
        "textfont": {"size": size, "color": colour},
        "unselected": {"textfont": {"color": colour}},  # a click elsewhere would fade the words
        "cliponaxis": False,
        "hoverinfo": "skip",
    }
