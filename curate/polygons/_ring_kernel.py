"""Compiled reader of COCO's and kwcoco's polygons: lists of numbers, and objects with exterior and interiors.

`state` counts what the arrays hold already. A status other than DONE leaves the arrays to be put back by the caller.
"""

from __future__ import annotations

import numpy as np

from curate._jit import kernel
from curate.polygons._json_kernel import BIG, DONE, FULL, HARD, INT, MORE, NO, SLOW, blank, number

AT, EXPECT, ROWS, PARTS, VERTS, SPANS, WHERE = range(7)  # entries of `state`
POLYGONS, ONE, MANY = 1, 2, 3  # Form
EXTERIOR = np.frombuffer(b"exterior", np.uint8)
INTERIORS = np.frombuffer(b"interiors", np.uint8)
SIZE = np.frombuffer(b"size", np.uint8)
COUNTS = np.frombuffer(b"counts", np.uint8)


def key_table(names: tuple[bytes, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(n, 16) bytes and (n,) lengths of key names."""
    table = np.zeros((len(names), 16), np.uint8)
    for row, name in enumerate(names):
        table[row, : len(name)] = np.frombuffer(name, np.uint8)
    return table, np.array([len(name) for name in names])


@kernel
def known(buf, start, stop, keys, lengths):  # type: ignore[no-untyped-def]
    """The number of the key buf[start:stop]; -1 for another one, -2 where it has escapes."""
    length = stop - start
    for row in range(len(lengths)):
        if lengths[row] == length:
            same = True
            for index in range(length):
                if buf[start + index] != keys[row, index]:
                    same = False
                    break
            if same:
                return row
    for index in range(start, stop):
        if buf[index] == 92:
            return -2
    return -1


@kernel
def is_word(buf, start, word, end):  # type: ignore[no-untyped-def]
    """1 where the string at `start` is `word`, 0 where it is not, -1 where more bytes are wanted to tell."""
    length = len(word)
    for index in range(length + 2):
        byte = buf[start + index]
        if byte != (34 if index == 0 or index > length else word[index - 1]):
            return -1 if start + index >= end else 0
    return 1


@kernel
def _flat_ring(buf, pos, end, state, xs, ys, bits):  # type: ignore[no-untyped-def]
    """[x, y, x, y …] at `pos` into xs, ys: (status, position behind)."""
    pos = blank(buf, pos + 1)
    if buf[pos] == 93:
        return DONE, pos + 1
    while True:
        kind, x, whole, pos = number(buf, pos, bits)
        if buf[pos] == 0 and pos >= end:
            return MORE, pos
        if kind in (NO, HARD) or (kind == INT and abs(whole) > BIG):
            return SLOW, pos
        pos = blank(buf, pos)
        if buf[pos] != 44:
            return (MORE if pos >= end else SLOW), pos
        pos = blank(buf, pos + 1)
        kind, y, whole, pos = number(buf, pos, bits)
        if buf[pos] == 0 and pos >= end:
            return MORE, pos
        if kind in (NO, HARD) or (kind == INT and abs(whole) > BIG):
            return SLOW, pos
        at = state[VERTS]
        if at >= len(xs):
            return FULL, pos
        xs[at] = x
        ys[at] = y
        state[VERTS] = at + 1
        pos = blank(buf, pos)
        byte = buf[pos]
        if byte == 93:
            return DONE, pos + 1
        if byte != 44:
            return (MORE if pos >= end else SLOW), pos
        pos = blank(buf, pos + 1)


@kernel
def _pair_ring(buf, pos, end, state, xs, ys, bits):  # type: ignore[no-untyped-def]
    """[[x, y], [x, y] …] at `pos` into xs, ys: (status, position behind)."""
    if buf[pos] != 91:
        return (MORE if pos >= end else SLOW), pos
    pos = blank(buf, pos + 1)
    if buf[pos] == 93:
        return DONE, pos + 1
    while True:
        if buf[pos] != 91:
            return (MORE if pos >= end else SLOW), pos
        pos = blank(buf, pos + 1)
        kind, x, whole, pos = number(buf, pos, bits)
        if buf[pos] == 0 and pos >= end:
            return MORE, pos
        if kind in (NO, HARD) or (kind == INT and abs(whole) > BIG):
            return SLOW, pos
        pos = blank(buf, pos)
        if buf[pos] != 44:
            return (MORE if pos >= end else SLOW), pos
        pos = blank(buf, pos + 1)
        kind, y, whole, pos = number(buf, pos, bits)
        if buf[pos] == 0 and pos >= end:
            return MORE, pos
        if kind in (NO, HARD) or (kind == INT and abs(whole) > BIG):
            return SLOW, pos
        pos = blank(buf, pos)
        if buf[pos] != 93:
            return (MORE if pos >= end else SLOW), pos
        at = state[VERTS]
        if at >= len(xs):
            return FULL, pos
        xs[at] = x
        ys[at] = y
        state[VERTS] = at + 1
        pos = blank(buf, pos + 1)
        byte = buf[pos]
        if byte == 93:
            return DONE, pos + 1
        if byte != 44:
            return (MORE if pos >= end else SLOW), pos
        pos = blank(buf, pos + 1)


@kernel
def _part(state, rings, holes, exteriors, hole, exterior):  # type: ignore[no-untyped-def]
    """Open a part at the next vertex; False where there is no room."""
    at = state[PARTS]
    if at >= len(rings):
        return False
    rings[at] = state[VERTS]
    holes[at] = hole
    exteriors[at] = exterior
    state[PARTS] = at + 1
    return True


@kernel
def polygon_object(buf, pos, end, state, first, rings, holes, exteriors, xs, ys, bits):  # type: ignore[no-untyped-def]
    """{"exterior": …, "interiors": […]} at `pos`, in this order and nothing else, as parts; `first` is the annotation's first part."""
    pos = blank(buf, pos + 1)
    named = is_word(buf, pos, EXTERIOR, end)
    if named != 1:
        return (SLOW if named == 0 else MORE), pos
    pos = blank(buf, pos + 10)
    if buf[pos] != 58:
        return (MORE if pos >= end else SLOW), pos
    pos = blank(buf, pos + 1)
    own = state[PARTS] - first
    if not _part(state, rings, holes, exteriors, False, own):
        return FULL, pos
    status, pos = _pair_ring(buf, pos, end, state, xs, ys, bits)
    if status != DONE:
        return status, pos
    pos = blank(buf, pos)
    if buf[pos] != 44:
        return (MORE if pos >= end else SLOW), pos
    pos = blank(buf, pos + 1)
    named = is_word(buf, pos, INTERIORS, end)
    if named != 1:
        return (SLOW if named == 0 else MORE), pos
    pos = blank(buf, pos + 11)
    if buf[pos] != 58:
        return (MORE if pos >= end else SLOW), pos
    pos = blank(buf, pos + 1)
    if buf[pos] != 91:
        return (MORE if pos >= end else SLOW), pos
    pos = blank(buf, pos + 1)
    while buf[pos] != 93:
        if not _part(state, rings, holes, exteriors, True, own):
            return FULL, pos
        status, pos = _pair_ring(buf, pos, end, state, xs, ys, bits)
        if status != DONE:
            return status, pos
        pos = blank(buf, pos)
        if buf[pos] == 44:
            pos = blank(buf, pos + 1)
            if buf[pos] == 93:
                return SLOW, pos
        elif buf[pos] != 93:
            return (MORE if pos >= end else SLOW), pos
    pos = blank(buf, pos + 1)
    if buf[pos] != 125:
        return (MORE if pos >= end else SLOW), pos
    return DONE, pos + 1


@kernel
def shape(buf, pos, end, state, first, rings, holes, exteriors, xs, ys, bits):  # type: ignore[no-untyped-def]
    """(status, position behind, form) of a list of polygons at `pos`."""
    pos = blank(buf, pos + 1)
    byte = buf[pos]
    if byte == 93:
        return DONE, pos + 1, POLYGONS
    form = POLYGONS if byte == 91 else MANY
    while True:
        if form == POLYGONS and buf[pos] == 91:
            if not _part(state, rings, holes, exteriors, False, state[PARTS] - first):
                return FULL, pos, form
            status, pos = _flat_ring(buf, pos, end, state, xs, ys, bits)
        elif form == MANY and buf[pos] == 123:
            status, pos = polygon_object(buf, pos, end, state, first, rings, holes, exteriors, xs, ys, bits)
        else:
            return (MORE if pos >= end else SLOW), pos, form
        if status != DONE:
            return status, pos, form
        pos = blank(buf, pos)
        if buf[pos] == 93:
            return DONE, pos + 1, form
        if buf[pos] != 44:
            return (MORE if pos >= end else SLOW), pos, form
        pos = blank(buf, pos + 1)
