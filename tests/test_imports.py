"""Exports read back: the same measurement anywhere, and nothing but one line for what is no sound export."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import bars
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fss_core import imports
from fss_core.exports import READ_BACK, TABLES, export_measured, export_zip
from fss_core.figures.images import images_alt
from fss_core.flow import Flow, Measured, find_measured
from fss_core.imports import (
    BrokenEntry,
    Collection,
    Entry,
    bounds,
    delete_imported,
    find_imported,
    import_zip,
    list_imported,
    parquet,
    read_export,
    read_zip,
)
from fss_core.reports import describe_epsilon
from fss_core.scores import score_responses
from fss_core.specs import FssError, MeasurementSpec, ResponseSpec, StaleResultError, StoreError, TrainingSpec, digest
from fss_core.store import Store
from fss_core.summaries import changed_images

SPEC = MeasurementSpec(
    training=TrainingSpec(network=bars.NETWORK, dataset=bars.DATASET),
    epoch=bars.EPOCH,
    num_images=107,
    response=ResponseSpec(filters=("high_pass", "low_pass", "pulse", "random"), num_thresholds=4),
)
SMALL = replace(SPEC, num_images=30, epsilon=0.1, response=ResponseSpec(num_thresholds=4))
KINDS: dict[str, MeasurementSpec] = {
    "complete": SPEC,
    "missing": replace(SPEC, epsilon=0.2),
    "adaptive": replace(SMALL, attack_mode="adaptive"),
    "global": replace(SMALL, response=replace(SMALL.response, scope="global")),
    "small": SMALL,
}


@pytest.fixture(scope="module")
def measurements(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Measured]:
    root = tmp_path_factory.mktemp("bars")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSS_CACHE_DIR", str(root))
        bars.make_cache(root)
        with Store() as store:
            for kind, spec in KINDS.items():
                Flow(store, factory=bars.make_network).measure(spec, layers=["fc"] if kind == "missing" else None)
                measured = find_measured(store, spec)
                assert measured is not None
                found[kind] = measured
    assert found["missing"].missing == ("conv",)
    return found


@pytest.fixture(scope="module")
def zips(measurements: dict[str, Measured]) -> dict[str, bytes]:
    return {kind: zipped(measured) for kind, measured in measurements.items()}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "elsewhere"))
    return tmp_path / "elsewhere"


def zipped(measured: Measured) -> bytes:
    buffer = io.BytesIO()
    export_zip(measured, score_responses(measured.responses), buffer)
    return buffer.getvalue()


def assert_equal(found: Any, expected: Any, where: str = "") -> None:
    """Equal to the last bit and type, through dataclasses and tuples."""
    assert type(found) is type(expected), where
    if is_dataclass(expected):
        for field in fields(expected):
            assert_equal(getattr(found, field.name), getattr(expected, field.name), f"{where}.{field.name}")
    elif isinstance(expected, tuple):
        assert len(found) == len(expected), where
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_equal(*pair, f"{where}[{index}]")
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype, where
        np.testing.assert_array_equal(found, expected, err_msg=where)
    else:
        assert found == expected, where


def assert_came_back(found: Measured, expected: Measured, path: Path, origin: str = "imported") -> None:
    assert found.origin == origin
    assert found.checkpoint.path == path
    at_home = replace(expected, checkpoint=replace(expected.checkpoint, path=path), origin=found.origin)
    assert_equal(found, at_home)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(StoreError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def outcome(call: Callable[[], Measured]) -> Measured | None:
    """A measurement, or nothing where it is refused in one line; any other exception is a failure."""
    try:
        return call()
    except FssError as error:
        reason = str(error)
    assert "\n" not in reason
    return None


# The same measurement -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_measurement_comes_back_exactly(
    measurements: dict[str, Measured], zips: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    measured = measurements[kind]
    assert (measured.responses.layers[0].predictions.zero_gradient is not None) == (kind == "adaptive")
    scores = score_responses(measured.responses, reference="retained")
    export_measured(measured, scores, tmp_path / "out")
    (tmp_path / "out.zip").write_bytes(zips[kind])
    assert_came_back(read_export(tmp_path / "out"), measured, tmp_path / "out")
    assert_came_back(read_zip(tmp_path / "out.zip"), measured, tmp_path / "out.zip")
    found = read_zip(zips[kind])
    assert_came_back(found, measured, Path("the ZIP"))
    with (tmp_path / "out.zip").open("rb") as file:
        assert_equal(read_zip(file), found)
    again = score_responses(found.responses, reference="retained")
    assert again.to_dataframe().equals(scores.to_dataframe())
    assert again.cautions == scores.cautions


def test_more_than_256_classes_and_no_word_on_gradients(measurements: dict[str, Measured]) -> None:
    measured = measurements["small"]
    own = measured.responses

    def wide(predictions: Any, **more: Any) -> Any:
        classes = {part: getattr(predictions, part).astype(np.uint16) * 90 for part in ("clean", "adversarial")}
        return replace(predictions, **classes, **more)

    responses = replace(
        own,
        num_classes=300,
        unfiltered=wide(own.unfiltered, zero_gradient=None),
        layers=tuple(replace(layer, predictions=wide(layer.predictions)) for layer in own.layers),
    )
    assert responses.layers[0].predictions.clean.max() > 255
    found = read_zip(zipped(replace(measured, responses=responses)))
    assert_equal(found.responses, responses)


def test_what_was_imported_can_be_passed_on(measurements: dict[str, Measured], zips: dict[str, bytes]) -> None:
    assert_equal(read_zip(zipped(read_zip(zips["complete"]))), read_zip(zips["complete"]))


def test_reading_needs_neither_torch_nor_the_data_set(zips: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "out.zip").write_bytes(zips["complete"])
    code = (
        "import sys\nfrom pathlib import Path\n"
        "import fss_core.imports as imports\nheavy = {'torch', 'pandas', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"key = imports.import_zip(Path({str(tmp_path / 'out.zip')!r})).key\n"
        "(entry,) = imports.list_imported()\n"
        "found = imports.find_imported(entry.manifest.measurement)\n"
        "from fss_core.scores import score_responses\nassert score_responses(found.responses).rows\n"
        "assert 'torch' not in sys.modules\nprint(key)"
    )
    environment = os.environ | {"FSS_CACHE_DIR": str(tmp_path / "empty")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == json.loads(files_of(zips["complete"])["manifest.json"])["key"]


# What is refused ------------------------------------------------------------------------------------------


def files_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zip_of(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def signed(files: dict[str, bytes], change: Callable[[dict[str, Any]], object] = lambda manifest: None) -> bytes:
    """A ZIP whose manifest vouches for its files, after a change of the manifest."""
    manifest = json.loads(files["manifest.json"])
    manifest["files"] = {name: hashlib.sha256(files[name]).hexdigest() for name in TABLES if name in files}
    change(manifest)
    return zip_of(files | {"manifest.json": json.dumps(manifest).encode()})


def forged(content: bytes, name: str, change: Callable[[pa.Table], pa.Table]) -> bytes:
    """A ZIP with one table changed, its manifest vouching for it."""
    files = files_of(content)
    sink = io.BytesIO()
    pq.write_table(change(pq.read_table(io.BytesIO(files[name]))), sink, compression="zstd")
    return signed(files | {name: sink.getvalue()})


def with_column(name: str, change: Callable[[np.ndarray[Any, Any]], object]) -> Callable[[pa.Table], pa.Table]:
    """Change a column of plain values."""

    def changed(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(name)
        field = table.schema.field(index)
        values = np.array(table[name].to_pylist(), dtype=object)
        change(values)
        return table.set_column(index, field, pa.array(values.tolist(), field.type))

    return changed


def cell(line: int, value: object) -> Callable[[np.ndarray[Any, Any]], object]:
    return lambda values: values.__setitem__(line, value)


def test_forging_is_noticed_only_where_something_was_forged(zips: dict[str, bytes]) -> None:
    """What the tests below change, they change alone."""
    for name in ("layers.parquet", "images.parquet", "unfiltered.parquet"):
        assert_equal(read_zip(forged(zips["small"], name, lambda table: table)), read_zip(zips["small"]))
    assert_equal(read_zip(zip_of(files_of(zips["small"]), zipfile.ZIP_DEFLATED)), read_zip(zips["small"]))


def test_a_file_too_large_is_not_read(zips: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        num_asked = 0

        def read(self, size: int = -1) -> bytes:
            assert 0 < size <= 2**20 + 1, "no more is asked for than may be there"
            return bytes(size)

    assert bounds.LARGEST_FILE == 64 * 2**20
    monkeypatch.setattr(bounds, "LARGEST_FILE", 2**20)
    with (tmp_path / "out.zip").open("wb") as file:
        file.truncate(2**28)
    for source in (bytes(2**20 + 1), tmp_path / "out.zip", Endless()):
        tracemalloc.start()
        assert "must have at most 1,048,576 bytes" in refusal(lambda source=source: read_zip(source))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**24
    monkeypatch.setattr(bounds, "LARGEST_FILE", len(zips["small"]))
    read_zip(zips["small"])


def test_what_unpacks_to_too_much_is_not_unpacked(zips: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    assert bounds.LARGEST_CONTENT == 256 * 2**20
    monkeypatch.setattr(bounds, "LARGEST_CONTENT", 2**20)
    bomb = zip_of(files_of(zips["small"]) | {"scores.parquet": bytes(2**26)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 2**18
    # A directory that states a small size: what comes out counts.
    stated = struct.pack("<I", 2**26)
    assert bomb.count(stated) == 2
    for content in (bomb, bomb.replace(stated, struct.pack("<I", 10)), bomb.replace(stated, struct.pack("<I", 2**20))):
        tracemalloc.start()
        found = refusal(lambda content=content: read_zip(content))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "must have at most" in found or "damaged" in found
        assert peak < 2**24
    assert "scores.parquet must have at most" in refusal(lambda: read_zip(bomb))


def test_all_members_count_together(zips: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_of(zips["small"])
    largest = max(len(files[name]) for name in TABLES)
    total = sum(len(files[name]) for name in TABLES)
    monkeypatch.setattr(bounds, "LARGEST_CONTENT", total)
    read_zip(zips["small"])
    assert largest < total - 1
    monkeypatch.setattr(bounds, "LARGEST_CONTENT", total - 1)
    assert "must have at most" in refusal(lambda: read_zip(zips["small"]))


def _renamed(content: bytes, old: str, new: str) -> bytes:
    assert len(old) == len(new)
    return content.replace(old.encode(), new.encode())


def _with_attributes(content: bytes, **attributes: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, own in files_of(content).items():
            member = zipfile.ZipInfo(name)
            if name == "scores.parquet":
                for part, value in attributes.items():
                    setattr(member, part, value)
            archive.writestr(member, own)
    return buffer.getvalue()


def _twice(content: bytes) -> bytes:
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("scores.parquet", b"again")
    return buffer.getvalue()


def _encrypted(content: bytes) -> bytes:
    changed = bytearray(content)
    start = changed.index(b"PK\1\2")
    changed[start + 8] |= 1
    return bytes(changed)


def _too_many(content: bytes) -> bytes:
    return zip_of(files_of(content) | {f"{index:0100}": b"" for index in range(200)})


BAD_ZIPS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda content: b"", "must end with its directory"),
    "text": (lambda content: b"no archive at all" * 10, "must end with its directory"),
    "cut": (lambda content: content[:-1], "must end with its directory"),
    "comment": (lambda content: content[:-2] + b"\2\0hi", "must end with its directory and no comment"),
    "front": (lambda content: content[100:], "the ZIP is damaged"),
    "zip64": (lambda content: content[:-22] + b"PK\6\7" + bytes(16) + content[-22:], "must not be a ZIP64"),
    "many": (_too_many, "the ZIP's directory must have at most 16,384 bytes"),
    "more": (lambda content: zip_of(files_of(content) | {"more": b""}), "members must be manifest.json, "),
    "fewer": (lambda content: zip_of({"manifest.json": b"{}"}), "members must be manifest.json, "),
    "path": (lambda content: _renamed(content, "scores.parquet", "../res.parquet"), "members must be"),
    "absolute": (lambda content: _renamed(content, "scores.parquet", "/cores.parquet"), "members must be"),
    "folder": (lambda content: _renamed(content, "scores.parquet", "scores.parque/"), "members must be"),
    "zero byte": (
        lambda content: zip_of(
            {name.replace("scores.parquet", "scores.parquetX"): own for name, own in files_of(content).items()}
        ).replace(b"scores.parquetX", b"scores.parquet\0"),
        "members must be",
    ),
    "twice": (_twice, "members must be"),
    "link": (
        lambda content: _with_attributes(content, create_system=3, external_attr=(stat.S_IFLNK | 0o777) << 16),
        "scores.parquet must be a plain file, got 'l",
    ),
    "encrypted": (_encrypted, "manifest.json must not be encrypted"),
    "method": (
        lambda content: _with_attributes(content, compress_type=zipfile.ZIP_LZMA),
        "scores.parquet must be stored or deflated, got 14",
    ),
    "other bytes": (
        lambda content: zip_of(files_of(content) | {"scores.parquet": b"PAR1"}),
        "scores.parquet must have the SHA-256 of the manifest",
    ),
}


@pytest.mark.parametrize("name", BAD_ZIPS)
def test_a_zip_of_another_form_is_refused(zips: dict[str, bytes], name: str) -> None:
    spoil, reason = BAD_ZIPS[name]
    found = refusal(lambda: read_zip(spoil(zips["small"])))
    assert reason in found
    assert found.startswith("the ZIP is not a sound export (")
    assert found.endswith("; ask for it to be exported again")


def test_where_there_is_nothing_to_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    assert "pipe.zip must be a file, got 'p" in refusal(lambda: read_zip(tmp_path / "pipe.zip"))
    assert "none.zip cannot be read (No such file or directory)" in refusal(lambda: read_zip(tmp_path / "none.zip"))
    assert "cannot be read" in refusal(lambda: read_export(tmp_path / "none"))


BAD_TEXTS: dict[str, tuple[str | bytes, str]] = {
    "none": ("", "is no JSON"),
    "bytes": (b"\xff\xfe", "is no JSON"),
    "list": ("[]", "must be a JSON object"),
    "NaN": ('{"schema": NaN}', "numbers must be finite, got NaN"),
    "infinite": ('{"schema": 1e999}', "numbers must be finite, got 1e999"),
    "deep": ("[" * 100_000, "is no JSON"),
    "long number": ('{"schema": ' + "1" * 10_000 + "}", "is no JSON"),
    "twice": ('{"schema": 1, "schema": 1}', "a name stands twice"),
    "empty": ("{}", "format must be a whole number, got None"),
    "large": (" " * 2**20 + "{}", "manifest.json must have at most 1,048,576 bytes unpacked"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_manifest_that_is_no_manifest_is_refused(zips: dict[str, bytes], name: str) -> None:
    text, reason = BAD_TEXTS[name]
    content = text if isinstance(text, bytes) else text.encode()
    assert reason in refusal(lambda: read_zip(zip_of(files_of(zips["small"]) | {"manifest.json": content})))


def test_everything_in_a_manifest_is_needed_and_has_its_type(zips: dict[str, bytes]) -> None:
    """Every single value, replaced by one of another type or left out, is refused."""
    files = files_of(zips["complete"])
    manifest = json.loads(files["manifest.json"])

    def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        yield path
        for key, own in value.items() if isinstance(value, dict) else ():
            yield from places(own, (*path, key))

    free = ("hardware", "versions", "random_state")
    count = 0
    for path in list(places(manifest))[1:]:
        for replacement in ("absent", [[]], {"a": []}, True):
            changed = json.loads(files["manifest.json"])
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            if replacement == "absent":
                del parent[path[-1]]
            elif type(parent[path[-1]]) is type(replacement):
                continue
            else:
                parent[path[-1]] = replacement
            if replacement == "absent" and path[-2:-1] and path[-2] in free:
                continue
            content = zip_of(files | {"manifest.json": json.dumps(changed).encode()})
            assert "not a sound export" in refusal(lambda content=content: read_zip(content)), path
            count += 1
    assert count > 200


def set_at(*path: Any) -> Callable[[dict[str, Any]], None]:
    *parents, last, value = path

    def change(manifest: dict[str, Any]) -> None:
        for part in parents:
            manifest = manifest[part]
        manifest[last] = value

    return change


BAD_MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown field": (set_at("more", 1), "manifest must have the fields"),
    "out of range": (set_at("attack", "epsilon", 2.0), "manifest.attack: epsilon must lie in (0, 1]"),
    "unknown filter": (set_at("measurement", "response", "filters", ["pulse", "other"]), "must be one of high_pass"),
    "long text": (set_at("dataset", "title", "x" * 1001), "manifest.dataset.title must have at most 1000 characters"),
    "escape": (set_at("dataset", "title", "\x1b[2J"), "must be text without control characters"),
    "lines": (set_at("notes", ["a\nb"]), "must be text without control characters"),
    "surrogate": (set_at("dataset", "title", "\ud800"), "must be text without control characters"),
    "large number": (set_at("measurement", "training", "seed", 2**64), "manifest.measurement.training.seed must be"),
    "shape": (set_at("dataset", "image_shape", [1, 8]), "manifest.dataset.image_shape must have 3 entries"),
    "no hash": (set_at("checkpoint", "sha256", "abc"), "checkpoint.sha256 must be a SHA-256"),
    "fingerprint": (set_at("dataset", "fingerprints", "report", "../x"), "fingerprints.report must be a SHA-256"),
    "other splits": (set_at("dataset", "split_sizes", {"probe": 500}), "dataset.split_sizes must agree"),
    "other data set": (set_at("dataset", "name", "other"), "dataset.name must agree"),
    "other network": (set_at("network", "network", "resnet18"), "network must agree"),
    "other weights": (set_at("network", "weights_sha256", "0" * 64), "network must agree"),
    "other epoch": (set_at("checkpoint", "epoch", 4), "checkpoint.epoch must agree"),
    "other training": (set_at("checkpoint", "spec", "seed", 1), "checkpoint.spec must agree"),
    "other images": (set_at("checkpoint", "dataset_fingerprint", "x"), "checkpoint.dataset_fingerprint must agree"),
    "other attack": (set_at("attack", "steps", 11), "attack must agree"),
    "other number": (set_at("num_images", 29), "measurement.num_images must agree"),
    "other ε": (set_at("measurement", "epsilon", 0.2), "attack.epsilon must be what was given or calibrated"),
    "given and calibrated": (
        set_at(
            "calibration",
            {
                "epsilon": 0.1,
                "clean_accuracy": 0.9,
                "target": 0.5,
                "grid": [0.1],
                "pgd_accuracy": [0.5],
                "num_images": 30,
                "reached": True,
            },
        ),
        "calibration must be there exactly when measurement.epsilon is null",
    ),
    "other key": (set_at("key", "0" * 64), "key must be that of its parts"),
    "other file": (lambda manifest: manifest["files"].update({"x": "0" * 64}), "files must be those of an export"),
    "a file less": (lambda manifest: manifest["files"].pop("scores.parquet"), "must list responses.parquet"),
    "draws": (set_at("measurement", "response", "num_draws", 10**9), "key must be"),
    "layers": (set_at("layers", []), "layers must be 1 to 2000"),
    "many layers": (set_at("layers", [f"layer{index}" for index in range(2001)]), "layers must be 1 to 2000"),
    "layer twice": (set_at("missing_layers", ["fc"]), "layers must differ"),
    "order twice": (set_at("order", ["conv", "fc", "fc"]), "layers must differ"),
    "another order": (set_at("order", ["fc", "conv"]), "layers must be in order, got ('conv', 'fc')"),
    "a layer out of order": (set_at("missing_layers", ["other"]), "layers must be in order, got ('other',)"),
    "a long order": (
        set_at("order", ["conv", "fc", *map(str, range(1999))]),
        "order must have at most 2000 layers, got 2001",
    ),
    "other layers": (
        lambda manifest: manifest.update(layers=["fc", "conv"], order=[]),
        "layer of images.parquet must be in the manifest's order",
    ),
    "no classes": (set_at("num_classes", 0), "num_classes must be 1 to 65536"),
    "few classes": (set_at("num_classes", 3), "labels must be classes"),
    "many classes": (set_at("num_classes", 10**9), "num_classes must be 1 to 65536"),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_a_manifest_that_cannot_be_is_refused(zips: dict[str, bytes], name: str) -> None:
    change, reason = BAD_MANIFESTS[name]
    assert reason in refusal(lambda: read_zip(signed(files_of(zips["small"]), change)))


def rekeyed(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], None]:
    """A change whose key fits."""

    def changed(manifest: dict[str, Any]) -> None:
        change(manifest)
        own = json.loads(json.dumps(manifest))
        response, attack = own["measurement"]["response"], own["attack"]
        manifest["key"] = digest(
            {
                "what": "responses",
                "response": {name: value for name, value in response.items() if name != "filters"},
                "attack": attack,
                "network": own["network"],
                "probe": own["dataset"]["fingerprints"]["probe"],
                "device": own["measurement"]["device"],
                "schema": own["schema"],
            }
        )

    return changed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_at("measurement", "response", "num_draws", 10**9), "num_draws must be at most 1000"),
        (set_at("measurement", "response", "num_thresholds", 9999), "images.parquet must have 59994 lines, got 24"),
        (set_at("measurement", "response", "scope", "global"), "layers of a global measurement must be"),
        (
            lambda manifest: set_at("measurement", "num_images", 121)(manifest) or set_at("num_images", 121)(manifest),
            "num_images must be at most 120",
        ),
        (
            lambda manifest: [
                set_at(*path, 10**9)(manifest)
                for path in (("measurement", "num_images"), ("num_images",), ("dataset", "split_sizes", "probe"))
            ],
            "layers × filters × thresholds × images must take at most",
        ),
    ],
)
def test_sizes_are_bounded_though_the_key_fits(
    zips: dict[str, bytes], change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    assert reason in refusal(lambda: read_zip(signed(files_of(zips["small"]), rekeyed(change))))
    read_zip(signed(files_of(zips["small"]), rekeyed(lambda manifest: None)))


@pytest.mark.parametrize("name", ["schema", "format"])
def test_another_schema_is_stale(zips: dict[str, bytes], name: str) -> None:
    content = signed(files_of(zips["small"]), set_at(name, 99))
    with pytest.raises(StaleResultError, match=f"^the ZIP has {name} 99, this version reads 1; export it again"):
        read_zip(content)


BAD_TABLES: dict[str, tuple[str, Callable[[pa.Table], pa.Table], str]] = {
    "class": ("unfiltered", with_column("clean_class", cell(0, 4)), "unfiltered clean_class must be below 4"),
    "label": ("unfiltered", with_column("label", cell(0, 4)), "labels must be classes"),
    "negative label": ("unfiltered", with_column("label", cell(0, -1)), "labels must be classes"),
    "some gradients": ("unfiltered", with_column("zero_gradient", cell(0, None)), "for all images or for none"),
    "fewer images": ("unfiltered", lambda table: table.slice(1), "must have 30 lines, got 29"),
    "more images": ("unfiltered", lambda table: pa.concat_tables([table, table]), "must have 30 lines, got 60"),
    "filtered class": (
        "images",
        with_column("clean_class", cell(0, bytes([4] * 30))),
        "clean_class must be below 4, the number of classes, got 4",
    ),
    "bits": ("images", with_column("clean_right", cell(3, b"\0\1\0\4")), "clean_right must be where clean_class is"),
    "bits beyond": (
        "images",
        with_column("adversarial_right", lambda values: cell(3, values[3][:3] + bytes([values[3][3] | 1]))(values)),
        "adversarial_right must be where",
    ),
    "order": ("images", lambda table: table.take(list(range(23, -1, -1))), "must be in the manifest's order"),
    "layer name": ("images", with_column("layer", cell(0, "other")), "layer of images.parquet must be in the"),
    "long name": ("images", with_column("layer", cell(0, "x" * 1001)), "layer must have at most 1000 characters"),
    "draw": ("images", with_column("draw", cell(0, 1)), "draw of images.parquet must be in the manifest's order"),
    "number": ("images", with_column("num_images", cell(0, 31)), "num_images of images.parquet must be in the"),
    "kept": ("images", with_column("num_kept", cell(0, 10**6)), "num_kept of conv must be 0 to 18"),
    "kept below": ("images", with_column("num_kept", cell(0, -1)), "num_kept of conv must be 0 to 18"),
    "live kept": ("images", with_column("num_live_kept", cell(3, 1)), "num_live_kept of conv must be 0 to num_kept"),
    "a column more": ("images", lambda table: table.append_column("x", table["draw"]), "must have the columns"),
    "a column less": ("images", lambda table: table.drop_columns("draw"), "must have the columns"),
    "another type": (
        "images",
        lambda table: table.cast(table.schema.set(2, pa.field("draw", pa.int32(), nullable=False))),
        "must have the columns",
    ),
    "nulls": (
        "images",
        lambda table: table.cast(table.schema.set(2, pa.field("draw", pa.int64()))),
        "must have the columns",
    ),
    "thresholds": (
        "layers",
        with_column("thresholds", cell(0, "[2.0, 1.0, 3.0, 4.0]")),
        "thresholds of conv must ascend",
    ),
    "few thresholds": ("layers", with_column("thresholds", cell(0, "[1.0]")), "thresholds of conv must be 4, got 1"),
    "NaN": ("layers", with_column("thresholds", cell(0, "[NaN, 1, 2, 3]")), "numbers must be finite, got NaN"),
    "infinite": ("layers", with_column("thresholds", cell(0, "[0, 1, 2, 1e999]")), "numbers must be finite"),
    "text": ("layers", with_column("thresholds", cell(0, '["a"]')), "thresholds of conv[0] must be a number"),
    "deep": ("layers", with_column("thresholds", cell(0, "[" * 9999)), "thresholds of conv is no JSON"),
    "long": ("layers", with_column("thresholds", cell(0, " " * 40_001)), "thresholds must have at most 40000 char"),
    "histogram": (
        "layers",
        with_column("histogram", cell(0, json.dumps([1] * 200))),
        "histogram of conv must add up to 18",
    ),
    "bins": ("layers", with_column("histogram", cell(0, json.dumps([0] * 1001))), "must have at most 1000 bins"),
    "edges": (
        "layers",
        with_column("histogram_edges", cell(0, "[1, 2]")),
        "histogram_edges of conv must be 201, got 2",
    ),
    "edges fall": (
        "layers",
        with_column("histogram_edges", cell(0, json.dumps(list(range(201, 0, -1))))),
        "histogram_edges of conv must ascend",
    ),
    "layer order": ("layers", lambda table: table.take([1, 0]), "layers.parquet must list the manifest's layers"),
    "depth": ("layers", with_column("relative_depth", cell(0, 1.5)), "relative_depth of conv must lie in [0, 1]"),
    "NaN depth": ("layers", with_column("relative_depth", cell(0, float("nan"))), "relative_depth of conv must lie"),
    "weights": ("layers", with_column("num_weights", cell(0, 0)), "num_weights of conv must be at least 1, got 0"),
    "live": ("layers", with_column("num_live", cell(0, 19)), "num_live of conv must be 0 to 18, got 19"),
    "kind": ("layers", with_column("kind", cell(0, "\x07")), "kind must be text without control characters"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_table_that_cannot_be_is_refused(zips: dict[str, bytes], name: str) -> None:
    table, change, reason = BAD_TABLES[name]
    assert reason in refusal(lambda: read_zip(forged(zips["small"], f"{table}.parquet", change)))


def test_invalid_text_in_a_table_is_refused(zips: dict[str, bytes]) -> None:
    files = files_of(zips["small"])
    content = files["images.parquet"]
    assert content.count(b"conv") > 0
    found = refusal(lambda: read_zip(signed(files | {"images.parquet": content.replace(b"conv", b"c\xff\xfev")})))
    assert "images.parquet is damaged" in found


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no table at all" * 9, b"PAR1" + b"\xff" * 100 + b"PAR1"])
def test_a_table_that_is_no_parquet_is_refused(zips: dict[str, bytes], content: bytes) -> None:
    found = refusal(lambda: read_zip(signed(files_of(zips["small"]) | {"layers.parquet": content})))
    assert "layers.parquet" in found


def test_to_read_an_export_imports_neither_pandas_nor_what_pyarrow_computes_with(
    zips: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "small.zip"
    path.write_bytes(zips["small"])
    code = (
        "import sys\nfrom pathlib import Path\nfrom fss_core.imports import read_zip\n"
        "print(read_zip(Path(sys.argv[1])).responses.num_images)\n"
        "print(*{'pandas', 'torch', 'pyarrow', 'pyarrow.compute'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    number, *imported = done.stdout.split()
    assert int(number) > 0
    assert imported == ["pyarrow"]


BOUND = 2**24
"""What tables may unpack to in the tests below."""


def peak_of(content: bytes, path: Path) -> tuple[int, str]:
    """Read a ZIP in a process of its own: the most bytes pyarrow held at once, and why the ZIP was refused."""
    path.write_bytes(content)
    code = (
        "import sys\nfrom pathlib import Path\nimport pyarrow\nfrom fss_core import imports\n"
        f"imports.bounds.LARGEST_CONTENT = {BOUND}\n"
        "try:\n    imports.read_zip(Path(sys.argv[1]))\nexcept imports.StoreError as error:\n    print(error)\n"
        "print(pyarrow.default_memory_pool().max_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    reason, peak = done.stdout.splitlines()
    return int(peak), reason


def rewritten(files: dict[str, bytes], name: str, change: Callable[[pa.Table], pa.Table], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(change(pq.read_table(io.BytesIO(files[name]))), sink, compression="zstd", **options)
    content = sink.getvalue()
    assert len(content) < 2**18
    return signed(files | {name: content})


def test_a_small_table_of_many_lines_is_not_unpacked(zips: dict[str, bytes], tmp_path: Path) -> None:
    many = np.zeros(3_000_000, dtype=np.int64)
    bomb = rewritten(files_of(zips["small"]), "images.parquet", lambda table: table.take(many))
    peak, reason = peak_of(bomb, tmp_path / "bomb.zip")
    assert "images.parquet must have 24 lines, got 3000000" in reason
    assert peak < 4 * BOUND


def test_a_long_text_that_is_repeated_is_there_once(zips: dict[str, bytes], tmp_path: Path) -> None:
    long = with_column("filter", lambda values: values.__setitem__(slice(None), "x" * 2**23))
    bomb = rewritten(files_of(zips["small"]), "images.parquet", long, dictionary_pagesize_limit=2**24)
    peak, reason = peak_of(bomb, tmp_path / "bomb.zip")
    assert "filter must have at most 1000 characters, got 8388608" in reason
    assert peak < 4 * BOUND


def test_a_page_is_not_unpacked_to_more_than_may_be_there(zips: dict[str, bytes], tmp_path: Path) -> None:
    long = with_column("kind", cell(0, "x" * 2**27))
    bomb = rewritten(files_of(zips["small"]), "layers.parquet", long, use_dictionary=False, write_statistics=False)
    peak, reason = peak_of(bomb, tmp_path / "bomb.zip")
    assert "layers.parquet must have at most 16,777,216 bytes unpacked, got 1342" in reason
    assert peak < 4 * BOUND


@pytest.mark.parametrize(("there", "said"), [(30, 31), (29, 30)])
def test_lines_are_counted_as_they_are_read(zips: dict[str, bytes], there: int, said: int) -> None:
    """A footer that says another number than there is, in any one place, is refused or of no effect."""
    files = files_of(zips["small"])
    sink = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(files["unfiltered.parquet"])).slice(0, there), sink, write_statistics=False)
    content = sink.getvalue()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    reasons = set()
    for place in range(footer, len(content)):
        if content[place] != 2 * there:
            continue
        changed = signed(files | {"unfiltered.parquet": content[:place] + bytes([2 * said]) + content[place + 1 :]})
        if there == 30 and outcome(lambda changed=changed: read_zip(changed)) is not None:
            assert_equal(read_zip(changed), read_zip(zips["small"]))
        else:
            reasons.add(refusal(lambda changed=changed: read_zip(changed)))
    wrong = said if there == 30 else there
    assert any(f"unfiltered.parquet must have 30 lines, got {wrong}" in reason for reason in reasons)


def test_a_page_counts_as_it_says_of_itself(zips: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """What pages say of their size is what pyarrow finds, summed over columns."""
    content = files_of(zips["complete"])["images.parquet"]
    metadata = pq.ParquetFile(io.BytesIO(content)).metadata
    columns = [metadata.row_group(0).column(index) for index in range(metadata.num_columns)]
    headers = sum(column.total_uncompressed_size for column in columns) - sum(parquet.page_bytes(content, metadata))
    assert 0 < headers < 100 * len(columns)
    monkeypatch.setattr(bounds, "MOST_PAGES", 3)
    assert "more than 3" in refusal(lambda: read_zip(zips["complete"]))


def test_a_footer_too_large_is_not_parsed(zips: dict[str, bytes]) -> None:
    files = files_of(zips["small"])
    content = bytes(2**21) + struct.pack("<I", 2**20 + 1) + b"PAR1"
    found = refusal(lambda: read_zip(signed(files | {"layers.parquet": content})))
    assert "the footer of layers.parquet must have at most 1,048,576 bytes, got 1048577" in found


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_byte_is_flipped(zips: dict[str, bytes], data: st.DataObject) -> None:
    content = bytearray(zips["adaptive"])
    # The directory and the headers are a small part of a file, and the most interesting one.
    ends = st.integers(len(content) - 600, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.one_of(st.integers(0, len(content) - 1), ends))
        content[place] ^= data.draw(st.integers(1, 255))
    found = outcome(lambda: read_zip(bytes(content)))
    if found is not None:
        assert_equal(found, read_zip(zips["adaptive"]))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_byte_of_a_vouched_table_is_flipped(zips: dict[str, bytes], data: st.DataObject) -> None:
    """Whoever can sign can change numbers, but never make anything else of them than numbers or one line."""
    files = files_of(zips["adaptive"])
    name = data.draw(st.sampled_from(READ_BACK))
    content = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    found = outcome(lambda: read_zip(signed(files | {name: bytes(content)})))
    if found is not None:
        assert score_responses(found.responses).rows


@settings(max_examples=200, deadline=None)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    ),
    data=st.data(),
)
def test_whatever_a_manifest_says(zips: dict[str, bytes], value: Any, data: st.DataObject) -> None:
    files = files_of(zips["small"])
    manifest = json.loads(files["manifest.json"])
    parent, key = manifest, data.draw(st.sampled_from(sorted(manifest)))
    while isinstance(parent[key], dict) and parent[key] and data.draw(st.booleans()):
        parent = parent[key]
        key = data.draw(st.sampled_from(sorted(parent)))
    parent[key] = value
    found = outcome(lambda: read_zip(zip_of(files | {"manifest.json": json.dumps(manifest).encode()})))
    if found is not None:
        assert_equal(found.responses.layers, read_zip(zips["small"]).responses.layers)


# Directories ----------------------------------------------------------------------------------------------


def test_a_directory_is_read_whatever_else_is_there(measurements: dict[str, Measured], tmp_path: Path) -> None:
    measured = measurements["small"]
    export_measured(measured, score_responses(measured.responses), tmp_path)
    (tmp_path / "mine.txt").write_text("kept")
    (tmp_path / "scores.csv").unlink()
    assert_came_back(read_export(tmp_path, origin="published"), measured, tmp_path, "published")
    (tmp_path / "scores.parquet").write_bytes(b"other")
    assert "scores.parquet must have the SHA-256" in refusal(lambda: read_export(tmp_path))
    (tmp_path / "scores.parquet").unlink()
    assert "cannot be read (No such file" in refusal(lambda: read_export(tmp_path))


def test_tables_for_readers_alone_cannot_be_read_back(measurements: dict[str, Measured], tmp_path: Path) -> None:
    measured = measurements["small"]
    export_measured(measured, score_responses(measured.responses), tmp_path, formats=("csv",))
    assert "must be there (an export with --format parquet or both)" in refusal(lambda: read_export(tmp_path))


def compact(measured: Measured, directory: Path) -> Path:
    export_measured(measured, score_responses(measured.responses), directory, compact=True)
    return directory


@pytest.mark.parametrize("kind", ["complete", "missing", "adaptive", "global"])
def test_a_compact_export_has_bits_only_and_gives_the_same_scores(
    measurements: dict[str, Measured], kind: str, tmp_path: Path
) -> None:
    measured = measurements[kind]
    found = read_export(compact(measured, tmp_path), origin="published")
    assert {path.name for path in tmp_path.iterdir()} == {*READ_BACK, "manifest.json"}
    assert not {"clean_class", "adversarial_class"} & set(pq.read_table(tmp_path / "images.parquet").column_names)
    assert not found.responses.classes_known
    labels, most = measured.responses.labels, measured.responses.num_classes
    for own, other in zip(found.responses.layers, measured.responses.layers, strict=True):
        assert_equal(own.facts, other.facts)
        for side in ("clean", "adversarial"):
            mine, theirs = getattr(own.predictions, side), getattr(other.predictions, side)
            np.testing.assert_array_equal(mine, np.where(theirs == labels, theirs, most))
    assert_equal(found.responses.unfiltered, measured.responses.unfiltered)
    assert score_responses(found.responses).rows == score_responses(measured.responses).rows
    layer = found.responses.layers[0].facts.name
    few, all_ = (changed_images(own.responses, layer, "pulse", 1) for own in (found, measured))
    assert (few.clean.lost, few.clean.gained) == (all_.clean.lost, all_.clean.gained)
    assert few.clean.otherwise is None
    assert "otherwise" not in images_alt(few)
    # Passed on, it says again that it has no more.
    again = read_zip(zipped(found))
    assert_equal(again.responses.layers, found.responses.layers)
    assert not again.responses.classes_known


def test_a_compact_export_is_checked(measurements: dict[str, Measured], tmp_path: Path) -> None:
    compact(measurements["small"], tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"predictions": "classes"}), "utf-8")
    assert "responses.parquet must be there" in refusal(lambda: read_export(tmp_path))
    table = pq.read_table(tmp_path / "images.parquet")
    bits = [own[:-1] + bytes([own[-1] | 1]) for own in table["clean_right"].to_pylist()]
    index = table.schema.get_field_index("clean_right")
    table = table.set_column(index, table.schema.field(index), pa.array(bits, table.schema.field(index).type))
    pq.write_table(table, tmp_path / "images.parquet")
    manifest["files"]["images.parquet"] = hashlib.sha256((tmp_path / "images.parquet").read_bytes()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    assert "clean_right must end in zeros" in refusal(lambda: read_export(tmp_path))


def test_the_epsilon_of_another_epoch_comes_with_its_curve(measurements: dict[str, Measured], tmp_path: Path) -> None:
    complete, given = measurements["complete"], measurements["missing"]
    assert complete.calibration is not None
    calibration = replace(complete.calibration, epsilon=0.2)
    studied = replace(given, calibration=calibration, calibrated_on="at epoch 9")
    compact(studied, tmp_path / "studied")
    collection = Collection(root=tmp_path, origin="published")
    found = collection.find(replace(SPEC, epsilon=None))
    assert found is not None
    assert (found.calibration, found.calibrated_on) == (calibration, "at epoch 9")
    assert describe_epsilon(found).endswith("images, at epoch 9")
    found = collection.find(replace(SPEC, epsilon=0.2))
    assert found is not None
    assert (found.calibration, found.calibrated_on) == (None, "")
    assert collection.find(replace(SPEC, epsilon=0.3)) is None
    compact(complete, tmp_path / "own")  # calibrated on the network itself: that comes first
    found = collection.find(replace(SPEC, epsilon=None))
    assert found is not None
    assert (found.checkpoint.path.name, found.calibrated_on) == ("own", "")
    compact(replace(studied, calibration=None), tmp_path / "studied")
    assert "calibrated_on must come with measurement.epsilon" in refusal(lambda: read_export(tmp_path / "studied"))


# Collections ----------------------------------------------------------------------------------------------


def test_an_import_is_kept_listed_found_and_deleted(
    measurements: dict[str, Measured], zips: dict[str, bytes], cache: Path
) -> None:
    measured = measurements["complete"]
    assert list_imported() == []
    assert find_imported(SPEC) is None
    path = cache / "imported" / f"{measured.key}.zip"
    assert_came_back(import_zip(zips["complete"]), measured, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.read_bytes() == zips["complete"]
    assert [own.name for own in path.parent.iterdir()] == [path.name]
    (entry,) = list_imported()
    assert isinstance(entry, Entry)
    assert (entry.path, entry.num_bytes) == (path, len(zips["complete"]))
    assert entry.manifest.measurement == SPEC
    found = find_imported(SPEC)
    assert found is not None
    assert_came_back(found, measured, path)
    assert not delete_imported("../" + measured.key)
    assert delete_imported(measured.key)
    assert not delete_imported(measured.key)
    assert list_imported() == []


def test_a_directory_open_to_others_is_closed(zips: dict[str, bytes], cache: Path) -> None:
    (cache / "imported").mkdir(parents=True)
    (cache / "imported").chmod(0o755)
    import_zip(zips["small"])
    assert stat.S_IMODE((cache / "imported").stat().st_mode) == 0o700


def part_of(measured: Measured, *, num_images: int | None = None, layers: int = 2) -> Measured:
    """The first images and layers of a measurement, as if no more had been measured."""
    own = measured.responses
    count = num_images or own.num_images
    responses = replace(
        own,
        labels=own.labels[:count],
        unfiltered=own.unfiltered.images(0, count),
        layers=tuple(replace(layer, predictions=layer.predictions.images(0, count)) for layer in own.layers[:layers]),
    )
    missing = tuple(layer.facts.name for layer in own.layers[layers:])
    return replace(measured, spec=replace(measured.spec, num_images=count), responses=responses, missing=missing)


def test_more_replaces_less_and_never_the_reverse(measurements: dict[str, Measured], cache: Path) -> None:
    whole = measurements["complete"]
    path = cache / "imported" / f"{whole.key}.zip"
    fewer_images, fewer_layers = part_of(whole, num_images=50), part_of(whole, layers=1)
    import_zip(zipped(fewer_images))
    assert "lacks 1 of 2 layers of what was imported" in refusal(lambda: import_zip(zipped(fewer_layers)))
    assert_came_back(import_zip(zipped(whole)), whole, path)
    content = path.read_bytes()
    later = signed(files_of(content), set_at("written", "another day"))
    assert_came_back(import_zip(later), whole, path)
    assert path.read_bytes() == content
    for less, reason in ((fewer_images, "57 of 107 images"), (fewer_layers, "1 of 2 layers")):
        found = refusal(lambda less=less: import_zip(zipped(less)))
        assert f"lacks {reason} of what was imported of {whole.key[:12]} before; delete that first" in found
    assert path.read_bytes() == content


def test_fewer_filters_are_less(measurements: dict[str, Measured], zips: dict[str, bytes], cache: Path) -> None:
    whole = import_zip(zips["complete"])
    narrow = find_imported(replace(SPEC, response=replace(SPEC.response, filters=("pulse",))))
    assert narrow is not None
    assert narrow.key == whole.key
    assert "lacks 3 of 4 filters" in refusal(lambda: import_zip(zipped(narrow)))


def test_what_is_broken_is_listed_and_replaced(
    zips: dict[str, bytes], measurements: dict[str, Measured], cache: Path
) -> None:
    key = import_zip(zips["small"]).key
    path = cache / "imported" / f"{key}.zip"
    (path.parent / "stale.zip").write_bytes(signed(files_of(zips["small"]), set_at("schema", 99)))
    path.write_bytes(zips["small"][:-9])
    broken = list_imported()
    assert [type(entry) for entry in broken] == [BrokenEntry, BrokenEntry]
    assert isinstance(broken[0], BrokenEntry)
    assert isinstance(broken[1], BrokenEntry)
    assert "must end with its directory" in broken[0].reason
    assert "has schema 99, this version reads 1" in broken[1].reason
    assert find_imported(SMALL) is None
    import_zip(zips["small"])
    assert path.read_bytes() == zips["small"]
    assert delete_imported("stale")
    damaged = bytearray(zips["small"])
    damaged[damaged.index(b"images.parquetPAR1") + 200] ^= 1
    path.write_bytes(damaged)
    assert [type(entry) for entry in list_imported()] == [Entry]
    assert "damaged" in refusal(lambda: find_imported(SMALL))
    import_zip(zips["small"])
    assert path.read_bytes() == zips["small"]


def test_what_is_unsound_is_not_kept(zips: dict[str, bytes], cache: Path) -> None:
    refusal(lambda: import_zip(zips["small"][:-1]))
    assert not (cache / "imported").exists()


def test_a_cache_that_cannot_be_written_is_one_line(zips: dict[str, bytes], cache: Path) -> None:
    cache.write_text("in the way")
    assert "cannot be written" in refusal(lambda: import_zip(zips["small"]))


def test_listing_reads_manifests_alone(zips: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_zip(zips["complete"])
    read = []
    member = imports.zip_member

    def noted(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
        read.append(name)
        return member(archive, name, most)

    monkeypatch.setattr(imports, "zip_member", noted)
    assert len(list_imported()) == 1
    assert read == ["manifest.json"]


def test_what_is_found_is_what_would_be_measured(
    measurements: dict[str, Measured], zips: dict[str, bytes], cache: Path
) -> None:
    """As from the store: the filters asked for in their order, the first images, or all there are."""
    import_zip(zips["complete"])
    whole = measurements["complete"].responses
    found = find_imported(replace(SPEC, num_images=20, response=replace(SPEC.response, filters=("random", "pulse"))))
    assert found is not None
    assert found.spec.num_images == found.responses.num_images == 20
    assert [row.filter for row in found.responses.rows] == ["random"] * 3 + ["pulse"]
    for layer, other in zip(found.responses.layers, whole.layers, strict=True):
        np.testing.assert_array_equal(layer.predictions.clean, other.predictions.clean[[3, 4, 5, 2], :, :20])
        np.testing.assert_array_equal(layer.facts.num_kept, other.facts.num_kept[[3, 4, 5, 2]])
    np.testing.assert_array_equal(found.responses.labels, whole.labels[:20])
    for spec, every in ((replace(SPEC, num_images=120), False), (replace(SPEC, num_images=20), True)):
        more = find_imported(spec, every_image=every)
        assert more is not None
        assert_equal(more.responses, whole)
        assert more.spec == SPEC


OTHER_SPECS = {
    "seed": replace(SPEC, training=replace(SPEC.training, seed=1)),
    "epoch": replace(SPEC, epoch=4),
    "attack": replace(SPEC, attack_kind="pgd"),
    "mode": replace(SPEC, attack_mode="adaptive"),
    "steps": replace(SPEC, attack_steps=11),
    "ε": replace(SPEC, epsilon=0.5),
    "thresholds": replace(SPEC, response=replace(SPEC.response, num_thresholds=5)),
    "scope": replace(SPEC, response=replace(SPEC.response, scope="global")),
    "engine": replace(SPEC, response=replace(SPEC.response, engine="reference")),
    "device": replace(SPEC, device="cuda"),
}


@pytest.mark.parametrize("name", OTHER_SPECS)
def test_another_measurement_is_not_found(zips: dict[str, bytes], cache: Path, name: str) -> None:
    import_zip(zips["complete"])
    assert find_imported(OTHER_SPECS[name]) is None


def test_one_ε_however_it_was_chosen(measurements: dict[str, Measured], zips: dict[str, bytes], cache: Path) -> None:
    """As in the store: a given ε finds what was calibrated to it, but no calibrated one is made of a given one."""
    import_zip(zips["complete"])
    calibration = measurements["complete"].calibration
    assert calibration is not None
    found = find_imported(replace(SPEC, epsilon=calibration.epsilon, attack_kind="FGSM", device="cpu:0"))
    assert found is not None
    assert found.calibration is None
    delete_imported(found.key)
    import_zip(zips["small"])
    assert find_imported(SMALL) is not None
    assert find_imported(replace(SMALL, epsilon=None)) is None
    assert find_imported(replace(SMALL, response=SPEC.response)) is None


def test_an_attack_however_it_is_spelt(measurements: dict[str, Measured], cache: Path) -> None:
    measured = measurements["small"]
    import_zip(zipped(replace(measured, spec=replace(SMALL, attack_kind="FGSM"))))
    assert find_imported(SMALL) is not None
    assert find_imported(replace(SMALL, attack_kind="Fgsm")) is not None


def test_the_most_complete_of_several_is_found(measurements: dict[str, Measured], tmp_path: Path) -> None:
    whole = measurements["complete"]
    parts = {
        "a": part_of(whole, layers=1),
        "b": part_of(whole, num_images=50),
        "c": whole,
        "d": part_of(whole, num_images=40),
    }
    for name, own in parts.items():
        export_measured(own, score_responses(own.responses), tmp_path / "study" / name, formats=("parquet",))
    (tmp_path / "study.zip").write_bytes(zipped(parts["d"]))
    collection = Collection(root=tmp_path, origin="published")
    assert len(collection.entries()) == 5
    for num_images, name in ((107, "c"), (45, "c"), (120, "c")):
        found = collection.find(replace(SPEC, num_images=num_images))
        assert found is not None
        assert found.origin == "published"
        assert found.checkpoint.path == tmp_path / "study" / name
    shutil.rmtree(tmp_path / "study" / "c")
    found = collection.find(SPEC)
    assert found is not None
    assert (found.responses.num_images, found.missing) == (107, ("fc",))
    found = collection.find(replace(SPEC, num_images=45))
    assert found is not None
    assert (found.checkpoint.path.name, found.responses.num_images, found.missing) == ("b", 45, ())
