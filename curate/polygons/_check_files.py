"""Checks of the files of images: there, within the folder, readable, of the declared size, turn and digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from curate._picture_bytes import MAX_BYTES, PictureError, format_of, prepare
from curate._picture_decode import decode
from curate.polygons._check_rows import safe_name
from curate.polygons._findings import Collector
from curate.polygons.store import Annotations
from headwater.console import track

SMALL = 64  # pixels a side that a picture is decoded to: enough to know that it can be


@dataclass(frozen=True)
class Seen:
    """A file that was looked at."""

    sha256: str
    width: int  # as stored, not as turned
    height: int
    orientation: int  # EXIF, 1 where there is none


def look(path: Path) -> Seen:
    """Read and decode a picture. Raises PictureError for what is none, OSError for what cannot be read."""
    with path.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise PictureError("too large")
    turn = prepare(data, format_of(data)).orientation
    width, height = decode(data, max_side=SMALL).info["size"]
    if turn > 4:
        width, height = height, width
    return Seen(hashlib.sha256(data).hexdigest(), width, height, turn)


def check_files(
    annotations: Annotations, folder: Path, out: Collector
) -> tuple[dict[int, tuple[int, int]], int]:
    """({image row: (width, height) as stored}, number of files looked at); adds the findings about files.

    A name that leads out of `folder`, by itself or by links, is never opened.
    """
    table = annotations.images
    columns = {
        key: table[key].to_pylist() for key in ("file_name", "width", "height", "orientation", "sha256")
    }
    root = folder.resolve()
    sizes: dict[int, tuple[int, int]] = {}
    digests: dict[str, int] = {}
    opened = 0
    with track("images", len(table), "files") as bar:
        for row, name in enumerate(columns["file_name"]):
            bar.add(1)
            if name is None or not safe_name(name):
                continue  # told among the file names
            path = folder / name
            try:
                real = path.resolve(strict=True)
                if not real.is_relative_to(root):
                    out.add("file-outside", "images", [row], f"{name} leads out of the folder by a link")
                    continue
                if not real.is_file():
                    out.add("file-missing", "images", [row], f"{name} is no file")
                    continue
                opened += 1
                seen = look(real)
            except (FileNotFoundError, NotADirectoryError):
                out.add("file-missing", "images", [row], f"{name} is not there")
                continue
            except PictureError as error:
                out.add("file-unreadable", "images", [row], f"{name}: {error.status}")
                continue
            except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name too long
                out.add("file-unreadable", "images", [row], f"{name}: {type(error).__name__}")
                continue
            sizes[row] = (seen.width, seen.height)
            _compare(row, name, seen, {key: values[row] for key, values in columns.items()}, out)
            if digests.setdefault(seen.sha256, row) != row:
                out.add(
                    "image-duplicate",
                    "images",
                    [row],
                    f"the bytes are those of image row {digests[seen.sha256]}",
                )
    return sizes, opened


def _compare(row: int, name: str, seen: Seen, declared: dict[str, object], out: Collector) -> None:
    size = (declared["width"], declared["height"])
    if None not in size and size != (seen.width, seen.height):
        told = f"{name} is {seen.width} x {seen.height}, declared {size[0]} x {size[1]}"
        if seen.orientation > 4 and size == (seen.height, seen.width):
            out.add("file-turned", "images", [row], f"{told}; its EXIF orientation is {seen.orientation}")
        else:
            out.add("file-size", "images", [row], told)
    if (declared["orientation"] or 1) != seen.orientation:
        given = declared["orientation"]
        told = "none is declared" if given is None else f"declared is {given}"
        out.add(
            "file-orientation", "images", [row], f"{name} has the EXIF orientation {seen.orientation}, {told}"
        )
    if declared["sha256"] is not None and str(declared["sha256"]).lower() != seen.sha256:
        out.add("file-digest", "images", [row], f"{name} has the sha256 {seen.sha256}")
