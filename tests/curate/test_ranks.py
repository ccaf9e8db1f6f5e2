"""Order statistics from counts, against numpy's sort, for every number type and every rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from curate.ranks import (
    Cut,
    Histogram,
    fraction_rank,
    key_to_value,
    key_width,
    merge_all,
    ordered_keys,
    refine,
)

TYPES = ["f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]


def columns(dtype: str) -> st.SearchStrategy[Any]:
    """Arrays of one type: wild values, and values from a short list so that ties are usual."""
    if dtype[0] != "f":
        wild = hnp.from_dtype(np.dtype(dtype))
    else:
        wild = hnp.from_dtype(np.dtype(dtype), allow_nan=False)
    few = st.sampled_from(np.array([0, 1, 2, 100], dtype).tolist())
    return st.one_of(
        hnp.arrays(dtype, st.integers(1, 40), elements=wild),
        hnp.arrays(dtype, st.integers(1, 40), elements=few),
    )


def find(parts: list[Any], rank: int, dtype: np.dtype[Any]) -> Cut:
    """The value at a descending rank, as a filter finds it: pass after pass, part by part."""
    histogram = Histogram(key_width(dtype))
    for _ in range(6):
        answers = []
        for part in parts:
            answer = histogram.empty()
            for piece in np.array_split(part, 2):
                answer.add(piece)
            answers.append(answer.pack())
        merged = merge_all(answers, histogram.empty())
        cut, finer, rank = refine(merged, rank, dtype)
        if cut is not None:
            return cut
        assert finer is not None
        histogram = finer
    raise AssertionError("more passes than a 64-bit key has digits")


@pytest.mark.parametrize("dtype", TYPES)
def test_every_rank_agrees_with_a_sort(dtype: str) -> None:
    @settings(max_examples=25, deadline=None)
    @given(values=columns(dtype), cuts=st.tuples(st.integers(0, 40), st.integers(0, 40)))
    def check(values: Any, cuts: tuple[int, int]) -> None:
        descending = np.sort(values)[::-1]
        parts = np.split(values, sorted(min(c, len(values)) for c in cuts))
        for rank in {0, 1, len(values) // 2, len(values) - 1} & set(range(len(values))):
            cut = find(parts, rank, values.dtype)
            assert cut.value == descending[rank].item()
            assert cut.above == np.count_nonzero(values > descending[rank])
            assert cut.equal == np.count_nonzero(values == descending[rank])
            assert find(parts[::-1], rank, values.dtype) == cut

    check()


@pytest.mark.parametrize("dtype", TYPES)
def test_keys_keep_the_order_and_give_the_value_back(dtype: str) -> None:
    @settings(max_examples=25, deadline=None)
    @given(values=columns(dtype))
    def check(values: Any) -> None:
        keys = ordered_keys(values)
        order = np.argsort(values, kind="stable")
        assert (np.diff(keys[order].astype(object)) >= 0).all()
        assert [key_to_value(int(k), values.dtype) for k in keys] == values.tolist()

    check()


def test_zeros_infinities_and_denormals() -> None:
    values = np.array([-0.0, 0.0, np.inf, -np.inf, 1e-45, -1e-45, 3.4e38], "f4")
    assert [find([values], rank, values.dtype).value for rank in range(7)] == [
        float(v) for v in np.sort(values)[::-1]
    ]
    zero = find([values], 3, values.dtype)
    assert (zero.value, zero.above, zero.equal) == (0.0, 3, 2)


def test_neighbouring_numbers_are_told_apart() -> None:
    for dtype in ("f4", "f8"):
        middle = np.array([0.281], dtype)
        values = np.concatenate([np.nextafter(middle, 0), middle, np.nextafter(middle, 1)]).astype(dtype)
        assert [find([values], r, values.dtype).value for r in range(3)] == values[::-1].tolist()


def test_numbers_on_the_float16_grid_need_one_pass() -> None:
    values = np.random.default_rng(1).normal(0.2, 0.1, 5000).astype("f2").astype("f4")
    histogram = Histogram(32)
    histogram.add(values)
    cut, finer, _ = refine(histogram, 1500, values.dtype)
    assert finer is None and cut is not None
    assert cut.value == np.sort(values)[::-1][1500]


def test_what_a_shard_sends_back_is_small() -> None:
    values = np.random.default_rng(2).normal(0.2, 0.1, 200_000).astype("f2").astype("f4")
    histogram = Histogram(32)
    histogram.add(values)
    histogram.pack()
    assert histogram.total == len(values)
    assert len(histogram.places) == len(np.unique(values))
    assert histogram.places.nbytes + histogram.counts.nbytes < 400_000
    assert (np.diff(histogram.places) > 0).all() and histogram.counts.sum() == len(values)


def test_a_rank_beyond_the_counted_values() -> None:
    histogram = Histogram(32)
    histogram.add(np.array([1, 2], "f4"))
    with pytest.raises(IndexError):
        histogram.locate(2)


def test_nothing_counted() -> None:
    histogram = Histogram(64)
    histogram.add(np.zeros(0, "f8"))
    assert histogram.pack().total == 0 and histogram.count_in(5) == 0


def test_datacomps_rank_is_cut_in_double_precision() -> None:
    assert fraction_rank(100, 0.29) == 28
    assert fraction_rank(100, 0.57) == 56
    assert fraction_rank(100, 0.58) == 57
    assert fraction_rank(30331, 0.3) == 9099
    assert fraction_rank(0, 0.3) == 0
