"""Copies: groups of rows that are joined by chains of near neighbours, as DINOv2's data were freed of copies.

Source: arXiv 2304.07193, appendix A.3: the 64 nearest neighbours by cosine of features made for copy detection, those above 0.6,
connected components, one row kept of each. `copy_group` is the lowest uid of the component (its own for a row alone), so that

    dedup: {by: [copy_group], order: {clip_l14_similarity_score: desc}}

keeps the best row of each group. All pairs of the pool are looked at, unless --clusters limits them: that answer is approximate,
and its record tells the recall on a sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from curate._clusters import Clusters, check_least, inputs_of, kmeans_settings, subset_identity
from curate._components import Components
from curate._copies import exact_neighbours, nearby_neighbours
from curate._grouped import MEMBER, Grouped, RowStore, keep_order, uid_array
from curate.pool import Pool
from curate.pooldata import PoolData
from curate.scores import Cost
from headwater.console import say
from headwater.errors import UsageError

SCOPE = "pool"
VERSION = 1
COLUMNS: tuple[str, ...] = ()
OUTPUT = {"copy_group": "string", "copy_neighbours": "int32"}
COST: Cost = "costly"

SAMPLE = 256  # rows whose neighbours are counted by brute force where clusters limit the search
MUCH_WORK = 1e15  # operations: some hours of one core


@dataclass(frozen=True)
class Config:
    """Which rows are neighbours, and among which they are looked for."""

    features: str = field(
        default="dedup", metadata={"help": "feature array that is compared; best one made for copy detection"}
    )
    threshold: float = field(
        default=0.6, metadata={"help": "neighbours have a cosine above this (published: 0.6)"}
    )
    neighbours: int = field(
        default=64,
        metadata={"help": "nearest rows that are looked at (published: 64); 0: all above the threshold"},
    )
    clusters: int = field(
        default=0,
        metadata={
            "help": "look only within k-means clusters and those near them (approximate); 0: the whole pool"
        },
    )
    nearby: int = field(
        default=8, metadata={"help": "with --clusters: how many near clusters each is compared with"}
    )
    iterations: int = field(default=20, metadata={"help": "with --clusters: rounds of k-means"})
    seed: int = field(default=0, metadata={"help": "with --clusters: of the clusters and the sample"})
    subset: Path | None = field(
        default=None, metadata={"help": "subset .npy: only its rows are compared, all others stay alone"}
    )


class Scorer:
    """Group of each row, and how many neighbours above the threshold it has (among its nearest, when those are limited)."""

    def __init__(self, config: Config) -> None:
        check_least("copies", config, threshold=-1, neighbours=0, clusters=0, nearby=0, iterations=1)
        if config.clusters and config.neighbours:
            raise UsageError(
                "scorer copies: clusters looks at all pairs above the threshold, and takes no limit of neighbours",
                hint="add --neighbours 0",
            )
        self.config = config
        self.identity = subset_identity(config.subset)

    def _kmeans(self, pool: Pool) -> dict[str, Any] | None:
        config = self.config
        if not config.clusters:
            return None
        settings = SimpleNamespace(
            features=config.features,
            k=config.clusters,
            iterations=config.iterations,
            seed=config.seed,
            subset=config.subset,
        )
        return kmeans_settings(settings, pool)

    def inputs(self, pool: Pool) -> dict[str, str]:
        """Ids of the features and, if asked for, of the clusters."""
        return inputs_of(pool, self.config.features, self._kmeans(pool))

    def score_pool(self, data: PoolData) -> Iterator[dict[str, Any]]:
        """One dict of columns a shard."""
        config = self.config
        clusters = Clusters(data, config.features, kmeans=self._kmeans(data.pool), subset=config.subset)
        grouped = Grouped(clusters)
        # nodes of the graph are rows by uid, so that the smallest node of a component has its lowest uid
        members = [grouped.members(cluster) for cluster in range(len(grouped.sizes))]
        every = np.concatenate(members) if members else np.zeros(0, MEMBER)
        order = np.lexsort((every["row"], every["lo"], every["hi"]))
        node = np.empty(len(order), np.int64)
        node[order] = np.arange(len(order))
        graph, degree = Components(len(order)), np.zeros(len(order), np.int64)
        if config.clusters:
            sample = keep_order(every, "random", config.seed)[:SAMPLE]
            recall = nearby_neighbours(grouped, node, sample, config, graph, degree)
            data.note(
                "approximate", f"only within {len(grouped.sizes)} clusters and {config.nearby} near each"
            )
            data.note("recall_on_sample", recall)
        elif len(order):
            work = 2 * grouped.width * len(order) * (len(order) - 1) // 2
            if work > MUCH_WORK:
                say(
                    "warning",
                    f"{len(order):,} rows are compared with each other: {work:.1g} operations; --clusters N --neighbours 0 "
                    "looks only near each row",
                )
            rows = grouped.vectors(0, order)
            exact_neighbours(
                rows, grouped.chunk, config.threshold, config.neighbours, graph, degree, data.scratch
            )
        label = graph.labels()
        data.note("groups", int((label == np.arange(len(label))).sum()))
        data.note("copies", int((label != np.arange(len(label))).sum()))
        store = RowStore(data, [("hi", "<u8"), ("lo", "<u8"), ("neighbours", "<i4")], {})
        self._own(data, store)
        first = every[order[label]]
        places = every["row"][order]
        for name in ("hi", "lo"):
            store.values[name][places] = first[name]
        store.values["neighbours"][places] = degree
        for found, invalid in zip(store.shards(), grouped.invalid(), strict=True):
            yield {
                "copy_group": uid_array(found["hi"], found["lo"], invalid),
                "copy_neighbours": pa.array(found["neighbours"], mask=invalid),
            }

    @staticmethod
    def _own(data: PoolData, store: RowStore) -> None:
        first = 0
        for shard in data.shards:
            uids = data.uids(shard)
            store.values["hi"][first : first + shard.rows] = uids[:, 0]
            store.values["lo"][first : first + shard.rows] = uids[:, 1]
            first += shard.rows
