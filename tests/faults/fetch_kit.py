"""A release behind two mirrors, what is said, and a fetch with short patience: for the tests of what sources can do.

A test module takes the fixtures it wants: `mirror = fetch_kit.mirror`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distribute.fetch import FetchOptions, fetch
from headwater import console
from tests.distribute.loopback import Mirror
from tests.distribute.release_kit import MIB, build_release, sample_files

FILES = sample_files(big=(12 * MIB + 12_345, 9 * MIB))
SIZE = sum(map(len, FILES.values()))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    build_release(folder, FILES)
    return folder


@pytest.fixture
def mirror(release: Path) -> Iterator[Mirror]:
    with Mirror(release) as server:
        yield server


@pytest.fixture
def healthy(release: Path) -> Iterator[Mirror]:
    with Mirror(release) as server:
        yield server


class Said(console.Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, level: str, text: str, fields: dict[str, Any]) -> None:
        self.lines.append(f"{level}: {text}")


@pytest.fixture
def said() -> Iterator[Said]:
    sink = Said()
    console.listen(sink)
    yield sink
    console.listen(console.Silent())


def bring(*locations: object, to: Path, **options: Any) -> dict[str, Any]:
    values = {"allow_private": True, "stall_seconds": 3.0, "patience_seconds": 4.0} | options
    return fetch([str(location) for location in locations], to, FetchOptions(**values))
