"""Files and ZIPs of exports: read no further than their bounds, and only where they hold what an export holds."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fss_core.exports import MANIFEST, TABLES
from fss_core.imports import bounds
from fss_core.imports.bounds import Unfit, require


def read_file(path: Path, most: int) -> bytes:
    """Read a plain file of at most so many bytes."""
    found = path.stat()
    require(stat.S_ISREG(found.st_mode), f"{path.name} must be a file", stat.filemode(found.st_mode))
    with path.open("rb") as file:
        content = file.read(min(found.st_size, most) + 1)  # room is made for as much as is asked for
    require(len(content) <= most, f"{path.name} must have at most {most:,} bytes", f"at least {len(content):,}")
    return content


@contextmanager
def open_zip(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Open a ZIP that holds the members of an export and nothing else."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 42))
    tail = file.read(42)
    # The list of members is bounded before zipfile makes an object of each: the record of the end comes last, without
    # a comment, and without the one that would let ZIP64 override it.
    require(tail[-22:-18] == b"PK\5\6", "a ZIP must end with its directory and no comment", tail[-22:])
    require(tail[:4] != b"PK\6\7", "a ZIP must not be a ZIP64", tail[:4])
    length = int.from_bytes(tail[-10:-6], "little")
    require(
        length <= bounds.LARGEST_DIRECTORY,
        f"the ZIP's directory must have at most {bounds.LARGEST_DIRECTORY:,} bytes",
        length,
    )
    with _damaged_zip():
        archive = zipfile.ZipFile(file)
    with archive:
        members = archive.infolist()
        names = sorted(member.orig_filename for member in members)
        require(names == sorted((MANIFEST, *TABLES)), f"members must be {', '.join((MANIFEST, *TABLES))}", names)
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            require(kind in (0, stat.S_IFREG), f"{member.filename} must be a plain file", stat.filemode(kind))
            require(not member.flag_bits & 0x1, f"{member.filename} must not be encrypted", member.flag_bits)
            require(
                member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
                f"{member.filename} must be stored or deflated",
                member.compress_type,
            )
        yield archive


@contextmanager
def _damaged_zip() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged archive shows itself as anything from BadZipFile to zlib.error
        raise Unfit(f"the ZIP is damaged: {error}") from error


def zip_member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Unpack one member, of at most so many bytes."""
    with _damaged_zip(), archive.open(name) as file:
        content = file.read(most + 1)
    require(len(content) <= most, f"{name} must have at most {most:,} bytes unpacked", f"at least {len(content):,}")
    return content
