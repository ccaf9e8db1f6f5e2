"""Is the difference between two trainings real: error of the test set and error of the seed, kept apart.

Everything is numpy and the standard library. A bootstrap draws test examples with replacement, the same ones for both
sides (Efron and Tibshirani 1993, chapters 13 and 15); seeds are compared by the spread of whole runs. Nothing here is
ever 0 for want of data: what cannot be estimated is None.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
How = Literal["mean", "macro", "worst"]
BLOCK_VALUES = 1 << 21  # numbers held at once while resampling: 16 MiB of float64
RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """What resampling the test examples says about metric(a) - metric(b). Scores and errors are fractions, not percent."""

    difference: float
    standard_error: float
    percentile: Interval
    basic: Interval
    p_value: float  # two-sided: twice the share of resampled differences on the other side of 0
    units: int  # what was drawn: examples, or clusters of them
    resamples: int
    level: float


@dataclass(frozen=True)
class McNemar:
    """Two runs on the same test examples, right or wrong each (McNemar 1947)."""

    only_a: int
    only_b: int
    p_exact: float
    p_mid: float


@dataclass(frozen=True)
class TwoLevel:
    """A difference of means over seeds with both kinds of error; None where the data cannot tell."""

    difference: float
    test_se: float | None
    seed_se: float | None
    combined_se: float | None
    degrees_of_freedom: float | None
    interval: Interval | None
    p_value: float | None


def paired_bootstrap(
    a: NDArray[np.floating] | NDArray[np.bool_],
    b: NDArray[np.floating] | NDArray[np.bool_],
    *,
    seed: int,
    how: How = "mean",
    strata: NDArray[np.integer] | None = None,
    clusters: NDArray[np.integer] | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Bootstrap:
    """Resample test examples, the same for both sides, and look at the metric's difference a - b.

    `a` and `b` hold a score per example, shape (n,), or (n, runs) with as many runs as that side has; a side's metric is
    the mean over its runs. `how`: the mean of the scores; `macro`, the mean over `strata` (n,) of each one's mean, as in
    mean per-class recall; `worst`, the lowest stratum's mean. A stratum that a resample misses is left out of it.
    `clusters` (n,) are drawn whole, for examples that belong together (captions of one picture).
    Equal input and seed give equal output. Raises ValueError for shapes that do not fit.
    """
    left, right = _columns(a), _columns(b)
    n = len(left)
    if len(right) != n or n == 0:
        raise ValueError(f"scores of {n} and {len(right)} examples cannot be paired")
    for name, labels in (("strata", strata), ("clusters", clusters)):
        if labels is not None and len(labels) != n:
            raise ValueError(f"{len(labels)} {name} for {n} examples")
    if (how == "mean") != (strata is None):
        raise ValueError(f"{how!r} {'takes no' if how == 'mean' else 'needs'} strata")
    rng = np.random.Generator(np.random.PCG64(seed))
    if how == "mean":
        gap = left.mean(axis=1) - right.mean(axis=1)
        observed = float(gap.mean())
        draws, units = _resampled_means(gap, clusters, rng, resamples)
    else:
        assert strata is not None
        table = _Table(left, right, np.asarray(strata), clusters, how)
        observed, units = float(table.difference(table.counts[None, :].astype(np.float64))[0]), table.units
        draws = np.concatenate([table.difference(w) for w in table.weights(rng, resamples)])
    return _summary(observed, draws, units, level)


def _columns(scores: NDArray[np.floating] | NDArray[np.bool_]) -> Floats:
    array = np.asarray(scores, dtype=np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] == 0 or not np.isfinite(array).all():
        raise ValueError(
            f"scores of shape {array.shape} with only finite numbers are needed, (n,) or (n, runs)"
        )
    return array


def _summary(observed: float, draws: Floats, units: int, level: float) -> Bootstrap:
    tail = (1 - level) / 2
    low, high = (float(q) for q in np.quantile(draws, [tail, 1 - tail]))
    # rounding in a sum must not move a difference of exactly 0 to one side
    slack = 1e-12 * max(1.0, abs(observed))
    below, above = int((draws <= slack).sum()), int((draws >= -slack).sum())
    p = min(1.0, 2 * (1 + min(below, above)) / (1 + len(draws)))
    return Bootstrap(
        difference=observed,
        standard_error=float(draws.std(ddof=1)),
        percentile=Interval(low, high),
        basic=Interval(2 * observed - high, 2 * observed - low),
        p_value=p,
        units=units,
        resamples=len(draws),
        level=level,
    )


def _resampled_means(
    gap: Floats, clusters: NDArray[np.integer] | None, rng: np.random.Generator, resamples: int
) -> tuple[Floats, int]:
    """Means of resampled per-example differences, and how many units were drawn from."""
    # sums by numpy, not by a matrix product: its last digits would depend on the BLAS, its threads and the block
    if clusters is not None:
        _, of = np.unique(np.asarray(clusters), return_inverse=True)
        sums, sizes = np.bincount(of, weights=gap), np.bincount(of).astype(np.float64)
        drawn = _counts(np.ones(len(sums), dtype=np.int64), rng, resamples)
        return np.concatenate([(w * sums).sum(axis=1) / (w * sizes).sum(axis=1) for w in drawn]), len(sums)
    # a few distinct values (right or wrong on both sides gives three): counts of each are all that matters
    values, counts = np.unique(gap, return_counts=True)
    return np.concatenate([(w * values).sum(axis=1) for w in _counts(counts, rng, resamples)]) / len(
        gap
    ), len(gap)


def _counts(counts: NDArray[np.int64], rng: np.random.Generator, resamples: int) -> Iterator[Floats]:
    """How often each kind occurs in resamples of sum(counts) draws, in blocks of bounded size, shape (rows, kinds)."""
    n, kinds = int(counts.sum()), len(counts)
    by_kind = kinds * 8 <= n
    step = max(1, BLOCK_VALUES // (kinds if by_kind else n))
    edges = None if by_kind else np.repeat(np.arange(kinds), counts)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        if edges is None:
            yield rng.multinomial(n, counts / n, size=rows).astype(np.float64)
            continue
        drawn = edges[rng.integers(0, n, size=(rows, n))]
        drawn += (np.arange(rows) * kinds)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * kinds).reshape(rows, kinds).astype(np.float64)


class _Table:
    """Examples sorted by stratum; without clusters, those that are alike in all scores are folded into one kind."""

    def __init__(
        self,
        left: Floats,
        right: Floats,
        strata: NDArray[np.integer],
        clusters: NDArray[np.integer] | None,
        how: How,
    ) -> None:
        _, of = np.unique(strata, return_inverse=True)
        rows = np.column_stack([of.astype(np.float64), left, right])
        self.cluster_of = None
        self.units = len(rows)
        if clusters is None:
            rows, self.counts = np.unique(rows, axis=0, return_counts=True)
        else:
            order = np.argsort(of, kind="stable")
            names, member = np.unique(np.asarray(clusters), return_inverse=True)
            rows, self.cluster_of, self.units = rows[order], member[order], len(names)
            self.counts = np.ones(len(rows), dtype=np.int64)
        self.starts = np.flatnonzero(np.r_[True, np.diff(rows[:, 0]) > 0])
        self.left, self.right = rows[:, 1 : 1 + left.shape[1]], rows[:, 1 + left.shape[1] :]
        self.how = how

    def weights(self, rng: np.random.Generator, resamples: int) -> Iterator[Floats]:
        """How often each row is drawn, in blocks (rows of a block, rows of the table)."""
        if self.cluster_of is None:
            yield from _counts(self.counts, rng, resamples)
            return
        step = max(1, BLOCK_VALUES // len(self.counts))
        for start in range(0, resamples, step):
            for drawn in _counts(np.ones(self.units, dtype=np.int64), rng, min(step, resamples - start)):
                yield drawn[:, self.cluster_of]

    def difference(self, weights: Floats) -> Floats:
        """metric(a) - metric(b) for each row of `weights` (rows, kinds)."""
        sizes = np.add.reduceat(weights, self.starts, axis=1)
        return self._metric(weights, sizes, self.left) - self._metric(weights, sizes, self.right)

    def _metric(self, weights: Floats, sizes: Floats, scores: Floats) -> Floats:
        total = np.zeros(len(weights))
        for column in scores.T:
            sums = np.add.reduceat(weights * column, self.starts, axis=1)
            with np.errstate(invalid="ignore"):
                means = sums / sizes
            total += np.nanmean(means, axis=1) if self.how == "macro" else np.nanmin(means, axis=1)
        return np.asarray(total / scores.shape[1])


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> McNemar:
    """Whether one run is right where the other is wrong more often than the reverse; `a`, `b`: (n,) right or wrong.

    The p-values are exact for every n: two-sided binomial, and its mid-p variant, which is less cautious (Fagerland,
    Lydersen and Laake 2013).
    """
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"answers of shapes {a.shape} and {b.shape} cannot be paired")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n, least = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return McNemar(0, 0, 1.0, 1.0)
    at = math.exp(math.lgamma(n + 1) - math.lgamma(least + 1) - math.lgamma(n - least + 1) - n * math.log(2))
    steps = np.arange(least, 0, -1, dtype=np.float64)  # P(X = i - 1) = P(X = i) * i / (n - i + 1)
    tail = at * (1 + float(np.cumprod(steps / (n - steps + 1)).sum()))
    return McNemar(only_a, only_b, min(1.0, 2 * tail), min(1.0, 2 * tail - at))


def two_level(
    a: Sequence[float], b: Sequence[float], *, test_se: float | None, units: int, level: float = LEVEL
) -> TwoLevel:
    """Difference of two means over seeds, with the error of the seeds told apart from that of the test set.

    `a`, `b`: the metric of each run of a side. `test_se`: standard error of the same difference under resampling of
    `units` test examples. The seed error is that of the spread of whole runs, sqrt(var(a)/len(a) + var(b)/len(b)); nothing
    is subtracted from it although chance per example is in the spread too, so the combined error errs on the large side.
    With fewer than two runs on a side it is None, and so is all that needs it. The interval is Student's t with
    Welch's and Satterthwaite's degrees of freedom (Satterthwaite 1946).
    """
    if not a or not b:
        raise ValueError("a side without runs")
    difference = math.fsum(a) / len(a) - math.fsum(b) / len(b)
    if len(a) < 2 or len(b) < 2:
        return TwoLevel(difference, test_se, None, None, None, None, None)
    parts = [(float(np.var(side, ddof=1)) / len(side), len(side) - 1) for side in (a, b)]
    seed_se = math.sqrt(sum(v for v, _ in parts))
    if test_se is None:
        return TwoLevel(difference, None, seed_se, None, None, None, None)
    parts.append((test_se**2, max(units - 1, 1)))
    variance = sum(v for v, _ in parts)
    combined = math.sqrt(variance)
    if combined == 0:
        p = 1.0 if difference == 0 else 0.0
        return TwoLevel(difference, test_se, seed_se, 0.0, None, Interval(difference, difference), p)
    df = variance**2 / sum(v**2 / d for v, d in parts)
    reach = student_t_quantile(0.5 + level / 2, df) * combined
    p = 2 * student_t_cdf(-abs(difference) / combined, df)
    return TwoLevel(
        difference, test_se, seed_se, combined, df, Interval(difference - reach, difference + reach), p
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (Holm 1979); a None is no test, stays None and is not counted."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    so_far = 0.0
    for rank, (p, i) in enumerate(order):
        so_far = max(so_far, min(1.0, p * (len(order) - rank)))
        adjusted[i] = so_far
    return adjusted


def student_t_cdf(t: float, df: float) -> float:
    """P(T <= t) for Student's t with `df` > 0 degrees of freedom, which need not be whole."""
    square = t * t
    if square < df:  # near 0, df / (df + t^2) would round to 1
        return 0.5 + math.copysign(0.5 * _incomplete_beta(square / (df + square), 0.5, df / 2), t)
    tail = 0.5 * _incomplete_beta(df / (df + square), df / 2, 0.5)
    return tail if t < 0 else 1 - tail


def student_t_quantile(p: float, df: float) -> float:
    """The t with P(T <= t) = p, 0 < p < 1, by bisection to the last digits of a float."""
    if not 0 < p < 1:
        raise ValueError(f"a probability between 0 and 1 is needed, not {p}")
    if p < 0.5:
        return -student_t_quantile(1 - p, df)
    high = 1.0
    while student_t_cdf(high, df) < p:
        high *= 2
    low = 0.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if student_t_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta I_x(a, b) by Lentz's continued fraction (Abramowitz and Stegun 26.5.8)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1 / max(1 - (a + b) * x / (a + 1), tiny)
    result = d
    for m in range(1, 2000):
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away(1 + factor * d, tiny)
            c = _away(1 + factor / c, tiny)
            result *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return front * result / a


def _away(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
