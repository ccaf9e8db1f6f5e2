"""Means over tasks that say which tasks: plain, unweighted, and never a mean of 6 under the name of one of 38.

An aggregate is DataComp's (`ImageNet`, `Average` …) only when every task of that list is there with its own main metric
(datacomp `aggregate_scores.py`: mean of main metrics); anything else is called what it is, `mean of 6 tasks`.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence

from train.results import Aggregate, TaskLine, task_list_id
from train.suite import BUILT_IN

DATACOMP = "datacomp38"  # the shipped registry
EVERYTHING = "average"  # what train.suite calls the aggregate over all tasks with a main metric
# names that belong to DataComp's lists, as suites write them and as they are shown
DATACOMP_NAMES = {
    "imagenet": "ImageNet",
    "shifts": "ImageNet dist. shifts",
    "vtab": "VTAB",
    "retrieval": "Retrieval",
    EVERYTHING: "Average",
}


@functools.lru_cache(maxsize=1)
def datacomp_lists() -> dict[str, frozenset[tuple[str, str | None]]]:
    """DataComp's groups by our name, each as the set of (key, main metric)."""
    from train.suite import load_suite

    suite = load_suite(DATACOMP)
    metric = {task.key: task.main_metric for task in suite.tasks}
    return {name: frozenset((key, metric[key]) for key in keys) for name, keys in suite.groups().items()}


def aggregates(lines: Sequence[TaskLine], groups: Mapping[str, Sequence[str]]) -> list[Aggregate]:
    """One mean for each group of task keys, in their order.

    A task whose set is missing, or that has no figure, is left out, counted and named. Tasks that have no main metric by
    their nature (a group table only) are not part of any list.
    """
    by_key = {line.key: line for line in lines}
    found = []
    for group, keys in groups.items():
        there = [by_key[key] for key in keys if key in by_key and by_key[key].main_metric is not None]
        absent = [key for key in keys if key not in {line.key for line in there}]
        found.append(
            Aggregate(
                name=name_of(group, there, of_tasks=len(keys)),
                value=mean([line.main_metric for line in there]),
                standard_error=mean_error([line.standard_error for line in there]),
                n_tasks=len(there),
                of_tasks=len(keys),
                task_list_id=task_list_id(there),
                complete=bool(there) and not absent,
                missing=absent,
                tasks=[line.key for line in there],
            )
        )
    return found


def name_of(group: str, lines: Sequence[TaskLine], *, of_tasks: int) -> str:
    """What an aggregate is called: DataComp's name for DataComp's full list, else with the number of its tasks."""
    plain = group.strip().lower()
    reserved = next((key for key, shown in DATACOMP_NAMES.items() if plain in (key, shown.lower())), None)
    if reserved is not None:
        went_in = {(line.key, line.main_metric_name) for line in lines}
        if len(lines) == of_tasks and went_in == datacomp_lists()[reserved]:
            return DATACOMP_NAMES[reserved]
    tasks = "task" if of_tasks == 1 else "tasks"
    count = f"{of_tasks} {tasks}" if len(lines) == of_tasks else f"{len(lines)} of {of_tasks} {tasks}"
    return f"mean of {count}" if reserved == EVERYTHING else f"{group}: mean of {count}"


def main_aggregate(found: Sequence[Aggregate]) -> Aggregate | None:
    """The aggregate over everything, which runs are ranked by; the last one where none is called so."""
    for aggregate in found:
        if aggregate.name.lower() == EVERYTHING or aggregate.name.startswith("mean of "):
            return aggregate
    return found[-1] if found else None


def members(aggregate: Aggregate, lines: Sequence[TaskLine]) -> list[TaskLine] | None:
    """The tasks that went into an aggregate, proven by the hash of their list; None when they cannot be told."""
    done = [line for line in lines if line.main_metric is not None]
    by_key = {line.key: line for line in done}
    named = [keys for _, keys in _named_lists(aggregate)]
    for keys in (list(by_key), *named):
        inside = [by_key[key] for key in keys if key in by_key]
        if len(inside) == aggregate.n_tasks and task_list_id(inside) == aggregate.task_list_id:
            return inside
    return None


def _named_lists(aggregate: Aggregate) -> list[tuple[str, list[str]]]:
    """Lists that the aggregate may be over: the one it carries, and DataComp's."""
    stated = getattr(aggregate, "tasks", None)
    own = [("stated", list(stated))] if stated else []
    return own + [(name, sorted(key for key, _ in pairs)) for name, pairs in datacomp_lists().items()]


def mean(values: Sequence[float | None]) -> float | None:
    """Unweighted mean; None for no values or when one of them is not known."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def mean_error(errors: Sequence[float | None]) -> float | None:
    """Standard error of an unweighted mean of figures whose errors are independent (other test examples in each task)."""
    known = [error for error in errors if error is not None]
    if not known or len(known) != len(errors):
        return None
    return math.sqrt(math.fsum(error**2 for error in known)) / len(known)


def above_chance(value: float | None, chance: float | None) -> float | None:
    """(value - chance) / (1 - chance): 0 for guessing, 1 for perfect; an extra beside the figure, never instead of it."""
    if value is None or chance is None or not 0 <= chance < 1:
        return None
    return (value - chance) / (1 - chance)


def mean_above_chance(lines: Sequence[TaskLine]) -> float | None:
    """Unweighted mean of `above_chance` over tasks; None when the chance level of one of them is not known."""
    return mean([above_chance(line.main_metric, chance_of(line)) for line in lines])


@functools.lru_cache(maxsize=1)
def datacomp_random_scores() -> dict[str, tuple[str, float]]:
    """Main metric and random score that DataComp's task list states, by key; tasks without one are not in it."""
    document = json.loads((BUILT_IN / "datacomp38.random.json").read_bytes())
    return {key: (metric, float(score)) for key, (metric, score) in document["scores"].items()}


def chance_of(line: TaskLine) -> float | None:
    """The chance level of a task's main metric: what was worked out on its test set, else what DataComp states for it."""
    if line.chance is not None:
        return line.chance
    metric, score = datacomp_random_scores().get(line.key, (None, None))
    return score if metric == line.main_metric_name else None
