"""Hierarchical k-means and balanced sampling from it, as one order of the rows: the first n of it are the sample of size n.

Source: arXiv 2405.15613, sections 3.2-3.4. Each level clusters the centroids of the level below. On every level but the lowest k-means is
repeated on the points nearest to the centroids ("resampling"), which moves clusters from dense regions to even ones. A sample is drawn
from the top: of a budget b each child gets min(c, size), c the largest cut whose sum is at most b, and what is left goes one by one
to children that have more than c rows, here the largest first, then the lowest number (published: chosen at random).

One more row of budget therefore always goes to one child, and to the same one whatever is asked for later: samples are nested. A row
that is number j (from 0) of its child is drawn in round j of the parent, after P(j) = sum of min(size, j) over the children, and after
those of its round whose turn is earlier: its number in the parent is P(j) + turn. Level by level this gives its number in the pool.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curate import kmeans
from curate.products import nearest
from headwater.errors import UsageError

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]
MOST_LEVELS = 8


def parse_levels(text: str) -> list[int]:
    """ "1000,100,10" as whole numbers. Raises UsageError unless each is positive and smaller than the one before it."""
    try:
        levels = [int(part.strip().replace("_", "")) for part in text.split(",")]
    except ValueError:
        levels = []
    if not levels or len(levels) > MOST_LEVELS or levels[-1] < 1:
        raise UsageError(
            f"levels {text!r}: write clusters from the lowest level up, such as 1000,100,10 (at most {MOST_LEVELS})"
        )
    if any(above >= below for below, above in zip(levels, levels[1:], strict=False)):
        raise UsageError(f"levels {text}: each must have fewer clusters than the one before it")
    return levels


def resampled_kmeans(
    points: Floats, k: int, *, rounds: int, points_per_cluster: int = 0, iterations: int = 20, seed: int = 0
) -> tuple[Floats, Labels]:
    """Centroids (min(k, n), d) of length 1 and the cluster of each of the (n, d) points of length 1.

    After a first k-means (spherical), each of `rounds` takes from every cluster the `points_per_cluster` points nearest to its centroid
    (ties: lowest number; 0: half the mean size), clusters those, and assigns all points to the new centroids. One point a cluster
    would give the same centroids again, so nothing is repeated then.
    """

    def trained(some: Floats) -> Floats:
        return kmeans.train(some, k, iterations=iterations, seed=seed, spherical=True)

    if not len(points):
        return points, np.zeros(0, np.int64)
    centroids = trained(points)
    label, similarity = nearest(points, centroids)
    each = points_per_cluster or len(points) // (2 * len(centroids))
    for _ in range(rounds if each > 1 else 0):
        centroids = trained(points[nearest_members(label, similarity, each)])
        label, similarity = nearest(points, centroids)
    return centroids, label.astype(np.int64)


def nearest_members(label: npt.NDArray[np.integer], similarity: Floats, each: int) -> Labels:
    """Numbers, rising, of the `each` points of every cluster that are most similar to its centroid; ties: lowest number."""
    order = np.lexsort((-similarity, label))
    sizes = np.bincount(label)
    rank = np.arange(len(label)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < each])


@dataclass(frozen=True)
class _Level:
    """The clusters of one level as children of the level above."""

    parent: Labels  # (k,)
    turn: Counts  # (k,) place among its siblings: largest first, ties lowest number
    starts: Counts  # (parents + 1,): where the children of each parent lie in the arrays below
    sizes: Counts  # (k,) sizes of the children of each parent, rising
    sums: Counts  # (k + 1,) running sums of `sizes`


class Order:
    """The place of rows in the balanced order, from their place in their lowest cluster.

    `sizes` is (k,) rows of each lowest cluster; `parents` one (k of the level,) array a level above, from the lowest up.
    """

    def __init__(self, sizes: Counts, parents: list[Labels]) -> None:
        self._levels: list[_Level] = []
        for number, parent in enumerate(parents):
            self._levels.append(_level(sizes, parent))
            above = len(parents[number + 1]) if number + 1 < len(parents) else int(parent.max(initial=-1)) + 1
            total = np.zeros(above, np.int64)
            np.add.at(total, parent, sizes)
            sizes = total
        self._levels.append(_level(sizes, np.zeros(len(sizes), np.int64)))  # one root above the top level

    def numbers(self, cluster: int, rank: Counts) -> Counts:
        """Where rows number `rank` (0 = drawn first) of the lowest cluster `cluster` come in the order of all rows."""
        for level in self._levels:
            parent, turn = int(level.parent[cluster]), int(level.turn[cluster])
            first, last = int(level.starts[parent]), int(level.starts[parent + 1])
            # the children with at most `rank` rows come before `small`
            small = first + np.searchsorted(level.sizes[first:last], rank, "right")
            rank = level.sums[small] - level.sums[first] + rank * (last - small) + turn
            cluster = parent
        return rank


def _level(sizes: Counts, parent: Labels) -> _Level:
    numbers = np.arange(len(sizes))
    counts = np.bincount(parent)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    turn = np.empty(len(sizes), np.int64)
    largest = np.lexsort((numbers, -sizes, parent))
    turn[largest] = numbers - starts[parent[largest]]
    rising = sizes[np.lexsort((sizes, parent))]
    return _Level(parent, turn, starts, rising, np.concatenate([[0], np.cumsum(rising)]).astype(np.int64))
