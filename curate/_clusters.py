"""Clusters that scorers build on: those of the scorer kmeans (spherical), read shard by shard, and the rows that have none.

The settings of the scorers that need clusters are the same words (features, k, iterations, seed, subset), so that several share
one run of k-means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate._order import search_words
from curate.features import REASONS, Features, open_features
from curate.pool import Pool
from curate.pooldata import PoolData, bind
from curate.sidecars import ScorerRef
from curate.subset import load_words
from headwater.errors import HeadwaterError, UsageError, nearest
from headwater.hashing import digest_file
from headwater.manifest import identity_id

ROWS_A_CLUSTER = 1000  # what k = 0 stands for
LEAST_BLOCK, MOST_BLOCK = 256, 1 << 17
COPIES = 4  # a block of rows is held as stored, as float32, scaled, and sorted
Labels = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]


def check_choice(scorer: str, name: str, value: str, choices: Sequence[str]) -> None:
    """Raises UsageError when a setting is none of its choices."""
    if value not in choices:
        raise UsageError(f"scorer {scorer}: {name} is {value!r}: {nearest(value, choices)}")


def check_least(scorer: str, config: Any, **least: float) -> None:
    """Raises UsageError naming the first setting of `config` that is below its least value."""
    for name, lowest in least.items():
        value = getattr(config, name)
        if not value >= lowest:
            raise UsageError(f"scorer {scorer}: {name} is {value}, and must be at least {lowest:g}")


def clusters_for(k: int, rows: int) -> int:
    """`k`, or one cluster for every 1,000 rows where `k` is 0."""
    return k if k > 0 else max(1, round(rows / ROWS_A_CLUSTER))


def kmeans_settings(config: Any, pool: Pool) -> dict[str, Any]:
    """Settings of the scorer kmeans that `config` (features, k, iterations, seed, perhaps subset) asks for: spherical."""
    settings: dict[str, Any] = {
        "features": config.features,
        "k": clusters_for(config.k, pool.rows),
        "iterations": config.iterations,
        "seed": config.seed,
        "spherical": True,
    }
    subset = getattr(config, "subset", None)
    return settings | ({"train_subset": subset} if subset else {})


def inputs_of(pool: Pool, features: str, kmeans: Mapping[str, Any] | None) -> dict[str, str]:
    """What decides the answer besides the shards: the features, and the clusters with the version that made them."""
    found = {f"features:{features}": open_features(pool, features).id}
    if kmeans is not None:
        ref = bind(ScorerRef("kmeans", tuple(sorted(kmeans.items()))), pool)
        found["scores:kmeans"] = identity_id(ref.identity)
    return found


def subset_identity(subset: Path | None) -> dict[str, str]:
    """The digest of a subset file, for `Scorer.identity`; raises what reading it raises."""
    if subset is None:
        return {}
    load_words(subset)
    return {"subset": digest_file(subset, ("sha256",)).sha256}


def shared_words(data: PoolData, path: Path, option: str = "--subset") -> Words:
    """The uids (n, 2) of a subset file. Raises UsageError when none of them is a row of a pool that has rows."""
    words = load_words(path)
    if data.pool.rows and not any(_shares(words, data.uids(shard)) for shard in data.shards):
        told = f"none of its {len(words):,} uids is in the pool" if len(words) else "it holds no uids"
        raise UsageError(
            f"{option} {path}: {told}",
            hint="give a subset of this pool's rows, such as headwater filter-pool writes from it",
        )
    return words


def _shares(words: Words, uids: Words) -> bool:
    first, last = search_words(words, uids)
    return bool((last > first).any())


class Clusters:
    """Cluster and similarity of each row of a pool; without `kmeans` all rows with a usable feature are one cluster."""

    def __init__(
        self,
        data: PoolData,
        features: str,
        *,
        kmeans: Mapping[str, Any] | None = None,
        subset: Path | None = None,
    ) -> None:
        self.data = data
        self.features: Features = data.features(features)
        # a subset of another pool is refused before its clusters are made
        self._subset = shared_words(data, subset) if subset else None
        self._stored = data.stored("kmeans", kmeans) if kmeans is not None else None
        # rows of a block: what the budget has room for
        room = data.memory_bytes // (COPIES * max(self.features.width, 8) * 4)
        self.block_rows = int(np.clip(room, LEAST_BLOCK, MOST_BLOCK))

    def centroids(self) -> Floats:
        """(k, width) float32 as the scorer kmeans left them; (1, width) zeros without it."""
        if self._stored is None:
            return np.zeros((1, self.features.width), np.float32)
        return np.asarray(np.load(self._stored.artifact("centroids.npy"), allow_pickle=False), np.float32)

    def of_shard(self, number: int) -> tuple[Labels, Floats]:
        """Cluster of each row (-1: it has no usable feature) and the cosine with its centroid (NaN; 0 without kmeans)."""
        shard = self.data.shards[number]
        if self._stored is None:
            bad = self._bad(number)
            return -(bad != 0).astype(np.int64), np.zeros(shard.rows, np.float32)
        columns = self._stored.columns(shard)
        label = columns["cluster"].fill_null(-1).to_numpy().astype(np.int64)
        return label, columns["cluster_similarity"].fill_null(np.nan).to_numpy().astype(np.float32)

    def wanted(self, number: int) -> Mask:
        """Rows of a shard that the subset names; all without one."""
        shard = self.data.shards[number]
        if self._subset is None:
            return np.ones(shard.rows, bool)
        first, last = search_words(self._subset, self.data.uids(shard))
        return np.asarray(last > first)

    def count_bad(self, number: int, label: Labels) -> None:
        """Tell `data.invalid` why rows of a shard have no cluster."""
        if not (label < 0).any():
            return
        bad = self._bad(number)[label < 0]
        for code, reason in REASONS.items():
            self.data.invalid(reason, int((bad == code).sum()))
        if (bad == 0).any():
            raise HeadwaterError(
                f"shard {self.data.shards[number].name}: rows with usable features have no cluster",
                hint="make the scores of kmeans again with --force",
            )

    def _bad(self, number: int) -> npt.NDArray[np.uint8]:
        rows = self.data.shards[number].rows
        blocks = [
            self.features.block(number, at, at + self.block_rows).bad
            for at in range(0, rows, self.block_rows)
        ]
        return np.concatenate([np.zeros(0, np.uint8), *blocks])
