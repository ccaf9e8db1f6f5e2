"""`headwater score`: every row of a pool once, stored beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.pool import Pool
from curate.scoring import score_pool
from curate.sidecars import ScorerRef, sidecar_path
from headwater.errors import UsageError
from headwater.executor import Executor
from tests.conftest import Cli, PoolBuilder
from tests.curate.filter_kit import run_filter, uid, write_pool


def score(pool: Path, cache: Path, name: str = "language", **more: Any) -> dict[str, Any]:
    options = {"executor": Executor("serial"), "force": False, "dry_run": False, **more}
    return score_pool(Pool.open(pool, cache=cache), name, options.pop("config", {}), **options)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    texts = ["a dog in the snow", "der Hund im Schnee", "собака бежит по снегу", "", "1 2 3"] * 3
    table = pa.table({"uid": [uid(n) for n in range(15)], "text": texts})
    return write_pool(tmp_path / "pool", {"a": table, "b": table.slice(0, 0)}, rows_per_group=4)


def test_every_row_is_scored_once(pool: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert score(pool, cache, dry_run=True)["rows_scored"] == 15
    assert not cache.exists() or not (cache / "scores").exists()
    first = score(pool, cache)
    assert (first["rows"], first["rows_scored"], first["shards"]) == (15, 15, 2)
    path = sidecar_path(cache, ScorerRef("language"), "a")
    assert path.parent == Path(first["folder"])
    table = pq.ParquetFile(path).read()
    assert table["uid"].to_pylist() == [uid(n) for n in range(15)]
    assert table["language"].to_pylist() == ["en", "de", "ru", "en", "en"] * 3
    before = path.read_bytes()
    assert score(pool, cache)["rows_scored"] == 0
    assert score(pool, cache, force=True)["rows_scored"] == 15
    assert path.read_bytes() == before


def test_a_filter_then_scores_nothing(pool: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    score(pool, cache)
    keep = [{"in": {"column": "language", "values": ["ru"]}}]
    ran = run_filter(pool, keep, tmp_path / "out", cache=cache)
    assert ran.details["rows_scored"] == {} and [int(u, 16) for u in ran.uids] == [2, 7, 12]


def test_gaps_that_a_filter_left_are_filled(pool: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    keep = [{"sql": "n_chars > 6"}, {"in": {"column": "language", "values": ["ru"]}}]
    run_filter(pool, keep, tmp_path / "out", cache=cache)
    assert 0 < score(pool, cache)["rows_scored"] <= 15
    table = pq.ParquetFile(sidecar_path(cache, ScorerRef("language"), "a")).read()
    assert table["language"].to_pylist() == ["en", "de", "ru", "en", "en"] * 3


def test_unknown_scorers_and_missing_columns(pool: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'language'"):
        score(pool, tmp_path / "cache", "langauge")
    bare = write_pool(tmp_path / "bare", {"a": pa.table({"uid": [uid(1)]})})
    with pytest.raises(UsageError, match="no column 'text'"):
        score(bare, tmp_path / "cache")


def test_the_command(tiny_pool: PoolBuilder, tmp_path: Path, cli: Cli) -> None:
    pool = tiny_pool(rows=32, shards=2)
    done = cli("score", "caption", pool, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("caption: scored 32 of 32 rows into ")
    files = sorted((pool / ".headwater" / "scores").rglob("*.parquet"))
    assert [f.name for f in files] == ["00000000.parquet", "00000001.parquet"]
    unknown = cli("score", "captoin", pool)
    assert unknown.returncode == 2 and "did you mean 'caption'" in unknown.stderr
