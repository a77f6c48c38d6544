"""Findings as they are written down, and as sentences with their numbers put in."""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

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
    """One sentence.

    Attributes:
        id: names it, in messages.
        group: the heading it stands under; empty for an introduction.
        text: the sentence, with fields: ``{name}``, or ``{name.part}``.
        numbers: name of a field → its verb and parameters.
        view: name of the number whose view is linked to; the first by default, ``"-"`` for none.
    """

    id: str
    group: str
    text: str
    numbers: Mapping[str, Mapping[str, Any]]
    view: str = ""


def read_findings(path: Path) -> tuple[Finding, ...]:
    """Read findings, in order.

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
        known = {"id", "group", "text", "numbers", "view"}
        if missing := {"id", "text"} - entry.keys() or entry.keys() - known:
            raise StoreError(f"{path.name}: finding {name} must have id and text, and {sorted(missing)} is wrong")
        found.append(
            Finding(
                id=name,
                group=entry.get("group", ""),
                text=" ".join(entry["text"].split()),
                numbers=entry.get("numbers", {}),
                view=entry.get("view", ""),
            )
        )
    if len({own.id for own in found}) < len(found):
        raise StoreError(f"{path.name}: every finding must have an id of its own")
    return tuple(found)


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

    Raises:
        StoreError: a number cannot be computed, or a field has no number.
    """
    quantities = compute(finding, directory)

    def put(match: re.Match[str]) -> str:
        name, part = match[1], match[2]
        try:
            own = quantities[choose(name, quantities, what=f"number in the finding {finding.id}")]
            return own.text if part is None else own.parts[choose(part, own.parts, what=f"part of {name}")]
        except UnknownNameError as error:
            raise StoreError(f"finding {finding.id}: {error}") from error

    text = _FIELD.sub(put, finding.text)
    shown = finding.view or next(iter(quantities), "-")
    if shown == "-":
        return text
    if shown not in quantities:
        raise StoreError(f"finding {finding.id}: its view must be one of its numbers, got {shown!r}")
    return f"{text} (`{address(quantities[shown])}`)"


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


def section(findings: tuple[Finding, ...], directory: Path) -> list[str]:
    """Write all findings as the blocks of a section: paragraphs, headings, and bullets.

    Raises:
        StoreError: as :func:`sentence`.
    """
    blocks, group = [], ""
    for own in findings:
        if own.group != group:
            group = own.group
            blocks.append(f"### {group}")
        text = sentence(own, directory)
        blocks.append(f"- {text}" if group else text)
    return blocks


def wrapped(blocks: list[str]) -> str:
    """Lay blocks out as Markdown of at most :data:`WIDTH` columns."""
    lines: list[str] = []
    for index, block in enumerate(blocks):
        is_bullet = block.startswith("- ")
        if index and not (is_bullet and blocks[index - 1].startswith("- ")):
            lines.append("")
        lines += textwrap.wrap(
            block,
            WIDTH,
            subsequent_indent="  " if is_bullet else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)
