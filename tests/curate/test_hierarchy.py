"""Hierarchical sampling against the published recursion, for every budget; resampled k-means against its steps written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate import kmeans
from curate.features import normalise
from curate.hierarchy import Order, nearest_members, parse_levels, resampled_kmeans
from headwater.errors import UsageError


def cut(sizes: list[int], budget: int) -> list[int]:
    """What each child gives: min(c, size) for the largest c that fits, then one more each to the largest with more than c."""
    if budget >= sum(sizes):
        return list(sizes)
    c = 0
    while sum(min(c + 1, size) for size in sizes) <= budget:
        c += 1
    given = [min(c, size) for size in sizes]
    candidates = sorted((i for i, size in enumerate(sizes) if size > c), key=lambda i: (-sizes[i], i))
    for i in candidates[: budget - sum(given)]:
        given[i] += 1
    return given


def sampled(sizes: list[int], parents: list[list[int]], budget: int) -> list[int]:
    """Rows taken from each lowest cluster: from the top down, level by level."""
    levels = [list(sizes)]
    for parent in parents:
        above = [0] * (max(parent, default=-1) + 1)
        for child, up in enumerate(parent):
            above[up] += levels[-1][child]
        levels.append(above)
    given = cut(levels[-1], budget)
    for parent, below in zip(parents[::-1], levels[-2::-1], strict=True):
        shared = [0] * len(below)
        for up in range(len(given)):
            children = [child for child in range(len(below)) if parent[child] == up]
            for child, n in zip(children, cut([below[c] for c in children], given[up]), strict=True):
                shared[child] = n
        given = shared
    return given


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.data())
def test_every_budget_takes_what_the_recursion_takes(sizes: list[int], data: st.DataObject) -> None:
    parents, below = [], len(sizes)
    for _ in range(data.draw(st.integers(0, 3))):
        k = data.draw(st.integers(1, below))
        parents.append([data.draw(st.integers(0, k - 1)) for _ in range(below)])
        below = max(parents[-1]) + 1
    order = Order(np.array(sizes), [np.array(parent) for parent in parents])
    numbers = [order.numbers(c, np.arange(size)) for c, size in enumerate(sizes)]
    assert sorted(np.concatenate(numbers).tolist()) == list(range(sum(sizes)))
    for budget in range(sum(sizes) + 2):
        taken = [int((number < budget).sum()) for number in numbers]
        assert taken == sampled(sizes, parents, budget)
        assert all((np.diff(number) > 0).all() for number in numbers)


def test_clusters_above_without_children() -> None:
    order = Order(
        np.array([2, 1]), [np.array([1, 1]), np.array([0, 0, 0])]
    )  # cluster 0 and 2 of level 2 have none
    assert order.numbers(0, np.arange(2)).tolist() == [0, 2]
    assert order.numbers(1, np.arange(1)).tolist() == [1]


@pytest.mark.parametrize(
    "text", ["", "10,10", "5,10", "10,0", "-3", "a", "10,,2", "9,8,7,6,5,4,3,2,1", "1.5"]
)
def test_levels_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="levels"):
        parse_levels(text)


def test_levels() -> None:
    assert parse_levels("1000, 100,10") == [1000, 100, 10]
    assert parse_levels("10_000,1") == [10_000, 1]
    assert parse_levels("7") == [7]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-1.0, 0.0, 0.5, 1.0])), max_size=20),
    st.integers(1, 5),
)
def test_nearest_members(rows: list[tuple[int, float]], each: int) -> None:
    label = np.array([c for c, _ in rows], np.int64)
    similarity = np.array([s for _, s in rows], np.float32)
    want = []
    for cluster in range(4):
        own = sorted((i for i in range(len(rows)) if label[i] == cluster), key=lambda i: (-similarity[i], i))
        want += own[:each]
    assert nearest_members(label, similarity, each).tolist() == sorted(want)


def by_steps(points: np.ndarray, k: int, rounds: int, each: int) -> tuple[np.ndarray, list[int]]:
    """The published loop: k-means, then rounds of (nearest points of each cluster -> k-means -> assign all)."""

    def train(some: np.ndarray) -> np.ndarray:
        return kmeans.train(some, k, iterations=5, seed=3, spherical=True)

    def assign(centroids: np.ndarray) -> list[int]:
        return [
            max(range(len(centroids)), key=lambda c: (float(p @ centroids[c].astype(np.float64)), -c))
            for p in points.astype(np.float64)
        ]

    centroids = train(points)
    label = assign(centroids)
    for _ in range(rounds):
        chosen: list[int] = []
        for c in range(len(centroids)):
            own = [i for i in range(len(points)) if label[i] == c]
            near = {
                i: np.float32(points[i].astype(np.float64) @ centroids[c].astype(np.float64)) for i in own
            }
            chosen += sorted(own, key=lambda i: (-near[i], i))[:each]
        centroids = train(points[sorted(chosen)])
        label = assign(centroids)
    return centroids, label


@pytest.mark.parametrize(("k", "rounds", "each"), [(3, 0, 2), (3, 4, 2), (5, 3, 3), (1, 2, 4)])
def test_resampled_kmeans_is_its_steps(k: int, rounds: int, each: int) -> None:
    points = normalise(np.random.default_rng(k).standard_normal((40, 4)).astype(np.float32))
    centroids, label = resampled_kmeans(
        points, k, rounds=rounds, points_per_cluster=each, iterations=5, seed=3
    )
    want, labels = by_steps(points, k, rounds, each)
    assert np.array_equal(centroids, want)
    assert label.tolist() == labels


def test_resampling_evens_out_a_dense_region() -> None:
    # nine tenths of the points lie in one corner: k-means gives it nearly all centroids, resampling takes some back
    rng = np.random.default_rng(0)
    angle = np.concatenate([rng.normal(0, 0.05, 900), rng.uniform(0.5, 2 * np.pi - 0.5, 100)])
    points = normalise(np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32))

    def in_the_corner(rounds: int) -> int:
        centroids, _ = resampled_kmeans(points, 20, rounds=rounds, points_per_cluster=3, iterations=20)
        return int((centroids[:, 0] > np.cos(0.3)).sum())

    assert in_the_corner(10) < in_the_corner(0)


def test_resampling_without_points_or_with_few() -> None:
    none = np.zeros((0, 3), np.float32)
    centroids, label = resampled_kmeans(none, 4, rounds=3)
    assert centroids.shape == (0, 3) and not len(label)
    one = np.array([[1, 0, 0]], np.float32)
    centroids, label = resampled_kmeans(one, 4, rounds=3)
    assert centroids.tolist() == one.tolist() and label.tolist() == [0]
