"""Pools that are empty, uneven, damaged or oddly named (rows 25, 26, 33, 35 and 36), and outputs that exist."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.manifest import Manifest, describe_folder
from tests.faults import kit

EVERYTHING = "{id: all, sql: original_width > 0}"


def select(pool: Path, folder: Path, *clauses: str, options: tuple[object, ...] = ()) -> kit.Done:
    rule = kit.rule_file(folder, *clauses)
    return kit.run("filter-pool", pool, "-o", folder / "out.npy", "--rule", rule, "--force", *options)


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
    for line in (("filter-pool", pool, "-o", tmp_path / "out.npy", "--name", "no_filter"), ("pool", "index", pool), ("score", "caption", pool)):
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
    done = kit.run("filter-pool", kit.three_shards(tmp_path / "pool"), "-o", tmp_path / "no" / "out.npy", "--name", "no_filter")
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


# row 33

NAMES = ["a*b'[0]", "two\nlines", "'; drop table pool; --", "%s {0} $HOME", 'quo"te', "-o", "~", "日本", "a.parquet", "..pool", "x" * 200]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_row_33_names_of_pools_outputs_and_rules_are_names(name: str, tmp_path: Path) -> None:
    decoy = kit.write_pool(tmp_path / "aXb'0", [kit.rows(range(500, 700))])  # what a pattern would match
    pool = kit.three_shards(tmp_path / name)
    assert decoy.is_dir()
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / f"{name}.npy"
    rule = kit.rule_file(tmp_path / "out", name=f"{name}.yaml")
    done = kit.run("filter-pool", pool, "-o", output, "--rule", rule, "--reasons", tmp_path / "out" / f"{name}.why")
    assert done.code == 0, done
    step = kit.closes(output)
    assert step.identity.counts.read == 90
    assert pq.read_metadata(tmp_path / "out" / f"{name}.why").num_rows == 90
    assert kit.run("pool", "index", pool).code == 0
    done = kit.run("filter-pool", pool, "-o", output, "--rule", rule, "--force")
    assert done.code == 0 and kit.record(output).identity == step.identity
    told = kit.run("explain", output, kit.words(output)[0])
    assert told.code == 0 and " kept" in told.out, told
    both = kit.run("subset", "union", output, output, "-o", tmp_path / "out" / f"{name}.union")
    assert both.code == 0, both
    assert kit.names(tmp_path / "out") == {
        f"{name}{end}" for end in (".npy", ".npy.step.json", ".yaml", ".why", ".union", ".union.step.json")
    }


def test_row_33_names_of_shards_are_names(tmp_path: Path) -> None:
    tables = {name: kit.rows(range(30 * n, 30 * n + 30)) for n, name in enumerate(("a*b'[0]", "two\nlines", "-x", "%d"))}
    odd, even = kit.write_pool(tmp_path / "odd", tables), kit.write_pool(tmp_path / "even", list(tables.values()))
    rule = kit.rule_file(tmp_path)
    for pool in (odd, even):
        assert kit.run("filter-pool", pool, "-o", tmp_path / f"{pool.name}.npy", "--rule", rule).code == 0
    assert (tmp_path / "odd.npy").read_bytes() == (tmp_path / "even.npy").read_bytes()
    assert kit.run("pool", "index", odd).code == 0
    done = kit.run("filter-pool", odd, "-o", tmp_path / "odd.npy", "--rule", rule, "--force")
    assert done.code == 0
    assert (tmp_path / "odd.npy").read_bytes() == (tmp_path / "even.npy").read_bytes()
    scored = kit.run("score", "caption", odd)
    assert scored.code == 0 and "120 of 120" in scored.out


COLUMNS = ["'; drop table pool; --", 'two"quotes', "new\nline", "a.b", "select", "%s", "*", "k0", "uid_hi", "row", "shard", "é", " "]


@pytest.mark.parametrize("name", COLUMNS, ids=range(len(COLUMNS)))
def test_row_33_names_of_columns_are_names(name: str, tmp_path: Path) -> None:
    plain = kit.write_pool(tmp_path / "plain", [kit.rows(range(30), score=pa.array(np.arange(30) % 7))])
    table = kit.rows(range(30), **{name: pa.array(np.arange(30) % 7)})
    odd = kit.write_pool(tmp_path / "odd", [table])

    def clauses(column: str) -> tuple[str, ...]:
        quoted = '"' + column.replace('"', '""') + '"'
        in_yaml = '"' + column.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
        sql = '"' + f"{quoted} >= 2".replace('"', '\\"').replace("\n", "\\n") + '"'
        return (
            f"{{id: cut, sql: {sql}}}", f"{{id: some, in: {{column: {in_yaml}, values: [2, 3, 4, 6]}}}}",
            f"{{id: best, top: {{column: {in_yaml}, fraction: 0.9}}}}",
            f"{{id: once, dedup: {{by: [{in_yaml}], at_most: 2, order: {{{in_yaml}: desc}}}}}}",
            f"{{id: k, exact_k: {{column: {in_yaml}, k: 5}}}}",
        )  # fmt: skip

    for pool, column in ((plain, "score"), (odd, name)):
        rule = kit.rule_file(tmp_path, *clauses(column), name=f"{pool.name}.yaml")
        done = kit.run("filter-pool", pool, "-o", tmp_path / f"{pool.name}.npy", "--rule", rule)
        assert done.code == 0, done
    assert (tmp_path / "odd.npy").read_bytes() == (tmp_path / "plain.npy").read_bytes()
    assert len(kit.words(tmp_path / "plain.npy")) == 5
    a, b = (kit.record(tmp_path / f"{p}.npy").identity.counts for p in ("odd", "plain"))
    assert a == b


# row 35


def flip(path: Path, at: int) -> None:
    """One bit, leaving size and time as they were."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def regions(path: Path) -> dict[str, int]:
    footer = pq.read_metadata(path)
    column = footer.row_group(0).column(footer.schema.names.index("clip_l14_similarity_score"))
    size = path.stat().st_size
    length = int.from_bytes(path.read_bytes()[-8:-4], "little")
    first = column.dictionary_page_offset or column.data_page_offset
    return {
        "magic": 1,
        "page header": first + 1,
        "page": column.data_page_offset + column.total_compressed_size // 2,
        "last page byte": size - length - 9,
        "footer": size - 8 - length // 2,
        "footer length": size - 8,
        "last magic": size - 2,
    }


REGIONS = ("magic", "page header", "page", "last page byte", "footer", "footer length", "last magic")


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("way", ["manifest", "warm cache"])
def test_row_35_one_flipped_bit_is_found_before_use(region: str, way: str, tmp_path: Path) -> None:
    pool = kit.three_shards(tmp_path / "pool")
    output = tmp_path / "out.npy"
    line = ("filter-pool", pool, "-o", output, "--rule", kit.rule_file(tmp_path))
    options: tuple[object, ...] = ()
    if way == "manifest":
        manifest = Manifest(entries=describe_folder(pool))
        (pool / "manifest.json").write_text(manifest.model_dump_json())
        assert kit.run(*line, "--dry-run", "--cache", tmp_path / "other").code == 0
    else:
        assert kit.run(*line).code == 0
        output.unlink()
        (tmp_path / "out.npy.step.json").unlink()
        options = ("--distrust-cache",)
    shard = pool / "00000001.parquet"
    flip(shard, regions(shard)[region])
    done = kit.run(*line, *options)
    assert done.code == 13, done
    assert "00000001" in done.err
    kit.nothing_at(output)
    index = kit.run("pool", "index", pool, *options)
    assert index.code == 13 and "00000001" in index.err
    assert kit.temporaries(tmp_path) == []


def test_row_35_bits_flipped_anywhere_are_found(tmp_path: Path) -> None:
    pool = kit.three_shards(tmp_path / "pool")
    line = ("filter-pool", pool, "-o", tmp_path / "out.npy", "--name", "no_filter", "--dry-run", "--distrust-cache")
    assert kit.run(*line).code == 0
    shard = pool / "00000001.parquet"
    for at in range(0, shard.stat().st_size, 61):
        flip(shard, at)
        assert kit.run(*line).code == 13, at
        flip(shard, at)
    assert kit.run(*line).code == 0


def test_row_35_without_a_digest_to_compare_a_damaged_page_is_not_a_wrong_answer_made_quietly(tmp_path: Path) -> None:
    """Another sha256 is another pool: the record says which bytes were filtered, and the old output is not taken for its."""
    pool = kit.three_shards(tmp_path / "pool", compression="none")
    output = tmp_path / "out.npy"
    line = ("filter-pool", pool, "-o", output, "--rule", kit.rule_file(tmp_path))
    assert kit.run(*line).code == 0
    before = kit.record(output).identity.inputs
    shard = pool / "00000001.parquet"
    flip(shard, regions(shard)["page"])
    kit.age(shard, 1800)
    assert kit.run(*line).code in (2, 13)
    done = kit.run(*line, "--force")
    assert done.code == 13 or kit.record(output).identity.inputs != before


def test_row_35_a_shard_that_the_manifest_names_is_missing(tmp_path: Path) -> None:
    pool = kit.three_shards(tmp_path / "pool")
    (pool / "manifest.json").write_text(Manifest(entries=describe_folder(pool)).model_dump_json())
    (pool / "00000002.parquet").rename(tmp_path / "elsewhere")
    done = kit.run("filter-pool", pool, "-o", tmp_path / "out.npy", "--name", "no_filter")
    assert done.code == 13 and "00000002.parquet is in manifest.json but not in the pool" in done.err
    kit.nothing_at(tmp_path / "out.npy")


# row 36


@pytest.mark.parametrize("part", range(16))
def test_row_36_a_truncated_shard_refuses_the_pool(part: int, tmp_path: Path) -> None:
    pool = kit.three_shards(tmp_path / "pool")
    shard = pool / "00000001.parquet"
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) * part // 16])
    done = kit.run("filter-pool", pool, "-o", tmp_path / "out.npy", "--rule", kit.rule_file(tmp_path))
    assert done.code == 13 and "shard 00000001" in done.err, done
    kit.nothing_at(tmp_path / "out.npy")
    assert kit.run("pool", "index", pool).code == 13


def test_row_36_the_last_byte_is_missing_or_one_too_many(tmp_path: Path) -> None:
    for change in (-1, -4, -8, 1, 8):
        pool = kit.three_shards(tmp_path / f"pool{change}")
        shard = pool / "00000001.parquet"
        data = shard.read_bytes()
        shard.write_bytes(data[:change] if change < 0 else data + b"PAR1PAR1"[:change])
        done = kit.run("filter-pool", pool, "-o", tmp_path / "out.npy", "--rule", kit.rule_file(tmp_path))
        assert done.code == 13 and "shard 00000001" in done.err, (change, done)
        kit.nothing_at(tmp_path / "out.npy")
