"""Soft-cap sampling against its published procedure (FLYT, arXiv 2503.08805), every path of draws enumerated with its probability."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import subset
from tests.curate.test_subset import soft, words

DRAWN = tuple[int, ...]


def one_batch(logits: Sequence[float], size: int, taken: DRAWN = ()) -> Iterator[tuple[DRAWN, float]]:
    """Every order in which a batch can be drawn by softmax without replacement, one row after the other, with its probability."""
    if len(taken) == size:
        yield taken, 1.0
        return
    left = [i for i in range(len(logits)) if i not in taken]
    total = sum(math.exp(logits[i]) for i in left)
    for i in left:
        for drawn, chance in one_batch(logits, size, (*taken, i)):
            yield drawn, chance * math.exp(logits[i]) / total


def direct(logits: Sequence[float], count: int, batch: int, penalty: float) -> Counter[DRAWN]:
    """How often each row is drawn -> probability: batch after batch, drawn rows' logits lowered, until `count` are drawn."""
    if count == 0:
        return Counter({(0,) * len(logits): 1.0})  # type: ignore[dict-item]
    out: Counter[DRAWN] = Counter()
    size = min(batch, count, len(logits))
    for drawn, chance in one_batch(logits, size):
        lowered = [x - penalty * (i in drawn) for i, x in enumerate(logits)]
        for times, more in direct(lowered, count - size, batch, penalty).items():
            out[tuple(n + (i in drawn) for i, n in enumerate(times))] += chance * more  # type: ignore[assignment]
    return out


@pytest.mark.parametrize(
    ("scores", "count", "batch", "penalty"),
    [
        ([0.0, 1.0, 2.0], 2, 2, 0.15),  # one batch: Gumbel top-k is drawing one after the other
        ([0.5, -0.5, 1.5, 0.0], 3, 3, 0.15),
        ([1.0, 0.0, 0.5], 4, 2, 1.0),  # lowered in between
        ([0.0, 0.7, -0.2], 5, 2, 0.4),  # the last batch is short
        ([2.0, 0.0], 5, 1, 0.9),
    ],
)
def test_draws_are_distributed_as_published(
    scores: list[float], count: int, batch: int, penalty: float
) -> None:
    expected = direct(scores, count, batch, penalty)
    assert sum(expected.values()) == pytest.approx(1)
    runs = 4000
    seen = Counter(
        tuple(int(n) for n in soft(scores, count=count, penalty=penalty, batch=batch, seed=seed))
        for seed in range(runs)
    )
    assert seen.keys() <= expected.keys()
    for times, chance in expected.items():
        assert abs(seen[times] - runs * chance) < 5 * math.sqrt(runs * chance * (1 - chance)) + 1


@settings(max_examples=60)
@given(
    scores=st.lists(st.floats(-30, 30), min_size=1, max_size=12),
    count=st.integers(1, 40),
    batch=st.integers(1, 15),
    penalty=st.floats(0, 3),
    seed=st.integers(0, 99),
)
def test_batch_by_batch(scores: list[float], count: int, batch: int, penalty: float, seed: int) -> None:
    times = soft(scores, count=count, penalty=penalty, batch=batch, seed=seed)
    assert times.sum() == count
    assert times.max() <= math.ceil(count / min(batch, len(scores)))  # once a batch
    # fewer draws are the first batches of more draws
    whole = min(batch, len(scores))
    if count > whole:
        fewer = soft(
            scores, count=count - count % whole or count - whole, penalty=penalty, batch=batch, seed=seed
        )
        assert (fewer <= times).all()


def test_order_of_the_subset_is_kept_and_uids_repeat() -> None:
    found = subset.soft_cap(
        words([(1, 2), (3, 4)]), np.array([0.0, 0.0]), count=5, penalty=0.15, batch=2, seed=0
    )
    assert sorted(map(tuple, found.tolist())) == [tuple(x) for x in found.tolist()]
    assert len(found) == 5


def test_a_penalty_of_nothing_only_follows_the_scores() -> None:
    times = soft([0.0, math.log(3)], count=4000, penalty=0.0, batch=1)
    assert abs(times[1] / 4000 - 0.75) < 0.04
