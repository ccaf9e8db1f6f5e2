"""Which trusted pairs are held out, and which may then not be trained on because they say something about those.

Held out first: in the order of a keyed hash of the uid, the first pairs whose caption and picture are like those of none taken
before. Left out of training: every other pair with the caption, the bytes (sha256) or nearly the picture of a held-out one
(difference hash within NEAR of 64 bits). So no caption and no picture that is asked about was learnt from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curate._pairs import Pairs, plain_caption
from curate.clauses import mix

NEAR = 4  # bits
SAME_CAPTION, SAME_FILE, NEAR_PICTURE = (
    "caption of a held-out pair",
    "file of a held-out pair",
    "picture like a held-out one",
)
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Row numbers of the pairs, ascending; `left_out` counts the others by reason. `captions` numbers equal captions alike."""

    held_out: Ints
    training: Ints
    left_out: dict[str, int]
    captions: Ints


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
    return Split(chosen, rest[~out], left_out, captions)


def _choose(pairs: Pairs, captions: Ints, files: Ints, count: int, seed: int) -> Ints:
    keyed = mix(mix(pairs.uids[:, 1] ^ mix(np.array([seed], np.uint64))) ^ pairs.uids[:, 0])
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


def _near(hashes: npt.NDArray[np.uint64], others: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Whether each hash is within NEAR bits of one of the others."""
    found = np.zeros(len(hashes), bool)
    for other in others:
        found |= np.bitwise_count(hashes ^ other) <= NEAR
    return found


def _numbers(texts: list[str]) -> Ints:
    known: dict[str, int] = {}
    return np.array([known.setdefault(text, len(known)) for text in texts], np.int64)
