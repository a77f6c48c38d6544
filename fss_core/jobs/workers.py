"""What a worker does: one task of one run, telling the board how far it is and asking it whether to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import cast

from fss_core.checkpoints import find_checkpoint, resolve_factory
from fss_core.data import dataset_card, load_dataset
from fss_core.flow import Flow, Progress
from fss_core.jobs.board import Board, Task
from fss_core.jobs.rates import PASSES_OF_CALIBRATION
from fss_core.jobs.requests import MeasureRequest, Part
from fss_core.measurement import Measurement
from fss_core.specs import MeasurementSpec, StoreError, cache_dir, from_json
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
        device_index: which of several devices of a kind; ``None`` leaves the choice to torch.
        wait: wait for a layer that another process is busy with.
    """

    directory: str
    cache: str
    run: str
    task: Task
    threads: int
    device_index: int | None = None
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
        self._measurement = lru_cache(maxsize=1)(self._make_measurement)
        self._flow = lru_cache(maxsize=1)(self._make_flow)

    def _make_flow(self, factory: str | None) -> Flow:
        return Flow(
            self.board.store,
            on_progress=lambda progress: self._attention.progress(progress) if self._attention else None,
            should_stop=lambda: self._attention is not None and self._attention.should_stop(),
            factory=None if factory is None else resolve_factory(factory),
        )

    def _make_measurement(
        self, spec: MeasurementSpec, layers: tuple[str, ...] | None, factory: str | None, weights: str | None
    ) -> Measurement:
        # Named by the weights: an epoch that was pruned and trained anew is another network.
        return Measurement(self._flow(factory), spec, layers)

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
        request = from_json(MeasureRequest, run.request)
        if order.device_index is not None and request.spec.device == "cuda":
            request = replace(request, spec=replace(request.spec, device=f"cuda:{order.device_index}"))
        self._attention = Attention(self.board, run.key, task.name, on_progress)
        self.board.start_task(run.key, task.name)
        try:
            units, seconds = self._execute(request, task, wait=order.wait)
        except LeaseHeldError:
            return False
        finally:
            self._attention = None
        self.board.finish_task(run.key, task.name)
        if task.rate:
            self.board.add_rate(task.rate, units, seconds)
        return True

    def _execute(self, request: MeasureRequest, task: Task, *, wait: bool) -> tuple[float, float]:
        """Do a task; returns the work that it was, in units of its rate, and the seconds it took."""
        stage, _, name = task.name.partition(":")
        training = request.spec.training
        started = time.perf_counter()
        if stage == "data":
            load_dataset(training.dataset)
            return 0.0, 0.0
        part = cast(Part, name if stage == "images" else stage if stage in request.parts() else "layers")
        checkpoint = find_checkpoint(training, request.spec.epoch)
        weights = None if checkpoint is None else checkpoint.sha256
        layers = request.layers if part != "whole" else None
        measurement = self._measurement(request.parts()[part], layers, request.factory, weights)
        if stage == "train":
            _ = measurement.checkpoint
            return task.units, time.perf_counter() - started
        if stage == "epsilon":
            num_images = dataset_card(training.dataset).split_sizes["calibration"]
            calibration = measurement.calibrate()
            units = float(num_images * PASSES_OF_CALIBRATION * len(calibration.grid))
            return units, time.perf_counter() - started
        if stage == "images":
            measurement.prepare()
            return 0.0, 0.0
        _ = measurement.measurer  # made once for all layers, so its time is not this layer's
        started = time.perf_counter()
        if measurement.measure_layers([name], wait=wait):
            raise LeaseHeldError(f"{name} is being worked on by another process; wait for it, or try again later")
        return task.units, time.perf_counter() - started


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


def warm_up() -> None:
    """Import what every task needs, so that the first one need not wait for it."""
    import torchattacks  # noqa: F401

    from fss_core import measuring  # noqa: F401
