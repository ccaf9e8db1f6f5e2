"""The v1 pieces of a tree, put together from runs of files, from what is known, and from what must be read again.

A piece is known by what it is made of: the SHA-256 of each file it takes part of, and which part. So its digest can be
kept whatever the files are called and wherever in the stream they stand.
"""

from __future__ import annotations

import hashlib
import os
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distribute._one_read import (
    READ_BYTES,
    FileDigests,
    PieceRun,
    Stopped,
    TreeFile,
    changed,
    check_unchanged,
    explained,
    open_seen,
)

if TYPE_CHECKING:
    from distribute.digestcache import TreeCache

GROUP_BYTES = 32 << 20  # of pieces that one thread reads again at a time


@dataclass(frozen=True)
class Part:
    """`length` bytes of file number `file` from `offset`."""

    file: int
    offset: int
    length: int


class Pieces:
    """Digests by number; filled in by `add` in the order of the stream, then `missing` and `put`."""

    def __init__(
        self,
        offsets: Sequence[int],
        found: Sequence[FileDigests | None],
        piece_size: int,
        cache: TreeCache | None,
    ) -> None:
        self._offsets, self._found, self._size, self._cache = offsets, found, piece_size, cache
        self._digests: list[bytes | None] = [None] * -(-offsets[-1] // piece_size)
        self._carry: tuple[int, Any] | None = (
            None  # where the run before ended, and the hash of its last part
        )
        self.keys: list[bytes] = []

    def add(self, run: PieceRun) -> None:
        """The next run; runs come in the order of the stream, with gaps where files were known."""
        at = run.start
        hasher = None
        if run.head:
            if self._carry and self._carry[0] == at:
                hasher = self._carry[1]
                hasher.update(run.head)
            at += len(run.head)
            if hasher and self._ends(at):
                self._set(at, hasher)
                hasher = None
        for digest in run.pieces:
            at += self._size
            self._store(at // self._size - 1, digest)
        if run.tail:
            hasher = run.tail
            if self._ends(run.end):
                self._set(run.end, hasher)
                hasher = None
        self._carry = (run.end, hasher) if hasher else None

    def _ends(self, at: int) -> bool:
        return at % self._size == 0 or at == self._offsets[-1]

    def _set(self, at: int, hasher: Any) -> None:
        self._store((at - 1) // self._size, hasher.digest())

    def _store(self, index: int, digest: bytes) -> None:
        self._digests[index] = digest
        if self._cache:
            key = self._key(index)
            self.keys.append(key)
            self._cache.put_piece(key, digest)

    def parts(self, index: int) -> list[Part]:
        """What piece `index` is made of."""
        at, end = index * self._size, min((index + 1) * self._size, self._offsets[-1])
        file = bisect_right(self._offsets, at) - 1
        out = []
        while at < end:
            stop = min(end, self._offsets[file + 1])
            if stop > at:
                out.append(Part(file, at - self._offsets[file], stop - at))
            at = stop
            file += 1
        return out

    def _key(self, index: int) -> bytes:
        hasher = hashlib.sha256(b"v1 piece\0")
        for part in self.parts(index):
            found = self._found[part.file]
            assert found is not None
            hasher.update(bytes.fromhex(found.sha256))
            hasher.update(part.offset.to_bytes(8, "big") + part.length.to_bytes(8, "big"))
        return hasher.digest()

    def missing(self) -> Iterator[list[int]]:
        """Numbers of the pieces that nobody knows, neighbours together. To be asked when all files are known."""
        group: list[int] = []
        for index, digest in enumerate(self._digests):
            if digest is None and self._cache:
                key = self._key(index)
                digest = self._digests[index] = self._cache.piece(key)
                if digest:
                    self.keys.append(key)
            if digest is None:
                group.append(index)
            if group and (digest is not None or len(group) * self._size >= GROUP_BYTES):
                yield group
                group = []
        if group:
            yield group

    def put(self, index: int, digest: bytes) -> None:
        """A piece that was read again."""
        self._store(index, digest)

    def joined(self) -> bytes:
        """All of them."""
        return b"".join(digest for digest in self._digests if digest is not None)


def read_pieces(
    pieces: Sequence[Sequence[Part]], files: Sequence[TreeFile], stop: threading.Event
) -> list[bytes]:
    """SHA-1 of each piece, from the files. Raises IntegrityError when a file is not what the scan saw."""
    out = []
    buffer = memoryview(bytearray(READ_BYTES))
    opened: tuple[int, int] | None = None  # number of a file, and its descriptor
    try:
        for piece in pieces:
            hasher = hashlib.sha1(usedforsecurity=False)
            for part in piece:
                if opened and opened[0] != part.file:
                    number, fd = opened
                    opened = None
                    _close(fd, files[number])
                if not opened:
                    opened = (part.file, open_seen(files[part.file]))
                _hash_part(hasher, opened[1], part, files[part.file], buffer, stop)
            out.append(hasher.digest())
        if opened:
            check_unchanged(opened[1], files[opened[0]])
    finally:
        if opened:
            os.close(opened[1])
    return out


def _close(fd: int, file: TreeFile) -> None:
    try:
        check_unchanged(fd, file)
    finally:
        os.close(fd)


def _hash_part(
    hasher: Any, fd: int, part: Part, file: TreeFile, buffer: memoryview, stop: threading.Event
) -> None:
    at, end = part.offset, part.offset + part.length
    while at < end:
        if stop.is_set():
            raise Stopped
        try:
            count = os.preadv(fd, [buffer[: min(len(buffer), end - at)]], at)
        except OSError as error:
            raise explained(error, file) from error
        if not count:
            raise changed(file)
        hasher.update(buffer[:count])
        at += count
