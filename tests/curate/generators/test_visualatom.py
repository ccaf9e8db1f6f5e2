"""VisualAtom's indexed stream: categories by index, pictures that depend on nothing else, parameters that are refused by name."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate.generators import visualatom
from curate.generators.visualatom import CATEGORY, PRESETS, Config, Generator
from headwater.errors import MissingExtra, UsageError
from tests.curate.generators import contour_plain as plain

# sha256 of the grey bytes: (category, instance, attempt) of the launcher's values, seed 0
PICTURES = {
    (0, 0, 0): "ebac099ff930e56d629f8336d39a1dd952aa00b52dfcc8f2c0be3a6b7485fecd",
    (0, 1, 0): "6d3e92a7cd547331f74f5b307806308941a0ba96a7f7c98d2a35df7034a82e54",
    (0, 1, 1): "8b746170646db41402d121c54af73f41207c871ab36304b4e166c2900c9bab87",
    (7, 3, 0): "f2e30bfede73b3387c6e7af3ba3635ff4cd30ceea64749623f172e1811b36894",
    (20_999, 999, 0): "b40f1e1b3fc1c0406cb34f299ffa3f757ebb7542a0682a5b7becacc05e574801",
}
# and of 64 small pictures, one a category, one after another
MANY = "4aacc3683022df2834f9441170a3fbfaf14f33b972e810f93206711a32cf90b8"


def _digest(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


# --- categories


def test_a_category_has_the_columns_in_the_ranges_of_the_config() -> None:
    config = Config(image_size=64)
    generator = Generator(config, 3)
    records = [generator.category(index) for index in range(400)]
    assert all(list(record) == list(CATEGORY) for record in records)
    for column, low, high in (
        ("vertex_num", 200, 1000), ("line_num", 1, 200), ("perlin", 0, 4), ("line_width", 0, 0.1001),
        ("radius", 10, 60), ("nami_1", 0, 20), ("nami_2", 0, 20), ("oval_x", 1, 2), ("oval_y", 1, 2),
    ):  # fmt: skip
        values = [record[column] for record in records]
        assert low <= min(values) < low + 0.05 * (high - low) + 1e-9
        assert high >= max(values) > high - 0.05 * (high - low) - 1e-9
        kind = int if CATEGORY[column] == "int32" else float
        assert all(type(value) is kind for value in values)
        if kind is float:  # multiples of 1/65536: exact as doubles, and in the kernel
            assert all((value * 65_536).is_integer() for value in values)
    assert all(r["nami_1"] != r["nami_2"] or r["nami_1"] == 0 for r in records)
    assert generator.cost(records[0]) == records[0]["vertex_num"] * records[0]["line_num"]
    mean = np.mean([generator.cost(record) for record in records])
    assert abs(mean / 60_300 - 1) < 0.15  # spread 0.74 of the mean, / 20


def test_a_category_is_known_by_its_index_alone() -> None:
    ahead = [Generator(Config(), 11).category(index) for index in range(50)]
    backwards = [Generator(Config(), 11).category(index) for index in reversed(range(50))][::-1]
    assert ahead == backwards
    assert ahead != [Generator(Config(), 12).category(index) for index in range(50)]
    assert len({tuple(record.values()) for record in ahead}) == 50


def test_both_waves_may_vanish_together_and_only_there_be_equal() -> None:
    generator = Generator(Config(nami_1_max=1, nami_2_max=1), 0)
    pairs = {(r["nami_1"], r["nami_2"]) for r in map(generator.category, range(200))}
    assert pairs == {(0, 0), (0, 1), (1, 0)}


def test_presets_are_configs_and_the_launchers_values_come_first() -> None:
    names = {field.name for field in dataclasses.fields(Config)}
    for preset in PRESETS.values():
        assert set(preset) - {"classes", "instances"} <= names
        Generator(Config(**{key: value for key, value in preset.items() if key in names}), 0)
    assert list(PRESETS) == ["launcher-1k", "launcher-21k", "script-1k", "script-21k", "nano"]
    assert (Config().perlin_min, Config().line_width, Config().radius_min) == (0, 0.1, 10)
    script = PRESETS["script-21k"]
    assert (script["perlin_min"], script["line_width"], script["radius_min"]) == (2, 0.01, 0)
    assert (script["classes"], script["instances"]) == (21_000, 1000)


def test_perturbed_categories_stay_close_and_in_range() -> None:
    generator = Generator(Config(image_size=64), 3)
    base = generator.category(5)
    records = [generator.perturbed(base, index, 0.1) for index in range(40)]
    assert len({tuple(record.values()) for record in records}) == 40
    for record in records:
        for column, value in base.items():
            assert abs(record[column] - value) <= 0.1 * abs(value)
        visualatom.shape(record)


# --- pictures


def test_digests_of_pictures() -> None:
    pytest.importorskip("numba")
    generator = Generator(Config(), 0)
    painter = generator.painter()
    for (index, instance, attempt), digest in PICTURES.items():
        picture = painter.paint(generator.category(index), index, instance, attempt)
        assert picture.pixels.shape == (512, 512) and picture.pixels.dtype == np.uint8
        assert _digest(picture.pixels) == digest, (index, instance, attempt)
        assert picture.labels is None and picture.things == []


def test_the_document_holds_the_same_digests() -> None:
    document = (Path(__file__).parents[3] / "docs" / "indexed-stream.md").read_text(encoding="utf-8")
    assert all(digest in document for digest in PICTURES.values())


def test_pictures_are_those_of_the_document() -> None:
    pytest.importorskip("numba")
    for seed, config in (
        (0, Config(line_num_max=20)),
        (
            2**64 - 1,
            Config(
                image_size=77, start_pos=40, vertex_num_min=1, vertex_num_max=9, nami_1_max=1, nami_2_max=2
            ),
        ),
        (17, Config(image_size=90, start_pos=3, perlin_min=1.3, line_width=2.7, oval_rate=3.1, radius_min=4)),
    ):
        generator = Generator(config, seed)
        painter = generator.painter()
        for index in range(3 if config.image_size < 512 else 1):
            category = generator.category(index)
            assert visualatom.shape(category) == plain.visualatom_category(config, seed, index)
            got = painter.paint(category, index, 2, 1).pixels
            assert np.array_equal(got, plain.visualatom(config, seed, index, 2, 1))


def test_digest_of_many_small_pictures() -> None:
    pytest.importorskip("numba")
    generator = Generator(Config(image_size=96, start_pos=96, vertex_num_min=3, line_num_max=40), 1)
    painter = generator.painter()
    total = hashlib.sha256()
    for index in range(64):
        total.update(painter.paint(generator.category(index), index, index % 5).pixels.tobytes())
    assert total.hexdigest() == MANY


def test_a_picture_does_not_depend_on_what_was_painted_before() -> None:
    pytest.importorskip("numba")
    config = Config(image_size=128, start_pos=64)
    generator = Generator(config, 9)
    used = generator.painter()
    wanted = {
        (i, j): used.paint(generator.category(i), i, j).pixels.copy() for i in range(6) for j in range(2)
    }
    for (i, j), pixels in reversed(wanted.items()):
        assert np.array_equal(used.paint(generator.category(i), i, j).pixels, pixels)
        fresh = Generator(config, 9)
        assert np.array_equal(fresh.painter().paint(fresh.category(i), i, j).pixels, pixels)
    assert len({_digest(pixels) for pixels in wanted.values()}) == len(wanted)


def test_seed_index_instance_and_attempt_each_give_another_picture() -> None:
    pytest.importorskip("numba")
    config = Config(image_size=128, start_pos=0)
    category = Generator(config, 0).category(0)
    found = {
        _digest(Generator(config, seed).painter().paint(category, index, instance, attempt).pixels)
        for seed, index, instance, attempt in (
            (0, 0, 0, 0),
            (1, 0, 0, 0),
            (0, 1, 0, 0),
            (0, 0, 1, 0),
            (0, 0, 0, 1),
        )
    }
    assert len(found) == 5


def test_a_window_holds_the_pixels_of_the_picture() -> None:
    pytest.importorskip("numba")
    generator = Generator(Config(image_size=200), 2)
    whole, part = generator.painter(), generator.painter()
    for index in range(8):
        category = generator.category(index)
        want = whole.paint(category, index, 0).pixels[50:130, 20:150]
        got = part.paint(category, index, 0, window=(50, 20, 80, 130)).pixels[50:130, 20:150]  # type: ignore[call-arg]
        assert np.array_equal(got, want)


def test_the_centre_lies_on_half_pixels_up_to_half_of_start_pos_beside_the_middle() -> None:
    pytest.importorskip("numba")
    # one orbit of one vertex on its centre: the picture shows where that is
    config = Config(image_size=64, start_pos=20, radius_min=0)
    generator = Generator(config, 5)
    category = {
        "vertex_num": 1, "line_num": 1, "perlin": 0.0, "line_width": 0.0, "radius": 0, "nami_1": 0, "nami_2": 0,
        "oval_x": 1.0, "oval_y": 1.0,
    }  # fmt: skip
    painter = generator.painter()
    rows, columns = [], []
    for instance in range(600):
        picture = painter.paint(category, 0, instance).pixels
        if picture.any():  # a level of 0 may come up
            row, column = np.argwhere(picture)[0]
            rows.append(int(row))
            columns.append(int(column))
    assert min(rows) == min(columns) == 22 and max(rows) == max(columns) == 42
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.15


# --- what is refused


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("vertex_num_min", 0, "--vertex-num-min 0 is not between 1 and"),
        ("vertex_num_max", -1, "--vertex-num-max -1 is not between"),
        ("vertex_num_max", 10**9, "--vertex-num-max 1000000000 is not between"),
        ("vertex_num_min", 2.5, "--vertex-num-min 2.5 is not a whole number"),
        ("vertex_num_min", 1001, "--vertex-num-min 1001 is above --vertex-num-max 1000"),
        ("line_num_min", 0, "--line-num-min 0 "),
        ("line_num_min", True, "--line-num-min True is not a whole number"),
        ("perlin_min", -0.1, "--perlin-min -0.1 "),
        ("perlin_min", math.nan, "--perlin-min nan is not a finite number"),
        ("perlin_min", 1e300, "--perlin-min 1e"),
        ("perlin_min", "2", "--perlin-min '2' is not a number"),
        ("line_width", math.inf, "--line-width inf is not a finite number"),
        ("line_width", -1.0, "--line-width -1.0 "),
        ("line_width", 1000.0, "could reach"),
        ("perlin_min", 100.0, "could reach"),
        ("line_num_max", 60_000, "could reach"),
        ("radius_min", -5, "--radius-min -5 "),
        ("oval_rate", 0.5, "--oval-rate 0.5 is not between 1 and"),
        ("oval_rate", math.nan, "--oval-rate nan"),
        ("start_pos", -1, "--start-pos -1 "),
        ("nami_1_min", 21, "--nami-1-min 21 is above --nami-1-max 20"),
        ("nami_2_max", -1, "--nami-2-max -1 "),
        ("image_size", 0, "--image-size 0 is not between 1 and 8192"),
        ("image_size", 100_000, "--image-size 100000 "),
    ],
)
def test_a_parameter_that_nothing_can_be_drawn_from_is_named(field: str, value: object, says: str) -> None:
    config = dataclasses.replace(Config(), **{field: value})  # type: ignore[arg-type]
    with pytest.raises(UsageError) as caught:
        Generator(config, 0)
    assert says in caught.value.message


def test_frequencies_that_can_never_differ_are_refused() -> None:
    with pytest.raises(UsageError, match="leave only 5"):
        Generator(Config(nami_1_min=5, nami_1_max=5, nami_2_min=5, nami_2_max=5), 0)
    with pytest.raises(UsageError, match="leave only 5"):  # it may come up: the drawing would hang then
        Generator(Config(nami_2_min=5, nami_2_max=5), 0)
    Generator(Config(nami_1_min=0, nami_1_max=0, nami_2_min=0, nami_2_max=0), 0).category(0)
    Generator(Config(nami_1_min=6, nami_1_max=9, nami_2_min=5, nami_2_max=5), 0).category(0)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, None, True])
def test_a_seed_must_be_of_64_bits(seed: Any) -> None:
    with pytest.raises(UsageError, match="--seed"):
        Generator(Config(), seed)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("vertex_num", 0), ("vertex_num", "9"), ("vertex_num", None), ("line_num", 70_000), ("line_num", 60_000),
        ("perlin", math.nan), ("perlin", -1.0), ("perlin", 1e4), ("oval_x", 1e4), ("radius", 10**6), ("radius", 1.5),
    ],
)  # fmt: skip
def test_a_category_from_a_table_is_checked_before_it_is_drawn(column: str, value: object) -> None:
    record = Generator(Config(), 0).category(0)
    with pytest.raises(UsageError):
        visualatom.shape(record | {column: value})


def test_the_largest_atoms_that_are_allowed_stay_countable() -> None:
    pytest.importorskip("numba")
    from curate.generators._contour import LIMIT_Q16, reach_q16

    config = Config(perlin_min=34.0, radius_min=2000, image_size=8192, start_pos=8192)
    Generator(config, 0)
    reach = reach_q16(
        orbits=200, p_q16=38 << 16, w_q16=6554, radius_q16=2050 << 16, oval_q16=2 << 16, noise_factor=1
    )
    assert reach + (8192 << 16) <= LIMIT_Q16


def test_without_numba_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as caught:
        Generator(Config(), 0).painter()
    assert "synth" in (caught.value.hint or "")


def test_importing_the_generator_loads_no_kernel() -> None:
    code = "import sys, curate.generators.visualatom as v; v.Generator(v.Config(), 0).category(3); assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
