"""Every generator keeps the promises of the family: pictures by their index alone, records that fit the table, refusals by name."""

from __future__ import annotations

import dataclasses
import math
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headwater import plugins
from headwater.errors import UsageError

NAMES = [plugin.name for plugin in plugins.family_members("generators")]
SMALL = 64  # side of the pictures drawn here, where a generator lets us choose it
SETTINGS = {"classes", "instances", "perturb", "base"}


def module_of(name: str) -> ModuleType:
    return plugins.load("generators", name, whole=True)


def config_of(module: ModuleType, **values: Any) -> Any:
    """The default configuration, with small pictures."""
    there = {field.name for field in dataclasses.fields(module.Config)}
    values = {**{name: SMALL for name in ("image_size", "start_pos") if name in there}, **values}
    return module.Config(**values)


@pytest.fixture(params=NAMES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return module_of(request.param)


def test_parameters_are_options(module: ModuleType) -> None:
    assert dataclasses.is_dataclass(module.Config)
    for field in dataclasses.fields(module.Config):
        assert field.metadata.get("help"), field.name
        assert type(field.default) in (int, float, bool, str), field.name
        assert field.name == field.name.lower() and field.name not in {"seed", *SETTINGS}
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(module.Config(), dataclasses.fields(module.Config)[0].name, 1)


def test_presets_name_a_set_and_parameters(module: ModuleType) -> None:
    fields = {field.name for field in dataclasses.fields(module.Config)}
    for name, preset in module.PRESETS.items():
        assert {"classes", "instances"} <= set(preset), name
        assert set(preset) <= fields | SETTINGS, name
        values = {key: value for key, value in preset.items() if key in fields}
        module.Generator(module.Config(**values), 0)


def test_a_category_follows_from_its_index_and_fits_the_table(module: ModuleType) -> None:
    one, other = (module.Generator(config_of(module), seed=3) for _ in range(2))
    records = [one.category(index) for index in (0, 1, 7)]
    assert [other.category(index) for index in (7, 1, 0)] == records[::-1]
    assert module.Generator(config_of(module), seed=4).category(7) != records[2]
    for record in records:
        assert list(record) == list(module.CATEGORY)
        for column, value in record.items():
            array = pa.array([value], pa.type_for_alias(module.CATEGORY[column]))
            assert array[0].as_py() == value, f"{column}: the table would round {value!r}"
        assert one.cost(record) > 0 and math.isfinite(one.cost(record))


def test_a_picture_follows_from_its_numbers_alone(module: ModuleType) -> None:
    generator = module.Generator(config_of(module), seed=3)
    used, fresh = generator.painter(), module.Generator(config_of(module), seed=3).painter()
    wanted = generator.category(2)
    for index in (0, 5):
        used.paint(generator.category(index), index, 1)
    first = used.paint(wanted, 2, 1)
    pixels = first.pixels.copy()
    labels = None if first.labels is None else first.labels.copy()
    second = fresh.paint(wanted, 2, 1)
    assert np.array_equal(pixels, second.pixels)
    assert (labels is None) == (second.labels is None)
    if labels is not None:
        assert np.array_equal(labels, second.labels)
    assert not np.array_equal(pixels, fresh.paint(wanted, 2, 2).pixels), "another instance looks the same"
    assert not np.array_equal(pixels, fresh.paint(wanted, 2, 1, 1).pixels), "another attempt looks the same"


def test_pixels_are_what_the_kind_says(module: ModuleType) -> None:
    generator = module.Generator(config_of(module), seed=0)
    picture = generator.painter().paint(generator.category(0), 0, 0)
    assert picture.pixels.dtype == np.uint8 and picture.pixels.flags.c_contiguous
    assert picture.pixels.ndim == (3 if module.KIND == "colour" else 2)
    assert module.KIND != "colour" or picture.pixels.shape[2] == 3
    assert picture.pixels.shape[0] == picture.pixels.shape[1]
    assert (picture.labels is not None) == module.ANNOTATED


def test_things_are_where_their_masks_are(module: ModuleType) -> None:
    if not module.ANNOTATED:
        assert not hasattr(module, "LABELS")
        return
    config = module.Config()
    names = module.LABELS(config)
    assert len(set(names)) == len(names) > 0
    generator = module.Generator(config, seed=1)
    painter = generator.painter()
    seen = 0
    for instance in range(4):
        picture = painter.paint(generator.category(0), 0, instance)
        taken = np.zeros(picture.pixels.shape[:2], bool)
        for thing in picture.things:
            seen += 1
            assert 0 <= thing.label < len(names)
            assert thing.mask.dtype == bool and thing.mask.any() and thing.polygons
            assert not (thing.mask & taken).any(), "two things own one pixel"
            taken |= thing.mask
            rows, columns = np.flatnonzero(thing.mask.any(1)), np.flatnonzero(thing.mask.any(0))
            x, y, width, height = thing.box
            assert (x, y, x + width, y + height) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            assert int(thing.mask.sum()) <= thing.whole_area
            assert picture.labels is not None
            assert (picture.labels[thing.mask] == thing.label + 1).all()
            for polygon in thing.polygons:
                assert polygon.dtype == np.float64 and polygon.ndim == 2 and len(polygon) >= 3
    assert seen


def test_perturbed_categories_are_distinct_and_by_index(module: ModuleType) -> None:
    generator = module.Generator(config_of(module), seed=3)
    base = generator.category(1)
    found = [generator.perturbed(base, index, 0.1) for index in range(8)]
    assert [generator.perturbed(base, index, 0.1) for index in range(8)] == found
    assert all(list(record) == list(module.CATEGORY) for record in found)
    assert len({tuple(record.values()) for record in found}) == 8
    generator.painter().paint(found[3], 3, 0)


@pytest.mark.parametrize("bad", [-1, 0, 2**62, math.nan, math.inf, -math.inf, -0.5])
def test_impossible_parameters_are_refused_by_name(module: ModuleType, bad: float) -> None:
    """Either a picture can be drawn with such a value, or the parameter is named; nothing else, and never an endless run."""
    for field in dataclasses.fields(module.Config):
        if type(field.default) not in (int, float) or (type(field.default) is int and type(bad) is float):
            continue
        try:
            module.Generator(config_of(module, **{field.name: bad}), 0).category(0)
        except UsageError as error:
            said = error.message
            assert field.name in said or field.name.replace("_", "-") in said, said
        else:
            assert math.isfinite(bad) and bad <= 0, f"{field.name} = {bad} was taken"
