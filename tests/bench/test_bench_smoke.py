"""The benchmark runs and its findings have their form; what it measures is never judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def peers_python() -> Path:
    return ROOT / os.environ.get("HEADWATER_BENCH_PEERS", ".venv-bench/bin/python")


@pytest.mark.slow
@pytest.mark.bench
@pytest.mark.timeout(600)
def test_quick_run_compares_answers_and_writes_its_findings(tmp_path: Path) -> None:
    if not peers_python().is_file():
        pytest.skip(f"{peers_python()} is missing: make bench makes it")
    command = [sys.executable, str(HERE / "run.py"), "--quick", "--pairs", "1", "--only", "help,subset"]
    command += [
        "--keep",
        str(tmp_path / "pools"),
        "--out",
        str(tmp_path / "out"),
        "--peers",
        str(peers_python()),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert found["format"] == "bench/1"
    # the commands of both sides gave the same uids, or the run would have ended
    assert found["answers"]["all uids, 250,000 rows"][0] == 250_000
    assert found["answers"]["all uids, 1,000,000 rows"][0] == 1_000_000
    compared = {row["task"] for row in found["comparisons"]}
    assert compared == {"subset file, 500,000 uids in memory", "subset file, whole command"}
    for row in found["comparisons"]:
        assert len(row["ratios"]) == 1
        assert all(seconds > 0 for side in ("ours", "theirs") for seconds in row[side]["cpu_seconds_large"])
    assert {figure["name"] for figure in found["figures"]} == {
        "headwater --help",
        "input digests, once, 1,000,000 rows",
    }
    assert "| subset file, whole command" in (tmp_path / "out" / "bench.md").read_text()
    assert "headwater filter-pool" in done.stdout


def test_findings_tell_pass_from_fail() -> None:
    script = """
from measure import Series, ratio, ratios
from report import Figure, Findings, Memory, Row
rows = (1_000_000, 4_000_000)
ours = Series(rows, [0.5, 0.5, 0.5], [0.8, 0.8, 1.1])
peer = Series(rows, [0.3, 0.3, 0.3], [0.6, 0.9, 0.9])
assert [round(r, 6) for r in ratios(ours, peer)] == [1.0, 2.0, 1.0]
assert round(ours.start_up, 6) == 0.4 and round(peer.start_up, 6) == 0.1
assert round(ratio(ours, peer), 6) == 2.0  # medians: 0.6 s and 0.3 s for the rows between
assert Row("t", ours, "p", peer, 1.9).verdict == "PASS" and Row("t", ours, "p", peer, 2.1).verdict == "FAIL"
assert Row("t", ours, "p", peer).verdict == ""
assert Figure("f", 0.31, "s", 0.3).verdict == "FAIL" and Figure("f", 0.3, "s", 0.3).verdict == "PASS"
assert Memory("t", 1, "e", 513 << 20, 0, 1.0).verdict == "FAIL"
assert Memory("t", 1, "e", 512 << 20, 600 << 20, 1.0).verdict == "PASS"
text = Findings({"cores": 2}, [Row("task one", ours, "peer one", peer, 2.1)]).markdown()
assert "| task one | peer one |" in text and "FAIL" in text
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=HERE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_command_is_charged_with_the_workers_it_leaves_behind() -> None:
    script = """
import os, sys
from measure import become_reaper, run
become_reaper()
spin = "import time\\nwhile time.process_time() < 0.5: pass"
orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {spin!r}])"
usage = run([sys.executable, "-c", orphan], dict(os.environ), sample=True)
assert usage.cpu_seconds >= 0.5, usage
big = "x = bytearray(200 << 20)"
assert run([sys.executable, "-c", big], dict(os.environ)).peak_bytes > 200 << 20
try:
    run([sys.executable, "-c", "raise SystemExit('no such thing')"], dict(os.environ))
except SystemExit as error:
    assert "no such thing" in str(error)
else:
    raise AssertionError("a failure must end the benchmark")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=HERE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
