"""What pages and the command line use: ask for work, see that somebody does it, and watch it.

Imports neither torch nor Dask; the runner, a process of its own, does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fss_core.flow import Progress
from fss_core.jobs.board import OPEN_STATES, Board, Run
from fss_core.jobs.kinds import plan_request
from fss_core.jobs.plans import Plan
from fss_core.jobs.pool import local_machine
from fss_core.jobs.progress import RunProgress, progress_of
from fss_core.jobs.requests import Request
from fss_core.specs import Cancelled, FssError, StoreError, cache_dir
from fss_core.store import Store
from fss_core.store.leases import store_errors

RUNNER_LEASE = "runner"
"""The key that the runner of a store holds."""

_SECONDS_BEFORE_ANOTHER_TRY = 10.0
"""After a runner that failed, so that one that cannot start is not started again and again."""

# Asking ---------------------------------------------------------------------------------------------------


def estimate(store: Store, request: Request, *, workers: int | None = None) -> Plan:
    """Say what is left of a request, and how long it will take on this machine.

    Raises:
        FssError: it cannot be done.
        ValueError: it asks for what cannot be.
    """
    return plan_request(store, request, local_machine(workers))


def ask(store: Store, request: Request) -> Run:
    """Ask for a measurement, and see that somebody works on it.

    Returns:
        The run: a new one, or the one that is there already for the same request.
    """
    if store.problem:
        raise StoreError(store.problem)
    run = Board(store).ask(request.kind, request.to_json())
    ensure_runner(store)
    return run


def keep_going(store: Store) -> None:
    """See that somebody works on what was asked for, whoever asked, and whatever happened since."""
    board = Board(store)
    if any(not board.is_live(run) for run in board.open_runs()):
        ensure_runner(store)


_starting = threading.Lock()
_runners: dict[Path, tuple[subprocess.Popen[bytes], float]] = {}


def ensure_runner(store: Store, *, workers: int | None = None, idle_seconds: float | None = None) -> None:
    """Start a runner for a store unless one is there; returns at once.

    It ends by itself when it has been idle for a while, or when this process is gone.

    Args:
        store: in the cache directory of this environment.
        workers: processes; by default one a core.
        idle_seconds: how long it stays without work; by default as the runner says.
    """
    with _starting:
        known = _runners.get(store.directory)
        if known is not None:
            process, started = known
            code = process.poll()
            if code is None or (code != 0 and time.monotonic() - started < _SECONDS_BEFORE_ANOTHER_TRY):
                return
        if store.is_held(RUNNER_LEASE):
            return
        command = [sys.executable, "-m", "fss_core.jobs.runner", "--parent", str(os.getpid())]
        if workers is not None:
            command += ["--workers", str(workers)]
        if idle_seconds is not None:
            command += ["--idle-seconds", str(idle_seconds)]
        with store_errors(runner_log()):
            output = runner_log().open("wb")
        with output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        _runners[store.directory] = (process, time.monotonic())


def runner_log() -> Path:
    """Where the last runner that was started here writes what is not about a single run."""
    return cache_dir() / "runner.log"


def runner_problem(store: Store) -> str:
    """Say why the runner that was started here could not work; empty if it could."""
    known = _runners.get(store.directory)
    if known is None or known[0].poll() in (None, 0):
        return ""
    lines = runner_log().read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it ended with code {known[0].returncode}"


# Watching -------------------------------------------------------------------------------------------------


def watch(store: Store, key: str, *, poll_seconds: float = 0.5) -> Iterator[RunProgress]:
    """Follow a run until it has ended, whoever works on it, and see that somebody does.

    Yields:
        How far it is, twice a second; at last how it ended.
    """
    board = Board(store)
    while True:
        now = progress_of(board, board.get(key))
        yield now
        if now.run.state not in OPEN_STATES:
            return
        keep_going(store)
        time.sleep(poll_seconds)


def follow(
    store: Store,
    request: Request,
    *,
    on_progress: Callable[[Progress], None],
    workers: int | None = None,
) -> None:
    """Ask for a request, and follow it until it is done; whoever asked for it and is interrupted cancels it.

    Args:
        store: where results go.
        request: what is asked for.
        on_progress: told how far it is.
        workers: processes of a runner, if one has to be started.

    Raises:
        Cancelled: somebody cancelled it.
        FssError: it failed, and why.
    """
    board = Board(store)
    asked = all(run.key != request.key for run in board.open_runs())
    run = board.ask(request.kind, request.to_json())
    try:
        ended = follow_run(store, run, on_progress=on_progress, workers=workers)
    except KeyboardInterrupt:
        if asked:
            board.cancel(run.key)
        raise
    if ended.state == "cancelled":
        raise Cancelled("the run was cancelled; what was finished is kept, ask again to go on")
    if ended.state == "failed":
        raise FssError(ended.reason)


def follow_run(store: Store, run: Run, *, on_progress: Callable[[Progress], None], workers: int | None = None) -> Run:
    """Follow a run until it has ended, and see that somebody works on it.

    Returns:
        The run as it ended.
    """
    if not Board(store).is_live(run):
        ensure_runner(store, workers=workers)
    ended = run
    for now in watch(store, run.key):
        ended = now.run
        detail = ": ".join(filter(None, (now.stage, now.detail)))
        on_progress(Progress(stage="measure", done=now.share, total=1.0, detail=detail))
    return ended
