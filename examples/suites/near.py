"""Near duplicates: a picture stays out of a suite when a pool holds it, or one that looks the same.

Two pictures are the same when the sha256 of their source files agree, and look the same when their 64-bit
difference hashes differ in at most DISTANCE bits. The hash is taken of the WebP as a pool stores it (at most
96 x 96, on white), so it can be computed again from any pool without the packages it was made from.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

DISTANCE = 4
MEMBER_BYTES_MAX = 4_000_000
PIXELS_MAX = 4_000_000


def difference_hash(picture: bytes) -> int:
    """Is each cell of an 8 x 9 grid of grey means darker than its right neighbour? One bit each, 64 in all."""
    with Image.open(io.BytesIO(picture), formats=["WEBP", "PNG"]) as image:
        if image.width * image.height > PIXELS_MAX:
            raise ValueError("a picture over the pixel limit")
        grid = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int.from_bytes(np.packbits(grid[:, 1:] > grid[:, :-1]).tobytes(), "big")


class Seen:
    """Source digests and difference hashes met so far."""

    def __init__(self, known: Iterable[tuple[str, int]] = ()) -> None:
        self.digests: set[str] = set()
        self._hashes: set[int] = set()
        self._array = np.zeros(0, np.uint64)
        for sha256, picture_hash in known:
            self.add(sha256, picture_hash)

    def add(self, sha256: str, picture_hash: int) -> None:
        self.digests.add(sha256)
        self._hashes.add(picture_hash)

    def distance(self, picture_hash: int) -> int:
        """Bits between this hash and the nearest one seen; 65 when none was."""
        if len(self._array) != len(self._hashes):
            self._array = np.array(sorted(self._hashes), np.uint64)
        if not len(self._array):
            return 65
        return int(np.bitwise_count(self._array ^ np.uint64(picture_hash)).min())

    def reason(self, sha256: str, picture_hash: int, distance: int = DISTANCE) -> str | None:
        """Why this picture counts as seen: "exact", "near", or None when it is new."""
        if sha256 in self.digests:
            return "exact"
        return "near" if self.distance(picture_hash) <= distance else None


def samples(tar_path: Path) -> Iterator[dict[str, bytes]]:
    """The members of each sample by extension, with the sample's name as "key"."""
    with tarfile.open(tar_path) as tar:
        sample: dict[str, bytes] = {}
        for member in tar:
            key, _, extension = member.name.partition(".")
            if not member.isfile() or member.size > MEMBER_BYTES_MAX:
                raise ValueError(f"{tar_path}: {member.name} is not a small file")
            if sample and sample["key"] != key.encode():
                yield sample
                sample = {}
            file = tar.extractfile(member)
            assert file is not None
            sample = {**sample, "key": key.encode(), extension: file.read()}
        if sample:
            yield sample


def held(folder: Path) -> Iterator[tuple[str, int]]:
    """(sha256 of the source file, difference hash) of every sample below `folder`, a pool or a suite.

    A suite stores the hash, because its pictures may be smaller than those the hash is defined on. Pictures
    that no pool could hold (the grey ones of MNIST and the like) have none, and are passed over.
    """
    for path in sorted(folder.rglob("*.tar")):
        for sample in samples(path):
            told = json.loads(sample["json"])
            if "difference_hash" in told:
                yield told["sha256"], int(told["difference_hash"], 16)
            elif "webp" in sample:
                yield told["sha256"], difference_hash(sample["webp"])
