"""`pool describe`: figures equal those computed row by row, in bounded memory, also for awkward pools."""

from __future__ import annotations

import json
import statistics
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate._keys import Keys, rows_among
from curate._npz import npz_arrays
from curate._numbers import ValueCounts
from curate.describe import describe_pool, render
from curate.pool import Pool
from headwater.errors import IntegrityError


def rows_of(pool: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(pool.glob("*.parquet")) for row in pq.ParquetFile(path).read().to_pylist()]


def column(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in found["columns"] if entry["name"] == name)


def test_figures_equal_a_plain_count(tiny_pool: Any) -> None:
    path = tiny_pool(rows=200, shards=3)
    rows = rows_of(path)
    found = describe_pool(Pool.open(path))
    assert (found["rows"], found["shards"]) == (200, 3)
    widths = [row["original_width"] for row in rows]
    width = column(found, "original_width")
    assert (width["min"], width["median"], width["max"]) == (
        min(widths),
        statistics.median_low(widths),
        max(widths),
    )
    assert width["distinct"] == len(set(widths))
    assert sum(width["histogram"]["counts"]) == 200
    captions = [row["text"] for row in rows if row["text"] is not None]
    text = found["captions"]
    assert text["nulls"] == 200 - len(captions)
    assert text["empty"] == captions.count("")
    assert text["distinct"] == len(set(captions))
    counts = Counter(captions)
    assert [entry["rows"] for entry in text["top"]] == sorted(counts.values(), reverse=True)[:10]
    assert all(counts[entry["text"]] == entry["rows"] for entry in text["top"])
    assert len({entry["text"] for entry in text["top"]}) == 10
    words = [len(caption.split()) for caption in captions]
    chars = [len(caption) for caption in captions]
    assert (text["words"]["min"], text["words"]["max"]) == (min(words), max(words))
    assert (text["chars"]["median"], text["chars"]["max"]) == (statistics.median_low(chars), max(chars))
    assert found["uid"] == {
        "distinct": 200,
        "repeated": 0,
        "rows_repeated": 0,
        "exact": True,
        "malformed_or_null": 0,
    }
    json.dumps(found, allow_nan=False)


def test_nan_null_and_infinite_scores_and_the_float16_grid(tmp_path: Path) -> None:
    on_grid = np.array([0.1, 0.2, 0.3], np.float16).astype(np.float32)
    scores = pa.array([*on_grid.tolist(), None, float("nan"), float("inf")], pa.float32())
    off = pa.array([0.1] * 6, pa.float32())
    uid = pa.array([f"{n:032x}" for n in range(6)])
    pq.write_table(
        pa.table({"uid": uid, "text": ["t"] * 6, "on": scores, "off": off}), tmp_path / "a.parquet"
    )
    found = describe_pool(Pool.open(tmp_path))
    entry = column(found, "on")
    assert (entry["nulls"], entry["nan"], entry["infinite"]) == (1, 1, 1)
    assert (entry["min"], entry["max"]) == (pytest.approx(float(on_grid[0])), "inf")
    assert entry["float16_grid"] is True
    assert column(found, "off")["float16_grid"] is False
    json.dumps(found, allow_nan=False)


def test_repeated_uids_and_digests(tmp_path: Path) -> None:
    uid = ["0" * 32, "0" * 32, "1" * 32, "BAD", None]
    sha = ["a" * 64, "a" * 64, "b" * 64, "b" * 63 + "c", None]
    pq.write_table(pa.table({"uid": uid, "text": list("abcde"), "sha256": sha}), tmp_path / "a.parquet")
    found = describe_pool(Pool.open(tmp_path))
    assert found["uid"] == {
        "distinct": 2,
        "repeated": 1,
        "rows_repeated": 2,
        "exact": True,
        "malformed_or_null": 2,
    }
    assert found["sha256"]["repeated"] == 2  # equal in the first 128 bits, as the answer says
    assert found["sha256"]["compared"] == "first 128 bits"
    assert found["sha256"]["nulls"] == 1


def test_features_sidecars_and_index_are_told(tiny_pool: Any) -> None:
    path = tiny_pool(rows=20, shards=2)
    np.savez(path / "00000000.npz", l14_img=np.zeros((10, 8), np.float16))
    pool = Pool.open(path)
    folder = pool.cache / "scores" / "words-v1-00000000"
    folder.mkdir(parents=True)
    for shard, sha in ((pool.shards[0], pool.digests(pool.shards[0]).sha256), (pool.shards[1], "0" * 64)):
        table = pa.table({"uid": ["0" * 32] * 10, "n": [1] * 10})
        facts = json.dumps({"shard_sha256": sha}).encode()
        pq.write_table(table.replace_schema_metadata({b"headwater": facts}), folder / f"{shard.name}.parquet")
    found = describe_pool(pool)
    start = {"name": "l14_img", "dtype": "float16", "row_shape": [8], "shards": 1, "rows": 10, "fits": True}
    assert {k: v for k, v in found["features"][0].items() if k != "size_bytes"} == start
    (sidecar,) = found["sidecars"]
    assert (sidecar["name"], sidecar["columns"], sidecar["shards"], sidecar["stale"]) == (
        "words-v1-00000000",
        ["n"],
        1,
        1,
    )
    assert found["index"] is None
    text = render(found)
    for word in ("l14_img", "words-v1-00000000", "1 stale", found["id"], "clip_l14_similarity_score"):
        assert word in text


def test_empty_pools_and_pools_without_captions(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert describe_pool(Pool.open(tmp_path / "none"))["rows"] == 0
    (tmp_path / "bare").mkdir()
    pq.write_table(pa.table({"uid": pa.array([], pa.string())}), tmp_path / "bare" / "a.parquet")
    found = describe_pool(Pool.open(tmp_path / "bare"))
    assert found["captions"] is None
    assert render(found)


def test_drift_and_missing_columns_are_told_not_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uid": ["0" * 32], "v": pa.array([1.5], pa.float32())}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"uid": ["1" * 32], "v": pa.array([2.5], pa.float64())}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"uid": ["2" * 32]}), tmp_path / "c.parquet")
    entry = column(describe_pool(Pool.open(tmp_path)), "v")
    assert (entry["types"], entry["missing_in"], entry["max"]) == (["float", "double"], ["c"], 2.5)


def test_a_damaged_page_names_its_shard(tiny_pool: Any) -> None:
    path = tiny_pool(rows=60, shards=2)
    shard = path / "00000001.parquet"
    chunk = pq.read_metadata(shard).row_group(0).column(0)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data = bytearray(shard.read_bytes())
    data[start : start + 12] = b"\xff" * 12
    shard.write_bytes(data)
    with pytest.raises(IntegrityError, match="shard 00000001"):
        describe_pool(Pool.open(path))


def test_control_characters_of_a_caption_do_not_reach_the_terminal(tmp_path: Path) -> None:
    table = pa.table({"uid": [f"{n:032x}" for n in range(2)], "text": ["\x1b[31mred\x07\u202e"] * 2})
    pq.write_table(table, tmp_path / "a.parquet")
    text = render(describe_pool(Pool.open(tmp_path)))
    assert "\x1b" not in text
    assert "\u202e" not in text


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 2), st.sampled_from([1 << 30, 64]))
def test_repeated_keys_are_exact_in_memory_and_in_files(numbers: list[int], words: int, budget: int) -> None:
    keys = np.zeros((len(numbers), words), np.uint64)
    keys[:, -1] = numbers
    with Keys(words, len(numbers), budget_bytes=budget) as store:
        for start in range(0, len(numbers), 7):
            store.add(keys[start : start + 7])
        found = {
            int(k[-1]): int(n)
            for block, counts in store.repeated()
            for k, n in zip(block, counts, strict=True)
        }
    assert found == {number: n for number, n in Counter(numbers).items() if n > 1}
    assert store.distinct == len(set(numbers))


def test_rows_among_compares_both_words() -> None:
    keys = np.array([[1, 1], [1, 2], [2, 1], [1, 1]], np.uint64)
    assert rows_among(keys, np.array([[1, 1]], np.uint64)).tolist() == [0, 3]
    assert rows_among(keys, np.zeros((0, 2), np.uint64)).tolist() == []


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=200))
def test_quantiles_are_exact_or_say_how_far_off_they_are(values: list[float]) -> None:
    exact, cut = ValueCounts(), ValueCounts(max_values=8)
    for counts in (exact, cut):
        for start in range(0, len(values), 16):
            counts.add(np.array(values[start : start + 16], np.float32))
    ordered = sorted(values)
    for share in (0.0, 0.3, 0.5, 1.0):
        true = ordered[int(share * (len(values) - 1))]
        assert exact.exact
        assert exact.quantile(share) == true
        guess = cut.quantile(share)
        assert guess is not None
        assert abs(guess - true) <= abs(true) * cut.relative_error + 5e-324


def test_npz_headers_of_all_versions(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", b=np.zeros((3, 2), np.float32), a=np.zeros(3, np.float16))
    assert [(x.name, x.shape, x.dtype, x.rows, x.compressed) for x in npz_arrays(tmp_path / "a.npz")] == [
        ("a", (3,), "float16", 3, True),
        ("b", (3, 2), "float32", 3, True),
    ]
    (tmp_path / "b.npz").write_bytes(b"no zip")
    with pytest.raises(IntegrityError, match=r"b\.npz: not a readable npz"):
        npz_arrays(tmp_path / "b.npz")


def test_golden_pool_with_features(golden: Path, tmp_path: Path) -> None:
    found = describe_pool(Pool.open(golden / "pool_npz", cache=tmp_path / "cache"))
    assert found["rows"] == 1500
    assert [entry["name"] for entry in found["features"]] == [
        "b32_img",
        "b32_txt",
        "dedup",
        "l14_img",
        "l14_txt",
    ]
    assert column(found, "clip_l14_similarity_score")["float16_grid"] is True


def test_a_packed_member_whose_bytes_are_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, l14_img=np.arange(4000, dtype=np.float32).reshape(-1, 4))
    data = bytearray(path.read_bytes())
    names, extra = struct.unpack("<HH", data[26:30])
    start = 30 + names + extra
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"a\.npz: not a readable npz"):
        npz_arrays(path)
