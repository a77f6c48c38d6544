"""The process that works off the board: it plans the open runs, and hands their tasks to the pool.

One runner at a time serves a store. It holds each run's lease while it works on it, keeps no more tasks under way than
workers are ready, and takes turns between runs. When its parent is gone it ends, and the runs stay open for the next.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from fss_core.computing import prepare_to_compute
from fss_core.jobs.board import Board, Run, Task
from fss_core.jobs.kinds import plan_run
from fss_core.jobs.pool import Pool
from fss_core.jobs.rates import Machine
from fss_core.jobs.service import RUNNER_LEASE
from fss_core.jobs.workers import Order
from fss_core.specs import Cancelled, FssError, cache_dir
from fss_core.store import LeaseHeldError, Store

if TYPE_CHECKING:
    from distributed import Future

LEASE_SECONDS = 10.0
IDLE_SECONDS = 600.0
"""How long a runner without work keeps its workers warm."""

_SECONDS_BETWEEN_ROUNDS = 0.1
_TURN_SECONDS = 10.0
"""How long one of several runs has the workers: each keeps only the network that it measured last."""
_GRACE_SECONDS = 1.5
"""How long a task may go on after its run was cancelled, before its worker is killed."""

log = logging.getLogger(__name__)


class ActiveRun:
    """A run that is being worked on.

    Args:
        board: where it lies.
        run: the run; its lease is taken.
        machine: who does the work.

    Raises:
        LeaseHeldError: somebody else works on it.
    """

    def __init__(self, board: Board, run: Run, machine: Machine) -> None:
        """Take the lease."""
        self.run = run
        self.waiting: deque[Task] = deque()
        self.under_way: dict[Future, Task] = {}
        self.cancelled_at: float | None = None
        self.failure = ""
        self._board = board
        self._machine = machine
        self._finished: set[str] = set()
        self._held: set[str] = set()
        self._leases = ExitStack()
        self._leases.enter_context(board.store.claim(run.lease, wait=False, lease_seconds=LEASE_SECONDS))
        board.begin(run.key)

    def plan(self) -> bool:
        """Find out what is left; False when nothing is.

        Raises:
            FssError: what is left cannot be done.
            ValueError: the request asks for what cannot be.
        """
        plan = plan_run(self._board.store, self.run, self._machine)
        ready = [task for task in plan.tasks if task.ready]
        if again := self._finished.intersection(task.name for task in ready):
            raise FssError(
                f"{min(again)} was finished and its result is not there (another process refreshed it?); ask again"
            )
        self._board.put_tasks(self.run.key, plan.tasks)
        self.waiting.extend(ready)
        return bool(plan.tasks)

    def next_task(self, *, alone: bool) -> Task | None:
        """Take the next task that may start now; a wide one only while nothing else is under way."""
        if self.waiting and (alone or not self.waiting[0].wide):
            return self.waiting.popleft()
        return None

    def must_wait(self, task: Task) -> bool:
        """Say whether a task was found in another's hands before, and nothing else is left to do meanwhile."""
        return task.name in self._held and all(other.name in self._held for other in self.waiting)

    def collect(self, future: Future) -> None:
        """Take note of how a task ended."""
        task = self.under_way.pop(future)
        error = future.exception() if future.status == "error" else None
        if future.status == "cancelled" or isinstance(error, Cancelled):
            return
        if error is None:
            if future.result():
                self._finished.add(task.name)
            else:
                self._held.add(task.name)
                self.waiting.append(task)
            return
        self.waiting.clear()
        if isinstance(error, FssError | ValueError):
            self.failure = self.failure or str(error)
        elif type(error).__name__ == "KilledWorker":
            self.failure = f"{task.name} lost its worker again and again (out of memory?); take fewer images, or retry"
        else:
            self._board.log(self.run.key, "".join(traceback.format_exception(error)))
            self.failure = f"unexpected {type(error).__name__} in {task.name}: {error}; the log says where"

    def release(self) -> None:
        """Give the lease back."""
        self._leases.close()


class Runner:
    """Works off a store's board until it has been idle for a while, or is told to stop.

    Args:
        store: whose board.
        num_workers: processes; by default as the pool says.
        idle_seconds: how long to stay without work.
        should_stop: looked at every round.
    """

    def __init__(
        self,
        store: Store,
        *,
        num_workers: int | None = None,
        idle_seconds: float = IDLE_SECONDS,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begin without workers: they are started when there is work."""
        self.board = Board(store)
        self._num_workers = num_workers
        self._idle_seconds = idle_seconds
        self._should_stop = should_stop
        self._active: dict[str, ActiveRun] = {}
        self._pool: Pool | None = None
        self._turn_began = time.monotonic()

    def serve(self) -> None:
        """Work."""
        busy = time.monotonic()
        try:
            while not self._should_stop():
                self._round()
                if self._active:
                    busy = time.monotonic()
                elif time.monotonic() - busy > self._idle_seconds:
                    return
                time.sleep(_SECONDS_BETWEEN_ROUNDS)
        finally:
            for active in self._active.values():
                active.release()
            if self._pool is not None:
                self._pool.close()

    def _round(self) -> None:
        for run in self.board.open_runs():
            if run.key not in self._active:
                self._adopt(run)
        for active in list(self._active.values()):
            self._attend(active)
        self._hand_out()

    def _adopt(self, run: Run) -> None:
        if run.state == "cancelling":
            if not self.board.is_live(run):
                self.board.end(run.key, "cancelled")
            return
        try:
            if self._pool is None:
                self.board.log(run.key, "starting the workers")
                self._pool = Pool(self._num_workers)
            self._active[run.key] = ActiveRun(self.board, run, self._pool.machine)
        except LeaseHeldError:
            return  # the command line works on it
        except FssError as error:
            self.board.end(run.key, "failed", str(error))
        except Exception as error:
            log.exception("starting the workers")
            self.board.log(run.key, traceback.format_exc())
            reason = f"the workers cannot be started ({type(error).__name__}: {error}); the log says where"
            self.board.end(run.key, "failed", reason)

    def _attend(self, active: ActiveRun) -> None:
        """Bring one run forward: collect what is finished, plan what is next, end it when it has ended."""
        key = active.run.key
        for future in [own for own in active.under_way if own.done()]:
            active.collect(future)
        if active.cancelled_at is not None or self.board.wants_stop(key):
            self._cancel(active)
        if active.under_way:
            return
        if active.cancelled_at is not None:
            self.board.end_cancelled(key)
            self._drop(active)  # if it was asked for again meanwhile, the next round begins with it anew
        elif active.failure:
            self._end(active, "failed", active.failure)
        elif not active.waiting:
            try:
                if not active.plan():
                    self._end(active, "done", "")
            except (FssError, ValueError) as error:
                self._end(active, "failed", str(error))
            except Exception as error:
                log.exception("planning %s", key)
                self.board.log(key, traceback.format_exc())
                self._end(active, "failed", f"unexpected {type(error).__name__}: {error}; the log says where")

    def _cancel(self, active: ActiveRun) -> None:
        active.waiting.clear()
        if active.cancelled_at is None:
            active.cancelled_at = time.monotonic()
        elif time.monotonic() - active.cancelled_at > _GRACE_SECONDS:
            assert self._pool is not None
            for future in list(active.under_way):
                self._pool.kill(future)
                del active.under_way[future]

    def _end(self, active: ActiveRun, state: str, reason: str) -> None:
        self.board.end(active.run.key, state, reason)  # type: ignore[arg-type]
        self._drop(active)

    def _drop(self, active: ActiveRun) -> None:
        active.release()
        del self._active[active.run.key]

    def _hand_out(self) -> None:
        """Keep the workers busy, taking turns between runs."""
        while self._pool is not None and (found := self._next_task(self._pool)) is not None:
            active, task = found
            machine = self._pool.machine
            order = Order(
                directory=str(self.board.store.directory),
                cache=str(cache_dir().absolute()),
                run=active.run.key,
                task=task,
                threads=machine.cores if task.wide else machine.threads,
                wait=active.must_wait(task),
            )
            active.under_way[self._pool.submit(order)] = task
            if time.monotonic() - self._turn_began > _TURN_SECONDS:
                # Whoever had a turn goes to the end of the line.
                self._active[active.run.key] = self._active.pop(active.run.key)
                self._turn_began = time.monotonic()

    def _next_task(self, pool: Pool) -> tuple[ActiveRun, Task] | None:
        """Find the run whose turn it is, and its next task; ``None`` while nothing may start."""
        under_way = [task for active in self._active.values() for task in active.under_way.values()]
        if len(under_way) >= pool.num_ready() or any(task.wide and pool.is_local for task in under_way):
            return None
        for active in self._active.values():
            if active.waiting:
                # A wide task waits until the workers have run empty for it; nothing overtakes it.
                task = active.next_task(alone=not under_way or not pool.is_local)
                return None if task is None else (active, task)
        return None


def main() -> int:
    """Serve the store of this environment until idle; what pages and the command line start."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one a core, or one a GPU)")
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS, help="stay so long without work")
    parser.add_argument("--parent", type=int, default=None, help="end when this process is gone")
    options = parser.parse_args()
    prepare_to_compute()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)

    def should_stop() -> bool:
        return stopping or (options.parent is not None and os.getppid() != options.parent)

    with Store() as store:
        try:
            with store.claim(RUNNER_LEASE, wait=False, lease_seconds=LEASE_SECONDS):
                Runner(
                    store, num_workers=options.workers, idle_seconds=options.idle_seconds, should_stop=should_stop
                ).serve()
        except LeaseHeldError:
            return 0  # another one serves this store
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
