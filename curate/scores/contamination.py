"""How close each picture comes to one of an evaluation set, by features, and a list of what matched.

contamination_similarity is the largest cosine similarity of a row to any row of the evaluation set (added up in float64, given as
float32), contamination_of the id of that row: its uid, or FILE:ROW; of equal ones the first. Every pair at or above `report_at`
is written to matches.parquet beside the scores (uid, contamination_of, similarity; by uid, then the most similar first), at most
`most_per_row` a row, so that a person can look at what would be dropped.

A rule: `sql: contamination_similarity < 0.604169`, which is DataComp's threshold for descriptors of ISC-FT (arXiv 2304.14108,
appendix; the array `dedup` of its pools). Other features need a threshold of their own: look at matches.parquet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate.features import Features, Floats, normalise
from curate.pool import Pool
from curate.pooldata import PoolData
from curate.scores import Cost
from curate.targets import Target, read_target, target_id
from headwater.errors import UsageError

SCOPE = "pool"
VERSION = 1
COLUMNS: tuple[str, ...] = ()
OUTPUT = {"contamination_similarity": "float32", "contamination_of": "string"}
COST: Cost = "costly"

MATCHES = "matches.parquet"
SCHEMA = pa.schema([("uid", pa.string()), ("contamination_of", pa.string()), ("similarity", pa.float32())])
TILE_BYTES = 32 << 20
SLACK = 1e-3  # by which a single-precision product of unit rows may be off, generously

PAIR = np.dtype([("row", "i8"), ("value", "f4"), ("number", "i8")])


@dataclass(frozen=True)
class Config:
    """The evaluation set and what is reported."""

    features: str = field(default="dedup", metadata={"help": "feature array of the pool"})
    target: Path | None = field(
        default=None,
        metadata={
            "help": "embeddings of the evaluation set: .npz, .npy, .parquet, a folder of them, or a pool"
        },
    )
    report_at: float = field(default=0.6, metadata={"help": "similarity from which a pair is listed"})
    most_per_row: int = field(
        default=1000, metadata={"help": "pairs of one row that are listed, the best first"}
    )


class Scorer:
    """Compares every row with every row of the evaluation set."""

    def __init__(self, config: Config) -> None:
        if config.most_per_row < 1:
            raise UsageError(f"most_per_row is {config.most_per_row}, and must be at least 1")
        self.config = config
        self.identity = {"target": target_id(config.target, config.features)}

    def inputs(self, pool: Pool) -> dict[str, str]:
        from curate.features import open_features

        return {f"features:{self.config.features}": open_features(pool, self.config.features).id}

    def score_pool(self, data: PoolData) -> Iterator[dict[str, Any]]:
        from curate._closest import by_shard, chunk_rows, closest
        from headwater.files import atomic_file

        config = self.config
        if not data.shards:
            return
        features = data.features(config.features)
        target = read_target(config.target, width=features.width, array=config.features)
        step = chunk_rows(data, features.width)
        best, number = closest(data, features, target, unit=True)
        counts = np.zeros(3, np.int64)  # rows that match, pairs, pairs that are not listed
        with (
            atomic_file(data.artifact(MATCHES)) as handle,
            pq.ParquetWriter(handle, SCHEMA, compression="zstd", compression_level=1) as writer,
        ):
            flagged = _flagged(data, best, config.report_at)
            counts[0] = len(flagged)
            size = max(1, min(step, data.memory_bytes // (8 * 3 * PAIR.itemsize * config.most_per_row)))
            for first in range(0, len(flagged), size):
                counts[1:] += _write_pairs(
                    writer, data, features, target, flagged[first : first + size], config
                )
        data.note("evaluation_rows", target.used)
        data.note("evaluation_rows_left_out", sum(target.left_out.values()))
        data.note("rows_that_match", int(counts[0]))
        data.note("pairs_that_match", int(counts[1]))
        data.note("pairs_not_listed", int(counts[2]))
        for columns in by_shard(data, {"similarity": best, "number": number}):
            yield {
                "contamination_similarity": columns["similarity"].astype(np.float32),
                "contamination_of": target.labels(columns["number"]),
            }


FLAGGED = np.dtype([("high", "u8"), ("low", "u8"), ("shard", "i4"), ("row", "i8")])


def _flagged(data: PoolData, best: npt.NDArray[np.float64], least: float) -> npt.NDArray[Any]:
    """Where the rows lie whose similarity is at least `least`, by uid."""
    parts = [np.zeros(0, FLAGGED)]
    first = 0
    for at, shard in enumerate(data.shards):
        rows = np.flatnonzero(best[first : first + shard.rows].astype(np.float32) >= np.float32(least))
        if len(rows):
            part = np.empty(len(rows), FLAGGED)
            words = data.uids(shard)[rows]
            part["high"], part["low"], part["shard"], part["row"] = words[:, 0], words[:, 1], at, rows
            parts.append(part)
        first += shard.rows
    found = np.concatenate(parts)
    return np.asarray(found[np.lexsort((found["row"], found["shard"], found["low"], found["high"]))])


def _write_pairs(
    writer: pq.ParquetWriter,
    data: PoolData,
    features: Features,
    target: Target,
    rows: npt.NDArray[Any],
    config: Config,
) -> tuple[int, int]:
    """Write the pairs of some rows; returns how many there are and how many of them were not written."""
    from curate._closest import chunk_rows
    from curate.subset import to_hex

    values = np.empty((len(rows), features.width), np.float32)
    for shard in np.unique(rows["shard"]):
        mine = np.flatnonzero(rows["shard"] == shard)
        values[mine] = normalise(features.take(int(shard), rows["row"][mine]))
    held = np.zeros(0, PAIR)
    seen = 0
    for chunk in target.blocks(chunk_rows(data, features.width)):
        for pairs in _pairs(values, normalise(chunk.values), chunk.numbers, config.report_at):
            seen += len(pairs)
            held = np.concatenate([held, pairs])
            if len(held) > 2 * config.most_per_row * len(rows):
                held = _best_pairs(held, config.most_per_row)
    held = _best_pairs(held, config.most_per_row)
    for first in range(0, len(held), 1 << 16):
        part = held[first : first + (1 << 16)]
        at = rows[part["row"]]
        uids = to_hex(np.stack([at["high"], at["low"]], axis=1))
        labels = target.labels(part["number"])
        writer.write_table(pa.table([pa.array(uids, pa.string()), labels, part["value"]], schema=SCHEMA))
    return seen, seen - len(held)


def _pairs(
    rows: Floats, others: Floats, numbers: npt.NDArray[np.int64], least: float
) -> Iterator[npt.NDArray[Any]]:
    """Pairs of unit rows whose similarity, as float32, is at least `least`."""
    from curate._closest import products

    step = max(1, TILE_BYTES // (4 * max(len(others), 1)))
    for first in range(0, len(rows), step):
        i, j = np.nonzero(rows[first : first + step] @ others.T >= np.float32(least - SLACK))
        pairs = np.empty(len(i), PAIR)
        pairs["row"], pairs["number"] = first + i, numbers[j]
        for start in range(0, len(i), 1 << 16):
            some = slice(start, start + (1 << 16))
            pairs["value"][some] = products(rows[first + i[some]], others[j[some]])
        yield pairs[pairs["value"] >= np.float32(least)]


def _best_pairs(pairs: npt.NDArray[Any], most: int) -> npt.NDArray[Any]:
    """The `most` best pairs of each row, by row, similarity (descending) and place in the evaluation set."""
    pairs = pairs[np.lexsort((pairs["number"], -pairs["value"], pairs["row"]))]
    at = np.arange(len(pairs))
    begins = np.r_[True, pairs["row"][1:] != pairs["row"][:-1]] if len(pairs) else np.zeros(0, bool)
    return np.asarray(pairs[at - np.maximum.accumulate(np.where(begins, at, 0)) < most])
