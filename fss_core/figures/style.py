"""What all figures share: colours, type, an empty layout, and the way out of the browser."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

FONT = 'Arial, "Helvetica Neue", "Liberation Sans", sans-serif'
"""Faces whose digits are all of one width, so that numbers align."""

SAVE_CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "modeBarButtons": [["toImage"]],
    "toImageButtonOptions": {"format": "svg", "filename": "filtering-score"},
}
"""For ``st.plotly_chart(config=…)`` of figures that are not clicked: one button, which saves an SVG."""


_SAVE_BUTTONS = """
const plot = document.getElementById("{plot_id}");
for (const format of ["svg", "png"]) {
    const button = document.createElement("button");
    button.textContent = `Save as ${format.toUpperCase()}`;
    const scale = format === "png" ? 3 : 1;
    button.onclick = () => Plotly.downloadImage(plot, {format, scale, filename: document.title});
    plot.after(button);
}
"""
"""For a page of its own: buttons that the keyboard reaches, in place of a bar that shows when a mouse hovers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """The colours of a design.

    Attributes:
        ink: text and the main line.
        muted: secondary text, axes.
        faint: grid lines, rules, empty cells.
        accent: what is chosen, and adversarial curves.
        accent_band: the same, as a band.
        ink_band: a band around the main line.
        control: the random control's band.
        ground: of the page, for what leaves it.
        scale: diverging, from fragile over no effect to antifragile; told apart by all common forms of colour vision.
    """

    ink: str
    muted: str
    faint: str
    accent: str
    accent_band: str
    ink_band: str
    control: str
    ground: str
    scale: tuple[tuple[float, str], ...]


LIGHT = Palette(
    ink="#1f2328",
    muted="#656d76",
    faint="#e4e7eb",
    accent="#b34700",
    accent_band="rgba(179,71,0,0.14)",
    ink_band="rgba(31,35,40,0.10)",
    control="rgba(120,128,138,0.22)",
    ground="#ffffff",
    scale=((0, "#8f3b00"), (0.25, "#dd8433"), (0.5, "#f7f7f5"), (0.75, "#5a9bd0"), (1, "#08407e")),
)
DARK = Palette(
    ink="#e6e9ee",
    muted="#98a1ad",
    faint="#2d343d",
    accent="#ff9a4d",
    accent_band="rgba(255,154,77,0.18)",
    ink_band="rgba(230,233,238,0.14)",
    control="rgba(150,160,172,0.22)",
    ground="#0e1117",
    scale=((0, "#ffc58a"), (0.25, "#c06a1e"), (0.5, "#20262e"), (0.75, "#2f77b5"), (1, "#a3d3ff")),
)


def palette(dark: bool) -> Palette:
    """Pick a design's colours."""
    return DARK if dark else LIGHT


def enlarged(figure: go.Figure, factor: float) -> go.Figure:
    """Make everything that is read larger: type, margins, height; for the back of a lecture hall.

    Args:
        figure: any.
        factor: 1 leaves it as it is.

    Returns:
        Another figure, to be shown: its arrays are as they are sent to a browser.

    Raises:
        ValueError: ``factor`` is below 1.
    """
    if not factor >= 1:
        raise ValueError(f"factor must be at least 1, got {factor}")
    whole = figure.to_dict()
    layout = whole["layout"]
    found = _with_larger_type({name: own for name, own in layout.items() if name != "template"}, factor)
    if "height" in layout:
        found["height"] = round(layout["height"] * factor)
    found["margin"] = {name: round(own * factor) for name, own in layout.get("margin", {}).items()}
    for trace in whole["data"]:
        own = trace.get("textfont")
        if own and "size" in own:
            own["size"] = round(own["size"] * factor)
    return go.Figure(data=whole["data"], layout=layout | found)


def _with_larger_type(value: Any, factor: float) -> Any:
    """Enlarge every ``size`` of a font, however deep it lies."""
    if isinstance(value, dict):
        return {
            name: own | {"size": round(own["size"] * factor, 1)}
            if name in ("font", "tickfont") and isinstance(own, dict) and isinstance(own.get("size"), int | float)
            else _with_larger_type(own, factor)
            for name, own in value.items()
        }
    if isinstance(value, list | tuple):
        return [_with_larger_type(own, factor) for own in value]
    return value


def small(values: npt.NDArray[Any]) -> npt.NDArray[np.float32] | npt.NDArray[np.int16]:
    """Send no more bytes to the browser than a picture needs: two for whole numbers, four for others."""
    if np.isfinite(values).all() and (np.abs(values) < 2**15).all() and (values == np.rint(values)).all():
        return np.asarray(values, dtype=np.int16)
    return np.asarray(values, dtype=np.float32)


def plain(name: str) -> str:
    """Make any text safe where Plotly reads HTML; quotes stay, since Plotly shows their entities literally.

    >>> plain('<i>"a"</i>')
    '&lt;i&gt;"a"&lt;/i&gt;'
    """
    return html.escape(name, quote=False)


def shorten(name: str, length: int = 28) -> str:
    """Leave the middle of a long name out: its ends tell most.

    >>> shorten("features.denseblock4.denselayer16.conv2", 24)
    'features.den…yer16.conv2'
    """
    if len(name) <= length:
        return name
    head = length // 2
    return f"{name[:head]}…{name[len(name) - (length - head - 1) :]}"


def standalone_html(figure: go.Figure, title: str, *, dark: bool = False) -> str:
    """Write a figure as one page that needs no network.

    Args:
        figure: any.
        title: of the page, as plain text.
        dark: the design ``figure`` was made in: decides the ground.

    Returns:
        HTML of about 5 MB: it carries Plotly's script. Two buttons below the figure save it as PNG and as SVG.
    """
    body = figure.to_html(
        full_html=False, include_plotlyjs=True, config={"displayModeBar": False}, post_script=_SAVE_BUTTONS
    )
    colours = palette(dark)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{html.escape(title)}</title></head>\n'
        f'<body style="margin:1.5rem;background:{colours.ground};color:{colours.ink};font-family:sans-serif">\n'
        f'<h1 style="font-size:1rem">{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n'
    )
