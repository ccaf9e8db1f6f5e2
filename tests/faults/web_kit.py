"""One file behind a server that can be told to misbehave, and a client: for the tests of what web servers can do.

A test module takes the fixtures: `mirror, web = web_kit.mirror, web_kit.web`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from distribute.transports._base import Context, Limits
from distribute.transports._web import Web
from tests.distribute.loopback import Mirror

DATA = bytes(range(256)) * 1000
FAST = Limits(connect_seconds=2, stall_seconds=5, attempts=2, backoff_limit_seconds=0.5)
HASTY = Limits(connect_seconds=1, stall_seconds=0.5, attempts=2, backoff_limit_seconds=0.5)


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    (tmp_path / "data.bin").write_bytes(DATA)
    with Mirror(tmp_path) as server:
        yield server


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with Web(Context(tmp_path, limits=FAST, allow_private=True)) as client:
        yield client


def read(web: Web, url: str, offset: int = 0, length: int | None = None, **more: object) -> bytes:
    return b"".join(web.stream(url, offset=offset, length=length, **more))  # type: ignore[arg-type]
