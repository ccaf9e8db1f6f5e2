"""`headwater eval` as a Step: every task of a suite is checked first, then measured one by one, and each is kept when done.

A set that is not there is a line with null, and said so; a set that is there with holes is an error before any time is spent
(clip-benchmark measures what is left, silently). Pictures that cannot be decoded are left out, counted and named, and the
command ends with 3. Finished tasks lie in the step's parts: a killed evaluation goes on from there to the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from headwater.console import say, track
from headwater.errors import BadInputs, HeadwaterError, IntegrityError, MissingInput, UsageError
from headwater.files import atomic_file, write_json
from headwater.hashing import digest_file
from headwater.manifest import Counts, InputRef, identity_id
from headwater.steps import Outcome, Plan, RunOptions, Work, check_output, run_step
from train._evalcheck import Checked, survey
from train._measure import held_out_score as held_out_score
from train._measure import line_of, measure_task
from train._measure import measure as measure
from train.evaldata import BATCH, Encoder, FeatureCache
from train.evals import family_of
from train.results import (
    EXAMPLES_FOLDER,
    LINES_NAME,
    RESULTS_NAME,
    Results,
    TaskLine,
    examples_path,
    line_bytes,
)
from train.suite import Digests, Suite, Task, digest_suite, shard_paths

STEP = "eval"
VERSION = 1
TOLD = 10  # bad pictures and problems that are listed by name


@dataclass(frozen=True)
class Subject:
    """What is evaluated. `load` gives the model when the first task needs it."""

    id: str
    load: Callable[[], Encoder]
    recipe_id: str | None = None
    data_id: str | None = None
    seed: int | None = None
    conforming: bool | None = None
    path: Path | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Evaluation:
    """What `plan_eval` found: the step, and what it is about."""

    plan: Plan
    subject: Subject
    suite: Suite
    digests: Digests
    seed: int
    missing: tuple[str, ...]


def subject_of(folder: Path, *, weights: Path | None = None, device: str = "cpu") -> Subject:
    """The run (or open_clip folder) at `folder`, with its own weights or those in a file, such as a checkpoint.

    A checkpoint is not what the recipe asks for, so it never counts as conforming. Raises MissingInput, IntegrityError.
    """
    from headwater.clip_model import load_model
    from train.runs import open_run

    found = open_run(folder)
    run, identity = found.run, found.id
    if weights is not None:
        if not weights.is_file():
            raise MissingInput(f"{weights}: no such file")
        identity = identity_id({"run": found.id, "weights": digest_file(weights, ("sha256",)).sha256})
    return Subject(
        identity,
        lambda: load_model(folder, device=device, weights=weights),
        run.recipe_id if run else None,
        run.data_id if run else None,
        run.seed if run else None,
        (run.conforming and weights is None) if run else None,
        folder,
        device,
    )


def plan_eval(
    subject: Subject | Path,
    suite: Suite,
    output: Path,
    *,
    tasks: Sequence[str] | None = None,
    seed: int = 0,
    strict: bool = False,
    cache: Path | None = None,
    distrust_cache: bool = False,
) -> Evaluation:
    """The Step that this model on this suite (or on `tasks` of it) is, with every set checked.

    Raises IntegrityError or UsageError listing all problems of all sets at once; MissingInput when no set is there, or with
    `strict` when one is not.
    """
    check_output(output, "folder")
    if isinstance(subject, Path):
        subject = subject_of(subject)
    suite, digests, missing = examine(
        suite, tasks=tasks, strict=strict, cache=cache, distrust_cache=distrust_cache
    )
    inputs = [InputRef(role="run", id=subject.id), InputRef(role="suite", id=digests.suite_id)]
    config = {
        "suite": suite.name,
        "tasks": [task.key for task in suite.tasks],
        "device": subject.device.partition(":")[0],  # another kind of device rounds otherwise
        "batch": BATCH,
    }
    plan = Plan(STEP, VERSION, config, inputs, output, kind="folder", seed=seed, resumable=True)
    return Evaluation(plan, subject, suite, digests, seed, missing)


def examine(
    suite: Suite,
    *,
    tasks: Sequence[str] | None = None,
    strict: bool = False,
    cache: Path | None = None,
    distrust_cache: bool = False,
) -> tuple[Suite, Digests, tuple[str, ...]]:
    """The chosen tasks, their digests, and the keys whose set is not there; every set is checked on the way."""
    suite = suite.select(tasks)
    missing = tuple(task.key for task in suite.tasks if suite.missing(task))
    if len(missing) == len(suite.tasks) or (missing and strict):
        what = "none of its sets is" if len(missing) == len(suite.tasks) else f"{len(missing)} sets are not"
        raise MissingInput(
            f"suite {suite.name!r}: {what} in {suite.root}: {_some(missing)}",
            hint="put the task folders there, or name the folder that holds them with --root",
        )
    there = [task for task in suite.tasks if task.key not in missing]
    _all_at_once(suite, there, _check_shards)
    cache = cache or suite.root / ".headwater"
    digests = digest_suite(suite, cache=cache, distrust_cache=distrust_cache)
    checked = Checked(cache)

    def check(suite: Suite, task: Task) -> None:
        digest = digests.tasks[task.key] or ""
        folder = suite.folder(task)
        if checked.bad_pictures(digest) is None:
            family = family_of(task.family)
            family.check(task, folder)
            checked.note(
                digest, [bad for split in family.splits for bad in survey(folder, split).bad_pictures]
            )
        bad = checked.bad_pictures(digest)
        if bad:
            names = _some([key for key, _ in bad])
            say("warning", f"{folder}: {len(bad):,} pictures cannot be used and will be left out: {names}")

    _all_at_once(suite, there, check)
    checked.save()
    for key in missing:
        say("info", f"task {key}: its set is missing")
    return suite, digests, missing


def _check_shards(suite: Suite, task: Task) -> None:
    for split in family_of(task.family).splits:
        shard_paths(suite.folder(task), split)


def _all_at_once(suite: Suite, tasks: Sequence[Task], check: Callable[[Suite, Task], None]) -> None:
    """Run a check on every task, then raise one error with all problems."""
    problems: list[HeadwaterError] = []
    for task in tasks:
        try:
            check(suite, task)
        except (IntegrityError, UsageError, MissingInput) as error:
            problems.append(error)
    told = list(
        dict.fromkeys(str(problem) for problem in problems)
    )  # tasks that share a folder share its problems
    if not told:
        return
    kind = type(problems[0]) if len({type(p) for p in problems}) == 1 else IntegrityError
    if len(told) == 1:
        raise kind(told[0], hint=problems[0].hint)
    raise kind(
        f"suite {suite.name!r}: {len(told)} problems, and nothing was evaluated:\n  " + "\n  ".join(told),
        hint="repair the sets, or name the tasks that are whole with --task",
    )


def run_eval(evaluation: Evaluation, options: RunOptions, *, workers: int = 1) -> Outcome | None:
    """Measure what is not measured yet and write RESULTS. None on a dry run."""
    subject, suite = evaluation.subject, evaluation.suite
    said: dict[str, Any] = {"suite": str(suite.root.resolve()), "workers": workers}
    if subject.path is not None:
        said["run"] = str(subject.path.resolve())
    options = dataclasses.replace(options, observation={**options.observation, **said})

    def work(job: Work) -> Counts:
        lines, left_out = _measure_all(evaluation, job.parts, workers)
        (job.stage / EXAMPLES_FOLDER).mkdir()
        for line in lines:
            if line.status == "done":
                raw = examples_path(job.parts, line.key).read_bytes()
                examples_path(job.stage, line.key).write_bytes(raw)
        with atomic_file(job.stage / LINES_NAME) as handle:
            handle.write(b"".join(line_bytes(line) for line in lines))
        write_json(job.stage / RESULTS_NAME, results_of(evaluation, lines).model_dump(mode="json"))
        return _counts(lines, left_out, job)

    return run_step(evaluation.plan, work, options)


def results_of(evaluation: Evaluation, lines: Sequence[TaskLine]) -> Results:
    """`result/1` from the lines of all tasks."""
    from train.aggregate import aggregates

    subject = evaluation.subject
    return Results(
        run_id=subject.id,
        recipe_id=subject.recipe_id,
        data_id=subject.data_id,
        seed=subject.seed,
        conforming=subject.conforming,
        eval_seed=evaluation.seed,
        suite=evaluation.suite.name,
        suite_id=evaluation.digests.suite_id,
        tasks=list(lines),
        aggregates=aggregates(lines, evaluation.suite.groups()),
        missing=list(evaluation.missing),
    )


def _measure_all(
    evaluation: Evaluation, parts: Path, workers: int
) -> tuple[list[TaskLine], dict[str, list[tuple[str, str]]]]:
    suite, digests = evaluation.suite, evaluation.digests
    (parts / EXAMPLES_FOLDER).mkdir(exist_ok=True)
    lines: dict[str, TaskLine] = {}
    left_out: dict[str, list[tuple[str, str]]] = {}
    for task in suite.tasks:
        if task.key in evaluation.missing:
            lines[task.key] = line_of(suite, task, digests, None)
        elif (kept := _kept(parts, task, digests)) is not None:
            lines[task.key], left_out[task.key] = kept
    todo = [task for task in suite.tasks if task.key not in lines]
    if todo and left_out:
        say("info", f"{len(left_out)} tasks are measured already, {len(todo)} are left")
    model = evaluation.subject.load() if todo else None
    cache = FeatureCache()
    with track("eval", total=len(todo), unit="tasks") as bar:
        for at, task in enumerate(todo):
            assert model is not None
            line, bad = measure_task(
                model, suite, task, digests, cache, parts, seed=evaluation.seed, workers=workers
            )
            note = {"line": line.model_dump(mode="json"), "left_out": bad}
            write_json(parts / f"{task.file_name}.json", note)  # last: it says that the examples are whole
            lines[task.key], left_out[task.key] = line, bad
            if all(other.folder != task.folder for other in todo[at + 1 :]):
                cache.drop(suite.folder(task))
            bar.add(1, note=task.name)
    return [lines[task.key] for task in suite.tasks], left_out


def _kept(parts: Path, task: Task, digests: Digests) -> tuple[TaskLine, list[tuple[str, str]]] | None:
    """A task's line from an earlier run of this step, when it and its examples are whole."""
    path, examples = parts / f"{task.file_name}.json", examples_path(parts, task.key)
    try:
        document = json.loads(path.read_bytes())
        line = TaskLine.model_validate(document["line"])
        left_out = [(str(key), str(reason)) for key, reason in document["left_out"]]
    except (OSError, ValueError, ValidationError, KeyError, TypeError):
        return None
    whole = examples.is_file() and digest_file(examples, ("sha256",)).sha256 == line.examples_sha256
    return (line, left_out) if whole and line.task_digest == digests.tasks[task.key] else None


def _counts(lines: Sequence[TaskLine], left_out: Mapping[str, list[tuple[str, str]]], job: Work) -> Counts:
    kept = sum(line.n or 0 for line in lines)
    invalid: dict[str, int] = {}
    elsewhere = 0
    for line in lines:
        for reason, count in line.invalid.items():
            if ": " in reason:
                elsewhere += count  # of a split that is learned from, not measured
            else:
                invalid[reason] = invalid.get(reason, 0) + count
    total = sum(invalid.values()) + elsewhere
    named = {key: [list(entry) for entry in bad[:TOLD]] for key, bad in left_out.items() if bad}
    job.details["left_out"] = named
    job.details["bad_inputs"] = None
    if total:
        some = _some([f"{key}/{entry[0]}" for key, entries in named.items() for entry in entries])
        job.details["bad_inputs"] = f"{total:,} pictures were left out ({some})"
    missing = sum(line.status == "missing" for line in lines)
    return Counts(
        unit="examples",
        read=kept + sum(invalid.values()),
        kept=kept,
        invalid=dict(sorted(invalid.items())),
        extra={
            "tasks_measured": len(lines) - missing,
            "tasks_missing": missing,
            "training_pictures_left_out": elsewhere,
        },
    )


def check_outcome(outcome: Outcome, *, allow_invalid: bool) -> None:
    """Raise BadInputs when pictures were left out."""
    message = outcome.step.details.get("bad_inputs")
    if message and not allow_invalid:
        raise BadInputs(
            f"{outcome.path} is written, but its figures are of fewer examples: {message}",
            hint="repair the sets, or accept it with --allow-invalid",
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:TOLD]) + (" …" if len(names) > TOLD else "")
