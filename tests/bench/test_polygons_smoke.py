"""The polygon bench runs and its findings have their form; what it measures is never judged here."""

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
    out = tmp_path / "polygons.json"
    command = [sys.executable, "-m", "tests.bench.polygons", "--pairs", "1", "--polygons", "50"]
    command += ["--loaded", "100", "--megapixels", "3", "--peers", "", "--output", str(out)]
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
    assert set(found) == {"load_average", "load", "checks", "pixels", "raster"}
    assert set(found["load"]) == {"whole", "hundredths"}
    for one in found["load"].values():
        assert one["annotations"] == 100 and one["ours"]["peak_bytes"] > 0
    checks = found["checks"]
    assert checks["validate"]["ours, strict"]["found"] == 0  # polygons that were made to be sound
    assert checks["read"]["ours, JSON"]["found"] == checks["read"]["ours, store"]["found"] == 50
    assert set(found["pixels"]) == {"3 dense", "3 sparse"}
    sparse = found["pixels"]["3 sparse"]
    assert sparse["ours, bins"]["found"] == pytest.approx(sparse["ours, exact"]["found"], abs=1e-12)
    areas = {name: side["found"] for name, side in found["raster"]["sides"].items()}
    for rule in ("coco", "opencv", "kwimage", "centre"):
        assert areas[f"ours, {rule}"] == areas[f"ours, {rule}, areas only"]
    assert found["raster"]["squares"]["coco"] == [16, 64, 256, 1024, 4096]
