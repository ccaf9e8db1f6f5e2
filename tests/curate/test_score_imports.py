"""Score tables of others: joined by uid as a dictionary would, usable in rules at once, refused where they are unclear."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import _import_join as join
from curate.pool import Pool
from curate.score_imports import import_scores, prepare
from curate.sidecars import stored_scores
from headwater.errors import IntegrityError
from headwater.steps import RunOptions
from tests.faults.kit import Done, kept, record, rule_file, run, temporaries, uid, with_uids, write_pool


def hexed(number: int) -> str:
    """A few high words, so that slices are cut and both words decide."""
    return f"{number % 4 * 2**62:016x}{number:016x}"


def pool_of(folder: Path, *shards: list[int | None]) -> Path:
    return write_pool(folder, [with_uids([None if n is None else hexed(n) for n in s]) for s in shards])


def scores_beside(pool: Path) -> dict[str, list[Any]]:
    """All columns of the one set of scores beside a pool, in the order of its rows."""
    opened = Pool.open(pool)
    (ref,) = stored_scores(opened.cache, opened.shards[0].name, opened.digests(opened.shards[0]).sha256)
    found: dict[str, list[Any]] = {}
    for shard in opened.shards:
        for name, values in pq.read_table(ref.path / f"{shard.name}.parquet").to_pydict().items():
            found.setdefault(name, []).extend(values)
    return found


def brought(pool: Path, table: Path, *options: object, name: str = "theirs") -> Done:
    return run("score", "import", pool, table, "--name", name, *options)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(st.one_of(st.none(), st.integers(0, 30)), max_size=30),
    theirs=st.dictionaries(
        st.integers(0, 30),
        st.tuples(
            st.one_of(st.none(), st.floats(width=32, allow_nan=True)),
            st.one_of(st.none(), st.sampled_from(["", "a", "ä"])),
            st.one_of(st.none(), st.booleans()),
        ),
        max_size=30,
    ),
    again=st.lists(st.integers(0, 30), max_size=6),
    piece=st.sampled_from([1, 3, 1000]),
    seed=st.integers(0, 9),
)
def test_the_join_is_that_of_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[int | None],
    theirs: dict[int, tuple[Any, Any, Any]],
    again: list[int],
    piece: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("join")
    pool = pool_of(folder / "pool", rows[::2], rows[1::2])
    lines = [*theirs, *(n for n in again if n in theirs)]
    random.Random(seed).shuffle(lines)
    (folder / "tables").mkdir()
    for part, some in enumerate((lines[: len(lines) // 2], lines[len(lines) // 2 :])):
        table = pa.table(
            {
                "f": pa.array([theirs[n][0] for n in some], pa.float32(), from_pandas=False),
                "uid": pa.array([hexed(n) for n in some], pa.string()),
                "t": pa.array([theirs[n][1] for n in some], pa.string()),
                "b": pa.array([theirs[n][2] for n in some], pa.bool_()),
            }
        )
        pq.write_table(table, folder / "tables" / f"{part}.parquet", row_group_size=2)
    opened = Pool.open(pool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(join, "SLICE_ROWS", piece)
        patch.setattr(join, "CHUNK_ROWS", piece)
        found = prepare(opened, [folder / "tables"], "theirs", uid_column="uid", columns=[], force=False)
        made = import_scores(found, options=RunOptions())

    def value(n: int | None, column: int) -> Any:
        told = theirs[n][column] if n is not None and n in theirs else None
        return None if isinstance(told, float) and told != told else told

    order = [*rows[::2], *rows[1::2]]
    there = scores_beside(pool)
    assert there["uid"] == [None if n is None else hexed(n) for n in order]
    assert [there[c] for c in "ftb"] == [[value(n, i) for n in order] for i in range(3)]
    absent = sum(n not in theirs for n in order)
    scored = sum(any(value(n, i) is not None for i in range(3)) for n in order)
    counts, notes = made["counts"], made["notes"]
    assert counts["kept"] == scored and counts["read"] == len(order)
    assert counts["invalid"].get("not in the table", 0) == absent
    assert counts["invalid"].get("in the table without a value", 0) == len(order) - absent - scored
    assert notes["table_repeats"] == len(lines) - len(theirs)
    assert notes["uids_not_in_pool"] == len(theirs.keys() - {n for n in rows if n is not None})


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_rule_uses_the_columns_at_once(tmp_path: Path, kind: str) -> None:
    pool = write_pool(tmp_path / "pool", [with_uids([uid(n) for n in range(5)])])
    table = tmp_path / f"t.{kind}"
    rows = [{"id": uid(n), "quality": n / 4, "lang": "de" if n % 2 else "en"} for n in (3, 1, 0, 2, 99)]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), table)
    elif kind == "jsonl":
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        comma = "," if kind == "csv" else "\t"
        table.write_text(
            "".join(comma.join(map(str, r)) + "\n" for r in [rows[0], *(r.values() for r in rows)])
        )
    done = brought(pool, table, "--uid-column", "id")
    assert done.code == 3 and "theirs: 4 of 5 rows have a score from 5 rows of 1 table" in done.out
    assert (
        "no score: 1 × not in the table" in done.out and "1 uids of the table are not in the pool" in done.out
    )
    rule = rule_file(tmp_path, "{id: good, sql: quality >= 0.25 and lang = 'de'}")
    picked = run("filter-pool", pool, "-o", tmp_path / "s.npy", "--rule", rule)
    assert picked.code == 3 and kept(tmp_path / "s.npy") == {1, 3}
    step = record(tmp_path / "s.npy")
    assert step.identity.counts.invalid == {"good: null or NaN": 1}
    assert step.identity.config["scorers"]["theirs"]["assets"]["table"]
    assert temporaries(pool) == [] and not list((pool / ".headwater" / "imports").iterdir())


def test_it_is_imported_once_and_replaced_with_force(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "pool", [1, 2])
    table = tmp_path / "t.csv"
    table.write_text(f"uid,s\n{hexed(1)},1\n{hexed(2)},2\n")
    assert brought(pool, table).code == 0
    assert "already there" in brought(pool, table).out
    moved = table.rename(tmp_path / "other.csv")  # where a table lies decides nothing
    assert "already there" in brought(pool, moved).out
    table.write_text(f"uid,s\n{hexed(1)},1\n{hexed(2)},3\n")
    refused = brought(pool, table)
    assert refused.code == 2 and "imported from another table" in refused.err
    assert brought(pool, table, "--dry-run", "--force").code == 0 and scores_beside(pool)["s"] == [1, 2]
    assert brought(pool, table, "--force").code == 0 and scores_beside(pool)["s"] == [1, 3]


@pytest.mark.parametrize(
    ("text", "options", "code", "told"),
    [
        ("uid,s\n{0},1\n{0},2\n", (), 13, "is in the table twice, with s 1 and 2"),
        ("uid,s\n{0},1\n{0},\n", (), 13, "is in the table twice, with s 1 and null"),
        ("uid,s\n{0},1\nbad,2\n", (), 13, "line 3: 'bad' is not a uid"),
        ("uid,text\n{0},x\n", (), 2, "column 'text': the pool has one of that name"),
        ("uid,n_words\n{0},1\n", (), 2, "column 'n_words': scorer caption makes one of that name"),
        ("uid,s\n{0},1\n", ("--columns", "q"), 2, "has no column 'q'"),
        ("uid,s\n{0},1\n", ("--columns", "a=s,a=s"), 2, "'a' is given twice"),
        ("uid,s\n{0},1\n", ("--columns", "uid=s"), 2, "'uid' cannot be a score"),
        ("uid\n{0}\n", (), 2, "no column to import"),
        ("key,s\n{0},1\n", (), 2, "has no column 'uid'"),
        ("uid,s\n{0},1,2\n", (), 13, "cannot be read as CSV"),
    ],
)
def test_an_unclear_table_is_refused_and_leaves_nothing(
    tmp_path: Path, text: str, options: tuple[str, ...], code: int, told: str
) -> None:
    pool = pool_of(tmp_path / "pool", [1, 2])
    table = tmp_path / "t.csv"
    table.write_text(text.format(hexed(1)))
    done = brought(pool, table, *options)
    assert done.code == code and told in done.err, done.err
    assert not list((pool / ".headwater").rglob("*.parquet")) and temporaries(tmp_path) == []


def test_columns_of_other_imports_are_not_taken_twice(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "pool", [1])
    table = tmp_path / "t.csv"
    table.write_text(f"uid,s\n{hexed(1)},1\n")
    assert brought(pool, table).code == 0
    refused = brought(pool, table, name="others")
    assert refused.code == 2 and "--columns others_s=s" in refused.err
    assert brought(pool, table, "--columns", "others_s=s", name="others").code == 0
    assert brought(pool, table, name="language").code == 2
    assert brought(pool, table, name="Up/../per").code == 2


def test_tables_must_agree_on_types(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "pool", [1, 2])
    (tmp_path / "t").mkdir()
    for name, kind, value in (("a", pa.int32(), 1), ("b", pa.float64(), 0.5)):
        table = pa.table({"uid": [hexed(1 + (name == "b"))], "s": pa.array([value], kind)})
        pq.write_table(table, tmp_path / "t" / f"{name}.parquet")
    assert brought(pool, tmp_path / "t").code == 0 and scores_beside(pool)["s"] == [1.0, 0.5]
    pq.write_table(pa.table({"uid": [hexed(1)], "s": ["x"]}), tmp_path / "t" / "c.parquet")
    done = brought(pool, tmp_path / "t", name="more")
    assert done.code == 2 and "column 's' is int32 in one table and double in another" in done.err


def test_a_list_column_is_left_out_with_a_word_and_refused_when_asked_for(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "pool", [1])
    pq.write_table(pa.table({"uid": [hexed(1)], "v": [[1.0]], "s": [1]}), tmp_path / "t.parquet")
    done = brought(pool, tmp_path / "t.parquet")
    assert done.code == 0 and "left out" in done.err and scores_beside(pool).keys() == {"uid", "s"}
    assert brought(pool, tmp_path / "t.parquet", "--columns", "v", name="more").code == 2


def test_a_failed_import_leaves_the_earlier_one(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "pool", [1])
    table = tmp_path / "t.csv"
    table.write_text(f"uid,s\n{hexed(1)},1\n")
    opened = Pool.open(pool)
    import_scores(
        prepare(opened, [table], "x", uid_column="uid", columns=[], force=False), options=RunOptions()
    )
    table.write_text(f"uid,s\n{hexed(1)},1\nx,2\n")
    found = prepare(opened, [table], "x", uid_column="uid", columns=[], force=True)
    with pytest.raises(IntegrityError, match="line 3"):
        import_scores(found, options=RunOptions(), force=True)
    assert scores_beside(pool)["s"] == [1]
