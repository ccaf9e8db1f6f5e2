"""Pairs of 64-bit hashes that differ in few bits: all of them, found without comparing all.

Multi-index hashing (Norouzi, Punjani and Fleet, arXiv 1307.2982): of four bands of 16 bits, two hashes at distance d differ by at most
floor(d / 4) bits in at least one. Hashes are sorted by a band; each is compared with those whose band is that near, by its full
distance. A pair that several bands find is given by the first. Memory: some arrays of as many numbers as hashes, and PAIRS_AT_ONCE.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import numpy.typing as npt

from curate._picture_hash import distance

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
BANDS = 4
BAND_BITS = 16
MAX_DISTANCE = 11  # beyond, the bands would be three bits wide of the mark: most of all pairs
PAIRS_AT_ONCE = 1 << 21


def near_pairs(first: U64, second: U64 | None, most: int) -> Iterator[tuple[I64, I64]]:
    """Blocks of (i, j) with at most `most` bits between first[i] and second[j]; each pair once, in no order.

    Without `second`, pairs i < j within `first`.
    """
    radius = most // BANDS
    alone = second is None
    other = first if second is None else second
    for band in range(BANDS):
        left, right = _Band(first, band), _Band(other, band)
        for mask in _masks(radius):
            for i, j in _compared(left, right, mask, most):
                if alone:
                    keep = i < j
                    i, j = i[keep], j[keep]
                for earlier in range(band):
                    shift = np.uint64(BAND_BITS * earlier)
                    apart = (first[i] ^ other[j]) >> shift & np.uint64(0xFFFF)
                    keep = np.bitwise_count(apart) > radius
                    i, j = i[keep], j[keep]
                if len(i):
                    yield i, j


def _masks(radius: int) -> Iterator[int]:
    for bits in range(radius + 1):
        for places in combinations(range(BAND_BITS), bits):
            yield sum(1 << place for place in places)


class _Band:
    """Hashes in the order of one band; those of key k are start[k] … start[k + 1] - 1."""

    def __init__(self, hashes: U64, band: int) -> None:
        self.key = (hashes >> np.uint64(BAND_BITS * band) & np.uint64(0xFFFF)).astype(np.int64)
        self.order = np.argsort(self.key, kind="stable")
        self.key = self.key[self.order]
        self.hashes = hashes[self.order]
        self.start = np.searchsorted(self.key, np.arange((1 << BAND_BITS) + 1))


def _compared(left: _Band, right: _Band, mask: int, most: int) -> Iterator[tuple[I64, I64]]:
    begin = right.start[left.key ^ mask]
    counts = right.start[(left.key ^ mask) + 1] - begin
    done = np.concatenate([[0], np.cumsum(counts)])
    at = 0
    while at < len(counts):
        stop = max(at + 1, int(np.searchsorted(done, done[at] + PAIRS_AT_ONCE, side="right")) - 1)
        some = counts[at:stop]
        i = np.repeat(np.arange(at, stop), some)
        j = np.arange(int(some.sum())) + np.repeat(begin[at:stop] - (done[at:stop] - done[at]), some)
        near = distance(left.hashes[i], right.hashes[j]) <= most
        yield left.order[i[near]], right.order[j[near]]
        at = stop
