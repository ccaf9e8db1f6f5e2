"""Density-based pruning against its published steps on the clusters of a small pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate._density import quotas
from curate.pool import Pool
from curate.rules import named_rule
from headwater.errors import UsageError
from tests.curate.cluster_kit import arrays, columns, groups, layouts, pool_of, usable
from tests.curate.feature_kit import feature_pool, scored, scored_with_facts

LAST = 2**31 - 1


def centroids_of(pool: Path) -> np.ndarray:
    (path,) = (Pool.open(pool).cache / "scores").glob("kmeans-*/centroids.npy")
    return np.load(path).astype(np.float64)


def by_definition(
    clusters: dict[int, list[tuple[float, int]]], centroids: np.ndarray, config: dict[str, Any]
) -> tuple[dict[int, int], np.ndarray, np.ndarray, list[float]]:
    """Row -> rank; sizes, shares and complexities of the clusters that have rows."""
    names = sorted(clusters)
    complexity = []
    for name in names:
        others = sorted(1 - float(centroids[name] @ centroids[o]) for o in names if o != name)
        nearest = others[: config["neighbours"]]
        inter = sum(nearest) / len(nearest) if nearest else 0.0
        intra = sum(1 - similarity for similarity, _ in clusters[name]) / len(clusters[name])
        complexity.append(inter * intra)
    power = np.exp(np.array(complexity) / config["temperature"])
    rank: dict[int, int] = {}
    for name in names:
        order = sorted(clusters[name])  # the least similar first, ties by uid
        rank.update({row: place for place, (_, row) in enumerate(order)})
    return rank, np.array([len(clusters[n]) for n in names]), power / power.sum(), complexity


@settings(max_examples=15, deadline=None)
@given(
    st.data(),
    arrays(most=20),
    st.integers(1, 6),
    st.floats(0, 1, exclude_min=True),
    st.sampled_from([0.05, 0.5]),
)
def test_ranks_and_quotas_are_the_definition(
    data: st.DataObject, values: np.ndarray, k: int, fraction: float, temperature: float
) -> None:
    config = {"neighbours": 2, "temperature": temperature}
    with pool_of(values, data.draw(layouts(len(values)))) as pool:
        clusters = groups(pool, k=k, iterations=3)
        rank, sizes, share, complexity = by_definition(clusters, centroids_of(pool), config)
        table, facts = scored_with_facts(pool, "density", k=k, iterations=3, fraction=fraction, **config)
    found = columns(table)
    assert found["density_rank"] == [rank.get(i) for i in range(len(values))]
    assert sum(facts["counts"]["invalid"].values()) == len(values) - len(usable(values))
    told = facts["notes"]["complexity"]
    assert [told[name] for name in sorted(clusters)] == pytest.approx(complexity, abs=2e-6)
    total = int(fraction * len(rank))
    quota = {c: found["density_quota"][members[0][1]] for c, members in clusters.items()}
    assert sum(quota.values()) == total
    for cluster, members in clusters.items():
        assert {found["density_quota"][row] for _, row in members} == {quota[cluster]}
    # as near to the shares as the quotas of shares in full precision; float32 centroids may settle a tie otherwise
    got = np.array([quota[c] for c in sorted(clusters)])
    want = quotas(share, sizes, total, 1)
    target = share * total
    assert ((got - target) ** 2).sum() == pytest.approx(((want - target) ** 2).sum(), abs=1e-3)
    kept = [
        r is not None and r < q for r, q in zip(found["density_rank"], found["density_quota"], strict=True)
    ]
    assert sum(kept) == total


@settings(max_examples=8, deadline=None)
@given(st.data(), arrays(), st.sampled_from(["hard", "easy", "random"]))
def test_layout_changes_nothing(data: st.DataObject, values: np.ndarray, keep: str) -> None:
    found = []
    for budget in (1 << 30, 1):
        with pool_of(values, data.draw(layouts(len(values)))) as pool:
            found.append(columns(scored(pool, "density", k=3, keep=keep, memory_bytes=budget)))
    assert found[0] == found[1]


def test_complex_clusters_keep_more(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tight = np.float32([1, 0, 0]) + rng.normal(0, 0.01, (200, 3))
    wide = np.float32([0, 1, 0]) + rng.normal(0, 0.4, (200, 3))
    pool = feature_pool(tmp_path / "pool", {"l14_img": np.concatenate([tight, wide]).astype(np.float32)})
    table = columns(scored(pool, "density", k=2, temperature=0.01, fraction=0.5))
    assert table["density_quota"][0] < 20
    assert np.mean(table["density_quota"][200:]) > 100


@pytest.mark.parametrize("rows", [0, 1])
def test_hardly_a_row(tmp_path: Path, rows: int) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": np.ones((rows, 4), np.float32)})
    table = columns(scored(pool, "density", fraction=1.0))
    assert table["density_rank"] == [0] * rows and table["density_quota"] == [1] * rows


def test_only_the_rows_of_a_subset(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    values = rng.standard_normal((40, 3)).astype(np.float32)
    some = np.arange(0, 40, 3)
    pool = feature_pool(tmp_path / "pool", {"l14_img": values})
    np.save(tmp_path / "some.npy", np.array([(0, i) for i in some], "u8,u8"))
    found = columns(scored(pool, "density", k=3, fraction=0.5, subset=tmp_path / "some.npy"))
    alone = feature_pool(tmp_path / "alone", {"l14_img": values[some]}, uids=[f"{i:032x}" for i in some])
    want = columns(scored(alone, "density", k=3, fraction=0.5))
    for name in want:
        assert [found[name][i] for i in some] == want[name]
    assert {found["density_rank"][i] for i in range(40) if i % 3} == {LAST}


@pytest.mark.parametrize(
    "config",
    [
        {"fraction": 1.5},
        {"fraction": 0.0},
        {"fraction": float("nan")},
        {"fraction": -0.1},
        {"temperature": 0.0},
        {"neighbours": 0},
        {"keep": "all"},
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, config: dict[str, Any]) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": np.ones((2, 2), np.float32)})
    with pytest.raises(UsageError, match=f"scorer density: .*{next(iter(config))}"):
        scored(pool, "density", **config)


def test_the_named_filter() -> None:
    rule = named_rule("density", {"arch": "l14", "fraction": 0.3})
    assert rule.keep[0].sql == "density_rank < density_quota"
    assert rule.scores[0].config == {
        "features": "l14_img", "fraction": 0.3, "k": 100, "temperature": 0.5, "seed": 0
    }  # fmt: skip
