"""What of a comparison is measured, wherever it comes from, and what is missing; computes no network, imports no torch.

One ε serves all epochs and initialisations of a network on a data set (METHOD): the one calibrated on the last epoch of
which anything is measured at it, unless one is given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from fss_core.checkpoints import find_checkpoint
from fss_core.data import DATASETS, dataset_card, dataset_state
from fss_core.flow import Measured, Origin, find_epsilon, find_measured
from fss_core.imports import Entry, imported, published
from fss_core.invariance.results import Across
from fss_core.specs import (
    NETWORKS,
    SYNAPTIC_FILTERS,
    FssError,
    MeasurementSpec,
    UnknownNameError,
    from_json,
)
from fss_core.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSpec:
    """Names what is compared.

    Attributes:
        across: epochs or data sets of one network, or networks on one data set.
        measurement: what all have in common; the epoch, data set or network in it says nothing.
        labels: which epochs, data sets or networks, as names; all of which anything is measured by default.
    """

    across: Across
    measurement: MeasurementSpec
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        if self.across not in get_args(Across):
            raise ValueError(f"across must be one of {', '.join(get_args(Across))}, got {self.across!r}")
        if self.across == "epochs" and any(not label.isdecimal() for label in self.labels):
            raise ValueError(f"epochs must be whole numbers, got {', '.join(self.labels)}")

    def of(self, label: str) -> MeasurementSpec:
        """Ask for one epoch, data set or network."""
        own, training = self.measurement, self.measurement.training
        if self.across == "epochs":
            return replace(own, epoch=int(label))
        one = replace(training, dataset=label) if self.across == "datasets" else replace(training, network=label)
        return replace(own, training=one)

    def label_of(self, spec: MeasurementSpec) -> str:
        """Say which epoch, data set or network a measurement is of."""
        training = spec.training
        return {"epochs": str(spec.epoch), "datasets": training.dataset, "networks": training.network}[self.across]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One measurement that is there, complete or not.

    Attributes:
        spec: what was asked for.
        epsilon: of the attack, in pixels on [0, 1].
        calibrated: whether that is known to have been calibrated on the checkpoint itself.
        origin: where it comes from.
        key: names it.
        dataset_title: the data set's name on screen.
    """

    spec: MeasurementSpec
    epsilon: float
    calibrated: bool
    origin: Origin
    key: str
    dataset_title: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """One epoch, data set or network that is to be compared.

    Attributes:
        label: its name, as in :class:`ComparisonSpec`.
        title: its name on screen.
        spec: what was looked for; ε is given wherever it is known.
        about_epsilon: how ε was chosen, in words.
        measured: everything of it; ``None`` where anything is missing.
        reason: why it cannot be compared, in words; empty if it can.
    """

    label: str
    title: str
    spec: MeasurementSpec
    about_epsilon: str
    measured: Measured | None
    reason: str

    @property
    def short_title(self) -> str:
        """Its name where there is little room."""
        return self.label if self.title.startswith(f"{self.label}:") else self.title

    @property
    def command(self) -> str:
        """The command that measures what is missing."""
        return score_command(self.spec)


def list_known(store: Store) -> tuple[Known, ...]:
    """List everything that is measured layer by layer: here, imported, published.

    Raises:
        StoreError: the catalogue is damaged.
    """
    found = []
    for record in store.list_records():
        own: Any = record.spec
        try:
            spec, epsilon = from_json(MeasurementSpec, own["measurement"]), float(own["attack"]["epsilon"])
        except (KeyError, TypeError, ValueError):
            continue  # of another version
        title = str(own.get("dataset_title", spec.training.dataset))
        found.append(
            Known(
                spec=spec,
                epsilon=epsilon,
                calibrated=spec.epsilon is None,
                origin="measured",
                key=record.key,
                dataset_title=title,
            )
        )
    for collection in (imported(), published()):
        found += [
            Known(
                spec=own.manifest.measurement,
                epsilon=own.manifest.attack.epsilon,
                calibrated=own.manifest.calibration is not None and not own.manifest.calibrated_on,
                origin=collection.origin,
                key=own.manifest.key,
                dataset_title=own.manifest.dataset.title,
            )
            for own in collection.entries()
            if isinstance(own, Entry)
        ]
    return tuple(
        own
        for own in found
        if own.spec.response.scope == "local" and set(SYNAPTIC_FILTERS) <= set(own.spec.response.filters)
    )


def known_labels(comparison: ComparisonSpec, known: Sequence[Known]) -> tuple[str, ...]:
    """List the epochs, data sets or networks of which anything is measured as asked for, at whatever ε, in order."""
    labels = dict.fromkeys(
        comparison.label_of(own.spec) for own in known if _is_alike(own, comparison.of(comparison.label_of(own.spec)))
    )
    if comparison.across == "epochs":
        return tuple(sorted(labels, key=int))
    order = {name: place for place, name in enumerate(DATASETS if comparison.across == "datasets" else NETWORKS)}
    return tuple(sorted(labels, key=lambda label: (order.get(label, len(order)), label)))


def version_of(store: Store, comparison: ComparisonSpec, label: str, known: Sequence[Known]) -> tuple[object, ...]:
    """Say which version of one column's results there is: whatever is added or replaced changes it.

    Raises:
        StoreError: the store is damaged.
    """
    spec = comparison.of(label)
    mine = [own for own in known if _is_alike(own, spec)]
    beside = [own.spec.epoch for own in known if _is_alike(own, spec, any_epoch=True)]
    shared = shared_epsilon(store, spec, known)
    here = sorted({own.key for own in mine if own.origin == "measured"})
    return (
        *(shared.value, shared.about, tuple(sorted(set(beside)))),
        *sorted((own.origin, own.key, own.epsilon, own.spec.num_images) for own in mine),
        *((key, store.num_bytes(f"responses/{key}/")) for key in here),
        imported().version,
        published().version,
    )


def _is_alike(known: Known, spec: MeasurementSpec, *, any_epoch: bool = False, any_seed: bool = False) -> bool:
    """Say whether a measurement is as asked for, but for ε and the number of images."""
    own, training = known.spec, known.spec.training
    return (
        replace(training, seed=spec.training.seed if any_seed else training.seed) == spec.training
        and (any_epoch or own.epoch == spec.epoch)
        and own.attack_kind.lower() == spec.attack_kind.lower()
        and own.attack_mode == spec.attack_mode
        and own.device_type == spec.device_type
        and replace(own.response, filters=spec.response.filters) == spec.response
    )


# One ε ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedEpsilon:
    """The ε of all epochs and initialisations of a network on a data set.

    Attributes:
        value: in pixels on [0, 1]; ``None`` while it is not known.
        about: how it was chosen, in words.
        epoch: on which it was calibrated; ``None`` if it was not, or that is not known.
    """

    value: float | None
    about: str
    epoch: int | None = None


def shared_epsilon(store: Store, spec: MeasurementSpec, known: Sequence[Known]) -> SharedEpsilon:
    """Choose the ε of all epochs and initialisations of a network on a data set.

    Args:
        store: of calibrations.
        spec: of any epoch.
        known: of :func:`list_known`.

    Returns:
        The one that is given; else the one calibrated on the last epoch, of the first initialisation, at which
        anything of this initialisation is measured; else the one at which most epochs are.

    Source: METHOD, "Adversarial images".
    """
    if spec.epsilon is not None:
        return SharedEpsilon(value=spec.epsilon, about="as given")
    alike = [own for own in known if _is_alike(own, spec, any_epoch=True, any_seed=True)]
    mine = [own for own in alike if own.spec.training.seed == spec.training.seed]
    used = {own.epsilon for own in mine}
    for own in sorted(alike, key=lambda found: (found.spec.training.seed, -found.spec.epoch)):
        if own.epsilon in used and (own.calibrated or _calibrated(store, own.spec) == own.epsilon):
            seed = own.spec.training.seed
            of = f" of initialisation {seed}" if seed != spec.training.seed else ""
            return SharedEpsilon(
                value=own.epsilon, about=f"calibrated on epoch {own.spec.epoch}{of}", epoch=own.spec.epoch
            )
    if not mine:
        return SharedEpsilon(value=None, about="not calibrated yet")
    counts = Counter(own.epsilon for own in mine)
    value = max(counts, key=lambda epsilon: (counts[epsilon], epsilon))
    return SharedEpsilon(value=value, about="at which most is measured")


def epsilon_caution(shared: SharedEpsilon, spec: MeasurementSpec, epochs: Iterable[int]) -> str:
    """Say that ε should come from a later epoch; empty if it does not matter.

    Args:
        shared: of :func:`shared_epsilon`.
        spec: of any epoch.
        epochs: those that are compared.
    """
    last = max(epochs, default=0)
    if shared.epoch is None or last <= shared.epoch:
        return ""
    command = score_command(replace(spec, epoch=last, epsilon=None))
    return (
        f"ε was calibrated on epoch {shared.epoch}, not on the last one that is compared; `{command}` calibrates it on "
        f"epoch {last}, and all epochs are then asked for at that ε"
    )


def _calibrated(store: Store, spec: MeasurementSpec) -> float | None:
    """Look up the ε that was calibrated on a checkpoint, if that can be done here."""
    try:
        if dataset_state(spec.training.dataset).state != "ready":
            return None
        checkpoint = find_checkpoint(spec.training, spec.epoch)
        if checkpoint is None:
            return None
        found = find_epsilon(store, checkpoint, dataset_card(spec.training.dataset), spec.device_type)
    except FssError:
        return None  # whoever shows that checkpoint says what is wrong with it
    return None if found is None else float(found)


# Looking up -----------------------------------------------------------------------------------------------


def find_candidates(
    store: Store, comparison: ComparisonSpec, known: Sequence[Known] | None = None
) -> tuple[Candidate, ...]:
    """Look up everything that is to be compared: what is measured here, otherwise imported, otherwise published.

    Args:
        store: of what is measured here.
        comparison: what to look for.
        known: of :func:`list_known`.

    Returns:
        One for each label, in order; what is broken is among them, with its reason.

    Raises:
        StoreError: the store as a whole is damaged.
    """
    known = list_known(store) if known is None else known
    labels = comparison.labels or known_labels(comparison, known)
    return same_images(comparison.across, [find_candidate(store, comparison, label, known) for label in labels])


def find_candidate(store: Store, comparison: ComparisonSpec, label: str, known: Sequence[Known]) -> Candidate:
    """Look one of them up, as :func:`find_candidates` does."""
    spec = comparison.of(label)
    shared = shared_epsilon(store, spec, known)
    sizes = [shared]
    if comparison.across != "epochs" and spec.epsilon is None:
        # Not at the ε of all epochs, perhaps at its own.
        sizes += [
            SharedEpsilon(value=own.epsilon, about="calibrated on this epoch")
            for own in known
            if own.epsilon != shared.value
            and _is_alike(own, spec)
            and (own.calibrated or _calibrated(store, own.spec) == own.epsilon)
        ]
    tried = [look_up(store, label, _title(comparison, label, known), spec, size, known) for size in sizes]
    return next((own for own in tried if own.measured is not None), tried[0])


def look_up(
    store: Store, label: str, title: str, spec: MeasurementSpec, epsilon: SharedEpsilon, known: Sequence[Known]
) -> Candidate:
    """Look one measurement up, at an ε.

    Raises:
        StoreError: the store as a whole is damaged.
    """
    if epsilon.value is not None:
        spec = replace(spec, epsilon=epsilon.value)
    measured, reason = None, ""
    if any(_is_alike(own, spec) and own.epsilon == spec.epsilon for own in known):
        try:
            measured = _find(store, spec)
        except (FssError, ValueError) as error:
            reason = str(error)
    if measured is not None and measured.missing:
        total = len(measured.names)
        reason, measured = f"{total - len(measured.missing)} of {total} layers are measured", None
    if measured is None:
        reason = reason or _why_missing(spec, known)
    return Candidate(label=label, title=title, spec=spec, about_epsilon=epsilon.about, measured=measured, reason=reason)


def _find(store: Store, spec: MeasurementSpec) -> Measured | None:
    """Look for all layers of a measurement, here and elsewhere; for some of them, if there are not all anywhere."""
    partly: Measured | None = None
    with_filters = replace(spec, response=replace(spec.response, filters=SYNAPTIC_FILTERS))
    try:
        ready = dataset_state(spec.training.dataset).state == "ready"
    except UnknownNameError:
        ready = False
    if ready:
        partly = find_measured(store, with_filters)
        if partly is not None and not partly.missing:
            return partly
    for collection in (imported(), published()):
        found = collection.find(with_filters)
        if found is not None and found.responses.num_images == spec.num_images:
            if not found.missing:
                return found
            partly = partly or found
    return partly


def _why_missing(spec: MeasurementSpec, known: Sequence[Known]) -> str:
    alike = [own for own in known if _is_alike(own, spec)]
    same = [own for own in alike if own.epsilon == spec.epsilon]
    if same:
        return f"measured on {max(own.spec.num_images for own in same)} images only, not on {spec.num_images}"
    if alike:
        sizes = ", ".join(sorted({epsilon_text(own.epsilon) for own in alike}))
        return f"measured at ε = {sizes} only"
    epochs = sorted({own.spec.epoch for own in known if _is_alike(own, spec, any_epoch=True)})
    return "not measured" + (f" (epoch {', '.join(map(str, epochs))} is)" if epochs else "")


def _title(comparison: ComparisonSpec, label: str, known: Sequence[Known]) -> str:
    if comparison.across == "epochs":
        return f"epoch {label}"
    if comparison.across == "networks":
        return NETWORKS.get(label, label)
    # What is measured here comes first, and names it.
    titles = {own.spec.training.dataset: own.dataset_title for own in reversed(known)}
    return titles.get(label) or DATASETS.get(label, label)


def find_pair(
    store: Store, first: MeasurementSpec, second: MeasurementSpec, known: Sequence[Known]
) -> tuple[Across, tuple[Candidate, ...]]:
    """Look two measurements up that are to be compared with each other.

    Args:
        store: of what is measured here.
        first: labelled ``"pinned"``.
        second: labelled ``"this view"``.
        known: of :func:`list_known`.

    Returns:
        How they can be compared (two epochs, initialisations or attacks of a network on a data set compare as epochs
        do), and both.

    Raises:
        ValueError: neither the layers nor the images are the same, or there is nothing to compare.
        StoreError: the store as a whole is damaged.
    """
    one, other = first.training, second.training
    if one.network != other.network and one.dataset != other.dataset:
        raise ValueError(
            "the pinned view and this one differ in network and in data set, so that neither layers nor images are the "
            "same; choose the network or the data set of the pinned view"
        )
    if first == second:
        raise ValueError("this view is the pinned one; choose another network, data set, epoch or attack beside it")
    across: Across = (
        "datasets" if one.dataset != other.dataset else "networks" if one.network != other.network else "epochs"
    )
    if across != "datasets" and first.num_images != second.num_images:
        raise ValueError(
            f"the pinned view has {first.num_images} images and this one {second.num_images}; they are compared on "
            f"the same ones: choose {first.num_images}"
        )
    found = [
        look_up(store, label, f"{label}: {_differences(own, beside)}", own, shared_epsilon(store, own, known), known)
        for label, own, beside in (("pinned", first, second), ("this view", second, first))
    ]
    return across, same_images(across, found)


def _differences(spec: MeasurementSpec, beside: MeasurementSpec) -> str:
    """Say what sets one measurement apart from another."""

    def parts(own: MeasurementSpec) -> list[str]:
        training = own.training
        return [
            NETWORKS.get(training.network, training.network),
            DATASETS.get(training.dataset, training.dataset),
            f"epoch {own.epoch}",
            f"initialisation {training.seed}",
            own.attack_kind.upper(),
            own.attack_mode,
            "ε calibrated" if own.epsilon is None else f"ε = {epsilon_text(own.epsilon)}",
            f"{own.response.num_thresholds} thresholds",
            f"n = {own.num_images}",
        ]

    return ", ".join(own for own, other in zip(parts(spec), parts(beside), strict=True) if own != other)


def same_images(across: Across, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Set aside what was measured on other images than the first of them; data sets have each their own."""
    if across == "datasets":
        return tuple(candidates)
    probes = [own.measured.card.fingerprints["probe"] for own in candidates if own.measured is not None]
    return tuple(
        own
        if own.measured is None or own.measured.card.fingerprints["probe"] == probes[0]
        else replace(own, measured=None, reason="measured on other images of a data set of that name")
        for own in candidates
    )


# Words ----------------------------------------------------------------------------------------------------


def epsilon_text(epsilon: float) -> str:
    """Write ε so that it is read back as the same number: as k/255 where that can be.

    >>> epsilon_text(2 / 255), epsilon_text(0.1234567)
    ('2/255', '0.1234567')
    """
    for digits in (3, 6, 17):
        text = f"{epsilon * 255:.{digits}g}"
        if float(text) / 255 == epsilon and len(text) < 8:
            return f"{text}/255"
    return repr(epsilon)


def score_command(spec: MeasurementSpec) -> str:
    """Write the command that measures something."""
    training = spec.training
    parts = [f"fss score --network {training.network} --dataset {training.dataset} --epoch {spec.epoch}"]
    parts += [f"--seed {training.seed}"] if training.seed else []
    parts += [f"--train-images {training.num_train}"] if training.num_train is not None else []
    parts += [f"--images {spec.num_images} --thresholds {spec.response.num_thresholds}"]
    parts += [f"--attack {spec.attack_kind}"] if spec.attack_kind != "fgsm" else []
    parts += [f"--attack-mode {spec.attack_mode}"] if spec.attack_mode != "frozen" else []
    parts += [f"--epsilon {epsilon_text(spec.epsilon)}"] if spec.epsilon is not None else []
    parts += [f"--device {spec.device}"] if spec.device != "cpu" else []
    parts += [f"--arithmetic {spec.response.arithmetic}"] if spec.response.arithmetic != "float32" else []
    return " ".join(parts)
