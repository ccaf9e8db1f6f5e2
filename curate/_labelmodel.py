"""What several voters' yes, no and silence say together: the two-class model of Dawid and Skene, fitted by EM.

A. P. Dawid and A. M. Skene, "Maximum likelihood estimation of observer error-rates using the EM algorithm", Applied Statistics 28
(1979). Each row is good or bad, unseen; given which, voters err independently of each other. Voter j says yes to a good row with
probability a_j and to a bad one with b_j, and its silence says nothing. The share of good rows is π.

    start     each row is good with the share of yes among its votes (so "good" is what most voters call yes)
    M step    π = (Σ q + 1) / (rows + 2),  a_j = (Σ q·yes + 1) / (Σ q·voted + 2),  b_j likewise with 1 − q
    E step    q = π Π a^yes (1 − a)^no / (that + (1 − π) Π b^yes (1 − b)^no)
    end       when no parameter moves by more than 1e-8, or after 5,000 rounds

The ones and twos are one vote each way beforehand (a uniform prior's mode moved off 0 and 1), so that a voter that never errs on
the rows at hand is not taken for infallible. Rows with the same votes are one pattern: a round costs patterns × voters, not rows.
With fewer than three voters that differ the error rates are not determined by the votes (the paper's section 4), and `fit` says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Votes = npt.NDArray[np.int8]
NO, YES, SILENT = 0, 1, 2
MOVED_LEAST = 1e-8
MOST_ROUNDS = 5_000
LEAST_VOTERS = 3


@dataclass(frozen=True)
class Model:
    """Fitted parameters; `good` is π, `yes_if_good` a_j and `yes_if_bad` b_j."""

    good: float
    yes_if_good: Doubles
    yes_if_bad: Doubles
    rounds: int
    converged: bool

    @property
    def accuracy(self) -> Doubles:
        """Share of each voter's votes that are right."""
        return np.asarray(self.good * self.yes_if_good + (1 - self.good) * (1 - self.yes_if_bad))

    def posterior(self, votes: Votes) -> Doubles:
        """The chance that a row with these votes is good, for each row of (n, voters)."""
        yes, no = votes == YES, votes == NO
        a, b = self.yes_if_good, self.yes_if_bad
        odds = yes @ np.log(a / b) + no @ np.log((1 - a) / (1 - b)) + np.log(self.good / (1 - self.good))
        return np.asarray(0.5 * (1 + np.tanh(odds / 2)))


def fit(votes: Votes, rows: Doubles, *, good: float | None = None) -> Model:
    """Fit to patterns (n, voters) of NO, YES and SILENT that `rows` rows each have; `good` fixes π. Rows without votes are passed over.

    Raises ValueError for fewer than three voters; call `roles` first and leave out those that tell nothing.
    """
    if votes.shape[1] < LEAST_VOTERS:
        raise ValueError(f"{votes.shape[1]} voters; at least {LEAST_VOTERS} are needed")
    spoke = (votes != SILENT).any(axis=1)
    votes, rows = votes[spoke], rows[spoke]
    yes, voted = (votes == YES).astype(np.float64), (votes != SILENT).astype(np.float64)
    q = share_of_yes(votes)
    old = np.full(1 + 2 * votes.shape[1], np.inf)
    for number in range(1, MOST_ROUNDS + 1):
        right, wrong = rows * q, rows * (1 - q)
        prior = (right.sum() + 1) / (rows.sum() + 2) if good is None else good
        a = (right @ yes + 1) / (right @ voted + 2)
        b = (wrong @ yes + 1) / (wrong @ voted + 2)
        model = Model(float(prior), a, b, number, False)
        new = np.concatenate([[prior], a, b])
        if np.abs(new - old).max() <= MOVED_LEAST:
            return Model(model.good, a, b, number, True)
        old, q = new, model.posterior(votes)
    return model


def share_of_yes(votes: Votes) -> Doubles:
    """Yes among the votes of each row; NaN where all are silent."""
    voted = (votes != SILENT).sum(axis=1)
    return np.where(voted, (votes == YES).sum(axis=1) / np.maximum(voted, 1), np.nan)


def agreement(votes: Votes, rows: Doubles) -> Doubles:
    """Share of equal votes among the rows on which both voters speak, for each pair; NaN where there are none."""
    yes, no = (votes == YES).astype(np.float64), (votes == NO).astype(np.float64)
    equal = (yes * rows[:, None]).T @ yes + (no * rows[:, None]).T @ no
    voted = yes + no
    both = (voted * rows[:, None]).T @ voted
    return np.where(both > 0, equal / np.maximum(both, 1), np.nan)


def roles(votes: Votes, names: list[str]) -> list[str]:
    """What each voter tells: "used", or why it cannot tell good rows from bad ones."""
    out: list[str] = []
    for j in range(votes.shape[1]):
        mine = votes[:, j]
        said = set(np.unique(mine).tolist()) - {SILENT}
        twin = next((i for i in range(j) if out[i] == "used" and (votes[:, i] == mine).all()), None)
        if not said:
            out.append("never votes")
        elif len(said) == 1:
            out.append("always says yes" if YES in said else "always says no")
        else:
            out.append("used" if twin is None else f"votes as {names[twin]} does")
    return out
