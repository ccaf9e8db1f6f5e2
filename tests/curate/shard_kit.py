"""Small tars for the tests of the walk and of reshard."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from curate import tar
from curate._jsonuid import OK, REASONS
from curate._tarwalk import Walk
from curate.reshard import reshard
from curate.shards import (
    list_shards,
    read_sample,
)

Sample = tuple[int, str, dict[str, bytes]]  # offset, reason, members


def uid(number: int) -> str:
    return f"{number:032x}"


def text_of(number: int, **more: object) -> bytes:
    return json.dumps({"uid": uid(number), "caption": "x"} | more, indent=4).encode()


def pack(members: list[tuple[str, bytes]], *, form: int = tarfile.USTAR_FORMAT, mtime: float = 0) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime  # type: ignore[assignment]
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def plain_samples(count: int) -> list[tuple[str, bytes]]:
    rows = []
    for number in range(count):
        picture = bytes([number % 251]) * (300 + 517 * number % 3000)
        rows += [
            (f"{number:09d}.jpg", picture),
            (f"{number:09d}.txt", b"t"),
            (f"{number:09d}.json", text_of(number)),
        ]
    return rows


def walked(path: Path, raw: bytes, window: int) -> tuple[Walk, list[Sample]]:
    path.write_bytes(raw)
    walk = Walk(path, path.name, window_bytes=window)
    found: list[Sample] = []
    for batch in walk.batches():
        for row in range(len(batch)):
            span = slice(int(batch.first[row]), int(batch.first[row + 1]))
            columns = (batch.members.code[span], batch.members.data[span], batch.members.size[span])
            members = {
                walk.extensions[code]: raw[data : data + size]
                for code, data, size in zip(*(column.tolist() for column in columns), strict=True)
            }
            state = int(batch.state[row])
            number = (int(batch.hi[row]) << 64) | int(batch.lo[row])
            found.append((int(batch.offset[row]), uid(number) if state == OK else REASONS[state], members))
            if state == OK:
                assert read_sample(path, int(batch.offset[row]), int(batch.length[row])) == members
    return walk, found


def by_tarfile(raw: bytes) -> list[dict[str, bytes]]:
    """Samples as webdataset groups them, from the standard library's listing."""
    samples: list[dict[str, bytes]] = []
    last = None
    with tarfile.open(fileobj=io.BytesIO(raw)) as file:
        for info in file:
            if not info.isreg():
                continue
            split = tar.split_name(info.name.encode("utf-8", "surrogateescape"))
            if isinstance(split, str):
                continue
            key, extension = split[0], split[1].decode().lower()
            if key != last or extension in samples[-1]:
                samples.append({})
            last = key
            samples[-1][extension] = file.extractfile(info).read()  # type: ignore[union-attr]
    return samples


def put_size(raw: bytearray, offset: int, size: bytes) -> None:
    raw[offset + 124 : offset + 136] = size
    seal(raw, offset)


def seal(raw: bytearray, offset: int) -> None:
    raw[offset + 148 : offset + 156] = b" " * 8
    raw[offset + 148 : offset + 156] = b"%06o\0 " % sum(raw[offset : offset + 512])


Rows = list[tuple[str, bytes]]


def write_tar(path: Path, rows: Rows, *, form: int = tarfile.USTAR_FORMAT) -> None:
    with tarfile.open(path, "w", format=form) as file:
        for name, data in rows:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 12345
            file.addfile(info, io.BytesIO(data))


def samples(numbers: Iterable[int]) -> Rows:
    rows: Rows = []
    for n in numbers:
        rows += [
            (f"{n:09d}.jpg", bytes([n % 256]) * (137 * n % 2000)),
            (f"{n:09d}.txt", b"t"),
            (f"{n:09d}.json", text_of(n, caption="x" * (n % 90))),
        ]
    return rows


def make_pool(folder: Path) -> Path:
    """Four shards of 40 samples: uids 1…160."""
    folder.mkdir()
    for shard in range(4):
        write_tar(folder / f"{shard:08d}.tar", samples(range(1 + 40 * shard, 41 + 40 * shard)))
        (folder / f"{shard:08d}_stats.json").write_text('{"successes": 40}')
    return folder


def subset(numbers: Iterable[int]) -> Any:
    pairs = sorted((n >> 64, n & (2**64 - 1)) for n in numbers)
    return np.array(pairs, "u8,u8")


WANTED = subset([*range(1, 161, 3), 7, 7, 7, 50, 1000])


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run(pool: Path, out: Path, wanted: Any = WANTED, **options: Any) -> Any:
    out.mkdir(exist_ok=True)
    return reshard(list_shards(pool)[0], wanted, out, **options)


class Stop(Exception):
    pass
