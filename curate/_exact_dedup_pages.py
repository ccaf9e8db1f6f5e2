"""Columns of hex digests (64 digits a row) and uids (32), from Parquet pages where every record has that length.

A digest is 256 bits in hex, in either case; anything else (null, empty, cut, not hex) is no digest and is never compared. Shapes:
`heads` (n,) the first 64 bits of each digest, big end first; `words` (n, 4) the whole of it. Pages of another form are left to
Arrow and then checked row by row in blocks.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate import _chunk
from curate._text import plain_parts
from curate.views import Column, IndexBlock, IndexUnreadable, IndexView, RawBlock, numbers

DIGITS = 64
LENGTH_BYTES = 4
STEP_ROWS = 1792  # the digits of one step stay in the L2 cache
SPARE_BYTES = 1 << 20
MAX_TURNED_ROWS = 4 << 20
# columns of the side index: the first 64 bits of each digest, and the three other words
PREFIX_COLUMN, REST_COLUMN = "sha256_prefix", "sha256_rest"

Bytes = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
Bad = npt.NDArray[np.bool_]

_HEAD = np.dtype({"names": ["head"], "formats": [">u8"], "offsets": [2], "itemsize": 34})
_ZEROS = np.frombuffer(b"0000", "<u4")[
    0
]  # in the place of a length, so that many records are one run of digits
_NIBBLE = np.full(256, 255, np.uint8)
_NIBBLE[np.frombuffer(b"0123456789abcdefABCDEF", np.uint8)] = [*range(16), *range(10, 16)]


def heads(block: Any, name: str) -> tuple[U64, Bad | None] | None:
    """Heads of the digests of a block and its rows without one; None when the block has no such column of its own."""
    if isinstance(block, IndexBlock):
        if PREFIX_COLUMN not in block.names:
            return None
        values, missing = numbers(block.column(PREFIX_COLUMN))
        return values.astype(np.uint64, copy=False), missing
    if not isinstance(block, RawBlock) or name not in block.shard.types:
        return None
    found = _page_heads(block, name)
    if found is not None:
        return found, None
    words, bad = digests(block.column(name))
    return np.ascontiguousarray(words[:, 0]), bad


def chosen_digests(block: Any, name: str, rows: npt.NDArray[np.int64]) -> U64 | None:
    """(k, 4) words of the digests of some rows, ascending and known to be digests; None when Arrow must read them."""
    if isinstance(block, IndexBlock):
        return _index_digests(block, rows)
    found = _chosen(block, name, rows, DIGITS)
    if found is None:
        return None
    try:
        return np.frombuffer(binascii.unhexlify(found), ">u8").astype("<u8").reshape(-1, 4)
    except ValueError:
        return None


def chosen_uids(block: Any, rows: npt.NDArray[np.int64]) -> U64 | None:
    """(k, 2) words of the uids of some rows, ascending; None when one is unusual or malformed."""
    if isinstance(block, IndexBlock):
        return np.stack([block.column(name)[rows] for name in ("uid_hi", "uid_lo")], axis=1)
    found = _chosen(block, "uid", rows, 32)
    if found is None or not int(np.bitwise_and.reduce(found, axis=None)) & 0x20:  # no upper case
        return None
    try:
        return np.frombuffer(binascii.unhexlify(found), ">u8").astype("<u8").reshape(-1, 2)
    except ValueError:
        return None


def _index_digests(block: IndexBlock, rows: npt.NDArray[np.int64]) -> U64 | None:
    if not {PREFIX_COLUMN, REST_COLUMN} <= block.names.keys():
        return None
    out = np.empty((len(rows), 4), "<u8")
    out[:, 0] = numbers(block.column(PREFIX_COLUMN))[0][rows]
    rest = block.column(REST_COLUMN)
    if not isinstance(rest, np.ndarray):
        rest = np.frombuffer(rest.buffers()[1], "V24", len(rest), 24 * rest.offset)
    out[:, 1:] = rest[rows].view("<u8").reshape(-1, 3)
    return out


class UidsByRow:
    """Uids of single rows of a shard from its side index, which is sorted by uid and tells the row of each."""

    def __init__(self, index: IndexView) -> None:
        self._index = index
        self._places: npt.NDArray[np.int64] | None = None
        self._words: list[Any] = []

    def __call__(self, rows: npt.NDArray[np.int64]) -> U64 | None:
        """(k, 2) words; None when the index cannot be read, or is too large to be turned around in memory."""
        if self._index.shard.rows > MAX_TURNED_ROWS:
            return None
        try:
            if self._places is None:
                blocks = list(self._index.blocks())
                numbers_ = np.concatenate([b.row_numbers() for b in blocks])
                self._words = [
                    np.concatenate([b.column(name) for b in blocks]) for name in ("uid_hi", "uid_lo")
                ]
                places = np.empty(len(numbers_), np.int64)
                places[numbers_] = np.arange(len(numbers_))
                self._places = places
            at = self._places[rows]
        except (IndexUnreadable, IndexError, ValueError):
            return None
        return np.stack([words[at] for words in self._words], axis=1)


def digests(column: Column) -> tuple[U64, Bad | None]:
    """Words of a text column and the rows that hold no digest (their words are zero)."""
    text = column if not pa.types.is_dictionary(column.type) else column.dictionary_decode()
    data, offsets, nulls = plain_parts(text)
    n = len(offsets) - 1
    whole = np.diff(offsets) == DIGITS
    if n and nulls is None and whole.all():
        try:
            packed = binascii.unhexlify(np.ascontiguousarray(data[int(offsets[0]) : int(offsets[-1])]))
            return np.frombuffer(packed, ">u8").astype("<u8").reshape(n, 4), None
        except ValueError:
            pass  # some value is not hex: found below
    words = np.zeros((n, 4), "<u8")
    if nulls is not None:
        whole &= ~nulls
    for first in range(0, n, STEP_ROWS):
        rows = first + np.flatnonzero(whole[first : first + STEP_ROWS])
        nibbles = _NIBBLE[data[offsets[rows].astype(np.int64)[:, None] + np.arange(DIGITS)]]
        good = (nibbles < 16).all(axis=1)
        whole[rows[~good]] = False
        octets = (nibbles[:, 0::2] << 4 | nibbles[:, 1::2])[good]
        words[rows[good]] = np.ascontiguousarray(octets).view(">u8").reshape(-1, 4)
    return words, None if whole.all() else ~whole


def _pages(block: RawBlock, name: str, digits: int) -> Iterator[_chunk.Page]:
    """Pages of a column whose records could all be `digits` long; raises Unusual when not, Damaged for bad bytes."""
    metadata = block.file.metadata
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    if name not in names:
        raise _chunk.Unusual("no such flat column")
    chunk = _chunk.chunk_of(metadata, block.group, names.index(name))
    if chunk.plain_bytes > chunk.rows * 2 * (LENGTH_BYTES + digits) + SPARE_BYTES:
        raise _chunk.Unusual("longer than digests are")
    yield from _chunk.pages(block.handle, chunk)


def _page_heads(block: RawBlock, name: str) -> U64 | None:
    out = np.empty(block.rows, np.uint64)
    dictionary: U64 | None = None
    at = 0
    try:
        for page in _pages(block, name, DIGITS):
            if page.is_dictionary:
                records = _records(page, DIGITS, dictionary is not None)
                dictionary = np.empty(page.values, np.uint64)
                _convert(records, dictionary)
                continue
            rows = out[at : at + page.values]
            if page.encoding == _chunk.PLAIN:
                _convert(_records(page, DIGITS, False), rows)
            elif len(rows):
                rows[:] = (dictionary if dictionary is not None else out[:0])[_codes(page, dictionary)]
            at += page.values
        return out if at == block.rows else None
    except (_chunk.Unusual, ValueError):
        return None
    except _chunk.Damaged as error:
        raise _chunk.integrity_error(block.shard.name, name, block.group, str(error)) from None


def _convert(records: Bytes, out: U64) -> None:
    """Heads of (n, 68) records; ValueError at the first that is not hex."""
    for first in range(0, len(out), STEP_ROWS):
        part = records[first : first + STEP_ROWS]
        if not part.flags.writeable:
            part = part.copy()
        part.reshape(-1).view(_RECORD)["length"] = _ZEROS
        out[first : first + STEP_ROWS] = np.frombuffer(binascii.unhexlify(part), _HEAD)["head"]


_RECORD = np.dtype(
    {"names": ["length"], "formats": ["<u4"], "offsets": [0], "itemsize": LENGTH_BYTES + DIGITS}
)


def _records(page: _chunk.Page, digits: int, again: bool) -> Bytes:
    """A plain page as (n, 4 + digits) bytes; Unusual unless every record has that length."""
    width = LENGTH_BYTES + digits
    if again or page.encoding not in (_chunk.PLAIN, _chunk.PLAIN_DICTIONARY):
        raise _chunk.Unusual("dictionary")
    if page.values * width != len(page.body):
        raise _chunk.Unusual("records of other lengths")
    lengths = np.ndarray((page.values,), "<u4", page.body, 0, (width,)) if page.values else np.zeros(0, "<u4")
    if (lengths != digits).any():
        raise _chunk.Unusual("records of other lengths")
    return page.body.reshape(page.values, width)


def _codes(page: _chunk.Page, dictionary: npt.NDArray[Any] | None) -> npt.NDArray[np.uint32]:
    if page.encoding not in (_chunk.PLAIN_DICTIONARY, _chunk.RLE_DICTIONARY):
        raise _chunk.Unusual(f"encoding {page.encoding}")
    if dictionary is None or len(page.body) == 0:
        raise _chunk.Damaged("a page of dictionary indices without a dictionary")
    codes = _chunk.hybrid(page.body[1:], int(page.body[0]), page.values)
    if int(codes.max()) >= len(dictionary):
        raise _chunk.Damaged(f"a dictionary index beyond its {len(dictionary):,} entries")
    return codes


def _chosen(block: Any, name: str, rows: npt.NDArray[np.int64], digits: int) -> Bytes | None:
    """(k, digits) characters of some rows, ascending; None when the pages are not of the usual form."""
    if not isinstance(block, RawBlock) or name not in block.shard.types:
        return None
    out = np.empty((len(rows), digits), np.uint8)
    dictionary: Bytes | None = None
    at = done = 0
    try:
        for page in _pages(block, name, digits):
            if page.is_dictionary:
                dictionary = _records(page, digits, dictionary is not None)[:, LENGTH_BYTES:].copy()
                continue
            last = done + int(np.searchsorted(rows[done:], at + page.values))
            mine = rows[done:last] - at
            if page.encoding == _chunk.PLAIN:
                out[done:last] = _records(page, digits, False)[mine, LENGTH_BYTES:]
            elif page.values:
                codes = _codes(page, dictionary)[mine]
                out[done:last] = (dictionary if dictionary is not None else out[:0])[codes]
            at, done = at + page.values, last
        return out if done == len(rows) else None
    except _chunk.Unusual:
        return None
    except _chunk.Damaged as error:
        raise _chunk.integrity_error(block.shard.name, name, block.group, str(error)) from None
