"""What each clause of a rule removed that no other clause did.

A row that a clause removed was let through by all clauses before it, so it is removed by that clause alone when the later ones keep
it. They are asked here for rows that never reached them. A clause about the whole pool (top, exact_k, dedup) is taken as it was in its
place: with its cut, and a row it never saw is no duplicate to it. A costly score that was never worked out leaves the answer open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.clauses import CompiledRule, DedupState, Scope, State, TopState
from curate.rules import RuleFile
from curate.shardpass import compiled
from curate.views import Column, RawBlock

REMOVED, FAILS, OPEN, ALONE, ALONE_OPEN = range(5)
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rule:
    """A rule with the answers its clauses got; travels to workers."""

    rule: RuleFile
    base: Path
    states: Mapping[str, State]
    costly: frozenset[str] = field(default_factory=frozenset)  # columns that may not have been worked out

    def start(self) -> Counts:
        """(clauses, 5): rows removed here, failing it wherever they went, not known, removed by it alone, perhaps alone."""
        return np.zeros((len(self.rule.keep), 5), np.int64)


def states_of(rule: CompiledRule, funnel: list[dict[str, Any]]) -> dict[str, State] | None:
    """The answers as a record tells them; None when it does not tell them all."""
    states: dict[str, State] = {}
    for node, clause in rule.nodes():
        if clause.dedup is not None:
            states[node] = DedupState({})
        elif clause.exact_k is not None or (clause.top is not None and clause.top.threshold is None):
            entry = funnel[int(node)] if node.isdigit() and int(node) < len(funnel) else {}
            if clause.exact_k is not None or not isinstance(entry.get("cut"), int | float):
                return None
            states[node] = TopState(entry["cut"])
    return states


def as_placed(states: Mapping[str, State]) -> dict[str, State]:
    """Answers without the files of duplicates: those list only rows that reached the clause, which are not asked again."""
    return {node: DedupState({}) if isinstance(s, DedupState) else s for node, s in states.items()}


def add(
    into: Counts, asked: Rule, block: RawBlock, codes: npt.NDArray[np.uint8], column: Callable[[str], Column]
) -> None:
    """Count the rows of one block; `codes` is one byte a row as `curate.shardpass` writes it."""
    count = len(into)
    if not count:
        return
    # dropped and invalid rows alike: clause number (code - 1) // 2; everything else got through
    first = np.where((codes > 0) & (codes <= 2 * count), (codes.astype(np.int64) - 1) // 2, count)
    into[:, REMOVED] += np.bincount(first, minlength=count + 1)[:count]
    if not (first < count - 1).any():
        into[:, FAILS] += np.bincount(first, minlength=count + 1)[:count]
        into[count - 1, ALONE] += int(np.count_nonzero(first == count - 1))
        return
    rule = compiled(asked.rule, asked.base)
    scope = Scope(
        block.shard.name,
        block.rows,
        lambda name, rows: column(name),
        lambda: block.uids()[0],
        block.row_numbers,
    )
    elsewhere, unclear = np.zeros(block.rows, bool), np.zeros(block.rows, bool)
    for position in range(1, count):
        rows = first < position
        if not rows.any():
            continue
        mine = columns_of(rule, position)
        if all(_there(column, name) for name in mine & asked.costly):
            true, unknown = rule.evaluate(position, scope, rows, asked.states)
        else:
            true, unknown = np.zeros(block.rows, bool), np.ones(block.rows, bool)
        open_ = rows & unknown if unknown is not None and mine & asked.costly else np.zeros(block.rows, bool)
        fails = rows & ~true & ~open_
        into[position, FAILS] += int(np.count_nonzero(fails))
        into[position, OPEN] += int(np.count_nonzero(open_))
        elsewhere |= fails
        unclear |= open_
    for position in range(count):
        rows = first == position
        into[position, FAILS] += int(np.count_nonzero(rows))
        into[position, ALONE] += int(np.count_nonzero(rows & ~elsewhere & ~unclear))
        into[position, ALONE_OPEN] += int(np.count_nonzero(rows & ~elsewhere & unclear))


def _there(column: Callable[[str], Column], name: str) -> bool:
    try:
        column(name)
    except KeyError:
        return False
    return True


def columns_of(rule: CompiledRule, position: int) -> set[str]:
    """Columns that top-level clause number `position` reads."""
    found: set[str] = set()
    for node, clause in rule.nodes():
        if int(node.split(".")[0]) == position:
            found |= set(rule._columns_of(node, clause))
    return found
