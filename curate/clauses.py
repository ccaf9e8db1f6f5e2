"""Clauses at work: which rows of a block a clause keeps, in three-valued logic (true, false, unknown).

A clause that looks at the whole pool (top, exact_k, dedup) is answered from a state that earlier passes computed
(curate.questions); all others need nothing but the block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate._order import search_words
from curate.expressions import Expression
from curate.rules import Clause, RuleFile
from curate.views import Column, Mask, numbers
from headwater.errors import UsageError

Truth = tuple[Mask, Mask | None]


@dataclass(frozen=True)
class TopState:
    """Rows at or above `value` are kept; `None` keeps every row that has a number."""

    value: float | int | None


@dataclass(frozen=True)
class ExactState:
    """Rows above `value` are kept, and equal ones up to uid `last` (None: no equal one)."""

    value: float | int | None
    last: tuple[int, int] | None
    nothing: bool = False


@dataclass(frozen=True)
class DedupState:
    """Per shard name: .npy files with the sorted numbers of rows that are one too many, and of rows without a key."""

    dropped: Mapping[str, str]
    absent: Mapping[str, str] = field(default_factory=dict)


State = TopState | ExactState | DedupState


@dataclass
class Scope:
    """What a clause sees of one block."""

    shard: str
    rows: int
    column: Callable[[str, Mask], Column]  # (name, rows for which it is needed) -> column
    uids: Callable[[], npt.NDArray[np.uint64]]
    row_numbers: Callable[[], npt.NDArray[np.int64] | slice]
    block: Any = None  # behind `column`, for what is read from pages without making strings
    made: frozenset[str] = frozenset()  # columns that do not come from the block
    uids_of: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.uint64] | None] | None = None

    def heads(self, name: str) -> tuple[npt.NDArray[np.uint64], Mask | None] | None:
        """The first 64 bits of a column of hex digests and the rows without one; None when they must be made from `column`."""
        return None if name in self.made else _pages().heads(self.block, name)

    def some_digests(self, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64] | None:
        """(k, 4) words of the digests of ascending rows; None when they must be made from `column`."""
        return None if name in self.made else _pages().chosen_digests(self.block, name, rows)

    def some_uids(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """(k, 2) words of the uids of ascending rows."""
        place, found = self.row_numbers(), None
        if self.uids_of is not None and isinstance(place, slice):
            found = self.uids_of(rows + place.start)
        if found is None:
            found = _pages().chosen_uids(self.block, rows)
        return self.uids()[rows] if found is None else found


def _pages() -> Any:
    from curate import _exact_dedup_pages  # which reads blocks, and these import expressions

    return _exact_dedup_pages


class CompiledRule:
    """A rule with its expressions parsed and its subset files read."""

    def __init__(self, rule: RuleFile, base: Path | None = None) -> None:
        self.rule = rule
        self._base = base
        self._expressions: dict[str, Expression] = {}
        self._subsets: dict[str, npt.NDArray[np.uint64]] = {}
        for node, clause in self.nodes():
            if clause.sql is not None:
                self._expressions[node] = Expression.parse(clause.sql, name=clause.id or node)

    def nodes(self) -> Iterator[tuple[str, Clause]]:
        """Every clause with its place: "2" is the third top-level clause, "2.0" its first child."""

        def walk(place: str, clause: Clause) -> Iterator[tuple[str, Clause]]:
            yield place, clause
            for number, child in enumerate(clause.children):
                yield from walk(f"{place}.{number}", child)

        for number, clause in enumerate(self.rule.keep):
            yield from walk(str(number), clause)

    def columns(self, *, dedup: bool = True) -> dict[str, str]:
        """Column -> the first clause that reads it; without `dedup`, of clauses that read it while they judge rows."""
        found: dict[str, str] = {}
        for node, clause in self.nodes():
            if clause.dedup is not None and not dedup:
                continue
            for name in self._columns_of(node, clause):
                found.setdefault(name, clause.id or self.rule.reason(int(node.split(".")[0])))
        return found

    def _columns_of(self, node: str, clause: Clause) -> list[str]:
        if clause.sql is not None:
            return sorted(self._expressions[node].columns)
        if clause.in_ is not None:
            return [clause.in_.column] if clause.in_.column else []
        if clause.top is not None:
            return [clause.top.column]
        if clause.exact_k is not None:
            return [clause.exact_k.column]
        if clause.dedup is not None:
            return [*clause.dedup.by, *clause.dedup.order]
        return []

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        """Bind every expression to the column types; type errors come before any work."""
        for expression in self._expressions.values():
            expression.check(types)
        for node, clause in self.nodes():
            if clause.in_ is not None and clause.in_.column is not None:
                try:
                    listed(clause.in_.values or [], types[clause.in_.column])
                except UsageError as error:
                    raise UsageError(f"clause {clause.id or node}: {error.message}") from error
            for name in clause.dedup.order if clause.dedup is not None else ():
                if pa.types.is_nested(types[name]):
                    raise UsageError(
                        f"clause {clause.id or node}: column {name!r} is {types[name]}, which has no order"
                    )
            ranked = clause.top or clause.exact_k
            if ranked and not (
                pa.types.is_integer(types[ranked.column]) or pa.types.is_floating(types[ranked.column])
            ):
                name = clause.id or node
                raise UsageError(
                    f"clause {name}: column {ranked.column!r} is {types[ranked.column]}, which has no order by size"
                )

    def load(self) -> None:
        """Read the subset files that clauses name."""
        for node, clause in self.nodes():
            if clause.in_ is not None and clause.in_.subset is not None:
                self._subset(node, clause.in_.subset)

    def _subset(self, node: str, name: str) -> npt.NDArray[np.uint64]:
        if node not in self._subsets:
            from curate.subset import load_words

            self._subsets[node] = load_words((self._base or Path()) / name)
        return self._subsets[node]

    def evaluate(self, position: int, scope: Scope, alive: Mask, states: Mapping[str, State]) -> Truth:
        """Clause number `position` over a block; only rows in `alive` need a right answer."""
        return self._node(str(position), self.rule.keep[position], scope, alive, states)

    def _node(
        self, node: str, clause: Clause, scope: Scope, alive: Mask, states: Mapping[str, State]
    ) -> Truth:
        if clause.sql is not None:
            expression = self._expressions[node]
            columns = {name: scope.column(name, alive) for name in expression.columns}
            return expression.evaluate(columns, scope.rows)
        if clause.in_ is not None:
            if clause.in_.column is None:
                left, right = search_words(self._subset(node, clause.in_.subset or ""), scope.uids())
                return right > left, None
            return is_in(scope.column(clause.in_.column, alive), clause.in_.values or [])
        if clause.sample is not None:
            return sample(scope.uids(), clause.sample.fraction, clause.sample.seed), None
        if clause.top is not None:
            state = TopState(clause.top.least) if clause.top.fraction is None else states[node]
            assert isinstance(state, TopState)
            values, missing = numbers(scope.column(clause.top.column, alive))
            return _at_least(values, missing, state.value), missing
        if clause.exact_k is not None:
            state = states[node]
            assert isinstance(state, ExactState)
            values, missing = numbers(scope.column(clause.exact_k.column, alive))
            return _exact(values, missing, state, scope), missing
        if clause.dedup is not None:
            state = states[node]
            assert isinstance(state, DedupState)
            true, unknown = ~_marked(state.dropped, scope), None
            if scope.shard in state.absent:
                unknown = _marked(state.absent, scope)
                true &= ~unknown
            return true, unknown
        children = [
            self._node(f"{node}.{i}", child, scope, alive, states) for i, child in enumerate(clause.children)
        ]
        if clause.not_ is not None:
            true, unknown = children[0]
            return ~true if unknown is None else ~(true | unknown), unknown
        return _combine(children, every=clause.all_ is not None)


def _combine(children: list[Truth], *, every: bool) -> Truth:
    """Kleene's all (`every`) or any."""
    true, unknown = children[0]
    for more_true, more_unknown in children[1:]:
        false = ~true if unknown is None else ~(true | unknown)
        more_false = ~more_true if more_unknown is None else ~(more_true | more_unknown)
        joined = (true & more_true) if every else (true | more_true)
        if unknown is None and more_unknown is None:
            true = joined
            continue
        settled_false = (false | more_false) if every else (false & more_false)
        true, unknown = joined, ~(joined | settled_false)
    return true, unknown


def is_in(column: Column, values: list[Any]) -> Truth:
    """Membership in a list; null is unknown."""
    array = pa.array(column) if isinstance(column, np.ndarray) else column
    wanted = listed(values, array.type)
    if pa.types.is_floating(array.type):
        found, missing = numbers(column)
        true = np.isin(found, np.asarray(wanted).astype(found.dtype))
        return true if missing is None else true & ~missing, missing
    unknown = np.asarray(array.is_null().to_numpy(zero_copy_only=False)) if array.null_count else None
    if pa.types.is_dictionary(array.type):
        table = np.asarray(pc.is_in(array.dictionary, value_set=wanted).to_numpy(zero_copy_only=False))
        codes = array.indices.fill_null(0) if array.null_count else array.indices
        true = table[np.asarray(codes)] if len(table) else np.zeros(len(array), bool)
        if unknown is not None:
            true = true & ~unknown
    else:
        true = np.array(pc.is_in(array, value_set=wanted).to_numpy(zero_copy_only=False))
    return true, unknown


def listed(values: list[Any], type_: pa.DataType) -> pa.Array:
    """`values` in the type of a column; integers beyond it are left out, since no row can hold them."""
    type_ = type_.value_type if pa.types.is_dictionary(type_) else type_
    try:
        if not pa.types.is_integer(type_):
            return pa.array(values).cast(type_) if values else pa.array([], type_)
        bounds = np.iinfo(type_.to_pandas_dtype())
        if any(isinstance(value, str) or value != int(value) for value in values):
            raise ValueError("not whole numbers")
        return pa.array([int(value) for value in values if bounds.min <= value <= bounds.max], type_)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"values {values!r} do not fit a column of {type_}") from error


def sample(words: npt.NDArray[np.uint64], fraction: float, seed: int) -> Mask:
    """A uniform share of uids: SplitMix64's finaliser over both words and the seed, compared with fraction x 2^64."""
    mixed = mix(words[:, 0] ^ mix(words[:, 1] ^ mix(np.array([seed & (2**64 - 1)], np.uint64))))
    if fraction >= 1:
        return np.ones(len(words), bool)
    return mixed < np.uint64(int(fraction * 2**64))


def mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def _at_least(values: npt.NDArray[Any], missing: Mask | None, value: float | int | None) -> Mask:
    if value is None:
        return np.ones(len(values), bool) if missing is None else ~missing
    if values.dtype.kind == "f":
        # the cut is compared in the column's own precision
        true = np.asarray(values >= values.dtype.type(value))
    else:
        least = math.ceil(value) if math.isfinite(value) else value
        true = np.asarray(values >= least)  # exact, never as doubles
    return true if missing is None else true & ~missing


def _exact(values: npt.NDArray[Any], missing: Mask | None, state: ExactState, scope: Scope) -> Mask:
    if state.nothing:
        return np.zeros(len(values), bool)
    if state.value is None:
        return _at_least(values, missing, None)
    cut = values.dtype.type(state.value) if values.dtype.kind == "f" else state.value
    true = values > cut
    if state.last is not None:
        equal = np.flatnonzero(values == cut)
        words = scope.uids()[equal]
        hi, lo = np.uint64(state.last[0]), np.uint64(state.last[1])
        true[equal] = (words[:, 0] < hi) | ((words[:, 0] == hi) & (words[:, 1] <= lo))
    return true if missing is None else true & ~missing


def _marked(files: Mapping[str, str], scope: Scope) -> Mask:
    """Rows of the block whose numbers are in the shard's file."""
    marked = np.zeros(scope.rows, bool)
    file = files.get(scope.shard)
    if file is None:
        return marked
    numbers_ = np.load(file, mmap_mode="r", allow_pickle=False)
    place = scope.row_numbers()
    if isinstance(place, slice):
        first, last = np.searchsorted(numbers_, [place.start, place.stop])
        marked[numbers_[first:last] - place.start] = True
        return marked
    if not len(numbers_) or not len(place):
        return marked
    rows = int(max(numbers_[-1], place.max())) + 1
    if rows <= 16 * len(place):  # a table of the shard's rows is looked up faster than numbers are searched
        whole = np.zeros(rows, bool)
        whole[numbers_] = True
        return whole[place]
    at = np.minimum(np.searchsorted(numbers_, place), len(numbers_) - 1)
    return np.asarray(numbers_[at] == place)


def absent(column: Column) -> Mask | None:
    """Rows where the column is null or NaN; None when there are none."""
    type_ = pa.from_numpy_dtype(column.dtype) if isinstance(column, np.ndarray) else column.type
    if pa.types.is_floating(type_):
        return numbers(column)[1]
    if isinstance(column, np.ndarray) or not column.null_count:
        return None
    return np.asarray(column.is_null().to_numpy(zero_copy_only=False))
