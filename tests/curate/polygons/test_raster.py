"""Filling rules against plain statements of each and against vectors of pycocotools, OpenCV and kwimage; run lengths both ways."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.polygons import raster as rasters
from curate.polygons.raster import Crop, areas, decode, encode, overlaps, raster, rle_of_counts, rle_of_text

VECTORS = Path(__file__).parent / "vectors"


def cases(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((VECTORS / name).read_text())["cases"]
    return found


def fill(rings: list[Any], height: int, width: int, rule: str, owners: list[int] | None = None) -> Crop:
    starts = np.append(0, np.cumsum([len(ring) for ring in rings])).astype(np.int64)
    points = np.concatenate([np.asarray(ring, dtype=np.float64).reshape(-1, 2) for ring in rings])
    exteriors = np.zeros(len(rings), dtype=np.int64) if owners is None else np.asarray(owners)
    return raster(points, starts, height, width, rule, exteriors)


def coco_counts(ring: Any, height: int, width: int) -> list[int]:
    """COCO's rule from its definition: walk the outline in fifths of a pixel, note each step over a column's centre, sort, difference."""
    points = [(int(5 * x + 0.5), int(5 * y + 0.5)) for x, y in ring]
    walk = []
    for (xs, ys), (xe, ye) in zip(points, [*points[1:], points[0]], strict=True):
        dx, dy = abs(xe - xs), abs(ye - ys)
        turned = (dx >= dy and xs > xe) or (dx < dy and ys > ye)
        if turned:
            xs, ys, xe, ye = xe, ye, xs, ys
        edge = []
        for d in range(max(dx, dy) + 1):
            if dx >= dy:
                edge.append((xs + d, int(ys + ((ye - ys) / dx if dx else 0.0) * d + 0.5)))
            else:
                edge.append((int(xs + (xe - xs) / dy * d + 0.5), ys + d))
        walk += edge[::-1] if turned else edge
    toggles = []
    for (u0, v0), (u1, v1) in zip(walk, walk[1:], strict=False):
        column, rest = divmod(min(u0, u1) - 2, 5)
        if u0 != u1 and rest == 0 and 0 <= column <= width - 1:
            row = math.ceil(min(max((min(v0, v1) + 0.5) / 5 - 0.5, 0), height))
            toggles.append(column * height + row)
    places = sorted(place for place in set(toggles) if toggles.count(place) % 2 and place < height * width)
    return np.diff([0, *places, height * width]).tolist()


def inside_centres(rings: list[Any], height: int, width: int) -> np.ndarray:
    """Even-odd at pixel centres, in fractions, of vertices rounded to 1/65536."""
    mask = np.zeros((height, width), dtype=bool)
    exact = [
        [(Fraction(round(x * 65536), 65536), Fraction(round(y * 65536), 65536)) for x, y in ring]
        for ring in rings
    ]
    for r in range(height):
        for c in range(width):
            cx, cy = Fraction(2 * c + 1, 2), Fraction(2 * r + 1, 2)
            for ring in exact:
                for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
                    if min(y0, y1) <= cy < max(y0, y1) and x0 + (cy - y0) * (x1 - x0) / (y1 - y0) <= cx:
                        mask[r, c] ^= True
    return mask


sides = st.integers(1, 20)
coordinates = st.one_of(
    st.integers(-3, 24).map(float),
    st.floats(-4, 24).map(lambda v: round(v, 1)),
    st.floats(-60, 80),
    st.integers(-8, 48).map(lambda v: v / 2),
)
outlines = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=9)


@pytest.mark.parametrize("case", cases("pycocotools_polygons.json"))
def test_coco_is_pycocotools(case: dict[str, Any]) -> None:
    crop = fill([case["polygon"]], case["height"], case["width"], "coco")
    assert encode(crop).text == case["counts"]
    assert crop.area == case["area"] == encode(crop).area


@settings(max_examples=150, deadline=None)
@given(outlines, sides, sides)
def test_coco_is_its_definition(ring: list[tuple[float, float]], height: int, width: int) -> None:
    assert encode(fill([ring], height, width, "coco")).counts.tolist() == coco_counts(ring, height, width)


@pytest.mark.parametrize("case", cases("opencv_fills.json"))
@pytest.mark.parametrize("rule", ["opencv", "kwimage"])
def test_opencv_and_kwimage(case: dict[str, Any], rule: str) -> None:
    assert encode(fill(case["rings"], case["height"], case["width"], rule)).text == case[rule]


@settings(max_examples=150, deadline=None)
@given(st.lists(outlines, min_size=1, max_size=3), sides, sides)
def test_opencv_is_the_installed_one(rings: list[Any], height: int, width: int) -> None:
    cv2 = pytest.importorskip("cv2")
    if int(cv2.__version__.split(".")[0]) != 5:
        pytest.skip("the rule is that of OpenCV 5")
    canvas = np.zeros((height, width), dtype=np.uint8)
    cv2.fillPoly(canvas, [np.rint(ring).astype(np.int32)[:, None] for ring in rings], 1, cv2.LINE_8)
    np.testing.assert_array_equal(fill(rings, height, width, "opencv").full(), canvas.astype(bool))


@settings(max_examples=60, deadline=None)
@given(st.lists(outlines, min_size=1, max_size=2), st.integers(1, 12), st.integers(1, 12))
def test_centre_is_its_definition(rings: list[Any], height: int, width: int) -> None:
    crop = fill(rings, height, width, "centre")
    np.testing.assert_array_equal(crop.full(), inside_centres(rings, height, width))


def test_centre_decides_a_hair_left_and_right_of_a_centre() -> None:
    for places in (-2, -1, 0, 1, 2):
        x = 3.5 + places / 65536
        crop = fill([[(x, 0), (9, 0), (9, 1), (x, 1)]], 1, 10, "centre")
        assert crop.full()[0].tolist() == [False] * (3 if places <= 0 else 4) + [True] * (
            6 if places <= 0 else 5
        ) + [False]
    # a long edge whose crossing float64 cannot tell from the centre
    far = [
        (-67000000.0 + 0.5, -67000000.0 + 0.5),
        (67000000.0, 67000000.0 - 1 / 65536),
        (67000000.0, -67000000.0),
    ]
    assert fill([far], 3, 3, "centre").full().tolist() == inside_centres([far], 3, 3).tolist()


def test_centre_shares_no_pixel_along_a_shared_edge() -> None:
    rng = np.random.default_rng(5)
    for _ in range(40):
        a, b = rng.uniform(0, 30, 2), rng.uniform(0, 30, 2)
        left, right = [(-5, -5), a, b, (-5, 40)], [(40, -5), a, b, (40, 40)]
        total = np.zeros((30, 30), dtype=int)
        for ring in (left, right, [(-5, -5), a, (40, -5)], [(-5, 40), b, (40, 40)]):
            total += fill([ring], 30, 30, "centre").full()
        assert total.min() >= 0 and (total % 2 == 1).all()


def test_squares_differ_by_rule() -> None:
    for side in (4, 8, 16, 32, 64):
        square = [[(10, 10), (10 + side, 10), (10 + side, 10 + side), (10, 10 + side)]]
        found = {rule: fill(square, 100, 100, rule).area for rule in rasters.RULES}
        assert found == {
            "coco": side**2,
            "centre": side**2,
            "opencv": (side + 1) ** 2,
            "kwimage": (side + 1) ** 2,
        }


def test_opencv_rounds_and_kwimage_cuts() -> None:
    triangle = [[(1.6, 1.6), (5.7, 1.6), (1.6, 5.5)]]
    assert fill(triangle, 9, 9, "opencv").box == (2, 2, 5, 5)
    assert fill(triangle, 9, 9, "kwimage").box == (1, 1, 5, 5)


@pytest.mark.parametrize("rule", rasters.RULES)
def test_holes_parts_and_their_order(rule: str) -> None:
    outer = [(2, 2), (30, 2), (30, 30), (2, 30)]
    hole = [(8, 8), (8, 20), (20, 20), (20, 8)]
    other = [(15.0, 25.0), (39.0, 25.0), (39.0, 38.0), (15.0, 38.0)]
    whole = fill([outer, hole, other], 40, 40, rule, [0, 0, 2])
    expected = fill([outer, hole], 40, 40, rule).full() | fill([other], 40, 40, rule).full()
    np.testing.assert_array_equal(whole.full(), expected)
    assert not whole.full()[14, 14] and whole.full()[30, 30]
    np.testing.assert_array_equal(fill([hole, other, outer], 40, 40, rule, [2, 1, 2]).full(), expected)
    if rule in ("coco", "centre"):
        assert fill([outer, hole], 40, 40, rule).area == 28 * 28 - 12 * 12
    with pytest.raises(ValueError, match="hole's exterior is a hole"):
        fill([outer, hole, other], 40, 40, rule, [0, 0, 1])
    with pytest.raises(ValueError, match="places"):
        fill([outer], 40, 40, rule, [3])


@settings(max_examples=60, deadline=None)
@given(outlines, sides, sides, st.sampled_from(rasters.RULES))
def test_a_crop_is_a_window_of_the_image(ring: Any, height: int, width: int, rule: str) -> None:
    crop = fill([ring], height, width, rule)
    full = crop.full()
    assert full.sum() == crop.area
    x, y, w, h = crop.box
    assert full[y : y + h, x : x + w].sum() == crop.area
    if crop.area:
        assert full[y].any() and full[y + h - 1].any() and full[:, x].any() and full[:, x + w - 1].any()
    back = decode(encode(crop))
    np.testing.assert_array_equal(back.full(), full)
    assert back.rule == "rle" and back.box == crop.box


@pytest.mark.parametrize("rule", rasters.RULES)
def test_a_polygon_elsewhere_has_the_same_pixels_there(rule: str) -> None:
    rng = np.random.default_rng(17)
    for _ in range(60):
        # eighths, no halves: those are rounded to even numbers, which are others elsewhere
        rings = [(rng.integers(4, 60, (int(rng.integers(3, 8)), 2)) * 2 + 1) / 8 for _ in range(2)]
        near = fill(rings, 17, 17, rule)
        x, y = (int(step) for step in rng.integers(1, 300, 2))
        far = fill([ring + [x, y] for ring in rings], 17 + y + 3, 17 + x + 5, rule)
        assert far.mask.size < 20 * 20
        np.testing.assert_array_equal(far.full()[y : y + 17, x : x + 17], near.full())
        assert far.area == near.area


@pytest.mark.parametrize("rule", rasters.RULES)
def test_far_vertices_cost_no_time_and_bad_ones_are_refused(rule: str) -> None:
    far = 6e7
    crop = fill([[(-far, -far), (far, -far), (far, far), (-far, far)]], 50, 60, rule)
    assert crop.area == 3000
    for bad in (math.nan, math.inf, 1e9):
        with pytest.raises(ValueError, match="coordinate"):
            fill([[(0, 0), (bad, 3), (4, 4)]], 10, 10, rule)
    assert fill([[]], 5, 5, rule).area == 0
    assert fill([[(1, 1), (3, 3)]], 5, 5, rule).area == (3 if rule in ("opencv", "kwimage") else 0)
    with pytest.raises(ValueError, match="pixels"):
        raster(np.zeros((3, 2)), np.array([0, 3]), 0, 5, rule)
    with pytest.raises(ValueError, match="ascend"):
        raster(np.zeros((3, 2)), np.array([0, 4]), 5, 5, rule)
    with pytest.raises(ValueError, match="no rule"):
        raster(np.zeros((3, 2)), np.array([0, 3]), 5, 5, "pil")


def test_a_window_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="more than"):
        fill([[(0, 0), (9e5, 0), (9e5, 9e5), (0, 9e5)]], 900_000, 900_000, "centre")
    assert fill([[(5, 5), (9, 5), (9, 9), (5, 9)]], 900_000, 900_000, "centre").area == 16


def test_areas_of_many_at_once() -> None:
    rng = np.random.default_rng(3)
    rings, owners, exteriors = [], [0], []
    for _ in range(30):
        for _ in range(rng.integers(0, 3)):
            exteriors.append(len(rings))
            rings.append(rng.uniform(-5, 45, (6, 2)))
            if rng.random() < 0.4:
                exteriors.append(exteriors[-1])
                rings.append(rng.uniform(10, 30, (4, 2)))
        owners.append(len(rings))
    starts = np.append(0, np.cumsum([len(ring) for ring in rings])).astype(np.int64)
    points, places = np.concatenate(rings), np.array(exteriors)
    for rule in rasters.RULES:
        found = areas(points, starts, np.array(owners), [40] * 30, [35] * 30, rule, places)
        for i, (a, b) in enumerate(zip(owners, owners[1:], strict=False)):
            expected = raster(points, starts[a : b + 1], 40, 35, rule, places[a:b] - a).area
            assert found[i] == expected


@pytest.mark.parametrize("case", cases("pycocotools_masks.json"))
def test_run_lengths_are_pycocotools(case: dict[str, Any]) -> None:
    height, width = case["height"], case["width"]
    rles = []
    for text, letters, area, box in zip(
        case["masks"], case["counts"], case["areas"], case["boxes"], strict=True
    ):
        mask = (np.array(list(text)) == "1").reshape(height, width)
        rle = encode(Crop(height, width, 0, 0, mask, "vector"))
        assert (rle.text, rle.area) == (letters, area)
        np.testing.assert_array_equal(rle_of_text(letters, height, width).counts, rle.counts)
        np.testing.assert_array_equal(decode(rle).full(), mask)
        assert list(decode(rle).box) == [int(side) for side in box] or not area
        rles.append(rle)
    np.testing.assert_array_equal(
        overlaps(rles, rles, [bool(flag) for flag in case["crowd"]]), case["overlap"]
    )


def test_a_window_anywhere_has_the_runs_of_its_image() -> None:
    rng = np.random.default_rng(11)
    for _ in range(200):
        height, width = (int(side) for side in rng.integers(1, 9, 2))
        top, left = int(rng.integers(0, height)), int(rng.integers(0, width))
        h, w = int(rng.integers(0, height - top + 1)), int(rng.integers(0, width - left + 1))
        crop = Crop(height, width, left, top, rng.random((h, w)) < rng.random(), "any")
        whole = Crop(height, width, 0, 0, crop.full(), "any")
        assert encode(crop).counts.tolist() == encode(whole).counts.tolist()
        assert encode(crop).counts.sum() == height * width


def test_run_lengths_that_are_none() -> None:
    for counts in ([3, 3], [5, -1, 5], [], [2.0, 7.0], [[9]], [10]):
        with pytest.raises(ValueError, match="run lengths"):
            rle_of_counts(counts, 3, 3)
    for text in ("0", "Z", "\u00e9", " ", "o", "0o0oo"):
        with pytest.raises(ValueError, match="run length"):
            rle_of_text(text, 3, 3)
    one, other = rle_of_counts([9], 3, 3), rle_of_counts([8], 2, 4)
    with pytest.raises(ValueError, match="different sizes"):
        overlaps([one], [other], [False])
    with pytest.raises(ValueError, match="flag"):
        overlaps([one], [one], [])


def test_annotations_of_a_store(tmp_path: Path) -> None:
    from curate.polygons.store import open_annotations

    square, hole = [[2, 2], [10, 2], [10, 10], [2, 10]], [[4, 4], [4, 6], [6, 6], [6, 4]]
    common = {"image_id": 7, "category_id": 1}
    dataset = {
        "images": [
            {"id": 7, "file_name": "a.png", "height": 12, "width": 14},
            {"id": 8, "file_name": "b.png"},
        ],
        "categories": [{"id": 1, "name": "nut"}],
        "annotations": [
            {"id": 1, **common, "segmentation": [[2, 2, 10, 2, 10, 10, 2, 10], [11, 1, 13, 1, 13, 3, 11, 3]]},
            {"id": 2, **common, "segmentation": {"exterior": square, "interiors": [hole]}},
            {"id": 3, **common, "segmentation": {"size": [12, 14], "counts": [12 * 13, 5, 7]}},
            {"id": 4, **common, "bbox": [0, 0, 1, 1]},
            {"id": 5, **common, "segmentation": {"size": [10, 14], "counts": [140]}},
            {"id": 6, "image_id": 8, "segmentation": [[2, 2, 10, 2, 10, 10]]},
        ],
    }
    path = tmp_path / "data.json"
    path.write_text(json.dumps(dataset))
    found = open_annotations(path)
    assert [rasters.raster_of(found, row, "coco").area for row in range(4)] == [68, 60, 5, 0]
    assert rasters.raster_of(found, 2, "coco").box == (13, 0, 1, 5)
    assert (
        rasters.raster_of(found, 5, "centre", (12, 14)).area == 36
    )  # its slope runs through centres, to their left
    with pytest.raises(ValueError, match="10 x 14"):
        rasters.raster_of(found, 4, "coco")
    with pytest.raises(ValueError, match="no size"):
        rasters.raster_of(found, 5, "coco")
