"""Connected components against a search from every node."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate import _components
from curate._components import Components


def by_search(nodes: int, edges: list[tuple[int, int]]) -> list[int]:
    """The smallest node that can be reached from each node."""
    beside: list[set[int]] = [set() for _ in range(nodes)]
    for a, b in edges:
        beside[a].add(b)
        beside[b].add(a)
    out = []
    for node in range(nodes):
        seen, new = {node}, [node]
        while new:
            new = [b for a in new for b in beside[a] if b not in seen]
            seen.update(new)
        out.append(min(seen))
    return out


def joined(nodes: int, edges: list[tuple[int, int]], batches: int) -> list[int]:
    graph = Components(nodes)
    for part in np.array_split(np.array(edges, np.int64).reshape(-1, 2), batches):
        graph.join(part[:, 0], part[:, 1])
    return graph.labels().tolist()


@given(st.data(), st.integers(1, 12), st.integers(1, 4), st.sampled_from([1, 3, 1 << 16]))
def test_smallest_node_of_each_component(data: st.DataObject, nodes: int, batches: int, wait: int) -> None:
    node = st.integers(0, nodes - 1)
    edges = data.draw(st.lists(st.tuples(node, node), max_size=20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_components, "LEAST_EDGES", wait)
        assert joined(nodes, edges, batches) == by_search(nodes, edges)
        assert joined(nodes, edges[::-1], 1) == by_search(nodes, edges)


def test_a_long_chain_and_labels_asked_for_twice() -> None:
    n = 5000
    order = np.random.default_rng(0).permutation(n)
    graph = Components(n)
    graph.join(order[:-1], order[1:])
    assert not graph.labels().any()
    graph.labels()[:] = 7  # what is given out is a copy
    graph.join(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert not graph.labels().any()


def test_no_nodes_and_no_edges() -> None:
    assert Components(0).labels().tolist() == []
    assert Components(3).labels().tolist() == [0, 1, 2]
