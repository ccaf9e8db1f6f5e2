"""`headwater make` as a Step: the same bytes whoever draws them, whatever the sink, and pictures alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

from curate.categories import read_params, read_parquet
from curate.drawing import Drawer, make_picture
from curate.generation import load_recipe
from curate.generators import visualatom
from curate.make_request import MakeRequest, resolve
from headwater.errors import UsageError
from headwater.executor import Executor
from headwater.verify import verify_path
from tests.curate.made_kit import contents, hearing, make, request, tar_pictures


def test_a_set_holds_what_its_recipe_says(tmp_path: Path) -> None:
    outcome = make(tmp_path / "out", sink="tar")
    out = tmp_path / "out"
    recipe = load_recipe(out)
    assert (recipe.classes, recipe.instances, recipe.order, len(recipe.blocks)) == (5, 7, "instance", 1)
    found = tar_pictures(out)
    assert list(found) == [f"{n % 5:05d}_{n // 5:04d}" for n in range(35)]  # the classes are mixed
    drawer, digest = Drawer(recipe), blake3()
    for key, (pixels, label) in found.items():
        category, instance = map(int, key.split("_"))
        assert label == category and pixels.shape == (24, 24)
        assert np.array_equal(pixels, drawer.draw(category, instance).picture.pixels)
        digest.update(blake3(pixels.tobytes()).digest())
    assert recipe.blocks[0].pixels == digest.hexdigest()
    assert json.loads((out / "sizes.json").read_text()) == {"00000000.tar": 35}
    counts = outcome.step.identity.counts
    assert (counts.read, counts.kept, counts.unit) == (35, 35, "pictures")
    assert verify_path(out).as_result()["ok"]


def test_the_category_table_lies_beside_the_pictures(tmp_path: Path) -> None:
    make(tmp_path / "out", request(start_class=3))
    recipe = load_recipe(tmp_path / "out")
    table = read_parquet(tmp_path / "out/param/categories.parquet", visualatom.CATEGORY)
    drawer = Drawer(recipe)
    assert table.first == 3 and table.records(range(5)) == [drawer.record(row) for row in range(5)]
    assert recipe.categories is not None and recipe.categories.sha256 == table.sha256()
    lists = read_params(tmp_path / "out/param", visualatom.CATEGORY)
    assert lists.first == 3 and lists.sha256() == table.sha256()
    assert sorted(p.name for p in (tmp_path / "out/image").iterdir()) == [f"{n:05d}" for n in range(3, 8)]
    assert not (tmp_path / "out/sheet.png").exists()


@pytest.mark.parametrize("sink", ["folder", "tar", "parquet", "recipe"])
def test_pixels_do_not_depend_on_the_sink_or_the_cut(tmp_path: Path, sink: str) -> None:
    make(tmp_path / "a", request(order="class"), sink=sink)
    make(tmp_path / "b", request(order="class", block_size=6), sink="recipe")
    a, b = load_recipe(tmp_path / "a"), load_recipe(tmp_path / "b")
    assert a.drawn() == b.drawn() and len(b.blocks) == 6
    drawer = Drawer(a)
    digest = blake3()
    for number in range(35):
        digest.update(blake3(drawer.draw(*a.place(number)).picture.pixels).digest())
    assert a.blocks[0].pixels == digest.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize(("sink", "workers"), [("tar", (2, 8)), ("folder", (2,))])
def test_workers_and_engines_write_the_same_bytes(
    tmp_path: Path, sink: str, workers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curate._making_tasks.ALONE_SECONDS", -1.0)  # start processes however little there is
    asked = request(8, 40, block_size=20)
    first = make(tmp_path / "serial", asked, sink=sink)
    for count in workers:
        out = tmp_path / str(count)
        outcome = make(out, asked, sink=sink, executor=Executor("pool", count))
        assert outcome.step.id == first.step.id
        assert contents(out) == contents(tmp_path / "serial")


def test_made_again_is_found_and_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(tmp_path / "out")
    monkeypatch.setattr("curate.making._work", None)
    again = make(tmp_path / "out")
    assert again.cached and again.step == first.step


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from curate import _making_block

    asked = request(6, 10, block_size=10)
    make(tmp_path / "whole", asked, sink="tar")
    real, drawn = _making_block._drawn, []

    def some(task: Any, how: str) -> Any:
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(task.name)
        return real(task, how)

    monkeypatch.setattr(_making_block, "_drawn", some)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "out", asked, sink="tar")
    assert not (tmp_path / "out").exists()
    before = list(drawn)
    monkeypatch.setattr(_making_block, "_drawn", lambda task, how: drawn.append(task.name) or real(task, how))
    # what was touched meanwhile is not believed
    path = tmp_path / ".out.headwater/parts/out" / f"{before[0]}.tar"
    path.write_bytes(path.read_bytes()[:-512] + bytes(512))
    os.utime(path, (1, 1))
    make(tmp_path / "out", asked, sink="tar")
    assert sorted(drawn[3:]) == sorted({f"{n:08d}" for n in range(6)} - set(before[1:]))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / ".out.headwater").exists()


def test_a_picture_alone_is_the_one_in_the_set(tmp_path: Path) -> None:
    make(tmp_path / "out", request(start_class=10, min_lit=0.05), sink="tar")
    found = tar_pictures(tmp_path / "out")
    for category, instance in ((14, 6), (10, 0), (12, 3)):
        alone = make_picture(tmp_path / "out", category, instance).picture.pixels
        assert np.array_equal(alone, found[f"{category:05d}_{instance:04d}"][0])
    with pytest.raises(UsageError, match="the set has 10 to 14"):
        make_picture(tmp_path / "out", 9, 0)
    with pytest.raises(UsageError, match="has 0 to 6"):
        make_picture(tmp_path / "out", 10, 7)


def test_near_empty_pictures_are_drawn_again_and_counted(tmp_path: Path) -> None:
    share = 0.12
    outcome = make(tmp_path / "out", request(6, 20, min_lit=share, attempts=3), sink="tar")
    counts = outcome.step.identity.counts
    rejected = counts.dropped["near-empty, drawn again"]
    assert counts.kept == 120 and counts.read == 120 + rejected
    recipe = load_recipe(tmp_path / "out")
    plain = resolve(request(6, 20))
    drawer = Drawer(recipe)
    painter = visualatom.Generator(visualatom.Config(**recipe.parameters), 0).painter()
    again = empty = 0
    for row in range(6):
        for instance in range(20):
            for attempt in range(3):  # the rule, stated plainly
                pixels = painter.paint(drawer.record(row), row, instance, attempt).pixels.copy()
                if np.mean(pixels != 0) >= share:
                    break
            again += attempt
            empty += bool(np.mean(pixels != 0) < share)
            assert np.array_equal(pixels, drawer.draw(row, instance).picture.pixels)
    assert rejected == again > 0 and counts.extra["near-empty, kept"] == empty > 0
    assert recipe.blocks[0].rejected == again and recipe.blocks[0].near_empty == empty
    first = [Drawer(plain).draw(0, k).picture.pixels.copy() for k in range(20)]
    kept = [k for k in range(20) if np.mean(first[k] != 0) >= share]
    assert all(np.array_equal(first[k], drawer.draw(0, k).picture.pixels) for k in kept)


def test_the_reference_stream_is_cut_by_process(tmp_path: Path) -> None:
    from curate.generators._script import ScriptStream

    asked = request(7, 5, stream="reference", processes=2, block_size=4, start_class=1)
    with hearing() as said:
        outcome = make(tmp_path / "out", asked, sink="tar")
    assert any("only renames" in text for text in said) and any("never drawn" in text for text in said)
    recipe = load_recipe(tmp_path / "out")
    assert (recipe.classes, len(recipe.blocks), outcome.step.identity.counts.kept) == (6, 8, 30)
    found = tar_pictures(tmp_path / "out")
    config = visualatom.Config(**recipe.parameters)
    at = 0
    for index in range(2):
        stream = ScriptStream(config, classes=7, instances=5, processes=2, index=index, start_class=1)
        for _, label, instance, pixels in stream.block(0, 15):
            assert np.array_equal(found[f"{label:05d}_{instance:04d}"][0], pixels)
            assert found[f"{label:05d}_{instance:04d}"][1] == label == at // 5 + 1
            at += 1
    one = request(7, 5, stream="reference", processes=2, index=1, start_class=1)
    make(tmp_path / "one", one, sink="folder")
    names = sorted(
        p.relative_to(tmp_path / "one/image").as_posix() for p in (tmp_path / "one/image").rglob("*.png")
    )
    assert (
        len(names) == 15
        and names[0].startswith("00004/vertex_00")
        and names[0].endswith("_instance_0000.png")
    )
    again = MakeRequest.from_recipe(tmp_path / "one")
    make(tmp_path / "again", again, sink="folder")
    assert contents(tmp_path / "again") == contents(tmp_path / "one")
    with pytest.raises(UsageError, match="cannot grow"):
        make(
            tmp_path / "one",
            request(14, 5, stream="reference", processes=2, index=1, start_class=1),
            grow=True,
        )


@pytest.mark.parametrize("name", ["segrcdb", "scenes"])
@pytest.mark.parametrize("sink", ["folder", "tar", "parquet"])
def test_annotated_sets_are_stored_and_drawn_again(tmp_path: Path, name: str, sink: str) -> None:
    from curate.polygons.coco import read_coco
    from curate.polygons.store import open_annotations
    from curate.reruns.make import rerun
    from headwater.steps import read_record

    asked = MakeRequest(name, classes=3, instances=2, parameters={"image_size": 64}, block_size=4)
    make(tmp_path / "out", asked, sink=sink)
    record = read_record(tmp_path / "out")
    found = rerun(tmp_path / "out", record, sample=None, seed=0, executor=Executor("serial"))
    assert (found.checked, found.problems) == (6, [])
    if sink == "folder":
        coco = json.loads((tmp_path / "out/annotations.json").read_text())
        assert len(coco["images"]) == 6 and coco["annotations"]
        assert open_annotations(tmp_path / "out/polygons").equals(
            read_coco(tmp_path / "out/annotations.json")
        )
        masks = sorted(p.name for p in (tmp_path / "out/mask").rglob("*.png"))
        assert masks == sorted(p.name for p in (tmp_path / "out/image").rglob("*.png"))
        make(
            tmp_path / "out",
            MakeRequest(name, classes=5, instances=2, parameters={"image_size": 64}),
            grow=True,
        )
        whole = MakeRequest(name, classes=5, instances=2, parameters={"image_size": 64}, block_size=4)
        make(tmp_path / "whole", whole, sink=sink)
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_things_as_polygons_whoever_draws_and_whenever_stopped(tmp_path: Path) -> None:
    """The store does not depend on workers, and a run that was stopped behind it makes it again."""
    from curate import _making_things
    from curate.polygons.store import open_annotations
    from curate.polygons.validate import validate
    from headwater.steps import read_record

    asked = MakeRequest("scenes", classes=3, instances=2, parameters={"image_size": 64}, block_size=2)
    make(tmp_path / "one", asked)
    found = open_annotations(tmp_path / "one/polygons")
    assert len(found.images) == 6 and len(found.annotations) and len(found.vertices)
    assert all((tmp_path / "one" / name).is_file() for name in found.images["file_name"].to_pylist())
    assert validate(found, profile="coco", folder=tmp_path / "one").ok
    record = read_record(tmp_path / "one")
    assert record is not None
    assert "polygons/vertices.parquet" in {entry.path for entry in record.identity.outputs}
    verify_path(tmp_path / "one")

    def stopped(*arguments: Any) -> None:
        _making_things.write_things(*arguments)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("curate.making.write_things", stopped)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "two", asked)
    assert (tmp_path / ".two.headwater/parts/out/polygons/annotations.json").is_file()
    make(tmp_path / "two", asked, executor=Executor("pool", 2))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
