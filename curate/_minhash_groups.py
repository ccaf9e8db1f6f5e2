"""Groups of near-equal word sets: candidates from bands, each compared exactly, joined into connected components.

Sets are numbered by the uid of the smallest row that has them, so that a group is named by its smallest number and nothing depends
on the order of rows. In a bucket (sets that share a band) each set is compared with the next `cap` ones, in the order of the next
band's key and then of numbers: a bucket of at most cap + 1 sets is compared whole, a larger one costs cap comparisons a set and may
miss pairs that lie further apart and meet in no other bucket. Pairs already in one group are not compared again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from curate._exact_dedup import crowded, runs_above

U64 = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
PAIRS_AT_ONCE = 1 << 17
KEYS_AT_ONCE = 4 << 20
WIDTHS = (4, 8, 16, 32)  # sets up to these sizes are compared side by side


@dataclass
class Groups:
    """Connected components under construction, over sets 0 … n-1."""

    sizes: npt.NDArray[np.int32]
    starts: Rows  # where each set begins in `words`
    words: Any  # u64 of all sets: an array or a memory map
    threshold: float
    cap: int
    parent: npt.NDArray[Any] = field(init=False)
    compared: int = 0
    joined: int = 0
    capped: int = 0  # buckets of more than cap + 1 sets
    largest: int = 0

    def __post_init__(self) -> None:
        self.parent = np.arange(len(self.sizes), dtype=narrow(len(self.sizes)))
        self._sketch = sketches(self.words, self.starts, self.sizes)

    def band(self, keys: U64, following: Callable[[Rows], U64]) -> None:
        """Compare what shares a key; `following` gives some sets' keys of the next band."""
        chosen = repeated(keys)
        if not len(chosen):
            return
        order = chosen[np.lexsort((following(chosen), keys[chosen]))]
        sorted_keys = keys[order]
        ends = np.flatnonzero(np.append(sorted_keys[1:] != sorted_keys[:-1], True)) + 1
        members = np.diff(ends, prepend=0)
        self.capped += int(np.count_nonzero(members > self.cap + 1))
        self.largest = max(self.largest, int(members.max()))
        left = np.repeat(ends, members) - np.arange(len(order)) - 1  # members that follow in the bucket
        places = np.arange(len(order))
        for step in range(1, self.cap + 1):
            places = places[left[places] >= step]
            if not len(places):
                break
            for first in range(0, len(places), PAIRS_AT_ONCE):
                some = places[first : first + PAIRS_AT_ONCE]
                self.pairs(order[some], order[some + step])

    def pairs(self, a: Rows, b: Rows) -> None:
        """Compare sets a[i] and b[i] exactly and join those that are near."""
        apart = self.find(a) != self.find(b)
        a, b = a[apart], b[apart]
        possible = self._possible(a, b)
        a, b = a[possible], b[possible]
        if not len(a):
            return
        self.compared += len(a)
        near = jaccard(self.words, self.starts, self.sizes, a, b) >= self.threshold
        self.join(a[near], b[near])

    def _possible(self, a: Rows, b: Rows) -> npt.NDArray[np.bool_]:
        """False where sizes and one bit a word already show too many words of one side that the other lacks."""
        n, m = self.sizes[a].astype(np.float64), self.sizes[b].astype(np.float64)
        shared = self.threshold / (1 + self.threshold) * (n + m) - 1e-6  # words that near sets share at least
        left, right = self._sketch[a], self._sketch[b]
        return np.asarray(
            (np.bitwise_count(left & ~right) <= n - shared) & (np.bitwise_count(right & ~left) <= m - shared)
        )

    def join(self, a: Rows, b: Rows) -> None:
        """Put a[i] and b[i] into one group, under its smallest number."""
        self.joined += len(a)
        touched = np.unique(np.concatenate([a, b]))
        while True:
            self.find(touched)
            low, high = np.minimum(self.parent[a], self.parent[b]), np.maximum(self.parent[a], self.parent[b])
            apart = low != high
            if not apart.any():
                return
            a, b, low, high = a[apart], b[apart], low[apart], high[apart]
            np.minimum.at(self.parent, high, low)
            touched = np.union1d(touched, high)  # old roots: a chain of them is halved with each look

    def find(self, sets: Rows) -> Rows:
        """The smallest number of each set's group so far."""
        parent = self.parent
        mine = parent[sets]
        while True:
            upper = parent[mine]
            if np.array_equal(upper, mine):
                return mine
            parent[sets] = mine = upper

    def labels(self) -> Rows:
        """The smallest number of the group of every set."""
        return self.find(np.arange(len(self.parent)))


def narrow(rows: int) -> type[np.int32] | type[np.int64]:
    """The type of numbers of so many rows."""
    return np.int32 if rows < 2**31 else np.int64


def repeated(keys: U64) -> Rows:
    """Places, ascending, of keys that occur more than once."""
    bits = max(len(keys) // KEYS_AT_ONCE, 0).bit_length()
    if not bits:
        return _repeated(keys)
    found = []
    for part in range(1 << bits):  # of the values: what is equal stays together
        places = np.flatnonzero(keys >> np.uint64(64 - bits) == np.uint64(part))
        found.append(places[_repeated(keys[places])])
    return np.sort(np.concatenate(found))


def _repeated(keys: U64) -> Rows:
    places = crowded(keys)
    some = keys[places]
    order = np.argsort(some)
    return np.sort(places[order[runs_above(some[order], 1)]])


def sketches(words: Any, starts: Rows, sizes: npt.NDArray[np.int32]) -> U64:
    """One of 64 bits for each word, all of a set together."""
    out = np.zeros(len(sizes), np.uint64)
    step = 1 << 18
    for first in range(0, len(sizes), step):
        size = sizes[first : first + step].astype(np.int64)
        some = np.flatnonzero(size > 0)
        if not len(some):
            continue
        size = size[some]
        ends = np.cumsum(size)
        places = np.repeat(starts[first + some] - (ends - size), size) + np.arange(int(ends[-1]))
        bits = np.uint64(1) << (np.asarray(words[places]) & np.uint64(63))
        out[first + some] = np.bitwise_or.reduceat(bits, ends - size)
    return out


def jaccard(
    words: Any, starts: Rows, sizes: npt.NDArray[np.int32], a: Rows, b: Rows
) -> npt.NDArray[np.float64]:
    """|A and B| / |A or B| of the sets a[i] and b[i], which have words; a double nearest to the exact quotient."""
    shared = np.zeros(len(a), np.int64)
    longest = np.maximum(sizes[a], sizes[b])
    below = 0
    for width in WIDTHS:
        some = np.flatnonzero((longest > below) & (longest <= width))
        below = width
        for first in range(0, len(some), (1 << 21) // width**2):
            part = some[first : first + (1 << 21) // width**2]
            left = _padded(words, starts, sizes, a[part], width, 0)
            right = _padded(words, starts, sizes, b[part], width, 1)
            for place in range(width):
                shared[part] += (left[:, place, None] == right).any(axis=1)
    for pair in np.flatnonzero(longest > below).tolist():
        left, right = (np.asarray(words[starts[i] : starts[i] + sizes[i]]) for i in (a[pair], b[pair]))
        shared[pair] = len(np.intersect1d(left, right, assume_unique=True))
    return np.asarray(shared / (sizes[a].astype(np.int64) + sizes[b] - shared))


def _padded(
    words: Any, starts: Rows, sizes: npt.NDArray[np.int32], sets: Rows, width: int, filler: int
) -> U64:
    """(sets, width) words; `filler` (0 or 1, never a word) where a set is shorter."""
    column = np.arange(width)
    inside = column < sizes[sets][:, None]
    places = np.minimum(starts[sets][:, None] + column, len(words) - 1)
    return np.where(inside, np.asarray(words[places]), np.uint64(filler))


def smallest_of_equal(first: U64, second: U64, rank: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """For every row the row of smallest rank among those with equal (128-bit) keys."""
    some = repeated(first)
    head = np.arange(len(first), dtype=rank.dtype)
    order = some[np.lexsort((rank[some], second[some], first[some]))]
    same = np.zeros(len(order), bool)
    same[1:] = (first[order[1:]] == first[order[:-1]]) & (second[order[1:]] == second[order[:-1]])
    starts = np.flatnonzero(~same)
    head[order] = np.repeat(order[starts], np.diff(np.append(starts, len(order))))
    return head
