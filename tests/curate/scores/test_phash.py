"""The scorer phash: against its definition in plain loops, and against what ImageHash 4.3.2 says of the same pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from curate import _picture_hash as hashes
from curate.pictures import Picture
from curate.scores import phash
from tests.curate.feature_kit import scored
from tests.curate.picture_kit import Sample, drawing, encoded, make, plain, samples, uid_of

# seed, size, ImageHash's phash and dhash
KNOWN = [
    (1, (64, 48), "a1d6a939ec0c16f3", "8fdce4240c1b9b83"),
    (2, (48, 64), "95d9585613aced61", "3c3373fbcc040edc"),
    (3, (200, 31), "f853e9c1ceb91146", "1818183c643c3b33"),
    (4, (32, 32), "ccd18386ac297bd6", "c7c0193360e3ffe7"),
    (5, (7, 5), "ebe1eeda6c349120", "838bdb9b33336266"),
    (6, (640, 480), "f986ac768983547c", "27269cd818241b1b"),
]


def one(image: Image.Image, form: str = "PNG", **options: Any) -> dict[str, Any]:
    picture = Picture(uid=uid_of(1), key="a", data=encoded(image, form, **options))
    answers = phash.Scorer(phash.Config()).score_pictures([picture])
    return {name: column[0].as_py() for name, column in answers.items()}


def bits(number: int) -> int:
    return number & 0xFFFFFFFFFFFFFFFF


@pytest.mark.parametrize(("seed", "size", "p", "d"), KNOWN)
def test_bits_are_those_of_imagehash(seed: int, size: tuple[int, int], p: str, d: str) -> None:
    found = one(drawing(seed, size))
    assert f"{bits(found['phash']):016x}" == p and f"{bits(found['dhash']):016x}" == d


def slow_phash(grey: list[list[int]]) -> tuple[list[float], float]:
    """The 64 coefficients and their median, straight from the definition of the DCT-II."""
    found = [
        4
        * sum(
            grey[y][x] * math.cos(math.pi * (2 * y + 1) * u / 64) * math.cos(math.pi * (2 * x + 1) * v / 64)
            for y in range(32)
            for x in range(32)
        )
        for u in range(8)
        for v in range(8)
    ]
    ordered = sorted(found)
    return found, (ordered[31] + ordered[32]) / 2


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32), st.integers(1, 32))
def test_phash_is_its_definition(seed: int, blocks: int) -> None:
    grey = np.asarray(drawing(seed, (32, 32), blocks).convert("L"))
    number = int(hashes.phash_bits(grey[None])[0])
    values, middle = slow_phash(grey.tolist())
    for place, value in enumerate(values):
        if abs(value - middle) > 1:  # a difference that steps of 2^-20 cannot make
            assert (number >> (63 - place) & 1) == (value > middle)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(0, 255), min_size=9, max_size=9), min_size=8, max_size=8))
def test_dhash_is_its_definition(grey: list[list[int]]) -> None:
    expected = int("".join(str(int(row[x + 1] > row[x])) for row in grey for x in range(8)), 2)
    assert hashes.dhash_bits(np.array([grey], np.uint8)).tolist() == [expected]


def test_plain_pictures_have_one_hash_and_no_contrast() -> None:
    found = [one(Image.new("RGB", (40, 30), (level,) * 3)) for level in (1, 77, 255)]
    assert {bits(f["phash"]) for f in found} == {1 << 63} and {f["dhash"] for f in found} == {0}
    assert {f["phash_contrast"] for f in found} == {0.0}
    assert bits(one(Image.new("RGB", (40, 30)))["phash"]) == 0
    assert len({f["phash_pixels"] for f in found}) == 3


def test_a_mirrored_picture_has_the_odd_columns_turned() -> None:
    grey = np.asarray(drawing(9, (32, 32)).convert("L"))
    half = np.concatenate([grey[:, :16], grey[:, :16][:, ::-1]], axis=1)
    low = np.einsum("ux,xy,vy->uv", hashes.COSINES, half.astype(np.int64), hashes.COSINES)
    assert not low[:, 1::2].any()  # exactly zero, on any processor


def test_contrast_and_pixels_are_as_stated() -> None:
    image = drawing(4, (32, 32))
    found = one(image)
    grey = np.asarray(image.convert("L"), float)
    assert found["phash_contrast"] == pytest.approx(grey.std(), rel=1e-6)
    head = (32).to_bytes(4, "little") * 2
    digest = blake3(head + np.asarray(image).tobytes()).digest()
    assert found["phash_pixels"] == int.from_bytes(digest[:8], "little", signed=True)


def test_the_same_pixels_in_other_files_are_the_same() -> None:
    image = drawing(6, (50, 40))
    found = [
        one(image, form, **more) for form, more in (("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}))
    ]
    assert found[0] == found[1] == found[2]
    turned = Image.Exif()
    turned[0x0112] = 6
    assert one(image.transpose(Image.Transpose.ROTATE_90), "PNG", exif=turned) == found[0]
    assert one(ImageOps.mirror(image))["phash_pixels"] != found[0]["phash_pixels"]


def test_scaled_and_repacked_pictures_are_near() -> None:
    image = drawing(8, (320, 240))
    number = bits(one(image)["phash"])
    others = [
        one(image, "JPEG", quality=40),
        one(image.resize((130, 97))),
        one(image.point(lambda v: v // 2 + 40)),
    ]
    assert all((number ^ bits(other["phash"])).bit_count() <= 6 for other in others)
    assert (number ^ bits(one(drawing(80, (320, 240)))["phash"])).bit_count() > 12


def test_rows_that_do_not_open_are_null_and_the_others_do_not_mind(tmp_path: Path) -> None:
    rows = [*samples([1]), Sample(uid_of(2), b"junk"), Sample(uid_of(3), plain()), *samples([4])]
    pool, tars = make(tmp_path, {"a.tar": rows})
    table = scored(pool, "phash", shards=tars)
    values = {row["uid"]: row for row in table.to_pylist()}
    assert set(values[uid_of(2)].values()) == {uid_of(2), None}
    for n in (1, 4):
        assert {**one(drawing(n)), "uid": uid_of(n)} == values[uid_of(n)]
