"""The work of one block in a worker: draw, digest, encode, write; and a note of it, so that the next run need not do it again.

A block's note is `blocks/NAME.json` beside the folder that is written to. It names size and time of every file, so a file that was
touched since is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate._memory import leave_pandas_out
from curate.drawing import Drawer, script_stream, share_of
from curate.generation import Block, Generation
from headwater import plugins
from headwater.errors import HeadwaterError
from headwater.files import atomic_file
from headwater.manifest import FileEntry, describe_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from curate.generators import Category, Picture

NOTE_LIMIT_BYTES = 64 << 20
SMALL_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Survey:
    """One process of the reference stream: its categories, and a mark for every block."""

    generation: Generation
    index: int


@dataclass(frozen=True)
class Take:
    """Files of a set that grows, as its record names them: the block is taken over if they are still so."""

    folder: Path
    files: tuple[FileEntry, ...]
    block: Block  # as the set that grows has it


@dataclass(frozen=True)
class BlockTask:
    """One block. `records` are the categories that occur in it, by row; `mark` where the reference stream starts."""

    generation: Generation  # without blocks
    sink: str
    annotated: bool
    parts: Path
    name: str
    first: int
    pictures: int
    records: dict[int, Category] = field(default_factory=dict)
    mark: bytes | None = None
    take: Take | None = None
    code: tuple[Path, str] | None = None  # a generator in a file that the user named
    objects: bool = False  # leave the lines of the COCO file


@dataclass(frozen=True)
class BlockDone:
    """What a block came to."""

    name: str
    pictures: int
    pixels: str
    rejected: int
    near_empty: int
    entries: tuple[FileEntry, ...]
    size_bytes: int
    how: str  # drawn, found (by an earlier run), taken (from the set that grows), damaged (there, and so drawn)


def make_block(task: BlockTask) -> BlockDone:
    """Make (or find, or take over) one block. Raises what drawing and writing raise."""
    done = _found(task)
    if done is not None:
        return done
    how = "drawn"
    if task.take is not None:
        done = _taken(task, task.take)
        if done is not None:
            return _noted(task, done)
        how = "damaged"
    return _noted(task, _drawn(task, how))


def out_folder(parts: Path) -> Path:
    """Where the output of a set is put together."""
    return parts / "out"


def objects_file(parts: Path, name: str) -> Path:
    """JSON lines of a block's annotations, for the COCO file."""
    return parts / "objects" / f"{name}.jsonl"


def pixel_digest(digests: Any, picture: Picture) -> None:
    """Add one picture to the digest of its block."""
    from blake3 import blake3

    one = blake3(picture.pixels)
    if picture.labels is not None:
        one.update(picture.labels)
    digests.update(one.digest())


def file_name(generation: Generation, row: int, instance: int, record: Category) -> str | None:
    """The folder sink's name of a picture where it is not the usual one: the reference stream has the script's."""
    if generation.stream != "reference":
        return None
    label = generation.first_category + row
    return f"image/{label:05d}/vertex_{record['vertex_num']:04d}_instance_{instance:04d}.png"


def _drawn(task: BlockTask, how: str) -> BlockDone:
    from blake3 import blake3

    from curate._png import Encoder
    from curate.sinks import STORED, Layout, open_block, picture_key

    if task.sink == "parquet":
        leave_pandas_out()
    generation = task.generation
    folder = out_folder(task.parts)
    layout = Layout(task.sink, task.annotated)
    objects = objects_file(task.parts, task.name) if task.objects else None
    stored, base = task.sink in STORED, generation.first_category
    digests, rejected, near_empty = blake3(), 0, 0
    encoder: Encoder | None = None
    with open_block(folder, task.name, layout, objects=objects) as writer:
        for row, instance, picture, again, empty in pictures_of(task):
            pixel_digest(digests, picture)
            rejected += again
            near_empty += empty
            png = b""
            if stored:
                if encoder is None:
                    encoder = Encoder(*picture.pixels.shape)
                png = encoder.encode(picture.pixels)
            category = base + row
            path = file_name(generation, row, instance, task.records[row])
            writer.add(picture_key(category, instance), category, category, instance, picture, png, path)
        facts = writer.close()
    entries = tuple(_described(str(folder), name) for name in facts.files)
    return BlockDone(
        task.name, task.pictures, digests.hexdigest(), rejected, near_empty, entries, facts.bytes, how
    )


def _described(folder: str, name: str) -> FileEntry:
    """The entry of a file that was just written; small ones in one go."""
    path = f"{folder}/{name}"
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, SMALL_FILE_BYTES)
    finally:
        os.close(fd)
    if len(data) == SMALL_FILE_BYTES:
        return describe_file(Path(path), name)
    from blake3 import blake3

    digest = hashlib.sha256(data).hexdigest()
    return FileEntry(path=name, size_bytes=len(data), sha256=digest, blake3=blake3(data).hexdigest())


def pictures_of(
    task: BlockTask, wanted: set[int] | None = None
) -> Iterator[tuple[int, int, Picture, int, bool]]:
    """(row, instance, picture, rejected drawings, whether it is near-empty all the same) of the block's pictures, in order.

    `wanted` are numbers of pictures; the reference stream has to draw those between as well.
    """
    generation, place = task.generation, task.generation.place
    if generation.stream == "reference":
        from curate.generators import Picture

        for number, pixels in _script_pictures(task):
            if wanted is None or number in wanted:
                yield *place(number), Picture(pixels), 0, False
        return
    if task.code is not None:
        plugins.add_file("generators", task.code[0], task.code[1])
    drawer = _drawer(generation)
    drawer.adopt(task.records)
    numbers: Any = range(task.first, task.first + task.pictures) if wanted is None else sorted(wanted)
    for number in numbers:
        row, instance = place(number)
        drawn = drawer.draw(row, instance)
        yield row, instance, drawn.picture, drawn.rejected, drawn.near_empty


@lru_cache(maxsize=1)
def _cached_drawer(identity: str) -> list[Drawer]:
    return []


def _drawer(generation: Generation) -> Drawer:
    """One drawer a process: kernels and buffers stay from block to block."""
    held = _cached_drawer(generation.drawn_id())
    if not held:
        held.append(Drawer(generation))
    return held[0]


def _script_pictures(task: BlockTask) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    index, offset = divmod(task.first, share_of(task.generation))
    stream = script_stream(task.generation, index)
    for k, found in enumerate(stream.block(offset, task.pictures, task.mark)):
        yield task.first + k, found[3]


@dataclass(frozen=True)
class Rows:
    """Some categories of the indexed stream."""

    generation: Generation
    start: int
    stop: int
    code: tuple[Path, str] | None = None


def category_rows(task: Rows) -> list[Category]:
    """Their parameters, in order."""
    if task.code is not None:
        plugins.add_file("generators", task.code[0], task.code[1])
    drawer = _drawer(task.generation)
    return [drawer.parameters(row) for row in range(task.start, task.stop)]


def survey(task: Survey) -> tuple[list[Category], list[bytes]]:
    """Categories and the marks of all blocks of one process, by one walk without drawing."""
    stream = script_stream(task.generation, task.index)
    marks = stream.marks(task.generation.block_size)
    return stream.categories(), marks


def _note_file(task: BlockTask) -> Path:
    return task.parts / "blocks" / f"{task.name}.json"


def _noted(task: BlockTask, done: BlockDone) -> BlockDone:
    folder = str(out_folder(task.parts))
    stamps = [os.stat(f"{folder}/{entry.path}").st_mtime_ns for entry in done.entries]
    note = {
        "pixels": done.pixels,
        "rejected": done.rejected,
        "near_empty": done.near_empty,
        "size_bytes": done.size_bytes,
        "files": [
            [e.path, e.size_bytes, e.sha256, e.blake3, stamp]
            for e, stamp in zip(done.entries, stamps, strict=True)
        ],
    }
    with atomic_file(_note_file(task)) as handle:
        handle.write(json.dumps(note).encode())
    return done


def _found(task: BlockTask) -> BlockDone | None:
    """What an earlier run of the same plan left of this block, if all of it is still there."""
    folder = out_folder(task.parts)
    try:
        with open(_note_file(task), "rb") as handle:
            note = json.loads(handle.read(NOTE_LIMIT_BYTES))
        entries = []
        for path, size, sha256, blake, stamp in note["files"]:
            found = (folder / path).stat()
            if (found.st_size, found.st_mtime_ns) != (size, stamp):
                return None
            entries.append(FileEntry(path=path, size_bytes=size, sha256=sha256, blake3=blake))
        if task.objects and not objects_file(task.parts, task.name).is_file():
            return None
        return BlockDone(
            task.name, task.pictures, note["pixels"], note["rejected"], note["near_empty"], tuple(entries),
            note["size_bytes"], "found",
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _taken(task: BlockTask, take: Take) -> BlockDone | None:
    """The block of the set that grows, its files as hard links (copies where there are none); None if one is damaged."""
    folder = out_folder(task.parts)
    for entry in take.files:
        source = take.folder / entry.path
        try:
            if source.is_symlink() or describe_file(source, entry.path) != replace_digests(entry):
                return None
        except (OSError, HeadwaterError):
            return None  # gone, changed or unreadable
        target = folder / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        _link(source, target)
    size = sum(entry.size_bytes for entry in take.files)
    old = take.block
    return BlockDone(
        task.name, task.pictures, old.pixels, old.rejected, old.near_empty, take.files, size, "taken"
    )


def replace_digests(entry: FileEntry) -> FileEntry:
    """The entry without what only releases have."""
    return entry.model_copy(update={"cid": None, "bt_v2_root": None})


def _link(source: Path, target: Path) -> None:
    import shutil

    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        with open(target, "rb+") as handle:
            os.fsync(handle.fileno())
