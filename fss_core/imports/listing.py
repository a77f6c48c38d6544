"""What lies below a directory, looked through again only when something of it is another."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

_TICK_NS = 2_500_000_000
"""More than any file system's clock takes to move on (FAT: 2 s): what changed within one may change again unseen."""


class _Stamp(NamedTuple):
    changed: int
    """When the file system noted a change last, in nanoseconds; nobody can set it, unlike ``modified``."""
    modified: int
    num_bytes: int
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing(Generic[T]):
    """What was found below a directory.

    Attributes:
        found: path → what was made of the file there, by path.
        stamps: path → its stamp, of every directory and of every file that was read; ``None`` for what is not there.
        settled: the paths among them whose last change was over when they were looked at, so that another shows.
        is_whole: whether everything could be looked into and read.
        version: another one whenever a file that is read, or what lies beside it, was added, replaced or taken away.
    """

    found: dict[str, T]
    stamps: dict[str, _Stamp | None]
    settled: frozenset[str]
    is_whole: bool
    version: str

    @property
    def is_current(self) -> bool:
        """Whether it would be the same again: a stamp a path is looked at, nothing is read."""
        return (
            self.is_whole
            and len(self.settled) == len(self.stamps)
            and all(_stamp(path) == own for path, own in self.stamps.items())
        )


def list_below(
    root: Path,
    is_wanted: Callable[[str, str], bool],
    read: Callable[[Path], T],
    *,
    is_sound: Callable[[T], bool] = lambda _: True,
    before: Listing[T] | None = None,
) -> Listing[T]:
    """Look through a directory, at any depth; symbolic links to directories are not followed.

    Args:
        root: it need not exist.
        is_wanted: a directory and the name of a file in it → whether that is to be read.
        read: what to make of such a file.
        is_sound: whether what was made of a file will do; if not, the file is read again the next time.
        before: an earlier listing of the same directory: what is unchanged since is not read again.

    Returns:
        What was made of the files.
    """
    started = time.time_ns()
    errors: list[OSError] = []
    directories: dict[str, _Stamp | None] = {str(root): _stamp(str(root))}  # each before it is looked into
    wanted = []
    for directory, below, files in os.walk(root, onerror=errors.append):
        directories |= {path: _stamp(path) for path in (str(Path(directory, name)) for name in below)}
        wanted += [str(Path(directory, name)) for name in files if is_wanted(directory, name)]
    known = {path: _stamp(path) for path in sorted(wanted)}
    found = {
        path: before.found[path]
        if before is not None and path in before.settled and own == before.stamps[path]
        else read(Path(path))
        for path, own in known.items()
    }
    stamps = directories | known
    unsound = {path for path, own in found.items() if not is_sound(own)}
    beside = {path: own for path, own in stamps.items() if path != str(root)}
    return Listing(
        found=found,
        stamps=stamps,
        settled=frozenset(
            path for path, own in stamps.items() if own is None or started - own.changed > _TICK_NS
        ).difference(unsound),
        is_whole=all(isinstance(error, FileNotFoundError) for error in errors),
        version=sha256(repr(sorted(beside.items())).encode()).hexdigest(),
    )


def _stamp(path: str) -> _Stamp | None:
    try:
        own = os.stat(path)  # noqa: PTH116  (a page looks at hundreds)
    except OSError:
        return None
    return _Stamp(changed=own.st_ctime_ns, modified=own.st_mtime_ns, num_bytes=own.st_size, inode=own.st_ino)
