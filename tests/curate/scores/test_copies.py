"""Groups of copies against a search over the full cosine matrix."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import _copies
from curate._components import Components
from curate._copies import exact_neighbours
from curate.features import normalise
from headwater.errors import UsageError
from tests.curate.cluster_kit import arrays, columns, exact_unit, layouts, pool_of, uid_of, usable
from tests.curate.feature_kit import feature_pool, scored, scored_with_facts
from tests.curate.test_components import by_search

FEATURES = {"features": "l14_img"}


def by_definition(
    values: np.ndarray, threshold: float, neighbours: int
) -> tuple[dict[int, int], dict[int, int]]:
    """Row -> lowest row of its component, and row -> how many of its nearest rows are above the threshold."""
    rows = usable(values)
    unit = exact_unit(values)
    edges, degree = [], {}
    for i in rows:
        others = sorted((j for j in rows if j != i), key=lambda j: (-float(unit[i] @ unit[j]), j))
        near = [j for j in others[: neighbours or len(rows)] if unit[i] @ unit[j] > threshold]
        degree[i] = len(near)
        edges += [(i, j) for j in near]
    smallest = by_search(len(values), edges)
    return {i: smallest[i] for i in rows}, degree


def apart_from(values: np.ndarray, threshold: float) -> bool:
    """Whether no cosine lies at the threshold, nor two of one row at each other without being those of equal rows."""
    rows = usable(values)
    cosine = exact_unit(values)[rows] @ exact_unit(values)[rows].T
    return bool((np.abs(cosine - threshold) > 1e-6).all())


@settings(max_examples=8, deadline=None)
@given(st.data(), arrays(), st.sampled_from([0.33, 0.62, 0.87, 0.99]))
def test_all_pairs_are_the_definition(data: st.DataObject, values: np.ndarray, threshold: float) -> None:
    if not apart_from(values, threshold):
        return
    group, degree = by_definition(values, threshold, 0)
    with pool_of(values, data.draw(layouts(len(values)))) as pool:
        config = {"threshold": threshold, "neighbours": 0, **FEATURES}
        table, facts = scored_with_facts(pool, "copies", **config)
        small = columns(scored(pool, "copies", memory_bytes=1, force=True, **config))
        # every cluster is near every other one: the answer by clusters is the exact one, and says so
        near, told = scored_with_facts(pool, "copies", clusters=3, nearby=3, iterations=2, **config)
    found = columns(table)
    assert found == small == columns(near)
    assert found["copy_group"] == [uid_of(group[i]) if i in group else None for i in range(len(values))]
    assert found["copy_neighbours"] == [degree.get(i) for i in range(len(values))]
    assert facts["notes"]["groups"] == len(set(group.values()))
    assert sum(facts["counts"]["invalid"].values()) == len(values) - len(group)
    assert told["notes"]["recall_on_sample"] == 1


@settings(max_examples=15, deadline=None)
@given(st.data(), st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 12))
def test_nearest_neighbours_are_the_definition(
    data: st.DataObject, seed: int, neighbours: int, rows: int
) -> None:
    values = np.random.default_rng(seed).standard_normal((rows, 3)).astype(np.float32)
    group, degree = by_definition(values, 0.6, neighbours)
    with pool_of(values, data.draw(layouts(rows))) as pool:
        found = columns(scored(pool, "copies", neighbours=neighbours, **FEATURES))
    assert found["copy_group"] == [uid_of(group[i]) for i in range(rows)]
    assert found["copy_neighbours"] == [degree[i] for i in range(rows)]


@settings(max_examples=15, deadline=None)
@given(st.data(), arrays(), st.integers(0, 3))
def test_limits_in_any_layout(data: st.DataObject, values: np.ndarray, neighbours: int) -> None:
    found = []
    for _ in range(2):
        with pool_of(values, data.draw(layouts(len(values)))) as pool:
            config = {"threshold": 0.6, "neighbours": neighbours, **FEATURES}
            found.append(columns(scored(pool, "copies", **config)))
    assert found[0] == found[1]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3), st.sampled_from([0, 1, 1000]), st.sampled_from([1, 5, 1000]))
def test_crowded_rows_beside_lone_ones(seed: int, neighbours: int, many: int, chunk: int) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 6, 24) ** 2 // 5  # clumps of many sizes
    unit = normalise(np.eye(8, dtype=np.float32)[centres] + rng.normal(0, 0.3, (24, 8)).astype(np.float32))
    group, degree = by_definition(unit, 0.8, neighbours)
    graph, found = Components(24), np.zeros(24, np.int64)
    with (
        mock.patch.object(_copies, "MANY", many),  # 0: no pair is few enough, and all rows get lists
        mock.patch.object(_copies, "SPILL_ROWS", 3),
        mock.patch.object(_copies, "QUERY_ROWS", 4),
        TemporaryDirectory() as scratch,
    ):
        exact_neighbours(unit, chunk, 0.8, neighbours, graph, found, Path(scratch))
        assert not list(Path(scratch).iterdir())
    assert found.tolist() == [degree[i] for i in range(24)]
    assert graph.labels().tolist() == [group[i] for i in range(24)]


def test_rows_with_few_neighbours_need_no_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.concatenate([np.eye(20, dtype=np.float32)] * 3)
    pool = feature_pool(tmp_path / "pool", {"dedup": values})
    every = columns(scored(pool, "copies", neighbours=0))
    monkeypatch.setattr("curate._chunked.top_k", None)
    assert columns(scored(pool, "copies", neighbours=2)) == every
    assert every["copy_neighbours"] == [2] * 60


def test_more_equal_rows_than_neighbours(tmp_path: Path) -> None:
    values = np.tile(np.float32([1, 2, 3]), (30, 1))
    pool = feature_pool(tmp_path / "pool", {"dedup": values})
    table = columns(scored(pool, "copies", neighbours=4))
    assert table["copy_group"] == [uid_of(0)] * 30
    assert table["copy_neighbours"] == [4] * 30


def test_too_few_near_clusters_miss_pairs_and_say_how_many(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((400, 2)).astype(np.float32)
    pool = feature_pool(tmp_path / "pool", {"dedup": values})
    config = {"threshold": 0.9, "neighbours": 0}
    true = columns(scored(pool, "copies", **config))
    found, facts = scored_with_facts(pool, "copies", clusters=40, nearby=1, **config)
    part = columns(found)["copy_neighbours"]
    assert all(some <= most for some, most in zip(part, true["copy_neighbours"], strict=True))
    assert 0 < facts["notes"]["recall_on_sample"] < 1
    assert facts["notes"]["recall_on_sample"] == pytest.approx(
        sum(part) / sum(true["copy_neighbours"]), abs=0.1
    )
    assert "approximate" in facts["notes"]


@pytest.mark.parametrize("rows", [0, 1])
def test_hardly_a_row(tmp_path: Path, rows: int) -> None:
    pool = feature_pool(tmp_path / "pool", {"dedup": np.ones((rows, 3), np.float32)})
    for config in ({}, {"neighbours": 0}, {"neighbours": 0, "clusters": 2}):
        table = columns(scored(pool, "copies", **config))
        assert table["copy_group"] == [uid_of(0)] * rows and table["copy_neighbours"] == [0] * rows


def test_rows_outside_the_subset_stay_alone(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {"dedup": np.ones((4, 3), np.float32)})
    np.save(tmp_path / "some.npy", np.array([(0, 1), (0, 3)], "u8,u8"))
    table = columns(scored(pool, "copies", subset=tmp_path / "some.npy"))
    assert table["copy_group"] == [uid_of(i) for i in (0, 1, 2, 1)]
    assert table["copy_neighbours"] == [0, 1, 0, 1]


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {"dedup": np.ones((2, 2), np.float32)})
    with pytest.raises(UsageError, match="takes no limit of neighbours"):
        scored(pool, "copies", clusters=2)
    with pytest.raises(UsageError, match="threshold is -2"):
        scored(pool, "copies", threshold=-2.0)
