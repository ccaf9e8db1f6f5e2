"""Compiled geometry of rings: measures, and whether edges cross, decided without rounding.

The side of a line that a point lies on is found in doubles, and where their rounding could decide, by sums of doubles that are exact
(Shewchuk 1997, "Adaptive Precision Floating-Point Arithmetic", orient2d). That holds for coordinates up to 2^300 that are 0 or not
below 2^-200; `_geometry` sees to it.
"""

from __future__ import annotations

import numpy as np

from curate._jit import kernel

SPLIT = 134217729.0  # 2^27 + 1
SURE = 3.3306690738754716e-16  # (3 + 16 e) e with e = 2^-53: a larger share of the products' sum is a certain sign
NOT_FINITE, HUGE, REPEATED, STAR, TINY = 1, 2, 4, 8, 16
NONE, TOUCH, CROSS = 0, 1, 2
LEAST = 2.0**-200
STAR_TRIES, STAR_STEP = 8, 1.2


@kernel
def _exact(ax, ay, bx, by, cx, cy):  # type: ignore[no-untyped-def]
    """The sign of (a - c) x (b - c), exactly."""
    factors = ((ax, by), (-ax, cy), (-cx, by), (-ay, bx), (ay, cx), (cy, bx))
    terms = np.zeros(13)
    used = 0
    for left, right in factors:
        product = left * right
        big = SPLIT * left
        left_high = big - (big - left)
        left_low = left - left_high
        big = SPLIT * right
        right_high = big - (big - right)
        right_low = right - right_high
        error = left_low * right_low - (
            ((product - left_high * right_high) - left_low * right_high) - left_high * right_low
        )
        for addend in (error, product):
            total = addend
            for place in range(used):
                term = terms[place]
                new = total + term
                part = new - total
                terms[place] = (total - (new - part)) + (term - part)
                total = new
            terms[used] = total
            used += 1
    for place in range(used - 1, -1, -1):
        if terms[place] != 0.0:
            return 1 if terms[place] > 0.0 else -1
    return 0


@kernel
def side(ax, ay, bx, by, cx, cy):  # type: ignore[no-untyped-def]
    """1, 0 or -1: the sign of (a - c) x (b - c); in pictures (y down), 1 says that c is to the right of the way from a to b."""
    left = (ax - cx) * (by - cy)
    right = (ay - cy) * (bx - cx)
    found = left - right
    if abs(found) > SURE * (abs(left) + abs(right)):
        return 1 if found > 0.0 else -1
    return _exact(ax, ay, bx, by, cx, cy)


@kernel
def _star(x, y, start, end, cx, cy, clockwise):  # type: ignore[no-untyped-def]
    """Whether the ring surely goes once around some point, always in one direction: then it has no contact with itself.

    The point is looked for from (cx, cy) on: it is moved over the edge that lies worst, a few times.
    """
    sign = 1.0 if clockwise else -1.0
    for attempt in range(STAR_TRIES):
        px, py = x[end - 1] - cx, y[end - 1] - cy
        before = y[end - 1]
        ups, downs, wrong = 0, 0, 0
        worst, nx, ny = np.inf, 0.0, 0.0
        for i in range(start, end):
            qx, qy = x[i] - cx, y[i] - cy
            left, right = px * qy, py * qx
            found = sign * (left - right)
            wrong += found <= 4e-16 * (abs(left) + abs(right)) + 1e-290
            ups += (before < cy) & (y[i] >= cy)
            downs += (before >= cy) & (y[i] < cy)
            dx, dy = qx - px, qy - py
            squared = dx * dx + dy * dy
            # twice the distance from the edge, with its sign, squared
            far = found * abs(found) / squared
            if far < worst:
                worst, nx, ny = far, -dy * sign / np.sqrt(squared), dx * sign / np.sqrt(squared)
            px, py, before = qx, qy, y[i]
        if not wrong:
            return ups == 1 and downs == 1
        if (3 + (attempt > 0)) * wrong > end - start:
            return False
        step = np.sqrt(-worst) if worst < 0.0 else 0.0
        cx += nx * (STAR_STEP * step + 1e-3)
        cy += ny * (STAR_STEP * step + 1e-3)
    return False


@kernel
def measure(x, y, starts, huge, flags, areas, lengths, boxes, repeats):  # type: ignore[no-untyped-def]
    """For each ring: flags, signed area, length of the outline, box (x0, y0, x1, y1), vertices that repeat the one before them.

    The area is taken about the first vertex; it is positive where the ring runs clockwise as seen (y down).
    """
    for ring in range(len(starts) - 1):
        start, end = starts[ring], starts[ring + 1]
        flag = 0
        if end == start:
            continue
        x0, y0, x1, y1 = x[start], y[start], x[start], y[start]
        strange = 0
        for i in range(start, end):
            x0, x1 = min(x0, x[i]), max(x1, x[i])
            y0, y1 = min(y0, y[i]), max(y1, y[i])
            strange += not (abs(x[i]) <= huge and abs(y[i]) <= huge)
        if strange:
            flag = HUGE
            for i in range(start, end):
                if not (np.isfinite(x[i]) and np.isfinite(y[i])):
                    flag = NOT_FINITE
            flags[ring] = flag
            continue
        boxes[ring, 0], boxes[ring, 1], boxes[ring, 2], boxes[ring, 3] = x0, y0, x1, y1
        twice, length, same, tiny, mx, my = 0.0, 0.0, 0, 0, 0.0, 0.0
        fx, fy = x[start], y[start]
        px, py = x[end - 1], y[end - 1]
        for i in range(start, end):
            qx, qy = x[i], y[i]
            ax, ay, bx, by = px - fx, py - fy, qx - fx, qy - fy
            cross = ax * by - ay * bx
            twice += cross
            mx += cross * (ax + bx)
            my += cross * (ay + by)
            length += np.sqrt((qx - px) * (qx - px) + (qy - py) * (qy - py))
            same += (qx == px) & (qy == py)
            tiny += ((abs(qx) < LEAST) & (qx != 0.0)) | ((abs(qy) < LEAST) & (qy != 0.0))
            px, py = qx, qy
        areas[ring], lengths[ring] = 0.5 * twice, length
        repeats[ring] = same if end - start > 1 else 0
        if repeats[ring]:
            flag |= REPEATED
        elif end - start > 2 and twice != 0.0 and not tiny:
            cx, cy = fx + mx / (3.0 * twice), fy + my / (3.0 * twice)
            if _star(x, y, start, end, cx, cy, twice > 0.0):
                flag |= STAR
        if tiny:
            flag |= TINY
        flags[ring] = flag


@kernel
def _apart(ax, ay, bx, by, vx, vy):  # type: ignore[no-untyped-def]
    """Whether v, on one line with a and b, lies outside of the edge ab."""
    return vx < min(ax, bx) or vx > max(ax, bx) or vy < min(ay, by) or vy > max(ay, by)


@kernel
def _same_way(vx, vy, ax, ay, bx, by):  # type: ignore[no-untyped-def]
    """Whether a and b, both other than v, lie in one direction from v."""
    if side(vx, vy, ax, ay, bx, by) != 0:
        return False
    if ax != vx:
        return (ax > vx) == (bx > vx) and bx != vx
    return (ay > vy) == (by > vy) and by != vy


@kernel
def _between(vx, vy, ax, ay, bx, by, rx, ry):  # type: ignore[no-untyped-def]
    """Whether the direction from v to r lies strictly between those to a and b, on the turn from a to b that `side` calls 1."""
    turn = side(vx, vy, ax, ay, bx, by)
    first, second = side(vx, vy, ax, ay, rx, ry), side(vx, vy, rx, ry, bx, by)
    if turn > 0:
        return first > 0 and second > 0
    if turn < 0:
        return first > 0 or second > 0
    return first > 0


@kernel
def _through(x, y, before, after, v, w):  # type: ignore[no-untyped-def]
    """Whether two ways that both pass one point, as vertices v and w, change sides there; ways that run on together do not."""
    vx, vy = x[v], y[v]
    ax, ay, bx, by = x[before[v]], y[before[v]], x[after[v]], y[after[v]]
    rx, ry, sx, sy = x[before[w]], y[before[w]], x[after[w]], y[after[w]]
    if _same_way(vx, vy, ax, ay, bx, by) or _same_way(vx, vy, rx, ry, sx, sy):
        return False
    if _same_way(vx, vy, ax, ay, rx, ry) or _same_way(vx, vy, bx, by, rx, ry):
        return False
    if _same_way(vx, vy, ax, ay, sx, sy) or _same_way(vx, vy, bx, by, sx, sy):
        return False
    return _between(vx, vy, ax, ay, bx, by, rx, ry) != _between(vx, vy, ax, ay, bx, by, sx, sy)


@kernel
def _passes(x, y, before, after, v, e):  # type: ignore[no-untyped-def]
    """Whether the way through vertex v, which lies within edge e, changes sides of it."""
    ax, ay, bx, by = x[e], y[e], x[after[e]], y[after[e]]
    p, q = before[v], after[v]
    return side(ax, ay, bx, by, x[p], y[p]) * side(ax, ay, bx, by, x[q], y[q]) < 0


@kernel
def contact(x, y, before, after, e, f):  # type: ignore[no-untyped-def]
    """NONE, TOUCH or CROSS of two edges (each known by its first vertex) of rings without repeated vertices.

    Two ways cross where they change sides in one point: within both edges, where a vertex lies on an edge, or where two vertices meet.
    The vertex that edges of one ring share is no contact; a ring that turns back on itself touches.
    """
    e1, f1 = after[e], after[f]
    ax, ay, bx, by = x[e], y[e], x[e1], y[e1]
    cx, cy, dx, dy = x[f], y[f], x[f1], y[f1]
    if (e1 == f or f1 == e) and (bx - ax) * (dx - cx) + (by - ay) * (dy - cy) >= 0.0:
        return NONE  # the way goes on, or turns by less than a right angle
    if e1 == f:
        return TOUCH if _same_way(bx, by, ax, ay, dx, dy) else NONE
    if f1 == e:
        return TOUCH if _same_way(ax, ay, bx, by, cx, cy) else NONE
    s1, s2 = side(ax, ay, bx, by, cx, cy), side(ax, ay, bx, by, dx, dy)
    if s1 * s2 > 0:
        return NONE
    s3, s4 = side(cx, cy, dx, dy, ax, ay), side(cx, cy, dx, dy, bx, by)
    if s3 * s4 > 0:
        return NONE
    if s1 * s2 < 0 and s3 * s4 < 0:
        return CROSS
    c_on = s1 == 0 and not _apart(ax, ay, bx, by, cx, cy)
    d_on = s2 == 0 and not _apart(ax, ay, bx, by, dx, dy)
    a_on = s3 == 0 and not _apart(cx, cy, dx, dy, ax, ay)
    b_on = s4 == 0 and not _apart(cx, cy, dx, dy, bx, by)
    if not (a_on or b_on or c_on or d_on):
        return NONE
    for v, on_v in ((e, a_on), (e1, b_on)):
        for w, on_w in ((f, c_on), (f1, d_on)):
            if on_v and on_w and x[v] == x[w] and y[v] == y[w] and _through(x, y, before, after, v, w):
                return CROSS
    for v, on, other, first, second in (
        (f, c_on, e, e, e1),
        (f1, d_on, e, e, e1),
        (e, a_on, f, f, f1),
        (e1, b_on, f, f, f1),
    ):
        at_end = (x[v] == x[first] and y[v] == y[first]) or (x[v] == x[second] and y[v] == y[second])
        if on and not at_end and _passes(x, y, before, after, v, other):
            return CROSS
    return TOUCH


@kernel
def _angle(x, y, before, after, v, left, r):  # type: ignore[no-untyped-def]
    """1, 0 or -1: from vertex v, vertex r lies in the angle inside its ring, along the ring, or outside; `left` is where the inside is."""
    vx, vy = x[v], y[v]
    ax, ay, bx, by = x[after[v]], y[after[v]], x[before[v]], y[before[v]]
    if not left:
        ax, ay, bx, by = bx, by, ax, ay
    if _same_way(vx, vy, ax, ay, x[r], y[r]) or _same_way(vx, vy, bx, by, x[r], y[r]):
        return 0
    return 1 if _between(vx, vy, ax, ay, bx, by, x[r], y[r]) else -1


@kernel
def enters(x, y, before, after, e, f, left):  # type: ignore[no-untyped-def]
    """(inside, outside): whether edge e, which touches edge f of another ring, goes on inside and outside of that ring.

    `left`: the inside of that ring is on the side of f that `side` calls 1. Rings must not cross themselves.
    """
    inside, outside = False, False
    e1, f1 = after[e], after[f]
    for v in (f, f1):  # a vertex of the other ring on e
        if side(x[e], y[e], x[e1], y[e1], x[v], y[v]) or _apart(x[e], y[e], x[e1], y[e1], x[v], y[v]):
            continue
        for r in (e, e1):
            if x[r] != x[v] or y[r] != y[v]:
                found = _angle(x, y, before, after, v, left, r)
                inside |= found > 0
                outside |= found < 0
    for w, r in ((e, e1), (e1, e)):  # an end of e within f
        at_end = (x[w] == x[f] and y[w] == y[f]) or (x[w] == x[f1] and y[w] == y[f1])
        if (
            at_end
            or side(x[f], y[f], x[f1], y[f1], x[w], y[w])
            or _apart(x[f], y[f], x[f1], y[f1], x[w], y[w])
        ):
            continue
        found = side(x[f], y[f], x[f1], y[f1], x[r], y[r])
        inside |= found > 0 if left else found < 0
        outside |= found < 0 if left else found > 0
    return inside, outside


@kernel
def place(x, y, start, end, px, py):  # type: ignore[no-untyped-def]
    """1 inside (odd number of windings' crossings), 0 on the outline, -1 outside of the ring of vertices start to end."""
    inside = False
    previous = end - 1
    for i in range(start, end):
        ax, ay, bx, by = x[previous], y[previous], x[i], y[i]
        previous = i
        if (ay > py) == (by > py):
            if ay == py and by == py and not (px < min(ax, bx) or px > max(ax, bx)):
                return 0
            if (ax == px and ay == py) or (bx == px and by == py):
                return 0
            continue
        found = side(ax, ay, bx, by, px, py)
        if found == 0:
            return 0
        if (found > 0) == (by > ay):
            inside = not inside
    return 1 if inside else -1


@kernel
def run_lengths(octets, ends, rows, heights, totals, whole, areas, boxes):  # type: ignore[no-untyped-def]
    """For each row: the sum of its LEB128 run lengths, whether they can be read, the foreground, and the box of the foreground.

    Runs go down the columns, background first; a run beyond 2^40 is none that can be read.
    """
    for row in rows:
        at, end, height = ends[row], ends[row + 1], heights[row]
        total, lit, ink, sound = np.int64(0), np.int64(0), False, True
        x0, y0, x1, y1 = np.int64(-1), np.int64(0), np.int64(0), np.int64(0)
        while at < end:
            run, shift = np.int64(0), np.int64(0)
            while at < end:
                octet = np.int64(octets[at])
                at += 1
                run |= (octet & 127) << shift
                shift += 7
                if octet < 128:
                    break
                if at == end or shift > 42:
                    sound = False
                    at = end
            if run > 1 << 40 or total > 1 << 44:
                sound = False
                break
            if ink and run and height > 0:
                first, last = total // height, (total + run - 1) // height
                top, bottom = np.int64(0), height
                if first == last:
                    top = total - first * height
                    bottom = top + run
                if x0 < 0:
                    x0, y0, x1, y1 = first, top, last + 1, bottom
                y0, x1, y1 = min(y0, top), max(x1, last + 1), max(y1, bottom)
            if ink:
                lit += run
            total += run
            ink = not ink
        whole[row], totals[row] = sound, total
        if sound:
            areas[row] = lit
            if x0 >= 0:
                boxes[row, 0], boxes[row, 1], boxes[row, 2], boxes[row, 3] = x0, y0, x1, y1


@kernel
def _mix(state, word):  # type: ignore[no-untyped-def]
    state = (state ^ word) * np.uint64(0x9E3779B97F4A7C15)
    return state ^ (state >> np.uint64(29))


@kernel
def fingerprints(x, y, part_starts, starts, holes, marks):  # type: ignore[no-untyped-def]
    """64 bits of each annotation's rings (coordinates as uint64 bits), equal for equal rings; others may be equal too."""
    for row in range(len(part_starts) - 1):
        state = np.uint64(0)
        for part in range(part_starts[row], part_starts[row + 1]):
            state = _mix(state, np.uint64(2 * (starts[part + 1] - starts[part]) + holes[part]))
            for i in range(starts[part], starts[part + 1]):
                state = _mix(_mix(state, x[i]), y[i])
        marks[row] = state


@kernel
def mix_in(marks, words):  # type: ignore[no-untyped-def]
    """Takes one more word into each mark."""
    for i in range(len(marks)):
        marks[i] = _mix(marks[i], words[i])
