"""How much better picture and caption fit each other than others of a batch do: the negative CLIP loss of a pair.

negCLIPLoss (also s-CLIPLoss), arXiv 2405.19547, section 3.1: rows are shuffled into batches of `batch` (32,768) pairs; with S the
cosines of a batch and τ = `temperature` (0.01),

    score_i = S_ii − τ/2 · log Σ_j exp(S_ij/τ) − τ/2 · log Σ_j exp(S_ji/τ)

and the score of a row is the mean over `shuffles` (10) of them. Needs nothing but the pool's features. What the paper leaves open:

* Batches are drawn from the whole pool (`within: pool`), so that the score does not depend on how the pool is cut into shards; the
  authors' code shuffles inside a shard (`within: shard`), which on shards of 10,000 rows makes a batch smaller than stated.
* A shuffle is an order of the rows by a hash of uid, seed and the shuffle's number (rows of equal uid: in the pool's order).
* n rows make ceil(n / batch) batches of as equal size as possible. A short last batch would score higher, by τ·log of the ratio of
  sizes (0.007 for half a batch). With one batch every shuffle is the same one, and it is computed once.
* Rows are scaled to length 1 (the paper's features are unit vectors). A row that is zero, NaN or infinite in either array takes no
  part in any batch, and has no score.

The score is float32 and depends on no number of threads, no memory and no layout of shards; on another CPU or without torch it may
differ by up to 1e-6 (curate._contrast states the errors). `precision: bf16` is two to five times as fast on a CPU with bfloat16
units, and has an identity of its own. `auto` is bf16 where that is there, f32 elsewhere.

Cost: rows × batch × width × 2 × shuffles floating-point operations. Memory: four copies of a batch as float32 (400 MB for 32,768
rows of 768), and 40 bytes a row of the pool.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headwater.errors import MissingExtra, UsageError, nearest

if TYPE_CHECKING:
    from curate.features import Features
    from curate.pool import Pool
    from curate.pooldata import PoolData

VERSION = 1
SCOPE = "pool"
COLUMNS: tuple[str, ...] = ()
OUTPUT = {"negcliploss": "float32"}
COST = "costly"
READ_ROWS = 16_384  # 32 MB at a width of 512
PRECISIONS = ["f32", "bf16", "auto"]
WITHIN = ["pool", "shard"]
Rows = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Config:
    """Defaults are the published ones."""

    features: str = field(default="l14_img", metadata={"help": "array of picture features"})
    text_features: str = field(default="l14_txt", metadata={"help": "array of caption features"})
    batch: int = field(default=32_768, metadata={"help": "most pairs that are compared with each other"})
    temperature: float = field(default=0.01, metadata={"help": "τ of the contrastive loss"})
    shuffles: int = field(default=10, metadata={"help": "how many times rows are put into other batches"})
    seed: int = field(default=0, metadata={"help": "decides the shuffles"})
    within: str = field(
        default="pool", metadata={"help": "where the rows of a batch come from", "choices": WITHIN}
    )
    precision: str = field(
        default="f32",
        metadata={
            "help": "arithmetic of the products; auto is bf16 where it is faster",
            "choices": PRECISIONS,
        },
    )


class Scorer:
    """negCLIPLoss. Raises UsageError for a setting that makes no sense, MissingExtra for bf16 without torch."""

    def __init__(self, config: Config) -> None:
        for name, value, known in (
            ("precision", config.precision, PRECISIONS),
            ("within", config.within, WITHIN),
        ):
            if value not in known:
                raise UsageError(f"negcliploss: {name} is {value!r}: {nearest(value, known)}")
        if config.batch < 1 or config.shuffles < 1 or not config.temperature > 0:
            raise UsageError("negcliploss: batch and shuffles must be at least 1, temperature above 0")
        self._config = config
        self.precision = _resolve(config.precision)
        # which arithmetic `auto` came to mean decides the scores
        self.identity = {"precision": self.precision} if self.precision != "f32" else {}

    def inputs(self, pool: Pool) -> dict[str, str]:
        """Ids of both feature arrays."""
        from curate.features import open_features

        names = (self._config.features, self._config.text_features)
        return {f"features:{name}": open_features(pool, name).id for name in names}

    def score_pool(self, data: PoolData) -> Iterator[dict[str, Any]]:
        """One column a shard; rows without a direction in either array are counted as invalid."""
        images, texts = (data.features(n) for n in (self._config.features, self._config.text_features))
        if images.width != texts.width and images.parts:
            raise UsageError(
                f"features {images.name} have {images.width} numbers a row and {texts.name} {texts.width}: "
                "they are not of one model"
            )
        good = _usable(data, images, texts)
        total = np.zeros(len(good))
        keys = _keys(data)
        batches = most = 0
        for group in _groups(data, good, self._config.within):
            count, largest = self._score_group(data, images, texts, group, keys, total)
            batches, most = batches + count, max(most, largest)
        data.note("precision", self.precision)
        data.note("batches", batches)
        data.note("pairs_in_largest_batch", most)
        total[~good] = np.nan
        first = 0
        for shard in data.shards:
            yield {"negcliploss": total[first : first + shard.rows].astype(np.float32)}
            first += shard.rows

    def _score_group(
        self,
        data: PoolData,
        images: Features,
        texts: Features,
        group: Rows,
        keys: Words,
        total: npt.NDArray[np.float64],
    ) -> tuple[int, int]:
        """Add the mean score of the rows `group`; returns (batches, pairs in the largest)."""
        from curate._contrast import batch_scores
        from headwater.console import track

        if not len(group):
            return 0, 0
        count = -(-len(group) // self._config.batch)
        shuffles = self._config.shuffles if count > 1 else 1
        done = most = 0
        with track("negcliploss", total=count * shuffles, unit="batches") as bar:
            for shuffle in range(shuffles):
                order = group[np.argsort(_shuffled(keys[group], self._config.seed, shuffle), kind="stable")]
                for rows in np.array_split(order, count):
                    score = batch_scores(
                        _gather(images, rows),
                        _gather(texts, rows),
                        temperature=self._config.temperature,
                        precision=self.precision,
                        threads=data.executor.workers,
                    )
                    total[rows] += score / shuffles
                    done, most = done + 1, max(most, len(rows))
                    bar.add(1)
        return done, most


def _resolve(precision: str) -> str:
    """f32 or bf16; `auto` is bf16 where torch is there and the CPU has units for it."""
    if precision == "f32":
        return precision
    from curate._contrast import has_torch
    from curate.products import bf16_available

    if precision == "auto":
        return "bf16" if bf16_available() else "f32"
    if not has_torch():
        raise MissingExtra(
            "torch is not installed, and negcliploss in bf16 needs it", hint="pip install 'headwater[clip]'"
        )
    return precision


def _usable(data: PoolData, images: Features, texts: Features) -> npt.NDArray[np.bool_]:
    """Which rows of the pool have a direction in both arrays; the others are counted under the first that is bad."""
    from curate.features import REASONS

    parts = [np.zeros(0, bool)]
    for left, right in zip(images.blocks(READ_ROWS), texts.blocks(READ_ROWS), strict=True):
        bad = np.where(left.bad > 0, left.bad, right.bad)
        for code, reason in REASONS.items():
            data.invalid(reason, int(np.count_nonzero(bad == code)))
        parts.append(bad == 0)
    return np.concatenate(parts)


def _keys(data: PoolData) -> Words:
    """One hashed word for the uid of each row of the pool."""
    from curate.clauses import mix

    parts = [np.zeros(0, np.uint64)]
    for shard in data.shards:
        words = data.uids(shard)
        parts.append(mix(words[:, 0] ^ mix(words[:, 1])))
    return np.concatenate(parts)


def _shuffled(keys: Words, seed: int, shuffle: int) -> Words:
    """Keys whose order is the order of the rows in one shuffle."""
    from curate.clauses import mix

    salt = mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64)) + np.uint64(shuffle)
    return mix(keys ^ mix(salt))


def _groups(data: PoolData, good: npt.NDArray[np.bool_], within: str) -> Iterator[Rows]:
    """Rows that may meet in a batch, as numbers over the whole pool."""
    if within == "pool":
        yield np.flatnonzero(good)
        return
    first = 0
    for shard in data.shards:
        yield np.flatnonzero(good[first : first + shard.rows]) + first
        first += shard.rows


def _gather(features: Features, rows: Rows) -> npt.NDArray[np.float32]:
    """Unit rows in the order of `rows`, read in the order they are stored."""
    from curate.features import normalise

    out = np.empty((len(rows), features.width), np.float32)
    order = np.argsort(rows, kind="stable")
    stored = rows[order]
    ends = np.cumsum([len(part.values) for part in features.parts])
    cuts = [0, *np.searchsorted(stored, ends).tolist()]
    for number, (left, right) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
        first = int(ends[number]) - len(features.parts[number].values)
        for low in range(left, right, READ_ROWS):
            some = slice(low, min(low + READ_ROWS, right))
            out[order[some]] = normalise(features.take(number, stored[some] - first))
    return out
