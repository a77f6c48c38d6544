"""The arrows from a data set to responses: train → calibrate ε → attack → measure, each done once and then looked up.

Every step looks in the store first and claims what it is about to compute, so that two processes that ask for the same
thing compute it once, and an interrupted one goes on where it stopped. Torch is imported only when something is
missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from fss_core.archive import ResponseArchive
from fss_core.checkpoints import Checkpoint, find_checkpoint
from fss_core.data import DatasetCard, dataset_card
from fss_core.responses import Responses
from fss_core.specs import (
    AttackSpec,
    Cancelled,
    CheckpointError,
    EpsilonCalibration,
    MeasurementSpec,
    StoreError,
    TrainingSpec,
    UnknownLayerError,
    choose,
    epsilon_key,
    response_key,
)
from fss_core.store import SCHEMA, Store

if TYPE_CHECKING:
    from torch import nn

    from fss_core.stopping import Stopping

Stage = Literal["train", "calibrate", "attack", "measure", "wait", "criticality", "judge", "retrain"]
Origin = Literal["measured", "imported", "published"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a step is.

    Attributes:
        stage: which step.
        done: work done, in units of its own cost.
        total: work in all; for calibration an upper bound.
        detail: what is being done, in words.
    """

    stage: Stage
    done: float
    total: float
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A measurement, as far as it is complete.

    Attributes:
        spec: what was asked for.
        key: names it in the store.
        checkpoint: the network that was measured.
        card: the data set it was measured on.
        calibration: the curve ε was read from; ``None`` when ε was given.
        calibrated_on: the checkpoint of that curve, in words, where it is not the one that was measured.
        responses: of the layers that are complete.
        missing: names of the layers that are not.
        origin: whether it was measured here, read from somebody's file, or published with the project.
        order: all layers in network order, measured or not; empty if it is only known of those measured.
    """

    spec: MeasurementSpec
    key: str
    checkpoint: Checkpoint
    card: DatasetCard
    calibration: EpsilonCalibration | None
    responses: Responses
    missing: tuple[str, ...]
    origin: Origin = "measured"
    order: tuple[str, ...] = ()
    calibrated_on: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """All layers, those that are missing at the end if their place is not known."""
        return self.order or (*(layer.facts.name for layer in self.responses.layers), *self.missing)


def find_epsilon(
    store: Store, checkpoint: Checkpoint, card: DatasetCard, device_type: str
) -> EpsilonCalibration | None:
    """Look a calibrated ε up."""
    found = store.get(epsilon_name(checkpoint, card, device_type))
    if found is None:
        return None
    meta = cast(dict[str, Any], found.meta)
    return EpsilonCalibration(**(meta | {name: tuple(meta[name]) for name in ("grid", "pgd_accuracy")}))


def epsilon_name(checkpoint: Checkpoint, card: DatasetCard, device_type: str) -> str:
    """Say under which key of the store a calibrated ε lies."""
    return "epsilon/" + epsilon_key(
        network=checkpoint.identity,
        calibration=card.fingerprints["calibration"],
        device_type=device_type,
        schema=SCHEMA,
    )


def check_num_images(spec: MeasurementSpec, card: DatasetCard) -> None:
    """Refuse more images than the probe split has.

    Raises:
        ValueError: it has fewer.
    """
    most = card.split_sizes["probe"]
    if spec.num_images > most:
        raise ValueError(
            f"num_images must be at most {most}, the probe images of {card.name}, got {spec.num_images}; "
            f"use --images {most}"
        )


def archive_of(
    store: Store, spec: MeasurementSpec, checkpoint: Checkpoint, card: DatasetCard, attack: AttackSpec
) -> ResponseArchive:
    """Say where a measurement's pieces lie."""
    key = response_key(
        response=spec.response,
        attack=attack,
        network=checkpoint.identity,
        probe=card.fingerprints["probe"],
        device_type=spec.device_type,
        schema=SCHEMA,
    )
    return ResponseArchive(store, key, spec.response)


def find_measured(
    store: Store,
    spec: MeasurementSpec,
    *,
    layers: Sequence[str] | None = None,
    every_image: bool = False,
    stopping: Stopping | None = None,
) -> Measured | None:
    """Look a measurement up, complete or not, without computing anything or importing torch.

    Args:
        store: where to look.
        spec: what to look for.
        layers: which layers; all by default.
        every_image: take all the images that were measured, instead of ``spec.num_images``.
        stopping: take a layer as complete as soon as its calls are decided; by default when it has all images.

    Returns:
        What there is; ``None`` if the network was never trained to that epoch, ε never calibrated, or nothing measured.

    Raises:
        CheckpointError: the checkpoint's description is broken.
        DataError: the data set is missing.
        StoreError: a stored piece is broken, or of another schema.
        UnknownLayerError: the network has no such layer.
    """
    card = dataset_card(spec.training.dataset)
    checkpoint = find_checkpoint(spec.training, spec.epoch)
    if checkpoint is None:
        return None
    calibration = find_epsilon(store, checkpoint, card, spec.device_type) if spec.epsilon is None else None
    if calibration is None and spec.epsilon is None:
        return None
    attack = spec.attack(float(calibration) if calibration is not None else cast(float, spec.epsilon))
    archive = archive_of(store, spec, checkpoint, card, attack)
    check_num_images(spec, card)
    header = archive.header()
    if header is None:
        return None
    for name in layers or ():
        choose(name, header.layers, what=f"filterable layer in {spec.training.network} called", error=UnknownLayerError)
    found = archive.load(
        archive.num_images(stopping=stopping is not None) if every_image else spec.num_images,
        attack=attack,
        layers=layers,
        is_settled=None if stopping is None else stopping.is_settled,
    )
    if found is None:
        return None
    responses, missing = found
    return Measured(
        spec=replace(spec, num_images=responses.num_images),
        key=archive.key,
        checkpoint=checkpoint,
        card=card,
        calibration=calibration,
        responses=responses,
        missing=missing,
        order=header.layers,
    )


class Flow:
    """Takes every step that is missing on the way to a measurement.

    Processes may work side by side, threads of one process may not: tracing a network changes torch for all of them.

    Args:
        store: where results are looked up and kept.
        on_progress: told how far each step is.
        should_stop: looked at between batches, attacks and filtered networks; when true, :class:`Cancelled` is raised
            and what was finished stays.
        factory: builds a network of the user's own.
    """

    def __init__(
        self,
        store: Store,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        factory: Callable[..., nn.Module] | None = None,
    ) -> None:
        """Keep the store and the callbacks."""
        self.store = store
        self._on_progress = on_progress or (lambda progress: None)
        self._should_stop = should_stop or (lambda: False)
        self.factory = factory

    def tell(self, stage: Stage, done: float, total: float, detail: str) -> None:
        """Report progress, unless the work was asked to stop.

        Raises:
            Cancelled: it was.
        """
        self.check_stop()
        self._on_progress(Progress(stage=stage, done=done, total=total, detail=detail))

    def check_stop(self) -> None:
        """Look whether the work was asked to stop.

        Raises:
            Cancelled: it was.
        """
        if self._should_stop():
            raise Cancelled("stopped as asked; what was finished is kept, run again to go on")

    @contextmanager
    def claim(self, name: str, what: str) -> Iterator[None]:
        """Hold a key of the store alone for a block, and tell of the waiting for it."""
        with self.store.claim(name, on_wait=lambda: self.tell("wait", 0, 0, f"another process is busy with {what}")):
            yield

    def train(self, spec: TrainingSpec, epochs: Sequence[int], *, device: str = "cpu") -> list[Checkpoint]:
        """Train to some epochs and save each; those that are there already cost nothing.

        Raises:
            TrainingError: the loss is not finite, or the trajectory is imported and lacks an epoch.
        """
        found = [find_checkpoint(spec, epoch) for epoch in epochs]
        known = [checkpoint for checkpoint in found if checkpoint is not None and checkpoint.kept]
        if len(known) == len(epochs):
            return known
        from fss_core import training

        def tell(now: training.TrainingProgress) -> None:
            done = now.epoch - 1 + now.step / now.steps_per_epoch
            self.tell(
                "train",
                done,
                max(epochs),
                f"epoch {now.epoch}, loss {now.loss:.3f}, {now.images_per_second:.0f} images/s",
            )

        with self.claim(f"train/{spec.network}/{spec.dataset}/{spec.seed}", "the same training"):
            return training.train(spec, epochs, device=device, on_progress=tell, should_stop=self._should_stop)

    def checkpoint(self, spec: MeasurementSpec) -> Checkpoint:
        """Find the network to measure, or train it."""
        found = find_checkpoint(spec.training, spec.epoch)
        if found is not None and found.kept:
            return found
        if self.factory is not None:
            own = spec.training
            raise CheckpointError(
                f"no epoch {spec.epoch} of {own.network} on {own.dataset}, seed {own.seed}; "
                "networks of your own come in with `fss checkpoints import`"
            )
        return self.train(spec.training, [spec.epoch], device=spec.device)[0]

    def measure(
        self,
        spec: MeasurementSpec,
        *,
        layers: Sequence[str] | None = None,
        refresh: bool = False,
        stopping: Stopping | None = None,
    ) -> Measured:
        """Measure everything that is missing, and return it all.

        Args:
            spec: what to measure.
            layers: which layers; all by default.
            refresh: forget what was measured of these layers, and whatever is damaged, and begin again; of all
                layers, also ε and the adversarial images.
            stopping: stop with each layer as soon as its calls are decided; :meth:`Stopping.score` then scores them.

        Returns:
            The complete measurement.

        Raises:
            Cancelled: ``should_stop`` said so.
            FssError: a step cannot be done; the text says which and why.
        """
        if not refresh:
            found = find_measured(self.store, spec, layers=layers, stopping=stopping)
            if found is not None and not found.missing:
                return found
        from fss_core.measurement import Measurement

        Measurement(self, spec, layers, refresh=refresh, stopping=stopping).measure()
        complete = find_measured(self.store, spec, layers=layers, stopping=stopping)
        if complete is None or complete.missing:
            raise StoreError("results vanished while they were measured (another process refreshed them); run again")
        return complete
