"""Subset files: sorted uids, repeats allowed, as DataComp reads and writes them; and their algebra.

A subset is a `.npy` file of a one-dimensional structured array, dtype `u8,u8` (fields f0 and f1, little-endian): the first and the
last 16 hex digits of each uid, sorted by (f0, f1). A uid that occurs k times stands for k copies of the sample.
A raw file of the same records without the header is read too. Nothing here trusts a file to be sorted: an unsorted one would
silently select the wrong rows, so it is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from curate._order import first_unsorted, merge_runs, search_words, sort_words
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.files import named_io

UID = np.dtype([("f0", "<u8"), ("f1", "<u8")])
Words = npt.NDArray[np.uint64]
HEADER_BYTES = 128


def load_words(path: Path, *, check_sorted: bool = True) -> Words:
    """The uids of a subset file as (n, 2) words, memory-mapped.

    Raises MissingInput, or IntegrityError for a file that is not a subset or not sorted.
    """
    if not path.is_file():
        raise MissingInput(f"{path}: no such subset file")
    with named_io(path):
        size = path.stat().st_size
        with open(path, "rb") as handle:
            npy = handle.read(6) == b"\x93NUMPY"
    if not npy and (size % 16 or not size):
        raise IntegrityError(
            f"{path}: not a subset file (neither .npy nor a whole number of 16-byte records)"
        )
    if not npy:
        words = np.memmap(path, "<u8", "r").reshape(-1, 2)
    else:
        try:
            array = np.load(path, mmap_mode="r" if size > 4096 else None, allow_pickle=False)
        except (ValueError, OSError, EOFError, OverflowError, MemoryError) as error:
            raise IntegrityError(
                f"{path}: not a readable .npy file ({error})", hint="it is damaged or truncated"
            ) from error
        fields = [array.dtype[i] for i in range(len(array.dtype.names or ()))]
        if array.ndim != 1 or array.dtype.itemsize != 16 or fields != [np.dtype("<u8")] * 2:
            raise IntegrityError(
                f"{path}: holds {array.dtype} of {array.ndim} dimensions, and a subset is a list of u8,u8 pairs"
            )
        words = array.view("<u8").reshape(-1, 2)
    if check_sorted:
        row = first_unsorted(words)
        if row is not None:
            raise IntegrityError(
                f"{path}: not sorted: entry {row:,} is smaller than the one before it",
                hint="a reader would silently pick the wrong rows; sort it with `headwater subset union FILE -o SORTED.npy --unsorted`",
            )
    return words


def header(count: int) -> bytes:
    """The .npy header that numpy.save writes for `count` uids."""
    import io

    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(  # type: ignore[no-untyped-call]
        out, {"descr": np.dtype("u8,u8").descr, "fortran_order": False, "shape": (count,)}
    )
    return out.getvalue()


def write_sorted(handle: BinaryIO, blocks: Iterator[Words] | Sequence[Words]) -> int:
    """Write sorted blocks as one subset file into `handle` (seekable); returns the count."""
    handle.write(header(0).ljust(HEADER_BYTES))
    count = 0
    for block in blocks:
        handle.write(np.ascontiguousarray(block, "<u8").data)
        count += len(block)
    real = header(count)
    if len(real) != HEADER_BYTES:
        raise IntegrityError("the .npy header has not the usual 128 bytes")
    handle.seek(0)
    handle.write(real)
    handle.seek(0, 2)
    return count


def merge_to(handle: BinaryIO, runs: Sequence[Words], *, once: bool) -> tuple[int, int, list[str]]:
    """Merge sorted runs into a subset file. With `once`, a uid that occurs more than once is written once.

    Returns (written, surplus occurrences, up to ten of the uids that occur more than once). Memory is bounded.
    """
    handle.write(header(0).ljust(HEADER_BYTES))
    written = surplus = 0
    last: Words = np.zeros((0, 2), "<u8")
    examples: list[str] = []

    def write(block: Words) -> None:
        nonlocal written, surplus, last
        if not len(block):
            return
        hi = block[:, 0]
        if not (hi[1:] == hi[:-1]).any() and not (len(last) and last[0, 0] == hi[0]):
            handle.write(np.ascontiguousarray(block).data)  # the usual case: all uids differ
            last = block[-1:].copy()
            written += len(block)
            return
        joined = np.concatenate([last, block]) if len(last) else block
        same = (joined[1:, 0] == joined[:-1, 0]) & (joined[1:, 1] == joined[:-1, 1])
        if same.any():
            surplus += int(np.count_nonzero(same))
            for place in np.flatnonzero(same)[: 10 - len(examples)].tolist():
                text = to_hex(joined[place + 1 : place + 2])[0]
                if text not in examples:
                    examples.append(text)
        fresh = np.concatenate([[True], ~same]) if not len(last) else ~same
        out = block[fresh] if once and not fresh.all() else block
        last = block[-1:].copy()
        handle.write(np.ascontiguousarray(out).data)
        written += len(out)

    merge_runs(runs, write)
    handle.seek(0)
    handle.write(header(written))
    handle.seek(0, 2)
    return written, surplus, examples


def to_hex(words: Words) -> list[str]:
    """32 lower-case hex digits per uid."""
    digits = np.ascontiguousarray(words, ">u8").tobytes().hex()
    return [digits[i : i + 32] for i in range(0, len(digits), 32)]


def from_hex(uids: Sequence[str]) -> Words:
    """Words of uids in text form; raises UsageError naming the first that is malformed."""
    for number, uid in enumerate(uids, 1):
        if len(uid) != 32 or any(c not in "0123456789abcdef" for c in uid):
            raise UsageError(f"uid {number}: {uid!r:.80} is not 32 lower-case hex digits")
    return np.frombuffer(bytes.fromhex("".join(uids)), ">u8").astype("<u8").reshape(-1, 2)


def union(subsets: Sequence[Words]) -> Words:
    """Every uid of any, as often as in the one that has it most."""
    return _multiset(subsets, lambda counts: counts.max(axis=0))


def intersect(subsets: Sequence[Words]) -> Words:
    """Every uid of all, as often as in the one that has it least."""
    return _multiset(subsets, lambda counts: counts.min(axis=0))


def subtract(first: Words, others: Sequence[Words]) -> Words:
    """Entries of `first` whose uid is in none of the others."""
    keep = np.ones(len(first), bool)
    for other in others:
        left, right = search_words(other, first)
        keep &= right == left
    return np.asarray(first[keep])


def _multiset(
    subsets: Sequence[Words], join: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]
) -> Words:
    every = unique(sort_words(np.concatenate([np.asarray(s) for s in subsets])))
    counts = np.stack([np.subtract(*reversed(search_words(s, every))) for s in subsets])
    return np.repeat(every, join(counts), axis=0)


def unique(words: Words) -> Words:
    """Sorted uids, each once."""
    if not len(words):
        return words
    new = (words[1:, 0] != words[:-1, 0]) | (words[1:, 1] != words[:-1, 1])
    return np.asarray(words[np.concatenate([[True], new])])


def sample(words: Words, *, count: int | None, fraction: float | None, seed: int) -> Words:
    """A uniform choice without replacement of entries, in order. Give one of `count` and `fraction`."""
    if (count is None) == (fraction is None):
        raise UsageError("subset sample: give one of --count and --fraction")
    if fraction is not None and not 0 < fraction <= 1:
        raise UsageError(f"--fraction {fraction}: must be above 0 and at most 1")
    wanted = int(len(words) * fraction) if fraction is not None else int(count or 0)
    if not 0 <= wanted <= len(words):
        raise UsageError(f"--count {wanted:,}: the subset has {len(words):,} entries")
    chosen = np.sort(np.random.Generator(np.random.PCG64(seed)).choice(len(words), wanted, replace=False))
    return np.asarray(words[chosen])


def repeat(words: Words, times: int) -> Words:
    """Every entry `times` times."""
    if times < 1:
        raise UsageError(f"--times {times}: must be at least 1")
    return np.repeat(words, times, axis=0)


def soft_cap(
    words: Words, scores: npt.NDArray[np.float64], *, count: int, penalty: float, batch: int, seed: int
) -> Words:
    """Soft-cap sampling (FLYT, arXiv 2503.08805): draw batches without replacement by softmax(score), and lower the score of
    every drawn row by `penalty`, until `count` entries are drawn. The result repeats uids.

    `scores` belong to the entries of `words`, which are distinct uids. Draws use the Gumbel top-k equivalence, so one batch is one
    partial sort.
    """
    if not len(words) or len(scores) != len(words):
        raise UsageError("soft-cap needs a subset of distinct uids with one score each")
    if count < 1 or batch < 1 or penalty < 0:
        raise UsageError("soft-cap: --count and --batch must be at least 1, --penalty at least 0")
    random = np.random.Generator(np.random.PCG64(seed))
    logits = scores.astype(np.float64).copy()
    drawn = np.zeros(len(words), np.int64)
    left = count
    while left:
        size = min(batch, left, len(words))
        noisy = logits + random.gumbel(size=len(logits))
        chosen = np.argpartition(-noisy, size - 1)[:size] if size < len(words) else np.arange(len(words))
        drawn[chosen] += 1
        logits[chosen] -= penalty
        left -= size
    return np.repeat(words, drawn, axis=0)


def difference(a: Words, b: Words) -> dict[str, int]:
    """How two subsets differ, in entries and in distinct uids."""
    only_a, only_b = subtract(a, [b]), subtract(b, [a])
    return {
        "entries_a": len(a),
        "entries_b": len(b),
        "uids_a": len(unique(np.asarray(a))),
        "uids_b": len(unique(np.asarray(b))),
        "only_in_a": len(unique(only_a)),
        "only_in_b": len(unique(only_b)),
        "in_both": len(unique(np.asarray(a))) - len(unique(only_a)),
    }
