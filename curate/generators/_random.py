"""Counter-based random numbers of the indexed stream: a number is a function of where it is used, never of what was drawn before.

`mix64` is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014; constants by Stafford, "variant 13"). Keys are folded one
part after another, so that two parts never trade places: seed, category, instance, attempt. All arithmetic is modulo 2**64.
"""

from __future__ import annotations

import functools

MASK64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd: steps of a counter
_M1 = 0xBF58476D1CE4E5B9
_M2 = 0x94D049BB133111EB


def mix64(value: int) -> int:
    """A bijection of 64-bit integers in which every input bit flips about half of the output bits."""
    value &= MASK64
    value = ((value ^ (value >> 30)) * _M1) & MASK64
    value = ((value ^ (value >> 27)) * _M2) & MASK64
    return value ^ (value >> 31)


def fold(key: int, part: int) -> int:
    """Key of `part` (taken modulo 2**64) under `key`: different parts of one key always get different keys."""
    return mix64((key + GOLDEN) ^ (part & MASK64))


def number(key: int, counter: int) -> int:
    """The 64-bit number that stands at `counter` (1 or more) of a key's stream: SplitMix64's output after so many steps."""
    return mix64(key + counter * GOLDEN)


@functools.lru_cache(maxsize=64)
def salt_key(salt: str) -> int:
    """Key of a use, from its name: its UTF-8 bytes in little-endian groups of eight, then their count."""
    data = salt.encode()
    key = 0
    for at in range(0, len(data), 8):
        key = fold(key, int.from_bytes(data[at : at + 8], "little"))
    return fold(key, len(data))


def picture_key(seed: int, category: int, instance: int, attempt: int) -> int:
    """Key of one drawing of one picture: what all numbers inside it come from. 64 bits."""
    key = _picture_root(seed, category)
    return fold(fold(key, instance), attempt)


@functools.lru_cache(maxsize=256)
def _picture_root(seed: int, category: int) -> int:
    return fold(fold(salt_key("picture"), seed), category)


def below(key: int, counter: int, bound: int) -> int:
    """Uniform integer 0..bound-1 (bound up to 2**32) from the number at `counter`: its upper 32 bits times bound, upper part kept.

    No rejection, so that counters stay where they are; the shares of two values differ by less than bound / 2**32.
    """
    return ((number(key, counter) >> 32) * bound) >> 32


class Draws:
    """Numbers of one category, in the order of the calls: the first call takes counter 1, and so on.

    `salt` names the generator, so that two generators with one seed do not draw the same categories. Adding a call at the end leaves
    what was drawn before as it was.
    """

    __slots__ = ("_counter", "_key")

    def __init__(self, seed: int, category: int, salt: str) -> None:
        self._key = fold(fold(salt_key(salt), seed), category)
        self._counter = 0

    def bits(self, count: int) -> int:
        """`count` random bits, 1 to 64."""
        if not 1 <= count <= 64:
            raise ValueError(f"{count} bits asked of a 64-bit number")
        self._counter += 1
        return number(self._key, self._counter) >> (64 - count)

    def integer(self, low: int, high: int) -> int:
        """A uniform integer from low to high, both included; exactly uniform, by rejecting the uneven rest of the 64-bit range."""
        span = high - low + 1
        if not 1 <= span <= MASK64:
            raise ValueError(f"no integers to draw from between {low} and {high}")
        uneven = (1 << 64) % span
        while True:
            self._counter += 1
            product = number(self._key, self._counter) * span
            if product & MASK64 >= uneven:
                return low + (product >> 64)

    def fixed(self, low_q: int, high_q: int) -> int:
        """A uniform fixed-point number: an integer between two bounds that are given in the same Q format, both included."""
        return self.integer(low_q, high_q)
