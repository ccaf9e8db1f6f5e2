"""The browsing sheet: which images stand on it, how they are turned and drawn, and what it says of images that are not sound."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curate.polygons.polygon_sheet import choose, polygon_sheet
from curate.polygons.store import Annotations
from curate.polygons.strokes import FILL
from curate.polygons.tiles import GROUND, PALETTE, Painter
from curate.polygons.turning import shown_size, to_stored, unturn_pixels
from headwater.errors import UsageError
from tests.curate.polygons.photo_kit import exif_bytes
from tests.curate.polygons.stats_kit import dataset, image, polygon, run_lengths

BOX = [(20, 20), (60, 20), (60, 60), (20, 60)]


def coloured(pixel: np.ndarray, rank: int = 0) -> bool:
    """Whether a pixel has about the colour of a category: an outline covers most of it."""
    return int(np.abs(pixel.astype(int) - PALETTE[rank]).sum()) < 110


def decoded(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def mixed(ground: tuple[int, ...], colour: tuple[int, ...], opacity: int) -> list[int]:
    return [round((g * (255 - opacity) + c * opacity) / 255) for g, c in zip(ground, colour, strict=True)]


def tile_of(annotations: Annotations, folder: Path | None = None, side: int = 200, row: int = 0) -> Any:
    return Painter(annotations, folder, side).tile(row)


def save(folder: Path, pixels: np.ndarray, orientation: int | None = None, name: str = "1.png") -> None:
    out: dict[str, Any] = {} if orientation is None else {"exif": exif_bytes(orientation)}
    Image.fromarray(np.ascontiguousarray(pixels)).save(folder / name, **out)


# drawing


def test_inside_is_tinted_outside_is_not() -> None:
    tile = tile_of(dataset([image(1)], [polygon(1, 1, BOX)]))
    assert tile.pixels.shape == (80, 100, 3)
    assert tile.pixels[40, 40].tolist() == mixed(GROUND, PALETTE[0], FILL)
    assert tile.pixels[5, 5].tolist() == list(GROUND)
    assert coloured(tile.pixels[40, 20])  # on the outline
    assert not coloured(tile.pixels[40, 40])
    assert (tile.counts, tile.trouble) == ([(1, 1)], None)


def test_a_hole_is_not_tinted() -> None:
    hole = [[30.0, 30.0], [50.0, 30.0], [50.0, 50.0], [30.0, 50.0]]
    holed = {"exterior": [[float(x), float(y)] for x, y in BOX], "interiors": [hole]}
    tile = tile_of(dataset([image(1)], [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": holed}]))
    assert tile.pixels[40, 40].tolist() == list(GROUND)
    assert tile.pixels[25, 40].tolist() == mixed(GROUND, PALETTE[0], FILL)


def test_a_mask_is_tinted_as_its_polygon() -> None:
    runs = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "segmentation": run_lengths(100, 80, (20, 20), (60, 60)),
    }
    mask, drawn = (tile_of(dataset([image(1)], [one])).pixels for one in (runs, polygon(1, 1, BOX)))
    assert mask[24:56, 24:56].tolist() == drawn[24:56, 24:56].tolist()
    assert mask[:16].tolist() == drawn[:16].tolist()
    assert coloured(mask[40, 20])


def test_boxes_circles_lines_and_points() -> None:
    plain = {"image_id": 1, "category_id": 1}
    shapes = [
        {"id": 1, **plain, "bbox": [20.0, 20.0, 40.0, 40.0]},
        {"id": 1, **plain, "shape_type": "rectangle", "points": [[20.0, 20.0], [60.0, 60.0]]},
        {"id": 1, **plain, "shape_type": "circle", "points": [[40.0, 40.0], [60.0, 40.0]]},
        {"id": 1, **plain, "shape_type": "linestrip", "points": [[20.0, 40.0], [60.0, 40.0], [60.0, 70.0]]},
        {"id": 1, **plain, "shape_type": "point", "points": [[20.0, 40.0]]},
        {"id": 1, **plain},
    ]
    tiles = [tile_of(dataset([image(1)], [shape])).pixels for shape in shapes]
    tinted = mixed(GROUND, PALETTE[0], FILL)
    at_edge = [coloured(tile[40, 20]) for tile in tiles]
    assert at_edge == [True, True, True, True, True, False]
    assert [tile[35, 40].tolist() == tinted for tile in tiles] == [False, True, True, False, False, False]
    assert (tiles[5] == GROUND).all()


@pytest.mark.parametrize("in_table", [True, False])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_look_the_same(tmp_path: Path, orientation: int, in_table: bool) -> None:
    shown = np.zeros((80, 100, 3), np.uint8)
    shown[:40, :50] = (200, 30, 30)
    save(tmp_path, unturn_pixels(shown, orientation), orientation)
    width, height = shown_size(orientation, 100, 80)
    corners = to_stored(np.array([(20, 10), (70, 10), (20, 60)], float), orientation, width, height)
    said = {"exif_orientation": orientation} if in_table else {}
    tile = tile_of(dataset([image(1, width, height, **said)], [polygon(1, 1, corners.tolist())]), tmp_path)
    assert tile.trouble is None
    (tmp_path / "upright").mkdir()
    save(tmp_path / "upright", shown)
    upright = dataset([image(1)], [polygon(1, 1, [(20, 10), (70, 10), (20, 60)])])
    wanted = tile_of(upright, tmp_path / "upright").pixels
    # an outline's half pixel rounds to one side, and a turned one to the other: beside the outline all is the same
    same = (tile.pixels.astype(int) - wanted).max(axis=2) == 0
    assert same.mean() > 0.95
    assert tile.pixels[20, 30].tolist() == wanted[20, 30].tolist() == mixed((200, 30, 30), PALETTE[0], FILL)


def test_a_large_image_is_made_small(tmp_path: Path) -> None:
    save(tmp_path, np.zeros((400, 500, 3), np.uint8))
    tile = tile_of(
        dataset([image(1, 500, 400)], [polygon(1, 1, [(5 * x, 5 * y) for x, y in BOX])]), tmp_path, 100
    )
    assert tile.pixels.shape == (80, 100, 3)
    assert tile.pixels[40, 40].tolist() == mixed((0, 0, 0), PALETTE[0], FILL)


def test_small_shapes_lie_above_large_ones_and_names_are_written() -> None:
    small = [(35, 35), (45, 35), (45, 45), (35, 45)]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    shapes = [polygon(1, 1, small, category=2), polygon(2, 1, BOX, category=1)]
    for some in (shapes, shapes[::-1]):
        tile = tile_of(dataset([image(1)], some, categories))
        assert coloured(tile.pixels[40, 35], 1)
        assert (tile.pixels[20:30, 20:30] == 16).all(axis=2).any()  # letters on the plate
        assert tile.counts == [(1, 1), (2, 1)]


# what is wrong with an image


def test_troubles_are_told_and_shapes_still_drawn(tmp_path: Path) -> None:
    save(tmp_path, np.zeros((80, 120, 3), np.uint8), name="wide.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "wide.png").read_bytes()[:60])
    (tmp_path / "page.png").write_bytes(b"<!doctype html>")
    names = ["wide.png", "cut.png", "page.png", "gone.png", "../wide.png", "http://x.example/1.png"]
    rows = [{**image(n), "file_name": name} for n, name in enumerate(names, 1)]
    annotations = dataset(rows, [polygon(n, n, BOX) for n in range(1, 7)])
    painter = Painter(annotations, tmp_path, 100)
    tiles = [painter.tile(row) for row in range(6)]
    assert [tile.trouble for tile in tiles] == [
        "the file is 120 x 80, not 100 x 80",
        "the file is truncated",
        "the file is not a picture",
        "no such file",
        "no name of a file in the folder",
        "no name of a file in the folder",
    ]
    assert all(tile.pixels[40, 40].tolist() == mixed(GROUND, PALETTE[0], FILL) for tile in tiles[1:])
    sheet = polygon_sheet(annotations, tmp_path, ids=[4, "cut.png"], tile=100)
    assert sheet.rows == [3, 1]
    assert sheet.troubles == [("gone.png", "no such file"), ("cut.png", "the file is truncated")]


def test_drawn_on_the_image_as_shown(tmp_path: Path) -> None:
    """A table whose sizes are those of the shown image is the known mistake of tools that turn images on loading."""
    save(tmp_path, np.zeros((80, 100, 3), np.uint8), 6)
    tile = tile_of(
        dataset([image(1, 80, 100)], [polygon(1, 1, [(10, 70), (40, 70), (40, 95), (10, 95)])]), tmp_path
    )
    assert tile.trouble == "the file is 100 x 80, not 80 x 100"
    assert tile.pixels.shape == (100, 80, 3)
    assert tile.pixels[80, 25].tolist() == mixed((0, 0, 0), PALETTE[0], FILL)


def test_another_orientation_in_the_file_is_told(tmp_path: Path) -> None:
    save(tmp_path, np.zeros((80, 100, 3), np.uint8), 3)
    tile = tile_of(dataset([image(1, exif_orientation=1)], []), tmp_path)
    assert tile.trouble == "turned by 3 in the file, 1 here"


def test_shapes_that_cannot_be_drawn_are_counted() -> None:
    broken = {"id": 1, "image_id": 1, "segmentation": {"size": [80, 100], "counts": [5, 6]}}
    tile = tile_of(dataset([image(1)], [broken, polygon(2, 1, BOX)]))
    assert tile.trouble == "1 of 2 annotations not drawn"


def test_no_size_and_no_file() -> None:
    tile = tile_of(dataset([{"id": 1, "file_name": "x.png"}], [polygon(1, 1, BOX)]), None, 64)
    assert tile.pixels.shape == (64, 64, 3)
    assert tile.trouble == "no size"


def test_coordinates_far_outside_do_no_harm() -> None:
    far = [
        [(1e300, 0), (0, 1e300), (5, 5)],
        [(-1e6, -1e6), (1e6, -1e6), (1e6, 1e6), (-1e6, 1e6)],
        [(500, 500)],
    ]
    tile = tile_of(dataset([image(1)], [polygon(n, 1, points) for n, points in enumerate(far, 1)]))
    assert tile.pixels[40, 40].tolist() == mixed(
        GROUND, PALETTE[0], FILL
    )  # the second covers all of the image


# choosing


def many(per_image: dict[int, int]) -> Annotations:
    drawn = [n for n, count in per_image.items() for _ in range(count)]
    return dataset([image(n) for n in per_image], [polygon(k, n, BOX) for k, n in enumerate(drawn, 1)])


def test_most_and_fewest() -> None:
    annotations = many({1: 2, 2: 0, 3: 5, 4: 1})
    assert choose(annotations, 2, order="most") == [2, 0]
    assert choose(annotations, 3, order="fewest") == [1, 3, 0]
    assert choose(annotations, 9, order="random") != choose(annotations, 9, order="random", seed=1)


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=30, unique=True), st.integers(1, 10), st.data())
@settings(max_examples=40, deadline=None)
def test_a_grown_dataset_keeps_the_choice(ids: list[int], count: int, data: st.DataObject) -> None:
    """Of the images chosen from the larger dataset, those of the smaller one are the first of its own choice, in its order."""
    cut = data.draw(st.integers(1, len(ids)))
    large = dataset([image(n) for n in ids], [])
    small = large.take(range(cut))
    before = [ids[row] for row in choose(small, count)]
    after = [ids[row] for row in choose(large, count)]
    kept = [number for number in after if number in ids[:cut]]
    assert kept == before[: len(kept)]


def test_by_id_name_and_category() -> None:
    annotations = dataset(
        [image(1), image(2), image(30)],
        [polygon(1, 2, BOX, category=2)],
        [{"id": 1, "name": "fig"}, {"id": 2, "name": "date"}],
    )
    assert choose(annotations, 1, ids=[30, "1.png", 30]) == [2, 0]
    assert choose(annotations, 5, category="date") == [1]
    with pytest.raises(UsageError, match="'dat'.*date"):
        choose(annotations, 5, category="dat")
    with pytest.raises(UsageError, match="3.png"):
        choose(annotations, 5, ids=["3.png"])
    with pytest.raises(UsageError, match="most"):
        choose(annotations, 5, order="moist")
    for count in (0, 401):
        with pytest.raises(UsageError, match="1 to 400"):
            choose(annotations, count)
    with pytest.raises(UsageError, match="48 to 1024"):
        polygon_sheet(annotations, tile=4)


# the sheet


def test_the_sheet_is_the_same_each_time_and_holds_its_tiles(tmp_path: Path) -> None:
    save(tmp_path, np.full((80, 100, 3), 90, np.uint8))
    annotations = dataset(
        [image(n) for n in range(1, 8)],
        [polygon(n, n, BOX) for n in range(1, 5)],
        [{"id": 1, "name": "n\u00fcsse \u202e \u6c34"}],
    )
    one = polygon_sheet(annotations, tmp_path, images=7, tile=100, name="dataset")
    assert one.png == polygon_sheet(annotations, tmp_path, images=7, tile=100, name="dataset").png
    assert one.png != polygon_sheet(annotations, tmp_path, images=7, tile=100, name="dataset", seed=1).png
    assert [name for name, _ in one.troubles] == [f"{row + 1}.png" for row in one.rows if row]
    pixels = decoded(one.png)
    tile = Painter(annotations, tmp_path, 100).tile(one.rows[0]).pixels
    windows = np.lib.stride_tricks.sliding_window_view(pixels[:, 20:120], 80, 0)
    assert any((windows[y].transpose(2, 0, 1) == tile).all() for y in range(len(windows)))


def test_an_empty_dataset_makes_an_empty_sheet() -> None:
    sheet = polygon_sheet(dataset([], []), name="nothing")
    assert sheet.rows == []
    assert decoded(sheet.png).ndim == 3


def test_many_categories_keep_the_legend_short() -> None:
    names = [{"id": n, "name": f"category with a long name {n}"} for n in range(300)]
    sheet = polygon_sheet(dataset([image(1)], [polygon(1, 1, BOX, category=299)], names), tile=64)
    assert decoded(sheet.png).shape[0] < 300
