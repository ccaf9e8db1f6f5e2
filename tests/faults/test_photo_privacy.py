"""GPS, serial numbers, owners, notes, thumbnails and whatever else a photo carries: gone before it is published (fault row 58)."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from curate.polygons.containers import pieces_of
from curate.polygons.exif import photo_of
from curate.polygons.scrub import scrub_bytes
from tests.curate.polygons.private_kit import FORMATS, SECRET, private_picture, stored


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_what_is_private_goes_and_the_pixels_stay(form: str, orientation: int | None) -> None:
    data = private_picture(form, orientation)
    before = photo_of(data)
    found = scrub_bytes(data)
    assert SECRET.encode() not in found.data and b"\xaa\xbb\xcc" not in found.data
    assert {"GPS", "thumbnail", "BodySerialNumber", "MakerNote", "trailing", "xmp"} <= set(found.removed)
    assert set(before.private) <= set(found.removed)
    assert not found.coded_again
    assert np.array_equal(stored(found.data), stored(data))
    after = photo_of(found.data)
    assert (after.private, after.gps) == ((), None)
    assert (after.orientation, after.taken, after.make) == (orientation, before.taken, "Maker")
    assert after.tags["exif"] == (0x829A, 0x9003, 0x9011)
    if form == "JPEG":
        assert Image.open(io.BytesIO(found.data)).info["icc_profile"] == b"profile"
        assert [data[piece.start : piece.end] for piece in pieces_of(data) if piece.kind == "picture"] == [
            found.data[piece.start : piece.end] for piece in pieces_of(found.data) if piece.kind == "picture"
        ]
    again = scrub_bytes(found.data)
    assert (again.data, again.removed) == (found.data, ())
