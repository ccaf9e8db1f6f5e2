"""NormSim-D: the pool is its own target, and rows that fit it least are taken out step by step.

The set S_0 is the usable rows of the pool, or those of `subset` (as published: what a cut by negCLIPLoss leaves). Step t = 1 … steps
scores every row of S_{t-1} by its NormSim_2 against S_{t-1} itself,

    sqrt(x G xT),  G = sum of y yT over the rows y of S_{t-1},

and S_t keeps the N_t rows with the highest score; ties go to the lowest uid. N_t = N_0 - floor(t (N_0 - N) / steps), or with
`sizes: geometric` floor(N_0 (N / N_0)^(t / steps)); N is `fraction` of the pool's rows, at least 1. Source: arXiv 2405.19547
(NormSim_2-D) and 2402.02055 (VAS-D), whose code removes ceil((N_0 - N) / steps) rows a step and estimates G from a tenth of the
rows; here G is exact. Published runs used 500 steps. Scores are compared in single precision.

normsim_d_round is the last step a row survived: 0 for those removed first, `steps` for those that are left, -1 for rows outside of
`subset`. normsim_d is the score a row was removed with, or that against the final set; -1 outside of `subset`.
A rule keeps the final set by `sql: normsim_d_round >= 100` (its number of steps).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.features import Features, Floats
from curate.pool import Pool
from curate.pooldata import PoolData
from curate.scores import Cost
from headwater.errors import UsageError

SCOPE = "pool"
VERSION = 1
COLUMNS: tuple[str, ...] = ()
OUTPUT = {"normsim_d_round": "int32", "normsim_d": "float32"}
COST: Cost = "costly"

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Config:
    """Where the set starts and how it shrinks."""

    features: str = field(default="l14_img", metadata={"help": "feature array of the pool"})
    subset: Path | None = field(default=None, metadata={"help": "subset .npy to start from; else all rows"})
    fraction: float = field(
        default=0.2, metadata={"help": "share of the pool's rows that is left at the end"}
    )
    steps: int = field(default=100, metadata={"help": "how many times rows are taken out"})
    sizes: str = field(
        default="linear",
        metadata={
            "help": "how the set shrinks: by equal counts or by equal shares",
            "choices": ["linear", "geometric"],
        },
    )


class Scorer:
    """Shrinks the set."""

    def __init__(self, config: Config) -> None:
        if not 0 < config.fraction <= 1:
            raise UsageError(f"fraction is {config.fraction}, and must be above 0 and at most 1")
        if not 1 <= config.steps < 2**31:
            raise UsageError(f"steps is {config.steps}, and must be at least 1")
        if config.sizes not in ("linear", "geometric"):
            raise UsageError(f"sizes is {config.sizes!r}: linear or geometric")
        self.config = config
        self.identity: dict[str, str] = {}
        if config.subset is not None:
            from curate.subset import load_words
            from headwater.hashing import digest_file

            load_words(config.subset, check_sorted=False)  # there, and a subset
            self.identity["subset"] = digest_file(config.subset, ("sha256",)).sha256

    def inputs(self, pool: Pool) -> dict[str, str]:
        from curate.features import open_features

        return {f"features:{self.config.features}": open_features(pool, self.config.features).id}

    def score_pool(self, data: PoolData) -> Iterator[dict[str, Any]]:
        from curate._closest import by_shard, per_row, usable_rows

        if not data.shards:
            return
        words = None
        if self.config.subset is not None:
            from curate._clusters import shared_words

            words = shared_words(data, self.config.subset)
        features = data.features(self.config.features)
        rounds = per_row(data, np.int32, -1)
        score = per_row(data, np.float32, np.nan)
        alive = per_row(data, np.bool_, False)
        for block in usable_rows(features, count=data):
            alive[block.numbers] = True
            score[block.numbers] = -1
        uids = _uids(data)
        if words is not None:
            _keep_only(alive, uids, words)
        shrink(
            data, features, alive, uids, rounds, score, sizes(self.config, int(alive.sum()), data.pool.rows)
        )
        for columns in by_shard(data, {"normsim_d_round": rounds, "normsim_d": score}):
            missing = np.isnan(columns["normsim_d"])
            yield columns | {"normsim_d_round": _masked(columns["normsim_d_round"], missing)}


def sizes(config: Config, start: int, rows: int) -> list[int]:
    """N_1 … N_steps for a set of `start` rows out of a pool of `rows`."""
    end = min(start, max(1, int(rows * config.fraction)))
    steps = config.steps
    if config.sizes == "linear":
        return [start - t * (start - end) // steps for t in range(1, steps + 1)]
    if not start:
        return [0] * steps
    shrunk = [max(end, int(start * (end / start) ** (t / steps))) for t in range(1, steps)]
    return [*shrunk, end]


def shrink(
    data: PoolData,
    features: Features,
    alive: npt.NDArray[np.bool_],
    uids: tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]],
    rounds: npt.NDArray[np.int32],
    score: Floats,
    wanted: list[int],
) -> None:
    """Take rows out of `alive` until each of the sizes `wanted` is reached; fills `rounds` and `score` for rows that began in it."""
    from curate._normsim import Gram, check_memory, gram_norms, largest_magnitude
    from headwater.console import track

    check_memory(features.width, data.memory_bytes)
    begun = np.flatnonzero(alive)
    rounds[begun] = 0
    largest = largest_magnitude(values for _, values in _taken(features, begun))
    gram = Gram(features.width, largest)
    for _, values in _taken(features, begun):
        gram.add(values)
    left = begun
    with track("normsim_d", total=len(wanted), unit="steps") as bar:
        for step, size in enumerate([*wanted, -1]):
            last = step == len(wanted)
            if last or size < len(left):
                matrix = gram.matrix()
                for numbers, values in _taken(features, left):
                    score[numbers] = gram_norms(values, matrix)
            if last:
                rounds[left] = len(wanted)
                break
            if size < len(left):
                stays = best_rows(score[left], uids[0][left], uids[1][left], size)
                gone = left[~stays]
                rounds[gone] = step
                for _, values in _taken(features, gone):
                    gram.add(values, -1)
                left = left[stays]
            bar.add(1, f"{len(left):,} rows")
    data.note("rows_left", len(left))
    data.note("steps", len(wanted))


def best_rows(
    score: Floats, high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64], size: int
) -> npt.NDArray[np.bool_]:
    """(n,) which rows are the `size` with the highest score, ties by the lowest uid."""
    if size <= 0:
        return np.zeros(len(score), bool)
    cut = np.partition(score, len(score) - size)[len(score) - size]
    stays = np.asarray(score > cut)
    tied = np.flatnonzero(score == cut)
    order = np.lexsort((low[tied], high[tied]))
    stays[tied[order[: size - int(stays.sum())]]] = True
    return stays


def _taken(features: Features, numbers: Numbers) -> Iterator[tuple[Numbers, Floats]]:
    """The values of rows of the pool (ascending numbers), a block at a time."""
    from curate._closest import ROWS, first_rows

    starts = first_rows(features)
    bounds = np.searchsorted(numbers, starts)
    for shard in range(len(features.parts)):
        mine = numbers[bounds[shard] : bounds[shard + 1]]
        for first in range(0, len(mine), ROWS):
            some = mine[first : first + ROWS]
            yield some, features.take(shard, some - starts[shard])


def _uids(data: PoolData) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    from curate._closest import per_row

    high, low = per_row(data, np.uint64, 0), per_row(data, np.uint64, 0)
    first = 0
    for shard in data.shards:
        words = data.uids(shard)
        high[first : first + shard.rows] = words[:, 0]
        low[first : first + shard.rows] = words[:, 1]
        first += shard.rows
    return high, low


def _keep_only(
    alive: npt.NDArray[np.bool_],
    uids: tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]],
    words: npt.NDArray[np.uint64],
) -> None:
    from curate._order import search_words

    for first in range(0, len(alive), 1 << 20):
        part = slice(first, first + (1 << 20))
        low, high = search_words(words, np.stack([uids[0][part], uids[1][part]], axis=1))
        alive[part] &= high > low


def _masked(values: npt.NDArray[np.int32], missing: npt.NDArray[np.bool_]) -> Any:
    import pyarrow as pa

    return pa.array(values, mask=missing)
