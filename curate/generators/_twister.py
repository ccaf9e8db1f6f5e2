"""The numbers of CPython's `random`: MT19937 in bulk, so that what a released script drew can be drawn again.

A state is (mt, at): `mt` (624,) uint32, the words before tempering, and `at`, how many of them are used (624: all, as after seeding).
Generator and seeding by array: Matsumoto and Nishimura, 1998 and 2002; which words make a number: CPython's `random.random` (53 bits of
two words), `getrandbits(k)` (the top bits of one word, k <= 32) and `_randbelow` (drawn again until below the bound).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from curate._jit import kernel, njit

WORDS = 624
_SHIFTED = 397
_BACK = WORDS - _SHIFTED  # 227: how far back the new words lie that the second part reads
_MATRIX = np.uint32(0x9908B0DF)
_UPPER = np.uint32(0x80000000)
_LOWER = np.uint32(0x7FFFFFFF)
_ZERO, _ONE = np.uint32(0), np.uint32(1)
_LOW_32 = 0xFFFFFFFF

Words = npt.NDArray[np.uint32]


def seeded(seed: int) -> Words:
    """(624,) uint32 state of `random.seed(seed)`, for 0 <= seed < 2**32; all words are used up (at = 624)."""
    if not 0 <= seed <= _LOW_32:
        raise ValueError(f"seed {seed} is not of 32 bits")
    mt = [19650218]
    for i in range(1, WORDS):
        mt.append((1812433253 * (mt[-1] ^ (mt[-1] >> 30)) + i) & _LOW_32)
    i = 1
    for _ in range(WORDS):  # the key is the one word of the seed
        mt[i] = ((mt[i] ^ ((mt[i - 1] ^ (mt[i - 1] >> 30)) * 1664525)) + seed) & _LOW_32
        i += 1
        if i == WORDS:
            mt[0], i = mt[-1], 1
    for _ in range(WORDS - 1):
        mt[i] = ((mt[i] ^ ((mt[i - 1] ^ (mt[i - 1] >> 30)) * 1566083941)) - i) & _LOW_32
        i += 1
        if i == WORDS:
            mt[0], i = mt[-1], 1
    mt[0] = 0x80000000
    return np.array(mt, np.uint32)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _twisted(high, low, other):  # type: ignore[no-untyped-def]
    # the casts keep 32 bits, where the compiler's rules would go on with 64
    word = np.uint32((high & _UPPER) | (low & _LOWER))
    odd = np.uint32(_ZERO - np.uint32(word & _ONE))  # all bits, or none
    return np.uint32(other ^ np.uint32(word >> _ONE) ^ np.uint32(odd & _MATRIX))


@kernel
def twist(mt):  # type: ignore[no-untyped-def]
    """The next 624 words, in place. Three parts, each free of dependences within itself, so that they are done many at a time."""
    for i in range(_BACK):
        mt[i] = _twisted(mt[i], mt[i + 1], mt[i + _SHIFTED])
    for i in range(_BACK, 2 * _BACK):
        mt[i] = _twisted(mt[i], mt[i + 1], mt[i - _BACK])
    for i in range(2 * _BACK, WORDS - 1):
        mt[i] = _twisted(mt[i], mt[i + 1], mt[i - _BACK])
    mt[WORDS - 1] = _twisted(mt[WORDS - 1], mt[0], mt[_SHIFTED - 1])


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def tempered(word):  # type: ignore[no-untyped-def]
    word = np.uint32(word ^ np.uint32(word >> np.uint32(11)))
    word = np.uint32(word ^ np.uint32(np.uint32(word << np.uint32(7)) & np.uint32(0x9D2C5680)))
    word = np.uint32(word ^ np.uint32(np.uint32(word << np.uint32(15)) & np.uint32(0xEFC60000)))
    return np.uint32(word ^ np.uint32(word >> np.uint32(18)))


@kernel
def next_word(mt, at):  # type: ignore[no-untyped-def]
    """(word, at): one word of 32 bits."""
    if at >= WORDS:
        twist(mt)
        at = 0
    return tempered(mt[at]), at + 1


@kernel
def take(mt, at, words):  # type: ignore[no-untyped-def]
    """Fill `words` (n,) uint32 with the next n words; `at` after them."""
    done, wanted = 0, words.shape[0]
    while done < wanted:
        if at >= WORDS:
            twist(mt)
            at = 0
        count = min(WORDS - at, wanted - done)
        source, target = mt[at : at + count], words[done : done + count]
        for i in range(count):
            target[i] = tempered(source[i])
        at += count
        done += count
    return at


@kernel
def skip(mt, at, words):  # type: ignore[no-untyped-def]
    """`at` after `words` words that nobody looks at."""
    at += words
    while at > WORDS:
        twist(mt)
        at -= WORDS
    return at


@kernel
def random(mt, at):  # type: ignore[no-untyped-def]
    """(number in [0, 1) of 53 bits, at): `random.random()`."""
    high, at = next_word(mt, at)
    low, at = next_word(mt, at)
    return (np.float64(high >> np.uint32(5)) * 67108864.0 + np.float64(low >> np.uint32(6))) * 2.0**-53, at


@kernel
def below(mt, at, bound, bits):  # type: ignore[no-untyped-def]
    """(integer in 0..bound - 1, at): `random._randbelow(bound)`, with `bits` the bit length of `bound`, at most 32."""
    shift = np.uint32(32 - bits)
    while True:
        word, at = next_word(mt, at)
        found = np.int64(word >> shift)
        if found < bound:
            return found, at
