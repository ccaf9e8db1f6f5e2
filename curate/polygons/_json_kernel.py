"""Compiled steps of the JSON reader: white space, numbers rounded exactly, the end of a value, a cut between elements.

All read a buffer whose byte after the last one is 0, which no JSON token holds: loops need no test for the end. A 0 at `end` means
that more bytes are wanted. Decimal numbers are rounded to the nearest double by the method of Lemire (arXiv 2101.11408) with Mushtak's
and Lemire's shorter test (arXiv 2212.06644); the few that it cannot settle are left to Python.
"""

from __future__ import annotations

import numpy as np

from curate._jit import kernel

MORE, DONE, FAULT, DEEP, FULL, SLOW = 1, 2, 3, 4, 5, 6  # what a step can end with
INT, FLOAT, HARD, NO = 1, 2, 3, 0  # kinds of number: int64, double, only Python can tell, none

LEAST, MOST = -330, 310  # powers of ten in the table
BIG = 1 << 53


def _powers() -> np.ndarray:
    """(n, 2) uint64: the top 128 bits of 5**q, as high and low word."""
    rows = []
    for q in range(LEAST, MOST + 1):
        if q >= 0:
            value = 5**q
            shift = value.bit_length() - 128
            top = value >> shift if shift >= 0 else value << -shift
        else:
            divisor = 5**-q
            bits = divisor.bit_length() + 127
            top = (1 << bits) // divisor + 1
            while top >= 1 << 128:
                top >>= 1
        rows.append((top >> 64, top & (2**64 - 1)))
    return np.array(rows, np.uint64)


POWERS = _powers()
U = np.uint64
LOW32 = U(0xFFFFFFFF)


@kernel
def blank(buf, pos):  # type: ignore[no-untyped-def]
    """The position of the next byte that is no white space."""
    while True:
        byte = buf[pos]
        if byte > 32 or not (byte == 32 or byte == 10 or byte == 13 or byte == 9):
            return pos
        pos += 1


@kernel
def _product(a, b):  # type: ignore[no-untyped-def]
    """(high, low) words of the product of two uint64."""
    a_low, a_high = a & LOW32, a >> U(32)
    b_low, b_high = b & LOW32, b >> U(32)
    low = a_low * b_low
    middle = a_high * b_low + (low >> U(32))
    other = a_low * b_high + (middle & LOW32)
    return a_high * b_high + (middle >> U(32)) + (other >> U(32)), a * b


@kernel
def _zeros(w):  # type: ignore[no-untyped-def]
    """Leading zero bits of a uint64 that is not 0."""
    count = 0
    if w >> U(32) == U(0):
        count += 32
        w <<= U(32)
    if w >> U(48) == U(0):
        count += 16
        w <<= U(16)
    if w >> U(56) == U(0):
        count += 8
        w <<= U(8)
    if w >> U(60) == U(0):
        count += 4
        w <<= U(4)
    if w >> U(62) == U(0):
        count += 2
        w <<= U(2)
    if w >> U(63) == U(0):
        count += 1
    return count


@kernel
def rounded(w, q, bits):  # type: ignore[no-untyped-def]
    """(settled, double) nearest to w * 10**q for a uint64 w > 0; `bits` is a scratch array of one uint64."""
    if q < LEAST or q > MOST:
        return False, 0.0
    zeros = _zeros(w)
    w <<= U(zeros)
    high, low = _product(w, POWERS[q - LEAST, 0])
    if high & U(0x1FF) == U(0x1FF):
        second, _ = _product(w, POWERS[q - LEAST, 1])
        low += second
        if second > low:
            high += U(1)
    upper = np.int64(high >> U(63))
    shift = U(upper + 9)
    mantissa = high >> shift
    power = ((217706 * q) >> 16) + 63 + upper - zeros + 1023
    if power <= 0 or power >= 2046:
        return False, 0.0
    if low <= U(1) and q >= -4 and q <= 23 and mantissa & U(3) == U(1) and mantissa << shift == high:
        mantissa &= ~U(1)
    mantissa += mantissa & U(1)
    mantissa >>= U(1)
    if mantissa >= U(1 << 53):
        mantissa = U(1 << 52)
        power += 1
    bits[0] = (mantissa & U((1 << 52) - 1)) | (U(power) << U(52))
    return True, bits.view(np.float64)[0]


@kernel
def number(buf, pos, bits):  # type: ignore[no-untyped-def]
    """(kind, double, int64, position behind it) of the number at `pos`, by JSON's grammar.

    The double of an INT beyond 2**53 is not exact.
    """
    negative = buf[pos] == 45
    if negative:
        pos += 1
    w = U(0)
    digits = 0  # significant ones taken into w
    q = 0
    cut = False
    first = buf[pos]
    if first == 48:
        pos += 1
    elif 49 <= first <= 57:
        while True:
            digit = buf[pos] - 48
            if digit < 0 or digit > 9:
                break
            if digits < 19:
                w = w * U(10) + U(digit)
                digits += 1
            else:
                q += 1
                cut = True
            pos += 1
    else:
        return NO, 0.0, 0, pos
    whole = True
    if buf[pos] == 46:
        whole = False
        pos += 1
        start = pos
        while True:
            digit = buf[pos] - 48
            if digit < 0 or digit > 9:
                break
            if digits < 19:
                w = w * U(10) + U(digit)
                q -= 1
                if w != U(0):
                    digits += 1
            else:
                cut = True
            pos += 1
        if pos == start:
            return NO, 0.0, 0, pos
    if buf[pos] == 101 or buf[pos] == 69:
        whole = False
        pos += 1
        down = buf[pos] == 45
        if down or buf[pos] == 43:
            pos += 1
        start = pos
        power = 0
        while True:
            digit = buf[pos] - 48
            if digit < 0 or digit > 9:
                break
            if power < 100000:
                power = power * 10 + digit
            pos += 1
        if pos == start:
            return NO, 0.0, 0, pos
        q += -power if down else power
    if whole:
        if cut or w > U(2**63 - 1):
            return HARD, 0.0, 0, pos
        value = np.int64(w)
        if negative:
            value = -value
        return INT, np.float64(value), value, pos
    if w == U(0):
        return (HARD if cut else FLOAT), (-0.0 if negative else 0.0), 0, pos
    if not cut and w <= U(BIG) and -22 <= q <= 22:
        double = np.float64(np.int64(w))
        double = double / TENS[-q] if q < 0 else double * TENS[q]
    else:
        settled, double = rounded(w, q, bits)
        if settled and cut:
            settled, above = rounded(w + U(1), q, bits)
            settled = settled and above == double
        if not settled:
            return HARD, 0.0, 0, pos
    return FLOAT, (-double if negative else double), 0, pos


TENS = np.array([10.0**power for power in range(23)])


@kernel
def string_end(buf, pos):  # type: ignore[no-untyped-def]
    """The position behind the string whose opening quote is at `pos`; -1 - p where byte p is none of a string (or the end)."""
    pos += 1
    while True:
        byte = buf[pos]
        if byte == 34:
            return pos + 1
        if byte == 92:
            pos += 1
            if buf[pos] < 32:
                return -1 - pos
        elif byte < 32:
            return -1 - pos
        pos += 1


@kernel
def value_end(buf, pos, end, depth):  # type: ignore[no-untyped-def]
    """(status, position) behind the value that starts at `pos`: DONE, MORE, FAULT or DEEP. Only brackets and quotes are looked at."""
    open_ones = 0
    while True:
        byte = buf[pos]
        if byte == 34:
            behind = string_end(buf, pos)
            if behind < 0:
                return (MORE if -1 - behind >= end else FAULT), -1 - behind
            pos = behind
            if open_ones == 0:
                return DONE, pos
        elif byte == 91 or byte == 123:
            open_ones += 1
            if open_ones > depth:
                return DEEP, pos
            pos += 1
        elif byte == 93 or byte == 125:
            if open_ones == 0:
                return FAULT, pos
            open_ones -= 1
            pos += 1
            if open_ones == 0:
                return DONE, pos
        elif byte == 0:
            return (MORE if pos >= end else FAULT), pos
        elif open_ones:
            pos += 1
        elif byte == 44 or byte <= 32:
            return FAULT, pos
        else:
            while True:
                byte = buf[pos]
                if byte == 44 or byte == 93 or byte == 125 or byte <= 32:
                    break
                pos += 1
            return (MORE if pos >= end else DONE), pos


@kernel
def cut(buf, pos, end, depth, enough):  # type: ignore[no-untyped-def]
    """(status, position) of a place in a list where whole elements end: DONE at its closing bracket; MORE, or FULL once `enough`
    bytes are passed, behind the last complete object (or `pos`); FAULT or DEEP where that was met."""
    last = pos
    limit = pos + enough
    while True:
        byte = buf[pos]
        if byte == 93:
            return DONE, pos
        if byte == 91 or byte == 123 or byte == 34:
            status, behind = value_end(buf, pos, end, depth)
            if status == MORE:
                return MORE, last
            if status != DONE:
                return status, behind
            pos = behind
            if byte == 123:
                last = pos
                if pos >= limit:
                    return FULL, last
        elif byte == 0:
            return (MORE, last) if pos >= end else (FAULT, pos)
        elif byte == 125:
            return FAULT, pos
        else:
            pos += 1
