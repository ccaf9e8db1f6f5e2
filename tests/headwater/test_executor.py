"""map_shards: the same answer, in order, on every engine; and what happens when a worker dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headwater.errors import HeadwaterError, IntegrityError, UsageError
from headwater.executor import ENGINES, Executor
from tests.conftest import ROOT, clean_environment
from tests.faults import tasks


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("fn", [tasks.square, tasks.bytes_of])
def test_every_engine_gives_the_same_in_order(engine: str, workers: int, fn: Callable[[int], Any]) -> None:
    shards = list(range(13))
    found = list(Executor(engine, workers).map_shards(fn, shards, max_in_flight=4))
    assert found == [fn(shard) for shard in shards]


@pytest.mark.parametrize("engine", ENGINES)
def test_no_shards_no_results(engine: str) -> None:
    assert list(Executor(engine, 2).map_shards(tasks.square, [])) == []


def test_light_work_stays_in_this_process() -> None:
    found = list(Executor("pool", 2).map_shards(tasks.pid_and_safe_path, [1, 2], light=True))
    assert {pid for pid, _, _ in found} == {os.getpid()}


def test_workers_are_other_processes_that_import_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # in a fresh interpreter, so that the fork server starts under these settings
    (tmp_path / "train.py").write_text("raise SystemExit('the wrong train was imported')")
    script = (
        "from headwater.executor import Executor\n"
        "from tests.faults import tasks\n"
        "if __name__ == '__main__':\n"
        "    for found in Executor('pool', 2).map_shards(tasks.pid_and_safe_path, [1, 2, 3]):\n"
        "        print(*found)\n"
    )
    (tmp_path / "main_script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "-P", "main_script.py"],
        cwd=tmp_path,
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert len(lines) == 3
    assert all(safe == "True" for _, safe, _ in lines)
    assert all(first not in ("", str(tmp_path)) for _, _, first in lines)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_error_of_ours_comes_back_whole(engine: str) -> None:
    results = Executor(engine, 2).map_shards(tasks.refuse, list(range(6)))
    got = [next(results) for _ in range(3)]
    assert got == [0, 1, 2]
    with pytest.raises(IntegrityError, match="shard 3: damaged") as told:
        next(results)
    assert told.value.hint == "fetch it again"


def test_a_worker_that_dies_is_told_with_its_item() -> None:
    with pytest.raises(HeadwaterError, match=r"a worker process died at item \d of 6") as told:
        list(Executor("pool", 2).map_shards(tasks.die, list(range(6))))
    assert told.value.hint is not None and "--workers" in told.value.hint


def test_a_worker_that_dies_is_tried_again_when_asked(tmp_path: Path) -> None:
    items = [(number, str(tmp_path / "mark")) for number in range(6)]
    assert list(Executor("pool", 2).map_shards(tasks.die_once, items, retries=1)) == list(range(6))


def test_workers_end_when_the_results_are_not_wanted() -> None:
    results = Executor("pool", 2).map_shards(tasks.sleep_long, [0, 1, 2])
    worker = next(results)
    assert worker != os.getpid() and alive(worker)
    started = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert not alive(worker)
    assert time.monotonic() - started < 5


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "from headwater.executor import Executor\n"
        "from tests.faults import tasks\n"
        "if __name__ == '__main__':\n"
        "    results = Executor('pool', 2).map_shards(tasks.sleep_long, [0, 1, 2])\n"
        "    print(next(results), flush=True)\n"
        "    next(results)\n"
    )
    (tmp_path / "parent.py").write_text(script)
    with subprocess.Popen(
        [sys.executable, "-P", "parent.py"],
        cwd=tmp_path,
        env=clean_environment(tmp_path, PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        try:
            worker = int(parent.stdout.readline())
            assert alive(worker)
        finally:
            parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 8
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(worker)


def test_an_unknown_engine_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'serial'"):
        Executor("seriel")


@pytest.mark.parametrize("workers", [0, -1])
def test_workers_must_be_at_least_one(workers: int) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        Executor("pool", workers)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_and_its_workers(number: signal.Signals, tmp_path: Path) -> None:
    script = (
        "import sys, click\n"
        "from headwater.options import common, run_command\n"
        "from tests.faults import tasks\n"
        "@click.command()\n"
        "@common\n"
        "def work(settings):\n"
        "    for found in settings.executor().map_shards(tasks.sleep_long, [0, 1, 2]):\n"
        "        print(found, flush=True)\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(run_command(work, ['--workers', '2']))\n"
    )
    (tmp_path / "command.py").write_text(script)
    with subprocess.Popen(
        [sys.executable, "-P", "command.py"],
        cwd=tmp_path,
        env=clean_environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout is not None
        try:
            worker = int(command.stdout.readline())
            before = time.monotonic()
            command.send_signal(number)
            _, errors = command.communicate(timeout=20)
            seconds = time.monotonic() - before
        finally:
            command.kill()
    assert command.returncode == 130 and seconds < 2
    assert errors == f"headwater: stopped by {number.name}\n"
    deadline = time.monotonic() + 2
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)
