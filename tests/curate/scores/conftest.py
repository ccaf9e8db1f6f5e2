"""The recorded labels, shard by shard, beside the captions they belong to."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

POOLS = {"pool": 30_331, "pool_npz": 1_500}

Labelled = list[tuple[pa.RecordBatch, pa.Table]]


@pytest.fixture
def labelled(golden: Path) -> Labelled:
    """(captions, labels) of every shard, in row order; every recorded row comes exactly once."""
    shards: Labelled = []
    for pool, n_rows in POOLS.items():
        labels = pq.read_table(golden / f"{pool}_labels.parquet")
        seen = 0
        for path in sorted((golden / pool).glob("*.parquet")):
            batch = pq.read_table(path, columns=["text"]).combine_chunks().to_batches()[0]
            of_shard = labels.filter(pc.equal(labels["shard"].cast(pa.string()), path.stem)).sort_by("row")
            assert of_shard["row"].to_pylist() == list(range(batch.num_rows))
            seen += batch.num_rows
            shards.append((batch, of_shard))
        assert seen == n_rows
    return shards
