"""Contact sheets: the tiles are the pictures, the words are the parameters, the bytes follow from the recipe alone."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curate import _samples
from curate.drawing import make_picture
from curate.generation import Generation
from curate.make_request import MakeRequest, resolve
from curate.sheets import GAP, GUTTER, MARGIN, contact_sheet, parameters, sheet, small
from headwater.errors import UsageError

SIDE = 48
SMALL = {"image_size": SIDE, "vertex_num_max": 300, "line_num_max": 20, "start_pos": 24, "radius_min": 0}


PIXELS = "1b3fcd8a9c6faf061bd0e750b9cfd776ed76d4f0427c8f500b9fdab28b5373ca"


def made(classes: int = 30, instances: int = 5, **more: Any) -> Generation:
    return resolve(MakeRequest("visualatom", classes=classes, instances=instances, parameters=SMALL, **more))


def opened(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(data), formats=("PNG",)))


def holds(canvas: np.ndarray[Any, Any], tile: np.ndarray[Any, Any], x: int) -> list[int]:
    """Rows at which `tile` lies on the canvas with its left edge at `x`."""
    high, wide = tile.shape[:2]
    column = canvas[:, x : x + wide]
    return [y for y in range(len(column) - high + 1) if np.array_equal(column[y : y + high], tile)]


def test_tiles_are_the_pictures_in_rows_of_instances() -> None:
    generation = made(start_class=7, seed=2)
    canvas = opened(contact_sheet(generation, categories=[3, 29], instances=3, tile=SIDE))
    assert canvas.ndim == 2
    wide = 3 * SIDE + 2 * GUTTER
    rows = set()
    for place, row in enumerate((3, 29)):
        for instance in range(3):
            pixels = make_picture(generation, 7 + row, instance).picture.pixels
            found = [
                (x, y)
                for column in range(2)
                for x in [MARGIN + column * (wide + GAP) + instance * (SIDE + GUTTER)]
                if x + SIDE <= canvas.shape[1]
                for y in holds(canvas, pixels, x)
            ]
            assert len(found) == 1
            rows.add((place, found[0][1]))
    assert len(rows) == 2  # a category's instances stand in one line


def test_bytes_follow_from_recipe_and_seed() -> None:
    first = contact_sheet(made(), tile=24)
    assert contact_sheet(made(), tile=24) == first
    assert hashlib.sha256(opened(first).tobytes()).hexdigest() == PIXELS
    assert contact_sheet(made(), tile=24, seed=1) != first
    assert contact_sheet(made(seed=1), tile=24) != first


def test_reference_stream_shows_the_first_categories_of_each_process() -> None:
    generation = made(classes=8, instances=4, stream="reference", processes=2)
    assert _samples.some_rows(generation, 4, 0) == [0, 1, 4, 5]
    (one,) = _samples.shown(generation, [5], 2)
    again = [p.pixels.copy() for p in one.pictures]
    whole = [
        (s.row, s.number, [p.pixels.copy() for p in s.pictures])
        for s in _samples.shown(generation, range(8), 4)
    ]
    assert [row for row, _, _ in whole] == list(range(8))
    assert all(np.array_equal(a, b) for a, b in zip(again, whole[5][2], strict=False))
    assert _samples.records(generation, [5]) == [one.record]
    canvas = opened(contact_sheet(generation, categories=[5], instances=1, tile=SIDE))
    assert holds(canvas, again[0], MARGIN)


def test_reference_process_of_its_own_keeps_its_labels() -> None:
    options: dict[str, Any] = {"classes": 8, "instances": 4, "stream": "reference", "processes": 2}
    whole, second = made(**options), made(**options, index=1)
    assert (whole.classes, second.classes) == (8, 4)
    (a,), (b,) = _samples.shown(whole, [6], 1), _samples.shown(second, [2], 1)
    assert (a.number, b.number) == (6, 6)
    assert a.record == b.record
    assert np.array_equal(next(a.pictures).pixels, next(b.pictures).pixels)


def test_long_reference_runs_are_not_walked_through() -> None:
    generation = made(classes=1000, instances=1000, stream="reference", processes=20)
    assert _samples.some_rows(generation, 100, 0) == sorted(k * 50 + j for k in range(20) for j in range(2))
    assert len(_samples.some_rows(generation, 12, 0)) == 12


def test_rows_are_chosen_by_seed_alone() -> None:
    generation = made(classes=1000)
    rows = _samples.some_rows(generation, 12, 5)
    assert rows == sorted(set(rows)) == _samples.some_rows(generation, 12, 5)
    assert len(rows) == 12
    assert rows != _samples.some_rows(generation, 12, 6)
    assert _samples.some_rows(made(classes=3), 12, 5) == [0, 1, 2]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_small_is_the_area_average(size: int, tile: int, seed: int) -> None:
    """Against the definition with rational numbers: every pixel of the tile is the mean over its part of the picture."""
    from fractions import Fraction

    pixels = np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)
    found = small(pixels, tile)
    assert found.shape == (tile, tile)
    step = Fraction(size, tile)

    def share(k: int, source: int) -> Fraction:
        return max(Fraction(0), min((k + 1) * step, Fraction(source + 1)) - max(k * step, Fraction(source)))

    for y, x in {(0, 0), (tile - 1, tile // 2), (tile // 3, tile - 1)}:
        mean = sum(
            share(y, a) * share(x, b) * int(pixels[a, b])
            for a in range(size)
            for b in range(size)
            if share(y, a) and share(x, b)
        ) / (step * step)
        assert found[y, x] == int(mean + Fraction(1, 2))


def test_small_of_colours_is_that_of_each_channel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert all(np.array_equal(small(pixels, 7)[..., c], small(pixels[..., c], 7)) for c in range(3))
    kept = small(pixels, 20)
    pixels[:] = 0
    assert kept.any()  # a copy: the painter uses its buffer again


def test_colours_make_a_coloured_sheet() -> None:
    tiles = [np.full((16, 16, 3), (250, 10, 20), np.uint8)]
    canvas = sheet("name", "about", [("00000", "one 1  two 2", tiles)])
    assert canvas.shape[2] == 3
    assert (canvas == (250, 10, 20)).all(axis=2).sum() == 256


def test_words_have_room_or_are_left_out_whole() -> None:
    tiles = [np.zeros((64, 64), np.uint8)] * 2
    told = parameters({"vertex_num": 123, "line_width": 0.123456, "word": "x" * 300})
    assert told == f"vertex num 123  line width 0.123  word {'x' * 40}"
    canvas = sheet("name", "about  " + "very long  " * 50, [("00001", told, tiles)])
    assert canvas.shape[1] == 2 * MARGIN + 2 * 64 + GUTTER
    assert (canvas[:, -MARGIN + 2 :] == canvas[0, 0]).all()  # nothing is written into the margin
    assert sheet("\u4e2d\u6587", "about", [("0", "\u202e", tiles)]).any()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"categories": 0}, "0 categories"),
        ({"categories": []}, "no category"),
        ({"categories": [30]}, "category 30"),
        ({"instances": 0}, "0 instances"),
        ({"tile": 8}, "8 pixels"),
        ({"tile": 5000}, "5000 pixels"),
    ],
)
def test_sheets_that_cannot_be_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        contact_sheet(made(), **wrong)


def test_a_sheet_too_large_is_refused_before_anything_is_drawn() -> None:
    with pytest.raises(UsageError, match="too large"):
        contact_sheet(made(classes=10_000, instances=100), categories=10_000, instances=64, tile=128)
