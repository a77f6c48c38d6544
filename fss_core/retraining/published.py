"""Retrainings as files: what came of every rule as JSON, and which report images are right as packed bits.

Read as something that anyone may have written, without torch, the store or the data set.
"""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fss_core.exports import write_whole
from fss_core.imports import Collection, published
from fss_core.imports.archives import read_file
from fss_core.imports.bounds import refusing, require
from fss_core.imports.manifests import decode, parse_object
from fss_core.retraining.results import JUDGED, Judgement, RetrainedEpoch, Retraining, RuleResult, Start
from fss_core.retraining.rules import Choice
from fss_core.retraining.spec import RetrainingSpec
from fss_core.specs import BrokenExportError, StoreError, to_json
from fss_core.store import SCHEMA

RETRAINING, BITS = "retraining.json", "judgements.parquet"
"""The files of one retraining."""

_FORMAT = 1
_LARGEST_JSON, _LARGEST_BITS = 2**22, 5_000_000
_BEFORE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Epoch:
    """One epoch of retraining, without its bits."""

    loss: float
    frozen_sha256: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """What came of one rule, without its bits."""

    choice: Choice
    start: Start | None
    epochs: tuple[_Epoch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """A retraining, without its bits."""

    format: int
    schema: int
    spec: RetrainingSpec
    epsilon: float
    checkpoint_sha256: str
    origin: Literal["trained", "imported"]
    dataset_title: str
    report: str
    num_live: int
    num_report_images: int
    criticality: dict[str, float]
    rules: tuple[_Rule, ...]
    bits_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRetraining:
    """A retraining from elsewhere.

    Attributes:
        path: its directory.
        retraining: what came of it.
        criticality: layer → worst loss, in nats; empty where no rule asked for it.
    """

    path: Path
    retraining: Retraining
    criticality: dict[str, float]


def write_retraining(retraining: Retraining, criticality: dict[str, float], directory: Path) -> None:
    """Write a retraining into a directory.

    Args:
        retraining: complete.
        criticality: of its checkpoint's layers; empty where no rule asked for it.
        directory: made if it is missing.

    Raises:
        OSError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    judged = [(_BEFORE, 0, retraining.before)]
    for index, rule in enumerate(retraining.rules):
        judged += [(index, epoch, own.judgement) for epoch, own in enumerate(rule.epochs, 1)]
    columns: dict[str, list[Any]] = {"rule": [own[0] for own in judged], "epoch": [own[1] for own in judged]}
    columns |= {kind: [own[2].packed[kind].tobytes() for own in judged] for kind in JUDGED}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_schema(retraining.before.num_images)), sink, compression="zstd")
    record = _Record(
        format=_FORMAT,
        schema=SCHEMA,
        spec=retraining.spec,
        epsilon=retraining.epsilon,
        checkpoint_sha256=retraining.checkpoint_sha256,
        origin=retraining.origin,
        dataset_title=retraining.dataset_title,
        report=retraining.report,
        num_live=retraining.num_live,
        num_report_images=retraining.before.num_images,
        criticality=criticality,
        rules=tuple(
            _Rule(
                choice=rule.choice,
                start=rule.start,
                epochs=tuple(
                    _Epoch(loss=own.loss, frozen_sha256=own.frozen_sha256, seconds=own.seconds) for own in rule.epochs
                ),
            )
            for rule in retraining.rules
        ),
        bits_sha256=hashlib.sha256(sink.getvalue()).hexdigest(),
    )
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / BITS, sink.getvalue(), mode=0o644)
    text = json.dumps(to_json(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(directory / RETRAINING, text.encode(), mode=0o644)


def _schema(num_images: int) -> Any:
    import pyarrow as pa

    bits = pa.binary(-(-num_images // 8))
    return pa.schema([("rule", pa.int64()), ("epoch", pa.int64()), *((kind, bits) for kind in JUDGED)])


def read_retraining(directory: Path) -> PublishedRetraining:
    """Read a retraining that :func:`write_retraining` wrote.

    Raises:
        StoreError: it is incomplete, altered, too large, or of another form.
    """
    with refusing(str(directory)):
        record = _read_record(directory)
        content = read_file(directory / BITS, _LARGEST_BITS)
        found = hashlib.sha256(content).hexdigest()
        require(found == record.bits_sha256, f"{BITS} must have the SHA-256 of {RETRAINING}", f"{found[:12]}…")
        judgements = _read_bits(content, record)
    rules = tuple(
        RuleResult(
            choice=rule.choice,
            start=rule.start,
            epochs=tuple(
                RetrainedEpoch(
                    loss=own.loss,
                    frozen_sha256=own.frozen_sha256,
                    seconds=own.seconds,
                    judgement=judgements[index, epoch],
                )
                for epoch, own in enumerate(rule.epochs, 1)
            ),
        )
        for index, rule in enumerate(record.rules)
    )
    retraining = Retraining(
        spec=record.spec,
        epsilon=record.epsilon,
        checkpoint_sha256=record.checkpoint_sha256,
        origin=record.origin,
        dataset_title=record.dataset_title,
        report=record.report,
        num_live=record.num_live,
        before=judgements[_BEFORE, 0],
        rules=rules,
    )
    return PublishedRetraining(path=directory, retraining=retraining, criticality=record.criticality)


def _read_record(directory: Path) -> _Record:
    value = parse_object(read_file(directory / RETRAINING, _LARGEST_JSON))
    for name, own in (("format", _FORMAT), ("schema", SCHEMA)):
        require(value.get(name) == own, f"{name} must be {own}", value.get(name))
    record: _Record = decode(_Record, value, "retraining")
    given = record.spec.measurement.epsilon
    require(given in (None, record.epsilon), f"epsilon must be what was given ({given})", record.epsilon)
    require(0 < record.epsilon <= 1, "epsilon must lie in (0, 1]", record.epsilon)
    require(
        1 <= record.num_report_images <= 10**6, "num_report_images must be 1 to 1,000,000", record.num_report_images
    )
    return record


def _read_bits(content: bytes, record: _Record) -> dict[tuple[int, int], Judgement]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = [(_BEFORE, 0)]
    wanted += [(index, epoch) for index, rule in enumerate(record.rules) for epoch in range(1, len(rule.epochs) + 1)]
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        is_known = file.schema_arrow.remove_metadata().equals(_schema(record.num_report_images))
        require(is_known, f"{BITS} must have other columns", file.schema_arrow.names)
        require(file.metadata.num_rows == len(wanted), f"{BITS} must have {len(wanted)} lines", file.metadata.num_rows)
        table = file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        require(False, f"{BITS} must be a sound Parquet file", str(error))
        raise
    places = list(zip(table["rule"].to_pylist(), table["epoch"].to_pylist(), strict=True))
    require(places == wanted, f"{BITS} must be in the order of {RETRAINING}", places)
    bits = {kind: table[kind].to_pylist() for kind in JUDGED}
    return {
        place: Judgement(
            num_images=record.num_report_images,
            packed={kind: np.frombuffer(bits[kind][line], dtype=np.uint8) for kind in JUDGED},
        )
        for line, place in enumerate(places)
    }


def list_published() -> list[RetrainingSpec]:
    """List what published retrainings are of; those that are not sound are left out."""
    found = []
    for path in _places(published()):
        with suppress(StoreError), refusing(str(path)):
            found.append(_known_record(path).spec)
    return found


def find_published(spec: RetrainingSpec, collection: Collection | None = None) -> PublishedRetraining | None:
    """Look a retraining up among the published ones: of its rules and epochs those that were asked for.

    Args:
        spec: what to look for. An ε that is given also fits one that was calibrated to the same; all report images fit
            any number of them, and draws of ``random`` as many as there are: the result says how many it has.
        collection: where; the published studies by default.

    Returns:
        What there is, the one judged on the most images; ``None`` if nothing fits.

    Raises:
        BrokenExportError: what fits is broken.
    """
    fitting: list[tuple[int, Path]] = []
    try:
        for path in _places(collection or published()):
            with refusing(str(path)):
                record = _known_record(path)
            if _fits(record, spec):
                fitting.append((record.num_report_images, path))
        return _narrowed(read_retraining(max(fitting)[1]), spec) if fitting else None
    except StoreError as error:
        raise BrokenExportError(str(error), origin="published") from error


def _places(collection: Collection) -> list[Path]:
    return sorted(path.parent for path in collection.root.rglob(RETRAINING))


def _known_record(directory: Path) -> _Record:
    stamp = (directory / RETRAINING).stat()
    return _record_of(directory, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=256)
def _record_of(directory: Path, modified: int, size: int) -> _Record:
    """Read a record once, until it is another."""
    return _read_record(directory)


def _fits(record: _Record, spec: RetrainingSpec) -> bool:
    own = record.spec
    if spec.measurement.epsilon not in (own.measurement.epsilon, record.epsilon):
        return False
    if not set(spec.rules) <= set(own.rules) or spec.budget > own.budget:
        return False
    if spec.num_report_images not in (None, record.num_report_images):
        return False
    return _as_published(own, spec) == replace(
        spec, num_draws=min(own.num_draws, spec.num_draws), num_report_images=own.num_report_images
    )


def _as_published(own: RetrainingSpec, spec: RetrainingSpec) -> RetrainingSpec:
    """Ask of a published retraining for what was asked for, as far as it has that."""
    return replace(
        own,
        measurement=replace(own.measurement, epsilon=spec.measurement.epsilon),
        rules=spec.rules,
        budget=spec.budget,
        num_draws=min(own.num_draws, spec.num_draws),
    )


def _narrowed(found: PublishedRetraining, spec: RetrainingSpec) -> PublishedRetraining:
    less = _as_published(found.retraining.spec, spec)
    rules = tuple(
        replace(own, epochs=own.epochs[: less.budget])
        for name in less.rules
        for own in found.retraining.of_rule(name)
        if own.choice.draw in less.draws(name)
    )
    return replace(found, retraining=replace(found.retraining, spec=less, rules=rules))
