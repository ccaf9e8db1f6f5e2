"""What a file's bytes are checked with: its merkle root piece by piece, or a digest of the whole.

    bt_v2_root + piece layer   every piece alone, before it is written
    blake3, else sha256        the whole, when there is no layer or the file is one run anyway
    bt_v2_root alone           the whole, by its blocks

A file whose address is all there is (a block-checked CID, the SHA-1 pieces of an old torrent) is checked by its transport.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from distribute import merkle
from distribute.transports._base import Wanted

BLOCK_BYTES = 1 << 20
ROOT_PIECE_BYTES = 1 << 20  # only bounds the memory of a hasher; a root is the same for every piece size


@dataclass(frozen=True)
class Pieces:
    """The checked piece hashes of one file."""

    size: int
    piece_size: int
    root: bytes
    layer: bytes  # empty for a file within one piece

    def __len__(self) -> int:
        return merkle.piece_count(self.size, self.piece_size)

    def span(self, index: int) -> tuple[int, int]:
        """(offset, length) of a piece."""
        at = index * self.piece_size
        return at, min(self.piece_size, self.size - at)

    def right(self, index: int, data: memoryview | bytes) -> bool:
        """Whether `data` are the bytes of piece `index`."""
        whole = self.size <= self.piece_size
        found = merkle.piece_root(data, self.piece_size, whole=whole)
        return found == merkle.piece_hash(self.root, self.layer, self.piece_size, self.size, index)


def bad_piece(pieces: Pieces | None, data: memoryview | bytes) -> tuple[int, int, int] | None:
    """(piece, offset, length) of the first wrong piece of a whole file in memory, or None when pieces cannot tell."""
    if pieces is None or len(data) != pieces.size:
        return None
    view = memoryview(data)
    for index in range(len(pieces)):
        at, length = pieces.span(index)
        if not pieces.right(index, view[at : at + length]):
            return index, at, length
    return None


class Check:
    """Checks one whole file as its bytes come in order: `update` them all, then ask `right()`."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._size = 0
        self._tree: merkle.PieceHasher | None = None
        self._hasher: Any = None
        if wanted.blake3 is not None:
            import blake3

            self._hasher, self._expected = blake3.blake3(), wanted.blake3
        elif wanted.sha256 is not None:
            self._hasher, self._expected = hashlib.sha256(), wanted.sha256
        elif wanted.bt_v2_root is not None and wanted.size_bytes:
            self._tree = merkle.PieceHasher(ROOT_PIECE_BYTES)

    @property
    def known(self) -> bool:
        """Whether there is a digest to compare with."""
        return self._hasher is not None or self._tree is not None

    def update(self, data: bytes | memoryview) -> None:
        """The bytes that follow."""
        self._size += len(data)
        if self._hasher is not None:
            self._hasher.update(data)
        elif self._tree is not None:
            self._tree.update(data)

    def right(self) -> bool:
        """Whether size and digest are those of the file."""
        if self._size != self._wanted.size_bytes:
            return False
        if self._hasher is not None:
            return bool(self._hasher.hexdigest() == self._expected)
        if self._tree is not None:
            return self._tree.finish()[0].hex() == self._wanted.bt_v2_root
        return True


def right_bytes(wanted: Wanted, data: bytes | memoryview) -> bool:
    """Whether `data` are the whole file."""
    check = Check(wanted)
    check.update(data)
    return check.right()


def right_file(fd: int, wanted: Wanted) -> bool:
    """Whether the open file is the one that is wanted, by size and digest; a file without a digest never is."""
    if os.fstat(fd).st_size != wanted.size_bytes:
        return False
    check = Check(wanted)
    if not check.known and wanted.size_bytes:
        return False
    for block in blocks_of(fd):
        check.update(block)
    return check.right()


def blocks_of(fd: int, *, upto: int | None = None) -> Iterator[memoryview]:
    """The bytes of an open file, in blocks that are overwritten by the next."""
    buffer = memoryview(bytearray(BLOCK_BYTES))
    at = 0
    while upto is None or at < upto:
        room = buffer if upto is None else buffer[: min(BLOCK_BYTES, upto - at)]
        count = os.preadv(fd, [room], at)
        if not count:
            return
        at += count
        yield room[:count]
