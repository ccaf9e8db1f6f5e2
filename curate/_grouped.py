"""Rows of a pool put together cluster by cluster in scratch files, so that the rows of one cluster are read at once.

One pass counts the clusters, a second one writes each row behind those of its cluster. Nothing of the pool's size is held in
memory but a bit a row: a cluster is read when it is asked for, and one that is larger than the budget is a memory map.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate._clusters import COPIES, LEAST_BLOCK, MOST_BLOCK, Clusters, Floats, Labels, Mask
from curate.features import normalise
from curate.pooldata import PoolData
from headwater.errors import HeadwaterError

KEEP = ["hard", "easy", "random"]
MEMBER = np.dtype([("hi", "<u8"), ("lo", "<u8"), ("row", "<i8"), ("similarity", "<f4")])
Members = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]

# the clause `sample` draws by the same hash of uid and seed: without a salt both would take the same rows
SALT = np.uint64(0x47524F555045445F)  # "GROUPED_"


class Grouped:
    """Members of each cluster of a pool. `sizes` is (k,) int64, `invalid` one mask a shard of rows that have no cluster.

    Rows without a usable feature are told to `data.invalid`; those outside the subset of `clusters` are left out and not counted.
    """

    def __init__(self, clusters: Clusters, *, vectors: bool = True) -> None:
        self.clusters = clusters
        self._data = clusters.data
        self.width = clusters.features.width
        half = all(part.values.dtype == np.float16 for part in clusters.features.parts)
        self._dtype = np.dtype(np.float16 if half else np.float32)
        names = ["members", "vectors"] if vectors else ["members"]
        self._paths = {name: self._data.scratch / f"grouped.{name}" for name in names}
        self._invalid: list[npt.NDArray[np.uint8]] = []
        self.sizes = self._count()
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        self._write()

    @property
    def chunk(self) -> int:
        """How many rows of a cluster are held in memory at once."""
        return max(LEAST_BLOCK, self._data.memory_bytes // (max(self.width, 8) * 4 * COPIES))

    @property
    def rows(self) -> int:
        """How many rows belong to a cluster."""
        return int(self.starts[-1])

    def invalid(self) -> Iterator[Mask]:
        """Per shard: rows without a usable feature."""
        for shard, bits in zip(self._data.shards, self._invalid, strict=True):
            yield np.unpackbits(bits, count=shard.rows).astype(bool)

    def members(self, cluster: int) -> Members:
        """Records of one cluster: uid words, row number in the pool, similarity to the centroid."""
        return self._read("members", cluster, MEMBER, 1)[:, 0]

    def vectors(self, cluster: int, order: Rows) -> Floats:
        """(size, width) float32 of length 1: the members in this order; a memory map when the budget is too small."""
        first, size = int(self.starts[cluster]), int(self.sizes[cluster])
        if size <= self.chunk:
            stored = self._read("vectors", cluster, self._dtype, self.width)
            return normalise(stored[order].astype(np.float32, copy=False))
        mapped = np.memmap(self._paths["vectors"], self._dtype, "r", 0, (first + size, self.width))
        path, step = self._data.scratch / "grouped.sorted", self.clusters.block_rows
        with open(path, "wb") as out:
            for at in range(0, size, step):
                out.write(normalise(mapped[first + order[at : at + step]].astype(np.float32)).tobytes())
        sorted_rows = np.memmap(path, np.float32, "r", 0, (size, self.width))
        path.unlink()  # the map stays whole when the next cluster is written, and the space is free when it is dropped
        return sorted_rows

    def _count(self) -> npt.NDArray[np.int64]:
        counts = np.zeros(len(self.clusters.centroids()), np.int64)
        for number in range(len(self._data.shards)):
            label, _ = self.clusters.of_shard(number)
            self.clusters.count_bad(number, label)
            self._invalid.append(np.packbits(label < 0))
            counts += np.bincount(label[(label >= 0) & self.clusters.wanted(number)], minlength=len(counts))
        return counts

    def _write(self) -> None:
        """Each row goes behind the rows of its cluster that came before it."""
        free, base, step = self.starts[:-1].copy(), 0, self.clusters.block_rows
        targets = {
            name: os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC) for name, path in self._paths.items()
        }
        try:
            for number, shard in enumerate(self._data.shards):
                label, similarity = self.clusters.of_shard(number)
                uids, wanted = self._data.uids(shard), self.clusters.wanted(number)
                for at in range(0, shard.rows, step):
                    part = slice(at, at + step)
                    rows = np.flatnonzero((label[part] >= 0) & wanted[part])
                    rows = rows[np.argsort(label[part][rows], kind="stable")]
                    members = np.zeros(len(rows), MEMBER)
                    members["hi"], members["lo"] = uids[part][rows].T
                    members["row"] = base + at + rows
                    members["similarity"] = similarity[part][rows]
                    records: dict[str, npt.NDArray[Any]] = {"members": members}
                    if "vectors" in targets:
                        block = self.clusters.features.block(number, at, at + step)
                        records["vectors"] = block.values[rows].astype(self._dtype)
                    _scatter(targets, label[part][rows], records, free)
                base += shard.rows
        finally:
            for target in targets.values():
                os.close(target)

    def _read(self, name: str, cluster: int, dtype: np.dtype[Any], width: int) -> npt.NDArray[Any]:
        values = np.empty((int(self.sizes[cluster]), width), dtype)
        with open(self._paths[name], "rb", buffering=0) as handle:
            handle.seek(int(self.starts[cluster]) * width * dtype.itemsize)
            left = memoryview(values.reshape(-1).view(np.uint8))
            while len(left):
                got = handle.readinto(left)
                if not got:
                    raise HeadwaterError(f"{handle.name}: the scratch file is too short")
                left = left[got:]
        return values


def keep_order(members: Members, keep: str, seed: int) -> Rows:
    """Numbers of the members in the order in which they are kept; ties go to the lowest uid.

    "hard": farthest from the centroid first. "easy": nearest first. "random": by a hash of uid and seed.
    """
    similarity = members["similarity"]
    key: npt.NDArray[Any] = similarity if keep == "hard" else -similarity
    if keep == "random":
        from curate.clauses import mix  # imports DuckDB

        start = mix(np.array([seed & (2**64 - 1)], np.uint64) ^ SALT)
        key = mix(members["hi"] ^ mix(members["lo"] ^ start))
    return np.asarray(np.lexsort((members["row"], members["lo"], members["hi"], key)), np.int64)


class RowStore:
    """One record a row of the pool in a scratch file: written in any order, read shard by shard."""

    def __init__(self, data: PoolData, dtype: list[tuple[str, str]], fill: Mapping[str, Any]) -> None:
        self._data = data
        rows = data.pool.rows
        kind = np.dtype(dtype)
        self.values: npt.NDArray[Any] = np.zeros(0, kind)
        if rows:
            self.values = np.memmap(data.scratch / "rows", kind, "w+", 0, (rows,))
        record = np.zeros(1, kind)
        for name, value in fill.items():
            record[name] = value
        for at in range(0, rows, MOST_BLOCK):
            self.values[at : at + MOST_BLOCK] = record

    def shards(self) -> Iterator[npt.NDArray[Any]]:
        """The records of each shard, in the order of the pool's shards."""
        first = 0
        for shard in self._data.shards:
            yield np.asarray(self.values[first : first + shard.rows])
            first += shard.rows


def uid_array(
    hi: npt.NDArray[np.uint64], lo: npt.NDArray[np.uint64], missing: npt.NDArray[np.bool_]
) -> pa.Array:
    """Uids as text; null where `missing`."""
    digits = np.ascontiguousarray(np.stack([hi, lo], axis=1), ">u8").tobytes().hex().encode()
    offsets = np.arange(0, 32 * len(hi) + 1, 32, dtype=np.int64)
    text = pa.LargeStringArray.from_buffers(len(hi), pa.py_buffer(offsets), pa.py_buffer(digits))
    return pc.if_else(pa.array(missing), pa.scalar(None, pa.large_string()), text).cast(pa.string())


def _scatter(
    targets: Mapping[str, int], label: Labels, records: Mapping[str, npt.NDArray[Any]], free: Rows
) -> None:
    """Write runs of equal labels (they are sorted) where their clusters end so far, and move those ends."""
    cuts = np.concatenate([[0], np.flatnonzero(np.diff(label)) + 1, [len(label)]]) if len(label) else label
    for first, last in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        cluster = int(label[first])
        for name, values in records.items():
            step = values.dtype.itemsize * (values.shape[1] if values.ndim == 2 else 1)
            _pwrite(targets[name], values[first:last].tobytes(), int(free[cluster]) * step)
        free[cluster] += last - first


def _pwrite(target: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while len(view):
        done = os.pwrite(target, view, offset)
        view, offset = view[done:], offset + done
