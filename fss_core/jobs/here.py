"""Doing a request in this process, with all its cores, where everybody can see it move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

from fss_core.flow import Progress, Stage
from fss_core.jobs.board import Board, Run, Task
from fss_core.jobs.kinds import plan_request
from fss_core.jobs.rates import Machine, num_cores
from fss_core.jobs.requests import Part, Request
from fss_core.specs import Cancelled, StoreError, cache_dir
from fss_core.store import LeaseHeldError, Store


def carry_out(
    store: Store,
    request: Request,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Run | None:
    """Do a request in this process, with all cores, where everybody can see it move.

    Args:
        store: where results go.
        request: what is asked for.
        on_progress: told of every step.
        should_stop: asked before every task; when true, no other is begun.

    Returns:
        The run as it ended; ``None`` if somebody else is working on it: :func:`fss_core.jobs.service.follow` it then.

    Raises:
        Cancelled: somebody cancelled it, or ``should_stop`` said so.
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

    def do(task: Task, shown: _Overall, *, wait: bool) -> bool:
        if should_stop is not None and should_stop():
            raise Cancelled("stopped as asked; what was finished is kept, ask again to go on")
        return bench.do(order(task, wait=wait), on_progress=shown.of(task))

    try:
        with store.claim(run.lease, wait=False):
            board.begin(run.key)
            try:
                finished: set[str] = set()
                while tasks := plan_request(store, request, machine).tasks:
                    # One after the other with all cores, so that nothing of what is left is divided between workers.
                    board.put_tasks(run.key, [replace(task, wide=True) for task in tasks])
                    ready = [task for task in tasks if task.ready]
                    if finished.intersection(task.name for task in ready):
                        raise StoreError(
                            "results vanished while they were measured (another process refreshed them); run again"
                        )
                    shown = _Overall(ready, on_progress)
                    held = [task for task in ready if not do(task, shown, wait=False)]
                    for task in held:
                        do(task, shown, wait=True)
                    finished.update(task.name for task in ready)
            except BaseException as error:
                stopped = isinstance(error, Cancelled | KeyboardInterrupt)
                if stopped:
                    board.end_cancelled(run.key)
                else:
                    board.end(run.key, "failed", str(error))
                raise
            board.end(run.key, "done")
    except LeaseHeldError:
        return None
    return board.get(run.key)


class _Overall:
    """Tells of the progress through several layers, or selections, as if they were one step.

    Args:
        tasks: of which those of a kind are counted together.
        on_progress: told.
    """

    def __init__(self, tasks: list[Task], on_progress: Callable[[Progress], None] | None) -> None:
        self._seconds = {task.name: task.seconds for task in tasks}
        self._together: dict[Stage, list[str]] = {
            "measure": [task.name for task in tasks if task.stage in get_args(Part)],
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
