"""Questions about a whole pool that a clause must have answered before it can judge a row.

A question is asked of every shard (`start`, then `feed` per block, then `finish`), the small answers are merged in any order, and
`settle` turns them into the clause's state or into the next question. State per shard is bounded: sparse histograms for ranks,
at most k uids for ties, eight bytes a row on disk for duplicates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate._exact_dedup_questions import KeyQuestion
from curate._order import sort_words
from curate.clauses import ExactState, Scope, State, TopState
from curate.ranks import Cut, Histogram, fraction_rank, key_width, merge_all, refine
from curate.rules import Clause, ExactK, Top
from curate.views import Mask, numbers
from headwater.errors import HeadwaterError

LOWEST, HIGHEST = (0, 0), (2**64 - 1, 2**64 - 1)


class Question(Protocol):
    """One thing to find out about all shards."""

    @property
    def node(self) -> str: ...

    @property
    def of_survivors(self) -> bool: ...

    def start(self) -> Any: ...

    def feed(self, answer: Any, scope: Scope, alive: Mask) -> Any:
        """`answer` with one block added."""
        ...

    def finish(self, answer: Any, file: Path) -> Any:
        """What is sent back from the shard; large parts go to `file`."""
        ...

    def settle(self, answers: Sequence[Any], folder: Path) -> State | Question: ...


def first_question(
    node: str, clause: Clause, *, name: str, rows: int, dtype: Callable[[str], Any]
) -> Question | None:
    """The question that `clause` needs answered, if it looks beyond the block."""
    if clause.top is not None and clause.top.fraction is not None:
        return _rank_question(node, clause.top, name, rows, dtype(clause.top.column))
    if clause.exact_k is not None:
        return _rank_question(node, clause.exact_k, name, rows, dtype(clause.exact_k.column))
    if clause.dedup is not None:
        columns = [*clause.dedup.by, *clause.dedup.order]
        return KeyQuestion(node, clause.dedup, {column: dtype(column) for column in columns})
    return None


def _rank_question(node: str, clause: Top | ExactK, name: str, rows: int, dtype: Any) -> RankQuestion:
    numpy_type = np.dtype(np.float32) if dtype == pa.float16() else np.dtype(dtype.to_pandas_dtype())
    return RankQuestion(node, clause, name, rows, numpy_type, Histogram(key_width(numpy_type)))


@dataclass(frozen=True)
class RankQuestion:
    """Which value stands at a rank of a column?"""

    node: str
    clause: Top | ExactK
    name: str
    rows: int  # of the pool
    dtype: np.dtype[Any]
    histogram: Histogram  # empty, under the prefix found so far
    rank: int = -1  # within the histogram; -1 before the first answer

    @property
    def of_survivors(self) -> bool:
        return self.clause.of == "survivors"

    def start(self) -> tuple[Histogram, int]:
        return self.histogram.empty(), 0

    def feed(self, answer: tuple[Histogram, int], scope: Scope, alive: Mask) -> tuple[Histogram, int]:
        values, missing = numbers(scope.column(self.clause.column, alive))
        looked_at = int(np.count_nonzero(alive)) if self.of_survivors else scope.rows
        if self.of_survivors:
            values = values[alive if missing is None else alive & ~missing]
        elif missing is not None:
            values = values[~missing]
        # the index holds integers in fewer bits, whose keys would be others
        answer[0].add(values.astype(self.dtype, copy=False))
        return answer[0], answer[1] + looked_at

    def finish(self, answer: tuple[Histogram, int], file: Path) -> tuple[Histogram, int]:
        return answer[0].pack(), answer[1]

    def settle(self, answers: Sequence[tuple[Histogram, int]], folder: Path) -> State | Question:
        merged = merge_all((histogram for histogram, _ in answers), self.histogram.empty())
        rank = self.rank
        if rank < 0:
            looked_at = sum(count for _, count in answers)
            if isinstance(self.clause, Top):
                rank = fraction_rank(looked_at, self.clause.fraction or 0.0)
                if rank >= looked_at:
                    return TopState(None)
                self._enough(rank + 1, merged.total, looked_at)
            else:
                if self.clause.k == 0:
                    return ExactState(None, None, nothing=True)
                self._enough(self.clause.k, merged.total, looked_at)
                rank = self.clause.k - 1
        cut, finer, rank = refine(merged, rank, self.dtype)
        if finer is not None:
            return RankQuestion(self.node, self.clause, self.name, self.rows, self.dtype, finer, rank)
        assert cut is not None
        if isinstance(self.clause, Top):
            return TopState(cut.value)
        return self._exact(cut, self.clause.k)

    def _exact(self, cut: Cut, k: int) -> State | Question:
        wanted = k - cut.above
        if wanted == cut.equal:
            return ExactState(cut.value, HIGHEST)
        return TieQuestion(self.node, self.clause, cut.value, wanted)

    def _enough(self, wanted: int, valid: int, looked_at: int) -> None:
        if wanted <= valid:
            return
        what = f"fraction {self.clause.fraction}" if isinstance(self.clause, Top) else f"k = {self.clause.k}"
        raise HeadwaterError(
            f"clause {self.name}: {what} asks for {wanted:,} of {looked_at:,} rows, "
            f"but only {valid:,} have a number in {self.clause.column}",
            hint="ask for less, or complete the column (rows with null or NaN are never kept)",
        )


@dataclass(frozen=True)
class TieQuestion:
    """Which uids are the `wanted` lowest among rows equal to the cut?"""

    node: str
    clause: Top | ExactK
    value: float | int
    wanted: int

    @property
    def of_survivors(self) -> bool:
        return self.clause.of == "survivors"

    def start(self) -> npt.NDArray[np.uint64]:
        return np.zeros((0, 2), "<u8")

    def feed(self, answer: npt.NDArray[np.uint64], scope: Scope, alive: Mask) -> npt.NDArray[np.uint64]:
        values, missing = numbers(scope.column(self.clause.column, alive))
        equal = values == (values.dtype.type(self.value) if values.dtype.kind == "f" else self.value)
        if missing is not None:
            equal &= ~missing
        if self.of_survivors:
            equal &= alive
        if not equal.any():
            return answer
        return sort_words(np.concatenate([answer, scope.uids()[equal]]))[: self.wanted]

    def finish(self, answer: npt.NDArray[np.uint64], file: Path) -> npt.NDArray[np.uint64]:
        return answer

    def settle(self, answers: Sequence[npt.NDArray[np.uint64]], folder: Path) -> State | Question:
        lowest = sort_words(np.concatenate(list(answers)))[: self.wanted]
        return ExactState(self.value, (int(lowest[-1, 0]), int(lowest[-1, 1])))


def private_connection(spill: str | None = None, *, memory: str = "256MB") -> Any:
    """A DuckDB connection that reads nothing but what is registered with it."""
    import duckdb

    config: dict[str, Any] = {"threads": 1, "memory_limit": memory, "enable_external_access": "false"}
    config |= {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    if spill is not None:
        config["temp_directory"] = spill
    return duckdb.connect(":memory:", config=config)
