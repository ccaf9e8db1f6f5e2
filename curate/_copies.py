"""Neighbours above a cosine, as edges of a graph: among all rows, or within clusters and those near them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate import _chunked
from curate._chunked import pairs_above, pairs_between
from curate._components import Components
from curate._grouped import Grouped
from curate.products import top_k
from headwater.console import track

Floats = npt.NDArray[np.float32]
Nodes = npt.NDArray[np.int64]

QUERY_ROWS = 4096
SPILL_ROWS = 1 << 20  # edges that are read back at a time
MANY = 4  # times neighbours * rows: with more pairs than that most rows need a list of their own


def exact_neighbours(
    rows: Floats,
    chunk: int,
    threshold: float,
    neighbours: int,
    graph: Components,
    degree: Nodes,
    scratch: Path,
) -> None:
    """Join each row to its `neighbours` nearest others (0: all others) whose cosine is above `threshold`; ties: lowest number.

    All pairs above the threshold are counted first, which is far cheaper than a sorted list of each row: a row that has no more
    than `neighbours` of them is joined to all, and only the others need their list. `degree` (n,) is filled. `chunk` rows are held in
    memory at a time; pairs wait in a file in the folder `scratch`, at most `neighbours` a row and those of one block.
    """
    n = len(rows)
    if not neighbours or neighbours >= n - 1:
        with track("compare all pairs", total=None, unit="neighbours") as bar:
            for first, second in pairs_above(rows, threshold, chunk):
                _join(graph, degree, [(first, second)])
                bar.add(len(first))
        return
    waiting = scratch / "copies.pairs"
    try:
        if _few_pairs(rows, chunk, threshold, neighbours, degree, waiting):
            crowded = degree > neighbours
            for first, second in _pairs_of(waiting):
                apart = ~(crowded[first] & crowded[second])  # of two crowded rows their lists decide
                graph.join(first[apart], second[apart])
        else:
            degree[:], crowded = 0, np.ones(n, bool)
    finally:
        waiting.unlink(missing_ok=True)
    _nearest_of(np.flatnonzero(crowded), rows, chunk, threshold, neighbours, graph, degree)


def _few_pairs(
    rows: Floats, chunk: int, threshold: float, neighbours: int, degree: Nodes, waiting: Path
) -> bool:
    """Count the neighbours of each row and write the pairs that may be joined to a file; False when there are too many pairs."""
    found = 0
    with track("compare all pairs", total=None, unit="neighbours") as bar, open(waiting, "wb") as out:
        for first, second in pairs_above(rows, threshold, chunk):
            found += len(first)
            if found > MANY * neighbours * len(rows):
                return False
            np.add.at(degree, first, 1)
            np.add.at(degree, second, 1)
            # where both have too many already, neither is joined to all
            some = (degree[first] <= neighbours) | (degree[second] <= neighbours)
            out.write(np.stack([first[some], second[some]], axis=1).tobytes())
            bar.add(len(first))
    return True


def _pairs_of(waiting: Path) -> Iterator[tuple[Nodes, Nodes]]:
    with open(waiting, "rb") as source:
        while data := source.read(SPILL_ROWS * 16):
            pairs = np.frombuffer(data, np.int64).reshape(-1, 2)
            yield pairs[:, 0], pairs[:, 1]


def _nearest_of(
    queries: Nodes,
    rows: Floats,
    chunk: int,
    threshold: float,
    neighbours: int,
    graph: Components,
    degree: Nodes,
) -> None:
    """Join the rows `queries` to their nearest others above the threshold."""
    with track("nearest rows", total=len(queries), unit="rows") as bar:
        for at in range(0, len(queries), QUERY_ROWS):
            own = queries[at : at + QUERY_ROWS]
            values = np.array(rows[own])
            index, _ = _chunked.top_k(values, rows, neighbours + 1, chunk)
            found = index == own[:, None]
            # a row with that many equals before it is not among them: the last of them makes room
            found[~found.any(axis=1), -1] = True
            query, place = np.nonzero(~found)
            other = index[query, place]
            above = _chunked.exact_products(values, query, rows, other) > threshold
            graph.join(own[query[above]], other[above])
            degree[own] = np.bincount(query[above], minlength=len(own))
            bar.add(len(own))


def nearby_neighbours(
    grouped: Grouped, node: Nodes, sample: Nodes, config: Any, graph: Components, degree: Nodes
) -> float:
    """Join all rows above the threshold within each cluster and between it and its `nearby` nearest ones.

    `node` is the node of each row in the order of `grouped`. Returns the share of true neighbours that were found for the rows `sample`
    (places in that order), counted by comparing them with every row.
    """
    used = np.flatnonzero(grouped.sizes)
    partners = _partners(grouped.clusters.centroids()[used], config.nearby)
    with track("compare near clusters", total=len(used), unit="clusters") as bar:
        for place, cluster in enumerate(used.tolist()):
            here = _vectors(grouped, cluster)
            nodes = node[grouped.starts[cluster] : grouped.starts[cluster + 1]]
            _join(
                graph,
                degree,
                ((nodes[i], nodes[j]) for i, j in pairs_above(here, config.threshold, grouped.chunk)),
            )
            for other in used[partners[place]].tolist():
                there = node[grouped.starts[other] : grouped.starts[other + 1]]
                found = pairs_between(here, _vectors(grouped, other), config.threshold)
                _join(graph, degree, ((nodes[i], there[j]) for i, j in found))
            bar.add(1)
    return _recall(grouped, sample, node, config, degree)


def _vectors(grouped: Grouped, cluster: int) -> Floats:
    return np.asarray(grouped.vectors(cluster, np.arange(int(grouped.sizes[cluster]))))


def _join(graph: Components, degree: Nodes, edges: Iterable[tuple[Nodes, Nodes]]) -> None:
    for first, second in edges:
        graph.join(first, second)
        np.add.at(degree, first, 1)
        np.add.at(degree, second, 1)


def _partners(centroids: Floats, nearby: int) -> list[Nodes]:
    """Per centroid those after it that are among its `nearby` nearest, or that it is among the nearest of."""
    k = len(centroids)
    near: list[set[int]] = [set() for _ in range(k)]
    if nearby and k > 1:
        index, _ = top_k(centroids, centroids, min(nearby + 1, k))
        for here, row in enumerate(index.tolist()):
            for there in [other for other in row if other != here][:nearby]:
                near[min(here, there)].add(max(here, there))
    return [np.array(sorted(some), np.int64) for some in near]


def _recall(grouped: Grouped, sample: Nodes, node: Nodes, config: Any, degree: Nodes) -> float:
    """Neighbours found / neighbours there are, of the rows `sample` (places in the order of `grouped`); 1 when there are none."""
    home = np.searchsorted(grouped.starts, sample, "right") - 1
    rows = np.zeros((len(sample), grouped.width), np.float32)
    for cluster in np.unique(home).tolist():
        rows[home == cluster] = _vectors(grouped, cluster)[sample[home == cluster] - grouped.starts[cluster]]
    true = np.full(len(sample), -1)  # each is a neighbour of itself when its length rounds to 1 or more
    true += (np.einsum("ij,ij->i", rows, rows, dtype=np.float64) <= config.threshold).astype(int)
    for cluster in np.flatnonzero(grouped.sizes).tolist():
        for i, _ in pairs_between(rows, _vectors(grouped, cluster), config.threshold):
            np.add.at(true, i, 1)
    return float(degree[node[sample]].sum() / true.sum()) if true.sum() else 1.0
