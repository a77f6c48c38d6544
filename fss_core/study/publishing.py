"""Finished cells as files that can be committed: compact exports, retrainings, and what the cell says of itself.

A cell is a directory below its study's: one export per initialisation and epoch (and one of the whole network filtered
at once), one directory per retrained initialisation, and ``cell.json``. It is put in place whole or not at all. No
checkpoint and no image is among them.
"""

from __future__ import annotations

import json
import secrets
import shutil
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from fss_core.explore import find_picture, portable
from fss_core.exports import export_measured, hardware, versions, write_whole
from fss_core.flow import Measured, find_measured
from fss_core.imports.archives import read_file
from fss_core.imports.bounds import refusing, require
from fss_core.imports.manifests import decode, parse_object
from fss_core.retraining.lookup import find_retrained_seeds, known_criticality
from fss_core.retraining.published import write_retraining
from fss_core.scores import score_responses
from fss_core.specs import EpsilonCalibration, StoreError, to_json
from fss_core.store import Store
from fss_core.study.cells import STUDY_FORMAT, Cell
from fss_core.study.costs import known_epsilon

CELL = "cell.json"
"""What a published cell says of itself."""

LARGEST_PUBLISHED_FILE, LARGEST_PUBLISHED = 5_000_000, 20_000_000
"""Bytes that a published file, and everything that is published, stay below."""

_LARGEST_DESCRIPTION = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord:
    """What a published cell says of itself.

    Attributes:
        format: ``STUDY_FORMAT``.
        study: the preset it belongs to.
        key: of ``cell``.
        cell: everything that was asked of it.
        written: when, in ISO 8601.
        dataset_title: what to call the data set on screen.
        fingerprints: of the data set's splits.
        epsilon: in pixels.
        checkpoints: ``seed/epoch`` → SHA-256 of the weights.
        seconds: stage → wall time that it took here, all interruptions apart.
        hardware: where.
        versions: of the packages that made it.
        files: path below the cell → bytes.
    """

    format: int
    study: str
    key: str
    cell: Cell
    written: str
    dataset_title: str
    fingerprints: dict[str, str]
    epsilon: float
    checkpoints: dict[str, str]
    seconds: dict[str, float]
    hardware: dict[str, str | int | None]
    versions: dict[str, str]
    files: dict[str, int]

    @property
    def num_bytes(self) -> int:
        """What its files take, without the description."""
        return sum(self.files.values())


def cell_directory(directory: Path, study: str, cell: Cell) -> Path:
    """Where a cell is published."""
    return directory / study / cell.folder


def publish(store: Store, cell: Cell, directory: Path, *, study: str, seconds: dict[str, float]) -> CellRecord:
    """Write a finished cell, in place of what was published of it before.

    Args:
        store: where its results are.
        cell: all of whose pieces are there.
        directory: of published studies.
        study: name of the preset.
        seconds: stage → wall time so far.

    Returns:
        What the cell says of itself.

    Raises:
        StoreError: a piece is missing, a file or all of them are too large to be committed, or the disk refuses.
    """
    target = cell_directory(directory, study, cell)
    unfinished = directory.parent / f".{directory.name}-{secrets.token_hex(4)}"
    before = unfinished.with_name(f"{unfinished.name}-before")
    try:
        unfinished.mkdir(parents=True)
        record = _write(store, cell, unfinished, study, seconds)
        _refuse_large(cell, record, directory, target)
        write_whole(unfinished / CELL, _text(record), mode=0o644)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.rename(before)
        unfinished.rename(target)
    except OSError as error:
        raise StoreError(f"{target} cannot be written ({error.strerror}); choose another --directory") from error
    finally:
        if before.exists() and not target.exists():
            before.rename(target)  # the new one could not be put in its place
        for left in (unfinished, before):
            shutil.rmtree(left, ignore_errors=True)
    return record


def _write(store: Store, cell: Cell, root: Path, study: str, seconds: dict[str, float]) -> CellRecord:
    epsilon = known_epsilon(store, cell)
    assert epsilon is not None, "ε is calibrated before a cell is finished"
    checkpoints: dict[str, str] = {}
    calibration: EpsilonCalibration | None = None
    card = None
    for seed, epoch in cell.points():
        picture = find_picture(store, cell.request(seed, epoch, epsilon))
        if picture is None or not picture.is_complete or picture.origin != "measured":
            raise StoreError(f"epoch {epoch} of {cell.name} vanished while the study ran; run it again")
        if cell.calibrates(seed, epoch):
            calibration = picture.layers.calibration
        parts = {"": portable(picture), "-whole": picture.whole}
        for suffix, measured in parts.items():
            if measured is not None:
                own = _studied(measured, cell, calibration)
                scores = score_responses(own.responses, **asdict(cell.score))
                export_measured(own, scores, root / f"seed{seed}-epoch{epoch:03d}{suffix}", compact=True)
        checkpoints[f"{seed}/{epoch}"] = picture.layers.checkpoint.sha256
        card = picture.layers.card
    assert card is not None, "a cell has an epoch"
    request = cell.retrain_request()
    if request is not None:
        found = find_retrained_seeds(store, request.spec, request.seeds)
        if len(found) < len(request.seeds) or not all(own.complete for own in found):
            raise StoreError(f"the retraining of {cell.name} vanished while the study ran; run it again")
        for retraining in found:
            scored = find_measured(store, retraining.spec.measurement)
            assert scored is not None
            criticality = known_criticality(store, retraining.spec, scored)
            write_retraining(retraining, criticality or {}, root / f"seed{retraining.seed}-retraining")
    return CellRecord(
        format=STUDY_FORMAT,
        study=study,
        key=cell.key,
        cell=cell,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset_title=card.title,
        fingerprints=card.fingerprints,
        epsilon=epsilon,
        checkpoints=checkpoints,
        seconds={stage: round(own, 1) for stage, own in seconds.items()},
        hardware=hardware(),
        versions=versions(),
        files={
            path.relative_to(root).as_posix(): path.stat().st_size for path in sorted(root.rglob("*")) if path.is_file()
        },
    )


def _studied(measured: Measured, cell: Cell, calibration: EpsilonCalibration | None) -> Measured:
    """Give a measurement at the ε of its cell the curve that this was read from."""
    if measured.calibration is not None or calibration is None:
        return measured
    return replace(
        measured, calibration=calibration, calibrated_on=f"at epoch {cell.last} of initialisation {cell.seeds[0]}"
    )


def _refuse_large(cell: Cell, record: CellRecord, directory: Path, target: Path) -> None:
    remedy = "what was measured is kept: publish into another --directory, or ask for less"
    for name, size in record.files.items():
        if size >= LARGEST_PUBLISHED_FILE:
            raise StoreError(
                f"{cell.name}: {name} must have less than {LARGEST_PUBLISHED_FILE:,} bytes, it has {size:,}; {remedy}"
            )
    others = (path for path in directory.rglob("*") if path.is_file() and not path.is_relative_to(target))
    total = sum(path.stat().st_size for path in others) + record.num_bytes
    if total >= LARGEST_PUBLISHED:
        raise StoreError(
            f"{cell.name}: all that is published must have less than {LARGEST_PUBLISHED:,} bytes, with this cell it "
            f"has {total:,}; {remedy}"
        )


def _text(record: CellRecord) -> bytes:
    return (json.dumps(to_json(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


# Reading --------------------------------------------------------------------------------------------------


def read_cell(path: Path) -> CellRecord:
    """Read what a published cell says of itself.

    Args:
        path: the cell's directory.

    Raises:
        StoreError: it says nothing sound, or one of its files is missing or of another size.
    """
    with refusing(str(path)):
        record = parse_object(read_file(path / CELL, _LARGEST_DESCRIPTION))
        require(record.get("format") == STUDY_FORMAT, f"format must be {STUDY_FORMAT}", record.get("format"))
        found: CellRecord = decode(CellRecord, record, "cell")
        require(found.key == found.cell.key, "key must be that of the cell", found.key)
        for name, size in found.files.items():
            file = path / name
            require(file.is_file() and file.stat().st_size == size, f"{name} must have {size:,} bytes", "other")
    return found


def published_cell(directory: Path, study: str, cell: Cell) -> CellRecord | None:
    """Find a cell that is published as it is asked for now; ``None`` if it is not, or not soundly."""
    path = cell_directory(directory, study, cell)
    if not (path / CELL).is_file():
        return None
    try:
        found = read_cell(path)
    except StoreError:
        return None
    return found if found.key == cell.key else None
