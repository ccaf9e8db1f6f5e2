"""The order of samples: which sample of which shard comes next, as a pure function of seed, part, rank and stream.

The scheme is open_clip's (shards drawn uniformly with replacement, then a shuffle buffer over samples; or every shard once a pass),
except that nothing is left to clocks, process ids or the number of loader processes. So a training that was killed draws after its
last checkpoint what it would have drawn without the kill.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """One shard with the number of its usable samples."""

    shard: int
    samples: int


def generator(*names: object) -> random.Random:
    """A generator that depends on all names and on nothing else."""
    return random.Random(derived_seed(*names))


def derived_seed(*names: object) -> int:
    """63 bits from SHA-256 over the names; independent for any two lists of names that differ."""
    text = "/".join(map(str, names)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def samples(
    places: Sequence[Place],
    *,
    mode: str,
    buffer: int,
    initial: int,
    seed: int,
    part: int,
    stream: int,
    streams: int,
) -> Iterator[tuple[int, int]]:
    """Endless (shard, sample) pairs of one stream; `streams` counts those of all processes.

    resampled: each draw of a shard is uniform over shards, whatever their sizes. shuffled: a stream owns every `streams`-th shard of
    the part's shuffled list and goes through them again when they are used up, in another order.
    """
    rng = generator(seed, part, stream, "order")
    resampled = mode == "resampled"
    flow = _resampled(places, rng) if resampled else _shuffled(places, seed, part, stream, streams)
    return _buffered(flow, buffer, initial, rng)


def _resampled(places: Sequence[Place], rng: random.Random) -> Iterator[tuple[int, int]]:
    while True:
        place = rng.choice(places)
        for sample in range(place.samples):
            yield place.shard, sample


def _shuffled(
    places: Sequence[Place], seed: int, part: int, stream: int, streams: int
) -> Iterator[tuple[int, int]]:
    number = 0
    while True:
        order = list(places)
        # the same list for every stream, so that their shares do not overlap
        generator(seed, part, number, "shards").shuffle(order)
        for place in order[stream::streams]:
            for sample in range(place.samples):
                yield place.shard, sample
        number += 1


def _buffered(
    flow: Iterator[tuple[int, int]], size: int, initial: int, rng: random.Random
) -> Iterator[tuple[int, int]]:
    """A shuffle buffer that starts giving at `initial` and grows to `size`: two in for one out until it is full."""
    held: list[tuple[int, int]] = []
    initial = min(initial, size)
    for item in flow:
        held.append(item)
        if len(held) < size:
            held.append(next(flow))
        if len(held) >= initial:
            at = rng.randrange(len(held))
            held[at], held[-1] = held[-1], held[at]
            yield held.pop()
