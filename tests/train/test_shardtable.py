"""Tables of samples agree with webdataset and open_clip byte for byte, in every tar format and any order."""

from __future__ import annotations

import io
import os
import tarfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from train import _shardscan
from train.preflight import read_table

FORMATS = (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)
Rows = list[tuple[str, bytes]]


def pack(rows: Rows, form: int = tarfile.USTAR_FORMAT, mtime: float = 0) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in rows:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime  # type: ignore[assignment]
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def table_rows(path: Path) -> list[tuple[bytes, bytes, bytes]]:
    """(key, picture, caption) of every row of the table."""
    raw = path.read_bytes()
    table, _ = read_table(path)
    spans = zip(
        table.keys, table.image_offset, table.image_size, table.text_offset, table.text_size, strict=True
    )
    return [(key, raw[a : a + n], raw[b : b + m]) for key, a, n, b, m in spans]


def by_open_clip(path: Path, group: Any) -> list[tuple[bytes, bytes, bytes]]:
    """The same from webdataset's reader, grouped by `group` and filtered as open_clip filters."""
    from webdataset.tariterators import tar_file_expander

    found = []
    with open(path, "rb") as stream:
        for sample in group(tar_file_expander([{"url": str(path), "stream": stream}])):
            image = next((sample[e] for e in ("jpg", "png", "jpeg", "webp") if e in sample), None)
            if image is not None and "txt" in sample:
                found.append((os.fsencode(sample["__key__"]), image, sample["txt"]))
    return found


# ---- against other readers ---------------------------------------------------------------------------------

bases = st.text(st.sampled_from("ab._é-0 "), min_size=1, max_size=6)
few = st.sampled_from(["a", "a", "b", "a.b", "._x", "-0 ", "é", "__a__"])
folders = st.sampled_from(["", "", "d/", "d.e/f/", "x" * 120 + "/", "./", "__m__/", "é" * 60 + "/", "x.\ny/"])
extensions = st.sampled_from(
    ["jpg", "png", "jpeg", "webp", "JPG", "txt", "txt", "json", "seg.jpg", "Txt", "ä"]
)
contents = st.integers(0, 1200).flatmap(lambda n: st.just(bytes([n % 251]) * n))
members = st.tuples(st.one_of(st.just(""), folders), few, extensions, contents).map(
    lambda m: (f"{m[0]}{m[1]}.{m[2]}", m[3])
)


@st.composite
def proper(draw: Any) -> Rows:
    """Samples whose members are side by side, of one picture and one caption at most, keys unique."""
    rows: Rows = []
    for number in range(draw(st.integers(0, 12))):
        stem = f"{draw(folders)}{draw(bases).replace('.', '-')}{number}"
        kinds = draw(st.lists(st.sampled_from(["jpg", "txt", "json", "cls"]), unique=True, max_size=4))
        rows += [(f"{stem}.{kind}", draw(contents)) for kind in kinds]
    return rows


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=proper(), form=st.sampled_from(FORMATS), mtime=st.sampled_from([0, 1234567.25]))
def test_tables_hold_what_webdataset_reads(tmp_path: Path, rows: Rows, form: int, mtime: float) -> None:
    from webdataset.tariterators import group_by_keys

    path = tmp_path / "a.tar"
    path.write_bytes(pack(rows, form, mtime))
    table = table_rows(path)
    assert table == by_open_clip(path, group_by_keys)
    assert not {"damaged_tar", "wrong_order"} & read_table(path)[1].counts.keys()


@pytest.mark.slow  # imports open_clip_train
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(members, max_size=16), form=st.sampled_from(FORMATS), mtime=st.sampled_from([0, 7.5]))
def test_tables_follow_open_clip_on_any_order(tmp_path: Path, rows: Rows, form: int, mtime: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from open_clip_train.data import group_by_keys_nothrow

    path = tmp_path / "a.tar"
    path.write_bytes(pack(rows, form, mtime))
    assert table_rows(path) == by_open_clip(path, group_by_keys_nothrow)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), form=st.sampled_from(FORMATS))
def test_hostile_headers_never_crash_and_never_invent_bytes(tmp_path: Path, data: Any, form: int) -> None:
    raw = bytearray(pack([(f"{n}.{e}", bytes(n * 99)) for n in range(6) for e in ("jpg", "txt")], form, 1.5))
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=4)):
        raw[at] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) :]
    path = tmp_path / "a.tar"
    path.write_bytes(raw)
    table, found = read_table(path)
    assert all(table.image_offset + table.image_size <= len(raw))
    assert all(table.text_offset + table.text_size <= len(raw))
    assert len(table) <= found.samples <= found.members


@pytest.mark.parametrize("form", FORMATS)
def test_batches_of_headers_join(tmp_path: Path, form: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many more members than are checked at once, with long names between plain ones."""
    monkeypatch.setattr(_shardscan, "MOST_HEADERS", 64)
    rows = []
    for n in range(400):
        key = f"{'long' * 30}/{n}" if n % 7 == 0 else f"{n:06d}"
        rows += [(f"{key}.webp", bytes([n % 256]) * (n % 700)), (f"{key}.txt", str(n).encode())]
    path = tmp_path / "a.tar"
    path.write_bytes(pack(rows, form, 3.25))
    found = table_rows(path)
    assert [(k.decode(), i, t) for k, i, t in found] == [
        (a[0].removesuffix(".webp"), a[1], b[1]) for a, b in zip(rows[::2], rows[1::2], strict=True)
    ]


def test_plain_headers_take_the_fast_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the end of the archive is read one header at a time, also where each member has a time of its own."""
    calls = []
    real = _shardscan.tar.next_member
    monkeypatch.setattr(_shardscan.tar, "next_member", lambda *a: calls.append(a[3]) or real(*a))  # type: ignore[func-returns-value]
    for form, mtime in (
        (tarfile.USTAR_FORMAT, 0.0),
        (tarfile.GNU_FORMAT, 0.0),
        (tarfile.PAX_FORMAT, 12345.678),
    ):
        calls.clear()
        path = tmp_path / "a.tar"
        path.write_bytes(
            pack([(f"{n:04d}.{e}", b"x" * n) for n in range(300) for e in ("jpg", "txt")], form, mtime)
        )
        assert len(read_table(path)[0]) == 300
        assert len(calls) == 1


def seal(raw: bytearray, offset: int, form: bytes = b"%06o\0 ") -> None:
    raw[offset + 148 : offset + 156] = b" " * 8
    raw[offset + 148 : offset + 156] = form % sum(raw[offset : offset + 512])


def test_unusual_checksums_after_a_time_are_looked_at_one_by_one(tmp_path: Path) -> None:
    """The first header of such a member is its time, so the closer look begins there."""
    raw = bytearray(
        pack([(f"{n}.{e}", b"x" * n) for n in range(9) for e in ("jpg", "txt")], tarfile.PAX_FORMAT, 1.5)
    )
    path = tmp_path / "a.tar"
    path.write_bytes(raw)
    before = table_rows(path)
    heads = [
        n
        for n in range(0, len(raw), 512)
        if raw[n + 257 : n + 262] == b"ustar" and raw[n + 156 : n + 157] == b"0"
    ]
    assert len(before) == 9 and len(heads) == 18
    for head in (heads[5], heads[6], heads[17]):
        seal(raw, head, b"%6o\0 ")
    path.write_bytes(raw)
    assert table_rows(path) == before and not read_table(path)[1].counts


@pytest.mark.parametrize("place", [0, 1024])
def test_a_header_whose_checksum_is_wrong_ends_the_tar(tmp_path: Path, place: int) -> None:
    """The header of a member (1024) and the one of its time (0)."""
    raw = bytearray(
        pack([(f"{n}.{e}", b"x" * n) for n in range(9) for e in ("jpg", "txt")], tarfile.PAX_FORMAT, 1.5)
    )
    raw[8 * 2048 - 2 * 512 + place + 100] ^= (
        1  # one bit of a mode, of the fifth sample: the first two members are empty
    )
    path = tmp_path / "a.tar"
    path.write_bytes(raw)
    table, found = read_table(path)
    assert table.keys == [b"0", b"1", b"2", b"3"]
    assert found.counts == {"damaged_tar": 1} and "checksum" in found.examples[0].detail


def test_a_member_that_ends_behind_the_file_is_no_member(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    raw = pack([(f"{n}.{e}", b"x" * 700) for n in range(3) for e in ("jpg", "txt")])
    path.write_bytes(raw[: 6 * 1536 - 400])  # the last 600 bytes of it are missing, with its padding
    table, found = read_table(path)
    assert table.keys == [b"0", b"1"] and found.examples[0].key == "2.txt"
    assert found.counts == {"no_caption": 1, "damaged_tar": 1}


def test_many_kinds_of_extensions(tmp_path: Path) -> None:
    rows = [(f"{n:03d}.e{n}", b"") for n in range(150)] + [
        ("a.jpg", b"i"),
        ("a.x1", b""),
        ("a.x2", b""),
        ("a.txt", b"t"),
    ]
    path = tmp_path / "a.tar"
    path.write_bytes(pack(rows))
    assert table_rows(path) == [(b"a", b"i", b"t")]


def test_first_picture_by_open_clips_order(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(
        pack([("a.webp", b"w"), ("a.jpeg", b"e"), ("a.png", b"p"), ("a.txt", b"t"), ("a.jpg", b"j")])
    )
    assert table_rows(path) == [(b"a", b"j", b"t")]
    assert read_table(path)[1].counts == {"two_images": 1}
