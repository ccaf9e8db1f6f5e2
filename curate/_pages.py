"""Uids of one row group as pairs of u64, straight from the Parquet pages where that is possible.

Source of the form: the uid of a pool is exactly 32 lower-case hex digits, 128 bits (DataComp).
Shape: (n, 2) '<u8', the high half first. A malformed or null uid is never repaired: its row number is
given back and its words are zero. The fast path takes the usual pages whole; anything else is read by
Arrow and checked row by row, also without a Python loop over rows.
"""

from __future__ import annotations

import binascii
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate import _chunk
from curate._text import plain_parts
from headwater.errors import IntegrityError

Words = np.ndarray[Any, np.dtype[np.uint64]]
Rows = np.ndarray[Any, np.dtype[np.int64]]

DIGITS = 32
RECORD_BYTES = 4 + DIGITS  # a plain page: the length, then the digits
STEP_ROWS = 3584  # digits of one step stay in the L1 and L2 caches, and below the limit of malloc's mmap
SPARE_BYTES = 1 << 20
MAX_ROW_BYTES = 256  # a column above this on average, and above 64 MiB, holds no uids
MAX_COLUMN_BYTES = 64 << 20

_LOWER = 0x20202020  # set in every byte of 0-9 and a-f, not in A-F
_ZEROS = 0x30303030  # "0000" in the place of the length, so that the digits of many rows are one run
_PAIR = np.dtype({"names": ["hi", "lo"], "formats": [">u8", ">u8"], "offsets": [2, 10], "itemsize": 18})
_NIBBLE = np.full(256, 255, np.uint8)
_NIBBLE[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


def read_uids(
    file: BinaryIO, metadata: pq.FileMetaData, row_group: int, column_index: int, *, shard_name: str = ""
) -> Words | None:
    """All uids of a row group, or None when its pages hold anything but plain, well-formed, present uids.

    `file` is the binary file that `metadata` was read from. Damaged pages raise IntegrityError.
    """
    shard = shard_name or str(getattr(file, "name", "the shard"))
    try:
        chunk = _chunk.chunk_of(metadata, row_group, column_index)
        if chunk.plain_bytes > chunk.rows * 2 * RECORD_BYTES + SPARE_BYTES:
            return None
        return _read(file, chunk)
    except _chunk.Unusual:
        return None
    except _chunk.Damaged as error:
        raise _chunk.integrity_error(shard, _name(metadata, column_index), row_group, str(error)) from None
    except (OSError, OverflowError) as error:
        raise _chunk.integrity_error(
            shard, _name(metadata, column_index), row_group, f"cannot be read: {error}"
        ) from None


def read_uids_any(
    parquet_file: pq.ParquetFile,
    row_group: int,
    *,
    shard_name: str,
    file: BinaryIO | None = None,
    column: str = "uid",
) -> tuple[Words, Rows]:
    """The uids of a row group and the numbers, within the group, of the rows whose uid is null or malformed.

    With `file`, the open file behind `parquet_file`, usual pages are read directly.
    """
    metadata = parquet_file.metadata
    try:
        group = metadata.row_group(row_group)
        names = [group.column(i).path_in_schema for i in range(group.num_columns)]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _chunk.integrity_error(shard_name, column, row_group, f"no readable footer: {error}") from None
    if column not in names:
        raise IntegrityError(
            f"shard {shard_name}: no flat column {column!r} in row group {row_group}",
            hint="Check the shard with `headwater pool validate`.",
        )
    index = names.index(column)
    if file is not None:
        words = read_uids(file, metadata, row_group, index, shard_name=shard_name)
        if words is not None:
            return words, np.zeros(0, np.int64)
    claimed = group.column(index).total_uncompressed_size
    if group.num_rows > _chunk.MAX_ROWS or claimed > max(MAX_COLUMN_BYTES, group.num_rows * MAX_ROW_BYTES):
        raise _chunk.integrity_error(
            shard_name, column, row_group, f"claims {claimed:,} bytes for {group.num_rows:,} uids"
        )
    try:
        values = parquet_file.read_row_group(row_group, columns=[column], use_threads=False).column(0)
        if len(values) != group.num_rows:
            raise _chunk.integrity_error(
                shard_name, column, row_group, f"holds {len(values):,} of {group.num_rows:,} uids"
            )
        return words_of(values)
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise _chunk.integrity_error(shard_name, column, row_group, f"cannot be read: {error}") from None


def words_of(values: pa.Array | pa.ChunkedArray) -> tuple[Words, Rows]:
    """Uids and malformed rows of an Arrow column of text, bytes, a dictionary of them, or 16 raw bytes."""
    if isinstance(values, pa.ChunkedArray):
        words, bad = np.empty((len(values), 2), "<u8"), [np.zeros(0, np.int64)]
        first = 0
        for chunk in values.chunks:
            bad.append(_fill_words(chunk, words[first : first + len(chunk)]) + first)
            first += len(chunk)
        return words, np.concatenate(bad)
    words = np.empty((len(values), 2), "<u8")
    return words, _fill_words(values, words)


def _fill_words(values: pa.Array, out: Words) -> Rows:
    """Words of one array into `out`; the malformed rows."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_fixed_size_binary(values.type):
        if values.type.byte_width == 16:
            return _raw_words(values, out)
        values = values.cast(pa.binary())
    if pa.types.is_string_view(values.type):
        values = values.view(pa.binary_view())  # bytes that are no UTF-8 are malformed, not an error
    if not _is_text(values.type):
        raise ValueError(f"a uid column of type {values.type}")
    data, offsets, nulls = plain_parts(values)
    whole = np.diff(offsets) == DIGITS
    if nulls is None and whole.all() and _packed(data[int(offsets[0]) : int(offsets[-1])], out):
        return np.zeros(0, np.int64)
    if nulls is not None:
        whole &= ~nulls
    out[:] = 0
    for first in range(0, len(whole), STEP_ROWS):
        rows = first + np.flatnonzero(whole[first : first + STEP_ROWS])
        nibbles = _NIBBLE[data[offsets[rows].astype(np.int64)[:, None] + np.arange(DIGITS)]]
        good = (nibbles < 16).all(axis=1)
        whole[rows[~good]] = False
        octets = (nibbles[:, 0::2] << 4 | nibbles[:, 1::2])[good]
        out[rows[good]] = np.ascontiguousarray(octets).view(">u8").reshape(-1, 2)
    return np.flatnonzero(~whole)


def _packed(digits: np.ndarray[Any, np.dtype[np.uint8]], out: Words) -> bool:
    """Words of digits that follow each other without anything between; False when one of them is no digit."""
    for first in range(0, len(out), STEP_ROWS):
        part = digits[first * DIGITS : (first + STEP_ROWS) * DIGITS]
        if not int(np.bitwise_and.reduce(part)) & _LOWER & 0xFF:
            return False
        try:
            octets = binascii.unhexlify(part)
        except ValueError:
            return False
        out[first : first + STEP_ROWS] = np.frombuffer(octets, ">u8").reshape(-1, 2)
    return True


def _read(file: BinaryIO, chunk: _chunk.Chunk) -> Words:
    out = np.empty((chunk.rows, 2), "<u8")
    dictionary: Words | None = None
    at = 0
    for page in _chunk.pages(file, chunk):
        if page.is_dictionary:
            if dictionary is not None or page.encoding not in (_chunk.PLAIN, _chunk.PLAIN_DICTIONARY):
                raise _chunk.Unusual("dictionary")
            if page.values * RECORD_BYTES != len(page.body):
                raise _chunk.Unusual("not 32 digits each")
            dictionary = np.empty((page.values, 2), "<u8")
            _convert(page.body, dictionary)
            continue
        rows = out[at : at + page.values]
        if page.encoding == _chunk.PLAIN:
            _convert(page.body, rows)
        elif page.encoding in (_chunk.PLAIN_DICTIONARY, _chunk.RLE_DICTIONARY):
            _look_up(page.body, dictionary, rows)
        else:
            raise _chunk.Unusual(f"encoding {page.encoding}")
        at += page.values
    return out


def _convert(body: np.ndarray[Any, np.dtype[np.uint8]], out: Words) -> None:
    """A plain page of records (32, digits) into words; Unusual at the first thing that is not a uid."""
    if len(body) != len(out) * RECORD_BYTES:
        raise _chunk.Unusual("not 32 digits each")
    ready = body.flags.writeable and body.ctypes.data % 4 == 0
    aligned = np.empty(0 if ready else STEP_ROWS * RECORD_BYTES, np.uint8)
    for first in range(0, len(out), STEP_ROWS):
        rows = out[first : first + STEP_ROWS]
        part = body[first * RECORD_BYTES : (first + len(rows)) * RECORD_BYTES]
        if not ready:
            aligned[: len(part)] = part
            part = aligned[: len(part)]
        quads = part.view("<u4")
        lengths = quads[:: RECORD_BYTES // 4]
        if (lengths != DIGITS).any():
            raise _chunk.Unusual("not 32 digits each")
        lengths[:] = _ZEROS
        if int(np.bitwise_and.reduce(quads)) & _LOWER != _LOWER:
            raise _chunk.Unusual("not lower-case digits")
        try:
            pairs = np.frombuffer(binascii.unhexlify(part), _PAIR)
        except ValueError:
            raise _chunk.Unusual("not hex digits") from None
        rows[:, 0] = pairs["hi"]
        rows[:, 1] = pairs["lo"]


def _look_up(body: np.ndarray[Any, np.dtype[np.uint8]], dictionary: Words | None, out: Words) -> None:
    if len(out) == 0:
        return
    if dictionary is None or len(body) == 0:
        raise _chunk.Damaged("a page of dictionary indices without a dictionary")
    index = _chunk.hybrid(body[1:], int(body[0]), len(out))
    if int(index.max()) >= len(dictionary):
        raise _chunk.Damaged(f"a dictionary index beyond its {len(dictionary):,} entries")
    dictionary.take(index, axis=0, out=out, mode="clip")  # clip: numpy buffers the output otherwise


def _raw_words(values: pa.Array, out: Words) -> Rows:
    body = values.buffers()[1]
    if len(values):
        out[:] = np.frombuffer(body, ">u8", len(values) * 2, values.offset * 16).reshape(-1, 2)
    valid = values.buffers()[0]
    if valid is None or not values.null_count:
        return np.zeros(0, np.int64)
    bits = np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")
    bad = np.flatnonzero(bits[values.offset : values.offset + len(values)] == 0)
    out[bad] = 0
    return bad


def _is_text(kind: pa.DataType) -> bool:
    t = pa.types
    small = t.is_string(kind) or t.is_binary(kind) or t.is_binary_view(kind)
    return bool(small or t.is_large_string(kind) or t.is_large_binary(kind))


def _name(metadata: pq.FileMetaData, column_index: int) -> str:
    return str(metadata.schema.column(column_index).path)
