"""Every figure against the slowest way to compute it, ties and single examples included."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from train import metrics

LABELS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30)
# few distinct values, so that ties are the rule
COARSE = st.integers(-2, 2).map(float)


@pytest.fixture(params=[1 << 26, 1])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With scores in one block, and with one row at a time."""
    monkeypatch.setattr(metrics, "BLOCK_BYTES", request.param)
    yield


def place_of_best(scores: Any, positives: Any) -> int:
    order = sorted(range(len(scores)), key=lambda item: (-scores[item], item))
    return min(order.index(item) for item in positives)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 6)), elements=COARSE), st.data())
def test_class_ranks_are_places_in_a_stable_order(scores: Any, data: Any) -> None:
    classes = st.integers(0, scores.shape[1] - 1)
    labels = np.array(data.draw(st.lists(classes, min_size=len(scores), max_size=len(scores))))
    found = metrics.class_ranks(scores, labels)
    assert found.tolist() == [place_of_best(row, [label]) for row, label in zip(scores, labels, strict=True)]
    assert (metrics.top_k(found, 1) == (scores.argmax(axis=1) == labels)).all()


@pytest.mark.parametrize("block_bytes", [1 << 26, 1])
@given(data=st.data())
def test_best_positive_ranks_against_sorting(block_bytes: int, data: Any) -> None:
    rows = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(3)), elements=COARSE)
    queries, gallery = data.draw(rows), data.draw(rows)
    choice = st.sets(st.integers(0, len(gallery) - 1), min_size=1)
    one, two = ([data.draw(choice.map(lambda rows: np.array(list(rows)))) for _ in queries] for _ in range(2))
    before, metrics.BLOCK_BYTES = metrics.BLOCK_BYTES, block_bytes
    try:
        found = metrics.best_positive_ranks(queries, gallery, one.__getitem__, two.__getitem__)
    finally:
        metrics.BLOCK_BYTES = before
    scores = queries @ gallery.T
    for ranks, positives in zip(found, (one, two), strict=True):
        assert ranks.tolist() == [place_of_best(row, own) for row, own in zip(scores, positives, strict=True)]


def test_scores_do_not_depend_on_the_block(blocks: None) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(n, 64)).astype(np.float32) for n in (37, 53))
    found = np.concatenate([scores for _, _, scores in metrics.score_blocks(a, b)])
    exact = np.array(
        [[math.fsum(float(p) * float(q) for p, q in zip(x, y, strict=True)) for y in b] for x in a]
    )
    assert (found == exact.astype(np.float32)).all()


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=40))
def test_mean_and_its_error(values: list[float]) -> None:
    found = metrics.mean_figure(np.array(values))
    mean = math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    assert found.value == pytest.approx(mean, abs=1e-12)
    assert found.standard_error == pytest.approx(math.sqrt(variance / len(values)), abs=1e-12)


def test_what_cannot_be_told_is_none() -> None:
    none, labels = np.array([]), np.array([], np.int64)
    assert metrics.mean_figure(none) == metrics.Figure(None, None)
    assert metrics.mean_figure(np.array([True])) == metrics.Figure(1.0, None)
    assert metrics.mean_per_class_recall(labels, labels) == metrics.Figure(None, None)
    assert metrics.mean_per_class_recall(np.array([3]), np.array([1])) == metrics.Figure(0.0, None)
    assert metrics.macro_f1(labels, labels) == metrics.Figure(None, None)
    assert metrics.macro_f1(np.array([3]), np.array([3])) == metrics.Figure(1.0, None)
    assert metrics.worst_group(none, labels) == (metrics.Figure(None, None), None)
    assert metrics.worst_group(np.array([1.0, 0.0]), np.array([-1, -1]))[1] is None
    assert metrics.worst_group(np.array([0.5]), np.array([2])) == (metrics.Figure(0.5, None), 2)


@given(LABELS)
def test_recall_and_f1_against_counting(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = np.array(pairs).T
    recalls, scores = [], []
    for one in sorted({label for label, _ in pairs}):
        hits = sum(t == p == one for t, p in pairs)
        of_class, called = sum(t == one for t, _ in pairs), sum(p == one for _, p in pairs)
        recalls.append(hits / of_class)
        scores.append(2 * hits / (of_class + called))
    assert metrics.mean_per_class_recall(labels, predicted).value == pytest.approx(
        sum(recalls) / len(recalls)
    )
    assert metrics.macro_f1(labels, predicted).value == pytest.approx(sum(scores) / len(scores))


def test_error_of_mean_recall_is_unbiased() -> None:
    """Over all outcomes of two classes, the mean squared error estimate is the variance of the figure."""
    labels, chances = np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0.3] * 3 + [0.8] * 4)
    first = second = estimate = 0.0
    for hits in itertools.product([False, True], repeat=7):
        weight = float(np.where(hits, chances, 1 - chances).prod())
        found = metrics.mean_per_class_recall(labels, np.where(hits, labels, 2))
        assert found.value is not None and found.standard_error is not None
        first += weight * found.value
        second += weight * found.value**2
        estimate += weight * found.standard_error**2
    assert estimate == pytest.approx(second - first**2)


def test_a_class_of_one_example_has_the_error_of_all() -> None:
    found = metrics.mean_per_class_recall(np.array([0, 1, 2, 3]), np.array([0, 0, 2, 0]))
    assert found.standard_error == pytest.approx(math.sqrt(4 * (0.25 * 4 / 3)) / 4)


@given(LABELS.filter(lambda pairs: len(pairs) > 1))
def test_error_of_macro_f1_is_its_linearisation(pairs: list[tuple[int, int]]) -> None:
    """ψ_i is how the figure moves when example i weighs a little more."""
    labels, predicted = np.array(pairs).T

    def weighted(weights: Any) -> float:
        scores = []
        for one in sorted(set(labels.tolist())):
            hits = weights[(labels == one) & (predicted == one)].sum()
            scores.append(2 * hits / (weights[labels == one].sum() + weights[predicted == one].sum()))
        return float(np.mean(scores))

    step, n = 1e-6, len(pairs)
    unit = np.eye(n)
    psi = [
        (weighted(np.ones(n) + step * row) - weighted(np.ones(n) - step * row)) / (2 * step) for row in unit
    ]
    wanted = math.sqrt(sum(p**2 for p in psi) * n / (n - 1))
    assert metrics.macro_f1(labels, predicted).standard_error == pytest.approx(wanted, abs=1e-6)


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 1)), min_size=2, max_size=40))
def test_worst_group_against_counting(pairs: list[tuple[int, int]]) -> None:
    groups, scores = np.array(pairs).T
    means = {g: scores[groups == g].mean() for g in sorted(set(groups.tolist())) if g >= 0}
    found, worst = metrics.worst_group(scores, groups, resamples=8)
    if not means:
        assert (found.value, worst) == (None, None)
    else:
        assert worst == min(means, key=lambda g: (means[g], g))
        assert found.value == pytest.approx(means[worst])


def test_error_of_a_worst_group_that_stands_apart_is_its_own() -> None:
    scores = np.array([1.0] * 20 + [0.0] * 180 + [1.0] * 100)
    groups = np.array([0] * 200 + [1] * 100)
    found, worst = metrics.worst_group(scores, groups)
    assert worst == 0 and found.value == pytest.approx(0.1)
    assert found.standard_error == pytest.approx(math.sqrt(0.1 * 0.9 / 200), rel=0.1)
    assert metrics.worst_group(scores, groups) == (found, worst)  # nothing is drawn anew


@given(
    st.lists(
        st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=4), min_size=1, max_size=6
    )
)
def test_jaccard_against_sets(rows: list[list[tuple[bool, bool]]]) -> None:
    table = np.array(rows)
    wanted = []
    for row in rows:
        a, b = ({i for i, pair in enumerate(row) if pair[side]} for side in (0, 1))
        wanted.append(len(a & b) / len(a | b) if a | b else 1.0)
    assert metrics.jaccard(table[:, :, 0], table[:, :, 1]) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("gallery", "positives", "k"), [(5, 1, 1), (5, 2, 3), (6, 3, 2), (4, 1, 9), (5, 4, 2)]
)
def test_chance_of_top_k_by_trying_all_orders(gallery: int, positives: int, k: int) -> None:
    orders = list(itertools.permutations(range(gallery)))
    hits = sum(min(order.index(item) for item in range(positives)) < k for order in orders)
    assert metrics.chance_top_k(np.array([positives]), gallery, k)[0] == pytest.approx(hits / len(orders))
