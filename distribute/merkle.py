"""BitTorrent v2 merkle trees (BEP 52): any piece of a file can be checked alone against the file's root.

    data  ── 16 KiB blocks, SHA-256 each ──> leaves ── pairs ──> … ──> root

A file longer than a piece has its tree cut at the height of a piece: those nodes are the file's piece layer. Leaves
beyond the end of the file are 32 zero bytes, so the layer is filled up with the root of a piece of such leaves. A file
no longer than a piece has no layer: its tree is filled up to the next power of two leaves, and its root is the only hash.
An empty file has no root.
"""

from __future__ import annotations

import hashlib
from functools import cache

from headwater.errors import IntegrityError

BLOCK_BYTES = 16384
HASH_BYTES = 32
ZERO = bytes(HASH_BYTES)


def blocks(size: int) -> int:
    """How many 16 KiB blocks `size` bytes make."""
    return -(-size // BLOCK_BYTES)


def piece_count(size: int, piece_size: int) -> int:
    """How many pieces a file of `size` bytes has of its own."""
    return -(-size // piece_size)


def check_piece_size(piece_size: int) -> None:
    """Raises ValueError unless `piece_size` is a power of two of at least 16 KiB."""
    if piece_size < BLOCK_BYTES or piece_size & (piece_size - 1):
        raise ValueError(f"a piece size of {piece_size} is not a power of two from {BLOCK_BYTES}")


def leaf_digests(data: bytes | bytearray | memoryview) -> bytes:
    """SHA-256 of each 16 KiB block of `data`, one after the other."""
    view, sha256 = memoryview(data), hashlib.sha256
    return b"".join([sha256(view[at : at + BLOCK_BYTES]).digest() for at in range(0, len(view), BLOCK_BYTES)])


@cache
def pad_root(leaves: int) -> bytes:
    """Root over `leaves` zero leaves (a power of two)."""
    if leaves == 1:
        return ZERO
    return hashlib.sha256(pad_root(leaves // 2) * 2).digest()


def reduce(nodes: bytes, width: int, pad: bytes = ZERO) -> bytes:
    """Root over `width` nodes (a power of two); the missing ones are `pad`, itself the root of zero leaves."""
    sha256 = hashlib.sha256
    while width > 1:
        if len(nodes) % 64:
            nodes += pad
        nodes = b"".join([sha256(nodes[at : at + 64]).digest() for at in range(0, len(nodes), 64)])
        pad = sha256(pad + pad).digest()
        width //= 2
    return nodes


def root_and_layer(leaves: bytes, piece_size: int, size: int) -> tuple[bytes, bytes]:
    """(root, piece layer) of a file from the digests of its blocks; the layer of a file within one piece is empty.

    Raises ValueError when `leaves` are not those of `size` bytes, or the file is empty.
    """
    check_piece_size(piece_size)
    if size < 1 or len(leaves) != blocks(size) * HASH_BYTES:
        raise ValueError(f"{len(leaves)} bytes of block digests for {size} bytes")
    if size <= piece_size:
        return reduce(leaves, _power(blocks(size))), b""
    step = piece_size // BLOCK_BYTES
    layer = b"".join(
        [reduce(leaves[at : at + step * HASH_BYTES], step) for at in range(0, len(leaves), step * HASH_BYTES)]
    )
    return root_of_layer(layer, piece_size), layer


def root_of_layer(layer: bytes, piece_size: int) -> bytes:
    """Root of a file with this piece layer."""
    return reduce(layer, _power(len(layer) // HASH_BYTES), pad_root(piece_size // BLOCK_BYTES))


def check_layer(root: bytes, layer: bytes, piece_size: int, size: int) -> None:
    """Raises IntegrityError unless `layer` is the piece layer of a file of `size` bytes with this `root`."""
    count = piece_count(size, piece_size) if size > piece_size else 0
    if len(layer) != count * HASH_BYTES:
        raise IntegrityError(f"a piece layer of {len(layer):,} bytes where {count * HASH_BYTES:,} are due")
    if count and root_of_layer(layer, piece_size) != root:
        raise IntegrityError("a piece layer does not hash to the root of its file")


def piece_hash(root: bytes, layer: bytes, piece_size: int, size: int, index: int) -> bytes:
    """What `piece_root` must give for piece `index` of a file: its node of the (checked) layer, or the root itself."""
    if not 0 <= index < piece_count(size, piece_size):
        raise ValueError(f"no piece {index}")
    return layer[index * HASH_BYTES : (index + 1) * HASH_BYTES] if size > piece_size else root


def piece_root(data: bytes | bytearray | memoryview, piece_size: int, *, whole: bool = False) -> bytes:
    """Hash of one piece. `whole`: the data are a whole file within one piece, so the tree is no larger than they need."""
    if not data or len(data) > piece_size:
        raise ValueError(f"{len(data)} bytes are no piece of {piece_size}")
    width = _power(blocks(len(data))) if whole else piece_size // BLOCK_BYTES
    return reduce(leaf_digests(data), width)


class PieceHasher:
    """Root and piece layer of a file that comes in parts of any length; keeps one piece's block digests at most.

        hasher = PieceHasher(piece_size); hasher.update(data) …; root, layer = hasher.finish()

    `hasher.layer` grows as pieces become whole. For one piece alone, use a hasher of its own and `piece()`.
    """

    def __init__(self, piece_size: int) -> None:
        check_piece_size(piece_size)
        self._piece_size = piece_size
        self._full = piece_size // BLOCK_BYTES * HASH_BYTES
        self._leaves = bytearray()  # of the piece that is not whole yet
        self._rest = bytearray()  # less than a block
        self.layer = bytearray()
        self.size = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes."""
        view = memoryview(data)
        self.size += len(view)
        if self._rest:
            take = min(BLOCK_BYTES - len(self._rest), len(view))
            self._rest += view[:take]
            view = view[take:]
            if len(self._rest) < BLOCK_BYTES:
                return
            self.add_leaves(leaf_digests(self._rest))
            self._rest.clear()
        even = len(view) - len(view) % BLOCK_BYTES
        if even:
            self.add_leaves(leaf_digests(view[:even]))
        self._rest += view[even:]

    def add_leaves(self, leaves: bytes) -> None:
        """Digests of the blocks that follow, for a caller who counts `size` and cuts blocks itself."""
        self._leaves += leaves
        done = len(self._leaves) - len(self._leaves) % self._full
        for at in range(0, done, self._full):
            self.layer += reduce(bytes(self._leaves[at : at + self._full]), self._full // HASH_BYTES)
        if done:
            del self._leaves[:done]

    def _close(self) -> None:
        if self._rest:
            self.add_leaves(leaf_digests(self._rest))
            self._rest.clear()

    def piece(self, *, whole: bool = False) -> bytes:
        """Hash of the one piece that was added, like `piece_root`; the hasher is used up."""
        if not 0 < self.size <= self._piece_size:
            raise ValueError(f"{self.size} bytes are no piece of {self._piece_size}")
        return self.finish()[0] if whole else self._padded()

    def _padded(self) -> bytes:
        self._close()
        if self._leaves:
            self.layer += reduce(bytes(self._leaves), self._full // HASH_BYTES)
            self._leaves.clear()
        return bytes(self.layer)

    def finish(self) -> tuple[bytes, bytes]:
        """(root, piece layer) of all that was added. Raises ValueError when that is nothing."""
        self._close()
        if self.size < 1:
            raise ValueError("an empty file has no root")
        if not self.layer and self._leaves:
            return reduce(bytes(self._leaves), _power(len(self._leaves) // HASH_BYTES)), b""
        layer = self._padded()
        if len(layer) == HASH_BYTES:  # exactly one piece
            return layer, b""
        return root_of_layer(layer, self._piece_size), layer


def _power(count: int) -> int:
    return 1 << (count - 1).bit_length()
