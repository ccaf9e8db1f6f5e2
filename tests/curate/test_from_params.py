"""Categories from a table that somebody wrote: the classes are exactly those records, and the table travels with the recipe."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate.categories import CategoryTable, read_parquet
from curate.drawing import Drawer, make_picture
from curate.generation import Generation, load_recipe, parse_recipe
from curate.generators import visualatom
from curate.make_request import MakeRequest, resolve
from curate.reruns import make as rerun
from headwater.errors import HeadwaterError, IntegrityError, MissingInput, UsageError
from headwater.executor import Executor
from headwater.steps import read_record
from tests.curate.made_kit import contents, make, request

# as the RCDB script writes its own, with the frequencies that RCDB does not have; one value that a tool for floats wrote
LINES = "Vertex,{v}\nPerlin_noise,0.5\nline_width,0.05\nCenter_rad,3\nLine_num,4.0\nOval_rate_x,1.5\nOval_rate_y,1.25\nstart_pos_h,7\nnami_1,2\nnami_2,5\n"


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """Three files of key,value, not numbered from 0 and not padded to one length."""
    folder = tmp_path / "theirs" / "param"
    folder.mkdir(parents=True)
    for number, vertices in ((9, 20), (10, 30), (11, 12)):
        (folder / f"{number}.csv").write_bytes(b"\xef\xbb\xbf" + LINES.format(v=vertices).encode())
    return folder.parent


def given(path: Path, instances: int = 3, **more: Any) -> MakeRequest:
    asked = request(more.pop("classes", None), instances, **more)  # type: ignore[arg-type]
    return MakeRequest(**{**asked.__dict__, "from_params": path})


def test_the_classes_are_those_records(tmp_path: Path, lists: Path) -> None:
    make(tmp_path / "a", given(lists), sink="tar")
    recipe = load_recipe(tmp_path / "a")
    assert (recipe.classes, recipe.start_class, recipe.pictures) == (3, 9, 9)
    assert recipe.records == recipe.categories
    table = read_parquet(tmp_path / "a/param/categories.parquet", visualatom.CATEGORY)
    assert [r["vertex_num"] for r in table.records(range(3))] == [20, 30, 12] and table.first == 9
    assert table.records([0])[0]["line_num"] == 4 and table.records([0])[0]["oval_x"] == 1.5
    generator = visualatom.Generator(visualatom.Config(**recipe.parameters), 0)
    wanted = generator.painter().paint(table.records([1])[0], 10, 2).pixels.copy()
    assert np.array_equal(make_picture(tmp_path / "a", 10, 2).picture.pixels, wanted)
    assert wanted.any()


def test_csv_and_parquet_and_the_set_itself_are_the_same_table(tmp_path: Path, lists: Path) -> None:
    make(tmp_path / "a", given(lists))
    for k, path in enumerate(
        [tmp_path / "a", tmp_path / "a/param", tmp_path / "a/param/categories.parquet", lists / "param"]
    ):
        make(tmp_path / f"b{k}", given(path))
        assert contents(tmp_path / f"b{k}") == contents(tmp_path / "a")


def test_workers_pickles_and_copies_know_the_table(tmp_path: Path, lists: Path) -> None:
    made = resolve(given(lists))
    other: Generation = pickle.loads(pickle.dumps(made))
    small = other.model_copy(update={"block_size": 2})
    assert Drawer(small).record(2) == Drawer(made).record(2)
    make(tmp_path / "one", given(lists, 40, block_size=7), sink="tar")
    make(tmp_path / "two", given(lists, 40, block_size=7), sink="tar", executor=Executor("pool", workers=2))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_recipe_makes_it_again_with_its_table(tmp_path: Path, lists: Path) -> None:
    make(tmp_path / "a", given(lists), sink="recipe")
    make(tmp_path / "b", MakeRequest.from_recipe(tmp_path / "a"), sink="recipe")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(tmp_path / "a/recipe.json", alone)
    with pytest.raises(MissingInput, match="neither categories.parquet nor"):
        make(tmp_path / "c", MakeRequest.from_recipe(alone / "recipe.json"))
    make(tmp_path / "c", MakeRequest.from_recipe(alone / "recipe.json", from_params=lists), sink="recipe")
    assert contents(tmp_path / "c") == contents(tmp_path / "a")
    (lists / "param/10.csv").write_text(LINES.format(v=31))
    with pytest.raises(IntegrityError, match="not the table that the recipe names"):
        MakeRequest.from_recipe(alone / "recipe.json", from_params=lists)
        resolve(MakeRequest.from_recipe(alone / "recipe.json", from_params=lists))
    plain = tmp_path / "plain"
    make(plain, request(2, 2), sink="recipe")
    with pytest.raises(UsageError, match="follow from their index"):
        resolve(MakeRequest.from_recipe(plain, from_params=lists))


def test_drawn_again_and_a_table_of_others_is_found(tmp_path: Path, lists: Path) -> None:
    out = tmp_path / "a"
    make(out, given(lists), sink="tar")
    found = rerun.rerun(out, read_record(out), sample=None, seed=0, executor=Executor("serial"))
    assert found.checked == 9 and found.problems == []
    table = read_parquet(out / "param/categories.parquet", visualatom.CATEGORY)
    records = [{**record, "radius": record["radius"] + 1} for record in table.records(range(3))]
    CategoryTable.collect(9, visualatom.CATEGORY, records, 3).write_parquet(out / "param/categories.parquet")
    with pytest.raises(IntegrityError, match="not the table of categories that the recipe names"):
        rerun.rerun(out, read_record(out), sample=None, seed=0, executor=Executor("serial"))
    data = bytearray((out / "param/categories.parquet").read_bytes())
    data[40] ^= 1
    (out / "param/categories.parquet").write_bytes(data)
    with pytest.raises(IntegrityError, match="cannot be read as a category table"):
        make_picture(out, 9, 0)


def test_it_grows_by_instances_and_never_into_another_table(tmp_path: Path, lists: Path) -> None:
    out = tmp_path / "a"
    make(out, given(lists, block_size=3), sink="tar")
    make(out, given(lists, 5, block_size=3), sink="tar", grow=True)
    make(tmp_path / "whole", given(lists, 5, block_size=3), sink="tar")
    assert contents(out) == contents(tmp_path / "whole")
    with pytest.raises(UsageError, match=r"--from-params is a table of 3 categories \(.*not set here"):
        make(out, request(3, 6, block_size=3, start_class=9), sink="tar", grow=True)
    (lists / "param/10.csv").write_text(LINES.format(v=31))
    with pytest.raises(UsageError, match="--from-params is a table of 3"):
        make(out, given(lists, 5, block_size=3), sink="tar")


def test_the_reference_streams_categories_can_be_continued(tmp_path: Path) -> None:
    make(tmp_path / "ref", request(3, 2, stream="reference"))
    make(tmp_path / "a", given(tmp_path / "ref"))  # its table has two columns more
    one, other = (
        read_parquet(tmp_path / name / "param/categories.parquet", visualatom.CATEGORY, others=True)
        for name in ("ref", "a")
    )
    assert one.records(range(3)) == other.records(range(3))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"classes": 2}, "--classes 2: the table has 3 categories"),
        ({"start_class": 3}, "--start-class 3: the table has categories 9 to 11"),
        ({"stream": "reference"}, "the reference stream draws its own"),
        ({"perturb": 0.1}, "--perturb: the categories are those of the table"),
    ],
)
def test_what_contradicts_the_table_is_refused(lists: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        resolve(given(lists, **more))


def test_what_is_no_table_is_refused(tmp_path: Path, lists: Path) -> None:
    for path, error, said in [
        (tmp_path / "none", MissingInput, "no such file or folder"),
        (tmp_path, MissingInput, "holds neither"),
    ]:
        with pytest.raises(error, match=said):
            resolve(given(path))
    with pytest.raises(UsageError, match="composed of more than its category"):
        resolve(MakeRequest("scenes", from_params=lists))
    with pytest.raises(UsageError, match=r"does not say maps, fill, .* and \d+ more"):
        resolve(MakeRequest("fractaldb", from_params=lists))


@pytest.mark.parametrize("value", ["-5", "0", "70000"])
def test_a_record_that_cannot_be_drawn_is_named(tmp_path: Path, lists: Path, value: str) -> None:
    (lists / "param/10.csv").write_text(LINES.format(v=value))
    with pytest.raises(UsageError, match=rf"category 10 of the table: vertex_num {value} is not between"):
        make(tmp_path / "a", given(lists))


@pytest.mark.parametrize("value", ["nan", "1e300", "4.5", "99999999999999999999", "", "x"])
def test_a_value_that_is_none_is_named(lists: Path, value: str) -> None:
    (lists / "param/10.csv").write_text(LINES.format(v=value))
    with pytest.raises(IntegrityError, match="10.csv: vertex_num is"):
        resolve(given(lists))


def test_recipes_without_a_table_are_what_they_were() -> None:
    made = resolve(request(2, 2))
    assert "records" not in made.model_dump() and "records" not in made.drawn()
    document = json.loads(made.sealed().model_dump_json())
    assert parse_recipe(json.dumps(document).encode(), "r").id == made.content_id()


def test_a_recipe_that_names_a_table_it_cannot_have_is_no_recipe(lists: Path) -> None:
    made = resolve(given(lists))
    for change in (
        {"classes": 4},
        {"perturb": {"delta": 0.1, "base": 0}},
        {"categories": {"rows": 3, "sha256": "0" * 64}},
    ):
        document = {**made.model_dump(mode="json"), **change}
        document["id"] = Generation.model_validate(document).content_id()
        with pytest.raises(IntegrityError, match="not a sound recipe"):
            parse_recipe(json.dumps(document).encode(), "r")
    with pytest.raises(HeadwaterError, match="nothing says where that is"):
        Drawer(Generation.model_validate(made.model_dump(mode="json"))).record(0)
