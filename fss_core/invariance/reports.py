"""A comparison as plain text and as JSON, and the words that text and pages share."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fss_core.invariance.groups import GROUP_WORDS, group_rows
from fss_core.invariance.lookup import Candidate, ComparisonSpec
from fss_core.invariance.results import Across, Entry, Invariance, Statistic
from fss_core.numerals import number, signed_interval, with_interval
from fss_core.reports import REFERENCES, columns
from fss_core.scores import MEAN_FILTER, Call
from fss_core.specs import NETWORKS

ROW_NOUNS: dict[Across, str] = {"epochs": "layers", "datasets": "layers", "networks": "cells"}
"""What is compared: across networks, layers of one kind in one fifth of the depth."""

_LETTERS: dict[Call, str] = {"fragile": "F", "robust": "R", "antifragile": "A"}

STATISTICS = {
    "share": "share of rows with the same call in all columns",
    "kappa": "Fleiss' κ of the calls",
    "ac1": "Gwet's AC1 of the calls",
}
"""The measures of agreement of calls, in words."""


def letter(entry: Entry) -> str:
    """Write a call as one letter: capital when decided, lower case when leaning, a dot when not measurable."""
    if entry.call is None:
        return "·"
    return _LETTERS[entry.call] if entry.certainty == "decided" else _LETTERS[entry.call].lower()


def score_words(found: Invariance) -> str:
    """Name the score that is compared."""
    name = "mean of high-pass, low-pass and pulse" if found.filter == MEAN_FILTER else found.filter.replace("_", "-")
    return f"{found.kind} score, {name}"


def title(comparison: ComparisonSpec, candidates: Sequence[Candidate]) -> str:
    """Say what is compared, in a line."""
    training = comparison.measurement.training
    network = NETWORKS.get(training.network, training.network)
    dataset = next((own.measured.card.title for own in candidates if own.measured is not None), training.dataset)
    epoch = f"epoch {comparison.measurement.epoch}"
    return {
        "epochs": f"{network} on {dataset}, across epochs",
        "datasets": f"{network}, {epoch}, across data sets",
        "networks": f"{dataset}, {epoch}, across networks",
    }[comparison.across]


def statistic_words(own: Statistic) -> str:
    """Write an agreement with its interval and its null, or why there is none."""
    if own.value is None:
        return f"{own.state}: {own.reason}"
    if own.low is None or own.high is None:
        text = f"{number(own.value)} (no interval)"
    else:
        text = with_interval(own.value, own.low, own.high)
    if own.null is not None:
        null = with_interval(own.null.mean, own.null.low, own.null.high)
        text += f"; null {null}, p = {own.null.share_as_high:.3f}"
    return text + (f"; {own.reason}" if own.reason else "")


def column_words(candidate: Candidate, found: Invariance) -> list[str]:
    """Write a column's n, ε, origin and ceiling, as cells of a table."""
    column = next(own for own in found.table.columns if own.label == candidate.label)
    epsilon = "–" if column.epsilon is None else f"{column.epsilon * 255:.3g}/255"
    ceiling = f"– ({column.ceiling.reason})" if column.ceiling.value is None else number(column.ceiling.value)
    assert candidate.measured is not None
    origin = {"measured": "measured here"}.get(candidate.measured.origin, candidate.measured.origin)
    return [candidate.title, str(column.num_images), f"{epsilon} ({candidate.about_epsilon})", origin, ceiling]


COLUMN_HEADS = ("", "n", "ε of the attack", "from", "split-half τ")
"""Of :func:`column_words`."""


def missing_words(missing: Sequence[Candidate]) -> str:
    """Name what is missing, and the command that brings it, in one line."""
    first = missing[0]
    training = first.spec.training
    text = (
        f"epoch {first.spec.epoch} of {training.network} on {training.dataset}, initialisation {training.seed}: "
        f"{first.reason}; `{first.command}` measures it"
    )
    if len(missing) > 1:
        text += f"; {len(missing) - 1} more are missing: {', '.join(own.title for own in missing[1:])}"
    return text


def invariance_lines(
    comparison: ComparisonSpec, candidates: Sequence[Candidate], found: Invariance, caution: str = ""
) -> list[str]:
    """Write a comparison as lines of text; ``caution`` is one more thing that a reader must know first."""
    there = [own for own in candidates if own.measured is not None]
    noun = ROW_NOUNS[comparison.across]
    training = comparison.measurement.training
    lines = [
        f"{title(comparison, candidates)}; initialisation {training.seed}, "
        f"{comparison.measurement.response.num_thresholds} thresholds",
        f"Compared: {score_words(found)}",
        "",
        *columns([COLUMN_HEADS, *(column_words(own, found) for own in there)]),
    ]
    lines += [f"Not compared: {missing_words([own])}." for own in candidates if own.measured is None]
    lines += [f"Caution: {text}." for text in (caution, *found.cautions) if text]
    lines += ["", "Scores, with intervals", *_table(there, found)]
    lines += ["", f"Do two columns rank the {noun} alike? Kendall's τ-b"]
    titles = {own.label: own.title for own in there}
    for pair in found.rankings:
        lines.append(
            f"  {titles[pair.first]} and {titles[pair.second]}, {pair.num_rows} {noun}: {statistic_words(pair.tau)}"
        )
    if not found.rankings:
        lines.append("  one column: there is nothing to compare it with")
    lines += ["", f"Do all columns call the {noun} alike? {found.calls.num_rows} {noun} with a call in each"]
    lines += [f"  {words}: {statistic_words(getattr(found.calls, name))}" for name, words in STATISTICS.items()]
    lines.append("")
    groups = group_rows(found)
    for name, words in GROUP_WORDS.items():
        if rows := getattr(groups, name):
            text = f"{words[0].upper()}{words[1:]} ({len(rows)}): {', '.join(rows)}"
            lines += textwrap.wrap(text, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [*lines, "", *legend(found)]


def _table(there: Sequence[Candidate], found: Invariance) -> list[str]:
    width = len(found.table.columns)
    rows = [["", "kind", *(own.title for own in there)]]
    for index, row in enumerate(found.table.rows):
        entries = found.table.entries[width * index : width * (index + 1)]
        rows.append([row.name, row.layer_kind, *map(_cell, entries)])
    return columns(rows)


def _cell(entry: Entry) -> str:
    if entry.score is None:
        return f"· {entry.reason if entry.reason in ('not measured', 'no such layer') else 'not measurable'}"
    return f"{letter(entry)} {signed_interval(entry.score, entry.low, entry.high)}"


def legend(found: Invariance) -> list[str]:
    """Say what letters, numbers, intervals and nulls mean."""
    text = (
        f"F fragile, R robust, A antifragile: decided, the whole interval lies beyond or within "
        f"±{found.spec.tolerance:g}; f, r, a: leaning. Intervals: {found.spec.level * 100:g} % over images, this "
        f"initialisation; of agreements by the basic bootstrap, {found.num_resamples} resamples. Null: layers permuted "
        f"within their kind, {found.num_permutations} times; p: the share of them with at least as much agreement. "
        f"Split-half τ: how alike two halves of the images rank the rows, about the most that τ can show."
    )
    return [*textwrap.wrap(REFERENCES[found.spec.reference], 120), *textwrap.wrap(text, 120)]


def invariance_json(
    comparison: ComparisonSpec, candidates: Sequence[Candidate], found: Invariance, caution: str = ""
) -> dict[str, Any]:
    """Put a comparison into plain JSON types; ``caution`` as for :func:`invariance_lines`."""
    return {
        "comparison": asdict(comparison),
        "columns": [
            {
                "label": own.label,
                "title": own.title,
                "measurement": asdict(own.spec),
                "epsilon": None
                if own.measured is None or own.measured.responses.attack is None
                else own.measured.responses.attack.epsilon,
                "about_epsilon": own.about_epsilon,
                "origin": None if own.measured is None else own.measured.origin,
                "key": None if own.measured is None else own.measured.key,
                "reason": own.reason,
                "command": own.command if own.measured is None else None,
            }
            for own in candidates
        ],
        "caution": caution,
        "groups": asdict(group_rows(found)),
        "invariance": asdict(found),
    }
