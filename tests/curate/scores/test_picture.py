"""The scorer picture: each number against its definition in plain loops, and what it says of pictures that do not open."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from curate.pictures import Picture
from curate.scores import picture
from tests.curate.feature_kit import scored_with_facts
from tests.curate.picture_kit import Sample, drawing, encoded, make, plain, uid_of


def one(data: bytes) -> dict[str, Any]:
    answers = picture.Scorer(picture.Config()).score_pictures([Picture(uid=uid_of(1), key="a", data=data)])
    return {name: column[0].as_py() for name, column in answers.items()}


def slow(grey: list[list[int]]) -> tuple[float, float, float]:
    """Blur, flatness and entropy, straight from their definitions."""
    height, width = len(grey), len(grey[0])
    edges = [
        4 * grey[y][x] - grey[y - 1][x] - grey[y + 1][x] - grey[y][x - 1] - grey[y][x + 1]
        for y in range(1, height - 1)
        for x in range(1, width - 1)
    ]
    mean = sum(edges) / len(edges) if edges else 0.0
    blur = sum((edge - mean) ** 2 for edge in edges) / len(edges) if edges else 0.0
    counts = Counter(level for row in grey for level in row)
    total = height * width
    entropy = -sum(n / total * math.log2(n / total) for n in counts.values())
    return blur, max(counts.values()) / total, abs(entropy)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 24), st.integers(1, 24), st.integers(1, 256))
def test_numbers_are_their_definitions(seed: int, width: int, height: int, levels: int) -> None:
    grey = np.random.default_rng(seed).integers(0, levels, (height, width), dtype=np.uint8)
    found = one(encoded(Image.fromarray(grey)))
    blur, flat, entropy = slow(grey.tolist())
    assert found["picture_blur"] == pytest.approx(blur, rel=1e-5, abs=1e-6)
    assert found["picture_flat"] == pytest.approx(flat, rel=1e-6)
    assert found["picture_entropy"] == pytest.approx(entropy, rel=1e-5, abs=1e-6)
    assert (found["picture_width"], found["picture_height"]) == (width, height)


def test_a_large_picture_is_looked_at_with_256_pixels() -> None:
    image = drawing(3, (700, 350), 20)
    found = one(encoded(image))
    grey = np.asarray(image.resize((256, 128), Image.Resampling.BOX).convert("L"))
    blur, flat, entropy = slow(grey.tolist())
    assert found["picture_blur"] == pytest.approx(blur, rel=1e-5)
    assert found["picture_flat"] == pytest.approx(flat) and found["picture_entropy"] == pytest.approx(entropy)
    assert (found["picture_width"], found["picture_height"]) == (700, 350)


def test_blur_falls_when_a_picture_is_blurred() -> None:
    sharp = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
    blurs = [one(encoded(sharp.filter(ImageFilter.GaussianBlur(r))))["picture_blur"] for r in (0, 1, 3)]
    assert blurs[0] > 4 * blurs[1] > 16 * blurs[2]


def test_a_plain_picture() -> None:
    data = plain()
    assert one(data) == {
        "picture_status": "ok",
        "picture_width": 32,
        "picture_height": 32,
        "picture_bytes": len(data),
        "picture_blur": 0.0,
        "picture_flat": 1.0,
        "picture_entropy": 0.0,
    }


def test_sizes_are_those_to_be_seen() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    found = one(encoded(drawing(1, (40, 20)), "JPEG", exif=exif))
    assert (found["picture_width"], found["picture_height"]) == (20, 40)


def test_a_picture_that_does_not_open_has_a_status_and_is_no_invalid_row(tmp_path: Path) -> None:
    rows = [Sample(uid_of(1), b"<html>"), Sample(uid_of(2), plain()), Sample(uid_of(3), None, caption="x")]
    pool, tars = make(tmp_path, {"a.tar": rows})
    table, facts = scored_with_facts(pool, "picture", shards=tars)
    found = {row.pop("uid"): row for row in table.to_pylist()}
    assert found[uid_of(1)] == {
        **dict.fromkeys(picture.OUTPUT),
        "picture_status": "not a picture",
        "picture_bytes": 6,
    }
    assert found[uid_of(2)]["picture_status"] == "ok"
    assert set(found[uid_of(3)].values()) == {None}
    assert facts["counts"]["invalid"] == {"no picture": 1} and facts["counts"]["kept"] == 2
