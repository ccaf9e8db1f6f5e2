"""EXIF blocks and the files around them: exact values, and bounded work on hostile bytes."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from curate.polygons import tiff
from curate.polygons.containers import BadPicture, exif_of, pieces_of
from curate.polygons.exif import degrees, photo_of, read_photo
from headwater.errors import IntegrityError, MissingInput
from tests.curate.polygons.photo_kit import GPS, exif_bytes, photo, picture_bytes

FORMATS = ("JPEG", "PNG", "WEBP")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_orientation_time_and_camera(form: str, orientation: int | None) -> None:
    block = exif_bytes(
        orientation, taken="2024:05:01 10:20:30", zone="+05:45", main={0x010F: "Maker", 0x0110: "Model"}
    )
    found = photo_of(picture_bytes(form, exif=block))
    assert (found.format, found.width, found.height, found.orientation) == (form, 40, 24, orientation)
    assert (found.taken, found.taken_from, found.zone_from) == (
        "2024-05-01T10:20:30+05:45",
        "DateTimeOriginal",
        "exif",
    )
    assert (found.make, found.model, found.private, found.gps) == ("Maker", "Model", (), None)


def test_places_are_the_fractions_of_the_file(tmp_path: Path) -> None:
    found = read_photo(photo(tmp_path, "a", gps=GPS))
    assert found.gps is not None
    assert found.gps["latitude"] == [[33, 1], [52, 1], [123456, 10007]]
    assert (found.gps["longitude"], found.gps["longitude_ref"]) == ([[151, 1], [12, 1], [3599, 100]], "E")
    assert (found.gps["altitude"], found.gps["altitude_ref"]) == (
        [2469, 200],
        0,
    )  # as Pillow wrote 12345 / 1000
    place = degrees(found.gps)
    assert place == (
        -(33 + Fraction(52, 60) + Fraction(123456, 10007 * 3600)),
        151 + Fraction(1, 5) + Fraction(3599, 360000),
    )
    assert "GPS" in found.private


@pytest.mark.parametrize(
    "change",
    [
        {1: "X"},
        {2: (IFDRational(91, 1), IFDRational(0, 1), IFDRational(0, 1))},
        {4: (IFDRational(1, 0),) * 3},
    ],
)
def test_places_that_are_none(change: dict[int, Any]) -> None:
    found = photo_of(picture_bytes(exif=exif_bytes(gps=GPS | change)))
    assert found.gps is not None and degrees(found.gps) is None


@pytest.mark.parametrize(
    ("local", "utc", "zone"),
    [
        ("2024:05:01 11:02:03", (1, 2, 3), "+10:00"),
        ("2024:04:30 21:32:50", (1, 2, 3), "-03:30"),
        ("2024:05:01 11:12:03", (1, 2, 3), None),  # ten minutes are no zone
        ("2024:05:03 11:02:03", (1, 2, 3), None),  # an old fix
    ],
)
def test_the_zone_that_satellites_tell(local: str, utc: tuple[int, ...], zone: str | None) -> None:
    found = photo_of(
        picture_bytes(
            exif=exif_bytes(taken=local, gps=GPS | {7: tuple(IFDRational(value, 1) for value in utc)})
        )
    )
    assert (found.taken or "")[19:] == (zone or "")
    assert found.zone_from == ("gps" if zone else None)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (
            {0x9003: "2024:02:30 10:00:00", 0x9004: "2024:02:03 10:00:00"},
            ("2024-02-03T10:00:00", "DateTimeDigitized"),
        ),
        ({0x9003: "    :  :     :  :  "}, (None, None)),
        ({0x9003: "2024:02:03 10:00:00", 0x9291: "0450"}, ("2024-02-03T10:00:00.0450", "DateTimeOriginal")),
        ({0x9003: "2024:02:03 10:00:00", 0x9011: "   :  "}, ("2024-02-03T10:00:00", "DateTimeOriginal")),
        ({0x9003: "2024:02:03 10:00:00", 0x9011: "+15:00"}, ("2024-02-03T10:00:00", "DateTimeOriginal")),
    ],
)
def test_times_as_cameras_write_them(tags: dict[int, Any], expected: tuple[Any, Any]) -> None:
    found = photo_of(picture_bytes(exif=exif_bytes(exif=tags)))
    assert (found.taken, found.taken_from) == expected


def test_what_is_private_is_named() -> None:
    thumbnail = picture_bytes()
    block = exif_bytes(6, gps=GPS, main={0x013B: "Ann"}, exif={0xA431: "SN1", 0x927C: b"note", 0xA420: "id"})
    data = picture_bytes(exif=block, comment=b"hello") + thumbnail
    assert photo_of(data).private == (
        "Artist", "BodySerialNumber", "GPS", "ImageUniqueID", "MakerNote", "text", "trailing",
    )  # fmt: skip


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_another_orientation_is_none(value: int) -> None:
    assert photo_of(picture_bytes(exif=exif_bytes(value))).orientation is None


@pytest.mark.parametrize("order", "<>")
def test_both_byte_orders_and_rewriting(order: str) -> None:
    main = {
        0x0112: tiff.Value(3, 1, struct.pack(f"{order}H", 6), order),
        0x010F: tiff.Value(2, 6, b"Maker\0", order),
        0x011A: tiff.Value(5, 1, struct.pack(f"{order}II", 72, 1), order),
    }
    exif = {0x9003: tiff.Value(2, 20, b"2024:05:01 10:20:30\0", order)}
    data = tiff.write(main, exif, order)
    block = tiff.read(data)
    assert {tag: value for tag, value in block.main.items() if tag != 0x8769} == main
    assert (block.exif, block.gps, block.thumbnail) == (exif, {}, {})
    assert tiff.write({}, {}, order) == b""
    seen = Image.open(io.BytesIO(picture_bytes(exif=b"Exif\0\0" + data))).getexif()
    assert (seen[0x0112], seen[0x010F], seen.get_ifd(0x8769)[0x9003]) == (6, "Maker", "2024:05:01 10:20:30")


def directory(*entries: tuple[int, int, int, int], after: int = 0, at: int = 8) -> bytes:
    head = b"II*\0" + struct.pack("<I", at)
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return head + body + struct.pack("<I", after)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"II*\0",
        b"II+\0\x08\0\0\0\0\0",
        directory(at=4),
        directory(at=1 << 30),
        directory((0x010F, 2, 1 << 31, 8)),
        directory((0x010F, 2, 100, 0xFFFFFFF0)),
        directory(after=8),
        directory((0x8769, 4, 1, 8)),
        directory((0x8769, 2, 2, 8)),
        directory((0x8825, 4, 1, 26), after=26)[:-4],
        b"II*\0\x08\0\0\0" + struct.pack("<H", 65535),
        directory(*[(tag, 7, 600, 8) for tag in range(100)]),
    ],
)
def test_blocks_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(tiff.BadTiff):
        tiff.read(data)
    found = photo_of(picture_bytes("PNG", exif=b"Exif\0\0" + data) if len(data) > 8 else picture_bytes())
    assert (found.width, found.height) == (40, 24)
    assert bool(found.trouble) == (len(data) > 8)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FORMATS), st.data())
def test_damaged_files_raise_nothing_else(form: str, data: st.DataObject) -> None:
    whole = picture_bytes(form, exif=exif_bytes(6, gps=GPS, taken="2024:05:01 10:20:30"))
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        photo_of(bytes(damaged))
    except IntegrityError:
        pass


@pytest.mark.parametrize("form", FORMATS)
def test_pieces_cover_the_file(form: str) -> None:
    data = picture_bytes(form, exif=exif_bytes(3)) + b"behind"
    pieces = pieces_of(data)
    assert [piece.start for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]
    assert (pieces[0].start, pieces[-1].end) == (0, len(data))
    assert pieces[-1].kind == "trailing"
    assert (exif_of(data, pieces) or b"")[:2] in (b"II", b"MM")
    for length in (3, 30, len(data) - 12):
        with pytest.raises(BadPicture):
            pieces_of(data[:length])


def test_progressive_pictures_have_many_scans() -> None:
    data = picture_bytes(progressive=True)
    assert sum(piece.name == "scan" for piece in pieces_of(data)) > 1


def test_files_that_are_no_photos(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        read_photo(tmp_path / "no.jpg")
    for content in (b"", b"text", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBP", picture_bytes("GIF")):
        (tmp_path / "x.jpg").write_bytes(content)
        with pytest.raises(IntegrityError):
            read_photo(tmp_path / "x.jpg")
