"""Self-supervised prototypes: how far a row lies from the centroid of its cluster, the measure by which SSP prunes.

Source: arXiv 2206.14486, section 6. Spherical k-means; distance = 1 - cosine. Rows far from their centroid are kept when data are
plenty ("hard", the default), near ones when they are scarce ("easy"). The column is larger for rows that are kept first:

    top: {column: ssp, fraction: 0.3}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from curate._clusters import (
    Clusters,
    check_choice,
    check_least,
    inputs_of,
    kmeans_settings,
    shared_words,
    subset_identity,
)
from curate.pool import Pool
from curate.pooldata import PoolData
from curate.scores import Cost

SCOPE = "pool"
VERSION = 1
COLUMNS: tuple[str, ...] = ()
OUTPUT = {"ssp": "float32"}
COST: Cost = "costly"

KEEP = ["hard", "easy"]


@dataclass(frozen=True)
class Config:
    """Which clusters, and which rows come first."""

    features: str = field(default="l14_img", metadata={"help": "feature array that is clustered"})
    k: int = field(default=1000, metadata={"help": "clusters; 0: one for every 1,000 rows"})
    iterations: int = field(default=20, metadata={"help": "rounds of k-means"})
    seed: int = field(default=0, metadata={"help": "of the clusters"})
    keep: str = field(
        default="hard",
        metadata={
            "help": "which rows get large values: far from the centroid (hard: 1 - cosine) or near it (easy: cosine)",
            "choices": KEEP,
        },
    )
    subset: Path | None = field(
        default=None, metadata={"help": "subset .npy: only its rows make the clusters"}
    )


class Scorer:
    """The distance, or with keep "easy" the cosine, of each row and its centroid."""

    def __init__(self, config: Config) -> None:
        check_choice("ssp", "keep", config.keep, KEEP)
        check_least("ssp", config, k=0, iterations=1)
        self.config = config
        self.identity = subset_identity(config.subset)

    def inputs(self, pool: Pool) -> dict[str, str]:
        """Ids of the features and of the clusters."""
        return inputs_of(pool, self.config.features, kmeans_settings(self.config, pool))

    def score_pool(self, data: PoolData) -> Iterator[dict[str, Any]]:
        """One dict of columns a shard."""
        if self.config.subset is not None:
            shared_words(data, self.config.subset)  # refused under the name that the user typed
        clusters = Clusters(data, self.config.features, kmeans=kmeans_settings(self.config, data.pool))
        for number in range(len(data.shards)):
            label, similarity = clusters.of_shard(number)
            clusters.count_bad(number, label)
            value = similarity if self.config.keep == "easy" else np.float32(1) - similarity
            yield {"ssp": np.where(label < 0, np.float32(np.nan), value)}
