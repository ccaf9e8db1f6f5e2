"""Every registered recipe keeps the contract: it loads, it can be laid on a machine, open_clip understands it, and its towers are built.

A new recipe is tested by being there. One that cites an open_clip configuration by name has its number of parameters in PARAMETERS,
so that a wrong tower under the right name is seen.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from headwater.clip_model import build
from headwater.plugins import family_members
from train.arguments import (
    Placement,
    argument_list,
    batches_per_part,
    place,
    published_arguments,
    steps_per_part,
)
from train.recipe import Recipe, load_recipe, override, parse_recipe, recipe_text
from train.runs import config_document

NAMES = [plugin.name for plugin in family_members("recipes")]
NAMED: dict[str, Any] = {"train_data": "S", "model": "local-dir:M", "logs": "O", "name": "E", "seed": 3}

# millions, of both towers: open_clip's docs/model_profile.csv; for ViTamin what open_clip 3.3 with timm builds under that name
PARAMETERS = {
    "ViT-B-32": 151.28,
    "ViT-B-16": 149.62,
    "ViT-L-14": 427.62,
    "ViTamin-S": 62.47,
    "ViTamin-B": 150.95,
    "ViTamin-L": 456.97,
}


@pytest.fixture(params=NAMES)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return load_recipe(request.param)


def placed(recipe: Recipe, *, processes: int = 1, accumulation: int = 1) -> Placement:
    device = "cuda" if recipe.numerics.precision == "amp" else "cpu"
    return place(
        recipe, device=device, processes=processes, micro_batch=None, accumulation=accumulation, threads=1
    )


def parsed(arguments: list[str]) -> dict[str, Any]:
    pytest.importorskip("open_clip_train")
    from open_clip_train.params import parse_args

    return vars(parse_args(arguments))


def test_the_listing_says_what_it_is(recipe: Recipe) -> None:
    summary = {plugin.name: plugin.summary for plugin in family_members("recipes")}[recipe.name]
    assert summary == recipe.summary and 10 < len(summary) <= 140
    assert recipe.source and recipe.verified


def test_it_is_the_same_recipe_as_text_and_as_json(recipe: Recipe) -> None:
    import yaml

    assert parse_recipe(yaml.safe_load(recipe_text(recipe)), "text").id == recipe.id
    assert parse_recipe(json.loads(recipe.model_dump_json()), "json") == recipe


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_it_can_be_laid_on_one_process_and_on_four(recipe: Recipe, processes: int, accumulation: int) -> None:
    placement = placed(recipe, processes=processes, accumulation=accumulation)
    budget = recipe.budget
    assert placement.micro_batch * processes * accumulation == budget.global_batch
    steps = steps_per_part(recipe, placement) * budget.checkpoints
    seen = steps * budget.global_batch
    assert batches_per_part(recipe, placement) == steps_per_part(recipe, placement) * accumulation
    if budget.rounding == "exact":
        assert seen == budget.samples_seen
    else:  # no more is added than one batch of each stream in each part; accumulation may leave one step out
        slack = recipe.sampling.streams * budget.global_batch * budget.checkpoints
        assert abs(seen - budget.samples_seen) <= slack and slack < budget.samples_seen / 10
    assert recipe.schedule.warmup_steps < steps / 2


def test_open_clip_reads_its_arguments_as_they_are_meant(recipe: Recipe) -> None:
    for processes in (1, 4):
        placement = placed(recipe, processes=processes)
        found = parsed(argument_list(recipe, placement, **NAMED))
        optim = recipe.optim
        assert (found["lr"], found["beta1"], found["beta2"], found["eps"], found["wd"]) == (
            optim.lr,
            optim.beta1,
            optim.beta2,
            optim.eps,
            optim.weight_decay,
        )
        assert (found["opt"], found["grad_clip_norm"]) == (optim.name, optim.grad_clip_norm)
        assert found["batch_size"] * found["accum_freq"] * processes == recipe.budget.global_batch
        assert found["epochs"] * found["train_num_samples"] == recipe.budget.samples_seen
        assert (found["warmup"], found["lr_scheduler"]) == (
            recipe.schedule.warmup_steps,
            recipe.schedule.kind,
        )
        assert found["precision"] == recipe.numerics.precision and found["device"] == placement.device
        assert found["grad_checkpointing"] is recipe.numerics.grad_checkpointing
        assert found["ddp_static_graph"] is recipe.numerics.static_graph
        assert (found["local_loss"], found["gather_with_grad"]) == (
            recipe.loss.local_loss,
            recipe.loss.gather_with_grad,
        )
        assert found["siglip"] is (recipe.loss.kind == "sigmoid")
        assert found["dataset_resampled"] is (recipe.sampling.mode == "resampled")
        assert found["workers"] == recipe.sampling.streams and found["dataset_type"] == "webdataset"
        assert (found["image_mean"], found["image_std"]) == (recipe.preprocess.mean, recipe.preprocess.std)
        assert found["image_interpolation"] == recipe.preprocess.interpolation
        assert found["image_resize_mode"] == recipe.preprocess.resize_mode
        assert list(found["aug_cfg"]["scale"]) == recipe.preprocess.crop_scale
        assert (found["seed"], found["model"], found["resume"]) == (3, "local-dir:M", "latest")


def test_the_published_part_comes_first_and_is_a_part(recipe: Recipe) -> None:
    placement = placed(recipe)
    published = published_arguments(recipe, placement, **NAMED)
    whole = argument_list(recipe, placement, **NAMED)
    assert whole[: len(published)] == published and len(whole) > len(published)


def test_a_configuration_that_is_cited_is_open_clip_s_own(recipe: Recipe) -> None:
    pytest.importorskip("open_clip")
    from open_clip import get_model_config

    cited = recipe.model.builtin
    if cited is None:
        return  # a configuration of our own
    assert get_model_config(cited) == recipe.model.open_clip_config
    assert cited in PARAMETERS, (
        f"tests/contract/test_recipes.py: add the published size of {cited} to PARAMETERS"
    )


def test_its_towers_are_built(recipe: Recipe) -> None:
    """On torch's meta device: shapes and names without memory."""
    pytest.importorskip("open_clip")
    import torch

    document = config_document(recipe)
    with torch.device("meta"):
        model, _, tokenizer = build(document["model_cfg"], document["preprocess_cfg"])
    names = {name for name, _ in model.named_parameters()}
    assert ("logit_bias" in names) is (recipe.loss.kind == "sigmoid") and "logit_scale" in names
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer(["a red circle"]).shape == (1, recipe.context_length)
    count = sum(parameter.numel() for parameter in model.parameters())
    if recipe.model.builtin is not None:
        assert count / 1e6 == pytest.approx(PARAMETERS[recipe.model.builtin], abs=0.011)
    else:
        assert count < 20e6  # a recipe of our own, for small machines


@pytest.mark.parametrize("name", [name for name in NAMES if load_recipe(name).model.builtin is None])
def test_a_small_one_encodes(name: str) -> None:
    pytest.importorskip("open_clip")
    import numpy as np
    import torch
    from PIL import Image

    from headwater.clip_model import LoadedModel

    recipe = load_recipe(name)
    document = config_document(recipe)
    torch.manual_seed(0)
    model, transform, tokenizer = build(document["model_cfg"], document["preprocess_cfg"])
    size = recipe.preprocess.size
    loaded = LoadedModel(model.eval(), transform, tokenizer, 1.0, size)
    picture = transform(Image.new("RGB", (2 * size, size + 3), (200, 10, 10)))
    assert tuple(picture.shape) == (3, size, size)
    rows = loaded.encode_images(torch.stack([picture, picture]))
    texts = loaded.encode_texts(["a red circle", "word " * 200])
    assert rows.shape == texts.shape == (2, recipe.model.open_clip_config["embed_dim"])
    assert np.linalg.norm(np.vstack([rows, texts]), axis=1) == pytest.approx(np.ones(4), abs=1e-5)


def test_every_override_that_it_allows_exists_and_conforms(recipe: Recipe) -> None:
    document = recipe.model_dump(mode="json")
    for field in recipe.allowed_overrides:
        section, _, leaf = field.partition(".")
        value = document[section][leaf] if leaf else document[section]
        assert isinstance(value, bool), f"{field}: tell this test how to change it"
        changed, named, conforming = override(recipe, [f"{field}={str(not value).lower()}"])
        assert conforming and named == {field: not value} and changed.id != recipe.id
    _, _, conforming = override(recipe, [f"optim.lr={recipe.optim.lr * 2}"])
    assert not conforming
