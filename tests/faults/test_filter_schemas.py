"""Pools that are empty or uneven, and names that nothing has (rows 25 and 26 of the catalogue, and the bad input beside them)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults import kit
from tests.faults.kit import EVERYTHING, select

# row 25


@pytest.mark.parametrize("rule", ["test", "several passes", "no_filter", "clip_score"])
@pytest.mark.parametrize("shape", ["no shards", "no rows", "one empty shard", "no row groups"])
def test_row_25_empty_pools_make_empty_subsets(shape: str, rule: str, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    if shape == "no shards":
        pool.mkdir()
    elif shape == "no rows":
        kit.write_pool(pool, [kit.rows([]), kit.rows([])])
    elif shape == "no row groups":
        pool.mkdir()
        pq.ParquetWriter(pool / "00000000.parquet", kit.rows([]).schema).close()
    else:
        kit.write_pool(pool, [kit.rows(range(5)), kit.rows([])])
    output = tmp_path / "out.npy"
    chosen: tuple[object, ...] = ("--name", "no_filter")
    if rule == "clip_score":
        chosen = ("--name", "clip_score", "--arch", "l14", "--fraction", 1)
    elif rule != "no_filter":
        chosen = ("--rule", kit.rule_file(tmp_path, *([EVERYTHING] if rule == "test" else [])))
    done = kit.run("filter-pool", pool, "-o", output, *chosen)
    assert done.code == 0, done
    step = kit.closes(output)
    assert np.load(output).dtype == np.dtype("u8,u8")
    if shape == "one empty shard":
        assert step.identity.counts.read == 5 and step.identity.counts.kept >= 1
    else:
        assert step.identity.counts.read == step.identity.counts.kept == 0
    if shape == "no shards":
        assert "no shards" in done.err
    index = kit.run("pool", "index", pool)
    assert index.code == 0, index
    again = kit.run("filter-pool", pool, "-o", tmp_path / "indexed.npy", *chosen)
    assert again.code == 0, again
    assert (tmp_path / "indexed.npy").read_bytes() == output.read_bytes()


@pytest.mark.parametrize("content", [b"", b"P", b"PAR1", b"PAR1PAR1", b"not parquet at all " * 40])
def test_row_25_a_file_that_is_no_parquet_refuses_the_pool(content: bytes, tmp_path: Path) -> None:
    pool = kit.three_shards(tmp_path / "pool")
    (pool / "00000007.parquet").write_bytes(content)
    for line in (
        ("filter-pool", pool, "-o", tmp_path / "out.npy", "--name", "no_filter"),
        ("pool", "index", pool),
        ("score", "caption", pool),
    ):
        done = kit.run(*line)
        assert done.code == 13 and "shard 00000007" in done.err, done
        assert ("0 bytes" if not content else "not readable Parquet") in done.err
    kit.nothing_at(tmp_path / "out.npy")


def test_row_25_no_such_pool_or_a_file_in_its_place(tmp_path: Path) -> None:
    done = kit.run("filter-pool", tmp_path / "none", "-o", tmp_path / "out.npy", "--name", "no_filter")
    assert done.code == 10 and "no such pool folder" in done.err
    (tmp_path / "file").write_text("x")
    done = kit.run("filter-pool", tmp_path / "file", "-o", tmp_path / "out.npy", "--name", "no_filter")
    assert done.code == 10 and "a pool is a folder" in done.err
    done = kit.run(
        "filter-pool",
        kit.three_shards(tmp_path / "pool"),
        "-o",
        tmp_path / "no" / "out.npy",
        "--name",
        "no_filter",
    )
    assert done.code == 10 and "no such folder" in done.err and "mkdir" in done.err


# row 26


def drift(folder: Path, column: str, first: Any, second: Any) -> Path:
    """Two shards whose `column` has another type; with None, the second lacks it."""
    a, b = kit.rows(range(20)), kit.rows(range(20, 40))
    place = a.schema.get_field_index(column)
    a = a.set_column(place, column, a[column].cast(first))
    b = b.drop_columns(column) if second is None else b.set_column(place, column, b[column].cast(second))
    return kit.write_pool(folder, [a, b])


SAME = [
    ("clip_l14_similarity_score", pa.float32(), pa.float64()),
    ("clip_l14_similarity_score", pa.float64(), pa.float32()),
    ("original_width", pa.int32(), pa.int64()),
    ("original_width", pa.int64(), pa.uint16()),
    ("original_width", pa.uint32(), pa.int32()),
    ("text", pa.string(), pa.large_string()),
    ("text", pa.dictionary(pa.int32(), pa.string()), pa.string()),
    ("text", pa.string_view(), pa.dictionary(pa.int32(), pa.string())),
    ("uid", pa.string(), pa.large_string()),
]


@pytest.mark.parametrize("index", [False, True], ids=["raw", "index"])
@pytest.mark.parametrize(("column", "first", "second"), SAME, ids=lambda value: str(value))
def test_row_26_types_of_one_kind_give_the_answer_of_one_type(
    column: str, first: Any, second: Any, index: bool, tmp_path: Path
) -> None:
    even = kit.write_pool(tmp_path / "even", [kit.rows(range(20)), kit.rows(range(20, 40))])
    uneven = drift(tmp_path / "uneven", column, first, second)
    rule = kit.rule_file(
        tmp_path, "{id: size, sql: original_width >= 300}", "{id: once, dedup: {by: [text]}}",
        "{id: best, top: {column: clip_l14_similarity_score, fraction: 0.4}}",
        "{id: exact, exact_k: {column: clip_l14_similarity_score, k: 5}}",
    )  # fmt: skip
    if index:
        assert kit.run("pool", "index", uneven).code == 0
    for pool in (even, uneven):
        done = kit.run("filter-pool", pool, "-o", tmp_path / f"{pool.name}.npy", "--rule", rule)
        assert done.code == 0, done
    assert (tmp_path / "even.npy").read_bytes() == (tmp_path / "uneven.npy").read_bytes()
    assert len(kit.words(tmp_path / "even.npy")) == 5


def test_row_26_float64_keeps_its_precision_beside_float32(tmp_path: Path) -> None:
    fine = np.nextafter(0.5, 1.0)  # 0.5 as a float32
    pool = kit.write_pool(tmp_path / "pool", [
        kit.rows([0, 1], clip_l14_similarity_score=pa.array([0.5, 0.25], pa.float32())),
        kit.rows([2, 3], clip_l14_similarity_score=pa.array([fine, 0.25], pa.float64())),
    ])  # fmt: skip
    assert select(pool, tmp_path, "{id: k, exact_k: {column: clip_l14_similarity_score, k: 1}}").code == 0
    assert kit.words(tmp_path / "out.npy") == [kit.uid(2)]
    assert select(pool, tmp_path, "{id: it, sql: clip_l14_similarity_score > 0.5}").code == 0
    assert kit.words(tmp_path / "out.npy") == [kit.uid(2)]


@pytest.mark.parametrize(
    ("column", "second", "said"),
    [
        ("clip_l14_similarity_score", None, "is missing"),
        ("original_width", pa.string(), "is string"),
        ("original_width", pa.float64(), "is double"),
        ("original_width", None, "is missing"),
        ("uid", None, "is missing"),
    ],
    ids=str,
)
def test_row_26_another_kind_or_a_missing_column_is_refused_by_shard(
    column: str, second: Any, said: str, tmp_path: Path
) -> None:
    first = kit.rows(range(1)).schema.field(column).type
    pool = drift(tmp_path / "pool", column, first, second)
    rule = kit.rule_file(
        tmp_path, EVERYTHING, "{id: best, top: {column: clip_l14_similarity_score, fraction: 0.4}}"
    )
    done = kit.run("filter-pool", pool, "-o", tmp_path / "out.npy", "--rule", rule)
    assert done.code == 13 and f"shard 00000001: column '{column}' {said}" in done.err, done
    kit.nothing_at(tmp_path / "out.npy")
    assert ".headwater" not in kit.names(pool), "work began before the check"


def test_row_26_the_first_shard_may_be_the_one_that_lacks_it(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [kit.rows(range(3), original_width=None), kit.rows(range(3, 6))])
    done = select(pool, tmp_path, EVERYTHING)
    assert done.code == 13 and "shard 00000000: column 'original_width' is missing" in done.err


def test_row_26_a_column_that_no_clause_reads_may_be_missing(tmp_path: Path) -> None:
    a = kit.rows(range(3), extra=pa.array([1, 2, 3]))
    b = kit.rows(range(3, 6), text=None)
    pool = kit.write_pool(tmp_path / "pool", [a, b.select(list(reversed(b.column_names)))])
    done = select(pool, tmp_path, EVERYTHING)
    assert done.code == 0, done
    assert len(kit.words(tmp_path / "out.npy")) == 6


def test_row_26_a_nested_column_is_only_a_problem_where_it_is_read(tmp_path: Path) -> None:
    nested = pa.array([{"a": 1}, {"a": 2}])
    pool = kit.write_pool(tmp_path / "pool", [kit.rows(range(2), original_height=nested)])
    assert select(pool, tmp_path, EVERYTHING).code == 0
    done = select(pool, tmp_path, "{id: it, sql: original_height > 0}")
    assert done.code == 2 and "clause 'it'" in done.err


# bad input: names that nothing has


@pytest.mark.parametrize(
    ("clause", "near"),
    [
        ("{id: it, sql: orginal_width > 0}", "original_width"),
        ("{id: it, top: {column: clip_l14_similarity_scor, fraction: 0.5}}", "clip_l14_similarity_score"),
        ("{id: it, dedup: {by: [txt]}}", "text"),
        ("{id: it, dedup: {by: [text], order: {orig_height: asc}}}", "original_height"),
        ("{id: it, in: {column: uidd, values: [x]}}", "uid"),
    ],
)
def test_an_unknown_column_offers_the_nearest(clause: str, near: str, tmp_path: Path) -> None:
    pool = kit.three_shards(tmp_path / "pool")
    done = select(pool, tmp_path, clause)
    assert done.code == 2 and f"'{near}'" in done.err, done
    kit.nothing_at(tmp_path / "out.npy")


def test_unknown_filters_scorers_and_options_offer_the_nearest(tmp_path: Path) -> None:
    pool = kit.three_shards(tmp_path / "pool")
    line = ("filter-pool", pool, "-o", tmp_path / "out.npy")
    for more, near in (
        (("--name", "basic_filer"), "basic_filter"),
        (("--name", "clip_score", "--arch", "l15", "--fraction", "0.5"), "l14"),
        (("--name", "no_filter", "--engine", "serail"), "serial"),
        (("--name", "no_filter", "--fractoin", "1"), "--fraction"),
    ):
        done = kit.run(*line, *more)
        assert done.code == 2 and near in done.err, done
    done = kit.run("score", "langauge", pool)
    assert done.code == 2 and "language" in done.err
    rule = kit.rule_file(tmp_path, EVERYTHING, head="scores: [captoin]\n")
    done = kit.run(*line, "--rule", rule)
    assert done.code == 2 and "caption" in done.err
    rule.write_text("format: rule/1\nname: x\nkeep:\n  - {id: a, sqll: original_width > 0}\n")
    done = kit.run(*line, "--rule", rule)
    assert done.code == 2 and "keep.0.sqll" in done.err
    kit.nothing_at(tmp_path / "out.npy")


# bad input: an output that exists


def test_an_output_that_exists(tmp_path: Path) -> None:
    pool = kit.three_shards(tmp_path / "pool")
    output = tmp_path / "out.npy"
    line = ("filter-pool", pool, "-o", output, "--rule", kit.rule_file(tmp_path, EVERYTHING))
    other = ("filter-pool", pool, "-o", output, "--name", "no_filter")
    assert kit.run(*line).code == 0
    first, inode = output.read_bytes(), output.stat().st_ino
    again = kit.run(*line)
    assert again.code == 0 and "up to date" in again.err and "already there" in again.out
    assert output.stat().st_ino == inode
    # the same rule under another file name is the same rule
    assert kit.run(*line[:-1], kit.rule_file(tmp_path, EVERYTHING, name="b.yaml")).code == 0
    assert output.stat().st_ino == inode
    refused = kit.run(*other)
    assert refused.code == 2 and str(output) in refused.err and "--force" in refused.err
    assert output.read_bytes() == first
    assert kit.run(*other, "--force").code == 0
    assert kit.closes(output).identity.config["rule"]["name"] == "no_filter"
    output.with_name("out.npy.step.json").unlink()
    refused = kit.run(*other)
    assert refused.code == 2 and "no record" in refused.err
    assert kit.run(*other, "--force").code == 0
    data = bytearray(output.read_bytes())
    data[-1] ^= 1
    output.write_bytes(data)
    damaged = kit.run(*other)
    assert damaged.code == 13 and str(output) in damaged.err
    # the pool has changed since: another key
    kit.write_pool(pool, {"00000002": kit.rows(range(90, 95))})
    changed = kit.run(*line)
    assert changed.code == 2 and "from other inputs or options" in changed.err
    assert kit.temporaries(tmp_path) == []
