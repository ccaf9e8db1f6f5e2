"""A shuffle that is never stored: a keyed permutation of 0..n-1, any place of which can be asked for alone.

A Feistel network of four rounds over the smallest even number of bits that holds n (M. Luby, C. Rackoff, SIAM J. Comput. 17, 1988);
a value beyond n goes through again until it lies below (cycle walking: J. Black, P. Rogaway, CT-RSA 2002), at most four times on
average. Only 64-bit integers: the same on every machine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
ROUNDS = 4


def _mixed(x: U64) -> U64:
    """SplitMix64's finaliser (S. Vigna's splitmix64.c, public domain)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Permutation:
    """`Permutation(n, key)[places]`: (m,) int64 places, each in 0..n-1, to the (m,) numbers that stand there; no two alike."""

    def __init__(self, n: int, key: int) -> None:
        if not 1 <= n < 1 << 62:
            raise ValueError(f"a permutation of {n} numbers")
        self.n = n
        self._half = np.uint64((max((n - 1).bit_length(), 2) + 1) // 2)
        self._low = np.uint64((1 << int(self._half)) - 1)
        seeds = np.array([(key + 0x9E3779B97F4A7C15 * (k + 1)) % (1 << 64) for k in range(ROUNDS)], np.uint64)
        self._keys = _mixed(seeds)

    def __getitem__(self, places: I64) -> I64:
        values = self._once(places.astype(np.uint64))
        limit = np.uint64(self.n)
        while len(beyond := np.flatnonzero(values >= limit)):
            values[beyond] = self._once(values[beyond])
        return values.astype(np.int64)

    def _once(self, values: U64) -> U64:
        left, right = values >> self._half, values & self._low
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & self._low)
        return (left << self._half) | right
