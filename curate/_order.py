"""Uids in order: sort, merge and search of (n, 2) '<u8' rows by (high word, low word), always exact.

The high word of a hashed uid is all but unique, so it decides nearly everything: sorting packs its upper
bits and the row number into one u64, sorts these (see `sort_keys`), and repairs the few runs that agree in
those bits. Rows that agree in everything stay as many as they were. Sizes in rows of 16 bytes.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

Words = np.ndarray[Any, np.dtype[np.uint64]]
Rows = np.ndarray[Any, np.dtype[np.int64]]
Keys = np.ndarray[Any, np.dtype[np.uint64]]

SPLITTERS_AT_ONCE = 64
FEW_KEYS = 256  # not worth a radix sort
FORGET_BLOCKS = 4  # how many merged blocks of mapped runs may count as memory of this process
SEARCH_ROWS = 1 << 20
MAX_SORT_ROWS = 1 << 40  # leaves 24 bits of the high word; more rows never fit in memory anyway


def sort_words(a: Words) -> Words:
    """A sorted copy. O(n log n) for any input, also for equal high words and equal rows."""
    n = len(a)
    if n < 2:
        return np.array(a, "<u8").reshape(n, 2)
    if n > MAX_SORT_ROWS:
        raise ValueError(f"{n} rows are too many to sort at once")
    number_bits = np.uint64((n - 1).bit_length())
    mask = (np.uint64(1) << number_bits) - np.uint64(1)
    keys = np.bitwise_and(a[:, 0], ~mask)
    np.bitwise_or(keys, np.arange(n, dtype=np.uint64), out=keys)
    keys = sort_keys(keys)
    order = np.bitwise_and(keys, mask).view(np.int64)
    out = _rows(a).take(order, mode="clip")
    del order
    # rows that share the kept bits stand together, in their old order: sort just these
    np.right_shift(keys, number_bits, out=keys)
    same = keys[1:] == keys[:-1]
    if not same.any():
        sorted_words: Words = out.view("<u8").reshape(n, 2)
        return sorted_words
    tied = np.zeros(n, bool)
    tied[1:] = same
    tied[:-1] |= same
    places = np.flatnonzero(tied)
    words: Words = out.view("<u8").reshape(n, 2)
    some = words[places]
    words[places] = some[np.lexsort((some[:, 1], some[:, 0]))]
    return words


def sort_keys(keys: Keys) -> Keys:
    """Sorted keys (n,) u64; the array given may be sorted in place. Evenly spread ones cost a quarter of `keys.sort()`.

    numpy sorts 16-bit numbers by radix: by 16 bits below those that all keys share the keys stand nearly in order, and
    a merge sort, which is linear there, does the rest. Keys crowded in few places cost no more than n log n.
    """
    if len(keys) > FEW_KEYS:
        keys = keys.take(_nearly(keys))
    keys.sort(kind="stable")
    return keys


def order_of(keys: Keys) -> Rows:
    """The stable permutation that sorts keys (n,) u64, made in the same way."""
    if len(keys) <= FEW_KEYS:
        return np.argsort(keys, kind="stable")
    order = _nearly(keys)
    sorted_order: Rows = order.take(np.argsort(keys.take(order), kind="stable"))
    return sorted_order


def _nearly(keys: Keys) -> Rows:
    """The stable order by the 16 uppermost bits in which keys differ."""
    places = keys - keys.min()
    shift = np.uint64(max(int(places.max()).bit_length() - 16, 0))
    np.right_shift(places, shift, out=places)
    return np.argsort(places.astype(np.uint16), kind="stable")


def first_unsorted(a: Words) -> int | None:
    """The first row that is smaller than the row before it; None when there is none."""
    for first in range(0, len(a), SEARCH_ROWS):
        hi, lo = (np.ascontiguousarray(a[first : first + SEARCH_ROWS + 1, i]) for i in (0, 1))
        smaller = hi[1:] < hi[:-1]
        if (hi[1:] == hi[:-1]).any():
            smaller |= (hi[1:] == hi[:-1]) & (lo[1:] < lo[:-1])
        if smaller.any():
            return first + 1 + int(np.argmax(smaller))
    return None


def search_words(haystack: Words, needles: Words) -> tuple[Rows, Rows]:
    """For every needle the first place in the sorted `haystack` with a row >= it, and the first with one > it.

    The haystack may be a memory map: it is never copied whole.
    """
    needles = np.asarray(needles, "<u8").reshape(-1, 2)
    n, m = len(haystack), len(needles)
    if n == 0 or m == 0:
        return np.zeros(m, np.int64), np.zeros(m, np.int64)
    if m * 16 < n:
        return _bisect(haystack, needles, right=False), _bisect(haystack, needles, right=True)
    # many needles: sorted, they meet the haystack piece by piece
    order = np.argsort(needles[:, 0])
    wanted = needles[order, 0]
    first, last = np.zeros(m, np.int64), np.full(m, n, np.int64)
    lo_done = hi_done = 0
    for at in range(0, n, SEARCH_ROWS):
        hi = np.ascontiguousarray(haystack[at : at + SEARCH_ROWS, 0])
        lo_next = int(np.searchsorted(wanted, hi[-1], "right"))
        first[lo_done:lo_next] = at + np.searchsorted(hi, wanted[lo_done:lo_next], "left")
        hi_next = int(np.searchsorted(wanted, hi[-1], "left"))
        last[hi_done:hi_next] = at + np.searchsorted(hi, wanted[hi_done:hi_next], "right")
        lo_done, hi_done = lo_next, hi_next
    first[lo_done:] = n
    left, right = np.empty(m, np.int64), np.empty(m, np.int64)
    left[order], right[order] = first, last
    # within the rows of one high word, nearly always one, the low word decides
    span = right - left
    single = np.flatnonzero(span == 1)
    value, low = haystack[left[single], 1], needles[single, 1]
    left[single] += value < low
    right[single] -= value > low
    longer = np.flatnonzero(span > 1)
    low, begin, end = needles[longer, 1], left[longer], right[longer]
    left[longer] = _bisect_low(haystack, low, begin, end, right=False)
    right[longer] = _bisect_low(haystack, low, begin, end, right=True)
    return left, right


def merge_runs(runs: Sequence[Words], write: Callable[[Words], None], *, block_rows: int = 1 << 18) -> int:
    """Merge sorted runs (arrays or memory maps) and hand the sorted rows to `write` in blocks; returns their number.

    A block never has more than `block_rows` rows, whatever the uids are.
    """
    runs = [run for run in runs if len(run)]
    total = 0
    for block in _merged(runs, max(block_rows, 2 * len(runs), 2)):
        for first in range(0, len(block), max(block_rows, 1)):
            write(block[first : first + max(block_rows, 1)])
        total += len(block)
    return total


def _merged(runs: list[Words], block_rows: int) -> Iterator[Words]:
    if len(runs) == 1 or sum(map(len, runs)) <= block_rows:
        yield from _joined([np.asarray(run) for run in runs], block_rows)
        return
    done = [0] * len(runs)
    splitters = _splitters(runs, block_rows)
    # as plain arrays: slicing a memmap costs ten times as much
    mapped, runs = runs, [np.asarray(run) for run in runs]
    for at in range(0, len(splitters), SPLITTERS_AT_ONCE):
        some = splitters[at : at + SPLITTERS_AT_ONCE]
        lefts, rights = [], []
        for run, file in zip(runs, mapped, strict=True):
            lefts.append(_bisect(run, some, right=False))
            rights.append(_bisect(run, some, right=True))
            _forget([file])
        for i, row in enumerate(some):
            below = [run[d : left[i]] for run, d, left in zip(runs, done, lefts, strict=True)]
            equal = sum(int(right[i] - left[i]) for left, right in zip(lefts, rights, strict=True))
            yield from _joined(below, block_rows)
            for first in range(0, equal, block_rows):
                yield np.broadcast_to(row, (min(block_rows, equal - first), 2)).copy()
            done = [int(right[i]) for right in rights]
            if i % FORGET_BLOCKS == FORGET_BLOCKS - 1:
                _forget(mapped)
    yield from _joined([run[d:] for run, d in zip(runs, done, strict=True)], block_rows)


def _forget(runs: list[Words]) -> None:
    """Unmap the pages of mapped runs; the kernel keeps them cached and maps them again when they are read."""
    for run in runs:
        if isinstance(run, np.memmap) and run.mode == "r" and isinstance(run._mmap, mmap.mmap):  # type: ignore[attr-defined]
            run._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def _joined(parts: list[Words], block_rows: int) -> Iterator[Words]:
    parts = [part for part in parts if len(part)]
    if len(parts) == 1:
        for first in range(0, len(parts[0]), block_rows):
            yield np.array(parts[0][first : first + block_rows], "<u8")
    elif parts:
        yield sort_words(np.concatenate(parts))


def _splitters(runs: list[Words], block_rows: int) -> Words:
    """Distinct rows, ascending, with at most `block_rows` rows of all runs strictly between two neighbours.

    Every run gives each `step`-th row. Fewer than k samples strictly between two splitters, and less than
    a step more at the end of each of k runs, make less than 2 k steps.
    """
    step = max(block_rows // (2 * len(runs)), 1)
    picked = []
    for run in runs:
        picked.append(np.array(run[step - 1 :: step]))
        _forget([run])
    samples = sort_words(np.concatenate(picked))
    chosen = samples[len(runs) - 1 :: len(runs)]
    if len(chosen) < 2:
        return chosen
    fresh = np.ones(len(chosen), bool)
    fresh[1:] = (chosen[1:] != chosen[:-1]).any(axis=1)
    kept: Words = chosen[fresh]
    return kept


def _bisect(haystack: Words, needles: Words, *, right: bool) -> Rows:
    """Binary search of all needles side by side: touches about log2(n) rows for each."""
    first, last = np.zeros(len(needles), np.int64), np.full(len(needles), len(haystack), np.int64)
    for _ in range(len(haystack).bit_length()):
        open_ = first < last
        middle = np.minimum((first + last) >> 1, len(haystack) - 1)
        rows = np.asarray(haystack[middle])
        hi, lo = rows[:, 0], rows[:, 1]
        beyond = lo <= needles[:, 1] if right else lo < needles[:, 1]
        before = ((hi < needles[:, 0]) | ((hi == needles[:, 0]) & beyond)) & open_
        first = np.where(before, middle + 1, first)
        last = np.where(before | ~open_, last, middle)
    return first


def _bisect_low(haystack: Words, low: Any, first: Rows, last: Rows, *, right: bool) -> Rows:
    """The same on the low word alone, between given places of equal high words."""
    first, last = first.copy(), last.copy()
    live = np.arange(len(low))
    while len(live):
        middle = (first[live] + last[live]) >> 1
        value = haystack[middle, 1]
        before = value <= low[live] if right else value < low[live]
        first[live[before]] = middle[before] + 1
        last[live[~before]] = middle[~before]
        live = live[first[live] < last[live]]
    return first


def _rows(a: Words) -> np.ndarray[Any, np.dtype[np.complex128]]:
    """Each row as one item of 16 bytes, so that gathering moves it whole; no arithmetic is ever done on it."""
    return np.ascontiguousarray(a, "<u8").view(np.complex128).reshape(-1)
