"""Retrainings as files: what came of every rule as JSON, and which report images are right as packed bits.

Read as something that anyone may have written, without torch, the store or the data set.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from fss_core.specs import to_json
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


def find_published(spec: RetrainingSpec, collection: Collection | None = None) -> PublishedRetraining | None:
    """Look a retraining up among the published ones: of its rules, draws and epochs as many as were asked for.

    Args:
        spec: what to look for; an ε that is given also fits one that was calibrated to the same.
        collection: where; the published studies by default.

    Returns:
        What there is; ``None`` if nothing fits.

    Raises:
        StoreError: what fits is broken.
    """
    root = (collection or published()).root
    for path in sorted(root.rglob(RETRAINING)):
        with refusing(str(path.parent)):
            record = _read_record(path.parent)
        if _fits(record, spec):
            return _narrowed(read_retraining(path.parent), spec)
    return None


def _fits(record: _Record, spec: RetrainingSpec) -> bool:
    own = record.spec
    epsilon = spec.measurement.epsilon
    if epsilon not in (own.measurement.epsilon, record.epsilon):
        return False
    if not set(spec.rules) <= set(own.rules) or spec.budget > own.budget or spec.num_draws > own.num_draws:
        return False
    if spec.num_report_images not in (own.num_report_images, record.num_report_images):
        return False
    same = replace(
        spec,
        measurement=replace(spec.measurement, epsilon=own.measurement.epsilon),
        rules=own.rules,
        budget=own.budget,
        num_draws=own.num_draws,
        num_report_images=own.num_report_images,
    )
    return same == own


def _narrowed(found: PublishedRetraining, spec: RetrainingSpec) -> PublishedRetraining:
    def wanted() -> Iterator[RuleResult]:
        for name in spec.rules:
            for own in found.retraining.of_rule(name):
                if own.choice.draw in spec.draws(name):
                    yield replace(own, epochs=own.epochs[: spec.budget])

    return replace(found, retraining=replace(found.retraining, spec=spec, rules=tuple(wanted())))
