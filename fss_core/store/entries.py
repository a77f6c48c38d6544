"""How a result becomes bytes, and the only way bytes go to disk: checked when read, never unpickled.

An entry is ``MAGIC``, the result schema, the SHA-256 of what follows, and a safetensors file in memory.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diskcache
import numpy as np
import safetensors
import safetensors.numpy
from diskcache.core import MODE_BINARY, MODE_RAW, UNKNOWN
from numpy.typing import NDArray

from fss_core import specs
from fss_core.specs import StaleResultError, StoreError

SCHEMA: int = 1
"""The schema of results: part of every key and of every stored entry; raise it when their meaning changes."""

MAGIC = b"FSSR"
DTYPES = tuple(np.dtype(name) for name in ("bool", "uint8", "uint16", "int64", "float32", "float64"))
"""What an array may consist of."""

_HEADER = struct.Struct("<4sI32s")
_FILE_NAME = re.compile(r"[0-9a-f]{2}[/\\][0-9a-f]{2}[/\\][0-9a-f]{28}\.val")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredArrays:
    """What was stored under one key.

    Attributes:
        arrays: by name; copies, free to change.
        meta: what was said about them, as JSON knows it (a tuple comes back as a list).
    """

    arrays: dict[str, NDArray[Any]]
    meta: dict[str, object]


# Entries --------------------------------------------------------------------------------------------------


def encode(arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, object]) -> bytes:
    """Write arrays and what is said about them as one checked entry.

    Args:
        arrays: by name, any shape, of a type in ``DTYPES``; not modified.
        meta: anything with a JSON form.

    Returns:
        The entry; equal input gives equal bytes.

    Raises:
        TypeError: something in ``meta`` has no JSON form.
        ValueError: an array has another type, a name is reserved, or a number in ``meta`` is not finite.

    >>> entry = encode({"bits": np.array([True, False])}, {"n": 2})
    >>> decode("example", entry).arrays["bits"]
    array([ True, False])
    """
    dense = {name: _dense(name, array) for name, array in arrays.items()}
    payload = safetensors.numpy.save(dense, metadata={"json": specs.canonical_json(dict(meta))})
    return _HEADER.pack(MAGIC, SCHEMA, hashlib.sha256(payload).digest()) + payload


def _dense(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Lay an array out as safetensors, which copies memory and ignores strides, needs it."""
    dtype = array.dtype.newbyteorder("=")
    if dtype not in DTYPES:
        raise ValueError(f"array {name!r} must be one of {', '.join(map(str, DTYPES))}, got {array.dtype}")
    if name == "__metadata__":
        raise ValueError("an array must not be named '__metadata__' (reserved by safetensors); choose another name")
    return np.asarray(array, dtype=dtype, order="C")


def decode(key: str, entry: bytes) -> StoredArrays:
    """Read an entry back, checking it first.

    Args:
        key: under which it was stored, for the messages.
        entry: what ``encode`` wrote.

    Raises:
        StaleResultError: it was written under another schema.
        StoreError: it is truncated, altered, or no entry at all.
    """
    if len(entry) < _HEADER.size or not entry.startswith(MAGIC):
        raise _damaged(key, "not an entry of this store")
    _, schema, checksum = _HEADER.unpack_from(entry)
    if schema != SCHEMA:
        raise StaleResultError(
            f"result {short_key(key)} has schema {schema}, this version reads {SCHEMA}; run again with --refresh"
        )
    payload = entry[_HEADER.size :]
    if hashlib.sha256(payload).digest() != checksum:
        raise _damaged(key, "its checksum does not match")
    try:
        header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
        return StoredArrays(arrays=safetensors.numpy.load(payload), meta=json.loads(header["__metadata__"]["json"]))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _damaged(key, "it cannot be decoded") from error


def _damaged(key: str, reason: str) -> StoreError:
    return StoreError(f"result {short_key(key)} is damaged ({reason}); run again with --refresh")


def short_key(key: str) -> str:
    """Cut every hash in a key down to its first six digits, for messages.

    >>> short_key("responses/015abd7f5cc57a2d/conv1")
    'responses/015abd/conv1'
    """
    return re.sub(r"[0-9a-f]{16,}", lambda match: match[0][:6], key)


# Disk -----------------------------------------------------------------------------------------------------


class BytesDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """A diskcache disk that knows text keys and bytes, and no pickle on any path.

    Under diskcache's own disks a row altered by someone else runs code when it is read (CVE-2025-69872).
    """

    def put(self, key: object) -> tuple[str, bool]:
        """Take a text key as it is."""
        if type(key) is not str:
            raise TypeError(f"a key must be a str, got {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: object) -> str:
        """Give a text key back; refuse one that would have to be unpickled."""
        if type(key) is not str or raw != 1:
            raise StoreError(f"the store at {self._directory} holds a key that is not text; move the directory aside")
        return key

    def store(self, value: object, read: bool, key: object = UNKNOWN) -> tuple[int, int, str | None, memoryview | None]:
        """Take bytes: into the row if they are few, else into a file of their own."""
        if read or type(value) is not bytes:
            raise TypeError(f"a value must be bytes, got {type(value).__name__}")
        if len(value) < self.min_file_size:
            return 0, MODE_RAW, None, sqlite3.Binary(value)
        filename, full_path = self.filename(key, value)
        try:
            self._write(full_path, iter((value,)), "xb")
        except BaseException:
            Path(full_path).unlink(missing_ok=True)
            raise
        return len(value), MODE_BINARY, filename, None

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> bytes:
        """Give bytes back from the row or its file; refuse every other kind of row and every other place.

        Raises:
            FileNotFoundError: the file is gone; diskcache takes the key for absent.
            StoreError: the row holds no bytes, its file is none of ours, or the file cannot be read.
        """
        if mode == MODE_RAW and type(value) is bytes and not read:
            return value
        if mode == MODE_BINARY and _is_own_file(filename) and not read:
            path = Path(self._directory) / str(filename)
            try:
                return path.read_bytes()
            except FileNotFoundError:
                raise
            except OSError as error:
                raise StoreError(
                    f"{path} cannot be read ({error.strerror}); check its permissions and the disk"
                ) from error
        raise StoreError(f"the store at {self._directory} holds a row that it did not write; run again with --refresh")

    def remove(self, file_path: object) -> None:
        """Remove the file of a row, unless the row names a file that is none of ours."""
        if _is_own_file(file_path):
            super().remove(file_path)


def _is_own_file(filename: object) -> bool:
    return isinstance(filename, str) and _FILE_NAME.fullmatch(filename) is not None
