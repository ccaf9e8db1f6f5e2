"""Fixed-width columns of our own index files, as views of the mapped file.

The index is written uncompressed, unencoded, without nulls and with one data page per column and row group, so a column of a row
group is one run of bytes. Anything else (another writer, nulls) is left to Arrow: `column_view` then returns None.
Source: Parquet format specification, data pages v1 (page header in Thrift compact form, PLAIN encoding).
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from curate._thrift import Malformed, struct

HEADER_BYTES = 256
_TYPES = {"INT32": 4, "INT64": 8, "FLOAT": 4, "DOUBLE": 8}


def map_file(path: Path) -> mmap.mmap:
    """The file, mapped for reading."""
    with open(path, "rb") as handle:
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)


def column_view(
    data: mmap.mmap, metadata: pq.FileMetaData, row_group: int, column: int, dtype: np.dtype[Any]
) -> npt.NDArray[Any] | None:
    """Column number `column` of a row group as a read-only array of `dtype`; None when it is not one plain page."""
    schema = metadata.schema.column(column)
    facts = metadata.row_group(row_group).column(column)
    rows = facts.num_values
    binary = schema.physical_type == "FIXED_LEN_BYTE_ARRAY"
    width = schema.length if binary else _TYPES.get(schema.physical_type)
    start = facts.data_page_offset
    usual = (
        schema.max_definition_level == 0
        and facts.compression == "UNCOMPRESSED"
        and not facts.has_dictionary_page
    )
    if not usual or width is None or start < 4 or start + HEADER_BYTES > len(data):
        return None
    try:
        header, length = struct(data[start : start + HEADER_BYTES])
        values, encoding = header[5][1], header[5][2]
    except (Malformed, IndexError, KeyError, TypeError):
        return None
    first = start + length
    if (
        header.get(1) != 0
        or values != rows
        or encoding != 0
        or header.get(2) != rows * width
        or first + rows * width > len(data)
    ):
        return None
    kind = "V" if binary else "<f" if schema.physical_type in ("FLOAT", "DOUBLE") else "<i"
    stored = np.frombuffer(data, np.dtype(f"{kind}{width}"), rows, first)
    if stored.dtype == dtype:
        return stored
    if stored.dtype.kind == "i" and dtype.kind in "iu":
        # narrow integers are stored as 32 bits, unsigned ones in the bits of signed ones
        return stored.view(f"<u{width}") if dtype.kind == "u" else stored
    return None
