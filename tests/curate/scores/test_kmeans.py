"""The scorer kmeans: clusters of a pool, whatever its layout, and the files it reads and leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate import kmeans
from curate._rowsample import Sample, choose_rows, gather, keys
from curate.features import normalise, open_features
from curate.pool import Pool
from curate.pooldata import PoolData
from curate.sidecars import ScorerRef
from curate.subset import from_hex, header
from headwater.errors import IntegrityError, MissingExtra, MissingInput, UsageError
from headwater.executor import Executor
from tests.conftest import clean_environment
from tests.curate.feature_kit import feature_pool, scored, scored_with_facts, uid_of
from tests.curate.test_kmeans import clustered, lloyd


def data_of(path: Path, memory_bytes: int = 1 << 30) -> PoolData:
    pool = Pool.open(path)
    return PoolData(pool, ScorerRef("kmeans"), Executor("serial", 1), path / "work", memory_bytes)


def expected(
    values: npt.NDArray[Any], k: int, iterations: int, seed: int, spherical: bool, most: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The definition: the rows of the smallest keys train, in the order of keys; each row goes to its best centroid."""
    rows = values.astype(np.float32)
    good = np.isfinite(rows).all(axis=1) & rows.any(axis=1)
    uids = from_hex([uid_of(i) for i in range(len(rows))])
    by_key = sorted(np.flatnonzero(good).tolist(), key=lambda i: int(keys(uids[i : i + 1], seed)[0]))
    label = np.full(len(rows), -1, np.int32)
    similarity = np.full(len(rows), np.nan, np.float32)
    if not by_key:
        return label, similarity
    centroids = kmeans.train(rows[by_key[:most]], k, iterations=iterations, seed=seed, spherical=spherical)
    for i in by_key:
        x = normalise(rows[i : i + 1])[0] if spherical else rows[i]
        gains = [float(np.add.reduce(x.astype(np.float64) * c)) for c in centroids.astype(np.float64)]
        label[i] = gains.index(max(gains))
        similarity[i] = max(gains)
    return label, similarity


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(0, 30),
    cuts=st.lists(st.integers(0, 30), max_size=3),
    k=st.integers(1, 9),
    iterations=st.integers(0, 3),
    spherical=st.booleans(),
    per=st.integers(1, 5),
    broken=st.booleans(),
)
def test_it_is_its_definition_in_any_layout(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    n: int,
    cuts: list[int],
    k: int,
    iterations: int,
    spherical: bool,
    per: int,
    broken: bool,
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 4)).astype(np.float16)
    if broken and n:
        values[rng.integers(0, n)] = 0
        values[rng.integers(0, n), 1] = np.nan
    edges = sorted({0, n, *(min(cut, n) for cut in cuts)})
    sizes = np.diff(edges).tolist() or [0]
    names = [f"{rng.integers(1 << 60):032x}" for _ in sizes]
    pool = feature_pool(
        tmp_path_factory.mktemp("p") / "pool",
        {"l14_img": values},
        shards=sizes,
        order=rng.permutation(n),
        names=names,
    )
    made = scored(
        pool, "kmeans", k=k, iterations=iterations, seed=seed, spherical=spherical, sample_per_centroid=per
    )
    label, similarity = expected(values, k, iterations, seed, spherical, k * per)
    assert made["cluster"].to_pylist() == [None if c < 0 else c for c in label.tolist()]
    assert made["cluster_similarity"].fill_null(np.nan).to_numpy().tobytes() == similarity.tobytes()


def test_it_agrees_with_lloyd_and_leaves_the_centroids(tmp_path: Path) -> None:
    values = clustered(60, 5, 4)
    pool = feature_pool(tmp_path / "pool", {"emb": values}, shards=3)
    _, facts = scored_with_facts(pool, "kmeans", features="emb", k=4, iterations=3)
    made = np.load(facts["folder"] / "centroids.npy")
    uids = from_hex([uid_of(i) for i in range(60)])
    wanted = lloyd(values[np.argsort(keys(uids, 0))], 4, 3, 0, False, "l2")
    np.testing.assert_allclose(made, wanted, rtol=1e-6)
    assert facts["notes"]["training_rows"] == 60 and facts["notes"]["clusters"] == 4
    assert facts["counts"]["kept"] == 60


def test_rows_without_a_direction_are_counted(tmp_path: Path) -> None:
    values = clustered(40, 4, 3)
    values[[3, 9]] = 0
    values[17, 1] = np.inf
    pool = feature_pool(tmp_path / "pool", {"l14_img": values})
    made, facts = scored_with_facts(pool, "kmeans", k=3)
    assert [i for i, c in enumerate(made["cluster"].to_pylist()) if c is None] == [3, 9, 17]
    assert made["cluster_similarity"].null_count == 3
    assert facts["counts"]["invalid"] == {"features: zero vector": 2, "features: NaN or infinite": 1}


@pytest.mark.parametrize("spherical", [False, True])
def test_given_centroids_are_used_as_they_are(tmp_path: Path, spherical: bool) -> None:
    values = clustered(30, 4, 3)
    centroids = np.array([[1, 0, 0, 0], [0, 9, 0, 0], [0, 0, 1, 1]], np.float64)
    np.save(tmp_path / "c.npy", centroids)
    pool = feature_pool(tmp_path / "pool", {"l14_img": values})
    made, facts = scored_with_facts(pool, "kmeans", centroids=tmp_path / "c.npy", spherical=spherical)
    rows, used = values.astype(np.float64), centroids
    if spherical:
        rows, used = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, used))
    wanted = (rows @ used.T).argmax(axis=1)
    assert made["cluster"].to_pylist() == wanted.tolist()
    np.testing.assert_allclose(made["cluster_similarity"].to_numpy(), (rows @ used.T).max(axis=1), rtol=1e-5)
    np.save(tmp_path / "c.npy", centroids[:2])
    other = scored_with_facts(pool, "kmeans", centroids=tmp_path / "c.npy", spherical=spherical)[1]
    assert other["folder"] != facts["folder"], "other centroids are other scores"


@pytest.mark.parametrize(
    ("values", "error", "told"),
    [
        (np.ones((2, 3), np.float32), UsageError, "3 numbers a centroid, but the features have 4"),
        (np.ones(4, np.float32), IntegrityError, r"shape \(4,\)"),
        (np.ones((2, 4), np.int64), IntegrityError, "int64"),
        (np.ones((0, 4), np.float32), IntegrityError, r"shape \(0, 4\)"),
        (np.full((2, 4), np.nan), IntegrityError, "NaN or infinite"),
        (np.full((2, 4), 1e300), IntegrityError, "NaN or infinite"),
        (np.array([[{}] * 4] * 2, object), IntegrityError, "not a readable"),
    ],
)
def test_centroids_that_do_not_fit_are_refused(tmp_path: Path, values: Any, error: Any, told: str) -> None:
    np.save(tmp_path / "c.npy", values, allow_pickle=True)
    pool = feature_pool(tmp_path / "pool", {"l14_img": clustered(10, 4, 2)})
    with pytest.raises(error, match=told):
        scored(pool, "kmeans", centroids=tmp_path / "c.npy")


def test_only_the_rows_of_a_subset_train(tmp_path: Path) -> None:
    values = np.concatenate([np.eye(4, dtype=np.float32)] * 5)
    values += np.random.default_rng(0).normal(size=values.shape).astype(np.float32) * 0.01
    chosen = [i for i in range(20) if i % 4 < 2]
    words = from_hex(sorted(uid_of(i) for i in chosen))
    (tmp_path / "s.npy").write_bytes(header(len(words)) + words.tobytes())
    pool = feature_pool(tmp_path / "pool", {"l14_img": values}, shards=3)
    made, facts = scored_with_facts(pool, "kmeans", k=2, train_subset=tmp_path / "s.npy")
    assert facts["notes"]["training_rows"] == 10
    centroids = np.load(facts["folder"] / "centroids.npy")
    assert np.abs(centroids[:, 2:]).max() < 0.02
    assert made["cluster"].null_count == 0
    (tmp_path / "s.npy").write_bytes(header(1) + np.array([[9, 9]], "<u8").tobytes())
    with pytest.raises(UsageError, match=r"--train-subset .*s\.npy: none of its 1 uids is in the pool"):
        scored(pool, "kmeans", k=2, train_subset=tmp_path / "s.npy")
    values[3] = 0
    pool = feature_pool(tmp_path / "zero", {"l14_img": values})
    words = from_hex([uid_of(3)])
    (tmp_path / "s.npy").write_bytes(header(1) + words.tobytes())
    with pytest.raises(UsageError, match="none of the training subset's uids is a row .* usable features"):
        scored(pool, "kmeans", k=2, train_subset=tmp_path / "s.npy")


@pytest.mark.parametrize(
    ("config", "error", "told"),
    [
        ({"k": 0}, UsageError, "k is 0"),
        ({"iterations": -1}, UsageError, "iterations is -1"),
        ({"sample_per_centroid": 0}, UsageError, "sample_per_centroid is 0"),
        ({"trainer": "other"}, UsageError, "neither headwater nor faiss"),
        ({"centroids": "absent.npy"}, MissingInput, "absent.npy: no such file"),
        ({"train_subset": "absent.npy"}, MissingInput, "absent.npy: no such file"),
        ({"features": "l14"}, MissingInput, "no features 'l14'"),
    ],
)
def test_usage(tmp_path: Path, config: dict[str, Any], error: Any, told: str) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": clustered(10, 4, 2)})
    with pytest.raises(error, match=told):
        scored(pool, "kmeans", **config)


def test_without_faiss_its_trainer_says_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    pool = feature_pool(tmp_path / "pool", {"l14_img": clustered(10, 4, 2)})
    with pytest.raises(MissingExtra) as caught:
        scored(pool, "kmeans", trainer="faiss")
    assert caught.value.hint == "pip install 'headwater[cluster]'"
    assert scored(pool, "kmeans", k=2)["cluster"].null_count == 0


def test_faiss_trains_where_it_is_asked_to(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    values = clustered(200, 6, 4, noise=0.05)
    pool = feature_pool(tmp_path / "pool", {"l14_img": values})
    made, facts = scored_with_facts(pool, "kmeans", k=4, trainer="faiss")
    assert set(made["cluster"].to_pylist()) <= set(range(4))
    assert np.load(facts["folder"] / "centroids.npy").shape == (4, 6)


@pytest.mark.parametrize("memory_bytes", [1 << 30, 1 << 12])
def test_a_sample_beyond_the_memory_goes_through_a_file(tmp_path: Path, memory_bytes: int) -> None:
    values = clustered(300, 9, 5).astype(np.float16)
    pool = feature_pool(tmp_path / "pool", {"l14_img": values}, shards=4)
    data = data_of(pool)
    features = open_features(data.pool, "l14_img")
    sample = choose_rows(data, features, 120, 7)
    uids = from_hex([uid_of(i) for i in range(300)])
    wanted = values[np.argsort(keys(uids, 7))[:120]].astype(np.float32)
    made = gather(features, sample, memory_bytes=memory_bytes, scratch=data.scratch)
    assert callable(made) == (memory_bytes < 1 << 20)
    rows = np.concatenate(list(made())) if callable(made) else made
    assert rows.tobytes() == wanted.tobytes()
    assert kmeans.train(made, 5).tobytes() == kmeans.train(wanted, 5).tobytes()


def test_scores_do_not_depend_on_the_memory(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": clustered(900, 8, 6)}, shards=2)
    wanted = scored(pool, "kmeans", k=6)
    assert scored(pool, "kmeans", k=6, memory_bytes=1 << 13, force=True).equals(wanted)


def test_a_sample_of_no_pool_is_empty(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": np.zeros((0, 4), np.float32)}, shards=1)
    data = data_of(pool)
    assert len(choose_rows(data, open_features(data.pool, "l14_img"), 5, 0)) == 0
    assert len(Sample(np.zeros(0, np.int32), np.zeros(0, np.int64))) == 0


@pytest.mark.slow
def test_a_file_of_features_is_never_in_memory(tmp_path: Path) -> None:
    """400,000 x 512 float16 (410 MB) are assigned within 160 MB above what an empty run of the same code has."""
    rows, width = 400_000, 512
    pool = feature_pool(tmp_path / "pool", {}, shards=[rows], columns={"n": np.arange(rows)}, uids=None)
    block = np.random.default_rng(0).normal(size=(20_000, width)).astype(np.float16)
    file = np.lib.format.open_memmap(pool / "00000000.emb.npy", "w+", np.float16, (rows, width))
    for first in range(0, rows, len(block)):
        file[first : first + len(block)] = block
    file.flush()
    del file
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from curate import kmeans\n"
        "from curate.features import open_features\n"
        "from curate.pool import Pool\n"
        "features = open_features(Pool.open(Path(sys.argv[1])), 'emb')\n"
        "centroids = np.random.default_rng(1).normal(size=(64, 512)).astype(np.float32)\n"
        "def peak():\n"
        "    text = Path('/proc/self/status').read_text()\n"
        "    return int(text.split('VmHWM:')[1].split()[0]) * 1024\n"
        "before, seen = peak(), 0\n"
        "for block, label, value in kmeans.assign(features, centroids, precision='f32'):\n"
        "    seen += int((label >= 0).sum())\n"
        "sample = features.take(0, np.arange(0, features.rows, 40))\n"
        "print(seen, peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(pool)],
        env={**clean_environment(tmp_path), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        cwd=os.getcwd(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen, grown = map(int, done.stdout.split())
    assert seen == rows
    assert grown < 160 << 20
