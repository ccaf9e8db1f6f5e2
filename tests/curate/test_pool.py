"""Pools: what is a shard, what its columns are, what is refused when a pool is opened, and what its id depends on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.pool import Pool, common_type, family
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.manifest import Manifest
from tests.conftest import ROOT, PoolBuilder
from tests.curate.filter_kit import listening, run_filter, uid, write_pool


def table(*numbers: int, **columns: Any) -> pa.Table:
    return pa.table({"uid": pa.array([uid(n) for n in numbers], pa.string()), **columns})


def test_opening_reads_footers_only(tiny_pool: PoolBuilder) -> None:
    pool = Pool.open(tiny_pool(rows=61, shards=3))
    assert [shard.rows for shard in pool.shards] == [20, 20, 21] and pool.rows == 61
    assert [shard.name for shard in pool.shards] == ["00000000", "00000001", "00000002"]
    assert pool.columns[:3] == ["uid", "url", "text"]
    assert repr(pool) == "Pool(pool: 61 rows in 3 shards, 8 columns)"
    assert pool.shards[0].features is None
    (pool.path / "00000000.npz").write_bytes(b"")
    assert pool.shards[0].features == pool.path / "00000000.npz"


def test_what_counts_as_a_shard(tmp_path: Path) -> None:
    folder = write_pool(tmp_path / "pool", {"a": table(1), "c": table(3)})
    os.rename(folder / "c.parquet", folder / "c.parquet.bak")
    pq.write_table(table(4), folder / "d.PARQUET")
    pq.write_table(table(5), folder / ".hidden.parquet")
    (folder / "notes.txt").write_text("x")
    (folder / "folder.parquet").mkdir()
    with listening() as heard:
        pool = Pool.open(folder)
    assert [shard.name for shard in pool.shards] == ["a", "c"]
    assert any("c.parquet.bak: read as a shard" in w for w in heard.warnings)


def test_a_folder_without_shards_is_told(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    with listening() as heard:
        pool = Pool.open(tmp_path / "pool")
    assert pool.rows == 0 and pool.columns == []
    assert any("no shards" in w for w in heard.warnings)


def test_folders_that_are_no_pool(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no such pool folder"):
        Pool.open(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MissingInput, match="is a file, and a pool is a folder"):
        Pool.open(tmp_path / "file")


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"", "is empty"), (b"PAR1", "not readable Parquet"), (b"x" * 100, "not readable Parquet")],
)
def test_shards_that_are_no_parquet(data: bytes, text: str, tmp_path: Path) -> None:
    folder = write_pool(tmp_path / "pool", {"a": table(1)})
    (folder / "b.parquet").write_bytes(data)
    with pytest.raises(IntegrityError, match=f"shard b: .*{text}"):
        Pool.open(folder)


def test_two_files_of_one_name_and_two_columns_of_one_name(tmp_path: Path) -> None:
    folder = write_pool(tmp_path / "pool", {"a": table(1)})
    os.link(folder / "a.parquet", folder / "a.parquet.bak")
    with pytest.raises(IntegrityError, match="are both shard 'a'"):
        Pool.open(folder)
    doubled = pa.Table.from_arrays([pa.array([uid(1)]), pa.array([1]), pa.array([2])], ["uid", "x", "x"])
    other = write_pool(tmp_path / "other", {"a": doubled})
    with pytest.raises(IntegrityError, match="column 'x' occurs twice"):
        Pool.open(other)


TYPES: list[tuple[list[pa.DataType], pa.DataType | None]] = [
    ([pa.float32(), pa.float64()], pa.float64()),
    ([pa.float16(), pa.float32()], pa.float32()),
    ([pa.int8(), pa.int32()], pa.int64()),
    ([pa.uint8(), pa.uint16()], pa.uint16()),
    ([pa.uint8(), pa.int8()], pa.int64()),
    ([pa.uint64(), pa.int8()], None),
    ([pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], pa.string()),
    ([pa.string(), pa.int8()], None),
    ([pa.float32(), pa.int8()], None),
    ([pa.bool_(), pa.bool_()], pa.bool_()),
    ([pa.list_(pa.int8()), pa.list_(pa.int16())], None),
]


@pytest.mark.parametrize(("types", "expected"), TYPES, ids=str)
def test_types_of_one_family_meet(
    types: list[pa.DataType], expected: pa.DataType | None, tmp_path: Path
) -> None:
    tables = {}
    for number, type_ in enumerate(types):
        values = pa.nulls(1, type_)
        tables[f"s{number}"] = table(number, x=values)
    pool = Pool.open(write_pool(tmp_path / "pool", tables))
    if expected is None:
        with pytest.raises(IntegrityError, match=r"shard s1: column 'x' is .*, but it is .* in shard s0"):
            pool.column_type("x")
    else:
        assert pool.column_type("x") == expected


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    pool = Pool.open(write_pool(tmp_path / "pool", {"a": table(1, score=[0.5]), "b": table(2)}))
    with pytest.raises(IntegrityError, match="shard b: column 'score' is missing"):
        pool.column_type("score")
    with pytest.raises(UsageError, match="no column 'scoer': did you mean 'score'"):
        pool.column_type("scoer")
    with pytest.raises(UsageError, match="has no shards"):
        common_type("x", [])
    assert family(pa.dictionary(pa.int8(), pa.large_string())) == "text"
    assert [family(t) for t in (pa.uint8(), pa.float16(), pa.bool_(), pa.date32())] == [
        "integer",
        "float",
        "other",
        "other",
    ]


def test_a_pool_without_uids_is_refused(tmp_path: Path) -> None:
    folder = write_pool(tmp_path / "pool", {"a": pa.table({"id": [1]})})
    ran = run_filter(folder, [], tmp_path / "out")
    assert isinstance(ran.refused, UsageError) and "no column 'uid'" in str(ran.refused)
    wrong = write_pool(tmp_path / "wrong", {"a": pa.table({"uid": [1, 2]})})
    ran = run_filter(wrong, [], tmp_path / "out2")
    assert isinstance(ran.refused, IntegrityError | UsageError) and "uid" in str(ran.refused)


def test_the_id_is_that_of_names_and_bytes(tiny_pool: PoolBuilder, tmp_path: Path) -> None:
    folder = tiny_pool(seed=1)
    for file in folder.iterdir():
        os.utime(file, (1e9, 1e9))  # a file written just now is read again, in case it still changes
    first = Pool.open(folder, cache=tmp_path / "c1")
    elsewhere = Pool.open(tiny_pool(seed=1, name="copy"), cache=tmp_path / "c2")
    other = Pool.open(tiny_pool(seed=2, name="other"), cache=tmp_path / "c3")
    assert first.id == elsewhere.id != other.id
    with listening() as heard:
        assert Pool.open(first.path, cache=tmp_path / "c1").id == first.id
    assert not any("read" in text for _, text in heard.messages)  # known by size and time
    with listening() as heard:
        assert Pool.open(first.path, cache=tmp_path / "c1", distrust_cache=True).id == first.id
    assert any("MB once to know the pool's id" in text for _, text in heard.messages)


def test_a_changed_shard_changes_the_id(tiny_pool: PoolBuilder, tmp_path: Path) -> None:
    folder = tiny_pool()
    before = Pool.open(folder, cache=tmp_path / "c").id
    file = folder / "00000001.parquet"
    pq.write_table(pq.ParquetFile(file).read().slice(1), file)
    assert Pool.open(folder, cache=tmp_path / "c").id != before
    os.rename(file, folder / "00000009.parquet")
    assert Pool.open(folder, cache=tmp_path / "c2").id != before


def test_a_manifest_beside_the_shards_is_held_to(tiny_pool: PoolBuilder, tmp_path: Path) -> None:
    folder = tiny_pool(shards=2)
    pool = Pool.open(folder, cache=tmp_path / "c")
    document = json.loads((ROOT / "schemas" / "examples" / "manifest.json").read_bytes())
    entries = []
    for shard in pool.shards:
        entries.append({"path": shard.path.name, "size_bytes": 1, "sha256": pool.digests(shard).sha256})
    document["entries"] = entries
    (folder / "manifest.json").write_text(Manifest.model_validate(document).model_dump_json())
    assert Pool.open(folder, cache=tmp_path / "c").id == pool.id
    document["entries"][1]["sha256"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(
        IntegrityError, match=r"shard 00000001: its bytes are not those that manifest.json names"
    ):
        _ = Pool.open(folder, cache=tmp_path / "c").id
    document["entries"].append({**entries[0], "path": "00000002.parquet"})
    document["entries"][1]["sha256"] = pool.digests(pool.shards[1]).sha256
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match=r"00000002.parquet is in manifest.json but not in the pool"):
        _ = Pool.open(folder, cache=tmp_path / "c").id
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(IntegrityError, match="not a manifest/1 document"):
        _ = Pool.open(folder, cache=tmp_path / "c").id
