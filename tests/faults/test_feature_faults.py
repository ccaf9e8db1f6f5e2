"""Rows 44 and 45 of the catalogue, through the command: bad vectors and awkward clusters are named, counted, and harm nothing else.

44  zero vector, NaN row, inf, not normalised, dimensions that do not match
45  empty cluster, k > n, a cluster of very many rows
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.curate.feature_kit import feature_pool, uid_of, write_npz
from tests.curate.test_kmeans import clustered
from tests.faults.kit import Done, nothing_at, rule_file, run

ROWS = 60


def score(pool: Path, *options: object, scorer: str = "kmeans") -> Done:
    return run("score", scorer, pool, "--json", *options)


def table(pool: Path, scorer: str = "kmeans") -> dict[str, list[Any]]:
    (folder,) = (pool / ".headwater" / "scores").glob(f"{scorer}-*")
    columns: dict[str, list[Any]] = {}
    for path in sorted(folder.glob("*.parquet")):
        for name, values in pq.read_table(path).to_pydict().items():
            columns.setdefault(name, []).extend(values)
    return columns


def no_scores(pool: Path, scorer: str = "kmeans") -> None:
    """Nothing that a later run could take for scores."""
    assert not list((pool / ".headwater" / "scores").glob(f"{scorer}-*/step.json"))


@pytest.mark.parametrize("spherical", ["--spherical", "--no-spherical"])
def test_44_bad_vectors_are_counted_by_reason_and_spread_nowhere(tmp_path: Path, spherical: str) -> None:
    good = clustered(ROWS, 8, 4)
    spoiled = good.copy()
    bad = {3: 0.0, 11: np.nan, 12: np.inf, 40: -np.inf}
    for row, value in bad.items():
        spoiled[row] = 0 if value == 0 else spoiled[row]
        spoiled[row, 2] = value
    pool = feature_pool(tmp_path / "pool", {"l14_img": spoiled}, shards=3)
    done = score(pool, "--k", 4, spherical)
    assert done.code == 3, done.said
    facts = json.loads(done.out)
    assert facts["counts"]["invalid"] == {"features: zero vector": 1, "features: NaN or infinite": 3}
    assert facts["counts"]["kept"] == ROWS - 4
    made = table(pool)
    assert [i for i, c in enumerate(made["cluster"]) if c is None] == sorted(bad)
    assert [i for i, c in enumerate(made["cluster_similarity"]) if c is None] == sorted(bad)
    (folder,) = (pool / ".headwater" / "scores").iterdir()
    centroids = np.load(folder / "centroids.npy")
    assert np.isfinite(centroids).all()
    # the same clusters as of a pool that never had these rows
    keep = [i for i in range(ROWS) if i not in bad]
    clean = feature_pool(
        tmp_path / "clean", {"l14_img": good[keep]}, uids=[uid_of(i) for i in keep], shards=2
    )
    assert score(clean, "--k", 4, spherical).code == 0
    assert table(clean)["cluster"] == [made["cluster"][i] for i in keep]
    assert table(clean)["cluster_similarity"] == [made["cluster_similarity"][i] for i in keep]
    assert score(pool, "--k", 4, spherical, "--allow-invalid").code == 0


def test_44_vectors_that_are_not_normalised_are_taken_as_they_are(tmp_path: Path) -> None:
    """Lengths from 1e-30 to 1e18: by cosine they change nothing, and an inner product holds them without overflow."""
    values = clustered(ROWS, 8, 4)
    long = values * (10.0 ** np.linspace(-30, 18, ROWS)).astype(np.float32)[:, None]
    centroids = tmp_path / "c.npy"
    np.save(centroids, values[:5])
    made = []
    for name, array in (("a", values), ("b", long)):
        pool = feature_pool(tmp_path / name, {"l14_img": array}, shards=2)
        assert score(pool, "--centroids", centroids, "--spherical").code == 0
        made.append(table(pool))
    assert made[0]["cluster"] == made[1]["cluster"]
    np.testing.assert_allclose(made[0]["cluster_similarity"], made[1]["cluster_similarity"], rtol=1e-6)
    pool = feature_pool(tmp_path / "c", {"l14_img": long}, shards=2)
    assert score(pool, "--centroids", centroids).code == 0
    exact = long.astype(np.float64) @ values[:5].astype(np.float64).T
    assert table(pool)["cluster"] == exact.argmax(axis=1).tolist()


def test_44_an_array_of_zero_vectors_alone(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": np.zeros((5, 4), np.float16)})
    done = score(pool, "--k", 2)
    assert done.code == 3
    assert json.loads(done.out)["counts"]["invalid"] == {"features: zero vector": 5}
    assert table(pool)["cluster"] == [None] * 5


@pytest.mark.parametrize(
    ("what", "code", "told"),
    [
        ("width", 13, "4 numbers a row in shard 00000001, but 8 in shard 00000000"),
        ("rows", 13, "29 rows of features l14_img, but the shard has 30"),
        ("object", 13, "Python objects, which are never unpickled"),
        ("integers", 13, "are int8, not float16, 32 or 64"),
        ("flat", 13, "shape (240,), not (rows, width)"),
        ("missing", 10, "shard 00000001: no features 'l14_img'"),
        ("other name", 10, "did you mean 'l14_imq'?"),
        ("junk", 13, "not a readable npz"),
        ("bomb", 13, "needs 2,"),
    ],
)
def test_44_arrays_that_do_not_fit_end_before_any_work(
    tmp_path: Path, what: str, code: int, told: str
) -> None:
    values = clustered(ROWS, 8, 4)
    pool = feature_pool(tmp_path / "pool", {"l14_img": values}, shards=2)
    path, part = pool / "00000001.npz", values[30:]
    if what == "junk":
        path.write_bytes(b"PK\x03\x04 but no zip")
    elif what == "missing":
        path.unlink()
    elif what == "object":
        with zipfile.ZipFile(path, "w") as archive, archive.open("l14_img.npy", "w") as handle:
            np.lib.format.write_array(handle, np.array([[{}]] * 30, object), allow_pickle=True)
    elif what == "bomb":
        # a header that claims 2 GB over a packed member of a few bytes
        packed = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
        with packed as archive, archive.open("l14_img.npy", "w") as handle:
            facts = {"descr": "<f4", "fortran_order": False, "shape": (30, 17_000_000)}
            np.lib.format.write_array_header_1_0(handle, facts)  # type: ignore[no-untyped-call]
            handle.write(bytes(1000))
    else:
        other = {
            "width": part[:, :4],
            "rows": part[:29],
            "integers": part.astype(np.int8),
            "flat": part.ravel(),
            "other name": part,
        }[what]
        write_npz(path, {"l14_imq" if what == "other name" else "l14_img": other})
    done = score(pool, "--k", 3)
    assert done.code == code, done.said
    assert told in done.said, done.said
    no_scores(pool)
    output = tmp_path / "out.npy"
    rule = rule_file(
        tmp_path,
        "{id: big, sql: cluster_similarity > 0}",
        head="scores: [{scorer: kmeans, config: {k: 3}}]\n",
    )
    assert run("filter-pool", pool, "-o", output, "--rule", rule).code == code
    nothing_at(output)


def test_44_a_features_file_that_changes_makes_scores_anew(tmp_path: Path) -> None:
    values = clustered(ROWS, 8, 4)
    pool = feature_pool(tmp_path / "pool", {"l14_img": values}, shards=1)
    first = json.loads(score(pool, "--k", 3).out)
    write_npz(pool / "00000000.npz", {"l14_img": values[::-1]})
    second = json.loads(score(pool, "--k", 3).out)
    assert second["rows_scored"] == ROWS and second["folder"] != first["folder"]


def test_45_more_clusters_than_rows(tmp_path: Path) -> None:
    values = clustered(7, 4, 3)
    values[5] = values[2]
    pool = feature_pool(tmp_path / "pool", {"l14_img": values}, shards=2)
    done = score(pool, "--k", 1000)
    assert done.code == 0, done.said
    assert "7 rows of which 6 are distinct make no more than that" in done.err
    assert json.loads(done.out)["notes"]["clusters"] == 6
    assert table(pool)["cluster"][5] == table(pool)["cluster"][2]


def test_45_clusters_that_lose_their_rows(tmp_path: Path) -> None:
    """Rows of three sizes on one ray, by inner product: the longest centroid takes all, and the others are empty."""
    values = np.outer(np.repeat([1.0, 2.0, 3.0], 20), [1.0, 0.5]).astype(np.float32)
    values += (1e-3 * np.random.default_rng(0).normal(size=values.shape)).astype(np.float32)
    pool = feature_pool(tmp_path / "pool", {"l14_img": values}, shards=2)
    centroids = tmp_path / "c.npy"
    np.save(centroids, np.array([[9, 4.5], [0, 0], [-9, -4.5], [9, 4.5]], np.float32))
    done = score(pool, "--centroids", centroids)
    assert done.code == 0, done.said
    assert set(table(pool)["cluster"]) == {0}, "equal centroids: the first; the others stay empty"
    again = feature_pool(tmp_path / "again", {"l14_img": values}, shards=3)
    done = score(again, "--k", 12)
    assert done.code == 0, done.said
    (folder,) = (again / ".headwater" / "scores").iterdir()
    made = np.load(folder / "centroids.npy")
    assert made.shape == (12, 2) and np.isfinite(made).all()
    assert len({row.tobytes() for row in made}) == 12


def test_45_rows_that_are_all_one(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": np.ones((500, 6), np.float16)}, shards=2)
    for options in ((), ("--spherical",)):
        done = score(pool, "--k", 4, *options)
        assert done.code == 0, done.said
        assert json.loads(done.out)["notes"]["clusters"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("scorer", ["kmeans", "semdedup"])
def test_45_one_cluster_of_very_many_rows(tmp_path: Path, scorer: str) -> None:
    """30,000 rows in one cluster within 64 MB for it: no matrix of all pairs (3.6 GB) is ever made."""
    rng = np.random.default_rng(0)
    values = (1 + 0.3 * rng.normal(size=(30_000, 16))).astype(np.float16)
    pool = feature_pool(tmp_path / "pool", {"l14_img": values}, shards=1)
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options = ("--k", 1) if scorer == "kmeans" else ()
    done = score(pool, "--memory", "64MB", *options, scorer=scorer)
    assert done.code == 0, done.said
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 600 << 20
