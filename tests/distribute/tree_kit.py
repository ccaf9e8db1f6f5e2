"""Small trees with their digests computed the plain way: every hash over the whole bytes, one after another."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from blake3 import blake3

from distribute import merkle
from distribute.digests import FileDigests, TreeFile
from distribute.unixfs import PROFILES, leaf_digest

OLD = 1_600_000_000  # a time of change that no cache takes for a recent one
MIXED = (0, 1, 16383, 16384, 16385, 65536, 100_000, 262_144, 262_145, 1 << 20, (1 << 20) + 5, 3_000_017)


def content(sizes: Iterable[int], seed: int = 0) -> dict[str, bytes]:
    """Files of these sizes in some folders, whose order by path is not the order of their making."""
    source = random.Random(seed)
    return {f"{'cab'[n % 3]}/{97 * n % 101:03d}.bin": source.randbytes(size) for n, size in enumerate(sizes)}


def write(folder: Path, files: Mapping[str, bytes], *, when: int = OLD) -> list[TreeFile]:
    """Put `files` below `folder`."""
    return [seen(folder, path, data, when) for path, data in files.items()]


def seen(folder: Path, path: str, data: bytes | None = None, when: int = OLD) -> TreeFile:
    """One file as a scan reports it, written first when there are `data`."""
    where = folder / path
    if data is not None:
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(data)
        os.utime(where, (when, when))
    found = where.lstat()
    return TreeFile(path, where, found.st_size, found.st_mtime_ns, found.st_ino)


def plain(data: bytes, profiles: Sequence[str], piece_size: int, *, padded: bool = False) -> FileDigests:
    """Digests of one file, each by its definition."""
    leaves = {
        name: b"".join(
            leaf_digest(PROFILES[name], part) for part in cut(data, PROFILES[name].chunk_bytes) or [b""]
        )
        for name in profiles
    }
    root, layer = b"", b""
    if data:
        blocks = b"".join(hashlib.sha256(part).digest() for part in cut(data, 16384))
        root, layer = merkle.root_and_layer(blocks, piece_size, len(data))
    pads = b"".join(hashlib.sha1(part.ljust(piece_size, b"\0")).digest() for part in cut(data, piece_size))
    return FileDigests(
        len(data),
        hashlib.sha256(data).hexdigest(),
        blake3(data).hexdigest(),
        root.hex() or None,
        layer,
        leaves,
        pads if padded else None,
    )


def plain_pieces(files: Mapping[str, bytes], piece_size: int) -> bytes:
    """v1 pieces over all files in the order of their paths' bytes."""
    stream = b"".join(files[path] for path in sorted(files, key=str.encode))
    return b"".join(hashlib.sha1(part).digest() for part in cut(stream, piece_size))


def cut(data: bytes, size: int) -> list[bytes]:
    """Parts of `size` bytes."""
    return [data[at : at + size] for at in range(0, len(data), size)]
