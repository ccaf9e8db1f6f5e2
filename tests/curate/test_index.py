"""The side index: the same answers as the shards, no number wrapped, and never believed when it does not fit."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.index import OWN_COLUMNS, build_index, index_path, index_view
from curate.pool import Pool
from curate.sidecars import METADATA_KEY
from headwater.errors import IntegrityError
from headwater.executor import Executor
from tests.conftest import ODD_CAPTIONS, PoolBuilder
from tests.curate.filter_kit import Heard, listening, run_filter, uid, write_pool

EDGES = [0, 1, 254, 255, 256, 65534, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1]
EDGES += [-1, -128, -(2**31) - 1, -(2**63)]


def pool_of(folder: Path, **columns: Any) -> Path:
    count = len(next(iter(columns.values())))
    return write_pool(folder, {"s1": pa.table({"uid": [uid(7 * n % 97) for n in range(count)]} | columns)})


def indexed(pool: Path, cache: Path) -> Pool:
    opened = Pool.open(pool, cache=cache)
    build_index(opened, Executor("serial"))
    return opened


def both(pool: Path, keep: list[Any], folder: Path) -> tuple[Any, Any]:
    plain, index = (
        run_filter(pool, keep, folder / name, index=name == "index") for name in ("plain", "index")
    )
    assert plain.refused is None and index.refused is None, (plain.refused, index.refused)
    assert (index.data, index.counts) == (plain.data, plain.counts)
    return plain, index


RULES = {
    "sizes": [{"sql": "original_width >= 200 and original_height < 1000"}],
    "captions": [{"sql": "n_words > 2"}, {"sql": "n_chars > 5"}],
    "top": [{"top": {"column": "clip_l14_similarity_score", "fraction": 0.3}}],
    "top of sizes": [{"top": {"column": "original_width", "fraction": 0.3}}],
    "exact k of words": [{"exact_k": {"column": "n_words", "k": 5}}],
    "in": [{"in": {"column": "original_width", "values": [70000, -1, 2**40, 300, 301, 302]}}],
    "dedup": [{"dedup": {"by": ["n_words"], "order": {"clip_b32_similarity_score": "desc"}}}],
    "sample": [{"sample": {"fraction": 0.5}}, {"sql": "n_words is null or n_chars > 9"}],
}


@pytest.mark.parametrize("name", RULES)
def test_the_index_gives_the_same_subset(name: str, tiny_pool: PoolBuilder, tmp_path: Path) -> None:
    _, index = both(tiny_pool(rows=120, shards=3), RULES[name], tmp_path)
    assert index.details["shards_from_index"] == 3


def test_columns_that_the_index_lacks_are_read_from_the_shard(tiny_pool: PoolBuilder, tmp_path: Path) -> None:
    _, index = both(tiny_pool(), [{"sql": "url like '%3.jpg' and n_words > 0"}], tmp_path)
    assert index.details["shards_from_index"] == 0


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.one_of(st.sampled_from(EDGES), st.none()), min_size=1, max_size=12))
def test_sizes_never_wrap(sizes: list[int | None], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("sizes")
    pool = pool_of(folder / "pool", original_width=pa.array(sizes, pa.int64()))
    opened = indexed(pool, folder / "cache")
    view = index_view(opened.cache, opened.shards[0], opened.digests(opened.shards[0]).sha256)
    assert view is not None
    found: dict[int, int | None] = {}
    for block in view.blocks():
        column = block.column("original_width")
        values = column.tolist() if isinstance(column, np.ndarray) else column.to_pylist()
        found |= dict(zip(block.row_numbers().tolist(), values, strict=True))
    assert [found[row] for row in range(len(sizes))] == sizes


@pytest.mark.parametrize("type_", [pa.uint64(), pa.int8(), pa.uint16(), pa.int32()], ids=str)
def test_other_integer_types(type_: pa.DataType, tmp_path: Path) -> None:
    bounds = np.iinfo(type_.to_pandas_dtype())
    sizes = pa.array([bounds.min, bounds.max, 0, 100, 7], type_)
    pool = pool_of(tmp_path / "pool", original_width=sizes)
    both(pool, [{"exact_k": {"column": "original_width", "k": 2}}], tmp_path / "k")
    both(pool, [{"sql": "original_width >= 7"}], tmp_path / "sql")
    both(pool, [{"top": {"column": "original_width", "threshold": 7}}], tmp_path / "top")


def test_a_pools_own_columns_win_over_the_names_of_the_index(tmp_path: Path) -> None:
    count = 30
    own = {name: pa.array(np.arange(count) % 7, pa.int64()) for name in sorted(OWN_COLUMNS - {"n_chars"})}
    own["n_chars"] = pa.array(np.arange(count) % 5, pa.float32())
    own["text"] = pa.array(["five words are in here"] * count)
    pool = pool_of(tmp_path / "pool", **own)
    for name in sorted(OWN_COLUMNS):
        plain, _ = both(pool, [{"sql": f"{name} < 3"}], tmp_path / name)
        assert 0 < len(plain.uids) < count


def test_index_files_are_plain_sorted_parquet(tiny_pool: PoolBuilder, tmp_path: Path) -> None:
    pool = indexed(tiny_pool(rows=64, shards=2), tmp_path / "cache")
    for shard in pool.shards:
        table = pq.ParquetFile(index_path(pool.cache, shard.name)).read()
        uids = pq.ParquetFile(shard.path).read(["uid"])["uid"].to_pylist()
        order = table["row"].to_pylist()
        pairs = list(zip(table["uid_hi"].to_pylist(), table["uid_lo"].to_pylist(), strict=True))
        assert pairs == sorted(pairs)
        assert [f"{hi:016x}{lo:016x}" for hi, lo in pairs] == [uids[row] for row in order]
        texts = pq.ParquetFile(shard.path).read(["text"])["text"].to_pylist()
        expected = [
            (None, None) if t is None else (len(t.split()), len(t)) for t in (texts[r] for r in order)
        ]
        assert list(zip(table["n_words"].to_pylist(), table["n_chars"].to_pylist(), strict=True)) == expected
        assert table["sha256_prefix"].to_pylist() == [
            int(v[:16], 16)
            for v in pq.ParquetFile(shard.path).read(["sha256"])["sha256"].take(order).to_pylist()
        ]
        rests = [
            np.frombuffer(rest, "<u8").astype(">u8").tobytes() for rest in table["sha256_rest"].to_pylist()
        ]
        assert [rest.hex() for rest in rests] == [
            v[16:] for v in pq.ParquetFile(shard.path).read(["sha256"])["sha256"].take(order).to_pylist()
        ]


def test_building_twice_builds_nothing(tiny_pool: PoolBuilder, tmp_path: Path) -> None:
    pool = Pool.open(tiny_pool(), cache=tmp_path / "cache")
    first = build_index(pool, Executor("serial"))
    files = {s.name: index_path(pool.cache, s.name).read_bytes() for s in pool.shards}
    second = build_index(pool, Executor("serial"))
    assert (first["built"], second["built"]) == (3, 0)
    assert build_index(pool, Executor("serial"), force=True)["built"] == 3
    assert {s.name: index_path(pool.cache, s.name).read_bytes() for s in pool.shards} == files


def heard_while(pool: Path, keep: list[Any], work: Path, cache: Path) -> tuple[Any, Heard]:
    with listening() as heard:
        ran = run_filter(pool, keep, work, cache=cache)
    assert ran.refused is None, ran.refused
    return ran, heard


KEEP = [{"sql": "n_words > 2 and original_width > 500"}]


def test_an_index_of_other_bytes_is_ignored_and_told(tiny_pool: PoolBuilder, tmp_path: Path) -> None:
    pool = tiny_pool(seed=1)
    cache = tmp_path / "cache"
    indexed(pool, cache)
    replaced = tiny_pool(seed=2, name="other") / "00000001.parquet"
    os.replace(replaced, pool / "00000001.parquet")
    ran, heard = heard_while(pool, KEEP, tmp_path / "out", cache)
    assert ran.data == run_filter(pool, KEEP, tmp_path / "plain").data
    assert ran.details["shards_from_index"] == 2
    assert [w for w in heard.warnings if "index of shard 00000001 is stale" in w]


def damage_footer(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def damage_body(path: Path) -> None:
    """Page headers of every column become nonsense; the footer stays."""
    data = bytearray(path.read_bytes())
    footer = int.from_bytes(data[-8:-4], "little")
    data[4 : len(data) - 8 - footer] = b"\xff" * (len(data) - 12 - footer)
    path.write_bytes(data)


def other_metadata(path: Path) -> None:
    table = pq.ParquetFile(path).read()
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: b"[1, 2]"}), path)


def fewer_rows(path: Path) -> None:
    table = pq.ParquetFile(path).read()
    pq.write_table(table.slice(1), path)


def nothing(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_footer, damage_body, other_metadata, fewer_rows, nothing])
def test_a_damaged_index_is_ignored_and_told(damage: Any, tiny_pool: PoolBuilder, tmp_path: Path) -> None:
    pool, cache = tiny_pool(), tmp_path / "cache"
    expected = run_filter(pool, KEEP, tmp_path / "plain")
    path = index_path(indexed(pool, cache).cache, "00000000")
    damage(path)
    ran, heard = heard_while(pool, KEEP, tmp_path / "out", cache)
    assert (ran.data, ran.counts) == (expected.data, expected.counts)
    assert ran.details["shards_from_index"] == 2
    assert any("index" in w and "ignored" in w for w in heard.warnings), heard.warnings
    if damage is not damage_body:  # what the footer tells is looked at before building
        assert build_index(Pool.open(pool, cache=cache), Executor("serial"))["built"] == 1


def test_an_index_that_was_replaced_is_read_anew(tiny_pool: PoolBuilder, tmp_path: Path) -> None:
    pool, cache = tiny_pool(seed=1), tmp_path / "cache"
    for seed in (1, 2, 3):
        if seed > 1:
            for file in tiny_pool(seed=seed, name=f"p{seed}").iterdir():
                os.replace(file, pool / file.name)
        indexed(pool, cache)
        ran = run_filter(pool, KEEP, tmp_path / f"i{seed}", cache=cache)
        assert ran.details["shards_from_index"] == 3
        assert ran.data == run_filter(pool, KEEP, tmp_path / f"r{seed}").data


def test_a_pool_that_cannot_be_written(tiny_pool: PoolBuilder, tmp_path: Path) -> None:
    pool = tiny_pool()
    before = sorted(p.name for p in pool.rglob("*"))
    pool.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        opened = indexed(pool, tmp_path / "elsewhere")
        ran = run_filter(pool, KEEP, tmp_path / "out", cache=opened.cache)
        assert ran.details["shards_from_index"] == 3
        assert sorted(p.name for p in pool.rglob("*")) == before
    finally:
        pool.chmod(stat.S_IRWXU)


def test_a_malformed_uid_ends_the_building(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", {"s1": pa.table({"uid": [uid(1), None]})})
    with pytest.raises(IntegrityError, match="shard s1, column uid, row 1"):
        indexed(pool, tmp_path / "cache")


def test_empty_shards_and_captions_of_every_kind(tmp_path: Path) -> None:
    texts = pa.array([*ODD_CAPTIONS, *ODD_CAPTIONS], pa.large_string())
    full = pa.table({"uid": [uid(n) for n in range(len(texts))], "text": texts})
    pool = write_pool(tmp_path / "pool", {"a": full, "b": full.slice(0, 0)}, rows_per_group=5)
    _, index = both(pool, [{"sql": "n_words > 1 and n_chars < 100"}], tmp_path)
    assert index.details["shards_from_index"] == 2


def test_shards_with_integers_of_other_widths_are_deduplicated_together(tmp_path: Path) -> None:
    small = pa.table({"uid": [uid(n) for n in range(4)], "original_width": [1, 2, 3, 300]})
    wide = pa.table({"uid": [uid(n) for n in range(4, 9)], "original_width": [1, 2**40, -1, -1, 300]})
    pool = write_pool(tmp_path / "pool", {"a": small, "b": wide})
    plain, index = both(pool, [{"dedup": {"by": ["original_width"]}}], tmp_path)
    assert index.details["shards_from_index"] == 2
    assert [int(u, 16) for u in plain.uids] == [0, 1, 2, 3, 5, 6]
    some = run_filter(
        pool, [{"dedup": {"by": ["original_width"]}}], tmp_path / "some", index=True, unindexed=1
    )
    assert some.details["shards_from_index"] == 1 and some.data == plain.data
