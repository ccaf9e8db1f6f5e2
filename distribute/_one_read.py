"""One file, read once: every digest from the same bytes, and none computed twice.

A SHA-256 can be asked for its digest on the way, so chunks that begin together share their beginning:

    whole file  ████████████████████████…   also gives the first chunk of each size
    1 MiB       ████████ ████████           also give the 256 KiB and 16 KiB that begin there
    256 KiB       ██ ██ ██   ██ ██ ██
    16 KiB       ▪▪▪▪▪▪▪▪ …

So the digest of a file within one chunk *is* its raw leaf, and within 16 KiB its merkle root.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from distribute.merkle import BLOCK_BYTES, PieceHasher, check_piece_size
from distribute.unixfs import Profile, leaf_digest, profile_named
from headwater.errors import HeadwaterError, IntegrityError
from headwater.files import explain_os_error

READ_BYTES = (
    1 << 20
)  # one block of a reader: fits the cache of a core, so that only the first digest waits for memory
WIDE_BYTES = 8 << 20  # one block of a file that all threads work on


class Stopped(Exception):
    """Another file failed, so this one is not needed any more."""


@dataclass(frozen=True)
class TreeFile:
    """One file as the scan saw it."""

    path: str
    absolute: Path
    size_bytes: int
    mtime_ns: int
    inode: int

    @property
    def key(self) -> tuple[int, int, int]:
        """What must stay the same while it is read, and for its digests to be believed later."""
        return self.size_bytes, self.mtime_ns, self.inode


@dataclass(frozen=True)
class FileDigests:
    """Digests of one file. SHA-256, BLAKE3 and root in hex; layer, leaves and pieces as bytes."""

    size_bytes: int
    sha256: str
    blake3: str
    bt_v2_root: str | None  # None for an empty file
    layer: bytes  # 32 bytes a piece; empty for a file within one piece
    leaves: dict[str, bytes]  # by profile: 32 bytes a leaf block
    padded: bytes | None = (
        None  # v1 digests of its own pieces, the last filled up with zeros (hybrid torrents)
    )


@dataclass(frozen=True)
class Wants:
    """What is computed for every file."""

    profiles: tuple[Profile, ...]
    piece_size: int
    v1: bool = False
    hybrid: bool = False
    sizes: tuple[int, ...] = field(init=False)  # of chunks that are hashed as they are, from 16 KiB up
    block_bytes: int = field(init=False)  # multiple of all chunk sizes

    def __post_init__(self) -> None:
        sizes = sorted({BLOCK_BYTES, *(profile.chunk_bytes for profile in self.profiles)})
        if any(above % below for below, above in zip(sizes, sizes[1:], strict=False)):
            raise ValueError(f"chunk sizes that do not divide each other: {sizes}")
        raw = sorted({BLOCK_BYTES, *(p.chunk_bytes for p in self.profiles if p.raw_leaves)})
        object.__setattr__(self, "sizes", tuple(raw))
        object.__setattr__(self, "block_bytes", math.lcm(READ_BYTES, *sizes))

    @classmethod
    def of(cls, profiles: Sequence[str], piece_size: int, *, v1: bool, hybrid: bool) -> Wants:
        """From the names of profiles. Raises UsageError for an unknown one, ValueError for a bad piece size."""
        check_piece_size(piece_size)
        return cls(tuple(map(profile_named, dict.fromkeys(profiles))), piece_size, v1, hybrid)


class PieceRun:
    """v1 pieces of a stretch of the stream: whole pieces are hashed; the part of a piece it begins in is kept as bytes
    (less than a piece), the part it ends in as a hash that can go on. `start`: its place in the stream, bytes."""

    def __init__(self, start: int, piece_size: int) -> None:
        self.start = self.end = start
        self.head = bytearray()
        self.pieces: list[bytes] = []
        self.tail: Any = (
            None  # hash of what follows the last whole piece, when the stretch does not begin in that piece
        )
        self._piece_size = piece_size
        self._missing = -start % piece_size  # of the piece it begins in

    def update(self, view: memoryview) -> None:
        """Add bytes."""
        if self._missing:
            part = view[: self._missing]
            self.head += part
            self._missing -= len(part)
            self.end += len(part)
            view = view[len(part) :]
        while view:
            if self.tail is None:
                self.tail = hashlib.sha1(usedforsecurity=False)
            part = view[: self._piece_size - self.end % self._piece_size]
            self.tail.update(part)
            self.end += len(part)
            view = view[len(part) :]
            if self.end % self._piece_size == 0:
                self.pieces.append(self.tail.digest())
                self.tail = None

    def filled(self) -> list[bytes]:
        """Its pieces, the last one filled up with zeros."""
        zeros = memoryview(bytes(min(self._piece_size, READ_BYTES)))
        while self.end % self._piece_size:
            self.update(zeros[: self._piece_size - self.end % self._piece_size])
        return self.pieces


class OneFile:
    """The digests of one file whose blocks come in order, each but the last of a multiple of `wants.block_bytes`."""

    def __init__(self, wants: Wants, run: PieceRun | None) -> None:
        self.wants = wants
        self.size = 0
        self.whole = hashlib.sha256()
        self.blake = blake3()
        self.tree = PieceHasher(wants.piece_size)
        self.raw = {size: bytearray() for size in wants.sizes[1:]}
        self.wrapped = {p.name: bytearray() for p in wants.profiles if not p.raw_leaves}
        self.run = run
        self.own = PieceRun(0, wants.piece_size) if wants.hybrid else None

    def add(self, view: memoryview) -> None:
        """One block, in this thread."""
        first = self.size == 0
        if not first:
            self.whole.update(view)
        self.take(self.chunks(view, first=first))
        self.others(view)
        self.size += len(view)

    def add_wide(self, view: memoryview, pool: ThreadPoolExecutor) -> list[Future[Any]]:
        """One block by all threads; when the futures are done, `take` the results that are not None, in their order."""
        jobs: list[Future[Any]] = [pool.submit(self.whole.update, view)]
        step = self.wants.block_bytes * max(1, len(view) // self.wants.block_bytes // 4)
        jobs += [pool.submit(self.chunks, view[at : at + step]) for at in range(0, len(view), step)]
        jobs += [pool.submit(self.others, view)]
        self.size += len(view)
        return jobs

    def others(self, view: memoryview) -> None:
        """What runs over the whole file besides SHA-256."""
        self.blake.update(view)
        if self.run:
            self.run.update(view)
        if self.own:
            self.own.update(view)

    def chunks(self, view: memoryview, *, first: bool = False) -> tuple[list[list[bytes]], list[bytes]]:
        """Digests of the chunks of each size that begin in `view`, and of the wrapped leaves. `first`: it begins the file."""
        sizes, length, sha256 = self.wants.sizes, len(view), hashlib.sha256
        out: list[list[bytes]] = [[] for _ in sizes]
        small, step = sizes[0], sizes[min(1, len(sizes) - 1)]
        for start in range(0, length, step):
            hasher = self.whole if first and start == 0 else sha256()
            at = start
            for level, size in enumerate(sizes):
                if start % size:
                    break
                end = min(start + size, length)
                if end > at:
                    hasher.update(view[at:end])
                    digest = hasher.digest()
                    at = end
                out[level].append(digest)
            if first and start == 0 and at < length:
                hasher.update(view[at:])
            ends = range(start + small, min(start + step, length), small)
            out[0] += [sha256(view[at : at + small]).digest() for at in ends]
        wrapped = [
            b"".join(
                leaf_digest(profile, view[at : at + profile.chunk_bytes])
                for at in range(0, length, profile.chunk_bytes)
            )
            for profile in self.wants.profiles
            if not profile.raw_leaves
        ]
        return out, wrapped

    def take(self, found: tuple[list[list[bytes]], list[bytes]]) -> None:
        """Append what `chunks` gave."""
        (blocks, *levels), wrapped = found
        self.tree.add_leaves(b"".join(blocks))
        for kept, digests in zip(self.raw.values(), levels, strict=True):
            kept += b"".join(digests)
        for kept, part in zip(self.wrapped.values(), wrapped, strict=True):
            kept += part

    def result(self) -> FileDigests:
        """When all was added."""
        digest = self.whole.digest()
        leaves = {}
        for profile in self.wants.profiles:
            kept = self.raw[profile.chunk_bytes] if profile.raw_leaves else self.wrapped[profile.name]
            leaves[profile.name] = bytes(kept) if self.size else leaf_digest(profile, b"")
        self.tree.size = self.size
        root, layer = self.tree.finish() if self.size else (b"", b"")
        padded = b"".join(self.own.filled()) if self.own else None
        return FileDigests(
            self.size, digest.hex(), self.blake.hexdigest(), root.hex() or None, layer, leaves, padded
        )


def digest_one(
    file: TreeFile, wants: Wants, run: PieceRun | None, buffer: memoryview, stop: threading.Event
) -> FileDigests:
    """Digests of one file, in this thread. Raises IntegrityError when it is not what the scan saw."""
    if file.size_bytes <= BLOCK_BYTES and not wants.hybrid and file.size_bytes:
        return _digest_small(file, wants, run, buffer, stop)
    hashing = OneFile(wants, run)
    for view in file_blocks(file, [buffer], stop):
        hashing.add(view)
    return hashing.result()


def _digest_small(
    file: TreeFile, wants: Wants, run: PieceRun | None, buffer: memoryview, stop: threading.Event
) -> FileDigests:
    """A file within 16 KiB, whose SHA-256 is its root and its raw leaf as well: of such there may be very many."""
    for view in file_blocks(file, [buffer], stop):
        digest = hashlib.sha256(view).digest()
        blake = blake3(view).hexdigest()
        leaves = {p.name: digest if p.raw_leaves else leaf_digest(p, view) for p in wants.profiles}
        if run:
            run.update(view)
    return FileDigests(file.size_bytes, digest.hex(), blake, digest.hex(), b"", leaves)


def digest_wide(
    file: TreeFile, wants: Wants, run: PieceRun | None, pool: ThreadPoolExecutor, stop: threading.Event
) -> Iterator[int | FileDigests]:
    """The same with all threads of `pool` at work on one large file. Yields the bytes that are done, at last the digests."""
    hashing = OneFile(wants, run)
    size = math.lcm(WIDE_BYTES, wants.block_bytes)
    jobs: list[Future[Any]] = []
    pending = 0
    try:
        for view in file_blocks(file, [memoryview(bytearray(size)) for _ in range(2)], stop):
            _settle(
                hashing, jobs
            )  # the buffer before this one is free again, and its successor may be hashed
            yield pending
            jobs, pending = hashing.add_wide(view, pool), len(view)
        _settle(hashing, jobs)
        yield pending
    finally:
        for job in jobs:
            job.cancel()
    yield hashing.result()


def _settle(hashing: OneFile, jobs: list[Future[Any]]) -> None:
    for job in jobs:
        found = job.result()
        if found is not None:
            hashing.take(found)


def file_blocks(file: TreeFile, buffers: Sequence[memoryview], stop: threading.Event) -> Iterator[memoryview]:
    """The bytes of a file, in full buffers in turn, the last one shorter. Raises IntegrityError unless it is and stays the
    file that the scan saw: same size, time of change and inode before and after, under its name as well."""
    fd = open_seen(file)
    try:
        left, turn = file.size_bytes, 0
        while left:
            if stop.is_set():
                raise Stopped
            view = buffers[turn % len(buffers)]
            view = view[: min(len(view), left)]
            _fill(fd, view, file)
            left -= len(view)
            turn += 1
            yield view
        check_unchanged(fd, file)
    finally:
        os.close(fd)


def open_seen(file: TreeFile) -> int:
    """A descriptor of the file that the scan saw. Raises IntegrityError when there is another one, or none."""
    try:
        # no link is followed, and a pipe that took the file's place does not block
        fd = os.open(file.absolute, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise explained(error, file) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or (found.st_size, found.st_mtime_ns, found.st_ino) != file.key:
            raise changed(file)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_unchanged(fd: int, file: TreeFile) -> None:
    """Raises IntegrityError when the open file, or what its name leads to, is not what the scan saw any more."""
    try:
        extra = os.read(fd, 1) if os.lseek(fd, 0, os.SEEK_CUR) == file.size_bytes else b""
        for found in (os.fstat(fd), os.lstat(file.absolute)):
            if extra or (found.st_size, found.st_mtime_ns, found.st_ino) != file.key:
                raise changed(file)
    except OSError as error:
        raise explained(error, file) from error


def changed(file: TreeFile) -> IntegrityError:
    """The error for a file that is not what it was."""
    return IntegrityError(
        f"{file.absolute}: changed while it was read", hint="stop what writes to it and run again"
    )


def _fill(fd: int, view: memoryview, file: TreeFile) -> None:
    at = 0
    while at < len(view):
        try:
            count = os.readv(fd, [view[at:]])
        except OSError as error:
            raise explained(error, file) from error
        if not count:
            raise changed(file)
        at += count


def explained(error: OSError, file: TreeFile) -> HeadwaterError:
    """What the system said about `file`, as an error of ours."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE):
        return IntegrityError(
            f"{file.absolute}: is gone, or another kind of file has taken its place",
            hint="stop what writes to the folder and run again",
        )
    if error.errno == errno.EIO:
        return IntegrityError(
            f"{file.absolute}: cannot be read: {os.strerror(errno.EIO)}",
            hint="the disk or the file is damaged: restore it from the source, then run again",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return HeadwaterError(
            f"{file.absolute}: may not be read: {os.strerror(error.errno)}",
            hint="give yourself the right to read it, or leave it out of the folder",
        )
    return explain_os_error(error, file.absolute)
