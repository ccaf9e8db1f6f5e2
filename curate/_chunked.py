"""Products over more rows than the memory budget holds, chunk against chunk, with the answers of curate.products.

`rows` may be a memory map; no more than two chunks of it are in memory at a time. Values of two chunks that are equal as float32 are
compared in float64, as the product is defined there, so that chunks never change an answer.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from curate import products

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

TILE_ROWS, TILE_OTHERS = 1024, 8192
SMALL = 4096  # rows of a cluster up to which float32 without preparation is faster
TRIANGLE_ROWS = 512
MANY = 8  # candidates a row
LEAST = np.float32(-3e38)  # below every product
EXACT = 1 << 18  # numbers of a float64 piece
# |float32 product - exact one| of rows of length 1 is at most width * 2^-23, in any order of summation
UNIT_ERROR = 2.0**-23


def best_earlier(rows: Floats, chunk: int) -> tuple[Floats, npt.NDArray[np.int32]]:
    """For row i the largest product with a row j < i and the lowest such j; -inf and -1 for row 0.

    Chunks above the diagonal are never multiplied.
    """
    if len(rows) <= chunk:
        small = triangle(rows) if len(rows) <= SMALL else None
        return small or products.best_earlier(rows)
    value, index = np.full(len(rows), -np.inf, np.float32), np.full(len(rows), -1, np.int32)
    for first in range(0, len(rows), chunk):
        own = _chunk(rows, first, chunk)
        best, place = value[first : first + chunk], index[first : first + chunk]
        for start in range(0, first, chunk):
            label, near = products.nearest(own, _chunk(rows, start, chunk))
            _improve(rows, own, best, place, near, label + np.int32(start))
        near, label = products.best_earlier(own)
        _improve(rows, own, best, place, near, np.where(label < 0, label, label + np.int32(first)))
    return value, index


def triangle(rows: Floats) -> tuple[Floats, npt.NDArray[np.int32]] | None:
    """`best_earlier` of a cluster of rows of length 1 by float32 products below the diagonal, with little to prepare.

    The largest product is settled unless others lie within the error of float32; those are decided in float64. None when there are
    so many of them (rows that repeat) that `products.best_earlier` is the better way.
    """
    n, slack = len(rows), 2 * max(rows.shape[1], 8) * UNIT_ERROR
    value, index = np.full(n, -np.inf, np.float32), np.full(n, -1, np.int32)
    for first in range(0, n, TRIANGLE_ROWS):
        own = rows[first : first + TRIANGLE_ROWS]
        every = np.arange(len(own))
        among = multiply(own, own)  # NumPy computes half of what is symmetric
        among[_upper(len(own))] = -np.inf
        parts = [(0, multiply(own, rows[:first])), (first, among)] if first else [(0, among)]
        tops = []
        for start, product in parts:
            j = product.argmax(axis=1)
            tops.append((start, j, product[every, j]))
        least = np.maximum.reduce([most for _, _, most in tops]) - slack
        found = []
        for (start, j, most), (_, product) in zip(tops, parts, strict=True):
            product[every, j] = -np.inf
            near = np.flatnonzero((most >= least) & (most > -np.inf))  # row 0 has no earlier one
            found.append((near, j[near] + start))
            close = np.flatnonzero(product.max(axis=1) >= np.maximum(least, LEAST))
            if len(close):
                more, others = np.nonzero(product[close] >= least[close, None])
                found.append((close[more], others + start))
        i, j = (np.concatenate([pair[side] for pair in found]) for side in (0, 1))
        if len(i) > MANY * len(own):
            return None
        exact = exact_products(own, i, rows, j)
        order = np.lexsort((j, -exact, i))
        i, best = np.unique(i[order], return_index=True)
        value[i + first], index[i + first] = exact[order][best], j[order][best]
    return value, index


def multiply(left: Floats, right: Floats) -> Floats:
    """left · right' in float32."""
    return left @ right.T


@functools.lru_cache(maxsize=4)
def _upper(size: int) -> npt.NDArray[np.bool_]:
    return np.triu(np.ones((size, size), bool))


def top_k(queries: Floats, rows: Floats, k: int, chunk: int) -> tuple[Numbers, Floats]:
    """The k largest products of each query with `rows`: (n, k) indices and values, descending, ties lowest; -1 and NaN beyond."""
    if len(rows) <= chunk:
        return products.top_k(queries, rows, k)
    index, value = products.top_k(queries, _chunk(rows, 0, chunk), k)
    for start in range(chunk, len(rows), chunk):
        other, near = products.top_k(queries, _chunk(rows, start, chunk), k)
        found = np.concatenate([index, np.where(other < 0, -1, other + start)], axis=1)
        query, place = np.nonzero(found >= 0)
        exact = np.full(found.shape, -np.inf)
        exact[query, place] = exact_products(queries, query, rows, found[query, place])
        order = np.lexsort((found, -exact), axis=1)[:, :k]
        index = np.take_along_axis(found, order, 1)
        value = np.take_along_axis(np.concatenate([value, near], axis=1), order, 1)
    return index, value


def pairs_above(rows: Floats, threshold: float, chunk: int) -> Iterator[tuple[Numbers, Numbers]]:
    """Every pair i < j of `rows` (of length 1) whose product is above `threshold`, each once, in no stated order."""
    for first in range(0, len(rows), max(chunk, 1)):
        own = _chunk(rows, first, chunk)
        for i, j, _ in products.pairs_above(own, threshold):
            yield i + first, j + first
        for start in range(0, first, chunk):
            for i, j in pairs_between(_chunk(rows, start, chunk), own, threshold):
                yield i + start, j + first


def pairs_between(rows: Floats, others: Floats, threshold: float) -> Iterator[tuple[Numbers, Numbers]]:
    """All (i, j) with rows[i] · others[j] > threshold, decided in float64; rows of length 1, in tiles."""
    margin = max(rows.shape[1], 8) * UNIT_ERROR
    for a in range(0, len(rows), TILE_ROWS):
        left = rows[a : a + TILE_ROWS]
        for b in range(0, len(others), TILE_OTHERS):
            right = others[b : b + TILE_OTHERS]
            i, j = np.nonzero(left @ right.T > threshold - margin)
            keep = exact_products(left, i, right, j) > threshold
            if keep.any():
                yield i[keep] + a, j[keep] + b


def exact_products(left: Floats, i: Numbers, right: Floats, j: Numbers) -> npt.NDArray[np.float64]:
    """left[i] · right[j] as curate.products defines it: exact products, added in float64 in NumPy's order."""
    out = np.empty(len(i))
    step = max(1, EXACT // max(left.shape[1], 1))
    for at in range(0, len(i), step):
        part = left[i[at : at + step]].astype(np.float64)
        part *= right[j[at : at + step]]
        np.add.reduce(part, axis=1, out=out[at : at + step])
    return out


def _improve(
    rows: Floats,
    own: Floats,
    best: Floats,
    place: npt.NDArray[np.int32],
    near: Floats,
    label: npt.NDArray[np.int32],
) -> None:
    """Put larger products of later rows in place of those found so far."""
    better = near > best
    tied = np.flatnonzero((near == best) & (label >= 0) & (place >= 0))
    if len(tied):
        old = exact_products(own, tied, rows, place[tied].astype(np.int64))
        better[tied] = exact_products(own, tied, rows, label[tied].astype(np.int64)) > old
    best[better], place[better] = near[better], label[better]


def _chunk(rows: Floats, first: int, chunk: int) -> Floats:
    """A copy of some rows; the pages of a memory map they were read from are given back."""
    out = np.array(rows[first : first + chunk], np.float32)
    owner: Any = rows
    while owner is not None and not isinstance(owner, mmap.mmap):
        owner = getattr(owner, "base", None)
    if owner is not None:
        owner.madvise(mmap.MADV_DONTNEED)  # read-only and shared: nothing is lost
    return out
