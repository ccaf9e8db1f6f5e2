"""A run: the folder that a training leaves, which open_clip reads as `local-dir:RUN`, and the record of what it saw.

run.json                      `run/1`, the same bytes for the same recipe, data, seed and placement
recipe.yaml                   the recipe as it was resolved
open_clip_config.json, open_clip_model.safetensors   the model; the averaged weights where the recipe has an average
raw.safetensors               then the last weights themselves
checkpoints/part_N.safetensors  the weights after each part, when the recipe keeps them
seen.parquet, curve.parquet   how often each sample was seen, and the loss of every step
timing.json, report.html      what happened to be true; not described by the record
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from headwater.clip_model import CONFIG, find_weights
from headwater.config import load_yaml
from headwater.errors import IntegrityError, MissingInput
from headwater.hashing import digest_file
from headwater.manifest import Count, Hex64, Record, Step, identity_id
from headwater.steps import read_record
from train.recipe import Recipe, parse_recipe


class Run(Record):
    """`run/1`: what a training was, and what it really saw."""

    format: Literal["run/1"] = "run/1"
    recipe_id: Hex64 = Field(description="the recipe that was asked for")
    resolved_id: Hex64 = Field(description="that recipe with the overrides: the same when there are none")
    recipe_name: str
    data_id: Hex64 = Field(description="SHA-256 over the sorted names and digests of the shards")
    seed: int
    conforming: bool = Field(description="no field was changed that the recipe does not leave to the machine")
    overrides: dict[str, Any] = Field(default_factory=dict)
    placement: dict[str, Any] = Field(description="device, processes, micro_batch, accumulation, threads")
    steps: Count
    samples_seen: Count = Field(description="samples that the optimizer saw, with repeats")
    samples_asked: Count = Field(description="the budget; rounding may add to it")
    unique_samples: Count
    usable_samples: Count = Field(description="in the shards, with picture and caption")
    repeats: dict[str, Count] = Field(description="times seen -> samples; a key may be a range such as 17-32")
    skipped: dict[str, Count] = Field(default_factory=dict, description="by reason, each time it happened")
    first_loss: float | None
    last_loss: float | None = Field(description="mean of the last tenth of the steps")
    chance_loss: float = Field(description="of a model that knows nothing, for this loss and batch")
    verdict: str
    parameters: Count
    extras: dict[str, Any] = Field(
        default_factory=dict, description="of steps that make runs otherwise, such as soups"
    )


@dataclass(frozen=True)
class RunFolder:
    """A folder with a model; `run`, `recipe` and `step` are None for one that open_clip made elsewhere."""

    path: Path
    run: Run | None
    recipe: Recipe | None
    step: Step | None
    id: str


def open_run(path: Path) -> RunFolder:
    """The run in a folder. Raises MissingInput (no model there) or IntegrityError (a record that cannot be read)."""
    if not path.is_dir():
        raise MissingInput(f"{path}: no such folder", hint="name a folder that headwater train wrote")
    if not (path / CONFIG).is_file():
        raise MissingInput(f"{path}: has no {CONFIG}, so it is no run and no open_clip folder")
    if not (path / "run.json").is_file():
        weights = find_weights(path)
        digests = [digest_file(file).sha256 for file in (path / CONFIG, weights)]
        return RunFolder(path, None, None, None, identity_id({"open_clip": digests}))
    try:
        run = Run.model_validate_json((path / "run.json").read_bytes())
        recipe = parse_recipe(load_yaml(path / "recipe.yaml"), str(path / "recipe.yaml"))
    except ValidationError as error:
        raise IntegrityError(f"{path / 'run.json'}: not a run/1 record", hint="train again") from error
    step = read_record(path)
    if step is None:
        raise IntegrityError(
            f"{path}: has no step record, so its training did not end", hint="run the same line again"
        )
    if recipe.id != run.resolved_id:
        raise IntegrityError(
            f"{path / 'recipe.yaml'}: is not the recipe that run.json names", hint="train again"
        )
    return RunFolder(path, run, recipe, step, step.id)


def config_document(recipe: Recipe) -> dict[str, Any]:
    """`open_clip_config.json` of a recipe's model."""
    model = dict(recipe.model.open_clip_config)
    if recipe.loss.kind == "sigmoid":
        model.setdefault("init_logit_bias", -10)  # the parameter exists only where the configuration has it
    preprocess = recipe.preprocess
    return {
        "model_cfg": model,
        "preprocess_cfg": {
            "size": preprocess.size,
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "interpolation": preprocess.interpolation,
            "resize_mode": preprocess.resize_mode,
        },
    }
