"""Which layers each rule trains, on the rows of the score heatmap."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from fss_core.figures.drawing import Drawing
from fss_core.figures.heat import ROW_HEIGHT, left_margin, pale_ground, readable_on, row_names, words
from fss_core.figures.style import palette, plain, small
from fss_core.numerals import signed_interval
from fss_core.retraining.coverage import NOT_KNOWN, Coverage
from fss_core.retraining.rules import RULES

_TOP, _BOTTOM = 128, 16


def coverage_chart(coverage: Coverage, *, dark: bool = False) -> go.Figure:
    """Draw which layers each rule trains: a mark where it trains all of a layer, a percentage where it trains a part.

    Args:
        coverage: of one checkpoint.
        dark: which design.

    Returns:
        The figure; layers are the same rows as in the score heatmap, the first column is the call that decides. A rule
        that trains nothing has a word in place of marks; why, is in the coverage.
    """
    colours = palette(dark)
    num_layers, num_rules = coverage.shares.shape
    first = 1 if coverage.scores else 0
    columns = [*(["call"] if first else []), *coverage.rules]
    drawing = Drawing(
        dark,
        height=_TOP + _BOTTOM + ROW_HEIGHT * num_layers,
        margin={"l": left_margin(coverage.layers), "r": 64, "t": _TOP, "b": _BOTTOM},
    )
    drawing.update_layout(hovermode="closest", showlegend=False)
    rows = np.arange(num_layers)
    drawing.update_axis(
        "x",
        range=[-0.5, max(len(columns), 6) - 0.5],
        tickvals=np.arange(len(columns)),
        ticktext=[f"<b>{plain(name)}</b>" if name in RULES else name for name in columns],
        tickangle=-60,
        ticklabeloverflow="allow",
        side="top",
        ticks="",
    )
    drawing.update_axis("y", range=[num_layers - 0.5, -0.5], tickvals=rows, showticklabels=False, ticks="")
    fills = ((0.0, colours.ground), (1.0, colours.accent))
    shares = np.where(coverage.shares > 0, 0.35 + 0.65 * coverage.shares, np.nan)
    drawing.add_heatmap(
        x=small(first + np.arange(num_rules)),
        y=small(rows),
        z=small(shares),
        zmin=0,
        zmax=1,
        colorscale=[list(stop) for stop in fills],
        showscale=False,
        xgap=1,
        ygap=1,
        text=[[_describe(coverage, row, column) for column in range(num_rules)] for row in range(num_layers)],
        hovertemplate="%{text}<extra></extra>",
        hoverongaps=True,
    )
    marks = [[_mark(share) for share in own] for own in coverage.shares]
    inks = readable_on(np.nan_to_num(shares), fills)
    for ink in np.unique(inks[coverage.shares > 0]).tolist():
        at, of = np.nonzero((inks == ink) & (coverage.shares > 0))
        drawing.add_traces(words(first + of, at, [marks[i][j] for i, j in zip(at, of, strict=True)], ink))
    if first:
        drawing.add_traces(words(np.zeros(num_layers), rows, list(coverage.letters), colours.ink))
    drawing.add_traces(
        words(np.full(num_layers, -0.5), rows, row_names(coverage.layers), colours.ink, position="middle left")
    )
    for column, reason in enumerate(coverage.reasons):
        if reason:
            drawing.add_annotation(
                text="not known" if reason == NOT_KNOWN else "nothing",
                x=first + column,
                y=0,
                xanchor="center",
                yanchor="top",
                textangle=-90,
                font={"size": 11, "color": colours.muted},
            )
    pale_ground(drawing, colours, (first - 0.5, len(columns) - 0.5), (-0.5, num_layers - 0.5))
    return drawing.finished()


def mark_rule(figure: go.Figure, coverage: Coverage, rule: str, *, dark: bool = False) -> go.Figure:
    """Frame the column of a rule.

    Args:
        figure: of :func:`coverage_chart`; changed in place.
        coverage: what was drawn.
        rule: one of its rules.
        dark: which design.

    Returns:
        The same figure.
    """
    column = coverage.rules.index(rule) + (1 if coverage.scores else 0)
    line = {"color": palette(dark).ink, "width": 2}
    return figure.add_shape(
        type="rect", x0=column - 0.5, x1=column + 0.5, y0=-0.5, y1=len(coverage.layers) - 0.5, line=line
    )


def coverage_alt(coverage: Coverage) -> str:
    """Say what the chart of trained layers shows, in words."""
    parts = [
        f"{rule}: {reason}" if reason else f"{rule} trains {coverage.num_layers(rule)}"
        for rule, reason in zip(coverage.rules, coverage.reasons, strict=True)
    ]
    return f"Chart of {len(coverage.layers)} layers by {len(coverage.rules)} rules. {'; '.join(parts)}."


def _mark(share: float) -> str:
    if share >= 1:
        return "●"
    return f"{max(round(100 * share), 1)}" if share > 0 else ""


def _describe(coverage: Coverage, row: int, column: int) -> str:
    share, rule, draws = coverage.shares[row, column], coverage.rules[column], coverage.num_draws[column]
    trained = "frozen" if share == 0 else f"{share:.0%} of its live weights trained"
    lines = [f"<b>{plain(coverage.layers[row])}</b>, {coverage.num_live[row]:,} live weights", f"{rule}: {trained}"]
    if draws > 1:
        lines[-1] += f", mean of {draws} draws"
    if coverage.scores and (score := coverage.scores[row]).score is not None:
        lines.append(f"{score.certainty} {score.call}: {signed_interval(score.score, score.low, score.high)}")
    return "<br>".join(lines)
