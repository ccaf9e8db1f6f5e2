"""Writes a ledger's tables: seen.parquet, how often each readable sample was seen, and curve.parquet, one row per step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from headwater.files import atomic_file
from train._ledger_sum import keys_of

if TYPE_CHECKING:
    import pyarrow as pa

    from train.ledger import Ledger

ROWS_AT_ONCE = 1 << 18


def seen_rows(
    ledger: Ledger,
) -> Iterator[tuple[str, npt.NDArray[np.int32], Sequence[str] | None, npt.NDArray[np.int32]]]:
    """Per shard: its name, ordinals of its readable samples, all its keys by ordinal (or None), and times seen; also those of 0."""
    start = 0
    for shard in ledger.shards:
        low, high = np.searchsorted(ledger.unread, (start, start + shard.samples))
        times = ledger.times[start : start + shard.samples]
        readable = np.ones(shard.samples, bool)
        readable[ledger.unread[low:high] - start] = False
        samples = np.flatnonzero(readable).astype(np.int32)
        yield shard.name, samples, keys_of(shard), times[samples]
        start += shard.samples


def write_seen(path: Path, ledger: Ledger) -> int:
    """Write seen.parquet (shard string, sample int32, key string or null, times_seen int32), zstd; returns the rows.

    Whole shards go into one row group until it has 262,144 rows, so memory does not grow with the data.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [
        ("shard", pa.string()),
        ("sample", pa.int32()),
        ("key", pa.string()),
        ("times_seen", pa.int32()),
    ]
    schema = pa.schema(fields)
    held: list[pa.RecordBatch] = []
    total = waiting = 0
    with (
        atomic_file(path) as handle,
        pq.ParquetWriter(handle, schema, compression="zstd", compression_level=1) as writer,
    ):
        for name, samples, keys, times in seen_rows(ledger):
            key = (
                pa.nulls(len(samples), pa.string())
                if keys is None
                else pa.array(keys, pa.string()).take(samples)
            )
            columns = [pa.repeat(pa.scalar(name), len(samples)), pa.array(samples), key, pa.array(times)]
            held.append(pa.record_batch(columns, schema=schema))
            waiting += len(samples)
            if waiting >= ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_batches(held, schema), row_group_size=waiting)
                total, waiting, held = total + waiting, 0, []
        if waiting:
            writer.write_table(pa.Table.from_batches(held, schema), row_group_size=waiting)
    return total + waiting


def write_curve(path: Path, ledger: Ledger) -> None:
    """Write curve.parquet: step int32, samples int64, loss, lr and logit_scale float32; one row per optimizer step."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    curve = ledger.curve
    columns = {name: getattr(curve, name) for name in ("step", "samples", "loss", "lr", "logit_scale")}
    with atomic_file(path) as handle:
        pq.write_table(pa.table(columns), handle, compression="zstd", compression_level=1)
