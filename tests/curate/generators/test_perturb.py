"""Perturbed classes: within delta, inside the ranges, all distinct, by index alone."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.generators import Category
from curate.generators._perturb import Perturbed, Span, permuted, perturb_fields, perturbed_generator
from headwater.errors import UsageError

SPANS = {"count": Span(200, 1000), "lines": Span(1, 200), "noise": Span(0, 4, 16), "wave": Span(0, 20)}
BASE: Category = {"count": 500, "lines": 40, "noise": 1.5, "wave": 0, "name": "kept"}


def perturb(index: int, delta: float = 0.1, base: Category = BASE, **more: Any) -> Category:
    return perturb_fields(base, index, delta, **{"spans": SPANS, "seed": 7, "salt": "test", **more})


@given(total=st.integers(1, 400), key=st.binary(max_size=8))
def test_permutation_of_small_sets(total: int, key: bytes) -> None:
    assert sorted(permuted(i, total, key) for i in range(total)) == list(range(total))


@given(total=st.integers(1, 1 << 600), data=st.data())
@settings(max_examples=60)
def test_permutation_of_large_sets_stays_inside_and_apart(total: int, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, total - 1), unique=True, min_size=1, max_size=8))
    moved = [permuted(i, total, b"key") for i in indices]
    assert all(0 <= value < total for value in moved)
    assert len(set(moved)) == len(indices)


def test_permutation_depends_on_its_key_and_refuses_what_is_outside() -> None:
    assert [permuted(i, 1000, b"a") for i in range(20)] != [permuted(i, 1000, b"b") for i in range(20)]
    assert [permuted(i, 10**9, b"a") for i in range(3)] == [259113462, 428230834, 51740259]
    for index in (-1, 5):
        with pytest.raises(ValueError, match="is not in"):
            permuted(index, 5, b"a")


COARSE = {"count": Span(20, 60), "noise": Span(0, 2, 4), "wave": Span(-9, 9)}


def within(base: float, span: Span, delta: float) -> list[Fraction]:
    """All values of a parameter that lie within delta of `base`, found by looking at each."""
    every = (
        Fraction(k, 1 << span.bits)
        for k in range(int(span.low) << span.bits, (int(span.high) << span.bits) + 1)
    )
    return [
        value for value in every if abs(value - Fraction(base)) <= Fraction(str(delta)) * abs(Fraction(base))
    ]


@given(
    count=st.integers(20, 60),
    noise=st.integers(0, 32),
    wave=st.integers(-9, 9),
    delta=st.sampled_from([0.01, 0.05, 0.1, 0.3, 0.7, 1.0]),
    index=st.integers(0, 2000),
)
@settings(max_examples=150)
def test_never_beyond_delta_nor_outside_the_ranges(
    count: int, noise: int, wave: int, delta: float, index: int
) -> None:
    base: Category = {"count": count, "noise": noise / 16, "name": "kept", "wave": wave}
    allowed = {name: within(base[name], span, delta) for name, span in COARSE.items()}
    if index >= math.prod(len(values) for values in allowed.values()):
        with pytest.raises(UsageError, match="classes can be had"):
            perturb(index, delta, base, spans=COARSE)
        return
    record = perturb(index, delta, base, spans=COARSE)
    assert list(record) == list(base) and record["name"] == "kept"
    for name, span in COARSE.items():
        assert type(record[name]) is (int if span.bits == 0 else float)
        assert Fraction(record[name]) in allowed[name]
    assert perturb(index, delta, base, spans=COARSE) == record


def test_all_records_that_exist_are_had_once_and_no_more() -> None:
    spans = {"a": Span(0, 100), "b": Span(0, 21), "c": Span(0, 9)}
    base: Category = {"a": 10, "b": 20, "c": 0}  # a: 9..11, b: 18..21 (22 is outside), c stays
    found = [perturb(i, 0.1, base, spans=spans) for i in range(12)]
    assert {(r["a"], r["b"], r["c"]) for r in found} == {
        (a, b, 0) for a in (9, 10, 11) for b in (18, 19, 20, 21)
    }
    with pytest.raises(UsageError, match="only 12 classes can be had within 0.1 of the base, class 12"):
        perturb(12, 0.1, base, spans=spans)


def test_delta_is_the_decimal_that_was_written() -> None:
    spans = {"a": Span(0, 100)}  # 10 * 0.3 is 2.9999999999999996 where 0.3 is taken as the nearest double
    assert {perturb(i, 0.3, {"a": 10}, spans=spans)["a"] for i in range(7)} == set(range(7, 14))


def test_records_are_spread_evenly() -> None:
    values = [perturb(i)["noise"] for i in range(2000)]
    assert abs(sum(values) / 2000 - 1.5) < 0.01  # sigma of the mean is 0.002
    assert min(values) < 1.36 < 1.64 < max(values)
    assert len({tuple(perturb(i).items()) for i in range(2000)}) == 2000


def test_seed_and_salt_choose_other_orders() -> None:
    assert len({tuple(perturb(0, seed=seed, salt=salt).items()) for seed in (0, 1) for salt in "ab"}) == 4


def test_only_valid_records_and_still_distinct() -> None:
    found = [perturb(i, valid=lambda r: r["lines"] % 3 == 0) for i in range(300)]
    assert all(record["lines"] % 3 == 0 for record in found)
    assert len({tuple(record.items()) for record in found}) == 300
    with pytest.raises(UsageError, match="64 were tried and none can be drawn"):
        perturb(5, valid=lambda r: False)


def test_a_base_outside_its_range_is_kept_within_reach() -> None:
    values = {perturb(i, 0.1, {"a": 30}, spans={"a": Span(0, 20)})["a"] for i in range(4)}
    assert values == {
        27,
        28,
        29,
        30,
    }  # an imported category may be out of range; it moves toward the range, not away


@pytest.mark.parametrize("delta", [0, -0.1, 1.01, math.nan, math.inf, True, "0.1"])
def test_bad_delta(delta: Any) -> None:
    with pytest.raises(UsageError, match="is not above 0 and at most 1"):
        perturb(0, delta)
    with pytest.raises(UsageError, match="delta"):
        perturbed_generator(Fake(), 0, delta)


@pytest.mark.parametrize("base", [-1, True, 1.5])
def test_bad_base(base: Any) -> None:
    with pytest.raises(UsageError, match="base"):
        perturbed_generator(Fake(), base, 0.1)


def test_negative_class() -> None:
    with pytest.raises(UsageError, match="class -1 is negative"):
        perturb(-1)


class Fake:
    """A generator that counts how often its base is asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def category(self, index: int) -> Category:
        self.asked += 1
        return {**BASE, "count": 300 + index}

    def cost(self, category: Category) -> float:
        return float(category["count"])

    def perturbed(self, category: Category, index: int, delta: float) -> Category:
        return perturb(index, delta, category)

    def painter(self) -> Any:
        return "its painter"


def test_perturbed_generator() -> None:
    fake = Fake()
    generator = perturbed_generator(fake, 200, 0.1)
    assert isinstance(generator, Perturbed)
    assert generator.category(3) == perturb(3, 0.1, {**BASE, "count": 500})
    assert len({tuple(generator.category(i).items()) for i in range(50)}) == 50
    assert fake.asked == 1
    assert generator.cost({"count": 9}) == 9
    assert generator.painter() == "its painter"
    assert generator.perturbed(BASE, 1, 0.2) == perturb(1, 0.2)
