"""Results as files: Parquet or CSV tables for other tools, and a manifest with which ``imports.py`` reads them back.

What a measurement is made of stands in ``manifest.json`` (a :class:`Manifest`) and in three Parquet tables: ``layers``,
``images`` and ``unfiltered``. The tables ``responses`` and ``scores`` are for readers; nothing is ever computed from
them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from fss_core import __version__
from fss_core.checkpoints import Checkpoint
from fss_core.data import DatasetCard
from fss_core.flow import Measured
from fss_core.scores import Scores
from fss_core.specs import (
    ADDED,
    AttackSpec,
    EpsilonCalibration,
    MeasurementSpec,
    NetworkIdentity,
    ScoreSpec,
    StoreError,
    to_json,
)
from fss_core.store import SCHEMA

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Format = Literal["parquet", "csv"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What begins a formula in a spreadsheet."""

EXPORT_FORMAT = 1
"""The form of the manifest and the tables; raise it when either changes."""

MANIFEST = "manifest.json"
READ_BACK = ("layers.parquet", "images.parquet", "unfiltered.parquet")
"""The tables a measurement is put together from."""
TABLES = ("responses.parquet", "scores.parquet", *READ_BACK)
"""Every table of an export, in order."""

LARGEST_FILE, LARGEST_CONTENT = 64 * 2**20, 256 * 2**20
"""Bytes of an exported ZIP, and of what is in it; a larger one is neither written nor read."""

_PACKAGES = ("torch", "torchvision", "torchattacks", "numpy", "pandas", "pyarrow", "scipy")
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an export says of itself.

    Attributes:
        format: ``EXPORT_FORMAT``.
        schema: ``store.SCHEMA``, of the results.
        written: when, in ISO 8601.
        key: of ``specs.response_key``.
        measurement: what was asked for.
        attack: how adversarial images were made.
        calibration: the curve ε was read from; ``None`` when ε was given.
        network: what the results belong to.
        checkpoint: what its sidecar says; the path is left out of the file, as it means nothing elsewhere.
        dataset: the data set's card.
        num_images: N.
        num_classes: logits of the network.
        layers: names of the layers that are there, in network order.
        missing_layers: names of those that are not.
        order: names of all layers of the network, in its order; empty if that is not known.
        notes: what was not as asked for.
        cautions: what a reader must know first.
        score: how the exported scores were made; they are for reading only.
        level_per_score: of the exported scores' intervals.
        hardware: where the export was written.
        versions: of the packages that wrote it.
        files: SHA-256 of each file beside the manifest.
        predictions: ``"classes"``, or ``"right"`` where only that is kept of what filtered networks predict.
        calibrated_on: the checkpoint that ε was calibrated on, in words, where it is not the one that was measured.
    """

    format: int
    schema: int
    written: str
    key: str
    measurement: MeasurementSpec
    attack: AttackSpec
    calibration: EpsilonCalibration | None
    network: NetworkIdentity
    checkpoint: Checkpoint
    dataset: DatasetCard
    num_images: int
    num_classes: int
    layers: tuple[str, ...]
    missing_layers: tuple[str, ...]
    order: tuple[str, ...]
    notes: tuple[str, ...]
    cautions: tuple[str, ...]
    score: ScoreSpec
    level_per_score: float
    hardware: dict[str, str | int | None]
    versions: dict[str, str]
    files: dict[str, str]
    predictions: Literal["classes", "right"] = field(default="classes", metadata=ADDED)
    calibrated_on: str = field(default="", metadata=ADDED)


# Writing --------------------------------------------------------------------------------------------------


def export_measured(
    measured: Measured,
    scores: Scores,
    directory: Path,
    *,
    formats: Sequence[Format] = ("parquet", "csv"),
    compact: bool = False,
) -> list[Path]:
    """Write a measurement into a directory: accuracies, scores, layers, per-image results, and a manifest.

    ``responses`` has one line per layer, filter and threshold; ``scores`` one per layer, filter and kind; ``layers``
    one per layer, arrays as JSON. Parquet only: ``images`` has, per layer, filter, draw and threshold, what the filter
    keeps, the packed bits of which images are right, and the predicted classes (one byte each up to 256 classes, else
    two, lowest first); ``unfiltered`` one line per image with its label. ``manifest.json`` is a :class:`Manifest`.
    With Parquet the directory can be read back whole by ``imports.read_export``.

    Args:
        measured: complete or not; the manifest lists what is missing.
        scores: of it.
        directory: made if it is missing; files of the same names are replaced.
        formats: which.
        compact: only what is read back, and of what filtered networks predict only whether it is right.

    Returns:
        The files written, the manifest last.

    Raises:
        StoreError: no layer is complete, or the directory cannot be written.
    """
    contents = _compact(measured, scores) if compact else _contents(measured, scores, formats)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_whole(directory / name, content, mode=0o644)
    except OSError as error:
        raise StoreError(f"{directory} cannot be written ({error.strerror}); choose another directory") from error
    return [directory / name for name in contents]


def to_csv(*frames: pd.DataFrame) -> bytes:
    """Write tables below each other as CSV, in UTF-8; a text that spreadsheets take for a formula gets a quote first.

    Names of layers and classes may be a stranger's: ``=HYPERLINK(…)`` would be run where the file is opened.
    """
    import pandas as pd

    def guarded(own: object) -> object:
        return f"'{own}" if isinstance(own, str) and own.startswith(_FORMULA) else own

    frame = pd.concat(frames)
    texts = frame.select_dtypes(include=["object", "string", "category"]).columns
    return frame.assign(**{name: frame[name].map(guarded) for name in texts}).to_csv(index=False).encode()


def export_zip(measured: Measured, scores: Scores, target: Path | BinaryIO) -> None:
    """Write a measurement as one ZIP of Parquet and JSON, to be read back by ``imports.read_zip``.

    Args:
        measured: complete or not; the manifest lists what is missing.
        scores: of it.
        target: a file that is made or replaced whole, or something to write to. The same members in the same order
            with the same times give the same bytes.

    Raises:
        StoreError: no layer is complete, the ZIP would be larger than can be read back, or it cannot be written.
    """
    contents = _contents(measured, scores, ("parquet",))
    buffer = io.BytesIO()
    # Stored as they are: Parquet is compressed already, and zlib's output changes with its version.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(contents, key=[MANIFEST, *TABLES].index):
            member = zipfile.ZipInfo(name, _LONG_AGO)
            member.create_system = 3
            member.external_attr = 0o644 << 16
            archive.writestr(member, contents[name])
    content = buffer.getvalue()
    if len(content) > LARGEST_FILE:
        raise StoreError(
            f"the ZIP must have at most {LARGEST_FILE:,} bytes, this one has {len(content):,}; export a directory, or "
            "fewer images"
        )
    if not isinstance(target, Path):
        target.write(content)
        return
    try:
        write_whole(target, content, mode=0o644)
    except OSError as error:
        raise StoreError(f"{target} cannot be written ({error.strerror}); choose another file") from error


def write_whole(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file whole or not at all, with these permissions.

    Raises:
        OSError: it cannot be written.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        part.chmod(mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _contents(measured: Measured, scores: Scores, formats: Sequence[Format]) -> dict[str, bytes]:
    """Every file of an export, by name, the manifest last."""
    if not measured.responses.layers:
        raise StoreError("an export needs at least one complete layer, this measurement has none; run `fss score`")
    layers = _layers(measured)
    frames = {
        "responses": measured.responses.to_dataframe(),
        "scores": scores.to_dataframe(),
        "layers": layers.to_pandas(),
    }
    contents: dict[str, bytes] = {}
    for kind in formats:
        if kind == "csv":
            contents |= {f"{name}.csv": to_csv(frame) for name, frame in frames.items()}
        else:
            tables = {name: _table(frames[name]) for name in ("responses", "scores")}
            tables |= {
                "layers": layers,
                "images": _images(measured, classes=measured.responses.classes_known),
                "unfiltered": _unfiltered(measured),
            }
            contents |= {f"{name}.parquet": _parquet(table) for name, table in tables.items()}
    return contents | {MANIFEST: _manifest_json(_manifest(measured, scores, contents))}


def _compact(measured: Measured, scores: Scores) -> dict[str, bytes]:
    """Every file of a compact export, by name, the manifest last."""
    if not measured.responses.layers:
        raise StoreError("an export needs at least one complete layer, this measurement has none; run `fss score`")
    tables = (_layers(measured), _images(measured, classes=False), _unfiltered(measured))
    contents = {name: _parquet(table) for name, table in zip(READ_BACK, tables, strict=True)}
    manifest = replace(_manifest(measured, scores, contents), predictions="right")
    return contents | {MANIFEST: _manifest_json(manifest)}


def _manifest_json(manifest: Manifest) -> bytes:
    record = to_json(manifest)
    del record["checkpoint"]["path"]
    return (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _manifest(measured: Measured, scores: Scores, contents: dict[str, bytes]) -> Manifest:
    responses = measured.responses
    assert responses.attack is not None, "a measurement of the flow knows its attack"
    return Manifest(
        format=EXPORT_FORMAT,
        schema=SCHEMA,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        key=measured.key,
        measurement=measured.spec,
        attack=responses.attack,
        calibration=measured.calibration,
        network=measured.checkpoint.identity,
        checkpoint=measured.checkpoint,
        dataset=measured.card,
        num_images=responses.num_images,
        num_classes=responses.num_classes,
        layers=tuple(layer.facts.name for layer in responses.layers),
        missing_layers=measured.missing,
        order=measured.order,
        notes=responses.notes,
        cautions=scores.cautions,
        score=scores.spec,
        level_per_score=scores.level_per_score,
        hardware=hardware(),
        versions=versions(),
        files={name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        predictions="classes" if responses.classes_known else "right",
        calibrated_on=measured.calibrated_on,
    )


def hardware() -> dict[str, str | int | None]:
    """Say what this machine is."""
    return {"machine": platform.machine(), "processor": platform.processor(), "cores": os.cpu_count()}


def versions() -> dict[str, str]:
    """Versions of what is installed: an imported result may be passed on where there is no torch."""
    found = {"filtering-score-studio": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


# Tables ---------------------------------------------------------------------------------------------------


def class_type(num_classes: int) -> npt.DTypeLike:
    """How predicted classes are written: one byte up to 256 classes, else two, lowest first."""
    return np.uint8 if num_classes <= 256 else "<u2"


def table_schema(
    name: str, *, num_images: int, num_classes: int, adaptive: bool, with_classes: bool = True
) -> pa.Schema:
    """Say which columns a table that is read back has; the width of every cell but text follows from the manifest.

    Args:
        name: one of ``READ_BACK``.
        num_images: N.
        num_classes: logits of the network.
        adaptive: whether every filtered network was attacked anew.
        with_classes: whether the classes that filtered networks predict are there.
    """
    import pyarrow as pa

    bits = pa.binary(-(-num_images // 8))
    classes = pa.binary(num_images * np.dtype(class_type(num_classes)).itemsize)
    columns: dict[str, dict[str, Any]] = {
        "layers.parquet": {
            "layer": pa.string(),
            "kind": pa.string(),
            "relative_depth": pa.float64(),
            "num_weights": pa.int64(),
            "num_live": pa.int64(),
            "thresholds": pa.string(),
            "histogram": pa.string(),
            "histogram_edges": pa.string(),
        },
        "images.parquet": {
            "layer": pa.string(),
            "filter": pa.string(),
            "draw": pa.int64(),
            "threshold_index": pa.int64(),
            "num_images": pa.int64(),
            "num_kept": pa.int64(),
            "num_live_kept": pa.int64(),
            "changes": pa.bool_(),
            "clean_right": bits,
            "adversarial_right": bits,
            **({"clean_class": classes, "adversarial_class": classes} if with_classes else {}),
            **({"zero_gradient": bits} if adaptive else {}),
        },
        "unfiltered.parquet": {
            "label": pa.int64(),
            "clean_class": pa.uint16(),
            "adversarial_class": pa.uint16(),
            "zero_gradient": pa.bool_(),
        },
    }
    return pa.schema(
        # An attack that does not say where it found no gradient leaves nulls.
        [
            pa.field(column, kind, nullable=(name, column) == ("unfiltered.parquet", "zero_gradient"))
            for column, kind in columns[name].items()
        ]
    )


def _schema(name: str, measured: Measured, *, with_classes: bool = True) -> pa.Schema:
    responses = measured.responses
    return table_schema(
        name,
        num_images=responses.num_images,
        num_classes=responses.num_classes,
        adaptive=measured.spec.attack_mode == "adaptive",
        with_classes=with_classes,
    )


def _table(frame: pd.DataFrame) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pandas(frame, preserve_index=False)


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_statistics=False)
    return sink.getvalue()


def _layers(measured: Measured) -> pa.Table:
    import pyarrow as pa

    plain = ("kind", "relative_depth", "num_weights", "num_live")
    arrays = ("thresholds", "histogram", "histogram_edges")
    lines = [
        {"layer": layer.facts.name}
        | {name: getattr(layer.facts, name) for name in plain}
        | {name: json.dumps(getattr(layer.facts, name).tolist(), allow_nan=False) for name in arrays}
        for layer in measured.responses.layers
    ]
    return pa.Table.from_pylist(lines, schema=_schema("layers.parquet", measured))


def _images(measured: Measured, *, classes: bool) -> pa.Table:
    import pyarrow as pa

    responses, schema = measured.responses, _schema("images.parquet", measured, with_classes=classes)
    layers, rows, num_thresholds = responses.layers, responses.rows, responses.spec.num_thresholds
    per_row, per_layer = num_thresholds, num_thresholds * len(rows)
    clean, adversarial = (
        np.concatenate([getattr(layer.predictions, kind) for layer in layers]) for kind in ("clean", "adversarial")
    )
    stored = class_type(responses.num_classes)
    columns: dict[str, Any] = {
        "layer": np.repeat([layer.facts.name for layer in layers], per_layer),
        "filter": np.tile(np.repeat([row.filter for row in rows], per_row), len(layers)),
        "draw": np.tile(np.repeat([row.draw for row in rows], per_row), len(layers)),
        "threshold_index": np.tile(np.arange(num_thresholds), len(layers) * len(rows)),
        "num_images": np.full(len(layers) * per_layer, responses.num_images),
        **{
            name: np.concatenate([getattr(layer.facts, name) for layer in layers]).ravel()
            for name in ("num_kept", "num_live_kept", "changes")
        },
        "clean_right": np.packbits(clean == responses.labels, axis=-1),
        "adversarial_right": np.packbits(adversarial == responses.labels, axis=-1),
        "clean_class": clean.astype(stored),
        "adversarial_class": adversarial.astype(stored),
    }
    if "zero_gradient" in schema.names:
        found = np.concatenate([layer.predictions.zero_gradient for layer in layers])
        columns["zero_gradient"] = np.packbits(found, axis=-1)
    return pa.table([_column(columns[own.name], own.type) for own in schema], schema=schema)


def _column(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """An array (…, width) as one cell of bytes each, or (…) as it is."""
    import pyarrow as pa

    if not pa.types.is_fixed_size_binary(kind):
        return pa.array(values, kind)
    num_lines = values.size * values.itemsize // kind.byte_width
    return pa.FixedSizeBinaryArray.from_buffers(kind, num_lines, [None, pa.py_buffer(np.ascontiguousarray(values))])


def _unfiltered(measured: Measured) -> pa.Table:
    import pyarrow as pa

    responses = measured.responses
    unfiltered = responses.unfiltered
    columns = {
        "label": responses.labels,
        "clean_class": unfiltered.clean,
        "adversarial_class": unfiltered.adversarial,
        "zero_gradient": [None] * responses.num_images
        if unfiltered.zero_gradient is None
        else unfiltered.zero_gradient,
    }
    schema = _schema("unfiltered.parquet", measured)
    return pa.table([pa.array(columns[own.name], own.type) for own in schema], schema=schema)
