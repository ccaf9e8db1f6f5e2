"""Compiled reader of image objects whose values are plain: whole numbers, and texts without escapes.

What is left over becomes the text of `extra` at once, if it is as Python's json would write it. Any other object is left to Python (SLOW).
"""

from __future__ import annotations

import numpy as np

from curate._jit import kernel
from curate.polygons._json_kernel import DONE, FAULT, FULL, INT, MORE, SLOW, blank, number, string_end
from curate.polygons._ring_kernel import AT, EXPECT, ROWS, WHERE, key_table, known

KEYS, LENGTHS = key_table(
    (b"id", b"width", b"height", b"exif_orientation", b"file_name", b"datetime", b"sha256")
)
NUMBERS = 4  # the first four are whole numbers, the others texts
MOST = np.array([2**63 - 1, 2**31 - 1, 2**31 - 1, 127])  # of each number; the least is taken as its negative
EXTRA = 3  # the text column behind those of the three texts
MOST_KEYS = 32  # other keys of an image that are compared with each other


@kernel
def _copy(buf, start, stop, texts, used, column):  # type: ignore[no-untyped-def]
    """Append buf[start:stop] to a text column."""
    at = used[column]
    for index in range(stop - start):
        texts[column, at + index] = buf[start + index]
    used[column] = at + stop - start


@kernel
def _byte(texts, used, value):  # type: ignore[no-untyped-def]
    texts[EXTRA, used[EXTRA]] = value
    used[EXTRA] += 1


@kernel
def _escaped(buf, start, stop):  # type: ignore[no-untyped-def]
    for index in range(start, stop):  # noqa: SIM110 (numba has no any)
        if buf[index] == 92:
            return True
    return False


@kernel
def _word(buf, pos):  # type: ignore[no-untyped-def]
    """The length of true, false or null at `pos`; 0 for none of them."""
    if buf[pos] == 116 and buf[pos + 1] == 114 and buf[pos + 2] == 117 and buf[pos + 3] == 101:
        return 4
    if buf[pos] == 110 and buf[pos + 1] == 117 and buf[pos + 2] == 108 and buf[pos + 3] == 108:
        return 4
    if (
        buf[pos] == 102
        and buf[pos + 1] == 97
        and buf[pos + 2] == 108
        and buf[pos + 3] == 115
        and buf[pos + 4] == 101
    ):
        return 5
    return 0


@kernel
def _again(buf, start, stop, keys, count):  # type: ignore[no-untyped-def]
    """Whether the key buf[start:stop] is one of the `count` before it."""
    for row in range(count):
        if keys[row, 1] - keys[row, 0] == stop - start:
            same = True
            for index in range(stop - start):
                if buf[keys[row, 0] + index] != buf[start + index]:
                    same = False
                    break
            if same:
                return True
    return False


@kernel
def _object(buf, pos, end, row, ints, valid, texts, used, keys, bits):  # type: ignore[no-untyped-def]
    """(status, position behind) of one object; `texts` has room for all that the window holds."""
    good = 0
    count = 0
    pos = blank(buf, pos + 1)
    if buf[pos] == 125:
        valid[row] = 0
        return DONE, pos + 1
    while True:
        if buf[pos] != 34:
            return (MORE if pos >= end else SLOW), pos
        start = pos
        behind = string_end(buf, pos)
        if behind < 0:
            return (MORE if -1 - behind >= end else SLOW), pos
        key = known(buf, start + 1, behind - 1, KEYS, LENGTHS)
        if key == -2 or (key >= 0 and good >> key & 1):
            return SLOW, pos
        pos = blank(buf, behind)
        if buf[pos] != 58:
            return (MORE if pos >= end else SLOW), pos
        pos = blank(buf, pos + 1)
        at = pos
        if buf[pos] == 34:
            pos = string_end(buf, pos)
            if pos < 0:
                return (MORE if -1 - pos >= end else SLOW), at
            if _escaped(buf, at, pos) or 0 <= key < NUMBERS:
                return SLOW, at
            if key >= 0:
                _copy(buf, at + 1, pos - 1, texts, used, key - NUMBERS)
                good |= 1 << key
        elif 48 <= buf[pos] <= 57 or buf[pos] == 45:
            kind, _, whole, pos = number(buf, pos, bits)
            if pos >= end:
                return MORE, at
            if kind != INT or (whole == 0 and buf[at] == 45) or key >= NUMBERS:
                return SLOW, at
            if key >= 0:
                if whole > MOST[key] or whole < -MOST[key]:
                    return SLOW, at
                ints[key, row] = whole
                good |= 1 << key
        else:
            length = _word(buf, pos)
            if length == 0 and pos + 5 >= end and buf[pos] != 91 and buf[pos] != 123:
                return MORE, at
            if length == 0 or key >= 0:  # a null in a column is for `extra`, under its own key
                return SLOW, at
            pos += length
        if key < 0:
            if count >= MOST_KEYS or _again(buf, start, behind, keys, count):
                return SLOW, at
            keys[count, 0] = start
            keys[count, 1] = behind
            _byte(texts, used, 44 if count else 123)
            count += 1
            _copy(buf, start, behind, texts, used, EXTRA)
            _byte(texts, used, 58)
            _copy(buf, at, pos, texts, used, EXTRA)
        pos = blank(buf, pos)
        if buf[pos] == 125:
            if count:
                _byte(texts, used, 125)
                good |= 1 << (NUMBERS + EXTRA)
            valid[row] = good
            return DONE, pos + 1
        if buf[pos] != 44:
            return (MORE if pos >= end else SLOW), pos
        pos = blank(buf, pos + 1)


@kernel
def scan_images(buf, end, state, ints, valid, texts, used, ends, keys, bits):  # type: ignore[no-untyped-def]
    """Read objects of a list into rows state[ROWS] …; `ends` (4, rows) are where each row's texts end. Statuses as `_coco_kernel.scan`."""
    before = np.zeros(EXTRA + 1, np.int64)
    while True:
        pos = blank(buf, state[AT])
        state[AT] = pos
        state[WHERE] = pos
        if buf[pos] == 93 and state[EXPECT] != 2:
            state[AT] = pos + 1
            return DONE
        if state[EXPECT] == 1:
            if buf[pos] != 44:
                return MORE if pos >= end else FAULT
            state[AT] = pos + 1
            state[EXPECT] = 2
            continue
        if buf[pos] != 123:
            if pos >= end:
                return MORE
            return FAULT if buf[pos] == 93 else SLOW
        row = state[ROWS]
        if row >= len(valid) or used.max() + (end - pos) + 4 * MOST_KEYS > texts.shape[1]:
            return FULL
        before[:] = used
        status, behind = _object(buf, pos, end, row, ints, valid, texts, used, keys, bits)
        if status != DONE:
            used[:] = before
            return status
        ends[:, row] = used
        state[AT] = behind
        state[EXPECT] = 1
        state[ROWS] = row + 1
