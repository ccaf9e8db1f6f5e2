"""`comparison/1`: what `headwater compare` found, as data. Figures are fractions; a difference is arm minus baseline."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from headwater.manifest import Count, Hex64, Record
from train.costs import CostRow

Verdict = Literal["better", "worse", "no difference shown", "not tested"]
Basis = Literal["both errors", "test set only", "none"]
Pair = tuple[float, float]


class ComparedRun(Record):
    """One evaluated run of an arm."""

    label: str = Field(description="name of its folder; a label only")
    run_id: Hex64
    seed: int | None
    conforming: bool | None
    samples_seen: Count | None = Field(None, description="null where the RUN folder was not found")
    unique_samples: Count | None = None
    selected_on_suite: bool = Field(False, description="picked by its figures on this suite: they flatter it")
    costs: list[CostRow] = Field(
        default_factory=list, description="of its training; per point of the mean of all tasks above chance"
    )


class ArmFigure(Record):
    """One task or mean of one arm."""

    values: list[float | None] = Field(description="a figure for each run, in the arm's order")
    mean: float | None
    seed_se: float | None = Field(
        None, description="of the mean, from the spread of the runs; null below two runs"
    )
    near_chance: bool | None = Field(
        None,
        description="whether no run is two standard errors of the test set above chance; null when unknown",
    )


class Arm(Record):
    """Runs that saw the same data and differ in the seed."""

    label: str
    data_id: Hex64 | None
    runs: list[ComparedRun]
    tasks: dict[str, ArmFigure] = Field(description="by key")
    aggregates: dict[str, ArmFigure] = Field(description="by name")


class ComparedTask(Record):
    """What is the same for all arms about one task."""

    key: str
    name: str
    metric: str
    n: Count = Field(description="test examples")
    chance: float | None
    statistic: str | None = Field(description="what was resampled; null when the metric could not be")


class ComparedMean(Record):
    """What is the same for all arms about one aggregate."""

    name: str
    n_tasks: Count
    of_tasks: Count
    complete: bool
    task_list_id: Hex64
    chance: float | None = Field(
        None, description="mean of the tasks' chance levels, null when one is unknown"
    )


class SameSeed(Record):
    """McNemar's test for two runs."""

    run: str
    baseline_run: str
    only_run_right: Count
    only_baseline_right: Count
    p_exact: float
    p_mid: float


class Difference(Record):
    """One task or mean: arm minus baseline, with the error of the test set and that of the seeds told apart."""

    key: str = Field(description="task key, or name of the mean")
    difference: float
    above_chance: float | None = Field(None, description="the same of (x - chance)/(1 - chance); an extra")
    test_se: float | None = Field(None, description="resampling test examples, seeds held")
    test_interval: Pair | None = Field(None, description="percentile; for a mean of tasks normal")
    test_interval_basic: Pair | None = None
    test_p: float | None = None
    seed_se: float | None = Field(None, description="null below two runs on a side; never 0 in its place")
    combined_se: float | None = None
    degrees_of_freedom: float | None = Field(None, description="Welch and Satterthwaite")
    interval: Pair | None = Field(
        None, description="Student's t, both errors; not corrected for the number of tasks"
    )
    p: float | None = Field(
        None, description="of both errors, or of the test set where there is no seed error"
    )
    p_holm: float | None = Field(
        None, description="corrected over the tasks of this pair; for means equal to p"
    )
    basis: Basis
    verdict: Verdict
    mcnemar: list[SameSeed] = Field(default_factory=list)
    note: str | None = None


class Against(Record):
    """One arm against the baseline."""

    arm: str
    baseline: str
    tasks: list[Difference]
    aggregates: list[Difference]


class Comparison(Record):
    """`comparison/1`. The first arm is the baseline."""

    format: Literal["comparison/1"] = "comparison/1"
    recipe_id: Hex64 | None
    recipe_name: str | None
    suite: str
    suite_id: Hex64
    eval_seed: int
    level: float
    resamples: Count
    bootstrap_seed: int
    arms: list[Arm]
    tasks: list[ComparedTask]
    aggregates: list[ComparedMean]
    pairs: list[Against]
    missing: list[str] = Field(default_factory=list, description="tasks whose sets are not there")
    warnings: list[str] = Field(default_factory=list)
