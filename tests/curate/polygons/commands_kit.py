"""Datasets under `source`, which no command may change, and the command line on them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.curate.polygons.photo_kit import GPS, photo, pixels, polygon, sidecar, tree_bytes
from tests.curate.polygons.validate_kit import document
from tests.faults import kit
from tests.faults.kit import Done

Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def sources_stay(tmp_path: Path) -> Iterator[None]:
    """Whatever a test gives to a command lies in `source`; after `keep` it must be the same in the end."""
    (tmp_path / "source").mkdir()
    yield
    assert tree_bytes(tmp_path / "source") == tree_bytes(tmp_path / "source.kept")


def keep(tmp_path: Path) -> Path:
    """From here on the sources may not change."""
    shutil.copytree(tmp_path / "source", tmp_path / "source.kept")
    return tmp_path / "source"


def labelme(tmp_path: Path, count: int = 2, **keys: Any) -> Path:
    """A folder of photos with sidecars: two shapes on every other."""
    folder = tmp_path / "source" / "photos"
    for number in range(count):
        taken = f"2024:05:01 10:2{number}:30"
        photo(folder, f"{number}", 1, pixels(seed=number), taken=taken, zone="+02:00", gps=GPS)
        sidecar(folder, f"{number}", [polygon(), polygon("leaf")] if number % 2 == 0 else [], **keys)
    return folder


def coco(tmp_path: Path, content: dict[str, Any] | None = None, name: str = "set.json") -> Path:
    path = tmp_path / "source" / name
    path.write_text(json.dumps(content or document()))
    return path


def told(done: Any, code: int = 0) -> dict[str, Any]:
    """The JSON document of a command that ended with `code`."""
    assert getattr(done, "code", getattr(done, "returncode", None)) == code, done
    text = done.out if isinstance(done, Done) else done.stdout
    found: dict[str, Any] = json.loads(text)
    return found


def run(*arguments: object) -> Done:
    """The command in this process."""
    return kit.run("polygons", *arguments)


def alone(cli: Cli, *arguments: object) -> Any:
    """The command in a process of its own, with the kernels that this one has compiled."""
    return cli("polygons", *arguments, env={"NUMBA_CACHE_DIR": os.environ["NUMBA_CACHE_DIR"]})
