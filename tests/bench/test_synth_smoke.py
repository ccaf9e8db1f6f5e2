"""The synth bench runs and its findings have their form; what it measures is never judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.bench
@pytest.mark.timeout(300)
def test_a_short_run_writes_its_findings(tmp_path: Path) -> None:
    out = tmp_path / "synth.json"
    command = [
        sys.executable,
        "-m",
        "tests.bench.synth",
        "--pairs",
        "1",
        "--classes",
        "2",
        "--output",
        str(out),
    ]
    command += ["--only", "pictures,forms", "--peers", ""]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=dict(os.environ, OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert set(found) == {"pictures", "forms"}
    pictures = found["pictures"]
    assert pictures["classes"] == 2
    assert set(pictures["ms"]) == {"plain", *pictures["times_plain"]}
    assert all(value > 0 for value in pictures["ms"].values())
    assert found["forms"]["ours"]["bytes"] < found["forms"]["Pillow, RGB 6"]["bytes"]
    assert "at 60,300" in done.stdout
