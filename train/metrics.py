"""Figures and their standard errors, in numpy, exact; one rule for ties: the lower index wins.

Scores are cosines of float32 features, summed in float64 and rounded to float32, so that neither the size of a block nor
the number of threads decides a last bit. A standard error is over test examples, taken as independent draws; how it is had is
said at each function. What cannot be told is None, never 0. Figures are fractions, not percent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]

BLOCK_BYTES = 64 << 20  # of scores held at once
RESAMPLES = 1000  # of the bootstrap for a worst group
BOOTSTRAP_SEED = 20240229  # fixed: a standard error is no place for luck


@dataclass(frozen=True)
class Figure:
    """A value and its standard error."""

    value: float | None
    standard_error: float | None


def score_blocks(queries: Floats, gallery: Floats) -> Iterator[tuple[int, int, Floats]]:
    """(start, stop, scores of queries[start:stop] with the whole gallery), in blocks of at most BLOCK_BYTES."""
    across = np.ascontiguousarray(gallery.T, np.float64)
    rows = max(1, BLOCK_BYTES // (12 * max(1, len(gallery))))  # a float64 product and its float32 copy
    for start in range(0, len(queries), rows):
        stop = min(start + rows, len(queries))
        yield start, stop, (queries[start:stop].astype(np.float64) @ across).astype(np.float32)


def mean_figure(scores: NDArray[Any]) -> Figure:
    """Mean of per-example scores; error: sample deviation / sqrt(n), for 0 and 1 that is sqrt(p (1-p) / (n-1))."""
    count = len(scores)
    if not count:
        return Figure(None, None)
    values = np.asarray(scores, np.float64)
    mean = math.fsum(values.tolist()) / count
    if count < 2:
        return Figure(mean, None)
    return Figure(mean, math.sqrt(math.fsum(((values - mean) ** 2).tolist()) / (count - 1) / count))


def class_ranks(scores: NDArray[np.floating[Any]], labels: Ints) -> NDArray[np.int64]:
    """How many classes come before the right one (0: it is first): those that score more, or the same at a lower index.

    `scores` is N × C, `labels` N whole numbers below C.
    """
    rows = np.arange(len(labels))
    own = scores[rows, labels][:, None]
    before = np.arange(scores.shape[1])[None, :] < np.asarray(labels)[:, None]
    ranks: NDArray[np.int64] = ((scores > own) | ((scores == own) & before)).sum(axis=1, dtype=np.int64)
    return ranks


def top_k(ranks: Ints, k: int) -> Bools:
    """Whether the right answer is among the first k."""
    found: Bools = np.asarray(ranks) < k
    return found


def recall_per_class(labels: Ints, predicted: Ints) -> dict[int, tuple[float, int]]:
    """Class to (recall, examples), for the classes that occur in `labels`."""
    classes, place = np.unique(labels, return_inverse=True)
    count = np.bincount(place, minlength=len(classes))
    right = np.bincount(place[np.asarray(labels) == np.asarray(predicted)], minlength=len(classes))
    return {int(c): (int(r) / int(n), int(n)) for c, r, n in zip(classes, right, count, strict=True)}


def mean_per_class_recall(labels: Ints, predicted: Ints) -> Figure:
    """Mean recall of the classes that occur (scikit-learn's balanced accuracy).

    Error: stratified, in closed form: sqrt(Σ r (1-r) / (n_c - 1)) / C with the class sizes as given; a class with a single
    example, which has no spread of its own, gets that of all examples together.
    """
    found = recall_per_class(labels, predicted)
    if not found:
        return Figure(None, None)
    total = len(labels)
    value = math.fsum(recall for recall, _ in found.values()) / len(found)
    if total < 2:
        return Figure(value, None)
    overall = float(np.mean(np.asarray(labels) == np.asarray(predicted)))
    pooled = overall * (1 - overall) * total / (total - 1)
    variances = [r * (1 - r) / (n - 1) if n > 1 else pooled for r, n in found.values()]
    return Figure(value, math.sqrt(math.fsum(variances)) / len(found))


def macro_f1(labels: Ints, predicted: Ints) -> Figure:
    """Mean F1 of the classes that occur in `labels` (as WILDS takes it for iWildCam; scikit-learn's with `labels` set so).

    Error: delta method. With S_c = true + predicted examples of class c and F_c = 2 TP_c / S_c, example i weighs
    ψ_i = Σ_c (2 [i is a hit of c] - F_c [c is its label] - F_c [c is predicted]) / (C S_c), and the error is
    sqrt(n/(n-1) Σ ψ_i²).
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    count = len(labels)
    if not count:
        return Figure(None, None)
    size = int(max(labels.max(), predicted.max())) + 1
    true = np.bincount(labels, minlength=size)
    sums = (true + np.bincount(predicted, minlength=size)).astype(np.float64)
    hits = np.bincount(labels[labels == predicted], minlength=size)
    there = true > 0
    f1 = np.divide(2.0 * hits, sums, out=np.zeros(size), where=there)
    classes = int(there.sum())
    value = math.fsum(f1[there].tolist()) / classes
    if count < 2:
        return Figure(value, None)
    per = np.divide(1.0, sums * classes, out=np.zeros(size), where=there)
    psi = (
        2.0 * (labels == predicted) * per[labels] - f1[labels] * per[labels] - f1[predicted] * per[predicted]
    )
    return Figure(value, math.sqrt(math.fsum((psi**2).tolist()) * count / (count - 1)))


def group_means(scores: NDArray[Any], groups: Ints) -> dict[int, Figure]:
    """Group id to the mean of its scores. Groups below 0 are none and left out."""
    groups = np.asarray(groups)
    return {int(g): mean_figure(np.asarray(scores)[groups == g]) for g in np.unique(groups[groups >= 0])}


def worst_group(
    scores: NDArray[Any], groups: Ints, *, resamples: int = RESAMPLES
) -> tuple[Figure, int | None]:
    """The smallest group mean and that group's id (ties: the lower id); groups below 0 are left out.

    Error: deviation of the smallest mean over `resamples` stratified bootstrap samples with a fixed seed; each draws as many
    examples in every group as it has. The minimum is biased downwards, and so is what it is an error of.
    """
    groups = np.asarray(groups)
    values = np.asarray(scores, np.float64)
    means = {group: figure.value for group, figure in group_means(values, groups).items()}
    if not means:
        return Figure(None, None), None
    worst = min(means, key=lambda group: (means[group], group))
    if int((groups >= 0).sum()) < 2:
        return Figure(means[worst], None), worst
    rng = np.random.Generator(np.random.PCG64(BOOTSTRAP_SEED))
    smallest = np.full(resamples, np.inf)
    for group in means:
        own = values[groups == group]
        rows = max(1, BLOCK_BYTES // (16 * len(own)))
        for start in range(0, resamples, rows):
            drawn = rng.integers(0, len(own), (min(rows, resamples - start), len(own)))
            stop = start + len(drawn)
            smallest[start:stop] = np.minimum(smallest[start:stop], own[drawn].mean(axis=1))
    return Figure(means[worst], float(smallest.std(ddof=1))), worst


def jaccard(chosen: Bools, right: Bools) -> NDArray[np.float64]:
    """|both| / |either| of each row of two N × M masks; 1 where both rows are empty."""
    both = (chosen & right).sum(axis=1)
    either = (chosen | right).sum(axis=1)
    found: NDArray[np.float64] = np.divide(both, either, out=np.ones(len(chosen)), where=either > 0)
    return found


def best_positive_ranks(
    queries: Floats, gallery: Floats, *positives: Callable[[int], Ints]
) -> list[NDArray[np.int64]]:
    """For each query how many items come before its best positive (0: a positive is first); one array for each `positives`.

    `positives(i)` gives the gallery rows that are right for query i, at least one, in any order. Memory: BLOCK_BYTES of
    scores; no mask of queries × gallery is ever made.
    """
    ranks = [np.empty(len(queries), np.int64) for _ in positives]
    for start, stop, scores in score_blocks(queries, gallery):
        for found, right in zip(ranks, positives, strict=True):
            for row in range(stop - start):
                items, own = np.asarray(right(start + row)), scores[row]
                best = own[items].max()
                first = items[own[items] == best].min()
                found[start + row] = np.count_nonzero(own > best) + np.count_nonzero(own[:first] == best)
    return ranks


def chance_top_k(positives: Ints, gallery: int, k: int) -> NDArray[np.float64]:
    """Chance that a random order of `gallery` items has one of p positives among its first k, for each p."""
    miss = np.ones(len(positives))
    taken = np.asarray(positives, np.float64)
    for place in range(min(k, gallery)):
        miss *= np.clip(gallery - taken - place, 0, None) / (gallery - place)
    return 1 - miss
