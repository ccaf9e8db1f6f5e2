"""Pictures of a block as they lie in its files, against the same pictures drawn again.

Nothing in the files is believed: a PNG must have the size that the recipe gives before it is decoded, tars are walked header by header,
and nothing is extracted.
"""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate._coco_file import dump, things_of
from curate._making_block import BlockTask, file_name, pictures_of, pixel_digest
from curate._sink_parquet import _object as row_of
from curate.generators import Picture
from curate.sinks import picture_key
from curate.tar import Member, members
from headwater.errors import HeadwaterError, IntegrityError

NAMED = 10  # differences of one block that are named
SIGNATURE = b"\x89PNG\r\n\x1a\n"
JSON_LIMIT_BYTES = 64 << 20

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Check:
    """One block to draw again: all of it, or the pictures in `wanted`."""

    task: BlockTask
    folder: Path
    pixels: str  # the digest of the recipe
    wanted: frozenset[int] | None


@dataclass
class Checked:
    """What was found."""

    checked: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Files:
    """The files of one picture."""

    png: bytes
    label: int | None = None
    mask: bytes | None = None
    things: list[dict[str, Any]] | None = None  # as the tar has them
    objects: list[dict[str, Any]] | None = None  # as the Parquet column has them


Reader = Callable[[str, str | None], Files]  # (key, path of the folder sink) -> files; raises IntegrityError


def check_block(check: Check) -> Checked:
    """Draw and compare."""
    with ExitStack() as files:
        try:
            read = _open(check, files)
        except (OSError, HeadwaterError) as error:
            problem = f"{check.folder}: block {check.task.name}: {error}"
            found = Checked() if check.wanted is not None else _compare(check, None)
            return Checked(found.checked, [problem, *found.problems])
        return _compare(check, read)


def _compare(check: Check, read: Reader | None) -> Checked:
    from blake3 import blake3

    task, result = check.task, Checked()
    generation = task.generation
    digests, differ = blake3(), []
    wanted = set(check.wanted) if check.wanted is not None else None
    for row, instance, picture, _, _ in pictures_of(task, wanted):
        pixel_digest(digests, picture)
        result.checked += 1
        if read is None:
            continue
        category = generation.first_category + row
        key = picture_key(category, instance)
        try:
            found = read(key, file_name(generation, row, instance, task.records[row]))
            differ += [f"picture {key}: {what}" for what in _differences(found, picture, category)]
        except (OSError, HeadwaterError) as error:
            differ.append(f"picture {key}: {error}")
    where = check.folder if task.sink in ("folder", "recipe") else check.folder / f"{task.name}.{task.sink}"
    result.problems += [f"{where}: {text}" for text in differ[:NAMED]]
    if len(differ) > NAMED:
        result.problems.append(f"{where}: and {len(differ) - NAMED:,} more differences in block {task.name}")
    if wanted is None and digests.hexdigest() != check.pixels:
        result.problems.append(
            f"{check.folder}: block {task.name}: what is drawn has not the pixels of the recipe's digest"
        )
    return result


def _differences(files: Files, picture: Picture, label: int) -> Iterator[str]:
    if not np.array_equal(decode(files.png, picture.pixels.shape), picture.pixels):
        yield "other pixels than those drawn"
    if files.label is not None and files.label != label:
        yield f"its class is {files.label}, drawn is {label}"
    labels = picture.labels
    if (
        files.mask is not None
        and labels is not None
        and not np.array_equal(decode(files.mask, labels.shape), labels)
    ):
        yield "another mask than the one drawn"
    if files.things is not None and dump(files.things) != dump(things_of(picture)):
        yield "other annotations than those drawn"
    if files.objects is not None and files.objects != [row_of(thing) for thing in things_of(picture)]:
        yield "other annotations than those drawn"


def decode(data: bytes, shape: tuple[int, ...]) -> U8:
    """Pixels of a PNG that must have this shape. Raises IntegrityError."""
    head = data[:26]
    wanted = (shape[1], shape[0], 8, 2 if len(shape) == 3 else 0)
    if len(head) < 26 or head[:8] != SIGNATURE or head[12:16] != b"IHDR":
        raise IntegrityError("not a PNG picture")
    if struct.unpack(">IIBB", head[16:26]) != wanted:
        raise IntegrityError(
            f"not a picture of {shape[1]} x {shape[0]} pixels in {'colours' if len(shape) == 3 else 'grey'}"
        )
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            found = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise IntegrityError("a PNG that cannot be decoded") from error
    if found.shape != shape or found.dtype != np.uint8:
        raise IntegrityError("a PNG of another kind")
    return found


def _open(check: Check, files: ExitStack) -> Reader | None:
    """How to read pictures of the block; None where there are no files."""
    task, limit = check.task, _limit(check.task)
    if task.sink == "folder":
        return lambda key, path: _loose(check.folder, key, path, limit, task.annotated)
    if task.sink == "tar":
        return _tar(check.folder / f"{task.name}.tar", task, limit, files)
    if task.sink == "parquet":
        return _parquet(check.folder / f"{task.name}.parquet", task, limit, files)
    return None


def _limit(task: BlockTask) -> int:
    """The largest file that a picture of this set can need."""
    side = int(task.generation.parameters.get("image_size", 8192))
    return side * (side * 3 + 1) * 2 + (1 << 16)


def _loose(folder: Path, key: str, path: str | None, limit: int, annotated: bool) -> Files:
    name = path or f"image/{key.partition('_')[0]}/{key}.png"
    png = _read_file(folder / name, limit)
    mask = _read_file(folder / f"mask/{name.removeprefix('image/')}", limit) if annotated else None
    return Files(png, mask=mask)


def _read_file(path: Path, limit: int) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise IntegrityError(f"{path} is missing")
    with open(path, "rb") as handle:
        data = handle.read(limit + 1)
    if len(data) > limit:
        raise IntegrityError(f"{path} is larger than such a picture can be")
    return data


def _tar(path: Path, task: BlockTask, limit: int, files: ExitStack) -> Reader:
    """Members by name; there must be those of the block's pictures and no others."""
    places: dict[str, Member] = {}
    fd = files.enter_context(path.open("rb")).fileno()
    endings = (".png", ".cls", *((".mask.png", ".json") if task.annotated else ()))
    for found in members(lambda at, length: os.pread(fd, length, at), os.fstat(fd).st_size, path.name):
        if not isinstance(found, Member):
            continue
        if len(places) > len(endings) * task.pictures:
            raise IntegrityError(f"{path}: has more members than the block has pictures")
        places[found.name.decode("utf-8", "replace")] = found
    generation = task.generation
    keys = (generation.place(n) for n in range(task.first, task.first + task.pictures))
    wanted = {picture_key(generation.first_category + row, k) + end for row, k in keys for end in endings}
    if odd := sorted(places.keys() ^ wanted):
        raise IntegrityError(f"{path}: has not the members of its pictures, such as {odd[0][:60]}")

    def data(name: str, most: int) -> bytes:
        member = places[name]
        if member.kind != "file" or member.size_bytes > most:
            raise IntegrityError(f"{name} is no file of a picture")
        return os.pread(fd, member.size_bytes, member.data_offset)

    def read(key: str, _: str | None) -> Files:
        text = data(f"{key}.cls", 20)
        label = int(text) if text.isdigit() else -1
        if not task.annotated:
            return Files(data(f"{key}.png", limit), label)
        try:
            things = json.loads(data(f"{key}.json", JSON_LIMIT_BYTES))
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"{key}.json is no JSON") from error
        return Files(data(f"{key}.png", limit), label, data(f"{key}.mask.png", limit), things)

    return read


def _parquet(path: Path, task: BlockTask, limit: int, files: ExitStack) -> Reader:
    """Rows in order, read in small batches as the pictures come."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = files.enter_context(pq.ParquetFile(path))
        if file.metadata.num_rows != task.pictures:
            raise IntegrityError(
                f"{path}: has {file.metadata.num_rows:,} rows for {task.pictures:,} pictures"
            )
        columns = ["key", "label", "image"] + (["mask", "objects"] if task.annotated else [])
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            raise IntegrityError(f"{path}: has no column {missing[0]}")
        batches = file.iter_batches(batch_size=64, columns=columns)
    except pa.ArrowException as error:
        raise IntegrityError(f"{path}: cannot be read: {str(error)[:100]}") from error
    rows = _rows(path, batches)

    def read(key: str, _: str | None) -> Files:
        for row in rows:
            if row["key"] == key:
                png = (row["image"] or {}).get("bytes") or b""
                if len(png) > limit:
                    raise IntegrityError(f"{key} is larger than such a picture can be")
                mask = (row["mask"] or {}).get("bytes") or b"" if task.annotated else None
                return Files(png, row["label"], mask, objects=row["objects"] if task.annotated else None)
        raise IntegrityError("no row has its key, in this order")

    return read


def _rows(path: Path, batches: Iterator[Any]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    try:
        for batch in batches:
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{path}: cannot be read: {str(error)[:100]}") from error
