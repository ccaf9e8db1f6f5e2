"""Tars that lie: refused by name, never read as something else, whichever way the walk takes."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate._tarheads import Heads
from headwater.errors import IntegrityError
from tests.curate.shard_kit import pack, plain_samples, put_size, seal, text_of, uid, walked


def break_sum(raw: bytearray, at: int) -> None:
    raw[at] ^= 1


def negative(raw: bytearray, at: int) -> None:
    put_size(raw, at, b"\xff" * 12)


def lying(raw: bytearray, at: int) -> None:
    put_size(raw, at, b"%011o\0" % (1 << 30))


def not_octal(raw: bytearray, at: int) -> None:
    put_size(raw, at, b"0000000008z\0")


def sparse(raw: bytearray, at: int) -> None:
    raw[at + 156] = ord("S")
    seal(raw, at)


def directory_with_data(raw: bytearray, at: int) -> None:
    raw[at + 156] = ord("5")
    seal(raw, at)


def link_with_data(raw: bytearray, at: int) -> None:
    raw[at + 156] = ord("1")
    seal(raw, at)


def huge_extension(raw: bytearray, at: int) -> None:
    raw[at + 156] = ord("L")
    put_size(raw, at, b"%011o\0" % (1 << 31))


@pytest.mark.parametrize("window", [2048, 1 << 16])
@pytest.mark.parametrize(
    "attack",
    [break_sum, negative, lying, not_octal, sparse, directory_with_data, link_with_data, huge_extension],
)
def test_headers_that_lie_are_refused_by_name(tmp_path: Path, attack: object, window: int) -> None:
    raw = bytearray(pack(plain_samples(4)))
    with tarfile.open(fileobj=io.BytesIO(bytes(raw))) as file:
        at = file.getmembers()[5].offset
    attack(raw, at)  # type: ignore[operator]
    with pytest.raises(IntegrityError, match=rf"x\.tar: at byte {at:,}: "):
        walked(tmp_path / "x.tar", bytes(raw), window)


def pax(records: dict[str, str], kind: bytes = b"x") -> bytes:
    """A pax header with these records, in this order."""
    body = b""
    for key, value in records.items():
        record = f" {key}={value}\n".encode()
        length = len(record) + 1
        while len(str(length)) + len(record) != length:
            length = len(str(length)) + len(record)
        body += str(length).encode() + record
    head = bytearray(tarfile.TarInfo("pax").tobuf(tarfile.USTAR_FORMAT))
    head[156:157] = kind
    put_size(head, 0, b"%011o\0" % len(body))
    return bytes(head) + body.ljust(-(-len(body) // 512) * 512, b"\0")


def test_pax_size_and_path_rule_over_the_header(tmp_path: Path) -> None:
    data = text_of(7)
    head = bytearray(pack([("wrong.jpg", b"")])[:512])
    raw = (
        pax({"mtime": "1.5", "path": "right.json", "size": str(len(data))})
        + bytes(head)
        + data.ljust(512, b"\0")
    )
    _, found = walked(tmp_path / "x.tar", raw + bytes(1024), 4096)
    assert found == [(0, uid(7), {"json": data})]


@pytest.mark.parametrize(
    "prefix",
    [
        pax({"path": "a.jpg"}) + pax({"path": "b.jpg"}),
        pax({"size": "5"}, kind=b"g"),
        pax({"path": "a"}, kind=b"g"),
        pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
        pax({"size": "-5"}),
        pax({"path": ""}),
        pack([("././@LongLink", b"a\0")])[:1024].replace(b"\0000000000000 0", b""),
    ],
)
def test_extension_records_that_readers_understand_differently_are_refused(
    tmp_path: Path, prefix: bytes
) -> None:
    if b"LongLink" in prefix:
        head = bytearray(prefix)
        head[156] = ord("L")
        seal(head, 0)
        prefix = bytes(head) * 2
    with pytest.raises(IntegrityError, match="x.tar: at byte"):
        walked(tmp_path / "x.tar", prefix + pack(plain_samples(1)), 4096)


def test_global_header_with_a_comment_is_read_past(tmp_path: Path) -> None:
    raw = pax({"comment": "abc"}, kind=b"g") + pack(plain_samples(2))
    _, found = walked(tmp_path / "x.tar", raw, 4096)
    assert [reason for _, reason, _ in found] == [uid(0), uid(1)]


def test_compressed_shard_says_so(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError) as caught:
        walked(tmp_path / "x.tar", b"\x1f\x8b" + bytes(range(256)) * 8, 4096)
    assert caught.value.hint == "it looks gzip compressed; unpack it first"


def test_members_outside_are_only_read(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name in ("../../evil.json", "/abs.json", "C:\\win.json"):
            info = tarfile.TarInfo(name)
            info.size = len(text_of(1))
            file.addfile(info, io.BytesIO(text_of(1)))
        for name, kind in (
            ("l.jpg", tarfile.SYMTYPE),
            ("h.jpg", tarfile.LNKTYPE),
            ("dev.jpg", tarfile.CHRTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
    walk, found = walked(tmp_path / "x.tar", out.getvalue(), 4096)
    assert [reason for _, reason, _ in found] == [uid(1)] * 3
    assert walk.skipped == {"symlink": 1, "hardlink": 1, "device": 1}
    assert sorted(tmp_path.iterdir()) == [tmp_path / "x.tar"]


@pytest.mark.parametrize("bad", ["a.b\\c", "a.x\ny", "a.x:y", "a."])
def test_an_extension_that_could_leave_the_folder_spoils_the_sample(tmp_path: Path, bad: str) -> None:
    _, found = walked(
        tmp_path / "x.tar", pack([("a.json", text_of(1)), (bad, b"1"), ("b.json", text_of(2))]), 4096
    )
    assert [reason for _, reason, _ in found] == ["bad_name", uid(2)]


def outcome(path: Path, raw: bytes, window: int) -> object:
    """What a walk gives: samples, damage, notes and skips, or the words of its refusal."""
    try:
        walk, found = walked(path, raw, window)
    except IntegrityError as error:
        return str(error)
    return found, walk.damage, walk.notes, walk.skipped


BASES = [
    pack(plain_samples(6)),
    pack(plain_samples(6), form=tarfile.GNU_FORMAT),
    pack(plain_samples(6), form=tarfile.PAX_FORMAT, mtime=1700000000.5),
    pack(
        [
            ("0.jpg", pack(plain_samples(2))),
            ("0.json", text_of(0)),
            ("1.jpg", b"x" * 9),
            ("1.json", text_of(1)),
        ]
    ),
]


INTERESTING = st.sampled_from(
    [0, 100, 124, 130, 135, 148, 153, 154, 155, 156, 257, 262, 263, 345, 511, 512, 520]
)


@settings(max_examples=15000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    base=st.integers(0, 3),
    edits=st.lists(
        st.tuples(st.integers(0, 40), INTERESTING, st.integers(0, 255), st.booleans()), max_size=4
    ),
    cut=st.one_of(st.none(), st.integers(0, 40_000)),
    window=st.sampled_from([1024, 4096, 1 << 16]),
)
def test_arrays_and_single_headers_read_a_damaged_archive_alike(
    tmp_path: Path, base: int, edits: list[tuple[int, int, int, bool]], cut: int | None, window: int
) -> None:
    raw = bytearray(BASES[base][:cut])
    for block, place, value, sealed in edits:
        at = block * 512
        if at + place < len(raw) and at + 512 <= len(raw):
            raw[at + place] = value
            if sealed:
                seal(raw, at)
    path = tmp_path / "x.tar"
    fast = outcome(path, bytes(raw), window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Heads, "run", lambda self, block: None)
        patch.setattr(Heads, "is_plain", lambda self, block: False)
        slow = outcome(path, bytes(raw), window)
    assert fast == slow
