"""The arguments that reach open_clip: those of DataComp's script, and everything it leaves out."""

from __future__ import annotations

import pytest

from headwater.errors import UsageError
from tests.train.kit import tiny_recipe
from train.arguments import (
    Placement,
    argument_list,
    batches_per_part,
    place,
    published_arguments,
    stated_arguments,
    steps_per_part,
)
from train.recipe import Recipe, load_recipe, parse_recipe

ONE_GPU = {"device": "cuda", "processes": 1, "micro_batch": None, "accumulation": 1, "threads": 1}


def placed(recipe: Recipe, **changes: object) -> Placement:
    return place(recipe, **{**ONE_GPU, **changes})  # type: ignore[arg-type]


# what DataComp's train.py passes for the scale small with its defaults (4 processes): its code, read in 2026
SMALL = (
    "--save-frequency 0 --ddp-static-graph --local-loss --gather-with-grad --grad-checkpointing --train-data SHARDS "
    "--train-num-samples 2560000 --warmup 500 --dataset-type webdataset --precision amp --workers 4 --model ViT-B-32 "
    "--batch-size 1024 --epochs 5 --lr 0.0005 --logs OUT --name EXP --seed 0 --accum-freq 1 --log-every-n-steps 100 "
    "--save-most-recent --resume latest --dataset-resampled"
)


def small(**changes: object) -> list[str]:
    recipe = load_recipe("clip-small")
    names = {"train_data": "SHARDS", "model": "ViT-B-32", "logs": "OUT", "name": "EXP", "seed": 0}
    return published_arguments(recipe, placed(recipe, processes=4), **{**names, **changes})  # type: ignore[arg-type]


def test_the_list_for_datacomp_small_is_the_published_one() -> None:
    assert " ".join(small()) == SMALL


def test_the_list_for_xlarge_names_its_beta2() -> None:
    recipe = load_recipe("clip-xlarge")
    found = published_arguments(
        recipe,
        placed(recipe, processes=512),
        train_data="S",
        model="ViT-L-14",
        logs="O",
        name="E",
        seed=0,
    )
    text = " ".join(found)
    assert "--batch-size 176 " in text and "--lr 0.001 " in text and "--warmup 10000 " in text
    assert "--train-num-samples 2560000000 " in text and text.endswith("--beta2 0.95")


@pytest.mark.parametrize("name", ["clip-small", "clip-medium", "clip-large", "clip-xlarge"])
def test_what_is_stated_besides_changes_nothing(name: str) -> None:
    """open_clip understands the published list and the whole list in the same way."""
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from open_clip.transform import AugmentationCfg
    from open_clip_train.params import parse_args

    recipe = load_recipe(name)
    placement = placed(recipe)
    names = {"train_data": "S", "model": str(recipe.model.builtin), "logs": "O", "name": "E", "seed": 0}
    published = vars(parse_args(published_arguments(recipe, placement, **names)))  # type: ignore[arg-type]
    whole = vars(parse_args(argument_list(recipe, placement, **names)))  # type: ignore[arg-type]
    differ = {key for key in whole if whole[key] != published[key]}
    # these four are open_clip's own defaults, which it fills in later
    assert differ <= {"image_mean", "image_std", "image_interpolation", "image_resize_mode", "aug_cfg"}
    assert (
        tuple(whole["image_mean"]) == OPENAI_DATASET_MEAN and tuple(whole["image_std"]) == OPENAI_DATASET_STD
    )
    assert (whole["image_interpolation"], whole["image_resize_mode"]) == ("bicubic", "shortest")
    assert whole["aug_cfg"] == {"scale": AugmentationCfg().scale}


@pytest.mark.parametrize(
    "name", ["clip-small", "clip-large", "clip-xlarge", "clip-vitamin-s", "clip-vitamin-l"]
)
def test_inline_configurations_are_open_clips_own(name: str) -> None:
    from open_clip import get_model_config

    recipe = load_recipe(name)
    assert recipe.model.builtin is not None
    assert get_model_config(recipe.model.builtin) == recipe.model.open_clip_config


def test_nothing_depends_on_the_name_of_a_folder() -> None:
    from open_clip_train.params import parse_args

    recipe = parse_recipe(tiny_recipe(), "test")
    placement = placed(recipe, device="cpu")
    both = []
    for model in ("local-dir:model", "local-dir:my-vit-coca"):
        names = {"train_data": "S", "logs": "O", "name": "E", "seed": 0}
        found = vars(parse_args(argument_list(recipe, placement, model=model, **names)))  # type: ignore[arg-type]
        found.pop("model")
        both.append(found)
    assert both[0] == both[1]
    assert (both[0]["beta1"], both[0]["beta2"], both[0]["eps"]) == (0.9, 0.98, 1e-6)


def test_sigmoid_is_asked_for() -> None:
    recipe = load_recipe("clip-nano-siglip")
    assert "--siglip" in stated_arguments(recipe, placed(recipe, device="cpu"))
    assert "--local-loss" not in small_of(recipe)


def small_of(recipe: Recipe) -> list[str]:
    names = {"train_data": "S", "model": "M", "logs": "O", "name": "E", "seed": 0}
    return published_arguments(recipe, placed(recipe, device="cpu"), **names)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"processes": 3}, "4,096"),
        ({"processes": 2, "micro_batch": 1024}, "2,048"),
        ({"micro_batch": 4097}, "4,097"),
        ({"accumulation": 0}, "--accumulation"),
        ({"processes": 0}, "--processes"),
        ({"threads": 0}, "--threads"),
        ({"micro_batch": -4096}, "-4,096"),
        ({"device": "cpu"}, "float16"),
    ],
)
def test_a_batch_that_does_not_fit_is_an_error(changes: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        placed(load_recipe("clip-small"), **changes)


def test_rounding_is_open_clips() -> None:
    """Small with 4 streams: 625 batches become 628 in each of 5 parts, 12.86 M samples."""
    recipe = load_recipe("clip-small")
    assert batches_per_part(recipe, placed(recipe)) == 628
    assert steps_per_part(recipe, placed(recipe)) * 5 * 4096 == 12_861_440
    assert batches_per_part(recipe, placed(recipe, processes=4)) == 628
    # 4 accumulation steps: 2,500 micro batches, a multiple of 4 streams already
    accumulated = placed(recipe, accumulation=4)
    assert batches_per_part(recipe, accumulated) == 2500 and steps_per_part(recipe, accumulated) == 625


def test_exact_rounding_sees_the_budget_and_no_more() -> None:
    recipe = load_recipe("clip-nano")
    for processes in (1, 2, 4):
        placement = placed(recipe, device="cpu", processes=processes, accumulation=2)
        assert steps_per_part(recipe, placement) * 5 * 128 == 12_800
