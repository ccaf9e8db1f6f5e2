"""`headwater polygons import` killed at any point, or on a full disk: nothing half done, and the same line gives the same bytes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.conftest import clean_environment
from tests.curate.polygons.commands_kit import coco, run
from tests.curate.polygons.photo_kit import tree_bytes
from tests.curate.polygons.validate_kit import annotation, document
from tests.faults import inject, kit

KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


def environment(home: Path) -> dict[str, str]:
    """With the kernels that are compiled already."""
    return clean_environment(home, NUMBA_CACHE_DIR=os.environ["NUMBA_CACHE_DIR"])


def dataset(folder: Path) -> Path:
    (folder / "source").mkdir()
    return coco(folder, document(*(annotation(number) for number in range(1, 40))))


def line(source: Path, output: Path) -> list[str]:
    return kit.argv("polygons", "import", source, "-o", output, "--quiet", "--engine", "serial")


def same(mine: Path, theirs: Path) -> None:
    """The same store, by every byte and by the id of its record; nothing left beside it."""
    one, other = ({k: v for k, v in tree_bytes(path).items() if k != "step.json"} for path in (mine, theirs))
    assert one == other and kit.record(mine).id == kit.record(theirs).id
    assert kit.temporaries(mine.parent) == []


def survives(tmp_path: Path, source: Path, whole: Path, call: str, nth: int) -> bool:
    """Kill it there; whether it was killed."""
    output = tmp_path / f"{call}-{nth}"
    argv = line(source, output)
    done = inject.inject(argv, call=call, nth=nth, signal="KILL", env=environment(tmp_path))
    assert done.returncode in (0, *KILLED), done.stderr
    assert run("import", source, "-o", output).code == 0
    same(output, whole)
    return done.returncode in KILLED


@pytest.mark.parametrize(("call", "nth"), [("rename", 3), ("mkdir", 2)])
def test_killed_the_same_line_goes_on(tmp_path: Path, call: str, nth: int) -> None:
    inject.need_strace()
    source, whole = dataset(tmp_path), tmp_path / "whole"
    assert run("import", source, "-o", whole).code == 0
    before = source.read_bytes()
    assert survives(tmp_path, source, whole, call, nth)
    assert source.read_bytes() == before


@pytest.mark.slow
def test_killed_anywhere(tmp_path: Path) -> None:
    inject.need_strace()
    source, whole = dataset(tmp_path), tmp_path / "whole"
    assert run("import", source, "-o", whole).code == 0
    points = inject.sweep(line(source, tmp_path / "probe"), env=environment(tmp_path))
    points = points[:: 1 + len(points) // 16]
    assert sum(survives(tmp_path, source, whole, *point) for point in points) > len(points) // 2


def test_a_full_disk_leaves_nothing(tmp_path: Path, small_disk: Path) -> None:
    source, output = dataset(tmp_path), small_disk / "store"
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as out, pytest.raises(OSError, match="No space"):
        while True:
            out.write(bytes(65536))
    done = run("import", source, "-o", output)
    assert done.code == 1 and "no space left" in done.err, done
    assert kit.names(small_disk) == {"filler"}
    filler.unlink()
    assert run("import", source, "-o", output).code == 0
    assert len(tree_bytes(output)) == 6


def test_a_failing_fsync_is_a_failure(tmp_path: Path) -> None:
    inject.need_strace()
    source, output = dataset(tmp_path), tmp_path / "store"
    done = inject.inject(line(source, output), call="fsync", nth=1, error="EIO", env=environment(tmp_path))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    kit.nothing_at(output)
