"""`headwater reshard` killed and started again (row 3 of the catalogue)."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import clean_environment
from tests.curate.shard_kit import (
    content,
)
from tests.faults import inject, kit
from tests.faults.tars import closes, here, line, reshard

__all__ = ["here"]
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


# row 3


def kill(here: Path, name: str, call: str, nth: int, *more: object) -> tuple[int, set[str]]:
    """Kill a run that writes `name`: its exit code, and the tars it had finished."""
    argv = kit.argv(*line(here, name, "--shard-size", 10, "--quiet", *more), spread=True)
    done = inject.inject(argv, call=call, nth=nth, signal="KILL", env=clean_environment(here))
    assert done.returncode in (0, 1, *KILLED), done.stderr
    staged = here / f".{name}.headwater" / "parts" / "out"
    return done.returncode, {path.name for path in staged.glob("*.tar")}


def finish(here: Path, name: str, whole: Path) -> None:
    again = kit.run(*line(here, name, "--shard-size", 10))
    assert again.code == 0, again
    mine, theirs = content(here / name), content(whole)
    assert mine.pop("step.json") and theirs.pop("step.json")
    assert mine == theirs
    assert closes(here / name).id == kit.record(whole).id
    assert kit.temporaries(here) == []


@pytest.fixture
def whole(here: Path) -> Path:
    done = reshard(here, "whole", "--shard-size", 10)
    assert done.code == 0, done
    assert len(list((here / "whole").glob("*.tar"))) == 6
    return here / "whole"


def test_row_03_killed_between_tar_and_record(here: Path, whole: Path) -> None:
    inject.need_strace()
    env = clean_environment(here)
    argv = kit.argv(*line(here, "count", "--shard-size", 10, "--quiet", "--engine", "serial"), spread=True)
    total = inject.count(argv, calls=["rename"], env=env)["rename"]
    killed = 0
    for number in range(7):
        nth = total - number * (total - 2) // 8
        code, _ = kill(here, f"out{number}", "rename", nth, "--engine", "serial")
        killed += code in KILLED
        finish(here, f"out{number}", whole)
    assert killed >= 6


def test_row_03_finished_tars_are_not_written_again(
    here: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject.need_strace()
    # the rename that gives the fourth tar its name
    argv = kit.argv(*line(here, "out", "--shard-size", 10, "--quiet", "--engine", "serial"), spread=True)
    nth = inject.nth_on(argv, "rename", "00000003.tar", here / "log", env=clean_environment(here))
    shutil.rmtree(here / "out")
    _, tars = kill(here, "out", "rename", nth, "--engine", "serial")
    assert tars == {f"{n:08d}.tar" for n in range(3)}
    from curate import _tarwrite

    real = _tarwrite._copy_segment

    def noting(names: list[str]) -> Any:
        def copy(segment: Any, fd: int) -> Any:
            names.append(segment.tar_name)
            return real(segment, fd)

        return copy

    written: list[str] = []
    monkeypatch.setattr(_tarwrite, "_copy_segment", noting(written))
    finish(here, "out", whole)
    assert written, "the probe saw nothing"
    all_written: list[str] = []
    monkeypatch.setattr(_tarwrite, "_copy_segment", noting(all_written))
    assert reshard(here, "fresh", "--shard-size", 10).code == 0
    assert len(written) <= len(all_written) * 4 / 6


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("engine", [("serial",), ("pool", "--workers", 2)], ids=["serial", "pool"])
def test_row_03_killed_at_every_call(engine: tuple[object, ...], here: Path, whole: Path) -> None:
    inject.need_strace()
    argv = kit.argv(*line(here, "count", "--shard-size", 10, "--quiet", "--engine", "serial"), spread=True)
    killed = 0
    for number, (call, nth) in enumerate(inject.sweep(argv, env=clean_environment(here))):
        code, _ = kill(here, f"out{number}", call, nth, "--engine", *engine)
        killed += code != 0
        finish(here, f"out{number}", whole)
        shutil.rmtree(here / f"out{number}")
    assert killed >= 60
