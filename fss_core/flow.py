"""The arrows from a data set to responses: train → calibrate ε → attack → measure, each done once and then looked up.

Every step looks in the store first and claims what it is about to compute, so that two processes that ask for the same
thing compute it once, and an interrupted one goes on where it stopped. Torch is imported only when something is
missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from fss_core.archive import Chunk, Header, ResponseArchive, chunks
from fss_core.checkpoints import Checkpoint, find_checkpoint
from fss_core.data import Dataset, DatasetCard, dataset_card, load_dataset
from fss_core.responses import Predictions, Responses
from fss_core.specs import (
    AttackSpec,
    Cancelled,
    CheckpointError,
    EpsilonCalibration,
    Filter,
    MeasurementSpec,
    StoreError,
    TrainingSpec,
    UnknownLayerError,
    adversarial_key,
    choose,
    epsilon_key,
    filter_rows,
    response_key,
)
from fss_core.store import SCHEMA, LeaseHeldError, Store

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fss_core.measuring import Measurer

Stage = Literal["train", "calibrate", "attack", "measure", "wait"]


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
        responses: of the layers that are complete.
        missing: names of the layers that are not.
    """

    spec: MeasurementSpec
    key: str
    checkpoint: Checkpoint
    card: DatasetCard
    calibration: EpsilonCalibration | None
    responses: Responses
    missing: tuple[str, ...]


def find_epsilon(
    store: Store, checkpoint: Checkpoint, card: DatasetCard, device_type: str
) -> EpsilonCalibration | None:
    """Look a calibrated ε up."""
    found = store.get(_epsilon_name(checkpoint, card, device_type))
    if found is None:
        return None
    meta = cast(dict[str, Any], found.meta)
    return EpsilonCalibration(**(meta | {name: tuple(meta[name]) for name in ("grid", "pgd_accuracy")}))


def _epsilon_name(checkpoint: Checkpoint, card: DatasetCard, device_type: str) -> str:
    return "epsilon/" + epsilon_key(
        network=checkpoint.identity,
        calibration=card.fingerprints["calibration"],
        device_type=device_type,
        schema=SCHEMA,
    )


def _check_num_images(spec: MeasurementSpec, card: DatasetCard) -> None:
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
) -> Measured | None:
    """Look a measurement up, complete or not, without computing anything or importing torch.

    Args:
        store: where to look.
        spec: what to look for.
        layers: which layers; all by default.
        every_image: take all the images that were measured, instead of ``spec.num_images``.

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
    _check_num_images(spec, card)
    header = archive.header()
    if header is None:
        return None
    for name in layers or ():
        choose(name, header.layers, what=f"filterable layer in {spec.training.network} called", error=UnknownLayerError)
    found = archive.load(archive.num_images() if every_image else spec.num_images, attack=attack, layers=layers)
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
        self._factory = factory

    def _tell(self, stage: Stage, done: float, total: float, detail: str) -> None:
        self._check_stop()
        self._on_progress(Progress(stage=stage, done=done, total=total, detail=detail))

    def _check_stop(self) -> None:
        if self._should_stop():
            raise Cancelled("stopped as asked; what was finished is kept, run again to go on")

    @contextmanager
    def _claim(self, name: str, what: str) -> Iterator[None]:
        with self.store.claim(name, on_wait=lambda: self._tell("wait", 0, 0, f"another process is busy with {what}")):
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
            self._tell(
                "train",
                done,
                max(epochs),
                f"epoch {now.epoch}, loss {now.loss:.3f}, {now.images_per_second:.0f} images/s",
            )

        with self._claim(f"train/{spec.network}/{spec.dataset}/{spec.seed}", "the same training"):
            return training.train(spec, epochs, device=device, on_progress=tell, should_stop=self._should_stop)

    def checkpoint(self, spec: MeasurementSpec) -> Checkpoint:
        """Find the network to measure, or train it."""
        found = find_checkpoint(spec.training, spec.epoch)
        if found is not None and found.kept:
            return found
        if self._factory is not None:
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
    ) -> Measured:
        """Measure everything that is missing, and return it all.

        Args:
            spec: what to measure.
            layers: which layers; all by default.
            refresh: forget what was measured of these layers, and whatever is damaged, and begin again; of all
                layers, also ε and the adversarial images.

        Returns:
            The complete measurement.

        Raises:
            Cancelled: ``should_stop`` said so.
            FssError: a step cannot be done; the text says which and why.
        """
        if not refresh:
            found = find_measured(self.store, spec, layers=layers)
            if found is not None and not found.missing:
                return found
        _Run(self, spec, layers, refresh=refresh).measure()
        complete = find_measured(self.store, spec, layers=layers)
        if complete is None or complete.missing:
            raise StoreError("results vanished while they were measured (another process refreshed them); run again")
        return complete


class _Run:
    """One measurement under way: the network, its images, and what is still to do."""

    def __init__(
        self,
        flow: Flow,
        spec: MeasurementSpec,
        layers: Sequence[str] | None,
        *,
        refresh: bool,
    ) -> None:
        self.flow = flow
        self.spec = spec
        self.layers = layers
        self.dataset: Dataset = load_dataset(spec.training.dataset)
        _check_num_images(spec, self.dataset.card)
        self._refuse_early()
        self.checkpoint = flow.checkpoint(spec)
        self._refresh = refresh
        self.attack = spec.attack(spec.epsilon if spec.epsilon is not None else float(self._calibrate()))
        self.archive = archive_of(flow.store, spec, self.checkpoint, self.dataset.card, self.attack)
        if refresh:
            attacked = self._adversarial_name("")
            (flow.store.delete_prefix if layers is None else flow.store.delete_damaged)(attacked)
            self.archive.delete(layers)
        self._attacked = lru_cache(maxsize=2)(self._attack)

    def _refuse_early(self) -> None:
        """Find out what cannot be done before hours of training, not after."""
        from fss_core.attacks import known_attacks
        from fss_core.models import build_network, check_device, describe_layers, select_layers

        check_device(self.spec.device)
        choose(self.spec.attack_kind.lower(), known_attacks(), what="L∞ attack")
        network = self.spec.training.network
        if self.layers is not None and self.flow._factory is None:
            known = describe_layers(build_network(network, dataset=self.dataset.card), self.dataset.image_shape)
            select_layers(list(known), list(self.layers), network=network)

    @cached_property
    def model(self) -> nn.Module:
        from fss_core.checkpoints import load_network

        return load_network(self.checkpoint, device=self.spec.device, factory=self.flow._factory)

    @cached_property
    def measurer(self) -> Measurer:
        from fss_core.measuring import Measurer

        return Measurer(self.model, self.dataset.image_shape, self.spec.response, device=self.spec.device)

    def _labels(self, chunk: Chunk) -> npt.NDArray[np.int64]:
        return self.dataset.probe.labels[chunk.start : chunk.stop]

    def _calibrate(self) -> EpsilonCalibration:
        store, card, device_type = self.flow.store, self.dataset.card, self.spec.device_type
        name = _epsilon_name(self.checkpoint, card, device_type)
        if self._refresh:
            (store.delete if self.layers is None else store.delete_damaged)(name)
        with self.flow._claim(name, "the calibration of ε"):
            found = find_epsilon(store, self.checkpoint, card, device_type)
            if found is not None:
                return found
            import torch

            from fss_core.attacks import calibrate_epsilon, epsilon_grid

            tried: list[float] = []

            def tell(epsilon: float, accuracy: float) -> None:
                tried.append(epsilon)
                detail = f"PGD accuracy {accuracy:.3f} at ε = {epsilon * 255:.3g}/255"
                self.flow._tell("calibrate", len(tried), len(epsilon_grid()), detail)

            self.flow._tell("calibrate", 0, len(epsilon_grid()), "choosing ε")
            split = self.dataset.calibration
            labels = torch.from_numpy(np.array(split.labels)).to(self.spec.device)
            calibration = calibrate_epsilon(self.model, split.pixels().to(self.spec.device), labels, on_step=tell)
            store.put(name, {}, meta=asdict(calibration))
            return calibration

    def _adversarial_name(self, chunk: object) -> str:
        key = adversarial_key(
            attack=self.attack,
            network=self.checkpoint.identity,
            probe=self.dataset.probe.fingerprint,
            device_type=self.spec.device_type,
            schema=SCHEMA,
        )
        return f"adversarial/{key}/{chunk}"

    def _attack(self, chunk: Chunk) -> tuple[Tensor, Tensor, npt.NDArray[np.bool_]]:
        """A chunk's pixels, their adversarial versions, and where the attack found no gradient."""
        import torch

        from fss_core.attacks import run_attack

        store, name = self.flow.store, self._adversarial_name(chunk.index)
        pixels = self.dataset.probe.pixels(chunk.start, chunk.stop)
        found = store.get(name)
        arrays = {} if found is None else found.arrays
        known = len(arrays["pixels"]) if arrays else 0
        if known < chunk.num_images:
            # Only the images that are new: filtered networks may have seen the others.
            self.flow._tell("attack", chunk.start + known, self.spec.num_images, f"up to image {chunk.stop}")
            labels = torch.from_numpy(np.array(self._labels(chunk)))
            device = self.spec.device
            made = run_attack(self.model, pixels[known:].to(device), labels[known:].to(device), self.attack)
            fresh = {"pixels": made.pixels.cpu().numpy(), "zero_gradient": made.zero_gradient.numpy()}
            arrays = {part: np.concatenate([arrays[part], fresh[part]]) if arrays else fresh[part] for part in fresh}
            store.put(name, arrays, meta={"attack": asdict(self.attack)})
        adversarial, zero_gradient = (arrays[part][: chunk.num_images] for part in ("pixels", "zero_gradient"))
        return pixels, torch.from_numpy(adversarial), zero_gradient.astype(np.bool_)

    def _unfiltered(self, chunk: Chunk) -> Predictions:
        known = self.archive.unfiltered(chunk)
        if known is not None:
            return known[1]
        with self.flow._claim(f"unfiltered/{self.archive.key}/{chunk.index}", "the unfiltered network"):
            known = self.archive.unfiltered(chunk)
            if known is not None:
                return known[1]
            pixels, adversarial, zero_gradient = self._attacked(chunk)
            predictions = self.measurer.unfiltered(pixels, adversarial, zero_gradient)
            self.archive.put_unfiltered(chunk, self._labels(chunk), predictions)
            return predictions

    def measure(self) -> None:
        """Measure every layer and chunk that is missing, in network order, what others are busy with last."""
        header = self.archive.header()
        if header is None:
            header = Header(
                costs=self.measurer.costs(), num_classes=self.measurer.num_classes, notes=self.measurer.notes
            )
            self.archive.put_header(header)
        for name in self.layers or ():
            choose(
                name,
                header.layers,
                what=f"filterable layer in {self.spec.training.network} called",
                error=UnknownLayerError,
            )
        wanted = [name for name in header.layers if self.layers is None or name in self.layers]
        for chunk in chunks(self.spec.num_images):
            self._unfiltered(chunk)
        self.flow.store.record(self.archive.key, self._description())
        self._total = sum(header.costs[name] for name in wanted)
        self._done = 0.0
        held = [name for name in wanted if not self._measure_layer(name, header.costs[name], wait=False)]
        for name in held:
            self._measure_layer(name, header.costs[name], wait=True)

    def _description(self) -> dict[str, object]:
        """What the catalogue says: the most that was ever asked for under this key."""
        spec = asdict(self.spec) | {"training": asdict(self.checkpoint.spec)}
        for record in self.flow.store.list_records():
            if record.key == self.archive.key:
                before = cast(dict[str, Any], record.spec["measurement"])
                spec["num_images"] = max(spec["num_images"], before["num_images"])
                filters = dict.fromkeys((*before["response"]["filters"], *spec["response"]["filters"]))
                spec["response"] = spec["response"] | {"filters": tuple(filters)}
        return {
            "measurement": spec,
            "attack": asdict(self.attack),
            "checkpoint": self.checkpoint.sha256,
            "dataset_title": self.dataset.title,
            "probe": self.dataset.probe.fingerprint,
        }

    def _measure_layer(self, layer: str, cost: float, *, wait: bool) -> bool:
        """Complete one layer; False if another process is busy with it and ``wait`` is not set."""
        self.flow._tell("measure", self._done, self._total, layer)
        try:
            with self.flow.store.claim(
                f"responses/{self.archive.key}/{layer}",
                wait=wait,
                on_wait=lambda: self.flow._tell(
                    "wait", self._done, self._total, f"another process is busy with {layer}"
                ),
            ):
                for chunk in chunks(self.spec.num_images):
                    share = cost * chunk.num_images / self.spec.num_images
                    self._measure_chunk(layer, chunk, share)
                    self._done += share
                    self.flow._tell("measure", self._done, self._total, layer)
        except LeaseHeldError:
            if wait:
                raise
            return False
        return True

    def _measure_chunk(self, layer: str, chunk: Chunk, share: float) -> None:
        """Measure what is missing of a layer's chunk: filters never measured, and images beyond those that were."""
        response = self.spec.response
        by_start: dict[int, list[Filter]] = {}
        known: dict[Filter, Predictions | None] = {}
        for name in response.filters:
            known[name] = self.archive.predictions(layer, name, chunk)
            start = 0 if (piece := known[name]) is None else piece.num_images
            if start < chunk.num_images:
                by_start.setdefault(start, []).append(name)
        for name in response.filters:
            if not self.archive.has_facts(layer, name):
                self.archive.put_facts(name, self.measurer.facts(layer, filter_rows([name], response.num_draws)))
        num_cells = sum(len(filter_rows(names, response.num_draws)) for names in by_start.values())
        cells_done = 0

        def on_network() -> None:
            nonlocal cells_done
            cells_done += 1
            done = self._done + share * cells_done / (num_cells * response.num_thresholds)
            self.flow._tell("measure", done, self._total, layer)

        for start, names in by_start.items():
            predictions = self._measure_images(layer, chunk, start, names, on_network)
            row = 0
            for name in names:
                stop = row + len(filter_rows([name], response.num_draws))
                fresh = predictions.rows(row, stop)
                before = known[name]
                whole = fresh if before is None else Predictions.join([before, fresh])
                self.archive.put_predictions(layer, name, chunk, self._labels(chunk), whole)
                row = stop

    def _measure_images(
        self, layer: str, chunk: Chunk, start: int, names: list[Filter], on_network: Callable[[], None]
    ) -> Predictions:
        import torch

        pixels, adversarial, _ = self._attacked(chunk)
        unfiltered = self._unfiltered(chunk)
        labels = torch.from_numpy(np.array(self._labels(chunk)))
        return self.measurer.measure(
            layer,
            pixels[start:],
            labels[start:],
            adversarial[start:] if self.attack.mode == "frozen" else None,
            unfiltered.images(start, chunk.num_images),
            attack=self.attack,
            rows=filter_rows(names, self.spec.response.num_draws),
            on_network=on_network,
        )
