"""The two benches of the training run and their findings have their form; no cost is ever judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def peers_python() -> Path:
    return ROOT / os.environ.get("HEADWATER_BENCH_TRAIN_PEERS", ".venv-bench-train/bin/python")


def found(script: str, tmp_path: Path, *words: str) -> tuple[dict[str, Any], str]:
    """What a bench wrote, as JSON and as Markdown; it must end with 0."""
    command = [sys.executable, str(HERE / f"train_{script}.py"), "--quick", *words]
    command += ["--keep", str(tmp_path / "keep"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told = (tmp_path / "out" / f"{script}.md").read_text()
    assert told.strip() == done.stdout.strip()
    return json.loads((tmp_path / "out" / f"{script}.json").read_text()), told


@pytest.mark.slow
@pytest.mark.bench
@pytest.mark.timeout(900)
def test_clip_benchmark_says_what_we_say(tmp_path: Path) -> None:
    if not peers_python().is_file():
        pytest.skip(f"{peers_python()} is missing: make bench-train makes it")
    document, told = found("agreement", tmp_path, "--peers", str(peers_python()))
    assert document["format"] == "agreement/1" and document["equal"] is True
    lines = document["lines"]
    assert {line["task"] for line in lines} == {"clipart/folders", "clipart/titles", "clipart/folders-probe"}
    assert len(lines) == 3 + 6 + 3
    for line in lines:
        assert 0 <= line["theirs"] <= 1 and line["equal"]
        assert f"| {line['task']} " in told
    # a model that says the same of every picture would agree with anything
    assert any(line["metric"] == "acc1" and line["ours"] > 1 / 14 for line in lines)


@pytest.mark.slow
@pytest.mark.bench
@pytest.mark.timeout(900)
def test_both_sides_train_alike_and_are_charged(tmp_path: Path) -> None:
    document, told = found("overhead", tmp_path, "--only", "nano", "--pairs", "1")
    assert document["format"] == "overhead/1" and document["pairs"] == 1
    (nano,) = document["variants"]
    assert nano["variant"] == "nano" and nano["samples"] == [512, 1024]
    assert nano["parts_and_steps"] == [2, 4]  # both took them, or the run would have ended
    for who in ("ours", "plain"):
        assert all(seconds > 0 for seconds in nano["series"][who]["cpu_seconds_large"])
    assert len(nano["command_cpu_seconds"]) == 1
    alone = nano["alone_seconds_a_sample"]
    assert set(alone) == {"ours", "plain", "watching"} and all(value > 0 for (value,) in alone.values())
    for who in ("ours", "plain"):
        for samples in ("512", "1024"):
            (spent,) = nano["spent"][who][samples]
            assert spent["loop"] > 0 and spent["loader"] > 0
    assert "| nano: a sample" in told and "| nano: whole command, 1,024 samples" in told


def test_four_digits_decide() -> None:
    check = """
from train_agreement import Line, Task, lines_of, main
assert Line("t", "acc1", 0.2278, 0.22784).equal and not Line("t", "acc1", 0.2278, 0.2279).equal
assert Line("t", "acc5", None, None).equal and not Line("t", "acc5", None, 0.5).equal
nan = float("nan")
task = Task("t", "t", "probe")
mine = {"t": {"acc1": 0.5, "acc5": None, "mean_per_class_recall": 0.4}}
theirs = {"t": {"lp_acc1": 0.5, "lp_acc5": nan, "lp_mean_per_class_recall": 0.4025}}
lines = list(lines_of([task], mine, theirs))
assert [line.equal for line in lines] == [True, True, False]
assert lines[2].cells()[-1] == "FAIL" and lines[1].cells()[2:4] == ["none", "none"]
"""
    _runs(check)


def test_overhead_tells_pass_from_fail() -> None:
    check = """
from measure import Series
from train_overhead import rows_of
def figures(factor):
    plain, mine = Series((100, 200), [1.0], [2.0]), Series((100, 200), [1.0 * factor], [2.0 * factor])
    parts = {"plain": {"loop": 0.008, "loader": 0.002}, "ours": {"loop": 0.008 * factor, "loader": 0.002 * factor}}
    over = factor - 1
    return {
        "variant": "v", "samples": (100, 200), "target": 0.02, "seconds_a_sample": parts, "slope_overhead": over,
        "process_overhead": over, "process_overheads": [over], "command_cpu_seconds": [9.0], "alone_overhead": over,
        "alone_seconds_a_sample": {"ours": [0.001], "plain": [0.002], "watching": [0.00025]},
        "loader_share": {"ours": 0.2, "plain": 0.2},
        "series": {who: one.document() for who, one in {"ours": mine, "plain": plain}.items()},
    }
assert [line[-1] for line in rows_of(figures(1.01)) if line[-1]] == ["PASS"] * 3
assert [line[-1] for line in rows_of(figures(1.03)) if line[-1]] == ["FAIL"] * 3
lines = {line[0]: line[1:4] for line in rows_of(figures(1.03))}
assert lines["v: a sample"] == ["10.300 ms", "10.000 ms", "+3.0%"]
assert lines["v: the loader alone, a sample"] == ["1.000 ms", "2.000 ms", "-50.0%"]
assert lines["v: our hooks alone, a sample"][2] == "+2.5%"
assert lines["v: whole command, 200 samples"] == ["9.00 s", "2.00 s", "+350.0%"]
"""
    _runs(check)


def _runs(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=HERE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
