"""Parquet files of a known form, read so that a small file never becomes a large one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fss_core.exports import Manifest, table_schema
from fss_core.imports import bounds
from fss_core.imports.bounds import Unfit, require

if TYPE_CHECKING:
    import pyarrow as pa


def read_table(name: str, content: bytes, manifest: Manifest, num_lines: int) -> pa.Table:
    """Read a Parquet file of a known form; nothing is unpacked before its size is known.

    Cells are numbers or have a fixed width, so lines bound them; text stays a dictionary, so that a long one that is
    repeated is there once.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_memory_pool(pa.system_memory_pool())  # which, unlike pyarrow's own, gives back what has been read
    schema = table_schema(
        name,
        num_images=manifest.num_images,
        num_classes=manifest.num_classes,
        adaptive=manifest.attack.mode == "adaptive",
        with_classes=manifest.predictions == "classes",
    )
    text = [field.name for field in schema if field.type == pa.string()]
    footer = int.from_bytes(content[-8:-4], "little")
    require(
        footer <= bounds.LARGEST_FOOTER,
        f"the footer of {name} must have at most {bounds.LARGEST_FOOTER:,} bytes",
        footer,
    )
    with _damaged_parquet(name):
        file = pq.ParquetFile(
            pa.BufferReader(content),
            read_dictionary=text,
            thrift_string_size_limit=bounds.LARGEST_FOOTER,
            thrift_container_size_limit=bounds.LARGEST_FOOTER // 8,
        )
        found = file.schema_arrow.remove_metadata()
        groups = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
    for column in text:
        index = schema.get_field_index(column)
        schema = schema.set(index, schema.field(index).with_type(pa.dictionary(pa.int32(), pa.string())))
    require(found.equals(schema), f"{name} must have the columns {_columns(schema)}", _columns(found))
    # What is read is what the groups say; the file's own total is not looked at.
    require(min(groups) >= 0 and sum(groups) == num_lines, f"{name} must have {num_lines} lines", sum(groups))
    with _damaged_parquet(name):
        unpacked = sum(page_bytes(content, file.metadata))
    require(
        unpacked <= bounds.LARGEST_CONTENT,
        f"{name} must have at most {bounds.LARGEST_CONTENT:,} bytes unpacked",
        unpacked,
    )
    with _damaged_parquet(name):
        table = file.read(use_threads=False)
        table.validate(full=True)
    require(table.num_rows == num_lines, f"{name} must have {num_lines} lines", table.num_rows)
    return table


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}{'' if field.nullable else ' not null'}" for field in schema)[
        : bounds.LONGEST_TEXT
    ]


@contextmanager
def _damaged_parquet(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # pyarrow raises what it likes: ArrowInvalid, OSError, UnicodeDecodeError, ValueError
        raise Unfit(f"{name} is damaged: {error}") from error


def page_bytes(content: bytes, metadata: Any) -> Iterator[int]:
    """Say how large each page of a Parquet file becomes, from the pages' own headers.

    The footer's totals are no bound: pyarrow allocates what a page says of itself.

    Source: the Parquet format, ``PageHeader`` (field 2 unpacked, field 3 packed size) in Thrift's compact protocol.
    """
    num_pages = 0
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            starts = [column.data_page_offset]
            if column.has_dictionary_page:
                starts.append(column.dictionary_page_offset)
            at = min(starts)
            stop = at + column.total_compressed_size
            if not 0 < at <= stop <= len(content):
                raise ValueError("a column lies outside the file")
            while at < stop:
                num_pages += 1
                header, at = _thrift_struct(content, at)
                if min(header[2], header[3]) < 0 or num_pages > bounds.MOST_PAGES:
                    raise ValueError(f"a page has a negative size, or there are more than {bounds.MOST_PAGES:,}")
                at += header[3]
                yield header[2]


def _thrift_struct(content: bytes, at: int, depth: int = 0) -> tuple[dict[int, int], int]:
    """Read the whole numbers of a struct in Thrift's compact protocol, by field; return where it ends."""
    if depth > 4:
        raise ValueError("a page header is nested too deeply")
    found: dict[int, int] = {}
    field = 0
    while content[at]:
        step, kind = divmod(content[at], 16)
        at += 1
        if step:
            field += step
        else:
            field, at = _thrift_integer(content, at)
        if kind == 3:  # a byte
            at += 1
        elif kind in (4, 5, 6):  # whole numbers
            found[field], at = _thrift_integer(content, at)
        elif kind == 8:  # bytes, their number first
            length, at = _thrift_varint(content, at)
            at += length
        elif kind == 12:
            _, at = _thrift_struct(content, at, depth + 1)
        elif kind not in (1, 2):  # a boolean, which is its own value
            raise ValueError("a page header holds what no page header has")
    return found, at + 1


def _thrift_varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        value |= (content[at] & 0x7F) << shift
        at += 1
        if content[at - 1] < 0x80:
            return value, at
    raise ValueError("a page header holds a number that is too long")


def _thrift_integer(content: bytes, at: int) -> tuple[int, int]:
    value, at = _thrift_varint(content, at)
    return (value >> 1) ^ -(value & 1), at


def numbers(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """A column of plain numbers, none of which is missing.

    By nothing of pyarrow that imports pandas (``to_numpy``; thirty to forty megabytes in the page's process) or all
    functions that pyarrow computes with (``cast``; seven).
    """
    column = table[name].combine_chunks()
    require(not column.null_count, f"{name} must have a number in every line", f"{column.null_count} without")
    if str(column.type) == "bool":
        bits = np.unpackbits(np.frombuffer(column.buffers()[1], dtype=np.uint8), bitorder="little")
        return bits[column.offset : column.offset + len(column)].astype(bool)
    return np.from_dlpack(column)


def cells(table: pa.Table, name: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Columns of a fixed width as an array (lines, width)."""
    array = table[name].combine_chunks()
    width = array.type.byte_width
    whole = np.frombuffer(array.buffers()[1], dtype=np.uint8)
    content = whole[array.offset * width : (array.offset + len(array)) * width]
    return content.reshape(len(array), width).view(dtype)


def texts(table: pa.Table, name: str, longest: int) -> list[str]:
    """A column of text, none of it longer than said."""
    column = table[name].unify_dictionaries().combine_chunks()
    known = column.dictionary.to_pylist()
    length = max(map(len, known), default=0)
    require(length <= longest, f"{name} must have at most {longest} characters", length)
    return [known[index] for index in column.indices.to_pylist()]
