"""Kaplan-Meier by hand-computed cases, and Wilson's interval by known values."""

from __future__ import annotations

import math

import pytest

from distribute.study.survival import Median, curve, median, wilson


def test_curve_without_censoring_is_the_share_that_is_left() -> None:
    points = curve([1.0, 2.0, 3.0, 4.0], [True] * 4)
    assert [(p.seconds, p.share) for p in points] == [(1.0, 0.75), (2.0, 0.5), (3.0, 0.25), (4.0, 0.0)]
    assert points[-1].low is None and points[-1].high is None  # log(-log 0) does not exist


def test_curve_with_censoring_by_hand() -> None:
    # at 3: 5 at risk, 1 ends: 4/5. at 5: the one censored at 4 has left, 3 at risk: 4/5 * 2/3. at 7: 1 at risk: 0
    points = curve([3.0, 4.0, 5.0, 6.0, 7.0], [True, False, True, False, True])
    assert [p.seconds for p in points] == [3.0, 5.0, 7.0]
    assert [p.share for p in points] == pytest.approx([4 / 5, 4 / 5 * 2 / 3, 0.0])


def test_ties_of_finishes_are_taken_together() -> None:
    points = curve([2.0, 2.0, 2.0, 5.0], [True, True, True, True])
    assert [(p.seconds, p.share) for p in points] == [(2.0, pytest.approx(0.25)), (5.0, 0.0)]


def test_in_a_tie_of_a_finish_and_a_censoring_the_finish_comes_first() -> None:
    # both are at risk at 2, so that one of two has ended; not one of one
    points = curve([2.0, 2.0], [True, False])
    assert [(p.seconds, p.share) for p in points] == [(2.0, 0.5)]
    assert median([2.0, 2.0], [True, False]).seconds == 2.0


def test_limits_are_greenwoods_on_the_log_log_scale() -> None:
    # after the first of three: S = 2/3, Greenwood sum 1/(3*2); by hand: se of log(-log S) = sqrt(1/6)/ln(3/2) = 1.00685
    point = curve([1.0, 2.0, 3.0], [True] * 3)[0]
    width = 1.959964 * math.sqrt(1 / 6) / math.log(1.5)
    assert point.low == pytest.approx((2 / 3) ** math.exp(width), abs=1e-6)
    assert point.high == pytest.approx((2 / 3) ** math.exp(-width), abs=1e-6)
    assert (round(point.low or 0, 3), round(point.high or 0, 3)) == (0.054, 0.945)


def test_median_of_ten_has_both_limits() -> None:
    # the curve stands at exactly a half from 5 to 6: the first time counts
    found = median([float(n) for n in range(1, 11)], [True] * 10)
    assert found.seconds == 5.0
    assert found.low is not None and found.high is not None
    assert found.low < 5.0 < found.high < 10.0


def test_all_censored_is_not_reached() -> None:
    assert median([60.0] * 5, [False] * 5) == Median(None, None, None)
    assert curve([60.0] * 5, [False] * 5) == []


def test_a_median_is_not_reached_when_most_fail_and_survivors_do_not_decide_it() -> None:
    # a mean over survivors would say 1.5 s
    found = median([1.0, 2.0, 60.0, 60.0, 60.0], [True, True, False, False, False])
    assert found.seconds is None and found.high is None
    # three of five: the third one is the median, whatever the two failures would have taken
    assert median([1.0, 2.0, 3.0, 60.0, 60.0], [True, True, True, False, False]).seconds == 3.0


def test_order_of_trials_does_not_matter() -> None:
    times, done = [4.0, 1.0, 9.0, 2.0], [True, True, False, True]
    again = sorted(zip(times, done, strict=True))
    assert curve(times, done) == curve([t for t, _ in again], [d for _, d in again])


def test_curve_refuses_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="one mark"):
        curve([1.0], [])


@pytest.mark.parametrize(
    ("good", "of", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (1, 1, 0.2065, 1.0)],
)
def test_wilson_by_known_values(good: int, of: int, low: float, high: float) -> None:
    assert wilson(good, of) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize(("good", "of"), [(1, 0), (-1, 4), (5, 4)])
def test_wilson_refuses_what_is_no_share(good: int, of: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        wilson(good, of)
