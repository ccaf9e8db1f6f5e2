"""Lists of shards, the index, and one sample read back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from curate.shards import (
    as_shard,
    build_index,
    find_in_index,
    index_path,
    list_shards,
    load_index,
    number_in,
    read_sample,
    save_index,
)
from headwater.errors import IntegrityError, MissingInput, UsageError
from tests.curate.shard_kit import content, make_pool, run, samples


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return make_pool(tmp_path / "in")


def test_index_gives_the_same_output_and_is_dropped_when_stale(pool: Path, tmp_path: Path) -> None:
    cache = tmp_path / "index"
    run(pool, tmp_path / "plain", shard_size=20)
    for name in ("first", "second"):
        run(pool, tmp_path / name, shard_size=20, index_dir=cache)
        assert content(tmp_path / name) == content(tmp_path / "plain")
    shard = list_shards(pool)[0][0]
    assert load_index(cache, shard) is not None
    os.utime(shard.path, ns=(1, 1))
    assert load_index(cache, as_shard(shard.path)) is None
    index_path(cache, shard).write_bytes(b"PAR1 not really")
    assert load_index(cache, shard) is None


def test_one_sample_read_back_through_the_index(pool: Path, tmp_path: Path) -> None:
    shard = list_shards(pool)[0][1]
    save_index(tmp_path / "index", shard, build_index(shard, sha256="ab" * 32))
    table = load_index(tmp_path / "index", shard)
    given = dict(samples(range(1, 161)))
    for number in (41, 60, 80):
        [(offset, length)] = find_in_index(table, 0, number)
        assert read_sample(shard.path, offset, length) == {
            e: given[f"{number:09d}.{e}"] for e in ("jpg", "txt", "json")
        }
    assert find_in_index(table, 0, 1) == []
    with pytest.raises(IntegrityError):
        read_sample(shard.path, shard.size_bytes + 512, 4096)


def test_listing(pool: Path, tmp_path: Path) -> None:
    (pool / "00000001.tar").unlink()
    (pool / "extra.tar").write_bytes(b"")
    shards, notes = list_shards(pool)
    assert [shard.name for shard in shards] == ["00000000.tar", "00000002.tar", "00000003.tar"]
    assert len(notes) == 2 and "00000001.tar" in notes[0] and "extra.tar" in notes[1]
    assert [shard.name for shard in list_shards(pool, first_shard=2, num_shards=1)[0]] == ["00000002.tar"]
    with pytest.raises(MissingInput):
        list_shards(pool, first_shard=9)
    with pytest.raises(MissingInput):
        list_shards(tmp_path / "nowhere")
    assert number_in("00000012.tar", "{:08d}.tar") == 12 and number_in("12.tar", "{:08d}.tar") is None
    with pytest.raises(UsageError):
        number_in("x", "no number")
