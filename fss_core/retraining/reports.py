"""Retraining in words and numbers, for the command line."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fss_core.numerals import with_interval
from fss_core.reports import columns
from fss_core.retraining.comparing import EVERYTHING, NO_RETRAINING, Comparison, Estimate, Row, compare_epochs
from fss_core.retraining.results import JUDGED, Judged, Judgement, Retraining
from fss_core.retraining.verdicts import Verdict, VerdictLine
from fss_core.scores import MEAN_FILTER
from fss_core.specs import NETWORKS

ONE_CHECKPOINT = "this checkpoint only"
_NONE = "–"
_HEADINGS: dict[Judged, str] = {"clean": "clean", "fgsm": "FGSM", "pgd": "PGD", "transfer": "transfer"}


def retraining_lines(retrainings: Sequence[Retraining], comparison: Comparison, verdict: Verdict) -> list[str]:
    """Say what was retrained, tabulate the rules, and give the verdict.

    Args:
        retrainings: what was compared.
        comparison: of these.
        verdict: on that comparison.

    Returns:
        Lines of text.
    """
    return [
        *heading(retrainings, comparison),
        "",
        *accuracy_table(comparison),
        "",
        *difference_table(comparison),
        *(["", *curve_table(_until(retrainings, comparison))] if comparison.epoch > 1 else []),
        *(["", *found] if (found := notes(retrainings, comparison)) else []),
        "",
        *verdict_lines(verdict),
    ]


def heading(retrainings: Sequence[Retraining], comparison: Comparison) -> list[str]:
    """Say what was retrained, how layers were chosen, and how networks were judged, a line each."""
    spec = comparison.spec
    training = spec.measurement.training
    name = NETWORKS.get(training.network, training.network)
    images = f"{spec.kind} score on {spec.measurement.num_images} probe images"
    if spec.granularity == "weights":
        chosen = f"pulses of weights, each by the call of its own {images}"
    else:
        filters = "overall" if spec.filter == MEAN_FILTER else spec.filter.replace("_", "-")
        chosen = f"layers, by the call of their {filters} {images}"
    steps = {own.start.steps_per_epoch for each in retrainings for own in each.rules if own.start is not None}
    per_epoch = f" of {', '.join(map(str, sorted(steps)))} steps each" if steps else ""
    return [
        f"Retraining {name} on {retrainings[0].dataset_title} from epoch {spec.measurement.epoch}"
        f"{f' ({training.subset})' if training.subset else ''}; "
        f"epochs of retraining: {comparison.epoch}{per_epoch}, the same batches for every rule",
        f"Chosen: {chosen}; leaning calls are {spec.leaning}",
        f"Judged: n = {comparison.num_images} report images, ε = {comparison.epsilon * 255:.3g}/255; "
        f"{_scope(comparison)}",
    ]


def _scope(comparison: Comparison) -> str:
    level = f"{comparison.level * 100:g} %"
    if comparison.one_checkpoint:
        return f"{level} intervals over images; seed {comparison.seeds[0]}, {ONE_CHECKPOINT}"
    return f"{level} intervals over {len(comparison.seeds)} seeds ({', '.join(map(str, comparison.seeds))})"


def accuracy_table(comparison: Comparison) -> list[str]:
    """Tabulate accuracies at equal budget, the best under white-box FGSM first."""
    rows = [["rule", "live weights", *_HEADINGS.values()]]
    for row in comparison.sorted_rows():
        weights = _NONE if row.mean_live_trained is None else f"{row.mean_live_trained:,.0f}"
        rows.append([row.rule, weights, *(_interval(row.accuracy.get(kind)) for kind in _HEADINGS)])
    return columns(rows)


def difference_table(comparison: Comparison) -> list[str]:
    """Tabulate paired differences in adversarial accuracy to no retraining and to ``all``."""
    white_box: tuple[Judged, ...] = ("fgsm", "pgd")
    against = (NO_RETRAINING, EVERYTHING)
    rows = [["rule", *(f"{_HEADINGS[kind]} to {other}" for other in against for kind in white_box)]]
    for row in comparison.sorted_rows():
        found = (own.get(kind) for own in (row.to_before, row.to_all) for kind in white_box)
        rows.append([row.rule, *(_interval(own, sign=True) for own in found)])
    return columns(rows)


def _interval(estimate: Estimate | None, sign: bool = False) -> str:
    if estimate is None:
        return _NONE
    return with_interval(estimate.value, estimate.low, estimate.high, 3, sign=sign)


def notes(retrainings: Sequence[Retraining], comparison: Comparison) -> list[str]:
    """Say what a reader of the tables must know: rules that chose nothing or the same, Adam, and what was frozen."""
    found = [note for row in comparison.rows for note in _row_notes(row, comparison)]
    starts = [own.start for each in retrainings for own in each.rules if own.start is not None]
    fresh = {start.optimiser for start in starts}
    if fresh == {"fresh"}:
        found.append("The checkpoint has no optimiser state: Adam started fresh for every rule")
    elif fresh == {"continued"}:
        found.append("Adam went on from the checkpoint's moments")
    if starts:
        found.append("What was frozen did not move: its SHA-256 is the same before and after every epoch")
    return [f"{note}." for note in found]


def _row_notes(row: Row, comparison: Comparison) -> list[str]:
    notes = []
    for seed, reason in row.reasons.items():
        where = "" if comparison.one_checkpoint else f", seed {seed}"
        notes.append(f"{row.rule}{where}: {reason}")
    rules = comparison.spec.rules
    if row.same_as and rules.index(row.rule) < min(map(rules.index, row.same_as)):
        notes.append(f"{', '.join((row.rule, *row.same_as))} train the same weights, and are one retraining")
    return notes


def _until(retrainings: Sequence[Retraining], comparison: Comparison) -> Sequence[Comparison]:
    return compare_epochs(retrainings, level=comparison.level)[: comparison.epoch + 1]


def curve_table(comparisons: Sequence[Comparison]) -> list[str]:
    """Tabulate white-box FGSM accuracy against the epoch of retraining, one line per rule.

    Args:
        comparisons: of the same retrainings, one per epoch of retraining, in order.
    """
    rows = [["FGSM after epoch", *(str(own.epoch) for own in comparisons)]]
    for row in comparisons[-1].rows[1:]:
        found = [own.row(row.rule) for own in comparisons]
        rows.append(
            [row.rule, *(f"{own.accuracy['fgsm'].value:.3f}" if own and own.accuracy else _NONE for own in found)]
        )
    return columns(rows)


def verdict_lines(verdict: Verdict) -> list[str]:
    """Say in words whether the paper's claim holds here: one line against each alternative, wrapped."""
    sentences = [verdict_question(verdict), *(_verdict_line(verdict, own) for own in verdict.lines)]
    return [line for own in sentences for line in textwrap.wrap(own, 120)]


def verdict_question(verdict: Verdict) -> str:
    """Ask what the verdict answers, and of which initialisations."""
    return f"Does retraining {verdict.rule} alone raise adversarial accuracy? ({_seeds(verdict)})"


def _seeds(verdict: Verdict) -> str:
    if len(verdict.seeds) == 1:
        return f"seed {verdict.seeds[0]}, {ONE_CHECKPOINT}"
    return f"seeds {', '.join(map(str, verdict.seeds))}" if verdict.seeds else "no seed"


def _verdict_line(verdict: Verdict, line: VerdictLine) -> str:
    numbers = verdict_numbers(verdict, line)
    reason = f" ({line.reason})" if line.reason else ""
    return f"Against {line.against}: {line.outcome}{f'; {numbers}' if numbers else ''}{reason}."


def verdict_numbers(verdict: Verdict, line: VerdictLine) -> str:
    """Say by how much, with intervals, n, seeds and ε; nothing where nothing was tested."""
    if line.fgsm is None or line.pgd is None:
        return ""
    return (
        f"white-box FGSM accuracy {_interval(line.fgsm, sign=True)}, PGD {_interval(line.pgd, sign=True)}, "
        f"n = {verdict.num_images} images, {len(line.fgsm.seed_values)} seed"
        f"{'s' if len(line.fgsm.seed_values) > 1 else ''}, ε = {verdict.epsilon * 255:.3g}/255"
    )


def retraining_json(retrainings: Sequence[Retraining], comparison: Comparison, verdict: Verdict) -> dict[str, Any]:
    """Put retrainings, their comparison and the verdict into plain JSON types."""
    return {
        "retrainings": [
            {
                "seed": own.seed,
                "measurement": asdict(own.spec.measurement),
                "checkpoint": {"sha256": own.checkpoint_sha256, "origin": own.origin},
                "dataset": {"title": own.dataset_title, "report": own.report},
                "num_live": own.num_live,
                "before": _accuracies(own.before),
                "rules": [
                    {
                        "rule": result.choice.rule,
                        "draw": result.choice.draw,
                        "selection": asdict(result.choice.selection),
                        "reason": result.choice.reason,
                        "start": None if result.start is None else asdict(result.start),
                        "epochs": [
                            {
                                "loss": epoch.loss,
                                "frozen_sha256": epoch.frozen_sha256,
                                "accuracy": _accuracies(epoch.judgement),
                            }
                            for epoch in result.epochs
                        ],
                    }
                    for result in own.rules
                ],
            }
            for own in retrainings
        ],
        "comparison": asdict(comparison),
        "verdict": asdict(verdict),
    }


def _accuracies(judgement: Judgement) -> dict[str, float]:
    return {kind: judgement.accuracy(kind) for kind in JUDGED}
