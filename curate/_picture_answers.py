"""What a scorer answers for one tar, kept by the tar's digest so that a tar that is done is never read again.

    CACHE/pictures/<scorer>-v<version>-<id8>/<key>.parquet        one row a sample, in tar order: `why` and the scorer's columns
    CACHE/pictures/<scorer>-v<version>-<id8>/<key>.<array>.npy    rows of features; written before the Parquet file, which commits

`id8` is that of the scorer without its inputs, `key` the first 32 digits of the tar's sha256 (with the pool's captions: of both).
`why` is null where there is a score, else the reason why there is none.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate._picture_tars import Picture, Samples, Tar, read_pictures, samples_of
from curate.sidecars import ScorerRef
from headwater.errors import UsageError
from headwater.files import atomic_file
from headwater.manifest import identity_id

BATCH = 64
BATCH_BYTES = 64 << 20  # of the bytes of pictures that are given together
NO_PICTURE, NO_SCORE = "no picture", "no score"
META = b"headwater"
WHY = "why"


@dataclass(frozen=True)
class TarJob:
    """One tar for one scorer. `captions` is a file of the pool's texts for its samples (see curate._picture_join)."""

    ref: ScorerRef
    tar: Tar
    folder: Path
    index: Path
    key: str
    captions: Path | None = None

    @property
    def path(self) -> Path:
        return self.folder / f"{self.key}.parquet"

    def array(self, name: str) -> Path:
        return self.folder / f"{self.key}.{name}.npy"


def without_inputs(ref: ScorerRef) -> ScorerRef:
    """The scorer apart from the pool and the shards that it is used on."""
    return ScorerRef(ref.name, ref.config)


def answers_folder(cache: Path, ref: ScorerRef) -> Path:
    """Where its answers lie."""
    plain = without_inputs(ref)
    return cache / "pictures" / f"{ref.name}-v{ref.module.VERSION}-{identity_id(plain.identity)[:8]}"


def arrays_of(ref: ScorerRef) -> dict[str, tuple[int, np.dtype[Any]]]:
    """Array -> (width, dtype) of the features that the scorer makes."""
    made = getattr(ref.module, "ARRAYS", None)
    found = made(ref.settings) if callable(made) else made or {}
    return {name: (int(width), np.dtype(dtype)) for name, (width, dtype) in found.items()}


def write_header(file: Any, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """The header of an NPY file; rows follow, in C order."""
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]


def is_answered(job: TarJob) -> bool:
    """Whether the answers of this tar are there, whole, and of this scorer."""
    try:
        file = pq.ParquetFile(job.path)
        facts = json.loads((file.schema_arrow.metadata or {}).get(META, b"{}"))
        if facts != _facts(job) or file.schema_arrow.names != [WHY, *job.ref.outputs]:
            return False
        for name, (width, dtype) in arrays_of(job.ref).items():
            values = np.load(job.array(name), mmap_mode="r", allow_pickle=False)
            if values.shape != (file.metadata.num_rows, width) or values.dtype != dtype:
                return False
    except (pa.ArrowException, OSError, ValueError, TypeError):
        return False
    return True


def _facts(job: TarJob) -> dict[str, Any]:
    return {"key": job.key, "scorer": without_inputs(job.ref).identity}


@functools.lru_cache(maxsize=4)
def _loaded(ref: ScorerRef) -> Any:
    return ref.scorer


def answer_tar(job: TarJob) -> int:
    """Score every picture of a tar in a worker process; its samples are returned as a number."""
    return answer(job, _loaded(without_inputs(job.ref)))


def answer(job: TarJob, scorer: Any, tell: Callable[[int], None] = lambda _: None) -> int:
    """Score every picture of a tar and keep the answers. `tell` is called with numbers of samples that are done."""
    samples = samples_of(job.tar, job.index)
    outputs = {name: pa.type_for_alias(kind) for name, kind in job.ref.outputs.items()}
    first = next(iter(outputs))
    schema = pa.schema([(WHY, pa.string()), *outputs.items()])
    schema = schema.with_metadata({META: json.dumps(_facts(job), sort_keys=True).encode()})
    arrays = arrays_of(job.ref)
    done = 0
    with ExitStack() as stack:
        files = {name: stack.enter_context(atomic_file(job.array(name), durable=False)) for name in arrays}
        for name, (width, dtype) in arrays.items():
            write_header(files[name], (len(samples), width), dtype)
        parts: list[pa.RecordBatch] = []
        captions = None
        if job.captions is not None:
            from curate._picture_join import read_captions

            captions = read_captions(job.captions)
        for rows, pictures in _batches(samples, captions, int(getattr(job.ref.module, "BATCH", BATCH))):
            # samples without a picture that lie before or between get nulls
            stop = rows[-1] + 1 if rows else len(samples)
            made = scorer.score_pictures(pictures) if pictures else {}
            place = np.full(stop - done, -1, np.int64)
            place[np.array(rows, np.int64) - done] = np.arange(len(rows))
            if pictures:
                _check(job.ref, made, [*outputs, *arrays], len(pictures))
            columns = {
                name: _spread(made.get(name), place, kind, len(pictures)) for name, kind in outputs.items()
            }
            why = [_why(pictures, at) for at in place.tolist()]
            missing = np.asarray(columns[first].is_null())
            reasons = pa.array(why, pa.string(), mask=~missing)
            parts.append(pa.RecordBatch.from_arrays([reasons, *columns.values()], schema=schema))
            for name, (width, dtype) in arrays.items():
                block = np.zeros((stop - done, width), dtype)
                if pictures:
                    values = np.asarray(made[name])
                    good = np.isfinite(values).all(axis=1)
                    block[place >= 0] = np.where(good[:, None], values, 0)
                files[name].write(block.tobytes())
            tell(stop - done)
            done = stop
    table = pa.Table.from_batches(parts, schema=schema)
    with atomic_file(job.path, durable=False) as handle:
        pq.write_table(table, handle, compression="zstd", compression_level=1)
    return len(samples)


def _batches(
    samples: Samples, captions: dict[int, str] | None, most: int
) -> Iterator[tuple[list[int], list[Picture]]]:
    """Runs of pictures; the last one is empty when samples without a picture are left behind it."""
    rows: list[int] = []
    pictures: list[Picture] = []
    held, last = 0, -1
    for row, picture in read_pictures(samples, range(len(samples)), captions):
        rows.append(row)
        pictures.append(picture)
        held, last = held + len(picture.data), row
        if len(rows) >= most or held >= BATCH_BYTES:
            yield rows, pictures
            rows, pictures, held = [], [], 0
    if rows:
        yield rows, pictures
    if last < len(samples) - 1:
        yield [], []


def _why(pictures: list[Picture], at: int) -> str:
    if at < 0:
        return NO_PICTURE
    status = pictures[at].status
    return NO_SCORE if status in (None, "ok") else f"picture: {status}"


def _check(ref: ScorerRef, made: dict[str, Any], names: list[str], rows: int) -> None:
    if set(made) != set(names):
        raise UsageError(f"scorer {ref.name} gave {sorted(made)}, and declares {sorted(names)}")
    for name, values in made.items():
        if len(values) != rows:
            raise UsageError(f"scorer {ref.name} gave {len(values)} rows of {name} for {rows} pictures")


def _spread(values: Any, place: npt.NDArray[np.int64], kind: pa.DataType, rows: int) -> pa.Array:
    """Answers for pictures as a column of samples; NaN is null, as is a sample without a picture."""
    if values is None:
        return pa.nulls(len(place), kind)
    if isinstance(values, np.ndarray):
        array = pa.array(values, mask=np.isnan(values) if values.dtype.kind == "f" else None)
    else:
        array = values if isinstance(values, pa.Array) else pa.array(values)
    return array.cast(kind).take(pa.array(place, mask=place < 0))
