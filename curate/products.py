"""Inner products in blocks, with one answer at any precision: a fast pass finds candidates, float64 decides between them.

The product of two float32 rows is *defined* here as the float64 sum, in NumPy's pairwise order, of their exact element products; it
depends on the two rows and on nothing else. A fast pass (curate._inner: float32, bfloat16 or 8-bit integers) with a proven error
bound leaves few pairs that could win; those are decided by the definition, equal ones by the lowest index. So labels and values do
not depend on precision, threads, block size or the order of the other rows.

`precision` is "auto" (8-bit integers, then bfloat16, where the CPU has units for them and torch is there; else float32), "f32", "bf16"
or "int8"; one that is not to be had falls back to float32. All rows must be finite (ValueError).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from curate._inner import (
    BF16_UNITS,
    Block,
    Candidates,
    Doubles,
    Engine,
    Pass,
    choose,
    finer,
    finite,
    has_units,
    lengths,
    single_error,
    two_largest,
)

Floats = npt.NDArray[np.float32]
Precision = Literal["f32", "bf16", "int8", "auto"]

CHUNK = 1 << 16  # numbers of a float64 chunk: it stays in the cache
TRIANGLE = 1024  # rows of a block of a triangle
# a row of k others may leave k / SHARE candidates before the next finer pass is cheaper
SHARE: dict[Pass, int] = {"int8": 80, "bf16": 20}


def bf16_available() -> bool:
    """Whether torch is there, keeps the bound with bfloat16, and the CPU has units for it."""
    return has_units(*BF16_UNITS) and choose("bf16", 0) == "bf16"


def nearest(
    rows: Floats, centres: Floats, *, precision: Precision = "auto"
) -> tuple[npt.NDArray[np.int32], Floats]:
    """For each row the centre of the largest product, ties lowest index, and that product rounded to float32.

    `rows` (n, d) and `centres` (k, d) float32 -> (n,) int32, (n,) float32. Raises ValueError without centres.
    """
    label = labels(rows, centres, precision=precision)
    return label, products_of(rows, centres, label)


def products_of(rows: Floats, centres: Floats, label: npt.NDArray[np.int32]) -> Floats:
    """The product of each row with the centre that `label` names, rounded to float32."""
    return _exact(rows, np.arange(len(rows)), centres, label.astype(np.int64)).astype(np.float32)


def labels(rows: Floats, centres: Floats, *, precision: Precision = "auto") -> npt.NDArray[np.int32]:
    """The labels of `nearest` alone, which is cheaper."""
    return Assigner(centres, precision=precision, rows=len(rows))(rows)


class Assigner:
    """Centres made ready once for many blocks of rows; call it with (n, d) float32 for (n,) int32 labels.

    `bias` (k,) is added to the products with each centre, in float64; equal centres must have equal biases. `rows` tells how many
    rows will come, since "auto" loads torch only for large work.
    """

    def __init__(
        self, centres: Floats, *, bias: Doubles | None = None, precision: Precision = "auto", rows: int = 0
    ) -> None:
        if not len(centres):
            raise ValueError("no centres to choose from")
        finite(centres, lengths(centres))
        self._first = first_of_equals(centres)
        self._centres = np.ascontiguousarray(centres[self._first], np.float32)
        self._bias = None if bias is None else np.asarray(bias, np.float64)[self._first]
        self._engine = Engine(self._centres, choose(precision, float(rows) * centres.size), self._bias)
        self._precise: Engine | None = None

    def __call__(self, rows: Floats) -> npt.NDArray[np.int32]:
        if rows.ndim != 2 or rows.shape[1] != self._centres.shape[1]:
            raise ValueError(f"rows {rows.shape} and centres {self._centres.shape} have different widths")
        out = np.zeros(len(rows), np.int32)
        first = 0
        while first < len(rows):
            engine = self._engine
            part = np.ascontiguousarray(rows[first : first + engine.rows], np.float32)
            length = lengths(part)
            finite(part, length)
            if not engine.takes(length):
                self._precise = self._precise or Engine(self._centres, "f64", self._bias)
                engine = self._precise
            if engine.count > 1:
                out[first : first + len(part)], count = _best(engine.block(part, length))
                share = SHARE.get(engine.kind)
                if share and count > len(part) * max(2.0, engine.count / share):
                    self._engine = Engine(self._centres, finer(engine.kind), self._bias)
            first += len(part)
        return self._first[out].astype(np.int32)


def top_k(
    rows: Floats, others: Floats, k: int, *, precision: Precision = "auto"
) -> tuple[npt.NDArray[np.int64], Floats]:
    """The k largest products of each row with `others`: indices (n, k) int64 and values (n, k) float32.

    Descending, ties lowest index; -1 and NaN where there are fewer than k others.
    """
    index = np.full((len(rows), k), -1, np.int64)
    value = np.full((len(rows), k), np.nan, np.float32)
    if not (k and len(others) and len(rows)):
        return index, value
    engine = _engine(rows, others, precision, float(len(rows)) * others.size)
    for first in range(0, len(rows), engine.rows):
        block = engine.block(np.ascontiguousarray(rows[first : first + engine.rows], np.float32))
        found = _above_kth(block, k)
        exact = _exact(block.values, found.row, engine.others, found.other)
        order = np.lexsort((found.other, -exact, found.row))
        row = found.row[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        order, row, rank = order[rank < k], row[rank < k], rank[rank < k]
        index[first + row, rank] = found.other[order]
        value[first + row, rank] = exact[order]
    return index, value


def best_earlier(rows: Floats, *, precision: Precision = "auto") -> tuple[Floats, npt.NDArray[np.int32]]:
    """For row i the largest product with a row j < i, and the lowest such j: (n,) float32, (n,) int32.

    Row 0 has -inf and -1. Only block pairs on and below the diagonal are multiplied; of equal rows only the first is compared with.
    """
    value = np.full(len(rows), -np.inf, np.float32)
    index = np.full(len(rows), -1, np.int32)
    if len(rows) < 2:
        return value, index
    rows = np.ascontiguousarray(rows, np.float32)
    first_rows = first_of_equals(rows)
    others = rows if len(first_rows) == len(rows) else rows[first_rows]
    engine = _engine(rows, others, precision, float(len(rows)) * rows.size / 2)
    step = _step(engine, len(rows))
    for first in range(0, len(rows), step):
        block = engine.block(rows[first : first + step])
        # how many of the others lie before each row: the diagonal block is one product of its own
        before = np.searchsorted(first_rows, np.arange(first, first + len(block.values)))
        label, _ = _best(block, before, first if others is rows else None)
        good = np.flatnonzero(label >= 0)
        index[first + good] = first_rows[label[good]]
        value[first + good] = _exact(block.values, good, others, label[good])
    return value, index


def pairs_above(
    rows: Floats, threshold: float, *, precision: Precision = "auto"
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]]:
    """Every pair i < j whose product is above `threshold` (decided in float64), each once: i, j and the product as float32.

    Blocks come in no stated order; within one, by i and then j. Nothing below the diagonal is multiplied but in the blocks on it.
    """
    if len(rows) < 2:
        return
    rows = np.ascontiguousarray(rows, np.float32)
    engine = _engine(rows, rows, precision, float(len(rows)) * rows.size / 2)
    step = _step(engine, len(rows))
    for first in range(0, len(rows), step):
        block = engine.block(rows[first : first + step])
        least = (threshold - block.offset()) / block.unit - block.half
        least -= 1e-9 * np.abs(least)
        for start, stop in _spans(first, len(rows), first + len(block.values), engine.columns):
            s = block.matrix(start, stop)
            at = np.flatnonzero(s >= _floor(least, s)[:, None])
            i, j = np.divmod(at, stop - start)
            later = j + start > i + first
            i, j = i[later], j[later] + start
            exact = _exact(block.values, i, rows, j)
            above = exact > threshold
            if above.any():
                yield i[above] + first, j[above], exact[above].astype(np.float32)


def first_of_equals(rows: Floats) -> npt.NDArray[np.int64]:
    """Rising indices of rows of which no earlier row has the same bytes."""
    words = np.ascontiguousarray(rows, np.float32).view(np.uint32)
    even = words.shape[1] % 2 == 0
    key = np.add.reduce(words.view(np.uint64) if even else words, axis=1, dtype=np.uint64)
    order = np.argsort(key, kind="stable")
    start = np.flatnonzero(np.diff(key[order], prepend=key[order[:1]] + np.uint64(1)))
    head = np.repeat(order[start], np.diff(start, append=len(order)))
    repeats = np.flatnonzero(order != head)
    fresh = np.ones(len(rows), bool)
    seen: set[bytes] = set()
    for first in range(0, len(repeats), 1024):
        some = repeats[first : first + 1024]
        same = (words[order[some]] == words[head[some]]).all(axis=1)
        fresh[order[some[same]]] = False
        for row in order[some[~same]].tolist():  # another row of the same sum: rare
            word = words[row].tobytes()
            fresh[row] = word not in seen
            seen.add(word)
    return np.flatnonzero(fresh)


def _engine(rows: Floats, others: Floats, precision: Precision, multiply_adds: float) -> Engine:
    """The engine for all of `rows`. Raises ValueError for what is not finite."""
    length = lengths(rows)
    finite(rows, length)
    if others is not rows:
        finite(others, lengths(others))
    engine = Engine(others, choose(precision, multiply_adds))
    return engine if engine.takes(length) else Engine(others, "f64")


def _best(
    block: Block, before: npt.NDArray[np.int64] | None = None, diagonal: int | None = None
) -> tuple[npt.NDArray[np.int64], int]:
    """The best of the others (or of the first `before` of them) for each row, -1 without any, and how many candidates there were."""
    engine = block.engine
    last = engine.count if before is None else int(before.max(initial=0))
    if diagonal is not None:
        last = diagonal + len(block.values)  # whole, since BLAS knows the product of a block with itself
    slack = 2 * block.half
    best = np.full(len(block.values), -np.inf)
    every = np.arange(len(best))
    label = np.full(len(best), -1, np.int64)
    spans = list(_spans(0, last, diagonal or 0, engine.columns))
    parts: list[Candidates] = []
    for start, stop in spans:
        s = block.matrix(start, stop)
        if before is not None and int(before.min(initial=0)) < stop:
            np.copyto(s, -np.inf, where=np.arange(start, stop) >= before[:, None])
        # the largest, then the largest without it: a row of which only the first comes near is done
        place, most, second = two_largest(s, every)
        np.maximum(best, most, out=best)
        least = best - slack
        close = second >= least
        if before is None and len(spans) == 1:
            label[:] = place
        else:
            alone = np.flatnonzero(~close & (most >= least))
            parts.append(Candidates(alone, place[alone] + start, most[alone].astype(np.float64)))
        open_rows = np.flatnonzero(close)
        if len(open_rows):
            s[open_rows, place[open_rows]] = most[open_rows]
            found = _above(s[open_rows], least[open_rows], start)
            parts.append(Candidates(open_rows[found.row], found.other, found.value))
    if not parts:
        return label, len(label)
    found = _joined(parts)
    count = len(found.row)
    if len(spans) > 1:
        found = found.keep(found.value >= (best - slack)[found.row])
    if before is not None:
        found = found.keep(found.other < before[found.row])
    return _decide(block, found, label), count


def _above(s: npt.NDArray[Any], least: Doubles, start: int) -> Candidates:
    """Entries of `s` not below `least` of their row; column 0 is other `start`."""
    at = np.flatnonzero(s >= _floor(least, s)[:, None])
    row, other = np.divmod(at, s.shape[1])
    return Candidates(row, other + start, s.ravel()[at].astype(np.float64))


def _decide(block: Block, found: Candidates, label: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Write the winner of each row that has candidates into `label`."""
    found = _open(found, label)
    if block.engine.kind in ("bf16", "int8") and len(found.row):
        found = _open(_within(found, block.half_of(found.row, found.other), len(label)), label)
        found.value, error = _single(block, found)
        found = _open(_within(found, error[found.row], len(label)), label)
    if not len(found.row):
        return label
    exact = _exact(block.values, found.row, block.engine.others, found.other)
    if block.engine.bias is not None:
        exact += block.engine.bias[found.other]
    order = np.lexsort((found.other, -exact, found.row))
    row = found.row[order]
    winner = order[np.flatnonzero(np.diff(row, prepend=-1))]
    label[found.row[winner]] = found.other[winner]
    return label


def _open(found: Candidates, label: npt.NDArray[np.int64]) -> Candidates:
    """Candidates of rows that have several; what is alone in its row goes into `label`."""
    label[found.row] = found.other
    same = found.row[1:] == found.row[:-1]
    several = np.zeros(len(found.row), bool)
    several[1:] |= same
    several[:-1] |= same
    return found.keep(several)


def _within(found: Candidates, half: Doubles, rows: int) -> Candidates:
    """Without those that lose even if they are `half` larger, and the winner as much smaller."""
    best = np.full(rows, -np.inf)
    np.maximum.at(best, found.row, found.value - half)
    return found.keep(found.value + half >= best[found.row])


def _single(block: Block, found: Candidates) -> tuple[Doubles, Doubles]:
    """Products of pairs in float32, and the bound of their error a row."""
    others, width = block.engine.others, block.engine.width
    value = np.empty(len(found.row))
    step = min(max(1, CHUNK // max(width, 1)), max(len(value), 1))
    buffers = np.empty((2, step, width), np.float32)
    for first in range(0, len(value), step):
        part = slice(first, first + step)
        left, right = buffers[:, : len(value[part])]
        np.take(
            block.values, found.row[part], axis=0, out=left, mode="clip"
        )  # other modes make a copy of `out`
        np.take(others, found.other[part], axis=0, out=right, mode="clip")
        value[part] = np.vecdot(left, right)
    error = single_error(width, block.length, float(block.engine.lengths.max()))
    if (bias := block.engine.bias) is not None:
        value += bias[found.other]
        error = error + 2.0**-50 * float(np.abs(bias).max())
    return value, error


def _above_kth(block: Block, k: int) -> Candidates:
    """Candidates for the k best of each row."""
    engine = block.engine
    kth = np.full(len(block.values), -np.inf)
    found = Candidates(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    for start in range(0, engine.count, engine.columns):
        stop = min(start + engine.columns, engine.count)
        s = block.matrix(start, stop)
        if stop - start > k:
            np.maximum(kth, np.partition(s, -k, axis=1)[:, -k] if start == 0 else kth, out=kth)
        least = kth - 2 * block.half
        part = _above(s, least, start)
        if not len(part.row):
            continue
        found = _joined([found, part])
        order = np.lexsort((-found.value, found.row))
        sorted_rows = found.row[order]
        rank = np.arange(len(order)) - np.searchsorted(sorted_rows, sorted_rows)
        at_k = order[rank == k - 1]
        kth[found.row[at_k]] = np.maximum(kth[found.row[at_k]], found.value[at_k])
        found = found.keep(found.value >= (kth - 2 * block.half)[found.row])
    return found


def _joined(parts: list[Candidates]) -> Candidates:
    if len(parts) == 1:
        return parts[0]
    row = np.concatenate([p.row for p in parts])
    order = np.argsort(row, kind="stable")
    return Candidates(
        row[order],
        np.concatenate([p.other for p in parts])[order],
        np.concatenate([p.value for p in parts])[order],
    )


def _floor(least: Doubles, s: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """`least` in the type of `s`, never above it."""
    if s.dtype == np.float64:
        return least
    return np.nextafter(least.astype(np.float32), np.float32(-np.inf))


def _exact(rows: Floats, i: npt.NDArray[np.int64], others: Floats, j: npt.NDArray[np.int64]) -> Doubles:
    """The products rows[i] · others[j] as they are defined."""
    out = np.empty(len(i))
    step = max(1, CHUNK // max(rows.shape[1], 1))
    for first in range(0, len(i), step):
        product = rows[i[first : first + step]].astype(np.float64)
        product *= others[j[first : first + step]]
        np.add.reduce(product, axis=1, out=out[first : first + step])
    return out


def _step(engine: Engine, rows: int) -> int:
    """Rows of a block of a triangle.

    BLAS makes the product of a block with itself at half the cost, so that large blocks waste nothing; otherwise they are small enough
    that little of the diagonal is wasted.
    """
    if engine.kind in ("f32", "f64"):
        return min(TRIANGLE, engine.columns)
    return int(np.clip(rows // 8, min(128, engine.rows), engine.rows))


def _spans(first: int, last: int, cut: int, most: int) -> Iterator[tuple[int, int]]:
    """Pieces of first … last - 1 of at most `most`, none of which goes over `cut`."""
    edges = sorted({first, min(max(cut, first), last), last})
    for start, stop in zip(edges, edges[1:], strict=False):
        for at in range(start, stop, most):
            yield at, min(at + most, stop)
