"""NormSim: the p-norm of a picture's inner products with every picture of a target.

    NormSim_p(x) = || x GT ||_p = (sum over rows g of the target of |x . g|^p)^(1/p)        arXiv 2405.19547, section 3.2

It is a norm, so magnitudes count: for p = inf it is the largest |x . g|, the match with the closest target picture. For p = 2 it is
sqrt(x GTG xT), with GTG added up exactly; for another p products are taken of rows rounded to about 2^-21 of their largest
number, in blocks (from 100 on, p counts as inf). Features are used as they are, which are rows of about unit length in DataComp's pools, as in the authors' code;
`normalise` scales both sides to length 1 first.

The published rule: of the 30 % with the best negCLIPLoss, keep by NormSim_inf as many as 20 % of the pool (filter normsim).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.features import Features, Floats, normalise
from curate.pool import Pool
from curate.pooldata import PoolData
from curate.scores import Cost
from curate.targets import Target, read_target, target_id

SCOPE = "pool"
VERSION = 1
COLUMNS: tuple[str, ...] = ()
OUTPUT = {"normsim": "float32"}
COST: Cost = "costly"


@dataclass(frozen=True)
class Config:
    """What the target is and which norm is taken."""

    features: str = field(default="l14_img", metadata={"help": "feature array of the pool"})
    target: Path | None = field(
        default=None,
        metadata={"help": "target embeddings: .npz, .npy, .parquet, a folder of them, or a pool"},
    )
    p: str = field(default="inf", metadata={"help": "order of the norm: inf, or a number from 1 on"})
    normalise: bool = field(default=False, metadata={"help": "scale all rows to length 1 first"})


class Scorer:
    """Compares each row with all of the target."""

    def __init__(self, config: Config) -> None:
        from curate._normsim import parse_p

        self.config = config
        self.p = parse_p(config.p)
        self.identity = {"target": target_id(config.target, config.features)}

    def inputs(self, pool: Pool) -> dict[str, str]:
        from curate.features import open_features

        return {f"features:{self.config.features}": open_features(pool, self.config.features).id}

    def score_pool(self, data: PoolData) -> Iterator[dict[str, Any]]:
        from curate._closest import by_shard, closest

        if not data.shards:
            return
        features = data.features(self.config.features)
        target = read_target(self.config.target, width=features.width, array=self.config.features)
        data.note("target_rows", target.used)
        data.note("target_rows_left_out", sum(target.left_out.values()))
        if math.isinf(self.p):
            unit = self.config.normalise
            norms: npt.NDArray[Any] = closest(data, features, target, unit=unit, absolute=True)[0]
        elif self.p == 2:
            norms = self._two(data, features, target)
        else:
            norms = self._other(data, features, target)
        yield from by_shard(data, {"normsim": norms})

    def _blocks(self, target: Target, rows: int) -> Iterator[Floats]:
        for block in target.blocks(rows):
            yield normalise(block.values) if self.config.normalise else block.values

    def _two(self, data: PoolData, features: Features, target: Target) -> npt.NDArray[np.float32]:
        from curate._closest import ROWS, per_row, usable_rows
        from curate._normsim import Gram, check_memory, gram_norms, largest_magnitude

        check_memory(features.width, data.memory_bytes)
        gram = Gram(features.width, largest_magnitude(self._blocks(target, ROWS)))
        for block in self._blocks(target, ROWS):
            gram.add(block)
        matrix = gram.matrix()
        norms = per_row(data, np.float32, np.nan)
        for rows in usable_rows(features, unit=self.config.normalise, count=data):
            norms[rows.numbers] = gram_norms(rows.values, matrix)
        return norms

    def _other(self, data: PoolData, features: Features, target: Target) -> npt.NDArray[np.float64]:
        from curate._closest import ROWS, chunk_rows, passes, per_row, products, usable_rows
        from curate._normsim import TARGET_ROWS, add_powers
        from headwater.console import track

        longest = max(float(products(g, g).max()) for g in self._blocks(target, ROWS)) ** 0.5
        norms = per_row(data, np.float64, np.nan)
        # whole multiples of the rows that are added at once, so that sums do not depend on the memory
        step = max(1, chunk_rows(data, features.width) // TARGET_ROWS) * TARGET_ROWS
        counted: PoolData | None = data
        with track("compare", total=features.rows * passes(target, step), unit="rows") as bar:
            for block in self._blocks(target, step):
                for rows in usable_rows(features, unit=self.config.normalise, count=counted):
                    if counted is not None:
                        norms[rows.numbers] = 0
                    most = np.sqrt(products(rows.values, rows.values)) * longest
                    sums = norms[rows.numbers]
                    add_powers(rows.values, [block], self.p, most, sums)
                    norms[rows.numbers] = sums
                    bar.add(len(sums))
                counted = None
        for rows in usable_rows(features, unit=self.config.normalise):
            most = np.sqrt(products(rows.values, rows.values)) * longest
            norms[rows.numbers] = most * norms[rows.numbers] ** (1 / self.p)
        return norms
