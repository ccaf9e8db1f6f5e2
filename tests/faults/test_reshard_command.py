"""`headwater reshard` fed with damaged and hostile tars (rows 46 to 49, 51 and 52 of the catalogue)."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.curate.shard_kit import (
    Rows,
    put_size,
    samples,
    seal,
    subset,
    text_of,
    uid,
    write_tar,
)
from tests.faults import kit
from tests.faults.tars import closes, here, members, one, reshard, save, uids

__all__ = ["here"]


# row 46


@pytest.mark.parametrize("offset", [0, 1, 100, 300, 511])
def test_row_46_a_truncated_tar_gives_the_samples_before_the_cut(offset: int, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save(tmp_path / "s.npy")
    write_tar(tmp_path / "in" / "00000000.tar", samples(range(1, 6)))
    write_tar(tmp_path / "in" / "00000001.tar", samples(range(10, 14)))
    shard = tmp_path / "in" / "00000000.tar"
    data = shard.read_bytes()
    with tarfile.open(shard) as file:
        ends = [info.offset_data + info.size for info in file.getmembers() if info.name.endswith(".json")]
    whole = {-(-end // 512) * 512 for end in ends}  # with the padding
    last = max(whole) + 1024  # the two empty blocks
    step = 512 if offset == 0 else 2048
    for number, cut in enumerate(range(offset, last, step)):
        shard.write_bytes(data[:cut])
        done = reshard(tmp_path, f"out{number}")
        safe = sum(end <= cut for end in ends)
        assert uids(tmp_path / f"out{number}") == [*range(1, safe + 1), *range(10, 14)], cut
        closes(tmp_path / f"out{number}")
        if cut in whole:  # a whole archive but for its end, as some writers make them
            assert done.code == 0 and "00000000.tar: no end-of-archive mark" in done.err, (cut, done)
        elif cut == max(whole) + 512:  # one of the two blocks of the mark
            assert done.code == 0, (cut, done)
        else:
            assert done.code == 3, (cut, done)
            assert "00000000.tar" in done.err and "--allow-invalid" in done.err
        shutil.rmtree(tmp_path / f"out{number}")
    shard.write_bytes(data[:2000])
    assert reshard(tmp_path, "allowed", "--allow-invalid").code == 0


# row 47


def archive(path: Path, rows: Rows, form: int, **pax: Any) -> None:
    with tarfile.open(path, "w", format=form) as file:
        for name, data in rows:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 12345
            info.pax_headers = pax
            file.addfile(info, io.BytesIO(data))


def plain_answer(folder: Path, rows: Rows) -> dict[str, bytes]:
    """What the same samples give from an ordinary tar."""
    write_tar(one(folder), rows)
    assert reshard(folder).code == 0
    return members(folder / "out")


LONG = "k" * 90


@pytest.mark.parametrize("way", [
    "gnu", "gnu long names", "pax", "pax long names", "pax size and path", "base-256 size", "old v7",
    "trailing garbage", "no end block", "one end block", "zero blocks between",
])  # fmt: skip
def test_row_47_other_dialects_are_framed_right_or_refused(way: str, tmp_path: Path) -> None:
    rows = samples(range(1, 8))
    (tmp_path / "plain").mkdir()
    wanted = plain_answer(tmp_path / "plain", rows)
    shard = one(tmp_path)
    long = [(f"{'folder/' * 20}{LONG}{name}", data) for name, data in rows]
    refused = False
    if way in ("gnu", "pax"):
        archive(shard, rows, tarfile.GNU_FORMAT if way == "gnu" else tarfile.PAX_FORMAT)
    elif way in ("gnu long names", "pax long names"):
        archive(shard, long, tarfile.GNU_FORMAT if way[0] == "g" else tarfile.PAX_FORMAT)
    elif way == "pax size and path":
        archive(shard, rows, tarfile.PAX_FORMAT, comment="x" * 700)
    else:
        write_tar(shard, rows)
        raw = bytearray(shard.read_bytes())
        with tarfile.open(shard) as file:
            infos = file.getmembers()
        end = -(-(infos[-1].offset_data + infos[-1].size) // 512) * 512
        if way == "base-256 size":
            for info in infos:
                put_size(raw, info.offset, b"\x80" + info.size.to_bytes(11, "big"))
                seal(raw, info.offset)
        elif way == "old v7":
            for info in infos:
                raw[info.offset + 156 : info.offset + 157] = b"\0"
                raw[info.offset + 257 : info.offset + 345] = bytes(88)
                seal(raw, info.offset)
        elif way == "trailing garbage":
            raw = raw[: end + 1024] + b"\xff" * 5000
        elif way == "no end block":
            raw = raw[:end]
        elif way == "one end block":
            raw = raw[: end + 512]
        elif way == "zero blocks between":
            at = infos[9].offset
            raw = raw[:at] + bytes(512) + raw[at:]
        shard.write_bytes(raw)
    done = reshard(tmp_path)
    assert done.code in (0, 3, 13), done
    if done.code == 13:
        refused = True
        assert "00000000.tar" in done.err
        assert not (tmp_path / "out").exists() and kit.temporaries(tmp_path) == []
    else:
        found = members(tmp_path / "out")
        assert found.items() <= wanted.items()
        assert found == wanted or "00000000.tar" in done.err
        closes(tmp_path / "out")
    assert refused is False or way not in (
        "gnu",
        "gnu long names",
        "pax",
        "pax long names",
        "base-256 size",
        "old v7",
    )


def test_row_47_sparse_members_are_refused(tmp_path: Path) -> None:
    shard = one(tmp_path)
    write_tar(shard, samples(range(1, 4)))
    raw = bytearray(shard.read_bytes())
    raw[156] = ord("S")
    seal(raw, 0)
    shard.write_bytes(raw)
    done = reshard(tmp_path)
    assert done.code == 13 and "00000000.tar" in done.err and "sparse" in done.err
    assert not (tmp_path / "out").exists() and kit.temporaries(tmp_path) == []


# row 48


@pytest.mark.parametrize("attack", ["checksum", "larger than the file", "negative", "not a number"])
def test_row_48_a_header_that_lies_refuses_the_shard(attack: str, here: Path) -> None:
    shard = here / "in" / "00000002.tar"
    raw = bytearray(shard.read_bytes())
    with tarfile.open(shard) as file:
        at = file.getmembers()[7].offset
    if attack == "checksum":
        raw[at] ^= 1
    else:
        put_size(
            raw,
            at,
            {"larger than the file": b"%011o\0" % (1 << 30), "negative": b"\xff" * 12}.get(
                attack, b"0000000008z\0"
            ),
        )
    shard.write_bytes(raw)
    done = reshard(here)
    assert done.code == 13, done
    assert "00000002.tar" in done.err and f"at byte {at:,}" in done.err
    assert not (here / "out").exists() and kit.temporaries(here) == []


# row 49


def test_row_49_samples_that_are_not_whole_are_reported(tmp_path: Path) -> None:
    shard = one(tmp_path)
    write_tar(shard, [
        ("1.jpg", b"one"), ("1.json", text_of(1)),
        ("2.jpg", b"no json"),
        ("3.jpg", b"first"), ("3.jpg", b"second"), ("3.json", text_of(3)),
        ("4.JPG", b"upper"), ("4.JSON", text_of(4)),
        ("5.jpg", b"x"), ("5.json", b'{"uid": "short"}'),
        ("6.jpg", b"x"), ("6.json", b"{not json"),
        ("7.jpg", b"x"), ("7.json", text_of(7)),
    ])  # fmt: skip
    write_tar(
        tmp_path / "in" / "00000001.tar",
        [("7.txt", b"the rest of 7"), ("8.jpg", b"8"), ("8.json", text_of(8))],
    )
    done = reshard(tmp_path)
    assert done.code == 3, done
    step = closes(tmp_path / "out")
    found = members(tmp_path / "out")
    assert found[f"{uid(1)}-0.jpg"] == b"one" and found[f"{uid(4)}-0.jpg"] == b"upper"
    assert {7, 8} <= set(uids(tmp_path / "out")) and not {2, 5, 6} & set(uids(tmp_path / "out"))
    assert sum(step.identity.counts.invalid.values()) >= 3
    told = json.dumps(step.details) + done.err
    assert "00000000.tar" in told and "sample '5' at byte" in done.err
    problems = {
        (problem["shard"], problem["sample"]): problem["reason"] for problem in step.details["problems"]
    }
    assert problems == {
        ("00000000.tar", "2"): "no_json",
        ("00000000.tar", "3"): "no_json",  # its first picture: the repeated name begins a new sample
        ("00000000.tar", "5"): "bad_uid",
        ("00000000.tar", "6"): "bad_json",
        ("00000001.tar", "7"): "no_json",
    }
    assert found[f"{uid(3)}-0.jpg"] == b"second"


def test_row_49_one_uid_in_two_samples_is_reported_and_both_are_kept(tmp_path: Path) -> None:
    write_tar(
        one(tmp_path), [("1.jpg", b"a"), ("1.json", text_of(1)), ("2.jpg", b"b"), ("2.json", text_of(1))]
    )
    done = reshard(tmp_path)
    assert "1 uids lie in several samples" in done.err and uid(1) in done.err
    assert kit.record(tmp_path / "out").details["in_several_samples"] == {"uids": 1, "examples": [uid(1)]}
    with tarfile.open(tmp_path / "out" / "00000000.tar") as file:
        pictures = [file.extractfile(info).read() for info in file if info.name.endswith(".jpg")]  # type: ignore[union-attr]
    assert pictures == [b"a", b"b"]


# row 51


def test_row_51_members_that_point_outside_are_never_followed(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "deeper"
    folder.mkdir(parents=True)
    shard = one(folder)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with tarfile.open(shard, "w") as file:

        def add(name: str, data: bytes = b"", **fields: Any) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(data))

        for number, name in enumerate(
            ("../../evil", "/tmp/evil", "C:\\evil", "a/../../../evil", "~/evil", "."), 1
        ):
            add(f"{name}.jpg", b"x", mode=0o6777)
            add(f"{name}.json", text_of(number), uname="root", gname="root")
        add("link.jpg", type=tarfile.SYMTYPE, linkname=str(secret))
        add("link.json", text_of(50))
        add("hard.jpg", type=tarfile.LNKTYPE, linkname="../../secret")
        add("hard.json", text_of(51))
        add("there", type=tarfile.SYMTYPE, linkname=str(tmp_path))
        add("there/evil.json", text_of(52))
        for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            add("special.jpg", type=kind)
    before = set(tmp_path.rglob("*"))
    done = reshard(folder)
    assert done.code in (0, 3), done
    found = members(folder / "out")
    assert not any(b"secret" in data for data in found.values())
    assert all("/" not in name and "\\" not in name and ".." not in name for name in found)
    assert {1, 2, 3, 4, 5} <= set(uids(folder / "out"))
    closes(folder / "out")
    new = set(tmp_path.rglob("*")) - before
    assert all(
        p.is_relative_to(folder / "out") or p.is_relative_to(folder / "in" / ".headwater") for p in new
    )
    assert not Path("/tmp/evil.jpg").exists() and secret.read_text() == "secret"
    assert all(
        p.is_file() and not p.is_symlink() and p.stat().st_mode & 0o7777 == 0o644
        for p in (folder / "out").iterdir()
    )


# row 52


class Bomb:
    """A pickle that touches a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.target,))


@pytest.mark.parametrize("extension", ["pkl", "pickle", "pyd", "pt", "pth", "npy", "py", "cls"])
def test_row_52_members_that_could_run_are_copied_and_never_decoded(extension: str, tmp_path: Path) -> None:
    target = tmp_path / "touched"
    payload = pickle.dumps(Bomb(target))
    pickle.loads(payload)
    assert target.is_dir(), "the payload does nothing, so this test would prove nothing"
    target.rmdir()
    write_tar(one(tmp_path), [("1.jpg", b"x"), (f"1.{extension}", payload), ("1.json", text_of(1))])
    done = reshard(tmp_path)
    assert done.code == 0, done
    assert members(tmp_path / "out")[f"{uid(1)}-0.{extension}"] == payload
    assert not target.exists()


# bad input of every command


def test_an_output_or_a_subset_that_does_not_fit(here: Path) -> None:
    assert reshard(here).code == 0
    again = reshard(here)
    assert again.code == 0 and "up to date" in again.err
    other = reshard(here, "out", "--shard-size", 7)
    assert other.code == 2 and "--force" in other.err
    assert reshard(here, "out", "--shard-size", 7, "--force").code == 0
    closes(here / "out")
    into = kit.run("reshard", here / "in", "-s", here / "s.npy", "-o", here / "in")
    assert into.code == 2 and "input shards" in into.err
    save(here / "s.npy", subset([5, 3])[::-1])
    unsorted = reshard(here, "new")
    assert unsorted.code == 13 and "not sorted" in unsorted.err and "entry 1" in unsorted.err
    missing = kit.run("reshard", here / "in", "-s", here / "none.npy", "-o", here / "new")
    assert missing.code == 10 and "none.npy" in missing.err
    assert not (here / "new").exists() and kit.temporaries(here) == []
