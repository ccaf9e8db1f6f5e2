"""The contour kernel against a plain statement of it and Pillow's lines, pixel by pixel; its tables and its random numbers."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from curate.generators import _random
from curate.generators._trig import tables
from tests.curate.generators import contour_plain as plain

pytest.importorskip("numba")

from curate.generators._contour import LIMIT_Q16, ContourPainter, reach_q16
from curate.generators._contour_kernel import REACH, segment_table
from curate.generators._noise import ENTRIES, GRADIENTS, quantiles

ONE = 1 << 16
ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "indexed-stream.md"
TRIG = "54aecac19e4fcb112df5cbc6ca8373c5f85be6a4702b01eff6bf7500456f7ff3"
NOISE = "224214db05da93fb200e46450fc9aa54aa6386f6d3fd5c147851731c30ab6579"


def atoms(size: int, most_p: int = 30) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments of `draw`: from atoms inside the picture to ones far off it, short segments and very long ones."""
    centre = st.integers(-size * ONE, 2 * size * ONE)
    return st.fixed_dictionaries(
        {
            "vertices": st.integers(1, 70),
            "orbits": st.integers(1, 6),
            "p_q16": st.integers(0, most_p * ONE),
            "w_q16": st.integers(0, 5 * ONE),
            "radius_q16": st.integers(0, 2 * size * ONE),
            "oval_x_q16": st.integers(ONE, 2 * ONE),
            "oval_y_q16": st.integers(ONE, 2 * ONE),
            "n1": st.integers(0, 20),
            "n2": st.integers(0, 20),
            "centre_x_q16": centre,
            "centre_y_q16": centre,
            "key": st.integers(0, 2**64 - 1),
            "noise_factor": st.integers(1, 2),
            "grey_max": st.sampled_from([255, 256, 0, 65_535]),
            "grey": st.sampled_from([None, None, 0, 200, 255]),
        }
    )


ATOM: dict[str, Any] = {
    "vertices": 337, "orbits": 146, "p_q16": 222_000, "w_q16": 5_000, "radius_q16": 26 * ONE, "oval_x_q16": 115_000,
    "oval_y_q16": 96_000, "n1": 3, "n2": 15, "centre_x_q16": 214 * ONE, "centre_y_q16": 388 * ONE + 32_768, "key": 5,
}  # fmt: skip
DIGEST = "dbfe57f0b6707bc7c8ed79f321d7d1246f87bdfc93cb33df70dc3bc6d58845e2"  # of the grey bytes of ATOM alone


@settings(max_examples=120, deadline=None)
@given(data=st.data(), size=st.integers(1, 60))
def test_pixels_are_those_of_the_plain_statement_and_of_pillows_lines(data: st.DataObject, size: int) -> None:
    painter = ContourPainter(size)
    painter.clear(7)
    want = np.full((size, size), 7, dtype=np.uint8)
    for atom in data.draw(
        st.lists(atoms(size), min_size=1, max_size=3)
    ):  # the later ones over the earlier ones
        first, drawn = plain.orbits(**atom)
        want = plain.draw(want, drawn)
        painter.draw(**atom, outline=True)
        assert np.array_equal(painter.pixels, want)
        assert painter.first.tolist() == [list(point) for point in first]
        assert painter.last.tolist() == [list(point) for point in drawn[-1][1]]
        assert painter.first.dtype == painter.last.dtype == np.int32


def test_the_table_of_short_segments_holds_pillows_lines() -> None:
    size, middle = 2 * REACH + 3, REACH + 1
    table = segment_table(size).reshape(2 * REACH + 1, 2 * REACH + 1, REACH)
    for dx in range(-REACH, REACH + 1):
        for dy in range(-REACH, REACH + 1):
            image = Image.new("L", (size, size))
            end = middle + dx, middle + dy
            ImageDraw.Draw(image).line([(middle, middle), end], fill=1)
            flat = np.array(image).ravel()
            if dx or dy:
                flat[end[1] * size + end[0]] = 0  # the end belongs to the next segment
            row = table[dx + REACH, dy + REACH] + middle * size + middle
            assert set(row.tolist()) == set(np.flatnonzero(flat).tolist())


def test_a_large_picture_and_lines_of_every_length() -> None:
    # from wholly inside to crossing the frame; lines from 1 to about 350 pixels
    centre = {"centre_x_q16": 150 * ONE, "centre_y_q16": 140 * ONE}
    for vertices, radius in ((5, 60), (7, 120), (24, 50), (90, 80), (1000, 20)):
        atom = ATOM | centre | {"vertices": vertices, "radius_q16": radius * ONE, "orbits": 12}
        painter = ContourPainter(300)
        painter.draw(**atom)
        want = plain.draw(np.zeros((300, 300), dtype=np.uint8), plain.orbits(**atom)[1])
        assert np.array_equal(painter.pixels, want) and want.any()


@settings(max_examples=60, deadline=None)
@given(
    atom=atoms(64),
    window=st.tuples(st.integers(0, 63), st.integers(0, 63), st.integers(0, 64), st.integers(0, 64)),
)
def test_a_window_has_the_pixels_of_the_whole(
    atom: dict[str, Any], window: tuple[int, int, int, int]
) -> None:
    whole, part = ContourPainter(64), ContourPainter(64)
    whole.draw(**atom)
    part.draw(**atom, window=window)
    top, left, height, width = window
    inside = np.s_[top : top + height, left : left + width]
    assert np.array_equal(part.pixels[inside], whole.pixels[inside])
    part.pixels[inside] = 0
    assert not (part.pixels & ~whole.pixels).any()  # outside, nothing that is not there


def test_what_was_drawn_before_never_matters() -> None:
    used = ContourPainter(128)
    for vertices in (1000, 3, 65, 64, 63):
        used.clear(9)
        used.draw(**ATOM | {"vertices": vertices, "p_q16": 3 * ONE, "grey": 30}, outline=True)
        fresh = ContourPainter(128)
        used.clear(0)
        for painter in (used, fresh):
            painter.draw(**ATOM | {"vertices": 100})
        assert np.array_equal(used.pixels, fresh.pixels)


def test_digest_of_a_picture() -> None:
    painter = ContourPainter(512)
    painter.draw(**ATOM)
    digest = hashlib.sha256(painter.pixels.tobytes()).hexdigest()
    assert digest == DIGEST
    assert painter.pixels.shape == (512, 512) and painter.pixels.flags["C_CONTIGUOUS"]


@pytest.mark.slow
def test_a_machine_without_vectors_draws_the_same(tmp_path: Path) -> None:
    code = (
        "import hashlib; from tests.curate.generators.test_contour import ATOM, ContourPainter as P; p = P(512); p.draw(**ATOM);"
        "print(hashlib.sha256(p.pixels.tobytes()).hexdigest())"
    )
    plainest = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_LOOP_VECTORIZE": "0"}
    env = os.environ | plainest | {"NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == DIGEST


def test_reach_bounds_every_vertex() -> None:
    atom = ATOM | {"noise_factor": 2}
    painter = ContourPainter(1)
    painter.draw(**atom, outline=True)
    reach = reach_q16(
        orbits=146, p_q16=222_000, w_q16=5_000, radius_q16=26 * ONE, oval_q16=115_000, noise_factor=2
    )
    assert np.abs(painter.last - [ATOM["centre_x_q16"], ATOM["centre_y_q16"]]).max() < reach < LIMIT_Q16


# --- tables


@pytest.mark.parametrize("vertices", [1, 2, 3, 7, 64, 200, 337, 997, 1000])
def test_sines_and_cosines_are_the_nearest_integers(vertices: int) -> None:
    cosines, sines = tables(vertices)
    assert cosines.dtype == sines.dtype == np.int32 and not cosines.flags.writeable
    for v in range(vertices):
        # a float64 cosine is within 2e-16 of the true one here: 2e-7 of a unit
        assert abs(int(cosines[v]) - math.cos(2 * math.pi * v / vertices) * 2**30) <= 0.5 + 1e-5
        assert abs(int(sines[v]) - math.sin(2 * math.pi * v / vertices) * 2**30) <= 0.5 + 1e-5
    # the symmetries of a circle, which only rounding to the nearest keeps
    assert np.array_equal(cosines[1:], cosines[:0:-1]) and np.array_equal(sines[1:], -sines[:0:-1])
    if vertices % 4 == 0:
        assert np.array_equal(np.roll(cosines, vertices // 4), sines)


def test_digest_of_the_tables() -> None:
    both = hashlib.sha256()
    for vertices in range(200, 1001):
        for table in tables(vertices):
            both.update(table.astype("<i4").tobytes())
    assert both.hexdigest() == TRIG
    assert hashlib.sha256(quantiles().astype("<i4").tobytes()).hexdigest() == NOISE


def test_the_noise_table_is_that_of_the_document() -> None:
    assert quantiles().tolist() == plain.noise_table()


def test_the_noise_table_is_the_marginal_of_gradient_noise_at_random_points() -> None:
    numbers = np.random.default_rng(4).uniform(0, 10_000, 400_000)
    cell, t = numbers.astype(int), numbers % 1
    gradient = np.array(GRADIENTS)
    left, right = gradient[cell % 256] * t, gradient[(cell + 1) % 256] * (t - 1)
    values = np.sort(0.4 * (left + t**3 * (t * (t * 6 - 15) + 10) * (right - left)))
    table = quantiles() / 65_536
    assert table.shape == (ENTRIES,) and (np.diff(table) >= 0).all() and not quantiles().flags.writeable
    sampled = values[((np.arange(ENTRIES) + 0.5) / ENTRIES * values.size).astype(int)]
    # shares below a value: 400,000 samples know them to 0.0008 at one sigma; Kolmogorov's bound at 1e-6 is 2.7 / sqrt(n)
    shares = np.searchsorted(values, table) / values.size
    assert np.abs(shares - (np.arange(ENTRIES) + 0.5) / ENTRIES).max() < 2.7 / math.sqrt(values.size)
    assert abs(table.mean() - values.mean()) < 0.003 and abs(table.std() - values.std()) < 0.002
    assert np.abs(table - sampled).max() < 0.02
    assert [GRADIENTS.count(g) for g in range(1, 9)] == [16] * 8 and GRADIENTS.count(-1) == 128


# --- random numbers


def test_the_stream_of_a_key_is_splitmix64() -> None:
    # first outputs for seed 1234567 of the published generator
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [_random.number(1234567, counter) for counter in range(1, 6)] == published


@given(st.integers(0, 2**64 - 1))
def test_the_compiled_mix_is_the_plain_one(value: int) -> None:
    from curate.generators._contour_kernel import mix64

    assert int(mix64(np.uint64(value))) == _random.mix64(value) == plain.mix64(value)


def test_keys_of_pictures_all_differ() -> None:
    keys = {
        _random.picture_key(seed, category, instance, attempt)
        for seed in (0, 1, 2**63)
        for category in range(20)
        for instance in range(20)
        for attempt in range(3)
    }
    assert len(keys) == 3 * 20 * 20 * 3
    assert _random.picture_key(1, 2, 3, 0) == 0x03294F527E4B466D


def test_draws_take_both_ends_and_every_value_alike() -> None:
    counts = np.zeros(7, dtype=int)
    for category in range(7000):
        draws = _random.Draws(5, category, "test")
        draws.bits(1)
        counts[draws.integer(-3, 3) + 3] += 1
    assert counts.min() > 850 and counts.max() < 1150  # 1000 +- 29
    assert _random.Draws(5, 0, "test").integer(4, 4) == 4
    assert 0 <= _random.Draws(5, 0, "test").fixed(0, 2**63) <= 2**63


def test_draws_depend_on_seed_category_salt_and_order_only() -> None:
    def some(seed: int, category: int, salt: str) -> list[int]:
        draws = _random.Draws(seed, category, salt)
        return [draws.integer(0, 10**9), draws.bits(64), draws.fixed(0, 1 << 40)]

    base = some(1, 2, "a")
    assert base == some(1, 2, "a")
    for other in (some(2, 2, "a"), some(1, 3, "a"), some(1, 2, "b"), some(1, 2, "a\0"), some(2, 1, "a")):
        assert not set(base) & set(other)


def test_draws_refuse_an_empty_range() -> None:
    draws = _random.Draws(0, 0, "test")
    with pytest.raises(ValueError, match="no integers"):
        draws.integer(3, 2)
    with pytest.raises(ValueError, match="0 bits"):
        draws.bits(0)
