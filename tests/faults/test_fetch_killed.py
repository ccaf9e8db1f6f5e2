"""A fetch that is killed (SIGKILL) at any point: the same call goes on, fetches what is missing, and the result is equal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distribute.fetch import FetchOptions, fetch
from tests.conftest import clean_environment
from tests.distribute.loopback import Mirror
from tests.distribute.release_kit import MIB, build_release, same, sample_files

FILES = sample_files(small=30, big=(40 * MIB + 1, 20 * MIB))
SIZE = sum(map(len, FILES.values()))
CONNECTIONS = 2
# what two runs may bring twice: pieces in flight, and small files that were not placed
SLACK = CONNECTIONS * (1 << 20)

PROGRAM = """
import sys
from pathlib import Path
from distribute.fetch import FetchOptions, fetch
options = FetchOptions(allow_private=True, connections=int(sys.argv[3]), manifest=sys.argv[4])
fetch([sys.argv[1]], Path(sys.argv[2]), options)
"""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("release")
    return folder, build_release(folder, FILES)


def start(mirror: Mirror, out: Path, manifest: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-c", PROGRAM, mirror.url, str(out), str(CONNECTIONS), manifest]
    return subprocess.Popen(
        command, env=clean_environment(out.parent), stdin=subprocess.DEVNULL, start_new_session=True
    )


def kill_at(mirror: Mirror, process: subprocess.Popen[bytes], sent: int) -> bool:
    """SIGKILL as soon as the mirror has sent so much; False when the process was done before."""
    end = time.monotonic() + 60
    while mirror.sent_bytes < sent and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    alive = process.poll() is None
    if alive:
        os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    return alive


@pytest.mark.slow
@pytest.mark.parametrize("percent", [10, 30, 50, 70, 90])
def test_killed_and_run_again(release: tuple[Path, str], tmp_path: Path, percent: int) -> None:
    folder, manifest = release
    out = tmp_path / "out"
    with Mirror(folder) as mirror:
        mirror.pause, mirror.pause_below = 0.05, "set/"  # so that there is a middle
        killed = kill_at(mirror, start(mirror, out, manifest), SIZE * percent // 100)
        assert killed
        assert not (out / ".headwater/release/fetch.step.json").exists()
        for path in out.rglob("*"):  # whatever is in place is whole
            name = path.relative_to(out).as_posix()
            if path.is_file() and not name.startswith(".headwater"):
                assert path.read_bytes() == FILES[name]
        mirror.pause = 0.0
        result = fetch([mirror.url], out, FetchOptions(allow_private=True, manifest=manifest))
    assert same(out, FILES)
    assert not (out / ".headwater/partial").exists()
    kept = sum(len(FILES[path]) for path in FILES) - result["bytes_received"]
    assert kept >= SIZE * percent // 100 - SLACK - CONNECTIONS * (8 << 20)
    # of the large files nothing is brought twice that was marked
    assert result["bytes_received"] + result["bytes_resumed"] <= SIZE


@pytest.mark.slow
def test_killed_again_and_again(release: tuple[Path, str], tmp_path: Path) -> None:
    folder, manifest = release
    out = tmp_path / "out"
    with Mirror(folder) as mirror:
        mirror.pause, mirror.pause_below = 0.05, "set/"
        for turn in range(1, 6):
            if not kill_at(mirror, start(mirror, out, manifest), SIZE * turn // 7):
                break
        assert start(mirror, out, manifest).wait(60) == 0
        assert mirror.sent_bytes < SIZE + 6 * (SLACK + CONNECTIONS * (8 << 20))
    assert same(out, FILES)


@pytest.mark.slow
def test_stopped_by_a_signal_leaves_what_can_go_on(release: tuple[Path, str], tmp_path: Path) -> None:
    folder, manifest = release
    out = tmp_path / "out"
    with Mirror(folder) as mirror:
        mirror.pause, mirror.pause_below = 0.6, "set/"  # on a busy machine this process may come late
        process = start(mirror, out, manifest)
        while mirror.sent_bytes < SIZE // 2 and process.poll() is None:
            time.sleep(0.002)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) != 0
        assert time.monotonic() - begun < 15
        mirror.pause = 0.0
        result = fetch([mirror.url], out, FetchOptions(allow_private=True, manifest=manifest))
    assert same(out, FILES)
    assert result["bytes_received"] < SIZE
