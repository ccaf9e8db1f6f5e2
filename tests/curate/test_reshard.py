"""Reshard: counts that close, and bytes that depend on nothing but contents."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate import _tarwrite
from curate._wanted import open_wanted, save_wanted
from curate.reshard import process_map, reshard
from curate.shards import (
    list_shards,
)
from headwater.errors import IntegrityError, UsageError
from tests.curate.shard_kit import content, make_pool, run, samples, subset, text_of, write_tar


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return make_pool(tmp_path / "in")


def test_counts_close_and_repeats_are_numbered(pool: Path, tmp_path: Path) -> None:
    result = run(pool, tmp_path / "out", shard_size=25)
    assert (result.samples_read, result.selected, result.not_selected, result.invalid) == (160, 55, 105, {})
    assert result.copies == sum(shard.samples for shard in result.shards) == 57 + 1
    assert result.not_found_examples == (f"{1000:032x}",)
    names = []
    for shard in result.shards:
        with tarfile.open(tmp_path / "out" / shard.name) as file:
            names += file.getnames()
            assert len(file.getnames()) == 3 * shard.samples
    assert [n for n in names if n.startswith(f"{7:032x}") and n.endswith("txt")] == [
        f"{7:032x}-{k}.txt" for k in range(4)
    ]
    assert [shard.samples for shard in result.shards] == [25, 25, 8]


def test_contents_are_the_inputs_bytes(pool: Path, tmp_path: Path) -> None:
    run(pool, tmp_path / "out")
    given = dict(samples(range(1, 161)))
    with tarfile.open(tmp_path / "out" / "00000000.tar") as file:
        for info in file:
            number, extension = int(info.name[:32], 16), info.name.split(".", 1)[1]
            assert file.extractfile(info).read() == given[f"{number:09d}.{extension}"]  # type: ignore[union-attr]


def test_padding_and_headers_hold_nothing_of_the_input(pool: Path, tmp_path: Path) -> None:
    raw = bytearray((pool / "00000000.tar").read_bytes())
    with tarfile.open(pool / "00000000.tar") as file:
        for info in file:
            end = info.offset_data + info.size
            raw[end : -(-end // 512) * 512] = b"S" * (-end % 512)
    run(pool, tmp_path / "clean")
    (pool / "00000000.tar").write_bytes(raw)
    run(pool, tmp_path / "dirty")
    assert content(tmp_path / "clean") == content(tmp_path / "dirty")


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_do_not_change_a_byte(pool: Path, tmp_path: Path, workers: int) -> None:
    run(pool, tmp_path / "one", shard_size=10)
    run(pool, tmp_path / "many", shard_size=10, workers=workers)
    assert content(tmp_path / "one") == content(tmp_path / "many")


def test_small_batches_and_streamed_members_write_the_same(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(pool, tmp_path / "one")
    monkeypatch.setattr(_tarwrite, "CHUNK_BYTES", 512)
    run(pool, tmp_path / "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_cut_by_bytes(pool: Path, tmp_path: Path) -> None:
    result = run(pool, tmp_path / "out", max_bytes=5000)
    sizes = []
    for shard in result.shards:
        with tarfile.open(tmp_path / "out" / shard.name) as file:
            per_copy: dict[str, int] = {}
            for info in file:
                key = info.name.split(".")[0]
                per_copy[key] = per_copy.get(key, 0) + info.size
        sizes.append(list(per_copy.values()))
    # a shard is closed by the copy that brings it to the limit
    assert all(sum(copies) >= 5000 and sum(copies[:-1]) < 5000 for copies in sizes[:-1]) and len(sizes) > 3


def test_nothing_selected(pool: Path, tmp_path: Path) -> None:
    for name, wanted in (("none", subset([5000])), ("empty", subset([]))):
        wanted = wanted.astype("u8,u8") if len(wanted) else np.empty(0, "u8,u8")
        result = run(pool, tmp_path / name, wanted)
        assert result.shards == () and result.not_selected == 160
        assert set(content(tmp_path / name)) == {"meta.json", "sample_ids.npy", "sizes.json"}


@pytest.mark.parametrize("at", [1, 5, 7, 159])
def test_an_unsorted_subset_is_refused_by_row(
    pool: Path, tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curate._wanted.BLOCK_ROWS", 5)
    wanted = subset(range(1, 161))
    wanted[[at - 1, at]] = wanted[[at, at - 1]]
    with pytest.raises(UsageError, match=rf"not sorted: row {at} "):
        run(pool, tmp_path / "out", wanted)


@pytest.mark.parametrize("block", [1, 2, 3, 1000])
def test_wanted_table(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate._wanted.BLOCK_ROWS", block)
    wide = 1 << 64
    wanted = subset([3, 3, 3, 4, wide + 1, wide + 2, wide + 2, wide + 9, 7 * wide])
    digest = save_wanted(tmp_path, wanted)
    table = open_wanted(tmp_path)
    assert list(zip(table.hi.tolist(), table.lo.tolist(), table.copies.tolist(), strict=True)) == [
        (0, 3, 3),
        (0, 4, 1),
        (1, 1, 1),
        (1, 2, 2),
        (1, 9, 1),
        (7, 0, 1),
    ]
    hi, lo = (
        np.array([0, 0, 0, 1, 1, 1, 7, 8, 7], np.uint64),
        np.array([3, 4, 5, 9, 2, 3, 0, 0, 1], np.uint64),
    )
    assert table.find(hi, lo).tolist() == [0, 1, -1, 4, 3, -1, 5, -1, -1]
    assert len(digest) == 64


def test_wrong_subset_type(pool: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="u8,u8"):
        run(pool, tmp_path / "out", np.zeros((3, 2), np.uint64))


def test_folder_with_other_things_is_refused(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "holiday.jpg").write_bytes(b"1")
    with pytest.raises(UsageError, match="holiday.jpg"):
        run(pool, tmp_path / "out")
    assert (tmp_path / "out" / "holiday.jpg").read_bytes() == b"1"


def test_damaged_shard_finishes_and_is_named(pool: Path, tmp_path: Path) -> None:
    raw = (pool / "00000002.tar").read_bytes()
    with tarfile.open(pool / "00000002.tar") as file:
        cut = {info.name: info.offset_data for info in file}[f"{100:09d}.json"] + 5
    (pool / "00000002.tar").write_bytes(raw[:cut])
    result = run(pool, tmp_path / "out", subset(range(1, 161)))
    assert result.selected == 80 + 19 + 40 and result.invalid == {"truncated": 1}
    assert result.samples_read == result.selected + result.not_selected + 1
    assert [problem.shard for problem in result.damaged] == ["00000002.tar"]
    error = result.bad_inputs()
    assert error is not None and error.exit_code == 3 and "00000002.tar at byte" in error.message
    assert "00000002.tar: 20 samples, its statistics say 40" in result.notes


def test_lying_header_stops_before_anything_is_written(pool: Path, tmp_path: Path) -> None:
    raw = bytearray((pool / "00000003.tar").read_bytes())
    raw[0] ^= 1
    (pool / "00000003.tar").write_bytes(raw)
    with pytest.raises(IntegrityError, match=r"00000003\.tar: at byte 0: header checksum"):
        run(pool, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tar"))


def test_invalid_samples_by_reason(tmp_path: Path) -> None:
    rows = [
        ("a.jpg", b"1"),
        ("b.json", b"{"),
        ("c.json", b"{}"),
        ("d.json", b'{"uid": "12"}'),
        ("e.json", text_of(1)),
    ]
    rows += [("f.json", text_of(2)), ("f.x\\y", b"1")]
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in" / "x.tar", rows)
    result = run(tmp_path / "in", tmp_path / "out", subset([1, 2]))
    assert result.invalid == dict.fromkeys(("bad_json", "bad_name", "bad_uid", "no_json", "no_uid"), 1)
    assert (result.samples_read, result.selected) == (6, 1)


def test_a_sample_split_over_two_shards_is_reported(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in" / "a.tar", [("k.jpg", b"1"), ("k.json", text_of(1))])
    write_tar(tmp_path / "in" / "b.tar", [("k.txt", b"t"), ("l.json", text_of(1))])
    result = run(tmp_path / "in", tmp_path / "out", subset([1]))
    assert result.invalid == {"no_json": 1} and result.repeated == 1 and result.copies == 2


def test_pickles_pass_through_and_long_names_fit(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    long = "x" * 120
    trap = b"cos\nsystem\n(S'touch trapped'\ntR."
    rows = [
        ("a.json", text_of(1)),
        ("a.pkl", trap),
        ("a.pyd", trap),
        ("a.pt", trap),
        (f"a.{long}", b"1" * 700),
    ]
    write_tar(tmp_path / "in" / "a.tar", rows, form=tarfile.GNU_FORMAT)
    run(tmp_path / "in", tmp_path / "out", subset([1, 1]))
    with tarfile.open(tmp_path / "out" / "00000000.tar") as file:
        found = {info.name: file.extractfile(info).read() for info in file}  # type: ignore[union-attr]
    expected = {f"{1:032x}-{k}.{name[2:]}": data for k in (0, 1) for name, data in rows}
    assert found == expected and not (tmp_path / "trapped").exists()
    again, _ = list_shards(tmp_path / "out")
    (tmp_path / "again").mkdir()
    assert reshard(again, subset([1]), tmp_path / "again").selected == 2


def test_sizes_beyond_octal_get_a_pax_record() -> None:
    raw = _tarwrite._special_header("u-0.jpg", 9 << 30)
    info = tarfile.TarInfo.frombuf(raw[1024:], "utf-8", "strict")
    assert b" size=9663676416\n" in raw and info.name == "u-0.jpg" and len(raw) == 1536


def test_our_headers_equal_the_standard_librarys() -> None:
    names = np.zeros((3, 100), np.uint8)
    sizes = np.array([0, 511, 8**11 - 1])
    for row in range(3):
        names[row, : 5 + row] = np.frombuffer(b"a.jpegs"[: 5 + row], np.uint8)
    for row, head in enumerate(_tarwrite.headers(names, sizes)):
        info = tarfile.TarInfo.frombuf(head.tobytes(), "ascii", "strict")
        expected = tarfile.TarInfo("a.jpegs"[: 5 + row])
        expected.size = int(sizes[row])
        assert info.get_info() == {**expected.get_info(), "chksum": info.chksum}
        mine, theirs = bytearray(head.tobytes()), bytearray(expected.tobuf(tarfile.USTAR_FORMAT))
        mine[148:156] = theirs[148:156] = bytes(8)
        mine[329:345] = theirs[329:345] = bytes(16)  # device numbers of a file: none
        assert mine == theirs


@pytest.mark.parametrize(
    "options", [{"shard_size": 0}, {"shard_format": "x.tar"}, {"shard_format": "../{}.tar"}]
)
def test_options_that_make_no_sense(pool: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        run(pool, tmp_path / "out", **options)


def test_the_pool_map_keeps_the_order() -> None:
    assert list(process_map(2)(abs, range(-5, 5))) == [abs(n) for n in range(-5, 5)]
