"""Comparing what is quoted with what is published: the section of README, and the numbers of the errata."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fss_core.errata.effects import list_effects, list_rankings, list_spreads
from fss_core.errata.records import Errata, read_errata
from fss_core.exports import write_whole
from fss_core.findings.sentences import FINDINGS, Finding, read_findings, section, sentence, wrapped
from fss_core.specs import StoreError

HEADING = "## What the study shows"
"""Of the section in README that quotes findings."""

_BEFORE = "## The method"
"""The section that it is put in front of when it is new."""

_TOLERANCE = 1e-6
"""Published numbers are not rounded: what is farther off was not computed from these bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a check found.

    Attributes:
        checked: what was compared, in words.
        differences: one line for each thing that is not as it should be.
    """

    checked: tuple[str, ...]
    differences: tuple[str, ...]


def check_quotes(directory: Path, readme: Path) -> Report:
    """Recompute every number that README's section and the page of the errata quote.

    Args:
        directory: of published studies.
        readme: the file that quotes.

    Raises:
        StoreError: ``readme`` or ``findings.toml`` cannot be read.
    """
    findings = read_findings(directory / FINDINGS)
    differences = _check_section(findings, directory, read_section(_text(readme)), readme.name)
    checked = [
        f"{len(findings)} findings in {readme.name}"
        if findings
        else f"nothing is quoted in {readme.name}: {FINDINGS} has no finding"
    ]
    try:
        errata = read_errata(directory)
    except StoreError as error:
        return Report(checked=tuple(checked), differences=(*differences, str(error)))
    if errata is None:
        checked.append("no errata are published")
    else:
        record = errata.record
        count = len(record.effects) + len(record.rankings) + len(record.spreads) + 2 * len(record.measured)
        checked.append(f"{count} numbers of the errata")
        differences += _check_errata(errata)
    return Report(checked=tuple(checked), differences=tuple(differences))


# README ---------------------------------------------------------------------------------------------------


def read_section(text: str) -> list[str]:
    """Find the blocks of the section, each in one line: paragraphs, headings, bullets, rows; none without it."""
    lines = text.splitlines()
    if HEADING not in lines:
        return []
    blocks: list[str] = []
    is_new = True
    for line in lines[lines.index(HEADING) + 1 :]:
        if line.startswith("## "):
            break
        if not line.strip():
            is_new = True
            continue
        if is_new or line.startswith(("- ", "| ", "### ")):
            blocks.append(line.strip())
        else:
            blocks[-1] += f" {line.strip()}"
        is_new = line.startswith("### ")
    return blocks


def _check_section(findings: tuple[Finding, ...], directory: Path, quoted: list[str], name: str) -> list[str]:
    differences = []
    headers = {block for own in findings for block in own.header}
    left = [block for block in quoted if not block.startswith("### ") and block not in headers]
    sentences = {}
    for own in findings:
        try:
            text = sentences[own.id] = sentence(own, directory)
        except StoreError as error:
            differences.append(str(error))
            _take_like(left, own)
            continue
        expected = own.laid_out(text)
        if expected in left:
            left.remove(expected)
            continue
        near = _take_like(left, own)
        if near is None:
            differences.append(f"finding {own.id} is not in {name}; `fss study --quote` writes it: {text}")
        else:
            differences.append(f"finding {own.id}: {name} says {_apart(near, expected)}")
    differences += [f"{name} says what is no finding: {block}" for block in left]
    if not differences and quoted != section(findings, sentences):
        differences.append(f"{name} has its findings in another order, or under other headings; `fss study --quote`")
    return differences


def _take_like(left: list[str], finding: Finding) -> str | None:
    """Take out the block that a finding was probably meant to be: the one that shares most of its fixed words."""
    fixed = {word for word in finding.text.split() if "{" not in word}
    shared = {block: len(fixed & set(block.split())) for block in left}
    best = max(shared, key=lambda block: shared[block], default=None)
    if best is None or shared[best] * 2 < len(fixed):
        return None
    left.remove(best)
    return best


def _apart(quoted: str, expected: str) -> str:
    """Name what differs between two sentences: the words in which they first and last differ, and what is between."""
    old, new = quoted.split(), expected.split()
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    begin, context = max(start - 3, 0), 1
    return (
        f"“{' '.join(old[begin : len(old) - end + context or None])}”, "
        f"recomputed “{' '.join(new[begin : len(new) - end + context or None])}”"
    )


def write_section(directory: Path, readme: Path) -> int:
    """Write the section into README, in place of the one before; without findings it is taken out.

    Args:
        directory: of published studies.
        readme: the file to change.

    Returns:
        The number of findings.

    Raises:
        StoreError: a finding cannot be computed, or the file cannot be read or written.
    """
    findings = read_findings(directory / FINDINGS)
    lines = _text(readme).splitlines()
    if HEADING in lines:
        start = lines.index(HEADING)
        stop = next((place for place in range(start + 1, len(lines)) if lines[place].startswith("## ")), len(lines))
        del lines[start:stop]
    else:
        start = lines.index(_BEFORE) if _BEFORE in lines else len(lines)
    sentences = {own.id: sentence(own, directory) for own in findings}
    if findings:
        lines[start:start] = [HEADING, "", *wrapped(section(findings, sentences)).splitlines(), ""]
    try:
        write_whole(readme, ("\n".join(lines) + "\n").encode(), mode=0o644)
    except OSError as error:
        raise StoreError(f"{readme} cannot be written ({error.strerror}); check its permissions") from error
    return len(findings)


def _text(readme: Path) -> str:
    try:
        return readme.read_text(encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{readme} cannot be read ({error.strerror}); give another --readme") from error


# Errata ---------------------------------------------------------------------------------------------------


def _check_errata(errata: Errata) -> list[str]:
    """Recompute all numbers of the errata from their bits."""
    record, responses = errata.record, errata.responses
    pairs: list[tuple[str, Any, Any]] = []
    tables: tuple[tuple[str, tuple[Any, ...], tuple[Any, ...]], ...] = (
        ("effect of", record.effects, list_effects(record.spec, responses)),
        ("ranking under", record.rankings, list_rankings(record.spec, responses)),
        ("spread", record.spreads, list_spreads(record.spec, responses)),
    )
    for name, quoted, found in tables:
        if len(quoted) != len(found):
            pairs.append((f"number of lines, {name}", len(quoted), len(found)))
        for one, other in zip(quoted, found, strict=False):
            pairs += [
                (f"{name} {_place(asdict(one))}, {part}", value, asdict(other)[part])
                for part, value in asdict(one).items()
            ]
    for own in record.measured:
        unfiltered, labels = responses[own.name].unfiltered, responses[own.name].labels
        pairs += [
            (f"{kind} accuracy of {own.name}", getattr(own, f"{kind}_accuracy"), _mean_right(unfiltered, kind, labels))
            for kind in ("clean", "adversarial")
        ]
    different = [
        f"errata, {what}: the page says {quoted}, recomputed {found}"
        for what, quoted, found in pairs
        if not _equal(quoted, found)
    ]
    if not record.engine_agrees:
        different.append("errata: the fast engine and the plain loop without a switch do not agree")
    return different


def _place(fields: dict[str, Any]) -> str:
    return " ".join(str(fields[name]) for name in ("variant", "scope", "kind") if name in fields)


def _mean_right(unfiltered: Any, kind: str, labels: Any) -> float:
    return float((getattr(unfiltered, kind) == labels).mean())


def _equal(quoted: Any, found: Any) -> bool:
    if isinstance(quoted, float) and isinstance(found, float):
        return math.isclose(quoted, found, rel_tol=0, abs_tol=_TOLERANCE)
    return bool(quoted == found)
