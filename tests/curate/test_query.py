"""`pool sql`: one SELECT, nothing but the pool within reach, sidecars by row, and outputs that keep every value."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.answers import as_rows, terminal_table, write_answer
from curate.pool import Pool
from curate.query import query
from headwater import console
from headwater.errors import HeadwaterError, IntegrityError, UsageError


def ask(path: Path, sql: str, **options: Any) -> list[tuple[Any, ...]]:
    with query(Pool.open(path), sql, **options) as answer:
        return [tuple(row.values()) for row in answer.table().to_pylist()]


class Heard:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, level: str, text: str, fields: dict[str, Any]) -> None:
        self.texts.append(text)

    def progress(self, task: console.Track) -> None:
        pass


@pytest.fixture
def heard() -> Any:
    sink = Heard()
    console.listen(sink)
    yield sink.texts
    console.listen(console.Silent())


def test_a_select_sees_all_shards(tiny_pool: Any) -> None:
    path = tiny_pool(rows=60, shards=3)
    assert ask(path, "SELECT count(*), count(DISTINCT uid) FROM pool") == [(60, 60)]
    assert ask(path, "WITH a AS (FROM pool) SELECT count(*) FROM a WHERE text LIKE '%Hund%'")[0][0] == 3
    assert ask(path, "FROM pool SELECT max(original_width) < 2000;") == [(True,)]


@pytest.mark.parametrize("name", ["a*b'[0]", "'; drop table pool; --", "100% {x}", "line\nbreak", "[abc]?"])
def test_names_are_data(tiny_pool: Any, tmp_path: Path, name: str) -> None:
    path = tiny_pool(rows=9, shards=3, name=name)
    (tmp_path / "ab'0").mkdir()  # what the first name would match, were it a pattern
    assert ask(path, "SELECT count(*) FROM pool") == [(9,)]


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "SELECT 1; SELECT 2",
        "COPY (SELECT 1) TO '{tmp}/x.csv'",
        "COPY pool TO '{tmp}/x.csv'",
        "ATTACH '{tmp}/x.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PRAGMA database_size",
        "CALL pragma_version()",
        "SET memory_limit='1TB'",
        "SET enable_external_access=true; SELECT 1",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW pool",
        "DELETE FROM pool",
        "EXPORT DATABASE '{tmp}/x'",
        "SELECT FROM WHERE",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_blob('{tmp}/**')",
        "SELECT * FROM read_parquet('{tmp}/secret.parquet')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM '{tmp}/secret.parquet'",
        "SELECT * FROM 'https://example.org/x.parquet'",
        "SELECT * FROM read_parquet('s3://b/x.parquet')",
        "SELECT getenv('HOME')",
        "SELECT nothing FROM pool",
        "SELECT * FROM other",
    ],
)
def test_anything_but_a_select_over_the_pool_is_refused(tiny_pool: Any, tmp_path: Path, sql: str) -> None:
    path = tiny_pool(rows=6, shards=1)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "secret.parquet")
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(UsageError):
        ask(path, sql.replace("{tmp}", str(tmp_path)))
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_variables_of_the_program_are_not_tables(tiny_pool: Any) -> None:
    secret = pa.table({"x": [1]})
    assert len(secret) == 1
    with pytest.raises(UsageError, match="secret"):
        ask(tiny_pool(rows=6, shards=1), "SELECT * FROM secret")


def test_types_are_widened_and_columns_that_do_not_fit_are_left_out(tmp_path: Path, heard: list[str]) -> None:
    one = pa.table({"uid": ["0" * 32], "v": pa.array([0.1], pa.float32()), "w": [1], "x": [1]})
    two = pa.table({"w": [2.5], "uid": ["1" * 32], "v": pa.array([0.1], pa.float64())})
    pq.write_table(one, tmp_path / "a.parquet")
    pq.write_table(two, tmp_path / "b.parquet")
    assert ask(tmp_path, "SELECT typeof(v), v FROM pool ORDER BY uid") == [
        ("DOUBLE", pytest.approx(0.1)),
        ("DOUBLE", 0.1),
    ]
    with pytest.raises(UsageError, match='"x"'):
        ask(tmp_path, "SELECT x FROM pool")
    assert any("column 'x' is left out: shard b" in text for text in heard)
    assert any("column 'w' is left out: shard b" in text for text in heard)


def add_sidecar(
    pool: Pool, name: str, *, sha256: str | None = None, shards: int | None = None, **outputs: Any
) -> None:
    folder = pool.cache / "scores" / name
    folder.mkdir(parents=True, exist_ok=True)
    for shard in pool.shards[:shards]:
        uid = pq.ParquetFile(shard.path).read(columns=["uid"])["uid"]
        table = pa.table({"uid": uid, **{key: make(shard.rows) for key, make in outputs.items()}})
        facts = {"shard_sha256": sha256 or pool.digests(shard).sha256}
        table = table.replace_schema_metadata({b"headwater": json.dumps(facts).encode()})
        pq.write_table(table, folder / f"{shard.name}.parquet")


def test_sidecars_are_joined_by_row(tiny_pool: Any) -> None:
    path = tiny_pool(rows=30, shards=3)
    pool = Pool.open(path)
    add_sidecar(pool, "number-v1-00000000", n=lambda rows: list(range(rows)))
    assert ask(path, "SELECT count(*), sum(n) FROM pool") == [(30, 3 * 45)]
    assert ask(path, "SELECT shard, row, n FROM scores WHERE n = 7 ORDER BY shard") == [
        (shard.name, 7, 7) for shard in pool.shards
    ]
    expected = [
        row for shard in pool.shards for row in pq.ParquetFile(shard.path).read()["uid"].to_pylist()[4:5]
    ]
    assert sorted(row[0] for row in ask(path, "SELECT uid FROM pool WHERE n = 4")) == sorted(expected)


def test_a_uid_that_occurs_twice_does_not_multiply(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uid": ["0" * 32] * 3, "text": list("abc")}), tmp_path / "a.parquet")
    add_sidecar(Pool.open(tmp_path), "number-v1-00000000", n=lambda rows: list(range(rows)))
    assert ask(tmp_path, "SELECT text, n FROM pool ORDER BY n") == [("a", 0), ("b", 1), ("c", 2)]


def test_a_stale_sidecar_is_ignored_with_a_word(tiny_pool: Any, heard: list[str]) -> None:
    path = tiny_pool(rows=9, shards=3)
    add_sidecar(Pool.open(path), "old-v1-00000000", sha256="0" * 64, n=lambda rows: [1] * rows)
    add_sidecar(Pool.open(path), "some-v1-00000000", shards=1, m=lambda rows: [1] * rows)
    (Pool.open(path).cache / "scores" / "some-v1-00000000" / "00000002.parquet").write_bytes(b"broken")
    assert ask(path, "SELECT count(*), count(m) FROM pool") == [(9, 3)]
    assert sum("made from other bytes" in text for text in heard) == 3
    assert any("none for 2 of 3 shards" in text for text in heard)
    assert any("cannot be read" in text for text in heard)


def test_the_newest_version_has_the_plain_name(tiny_pool: Any) -> None:
    path = tiny_pool(rows=6, shards=2)
    pool = Pool.open(path)
    for version in (2, 10, 9):
        add_sidecar(
            pool,
            f"words-v{version}-00000000",
            n=lambda rows, v=version: [v] * rows,
            uid2=lambda rows: [0] * rows,
        )
    assert ask(path, 'SELECT DISTINCT n, "words-v9-00000000.n", "words-v2-00000000.n" FROM pool') == [
        (10, 9, 2)
    ]


def test_nan_follows_duckdb_as_documented(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"uid": ["0" * 32], "s": pa.array([float("nan")], pa.float32())}), tmp_path / "a.parquet"
    )
    assert ask(tmp_path, "SELECT s >= 0.3, s >= 0.3 AND NOT isnan(s) FROM pool") == [(True, False)]


def test_an_empty_pool_and_an_empty_shard(tmp_path: Path) -> None:
    assert ask(tmp_path, "SELECT count(*) FROM pool") == [(0,)]
    pq.write_table(pa.table({"uid": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert ask(tmp_path, "SELECT count(*), count(uid) FROM pool") == [(0, 0)]
    assert ask(tmp_path, "SELECT * FROM scores") == []


def test_a_damaged_page_is_an_integrity_error(tiny_pool: Any) -> None:
    path = tiny_pool(rows=300, shards=1)
    shard = path / "00000000.parquet"
    chunk = pq.read_metadata(shard).row_group(0).column(0)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data = bytearray(shard.read_bytes())
    data[start : start + 60] = b"\xff" * 60
    shard.write_bytes(data)
    with pytest.raises(IntegrityError, match="cannot be read"):
        ask(path, "SELECT max(length(uid)) FROM pool")


def test_a_query_that_fails_by_itself_is_no_damage(tiny_pool: Any) -> None:
    for sql in ("SELECT error('stop')", "SELECT CAST(text AS INTEGER) FROM pool"):
        with pytest.raises(HeadwaterError) as error:
            ask(tiny_pool(rows=6, shards=1), sql)
        assert error.value.exit_code == 1


def test_too_little_memory_is_told(tiny_pool: Any) -> None:
    path = tiny_pool(rows=6, shards=1)
    with pytest.raises(HeadwaterError, match="memory") as error:
        ask(path, "SELECT list(range) FROM range(50000000)", limit_bytes=64 << 20, threads=1)
    assert error.value.exit_code == 1
    with pytest.raises(UsageError, match="at least 64 MiB"):
        ask(path, "SELECT 1", limit_bytes=1)


def test_nothing_is_left_behind(tiny_pool: Any, tmp_path: Path) -> None:
    path = tiny_pool(rows=6, shards=1)
    (tmp_path / "temp").mkdir()
    ask(path, "SELECT 1", temp=tmp_path / "temp")
    with pytest.raises(UsageError):
        ask(path, "SELECT x FROM pool", temp=tmp_path / "temp")
    assert list((tmp_path / "temp").iterdir()) == []
    assert sorted(p.name for p in path.iterdir()) == ["00000000.parquet"]


# ---- outputs ------------------------------------------------------------------------------------------------

ODD = "SELECT * FROM (VALUES (1, 'a,\"b\nc', NULL, 'nan'::FLOAT), (2, '', 'x', 'inf'::FLOAT)) t(i, s, n, f)"


def test_files_keep_every_value(tiny_pool: Any, tmp_path: Path) -> None:
    pool = Pool.open(tiny_pool(rows=6, shards=1))
    for form in ("csv", "jsonl", "parquet"):
        with query(pool, ODD) as answer:
            assert write_answer(answer, tmp_path / f"x.{form}") == 2
    with open(tmp_path / "x.csv", newline="") as handle:
        rows = list(csv.reader(handle))
    assert rows[0] == ["i", "s", "n", "f"]
    assert [row[:3] for row in rows[1:]] == [["1", 'a,"b\nc', ""], ["2", "", "x"]]
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert lines == [{"i": 1, "s": 'a,"b\nc', "n": None, "f": "nan"}, {"i": 2, "s": "", "n": "x", "f": "inf"}]
    assert pq.ParquetFile(tmp_path / "x.parquet").read()["s"].to_pylist() == ['a,"b\nc', ""]


def test_rows_for_json_and_for_the_terminal(tiny_pool: Any) -> None:
    pool = Pool.open(tiny_pool(rows=6, shards=1))
    with query(pool, ODD) as answer:
        assert json.loads(json.dumps(as_rows(answer), allow_nan=False))[0]["f"] == "nan"
    with query(pool, "SELECT range AS r, '[red]' AS b FROM range(1500)") as answer:
        text = terminal_table(answer, 1000)
    assert "[red]" in text
    assert "500 more rows" in text


def test_an_ending_that_says_nothing_is_a_usage_error(tiny_pool: Any, tmp_path: Path) -> None:
    pool = Pool.open(tiny_pool(rows=6, shards=1))
    with query(pool, "SELECT 1") as answer, pytest.raises(UsageError, match=r"\.parquet"):
        write_answer(answer, tmp_path / "x.dat")
    assert not (tmp_path / "x.dat").exists()
