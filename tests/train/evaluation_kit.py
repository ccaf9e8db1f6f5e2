"""A suite of four tasks, one of them missing, and its evaluation by a model without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headwater.manifest import Step
from headwater.steps import Outcome, RunOptions
from tests.train import eval_kit as kit
from train.evaluation import plan_eval, run_eval
from train.suite import load_suite

TASKS = [
    kit.task("colours", size=30, groups=["easy"]),
    kit.task("captions", family="retrieval", main_metric="mean_recall@1", size=20),
    kit.task("recall", folder="colours", main_metric="mean_per_class_recall"),
    kit.task("absent", groups=["easy"]),
]


def make_root(folder: Path) -> Path:
    """The suite at `folder`, with the sets of three of its tasks."""
    kit.colour_set(folder / "colours", n=30)
    kit.caption_set(folder / "captions", n=20)
    return kit.write_suite(folder, TASKS)


def evaluate(root: Path, output: Path, model: Any = None, workers: int = 1, **fields: Any) -> Outcome:
    plan = plan_eval(kit.subject(model), load_suite(root), output, **fields)
    outcome = run_eval(plan, RunOptions(), workers=workers)
    assert outcome is not None
    return outcome


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "step.json"
    }


def identity(step: Step) -> Any:
    return step.identity.model_dump()
