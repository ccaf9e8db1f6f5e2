"""`pool import` from Parquet, and the pool that comes out: same bytes whatever the workers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import _ingest_tars as _tars
from curate.ingest import import_pool
from curate.pool import MANIFEST_NAME, Pool
from curate.validate import validate_pool
from headwater.errors import HeadwaterError, IntegrityError, MissingInput, UsageError
from headwater.executor import Executor
from headwater.manifest import Manifest, verify_entries
from headwater.steps import RunOptions
from tests.curate.ingest_kit import COLUMNS, OPENCLIPART, SERIAL, invalid, rows_of, run, sample, write_tar

# ---- Parquet ------------------------------------------------------------------------------------------------


def test_a_datacomp_pool_passes_through_with_its_features(tmp_path: Path, tiny_pool: Any) -> None:
    source = tiny_pool(rows=40, shards=2)
    for path in sorted(source.glob("*.parquet")):
        np.savez(path.with_suffix(".npz"), b32_img=np.zeros((20, 4), np.float16))
    table = pq.ParquetFile(source / "00000000.parquet").read()
    good = [bool(text) for text in table["text"].to_pylist()]
    outcome = run(source, tmp_path / "out")
    assert rows_of(tmp_path / "out")[: sum(good)] == [
        row for row, ok in zip(table.to_pylist(), good, strict=True) if ok
    ]
    assert invalid(outcome) == {"no_caption": 40 - len(rows_of(tmp_path / "out"))}
    # rows were left out, so features would be shifted: they are not copied, and that is recorded
    assert outcome.step.details["features_left_out"] == ["00000000", "00000001"]


def test_features_are_copied_where_every_row_is_kept_and_refused_where_they_do_not_fit(
    tmp_path: Path,
) -> None:
    source = tmp_path / "src"
    source.mkdir()
    pq.write_table(pa.table({"uid": ["a" * 32, "b" * 32], "text": ["x", "y"]}), source / "s.parquet")
    np.savez(source / "s.npz", b32_img=np.zeros((2, 4), np.float16))
    run(source, tmp_path / "pool")
    assert (tmp_path / "pool" / "s.npz").read_bytes() == (source / "s.npz").read_bytes()
    np.savez(source / "s.npz", b32_img=np.zeros((3, 4), np.float16))
    with pytest.raises(IntegrityError, match=r"'b32_img' has 3 rows, its shard has 2"):
        run(source, tmp_path / "other")
    np.savez(source / "s.npz", b32_img=np.array([{}, {}], object))
    with pytest.raises(IntegrityError, match="Python objects"):
        run(source, tmp_path / "other")
    run(source, tmp_path / "other", features=False)
    assert not list((tmp_path / "other").glob("*.npz"))


def test_other_column_names_are_mapped_and_types_made_datacomps(tmp_path: Path) -> None:
    source = tmp_path / "t.parquet"
    table = pa.table(
        {
            "image_url": pa.array(["https://a", "https://b"], pa.large_string()),
            "alt": pa.array(["x", "y"]).dictionary_encode(),
            "width": pa.array([10, 20], pa.int32()),
            "height": pa.array([10, 20], pa.int16()),
            "extra": pa.array([1, 2], pa.uint8()),
        }
    )
    pq.write_table(table, source)
    with pytest.raises(UsageError, match="no caption column"):
        run(source, tmp_path / "pool")
    run(source, tmp_path / "pool", mapping={"text": "alt"})
    schema = pq.read_schema(tmp_path / "pool" / "t.parquet")
    assert schema.names == ["uid", "url", "text", "original_width", "original_height", "extra"]
    assert [str(schema.field(n).type) for n in schema.names] == [
        "string",
        "string",
        "string",
        "int64",
        "int64",
        "uint8",
    ]
    assert rows_of(tmp_path / "pool")[0]["uid"] == hashlib.sha256(b"https://a\0x").hexdigest()[:32]


def test_schema_drift_is_widened_or_refused_with_file_and_column(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()

    def shard(name: str, **columns: pa.Array) -> None:
        uid = pa.array([name * 32])
        pq.write_table(pa.table({"uid": uid, "text": pa.array(["t"]), **columns}), source / f"{name}.parquet")

    score = "clip_l14_similarity_score"
    shard("a", **{score: pa.array([0.25], pa.float32())}, original_width=pa.array([5], pa.int32()))
    shard("b", **{score: pa.array([0.5], pa.float64())}, original_width=pa.array([6], pa.int64()))
    run(source, tmp_path / "pool")
    assert [row[score] for row in rows_of(tmp_path / "pool")] == [0.25, 0.5]
    assert {str(pq.read_schema(p).field(score).type) for p in (tmp_path / "pool").glob("*.parquet")} == {
        "double"
    }
    shard("c", **{score: pa.array([0.5], pa.float32())})
    with pytest.raises(IntegrityError, match=r"c\.parquet: column 'original_width' is missing"):
        run(source, tmp_path / "other")
    shard("c", **{score: pa.array([0.5], pa.float32())}, original_width=pa.array(["wide"]))
    with pytest.raises(UsageError, match="'original_width' is string"):
        run(source, tmp_path / "other")


def test_a_damaged_or_empty_parquet_is_an_integrity_error(tmp_path: Path, tiny_pool: Any) -> None:
    source = tiny_pool(rows=60, shards=2)
    whole = (source / "00000001.parquet").read_bytes()
    for keep in [0, *(len(whole) * part // 16 for part in range(1, 16))]:
        (source / "00000001.parquet").write_bytes(whole[:keep])
        with pytest.raises(IntegrityError, match=r"00000001\.parquet"):
            run(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_large_table_becomes_several_shards(tmp_path: Path) -> None:
    table = pa.table({"url": [f"u{n}" for n in range(25)], "text": ["t"] * 25})
    pq.write_table(table, tmp_path / "t.parquet")
    run(tmp_path / "t.parquet", tmp_path / "pool", rows_per_shard=10)
    pool = Pool.open(tmp_path / "pool")
    assert [(shard.name, shard.rows) for shard in pool.shards] == [
        ("t-0000", 10),
        ("t-0001", 10),
        ("t-0002", 5),
    ]
    assert [row["url"] for row in rows_of(tmp_path / "pool")] == [f"u{n}" for n in range(25)]


def test_invalid_utf8_and_empty_captions_are_left_out_nul_is_kept(tmp_path: Path) -> None:
    text = pa.array([b"ok", b"\xff\xfe", b"", None, b"nul\0inside", "\u200b".encode()], pa.binary())
    values = pa.Array.from_buffers(pa.string(), 6, text.buffers(), text.null_count)
    pq.write_table(pa.table({"url": [f"u{n}" for n in range(6)], "text": values}), tmp_path / "t.parquet")
    outcome = run(tmp_path / "t.parquet", tmp_path / "pool")
    assert invalid(outcome) == {"bad_utf8": 1, "no_caption": 2}
    assert [row["text"] for row in rows_of(tmp_path / "pool")] == ["ok", "nul\0inside", "\u200b"]


# ---- the pool that comes out --------------------------------------------------------------------------------


def test_bytes_do_not_depend_on_workers_and_a_second_run_is_up_to_date(tmp_path: Path) -> None:
    source = tmp_path / "src"
    for number in range(5):
        samples = [
            sample(f"{number}{n}", text=f"caption {number} {n}", n=n, url=f"u{number}{n}") for n in range(7)
        ]
        write_tar(source / f"{number:08d}.tar", samples)
    one = run(source, tmp_path / "one", rows_per_shard=10)
    three = run(source, tmp_path / "three", rows_per_shard=10, executor=Executor("pool", 3))
    assert [e.sha256 for e in one.step.identity.outputs] == [e.sha256 for e in three.step.identity.outputs]
    assert sorted(p.name for p in (tmp_path / "one").glob("*.parquet")) == [
        f"{n:08d}.parquet" for n in range(4)
    ]
    assert run(source, tmp_path / "one", rows_per_shard=10).cached


def test_the_pool_has_page_checksums_a_manifest_and_no_dictionary_for_uids(tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "a.tar", [sample(f"k{n}", text=f"t{n}") for n in range(50)])
    run(tmp_path / "src", tmp_path / "pool")
    shard = tmp_path / "pool" / "00000000.parquet"
    row_group = pq.read_metadata(shard).row_group(0)
    chunks = {row_group.column(i).path_in_schema: row_group.column(i) for i in range(row_group.num_columns)}
    assert not chunks["uid"].has_dictionary_page
    assert not chunks["sha256"].has_dictionary_page
    assert chunks["original_width"].has_dictionary_page
    assert {chunk.compression for chunk in chunks.values()} == {"ZSTD"}
    manifest = Manifest.model_validate_json((tmp_path / "pool" / MANIFEST_NAME).read_bytes())
    allowed = frozenset({"step.json", MANIFEST_NAME})
    assert verify_entries(tmp_path / "pool", manifest.entries, allow_extra=allowed).empty
    data = bytearray(shard.read_bytes())
    data[chunks["uid"].data_page_offset + chunks["uid"].total_compressed_size // 2] ^= 4
    shard.write_bytes(data)
    with pytest.raises(OSError, match="CRC checksum"):
        pq.ParquetFile(shard, page_checksum_verification=True).read(columns=["uid"])
    with pytest.raises(IntegrityError, match="not those that manifest"):
        _ = Pool.open(tmp_path / "pool").id


def test_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no such file or folder"):
        run(tmp_path / "nothing", tmp_path / "pool")
    (tmp_path / "src").mkdir()
    with pytest.raises(MissingInput, match="holds no tars"):
        run(tmp_path / "src", tmp_path / "pool")
    write_tar(tmp_path / "src" / "a.tar", [sample("k")])
    with pytest.raises(UsageError, match="inside the source"):
        run(tmp_path / "src", tmp_path / "src" / "pool")
    with pytest.raises(UsageError, match="unknown column 'txet'"):
        run(tmp_path / "src", tmp_path / "pool", mapping={"txet": "a"})
    with pytest.raises(UsageError, match="rows-per-shard"):
        run(tmp_path / "src", tmp_path / "pool", rows_per_shard=0)
    assert (
        import_pool(tmp_path / "src", tmp_path / "pool", options=RunOptions(dry_run=True), executor=SERIAL)
        is None
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["src"]


def test_the_clip_art_pool(tmp_path: Path) -> None:
    if not list(OPENCLIPART.glob("*.tar")):
        pytest.skip("examples/openclipart/pool has not been built")
    outcome = run(OPENCLIPART, tmp_path / "pool")
    rows = {row["uid"]: row for row in rows_of(tmp_path / "pool")}
    told = {}
    for path in sorted(OPENCLIPART.glob("*.parquet")):
        told |= {row["uid"]: row for row in pq.ParquetFile(path).read().to_pylist()}
    counts = outcome.step.identity.counts
    assert counts.read == len(told)
    assert len(rows) == counts.kept
    assert set(counts.invalid) <= {"no_caption"}
    for uid, row in rows.items():
        expected = {
            name: told[uid][name] for name in (*COLUMNS, "keywords", "license", "key") if name in told[uid]
        }
        assert {name: row[name] for name in expected} == expected


def test_a_full_disk_leaves_nothing_under_the_final_name(tmp_path: Path, small_disk: Path) -> None:
    digests = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(60_000)]
    pq.write_table(pa.table({"url": digests, "text": digests[::-1]}), tmp_path / "t.parquet")
    with pytest.raises(HeadwaterError, match="no space left") as error:
        run(tmp_path / "t.parquet", small_disk / "pool")
    assert error.value.exit_code == 1
    assert not (small_disk / "pool").exists()


def test_an_interrupted_import_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "src"
    for number in range(4):
        write_tar(source / f"{number}.tar", [sample(f"{number}{n}", text=f"{number} {n}") for n in range(3)])
    whole = run(source, tmp_path / "whole")
    read: list[str] = []

    def stopping(unit: Any) -> Any:
        read.append(unit.name)
        if len(read) == 3:
            raise KeyboardInterrupt
        return _tars.import_tar(unit)

    monkeypatch.setattr("curate._ingest_pool.import_tar", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "pool")
    assert not (tmp_path / "pool").exists()
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / ".pool.headwater" / "parts").iterdir()}
    assert {"000000.json", "000001.json"} <= kept.keys()
    again = run(source, tmp_path / "pool")
    assert again.step.identity == whole.step.identity
    assert not (tmp_path / ".pool.headwater").exists()


@pytest.mark.parametrize("start", range(0, 120, 10))
def test_damaged_bytes_of_a_table_never_end_in_another_kind_of_error(
    tmp_path: Path, tiny_pool: Any, start: int
) -> None:
    path = tiny_pool(rows=40, shards=1)
    whole = (path / "00000000.parquet").read_bytes()
    random = np.random.default_rng(start)
    for number in range(start, start + 10):
        damaged = bytearray(whole)
        for at in random.integers(0, len(whole), 1 + number % 5):
            damaged[at] ^= 1 << int(random.integers(8))
        (path / "00000000.parquet").write_bytes(damaged)
        validate_pool(path, deep=True, executor=SERIAL)
        try:
            run(path, tmp_path / f"out{number}", on_bad="drop")
        except (IntegrityError, UsageError):
            assert not (tmp_path / f"out{number}").exists()
