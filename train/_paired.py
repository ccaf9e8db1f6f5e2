"""One task, two sides, the same test examples: which statistic the main metric is, and what both kinds of error say.

The statistic is not taken from a metric's name alone: it is worked out again from the stored examples and must give the recorded
figure of every run. Where none of those known here does, the test-set error of the difference is None, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headwater.errors import IntegrityError, UsageError
from train.results import Column, TaskLine
from train.statistics import Bootstrap, Floats, How, McNemar, TwoLevel, mcnemar, paired_bootstrap, two_level

CLOSE = 2e-6  # scores are stored as float32
STRATA = ("label", "group")  # columns that a metric may be a mean or a minimum over
Columns = Mapping[str, Column]


@dataclass(frozen=True)
class Statistic:
    """How the main metric comes from per-example scores. `hint` is in the names of metrics that it is tried first for."""

    how: How
    strata: str | None
    source: str  # score | correct | f1
    words: str
    hint: str | None = None


STATISTICS = (
    Statistic("mean", None, "score", "mean over examples"),
    Statistic("mean", None, "correct", "mean over examples"),
    Statistic("macro", "label", "correct", "mean over classes", "per_class"),
    Statistic("worst", "group", "score", "worst group", "_w"),
    Statistic("worst", "group", "correct", "worst group", "_w"),
    Statistic("macro", "group", "score", "mean over groups"),
    Statistic("mean", None, "f1", "macro F1, by its linear part at each example", "f1"),
)


@dataclass(frozen=True)
class Paired:
    """What is known of one difference, side a minus side b."""

    values_a: list[float]
    values_b: list[float]
    words: str | None
    bootstrap: Bootstrap | None
    both: TwoLevel
    mcnemar: list[tuple[int, int, McNemar]]  # place of the run on each side
    note: str | None


def pair(
    a: Sequence[tuple[TaskLine, Columns]],
    b: Sequence[tuple[TaskLine, Columns]],
    *,
    seeds: tuple[Sequence[int | None], Sequence[int | None]],
    seed: int,
    resamples: int,
) -> Paired:
    """Compare the runs of two sides on one task. `seeds` are those of the runs: McNemar's test is for runs of equal seed.

    Raises UsageError when the examples are not the same, IntegrityError when a file lacks its columns.
    """
    runs = [*a, *b]
    _check_same_examples(runs)
    values = [line.main_metric for line, _ in runs]
    known = [value for value in values if value is not None]
    values_a, values_b = known[: len(a)], known[len(a) :]
    statistic = statistic_of(runs)
    bootstrap, note = None, None
    if statistic is None:
        note = f"{runs[0][0].main_metric_name} does not follow from the stored examples, so nothing was resampled"
    else:
        left, right = (np.column_stack([_scores(statistic, c) for _, c in side]) for side in (a, b))
        rows = _counted(statistic, runs[0][1], left)
        strata = _integers(runs[0][1], statistic.strata) if statistic.strata else None
        clusters = _clusters(runs[0][1])
        bootstrap = paired_bootstrap(
            left[rows],
            right[rows],
            seed=seed,
            how=statistic.how,
            strata=None if strata is None else strata[rows],
            clusters=None if clusters is None else clusters[rows],
            resamples=resamples,
        )
    both = two_level(
        values_a,
        values_b,
        test_se=bootstrap.standard_error if bootstrap else None,
        units=bootstrap.units if bootstrap else 0,
    )
    words = statistic.words if statistic else None
    return Paired(values_a, values_b, words, bootstrap, both, _mcnemar(a, b, seeds), note)


def statistic_of(runs: Sequence[tuple[TaskLine, Columns]]) -> Statistic | None:
    """The first known statistic that gives back the main metric of every run from its examples."""
    name = (runs[0][0].main_metric_name or "").lower()
    for statistic in sorted(STATISTICS, key=lambda s: not (s.hint and s.hint in name)):
        if all(_gives_back(statistic, line, columns) for line, columns in runs):
            return statistic
    return None


def _gives_back(statistic: Statistic, line: TaskLine, columns: Columns) -> bool:
    needed = {"label", "predicted"} if statistic.source == "f1" else {statistic.source}
    if line.main_metric is None or (needed | ({statistic.strata} - {None})) - columns.keys():
        return False
    scores = _scores(statistic, columns)
    rows = _counted(statistic, columns, scores[:, None])
    if not rows.any():
        return False
    if statistic.strata is None:
        found = float(scores[rows].mean())
    else:
        _, of = np.unique(_integers(columns, statistic.strata)[rows], return_inverse=True)
        means = np.bincount(of, weights=scores[rows]) / np.bincount(of)
        found = float(means.mean() if statistic.how == "macro" else means.min())
    return abs(found - line.main_metric) <= CLOSE


def _scores(statistic: Statistic, columns: Columns) -> Floats:
    if statistic.source == "f1":
        return f1_parts(_integers(columns, "label"), _integers(columns, "predicted"))
    return np.asarray(columns[statistic.source], dtype=np.float64)


def _counted(statistic: Statistic, columns: Columns, scores: Floats) -> NDArray[np.bool_]:
    """Examples that the metric counts: those with a score, and with a group where it is about groups (below 0: none)."""
    rows = np.isfinite(scores).all(axis=1)
    if statistic.strata is not None:
        rows &= _integers(columns, statistic.strata) >= 0
    return np.asarray(rows, dtype=bool)


def f1_parts(labels: NDArray[np.integer], predicted: NDArray[np.integer]) -> Floats:
    """Numbers, one an example, whose mean is macro F1 and whose spread is that of macro F1 to first order.

    With S_c true and predicted examples of class c: n times the derivative of F1 with respect to the example's weight, plus F1
    (jackknife pseudo-values in the limit of small steps). Classes that do not occur among `labels` are left out.
    """
    size = int(max(labels.max(), predicted.max())) + 1
    true = np.bincount(labels, minlength=size)
    sums = (true + np.bincount(predicted, minlength=size)).astype(np.float64)
    hits = np.bincount(labels[labels == predicted], minlength=size)
    there = true > 0
    f1 = np.divide(2.0 * hits, sums, out=np.zeros(size), where=there)
    share = np.divide(1.0, sums * there.sum(), out=np.zeros(size), where=there)
    pull = 2.0 * (labels == predicted) * share[labels]
    pull -= f1[labels] * share[labels] + f1[predicted] * share[predicted]
    return np.asarray(f1[there].mean() + len(labels) * pull)


def _integers(columns: Columns, name: str) -> NDArray[np.int64]:
    return np.asarray(columns[name]).astype(np.int64)


def _clusters(columns: Columns) -> NDArray[np.int64] | None:
    """Which examples belong together: pictures of one group in retrieval, when there are such groups at all."""
    if "image_group" not in columns:
        return None
    groups = _integers(columns, "image_group")
    return groups if len(np.unique(groups)) < len(groups) else None


def _check_same_examples(runs: Sequence[tuple[TaskLine, Columns]]) -> None:
    (line, first), *others = runs
    for name in ("index", "key"):
        if name not in first or any(name not in columns for _, columns in others):
            raise IntegrityError(f"task {line.key}: a file of examples has no column {name!r}")
    for _, columns in others:
        same = list(first["key"]) == list(columns["key"]) and np.array_equal(first["index"], columns["index"])
        for name in (*STRATA, "image_group"):
            if name in first or name in columns:
                same = (
                    same and name in first and name in columns and np.array_equal(first[name], columns[name])
                )
        if not same:
            raise UsageError(
                f"task {line.key}: the evaluations do not list the same test examples",
                hint="evaluate both on the same suite with the same version",
            )


def _mcnemar(
    a: Sequence[tuple[TaskLine, Columns]],
    b: Sequence[tuple[TaskLine, Columns]],
    seeds: tuple[Sequence[int | None], Sequence[int | None]],
) -> list[tuple[int, int, McNemar]]:
    """One test for each pair of runs with the same seed; a single run on both sides is a pair whatever its seed."""
    pairs = [
        (i, j) for i, one in enumerate(seeds[0]) for j, two in enumerate(seeds[1]) if one == two is not None
    ]
    if len(a) == len(b) == 1:
        pairs = [(0, 0)]
    found = []
    for i, j in pairs:
        one, two = a[i][1].get("correct"), b[j][1].get("correct")
        if one is None or two is None or np.asarray(one).dtype != bool or np.asarray(two).dtype != bool:
            return []
        found.append((i, j, mcnemar(np.asarray(one), np.asarray(two))))
    return found
