"""Products in chunks against products of everything at once, and against naive loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate import _chunked, products
from curate._chunked import best_earlier, pairs_above, pairs_between, top_k
from curate.features import normalise
from tests.bench.semdedup import multiply_adds


@st.composite
def unit_rows(draw: st.DrawFn, least: int = 0) -> np.ndarray:
    """Rows of length 1 with copies, and with products that differ only beyond float32."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = rng.integers(-2, 3, (draw(st.integers(least, 14)), 3)).astype(np.float32)
    rows += np.float32(draw(st.sampled_from([0.0, 0.3, 1e-4])))
    rows[~rows.any(axis=1)] = 1
    rows = normalise(rows)
    if draw(st.booleans()) and len(rows):
        rows = rows[rng.integers(0, len(rows), len(rows))]
    return rows


@given(unit_rows(), st.integers(1, 6))
def test_best_earlier(rows: np.ndarray, chunk: int) -> None:
    value, index = best_earlier(rows, chunk)
    whole, places = products.best_earlier(rows)
    assert value.tolist() == whole.tolist() and index.tolist() == places.tolist()
    exact = rows.astype(np.float64)
    for i in range(1, len(rows)):
        assert value[i] == pytest.approx(max(exact[:i] @ exact[i]), abs=1e-7)


@given(unit_rows(), st.integers(1, 5))
def test_triangle_of_several_blocks(rows: np.ndarray, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_chunked, "TRIANGLE_ROWS", block)
        patch.setattr(_chunked, "MANY", 1000)
        found = _chunked.triangle(rows)
        assert found is not None
        value, index = found
        patch.setattr(_chunked, "MANY", 0)
        assert _chunked.triangle(rows) is None or len(rows) < 2  # too many to decide: left to the other way
    exact = rows.astype(np.float64)
    for i in range(len(rows)):
        all_ = [float((exact[i] * exact[j]).sum()) for j in range(i)]
        assert index[i] == (all_.index(max(all_)) if i else -1)
        assert value[i] == (np.float32(max(all_)) if i else -np.inf)


def test_triangle_of_many_rows_is_the_other_way() -> None:
    rows = normalise(np.random.default_rng(3).standard_normal((1300, 24)).astype(np.float32) + np.float32(1))
    rows[700:900] = rows[100:300]
    found = _chunked.triangle(rows)
    assert found is not None
    for mine, other in zip(found, products.best_earlier(rows), strict=True):
        assert np.array_equal(mine, other)
    assert _chunked.triangle(np.tile(rows[:20], (40, 1))) is None  # copies of copies


@pytest.mark.parametrize(("rows", "most"), [(600, 1.01), (1300, 1.01), (6000, 1.2)])
def test_what_lies_above_the_diagonal_is_not_multiplied(rows: int, most: float) -> None:
    values = normalise(np.random.default_rng(0).standard_normal((rows, 16)).astype(np.float32))
    needed = rows * (rows - 1) // 2 * 16
    assert needed <= multiply_adds(values) <= most * needed


@given(unit_rows(), unit_rows(), st.integers(1, 5), st.integers(1, 6))
def test_top_k(queries: np.ndarray, rows: np.ndarray, k: int, chunk: int) -> None:
    index, value = top_k(queries, rows, k, chunk)
    whole, values = products.top_k(queries, rows, k)
    assert index.tolist() == whole.tolist()
    assert np.array_equal(value, values, equal_nan=True)


@given(unit_rows(), st.integers(1, 6), st.sampled_from([-1.5, -0.2, 0.0, 0.45, 0.93, 1.5]))
def test_pairs_above(rows: np.ndarray, chunk: int, threshold: float) -> None:
    found = [
        (int(a), int(b)) for i, j in pairs_above(rows, threshold, chunk) for a, b in zip(i, j, strict=True)
    ]
    want = [
        (int(a), int(b))
        for i, j, _ in products.pairs_above(rows, threshold)
        for a, b in zip(i, j, strict=True)
    ]
    assert sorted(found) == sorted(want) and len(set(found)) == len(found)
    exact = rows.astype(np.float64)
    near = [(a, b) for b in range(len(rows)) for a in range(b) if exact[a] @ exact[b] > threshold + 1e-12]
    assert set(near) <= set(found)


@given(unit_rows(), unit_rows(), st.sampled_from([-1.5, 0.0, 0.5, 0.999]))
def test_pairs_between(rows: np.ndarray, others: np.ndarray, threshold: float) -> None:
    found = {
        (int(a), int(b)) for i, j in pairs_between(rows, others, threshold) for a, b in zip(i, j, strict=True)
    }
    exact = [[float((a * b).sum()) for b in others.astype(np.float64)] for a in rows.astype(np.float64)]
    assert found == {(i, j) for i in range(len(rows)) for j in range(len(others)) if exact[i][j] > threshold}


def test_a_memory_map_is_read_chunk_by_chunk(tmp_path: Path) -> None:
    rows = normalise(np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32))
    rows.tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", np.float32, "r", 0, rows.shape)
    for chunk in (64, 500):
        value, index = best_earlier(mapped, chunk)
        assert np.array_equal(value, products.best_earlier(rows)[0])
        assert np.array_equal(index, products.best_earlier(rows)[1])
