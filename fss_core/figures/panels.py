"""Four panels, one per kind of image that networks are judged on, and lines through estimates in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fss_core.figures.drawing import Drawing
from fss_core.figures.style import palette
from fss_core.retraining.comparing import NO_RETRAINING, Comparison, Estimate
from fss_core.retraining.results import JUDGED, Judged
from fss_core.retraining.rules import PAPERS_RULE

_TITLES: dict[Judged, str] = {
    "clean": "Clean images",
    "fgsm": "White-box FGSM",
    "pgd": "White-box PGD",
    "transfer": "Transfer from before",
}

_STYLES: dict[str, tuple[str, str, str, str]] = {
    NO_RETRAINING: ("#656d76", "#98a1ad", "dot", "circle-open"),
    "robust_antifragile": ("#b34700", "#ff9a4d", "solid", "circle"),
    "antifragile": ("#8a6100", "#f0c04a", "dash", "triangle-up"),
    "robust": ("#7a4bb0", "#c79bf2", "dash", "square"),
    "fragile": ("#0b5cad", "#6cb6ff", "solid", "triangle-down"),
    "complement": ("#0f766e", "#5fcfc4", "dash", "diamond"),
    "all": ("#1f2328", "#e6e9ee", "solid", "square-open"),
    "all_with_bn": ("#1f2328", "#e6e9ee", "dot", "square-open-dot"),
    "last_layer": ("#656d76", "#98a1ad", "dash", "star"),
    "random": ("#656d76", "#98a1ad", "dot", "x"),
    "least_critical": ("#2f6f2a", "#7ecb74", "dashdot", "cross"),
    "most_critical": ("#a3245a", "#f08ab0", "dashdot", "hourglass"),
}
"""Of each rule: its colour in the light and the dark design, how its line is broken, and its marker."""

_RULED = {"showline": True, "ticks": "outside", "ticklen": 3}
_HIDDEN = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
_WIDTH, _HEIGHT = 0.44, 0.42
"""Of a panel, as fractions of the figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One rule in one comparison.

    Attributes:
        x: where it stands.
        comparison: whose accuracies.
        accuracy: per kind of image.
    """

    x: int
    comparison: Comparison
    accuracy: dict[Judged, Estimate]

    def about(self, kind: Judged) -> str:
        """Say what its interval is over."""
        estimate, own = self.accuracy[kind], self.comparison
        over = "images" if estimate.basis == "images" else f"{len(estimate.seed_values)} seeds"
        return f"{own.level * 100:g} % over {over}, n = {own.num_images}, ε = {own.epsilon * 255:.3g}/255"


def make_panels(comparisons: Sequence[Comparison], dark: bool, *, title: str, x: dict[str, Any]) -> Drawing:
    """Begin a figure of four empty panels, two by two.

    Args:
        comparisons: what will be drawn; vertical axes fit them, and ε is named where they share it.
        dark: which design.
        title: of the horizontal axes.
        x: their range and ticks.
    """
    colours = palette(dark)
    drawing = Drawing(dark, height=600, margin={"l": 52, "r": 10, "t": 76, "b": 44})
    legend = {"orientation": "h", "x": 0, "y": 1.075, "yanchor": "bottom", "font": {"size": 11}}
    drawing.update_layout(hovermode="closest", legend=legend)
    sizes = {f"{own.epsilon * 255:.3g}/255" for own in comparisons}
    for panel, kind in enumerate(JUDGED):
        axes = _axes(kind)
        left, low = (_WIDTH + 0.12) * (panel % 2), (_HEIGHT + 0.16) * (1 - panel // 2)
        horizontal = x | {"domain": [left, left + _WIDTH], "anchor": axes["yaxis"]}
        vertical: dict[str, Any] = {
            "domain": [low, low + _HEIGHT],
            "anchor": axes["xaxis"],
            "range": _range(comparisons, kind),
        }
        vertical |= {"showgrid": True, "gridcolor": colours.faint, "tickformat": ".2f", "nticks": 6}
        number = axes["xaxis"].removeprefix("x")
        drawing.add_axes(number, horizontal | _RULED, vertical | _RULED, title=title if panel // 2 else "")
        epsilon = f", ε = {next(iter(sizes))}" if kind in ("fgsm", "pgd") and len(sizes) == 1 else ""
        drawing.add_annotation(
            text=f"<b>{_TITLES[kind]}</b>{epsilon}",
            x=left,
            y=low + _HEIGHT,
            xref="paper",
            yref="paper",
            xanchor="left",
            yanchor="bottom",
            font={"size": 12, "color": colours.ink},
        )
    return drawing


def _axes(kind: Judged) -> dict[str, str]:
    panel = JUDGED.index(kind) + 1
    number = "" if panel == 1 else str(panel)
    return {"xaxis": f"x{number}", "yaxis": f"y{number}"}


def _range(comparisons: Sequence[Comparison], kind: Judged) -> list[float]:
    """Fit what is drawn, as far as accuracies go: an interval over two seeds reaches far beyond."""
    found = [row.accuracy[kind] for own in comparisons for row in own.rows if row.accuracy]
    low = max(min(min(own.low, *own.seed_values) for own in found), 0.0)
    high = min(max(max(own.high, *own.seed_values) for own in found), 1.0)
    pad = 0.04 * (high - low) + 0.005
    return [low - pad, high + pad]


def draw_line(drawing: Drawing, name: str, points: Sequence[Point], dark: bool, *, band: bool) -> None:
    """Draw a line through a rule's accuracies in every panel; several seeds as dots.

    Args:
        drawing: of :func:`make_panels`.
        name: of the rule, or ``NO_RETRAINING``.
        points: in order; at least one.
        dark: which design.
        band: whether to draw the intervals between them.
    """
    light, night, dash, symbol = _STYLES[name]
    colour = night if dark else light
    for kind in JUDGED:
        shared: dict[str, Any] = {"legendgroup": name, **_axes(kind)}
        x, estimates = [own.x for own in points], [own.accuracy[kind] for own in points]
        if band and len(points) > 1:
            drawing.add_scatter(x=x, y=[own.high for own in estimates], **_HIDDEN, **shared)
            drawing.add_scatter(x=x, y=[own.low for own in estimates], **_fill(colour), **_HIDDEN, **shared)
        drawing.add_scatter(
            x=x,
            y=[own.value for own in estimates],
            customdata=[[own.accuracy[kind].low, own.accuracy[kind].high, own.about(kind)] for own in points],
            mode="lines+markers",
            line={"color": colour, "width": 2.4 if name == PAPERS_RULE else 1.6, "dash": dash},
            marker={"color": colour, "symbol": symbol, "size": 7},
            name=name,
            showlegend=kind == JUDGED[0],
            hovertemplate=f"{name}: %{{y:.3f}} [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}]<br>"
            "%{customdata[2]}<extra></extra>",
            **shared,
        )
        dots = [(own.x, value) for own in points for value in _seeds(own.accuracy[kind])]
        if dots:
            drawing.add_scatter(
                x=[epoch for epoch, _ in dots],
                y=[value for _, value in dots],
                mode="markers",
                marker={"color": colour, "size": 4, "opacity": 0.7},
                showlegend=False,
                hovertemplate=f"{name}, one seed: %{{y:.3f}}<extra></extra>",
                **shared,
            )


def _seeds(estimate: Estimate) -> tuple[float, ...]:
    return estimate.seed_values if len(estimate.seed_values) > 1 else ()


def _fill(colour: str) -> dict[str, str]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return {"fill": "tonexty", "fillcolor": f"rgba({red},{green},{blue},0.13)"}
