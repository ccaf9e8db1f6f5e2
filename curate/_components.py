"""Connected components of a graph whose edges come in blocks, in any order: each node is named by its smallest node.

Edges are collected and joined many at a time: every root takes the smallest root that an edge leads it to, until no edge joins two.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Nodes = npt.NDArray[np.int64]

LEAST_EDGES = 1 << 16


class Components:
    """Components of the nodes 0 … n - 1; 8 bytes a node, and as many edges waiting as there are nodes."""

    def __init__(self, nodes: int) -> None:
        self._parent: Nodes = np.arange(nodes, dtype=np.int64)
        self._waiting: list[tuple[Nodes, Nodes]] = []
        self._edges = 0

    def join(self, first: npt.NDArray[np.integer], second: npt.NDArray[np.integer]) -> None:
        """Add edges between first[i] and second[i]."""
        self._waiting.append((np.asarray(first, np.int64), np.asarray(second, np.int64)))
        self._edges += len(first)
        if self._edges >= max(LEAST_EDGES, len(self._parent)):
            self._flush()

    def labels(self) -> Nodes:
        """(n,) the smallest node of each node's component."""
        self._flush()
        return self._parent.copy()

    def _flush(self) -> None:
        if not self._edges:
            return
        parent = self._parent
        first = np.concatenate([edge[0] for edge in self._waiting])
        second = np.concatenate([edge[1] for edge in self._waiting])
        self._waiting, self._edges = [], 0
        while len(first):
            first, second = parent[first], parent[second]  # every node points to its root here
            apart = first != second
            first, second = first[apart], second[apart]
            np.minimum.at(parent, np.maximum(first, second), np.minimum(first, second))
            while True:
                higher = parent[parent]
                if np.array_equal(higher, parent):
                    break
                parent[:] = higher
