"""What pages and the command line use: ask for work, see that somebody does it, watch it, or do it here.

Imports neither torch nor Dask; the runner, a process of its own, does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fss_core.flow import Progress, Stage
from fss_core.jobs.board import OPEN_STATES, Board, Run, Task, TaskRow
from fss_core.jobs.kinds import plan_request
from fss_core.jobs.plans import Plan
from fss_core.jobs.rates import Machine, num_cores
from fss_core.jobs.requests import Request
from fss_core.specs import Cancelled, FssError, StoreError, cache_dir
from fss_core.store import LeaseHeldError, Store

RUNNER_LEASE = "runner"
"""The key that the runner of a store holds."""

_SECONDS_BEFORE_ANOTHER_TRY = 10.0
"""After a runner that failed, so that one that cannot start is not started again and again."""

_STAGES = {
    "data": "preparing the data set",
    "train": "training",
    "epsilon": "choosing ε",
    "images": "attacking the images",
    "layers": "filtering layer by layer",
    "whole": "filtering the whole network",
    "control": "measuring the random control",
    "criticality": "looking for critical layers",
    "judge": "judging the network before retraining",
    "retrain": "retraining and judging",
}


# Progress -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """How far a run is.

    Attributes:
        run: the run.
        is_live: whether somebody works on it now; an open run that is not waits for a runner.
        share: work done over work in all, weighted by what each task was expected to cost, from 0 to 1.
        seconds_left: about how long it will take yet, at the rate it has had; ``None`` before anything is known.
        stage: what is being done, in words.
        detail: more of it: the layer, the loss.
        num_done: tasks that are done.
        num_tasks: tasks that are known.
    """

    run: Run
    is_live: bool
    share: float
    seconds_left: float | None
    stage: str
    detail: str
    num_done: int
    num_tasks: int


def progress_of(board: Board, run: Run, *, workers: int | None = None) -> RunProgress:
    """Say how far a run is.

    Args:
        board: where it lies.
        run: as it was read from there.
        workers: tasks that are done side by side; by default one a core.
    """
    tasks = board.tasks(run.key)
    is_live = board.is_live(run)
    left = {wide: _work_left([task for task in tasks if task.wide == wide]) for wide in (True, False)}
    spent = sum(_taken(task) for task in tasks)
    current = [task for task in tasks if task.state == "running"]
    stage, detail = "", ""
    if run.state == "queued" or (run.state == "running" and not is_live):
        stage = "waiting for a worker"
    elif run.state == "cancelling":
        stage = "stopping"
    elif run.state == "running":
        stage = _STAGES.get(current[0].name.partition(":")[0], "") if current else "starting"
        detail = ", ".join(dict.fromkeys(task.detail for task in current if task.detail))
    return RunProgress(
        run=run,
        is_live=is_live,
        share=1.0 if run.state == "done" else spent / (spent + sum(left.values())) if tasks else 0.0,
        seconds_left=left[True] + left[False] / (workers or num_cores())
        if run.state in OPEN_STATES and tasks
        else None,
        stage=stage,
        detail=detail,
        num_done=sum(task.state == "done" for task in tasks),
        num_tasks=len(tasks),
    )


def _taken(task: TaskRow) -> float:
    """How long a task has taken, in seconds of one worker."""
    if task.state == "waiting" or task.started is None:
        return 0.0
    return (task.finished or time.time()) - task.started


def _work_left(tasks: list[TaskRow]) -> float:
    """Add up what is left, in seconds of one worker, corrected by how the expectation has fared so far."""
    left = sum(task.seconds * (1 - task.share) for task in tasks)
    expected = sum(task.seconds * task.share for task in tasks if task.state != "waiting")
    if not expected:
        return left
    # A little work says little: it moves the expectation by as much as it is of the whole.
    trust = min(expected / (0.1 * (expected + left)), 1.0)
    return left * (trust * sum(map(_taken, tasks)) / expected + 1 - trust)


def in_words(seconds: float) -> str:
    """Write a duration as a person would say it.

    >>> [in_words(seconds) for seconds in (3, 40, 95, 4000, 90000)]
    ['a few seconds', '40 s', '1 min 35 s', '1 h 7 min', '25 h']
    """
    if seconds < 5:
        return "a few seconds"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 10 and minutes else f"{hours} h"


# Asking ---------------------------------------------------------------------------------------------------


def estimate(store: Store, request: Request, *, workers: int | None = None) -> Plan:
    """Say what is left of a request, and how long it will take on this machine.

    Raises:
        FssError: it cannot be done.
        ValueError: it asks for what cannot be.
    """
    cores = num_cores()
    return plan_request(store, request, Machine(cores=cores, workers=workers or cores))


def ask(store: Store, request: Request) -> Run:
    """Ask for a measurement, and see that somebody works on it.

    Returns:
        The run: a new one, or the one that is there already for the same request.
    """
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
        with runner_log().open("wb") as output:
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


# Watching, and doing it here ------------------------------------------------------------------------------


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


class _Overall:
    """Tells of the progress through several layers, or selections, as if they were one step.

    Args:
        tasks: of which those of a kind are counted together.
        on_progress: told.
    """

    def __init__(self, tasks: list[Task], on_progress: Callable[[Progress], None] | None) -> None:
        self._seconds = {task.name: task.seconds for task in tasks}
        self._together: dict[Stage, list[str]] = {
            "measure": [task.name for task in tasks if task.stage in ("layers", "whole", "control")],
            "retrain": [task.name for task in tasks if task.stage == "retrain"],
        }
        self._done: dict[str, float] = {}
        self._on_progress = on_progress or (lambda progress: None)

    def of(self, task: Task) -> Callable[[Progress], None]:
        """Say whom a task tells."""

        def tell(progress: Progress) -> None:
            # A network is judged within the task that retrains it.
            stage: Stage = "retrain" if task.stage == "retrain" else progress.stage
            names = self._together.get(stage, [])
            if task.name in names and progress.stage != "wait":
                share = progress.done / progress.total if progress.total else 0.0
                self._done[task.name] = share * task.seconds
                done, total = (sum(own.get(name, 0.0) for name in names) for own in (self._done, self._seconds))
                progress = replace(progress, stage=stage, done=done, total=total)
            self._on_progress(progress)

        return tell


def carry_out(store: Store, request: Request, *, on_progress: Callable[[Progress], None] | None = None) -> Run | None:
    """Do a request in this process, with all cores, where everybody can see it move.

    Args:
        store: where results go.
        request: what is asked for.
        on_progress: told of every step.

    Returns:
        The run as it ended; ``None`` if somebody else is working on it: :func:`watch` it then.

    Raises:
        Cancelled: somebody cancelled it.
        FssError: it cannot be done.
    """
    from fss_core.jobs.workers import Bench, Order

    board, bench = Board(store), Bench(store)
    run = board.ask(request.kind, request.to_json())
    machine = Machine(cores=num_cores(), workers=1)

    def order(task: Task, *, wait: bool) -> Order:
        return Order(
            directory=str(store.directory),
            cache=str(cache_dir().absolute()),
            run=run.key,
            task=task,
            threads=machine.cores,
            wait=wait,
        )

    try:
        with store.claim(run.lease, wait=False):
            board.begin(run.key)
            try:
                finished: set[str] = set()
                while tasks := plan_request(store, request, machine).tasks:
                    board.put_tasks(run.key, tasks)
                    ready = [task for task in tasks if task.ready]
                    if finished.intersection(task.name for task in ready):
                        raise StoreError(
                            "results vanished while they were measured (another process refreshed them); run again"
                        )
                    shown = _Overall(ready, on_progress)
                    held = [task for task in ready if not bench.do(order(task, wait=False), on_progress=shown.of(task))]
                    for task in held:
                        bench.do(order(task, wait=True), on_progress=shown.of(task))
                    finished.update(task.name for task in ready)
            except BaseException as error:
                stopped = isinstance(error, Cancelled | KeyboardInterrupt)
                board.end(run.key, "cancelled" if stopped else "failed", "" if stopped else str(error))
                raise
            board.end(run.key, "done")
    except LeaseHeldError:
        return None
    return board.get(run.key)


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
