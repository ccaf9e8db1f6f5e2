"""What existing filters say together: the chance that a row is good, by a label model over their votes.

Weak supervision over filters, as object-detection ensembles do it (arXiv 2401.12225): each filter votes yes, no, or is silent, and a
model of how often each is right weighs the votes; the model is Dawid and Skene's (curate._labelmodel). `votes` is a YAML file:

    format: votes/1
    scores: [{scorer: negcliploss}]                   # computed when missing, as in a rule file
    voters:
      - {name: clip, sql: clip_l14_similarity_score >= 0.28}
      - {name: english, sql: language = 'en', abstain: n_words < 3}
      - {name: dfn, subset: dfn.npy, covers: dfn_scored.npy}

A condition that is neither true nor false is silence, and so is a uid outside `covers`; relative paths start at the file.

`vote` is the posterior chance of "good", what most voters mean by yes. A row on which every voter is silent has no score. Voters that
never vote, always say the same, or vote as an earlier one does on every row are told and left out. With fewer than three left, error
rates cannot be known from votes alone, and `vote` is the share of yes among a row's votes, which is told too. The record holds what
the model makes of each voter, and how often each two agree. Errors of voters that are made from the same column are not
independent, as the model takes them to be: give one voter a column.

Cost: a read of the columns that are voted on. Memory: one row group, and a count for each pattern of votes that occurs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headwater.errors import UsageError

if TYPE_CHECKING:
    from curate._labelmodel import Votes
    from curate.pool import Pool
    from curate.pooldata import PoolData

VERSION = 1
SCOPE = "pool"
COLUMNS: tuple[str, ...] = ()  # those of the voters are looked up when they are bound to a pool
OUTPUT = {"vote": "float32"}
COST = "costly"
NO_VOTES = "vote: every voter is silent"
Codes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Config:
    """`votes` is needed."""

    votes: Path | None = field(default=None, metadata={"help": "YAML file of voters (votes/1)"})
    good: float = field(
        default=0.0, metadata={"help": "share of good rows, where it is known; 0 estimates it"}
    )


class Scorer:
    """Reads the file of voters when made. Raises UsageError naming what is wrong with it."""

    def __init__(self, config: Config) -> None:
        from curate._votes import checked_base, load_votes
        from headwater.manifest import identity_id

        self._base = checked_base(config.votes)
        assert config.votes is not None
        if not 0 <= config.good < 1:
            raise UsageError(f"vote: good is {config.good}: a share above 0 and below 1, or 0 to estimate it")
        self._good = config.good or None
        self._votes = load_votes(config.votes)
        document = self._votes.model_dump(mode="json", exclude={"scores"}, exclude_none=True)
        for voter in document["voters"]:  # a subset's bytes are an input, where it lies is not
            voter.update({key: True for key in ("subset", "covers") if key in voter})
        self.identity = {"votes": identity_id(document)}

    def inputs(self, pool: Pool) -> dict[str, str]:
        """Ids of the subset files and scores that vote."""
        from curate._votes import Ballot

        return Ballot(self._votes, pool, self._base).inputs

    def score_pool(self, data: PoolData) -> Iterator[dict[str, Any]]:
        """Count patterns of votes, fit the model to them, and look each row's up."""
        from curate._votes import Ballot

        ballot = Ballot(self._votes, data.pool, self._base)
        ballot.compute_missing(executor=data.executor, memory_bytes=data.memory_bytes, options=data.options)
        codes, rows = self._count(data, ballot)
        votes = decode(codes, len(self._votes.voters))
        score = self._posterior(data, votes, rows)
        silent = np.isnan(score)
        for number in range(len(data.shards)):
            found = score[np.searchsorted(codes, np.load(_file(data, number), mmap_mode="r"))]
            yield {"vote": found.astype(np.float32)}
        data.invalid(NO_VOTES, int(rows[silent].sum()))

    def _count(self, data: PoolData, ballot: Any) -> tuple[Codes, npt.NDArray[np.float64]]:
        """Codes of the patterns that occur, sorted, and how many rows have each; leaves each row's code in scratch."""
        from headwater.console import track

        codes, counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        with track("vote: count", total=data.pool.rows, unit="rows") as bar:
            for number, shard in enumerate(data.shards):
                mine = np.concatenate([np.zeros(0, np.uint64), *map(encode, ballot.blocks(shard))])
                np.save(_file(data, number), mine)
                new, times = np.unique(mine, return_counts=True)
                codes, where = np.unique(np.concatenate([codes, new]), return_inverse=True)
                counts = np.bincount(
                    where, weights=np.concatenate([counts, times]), minlength=len(codes)
                ).astype(np.int64)
                bar.add(shard.rows)
        return codes, counts.astype(np.float64)

    def _posterior(
        self, data: PoolData, votes: Votes, rows: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        from curate import _labelmodel as model
        from headwater.console import say

        names = [voter.name for voter in self._votes.voters]
        roles = model.roles(votes, names)
        used = [j for j, role in enumerate(roles) if role == "used"]
        for name, role in zip(names, roles, strict=True):
            if role != "used" and len(rows):
                say("warning", f"vote: voter {name} {role}, and tells nothing")
        facts: list[dict[str, Any]] = [
            {"name": name, "role": role} for name, role in zip(names, roles, strict=True)
        ]
        for j, fact in enumerate(facts):
            fact["votes"] = int(rows[votes[:, j] != model.SILENT].sum())
            fact["yes"] = int(rows[votes[:, j] == model.YES].sum())
        agreement = model.agreement(votes, rows)
        data.note("patterns", len(rows))
        data.note(
            "agreement", [[None if np.isnan(x) else round(float(x), 6) for x in row] for row in agreement]
        )
        data.note("voters", facts)
        if len(used) < model.LEAST_VOTERS:
            if len(rows):
                say(
                    "warning",
                    f"vote: {len(used)} voters differ, and {model.LEAST_VOTERS} are needed to know how often each errs: "
                    "the score is the share of yes",
                )
            data.note("method", "share of yes")
            return model.share_of_yes(votes)
        fitted = model.fit(votes[:, used], rows, good=self._good)
        for place, j in enumerate(used):
            facts[j]["yes_if_good"] = round(float(fitted.yes_if_good[place]), 6)
            facts[j]["yes_if_bad"] = round(float(fitted.yes_if_bad[place]), 6)
            facts[j]["accuracy"] = round(float(fitted.accuracy[place]), 6)
        data.note("method", "Dawid-Skene")
        data.note("good", round(fitted.good, 6))
        data.note("rounds", fitted.rounds)
        if not fitted.converged:
            say("warning", f"vote: the model still moved after {fitted.rounds:,} rounds")
        score = fitted.posterior(votes[:, used])
        score[(votes[:, used] == model.SILENT).all(axis=1)] = np.nan
        return score


def encode(votes: Votes) -> Codes:
    """One number a row: its votes as digits of base 3."""
    return np.asarray(votes.astype(np.uint64) @ _powers(votes.shape[1]))


def decode(codes: Codes, voters: int) -> Votes:
    """The votes behind the numbers."""
    return ((codes[:, None] // _powers(voters)) % np.uint64(3)).astype(np.int8)


def _powers(voters: int) -> Codes:
    return np.array([3**j for j in range(voters)], np.uint64)


def _file(data: PoolData, number: int) -> Path:
    return data.scratch / f"{number:08d}.votes.npy"
