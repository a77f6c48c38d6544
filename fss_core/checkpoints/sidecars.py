"""What a saved epoch says of itself: its place on disk and its sidecar, ``checkpoint.json``.

A sidecar is read as something that anyone may have edited: every field is checked, and it must lie where it says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from fss_core import data
from fss_core.specs import CheckpointError, FssError, NetworkIdentity, TrainingSpec, cache_dir, choose, digest, to_json

CHECKPOINT_SCHEMA = 1
"""The form of sidecars and directories; part of every trajectory's key."""

Origin = Literal["trained", "imported"]

WEIGHTS, STATE, SIDECAR = "weights.safetensors", "state.safetensors", "checkpoint.json"
"""The files of one epoch."""

NETWORK_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,39}")
"""What a network of the user's own may be called: it names a directory."""

_DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """What one epoch of training did.

    Attributes:
        epoch: counted from 1.
        loss: mean cross-entropy over the epoch's batches, in nats.
        train_accuracy: fraction of its images that were right when their batch came, in training mode.
        seconds: wall time.
    """

    epoch: int
    loss: float
    train_accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One saved epoch, as its sidecar describes it.

    Attributes:
        spec: the trajectory; for imported weights only network, data set and seed mean anything.
        epoch: 0 is untrained.
        path: the directory.
        sha256: of the file ``weights.safetensors``.
        state_sha256: of the file ``state.safetensors``; ``None`` where there is none.
        origin: ``"trained"`` here or ``"imported"``.
        kept: somebody asked for this epoch; otherwise training removes it once it has a later one.
        history: every epoch up to this one.
        factory: ``module:function`` that builds a network of the user's own.
        dataset_fingerprint: of the training images and labels.
        random_state: the scheme and the seeds that training drew from.
        hardware: device and number of threads, on which the last bits depend.
        versions: of the packages that made it.
    """

    spec: TrainingSpec
    epoch: int
    path: Path
    sha256: str
    state_sha256: str | None
    origin: Origin
    kept: bool
    history: tuple[EpochRecord, ...]
    factory: str | None
    dataset_fingerprint: str
    random_state: dict[str, str | int]
    hardware: dict[str, str | int]
    versions: dict[str, str]

    @property
    def identity(self) -> NetworkIdentity:
        """What results of this network are filed under."""
        return NetworkIdentity(network=self.spec.network, factory=self.factory, weights_sha256=self.sha256)

    @property
    def has_state(self) -> bool:
        """Whether training can go on from here."""
        return self.state_sha256 is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenCheckpoint:
    """A directory among the checkpoints whose sidecar cannot be read.

    Attributes:
        path: the directory.
        reason: one line, with the remedy.
    """

    path: Path
    reason: str


# Places ---------------------------------------------------------------------------------------------------


def checkpoints_dir() -> Path:
    """Where all checkpoints lie; it need not exist yet."""
    return cache_dir() / "checkpoints"


def trajectory_dir(spec: TrainingSpec, fingerprint: str) -> Path:
    """Where the epochs of a trajectory lie: ``<network>/<dataset>/seed<k>-<key>``.

    Args:
        spec: the trajectory.
        fingerprint: of the training images and labels.

    Raises:
        CheckpointError: a name in ``spec`` is not fit to name a directory.
    """
    for what, name, rule in (("network", spec.network, NETWORK_NAME), ("data set", spec.dataset, _DATASET_NAME)):
        if not rule.fullmatch(name):
            raise CheckpointError(
                f"{what} {name!r} cannot name a directory: it must match {rule.pattern}; choose another name"
            )
    key = digest({"schema": CHECKPOINT_SCHEMA, "spec": spec, "train": fingerprint})
    return checkpoints_dir() / spec.network / spec.dataset / f"seed{spec.seed}-{key[:8]}"


def epoch_dir(spec: TrainingSpec, fingerprint: str, epoch: int) -> Path:
    """Where one epoch of a trajectory lies.

    Raises:
        CheckpointError: a name in ``spec`` is not fit to name a directory.
        ValueError: ``epoch`` is negative.
    """
    if epoch < 0:
        raise ValueError(f"epoch must be at least 0, got {epoch}")
    return trajectory_dir(spec, fingerprint) / f"epoch_{epoch:03d}"


def train_fingerprint(spec: TrainingSpec) -> str:
    """Fingerprint of the images and labels that a trajectory is trained on."""
    return data.dataset_card(spec.dataset).fingerprints["train"]


def epoch_dirs(trajectories: str | Path = "*/*/seed*-*") -> list[Path]:
    """List the directories that are saved epochs by their name, sound or not.

    Args:
        trajectories: where to look, below ``checkpoints_dir()``; a pattern or one trajectory.
    """
    paths = (
        path for path in checkpoints_dir().glob(f"{trajectories}/epoch_*") if re.fullmatch(r"epoch_\d+", path.name)
    )
    return sorted(path for path in paths if re.fullmatch(r"seed\d+-[0-9a-f]{8}", path.parent.name) and path.is_dir())


# Sidecars -------------------------------------------------------------------------------------------------


def _field(record: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    value = record[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name} is {value!r}")
    return value


def _scalars(record: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> dict[str, Any]:
    values = _field(record, name, dict)
    return {key: _field(values, key, kind) for key in values}


def _sha256(record: Mapping[str, Any], name: str) -> str:
    value = _field(record, name, str)
    if not _SHA256.fullmatch(value):
        raise ValueError(f"{name} is {value!r}")
    return cast(str, value)


def _origin(record: Mapping[str, Any]) -> Origin:
    return cast(Origin, choose(_field(record, "origin", str), ("trained", "imported"), what="origin"))


def _epoch_record(record: Mapping[str, Any]) -> EpochRecord:
    return EpochRecord(
        epoch=_field(record, "epoch", int),
        **{name: float(_field(record, name, (int, float))) for name in ("loss", "train_accuracy", "seconds")},
    )


def _spec(record: Mapping[str, Any]) -> TrainingSpec:
    return TrainingSpec(
        network=_field(record, "network", str),
        dataset=_field(record, "dataset", str),
        seed=_field(record, "seed", int),
        batch_size=_field(record, "batch_size", int),
        learning_rate=_field(record, "learning_rate", float),
        num_train=_field({"num_train": None} | dict(record), "num_train", (int, type(None))),
    )


def _from_record(record: Any, path: Path) -> Checkpoint:
    if not isinstance(record, dict) or record.get("schema") != CHECKPOINT_SCHEMA:
        raise ValueError(f"it is not a sidecar of schema {CHECKPOINT_SCHEMA}")
    checkpoint = Checkpoint(
        spec=_spec(_field(record, "spec", dict)),
        epoch=_field(record, "epoch", int),
        path=path,
        sha256=_sha256(record, "sha256"),
        state_sha256=None if record["state_sha256"] is None else _sha256(record, "state_sha256"),
        origin=_origin(record),
        kept=_field(record, "kept", bool),
        history=tuple(_epoch_record(epoch) for epoch in _field(record, "history", list)),
        factory=_field(record, "factory", (str, type(None))),
        dataset_fingerprint=_field(record, "dataset_fingerprint", str),
        random_state=_scalars(record, "random_state", (str, int)),
        hardware=_scalars(record, "hardware", (str, int)),
        versions=_scalars(record, "versions", str),
    )
    place = epoch_dir(checkpoint.spec, checkpoint.dataset_fingerprint, checkpoint.epoch)
    if path.parts[-4:] != place.parts[-4:]:
        raise ValueError(f"it describes {'/'.join(place.parts[-4:])}")
    return checkpoint


def sidecar_json(checkpoint: Checkpoint) -> str:
    """Write a checkpoint's sidecar; its path is left out, so that the cache can be moved."""
    record = {"schema": CHECKPOINT_SCHEMA} | to_json(checkpoint)
    del record["path"]
    return json.dumps(record, indent=2, allow_nan=False) + "\n"


def read_sidecar(path: Path) -> Checkpoint:
    """Read and check the sidecar of one epoch.

    Args:
        path: the epoch's directory.

    Raises:
        CheckpointError: it is missing, no JSON, of another schema, has a field of another type, or lies elsewhere than
            it says.
    """
    sidecar = path / SIDECAR
    try:
        return _from_record(json.loads(sidecar.read_text(encoding="utf-8")), path)
    except (OSError, ValueError, LookupError, TypeError, RecursionError, FssError) as error:
        reason = " ".join(str(error).split()) if not isinstance(error, KeyError) else f"{error} is missing"
        raise CheckpointError(f"{sidecar} is broken ({reason}); {start_again(path)}") from error


def start_again(path: Path) -> str:
    """Say what to do about a broken epoch."""
    return f"delete {path} and train or import it again"
