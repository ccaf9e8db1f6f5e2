"""k-means against a plain statement of Lloyd's algorithm, and against faiss where that is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import kmeans
from curate.features import normalise
from headwater.errors import MissingExtra, UsageError
from tests.conftest import clean_environment
from tests.curate.filter_kit import listening

Floats = npt.NDArray[np.float32]


def lloyd(rows: Floats, k: int, iterations: int, seed: int, spherical: bool, metric: str) -> Floats:
    """Rows one by one: the nearest centroid, the mean of its rows, the stated rule for empty clusters."""
    if spherical:
        rows = normalise(rows)
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(rows))
    seen: list[bytes] = []
    start = []
    for place in order:
        if rows[place].tobytes() not in seen:
            seen.append(rows[place].tobytes())
            start.append(rows[place])
    centroids = np.array(start[:k], np.float32)
    for _ in range(iterations):
        exact = centroids.astype(np.float64)
        sums = np.zeros(centroids.shape)
        counts = [0] * len(centroids)
        for x in rows.astype(np.float64):
            gains = [
                float(np.add.reduce(x * c))
                - (float(np.add.reduce(c * c)) / 2 if metric == "l2" and not spherical else 0)
                for c in exact
            ]
            best = gains.index(max(gains))
            sums[best] += x
            counts[best] += 1
        means = [sums[j] / max(counts[j], 1) for j in range(len(centroids))]
        empty = [j for j in range(len(centroids)) if counts[j] == 0]
        for j in empty:
            donor = counts.index(max(counts))
            shift = np.array([-1 / 1024 if i % 2 else 1 / 1024 for i in range(rows.shape[1])])
            means[j], means[donor] = means[donor] * (1 + shift), means[donor] * (1 - shift)
            counts[j] = counts[donor] // 2
            counts[donor] -= counts[j]
        fresh = np.array(means, np.float32)
        if spherical:
            fresh = normalise(fresh)
            for j in range(len(fresh)):
                if not fresh[j].any():
                    fresh[j] = centroids[j]
        centroids = fresh
    return centroids


def clustered(n: int, d: int, clusters: int, seed: int = 0, noise: float = 0.3) -> Floats:
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(clusters, d))
    return (middle[rng.integers(0, clusters, n)] + noise * rng.normal(size=(n, d))).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 30),
    d=st.integers(1, 6),
    k=st.integers(1, 12),
    iterations=st.integers(0, 4),
    spherical=st.booleans(),
    metric=st.sampled_from(["l2", "ip"]),
    grid=st.booleans(),
    precision=st.sampled_from(["f32", "bf16", "int8"]),
)
def test_it_is_lloyds_algorithm(
    seed: int,
    n: int,
    d: int,
    k: int,
    iterations: int,
    spherical: bool,
    metric: Any,
    grid: bool,
    precision: Any,
) -> None:
    rng = np.random.default_rng(seed)
    rows = (rng.integers(-1, 2, (n, d)) if grid else rng.normal(size=(n, d))).astype(np.float32)
    if spherical:
        rows[~rows.any(axis=1), 0] = 1
    wanted = lloyd(rows, k, iterations, seed, spherical, metric)
    made = kmeans.train(
        rows, k, iterations=iterations, seed=seed, spherical=spherical, metric=metric, precision=precision
    )
    assert made.shape == wanted.shape and made.dtype == np.float32
    # the sums of the plain statement are formed in another order, so the last bit may differ
    np.testing.assert_allclose(made, wanted, rtol=1e-6, atol=1e-7)


def test_centroids_are_the_same_however_rows_come(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clustered(500, 16, 12)
    monkeypatch.setattr(kmeans, "BLOCK", 64)
    wanted = kmeans.train(rows, 12, seed=3)
    for size in (1, 7, 64, 100, 500):

        def blocks(size: int = size) -> Iterator[Floats]:
            yield from (rows[i : i + size] for i in range(0, len(rows), size))
            yield rows[:0]

        assert kmeans.train(blocks, 12, seed=3).tobytes() == wanted.tobytes()
    for precision in ("f32", "bf16", "int8"):
        assert kmeans.train(rows, 12, seed=3, precision=precision).tobytes() == wanted.tobytes()
    assert kmeans.train(rows, 12, seed=4).tobytes() != wanted.tobytes()


@pytest.mark.slow
def test_centroids_are_the_same_for_any_number_of_threads(tmp_path: Path) -> None:
    code = (
        "import hashlib, numpy as np; from curate import kmeans\n"
        "rows = np.random.default_rng(0).normal(size=(6000, 96)).astype(np.float32)\n"
        "print(hashlib.sha256(kmeans.train(rows, 40, iterations=4, precision=PRECISION).tobytes()).hexdigest())"
    )
    told = set()
    for threads in ("1", "2"):
        for precision in ("f32", "bf16"):
            env = {**clean_environment(tmp_path), "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
            done = subprocess.run(
                [sys.executable, "-c", code.replace("PRECISION", repr(precision))],
                env=env,
                cwd=os.getcwd(),
                capture_output=True,
                text=True,
                check=True,
            )
            told.add(done.stdout)
    assert len(told) == 1


def test_more_clusters_than_distinct_rows() -> None:
    rows = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32)
    with listening() as heard:
        made = kmeans.train(rows, 9)
    assert sorted(made.tolist()) == [[0, 1], [1, 0]]
    assert any("2 are distinct" in text for text in heard.warnings)
    assert kmeans.train(rows[:1], 3).tolist() == [[1, 0]]


def test_a_cluster_without_rows_halves_the_largest() -> None:
    # all rows lie on one ray, and by inner product the longest centroid takes them all
    rows = np.arange(1, 9, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)
    report: dict[str, Any] = {}
    made = kmeans.train(rows, 2, iterations=1, metric="ip", report=report)
    mean = 4.5
    assert report["split"] == 1
    assert sorted(made[:, 0].tolist()) == pytest.approx([mean * (1 - 1 / 1024), mean * (1 + 1 / 1024)])


def test_the_objective_falls_and_the_end_is_a_fixed_point() -> None:
    rows = clustered(400, 8, 9)
    told = []
    for iterations in range(1, 8):
        report: dict[str, Any] = {}
        kmeans.train(rows, 9, iterations=iterations, report=report)
        told.append(report["objective"])
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in zip(told, told[1:], strict=False))
    report = {}
    end = kmeans.train(rows, 9, iterations=200, report=report)
    assert report["iterations"] < 200
    assert kmeans.train(rows, 9, iterations=300).tobytes() == end.tobytes()


def test_usage() -> None:
    rows = np.ones((3, 2), np.float32)
    for k, iterations in ((0, 1), (-1, 1), (1, -1)):
        with pytest.raises(UsageError, match="k of at least 1"):
            kmeans.train(rows, k, iterations=iterations)
    with pytest.raises(UsageError, match="no rows"):
        kmeans.train(rows[:0], 2)


def test_without_faiss_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra) as caught:
        kmeans.train(np.ones((3, 2), np.float32), 1, trainer="faiss")
    assert caught.value.hint == "pip install 'headwater[cluster]'"


@pytest.mark.slow
@pytest.mark.parametrize("spherical", [False, True])
def test_the_objective_is_that_of_faiss(spherical: bool) -> None:
    """Mean over seeds, within 2 %: both start from random rows and end in local optima."""
    pytest.importorskip("faiss")
    rows = clustered(6000, 32, 60, noise=1.5)
    if spherical:
        rows = normalise(rows)
    ours, theirs = [], []
    for seed in range(6):
        for trainer, told in (("headwater", ours), ("faiss", theirs)):
            made = kmeans.train(rows, 60, seed=seed, spherical=spherical, trainer=trainer)  # type: ignore[arg-type]
            squares = ((rows[:, None, :].astype(np.float64) - made[None]) ** 2).sum(-1)
            told.append(squares.min(axis=1).sum())
    assert np.mean(ours) <= 1.02 * np.mean(theirs)
