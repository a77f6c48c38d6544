"""The numbers that findings quote: each a verb of the core on published cells, with parameters by name.

A verb returns a :class:`Quantity`: how the number is written, with its interval, and its parts. To quote another kind
of number, add a function to :data:`VERBS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fss_core.findings.cells import PublishedCell, find_cell, list_cells
from fss_core.intervals import wilson_interval
from fss_core.invariance import Across, Invariance, Statistic, measure_invariance
from fss_core.invariance.groups import GROUP_WORDS, group_rows
from fss_core.invariance.lookup import epsilon_text
from fss_core.numerals import number
from fss_core.retraining.comparing import EVERYTHING, NO_RETRAINING, Comparison, Estimate, compare
from fss_core.retraining.results import JUDGED, Judged
from fss_core.retraining.rules import PAPERS_RULE
from fss_core.retraining.verdicts import verdict
from fss_core.scores import KINDS, MEAN_FILTER, Kind, Scores, score_responses
from fss_core.specs import GLOBAL_LAYER, NETWORKS, MeasurementSpec, ScoreSpec, StoreError, choose


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A number as a finding quotes it.

    Attributes:
        text: with its interval, if it has one; where there is no number, what a row of a table says in its place.
        parts: its parts by name, each as it is written: ``value``, ``low``, ``high``, ``n``, and others; empty where
            there is none.
        missing: why there is no number; empty if there is one. A sentence cannot quote what is missing.
        page: the page of the dashboard that shows it.
        spec: the measurement that the page is to show; ``None`` if it has no such thing.
        params: more of the page's parameters.
    """

    text: str
    parts: dict[str, str]
    page: str
    spec: MeasurementSpec | None = None
    params: dict[str, str] = field(default_factory=dict)
    missing: str = ""


# Words ----------------------------------------------------------------------------------------------------


def _interval(
    value: float, low: float | None, high: float | None, digits: int, *, sign: bool = False
) -> tuple[str, dict[str, str]]:
    parts = {"value": number(value, digits, sign=sign)}
    if low is None or high is None:
        return f"{parts['value']} (no interval)", parts
    parts |= {"low": number(low, digits, sign=sign), "high": number(high, digits, sign=sign)}
    return f"{parts['value']} [{parts['low']}, {parts['high']}]", parts


# Verbs ----------------------------------------------------------------------------------------------------


def score(
    directory: Path,
    *,
    cell: str,
    layer: str,
    study: str = "laptop",
    epoch: int | None = None,
    seed: int | None = None,
    filter: str = MEAN_FILTER,
    kind: Kind = "adversarial",
    digits: int = 2,
) -> Quantity:
    """Quote the score of one layer, or of the whole network: value [low, high]; parts n, call, certainty, p0."""
    own = find_cell(directory, study, cell)
    measured = own.measured(epoch, seed, whole=layer == GLOBAL_LAYER)
    scores = _scores(own, measured.responses)
    choose(layer, dict.fromkeys(row.layer for row in scores.rows), what=f"layer in {cell}")
    row = next(row for row in scores.rows if (row.layer, row.filter, row.kind) == (layer, filter, kind))
    params = {"layer": layer, "kind": kind, "filter": filter}
    page: dict[str, Any] = {"page": "/", "spec": measured.spec, "params": params}
    parts = {"n": str(row.num_images), "p0": number(row.p0, 3)}
    if row.score is None:
        return Quantity(text="not measurable", parts=parts, missing=row.reason, **page)
    text, interval = _interval(row.score, row.low, row.high, digits, sign=True)
    parts |= interval | {"call": str(row.call), "certainty": row.certainty}
    return Quantity(text=text, parts=parts, **page)


def count(
    directory: Path,
    *,
    cell: str,
    call: str,
    study: str = "laptop",
    epoch: int | None = None,
    seed: int | None = None,
    certainty: str = "any",
    layer_kinds: Sequence[str] = (),
    filter: str = MEAN_FILTER,
    kind: Kind = "adversarial",
) -> Quantity:
    """Quote how many layers have a call, decided or leaning; parts of (the layers with a call), layers (all), n.

    Where no layer has a score, there is no number.
    """
    own = find_cell(directory, study, cell)
    choose(call, ("fragile", "robust", "antifragile"), what="call")
    choose(certainty, ("any", "decided", "leaning"), what="certainty")
    measured = own.measured(epoch, seed)
    kinds = {layer.facts.name: layer.facts.kind for layer in measured.responses.layers}
    for name in layer_kinds:
        choose(name, dict.fromkeys(kinds.values()), what=f"kind of layer in {cell}")
    rows = [
        row
        for row in _scores(own, measured.responses).rows
        if (row.filter, row.kind) == (filter, kind) and (not layer_kinds or kinds[row.layer] in layer_kinds)
    ]
    found = [row for row in rows if row.call == call and certainty in ("any", row.certainty)]
    parts = {
        "of": str(sum(row.call is not None for row in rows)),
        "layers": str(len(rows)),
        "n": str(measured.responses.num_images),
    }
    page: dict[str, Any] = {"page": "/", "spec": measured.spec, "params": {"kind": kind}}
    if all(row.call is None for row in rows):
        return Quantity(text="not measurable", parts=parts, missing=rows[0].reason if rows else "no such layer", **page)
    number_found = str(len(found))
    return Quantity(text=number_found, parts=parts | {"value": number_found}, **page)


def accuracy(
    directory: Path,
    *,
    cell: str,
    study: str = "laptop",
    epoch: int | None = None,
    seed: int | None = None,
    kind: Kind = "clean",
    digits: int = 2,
) -> Quantity:
    """Quote the accuracy of the unfiltered network on the probe images, with Wilson's interval; part n."""
    choose(kind, ("clean", "adversarial"), what="kind of image")
    own = find_cell(directory, study, cell)
    measured = own.measured(epoch, seed)
    right = int((getattr(measured.responses.unfiltered, kind) == measured.responses.labels).sum())
    num_images = measured.responses.num_images
    text, parts = _interval(right / num_images, *wilson_interval(right, num_images), digits)
    return Quantity(text=text, parts=parts | {"n": str(num_images)}, page="/", spec=measured.spec)


def title(directory: Path, *, cell: str, study: str = "laptop") -> Quantity:
    """Name a cell as the pages do; parts network, dataset, epoch (the last), n."""
    own = find_cell(directory, study, cell)
    record = own.record
    parts = {
        "network": NETWORKS.get(record.cell.network, record.cell.network),
        "dataset": record.dataset_title,
        "epoch": str(record.cell.last),
        "n": str(record.cell.num_images),
    }
    return Quantity(text="{network} on {dataset}".format(**parts), parts=parts, page="/", spec=own.measured().spec)


def epsilon(directory: Path, *, cell: str, study: str = "laptop") -> Quantity:
    """Quote the ε of a cell, in pixels."""
    own = find_cell(directory, study, cell)
    text = epsilon_text(own.record.epsilon)
    if not text.endswith("/255"):
        text = f"{own.record.epsilon * 255:.3g}/255"
    return Quantity(text=text, parts={"value": text}, page="/", spec=own.measured().spec)


def tau(directory: Path, *, across: Across, digits: int = 2, **which: Any) -> Quantity:
    """Quote Kendall's τ between the first two columns: value [low, high]; parts rows, n, epoch, ceiling, null and p.

    The null is written with its interval. The epoch is that of the last column. ``which`` says which columns, as for
    :func:`calls`.
    """
    found, spec = _invariance(directory, across, **which)
    if not found.rankings:
        raise StoreError("τ needs two columns: name two epochs, or two cells")
    pair = found.rankings[0]
    ceilings = [own.ceiling.value for own in found.table.columns]
    parts = {"rows": str(pair.num_rows), "epoch": str(spec.epoch)}
    if all(own is not None for own in ceilings[:2]):
        parts["ceiling"] = number(min(own for own in ceilings[:2] if own is not None), digits)
    return _agreement(pair.tau, parts, found, spec, digits)


def calls(directory: Path, *, across: Across, statistic: str = "share", digits: int = 2, **which: Any) -> Quantity:
    """Quote how far calls agree over all columns where anything is measurable: value [low, high]; parts and null.

    Its parts: rows, columns (how many), labels (which), n, null (with its interval) and p.

    Args:
        directory: of published studies.
        across: epochs, datasets or networks.
        statistic: ``"share"`` of rows with one call, Fleiss' ``"kappa"``, or Gwet's ``"ac1"``.
        digits: after the point.
        which: ``study``; ``cell`` and ``epochs`` (all trained ones of the cell by default, or the ``last`` so many), or
            ``cells`` and ``epoch`` (the last by default, if it is that of all); ``kind``, ``filter``, ``seed``.
    """
    found, spec = _invariance(directory, across, **which)
    own: Statistic = getattr(found.calls, choose(statistic, ("share", "kappa", "ac1"), what="agreement of calls"))
    labels = found.calls.columns
    parts = {"rows": str(found.calls.num_rows), "columns": str(len(labels)), "labels": ", ".join(labels)}
    return _agreement(own, parts, found, spec, digits)


def layers(
    directory: Path, *, across: Across, group: str = "decided", call: str = "", most: int = 8, **which: Any
) -> Quantity:
    """Quote by name the rows whose calls agree or not; parts value (how many), of (all rows), n.

    Where fewer than two columns have any call, there is no number.

    Args:
        directory: of published studies.
        across: epochs, datasets or networks.
        group: ``"decided"``, ``"same"``, ``"open"``, ``"apart"`` or ``"alone"``, as in ``invariance.groups``; or
            ``"agree"``: all with one call, decided or not.
        call: of the groups that agree, those of this call only.
        most: names that are written out.
        which: as for :func:`calls`.
    """
    choose(group, [*GROUP_WORDS, "agree"], what="group")
    found, spec = _invariance(directory, across, **which)
    parts = {"of": str(len(found.table.rows)), "n": _num_images(found)}
    page: dict[str, Any] = {"page": _page(across), "spec": spec, "params": _compared(found)}
    if len(found.calls.columns) < 2:
        return Quantity(text=found.calls.share.state, parts=parts, missing=found.calls.share.reason, **page)
    groups = group_rows(found)
    chosen = {own for name in (("decided", "same") if group == "agree" else (group,)) for own in getattr(groups, name)}
    rows = tuple(own.name for own in found.table.rows if own.name in chosen)
    if call:
        by_row = {own.row: own.call for own in found.calls.rows}
        rows = tuple(row for row in rows if by_row[row] == call)
    names = ", ".join(f"`{row}`" for row in rows[:most]) or "none"
    if len(rows) > most:
        names += f" and {len(rows) - most} more"
    return Quantity(text=names, parts=parts | {"value": str(len(rows))}, **page)


def retraining(
    directory: Path,
    *,
    cell: str,
    study: str = "laptop",
    rule: str = PAPERS_RULE,
    against: str = NO_RETRAINING,
    judged: Judged = "fgsm",
    digits: int = 3,
) -> Quantity:
    """Quote a paired difference after retraining: value [low, high]; parts n, budget, before, after, outcome.

    Where the rule chose no layer, it is "not tested", and so is its outcome; there is no value then.

    Args:
        directory: of published studies.
        cell: which.
        study: of which study.
        rule: what was retrained.
        against: ``"no retraining"`` or ``"all"``.
        judged: clean, fgsm, pgd or transfer.
        digits: after the point.
    """
    choose(judged, JUDGED, what="kind of judged images")
    choose(against, (NO_RETRAINING, EVERYTHING), what="rule to compare with")
    own = find_cell(directory, study, cell)
    comparison = _comparison(own)
    row, other = comparison.row(rule), comparison.row(against)
    difference = {} if row is None else row.to_before if against == NO_RETRAINING else row.to_all
    lines = {line.against: line.outcome for line in verdict(comparison, rule=rule).lines}
    budget = {"budget": str(comparison.epoch)}
    page: dict[str, Any] = {"page": "retrain", "spec": comparison.spec.measurement, "params": budget}
    if row is None or other is None:
        raise StoreError(f"{rule} against {against} in {cell} cannot be quoted: it was not run")
    parts = {"n": str(comparison.num_images), **budget, "outcome": lines[against]}
    if judged not in difference:
        return Quantity(text="not tested", parts=parts, missing=f"there is nothing to compare {rule} with", **page)
    found: Estimate = difference[judged]
    text, interval = _interval(found.value, found.low, found.high, digits, sign=True)
    parts |= interval | {
        "before": number(other.accuracy[judged].value, digits),
        "after": number(row.accuracy[judged].value, digits),
    }
    return Quantity(text=text, parts=parts, **page)


def outcomes(
    directory: Path,
    *,
    outcome: str,
    study: str = "laptop",
    rule: str = PAPERS_RULE,
    against: str = NO_RETRAINING,
    networks: Sequence[str] = (),
) -> Quantity:
    """Quote in how many cells the claim has an outcome: parts value, of (cells that are retrained), cells (by name)."""
    choose(outcome, ("holds", "does not hold", "undecided", "not tested"), what="outcome")
    found = {
        own.name: {line.against: line.outcome for line in verdict(_comparison(own), rule=rule).lines}
        for own in list_cells(directory, study)
        if own.retrainings() and (not networks or own.record.cell.network in networks)
    }
    names = [name for name, lines in found.items() if lines[against] == outcome]
    parts = {"value": str(len(names)), "of": str(len(found)), "cells": ", ".join(names) or "none"}
    return Quantity(text=parts["value"], parts=parts, page="retrain")


def cells(directory: Path, *, study: str = "laptop") -> Quantity:
    """Quote how many cells of a study are published; part cells (by name)."""
    names = [own.name for own in list_cells(directory, study)]
    return Quantity(text=str(len(names)), parts={"value": str(len(names)), "cells": ", ".join(names)}, page="/")


def effect(
    directory: Path, *, variant: str, kind: Kind = "adversarial", what: str = "change", digits: int = 3
) -> Quantity:
    """Quote what a difference of the notebooks does to the scores: value [low, high]; parts layers, n, calls, tau.

    Args:
        directory: of published studies.
        variant: as in ``errata.variants``: ``"1"``, …, ``"all"``.
        kind: which score.
        what: ``"change"``, or ``"value"`` of the scores themselves.
        digits: after the point.
    """
    from fss_core.errata.records import read_errata
    from fss_core.errata.variants import list_variants

    errata = read_errata(directory)
    if errata is None:
        raise StoreError("the notebooks' procedure is not published; run `fss study --preset notebook`")
    variants = {own.name: own for own in list_variants(errata.record.spec)}
    scope = variants[choose(variant, variants, what="variant")].scope
    choose(what, ("change", "value"), what="number of a variant")
    key = (variant, scope, choose(kind, KINDS, what="kind of score"))
    own = next(own for own in errata.record.effects if (own.variant, own.scope, own.kind) == key)
    found = (own.change, own.change_low, own.change_high) if what == "change" else (own.value, own.low, own.high)
    if found[0] is None:
        raise StoreError(f"variant {variant} of the errata cannot be quoted: {own.reason}")
    text, parts = _interval(found[0], *found[1:], digits, sign=True)
    parts |= {"layers": str(own.num_layers), "n": str(own.num_images), "calls": str(own.num_calls_changed)}
    for ranking in errata.record.rankings:
        if (ranking.variant, ranking.kind) == (variant, kind) and ranking.tau is not None:
            parts["tau"] = number(ranking.tau, 2)
    return Quantity(text=text, parts=parts, page="errata", params={"score_kind": kind, "difference": variant})


VERBS: dict[str, Callable[..., Quantity]] = {
    verb.__name__: verb
    for verb in (score, count, accuracy, title, epsilon, tau, calls, layers, retraining, outcomes, cells, effect)
}
"""By name, as ``findings.toml`` names them."""


# Reading --------------------------------------------------------------------------------------------------


def _scores(own: PublishedCell, responses: Any) -> Scores:
    spec: ScoreSpec = own.record.cell.score
    return score_responses(
        responses,
        reference=spec.reference,
        normalise=spec.normalise,
        integration=spec.integration,
        tolerance=spec.tolerance,
        level=spec.level,
    )


def _comparison(own: PublishedCell) -> Comparison:
    found = own.retrainings()
    if not found:
        raise StoreError(f"nothing is retrained in {own.name}, so that nothing of it can be quoted")
    return compare(found)


def _invariance(
    directory: Path,
    across: Across,
    *,
    study: str = "laptop",
    cell: str = "",
    cells: Sequence[str] = (),
    epochs: Sequence[int] = (),
    last: int = 0,
    epoch: int | None = None,
    seed: int | None = None,
    kind: Kind = "adversarial",
    filter: str = MEAN_FILTER,
) -> tuple[Invariance, MeasurementSpec]:
    choose(across, ("epochs", "datasets", "networks"), what="comparison")
    if across == "epochs":
        if not cell or cells:
            raise ValueError("a comparison across epochs needs cell=…, one cell")
        own = find_cell(directory, study, cell)
        chosen = tuple(epochs) or own.trained_epochs[-last:]
        measured = {str(one): own.measured(one, seed) for one in chosen}
        score = own.record.cell.score
    else:
        if len(cells) < 2 or cell:
            raise ValueError(f"a comparison across {across} needs cells=[…], at least two")
        found = [find_cell(directory, study, name) for name in cells]
        ends = {own.record.cell.last for own in found}
        if epoch is None and len(ends) > 1:  # the view that is linked to shows one epoch of all
            raise ValueError(f"{', '.join(cells)} end at epochs {', '.join(map(str, sorted(ends)))}; give epoch=…")
        labels = [own.record.cell.dataset if across == "datasets" else own.record.cell.network for own in found]
        measured = {label: own.measured(epoch, seed) for label, own in zip(labels, found, strict=True)}
        if len(measured) < len(found):
            raise ValueError(f"a comparison across {across} needs cells that differ in that, got {', '.join(cells)}")
        score = found[0].record.cell.score
    columns = {label: one.responses for label, one in measured.items()}
    spec = list(measured.values())[-1].spec
    if across != "epochs":
        spec = replace(spec, epsilon=None)  # each column at its own, as the view shows them
    result = measure_invariance(columns, across=across, spec=score, filter=filter, kind=kind)
    return result, spec


def _agreement(
    own: Statistic, parts: dict[str, str], found: Invariance, spec: MeasurementSpec, digits: int
) -> Quantity:
    parts = parts | {"n": _num_images(found)}
    page: dict[str, Any] = {"page": _page(found.across), "spec": spec, "params": _compared(found)}
    if own.value is None:
        return Quantity(text=own.state, parts=parts, missing=own.reason, **page)
    text, interval = _interval(own.value, own.low, own.high, digits)
    parts |= interval
    if own.null is not None:
        null, _ = _interval(own.null.mean, own.null.low, own.null.high, digits)
        parts |= {"null": null, "p": number(own.null.share_as_high, 3)}
    else:
        parts |= {"null": "", "p": ""}
    return Quantity(text=text, parts=parts, **page)


def _num_images(found: Invariance) -> str:
    """Write how many images the columns are measured on: once, if it is the same for all."""
    numbers = [str(own.num_images) for own in found.table.columns]
    return "; ".join(numbers if len({*numbers}) > 1 else numbers[:1])


def _page(across: Across) -> str:
    return "epochs" if across == "epochs" else "compare"


def _compared(found: Invariance) -> dict[str, str]:
    params = {"score_kind": found.kind, "score_filter": found.filter}
    if found.across != "epochs":
        labels = ",".join(own.label for own in found.table.columns)
        params |= {"across": found.across, f"with_{found.across}": labels}
    return params
