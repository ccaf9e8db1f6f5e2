"""Every usable row of a pool beside another set of rows: blocks in order, and the closest of the others to each row.

What is kept for each row of the pool lies in memory, or in a scratch file where it would take too much. A similarity is the inner
product added up in float64 row by row, so it does not depend on blocks, threads or the memory that may be used; of equal ones the
other row with the lowest number counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.features import REASONS, Features, Floats, normalise
from curate.pooldata import PoolData
from curate.products import Assigner, labels
from curate.targets import Target
from headwater.console import track

ROWS = 16_384
PRODUCT_BYTES = 64 << 20


@dataclass(frozen=True)
class RowBlock:
    """Usable rows of one shard: their numbers in the whole pool (n,), and in float32 (n, width)."""

    shard: int
    numbers: npt.NDArray[np.int64]
    values: Floats


def usable_rows(
    features: Features, *, unit: bool = False, rows: int = ROWS, count: PoolData | None = None
) -> Iterator[RowBlock]:
    """The rows of a pool that have a direction, scaled to length 1 when `unit`; with `count` the others are counted there."""
    starts = first_rows(features)
    for block in features.blocks(rows):
        if count is not None:
            for code, reason in REASONS.items():
                count.invalid(reason, int(np.count_nonzero(block.bad == code)))
        good = np.flatnonzero(block.bad == 0)
        values = block.values if len(good) == block.rows else block.values[good]
        if unit:
            values = normalise(values)
        yield RowBlock(block.shard, starts[block.shard] + block.first + good, values)


def first_rows(features: Features) -> npt.NDArray[np.int64]:
    """The number of the first row of each shard, and of all rows at the end."""
    return np.cumsum([0] + [len(part.values) for part in features.parts])


def per_row(data: PoolData, dtype: npt.DTypeLike, fill: Any) -> npt.NDArray[Any]:
    """One value for each row of the pool, in a scratch file when all of them take more than an eighth of the memory."""
    rows, size = data.pool.rows, np.dtype(dtype).itemsize
    if not rows or rows * size <= data.memory_bytes // 8:
        return np.full(rows, fill, dtype)
    number = len(list(data.scratch.glob("rows-*.bin")))
    values = np.memmap(data.scratch / f"rows-{number}.bin", dtype, "w+", shape=(rows,))
    for first in range(0, rows, 1 << 20):
        values[first : first + (1 << 20)] = fill
    return values


def by_shard(data: PoolData, columns: Mapping[str, npt.NDArray[Any]]) -> Iterator[dict[str, Any]]:
    """Columns over the whole pool, cut into those of each shard."""
    first = 0
    for shard in data.shards:
        last = first + shard.rows
        yield {name: np.asarray(values[first:last]) for name, values in columns.items()}
        first = last


def products(a: Floats, b: Floats) -> npt.NDArray[np.float64]:
    """The inner product of each row of `a` with the same row of `b`: (n,) float64, the same wherever the row stands."""
    out = np.empty(len(a))
    step = max(1, PRODUCT_BYTES // (16 * max(a.shape[1], 1)))
    for first in range(0, len(a), step):
        part = np.multiply(a[first : first + step], b[first : first + step], dtype=np.float64)
        out[first : first + step] = part.sum(axis=1)
    return out


def chunk_rows(data: PoolData, width: int, *, share: int = 16) -> int:
    """How many float32 rows of `width` take 1/share of the memory."""
    return max(1, data.memory_bytes // (share * 4 * max(width, 1)))


def closest(
    data: PoolData, features: Features, target: Target, *, unit: bool = False, absolute: bool = False
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """For each row of the pool the largest inner product with a row of the target, and that row's number.

    Of equal products the lowest number counts. With `unit` both sides are scaled to length 1; with `absolute` the largest
    magnitude is looked for, and the number is that of some row that has it. NaN and -1 where the row cannot be used; those
    rows are counted.
    """
    best = per_row(data, np.float64, np.nan)
    number = per_row(data, np.int64, -1)
    step = chunk_rows(data, features.width)
    counted: PoolData | None = data
    with track("compare", total=features.rows * passes(target, step), unit="rows") as bar:
        for chunk in target.blocks(step):
            centres = normalise(chunk.values) if unit else chunk.values
            assign = Assigner(centres, rows=data.pool.rows)
            for block in usable_rows(features, unit=unit, count=counted):
                for rows in (block.values, -block.values) if absolute else (block.values,):
                    label = assign(rows)
                    value = products(rows, centres[label])
                    old, found = best[block.numbers], chunk.numbers[label]
                    # of equal ones the lowest number: a later chunk never wins, the negated pass may
                    better = (
                        np.isnan(old) | (value > old) | ((value == old) & (found < number[block.numbers]))
                    )
                    best[block.numbers[better]] = value[better]
                    number[block.numbers[better]] = found[better]
                bar.add(len(block.numbers))
            counted = None
    return best, number


def passes(target: Target, step: int) -> int:
    """How many times a pool is read when `step` rows of the target are held at once."""
    return -(-target.used // step)


def closest_of(rows: Floats, others: npt.NDArray[np.float32], step: int) -> npt.NDArray[np.int64]:
    """For each row the number of the row of `others` (k, width) with the largest inner product, `step` of them at a time."""
    number = np.full(len(rows), -1, np.int64)
    best = np.full(len(rows), -np.inf)
    for first in range(0, len(others), step):
        part = np.ascontiguousarray(others[first : first + step], np.float32)
        label = labels(rows, part)
        if len(others) <= step:
            return label.astype(np.int64)
        value = products(rows, part[label])
        better = (value > best) | (number < 0)
        best[better], number[better] = value[better], first + label[better]
    return number
