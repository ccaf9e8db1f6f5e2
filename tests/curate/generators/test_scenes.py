"""Scenes: what is annotated is what is drawn, by a rule that is stated; the pictures are fixed; a slow statement agrees."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.generators import Category, Picture, scenes
from curate.generators._colours import ground_palette, luma, rooms, thing_colours, tint
from curate.generators._mask import fill_polygon
from curate.generators._shapes import MOST, shapes
from curate.generators._thing import TURNS, Numbers, cut, outline, size_steps
from curate.generators.scenes import GROUNDS, LABELS, PRESETS, TEXTURES, Config, Generator
from headwater.errors import UsageError
from tests.curate.generators import scene_plain

SMALL = Config(
    image_size=64,
    shapes=20,
    things_min=2,
    things_max=6,
    empty_share=0,
    size_min=0.15,
    size_max=0.65,
    area_min=12,
)


def preset(name: str, **changes: Any) -> Config:
    known = {item.name for item in dataclasses.fields(Config)}
    return Config(**{key: value for key, value in PRESETS[name].items() if key in known} | changes)


def paint(config: Config, seed: int, index: int, instance: int) -> Picture:
    generator = Generator(config, seed)
    return generator.painter().paint(generator.category(index), index, instance)


def digest(pictures: Iterator[Picture]) -> str:
    found = blake3()
    for picture in pictures:
        assert picture.labels is not None
        found.update(picture.pixels.tobytes())
        found.update(picture.labels.tobytes())
        for thing in picture.things:
            found.update(
                repr((thing.label, thing.box, thing.whole_area, sorted(thing.extra.items()))).encode()
            )
            for polygon in thing.polygons:
                found.update(polygon.astype("<f8").tobytes())
    return found.hexdigest()[:32]


DIGESTS = {
    "scenes-10k": "15912dbf8ac5293b3cff4285eaa07704",
    "scenes-100k": "396539fe0f9a2150b496bd7807fb213c",
    "scenes-crowd": "2d54f9efbd44898f43156b561da10d0a",
    "scenes-small": "9adb2de8f3ca0f7ce670ed1c0c7af6b9",
    "scenes-nano": "d383d0b1bb8791353bb149f4cbe633a0",
}


@pytest.mark.parametrize("name", PRESETS)
def test_pictures_are_fixed(name: str) -> None:
    generator = Generator(preset(name), 7)
    painter = generator.painter()
    pictures = (
        painter.paint(generator.category(i), i, n) for i, n in ((0, 0), (1, 5), (2, 1), (3, 0), (4, 99))
    )
    assert digest(pictures) == DIGESTS[name]


def test_categories_are_fixed() -> None:
    assert Generator(Config(), 0).category(12) == {
        "background": "flat",
        "ground_luma": 50,
        "ground_spread": 16,
        "ground_hue": 1135,
        "ground_shift": 142,
        "ground_saturation": 35,
        "cell": 160,
        "bands": 13,
        "lines": 42,
        "hue": 1512,
        "hue_spread": 142,
        "things_min": 4,
        "things_max": 11,
    }


@pytest.mark.parametrize("background", GROUNDS)
def test_slow_statement_of_every_ground(background: str) -> None:
    agree(dataclasses.replace(SMALL, background=background, image_size=50), 3)


@pytest.mark.parametrize("texture", (*TEXTURES, "class"))
def test_slow_statement_of_every_fill(texture: str) -> None:
    agree(dataclasses.replace(SMALL, texture=texture, background="flat", contrast=20), 1)


@pytest.mark.slow
def test_slow_statement_of_crowds() -> None:
    crowded = dataclasses.replace(SMALL, things_min=25, things_max=30, visible_min=0.7, image_size=64)
    large = dataclasses.replace(SMALL, image_size=224, size_min=0.7, size_max=1.0, shapes=254, things_max=2)
    left_out = [agree(crowded, index) for index in range(6)] + [agree(large, index) for index in range(2)]
    assert any(left_out)


def agree(config: Config, index: int) -> bool:
    """The painter's scene is that of the slow statement; whether a thing was left out."""
    generator = Generator(config, 11)
    style = generator.category(index)
    picture = generator.painter().paint(style, index, 2)
    told = scene_plain.scene(config, 11, style, index, 2)
    size = config.image_size
    order = [(x, y) for y in range(size) for x in range(size)]
    assert picture.pixels.reshape(-1, 3).tolist() == [list(told["rgb"][pixel]) for pixel in order]
    names = [0] + [thing["label"] + 1 for thing in told["things"]]
    assert picture.labels is not None
    assert picture.labels.ravel().tolist() == [names[told["owner"][pixel]] for pixel in order]
    assert len(picture.things) == len(told["things"])
    for number, (thing, plain) in enumerate(zip(picture.things, told["things"], strict=True), start=1):
        seen = [told["owner"][pixel] == number for pixel in order]
        assert thing.mask.ravel().tolist() == seen
        assert (thing.label, thing.whole_area) == (plain["label"], plain["inside"])
        assert thing.extra["visible_share"] == sum(seen) / plain["inside"]
        assert thing.extra["inside_share"] == plain["inside"] / plain["whole"]
    return len(told["things"]) < style["things_min"]


@st.composite
def configs(draw: st.DrawFn) -> Config:
    size = draw(st.integers(32, 96))
    sizes = sorted(draw(st.lists(st.floats(0.02, 1), min_size=2, max_size=2)))
    counts = sorted(draw(st.lists(st.integers(0, 12), min_size=2, max_size=2)))
    return Config(
        image_size=size,
        shapes=draw(st.sampled_from((1, 3, 20, 254))),
        things_min=counts[0],
        things_max=counts[1],
        empty_share=draw(st.sampled_from((0, 0.1, 1.0))),
        size_min=sizes[0],
        size_max=sizes[1],
        visible_min=draw(st.sampled_from((0, 0.25, 0.6, 1.0))),
        area_min=draw(st.sampled_from((1, 20, 200))),
        wobble=draw(st.sampled_from((0, 0.03, 0.3))),
        background=draw(st.sampled_from(("any", *GROUNDS))),
        texture=draw(st.sampled_from(("any", "class", *TEXTURES))),
        contrast=draw(st.integers(0, 100)),
    )


@settings(max_examples=60)
@given(configs(), st.integers(0, 2**63), st.integers(0, 10**7), st.integers(0, 10**6))
def test_annotations_are_what_is_seen(config: Config, seed: int, index: int, instance: int) -> None:
    picture = paint(config, seed, index, instance)
    labels = picture.labels
    assert (
        labels is not None
        and picture.pixels.shape == (*labels.shape, 3)
        and picture.pixels.flags.c_contiguous
    )
    union = np.zeros(labels.shape, dtype=np.int64)
    for order, thing in enumerate(picture.things):
        union += thing.mask
        assert thing.extra["order"] == order
        assert set(np.unique(labels[thing.mask])) == {thing.label + 1}
        x, y, width, height = thing.box
        window = thing.mask[y : y + height, x : x + width]
        area = int(window.sum())
        assert area == thing.mask.sum() and all(
            side.any() for side in (window[0], window[-1], window.T[0], window.T[-1])
        )
        assert thing.extra["size"] == ("small" if area < 1024 else "medium" if area < 9216 else "large")
        assert config.area_min <= area <= thing.whole_area
        assert thing.extra["visible_share"] == area / thing.whole_area
        assert area >= config.visible_min * thing.whole_area / thing.extra["inside_share"] - 1e-6
        filled = np.zeros(labels.shape, dtype=np.bool_)
        for polygon in thing.polygons:
            filled ^= fill_polygon((polygon * 65536).astype(np.int32), *labels.shape)
        assert np.array_equal(filled, thing.mask)
    assert np.array_equal(union, labels > 0)  # disjoint, and nothing else is labelled
    if config.empty_share == 1:
        assert not picture.things


def test_a_painter_remembers_nothing() -> None:
    generator = Generator(preset("scenes-nano", shapes=30, texture="any"), 1)
    wanted = [(i, n) for i in range(6) for n in (0, 3)]
    fresh = [digest(iter([generator.painter().paint(generator.category(i), i, n)])) for i, n in wanted]
    used = generator.painter()
    again = [digest(iter([used.paint(generator.category(i), i, n)])) for i, n in reversed(wanted)]
    assert again[::-1] == fresh and len(set(fresh)) == len(fresh)


def test_seed_index_instance_and_attempt_all_count() -> None:
    style = Generator(SMALL, 1).category(0)
    painter, other_seed = Generator(SMALL, 1).painter(), Generator(SMALL, 2).painter()
    found = [
        digest(iter([painter.paint(style, *place)]))
        for place in ((0, 0), (1, 0), (0, 1), (0, 0, 1), (0, 0, 0))
    ]
    assert found[0] == found[4]
    assert len({*found, digest(iter([other_seed.paint(style, 0, 0)]))}) == 5


def test_share_of_scenes_without_things_and_counts() -> None:
    config = preset(
        "scenes-nano",
        empty_share=0.25,
        image_size=48,
        size_min=0.17,
        size_max=0.33,
        area_min=4,
        visible_min=0.1,
    )
    generator = Generator(config, 3)
    painter = generator.painter()
    counts = []
    for i in range(40):
        style = generator.category(i)
        for n in range(20):
            things = painter.paint(style, i, n).things
            counts.append(len(things))
            assert len(things) <= style["things_max"] <= config.things_max
    assert abs(counts.count(0) / 800 - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 800)
    assert set(counts) == {0, 1, 2, 3}


def test_every_class_and_every_size_occur_in_the_first_preset() -> None:
    generator = Generator(Config(), 0)
    painter = generator.painter()
    things = [thing for i in range(60) for thing in painter.paint(generator.category(i), i, 0).things]
    assert {thing.label for thing in things} == set(range(20))
    sizes = [thing.extra["size"] for thing in things]
    assert all(sizes.count(name) > len(sizes) / 8 for name in ("small", "medium", "large"))


def test_styles_are_by_index_and_take_every_ground() -> None:
    generator = Generator(Config(), 5)
    styles = [generator.category(index) for index in range(60)]
    assert {style["background"] for style in styles} == set(GROUNDS)
    assert all(list(style) == list(scenes.CATEGORY) for style in styles)
    assert generator.category(7) == styles[7] != styles[8]
    other = Generator(Config(background="flat", size_max=0.1), 5).category(7)
    assert other == styles[7] | {"background": "flat"}
    assert all(generator.cost(style) > 0 for style in styles)
    more = styles[0] | {"things_min": 12, "things_max": 12}
    assert generator.cost(more) > generator.cost(styles[0] | {"things_min": 1, "things_max": 1})


def test_perturbed_styles_differ_and_can_be_drawn() -> None:
    generator = Generator(SMALL, 5)
    base = generator.category(0)
    found = [generator.perturbed(base, index, 0.1) for index in range(30)]
    assert len({tuple(style.values()) for style in found}) == 30
    assert all(style["background"] == base["background"] for style in found)
    painter = generator.painter()
    assert len({digest(iter([painter.paint(style, i, 0)])) for i, style in enumerate(found)}) == 30


def test_labels() -> None:
    names = LABELS(Config(shapes=MOST))
    assert len(names) == len(set(names)) == MOST
    assert LABELS(preset("scenes-nano")) == ["disc", "star-5", "triangle"] == names[:3]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 0),
        ("image_size", 10**6),
        ("image_size", 64.0),
        ("shapes", 0),
        ("shapes", 255),
        ("things_max", -1),
        ("things_min", 13),
        ("things_max", 201),
        ("empty_share", 1.01),
        ("empty_share", math.nan),
        ("size_min", 0.009),
        ("size_min", 0.48),
        ("size_max", 1.1),
        ("visible_min", -0.1),
        ("visible_min", math.inf),
        ("area_min", 0),
        ("wobble", 0.31),
        ("contrast", 101),
        ("contrast", True),
        ("background", "plaid"),
        ("texture", "tartan"),
    ],
)
def test_bad_parameters_are_named(field: str, value: Any) -> None:
    with pytest.raises(UsageError, match=field):
        Generator(Config(**{field: value}), 0)


def test_sizes_are_spread_by_their_logarithm() -> None:
    steps = size_steps(8 << 16, 128 << 16)
    assert (steps[0], steps[-1], len(steps)) == (8 << 16, 128 << 16, 33)
    ratios = [b / a for a, b in zip(steps, steps[1:], strict=False)]
    assert max(abs(ratio - 16 ** (1 / 32)) for ratio in ratios) < 1e-4
    assert size_steps(655360, 655360) == [655360] * 33


@given(st.integers(-3000, 3000), st.integers(0, 255), st.integers(0, 255))
def test_a_tint_has_its_brightness(hue: int, saturation: int, brightness: int) -> None:
    colour = tint(hue, saturation, brightness)
    assert all(0 <= part <= 255 for part in colour)
    assert abs(luma(colour) - brightness) <= 3
    assert colour == tint(hue + 1536, saturation, brightness)


def test_things_stand_out_from_the_ground() -> None:
    generator = Generator(Config(), 9)
    for index in range(150):
        style = generator.category(index)
        ground = [luma(tuple(colour)) for colour in ground_palette(style).tolist()]
        lines = thing_colours(style, 40, Numbers(index)).tolist()
        fill, rim = [luma(tuple(colour)) for colour in lines[:255]], luma(tuple(lines[255]))
        assert min(fill) >= max(ground) + 34 or max(fill) <= min(ground) - 34
        assert min(abs(tone - rim) for tone in fill) >= 12


def test_no_room_for_contrast_takes_the_further_end() -> None:
    style: Category = Generator(Config(), 0).category(0)
    assert rooms(style | {"ground_luma": 128, "ground_spread": 20}, 100) == [(231, 255)]
    assert rooms(style | {"ground_luma": 150, "ground_spread": 20}, 100) == [(0, 24)]
    assert len(rooms(style | {"ground_luma": 128, "ground_spread": 20}, 40)) == 2


def test_shapes_differ_however_they_are_turned() -> None:
    """At equal area and with the mildest stretch, no two of the first twenty-one cover each other beyond 88 %."""
    first = shapes(21)
    masks = []
    for shape in first:
        area = cut(outline(shape, 1 << 22, shape.stretch[0], 0, (1, 0, 0))).pixels
        radius = int((1 << 22) * math.sqrt(1600 / area)) >> 1
        masks.append(
            [
                on_canvas(outline(shape, radius * 2, shape.stretch[0], turn, (1, 0, 0)))
                for turn in range(0, TURNS, 16)
            ]
        )
    for i, mine in enumerate(masks):
        stack = np.array(mine).reshape(len(mine), -1)
        for j in range(i):
            other = masks[j][0].ravel()
            both, either = (stack & other).sum(axis=1), (stack | other).sum(axis=1)
            assert (both / either).max() < 0.88, (first[i].name, first[j].name)


def on_canvas(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Mask of an outline, its middle of mass in the middle of 128 pixels."""
    stencil = cut(points)
    rows, columns = np.nonzero(stencil.mask)
    canvas = np.zeros((160, 160), dtype=np.bool_)
    canvas[rows - round(rows.mean()) + 80, columns - round(columns.mean()) + 80] = True
    return canvas
