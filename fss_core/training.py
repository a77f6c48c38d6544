"""Training that makes checkpoints: the paper's grid, resumable at every epoch, bit for bit on the CPU.

Everything drawn at random in an epoch comes from (seed, epoch) alone, and every finished epoch is saved, so that a
killed training goes on from the last epoch and ends where an uninterrupted one ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fss_core import data
from fss_core.checkpoints import (
    Checkpoint,
    EpochRecord,
    keep_checkpoint,
    load_state,
    load_weights,
    read_trajectory,
    remove_checkpoint,
    remove_unfinished,
    save_checkpoint,
)
from fss_core.conditions import device_of, seeded
from fss_core.models import build_network
from fss_core.specs import LARGEST_EPOCH, NETWORKS, Cancelled, TrainingError, TrainingSpec, choose, digest

RANDOM_SCHEME = "sha256(purpose, seed, epoch) mod 2**63 -> torch.Generator; order: randperm; dropout: manual_seed"
"""How an epoch's random numbers follow from (seed, epoch); changing it makes other checkpoints."""

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_SECONDS_BETWEEN_REPORTS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """Where training stands.

    Attributes:
        epoch: the one being trained, counted from 1.
        step: batches of it that are done.
        steps_per_epoch: batches in an epoch.
        loss: mean over the epoch so far, in nats.
        images_per_second: over the epoch so far.
    """

    epoch: int
    step: int
    steps_per_epoch: int
    loss: float
    images_per_second: float


OnProgress = Callable[[TrainingProgress], None]
ShouldStop = Callable[[], bool]


def train(
    spec: TrainingSpec,
    epochs: Sequence[int],
    *,
    device: str = "cpu",
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> list[Checkpoint]:
    """Train a network, save the epochs asked for, and go on from the latest saved one.

    Adam, no augmentation, incomplete last batches dropped. Every finished epoch is saved; one that nobody asked for is
    removed when a later one is safe. One process at a time may train a trajectory.

    Args:
        spec: the trajectory.
        epochs: which to save; 0 is untrained. Those that exist are returned without work.
        device: where to train; bit-for-bit reproducible on ``"cpu"`` with the same number of threads.
        on_progress: called a few times a second.
        should_stop: asked between batches.

    Returns:
        The checkpoints asked for, each once, in order of epochs.

    Raises:
        Cancelled: ``should_stop`` said so; finished epochs are kept.
        CheckpointError: a saved epoch is broken.
        TrainingError: the loss or a weight is NaN or infinite, there are too few images, or the trajectory is imported.
        UnknownNameError: there is no such network or data set.
        ValueError: ``epochs`` is empty or holds a negative number.

    Source: METHOD, "The paper's grid"; Pravin et al. 2024.
    """
    wanted = sorted(set(epochs))
    if not wanted or wanted[0] < 0 or wanted[-1] > LARGEST_EPOCH:
        raise ValueError(
            f"epochs must name at least one epoch, each at least 0 and at most {LARGEST_EPOCH:,}, got {list(epochs)}"
        )
    saved = read_trajectory(spec)
    checkpoints = {epoch: keep_checkpoint(saved[epoch]) for epoch in wanted if epoch in saved}
    missing = [epoch for epoch in wanted if epoch not in saved]
    if missing:
        choose(spec.network, NETWORKS, what="network")
        _refuse_imported(spec, saved)
        remove_unfinished(spec)
        trajectory = _Trajectory(spec, device=device, on_progress=on_progress, should_stop=should_stop)
        for epoch in missing:
            checkpoints[epoch] = trajectory.train_to(epoch)
    return [checkpoints[epoch] for epoch in wanted]


def _refuse_imported(spec: TrainingSpec, saved: dict[int, Checkpoint]) -> None:
    imported = [str(epoch) for epoch, checkpoint in saved.items() if checkpoint.origin == "imported"]
    if imported:
        raise TrainingError(
            f"{spec.network} on {spec.dataset}, seed {spec.seed}, is imported (epoch {', '.join(imported)}) and cannot "
            "be trained; take one of these epochs, another --seed, or prune them"
        )


class _Trajectory:
    """A network and its optimiser at one epoch, and the way to the next."""

    def __init__(
        self, spec: TrainingSpec, *, device: str, on_progress: OnProgress | None, should_stop: ShouldStop | None
    ) -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.on_progress = on_progress
        self.should_stop = should_stop
        self.dataset = data.load_dataset(spec.dataset)
        self.images = training_images(spec, len(self.dataset.train))
        self.num_steps = len(self.images) // spec.batch_size
        if self.num_steps == 0:
            raise TrainingError(
                f"{spec.dataset} has {len(self.dataset.train.labels)} training images, fewer than one batch of "
                f"{spec.batch_size}; take a smaller batch_size"
            )
        self.memory_format = training_format(self.device)
        self.network = build_network(spec.network, dataset=self.dataset.card, seed=spec.seed)
        self.network.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=spec.learning_rate)
        self.epoch = 0
        self.history: tuple[EpochRecord, ...] = ()

    def train_to(self, target: int) -> Checkpoint:
        """Train to an epoch that is not saved yet, from the latest earlier one, and save it."""
        saved = read_trajectory(self.spec)
        resumable = [epoch for epoch, found in saved.items() if self.epoch < epoch < target and found.has_state]
        if resumable:
            self._restore(saved[max(resumable)])
        if target == 0:
            return self._save(kept=True)
        while self.epoch < target:
            record = self._train_epoch(self.epoch + 1)
            self.epoch, self.history = record.epoch, (*self.history, record)
            if self.epoch not in saved:
                checkpoint = self._save(kept=self.epoch == target)
                self._remove_unasked()
        return checkpoint

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.network.load_state_dict(load_weights(checkpoint))
        load_optimiser_state(self.optimiser, self.network, load_state(checkpoint))
        self.epoch, self.history = checkpoint.epoch, checkpoint.history

    def _save(self, *, kept: bool) -> Checkpoint:
        return save_checkpoint(
            self.spec,
            self.epoch,
            weights=self.network.state_dict(),
            state=optimiser_state(self.optimiser, self.network),
            origin="trained",
            kept=kept,
            history=self.history,
            random_state={
                "scheme": RANDOM_SCHEME,
                "initialisation_seed": self.spec.seed,
                "next_epoch": self.epoch + 1,
                "next_order_seed": random_seed("order", self.spec.seed, self.epoch + 1),
                "next_dropout_seed": random_seed("dropout", self.spec.seed, self.epoch + 1),
            },
            hardware={"device": self.device.type, "num_threads": torch.get_num_threads()},
        )

    def _remove_unasked(self) -> None:
        for epoch, checkpoint in read_trajectory(self.spec).items():
            if epoch < self.epoch and not checkpoint.kept:
                remove_checkpoint(checkpoint.path)

    def _train_epoch(self, epoch: int) -> EpochRecord:
        meter = _Meter(spec=self.spec, epoch=epoch, num_steps=self.num_steps, on_progress=self.on_progress)
        batches = self.images[
            epoch_batches(len(self.images), batch_size=self.spec.batch_size, seed=self.spec.seed, epoch=epoch)
        ]
        with seeded(random_seed("dropout", self.spec.seed, epoch)):
            for indices in batches:
                self._check_stop(epoch)
                meter.add(*train_step(self.network, self.optimiser, self.dataset.train, indices))
        self._check_weights(epoch)
        return meter.finish()

    def _check_stop(self, epoch: int) -> None:
        if self.should_stop is not None and self.should_stop():
            raise Cancelled(
                f"training {self.spec.network} on {self.spec.dataset} was asked to stop in epoch {epoch}; "
                "finished epochs are kept, ask again to go on"
            )

    def _check_weights(self, epoch: int) -> None:
        for name, tensor in self.network.state_dict().items():
            if not bool(tensor.isfinite().all()):
                raise _not_finite(self.spec, f"{name!r} became NaN or infinite", epoch, self.num_steps)


def _not_finite(spec: TrainingSpec, what: str, epoch: int, step: int) -> TrainingError:
    return TrainingError(
        f"training {spec.network} on {spec.dataset}: {what} at epoch {epoch}, step {step}; "
        f"take a learning_rate below {spec.learning_rate:g} (earlier epochs are kept)"
    )


@dataclass(slots=True, kw_only=True)
class _Meter:
    """Losses and hits of one epoch; read from the device a few times a second only, as every reading waits for it."""

    spec: TrainingSpec
    epoch: int
    num_steps: int
    on_progress: OnProgress | None
    started: float = field(default_factory=time.perf_counter)
    reported: float = field(default_factory=time.perf_counter)
    losses: list[float] = field(default_factory=list)
    pending: list[Tensor] = field(default_factory=list)
    num_right: Tensor | int = 0

    def add(self, loss: Tensor, num_right: Tensor) -> None:
        """Count one step."""
        self.pending.append(loss)
        self.num_right = self.num_right + num_right
        now = time.perf_counter()
        if now - self.reported >= _SECONDS_BETWEEN_REPORTS or len(self.losses) + len(self.pending) == self.num_steps:
            self.reported = now
            self._report()

    def _report(self) -> None:
        losses = torch.stack(self.pending).tolist()
        self.pending.clear()
        for loss in losses:
            self.losses.append(loss)
            if not np.isfinite(loss):
                raise _not_finite(self.spec, f"the loss became {loss}", self.epoch, len(self.losses))
        if self.on_progress is not None:
            seconds = time.perf_counter() - self.started
            self.on_progress(
                TrainingProgress(
                    epoch=self.epoch,
                    step=len(self.losses),
                    steps_per_epoch=self.num_steps,
                    loss=float(np.mean(self.losses)),
                    images_per_second=len(self.losses) * self.spec.batch_size / seconds,
                )
            )

    def finish(self) -> EpochRecord:
        """Sum the epoch up."""
        return EpochRecord(
            epoch=self.epoch,
            loss=float(np.mean(self.losses)),
            train_accuracy=int(self.num_right) / (self.num_steps * self.spec.batch_size),
            seconds=time.perf_counter() - self.started,
        )


# The step -------------------------------------------------------------------------------------------------


def training_format(device: torch.device) -> torch.memory_format:
    """Say how training lays tensors out: it decides the last bits of a convolution, so it is always the same."""
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


def train_step(
    network: nn.Module, optimiser: torch.optim.Optimizer, split: data.Split, indices: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """Take one step on a batch.

    Args:
        network: pixels → logits; changed.
        optimiser: over parameters of ``network``; changed.
        split: where the images are.
        indices: int64 (B,), which of them.

    Returns:
        The mean loss, in nats, and the number of images that were right.
    """
    device = device_of(network)
    pixels = torch.from_numpy(np.asarray(split.images[indices])).to(device)
    labels = torch.from_numpy(np.asarray(split.labels[indices])).to(device)
    pixels = pixels.to(torch.float32, memory_format=training_format(device)).div_(255)
    logits = network(pixels)
    loss = F.cross_entropy(logits, labels)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return loss.detach(), (logits.detach().argmax(dim=1) == labels).sum()


# Randomness -----------------------------------------------------------------------------------------------


def random_seed(purpose: str, seed: int, epoch: int) -> int:
    """Say which seed an epoch draws from, for one purpose (``"order"``, ``"dropout"``)."""
    return int(digest({"purpose": purpose, "seed": seed, "epoch": epoch}), 16) % 2**63


def training_images(spec: TrainingSpec, num_images: int) -> NDArray[np.int64]:
    """Say which of a data set's training images a trajectory is trained on.

    A part of them is the first ``spec.num_train`` of one permutation that depends on nothing but their number: the
    same images for every network and initialisation, and a larger part holds a smaller one.

    Args:
        spec: the trajectory.
        num_images: training images that there are.

    Returns:
        Their indices, int64, ascending where they are all.

    Raises:
        TrainingError: there are not as many.

    Source: this project; METHOD trains on all.

    >>> len(training_images(TrainingSpec(network="resnet18", dataset="mnist", batch_size=2, num_train=3), 5))
    3
    """
    if spec.num_train is None:
        return np.arange(num_images)
    if spec.num_train > num_images:
        raise TrainingError(
            f"num_train must be at most {num_images:,}, the training images of {spec.dataset}, got {spec.num_train:,}; "
            "leave it out to train on all of them"
        )
    generator = torch.Generator().manual_seed(random_seed("subset", 0, 0))
    return torch.randperm(num_images, generator=generator).numpy()[: spec.num_train]


def image_order(num_images: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Say in which order an epoch takes the training images.

    Args:
        num_images: how many there are.
        seed: of the trajectory.
        epoch: counted from 1.

    Returns:
        A permutation of ``range(num_images)``, int64; the same whatever was trained before.

    >>> image_order(5, seed=0, epoch=1).tolist() == image_order(5, seed=0, epoch=2).tolist()
    False
    """
    generator = torch.Generator().manual_seed(random_seed("order", seed, epoch))
    return torch.randperm(num_images, generator=generator).numpy()


def epoch_batches(num_images: int, *, batch_size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Divide an epoch's images into batches; an incomplete last one is dropped.

    Args:
        num_images: how many training images there are.
        batch_size: B.
        seed: of the trajectory.
        epoch: counted from 1.

    Returns:
        Indices of the images, int64 (number of steps, B).

    >>> epoch_batches(7, batch_size=3, seed=0, epoch=1).shape
    (2, 3)
    """
    order = image_order(num_images, seed=seed, epoch=epoch)
    return order[: num_images // batch_size * batch_size].reshape(-1, batch_size)


# The optimiser's state ------------------------------------------------------------------------------------


def optimiser_state(optimiser: torch.optim.Adam, network: nn.Module) -> dict[str, Tensor]:
    """Read Adam's moments and steps by parameter name.

    Returns:
        ``<parameter>.<step | exp_avg | exp_avg_sq>`` → tensor; nothing for parameters that never took a step.
    """
    return {
        f"{name}.{moment}": optimiser.state[parameter][moment]
        for name, parameter in network.named_parameters()
        if parameter in optimiser.state
        for moment in _MOMENTS
    }


def load_optimiser_state(optimiser: torch.optim.Adam, network: nn.Module, state: dict[str, Tensor]) -> None:
    """Give Adam the moments and steps that ``optimiser_state`` read.

    Args:
        optimiser: over parameters of ``network``; changed.
        network: whose parameters the moments are for.
        state: as ``optimiser_state`` returns it; a parameter that is not in it starts afresh.
    """
    for name, parameter in network.named_parameters():
        if f"{name}.step" in state:
            # Moments laid out like their parameter: Adam's last bits depend on the strides.
            moments = {moment: torch.empty_like(parameter).copy_(state[f"{name}.{moment}"]) for moment in _MOMENTS[1:]}
            optimiser.state[parameter] = {"step": state[f"{name}.step"].clone(), **moments}
