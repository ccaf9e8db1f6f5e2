"""What a photo says about itself: orientation, when it was taken and in which time zone, where, and by which camera.

Nothing is rounded and nothing guessed: places are the fractions of the file (`[51, 1]`, not 51.0), a time without a zone stays without
one unless the satellites' time tells it, and then says so. Tags: CIPA DC-008 (EXIF 2.32) sections 4.6.4 to 4.6.6.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

from curate.polygons import tiff
from curate.polygons.containers import (
    COLOUR,
    EXIF,
    MOST_BYTES,
    PICTURE,
    BadPicture,
    exif_of,
    format_of,
    pieces_of,
)
from headwater.errors import IntegrityError
from headwater.files import named_io

ORIENTATION = 0x0112
MAKE, MODEL = 0x010F, 0x0110
TIMES = (  # name, time, zone, parts of a second; the directory of the first is named
    ("DateTimeOriginal", "exif", 0x9003, 0x9011, 0x9291),
    ("DateTimeDigitized", "exif", 0x9004, 0x9012, 0x9292),
    ("DateTime", "main", 0x0132, 0x9010, 0x9290),
)
# tags that name a person, a place or one camera among its like; what is shown when a file has them
PRIVATE = {
    "main": {
        0x010E: "ImageDescription", 0x013B: "Artist", 0x013C: "HostComputer", 0x02BC: "XMP", 0x83BB: "IPTC",
        0x8298: "Copyright", 0x8649: "Photoshop", 0x9C9B: "XPTitle", 0x9C9C: "XPComment", 0x9C9D: "XPAuthor",
        0x9C9E: "XPKeywords", 0x9C9F: "XPSubject", 0xC62F: "CameraSerialNumber",
    },
    "exif": {
        0x927C: "MakerNote", 0x9286: "UserComment", 0xA420: "ImageUniqueID", 0xA430: "CameraOwnerName",
        0xA431: "BodySerialNumber", 0xA435: "LensSerialNumber",
    },
}  # fmt: skip
_GPS_TEXT = {1: "latitude_ref", 3: "longitude_ref", 16: "direction_ref", 18: "datum", 29: "date"}
_GPS_FRACTIONS = {
    2: "latitude",
    4: "longitude",
    6: "altitude",
    7: "time",
    11: "dop",
    17: "direction",
    31: "error_metres",
}
_STAMP = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d):(\d\d):(\d\d)$")
_ZONE = re.compile(r"([+-])(\d\d):(\d\d)$")
_ZONE_STEP = timedelta(minutes=15)  # every zone is a multiple
_ZONE_SLACK = timedelta(minutes=2)  # between the clock and the satellites' time


@dataclass(frozen=True)
class Photo:
    """What one file says. `taken` is ISO 8601; `zone_from` is "exif", "gps" or None; `gps` as `place_of` gives it.

    `private` lists what `scrub` takes out; `trouble` says why the EXIF block could not be read.
    """

    format: str
    width: int
    height: int
    orientation: int | None = None
    taken: str | None = None
    taken_from: str | None = None
    zone_from: str | None = None
    make: str | None = None
    model: str | None = None
    gps: dict[str, Any] | None = None
    private: tuple[str, ...] = ()
    trouble: str | None = None
    tags: dict[str, tuple[int, ...]] = field(default_factory=dict, compare=False)


def read_photo(path: Path) -> Photo:
    """Read a JPEG, PNG or WebP file. Raises MissingInput, IntegrityError (no picture, cut short, too large)."""
    return photo_of(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """A picture file's bytes; IntegrityError beyond the limit."""
    with named_io(path), open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise IntegrityError(f"{path}: more than {MOST_BYTES:,} bytes are no photo")
    return data


def photo_of(data: bytes, name: str = "picture") -> Photo:
    """As `read_photo`, of bytes; `name` is for messages."""
    from curate._image_header import read_header

    form = format_of(data)
    header = read_header(io.BytesIO(data)) if form else None
    if form is None or header is None:
        raise IntegrityError(f"{name}: not a JPEG, PNG or WebP picture that can be read")
    try:
        pieces = pieces_of(data)
    except BadPicture as error:
        raise IntegrityError(f"{name}: {error}", hint="restore the file from its source") from error
    private = [piece.kind for piece in pieces if piece.kind not in (PICTURE, COLOUR, EXIF)]
    raw = exif_of(data, pieces)
    if raw is None:
        return Photo(form, header.width, header.height, header.orientation, private=_once(private))
    try:
        block = tiff.read(raw)
    except tiff.BadTiff as error:
        return Photo(
            form, header.width, header.height, header.orientation,
            private=_once([*private, "exif"]), trouble=str(error),
        )  # fmt: skip
    when, from_tag, zone = time_of(block)
    return Photo(
        form, header.width, header.height, orientation_of(block), when, from_tag, zone,
        _text(block.main, MAKE), _text(block.main, MODEL), place_of(block) or None,
        _once([*private, *private_of(block)]),
        tags={name: tuple(sorted(getattr(block, name))) for name in ("main", "exif", "gps", "thumbnail")},
    )  # fmt: skip


def _once(names: list[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


def _text(tags: tiff.Tags, tag: int) -> str | None:
    return tags[tag].text() if tag in tags else None


def orientation_of(block: tiff.Block) -> int | None:
    """The orientation 1-8, None where there is none or another value."""
    found = block.main[ORIENTATION].numbers() if ORIENTATION in block.main else []
    return found[0] if len(found) == 1 and 1 <= found[0] <= 8 else None


def private_of(block: tiff.Block) -> list[str]:
    """Names of what in the block tells of a person, a place or one camera."""
    found = [name for tag, name in PRIVATE["main"].items() if tag in block.main]
    found += [name for tag, name in PRIVATE["exif"].items() if tag in block.exif]
    return found + ["GPS"] * bool(block.gps) + ["thumbnail"] * bool(block.thumbnail)


def place_of(block: tiff.Block) -> dict[str, Any]:
    """The GPS directory: texts, and fractions as [numerator, denominator] exactly as written (latitude: degrees, minutes, seconds)."""
    place: dict[str, Any] = {}
    for tag, value in sorted(block.gps.items()):
        if tag in _GPS_TEXT and (text := value.text()):
            place[_GPS_TEXT[tag]] = text
        elif tag in _GPS_FRACTIONS and (pairs := value.pairs()):
            listed = [list(pair) for pair in pairs]
            place[_GPS_FRACTIONS[tag]] = listed if tag in (2, 4, 7) else listed[0]
        elif tag == 5 and (numbers := list(value.data[:1])):
            place["altitude_ref"] = numbers[0]  # 1: below the sea
    return place


def degrees(place: dict[str, Any]) -> tuple[Fraction, Fraction] | None:
    """(latitude, longitude) in degrees, exact, north and east positive; None where the place does not say or says nonsense."""
    found = []
    for name, most, signs in (("latitude", 90, {"N": 1, "S": -1}), ("longitude", 180, {"E": 1, "W": -1})):
        pairs, sign = place.get(name, []), signs.get(place.get(f"{name}_ref", ""))
        if sign is None or not 1 <= len(pairs) <= 3 or not all(below for _, below in pairs):
            return None
        value = sum((Fraction(above, below) / 60**n for n, (above, below) in enumerate(pairs)), Fraction(0))
        if value > most:
            return None
        found.append(sign * value)
    return found[0], found[1]


def time_of(block: tiff.Block) -> tuple[str | None, str | None, str | None]:
    """(ISO 8601 time, the tag it is from, where its zone is from: "exif", "gps", None)."""
    for name, where, stamp_tag, zone_tag, part_tag in TIMES:
        stamp = _STAMP.match(_text(getattr(block, where), stamp_tag) or "")
        if not stamp:
            continue
        try:
            local = datetime(*map(int, stamp.groups()))  # type: ignore[arg-type]  # noqa: DTZ001
        except ValueError:
            continue
        part = _text(block.exif, part_tag) or ""
        text = local.isoformat() + (f".{part}" if part.isdigit() else "")
        zone = _text(block.exif, zone_tag) or ""
        if (found := _ZONE.match(zone)) and int(found[2]) <= 14 and int(found[3]) < 60:
            return text + zone, name, "exif"
        derived = _zone_by_gps(local, place_of(block))
        return (text + derived, name, "gps") if derived else (text, name, None)
    return None, None, None


def _zone_by_gps(local: datetime, place: dict[str, Any]) -> str | None:
    """The zone that explains the difference to the satellites' UTC time, where one does to within two minutes."""
    pairs = place.get("time", [])
    try:
        year, month, day = map(int, place.get("date", "").split(":"))
        hours, minutes, seconds = (Fraction(*pair) for pair in pairs)
        utc = datetime(year, month, day) + timedelta(seconds=float(hours * 3600 + minutes * 60 + seconds))  # noqa: DTZ001
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    steps = round((local - utc) / _ZONE_STEP)
    if abs(local - utc - steps * _ZONE_STEP) > _ZONE_SLACK or abs(steps) > 14 * 4:
        return None
    whole, quarter = divmod(abs(steps), 4)
    return f"{'-' if steps < 0 else '+'}{whole:02}:{15 * quarter:02}"
