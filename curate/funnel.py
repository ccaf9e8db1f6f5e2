"""What a filter run says about itself: counts that close, the funnel with its cuts, and where repeated uids lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from curate._order import search_words
from curate._pages import words_of
from curate.clauses import ExactState, State, TopState
from curate.pool import Pool
from curate.rules import Clause
from curate.shardpass import DUPLICATE_UID, NULL_UID, Result
from curate.subset import from_hex
from curate.views import RawView
from headwater.errors import BadInputs
from headwater.manifest import Counts
from headwater.steps import Outcome

if TYPE_CHECKING:
    from curate.binding import Ready


def check_outcome(outcome: Outcome, *, allow_invalid: bool) -> None:
    """Raise BadInputs when rows could not be judged: partial success is never silent."""
    invalid = {reason: n for reason, n in outcome.step.identity.counts.invalid.items() if n}
    if invalid and not allow_invalid:
        listed = "; ".join(f"{n:,} × {reason}" for reason, n in invalid.items())
        places = outcome.step.details.get("repeated_uids") or []
        examples = "".join(f"\n  uid {p['uid']}: {', '.join(p['places'])}" for p in places[:5])
        raise BadInputs(
            f"{outcome.path} is written, but {sum(invalid.values()):,} rows were invalid: {listed}{examples}",
            hint="--allow-invalid accepts them; --reasons FILE.parquet lists every row",
        )


def counts(ready: Ready, results: list[Result], written: int, surplus: int) -> Counts:
    """Rows by what happened to them; `surplus` are rows whose uid was already written."""
    dropped, invalid = {}, {}
    for position in range(len(ready.rule.keep)):
        reason = ready.rule.reason(position)
        dropped[reason] = sum(r.dropped[position] for r in results)
        lost = sum(r.invalid[position] for r in results)
        if lost:
            invalid[f"{reason}: null or NaN"] = lost
    if nulls := sum(r.null_uids for r in results):
        invalid[NULL_UID] = nulls
    if surplus:
        invalid[DUPLICATE_UID] = surplus
    return Counts(read=ready.pool.rows, kept=written, dropped=dropped, invalid=invalid)


def details(
    ready: Ready, states: Mapping[str, State], results: list[Result], counts: Counts
) -> dict[str, Any]:
    """What the record tells people: the funnel with its cuts, and what was scored."""
    funnel = []
    left = counts.read
    for position, clause in enumerate(ready.rule.keep):
        reason = ready.rule.reason(position)
        lost = counts.dropped[reason] + sum(r.invalid[position] for r in results)
        funnel.append(
            {
                "id": reason,
                "clause": clause.text(),
                "kind": clause.kind,
                "in": left,
                "out": left - lost,
                **_cut(position, clause, states),
            }
        )
        left -= lost
    scored: dict[str, int] = {}
    for result in results:
        for name, rows in result.scored.items():
            scored[name] = scored.get(name, 0) + rows
    return {
        "rule": ready.rule.name,
        "shards": len(results),
        "funnel": funnel,
        "rows_scored": scored,
        "shards_from_index": sum(r.indexed for r in results),
    }


def _cut(position: int, clause: Clause, states: Mapping[str, State]) -> dict[str, Any]:
    state = states.get(str(position))
    if clause.top is not None and clause.top.threshold is not None:
        return {"column": clause.top.column, "cut": clause.top.threshold}
    if isinstance(state, TopState | ExactState):
        ranked = clause.top or clause.exact_k
        assert ranked is not None
        cut = state.value
        finite = cut is None or isinstance(cut, int) or np.isfinite(cut)
        return {"column": ranked.column, "cut": cut if finite else str(cut)}
    return {}


def locate(pool: Pool, uids: Sequence[str]) -> dict[str, list[str]]:
    """Where uids lie: "shard NAME, row N", reading the uid columns of all shards."""
    wanted = sorted(uids)
    words = from_hex(wanted)
    found: dict[str, list[str]] = {uid: [] for uid in wanted}
    for shard in pool.shards:
        for block in RawView(shard, {}).blocks():
            theirs, _ = words_of(block.uid_strings())
            left, right = search_words(words, theirs)
            for row in np.flatnonzero(right > left).tolist():
                found[wanted[int(left[row])]].append(f"shard {shard.name}, row {block.first_row + row}")
    return found
