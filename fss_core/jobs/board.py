"""The board of requested work: runs, their tasks, their log, and how fast this machine has been, in the store's index.

Everything here is durable and shared: pages, the command line and workers all read and write the same rows.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from fss_core.jobs.requests import request_key
from fss_core.specs import StoreError, canonical_json
from fss_core.store import Store

RunState = Literal["queued", "running", "cancelling", "cancelled", "failed", "done"]
TaskState = Literal["waiting", "running", "done"]

OPEN_STATES: tuple[RunState, ...] = ("queued", "running", "cancelling")
"""States of a run that still wants work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A request, and what became of it.

    Attributes:
        key: the SHA-256 of kind and request: the same request twice is one run.
        kind: which plan it follows.
        request: what was asked for, as JSON knows it.
        state: ``"running"`` says that somebody began; :meth:`Board.is_live` whether somebody is still at it.
        asked: when it was last asked for, in seconds since 1970.
        started: when work began.
        finished: when it ended.
        reason: why it failed, in one line.
        is_damaged: whether what the index says of it makes no sense; it counts as failed.
    """

    key: str
    kind: str
    request: dict[str, Any]
    state: RunState
    asked: float
    started: float | None
    finished: float | None
    reason: str
    is_damaged: bool = False

    @property
    def lease(self) -> str:
        """The key of the store that whoever works on it holds."""
        return f"run/{self.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A piece of a run.

    Attributes:
        name: unique in its run; ``stage`` or ``stage:layer``.
        units: work, in the unit of ``rate``.
        rate: names the speed that this work goes at.
        seconds: how long it is expected to take one worker.
        wide: whether it keeps all cores busy by itself, so that nothing runs beside it.
        ready: whether it can begin; one that is not stands for tasks that are not known yet.
    """

    name: str
    units: float
    rate: str
    seconds: float
    wide: bool = False
    ready: bool = True

    @property
    def stage(self) -> str:
        """Which step of the run it belongs to."""
        return self.name.partition(":")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """A task as it stands on the board.

    Attributes:
        name: as in :class:`Task`.
        state: whether it waits, runs or is done.
        seconds: how long it was expected to take one worker.
        share: how much of it is done, from 0 to 1.
        detail: what is being done, in words.
        started: when it was last begun, in seconds since 1970.
        finished: when it was done.
        wide: as in :class:`Task`.
    """

    name: str
    state: TaskState
    seconds: float
    share: float
    detail: str
    started: float | None
    finished: float | None
    wide: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One thing that happened to a run.

    Attributes:
        time: in seconds since 1970.
        text: what happened; one line, or a traceback.
    """

    time: float
    text: str


class Board:
    """Runs and tasks in a store's index.

    Args:
        store: whose index.
    """

    def __init__(self, store: Store) -> None:
        """Remember the store."""
        self.store = store

    # Runs

    def ask(self, kind: str, request: Mapping[str, object]) -> Run:
        """Enter a request, or renew one that has ended; one that is queued or running stays as it is.

        Raises:
            StoreError: the index is damaged or cannot be written.
        """
        text = canonical_json(dict(request))
        key = request_key(kind, json.loads(text))
        statement = (
            "INSERT INTO runs (key, kind, request, state, asked) VALUES (?, ?, ?, 'queued', ?)"
            " ON CONFLICT (key) DO UPDATE SET state = 'queued', asked = excluded.asked, started = NULL,"
            " finished = NULL, reason = '' WHERE state NOT IN ('queued', 'running') OR typeof(asked) != 'real'"
            " OR typeof(started) NOT IN ('real', 'null') OR typeof(finished) NOT IN ('real', 'null')"
        )
        with self.store.index.connect() as connection:
            if connection.execute(statement, (key, kind, text, time.time())).rowcount:
                connection.execute("DELETE FROM tasks WHERE run = ?", (key,))
        self.log(key, "asked for")
        return self.get(key)

    def get(self, key: str) -> Run:
        """Read one run.

        Raises:
            StoreError: there is none of that key, or the index is damaged.
        """
        found = self.look_up(key)
        if found is None:
            raise StoreError(f"no run {key[:12]!r}; `fss runs list` shows them")
        return found

    def look_up(self, key: str) -> Run | None:
        """Read one run, if there is one of that key.

        Raises:
            StoreError: the index is damaged.
        """
        return next(iter(self._select("WHERE key = ?", (key,))), None)

    def find(self, start: str) -> Run:
        """Read the run whose key starts with some letters, as a person would type them.

        Raises:
            StoreError: none does, or several do.
        """
        found = [run for run in self.runs() if run.key.startswith(start)]
        if len(found) != 1 or not start:
            many = "several runs" if found else "no run"
            raise StoreError(f"{many} with a key that starts with {start!r}; `fss runs list` shows them")
        return found[0]

    def runs(self) -> list[Run]:
        """List the runs, the latest asked for first."""
        return self._select("ORDER BY asked DESC, key", ())

    def open_runs(self) -> list[Run]:
        """List the runs that still want work, the earliest asked for first."""
        found = self._select("WHERE state IN ('queued', 'running', 'cancelling') ORDER BY asked, key", ())
        return [run for run in found if run.state in OPEN_STATES]

    def _select(self, where: str, values: tuple[object, ...]) -> list[Run]:
        query = f"SELECT key, kind, request, state, asked, started, finished, reason FROM runs {where}"
        with self.store.index.connect() as connection:
            return [_run(row) for row in connection.execute(query, values)]

    def is_live(self, run: Run) -> bool:
        """Say whether somebody who is alive works on a run now."""
        return self.store.is_held(run.lease)

    def cancel(self, key: str) -> None:
        """Ask that a run stops; where nobody works on it, it has stopped already."""
        run = self.get(key)
        if run.state not in OPEN_STATES:
            return
        if self.is_live(run):
            self._set(key, state="cancelling")
            self.log(key, "cancel asked for")
        else:
            self.end(key, "cancelled")

    def wants_stop(self, key: str) -> bool:
        """Say whether whoever works on a run should stop: it was cancelled, or its row is gone."""
        with self.store.index.connect() as connection:
            row = connection.execute("SELECT state FROM runs WHERE key = ?", (key,)).fetchone()
        return row is None or row[0] in ("cancelling", "cancelled")

    def end_cancelled(self, key: str) -> None:
        """Say that a run has stopped as asked, unless it was asked for again meanwhile: then it waits to be begun."""
        statement = (
            "UPDATE runs SET state = 'cancelled', reason = '', finished = ?"
            " WHERE key = ? AND state IN ('running', 'cancelling', 'cancelled')"
        )
        with self.store.index.connect() as connection:
            has_ended = connection.execute(statement, (time.time(), key)).rowcount
            connection.execute("UPDATE tasks SET state = 'waiting' WHERE run = ? AND state = 'running'", (key,))
        if has_ended:
            self.log(key, "cancelled")

    def begin(self, key: str) -> None:
        """Say that work on a run begins, or goes on."""
        with self.store.index.connect() as connection:
            connection.execute(
                "UPDATE runs SET state = 'running', started = coalesce(started, ?) WHERE key = ? AND state = 'queued'",
                (time.time(), key),
            )

    def end(self, key: str, state: RunState, reason: str = "") -> None:
        """Say how a run ended."""
        self._set(key, state=state, reason=" ".join(reason.split()), finished=time.time())
        with self.store.index.connect() as connection:
            connection.execute("UPDATE tasks SET state = 'waiting' WHERE run = ? AND state = 'running'", (key,))
        self.log(key, f"{state}: {reason}" if reason else state)

    def delete(self, key: str) -> None:
        """Strike a run off the board; what it measured stays."""
        with self.store.index.connect() as connection:
            connection.execute("DELETE FROM runs WHERE key = ?", (key,))
            connection.execute("DELETE FROM tasks WHERE run = ?", (key,))
            connection.execute("DELETE FROM log WHERE run = ?", (key,))

    def _set(self, key: str, **values: object) -> None:
        names = ", ".join(f"{name} = ?" for name in values)
        with self.store.index.connect() as connection:
            connection.execute(f"UPDATE runs SET {names} WHERE key = ?", (*values.values(), key))

    # Tasks

    def put_tasks(self, key: str, tasks: Iterable[Task]) -> None:
        """Replace the tasks of a run that are not done by these."""
        with self.store.index.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM tasks WHERE run = ? AND state != 'done'", (key,))
            (place,) = connection.execute("SELECT count(*) FROM tasks WHERE run = ?", (key,)).fetchone()
            connection.executemany(
                "INSERT OR REPLACE INTO tasks (run, name, place, state, seconds, wide)"
                " VALUES (?, ?, ?, 'waiting', ?, ?)",
                [(key, task.name, place + own, task.seconds, task.wide) for own, task in enumerate(tasks)],
            )
            connection.execute("COMMIT")

    def tasks(self, key: str) -> list[TaskRow]:
        """List a run's tasks, in the order in which they are taken."""
        names = ("name", "state", "seconds", "share", "detail", "started", "finished", "wide")
        with self.store.index.connect() as connection:
            query = f"SELECT {', '.join(names)} FROM tasks WHERE run = ? ORDER BY place"
            rows = connection.execute(query, (key,)).fetchall()
        return [TaskRow(**{**dict(zip(names, row, strict=True)), "wide": bool(row[-1])}) for row in rows]

    def start_task(self, key: str, name: str) -> None:
        """Say that a task begins (again)."""
        self._set_task(key, name, state="running", started=time.time(), share=0.0, detail="")

    def move_task(self, key: str, name: str, share: float, detail: str) -> None:
        """Say how far a task is."""
        self._set_task(key, name, share=min(max(share, 0.0), 1.0), detail=detail)

    def finish_task(self, key: str, name: str) -> None:
        """Say that a task is done."""
        self._set_task(key, name, state="done", share=1.0, finished=time.time())

    def _set_task(self, key: str, name: str, **values: object) -> None:
        names = ", ".join(f"{part} = ?" for part in values)
        with self.store.index.connect() as connection:
            connection.execute(f"UPDATE tasks SET {names} WHERE run = ? AND name = ?", (*values.values(), key, name))

    # Log

    def log(self, key: str, text: str) -> None:
        """Add to what happened to a run."""
        with self.store.index.connect() as connection:
            connection.execute("INSERT INTO log (run, time, text) VALUES (?, ?, ?)", (key, time.time(), text))

    def log_lines(self, key: str) -> list[LogLine]:
        """List what happened to a run, in order."""
        with self.store.index.connect() as connection:
            rows = connection.execute("SELECT time, text FROM log WHERE run = ? ORDER BY time, rowid", (key,))
            return [LogLine(time=when, text=text) for when, text in rows]

    # Rates

    def add_rate(self, rate: str, units: float, seconds: float) -> None:
        """Learn how long some work took on this machine; what was learned before counts half as much each time."""
        statement = (
            "INSERT INTO rates (key, units, seconds) VALUES (?, ?, ?) ON CONFLICT (key)"
            " DO UPDATE SET units = units / 2 + excluded.units, seconds = seconds / 2 + excluded.seconds"
        )
        if units > 0 and seconds > 0:
            with self.store.index.connect() as connection:
                connection.execute(statement, (rate, units, seconds))

    def rates(self) -> dict[str, float]:
        """List the seconds that a unit of each kind of work has taken on this machine."""
        with self.store.index.connect() as connection:
            return {key: seconds / units for key, units, seconds in connection.execute("SELECT * FROM rates")}


def _run(row: sqlite3.Row | tuple[Any, ...]) -> Run:
    key, kind, request, state, asked, started, finished, reason = row
    try:
        parsed = dict(json.loads(request))
    except (TypeError, ValueError):
        parsed = {}
    times = [own if isinstance(own, int | float) else None for own in (asked, started, finished)]
    is_sound = state in get_args(RunState) and times == [asked, started, finished] and asked is not None
    are_texts = all(isinstance(own, str) and "\ufffd" not in own for own in (key, kind, reason))
    is_damaged = not (is_sound and are_texts)
    if is_damaged:
        state, reason = "failed", "what the index says of it is damaged; strike it off, or ask for the same again"
    return Run(
        key=str(key),
        kind=str(kind),
        request=parsed,
        state=cast(RunState, state),
        asked=times[0] or 0.0,
        started=times[1],
        finished=times[2],
        reason=str(reason),
        is_damaged=is_damaged,
    )
