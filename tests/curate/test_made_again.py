"""Sets made again from their recipe, and recipes that lie or need another version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from curate.drawing import make_picture
from curate.generation import Generation, load_recipe
from curate.make_request import MakeRequest
from headwater.errors import HeadwaterError, IntegrityError, UsageError
from tests.curate.made_kit import contents, make, request


@pytest.mark.parametrize("sink", ["tar", "folder"])
def test_a_recipe_makes_the_same_set_again(tmp_path: Path, sink: str) -> None:
    asked = request(4, 6, min_lit=0.02, start_class=2, perturb=0.1, base=1, block_size=5)
    first = make(tmp_path / "out", asked, sink="tar")
    again = make(tmp_path / "again", MakeRequest.from_recipe(tmp_path / "out/recipe.json"), sink=sink)
    assert load_recipe(tmp_path / "again") == load_recipe(tmp_path / "out")
    if sink == "tar":
        assert again.step.id == first.step.id and contents(tmp_path / "again") == contents(tmp_path / "out")


def rewritten(path: Path, **changes: Any) -> Path:
    """The recipe with other content and an id that fits."""
    document = {**json.loads(path.read_text()), **changes}
    document["id"] = Generation.model_validate(document).content_id()
    path.write_text(json.dumps(document))
    return path


def test_a_recipe_whose_digests_do_not_come_out_writes_nothing(tmp_path: Path) -> None:
    make(tmp_path / "out", request(block_size=10), sink="recipe")
    path = tmp_path / "out/recipe.json"
    blocks = json.loads(path.read_text())["blocks"]
    blocks[2]["pixels"] = "ab" * 32
    rewritten(path, blocks=blocks)
    with pytest.raises(IntegrityError, match="block 00000002 .*the recipe says abababababab") as caught:
        make(tmp_path / "again", MakeRequest.from_recipe(path), sink="tar")
    assert caught.value.exit_code == 13 and not (tmp_path / "again").exists()
    make(tmp_path / "good", request(block_size=10), sink="recipe")
    with pytest.raises(IntegrityError, match="block 00000002 has pixels"):
        make(tmp_path / "good", MakeRequest.from_recipe(path), sink="recipe")  # it is there already


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"version": 99}, HeadwaterError, "made by version 99 of visualatom; here is version"),
        ({"generator": "visualatm"}, UsageError, "did you mean 'visualatom'"),
        ({"generator": "../../etc/passwd"}, UsageError, "unknown generator"),
        ({"parameters": {"image_size": 10**15}}, UsageError, "--image-size"),
        ({"parameters": {"image_size": "24"}}, UsageError, "--image-size is 24: must be a whole number"),
        ({"parameters": {"nonsense": 1}}, UsageError, "nonsense: no parameter of visualatom"),
        ({"stream": "reference"}, IntegrityError, "its stream and its processes contradict"),
        ({"perturb": {"delta": 0.1, "base": 10**10}}, UsageError, "--base is"),
    ],
)
def test_recipes_that_cannot_be_drawn_are_refused(
    tmp_path: Path, changes: dict[str, Any], kind: type[HeadwaterError], said: str
) -> None:
    make(tmp_path / "out", sink="recipe")
    path = rewritten(tmp_path / "out/recipe.json", **changes)
    with pytest.raises(kind) as caught:
        make(tmp_path / "again", MakeRequest.from_recipe(path), sink="tar")
    assert said in caught.value.message and not (tmp_path / "again").exists()
    if "perturb" not in changes:
        with pytest.raises(HeadwaterError):
            make_picture(path, 0, 0)
