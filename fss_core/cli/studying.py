"""The verb that does a grid of cells and publishes them: study."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from fss_core.cli import quoting
from fss_core.cli.printing import bars, print_json
from fss_core.specs import cache_dir, choose, published_dir

if TYPE_CHECKING:
    from fss_core.flow import Progress
    from fss_core.study.cells import Cell
    from fss_core.study.manifest import CellState, StudyManifest
    from fss_core.study.running import StudyProgress


def study(options: argparse.Namespace) -> int:
    """Do a study as far as its budget goes, or only say what it would cost; or check what is quoted from studies."""
    reads = options.check or options.quote
    own = published_dir() if reads or "FSS_PUBLISHED_DIR" in os.environ else cache_dir() / "published"
    directory = (options.directory or own).expanduser().absolute()
    if reads:
        return quoting.check(options, directory) if options.check else quoting.quote(options, directory)
    from fss_core.store import Store
    from fss_core.study.presets import PRESETS, find_preset
    from fss_core.study.running import OUT_OF_TIME, cell_state, run_study

    choose(options.preset, (*PRESETS, quoting.NOTEBOOK), what="study")
    if options.budget_minutes is not None and not 0 <= options.budget_minutes < math.inf:
        raise ValueError(f"--budget-minutes must be at least 0, got {options.budget_minutes:g}")
    if options.preset == quoting.NOTEBOOK:
        return quoting.notebook(options, directory)
    preset = find_preset(options.preset)
    cells = preset.chosen(options.cells)
    with Store() as store:
        if options.dry_run:
            states = tuple(cell_state(store, preset, cell, directory, "") for cell in cells)
            if options.json:
                print_json({"study": preset.name, "title": preset.title, "notes": preset.notes, "cells": states})
            else:
                print("\n".join([f"{preset.name}: {preset.title}", *preset.notes, "", *_table(states)]))
            return 0
        with bars() as show:
            manifest = run_study(
                store,
                preset,
                directory,
                cells=cells,
                budget_seconds=None if options.budget_minutes is None else 60 * options.budget_minutes,
                on_progress=_Teller(show if sys.stderr.isatty() else None),
            )
    asked = {cell.name for cell in cells}
    states = tuple(state for state in manifest.cells if state.name in asked)
    if options.json:
        print_json(manifest)
    else:
        print("\n".join(_lines(manifest, states, str(directory))))
    return int(any(state.state == "missing" and state.reason != OUT_OF_TIME for state in states))


class _Teller:
    """Writes a line where a cell's step begins, and on a terminal a bar while it goes on."""

    def __init__(self, show: Callable[[Progress], None] | None) -> None:
        self._show = show
        self._cell: Cell | None = None

    def __call__(self, now: StudyProgress) -> None:
        if now.progress is not None:
            if self._show is not None:
                self._show(now.progress)
            return
        if now.cell != self._cell:
            self._cell = now.cell
            self._say(now.cell.words())
        self._say(now.what)

    def _say(self, text: str) -> None:
        assert self._cell is not None
        start = "" if self._show is None else "\n"
        print(f"{start}{time.strftime('%H:%M:%S')} {self._cell.name}: {text}", file=sys.stderr, flush=True)


def _lines(manifest: StudyManifest, states: tuple[CellState, ...], directory: str) -> list[str]:
    published = [state for state in states if state.state == "published"]
    num_bytes = sum(state.num_bytes for state in published)
    return [
        *_table(states),
        "",
        f"{len(published)} of {len(states)} cells are published in {directory}: {num_bytes / 1e6:.2f} MB",
        *(["Ask for the same again to go on."] if len(published) < len(states) else []),
        *manifest.notes,
    ]


def _table(states: tuple[CellState, ...]) -> list[str]:
    from fss_core.jobs.progress import in_words
    from fss_core.reports import columns

    rows = [["cell", "epochs", "init.", "images", "thresholds", "state", "spent", "left", "estimate", "MB"]]
    for state in states:
        cell, is_there = state.cell, state.state == "published"
        rows.append(
            [
                state.name,
                ",".join(map(str, cell.epochs)),
                str(len(cell.seeds)),
                str(cell.num_images),
                str(cell.num_thresholds),
                state.state,
                in_words(state.seconds) if state.seconds else "–",
                "–" if is_there else in_words(state.seconds_left),
                "–" if is_there else state.basis,
                f"{state.num_bytes / 1e6:.2f}" if is_there else "–",
            ]
        )
    left = [state for state in states if state.state == "missing"]
    total = in_words(sum(state.seconds_left for state in left))
    reasons: dict[str, list[str]] = {}
    for state in left:
        reasons.setdefault(state.reason, []).append(state.name)
    return [
        *columns(rows),
        *(f"{', '.join(names)}: {reason}" for reason, names in reasons.items() if reason),
        *(
            [f"Left in all: {len(left)} cell{'s' if len(left) > 1 else ''}, about {total} on this machine"]
            if left
            else []
        ),
    ]
