"""Evaluations made up for tests: RESULTS and RUN folders with the figures wanted, written as the product writes them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from headwater.files import write_json
from headwater.manifest import Counts, Energy, EnergyComponent, Step, StepIdentity, identity_id
from train.aggregate import aggregates
from train.results import (
    RESULTS_NAME,
    Results,
    TaskLine,
    examples_path,
    write_examples,
)
from train.runs import Run

RECIPE, SUITE = "a" * 64, "5" * 64


def hex_of(*parts: object) -> str:
    """64 hex digits that depend on `parts`."""
    return identity_id([str(part) for part in parts])


def task(folder: Path, key: str, correct: Any, **more: Any) -> TaskLine:
    """One task's line, its examples written. `correct` (n,) of 0 and 1 gives accuracy; `columns` adds to the examples."""
    correct = np.asarray(correct)
    n = len(correct)
    columns: dict[str, Any] = {
        "index": np.arange(n, dtype=np.int32),
        "key": [f"{i:05d}" for i in range(n)],
        "correct": correct.astype(bool),
        "score": correct.astype(np.float32),
    } | more.pop("columns", {})
    columns = {name: column for name, column in columns.items() if column is not None}
    path = examples_path(folder, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_examples(path, columns)
    value = more.pop("value", float(correct.mean()))
    metric = more.pop("metric", "acc1")
    line = {
        "key": key,
        "dataset": key.title(),
        "metrics": {metric: value, "main_metric": value},
        "main_metric_name": metric,
        "n": n,
        "standard_error": float(correct.std(ddof=1) / np.sqrt(n)),
        "chance": 0.1,
        "family": "zeroshot",
        "family_version": 1,
        "task_digest": hex_of("task", key),
        "examples_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    return TaskLine(**(line | more))


def results(
    folder: Path, lines: list[TaskLine], *, data: str = "x", seed: int = 0, groups: Any = None, **more: Any
) -> Path:
    """A RESULTS folder of a run on `data` with `seed`; `more` replaces fields of result/1."""
    groups = groups or {"average": [line.key for line in lines]}
    document = {
        "run_id": run_id(data, seed),
        "recipe_id": RECIPE,
        "data_id": hex_of("data", data),
        "seed": seed,
        "conforming": True,
        "eval_seed": 0,
        "suite": "small",
        "suite_id": SUITE,
        "tasks": lines,
        "aggregates": aggregates(lines, groups),
        "missing": [line.key for line in lines if line.status == "missing"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RESULTS_NAME, Results(**(document | more)).model_dump(mode="json"))
    return folder


def run_id(data: str, seed: int) -> str:
    return hex_of("run", data, seed)


def run_folder(
    folder: Path, *, data: str = "x", seed: int = 0, recipe: str | None = None, **more: Any
) -> Path:
    """A RUN folder without weights: run.json, step.json with measured and modelled joules, perhaps recipe.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "recipe_id": RECIPE,
        "resolved_id": RECIPE,
        "recipe_name": "clip-nano",
        "data_id": hex_of("data", data),
        "seed": seed,
        "conforming": True,
        "placement": {},
        "steps": 100,
        "samples_seen": 12_800,
        "samples_asked": 12_800,
        "unique_samples": 4_000,
        "usable_samples": 4_100,
        "repeats": {"3": 4_000},
        "first_loss": 4.8,
        "last_loss": 3.9,
        "chance_loss": 4.85,
        "verdict": "learned",
        "parameters": 7_000_000,
    }
    run = Run(**(facts | more))
    write_json(folder / "run.json", run.model_dump(mode="json"))
    if recipe is not None:
        (folder / "recipe.yaml").write_text(recipe)
    step = Step(
        id=run_id(data, seed),
        key=hex_of("key", data, seed),
        identity=StepIdentity(
            step="train", version=1, config={}, inputs=[], outputs=[], counts=Counts(read=1, kept=1)
        ),
        energy=energy(),
    )
    write_json(folder / "step.json", step.model_dump(mode="json"))
    return folder


def energy() -> Energy:
    """Measured GPU and modelled processor."""

    def part(device: str, joules: float | None, method: str, quality: str) -> EnergyComponent:
        return EnergyComponent(
            device=device,
            joules=joules,
            method=method,
            quality=quality,
            share="process",
            interval_seconds=90.0,
        )

    return Energy(
        stage="train",
        started_at="2024-01-01T00:00:00.000Z",
        finished_at="2024-01-01T00:01:30.000Z",
        duration_seconds=90.0,
        cpu_seconds=80.0,
        components=[
            part("cpu", 500.0, "tdp_load", "modelled"),
            part("gpu0", 900.0, "nvml_counter", "measured"),
        ],
        measured_joules=900.0,
        modelled_joules=500.0,
        provider="made up",
    )
