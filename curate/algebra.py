"""Subset algebra as Steps, and score columns looked up for the uids of a subset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate._order import search_words
from curate.pool import Pool
from curate.sidecars import StoredRef, read_sidecar
from curate.subset import Words, to_hex, write_sorted
from curate.views import RawView, numbers
from headwater.errors import HeadwaterError, MissingInput
from headwater.hashing import digest_file
from headwater.manifest import Counts, InputRef
from headwater.steps import Outcome, Plan, RunOptions, Work, run_step

VERSION = 1


def subset_plan(
    what: str, output: Path, inputs: tuple[Path, ...], config: dict[str, Any], seed: int | None
) -> Plan:
    """The Step `subset-WHAT` over subset files; the order of inputs counts only where it decides the result."""
    refs = []
    for number, path in enumerate(inputs):
        if not path.is_file():
            raise MissingInput(f"{path}: no such subset file")
        role = "subset" if what in ("union", "intersect") else f"subset:{number}"
        refs.append(InputRef(role=role, id=digest_file(path, ("sha256",)).sha256))
    return Plan(
        f"subset-{what}", VERSION, {k: v for k, v in config.items() if v is not None}, refs, output, seed=seed
    )


def subset_step(plan: Plan, make: Callable[[], Words], options: RunOptions) -> Outcome | None:
    """Write what `make` returns as a subset file with its record."""

    def work(job: Work) -> Counts:
        words = make()
        with open(job.stage, "wb") as handle:
            written = write_sorted(handle, [words])
        return Counts(unit="entries", read=written, kept=written, extra={"entries_written": written})

    return run_step(plan, work, options)


def scores_of(
    pool: Pool, words: Words, column: str, stored: StoredRef | None = None
) -> npt.NDArray[np.float64]:
    """The value of a numeric pool column, or of one of the scores `stored` beside it, for each of the sorted, distinct `words`.

    Raises HeadwaterError when a uid is not in the pool or has no number there.
    """
    types = {} if stored else {column: pool.column_type(column)}
    out = np.full(len(words), np.nan)
    for shard in pool.shards:
        table = read_sidecar(pool.cache, stored, shard.name, pool.digests(shard).sha256) if stored else None
        if stored and (table is None or table.num_rows != shard.rows):
            raise HeadwaterError(f"shard {shard.name}: its scores of {stored.name} are not there")
        for block in RawView(shard, types).blocks():
            theirs, _ = block.uids()
            left, right = search_words(words, theirs)
            hit = np.flatnonzero(right > left)
            mine = (
                table[column].slice(block.first_row, block.rows).combine_chunks()
                if table is not None
                else None
            )
            values, missing = numbers(block.column(column) if mine is None else mine)
            good = hit if missing is None else hit[~missing[hit]]
            out[left[good]] = values[good]
    lost = np.flatnonzero(np.isnan(out))
    if len(lost):
        raise HeadwaterError(
            f"{len(lost):,} uids of the subset have no number in {column!r} of {pool.path.name}, such as {to_hex(words[lost[:1]])[0]}",
            hint="subtract them first, or name the pool the subset was made from",
        )
    return out
