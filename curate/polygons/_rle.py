"""Run lengths of a mask: COCO's compressed string, lists of counts, and LEB128 bytes as the store keeps them.

Counts are the lengths of background and foreground in turn, background first, columns first. COCO's string has 5 bits a character
(48 + bits, 32 says that more follow, least significant first, two's complement); from the fourth count on it holds the difference to the
count two before (maskApi.c, rleToString and rleFrString).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]

MOST = 1 << 40  # longer runs than any mask has


def leb_of(counts: Counts) -> bytes:
    """LEB128 bytes (7 bits each, least significant first, 128 says that more follow) of counts from 0."""
    return _groups(np.asarray(counts, np.int64), 7, signed=False).tobytes()


def counts_of(leb: bytes) -> Counts:
    """The counts that `leb_of` wrote. Raises ValueError for bytes that end within a number."""
    return _numbers(np.frombuffer(leb, np.uint8), 7, signed=False)


def string_of(counts: Counts) -> str:
    """COCO's compressed string."""
    counts = np.asarray(counts, np.int64)
    steps = counts.copy()
    steps[3:] -= counts[1:-2]
    return (_groups(steps, 5, signed=True) + 48).tobytes().decode("ascii")


def counts_of_string(text: str) -> Counts:
    """The counts in COCO's compressed string. Raises ValueError for text that is none."""
    try:
        codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError as error:
        raise ValueError("not COCO's run lengths: not ASCII") from error
    if len(codes) and (codes.min() < 0 or codes.max() > 63):
        raise ValueError("not COCO's run lengths: a character out of range")
    steps = _numbers(codes.astype(np.uint8), 5, signed=True)
    if len(steps) > 3:  # count i = step i + count i-2, from i = 3 on
        steps[1::2] = np.cumsum(steps[1::2])
        steps[2::2] = np.cumsum(steps[2::2])
    if len(steps) and (steps.min() < 0 or steps.max() > MOST):
        raise ValueError("not COCO's run lengths: a count is negative or too large")
    return steps


def _groups(values: Counts, bits: int, *, signed: bool) -> npt.NDArray[np.uint8]:
    """Each value as groups of `bits`, least significant first, with a bit above that says whether more follow."""
    if not len(values):
        return np.zeros(0, np.uint8)
    low = (1 << bits) - 1
    columns, more = [], []
    rest = values.copy()
    while True:
        group = rest & low
        rest = rest >> bits
        negative = (group & (1 << (bits - 1)) != 0) & signed
        follows = np.where(negative, rest != -1, rest != 0)
        columns.append(group | (follows.astype(np.int64) << bits))
        more.append(follows)
        if not follows.any():
            break
    used = np.ones((len(values), len(columns)), bool)
    for place in range(1, len(columns)):
        used[:, place] = used[:, place - 1] & more[place - 1]
    found: npt.NDArray[np.uint8] = np.column_stack(columns)[used].astype(np.uint8)
    return found


def _numbers(codes: npt.NDArray[np.uint8], bits: int, *, signed: bool) -> Counts:
    """The inverse of `_groups`."""
    if not len(codes):
        return np.zeros(0, np.int64)
    last = codes >> bits == 0
    if not last[-1]:
        raise ValueError("run lengths end in the middle of a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    if (ends - starts).max() * bits > 56:
        raise ValueError("a run length is too large")
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    groups = (codes & ((1 << bits) - 1)).astype(np.int64) << (place * bits)
    values = np.add.reduceat(groups, starts)
    if signed:
        negative = codes[ends] & (1 << (bits - 1)) != 0
        values -= negative.astype(np.int64) << ((ends - starts + 1) * bits)
    return values
