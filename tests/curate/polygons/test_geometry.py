"""Geometry of rings against slow statements in fractions, and against shapely."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.polygons import _schema
from curate.polygons.store import Annotations, Form

pytest.importorskip("numba")

from curate.polygons import _crossing_kernel as crossing
from curate.polygons import _geometry_kernel as kernel
from curate.polygons._geometry import measure

Point = tuple[float, float]
Ring = list[Point]

grid = st.integers(0, 6).map(float)
odd = st.one_of(
    grid,
    st.sampled_from([0.1, 0.2, 0.3, 0.30000000000000004, 1e-9, 1e9, -0.7]),
    st.floats(-100, 100, allow_nan=False).map(lambda value: value if abs(value) > 1e-50 else 0.0),
)


def rings_of(number: st.SearchStrategy[float], most: int = 9) -> st.SearchStrategy[Ring]:
    return st.lists(st.tuples(number, number), min_size=3, max_size=most)


def annotations_of(shapes: list[list[tuple[Ring, bool, int]]]) -> Annotations:
    """One annotation for each list of (ring, hole, number of its exterior)."""
    parts = [part for shape in shapes for part in shape]
    points = np.array([point for ring, _, _ in parts for point in ring], float).reshape(-1, 2)
    sizes = np.array([len(shape) for shape in shapes], np.int64)
    lengths = np.array([len(ring) for ring, _, _ in parts], np.int64)
    return Annotations(
        {},
        _schema.empty(_schema.IMAGES),
        _schema.table(
            _schema.ANNOTATIONS,
            id=np.arange(len(shapes)),
            form=np.full(len(shapes), Form.KW_MANY, np.int8),
            first_part=np.cumsum(sizes) - sizes,
        ),
        _schema.table(
            _schema.PARTS,
            first_vertex=np.cumsum(lengths) - lengths,
            hole=[hole for _, hole, _ in parts],
            exterior=[exterior for _, _, exterior in parts],
        ),
        _schema.table(_schema.VERTICES, x=points[:, 0], y=points[:, 1]),
    )


def faults_of(*parts: tuple[Ring, bool, int], **limits: int) -> int:
    return int(measure(annotations_of([list(parts)]), **limits).faults[0])


# ---- slow statements


def sign(value: Any) -> int:
    return (value > 0) - (value < 0)


def turn(a: Any, b: Any, c: Any) -> int:
    return sign((a[0] - c[0]) * (b[1] - c[1]) - (a[1] - c[1]) * (b[0] - c[0]))


def plain_contact(ring: Ring) -> str:
    """ "none", "touch" or "cross": walks over all pairs of edges, and over all pairs of visits to one point, in fractions."""
    points: list[Any] = []
    for x, y in ring:
        point = (Fraction(x), Fraction(y))
        if not points or points[-1] != point:
            points.append(point)
    while len(points) > 1 and points[0] == points[-1]:
        points.pop()
    n = len(points)
    if n < 3:
        return "none"
    # every point where the ring meets itself becomes a vertex of all edges that pass it
    stops: list[set[Any]] = [{points[i], points[(i + 1) % n]} for i in range(n)]
    touching = False
    for i, j in combinations(range(n), 2):
        a, b, c, d = points[i], points[(i + 1) % n], points[j], points[(j + 1) % n]
        for meeting in plain_meetings(a, b, c, d):
            stops[i].add(meeting)
            stops[j].add(meeting)
    way: list[Any] = []
    for i in range(n):
        a = points[i]
        for point in sorted(stops[i], key=lambda p: (p[0] - a[0]) ** 2 + (p[1] - a[1]) ** 2):
            if not way or way[-1] != point:
                way.append(point)
    if way[0] == way[-1]:
        way.pop()
    visits: dict[Any, list[int]] = {}
    for i, point in enumerate(way):
        visits.setdefault(point, []).append(i)
    m = len(way)
    for i, point in enumerate(way):
        touching |= len(visits[point]) > 1 or way[i - 1] == way[(i + 1) % m]
    for point, found in visits.items():
        for i, j in combinations(found, 2):
            ends = [way[i - 1], way[(i + 1) % m], way[j - 1], way[(j + 1) % m]]
            if len(set(ends)) == 4 and plain_alternate(point, *ends):
                return "cross"
    return "touch" if touching else "none"


def plain_meetings(a: Any, b: Any, c: Any, d: Any) -> list[Any]:
    """Points that edges ab and cd share; ends of the shared stretch when they run on one line."""
    ux, uy, vx, vy = b[0] - a[0], b[1] - a[1], d[0] - c[0], d[1] - c[1]
    det = ux * vy - uy * vx
    if det:
        t = ((c[0] - a[0]) * vy - (c[1] - a[1]) * vx) / det
        s = ((c[0] - a[0]) * uy - (c[1] - a[1]) * ux) / det
        return [(a[0] + t * ux, a[1] + t * uy)] if 0 <= t <= 1 and 0 <= s <= 1 else []
    if turn(a, b, c):
        return []

    def box(p: Any, q: Any, r: Any) -> bool:
        across = min(p[0], q[0]) <= r[0] <= max(p[0], q[0])
        return bool(across and min(p[1], q[1]) <= r[1] <= max(p[1], q[1]))

    return [r for r in (c, d) if box(a, b, r)] + [r for r in (a, b) if box(c, d, r)]


def plain_alternate(o: Any, a: Any, b: Any, c: Any, d: Any) -> bool:
    """Whether the directions from o to c and d are parted by those to a and b (all four differ)."""

    def angle(p: Any) -> tuple[int, Fraction]:
        x, y = p[0] - o[0], p[1] - o[1]
        # a number that grows with the angle: half-turn, then minus the cotangent
        half = 0 if y > 0 or (y == 0 and x > 0) else 1
        return (half, Fraction(-(10**30)) if y == 0 else -x / y)

    order = sorted([(angle(a), "a"), (angle(b), "a"), (angle(c), "c"), (angle(d), "c")])
    if len({key for key, _ in order}) < 4:
        return False
    marks = "".join(mark for _, mark in order)
    return marks in ("acac", "caca")


def fault_word(bits: int) -> str:
    return "cross" if bits & crossing.SELF_CROSS else "touch" if bits & crossing.SELF_TOUCH else "none"


# ---- rings


@settings(max_examples=400)
@given(st.tuples(*[st.tuples(odd, odd)] * 3))
def test_side_of_a_line_is_exact(points: tuple[Point, Point, Point]) -> None:
    a, b, c = points
    exact = turn(*[(Fraction(x), Fraction(y)) for x, y in points])
    assert kernel.side(*a, *b, *c) == exact


def test_side_of_a_line_where_doubles_alone_are_wrong() -> None:
    # a point moved by single units in the last place about a line through it (Kettner et al. 2008)
    base = 0.5
    for i in range(16):
        for j in range(16):
            c = (base + i * 2.0**-53, base + j * 2.0**-53)
            exact = turn((Fraction(12), Fraction(12)), (Fraction(24), Fraction(24)), tuple(map(Fraction, c)))
            assert kernel.side(12.0, 12.0, 24.0, 24.0, *c) == exact


@settings(max_examples=250)
@given(st.one_of(rings_of(grid), rings_of(odd, 7)))
def test_rings_that_cross_or_touch_themselves_as_by_fractions(ring: Ring) -> None:
    assert fault_word(faults_of((ring, False, 0))) == plain_contact(ring)


@settings(max_examples=100)
@given(rings_of(st.integers(0, 40).map(float), 40))
def test_longer_rings_too(ring: Ring) -> None:
    assert fault_word(faults_of((ring, False, 0))) == plain_contact(ring)


@settings(max_examples=300)
@given(rings_of(grid, 12))
def test_contact_is_what_shapely_calls_not_simple(ring: Ring) -> None:
    shapely = pytest.importorskip("shapely")
    line = shapely.remove_repeated_points(shapely.LineString([*ring, ring[0]]))
    if line.length == 0 or len(line.coords) < 4:
        return
    assert (faults_of((ring, False, 0)) == 0) == shapely.LinearRing(line.coords).is_simple


@settings(max_examples=200)
@given(rings_of(odd, 20))
def test_areas_lengths_and_boxes(ring: Ring) -> None:
    measures = measure(annotations_of([[(ring, False, 0)]]))
    exact = [(Fraction(x), Fraction(y)) for x, y in ring]
    around = list(zip(exact, exact[1:] + exact[:1], strict=True))
    area = float(sum((p[0] * q[1] - q[0] * p[1] for p, q in around), Fraction(0)) / 2)
    reach = max(max(abs(x), abs(y)) for x, y in ring) + 1
    assert measures.part_areas[0] == pytest.approx(area, rel=1e-12, abs=1e-13 * reach * reach)
    assert measures.areas[0] == abs(measures.part_areas[0])
    length = sum(float((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2) ** 0.5 for p, q in around)
    assert measures.lengths[0] == pytest.approx(length, rel=1e-12, abs=1e-12)
    xs, ys = zip(*ring, strict=True)
    assert measures.boxes[0].tolist() == [min(xs), min(ys), max(xs), max(ys)]
    assert measures.part_repeats[0] == sum(p == q for p, q in around)


@settings(max_examples=300)
@given(rings_of(grid, 8), st.integers(0, 12), st.integers(0, 12))
def test_place_of_a_point(ring: Ring, x: int, y: int) -> None:
    shapely = pytest.importorskip("shapely")
    if plain_contact(ring) != "none":
        return
    points = np.array(ring, float)
    found = kernel.place(points[:, 0].copy(), points[:, 1].copy(), 0, len(points), x / 2, y / 2)
    area, point = shapely.Polygon(ring), shapely.Point(x / 2, y / 2)
    if area.area == 0:
        return
    assert found == (0 if area.touches(point) else 1 if area.contains(point) else -1)


# ---- rings of one annotation


def square(x: float, y: float, side: float) -> Ring:
    return [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(square(0, 0, 10), False, 0), (square(2, 2, 3), True, 0)], 0),
        ([(square(0, 0, 10), False, 0), (square(8, 2, 3), True, 0)], crossing.HOLE_OUTSIDE),
        ([(square(0, 0, 10), False, 0), (square(20, 2, 3), True, 0)], crossing.HOLE_OUTSIDE),
        ([(square(0, 0, 10), False, 0), (square(0, 0, 10), True, 0)], 0),  # nothing is left of it: its area says so
        ([(square(0, 0, 10), False, 0), (square(2, 2, 5), True, 0), (square(3, 3, 2), True, 0)], crossing.HOLES_OVERLAP),
        ([(square(0, 0, 10), False, 0), (square(2, 2, 3), True, 0), (square(4, 4, 3), True, 0)], crossing.HOLES_OVERLAP),
        ([(square(0, 0, 10), False, 0), (square(2, 2, 3), True, 0), (square(5, 2, 3), True, 0)], 0),
        ([(square(0, 0, 10), False, 0), (square(10, 0, 10), False, 1)], 0),
        ([(square(0, 0, 10), False, 0), (square(9, 0, 10), False, 1)], crossing.PARTS_OVERLAP),
        ([(square(0, 0, 10), False, 0), (square(3, 3, 2), False, 1)], crossing.PARTS_OVERLAP),
        ([(square(0, 0, 10), False, 0), (square(0, 0, 10), False, 1)], crossing.PARTS_OVERLAP),
        (  # an island in a hole
            [(square(0, 0, 10), False, 0), (square(2, 2, 6), True, 0), (square(4, 4, 2), False, 2)],
            0,
        ),
        ([(square(0, 0, 10), False, 0), ([(5, 0), (10, 5), (5, 10), (0, 5)], True, 0)], 0),
    ],
)  # fmt: skip
def test_rings_of_one_annotation(parts: list[tuple[Ring, bool, int]], expected: int) -> None:
    assert faults_of(*parts) == expected


@settings(max_examples=300)
@given(rings_of(grid, 6), rings_of(grid, 5))
def test_holes_that_leave_their_exterior_as_shapely_finds_them(outer: Ring, hole: Ring) -> None:
    shapely = pytest.importorskip("shapely")
    if plain_contact(outer) != "none" or plain_contact(hole) != "none":
        return
    exterior, inner = shapely.Polygon(outer), shapely.Polygon(hole)
    if not exterior.area or not inner.area:
        return
    found = faults_of((outer, False, 0), (hole, True, 0))
    assert bool(found & crossing.HOLE_OUTSIDE) == (not exterior.covers(inner))


@settings(max_examples=400)
@given(rings_of(grid, 6), rings_of(grid, 6), st.booleans())
def test_parts_and_holes_that_overlap_as_shapely_finds_them(one: Ring, two: Ring, hole: bool) -> None:
    shapely = pytest.importorskip("shapely")
    if plain_contact(one) != "none" or plain_contact(two) != "none":
        return
    first, second = shapely.Polygon(one), shapely.Polygon(two)
    if not first.area or not second.area:
        return
    overlap = first.intersection(second).area > 0
    if hole:
        around = (square(-10, -10, 30), False, 0)
        assert faults_of(around, (one, True, 0), (two, True, 0)) == (crossing.HOLES_OVERLAP if overlap else 0)
    else:
        assert faults_of((one, False, 0), (two, False, 1)) == (crossing.PARTS_OVERLAP if overlap else 0)


# ---- bounds


def test_a_ring_made_to_be_slow_ends_after_its_steps() -> None:
    rise = [
        (float(i % 2) * 1000, i * 1e-3 + (i % 2) * 1000) for i in range(3000)
    ]  # every box meets every box
    ring = [*rise, (2000.0, 3000.0), (-1.0, 3000.0)]
    assert faults_of((ring, False, 0), steps_a_vertex=1, more_steps=0) & crossing.UNFINISHED
    assert not faults_of((ring, False, 0), steps_a_vertex=10**6) & crossing.UNFINISHED


def test_a_ring_of_very_many_vertices() -> None:
    n = 300_000
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    wave = 1000 + 400 * np.sin(
        9 * angle + 40 * np.sin(angle)
    )  # turns back on itself in angle nowhere, but is no star for the search
    points = np.column_stack((wave * np.cos(angle + wave / 300), wave * np.sin(angle + wave / 300)))
    ring = list(map(tuple, points.tolist()))
    assert faults_of((ring, False, 0)) == 0
    ring[n // 2] = ring[10]
    assert faults_of((ring, False, 0)) & (crossing.SELF_CROSS | crossing.SELF_TOUCH)


def test_without_numba_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from curate.polygons import _geometry
    from headwater.errors import MissingExtra

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as caught:
        _geometry.measure(annotations_of([]))
    assert caught.value.hint is not None and "headwater[annotate]" in caught.value.hint


# ---- run lengths


@settings(max_examples=200)
@given(st.integers(1, 7), st.integers(1, 7), st.data())
def test_run_lengths(height: int, width: int, data: Any) -> None:
    from curate.polygons._rle import leb_of

    mask = np.array(data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width)))
    changes = np.flatnonzero(np.diff(mask, prepend=False))
    counts = np.diff(np.concatenate(([0], changes, [len(mask)])))
    mask = mask.reshape(width, height).T
    whole = Annotations(
        {},
        _schema.empty(_schema.IMAGES),
        _schema.table(
            _schema.ANNOTATIONS,
            form=np.array([0, Form.RLE_COUNTS], np.int8),
            rle=[None, leb_of(counts)],
            rle_height=[None, height],
            rle_width=[None, width],
            first_part=np.zeros(2, np.int64),
        ),
        _schema.empty(_schema.PARTS),
        _schema.empty(_schema.VERTICES),
    )
    measures = measure(whole)
    assert measures.rle_totals.tolist() == [-1, height * width]
    assert measures.rle_whole.all()
    assert measures.areas[1] == mask.sum()
    if mask.any():
        ys, xs = np.nonzero(mask)
        assert measures.boxes[1].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    else:
        assert np.isnan(measures.boxes[1]).all()
