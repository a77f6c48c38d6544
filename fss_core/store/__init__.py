"""Results on disk: arrays under keys, written atomically, in a directory only its owner can enter.

Entries (``entries.py``) live in a diskcache; leases (``leases.py``) and the catalogue of measurements live in
``index.sqlite`` beside it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import diskcache
from diskcache.core import DBNAME, METADATA
from numpy.typing import NDArray

from fss_core import specs
from fss_core.specs import StoreError
from fss_core.store import leases
from fss_core.store.entries import SCHEMA, BytesDisk, StoredArrays, decode, encode, short_key
from fss_core.store.leases import Lease, LeaseHeldError, store_errors

__all__ = ["SCHEMA", "Lease", "LeaseHeldError", "Record", "Store", "StoredArrays"]

_SETTINGS: Mapping[str, object] = {
    # Results took hours: nothing is ever dropped to make room.
    "eviction_policy": "none",
    "cull_limit": 0,
    "size_limit": 2**62,
    "statistics": 0,
    # A memory-mapped database that is truncated kills the process instead of raising.
    "sqlite_mmap_size": 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One measurement in the catalogue.

    Attributes:
        key: names the measurement.
        spec: what was measured, as JSON knows it; empty where that cannot be read.
        created: when it was first recorded, in seconds since 1970.
        updated: when it was last recorded, in seconds since 1970.
        damage: why ``spec`` cannot be read, and what to do; empty if it can.
    """

    key: str
    spec: dict[str, object]
    created: float
    updated: float
    damage: str = ""


class Store:
    """Results under text keys, in a directory that only its owner can enter; usable from threads and processes.

    Args:
        directory: default ``results`` in the cache directory; made if missing, its mode set to 0700 if laxer.

    Attributes:
        index: the SQLite file of what changes under several processes at once.
        problem: why this one stands in for one that cannot be written; empty if it is itself.

    Raises:
        StoreError: the directory cannot be made or made private.
        ValueError: the directory's name would be expanded as an environment variable by diskcache.

    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as name, Store(Path(name)) as store:
    ...     store.put("a/1", {"x": np.arange(3)}, meta={"unit": "weights"})
    ...     store.get("a/1").meta, store.keys("a/"), store.get("b")
    ({'unit': 'weights'}, ['a/1'], None)
    """

    def __init__(self, directory: Path | None = None) -> None:
        """Make the directory; databases are opened on first use."""
        self.directory = (specs.cache_dir() / "results" if directory is None else directory).absolute()
        if os.path.expandvars(self.directory) != str(self.directory):
            raise ValueError(f"directory must not name an environment variable, got {self.directory}")
        with store_errors(self.directory):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.directory.stat().st_mode & 0o077:
                self.directory.chmod(0o700)
        self.problem = ""
        self.index = leases.Index(self.directory / "index.sqlite")
        self._opening = threading.Lock()
        self._opened: diskcache.Cache | None = None

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close this thread's connections; using the store again opens them again."""
        self.index.close()
        if self._opened is not None:
            self._opened.close()

    # Results

    def get(self, key: str) -> StoredArrays | None:
        """Read what is stored under ``key``, or ``None``.

        Raises:
            StaleResultError: it was written under another schema.
            StoreError: it is damaged or was tampered with, or the store cannot be read.
        """
        with store_errors(self.directory):
            cache = self._cache()
            entry = cache.get(key)
            # A writer that replaced the entry removes the file the row named a moment ago: look again.
            attempts = 10
            while entry is None and key in cache and attempts > 0:
                entry = cache.get(key)
                attempts -= 1
        return None if entry is None else decode(key, entry)

    def put(self, key: str, arrays: Mapping[str, NDArray[Any]], *, meta: Mapping[str, object]) -> None:
        """Store arrays under ``key``, all or nothing, replacing what was there.

        Args:
            key: printable text; parts separated by ``/`` make prefixes useful.
            arrays: by name, any shape, of a type in ``DTYPES``; not modified.
            meta: anything with a JSON form.

        Raises:
            StoreError: the store cannot be written (full, read-only, damaged).
            TypeError: something in ``meta`` has no JSON form.
            ValueError: see ``encode``; or ``key`` is empty or not printable.
        """
        _check_key(key)
        entry = encode(arrays, meta)
        with store_errors(self.directory):
            self._cache().set(key, entry)

    def delete(self, key: str) -> bool:
        """Forget what is stored under ``key``; say whether there was anything.

        Raises:
            StoreError: the store cannot be written.
        """
        with store_errors(self.directory):
            return bool(self._cache().delete(key))

    def delete_prefix(self, prefix: str) -> int:
        """Forget everything whose key starts with ``prefix``; return how many entries that were.

        Raises:
            StoreError: the store cannot be written, or holds keys that are not text.
        """
        return sum(self.delete(key) for key in self.keys(prefix))

    def delete_damaged(self, prefix: str) -> int:
        """Forget the entries whose key starts with ``prefix`` that cannot be read; return how many that were.

        Raises:
            StoreError: the store cannot be written, or holds keys that are not text.
        """
        count = 0
        for key in self.keys(prefix):
            try:
                self.get(key)
            except StoreError:
                count += self.delete(key)
        return count

    def keys(self, prefix: str = "") -> list[str]:
        """List the keys that start with ``prefix``, sorted.

        Raises:
            StoreError: the store cannot be read, or holds keys that are not text.
        """
        rows = self._select("SELECT key, raw FROM Cache", prefix)
        disk = self._cache().disk
        return sorted(disk.get(key, raw) for key, raw in rows)

    def num_bytes(self, prefix: str = "") -> int:
        """Add up the sizes of the entries whose keys start with ``prefix``, in bytes.

        Raises:
            StoreError: the store cannot be read.
        """
        ((total,),) = self._select("SELECT coalesce(sum(size + coalesce(length(value), 0)), 0) FROM Cache", prefix)
        return int(total)

    def count(self, prefix: str = "") -> int:
        """Count the entries whose keys start with ``prefix``.

        Raises:
            StoreError: the store cannot be read.
        """
        ((number,),) = self._select("SELECT count(*) FROM Cache", prefix)
        return int(number)

    # Leases

    def claim(
        self,
        key: str,
        *,
        wait: bool = True,
        poll_seconds: float = 0.2,
        on_wait: Callable[[], None] | None = None,
        lease_seconds: float = leases.LEASE_SECONDS,
    ) -> AbstractContextManager[Lease]:
        """Hold ``key`` alone while the block lasts, so that nobody else measures the same; see ``leases.claim``.

        Raises:
            LeaseHeldError: on entering, if ``wait`` is false and another holds the key.
            StoreError: on entering, if the index is damaged or cannot be written.
            ValueError: ``key`` is empty or not printable; on entering, if a time is not above 0.
        """
        _check_key(key)
        return leases.claim(
            self.index, key, wait=wait, poll_seconds=poll_seconds, on_wait=on_wait, lease_seconds=lease_seconds
        )

    def is_held(self, key: str) -> bool:
        """Say whether somebody who is alive, as far as can be told, holds ``key`` now.

        Raises:
            StoreError: the index is damaged.
        """
        return leases.is_held(self.index, key)

    # Catalogue

    def record(self, key: str, spec: Mapping[str, object]) -> None:
        """Enter a measurement into the catalogue, or renew its entry (``created`` stays).

        Raises:
            StoreError: the index is damaged or cannot be written.
            TypeError: something in ``spec`` has no JSON form.
            ValueError: ``key`` is empty or not printable, or a number in ``spec`` is not finite.
        """
        _check_key(key)
        statement = (
            "INSERT INTO records (key, spec, created, updated) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET spec = excluded.spec, updated = excluded.updated"
        )
        now = time.time()
        text = specs.canonical_json(dict(spec))
        with self.index.connect() as connection:
            connection.execute(statement, (key, text, now, now))

    def list_records(self) -> list[Record]:
        """List the catalogue, oldest first; a record that is damaged is among them, and says so.

        Raises:
            StoreError: the index as a whole is damaged.
        """
        with self.index.connect() as connection:
            rows = connection.execute(
                # As bytes: one text that is none would keep SQLite from giving any.
                "SELECT key, CAST(spec AS BLOB), created, updated FROM records ORDER BY created, key"
            ).fetchall()
        return [_record(*row) for row in rows]

    def delete_record(self, key: str) -> bool:
        """Strike a measurement from the catalogue (its results stay); say whether it was there.

        Raises:
            StoreError: the index is damaged or cannot be written.
        """
        with self.index.connect() as connection:
            return connection.execute("DELETE FROM records WHERE key = ?", (key,)).rowcount == 1

    # Databases

    def _cache(self) -> diskcache.Cache:
        with self._opening:
            if self._opened is None:
                self._refuse_foreign_settings()
                settings = {**diskcache.DEFAULT_SETTINGS, **_SETTINGS}
                self._opened = diskcache.Cache(str(self.directory), timeout=30, disk=BytesDisk, **settings)
            return self._opened

    def _refuse_foreign_settings(self) -> None:
        """Let no row of the file set attributes of diskcache's objects beyond its own settings."""
        if not (self.directory / DBNAME).exists():
            return
        with closing(self._connect_read_only()) as connection:
            exists = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'Settings'").fetchone()
            names = {name for (name,) in connection.execute("SELECT key FROM Settings")} if exists else set()
        if foreign := names - diskcache.DEFAULT_SETTINGS.keys() - METADATA.keys():
            raise StoreError(
                f"the store at {self.directory} holds {len(foreign)} foreign settings; move the directory aside"
            )

    def _connect_read_only(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{(self.directory / DBNAME).as_uri()}?mode=ro", uri=True, timeout=leases.BUSY_SECONDS)

    def _select(self, query: str, prefix: str) -> list[tuple[Any, ...]]:
        """Run a query of ours on diskcache's table, which knows neither prefixes nor sizes, on its index of keys."""
        with store_errors(self.directory):
            self._cache()
            with closing(self._connect_read_only()) as connection:
                if not prefix:
                    return connection.execute(query).fetchall()
                # Printable keys never hold the last code point, so it bounds every continuation of the prefix.
                bounds = (prefix, prefix + "\U0010ffff")
                return connection.execute(f"{query} WHERE key >= ? AND key < ?", bounds).fetchall()


def _check_key(key: str) -> None:
    if not key or not key.isprintable():
        raise ValueError(f"key must be printable text, got {key!r}")


def _record(key: str, spec: bytes, created: float, updated: float) -> Record:
    damage = ""
    try:
        own = dict(json.loads(spec))
    except (TypeError, ValueError):
        own = {}
        damage = (
            f"the record of {short_key(key)} is damaged, so that it is not listed; its results are kept, and measuring "
            "them anew (fss score … --refresh) lists them again"
        )
    return Record(key=key, spec=own, created=created, updated=updated, damage=damage)
