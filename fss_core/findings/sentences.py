"""Findings as they are written down, and as sentences with their numbers put in."""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fss_core.findings.cells import Pair, PublishedCell, list_cells, neighbours
from fss_core.findings.quantities import VERBS, Quantity
from fss_core.invariance.lookup import epsilon_text
from fss_core.specs import FssError, MeasurementSpec, StoreError, UnknownNameError, choose

FINDINGS = "findings.toml"
"""Beside the published studies."""

WIDTH = 120
"""Columns of a line in README."""

_FIELD = re.compile(r"\{(\w+)(?:\.(\w+))?\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One sentence, or one row of a table.

    Attributes:
        id: names it, in messages.
        group: the heading it stands under; empty for an introduction.
        text: the sentence, with fields: ``{name}``, or ``{name.part}``; the cells of a row have ``|`` between them.
        numbers: name of a field → its verb and parameters.
        view: name of the number whose view is linked to; the first by default, ``"-"`` for none.
        columns: names of the columns, of a row.
    """

    id: str
    group: str
    text: str
    numbers: Mapping[str, Mapping[str, Any]]
    view: str = ""
    columns: tuple[str, ...] = ()

    def laid_out(self, text: str) -> str:
        """Make a block of its sentence: a row, a bullet, or a paragraph."""
        return f"| {text} |" if self.columns else f"- {text}" if self.group else text

    @property
    def header(self) -> list[str]:
        """The blocks that a table starts with; none for a sentence."""
        names = [*self.columns, *(["view"] if self.view != "-" else [])]
        return [f"| {' | '.join(names)} |", f"| {' | '.join('---' for _ in names)} |"] if self.columns else []


def read_findings(path: Path) -> tuple[Finding, ...]:
    """Read findings, in order.

    One with ``each = {study = "…"}`` stands for as many as that study has published cells, and its numbers are those of
    the cell; ``retrained = true`` passes over cells without a retraining, ``epochs = N`` over those with fewer than N
    trained epochs. With ``pairs = "datasets"`` or ``"networks"`` it stands for each two neighbours: numbers that have
    ``across`` are those of both, others those of the first, or with ``cell = "second"`` of the second.

    Args:
        path: of ``findings.toml``; no such file means none.

    Raises:
        StoreError: it is no TOML, or an entry lacks something.
    """
    if not path.exists():
        return ()
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("finding", [])
    except (OSError, ValueError) as error:
        raise StoreError(f"{path.name} cannot be read: {error}") from error
    found = []
    for place, entry in enumerate(entries, 1):
        name = str(entry.get("id", f"number {place}"))
        known = {"id", "group", "text", "numbers", "view", "columns", "each"}
        if missing := {"id", "text"} - entry.keys() or entry.keys() - known:
            raise StoreError(f"{path.name}: finding {name} must have id and text, and {sorted(missing)} is wrong")
        own = Finding(
            id=name,
            group=entry.get("group", ""),
            text=" ".join(entry["text"].split()),
            numbers=entry.get("numbers", {}),
            view=entry.get("view", ""),
            columns=tuple(entry.get("columns", ())),
        )
        found += [own] if "each" not in entry else _for_each(own, path.parent, entry["each"])
    if len({own.id for own in found}) < len(found):
        raise StoreError(f"{path.name}: every finding must have an id of its own")
    return tuple(found)


def _for_each(finding: Finding, directory: Path, each: Mapping[str, Any]) -> list[Finding]:
    known = {"study", "retrained", "epochs", "pairs"}
    if not isinstance(each, Mapping) or "study" not in each or each.keys() - known:
        raise StoreError(
            f"{FINDINGS}: finding {finding.id} must have each = {{study = …}}, with retrained, epochs and pairs or "
            f"without, got {each}"
        )
    study = str(each["study"])
    cells = [
        cell
        for cell in list_cells(directory, study)
        if (not each.get("retrained") or cell.retrainings()) and len(cell.trained_epochs) >= int(each.get("epochs", 0))
    ]
    if "pairs" not in each:
        return [_of_cell(finding, study, cell) for cell in cells]
    if each["pairs"] not in ("datasets", "networks"):
        raise StoreError(f"{FINDINGS}: finding {finding.id} must pair datasets or networks, got {each['pairs']!r}")
    return [_of_pair(finding, study, pair) for pair in neighbours(cells, each["pairs"])]


def _of_cell(finding: Finding, study: str, cell: PublishedCell) -> Finding:
    numbers = {name: {"study": study, "cell": cell.name} | dict(own) for name, own in finding.numbers.items()}
    return replace(finding, id=f"{finding.id} {cell.name}", numbers=numbers)


def _of_pair(finding: Finding, study: str, pair: Pair) -> Finding:
    both = {"cells": [pair.first.name, pair.second.name], "epoch": pair.epoch}
    numbers: dict[str, Mapping[str, Any]] = {}
    for name, own in finding.numbers.items():
        one = pair.second if own.get("cell") == "second" else pair.first
        numbers[name] = {"study": study} | dict(own) | (both if "across" in own else {"cell": one.name})
    return replace(finding, id=f"{finding.id} {pair.first.name} {pair.second.name}", numbers=numbers)


def compute(finding: Finding, directory: Path) -> dict[str, Quantity]:
    """Compute the numbers of a finding.

    Args:
        finding: which.
        directory: of published studies.

    Raises:
        StoreError: a number cannot be computed from what is published; the text names the finding.
    """
    found = {}
    for name, given in finding.numbers.items():
        parameters = dict(given)
        try:
            verb = VERBS[choose(str(parameters.pop("verb", "")), VERBS, what="verb of a finding")]
            found[name] = verb(directory, **parameters)
        except (FssError, ValueError, TypeError) as error:
            raise StoreError(f"finding {finding.id}, {{{name}}}: {error}") from error
    return found


def sentence(finding: Finding, directory: Path) -> str:
    """Put the numbers of a finding into its text, and the address of the view that shows them after it.

    Where there is no number, a row of a table says so, and has a dash for its parts.

    Raises:
        StoreError: a number cannot be computed, a sentence quotes one that is not there, or a field has no number.
    """
    quantities = compute(finding, directory)

    def put(match: re.Match[str]) -> str:
        name, part = match[1], match[2]
        try:
            own = quantities[choose(name, quantities, what=f"number in the finding {finding.id}")]
            if own.missing and not finding.columns:
                raise StoreError(f"finding {finding.id}, {{{name}}}: {own.text}: {own.missing}")
            if part is None:
                return own.text
            if not own.missing:
                choose(part, own.parts, what=f"part of {name}")
            written = own.parts.get(part, "")
            if not written and not finding.columns:
                raise StoreError(f"finding {finding.id}, {{{name}.{part}}}: there is none")
            return written or "–"
        except UnknownNameError as error:
            raise StoreError(f"finding {finding.id}: {error}") from error

    text = _FIELD.sub(put, finding.text)
    shown = finding.view or next(iter(quantities), "-")
    if shown == "-":
        return text
    if shown not in quantities:
        raise StoreError(f"finding {finding.id}: its view must be one of its numbers, got {shown!r}")
    place = f"`{address(quantities[shown])}`"
    return f"{text} | {place}" if finding.columns else f"{text} ({place})"


def address(quantity: Quantity) -> str:
    """Write the page and the parameters of the view that shows a number.

    >>> address(Quantity(text="1", parts={}, page="errata", params={"difference": "1"}))
    'errata?difference=1'
    """
    params = ({} if quantity.spec is None else _params(quantity.spec)) | quantity.params
    query = urlencode(params, safe=",()/ ").replace(" ", "+")
    return quantity.page + (f"?{query}" if query else "")


def _params(spec: MeasurementSpec) -> dict[str, str]:
    """As the pages write them; what is as usual is left out."""
    training = spec.training
    found = {"network": training.network, "dataset": training.dataset, "epoch": str(spec.epoch)}
    found |= {"init": str(training.seed)} if training.seed else {}
    found |= {"train": str(training.num_train)} if training.num_train is not None else {}
    found |= {"images": str(spec.num_images), "thresholds": str(spec.response.num_thresholds)}
    return found | ({"epsilon": epsilon_text(spec.epsilon)} if spec.epsilon is not None else {})


def section(findings: tuple[Finding, ...], sentences: Mapping[str, str]) -> list[str]:
    """Write findings as the blocks of a section: paragraphs, headings, bullets, and rows of tables.

    Args:
        findings: in order.
        sentences: of :func:`sentence`, by id.
    """
    blocks: list[str] = []
    group = ""
    header: list[str] = []
    for own in findings:
        if own.group != group:
            group, header = own.group, []
            blocks.append(f"### {group}")
        if own.header != header:
            header = own.header
            blocks += header
        blocks.append(own.laid_out(sentences[own.id]))
    return blocks


def wrapped(blocks: list[str]) -> str:
    """Lay blocks out as Markdown of at most :data:`WIDTH` columns; rows of tables cannot be broken."""
    lines: list[str] = []
    for index, block in enumerate(blocks):
        is_bullet, is_row = block.startswith("- "), block.startswith("| ")
        if index and not ((is_bullet or is_row) and blocks[index - 1].startswith(block[:2])):
            lines.append("")
        if is_row:
            lines.append(block)
            continue
        lines += textwrap.wrap(
            block,
            WIDTH,
            subsequent_indent="  " if is_bullet else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)
