"""Why each row was kept or dropped: the table of all rows, and `headwater explain`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.reasons import explain
from curate.subset import from_hex, write_sorted
from headwater.errors import UsageError
from headwater.executor import Executor
from tests.conftest import PoolBuilder
from tests.curate.filter_kit import Told, in_process, ready, run_filter, uid, write_pool

RULE = [{"id": "words", "sql": "n_words > 2"}, {"id": "best", "top": {"column": "s", "threshold": 0.5}}]


Command = Callable[..., Told]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Ten rows: some kept, some dropped by each clause, some without a number; uid 3 lies in it three times."""
    uids = [0, 1, 2, 3, 3, 3, 6, 7, 8, 9]
    texts = ["one two three"] * 8 + ["short", None]
    scores = pa.array([0.9, 0.1, None, 0.9, 0.8, 0.1, 0.9, float("nan"), 0.9, 0.9], pa.float32())
    table = pa.table({"uid": [uid(n) for n in uids], "text": texts, "s": scores})
    return write_pool(tmp_path / "pool", {"a": table.slice(0, 5), "b": table.slice(5)}, rows_per_group=2)


KEPT, LOW, LOST = ("kept", None), ("dropped", "best"), ("invalid", "best: null or NaN")
EXPECTED = [
    KEPT,
    LOW,
    LOST,
    KEPT,
    KEPT,
    LOW,
    KEPT,
    LOST,
    ("dropped", "words"),
    ("invalid", "words: null or NaN"),
]


def test_one_line_for_every_row(pool: Path, tmp_path: Path) -> None:
    ran = run_filter(pool, RULE, tmp_path / "out", reasons=True)
    assert [row[2:] for row in ran.reasons] == EXPECTED
    assert [row[:2] for row in ran.reasons] == [("a", n) for n in range(5)] + [("b", n) for n in range(5)]
    told = Counter(row[2:] for row in ran.reasons)
    assert ran.counts is not None and told[KEPT] == ran.counts.kept == 4
    assert {r: n for (v, r), n in told.items() if v == "dropped"} == ran.counts.dropped
    assert {r: n for (v, r), n in told.items() if v == "invalid"} == ran.counts.invalid


def test_rows_that_repeat_a_uid_are_invalid_when_it_is_kept_once(pool: Path, tmp_path: Path) -> None:
    ran = run_filter(pool, RULE, tmp_path / "out", reasons=True, keep_repeats=False)
    assert [row[2:] for row in ran.reasons] == [
        *EXPECTED[:4],
        ("invalid", "uid: occurs more than once"),
        *EXPECTED[5:],
    ]
    told = Counter(row[2] for row in ran.reasons)
    assert ran.counts is not None and ran.counts.kept == told["kept"] == 3
    assert sum(ran.counts.invalid.values()) == told["invalid"]


def test_the_table_is_the_same_with_the_index_and_ordinary_parquet(pool: Path, tmp_path: Path) -> None:
    plain = run_filter(pool, RULE, tmp_path / "1", reasons=True)
    index = run_filter(pool, RULE, tmp_path / "2", reasons=True, index=True)
    assert index.details["shards_from_index"] == 2 and index.reasons == plain.reasons
    files = [(tmp_path / n / "reasons.parquet").read_bytes() for n in "12"]
    assert files[0] == files[1]
    schema = pq.read_schema(tmp_path / "1" / "reasons.parquet")
    assert schema.names == ["uid", "shard", "row", "verdict", "reason"]
    uids = pq.ParquetFile(tmp_path / "1" / "reasons.parquet").read(["uid"])["uid"].to_pylist()
    assert uids[:5] == [uid(n) for n in (0, 1, 2, 3, 3)]


def test_a_clause_without_an_id_is_called_by_its_text(pool: Path, tmp_path: Path) -> None:
    ran = run_filter(pool, [{"sql": "s   >\n 0.5"}], tmp_path / "out", reasons=True)
    assert ran.counts is not None and ran.counts.dropped == {"s > 0.5": 2}
    assert {row[3] for row in ran.reasons} == {None, "s > 0.5", "s > 0.5: null or NaN"}


def told(pool: Path, uids: list[str], tmp_path: Path) -> list[dict[str, Any]]:
    folder = tmp_path / "explain"
    folder.mkdir()
    return explain(ready(pool, RULE, cache=tmp_path / "cache"), uids, folder, Executor("serial"))


def test_explain_every_kind_of_verdict(pool: Path, tmp_path: Path) -> None:
    asked = [uid(n) for n in (9, 8, 3, 2, 0, 77)]
    found = told(pool, asked, tmp_path)
    assert [(e["uid"], e["verdict"], e["reason"]) for e in found] == [
        (uid(9), "invalid", "words: null or NaN"),
        (uid(8), "dropped", "words"),
        (uid(3), "kept", None),
        (uid(3), "kept", None),
        (uid(3), "dropped", "best"),
        (uid(2), "invalid", "best: null or NaN"),
        (uid(0), "kept", None),
        (uid(77), "absent", None),
    ]
    places = [(e.get("shard"), e.get("row")) for e in found]
    assert places == [("b", 4), ("b", 3), ("a", 3), ("a", 4), ("b", 0), ("a", 2), ("a", 0), (None, None)]
    values = {e["uid"]: e["values"] for e in found}
    assert values[uid(8)]["s"] == pytest.approx(0.9) and values[uid(8)]["text"] == "short"
    assert values[uid(77)] == {}


def test_explain_refuses_what_is_no_uid(pool: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'xyz' is not 32"):
        told(pool, ["xyz"], tmp_path)


def test_the_command(tiny_pool: PoolBuilder, tmp_path: Path, cli: Command) -> None:
    pool, out = tiny_pool(rows=32, shards=2), tmp_path / "out.npy"
    rules = tmp_path / "rules"
    rules.mkdir()
    uids = pq.ParquetFile(pool / "00000000.parquet").read(["uid"])["uid"].to_pylist()
    with open(rules / "mine.npy", "wb") as handle:
        write_sorted(handle, [from_hex(sorted(uids[:6]))])
    (rules / "mine.yaml").write_text(
        "format: rule/1\nname: mine\nkeep:\n  - {id: listed, in: {subset: mine.npy}}\n"
        "  - {id: wide, sql: original_width > 400}\n"
    )
    made = cli("filter-pool", pool, "-o", out, "--rule", rules / "mine.yaml", "--quiet")
    assert made.returncode == 0, made.stderr
    done = cli("explain", out, uids[0], uids[7], uid(5), "--json")  # the rule's own file is found again
    assert done.returncode == 0, done.stderr
    entries = json.loads(done.stdout)["uids"]
    assert [(e["verdict"], e["reason"]) for e in entries[1:]] == [("dropped", "listed"), ("absent", None)]
    assert entries[0]["verdict"] in ("kept", "dropped") and "original_width" in entries[0]["values"]
    text = cli("explain", out, uids[7]).stdout
    assert "dropped by listed" in text and "(shard 00000000, row 7)" in text


def test_the_command_refuses(tiny_pool: PoolBuilder, tmp_path: Path, cli: Command) -> None:
    pool, out = tiny_pool(rows=32, shards=2), tmp_path / "out.npy"
    assert cli("filter-pool", pool, "-o", out, "--name", "no_filter", "--quiet").returncode == 0
    moved = pool.rename(tmp_path / "moved")
    gone = cli("explain", out, uid(1))
    assert gone.returncode == 10 and "no such pool folder" in gone.stderr
    assert cli("explain", out, uid(1), "--pool", moved).returncode == 0
    other = cli("explain", out, uid(1), "--pool", tiny_pool(rows=32, shards=2, seed=9, name="other"))
    assert other.returncode == 13 and "not the pool that out.npy was made from" in other.stderr
    (tmp_path / "out.npy.step.json").unlink()
    bare = cli("explain", out, uid(1), "--pool", moved)
    assert bare.returncode == 10 and "has no record" in bare.stderr
