"""Two names for a dataset: one of what the annotations say, one of the pixels; neither depends on any order.

Annotations: SHA-256 over the canonical header, then the sorted SHA-256s of the images, then those of the annotations. An image or
annotation is its canonical JSON (keys sorted, whole numbers without a point, ASCII) without the coordinates, then the shape: form, and
for each part whether it is a hole, its exterior, its number of vertices, and the vertices as little-endian doubles (0 for -0).
Lists in the header (categories, tracks …) whose entries are objects with an id count as sets as well.
Pixels: SHA-256 over lines "sha256 of the file, two blanks, file name", sorted.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from curate.polygons._json_strict import loads
from curate.polygons.store import Annotations
from headwater.errors import BadInputs, IntegrityError
from headwater.hashing import digest_file

MARK = b"headwater annotations/1\n"
TEXTS = ("keypoints", "segmentation_extra", "extra")  # columns that hold JSON


def canonical(value: Any) -> Any:
    """`value` with whole doubles as integers, so that equal numbers are written alike."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= 1 << 53 else value
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    return [canonical(item) for item in value] if isinstance(value, list) else value


def canonical_bytes(value: Any) -> bytes:
    """Canonical JSON; a NaN, which only hand-made tables can have, is written as such."""
    return json.dumps(canonical(value), sort_keys=True, separators=(",", ":")).encode()


def digest_of(annotations: Annotations) -> str:
    """See `store.digest`."""
    found = hashlib.sha256(MARK)
    for lines in ([_header(annotations)], image_digests(annotations), annotation_digests(annotations)):
        found.update(struct.pack("<q", len(lines)))
        found.update(b"".join(sorted(lines)))
    return found.hexdigest()


def _header(annotations: Annotations) -> bytes:
    header = {}
    for key, value in annotations.header.items():
        if (
            isinstance(value, list)
            and value
            and all(isinstance(entry, dict) and "id" in entry for entry in value)
        ):
            value = sorted(canonical_bytes(entry).decode() for entry in value)
        header[key] = value
    return hashlib.sha256(canonical_bytes([header, sorted(annotations.missing)])).digest()


def image_digests(annotations: Annotations) -> list[bytes]:
    """SHA-256 of each image row."""
    return [hashlib.sha256(canonical_bytes(_row(row))).digest() for row in annotations.images.to_pylist()]


def annotation_digests(annotations: Annotations) -> list[bytes]:
    """SHA-256 of each annotation row with its shape."""
    found = []
    xy = np.empty((len(annotations.vertices), 2), "<f8")
    np.add(annotations.x, 0.0, out=xy[:, 0])  # -0 + 0 = 0
    np.add(annotations.y, 0.0, out=xy[:, 1])
    counts = np.diff(annotations.vertex_starts)
    heads = np.column_stack((annotations.holes, annotations.exteriors, counts)).astype("<i8")
    starts, ends = annotations.part_starts, annotations.vertex_starts
    for offset in range(0, len(annotations.annotations), 4096):
        for number, row in enumerate(annotations.annotations.slice(offset, 4096).to_pylist(), offset):
            del row["first_part"]
            row["rle"] = None if row["rle"] is None else row["rle"].hex()
            first, end = int(starts[number]), int(starts[number + 1])
            one = hashlib.sha256(canonical_bytes(_row(row)))
            one.update(heads[first:end].tobytes())
            one.update(xy[ends[first] : ends[end]].tobytes())
            found.append(one.digest())
    return found


def _row(row: dict[str, Any]) -> dict[str, Any]:
    for name in TEXTS:
        if row.get(name) is not None:
            try:
                row[name] = loads(row[name].encode())
            except ValueError as error:
                raise IntegrityError(f"column {name} of the annotations holds no JSON: {error}") from error
    return {key: value for key, value in row.items() if value is not None}


def image_path(folder: Path, name: str | None) -> Path | None:
    """The file of an image under `folder`; None for a name that leaves it (absolute, "..", a URL, a link that leads out) or is none."""
    if not name or "\0" in name or "://" in name or "\\" in name:
        return None
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or (len(name) > 1 and name[1] == ":"):
        return None
    if len(name.encode(errors="replace")) > 4096 or any(
        len(part.encode(errors="replace")) > 255 for part in parts.parts
    ):
        return None  # no file system holds it
    path = folder / parts
    try:
        return path if path.resolve().is_relative_to(folder.resolve()) else None
    except (OSError, RuntimeError):  # a loop of links
        return None


def pixel_digest_of(folder: Path, annotations: Annotations) -> str:
    """See `store.pixel_digest`. Raises BadInputs naming the images whose file is missing, outside of `folder`, or unnamed."""
    lines, bad = [], []
    for row, name in enumerate(annotations.images["file_name"].to_pylist()):
        path = image_path(folder, name)
        if path is None or not path.is_file():
            bad.append(name or f"image row {row}")
        else:
            lines.append(f"{digest_file(path, ['sha256']).sha256}  {name}\n".encode())
    if bad:
        more = f" and {len(bad) - 5:,} more" if len(bad) > 5 else ""
        raise BadInputs(f"{folder}: no file there for {', '.join(map(repr, bad[:5]))}{more}")
    return hashlib.sha256(b"".join(sorted(lines))).hexdigest()
