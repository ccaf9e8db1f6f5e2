"""Clusters of a feature array: k-means on a sample of rows, then every row goes to the centroid of its largest inner product.

The defaults are DataComp's (arXiv 2304.14108; its code at 4a8df19), but for k, which is 100,000 there: faiss' k-means with squared
Euclidean distance, 20 iterations, seed 0, at most 256 training rows a centroid; rows and centroids are not scaled, and rows are
assigned by inner product. `spherical` scales rows and centroids to length 1, and the similarity is then a cosine.

The training rows are those whose hashed uids (with `seed`) are smallest, so neither the order of rows nor the layout of shards
changes anything. Equal products go to the lowest centroid. The centroids are kept as centroids.npy, (k, width) float32; they are the
same for any number of threads with `trainer: headwater`, and as faiss makes them with `trainer: faiss`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate import kmeans
from curate._rowsample import choose_rows, gather
from curate.features import REASONS, Features, normalise, open_features, unusable
from curate.pool import Pool
from curate.pooldata import PoolData
from curate.scores import Cost
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.files import atomic_file
from headwater.hashing import digest_file

SCOPE = "pool"
VERSION = 1
COLUMNS: tuple[str, ...] = ()
OUTPUT = {"cluster": "int32", "cluster_similarity": "float32"}
COST: Cost = "costly"


@dataclass(frozen=True)
class Config:
    """How clusters are made."""

    features: str = field(default="l14_img", metadata={"help": "feature array that is clustered"})
    k: int = field(default=1000, metadata={"help": "clusters (fewer when fewer distinct rows train)"})
    iterations: int = field(default=20, metadata={"help": "rounds of training"})
    seed: int = field(default=0, metadata={"help": "chooses the training rows and the first centroids"})
    spherical: bool = field(default=False, metadata={"help": "scale rows and centroids to length 1"})
    sample_per_centroid: int = field(
        default=256, metadata={"help": "training rows for each cluster, at most"}
    )
    train_subset: Path | None = field(default=None, metadata={"help": "subset .npy: only its rows train"})
    centroids: Path | None = field(
        default=None, metadata={"help": "centroids .npy (k, width) to use; nothing is trained"}
    )
    trainer: str = field(
        default="headwater", metadata={"help": "what trains", "choices": ["headwater", "faiss"]}
    )


class Scorer:
    """Trains, or reads, centroids and assigns every row."""

    def __init__(self, config: Config) -> None:
        for name, least in (("k", 1), ("iterations", 0), ("sample_per_centroid", 1)):
            if getattr(config, name) < least:
                raise UsageError(
                    f"scorer kmeans: {name} is {getattr(config, name)}, and must be at least {least}"
                )
        if config.trainer not in ("headwater", "faiss"):
            raise UsageError(f"scorer kmeans: trainer {config.trainer!r} is neither headwater nor faiss")
        self.config = config
        self.identity: dict[str, str] = {}
        for role, path in (("centroids", config.centroids), ("train_subset", config.train_subset)):
            if path is None:
                continue
            if not path.is_file():
                raise MissingInput(f"scorer kmeans: {role.replace('_', ' ')} {path}: no such file")
            self.identity[role] = digest_file(path, ("sha256",)).sha256
        if config.centroids is not None and config.train_subset is not None:
            raise UsageError(
                "scorer kmeans: train_subset says what trains, but with centroids nothing is trained"
            )
        if config.trainer == "faiss" and config.centroids is None:
            self.identity["faiss"] = str(kmeans.need_faiss().__version__)

    def inputs(self, pool: Pool) -> dict[str, str]:
        """The features that are read."""
        name = self.config.features
        return {f"features:{name}": open_features(pool, name).id}

    def score_pool(self, data: PoolData) -> Iterator[dict[str, Any]]:
        """Both columns, shard by shard; centroids.npy is written before."""
        features = data.features(self.config.features)
        centroids = self._centroids(data, features)
        with atomic_file(data.artifact("centroids.npy")) as handle:
            np.save(handle, centroids)
        rows = int(np.clip(data.memory_bytes // (16 * max(features.width, 1)), 256, 16_384))
        made = kmeans.assign(features, centroids, spherical=self.config.spherical, rows=rows)
        for shard in data.shards:
            labels = np.full(shard.rows, -1, np.int32)
            values = np.full(shard.rows, np.nan, np.float32)
            done = 0
            while done < shard.rows:
                block, label, value = next(made)
                labels[done : done + block.rows] = label
                values[done : done + block.rows] = value
                done += block.rows
                for code, reason in REASONS.items():
                    data.invalid(reason, int(np.count_nonzero(block.bad == code)))
            yield {"cluster": pa.array(labels, mask=labels < 0), "cluster_similarity": values}

    def _centroids(self, data: PoolData, features: Features) -> npt.NDArray[np.float32]:
        config = self.config
        if config.centroids is not None:
            given = read_centroids(config.centroids, features.width)
            return normalise(given) if config.spherical else given
        only = None
        if config.train_subset is not None:
            from curate._clusters import shared_words

            only = shared_words(data, config.train_subset, "--train-subset")
        sample = choose_rows(data, features, config.k * config.sample_per_centroid, config.seed, only)
        data.note("training_rows", len(sample))
        if not len(sample):
            usable = any(bool((block.bad == 0).any()) for block in features.blocks(8192))
            if usable:
                raise UsageError(
                    f"{config.train_subset}: none of the training subset's uids is a row of the pool with usable features",
                    hint="make the subset from rows that have features",
                )
            return np.zeros((0, features.width), np.float32)
        faiss = config.trainer == "faiss"
        budget = 1 << 62 if faiss else data.memory_bytes // 2  # faiss takes one array
        rows = gather(features, sample, memory_bytes=budget, scratch=data.scratch)
        report: dict[str, Any] = {}
        made = kmeans.train(
            rows,
            config.k,
            iterations=config.iterations,
            seed=config.seed,
            spherical=config.spherical,
            trainer="faiss" if faiss else "headwater",
            report=report,
        )
        for name, value in report.items():
            data.note(name, value)
        data.note("clusters", len(made))
        return made


def read_centroids(path: Path, width: int) -> npt.NDArray[np.float32]:
    """Centroids (k, width) of an .npy file. Raises IntegrityError (no array of numbers, no rows, not finite) and UsageError (width)."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise IntegrityError(f"{path}: not a readable .npy file ({error})") from error
    if values.ndim != 2 or not len(values) or values.dtype.kind != "f":
        raise IntegrityError(
            f"{path}: holds {values.dtype} of shape {values.shape}, and centroids are floats (k, width)"
        )
    if values.shape[1] != width:
        raise UsageError(
            f"{path}: {values.shape[1]} numbers a centroid, but the features have {width}",
            hint="take the centroids that were made of this feature array",
        )
    with np.errstate(over="ignore"):
        made = np.array(values, np.float32)
    if (unusable(made) == 2).any():
        raise IntegrityError(f"{path}: a centroid has NaN or infinite numbers")
    return made
