"""Masks: fills by pixels' centres, closed lines, and outlines that give back exactly the mask they are of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw

from curate.generators._mask import (
    Mask,
    fill_onto,
    fill_polygon,
    mask_box,
    outline_labels,
    outline_polygons,
    trace_onto,
)
from tests.curate.generators import radial_plain

RULES = st.sampled_from(["even-odd", "non-zero"])
NEAR = st.integers(-3 << 16, 14 << 16) | st.integers(-8, 30).map(lambda half: half << 15)
ANY = st.integers(-(2**31), 2**31 - 1)


def q16(points: Sequence[tuple[int, int]]) -> npt.NDArray[np.int32]:
    return np.array(points, dtype=np.int32).reshape(-1, 2)


def drawn(pixels: set[tuple[int, int]], width: int, height: int) -> Mask:
    mask = np.zeros((height, width), dtype=np.bool_)
    for x, y in pixels:
        if 0 <= x < width and 0 <= y < height:
            mask[y, x] = True
    return mask


@settings(max_examples=150, deadline=None)
@given(
    points=st.lists(st.tuples(NEAR, NEAR), max_size=9)
    | st.lists(st.tuples(ANY, ANY), min_size=3, max_size=6),
    rule=RULES,
    height=st.integers(1, 10),
    width=st.integers(1, 12),
)
@example(
    points=[(-(2**31), -(2**31)), (2**31 - 1, -(2**31) + 1), (5, 2**31 - 1)],
    rule="even-odd",
    height=4,
    width=4,
)
def test_fill_is_by_centres(points: list[tuple[int, int]], rule: str, height: int, width: int) -> None:
    expected = drawn(radial_plain.inside(points, width, height, rule), width, height)
    np.testing.assert_array_equal(fill_polygon(q16(points), height, width, rule), expected)


@settings(max_examples=60, deadline=None)
@given(cut=st.tuples(NEAR, NEAR), top=st.integers(0, 12 << 16), bottom=st.integers(0, 12 << 16))
def test_polygons_with_a_common_edge_share_no_pixel(cut: tuple[int, int], top: int, bottom: int) -> None:
    end = 12 << 16
    inner = min(max(cut[0], 0), end), min(max(cut[1], 0), end)
    left = fill_polygon(q16([(0, 0), (top, 0), inner, (bottom, end), (0, end)]), 12, 12)
    right = fill_polygon(q16([(top, 0), (end, 0), (end, end), (bottom, end), inner]), 12, 12)
    assert not (left & right).any()
    assert (left | right).all()


def test_many_crossings_in_a_row() -> None:
    comb = [(x << 15, (20 << 16) if x % 2 else -(1 << 16)) for x in range(200)] + [(100 << 16, 30 << 16)]
    expected = drawn(radial_plain.inside(comb, 60, 12), 60, 12)
    assert 100 < expected.sum() < 700
    np.testing.assert_array_equal(fill_polygon(q16(comb), 12, 60), expected)


def test_rules_differ_where_a_line_goes_around_twice() -> None:
    square = [(0, 0), (8 << 16, 0), (8 << 16, 8 << 16), (0, 8 << 16)]
    assert fill_polygon(q16(square + square), 8, 8, "even-odd").sum() == 0
    assert fill_polygon(q16(square + square), 8, 8, "non-zero").sum() == 64
    assert fill_polygon(q16(square[::-1]), 8, 8, "non-zero").sum() == 64


@settings(max_examples=150, deadline=None)
@given(points=st.lists(st.tuples(NEAR, NEAR), min_size=1, max_size=8))
def test_lines_are_those_of_pillow(points: list[tuple[int, int]]) -> None:
    mask = np.zeros((11, 12), dtype=np.bool_)
    trace_onto(mask, q16(points))
    np.testing.assert_array_equal(mask, drawn(radial_plain.line(points), 12, 11))
    picture = Image.new("L", (12, 11))
    # pixels of Pillow's own: first to second corner and so on, as the released scripts draw them
    pen = ImageDraw.Draw(picture)
    for i, (x, y) in enumerate(points):
        pen.line([points[i - 1][0] / 65536, points[i - 1][1] / 65536, x / 65536, y / 65536], fill=1, width=1)
    np.testing.assert_array_equal(mask, np.asarray(picture) == 1)


def test_things_are_added_to_a_mask() -> None:
    mask = np.zeros((6, 6), dtype=np.bool_)
    mask[0, 5] = True
    fill_onto(mask, q16([(0, 0), (2 << 16, 0), (2 << 16, 2 << 16), (0, 2 << 16)]))
    trace_onto(mask, q16([(0, 5 << 16), (3 << 16, 5 << 16)]))
    assert mask.sum() == 1 + 4 + 4


def refilled(polygons: list[npt.NDArray[np.float64]], shape: tuple[int, int], rule: str) -> Mask:
    mask = np.zeros(shape, dtype=np.bool_)
    for polygon in polygons:
        one = fill_polygon((polygon * 65536).astype(np.int32), *shape, rule)
        assert not (mask & one).any()
        mask |= one
    return mask


def parts(mask: Mask) -> list[tuple[int, int]]:
    """First pixel (row, column) of every part of a mask; pixels that touch at a corner are of one part."""
    left, firsts = {(int(r), int(c)) for r, c in np.argwhere(mask)}, []
    for first in sorted(left):
        if first in left:
            firsts.append(first)
            left.discard(first)
            queue = [first]
            while queue:
                r, c = queue.pop()
                for near in [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                    if near in left:
                        left.discard(near)
                        queue.append(near)
    return firsts


SMALL = hnp.arrays(np.bool_, st.tuples(st.integers(0, 9), st.integers(0, 12)))
BLOCKS = hnp.arrays(np.bool_, st.tuples(st.integers(1, 5), st.integers(1, 6))).map(
    lambda mask: np.kron(
        mask, np.ones((3, 7), dtype=np.bool_)
    )  # runs that are longer than the words of the scan
)


@settings(max_examples=200, deadline=None)
@given(mask=SMALL | BLOCKS)
def test_outlines_give_back_the_mask(mask: Mask) -> None:
    polygons = outline_polygons(mask)
    for rule in ("even-odd", "non-zero"):
        np.testing.assert_array_equal(refilled(polygons, mask.shape, rule), mask)
    area = sum(
        float(np.sum(p[:, 0] * np.roll(p[:, 1], -1) - np.roll(p[:, 0], -1) * p[:, 1])) / 2 for p in polygons
    )
    assert area == mask.sum()  # clockwise as seen, holes and all
    firsts = parts(mask)
    assert len(polygons) == len(firsts)
    for polygon, (row, column) in zip(polygons, firsts, strict=True):
        assert ((polygon == (column, row)).all(axis=1)).any()  # in the order of their first pixels
        steps = np.roll(polygon, -1, axis=0) - polygon
        assert ((steps != 0).sum(axis=1) == 1).all()  # along pixels' edges, no point twice in a row


def test_no_corner_too_many() -> None:
    """A frame: outer corners, and the hole joined by a cut from its first corner to the border on the left."""
    mask = np.zeros((5, 6), dtype=np.bool_)
    mask[1:4, 1:5] = True
    mask[2, 3] = False
    (polygon,) = outline_polygons(mask)
    assert polygon.tolist() == [
        [1, 1], [5, 1], [5, 4], [1, 4], [1, 2],
        [3, 2], [3, 3], [4, 3], [4, 2], [3, 2], [1, 2],
    ]  # fmt: skip


def test_rings_in_rings_are_apart() -> None:
    rows, columns = np.mgrid[:41, :41]
    mask = np.maximum(abs(rows - 20), abs(columns - 20)) // 4 % 2 == 0
    polygons = outline_polygons(mask)
    assert len(polygons) == 3
    np.testing.assert_array_equal(refilled(polygons, mask.shape, "even-odd"), mask)


def test_a_mask_of_noise_has_holes_in_chains() -> None:
    mask = np.random.default_rng(0).random((97, 130)) < 0.8
    polygons = outline_polygons(mask)
    np.testing.assert_array_equal(refilled(polygons, mask.shape, "even-odd"), mask)
    assert len(polygons) == len(parts(mask)) < 5


@settings(max_examples=60, deadline=None)
@given(mask=SMALL)
def test_the_box_limits_the_search_and_is_that_of_the_mask(mask: Mask) -> None:
    x, y, width, height = mask_box(mask)
    rows, columns = np.nonzero(mask)
    if not len(rows):
        assert (x, y, width, height) == (0, 0, 0, 0)
        return
    assert (x, y) == (columns.min(), rows.min())
    assert (x + width - 1, y + height - 1) == (columns.max(), rows.max())
    whole, boxed = outline_polygons(mask), outline_polygons(mask, (x, y, width, height))
    assert [polygon.tolist() for polygon in whole] == [polygon.tolist() for polygon in boxed]


@settings(max_examples=150, deadline=None)
@given(
    labels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 20)), elements=st.integers(0, 4)),
    scale=st.integers(1, 5),
)
def test_all_labels_at_once_as_one_by_one(labels: npt.NDArray[np.uint8], scale: int) -> None:
    labels = np.kron(labels, np.ones((1, scale), dtype=np.uint8))
    boxes, polygons = outline_labels(labels, 5)
    assert len(boxes) == len(polygons) == 5
    for number in range(5):
        mask = labels == number + 1
        assert boxes[number] == mask_box(mask)
        assert [p.tolist() for p in polygons[number]] == [p.tolist() for p in outline_polygons(mask)]
    assert outline_labels(labels, 5, borders=False) == (boxes, [[], [], [], [], []])


def test_what_does_not_fit_is_refused() -> None:
    square = q16([(0, 0), (1 << 16, 0), (0, 1 << 16)])
    with pytest.raises(ValueError, match="no rule of filling"):
        fill_polygon(square, 4, 4, "winding")
    with pytest.raises(ValueError, match="int32"):
        fill_polygon(square.astype(np.int64), 4, 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(n, 2\)"):
        fill_polygon(square.reshape(-1), 4, 4)
    with pytest.raises(ValueError, match="at most 16384"):
        fill_polygon(square, 1, 16385)
    with pytest.raises(ValueError, match="bool array"):
        outline_polygons(np.zeros((2, 2), dtype=np.uint8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"0\.\.2"):
        outline_labels(np.full((2, 2), 3, dtype=np.uint8), 2)
