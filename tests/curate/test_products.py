"""Products in blocks against their definition: float64 sums of every pair, the best of them, ties to the lowest index."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate import _inner, products
from curate._inner import Engine
from curate.products import Assigner, best_earlier, first_of_equals, labels, nearest, pairs_above, top_k

PRECISIONS = ["f32", "bf16", "int8"]
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def products_of_all(rows: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The definition: one pair at a time."""
    out = np.empty((len(rows), len(others)))
    for i, x in enumerate(rows):
        for j, c in enumerate(others):
            out[i, j] = np.add.reduce(x.astype(np.float64) * c.astype(np.float64))
    return out


@st.composite
def vectors(draw: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Rows and others of one width: with ties, near ties, equal rows, and lengths from 1e-30 to 1e18."""
    seed = draw(st.integers(0, 2**32 - 1))
    kind = draw(st.sampled_from(["normal", "grid", "cone", "near", "scaled", "zeros"]))
    n, m, width = draw(st.integers(0, 24)), draw(st.integers(1, 20)), draw(st.integers(1, 40))
    rng = np.random.default_rng(seed)

    def make(count: int) -> npt.NDArray[np.float32]:
        values = rng.normal(size=(count, width))
        if kind == "grid":
            values = rng.integers(-2, 3, (count, width)).astype(float)
        if kind == "cone":
            values = 3 + 0.01 * values
        if kind == "near":
            values = rng.normal(size=(1, width)) + 1e-7 * values
        if kind == "zeros":
            values *= rng.integers(0, 2, (count, 1))
        if kind == "scaled":
            values *= 10.0 ** rng.integers(-30, 19, (count, 1))
        return values.astype(np.float32)

    rows, others = make(n), make(m)
    if draw(st.booleans()):
        others = others[rng.integers(0, m, m)]
    return rows, others


@pytest.fixture(params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["one block", "small blocks"], autouse=True)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small blocks":
        monkeypatch.setattr(_inner, "MAX_COLUMNS", 3)
        monkeypatch.setattr(_inner, "MATRIX", 12)
        monkeypatch.setattr(_inner, "MIN_ROWS", 2)
        monkeypatch.setattr(_inner, "AT_A_TIME", 3)
        monkeypatch.setattr(products, "CHUNK", 64)


@quick
@given(data=vectors())
def test_nearest_is_the_first_of_the_largest(precision: Any, data: Any) -> None:
    rows, centres = data
    wanted = products_of_all(rows, centres)
    label, value = nearest(rows, centres, precision=precision)
    assert label.dtype == np.int32 and value.dtype == np.float32
    assert label.tolist() == wanted.argmax(axis=1).tolist()
    assert value.tobytes() == wanted.max(axis=1).astype(np.float32).tobytes()
    assert labels(rows, centres, precision=precision).tolist() == label.tolist()


@quick
@given(data=vectors())
def test_a_bias_is_added_in_float64(precision: Any, data: Any) -> None:
    rows, centres = data
    exact = centres.astype(np.float64)
    bias = -np.add.reduce(exact * exact, axis=1) / 2
    wanted = products_of_all(rows, centres) + bias
    made = Assigner(centres, bias=bias, precision=precision)(rows)
    assert made.tolist() == wanted.argmax(axis=1).tolist()


@pytest.mark.parametrize("length", [1e-12, 1.0, 1e9])
def test_rows_far_from_their_common_mean_and_rows_upon_it(precision: Any, length: float) -> None:
    """The passes of torch take off the mean of the first rows: what is left is nothing, or all of it."""
    rng = np.random.default_rng(6)
    centres = rng.normal(size=(17, 24)).astype(np.float32)
    common = rng.normal(size=24)
    rows = np.repeat(common[None], 60, axis=0).astype(np.float32)
    rows[20:40] += 1e-6 * rng.normal(size=(20, 24)).astype(np.float32)
    rows[40:] = length * rng.normal(size=(20, 24))
    wanted = products_of_all(rows, centres).argmax(axis=1).tolist()
    assert labels(rows, centres, precision=precision).tolist() == wanted
    assert labels(rows[::-1], centres, precision=precision).tolist() == wanted[::-1]


@quick
@given(data=vectors(), k=st.integers(0, 7))
def test_top_k_is_the_head_of_a_stable_sort(precision: Any, data: Any, k: int) -> None:
    rows, others = data
    wanted = products_of_all(rows, others)
    order = np.argsort(-wanted, axis=1, kind="stable")[:, :k]
    index, value = top_k(rows, others, k, precision=precision)
    assert index.shape == value.shape == (len(rows), k)
    have = order.shape[1]
    assert index[:, :have].tolist() == order.tolist()
    assert value[:, :have].tobytes() == np.take_along_axis(wanted, order, 1).astype(np.float32).tobytes()
    assert (index[:, have:] == -1).all() and np.isnan(value[:, have:]).all()


@quick
@given(data=vectors())
def test_best_earlier_looks_at_rows_before(precision: Any, data: Any) -> None:
    rows = data[1]
    wanted = products_of_all(rows, rows)
    value, index = best_earlier(rows, precision=precision)
    assert value[0] == -np.inf and index[0] == -1
    for i in range(1, len(rows)):
        assert index[i] == wanted[i, :i].argmax()
        assert value[i] == np.float32(wanted[i, :i].max())


@quick
@given(data=vectors(), cut=st.floats(0, 1))
def test_pairs_above_are_all_pairs_above(precision: Any, data: Any, cut: float) -> None:
    rows = data[1]
    wanted = products_of_all(rows, rows)
    threshold = float(np.sort(wanted.ravel())[int(cut * (wanted.size - 1))])  # often exactly a product
    made = {}
    for i, j, value in pairs_above(rows, threshold, precision=precision):
        for a, b, v in zip(i.tolist(), j.tolist(), value, strict=True):
            assert (a, b) not in made
            made[a, b] = v
    n = len(rows)
    pairs = {(a, b) for a in range(n) for b in range(a + 1, n) if wanted[a, b] > threshold}
    assert set(made) == pairs
    assert all(value == np.float32(wanted[pair]) for pair, value in made.items())


@quick
@given(data=vectors(), with_bias=st.booleans())
def test_the_bound_of_each_pass_holds(precision: Any, data: Any, with_bias: bool) -> None:
    rows, others = data
    bias = np.linspace(-3, 3, len(others)) if with_bias else None
    for kind in (precision, "f64"):
        engine = Engine(others, kind, bias)
        length = _inner.lengths(rows)
        if kind != "f64" and not engine.takes(length):
            continue
        block = engine.block(rows)
        exact = rows.astype(np.longdouble) @ (others.astype(np.longdouble) - engine.mean).T
        if bias is not None:
            exact = exact + (bias - bias.mean())
        for first in range(0, len(others), engine.columns):
            last = min(first + engine.columns, len(others))
            made = block.matrix(first, last).astype(np.longdouble) * block.unit[:, None]
            allowed = (block.half * block.unit)[:, None]
            assert (np.abs(made - exact[:, first:last]) <= allowed).all(), kind


def test_centres_that_differ_by_one_bit_are_told_apart(precision: Any) -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(size=(1, 96)).astype(np.float32)
    centres = np.repeat(base, 12, axis=0)
    for j in range(12):
        centres[j, 7 * j] = np.nextafter(centres[j, 7 * j], np.float32(9 if j % 2 else -9))
    rows = rng.normal(size=(50, 96)).astype(np.float32)
    wanted = products_of_all(rows, centres)
    assert len(set(wanted.argmax(axis=1).tolist())) > 3
    assert labels(rows, centres, precision=precision).tolist() == wanted.argmax(axis=1).tolist()
    index, _ = top_k(rows, centres, 5, precision=precision)
    assert index.tolist() == np.argsort(-wanted, axis=1, kind="stable")[:, :5].tolist()


def test_the_order_of_rows_and_their_company_change_nothing(precision: Any) -> None:
    rng = np.random.default_rng(4)
    rows, centres = (rng.normal(size=(n, 33)).astype(np.float32) for n in (70, 15))
    label, value = nearest(rows, centres, precision=precision)
    order = rng.permutation(70)
    again = nearest(rows[order], centres, precision=precision)
    assert (again[0] == label[order]).all() and (again[1] == value[order]).all()
    alone = nearest(rows[3:4], centres, precision=precision)
    assert alone[0][0] == label[3] and alone[1][0] == value[3]
    read_only = rows.copy()
    read_only.flags.writeable = False
    assert (labels(read_only, centres, precision=precision) == label).all()
    assert (labels(np.asfortranarray(rows), centres, precision=precision) == label).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(precision: Any, bad: float) -> None:
    rows = np.ones((5, 4), np.float32)
    worse = rows.copy()
    worse[2, 1] = bad
    for work in (
        lambda: nearest(worse, rows, precision=precision),
        lambda: nearest(rows, worse, precision=precision),
        lambda: top_k(worse, rows, 2, precision=precision),
        lambda: top_k(rows, worse, 2, precision=precision),
        lambda: best_earlier(worse, precision=precision),
        lambda: list(pairs_above(worse, 0, precision=precision)),
    ):
        with pytest.raises(ValueError, match="NaN or infinite"):
            work()


def test_edges() -> None:
    none, one = np.zeros((0, 3), np.float32), np.ones((1, 3), np.float32)
    assert [len(part) for part in nearest(none, one)] == [0, 0]
    with pytest.raises(ValueError, match="no centres"):
        nearest(one, none)
    with pytest.raises(ValueError, match="different widths"):
        nearest(one, np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match="precision 'half'"):
        nearest(one, one, precision="half")  # type: ignore[arg-type]
    assert top_k(one, none, 2)[0].tolist() == [[-1, -1]]
    assert best_earlier(none)[0].shape == (0,)
    assert list(pairs_above(one, -9)) == []


def test_equal_rows_are_found_by_their_bytes() -> None:
    rows = np.array([[1, 2], [2, 1], [1, 2], [0.0, 1], [-0.0, 1], [2, 1]], np.float32)
    assert first_of_equals(rows).tolist() == [0, 1, 3, 4]
    assert first_of_equals(rows[:0]).tolist() == []
    # sums of words cannot tell these apart
    turned = np.array([[1, 2, 4], [2, 4, 1], [4, 1, 2], [2, 4, 1], [4, 1, 2], [1, 2, 4]], np.float32)
    assert first_of_equals(turned).tolist() == [0, 1, 2]


def test_equal_rows_cost_no_pairs() -> None:
    """All rows equal: each is compared with the first alone."""
    rows = np.full((300, 8), 0.5, np.float32)
    value, index = best_earlier(rows)
    assert index.tolist() == [-1] + [0] * 299
    assert (value[1:] == 2).all()


def test_many_candidates_switch_to_a_finer_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = Engine.__init__

    def watched(self: Engine, others: Any, kind: Any, bias: Any = None) -> None:
        made.append(kind)
        real(self, others, kind, bias)

    monkeypatch.setattr(Engine, "__init__", watched)
    for name, size in (("MAX_COLUMNS", 2048), ("MATRIX", 1 << 20), ("MIN_ROWS", 256), ("AT_A_TIME", 512)):
        monkeypatch.setattr(_inner, name, size)
    rng = np.random.default_rng(0)
    base = rng.normal(size=(3, 64))  # three crowds of centres: no common mean takes them apart
    centres = (np.repeat(base, 100, axis=0) + 1e-4 * rng.normal(size=(300, 64))).astype(np.float32)
    rows = (base[0] + rng.normal(size=(4500, 64))).astype(np.float32)
    _inner._agrees("int8"), _inner._agrees("bf16")
    made.clear()
    found = labels(rows, centres, precision="f32")
    assert made == ["f32"]
    if _inner._agrees("int8") and _inner._agrees("bf16"):
        made.clear()
        assert (labels(rows, centres, precision="int8") == found).all()
        assert made[:2] == ["int8", "bf16"]


def test_a_machine_without_the_units_answers_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_inner, "_agrees", lambda kind: False)
    assert _inner.choose("bf16", 1e15) == _inner.choose("int8", 1e15) == _inner.choose("auto", 1e15) == "f32"
    monkeypatch.setattr(_inner, "has_units", lambda *flags: False)
    assert products.bf16_available() is False
