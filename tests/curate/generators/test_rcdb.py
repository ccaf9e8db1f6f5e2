"""RCDB: its parameters' laws, its pictures pixel for pixel, and bad parameters by name."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from blake3 import blake3

from curate.generators import Category, rcdb
from curate.generators._contour import ContourPainter
from curate.generators._random import below, fold, picture_key, salt_key
from curate.generators.rcdb import CATEGORY, PRESETS, Config, Generator, vertex_law
from headwater.errors import UsageError
from tests.curate.generators import radial_plain

TINY = Config(vertex_num=12, image_size=61, start_pos=50)


def stated(config: Config, seed: int, category: Category, index: int, instance: int) -> npt.NDArray[np.uint8]:
    """A picture from the module's words."""
    key = fold(picture_key(seed, index, instance, 0), salt_key("rcdb"))
    radius = config.radius_min + below(key, 1, 101)
    most = round(config.oval_rate * 65536)
    oval = 65536 + below(key, 2, most - 65535), 65536 + below(key, 3, most - 65535)
    row, column = (
        config.image_size + below(key, counter, 2 * config.start_pos + 1) - config.start_pos
        for counter in (4, 5)
    )
    picture = np.full((config.image_size, config.image_size), 255, dtype=np.uint8)
    for grey, points in radial_plain.orbits(
        vertices=category["vertex_num"],
        count=category["line_num"],
        p=int(category["perlin"] * 65536),
        w=int(category["line_width"] * 65536),
        radius=radius * 65536,
        oval=oval,
        centre=(column * 32768, row * 32768),
        key=fold(key, 6),
        grey_max=256,
    ):
        for x, y in radial_plain.line(points):
            if 0 <= x < config.image_size and 0 <= y < config.image_size:
                picture[y, x] = grey
    return picture


@pytest.mark.parametrize(
    "config", [TINY, dataclasses.replace(TINY, perlin_min=1.25, radius_min=3, oval_rate=1.0)]
)
def test_pictures_are_the_stated_ones(config: Config) -> None:
    generator = Generator(config, 5)
    painter = generator.painter()
    lit = []
    for index in range(4):
        category = generator.category(index)
        for instance in (0, 7):
            expected = stated(config, 5, category, index, instance)
            pixels = painter.paint(category, index, instance).pixels
            np.testing.assert_array_equal(pixels, expected)
            lit.append((expected != 255).mean())
    assert max(lit) > 0.1


def test_the_pictures_of_the_preset_are_fixed() -> None:
    painted = blake3()
    generator = Generator(Config(), 0)
    painter = generator.painter()
    for index in (0, 1, 20_999):
        for instance in (0, 999):
            painted.update(painter.paint(generator.category(index), index, instance).pixels.tobytes())
    assert painted.hexdigest()[:32] == "c9f5128d723b718c88b8347aa3fb7039"


def test_the_categories_are_fixed() -> None:
    generator = Generator(Config(), 0)
    rows = [tuple(generator.category(index)[name] for name in CATEGORY) for index in range(3)]
    assert rows == [
        (51, 193, 3.4757080078125, 0.058929443359375),
        (7, 133, 2.2417144775390625, 0.03070068359375),
        (50, 76, 2.0964813232421875, 0.03204345703125),
    ]


def test_a_picture_does_not_depend_on_what_was_painted_before() -> None:
    generator = Generator(Config(), 3)
    used = generator.painter()
    for index in range(5):
        used.paint(generator.category(index), index, 1)
    picture = used.paint(generator.category(2), 2, 4).pixels
    assert picture.shape == (512, 512)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    fresh = generator.painter().paint(generator.category(2), 2, 4).pixels
    np.testing.assert_array_equal(picture, fresh)
    for other in (
        used.paint(generator.category(2), 2, 5),
        used.paint(generator.category(2), 2, 4, attempt=1),
    ):
        assert (other.pixels != fresh).any()


@pytest.mark.parametrize(
    "window", [(100, 200, 64, 90), (400, 0, 200, 30), (0, 0, 512, 512), (300, 511, 1, 1)]
)
def test_a_window_holds_the_same_pixels(window: tuple[int, int, int, int]) -> None:
    generator = Generator(Config(), 3)
    top, left, height, width = window
    part = np.s_[top : top + height, left : left + width]
    for index in range(4):
        category = generator.category(index)
        whole = generator.painter().paint(category, index, 0).pixels
        painter: Any = generator.painter()
        np.testing.assert_array_equal(
            painter.paint(category, index, 0, window=window).pixels[part], whole[part]
        )


def test_the_law_of_the_vertices_is_the_scripts() -> None:
    """int(expovariate(1 / 100)), drawn again until 3..200: exp(-v / 100), cut off and scaled."""
    law = vertex_law(Fraction(100), 200)
    assert len(law) == 198
    assert law[-1] == 1 << 48
    shares = np.diff([0, *law]) / 2**48
    weights = np.exp(-np.arange(3, 201) / 100)
    np.testing.assert_allclose(shares, weights / weights.sum(), rtol=1e-11)
    generator = Generator(Config(), 1)
    drawn = [generator.category(index)["vertex_num"] for index in range(20_000)]
    assert min(drawn) == 3
    assert max(drawn) == 200
    bins = [3, 10, 25, 50, 75, 100, 130, 165, 201]
    observed = np.histogram(drawn, bins)[0]
    expected = [20_000 * shares[low - 3 : high - 3].sum() for low, high in zip(bins, bins[1:], strict=False)]
    assert ((observed - expected) ** 2 / expected).sum() < 24.3  # chi-square, 7 degrees: 0.1 %


def test_the_law_does_not_depend_on_the_decimal_context() -> None:
    import decimal

    expected = vertex_law(Fraction(37, 3), 90)
    vertex_law.cache_clear()
    with decimal.localcontext(decimal.Context(prec=3, rounding=decimal.ROUND_UP)):
        assert vertex_law(Fraction(37, 3), 90) == expected


def test_ranges_of_the_parameters() -> None:
    config = Config(vertex_num=5, line_num_min=4, perlin_min=0.5, line_width=2)
    generator = Generator(config, 0)
    rows = [generator.category(index) for index in range(3000)]
    assert {row["vertex_num"] for row in rows} == {3, 4, 5}
    assert {row["line_num"] for row in rows} == set(range(4, 204))
    for name, low, high in (("perlin", 0.5, 4.5), ("line_width", 0, 2)):
        values = np.array([row[name] for row in rows])
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
        assert (values * 65536 == np.round(values * 65536)).all()
        assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low)


def test_orbits_grow_as_the_scripts_do() -> None:
    """Mean step w + p, scatter 2 p times the noise's 0.3285 (spec of the noise), for x and for y apart."""
    painter = ContourPainter(64)
    category: Category = {"vertex_num": 2000, "line_num": 9, "perlin": 3.0, "line_width": 0.5}
    painter.draw(
        **rcdb.shape(category), radius_q16=0, oval_x_q16=65536, oval_y_q16=65536, centre_x_q16=0, centre_y_q16=0,
        key=9, outline=True,
    )  # fmt: skip
    angles = 2 * math.pi * np.arange(2000) / 2000
    for axis, share in ((0, np.cos(angles)), (1, np.sin(angles))):
        clear = abs(share) > 0.1
        steps = painter.last[clear, axis] / 65536 / share[clear]
        assert abs(steps.mean() - 9 * 3.5) < 0.5
        assert abs(steps.std() - 3 * 6 * 0.3285) < 0.4


def test_centres_and_radii_are_drawn_for_every_picture() -> None:
    """A single orbit without noise is the start ellipse: its box tells centre, radius and factors."""
    config = Config(vertex_num=200, line_num_min=1, image_size=1024, radius_min=20)
    painter = Generator(config, 0).painter()
    category: Category = {"vertex_num": 200, "line_num": 1, "perlin": 0.0, "line_width": 0.0}
    found = []
    for instance in range(300):
        rows, columns = np.nonzero(painter.paint(category, 0, instance).pixels != 255)
        if len(rows):  # one grey level in 257 or so is the ground's
            found.append(
                (
                    np.ptp(columns) / 2,
                    np.ptp(rows) / 2,
                    columns.min() + columns.max(),
                    rows.min() + rows.max(),
                )
            )
    half_x, half_y, x, y = np.array(found).T
    assert len(found) > 290
    for half in (half_x, half_y):
        assert 20 <= half.min() < 35
        assert 180 < half.max() <= 241
    for centre in (x, y):
        assert 1024 - 405 <= centre.min() < 1024 - 370
        assert 1024 + 370 < centre.max() <= 1024 + 405
    assert len({tuple(one) for one in found}) > 285


def test_cost_and_perturbed_classes() -> None:
    generator = Generator(Config(), 0)
    base = generator.category(0)
    assert generator.cost(base) == base["vertex_num"] * base["line_num"]
    painter = generator.painter()
    seen = set()
    for index in range(50):
        record = generator.perturbed(base, index, 0.1)
        assert list(record) == list(CATEGORY)
        for name, value in record.items():
            assert abs(value - base[name]) <= 0.1 * abs(base[name]) + 1e-12
        seen.add(tuple(record.values()))
        painter.paint(record, index, 0)
    assert len(seen) == 50


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("vertex_num", 2, "--vertex-num 2 is not between"),
        ("vertex_num", 10**9, "--vertex-num 1000000000 is not between"),
        ("line_num_min", 0, "--line-num-min 0"),
        ("line_num_min", 30_000, "could reach"),
        ("perlin_min", math.nan, "--perlin-min nan is not a finite number"),
        ("perlin_min", -0.5, "--perlin-min -0.5"),
        ("perlin_min", 1000.0, "could reach"),
        ("line_width", math.inf, "--line-width inf is not a finite number"),
        ("radius_min", -1, "--radius-min -1"),
        ("radius_min", 2.5, "--radius-min 2.5 is not a whole number"),
        ("oval_rate", 0.5, "--oval-rate 0.5"),
        ("start_pos", -1, "--start-pos -1"),
        ("image_size", 0, "--image-size 0"),
        ("image_size", True, "--image-size True is not a whole number"),
        ("image_size", 10**6, "--image-size 1000000"),
    ],
)
def test_bad_parameters_are_named(field: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Generator(dataclasses.replace(Config(), **{field: value}), 0)


def test_bad_seeds_and_records_are_named() -> None:
    with pytest.raises(UsageError, match="--seed -1"):
        Generator(Config(), -1)
    generator = Generator(Config(), 0)
    for name, value, words in (
        ("vertex_num", 2, "vertex_num 2"),
        ("line_num", None, "line_num None"),
        ("perlin", math.nan, "perlin nan"),
        ("line_num", 60_000, "could reach"),
    ):
        with pytest.raises(UsageError, match=words):
            generator.painter().paint({**generator.category(0), name: value}, 0, 0)


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_can_be_drawn(name: str) -> None:
    preset = dict(PRESETS[name])
    classes = preset.pop("classes")
    assert preset.pop("instances") >= 1
    generator = Generator(Config(**preset), 0)
    picture = generator.painter().paint(generator.category(classes - 1), classes - 1, 0)
    assert picture.labels is None
    assert picture.things == []
