"""A random sample of a pool's rows that depends on uids and a seed alone: not on shards, their names or the order of rows.

Each uid has a 64-bit key, SplitMix64 of its two words and the seed; the sample is the rows with the smallest keys, in the order of
keys. Of rows that share a uid the first in pool order comes first: only there does the layout show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate._order import search_words
from curate.features import Features, to_float32
from curate.pooldata import PoolData
from headwater.errors import UsageError

Floats = npt.NDArray[np.float32]
U64 = npt.NDArray[np.uint64]
GATHER = 8192  # rows read at a time
ROW_BITS = 40  # of a place; the rest names the shard


@dataclass(frozen=True)
class Sample:
    """Rows in the order of their keys: numbers of shards and of rows within them, (m,) each."""

    shard: npt.NDArray[np.int32]
    row: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)


def keys(uids: U64, seed: int) -> U64:
    """The (n,) keys of (n, 2) uid words."""
    from curate.clauses import mix  # its module loads DuckDB

    start = mix(np.array([seed % 2**64], np.uint64))
    return mix(mix(uids[:, 0] ^ start) ^ uids[:, 1])


def choose_rows(data: PoolData, features: Features, most: int, seed: int, only: U64 | None = None) -> Sample:
    """At most `most` rows that have a direction, of all or (with `only`, sorted uid words) of those uids.

    Memory: 16 bytes for each of 2 · `most` rows, and one block of features.
    """
    if most < 1:
        raise UsageError(f"a sample of {most} rows is none")
    key, place = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    for number, shard in enumerate(data.shards):
        uids = data.uids(shard)
        fresh = keys(uids, seed)
        good = np.zeros(len(uids), bool)
        for first in range(0, shard.rows, GATHER):
            block = features.block(number, first, first + GATHER)
            good[first : first + block.rows] = block.bad == 0
        if only is not None:
            left, right = search_words(only, uids)
            good &= right > left
        row = np.flatnonzero(good).astype(np.uint64)
        key = np.concatenate([key, fresh[good]])
        place = np.concatenate([place, row | np.uint64(number << ROW_BITS)])
        if len(key) > 2 * most:
            key, place = _smallest(key, place, most)
    key, place = _smallest(key, place, most)
    rows = (place & np.uint64((1 << ROW_BITS) - 1)).astype(np.int64)
    return Sample((place >> np.uint64(ROW_BITS)).astype(np.int32), rows)


def _smallest(key: U64, place: U64, most: int) -> tuple[U64, U64]:
    order = np.lexsort((place, key))[:most]
    return key[order], place[order]


def gather(
    features: Features, sample: Sample, *, memory_bytes: int, scratch: Path
) -> Floats | Callable[[], Iterable[Floats]]:
    """The rows of a sample as float32: an array, or, beyond `memory_bytes`, a function that gives blocks from a file below `scratch`.

    The file holds the rows in the type that the features have.
    """
    size = len(sample) * features.width
    if size * 4 <= memory_bytes:
        out = np.empty((len(sample), features.width), np.float32)
        for places, rows in _reads(features, sample):
            out[places] = rows
        return out
    kind = np.result_type(*[part.values.dtype for part in features.parts])
    path = scratch / "sample.bin"
    with open(path, "w+b") as handle:
        handle.truncate(size * kind.itemsize)
        for places, rows in _reads(features, sample):
            order = np.argsort(places)
            # neighbours are written together
            cuts = np.flatnonzero(np.diff(places[order]) != 1) + 1
            for run in np.split(order, cuts):
                handle.seek(int(places[run[0]]) * features.width * kind.itemsize)
                handle.write(np.ascontiguousarray(rows[run], kind).tobytes())
    step = max(1, min(GATHER, memory_bytes // (8 * features.width * 4)))

    def blocks() -> Iterator[Floats]:
        with open(path, "rb") as handle:
            while len(flat := np.fromfile(handle, kind, step * features.width)):
                yield to_float32(flat.reshape(-1, features.width))

    return blocks


def _reads(features: Features, sample: Sample) -> Iterator[tuple[npt.NDArray[Any], Floats]]:
    """(places in the sample, rows) in the order of the pool."""
    order = np.lexsort((sample.row, sample.shard))
    for number in np.unique(sample.shard).tolist():
        own = order[
            np.searchsorted(sample.shard, number, sorter=order) : np.searchsorted(
                sample.shard, number, side="right", sorter=order
            )
        ]
        for first in range(0, len(own), GATHER):
            places = own[first : first + GATHER]
            yield places, features.take(number, sample.row[places])
