"""Balanced sampling over a pool against the published recursion on its clusters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.rules import named_rule
from headwater.errors import UsageError
from tests.curate.cluster_kit import arrays, columns, groups, layouts, pool_of, usable
from tests.curate.feature_kit import feature_pool, scored, scored_with_facts
from tests.curate.test_hierarchy import sampled


@settings(max_examples=15, deadline=None)
@given(
    st.data(), arrays(most=20), st.sampled_from(["5,3,2", "4,2", "3"]), st.sampled_from(["random", "nearest"])
)
def test_every_budget_is_the_recursion(
    data: st.DataObject, values: np.ndarray, levels: str, pick: str
) -> None:
    lowest = int(levels[0])
    with pool_of(values, data.draw(layouts(len(values)))) as pool:
        clusters = groups(pool, k=lowest, iterations=4)
        table, facts = scored_with_facts(
            pool, "hierarchy", levels=levels, iterations=4, rounds=2, points=1 + lowest % 2, pick=pick
        )
        with np.load(facts["folder"] / "parents.npz") as archive:
            parents = [archive[name].tolist() for name in sorted(archive.files)]
    found = columns(table)
    good = usable(values)
    assert [i for i, rank in enumerate(found["hierarchy_rank"]) if rank is not None] == good
    assert sum(facts["counts"]["invalid"].values()) == len(values) - len(good)
    assert sorted(found["hierarchy_rank"][i] for i in good) == list(range(len(good)))
    for cluster, members in clusters.items():
        assert {found["hierarchy_cluster"][row] for _, row in members} == {cluster}
        if pick == "nearest":
            order = sorted(members, key=lambda m: (-m[0], m[1]))
            assert [row for _, row in order] == sorted(
                (row for _, row in members), key=lambda row: found["hierarchy_rank"][row]
            )
    count = len(parents[0]) if parents else max(clusters, default=-1) + 1
    sizes = [len(clusters.get(c, [])) for c in range(count)]
    for budget in range(len(good) + 1):
        taken = [0] * count
        for row in good:
            if found["hierarchy_rank"][row] < budget:
                taken[found["hierarchy_cluster"][row]] += 1
                assert (
                    found["hierarchy_share"][row]
                    == found["hierarchy_rank"][row] / len(good)
                    < budget / len(good)
                )
        assert taken == sampled(sizes, parents, budget)


@settings(max_examples=8, deadline=None)
@given(st.data(), arrays())
def test_layout_changes_nothing(data: st.DataObject, values: np.ndarray) -> None:
    found = []
    for budget in (1 << 30, 1):
        with pool_of(values, data.draw(layouts(len(values)))) as pool:
            found.append(columns(scored(pool, "hierarchy", levels="6,3,2", memory_bytes=budget)))
    assert found[0] == found[1]


def test_random_picks_depend_on_the_seed_only(tmp_path: Path) -> None:
    values = np.tile(np.float32([1, 2]), (50, 1))
    pool = feature_pool(tmp_path / "pool", {"l14_img": values})
    first, again, other = (
        columns(scored(pool, "hierarchy", levels="1", seed=seed, force=True))["hierarchy_rank"]
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert first != sorted(first)


def test_a_small_cluster_is_drawn_whole_before_a_large_one_gets_more(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    large = np.float32([1, 0, 0]) + rng.normal(0, 0.01, (95, 3))
    small = np.float32([0, 1, 0]) + rng.normal(0, 0.01, (5, 3))
    pool = feature_pool(tmp_path / "pool", {"l14_img": np.concatenate([large, small]).astype(np.float32)})
    rank = columns(scored(pool, "hierarchy", levels="2"))["hierarchy_rank"]
    assert sum(r < 10 for r in rank[95:]) == 5 and sum(r < 10 for r in rank[:95]) == 5


@pytest.mark.parametrize("rows", [0, 1])
def test_hardly_a_row(tmp_path: Path, rows: int) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": np.ones((rows, 4), np.float32)})
    table = columns(scored(pool, "hierarchy", levels="10,3,2"))
    assert table["hierarchy_rank"] == [0] * rows and table["hierarchy_share"] == [0.0] * rows


def test_rows_outside_the_subset_come_last(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": np.eye(4, dtype=np.float32)})
    np.save(tmp_path / "some.npy", np.array([(0, 1), (0, 3)], "u8,u8"))
    table = columns(scored(pool, "hierarchy", levels="3,2", subset=tmp_path / "some.npy"))
    assert sorted(table["hierarchy_rank"][i] for i in (1, 3)) == [0, 1]
    assert [table["hierarchy_rank"][i] for i in (0, 2)] == [2**63 - 1] * 2
    assert [table["hierarchy_share"][i] for i in (0, 2)] == [1.0] * 2


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": np.ones((2, 2), np.float32)})
    with pytest.raises(UsageError, match="each must have fewer clusters"):
        scored(pool, "hierarchy", levels="10,20")
    with pytest.raises(UsageError, match="pick is 'best'"):
        scored(pool, "hierarchy", pick="best")


def test_the_named_filter() -> None:
    rule = named_rule("hierarchy", {"arch": "l14", "fraction": 0.2, "levels": "50,5"})
    assert rule.keep[0].sql == "hierarchy_share < 0.2"
    assert rule.scores[0].config["levels"] == "50,5"


def test_random_picks_are_not_those_of_the_clause_sample(tmp_path: Path) -> None:
    """One cluster, rows in the order of a hash: another one than the clause `sample` has."""
    from curate.clauses import sample

    rng = np.random.default_rng(3)
    pool = feature_pool(tmp_path / "pool", {"l14_img": rng.normal(size=(400, 4)).astype(np.float32)})
    share = scored(pool, "hierarchy", levels="1", pick="random")["hierarchy_share"].to_numpy()
    words = np.stack([np.zeros(400, np.uint64), np.arange(400, dtype=np.uint64)], axis=1)
    drawn = sample(words, 0.5, 0)
    assert 60 < int(np.count_nonzero(drawn & (share < 0.5))) < 140
