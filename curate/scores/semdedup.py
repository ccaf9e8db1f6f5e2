"""SemDeDup: how near a row is to one of its cluster that is kept before it.

Source: arXiv 2303.09540 and its published code. Spherical k-means; the rows of a cluster are put in the order in which they are
kept; each is compared with all earlier ones, kept or not. A rule then drops the rows above 1 - eps:

    sql: semdedup_similarity <= 0.95
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from curate._chunked import best_earlier
from curate._clusters import Clusters, check_choice, check_least, inputs_of, kmeans_settings, subset_identity
from curate._grouped import KEEP, Grouped, RowStore, keep_order, uid_array
from curate.pool import Pool
from curate.pooldata import PoolData
from curate.scores import Cost
from headwater.console import track

SCOPE = "pool"
VERSION = 1
COLUMNS: tuple[str, ...] = ()
OUTPUT = {"semdedup_similarity": "float32", "semdedup_of": "string"}
COST: Cost = "costly"

FIRST = -1.0  # the similarity of a row that has no earlier one
OUTSIDE = float("inf")  # of a row outside the subset: no threshold keeps it


@dataclass(frozen=True)
class Config:
    """Which rows are compared, and which of two is kept."""

    features: str = field(default="l14_img", metadata={"help": "feature array that is compared"})
    k: int = field(
        default=0,
        metadata={"help": "clusters; 0: one for every 1,000 rows (published: 50,000 for 440 M rows)"},
    )
    iterations: int = field(default=20, metadata={"help": "rounds of k-means (published: 100)"})
    seed: int = field(default=0, metadata={"help": "of the clusters, and of the order with --keep random"})
    keep: str = field(
        default="hard",
        metadata={
            "help": "which rows come first: farthest from the centroid (hard, published), nearest (easy) or random",
            "choices": KEEP,
        },
    )
    subset: Path | None = field(
        default=None, metadata={"help": "subset .npy: only its rows are compared, all others get infinity"}
    )


class Scorer:
    """Largest cosine with an earlier row of the cluster, and that row's uid.

    `semdedup_similarity` is -1 for the first row of a cluster; among equal cosines `semdedup_of` is the row that is kept first.
    Equal similarities to the centroid are ordered by uid.
    """

    def __init__(self, config: Config) -> None:
        check_choice("semdedup", "keep", config.keep, KEEP)
        check_least("semdedup", config, k=0, iterations=1)
        self.config = config
        self.identity = subset_identity(config.subset)

    def inputs(self, pool: Pool) -> dict[str, str]:
        """Ids of the features and of the clusters."""
        return inputs_of(pool, self.config.features, kmeans_settings(self.config, pool))

    def score_pool(self, data: PoolData) -> Iterator[dict[str, Any]]:
        """One dict of columns a shard."""
        config = self.config
        kmeans = kmeans_settings(config, data.pool)
        grouped = Grouped(Clusters(data, config.features, kmeans=kmeans, subset=config.subset))
        store = RowStore(
            data,
            [("similarity", "<f4"), ("hi", "<u8"), ("lo", "<u8"), ("lone", "?")],
            {"similarity": OUTSIDE},
        )
        store.values["lone"] = True
        pairs = 0
        with track("compare within clusters", total=grouped.rows, unit="rows") as bar:
            for cluster in np.flatnonzero(grouped.sizes).tolist():
                members = grouped.members(cluster)
                order = keep_order(members, config.keep, config.seed)
                value, earlier = best_earlier(grouped.vectors(cluster, order), grouped.chunk)
                members = members[order]
                found = np.zeros(len(members), store.values.dtype)
                found["similarity"] = np.where(earlier < 0, FIRST, value)
                found["hi"], found["lo"] = members["hi"][earlier], members["lo"][earlier]
                found["lone"] = earlier < 0
                store.values[members["row"]] = found
                pairs += len(members) * (len(members) - 1) // 2
                bar.add(len(members))
        data.note("clusters", len(grouped.sizes))
        data.note("largest_cluster", int(grouped.sizes.max(initial=0)))
        data.note("pairs", pairs)
        for rows, invalid in zip(store.shards(), grouped.invalid(), strict=True):
            yield {
                "semdedup_similarity": np.where(invalid, np.float32(np.nan), rows["similarity"]),
                "semdedup_of": uid_array(rows["hi"], rows["lo"], rows["lone"]),
            }
