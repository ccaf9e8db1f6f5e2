"""`headwater leaderboard`: every evaluation below a folder, one table for each recipe, suite and list of tasks, never mixed.

A row is a dataset: the mean over its runs with different seeds, how many there are, and the error of that mean from their
spread (None for one run). Runs that conform to their recipe come first; others are marked and counted apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from headwater.console import say
from headwater.errors import HeadwaterError, MissingInput, UsageError
from headwater.manifest import Count, Hex64, Record
from train._comparable import Evaluated, common_name, open_evaluated, selected_on
from train.aggregate import chance_of, main_aggregate, mean, members
from train.comparison import spread_of
from train.results import RESULTS_NAME, Aggregate

MAX_DEPTH = 6
MAX_FOLDERS = 100_000


class BoardTask(Record):
    """A column: one task or mean."""

    key: str
    name: str
    metric: str | None = None
    chance: float | None = None


class Row(Record):
    """One dataset under the table's recipe."""

    rank: Count | None = Field(description="among conforming rows; null for others")
    label: str
    data_id: Hex64 | None
    conforming: bool
    runs: Count
    seeds: list[int | None]
    value: float | None = Field(description="mean over the runs of the table's main mean")
    values: list[float | None] = Field(description="of each run")
    seed_se: float | None = Field(description="of `value`, from the spread of the runs; null below two")
    test_se: float | None = Field(
        description="of one run's figure over test examples; averaging seeds helps little there"
    )
    tasks: dict[str, float | None]
    aggregates: dict[str, float | None]
    samples_seen: float | None = Field(description="mean over the runs, null where one is not known")
    unique_samples: float | None
    measured_joules: float | None = Field(
        description="of a training, mean over the runs; null where one is not known"
    )
    modelled_joules: float | None = Field(description="never to be added to the measured ones")
    selected_on_suite: bool = False


class Board(Record):
    """One table. Rows of other tables may not be compared with these."""

    recipe_id: Hex64 | None
    recipe_name: str | None
    suite: str
    suite_id: Hex64
    eval_seed: int
    aggregate: str
    task_list_id: Hex64
    n_tasks: Count
    of_tasks: Count
    complete: bool
    chance: float | None = Field(None, description="mean of the chance levels of its tasks")
    tasks: list[BoardTask]
    aggregates: list[BoardTask] = Field(description="further means, in the suite's order")
    rows: list[Row]


class Skipped(Record):
    """An evaluation that is in no table."""

    path: str = Field(description="relative to the folder that was looked through")
    why: str


class Leaderboard(Record):
    """`leaderboard/1`."""

    format: Literal["leaderboard/1"] = "leaderboard/1"
    boards: list[Board]
    skipped: list[Skipped] = Field(default_factory=list)


def leaderboard(folder: Path) -> Leaderboard:
    """Tables of everything evaluated below `folder`, the largest table first.

    Evaluations that cannot be read are named in `skipped`. Raises MissingInput when there is none at all, UsageError for a
    folder with more folders below it than MAX_FOLDERS.
    """
    if not folder.is_dir():
        raise MissingInput(f"{folder}: no such folder")
    found: list[Evaluated] = []
    skipped: list[Skipped] = []
    seen: dict[tuple[str, str, int], str] = {}
    for place in results_below(folder):
        relative = place.relative_to(folder).as_posix()
        try:
            one = open_evaluated(place)
        except HeadwaterError as error:
            skipped.append(Skipped(path=relative, why=error.message))
            say("warning", error.message)
            continue
        why = None
        identity = (one.results.run_id, one.results.suite_id, one.results.eval_seed)
        first = seen.setdefault(identity, relative)
        if first != relative:
            why = f"the same run on the same suite as {first}"
        elif main_aggregate(one.results.aggregates) is None:
            why = "holds no mean over tasks"
        if why is None:
            found.append(one)
        else:
            skipped.append(Skipped(path=relative, why=why))
    if not found and not skipped:
        raise MissingInput(
            f"{folder}: no evaluations below it",
            hint="`headwater eval RUN --suite SUITE -o RESULTS` makes them",
        )
    groups: dict[tuple[str, str, int, str], list[Evaluated]] = {}
    for one in found:
        groups.setdefault(_table_of(one), []).append(one)
    order = sorted(groups, key=lambda key: (-len(groups[key]), key))
    return Leaderboard(boards=[_board(groups[key]) for key in order], skipped=skipped)


def results_below(folder: Path) -> Iterator[Path]:
    """RESULTS folders below (and at) `folder`, sorted; links are not followed, hidden folders not entered."""
    found = []
    for looked, (place, folders, files) in enumerate(os.walk(folder), 1):
        if looked > MAX_FOLDERS:
            raise UsageError(
                f"{folder}: more than {MAX_FOLDERS:,} folders below it", hint="name a folder further down"
            )
        path = Path(place)
        depth = len(path.relative_to(folder).parts)
        folders[:] = sorted(f for f in folders if not f.startswith(".")) if depth < MAX_DEPTH else []
        if RESULTS_NAME in files:
            found.append(path)
            folders.clear()  # results do not hold results
    yield from sorted(found)


def _main(one: Evaluated) -> Aggregate:
    found = main_aggregate(one.results.aggregates)
    assert found is not None
    return found


def _table_of(one: Evaluated) -> tuple[str, str, int, str]:
    results = one.results
    return results.recipe_id or "", results.suite_id, results.eval_seed, _main(one).task_list_id


def _board(evaluated: Sequence[Evaluated]) -> Board:
    first = evaluated[0].results
    main = _main(evaluated[0])
    groups: dict[tuple[str, bool], list[Evaluated]] = {}
    for one in evaluated:
        groups.setdefault((one.source, one.results.conforming is True), []).append(one)
    rows = [_row(group) for group in groups.values()]
    rows.sort(key=lambda row: (not row.conforming, row.value is None, -(row.value or 0.0), row.label))
    ranked = [
        row.model_copy(update={"rank": place}) if row.conforming and row.value is not None else row
        for place, row in enumerate(rows, 1)
    ]
    inside = members(main, first.tasks)
    return Board(
        recipe_id=first.recipe_id,
        recipe_name=next((one.run.recipe_name for one in evaluated if one.run), None),
        suite=first.suite,
        suite_id=first.suite_id,
        eval_seed=first.eval_seed,
        aggregate=main.name,
        task_list_id=main.task_list_id,
        n_tasks=main.n_tasks,
        of_tasks=main.of_tasks,
        complete=main.complete,
        chance=mean([chance_of(line) for line in inside]) if inside else None,
        tasks=[
            BoardTask(key=line.key, name=line.dataset, metric=line.main_metric_name, chance=chance_of(line))
            for line in first.tasks
            if line.main_metric is not None
        ],
        aggregates=[
            BoardTask(key=a.name, name=a.name)
            for a in first.aggregates
            if a.value is not None and a.name != main.name
        ],
        rows=ranked,
    )


def _row(group: Sequence[Evaluated]) -> Row:
    values = [_main(one).value for one in group]
    first = group[0].results
    aggregates = {
        a.name: mean(
            [next((b.value for b in one.results.aggregates if b.name == a.name), None) for one in group]
        )
        for a in first.aggregates
        if a.value is not None
    }
    tasks = {
        line.key: mean([own.main_metric if (own := one.results.line(line.key)) else None for one in group])
        for line in first.tasks
        if line.main_metric is not None
    }
    # of a soup, or of a training that was stopped in between, no record holds the whole price
    whole = [
        one.run_step is not None
        and one.run_step.identity.step == "train"
        and one.run_step.details.get("attempts", 1) == 1
        for one in group
    ]
    energies = [
        one.run_step.energy if one.run_step and w else None for one, w in zip(group, whole, strict=True)
    ]
    return Row(
        rank=None,
        label=common_name([one.label for one in group]) or (first.data_id or first.run_id)[:12],
        data_id=first.data_id,
        conforming=first.conforming is True,
        runs=len(group),
        seeds=[one.results.seed for one in group],
        value=mean(values),
        values=values,
        seed_se=spread_of(values),
        test_se=mean([_main(one).standard_error for one in group]),
        tasks=tasks,
        aggregates=aggregates,
        samples_seen=mean([one.run.samples_seen if one.run else None for one in group]),
        unique_samples=mean([one.run.unique_samples if one.run else None for one in group]),
        measured_joules=mean([e.measured_joules if e else None for e in energies]),
        modelled_joules=mean([e.modelled_joules if e else None for e in energies]),
        selected_on_suite=any(selected_on(one.run, one.results) for one in group),
    )
