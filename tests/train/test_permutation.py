"""The shuffle that is never stored is a permutation, mixes, and stays what it is."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from train._permutation import Permutation


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
@settings(max_examples=40, deadline=None)
def test_permutation_is_one(n: int, key: int) -> None:
    order = Permutation(n, key)[np.arange(n)]
    assert sorted(order.tolist()) == list(range(n))
    some = np.arange(n)[:: max(n // 7, 1)]
    assert Permutation(n, key)[some].tolist() == order[some].tolist()  # any place alone


def test_permutation_mixes_and_is_fixed() -> None:
    n = 1000
    order, other = (Permutation(n, key)[np.arange(n)] for key in (1, 2))
    # of a random permutation about one number stays in its place, and about half of all neighbours rise
    assert (order == np.arange(n)).sum() < 10
    assert 430 < (np.diff(order) > 0).sum() < 570
    assert (order == other).sum() < 10
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 0.12
    assert Permutation(10, 7)[np.arange(10)].tolist() == [2, 9, 6, 8, 3, 1, 5, 4, 0, 7]
    large = Permutation(21_000_000_000, 5)[np.array([0, 1, 20_999_999_999])]
    assert len(set(large.tolist())) == 3
    assert large.max() < 21_000_000_000
