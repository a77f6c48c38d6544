"""The comparison layer by layer: the cells behind its heatmap, and one variant beside the corrected method."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass

from fss_core.errata.effects import local
from fss_core.errata.records import Errata
from fss_core.errata.variants import CORRECTED, Variant, list_variants
from fss_core.invariance.grids import AgreementCell, AgreementGrid, GridColumn
from fss_core.scores import MEAN_FILTER, Call, Kind, Score, score_responses


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerScores:
    """The scores of the layers of every variant, the mean of the three filters.

    Attributes:
        errata: what they are of.
        scores: name of a variant and kind → layer → score.
    """

    errata: Errata
    scores: dict[tuple[str, Kind], dict[str, Score]]

    def of(self, variant: str, kind: Kind) -> dict[str, Score]:
        """Layer → score, of one variant and kind."""
        return self.scores[variant, kind]


_LETTERS: dict[Call, str] = {"fragile": "F", "robust": "R", "antifragile": "A"}


def layer_variants(errata: Errata) -> tuple[Variant, ...]:
    """List the variants that have scores of layers and are no initialisation of their own, the corrected one first."""
    return tuple(
        own
        for own in list_variants(errata.record.spec)
        if own.scope == "layers" and 5 not in own.differences and own.measured in errata.responses
    )


def score_layers(errata: Errata) -> LayerScores:
    """Score the layers of every variant, the mean of the three filters: most of a second."""
    found: dict[tuple[str, Kind], dict[str, Score]] = {}
    for variant in layer_variants(errata):
        scores = score_responses(local(errata.responses[variant.measured]), **asdict(variant.score))
        for own in scores.rows:
            if own.filter == MEAN_FILTER:
                found.setdefault((variant.name, own.kind), {})[own.layer] = own
    return LayerScores(errata=errata, scores=found)


def errata_grid(scores: LayerScores, kind: Kind) -> AgreementGrid:
    """Arrange one score by layer and variant.

    Args:
        scores: of what is published.
        kind: clean, adversarial or difference.

    Returns:
        Beside each row: ● where every variant calls the layer as the corrected method does, else the share that does.
    """
    errata = scores.errata
    variants = layer_variants(errata)
    by_variant = {own.name: scores.of(own.name, kind) for own in variants}
    layers = errata.responses[CORRECTED].layers
    kinds = {own.facts.name: own.facts.kind for own in layers}
    rows = tuple(by_variant[CORRECTED])
    num_single = sum(len(own.differences) == 1 for own in variants)
    return AgreementGrid(
        normalise=errata.record.spec.score.normalise,
        rows=rows,
        row_texts=tuple(f"<b>{html.escape(name, quote=False)}</b>, {html.escape(kinds[name])}" for name in rows),
        groups=(
            ("Here", 1),
            ("One difference", num_single),
            ("All", len(variants) - 1 - num_single),
        ),
        columns=tuple(
            GridColumn(
                label=own.name,
                filter=MEAN_FILTER,
                heading=own.short_title,
                text=f"{html.escape(own.title, quote=False)}, {kind} score, mean of the three<br>"
                f"{own.score.level * 100:g} % interval, n = {errata.record.spec.num_images}",
                is_there=True,
            )
            for own in variants
        ),
        cells=tuple(tuple(_cell(by_variant[own.name][row]) for own in variants) for row in rows),
        marks=tuple(_mark([by_variant[own.name][row].call for own in variants]) for row in rows),
    )


def _cell(own: Score) -> AgreementCell:
    if own.score is None or own.low is None or own.high is None or own.call is None:
        return AgreementCell(numbers=None, letter="·", is_leaning=False, text=html.escape(own.reason, quote=False))
    letter = _LETTERS[own.call]
    is_leaning = own.certainty == "leaning"
    return AgreementCell(
        numbers=(own.score, own.low, own.high),
        letter=letter.lower() if is_leaning else letter,
        is_leaning=is_leaning,
        text=f"{own.call}, {own.certainty}",
    )


def _mark(calls: list[Call | None]) -> str:
    if calls[0] is None:
        return ""
    share = sum(own == calls[0] for own in calls[1:]) / max(len(calls) - 1, 1)
    return "●" if share == 1 else f"{share:.0%}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLine:
    """A layer with the corrected method and in a variant.

    Attributes:
        layer: dotted module name.
        corrected: its score here.
        other: its score in the variant.
        same_call: whether both call it alike; ``None`` where one has no call.
    """

    layer: str
    corrected: Score
    other: Score
    same_call: bool | None


def layer_lines(scores: LayerScores, variant: Variant, kind: Kind) -> tuple[LayerLine, ...]:
    """Put each layer's score in a variant beside that of the corrected method."""
    corrected = scores.of(CORRECTED, kind)
    return tuple(
        LayerLine(
            layer=name,
            corrected=corrected[name],
            other=own,
            same_call=None if None in (own.call, corrected[name].call) else own.call == corrected[name].call,
        )
        for name, own in scores.of(variant.name, kind).items()
    )
