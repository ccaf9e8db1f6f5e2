"""Exact duplicates in two looks: 8 bytes a row say which rows may repeat, and only those are compared in full.

First look: of every row one u64, the upper bits of its key's hash and the number of the row in its shard, kept on disk in the order
of their first bits. `candidates` reads all shards range by range and finds the hashes that occur more often than allowed; bits
that the row number took can only add candidates, never lose one. Second look: the candidates with their whole keys, uids and order
columns; `Surplus` reduces them piece by piece to the rows beyond the first `at_most` of each key.
Rows: by the order columns, missing values last; then uid, shard name and row. Keys are equal as values: -0.0 equals 0.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate._order import order_of, sort_keys
from curate.clauses import absent, mix
from headwater.files import atomic_file, named_io

ROWS_AT_ONCE = 4 << 20
CACHE_ROWS = 1 << 15  # hashes of one range, and their table, stay in the L2 cache
MAX_PIECES = 1 << 20  # of shards and ranges
MAX_SLOT_BITS = 25  # 128 MB
NOBODY = np.uint32(2**32 - 1)
_TOP = np.uint64(48)

U64 = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Keys:
    """The first look at one shard."""

    shard: str
    path: str  # u64 by their upper 16 bits: hash bits above, row number in the lowest `bits`
    rows: int
    bits: int
    absent: str | None  # rows without a key, sorted


def write_keys(shard: str, rows: int, hashes: U64, numbers: Rows, absent_rows: Rows, file: Path) -> Keys:
    """Leave the first look at one shard on disk. `rows` is the number of rows of the shard, more than any of `numbers`."""
    bits = max(rows - 1, 0).bit_length()
    keys = hashes & ~np.uint64((1 << bits) - 1)
    keys |= numbers.view(np.uint64)
    # numpy sorts 16-bit numbers by radix, ten times as fast as whole keys
    keys = keys.take(np.argsort((keys >> _TOP).astype(np.uint16), kind="stable"))
    path, missing = file.with_suffix(".keys"), None
    with atomic_file(path, durable=False) as handle:
        handle.write(keys.data)
    if len(absent_rows):
        missing = file.with_suffix(".absent.npy")
        with atomic_file(missing, durable=False) as handle:
            np.save(handle, np.sort(absent_rows), allow_pickle=False)
    return Keys(shard, str(path), len(keys), bits, None if missing is None else str(missing))


def candidates(parts: Sequence[Keys], at_most: int, folder: Path, name: str) -> dict[str, str]:
    """Shard -> a .npy file of the sorted numbers of rows whose hash bits occur more than `at_most` times in all shards."""
    parts = [part for part in parts if part.rows]
    # as plain arrays: slicing a memmap costs ten times as much
    maps = [np.asarray(np.memmap(part.path, "<u8", "r")) for part in parts]
    bits = max((part.bits for part in parts), default=0)
    common = _range_bits(sum(map(len, maps)), len(maps))
    cuts = (
        np.arange(1, 1 << common, dtype=np.uint64) << np.uint64(64 - common) if common else np.zeros(0, "<u8")
    )
    bounds = [[0, *np.searchsorted(m, cuts).tolist(), len(m)] for m in maps]
    files = [folder / f"{name}.{number}.candidates" for number in range(len(parts))]
    masks = np.array([(1 << part.bits) - 1 for part in parts], np.uint64)
    waiting: list[tuple[Any, U64]] = []
    small = np.min_scalar_type(len(parts))  # numpy sorts small numbers by radix
    for path in files:
        path.unlink(missing_ok=True)
    held = 0
    for number in range(1 << common):
        pieces = [m[b[number] : b[number + 1]] for m, b in zip(maps, bounds, strict=True)]
        for chosen in _thinned(pieces, bits):
            codes, keys = _repeated(chosen, bits, common, at_most)
            waiting.append((codes.astype(small), keys))
            held += len(keys)
        if held and (held >= ROWS_AT_ONCE // 2 or number == (1 << common) - 1):
            _add_rows(files, waiting, masks)
            waiting.clear()
            held = 0
    found = {part.shard: path for part, path in zip(parts, files, strict=True) if path.exists()}
    for path in found.values():
        chosen_rows = sort_keys(np.fromfile(path, np.uint64)).view(np.int64)
        with atomic_file(path, durable=False) as handle:
            np.save(handle, chosen_rows, allow_pickle=False)
    return {shard: str(path) for shard, path in found.items()}


def _add_rows(files: Sequence[Path], found: Sequence[tuple[Any, U64]], masks: U64) -> None:
    """Append the row numbers in keys to the file of the part that each came from."""
    codes = np.concatenate([part for part, _ in found])
    rows = np.concatenate([keys for _, keys in found])
    rows &= masks.take(codes)
    order = np.argsort(codes, kind="stable")
    codes, rows = codes.take(order), rows.take(order)
    starts = [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist()]
    for first, last in zip(starts, [*starts[1:], len(rows)], strict=True):
        path = files[int(codes[first])]
        with named_io(path), open(path, "ab") as handle:
            handle.write(rows[first:last].data)


def _range_bits(rows: int, parts: int) -> int:
    """How many upper bits cut hashes into ranges: small enough for the cache, and never above ROWS_AT_ONCE if spread evenly."""
    bits = max((rows // CACHE_ROWS).bit_length(), 0)
    while bits and parts << bits > MAX_PIECES and rows >> (bits - 1) <= ROWS_AT_ONCE:
        bits -= 1
    return min(bits, 16)


def _thinned(pieces: list[Any], bits: int) -> Iterator[list[Any]]:
    """The pieces, or when hashes are crowded one share of their values after the other."""
    shares = -(-sum(map(len, pieces)) // (2 * ROWS_AT_ONCE))
    if shares <= 1:
        yield pieces
        return
    for share in range(shares):
        yield [p[mix(p >> np.uint64(bits)) % np.uint64(shares) == np.uint64(share)] for p in pieces]


def _repeated(pieces: Sequence[Any], bits: int, common: int, at_most: int) -> tuple[Rows, U64]:
    """Keys whose hash bits occur more than `at_most` times in the pieces together, and the number of the piece of each.

    The `common` upper bits are equal in all.
    """
    ends = np.cumsum([*map(len, pieces)])
    keys = np.concatenate([np.zeros(0, np.uint64), *pieces])
    places = crowded(keys, bits, common)
    if len(places) <= at_most:
        return np.zeros(0, np.int64), np.zeros(0, np.uint64)
    n = len(places)
    low = np.uint64((n - 1).bit_length())
    packed = keys.take(places) >> np.uint64(bits) << np.uint64(bits)
    packed <<= np.uint64(common)
    packed >>= low
    packed <<= low
    packed |= np.arange(n, dtype=np.uint64)
    packed = sort_keys(packed)
    mask = (np.uint64(1) << low) - np.uint64(1)
    tied = runs_above(packed >> low, at_most)
    found = places.take((packed[tied] & mask).view(np.int64))
    return np.searchsorted(ends, found, "right"), keys.take(found)


def crowded(keys: U64, bits: int = 0, common: int = 0) -> Rows:
    """Places, ascending, of keys that share a slot with another: every repeated one, and about one in eight of the others.

    The lowest `bits` do not count, and the uppermost `common` are equal in all keys.
    """
    n = len(keys)
    width = min(n.bit_length() + 3, 64 - bits - common, MAX_SLOT_BITS)
    if width < 1 or n < 2:
        return np.arange(n)
    slot = ((keys << np.uint64(common)) >> np.uint64(64 - width)).view(np.int64)
    mine = np.arange(n, dtype=np.uint32)
    table = np.empty(1 << width, np.uint32)
    table[slot] = mine
    lost = np.flatnonzero(table.take(slot) != mine)
    table[slot.take(lost)] = NOBODY
    return np.flatnonzero(table.take(slot) == NOBODY)


def runs_above(values: npt.NDArray[Any], at_most: int) -> npt.NDArray[np.bool_]:
    """True where a sorted value occurs more than `at_most` times."""
    if at_most == 1:
        tied = np.zeros(len(values), bool)
        same = values[1:] == values[:-1]
        tied[1:] = same
        tied[:-1] |= same
        return tied
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])[: len(values)])
    lengths = np.diff(np.append(starts, len(values)))
    return np.repeat(lengths > at_most, lengths)


class Surplus:
    """The rows beyond the first `at_most` of each key, from tables of candidates in any order.

    A table has `part` (int32), `row` (int64), `uid_hi`, `uid_lo` (u64), the key columns k0 … and order columns o0 …. `add` keeps the
    best rows seen of every key and gives back the others.
    """

    def __init__(self, keys: int, ways: Sequence[str], at_most: int) -> None:
        self._keys, self._ways, self._at_most = keys, list(ways), at_most
        self._best: tuple[pa.Table, Rows] | None = None  # rows of a table, taken out when more are added

    def add(self, table: pa.Table) -> pa.Table:
        """(part, row) of rows that are one too many among everything added so far."""
        best, self._best = self._best, None
        if best is not None:
            table = pa.concat_tables([best[0].take(pa.array(best[1])), table])
        del best
        table = table.combine_chunks()
        n = table.num_rows
        groups = _groups([table[f"k{i}"] for i in range(self._keys)], n)
        ranks = [_ranks(table[f"o{i}"], way) for i, way in enumerate(self._ways)]
        place = {name: table[name].to_numpy() for name in ("uid_hi", "uid_lo", "part", "row")}
        order = _order(groups, ranks, place)
        sorted_groups = groups[order]
        first = np.flatnonzero(np.concatenate([[True], sorted_groups[1:] != sorted_groups[:-1]])[:n])
        nth = np.arange(n) - np.repeat(first, np.diff(np.append(first, n)))
        keep = nth < self._at_most
        self._best = table, np.sort(order[keep])
        return table.select(["part", "row"]).take(pa.array(order[~keep]))


def _groups(columns: list[pa.ChunkedArray], n: int) -> npt.NDArray[np.uint64]:
    """A number for each row, equal exactly where all key columns are."""
    codes = np.zeros(n, np.uint64)
    size = 1
    for column in columns:
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        mine, count = _codes(array)
        if size * count >= 1 << 62:
            codes, size = _dense(codes)
        codes = codes * np.uint64(count) + mine
        size *= count
    return codes if size <= 4 * n else _dense(codes)[0]


def _dense(codes: U64) -> tuple[U64, int]:
    values, inverse = np.unique(codes, return_inverse=True)
    return inverse.astype(np.uint64), max(len(values), 1)


def _codes(array: pa.Array) -> tuple[U64, int]:
    """A number below `count` for each value, equal exactly where values are equal."""
    kind = array.type
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == 32:
        return _digest_codes(np.frombuffer(array.buffers()[1], "<u8", 4 * len(array), 32 * array.offset))
    if pa.types.is_floating(kind):
        array = pc.add(array, pa.scalar(0.0, kind))  # -0.0 is 0.0
    elif pa.types.is_nested(kind):
        array = pa.array([repr(value) for value in array.to_pylist()], pa.string())
    encoded = array if pa.types.is_dictionary(kind) else array.dictionary_encode()
    return encoded.indices.to_numpy().astype(np.uint64), max(len(encoded.dictionary), 1)


def _digest_codes(words: U64) -> tuple[U64, int]:
    """Numbers of 256-bit values: sorted by their first word, which a collision alone makes equal for different values."""
    table = words.reshape(-1, 4)
    n = len(table)
    order = order_of(np.ascontiguousarray(table[:, 0]))
    ordered = table.take(order, 0)
    differs = np.zeros(n, bool)
    for word in range(4):
        differs[1:] |= ordered[1:, word] != ordered[:-1, word]
    same_head = ordered[1:, 0] == ordered[:-1, 0]
    if (differs[1:] & same_head).any():
        order = np.lexsort(table.T[::-1])
        ordered = table[order]
        differs[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    codes = np.empty(n, np.uint64)
    codes[order] = np.cumsum(differs)
    return codes, n + 1


def _ranks(column: pa.ChunkedArray, way: str) -> U64:
    """Places in the order of one column: equal for equal values, missing ones last whichever way."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    missing = absent(array)
    if pa.types.is_floating(array.type):
        array = pc.add(array, pa.scalar(0.0, array.type))
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if missing is not None:
        array = pc.if_else(pa.array(missing), pa.scalar(None, array.type), array)
    ranks = pc.rank(  # nulls are last, whichever way
        array, sort_keys="ascending" if way == "asc" else "descending", tiebreaker="dense"
    )
    return np.asarray(ranks.to_numpy(), np.uint64)


def _order(groups: U64, ranks: list[U64], place: dict[str, Any]) -> Rows:
    """Rows by group, ranks, uid, part and row: one u64 decides where its bits do."""
    if len(groups) == 0:
        return np.zeros(0, np.int64)
    packed, used = groups.copy(), max(int(groups.max()).bit_length(), 1)
    for rank in ranks:
        bits = int(rank.max()).bit_length()
        used += bits
        if used > 48:
            break
        packed = packed << np.uint64(bits) | rank
    if used <= 48:
        packed = packed << np.uint64(64 - used) | place["uid_hi"] >> np.uint64(used)
        order = order_of(packed)
        ordered = packed.take(order)
        if not (ordered[1:] == ordered[:-1]).any():
            return order
    keys = (place["row"], place["part"], place["uid_lo"], place["uid_hi"], *reversed(ranks), groups)
    return np.asarray(np.lexsort(keys), np.int64)
