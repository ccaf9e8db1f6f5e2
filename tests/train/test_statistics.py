"""Bootstrap, McNemar, seeds against test set, Holm: against counting it out, textbook values, and simulated coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train import statistics
from train.statistics import (
    holm,
    mcnemar,
    paired_bootstrap,
    student_t_cdf,
    student_t_quantile,
    two_level,
)


def every_resample(function, n):
    """`function` of each of the n**n resamples, which are equally likely."""
    return np.array([function(list(draw)) for draw in itertools.product(range(n), repeat=n)])


@pytest.mark.parametrize("distinct", ["few", "many"])
def test_bootstrap_of_a_mean_is_that_of_all_resamples(distinct):
    a = np.array([1.0, 0.0, 1.0, 1.0, 0.0]) if distinct == "few" else np.array([0.9, 0.1, 0.35, 0.7, 0.2])
    b = np.array([0.0, 0.0, 1.0, 0.0, 1.0])
    exact = every_resample(lambda i: (a - b)[i].mean(), 5)
    found = paired_bootstrap(a, b, seed=1, resamples=40_000)
    assert found.difference == pytest.approx((a - b).mean())
    assert found.standard_error == pytest.approx(exact.std(), rel=0.02)
    below, above = (exact <= 1e-12).mean(), (exact >= -1e-12).mean()
    assert found.p_value == pytest.approx(min(1, 2 * min(below, above)), abs=0.015)
    low, high = np.quantile(exact, [0.025, 0.975])
    if distinct == "few":  # the exact distribution has wide steps there, so equal quantiles
        assert (found.percentile.low, found.percentile.high) == pytest.approx((low, high))
    else:
        assert (found.percentile.low, found.percentile.high) == pytest.approx((low, high), abs=0.02)
    assert found.basic.low == pytest.approx(2 * found.difference - found.percentile.high)
    assert found.basic.high == pytest.approx(2 * found.difference - found.percentile.low)


@pytest.mark.parametrize("how", ["macro", "worst"])
def test_bootstrap_over_strata_is_that_of_all_resamples(how):
    strata = np.array([7, 7, 3, 3, 7])
    a = np.array([[1, 1], [0, 1], [1, 0], [1, 1], [0, 0]], dtype=float)
    b = np.array([1, 0, 0, 1, 0], dtype=float)

    def metric(scores, rows):
        means = [scores[[r for r in rows if strata[r] == s]].mean() for s in set(strata[rows].tolist())]
        return np.mean(means) if how == "macro" else min(means)

    def gap(rows):
        return np.mean([metric(a[:, run], rows) for run in range(2)]) - metric(b, rows)

    exact = every_resample(gap, 5)
    found = paired_bootstrap(a, b, seed=2, how=how, strata=strata, resamples=20_000)
    assert found.difference == pytest.approx(gap(list(range(5))))
    assert found.standard_error == pytest.approx(exact.std(), rel=0.02)
    assert found.percentile.low == pytest.approx(np.quantile(exact, 0.025), abs=0.03)
    assert found.percentile.high == pytest.approx(np.quantile(exact, 0.975), abs=0.03)


def test_bootstrap_of_macro_differs_from_mean_when_strata_are_uneven():
    strata = np.array([0] * 90 + [1] * 10)
    a = np.r_[np.ones(90), np.zeros(10)]
    b = np.r_[np.ones(90), np.ones(10)]
    assert paired_bootstrap(a, b, seed=0).difference == pytest.approx(-0.1)
    assert paired_bootstrap(a, b, seed=0, how="macro", strata=strata).difference == pytest.approx(-0.5)
    assert paired_bootstrap(a, b, seed=0, how="worst", strata=strata).difference == pytest.approx(-1.0)


def test_clusters_are_drawn_whole():
    rng = np.random.default_rng(5)
    a, b = rng.random(200), rng.random(200)
    once = paired_bootstrap(a, b, seed=3)
    copies = [np.repeat(x, 4) for x in (a, b, np.arange(200))]
    naive = paired_bootstrap(copies[0], copies[1], seed=3)
    whole = paired_bootstrap(copies[0], copies[1], seed=3, clusters=copies[2])
    assert whole.units == 200
    assert naive.units == 800
    assert whole.standard_error == pytest.approx(once.standard_error, rel=0.05)
    assert naive.standard_error == pytest.approx(once.standard_error / 2, rel=0.05)


@pytest.mark.parametrize("how", ["macro", "worst"])
def test_clusters_across_strata_are_drawn_whole(how):
    """Two kinds of rows, as pictures and captions in retrieval; each cluster has one of the first and two of the second."""
    strata, clusters = np.array([0, 1, 1] * 4), np.repeat(np.arange(4), 3)
    rng = np.random.default_rng(8)
    a, b = rng.random(12) < 0.6, rng.random(12) < 0.5

    def gap(picked):
        rows = np.concatenate([np.flatnonzero(clusters == c) for c in picked])
        fold = np.mean if how == "macro" else min
        return fold([a[rows][strata[rows] == s].mean() for s in (0, 1)]) - fold(
            [b[rows][strata[rows] == s].mean() for s in (0, 1)]
        )

    exact = every_resample(gap, 4)
    found = paired_bootstrap(a, b, seed=2, how=how, strata=strata, clusters=clusters, resamples=20_000)
    assert found.units == 4
    assert found.difference == pytest.approx(gap(range(4)))
    assert found.standard_error == pytest.approx(exact.std(), rel=0.03)


def test_both_ways_of_drawing_have_the_same_spread():
    rng = np.random.default_rng(0)
    counts = np.array([30, 50, 20])
    by_kind = np.concatenate(list(statistics._counts(counts, rng, 5000)))
    one_each = np.concatenate(list(statistics._counts(np.ones(100, dtype=np.int64), rng, 5000)))
    folded = np.add.reduceat(one_each, [0, 30, 80], axis=1)
    assert (by_kind.sum(axis=1) == 100).all()
    assert (folded.sum(axis=1) == 100).all()
    assert np.cov(by_kind.T) == pytest.approx(np.cov(folded.T), abs=2.5)
    assert by_kind.mean(axis=0) == pytest.approx(counts, abs=0.5)


def test_blocks_bound_the_memory_and_change_nothing_else(monkeypatch):
    rng = np.random.default_rng(1)
    a, b = rng.random(300), rng.random(300)
    whole = paired_bootstrap(a, b, seed=4, resamples=1000)
    monkeypatch.setattr(statistics, "BLOCK_VALUES", 1000)
    assert max(len(w) for w in statistics._counts(np.ones(300, dtype=np.int64), rng, 100)) == 3
    assert paired_bootstrap(a, b, seed=4, resamples=1000) == whole


def test_the_seed_decides_and_sides_mirror():
    rng = np.random.default_rng(2)
    a, b = rng.random(500) < 0.6, rng.random(500) < 0.5
    once = paired_bootstrap(a, b, seed=9)
    assert once == paired_bootstrap(a, b, seed=9)
    assert once != paired_bootstrap(a, b, seed=10)
    back = paired_bootstrap(b, a, seed=9)
    assert back.difference == -once.difference
    assert back.standard_error == pytest.approx(once.standard_error, rel=0.05)
    assert back.p_value == pytest.approx(once.p_value, abs=0.01)


def test_equal_sides_show_no_difference():
    a = np.random.default_rng(0).random((100, 3))
    same = paired_bootstrap(a, a, seed=0, resamples=500)
    assert (same.difference, same.standard_error, same.p_value) == (0, 0, 1)


@pytest.mark.parametrize(
    "bad",
    [
        {"a": np.ones(3), "b": np.ones(4)},
        {"a": np.ones(0), "b": np.ones(0)},
        {"a": np.array([1, np.nan]), "b": np.ones(2)},
        {"a": np.ones(2), "b": np.ones(2), "how": "macro"},
        {"a": np.ones(2), "b": np.ones(2), "strata": np.zeros(2, dtype=int)},
        {"a": np.ones(2), "b": np.ones(2), "clusters": np.zeros(3, dtype=int)},
    ],
)
def test_what_does_not_fit_is_refused(bad):
    with pytest.raises(ValueError, match=r"paired|scores|clusters|strata"):
        paired_bootstrap(seed=0, **bad)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(11)
    hits = {"percentile": 0, "basic": 0}
    trials = 400
    for trial in range(trials):
        both = rng.random(120)
        a, b = both < 0.6, (both + 0.15 * rng.random(120)) < 0.6  # the true difference is 0.075
        found = paired_bootstrap(a, b, seed=trial, resamples=800)
        for name in hits:
            interval = getattr(found, name)
            hits[name] += interval.low <= 0.075 <= interval.high
    assert 0.91 <= hits["percentile"] / trials <= 0.985
    assert 0.87 <= hits["basic"] / trials <= 0.985


def test_mcnemar_by_counting():
    for only_a, only_b in itertools.product(range(13), repeat=2):
        n, k = only_a + only_b, min(only_a, only_b)
        tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
        a = np.r_[np.ones(only_a), np.zeros(only_b), np.ones(3), np.zeros(2)].astype(bool)
        b = np.r_[np.zeros(only_a), np.ones(only_b), np.ones(3), np.zeros(2)].astype(bool)
        found = mcnemar(a, b)
        assert (found.only_a, found.only_b) == (only_a, only_b)
        assert found.p_exact == pytest.approx(min(1, 2 * tail), rel=1e-12)
        assert found.p_mid == pytest.approx(1 if n == 0 else 2 * tail - math.comb(n, k) / 2**n, rel=1e-12)


def test_mcnemar_of_many_is_exact_too():
    """86 against 150 of Agresti's approval ratings (Categorical Data Analysis, table 11.1), and a hundred times that."""
    a, b = np.r_[np.ones(86), np.zeros(150)].astype(bool), np.r_[np.zeros(86), np.ones(150)].astype(bool)
    exact = 2 * sum(math.comb(236, i) for i in range(87)) / 2**236
    assert mcnemar(a, b).p_exact == pytest.approx(exact, rel=1e-11)
    wide = mcnemar(np.arange(100_000) < 50_100, np.arange(100_000) >= 50_100)
    z = (100.0 - 0.5) / math.sqrt(25_000)
    assert wide.p_exact == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-3)
    assert 0 <= mcnemar(np.ones(20_000, dtype=bool), np.zeros(20_000, dtype=bool)).p_exact < 1e-300


@pytest.mark.parametrize(
    ("p", "df", "t"),
    [
        (0.975, 1, 12.7062047),
        (0.975, 2, 4.30265273),
        (0.975, 5, 2.57058184),
        (0.95, 10, 1.81246112),
        (0.995, 30, 2.74999565),
        (0.975, 1e6, 1.95996636),
        (0.025, 4, -2.77644511),
    ],
)
def test_student_t_of_the_tables(p, df, t):
    assert student_t_quantile(p, df) == pytest.approx(t, rel=2e-8)
    assert student_t_cdf(t, df) == pytest.approx(p, abs=1e-9)


@given(t=st.floats(-50, 50))
def test_student_t_has_closed_forms_for_one_and_two(t):
    assert student_t_cdf(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-12)
    assert student_t_cdf(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)), abs=1e-12)


@given(p=st.floats(0.001, 0.999), df=st.floats(1, 400))
def test_student_t_quantile_goes_back(p, df):
    assert student_t_cdf(student_t_quantile(p, df), df) == pytest.approx(p, abs=1e-9)


def test_without_test_set_error_it_is_welchs_test():
    """The two samples printed with Welch's test in encyclopaedias: t = -2.46, 25.0 degrees of freedom, p = 0.021."""
    a = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4]
    b = [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 20.5, 24.4]
    found = two_level(a, b, test_se=0.0, units=1000)
    assert found.seed_se is not None
    assert found.difference / found.seed_se == pytest.approx(-2.46, abs=0.005)
    assert found.degrees_of_freedom == pytest.approx(25.0, abs=0.05)
    assert found.p_value == pytest.approx(0.021, abs=0.0005)


def test_the_two_errors_add_up_and_stay_visible():
    found = two_level([0.30, 0.32, 0.34], [0.20, 0.21, 0.22], test_se=0.01, units=500)
    assert found.difference == pytest.approx(0.11)
    assert found.test_se == 0.01
    assert found.seed_se == pytest.approx(math.sqrt(0.02**2 / 3 + 0.01**2 / 3))
    assert found.combined_se == pytest.approx(math.sqrt(0.01**2 + found.seed_se**2))
    v = [0.02**2 / 3, 0.01**2 / 3, 0.01**2]
    assert found.degrees_of_freedom == pytest.approx(
        sum(v) ** 2 / (v[0] ** 2 / 2 + v[1] ** 2 / 2 + v[2] ** 2 / 499)
    )
    reach = student_t_quantile(0.975, found.degrees_of_freedom) * found.combined_se
    assert (found.interval.low, found.interval.high) == pytest.approx((0.11 - reach, 0.11 + reach))


@pytest.mark.parametrize(("a", "b"), [([0.3], [0.2]), ([0.3, 0.4], [0.2]), ([0.3], [0.2, 0.1])])
def test_one_seed_has_no_seed_error_rather_than_none_of_it(a, b):
    found = two_level(a, b, test_se=0.01, units=100)
    assert found.test_se == 0.01
    assert (found.seed_se, found.combined_se, found.interval, found.p_value) == (None, None, None, None)


def test_unknown_test_set_error_leaves_the_combined_one_open():
    found = two_level([0.3, 0.4], [0.2, 0.1], test_se=None, units=0)
    assert found.seed_se is not None
    assert (found.combined_se, found.interval) == (None, None)


def test_only_both_errors_together_cover_the_truth():
    """Crossed effects: every run answers the same examples. The true difference is 0."""
    rng = np.random.default_rng(21)
    trials, covered, by_test_alone = 400, 0, 0
    for trial in range(trials):
        ease = rng.normal(0, 0.3, 150)
        sides = []
        for _ in range(2):
            taste = rng.normal(0, 0.3, 150)
            seeds = rng.normal(0, 0.05, 3)
            noise = rng.normal(0, 0.2, (150, 3))
            sides.append(0.5 + (ease + taste)[:, None] + seeds[None, :] + noise)
        boot = paired_bootstrap(sides[0], sides[1], seed=trial, resamples=300)
        both = two_level(
            sides[0].mean(axis=0).tolist(),
            sides[1].mean(axis=0).tolist(),
            test_se=boot.standard_error,
            units=150,
        )
        covered += both.interval.low <= 0 <= both.interval.high
        by_test_alone += boot.percentile.low <= 0 <= boot.percentile.high
    assert covered / trials >= 0.93
    assert by_test_alone / trials <= 0.85


def test_holm_as_in_the_books():
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.04, None, 0.01]) == [pytest.approx(0.04), None, pytest.approx(0.02)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_against_its_definition(p):
    """Rejected at level x by Holm's procedure exactly when the corrected value is at most x."""
    adjusted = holm(p)
    for level in (0.01, 0.05, 0.3):
        order = sorted(range(len(p)), key=lambda i: (p[i], i))
        rejected = set()
        for rank, i in enumerate(order):
            if p[i] * (len(p) - rank) > level:
                break
            rejected.add(i)
        assert {i for i, q in enumerate(adjusted) if q <= level} == rejected
