"""What an export may be at most, and how what is no export is refused: in one line."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager

from fss_core.exports import LARGEST_CONTENT as LARGEST_CONTENT
from fss_core.exports import LARGEST_FILE as LARGEST_FILE
from fss_core.specs import StoreError

LARGEST_MANIFEST = 2**20
LARGEST_DIRECTORY = 2**14
"""Bytes of a ZIP's list of members; six names need 500."""
LARGEST_FOOTER = 2**20
"""Bytes of a Parquet file's description of itself; ours needs 2,000."""
LONGEST_TEXT = 1000
MOST_LAYERS, MOST_DRAWS, MOST_CLASSES, MOST_BINS, MOST_PAGES = 2000, 1000, 2**16, 1000, 10_000


class Unfit(Exception):
    """What is wrong with an export: the rule, and the value received."""


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Turn what is wrong with an export into one line that names it and the remedy."""
    try:
        yield
    except Unfit as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"{name} is not a sound export ({reason}); ask for it to be exported again") from error
    except OSError as error:
        raise StoreError(f"{name} cannot be read ({error.strerror or error}); check the place") from error


def require(condition: object, rule: str, value: object) -> None:
    """Raise :class:`Unfit` unless a rule holds."""
    if not condition:
        raise Unfit(f"{rule}, got {reprlib.repr(value)}")
