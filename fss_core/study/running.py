"""Doing a study: cell after cell, each step through the machinery of single measurements, within a budget of time.

Every step looks in the store first, so that a study that was killed goes on by being asked for again, and what the
dashboard or another process measured meanwhile is not measured twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from fss_core.checkpoints import find_checkpoint, read_trajectory
from fss_core.data import dataset_state
from fss_core.flow import Flow, Progress
from fss_core.jobs import service
from fss_core.jobs.board import Board
from fss_core.jobs.here import carry_out
from fss_core.jobs.requests import Request
from fss_core.specs import Cancelled, DataError, FssError
from fss_core.store import LeaseHeldError, Store
from fss_core.study.cells import Cell
from fss_core.study.costs import estimate, here, known_epsilon, num_training_images, training_rate
from fss_core.study.manifest import CellState, StudyManifest, write_manifest
from fss_core.study.presets import Preset
from fss_core.study.publishing import publish, published_cell

Stage = Literal["train", "measure", "retrain"]

OUT_OF_TIME = "the budget ended first"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyProgress:
    """Where a study stands.

    Attributes:
        cell: which is being done.
        what: which step of it, in words.
        progress: how far that is; ``None`` where a step begins, or a cell ends.
    """

    cell: Cell
    what: str
    progress: Progress | None = None


OnProgress = Callable[[StudyProgress], None]


class _OutOfTime(Exception):
    """The budget ended between two tasks."""


def run_study(
    store: Store,
    preset: Preset,
    directory: Path,
    *,
    cells: tuple[Cell, ...] | None = None,
    budget_seconds: float | None = None,
    on_progress: OnProgress | None = None,
) -> StudyManifest:
    """Do a study as far as it gets, and publish every cell as soon as it is finished.

    A cell that is published already, and asked for as it was, is left alone; one that cannot be done is passed over.

    Args:
        store: where results are kept.
        preset: which study.
        directory: where cells are published.
        cells: which of its cells; all by default.
        budget_seconds: begin no task after so many; ``None`` for no end.
        on_progress: told of every step.

    Returns:
        What the study says of itself now; also written into ``directory``.

    Raises:
        StoreError: ``directory`` cannot be written.
    """
    deadline = None if budget_seconds is None else time.monotonic() + budget_seconds
    wanted = preset.cells if cells is None else cells
    reasons = {cell.name: "not asked for yet" for cell in preset.cells}
    reasons |= {cell.name: OUT_OF_TIME for cell in wanted}
    try:
        for cell in wanted:
            if published_cell(directory, preset.name, cell) is not None:
                continue
            if deadline is not None and time.monotonic() >= deadline:
                break
            try:
                _CellRun(store, cell, deadline, on_progress).do(directory, preset.name)
            except _OutOfTime:
                break
            except LeaseHeldError:
                reasons[cell.name] = "another process is busy with it"
            except (FssError, ValueError, RuntimeError) as error:  # torch says so when memory does not suffice
                reasons[cell.name] = " ".join(str(error).split())
            write_study(store, preset, directory, reasons)
    except BaseException:
        reasons = {name: "interrupted" if own == OUT_OF_TIME else own for name, own in reasons.items()}
        write_study(store, preset, directory, reasons)
        raise
    return write_study(store, preset, directory, reasons)


def write_study(store: Store, preset: Preset, directory: Path, reasons: dict[str, str]) -> StudyManifest:
    """Write down how every cell of a study stands.

    Args:
        store: where its results are.
        preset: which study.
        directory: where cells are published.
        reasons: why a cell is missing, by name, if it is.

    Raises:
        StoreError: the directory cannot be written.
    """
    states = tuple(cell_state(store, preset, cell, directory, reasons[cell.name]) for cell in preset.cells)
    return write_manifest(directory, preset.name, preset.title, preset.notes, states)


def cell_state(store: Store, preset: Preset, cell: Cell, directory: Path, reason: str) -> CellState:
    """Say how a cell stands: published, or missing with a reason and an estimate of the rest."""
    found = published_cell(directory, preset.name, cell)
    if found is not None:
        return CellState(
            name=cell.name,
            cell=cell,
            key=cell.key,
            state="published",
            reason="",
            seconds=sum(found.seconds.values()),
            seconds_left=0.0,
            basis="measured",
            num_bytes=found.num_bytes,
        )
    reason = _no_data(cell) or reason
    try:
        cost = estimate(store, cell)
        seconds_left, basis = cost.seconds, cost.basis
    except (FssError, ValueError) as error:
        seconds_left, basis, reason = 0.0, "typical", reason if reason != OUT_OF_TIME else str(error)
    return CellState(
        name=cell.name,
        cell=cell,
        key=cell.key,
        state="missing",
        reason=reason,
        seconds=round(sum(spent(store, cell).values()), 1),
        seconds_left=round(seconds_left, 1),
        basis=basis,
        num_bytes=0,
    )


def _no_data(cell: Cell) -> str:
    """Say that a cell's data set cannot be used, without the places of this machine; empty if it can."""
    state = dataset_state(cell.dataset).state
    if state == "missing":
        return f"data set {cell.dataset!r} is not there; run `fss data fetch {cell.dataset}`"
    return f"data set {cell.dataset!r} is broken; `fss data list` says how" if state == "broken" else ""


def spent(store: Store, cell: Cell) -> dict[str, float]:
    """Say how long has been worked on a cell on this machine, whatever was asked of it: stage → seconds."""
    found = store.get(f"study/{cell.clock}")
    return {} if found is None else dict(cast(dict[str, Any], found.meta)["seconds"])


class _CellRun:
    """One cell under way."""

    def __init__(self, store: Store, cell: Cell, deadline: float | None, on_progress: OnProgress | None) -> None:
        self.store = store
        self.cell = cell
        self._deadline = deadline
        self._on_progress = on_progress or (lambda progress: None)
        self._what = ""
        self._stage: Stage = "train"
        self._counted = time.monotonic()
        self._at_epoch = True

    def do(self, directory: Path, study: str) -> None:
        cell, store = self.cell, self.store
        if reason := _no_data(cell):
            raise DataError(reason)
        from fss_core.conditions import check_device

        check_device(cell.device)
        with store.claim(f"study/{cell.key}", wait=False):
            with self._step("train", "training"):
                for seed in cell.seeds:
                    for epoch in cell.epochs:
                        self._train(seed, epoch)
            for seed, epoch in cell.points():
                with self._step("measure", f"epoch {epoch}, initialisation {seed}"):
                    self._carry_out(cell.request(seed, epoch, known_epsilon(store, cell)))
            if (request := cell.retrain_request()) is not None:
                with self._step("retrain", "retraining"):
                    self._carry_out(request)
            publish(store, cell, directory, study=study, seconds=spent(store, cell))
            self._on_progress(StudyProgress(cell=cell, what="published"))

    @contextmanager
    def _step(self, stage: Stage, what: str) -> Iterator[None]:
        self._stage, self._what, self._counted = stage, what, time.monotonic()
        self._on_progress(StudyProgress(cell=self.cell, what=what))
        try:
            yield
        except Cancelled:
            if self._is_over():
                raise _OutOfTime from None
            raise
        finally:
            self._count()

    def _count(self) -> None:
        """Add the time since it was last counted to what the cell has taken, where a kill does not lose it."""
        now = time.monotonic()
        seconds = spent(self.store, self.cell)
        seconds[self._stage] = seconds.get(self._stage, 0.0) + now - self._counted
        self._counted = now
        self.store.put(f"study/{self.cell.clock}", {}, meta={"name": self.cell.name, "seconds": seconds})

    def _is_over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _tell(self, progress: Progress) -> None:
        if progress.stage == "train":
            self._at_epoch = progress.done == int(progress.done)
        self._on_progress(StudyProgress(cell=self.cell, what=self._what, progress=progress))

    def _stop_between_tasks(self) -> bool:
        self._count()
        return self._is_over()

    def _stop_between_epochs(self) -> bool:
        return self._at_epoch and self._is_over()

    def _carry_out(self, request: Request) -> None:
        if not service.estimate(self.store, request, workers=1).tasks:
            return
        run = carry_out(self.store, request, on_progress=self._tell, should_stop=self._stop_between_tasks)
        if run is None:  # somebody else asked for the same
            service.follow(self.store, request, on_progress=self._tell)

    def _train(self, seed: int, epoch: int) -> None:
        """Train to one epoch, and learn how fast that goes."""
        cell, spec = self.cell, self.cell.training(seed)
        found = find_checkpoint(spec, epoch)
        if found is not None and found.kept:
            return
        if self._is_over():
            raise _OutOfTime
        import torch

        machine = here()
        torch.set_num_threads(machine.cores)
        begun = max((own for own, saved in read_trajectory(spec).items() if own < epoch and saved.has_state), default=0)
        started, self._at_epoch = time.perf_counter(), True
        flow = Flow(self.store, on_progress=self._tell, should_stop=self._stop_between_epochs)
        flow.train(spec, [epoch], device=cell.device)
        units = float((epoch - begun) * num_training_images(cell))
        rate = training_rate(self.store, cell, machine).key
        Board(self.store).add_rate(rate, units, time.perf_counter() - started)
        self._count()
