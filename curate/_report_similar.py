"""Rows that scores put together: members of clusters, and pairs of duplicates, found through stored columns.

Only the columns in question are read, a shard at a time; what is shown is chosen by size, similarity, or a hash of row and seed.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate._report_data import KEPT, Pick, ScanTask
from curate._report_groups import fetch
from curate.clauses import mix
from curate.pool import Pool, family
from curate.pooldata import outdated
from curate.sidecars import StoredRef, read_sidecar, stored_scores
from curate.views import RawView
from headwater.errors import HeadwaterError

EACH_KIND = 2  # clusters: so many of the largest, of the smallest and at random
MEMBERS = 6  # nearest and farthest of a cluster
PAIRS = 6  # of each kind of duplicates
# column that names the other row, or the group -> (heading, column with the similarity)
KINDS: dict[str, tuple[str, str | None]] = {
    "semdedup_of": ("Near in the feature space (SemDeDup)", "semdedup_similarity"),
    "copy_group": ("Copies, by features", None),
    "picture_group": ("Near-duplicate pictures, by perceptual hash", None),
    "caption_group": ("Near-duplicate captions", None),
}
Place = tuple[int, int]  # number of the shard, row


@dataclass(frozen=True)
class Cluster:
    """Some members of one cluster with their similarity to its centre, nearest first."""

    number: int
    rows: int
    kept: int
    why: str
    nearest: tuple[tuple[Pick, float | None, bool], ...]  # row, similarity, whether it is kept
    farthest: tuple[tuple[Pick, float | None, bool], ...]


@dataclass(frozen=True)
class Pair:
    """A row and the one that stands for it."""

    kind: str
    survivor: Pick
    survivor_kept: bool
    other: Pick
    other_kept: bool
    similarity: float | None


class Stored:
    """Columns of a pool and of scores beside it, shard by shard."""

    def __init__(self, pool: Pool, tasks: Sequence[ScanTask], of_rule: Sequence[StoredRef] = ()) -> None:
        self.pool, self.tasks = pool, tasks
        first = pool.shards[0]
        # where several sets of scores have a column, it is that of the set which the rule used
        self._makers: dict[str, StoredRef] = {name: ref for ref in of_rule for name in ref.outputs}
        for ref in stored_scores(pool.cache, first.name, pool.digests(first).sha256):
            if outdated(pool, ref.identity):
                continue
            for name in ref.outputs:
                self._makers.setdefault(name, ref)

    def has(self, name: str) -> bool:
        return name in self._makers or all(name in shard.types for shard in self.pool.shards)

    def is_text(self, name: str) -> bool:
        ref = self._makers.get(name)
        return ref.outputs[name] == "string" if ref else family(self.pool.shards[0].types[name]) == "text"

    def shards(self, names: Sequence[str]) -> Iterator[tuple[int, list[pa.Array]]]:
        """Number and whole columns of every shard that has them all."""
        for number, shard in enumerate(self.pool.shards):
            found = [self._column(number, name) for name in names]
            if all(column is not None and len(column) == shard.rows for column in found):
                yield number, [column for column in found if column is not None]

    def _column(self, number: int, name: str) -> pa.Array | None:
        shard = self.pool.shards[number]
        ref = self._makers.get(name)
        if ref is None:
            if name not in shard.types:
                return None
            blocks = [block.column(name) for block in RawView(shard, {}).blocks()]
            arrays = [pa.array(b) if isinstance(b, np.ndarray) else b for b in blocks]
            return pa.concat_arrays(arrays) if arrays else pa.nulls(0)
        table = read_sidecar(self.pool.cache, ref, shard.name, self.tasks[number].sha256)
        return None if table is None else pa.chunked_array(table[name]).combine_chunks()

    def codes(self, number: int) -> npt.NDArray[np.uint8]:
        """One byte a row: KEPT, or why not."""
        path = self.tasks[number].codes
        if path is None:
            return np.zeros(self.pool.shards[number].rows, np.uint8)
        return np.asarray(np.load(Path(path), mmap_mode="r", allow_pickle=False), np.uint8)

    def kept(self, number: int) -> npt.NDArray[np.bool_]:
        return np.asarray(self.codes(number) == KEPT, np.bool_)

    def is_kept(self, place: Place) -> bool:
        return bool(self.codes(place[0])[place[1]] == KEPT)

    def ranks(self, number: int, rows: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.uint64]:
        """A hash of place and seed."""
        start = np.array([(number << 40) ^ (seed & (2**64 - 1))], np.uint64)
        return mix(rows.astype(np.uint64) ^ mix(start))

    def picks(self, places: Sequence[Place]) -> dict[Place, Pick]:
        return dict(fetch(self.pool, sorted(set(places)), self.tasks))


def clusters(stored: Stored, seed: int) -> list[Cluster]:
    """Some clusters of column `cluster`, with members by `cluster_similarity` where that is there too."""
    if not stored.has("cluster"):
        return []
    ranked = stored.has("cluster_similarity")
    names = ["cluster", "cluster_similarity"] if ranked else ["cluster"]
    sizes, of_kept = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for number, columns in stored.shards(names[:1]):
        if not pa.types.is_integer(columns[0].type):
            return []
        labels, there = _labels(columns[0])
        sizes = _grown(sizes, labels[there])
        of_kept = _grown(of_kept, labels[there & stored.kept(number)])
    filled = np.flatnonzero(sizes)
    if not len(filled):
        return []
    of_kept = np.pad(of_kept, (0, len(sizes) - len(of_kept)))  # the last clusters may have no kept row
    by_size = filled[np.argsort(-sizes[filled], kind="stable")].tolist()
    hashed = filled[np.argsort(mix(filled.astype(np.uint64) ^ np.uint64(seed & (2**64 - 1))))].tolist()
    why: dict[int, str] = {}
    for label, some in (("largest", by_size), ("smallest", by_size[::-1]), ("chosen at random", hashed)):
        fresh = [c for c in some if c not in why][:EACH_KIND]
        why.update(dict.fromkeys(fresh, label))
    near: dict[int, list[tuple[float, Place]]] = {c: [] for c in why}
    far: dict[int, list[tuple[float, Place]]] = {c: [] for c in why}
    for number, columns in stored.shards(names):
        labels, there = _labels(columns[0])
        values = _floats(columns[1]) if ranked else np.zeros(len(labels))
        for cluster in why:
            rows = np.flatnonzero(there & (labels == cluster))
            some = rows[np.argsort(-values[rows], kind="stable")]
            close = [(-float(values[r]), (number, int(r))) for r in some[:MEMBERS]]
            apart = [(float(values[r]), (number, int(r))) for r in some[-MEMBERS:]]
            near[cluster] = heapq.nsmallest(MEMBERS, [*near[cluster], *close])
            far[cluster] = heapq.nsmallest(MEMBERS, [*far[cluster], *apart])
    for cluster in why:  # a small cluster is shown once
        shown = {place for _, place in near[cluster]}
        far[cluster] = [entry for entry in far[cluster] if entry[1] not in shown]
    picks = stored.picks([place for side in (near, far) for some in side.values() for _, place in some])

    def told(entries: list[tuple[float, Place]], sign: float) -> tuple[tuple[Pick, float | None, bool], ...]:
        return tuple(
            (picks[place], sign * value if ranked else None, stored.is_kept(place))
            for value, place in entries
        )

    return [
        Cluster(c, int(sizes[c]), int(of_kept[c]), reason, told(near[c], -1.0), told(far[c][::-1], 1.0))
        for c, reason in why.items()
    ]


def _labels(column: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    there = np.asarray(column.is_valid().to_numpy(zero_copy_only=False))
    labels = np.asarray(column.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False))
    return labels, there & (labels >= 0) & (labels < 1 << 24)


def _floats(column: pa.Array) -> npt.NDArray[np.float64]:
    values = np.array(column.cast(pa.float64()).fill_null(-np.inf).to_numpy(zero_copy_only=False))
    values[np.isnan(values)] = -np.inf
    return values


def _grown(counts: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    more = np.bincount(labels, minlength=len(counts))
    more[: len(counts)] += counts
    return np.asarray(more, np.int64)


def pairs(stored: Stored, seed: int, judged: Mapping[str, Collection[int]] | None) -> list[Pair]:
    """Some pairs of each kind of duplicates that scores tell.

    Of a filtered pool (`judged`: column -> codes of rows that clauses over it dropped), pairs of rows that those clauses dropped,
    or, where there are none, of any that were dropped; of a pool, of all rows.
    """
    found: list[Pair] = []
    for column, (kind, similarity) in KINDS.items():
        if stored.has(column) and stored.is_text(column):
            value = similarity if similarity and stored.has(similarity) else None
            try:
                found += _pairs(stored, column, kind, value, seed, judged)
            except (pa.ArrowException, HeadwaterError):
                continue  # a pool's own column of that name, of another kind
    return found


def _pairs(
    stored: Stored,
    column: str,
    kind: str,
    similarity: str | None,
    seed: int,
    judged: Mapping[str, Collection[int]] | None,
) -> list[Pair]:
    named = sorted(
        {code for name in (column, similarity) if judged and name for code in judged.get(name, ())}
    )
    chosen: list[
        tuple[bool, float, Place, str, float | None]
    ] = []  # order; place; other uid or group; similarity
    for number, columns in stored.shards([column, *([similarity] if similarity else [])]):
        names = columns[0].cast(pa.string())
        wanted = names.is_valid().to_numpy(zero_copy_only=False) & ~_equal(names, _uids(stored, number))
        codes = stored.codes(number)
        rows = np.flatnonzero(wanted if judged is None else wanted & (codes != KEPT))
        by_clause = np.isin(codes[rows], named)
        ranks = stored.ranks(number, rows, seed).astype(np.float64)
        if similarity and not named:
            ranks = -_floats(columns[1])[rows]  # the nearest first
        for at in np.lexsort((ranks, ~by_clause))[: 4 * PAIRS].tolist():
            row = int(rows[at])
            value = columns[1][row].as_py() if similarity else None
            chosen.append((not by_clause[at], float(ranks[at]), (number, row), names[row].as_py(), value))
    if named and any(not entry[0] for entry in chosen):
        chosen = [entry for entry in chosen if not entry[0]]
    few: dict[str, tuple[Place, float | None]] = {}
    for _, _, place, name, value in sorted(chosen, key=lambda e: e[:3]):
        few.setdefault(name, (place, value))  # one pair a group
    some = dict(list(few.items())[:PAIRS])
    partners = _partners(stored, column, list(some))
    both = [(some[name], other) for name, other in partners.items() if other not in (None, some[name][0])]
    picks = stored.picks([place for (first, _), other in both for place in (first, other) if place])
    made = []
    for (place, value), other in both:
        assert other is not None
        kept = [stored.is_kept(one) for one in (other, place)]
        likeness = None if value is None else float(value)
        made.append(Pair(kind, picks[other], kept[0], picks[place], kept[1], likeness))
    return made


def _partners(stored: Stored, column: str, names: Sequence[str]) -> dict[str, Place | None]:
    """For each name the row that stands for it: the row of that uid; of a group, a kept member where there is one."""
    best: dict[str, tuple[bool, bool, Place]] = {}
    wanted = pa.array(sorted(names), pa.string())
    for number, columns in stored.shards([column]):
        uids = _uids(stored, number)
        of_uid = np.asarray(pc.is_in(uids, value_set=wanted).to_numpy(zero_copy_only=False))
        group = columns[0].cast(pa.string())
        of_group = np.asarray(pc.is_in(group, value_set=wanted).to_numpy(zero_copy_only=False))
        if column == "semdedup_of":
            of_group[:] = False
        kept = stored.kept(number)
        for row in np.flatnonzero(of_uid | of_group).tolist():
            name = uids[row].as_py() if of_uid[row] else group[row].as_py()
            entry = (not kept[row], not of_uid[row], (number, row))
            best[name] = min(best.get(name, entry), entry)
    return {name: best[name][2] if name in best else None for name in names}


def _uids(stored: Stored, number: int) -> pa.Array:
    blocks = RawView(stored.pool.shards[number], {}).blocks()
    chunks = [chunk.cast(pa.string()) for block in blocks for chunk in block.uid_strings().chunks]
    return pa.chunked_array(chunks, pa.string()).combine_chunks()


def _equal(names: pa.Array, uids: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.fill_null(pc.equal(names, uids), False).to_numpy(zero_copy_only=False))
