"""Pictures of an evaluation set, and which pictures of a pool are near one (the scorer picture_contamination).

The set is hashed file by file; its thumbnails (3 kB each) lie in a scratch file. References with equal pixels are one, by the first name.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate import _picture_hash as hashes
from curate import tar as tarfile
from curate._jsonuid import pairs_to_hex
from curate._picture_decode import MAX_BYTES, PictureError, decode
from curate._picture_groups import NO_HASH, Hashed, Nodes, nodes_of, read_hashes
from curate._picture_near import near_pairs
from curate._picture_tars import ACCEPTED
from curate._picture_thumbs import WIDTH, make_thumbnails, thumbnail, verify
from curate.pictures import locate
from curate.pooldata import PoolData
from headwater.console import say, track
from headwater.errors import MissingInput
from headwater.files import atomic_file, named_io
from headwater.hashing import DigestCache
from headwater.manifest import identity_id

I64 = npt.NDArray[np.int64]
NOTHING = 64
FILES_AT_ONCE = 256  # picture files that one job reads
PAIRS_AT_ONCE = 1 << 16


def reference_files(path: Path) -> list[str]:
    """Tars and picture files, relative to `path` (or its own name), sorted. Raises MissingInput."""
    if path.is_file():
        return [path.name]
    if not path.is_dir():
        raise MissingInput(f"{path}: no such evaluation set")
    found = []
    for folder, names, files in os.walk(path):
        names[:] = sorted(name for name in names if not name.startswith("."))
        inside = Path(folder).relative_to(path)
        for file in files:
            if not file.startswith(".") and file.rpartition(".")[2].lower() in ("tar", *ACCEPTED):
                found.append((inside / file).as_posix())
    if not found:
        raise MissingInput(f"{path}: no tars and no pictures in it")
    return sorted(found)


def reference_id(path: Path) -> str:
    """SHA-256 over (name, sha256) of its files; those seen before are not read again."""
    folder = path.parent if path.is_file() else path
    keys = []
    for name in reference_files(path):
        with named_io(folder / name):
            stat = (folder / name).stat()
        keys.append((name, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return _id_of(str(folder), tuple(keys))


@functools.lru_cache(maxsize=16)
def _id_of(folder: str, keys: tuple[tuple[str, int, int, int], ...]) -> str:
    cache = DigestCache(Path(folder), Path(folder) / ".headwater" / "reference")
    found = [[key[0], cache.get(key[0]).sha256] for key in keys]
    cache.save()
    return identity_id({"reference": found})


@dataclass(frozen=True)
class _Job:
    folder: Path
    names: tuple[str, ...]


_Made = tuple[list[str], npt.NDArray[np.uint64], I64, npt.NDArray[np.float32], npt.NDArray[np.uint8], int]


def _read(job: _Job) -> _Made:
    """Names, hashes, pixel hashes, contrasts and thumbnails of the pictures in some files; and how many did not open."""
    names: list[str] = []
    greys, pixels, thumbs, bad = [], [], [], 0
    for name, data in _pictures(job):
        try:
            image = decode(data)
        except PictureError:
            bad += 1
            continue
        names.append(name)
        greys.append(hashes.grey_for_phash(image))
        pixels.append(hashes.pixels_hash(image))
        thumbs.append(thumbnail(image))
    grey = np.array(greys, np.uint8).reshape(-1, hashes.SIDE, hashes.SIDE)
    small = np.array(thumbs, np.uint8).reshape(-1, WIDTH)
    return names, hashes.phash_bits(grey), np.array(pixels, np.int64), hashes.contrast(grey), small, bad


def _pictures(job: _Job) -> Iterator[tuple[str, bytes]]:
    for name in job.names:
        path = job.folder / name
        with named_io(path), open(path, "rb", buffering=0) as handle:
            size = os.fstat(handle.fileno()).st_size
            if not name.lower().endswith(".tar"):
                yield name, os.pread(handle.fileno(), min(size, MAX_BYTES + 1), 0)
                continue
            yield from _members(handle, size, name)


def _members(handle: IO[bytes], size: int, name: str) -> Iterator[tuple[str, bytes]]:
    fd = handle.fileno()
    for item in tarfile.members(lambda at, length: os.pread(fd, length, at), size, name):
        if isinstance(item, tarfile.Damage):
            say("warning", f"{name}: {item.reason}; the pictures before it are compared")
        if not isinstance(item, tarfile.Member) or item.kind != "file":
            continue
        member = item.name.decode("utf-8", "backslashreplace")
        if member.rpartition(".")[2].lower() in ACCEPTED:
            yield f"{name}:{member}", os.pread(fd, min(item.size_bytes, MAX_BYTES + 1), item.data_offset)


@dataclass(frozen=True)
class References:
    """Different pictures of the set, by name."""

    names: list[str]
    phash: npt.NDArray[np.uint64]
    pixels: I64
    contrast: npt.NDArray[np.float32]
    thumbs: Any  # memory map (n, WIDTH)
    at: I64  # where each lies in it


def read_references(data: PoolData, path: Path) -> References:
    """Hash the set; what does not open is counted in the notes."""
    folder = path.parent if path.is_file() else path
    files = reference_files(path)
    single = [name for name in files if not name.lower().endswith(".tar")]
    jobs = [_Job(folder, (name,)) for name in files if name.lower().endswith(".tar")]
    jobs += [_Job(folder, tuple(single[i : i + FILES_AT_ONCE])) for i in range(0, len(single), FILES_AT_ONCE)]
    names: list[str] = []
    parts: list[tuple[Any, ...]] = []
    bad = 0
    spill = data.scratch / "references"
    with open(spill, "wb") as file, track("read the evaluation set", len(jobs), "files") as bar:
        for made in data.executor.map_shards(_read, jobs):
            names += made[0]
            parts.append(made[1:4])
            file.write(made[4].tobytes())
            bad += made[5]
            bar.add(1)
    phash, pixels, contrast = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.array(sorted(range(len(names)), key=names.__getitem__), np.int64)
    _, first = np.unique(pixels[order], return_index=True)
    keep = order[np.sort(first)]
    data.note("references", len(names))
    if bad:
        data.note("references that do not open", bad)
        say("warning", f"{bad:,} pictures of the evaluation set do not open and are not compared")
    thumbs: Any = np.zeros((0, WIDTH), np.uint8)
    if names:
        thumbs = np.memmap(spill, np.uint8, "r", shape=(len(names), WIDTH))
    return References([names[i] for i in keep], phash[keep], pixels[keep], contrast[keep], thumbs, keep)


def contamination(data: PoolData, config: Any) -> Iterator[dict[str, Any]]:
    """The columns of picture_contamination, shard by shard."""
    found = read_hashes(data, config.shards)
    nodes = nodes_of(found)
    refs = read_references(data, config.reference)
    first, second = _candidates(found, nodes, refs, config)
    bits = hashes.distance(found.phash[nodes.member[first]], refs.phash[second]).astype(np.int64)
    fit = _correlations(data, config.shards, found, nodes, refs, first, second)
    equal = found.pixels[nodes.member[first]] == refs.pixels[second]
    verified = equal | (fit >= config.correlation)
    bits[equal] = 0
    _write_matches(data, found, nodes, refs, (first, second, bits, fit, verified))
    best = np.full(len(nodes.member), -1, np.int64)
    good = np.flatnonzero(verified)
    order = good[np.lexsort((second[good], -fit[good], bits[good], first[good]))]
    start = np.flatnonzero(np.diff(first[order], prepend=-1))
    best[first[order[start]]] = order[start]
    for name, value in (("pairs by hash", len(first)), ("pairs verified", len(good))):
        data.note(name, value)
    data.note("contaminated rows", int((best[nodes.of] >= 0).sum()))
    at = 0
    for shard in data.shards:
        a, b = np.searchsorted(found.row, [at, at + shard.rows])
        match = best[nodes.of[a:b]]
        distance = np.zeros(shard.rows, np.int32)
        of = np.full(shard.rows, -1, np.int64)
        rows = found.row[a:b] - at
        distance[rows] = np.where(match >= 0, bits[match], NOTHING) if len(bits) else NOTHING
        of[rows] = np.where(match >= 0, second[match], -1) if len(bits) else -1
        missing = np.ones(shard.rows, np.bool_)
        missing[rows] = False
        at += shard.rows
        data.invalid(NO_HASH, int(missing.sum()))
        yield {
            "picture_contamination_distance": pa.array(distance, mask=missing),
            "picture_contamination_of": pa.array(refs.names, pa.string()).take(pa.array(of, mask=of < 0)),
        }


def _candidates(found: Hashed, nodes: Nodes, refs: References, config: Any) -> tuple[I64, I64]:
    """Pairs (node, reference), each once, sorted: near by hash and neither plain, or with equal pixels."""
    usable = np.flatnonzero(found.contrast[nodes.member] >= config.contrast)
    others = np.flatnonzero(refs.contrast >= config.contrast)
    # the first references of each hash, by name
    order = others[np.argsort(refs.phash[others], kind="stable")]
    place = np.arange(len(order))
    new = np.diff(refs.phash[order].astype(np.uint64), prepend=~refs.phash[order[:1]]) != 0
    others = order[place - np.maximum.accumulate(np.where(new, place, 0)) < config.cap]
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for i, j in near_pairs(found.phash[nodes.member[usable]], refs.phash[others], config.distance):
        parts.append((usable[i], others[j]))
    pixels = found.pixels[nodes.member]
    by_pixels = np.argsort(refs.pixels)
    if len(by_pixels):
        at = np.minimum(np.searchsorted(refs.pixels[by_pixels], pixels), len(by_pixels) - 1)
        same = np.flatnonzero(refs.pixels[by_pixels[at]] == pixels)
        parts.append((same, by_pixels[at[same]]))
    first, second = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    keep = np.ones(len(first), np.bool_)
    keep[1:] = (np.diff(first) != 0) | (np.diff(second) != 0)
    return first[keep], second[keep]


def _correlations(
    data: PoolData,
    shards: Path | None,
    found: Hashed,
    nodes: Nodes,
    refs: References,
    first: I64,
    second: I64,
) -> npt.NDArray[np.float64]:
    if not len(first):
        return np.zeros(0)
    place = locate(data, shards)
    wanted = np.unique(first)
    samples = np.asarray(place.joined.sample[found.row[nodes.member[wanted]]])
    order = np.argsort(samples, kind="stable")
    thumbs = make_thumbnails(
        place.tars, place.starts, place.index, samples[order], data.executor, data.scratch / "thumbs.npy"
    )
    at = np.zeros(len(nodes.member), np.int64)
    at[wanted[order]] = np.arange(len(wanted))
    return verify(thumbs, at[first], refs.thumbs, refs.at[second])


def _write_matches(
    data: PoolData, found: Hashed, nodes: Nodes, refs: References, columns: tuple[Any, ...]
) -> None:
    names = pa.array(refs.names, pa.string())
    schema = pa.schema(
        [
            ("uid", pa.string()),
            ("of", pa.string()),
            ("distance", pa.int32()),
            ("correlation", pa.float32()),
            ("verified", pa.bool_()),
        ]
    )
    with (
        atomic_file(data.artifact("matches.parquet"), durable=False) as handle,
        pq.ParquetWriter(handle, schema, compression="zstd", compression_level=1) as writer,
    ):
        for at in range(0, len(columns[0]), PAIRS_AT_ONCE):
            first, second, bits, fit, verified = (c[at : at + PAIRS_AT_ONCE] for c in columns)
            words = found.words[nodes.member[first]]
            digits = pairs_to_hex(words[:, 0], words[:, 1])
            uids = [row.tobytes().decode() for row in digits]
            made = [
                pa.array(uids, pa.string()),
                names.take(pa.array(second)),
                pa.array(bits, pa.int32()),
                pa.array(fit, pa.float32()),
                pa.array(verified),
            ]
            writer.write_table(pa.Table.from_arrays(made, schema=schema))
