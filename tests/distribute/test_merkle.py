"""BEP 52's trees: against a recursion that follows the text, whatever the size and however the bytes come."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distribute import merkle
from headwater.errors import IntegrityError

KIB16 = 16384


def by_the_book(leaves: list[bytes]) -> bytes:
    """Root of a tree whose leaves are filled up with zero hashes to a power of two."""
    width = 1
    while width < len(leaves):
        width *= 2
    leaves = leaves + [bytes(32)] * (width - len(leaves))
    if len(leaves) == 1:
        return leaves[0]
    half = len(leaves) // 2
    left, right = by_the_book(leaves[:half]), by_the_book(leaves[half:])
    return hashlib.sha256(left + right).digest()


def leaves_of(data: bytes) -> list[bytes]:
    return [hashlib.sha256(data[at : at + KIB16]).digest() for at in range(0, len(data), KIB16)]


SIZES = (
    1,
    KIB16 - 1,
    KIB16,
    KIB16 + 1,
    2 * KIB16,
    3 * KIB16 + 9,
    4 * KIB16,
    5 * KIB16,
    9 * KIB16 - 1,
    16 * KIB16,
    17 * KIB16,
)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [KIB16, 4 * KIB16, 16 * KIB16])
def test_root_and_layer(size: int, piece: int) -> None:
    data = random.Random(size).randbytes(size)
    leaves = leaves_of(data)
    root, layer = merkle.root_and_layer(b"".join(leaves), piece, size)
    assert root == by_the_book(leaves)  # the cut at the pieces does not change the root
    merkle.check_layer(root, layer, piece, size)
    assert len(layer) == (32 * merkle.piece_count(size, piece) if size > piece else 0)
    for index in range(merkle.piece_count(size, piece)):
        part = data[index * piece : (index + 1) * piece]
        wanted = merkle.piece_hash(root, layer, piece, size, index)
        assert merkle.piece_root(part, piece, whole=size <= piece) == wanted
        hasher = merkle.PieceHasher(piece)
        hasher.update(part)
        assert hasher.piece(whole=size <= piece) == wanted
        flipped = bytes([part[0] ^ 1]) + part[1:]
        assert merkle.piece_root(flipped, piece, whole=size <= piece) != wanted


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 20 * KIB16), st.sampled_from([KIB16, 2 * KIB16, 8 * KIB16]), st.integers(1, 5 * KIB16))
def test_parts_of_any_length(size: int, piece: int, step: int) -> None:
    data = random.Random(size).randbytes(size)
    hasher = merkle.PieceHasher(piece)
    for at in range(0, size, step):
        hasher.update(data[at : at + step])
    assert hasher.size == size
    assert hasher.finish() == merkle.root_and_layer(merkle.leaf_digests(data), piece, size)


def test_a_wrong_layer_is_refused() -> None:
    data = random.Random(5).randbytes(5 * KIB16 + 3)
    root, layer = merkle.root_and_layer(merkle.leaf_digests(data), KIB16, len(data))
    for wrong in (
        layer[:-32],
        layer + layer[:32],
        layer[:-1],
        b"",
        layer[32:64] + layer[:32] + layer[64:],
        bytes(len(layer)),
    ):
        with pytest.raises(IntegrityError, match="piece layer"):
            merkle.check_layer(root, wrong, KIB16, len(data))
    with pytest.raises(IntegrityError, match="piece layer"):
        merkle.check_layer(root, layer, 8 * KIB16, len(data))  # one piece: no layer is due


@pytest.mark.parametrize("piece", [0, 1, 8192, 3 * KIB16, -KIB16])
def test_piece_sizes_that_are_none(piece: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        merkle.PieceHasher(piece)


def test_misuse() -> None:
    with pytest.raises(ValueError, match="block digests"):
        merkle.root_and_layer(bytes(32), KIB16, 2 * KIB16)
    with pytest.raises(ValueError, match="block digests"):
        merkle.root_and_layer(b"", KIB16, 0)
    with pytest.raises(ValueError, match="no root"):
        merkle.PieceHasher(KIB16).finish()
    with pytest.raises(ValueError, match="no piece"):
        merkle.piece_root(bytes(KIB16 + 1), KIB16)
    with pytest.raises(ValueError, match="no piece 2"):
        merkle.piece_hash(bytes(32), bytes(64), KIB16, 2 * KIB16, 2)
