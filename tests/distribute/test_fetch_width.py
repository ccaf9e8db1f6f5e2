"""How many connections fetch small files at once: more to a far server, no more to a near, a full or a busy one."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distribute.fetch import FetchOptions, fetch
from distribute.fetching.width import AGAIN_SECONDS, FIRST, Width
from tests.distribute.loopback import Handler, Mirror
from tests.distribute.release_kit import MIB, build_release, same

LIMIT = 16
LATE_SECONDS = 0.03
SMALL = {f"s/{n:03}.bin": random.Random(n).randbytes(500 + 7 * n) for n in range(120)}


def run(
    width: Width, answer: Callable[[int], tuple[float, float]], *, count: int = 2000, size: int = 30_000
) -> list[int]:
    """Let `count` answers come, each as long as `answer` says for the width of the moment; the widths it went through."""
    now, seen = 100.0, [width.now]
    for left in range(count, 0, -1):
        seconds, waited = answer(width.now)
        now += seconds / width.now
        width.answered(size, seconds, waited, now, left)
        if width.now != seen[-1]:
            seen.append(width.now)
    return seen


def far(width: int) -> tuple[float, float]:
    return 0.052, 0.050


def test_a_far_server_is_asked_by_more_up_to_the_limit() -> None:
    assert run(Width(LIMIT), far) == [4, 8, 16]
    assert run(Width(6), far) == [4, 6]
    assert run(Width(3), far) == [3]


def test_what_waits_for_something_else_is_left_as_it_is() -> None:
    near = run(Width(LIMIT), lambda width: (0.004, 0.003))
    mixed = iter(range(10**6))
    threads = run(Width(LIMIT), lambda width: (0.06, 0.05 if next(mixed) % 2 else 0.001))
    bodies = run(Width(LIMIT), lambda width: (0.5, 0.05))
    fast = run(Width(LIMIT), lambda width: (0.06, 0.05), size=800_000)
    few = run(Width(LIMIT), far, count=15)
    assert near == threads == bodies == fast == few == [FIRST]


def test_a_growth_that_brings_nothing_is_taken_back_and_tried_again_later() -> None:
    full = run(Width(LIMIT), lambda width: (0.02 * width, 0.018 * width), count=1000)
    assert full[:3] == [4, 8, 4]
    assert len(full) <= 3 + 2 * (1000 * 0.02 // AGAIN_SECONDS)
    # eight are twice as good, sixteen are not
    assert run(Width(LIMIT), lambda width: (0.05 * max(width / 8, 1), 0.04), count=500)[:4] == [4, 8, 16, 8]


def test_larger_files_in_between_are_not_taken_for_a_growth_in_vain() -> None:
    width = Width(LIMIT)
    now = 0.0
    for number in range(400):
        large = width.now > FIRST
        now += 0.1
        width.answered(
            900_000 if large else 3_000, 0.11 if large else 0.05, 0.1 if large else 0.045, now, 1000 - number
        )
    assert width.now > FIRST


def test_a_failure_takes_back_the_last_growth_for_good() -> None:
    width = Width(LIMIT)
    width.failed(50.0)
    assert width.now == FIRST  # nothing to take back
    assert run(width, far) == [4, 8, 16]
    for moment in (1000.0, 1000.1, 1000.5):  # all its connections tell of it
        width.failed(moment)
    assert width.now == 8
    assert run(width, far) == [8]
    width.failed(2000.0)
    assert width.now == 4
    assert run(width, far) == [4]


class Crowd:
    """Answers late, and counts how many requests about files are in its hands at once."""

    def __init__(self, bears: int = 10**9) -> None:
        self.lock, self.here, self.most, self.bears, self.refused = threading.Lock(), 0, 0, bears, 0

    def __call__(self, handler: Handler, file: Path) -> None:
        if file.parent.name != "s":
            handler.file(file)
            return
        # head and body go out in two writes: else the second waits for an acknowledgement
        handler.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.lock:
            self.here += 1
            self.most = max(self.most, self.here)
            busy = self.here > self.bears
            self.refused += busy
        try:
            if not busy:
                time.sleep(LATE_SECONDS)
        finally:
            with self.lock:
                self.here -= 1
        if busy:
            handler.body(503, b"too many")
        else:
            handler.file(file)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    build_release(folder, SMALL | {"big.bin": random.Random(0).randbytes(9 * MIB)})
    return folder


def bring(release: Path, out: Path, crowd: Crowd, **options: Any) -> dict[str, Any]:
    with Mirror(release) as mirror:
        mirror.wrong["*"] = crowd
        values: dict[str, Any] = {"allow_private": True, "stall_seconds": 3, "patience_seconds": 5, **options}
        result = fetch([mirror.url], out, FetchOptions(include=("s/*",), **values))
    assert same(out, SMALL)
    return result


def test_small_files_of_a_far_mirror_come_over_more_connections(release: Path, tmp_path: Path) -> None:
    crowd = Crowd()
    result = bring(release, tmp_path / "out", crowd)
    assert FIRST < crowd.most <= LIMIT
    (row,) = result["sources"]
    assert row["requests"] == len(SMALL) and row["errors"] == {}
    assert row["used_bytes"] == row["received_bytes"] == sum(map(len, SMALL.values()))


@pytest.mark.parametrize("limit", [3, 6])
def test_the_option_is_the_limit(release: Path, tmp_path: Path, limit: int) -> None:
    crowd = Crowd()
    bring(release, tmp_path / "out", crowd, connections=limit)
    assert min(limit, FIRST + 1) <= crowd.most <= limit


def test_a_mirror_that_says_503_to_so_many_gets_fewer_from_then_on(release: Path, tmp_path: Path) -> None:
    crowd = Crowd(bears=5)
    (row,) = bring(release, tmp_path / "out", crowd, connections=8)["sources"]
    assert crowd.most > 5
    assert 0 < crowd.refused == row["errors"]["Busy"] < 8  # of one growth, and never again
