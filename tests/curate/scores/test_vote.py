"""The label model against a slow EM row by row, against truth that made the votes, and the scorer over votes of every kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from curate._labelmodel import NO, SILENT, YES, Model, agreement, fit, roles, share_of_yes
from curate.binding import prepare
from curate.filtering import filter_pool
from curate.pool import Pool
from curate.pooldata import bind
from curate.rules import named_rule
from curate.scores.vote import Config, Scorer, decode, encode
from curate.sidecars import ScorerRef
from curate.subset import from_hex, load_words, write_sorted
from headwater import console
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.executor import Executor
from headwater.steps import RunOptions
from tests.curate.feature_kit import feature_pool, scored, scored_with_facts, uid_of


def slow_em(
    rows: Sequence[Sequence[int]], rounds: int
) -> tuple[float, list[float], list[float], list[float]]:
    """Dawid and Skene's EM over single rows, in loops: (good, yes_if_good, yes_if_bad, chance of each row)."""
    voters = range(len(rows[0]))
    q = [sum(v == YES for v in row) / sum(v != SILENT for v in row) for row in rows]
    for _ in range(rounds):
        good = (sum(q) + 1) / (len(rows) + 2)
        a, b = [], []
        for j in voters:
            voted = [(row[j] == YES, p) for row, p in zip(rows, q, strict=True) if row[j] != SILENT]
            a.append((sum(p for yes, p in voted if yes) + 1) / (sum(p for _, p in voted) + 2))
            b.append((sum(1 - p for yes, p in voted if yes) + 1) / (sum(1 - p for _, p in voted) + 2))
        new = []
        for row in rows:
            one, two = good, 1 - good
            for j in voters:
                if row[j] == YES:
                    one, two = one * a[j], two * b[j]
                elif row[j] == NO:
                    one, two = one * (1 - a[j]), two * (1 - b[j])
            new.append(one / (one + two))
        last, q = q, new
    return good, a, b, q if rounds else last


VOTE = st.sampled_from([NO, YES, SILENT])
SPOKEN = st.lists(VOTE, min_size=4, max_size=4).filter(lambda row: set(row) != {SILENT})


@settings(max_examples=40)
@given(rows=st.lists(SPOKEN, min_size=1, max_size=25))
def test_patterns_give_what_single_rows_give(rows: list[list[int]]) -> None:
    every = np.array(rows, np.int8)
    patterns, where, times = np.unique(every, axis=0, return_inverse=True, return_counts=True)
    found = fit(patterns, times.astype(float))
    assume(found.rounds < 500)
    good, a, b, q = slow_em(rows, found.rounds)
    assert found.good == pytest.approx(good, abs=1e-6)
    assert found.yes_if_good == pytest.approx(a, abs=1e-5)
    assert found.yes_if_bad == pytest.approx(b, abs=1e-5)
    assert found.posterior(patterns)[where.ravel()] == pytest.approx(q, abs=1e-5)


def made(rows: int, good: float, a: Sequence[float], b: Sequence[float], silent: float, seed: int) -> Any:
    """(truth, votes) drawn from the model."""
    rng = np.random.default_rng(seed)
    truth = rng.random(rows) < good
    chance = np.where(truth[:, None], np.array(a), np.array(b))
    votes = (rng.random(chance.shape) < chance).astype(np.int8)
    votes[rng.random(chance.shape) < silent] = SILENT
    return truth, votes


def test_error_rates_that_made_the_votes_are_found_again() -> None:
    a, b = [0.9, 0.8, 0.7, 0.95, 0.6], [0.1, 0.3, 0.2, 0.4, 0.05]
    truth, votes = made(40_000, 0.3, a, b, 0.2, 1)
    patterns, where, times = np.unique(votes, axis=0, return_inverse=True, return_counts=True)
    found = fit(patterns, times.astype(float))
    assert found.converged
    assert found.good == pytest.approx(0.3, abs=0.02)
    assert found.yes_if_good == pytest.approx(a, abs=0.03)
    assert found.yes_if_bad == pytest.approx(b, abs=0.03)
    right = [((votes[:, j] == YES) == truth)[votes[:, j] != SILENT].mean() for j in range(5)]
    assert found.accuracy == pytest.approx(right, abs=0.02)
    chance = found.posterior(patterns)[where.ravel()]
    share = np.nan_to_num(share_of_yes(votes), nan=0.5)
    assert ((chance > 0.5) == truth).mean() > ((share > 0.5) == truth).mean()
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):  # a chance is a share of rows
        some = (chance >= low) & (chance < low + 0.2)
        assert truth[some].mean() == pytest.approx(chance[some].mean(), abs=0.06)


def test_a_share_that_is_known_is_kept() -> None:
    _, votes = made(2000, 0.5, [0.9] * 3, [0.1] * 3, 0, 2)
    assert fit(votes, np.ones(2000), good=0.25).good == 0.25


def test_posterior_is_bayes() -> None:
    model = Model(0.2, np.array([0.9, 0.5]), np.array([0.3, 0.1]), 1, True)
    found = model.posterior(np.array([[YES, NO], [SILENT, SILENT], [NO, YES]], np.int8))
    one, two = 0.2 * 0.9 * 0.5, 0.8 * 0.3 * 0.9
    assert found == pytest.approx(
        [one / (one + two), 0.2, 0.2 * 0.1 * 0.5 / (0.2 * 0.1 * 0.5 + 0.8 * 0.7 * 0.1)]
    )


def test_agreement_counts_rows_where_both_speak() -> None:
    votes = np.array([[YES, YES, SILENT], [YES, NO, SILENT], [SILENT, NO, SILENT]], np.int8)
    found = agreement(votes, np.array([3.0, 1.0, 5.0]))
    assert found[:2, :2].tolist() == [[1.0, 0.75], [0.75, 1.0]]
    assert np.isnan(found[2]).all()


def test_voters_that_tell_nothing() -> None:
    votes = np.array([[1, 0, 1, 2, 1, 2], [0, 0, 1, 2, 0, 1], [1, 0, 2, 2, 1, 0]], np.int8)
    assert roles(votes, list("abcdef")) == [
        "used",
        "always says no",
        "always says yes",
        "never votes",
        "votes as a does",
        "used",
    ]
    with pytest.raises(ValueError, match="2 voters"):
        fit(votes[:, [0, 5]], np.ones(3))


@given(votes=st.lists(st.lists(VOTE, min_size=40, max_size=40), max_size=5))
def test_votes_as_one_number(votes: list[list[int]]) -> None:
    array = np.array(votes, np.int8).reshape(-1, 40)
    assert (decode(encode(array), 40) == array).all()


def subset(path: Path, rows: Sequence[int]) -> Path:
    with open(path, "wb") as handle:
        write_sorted(handle, [from_hex([uid_of(i) for i in sorted(rows)])] if len(rows) else [])
    return path


def written(folder: Path, voters: list[dict[str, Any]], **more: Any) -> Path:
    path = folder / "votes.yaml"
    path.write_text(yaml.safe_dump({"format": "votes/1", "voters": voters, **more}), encoding="utf-8")
    return path


@pytest.fixture
def ballot(tmp_path: Path) -> tuple[dict[str, Any], Path, Any]:
    """(pool's columns, file of voters, the votes they mean)"""
    truth, votes = made(400, 0.4, [0.9, 0.8, 0.85, 0.7], [0.1, 0.2, 0.1, 0.3], 0.15, 7)
    columns = {
        "s": [None if v == SILENT else 0.5 + 0.25 * int(v) for v in votes[:, 0]],
        "w": [int(v) for v in votes[:, 1]],
        "text": ["one two three" if v == YES else "one" for v in votes[:, 3]],
    }
    votes[:, 3] = np.where(votes[:, 3] == YES, YES, NO)
    subset(tmp_path / "yes.npy", np.flatnonzero(votes[:, 2] == YES))
    subset(tmp_path / "spoke.npy", np.flatnonzero(votes[:, 2] != SILENT))
    voters = [
        {"name": "score", "sql": "s >= 0.6"},
        {"name": "width", "sql": "w = 1", "abstain": "w = 2"},
        {"name": "other", "subset": "yes.npy", "covers": "spoke.npy"},
        {"name": "words", "sql": "n_words > 2"},  # of the scorer caption, computed on the way
    ]
    return columns, written(tmp_path, voters, scores=["caption"]), votes


def test_votes_of_every_kind(tmp_path: Path, ballot: Any) -> None:
    columns, path, votes = ballot
    pool = feature_pool(tmp_path / "p", {}, columns=columns, shards=[150, 250])
    table, facts = scored_with_facts(pool, "vote", votes=path)
    expected = fit(votes, np.ones(len(votes)))
    assert table["vote"].to_pylist() == pytest.approx(expected.posterior(votes).tolist(), abs=1e-5)
    notes = facts["notes"]
    assert notes["method"] == "Dawid-Skene" and notes["good"] == pytest.approx(expected.good, abs=1e-5)
    assert [v["accuracy"] for v in notes["voters"]] == pytest.approx(expected.accuracy.tolist(), abs=1e-5)
    assert [v["votes"] for v in notes["voters"]] == (votes != SILENT).sum(axis=0).tolist()
    assert [v["yes"] for v in notes["voters"]] == (votes == YES).sum(axis=0).tolist()
    assert notes["agreement"][0][1] == pytest.approx(agreement(votes, np.ones(len(votes)))[0, 1], abs=1e-6)


def test_layout_changes_nothing(tmp_path: Path, ballot: Any) -> None:
    columns, path, _ = ballot
    one = feature_pool(tmp_path / "one", {}, columns=columns, shards=1)
    order = np.random.default_rng(0).permutation(400)
    many = feature_pool(tmp_path / "many", {}, columns=columns, shards=[0, 399, 1], order=order)
    assert scored(one, "vote", votes=path).equals(scored(many, "vote", votes=path))


def test_silent_rows_have_no_score(tmp_path: Path) -> None:
    subset(tmp_path / "x.npy", [0, 1, 2])
    subset(tmp_path / "none.npy", [])
    path = written(
        tmp_path,
        [
            {"name": "a", "sql": "s > 1"},
            {"name": "b", "sql": "s > 2"},
            {"name": "c", "sql": "s > 3"},
            {"name": "d", "subset": "x.npy", "covers": "none.npy"},
        ],
    )
    pool = feature_pool(tmp_path / "p", {}, columns={"s": [0.0, 1.5, 2.5, 3.5, None, math.nan]})
    said: list[str] = []
    table, facts = listening(said, pool, path)
    assert table["vote"].null_count == 2 and table["vote"].to_pylist()[4:] == [None, None]
    assert facts["counts"]["invalid"] == {"vote: every voter is silent": 2}
    assert said == ["vote: voter d never votes, and tells nothing"]


def listening(said: list[str], pool: Path, path: Path) -> Any:
    class Ear(console.Silent):
        def message(self, level: str, text: str, fields: dict[str, Any]) -> None:
            if level == "warning":
                said.append(text)

    before = console._sink.get()
    console.listen(Ear())
    try:
        return scored_with_facts(pool, "vote", votes=path)
    finally:
        console.listen(before)


@pytest.mark.parametrize("voters", [1, 2])
def test_too_few_voters_are_told(tmp_path: Path, voters: int) -> None:
    path = written(tmp_path, [{"name": f"v{j}", "sql": f"s > {j}"} for j in range(voters)])
    pool = feature_pool(tmp_path / "p", {}, columns={"s": [-1.0, 0.5, 1.5]})
    said: list[str] = []
    table, facts = listening(said, pool, path)
    assert table["vote"].to_pylist() == [[0.0, 1.0, 1.0], [0.0, 0.5, 1.0]][voters - 1]
    assert facts["notes"]["method"] == "share of yes"
    assert len(said) == 1 and "the score is the share of yes" in said[0]


def test_no_rows(tmp_path: Path) -> None:
    path = written(tmp_path, [{"name": f"v{j}", "sql": f"s > {j}"} for j in range(3)])
    pool = feature_pool(tmp_path / "p", {}, columns={"s": []}, shards=[0])
    assert scored(pool, "vote", votes=path).num_rows == 0


def test_what_was_voted_with_is_part_of_the_identity(tmp_path: Path, ballot: Any) -> None:
    columns, path, _ = ballot
    pool = Pool.open(feature_pool(tmp_path / "p", {}, columns=columns))

    def folder() -> Path:
        return bind(ScorerRef("vote", (("votes", path),)), pool).folder(pool.cache)

    first = folder()
    assert folder() == first
    subset(tmp_path / "yes.npy", [5])
    assert folder() != first
    second = folder()
    path.write_text(path.read_text().replace("0.6", "0.7"))
    assert folder() not in (first, second)


@pytest.mark.parametrize(
    ("voters", "words"),
    [
        ([], "voters"),
        ([{"name": "a"}], "give one of sql and subset"),
        ([{"name": "a", "sql": "s > 1", "subset": "x.npy"}], "give one of sql and subset"),
        ([{"name": "a", "sql": "s > 1"}, {"name": "a", "sql": "s > 2"}], "two voters are called 'a'"),
        ([{"name": "a", "sql": "s > 1", "weight": 2}], "weight"),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, voters: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Scorer(Config(votes=written(tmp_path, voters)))


def test_voters_that_cannot_be_read(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "p", {}, columns={"s": [1.0]}, shards=1)
    with pytest.raises(UsageError, match="needs a file of voters"):
        Scorer(Config())
    with pytest.raises(MissingInput):
        Scorer(Config(votes=tmp_path / "nowhere.yaml"))
    with pytest.raises(UsageError, match="would need itself"):
        Scorer(Config(votes=written(tmp_path, [{"name": "a", "sql": "s > 1"}], scores=["vote"])))
    with pytest.raises(UsageError, match="good is 1"):
        Scorer(Config(votes=written(tmp_path, [{"name": "a", "sql": "s > 1"}]), good=1.0))
    with pytest.raises(UsageError, match="no column 'nothing'"):
        scored(pool, "vote", votes=written(tmp_path, [{"name": "a", "sql": "nothing > 1"}]))
    with pytest.raises(MissingInput, match=r"x\.npy"):
        scored(pool, "vote", votes=written(tmp_path, [{"name": "a", "subset": "x.npy"}]))
    (tmp_path / "x.npy").write_bytes(b"no subset")
    with pytest.raises(IntegrityError):
        scored(pool, "vote", votes=written(tmp_path, [{"name": "a", "subset": "x.npy"}]))


def test_the_named_filter(tmp_path: Path, ballot: Any) -> None:
    columns, path, votes = ballot
    pool = feature_pool(tmp_path / "p", {}, columns=columns)
    ready = prepare(Pool.open(pool), named_rule("vote", {"votes": path.name, "threshold": 0.5}), tmp_path)
    filter_pool(ready, tmp_path / "s.npy", executor=Executor("serial", 1), options=RunOptions())
    chance = fit(votes, np.ones(len(votes))).posterior(votes).astype(np.float32)
    assert len(load_words(tmp_path / "s.npy")) == int((chance >= 0.5).sum())
