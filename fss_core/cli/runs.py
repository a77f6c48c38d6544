"""The verbs for what was asked for: list, resume, cancel, retry, log."""

from __future__ import annotations

import argparse
from datetime import datetime

from fss_core.cli.printing import bars, print_json
from fss_core.jobs import service
from fss_core.jobs.board import OPEN_STATES, Board, Run
from fss_core.jobs.kinds import words
from fss_core.jobs.progress import progress_of
from fss_core.reports import columns
from fss_core.store import Store


def show(options: argparse.Namespace) -> int:
    """List runs, the latest first."""
    with Store() as store:
        board = Board(store)
        found = [progress_of(board, run) for run in board.runs()]
    if options.json:
        print_json(found)
        return 0
    if not found:
        print("Nothing was asked for yet. Try: fss score --network shufflenet_v2_x1_0 --dataset mnist5k --epoch 3")
        return 0
    rows = [["key", "state", "done", "asked for", "what"]]
    for now in found:
        state = now.run.state if now.is_live or now.run.state != "running" else "interrupted"
        rows.append(
            [
                now.run.key[:8],
                state,
                f"{now.share:.0%}",
                f"{datetime.fromtimestamp(now.run.asked).astimezone():%Y-%m-%d %H:%M}",
                words(now.run) + (f" ({now.run.reason})" if now.run.reason else ""),
            ]
        )
    print("\n".join(columns(rows)))
    return 0


def log(options: argparse.Namespace) -> int:
    """Print what happened to a run."""
    with Store() as store:
        board = Board(store)
        lines = board.log_lines(board.find(options.key).key)
    if options.json:
        print_json(lines)
    else:
        print(
            "\n".join(f"{datetime.fromtimestamp(own.time).astimezone():%Y-%m-%d %H:%M:%S}  {own.text}" for own in lines)
        )
    return 0


def cancel(options: argparse.Namespace) -> int:
    """Ask that a run stops."""
    with Store() as store:
        board = Board(store)
        run = board.find(options.key)
        board.cancel(run.key)
        return _print_run(board.get(run.key), options)


def retry(options: argparse.Namespace) -> int:
    """Ask again for what failed or was cancelled, and follow it."""
    with Store() as store:
        board = Board(store)
        run = board.find(options.key)
        if run.state not in OPEN_STATES:
            run = board.ask(run.kind, run.request)
        return _follow(store, [run], options)


def resume(options: argparse.Namespace) -> int:
    """Go on with everything that was asked for and is not finished, and follow it."""
    with Store() as store:
        found = Board(store).open_runs()
        if not found and not options.json:
            print("Nothing is left to do.")
        return _follow(store, found, options)


def _follow(store: Store, found: list[Run], options: argparse.Namespace) -> int:
    board = Board(store)
    for run in found:
        with bars() as show:
            service.follow_run(store, run, on_progress=show, workers=options.workers)
    ended = [board.get(run.key) for run in found]
    if options.json:
        print_json(ended)
    else:
        for run in ended:
            print(f"{run.key[:8]}  {run.state}  {words(run)}" + (f" ({run.reason})" if run.reason else ""))
    return 0 if all(run.state == "done" for run in ended) else 1


def _print_run(run: Run, options: argparse.Namespace) -> int:
    if options.json:
        print_json(run)
    else:
        print(f"{run.key[:8]}  {run.state}  {words(run)}")
    return 0
