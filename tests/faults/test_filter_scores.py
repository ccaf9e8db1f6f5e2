"""Scores that are missing, infinite or tied, and shares that make no sense (rows 21 to 24 of the catalogue)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults import kit
from tests.faults.kit import EVERYTHING, kept, select, with_uids

TOP = "{{id: best, top: {{column: clip_l14_similarity_score, {}}}}}"
ODD = [0.5, float("nan"), float("inf"), float("-inf"), -0.0, 0.0, 1e-45, -1e-45, 0.25, None]


def scores(values: list[Any], *, kind: Any = None) -> pa.Table:
    column = pa.array(values, kind or pa.float32(), from_pandas=False)
    return kit.rows(range(len(values)), clip_l14_similarity_score=column)


# row 21


@pytest.mark.parametrize("index", [False, True], ids=["raw", "index"])
@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.float16()], ids=str)
@pytest.mark.parametrize(
    ("rest", "wanted"),
    [
        ("threshold: 0.0", {0, 2, 4, 5, 6, 8}),
        ("threshold: -inf", {0, 2, 3, 4, 5, 6, 7, 8}),
        ("threshold: inf", {2}),
        ("fraction: 0.1", {0, 2}),  # rank 1 of 10: 0.5, below infinity
        ("fraction: 0.5", None),
    ],
)
def test_row_21_nan_and_infinity_as_scores(
    rest: str, wanted: set[int] | None, kind: Any, index: bool, tmp_path: Path
) -> None:
    table = (
        scores(ODD)
        if kind != pa.float16()
        else scores([None if v is None else np.float16(v) for v in ODD], kind=kind)
    )
    pool = kit.write_pool(tmp_path / "pool", [table.set_column(
        table.schema.get_field_index("clip_l14_similarity_score"), "clip_l14_similarity_score",
        table["clip_l14_similarity_score"].cast(kind),
    )])  # fmt: skip
    if index:
        assert kit.run("pool", "index", pool).code == 0
    done = select(pool, tmp_path, TOP.format(rest))
    assert done.code == 3 and "2 × best: null or NaN" in done.err
    step = kit.closes(tmp_path / "out.npy")
    assert step.identity.counts.invalid == {"best: null or NaN": 2}
    assert step.details["shards_from_index"] == int(index)
    if wanted is None:  # rank 5 of [inf, .5, .25, tiny, 0, -0, -tiny, -inf]: both zeros tie at the cut
        wanted = {0, 2, 4, 5, 6, 8}
        if kind == pa.float16():
            wanted = {0, 2, 4, 5, 6, 7, 8}  # the denormals of float32 are zeros there
    elif kind == pa.float16() and rest == "threshold: 0.0":
        wanted = wanted | {7}
    assert kept(tmp_path / "out.npy") == wanted


def test_row_21_one_answer_from_expressions_and_from_top(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [scores(ODD)])
    done = select(pool, tmp_path, "{id: cut, sql: clip_l14_similarity_score >= 0.0}")
    assert done.code == 3 and "2 × cut: null or NaN" in done.err
    assert kept(tmp_path / "out.npy") == {0, 2, 4, 5, 6, 8}
    # not(NaN) is no more true than NaN
    assert select(pool, tmp_path, "{id: cut, not: {sql: clip_l14_similarity_score >= 0.0}}").code == 3
    assert kept(tmp_path / "out.npy") == {3, 7}
    assert kit.closes(tmp_path / "out.npy").identity.counts.invalid == {"cut: null or NaN": 2}


def test_row_21_a_float32_score_equals_its_own_decimal(tmp_path: Path) -> None:
    pool = kit.write_pool(
        tmp_path / "pool", [scores([0.3, np.nextafter(np.float32(0.3), np.float32(0)), 0.31])]
    )
    assert select(pool, tmp_path, TOP.format("threshold: 0.3")).code == 0
    assert kept(tmp_path / "out.npy") == {0, 2}
    assert select(pool, tmp_path, "{id: cut, sql: clip_l14_similarity_score >= 0.3}").code == 0
    assert kept(tmp_path / "out.npy") == {0, 2}


def test_row_21_a_fraction_that_reaches_into_rows_without_a_number_is_refused(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [scores([0.1, 0.2, float("nan"), None])])
    done = select(pool, tmp_path, TOP.format("fraction: 0.75"))
    assert done.code == 1
    assert (
        "asks for 4 of 4 rows" in done.err and "only 2 have a number in clip_l14_similarity_score" in done.err
    )
    kit.nothing_at(tmp_path / "out.npy")


def test_row_21_reasons_name_every_row(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [scores(ODD)])
    reasons = tmp_path / "why.parquet"
    done = select(
        pool, tmp_path, TOP.format("threshold: 0.25"), options=("--reasons", reasons, "--allow-invalid")
    )
    assert done.code == 0
    table = pq.read_table(reasons).to_pylist()
    assert [(row["row"], row["reason"]) for row in table if row["verdict"] == "invalid"] == [
        (1, "best: null or NaN"), (9, "best: null or NaN"),
    ]  # fmt: skip
    assert {row["row"] for row in table if row["verdict"] == "kept"} == {0, 2, 8}


# row 22


def test_row_22_a_null_score_is_invalid(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [scores([0.1, None, 0.3])])
    done = select(pool, tmp_path, "{id: cut, sql: clip_l14_similarity_score > 0.0}")
    assert done.code == 3 and "1 × cut: null or NaN" in done.err and "--allow-invalid" in done.err
    assert kept(tmp_path / "out.npy") == {0, 2}
    kit.closes(tmp_path / "out.npy")
    allowed = select(
        pool, tmp_path, "{id: cut, sql: clip_l14_similarity_score > 0.0}", options=("--allow-invalid",)
    )
    assert allowed.code == 0 and "invalid: 1" in allowed.out


def test_row_22_a_row_dropped_before_is_never_asked_for_its_null(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [scores([0.1, None, 0.3])])
    both = ("{id: narrow, sql: original_width < 237}", "{id: cut, sql: clip_l14_similarity_score > 0.0}")
    assert select(pool, tmp_path, *both).code == 0
    assert kept(tmp_path / "out.npy") == {0}


@pytest.mark.parametrize("index", [False, True], ids=["raw", "index"])
def test_row_22_a_null_text_is_invalid_where_it_is_looked_at(index: bool, tmp_path: Path) -> None:
    text = pa.array(["three words here", None, "", "two words"], pa.string())
    pool = kit.write_pool(tmp_path / "pool", [kit.rows(range(4), text=text)])
    if index:
        assert kit.run("pool", "index", pool).code == 0
    done = select(pool, tmp_path, "{id: words, sql: n_words > 1}", head="scores: [caption]\n")
    assert done.code == 3 and "1 × words: null or NaN" in done.err
    assert kept(tmp_path / "out.npy") == {0, 3}
    assert kit.closes(tmp_path / "out.npy").details["shards_from_index"] == int(index)
    done = select(pool, tmp_path, "{id: once, dedup: {by: [text]}}")
    assert done.code == 3 and "1 × once: null or NaN" in done.err
    assert kept(tmp_path / "out.npy") == {0, 2, 3}
    done = select(pool, tmp_path, "{id: there, sql: text is not null}")
    assert done.code == 0
    assert kept(tmp_path / "out.npy") == {0, 2, 3}


def test_row_22_a_null_uid_is_invalid_and_never_a_zero(tmp_path: Path) -> None:
    pool = kit.write_pool(
        tmp_path / "pool", [kit.rows(range(100, 110)), with_uids([kit.uid(0), None, kit.uid(2)])]
    )
    done = select(pool, tmp_path, EVERYTHING, options=("--reasons", tmp_path / "why.parquet"))
    assert done.code == 3 and "1 × uid: null" in done.err
    assert len(kit.words(tmp_path / "out.npy")) == 12 and "0" * 32 not in kit.words(tmp_path / "out.npy")
    assert kit.closes(tmp_path / "out.npy").identity.counts.invalid == {"uid: null": 1}
    why = [row for row in pq.read_table(tmp_path / "why.parquet").to_pylist() if row["verdict"] == "invalid"]
    assert [(row["shard"], row["row"], row["reason"]) for row in why] == [("00000001", 1, "uid: null")]
    refused = kit.run("pool", "index", pool)
    assert refused.code == 13 and "shard 00000001, column uid, row 1" in refused.err


def test_row_22_a_null_uid_in_a_row_dropped_by_a_clause_is_no_loss(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [with_uids([kit.uid(0), None, kit.uid(2)])])
    assert select(pool, tmp_path, "{id: narrow, sql: original_width <> 237}").code == 0
    assert kept(tmp_path / "out.npy") == {0, 2}


# row 23


def test_row_23_ties_across_the_cut_are_kept_and_exact_k_takes_the_lowest_uids(tmp_path: Path) -> None:
    table = [
        scores([0.5] * 40),
        kit.rows(range(40, 60), clip_l14_similarity_score=pa.array([0.5] * 19 + [0.9], pa.float32())),
    ]
    pool = kit.write_pool(tmp_path / "pool", table)
    assert select(pool, tmp_path, TOP.format("fraction: 0.1")).code == 0
    assert kept(tmp_path / "out.npy") == set(range(60))
    [clause] = kit.closes(tmp_path / "out.npy").details["funnel"]
    assert clause["cut"] == 0.5 and clause["out"] == 60
    for k in (0, 1, 2, 7, 60):
        done = select(pool, tmp_path, f"{{id: k, exact_k: {{column: clip_l14_similarity_score, k: {k}}}}}")
        assert done.code == 0
        tied = sorted(kit.uid(n) for n in range(59))
        assert set(kit.words(tmp_path / "out.npy")) == {*tied[: max(k - 1, 0)], *([kit.uid(59)] if k else [])}
        kit.closes(tmp_path / "out.npy")
    done = select(pool, tmp_path, "{id: k, exact_k: {column: clip_l14_similarity_score, k: 61}}")
    assert done.code == 1 and "k = 61 asks for 61 of 60 rows" in done.err


def test_row_23_a_distinct_column_keeps_one_more_than_the_share(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [scores([n / 100 for n in range(100)])])
    assert select(pool, tmp_path, TOP.format("fraction: 0.29")).code == 0
    assert len(kit.words(tmp_path / "out.npy")) == 29  # rank int(100 × 0.29) = 28, and the row at it


# row 24


@pytest.mark.parametrize(
    ("value", "rows"), [("1", 100), ("1e-12", 1), ("0.5", 51), ("0.999", 100), ("0.01", 2)]
)
def test_row_24_fractions(value: str, rows: int, tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [scores([n / 100 for n in range(100)])])
    line = ("filter-pool", pool, "-o", tmp_path / "out.npy", "--name", "clip_score", "--arch", "l14")
    assert kit.run(*line, "--fraction", value).code == 0
    assert len(kit.words(tmp_path / "out.npy")) == rows


@pytest.mark.parametrize("value", ["0", "-0.0", "1.5", "-1", "nan", "inf", "-inf", "1.0000001", "x", ""])
def test_row_24_a_fraction_outside_is_a_usage_error(value: str, tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [scores([0.1, 0.2])])
    for name in (("clip_score", "--arch", "l14"), ("random",)):
        done = kit.run(
            "filter-pool", pool, "-o", tmp_path / "out.npy", "--name", *name, f"--fraction={value}"
        )
        assert done.code == 2 and "fraction" in done.err, done
        kit.nothing_at(tmp_path / "out.npy")
    assert ".headwater" not in kit.names(pool), "shards were read for a wrong command line"


@pytest.mark.parametrize("value", ["0", "1.5", "-1", ".nan", ".inf", "yes", "[]"])
def test_row_24_a_fraction_outside_in_a_rule_is_a_usage_error(value: str, tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [scores([0.1, 0.2])])
    for clause in (TOP.format(f"fraction: {value}"), f"{{sample: {{fraction: {value}}}}}"):
        done = select(pool, tmp_path, clause)
        assert done.code == 2 and "fraction" in done.err, done


def test_row_24_thresholds(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [scores([0.1, 0.2, float("inf")])])
    line = (
        "filter-pool",
        pool,
        "-o",
        tmp_path / "out.npy",
        "--name",
        "clip_score",
        "--arch",
        "l14",
        "--force",
    )
    done = kit.run(*line, "--threshold", "nan")
    assert done.code == 2 and "threshold" in done.err and "not a number" in done.err
    kit.nothing_at(tmp_path / "out.npy")
    for value, rows in (("inf", 1), ("-inf", 3), ("0.2", 2), ("1e400", 1)):
        assert kit.run(*line, f"--threshold={value}").code == 0
        assert len(kit.words(tmp_path / "out.npy")) == rows, value
    assert select(pool, tmp_path, TOP.format("threshold: .nan")).code == 2


@pytest.mark.parametrize("arguments", [
    ("--count", "-1"), ("--count", "11"), ("--fraction", "0"), ("--fraction", "1.5"), ("--fraction", "nan"),
    (), ("--count", "1", "--fraction", "0.5"),
])  # fmt: skip
def test_row_24_subset_sample_refuses_what_it_cannot_draw(arguments: tuple[str, ...], tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [kit.rows(range(10))])
    source = tmp_path / "all.npy"
    assert kit.run("filter-pool", pool, "-o", source, "--name", "no_filter").code == 0
    done = kit.run("subset", "sample", source, "-o", tmp_path / "out.npy", *arguments)
    assert done.code == 2, done
    kit.nothing_at(tmp_path / "out.npy")
