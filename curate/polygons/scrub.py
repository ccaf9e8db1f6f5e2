"""Copies of photos without what tells of people, places and single cameras; the pixels' own bytes are copied, not coded again.

Kept are the pieces that show the picture (`containers`), colour profiles, and of EXIF the tags listed here: orientation, times, exposure,
lens and model. All else goes: GPS, serial numbers, owner, maker's notes, thumbnails and previews, XMP, IPTC, comments, whatever stands behind the
picture's end. Orientation is kept as a tag, or applied, which has to code a turned picture again and says so. With a list of what to
keep, an unknown block cannot slip through. Original bytes can be kept in encrypted sidecars (`sealing`).
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from curate.polygons import tiff
from curate.polygons._digest import image_path
from curate.polygons._json_strict import dump, loads
from curate.polygons.containers import COLOUR, EXIF, PICTURE, Piece, exif_of, pieces_of
from curate.polygons.exif import ORIENTATION, Photo, photo_of, private_of, read_bytes
from curate.polygons.sealing import Copy, Key, Literal, Ops, seal
from curate.polygons.shown import as_shown
from curate.polygons.store import Annotations, set_column
from headwater.errors import BadInputs, HeadwaterError, UsageError
from headwater.files import FOLDER_MODE, atomic_file, named_io

ORIENTATIONS = ("keep", "apply")
TIMES = frozenset({0x0132, 0x9003, 0x9004, 0x9010, 0x9011, 0x9012, 0x9290, 0x9291, 0x9292})
KEPT_MAIN = frozenset({0x010F, 0x0110, ORIENTATION, 0x011A, 0x011B, 0x0128, 0x0132, 0x0213})
KEPT_EXIF = frozenset(
    {0x829A, 0x829D, 0x8822, 0x8827, 0x8830, 0x9000, 0x9101, *TIMES, *range(0x9201, 0x920B), 0xA000, 0xA001, 0xA002,
     0xA003, 0xA217, 0xA300, 0xA301, *range(0xA401, 0xA40B), 0xA40C, 0xA432, 0xA433, 0xA434}
) - {0x0132}  # fmt: skip
SIZES = frozenset({0xA002, 0xA003})  # of the picture as stored
PLACE_KEYS = ("gps", "geos_point", "geos_geojson", "latitude", "longitude", "location")  # of an image object
MOST_VALUE = 1024  # bytes of a kept tag: longer ones are no plain fact, and a JPEG segment holds 65,535
JFIF = b"\xff\xe0\x00\x10JFIF\0"
VP8X_EXIF, VP8X_XMP = 0x08, 0x04


@dataclass(frozen=True)
class Scrubbed:
    """A photo's new bytes; `removed` names what went; `coded_again` whether pixels were; `ops` rebuild the old bytes from the new."""

    data: bytes
    removed: tuple[str, ...]
    coded_again: bool
    ops: Ops


def scrub_bytes(
    data: bytes, *, orientation: str = "keep", keep_times: bool = True, name: str = "picture"
) -> Scrubbed:
    """Scrub a JPEG, PNG or WebP. Scrubbing twice changes nothing more. Raises IntegrityError for other or damaged files, UsageError."""
    if orientation not in ORIENTATIONS:
        raise UsageError(f"orientation {orientation!r}: one of {', '.join(ORIENTATIONS)}")
    photo = photo_of(data, name)
    pieces = pieces_of(data)
    block, removed = _kept_block(data, pieces, photo, keep_times)
    turn = orientation == "apply" and (photo.orientation or 1) != 1
    if orientation == "apply":
        block = block.removed({ORIENTATION} | (SIZES if turn else set()))
    if turn:
        upright, _ = _rebuilt(data, pieces, photo.format, b"")
        new = _turned(upright, photo, block.bytes, name)
        clean = scrub_bytes(new, keep_times=keep_times, name=name).data  # Pillow's own additions
        return Scrubbed(clean, _names([*removed, "orientation applied"]), True, [Literal(data)])
    out, ops = _rebuilt(data, pieces, photo.format, block.bytes)
    return Scrubbed(out, _names(removed), False, ops)


@dataclass(frozen=True)
class _Block:
    """The tags that stay."""

    main: tiff.Tags
    exif: tiff.Tags
    order: str

    @property
    def bytes(self) -> bytes:
        return tiff.write(self.main, self.exif, self.order)

    def removed(self, tags: Iterable[int]) -> _Block:
        gone = set(tags)
        main, exif = (
            {tag: value for tag, value in own.items() if tag not in gone} for own in (self.main, self.exif)
        )
        return _Block(main, exif, self.order)


def _names(found: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(found)))


def _kept_block(data: bytes, pieces: list[Piece], photo: Photo, keep_times: bool) -> tuple[_Block, list[str]]:
    """(tags that stay, names of what goes)."""
    removed = [piece.kind for piece in pieces if piece.kind not in (PICTURE, COLOUR, EXIF)]
    removed += ["exif"] * (sum(piece.kind == EXIF for piece in pieces) > 1)
    raw = exif_of(data, pieces)
    if raw is None:
        return _Block({}, {}, "<"), removed
    try:
        found = tiff.read(raw)
    except tiff.BadTiff:  # nothing of it can be trusted but what viewers show
        main = (
            {ORIENTATION: tiff.Value(3, 1, struct.pack("<H", photo.orientation), "<")}
            if photo.orientation
            else {}
        )
        return _Block(main, {}, "<"), [*removed, "exif"]
    removed += private_of(found)
    main = {
        tag: value for tag, value in found.main.items() if tag in KEPT_MAIN and len(value.data) <= MOST_VALUE
    }
    exif = {
        tag: value for tag, value in found.exif.items() if tag in KEPT_EXIF and len(value.data) <= MOST_VALUE
    }
    others = len(found.main) - len(main) - len({tiff.EXIF_POINTER, tiff.GPS_POINTER} & found.main.keys())
    others += (
        len(found.exif) - len(exif) + len(found.interop) - len({tiff.INTEROP_POINTER} & found.exif.keys())
    )
    named = sum(name not in ("GPS", "thumbnail") for name in private_of(found))
    removed += ["other tags"] * (others > named)
    block = _Block(main, exif, found.order)
    if keep_times:
        return block, removed
    return block.removed(TIMES), removed + ["times"] * bool((main.keys() | exif.keys()) & TIMES)


def _rebuilt(data: bytes, pieces: list[Piece], form: str, block: bytes) -> tuple[bytes, Ops]:
    out = bytearray()
    ops: Ops = []
    pending = block
    for piece in pieces:
        own = data[piece.start : piece.end]
        if piece.kind == EXIF and pending:
            new = _exif_piece(form, pending)
            pending = b""
        elif piece.name == "JFIF" and piece.kind not in (PICTURE, COLOUR):
            new = JFIF + own[9:16] + b"\0\0"  # without its thumbnail
        elif piece.name == "VP8X" and form == "WEBP":
            flags = own[8] & ~(VP8X_XMP | VP8X_EXIF) | (VP8X_EXIF if block else 0)
            new = own[:8] + bytes([flags]) + own[9:]
        else:
            new = own if piece.kind in (PICTURE, COLOUR) else b""
        if new == own:
            ops.append(Copy(len(out), len(new)))
        else:
            ops.append(Literal(own))
        out += new
    if form == "WEBP":
        old, new_size = data[4:8], struct.pack("<I", len(out) - 8)
        out[4:8] = new_size
        if old != new_size:
            ops[0] = Literal(data[:12])
    return bytes(out), ops


def _exif_piece(form: str, block: bytes) -> bytes:
    if form == "JPEG":
        return b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block
    if form == "PNG":
        return (
            struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
        )
    return b"EXIF" + struct.pack("<I", len(block)) + block + bytes(len(block) % 2)


_TURNS = {  # what turns the stored pixels upright
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90",
}  # fmt: skip


def _turned(data: bytes, photo: Photo, block: bytes, name: str) -> bytes:
    """A picture without EXIF as its photo is shown, coded again: PNG and WebP without loss, JPEG with its own tables."""
    from PIL import Image

    from curate._picture_decode import PictureError, decode

    try:
        decode(data)  # every limit on hostile pictures is checked there
    except PictureError as error:
        raise BadInputs(f"{name}: {error.status}") from error
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=[photo.format]) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise BadInputs(f"{name}: an animation cannot be turned", hint="keep its orientation")
            how: dict[str, Any] = {"icc_profile": image.info.get("icc_profile")}
            if photo.format == "JPEG":
                found: dict[int, list[int]] = image.quantization  # type: ignore[attr-defined]
                tables = [found[number] for number in sorted(found)]
                if (photo.orientation or 1) > 4:  # rows become columns, also of frequencies
                    tables = [
                        [table[8 * column + row] for row in range(8) for column in range(8)]
                        for table in tables
                    ]
                how |= {"qtables": tables, "subsampling": 0}  # colours halved twice would blur twice
            elif photo.format == "WEBP":
                how |= {"lossless": True, "exact": True}
            shown = image.transpose(Image.Transpose[_TURNS[photo.orientation or 1]])
            shown.save(out, photo.format, **how, **({"exif": b"Exif\0\0" + block} if block else {}))
    return out.getvalue()


@dataclass
class Report:
    """One row a photo that was written ({file_name, removed, coded_again, sha256 and bytes before and after}); `bad`: (file, reason)."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)


def scrub_folder(
    names: Iterable[str],
    source: Path | str,
    target: Path | str,
    *,
    orientation: str = "keep",
    keep_times: bool = True,
    sealed: tuple[Path, Key] | None = None,
) -> Report:
    """Write scrubbed copies of the photos `names` under `source` into the new or empty `target`, under the same names.

    `sealed` is a folder, not inside `target`, and the key with which what was taken out is kept there as NAME.sealed. A photo that cannot
    be read is not written at all. Raises UsageError.
    """
    if orientation not in ORIENTATIONS:
        raise UsageError(f"orientation {orientation!r}: one of {', '.join(ORIENTATIONS)}")
    folder, root = Path(source), Path(target)
    for path in (root, sealed[0]) if sealed else (root,):
        if path.exists() and any(path.iterdir()):
            raise UsageError(f"{path}: is not empty", hint="name a new folder")
    if sealed and sealed[0].resolve().is_relative_to(root.resolve()):
        raise UsageError(f"{sealed[0]}: lies inside {root}, which is to be published")
    report = Report()
    for name in names:
        photo = image_path(folder, name)
        if photo is None or not photo.is_file():
            report.bad.append((name, "leads out of the folder" if photo is None else "missing"))
            continue
        try:
            data = read_bytes(photo)
            found = scrub_bytes(data, orientation=orientation, keep_times=keep_times, name=name)
        except HeadwaterError as error:
            report.bad.append((name, error.message.removeprefix(f"{name}: ")))
            continue
        if sealed:
            _write(sealed[0] / f"{name}.sealed", seal(name, data, found.data, found.ops, sealed[1]))
        _write(root / name, found.data)
        before, after = (hashlib.sha256(own).hexdigest() for own in (data, found.data))
        report.rows.append(
            {
                "file_name": name, "removed": list(found.removed), "coded_again": found.coded_again,
                "bytes_before": len(data), "bytes_after": len(found.data), "sha256_before": before, "sha256_after": after,
            }
        )  # fmt: skip
    return report


def _write(path: Path, data: bytes) -> None:
    with named_io(path):
        path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    with atomic_file(path, durable=False) as out:
        out.write(data)


def scrub_annotations(
    annotations: Annotations, report: Report, *, orientation: str = "keep", keep_times: bool = True
) -> Annotations:
    """A copy that goes with the scrubbed photos: their digests, no places, polygons turned where orientation was applied.

    Images that were not written are left out with their annotations. Raises what `as_shown` raises.
    """
    written = {row["file_name"]: row["sha256_after"] for row in report.rows}
    names = annotations.images["file_name"].to_pylist()
    found = annotations.take([row for row, name in enumerate(names) if name in written])
    table = found.images
    file_names = table["file_name"].to_pylist()
    digests = [
        written[name] if old else None
        for name, old in zip(file_names, table["sha256"].to_pylist(), strict=True)
    ]
    table = set_column(table, "sha256", digests)
    table = set_column(table, "extra", [_without_places(text) for text in table["extra"].to_pylist()])
    if not keep_times:
        table = set_column(table, "datetime", [None] * len(table))
    found = replace(found, images=table)
    return as_shown(found) if orientation == "apply" else found


def _without_places(text: str | None) -> str | None:
    if text is None:
        return None
    extra = {key: value for key, value in loads(text.encode()).items() if key not in PLACE_KEYS}
    if isinstance(extra.get("intake"), dict):
        extra["intake"] = {key: value for key, value in extra["intake"].items() if key not in PLACE_KEYS}
    if isinstance(extra.get("labelme"), dict):  # a path may name its owner
        extra["labelme"] = {key: value for key, value in extra["labelme"].items() if key != "imagePath"}
    return dump(extra) if extra else None
