"""The headers of one window of a tar, checked and parsed as columns.

Bytes of the window are seen as (blocks, 512). A block is a candidate when it holds "us" and "r" where a header has its magic;
checksum, size, type and name of all candidates are worked out at once. Only chains that begin where a header must be count:
a look-alike inside a picture is a candidate, and on no chain. A pax record that holds nothing but a time is taken as part of
the header behind it: Python's tarfile writes one for every member whose time is a fraction.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from curate._jsonuid import I64, MAX_JSON_BYTES, U8, U64, hex_to_pairs

JSON_CODE, BAD_CODE = 0, 1
MAX_EXTENSIONS = 10_000
Bool = npt.NDArray[np.bool_]

Chain = tuple[I64, I64, I64, I64, Bool]  # header, data, size, code, new: one row per member

_EXT_BYTES = 16
_OCTAL = 8 ** np.arange(10, -1, -1, dtype=np.int64)
_SUM_OCTAL = 8 ** np.arange(5, -1, -1, dtype=np.int64)
_LANES = np.uint64(0x00FF00FF00FF00FF)
_MAGIC_POSIX = np.frombuffer(b"ustar\0", np.uint8)
_MAGIC_GNU = np.frombuffer(b"ustar ", np.uint8)
_MTIME = np.frombuffer(b" mtime=", np.uint8)


class Heads:
    """Candidates of one window. `offset` is where the window begins, `code_of` numbers an extension as spelt."""

    def __init__(self, window: U8, offset: int, size_bytes: int, code_of: Callable[[bytes], int]) -> None:
        self._offset = offset
        filled = len(window)
        blocks = window[: filled - filled % 512].reshape(-1, 512)
        at = np.flatnonzero(blocks[:, 257] == 0x75)
        self.at = at = at[(blocks[at, 258] == 0x73) & (blocks[at, 261] == 0x72)]
        head = blocks[at]
        size_digits = head[:, 124:135] - 48
        good = (size_digits < 8).all(axis=1) & ((head[:, 135] == 0) | (head[:, 135] == 32)) & _sums_fit(head)
        posix = (head[:, 257:263] == _MAGIC_POSIX).all(axis=1)
        good &= (posix & (head[:, 345] == 0)) | (head[:, 257:263] == _MAGIC_GNU).all(axis=1)
        self.size = size = size_digits.astype(np.int64) @ _OCTAL
        self.next = at + 1 + (size + 511) // 512
        kind = head[:, 156]
        times = good & (kind == 0x78) & (size < 100) & (size > 10) & (at + 2 < len(blocks))
        if times.any():
            rows = np.flatnonzero(times)
            times[rows] = _only_time(blocks[at[rows] + 1, :100], size[rows])
        file = good & ((kind == 0x30) | (kind == 0)) & (offset + at * 512 + 512 + size <= size_bytes)
        self._names(code_of, head, file)
        inside = (at + 1) * 512 + size <= filled
        usable = times | (self.file & ((self.code != JSON_CODE) | (inside & (size <= MAX_JSON_BYTES))))
        self._time, self._usable = times, usable
        self._rows = np.flatnonzero(self.file)
        link = usable[:-1] & usable[1:] & (self.next[:-1] == at[1:])
        self._breaks = np.append(np.flatnonzero(~link), len(at) - 1)

    def _names(self, code_of: Callable[[bytes], int], head: U8, file: Bool) -> None:
        count = len(head)
        name = head[:, :100]
        length = np.where((ends := name == 0).any(axis=1), ends.argmax(axis=1), 100)
        width = int(length[file].max(initial=0))
        width = -(-max(width, 1) // 8) * 8
        wide = np.zeros((count, width + _EXT_BYTES), np.uint8)
        wide[:, : min(width, 100)] = name[:, :width]
        columns = np.arange(width + _EXT_BYTES, dtype=np.int64)
        wide *= columns < length[:, None]  # bytes behind the first zero are no part of the name
        dots = wide == 0x2E
        slash = np.full(count, -1)
        slashes = wide == 0x2F
        if slashes.any():
            has = slashes.any(axis=1)
            slash[has] = columns[-1] - slashes[has, ::-1].argmax(axis=1)
            dots &= columns > slash[:, None]
        dot = dots.argmax(axis=1)
        extra = length - dot - 1
        file = file & (dot > slash + 1) & (extra <= _EXT_BYTES) & (extra > 0)
        file &= ~((slash < 0) & (wide[:, 0] == 0x5F) & (wide[:, 1] == 0x5F))
        rows = np.flatnonzero(file)
        dot[~file] = 0
        raw = np.take_along_axis(
            wide, np.minimum(dot[:, None] + columns[1 : _EXT_BYTES + 1], len(columns) - 1), axis=1
        )
        raw *= np.arange(_EXT_BYTES) < extra[:, None]
        words = raw.view(np.uint64)
        self.code = np.full(count, BAD_CODE, np.int64)
        left = rows
        for _ in range(64):
            if not len(left):
                break
            text = raw[left[0]].tobytes().rstrip(b"\0")
            same = (words[left] == words[left[0]]).all(axis=1)
            self.code[left[same]] = code_of(text)
            left = left[~same]
        file[left] = False  # too many kinds: one at a time
        self.file = file
        keys = (wide[:, :width] * (columns[:width] < dot[:, None])).view(np.uint64)
        keys = keys[file]
        self._new = np.ones(len(keys), np.bool_)
        self._new[1:] = (keys[1:] != keys[:-1]).any(axis=1)
        self._keys = keys
        self._wide, self._base, self._key_bytes = wide, slash + 1, dot - slash - 1

    def key(self, row: int) -> bytes:
        """The key of the member at `row` of the file rows."""
        return bytes(self._keys[row].tobytes().rstrip(b"\0"))

    def named_uids(self, begin: int, end: int) -> tuple[I64, U64, U64]:
        """Of the json members among file rows begin:end, those whose key is a uid (or UID-k): place, high, low word."""
        rows = self._rows[begin:end]
        rows = rows[self.code[rows] == JSON_CODE]
        length, base = self._key_bytes[rows], self._base[rows]
        long = np.flatnonzero(length >= 32)
        if not len(long):
            return np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.uint64)
        rows, length, base = rows[long], length[long], base[long]
        hi, lo, good = hex_to_pairs(
            np.take_along_axis(self._wide[rows], base[:, None] + np.arange(32), axis=1)
        )
        after = self._wide[rows, np.minimum(base + 32, self._wide.shape[1] - 1)]
        good &= (length == 32) | (after == 0x2D)
        return long[good], hi[good], lo[good]

    def is_plain(self, block: int) -> bool:
        """True when a header that could be taken as it is starts at `block`."""
        row = int(np.searchsorted(self.at, block))
        return row < len(self.at) and self.at[row] == block and bool(self.file[row] | self._time[row])

    def run(self, block: int) -> tuple[Chain, int, tuple[int, int]] | None:
        """Columns of the unbroken chain from `block`, the block behind it, and its file rows (from, to)."""
        first = int(np.searchsorted(self.at, block))
        if first >= len(self.at) or self.at[first] != block or not self._usable[first]:
            return None
        stop = int(self._breaks[np.searchsorted(self._breaks, first)]) + 1
        if self._time[stop - 1]:
            stop -= 1  # its member is not in this window
        begin, end = np.searchsorted(self._rows, [first, stop]).tolist()
        if begin == end:
            return None
        rows = self._rows[begin:end]
        at = self.at[rows] * 512 + self._offset
        header = at.copy()
        if self._time[first:stop].any():
            before = np.maximum(rows - 1, first)
            header -= np.where(self._time[before], 1024, 0)
        new = self._new[begin:end].copy()
        chain = (header, at + 512, self.size[rows], self.code[rows], new)
        return chain, int(self.next[stop - 1]), (begin, end)


def byte_sums(head: U8) -> npt.NDArray[np.int64]:
    """The sum of each row of (n, 512) bytes."""
    words = head.view(np.uint64)
    lanes = (words & _LANES).sum(axis=1) + ((words >> np.uint64(8)) & _LANES).sum(axis=1)
    total: I64 = lanes.view(np.uint16).reshape(-1, 4).sum(axis=1, dtype=np.int64)
    return total


def _sums_fit(head: U8) -> Bool:
    digits = head[:, 148:154] - 48
    stated = digits.astype(np.int64) @ _SUM_OCTAL
    plain = (digits < 8).all(axis=1) & (head[:, 154] == 0)
    found = byte_sums(head) - head[:, 148:156].sum(axis=1, dtype=np.int64) + 256
    fits: Bool = plain & (stated == found)
    return fits


def _only_time(text: U8, size: I64) -> Bool:
    """True where a pax body is the one record 'NN mtime=digits'."""
    stated = (text[:, 0].astype(np.int64) - 48) * 10 + text[:, 1] - 48
    value = ((text >= 0x30) & (text <= 0x39)) | (text == 0x2E)
    columns = np.arange(text.shape[1])
    inner = (columns >= 9) & (columns < size[:, None] - 1)
    rows = np.arange(len(text))
    fits: Bool = (
        (stated == size)
        & (text[:, 2:9] == _MTIME).all(axis=1)
        & (value | ~inner).all(axis=1)
        & (text[rows, size - 1] == 0x0A)
    )
    return fits
