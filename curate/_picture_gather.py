"""From answers by tar to columns and features by shard: each shard's rows are gathered from the tars that hold its pictures."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate._npz import npz_arrays
from curate._picture_answers import NO_PICTURE, WHY, TarJob, arrays_of, without_inputs, write_header
from curate.features import FOLDER
from curate.pool import Pool, Shard
from curate.pooldata import PoolData
from curate.sidecars import ScorerRef
from headwater.console import say
from headwater.files import atomic_file, glob_escape, remove_stale_temporaries
from headwater.manifest import identity_id

I64 = npt.NDArray[np.int64]
BLOCK_ROWS = 16_384
OPEN_TARS = 16  # whose answers are held at a time


class Gather:
    """The answers of all tars; sample s is place s - starts[t] of tar t."""

    def __init__(self, data: PoolData, jobs: Sequence[TarJob], starts: I64) -> None:
        self._data = data
        self._jobs = jobs
        self._starts = starts
        self._outputs = {name: pa.type_for_alias(kind) for name, kind in data.ref.outputs.items()}
        self._read = lru_cache(maxsize=OPEN_TARS)(
            lambda tar: pq.read_table(jobs[tar].path, use_threads=False)
        )

    def columns(self, sample: I64) -> dict[str, pa.Array]:
        """The scorer's columns for the rows of one shard, whose samples are given; counts those without a score."""
        order = np.argsort(sample, kind="stable")
        pieces: list[pa.Table] = []
        missing = int((sample < 0).sum())
        for tar, rows in self._tars(sample[order[missing:]]):
            pieces.append(self._read(tar).take(pa.array(rows)))
        schema = pa.schema([(WHY, pa.string()), *self._outputs.items()])
        found = pa.concat_tables([schema.empty_table(), *(p.replace_schema_metadata(None) for p in pieces)])
        place = np.empty(len(sample), np.int64)
        place[order] = np.arange(len(sample)) - missing
        table = found.take(pa.array(place, mask=place < 0))
        columns = {name: table[name].combine_chunks() for name in schema.names}
        why = columns.pop(WHY)
        lost = columns[next(iter(columns))].is_null()
        for item in why.filter(lost).value_counts().to_pylist():
            self._data.invalid(item["values"] or NO_PICTURE, item["counts"])
        return columns

    def _tars(self, sample: I64) -> list[tuple[int, I64]]:
        """(tar, places) of sorted samples."""
        tars = np.searchsorted(self._starts, sample, side="right") - 1
        bounds = np.append(np.flatnonzero(np.diff(tars, prepend=-1)), len(sample))
        return [
            (int(tars[a]), sample[a:b] - self._starts[tars[a]])
            for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
        ]

    def write_features(self, shard: Shard, sample: I64) -> Path | None:
        """The npz of one shard, stored unpacked; rows of zeros without a picture. The zip's comment says what it was made from.

        Arrays are found by their names alone: an older file of ours with one of these names is removed.
        """
        arrays = arrays_of(self._data.ref)
        if not arrays:
            return None
        folder = features_folder(self._data.pool.cache, self._data.ref)
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale_temporaries(folder, f"{shard.name}.npz")
        path = folder / f"{shard.name}.npz"
        with (
            atomic_file(path, durable=False) as handle,
            zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
        ):
            archive.comment = _comment(self._data.pool, self._data.ref, shard)
            for name, (width, dtype) in arrays.items():
                entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
                with archive.open(entry, "w", force_zip64=True) as member:
                    write_header(member, (len(sample), width), dtype)
                    for first in range(0, len(sample), BLOCK_ROWS):
                        member.write(
                            self._rows(name, width, dtype, sample[first : first + BLOCK_ROWS]).tobytes()
                        )
        for other in sorted(folder.parent.glob(f"*/{glob_escape(shard.name)}.npz")):
            if other != path and {array.name for array in npz_arrays(other)} & set(arrays):
                other.unlink()
                say(
                    "info", f"{other.parent.name}/{other.name} had features of the same name, and is replaced"
                )
        return path

    def _rows(self, name: str, width: int, dtype: np.dtype[Any], sample: I64) -> npt.NDArray[Any]:
        out = np.zeros((len(sample), width), dtype)
        order = np.argsort(sample, kind="stable")
        at = int((sample < 0).sum())
        for tar, rows in self._tars(sample[order[at:]]):
            values = np.load(self._jobs[tar].array(name), mmap_mode="r", allow_pickle=False)
            out[order[at : at + len(rows)]] = values[rows]
            at += len(rows)
        return out


def features_folder(cache: Path, ref: ScorerRef) -> Path:
    """Where the npz files of a scorer lie, whichever tars they are made from."""
    return cache / FOLDER / f"{ref.name}-{identity_id(without_inputs(ref).identity)[:8]}"


def _comment(pool: Pool, ref: ScorerRef, shard: Shard) -> bytes:
    facts = {"scores": identity_id(ref.identity), "shard_sha256": pool.digests(shard).sha256}
    return json.dumps(facts, sort_keys=True).encode()


def features_are_there(pool: Pool, ref: ScorerRef) -> bool:
    """Whether the features of every shard are those of this scorer over these tars (True for one that makes none)."""
    if not arrays_of(ref):
        return True
    folder = features_folder(pool.cache, ref)
    for shard in pool.shards:
        try:
            with zipfile.ZipFile(folder / f"{shard.name}.npz") as archive:
                if archive.comment != _comment(pool, ref, shard):
                    return False
        except (OSError, zipfile.BadZipFile):
            return False
    return True
