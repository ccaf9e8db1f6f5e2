"""MinHash of word sets, one pass over a column of captions: for each caption its words as hashes, and one key for each band.

A caption's set is its words (`str.split` on Unicode blanks, each word case-folded), or its runs of `ngram` words; a caption of fewer
words is one run. A word stands for 64 bits of its BLAKE2b digest: among ten million distinct words two agree with a chance of 3e-6.
Signature (Broder 1997): for each of bands x rows permutations the smallest value over the set; a permutation is SplitMix64's
finaliser over the word's hash plus a constant, its upper 32 bits. Two sets agree in one value with the chance of their Jaccard
similarity s, and share one of the bands with 1 - (1 - s^rows)^bands (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4).
Work is done once for each distinct word of a block, not for each word of a caption.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.clauses import mix

U64 = npt.NDArray[np.uint64]
TOKENS_AT_ONCE = 1 << 16  # their rows of 32 values are 8 MB
LEAST_HASH = 2  # 0 and 1 stand for no word where sets are compared side by side
_STEP = 0x9E3779B97F4A7C15
_SECOND = np.uint64(0xD1B54A32D192ED03)


@dataclass(frozen=True)
class Plan:
    """What decides signatures."""

    bands: int
    rows: int
    ngram: int
    seed: int


@dataclass(frozen=True)
class Sets:
    """Word sets of n captions: their hashes one after the other, and what is made of them."""

    sizes: npt.NDArray[np.int32]  # (n,) distinct words; -1 where the caption is null
    hashes: U64  # of all sets together, in no order within a set
    keys: U64  # (n, 2): equal for equal sets
    bands: U64  # (n, bands); zero for sets without words, which are never compared


def word_hash(word: str, seed: int = 0) -> int:
    """64 bits of the BLAKE2b digest of a case-folded word."""
    digest = hashlib.blake2b(word.casefold().encode("utf-8", "surrogatepass"), digest_size=8)
    return (int.from_bytes(digest.digest(), "little") + seed * _STEP) % 2**64


def word_sets(text: pa.Array, plan: Plan) -> Sets:
    """Sets of one block of captions."""
    if pa.types.is_dictionary(text.type):
        text = text.dictionary_decode()
    if pa.types.is_string_view(text.type):
        text = text.cast(pa.large_string())
    n = len(text)
    row, code, hashes = _tokens(text, plan.seed)
    if plan.ngram > 1:
        row, code, hashes = _runs(row, code, hashes, plan.ngram, n)
    hashes = np.maximum(hashes, np.uint64(LEAST_HASH))
    # by row and word: rows come in order, so runs are short
    pairs = row.astype(np.uint64) << np.uint64(32) | code
    pairs.sort(kind="stable")
    fresh = np.ones(len(pairs), bool)
    fresh[1:] = pairs[1:] != pairs[:-1]
    pairs = pairs[fresh]
    code = (pairs & np.uint64(0xFFFFFFFF)).view(np.int64)
    sizes = np.bincount((pairs >> np.uint64(32)).view(np.int64), minlength=n).astype(np.int32)
    some = np.flatnonzero(sizes)
    starts = np.concatenate([[0], np.cumsum(sizes[some])])
    keys, bands = np.zeros((n, 2), np.uint64), np.zeros((n, plan.bands), np.uint64)
    if len(some):
        bands[some] = band_keys(_signatures(code, starts, _permuted(hashes, plan)), plan)
        for number, value in enumerate((mix(hashes), mix(hashes ^ _SECOND))):
            keys[some, number] = np.add.reduceat(value[code], starts[:-1])
    if text.null_count:
        sizes[np.asarray(text.is_null().to_numpy(zero_copy_only=False))] = -1
    return Sets(sizes, hashes[code], keys, bands)


def _tokens(text: pa.Array, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64], U64]:
    """(row, number of the word) of every word in order, and the hashes of the distinct words."""
    lists = pc.utf8_split_whitespace(text.fill_null("") if text.null_count else text)
    words = lists.values.slice(lists.offsets[0].as_py(), lists.offsets[-1].as_py() - lists.offsets[0].as_py())
    counts = np.diff(lists.offsets.to_numpy())
    encoded = words.dictionary_encode()
    code = encoded.indices.to_numpy()
    distinct = encoded.dictionary.to_pylist()
    row = np.repeat(np.arange(len(text)), counts)
    # Blanks at an end of a caption leave an empty word, or one of blanks: Arrow looks beyond the caption for where they end, and what
    # it finds there is the next caption or nobody's memory.
    distinct = [word.strip() for word in distinct]
    empty = np.array([not word for word in distinct], bool)
    if empty.any():
        real = ~empty[code]
        row, code = row[real], code[real]
    made = np.fromiter((word_hash(word, seed) for word in distinct), np.uint64, len(distinct))
    hashes, folded = np.unique(made, return_inverse=True)  # words that differ in case alone are one
    return row, folded.astype(np.uint64)[code], hashes


def _runs(
    row: npt.NDArray[np.int64], code: npt.NDArray[np.uint64], hashes: U64, ngram: int, n: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64], U64]:
    """The same for runs of `ngram` words; all words of a shorter caption are one run."""
    counts = np.bincount(row, minlength=n)
    first = np.cumsum(counts) - counts
    runs = np.where(counts > 0, np.maximum(counts - ngram + 1, 1), 0)
    owner = np.repeat(np.arange(n), runs)
    start = first[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(runs) - runs, runs)
    end = np.minimum(start + ngram, (first + counts)[owner])
    value = mix((end - start).astype(np.uint64))
    for step in range(ngram):
        inside = start + step < end
        at = np.minimum(start + step, max(len(code) - 1, 0))
        word = hashes[code[at].view(np.int64)] if len(code) else np.zeros(len(at), np.uint64)
        value = np.where(inside, mix(value ^ mix(word)), value)
    made, number = np.unique(value, return_inverse=True)
    return owner, number.astype(np.uint64), made


def _permuted(hashes: U64, plan: Plan) -> npt.NDArray[np.uint32]:
    """(distinct words, bands x rows) values of the permutations."""
    out = np.empty((len(hashes), plan.bands * plan.rows), np.uint32)
    for number in range(out.shape[1]):
        out[:, number] = mix(hashes + np.uint64((number + 1) * _STEP % 2**64)) >> np.uint64(32)
    return out


def _signatures(code: npt.NDArray[np.int64], starts: Any, values: npt.NDArray[np.uint32]) -> Any:
    """(sets, permutations) smallest values; `starts` has one more entry than there are sets."""
    out = np.empty((len(starts) - 1, values.shape[1]), np.uint32)
    first = 0
    while first < len(out):
        last = int(np.searchsorted(starts, starts[first] + TOKENS_AT_ONCE, "right")) - 1
        last = min(max(last, first + 1), len(out))
        some = values.take(code[starts[first] : starts[last]], axis=0)
        out[first:last] = np.minimum.reduceat(some, starts[first:last] - starts[first], axis=0)
        first = last
    return out


def band_keys(signatures: npt.NDArray[np.uint32], plan: Plan) -> U64:
    """(sets, bands) keys, equal where all values of a band are."""
    parts = signatures.reshape(len(signatures), plan.bands, plan.rows)
    keys = np.zeros((len(signatures), plan.bands), np.uint64)
    for number in range(plan.rows):
        keys = mix(keys ^ parts[:, :, number])
    return keys
