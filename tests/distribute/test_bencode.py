"""Bencoding: one form for a value, and nothing else is read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distribute.bencode import Limits, decode, decode_top, encode
from headwater.errors import IntegrityError

VALUES = st.recursive(
    st.integers(-(1 << 63), (1 << 63) - 1) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_round_trip(value: Any) -> None:
    assert decode(encode(value)) == value


@given(st.binary(max_size=40))
def test_what_decodes_has_one_form(raw: bytes) -> None:
    try:
        value = decode(raw)
    except IntegrityError:
        return
    assert encode(value) == raw


def test_forms() -> None:
    assert encode({"b": [1, b"x", "é"], "a": -7}) == b"d1:ai-7e1:bli1e1:x2:\xc3\xa9ee"
    assert decode(b"d1:ai-7e1:bli1e1:xee") == {b"a": -7, b"b": [1, b"x"]}
    with pytest.raises(TypeError):
        encode({"a": None})
    with pytest.raises(TypeError):
        encode(True)


BAD = [
    b"", b"i", b"ie", b"i-e", b"i-0e", b"i01e", b"i-01e", b"i1", b"i 1e", b"i+1e", b"i1.0e", b"i1_0e",
    b"i9223372036854775808e", b"i-9223372036854775809e", b"i" + b"1" * 5000 + b"e",
    b"1", b"1:", b"2:a", b"01:a", b"-1:a", b"1 :a", b"99999999999999999999:a", b"9999999:a", b":",
    b"l", b"li1e", b"d", b"d1:a", b"d1:ae", b"di1ei1ee", b"d1:ai1e", b"d1:bi1e1:ai1ee", b"d1:ai1e1:ai2ee", b"dle",
    b"i1ei2e", b"le ", b"\xef\xbb\xbfle", b"e", b"x", b"n", b"\xd9\xa1:a",
]  # fmt: skip


@pytest.mark.parametrize("raw", BAD, ids=lambda raw: repr(raw[:24]))
def test_refused(raw: bytes) -> None:
    with pytest.raises(IntegrityError, match="bencoding"):
        decode(raw)


def test_bounded() -> None:
    assert decode(b"l" * 100 + b"e" * 100)
    for raw, limits in [
        (b"l" * 101 + b"e" * 101, Limits()),
        (b"l" * 10_000_000, Limits()),
        (b"d1:a" * 200_000, Limits()),
        (encode([1] * 11), Limits(values=11)),
        (encode({str(n): 1 for n in range(6)}), Limits(values=12)),
        (encode(bytes(100)), Limits(size_bytes=100)),
    ]:
        with pytest.raises(IntegrityError, match="bencoding"):
            decode(raw, limits=limits)
    assert decode(encode([1] * 11), limits=Limits(values=12)) == [1] * 11


def test_places_of_the_outer_values() -> None:
    raw = b"d4:infod1:zi1e1:ai2ee1:b3:abce"  # not sorted, outside nor inside
    value, spans = decode_top(raw, sorted_keys=False)
    assert value == {b"info": {b"z": 1, b"a": 2}, b"b": b"abc"}
    assert {key: raw[slice(*span)] for key, span in spans.items()} == {
        b"info": b"d1:zi1e1:ai2ee",
        b"b": b"3:abc",
    }
    with pytest.raises(IntegrityError, match="not in order"):
        decode_top(raw)
    with pytest.raises(IntegrityError, match="twice"):
        decode(b"d1:bi1e1:ai1e1:bi1ee", sorted_keys=False)
    with pytest.raises(IntegrityError, match="not a dictionary"):
        decode_top(b"le")
