"""What retraining gives: which report images a network gets right after every epoch, per rule, and what made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from fss_core.retraining.rules import Choice
from fss_core.retraining.spec import RetrainingSpec

Judged = Literal["clean", "fgsm", "pgd", "transfer"]
JUDGED: tuple[Judged, ...] = get_args(Judged)
"""What networks are judged on: clean images; white-box FGSM and PGD at the same ε, made anew on the network as it is;
and the FGSM images of the network before retraining."""

HEADLINE: Judged = "fgsm"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judgement:
    """Which report images one network gets right.

    Attributes:
        num_images: N.
        packed: per kind of image, uint8 (⌈N / 8⌉,): the bits of ``right``, as ``numpy.packbits`` lays them out.
    """

    num_images: int
    packed: Mapping[Judged, npt.NDArray[np.uint8]]

    @classmethod
    def of(cls, right: Mapping[Judged, npt.NDArray[np.bool_]]) -> Judgement:
        """Pack what is right: bool (N,) per kind of image."""
        (num_images,) = {len(own) for own in right.values()}
        return cls(num_images=num_images, packed={kind: np.packbits(right[kind]) for kind in JUDGED})

    def right(self, kind: Judged) -> npt.NDArray[np.bool_]:
        """Say which images are right, bool (N,)."""
        return np.unpackbits(self.packed[kind], count=self.num_images).astype(np.bool_)

    def accuracy(self, kind: Judged) -> float:
        """Compute the fraction that is right."""
        return float(self.right(kind).mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a retraining starts from.

    Attributes:
        num_live_trained: trained weights that can change the output; biases and normalisation are not counted.
        frozen_sha256: over everything that must not move.
        optimiser: ``"continued"`` from the checkpoint's moments, or ``"fresh"`` where it has none.
        steps_per_epoch: batches.
    """

    num_live_trained: int
    frozen_sha256: str
    optimiser: Literal["continued", "fresh"]
    steps_per_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RetrainedEpoch:
    """One epoch of retraining.

    Attributes:
        loss: mean cross-entropy over its batches, in nats.
        frozen_sha256: over everything that must not move, after it.
        judgement: of the network after it.
        seconds: wall time of its steps, without judging.
    """

    loss: float
    frozen_sha256: str
    judgement: Judgement
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleResult:
    """What came of one rule, or of one draw of ``random``.

    Attributes:
        choice: what it chose, or why nothing.
        start: ``None`` where nothing was chosen, or retraining has not begun.
        epochs: those that are finished, in order.
    """

    choice: Choice
    start: Start | None = None
    epochs: tuple[RetrainedEpoch, ...] = ()

    @property
    def num_live_trained(self) -> int:
        """Trained weights that can change the output."""
        return 0 if self.start is None else self.start.num_live_trained


@dataclass(frozen=True, slots=True, kw_only=True)
class Retraining:
    """The retraining of one checkpoint under some rules, as far as it is complete.

    Attributes:
        spec: what was asked for.
        epsilon: of FGSM and PGD, in pixels on [0, 1].
        checkpoint_sha256: of the weights before.
        origin: ``"trained"`` here or ``"imported"``.
        dataset_title: what to call the data set on screen.
        report: fingerprint of the report split.
        num_live: weights of all layers that can change the output.
        before: the network before any retraining.
        rules: one result per rule and draw, in the order of ``spec.rules``.
    """

    spec: RetrainingSpec
    epsilon: float
    checkpoint_sha256: str
    origin: Literal["trained", "imported"]
    dataset_title: str
    report: str
    num_live: int
    before: Judgement
    rules: tuple[RuleResult, ...]

    @property
    def seed(self) -> int:
        """The initialisation."""
        return self.spec.measurement.training.seed

    @property
    def complete(self) -> bool:
        """Whether every rule has had its budget, or chose nothing."""
        wanted = sum(len(self.spec.draws(rule)) for rule in self.spec.rules)
        done = [own.choice.reason or len(own.epochs) == self.spec.budget for own in self.rules]
        return len(done) == wanted and all(done)

    def of_rule(self, rule: str) -> tuple[RuleResult, ...]:
        """Return the results of one rule: several for ``random``, else one; none where it was not run."""
        return tuple(own for own in self.rules if own.choice.rule == rule)
