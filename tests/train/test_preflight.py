"""Tables of samples agree with webdataset and open_clip byte for byte, and scans count what is there."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from headwater.errors import MissingInput, UsageError
from tests.train.kit import picture, write_shards
from train import _shardscan
from train._picture_heads import decode_error, ends_well, size_in
from train._shardcheck import Spread
from train.preflight import data_id, list_sources, read_table, scan_data, sizes_json

POOL = Path(__file__).resolve().parents[2] / "examples" / "openclipart" / "pool"
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
    head = (
        b"\xff\xd8\xff\xc4\x00\x0b"
        + bytes(range(9))
        + b"\xff\xff\xc2\x00\x11\x08\x01\x02\x03\x04\x03"
        + bytes(9)
    )
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
    monkeypatch.setattr("train.preflight.LIGHT_BYTES", 0)
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
