"""Evaluations side by side: found, opened, and refused unless only the data differs.

What must agree: recipe, suite, every task's digest (data, prompts, options, family version) and the seed of the evaluation.
The refusal names what differs, field by field where both recipes can be read.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.config import load_yaml
from headwater.errors import HeadwaterError, IntegrityError, MissingInput, UsageError
from headwater.hashing import digest_file
from headwater.manifest import Step
from headwater.steps import RECORD_NAME, read_record
from train.results import RESULTS_NAME, Column, Results, TaskLine, examples_path, read_examples, read_results
from train.runs import Run

RUN_NAME = "run.json"
MAX_RUN_BYTES = 16 << 20
MAX_NEIGHBOURS = 2_000  # folders looked at beside a given one
NAMED = 5  # differences told in one message


@dataclass(frozen=True)
class Evaluated:
    """One RESULTS folder, and the run it is of where that can be found (by its id, beside or above the results)."""

    folder: Path
    results: Results
    step: Step | None
    run: Run | None = None
    run_folder: Path | None = None
    run_step: Step | None = None

    @property
    def label(self) -> str:
        """What people call it: the name of its folder, or of the run's when the results lie inside the run."""
        folder = self.folder.absolute()
        if self.run_folder is not None and self.run_folder.absolute() in folder.parents:
            return self.run_folder.absolute().name
        return folder.name

    @property
    def source(self) -> str:
        """What it was made from: equal for runs that differ in the seed only.

        A soup has its ingredients' data, but its distance to them is not that of seeds; the same holds for runs that changed
        their recipe in different ways.
        """
        data = self.results.data_id or self.results.run_id
        made = (
            [str(self.run.extras[name]) for name in ("made_by", "soup") if name in self.run.extras]
            if self.run
            else []
        )
        if self.results.conforming is False:
            made.append(self.run.resolved_id if self.run else self.results.run_id)
        return " ".join([data, *made])

    def examples(self, line: TaskLine) -> dict[str, Column]:
        """The columns of one task. Raises IntegrityError when the file is not the one that its line names."""
        path = examples_path(self.folder, line.key)
        if line.examples_sha256 and path.is_file() and digest_file(path).sha256 != line.examples_sha256:
            raise IntegrityError(
                f"{path}: changed since it was written", hint="evaluate again with `headwater eval --force`"
            )
        return read_examples(self.folder, line.key)


def open_evaluated(path: Path) -> Evaluated:
    """The evaluation in a RESULTS folder, or the only one of a RUN folder. Raises MissingInput, UsageError."""
    if not path.is_dir():
        raise MissingInput(f"{path}: no such folder", hint="name folders that headwater eval wrote")
    folder = path
    if not (path / RESULTS_NAME).is_file():
        folder = _only_results_of(path)
    results = read_results(folder)
    step = read_record(folder)
    if step is not None:
        recorded = {entry.path: entry.sha256 for entry in step.identity.outputs}.get(RESULTS_NAME)
        if digest_file(folder / RESULTS_NAME, ("sha256",)).sha256 != recorded:
            raise IntegrityError(
                f"{folder / RESULTS_NAME}: is not the file that its record names",
                hint="evaluate again with `headwater eval --force`",
            )
    run_folder = _run_of(folder, results.run_id, step)
    if run_folder is None:
        return Evaluated(folder, results, step)
    return Evaluated(folder, results, step, read_run(run_folder), run_folder, read_record(run_folder))


def common_name(names: Sequence[str]) -> str:
    """What the names of folders begin with, without the mark of a seed; empty when that is nothing."""
    if len(names) == 1:
        return names[0]
    start = names[0]
    while start and not all(name.startswith(start) for name in names):
        start = start[:-1]
    return re.sub(r"([-_. ]+(seed|s)?|seed)[-_. ]*$", "", start)


def read_run(folder: Path) -> Run:
    """run.json of a RUN folder. Raises IntegrityError."""
    path = folder / RUN_NAME
    if path.stat().st_size > MAX_RUN_BYTES:
        raise IntegrityError(f"{path}: too large for a run/1 record")
    try:
        return Run.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise IntegrityError(f"{path}: not a run/1 record") from error


def _only_results_of(run: Path) -> Path:
    """The one RESULTS folder inside or beside a RUN folder that is of this run."""
    if not (run / RUN_NAME).is_file():
        raise MissingInput(
            f"{run}: holds neither {RESULTS_NAME} nor {RUN_NAME}",
            hint="`headwater eval RUN --suite SUITE -o RESULTS` makes results",
        )
    record = read_record(run)
    found = []
    for folder in (*_folders(run), *_folders(run.absolute().parent)):
        if (folder / RESULTS_NAME).is_file() and record is not None:
            try:
                fits = read_results(folder).run_id == record.id
            except HeadwaterError:
                continue  # another's results are not asked for
            found += [folder] if fits else []
    if len(found) == 1:
        return found[0]
    if not found:
        raise MissingInput(
            f"{run}: has not been evaluated: no results of it inside or beside it",
            hint="`headwater eval RUN --suite SUITE -o RESULTS`, then compare the RESULTS folders",
        )
    names = ", ".join(os.path.relpath(folder, run.absolute().parent) for folder in found[:NAMED])
    raise UsageError(
        f"{run}: has {len(found)} results ({names})", hint="name the RESULTS folder that is meant"
    )


def _run_of(results: Path, run_id: str, step: Step | None) -> Path | None:
    """The RUN folder with this id: where the evaluation's record says, above the results, or beside them."""
    said = step.observation.get("run") if step else None
    places = [Path(said)] if isinstance(said, str) else []
    parent = results.absolute().parent
    for folder in (*places, parent, *_folders(parent)):
        try:
            if (folder / RUN_NAME).is_file() and _step_id(folder) == run_id:
                return folder
        except (HeadwaterError, OSError):
            continue
    return None


def _step_id(run: Path) -> str | None:
    stat = (run / RECORD_NAME).stat()
    return _known_id(run, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=10_000)  # many results beside many runs: each record is read once
def _known_id(run: Path, mtime_ns: int, size: int) -> str | None:
    record = read_record(run)
    return record.id if record else None


def _folders(parent: Path) -> list[Path]:
    found = []
    for entry in parent.iterdir():
        if entry.is_dir() and not entry.name.startswith("."):
            found.append(entry)
        if len(found) >= MAX_NEIGHBOURS:
            break
    return sorted(found)


def check_comparable(evaluated: Sequence[Evaluated], *, allow_nonconforming: bool) -> None:
    """Raises UsageError naming the first evaluation that differs from the first one, and in what."""
    if len(evaluated) < 2:
        raise UsageError("one evaluation cannot be compared", hint="name two RESULTS folders or more")
    seen: dict[str, Evaluated] = {}
    for one in evaluated:
        other = seen.setdefault(one.results.run_id, one)
        if other is not one:
            raise UsageError(f"{one.folder} and {other.folder} are results of the same run")
    for one in evaluated:
        if one.results.conforming is not True and not allow_nonconforming:
            why = (
                "it changed " + ", ".join(sorted(one.run.overrides)) if one.run and one.run.overrides else ""
            )
            why = why or (
                "no recipe of ours made it" if one.results.recipe_id is None else "its record says so"
            )
            raise UsageError(
                f"{one.folder}: its run does not conform to its recipe: {why}",
                hint="train it with the recipe as it is, or compare with --allow-nonconforming",
            )
    first = evaluated[0]
    for one in evaluated[1:]:
        found = list(differences(first, one))
        if found:
            more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
            raise UsageError(
                f"{one.folder} cannot be compared with {first.folder}: {'; '.join(found[:NAMED])}{more}",
                hint="only the data may differ: train with the same recipe and evaluate on the same suite",
            )


def differences(a: Evaluated, b: Evaluated) -> Iterator[str]:
    """What keeps two evaluations from being compared, one clause each; nothing when only the data differs."""
    if a.results.recipe_id != b.results.recipe_id:
        yield from _recipe_differences(a, b)
    if a.results.eval_seed != b.results.eval_seed:
        yield f"evaluation seed {b.results.eval_seed} against {a.results.eval_seed}"
    before = len(a.results.tasks), len(b.results.tasks)
    ours = {line.key: line for line in a.results.tasks}
    theirs = {line.key: line for line in b.results.tasks}
    task_found = False
    for key in sorted(ours.keys() | theirs.keys()):
        clause = _task_difference(key, ours.get(key), theirs.get(key))
        if clause:
            task_found = True
            yield clause
    if a.results.suite_id != b.results.suite_id and not task_found:
        names = (
            f"{b.results.suite!r} against {a.results.suite!r}"
            if a.results.suite != b.results.suite
            else "its groups"
        )
        yield f"the suite ({names}, {before[1]} tasks against {before[0]}: {_short(b.results.suite_id)} against {_short(a.results.suite_id)})"


def _task_difference(key: str, a: TaskLine | None, b: TaskLine | None) -> str | None:
    if a is None or b is None:
        return f"task {key} is only in one of the suites"
    if a.status != b.status:
        return f"the set of task {key} was there for one evaluation only"
    if a.family != b.family or a.family_version != b.family_version:
        return f"task {key} was measured by {b.family} version {b.family_version} against {a.family} version {a.family_version}"
    if a.main_metric_name != b.main_metric_name:
        return f"task {key} is judged by {b.main_metric_name} against {a.main_metric_name}"
    if a.task_digest != b.task_digest:
        return (
            f"task {key} has other data, prompts or options"
            f" ({_short(b.task_digest)} against {_short(a.task_digest)}{_sizes(a, b)})"
        )
    if a.n != b.n:
        return f"task {key} has {b.n:,} test examples against {a.n:,}"
    return None


def _sizes(a: TaskLine, b: TaskLine) -> str:
    return (
        f"; {b.n:,} test examples against {a.n:,}"
        if a.n is not None and b.n is not None and a.n != b.n
        else ""
    )


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "none"


def _recipe_differences(a: Evaluated, b: Evaluated) -> Iterator[str]:
    names = f"recipe {_short(b.results.recipe_id)} against {_short(a.results.recipe_id)}"
    if a.run_folder is None or b.run_folder is None:
        yield names
        return
    left, right = (
        dict(_leaves(load_yaml(one.run_folder / "recipe.yaml"))) for one in (a, b) if one.run_folder
    )
    labels = {"name", "summary", "source", "verified"}  # not part of a recipe's identity
    fields = [
        f"{key} {right.get(key)!r} against {left.get(key)!r}"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key) and key.split(".")[0] not in labels
    ]
    yield f"{names} ({', '.join(fields[:NAMED])}{' …' if len(fields) > NAMED else ''})" if fields else names


def _leaves(document: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(document, dict):
        for key, value in document.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, document


def selected_on(run: Run | None, results: Results) -> bool:
    """Whether this model was picked by its figures on this very suite or one of its tasks (as greedy soups may be)."""
    stated = run.extras.get("selected_on") if run else None
    names = {results.suite_id} | {line.task_digest for line in results.tasks if line.task_digest}
    return any(text in names for text in _texts(stated))


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)
