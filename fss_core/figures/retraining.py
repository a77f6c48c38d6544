"""Accuracy after retraining: against the epoch of retraining, and against the epoch that it started from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from fss_core.figures.drawing import Drawing
from fss_core.figures.panels import Point, draw_line, make_panels
from fss_core.retraining.comparing import EVERYTHING, NO_RETRAINING, Comparison
from fss_core.retraining.results import HEADLINE
from fss_core.retraining.rules import PAPERS_RULE

MOST_BANDS = 4
"""So many rules have their bands drawn; of more, only the paper's and ``all``."""

_MOST_TICKS = 11


def retraining_figure(comparisons: Sequence[Comparison], *, dark: bool = False) -> go.Figure:
    """Draw accuracy against the epoch of retraining, one panel per kind of image, one line per rule, with bands.

    Args:
        comparisons: before retraining, and after every epoch up to the budget.
        dark: which design.

    Returns:
        The figure; with several seeds, each is a dot. No retraining is a dotted line at what was before.
    """
    places = [own.epoch for own in comparisons]
    ticks = places
    if len(ticks) > _MOST_TICKS:
        ticks = sorted({*np.linspace(0, places[-1], 6).round().astype(int).tolist()})
    axis = {
        "range": [-0.05 * places[-1], 1.05 * places[-1]],
        "tickvals": ticks,
        "ticktext": ["before", *map(str, ticks[1:])],
    }
    drawing = make_panels(comparisons, dark, title="epochs of retraining", x=axis)
    before = comparisons[0]
    level = [Point(x=place, comparison=before, accuracy=before.rows[0].accuracy) for place in places]
    draw_line(drawing, NO_RETRAINING, level, dark, band=False)
    _draw_rules(drawing, comparisons, places, dark)
    return drawing.finished()


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

    Returns:
        The figure; ε is named where all share it, and on hover anyway.
    """
    places = [own.spec.measurement.epoch for own in comparisons]
    margin = 0.08 * max(places[-1] - places[0], 1)
    axis = {
        "range": [places[0] - margin, places[-1] + margin],
        "tickvals": places,
        "ticktext": [str(place) for place in places],
    }
    drawing = make_panels(comparisons, dark, title="epoch of the checkpoint", x=axis)
    pairs = zip(places, comparisons, strict=True)
    before = [Point(x=place, comparison=own, accuracy=own.rows[0].accuracy) for place, own in pairs]
    draw_line(drawing, NO_RETRAINING, before, dark, band=False)
    _draw_rules(drawing, comparisons, places, dark)
    return drawing.finished()


def checkpoints_alt(comparisons: Sequence[Comparison]) -> str:
    """Say what the chart across checkpoints shows, in a sentence."""
    parts = []
    for own in comparisons:
        best = max((row for row in own.rows if row.accuracy), key=lambda row: row.accuracy[HEADLINE].value)
        parts.append(f"epoch {own.spec.measurement.epoch}: {best.rule} {best.accuracy[HEADLINE].value:.3f}")
    return f"Accuracy after retraining by the epoch it started from. Highest FGSM accuracy, {'; '.join(parts)}."


def _draw_rules(drawing: Drawing, comparisons: Sequence[Comparison], places: Sequence[int], dark: bool) -> None:
    """Draw every rule where it has accuracies."""
    points: dict[str, list[Point]] = {}
    for rule in comparisons[0].spec.rules:
        for place, own in zip(places, comparisons, strict=True):
            if (row := own.row(rule)) is not None and row.accuracy:
                points.setdefault(rule, []).append(Point(x=place, comparison=own, accuracy=row.accuracy))
    for rule, found in points.items():
        draw_line(drawing, rule, found, dark, band=len(points) <= MOST_BANDS or rule in (PAPERS_RULE, EVERYTHING))
