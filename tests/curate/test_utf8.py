"""The UTF-8 check against Python's decoder."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate._utf8 import SLICE_BYTES, is_utf8, slices

# both ends of every range in the grammar of RFC 3629, and their neighbours outside
EDGES = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED]
EDGES += [0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]


def decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def check(data: bytes) -> None:
    assert is_utf8(np.frombuffer(data, np.uint8)) == decodes(data), data


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_every_short_sequence_of_edges(length: int) -> None:
    for sequence in itertools.product(EDGES, repeat=length):
        check(bytes(sequence))


def test_four_bytes_after_a_lead_of_four() -> None:
    for sequence in itertools.product(
        [0xF0, 0xF1, 0xF4, 0xF5, 0xE0], EDGES, [0x7F, 0x80, 0xBF, 0xC2], [0x80, 0xC0]
    ):
        check(bytes(sequence))


@settings(max_examples=400)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=9).map(str.encode),
            st.binary(max_size=2),
            st.sampled_from(EDGES).map(lambda b: bytes([b])),
        )
    )
)
def test_mixtures(pieces: list[bytes]) -> None:
    check(b"".join(pieces))


@pytest.mark.parametrize("before", range(58, 70))
@pytest.mark.parametrize("piece", ["é", "家", "👨", "\ud7ff", "\ue000"], ids=ascii)
def test_across_and_at_the_end_of_words_of_64_bits(before: int, piece: str) -> None:
    raw = piece.encode()
    for size in range(1, len(raw) + 1):
        check(b"a" * before + raw[:size])
        check(b"a" * before + raw[:size] + b"b" * 70)
        check(b"a" * before + raw + raw[size:])


@pytest.mark.parametrize("size", range(4, 9))
@pytest.mark.parametrize("piece", ["aé", "家", "👨a", "a👨"], ids=ascii)
def test_slices_end_between_characters(piece: str, size: int) -> None:
    raw = np.frombuffer((piece * 20).encode(), np.uint8)
    parts = [part.tobytes() for part in slices(raw, size)]
    assert b"".join(parts) == raw.tobytes()
    assert "".join(part.decode() for part in parts) == piece * 20
    assert max(map(len, parts)) <= size


@pytest.mark.parametrize("bad", [b"\x80" * 9, b"\xff", b"\xf0\x9f\x91", b"\xc3"])
@pytest.mark.parametrize("shift", range(-4, 2))
def test_damage_at_the_end_of_a_slice(bad: bytes, shift: int) -> None:
    data = b"a" * (SLICE_BYTES + shift) + bad + b"b" * 9
    assert not is_utf8(np.frombuffer(data, np.uint8))
    assert is_utf8(np.frombuffer(data.replace(bad, "家".encode()), np.uint8))
