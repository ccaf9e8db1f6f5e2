"""Sort, merge and search of uid words against plain Python lists of tuples."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate import _order

TOP = 2**64 - 1
# few values, so that high words and whole rows repeat; ends of the range; neighbours in low bits
word = st.one_of(
    st.integers(0, 3),
    st.integers(TOP - 2, TOP),
    st.sampled_from([1 << 40, (1 << 40) + 1]),
    st.integers(0, TOP),
)
row_lists = st.lists(st.tuples(word, word), max_size=60)


def words(rows: list[tuple[int, int]]) -> _order.Words:
    return np.array(rows, "<u8").reshape(-1, 2)


def tuples(a: _order.Words) -> list[tuple[int, int]]:
    return [(int(hi), int(lo)) for hi, lo in a]


def shapes(n: int) -> dict[str, _order.Words]:
    rng = np.random.default_rng(3)
    random = rng.integers(0, TOP, (n, 2), dtype=np.uint64, endpoint=True)
    one_hi, coarse = random.copy(), random.copy()
    one_hi[:, 0] = 9
    coarse[:, 0] >>= np.uint64(58)
    ordered = random[np.lexsort((random[:, 1], random[:, 0]))]
    return {
        "random": random,
        "one high word": one_hi,
        "64 high words": coarse,
        "equal rows": np.full((n, 2), TOP, np.uint64),
        "few rows": random % np.uint64(3),
        "ascending": ordered,
        "descending": ordered[::-1],
        "strided": np.repeat(random, 2, axis=0)[::2],
    }


@given(st.lists(word, max_size=60), st.sampled_from([1, 7, 40]))
def test_sorting_keys_is_stable(keys: list[int], times: int) -> None:
    given_keys = np.array(keys * times, np.uint64)
    order = _order.order_of(given_keys).tolist()
    assert order == sorted(range(len(given_keys)), key=lambda place: int(given_keys[place]))
    assert _order.sort_keys(given_keys.copy()).tolist() == sorted(keys * times)


@pytest.mark.parametrize("shape", shapes(1))
def test_sorting_many_keys(shape: str) -> None:
    for column in shapes(5000)[shape].T:
        order = _order.order_of(column)
        assert (order == np.argsort(column, kind="stable")).all()
        assert (_order.sort_keys(column.copy()) == column[order]).all()


@given(row_lists)
def test_sort(rows: list[tuple[int, int]]) -> None:
    before = words(rows)
    after = _order.sort_words(before)
    assert tuples(after) == sorted(rows)
    assert tuples(before) == rows
    assert _order.first_unsorted(after) is None
    assert _order.first_unsorted(before) == next(
        (i for i in range(1, len(rows)) if rows[i] < rows[i - 1]), None
    )


@pytest.mark.parametrize("n", [0, 1, 2, 3, 1023, 1024, 1025, 70_000])
@pytest.mark.parametrize("shape", list(shapes(0)))
def test_sort_of_shapes(shape: str, n: int) -> None:
    a = shapes(n)[shape]
    assert np.array_equal(_order.sort_words(a), a[np.lexsort((a[:, 1], a[:, 0]))])


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["random", "one high word", "descending"])
def test_sort_of_more_than_4_million_rows(shape: str) -> None:
    a = shapes((1 << 22) + 5)[shape]
    assert np.array_equal(_order.sort_words(a), a[np.lexsort((a[:, 1], a[:, 0]))])


@given(st.lists(row_lists, max_size=8), st.integers(1, 70))
def test_merge(lists: list[list[tuple[int, int]]], block_rows: int) -> None:
    written: list[_order.Words] = []
    total = _order.merge_runs([words(sorted(rows)) for rows in lists], written.append, block_rows=block_rows)
    merged = [row for block in written for row in tuples(block)]
    assert merged == sorted(row for rows in lists for row in rows)
    assert total == len(merged)
    assert all(0 < len(block) <= block_rows for block in written)


@pytest.mark.parametrize("shape", list(shapes(0)))
def test_merge_of_memory_maps_in_small_blocks(shape: str, tmp_path: Path) -> None:
    a = shapes(30_000)[shape]
    runs = []
    for i, part in enumerate(np.array_split(a, [10, 11, 9_000, 9_000, 20_000])):
        _order.sort_words(part).tofile(tmp_path / str(i))
        runs.append(np.memmap(tmp_path / str(i), "<u8", "r").reshape(-1, 2) if len(part) else part)
    written: list[_order.Words] = []
    assert _order.merge_runs(runs, written.append, block_rows=512) == len(a)
    assert np.array_equal(np.concatenate(written), _order.sort_words(a))
    assert max(map(len, written)) <= 512


def test_merge_of_nothing() -> None:
    written: list[_order.Words] = []
    assert _order.merge_runs([], written.append) == 0
    assert _order.merge_runs([words([]), words([])], written.append) == 0
    assert written == []


@given(row_lists, row_lists, st.booleans())
def test_search(rows: list[tuple[int, int]], others: list[tuple[int, int]], few: bool) -> None:
    haystack = sorted(rows) * (20 if few else 1)  # more than 16 rows a needle take another path
    needles = (rows + others)[: 1 if few else None]
    left, right = _order.search_words(words(haystack), words(needles))
    assert left.tolist() == [bisect_left(haystack, needle) for needle in needles]
    assert right.tolist() == [bisect_right(haystack, needle) for needle in needles]


@pytest.mark.parametrize("piece", [7, 1 << 20])
@pytest.mark.parametrize("shape", list(shapes(0)))
def test_search_few_and_many(shape: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_order, "SEARCH_ROWS", piece)
    haystack = _order.sort_words(shapes(2_000)[shape])
    listed = tuples(haystack)
    needles = np.concatenate([haystack[::3], haystack[::5] + np.uint64(1), words([(0, 0), (TOP, TOP)])])
    wanted_left = [bisect_left(listed, needle) for needle in tuples(needles)]
    wanted_right = [bisect_right(listed, needle) for needle in tuples(needles)]
    for part in (slice(None), slice(0, 20)):
        left, right = _order.search_words(haystack, needles[part])
        assert left.tolist() == wanted_left[part]
        assert right.tolist() == wanted_right[part]
