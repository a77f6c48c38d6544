"""What all verbs print alike: JSON, and bars on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from fss_core.flow import Progress


def print_json(value: object) -> None:
    """Print dataclasses, and what JSON knows, as JSON."""

    def plain(item: object) -> object:
        if is_dataclass(item) and not isinstance(item, type):
            return asdict(item)
        return str(item)

    print(json.dumps(value, indent=1, ensure_ascii=False, default=plain, allow_nan=False))


@contextmanager
def bars() -> Iterator[Callable[[Progress], None]]:
    """Show progress on standard error, one bar per step, with the time left."""
    from tqdm import tqdm

    bar: tqdm[NoReturn] | None = None
    stage = ""

    def show(progress: Progress) -> None:
        nonlocal bar, stage
        if progress.stage != stage:
            if bar is not None:
                bar.total = bar.n  # calibration ends before its upper bound
                bar.refresh()
                bar.close()
            stage = progress.stage
            shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"
            bar = tqdm(desc=f"{stage:9}", total=progress.total, bar_format=shape, file=sys.stderr, leave=True)
        assert bar is not None
        bar.total = progress.total
        bar.set_postfix_str(progress.detail, refresh=False)
        bar.update(progress.done - bar.n)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()
