"""Rows whose cluster is also one of a target's: DataComp's image-based filter, for any target.

Each row of the pool and each row of the target goes to the centroid of its largest inner product; nothing is scaled. A row is in
the target when its centroid is that of at least one target row. Source: DataComp, arXiv 2304.14108, section 3.4 and its code at
4a8df19: 100,000 centroids by k-means (L2, 20 iterations, seed 0) of l14_img over rows that pass the caption filter (`train_subset`;
without it all rows train), and ImageNet-1k's training pictures as the target.

`centroids` names an .npy of (k, width) made elsewhere; else the scorer kmeans makes them, and its scores are used again. The numbers
of the centroids that the target hits are kept as target_clusters.npy. A rule keeps rows by `sql: in_target`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.pool import Pool
from curate.pooldata import RECORD, PoolData, Stored
from curate.scores import Cost
from curate.targets import Target, read_target, target_id
from headwater.errors import MissingInput, UsageError

SCOPE = "pool"
VERSION = 1
COLUMNS: tuple[str, ...] = ()
OUTPUT = {"in_target": "bool", "target_cluster": "int32"}
COST: Cost = "costly"


@dataclass(frozen=True)
class Config:
    """What the target is and how clusters are made."""

    features: str = field(default="l14_img", metadata={"help": "feature array of the pool"})
    target: Path | None = field(
        default=None,
        metadata={"help": "target embeddings: .npz, .npy, .parquet, a folder of them, or a pool"},
    )
    centroids: Path | None = field(
        default=None, metadata={"help": "centroids .npy; without it k-means is run"}
    )
    k: int = field(default=100_000, metadata={"help": "clusters, when they are made here"})
    iterations: int = field(default=20, metadata={"help": "rounds of training"})
    seed: int = field(default=0, metadata={"help": "seed of the training"})
    train_subset: Path | None = field(default=None, metadata={"help": "subset .npy: only its rows train"})


class Scorer:
    """Assigns pool and target to centroids and compares."""

    def __init__(self, config: Config) -> None:
        from curate.scores import kmeans

        if config.centroids is not None and config.train_subset is not None:
            raise UsageError("train_subset says what trains, but with centroids nothing is trained")
        self.config = config
        self.identity = {"target": target_id(config.target, config.features), "kmeans": str(kmeans.VERSION)}
        for name in ("centroids", "train_subset"):
            path: Path | None = getattr(config, name)
            if path is not None:
                self.identity[name] = _digest(name, path)

    def inputs(self, pool: Pool) -> dict[str, str]:
        from curate.features import open_features

        return {f"features:{self.config.features}": open_features(pool, self.config.features).id}

    def score_pool(self, data: PoolData) -> Iterator[dict[str, Any]]:
        config = self.config
        if not data.shards:
            return
        width = data.features(config.features).width
        target = read_target(config.target, width=width, array=config.features)
        stored = data.stored("kmeans", self._clustering())
        centroids = np.load(stored.artifact("centroids.npy"), mmap_mode="r", allow_pickle=False)
        hit = hit_centroids(data, target, centroids)
        from headwater.files import atomic_file

        with atomic_file(data.artifact("target_clusters.npy")) as handle:
            np.save(handle, np.flatnonzero(hit))
        data.note("target_rows", target.used)
        data.note("target_rows_left_out", sum(target.left_out.values()))
        data.note("clusters", len(hit))
        data.note("target_clusters", int(hit.sum()))
        for reason, rows in _invalid(stored).items():
            data.invalid(reason, rows)
        for shard in data.shards:
            cluster = stored.columns(shard)["cluster"].combine_chunks()
            found = cluster.fill_null(0).to_numpy()
            inside = hit[found] if len(hit) else np.zeros(len(found), bool)
            missing = cluster.is_null().to_numpy(zero_copy_only=False)
            yield {"in_target": pa.array(inside, mask=missing), "target_cluster": cluster}

    def _clustering(self) -> dict[str, Any]:
        config = self.config
        if (
            config.centroids is not None
        ):  # nothing is trained, so nothing of the training is part of the identity
            return {"features": config.features, "centroids": config.centroids}
        made = {name: getattr(config, name) for name in ("features", "k", "iterations", "seed")}
        return made if config.train_subset is None else made | {"train_subset": config.train_subset}


def hit_centroids(
    data: PoolData, target: Target, centroids: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """(k,) which centroids have the largest inner product with some row of the target."""
    from curate._closest import chunk_rows, closest_of

    hit = np.zeros(len(centroids), bool)
    step = chunk_rows(data, target.width, share=4)
    for block in target.blocks(chunk_rows(data, target.width)):
        if len(centroids):
            hit[closest_of(block.values, centroids, step)] = True
    return hit


def _invalid(stored: Stored) -> dict[str, int]:
    """Why rows have no cluster, as the record of the clustering says."""
    record = json.loads(stored.artifact(RECORD).read_bytes())
    return {str(k): int(v) for k, v in record["identity"]["counts"]["invalid"].items()}


def _digest(name: str, path: Path) -> str:
    from headwater.hashing import digest_file

    if not path.is_file():
        raise MissingInput(f"{name} {path}: no such file")
    return digest_file(path, ("sha256",)).sha256
