"""Near-duplicate captions: groups of captions whose word sets are alike, each pair compared exactly.

Candidates come from MinHash bands (curate._minhash), every one is verified by the exact Jaccard similarity of its two word sets,
and verified pairs are joined into connected components (curate._minhash_groups). `caption_group` is the uid of the component's
smallest member, a caption's own uid when it is alone. Captions without words are equal to each other and to nothing else.

Precision is 1 by construction (words are known by 64 bits, see curate._minhash). With 8 bands of 4 rows a pair of similarity s is
found with the chance 1 - (1 - s^4)^8: 0.985 at 0.8, 0.9998 at 0.9; in buckets of more than cap + 1 different sets less (their
number is noted). The same groups come out whatever the order of rows and shards.

Memory: about 60 bytes a row (numbers, sizes, groups, the keys of one band); uids, words and keys lie in scratch files, 32 + 8 x bands
+ 8 x words bytes a row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headwater.errors import UsageError
from headwater.files import named_io

if TYPE_CHECKING:
    from curate.pooldata import PoolData

VERSION = 1
SCOPE = "pool"
COLUMNS = ("text",)
OUTPUT = {"caption_group": "string"}
COST = "costly"
NULL = "text: null"
MAX_PERMUTATIONS = 1024


@dataclass(frozen=True)
class Config:
    """How alike captions of one group are, and how hard they are looked for."""

    threshold: float = field(
        default=0.8,
        metadata={"help": "least Jaccard similarity of the word sets of two captions that are joined"},
    )
    bands: int = field(default=8, metadata={"help": "MinHash bands: more find more pairs"})
    rows: int = field(default=4, metadata={"help": "permutations per band: more make fewer candidates"})
    ngram: int = field(default=1, metadata={"help": "compare runs of so many words instead of single words"})
    cap: int = field(default=128, metadata={"help": "comparisons per caption in one bucket"})
    seed: int = field(default=0, metadata={"help": "of the permutations"})


class Scorer:
    """Groups captions. Raises UsageError for settings that cannot work."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.identity: dict[str, str] = {}
        if not 0 < config.threshold <= 1:
            raise UsageError(f"--threshold {config.threshold}: must be above 0 and at most 1")
        for name in ("bands", "rows", "ngram", "cap"):
            if getattr(config, name) < 1:
                raise UsageError(f"--{name} {getattr(config, name)}: must be at least 1")
        if config.bands * config.rows > MAX_PERMUTATIONS:
            raise UsageError(f"--bands x --rows: at most {MAX_PERMUTATIONS:,} permutations")

    def score_pool(self, data: PoolData) -> Iterator[dict[str, Any]]:
        """One `caption_group` column a shard; null where the caption is null."""
        from curate._minhash_groups import narrow, smallest_of_equal

        sizes = _spool(data, self.config)
        uids = _mapped(data, "uids").reshape(-1, 2)
        kind = narrow(len(sizes))
        rows = np.flatnonzero(sizes >= 0).astype(kind)
        data.invalid(NULL, len(sizes) - len(rows))
        # everything below counts in `rows`, the captions that are there
        rank = _rank(uids, rows)
        head = smallest_of_equal(_mapped(data, "key0")[rows], _mapped(data, "key1")[rows], rank)
        sets = np.flatnonzero(head == np.arange(len(rows)))
        sets = sets[np.argsort(rank[sets])].astype(kind)  # by uid
        del rank
        number = np.full(len(rows), -1, kind)
        number[sets] = np.arange(len(sets))
        number = number[head]
        del head
        smallest = rows[sets[self._group(data, sizes, rows[sets])]]
        group = np.full(len(sizes), -1, kind)
        group[rows] = smallest[number]
        first = 0
        for shard in data.shards:
            mine = group[first : first + shard.rows]
            yield {"caption_group": _uid_strings(uids, mine)}
            first += shard.rows

    def _group(self, data: PoolData, sizes: npt.NDArray[np.int32], sets: npt.NDArray[Any]) -> Any:
        """The smallest member of each set's group; sets are rows of the pool, by uid."""
        from curate._minhash_groups import Groups

        config = self.config
        starts = np.cumsum(np.maximum(sizes, 0), dtype=np.int64)[sets]
        starts -= sizes[sets]
        groups = Groups(sizes[sets], starts, _mapped(data, "words"), config.threshold, config.cap)
        for number in range(config.bands):
            following = _mapped(data, f"band{(number + 1) % config.bands}")
            groups.band(_mapped(data, f"band{number}")[sets], lambda some, keys=following: keys[sets[some]])  # type: ignore[misc]
        data.note("distinct_captions", len(sets))
        data.note("compared_pairs", groups.compared)
        data.note("near_pairs_joined", groups.joined)
        data.note("capped_buckets", groups.capped)
        data.note("largest_bucket", groups.largest)
        return groups.labels()


def _spool(data: PoolData, config: Config) -> npt.NDArray[np.int32]:
    """Leave uids, word sets and keys in scratch files, in the pool's order; the number of words of every row (-1: null)."""
    from curate._minhash import Plan, word_sets
    from curate.pool import family

    kind = data.pool.column_type("text") if data.shards else pa.string()
    if family(kind) != "text":
        raise UsageError(f"column 'text' holds {kind}, near-duplicate captions need text")
    plan = Plan(config.bands, config.rows, config.ngram, config.seed)
    names = ["uids", "words", "key0", "key1", *(f"band{number}" for number in range(config.bands))]
    sizes = [np.zeros(0, np.int32)]
    with named_io(data.scratch), contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(open(data.scratch / name, "wb")) for name in names}
        for shard in data.shards:
            for block in data.blocks(shard, COLUMNS):
                made = word_sets(block.column("text"), plan)
                files["words"].write(made.hashes.data)
                for number in range(2):
                    files[f"key{number}"].write(np.ascontiguousarray(made.keys[:, number]).data)
                for number in range(config.bands):
                    files[f"band{number}"].write(np.ascontiguousarray(made.bands[:, number]).data)
                sizes.append(made.sizes)
                files["uids"].write(np.ascontiguousarray(block.uids()[0]).data)
    return np.concatenate(sizes)


def _mapped(data: PoolData, name: str) -> Any:
    path = data.scratch / name
    return np.memmap(path, "<u8", "r") if path.stat().st_size else np.zeros(0, np.uint64)


def _rank(uids: Any, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The place of the uid of every row in their order; equal ones in the order of rows."""
    high = uids[rows, 0]
    order = np.argsort(high, kind="stable")
    ordered = high[order]
    if (ordered[1:] == ordered[:-1]).any():
        order = np.lexsort((uids[rows, 1], high))
    rank = np.empty(len(rows), rows.dtype)
    rank[order] = np.arange(len(rows))
    return rank


def _uid_strings(uids: Any, rows: npt.NDArray[Any]) -> pa.Array:
    """Uids of rows as text; null where the row is -1."""
    n = len(rows)
    digits = uids[np.maximum(rows, 0)].astype(">u8").tobytes().hex().encode() if n else b""
    offsets = np.arange(0, 32 * (n + 1), 32, dtype=np.int64)
    valid = pa.py_buffer(np.packbits(rows >= 0, bitorder="little"))
    return pa.Array.from_buffers(pa.large_string(), n, [valid, pa.py_buffer(offsets), pa.py_buffer(digits)])
