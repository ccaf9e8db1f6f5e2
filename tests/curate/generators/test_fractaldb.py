"""FractalDB: pixel-equal to a plain statement, systems that fill the frame, pictures fixed by digest."""

from __future__ import annotations

import hashlib
import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.generators import Category, _fractal, fractaldb, fractaldb_colour
from curate.generators._fractal_painter import Searcher, palette
from curate.generators._perturb import perturbed_generator
from curate.generators._random import Draws, number
from curate.generators._trig import tables
from curate.generators.fractaldb import NAMES, PRESETS, Config, Generator
from headwater.errors import UsageError
from tests.curate.generators import fractal_plain as plain

SMALL = Config(image_size=40, pad_size=4, iteration=600)
EMPTY: Category = {"maps": 1, "fill": 0.0, "tries": 0, **dict.fromkeys(NAMES, 0.0)}


def config_of(preset: str, **values: Any) -> Config:
    fields = {
        k: v for k, v in PRESETS[preset].items() if k not in ("classes", "instances", "perturb", "base")
    }
    return Config(**{**fields, **values})


def system(*maps: tuple[float, ...]) -> Category:
    record = {**EMPTY, "maps": len(maps)}
    for j, values in enumerate(maps):
        record.update({f"{letter}{j + 1}": value for letter, value in zip("abcdef", values, strict=True)})
    return record


SIERPINSKI = system((0.5, 0, 0, 0.5, 0, 0), (0.5, 0, 0, 0.5, 0.5, 0), (0.5, 0, 0, 0.5, 0.25, 0.5))
WILD = system((1.9, 0.3, -0.2, -2.0, 1, 2), (0.5, -0.5, 0.25, 0.5, -1, 0))  # escapes again and again
FLAT = system((0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0))  # one point, no areas
LINE = system((0.5, 0, 0, 0, 0, 0.5), (0.5, 0, 0, 0, 1, 0.5))


def check(
    config: Config, category: Category, instance: int, attempt: int = 0, *, colour: bool = False
) -> None:
    module = fractaldb_colour if colour else fractaldb
    pixels = module.Generator(config, 5).painter().paint(category, 3, instance, attempt).pixels
    wanted = plain.picture(
        category, 5, 3, instance, attempt, size=config.image_size, pad=config.pad_size, points=config.iteration,
        draw_type=config.draw_type, step=round(config.weight * 65536), flips=config.flips,
        palette=[tuple(row) for row in palette().tolist()] if colour else [(127,)],
    )  # fmt: skip
    assert np.array_equal(pixels, np.array(wanted, np.uint8).reshape(pixels.shape))


@pytest.mark.parametrize("category", [SIERPINSKI, WILD, FLAT, LINE])
@pytest.mark.parametrize("instance", [0, 1, 13, 24, 27, 59, 99, 100])
def test_pictures_are_what_the_definition_says(category: Category, instance: int) -> None:
    check(SMALL, category, instance)


@pytest.mark.parametrize("draw_type", ["patch", "patch-one", "patch-full", "point"])
@pytest.mark.parametrize("colour", [False, True])
def test_draw_types(draw_type: str, colour: bool) -> None:
    check(replace(SMALL, draw_type=draw_type), SIERPINSKI, 2, colour=colour)


@given(data=st.data(), maps=st.integers(1, 7), instance=st.integers(0, 10**6), attempt=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_pictures_of_any_system(data: st.DataObject, maps: int, instance: int, attempt: int) -> None:
    values = data.draw(st.lists(st.integers(-131072, 131072), min_size=6 * maps, max_size=6 * maps))
    record = {**EMPTY, "maps": maps, **{n: v / 65536 for n, v in zip(NAMES, values, strict=False)}}
    check(replace(SMALL, iteration=data.draw(st.integers(2, 40)), weight=0.5), record, instance, attempt)


def test_the_largest_numbers_do_not_overflow() -> None:
    """Parameters of 2, weighted by 2, on an orbit that runs to the limit again and again."""
    record = system((2.0,) * 6, (2.0, -2.0, -2.0, 2.0, -2.0, 2.0), (-2.0, 2.0, 2.0, 2.0, 2.0, -2.0))
    config = replace(SMALL, weight=0.5)
    for instance in range(25):
        check(config, record, instance)
    key = np.uint64(1)
    maps, slots = np.zeros(64, np.int64), np.zeros(_fractal.SLOTS, np.uint8)
    xs, ys, box = np.zeros(600, np.int64), np.zeros(600, np.int64), np.zeros(4, np.int64)
    _fractal.build(fractaldb.parameters(record), 3, np.full(6, 131072), maps, slots)
    assert _fractal.walk(maps, slots, key, 600, xs, ys, box) > 50
    assert max(abs(xs).max(), abs(ys).max()) > 100 << 28  # it does go far
    assert [xs.min(), xs.max(), ys.min(), ys.max()] == box.tolist()


def test_points_are_those_of_the_scripts_floats() -> None:
    """The script's formula in doubles, with our choices of maps: within 1e-6 everywhere, so hardly a pixel differs."""
    slots, key = plain.chances(SIERPINSKI), 99
    path, escapes = plain.orbit(plain.matrices(SIERPINSKI, [65536] * 6), slots, key, 3000)
    x = y = 0.0
    for (p, q), j in zip(path[1:], plain.choices(slots, key), strict=False):
        a, b, c, d, e, f = (SIERPINSKI[f"{letter}{j + 1}"] for letter in "abcdef")
        x, y = a * x + b * y + e, c * x + d * y + f
        assert abs(p / 2**28 - x) < 1e-6 and abs(q / 2**28 - y) < 1e-6
    assert escapes == 0
    shares = np.bincount([j for _, j in zip(range(30_000), plain.choices(slots, key), strict=False)]) / 30_000
    assert np.abs(shares - 1 / 3).max() < 0.015


def test_instances_are_weights_then_flips_then_patches() -> None:
    config = Config()
    seen = [fractaldb.variation(i, 0, config) for i in range(100)]
    rows = [tuple(round(w / 65536, 3) for w in weights) for weights, _ in seen[:25]]
    published = {(1.0,) * 6} | {
        tuple(m if k == which else 1.0 for k in range(6)) for which in range(6) for m in (0.2, 0.6, 1.4, 1.8)
    }
    assert rows[0] == (1.0,) * 6 and set(rows) == published and len(rows) == len(published)
    assert [flip for _, flip in seen] == [0] * 25 + [1] * 25 + [2] * 25 + [3] * 25
    assert fractaldb.variation(100, 0, config)[1] == 0  # the same again, with other patches
    assert (
        fractaldb.variation(24, 1, config)[0].tolist() == [65536] * 6
    )  # a rejected one is followed by the next weight
    assert fractaldb.variation(7, 0, Config(weight=0.0, flips=False))[0].tolist() == [65536] * 6
    assert fractaldb.variation(7, 0, Config(weight=0.0))[1] == 3
    assert fractaldb.variation(7, 0, Config(flips=False, weight=0.0))[1] == 0


def test_colours_are_the_scripts() -> None:
    found = palette()
    for i in range(128):  # saturation and intensity 3/4; hue in sextants; cut to whole numbers
        hue = 6 * i / 128
        sextant, rest = int(hue), hue - int(hue)
        high, low = 0.75 * 255, 0.75 * 0.25 * 255
        fall, rise = 0.75 * (1 - 0.75 * rest) * 255, 0.75 * (1 - 0.75 * (1 - rest)) * 255
        wanted = [
            (low, rise, high),
            (low, high, fall),
            (rise, high, low),
            (high, fall, low),
            (high, low, rise),
            (fall, low, high),
        ]
        assert found[i].tolist() == [math.floor(v) for v in wanted[sextant]]


def test_colour_lights_the_same_pixels() -> None:
    category = Generator(SMALL, 1).category(0)
    grey = Generator(SMALL, 1).painter().paint(category, 0, 3).pixels
    colour = fractaldb_colour.Generator(SMALL, 1).painter().paint(category, 0, 3).pixels
    assert fractaldb_colour.Generator(SMALL, 1).category(0) == category
    assert np.array_equal(grey > 0, colour.max(axis=2) > 0)
    assert len(np.unique(colour.reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize("index", [0, 4])
def test_search_finds_the_first_candidate_that_fills_the_frame(index: int) -> None:
    """The stages only spare time: the script's frame alone decides the same for every candidate."""
    key, least = Draws(0, index, "fractaldb").bits(64), math.ceil(0.2 * 512 * 512)
    category = Generator(Config(), 0).category(index)
    searcher = Searcher(Config())
    xs, ys, box = np.zeros(100_000, np.int64), np.zeros(100_000, np.int64), np.zeros(4, np.int64)
    seen, maps, slots = (
        np.zeros(512 * 512, np.uint8),
        np.zeros(64, np.int64),
        np.zeros(_fractal.SLOTS, np.uint8),
    )
    filled = 0
    for place in range(400):
        record, orbit_key = plain.candidate(key, place, 2, 7)
        params = fractaldb.parameters({**EMPTY, **record})
        _fractal.build(params, record["maps"], np.full(6, 65536), maps, slots)
        whole = 0
        if _fractal.walk(maps, slots, np.uint64(orbit_key), 100_000, xs, ys, box) == 0:
            whole = _fractal.cover(xs, ys, 100_000, box, 512, 6, seen)
        staged = searcher.fill(params, record["maps"], orbit_key, least)
        assert staged == (whole if whole >= least else 0)
        if staged and not filled:
            assert category["tries"] == place + 1 and category["fill"] == whole / 512**2
            assert {**EMPTY, **record, "fill": category["fill"], "tries": place + 1} == category
        filled += staged > 0
    assert 2 <= filled <= 25  # about one in fifty


def test_cover_is_what_the_definition_says() -> None:
    for record, size, pad, points in (
        (SIERPINSKI, 33, 1, 390),
        (SIERPINSKI, 127, 1, 2000),
        (WILD, 64, 1, 900),
    ):
        maps, slots = np.zeros(64, np.int64), np.zeros(_fractal.SLOTS, np.uint8)
        xs, ys, box = np.zeros(points, np.int64), np.zeros(points, np.int64), np.zeros(4, np.int64)
        _fractal.build(fractaldb.parameters(record), record["maps"], np.full(6, 65536), maps, slots)
        escapes = _fractal.walk(maps, slots, np.uint64(8), points, xs, ys, box)
        hit = _fractal.cover(xs, ys, points, box, size, pad, np.zeros(size * size, np.uint8))
        assert plain.filled(record, 8, size, pad, points) == (0 if escapes else hit)


def test_categories_fill_what_was_asked() -> None:
    for rate in (0.05, 0.2, 0.24):
        generator = Generator(Config(rate=rate), 2)
        fills = [generator.category(i)["fill"] for i in range(3)]
        assert min(fills) >= rate
    low, high = Config(maps_min=3, maps_max=3), Generator(Config(maps_min=3, maps_max=3), 2).category(1)
    assert high["maps"] == 3 and low.rate == 0.2
    assert all(high[name] == 0 for name in NAMES[18:]) and all(high[name] != 0 for name in NAMES[:18])


@given(key=st.integers(0, 2**64 - 1), maps=st.integers(2, 7), share=st.floats(0.1, 0.95))
@settings(max_examples=60, deadline=None)
def test_contractive_systems(key: int, maps: int, share: float) -> None:
    """Singular values at most 1, their weighted sum near sigma, or as the law by the number of maps has it."""
    for sigma in (0.0, 0.2 + share * (3 * maps - 0.4)):
        params = np.zeros((7, 6), np.int64)
        _fractal.contractive_system(
            np.uint64(key), 5, maps, round(sigma * 2**20), *tables(_fractal.ANGLES), params
        )
        matrices = params[:maps, :4].reshape(maps, 2, 2) / 65536
        values = np.linalg.svd(matrices, compute_uv=False)
        assert values.max() <= 1 + 1e-4
        total = (values[:, 0] + 2 * values[:, 1]).sum()
        low, high = (sigma - 0.1, sigma + 0.1) if sigma else ((5 + maps) / 2, (6 + maps) / 2)
        assert low - 1e-3 <= total <= high + 1e-3
        assert np.abs(params[:maps, 4:]).max() <= 65536 and not params[maps:].any()


def test_contractive_systems_turn_every_way() -> None:
    params = np.zeros((7, 6), np.int64)
    signs, angles = [], []
    for k in range(400):
        _fractal.contractive_system(
            np.uint64(number(1, k + 1)), 1, 2, 4 << 20, *tables(_fractal.ANGLES), params
        )
        matrix = params[0, :4].reshape(2, 2) / 65536
        signs.append(np.linalg.det(matrix) > 0)
        angles.append(math.atan2(matrix[1, 0], matrix[0, 0]))
    assert 150 < sum(signs) < 250
    assert min(np.histogram(angles, 8, (-math.pi, math.pi))[0]) > 20  # 50 in each are expected


def test_one_shape_perturbed() -> None:
    base_generator = Generator(config_of("1p-frac"), 0)
    base = base_generator.category(0)
    generator = perturbed_generator(base_generator, 0, 0.1)
    found = [generator.category(i) for i in range(60)]
    assert len({tuple(record.values()) for record in found}) == 60
    for record in found:
        assert record["maps"] == 2 and record["fill"] >= 0.05 and record["tries"] == 0
        assert all(abs(record[n] - base[n]) <= 0.1 * abs(base[n]) + 1e-12 for n in NAMES)
        assert sum(record[n] != base[n] for n in NAMES[:12]) >= 10
    other = perturbed_generator(Generator(config_of("1p-frac"), 0), 0, 0.1)
    assert [other.category(i) for i in (59, 0)] == [found[59], found[0]]
    painter = generator.painter()
    pictures = [painter.paint(found[i], i, 0).pixels.copy() for i in (0, 1)]
    assert pictures[0].shape == (512, 512) and not np.array_equal(*pictures)


def test_presets() -> None:
    assert next(iter(PRESETS)) == "fractaldb-1k"
    assert (PRESETS["ofdb-21k"]["classes"], PRESETS["ofdb-21k"]["instances"]) == (21_000, 1)
    assert config_of("ofdb-1k") == config_of("fractaldb-1k") == Config()
    assert (PRESETS["1p-frac"]["perturb"], PRESETS["1p-frac"]["base"]) == (0.1, 0)


DIGESTS = {
    ("nano", 0, 0, 0): "b977554b8d0dc3f8 623b20fdc6adde49",
    ("nano", 0, 3, 30): "d4761985a2127d95 6464a30c9b1ff436",
    ("fractaldb-1k", 0, 0, 0): "0dbcb2f731e4b987 b67215c1bd27baa1",
    ("fractaldb-1k", 1, 20_999, 999): "af4cd8a570f2d1a4 b1e9a19cd2584eec",
    ("1p-frac", 0, 0, 0): "6a7329552dfd8cdf 8c1c1b5089accca3",
}


@pytest.mark.parametrize("case", DIGESTS, ids=str)
def test_digests(case: tuple[str, int, int, int]) -> None:
    preset, seed, index, instance = case
    for module, part in ((fractaldb, 0), (fractaldb_colour, 1)):
        generator = module.Generator(config_of(preset), seed)
        category = generator.category(index)
        pixels = generator.painter().paint(category, index, instance).pixels
        digest = hashlib.sha256(repr(sorted(category.items())).encode() + pixels.tobytes()).hexdigest()[:16]
        assert digest == DIGESTS[case].split()[part]


def test_used_and_travelled_generators_give_the_same() -> None:
    config = replace(SMALL, draw_type="point")
    first = Generator(config, 9)
    used = first.painter()
    for index in range(3):
        used.paint(first.category(index), index, 1)
    second = pickle.loads(pickle.dumps(first))  # its way to a worker process
    category = second.category(1)
    assert category == Generator(config, 9).category(1)
    wanted = Generator(config, 9).painter().paint(category, 1, 4).pixels
    assert np.array_equal(used.paint(category, 1, 4).pixels, wanted)
    assert first.cost(category) == 600


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"image_size": 15}, "image_size is 15"),
        ({"image_size": 20, "pad_size": 10}, "pad_size 10 leaves nothing"),
        ({"pad_size": 3}, "pad_size is 3"),
        ({"iteration": 1}, "iteration is 1"),
        ({"iteration": True}, "iteration is True"),
        ({"weight": 0.51}, "weight is 0.51"),
        ({"rate": math.nan}, "rate is nan"),
        ({"perturbed_rate": math.inf}, "perturbed_rate is inf"),
        ({"maps_min": 5, "maps_max": 4}, "maps_min 5 is above maps_max 4"),
        ({"maps_max": 8}, "maps_max is 8"),
        ({"sigma": 6.0, "sampling": "contractive"}, "sigma 6.0 is not within 0.2 to 5.8"),
        ({"draw_type": "dots"}, "draw_type is 'dots'"),
        ({"sampling": "normal"}, "sampling is 'normal'"),
    ],
)
def test_bad_parameters(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        Generator(Config(**values), 0)


def test_bad_records_and_hopeless_searches() -> None:
    painter = Generator(SMALL, 0).painter()
    for bad in (
        {"maps": 0},
        {"maps": 8},
        {"maps": True},
        {"maps": 2.0},
        {"a1": 2.01},
        {"f2": math.nan},
        {"c7": -math.inf},
    ):
        with pytest.raises(UsageError, match="fractal"):
            painter.paint({**SIERPINSKI, **bad}, 0, 0)
    with pytest.raises(UsageError, match="category -1 is negative"):
        Generator(SMALL, 0).category(-1)
    generator = Generator(Config(sampling="contractive", sigma=0.3, maps_max=2), 0)  # dust
    with pytest.raises(UsageError, match="none of 50,000 systems fills 0.2"):
        generator.category(0)
