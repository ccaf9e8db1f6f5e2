"""How well pictures and captions find each other on held-out pairs: recall among them, and AUC of true against wrong captions.

Row i of the similarity matrix is a picture, column i its own caption. Every figure comes with a percentile bootstrap interval
(Efron 1979) over pairs: seeded, so that the same matrix gives the same interval.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
CONFIDENCE = 0.95
RANKS = (1, 5, 10)
Matrix = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def ranks(similarity: Matrix) -> Ints:
    """(n,) rank of each row's own column, 1 = first; a column that ties with it counts as before it."""
    own = np.diag(similarity)[:, None]
    return np.asarray((similarity >= own).sum(axis=1), np.int64)


def area(similarity: Matrix, weights: npt.NDArray[np.float64] | None = None) -> float:
    """The chance that a true pair scores above a wrong one, ties counted half; over all pairs off the diagonal.

    Every derangement of the captions uses such pairs and all use each equally often, so this is the mean over all derangements.
    `weights` (n,) says how often each pair is drawn.
    """
    bins, draws = _bins(similarity), np.ones(len(similarity)) if weights is None else weights
    return _area(*bins, draws)


def _bins(similarity: Matrix) -> tuple[Ints, Ints, Ints]:
    """For each wrong pair: how many true pairs, in order of value, lie below it and up to it; and that order."""
    true = np.diag(similarity)
    order = np.argsort(true, kind="stable")
    below = np.searchsorted(true[order], similarity.ravel(), "left")
    upto = np.searchsorted(true[order], similarity.ravel(), "right")
    return below, upto, order


def _area(below: Ints, upto: Ints, order: Ints, weights: npt.NDArray[np.float64]) -> float:
    n = len(weights)
    wrong = np.outer(weights, weights)
    np.fill_diagonal(wrong, 0)
    total = wrong.sum() * weights.sum()
    if not total:
        return float("nan")
    # weight of the wrong pairs that each number of true pairs lies below, then the true pairs above them
    above = np.append(np.cumsum(weights[order][::-1])[::-1], 0)
    strictly = np.bincount(upto, wrong.ravel(), n + 1) @ above
    at_least = np.bincount(below, wrong.ravel(), n + 1) @ above
    return float((strictly + at_least) / (2 * total))


def measure(similarity: Matrix, *, seed: int, resamples: int = RESAMPLES) -> dict[str, dict[str, Any]]:
    """Name -> {value, low, high, chance}: image_to_text_r1 …, text_to_image_r10, auc. Recalls are shares, not percent.

    A recall's resample draws pairs as queries and keeps the whole gallery; one of the AUC draws pairs and leaves out a wrong
    pair made of one pair with itself.
    """
    n = len(similarity)
    draws = np.random.Generator(np.random.Philox(key=seed)).integers(0, n, (resamples, n))
    found: dict[str, dict[str, Any]] = {}
    for name, matrix in (("image_to_text", similarity), ("text_to_image", similarity.T)):
        places = ranks(matrix)
        for k in RANKS:
            hits = places <= k
            found[f"{name}_r{k}"] = _estimate(hits.mean(), hits[draws].mean(axis=1), min(1.0, k / n))
    bins = _bins(similarity)
    areas = [_area(*bins, np.bincount(draw, minlength=n).astype(np.float64)) for draw in draws]
    found["auc"] = _estimate(area(similarity), np.array(areas), 0.5)
    return found


def _estimate(value: Any, resampled: npt.NDArray[Any], chance: float) -> dict[str, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    facts = {"value": value, "low": low, "high": high, "chance": chance}
    return {name: round(float(number), 6) for name, number in facts.items()}
