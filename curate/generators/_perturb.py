"""One category, many classes: every class is a perturbation of the same parameters, and no two of them are equal.

The idea is 1p-frac's (ECCV 2024): multiply each parameter of one shape by 1 + u, u uniform in -delta .. delta, and call every
result a class. Ours: it works over any generator, in integers, by index alone. A parameter is a whole number of steps (of 1, or of
1 / 2^bits); the steps that lie within delta of the base, and inside the parameter's range, are counted for each parameter; their
product T is the number of records that can be had. A keyed permutation of 0 .. T - 1 takes the index to a record, so that classes are
drawn uniformly, are all distinct, never change when more are made, and an index from T on is refused instead of repeating one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from curate.generators import Category, Generator, Painter
from headwater.errors import UsageError

ROUNDS = 8  # of the Feistel network; four are enough for large numbers, small domains want more
ATTEMPTS = 64  # records an index may try where a generator accepts only some


@dataclass(frozen=True)
class Span:
    """Where a parameter may lie: low .. high, both ends included, in steps of 1 / 2^bits (0 bits: integers)."""

    low: float
    high: float
    bits: int = 0


def check_delta(delta: float) -> None:
    """Raises UsageError unless 0 < delta <= 1."""
    if isinstance(delta, bool) or not isinstance(delta, (int, float)) or not 0 < delta <= 1:  # NaN fails, too
        raise UsageError(f"delta {delta!r} is not above 0 and at most 1", hint="1p-frac's is 0.1")


def permuted(index: int, total: int, key: bytes) -> int:
    """Where `index` goes under the permutation of 0 .. total - 1 that `key` chooses; integers of any size.

    A balanced Feistel network over the next even number of bits, walked until it lands inside (fewer than four steps on average).
    """
    if not 0 <= index < total:
        raise ValueError(f"{index} is not in 0 .. {total - 1}")
    half = max(1, ((total - 1).bit_length() + 1) // 2)
    size = (half + 7) // 8
    mask = (1 << half) - 1
    value = index
    while True:
        left, right = value >> half, value & mask
        for turn in range(ROUNDS):
            text = key + bytes([turn]) + right.to_bytes(size, "little")
            left, right = (
                right,
                left ^ (int.from_bytes(hashlib.shake_128(text).digest(size), "little") & mask),
            )
        value = left << half | right
        if value < total:
            return value


def perturb_fields(
    category: Category,
    index: int,
    delta: float,
    *,
    spans: Mapping[str, Span],
    seed: int,
    salt: str,
    valid: Callable[[Category], bool] | None = None,
) -> Category:
    """Record `index` of those whose fields named in `spans` lie within delta * |value| of `category`; other fields are kept.

    Integers stay integers; a field that is 0, or too small for delta to move it by a step, keeps its value. `delta` is taken as the
    decimal it is written as. `seed` and `salt` (the generator's name) choose the order of the records. Where `valid` is given, an
    index tries up to ATTEMPTS records of its own and takes the first that is valid. Raises UsageError for a bad delta or index,
    where there are fewer records than `index` asks for, and where none of the tried ones is valid.
    """
    check_delta(delta)
    if index < 0:
        raise UsageError(f"class {index} is negative")
    share = Fraction(str(delta))
    lows: list[int] = []
    counts: list[int] = []
    for name, span in spans.items():
        scale = 1 << span.bits
        here = round(category[name] * scale)
        reach = math.floor(abs(here) * share)
        low = max(here - reach, min(here, math.ceil(span.low * scale)))
        high = min(here + reach, max(here, math.floor(span.high * scale)))
        lows.append(low)
        counts.append(high - low + 1)
    tries = 1 if valid is None else ATTEMPTS
    total = math.prod(counts)
    if (index + 1) * tries > total:
        raise UsageError(
            f"{salt}: only {total // tries} classes can be had within {delta} of the base, class {index} is not among them",
            hint="take a larger delta, another base, or fewer classes",
        )
    key = hashlib.blake2b(f"{salt}/perturb/{seed}".encode(), digest_size=16).digest()
    for attempt in range(tries):
        number = permuted(index * tries + attempt, total, key)
        record = dict(category)
        for (name, span), low, count in zip(spans.items(), lows, counts, strict=True):
            number, steps = divmod(number, count)
            record[name] = low + steps if span.bits == 0 else (low + steps) / (1 << span.bits)
        if valid is None or valid(record):
            return record
    raise UsageError(
        f"{salt}: no class {index} within {delta} of the base: {tries} were tried and none can be drawn",
        hint="take another base or a smaller delta",
    )


class Perturbed:
    """The generator whose category i is perturbation i of category `base` of another; it draws with the other's painter."""

    def __init__(self, generator: Generator, base: int, delta: float) -> None:
        check_delta(delta)
        if isinstance(base, bool) or not isinstance(base, int) or base < 0:
            raise UsageError(f"base {base!r} is not the index of a category (0 or more)")
        self.generator = generator
        self.base = base
        self.delta = delta
        self._base: Category | None = None

    def category(self, index: int) -> Category:
        """Perturbation `index` of the base. Raises UsageError where delta leaves fewer distinct ones."""
        if self._base is None:  # not in __init__: some generators search for their categories
            self._base = self.generator.category(self.base)
        return self.generator.perturbed(self._base, index, self.delta)

    def cost(self, category: Category) -> float:
        return self.generator.cost(category)

    def perturbed(self, category: Category, index: int, delta: float) -> Category:
        return self.generator.perturbed(category, index, delta)

    def painter(self) -> Painter:
        return self.generator.painter()


def perturbed_generator(generator: Generator, base: int, delta: float) -> Generator:
    """`--perturb DELTA --base INDEX`: a set whose classes 0, 1, … are distinct perturbations of one category of `generator`.

    The seed is the generator's own. Raises UsageError for a delta outside (0, 1] or a negative base.
    """
    return Perturbed(generator, base, delta)
