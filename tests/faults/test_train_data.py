"""Training shards with something wrong: each is named before time is spent, with the right kind of error."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from headwater import console
from headwater.errors import BadInputs, HeadwaterError, IntegrityError, UsageError
from tests.train.kit import add, picture, write_shards
from train import _shardcheck
from train.preflight import REASONS, DataScan, check_data, read_table, scan_data

Rows = list[tuple[str, bytes]]


def good(count: int, first: int = 0) -> Rows:
    rows: Rows = []
    for number in range(first, first + count):
        image, caption = picture(number)
        rows += [
            (f"{number:04d}.json", b"{}"),
            (f"{number:04d}.png", image),
            (f"{number:04d}.txt", caption.encode()),
        ]
    return rows


def shard(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in rows:
            add(archive, name, data)
    return path


def folder(path: Path, *more: Rows) -> Path:
    """A folder of one good tar with eight samples, and one tar for each of `more`."""
    for number, rows in enumerate((good(8), *more)):
        shard(path / f"{number:08d}.tar", rows)
    return path


def scan(path: Path, **options: Any) -> DataScan:
    return scan_data([path], workers=1, **options)


def check(found: DataScan, **changes: Any) -> None:
    wanted: dict[str, Any] = {
        "min_shards": 1,
        "world": 1,
        "loader_workers": 1,
        "resampled": True,
        "global_batch": 4,
        "samples_needed": 32,
        "allow_invalid": False,
    }
    check_data(found, **{**wanted, **changes})


def told(found: DataScan, **changes: Any) -> HeadwaterError:
    with pytest.raises(HeadwaterError) as caught:
        check(found, **changes)
    return caught.value


class Heard(console.Silent):
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def message(self, level: str, text: str, fields: dict[str, Any]) -> None:
        self.lines.append((level, text))

    def said(self, level: str) -> str:
        return "\n".join(text for one, text in self.lines if one == level)


@contextmanager
def hearing() -> Iterator[Heard]:
    sink = Heard()
    token = console._sink.set(sink)
    try:
        yield sink
    finally:
        console._sink.reset(token)


def png(width: int, height: int, *, body: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )


# ---- bad samples: 3, or trained without them ---------------------------------------------------------------

IMAGE, CAPTION = picture(3)
JPEG = io.BytesIO()
Image.new("RGB", (64, 64), (9, 90, 200)).save(JPEG, "JPEG")

BAD: dict[str, tuple[str, Rows]] = {
    "no caption": ("no_caption", [("bad.png", IMAGE)]),
    "no picture": ("no_image", [("bad.txt", b"words")]),
    "neither": ("no_image", [("bad.json", b"{}")]),
    "picture under another name": ("no_image", [("bad.mask.png", IMAGE), ("bad.txt", b"words")]),
    "picture of 0 bytes": ("undecodable", [("bad.png", b""), ("bad.txt", b"words")]),
    "page of an error": ("undecodable", [("bad.jpg", b"<html>404</html>"), ("bad.txt", b"words")]),
    "picture in another format": ("undecodable", [("bad.jpg", b"GIF89a" + bytes(40)), ("bad.txt", b"words")]),
    "truncated PNG": ("undecodable", [("bad.png", IMAGE[: len(IMAGE) // 2]), ("bad.txt", b"words")]),
    "truncated JPEG": ("undecodable", [("bad.jpg", JPEG.getvalue()[:-100]), ("bad.txt", b"words")]),
    "only the first bytes": ("undecodable", [("bad.jpg", JPEG.getvalue()[:4]), ("bad.txt", b"words")]),
    "no pixels": ("undecodable", [("bad.png", png(0, 9)), ("bad.txt", b"words")]),
    "declared pixel bomb": ("too_large", [("bad.png", png(60_000, 60_000)), ("bad.txt", b"words")]),
    "caption not UTF-8": ("other", [("bad.png", IMAGE), ("bad.txt", b"caf\xe9")]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_samples_are_refused_by_name_or_left_out(name: str, tmp_path: Path) -> None:
    reason, rows = BAD[name]
    found = scan(folder(tmp_path, [*good(4, 100), *rows, *good(4, 200)]), decode="headers")
    assert found.problems == {reason: 1}
    assert found.usable - found.bad == 16
    error = told(found)
    assert isinstance(error, BadInputs) and error.exit_code == 3
    assert "00000001.tar: bad: " in error.message and "--allow-invalid" in str(error.hint)
    with hearing() as heard:
        check(found, allow_invalid=True)
    again = scan(tmp_path)
    assert (again.problems, again.sampled, again.bad) == (found.problems, 16, found.bad)  # not told twice
    assert "00000001.tar: bad: " in heard.said("warning") and "16 samples in 2 shards" in heard.said("info")


def test_limits_on_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shardcheck, "MAX_IMAGE_BYTES", 5_000)
    monkeypatch.setattr(_shardcheck, "MAX_CAPTION_BYTES", 100)
    rows = [("a.png", IMAGE + bytes(6_000)), ("a.txt", b"a"), ("b.png", IMAGE), ("b.txt", b"b" * 101)]
    found = scan(folder(tmp_path, rows))
    assert found.problems == {"too_large": 2} and found.bad == 2
    assert [example.key for example in found.examples["too_large"]] == ["a", "b"]


def test_damage_inside_a_picture_needs_decoding(tmp_path: Path) -> None:
    """Its header and its end are whole: only a decoded sample, or all, shows it, and the message says that it is a sample."""
    rows = [("bad.png", png(40, 40, body=b"\0too few")), ("bad.txt", b"words")]
    path = folder(tmp_path, rows)
    assert scan(path, decode="headers").problems == {}
    found = scan(path)
    assert (found.problems, found.sampled, found.sampled_bad, found.bad) == ({"undecodable": 1}, 9, 1, 1)
    assert "of 9 pictures decoded as a sample 1 failed: of all 9 about 11.1%" in told(found).message
    every = scan(path, decode="all")
    assert (every.problems, every.decoded, every.sampled, every.bad) == ({"undecodable": 1}, 9, 0, 1)


def test_many_bad_samples_are_counted_and_few_shown(tmp_path: Path) -> None:
    rows = [(f"n{number}.png", IMAGE) for number in range(50)]
    found = scan(folder(tmp_path, [*good(1), *rows], [*good(1), *rows]))
    assert found.problems == {"no_caption": 100} and len(found.examples["no_caption"]) == 20
    message = told(found).message
    assert "100 samples without a caption" in message and "and 97 more" in message and "n3" not in message


# ---- bad tars: 13, whatever is allowed ---------------------------------------------------------------------

ORDER: dict[str, list[str]] = {
    "by kind": ["a.png", "b.png", "a.txt", "b.txt"],
    "one straggler": ["a.png", "b.png", "b.txt", "a.txt"],
    "captions apart": ["a.json", "b.json", "a.png", "a.txt", "b.png", "b.txt"],
}


@pytest.mark.parametrize("name", ORDER)
def test_wrong_order_names_tar_and_key(name: str, tmp_path: Path) -> None:
    data = {"png": IMAGE, "txt": b"words", "json": b"{}"}
    found = scan(folder(tmp_path, [(member, data[member.split(".")[1]]) for member in ORDER[name]]))
    assert "wrong_order" in found.problems
    error = told(found, allow_invalid=True)
    assert isinstance(error, IntegrityError) and error.exit_code == 13
    assert "00000001.tar: a: its members are not side by side" in error.message
    assert "--sort=name" in str(error.hint)


def test_duplicate_keys_are_no_wrong_order(tmp_path: Path) -> None:
    same = good(2, 100)
    rows = [*same, *good(1, 300), *same, *same[-3:]]
    found = scan(folder(tmp_path, rows))
    assert found.problems == {"duplicate_key": 3} and found.shards[1].usable == 6
    with hearing() as heard:
        check(found)
    assert "3 keys that occur again in their tars (00000001.tar: 0100: samples 1 and 4" in heard.said(
        "warning"
    )


CUTS = {"in a header": 700, "in a member": 512 + 512 + 512 + 60, "in the padding": 512 + 2 + 10}


@pytest.mark.parametrize("name", CUTS)
def test_truncated_tar(name: str, tmp_path: Path) -> None:
    path = folder(tmp_path, good(8, 100)) / "00000001.tar"
    raw = path.read_bytes()
    whole = 4 * (512 * 3 + 512 * 2 + -(-len(picture(100)[0]) // 512) * 512)
    path.write_bytes(raw[: whole + CUTS[name]])
    table, _ = read_table(path)
    assert len(table) <= 4 and table.keys[:3] == [b"0100", b"0101", b"0102"]
    error = told(scan(tmp_path), allow_invalid=True)
    assert isinstance(error, IntegrityError) and "1 damaged tar (" in error.message
    assert "00000001.tar" in error.message and "fetch or pack" in str(error.hint)


def test_tar_cut_between_members(tmp_path: Path) -> None:
    """No byte of it is wrong: the last sample has less than the one before, and the end mark is missing."""
    path = folder(tmp_path, good(4, 100)) / "00000001.tar"
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1].offset
    raw = path.read_bytes()
    path.write_bytes(raw[:last])
    assert scan(tmp_path).problems == {"no_caption": 1, "damaged_tar": 1}
    path.write_bytes(raw[: last + 1024])
    found = scan(tmp_path)
    assert found.problems == {"no_end_mark": 1}
    check(found)


def test_files_that_are_no_tar(tmp_path: Path) -> None:
    path = folder(tmp_path, good(8, 100)) / "00000001.tar"
    raw = path.read_bytes()
    cases = {
        "the file is empty": b"",
        "unpack it first": gzip.compress(raw),
        "is it a tar": b"PAR1" * 300,
        "checksum": raw[:5] + bytes([raw[5] ^ 1]) + raw[6:],
    }
    for text, data in cases.items():
        path.write_bytes(data)
        error = told(scan(tmp_path))
        assert isinstance(error, IntegrityError)
        assert text in error.message + str(error.hint)
        assert "00000001.tar" in error.message
    path.write_bytes(gzip.compress(raw))
    assert list(scan(tmp_path).problems) == ["compressed_tar", "empty_shard"]


def test_a_tar_that_shrinks_under_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(tmp_path) / "00000000.tar"
    real = _shardcheck.read_table

    def then_cut(target: Path) -> Any:
        found = real(target)
        os.truncate(path, 3_000)
        return found

    monkeypatch.setattr(_shardcheck, "read_table", then_cut)
    with pytest.raises(IntegrityError, match=r"00000000\.tar: became shorter"):
        scan(tmp_path)


# ---- links, empty tars and captions: said, and trained on --------------------------------------------------


def test_links_are_passed_over_and_named(tmp_path: Path) -> None:
    folder(tmp_path)
    with tarfile.open(tmp_path / "00000001.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in good(4, 100):
            add(archive, name, data)
        for kind, name in ((tarfile.SYMTYPE, "a.png"), (tarfile.LNKTYPE, "a.jpg")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            archive.addfile(link)
        add(archive, "a.txt", b"words")
    found = scan(tmp_path)
    assert found.problems == {"no_image": 1, "link_member": 2}
    assert "a link is there in its place" in told(found).message
    with hearing() as heard:
        check(found, allow_invalid=True)
    assert "a.png is a symlink" in heard.said("warning")


def test_tar_without_samples_and_empty_captions(tmp_path: Path) -> None:
    rows = [("a.png", IMAGE), ("a.txt", b""), ("b.png", IMAGE), ("b.txt", b" \n")]
    found = scan(folder(tmp_path, [], rows))
    assert found.problems == {"empty_caption": 2, "empty_shard": 1} and found.bad == 0
    with hearing() as heard:
        check(found)
    assert "1 tar without a usable sample (00000001.tar: 0 samples" in heard.said("warning")
    assert "2 empty captions" in heard.said("warning")


def test_unequal_shards_are_told_with_figures(tmp_path: Path) -> None:
    found = scan(folder(tmp_path, good(2, 100)))
    for resampled in (True, False):
        with hearing() as heard:
            check(found, resampled=resampled)
        assert ("00000001.tar has 2 usable samples, 00000000.tar 8" in heard.said("warning")) is resampled
        assert ("4.0 times as often" in heard.said("warning")) is resampled


# ---- too few: 2 --------------------------------------------------------------------------------------------


def test_fewer_shards_than_workers(tmp_path: Path) -> None:
    found = scan(write_shards(tmp_path, samples=32, shards=4))
    check(found, resampled=False, world=2, loader_workers=2)
    check(found, resampled=True, world=2, loader_workers=3)
    error = told(found, resampled=False, world=2, loader_workers=3)
    assert isinstance(error, UsageError) and error.exit_code == 2
    assert "4 shards with samples" in error.message and "2 processes x 3 loader workers = 6" in error.message
    assert "--workers 2" in str(error.hint) and "headwater reshard --shard-size 5 gives 7 shards" in str(
        error.hint
    )
    assert "at most 4 processes" in str(told(found, resampled=False, world=5, loader_workers=1).hint)


def test_empty_tars_are_no_shards_for_workers(tmp_path: Path) -> None:
    found = scan(folder(tmp_path, [], []))
    assert "1 shard with samples" in told(found, resampled=False, loader_workers=2).message
    assert "asks for at least 3" in told(found, min_shards=3).message


def test_fewer_samples_than_a_batch(tmp_path: Path) -> None:
    found = scan(folder(tmp_path, [(f"n{n}.png", IMAGE) for n in range(9)]))
    error = told(found, global_batch=9, allow_invalid=True)
    assert isinstance(error, UsageError)
    assert "8 trainable samples are fewer than one batch of 9" in error.message
    assert "9 samples without a caption" in str(error.hint)
    nothing = scan(folder(tmp_path / "none", [])).shards[1:]
    assert [s.usable for s in nothing] == [0]


def test_every_reason_has_words_and_the_ledger_knows_those_of_samples() -> None:
    from train._datacheck import _WORDS, BAD_SAMPLES
    from train.ledger import SKIP_REASONS

    assert set(_WORDS) == set(REASONS)
    assert {*BAD_SAMPLES, "empty_caption", "damaged_tar"} == set(SKIP_REASONS)
