"""Adds up the parts of a ledger on arrays: which files belong, how often each sample was seen, which are unreadable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headwater.errors import IntegrityError
from headwater.files import named_io
from train._ledger_part import AGAIN, NAME, SKIP_REASONS, PartLedger, part_name

AT_ONCE = 1 << 22
EXACT_REPEATS = 10  # up to here each number of times has a bin of its own


@dataclass(frozen=True)
class ShardInfo:
    """One tar, in the sorted order that the ledger's shard numbers mean.

    `samples` counts all its samples by ordinal, readable or not; `keys` are their keys in that order, or a function that gives them
    when they are wanted, or None. `unreadable` are ordinals that are known not to be trainable (no picture, no caption).
    """

    name: str
    samples: int
    keys: Sequence[str] | Callable[[], Sequence[str]] | None = None
    unreadable: Sequence[int] = ()


@dataclass(frozen=True)
class RepeatBin:
    """How many samples were seen `low` to `high` times."""

    low: int
    high: int
    samples: int

    @property
    def label(self) -> str:
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}–{self.high:,}"


@dataclass(frozen=True)
class Skipped:
    """One skipped sample. `sample` is its ordinal, None when that is not known (a tar that breaks off)."""

    shard: str
    sample: int | None
    key: str | None
    reason: str


def find_files(folder: Path, parts: int, worlds: Sequence[int]) -> dict[tuple[int, int], Path]:
    found: dict[tuple[int, int], Path] = {}
    with named_io(folder):
        names = sorted(path.name for path in folder.iterdir())
    for name in names:
        if not name.startswith("part_"):
            continue  # temporaries and notes of the attempts
        match = NAME.fullmatch(name)
        if match is None:
            raise IntegrityError(f"{folder / name}: no name of a part of the ledger", hint="remove it")
        part, rank = int(match[1]), int(match[2])
        if part > parts:
            continue
        if part < 1 or rank >= worlds[part - 1]:
            raise IntegrityError(f"{folder / name}: no such part and rank in this run", hint="remove it")
        if (part, rank) in found:
            raise IntegrityError(
                f"{folder / name}: the same part as {found[part, rank].name}", hint="remove one of them"
            )
        found[part, rank] = folder / name
    for part in range(1, parts + 1):
        for rank in range(worlds[part - 1]):
            if (part, rank) not in found:
                raise IntegrityError(f"{folder / part_name(part, rank)}: is missing", hint=AGAIN)
    return found


def count_seen(
    one: PartLedger,
    name: str,
    shards: Sequence[ShardInfo],
    starts: npt.NDArray[np.int64],
    times: npt.NDArray[np.int32],
) -> None:
    """Add what `one` saw to `times`. Sorting keeps the additions in order of memory."""
    for shard, sample, lowest in ((one.shard, one.sample, 0), (one.skipped_shard, one.skipped_sample, -1)):
        if not len(shard):
            continue
        if int(shard.min()) < 0 or int(shard.max()) >= len(shards):
            raise IntegrityError(f"{name}: names shard {int(shard.max()):,} of {len(shards):,}", hint=AGAIN)
        bad = (sample < lowest) | (sample >= np.diff(starts)[shard])
        if bool(np.any(bad)):
            at = int(np.argmax(bad))
            where = shards[int(shard[at])]
            raise IntegrityError(
                f"{name}: names sample {int(sample[at]):,} of shard {where.name}, which has {where.samples:,}",
                hint=AGAIN,
            )
    if one.samples:
        places = starts[one.shard]
        places += one.sample
        places.sort()
        first = np.flatnonzero(np.diff(places, prepend=-1))
        times[places[first]] += np.diff(first, append=len(places)).astype(np.int32)


def unreadable(
    shards: Sequence[ShardInfo],
    starts: npt.NDArray[np.int64],
    times: npt.NDArray[np.int32],
    listed: Sequence[tuple[int, int, int]],
) -> npt.NDArray[np.int64]:
    """Places of samples that were skipped or are known to be unreadable. What was seen once is readable."""
    places = [np.array([starts[shard] + sample for shard, sample, _ in listed if sample >= 0], np.int64)]
    for number, shard in enumerate(shards):
        if len(shard.unreadable):
            ordinals = np.asarray(shard.unreadable, np.int64)
            places.append(starts[number] + ordinals[(ordinals >= 0) & (ordinals < shard.samples)])
    found = np.unique(np.concatenate(places))
    never: npt.NDArray[np.int64] = found[times[found] == 0]
    return never


def times_histogram(times: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """How many samples were seen 0, 1, 2 … times; at least one entry. In pieces, since bincount widens its input."""
    counts = np.zeros(int(times.max(initial=0)) + 1, np.int64)
    for start in range(0, len(times), AT_ONCE):
        counts += np.bincount(times[start : start + AT_ONCE], minlength=len(counts))
    return counts


def repeat_bins(counts: npt.NDArray[Any]) -> tuple[RepeatBin, ...]:
    """Times seen: 0 to 10 one by one, then up to 20, 50, 100, 200, 500 …; empty bins behind the last are left out."""
    most = len(counts) - 1
    bins = [RepeatBin(n, n, int(counts[n])) for n in range(min(most, EXACT_REPEATS) + 1)]
    low, high, step = EXACT_REPEATS + 1, 2 * EXACT_REPEATS, 0
    while low <= most:
        bins.append(RepeatBin(low, high, int(counts[low : high + 1].sum())))
        low, high, step = high + 1, high * 5 // 2 if step % 3 == 0 else high * 2, step + 1
    return tuple(bins)


def examples_of(
    shards: Sequence[ShardInfo], listed: Sequence[tuple[int, int, int]], most: int = 20
) -> tuple[Skipped, ...]:
    """The first different skipped samples of each reason, in the order of SKIP_REASONS."""
    chosen: dict[int, dict[tuple[int, int], None]] = {code: {} for code in range(len(SKIP_REASONS))}
    for shard, sample, code in listed:
        if len(chosen[code]) < most:
            chosen[code][shard, sample] = None
    keys = {n: keys_of(shards[n]) for n in sorted({place[0] for some in chosen.values() for place in some})}
    out = []
    for code, some in chosen.items():
        for shard, sample in some:
            names = keys[shard]
            key = str(names[sample]) if names is not None and sample >= 0 else None
            out.append(Skipped(shards[shard].name, sample if sample >= 0 else None, key, SKIP_REASONS[code]))
    return tuple(out)


def keys_of(shard: ShardInfo) -> Sequence[str] | None:
    """The keys of the shard's samples, or None when nobody knows them. Raises IntegrityError when there are more or fewer."""
    keys = shard.keys() if callable(shard.keys) else shard.keys
    if keys is not None and len(keys) != shard.samples:
        raise IntegrityError(f"{shard.name}: {len(keys):,} keys for {shard.samples:,} samples")
    return keys
