"""Clusters that are empty, more than there are rows, or as large as the pool; features that are none (fault rows 44 and 45)."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import _clusters
from curate._clusters import Clusters
from curate._grouped import Grouped, keep_order
from curate.pool import Pool
from curate.pooldata import PoolData, bind
from curate.sidecars import ScorerRef
from headwater.errors import IntegrityError, MissingInput
from headwater.executor import Executor
from tests.curate.cluster_kit import columns
from tests.curate.feature_kit import feature_pool, scored, scored_with_facts, uid_of, write_npz
from tests.faults.kit import closes, run

SCORERS: dict[str, dict[str, Any]] = {
    "semdedup": {"k": 3},
    "ssp": {"k": 3},
    "copies": {"features": "l14_img"},
    "density": {"k": 3},
    "hierarchy": {"levels": "3,2"},
}
MIB = 1 << 20


def random_rows(n: int, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


def big_pool(folder: Path, values: np.ndarray) -> Path:
    """One shard in row groups of the usual size."""
    folder.mkdir()
    uids = pa.array([uid_of(i) for i in range(len(values))])
    pq.write_table(pa.table({"uid": uids}), folder / "a.parquet")
    write_npz(folder / "a.npz", {"l14_img": values})
    return folder


def data_of(pool: Path, memory_bytes: int) -> PoolData:
    opened = Pool.open(pool)
    ref = bind(ScorerRef("semdedup", (("k", 1),)), opened)
    return PoolData(opened, ref, Executor("serial", 1), ref.folder(opened.cache), memory_bytes)


def peak_of(work: Any) -> int:
    """Bytes that NumPy and Python held at most while `work` ran."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("scorer", SCORERS)
def test_rows_without_a_direction_are_named_and_counted(tmp_path: Path, scorer: str) -> None:
    values = random_rows(12)
    values[3], values[5, 1], values[7, 0] = 0, np.nan, -np.inf
    pool = feature_pool(tmp_path / "pool", {"l14_img": values})
    table, facts = scored_with_facts(pool, scorer, **SCORERS[scorer])
    assert facts["counts"]["invalid"] == {"features: zero vector": 1, "features: NaN or infinite": 2}
    assert facts["counts"]["kept"] == 9
    for name, found in columns(table).items():
        if name == "uid" or name == "semdedup_of":
            continue
        assert [i for i, value in enumerate(found) if value is None] == [3, 5, 7], name
        assert not any(isinstance(v, float) and np.isnan(v) for v in found)
    good = np.setdiff1d(np.arange(12), [3, 5, 7])
    alone = feature_pool(tmp_path / "alone", {"l14_img": values[good]}, uids=[uid_of(i) for i in good])
    want = columns(scored(alone, scorer, **SCORERS[scorer]))
    for name in want:  # a bad row changes nothing for the others
        assert [columns(table)[name][i] for i in good] == want[name]


@pytest.mark.parametrize("scorer", SCORERS)
def test_no_row_has_a_direction(tmp_path: Path, scorer: str) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": np.zeros((5, 3), np.float32)})
    table, facts = scored_with_facts(pool, scorer, **SCORERS[scorer])
    assert facts["counts"]["invalid"] == {"features: zero vector": 5}
    first = next(name for name in table.column_names if name != "uid")
    assert table[first].to_pylist() == [None] * 5


@pytest.mark.parametrize("scorer", SCORERS)
def test_vectors_that_are_not_of_length_1_and_of_all_sizes(tmp_path: Path, scorer: str) -> None:
    values = random_rows(20)
    scale = np.exp2(np.random.default_rng(1).integers(-60, 60, 20)).astype(np.float32)[:, None]
    one = columns(scored(feature_pool(tmp_path / "a", {"l14_img": values}), scorer, **SCORERS[scorer]))
    two = columns(
        scored(feature_pool(tmp_path / "b", {"l14_img": values * scale}), scorer, **SCORERS[scorer])
    )
    assert one == two  # powers of two change no direction, to the last bit


@pytest.mark.parametrize("scorer", SCORERS)
def test_more_clusters_than_rows(tmp_path: Path, scorer: str) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": np.eye(4, dtype=np.float32)})
    many = {"k": 50} if "k" in SCORERS[scorer] else {}
    many |= {"levels": "50,20,10"} if scorer == "hierarchy" else {}
    many |= {"clusters": 50, "neighbours": 0} if scorer == "copies" else {}
    table = columns(scored(pool, scorer, **{**SCORERS[scorer], **many}))
    if scorer == "semdedup":
        assert table["semdedup_similarity"] == [-1.0] * 4
    if scorer == "copies":
        assert table["copy_group"] == table["uid"]
    if scorer == "hierarchy":
        assert sorted(table["hierarchy_rank"]) == [0, 1, 2, 3]
    if scorer == "density":
        assert table["density_rank"] == [0] * 4 and sorted(table["density_quota"]) == [0, 0, 1, 1]


@pytest.mark.parametrize("scorer", SCORERS)
def test_another_width_another_length_and_none(tmp_path: Path, scorer: str) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": random_rows(6)})
    write_npz(pool / "00000001.npz", {"l14_img": random_rows(3, width=5)})
    with pytest.raises(IntegrityError, match="5 numbers a row in shard 00000001"):
        scored(pool, scorer, **SCORERS[scorer])
    write_npz(pool / "00000001.npz", {"l14_img": random_rows(2)})
    with pytest.raises(IntegrityError, match="2 rows of features l14_img, but the shard has 3"):
        scored(pool, scorer, **SCORERS[scorer])
    write_npz(pool / "00000001.npz", {"b32_img": random_rows(3)})
    with pytest.raises(MissingInput, match="no features 'l14_img'"):
        scored(pool, scorer, **SCORERS[scorer])


def test_clusters_that_no_row_goes_to(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": np.float32([[1, 0], [1, 0.1], [0, 1]])})
    np.save(tmp_path / "centroids.npy", np.float32([[-1, 0], [1, 0], [0, -1], [0, 1], [-1, -1]]))
    data = data_of(pool, 1 << 30)
    given = {"features": "l14_img", "k": 5, "spherical": True, "centroids": tmp_path / "centroids.npy"}
    grouped = Grouped(Clusters(data, "l14_img", kmeans=given))
    assert grouped.sizes.tolist() == [0, 2, 0, 1, 0]
    assert [len(grouped.members(c)) for c in range(5)] == [0, 2, 0, 1, 0]
    assert grouped.members(1)["row"].tolist() == [0, 1]
    assert grouped.vectors(0, np.zeros(0, np.int64)).shape == (0, 2)


def test_one_cluster_over_the_budget_gives_the_same_answer(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(_clusters, "LEAST_BLOCK", 16)
    pool = feature_pool(tmp_path / "pool", {"l14_img": random_rows(3000, 16)}, shards=[3000])
    whole = columns(scored(pool, "semdedup", k=1, iterations=1))
    pieces, facts = scored_with_facts(pool, "semdedup", k=1, iterations=1, memory_bytes=64 << 10, force=True)
    assert facts["notes"]["largest_cluster"] == 3000
    assert columns(pieces) == whole


@pytest.mark.slow
def test_a_cluster_of_a_million_rows_is_grouped_in_blocks(tmp_path: Path) -> None:
    n, width = 1_000_000, 32
    pool = big_pool(
        tmp_path / "pool", np.random.default_rng(0).standard_normal((n, width)).astype(np.float16)
    )
    data = data_of(pool, 16 * MIB)
    grouped: list[Grouped] = []
    peak = peak_of(lambda: grouped.append(Grouped(Clusters(data, "l14_img"))))
    assert grouped[0].sizes.tolist() == [n]
    assert peak < 16 * MIB + 60 * n  # the budget, and some numbers a row of the shard (uid, cluster)
    order = keep_order(grouped[0].members(0), "random", 0)
    rows: list[Any] = []
    assert peak_of(lambda: rows.append(grouped[0].vectors(0, order))) < 24 * MIB  # the rows are 128 MB
    assert isinstance(rows[0], np.memmap) and rows[0].shape == (n, width)
    assert np.allclose(np.linalg.norm(rows[0][:: n // 10], axis=1), 1)


@pytest.mark.slow
def test_a_cluster_of_a_million_rows_is_ranked_and_drawn(tmp_path: Path) -> None:
    n = 1_000_000
    values = np.random.default_rng(0).standard_normal((n, 4)).astype(np.float16)
    values[values.any(axis=1) == 0] = 1
    pool = big_pool(tmp_path / "pool", values)
    density = scored(pool, "density", k=1, fraction=0.25, iterations=1)
    assert density["density_quota"].unique().to_pylist() == [n // 4]
    assert np.array_equal(np.sort(density["density_rank"].to_numpy()), np.arange(n))
    drawn = scored(pool, "hierarchy", levels="1", iterations=1)
    assert np.array_equal(np.sort(drawn["hierarchy_rank"].to_numpy()), np.arange(n))


@pytest.mark.slow
def test_pairs_of_a_large_cluster_stay_within_the_budget(tmp_path: Path) -> None:
    n, width = 40_000, 64  # all pairs at once are 6.4 GB; the rows 10 MB
    pool = big_pool(tmp_path / "pool", random_rows(n, width))
    found: list[Any] = []
    peak = peak_of(lambda: found.append(scored(pool, "semdedup", k=1, iterations=1, memory_bytes=2 * MIB)))
    assert peak < 128 * MIB
    value = found[0]["semdedup_similarity"].to_numpy()
    assert (value == -1).sum() == 1 and (value > -1).sum() == n - 1


def test_the_command_ends_with_3_for_rows_that_have_no_score(tmp_path: Path) -> None:
    values = random_rows(6)
    values[2] = 0
    pool = feature_pool(tmp_path / "pool", {"l14_img": values})
    done = run("score", "semdedup", pool, "--k", "2")
    assert done.code == 3 and "1 × features: zero vector" in done.said
    assert run("score", "semdedup", pool, "--k", "2", "--allow-invalid").code == 0
    assert run("score", "semdedup", pool, "--keep", "some").code == 2


@pytest.mark.parametrize("scorer", ["copies", "normsim_d", "semdedup", "ssp", "density", "hierarchy"])
def test_a_subset_of_another_pool_is_refused(tmp_path: Path, scorer: str) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": random_rows(6)})
    subset = tmp_path / "other.npy"
    np.save(subset, np.array([(7, 1), (7, 2)], "u8,u8"))
    options = [word for key, value in SCORERS.get(scorer, {}).items() for word in (f"--{key}", str(value))]
    done = run("score", scorer, pool, "--subset", subset, *options)
    assert done.code == 2, done.said
    assert f"--subset {subset}: none of its 2 uids is in the pool" in " ".join(done.said.split())
    assert "give a subset of this pool's rows" in " ".join(done.said.split())
    np.save(subset, np.array([(0, 2), (7, 2)], "u8,u8"))
    assert run("score", scorer, pool, "--subset", subset, *options).code == 0
    empty = feature_pool(tmp_path / "empty", {"l14_img": random_rows(0)})
    scored(empty, scorer, subset=subset, **SCORERS.get(scorer, {}))


NAMED: dict[str, dict[str, Any]] = {
    "semdedup": {"k": 2, "threshold": 0.99},
    "ssp": {"k": 3, "fraction": 0.5},
    "d4": {"k": 3, "fraction": 0.5},
    "density": {"k": 3, "fraction": 0.5},
    "hierarchy": {"levels": "4,2", "fraction": 0.5},
}


@pytest.mark.parametrize("name", NAMED)
def test_named_filters_from_the_command_line(tmp_path: Path, name: str) -> None:
    values = random_rows(40)
    values[20:] = values[:20]  # every row twice
    pool = feature_pool(tmp_path / "pool", {"l14_img": values})
    options = [word for key, value in NAMED[name].items() for word in ("--param", f"{key}={value}")]
    output = tmp_path / "out.npy"
    done = run("filter-pool", pool, "-o", output, "--name", name, "--param", "arch=l14", *options)
    assert done.code == 0, done.said
    closes(output)
    rows = kept_rows(output)
    if name == "semdedup":
        assert rows == set(range(20))
    else:  # half, and with `top` one more row and its ties
        assert (10 if name == "d4" else 20) <= len(rows) <= (12 if name == "d4" else 22)


def kept_rows(output: Path) -> set[int]:
    return {int(low) for _, low in np.load(output).tolist()}
