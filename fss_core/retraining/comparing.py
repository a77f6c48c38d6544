"""Rules against each other at the same budget: accuracies, paired differences with intervals, and the verdict.

With several seeds, intervals are t over seed means. With one, they are over images, paired image by image, and hold for
that checkpoint only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fss_core.intervals import (
    FEWEST_CONTRIBUTING,
    Estimand,
    Values,
    betting_interval,
    linear_interval,
    num_contributing,
    student_half_width,
)
from fss_core.retraining.results import HEADLINE, JUDGED, Judged, Judgement, Retraining
from fss_core.retraining.rules import RULES, Selection
from fss_core.retraining.spec import RetrainingSpec

NO_RETRAINING = "no retraining"
"""The row of the network before retraining."""

EVERYTHING = "all"
"""The rule that the paper's is compared with."""

Basis = Literal["seeds", "images"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over seeds, or over the images of one, with its interval.

    Attributes:
        value: fraction of images, or a difference of two such fractions.
        low: lower end of its interval.
        high: upper end.
        basis: what the interval is over.
        seed_values: one per seed: the dots.
    """

    value: float
    low: float
    high: float
    basis: Basis
    seed_values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One rule after so many epochs of retraining.

    Attributes:
        rule: its name, or ``NO_RETRAINING``.
        title: the rule in words.
        accuracy: per kind of image; empty where there is nothing to show.
        to_before: paired difference to no retraining; empty where there is none.
        to_all: paired difference to ``all``; empty where there is none, or ``all`` was not run.
        num_live_trained: per seed, averaged over draws.
        seeds: those that it was retrained for.
        reasons: seed → why nothing was chosen or shown; those seeds are left out.
        same_as: other rules that train the same weights, for every seed.
    """

    rule: str
    title: str
    accuracy: dict[Judged, Estimate]
    to_before: dict[Judged, Estimate]
    to_all: dict[Judged, Estimate]
    num_live_trained: tuple[float, ...]
    seeds: tuple[int, ...]
    reasons: dict[int, str]
    same_as: tuple[str, ...]

    @property
    def mean_live_trained(self) -> float | None:
        """Live weights trained, averaged over seeds; ``None`` where nothing is shown."""
        return float(np.mean(self.num_live_trained)) if self.num_live_trained else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All rules after the same number of epochs of retraining.

    Attributes:
        spec: what was asked for, of the first seed.
        epoch: how many epochs of retraining.
        epsilon: of FGSM and PGD, in pixels on [0, 1].
        level: of the intervals.
        num_images: report images.
        seeds: the initialisations.
        rows: the network before retraining, then rules, in the order of ``spec.rules``.
    """

    spec: RetrainingSpec
    epoch: int
    epsilon: float
    level: float
    num_images: int
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]

    @property
    def one_checkpoint(self) -> bool:
        """Whether it speaks of this checkpoint only."""
        return len(self.seeds) == 1

    def row(self, rule: str) -> Row | None:
        """Return the row of a rule, if there is one."""
        return next((row for row in self.rows if row.rule == rule), None)

    def sorted_rows(self) -> tuple[Row, ...]:
        """Return the rows by white-box FGSM accuracy, the best first, those without one last."""
        return tuple(sorted(self.rows, key=lambda row: -row.accuracy[HEADLINE].value if row.accuracy else float("inf")))


def compare(retrainings: Sequence[Retraining], *, epoch: int | None = None, level: float = 0.95) -> Comparison:
    """Compare rules after the same number of epochs of retraining.

    Args:
        retrainings: one per seed, otherwise alike; rules that are not that far yet are left out.
        epoch: after how many epochs of retraining; the budget by default.
        level: of the intervals.

    Returns:
        The comparison.

    Raises:
        ValueError: there is no retraining, they differ in more than the seed, a seed comes twice, or ``epoch`` or
            ``level`` is out of range.

    Source: METHOD, "Selective retraining".
    """
    _check_alike(retrainings)
    first = retrainings[0]
    epoch = first.spec.budget if epoch is None else epoch
    if not 0 <= epoch <= first.spec.budget:
        raise ValueError(f"epoch must be at least 0 and at most the budget, {first.spec.budget}, got {epoch}")
    if not 0.5 <= level < 1:
        raise ValueError(f"level must lie in [0.5, 1), got {level}")
    own = _Comparing(retrainings, epoch, level)
    return Comparison(
        spec=first.spec,
        epoch=epoch,
        epsilon=first.epsilon,
        level=level,
        num_images=first.before.num_images,
        seeds=tuple(retraining.seed for retraining in retrainings),
        rows=(own.before(), *(own.row(rule) for rule in first.spec.rules)),
    )


def compare_epochs(retrainings: Sequence[Retraining], *, level: float = 0.95) -> tuple[Comparison, ...]:
    """Compare rules before retraining, and after every epoch up to the budget; see :func:`compare`."""
    epochs = range(retrainings[0].spec.budget + 1) if retrainings else (None,)
    return tuple(compare(retrainings, epoch=epoch, level=level) for epoch in epochs)


def _check_alike(retrainings: Sequence[Retraining]) -> None:
    if not retrainings:
        raise ValueError("nothing to compare: give at least one retraining")
    first = retrainings[0]
    seeds = [own.seed for own in retrainings]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"retrainings must be of different seeds, got {', '.join(map(str, seeds))}")
    for other in retrainings[1:]:
        if other.epsilon != first.epsilon:
            raise ValueError(
                f"retrainings must be judged at one ε, got {first.epsilon * 255:.4g}/255 and "
                f"{other.epsilon * 255:.4g}/255; give ε yourself, or use retrain_seeds"
            )
        if (_without_seed(other), other.report) != (_without_seed(first), first.report):
            raise ValueError(
                "retrainings must differ in their seed only, "
                f"those of seeds {first.seed} and {other.seed} differ in more"
            )


def _without_seed(retraining: Retraining) -> RetrainingSpec:
    """What was asked for, apart from the seed and from where ε came from."""
    measurement = retraining.spec.measurement
    training = replace(measurement.training, seed=0)
    return replace(retraining.spec, measurement=replace(measurement, training=training, epsilon=retraining.epsilon))


class _Comparing:
    """Right and wrong, image by image, of every rule and seed."""

    def __init__(self, retrainings: Sequence[Retraining], epoch: int, level: float) -> None:
        self._retrainings = {own.seed: own for own in retrainings}
        self._epoch = epoch
        self._level = level

    def before(self) -> Row:
        """The row of the networks before retraining."""
        seeds = list(self._retrainings)
        return Row(
            rule=NO_RETRAINING,
            title="the network before retraining",
            accuracy=self._accuracy(NO_RETRAINING, seeds),
            to_before={},
            to_all=self._difference(NO_RETRAINING, EVERYTHING, seeds),
            num_live_trained=tuple(0.0 for _ in seeds),
            seeds=tuple(seeds),
            reasons={},
            same_as=(),
        )

    def row(self, rule: str) -> Row:
        """The row of one rule."""
        seeds = [seed for seed in self._retrainings if self._judgements(rule, seed)]
        return Row(
            rule=rule,
            title=RULES[rule].title,
            accuracy=self._accuracy(rule, seeds),
            to_before=self._difference(rule, NO_RETRAINING, seeds),
            to_all=self._difference(rule, EVERYTHING, seeds) if rule != EVERYTHING else {},
            num_live_trained=tuple(self._num_live_trained(rule, seed) for seed in seeds),
            seeds=tuple(seeds),
            reasons={seed: self._reason(rule, seed) for seed in self._retrainings if seed not in seeds},
            same_as=self._same_as(rule) if seeds else (),
        )

    def _judgements(self, rule: str, seed: int) -> list[Judgement]:
        """One per draw; none where the rule chose nothing, or is not that far."""
        retraining = self._retrainings[seed]
        if rule == NO_RETRAINING:
            return [retraining.before]
        results = retraining.of_rule(rule)
        far = [own for own in results if not own.choice.reason and len(own.epochs) >= self._epoch]
        if len(far) < len(retraining.spec.draws(rule)):
            return []
        return [own.epochs[self._epoch - 1].judgement if self._epoch else retraining.before for own in far]

    def _reason(self, rule: str, seed: int) -> str:
        results = self._retrainings[seed].of_rule(rule)
        return next((own.choice.reason for own in results if own.choice.reason), "not retrained that far yet")

    def _num_live_trained(self, rule: str, seed: int) -> float:
        return float(np.mean([own.num_live_trained for own in self._retrainings[seed].of_rule(rule)]))

    def _same_as(self, rule: str) -> tuple[str, ...]:
        def selections(name: str) -> list[list[Selection]]:
            return [[own.choice.selection for own in each.of_rule(name)] for each in self._retrainings.values()]

        others = next(iter(self._retrainings.values())).spec.rules
        return tuple(name for name in others if name != rule and selections(name) == selections(rule))

    def _right(self, rule: str, seeds: Sequence[int], kind: Judged) -> Values:
        """Whether each image is right, (S, N); with several draws, in which share of them."""
        return np.array([np.mean([own.right(kind) for own in self._judgements(rule, seed)], axis=0) for seed in seeds])

    def _accuracy(self, rule: str, seeds: Sequence[int]) -> dict[Judged, Estimate]:
        if not seeds:
            return {}
        return {kind: estimate_mean(self._right(rule, seeds, kind), None, self._level) for kind in JUDGED}

    def _difference(self, rule: str, other: str, seeds: Sequence[int]) -> dict[Judged, Estimate]:
        shared = [seed for seed in seeds if self._judgements(other, seed)]
        if not shared:
            return {}
        return {
            kind: estimate_mean(self._right(rule, shared, kind), self._right(other, shared, kind), self._level)
            for kind in JUDGED
        }


def estimate_mean(right: Values, other: Values | None, level: float) -> Estimate:
    """Estimate an accuracy, or a paired difference of two.

    Args:
        right: float64 (S, N) in [0, 1], whether each image is right, per seed.
        other: likewise, of what is subtracted; ``None`` for an accuracy.
        level: of the interval.

    Returns:
        Over S ≥ 2 seeds, Student's t over their means. Over the images of one, the linearised interval, or a
        bounded-mean interval where fewer than ten images contribute. Seeds whose means are all the same say nothing
        about their spread: then over images too, each taken as its mean over seeds.

    Source: METHOD, "Selective retraining" and "Intervals".

    >>> estimate_mean(np.array([[1.0, 0.0], [1.0, 1.0]]), None, 0.95).seed_values
    (0.5, 1.0)
    """
    minus = np.zeros_like(right) if other is None else other
    means = (right - minus).mean(axis=1)
    value, num_seeds = float(means.mean()), len(means)
    dots = tuple(float(mean) for mean in means)
    if num_seeds > 1 and np.ptp(means) > 1e-12:
        half = student_half_width(level, num_seeds - 1) * float(means.std(ddof=1)) / math.sqrt(num_seeds)
        return Estimate(value=value, low=value - half, high=value + half, basis="seeds", seed_values=dots)
    q, z = right.mean(axis=0), minus.mean(axis=0)
    estimand = Estimand(chance=0.0, reference=0.0 if other is None else 1.0, ratio=False)
    changed = np.ones(len(q), dtype=np.bool_) if other is None else np.any(right != minus, axis=0)
    contributing = num_contributing(q, z, changed)
    if contributing >= FEWEST_CONTRIBUTING:
        low, high = linear_interval(value, estimand.influence(q, z), level, contributing)
    else:
        low, high = betting_interval(estimand, q, z, level)
    return Estimate(value=value, low=low, high=high, basis="images", seed_values=dots)
