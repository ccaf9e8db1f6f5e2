"""SegRCDB: pictures, masks and things against a slow statement over sets of pixels; laws, classes and bad parameters."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

from curate.generators import Picture, segrcdb
from curate.generators._mask import fill_polygon, mask_box
from curate.generators._random import below, fold, picture_key, salt_key
from curate.generators.segrcdb import CATEGORY, LABELS, PRESETS, Config, Generator
from headwater.errors import UsageError
from tests.curate.generators import radial_plain

TINY = Config(
    object_classes=4, instance_num=6, vertex_num=14, line_num_max=5, radius_max=9, image_size=45, start_pos=40
)
MODES = ["m1", "m2", "m3"]
DIGESTS = {
    "m1": "1cced377dd1e9a3f7eb658f270de5c6d",
    "m2": "521cc28c2641488d7efc43fc538d8a06",
    "m3": "d703f4df8deb3a0234e65828ae0ef4e9",
}


def with_mode(mode: str, config: Config = TINY, **more: Any) -> Config:
    return dataclasses.replace(config, mode=mode, **more)


def stated(
    generator: Generator, index: int, instance: int
) -> tuple[list[int], dict[Any, int], dict[Any, int], list[int]]:
    """Classes of the objects, grey levels by pixel, objects by pixel, and pixels of each object, from the module's words."""
    config = generator.config
    key = fold(picture_key(generator.seed, index, instance, 0), salt_key("segrcdb"))
    place = below(key, 1, config.instance_num)
    frame = {(x, y) for x in range(config.image_size) for y in range(config.image_size)}
    greys: dict[Any, int] = {}
    owners: dict[Any, int] = {}
    classes, areas = [], []
    for number in range(config.instance_num):
        one = fold(key, 2 + number)
        label = index if number == place else below(one, 1, config.object_classes)
        row, column = (
            config.image_size + below(one, counter, 2 * config.start_pos + 1) - config.start_pos
            for counter in (2, 3)
        )
        category = generator.category(label)
        orbits = radial_plain.orbits(
            vertices=category["vertex_num"],
            count=category["line_num"],
            p=int(category["perlin"] * 65536),
            w=int(category["line_width"] * 65536),
            radius=category["radius"] * 65536,
            oval=(int(category["oval_x"] * 65536), int(category["oval_y"] * 65536)),
            centre=(column * 32768, row * 32768),
            key=fold(one, 4),
            grey_max=255,
        )
        lines = [radial_plain.line(points) & frame for _, points in orbits]
        for (grey, _), pixels in zip(orbits, lines, strict=True):
            greys.update(dict.fromkeys(pixels, grey))
        filled = [radial_plain.inside(orbits[k][1], config.image_size, config.image_size) for k in (0, -1)]
        if config.mode == "m1":
            shape = set().union(*lines)
        elif config.mode == "m2":
            shape = (filled[1] - filled[0]) | lines[0] | lines[-1]
            if config.clear_holes:
                for pixel in filled[0]:
                    owners.pop(pixel, None)
        else:
            shape = filled[1] | lines[-1]
        owners.update(dict.fromkeys(shape, number))
        classes.append(label)
        areas.append(len(shape))
    return classes, greys, owners, areas


@pytest.mark.parametrize(
    "config", [*map(with_mode, MODES), with_mode("m2", clear_holes=False), with_mode("m1", polygons="yes")]
)
def test_pictures_and_masks_are_the_stated_ones(config: Config) -> None:
    generator = Generator(config, 11)
    painter = generator.painter()
    seen = 0
    for index, instance in ((0, 0), (3, 1), (1, 60)):
        classes, greys, owners, areas = stated(generator, index, instance)
        picture = painter.paint(generator.category(index), index, instance)
        pixels = np.zeros_like(picture.pixels)
        labels = np.zeros_like(picture.pixels)
        for (x, y), grey in greys.items():
            pixels[y, x] = grey
        for (x, y), number in owners.items():
            labels[y, x] = 1 + classes[number]
        np.testing.assert_array_equal(picture.pixels, pixels)
        np.testing.assert_array_equal(picture.labels, labels)
        visible = [number for number in range(config.instance_num) if number in set(owners.values())]
        assert [thing.label for thing in picture.things] == [classes[number] for number in visible]
        assert [thing.whole_area for thing in picture.things] == [areas[number] for number in visible]
        for thing, number in zip(picture.things, visible, strict=True):
            assert {(int(x), int(y)) for y, x in np.argwhere(thing.mask)} == {
                pixel for pixel, owner in owners.items() if owner == number
            }
        seen += len(visible)
    assert seen > 6


def check_things(picture: Picture, polygons: bool) -> None:
    """Masks are disjoint, fit the labels, their boxes and polygons, and cover every labelled pixel."""
    assert picture.labels is not None
    cover = np.zeros(picture.labels.shape, dtype=np.int64)
    for thing in picture.things:
        cover += thing.mask
        assert thing.mask.any()
        assert (picture.labels[thing.mask] == thing.label + 1).all()
        assert thing.box == mask_box(thing.mask)
        assert thing.whole_area >= thing.mask.sum()
        if polygons:
            refilled = np.zeros_like(thing.mask)
            for polygon in thing.polygons:
                refilled ^= fill_polygon((polygon * 65536).astype(np.int32), *refilled.shape)
            np.testing.assert_array_equal(refilled, thing.mask)
        else:
            assert thing.polygons == []
    np.testing.assert_array_equal(cover, picture.labels > 0)


@pytest.mark.parametrize("name", list(PRESETS))
def test_things_fit_each_other_in_full_pictures(name: str) -> None:
    preset = {key: value for key, value in PRESETS[name].items() if key not in ("classes", "instances")}
    generator = Generator(Config(**preset), 2)
    painter = generator.painter()
    for index in (0, PRESETS[name]["classes"] - 1):
        picture = painter.paint(generator.category(index), index, 0)
        check_things(picture, polygons=generator.config.mode != "m1")
        assert index in [thing.label for thing in picture.things] or len(picture.things) < 32
        assert len(picture.things) > 5
    with_polygons = Generator(dataclasses.replace(generator.config, polygons="yes"), 2)
    check_things(with_polygons.painter().paint(with_polygons.category(0), 0, 0), polygons=True)
    without = Generator(dataclasses.replace(generator.config, polygons="no"), 2)
    check_things(without.painter().paint(without.category(0), 0, 0), polygons=False)


@pytest.mark.parametrize("mode", MODES)
def test_the_pictures_of_the_presets_are_fixed(mode: str) -> None:
    generator = Generator(Config(mode=mode), 0)
    painter, painted = generator.painter(), blake3()
    for index, instance in ((0, 0), (253, 78)):
        picture = painter.paint(generator.category(index), index, instance)
        assert picture.labels is not None
        painted.update(picture.pixels.tobytes() + picture.labels.tobytes())
        for thing in picture.things:
            painted.update(json.dumps([polygon.tolist() for polygon in thing.polygons]).encode())
    assert painted.hexdigest()[:32] == DIGESTS[mode]


def test_the_kind_of_mask_leaves_the_picture_as_it_is() -> None:
    pictures = []
    for mode in MODES:
        generator = Generator(Config(mode=mode), 4)
        pictures.append(generator.painter().paint(generator.category(7), 7, 3).pixels)
    np.testing.assert_array_equal(pictures[0], pictures[1])
    np.testing.assert_array_equal(pictures[0], pictures[2])


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_does_not_depend_on_what_was_painted_before(mode: str) -> None:
    generator = Generator(with_mode(mode), 3)
    used = generator.painter()
    for index in range(4):
        used.paint(generator.category(index), index, 1)
    used.paint(generator.perturbed(generator.category(0), 1, 0.3), 1, 0)
    pictures = [painter.paint(generator.category(2), 2, 4) for painter in (used, generator.painter())]
    assert [pixels.pixels.tobytes() for pixels in pictures] == [pictures[0].pixels.tobytes()] * 2
    for one, other in zip(pictures[0].things, pictures[1].things, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
        assert (one.label, one.box, one.whole_area) == (other.label, other.box, other.whole_area)
    assert pictures[0].labels is not None
    assert (used.paint(generator.category(2), 2, 4, attempt=1).pixels != pictures[1].pixels).any()


def test_a_picture_holds_its_category_at_any_place_and_every_class_as_often() -> None:
    """Single small triangles, of which hardly one is hidden."""
    config = Config(
        object_classes=10, instance_num=6, line_num_max=1, vertex_num=3, radius_min=9, radius_max=9
    )
    generator = Generator(config, 0)
    painter, places, labels = generator.painter(), Counter[int](), Counter[int]()
    for index in range(10):
        for instance in range(60):
            things = [
                thing.label for thing in painter.paint(generator.category(index), index, instance).things
            ]
            assert index in things or len(things) < 6
            labels.update(things)
            if len(things) == 6 and things.count(index) == 1:
                places[things.index(index)] += 1
    assert min(places.values()) > 0.6 * max(places.values())
    assert set(places) == set(range(6))
    assert sum(labels.values()) > 0.95 * 3600
    assert min(labels.values()) > 0.8 * max(labels.values())


def test_classes_have_the_scripts_ranges() -> None:
    config = dataclasses.replace(Config(), object_classes=254)
    rows = [Generator(config, seed).category(index) for seed in range(12) for index in range(254)]
    assert list(rows[0]) == list(CATEGORY)
    for name, low, high in (
        ("vertex_num", 3, 500), ("line_num", 1, 50), ("perlin", 0, 4), ("line_width", 0, 0.1), ("radius", 0, 50),
        ("oval_x", 1, 2), ("oval_y", 1, 2),
    ):  # fmt: skip
        values = np.array([row[name] for row in rows])
        assert low <= values.min() <= low + 0.03 * (high - low)
        assert values.max() <= high + 1 / 65536
        expected = 102.5 - 500 / math.expm1(5) * 0.97 if name == "vertex_num" else (low + high) / 2
        assert abs(values.mean() - expected) < 0.04 * (high - low)
    assert [Generator(config, 0).category(index)["color_gray"] for index in (0, 253)] == [1, 254]


def test_categories_are_the_classes_and_no_more() -> None:
    generator = Generator(Config(), 0)
    assert LABELS(Config())[:2] == ["00001", "00002"]
    assert len(LABELS(Config())) == 254
    for index in (254, -1):
        with pytest.raises(UsageError, match=f"category {index} is not among the 254 classes"):
            generator.category(index)
        with pytest.raises(UsageError, match="not among"):
            generator.painter().paint(generator.category(0), index, 0)
    means = [each["vertex_num"] * each["line_num"] for each in map(generator.category, range(254))]
    own = generator.category(5)
    assert generator.cost(own) == pytest.approx(own["vertex_num"] * own["line_num"] + 31 * sum(means) / 254)


def test_perturbed_sets_are_of_perturbed_classes_alone() -> None:
    """Also the other objects of a picture are perturbations of the one class."""
    config = with_mode("m3", vertex_num=400, line_num_max=2, radius_min=6, radius_max=9)
    generator = Generator(config, 0)
    base = generator.category(2)
    record = generator.perturbed(base, 1, 0.2)
    assert (record["base"], record["delta"], record["color_gray"]) == (2, 0.2, 2)
    others = generator.classes_of(record)
    assert others[1] == record
    assert len({tuple(one.values()) for one in others}) == config.object_classes
    for one in others:
        for name in ("vertex_num", "perlin", "radius", "oval_x"):
            assert abs(one[name] - base[name]) <= 0.2 * base[name] + 1e-12
    painter = generator.painter()
    check_things(painter.paint(record, 1, 0), polygons=True)
    perturbed = painter.paint(record, 1, 0).pixels.copy()
    assert (perturbed != painter.paint(base, 1, 0).pixels).any()
    with pytest.raises(UsageError, match="not among"):
        generator.perturbed(base, config.object_classes, 0.2)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("mode", "m4", "--mode 'm4' is not one of its choices"),
        ("polygons", "all", "--polygons 'all'"),
        ("clear_holes", 1, "--clear-holes 1 is neither"),
        ("object_classes", 255, "--object-classes 255"),
        ("object_classes", 0, "--object-classes 0"),
        ("instance_num", 256, "--instance-num 256"),
        ("instance_num", 0, "--instance-num 0"),
        ("vertex_num", 2, "--vertex-num 2"),
        ("line_num_min", 51, "--line-num-min 51 is above --line-num-max 50"),
        ("perlin_max", -1.0, "--perlin-max -1.0"),
        ("perlin_min", 4.5, "--perlin-min 4.5 is above --perlin-max 4.0"),
        ("perlin_max", math.nan, "--perlin-max nan is not a finite number"),
        ("radius_max", 10**5, "--radius-max 100000"),
        ("line_num_max", 10_000, "could reach"),
        ("image_size", 0, "--image-size 0"),
    ],
)
def test_bad_parameters_are_named(field: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Generator(dataclasses.replace(Config(), **{field: value}), 0)


def test_bad_records_are_named() -> None:
    generator = Generator(Config(), 0)
    for name, value, words in (
        ("vertex_num", 2, "vertex_num 2"),
        ("radius", -1, "radius -1"),
        ("oval_x", math.inf, "oval_x inf"),
        ("radius", 31_000, "could reach"),
    ):
        with pytest.raises(UsageError, match=words):
            generator.painter().paint({**generator.category(0), name: value}, 0, 0)


@pytest.mark.parametrize("mode", MODES)
def test_one_orbit_and_one_object(mode: str) -> None:
    config = with_mode(mode, instance_num=1, object_classes=1, line_num_max=1, radius_min=9, polygons="yes")
    generator = Generator(config, 1)
    picture = generator.painter().paint(generator.category(0), 0, 1)
    check_things(picture, polygons=True)
    (thing,) = picture.things
    assert thing.whole_area == thing.mask.sum()
    assert segrcdb.LABELS(config) == ["00001"]
