"""Norms of rows against a target, the same to the last bit for any order of rows, blocks and threads (scorers normsim, normsim_d).

Sums over rows are exact: values are rounded once, to 2^-22 of the largest magnitude (nothing is lost of float16 of usual size), and
products of whole numbers below 2^53 add up in float64 without error, however they are grouped. A norm that is near the edge
between two float32 is added up again in one fixed order.
Source of the norms: arXiv 2405.19547, section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.features import Floats

BITS = 22
ROWS_AT_ONCE = 512  # 2 * BITS + log2(512) = 53
CARRY_BITS, CARRY_AFTER = 40, 256
NORM_ROWS = 2_048
TARGET_ROWS = 4_096
MOST_P = 100.0

Doubles = npt.NDArray[np.float64]


def scale_bits(largest: float, bits: int = BITS) -> int:
    """The power of two that brings magnitudes up to `largest` to at most 2^bits."""
    return bits - math.frexp(largest)[1]


class Gram:
    """The sum of x xT over rows, exact for rows rounded to 2^-22 of `largest`; rows can be taken out again."""

    def __init__(self, width: int, largest: float) -> None:
        self._shift = scale_bits(largest)
        self._low = np.zeros((width, width), np.int64)
        self._high = np.zeros((width, width), np.int64)
        self._since = 0

    def add(self, rows: Floats, sign: int = 1) -> None:
        """Add rows (n, width), none of them beyond `largest`; with sign -1, remove them."""
        for first in range(0, len(rows), ROWS_AT_ONCE):
            part = np.rint(np.ldexp(rows[first : first + ROWS_AT_ONCE].astype(np.float64), self._shift))
            self._low += (part.T @ part).astype(np.int64) * sign
            self._since += 1
            if self._since >= CARRY_AFTER:  # 2^53 a block: far below 2^63
                self._carry()

    def _carry(self) -> None:
        carry = self._low >> CARRY_BITS
        self._high += carry
        self._low -= carry << CARRY_BITS
        self._since = 0

    def matrix(self) -> Doubles:
        """(width, width) float64."""
        self._carry()
        whole = np.ldexp(self._high.astype(np.float64), CARRY_BITS) + self._low
        return np.ldexp(whole, -2 * self._shift)


def check_memory(width: int, memory_bytes: int) -> None:
    """Raises UsageError when the matrices of a 2-norm do not fit into the memory."""
    from headwater.errors import UsageError

    need = 48 * width * width  # two of whole numbers, and what adding up and the product with rows take
    if need > memory_bytes:
        raise UsageError(
            f"features of width {width:,} need {need:,} bytes for their sum of products, and {memory_bytes:,} may be used",
            hint="--memory gives more; p = inf needs less",
        )


def gram_norms(rows: Floats, gram: Doubles) -> Floats:
    """sqrt(x gram xT) of each row: the 2-norm of its products with the rows that `gram` is made of; (n,) float32."""
    out = np.empty(len(rows), np.float32)
    slack = 8 * (gram.shape[0] + 8) * np.finfo(np.float64).eps * float(np.trace(gram))
    for first in range(0, len(rows), NORM_ROWS):
        x = rows[first : first + NORM_ROWS].astype(np.float64)
        square = ((x @ gram) * x).sum(axis=1)
        error = slack * (x * x).sum(axis=1)
        low = np.sqrt(np.maximum(square - error, 0)).astype(np.float32)
        high = np.sqrt(square + error).astype(np.float32)
        for row in np.flatnonzero(low != high):
            low[row] = math.sqrt(max(float(((gram * x[row]).sum(axis=1) * x[row]).sum()), 0.0))
        out[first : first + NORM_ROWS] = low
    return out


def product_bits(width: int) -> int:
    """To how many bits rows are rounded so that a product of two rows is exact."""
    return min(26, (53 - math.ceil(math.log2(max(width, 2)))) // 2)


def whole(rows: Floats, bits: int) -> tuple[Doubles, npt.NDArray[np.int32]]:
    """Rows as whole numbers of at most `bits` bits, and the power of two that each was multiplied with."""
    x = rows.astype(np.float64)
    shift = (bits - np.frexp(np.abs(x).max(axis=1, initial=0))[1]).astype(np.int32)
    return np.rint(np.ldexp(x, shift[:, None])), shift


def add_powers(
    rows: Floats, target: Iterable[Floats], p: float, unit: npt.NDArray[np.float64], sums: Doubles
) -> None:
    """Add |x gT / unit|^p over the target's rows to `sums`, one for each row; TARGET_ROWS of the target at a time."""
    bits = product_bits(rows.shape[1])
    for first in range(0, len(rows), NORM_ROWS):
        part = slice(first, first + NORM_ROWS)
        x, x_shift = whole(rows[part], bits)
        for block in target:
            for start in range(0, len(block), TARGET_ROWS):
                g, g_shift = whole(block[start : start + TARGET_ROWS], bits)
                product = np.ldexp(x @ g.T, -(x_shift[:, None] + g_shift[None, :]))
                product /= unit[part, None]
                sums[part] += (np.abs(product, out=product) ** p).sum(axis=1)


def parse_p(text: str) -> float:
    """The order of a norm from its setting; from 100 on it is infinity, as in the reference's code. Raises UsageError."""
    from headwater.errors import UsageError

    try:
        p = float(text)
    except ValueError:
        p = math.nan
    if not p >= 1:
        raise UsageError(
            f"p is {text!r}, and a norm needs a number from 1 on, or inf", hint="2 or inf is usual"
        )
    return math.inf if p >= MOST_P else p


def largest_magnitude(blocks: Iterable[Any]) -> float:
    """The largest magnitude in arrays of rows; 1 where there are none."""
    return max((float(np.abs(block).max()) for block in blocks if len(block)), default=1.0)
