"""`headwater compare`: trainings that differ only in their data, task by task, with both kinds of error.

RESULTS folders are grouped into arms by the data they were trained on; runs of one arm differ in the seed. The first arm is
the baseline. A difference is called better or worse when Holm's correction over the tasks leaves its p-value below 0.05; where
a side has one run, the seeds' error is unknown and the verdict is about these very models, which it says.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from headwater.carbon import CarbonFactor
from headwater.errors import UsageError
from train._comparable import Evaluated, check_comparable, common_name, open_evaluated, selected_on
from train._comparison_record import (
    Against,
    Arm,
    ArmFigure,
    Basis,
    ComparedMean,
    ComparedRun,
    ComparedTask,
    Comparison,
    Difference,
    SameSeed,
    Verdict,
)
from train._paired import Paired, pair
from train._spent import training_energy
from train.aggregate import above_chance, chance_of, main_aggregate, mean, mean_error, members
from train.costs import CostRow, costs, points_above_chance
from train.results import Aggregate, TaskLine
from train.statistics import LEVEL, RESAMPLES, TwoLevel, holm, two_level

ALPHA = 1 - LEVEL
BOTH: Basis = "both errors"
TEST_ONLY: Basis = "test set only"


def compare(
    paths: Sequence[Path],
    *,
    allow_nonconforming: bool = False,
    each_run: bool = False,
    labels: Mapping[str, str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    factor: CarbonFactor | None = None,
    pue: float | None = None,
) -> Comparison:
    """Compare evaluations. `each_run` makes every run an arm of its own (for runs of the same data, such as soups);
    `labels` names arms by their data id, its beginning, or a folder's name; `seed` is that of the bootstrap.

    Raises UsageError naming what differs besides the data, MissingInput, IntegrityError.
    """
    evaluated = [open_evaluated(path) for path in paths]
    check_comparable(evaluated, allow_nonconforming=allow_nonconforming)
    arms = _arms(evaluated, each_run=each_run)
    names = _labels(arms, labels or {})
    first = evaluated[0].results
    lines = [line for line in first.tasks if line.main_metric is not None]
    pairs, statistics = [], {line.key: "" for line in lines}
    for arm, name in zip(arms[1:], names[1:], strict=True):
        against, words = _against(arms[0], arm, (names[0], name), lines, first.aggregates, seed, resamples)
        pairs.append(against)
        statistics |= words
    return Comparison(
        recipe_id=first.recipe_id,
        recipe_name=next((one.run.recipe_name for one in evaluated if one.run), None),
        suite=first.suite,
        suite_id=first.suite_id,
        eval_seed=first.eval_seed,
        level=LEVEL,
        resamples=resamples,
        bootstrap_seed=seed,
        arms=[
            _arm(arm, name, lines, first.aggregates, (factor, pue))
            for arm, name in zip(arms, names, strict=True)
        ],
        tasks=[
            ComparedTask(
                key=line.key,
                name=line.dataset,
                metric=line.main_metric_name or "",
                n=line.n or 0,
                chance=chance_of(line),
                statistic=statistics[line.key] or None,
            )
            for line in lines
        ],
        aggregates=[_mean(found, first.tasks) for found in first.aggregates if found.value is not None],
        pairs=pairs,
        missing=list(first.missing),
        warnings=_warnings(evaluated, arms, names),
    )


def _arms(evaluated: Sequence[Evaluated], *, each_run: bool) -> list[list[Evaluated]]:
    arms: dict[str, list[Evaluated]] = {}
    for one in evaluated:
        key = one.results.run_id if each_run else one.source
        arms.setdefault(key, []).append(one)
    if len(arms) < 2:
        raise UsageError(
            f"all {len(evaluated)} runs saw the same data, so there is nothing to compare",
            hint="name results of runs on other data, or --each-run to compare these runs with each other",
        )
    return list(arms.values())


def _labels(arms: Sequence[Sequence[Evaluated]], given: Mapping[str, str]) -> list[str]:
    """A name for each arm: the given one, else what its folders' names have in common, else the data's id."""
    used, names = set(), []
    for arm in arms:
        data = arm[0].results.data_id or arm[0].results.run_id
        keys = [
            key for key in given if (len(key) >= 6 and data.startswith(key)) or key in {a.label for a in arm}
        ]
        used.update(keys)
        common = common_name([one.label for one in arm])
        names.append(given[keys[0]] if keys else common or data[:12])
    unknown = sorted(set(given) - used)
    if unknown:
        raise UsageError(f"no arm has the data id or folder {unknown[0]!r} that a label is given for")
    names = [
        f"{name} {arm[0].results.run_id[:8]}" if names.count(name) > 1 else name
        for name, arm in zip(names, arms, strict=True)
    ]
    return names


def _arm(
    arm: Sequence[Evaluated],
    label: str,
    lines: Sequence[TaskLine],
    aggregates: Sequence[Aggregate],
    carbon: tuple[CarbonFactor | None, float | None],
) -> Arm:
    tasks = {}
    for line in lines:
        own = [one.results.line(line.key) for one in arm]
        tasks[line.key] = _figure([o.main_metric if o else None for o in own]).model_copy(
            update={"near_chance": _near_chance([o for o in own if o])}
        )
    means = {a.name: _figure([_value_of(one, a) for one in arm]) for a in aggregates if a.value is not None}
    runs = [
        ComparedRun(
            label=one.label,
            run_id=one.results.run_id,
            seed=one.results.seed,
            conforming=one.results.conforming,
            samples_seen=one.run.samples_seen if one.run else None,
            unique_samples=one.run.unique_samples if one.run else None,
            selected_on_suite=selected_on(one.run, one.results),
            costs=_costs(one, carbon),
        )
        for one in arm
    ]
    return Arm(label=label, data_id=arm[0].results.data_id, runs=runs, tasks=tasks, aggregates=means)


def _figure(values: Sequence[float | None]) -> ArmFigure:
    return ArmFigure(values=list(values), mean=mean(values), seed_se=spread_of(values))


def spread_of(values: Sequence[float | None]) -> float | None:
    """Standard error of the mean of runs from their spread; None below two runs or when one has no figure."""
    known = [value for value in values if value is not None]
    if len(known) != len(values) or len(known) < 2:
        return None
    middle = math.fsum(known) / len(known)
    return math.sqrt(math.fsum((v - middle) ** 2 for v in known) / (len(known) - 1) / len(known))


def _near_chance(lines: Sequence[TaskLine]) -> bool | None:
    """True when no run is clearly above chance, None when it cannot be said."""
    near = True
    for line in lines:
        chance = chance_of(line)
        if chance is None or line.main_metric is None or line.standard_error is None:
            return None
        near = near and line.main_metric - chance < 2 * line.standard_error
    return near


def _costs(one: Evaluated, carbon: tuple[CarbonFactor | None, float | None]) -> list[CostRow]:
    """What the training cost, per 1,000 samples seen and per point of the main mean above chance; a soup's is not told."""
    if one.run_step is None or one.run_step.identity.step != "train":
        return []
    main = main_aggregate(one.results.aggregates)
    points = None
    if main is not None:
        points = points_above_chance(main.value, _mean(main, one.results.tasks).chance)
    samples = one.run.samples_seen if one.run else None
    factor, pue = carbon
    total = training_energy(one.run_step)
    return costs(total, samples=samples, points=points, factor=factor, pue=pue)


def _value_of(one: Evaluated, wanted: Aggregate) -> float | None:
    """This run's mean over the same tasks."""
    return next((a.value for a in one.results.aggregates if a.name == wanted.name), None)


def _mean(found: Aggregate, lines: Sequence[TaskLine]) -> ComparedMean:
    inside = members(found, lines)
    return ComparedMean(
        name=found.name,
        n_tasks=found.n_tasks,
        of_tasks=found.of_tasks,
        complete=found.complete,
        task_list_id=found.task_list_id,
        chance=mean([chance_of(line) for line in inside]) if inside else None,
    )


def _against(
    baseline: Sequence[Evaluated],
    arm: Sequence[Evaluated],
    names: tuple[str, str],
    lines: Sequence[TaskLine],
    aggregates: Sequence[Aggregate],
    seed: int,
    resamples: int,
) -> tuple[Against, dict[str, str]]:
    tasks: list[Difference] = []
    words, errors = {}, {}
    seeds = ([one.results.seed for one in arm], [one.results.seed for one in baseline])
    for line in lines:
        sides = []
        for side in (arm, baseline):
            own = [(one, one.results.line(line.key)) for one in side]
            sides.append([(task, one.examples(task)) for one, task in own if task is not None])
        found = pair(sides[0], sides[1], seeds=seeds, seed=_task_seed(seed, line.key), resamples=resamples)
        words[line.key] = found.words or ""
        errors[line.key] = found.both.test_se
        tasks.append(_difference(line, found, arm, baseline))
    corrected = holm([task.p for task in tasks])
    judged = [_judged(task, p) for task, p in zip(tasks, corrected, strict=True)]
    means = [_mean_difference(a, arm, baseline, lines, errors) for a in aggregates if a.value is not None]
    return Against(arm=names[1], baseline=names[0], tasks=judged, aggregates=means), words


def _task_seed(seed: int, key: str) -> int:
    """Another stream for each task, so that tasks are resampled independently; the same for every pair of arms."""
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:8], "big")


def _difference(
    line: TaskLine, found: Paired, arm: Sequence[Evaluated], baseline: Sequence[Evaluated]
) -> Difference:
    boot = found.bootstrap
    chance = chance_of(line)
    extra = [
        mean([above_chance(value, chance) for value in side]) for side in (found.values_a, found.values_b)
    ]
    return _fields(line.key, found.both, boot.p_value if boot else None).model_copy(
        update={
            "above_chance": extra[0] - extra[1] if extra[0] is not None and extra[1] is not None else None,
            "test_interval": (boot.percentile.low, boot.percentile.high) if boot else None,
            "test_interval_basic": (boot.basic.low, boot.basic.high) if boot else None,
            "mcnemar": [
                SameSeed(
                    run=arm[i].label,
                    baseline_run=baseline[j].label,
                    only_run_right=test.only_a,
                    only_baseline_right=test.only_b,
                    p_exact=test.p_exact,
                    p_mid=test.p_mid,
                )
                for i, j, test in found.mcnemar
            ],
            "note": found.note,
        }
    )


def _fields(key: str, both: TwoLevel, test_p: float | None) -> Difference:
    p = both.p_value if both.p_value is not None else test_p
    basis: Basis = BOTH if both.p_value is not None else TEST_ONLY if test_p is not None else "none"
    return Difference(
        key=key,
        difference=both.difference,
        test_se=both.test_se,
        test_p=test_p,
        seed_se=both.seed_se,
        combined_se=both.combined_se,
        degrees_of_freedom=both.degrees_of_freedom,
        interval=(both.interval.low, both.interval.high) if both.interval else None,
        p=p,
        basis=basis,
        verdict="not tested",
    )


def _judged(found: Difference, p_holm: float | None) -> Difference:
    verdict: Verdict = "no difference shown"
    if p_holm is None:
        verdict = "not tested"
    elif p_holm < ALPHA and found.difference:
        verdict = "better" if found.difference > 0 else "worse"
    return found.model_copy(update={"p_holm": p_holm, "verdict": verdict})


def _mean_difference(
    aggregate: Aggregate,
    arm: Sequence[Evaluated],
    baseline: Sequence[Evaluated],
    lines: Sequence[TaskLine],
    errors: Mapping[str, float | None],
) -> Difference:
    """An aggregate's difference: errors of the test sets add as independent, those of the seeds come from whole runs."""
    inside = members(aggregate, lines)
    test_se = mean_error([errors[line.key] for line in inside]) if inside else None
    sides = [[v for one in side if (v := _value_of(one, aggregate)) is not None] for side in (arm, baseline)]
    units = sum(line.n or 0 for line in inside) if inside else 0
    both = two_level(sides[0], sides[1], test_se=test_se, units=units)
    if test_se is None:
        both = replace(both, p_value=None, interval=None)
        return _judged(_fields(aggregate.name, both, None), None)
    z = abs(both.difference) / test_se if test_se else math.inf if both.difference else 0.0
    found = _fields(aggregate.name, both, math.erfc(z / math.sqrt(2)))
    reach = 1.959963984540054 * test_se
    interval = (both.difference - reach, both.difference + reach)
    return _judged(found.model_copy(update={"test_interval": interval}), found.p)


def _warnings(
    evaluated: Sequence[Evaluated], arms: Sequence[Sequence[Evaluated]], names: Sequence[str]
) -> list[str]:
    told = [
        f"{one.label} was selected by its figures on this very suite, which flatters it here"
        for one in evaluated
        if selected_on(one.run, one.results)
    ]
    told += [
        f"{one.label} does not conform to its recipe"
        for one in evaluated
        if one.results.conforming is not True
    ]
    for arm, name in zip(arms, names, strict=True):
        seeds = [one.results.seed for one in arm if one.results.seed is not None]
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            told.append(
                f"{name} has more than one run with seed {twice[0]}: their spread is not that of seeds"
            )
    if any(len(arm) < 2 for arm in arms):
        told.append(
            "an arm with one run has no seed error: verdicts with it are about these models, not their data"
        )
    missing = evaluated[0].results.missing
    if missing:
        told.append(f"{len(missing)} tasks of the suite are missing: their sets are not there")
    return told
