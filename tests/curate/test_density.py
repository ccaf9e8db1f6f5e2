"""Complexities and quotas of density-based pruning against their definition and against search over all answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate._density import MeanDistance, _clipped, inter_distance, quotas, shares
from curate.features import normalise


def objective(x: np.ndarray, target: np.ndarray) -> float:
    return float(((x - target) ** 2).sum())


def least_objective(share: np.ndarray, sizes: list[int], total: int, least: int) -> float:
    """Over all whole numbers in the box that sum to the total."""
    boxes = [range(min(least, size), size + 1) for size in sizes]
    return min(objective(np.array(x), share * total) for x in itertools.product(*boxes) if sum(x) == total)


SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@given(SIZES, st.integers(0, 24), st.integers(0, 3), st.data())
def test_quotas_are_the_best_whole_numbers(
    sizes: list[int], total: int, least: int, data: st.DataObject
) -> None:
    weight = st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0, 1.0, 3.0, 1e-9])
    raw = np.array([data.draw(weight) for _ in sizes])
    share = raw / raw.sum() if raw.sum() else np.full(len(sizes), 1 / len(sizes))
    x = quotas(share, np.array(sizes), total, least)
    total = min(total, sum(sizes))
    least = min(least, total // len(sizes))
    assert x.sum() == total
    assert all(min(least, size) <= n <= size for n, size in zip(x, sizes, strict=True))
    assert objective(x, share * total) <= least_objective(share, sizes, total, least) + 1e-9


@given(st.integers(0, 10_000), st.integers(1, 60), st.floats(0.01, 1))
def test_quotas_of_many_clusters_fit(seed: int, k: int, fraction: float) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 1000, k)
    share = shares(rng.random(k), 0.05)
    total = int(fraction * sizes.sum())
    x = quotas(share, sizes, total, 1)
    assert x.sum() == total
    assert (x <= sizes).all()
    if total >= (sizes > 0).sum():
        assert (x >= np.minimum(1, sizes)).all()
    # moving one row from any cluster to any other never comes nearer to the shares
    target = share * total
    gain = np.where(x < sizes, 2 * (x - target) + 1, np.inf)  # cost of one more
    loss = np.where(
        x > np.minimum(sizes, min(1, total // max((sizes > 0).sum(), 1))), 2 * (x - target) - 1, -np.inf
    )
    assert gain.min() - loss.max() >= -1e-6 or not total


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_quotas_against_projected_gradient(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 50, 8)
    share = shares(rng.random(8), 0.2)
    total = int(sizes.sum() * rng.uniform(0.2, 0.9))
    target = share * total
    low = np.minimum(sizes, min(1, total // 8))
    x = np.full(8, total / 8)
    for _ in range(20_000):  # alternate projections with Dykstra's correction, onto the box and onto the sum
        pass_ = x
        x = _dykstra(target, low, sizes, total)
        if np.abs(x - pass_).max() < 1e-12:
            break
    found = quotas(share, sizes, total, 1)
    assert np.abs(found - x).max() <= 1 + 1e-6  # rounding moves each by less than one
    assert objective(x, target) <= objective(found, target) + 1e-6


def _dykstra(point: np.ndarray, low: np.ndarray, high: np.ndarray, total: int) -> np.ndarray:
    x, p, q = point.astype(float), np.zeros(len(point)), np.zeros(len(point))
    for _ in range(5000):
        y = np.clip(x + p, low, high)
        p = x + p - y
        z = y + q + (total - (y + q).sum()) / len(point)
        q = y + q - z
        x = z
    return np.clip(x, low, high)


@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0, 1))
def test_the_solution_before_rounding(seed: int, k: int, fraction: float) -> None:
    rng = np.random.default_rng(seed)
    high = rng.integers(1, 20, k)
    low = np.minimum(high, rng.integers(0, 3))
    total = int(low.sum() + fraction * (high - low).sum())
    target = shares(rng.random(k), 0.1) * total
    x = _clipped(target, low, high, total)
    assert abs(x.sum() - total) < 1e-7
    # Karush-Kuhn-Tucker: one multiplier; below it only at the upper bound, above it only at the lower one
    inside = (x > low + 1e-7) & (x < high - 1e-7)
    m = target - x
    if inside.any():
        assert np.ptp(m[inside]) < 1e-7
        assert (m[(x >= high - 1e-7) & (low < high)] >= m[inside].mean() - 1e-6).all()
        assert (m[(x <= low + 1e-7) & (low < high)] <= m[inside].mean() + 1e-6).all()


def test_quotas_at_the_ends() -> None:
    assert quotas(np.zeros(0), np.zeros(0, np.int64), 5, 1).tolist() == []
    assert quotas(np.array([0.0, 0.0]), np.array([0, 0]), 5, 1).tolist() == [0, 0]
    assert quotas(np.array([0.5, 0.5]), np.array([3, 0]), 2, 1).tolist() == [2, 0]
    assert quotas(np.array([0.9, 0.1]), np.array([3, 4]), 100, 1).tolist() == [3, 4]  # more than there is
    assert quotas(np.array([0.9, 0.1]), np.array([30, 40]), 0, 1).tolist() == [0, 0]
    assert quotas(np.array([0.5, 0.5]), np.array([9, 9]), 3, 1).tolist() == [2, 1]  # a tie goes to the lowest
    assert quotas(np.array([1.0, 0.0, 0.0]), np.array([9, 9, 9]), 2, 5).tolist() == [
        2,
        0,
        0,
    ]  # least does not fit


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 25))
def test_distance_to_the_nearest_centroids(seed: int, k: int, neighbours: int) -> None:
    rng = np.random.default_rng(seed)
    centroids = normalise(rng.integers(-1, 2, (k, 3)).astype(np.float32) + np.float32([2, 0, 0]))
    exact = centroids.astype(np.float64)
    for j, found in enumerate(inter_distance(centroids, neighbours)):
        others = sorted(1 - float(exact[j] @ exact[i]) for i in range(k) if i != j)[:neighbours]
        assert math.isclose(found, sum(others) / len(others) if others else 0.0, abs_tol=1e-6)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-1, 1, width=32)), max_size=30), st.randoms())
def test_mean_distance_in_any_order(rows: list[tuple[int, float]], random: object) -> None:
    def means(some: list[tuple[int, float]], pieces: int) -> list[float]:
        distance = MeanDistance(4)
        for part in np.array_split(np.arange(len(some)), pieces):
            label = np.array([some[i][0] for i in part], np.int64)
            distance.add(label, np.array([some[i][1] for i in part], np.float32))
        return distance.means.tolist()

    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert means(rows, 1) == means(shuffled, 3)  # to the last bit
    for cluster, mean in enumerate(means(rows, 1)):
        own = [1 - s for c, s in rows if c == cluster]
        assert math.isclose(mean, sum(own) / len(own) if own else 0.0, abs_tol=1e-8)


def test_shares_are_a_softmax() -> None:
    complexity = np.array([0.1, 0.2, 0.4])
    power = [math.exp(c / 0.1) for c in complexity]
    assert np.allclose(shares(complexity, 0.1), np.array(power) / sum(power))
    assert np.allclose(shares(np.array([1.0, 0.0]), 1e-9), [1, 0])  # no overflow
    assert not len(shares(np.zeros(0), 0.1))
