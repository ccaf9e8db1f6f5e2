"""Clauses one by one: three-valued logic, membership, precision of cuts, the documented sample."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.clauses import CompiledRule, Scope, TopState, absent, is_in, listed, mix, sample
from curate.rules import RuleFile
from headwater.errors import UsageError
from tests import oracle


def scope(columns: dict[str, Any], uids: Any = None) -> Scope:
    rows = len(next(iter(columns.values()))) if columns else len(uids)
    return Scope("s", rows, lambda name, alive: columns[name], lambda: uids, lambda: slice(0, rows))


def truths(
    clause: dict[str, Any], columns: dict[str, Any], uids: Any = None, states: Any = None
) -> list[Any]:
    rule = CompiledRule(RuleFile.model_validate({"format": "rule/1", "name": "t", "keep": [clause]}))
    seen = scope(columns, uids)
    true, unknown = rule.evaluate(0, seen, np.ones(seen.rows, bool), states or {})
    assert unknown is None or not (true & unknown).any(), "a row cannot be both"
    return [None if unknown is not None and unknown[i] else bool(true[i]) for i in range(seen.rows)]


TRIPLE = list(itertools.product([True, False, None], repeat=2))
COLUMNS = {
    "a": pa.array([a for a, _ in TRIPLE], pa.bool_()),
    "b": pa.array([b for _, b in TRIPLE], pa.bool_()),
}


@pytest.mark.parametrize("kind", ["any", "all"])
def test_truth_tables(kind: str) -> None:
    join = {"any": oracle._any, "all": oracle._all}[kind]
    found = truths({kind: [{"sql": "a"}, {"sql": "b"}]}, COLUMNS)
    assert found == [join([a, b]) for a, b in TRIPLE]
    assert truths({"not": {kind: [{"sql": "a"}, {"sql": "b"}]}}, COLUMNS) == [oracle._not(t) for t in found]
    assert truths({kind: [{"sql": "a"}]}, COLUMNS) == [a for a, _ in TRIPLE]
    thrice = truths({kind: [{"sql": "a"}, {"sql": "b"}, {"sql": "a"}]}, COLUMNS)
    assert thrice == found


FLOATS = [0.25, 0.3, -0.0, 0.0, float("nan"), None, float("inf")]


@pytest.mark.parametrize("type_", [pa.float32(), pa.float64()])
def test_membership_of_numbers(type_: pa.DataType) -> None:
    column = pa.array(FLOATS, type_)
    clause = {"in": {"column": "x", "values": [0.3, 0, 7]}}
    assert truths(clause, {"x": column}) == [False, True, True, True, None, None, False]
    assert truths({"not": clause}, {"x": column}) == [True, False, False, False, None, None, True]
    whole = np.array([0.3, 0.0, np.nan], type_.to_pandas_dtype())
    assert truths(clause, {"x": whole}) == [True, True, None]


@pytest.mark.parametrize("kind", ["u1", "u2", "i1", "i8", "u8"])
def test_membership_in_any_width_of_integers(kind: str) -> None:
    column = np.array([0, 1, 100], kind)
    values = [1, -1, 300, 70000, 2**40, 100.0]
    assert truths({"in": {"column": "x", "values": values}}, {"x": column}) == [False, True, True]
    nulls = pa.array([0, None, 100], pa.from_numpy_dtype(np.dtype(kind)))
    assert truths({"in": {"column": "x", "values": values}}, {"x": nulls}) == [False, None, True]


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_membership_of_text(type_: pa.DataType) -> None:
    plain = pa.array(["a", "ä", "", None, "A"])
    column = plain.dictionary_encode() if pa.types.is_dictionary(type_) else plain.cast(type_)
    assert truths({"in": {"column": "x", "values": ["ä", ""]}}, {"x": column}) == [
        False,
        True,
        True,
        None,
        False,
    ]
    assert truths({"in": {"column": "x", "values": []}}, {"x": column}) == [False, False, False, None, False]


def test_membership_with_no_rows_and_all_null() -> None:
    for column in (pa.array([], pa.string()), pa.nulls(3, pa.string()), pa.nulls(3, pa.int64())):
        values = ["a"] if column.type == pa.string() else [1]
        true, unknown = is_in(column, values)
        assert not true.any()
        assert unknown is None if not len(column) else unknown is not None and unknown.all()


@pytest.mark.parametrize(
    ("values", "type_"), [(["a"], pa.int64()), ([1.5], pa.int8()), (["a"], pa.float32())]
)
def test_values_that_no_row_could_have(values: list[Any], type_: pa.DataType) -> None:
    with pytest.raises(UsageError, match=f"do not fit a column of {type_}"):
        listed(values, type_)


def test_a_threshold_is_compared_in_the_columns_precision() -> None:
    edge = float(np.float32(0.281))
    assert edge < 0.281
    clause = {"top": {"column": "x", "threshold": 0.281}}
    assert truths(clause, {"x": np.array([edge], "f4")}) == [True]
    assert truths(clause, {"x": np.array([edge, 0.281], "f8")}) == [False, True]


def test_infinite_thresholds_and_missing_numbers() -> None:
    column = pa.array([float("-inf"), 0.0, float("inf"), None, float("nan")], pa.float32())
    assert truths({"top": {"column": "x", "threshold": "inf"}}, {"x": column}) == [
        False,
        False,
        True,
        None,
        None,
    ]
    assert truths({"top": {"column": "x", "threshold": "-inf"}}, {"x": column}) == [
        True,
        True,
        True,
        None,
        None,
    ]
    top = {"top": {"column": "x", "fraction": 1.0}}
    assert truths(top, {"x": column}, states={"0": TopState(None)}) == [True, True, True, None, None]


def test_a_threshold_over_integers_is_exact() -> None:
    column = np.array([2**53, 2**53 + 1, 2**63 - 1, -(2**63)])
    for least, expected in ((2.0**53, [1, 1, 1, 0]), (2.0**63, [0, 0, 0, 0]), (-(2.0**64), [1, 1, 1, 1])):
        assert truths({"top": {"column": "x", "threshold": least}}, {"x": column}) == [
            bool(e) for e in expected
        ]
    assert truths({"top": {"column": "x", "threshold": 0.5}}, {"x": np.array([0, 1], "u1")}) == [False, True]
    assert truths({"top": {"column": "x", "threshold": "inf"}}, {"x": np.array([0, 1])}) == [False, False]
    assert truths({"top": {"column": "x", "threshold": "-inf"}}, {"x": np.array([0, 1])}) == [True, True]


UIDS = st.lists(st.integers(0, 2**128 - 1), min_size=1, max_size=20)


@given(uids=UIDS, fraction=st.floats(1e-9, 1), seed=st.integers(-5, 2**64))
def test_the_sample_is_the_documented_one(uids: list[int], fraction: float, seed: int) -> None:
    found = sample(np.array([(u >> 64, u % 2**64) for u in uids], "<u8"), fraction, seed)
    assert found.tolist() == [oracle._sampled(f"{u:032x}", fraction, seed) for u in uids]


def test_the_sample_of_today_is_the_sample_of_tomorrow() -> None:
    uids = np.array([(n, n * n) for n in range(64)], "<u8")
    assert np.flatnonzero(sample(uids, 0.1, 0)).tolist() == [25, 29, 35, 48]
    assert np.flatnonzero(sample(uids, 0.1, 1)).tolist() == [34]
    assert (
        int(mix(np.array([0], np.uint64))[0]) == 0xE220A8397B1DCDAF
    )  # SplitMix64's first number from seed 0


def test_a_smaller_sample_lies_within_a_larger() -> None:
    uids = np.random.default_rng(1).integers(0, 2**64, (20_000, 2), np.uint64)
    masks = [sample(uids, f, 3) for f in (0.01, 0.1, 0.5, 1.0)]
    for small, large in itertools.pairwise(masks):
        assert not (small & ~large).any()
    assert masks[3].all() and abs(masks[1].mean() - 0.1) < 0.01
    other = sample(uids, 0.5, 4)
    assert abs((other & masks[2]).mean() - 0.25) < 0.02  # seeds are independent


def test_absent_numbers() -> None:
    assert absent(np.array([1.0, 2.0])) is None
    assert absent(np.array([1, 2])) is None
    assert absent(pa.array(["a", "b"])) is None
    for column in (
        np.array([1.0, np.nan]),
        pa.array([1.0, None]),
        pa.array([1, None]),
        pa.array(["a", None]),
    ):
        found = absent(column)
        assert found is not None and found.tolist() == [False, True]


def test_columns_are_named_by_the_first_clause_that_reads_them() -> None:
    keep = [
        {"id": "one", "sql": "a > 1"},
        {"id": "two", "any": [{"sql": "a > b"}, {"dedup": {"by": ["c"], "order": {"d": "asc"}}}]},
        {"id": "three", "not": {"id": "inner", "top": {"column": "e", "threshold": 1}}},
        {"in": {"column": "f", "values": [1]}},
    ]
    rule = CompiledRule(RuleFile.model_validate({"format": "rule/1", "name": "t", "keep": keep}))
    assert rule.columns() == {
        "a": "one",
        "b": "two",
        "c": "two",
        "d": "two",
        "e": "inner",
        "f": rule.rule.reason(3),
    }
    assert [node for node, _ in rule.nodes()] == ["0", "1", "1.0", "1.1", "2", "2.0", "3"]
