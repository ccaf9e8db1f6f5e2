"""What an evaluation leaves: `result/1`, one DataComp line a task, and a row for every test example.

    RESULTS/eval_results.jsonl       one object a line; {"key", "dataset", "metrics": {…, "main_metric"}} is DataComp's, the rest ours
    RESULTS/examples/<key>.parquet   index, key, score or correct, group …: what paired tests need
    RESULTS/results.json             result/1: who was evaluated on what, aggregates with the hash of their task list
    RESULTS/step.json                how it was made, and its energy

A figure that is not known is null: a missing set, acc5 with four classes, a standard error of one example.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError, field_validator

from headwater.errors import HeadwaterError, IntegrityError, MissingInput
from headwater.manifest import Count, Hex64, Record

LINES_NAME = "eval_results.jsonl"
RESULTS_NAME = "results.json"
EXAMPLES_FOLDER = "examples"
MAX_LINES_BYTES = 64 << 20

Column = np.ndarray[Any, np.dtype[Any]] | list[str]


@dataclass(frozen=True)
class TaskResult:
    """What a family returns.

    `examples`: columns of one length n; always `index` (int32, 0…n-1 in tar order) and `key` (str). Where the main metric is a
    mean over examples, `score` (float32) is what it is the mean of; `correct` (bool) beside it where each is right or wrong.
    `group` (int32) where the set has groups; others are the family's own.
    """

    metrics: Mapping[str, float | None]
    main_metric: float | None
    main_metric_name: str | None
    n: int
    standard_error: float | None  # of the main metric, over test examples; null when it cannot be told
    chance: float | None  # what guessing would reach on the main metric
    examples: Mapping[str, Column] = field(default_factory=dict)

    def check(self) -> None:
        """Raise HeadwaterError when the columns or figures cannot be right: a family's fault, never the data's."""
        lengths = {name: len(column) for name, column in self.examples.items()}
        if set(lengths.values()) - {self.n} or {"index", "key"} - lengths.keys():
            raise HeadwaterError(f"an eval family returned columns {lengths} for n = {self.n:,}")
        for name, value in (*self.metrics.items(), ("main_metric", self.main_metric)):
            if value is not None and not np.isfinite(value):
                raise HeadwaterError(f"an eval family returned {value} for {name}; what is not known is None")


class TaskLine(Record):
    """One line of eval_results.jsonl."""

    key: str
    dataset: str = Field(description="display name")
    metrics: dict[str, float | None] = Field(
        description="by name; main_metric always, null when there is none"
    )
    status: Literal["done", "missing"] = Field(
        "done", description="missing: the set is not there, and nothing was measured"
    )
    main_metric_name: str | None = None
    n: Count | None = Field(None, description="test examples measured")
    standard_error: float | None = Field(
        None, description="of main_metric over test examples; says nothing of seeds"
    )
    chance: float | None = Field(None, description="main_metric of a guess")
    family: str | None = None
    family_version: int | None = None
    task_digest: Hex64 | None = Field(
        None, description="identity of data, prompts and options; null when missing"
    )
    examples_sha256: Hex64 | None = Field(None, description="of examples/<key>.parquet")
    invalid: dict[str, Count] = Field(default_factory=dict, description="test examples left out, by reason")

    @field_validator("metrics")
    @classmethod
    def _ordered(cls, metrics: dict[str, float | None]) -> dict[str, float | None]:
        # by name, main_metric last: a line that was kept by an earlier run is written in the same order
        return dict(sorted(metrics.items(), key=lambda item: (item[0] == "main_metric", item[0])))

    @property
    def main_metric(self) -> float | None:
        return self.metrics.get("main_metric")


class Aggregate(Record):
    """A mean over named tasks. It carries its list, so that a mean of 6 never reads as one of 38."""

    name: str
    value: float | None = Field(
        description="plain mean of the main metrics that are there; null when none is"
    )
    standard_error: float | None = Field(
        None, description="over test examples, the tasks taken as independent"
    )
    n_tasks: Count = Field(description="tasks that went in")
    of_tasks: Count = Field(description="tasks that the suite lists for it")
    task_list_id: Hex64 = Field(
        description="SHA-256 of the canonical JSON of the sorted [key, digest] that went in"
    )
    complete: bool = Field(description="whether every listed task went in")
    missing: list[str] = Field(default_factory=list, description="keys of those that did not")
    tasks: list[str] = Field(default_factory=list, description="keys of those that went in")


class Results(Record):
    """`result/1`: results.json."""

    format: Literal["result/1"] = "result/1"
    run_id: Hex64
    recipe_id: Hex64 | None = Field(None, description="null for a model that no recipe of ours made")
    data_id: Hex64 | None = None
    seed: int | None = Field(None, description="of the training run")
    conforming: bool | None = Field(None, description="whether the run followed its recipe without overrides")
    eval_seed: int
    suite: str
    suite_id: Hex64
    tasks: list[TaskLine] = Field(description="as in eval_results.jsonl, in the suite's order")
    aggregates: list[Aggregate] = Field(default_factory=list)
    missing: list[str] = Field(default_factory=list, description="keys of tasks whose set is not there")

    def line(self, key: str) -> TaskLine | None:
        return next((line for line in self.tasks if line.key == key), None)


def line_bytes(line: TaskLine) -> bytes:
    """One line of eval_results.jsonl, newline included; keys in the order DataComp writes them, then ours."""
    return json.dumps(line.model_dump(mode="json"), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def read_lines(path: Path) -> list[TaskLine]:
    """The lines of an eval_results.jsonl, DataComp's own included (our keys are then null). Raises IntegrityError."""
    try:
        if path.stat().st_size > MAX_LINES_BYTES:
            raise IntegrityError(f"{path}: {path.stat().st_size:,} bytes are no list of task results")
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingInput(f"{path}: no such file") from error
    lines: list[TaskLine] = []
    for number, text in enumerate(raw.splitlines(), 1):
        if not text.strip():
            continue
        try:
            document = json.loads(text, parse_constant=lambda name: None)  # DataComp writes NaN for acc5
            if isinstance(document, dict):
                document = {key: value for key, value in document.items() if key in TaskLine.model_fields}
            lines.append(TaskLine.model_validate(document))
        except (ValidationError, ValueError, RecursionError) as error:
            raise IntegrityError(f"{path}: line {number} is no task result") from error
    return lines


def read_results(folder: Path) -> Results:
    """results.json of a RESULTS folder (or the file itself). Raises MissingInput, IntegrityError."""
    path = folder / RESULTS_NAME if folder.is_dir() else folder
    try:
        if path.stat().st_size > MAX_LINES_BYTES:
            raise IntegrityError(f"{path}: {path.stat().st_size:,} bytes are no result/1")
        return Results.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingInput(
            f"{path}: no such file", hint="`headwater eval RUN --suite SUITE -o RESULTS` makes it"
        ) from error
    except (ValidationError, ValueError) as error:
        raise IntegrityError(f"{path}: not result/1") from error


def examples_path(folder: Path, key: str) -> Path:
    """Where the rows of task `key` are; `/` in a key becomes `__`."""
    return folder / EXAMPLES_FOLDER / f"{key.replace('/', '__')}.parquet"


def write_examples(path: Path, columns: Mapping[str, Column]) -> None:
    """One Parquet file, the same bytes for the same columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from headwater.files import atomic_file

    arrays = {
        name: pa.array(column, pa.string())
        if isinstance(column, list)
        else pa.array(np.ascontiguousarray(column))
        for name, column in columns.items()
    }
    with atomic_file(path) as handle:
        pq.write_table(
            pa.table(arrays),
            handle,
            compression="zstd",
            compression_level=3,
            version="2.6",
            store_schema=False,
        )


def read_examples(folder: Path, key: str) -> dict[str, Column]:
    """The columns of one task's examples: numpy arrays, strings as lists. Raises MissingInput, IntegrityError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = examples_path(folder, key)
    if not path.is_file():
        raise MissingInput(
            f"{path}: no such file", hint="the task was not measured, or the folder is not whole"
        )
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{path}: not a Parquet file") from error
    return {
        name: table.column(name).to_pylist()
        if pa.types.is_string(table.schema.field(name).type)
        else table.column(name).to_numpy()
        for name in table.column_names
    }


def task_list_id(lines: Sequence[TaskLine]) -> str:
    """The hash that an aggregate carries: which tasks, and which version of each, went in."""
    from headwater.manifest import identity_id

    return identity_id({"tasks": sorted([line.key, line.task_digest] for line in lines)})


def summary_lines(results: Results) -> list[str]:
    """A table for people: each main metric with its error, n and chance level; what is missing; aggregates with their list."""
    rows = [("task", "metric", "value", "± error", "n", "chance")]
    for line in results.tasks:
        missing = line.status == "missing"
        value = "missing" if missing else _percent(line.main_metric)
        error, chance = _percent(line.standard_error), _percent(line.chance)
        rows.append(
            (
                line.dataset,
                line.main_metric_name or "none",
                value,
                error,
                f"{line.n or 0:,}" if not missing else "",
                chance,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    for one in results.aggregates:
        which = f"list {one.task_list_id[:6]}…"
        if one.name.startswith("mean of"):
            which += "; not DataComp's 38"
        error = f" ± {_percent(one.standard_error)}" if one.standard_error is not None else ""
        level = _mean_chance(results, one)
        chance = f"; chance {_percent(level)}" if level is not None else ""
        lines.append(f"{one.name}: {_percent(one.value)}{error}{chance} ({which})")
    return lines


def _mean_chance(results: Results, aggregate: Aggregate) -> float | None:
    """The mean of the chance levels of what went in; None when one is not known."""
    known = {line.key: line.chance for line in results.tasks}
    levels = [known.get(key) for key in aggregate.tasks]
    found = [level for level in levels if level is not None]
    return sum(found) / len(found) if found and len(found) == len(levels) else None


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"
