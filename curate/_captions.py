"""Words and characters of a text column counted on its Parquet pages, without making an array of strings.

A plain page is (length, bytes) again and again, so the place of a row depends on all rows before it. Valid
captions hold no two NUL bytes in a row and lengths below 64 KiB end with two: those places are taken for the
lengths, and then the whole chain is checked, each length against the distance to the next. A page where
this does not hold exactly is left to Arrow. Dictionary pages are counted once and looked up.
Shapes: one int32 per row for each count, as in `_text`.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate import _chunk
from curate._text import Bytes, Counter, Counts, Rows, blocks, count_words_and_chars, counter_of_this_thread

LENGTH_BYTES = 4
MAX_PLAIN_BYTES = 1 << 30  # of one row group; more is for Arrow
FASTER_CODECS = ("SNAPPY",)  # measured: with any other, Arrow and then `_text` is as fast or faster
STEP_BYTES = 96 << 10  # a multiple of 8, below the limit of malloc's mmap

_ONE = np.uint64(1)


def count_captions(
    file: BinaryIO, metadata: pq.FileMetaData, row_group: int, column_index: int, *, shard_name: str = ""
) -> tuple[Counts, Counts] | None:
    """Words and characters of every row of a row group; None when the pages are not of the usual form.

    Nulls are unusual here. Damaged pages raise IntegrityError.
    """
    shard = shard_name or str(getattr(file, "name", "the shard"))
    name = str(metadata.schema.column(column_index).path)
    try:
        chunk = _chunk.chunk_of(metadata, row_group, column_index)
        if chunk.plain_bytes > MAX_PLAIN_BYTES:
            return None
        return _count(file, chunk)
    except _chunk.Unusual:
        return None
    except _chunk.Damaged as error:
        raise _chunk.integrity_error(shard, name, row_group, str(error)) from None
    except (OSError, OverflowError) as error:
        raise _chunk.integrity_error(shard, name, row_group, f"cannot be read: {error}") from None


def count_captions_any(
    parquet_file: pq.ParquetFile,
    row_group: int,
    *,
    shard_name: str,
    file: BinaryIO | None = None,
    column: str = "text",
) -> tuple[Counts, Counts]:
    """The same for any text column, -1 where null. With `file`, pages are read directly where that is faster."""
    metadata = parquet_file.metadata
    try:
        group = metadata.row_group(row_group)
        names = [group.column(i).path_in_schema for i in range(group.num_columns)]
        if column not in names:
            raise _chunk.integrity_error(shard_name, column, row_group, "no such flat column")
        facts = group.column(names.index(column))
        if file is not None and facts.compression in FASTER_CODECS:
            counts = count_captions(file, metadata, row_group, names.index(column), shard_name=shard_name)
            if counts is not None:
                return counts
        values = parquet_file.read_row_group(row_group, columns=[column], use_threads=False).column(0)
        return count_words_and_chars(values)
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise _chunk.integrity_error(shard_name, column, row_group, f"cannot be read: {error}") from None


def _count(file: BinaryIO, chunk: _chunk.Chunk) -> tuple[Counts, Counts]:
    words, chars = np.empty(chunk.rows, np.int32), np.empty(chunk.rows, np.int32)
    counter = counter_of_this_thread()
    dictionary: tuple[Counts, Counts] | None = None
    at = 0
    for page in _chunk.pages(file, chunk):
        if page.is_dictionary:
            if dictionary is not None or page.values * LENGTH_BYTES > len(page.body):
                raise _chunk.Unusual("dictionary")
            dictionary = np.empty(page.values, np.int32), np.empty(page.values, np.int32)
            _count_plain(page.body, *dictionary, counter)
            continue
        last = at + page.values
        if page.encoding == _chunk.PLAIN:
            _count_plain(page.body, words[at:last], chars[at:last], counter)
        elif page.encoding in (_chunk.PLAIN_DICTIONARY, _chunk.RLE_DICTIONARY):
            if page.values:
                if dictionary is None or len(page.body) == 0:
                    raise _chunk.Damaged("a page of dictionary indices without a dictionary")
                index = _chunk.hybrid(page.body[1:], int(page.body[0]), page.values)
                if int(index.max()) >= len(dictionary[0]):
                    raise _chunk.Damaged(f"a dictionary index beyond its {len(dictionary[0]):,} entries")
                words[at:last] = dictionary[0].take(index)
                chars[at:last] = dictionary[1].take(index)
        else:
            raise _chunk.Unusual(f"encoding {page.encoding}")
        at = last
    return words, chars


def _count_plain(body: Bytes, words: Counts, chars: Counts, counter: Counter) -> None:
    n = len(words)
    if n == 0:
        return
    bounds = np.empty(n + 1, np.int64)
    bounds[:n], zeros = _starts(body, n)
    bounds[n] = len(body)
    starts = bounds[:-1]
    size = np.subtract(bounds[1:], starts)
    size -= LENGTH_BYTES
    low, long = size.astype(np.uint8), np.flatnonzero(size > 255)
    high = (size[long] >> 8).astype(np.uint8)
    # every length must lead to the next one: this proves the places, however they were found
    right = int(starts[0]) == 0 and int(size.min()) >= 0 and int(size.max()) <= 0xFFFF
    right = right and np.array_equal(body.take(starts), low)
    second = body.take(starts + 1)
    right = right and np.array_equal(second[long], high) and np.count_nonzero(second) == len(long)
    # and all NUL bytes must belong to lengths, so that they can count as blank
    if not right or zeros != 3 * n - len(long) + n - int(np.count_nonzero(low)):
        raise _chunk.Unusual("lengths that are not where they were looked for")
    if not body.flags.writeable:
        body = body.copy()
    body[starts] = 32
    body[starts[long] + 1] = 32
    for first, last in blocks(bounds):
        counter.block(body, bounds[first : last + 1], words[first:last], chars[first:last], prefixed=True)
    np.subtract(chars, LENGTH_BYTES, out=chars)


def _starts(body: Bytes, n: int) -> tuple[Rows, int]:
    """Where the `n` lengths seem to begin, two bytes before the last two of a run of zeros; the number of zeros."""
    zero = np.zeros(len(body) // 64 + 2, np.uint64)
    octets = zero.view(np.uint8)
    for first in range(0, len(body), STEP_BYTES):
        packed = np.packbits(body[first : first + STEP_BYTES] == 0, bitorder="little")
        octets[first // 8 : first // 8 + len(packed)] = packed
    after = zero[:-1] >> _ONE
    after |= zero[1:] << np.uint64(63)
    ends = zero[:-1] & after
    np.right_shift(zero[:-1], np.uint64(2), out=after)
    after |= zero[1:] << np.uint64(62)
    np.invert(after, out=after)
    ends &= after
    return _set_bits(ends, n) - 2, int(np.bitwise_count(zero).sum())


def _set_bits(bits: np.ndarray[Any, Any], n: int) -> Rows:
    """The numbers of the `n` set bits, ascending: the lowest of every word, then the next, until none is left."""
    some = np.flatnonzero(bits != 0)
    left = bits.take(some)
    count = np.bitwise_count(left)
    place = np.cumsum(count, dtype=np.int64)
    if len(place) == 0 or int(place[-1]) != n:
        raise _chunk.Unusual("another number of lengths than values")
    place -= count
    out = np.empty(n, np.int64)
    base = some << 6
    while True:
        rest = left & (left - _ONE)
        out[place] = base + np.bitwise_count((left ^ rest) - _ONE)
        more = np.flatnonzero(rest != 0)
        if len(more) == 0:
            return out
        left, base, place = rest.take(more), base.take(more), place.take(more) + 1
