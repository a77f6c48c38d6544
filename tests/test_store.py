from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import pickle
import resource
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import diskcache
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fss_core.specs import StaleResultError, StoreError
from fss_core.store import SCHEMA, Store, entries, leases
from fss_core.store.entries import BytesDisk, decode, encode

spawn = multiprocessing.get_context("spawn")

SMALL = {"bits": np.array([[True, False], [False, True]]), "thresholds": np.linspace(-1, 1, 5)}
LARGE = {"classes": np.arange(100_000, dtype=np.uint16)}

READS: dict[str, Callable[[Store], object]] = {
    "get": lambda store: store.get("a/1"),
    "keys": lambda store: store.keys(),
    "num_bytes": lambda store: store.num_bytes(),
    "delete_prefix": lambda store: store.delete_prefix("a/"),
    "delete": lambda store: store.delete("a/1"),
    "put": lambda store: store.put("a/1", SMALL, meta={}),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def execute(path: Path, statement: str, *values: object) -> int:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, values).rowcount


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


# Entries --------------------------------------------------------------------------------------------------

dtypes = st.sampled_from(entries.DTYPES)
arrays = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=8),
    dtypes.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))),
    max_size=4,
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)
metas = st.dictionaries(st.text(st.characters(codec="utf-8")), json_values, max_size=4)


@given(arrays, metas)
def test_an_entry_gives_back_what_it_was_made_of(arrays: dict[str, Any], meta: dict[str, object]) -> None:
    stored = decode("k", encode(arrays, meta))
    assert same(stored.arrays, arrays)
    assert stored.meta == meta


@given(arrays, metas)
def test_equal_input_gives_equal_bytes(arrays: dict[str, Any], meta: dict[str, object]) -> None:
    backwards = dict(reversed(arrays.items())), dict(reversed(meta.items()))
    assert encode(arrays, meta) == encode(*backwards)


@pytest.mark.parametrize("view", [lambda a: a.T, lambda a: a[:, ::2], lambda a: a[::-1], lambda a: a.astype(">i8")])
def test_strides_and_byte_order_do_not_matter(view: Callable[[Any], Any]) -> None:
    array = np.arange(12).reshape(3, 4)
    expected = view(array).tolist()
    stored = decode("k", encode({"x": view(array)}, {})).arrays["x"]
    assert stored.tolist() == expected
    assert stored.dtype == np.dtype("<i8")
    assert array.tolist() == np.arange(12).reshape(3, 4).tolist()


GOLDEN = (
    "4653535201000000097cbc92788659329c58ef7f855f40ea8f4c5fd87a44d05061e8a9f3454b6547"
    "60000000000000007b225f5f6d657461646174615f5f223a7b226a736f6e223a227b5c226e5c223a"
    "337d227d2c2278223a7b226474797065223a225538222c227368617065223a5b335d2c2264617461"
    "5f6f666673657473223a5b302c335d7d7d20202020202020010203"
)


def test_golden_entry() -> None:
    stored = decode("k", bytes.fromhex(GOLDEN))
    assert stored.arrays["x"].tolist() == [1, 2, 3]
    assert stored.arrays["x"].dtype == np.uint8
    assert stored.meta == {"n": 3}
    assert encode({"x": np.array([1, 2, 3], dtype=np.uint8)}, {"n": 3}).hex() == GOLDEN


def test_an_entry_starts_with_magic_schema_and_checksum() -> None:
    entry = encode(SMALL, {})
    assert entry[:4] == b"FSSR"
    assert int.from_bytes(entry[4:8], "little") == SCHEMA == 1
    assert entry[8:40] == hashlib.sha256(entry[40:]).digest()


def test_every_truncation_and_every_altered_byte_is_noticed() -> None:
    entry = encode({"x": np.array([1, 2, 3], dtype=np.uint8)}, {"n": 3})
    for size in range(len(entry)):
        with pytest.raises(StoreError):
            decode("k", entry[:size])
    for position in range(len(entry)):
        altered = bytearray(entry)
        altered[position] ^= 1
        with pytest.raises(StoreError):
            decode("k", bytes(altered))
    with pytest.raises(StoreError):
        decode("k", entry + b"\0")


@pytest.mark.parametrize(
    "payload", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}", b"\x10\0\0\0\0\0\0\0" + b'{"__metadata__":', b"hello"]
)
def test_a_payload_with_a_right_checksum_that_is_no_safetensors_is_refused(payload: bytes) -> None:
    entry = b"FSSR" + SCHEMA.to_bytes(4, "little") + hashlib.sha256(payload).digest() + payload
    with pytest.raises(StoreError, match=r"result k is damaged .*--refresh"):
        decode("k", entry)


@pytest.mark.parametrize("dtype", [object, "float16", "int32", "complex128", "U3", "datetime64[s]"])
def test_other_types_are_refused(dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"array 'x' must be one of bool, uint8.*got"):
        encode({"x": np.zeros(2, dtype=dtype)}, {})


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(ValueError, match="__metadata__"):
        encode({"__metadata__": np.zeros(2)}, {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode({}, {"epsilon": float("nan")})
    with pytest.raises(TypeError, match="no place"):
        encode({}, {"x": object()})


# Reading and writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrays", [SMALL, LARGE, {}], ids=["row", "file", "empty"])
def test_another_store_on_the_directory_reads_what_was_put(store: Store, arrays: dict[str, Any]) -> None:
    assert store.get("a/1") is None
    store.put("a/1", arrays, meta={"layer": "conv1", "shape": (3, None)})
    with Store(store.directory) as other:
        stored = other.get("a/1")
    assert stored is not None
    assert same(stored.arrays, arrays)
    assert stored.meta == {"layer": "conv1", "shape": [3, None]}
    files = list(store.directory.rglob("*.val"))
    assert len(files) == (1 if arrays is LARGE else 0)


def test_what_is_read_is_a_copy(store: Store) -> None:
    store.put("k", SMALL, meta={})
    first = store.get("k")
    assert first is not None
    first.arrays["thresholds"][:] = 0
    second = store.get("k")
    assert second is not None
    assert same(second.arrays, SMALL)


def test_put_replaces_and_delete_forgets(store: Store) -> None:
    store.put("k", LARGE, meta={})
    store.put("k", SMALL, meta={"n": 2})
    stored = store.get("k")
    assert stored is not None
    assert stored.meta == {"n": 2}
    assert list(store.directory.rglob("*.val")) == []
    assert store.delete("k") is True
    assert store.delete("k") is False
    assert store.get("k") is None


@pytest.mark.parametrize("key", ["", "a\nb", "a\0b", "\U0010ffff", "\ud800"])
def test_unprintable_keys_are_refused(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="printable"):
        store.put(key, SMALL, meta={})
    with pytest.raises(ValueError, match="printable"):
        store.claim(key)
    with pytest.raises(ValueError, match="printable"):
        store.record(key, {})


def test_another_schema_is_stale_and_can_be_replaced(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "responses/3f2a9c0123456789abcdef/conv1"
    with monkeypatch.context() as patch:
        patch.setattr(entries, "SCHEMA", 2)
        store.put(key, SMALL, meta={})
    with pytest.raises(StaleResultError) as caught:
        store.get(key)
    assert str(caught.value) == (
        "result responses/3f2a9c/conv1 has schema 2, this version reads 1; run again with --refresh"
    )
    store.put(key, SMALL, meta={})
    assert store.get(key) is not None


def test_a_file_that_is_gone_counts_as_absent(store: Store) -> None:
    store.put("k", LARGE, meta={})
    next(store.directory.rglob("*.val")).unlink()
    assert store.get("k") is None
    store.put("k", LARGE, meta={})
    assert store.get("k") is not None


def test_a_truncated_file_is_noticed(store: Store) -> None:
    store.put("k", LARGE, meta={})
    file = next(store.directory.rglob("*.val"))
    os.truncate(file, 1000)
    with pytest.raises(
        StoreError, match=r"^result k is damaged \(its checksum does not match\); run again with --refresh$"
    ):
        store.get("k")


def test_nothing_is_dropped_to_make_room(store: Store) -> None:
    store.keys()
    for name, value in (("eviction_policy", "least-recently-stored"), ("size_limit", 1), ("cull_limit", 10)):
        assert execute(store.directory / "cache.db", "UPDATE Settings SET value = ? WHERE key = ?", value, name) == 1
    with Store(store.directory) as again:
        for number in range(30):
            again.put(f"k/{number}", LARGE, meta={})
        assert len(again.keys()) == 30


# Prefixes -------------------------------------------------------------------------------------------------


def test_prefixes(store: Store) -> None:
    names = [
        "a/1",
        "a/10",
        "a/2",
        "A/1",
        "a",
        "ab",
        "a_1",
        "a%1",
        "a*",
        "é/1",
        "a/\U0001f9e0",
        "(all layers)",
    ]
    for name in names:
        store.put(name, SMALL, meta={})
    for prefix in ["", "a", "a/", "a/1", "A", "a_", "a%", "a*", "é", "(all", "z", "a/\U0001f9e0"]:
        assert store.keys(prefix) == sorted(name for name in names if name.startswith(prefix)), prefix
    assert store.delete_prefix("a/") == 4
    assert store.delete_prefix("a/") == 0
    assert store.keys() == sorted(name for name in names if not name.startswith("a/"))
    assert store.delete_prefix("") == len(names) - 4
    assert store.keys() == []


def test_num_bytes_counts_rows_and_files(store: Store) -> None:
    assert store.num_bytes() == 0
    store.put("a/1", SMALL, meta={})
    store.put("a/2", LARGE, meta={})
    store.put("b/1", LARGE, meta={})
    small, large = len(encode(SMALL, {})), len(encode(LARGE, {}))
    assert store.num_bytes("a/1") == small
    assert store.num_bytes("a/") == small + large
    assert store.num_bytes() == small + 2 * large


# Tampering ------------------------------------------------------------------------------------------------


class Bomb:
    """What a pickle can do: make a directory when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def plant_value(store: Store, bomb: bytes) -> None:
    statement = "UPDATE Cache SET mode = ?, value = ?, filename = NULL WHERE key = 'a/1'"
    assert execute(store.directory / "cache.db", statement, diskcache.core.MODE_PICKLE, bomb) == 1


def plant_file(store: Store, bomb: bytes) -> None:
    file = next(store.directory.rglob("*.val"))
    file.write_bytes(bomb)
    statement = "UPDATE Cache SET mode = ? WHERE key = 'a/1'"
    assert execute(store.directory / "cache.db", statement, diskcache.core.MODE_PICKLE) == 1


def plant_key(store: Store, bomb: bytes) -> None:
    assert execute(store.directory / "cache.db", "UPDATE Cache SET key = ?, raw = 0 WHERE key = 'a/1'", bomb) == 1


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("plant", [plant_value, plant_file, plant_key])
def test_a_planted_pickle_is_never_run(
    store: Store, tmp_path: Path, plant: Callable[[Store, bytes], None], read: str
) -> None:
    mark = tmp_path / "ran"
    store.put("a/1", LARGE, meta={})
    plant(store, pickle.dumps(Bomb(mark)))
    refuses = "keys" if plant is plant_key else "get"
    with Store(store.directory) as opened:
        if read == refuses:
            with pytest.raises(StoreError, match=r"^[^\n]*; (run again with --refresh|move the directory aside)$"):
                READS[read](opened)
        else:
            READS[read](opened)
    assert not mark.exists()


@pytest.mark.parametrize("plant", [plant_value, plant_file, plant_key])
def test_the_planted_pickle_would_run_in_a_plain_diskcache(
    store: Store, tmp_path: Path, plant: Callable[[Store, bytes], None]
) -> None:
    store.put("a/1", LARGE, meta={})
    plant(store, pickle.dumps(Bomb(tmp_path / "ran")))
    with closing(diskcache.Cache(str(store.directory))) as plain:
        for key in plain:
            plain.get(key)
    assert (tmp_path / "ran").exists()


def test_a_tampered_row_can_be_replaced_and_deleted(store: Store, tmp_path: Path) -> None:
    for remedy in (lambda: store.put("a/1", SMALL, meta={}), lambda: store.delete("a/1")):
        store.put("a/1", LARGE, meta={})
        plant_value(store, pickle.dumps(Bomb(tmp_path / "ran")))
        with pytest.raises(StoreError, match="a row that it did not write; run again with --refresh"):
            store.get("a/1")
        remedy()
        store.get("a/1")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("mode", "value"),
    [(0, None), (1, "text"), (1, 3), (1, None), (3, "text"), (4, b""), (7, b"x"), ("1", "x"), (None, b"x")],
)
def test_a_row_that_holds_no_bytes_is_refused(store: Store, mode: object, value: object) -> None:
    store.put("a/1", SMALL, meta={})
    execute(store.directory / "cache.db", "UPDATE Cache SET mode = ?, value = ?", mode, value)
    with pytest.raises(StoreError):
        store.get("a/1")


@pytest.mark.parametrize("shape", ["../../outside", "{outside}", "ab/../../../outside", "cache.db", "", 7])
def test_a_row_naming_a_file_elsewhere_is_refused_and_the_file_left_alone(
    store: Store, tmp_path: Path, shape: str | int
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(encode(SMALL, {}))
    filename = shape.format(outside=outside) if isinstance(shape, str) else shape
    for read in READS.values():
        store.put("a/1", SMALL, meta={})
        execute(
            store.directory / "cache.db",
            "UPDATE Cache SET mode = 2, value = NULL, filename = ? WHERE key = 'a/1'",
            filename,
        )
        if read is READS["get"]:
            with pytest.raises(StoreError, match="did not write"):
                read(store)
        else:
            read(store)
    assert outside.read_bytes() == encode(SMALL, {})
    assert (store.directory / "cache.db").is_file()


def test_settings_of_another_program_are_refused(store: Store) -> None:
    store.put("a/1", SMALL, meta={})
    execute(store.directory / "cache.db", "INSERT INTO Settings VALUES ('_directory', '/elsewhere')")
    with (
        Store(store.directory) as opened,
        pytest.raises(StoreError, match="foreign settings; move the directory aside"),
    ):
        opened.get("a/1")


def test_the_disk_knows_bytes_and_text_keys_only(tmp_path: Path) -> None:
    disk = BytesDisk(str(tmp_path), min_file_size=10)
    for value in ("text", 3, None, bytearray(b"x"), memoryview(b"x"), {"a": 1}):
        with pytest.raises(TypeError, match="must be bytes"):
            disk.store(value, False)
    with pytest.raises(TypeError, match="must be bytes"):
        disk.store(b"x", True)
    for key in (3, b"k", None, ("a",)):
        with pytest.raises(TypeError, match="must be a str"):
            disk.put(key)
    for key, raw in ((b"k", True), ("k", False), (3, True)):
        with pytest.raises(StoreError, match="not text"):
            disk.get(key, raw)


# What can go wrong on a disk ------------------------------------------------------------------------------

INDEX_USES: dict[str, Callable[[Store], object]] = {
    "claim": lambda store: store.claim("k").__enter__(),
    "record": lambda store: store.record("k", {}),
    "list_records": lambda store: store.list_records(),
    "delete_record": lambda store: store.delete_record("k"),
}
USES = [("cache.db", use) for use in READS.values()] + [("index.sqlite", use) for use in INDEX_USES.values()]
USE_NAMES = [*READS, *INDEX_USES]


@pytest.mark.parametrize(("name", "use"), USES, ids=USE_NAMES)
def test_a_damaged_database_is_reported_and_kept(store: Store, name: str, use: Callable[[Store], object]) -> None:
    garbage = b"this is no database" * 500
    (store.directory / name).write_bytes(garbage)
    remedy = "move the directory aside" if name == "cache.db" else "delete it, the results beside it stay"
    with pytest.raises(StoreError, match=remedy) as caught:
        use(store)
    assert str(store.directory) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (store.directory / name).read_bytes() == garbage


def test_a_database_damaged_in_the_middle_is_reported_and_kept(store: Store) -> None:
    for number in range(200):
        store.put(f"a/{number}", SMALL, meta={})
    store.close()
    path = store.directory / "cache.db"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="move the directory aside"):
        Store(store.directory).keys()
    assert path.stat().st_size == len(content)


@pytest.mark.parametrize(("name", "use"), USES, ids=USE_NAMES)
def test_a_database_that_cannot_be_opened_is_named(store: Store, name: str, use: Callable[[Store], object]) -> None:
    (store.directory / name).mkdir()
    with pytest.raises(
        StoreError, match=r"cannot be used \((unable to open database file|disk I/O error)\); "
    ) as caught:
        use(store)
    assert str(store.directory) in str(caught.value)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/results cannot be used \(Not a directory\)"):
        Store(tmp_path / "file" / "results")


@pytest.mark.parametrize("use", [*READS.values(), *INDEX_USES.values()], ids=USE_NAMES)
def test_a_read_only_directory_is_named(tmp_path: Path, use: Callable[[Store], object]) -> None:
    directory = tmp_path / "results"
    with Store(directory) as store:
        store.put("a/1", SMALL, meta={})
        store.record("k", {})
    for path in (directory / "cache.db", directory / "index.sqlite"):
        path.chmod(0o400)
    directory.chmod(0o500)
    if os.access(directory, os.W_OK):
        pytest.skip("permissions do not bind root")
    try:
        with pytest.raises(StoreError, match=r"make it writable|permissions") as caught:
            use(Store(directory))
    finally:
        directory.chmod(0o700)
    assert str(directory) in str(caught.value)


def put_until_full(directory: Path, size: int, answers: Any) -> None:
    store = Store(directory)
    store.put("kept", SMALL, meta={})
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
    try:
        for number in range(1000):
            store.put(f"k/{number}", {"x": np.zeros(size, dtype=np.uint8)}, meta={})
    except StoreError as error:
        answers.put((str(error), store.get("kept") is not None))


@pytest.mark.parametrize("size", [20_000, 600_000], ids=["row", "file"])
def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path, size: int) -> None:
    answers = spawn.Queue()
    process = spawn.Process(target=put_until_full, args=(tmp_path / "results", size, answers))
    process.start()
    message, kept = answers.get(timeout=30)
    process.join()
    assert f"the store at {tmp_path / 'results'} cannot be used" in message
    assert "\n" not in message
    assert kept
    store = Store(tmp_path / "results")
    assert all(store.get(key) is not None for key in store.keys())
    assert list(store.directory.rglob("*.val")) == []


def test_a_put_that_fails_half_way_leaves_the_old_entry_and_no_file(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("k", LARGE, meta={"version": 1})
    before = sorted(store.directory.rglob("*.val"))

    def write_half(self: BytesDisk, full_path: str, iterator: Any, mode: str) -> None:
        Path(full_path).parent.mkdir(parents=True)
        Path(full_path).write_bytes(b"".join(iterator)[:1000])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(BytesDisk, "_write", write_half)
    with pytest.raises(StoreError, match=r"No space left on device"):
        store.put("k", LARGE, meta={"version": 2})
    stored = store.get("k")
    assert stored is not None
    assert stored.meta == {"version": 1}
    assert sorted(store.directory.rglob("*.val")) == before


# Places ---------------------------------------------------------------------------------------------------


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_directory_is_private(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "results"
    Store(directory)
    assert mode_of(directory) == 0o700
    directory.chmod(0o755)
    Store(directory)
    assert mode_of(directory) == 0o700


def test_the_default_directory_is_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "cache"))
    assert Store().directory == tmp_path / "cache" / "results"
    assert mode_of(tmp_path / "cache" / "results") == 0o700


def test_a_relative_directory_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(Path("results"))
    monkeypatch.chdir("/")
    store.put("k", SMALL, meta={})
    assert (tmp_path / "results" / "cache.db").is_file()


def test_a_name_that_diskcache_would_expand_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELSEWHERE", "elsewhere")
    with pytest.raises(ValueError, match="environment variable"):
        Store(tmp_path / "$ELSEWHERE")


def test_torch_is_not_imported() -> None:
    code = "import sys, fss_core.store; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


# Concurrency ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 50_000], ids=["row", "file"])
def test_readers_see_one_whole_version_while_writers_replace_it(store: Store, size: int) -> None:
    def version(number: int) -> dict[str, Any]:
        return {"x": np.full(size, number, dtype=np.int64)}

    store.put("k", version(0), meta={"n": 0})
    done = threading.Event()
    faults: list[str] = []

    def read() -> None:
        while not done.is_set():
            stored = store.get("k")
            if stored is None or not (stored.arrays["x"] == stored.meta["n"]).all():
                faults.append(repr(stored))

    def write(first: int) -> None:
        for number in range(first, first + 60):
            store.put("k", version(number), meta={"n": number})

    readers = [threading.Thread(target=read) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(first,)) for first in (100, 200)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert faults == []


def put_many(directory: Path, name: str) -> None:
    with Store(directory) as store:
        for number in range(50):
            store.put(f"{name}/{number}", SMALL if number % 2 else LARGE, meta={"n": number})
            store.record(name, {"n": number})


def test_processes_share_a_directory_from_its_first_use_on(tmp_path: Path) -> None:
    processes = [spawn.Process(target=put_many, args=(tmp_path / "results", name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    store = Store(tmp_path / "results")
    assert len(store.keys("a/")) == len(store.keys("b/")) == 50
    assert all(store.get(key) is not None for key in store.keys())
    assert {record.key: record.spec for record in store.list_records()} == {"a": {"n": 49}, "b": {"n": 49}}


def put_for_ever(directory: Path, started: Any) -> None:
    store = Store(directory)
    for number in range(1_000_000):
        store.put("k", {"x": np.full(20_000, number, dtype=np.int64)}, meta={"n": number})
        started.set()


def test_a_killed_writer_leaves_a_whole_entry(tmp_path: Path) -> None:
    started = spawn.Event()
    process = spawn.Process(target=put_for_ever, args=(tmp_path / "results", started))
    process.start()
    assert started.wait(30)
    process.join(0.2)
    process.kill()
    process.join()
    store = Store(tmp_path / "results")
    stored = store.get("k")
    assert stored is not None
    assert (stored.arrays["x"] == stored.meta["n"]).all()
    store.put("k", SMALL, meta={})


# Catalogue and index --------------------------------------------------------------------------------------


def test_records(store: Store) -> None:
    assert store.list_records() == []
    store.record("one", {"network": "resnet18", "epochs": (1, 2)})
    store.record("two", {})
    store.record("one", {"network": "resnet50"})
    first, second = Store(store.directory).list_records()
    assert (first.key, first.spec) == ("one", {"network": "resnet50"})
    assert (second.key, second.spec) == ("two", {})
    assert first.created <= second.created <= first.updated
    assert second.created == second.updated
    assert store.delete_record("one") is True
    assert store.delete_record("one") is False
    assert [record.key for record in store.list_records()] == ["two"]


@pytest.mark.parametrize("spec", ["'{'", "'7'", "x'ff'", "CAST(x'7bff7d' AS TEXT)"])
def test_a_damaged_record_is_listed_as_such_beside_the_others(store: Store, spec: str) -> None:
    store.record("one", {"n": 1})
    store.record("two", {"n": 2})
    execute(store.directory / "index.sqlite", f"UPDATE records SET spec = {spec} WHERE key = 'one'")
    one, two = store.list_records()
    assert (one.spec, two.spec, two.damage) == ({}, {"n": 2}, "")
    assert one.damage.startswith("the record of one is damaged")
    store.record("one", {"n": 3})
    assert [record.damage for record in store.list_records()] == ["", ""]
    assert store.delete_record("one")


def test_a_later_version_adds_its_tables_and_keeps_the_rows(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.record("one", {})
    monkeypatch.setattr(leases, "MIGRATIONS", (*leases.MIGRATIONS, ("CREATE TABLE later (id INTEGER PRIMARY KEY)",)))
    later = Store(store.directory)
    assert [record.key for record in later.list_records()] == ["one"]
    assert execute(store.directory / "index.sqlite", "INSERT INTO later DEFAULT VALUES") == 1
    monkeypatch.undo()
    with pytest.raises(
        StoreError,
        match=f"has version {len(leases.MIGRATIONS) + 1}, this program knows {len(leases.MIGRATIONS)}; update",
    ):
        store.list_records()


def test_a_migration_that_fails_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.record("one", {})
    broken = ("CREATE TABLE later (id INTEGER PRIMARY KEY)", "CREATE TABLE records (id INTEGER)")
    with monkeypatch.context() as patch:
        patch.setattr(leases, "MIGRATIONS", (*leases.MIGRATIONS, broken))
        with pytest.raises(StoreError, match="already exists"):
            Store(store.directory).list_records()
    assert [record.key for record in store.list_records()] == ["one"]
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        execute(store.directory / "index.sqlite", "SELECT * FROM later")
