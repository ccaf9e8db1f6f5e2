"""Scoring of pictures that is killed on the way, tars that lie, and a pool of real pictures."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import clean_environment
from tests.curate.picture_kit import make, samples
from tests.faults import kit

CLIPART = Path(__file__).parents[2] / "examples" / "openclipart" / "pool"


def columns_of(pool: Path, name: str) -> list[dict[str, Any]]:
    rows = []
    for path in sorted((pool / ".headwater" / "scores").glob(f"{name}-*/*.parquet")):
        rows += pq.read_table(path).to_pylist()
    return rows


@pytest.mark.slow
def test_real_pictures_and_what_they_are_near(tmp_path: Path) -> None:
    pool = shutil.copytree(CLIPART, tmp_path / "pool", ignore=shutil.ignore_patterns(".headwater"))
    for name in ("picture", "picture_groups"):
        done = kit.run("score", name, pool, "--shards", pool, "--json")
        assert done.code == 0, done.err
    told = columns_of(pool, "picture")
    assert len(told) == 3000 and {row["picture_status"] for row in told} == {"ok"}
    assert all(0 < row["picture_flat"] <= 1 and 0 <= row["picture_entropy"] <= 8 for row in told)
    grouped = {row["uid"]: row["picture_group"] for row in columns_of(pool, "picture_groups")}
    assert all(grouped[group] == group <= uid for uid, group in grouped.items())
    assert 2300 < len(set(grouped.values())) < 2532  # 2,532 pictures have pixels of their own
    # the tars under other names, in other orders, give the same
    other = tmp_path / "other"
    (other / "tars").mkdir(parents=True)
    for n, path in enumerate(sorted(pool.glob("*.tar"), reverse=True)):
        shutil.copy(path, other / "tars" / f"x{n}.tar")
    for n, path in enumerate(sorted(pool.glob("*.parquet"), reverse=True)):
        shutil.copy(path, other / f"{n:08d}.parquet")
    done = kit.run("score", "picture_groups", other, "--shards", other / "tars")
    assert done.code == 0, done.err
    assert {row["uid"]: row["picture_group"] for row in columns_of(other, "picture_groups")} == grouped


def finished_tars(pool: Path) -> list[Path]:
    return sorted((pool / ".headwater" / "pictures").glob("phash-*/*.parquet"))


@pytest.mark.slow
def test_a_killed_run_goes_on_from_the_tars_it_finished(tmp_path: Path) -> None:
    tars = {f"{n:02d}.tar": samples(range(100 * n, 100 * n + 100)) for n in range(12)}
    pool, shards = make(tmp_path, tars)
    reference = shutil.copytree(pool, tmp_path / "reference")
    assert kit.run("score", "phash", reference, "--shards", shards).code == 0
    line = ("score", "phash", pool, "--shards", shards, "--engine", "serial", "--json")
    killed = 0
    for wanted in (2, 5, 8):
        process = subprocess.Popen(
            kit.argv(*line),
            env=clean_environment(tmp_path),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 60
        while len(finished_tars(pool)) < wanted and process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        assert not columns_of(pool, "phash") or process.returncode == 0
    assert killed >= 1
    before = {path: path.stat().st_mtime_ns for path in finished_tars(pool)}
    done = kit.spawn(*line, home=tmp_path)
    assert done.code == 0, done.err
    notes = json.loads(done.out)["notes"]
    assert notes["tars read"] == 12 - len(before) < 12
    assert all(path.stat().st_mtime_ns == was for path, was in before.items())
    assert columns_of(pool, "phash") == columns_of(reference, "phash")
    assert kit.temporaries(pool) == []
    for path in (reference / ".headwater" / "scores").rglob("*.parquet"):
        assert path.read_bytes() == (pool / path.relative_to(reference)).read_bytes()


def test_a_header_that_lies_stops_the_work(tmp_path: Path) -> None:
    pool, tars = make(tmp_path, {"a.tar": samples([1, 2, 3])})
    raw = bytearray((tars / "a.tar").read_bytes())
    raw[148:156] = b"0000000\0"
    (tars / "a.tar").write_bytes(raw)
    done = kit.run("score", "phash", pool, "--shards", tars)
    assert done.code == 13 and "a.tar" in done.err
    assert not columns_of(pool, "phash")
