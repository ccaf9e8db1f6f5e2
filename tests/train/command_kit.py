"""Runs and suites for tests of `eval`, `compare`, `leaderboard` and `soup` as commands: no training, and no torch where a fake model will do.

made_run(folder, data="x", seed=0)        a RUN folder as training leaves it, its record true; the weights are bytes that nothing can load
small_suite(root)                         two sets of colours, and a third task whose set is missing
fake_models(monkeypatch)                  every run loads as a model of colours, better or worse by its seed and data
plain_weights(folder, value)              a small safetensors file; needs torch
valid(name, document, *beside)            that a document is of a format
state_energy(run, attempts=1)             put joules into the record of a run, which no id covers
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from headwater import schema
from headwater.clip_model import CONFIG, WEIGHTS
from headwater.files import write_json
from headwater.manifest import Counts, Step
from headwater.steps import Plan, RunOptions, Work, run_step
from tests.train import eval_kit
from tests.train.kit import tiny_recipe
from tests.train.results_kit import energy, hex_of
from train.recipe import override, parse_recipe, recipe_text
from train.runs import Run, config_document

TASKS = [
    eval_kit.task("colours", size=24, groups=["average"]),
    eval_kit.task("captions", family="retrieval", main_metric="mean_recall@1", size=12, groups=["average"]),
    eval_kit.task("absent"),
]


def small_suite(root: Path) -> Path:
    """`suite.yaml` and two of the three sets it names; the sets are the same bytes each time."""
    eval_kit.colour_set(root / "colours", n=24)
    eval_kit.caption_set(root / "captions", n=12)
    return eval_kit.write_suite(root, TASKS)


def made_run(
    folder: Path,
    *,
    data: str = "x",
    seed: int = 0,
    weights: bytes | None = None,
    overrides: tuple[str, ...] = (),
    parts: int = 0,
    **changes: Any,
) -> Path:
    """A run of the tiny recipe (with dotted `changes`) on `data`; its weights name data and seed, unless they are given."""
    asked = parse_recipe(tiny_recipe(**changes), "kit")
    recipe, changed, conforming = override(asked, overrides)
    run = Run(
        recipe_id=asked.id,
        resolved_id=recipe.id,
        recipe_name=asked.name,
        data_id=hex_of("data", data),
        seed=seed,
        conforming=conforming,
        overrides=changed,
        placement={"device": "cpu"},
        steps=12,
        samples_seen=192,
        samples_asked=192,
        unique_samples=60,
        usable_samples=64,
        repeats={"0": 4, "2": 24, "4": 36},
        first_loss=2.7,
        last_loss=2.0,
        chance_loss=2.772,
        verdict="learning",
        parameters=10,
    )

    def work(job: Work) -> Counts:
        (job.stage / CONFIG).write_text(json.dumps(config_document(recipe)))
        (job.stage / "recipe.yaml").write_text(recipe_text(recipe))
        (job.stage / WEIGHTS).write_bytes(weights or f"weights of {data} {seed}".encode())
        if parts:
            (job.stage / "checkpoints").mkdir()
        for part in range(1, parts + 1):
            name = f"checkpoints/part_{part}.safetensors"
            (job.stage / name).write_bytes(f"part {part} of {data} {seed}".encode())
        write_json(job.stage / "run.json", run.model_dump(mode="json"))
        return Counts(read=64, kept=64)

    config = {"data": data, "resolved": recipe.id}
    run_step(Plan("train", 1, config, [], folder, "folder", seed), work, RunOptions())
    return folder


def fake_models(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Loading a run gives a model of colours; returns the folders that were loaded, as it grows."""
    from headwater import clip_model

    loaded: list[Path] = []

    def load(folder: Path, *, device: str = "cpu", weights: Path | None = None) -> eval_kit.ColourModel:
        loaded.append(folder)
        run = folder / "run.json"
        told = json.loads(run.read_bytes()) if run.is_file() else {"seed": 0, "data_id": "0"}
        return eval_kit.ColourModel(noise=1 + told["seed"] + int(told["data_id"][0], 16) / 8)

    monkeypatch.setattr(clip_model, "load_model", load)
    return loaded


def state_energy(run: Path, *, attempts: int = 1) -> Path:
    """900 J of a GPU, measured, and 500 J of a processor, modelled, as what the training used."""
    path = run / "step.json"
    step = Step.model_validate_json(path.read_bytes())
    changed = step.model_copy(update={"energy": energy(), "details": {**step.details, "attempts": attempts}})
    write_json(path, changed.model_dump(mode="json"))
    return run


def plain_weights(folder: Path, value: float) -> bytes:
    """A safetensors file with two small tensors of `value`."""
    import torch

    from headwater.weights import write_weights

    path = folder / "made.safetensors"
    write_weights({"visual.bias": torch.full((3,), value), "logit_scale": torch.tensor(value)}, path)
    return path.read_bytes()


def valid(name: str, document: dict[str, Any], *beside: str) -> None:
    """That a document is of a format, apart from the keys that the command adds."""
    plain = {key: value for key, value in document.items() if key not in beside}
    jsonschema.Draft202012Validator(json.loads(schema.schema_text(name))).validate(plain)
