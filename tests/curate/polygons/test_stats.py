"""Numbers of polygon datasets against plain statements of what they mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.polygons import density
from curate.polygons.density import overlay
from curate.polygons.moments import moments_of, periods, sun_height
from curate.polygons.stats import quartiles, stats_of
from curate.polygons.stats_text import lines_of
from curate.polygons.turning import shown_size, to_shown
from headwater.errors import IntegrityError
from tests.curate.polygons.stats_kit import dataset, image, polygon, run_lengths

SQUARE = [(0, 0), (10, 0), (10, 10), (0, 10)]


def ring(points: Any) -> list[list[float]]:
    return [[float(x), float(y)] for x, y in points]


def test_counts_and_categories() -> None:
    annotations = dataset(
        [image(1), image(2), image(3)],
        [
            polygon(1, 1, SQUARE, category=7, source="person"),
            polygon(2, 1, SQUARE, category=7),
            polygon(3, 2, SQUARE, category=5, source="person"),
            polygon(4, 2, SQUARE, category=9),
            polygon(5, 99, SQUARE, category=7, source="model"),
            polygon(6, 2, SQUARE, category=None, iscrowd=1),
        ],
        categories=[{"id": 5, "name": "fig"}, {"id": 7, "name": "date"}, {"id": 8, "name": "never"}],
    )
    found = stats_of(annotations)
    assert (found.images, found.annotated, found.annotations, found.orphans, found.crowds) == (3, 2, 6, 1, 1)
    assert found.per_image.tolist() == [2, 3, 0]
    told = [(one.name, one.annotations, one.images) for one in found.categories]
    assert told == [
        ("date", 3, 1),
        ("fig", 1, 1),
        ("no such category: 9", 1, 1),
        ("no category", 1, 1),
        ("never", 0, 0),
    ]
    assert [one.median_area for one in found.categories] == [100.0] * 4 + [None]
    assert found.sources == [(None, 3), ("person", 2), ("model", 1)]
    assert found.forms == {"polygons": 6}


@pytest.mark.parametrize(
    ("side", "size"), [(31.99, "small"), (32, "medium"), (95.99, "medium"), (96, "large")]
)
def test_sizes_are_cocos(side: float, size: str) -> None:
    annotations = dataset([image(1)], [polygon(1, 1, [(0, 0), (side, 0), (side, side), (0, side)])])
    assert {name for name, count in stats_of(annotations).sizes.items() if count} == {size}


def test_where_the_area_comes_from() -> None:
    plain = {"image_id": 1, "category_id": 1}
    circle = {"shape_type": "circle", "points": [[50.0, 50.0], [60.0, 50.0]]}
    annotations = dataset(
        [image(1)],
        [
            {"id": 1, **plain, "segmentation": run_lengths(100, 80, (10, 20), (30, 60)), "area": 5.0},
            {"id": 2, **plain, "bbox": [1.0, 2.0, 6.0, 7.0], "area": 13.0},
            {"id": 3, **plain, "bbox": [1.0, 2.0, 6.0, 7.0]},
            {"id": 4, **plain, **circle, "area": 314.0, "bbox": [40.0, 40.0, 20.0, 20.0]},
            {"id": 5, **plain},
            {"id": 6, **plain, "bbox": [1.0, 2.0, -6.0, 7.0]},
        ],
    )
    found = stats_of(annotations)
    assert found.areas.tolist()[:4] == [20 * 40, 13, 42, 314]
    assert np.isnan(found.areas[4:]).all()
    assert found.centroids_stored[:4].tolist() == [[20, 40], [4, 5.5], [4, 5.5], [50, 50]]
    assert found.boxes[:4].tolist() == [[20, 40], [6, 7], [6, 7], [20, 20]]
    assert found.sizes["unknown"] == 2
    assert found.vertices.tolist() == [0] * 6  # a circle's points are no outline
    assert found.exteriors == 0


def plain_centroid(polygons: list[tuple[list[list[float]], list[list[list[float]]]]]) -> tuple[float, float]:
    """By triangles from the origin, ring by ring; holes taken away whatever their direction."""
    total, sum_x, sum_y = 0.0, 0.0, 0.0
    for exterior, holes in polygons:
        for one, weight in [(exterior, 1.0), *((hole, -1.0) for hole in holes)]:
            area, mx, my = 0.0, 0.0, 0.0
            for (x0, y0), (x1, y1) in zip(one, one[1:] + one[:1], strict=True):
                cross = x0 * y1 - x1 * y0
                area += cross / 2
                mx += (x0 + x1) * cross / 6
                my += (y0 + y1) * cross / 6
            sign = weight * (1 if area > 0 else -1)
            total, sum_x, sum_y = total + sign * area, sum_x + sign * mx, sum_y + sign * my
    return sum_x / total, sum_y / total


@st.composite
def stars(draw: st.DrawFn, cx: float = 50, cy: float = 40, least: float = 8, most: float = 30) -> Any:
    """A star-shaped ring around (cx, cy), in either direction."""
    count = draw(st.integers(3, 9))
    radii = draw(st.lists(st.floats(least, most), min_size=count, max_size=count))
    points = [
        [cx + r * math.cos(2 * math.pi * n / count), cy + r * math.sin(2 * math.pi * n / count)]
        for n, r in enumerate(radii)
    ]
    return points[::-1] if draw(st.booleans()) else points


@given(stars(), stars(least=1, most=3), stars(cx=20, cy=20, most=10), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_centroids(exterior: Any, hole: Any, other: Any, orientation: int) -> None:
    both = [{"exterior": exterior, "interiors": [hole]}, {"exterior": other, "interiors": []}]
    annotations = dataset(
        [image(1, 100, 80, exif_orientation=orientation)],
        [{"id": 1, "image_id": 1, "segmentation": both}, polygon(2, 1, other)],
    )
    found = stats_of(annotations)
    wanted = [plain_centroid([(exterior, [hole]), (other, [])]), plain_centroid([(other, [])])]
    assert np.allclose(found.centroids_stored, wanted, atol=1e-9)
    shown = to_shown(np.array(wanted), orientation, 100, 80)
    assert np.allclose(found.centroids, shown, atol=1e-9)
    assert np.allclose(found.relative, shown / shown_size(orientation, 100, 80), atol=1e-9)
    assert (found.multipart, found.exteriors, found.holes) == (1, 3, 1)
    assert found.vertices.tolist() == [len(exterior) + len(hole) + len(other), len(other)]


def test_a_line_far_away_has_a_centroid_within_its_box() -> None:
    flat = [(1e9, 5.0), (1e9 + 8, 5.0), (1e9 + 4, 5.0)]
    found = stats_of(dataset([image(1)], [polygon(1, 1, flat), polygon(2, 1, [(0.1, 0.1)] * 3)]))
    assert found.centroids_stored.tolist() == [[1e9 + 4, 5.0], [0.1, 0.1]]


def test_nothing_depends_on_the_order() -> None:
    images = [image(n, 100 + n, 80, datetime=f"2024-0{n}-01") for n in range(1, 6)]
    drawn = [polygon(n, 1 + n % 5, [(0, 0), (n, 0), (n, n)], category=1 + n % 2) for n in range(1, 20)]
    one = stats_of(dataset(images, drawn)).summary()
    assert one == stats_of(dataset(images[::-1], drawn[::-1])).summary()
    assert one["area_pixels"]["most"] == 19 * 19 / 2
    assert one["first_time"] == "2024-01-01T00:00:00"


def test_an_empty_dataset() -> None:
    summary = stats_of(dataset([], [])).summary()
    assert summary["images"] == summary["annotations"] == 0
    assert summary["area_pixels"] is None
    assert quartiles(np.array([np.nan, np.inf])) is None


# where on the image


def inside(x: float, y: float, points: list[list[float]]) -> bool:
    """Even-odd, by the crossings of the way to the left."""
    found = False
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if (y0 > y) != (y1 > y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) < x:
            found = not found
    return found


@given(stars(), stars(least=1, most=3), stars(cx=20, cy=20, most=15), st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_the_overlay_counts_cells_whose_centre_is_inside(
    exterior: Any, hole: Any, other: Any, orientation: int
) -> None:
    holed = {"exterior": exterior, "interiors": [hole]}
    annotations = dataset(
        [image(1, 100, 80, exif_orientation=orientation)],
        [{"id": 1, "image_id": 1, "segmentation": [holed]}, polygon(2, 1, other)],
    )
    high, wide = 13, 17
    across, down = shown_size(orientation, 100, 80)
    turned = [to_shown(np.array(one), orientation, 100, 80).tolist() for one in (exterior, hole, other)]
    wanted = np.zeros((high, wide), np.int64)
    for row in range(high):
        for column in range(wide):
            at = (column + 0.5) / wide * across, (row + 0.5) / high * down
            first, second, third = (inside(*at, one) for one in turned)
            wanted[row, column] = (first and not second) + third
    assert overlay(annotations, high, wide).tolist() == wanted.tolist()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_lies_where_its_polygon_lies(orientation: int) -> None:
    box = [(10, 20), (30, 20), (30, 60), (10, 60)]
    pictures = [image(1, 100, 80, exif_orientation=orientation)]
    runs = {"id": 1, "image_id": 1, "segmentation": run_lengths(100, 80, (10, 20), (30, 60))}
    mask, drawn = (overlay(dataset(pictures, [one]), 37, 53) for one in (runs, polygon(1, 1, box)))
    assert mask.tolist() == drawn.tolist()
    assert mask.sum() > 0


def test_the_overlay_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    drawn = [polygon(n, 1, generator.uniform(-10, 120, (5, 2)).tolist()) for n in range(1, 40)]
    annotations = dataset([image(1)], drawn)
    whole = overlay(annotations, 30, 30)
    monkeypatch.setattr(density, "CROSSINGS_AT_ONCE", 7)
    assert overlay(annotations, 30, 30).tolist() == whole.tolist()


def test_the_overlay_leaves_out_what_has_no_place() -> None:
    lost = [polygon(1, 99, SQUARE), polygon(2, 2, SQUARE), {"id": 3, "image_id": 1, "bbox": [0, 0, 9, 9]}]
    lost.append(polygon(4, 1, [(1e308, 0), (-1e308, 1e308), (0, -1e308)]))
    annotations = dataset([image(1), {"id": 2, "file_name": "no size"}], lost)
    assert overlay(annotations, 8, 8).shape == (8, 8)
    assert overlay(annotations.take_annotations([0, 1, 2]), 8, 8).sum() == 0
    broken = {
        "id": 1, "image_id": 1, "segmentation": {"size": [80, 100], "counts": [5, 6]}
    }  # fmt: skip
    with pytest.raises(ValueError, match="do not add up"):
        overlay(dataset([image(1)], [broken]), 8, 8)


# when and where


def test_times_as_they_are_written() -> None:
    texts = ["2024-05-01T13:30:00+02:00", "2024:05:01 13:30:00", "2024-05-01", "yesterday", "2024-05-01 13:30:00.75", "9999999"]  # fmt: skip
    rows = [image(n, datetime=text) for n, text in enumerate(texts, 1)]
    rows.append(image(9, date_captured="2013-11-14 17:02:52"))
    found = moments_of(dataset(rows, []))
    known = ["2024-05-01T13:30:00"] * 2 + ["2024-05-01T00:00:00", "NaT", "2024-05-01T13:30:00", "NaT", "2013-11-14T17:02:52"]  # fmt: skip
    assert found.taken.astype(str).tolist() == known
    assert found.hours[[0, 1, 4]].tolist() == [13.5] * 3
    assert np.isnan(found.hours[[2, 3, 5]]).all()
    assert found.days[0] == 121
    assert found.offset[0] == 120
    assert np.isnan(found.offset[1:]).all()


def test_places_of_exif_and_geojson() -> None:
    gps = {"latitude": [[33, 1], [30, 1], [0, 1]], "latitude_ref": "S", "longitude": [[151, 1], [15, 1]], "longitude_ref": "E"}  # fmt: skip
    rows = [
        image(1, gps=gps),
        image(2, intake={"gps": gps}),
        image(3, geos_point={"type": "Point", "coordinates": [-73.5, 42.25]}),
        image(4, geos_point={"type": "Point", "coordinates": [-73.5, 420]}),
        image(5, gps={"latitude": 5}),
        image(6, gps={"latitude": [[1, 0]], "latitude_ref": "N"}),
        image(7, gps=[], geos_point={"type": "Point", "coordinates": ["1", "2"]}),
    ]
    found = moments_of(dataset(rows, []))
    assert found.latitude[:3].tolist() == [-33.5, -33.5, 42.25]
    assert found.longitude[:3].tolist() == [151.25, 151.25, -73.5]
    assert np.isnan(found.latitude[3:]).all()


def test_an_extra_that_is_no_json_is_named() -> None:
    import pyarrow as pa

    from curate.polygons.store import set_column

    sound = dataset([image(1)], [])
    broken = sound.replace(images=set_column(sound.images, "extra", pa.array(['{"gps": '])))
    with pytest.raises(IntegrityError, match="extra"):
        moments_of(broken)


@pytest.mark.parametrize(
    ("when", "latitude", "longitude", "height"),
    [
        (
            "2003-10-17T19:30:30",
            39.742476,
            -105.1786,
            39.872,
        ),  # Reda and Andreas, NREL/TP-560-34302, table A5.1
        ("2024-06-20T12:01:50", 23.4364, 0.0, 90.0),  # the June solstice, over the tropic
        (
            "2024-03-20T18:00:00",
            90.0,
            0.0,
            0.25,
        ),  # 15 hours after the March equinox, at the pole: 0.4 degrees a day
    ],
)
def test_how_high_the_sun_stands(when: str, latitude: float, longitude: float, height: float) -> None:
    days = (np.datetime64(when) - np.datetime64("2000-01-01T12:00:00")) / np.timedelta64(1, "D")
    found = sun_height(np.array([days]), np.array([latitude]), np.array([longitude]))[0]
    assert found == pytest.approx(height, abs=0.15)


def test_the_sun_by_the_clock_of_the_place() -> None:
    point = {"type": "Point", "coordinates": [-105.1786, 39.742476]}
    rows = [
        image(1, datetime="2003-10-17T12:30:30-07:00", geos_point=point),
        image(2, datetime="2003-10-17T12:30:30", geos_point=point),
        image(3, datetime="2003-10-17", geos_point=point),
    ]
    sun = moments_of(dataset(rows, [])).sun
    assert sun[0] == pytest.approx(39.872, abs=0.1)
    assert np.isnan(sun[1:]).all()


@pytest.mark.parametrize(
    ("texts", "unit", "names"),
    [
        (["2024-05-01", "2024-05-03T10:00:00"], "day", ["2024-05-01", "2024-05-02", "2024-05-03"]),
        (["2020-01-31", "2022-03-01"], "month", None),
        (["1990-01-31", "2022-03-01"], "year", None),
        (["1066-10-14", "2022-03-01"], "year", ["1066", "2022"]),
    ],
)
def test_periods(texts: list[str], unit: str, names: list[str] | None) -> None:
    taken = np.array([*texts, "NaT"], "datetime64[s]")
    found, shown, counts, front = periods(taken, np.array([True, False, True]))
    assert found == unit
    assert len(shown) <= 48
    assert names is None or shown == names
    assert (sum(counts), sum(front), counts[0], front[-1]) == (2, 1, 1, 0)


def test_no_time_no_periods() -> None:
    assert periods(np.array(["NaT"], "datetime64[s]"), np.array([True])) == ("day", [], [], [])


def test_lines_for_a_terminal() -> None:
    categories = [{"id": n, "name": f"name {n}\u202e\n"} for n in range(60)]
    rows = [image(1, datetime="2024-05-01", gps=None), image(2)]
    lines = lines_of(stats_of(dataset(rows, [polygon(1, 1, SQUARE, source="me")], categories)))
    text = "\n".join(lines)
    assert "images                  2   1 with annotations" in text
    assert "sizes        1 small, 0 medium, 0 large, 0 unknown" in text
    assert "taken        2024-05-01T00:00:00" in text
    assert "and 20 more" in text
    assert "\u202e" not in text
    assert "           1  me" in lines
