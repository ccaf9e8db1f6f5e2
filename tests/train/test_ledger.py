"""The ledger: parts written and read back, sums against a plain count, and every way a file can be wrong."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import HeadwaterError, IntegrityError, MissingInput
from tests.train.ledger_kit import BATCH, SHARDS, account, total
from train.ledger import (
    MAX_SKIPPED_LISTED,
    SKIP_REASONS,
    Ledger,
    RepeatBin,
    ShardInfo,
    chance_loss,
    merge,
    part_name,
    read_part,
    write_curve,
    write_part,
    write_seen,
)


def with_losses(folder: Path, losses: list[float]) -> Ledger:
    steps = len(losses)
    one = account(
        shard=np.zeros(steps * BATCH, np.int32),
        sample=np.zeros(steps * BATCH, np.int32),
        step=np.arange(1, steps + 1),
        **{name: np.array(losses, np.float32) for name in ("loss", "lr", "logit_scale")},
    )
    write_part(folder, one)
    return total(folder)


def test_a_part_comes_back_as_it_was(tmp_path: Path) -> None:
    one = account(
        part=2, rank=1, world=3,
        loss=np.array([np.nan, np.inf], np.float32),
        skipped_reason=np.array([0, 6], np.int16),
        skipped_count=np.array([5, 1 << 40], np.int64),
        skipped_shard=np.array([0], np.int32),
        skipped_sample=np.array([-1], np.int32),
        skipped_code=np.array([5], np.int16),
    )  # fmt: skip
    path = write_part(tmp_path, one)
    assert [p.name for p in tmp_path.iterdir()] == ["part_002_rank_001.npz"] == [path.name]
    back = read_part(path)
    for name in one.__dataclass_fields__:
        given_, found = getattr(one, name), getattr(back, name)
        if isinstance(given_, np.ndarray):
            assert found.dtype == given_.dtype, name
            np.testing.assert_array_equal(found, given_, err_msg=name)
        else:
            assert (found, type(found)) == (given_, type(given_)), name
    with np.load(path) as numpy_reads_it_too:
        assert (
            str(numpy_reads_it_too["run_key"]) == "run" and int(numpy_reads_it_too["samples"]) == back.samples
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"sample": np.zeros(3, np.int32)},
        {"loss": np.zeros(1, np.float32)},
        {"step": np.array([2, 2])},
        {"step": np.array([0, 1])},
        {"shard": np.full(2 * BATCH, 1 << 31, np.int64)},
        {"sample": np.zeros(2 * BATCH, np.float64)},
        {"skipped_reason": np.array([len(SKIP_REASONS)]), "skipped_count": np.array([1])},
        {"skipped_reason": np.array([0]), "skipped_count": np.array([-1])},
        {"rank": 1},
        {"part": 0},
        {"wait_seconds": math.nan},
        {"cpu_seconds": -1.0},
        {"run_key": ""},
        {
            "skipped_shard": np.zeros(MAX_SKIPPED_LISTED + 1, np.int32),
            "skipped_sample": np.zeros(MAX_SKIPPED_LISTED + 1, np.int32),
            "skipped_code": np.zeros(MAX_SKIPPED_LISTED + 1, np.int16),
        },
    ],
)
def test_what_contradicts_itself_is_not_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(HeadwaterError, match="ledger"):
        write_part(tmp_path, account(**changes))
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**32),
    parts=st.integers(1, 4),
    world=st.integers(1, 3),
    kind=st.sampled_from(["few", "many"]),
)
def test_sums_are_those_of_a_plain_count(
    tmp_path_factory: pytest.TempPathFactory, seed: int, parts: int, world: int, kind: str
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    random = np.random.default_rng(seed)
    sizes = [int(n) for n in random.integers(0, 6 if kind == "few" else 40, 5)] + [1]
    shards = [ShardInfo(f"{n:08d}.tar", size) for n, size in enumerate(sizes)]
    batch = 6 * world
    plain: Counter[tuple[int, int]] = Counter()
    skips: Counter[str] = Counter()
    bad: set[tuple[int, int]] = set()
    full = [n for n, size in enumerate(sizes) if size]
    for part in range(1, parts + 1):
        for rank in range(world):
            shard = random.choice(full, 12)
            sample = np.array([random.integers(0, sizes[n]) for n in shard])
            plain.update(zip(shard.tolist(), sample.tolist(), strict=True))
            code, where = int(random.integers(0, len(SKIP_REASONS))), int(random.choice(full))
            ordinal = int(random.integers(-1, sizes[where]))
            skips[SKIP_REASONS[code]] += 1
            bad |= {(where, ordinal)} if ordinal >= 0 else set()
            more = {"skipped_reason": [code], "skipped_count": [1], "skipped_shard": [where]}
            listed = {"skipped_sample": [ordinal], "skipped_code": [code]}
            values = {name: np.array(value, np.int64) for name, value in {**more, **listed}.items()}
            write_part(folder, account(part, rank, world, shard=shard, sample=sample, **values))
    found = merge(folder, parts=parts, world=world, shards=shards, global_batch=batch)
    assert (found.samples_seen, found.steps) == (plain.total(), 2 * parts) == (12 * parts * world, 2 * parts)
    assert (found.unique_samples, found.max_times) == (len(plain), max(plain.values()))
    unread = {place for place in bad if place not in plain}
    assert found.readable_samples == sum(sizes) - len(unread)
    assert sum(one.samples for one in found.repeats) == found.readable_samples
    times = Counter(plain.values()) + Counter({0: found.readable_samples - len(plain)})
    for one in found.repeats:
        assert one.samples == sum(n for t, n in times.items() if one.low <= t <= one.high)
    assert found.repeats[-1].low <= found.max_times <= found.repeats[-1].high
    assert {name: count for name, count in found.skipped.items() if count} == dict(skips)
    assert list(found.skipped) == list(SKIP_REASONS) and found.examples_complete
    assert write_seen(folder / "seen.parquet", found) == found.readable_samples
    table = pq.read_table(folder / "seen.parquet")
    got = {(row["shard"], row["sample"]): row["times_seen"] for row in table.to_pylist()}
    every = {(n, s) for n, size in enumerate(sizes) for s in range(size)} - unread
    assert got == {(shards[n].name, s): plain[n, s] for n, s in every} and table.num_rows == len(every)


def test_curve_timing_and_tables(tmp_path: Path) -> None:
    for part in (1, 2):
        for rank in (0, 1):
            write_part(tmp_path, account(part, rank, 2, part_seconds=2.0 + rank))
    found = total(tmp_path, parts=2, world=2, run_key="run")
    assert found.curve.step.tolist() == [1, 2, 3, 4] and found.curve.samples.tolist() == [4, 8, 12, 16]
    np.testing.assert_allclose(found.curve.loss, [2.0, 1.5, 2.0, 1.5])
    assert found.checkpoints == (8, 16) and found.epochs == 16 / 7
    timing = found.timing
    assert (timing.wait_share, timing.cpu_share, timing.seconds) == (2.0 / 10.0, 0.25, 6.0)
    assert timing.samples_per_second == 16 / 6 and [p.samples_per_second for p in timing.parts] == [
        8 / 3,
        8 / 3,
    ]
    write_curve(tmp_path / "curve.parquet", found)
    curve = pq.read_table(tmp_path / "curve.parquet")
    assert {f.name: str(f.type) for f in curve.schema} == {
        "step": "int32", "samples": "int64", "loss": "float", "lr": "float", "logit_scale": "float"
    }  # fmt: skip
    assert curve["samples"].to_pylist() == [4, 8, 12, 16]
    write_seen(tmp_path / "seen.parquet", found)
    seen = pq.read_table(tmp_path / "seen.parquet")
    assert {f.name: str(f.type) for f in seen.schema} == {
        "shard": "string", "sample": "int32", "key": "string", "times_seen": "int32"
    }  # fmt: skip
    assert seen["key"].to_pylist() == list("abcdefg") and sum(seen["times_seen"].to_pylist()) == 16


def test_skipped_samples_have_names_and_are_not_readable(tmp_path: Path) -> None:
    listed = {
        "skipped_reason": np.array([3, 5]), "skipped_count": np.array([7, 1]),
        "skipped_shard": np.array([1, 1, 0, 0]), "skipped_sample": np.array([2, 2, -1, 0]), "skipped_code": np.array([3, 3, 5, 3]),
    }  # fmt: skip
    write_part(tmp_path, account(sample=np.zeros(8, np.int32), **listed))
    found = total(tmp_path, shards=[replace(SHARDS[0], unreadable=[3]), SHARDS[1]])
    assert [(e.shard[-5], e.sample, e.key, e.reason) for e in found.examples] == [
        ("1", 2, "g", "undecodable"),
        ("0", 0, "a", "undecodable"),
        ("0", None, None, "damaged_tar"),
    ]
    assert not found.examples_complete  # eight happened, four are listed
    assert (found.unique_samples, found.readable_samples) == (
        2,
        5,
    )  # a was seen after all; d and g are not readable
    write_seen(tmp_path / "seen.parquet", found)
    assert pq.read_table(tmp_path / "seen.parquet")["key"].to_pylist() == list("abcef")


def test_keys_that_do_not_fit_are_told(tmp_path: Path) -> None:
    write_part(tmp_path, account())
    found = total(tmp_path, shards=[ShardInfo("x.tar", 4, ["a"]), SHARDS[1]])
    with pytest.raises(IntegrityError, match=r"x\.tar: 1 keys for 4 samples"):
        write_seen(tmp_path / "seen.parquet", found)
    assert not (tmp_path / "seen.parquet").exists()


def test_bins_of_many_repeats(tmp_path: Path) -> None:
    write_part(
        tmp_path,
        account(
            shard=np.zeros(60, np.int32), sample=np.array([0] * 45 + [1] * 14 + [2]), step=np.array([1, 2])
        ),
    )
    found = total(tmp_path, global_batch=30)
    assert found.repeats[:2] == (RepeatBin(0, 0, 4), RepeatBin(1, 1, 1))
    assert found.repeats[-2:] == (RepeatBin(11, 20, 1), RepeatBin(21, 50, 1))
    assert [one.label for one in found.repeats[-2:]] == ["11–20", "21–50"]


def test_later_parts_of_a_killed_attempt_are_ignored(tmp_path: Path) -> None:
    write_part(tmp_path, account(1))
    whole = total(tmp_path)
    write_part(tmp_path, account(2, run_key="other"))
    (tmp_path / part_name(3, 0)).write_bytes(b"torn")
    (tmp_path / ".part_002_rank_001.npz.tmp-99").write_bytes(b"left behind")
    again = total(tmp_path, run_key="run")
    assert (again.samples_seen, again.checkpoints, again.run_key) == (whole.samples_seen, (8,), "run")


def test_ranks_must_agree_on_steps(tmp_path: Path) -> None:
    write_part(tmp_path, account(1, 0, 2))
    write_part(tmp_path, account(1, 1, 2, step=np.array([1, 3])))
    with pytest.raises(IntegrityError, match="part_001_rank_001"):
        total(tmp_path, world=2)


def test_no_folder_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        total(tmp_path / "none")
    with pytest.raises(MissingInput):
        read_part(tmp_path / part_name(1, 0))


def test_chance_is_the_least_loss_without_knowledge() -> None:
    assert chance_loss("softmax", 4096) == pytest.approx(8.3178, abs=1e-4)
    for batch in (2, 7, 128):
        # one logit for all pairs, tried out: the least sum over pairs, per picture
        logits = np.linspace(-12, 12, 24_001)
        sums = batch * np.logaddexp(0, -logits) + batch * (batch - 1) * np.logaddexp(0, logits)
        assert chance_loss("sigmoid", batch) == pytest.approx(float(sums.min()) / batch, abs=1e-5)
    assert chance_loss("sigmoid", 32_768) == pytest.approx(math.log(32_768) + 1, abs=1e-4)
    assert chance_loss("sigmoid", 1) == chance_loss("softmax", 1) == 0.0
    with pytest.raises(ValueError, match="hinge"):
        chance_loss("hinge", 8)


@pytest.mark.parametrize(
    ("losses", "verdict", "broken"),
    [
        ([4.8] * 20 + [3.0] * 10, "learning", 0),
        ([4.82] * 30, "at chance", 0),
        ([3.0] * 27 + [4.82, 9.0, 4.83], "at chance", 0),
        ([4.8] * 27 + [6.0] * 3, "worse than chance", 0),
        ([4.8] * 29 + [math.nan], "diverged", 1),
        ([4.8] * 20 + [math.inf] * 10, "diverged", 10),
        ([math.nan] + [3.0] * 29, "learning", 1),
        ([3.0], "learning", 0),
    ],
)
def test_verdicts(tmp_path: Path, losses: list[float], verdict: str, broken: int) -> None:
    found = with_losses(tmp_path, losses)
    assert (found.verdict(chance_loss("softmax", 128)), found.non_finite_steps) == (verdict, broken)


def test_the_training_process_imports_no_tables() -> None:
    code = "import sys, train.ledger; print([m for m in ('pyarrow', 'pandas', 'torch', 'pydantic', 'duckdb') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
