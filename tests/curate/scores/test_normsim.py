"""NormSim against its formula, one product at a time; the same to the last bit in any layout."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import _normsim
from curate._normsim import Gram, gram_norms, parse_p
from curate.binding import prepare
from curate.filtering import filter_pool
from curate.pool import Pool
from curate.rules import named_rule
from curate.scores import normsim
from headwater.errors import UsageError
from headwater.executor import Executor
from headwater.steps import RunOptions
from tests.curate.feature_kit import feature_pool, scored
from tests.curate.target_kit import Rows, invalid, layouts, run, usable, whole_rows


def formula(row: Rows, target: Rows, p: float) -> float:
    """(sum over g of |x . g|^p)^(1/p), in whole numbers as far as they go."""
    products = [abs(sum(int(a) * int(b) for a, b in zip(row, g, strict=True))) for g in target]
    if math.isinf(p):
        return max(products)
    if p == 2:
        return math.sqrt(sum(x * x for x in products))
    return math.fsum(x**p for x in products) ** (1 / p)


@settings(max_examples=15)
@given(st.data(), st.sampled_from(["inf", "2", "1", "3.5"]))
def test_it_is_the_formula_in_any_layout(data: st.DataObject, p: str) -> None:
    rows, target = data.draw(whole_rows()), data.draw(whole_rows(least=1, most=6))
    if not usable(target):
        return
    made = run("normsim", rows, target=target, p=p)
    for number, value in enumerate(made["normsim"]):
        if number not in usable(rows):
            assert value is None
            continue
        wanted = formula(rows[number], target[usable(target)], float(p))
        if p in ("inf", "2"):
            assert value == np.float32(wanted)
        else:
            assert value == pytest.approx(wanted, rel=2e-7, abs=1e-12)
    assert made.facts["counts"]["invalid"] == invalid(rows)
    assert made.facts["notes"]["target_rows"] == len(usable(target))
    again = run("normsim", rows, target=target, p=p, layout=data.draw(layouts(len(rows))), memory_bytes=600)
    assert again["normsim"] == made["normsim"]


@pytest.mark.parametrize("p", ["inf", "2", "4"])
def test_real_numbers_and_unit_length(p: str) -> None:
    rng = np.random.default_rng(5)
    rows, target = (rng.normal(size=(n, 24)).astype(np.float32) for n in (300, 90))
    rows[7] *= 1e-4  # small rows lose nothing

    def norms(a: Rows, b: Rows) -> np.ndarray:  # type: ignore[type-arg]
        return np.linalg.norm(a.astype(np.float64) @ b.astype(np.float64).T, ord=float(p), axis=1)

    def unit(a: Rows) -> Rows:
        return a / np.linalg.norm(a, axis=1, keepdims=True)

    made = run("normsim", rows, target=target, p=p)["normsim"]
    assert made == pytest.approx(norms(rows, target), rel=3e-6)
    scaled = run("normsim", rows, target=target, p=p, normalise=True)["normsim"]
    assert scaled == pytest.approx(norms(unit(rows), unit(target)), rel=3e-6)


def test_the_largest_magnitude_counts() -> None:
    target = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    rows = np.array([[-3, 1, 0], [2, 1, 0], [0, 0, 5]], np.float32)
    assert run("normsim", rows, target=target)["normsim"] == [3, 2, 0]


@given(st.data())
def test_the_sum_of_products_is_exact_and_rows_can_be_taken_out(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    rows = np.ldexp(rng.integers(-(2**22), 2**22, (40, 3)).astype(np.float64), -22).astype(np.float32)
    gone = rng.random(40) < data.draw(st.floats(0, 1))
    gram = Gram(3, float(np.abs(rows).max()))
    gram.add(rows)
    gram.add(rows[gone], -1)
    whole = np.rint(np.ldexp(rows[~gone].astype(np.float64), 22)).astype(np.int64)
    wanted = [[sum(int(r[i]) * int(r[j]) for r in whole) for j in range(3)] for i in range(3)]
    assert gram.matrix().tolist() == [[float(n) * 2.0**-44 for n in line] for line in wanted]


def test_carries_keep_long_sums_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_normsim, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(_normsim, "CARRY_AFTER", 3)
    rows = np.full((101, 2), 0.75, np.float32)
    rows[:, 1] = -0.5
    gram = Gram(2, 0.75)
    gram.add(rows)
    assert gram.matrix().tolist() == [[101 * 0.5625, -101 * 0.375], [-101 * 0.375, 101 * 0.25]]


def test_more_than_63_bits_are_kept() -> None:
    gram = Gram(1, 1 - 2.0**-22)
    gram.add(np.full((600_000, 1), 1 - 2.0**-22, np.float32))
    assert gram.matrix().tolist() == [[float(600_000 * (2**22 - 1) ** 2) * 2.0**-44]]


def test_a_norm_that_nearly_vanishes_is_added_up_again() -> None:
    shares = np.float32(2.0) ** np.arange(-20, -12, dtype=np.float32)
    rows = np.stack([np.ones(8, np.float32), shares - 1], axis=1)
    assert gram_norms(rows, np.ones((2, 2))) == pytest.approx(shares, rel=1e-3)


def test_a_norm_does_not_depend_on_where_the_row_stands() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(700, 33)).astype(np.float32)
    gram = Gram(33, float(np.abs(rows).max()))
    gram.add(rows)
    matrix = gram.matrix()
    together = gram_norms(rows, matrix)
    assert np.array_equal(together, np.concatenate([gram_norms(rows[i : i + 1], matrix) for i in range(700)]))
    assert np.array_equal(together[::-1], gram_norms(rows[::-1].copy(), matrix))


@pytest.mark.parametrize(
    ("text", "p"), [("inf", math.inf), ("2", 2), ("2.0", 2), ("100", math.inf), ("1", 1)]
)
def test_orders(text: str, p: float) -> None:
    assert parse_p(text) == p


@pytest.mark.parametrize("text", ["0.5", "nan", "two", "-1", ""])
def test_no_order_of_a_norm(text: str) -> None:
    with pytest.raises(UsageError, match="a norm needs a number from 1 on, or inf"):
        parse_p(text)


def test_matrices_that_do_not_fit_are_told_before_any_work() -> None:
    rows = np.ones((2, 64), np.float32)
    for scorer, more in (("normsim", {"p": "2", "target": rows}), ("normsim_d", {})):
        with pytest.raises(UsageError, match="width 64 need 196,608 bytes"):
            run(scorer, rows, memory_bytes=100_000, **more)


def test_what_decides_the_result(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 3), np.float32))
    np.save(tmp_path / "b.npy", np.eye(3, dtype=np.float32))
    a, b = (
        normsim.Scorer(normsim.Config(target=tmp_path / name)).identity["target"]
        for name in ("a.npy", "b.npy")
    )
    assert a != b
    with pytest.raises(UsageError, match="a target is needed"):
        normsim.Scorer(normsim.Config())


def test_no_rows_and_one_row() -> None:
    target = np.eye(3, dtype=np.float32)
    assert run("normsim", np.zeros((0, 3), np.float32), target=target)["normsim"] == []
    assert run("normsim", np.array([[0, 2, 0]], np.float32), target=target)["normsim"] == [2]


def test_the_filter_takes_the_best_by_negcliploss_and_of_those_the_closest(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    arrays = {f"b32_{kind}": rng.normal(size=(60, 6)).astype(np.float32) for kind in ("img", "txt")}
    pool = feature_pool(tmp_path / "pool", arrays, shards=[20, 40], order=rng.permutation(60))
    np.save(tmp_path / "t.npy", arrays["b32_img"][:3])
    rule = named_rule("normsim", {"target": str(tmp_path / "t.npy"), "arch": "b32"})
    config = {score.scorer: score.config for score in rule.scores}
    loss = scored(pool, "negcliploss", **config["negcliploss"])["negcliploss"].to_numpy()
    norm = scored(pool, "normsim", **config["normsim"])["normsim"].to_numpy()
    first = np.argsort(-loss)[: int(60 * 0.3) + 1]  # DataComp's rank: one more than the share
    wanted = first[np.argsort(-norm[first])][: int(len(first) * 2 / 3) + 1]
    outcome = filter_pool(
        prepare(Pool.open(pool), rule, Path()),
        tmp_path / "o.npy",
        executor=Executor("serial"),
        options=RunOptions(),
    )
    assert outcome is not None and outcome.step.identity.counts.kept == len(wanted) == 13
    words = np.load(tmp_path / "o.npy", allow_pickle=False).view("<u8").reshape(-1, 2)
    assert words[:, 1].tolist() == sorted(wanted.tolist())
