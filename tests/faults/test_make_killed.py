"""`headwater make` killed at any point, and started again with the same line."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.conftest import clean_environment
from tests.curate.made_kit import contents
from tests.faults import inject, kit
from tests.faults.make_kit import equal, line, made

KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
ALONE = ("--quiet", "--engine", "serial")


def kill(output: Path, call: str, nth: int, *more: object) -> bool:
    argv = kit.argv(*line(output, *ALONE, *more))
    done = inject.inject(argv, call=call, nth=nth, signal="KILL", env=clean_environment(output.parent))
    assert done.returncode in (0, *KILLED), done.stderr
    return done.returncode in KILLED


def points(output: Path, *more: object, every: int) -> list[tuple[str, int]]:
    argv = kit.argv(*line(output, *ALONE, *more))
    found = inject.sweep(argv, env=clean_environment(output.parent))
    return found[::every]


def test_finished_blocks_are_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inject.need_strace()
    whole = made(tmp_path / "whole")
    assert kit.spawn(*line(tmp_path / "first", *ALONE), home=tmp_path).code == 0  # compiles what is not yet
    argv = kit.argv(*line(tmp_path / "probe", *ALONE))
    nth = inject.nth_on(argv, "rename", "00000002.tar", tmp_path / "log", env=clean_environment(tmp_path))
    assert kill(tmp_path / "out", "rename", nth)
    assert not (tmp_path / "out").exists()
    kept = {path.name for path in (tmp_path / ".out.headwater/parts/blocks").glob("*.json")}
    from curate import _making_block

    drawn, real = [], _making_block._drawn
    monkeypatch.setattr(_making_block, "_drawn", lambda t, how: drawn.append(t.name) or real(t, how))
    assert kit.run(*line(tmp_path / "out"), "--resume").code == 0
    assert len(kept) + len(drawn) == 4 and 0 < len(kept) < 4
    assert kept.isdisjoint(f"{name}.json" for name in drawn)
    equal(tmp_path / "out", whole)


@pytest.mark.slow
@pytest.mark.parametrize("sink", ["recipe", "tar", "folder"])
def test_killed_anywhere_the_same_line_gives_the_same_bytes(tmp_path: Path, sink: str) -> None:
    inject.need_strace()
    whole = made(tmp_path / "whole", sink=sink)
    killed = 0
    for k, (call, nth) in enumerate(points(tmp_path / "probe", "--sink", sink, every=7)):
        output = tmp_path / f"out{k}"
        killed += kill(output, call, nth, "--sink", sink)
        assert kit.run(*line(output, sink=sink)).code == 0
        equal(output, whole)
    assert killed >= 8


@pytest.mark.slow
def test_killed_while_it_grows_the_old_set_stays_or_the_new_one_is_there(tmp_path: Path) -> None:
    inject.need_strace()
    order = ("--order", "class", "--instances", 6)
    small = made(tmp_path / "small", *order, "--classes", 4)
    whole = made(tmp_path / "whole", *order, "--classes", 7)
    grow = (*order, "--classes", 7, "--grow")
    made(tmp_path / "probe", *order, "--classes", 4)
    killed = 0
    for k, (call, nth) in enumerate(points(tmp_path / "probe", *grow, every=9)):
        output = made(tmp_path / f"out{k}", *order, "--classes", 4)
        killed += kill(output, call, nth, *grow)
        if output.exists():
            assert contents(output) in (contents(small), contents(whole))
        assert kit.run(*line(output, *grow)).code == 0
        equal(output, whole)
    assert killed >= 8
