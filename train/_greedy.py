"""The greedy choice of ingredients by a held-out score, apart from what the ingredients are.

Algorithm 1 of arXiv 2203.05482: sort by the score of each alone, best first; keep the next one if the score of all kept with it is
at least that of all kept without it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headwater.errors import HeadwaterError
from headwater.files import write_json

Score = Callable[[frozenset[str]], float]


@dataclass(frozen=True)
class Decision:
    """What became of one candidate. `before` is the score without it (None for the first), `after` with it."""

    weights: str
    alone: float
    before: float | None
    after: float
    kept: bool

    def document(self) -> dict[str, Any]:
        """For the details of a record."""
        return asdict(self)


class Scores:
    """Scores of sets of weights, each measured once and kept in a file until the work is done."""

    def __init__(self, file: Path, measure: Score, *, on_each: Callable[[], None] = lambda: None) -> None:
        self._file, self._measure, self._on_each = file, measure, on_each
        self._known: dict[str, float] = {}
        try:
            loaded = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError):
            loaded = {}  # none yet, or cut by a kill: measured again
        if isinstance(loaded, dict):
            self._known = {key: value for key, value in loaded.items() if isinstance(value, float)}

    def __call__(self, chosen: frozenset[str]) -> float:
        """The score of the mean of `chosen`. Raises HeadwaterError for one that is not a number."""
        key = hashlib.sha256("\n".join(sorted(chosen)).encode()).hexdigest()
        if key not in self._known:
            value = self._measure(chosen)
            if not math.isfinite(value):
                raise HeadwaterError(
                    f"the held-out score of {len(chosen)} weights is {value}: nothing can be chosen by it",
                    hint="choose a metric that the suite has",
                )
            self._known[key] = value
            write_json(self._file, self._known, durable=False)
        self._on_each()
        return self._known[key]


def greedy(candidates: Sequence[str], score: Score) -> list[Decision]:
    """The decision on each candidate, best first; of equal ones the one that comes first in `candidates`."""
    alone = {name: score(frozenset([name])) for name in candidates}
    order = sorted(candidates, key=lambda name: -alone[name])
    kept, best = frozenset(order[:1]), alone[order[0]]
    decisions = [Decision(order[0], best, None, best, kept=True)]
    for name in order[1:]:
        after = score(kept | {name})
        decisions.append(Decision(name, alone[name], best, after, kept=after >= best))
        if after >= best:
            kept, best = kept | {name}, after
    return decisions
