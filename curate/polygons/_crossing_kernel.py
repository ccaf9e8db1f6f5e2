"""Compiled search for rings that cross themselves or each other, in time bounded by a count of steps.

The edges of an annotation stand in a tree of boxes, 8 edges in a row a leaf; only edges whose boxes meet are compared. Outlines of
things take some n log n steps. A shape made to be slow would take n^2: then the search ends after its steps and says UNFINISHED.
"""

from __future__ import annotations

import numpy as np

from curate._jit import kernel
from curate.polygons._geometry_kernel import CROSS, HUGE, NONE, NOT_FINITE, contact, enters, place

SELF_CROSS, SELF_TOUCH, HOLE_OUTSIDE, HOLES_OVERLAP, PARTS_OVERLAP, UNFINISHED = 1, 2, 4, 8, 16, 32
LEAF = 8
STEPS_A_VERTEX, STEPS = 64, 1 << 20


@kernel
def _tree(x, y, after, n, boxes, edges):  # type: ignore[no-untyped-def]
    """Fills the boxes (nodes, 4) of a binary tree over runs of LEAF edges with root 1, and those (n, 4) of edges; its number of leaves.

    Boxes of empty nodes meet nothing.
    """
    leaves = (n + LEAF - 1) // LEAF
    size = 1
    while size < leaves:
        size *= 2
    for leaf in range(size):
        x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
        for e in range(leaf * LEAF, min(n, (leaf + 1) * LEAF)):
            f = after[e]
            edges[e, 0], edges[e, 2] = min(x[e], x[f]), max(x[e], x[f])
            edges[e, 1], edges[e, 3] = min(y[e], y[f]), max(y[e], y[f])
            x0, x1 = min(x0, edges[e, 0]), max(x1, edges[e, 2])
            y0, y1 = min(y0, edges[e, 1]), max(y1, edges[e, 3])
        node = size + leaf
        boxes[node, 0], boxes[node, 1], boxes[node, 2], boxes[node, 3] = x0, y0, x1, y1
    for node in range(size - 1, 0, -1):
        for axis in range(2):
            boxes[node, axis] = min(boxes[2 * node, axis], boxes[2 * node + 1, axis])
            boxes[node, 2 + axis] = max(boxes[2 * node, 2 + axis], boxes[2 * node + 1, 2 + axis])
    return size


@kernel
def _meet(a, i, b, j):  # type: ignore[no-untyped-def]
    """Whether box i of `a` and box j of `b` meet."""
    return (a[i, 0] <= b[j, 2]) & (b[j, 0] <= a[i, 2]) & (a[i, 1] <= b[j, 3]) & (b[j, 1] <= a[i, 3])


@kernel
def _cross_fault(hole, exterior, e, f):  # type: ignore[no-untyped-def]
    """What it means that rings e and f cross."""
    if exterior[e] != exterior[f]:
        # two holes of different exteriors may lie as they like
        return 0 if hole[e] and hole[f] else PARTS_OVERLAP
    return HOLES_OVERLAP if hole[e] and hole[f] else HOLE_OUTSIDE


@kernel
def _touch_fault(x, y, before, after, ring, hole, exterior, left, e, f):  # type: ignore[no-untyped-def]
    """What it means how edges of two rings that touch go on."""
    a, b = ring[e], ring[f]
    if hole[a] and not hole[b]:
        e, f, a, b = f, e, b, a
    a_in, a_out = enters(x, y, before, after, e, f, left[b])
    b_in, b_out = enters(x, y, before, after, f, e, left[a])
    family = exterior[a] == exterior[b]
    if hole[a]:
        return HOLES_OVERLAP if family and (a_in or b_in) else 0
    if not hole[b]:
        return PARTS_OVERLAP if a_in or b_in else 0
    if family:
        return HOLE_OUTSIDE if b_out or a_in else 0
    return PARTS_OVERLAP if a_out or b_in else 0


@kernel
def _search(x, y, before, after, ring, hole, exterior, left, n, where, steps, boxes, edges, stack):  # type: ignore[no-untyped-def]
    """(faults, steps left) of n edges; `where` gets the first vertices of the two edges of the worst contact of a ring with itself."""
    size = _tree(x, y, after, n, boxes, edges)
    near = stack[4 * 64 :, 0]
    stack[0, 0], stack[0, 1] = 1, 1
    top, faults, rings = 1, 0, ring[n - 1] + 1
    while top:
        top -= 1
        a, b = stack[top, 0], stack[top, 1]
        steps -= 1
        if steps < 0:
            return faults | UNFINISHED, steps
        if a != b and not _meet(boxes, a, boxes, b):
            continue
        if a < size:
            for i in range(2):
                for j in range(i if a == b else 0, 2):
                    stack[top, 0], stack[top, 1] = 2 * a + i, 2 * b + j
                    top += 1
            continue
        first = (b - size) * LEAF
        last = min(n, first + LEAF)
        found = 0
        if a == b:
            for f in range(first, last):
                near[f - first] = f
            found = last - first
        else:
            for f in range(first, last):
                near[found] = f
                found += _meet(boxes, a, edges, f)
        for e in range((a - size) * LEAF, min(n, (a - size + 1) * LEAF)):
            for place_ in range(found):
                f = near[place_]
                if (a == b and f <= e) or not _meet(edges, e, edges, f):
                    continue
                steps -= 1
                own = ring[e] == ring[f]
                if own and faults & SELF_CROSS:
                    continue
                kind = contact(x, y, before, after, e, f)
                if kind == NONE:
                    continue
                if not own:
                    if kind == CROSS:
                        faults |= _cross_fault(hole, exterior, ring[e], ring[f])
                    else:
                        faults |= _touch_fault(x, y, before, after, ring, hole, exterior, left, e, f)
                    continue
                if kind == CROSS or not faults & SELF_TOUCH:
                    where[0], where[1] = e, f
                faults |= SELF_CROSS if kind == CROSS else SELF_TOUCH
                if kind == CROSS and rings == 1:
                    return SELF_CROSS, steps
    return faults, steps


@kernel
def _lies(x, y, starts, a, b):  # type: ignore[no-untyped-def]
    """1, 0 or -1: ring b lies in ring a, has all its vertices on a's outline, or lies outside; for rings that do not cross."""
    for i in range(starts[b], starts[b + 1]):
        found = place(x, y, starts[a], starts[a + 1], x[i], y[i])
        if found:
            return found
    return 0


@kernel
def _same(boxes, a, b):  # type: ignore[no-untyped-def]
    """Whether two boxes are equal."""
    return (boxes[a] == boxes[b]).all()


@kernel
def _nesting(x, y, starts, boxes, hole, exterior, rings, faults, steps):  # type: ignore[no-untyped-def]
    """Faults of rings that lie in or outside each other without crossing, and the steps left."""
    for a in range(rings):
        for b in range(rings):
            if a == b:
                continue
            steps -= 1
            if steps < 0:
                return faults | UNFINISHED, steps
            family = exterior[a] == exterior[b]
            own = family and not hole[a] and hole[b]
            wanted = own or (family and hole[a] and hole[b]) or (not family and not hole[a] and not hole[b])
            if not wanted:
                continue
            within = (
                boxes[a, 0] <= boxes[b, 0] and boxes[a, 1] <= boxes[b, 1] and boxes[b, 2] <= boxes[a, 2] and boxes[b, 3] <= boxes[a, 3]
            )  # fmt: skip
            if not within:
                if own:
                    faults |= HOLE_OUTSIDE
                continue
            steps -= (starts[a + 1] - starts[a]) + (starts[b + 1] - starts[b])
            lies = _lies(x, y, starts, a, b)
            if own:
                if lies < 0:
                    faults |= HOLE_OUTSIDE
            elif family:
                if lies > 0 or (lies == 0 and _same(boxes, a, b) and _lies(x, y, starts, b, a) == 0):
                    faults |= HOLES_OVERLAP
            elif lies > 0 or (lies == 0 and _same(boxes, a, b) and _lies(x, y, starts, b, a) == 0):
                free = True  # an island in a hole is no overlap
                for h in range(rings):
                    if hole[h] and exterior[h] == exterior[a]:
                        steps -= (starts[h + 1] - starts[h]) + (starts[b + 1] - starts[b])
                        if steps < 0:
                            return faults | UNFINISHED, steps
                        if _lies(x, y, starts, h, b) >= 0:
                            free = False
                if free:
                    faults |= PARTS_OVERLAP
    return faults, steps


@kernel
def crossings(  # type: ignore[no-untyped-def]
    x, y, part_starts, starts, holes, exteriors, flags, areas, rows, faults, where, steps_a_vertex, more_steps
):  # fmt: skip
    """For each annotation in `rows`: its faults, and in `where` (rows, 2) the vertices where the two edges of a contact begin.

    `part_starts`, `starts`, `holes`, `exteriors` are as in Annotations; `flags` and `areas` are those of `measure`.
    Rings that are not finite, huge, or have fewer than 3 vertices that differ from the one before are passed over.
    """
    most, most_parts = 0, 0
    for row in rows:
        first, end = part_starts[row], part_starts[row + 1]
        most, most_parts = max(most, starts[end] - starts[first]), max(most_parts, end - first)
    xs, ys = np.empty(most), np.empty(most)
    origin, ring = np.empty(most, np.int64), np.empty(most, np.int64)
    before, after = np.empty(most, np.int64), np.empty(most, np.int64)
    ring_starts = np.zeros(most_parts + 1, np.int64)
    hole, left = np.empty(most_parts, np.bool_), np.empty(most_parts, np.bool_)
    exterior, boxes = np.empty(most_parts, np.int64), np.empty((most_parts, 4))
    leaves = 1
    while leaves * LEAF < most:
        leaves *= 2
    tree, edges, stack = (
        np.empty((2 * leaves, 4)),
        np.empty((most, 4)),
        np.empty((4 * 64 + LEAF + 1, 2), np.int64),
    )
    for number in range(len(rows)):
        row = rows[number]
        first, end = part_starts[row], part_starts[row + 1]
        n, rings = 0, 0
        for part in range(first, end):
            if flags[part] & (NOT_FINITE | HUGE):
                continue
            base = n
            for i in range(starts[part], starts[part + 1]):
                if n > base and x[i] == xs[n - 1] and y[i] == ys[n - 1]:
                    continue
                xs[n], ys[n], origin[n], ring[n] = x[i], y[i], i, rings
                before[n], after[n] = n - 1, n + 1
                n += 1
            while n > base + 1 and xs[n - 1] == xs[base] and ys[n - 1] == ys[base]:
                n -= 1
            if n < base + 3:
                n = base
                continue
            before[base], after[n - 1] = n - 1, base
            hole[rings], exterior[rings], left[rings] = holes[part], exteriors[part], areas[part] > 0.0
            boxes[rings, 0], boxes[rings, 1] = xs[base:n].min(), ys[base:n].min()
            boxes[rings, 2], boxes[rings, 3] = xs[base:n].max(), ys[base:n].max()
            rings += 1
            ring_starts[rings] = n
        if not rings:
            continue
        found, steps = _search(
            xs, ys, before, after, ring, hole, exterior, left, n, where[number],
            steps_a_vertex * n + more_steps, tree, edges, stack,
        )  # fmt: skip
        if found & (SELF_CROSS | SELF_TOUCH):
            where[number, 0], where[number, 1] = origin[where[number, 0]], origin[where[number, 1]]
        if rings > 1 and not found & (SELF_CROSS | UNFINISHED | HOLE_OUTSIDE | HOLES_OVERLAP | PARTS_OVERLAP):
            found, steps = _nesting(xs, ys, ring_starts, boxes, hole, exterior, rings, found, steps)
        faults[number] = found
