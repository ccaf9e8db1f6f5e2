"""`headwater score train` killed with kill -9 and started again: the same bytes, and nothing left over (row 3 of the catalogue)."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from headwater.verify import verify_path
from tests.conftest import clean_environment
from tests.curate import tower_kit
from tests.faults import inject, kit

pytest.importorskip("torch")
pytest.importorskip("open_clip")

pytestmark = pytest.mark.slow
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


def line(folder: Path, model: Path, output: Path) -> list[object]:
    pool, tars, trusted = (folder / name for name in ("pool", "tars", "trusted.npy"))
    options = ["--towers", f"local-dir:{model}", "--held-out", 12, "--epochs", 30, "--folds", 3]
    return ["score", "train", pool, "--shards", tars, "--trusted", trusted, "-o", output, *options]


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "step.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A model, and what a run that nothing disturbed writes."""
    folder = tmp_path_factory.mktemp("whole")
    tower_kit.small_world(folder)
    model = tower_kit.clip_folder(folder / "model")
    done = kit.run(*line(folder, model, folder / "scorer"))
    assert done.code == 0, done.said
    return model, content(folder / "scorer")


def finish(folder: Path, model: Path, wanted: dict[str, bytes]) -> None:
    output = folder / "scorer"
    assert not (output / "step.json").exists() or not verify_path(output).problems
    done = kit.run(*line(folder, model, output))
    assert done.code == 0, done.said
    assert content(output) == wanted
    assert not verify_path(output).problems
    assert kit.temporaries(folder) == []


def test_row_03_killed_at_every_commit(tmp_path: Path, whole: tuple[Path, dict[str, bytes]]) -> None:
    inject.need_strace()
    model, wanted = whole
    env = clean_environment(tmp_path)
    counted = tmp_path / "counted"
    tower_kit.small_world(counted)
    argv = kit.argv(*line(counted, model, counted / "scorer"))
    total = inject.count(argv, calls=["rename"], env=env)["rename"]
    killed = 0
    for nth in sorted({1 + step * (total - 1) // 3 for step in range(4)}):
        folder = tmp_path / f"rename-{nth}"
        tower_kit.small_world(folder)
        argv = kit.argv(*line(folder, model, folder / "scorer"))
        done = inject.inject(argv, call="rename", nth=nth, signal="KILL", env=env)
        assert done.returncode in (0, *KILLED), done.stderr
        killed += done.returncode != 0
        finish(folder, model, wanted)
    assert killed >= 2


def test_row_03_killed_while_the_folds_are_fitted(
    tmp_path: Path, whole: tuple[Path, dict[str, bytes]]
) -> None:
    model, wanted = whole
    tower_kit.small_world(tmp_path)
    output = tmp_path / "scorer"
    argv = kit.argv(*line(tmp_path, model, output), "--epochs", 100_000)
    kept = tmp_path / "pool" / ".headwater" / "towers"
    process = subprocess.Popen(
        argv, env=clean_environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 60
        while len(list(kept.rglob("*.npz"))) < 2:  # all pictures are encoded: what follows is the fit
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.5)
        assert process.poll() is None  # 100,000 epochs are not over
    finally:
        process.kill()
        process.wait()
    assert not output.exists()
    finish(tmp_path, model, wanted)
