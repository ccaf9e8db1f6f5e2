"""Compiled reader of COCO's and kwcoco's annotation objects: bytes straight into columns, one object after the other.

What a column cannot hold is left as a span of the buffer for Python; an object with something unusual in its shape is left whole
(SLOW), and read there by the rules of `_rows`, which are the same.
"""

from __future__ import annotations

from curate._jit import kernel
from curate.polygons._json_kernel import (
    BIG,
    DEEP,
    DONE,
    FAULT,
    FLOAT,
    FULL,
    HARD,
    INT,
    MORE,
    NO,
    SLOW,
    blank,
    number,
    string_end,
    value_end,
)
from curate.polygons._ring_kernel import (
    AT,
    COUNTS,
    EXPECT,
    EXTERIOR,
    ONE,
    PARTS,
    ROWS,
    SIZE,
    SPANS,
    VERTS,
    WHERE,
    is_word,
    key_table,
    known,
    polygon_object,
    shape,
)

NAMES = (
    b"id",
    b"image_id",
    b"category_id",
    b"track_id",
    b"bbox",
    b"area",
    b"score",
    b"iscrowd",
    b"segmentation",
    b"keypoints",
    b"source",
    b"points",
)

KEYS, LENGTHS = key_table(NAMES)
BBOX, AREA, SCORE, CROWD, SHAPE, KEYPOINTS, SOURCE, POINTS = range(4, 12)
EXTRA_SPAN, RLE_SPAN = 0, SHAPE  # kinds of span; KEYPOINTS and SOURCE are the other two


@kernel
def _span(state, spans, row, kind, start, stop):  # type: ignore[no-untyped-def]
    at = state[SPANS]
    if at >= len(spans):
        return False
    spans[at, 0] = row
    spans[at, 1] = kind
    spans[at, 2] = start
    spans[at, 3] = stop
    state[SPANS] = at + 1
    return True


@kernel
def _bbox(buf, pos, end, row, floats, bits):  # type: ignore[no-untyped-def]
    """(status, position behind) of a list of four numbers; NO where it is something else."""
    if buf[pos] != 91:
        return NO, pos
    for side in range(4):
        pos = blank(buf, pos + 1)
        kind, value, whole, pos = number(buf, pos, bits)
        if buf[pos] == 0 and pos >= end:
            return MORE, pos
        if kind == HARD:
            return SLOW, pos
        if kind == NO or (kind == INT and abs(whole) > BIG):
            return NO, pos
        floats[side, row] = value
        pos = blank(buf, pos)
        if buf[pos] != (44 if side < 3 else 93):
            return (MORE if pos >= end else NO), pos
    return DONE, pos + 1


@kernel
def _object(  # type: ignore[no-untyped-def]
    buf,
    pos,
    end,
    depth,
    state,
    ints,
    floats,
    crowd,
    forms,
    valid,
    first_part,
    rings,
    holes,
    exteriors,
    xs,
    ys,
    spans,
    bits,
):
    """One annotation object at `pos` into row state[ROWS]: (status, position behind)."""
    row = state[ROWS]
    first = state[PARTS]
    seen = 0
    good = 0
    forms[row] = 0
    first_part[row] = first
    pos = blank(buf, pos + 1)
    if buf[pos] == 125:
        valid[row] = 0
        return DONE, pos + 1
    while True:
        if buf[pos] != 34:
            return (MORE if pos >= end else FAULT), pos
        start = pos
        behind = string_end(buf, pos)
        if behind < 0:
            return (MORE if -1 - behind >= end else FAULT), -1 - behind
        key = known(buf, start + 1, behind - 1, KEYS, LENGTHS)
        if key == -2 or key == POINTS:
            return SLOW, pos
        if key >= 0:
            if seen >> key & 1:
                return SLOW, pos  # twice: refused there by name
            seen |= 1 << key
        pos = blank(buf, behind)
        if buf[pos] != 58:
            return (MORE if pos >= end else FAULT), pos
        pos = blank(buf, pos + 1)
        at = pos
        status = NO
        if 0 <= key < BBOX:
            kind, value, whole, pos = number(buf, pos, bits)
            if kind == HARD:
                return (MORE if pos >= end else SLOW), pos
            if kind == INT:
                status = DONE
                ints[key, row] = whole
        elif key in (AREA, SCORE):
            kind, value, whole, pos = number(buf, pos, bits)
            if kind == HARD:
                return (MORE if pos >= end else SLOW), pos
            if kind == FLOAT or (kind == INT and abs(whole) <= BIG):
                status = DONE
                floats[key - 1, row] = value
        elif key == CROWD:
            kind, value, whole, pos = number(buf, pos, bits)
            if kind == INT and -128 <= whole <= 127:
                status = DONE
                crowd[row] = whole
        elif key == BBOX:
            status, pos = _bbox(buf, pos, end, row, floats, bits)
        elif key == SHAPE and buf[pos] == 91:
            status, pos, form = shape(buf, pos, end, state, first, rings, holes, exteriors, xs, ys, bits)
            forms[row] = form
        elif key == SHAPE and buf[pos] == 123:
            inner = blank(buf, pos + 1)
            polygon = is_word(buf, inner, EXTERIOR, end)
            size, counts = is_word(buf, inner, SIZE, end), is_word(buf, inner, COUNTS, end)
            if polygon < 0 or size < 0 or counts < 0:
                return MORE, pos
            if polygon:
                status, pos = polygon_object(
                    buf, pos, end, state, first, rings, holes, exteriors, xs, ys, bits
                )  # fmt: skip
                forms[row] = ONE
            elif not size and not counts:
                return SLOW, pos
        if status in (MORE, SLOW, FULL):
            return status, pos
        if status == DONE:
            good |= 1 << key
        else:
            status, pos = value_end(buf, at, end, depth)
            if status != DONE:
                return status, pos
            extra = key < SHAPE or buf[at] == 110  # null is kept as it is
            kind = EXTRA_SPAN if extra else key
            if not _span(state, spans, row, kind, start if extra else at, pos):
                return FULL, pos
        pos = blank(buf, pos)
        if buf[pos] == 125:
            valid[row] = good
            return DONE, pos + 1
        if buf[pos] != 44:
            return (MORE if pos >= end else FAULT), pos
        pos = blank(buf, pos + 1)


@kernel
def scan(  # type: ignore[no-untyped-def]
    buf,
    end,
    depth,
    state,
    ints,
    floats,
    crowd,
    forms,
    valid,
    first_part,
    rings,
    holes,
    exteriors,
    xs,
    ys,
    spans,
    bits,
):
    """Read objects of a list from buf[state[AT]:end] until something else is needed; returns why it stopped.

    state[EXPECT] is 0 behind the opening bracket, 1 behind an element, 2 behind a comma. MORE: bytes; FULL: room; SLOW: state[WHERE] is the start of an
    object for Python; DONE: behind the closing bracket; FAULT, DEEP: state[WHERE] is where.
    """
    while True:
        pos = blank(buf, state[AT])
        state[AT] = pos  # blanks are not kept for the next window
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
        if state[ROWS] >= len(forms):
            return FULL
        parts = state[PARTS]
        verts = state[VERTS]
        count = state[SPANS]
        status, behind = _object(
            buf,
            pos,
            end,
            depth,
            state,
            ints,
            floats,
            crowd,
            forms,
            valid,
            first_part,
            rings,
            holes,
            exteriors,
            xs,
            ys,
            spans,
            bits,
        )
        if status == DONE:
            state[AT] = behind
            state[EXPECT] = 1
            state[ROWS] += 1
            continue
        state[PARTS] = parts
        state[VERTS] = verts
        state[SPANS] = count
        if status in (FAULT, DEEP):
            state[WHERE] = behind
        return status
