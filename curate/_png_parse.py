"""The first compiled half of the PNG encoder: which bytes repeat (the rules stand in curate._png).

Positions are unsigned: numba then needs no test for negative indices. The loop of `_parse` waits for memory and for its own last
step, so it has few jumps, and those that it has can be foreseen: eight candidates are followed at the same time, one bit each.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False, check-untyped-defs=False

from __future__ import annotations

from typing import Any

import numpy as np
from numba import uint8, uint32, uint64
from numba.cpython.unsafe.numbers import leading_zeros, trailing_zeros

from curate._jit import kernel, njit
from curate._png_words import load, store

STRIPE = 32768  # bytes that are parsed on their own
ROOM = STRIPE + 16  # tokens
PAD = 48  # bytes behind the data that are read

U = np.uint64
EVERY = U(0x0101010101010101)
ONE, TWO, THREE, SEVEN, EIGHT = U(1), U(2), U(3), U(7), U(8)
ADLER = 65521
# of functions that are only called from compiled ones
INNER: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}


@njit(**INNER)
def _fill(pixels, data):
    """Rows of `pixels` (H, bytes) with their filter byte 0 into `data`; returns the Adler-32 sum of it."""
    height, width = pixels.shape
    low, high = 1, 0
    for row in range(height):
        source = pixels[row]
        target = data[row * (width + 1) + 1 : (row + 1) * (width + 1)]
        high = (high + low) % ADLER  # the filter byte
        for first in range(0, width, 4096):
            count = min(4096, width - first)
            part, copy = source[first : first + count], target[first : first + count]
            plain, weighted = uint32(0), uint32(0)
            for j in range(count):
                byte = part[j]
                copy[j] = byte
                plain += uint32(byte)
                weighted += uint32(byte) * uint32(count - j)
            high = (high + low * count + np.int64(weighted)) % ADLER
            low = (low + np.int64(plain)) % ADLER
    return high * 65536 + low


@njit(**INNER)
def _compare(data, codes, size, row_bytes, far, masks):
    """codes[i] = the candidates k, as bits, for which data[i] == data[i - far[k]]."""
    deepest = 0
    for k in range(8):
        deepest = max(deepest, far[k])
    start = min(size, -(-deepest // row_bytes) * row_bytes)
    codes[:start] = 0
    for k in range(8):
        if start > far[k]:
            back, here, out = data[: start - far[k]], data[far[k] : start], codes[far[k] : start]
            for i in range(len(out)):
                out[i] |= uint8(here[i] == back[i]) * masks[k]
    m0, m1, m2, m3, m4, m5, m6, m7 = masks
    for at in range(start, size, row_bytes):
        here, out = data[at : at + row_bytes], codes[at : at + row_bytes]
        d0 = data[at - far[0] : at - far[0] + row_bytes]
        d1 = data[at - far[1] : at - far[1] + row_bytes]
        d2 = data[at - far[2] : at - far[2] + row_bytes]
        d3 = data[at - far[3] : at - far[3] + row_bytes]
        d4 = data[at - far[4] : at - far[4] + row_bytes]
        d5 = data[at - far[5] : at - far[5] + row_bytes]
        d6 = data[at - far[6] : at - far[6] + row_bytes]
        d7 = data[at - far[7] : at - far[7] + row_bytes]
        for j in range(row_bytes):
            byte = here[j]
            out[j] = (
                (uint8(byte == d0[j]) * m0)
                | (uint8(byte == d1[j]) * m1)
                | (uint8(byte == d2[j]) * m2)
                | (uint8(byte == d3[j]) * m3)
                | (uint8(byte == d4[j]) * m4)
                | (uint8(byte == d5[j]) * m5)
                | (uint8(byte == d6[j]) * m6)
                | (uint8(byte == d7[j]) * m7)
            )


@njit(inline="always", **INNER)
def _from_first(word):
    """Each byte becomes the AND of itself and all before it (the lowest byte is the first)."""
    word &= (word << EIGHT) | U(0xFF)
    word &= (word << U(16)) | U(0xFFFF)
    return word & ((word << U(32)) | U(0xFFFFFFFF))


@njit(inline="always", **INNER)
def _spread(tokens, at, word):
    """Eight bytes of `word` as eight 16-bit tokens, from byte `at` of `tokens` on."""
    for half in (word & U(0xFFFFFFFF), word >> U(32)):
        half = (half | (half << U(16))) & U(0x0000FFFF0000FFFF)
        store(tokens, at, (half | (half << EIGHT)) & U(0x00FF00FF00FF00FF))
        at += EIGHT


@njit(**INNER)
def _long(codes, i, left, tokens16, to):
    """A match of 8 bytes or more from `i` on: its end, and where its tokens end."""
    more = EIGHT
    q = i + more
    while more == EIGHT:
        wide = left * EVERY
        word = load(codes, q) & wide
        if word == wide:
            q += EIGHT
            while load(codes, q) & load(codes, q + EIGHT) & load(codes, q + U(16)) & wide == wide:
                q += U(24)
            continue
        word = _from_first(word)
        more = EIGHT - (uint64(leading_zeros(word)) >> THREE)
        if more:
            left = word >> ((more - ONE) << THREE)
            q += more
    which = uint64(trailing_zeros(left)) + U(256)
    while i < q:  # no piece longer than 258, no rest shorter than 3
        piece = q - i
        if piece > U(258):
            piece = U(258) if piece > U(260) else piece - THREE
        tokens16[to] = (piece << THREE) + which
        to += ONE
        i += piece
    return q, to


@njit(**INNER)
def _parse(data, codes, size, tokens, found):
    """Cut every stripe into tokens: bytes, and 256 + 8 * length + candidate; their numbers go into `found`."""
    tokens16 = tokens.view(np.uint16)
    for stripe in range(len(found)):
        codes[stripe * STRIPE] = 0  # no match runs into the next stripe
    for stripe in range(len(found)):
        i, end, to = U(stripe * STRIPE), U(min(size, (stripe + 1) * STRIPE)), U(stripe * ROOM)
        while True:
            hits = load(codes, i) & load(codes, i + ONE) & load(codes, i + TWO)
            _spread(tokens, to + to, load(data, i))
            skip = uint64(trailing_zeros(hits)) >> THREE  # 8 where there are none
            if i + skip >= end:
                break
            i += skip
            to += skip
            word = _from_first(load(codes, i))
            more = EIGHT - (uint64(leading_zeros(word)) >> THREE)
            left = word >> (((more - ONE) & SEVEN) << THREE)  # candidates that go on, as bits
            tokens16[to] = (more << THREE) + uint64(trailing_zeros(left)) + U(256)
            if more < EIGHT:
                match = more >= THREE
                i += more if match else U(0)
                to += ONE if match else U(0)
            else:
                i, to = _long(codes, i, left, tokens16, to)
        found[stripe] = to + end - i - uint64(stripe * ROOM)


@kernel
def tokenise(rows, data, codes, far, masks, tokens, found):
    """Cut the filtered `rows` (H, bytes) into `tokens` (see `_parse`); returns their Adler-32 sum.

    `data` and `codes` have PAD bytes more than there are, `tokens` (as bytes) 2 * ROOM and `found` one entry a stripe.
    """
    row_bytes = rows.shape[1] + 1
    size = rows.shape[0] * row_bytes
    adler = _fill(rows, data)
    _compare(data, codes, size, row_bytes, far, masks)
    _parse(data, codes, size, tokens, found)
    return adler
