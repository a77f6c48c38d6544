"""What the verb study does beside grids of cells: the notebooks' procedure, and quoting what is published."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fss_core.cli.printing import bars, print_json
from fss_core.specs import Cancelled, StoreError

if TYPE_CHECKING:
    from fss_core.flow import Progress

NOTEBOOK = "notebook"
"""The study that is no grid: one cell, measured as the reference notebooks do and as this project does."""


def notebook(options: argparse.Namespace, directory: Path) -> int:
    """Compare what the notebooks do with the corrected method on one cell, and publish the comparison."""
    from fss_core.errata.records import errata_path
    from fss_core.errata.reports import errata_json, errata_lines
    from fss_core.errata.running import read_or_run, words_of_plan
    from fss_core.errata.variants import ErrataSpec
    from fss_core.store import Store

    if options.cells is not None:
        raise ValueError("--cells has no meaning for the study notebook: it is of one cell; leave it out")
    spec = ErrataSpec()
    deadline = None if options.budget_minutes is None else time.monotonic() + 60 * options.budget_minutes
    with Store() as store:
        if options.dry_run:
            words = words_of_plan(store, spec, directory)
            if options.json:
                print_json({"study": NOTEBOOK, "spec": spec, "plan": words})
            else:
                print("\n".join(words))
            return 0
        with bars() as show:
            try:
                record = read_or_run(
                    store,
                    spec,
                    directory,
                    on_progress=_teller(show if sys.stderr.isatty() else None),
                    should_stop=None if deadline is None else lambda: time.monotonic() >= deadline,
                )
            except Cancelled:
                raise StoreError(
                    "the budget ended before the comparison was complete; what was finished is kept, ask for the same "
                    "again to go on"
                ) from None
    if options.json:
        print_json(errata_json(record))
    else:
        print("\n".join([*errata_lines(record), "", f"Published in {errata_path(directory)}"]))
    return 0


def _teller(show: Callable[[Progress], None] | None) -> Callable[[str, Progress | None], None]:
    """Write a line where a step begins, and on a terminal a bar while it goes on."""

    def tell(what: str, now: Progress | None) -> None:
        if now is None:
            print(f"{'' if show is None else chr(10)}{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
        elif show is not None:
            show(now)

    return tell


def check(options: argparse.Namespace, directory: Path) -> int:
    """Recompute every number that README and the page of the errata quote, and name each that differs."""
    from fss_core.findings.checking import check_quotes

    report = check_quotes(directory, _readme(options))
    if options.json:
        print_json({"checked": report.checked, "differences": report.differences})
    else:
        for difference in report.differences:
            print(f"differs: {difference}")
        print("\n".join(report.checked))
    return int(bool(report.differences))


def quote(options: argparse.Namespace, directory: Path) -> int:
    """Write the findings into README, as they come out of what is published."""
    from fss_core.findings.checking import write_section

    path = _readme(options)
    number = write_section(directory, path)
    print(f"{number} findings are quoted in {path}")
    return 0


def _readme(options: argparse.Namespace) -> Path:
    given: Path | None = options.readme
    return given if given is not None else Path(__file__).resolve().parents[2] / "README.md"
