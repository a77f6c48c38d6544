"""What names a retraining: the checkpoint, how layers are scored, which rules choose among them, and for how long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fss_core.retraining.rules import RULES
from fss_core.scores import KINDS, MEAN_FILTER, Kind
from fss_core.specs import SYNAPTIC_FILTERS, AttackSpec, MeasurementSpec, ScoreSpec, choose

Leaning = Literal["counted", "ignored"]
Granularity = Literal["layer", "weights"]

LARGEST_BUDGET, LARGEST_NUM_DRAWS = 10_000, 1_000
"""Beyond these a number is a slip of the keyboard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainingSpec:
    """Names the retraining of one checkpoint under some rules.

    Attributes:
        measurement: the checkpoint, and how its layers are measured on probe images; its ε is the one that retrained
            networks are judged at.
        budget: R, epochs of retraining.
        rules: names from ``rules.RULES``, in order.
        score: how responses become scores and calls.
        kind: which score decides: ``"adversarial"``, ``"clean"`` or ``"difference"``.
        filter: of which filter: ``"mean"`` for the overall score, or a synaptic filter.
        leaning: ``"counted"`` takes every call at its word; ``"ignored"`` takes decided calls only.
        granularity: ``"layer"`` trains chosen layers with their biases; ``"weights"`` the weights of chosen pulses.
        num_draws: draws of ``random``, each a retraining of its own.
        seed: of those draws.
        num_report_images: judge on the first n report images; ``None`` means all.
    """

    measurement: MeasurementSpec
    budget: int
    rules: tuple[str, ...] = tuple(RULES)
    score: ScoreSpec = field(default_factory=ScoreSpec)
    kind: Kind = "adversarial"
    filter: str = MEAN_FILTER
    leaning: Leaning = "counted"
    granularity: Granularity = "layer"
    num_draws: int = 3
    seed: int = 0
    num_report_images: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be retrained."""
        if not 1 <= self.budget <= LARGEST_BUDGET:
            raise ValueError(
                f"budget must be at least 1 epoch of retraining and at most {LARGEST_BUDGET}, got {self.budget}"
            )
        for name in self.rules:
            choose(name, RULES, what="rule")
        if len(set(self.rules)) != len(self.rules) or not self.rules:
            raise ValueError(f"rules must name at least one rule, each once, got {', '.join(self.rules) or 'none'}")
        choose(self.kind, KINDS, what="kind of score")
        choose(self.filter, (MEAN_FILTER, *SYNAPTIC_FILTERS), what="filter")
        choose(self.leaning, ("counted", "ignored"), what="way to treat leaning calls")
        choose(self.granularity, ("layer", "weights"), what="granularity")
        self._check_measurement()
        if not 1 <= self.num_draws <= LARGEST_NUM_DRAWS:
            raise ValueError(f"num_draws must be at least 1 and at most {LARGEST_NUM_DRAWS}, got {self.num_draws}")
        if self.num_report_images is not None and self.num_report_images < 1:
            raise ValueError(f"num_report_images must be at least 1, got {self.num_report_images}")

    def _check_measurement(self) -> None:
        response = self.measurement.response
        if response.scope != "local":
            raise ValueError(
                f"scope must be 'local', as layers are chosen one by one, got {response.scope!r}; measure with it"
            )
        needed = set(SYNAPTIC_FILTERS) if self.filter == MEAN_FILTER else {self.filter}
        if self.granularity == "weights":
            needed = {"pulse"}
        if lacking := needed - set(response.filters):
            raise ValueError(
                f"filters must hold {', '.join(sorted(lacking))}, whose score decides, got "
                f"{', '.join(response.filters)}; measure with it"
            )

    def draws(self, rule: str) -> range:
        """Number the retrainings that a rule asks for: the draws of ``random``, one of any other."""
        return range(self.num_draws if RULES[rule].is_random else 1)


def judging_attacks(epsilon: float) -> dict[str, AttackSpec]:
    """List the white-box attacks that retrained networks are judged under, all at one ε.

    >>> [attack.kind for attack in judging_attacks(8 / 255).values()]
    ['fgsm', 'pgd']
    """
    return {kind: AttackSpec(epsilon=epsilon, kind=kind) for kind in ("fgsm", "pgd")}
