"""Scores by layer: the grid behind the main heatmap, with the words that explain each cell."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fss_core.numerals import signed_interval
from fss_core.responses import Responses
from fss_core.scores import KINDS, MEAN_FILTER, Kind, Score, Scores
from fss_core.specs import GLOBAL_LAYER, SYNAPTIC_FILTERS, ScoreSpec
from fss_core.summaries.tiles import letter

GRID_FILTERS: tuple[str, ...] = (*SYNAPTIC_FILTERS, MEAN_FILTER)
"""The columns of a grid under each kind of score, unless told otherwise."""

_FILTER_TITLES = {
    "high_pass": "High-pass",
    "low_pass": "Low-pass",
    "pulse": "Pulse",
    "mean": "Mean of the three filters",
    "random": "Random control",
}
_KIND_TITLES = {
    "stem": "first layer",
    "downsample": "downsampling convolution",
    "depthwise": "depthwise convolution",
    "classifier": "classifier",
    "linear": "linear layer",
    "all": "every layer at once",
}


def filter_title(name: str) -> str:
    """Write a filter's name as words.

    >>> filter_title("high_pass")
    'High-pass'
    """
    return _FILTER_TITLES.get(name, name)


def layer_title(name: str) -> str:
    """Write a layer's name for the screen, in HTML: names may come from a stranger's file.

    Quotes stay as they are, since Plotly shows ``&quot;`` literally.

    >>> layer_title("<b>conv</b>")
    '&lt;b&gt;conv&lt;/b&gt;'
    """
    return "Whole network" if name == GLOBAL_LAYER else html.escape(name, quote=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCell:
    """One cell of a grid.

    Attributes:
        score: ``None`` while it is not measured.
        letter: the call as :func:`~fss_core.summaries.letter` writes it; ``"…"`` while it is not measured.
        text: what it says beyond its row, its column and its numbers, in HTML.
    """

    score: Score | None
    letter: str
    text: str

    @property
    def numbers(self) -> tuple[float, float, float] | None:
        """The score and the ends of its interval; ``None`` where there is none."""
        score = self.score
        if score is None or score.score is None or score.low is None or score.high is None:
            return None
        return score.score, score.low, score.high

    @property
    def is_leaning(self) -> bool:
        """Whether the interval has not wholly the call of the score."""
        return self.score is not None and self.score.certainty == "leaning"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreGrid:
    """Scores of all layers of a network: a row a layer, a column a kind of score and a filter.

    Attributes:
        spec: how the scores were computed.
        layers: the rows, in network order; the whole network, if it is among them, is last.
        columns: kind and filter of each column; filters vary fastest.
        cells: R × C.
        previewed: the rows of which there is no more than a first look.
        row_texts: what every cell of a row has in common (layer, its kind, share of zero gradients), in HTML.
        column_texts: what every cell of a column has in common (filter, kind of score, interval, n, p₀), in HTML.
    """

    spec: ScoreSpec
    layers: tuple[str, ...]
    columns: tuple[tuple[Kind, str], ...]
    cells: tuple[tuple[ScoreCell, ...], ...]
    row_texts: tuple[str, ...]
    column_texts: tuple[str, ...]
    previewed: frozenset[str] = frozenset()

    @property
    def filters(self) -> tuple[str, ...]:
        """The filters under each kind of score."""
        return tuple(dict.fromkeys(name for _, name in self.columns))

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The scores, (R, C); NaN where there is none."""
        return np.array(
            [[np.nan if cell.numbers is None else cell.numbers[0] for cell in row] for row in self.cells],
            dtype=np.float64,
        ).reshape(len(self.layers), len(self.columns))

    @property
    def letters(self) -> list[list[str]]:
        """What is written in the cells, R × C."""
        return [[cell.letter for cell in row] for row in self.cells]

    @property
    def num_pending(self) -> int:
        """Rows in which nothing is measured yet."""
        return sum(all(cell.score is None for cell in row) for row in self.cells)

    def text(self, row: int, column: int) -> str:
        """Say everything about a cell, in HTML."""
        cell = self.cells[row][column]
        lines = [self.row_texts[row], self.column_texts[column]]
        if cell.numbers is not None:
            lines.append(signed_interval(*cell.numbers))
        return "<br>".join([*lines, cell.text])


def score_grid(
    scores: Sequence[Scores],
    layers: Sequence[str],
    *,
    spec: ScoreSpec,
    responses: Sequence[Responses] = (),
    filters: Sequence[str] = GRID_FILTERS,
    previewed: Collection[str] = (),
) -> ScoreGrid:
    """Arrange scores in a grid, with a place for what is not measured yet.

    Args:
        scores: of one network; the local ones, and where they exist those of the control and of the whole network. Of
            two scores of the same cell the later stands.
        layers: the names of all rows, in network order, measured or not; ``specs.GLOBAL_LAYER`` is moved to the end.
        spec: how ``scores`` were computed.
        responses: what they were computed from: tells the kind of each layer, and how often its attack found no
            gradient.
        filters: the columns under each kind of score; ``"random"`` adds the control.
        previewed: layers of which there is no more than a first look.

    Returns:
        The grid; it has a row for each of ``layers`` even if ``scores`` is empty.
    """
    names = [name for name in layers if name != GLOBAL_LAYER] + [name for name in layers if name == GLOBAL_LAYER]
    columns = tuple((kind, name) for kind in KINDS for name in filters)
    found = {
        (row.layer, row.kind, row.filter): (row, _circumstances(row, own.level_per_score))
        for own in scores
        for row in own.rows
    }
    usual: dict[tuple[Kind, str], str] = {}
    for column in columns:
        seen = Counter(found[name, *column][1] for name in names if (name, *column) in found)
        usual[column] = seen.most_common(1)[0][0] if seen else ""

    def cell(name: str, column: tuple[Kind, str]) -> ScoreCell:
        if (name, *column) not in found:
            return ScoreCell(score=None, letter="…", text="not measured yet")
        score, circumstances = found[name, *column]
        text = _describe(score)
        return ScoreCell(
            score=score,
            letter=letter(score),
            text=text if circumstances == usual[column] else f"{text}<br>{circumstances}",
        )

    return ScoreGrid(
        spec=spec,
        layers=tuple(names),
        columns=columns,
        cells=tuple(tuple(cell(name, column) for column in columns) for name in names),
        previewed=frozenset(previewed),
        row_texts=tuple(
            _describe_layer(name, responses) + ("<br>a first look" if name in previewed else "") for name in names
        ),
        column_texts=tuple(
            "<br>".join(filter(None, (f"{filter_title(name)}, {kind} score", usual[kind, name])))
            for kind, name in columns
        ),
    )


def _circumstances(score: Score, level: float) -> str:
    """What a score shares with its neighbours: level, n and p₀, or the reason why there is none."""
    if score.score is None:
        return html.escape(score.reason, quote=False)
    which = "adversarial " if score.kind == "difference" else ""
    return f"{level * 100:.6g} % interval, n = {score.num_images}, {which}accuracy unfiltered {score.p0:.3f}"


def _describe(score: Score) -> str:
    if score.call is None:
        return score.certainty
    words = f"{score.call}, {score.certainty}"
    if score.certainty == "leaning":
        number = score.num_images_to_decide
        words += "; lies on ±η" if number is None else f"; about {_about(number):,} images would decide it"
    if score.beyond_chance is not None:
        words += "; beyond chance" if score.beyond_chance else "; not shown to be beyond chance"
    return words


def _about(number: int) -> int:
    """Round up to two leading digits: the estimate knows no more."""
    step: int = 10 ** max(len(str(number)) - 2, 0)
    return -(-number // step) * step


def _describe_layer(name: str, responses: Sequence[Responses]) -> str:
    words = f"<b>{layer_title(name)}</b>"
    measured = [layer for own in responses for layer in own.layers if layer.facts.name == name]
    if measured:
        facts = measured[0].facts
        words += f", {_kind_title(facts.kind)}"
        if facts.num_live < facts.num_weights:
            words += f"<br>{1 - facts.num_live / facts.num_weights:.1%} of {facts.num_weights:,} weights are dead"
        shares = [layer.zero_gradient_share for layer in measured if layer.zero_gradient_share is not None]
        if shares:
            words += f"<br>attack without gradient: {shares[0]:.1%} of filtered networks and images"
    return words


def _kind_title(kind: str) -> str:
    return _KIND_TITLES.get(kind) or f"{html.escape(kind, quote=False).replace('x', '×')} convolution"
