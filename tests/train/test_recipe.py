"""Recipes: full, strict, and known by what decides the result."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from headwater import plugins
from headwater.errors import MissingInput, UsageError
from tests.train.kit import tiny_recipe, write_recipe
from train.recipe import Recipe, differences, load_recipe, override, parse_recipe, recipe_text

NAMES = [plugin.name for plugin in plugins.family_members("recipes")]

# the id of a published recipe never changes; a new one gets a line here
IDS = {
    "clip-large": "adc9c2df7249",
    "clip-medium": "20121a1bbccb",
    "clip-medium-siglip": "77be34f100a4",
    "clip-micro": "888c06a318f7",
    "clip-nano": "1f5ee767c003",
    "clip-nano-ema": "752dc19f7a71",
    "clip-nano-siglip": "fe2b99ff01a8",
    "clip-small": "2e66fbe937a1",
    "clip-small-siglip": "0acd8b586e88",
    "clip-vitamin-b": "84e4fe19d98e",
    "clip-vitamin-l": "df29b90a003a",
    "clip-vitamin-s": "f8411dda8b24",
    "clip-xlarge": "90047310369b",
}


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_of_the_package_is_valid_and_named_as_its_file(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.summary.endswith(".")
    assert recipe.source


def test_the_recipes_that_were_promised_are_there() -> None:
    scales = {f"clip-{scale}" for scale in ("nano", "micro", "small", "medium", "large", "xlarge")}
    others = {"clip-vitamin-s", "clip-vitamin-b", "clip-vitamin-l", "clip-nano-siglip", "clip-small-siglip"}
    assert scales | others <= set(NAMES)


def test_ids_of_recipes_do_not_drift() -> None:
    assert {name: load_recipe(name).id[:12] for name in NAMES} == IDS


def test_no_two_recipes_are_the_same() -> None:
    ids = [load_recipe(name).id for name in NAMES]
    assert len(set(ids)) == len(ids)


def test_labels_do_not_decide_and_everything_else_does() -> None:
    base = parse_recipe(tiny_recipe(), "test")
    labelled = parse_recipe(tiny_recipe(name="other", summary="x", verified="2026"), "test")
    assert labelled.id == base.id
    assert parse_recipe(tiny_recipe(**{"model.builtin": "ViT-B-32"}), "test").id == base.id
    for field, value in (("optim.lr", 2e-3), ("keep_checkpoints", False), ("sampling.streams", 1)):
        assert parse_recipe(tiny_recipe(**{field: value}), "test").id != base.id
        assert differences(base, parse_recipe(tiny_recipe(**{field: value}), "test")) == [field]


def test_text_loads_to_the_same_recipe(tmp_path: Path) -> None:
    for name in NAMES:
        recipe = load_recipe(name)
        (tmp_path / "recipe.yaml").write_text(recipe_text(recipe))
        assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("optim.lr", float("nan"), "optim.lr"),
        ("optim.lr", "1e-3", "optim.lr"),
        ("optim.beta1", 1.0, "optim.beta1"),
        ("budget.samples_seen", 0, "budget.samples_seen"),
        ("budget.samples_seen", 193, "whole batches"),
        ("budget.global_batch", True, "budget.global_batch"),
        ("preprocess.size", 64, "image_size"),
        ("preprocess.crop_scale", [1.0, 0.9], "crop_scale"),
        ("sampling.mode", "random", "sampling.mode"),
        ("unknown", 1, "unknown"),
        ("format", "recipe/2", "format"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        parse_recipe(tiny_recipe(**{field: value}), "test")


def test_yaml_that_is_more_than_data_is_refused(tmp_path: Path) -> None:
    """Fault row 66."""
    text = yaml.safe_dump(tiny_recipe())
    hostile = {
        "object": text + "x: !!python/object/apply:os.system [true]\n",
        "alias": text + "a: &a [1]\nb: *a\n",
        "twice": text + "task: clip\n",
        "tab": "format:\trecipe/1\n\tname: x\n",
    }
    for name, document in hostile.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(document)
        with pytest.raises(UsageError, match=f"{name}.yaml"):
            load_recipe(path)


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(UsageError, match="clip-nano"):
        load_recipe("clip-nan")
    with pytest.raises(MissingInput, match="no such recipe file"):
        load_recipe("missing.yaml")


def test_overrides_are_recorded_and_decide_conformity(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml"))
    same, changed, conforming = override(recipe, ["optim.lr=1e-3"])
    assert (same, changed, conforming) == (recipe, {}, True)
    other, changed, conforming = override(recipe, ["optim.lr=5e-4", "budget.global_batch=8"])
    assert other.optim.lr == 5e-4 and other.budget.global_batch == 8
    assert changed == {"optim.lr": 5e-4, "budget.global_batch": 8} and not conforming
    allowed, changed, conforming = override(recipe, ["numerics.grad_checkpointing=true"])
    assert allowed.numerics.grad_checkpointing and changed and conforming
    for wrong in ("lr=1", "optim.nothing=1", "optim.lr", "optim.lr=fast", "name=x", "budget.samples_seen=-1"):
        with pytest.raises(UsageError):
            override(recipe, [wrong])


def test_recipes_are_frozen() -> None:
    recipe = Recipe.model_validate(tiny_recipe())
    with pytest.raises(ValueError):
        recipe.name = "x"  # type: ignore[misc]
