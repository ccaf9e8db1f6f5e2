"""Pools with webdataset tars of drawn pictures, and pictures that are broken in known ways."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def uid_of(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15 % (1 << 128):032x}"


@dataclass(frozen=True)
class Sample:
    """One sample of a tar; without `data` it has no picture, without `uid` no json."""

    uid: str | None
    data: bytes | None
    extension: str = "png"
    caption: str | None = None


def drawing(seed: int, size: tuple[int, int] = (64, 48), blocks: int = 6) -> Image.Image:
    """Smooth colours that depend on the seed alone."""
    values = np.random.default_rng(seed).integers(0, 256, (blocks, blocks, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def plain(level: int = 200, size: tuple[int, int] = (32, 32)) -> bytes:
    return encoded(Image.new("RGB", size, (level, level, level)))


def samples(numbers: Iterable[int], **options: object) -> list[Sample]:
    """One drawing a number, as PNG."""
    return [Sample(uid_of(n), encoded(drawing(n)), caption=f"drawing {n}") for n in numbers]


def write_tar(path: Path, rows: Sequence[Sample]) -> Path:
    """A tar that looks old enough for its digest to be kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as file:
        for number, row in enumerate(rows):
            members: dict[str, bytes | None] = {
                row.extension: row.data,
                "txt": None if row.caption is None else row.caption.encode(),
                "json": None if row.uid is None else json.dumps({"uid": row.uid}).encode(),
            }
            for extension, data in members.items():
                if data is not None:
                    info = tarfile.TarInfo(f"{number:06d}.{extension}")
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))
    then = time.time() - 3600
    os.utime(path, (then, then))
    return path


def write_pool(
    folder: Path, uids: Sequence[str | None], *, shards: int = 2, texts: Sequence[str | None] | None = None
) -> Path:
    """Parquet shards with uid and text."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [f"row {i}" for i in range(len(uids))] if texts is None else texts
    for number, rows in enumerate(np.array_split(np.arange(len(uids)), shards)):
        table = pa.table(
            {
                "uid": pa.array([uids[i] for i in rows], pa.string()),
                "text": pa.array([texts[i] for i in rows], pa.string()),
            }
        )
        path = folder / f"{number:08d}.parquet"
        pq.write_table(table, path, row_group_size=3)
        os.utime(path, (time.time() - 3600,) * 2)
    return folder


def make(
    folder: Path,
    tars: Mapping[str, Sequence[Sample]],
    uids: Sequence[str | None] | None = None,
    *,
    shards: int = 2,
) -> tuple[Path, Path]:
    """(pool, folder of tars); the pool has the uids of the samples in their order, unless others are given."""
    for name, rows in tars.items():
        write_tar(folder / "tars" / name, rows)
    every = [row.uid for rows in tars.values() for row in rows] if uids is None else uids
    return write_pool(folder / "pool", every, shards=shards), folder / "tars"


# pictures that are not as they should be


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    width: int, height: int, packed: bytes, *, depth: int = 8, colour: int = 2, extra: bytes = b""
) -> bytes:
    """A PNG with these IDAT bytes, and chunks before them."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def png_bomb(rows: int = 6_000) -> bytes:
    """A PNG that says it has 60,000 × 60,000 pixels of one bit; so many of its rows are there, 7.5 kB each when inflated."""
    packed = zlib.compress(bytes(7501 * rows), 1)
    return png(60_000, 60_000, packed, depth=1, colour=0)


def png_profile(bytes_: int) -> bytes:
    """A good PNG with an ICC profile that inflates to so many bytes."""
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(bytes_), 1))
    return png(16, 16, zlib.compress((b"\0" + bytes(range(48))) * 16), extra=profile)


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def huge_jpeg() -> bytes:
    data = encoded(drawing(1), "JPEG")
    return patched(data, data.index(b"\xff\xc0") + 5, b"\xff\xff\xff\xff")


def huge_gif_screen() -> bytes:
    return patched(encoded(drawing(1), "GIF"), 6, b"\xff\xff\xff\xff")


def huge_gif_frame() -> bytes:
    data = encoded(drawing(1), "GIF")
    return patched(data, data.index(b"\x2c\0\0\0\0") + 5, b"\xff\xff\xff\xff")


def huge_bmp() -> bytes:
    return patched(encoded(drawing(1), "BMP"), 18, struct.pack("<ii", 60_000, 60_000))


def huge_webp() -> bytes:
    side = (16_382).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + side + side


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = encoded(drawing(1, (256, 192)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + b"\xff\xd9"
