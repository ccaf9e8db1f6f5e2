"""The tar walk against the standard library's own listing, cut files, lying headers and look-alikes."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate import tar
from curate._jsonuid import OK, REASONS, TRUNCATED, locate, parse
from curate._tarwalk import Walk
from curate.shards import read_sample
from headwater.errors import IntegrityError

UID = "0123456789abcdef0123456789abcdef"
Sample = tuple[int, str, dict[str, bytes]]  # offset, reason, members


def uid(number: int) -> str:
    return f"{number:032x}"


def text_of(number: int, **more: object) -> bytes:
    return json.dumps({"uid": uid(number), "caption": "x", **more}, indent=4).encode()


def pack(members: list[tuple[str, bytes]], *, form: int = tarfile.USTAR_FORMAT, mtime: float = 0) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime  # type: ignore[assignment]
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def plain_samples(count: int) -> list[tuple[str, bytes]]:
    rows = []
    for number in range(count):
        picture = bytes([number % 251]) * (300 + 517 * number % 3000)
        rows += [
            (f"{number:09d}.jpg", picture),
            (f"{number:09d}.txt", b"t"),
            (f"{number:09d}.json", text_of(number)),
        ]
    return rows


def walked(path: Path, raw: bytes, window: int) -> tuple[Walk, list[Sample]]:
    path.write_bytes(raw)
    walk = Walk(path, path.name, window_bytes=window)
    found: list[Sample] = []
    for batch in walk.batches():
        for row in range(len(batch)):
            span = slice(int(batch.first[row]), int(batch.first[row + 1]))
            columns = (batch.members.code[span], batch.members.data[span], batch.members.size[span])
            members = {
                walk.extensions[code]: raw[data : data + size]
                for code, data, size in zip(*(column.tolist() for column in columns), strict=True)
            }
            state = int(batch.state[row])
            number = (int(batch.hi[row]) << 64) | int(batch.lo[row])
            found.append((int(batch.offset[row]), uid(number) if state == OK else REASONS[state], members))
            if state == OK:
                assert read_sample(path, int(batch.offset[row]), int(batch.length[row])) == members
    return walk, found


def by_tarfile(raw: bytes) -> list[dict[str, bytes]]:
    """Samples as webdataset groups them, from the standard library's listing."""
    samples: list[dict[str, bytes]] = []
    last = None
    with tarfile.open(fileobj=io.BytesIO(raw)) as file:
        for info in file:
            if not info.isreg():
                continue
            split = tar.split_name(info.name.encode("utf-8", "surrogateescape"))
            if isinstance(split, str):
                continue
            key, extension = split[0], split[1].decode().lower()
            if key != last or extension in samples[-1]:
                samples.append({})
            last = key
            samples[-1][extension] = file.extractfile(info).read()  # type: ignore[union-attr]
    return samples


NAMES = st.one_of(
    st.sampled_from(
        ["a.jpg", "a.JPG", "a.json", "a.txt", "b.jpg", "b.json", "d.x/a.jpg", "d.x/b.seg.png", "plain"]
    ),
    st.sampled_from(
        ["__m__", "__m.x__", ".hidden", "d/.hidden.jpg", "../../x.jpg", "/abs.txt", "C:\\x.json"]
    ),
    st.sampled_from(
        ["e" * 120 + ".jpg", "p/" * 60 + "k.json", "ключ.txt", "k.a-very-long-extension", "é" * 80 + ".jpg"]
    ),
)
KINDS = st.sampled_from(
    [tarfile.REGTYPE] * 12 + [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
)
ROWS = st.lists(
    st.tuples(NAMES, KINDS, st.sampled_from([0, 1, 511, 512, 513, 1500]), st.booleans()), max_size=25
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=ROWS,
    form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    mtime=st.sampled_from([0, 1700000000, 1700000000.25]),
    window=st.sampled_from([512, 1024, 4096, 1 << 16]),
)
def test_same_samples_as_the_standard_library(
    tmp_path: Path, rows: list[tuple[str, bytes, int, bool]], form: int, mtime: float, window: int
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as file:
        for number, (name, kind, size, as_json) in enumerate(rows):
            info = tarfile.TarInfo(name)
            data = text_of(number).ljust(size) if as_json else bytes([number + 1]) * size
            info.type, info.mtime, info.linkname = kind, mtime, "a.jpg"  # type: ignore[assignment]
            info.size = len(data) if kind == tarfile.REGTYPE else 0
            try:
                file.addfile(info, io.BytesIO(data))
            except ValueError:  # ustar cannot hold every name
                continue
    raw = out.getvalue()
    walk, found = walked(tmp_path / "x.tar", raw, window)
    assert [members for _, _, members in found] == by_tarfile(raw)
    assert walk.damage is None
    fd = os.open(tmp_path / "x.tar", os.O_RDONLY)
    listed = list(tar.members(lambda at, size: os.pread(fd, size, at), len(raw), "x.tar"))
    os.close(fd)
    with tarfile.open(fileobj=io.BytesIO(raw)) as file:
        expected = [(info.name.rstrip("/"), info.offset_data, info.size) for info in file]
    mine = [
        (item.name.decode().rstrip("/"), item.data_offset, item.size_bytes)
        for item in listed
        if isinstance(item, tar.Member)
    ]
    assert mine == expected


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mtime", [0, 1700000000.123])
def test_plain_headers_never_reach_the_slow_parser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: int, mtime: float
) -> None:
    raw = pack(plain_samples(400), form=form, mtime=mtime)
    calls = []
    slow = tar.next_member
    monkeypatch.setattr(tar, "next_member", lambda *a: calls.append(a[3]) or slow(*a))
    _, found = walked(tmp_path / "x.tar", raw, 1 << 18)
    assert [reason for _, reason, _ in found] == [uid(number) for number in range(400)]
    calls = [offset for offset in calls if offset > 600]  # read_sample parses each span on its own
    assert len(calls) <= 1 + 400 * 4  # the end mark, and the spans


def to_v7(raw: bytes) -> bytes:
    """The same archive with headers from before POSIX: no magic, no owner names."""
    out = bytearray(raw)
    with tarfile.open(fileobj=io.BytesIO(raw)) as file:
        for info in file:
            head = bytearray(out[info.offset : info.offset + 512])
            head[156:157] = b"\0" if info.isreg() else head[156:157]
            head[257:] = bytes(255)
            head[148:156] = b" " * 8
            head[148:156] = b"%6o\0 " % sum(head)
            out[info.offset : info.offset + 512] = head
    return bytes(out)


def test_old_v7_headers(tmp_path: Path) -> None:
    raw = pack(plain_samples(5))
    _, found = walked(tmp_path / "x.tar", to_v7(raw), 4096)
    assert [members for _, _, members in found] == by_tarfile(raw)


def test_v7_headers_between_ustar_headers_are_on_the_chain(tmp_path: Path) -> None:
    raw = pack(plain_samples(3))
    mixed = bytearray(to_v7(raw))
    with tarfile.open(fileobj=io.BytesIO(raw)) as file:
        for info in list(file)[::2]:
            mixed[info.offset : info.offset + 512] = raw[info.offset : info.offset + 512]
    _, found = walked(tmp_path / "x.tar", bytes(mixed), 4096)
    assert [members for _, _, members in found] == by_tarfile(raw)


def test_base_256_sizes(tmp_path: Path) -> None:
    raw = bytearray(pack(plain_samples(3)))
    with tarfile.open(fileobj=io.BytesIO(bytes(raw))) as file:
        for info in list(file)[::2]:
            put_size(raw, info.offset, b"\x80" + info.size.to_bytes(11, "big"))
    _, found = walked(tmp_path / "x.tar", bytes(raw), 4096)
    assert [members for _, _, members in found] == by_tarfile(bytes(raw))


def put_size(raw: bytearray, offset: int, size: bytes) -> None:
    raw[offset + 124 : offset + 136] = size
    seal(raw, offset)


def seal(raw: bytearray, offset: int) -> None:
    raw[offset + 148 : offset + 156] = b" " * 8
    raw[offset + 148 : offset + 156] = b"%06o\0 " % sum(raw[offset : offset + 512])


@pytest.mark.parametrize("window", [2048, 1 << 16])
def test_a_tar_inside_a_picture_is_no_part_of_the_archive(tmp_path: Path, window: int) -> None:
    inner = pack(plain_samples(6))
    rows = [(f"{n}.{ext}", data) for n in range(4) for ext, data in (("jpg", inner), ("json", text_of(n)))]
    _, found = walked(tmp_path / "x.tar", pack(rows), window)
    assert [reason for _, reason, _ in found] == [uid(n) for n in range(4)]
    assert all(members["jpg"] == inner for _, _, members in found)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_cut_at_every_block_and_inside_headers(tmp_path: Path, form: int) -> None:
    whole = plain_samples(4)
    raw = pack(whole, form=form, mtime=1700000000.5)
    _, every = walked(tmp_path / "whole.tar", raw, 4096)
    end = len(raw.rstrip(b"\0"))
    data_end = -(-end // 512) * 512
    for size in sorted({*range(0, data_end + 1, 512), *range(100, data_end, 1024 + 37)}):
        walk, found = walked(tmp_path / "x.tar", raw[:size], 4096)
        kept = [sample for sample in found if sample[1] not in REASONS.values()]
        assert kept == every[: len(kept)], size
        if size == data_end:
            assert len(kept) == 4 and walk.damage is None and walk.notes == ["no end-of-archive mark"]
            continue
        full = sum(sample[0] < size for sample in every)
        assert len(kept) >= full - 2 if full else True
        clean = size % 512 == 0 and any(sample[0] == size for sample in every)
        assert clean or walk.damage is not None or found[-1][1] == "no_json", size
        lost = [reason for _, reason, _ in found[len(kept) :]]
        assert lost in ([], [REASONS[TRUNCATED]], ["no_json"]), size


def test_samples_before_a_cut_are_kept(tmp_path: Path) -> None:
    raw = pack(plain_samples(10))
    _, every = walked(tmp_path / "whole.tar", raw, 1 << 16)
    with tarfile.open(fileobj=io.BytesIO(raw)) as file:
        places = {info.name: info.offset_data for info in file}
    for name, reasons in (("000000007.jpg", []), ("000000007.json", ["truncated"])):
        walk, found = walked(tmp_path / "x.tar", raw[: places[name] + 10], 1 << 16)
        assert found[:7] == every[:7]
        assert [reason for _, reason, _ in found[7:]] == reasons
        assert walk.damage is not None and f"ends inside member '{name}'" in walk.damage.reason


def test_trailing_garbage_is_noted(tmp_path: Path) -> None:
    raw = pack(plain_samples(2))
    walk, found = walked(tmp_path / "x.tar", raw + b"garbage" * 100, 4096)
    assert len(found) == 2 and walk.damage is None
    assert len(walk.notes) == 1 and "behind the end-of-archive mark" in walk.notes[0]


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


def test_repeated_extension_starts_a_new_sample(tmp_path: Path) -> None:
    rows = [
        ("a.json", text_of(1)),
        ("a.jpg", b"1"),
        ("a.JPG", b"2"),
        ("a.json", text_of(2)),
        ("a.json", text_of(3)),
    ]
    _, found = walked(tmp_path / "x.tar", pack(rows), 4096)
    assert [(reason, list(members)) for _, reason, members in found] == [
        (uid(1), ["json", "jpg"]),
        (uid(2), ["jpg", "json"]),
        (uid(3), ["json"]),
    ]


def test_a_key_that_is_another_uid_is_counted(tmp_path: Path) -> None:
    rows = [
        (f"{uid(1)}.json", text_of(1)),
        (f"{uid(2)}-0.json", text_of(3)),
        (f"d.d/{uid(4)}.json", text_of(5)),
    ]
    walk, found = walked(tmp_path / "x.tar", pack(rows), 4096)
    assert [reason for _, reason, _ in found] == [uid(1), uid(3), uid(5)]
    assert walk.other_key == 2


JSON_CASES: list[tuple[bytes, str | int]] = [
    (b'{"uid": "%s"}' % UID.encode(), UID),
    (b'{"uid":"%s"}' % UID.upper().encode(), UID.upper()),
    (b' {"a": {"b": []}, "uid" : "%s"} \n' % UID.encode(), UID),
    (b'{"a": {"uid": "%s"}}' % UID.encode(), 3),
    (b'{"a": {"uid": "%s"}, "uid": "%s"}' % (b"f" * 32, UID.encode()), UID),
    (b'{"caption": "\\"uid\\": \\"%s\\""}' % UID.encode(), 3),
    (b'{"caption": "uid", "uid": "%s"}' % UID.encode(), UID),
    (b'{"a\\"uid": "%s"}' % UID.encode(), 3),
    (b'{"uid": "%s", "uid": "%s"}' % (UID.encode(), b"f" * 32), 4),
    (b'{"uid": "%s"' % UID.encode(), 2),
    (b'{"uid": "%s0"}' % UID.encode(), 4),
    (b'{"uid": "%s"}' % UID[:31].encode(), 4),
    (b'{"uid": "%sg"}' % UID[:31].encode(), 4),
    (b'{"uid": 5}', 4),
    (b'{"uid": null}', 4),
    (b'["uid"]', 3),
    (b"", 2),
    (b"\xff\xfe", 2),
    (b'{"uid": "x", "n": NaN}', 2),
    (b"[" * 100_000, 2),
]


def test_uid_of_a_json_by_the_fast_way_and_the_strict_one() -> None:
    texts = [text for text, _ in JSON_CASES]
    found = locate(texts)
    for row, (text, expected) in enumerate(JSON_CASES):
        assert parse(text) == expected, text[:60]
        if isinstance(expected, int):
            assert found.state[row] == expected, text[:60]
        else:
            assert found.state[row] == OK
            assert f"{int(found.hi[row]):016x}{int(found.lo[row]):016x}" == expected.lower()
            assert found.spelled.get(row, expected.lower()) == expected
    assert locate([]).state.shape == (0,)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.one_of(st.text(alphabet='uid":{}\\ a', max_size=12), st.just(UID), st.none(), st.integers()),
        lambda inner: st.dictionaries(st.sampled_from(["uid", "a", 'x"uid', "{"]), inner, max_size=4),
        max_leaves=8,
    ).filter(lambda value: isinstance(value, dict)),
    st.sampled_from([None, 4]),
)
def test_the_fast_way_agrees_with_the_strict_one(document: object, indent: int | None) -> None:
    text = json.dumps(document, indent=indent).encode()
    found, strict = locate([text]), parse(text)
    if isinstance(strict, int):
        assert found.state[0] == strict
    else:
        assert found.state[0] == OK and int(found.lo[0]) == int(strict[16:], 16)


def test_json_larger_than_the_window(tmp_path: Path) -> None:
    rows = [("a.jpg", b"1"), ("a.json", text_of(1, caption="é" * 20_000)), ("b.json", text_of(2))]
    _, found = walked(tmp_path / "x.tar", pack(rows), 4096)
    assert [reason for _, reason, _ in found] == [uid(1), uid(2)]


def test_windows_do_not_matter(tmp_path: Path) -> None:
    raw = pack(plain_samples(60), form=tarfile.PAX_FORMAT, mtime=1.25)
    answers = [walked(tmp_path / "x.tar", raw, window)[1] for window in (512, 1536, 10_240, 1 << 20)]
    assert all(answer == answers[0] for answer in answers) and len(answers[0]) == 60
    assert np.array_equal([int(reason, 16) for _, reason, _ in answers[0]], range(60))
