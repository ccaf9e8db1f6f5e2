"""Scans count what is there: pictures by their headers, paths and names, identity, and files beside the tars."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from headwater.errors import MissingInput, UsageError
from tests.train.kit import picture, write_shards
from tests.train.test_shardtable import pack, table_rows
from train import preflight
from train._picture_heads import decode_error, ends_well, size_in
from train._shardcheck import Spread
from train.preflight import data_id, list_sources, scan_data, sizes_json

POOL = Path(__file__).resolve().parents[2] / "examples" / "openclipart" / "pool"
# ---- pictures ----------------------------------------------------------------------------------------------


def encoded(kind: str, size: tuple[int, int], **options: Any) -> bytes:
    out = io.BytesIO()
    mode = options.pop("mode", "RGB")
    colour: Any = tuple(range(40, 40 + 30 * len(mode), 30)) if len(mode) > 1 else 90
    Image.new(mode, size, colour).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "mode": "L"}),
        ("JPEG", {"exif": b"Exif\0\0" + bytes(900)}),
        ("PNG", {}),
        ("PNG", {"mode": "RGBA"}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"mode": "RGBA"}),
        ("WEBP", {"exif": b"Exif\0\0" + bytes(90)}),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (17, 300), (640, 33)])
def test_sizes_from_the_first_bytes(kind: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    data = encoded(kind, size, **options)
    assert size_in(data[:2048]) == size
    assert ends_well(data[:2048], data[-64:], len(data))
    assert decode_error(data, 640 * 640) is None


def test_a_table_before_the_frame_is_no_frame() -> None:
    """A Huffman table (marker C4) may come before the frame header, and lies in the same range of markers."""
    head = b"\xff\xd8\xff\xc4\x00\x0b" + bytes(9) + b"\xff\xff\xc2\x00\x11\x08\x01\x02\x03\x04\x03" + bytes(9)
    assert size_in(head) == (0x304, 0x102)


def test_size_behind_a_long_header_needs_decoding(tmp_path: Path) -> None:
    data = encoded("JPEG", (40, 30), icc_profile=bytes(9000))
    assert size_in(data[:2048]) is None
    (tmp_path / "a.tar").write_bytes(pack([("a.jpg", data), ("a.txt", b"t")]))
    scan = scan_data([tmp_path], workers=1, decode="headers")
    assert (scan.usable, scan.bad, scan.decoded) == (1, 0, 1)


@given(
    st.binary(max_size=64),
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8X", b""]),
)
def test_no_bytes_break_the_picture_reader(rest: bytes, start: bytes) -> None:
    sides = size_in(start + rest)
    assert sides is None or min(sides) >= 0


# ---- scans -------------------------------------------------------------------------------------------------


def test_shipped_pool() -> None:
    scan = scan_data([POOL], workers=1)
    assert [(s.name, s.samples, s.usable) for s in scan.shards] == [
        (f"{n:08d}.tar", 1000, 1000) for n in range(3)
    ]
    assert scan.problems == {"empty_caption": 1} and scan.bad == 0 and scan.warnings == []
    assert (scan.sampled, scan.sampled_bad) == (256, 0)
    keys = b"".join(f"{n:012d}\n".encode() for n in range(1000))
    assert scan.shards[0].keys_digest == hashlib.sha256(keys).hexdigest()
    assert scan.image_bytes.n == scan.caption_chars.n == scan.short_side.n == 3000
    assert sizes_json(scan) == {f"{n:08d}.tar": 1000 for n in range(3)}
    with tarfile.open(POOL / "00000001.tar") as archive:
        keyed = {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
    for key, image, text in table_rows(POOL / "00000001.tar"):
        assert (keyed[key.decode() + ".webp"], keyed[key.decode() + ".txt"]) == (image, text)


def test_scan_is_the_same_for_any_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path, samples=40, shards=3)
    alone = scan_data([tmp_path], workers=1, seed=5)
    monkeypatch.setitem(preflight.LIGHT_BYTES, "sample", 0)
    assert scan_data([tmp_path], workers=2, seed=5) == alone
    assert list(map(len, alone.sample_tables())) == [13, 13, 14]


def test_sample_is_drawn_by_seed_from_all_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path, samples=60, shards=3)
    monkeypatch.setattr("train.preflight.SAMPLE_PICTURES", 12)
    seen: list[list[tuple[int, int]]] = []

    def record(job: Any) -> list[Any]:
        seen[-1] += [(draw.shard, draw.ordinal) for draw in job.draws]
        return []

    monkeypatch.setattr("train.preflight.decode_draws", record)
    for seed in (1, 1, 2):
        seen.append([])
        assert scan_data([tmp_path], workers=1, seed=seed).sampled == 12
    assert seen[0] == seen[1] != seen[2]
    assert len(set(seen[0])) == 12 and {shard for shard, _ in seen[0]} == {0, 1, 2}


@given(st.lists(st.integers(0, 1 << 40), max_size=20), st.lists(st.integers(0, 1 << 40), max_size=20))
def test_spreads_add(a: list[int], b: list[int]) -> None:
    both = Spread.of(np.array([*a, *b], np.int64))
    assert Spread.of(np.array(a, np.int64)) + Spread.of(np.array(b, np.int64)) == both
    assert both.n == sum(both.powers.values()) and both.total == sum([*a, *b])
    assert set(both.powers) == {v.bit_length() - 1 for v in [*a, *b]}


def test_unequal_shards(tmp_path: Path) -> None:
    write_shards(tmp_path, samples=30, shards=2)
    (tmp_path / "00000002.tar").write_bytes(pack([]))
    write_shards(tmp_path / "more", samples=3, shards=1, first=100)
    os.rename(tmp_path / "more" / "00000000.tar", tmp_path / "00000003.tar")
    unequal = scan_data([tmp_path], workers=1).unequal
    assert unequal is not None
    assert (unequal.largest_usable, unequal.smallest, unequal.smallest_usable) == (15, "00000003.tar", 3)
    assert unequal.ratio == 5


# ---- paths, names, identity --------------------------------------------------------------------------------


def test_img2dataset_files_beside_the_tars_are_passed_over(tmp_path: Path) -> None:
    for number in range(2):
        image, caption = picture(number)
        rows = [
            (f"{number:09d}.png", image),
            (f"{number:09d}.txt", caption.encode()),
            (f"{number:09d}.json", b"{}"),
        ]
        (tmp_path / f"{number:05d}.tar").write_bytes(pack(rows))
        (tmp_path / f"{number:05d}.parquet").write_bytes(b"PAR1")
        (tmp_path / f"{number:05d}_stats.json").write_text(json.dumps({"successes": 1}))
    scan = scan_data([tmp_path], workers=1)
    assert (scan.usable, scan.problems, scan.warnings) == (2, {}, [])


def test_one_tar_a_pattern_and_folders(tmp_path: Path) -> None:
    write_shards(tmp_path / "x" / "s", samples=6, shards=3)
    write_shards(tmp_path / "y" / "s", samples=4, shards=1, first=50)
    first, second = tmp_path / "x" / "s", tmp_path / "y" / "s"
    names = lambda *paths: [s.name for s in scan_data(list(paths), workers=1).shards]  # noqa: E731
    assert names(first / "00000001.tar") == ["00000001.tar"]
    assert names(first / "0000000[02].tar") == ["00000000.tar", "00000002.tar"]
    assert names(second, first / "0*2.tar") == ["x/s/00000002.tar", "y/s/00000000.tar"]
    assert names(first / "00000001.tar", first / "00000000.tar") == ["00000000.tar", "00000001.tar"]
    scan = scan_data([first, second], workers=1)
    assert sizes_json(scan) == {f"x/s/0000000{n}.tar": 2 for n in range(3)} | {"y/s/00000000.tar": 4}
    assert scan.warnings == [] and scan.notes == []


def test_directories_in_member_names(tmp_path: Path) -> None:
    image, caption = picture(1)
    rows = [(f"d/e.f/{n}.{e}", d) for n in "ab" for e, d in (("png", image), ("txt", caption.encode()))]
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        folder = tarfile.TarInfo("d/e.f")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in rows:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert [key for key, *_ in table_rows(path)] == [b"d/e.f/a", b"d/e.f/b"]
    assert scan_data([path], workers=1).problems == {}


def test_paths_that_name_no_tar(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "0.tar.gz").write_bytes(b"\x1f\x8b")
    for path in ("none", "empty", "*.tar", "a.t?t"):
        with pytest.raises(MissingInput):
            list_sources([tmp_path / path])
    with pytest.raises(MissingInput) as caught:
        list_sources([tmp_path / "packed"])
    assert "unpack" in str(caught.value.hint)
    os.mkfifo(tmp_path / "pipe.tar")
    for path in ("a.txt", "pipe.tar"):
        with pytest.raises(UsageError):
            list_sources([tmp_path / path])
    write_shards(tmp_path / "s", samples=2, shards=1)
    with pytest.raises(UsageError, match="twice"):
        list_sources([tmp_path / "s", tmp_path / "s" / "0*.tar"])
    with pytest.raises(UsageError):
        list_sources([])


def test_identity_is_that_of_the_bytes(tmp_path: Path) -> None:
    from curate.resharding import default_cache, shards_id
    from curate.shards import list_shards

    first = write_shards(tmp_path / "a", samples=6, shards=2)
    again = write_shards(tmp_path / "other" / "b", samples=6, shards=2)
    ids = {data_id(list_sources([path])) for path in (first, again, first / "*.tar")}
    assert ids == {shards_id(first, list_shards(first)[0], default_cache(first))}
    both = data_id(list_sources([first, again]), cache=tmp_path / "cache")
    assert both == data_id(list_sources([again, first])) and both not in ids
    assert data_id(list_sources([first / "00000000.tar"])) not in ids


def test_files_that_state_other_sizes_are_told(tmp_path: Path) -> None:
    write_shards(tmp_path, samples=6, shards=2)
    assert scan_data([tmp_path], workers=1).warnings == []
    (tmp_path / "sizes.json").write_text('{"00000000.tar": 3, "00000001.tar": 4}')
    (tmp_path / "00000000_stats.json").write_text('{"successes": 9}')
    said = scan_data([tmp_path], workers=1).warnings
    assert len(said) == 2
    assert "00000001.tar has 3 usable samples, it says 4" in said[0] and "stated are 9" in said[1]
    for text in ("[", "[1]"):
        (tmp_path / "sizes.json").write_text(text)
        assert "cannot be used" in scan_data([tmp_path], workers=1).warnings[0]
    (tmp_path / "sizes.json").unlink()
    assert "no sizes.json" in scan_data([tmp_path], workers=1).notes[0]
