"""One task measured: from a family's figures to the line that stands for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from headwater.errors import HeadwaterError, UsageError
from headwater.hashing import digest_file
from train.evaldata import Encoder, FeatureCache, TaskData
from train.evals import family_of
from train.results import TaskLine, examples_path, write_examples
from train.suite import Digests, Suite, Task


def measure_task(
    model: Encoder,
    suite: Suite,
    task: Task,
    digests: Digests,
    cache: FeatureCache,
    parts: Path | None,
    *,
    seed: int,
    workers: int,
) -> tuple[TaskLine, list[tuple[str, str]]]:
    """Measure one task; with `parts`, its examples are written there."""
    data = TaskData(task, suite.folder(task), workers, cache)
    result = family_of(task.family).run(data, model, seed=seed, workers=workers)
    result.check()
    if result.main_metric_name != task.main_metric:
        raise HeadwaterError(
            f"family {task.family} gave {result.main_metric_name!r} for task {task.key}, not {task.main_metric!r}"
        )
    bad = [
        (key, reason if split == "test" else f"{split}: {reason}")
        for split, entries in sorted(data.invalid.items())
        for key, reason in entries
    ]
    sha256 = None
    if parts is not None:
        path = examples_path(parts, task.key)
        write_examples(path, result.examples)
        sha256 = digest_file(path, ("sha256",)).sha256
    invalid: dict[str, int] = {}
    for _, reason in bad:
        invalid[reason] = invalid.get(reason, 0) + 1
    metrics: dict[str, float | None] = {**result.metrics, "main_metric": result.main_metric}
    measured = {
        "n": result.n,
        "standard_error": result.standard_error,
        "chance": result.chance,
        "examples_sha256": sha256,
        "invalid": dict(sorted(invalid.items())),
    }
    line = line_of(suite, task, digests, metrics).model_copy(update=measured)
    return line, bad


def line_of(
    suite: Suite, task: Task, digests: Digests, metrics: Mapping[str, float | None] | None
) -> TaskLine:
    """A task's line with what the suite says of it; `metrics` None: the set is missing."""
    return TaskLine(
        key=task.key,
        dataset=task.name,
        metrics={"main_metric": None, **(metrics or {})},
        status="missing" if metrics is None else "done",
        main_metric_name=task.main_metric,
        family=task.family,
        family_version=None if metrics is None else family_of(task.family).version,
        task_digest=digests.tasks[task.key],
    )


def measure(
    model: Encoder, suite: Suite, digests: Digests, *, seed: int = 0, workers: int = 1
) -> list[TaskLine]:
    """The lines of a suite's tasks for a model, nothing written: for what chooses by a held-out suite, such as soups."""
    cache = FeatureCache()
    return [
        line_of(suite, task, digests, None)
        if suite.missing(task)
        else measure_task(model, suite, task, digests, cache, None, seed=seed, workers=workers)[0]
        for task in suite.tasks
    ]


def held_out_score(
    suite: Suite, digests: Digests, *, device: str = "cpu", seed: int = 0, workers: int = 1
) -> Callable[[Path], float]:
    """A function from a folder that open_clip reads to the mean of the suite's main metrics: what a greedy soup is chosen by.

    Raises UsageError when a task of the suite has no main metric or no set: the means would be of different lists.
    """
    for task in suite.tasks:
        if task.main_metric is None or suite.missing(task):
            raise UsageError(
                f"task {task.key} gives no figure to choose by",
                hint="name tasks that have a main metric and a set",
            )

    def score(folder: Path) -> float:
        from headwater.clip_model import load_model

        lines = measure(load_model(folder, device=device), suite, digests, seed=seed, workers=workers)
        values = [line.main_metric for line in lines if line.main_metric is not None]
        return sum(values) / len(values)

    return score
