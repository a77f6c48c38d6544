"""What a study says of itself beside its cells: which there are, which are missing, why, and at what cost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from fss_core.exports import hardware, versions, write_whole
from fss_core.imports.archives import read_file
from fss_core.imports.bounds import refusing, require
from fss_core.imports.manifests import decode, parse_object
from fss_core.specs import StoreError, to_json
from fss_core.study.cells import STUDY_FORMAT, Cell

_LARGEST = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class CellState:
    """How a cell of a study stands.

    Attributes:
        name: of the cell.
        cell: everything that is asked of it.
        key: of the cell.
        state: whether it is published.
        reason: why it is not; empty if it is.
        seconds: wall time that was spent on it.
        seconds_left: what the rest is expected to take; 0 if it is published.
        basis: what that estimate stands on.
        num_bytes: what is published of it.
    """

    name: str
    cell: Cell
    key: str
    state: Literal["published", "missing"]
    reason: str
    seconds: float
    seconds_left: float
    basis: Literal["measured", "scaled", "typical"]
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyManifest:
    """A study, as far as it is published.

    Attributes:
        format: ``STUDY_FORMAT``.
        study: the preset's name.
        title: what it is.
        written: when, in ISO 8601.
        notes: what it does not do.
        cells: all of them, published or missing, in order.
        hardware: where it ran last.
        versions: of the packages there.
    """

    format: int
    study: str
    title: str
    written: str
    notes: tuple[str, ...]
    cells: tuple[CellState, ...]
    hardware: dict[str, str | int | None]
    versions: dict[str, str]


def write_manifest(
    directory: Path, study: str, title: str, notes: tuple[str, ...], cells: tuple[CellState, ...]
) -> StudyManifest:
    """Write what a study says of itself, whole or not at all: ``<study>.json`` beside its cells' directory.

    Raises:
        StoreError: the disk refuses.
    """
    manifest = StudyManifest(
        format=STUDY_FORMAT,
        study=study,
        title=title,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=notes,
        cells=cells,
        hardware=hardware(),
        versions=versions(),
    )
    text = json.dumps(to_json(manifest), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(directory / f"{study}.json", text.encode(), mode=0o644)
    except OSError as error:
        raise StoreError(f"{directory} cannot be written ({error.strerror}); choose another --directory") from error
    return manifest


def read_manifest(path: Path) -> StudyManifest:
    """Read what a study says of itself.

    Raises:
        StoreError: it is missing, or says nothing sound.
    """
    with refusing(str(path)):
        record = parse_object(read_file(path, _LARGEST))
        require(record.get("format") == STUDY_FORMAT, f"format must be {STUDY_FORMAT}", record.get("format"))
        found: StudyManifest = decode(StudyManifest, record, "study")
        for own in found.cells:
            require(own.key == own.cell.key and own.name == own.cell.name, "a cell must be what it says", own.name)
    return found


def list_studies(directory: Path) -> list[StudyManifest]:
    """List the studies of a directory that say what they are, by name; imports no torch.

    Raises:
        StoreError: one of them says nothing sound.
    """
    return [read_manifest(path) for path in sorted(directory.glob("*.json"))]
