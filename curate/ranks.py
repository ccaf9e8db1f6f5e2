"""Exact order statistics from counts that add up: the value at a rank, without sorting and without holding the column.

Numbers are mapped to unsigned integers of the same order (the sign bit flipped, negative floats inverted), and counted by their
leading bits; the bin that holds the wanted rank is then counted by its next bits, and so on until the value is known exactly.
Counts of shards add in any order. Scores on the float16 grid, as DataComp's are, need one pass; other float32 columns two.
-0.0 is counted as 0.0; NaN is never counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]
Keys = npt.NDArray[Any]  # u32 or u64

FIRST_BITS = 19  # sign, exponent and the ten leading mantissa bits of a float32: all that a float16 value has


def ordered_keys(values: Numbers) -> Keys:
    """Unsigned integers in the order of `values` (float32, float64 or any integer type), without NaN."""
    if values.dtype.kind == "u":
        return values.astype(np.uint64)
    if values.dtype.kind == "i":
        return values.astype(np.int64).view(np.uint64) ^ np.uint64(1 << 63)
    width = values.dtype.itemsize * 8
    unsigned = np.dtype(f"u{width // 8}").type
    bits = (values + values.dtype.type(0)).view(unsigned)  # adding 0 turns -0.0 into 0.0
    sign = unsigned(1 << (width - 1))
    keys: Keys = np.where(bits & sign, ~bits, bits | sign)
    return keys


def key_to_value(key: int, dtype: np.dtype[Any]) -> float | int:
    """The value that `ordered_keys` maps to `key`."""
    if dtype.kind == "u":
        return key
    if dtype.kind == "i":
        return key - (1 << 63)
    width = dtype.itemsize * 8
    sign = 1 << (width - 1)
    bits = key ^ sign if key & sign else ~key & ((1 << width) - 1)
    return float(np.array([bits], dtype=f"u{width // 8}").view(dtype)[0])


@dataclass
class Histogram:
    """Counts of keys below one prefix, by their next bits.

    `prefix` and `prefix_bits` say which keys are counted (all, when prefix_bits is 0); `rest` is the union of the bits
    below the counted ones: when it is zero, a bin is a value.
    """

    width: int
    prefix: int = 0
    prefix_bits: int = 0
    base: int = 0  # how many keys lie above the prefix
    places: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(0, np.int64)
    )  # bins that hold something
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    total: int = 0
    rest: int = 0
    _windows: dict[bool, tuple[int, npt.NDArray[np.int64]]] = field(
        default_factory=dict, repr=False
    )  # while adding: first bin and one counter per bin from there on; negative floats (True) lie far from the others

    @property
    def bin_bits(self) -> int:
        """How many bits after the prefix a bin stands for."""
        left = self.width - self.prefix_bits
        return min(left, FIRST_BITS if self.prefix_bits == 0 else 13 if self.width == 32 else 15)

    @property
    def exact(self) -> bool:
        """Whether every bin is one value."""
        return self.prefix_bits + self.bin_bits == self.width or self.rest == 0

    def add(self, values: Numbers) -> None:
        """Count `values` (no NaN among them)."""
        if not len(values):
            return
        if values.dtype.kind == "f":
            # negative floats are few: the others go without any mapping but the sign bit
            signed = np.ascontiguousarray(values + values.dtype.type(0)).view(f"i{values.dtype.itemsize}")
            negative = signed < 0
            if negative.any():
                self._count(ordered_keys(values[negative]), inverted=True)
                signed = signed[~negative]
            unsigned = signed.view(f"u{values.dtype.itemsize}")
            self._count(unsigned, lifted=True)
        else:
            self._count(ordered_keys(values))

    def _count(self, keys: Keys, *, inverted: bool = False, lifted: bool = False) -> None:
        """Count keys; `lifted` ones still lack the sign bit, the low bits of `inverted` ones stand for their complement."""
        kind = keys.dtype.type
        top = 1 << (self.width - 1) if lifted else 0
        if self.prefix_bits:
            wanted = self.prefix - (top >> (self.width - self.prefix_bits))
            if wanted < 0:
                return
            keys = keys[(keys >> kind(self.width - self.prefix_bits)) == kind(wanted)]
        if not len(keys):
            return
        shift = self.width - self.prefix_bits - self.bin_bits
        if shift:
            low = (1 << shift) - 1
            union = np.bitwise_and.reduce(keys) if inverted else np.bitwise_or.reduce(keys)
            self.rest |= (int(union) ^ (low if inverted else 0)) & low
        heads = keys >> kind(shift)
        if self.prefix_bits:
            heads &= kind((1 << self.bin_bits) - 1)
        start = int(heads.min())
        counts = np.bincount((heads - kind(start)).view(f"i{keys.dtype.itemsize}"))
        start += 0 if self.prefix_bits else top >> shift
        self._widen(inverted, start, counts)
        self.total += len(keys)

    def _widen(self, inverted: bool, start: int, counts: npt.NDArray[np.int64]) -> None:
        """Add counters to a window, which grows as far as they reach: scanning every bin of a shard costs more."""
        if inverted in self._windows:
            first, known = self._windows[inverted]
            low, high = min(first, start), max(first + len(known), start + len(counts))
            if high - low > len(known):
                grown = np.zeros(high - low, np.int64)
                grown[first - low : first - low + len(known)] = known
                known = grown
            known[start - low : start - low + len(counts)] += counts
            start, counts = low, known
        self._windows[inverted] = start, counts

    def pack(self) -> Histogram:
        """Keep only the bins that hold something: small enough to send between processes."""
        for inverted in (True, False):
            if inverted in self._windows:
                start, counts = self._windows.pop(inverted)
                fresh = np.flatnonzero(counts)
                self._add_bins(fresh + start, counts[fresh])
        return self

    def merge(self, other: Histogram) -> None:
        """Add the counts of another part of the column."""
        other.pack()
        self._add_bins(other.places, other.counts)
        self.total += other.total
        self.rest |= other.rest

    def _add_bins(self, places: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> None:
        if not len(self.places):
            self.places, self.counts = places, counts
            return
        if len(places) and places[0] > self.places[-1]:
            self.places = np.concatenate([self.places, places])
            self.counts = np.concatenate([self.counts, counts])
            return
        joined, where = np.unique(np.concatenate([self.places, places]), return_inverse=True)
        summed = np.zeros(len(joined), np.int64)
        np.add.at(summed, where, np.concatenate([self.counts, counts]))
        self.places, self.counts = joined, summed

    def empty(self) -> Histogram:
        """A histogram of the same question with nothing counted."""
        return Histogram(self.width, self.prefix, self.prefix_bits, self.base)

    def locate(self, rank: int) -> tuple[int, int]:
        """(bin, how many counted keys lie in higher bins) of the key at descending `rank` (0 = the largest)."""
        self.pack()
        from_above = np.cumsum(self.counts[::-1])
        at = int(np.searchsorted(from_above, rank, side="right"))
        if at >= len(from_above):
            raise IndexError(rank)
        return int(self.places[::-1][at]), int(from_above[at] - self.counts[::-1][at])

    def count_in(self, place: int) -> int:
        """How many keys lie in one bin."""
        at = int(np.searchsorted(self.places, place))
        return int(self.counts[at]) if at < len(self.places) and self.places[at] == place else 0


@dataclass(frozen=True)
class Cut:
    """A value found at a rank: how many rows lie above it, and how many are equal to it."""

    value: float | int
    above: int
    equal: int


def refine(histogram: Histogram, rank: int, dtype: np.dtype[Any]) -> tuple[Cut | None, Histogram | None, int]:
    """One step towards the value at descending `rank` among the counted keys.

    Returns (cut, None, 0) when it is known, or (None, next histogram to fill, rank within it).
    """
    place, above = histogram.locate(rank)
    prefix = (histogram.prefix << histogram.bin_bits) | place
    bits = histogram.prefix_bits + histogram.bin_bits
    if histogram.exact:
        left = histogram.width - bits
        key = prefix << left
        if dtype.kind == "f" and not key >> (histogram.width - 1):
            key |= (1 << left) - 1  # a negative float: its low bits are stored inverted
        return Cut(key_to_value(key, dtype), histogram.base + above, histogram.count_in(place)), None, 0
    return None, Histogram(histogram.width, prefix, bits, histogram.base + above), rank - above


def key_width(dtype: np.dtype[Any]) -> int:
    """Bits of the keys of a column type: 32 for float32, 64 for everything else."""
    return 32 if dtype == np.float32 else 64


def fraction_rank(rows: int, fraction: float) -> int:
    """DataComp's rank: floor(rows x fraction) in double precision (100 x 0.29 gives 28)."""
    return int(rows * fraction)


def merge_all(parts: Iterable[Histogram], into: Histogram) -> Histogram:
    """`into` with all `parts` added."""
    for part in parts:
        into.merge(part)
    return into
