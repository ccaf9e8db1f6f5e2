"""Retrieval of a pool's pictures by curated queries, as DINOv2's data were made.

`mode: nearest` finds for each query the k rows of the pool with the largest cosine similarity (k = 4 as published). `mode: clusters`,
meant for few queries, samples `per_cluster` rows from each cluster of the pool that a query falls into (spherical k-means of the
scorer kmeans with `clusters` clusters; the sample is by a hash of uid and `seed`). Source: arXiv 2304.07193, section 3 (data
processing: self-supervised image retrieval).

nearest_rank is the best rank of a row among the queries that retrieved it, 0 being first (in clusters: its place in the sample), and
2147483647 for a row that none retrieved; nearest_similarity is its largest similarity to a query that retrieved it (in clusters: to
its centroid), -inf for a row that none retrieved. Similarities are added up in float64; ties go to the lowest uid.
A rule keeps what was retrieved by `sql: nearest_rank < 4`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.features import Floats, normalise
from curate.pool import Pool
from curate.pooldata import PoolData
from curate.scores import Cost
from curate.targets import Target, read_target, target_id
from headwater.errors import UsageError

SCOPE = "pool"
VERSION = 1
COLUMNS: tuple[str, ...] = ()
OUTPUT = {"nearest_rank": "int32", "nearest_similarity": "float32"}
COST: Cost = "costly"

NOT_RETRIEVED = 2**31 - 1
POOL_ROWS = 65_536
# the clause `sample` draws by the same hash of uid and seed: without a salt both would take the same rows
SALT = np.uint64(0x4E4541524553545F)  # "NEAREST_"


@dataclass(frozen=True)
class Config:
    """The queries and how many rows each retrieves."""

    features: str = field(default="l14_img", metadata={"help": "feature array of the pool"})
    target: Path | None = field(
        default=None, metadata={"help": "query embeddings: .npz, .npy, .parquet, a folder of them, or a pool"}
    )
    k: int = field(default=4, metadata={"help": "rows that each query retrieves (mode nearest)"})
    mode: str = field(
        default="nearest",
        metadata={
            "help": "retrieve the nearest rows, or sample clusters",
            "choices": ["nearest", "clusters"],
        },
    )
    clusters: int = field(default=100_000, metadata={"help": "clusters of the pool (mode clusters)"})
    per_cluster: int = field(default=10_000, metadata={"help": "rows sampled from a cluster that is hit"})
    seed: int = field(default=0, metadata={"help": "seed of clustering and sample (mode clusters)"})


class Scorer:
    """Retrieves."""

    def __init__(self, config: Config) -> None:
        if config.mode not in ("nearest", "clusters"):
            raise UsageError(f"mode is {config.mode!r}: nearest or clusters")
        for name in ("k", "clusters", "per_cluster"):
            if not 1 <= getattr(config, name) < 2**31:
                raise UsageError(f"{name} is {getattr(config, name)}, and must be at least 1")
        self.config = config
        self.identity = {"target": target_id(config.target, config.features)}
        if config.mode == "clusters":
            from curate.scores import kmeans

            self.identity["kmeans"] = str(kmeans.VERSION)

    def inputs(self, pool: Pool) -> dict[str, str]:
        from curate.features import open_features

        return {f"features:{self.config.features}": open_features(pool, self.config.features).id}

    def score_pool(self, data: PoolData) -> Iterator[dict[str, Any]]:
        from curate._closest import by_shard, per_row, usable_rows

        if not data.shards:
            return
        config = self.config
        features = data.features(config.features)
        target = read_target(config.target, width=features.width, array=config.features)
        rank = per_row(data, np.int32, NOT_RETRIEVED)
        similarity = per_row(data, np.float32, np.nan)
        for block in usable_rows(features, count=data):
            similarity[block.numbers] = -np.inf
        found = _nearest(data, target, config) if config.mode == "nearest" else _sampled(data, target, config)
        for numbers, ranks, values in found:
            np.minimum.at(rank, numbers, ranks.astype(np.int32))
            np.maximum.at(similarity, numbers, values.astype(np.float32))
        data.note("queries", target.used)
        data.note("queries_left_out", sum(target.left_out.values()))
        data.note("retrieved", int(np.count_nonzero(rank != NOT_RETRIEVED)))
        for columns in by_shard(data, {"nearest_rank": rank, "nearest_similarity": similarity}):
            missing = np.isnan(columns["nearest_similarity"])
            yield columns | {"nearest_rank": pa.array(columns["nearest_rank"], mask=missing)}


Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]


@dataclass
class Best:
    """The k best rows so far of some queries: similarity (n, k) descending, uid words, number in the pool (-1: none)."""

    value: npt.NDArray[np.float64]
    high: npt.NDArray[np.uint64]
    low: npt.NDArray[np.uint64]
    number: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, queries: int, k: int) -> Best:
        words = np.full((queries, k), 2**64 - 1, np.uint64)
        return cls(np.full((queries, k), -np.inf), words, words.copy(), np.full((queries, k), -1, np.int64))

    def merge(self, other: Best) -> None:
        """Take in the best rows of another part of the pool."""
        rows = np.flatnonzero((other.value >= self.value[:, -1:]).any(axis=1))
        both = [
            np.concatenate([mine[rows], theirs[rows]], axis=1)
            for mine, theirs in zip(self._columns(), other._columns(), strict=True)
        ]
        order = np.lexsort((both[2], both[1], -both[0]), axis=1)[:, : self.value.shape[1]]
        for mine, column in zip(self._columns(), both, strict=True):
            mine[rows] = np.take_along_axis(column, order, 1)

    def _columns(self) -> list[npt.NDArray[Any]]:
        return [self.value, self.high, self.low, self.number]


def _nearest(data: PoolData, target: Target, config: Config) -> Iterator[Found]:
    """Numbers, ranks and similarities of what each block of queries retrieves."""
    from curate._closest import chunk_rows, first_rows, passes, usable_rows
    from headwater.console import track

    features = data.features(config.features)
    # a query takes its row, and about 200 bytes for each row it may retrieve while two lists of them are merged
    queries = max(1, min(chunk_rows(data, target.width), data.memory_bytes // (4 * 200 * config.k)))
    pool_rows = min(POOL_ROWS, chunk_rows(data, target.width))
    starts = first_rows(features)
    with track("retrieve", total=features.rows * passes(target, queries), unit="rows") as bar:
        for chunk in target.blocks(queries):
            query = normalise(chunk.values)
            best = Best.empty(len(query), config.k)
            words, shard = np.zeros((0, 2), np.uint64), -1
            for block in usable_rows(features, unit=True, rows=pool_rows):
                if block.shard != shard:
                    shard, words = block.shard, data.uids(data.shards[block.shard])
                if len(block.numbers):
                    mine = words[block.numbers - starts[shard]]
                    best.merge(_of_block(query, block.values, mine, block.numbers, config.k))
                bar.add(len(block.numbers))
            there = best.number >= 0
            ranks = np.broadcast_to(np.arange(config.k), there.shape)
            yield best.number[there], ranks[there], best.value[there]


def _of_block(
    query: Floats, values: Floats, words: npt.NDArray[np.uint64], numbers: npt.NDArray[np.int64], k: int
) -> Best:
    from curate._closest import products
    from curate.products import top_k

    order = np.lexsort((words[:, 1], words[:, 0]))  # so that the lowest number is the lowest uid
    values = values[order]
    k = min(k, len(values))
    index, _ = top_k(query, values, k)
    value = np.empty(index.shape)
    for column in range(k):
        value[:, column] = products(query, values[index[:, column]])
    at = order[index]
    return Best(value, words[at, 0], words[at, 1], numbers[at])


def _sampled(data: PoolData, target: Target, config: Config) -> Iterator[Found]:
    """Numbers, places in the sample and similarities of rows sampled from the clusters that queries hit."""
    from curate._closest import chunk_rows, closest_of
    from curate.clauses import mix

    clustering = {"features": config.features, "k": config.clusters, "seed": config.seed, "spherical": True}
    stored = data.stored("kmeans", clustering)
    centroids = np.load(stored.artifact("centroids.npy"), mmap_mode="r", allow_pickle=False)
    hit = np.zeros(len(centroids), bool)
    step = chunk_rows(data, target.width, share=4)
    for chunk in target.blocks(chunk_rows(data, target.width)):
        if len(centroids):
            hit[closest_of(normalise(chunk.values), centroids, step)] = True
    data.note("clusters_hit", int(hit.sum()))
    held: list[npt.NDArray[Any]] = []
    first = 0
    seed = mix(np.array([config.seed & (2**64 - 1)], np.uint64) ^ SALT)
    for shard in data.shards:
        columns = stored.columns(shard)
        cluster = columns["cluster"].combine_chunks().fill_null(-1).to_numpy()
        value = columns["cluster_similarity"].combine_chunks().to_numpy(zero_copy_only=False)
        rows = np.flatnonzero((cluster >= 0) & (hit[cluster] if len(hit) else False))
        words = data.uids(shard)[rows]
        part = np.empty(len(rows), SAMPLED)
        part["cluster"], part["number"], part["value"] = cluster[rows], first + rows, value[rows]
        part["high"], part["low"] = words[:, 0], words[:, 1]
        part["hash"] = mix(words[:, 0] ^ mix(words[:, 1] ^ seed))
        held = [_first_of_each(np.concatenate([*held, part]), config.per_cluster)]
        first += shard.rows
    for part in held:
        begins = np.r_[True, part["cluster"][1:] != part["cluster"][:-1]] if len(part) else np.zeros(0, bool)
        yield part["number"], _places(begins), part["value"].astype(np.float64)


SAMPLED = np.dtype(
    [("cluster", "i4"), ("hash", "u8"), ("high", "u8"), ("low", "u8"), ("number", "i8"), ("value", "f4")]
)


def _first_of_each(rows: npt.NDArray[Any], most: int) -> npt.NDArray[Any]:
    """The `most` rows with the lowest hash of each cluster, ordered by cluster, hash and uid."""
    rows = rows[np.lexsort((rows["low"], rows["high"], rows["hash"], rows["cluster"]))]
    begins = np.r_[True, rows["cluster"][1:] != rows["cluster"][:-1]] if len(rows) else np.zeros(0, bool)
    return np.asarray(rows[_places(begins) < most])


def _places(begins: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """How far each row stands behind the last one that begins something."""
    at = np.arange(len(begins))
    return np.asarray(at - np.maximum.accumulate(np.where(begins, at, 0)), np.int64)
