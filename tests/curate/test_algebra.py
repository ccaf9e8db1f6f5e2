"""Subset algebra as Steps, through the library and the command line."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.algebra import scores_of, subset_plan, subset_step
from curate.pool import Pool
from curate.subset import from_hex, load_words, to_hex, unique, write_sorted
from headwater.errors import HeadwaterError, MissingInput, UsageError
from headwater.steps import RunOptions, read_record
from tests.conftest import PoolBuilder
from tests.curate.filter_kit import Told, in_process, uid, write_pool


def write(path: Path, numbers: list[int], *, ordered: bool = True) -> Path:
    words = np.array([(0, n) for n in (sorted(numbers) if ordered else numbers)], "<u8").reshape(-1, 2)
    with open(path, "wb") as handle:
        write_sorted(handle, [words])
    return path


def read(path: Path) -> list[int]:
    return [int(pair[1]) for pair in np.load(path, allow_pickle=False).tolist()]


Command = Callable[..., Told]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "a.npy", [1, 1, 2, 3, 5]), write(tmp_path / "b.npy", [1, 3, 3, 4])


OPERATIONS: list[tuple[list[str], list[int]]] = [
    (["union"], [1, 1, 2, 3, 3, 4, 5]),
    (["intersect"], [1, 3]),
    (["subtract"], [2, 5]),
]


@pytest.mark.parametrize(("words", "expected"), OPERATIONS, ids=[w[0] for w, _ in OPERATIONS])
def test_two_files(
    words: list[str], expected: list[int], files: tuple[Path, Path], tmp_path: Path, cli: Command
) -> None:
    out = tmp_path / "out.npy"
    done = cli("subset", *words, *files, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    assert read(out) == expected
    document = json.loads(done.stdout)
    assert document["counts"]["kept"] == len(expected) and not document["cached"]
    record = read_record(out)
    assert record is not None and record.identity.step == f"subset-{words[0]}"
    again = json.loads(cli("subset", *words, *files, "-o", out, "--json").stdout)
    assert again["cached"] and again["id"] == document["id"]
    swapped = cli("subset", *words, *files[::-1], "-o", out, "--json")
    if words[0] == "subtract":
        assert swapped.returncode == 2 and "exists, made by another run" in swapped.stderr
    else:
        assert json.loads(swapped.stdout)["cached"]  # the order of inputs decides nothing


def test_sample_and_repeat(files: tuple[Path, Path], tmp_path: Path, cli: Command) -> None:
    results = {}
    for seed in (1, 1, 2):
        out = tmp_path / f"{seed}-{len(results)}.npy"
        done = cli("subset", "sample", files[0], "--count", 2, "--seed", seed, "-o", out, "--quiet")
        assert done.returncode == 0, done.stderr
        results[out.name] = out.read_bytes()
    assert results["1-0.npy"] == results["1-1.npy"] and all(len(r) == 128 + 32 for r in results.values())
    out = tmp_path / "three.npy"
    assert cli("subset", "repeat", files[1], "--times", 3, "-o", out, "--quiet").returncode == 0
    assert read(out) == sorted([1, 3, 3, 4] * 3)
    assert cli("subset", "sample", files[0], "-o", tmp_path / "x.npy").returncode == 2
    assert cli("subset", "sample", files[0], "--count", 9, "-o", tmp_path / "x.npy").returncode == 2
    assert not (tmp_path / "x.npy").exists()


def test_unsorted_files_are_refused_unless_allowed(tmp_path: Path, cli: Command) -> None:
    mixed = write(tmp_path / "mixed.npy", [5, 1, 3], ordered=False)
    out = tmp_path / "out.npy"
    done = cli("subset", "union", mixed, "-o", out)
    assert done.returncode == 13 and "mixed.npy: not sorted: entry 1 " in done.stderr
    assert not out.exists()
    assert cli("subset", "union", mixed, "--unsorted", "-o", out, "--quiet").returncode == 0
    assert read(out) == [1, 3, 5]


def test_diff_ends_with_one_when_they_differ(files: tuple[Path, Path], tmp_path: Path, cli: Command) -> None:
    same = write(tmp_path / "same.npy", [1, 1, 2, 3, 5])
    once = write(tmp_path / "once.npy", [1, 2, 3, 5])
    equal = cli("subset", "diff", files[0], same)
    assert equal.returncode == 0 and equal.stdout.startswith("equal: ")
    repeats = cli("subset", "diff", files[0], once, "--json")
    assert repeats.returncode == 1 and json.loads(repeats.stdout)["equal"] is False
    other = cli("subset", "diff", files[0], files[1], "--json")
    facts = json.loads(other.stdout)
    assert other.returncode == 1
    assert (facts["only_in_a"], facts["only_in_b"], facts["in_both"]) == (2, 1, 2)
    assert cli("subset", "diff", files[0], tmp_path / "nowhere.npy").returncode == 10


def test_soft_cap(tiny_pool: PoolBuilder, tmp_path: Path, cli: Command) -> None:
    pool = tiny_pool(rows=40, shards=2)
    uids = [
        u for f in sorted(pool.glob("*.parquet")) for u in pq.ParquetFile(f).read(["uid"])["uid"].to_pylist()
    ]
    with open(tmp_path / "all.npy", "wb") as handle:
        write_sorted(handle, [from_hex(sorted(uids))])
    column = ["--column", "clip_l14_similarity_score", "--count", 100, "--batch", 10]
    made = []
    for name, scale in (("1", 1), ("2", 1), ("3", 100)):
        out = tmp_path / f"{name}.npy"
        more = ["--scale", scale, "--seed", 5, "--json"]
        done = cli("subset", "soft-cap", tmp_path / "all.npy", pool, *column, *more, "-o", out)
        assert done.returncode == 0, done.stderr
        made.append(out.read_bytes())
        words = load_words(out)
        assert len(words) == 100 and set(to_hex(unique(words))) <= set(uids)
    assert made[0] == made[1] != made[2]
    wrong = cli(
        "subset", "soft-cap", tmp_path / "all.npy", pool, "--column", "clip_l14", "--count", 1, "-o", "x.npy"
    )
    assert wrong.returncode == 2 and "clip_l14_similarity_score" in wrong.stderr


def test_scores_are_found_wherever_the_row_lies(tmp_path: Path) -> None:
    rng = random.Random(4)
    numbers = rng.sample(range(1000), 60)
    values = {n: n / 8 for n in numbers}
    tables = {
        f"s{i}": pa.table(
            {"uid": [uid(n) for n in part], "s": pa.array([values[n] for n in part], pa.float32())}
        )
        for i, part in enumerate((numbers[:25], [], numbers[25:]))
    }
    tables["s1"] = tables["s1"].cast(pa.schema([("uid", pa.string()), ("s", pa.float32())]))
    pool = Pool.open(write_pool(tmp_path / "pool", tables))
    wanted = sorted(rng.sample(numbers, 20))
    words = from_hex([uid(n) for n in wanted])
    assert scores_of(pool, words, "s").tolist() == [values[n] for n in wanted]
    with pytest.raises(HeadwaterError, match="1 uids of the subset have no number in 's' of pool"):
        scores_of(pool, from_hex([uid(5000)]), "s")
    with pytest.raises(UsageError, match="no column 't'"):
        scores_of(pool, words, "t")


def test_a_row_without_a_score_is_refused(tmp_path: Path) -> None:
    table = pa.table({"uid": [uid(1), uid(2)], "s": pa.array([float("nan"), None], pa.float32())})
    pool = Pool.open(write_pool(tmp_path / "pool", {"s": table}))
    with pytest.raises(HeadwaterError, match="2 uids"):
        scores_of(pool, from_hex([uid(1), uid(2)]), "s")


def test_plans(files: tuple[Path, Path], tmp_path: Path) -> None:
    def key(what: str, *inputs: Path, seed: int | None = None, **config: Any) -> str:
        return subset_plan(what, tmp_path / "o.npy", inputs, config, seed).key

    assert key("union", *files) == key("union", *files[::-1])
    assert key("subtract", *files) != key("subtract", *files[::-1])
    assert key("sample", files[0], count=2, seed=1) != key("sample", files[0], count=2, seed=2)
    assert key("sample", files[0], count=2) == key("sample", files[0], count=2, fraction=None)
    with pytest.raises(MissingInput, match="nowhere"):
        key("union", tmp_path / "nowhere.npy")


def test_a_failing_operation_leaves_nothing(files: tuple[Path, Path], tmp_path: Path) -> None:
    plan = subset_plan("union", tmp_path / "out.npy", files, {}, None)

    def fail() -> Any:
        raise HeadwaterError("no")

    with pytest.raises(HeadwaterError, match="no"):
        subset_step(plan, fail, RunOptions())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy", "b.npy"]
    assert subset_step(plan, fail, RunOptions(dry_run=True)) is None
