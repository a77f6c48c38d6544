"""The comparison as a published file: what is right of every image as Parquet, and all that it says of itself as JSON.

Read as something that anyone may have written, without torch, the store or the data set.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from fss_core.data import DatasetCard
from fss_core.errata.bits import LayerRecord, arrays_of, responses_of
from fss_core.errata.effects import Effect, Ranking, Spread, list_effects, list_rankings, list_spreads
from fss_core.errata.variants import ErrataSpec, list_variants
from fss_core.exports import hardware, versions, write_whole
from fss_core.imports.archives import read_file
from fss_core.imports.bounds import refusing, require
from fss_core.imports.manifests import decode, parse_object
from fss_core.responses import Responses
from fss_core.specs import SYNAPTIC_FILTERS, StoreError, to_json
from fss_core.store import SCHEMA

FOLDER, DESCRIPTION, BITS = "errata", "notebook.json", "notebook.parquet"
"""Below the directory of published studies."""

_FORMAT = 1
_LARGEST_DESCRIPTION, _LARGEST_BITS = 2**20, 2**20
_UNFILTERED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRecord:
    """A variant that was measured anew.

    Attributes:
        name: of the variant.
        network: torchvision's name of it.
        seed: its initialisation.
        epsilon: of its attack, in pixels on [0, 1].
        layers: what was filtered, in network order.
        weights_sha256: of the network.
        clean_accuracy: of the unfiltered network on the probe images, as this variant runs it.
        adversarial_accuracy: likewise, attacked.
        zero_gradient_share: of filtered networks and images whose attack had no gradient; ``None`` where they were not
            attacked anew.
        seconds: wall time.
        cpu_seconds: of this process.
    """

    name: str
    network: str
    seed: int
    epsilon: float
    layers: tuple[LayerRecord, ...]
    weights_sha256: str
    clean_accuracy: float
    adversarial_accuracy: float
    zero_gradient_share: float | None
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrataRecord:
    """What a published comparison says of itself; numbers are those of its bits, see :func:`recomputed`.

    Attributes:
        format: of this file.
        schema: of stored results.
        spec: which cell.
        written: when, in ISO 8601.
        dataset_title: what to call the data set on screen.
        fingerprints: of its splits.
        num_classes: of the network.
        labels: of the probe images.
        epsilon: calibrated on the first initialisation, in pixels on [0, 1].
        notebook_epsilon: the notebooks' for ResNet-18 on MNIST, in pixels.
        engine_agrees: whether the fast engine gets exactly the images right that the plain loop without a switch does.
        measured: what was measured anew.
        effects: of every variant.
        rankings: of every variant.
        spreads: between initialisations.
        hardware: where.
        versions: of the packages that made it.
        bits_sha256: of the Parquet file.
    """

    format: int
    schema: int
    spec: ErrataSpec
    written: str
    dataset_title: str
    fingerprints: dict[str, str]
    num_classes: int
    labels: tuple[int, ...]
    epsilon: float
    notebook_epsilon: float
    engine_agrees: bool
    measured: tuple[MeasuredRecord, ...]
    effects: tuple[Effect, ...]
    rankings: tuple[Ranking, ...]
    spreads: tuple[Spread, ...]
    hardware: dict[str, str | int | None]
    versions: dict[str, str]
    bits_sha256: str

    @property
    def seconds(self) -> float:
        """Wall time of all measurements."""
        return sum(own.seconds for own in self.measured)

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all measurements."""
        return sum(own.cpu_seconds for own in self.measured)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Errata:
    """A published comparison.

    Attributes:
        record: what it says of itself.
        responses: name of a variant that was measured anew → its responses.
    """

    record: ErrataRecord
    responses: dict[str, Responses]


# Writing --------------------------------------------------------------------------------------------------


def write_errata(
    directory: Path,
    spec: ErrataSpec,
    card: DatasetCard,
    *,
    epsilon: float,
    notebook_epsilon: float,
    engine_agrees: bool,
    measured: Mapping[str, tuple[Responses, MeasuredRecord]],
) -> ErrataRecord:
    """Write a comparison, in place of the one before.

    Args:
        directory: of published studies.
        spec: which cell.
        card: of its data set.
        epsilon: in pixels.
        notebook_epsilon: in pixels.
        engine_agrees: as in :class:`ErrataRecord`.
        measured: name of a variant that was measured anew → its responses, and what to say of them.

    Raises:
        StoreError: it cannot be written, or is too large.
    """
    responses = {name: own for name, (own, _) in measured.items()}
    content = _table(responses)
    labels = next(iter(responses.values())).labels
    record = ErrataRecord(
        format=_FORMAT,
        schema=SCHEMA,
        spec=spec,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset_title=card.title,
        fingerprints=card.fingerprints,
        num_classes=card.num_classes,
        labels=tuple(labels.tolist()),
        epsilon=epsilon,
        notebook_epsilon=notebook_epsilon,
        engine_agrees=engine_agrees,
        measured=tuple(own for _, own in measured.values()),
        effects=list_effects(spec, responses),
        rankings=list_rankings(spec, responses),
        spreads=list_spreads(spec, responses),
        hardware=hardware(),
        versions=versions(),
        bits_sha256=hashlib.sha256(content).hexdigest(),
    )
    text = (json.dumps(to_json(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    if len(content) > _LARGEST_BITS or len(text) > _LARGEST_DESCRIPTION:
        raise StoreError(f"the comparison must have at most {_LARGEST_BITS:,} bytes a file, it has {len(content):,}")
    root = directory / FOLDER
    try:
        root.mkdir(parents=True, exist_ok=True)
        write_whole(root / BITS, content, mode=0o644)
        write_whole(root / DESCRIPTION, text, mode=0o644)
    except OSError as error:
        raise StoreError(f"{root} cannot be written ({error.strerror}); choose another --directory") from error
    return record


def _schema(num_bytes: int) -> Any:
    import pyarrow as pa

    bits = pa.binary(num_bytes)
    whole = pa.int64()
    return pa.schema(
        [
            ("variant", pa.string()),
            ("layer", pa.string()),
            ("filter", pa.string()),
            ("threshold_index", whole),
            ("num_kept", whole),
            ("num_live_kept", whole),
            ("changes", pa.bool_()),
            ("clean_right", bits),
            ("adversarial_right", bits),
        ]
    )


def _table(responses: Mapping[str, Responses]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines: list[tuple[Any, ...]] = []
    for variant, own in responses.items():
        arrays = arrays_of(own)
        unfiltered = (arrays[f"unfiltered_{kind}"].tobytes() for kind in ("clean", "adversarial"))
        lines.append((variant, "", "", _UNFILTERED, 0, 0, False, *unfiltered))
        for index, layer in enumerate(own.layers):
            for row, filter in enumerate(SYNAPTIC_FILTERS):
                for k in range(own.spec.num_thresholds):
                    facts = (arrays[name][index, row, k].item() for name in ("num_kept", "num_live_kept", "changes"))
                    bits = (arrays[name][index, row, k].tobytes() for name in ("clean", "adversarial"))
                    lines.append((variant, layer.facts.name, filter, k, *facts, *bits))
    first = next(iter(responses.values()))
    schema = _schema(-(-first.num_images // 8))
    columns = {name: list(values) for name, values in zip(schema.names, zip(*lines, strict=True), strict=True)}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd")
    return sink.getvalue()


# Reading --------------------------------------------------------------------------------------------------


def errata_path(directory: Path) -> Path:
    """Say where a comparison lies below a directory of published studies."""
    return directory / FOLDER / DESCRIPTION


def read_errata(directory: Path) -> Errata | None:
    """Read the comparison below a directory of published studies.

    Returns:
        It; ``None`` if there is none.

    Raises:
        StoreError: it is incomplete, altered, too large, or of another form.
    """
    path = errata_path(directory)
    if not path.exists():
        return None
    with refusing(str(path)):
        value = parse_object(read_file(path, _LARGEST_DESCRIPTION))
        for name, own in (("format", _FORMAT), ("schema", SCHEMA)):
            require(value.get(name) == own, f"{name} must be {own}", value.get(name))
        record: ErrataRecord = decode(ErrataRecord, value, "errata")
        content = read_file(path.with_name(BITS), _LARGEST_BITS)
        found = hashlib.sha256(content).hexdigest()
        require(found == record.bits_sha256, f"{BITS} must have the SHA-256 of {DESCRIPTION}", f"{found[:12]}…")
        require(len(record.labels) == record.spec.num_images, "every image must have a label", len(record.labels))
        return Errata(record=record, responses=_read_bits(content, record))


def _read_bits(content: bytes, record: ErrataRecord) -> dict[str, Responses]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    num_thresholds = record.spec.num_thresholds
    wanted: list[tuple[str, str, str, int]] = []
    for own in record.measured:
        wanted.append((own.name, "", "", _UNFILTERED))
        wanted += [
            (own.name, layer.name, filter, k)
            for layer in own.layers
            for filter in SYNAPTIC_FILTERS
            for k in range(num_thresholds)
        ]
    num_bytes = -(-record.spec.num_images // 8)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        is_known = file.schema_arrow.remove_metadata().equals(_schema(num_bytes))
        require(is_known, f"{BITS} must have other columns", file.schema_arrow.names)
        require(file.metadata.num_rows == len(wanted), f"{BITS} must have {len(wanted)} lines", file.metadata.num_rows)
        table = file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        require(False, f"{BITS} must be a sound Parquet file", str(error))
        raise
    columns = {name: table[name].to_pylist() for name in table.column_names}
    places = list(zip(*(columns[name] for name in ("variant", "layer", "filter", "threshold_index")), strict=True))
    require(places == wanted, f"{BITS} must be in the order of {DESCRIPTION}", places[:3])
    labels = np.array(record.labels, dtype=np.int64)
    adaptive = {own.name: own.procedure.adaptive for own in list_variants(record.spec)}
    responses, start = {}, 0
    for own in record.measured:
        stop = start + 1 + len(own.layers) * len(SYNAPTIC_FILTERS) * num_thresholds
        shape = (len(own.layers), len(SYNAPTIC_FILTERS), num_thresholds)
        bits = {
            kind: np.frombuffer(b"".join(columns[f"{kind}_right"][start:stop]), dtype=np.uint8).reshape(-1, num_bytes)
            for kind in ("clean", "adversarial")
        }
        arrays = {kind: bits[kind][1:].reshape(*shape, num_bytes) for kind in bits}
        arrays |= {f"unfiltered_{kind}": bits[kind][0] for kind in bits}
        arrays |= {
            name: np.array(columns[name][start + 1 : stop]).reshape(shape)
            for name in ("num_kept", "num_live_kept", "changes")
        }
        responses[own.name] = responses_of(
            arrays,
            labels,
            layers=own.layers,
            num_classes=record.num_classes,
            epsilon=own.epsilon,
            adaptive=adaptive.get(own.name, False),
            num_thresholds=num_thresholds,
        )
        start = stop
    return responses
