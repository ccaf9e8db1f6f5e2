"""Compiled part of the outlines: borders of all labels of a picture in one pass.

A border runs along pixels' edges with its label to the right hand (y down), so outer borders run clockwise and holes the other way.
Pixels of a label that touch at a corner belong together. Every run of a row begins at an edge of one border and ends at an edge of
one; the first edge that a scan by rows meets of an outer border is the begin of a run, of a hole the end of one. So an unmarked
begin is a new part, and an unmarked end is a new hole, which is cut to its part along the top of that run.
"""

from __future__ import annotations

import numpy as np

from curate._jit import kernel

LEFT, RIGHT, CUT = (
    1,
    2,
    4,
)  # of a pixel: which of its upright edges were walked; whether a cut starts at its left one
PAD = 8  # columns before the first, so that words of 8 pixels are aligned


@kernel
def _next_way(cells, label, x, y, way):  # type: ignore[no-untyped-def]
    """Where the border goes on at corner (x, y): 0 up, 1 right, 2 down, 3 left. What lies ahead on the left is always taken up."""
    if way == 0:
        ahead_left, ahead_right = cells[y - 1, x - 1], cells[y - 1, x]
    elif way == 1:
        ahead_left, ahead_right = cells[y - 1, x], cells[y, x]
    elif way == 2:
        ahead_left, ahead_right = cells[y, x], cells[y, x - 1]
    else:
        ahead_left, ahead_right = cells[y, x - 1], cells[y - 1, x - 1]
    if ahead_left == label:
        return (way + 3) & 3
    if ahead_right == label:
        return way
    return (way + 1) & 3


@kernel
def _walk(cells, flags, x0, y0, way0):  # type: ignore[no-untyped-def]
    """Marks the upright edges of one closed border that starts with way0 (0 up or 2 down); how many corners it has."""
    label = cells[y0 - 1, x0] if way0 == 0 else cells[y0, x0 - 1]
    x, y, way, corners = x0, y0, way0, 0
    while True:
        if way == 0:
            y -= 1
            flags[y, x] |= LEFT
        elif way == 1:
            x += 1
        elif way == 2:
            flags[y, x - 1] |= RIGHT
            y += 1
        else:
            x -= 1
        turn = _next_way(cells, label, x, y, way)
        corners += turn != way
        way = turn
        if x == x0 and y == y0 and way == way0:
            return corners


@kernel
def _write(cells, flags, x0, y0, stack, points, used):  # type: ignore[no-untyped-def]
    """Writes the corners of one part, its holes cut in where their cuts start; the next free place."""
    label = cells[y0 - 1, x0]
    x, y, way, way0, depth = x0, y0, 0, 0, 0
    while True:
        if way == 0:
            y -= 1
            if flags[y, x] & CUT:
                end = x
                while cells[y, end] == label:
                    end += 1
                points[used, 0], points[used, 1] = x, y
                points[used + 1, 0], points[used + 1, 1] = end, y
                used += 2
                stack[depth, 0], stack[depth, 1], stack[depth, 2] = x, x0, y0
                depth += 1
                x, x0, y0, way, way0 = end, end, y, 2, 2
                continue
        elif way == 1:
            x += 1
        elif way == 2:
            y += 1
        else:
            x -= 1
        turn = _next_way(cells, label, x, y, way)
        closed = x == x0 and y == y0 and turn == way0
        if turn != way:
            points[used, 0], points[used, 1] = x, y
            used += 1
        while closed and depth:
            # back along the cut, to the border that came upwards there
            depth -= 1
            x, x0, y0 = stack[depth, 0], stack[depth, 1], stack[depth, 2]
            way0 = 2 if depth else 0
            points[used, 0], points[used, 1] = x, y
            used += 1
            turn = _next_way(cells, label, x, y, 0)
            closed = x == x0 and y == y0 and turn == way0
        way = turn
        if closed:
            return used


@kernel
def outlines(labels, count, borders):  # type: ignore[no-untyped-def]
    """Of a (H, W) uint8 picture of labels 1..count: boxes, and with `borders` the corners, length and label of each part.

    Boxes are left, top, right, bottom, the last two excluded; all 0 for a label that is nowhere.
    """
    height, width = labels.shape
    stride = (PAD + width + 8) // 8 * 8
    cells = np.zeros((height + 2, stride), dtype=np.uint8)
    flags = np.zeros((height + 2, stride), dtype=np.uint8)
    for y in range(height):
        for x in range(width):
            cells[y + 1, x + PAD] = labels[y, x]
    words = cells.view(np.uint64)
    boxes = np.zeros((count + 1, 4), dtype=np.int64)
    boxes[:, 0] = width
    starts = np.empty((64, 2), dtype=np.int64)
    parts, holes, total = 0, 0, 0
    for y in range(1, height + 1):
        begin, before = 0, np.uint8(0)
        for word in range(1, stride // 8):
            if words[y, word] == np.uint64(before) * np.uint64(0x0101010101010101):
                continue
            for x in range(8 * word, 8 * word + 8):
                label = cells[y, x]
                if label == before:
                    continue
                if before:
                    box = boxes[before]
                    if box[3] == 0:
                        box[1] = y - 1
                    box[3] = y
                    box[0] = min(box[0], begin - PAD)
                    box[2] = max(box[2], x - PAD)
                    if borders and not flags[y, x - 1] & RIGHT:
                        # its corners, its first one again, and twice the begin of the cut
                        total += _walk(cells, flags, x, y, 2) + 3
                        flags[y, begin] |= CUT
                        holes += 1
                if label and borders and not flags[y, x] & LEFT:
                    if parts == len(starts):
                        larger = np.empty((2 * parts, 2), dtype=np.int64)
                        larger[:parts] = starts
                        starts = larger
                    starts[parts, 0], starts[parts, 1] = x, y + 1
                    parts += 1
                    total += _walk(cells, flags, x, y + 1, 0)
                begin, before = x, label
    for label in range(count + 1):
        if boxes[label, 3] == 0:
            boxes[label, 0] = 0
    points = np.empty((total, 2), dtype=np.int64)
    lengths = np.empty(parts, dtype=np.int64)
    owners = np.empty(parts, dtype=np.int64)
    stack = np.empty((holes, 3), dtype=np.int64)
    used = 0
    for part in range(parts):
        x, y = starts[part, 0], starts[part, 1]
        after = _write(cells, flags, x, y, stack, points, used)
        lengths[part] = after - used
        owners[part] = cells[y - 1, x]
        used = after
    return boxes[1:], points[:used] - np.array([PAD, 1]), lengths, owners
