"""The paper's claim put to the numbers: adversarial accuracy rises when only some parameters are retrained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fss_core.retraining.comparing import EVERYTHING, NO_RETRAINING, Comparison, Estimate
from fss_core.retraining.results import Judged
from fss_core.retraining.rules import PAPERS_RULE

Outcome = Literal["holds", "does not hold", "undecided", "not tested"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictLine:
    """What the numbers say of the claim, against one alternative.

    Attributes:
        against: ``NO_RETRAINING`` or ``"all"``.
        outcome: see :func:`decide`; ``"not tested"`` where there are no numbers.
        fgsm: paired difference in white-box FGSM accuracy.
        pgd: paired difference in PGD accuracy.
        reason: what an outcome rests on beside the FGSM interval, or why nothing was tested; often empty.
    """

    against: str
    outcome: Outcome
    fgsm: Estimate | None
    pgd: Estimate | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether adversarial accuracy rises when only some parameters are retrained, here.

    Attributes:
        rule: whose claim it is.
        epoch: epochs of retraining.
        epsilon: of FGSM and PGD, in pixels on [0, 1].
        num_images: report images.
        seeds: the initialisations it rests on.
        lines: against no retraining, and against ``all``.
    """

    rule: str
    epoch: int
    epsilon: float
    num_images: int
    seeds: tuple[int, ...]
    lines: tuple[VerdictLine, VerdictLine]


def decide(fgsm: Estimate, pgd: Estimate) -> Outcome:
    """Say whether a claimed gain is there.

    Args:
        fgsm: paired difference in white-box FGSM accuracy.
        pgd: paired difference in PGD accuracy.

    Returns:
        ``"holds"`` if the FGSM interval lies above 0 and PGD accuracy is not lower; ``"does not hold"`` if the FGSM
        interval reaches no further than 0, or the PGD interval lies below 0 (the gain, if any, is a masked gradient);
        else ``"undecided"``.

    Source: METHOD, "Selective retraining"; what is undecided, this project.
    """
    if fgsm.high <= 0 or pgd.high < 0:
        return "does not hold"
    return "holds" if fgsm.low > 0 and pgd.value >= 0 else "undecided"


def verdict(comparison: Comparison, *, rule: str = PAPERS_RULE) -> Verdict:
    """Put the paper's claim to the numbers, against no retraining and against retraining everything.

    Args:
        comparison: holds the rule, and ``all`` for the second line.
        rule: whose claim.

    Returns:
        Two lines.
    """
    row = comparison.row(rule)
    differences = ({}, {}) if row is None else (row.to_before, row.to_all)
    first, second = (
        _line(comparison, rule, against, found)
        for against, found in zip((NO_RETRAINING, EVERYTHING), differences, strict=True)
    )
    return Verdict(
        rule=rule,
        epoch=comparison.epoch,
        epsilon=comparison.epsilon,
        num_images=comparison.num_images,
        seeds=() if row is None else row.seeds,
        lines=(first, second),
    )


def _line(comparison: Comparison, rule: str, against: str, found: dict[Judged, Estimate]) -> VerdictLine:
    row, other = comparison.row(rule), comparison.row(against)
    if not found:
        missing = next((name for name, own in ((rule, row), (against, other)) if own is None), None)
        reasons = [reason for own in (row, other) if own is not None for reason in own.reasons.values()]
        reason = f"{missing} was not run" if missing else "; ".join(dict.fromkeys(reasons)) or f"{rule} is itself"
        return VerdictLine(against=against, outcome="not tested", fgsm=None, pgd=None, reason=reason)
    assert row is not None
    fgsm, pgd = found["fgsm"], found["pgd"]
    reason = ""
    if against in row.same_as:
        reason = "both train the same weights"
    elif fgsm.high > 0 and pgd.value < 0:
        reason = "PGD accuracy is lower" if pgd.high < 0 else "PGD accuracy may be lower"
        reason += ": the gradient may be masked" if fgsm.low > 0 else ""
    return VerdictLine(against=against, outcome=decide(fgsm, pgd), fgsm=fgsm, pgd=pgd, reason=reason)
