"""Balanced sampling from hierarchical k-means: the order in which rows are drawn, evenly over clusters of clusters.

Source: arXiv 2405.15613. Levels of clusters, each of the centroids below; a budget is shared from the top so that every cluster
gives as many rows as the others, or all it has. Samples are nested, so one order answers every budget:

    sql: hierarchy_rank < 10000          or as a share of the pool          sql: hierarchy_share < 0.1

Best after duplicates are gone: give the rows that are left as --subset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from curate._clusters import Clusters, check_choice, check_least, inputs_of, kmeans_settings, subset_identity
from curate._grouped import Grouped, RowStore, keep_order
from curate.hierarchy import Order, parse_levels, resampled_kmeans
from curate.pool import Pool
from curate.pooldata import PoolData
from curate.scores import Cost
from headwater.files import atomic_file

SCOPE = "pool"
VERSION = 1
COLUMNS: tuple[str, ...] = ()
OUTPUT = {"hierarchy_rank": "int64", "hierarchy_share": "double", "hierarchy_cluster": "int32"}
COST: Cost = "costly"

PICK = ["random", "nearest"]
OUTSIDE = np.iinfo(np.int64).max  # the rank of a row outside the subset; its share is 1


@dataclass(frozen=True)
class Config:
    """Levels of clusters, and which rows of a lowest cluster come first."""

    features: str = field(
        default="l14_img", metadata={"help": "feature array that is clustered (published: DINOv2)"}
    )
    levels: str = field(
        default="1000,100,10",
        metadata={"help": "clusters of each level, from the lowest up, each fewer than before"},
    )
    rounds: int = field(
        default=10,
        metadata={"help": "resampling rounds on every level but the lowest (published: 10); 0: none"},
    )
    points: int = field(
        default=0,
        metadata={"help": "centroids a cluster in a resampling round; 0: half the mean size (published)"},
    )
    iterations: int = field(default=20, metadata={"help": "rounds of k-means (published: 50)"})
    seed: int = field(default=0, metadata={"help": "of the clusters, and of the order with --pick random"})
    pick: str = field(
        default="random",
        metadata={
            "help": "which rows of a lowest cluster come first: by a hash, or nearest to the centroid",
            "choices": PICK,
        },
    )
    subset: Path | None = field(
        default=None,
        metadata={"help": "subset .npy: only its rows are clustered and drawn; all others come last"},
    )


class Scorer:
    """Place of each row in the order (0 is drawn first), that place / rows drawn from, and its lowest cluster.

    Cosine distances on all levels. `parents.npz` beside the scores holds the cluster above of each cluster, level by level.
    """

    def __init__(self, config: Config) -> None:
        check_choice("hierarchy", "pick", config.pick, PICK)
        check_least("hierarchy", config, rounds=0, points=0, iterations=1)
        self.config = config
        self.levels = parse_levels(config.levels)
        self.identity = subset_identity(config.subset)

    def _kmeans(self, pool: Pool) -> dict[str, Any]:
        config = self.config
        lowest = SimpleNamespace(
            features=config.features,
            k=self.levels[0],
            iterations=config.iterations,
            seed=config.seed,
            subset=config.subset,
        )
        return kmeans_settings(lowest, pool)

    def inputs(self, pool: Pool) -> dict[str, str]:
        """Ids of the features and of the lowest clusters."""
        return inputs_of(pool, self.config.features, self._kmeans(pool))

    def score_pool(self, data: PoolData) -> Iterator[dict[str, Any]]:
        """One dict of columns a shard."""
        config = self.config
        clusters = Clusters(data, config.features, kmeans=self._kmeans(data.pool), subset=config.subset)
        grouped = Grouped(clusters, vectors=False)
        store = RowStore(
            data,
            [("rank", "<i8"), ("share", "<f8"), ("cluster", "<i4")],
            {"rank": OUTSIDE, "share": 1.0, "cluster": -1},
        )
        parents = self._above(clusters)
        order = Order(grouped.sizes, parents)
        keep = "easy" if config.pick == "nearest" else "random"
        for cluster in np.flatnonzero(grouped.sizes).tolist():
            members = grouped.members(cluster)
            members = members[keep_order(members, keep, config.seed)]
            found = np.empty(len(members), store.values.dtype)
            found["rank"] = order.numbers(cluster, np.arange(len(members)))
            found["share"] = found["rank"] / grouped.rows
            found["cluster"] = cluster
            store.values[members["row"]] = found
        with atomic_file(data.artifact("parents.npz")) as handle:
            np.savez(handle, **{f"level_{n + 2}": parent for n, parent in enumerate(parents)})
        data.note("rows_drawn_from", grouped.rows)
        data.note("clusters", [len(grouped.sizes), *(int(p.max(initial=-1)) + 1 for p in parents)])
        for rows, invalid in zip(store.shards(), grouped.invalid(), strict=True):
            yield {name: pa.array(rows[name[10:]], mask=invalid) for name in OUTPUT}

    def _above(self, clusters: Clusters) -> list[Any]:
        """Per level above the lowest: the cluster of each cluster below."""
        points, parents = clusters.centroids(), []
        for k in self.levels[1:]:
            points, label = resampled_kmeans(
                points,
                k,
                rounds=self.config.rounds,
                points_per_cluster=self.config.points,
                iterations=self.config.iterations,
                seed=self.config.seed,
            )
            parents.append(label)
        return parents
