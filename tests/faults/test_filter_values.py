"""Values that are missing, strange or too large, one row of a shard at a time (rows 21 to 24 and 27 to 32 of the catalogue)."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults import kit

TOP = "{{id: best, top: {{column: clip_l14_similarity_score, {}}}}}"
ODD = [0.5, float("nan"), float("inf"), float("-inf"), -0.0, 0.0, 1e-45, -1e-45, 0.25, None]


def scores(values: list[Any], *, kind: Any = None) -> pa.Table:
    column = pa.array(values, kind or pa.float32(), from_pandas=False)
    return kit.rows(range(len(values)), clip_l14_similarity_score=column)


def kept(output: Path) -> set[int]:
    """Numbers of the rows in a subset."""
    wanted = set(kit.words(output))
    return {n for n in range(3000) if kit.uid(n) in wanted}


def select(pool: Path, folder: Path, *clauses: str, options: tuple[object, ...] = (), head: str = "") -> kit.Done:
    rule = kit.rule_file(folder, *clauses, head=head)
    return kit.run("filter-pool", pool, "-o", folder / "out.npy", "--rule", rule, "--force", *options)


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
    table = scores(ODD) if kind != pa.float16() else scores([None if v is None else np.float16(v) for v in ODD], kind=kind)
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
    pool = kit.write_pool(tmp_path / "pool", [scores([0.3, np.nextafter(np.float32(0.3), np.float32(0)), 0.31])])
    assert select(pool, tmp_path, TOP.format("threshold: 0.3")).code == 0
    assert kept(tmp_path / "out.npy") == {0, 2}
    assert select(pool, tmp_path, "{id: cut, sql: clip_l14_similarity_score >= 0.3}").code == 0
    assert kept(tmp_path / "out.npy") == {0, 2}


def test_row_21_a_fraction_that_reaches_into_rows_without_a_number_is_refused(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [scores([0.1, 0.2, float("nan"), None])])
    done = select(pool, tmp_path, TOP.format("fraction: 0.75"))
    assert done.code == 1
    assert "asks for 4 of 4 rows" in done.err and "only 2 have a number in clip_l14_similarity_score" in done.err
    kit.nothing_at(tmp_path / "out.npy")


def test_row_21_reasons_name_every_row(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [scores(ODD)])
    reasons = tmp_path / "why.parquet"
    done = select(pool, tmp_path, TOP.format("threshold: 0.25"), options=("--reasons", reasons, "--allow-invalid"))
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
    allowed = select(pool, tmp_path, "{id: cut, sql: clip_l14_similarity_score > 0.0}", options=("--allow-invalid",))
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


def with_uids(values: list[str | None]) -> pa.Table:
    return kit.rows(range(len(values)), uid=pa.array(values, pa.string()))


def test_row_22_a_null_uid_is_invalid_and_never_a_zero(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [kit.rows(range(100, 110)), with_uids([kit.uid(0), None, kit.uid(2)])])
    done = select(pool, tmp_path, "{id: all, sql: original_width > 0}", options=("--reasons", tmp_path / "why.parquet"))
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
    table = [scores([0.5] * 40), kit.rows(range(40, 60), clip_l14_similarity_score=pa.array([0.5] * 19 + [0.9], pa.float32()))]
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
        done = kit.run("filter-pool", pool, "-o", tmp_path / "out.npy", "--name", *name, f"--fraction={value}")
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
    line = ("filter-pool", pool, "-o", tmp_path / "out.npy", "--name", "clip_score", "--arch", "l14", "--force")
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


# row 27


def test_row_27_a_uid_that_occurs_twice_is_reported_and_kept_once(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [kit.rows([1, 2, 2, 3]), kit.rows([3, 4]), kit.rows([3])])
    everything = "{id: all, sql: original_width > 0}"
    done = select(pool, tmp_path, everything)
    assert done.code == 3 and "3 × uid: occurs more than once" in done.err
    for number, places in ((2, ("00000000, row 1", "00000000, row 2")), (3, ("00000000, row 3", "00000001, row 0", "00000002, row 0"))):
        told = next(line for line in done.err.splitlines() if kit.uid(number) in line)
        assert all(place in told for place in places)
    assert kit.words(tmp_path / "out.npy") == sorted(kit.uid(n) for n in (1, 2, 3, 4))
    assert kit.closes(tmp_path / "out.npy").identity.counts.invalid == {"uid: occurs more than once": 3}
    assert select(pool, tmp_path, everything, options=("--allow-invalid",)).code == 0
    done = select(pool, tmp_path, everything, options=("--keep-repeated-uids",))
    assert done.code == 0
    assert kit.words(tmp_path / "out.npy") == sorted(kit.uid(n) for n in (1, 2, 2, 3, 3, 3, 4))
    kit.closes(tmp_path / "out.npy")


def test_row_27_with_the_index_too(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [kit.rows([1, 2, 2, 3]), kit.rows([3, 4])])
    assert kit.run("pool", "index", pool).code == 0
    done = select(pool, tmp_path, "{id: all, sql: original_width > 0}")
    assert done.code == 3 and "2 × uid: occurs more than once" in done.err
    assert kit.words(tmp_path / "out.npy") == sorted(kit.uid(n) for n in (1, 2, 3, 4))


# row 28

GOOD = kit.uid(7)
BAD = {
    "31 digits": GOOD[:31],
    "33 digits": GOOD + "0",
    "upper case": GOOD.upper(),
    "not hex": "g" + GOOD[1:],
    "leading blank": " " + GOOD[1:],
    "0x": "0x" + GOOD[2:],
    "empty": "",
    "no-break space": "\u00a0" + GOOD[2:],
    "full-width digits": "１" + GOOD[3:],
    "newline": GOOD[:31] + "\n",
    "with dashes": f"{GOOD[:8]}-{GOOD[8:12]}-{GOOD[12:16]}-{GOOD[16:20]}-{GOOD[20:]}",
    "NUL": GOOD[:31] + "\0",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("encoding", [True, False], ids=["dictionary", "plain"])
def test_row_28_a_malformed_uid_refuses_the_pool_by_row(bad: str, encoding: bool, tmp_path: Path) -> None:
    table = with_uids([kit.uid(0), kit.uid(1), bad, kit.uid(3)])
    # the second row group, so that the row is counted from the start of the shard
    pool = kit.write_pool(
        tmp_path / "pool", [kit.rows(range(50, 60)), table], use_dictionary=encoding, row_group_size=2
    )
    done = select(pool, tmp_path, "{id: all, sql: original_width > 0}")
    assert done.code == 13, done
    assert "shard 00000001, column uid, row 2" in done.err and "32 lower-case hex digits" in done.err
    assert "pool validate" in done.err
    kit.nothing_at(tmp_path / "out.npy")
    index = kit.run("pool", "index", pool)
    assert index.code == 13 and "shard 00000001, column uid, row 2" in index.err
    assert kit.temporaries(tmp_path) == []


@pytest.mark.parametrize("kind", [pa.int64(), pa.list_(pa.string())], ids=str)
def test_row_28_uids_of_another_type_refuse_the_pool(kind: Any, tmp_path: Path) -> None:
    values = [1, 2] if kind == pa.int64() else [[kit.uid(0)], [kit.uid(1)]]
    pool = kit.write_pool(tmp_path / "pool", [kit.rows(range(2), uid=pa.array(values, kind))])
    done = select(pool, tmp_path, "{id: all, sql: original_width > 0}")
    assert done.code == 13 and "shard 00000000" in done.err and "uid" in done.err, done
    kit.nothing_at(tmp_path / "out.npy")


def test_row_28_other_types_that_hold_the_same_digits_are_fine(tmp_path: Path) -> None:
    plain = pa.array([kit.uid(n) for n in range(4)], pa.string())
    kinds = (pa.string(), pa.large_string(), pa.string_view(), pa.binary())
    for n, column in enumerate([*map(plain.cast, kinds), plain.dictionary_encode()]):
        pool = kit.write_pool(tmp_path / f"pool{n}", [kit.rows(range(4), uid=column)])
        done = select(pool, tmp_path, "{id: all, sql: original_width > 0}")
        assert done.code == 0, (column.type, done)
        assert kept(tmp_path / "out.npy") == {0, 1, 2, 3}


# row 29

SIZES = [200, 0, -1, None, 2**31, 65536, 65535, 2**32, -(2**63), 2**63 - 1]


@pytest.mark.parametrize("index", [False, True], ids=["raw", "index"])
def test_row_29_sizes_out_of_the_ordinary_are_neither_wrapped_nor_divided_by(index: bool, tmp_path: Path) -> None:
    n = len(SIZES)
    table = kit.rows(
        range(n), original_width=pa.array(SIZES, pa.int64()), original_height=pa.array([200] * n, pa.int64())
    )
    pool = kit.write_pool(tmp_path / "pool", [table])
    if index:
        assert kit.run("pool", "index", pool).code == 0
    for sql, wanted, invalid in [
        ("original_width >= 200", {0, 4, 5, 6, 7, 9}, 1),
        ("original_width = 65536", {5}, 1),
        ("original_width < 0", {2, 8}, 1),
        ("original_height / original_width <= 1.0", {0, 2, 4, 5, 6, 7, 8, 9}, 1),  # 200 / 0 is infinite
        ("greatest(original_width, original_height) / least(original_width, original_height) <= 3.0", None, None),
    ]:  # fmt: skip
        done = select(pool, tmp_path, f"{{id: size, sql: '{sql}'}}")
        assert done.code in (0, 3), done
        step = kit.closes(tmp_path / "out.npy")
        assert step.details["shards_from_index"] == int(index)
        if wanted is not None:
            assert kept(tmp_path / "out.npy") == wanted, sql
            assert step.identity.counts.invalid == {"size: null or NaN": invalid}, sql
        else:
            answers = tmp_path / "without.npy"
            kit.run("filter-pool", pool, "-o", answers, "--rule", tmp_path / "rule.yaml", "--no-index", "--force")
            assert answers.read_bytes() == (tmp_path / "out.npy").read_bytes()
            assert kit.record(answers).identity.counts == step.identity.counts


def test_row_29_the_index_takes_the_narrowest_type_that_holds_all(tmp_path: Path) -> None:
    for name, top, kind in (("a", 65535, pa.uint16()), ("b", 65536, pa.uint32()), ("c", 2**32, pa.int64()), ("d", -5, pa.int64())):
        pool = kit.write_pool(tmp_path / name, [kit.rows(range(2), original_width=pa.array([1, top], pa.int64()))])
        assert kit.run("pool", "index", pool).code == 0
        field = pq.read_schema(pool / ".headwater" / "index" / "00000000.parquet").field("original_width")
        assert field.type == kind, name
        assert select(pool, tmp_path, f"{{id: it, sql: original_width = {top}}}").code == 0
        assert kept(tmp_path / "out.npy") == {1}


# row 30


def long_caption(characters: int) -> pa.Table:
    text = pa.array(["three short words", "ab " * (characters // 3), "x" * characters, "é" * (characters // 2)], pa.string())
    return kit.rows(range(4), text=text)


@pytest.mark.parametrize("compression", ["snappy", "zstd"])
@pytest.mark.parametrize("index", [False, True], ids=["raw", "index"])
def test_row_30_a_caption_of_a_megabyte(compression: str, index: bool, tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [long_caption(1 << 20)], compression=compression)
    if index:
        assert kit.run("pool", "index", pool).code == 0
    both = ("{id: words, sql: n_words > 2}", "{id: characters, sql: n_chars > 17}")
    assert select(pool, tmp_path, *both, head="scores: [caption]\n").code == 0
    assert kept(tmp_path / "out.npy") == {1}
    assert select(pool, tmp_path, f"{{id: n, sql: n_chars = {1 << 19}}}", head="scores: [caption]\n").code == 0
    assert kept(tmp_path / "out.npy") == {3}
    assert select(pool, tmp_path, "{id: once, dedup: {by: [text]}}").code == 0
    assert kept(tmp_path / "out.npy") == {0, 1, 2, 3}


@pytest.mark.slow
def test_row_30_a_caption_of_64_megabytes_in_bounded_memory(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [long_caption(64 << 20)], compression="snappy")
    both = ("{id: words, sql: n_words > 2}", "{id: once, dedup: {by: [text]}}")
    rule = kit.rule_file(tmp_path, *both, head="scores: [caption]\n")
    output = tmp_path / "out.npy"
    done = kit.spawn("filter-pool", pool, "-o", output, "--rule", rule, home=tmp_path)
    assert done.code == 0, done
    assert kept(output) == {0, 1}
    # four captions of up to 64 MiB in one row group: the column, a copy and a dictionary of it
    assert kit.record(output).energy.peak_rss_bytes < 1200 << 20
    capped = kit.spawn(
        "filter-pool", pool, "-o", output, "--rule", rule, "--force", home=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (900 << 20, 900 << 20)),
    )  # fmt: skip
    assert capped.code in (0, 1, 13) and kept(output) == {0, 1}
    assert kit.temporaries(tmp_path) == []
    assert not (Path.cwd() / ".tmp").exists()


# row 31

BLANKS = "\u00a0\u1680\u2000\u2005\u200a\u2028\u2029\u202f\u205f\u3000\t\n\v\f\r\x1c\x1d\x1e\x1f\x85 "
TEXTS = [
    *(f"one{blank}two" for blank in BLANKS),
    "zero\u200bwidth", "\ufeffmark here", "\u202eright to left\u202c", "\u2066iso\u2069lates", "e\u0301 combining e\u0301",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f1e9\U0001f1ea flag", "赤い車の写真",
    "赤い　車の　写真", " ", "", "\u3000", "a", "NUL\0 in side", "ﷺ", "Ω≈ç√∫˜µ≤≥÷", "'; drop table pool; --", "${jndi:x} %s {0}",
    "<script>alert(1)</script>", "١٢٣ ٤٥٦", "ｆｕｌｌ　ｗｉｄｔｈ", "\u00ad soft hyphen", "a\u2060b word joiner",
    "z\u0360\u0361\u0362 a\u0315l\u0358g\u034do", "نص عربي قصير", "test\u0000", "\x7f\x80 controls",
]  # fmt: skip


@pytest.mark.parametrize("index", [False, True], ids=["raw", "index"])
@pytest.mark.parametrize("compression", ["snappy", "zstd"])
def test_row_31_words_and_characters_are_pythons(compression: str, index: bool, tmp_path: Path) -> None:
    table = kit.rows(range(len(TEXTS)), text=pa.array(TEXTS, pa.string()))
    pool = kit.write_pool(tmp_path / "pool", [table], compression=compression, use_dictionary=False)
    if index:
        assert kit.run("pool", "index", pool).code == 0
    for count, rule in (("n_words", lambda t: len(t.split())), ("n_chars", len)):
        for least in (1, 2, 3, 6, 9):
            done = select(pool, tmp_path, f"{{id: it, sql: {count} >= {least}}}", head="scores: [caption]\n")
            assert done.code == 0
            assert kept(tmp_path / "out.npy") == {n for n, t in enumerate(TEXTS) if rule(t) >= least}, (count, least)


def test_row_31_equal_text_is_equal_bytes(tmp_path: Path) -> None:
    # one written with a combining mark, one without: two captions
    texts = ["é", "e\u0301", "é", "É", " é", "\u2028", "\u2029"]
    pool = kit.write_pool(tmp_path / "pool", [kit.rows(range(7), text=pa.array(texts, pa.string()))])
    assert select(pool, tmp_path, "{id: once, dedup: {by: [text]}}").code == 0
    twice = min((0, 2), key=kit.uid)
    assert kept(tmp_path / "out.npy") == {twice, 1, 3, 4, 5, 6}
    assert select(pool, tmp_path, "{id: it, sql: \"text = 'é'\"}").code == 0
    assert kept(tmp_path / "out.npy") == {0, 2}


# row 32


def raw_text(values: list[bytes]) -> pa.Array:
    """A string column with these bytes, whatever they are."""
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int32)
    return pa.Array.from_buffers(
        pa.string(), len(values), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(values))]
    )


INVALID = {
    "stray byte": b"caf\xe9 au lait",
    "lone surrogate": b"a \xed\xa0\x80 b",
    "cut short": b"two words \xe8\xb5",
    "overlong": b"a \xc0\xaf b",
    "beyond": b"\xf5\x80\x80\x80 x",
}


@pytest.mark.parametrize("bad", INVALID.values(), ids=INVALID)
def test_row_32_text_that_is_not_utf8_is_refused_by_row_where_it_is_read(bad: bytes, tmp_path: Path) -> None:
    values = [b"one two three", b"x", bad, b"four five six"]
    pool = kit.write_pool(
        tmp_path / "pool", [kit.rows([50, 51]), kit.rows(range(4), text=raw_text(values))], row_group_size=2
    )
    for clause in ("{id: once, dedup: {by: [text]}}", "{id: it, sql: \"text <> 'x'\"}", "{id: it, in: {column: text, values: [x]}}"):
        done = select(pool, tmp_path, clause)
        assert done.code == 13, done
        assert "shard 00000001, column text, row 2: not valid UTF-8" in done.err
        kit.nothing_at(tmp_path / "out.npy")
    # counts take bytes as they are
    done = select(pool, tmp_path, "{id: words, sql: n_words > 1}", head="scores: [caption]\n")
    assert done.code == 0
    assert kept(tmp_path / "out.npy") >= {0, 2, 3} and 1 not in kept(tmp_path / "out.npy")


def test_row_32_text_that_is_not_utf8_is_refused_by_a_scorer(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [kit.rows(range(2), text=raw_text([b"fine", b"caf\xe9"]))])
    done = kit.run("score", "language", pool)
    if done.code == 4:
        pytest.skip(f"the language model is not here: {done.err.splitlines()[0]}")
    assert done.code == 13 and "shard 00000000, column text, row 1: not valid UTF-8" in done.err
    assert kit.temporaries(tmp_path) == []


def test_row_32_nul_is_a_character_like_any(tmp_path: Path) -> None:
    texts = ["a\0b", "a", "a\0", "\0"]
    pool = kit.write_pool(tmp_path / "pool", [kit.rows(range(4), text=pa.array(texts, pa.string()))])
    assert select(pool, tmp_path, "{id: once, dedup: {by: [text]}}").code == 0
    assert kept(tmp_path / "out.npy") == {0, 1, 2, 3}
    assert select(pool, tmp_path, "{id: n, sql: n_chars = 3}", head="scores: [caption]\n").code == 0
    assert kept(tmp_path / "out.npy") == {0}
    assert select(pool, tmp_path, "{id: n, sql: length(text) = 2}").code == 0
    assert kept(tmp_path / "out.npy") == {2}


def test_row_32_a_null_byte_reaches_explain_as_text(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [kit.rows(range(2), text=pa.array(["a\0b", "c"], pa.string()))])
    assert select(pool, tmp_path, "{id: it, sql: \"text <> 'c'\"}").code == 0
    done = kit.run("explain", tmp_path / "out.npy", kit.uid(0), "--json")
    assert done.code == 0
    assert json.loads(done.out)["uids"][0]["values"]["text"] == "a\0b"


