"""Retrieval against a sort of all similarities, query by query; clusters against a sample by hash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.clauses import mix
from curate.scores import nearest
from curate.scores.nearest import NOT_RETRIEVED, SALT, Config
from headwater.errors import UsageError
from tests.curate.feature_kit import feature_pool, scored_with_facts
from tests.curate.target_kit import UNIT, Rows, invalid, layouts, run, unit_rows, usable


def retrieved(rows: Rows, queries: Rows, k: int) -> dict[int, tuple[int, float]]:
    """Best rank and similarity of each row that some query retrieves."""
    best: dict[int, tuple[int, float]] = {}
    units = {x: rows[x] / np.linalg.norm(rows[x].astype(np.float64)) for x in usable(rows)}
    for q in usable(queries):
        query = queries[q] / np.linalg.norm(queries[q].astype(np.float64))
        order = sorted(units, key=lambda x: (-float(query @ units[x]), x))
        for rank, x in enumerate(order[:k]):
            value = float(query @ units[x])
            old = best.get(x, (rank, value))
            best[x] = (min(rank, old[0]), max(value, old[1]))
    return best


@settings(max_examples=15)
@given(st.data())
def test_it_is_a_sort_of_all_similarities_in_any_layout(data: st.DataObject) -> None:
    rows, queries = data.draw(unit_rows()), data.draw(unit_rows(least=1, most=6))
    if not usable(queries):
        return
    k = data.draw(st.integers(1, 5))
    made = run("nearest", rows, target=queries, k=k)
    wanted = retrieved(rows, queries, k)
    for x in range(len(rows)):
        if x not in usable(rows):
            assert made["nearest_rank"][x] is None and made["nearest_similarity"][x] is None
        else:
            rank, value = wanted.get(x, (NOT_RETRIEVED, -np.inf))
            assert (made["nearest_rank"][x], made["nearest_similarity"][x]) == (rank, value)
    assert made.facts["counts"]["invalid"] == invalid(rows)
    assert made.facts["notes"]["queries"] == len(usable(queries))
    assert made.facts["notes"]["retrieved"] == len(wanted)
    layout = data.draw(layouts(len(rows)))
    again = run(
        "nearest",
        rows,
        target=queries,
        k=k,
        layout=layout,
        memory_bytes=data.draw(st.sampled_from([64, 999])),
    )
    assert again.columns == made.columns


def test_equal_similarities_go_to_the_lowest_uid() -> None:
    rows = UNIT[[8, 8, 8, 0, 8]]
    made = run("nearest", rows, target=UNIT[[8]], k=2, layout=(np.array([4, 2, 1, 3, 0]), [2, 0, 3]))
    assert made["nearest_rank"] == [0, 1, NOT_RETRIEVED, NOT_RETRIEVED, NOT_RETRIEVED]
    assert made["nearest_similarity"] == [1, 1, -np.inf, -np.inf, -np.inf]


@pytest.mark.parametrize("shards", [[5], [2, 3], [1, 1, 1, 2]])
def test_both_halves_of_a_uid_order_what_is_equal(tmp_path: Path, shards: list[int]) -> None:
    halves = [(1, 0), (0, 9), (0, 5), (2, 1), (0, 3)]
    uids = [f"{high:016x}{low:016x}" for high, low in halves]
    pool = feature_pool(tmp_path / "pool", {"x": UNIT[[8] * 5]}, shards=shards, uids=uids)
    np.save(tmp_path / "q.npy", UNIT[[8]])
    made = scored_with_facts(pool, "nearest", features="x", target=tmp_path / "q.npy", k=2)[0]
    ranks = dict(zip(made["uid"].to_pylist(), made["nearest_rank"].to_pylist(), strict=True))
    assert [ranks[uid] for uid in uids] == [NOT_RETRIEVED, NOT_RETRIEVED, 1, NOT_RETRIEVED, 0]


def test_more_than_there_is() -> None:
    made = run("nearest", UNIT[:3], target=UNIT[:1], k=50)
    assert sorted(made["nearest_rank"]) == [0, 1, 2]
    assert run("nearest", np.zeros((0, 4), np.float32), target=UNIT[:1])["nearest_rank"] == []


def test_duplicates_of_random_rows_in_any_layout() -> None:
    rng = np.random.default_rng(3)
    some = rng.normal(size=(50, 9)).astype(np.float32)
    rows = some[rng.integers(0, 50, 120)]
    queries = rng.normal(size=(30, 9)).astype(np.float32)
    made = run("nearest", rows, target=queries, k=3)
    wanted = retrieved(rows, queries, 3)
    assert {x for x, rank in enumerate(made["nearest_rank"]) if rank != NOT_RETRIEVED} == set(wanted)
    assert all(made["nearest_rank"][x] == rank for x, (rank, _) in wanted.items())
    layout = (rng.permutation(120), [50, 0, 69, 1])
    assert run("nearest", rows, target=queries, k=3, layout=layout, memory_bytes=2000).columns == made.columns


def test_a_sample_of_each_cluster_that_a_query_falls_into(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(80, 4)).astype(np.float32)
    rows[11] = 0
    queries = rng.normal(size=(3, 4)).astype(np.float32)
    np.save(tmp_path / "q.npy", queries)
    pool = feature_pool(tmp_path / "pool", {"x": rows}, shards=[30, 0, 50], order=rng.permutation(80))
    clusters, facts = scored_with_facts(pool, "kmeans", features="x", k=7, seed=5, spherical=True)
    made, told = scored_with_facts(
        pool, "nearest", features="x", target=tmp_path / "q.npy",
        mode="clusters", clusters=7, per_cluster=4, seed=5,
    )  # fmt: skip
    centroids = np.load(facts["folder"] / "centroids.npy").astype(np.float64)
    hit = {int(np.argmax(centroids @ q)) for q in queries}
    seed = mix(np.array([5], np.uint64) ^ SALT)
    places = mix(mix(np.arange(80, dtype=np.uint64) ^ seed))  # the words of uid 000…n are 0 and n
    label = clusters["cluster"].to_pylist()
    wanted = {}
    for cluster in hit:
        members = sorted((x for x in range(80) if label[x] == cluster), key=lambda x: places[x])
        wanted |= {x: place for place, x in enumerate(members[:4])}
    rank = made["nearest_rank"].to_pylist()
    assert {x: r for x, r in enumerate(rank) if r not in (None, NOT_RETRIEVED)} == wanted
    assert told["notes"]["clusters_hit"] == len(hit) < 7 and rank[11] is None
    similarity, own = made["nearest_similarity"].to_pylist(), clusters["cluster_similarity"].to_pylist()
    assert similarity == [None if x == 11 else own[x] if x in wanted else -np.inf for x in range(80)]


@pytest.mark.parametrize("wrong", [{"k": 0}, {"mode": "best"}, {"per_cluster": 0}, {"clusters": -1}])
def test_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        nearest.Scorer(Config(**wrong))  # type: ignore[arg-type]
