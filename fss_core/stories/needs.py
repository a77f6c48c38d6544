"""What must be there before a step can be shown, and the requests that bring it; runs no network, loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fss_core.checkpoints import find_checkpoint
from fss_core.data import dataset_card, dataset_state
from fss_core.flow import find_epsilon
from fss_core.invariance.lookup import Candidate, ComparisonSpec, Known, known_labels
from fss_core.jobs.requests import MeasureRequest
from fss_core.jobs.retraining_plans import RetrainRequest
from fss_core.live.requests import Network
from fss_core.retraining.pictures import RetrainPicture, find_picture
from fss_core.retraining.published import list_published
from fss_core.retraining.spec import RetrainingSpec
from fss_core.specs import NETWORKS, MeasurementSpec, ResponseSpec, TrainingSpec, UnknownNameError
from fss_core.store import Store
from fss_core.stories.reading import Step, Story

STUDY_COMMAND = "fss study --preset laptop"
"""What brings the study that the stories would rather show."""

Where = Literal["published", "here"]


# A network that answers -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A network that can be asked.

    Attributes:
        network: for requests.
        epsilon: calibrated on it, in pixels on [0, 1].
        network_title: on screen.
        dataset_title: on screen.
        class_names: of the data set.
    """

    network: Network
    epsilon: float
    network_title: str
    dataset_title: str
    class_names: tuple[str, ...]

    @property
    def chance(self) -> float:
        """1 / number of classes."""
        return 1 / len(self.class_names)


def network_request(story: Story) -> MeasureRequest:
    """Ask for the network of a story: its checkpoint and its ε, and no layer."""
    spec = MeasurementSpec(
        training=TrainingSpec(network=story.network, dataset=story.dataset),
        epoch=story.epoch,
        num_images=100,
        response=ResponseSpec(num_thresholds=9),
    )
    return MeasureRequest(spec=spec, layers=())


def find_ready(store: Store, story: Story) -> Ready | None:
    """Look the network of a story up.

    Returns:
        The network; ``None`` while the data set, the checkpoint or its ε is not there.

    Raises:
        FssError: something on the way is broken.
    """
    spec = network_request(story).spec
    store.count("epsilon/")  # a store that cannot be read says so here, whatever else is missing
    try:
        if dataset_state(story.dataset).state != "ready":
            return None
    except UnknownNameError:
        return None
    card = dataset_card(story.dataset)
    found = find_checkpoint(spec.training, story.epoch)
    if found is None or not found.kept:
        return None
    calibration = find_epsilon(store, found, card, spec.device_type)
    if calibration is None:
        return None
    return Ready(
        network=Network(training=spec.training, epoch=story.epoch, sha256=found.sha256),
        epsilon=calibration.epsilon,
        network_title=NETWORKS[story.network],
        dataset_title=card.title,
        class_names=card.class_names,
    )


# Epochs ---------------------------------------------------------------------------------------------------


def published_epochs(known: Sequence[Known], step: Step) -> ComparisonSpec | None:
    """Choose the published network whose epochs are compared: the one that a step names, else that with most epochs."""
    found = {
        replace(own.spec, epoch=0, epsilon=None): own.spec
        for own in known
        if own.origin == "published" and _is_wanted(own.spec.training, step)
    }
    choices: list[tuple[int, int, ComparisonSpec]] = []
    for spec in found.values():
        comparison = ComparisonSpec(across="epochs", measurement=replace(spec, epsilon=None))
        labels = known_labels(comparison, known)
        if len(labels) > 1:
            choices.append((len(labels), -len(choices), replace(comparison, labels=labels)))
    return max(choices)[2] if choices else None


def _is_wanted(training: TrainingSpec, step: Step) -> bool:
    wanted = step.settings["network"], step.settings["dataset"]
    return all(not name or name == own for name, own in zip(wanted, (training.network, training.dataset), strict=True))


def own_epochs(story: Story, step: Step) -> ComparisonSpec:
    """Name the epochs that are compared where nothing is published."""
    labels = sorted({*str(step.settings["epochs"]).split()}, key=int)
    training = TrainingSpec(network=story.network, dataset=story.dataset)
    spec = MeasurementSpec(
        training=training,
        epoch=int(labels[-1]),
        num_images=int(step.settings["images"]),
        response=ResponseSpec(num_thresholds=int(step.settings["thresholds"])),
    )
    return ComparisonSpec(across="epochs", measurement=spec, labels=tuple(labels))


def missing_epochs(comparison: ComparisonSpec, candidates: Sequence[Candidate], epsilon: float) -> list[MeasureRequest]:
    """Ask for the epochs that are missing, all at the ε that is calibrated on the last of them."""
    requests = []
    for own in candidates:
        if own.measured is None:
            last = own.label == comparison.labels[-1]
            spec = replace(comparison.of(own.label), epsilon=None if last else epsilon)
            requests.append(MeasureRequest(spec=spec))
    return requests


# Retraining -----------------------------------------------------------------------------------------------


def published_retrainings(store: Store) -> list[RetrainPicture]:
    """List what the published retrainings come to, initialisations together, those with most of them first."""
    groups: dict[RetrainingSpec, list[int]] = {}
    for spec in list_published():
        training = spec.measurement.training
        alike = replace(spec, measurement=replace(spec.measurement, training=replace(training, seed=0), epsilon=None))
        groups.setdefault(alike, []).append(training.seed)
    found = [find_picture(store, spec, sorted(seeds)) for spec, seeds in groups.items()]
    return sorted((own for own in found if own is not None and own.comparisons), key=lambda own: -len(own.seeds))


def chosen_retraining(pictures: Sequence[RetrainPicture], step: Step) -> RetrainPicture | None:
    """Choose the retraining that a step names, else the first."""
    return next((own for own in pictures if _is_wanted(own.spec.measurement.training, step)), None)


def own_retraining(story: Story, step: Step) -> RetrainRequest:
    """Ask for the retraining that is shown where nothing is published."""
    settings = step.settings
    measurement = MeasurementSpec(
        training=TrainingSpec(network=story.network, dataset=story.dataset),
        epoch=story.epoch,
        num_images=int(settings["images"]),
        response=ResponseSpec(num_thresholds=int(settings["thresholds"])),
    )
    spec = RetrainingSpec(
        measurement=measurement,
        budget=int(settings["budget"]),
        rules=tuple(str(settings["rules"]).split()),
        num_report_images=int(settings["report_images"]),
    )
    return RetrainRequest(spec=spec, seeds=(0,))
