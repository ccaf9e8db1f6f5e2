"""Near-duplicate pictures of a pool (the scorer picture_groups says what they are).

Rows become nodes: one for each set of equal pixels, in the order of their smallest uids. Nodes that share a hash stand in a line,
first uid first; pairs of hashes become pairs of nodes, which lie in a file until the thumbnails of all nodes in it are made. Then
every pair is verified, and what passes is an edge. Memory: about 100 B a row; pairs and thumbnails (3 kB each) are on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate._components import Components
from curate._jsonuid import pairs_to_hex
from curate._picture_near import near_pairs
from curate._picture_thumbs import make_thumbnails, verify
from curate.pictures import locate
from curate.pooldata import PoolData

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
PAIRS_AT_ONCE = 1 << 16
NO_HASH = "no perceptual hash"


@dataclass(frozen=True)
class Hashed:
    """The rows of a pool that have a hash, in pool order."""

    row: I64
    words: U64  # (n, 2) uids
    phash: U64
    pixels: I64
    contrast: npt.NDArray[np.float32]


def read_hashes(data: PoolData, shards: Path | None) -> Hashed:
    """What the scorer phash says of every row of the pool, computed first when it is not there."""
    stored = data.stored("phash", {"shards": shards})
    pieces: list[tuple[Any, ...]] = []
    first = 0
    for shard in data.shards:
        columns = {name: column.combine_chunks() for name, column in stored.columns(shard).items()}
        rows = np.flatnonzero(np.asarray(columns["phash"].is_valid()))
        take = pa.array(rows)
        values = {name: np.asarray(columns[name].take(take)) for name in columns}
        pieces.append(
            (
                first + rows,
                data.uids(shard)[rows],
                values["phash"].view(np.uint64),
                values["phash_pixels"],
                values["phash_contrast"],
            )
        )
        first += shard.rows
    empty = (
        np.zeros(0, np.int64),
        np.zeros((0, 2), np.uint64),
        np.zeros(0, np.uint64),
        np.zeros(0, np.int64),
    )
    return Hashed(
        *(np.concatenate(parts) for parts in zip((*empty, np.zeros(0, np.float32)), *pieces, strict=True))
    )


@dataclass(frozen=True)
class Nodes:
    """Different pictures, by smallest uid. `of` is the node of each hashed row, `member` one hashed row of each node."""

    of: I64
    member: I64


def nodes_of(found: Hashed) -> Nodes:
    """Rows with equal pixels are one node."""
    if not len(found.row):
        return Nodes(np.zeros(0, np.int64), np.zeros(0, np.int64))
    order = np.lexsort((found.words[:, 1], found.words[:, 0], found.phash, found.pixels))
    new = np.ones(len(order), np.bool_)
    new[1:] = (np.diff(found.pixels[order]) != 0) | (found.phash[order][1:] != found.phash[order][:-1])
    group = np.cumsum(new) - 1
    smallest = order[new]  # the row of the smallest uid of each set of pixels
    by_uid = np.lexsort((found.words[smallest, 1], found.words[smallest, 0]))
    rank = np.empty(len(by_uid), np.int64)
    rank[by_uid] = np.arange(len(by_uid))
    of = np.empty(len(order), np.int64)
    of[order] = rank[group]
    return Nodes(of, smallest[by_uid])


def candidate_pairs(phash: U64, cap: int, distance: int) -> Iterator[tuple[I64, I64]]:
    """Pairs of nodes (numbers, the first is the smaller) whose hashes are near; see `cap` in picture_groups."""
    order = np.argsort(phash, kind="stable")  # nodes of one hash stay in the order of their uids
    unique, start = np.unique(phash[order], return_index=True)
    lines = _Lines(order, np.append(start, len(order)).astype(np.int64), cap)
    held: list[tuple[I64, I64]] = []
    waiting = 0
    for first, second in lines.pairs(near_pairs(unique, None, distance)):
        held.append((first, second))
        waiting += len(first)
        if waiting > PAIRS_AT_ONCE or len(held) > PAIRS_AT_ONCE:
            yield _sorted_pairs(held)
            held, waiting = [], 0
    if held:
        yield _sorted_pairs(held)


@dataclass(frozen=True)
class _Lines:
    """Nodes by hash: those of hash number h are order[start[h]:start[h + 1]]."""

    order: I64
    start: I64
    cap: int

    def pairs(self, near: Iterator[tuple[I64, I64]]) -> Iterator[tuple[I64, I64]]:
        """Within each line, and between the lines of near hashes."""
        order, start = self.order, self.start
        sizes = np.diff(start)
        for at in np.flatnonzero(sizes > 1).tolist():
            line = order[start[at] : start[at + 1]]
            for place in range(min(self.cap, len(line) - 1)):
                rest = line[place + 1 :]
                yield np.full(len(rest), line[place]), rest
        for first, second in near:
            single = (sizes[first] == 1) & (sizes[second] == 1)
            yield order[start[first[single]]], order[start[second[single]]]
            for a, b in zip(first[~single].tolist(), second[~single].tolist(), strict=True):
                left, right = order[start[a] : start[a + 1]], order[start[b] : start[b + 1]]
                yield from _products(left[: self.cap], right)
                yield from _products(left[self.cap :], right[: self.cap])


def _products(left: I64, right: I64) -> Iterator[tuple[I64, I64]]:
    """Every node of one with every node of the other, in blocks."""
    step = max(1, PAIRS_AT_ONCE // max(len(left), 1))
    for at in range(0, len(right) if len(left) else 0, step):
        piece = right[at : at + step]
        yield np.repeat(left, len(piece)), np.tile(piece, len(left))


def _sorted_pairs(held: list[tuple[I64, I64]]) -> tuple[I64, I64]:
    first, second = np.concatenate([h[0] for h in held]), np.concatenate([h[1] for h in held])
    return np.minimum(first, second), np.maximum(first, second)


def groups(
    data: PoolData, shards: Path | None, *, distance: int, correlation: float, contrast: float, cap: int
) -> Iterator[dict[str, Any]]:
    """picture_group of each shard; counts rows without a hash as invalid, notes pairs and groups."""
    found = read_hashes(data, shards)
    nodes = nodes_of(found)
    # a plain picture takes no part: its place among the nodes stays, its pixels may still be equal to others'
    usable = np.flatnonzero(found.contrast[nodes.member] >= contrast)
    phash = found.phash[nodes.member[usable]]
    capped = int((np.unique(phash, return_counts=True)[1] > cap).sum())
    path = data.scratch / "pairs"
    pairs, part = 0, np.zeros(len(nodes.member), np.bool_)
    with open(path, "wb") as file:
        for first, second in candidate_pairs(phash, cap, distance):
            first, second = usable[first], usable[second]
            part[first] = part[second] = True
            pairs += len(first)
            file.write(np.stack([first, second], axis=1).astype("<i8").tobytes())
    graph = Components(len(nodes.member))
    verified = _verify(data, shards, found, nodes, part, path, pairs, correlation, graph)
    labels = graph.labels()
    for name, value in (
        ("different pictures", len(nodes.member)),
        ("plain pictures", len(nodes.member) - len(usable)),
        ("pairs by hash", pairs),
        ("pairs verified", verified),
        ("groups of several", int((np.bincount(labels[nodes.of]) > 1).sum()) if len(nodes.of) else 0),
        ("capped hashes", capped),
    ):
        data.note(name, value)
    group = found.words[nodes.member[labels[nodes.of]]]
    yield from _columns(data, found.row, group)


def _verify(
    data: PoolData,
    shards: Path | None,
    found: Hashed,
    nodes: Nodes,
    part: npt.NDArray[np.bool_],
    path: Path,
    pairs: int,
    correlation: float,
    graph: Components,
) -> int:
    if not pairs:
        return 0
    place = locate(data, shards)
    wanted = np.flatnonzero(part)
    samples = np.asarray(place.joined.sample[found.row[nodes.member[wanted]]])
    order = np.argsort(samples, kind="stable")  # each tar is read from front to back
    thumbs = make_thumbnails(
        place.tars, place.starts, place.index, samples[order], data.executor, data.scratch / "thumbs.npy"
    )
    at = np.zeros(len(part), np.int64)
    at[wanted[order]] = np.arange(len(wanted))
    listed: I64 = np.memmap(path, "<i8", "r", shape=(pairs, 2))
    verified = 0
    for begin in range(0, pairs, PAIRS_AT_ONCE):
        first, second = np.asarray(listed[begin : begin + PAIRS_AT_ONCE]).T
        good = verify(thumbs, at[first], thumbs, at[second]) >= correlation
        verified += int(good.sum())
        graph.join(first[good], second[good])
    return verified


def _columns(data: PoolData, row: I64, words: U64) -> Iterator[dict[str, Any]]:
    first = 0
    for shard in data.shards:
        a, b = np.searchsorted(row, [first, first + shard.rows])
        place = np.full(shard.rows, -1, np.int64)
        place[row[a:b] - first] = np.arange(b - a)
        first += shard.rows
        data.invalid(NO_HASH, shard.rows - int(b - a))
        digits = np.ascontiguousarray(pairs_to_hex(words[a:b, 0], words[a:b, 1])).reshape(-1)
        offsets = pa.py_buffer(np.arange(0, len(digits) + 1, 32, dtype=np.int32))
        texts = pa.StringArray.from_buffers(int(b - a), offsets, pa.py_buffer(digits))
        yield {"picture_group": texts.take(pa.array(place, mask=place < 0))}
