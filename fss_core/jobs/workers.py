"""What a worker does: one task of one run, telling the board how far it is and asking it whether to stop."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fss_core.checkpoints import resolve_factory
from fss_core.flow import Flow, Progress
from fss_core.jobs.board import Board, Task
from fss_core.jobs.kinds import Work, kind_of, read_request
from fss_core.specs import StoreError, cache_dir
from fss_core.store import LeaseHeldError, Store

_SECONDS_BETWEEN_LOOKS = 0.3
"""Between two looks at the board, whether to stop; far below the three seconds that a cancellation may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A task on its way to a worker.

    Attributes:
        directory: of the store.
        cache: the cache directory that checkpoints and data sets are looked for in.
        run: key of the run.
        task: what to do.
        threads: cores to use.
        wait: wait for a layer that another process is busy with.
    """

    directory: str
    cache: str
    run: str
    task: Task
    threads: int
    wait: bool = False


class Attention:
    """What a task says to the board, and hears from it, a few times a second at most.

    Args:
        board: where runs are.
        run: key of the run.
        task: name of the task.
        on_progress: told, too.
    """

    def __init__(
        self, board: Board, run: str, task: str, on_progress: Callable[[Progress], None] | None = None
    ) -> None:
        """Look at the board soon."""
        self._board = board
        self._run = run
        self._task = task
        self._on_progress = on_progress
        self._looked = self._said = 0.0
        self._stop = False

    def progress(self, progress: Progress) -> None:
        """Say how far the task is."""
        if self._on_progress is not None:
            self._on_progress(progress)
        now = time.monotonic()
        if now - self._said > _SECONDS_BETWEEN_LOOKS:
            self._said = now
            share = progress.done / progress.total if progress.total else 0.0
            self._board.move_task(self._run, self._task, share, progress.detail)

    def should_stop(self) -> bool:
        """Ask whether to stop."""
        now = time.monotonic()
        if not self._stop and now - self._looked > _SECONDS_BETWEEN_LOOKS:
            self._looked = now
            self._stop = self._board.wants_stop(self._run)
        return self._stop


class Bench:
    """A process's place of work: its store, and the network it measured last, ready for the next layer.

    Args:
        store: where results go.
    """

    def __init__(self, store: Store) -> None:
        """Begin with nothing on the bench."""
        self.board = Board(store)
        self._attention: Attention | None = None
        self._flow = lru_cache(maxsize=1)(self._make_flow)
        self._works: dict[str, Work] = {}

    def _make_flow(self, factory: str | None) -> Flow:
        return Flow(
            self.board.store,
            on_progress=lambda progress: self._attention.progress(progress) if self._attention else None,
            should_stop=lambda: self._attention is not None and self._attention.should_stop(),
            factory=None if factory is None else resolve_factory(factory),
        )

    def do(self, order: Order, *, on_progress: Callable[[Progress], None] | None = None) -> bool:
        """Do one task, and learn how fast it went.

        Args:
            order: the task.
            on_progress: told of every step.

        Returns:
            False if another process is busy with it, and ``order.wait`` is not set.

        Raises:
            Cancelled: the run was cancelled.
            FssError: it cannot be done; the text says why.
        """
        import torch

        torch.set_num_threads(order.threads)
        run, task = self.board.get(order.run), order.task
        request = read_request(run)
        if run.kind not in self._works:
            self._works = {run.kind: kind_of(run).make_work(self._flow)}  # what another kind kept is let go
        self._attention = Attention(self.board, run.key, task.name, on_progress)
        self.board.start_task(run.key, task.name)
        try:
            units, seconds = self._works[run.kind].do(request, task, wait=order.wait)
        except LeaseHeldError:
            return False
        finally:
            self._attention = None
        self.board.finish_task(run.key, task.name)
        if task.rate:
            self.board.add_rate(task.rate, units, seconds)
        return True


@lru_cache(maxsize=1)
def _bench(directory: str) -> Bench:
    return Bench(Store(Path(directory)))


def do_order(order: Order) -> bool:
    """Do one task in a worker process; what Dask calls.

    Args:
        order: the task.

    Returns:
        As :meth:`Bench.do`.

    Raises:
        FssError: the task cannot be done, or this worker looks for checkpoints elsewhere than who sent the order.
    """
    own = str(cache_dir().absolute())
    if own != order.cache:
        raise StoreError(f"this worker's cache is {own}, not {order.cache}; start it with FSS_CACHE_DIR set to that")
    return _bench(order.directory).do(order)


def worker_index() -> int | None:
    """Say which of Dask's workers on this machine this process is; ``None`` in a process that is none."""
    if "distributed" not in sys.modules:
        return None
    import distributed

    try:
        name = str(distributed.get_worker().name)
    except ValueError:
        return None
    return int(name) if name.isdecimal() else None


def warm_up() -> None:
    """Import what every task needs, so that the first one need not wait for it."""
    import torchattacks  # noqa: F401

    from fss_core import measuring  # noqa: F401
