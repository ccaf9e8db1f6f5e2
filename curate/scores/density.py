"""Density-based pruning: how many rows each cluster may keep, more where it is complex, and the place of each row in its cluster.

Source: arXiv 2401.04578, section 3, and its published code. Complexity of a cluster = mean distance of its centroid to the nearest 20
others x mean distance of its rows to the centroid (distance = 1 - cosine); shares are a softmax over complexities; the numbers
kept lie nearest to the shares among those that the sizes allow. Rows far from the centroid come first:

    sql: density_rank < density_quota

Best after SemDeDup, whose duplicates otherwise make clusters look simple: give its result as --subset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from curate._clusters import Clusters, check_choice, check_least, inputs_of, kmeans_settings, subset_identity
from curate._density import MeanDistance, inter_distance, quotas, shares
from curate._grouped import KEEP, Grouped, RowStore, keep_order
from curate.pool import Pool
from curate.pooldata import PoolData
from curate.scores import Cost
from headwater.errors import UsageError

SCOPE = "pool"
VERSION = 1
COLUMNS: tuple[str, ...] = ()
OUTPUT = {"density_rank": "int32", "density_quota": "int32"}
COST: Cost = "costly"

OUTSIDE = np.iinfo(np.int32).max  # the rank of a row outside the subset


@dataclass(frozen=True)
class Config:
    """Which clusters, and how many rows are kept in all."""

    features: str = field(
        default="l14_img", metadata={"help": "feature array that is clustered (published: DINOv2)"}
    )
    fraction: float = field(
        default=0.5, metadata={"help": "share of the rows (of the subset) that is kept in all"}
    )
    k: int = field(
        default=100,
        metadata={"help": "clusters (published for DataComp medium: 100); 0: one for every 1,000 rows"},
    )
    temperature: float = field(
        default=0.5, metadata={"help": "of the softmax; lower favours complex clusters"}
    )
    neighbours: int = field(default=20, metadata={"help": "nearest centroids that d_inter looks at"})
    min_per_cluster: int = field(
        default=1, metadata={"help": "rows kept of every cluster, where it has them"}
    )
    iterations: int = field(default=20, metadata={"help": "rounds of k-means"})
    seed: int = field(default=0, metadata={"help": "of the clusters, and of the order with --keep random"})
    keep: str = field(
        default="hard",
        metadata={
            "help": "which rows come first: far from the centroid (hard, published), near it (easy) or random",
            "choices": KEEP,
        },
    )
    subset: Path | None = field(
        default=None, metadata={"help": "subset .npy: only its rows are clustered, counted and kept"}
    )


class Scorer:
    """Rank within the cluster (0 is kept first; ties by uid; the largest int32 outside the subset) and the cluster's quota."""

    def __init__(self, config: Config) -> None:
        check_choice("density", "keep", config.keep, KEEP)
        check_least("density", config, k=0, iterations=1, neighbours=1, min_per_cluster=0)
        if not 0 < config.fraction <= 1:
            raise UsageError(
                f"scorer density: fraction is {config.fraction:g}, and must be above 0 and at most 1"
            )
        if not config.temperature > 0:
            raise UsageError(f"scorer density: temperature is {config.temperature:g}, and must be above 0")
        self.config = config
        self.identity = subset_identity(config.subset)

    def inputs(self, pool: Pool) -> dict[str, str]:
        """Ids of the features and of the clusters."""
        return inputs_of(pool, self.config.features, kmeans_settings(self.config, pool))

    def score_pool(self, data: PoolData) -> Iterator[dict[str, Any]]:
        """One dict of columns a shard."""
        config = self.config
        kmeans = kmeans_settings(config, data.pool)
        clusters = Clusters(data, config.features, kmeans=kmeans, subset=config.subset)
        grouped = Grouped(clusters, vectors=False)
        store = RowStore(data, [("rank", "<i4"), ("quota", "<i4")], {"rank": OUTSIDE})
        distance = MeanDistance(len(grouped.sizes))
        used = np.flatnonzero(grouped.sizes)
        for cluster in used.tolist():
            members = grouped.members(cluster)
            distance.add(np.full(len(members), cluster), members["similarity"])
        complexity = distance.means
        complexity[used] *= inter_distance(clusters.centroids()[used], config.neighbours)
        share = np.zeros(len(complexity))
        share[used] = shares(complexity[used], config.temperature)
        quota = quotas(share, grouped.sizes, int(config.fraction * grouped.rows), config.min_per_cluster)
        for cluster in used.tolist():
            members = grouped.members(cluster)
            rank = np.empty(len(members), np.int32)
            rank[keep_order(members, config.keep, config.seed)] = np.arange(len(members), dtype=np.int32)
            store.values["rank"][members["row"]] = rank
            store.values["quota"][members["row"]] = quota[cluster]
        data.note("clusters", len(used))
        data.note("kept", int(quota.sum()))
        data.note("complexity", [round(float(c), 6) for c in complexity[:1000]])
        data.note("quota", quota[:1000].tolist())
        for rows, invalid in zip(store.shards(), grouped.invalid(), strict=True):
            yield {name: _masked(rows[name[8:]], invalid) for name in OUTPUT}


def _masked(values: Any, invalid: Any) -> Any:
    import pyarrow as pa

    return pa.array(values, mask=invalid)
