"""Joins samples of tars to rows of a pool by uid, in bounded memory: uids are split by a hash into parts that are sorted one by one.

Samples are numbered through all tars, in the order of (tar name, place); rows through all shards of the pool. A part needs about
PART_BYTES_A_UID for each of its uids, and there are as many parts as the budget asks for. The answer is a memory map.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate._picture_tars import Samples
from curate.pooldata import PoolData
from curate.views import RawView

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
PART_BYTES_A_UID = 120  # 24 of them, sorted by three keys
MAX_PARTS = 256
_NULL = 0xFFFFFFFF


@dataclass(frozen=True)
class Joined:
    """`sample` is the number of the sample of each row of the pool (-1: none), as a memory map."""

    sample: I64
    repeated: int  # samples whose uid an earlier sample has
    unknown: int  # samples whose uid the pool does not have
    matched: int  # rows with a sample


def join(data: PoolData, samples: Iterable[Samples], count: int) -> Joined:
    """Find the sample of every row; `samples` are those of the tars in order, `count` samples in all."""
    total = count + data.pool.rows
    parts = min(MAX_PARTS, max(1, -(-total * PART_BYTES_A_UID // max(data.memory_bytes // 2, 1 << 20))))
    folder = data.scratch / "join"
    folder.mkdir(parents=True, exist_ok=True)
    files = [open(folder / f"{n:03d}", "wb") for n in range(parts)]  # noqa: SIM115
    try:
        first = 0
        for piece in samples:
            _split(files, piece.hi, piece.lo, np.arange(first, first + len(piece)))
            first += len(piece)
        first = 0
        for shard in data.shards:
            for block in RawView(shard, {}).blocks():
                words, bad = block.uids()
                keep = np.ones(len(words), np.bool_)
                keep[bad] = False
                rows = np.flatnonzero(keep)
                _split(files, words[rows, 0], words[rows, 1], -1 - (first + rows))
                first += block.rows
    finally:
        for file in files:
            file.close()
    rows_file = folder / "sample.npy"
    sample: I64 = np.lib.format.open_memmap(rows_file, "w+", np.int64, (max(data.pool.rows, 1),))  # type: ignore[no-untyped-call]
    sample[:] = -1
    sample = sample[: data.pool.rows]
    repeated = unknown = matched = 0
    for number in range(parts):
        path = folder / f"{number:03d}"
        counts = _join_part(np.fromfile(path, "<u8").reshape(-1, 3), sample)
        repeated, unknown, matched = repeated + counts[0], unknown + counts[1], matched + counts[2]
        path.unlink()
    return Joined(sample, repeated, unknown, matched)


def _split(files: list[Any], hi: U64, lo: U64, origin: I64) -> None:
    table = np.stack([hi.astype("<u8"), lo.astype("<u8"), origin.astype("<i8").view("<u8")], axis=1)
    if len(files) == 1:
        files[0].write(table.tobytes())
        return
    with np.errstate(over="ignore"):  # uids may count upwards: mixed, their top bits are even
        mixed = (hi ^ (lo * np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xD6E8FEB86659FD93)
    part = ((mixed >> np.uint64(40)) % np.uint64(len(files))).astype(np.int64)
    order = np.argsort(part, kind="stable")
    bounds = np.searchsorted(part[order], np.arange(len(files) + 1))
    for number in np.flatnonzero(np.diff(bounds)).tolist():
        files[number].write(table[order[bounds[number] : bounds[number + 1]]].tobytes())


def _join_part(table: npt.NDArray[np.uint64], sample: I64) -> tuple[int, int, int]:
    """Write the samples of a part's rows; (repeated samples, unknown samples, matched rows)."""
    if not len(table):
        return 0, 0, 0
    origin = table[:, 2].view(np.int64)
    # samples come before rows, the earliest sample first
    order = np.lexsort((np.where(origin < 0, np.iinfo(np.int64).max, origin), table[:, 1], table[:, 0]))
    table, origin = table[order], origin[order]
    new = np.ones(len(table), np.bool_)
    new[1:] = (table[1:, :2] != table[:-1, :2]).any(axis=1)
    start = np.flatnonzero(new)
    group = np.cumsum(new) - 1
    is_row = origin < 0
    best = origin[start][group]
    hit = is_row & (best >= 0)
    sample[-1 - origin[hit]] = best[hit]
    samples_in = np.bincount(group, ~is_row, len(start)).astype(np.int64)
    rows_in = np.bincount(group, is_row, len(start)).astype(np.int64)
    repeated = int(np.maximum(samples_in - 1, 0).sum())
    unknown = int(((samples_in > 0) & (rows_in == 0)).sum())
    return repeated, unknown, int(hit.sum())


def spill_captions(data: PoolData, joined: Joined, starts: I64, column: str = "text") -> list[Path]:
    """A file for each tar with the pool's texts of its samples: (place, length or 2^32-1, bytes) one behind the other."""
    folder = data.scratch / "captions"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{n:06d}" for n in range(len(starts) - 1)]
    for path in paths:
        path.write_bytes(b"")
    first = 0
    for shard in data.shards:
        for block in data.blocks(shard, [column]):
            sample = np.asarray(joined.sample[first : first + block.rows])
            first += block.rows
            rows = np.flatnonzero(sample >= 0)
            rows = rows[np.argsort(sample[rows], kind="stable")]
            texts = pa.array(block.column(column)).take(pa.array(rows)).to_pylist()
            tars = np.searchsorted(starts, sample[rows], side="right") - 1
            places = sample[rows] - starts[tars]
            bounds = np.flatnonzero(np.diff(tars, prepend=-1, append=-2))
            for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                with open(paths[int(tars[begin])], "ab") as file:
                    for at in range(begin, end):
                        file.write(_entry(int(places[at]), texts[at]))
    return paths


def _entry(place: int, text: str | None) -> bytes:
    if text is None:
        return struct.pack("<II", place, _NULL)
    raw = text.encode()
    return struct.pack("<II", place, len(raw)) + raw


def _entries(path: Path) -> Iterator[tuple[int, bytes | None]]:
    raw = path.read_bytes()
    at = 0
    while at < len(raw):
        place, length = struct.unpack_from("<II", raw, at)
        at += 8
        if length == _NULL:
            yield place, None
        else:
            yield place, raw[at : at + length]
            at += length


def read_captions(path: Path) -> dict[int, str]:
    """Place in the tar -> the pool's text; where rows of one uid differ, the first of the pool."""
    found: dict[int, str] = {}
    for place, raw in _entries(path):
        if raw is not None:
            found.setdefault(place, raw.decode())
    return found


def captions_digest(path: Path) -> str:
    """SHA-256 of the texts by place."""
    hasher = hashlib.sha256()
    for place, text in sorted(read_captions(path).items()):
        raw = text.encode()
        hasher.update(struct.pack("<II", place, len(raw)) + raw)
    return hasher.hexdigest()
