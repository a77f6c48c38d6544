"""Accuracy after retraining: against the epoch of retraining, and against the epoch that it started from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from fss_core.figures.style import empty_figure, palette
from fss_core.retraining.comparing import EVERYTHING, NO_RETRAINING, Comparison, Estimate, Row
from fss_core.retraining.results import HEADLINE, JUDGED, Judged
from fss_core.retraining.rules import PAPERS_RULE

JUDGED_TITLES: dict[Judged, str] = {
    "clean": "Clean images",
    "fgsm": "White-box FGSM",
    "pgd": "White-box PGD",
    "transfer": "Transfer from before",
}

MOST_BANDS = 4
"""So many rules have their bands drawn; of more, only the paper's and ``all``."""

_STYLES: dict[str, tuple[str, str, str, str]] = {
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


def retraining_figure(comparisons: Sequence[Comparison], *, dark: bool = False) -> go.Figure:
    """Draw accuracy against the epoch of retraining, one panel per kind of image, one line per rule, with bands.

    Args:
        comparisons: before retraining, and after every epoch up to the budget.
        dark: which design.

    Returns:
        The figure; with several seeds, each is a dot.
    """
    epochs = np.array([own.epoch for own in comparisons])
    found = {row.rule: [own.row(row.rule) for own in comparisons] for row in comparisons[-1].rows[1:]}
    ticks = epochs.tolist()
    if len(ticks) > 11:
        ticks = sorted({*np.linspace(0, epochs[-1], 6).round().astype(int).tolist()})
    figure = _panels(
        comparisons[-1],
        dark,
        x=(-0.1 * epochs[-1] / 2, epochs[-1] * 1.05),
        ticks=(ticks, ["before", *map(str, ticks[1:])]),
        title="epochs of retraining",
    )
    about = _about(comparisons[-1])
    drawn = [rule for rule, rows in found.items() if any(own is not None and own.accuracy for own in rows)]
    for panel, kind in enumerate(JUDGED, 1):
        _fit(figure, comparisons, kind, panel)
        before = comparisons[0].rows[0].accuracy[kind]
        _before(figure, before, (float(epochs[0]), float(epochs[-1])), panel, dark, about)
        for rule in drawn:
            own = [(x, row) for x, row in zip(epochs.tolist(), found[rule], strict=True) if row and row.accuracy]
            with_band = len(drawn) <= MOST_BANDS or rule in (PAPERS_RULE, EVERYTHING)
            _rule_line(figure, rule, kind, own, panel, dark, about, with_band=with_band)
    return figure


def retraining_alt(comparisons: Sequence[Comparison]) -> str:
    """Say what the curves show, in a sentence."""
    last = comparisons[-1]
    before = comparisons[0].rows[0].accuracy[HEADLINE].value
    parts = [f"{row.rule} {row.accuracy[HEADLINE].value:.3f}" for row in last.rows[1:] if row.accuracy]
    return (
        f"Clean, FGSM, PGD and transfer accuracy over {last.epoch} epochs of retraining, n = {last.num_images}. "
        f"FGSM accuracy before: {before:.3f}; after: {', '.join(parts) or 'nothing retrained so far'}."
    )


def checkpoints_figure(comparisons: Sequence[Comparison], *, dark: bool = False) -> go.Figure:
    """Draw accuracy after retraining against the epoch that it started from, one panel per kind of image.

    Args:
        comparisons: one per checkpoint, after the same budget.
        dark: which design.
    """
    epochs = [own.spec.measurement.epoch for own in comparisons]
    span = max(epochs[-1] - epochs[0], 1)
    figure = _panels(
        comparisons[0],
        dark,
        x=(epochs[0] - 0.08 * span, epochs[-1] + 0.08 * span),
        ticks=(epochs, [str(epoch) for epoch in epochs]),
        title="epoch of the checkpoint",
    )
    colours = palette(dark)
    retrained = {row.rule for own in comparisons for row in own.rows[1:] if row.accuracy}
    rules = [rule for rule in comparisons[0].spec.rules if rule in retrained]
    for panel, kind in enumerate(JUDGED, 1):
        _fit(figure, comparisons, kind, panel)
        own = [(epoch, one.rows[0]) for epoch, one in zip(epochs, comparisons, strict=True)]
        _line(figure, NO_RETRAINING, kind, own, panel, (colours.muted, "dot", "circle-open"), _about(comparisons[0]))
        for rule in rules:
            rows = [(epoch, one.row(rule)) for epoch, one in zip(epochs, comparisons, strict=True)]
            found = [(epoch, row) for epoch, row in rows if row is not None and row.accuracy]
            with_band = len(rules) <= MOST_BANDS or rule in (PAPERS_RULE, EVERYTHING)
            _rule_line(figure, rule, kind, found, panel, dark, _about(comparisons[0]), with_band=with_band)
    return figure


def checkpoints_alt(comparisons: Sequence[Comparison]) -> str:
    """Say what the chart across checkpoints shows, in a sentence."""
    parts = []
    for own in comparisons:
        best = max((row for row in own.rows if row.accuracy), key=lambda row: row.accuracy[HEADLINE].value)
        parts.append(f"epoch {own.spec.measurement.epoch}: {best.rule} {best.accuracy[HEADLINE].value:.3f}")
    return f"Accuracy after retraining by the epoch it started from. Highest FGSM accuracy, {'; '.join(parts)}."


def _fit(figure: go.Figure, comparisons: Sequence[Comparison], kind: Judged, panel: int) -> None:
    """Fit a panel to what is drawn, as far as accuracies go: an interval over two seeds reaches far beyond."""
    found = [row.accuracy[kind] for own in comparisons for row in own.rows if row.accuracy]
    low = max(min(min(own.low, *own.seed_values) for own in found), 0.0)
    high = min(max(max(own.high, *own.seed_values) for own in found), 1.0)
    pad = 0.04 * (high - low) + 0.005
    number = "" if panel == 1 else str(panel)
    figure.update_layout({f"yaxis{number}_range": [low - pad, high + pad]})


def _panels(
    comparison: Comparison, dark: bool, *, x: tuple[float, float], ticks: tuple[list[int], list[str]], title: str
) -> go.Figure:
    """Four panels, two by two, that share what their horizontal axes say."""
    colours = palette(dark)
    figure = empty_figure(dark, height=600, margin={"l": 52, "r": 10, "t": 76, "b": 44})
    figure.update_layout(
        hovermode="closest",
        legend={
            "orientation": "h",
            "x": 0,
            "y": 1.075,
            "yanchor": "bottom",
            "font": {"size": 11},
            "itemclick": "toggle",
        },
    )
    template = figure.layout
    base_x, base_y = template.xaxis.to_plotly_json(), template.yaxis.to_plotly_json()
    for panel, kind in enumerate(JUDGED, 1):
        number = "" if panel == 1 else str(panel)
        left, low = 0.56 * ((panel - 1) % 2), 0.55 * (1 - (panel - 1) // 2)
        figure.update_layout(
            {
                f"xaxis{number}": base_x
                | _RULED
                | {
                    "range": list(x),
                    "tickvals": ticks[0],
                    "ticktext": ticks[1],
                    "domain": [left, left + 0.44],
                    "anchor": f"y{number}",
                },
                f"yaxis{number}": base_y
                | _RULED
                | {
                    "domain": [low, low + 0.42],
                    "anchor": f"x{number}",
                    "showgrid": True,
                    "gridcolor": colours.faint,
                    "tickformat": ".2f",
                    "nticks": 6,
                },
            }
        )
        if panel > 2:
            figure.update_layout({f"xaxis{number}_title_text": title})
        figure.add_annotation(
            text=f"<b>{JUDGED_TITLES[kind]}</b>"
            + (f", ε = {comparison.epsilon * 255:.3g}/255" if kind in ("fgsm", "pgd") else ""),
            x=left,
            y=low + 0.42,
            xref="paper",
            yref="paper",
            xanchor="left",
            yanchor="bottom",
            showarrow=False,
            font={"size": 12, "color": colours.ink},
        )
    return figure


def _about(comparison: Comparison) -> str:
    over = "images" if comparison.one_checkpoint else f"{len(comparison.seeds)} seeds"
    return f"{comparison.level * 100:g} % over {over}, n = {comparison.num_images}"


def _axes(panel: int) -> dict[str, str]:
    number = "" if panel == 1 else str(panel)
    return {"xaxis": f"x{number}", "yaxis": f"y{number}"}


def _before(figure: go.Figure, before: Estimate, x: tuple[float, float], panel: int, dark: bool, about: str) -> None:
    """Mark the accuracy before retraining: a dotted line from its epoch on."""
    colours = palette(dark)
    figure.add_scatter(
        x=list(x),
        y=[before.value] * 2,
        mode="lines",
        line={"color": colours.muted, "width": 1.5, "dash": "dot"},
        name=NO_RETRAINING,
        legendgroup=NO_RETRAINING,
        showlegend=panel == 1,
        hovertemplate=f"{NO_RETRAINING}: %{{y:.3f}} [{before.low:.3f}, {before.high:.3f}] ({about})<extra></extra>",
        **_axes(panel),
    )


def _rule_line(
    figure: go.Figure,
    rule: str,
    kind: Judged,
    rows: Sequence[tuple[int, Row]],
    panel: int,
    dark: bool,
    about: str,
    *,
    with_band: bool,
) -> None:
    if not rows:
        return
    colours = palette(dark)
    light, night, dash, symbol = _STYLES.get(rule, (colours.muted, colours.muted, "dot", "circle"))
    colour = night if dark else light
    if with_band and len(rows) > 1:
        estimates = [row.accuracy[kind] for _, row in rows]
        for bound, fill in (([own.high for own in estimates], {}), ([own.low for own in estimates], _fill(colour))):
            figure.add_scatter(
                x=[epoch for epoch, _ in rows], y=bound, legendgroup=rule, **_HIDDEN, **fill, **_axes(panel)
            )
    _line(figure, rule, kind, rows, panel, (colour, dash, symbol), about)


def _fill(colour: str) -> dict[str, str]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return {"fill": "tonexty", "fillcolor": f"rgba({red},{green},{blue},0.13)"}


def _line(
    figure: go.Figure,
    name: str,
    kind: Judged,
    rows: Sequence[tuple[int, Row]],
    panel: int,
    style: tuple[str, str, str],
    about: str,
) -> None:
    """A line through estimates whose hover label gives the interval; several seeds as dots."""
    colour, dash, symbol = style
    estimates = [row.accuracy[kind] for _, row in rows]
    figure.add_scatter(
        x=[epoch for epoch, _ in rows],
        y=[own.value for own in estimates],
        customdata=[[own.low, own.high] for own in estimates],
        mode="lines+markers",
        line={"color": colour, "width": 2.4 if name == PAPERS_RULE else 1.6, "dash": dash},
        marker={"color": colour, "symbol": symbol, "size": 7},
        name=name,
        legendgroup=name,
        showlegend=panel == 1,
        hovertemplate=f"{name}: %{{y:.3f}} [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}] ({about})<extra></extra>",
        **_axes(panel),
    )
    dots = [(epoch, value) for (epoch, row) in rows for value in row.accuracy[kind].seed_values if len(row.seeds) > 1]
    if dots:
        figure.add_scatter(
            x=[epoch for epoch, _ in dots],
            y=[value for _, value in dots],
            mode="markers",
            marker={"color": colour, "size": 4, "opacity": 0.7},
            legendgroup=name,
            showlegend=False,
            hovertemplate=f"{name}, one seed: %{{y:.3f}}<extra></extra>",
            **_axes(panel),
        )
