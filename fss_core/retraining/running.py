"""From a checkpoint to retrained networks: score → choose → train → judge, each done once and then looked up.

Every epoch is kept as soon as it is finished, and what another process is busy with is waited for. Torch is imported
only when something is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fss_core.data import Dataset, load_dataset
from fss_core.flow import Flow, Progress, Stage
from fss_core.retraining.lookup import find_retrained, num_report_images, of_seed
from fss_core.retraining.results import Retraining
from fss_core.retraining.spec import RetrainingSpec
from fss_core.specs import Cancelled, DataError, StoreError
from fss_core.store import Store

if TYPE_CHECKING:
    from torch import nn

    Factory = Callable[..., nn.Module]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainingProgress:
    """How far a step is.

    Attributes:
        stage: ``"retrain"``, ``"judge"``, ``"criticality"``, or a stage of ``flow.Progress``.
        done: work done; for retraining and judging in epochs of all selections, half of each for either.
        total: work in all, in the same unit.
        detail: what is being done, in words.
    """

    stage: str
    done: float
    total: float
    detail: str


OnProgress = Callable[[RetrainingProgress], None]
ShouldStop = Callable[[], bool]


def retrain(
    spec: RetrainingSpec,
    *,
    store: Store,
    factory: Factory | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
    refresh: bool = False,
) -> Retraining:
    """Retrain one checkpoint under every rule, and judge after each epoch; what was done before is looked up.

    Args:
        spec: what to do.
        store: where results are looked up and kept.
        factory: builds a network of the user's own.
        on_progress: told how far each step is.
        should_stop: looked at between batches; when true, :class:`Cancelled` is raised, and finished epochs stay.
        refresh: forget what was retrained and judged, and begin again; scores stay.

    Returns:
        The complete result.

    Raises:
        Cancelled: ``should_stop`` said so.
        DataError: the data set is missing, or its probe and report images overlap.
        FssError: a step cannot be done; the text says which and why.
        ValueError: more report images than there are.

    Source: METHOD, "Selective retraining"; Pravin et al. 2024.
    """
    if not refresh:
        found = find_retrained(store, spec)
        if found is not None and found.complete:
            return found
    dataset = load_dataset(spec.measurement.training.dataset)
    num_report_images(spec, dataset.card)
    refuse_overlap(dataset)

    def tell(stage: Stage, done: float, total: float, detail: str) -> None:
        if should_stop is not None and should_stop():
            raise Cancelled("stopped as asked; what was finished is kept, run again to go on")
        if on_progress is not None:
            on_progress(RetrainingProgress(stage=stage, done=done, total=total, detail=detail))

    def tell_flow(now: Progress) -> None:
        if on_progress is not None:
            on_progress(RetrainingProgress(stage=now.stage, done=now.done, total=now.total, detail=now.detail))

    measured = Flow(store, on_progress=tell_flow, should_stop=should_stop, factory=factory).measure(spec.measurement)
    from fss_core.retraining.work import Work

    Work(spec, measured, dataset, store, tell, factory, refresh=refresh).do()
    complete = find_retrained(store, spec)
    if complete is None or not complete.complete:
        raise StoreError("results vanished while networks were retrained (another process refreshed them); run again")
    return complete


def retrain_seeds(
    spec: RetrainingSpec, seeds: Sequence[int], run: Callable[[RetrainingSpec], Retraining]
) -> tuple[Retraining, ...]:
    """Retrain several initialisations at one ε: the one given, or else the one calibrated on the first of them.

    Args:
        spec: what to do; its own seed does not matter.
        seeds: the initialisations, each once.
        run: does it for one of them: ``functools.partial(retrain, store=store)``.

    Returns:
        One result per seed.

    Raises:
        ValueError: ``seeds`` is empty or names one twice.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must name at least one initialisation, each once, got {list(seeds)}")

    epsilon = spec.measurement.epsilon
    if epsilon is None:
        epsilon = run(of_seed(spec, seeds[0], None)).epsilon
    return tuple(run(of_seed(spec, seed, epsilon)) for seed in seeds)


def refuse_overlap(dataset: Dataset) -> None:
    """Make sure that no image is both scored on and judged on.

    Raises:
        DataError: the probe and the report split share an image.
    """
    places = {image.tobytes(): index for index, image in enumerate(dataset.probe.images)}
    report = [image.tobytes() for image in dataset.report.images]
    shared = [(places[image], index) for index, image in enumerate(report) if image in places]
    if shared:
        raise DataError(
            f"probe and report of {dataset.name} overlap: {len(shared)} of {len(report)} report images are probe "
            f"images (the first is number {shared[0][1]}, probe image {shared[0][0]}); remove the copies, so that what "
            "chooses layers does not judge them"
        )
