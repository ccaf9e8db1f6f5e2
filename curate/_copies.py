"""Neighbours above a cosine, as edges of a graph: among all rows, or within clusters and those near them."""

from __future__ import annotations

from collections.abc import Iterable
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


def exact_neighbours(
    rows: Floats, chunk: int, threshold: float, neighbours: int, graph: Components, degree: Nodes
) -> None:
    """Join each row to its `neighbours` nearest others (0: all others) whose cosine is above `threshold`; ties: lowest number.

    `chunk` rows are held in memory at a time.
    """
    n = len(rows)
    if not neighbours or neighbours >= n - 1:
        with track("compare all pairs", total=None, unit="neighbours") as bar:
            for first, second in pairs_above(rows, threshold, chunk):
                _join(graph, degree, [(first, second)])
                bar.add(len(first))
        return
    with track("nearest rows", total=n, unit="rows") as bar:
        for at in range(0, n, QUERY_ROWS):
            index, value = _chunked.top_k(np.array(rows[at : at + QUERY_ROWS]), rows, neighbours + 1, chunk)
            own = at + np.arange(len(index))
            found = index == own[:, None]
            # a row with that many equals before it is not among them: the last of them makes room
            found[~found.any(axis=1), -1] = True
            near = ~found & (value > threshold)
            degree[own] = near.sum(axis=1)
            graph.join(np.repeat(own, degree[own]), index[near])
            bar.add(len(index))


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
