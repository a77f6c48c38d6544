"""Who is working on what: one holder per key, in a small SQLite file beside the results.

``index.sqlite`` holds what must change under several processes at once: the leases here, the catalogue of
measurements in ``store/__init__.py``, the requested work in ``jobs/board.py``. Its tables are made by ``MIGRATIONS``,
to which later tables are appended.
"""

from __future__ import annotations

import os
import platform
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path

import diskcache

from fss_core.specs import StoreError

LEASE_SECONDS = 30.0
"""How long a lease outlives the last sign of life of its holder."""

BUSY_SECONDS = 10.0
"""How long a connection waits for another one's transaction."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE leases"
        " (key TEXT PRIMARY KEY, holder TEXT NOT NULL, renewed REAL NOT NULL, seconds REAL NOT NULL)",
        "CREATE TABLE records (key TEXT PRIMARY KEY, spec TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL)",
    ),
    (
        "CREATE TABLE runs (key TEXT PRIMARY KEY, kind TEXT NOT NULL, request TEXT NOT NULL, state TEXT NOT NULL,"
        " asked REAL NOT NULL, started REAL, finished REAL, reason TEXT NOT NULL DEFAULT '')",
        "CREATE TABLE tasks (run TEXT NOT NULL, name TEXT NOT NULL, place INTEGER NOT NULL, state TEXT NOT NULL,"
        " seconds REAL NOT NULL, wide INTEGER NOT NULL, share REAL NOT NULL DEFAULT 0, detail TEXT NOT NULL DEFAULT '',"
        " started REAL, finished REAL, PRIMARY KEY (run, name))",
        "CREATE TABLE log (run TEXT NOT NULL, time REAL NOT NULL, text TEXT NOT NULL)",
        "CREATE INDEX log_by_run ON log (run, time)",
        "CREATE TABLE rates (key TEXT PRIMARY KEY, units REAL NOT NULL, seconds REAL NOT NULL)",
    ),
)
"""Statements that bring the index from version n to n + 1 (``PRAGMA user_version``); append only, never edit."""

_REMEDIES = {
    sqlite3.SQLITE_BUSY: "another process is holding it; try again",
    sqlite3.SQLITE_FULL: "free some disk space",
    sqlite3.SQLITE_READONLY: "make it writable, or set FSS_CACHE_DIR to a directory that is",
    sqlite3.SQLITE_CANTOPEN: "make it writable, or set FSS_CACHE_DIR to a directory that is",
    sqlite3.SQLITE_IOERR: "check the disk and the space left on it",
}
_DAMAGED = "the file is damaged; move the directory aside and measure again"
_DAMAGED_INDEX = "the file is damaged; delete it, the results beside it stay"


class LeaseHeldError(StoreError):
    """Someone else is working on this key, and the caller did not want to wait."""


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite, diskcache and the file system raise into one line that names the place.

    Args:
        path: the file or directory being worked on.

    Raises:
        StoreError: the body raised ``sqlite3.DatabaseError``, ``diskcache.Timeout``, ``UnicodeDecodeError`` or
            ``OSError``.
    """
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except (sqlite3.DatabaseError, diskcache.Timeout, UnicodeDecodeError) as error:  # the last: a key that is no text
        cause = _first_cause(error)
        code = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        damaged = _DAMAGED_INDEX if path.suffix == ".sqlite" else _DAMAGED
        raise StoreError(f"the store at {path} cannot be used ({cause}); {_REMEDIES.get(code, damaged)}") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StoreError(
            f"the store at {path} cannot be used ({reason}); check its permissions and the space left on its disk"
        ) from error


def _first_cause(error: BaseException) -> BaseException:
    """Find the database error that diskcache's own (a failed rollback, a ``Timeout``) was raised in the wake of."""
    while isinstance(error.__context__, sqlite3.Error):
        error = error.__context__
    return error


def _read_text(text: bytes) -> str:
    """Read a text, also a damaged one, so that one row does not keep all others from being read."""
    return text.decode("utf-8", errors="replace")


class Index:
    """The SQLite file of leases and records; safe to share between threads and processes.

    Every use opens a connection of its own, so that none is used across a thread or a fork. One more stays open and
    idle: without it every use would be the last to close, and would wait for the disk (20 ms instead of 0.3).

    Args:
        path: the file; made on first use, in a directory that exists.
    """

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is opened yet."""
        self.path = path
        self._opening = threading.Lock()
        self._idle: sqlite3.Connection | None = None

    @contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        """Open the index at the current version, in autocommit mode, and close it again.

        Raises:
            StoreError: the file is damaged, newer than this program, locked for ten seconds, or not writable.
        """
        with store_errors(self.path):
            with self._opening:
                if self._idle is None:
                    self._idle = self._open()
            with closing(self._open()) as connection:
                yield connection

    def close(self) -> None:
        """Close the idle connection; using the index again opens it again."""
        with self._opening:
            if self._idle is not None:
                self._idle.close()
                self._idle = None

    def _open(self) -> sqlite3.Connection:
        # The idle connection may be closed by another thread than the one that happened to open it.
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.text_factory = _read_text
        try:
            connection.execute("PRAGMA synchronous = NORMAL")
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        if self._version(connection) < len(MIGRATIONS):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            # Read again: another process may have migrated while this one waited for the lock.
            for statements in MIGRATIONS[self._version(connection) :]:
                for statement in statements:
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
            connection.execute("COMMIT")

    def _version(self, connection: sqlite3.Connection) -> int:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{self.path} has version {version}, this program knows {len(MIGRATIONS)}; update the program"
            )
        return version


@cache
def _host() -> str:
    """Name what process numbers refer to: this host until it reboots, and this container."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{Path('/proc/self/ns/pid').readlink()}"
    return platform.node().replace("/", "")


def _new_holder() -> str:
    return f"{_host()}/{os.getpid()}/{uuid.uuid4().hex}"


def _is_dead(holder: str) -> bool:
    """Say whether a holder is known to be dead; one on another host, or written by an older version, is not known."""
    host, _, rest = holder.partition("/")
    process = rest.partition("/")[0]
    if host != _host() or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    # A killed child keeps its number until its parent asks after it.
    with suppress(OSError):
        _, _, status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")
        return status.startswith(("Z", "X"))
    return False


class Lease:
    """One holder's right to work on one key, made by ``claim``.

    Attributes:
        key: what is being worked on.
        seconds: how long the lease outlives its last renewal.
    """

    def __init__(self, index: Index, key: str, seconds: float) -> None:
        """Prepare a lease that is not held yet."""
        self.key = key
        self.seconds = seconds
        self._index = index
        self._holder = _new_holder()
        self._lost_at_release: bool | None = None

    @property
    def lost(self) -> bool:
        """Whether someone else took the key since, because this holder showed no sign of life for too long.

        Asks the index, so that a process that was suspended knows at once. After release: as it was then.

        Raises:
            StoreError: the index cannot be read.
        """
        if self._lost_at_release is not None:
            return self._lost_at_release
        with self._index.connect() as connection:
            query = "SELECT 1 FROM leases WHERE key = ? AND holder = ?"
            return connection.execute(query, (self.key, self._holder)).fetchone() is None

    def _acquire(self) -> bool:
        # A holder that was killed here need not be outlived.
        with self._index.connect() as connection:
            row = connection.execute("SELECT holder FROM leases WHERE key = ?", (self.key,)).fetchone()
            if row is not None and _is_dead(row[0]):
                connection.execute("DELETE FROM leases WHERE key = ? AND holder = ?", (self.key, row[0]))
        # The distance in time, whatever its sign: after the clock was set back, an old renewal lies in the future.
        statement = (
            "INSERT INTO leases (key, holder, renewed, seconds) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE"
            " SET holder = excluded.holder, renewed = excluded.renewed, seconds = excluded.seconds"
            " WHERE abs(excluded.renewed - leases.renewed) >= leases.seconds"
        )
        with self._index.connect() as connection:
            cursor = connection.execute(statement, (self.key, self._holder, time.time(), self.seconds))
            return cursor.rowcount == 1

    def _renew(self) -> bool:
        statement = "UPDATE leases SET renewed = ? WHERE key = ? AND holder = ?"
        with self._index.connect() as connection:
            return connection.execute(statement, (time.time(), self.key, self._holder)).rowcount == 1

    def _release(self) -> None:
        with self._index.connect() as connection:
            statement = "DELETE FROM leases WHERE key = ? AND holder = ?"
            self._lost_at_release = connection.execute(statement, (self.key, self._holder)).rowcount == 0

    @contextmanager
    def _kept_alive(self) -> Iterator[None]:
        """Renew four times per lease from a thread of its own, so that a busy body needs no care."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(self.seconds / 4):
                # A full or locked disk may pass before the lease does; the next beat tries again.
                with suppress(StoreError):
                    if not self._renew():
                        return

        thread = threading.Thread(target=beat, name=f"lease {self.key}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def is_held(index: Index, key: str) -> bool:
    """Say whether somebody who is alive, as far as can be told, holds ``key`` now.

    Raises:
        StoreError: the index cannot be read.
    """
    with index.connect() as connection:
        row = connection.execute("SELECT holder, renewed, seconds FROM leases WHERE key = ?", (key,)).fetchone()
    return row is not None and not _is_dead(row[0]) and abs(time.time() - row[1]) < row[2]


@contextmanager
def claim(
    index: Index,
    key: str,
    *,
    wait: bool = True,
    poll_seconds: float = 0.2,
    on_wait: Callable[[], None] | None = None,
    lease_seconds: float = LEASE_SECONDS,
) -> Iterator[Lease]:
    """Hold ``key`` alone for as long as the block lasts; not re-entrant.

    The lease of a holder that was killed on this host is free at once; one that dies elsewhere, or hangs, is outlived
    by its lease for ``lease_seconds``. Then the next one gets the key. Whoever had to wait should look in the store
    again: the work is probably done.

    Args:
        index: where leases are written.
        key: what is about to be worked on.
        wait: wait until the key is free, or raise at once.
        poll_seconds: between two looks at the lease of another.
        on_wait: called before every pause; what it raises (``Cancelled``) ends the waiting.
        lease_seconds: how long the lease outlives its last renewal; it is renewed four times as often.

    Yields:
        The lease; its ``lost`` says whether it was taken over meanwhile.

    Raises:
        LeaseHeldError: ``wait`` is false and another holds the key.
        StoreError: the index is damaged or cannot be written.
        ValueError: ``lease_seconds`` or ``poll_seconds`` is not above 0.
    """
    if not (lease_seconds > 0 and poll_seconds > 0):
        raise ValueError(f"lease_seconds and poll_seconds must be above 0, got {lease_seconds} and {poll_seconds}")
    lease = Lease(index, key, lease_seconds)
    while not lease._acquire():
        if not wait:
            raise LeaseHeldError(f"{key} is being worked on by another process; wait for it, or try again later")
        if on_wait is not None:
            on_wait()
        time.sleep(poll_seconds)
    try:
        with lease._kept_alive():
            yield lease
    finally:
        # Work that is done is not undone because the lease stays: it expires by itself.
        with suppress(StoreError):
            lease._release()
