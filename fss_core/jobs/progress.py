"""How far a run is, how long it will take yet, and what is being done, in words."""

from __future__ import annotations

import time
from dataclasses import dataclass

from fss_core.jobs.board import OPEN_STATES, Board, Run, TaskRow
from fss_core.jobs.pool import local_machine

_STAGES = {
    "data": "preparing the data set",
    "train": "training",
    "epsilon": "choosing ε",
    "images": "attacking the images",
    "preview": "taking a first look",
    "layers": "filtering layer by layer",
    "whole": "filtering the whole network",
    "control": "measuring the random control",
    "criticality": "looking for critical layers",
    "judge": "judging the network before retraining",
    "retrain": "retraining and judging",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """How far a run is.

    Attributes:
        run: the run.
        is_live: whether somebody works on it now; an open run that is not waits for a runner.
        share: work done over work in all, weighted by what each task was expected to cost, from 0 to 1.
        seconds_left: about how long it will take yet, at the rate it has had, while it takes turns with the other runs
            that are worked on; ``None`` before anything is known.
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
        workers: tasks that are done side by side; by default as many as this machine does.
    """
    tasks = board.tasks(run.key)
    is_live = board.is_live(run)
    left = _work_left_by_width(tasks)
    spent = sum(_taken(task) for task in tasks)
    beside = [
        board.tasks(own.key)
        for own in board.open_runs()
        if is_live and own.key != run.key and own.state == "running" and board.is_live(own)
    ]
    current = [task for task in tasks if task.state == "running"]
    stage, detail = "", ""
    if run.state == "queued" or (run.state == "running" and not is_live):
        stage = "waiting for a worker"
    elif run.state == "cancelling":
        stage = "stopping"
    elif run.state == "running":
        stage = _STAGES.get(current[0].name.partition(":")[0], "") if current else "starting"
        if not current and any(task.state == "running" for own in beside for task in own):
            stage = "waiting for its turn"
        detail = ", ".join(dict.fromkeys(task.detail for task in current if task.detail))
    return RunProgress(
        run=run,
        is_live=is_live,
        share=1.0 if run.state == "done" else spent / (spent + sum(left.values())) if tasks else 0.0,
        seconds_left=_seconds_left(
            left, [_work_left_by_width(own) for own in beside], workers or local_machine().workers
        )
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


def _work_left_by_width(tasks: list[TaskRow]) -> dict[bool, float]:
    """Add up what is left: of what keeps all cores busy by itself (True), and of what workers share (False)."""
    return {wide: _work_left([task for task in tasks if task.wide == wide]) for wide in (True, False)}


def _seconds_left(left: dict[bool, float], beside: list[dict[bool, float]], workers: int) -> float:
    """Say how long a run takes that takes turns with others: each has as many turns, until it is done."""
    own, *others = (work[True] + work[False] / workers for work in (left, *beside))
    return own + sum(min(own, other) for other in others)


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
