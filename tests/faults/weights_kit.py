"""Damage for files of weights: single bytes set to anything, anywhere."""

from __future__ import annotations

from hypothesis import strategies as st


def mutated(content: bytes, edits: list[tuple[int, int]]) -> bytes:
    data = bytearray(content)
    for place, value in edits:
        data[place % len(data)] = value
    return bytes(data)


EDITS = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=6)
