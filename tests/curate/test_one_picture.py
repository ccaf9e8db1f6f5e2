"""`--picture CLASS/INSTANCE`: the very picture of the set, also of the reference stream, which has to be walked to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from curate import drawing
from curate.drawing import Drawer, make_picture
from curate.generation import load_recipe
from curate.make_request import resolve
from headwater.errors import UsageError
from tests.curate.made_kit import hearing, make, request, tar_pictures
from tests.faults import kit

LIT = {"image_size": 128, "start_pos": 24}  # the atoms lie inside


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"processes": 2},
        {"processes": 2, "start_class": 4},
        {"processes": 3, "index": 1},
        {"processes": 3, "index": 2, "start_class": 1},
    ],
)
def test_a_picture_of_the_reference_stream_is_the_one_in_the_set(
    tmp_path: Path, given: dict[str, int]
) -> None:
    with hearing():  # of classes that the script leaves out, and that it only renames
        asked = request(7, 4, stream="reference", parameters=LIT, **given)
        make(tmp_path / "out", asked, sink="tar")
        recipe = load_recipe(tmp_path / "out")
        found = tar_pictures(tmp_path / "out")
        assert len(found) == recipe.pictures == len({p.tobytes() for p, _ in found.values() if p.any()})
        for key, (pixels, _) in found.items():
            category, instance = map(int, key.split("_"))
            assert np.array_equal(make_picture(recipe, category, instance).picture.pixels, pixels), key
        last = recipe.first_category + recipe.classes - 1
        with pytest.raises(UsageError, match=f"category {last + 1}: the set has"):
            make_picture(recipe, last + 1, 0)
        with pytest.raises(UsageError, match="instance 4: every category of the set has 0 to 3"):
            make_picture(recipe, last, 4)


def test_the_walk_is_told_step_by_step_and_ends_at_the_same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = resolve(request(4, 6, stream="reference", parameters=LIT))
    places = [(row, instance) for row in range(4) for instance in (1, 5)]
    at_once = [make_picture(recipe, *place).picture.pixels.copy() for place in places]
    monkeypatch.setattr(drawing, "STEPS", 5)
    in_steps = [make_picture(recipe, *place).picture.pixels.copy() for place in places]
    assert np.array_equal(at_once, in_steps) and all(map(np.any, at_once))


def test_a_drawer_has_no_reference_stream() -> None:
    with pytest.raises(UsageError, match="drawn in order"):
        Drawer(resolve(request(2, 2, stream="reference")))


@pytest.mark.slow
def test_the_command_writes_it_alone(tmp_path: Path) -> None:
    asked = [
        "make",
        "visualatom",
        "--stream",
        "reference",
        "--classes",
        3,
        "--instances",
        2,
        "--image-size",
        48,
    ]
    done = kit.run(*asked, "--vertex-num-max", 300, "-o", tmp_path / "set", "--no-sheet")
    assert done.code == 0, done
    one = tmp_path / "one.png"
    done = kit.run(*asked, "--vertex-num-max", 300, "--picture", "2/1", "-o", one, "--json")
    assert done.code == 0, done
    assert json.loads(done.out)["counts"]["kept"] == 1
    (theirs,) = (tmp_path / "set/image/00002").glob("*_instance_0001.png")
    assert one.read_bytes() == theirs.read_bytes()
    done = kit.run("make", tmp_path / "set/recipe.json", "--picture", "2/1", "-o", tmp_path / "two.png")
    assert done.code == 0 and (tmp_path / "two.png").read_bytes() == one.read_bytes()


def test_what_belongs_to_a_set_is_refused_for_one_picture(tmp_path: Path) -> None:
    asked = ["make", "visualatom", "--preset", "nano", "--picture", "0/0", "-o", tmp_path / "one.png"]
    for more in (["--grow"], ["--sink", "tar"], ["--no-sheet"], ["--param-csv"]):
        done = kit.run(*asked, *more)
        assert done.code == 2 and "--picture writes one file and no set" in done.err, done
