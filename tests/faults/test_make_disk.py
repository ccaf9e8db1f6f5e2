"""`headwater make` on disks that are full or fail, and with outputs that somebody else holds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from headwater.files import locked
from tests.conftest import clean_environment
from tests.faults import inject, kit
from tests.faults.make_kit import DOTS, equal, line, made


@pytest.mark.parametrize("sink", ["tar", "folder", "parquet"])
def test_a_full_disk_ends_it_and_the_same_line_goes_on(small_disk: Path, tmp_path: Path, sink: str) -> None:
    whole = made(tmp_path / "whole", sink=sink)
    output = small_disk / "out"
    room = 60_000 if sink == "tar" else 40_000  # enough for what is modelled, too little for what is written
    size = shutil.disk_usage(small_disk).free - room
    (small_disk / "ballast").write_bytes(bytes(size))
    done = kit.run(*line(output, "--classes", 4, sink=sink))
    assert (
        done.code == 1 and "no space left on the device" in done.err and "run the same line again" in done.err
    )
    assert not output.exists()
    (small_disk / "ballast").unlink()
    assert kit.run(*line(output, sink=sink)).code == 0
    equal(output, whole)


@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EDQUOT"])
def test_a_failing_fsync_is_a_failure(tmp_path: Path, error: str) -> None:
    inject.need_strace()
    argv = kit.argv(*line(tmp_path / "out", "--quiet", "--engine", "serial", sink="recipe"))
    done = inject.inject(argv, call="fsync", nth=3, error=error, env=clean_environment(tmp_path))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    made(tmp_path / "whole", sink="recipe")
    made(tmp_path / "out", sink="recipe")
    equal(tmp_path / "out", tmp_path / "whole")


def test_a_folder_that_is_not_there_and_one_that_is_locked(tmp_path: Path) -> None:
    done = kit.run(*line(tmp_path / "no/out"))
    assert done.code == 10 and "mkdir -p" in done.err
    private = tmp_path / ".out.headwater"
    with locked(private, tmp_path / "out"):
        done = kit.run(*line(tmp_path / "out"))
    assert done.code == 11 and "another process" in done.err


def test_a_generator_that_changes_while_it_draws(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_bytes(DOTS.read_bytes())
    done = kit.run("make", mine, "-o", tmp_path / "out", "--no-sheet")
    assert done.code == 0, done
    mine.write_text(DOTS.read_text().replace("3 + index", "4 + index"))
    done = kit.run("make", mine, "-o", tmp_path / "out", "--no-sheet")
    assert done.code == 2 and "--generator is mine-" in done.err


def test_what_a_dry_run_leaves_is_nothing(tmp_path: Path) -> None:
    done = kit.run(*line(tmp_path / "out", "--dry-run", "--json"))
    assert done.code == 0 and '"cpu_seconds"' in done.out
    assert list(tmp_path.iterdir()) == []
