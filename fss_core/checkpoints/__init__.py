"""Weights on disk: where each epoch of each training trajectory lies, what made it, and that it is unharmed.

One directory an epoch: ``weights.safetensors`` (its SHA-256 names results), ``state.safetensors`` (the optimiser's
moments) and ``checkpoint.json`` (the sidecar). A directory appears whole or not at all. Finding and listing read
sidecars only and import no torch.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import secrets
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fss_core import data
from fss_core.checkpoints.foreign import factory_name, fit_weights, make_network, read_weights
from fss_core.checkpoints.foreign import resolve_factory as resolve_factory  # also this module's own
from fss_core.checkpoints.sidecars import (
    NETWORK_NAME,
    SIDECAR,
    STATE,
    WEIGHTS,
    Origin,
    checkpoints_dir,
    epoch_dir,
    epoch_dirs,
    read_sidecar,
    sidecar_json,
    start_again,
    train_fingerprint,
    trajectory_dir,
)
from fss_core.checkpoints.sidecars import BrokenCheckpoint as BrokenCheckpoint
from fss_core.checkpoints.sidecars import Checkpoint as Checkpoint
from fss_core.checkpoints.sidecars import EpochRecord as EpochRecord
from fss_core.specs import NETWORKS, CheckpointError, TrainingSpec, choose

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fss_core.checkpoints.foreign import NetworkFactory

_VERSIONED = ("torch", "torchvision", "numpy", "safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEpoch:
    """An epoch's directory, known by its place alone, so that a broken one can be named too.

    Attributes:
        network: name of the network.
        dataset: name of the data set.
        seed: of the initialisation.
        epoch: 0 is untrained.
        path: the directory.
        num_bytes: what its files take.
    """

    network: str
    dataset: str
    seed: int
    epoch: int
    path: Path
    num_bytes: int


# Finding --------------------------------------------------------------------------------------------------


def find_checkpoint(spec: TrainingSpec, epoch: int) -> Checkpoint | None:
    """Find one epoch of a trajectory, trained or imported; imports no torch.

    Args:
        spec: the trajectory.
        epoch: 0 is untrained.

    Returns:
        The checkpoint, or ``None`` where that epoch is not saved. One that is not ``kept`` may be removed by training.

    Raises:
        CheckpointError: its sidecar is broken.
        UnknownNameError: there is no such data set.
    """
    path = epoch_dir(spec, train_fingerprint(spec), epoch)
    found = _read_or_broken(path) if path.is_dir() else None
    if isinstance(found, BrokenCheckpoint):
        raise CheckpointError(found.reason)
    return found


def read_trajectory(spec: TrainingSpec) -> dict[int, Checkpoint]:
    """Read every saved epoch of a trajectory, kept or not, in order; imports no torch.

    Raises:
        CheckpointError: a sidecar is broken.
    """
    checkpoints: dict[int, Checkpoint] = {}
    for found in _read_trajectory(spec):
        if isinstance(found, BrokenCheckpoint):
            raise CheckpointError(found.reason)
        checkpoints[found.epoch] = found
    return dict(sorted(checkpoints.items()))


def available_epochs(spec: TrainingSpec) -> list[int]:
    """List the epochs of a trajectory that somebody asked for, in order; broken ones are left out."""
    return sorted(found.epoch for found in _read_trajectory(spec) if isinstance(found, Checkpoint) and found.kept)


def list_checkpoints() -> list[Checkpoint]:
    """List every sound checkpoint, kept or not, by network, data set, seed and epoch; imports no torch.

    Broken ones are left out: ``list_broken_checkpoints`` names them.
    """
    return sorted(
        (found for found in _read_all(epoch_dirs()) if isinstance(found, Checkpoint)),
        key=lambda found: (
            found.spec.network,
            found.spec.dataset,
            found.spec.seed,
            found.path.parent.name,
            found.epoch,
        ),
    )


def list_broken_checkpoints() -> list[BrokenCheckpoint]:
    """List the directories among the checkpoints whose sidecar cannot be read, with the reason."""
    return [found for found in _read_all(epoch_dirs()) if isinstance(found, BrokenCheckpoint)]


def _read_trajectory(spec: TrainingSpec) -> list[Checkpoint | BrokenCheckpoint]:
    return _read_all(epoch_dirs(trajectory_dir(spec, train_fingerprint(spec)).relative_to(checkpoints_dir())))


def _read_all(paths: list[Path]) -> list[Checkpoint | BrokenCheckpoint]:
    return [found for path in paths if (found := _read_or_broken(path)) is not None]


def _read_or_broken(path: Path) -> Checkpoint | BrokenCheckpoint | None:
    try:
        return read_sidecar(path)
    except CheckpointError as error:
        # Training in another process removes epochs that nobody asked for: one that is gone is not broken.
        return BrokenCheckpoint(path=path, reason=str(error)) if path.is_dir() else None


# Loading --------------------------------------------------------------------------------------------------


def weights_sha256(path: Path) -> str:
    """Hash a file: its SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Load a checkpoint's weights and buffers, by name, on the CPU.

    Raises:
        CheckpointError: the file is missing, truncated or altered.
    """
    return _load_tensors(checkpoint, WEIGHTS, checkpoint.sha256)


def load_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Load a checkpoint's optimiser state, ``<parameter>.<exp_avg | exp_avg_sq | step>`` → tensor; empty at epoch 0.

    Raises:
        CheckpointError: there is none (imported weights), or the file is missing, truncated or altered.
    """
    if checkpoint.state_sha256 is None:
        raise CheckpointError(
            f"{checkpoint.path} has no optimiser state, as it was imported; go on from a trained epoch"
        )
    return _load_tensors(checkpoint, STATE, checkpoint.state_sha256)


def _load_tensors(checkpoint: Checkpoint, name: str, sha256: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    file = checkpoint.path / name
    try:
        content = file.read_bytes()  # read once: what is hashed is what is used
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}); {start_again(checkpoint.path)}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise CheckpointError(
            f"{file} is truncated or altered: its SHA-256 is {found[:12]}…, the sidecar says {sha256[:12]}…; "
            f"{start_again(checkpoint.path)}"
        )
    try:
        return load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{file} is broken ({error}); {start_again(checkpoint.path)}") from error


def load_network(
    checkpoint: Checkpoint, *, device: str = "cpu", factory: NetworkFactory | str | None = None
) -> nn.Module:
    """Build a checkpoint's network with its weights.

    Args:
        checkpoint: what to load.
        device: where the network shall live.
        factory: for a network of the user's own, the function (or its ``module:function``) that it was imported with.
            It is never taken from the sidecar: a file must not choose which code runs.

    Returns:
        The network in eval mode: pixels (N, C, H, W) on [0, 1] → logits.

    Raises:
        CheckpointError: the weights are broken or do not fit, or the factory is missing or another one.
        UnknownNameError: the data set is not registered any more.
    """
    factory = resolve_factory(factory) if isinstance(factory, str) else factory
    _check_factory(checkpoint, factory)
    card = data.dataset_card(checkpoint.spec.dataset)
    if factory is not None:
        network = make_network(factory, card)
    else:
        from fss_core.models import build_network

        network = build_network(checkpoint.spec.network, dataset=card)
    network.load_state_dict(fit_weights(load_weights(checkpoint), network, source=checkpoint.path / WEIGHTS))
    return network.to(device).eval()


def _check_factory(checkpoint: Checkpoint, factory: NetworkFactory | None) -> None:
    given = None if factory is None else factory_name(factory)
    if given == checkpoint.factory:
        return
    name = checkpoint.spec.network
    if checkpoint.factory is None:
        raise CheckpointError(f"{name} was made without --factory, got {given}; leave it out")
    raise CheckpointError(
        f"{name} was imported with a factory, got {given or 'none'}; give --factory {checkpoint.factory} again"
    )


# Saving ---------------------------------------------------------------------------------------------------


def save_checkpoint(
    spec: TrainingSpec,
    epoch: int,
    *,
    weights: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None,
    origin: Origin,
    kept: bool = True,
    history: tuple[EpochRecord, ...] = (),
    factory: str | None = None,
    random_state: Mapping[str, str | int] | None = None,
    hardware: Mapping[str, str | int] | None = None,
) -> Checkpoint:
    """Write one epoch: whole or, when the process dies, not at all.

    Args:
        spec: the trajectory.
        epoch: 0 is untrained.
        weights: the network's ``state_dict``, on any device.
        state: the optimiser's moments and steps by name, or ``None``.
        origin: where the weights come from.
        kept: somebody asked for this epoch.
        history: every epoch up to this one.
        factory: ``module:function`` of a network of the user's own.
        random_state: the scheme and the seeds of training.
        hardware: device and number of threads.

    Returns:
        The checkpoint as saved.

    Raises:
        CheckpointError: the epoch exists, or the disk refuses.
    """
    fingerprint = train_fingerprint(spec)
    path = epoch_dir(spec, fingerprint, epoch)
    if path.exists():
        raise CheckpointError(f"epoch {epoch} of {_title(spec)} exists; take another --seed or prune it first")
    files = {WEIGHTS: _to_bytes(weights)} | ({} if state is None else {STATE: _to_bytes(state)})
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    checkpoint = Checkpoint(
        spec=spec,
        epoch=epoch,
        path=path,
        sha256=hashes[WEIGHTS],
        state_sha256=hashes.get(STATE),
        origin=origin,
        kept=kept,
        history=history,
        factory=factory,
        dataset_fingerprint=fingerprint,
        random_state=dict(random_state or {}),
        hardware=dict(hardware or {}),
        versions=_versions(),
    )
    files[SIDECAR] = sidecar_json(checkpoint).encode()
    unfinished = _unfinished(path)
    try:
        unfinished.mkdir(parents=True)
        for name, content in files.items():
            (unfinished / name).write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        raise CheckpointError(f"cannot write {path} ({error.strerror}); free the disk or set FSS_CACHE_DIR") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return checkpoint


def _to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    import torch
    from safetensors.torch import save

    # A copy each: safetensors refuses tensors that share memory (tied weights) or are not contiguous (channels-last).
    plain = torch.contiguous_format
    return save({name: tensor.detach().cpu().clone(memory_format=plain) for name, tensor in tensors.items()})


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _VERSIONED} | {"python": platform.python_version()}


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}-{secrets.token_hex(4)}")


def _title(spec: TrainingSpec) -> str:
    return f"{spec.network} on {spec.dataset}, seed {spec.seed},"


def keep_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """Mark an epoch as asked for, so that training does not remove it."""
    if checkpoint.kept:
        return checkpoint
    kept = replace(checkpoint, kept=True)
    unfinished = checkpoint.path / f".{SIDECAR}-{secrets.token_hex(4)}"
    unfinished.write_text(sidecar_json(kept), encoding="utf-8")
    unfinished.replace(checkpoint.path / SIDECAR)
    return kept


# Removing -------------------------------------------------------------------------------------------------


def remove_checkpoint(path: Path) -> None:
    """Remove an epoch's directory: it is gone at once, whatever happens to its files afterwards."""
    unfinished = _unfinished(path)
    path.replace(unfinished)
    shutil.rmtree(unfinished, ignore_errors=True)


def remove_unfinished(spec: TrainingSpec) -> None:
    """Remove what a killed process left half-written in a trajectory; only for its one writer."""
    for path in trajectory_dir(spec, train_fingerprint(spec)).glob(".epoch_*"):
        shutil.rmtree(path, ignore_errors=True)


def prune_checkpoints(
    *,
    network: str | None = None,
    dataset: str | None = None,
    seed: int | None = None,
    keep_epochs: Collection[int] = (),
    dry_run: bool = False,
) -> list[StoredEpoch]:
    """Remove saved epochs, broken ones too; scores already measured from them stay.

    Args:
        network: only of this network; ``None`` means any.
        dataset: only of this data set; ``None`` means any.
        seed: only of this initialisation; ``None`` means any.
        keep_epochs: epochs that stay.
        dry_run: remove nothing, only tell.

    Returns:
        What was removed, or would be.
    """
    chosen = [
        stored
        for stored in map(_stored_epoch, epoch_dirs())
        if network in (None, stored.network)
        and dataset in (None, stored.dataset)
        and seed in (None, stored.seed)
        and stored.epoch not in keep_epochs
    ]
    if not dry_run:
        for stored in chosen:
            remove_checkpoint(stored.path)
            _remove_empty(stored.path.parent)
    return chosen


def _stored_epoch(path: Path) -> StoredEpoch:
    network, dataset, trajectory, epoch = path.parts[-4:]
    return StoredEpoch(
        network=network,
        dataset=dataset,
        seed=int(trajectory.removeprefix("seed").partition("-")[0]),
        epoch=int(epoch.removeprefix("epoch_")),
        path=path,
        num_bytes=sum(file.stat().st_size for file in path.iterdir()),
    )


def _remove_empty(directory: Path) -> None:
    while directory != checkpoints_dir() and not any(directory.iterdir()):
        directory.rmdir()
        directory = directory.parent


# Importing ------------------------------------------------------------------------------------------------


def import_checkpoint(
    file: str | os.PathLike[str],
    *,
    network: str,
    dataset: str,
    epoch: int,
    seed: int = 0,
    factory: NetworkFactory | str | None = None,
) -> Checkpoint:
    """Bring in weights trained elsewhere, as one epoch of a trajectory of imported epochs; nothing in the file is run.

    Args:
        file: ``.safetensors``, or ``.pt`` / ``.pth`` that holds tensors only.
        network: a name from ``specs.NETWORKS``; with ``factory``, a name of the user's own.
        dataset: a registered data set.
        epoch: which epoch they are.
        seed: which initialisation they are.
        factory: ``function(num_classes=, num_channels=)`` that returns the network, or its ``module:function``.

    Returns:
        The checkpoint; it has no optimiser state.

    Raises:
        CheckpointError: the file is broken, unsafe or does not fit; the epoch exists; the trajectory was trained here.
        UnknownNameError: there is no such network or data set.

    Source: this project.
    """
    factory = resolve_factory(factory) if isinstance(factory, str) else factory
    _check_network_name(network, factory)
    card = data.dataset_card(dataset)
    spec = TrainingSpec(network=network, dataset=dataset, seed=seed)
    _check_trajectory(spec, epoch, factory)
    if factory is not None:
        target = make_network(factory, card)
    else:
        from fss_core.models import build_network

        target = build_network(network, dataset=card)
    weights = fit_weights(read_weights(Path(file)), target, source=Path(file))
    return save_checkpoint(
        spec,
        epoch,
        weights=weights,
        state=None,
        origin="imported",
        factory=None if factory is None else factory_name(factory),
    )


def _check_network_name(network: str, factory: NetworkFactory | None) -> None:
    if factory is None:
        choose(network, NETWORKS, what="network")
    elif network in NETWORKS:
        raise CheckpointError(f"network {network!r} is one of the paper's; with --factory give a name of your own")
    elif not NETWORK_NAME.fullmatch(network):
        raise CheckpointError(f"network name must match {NETWORK_NAME.pattern}, got {network!r}; for example my_net")


def _check_trajectory(spec: TrainingSpec, epoch: int, factory: NetworkFactory | None) -> None:
    trajectory = read_trajectory(spec)
    if epoch in trajectory:
        raise CheckpointError(f"epoch {epoch} of {_title(spec)} exists; take another --seed or prune it first")
    for other in trajectory.values():
        if other.origin == "trained":
            raise CheckpointError(f"{_title(spec)} was trained here; import under another --seed or prune it first")
        _check_factory(other, factory)
