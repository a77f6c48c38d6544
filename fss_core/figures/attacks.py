"""An attack: an image with its perturbation, what the network makes of both, and accuracy over the attack's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from fss_core.figures.drawing import Drawing
from fss_core.figures.images import as_png
from fss_core.figures.style import palette, plain, shorten, small
from fss_core.summaries import Accuracy

_RULED = {"showline": True, "ticks": "outside", "ticklen": 3}
_SPLIT = 0.46
"""Where the images end and the bars begin, from the top."""


def attack_figure(
    clean: npt.NDArray[np.float32],
    adversarial: npt.NDArray[np.float32],
    probabilities: npt.NDArray[np.float32],
    class_names: Sequence[str],
    label: int,
    *,
    scale: float,
    dark: bool = False,
) -> go.Figure:
    """Draw an image, its perturbation, the sum of both, and what the network makes of the first and the last.

    Args:
        clean: float32 (C, H, W) on [0, 1].
        adversarial: likewise.
        probabilities: float32 (2, K), clean and adversarial.
        class_names: K names.
        label: the true class, set in bold.
        scale: factor by which the perturbation is enlarged to be seen; grey is no change.
        dark: which design.

    Returns:
        The figure; three images above, two bars for each class below.
    """
    colours = palette(dark)
    drawing = Drawing(dark, height=430, margin={"l": 52, "r": 10, "t": 40, "b": 46})
    perturbation = np.clip(0.5 + scale * (adversarial - clean), 0, 1)
    enlarged = "change" if not np.any(adversarial != clean) else f"change<br>× {scale:.3g}"  # narrow, for a phone
    titles = ("image", enlarged, "attacked")
    for place, (title, pixels) in enumerate(zip(titles, (clean, perturbation, adversarial), strict=True)):
        left = place / 3 + 0.01
        drawing.add_image(
            source=as_png(pixels),
            xref="paper",
            yref="paper",
            x=left,
            y=1,
            sizex=1 / 3 - 0.02,
            sizey=_SPLIT,
            xanchor="left",
            yanchor="top",
            sizing="contain",
        )
        drawing.add_annotation(
            text=title,
            xref="paper",
            yref="paper",
            x=left + 1 / 6 - 0.01,
            y=1,
            xanchor="center",
            yanchor="bottom",
            font={"size": 12, "color": colours.ink},
        )
    names = [plain(shorten(name, 12)) for name in class_names]
    names[label] = f"<b>{names[label]}</b>"
    places = np.arange(len(names))
    for row, (name, colour, pattern) in enumerate((("image", colours.ink, ""), ("attacked", colours.accent, "/"))):
        drawing.add_bar(
            x=small(places),
            y=small(probabilities[row]),
            name=name,
            marker={
                "color": colour,
                "pattern": {"shape": pattern, "fillmode": "overlay", "fgcolor": colours.ground, "solidity": 0.15},
            },
            hovertemplate=f"{name}, class %{{x}}: %{{y:.3f}}<extra></extra>",
        )
    drawing.update_layout(
        barmode="group",
        bargap=0.25,
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1 - _SPLIT - 0.02, "yanchor": "top"},
    )
    drawing.update_axis(
        "x",
        range=[-0.5, len(names) - 0.5],
        tickvals=places,
        ticktext=names,
        title="class (true one in bold)",
        showline=True,
    )
    drawing.update_axis(
        "y",
        domain=[0, 1 - _SPLIT - 0.12],
        range=[0, 1.02],
        tickvals=[0, 0.5, 1],
        title="probability",
        showgrid=True,
        gridcolor=colours.faint,
        **_RULED,
    )
    return drawing.finished()


def attack_alt(
    probabilities: npt.NDArray[np.float32], class_names: Sequence[str], label: int, epsilon: float, largest: float
) -> str:
    """Say what the picture of an attack shows, in a sentence; ``largest`` is the largest change of a pixel."""
    clean, attacked = (
        f"{class_names[int(row.argmax())]} with probability {float(row.max()):.3f}" for row in probabilities
    )
    return (
        f"An image of class {class_names[label]}; ε = {epsilon * 255:.3g}/255, largest change {largest * 255:.3g}/255. "
        f"The network says {clean}; of the attacked image {attacked}."
    )


def sweep_figure(
    epsilons: Sequence[float],
    accuracies: Sequence[Accuracy],
    *,
    chance: float,
    chosen: int | None = None,
    calibrated: float | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw accuracy under an attack over its size, with bands.

    Args:
        epsilons: in pixels on [0, 1], ascending; drawn at equal distances.
        accuracies: at each.
        chance: 1 / number of classes.
        chosen: which of them is marked.
        calibrated: the size that is calibrated; marked if it is among them.
        dark: which design.

    Returns:
        The figure.
    """
    colours = palette(dark)
    drawing = Drawing(dark, height=380, margin={"l": 58, "r": 14, "t": 26, "b": 48})
    drawing.update_layout(showlegend=False, hovermode="closest")
    places = np.arange(len(epsilons))
    drawing.update_axis(
        "x",
        range=[-0.3, len(epsilons) - 0.7],
        tickvals=places,
        ticktext=[f"{epsilon * 255:.3g}" for epsilon in epsilons],
        title="size ε of the attack, in 1/255",
        **_RULED,
    )
    drawing.update_axis(
        "y",
        range=[-0.02, 1.02],
        title="accuracy",
        tickvals=[0, 0.2, 0.4, 0.6, 0.8, 1],
        tickformat=".1f",
        showgrid=True,
        gridcolor=colours.faint,
        **_RULED,
    )
    values = np.array([(own.value, own.low, own.high) for own in accuracies], dtype=np.float64)
    hidden: dict[str, Any] = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    drawing.add_scatter(x=small(places), y=small(values[:, 2]), **hidden)
    drawing.add_scatter(x=small(places), y=small(values[:, 1]), fill="tonexty", fillcolor=colours.accent_band, **hidden)
    first = accuracies[0]
    drawing.add_scatter(
        x=small(places),
        y=small(values[:, 0]),
        customdata=small(values[:, 1:]),
        mode="lines+markers",
        line={"color": colours.accent, "width": 2.4},
        marker={"size": [14 if place == chosen else 6 for place in places.tolist()], "color": colours.accent},
        name="accuracy",
        hovertemplate="ε = %{text}/255<br>%{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]"
        f"<br>{first.level * 100:g} %, n = {first.num_images}<extra></extra>",
        text=[f"{epsilon * 255:.3g}" for epsilon in epsilons],
    )
    drawing.add_line(
        "y",
        chance,
        line={"color": colours.muted, "width": 1, "dash": "dot"},
    )
    drawing.add_annotation(
        text="chance",
        x=0,
        xref="x domain",
        xanchor="left",
        y=chance,
        yanchor="top",
        font={"size": 11, "color": colours.muted},
    )
    if chosen is not None:
        drawing.add_line("x", chosen, line={"color": colours.ink, "width": 1})
    near = [place for place, epsilon in enumerate(epsilons) if calibrated and abs(epsilon - calibrated) < 1e-9]
    for place in near:
        drawing.add_annotation(
            text="calibrated",
            x=place,
            y=1,
            yref="paper",
            yanchor="bottom",
            font={"size": 11, "color": colours.muted},
        )
    return drawing.finished()


def sweep_alt(epsilons: Sequence[float], accuracies: Sequence[Accuracy]) -> str:
    """Say what the curve shows, in a sentence."""
    parts = [f"{own.value:.2f} at {epsilon * 255:.3g}/255" for epsilon, own in zip(epsilons, accuracies, strict=True)]
    return f"Accuracy over the size of the attack, n = {accuracies[0].num_images}: {', '.join(parts)}."
