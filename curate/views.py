"""Rows of one shard in blocks, from the Parquet file itself or from the side index, under one face.

A block is a row group. Numbers without nulls come as NumPy arrays, everything else as Arrow arrays; a column is decoded when it is
first asked for. Raw blocks are in the shard's order; index blocks are sorted by uid, and `row_numbers` tells where each row lies.
"""

from __future__ import annotations

import functools
import io
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate._pages import read_uids_any
from curate._plain import column_view, map_file
from curate._text import invalid_utf8_rows
from curate.pool import Shard, family
from headwater.errors import IntegrityError
from headwater.files import named_io

Column: TypeAlias = Any  # npt.NDArray[Any], or a pa.Array (pyarrow has no types)
Mask = npt.NDArray[np.bool_]


class IndexUnreadable(Exception):
    """The bytes of an index do not decode; the shard itself still answers."""


class Block(Protocol):
    """Some rows of a shard."""

    rows: int

    def column(self, name: str) -> Column:
        """A stored column; raises KeyError when this view does not have it."""
        ...

    def uids(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """(n, 2) words, and the numbers within the block of rows whose uid is null or malformed."""
        ...

    def row_numbers(self) -> npt.NDArray[np.int64] | slice:
        """Where these rows lie in the shard."""
        ...


@dataclass
class RawBlock:
    """One row group of a shard's own Parquet file."""

    shard: Shard
    file: pq.ParquetFile
    handle: BinaryIO
    group: int
    first_row: int
    rows: int
    types: Mapping[str, pa.DataType]
    _columns: dict[str, Column] = field(default_factory=dict)

    def column(self, name: str) -> Column:
        if name not in self._columns:
            if name not in self.shard.types:
                raise KeyError(name)
            self._columns[name] = self._read(name)
        return self._columns[name]

    def _read(self, name: str) -> Column:
        try:
            chunked = self.file.read_row_group(self.group, columns=[name], use_threads=False).column(0)
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            raise damaged(self.shard, self.group, name, error) from error
        if len(chunked) != self.rows:
            raise damaged(self.shard, self.group, name, f"{len(chunked):,} of {self.rows:,} rows")
        array = (
            chunked.chunk(0)
            if chunked.num_chunks == 1
            else pa.concat_arrays(chunked.chunks or [pa.nulls(0, chunked.type)])
        )
        if family(array.type) == "text":
            bad = invalid_utf8_rows(array)
            if len(bad):
                row = self.first_row + int(bad[0])
                raise IntegrityError(
                    f"shard {self.shard.name}, column {name}, row {row}: not valid UTF-8 ({len(bad):,} such rows in this row group)",
                    hint="repair the text with `headwater pool import`, which replaces what is not UTF-8",
                )
            if pa.types.is_dictionary(array.type):
                array = array.dictionary_decode()
            if pa.types.is_string_view(array.type):
                array = array.cast(pa.large_string())  # Arrow cannot take rows of views
        wanted = self.types.get(name)
        if wanted is not None and array.type != wanted and family(wanted) != "text":
            array = array.cast(wanted)
        if pa.types.is_float16(array.type):
            array = array.cast(pa.float32())  # exact, and DuckDB reads it
        return plain(array)

    def uids(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        return read_uids_any(self.file, self.group, shard_name=self.shard.name, file=self.handle)

    def uid_strings(self) -> pa.ChunkedArray:
        """The uid column as it is stored."""
        return self.file.read_row_group(self.group, columns=["uid"], use_threads=False).column(0)

    def row_numbers(self) -> slice:
        return slice(self.first_row, self.first_row + self.rows)


@dataclass
class IndexBlock:
    """One row group of a shard's side index (see curate.index), sorted by uid."""

    shard: Shard
    file: pq.ParquetFile
    group: int
    rows: int
    names: Mapping[str, int]
    schema: Any  # as Arrow sees it
    data: mmap.mmap
    _columns: dict[str, Column] = field(default_factory=dict)

    def column(self, name: str) -> Column:
        if name not in self._columns:
            if name not in self.names:
                raise KeyError(name)
            direct = self._direct(name)
            if direct is not None:
                self._columns[name] = direct
                return direct
            try:
                table = self.file.read_row_group(self.group, columns=[name], use_threads=False)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise IndexUnreadable(f"the index of shard {self.shard.name} cannot be read") from error
            chunked = table.column(0)
            array = chunked.chunk(0) if chunked.num_chunks == 1 else pa.concat_arrays(chunked.chunks)
            self._columns[name] = plain(array)
        return self._columns[name]

    def _direct(self, name: str) -> Column | None:
        type_ = self.schema.field(name).type
        if pa.types.is_fixed_size_binary(type_):
            dtype = np.dtype(f"V{type_.byte_width}")
        elif pa.types.is_integer(type_) or pa.types.is_floating(type_):
            dtype = np.dtype(type_.to_pandas_dtype())
        else:
            return None
        return column_view(self.data, self.file.metadata, self.group, self.names[name], dtype)

    def uids(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        words = np.empty((self.rows, 2), "<u8")
        words[:, 0] = self.column("uid_hi")
        words[:, 1] = self.column("uid_lo")
        return words, np.zeros(0, np.int64)

    def row_numbers(self) -> npt.NDArray[np.int64]:
        return np.asarray(self.column("row"), np.int64)


class _Handle(io.FileIO):
    """Closed when nothing refers to it: blocks may outlive their file's place in the cache below."""

    def __del__(self) -> None:
        self.close()


@functools.lru_cache(maxsize=32)
def _opened(path: Path, inode: int, size: int, mtime_ns: int) -> tuple[BinaryIO, pq.ParquetFile]:
    """The open file and its footer; several passes over the same shards read the footer once."""
    handle = _Handle(path)
    return handle, pq.ParquetFile(handle)


class RawView:
    """A shard's own file."""

    def __init__(self, shard: Shard, types: Mapping[str, pa.DataType]) -> None:
        self.shard = shard
        self._types = types

    def blocks(self) -> Iterator[RawBlock]:
        """Row groups in order."""
        with named_io(self.shard.path):
            stat = self.shard.path.stat()
            try:
                handle, file = _opened(self.shard.path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise damaged(self.shard, 0, "footer", error) from error
            first = 0
            for group, rows in enumerate(self.shard.row_group_rows):
                yield RawBlock(self.shard, file, handle, group, first, rows, self._types)
                first += rows


class IndexView:
    """A shard's side index."""

    def __init__(self, shard: Shard, path: Path) -> None:
        self.shard = shard
        self._path = path

    @cached_property
    def _file(self) -> tuple[mmap.mmap, pq.ParquetFile, Any]:
        stat = self._path.stat()
        return _mapped(self._path, stat.st_ino, stat.st_size, stat.st_mtime_ns)

    @cached_property
    def names(self) -> Mapping[str, int]:
        """Columns of the index and their numbers."""
        return {name: number for number, name in enumerate(self._file[2].names)}

    def blocks(self) -> Iterator[IndexBlock]:
        """Row groups in the order of uids."""
        data, file, schema = self._file
        for group in range(file.metadata.num_row_groups):
            yield IndexBlock(
                self.shard, file, group, file.metadata.row_group(group).num_rows, self.names, schema, data
            )


@functools.lru_cache(maxsize=3)  # the pages of a mapped file count as this process's memory
def _mapped(path: Path, inode: int, size: int, mtime_ns: int) -> tuple[mmap.mmap, pq.ParquetFile, Any]:
    data = map_file(path)
    # one open file, not two
    source = pa.BufferReader(pa.py_buffer(data))
    file = pq.ParquetFile(source, metadata=_footer(path, inode, size, mtime_ns))
    return data, file, file.schema_arrow


def index_footer(path: Path) -> pq.FileMetaData:
    """The footer of an index file, read once for all passes; raises what pyarrow raises, or OSError."""
    stat = path.stat()
    return _footer(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _footer(path: Path, inode: int, size: int, mtime_ns: int) -> pq.FileMetaData:
    return pq.read_metadata(path)


def damaged(shard: Shard, group: int, column: str, error: object) -> IntegrityError:
    """The error for bytes of a shard that do not decode."""
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return IntegrityError(
        f"shard {shard.name}, row group {group}, column {column}: cannot be read: {reason}",
        hint="the shard is damaged: fetch it again",
    )


def plain(array: pa.Array) -> Column:
    """Numbers and truth values without nulls as NumPy (no copy where the layout allows), anything else unchanged."""
    type_ = array.type
    if array.null_count or not (
        pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_boolean(type_)
    ):
        return array
    if pa.types.is_boolean(type_):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    dtype = np.dtype(type_.to_pandas_dtype())
    data = array.buffers()[1]
    if data is None:
        return np.zeros(0, dtype)
    return np.frombuffer(data, dtype, len(array), array.offset * dtype.itemsize)


def numbers(column: Column) -> tuple[npt.NDArray[Any], Mask | None]:
    """A numeric column as values and a mask of rows without a number (null or NaN); None when there are none."""
    if isinstance(column, np.ndarray):
        values, missing = column, None
    else:
        missing = np.asarray(column.is_null().to_numpy(zero_copy_only=False))
        values = plain(column.fill_null(0))
        assert isinstance(values, np.ndarray)
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if values.dtype.kind == "f":
        nan = np.isnan(values)
        if nan.any():
            missing = nan if missing is None else missing | nan
    return values, missing
