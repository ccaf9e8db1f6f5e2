"""Which trusted pairs are held out, and which may then not be trained on because they say something about those.

Held out first: in the order of a keyed hash of the uid, the first pairs whose caption and picture are like those of none taken
before. Left out of training: every other pair with the caption, the bytes (sha256) or nearly the picture of a held-out one
(difference hash within NEAR of 64 bits). So no caption and no picture that is asked about was learnt from.

The pairs to train on are cut into folds in the same way: pairs that are like each other, also by way of others, share one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curate._components import Components
from curate._pairs import Pairs, Words, plain_caption
from curate.clauses import mix

NEAR = 4  # bits
SALT = np.uint64(0x48454C445F4F5554)  # "HELD_OUT"
SAME_CAPTION, SAME_FILE, NEAR_PICTURE = (
    "caption of a held-out pair",
    "file of a held-out pair",
    "picture like a held-out one",
)
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Row numbers of the pairs, ascending; `left_out` counts the others by reason. `captions` and `files` number equal ones alike."""

    held_out: Ints
    training: Ints
    left_out: dict[str, int]
    captions: Ints
    files: Ints


def split(pairs: Pairs, held_out: int, seed: int) -> Split:
    """Hold out `held_out` pairs (fewer when there are not as many that differ)."""
    captions = _numbers([plain_caption(text) for text in pairs.captions])
    files = _numbers([text or f" {row}" for row, text in enumerate(pairs.sha256)])  # '' is like no other
    chosen = _choose(pairs, captions, files, held_out, seed)
    rest = np.setdiff1d(np.arange(len(pairs)), chosen)
    near = _near(pairs.hashes[rest], pairs.hashes[chosen])
    reasons = {SAME_CAPTION: np.isin(captions[rest], captions[chosen])}
    reasons[SAME_FILE] = np.isin(files[rest], files[chosen])
    reasons[NEAR_PICTURE] = near
    out, left_out = np.zeros(len(rest), bool), {}
    for reason, mask in reasons.items():
        fresh = mask & ~out
        if fresh.any():
            left_out[reason] = int(fresh.sum())
        out |= mask
    return Split(chosen, rest[~out], left_out, captions, files)


def folds(pairs: Pairs, parts: Split, count: int, seed: int) -> Ints:
    """(training pairs,) the fold of each, 0 … count - 1; fewer folds when fewer groups of pairs differ.

    Groups of like pairs, the largest first and equally large ones in the order of a keyed hash, go to the smallest fold so far.
    So two folds differ by no more pairs than the largest group has.
    """
    rows = parts.training
    groups = _groups(pairs, parts)
    names, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    keys = np.full(len(names), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(keys, place, _keyed(pairs.uids[rows], seed))
    held = np.zeros(count, np.int64)
    fold_of = np.zeros(len(names), np.int64)
    for group in np.lexsort((names, keys, -sizes)).tolist():
        fold_of[group] = held.argmin()
        held[fold_of[group]] += sizes[group]
    return fold_of[place]


def _groups(pairs: Pairs, parts: Split) -> Ints:
    """A number for each training pair; pairs that are like each other, also by way of others, have the same one."""
    rows = parts.training
    own = np.arange(len(rows))
    components = Components(len(rows))
    for numbers in (parts.captions[rows], parts.files[rows]):
        _, first, place = np.unique(numbers, return_index=True, return_inverse=True)
        components.join(own, first[place])
    hashes, first, place = np.unique(pairs.hashes[rows], return_index=True, return_inverse=True)
    components.join(own, first[place])
    for number in range(len(hashes)):
        near = number + np.flatnonzero(np.bitwise_count(hashes[number:] ^ hashes[number]) <= NEAR)
        components.join(first[near], np.full(len(near), first[number]))
    return components.labels()


def _choose(pairs: Pairs, captions: Ints, files: Ints, count: int, seed: int) -> Ints:
    keyed = _keyed(pairs.uids, seed)
    chosen: list[int] = []
    seen_captions: set[int] = set()
    seen_files: set[int] = set()
    taken = np.zeros(count, np.uint64)
    for row in np.lexsort((np.arange(len(pairs)), keyed)).tolist():
        if len(chosen) == count:
            break
        if int(captions[row]) in seen_captions or int(files[row]) in seen_files:
            continue
        if bool((np.bitwise_count(taken[: len(chosen)] ^ pairs.hashes[row]) <= NEAR).any()):
            continue
        taken[len(chosen)] = pairs.hashes[row]
        chosen.append(row)
        seen_captions.add(int(captions[row]))
        seen_files.add(int(files[row]))
    return np.array(sorted(chosen), np.int64)


def _keyed(uids: Words, seed: int) -> Words:
    """(n,) a hash of each uid, another one for every seed; and another than that of the clause `sample` with this seed.

    Otherwise a random share of the pool would be the held-out pairs before all others.
    """
    key = mix(np.array([seed], np.uint64) ^ SALT)
    return np.asarray(mix(mix(uids[:, 1] ^ key) ^ uids[:, 0]), np.uint64)


def _near(hashes: npt.NDArray[np.uint64], others: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Whether each hash is within NEAR bits of one of the others."""
    found = np.zeros(len(hashes), bool)
    for other in others:
        found |= np.bitwise_count(hashes ^ other) <= NEAR
    return found


def _numbers(texts: list[str]) -> Ints:
    known: dict[str, int] = {}
    return np.array([known.setdefault(text, len(known)) for text in texts], np.int64)
