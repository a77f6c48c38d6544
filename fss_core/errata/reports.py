"""The comparison with the reference notebooks as plain text and as JSON."""

from __future__ import annotations

import textwrap
from typing import Any

from fss_core.errata.differences import DIFFERENCES
from fss_core.errata.effects import Effect, Ranking, Spread
from fss_core.errata.records import ErrataRecord
from fss_core.errata.variants import CORRECTED, list_variants
from fss_core.numerals import number, signed_interval, with_interval
from fss_core.reports import columns
from fss_core.scores import KINDS
from fss_core.specs import to_json


def change_words(own: Effect) -> str:
    """Write what a variant changes, with its interval, or why there is nothing to say."""
    if own.change is None or own.change_low is None or own.change_high is None:
        return own.reason
    if own.change == own.change_low == own.change_high == 0:
        return "0 (the same responses)"
    return signed_interval(own.change, own.change_low, own.change_high)


def value_words(own: Effect) -> str:
    """Write the scores of a variant, with their interval, or why there are none."""
    if own.value is None or own.low is None or own.high is None:
        return own.reason
    return signed_interval(own.value, own.low, own.high)


def ranking_words(own: Ranking) -> str:
    """Write a rank agreement, with its interval if it has one."""
    if own.tau is None:
        return own.reason
    if own.low is None or own.high is None:
        return number(own.tau)
    return with_interval(own.tau, own.low, own.high)


def spread_words(own: Spread) -> str:
    """Write a spread, with its interval."""
    if own.value is None or own.low is None or own.high is None:
        return "no layer has a score in all initialisations"
    return with_interval(own.value, own.low, own.high, 3)


def errata_lines(record: ErrataRecord) -> list[str]:
    """Write the comparison as lines of text."""
    spec = record.spec
    num_layers = len(record.measured[0].layers) - 1
    lines = [
        f"The reference notebooks' procedure beside the corrected method: {spec.words()}",
        f"{num_layers} layers, every {spec.every}th; ε = {record.epsilon * 255:.3g}/255; the fast engine gets "
        f"{'exactly the same' if record.engine_agrees else 'OTHER'} images right as the plain loop without a switch",
        "",
    ]
    lines += textwrap.wrap(
        f"Mean overall score of the layers, and its change image by image, with {spec.score.level * 100:g} % intervals "
        f"over n = {spec.num_images} images",
        120,
    )
    for kind in KINDS:
        rows = [[f"{kind} score", "value", "change", "other calls", "τ with corrected"]]
        rankings = {own.variant: own for own in record.rankings if own.kind == kind}
        by_name = {(own.variant, own.scope): own for own in record.effects if own.kind == kind}
        for variant in list_variants(spec):
            own = by_name.get((variant.name, variant.scope))
            if own is None:
                continue
            changed = variant.name != CORRECTED
            rows.append(
                [
                    variant.title + (" (whole network)" if variant.scope == "whole" else ""),
                    value_words(own),
                    change_words(own) if changed else "–",
                    f"{own.num_calls_changed} of {own.num_layers}" if changed else "–",
                    ranking_words(rankings[variant.name]) if variant.name in rankings else "–",
                ]
            )
        lines += ["", *columns(rows)]
    lines.append("")
    for spread in record.spreads:
        lines.append(
            f"Spread over {spread.num_initialisations} initialisations, {spread.kind}: {spread_words(spread)}; "
            f"identical seeds make it 0; {spread.num_calls_apart} of {spread.num_layers} layers are called differently"
        )
    return lines


def errata_json(record: ErrataRecord) -> dict[str, Any]:
    """Put the comparison, and what the differences are, into plain JSON types."""
    return {"differences": [to_json(own) for own in DIFFERENCES], "errata": to_json(record)}
