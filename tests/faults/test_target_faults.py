"""Features and targets that are missing, damaged, of another size or hostile: named, counted, the right exit code (rows 44, 45)."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.curate.feature_kit import feature_pool, uid_of, write_npz
from tests.faults import kit

SCORERS = ["target", "normsim", "nearest", "contamination"]
ROWS = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
OPTIONS: dict[str, list[str]] = {"target": ["--k", "3"]}
COLUMN = {
    "target": "in_target",
    "normsim": "normsim",
    "nearest": "nearest_rank",
    "contamination": "contamination_similarity",
    "normsim_d": "normsim_d_round",
}


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return feature_pool(tmp_path / "pool", {"x": ROWS}, shards=2)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    np.save(tmp_path / "target.npy", ROWS[:3])
    return tmp_path / "target.npy"


def score(name: str, pool: Path, target: Path | None, *more: object) -> kit.Done:
    given = ["--target", target] if target else []
    return kit.run("score", name, pool, "--features", "x", *given, *OPTIONS.get(name, []), *more)


def records(pool: Path, name: str) -> list[Path]:
    return sorted((pool / ".headwater" / "scores").glob(f"{name}-v*/step.json"))


def refused(done: kit.Done, code: int, pool: Path, name: str, *told: str) -> None:
    assert done.code == code, done.said
    for text in told:
        assert text in done.err
    assert not records(pool, name)
    assert not list(pool.rglob("*.tmp-*"))


@pytest.mark.parametrize("name", SCORERS)
def test_a_good_run_ends_with_0(name: str, pool: Path, target: Path) -> None:
    done = score(name, pool, target)
    assert done.code == 0, done.err
    assert len(records(pool, name)) == 1
    again = score(name, pool, target, "--json")
    assert again.code == 0 and json.loads(again.out)["rows_scored"] == 0
    counted = kit.run("pool", "sql", pool, f"SELECT count({COLUMN[name]}) AS n FROM pool", "--json")
    assert counted.code == 0 and '"n": 12' in counted.out


@pytest.mark.parametrize("name", [*SCORERS, "normsim_d"])
def test_features_that_are_not_there_are_named_with_those_that_are(
    name: str, tmp_path: Path, target: Path
) -> None:
    pool = feature_pool(tmp_path / "p", {"y": ROWS})
    given = target if name in SCORERS else None
    refused(score(name, pool, given), 10, pool, name, "no features 'x'", "it has y")


@pytest.mark.parametrize("name", [*SCORERS, "normsim_d"])
def test_features_of_another_number_of_rows(name: str, pool: Path, target: Path) -> None:
    write_npz(pool / "00000001.npz", {"x": ROWS[:5]})
    given = target if name in SCORERS else None
    refused(score(name, pool, given), 13, pool, name, "00000001", "5 rows of features x, but the shard has 6")


@pytest.mark.parametrize("name", [*SCORERS, "normsim_d"])
def test_row_44_rows_without_a_direction_are_counted_by_reason_and_spread_nowhere(
    name: str, tmp_path: Path, target: Path
) -> None:
    rows = np.vstack([ROWS, np.zeros((2, 4)), np.full((1, 4), np.nan), np.full((2, 4), np.inf)]).astype(
        np.float32
    )
    pool = feature_pool(tmp_path / "p", {"x": rows}, order=np.random.default_rng(1).permutation(17), shards=3)
    given = target if name in SCORERS else None
    done = score(name, pool, given)
    assert done.code == 3
    assert "2 × features: zero vector" in done.out and "3 × features: NaN or infinite" in done.out
    assert "5 of 17 rows have no score" in done.err
    assert score(name, pool, given, "--allow-invalid").code == 0
    counts = json.loads(records(pool, name)[0].read_bytes())["identity"]["counts"]
    assert counts["read"] == 17 and counts["kept"] == 12
    table = pa.concat_tables([pq.read_table(p) for p in records(pool, name)[0].parent.glob("0*.parquet")])
    assert sorted(table.filter(table[COLUMN[name]].is_null())["uid"].to_pylist()) == [
        uid_of(i) for i in range(12, 17)
    ]
    assert not any(v != v for v in table[COLUMN[name]].to_pylist() if v is not None)


@pytest.mark.parametrize("name", SCORERS)
def test_row_44_a_target_of_another_width_names_both(name: str, pool: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.ones((3, 5), np.float32))
    told = "t.npy: 5 numbers a row, but features x have 4"
    refused(score(name, pool, tmp_path / "t.npy"), 13, pool, name, told)


@pytest.mark.parametrize("name", SCORERS)
def test_rows_of_the_target_that_cannot_be_used_are_told(name: str, pool: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.vstack([ROWS[:3], np.zeros((1, 4)), np.full((1, 4), np.nan)]))
    done = score(name, pool, tmp_path / "t.npy")
    assert done.code == 0
    assert "1 of 5 rows are left out (features: zero vector)" in done.err
    assert "1 of 5 rows are left out (features: NaN or infinite)" in done.err
    assert "left_out: 2" in done.out


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("rows", [np.zeros((0, 4)), np.zeros((2, 4))], ids=["no rows", "zero rows"])
def test_an_empty_target(name: str, rows: Any, pool: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", rows)
    refused(score(name, pool, tmp_path / "t.npy"), 2, pool, name, "t.npy: has ")


@pytest.mark.parametrize("name", SCORERS)
def test_no_target_or_one_that_is_not_there(name: str, pool: Path, tmp_path: Path) -> None:
    refused(score(name, pool, None), 2, pool, name, "a target is needed: --target FILE")
    refused(
        score(name, pool, tmp_path / "nowhere.npy"), 10, pool, name, "nowhere.npy: no such file or folder"
    )


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("kind", ["npy", "npz", "pt", "pkl", "parquet"])
def test_a_pickle_is_never_opened(name: str, kind: str, pool: Path, tmp_path: Path) -> None:
    path, mark = tmp_path / f"t.{kind}", tmp_path / "executed"
    objects = np.array([Touch(mark)], dtype=object)
    if kind == "npy":
        np.save(path, objects)
    elif kind == "npz":
        np.savez(path, x=objects)
    else:
        path.write_bytes(pickle.dumps(objects))
    done = score(name, pool, path)
    refused(done, 2 if kind in ("pt", "pkl") else 13, pool, name, f"t.{kind}")
    assert not mark.exists()


def test_centroids_that_are_a_pickle(pool: Path, target: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    np.save(tmp_path / "c.npy", np.array([Touch(mark)], dtype=object))
    refused(score("target", pool, target, "--centroids", tmp_path / "c.npy"), 13, pool, "target", "c.npy")
    assert not mark.exists()


def test_row_45_more_clusters_than_rows(pool: Path, target: Path) -> None:
    done = kit.run("score", "target", pool, "--features", "x", "--target", target, "--k", 1000)
    assert done.code == 0, done.err


def test_another_target_gives_other_scores_beside_the_first(pool: Path, target: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", ROWS[5:])
    assert score("normsim", pool, target).code == score("normsim", pool, tmp_path / "other.npy").code == 0
    assert len(records(pool, "normsim")) == 2
    np.save(target, ROWS[7:9])  # the same path, other bytes
    assert score("normsim", pool, target).code == 0
    assert len(records(pool, "normsim")) == 3


def test_a_rule_over_rows_without_a_score_ends_with_3(tmp_path: Path, target: Path) -> None:
    rows = np.vstack([ROWS, np.zeros((1, 4), np.float32)])
    pool = feature_pool(tmp_path / "p", {"x": rows})
    head = "scores:\n  - {scorer: nearest, config: {features: x, target: target.npy, k: 1}}\n"
    done = kit.select(pool, tmp_path, "{id: found, sql: nearest_rank < 1}", head=head)
    assert done.code == 3 and "1 × found" in done.err
    assert kit.words(tmp_path / "out.npy") == [uid_of(i) for i in range(3)]
    assert kit.closes(tmp_path / "out.npy").identity.counts.dropped == {"found": 9}
