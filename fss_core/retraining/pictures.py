"""What the Retrain view shows: what is chosen, judged and compared so far, without computing a network or torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fss_core.checkpoints import available_epochs
from fss_core.data import dataset_state
from fss_core.flow import Origin, find_measured
from fss_core.imports import published
from fss_core.retraining.comparing import Comparison, compare, compare_epochs
from fss_core.retraining.coverage import Coverage, cover
from fss_core.retraining.lookup import find_retrained, find_retrained_seeds, of_seed, spec_of_seed
from fss_core.retraining.published import find_published
from fss_core.retraining.results import Retraining
from fss_core.retraining.spec import RetrainingSpec
from fss_core.retraining.verdicts import Verdict, verdict
from fss_core.specs import UnknownNameError
from fss_core.store import Store


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RetrainPicture:
    """Everything that is there of a retraining.

    Attributes:
        spec: what was asked for.
        seeds: the initialisations that were asked for.
        coverages: what each rule trains, of those whose layers are measured.
        retrainings: of those that are judged before retraining, at least.
        comparisons: before retraining, and after every epoch up to the budget; empty without ``retrainings``.
        verdict: after the budget; ``None`` without ``retrainings``.
        origin: ``"published"`` where none of it was measured here.
    """

    spec: RetrainingSpec
    seeds: tuple[int, ...]
    coverages: tuple[Coverage, ...]
    retrainings: tuple[Retraining, ...]
    comparisons: tuple[Comparison, ...]
    verdict: Verdict | None
    origin: Origin = "measured"

    @property
    def complete(self) -> bool:
        """Whether every rule of every initialisation has had its budget, or chose nothing."""
        return len(self.retrainings) == len(self.seeds) and all(own.complete for own in self.retrainings)

    @property
    def last(self) -> Comparison:
        """The comparison at equal budget."""
        return self.comparisons[-1]


def find_picture(store: Store, spec: RetrainingSpec, seeds: Sequence[int]) -> RetrainPicture | None:
    """Look up what there is of a retraining: what was done here; otherwise what is published.

    Args:
        store: where to look.
        spec: what to look for; its own seed does not matter.
        seeds: the initialisations; ε, unless given, is the one calibrated on the first.

    Returns:
        What there is; ``None`` where no checkpoint is measured completely.

    Raises:
        StoreError: a stored piece is broken, or of another schema.
        ValueError: more probe or report images than there are.
    """
    origin: Origin = "measured"
    coverages, retrainings = _find_here(store, spec, seeds) if _is_prepared(spec) else ([], [])
    if not coverages:
        origin = "published"
        coverages, retrainings = _find_published(store, spec, seeds)
    if not coverages:
        return None
    comparisons = compare_epochs(retrainings, level=spec.score.level) if retrainings else ()
    return RetrainPicture(
        spec=spec,
        seeds=tuple(seeds),
        coverages=tuple(coverages),
        retrainings=tuple(retrainings),
        comparisons=comparisons,
        verdict=verdict(comparisons[-1]) if comparisons else None,
        origin=origin,
    )


def _is_prepared(spec: RetrainingSpec) -> bool:
    """Say whether the data set is ready, so that looking results up decodes nothing."""
    try:
        return dataset_state(spec.measurement.training.dataset).state == "ready"
    except UnknownNameError:
        return False


def _find_here(store: Store, spec: RetrainingSpec, seeds: Sequence[int]) -> tuple[list[Coverage], list[Retraining]]:
    coverages, retrainings = [], []
    for seed in seeds:
        own = spec_of_seed(store, spec, seeds, seed)
        measured = None if own is None else find_measured(store, own.measurement)
        if own is not None and measured is not None and not measured.missing:
            coverages.append(cover(store, own, measured))
            if (found := find_retrained(store, own)) is not None:
                retrainings.append(found)
    return coverages, retrainings


def _find_published(
    store: Store, spec: RetrainingSpec, seeds: Sequence[int]
) -> tuple[list[Coverage], list[Retraining]]:
    coverages, retrainings = [], []
    epsilon = spec.measurement.epsilon
    for seed in seeds:
        own = of_seed(spec, seed, epsilon)
        found = find_published(own)
        measured = published().find(own.measurement)
        if found is None or measured is None or measured.missing:
            continue
        if measured.checkpoint.sha256 != found.retraining.checkpoint_sha256:
            continue
        coverages.append(cover(store, found.retraining.spec, measured, found.criticality))
        retrainings.append(found.retraining)
        epsilon = found.retraining.epsilon  # the first one's is that of all
    return coverages, retrainings


def compare_checkpoints(store: Store, spec: RetrainingSpec, seeds: Sequence[int]) -> tuple[Comparison, ...]:
    """Compare what came of the same retraining from every epoch that is stored.

    Args:
        store: where to look.
        spec: what to look for, at whatever epoch and seed.
        seeds: the initialisations; those that a checkpoint lacks are left out.

    Returns:
        One comparison per epoch at which some rule had its budget, in order; each at its own ε, unless one is given.

    Raises:
        FssError: as :func:`find_picture`.
    """
    found: list[Comparison] = []
    if not _is_prepared(spec):
        return ()
    for epoch in available_epochs(replace(spec.measurement.training, seed=seeds[0])):
        own = replace(spec, measurement=replace(spec.measurement, epoch=epoch))
        if retrainings := find_retrained_seeds(store, own, seeds):
            comparison = compare(retrainings, level=spec.score.level)
            if any(row.accuracy for row in comparison.rows[1:]):
                found.append(comparison)
    return tuple(found)
