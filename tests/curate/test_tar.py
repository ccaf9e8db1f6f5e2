"""The tar walk against the standard library's own listing, other header forms, cut files."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate import tar
from curate._jsonuid import REASONS, TRUNCATED
from tests.curate.shard_kit import by_tarfile, pack, plain_samples, put_size, text_of, uid, walked

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


def test_json_larger_than_the_window(tmp_path: Path) -> None:
    rows = [("a.jpg", b"1"), ("a.json", text_of(1, caption="é" * 20_000)), ("b.json", text_of(2))]
    _, found = walked(tmp_path / "x.tar", pack(rows), 4096)
    assert [reason for _, reason, _ in found] == [uid(1), uid(2)]


def test_windows_do_not_matter(tmp_path: Path) -> None:
    raw = pack(plain_samples(60), form=tarfile.PAX_FORMAT, mtime=1.25)
    answers = [walked(tmp_path / "x.tar", raw, window)[1] for window in (512, 1536, 10_240, 1 << 20)]
    assert all(answer == answers[0] for answer in answers) and len(answers[0]) == 60
    assert np.array_equal([int(reason, 16) for _, reason, _ in answers[0]], range(60))
