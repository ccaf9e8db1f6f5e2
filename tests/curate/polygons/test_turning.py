"""The eight orientations against Pillow's own turning of pixels, and there and back again."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from curate.polygons.turning import ORIENTATIONS, shown_size, to_shown, to_stored, turn_pixels, unturn_pixels
from tests.curate.polygons.photo_kit import exif_bytes, picture_bytes


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_points_go_where_pillow_puts_pixels(orientation: int) -> None:
    dark = np.zeros((5, 7, 3), np.uint8)
    x, y = 4, 1  # this pixel's corners are (4, 1) and (5, 2)
    dark[y, x] = 255
    file = picture_bytes("PNG", dark, exif_bytes(orientation))
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file))))
    assert shown_size(orientation, 7, 5) == (shown.shape[1], shown.shape[0])
    assert np.array_equal(turn_pixels(dark, orientation), shown)
    assert np.array_equal(unturn_pixels(shown, orientation), dark)
    corners = to_shown(np.array([[x, y], [x + 1.0, y + 1.0]]), orientation, 7, 5)
    down, across = np.argwhere(shown[:, :, 0] == 255)[0]
    assert corners.min(axis=0).tolist() == [across, down]
    assert corners.max(axis=0).tolist() == [across + 1, down + 1]


@given(
    st.sampled_from(list(ORIENTATIONS)),
    st.lists(st.tuples(st.integers(0, 8 * 4000), st.integers(0, 8 * 3000)), max_size=6),
)
def test_there_and_back_is_exact_on_eighths(orientation: int, eighths: list[tuple[int, int]]) -> None:
    points = np.array(eighths, float).reshape(-1, 2) / 8
    shown = to_shown(points, orientation, 4000, 3000)
    assert np.array_equal(to_stored(shown, orientation, 4000, 3000), points)
    width, height = shown_size(orientation, 4000, 3000)
    assert (shown >= 0).all() and (shown <= [width, height]).all()
    assert shown_size(orientation, width, height) == (4000, 3000)


def test_the_given_points_are_not_changed() -> None:
    points = np.array([[1.0, 2.0]])
    for orientation in ORIENTATIONS:
        to_shown(points, orientation, 10, 10)
        to_stored(points, orientation, 10, 10)
    assert points.tolist() == [[1.0, 2.0]]
