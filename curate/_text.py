"""Words and characters of captions, counted exactly as `len(text.split())` and `len(text)` would.

Source of the white space: `str.isspace` of Python, which is U+0009-000D, 001C-0020, 0085, 00A0, 1680,
2000-200A, 2028, 2029, 202F, 205F and 3000; U+200B and NUL are not white space.
Shapes: one int32 per row, -1 where the caption is null. Work goes in blocks that fit the L2 cache: one bit
per byte says "blank" or "continuation byte", and a rank (running population count) at both ends of a row
gives its count without looking at single rows. A row larger than a block is walked in slices.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from curate._utf8 import is_utf8, slices

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Counts = np.ndarray[Any, np.dtype[np.int32]]
Rows = np.ndarray[Any, np.dtype[np.int64]]

BLOCK_BYTES = 704 << 10
BLOCK_ROWS = 16384
SLICE_BYTES = BLOCK_BYTES

_ONE = np.uint64(1)
_SIX_BITS = 63
_TOP = np.uint64(63)


def count_words(text: pa.Array | pa.ChunkedArray) -> Counts:
    """Words per row; -1 where null."""
    return count_words_and_chars(text, chars=False)[0]


def count_chars(text: pa.Array | pa.ChunkedArray) -> Counts:
    """Code points per row; -1 where null."""
    return count_words_and_chars(text, words=False)[1]


def count_words_and_chars(
    text: pa.Array | pa.ChunkedArray, *, words: bool = True, chars: bool = True
) -> tuple[Counts, Counts]:
    """Both counts from one pass; a count that is not asked for stays an empty array."""
    if isinstance(text, pa.ChunkedArray):
        parts = [count_words_and_chars(chunk, words=words, chars=chars) for chunk in text.chunks]
        empty = [np.zeros(0, np.int32)]
        return np.concatenate(empty + [p[0] for p in parts]), np.concatenate(empty + [p[1] for p in parts])
    if pa.types.is_dictionary(text.type):
        return _count_dictionary(text, words=words, chars=chars)
    data, offsets, nulls = plain_parts(text)
    counter = counter_of_this_thread(words=words, chars=chars)
    n = len(offsets) - 1
    out_words = np.empty(n if words else 0, np.int32)
    out_chars = np.empty(n if chars else 0, np.int32)
    for first, last in blocks(offsets):
        counter.block(data, offsets[first : last + 1], out_words[first:last], out_chars[first:last])
    if nulls is not None:
        for out in (out_words, out_chars):
            if len(out):
                out[nulls] = -1
    return out_words, out_chars


def plain_parts(text: pa.Array) -> tuple[Bytes, np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    """The bytes, the n + 1 offsets into them and the null mask (None if there are none) of a string array."""
    kind = text.type
    if not (_is_small(kind) or _is_large(kind)):
        text = text.cast(pa.large_string() if pa.types.is_string_view(kind) else pa.large_binary())
        kind = text.type
    width = np.dtype(np.int32 if _is_small(kind) else np.int64)
    valid, ends, body = text.buffers()
    n = len(text)
    if ends is None or n == 0:
        offsets = np.zeros(n + 1, width)
    else:
        offsets = np.frombuffer(ends, width, n + 1, text.offset * width.itemsize)
    data = np.zeros(0, np.uint8) if body is None else np.frombuffer(body, np.uint8)
    nulls = None
    if valid is not None and text.null_count:
        bits = np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")
        nulls = bits[text.offset : text.offset + n] == 0
    return data, offsets, nulls


def blocks(offsets: np.ndarray[Any, Any]) -> Iterator[tuple[int, int]]:
    """Row ranges of at most BLOCK_ROWS rows and BLOCK_BYTES bytes, or of one larger row."""
    n = len(offsets) - 1
    first = 0
    while first < n:
        last = min(first + BLOCK_ROWS, n)
        limit = int(offsets[first]) + BLOCK_BYTES
        if int(offsets[last]) > limit:
            last = first + int(np.searchsorted(offsets[first : last + 1], limit, "right")) - 1
            last = max(last, first + 1)
        yield first, last
        first = last


def invalid_utf8_rows(text: pa.Array | pa.ChunkedArray) -> Rows:
    """Numbers of the rows whose bytes are not UTF-8; null rows are valid. Blocks of plain ASCII cost nothing."""
    if isinstance(text, pa.ChunkedArray):
        starts = np.cumsum([0] + [len(chunk) for chunk in text.chunks])
        found = [invalid_utf8_rows(c) + s for c, s in zip(text.chunks, starts, strict=False)]
        return np.concatenate([np.zeros(0, np.int64), *found])
    if pa.types.is_dictionary(text.type):
        bad = np.zeros(len(text.dictionary), bool)
        bad[invalid_utf8_rows(text.dictionary)] = True
        index, nulls = _indices(text)
        return np.flatnonzero(bad[index] & ~nulls if len(bad) else nulls & False)
    if pa.types.is_string_view(text.type):
        text = text.view(pa.binary_view())  # a cast to string would refuse the very rows that are looked for
    data, offsets, nulls = plain_parts(text)
    rows: list[int] = []
    for first, last in blocks(offsets):
        bounds = offsets[first : last + 1]
        part = data[int(bounds[0]) : int(bounds[-1])]
        if len(part) == 0 or int(part.max()) < 0x80 or _is_utf8(part, bounds):
            continue
        for row in range(first, last):
            if nulls is None or not nulls[row]:
                rows.extend([] if _decodes(data[int(offsets[row]) : int(offsets[row + 1])]) else [row])
    return np.array(rows, np.int64)


class Counter:
    """The counting kernel and the scratch arrays that every block uses again."""

    def __init__(self, *, words: bool, chars: bool) -> None:
        self.words, self.chars = words, chars
        self._flags = np.empty(BLOCK_BYTES, bool)
        self._bytes = np.empty(BLOCK_BYTES, np.uint8)
        self._mask = np.empty(BLOCK_BYTES, bool)
        n_words = BLOCK_BYTES // 64 + 2
        self._bits = np.zeros(n_words, np.uint64)
        self._before = np.zeros(n_words, np.uint64)
        self._ones = np.empty(n_words, np.uint8)
        self._sum = np.zeros(n_words + 1, np.int32)
        self._at = np.empty(BLOCK_ROWS + 1, np.int64)
        self._word = np.empty(BLOCK_ROWS + 1, np.int64)
        self._below = np.empty(BLOCK_ROWS + 1, np.uint64)
        self._picked = np.empty(BLOCK_ROWS + 1, np.uint64)
        self._rank = np.empty(BLOCK_ROWS + 1, np.int32)

    def block(
        self,
        data: Bytes,
        bounds: np.ndarray[Any, Any],
        words: Counts,
        chars: Counts,
        *,
        prefixed: bool = False,
    ) -> None:
        """Count the rows whose bytes lie between consecutive `bounds`; results go to `words` and `chars`.

        With `prefixed` each row begins with four bytes, spaces or NUL, that count as blank; no other NUL.
        """
        start, end = int(bounds[0]), int(bounds[-1])
        if end == start:
            words[:] = 0
            chars[:] = 0
            return
        if end - start > BLOCK_BYTES:
            self._long_row(data[start:end], words, chars)
            return
        part = data[start:end]
        ascii_only = int(part.max()) < 0x80
        n = len(bounds)
        at, word, below = self._at[:n], self._word[:n], self._below[:n]
        np.subtract(bounds, bounds[0], out=at)
        np.right_shift(at, 6, out=word)
        bit = np.bitwise_and(at, _SIX_BITS, out=at).view(np.uint64)
        np.left_shift(_ONE, bit, out=below)
        np.subtract(below, _ONE, out=below)
        if self.words:
            blank = self._pack(self._blanks(part, ascii_only=ascii_only, prefixed=prefixed), self._bits)
            before = self._before[: len(blank)]
            np.left_shift(blank, _ONE, out=before)
            before[1:] |= blank[:-1] >> _TOP
            before[0] |= _ONE  # what stands before a block counts as blank
            np.bitwise_or(blank, before, out=before)
            starts = np.bitwise_xor(blank, before, out=blank)  # now: not blank, and blank before
            self._row_counts(starts, word, below, words)
            if not prefixed:  # a row may begin with a word right after a word of the row before it
                joined = np.invert(before, out=before).take(word[:-1])
                np.right_shift(joined, bit[:-1], out=joined)
                np.bitwise_and(joined, bounds[1:] > bounds[:-1], out=joined)
                np.add(words, joined.view(np.int64), out=words, casting="unsafe")
        if self.chars:
            np.subtract(bounds[1:], bounds[:-1], out=chars, casting="unsafe")
            if not ascii_only:
                inner = np.less(part.view(np.int8), -64, out=self._flags[: len(part)])
                counts = self._rank[: n - 1].copy()
                self._row_counts(self._pack(inner, self._bits), word, below, counts)
                np.subtract(chars, counts, out=chars)

    def _row_counts(self, bits: Any, word: Any, below: Any, out: Counts) -> None:
        """How many of `bits` are set in every row."""
        ones, total = self._ones[: len(bits)], self._sum[: len(bits) + 1]
        np.bitwise_count(bits, out=ones)
        np.cumsum(ones, out=total[1:], dtype=np.int32)
        picked, rank = self._picked[: len(word)], self._rank[: len(word)]
        bits.take(word, out=picked, mode="clip")
        np.bitwise_and(picked, below, out=picked)
        total.take(word, out=rank, mode="clip")
        np.add(rank, np.bitwise_count(picked), out=rank)
        np.subtract(rank[1:], rank[:-1], out=out)

    @staticmethod
    def _pack(flags: Any, into: Any) -> Any:
        """`flags` as bits of u64 words, with at least one bit beyond the end."""
        packed = np.packbits(flags, bitorder="little")
        bits = into[: len(flags) // 64 + 1]
        octets = bits.view(np.uint8)
        octets[: len(packed)] = packed
        octets[len(packed) :] = 0
        return bits

    def _blanks(self, part: Bytes, *, ascii_only: bool, prefixed: bool = False) -> Any:
        """True at every byte of every white-space character."""
        n = len(part)
        flags, mask, scratch = self._flags[:n], self._mask[:n], self._bytes[:n]
        if prefixed:
            np.less_equal(part, 32, out=flags)
            np.subtract(part, 1, out=scratch)  # NUL becomes 255
            least = int(scratch.min())
            if least < 31:
                np.subtract(part, 14, out=scratch)
                # line breaks and tabs are common, control characters that are no blanks are not
                if least < 8 or int(scratch.min()) < 14:
                    np.greater_equal(scratch, 14, out=mask)  # not U+000E-001B
                    np.logical_and(flags, mask, out=flags)
                    np.subtract(part, 1, out=scratch)
                    np.greater_equal(scratch, 8, out=mask)  # not U+0001-0008
                    np.logical_and(flags, mask, out=flags)
        elif int(part.min()) >= 32:
            np.equal(part, 32, out=flags)
        else:
            np.subtract(part, 9, out=scratch)
            np.less_equal(scratch, 4, out=flags)
            np.subtract(part, 28, out=scratch)
            np.less_equal(scratch, 4, out=mask)  # U+001C-001F and the space
            np.logical_or(flags, mask, out=flags)
        if not ascii_only:
            np.subtract(part, 0xE1, out=scratch)
            np.less_equal(scratch, 2, out=mask)
            lead = np.equal(part, 0xC2, out=scratch.view(bool))
            np.logical_or(mask, lead, out=mask)
            _mark_wide_blanks(part, self._places(n), flags)
        return flags

    def _places(self, n: int) -> Rows:
        """Where the first `n` flags of the mask are set, in two steps because few of them are."""
        self._mask[n : -(-n // 8) * 8] = False
        groups = np.flatnonzero(np.packbits(self._mask[:n]) != 0)
        if len(groups) > n // 64:
            return np.flatnonzero(self._mask[:n])
        inside = np.flatnonzero(self._mask[: -(-n // 8) * 8].reshape(-1, 8).take(groups, axis=0))
        return groups.take(inside >> 3) * 8 + (inside & 7)

    def _long_row(self, part: Bytes, words: Counts, chars: Counts) -> None:
        """One row larger than a block, in slices that end between characters."""
        n_words = n_inner = 0
        blank_before = True
        for piece in slices(part, SLICE_BYTES):
            blank = self._blanks(piece, ascii_only=int(piece.max()) < 0x80)
            n_words += int(np.count_nonzero(blank[:-1] & ~blank[1:])) + int(blank_before and not blank[0])
            blank_before = bool(blank[-1])
            n_inner += int(np.count_nonzero(piece.view(np.int8) < -64))
        words[:] = n_words
        chars[:] = len(part) - n_inner


_THREAD = threading.local()


def counter_of_this_thread(*, words: bool = True, chars: bool = True) -> Counter:
    """A counter whose scratch outlives the call: fresh pages for it cost as much as the counting."""
    counter: Counter | None = getattr(_THREAD, "counter", None)
    if counter is None:
        counter = _THREAD.counter = Counter(words=words, chars=chars)
    counter.words, counter.chars = words, chars
    return counter


def _mark_wide_blanks(part: Bytes, leads: Rows, flags: Any) -> None:
    """Mark white space of two and three bytes; `leads` are the places of the bytes C2, E1, E2 and E3."""
    if len(leads) == 0:
        return
    # C2 A0, E2 80, E2 81, E3 80 | C2 85 | E1 9A: one sum modulo 256 tells these from nearly all others
    pair = part.take(leads + 1, mode="clip")
    pair += part.take(leads)
    likely = (pair == 0x62) | (pair == 0x63) | (pair == 0x47) | (pair == 0x7B)
    if not likely.any():
        return
    leads = leads[likely]
    lead, second, third = part[leads], part.take(leads + 1, mode="clip"), part.take(leads + 2, mode="clip")
    inside = leads + 2 < len(part)
    two = (lead == 0xC2) & ((second == 0x85) | (second == 0xA0)) & (leads + 1 < len(part))
    general = (third - np.uint8(0x80) <= 0x0A) | (third == 0xA8) | (third == 0xA9) | (third == 0xAF)
    three = (lead == 0xE2) & (((second == 0x80) & general) | ((second == 0x81) & (third == 0x9F)))
    three |= (lead == 0xE1) & (second == 0x9A) & (third == 0x80)
    three |= (lead == 0xE3) & (second == 0x80) & (third == 0x80)
    three &= inside
    for length, places in ((2, leads[two]), (3, leads[three])):
        for i in range(length):
            flags[places + i] = True


def _count_dictionary(text: pa.Array, *, words: bool, chars: bool) -> tuple[Counts, Counts]:
    index, nulls = _indices(text)
    counts = count_words_and_chars(text.dictionary, words=words, chars=chars)
    out = []
    for wanted, values in zip((words, chars), counts, strict=True):
        rows = values[index] if wanted and len(values) else np.full(len(text) if wanted else 0, -1, np.int32)
        if wanted:
            rows[nulls] = -1
        out.append(rows)
    return out[0], out[1]


def _indices(text: pa.Array) -> tuple[Rows, Any]:
    """Dictionary positions (0 where null) and the null mask."""
    keys = text.indices
    nulls = np.zeros(len(keys), bool)
    valid, body = keys.buffers()
    values = np.frombuffer(body, keys.type.to_pandas_dtype())[keys.offset : keys.offset + len(keys)]
    if valid is not None and keys.null_count:
        bits = np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")
        nulls = bits[keys.offset : keys.offset + len(keys)] == 0
    return np.where(nulls, 0, values).astype(np.int64), nulls


def _is_small(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def _is_large(kind: pa.DataType) -> bool:
    return bool(pa.types.is_large_string(kind) or pa.types.is_large_binary(kind))


def _is_utf8(part: Bytes, bounds: np.ndarray[Any, Any]) -> bool:
    """Whether the block is UTF-8 as a whole and no row begins inside a character."""
    firsts = bounds[:-1][bounds[1:] > bounds[:-1]] - bounds[0]
    if ((part[firsts] & 0xC0) == 0x80).any():
        return False
    return is_utf8(part)


def _decodes(row: Bytes) -> bool:
    """The same for one row: a short one is cheaper in Python's decoder."""
    if len(row) > BLOCK_BYTES:
        return is_utf8(row)
    try:
        row.tobytes().decode()
    except UnicodeDecodeError:
        return False
    return True
