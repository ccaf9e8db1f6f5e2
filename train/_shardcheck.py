"""One tar, checked: its structure from the headers, every caption, and every picture from its first and last bytes.

This is the task that `train.preflight` maps over shards; everything here goes through worker processes and is plain data.
A picture whose first bytes do not tell its size, or whose end is missing, is decoded before it is called undecodable. Pictures to
decode as a sample are drawn by priorities that depend on seed, shard and ordinal alone: the lowest of all shards are a uniform
sample of all pictures, whatever number of processes looked at them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headwater.errors import IntegrityError
from train._picture_heads import HEAD_BYTES, TAIL_BYTES, decode_error, ends_well, format_in, size_in
from train._shardscan import Findings, Problem
from train._shardtable import ShardTable, read_table

MAX_PIXELS = 89_478_485  # where Pillow begins to warn of a decompression bomb
MAX_IMAGE_BYTES = 64 << 20
MAX_CAPTION_BYTES = 1 << 20


@dataclass(frozen=True)
class Spread:
    """Count, sum, least and most of some sizes, and how many lie in [2^k, 2^(k+1)) by k (0 lies under -1). Exact, and addable."""

    n: int = 0
    total: int = 0
    least: int = 0
    most: int = 0
    powers: dict[int, int] = field(default_factory=dict)

    @staticmethod
    def of(values: npt.NDArray[np.int64]) -> Spread:
        if not len(values):
            return Spread()
        powers, counts = np.unique(np.frexp(np.maximum(values, 0.25))[1] - 1, return_counts=True)
        named = {max(int(p), -1): int(c) for p, c in zip(powers, counts, strict=True)}
        return Spread(len(values), int(values.sum()), int(values.min()), int(values.max()), named)

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.n else None

    def __add__(self, other: Spread) -> Spread:
        if not self.n or not other.n:
            return self if self.n else other
        powers = {k: self.powers.get(k, 0) + other.powers.get(k, 0) for k in {*self.powers, *other.powers}}
        least, most = min(self.least, other.least), max(self.most, other.most)
        return Spread(self.n + other.n, self.total + other.total, least, most, dict(sorted(powers.items())))


@dataclass(frozen=True)
class Draw:
    """A picture that may be decoded as part of the sample: the lowest priorities of all shards are."""

    priority: int
    shard: int
    ordinal: int
    key: str
    offset: int
    size: int


@dataclass(frozen=True)
class Job:
    """One shard to check. `sample` is how many pictures are wanted from all shards together."""

    number: int
    path: Path
    name: str
    decode: str
    sample: int
    seed: int
    max_pixels: int


@dataclass(frozen=True)
class ShardScan:
    """What one tar holds. `usable` samples have a picture and a caption; `bad` of them cannot be trained on all the same."""

    path: Path
    name: str
    size_bytes: int
    samples: int
    usable: int
    bad: int
    keys_digest: str  # SHA-256 over the keys of the usable samples in tar order, each with a newline
    problems: dict[str, int]
    examples: list[Problem]
    image_bytes: Spread
    short_side: Spread  # pixels
    caption_chars: Spread
    decoded: int
    draws: list[Draw]


def check_shard(job: Job) -> ShardScan:
    """Check one tar. Raises MissingInput when it cannot be opened, IntegrityError when the disk fails."""
    table, found = read_table(job.path)
    fd = os.open(job.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        pictures = _Pictures(fd, job, found)
        bad = pictures.look(table)
        lengths = _captions(fd, job.name, table, found, bad)
        size_bytes = os.fstat(fd).st_size
    finally:
        os.close(fd)
    if not len(table):
        found.add("empty_shard", b"", f"{found.samples:,} samples, none with both picture and caption")
    keys = hashlib.sha256()
    for key in table.keys:
        keys.update(key + b"\n")
    return ShardScan(
        path=job.path,
        name=job.name,
        size_bytes=size_bytes,
        samples=found.samples,
        usable=len(table),
        bad=len(bad),
        keys_digest=keys.hexdigest(),
        problems=dict(sorted(found.counts.items())),
        examples=found.examples,
        image_bytes=Spread.of(table.image_size),
        short_side=Spread.of(np.array(pictures.short, np.int64)),
        caption_chars=Spread.of(np.array(lengths, np.int64)),
        decoded=pictures.decoded,
        draws=_draws(job, table, bad) if job.decode == "sample" else [],
    )


class _Pictures:
    """The pictures of one tar, judged without decoding where that is possible."""

    def __init__(self, fd: int, job: Job, found: Findings) -> None:
        self._fd, self._job, self._found = fd, job, found
        self.short: list[int] = []
        self.decoded = 0

    def look(self, table: ShardTable) -> set[int]:
        """Ordinals of the pictures that cannot be trained on."""
        bad = set()
        rows = zip(table.keys, table.image_offset.tolist(), table.image_size.tolist(), strict=True)
        for ordinal, (key, offset, size) in enumerate(rows):
            problem = self._problem(offset, size)
            if problem is not None:
                self._found.add(problem[0], key, problem[1])
                bad.add(ordinal)
        return bad

    def _problem(self, offset: int, size: int) -> tuple[str, str] | None:
        if size > MAX_IMAGE_BYTES:
            return "too_large", f"a picture of {size:,} bytes (limit {MAX_IMAGE_BYTES:,})"
        if size == 0:
            return "undecodable", "a picture of 0 bytes"
        head = read_span(self._fd, self._job.name, offset, min(size, HEAD_BYTES))
        if format_in(head) is None:
            return "undecodable", f"no JPEG, PNG or WebP: begins with {head[:8].hex(' ')}"
        sides = size_in(head)
        if sides is not None and sides[0] * sides[1] > self._job.max_pixels:
            return "too_large", f"{sides[0]:,} x {sides[1]:,} pixels (limit {self._job.max_pixels:,})"
        tail = head[-TAIL_BYTES:]
        if size > len(head):
            tail = read_span(self._fd, self._job.name, offset + size - TAIL_BYTES, TAIL_BYTES)
        if self._job.decode == "all" or sides is None or 0 in sides or not ends_well(head, tail, size):
            self.decoded += 1
            error = decode_error(read_span(self._fd, self._job.name, offset, size), self._job.max_pixels)
            if error is not None:
                return ("too_large" if error.endswith(" pixels") else "undecodable"), error
        if sides is not None:
            self.short.append(min(sides))
        return None


def _captions(fd: int, name: str, table: ShardTable, found: Findings, bad: set[int]) -> list[int]:
    """Lengths of the captions in characters; adds to `bad` the ordinals of those that are no text."""
    lengths = []
    rows = zip(table.keys, table.text_offset.tolist(), table.text_size.tolist(), strict=True)
    for ordinal, (key, offset, size) in enumerate(rows):
        if size > MAX_CAPTION_BYTES:
            found.add("too_large", key, f"a caption of {size:,} bytes (limit {MAX_CAPTION_BYTES:,})")
            bad.add(ordinal)
            continue
        try:
            text = read_span(fd, name, offset, size).decode("utf-8")
        except UnicodeDecodeError as error:
            found.add("other", key, f"its caption is not UTF-8: {error.reason} at byte {error.start:,}")
            bad.add(ordinal)
            continue
        if not text.strip():
            found.add("empty_caption", key, f"a caption of {size:,} bytes without a word")
        lengths.append(len(text))
    return lengths


def _draws(job: Job, table: ShardTable, bad: Iterable[int]) -> list[Draw]:
    entropy = hashlib.sha256(f"{job.seed}/{job.name}/decode".encode()).digest()
    priority = np.random.Generator(np.random.PCG64(list(entropy))).integers(0, 1 << 62, len(table))
    priority[list(bad)] = 1 << 62  # told already
    lowest = np.argsort(priority, kind="stable")[: job.sample]
    return [
        Draw(
            int(priority[n]),
            job.number,
            n,
            table.keys[n].decode("utf-8", "backslashreplace"),
            int(table.image_offset[n]),
            int(table.image_size[n]),
        )
        for n in lowest.tolist()
        if priority[n] < 1 << 62
    ]


@dataclass(frozen=True)
class DecodeJob:
    """Pictures of one tar to decode."""

    path: Path
    name: str
    draws: list[Draw]
    max_pixels: int


def decode_draws(job: DecodeJob) -> list[tuple[Draw, str]]:
    """The pictures that Pillow cannot decode, each with what it says."""
    failed = []
    fd = os.open(job.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        for draw in job.draws:
            error = decode_error(read_span(fd, job.name, draw.offset, draw.size), job.max_pixels)
            if error is not None:
                failed.append((draw, error))
    finally:
        os.close(fd)
    return failed


def read_span(fd: int, name: str, offset: int, size: int) -> bytes:
    """`size` bytes at `offset`. Raises IntegrityError when they are not there (any more)."""
    try:
        data = os.pread(fd, size, offset)
    except OSError as error:
        raise IntegrityError(f"{name}: cannot be read at byte {offset:,}: {error.strerror}") from error
    if len(data) < size:
        raise IntegrityError(
            f"{name}: became shorter while it was read", hint="stop what writes to it and run again"
        )
    return data
