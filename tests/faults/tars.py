"""`headwater reshard` over small tars: the command line, what came out, and that it closes."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.verify import verify_path
from tests.curate.shard_kit import (
    make_pool,
    subset,
)
from tests.faults import kit

ALL = subset(range(400))


def save(path: Path, wanted: Any = ALL) -> Path:
    np.save(path, wanted)
    return path


def line(folder: Path, output: str = "out", *more: object) -> tuple[object, ...]:
    return ("reshard", folder / "in", "-s", folder / "s.npy", "-o", folder / output, *more)


def reshard(folder: Path, output: str = "out", *more: object) -> kit.Done:
    return kit.run(*line(folder, output, *more))


def members(folder: Path) -> dict[str, bytes]:
    """Every member of the output's tars, in order."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as file:
            for info in file:
                assert info.isreg() and info.name not in found
                assert (info.mode, info.mtime, info.uid, info.gid) == (0o644, 0, 0, 0)
                found[info.name] = file.extractfile(info).read()  # type: ignore[union-attr]
    return found


def uids(folder: Path) -> list[int]:
    """Numbers of the samples in the output, in order."""
    return [int(name.split("-")[0], 16) for name in members(folder) if name.endswith(".json")]


def closes(output: Path) -> Any:
    step = kit.record(output)
    counts = step.identity.counts
    assert counts.read == counts.kept + sum(counts.dropped.values()) + sum(counts.invalid.values())
    sizes = json.loads((output / "sizes.json").read_text())
    assert sum(sizes.values()) == counts.extra["copies_written"] == len(uids(output))
    assert set(sizes) == {path.name for path in output.glob("*.tar")}
    assert not verify_path(output).problems
    return step


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with `in/` (four tars of forty samples) and `s.npy` (some of them, one three times)."""
    make_pool(tmp_path / "in")
    for path in (tmp_path / "in").iterdir():
        kit.age(path)
    save(tmp_path / "s.npy", subset([*range(1, 161, 3), 7, 7, 7, 50]))
    return tmp_path


def one(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    save(tmp_path / "s.npy")
    return tmp_path / "in" / "00000000.tar"
