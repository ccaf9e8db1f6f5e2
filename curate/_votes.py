"""The file of voters (`votes/1`) that a label model runs over: conditions and subset files, each a filter's yes or no.

An example is in curate.scores.vote. A voter is silent where its condition is neither true nor false (a null, a NaN), where
`abstain` holds, or, for a subset, outside `covers`. Columns are the pool's, those of the scorers listed, and stored ones beside the
pool. Relative paths start at the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from curate._labelmodel import NO, SILENT, YES, Votes
from curate.rules import RuleFile, ScoreOrName
from headwater.config import load_yaml, validate
from headwater.errors import UsageError
from headwater.manifest import Record, identity_id

if TYPE_CHECKING:
    from curate.binding import Ready
    from curate.expressions import Expression
    from curate.pool import Pool, Shard

MOST_VOTERS = 40  # 3 ** 40 patterns of votes fit 64 bits


class Voter(Record):
    """One filter's opinion of each row."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
    sql: str | None = Field(None, description="yes where true, no where false, silent where neither")
    subset: str | None = Field(None, description="subset file: yes for its uids, no for all others")
    abstain: str | None = Field(None, description="SQL condition: silent where true")
    covers: str | None = Field(None, description="subset file: silent for uids outside it")

    @model_validator(mode="after")
    def _one(self) -> Voter:
        if (self.sql is None) == (self.subset is None):
            raise ValueError("give one of sql and subset")
        return self


class VotesFile(Record):
    """`votes/1`: who votes."""

    format: Literal["votes/1"]
    scores: list[ScoreOrName] = Field(default_factory=list, description="scorers whose columns voters use")
    voters: Annotated[list[Voter], Field(min_length=1, max_length=MOST_VOTERS)]

    @model_validator(mode="after")
    def _names(self) -> VotesFile:
        names = [voter.name for voter in self.voters]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two voters are called {name!r}")
        if any(score.scorer == "vote" for score in self.scores):
            raise ValueError("a vote over the scorer vote would need itself")
        return self


def load_votes(path: Path) -> VotesFile:
    """The voters of a file. Raises MissingInput, or UsageError naming what is wrong with it."""
    return validate(VotesFile, load_yaml(path), str(path))


class Ballot:
    """Voters bound to a pool: columns, types and subset files are checked, nothing has been read but footers."""

    def __init__(self, votes: VotesFile, pool: Pool, base: Path) -> None:
        from curate.binding import prepare
        from curate.expressions import Expression

        self._pool, self._base, self._voters = pool, base, votes.voters
        conditions = {v.name: v.sql for v in votes.voters if v.sql is not None}
        conditions |= {f"{v.name}: abstain": v.abstain for v in votes.voters if v.abstain is not None}
        rule = {
            "format": "rule/1",
            "name": "votes",
            "scores": [score.model_dump() for score in votes.scores],
            "keep": [{"id": name, "sql": sql} for name, sql in conditions.items()],
        }
        # a rule of all conditions finds their columns: of the pool, of scorers, and stored ones
        self._ready: Ready = prepare(pool, RuleFile.model_validate(rule), base)
        self._expressions: dict[str, Expression] = {
            name: Expression.parse(sql, name=name) for name, sql in conditions.items()
        }
        self._subsets: dict[str, npt.NDArray[np.uint64]] = {}

    @property
    def inputs(self) -> dict[str, str]:
        """Role -> id of each subset file and each set of scores that votes are made of."""
        from headwater.hashing import digest_file

        found = {}
        for voter in self._voters:
            for role, name in (("subset", voter.subset), ("covers", voter.covers)):
                if name is not None:
                    self._words(name)
                    digest = digest_file(self._base / name, ("sha256",))
                    found[f"{role}:{voter.name}"] = digest.sha256
        refs = {ref.name: ref for ref in self._ready.scorers.values()}
        return found | {f"scores:{name}": identity_id(ref.identity) for name, ref in refs.items()}

    def compute_missing(self, **options: Any) -> None:
        """Run the scorers of whole pools that voters use, unless their scores are there."""
        from curate.pooldata import ensure_scored

        for ref in self._ready.whole:
            ensure_scored(self._pool, ref, **options)

    def blocks(self, shard: Shard) -> Iterator[Votes]:
        """(rows, voters) of NO, YES and SILENT for each row group of a shard."""
        from curate.blockscores import BlockScores
        from curate.views import RawView

        view = RawView(shard, dict(self._ready.types))
        scores = BlockScores(view, self._pool.cache, self._pool.digests(shard).sha256, store=False)
        for block in view.blocks():
            source = _Source(self._ready, scores, block)
            out = np.empty((block.rows, len(self._voters)), np.int8)
            for number, voter in enumerate(self._voters):
                out[:, number] = self._votes(voter, source)
            yield out

    def _votes(self, voter: Voter, source: _Source) -> Votes:
        if voter.subset is not None:
            votes = np.where(source.inside(self._words(voter.subset)), YES, NO).astype(np.int8)
        else:
            true, unknown = source.truth(self._expressions[voter.name])
            votes = np.where(true, YES, NO).astype(np.int8)
            if unknown is not None:
                votes[unknown] = SILENT
        if voter.covers is not None:
            votes[~source.inside(self._words(voter.covers))] = SILENT
        if voter.abstain is not None:
            votes[source.truth(self._expressions[f"{voter.name}: abstain"])[0]] = SILENT
        return votes

    def _words(self, name: str) -> npt.NDArray[np.uint64]:
        from curate.subset import load_words

        if name not in self._subsets:
            self._subsets[name] = load_words(self._base / name)
        return self._subsets[name]


@dataclass
class _Source:
    """The columns and uids of one block."""

    ready: Ready
    scores: Any
    block: Any

    def truth(self, expression: Expression) -> tuple[Any, Any]:
        columns = {name: self._column(name) for name in expression.columns}
        return expression.evaluate(columns, self.block.rows)

    def _column(self, name: str) -> Any:
        ref = self.ready.scorers.get(name)
        if ref is None:
            return self.block.column(name)
        return self.scores.of(self.block, ref, np.ones(self.block.rows, bool))[name]

    def inside(self, words: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        from curate._order import search_words

        left, right = search_words(words, self.block.uids()[0])
        return np.asarray(right > left)


def checked_base(path: Path | None) -> Path:
    """The folder of a file of voters. Raises UsageError when none was given."""
    if path is None:
        raise UsageError(
            "vote needs a file of voters", hint="--votes FILE.yaml; see headwater score vote --help"
        )
    return path.parent
