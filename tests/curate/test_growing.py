"""Sets that grow, and outputs that hold something else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from curate.generation import load_recipe
from headwater.errors import IntegrityError, UsageError
from headwater.verify import verify_path
from tests.curate.made_kit import contents, hearing, make, request


@pytest.mark.parametrize("sink", ["folder", "tar", "parquet", "recipe"])
def test_growing_links_what_is_there_and_gives_the_whole_set(tmp_path: Path, sink: str) -> None:
    order: dict[str, Any] = {"order": "class"}
    make(tmp_path / "out", request(5, 4, block_size=8, **order), sink=sink)
    before = {p.relative_to(tmp_path): p.stat().st_ino for p in (tmp_path / "out").rglob("*") if p.is_file()}
    grown = make(tmp_path / "out", request(9, 4, **order), sink=sink, grow=True)
    whole = make(tmp_path / "whole", request(9, 4, block_size=8, **order), sink=sink)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert grown.step.id == whole.step.id
    if sink == "tar":
        same = [
            n
            for n in ("00000000.tar", "00000001.tar", "00000002.tar")
            if (tmp_path / "out" / n).stat().st_ino == before[Path("out", n)]
        ]
        assert same == ["00000000.tar", "00000001.tar"]  # the third was not full
    if sink == "folder":
        kept = [
            p
            for p in (tmp_path / "out/image").rglob("*.png")
            if before.get(p.relative_to(tmp_path)) == p.stat().st_ino
        ]
        assert len(kept) == 16
    assert verify_path(tmp_path / "out").as_result()["ok"]


def test_a_set_in_order_of_instance_grows_by_instances(tmp_path: Path) -> None:
    make(tmp_path / "out", request(3, 4, block_size=3), sink="tar")
    make(tmp_path / "out", request(3, 9), grow=True)  # sink, order and blocks are those of the set
    make(tmp_path / "whole", request(3, 9, block_size=3), sink="tar")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    with pytest.raises(UsageError, match="grows by --instances; --classes stays 3") as caught:
        make(tmp_path / "out", request(4, 9), grow=True)
    assert "--start-class 3" in str(caught.value.hint)
    with pytest.raises(UsageError, match="would drop some"):
        make(tmp_path / "out", request(3, 8), grow=True)
    with pytest.raises(UsageError, match="--seed is 0 there, 1 here"):
        make(tmp_path / "out", request(3, 12, seed=1), grow=True)


def test_growing_twice_and_after_damage(tmp_path: Path) -> None:
    asked = {"order": "class", "block_size": 8}
    make(tmp_path / "out", request(4, 4, **asked), sink="tar")
    path = tmp_path / "out/00000001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    (tmp_path / "out/00000000.tar").unlink()
    with hearing() as said:
        make(tmp_path / "out", request(6, 4), sink="tar", grow=True)
    assert [text for text in said if "missing or damaged" in text and "drawn again" in text][:1]
    make(tmp_path / "out", request(9, 4), sink="tar", grow=True)
    make(tmp_path / "whole", request(9, 4, **asked), sink="tar")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_growing_a_set_whose_recipe_was_changed_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "out", sink="tar")
    recipe = load_recipe(tmp_path / "out")
    lie = recipe.model_copy(update={"blocks": [recipe.blocks[0].model_copy(update={"pixels": "1" * 64})]})
    (tmp_path / "out/recipe.json").write_text(lie.sealed().model_dump_json())
    with pytest.raises(IntegrityError, match="not the recipe that the record names"):
        make(tmp_path / "out", request(5, 9), grow=True)


def test_growing_nothing_makes_it(tmp_path: Path) -> None:
    make(tmp_path / "out", sink="tar", grow=True)
    make(tmp_path / "whole", sink="tar")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_another_recipes_pictures_are_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path / "out", sink="tar")
    for other, said in (
        (request(seed=4), "--seed is 0 there, 4 here"),
        (request(parameters={"line_num_max": 9}), "--line-num-max is 8 there, 9 here"),
        (request(6), "--classes is 5 there, 6 here"),
        (request(min_lit=0.1), "--rejection is not set there"),
    ):
        with pytest.raises(UsageError) as caught:
            make(tmp_path / "out", other, sink="tar")
        assert "pictures of another recipe" in caught.value.message and said in caught.value.message
    with pytest.raises(UsageError, match="--sink is tar there, folder here"):
        make(tmp_path / "out", sink="folder", param_csv=False)
    before = contents(tmp_path / "out")
    make(tmp_path / "out", request(seed=4), sink="tar", force=True)
    assert contents(tmp_path / "out") != before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("x")
    with pytest.raises(UsageError, match="no record of how it was made"):
        make(tmp_path / "out")


@pytest.mark.parametrize("last", ["stage", "record.json"])
def test_killed_between_the_last_renames_it_still_knows_what_it_grew_from(
    tmp_path: Path, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "out", request(3, 4, block_size=3), sink="tar")

    def dying(name: str) -> Any:
        real = getattr(os, name)

        def call(source: Any, target: Any) -> None:
            if Path(source).name == last:
                raise KeyboardInterrupt
            real(source, target)

        return call

    with monkeypatch.context() as patch:
        patch.setattr("headwater.steps.os.rename", dying("rename"))
        patch.setattr("headwater.steps.os.replace", dying("replace"))
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "out", request(3, 9), grow=True)
    assert not (tmp_path / "out/step.json").exists()
    make(tmp_path / "out", request(3, 9), grow=True)
    make(tmp_path / "whole", request(3, 9, block_size=3), sink="tar")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert (tmp_path / "out/step.json").exists() and not (tmp_path / ".out.headwater").exists()
