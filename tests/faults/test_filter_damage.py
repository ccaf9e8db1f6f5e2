"""Shards with flipped bits, or cut short (rows 35 and 36 of the catalogue)."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from headwater.manifest import Manifest, describe_folder
from tests.faults import kit

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
    line = (
        "filter-pool",
        pool,
        "-o",
        tmp_path / "out.npy",
        "--name",
        "no_filter",
        "--dry-run",
        "--distrust-cache",
    )
    assert kit.run(*line).code == 0
    shard = pool / "00000001.parquet"
    for at in range(0, shard.stat().st_size, 61):
        flip(shard, at)
        assert kit.run(*line).code == 13, at
        flip(shard, at)
    assert kit.run(*line).code == 0


def test_row_35_without_a_digest_to_compare_a_damaged_page_is_not_a_wrong_answer_made_quietly(
    tmp_path: Path,
) -> None:
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
