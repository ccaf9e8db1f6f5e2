"""Soups apart from files: the algebra of the mean, and the greedy choice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headwater.errors import HeadwaterError, UsageError
from headwater.weights import state_digest
from train._greedy import Scores, greedy
from train.soup import average

torch = pytest.importorskip("torch")


def values_of(*states_: dict[str, Any]) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    return [(f"source {number}", lambda one=one: one) for number, one in enumerate(states_)]  # type: ignore[misc]


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return state_digest(left) == state_digest(right)


# the algebra

FLOATS = arrays.arrays(np.float32, (3,), elements=st.floats(-(2.0**100), 2.0**100, width=32))
KINDS = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


@given(values=FLOATS, kind=KINDS, times=st.integers(1, 9))
def test_the_mean_of_equal_weights_is_the_weights(values: Any, kind: Any, times: int) -> None:
    one = {"w": torch.from_numpy(values.copy()).to(kind), "count": torch.tensor([3])}
    if not bool(torch.isfinite(one["w"]).all()):
        one["w"] = torch.ones(3, dtype=kind)
    before = state_digest(one)
    assert same(average(values_of(*[one] * times)), one)
    assert state_digest(one) == before  # nothing was added to the sources


@given(rows=st.lists(FLOATS, min_size=1, max_size=6))
def test_the_mean_is_that_of_float64(rows: list[Any]) -> None:
    found = average(values_of(*({"w": torch.from_numpy(row.copy())} for row in rows)))["w"].numpy()
    exact = [math.fsum(float(row[i]) for row in rows) / len(rows) for i in range(3)]
    scale = max(float(np.abs(row).max()) for row in rows)
    assert found.dtype == np.float32
    # one rounding to float32, and at most a few of float64 in the sum
    assert all(
        abs(float(f) - e) <= abs(e) * 2.0**-24 + scale * 2.0**-48 + 2.0**-149
        for f, e in zip(found, exact, strict=True)
    )


def test_the_sum_is_not_rounded_to_the_type_of_the_weights() -> None:
    big, small = torch.tensor([2.0**24]), torch.tensor([1.0])
    rows = [{"w": big}, {"w": small}, {"w": small}, {"w": -big}]
    assert average(values_of(*rows))["w"].item() == 0.5  # in float32, 2^24 + 1 is 2^24


def test_wide_weights_are_not_changed_in_place() -> None:
    one = {"w": torch.ones(2, dtype=torch.float64)}
    assert average(values_of(one, {"w": torch.full((2,), 3.0, dtype=torch.float64)}))["w"].tolist() == [
        2.0,
        2.0,
    ]
    assert one["w"].tolist() == [1.0, 1.0]


def test_what_cannot_be_averaged_is_named() -> None:
    with pytest.raises(
        UsageError, match=r"source 0 and source 1 .*'w' is \[1\] in the first and \[2\] in the second"
    ):
        average(values_of({"w": torch.zeros(1)}, {"w": torch.zeros(2)}))
    with pytest.raises(UsageError, match="differ in 'steps', which counts"):
        average(values_of({"steps": torch.tensor(1)}, {"steps": torch.tensor(2)}))


# the greedy choice

SETS = [frozenset(chosen) for n in range(1, 5) for chosen in itertools.combinations("abcd", n)]


@settings(max_examples=60)
@given(values=st.lists(st.integers(0, 20), min_size=len(SETS), max_size=len(SETS)))
def test_greedy_never_ends_below_its_best_ingredient(values: list[int]) -> None:
    scores = dict(zip(SETS, map(float, values), strict=True))
    decisions = greedy("abcd", scores.__getitem__)
    kept = frozenset(d.weights for d in decisions if d.kept)
    assert sorted(d.weights for d in decisions) == list("abcd")
    assert [d.alone for d in decisions] == sorted((scores[frozenset(c)] for c in "abcd"), reverse=True)
    assert scores[kept] >= max(scores[frozenset(c)] for c in "abcd")
    # replayed from the record alone
    pot, best = frozenset(decisions[0].weights), decisions[0].after
    for decision in decisions[1:]:
        assert decision.before == best
        assert decision.after == scores[pot | {decision.weights}]
        assert decision.kept == (decision.after >= best)
        if decision.kept:
            pot, best = pot | {decision.weights}, decision.after
    assert pot == kept


def test_greedy_takes_an_equal_one_and_the_first_of_equals() -> None:
    decisions = greedy(["a", "b"], lambda chosen: 1.0)
    assert [(d.weights, d.kept) for d in decisions] == [("a", True), ("b", True)]


def test_a_score_that_is_no_number_is_refused(tmp_path: Path) -> None:
    scores = Scores(tmp_path / "scores.json", lambda chosen: math.nan)
    with pytest.raises(HeadwaterError, match="score of 1 weights is nan"):
        scores(frozenset("a"))
    assert not (tmp_path / "scores.json").exists()


@pytest.mark.parametrize("content", ["{", "[1]", '{"x": "1"}', "[" * 100_000])
def test_damaged_scores_are_measured_again(tmp_path: Path, content: str) -> None:
    (tmp_path / "scores.json").write_text(content)
    assert Scores(tmp_path / "scores.json", lambda chosen: 2.0)(frozenset("a")) == 2.0
