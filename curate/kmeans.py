"""k-means over feature rows: Lloyd's iterations on exact assignments, the same centroids for any thread count.

The defaults are those of DataComp's clusters (arXiv 2304.14108): 20 iterations, Euclidean distance, seed 0, at most 256 training
rows a centroid (what faiss takes), centroids not normalised, and afterwards each row goes to the centroid of its largest inner
product. How it is made the same everywhere: rows are assigned as curate.products decides; sums are float64, in blocks of fixed
size, rows of a block in their order; the means are rounded to float32 once.

Start: the first k distinct rows of a permutation seeded by `seed`. A cluster that loses all its rows gets half of the largest
cluster (lowest number of equal ones): both take its centroid, one scaled up and one down by 1/1024 in turning coordinates, as faiss
does it. It ends early when no centroid changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from curate._inner import Doubles
from curate.features import FeatureBlock, Features, normalise
from curate.products import Assigner, Precision, first_of_equals, products_of
from headwater.console import say, track
from headwater.errors import MissingExtra, UsageError

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Blocks = Callable[[], Iterable[Floats]]
Metric = Literal["l2", "ip"]

BLOCK = 8192  # rows of a sum: part of the definition, since float64 sums depend on it
SPLIT = 1 / 1024
FAISS_HINT = "pip install 'headwater[cluster]'"


def train(
    sample: Floats | Blocks,
    k: int,
    *,
    iterations: int = 20,
    seed: int = 0,
    spherical: bool = False,
    metric: Metric = "l2",
    trainer: Literal["headwater", "faiss"] = "headwater",
    precision: Precision = "auto",
    report: dict[str, Any] | None = None,
) -> Floats:
    """Centroids of the rows of `sample`, at most k of them, (k, d) float32.

    `sample` is an array (n, d) of finite rows, or a function that gives the same rows each time in blocks of any size (rows that do
    not fit into memory are read once an iteration). Fewer distinct rows than k give as many centroids, with a warning. `spherical`
    scales rows and centroids to length 1. `metric` "l2" assigns to the nearest centroid while training, "ip" to that of the largest
    inner product. `report` receives {"rows", "iterations", "objective": sum of squared distances before the last update, "split"}.

    Raises UsageError (k < 1, no rows) and MissingExtra (trainer "faiss" without faiss).
    """
    if k < 1 or iterations < 0:
        raise UsageError(
            f"k-means needs k of at least 1 and no negative iterations, not {k} and {iterations}"
        )
    facts = {} if report is None else report
    blocks = _reblocked(sample, spherical)
    if trainer == "faiss":
        return _faiss(np.concatenate(list(blocks())), k, iterations, seed, spherical, metric, facts)
    centroids = _start(blocks, k, seed)
    rows, split = 0, 0
    euclidean = metric == "l2" and not spherical  # on the sphere the two orders are one
    with track("k-means", total=iterations, unit="rounds") as bar:
        for done in range(1, iterations + 1):
            sums, counts, objective = _round(blocks, centroids, euclidean, precision, rows)
            rows = int(counts.sum())
            fresh, moved = _updated(sums, counts, centroids, spherical)
            split += moved
            facts.update(rows=rows, iterations=done, objective=objective, split=split)
            bar.add(1, f"objective {objective:.6g}")
            if fresh.tobytes() == centroids.tobytes():
                break
            centroids = fresh
    return centroids


def assign(
    features: Features,
    centroids: Floats,
    *,
    spherical: bool = False,
    precision: Precision = "auto",
    rows: int = 16_384,
) -> Iterator[tuple[FeatureBlock, Labels, Floats]]:
    """For each block of `features`: the block, the centroid of the largest inner product (-1 for a bad row), that product (NaN).

    `spherical` scales rows to length 1 first. Memory is that of one block of `rows` rows.
    """
    assigner = Assigner(centroids, precision=precision, rows=features.rows) if len(centroids) else None
    for block in features.blocks(rows):
        good = block.bad == 0
        values = block.values if good.all() else block.values[good]
        label = np.full(block.rows, -1, np.int32)
        value = np.full(block.rows, np.nan, np.float32)
        if len(values) and assigner is not None:
            values = normalise(values) if spherical else values
            label[good] = found = assigner(values)
            value[good] = products_of(values, centroids, found)
        yield block, label, value


def _reblocked(sample: Floats | Blocks, spherical: bool) -> Blocks:
    """The sample in blocks of exactly BLOCK rows (the last may be shorter), however it came."""

    def pieces() -> Iterator[Floats]:
        if callable(sample):
            yield from sample()
        else:
            yield from (sample[first : first + BLOCK] for first in range(0, len(sample), BLOCK))

    def blocks() -> Iterator[Floats]:
        waiting: list[Floats] = []
        held = 0
        for piece in pieces():
            while len(piece):
                part = piece[: BLOCK - held]
                piece = piece[len(part) :]
                waiting.append(np.ascontiguousarray(part, np.float32))
                held += len(part)
                if held == BLOCK:
                    yield ready(waiting)
                    waiting, held = [], 0
        if held:
            yield ready(waiting)

    def ready(parts: list[Floats]) -> Floats:
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return normalise(whole) if spherical else whole

    return blocks


def _start(blocks: Blocks, k: int, seed: int) -> Floats:
    """The first k distinct rows of a permutation of all rows."""
    rows = sum(len(block) for block in blocks())
    if not rows:
        raise UsageError("k-means has no rows to train on")
    order = np.random.Generator(np.random.Philox(key=seed % 2**64)).permutation(rows)
    wanted = min(k, rows)
    while True:
        chosen = _gathered(blocks, order[:wanted])
        distinct = first_of_equals(chosen)
        if len(distinct) >= k or wanted == rows:
            break
        wanted = min(rows, 2 * wanted)
    if len(distinct) < k:
        say(
            "warning",
            f"{k:,} clusters were asked for, but {rows:,} rows of which {len(distinct):,} are distinct make no more than that",
        )
    return chosen[distinct[:k]]


def _gathered(blocks: Blocks, places: npt.NDArray[np.int64]) -> Floats:
    """The rows at these places, in this order."""
    by_place = np.argsort(places, kind="stable")
    parts, first, done = [], 0, 0
    for block in blocks():
        last = int(np.searchsorted(places, first + len(block), sorter=by_place))
        parts.append(block[places[by_place[done:last]] - first])
        first, done = first + len(block), last
    whole = np.concatenate(parts)
    out = np.empty_like(whole)
    out[by_place] = whole
    return out


def _round(
    blocks: Blocks, centroids: Floats, euclidean: bool, precision: Precision, rows: int
) -> tuple[Doubles, npt.NDArray[np.int64], float]:
    """Sums and counts of the clusters, and the sum of squared distances."""
    exact = centroids.astype(np.float64)
    half = np.add.reduce(exact * exact, axis=1) / 2
    assigner = Assigner(centroids, bias=-half if euclidean else None, precision=precision, rows=rows or BLOCK)
    sums = np.zeros(centroids.shape)
    counts = np.zeros(len(centroids), np.int64)
    objective = 0.0
    for block in blocks():
        label = assigner(block)
        order = np.argsort(label, kind="stable")
        sorted_labels = label[order]
        starts = np.flatnonzero(np.diff(sorted_labels, prepend=-1))
        clusters = sorted_labels[starts]
        squares = 0.0
        ends = np.append(starts[1:], len(label))
        for cluster, start, end in zip(clusters.tolist(), starts.tolist(), ends.tolist(), strict=True):
            members = block[order[start:end]].astype(np.float64)
            sums[cluster] += np.add.reduce(members, axis=0)
            members -= exact[cluster]
            squares += float(np.add.reduce((members * members).ravel()))
        counts[clusters] += ends - starts
        objective += squares
    return sums, counts, objective


def _updated(
    sums: Doubles, counts: npt.NDArray[np.int64], centroids: Floats, spherical: bool
) -> tuple[Floats, int]:
    """Means of the clusters, and how many empty ones were filled."""
    means = sums / np.maximum(counts, 1)[:, None]
    counts = counts.copy()
    empty = np.flatnonzero(counts == 0)
    sign = np.where(np.arange(sums.shape[1]) % 2, -1.0, 1.0) * SPLIT
    for cluster in empty:
        donor = int(np.argmax(counts))
        means[cluster] = means[donor] * (1 + sign)
        means[donor] *= 1 - sign
        counts[cluster] = counts[donor] // 2
        counts[donor] -= counts[cluster]
    fresh = means.astype(np.float32)
    if spherical:
        fresh = normalise(fresh)
        lost = ~fresh.any(axis=1)  # members that cancel out have no mean direction
        fresh[lost] = centroids[lost]
    return fresh, len(empty)


def need_faiss() -> Any:
    """The module faiss. Raises MissingExtra with the command that installs it."""
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra(f"trainer faiss needs faiss ({error})", hint=FAISS_HINT) from error
    return faiss


def _faiss(
    rows: Floats, k: int, iterations: int, seed: int, spherical: bool, metric: Metric, facts: dict[str, Any]
) -> Floats:
    faiss = need_faiss()
    if not len(rows):
        raise UsageError("k-means has no rows to train on")
    made = faiss.Kmeans(
        rows.shape[1],
        min(k, len(rows)),
        niter=iterations,
        seed=seed % 2**31,
        spherical=spherical or metric == "ip",
        max_points_per_centroid=max(1, -(-len(rows) // max(1, min(k, len(rows))))),
        min_points_per_centroid=1,
    )
    made.train(np.ascontiguousarray(rows))
    objective = float(made.obj[-1]) if len(made.obj) else None
    facts.update(rows=len(rows), iterations=iterations, objective=objective, split=None)
    return np.asarray(made.centroids, np.float32)
