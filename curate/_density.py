"""Density-based pruning: how complex each cluster is, and how many rows each may keep.

Source: arXiv 2401.04578, section 3, and its published code. Complexity C = d_inter * d_intra; p = softmax(C / temperature); the numbers
kept are the solution of

    minimise  sum_j (x_j - p_j N)^2   subject to  sum_j x_j = N,  low_j <= x_j <= size_j

which is x_j = clip(p_j N - m, low_j, size_j) for one number m, found exactly: the sum falls piecewise linearly with m. Whole numbers
come from the largest remainders (ties: lowest cluster), which is the optimum over whole numbers too. A cluster without rows takes no part.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from curate.features import normalise
from curate.products import top_k

Numbers = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

UNIT = (
    1 << 32
)  # similarities are added up as whole numbers of 2^-32, so that no order of rows changes the sum
NEAR = 1e-9  # how far from a whole number (relative) a solution may lie by rounding alone


class MeanDistance:
    """Mean of 1 - cosine of the rows of each cluster, whatever the order in which they come."""

    def __init__(self, clusters: int) -> None:
        self.sizes: Counts = np.zeros(clusters, np.int64)
        self._sums: Counts = np.zeros(clusters, np.int64)

    def add(self, label: Counts, similarity: Floats) -> None:
        """Rows (n,) of clusters `label` with the cosine `similarity` to their centroid."""
        np.add.at(self.sizes, label, 1)
        np.add.at(self._sums, label, np.rint(similarity.astype(np.float64) * UNIT).astype(np.int64))

    @property
    def means(self) -> Numbers:
        """(k,) mean distances; 0 for a cluster without rows."""
        return np.where(self.sizes > 0, 1 - self._sums / UNIT / np.maximum(self.sizes, 1), 0.0)


def inter_distance(centroids: Floats, neighbours: int) -> Numbers:
    """(k,) mean of 1 - cosine of each centroid to the `neighbours` nearest others (all, when there are fewer; 0 when alone)."""
    k = len(centroids)
    others = min(neighbours, k - 1)
    if others < 1:
        return np.zeros(k)
    unit = normalise(centroids)
    index, value = top_k(unit, unit, others + 1)
    # the centroid itself is one of those found, or as near as every one of them
    own = index == np.arange(k)[:, None]
    own[~own.any(axis=1), 0] = True
    return np.asarray(1 - value[~own].reshape(k, others).astype(np.float64).mean(axis=1))


def shares(complexity: Numbers, temperature: float) -> Numbers:
    """softmax(complexity / temperature)."""
    if not len(complexity):
        return complexity
    power = np.exp((complexity - complexity.max()) / temperature)
    return np.asarray(power / power.sum())


def quotas(share: Numbers, sizes: Counts, total: int, least: int) -> Counts:
    """(k,) whole numbers: how many rows each cluster keeps; they sum to min(total, rows).

    `least` rows are kept of each cluster that has them; where that is more than `total` allows, as many as it allows.
    """
    sizes = np.asarray(sizes, np.int64)
    total = min(total, int(sizes.sum()))
    used = np.flatnonzero(sizes)
    out = np.zeros(len(sizes), np.int64)
    if not len(used):
        return out
    high = sizes[used]
    low = np.minimum(high, min(least, total // len(used)))
    target = np.asarray(share, np.float64)[used] * total
    out[used] = _whole(_clipped(target, low, high, total), low, high, total)
    return out


def _clipped(target: Numbers, low: Counts, high: Counts, total: int) -> Numbers:
    """clip(target - m, low, high) with the m at which it sums to `total`."""
    points = np.unique(np.concatenate([target - low, target - high]))  # where a term starts or stops to move

    def value(m: float) -> float:
        return float(np.clip(target - m, low, high).sum())

    first, last = 0, len(points) - 1  # the sum at points[first] is >= total, that at points[last] <= total
    while last - first > 1:
        middle = (first + last) // 2
        if value(points[middle]) >= total:
            first = middle
        else:
            last = middle
    above, below = value(points[first]), value(points[last])
    m = points[first]
    if above > below:
        m += (points[last] - points[first]) * np.clip((above - total) / (above - below), 0.0, 1.0)
    return np.asarray(np.clip(target - m, low, high))


def _whole(solution: Numbers, low: Counts, high: Counts, total: int) -> Counts:
    """Whole numbers that sum to `total`, by the largest remainders."""
    near = np.rint(solution)
    snapped = np.where(np.abs(solution - near) <= NEAR * np.maximum(near, 1), near, solution)
    out: Counts = np.clip(np.floor(snapped).astype(np.int64), low, high)
    order = np.argsort(-(snapped - np.floor(snapped)), kind="stable")
    missing = total - int(out.sum())
    while missing:  # one round, but for what rounding left over
        step = 1 if missing > 0 else -1
        room = out < high if step > 0 else out > low
        chosen = [j for j in order[::step].tolist() if room[j]][: abs(missing)]
        out[chosen] += step
        missing -= step * len(chosen)
    return out
