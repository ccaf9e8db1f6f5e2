"""Fixtures for every test: golden data, the command in a process of its own, small pools; no network, no joules."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent


def inheritable() -> set[int]:
    """Descriptors that a child process would get."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.get_inheritable(int(name)):
                found.add(int(name))
        except OSError:  # the descriptor of the listing itself
            continue
    return found


# two workers with two spinning threads each would cost several times the work; before anything loads torch
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# compiled kernels are for all tests, also those with a cache folder of their own; the folder in it is named after their sources
os.environ.setdefault(
    "NUMBA_CACHE_DIR",
    str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headwater" / "kernels"),
)

INHERITED = inheritable()  # what the caller of the tests left open is not ours

# a shared machine is slow at times; that says nothing about the code
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

# captions that have tripped other readers: blanks beyond ASCII, nothing, marks, one very long
ODD_CAPTIONS: tuple[str | None, ...] = (
    "a photo of a dog",
    "",
    None,
    " two  blanks ",
    "no\u00a0break\u3000ideographic",
    "tab\tand\vvertical\x1funit",
    "zero\u200bwidth \ufeffmark",
    "赤い車の写真",
    "\u202eright to left",
    "e\u0301 combining",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "'; drop table pool; --",
    '{"json": [1, 2]} %s %% {0}',
    "Ein Hund läuft über die Wiese",
    "x" * 5000,
    "NUL\0inside",
)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The golden DataComp vectors, or a skip that says how to have them."""
    folder = os.environ.get("HEADWATER_GOLDEN")
    if not folder:
        pytest.skip("HEADWATER_GOLDEN does not name a folder of golden data")
    path = (ROOT / folder if not os.path.isabs(folder) else Path(folder)) / "datacomp"
    if not path.is_dir():
        pytest.fail(f"HEADWATER_GOLDEN is set, but {path} is not a folder")
    return path


@pytest.fixture(autouse=True)
def _no_joules(monkeypatch: pytest.MonkeyPatch) -> None:
    from headwater import energy

    monkeypatch.setenv("HEADWATER_METER", "none")
    monkeypatch.setattr(energy, "_begun", [])  # the account of a command that ran in this process before


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and str(address[0]) not in ("127.0.0.1", "::1"):
            raise AssertionError(f"a test tried to connect to {address!r}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """The least a child process needs, with nothing of this user's settings."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "HEADWATER_METER": "none",
        "OMP_NUM_THREADS": "1",
        **more,
    }


Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """`cli("verify", path, env={…}, cwd=…)` runs the command in a process of its own and returns what it did."""

    def run(*arguments: object, env: dict[str, str] | None = None, **options: Any) -> Any:
        options.setdefault("cwd", tmp_path)
        options.setdefault("timeout", 60)
        options.setdefault("stdin", subprocess.DEVNULL)
        if "stdout" not in options and "stderr" not in options:
            options["capture_output"] = True
        command = [sys.executable, "-P", "-m", "headwater.cli", *map(str, arguments)]
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        encoding = {"encoding": "utf-8", "errors": "replace"}
        return subprocess.run(command, env=clean_environment(home, **(env or {})), **encoding, **options)

    return run


PoolBuilder = Callable[..., Path]


def build_pool(folder: Path, *, rows: int = 60, shards: int = 3, seed: int = 0) -> Path:
    """A pool in DataComp's layout at `folder`: `rows` rows over `shards` files, the same bytes for the same seed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        numbers = range(shard * rows // shards, (shard + 1) * rows // shards)
        columns: dict[str, Any] = {
            "uid": [hashlib.md5(f"{seed}/{n}".encode()).hexdigest() for n in numbers],
            "url": [f"https://images.example/{n}.jpg" for n in numbers],
            "text": [ODD_CAPTIONS[n % len(ODD_CAPTIONS)] for n in numbers],
            "original_width": pa.array([rng.randrange(50, 2000) for _ in numbers], pa.int64()),
            "original_height": pa.array([rng.randrange(50, 2000) for _ in numbers], pa.int64()),
            "clip_b32_similarity_score": pa.array([rng.uniform(-0.1, 0.5) for _ in numbers], pa.float32()),
            "clip_l14_similarity_score": pa.array([rng.uniform(-0.1, 0.5) for _ in numbers], pa.float32()),
            "sha256": [hashlib.sha256(f"{seed}/{n}".encode()).hexdigest() for n in numbers],
        }
        for name in ("uid", "url", "text", "sha256"):
            columns[name] = pa.array(columns[name], pa.string())
        pq.write_table(pa.table(columns), folder / f"{shard:08d}.parquet", compression="snappy")
    return folder


@pytest.fixture
def tiny_pool(tmp_path: Path) -> PoolBuilder:
    """`tiny_pool(rows=60, shards=3, seed=0)` writes a pool with odd captions under the test's folder."""

    def build(*, rows: int = 60, shards: int = 3, seed: int = 0, name: str = "pool") -> Path:
        return build_pool(tmp_path / name, rows=rows, shards=shards, seed=seed)

    return build


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 4 MiB of its own; skips where nobody may mount one."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except OSError as error:
        pytest.skip(f"no small file system: {error}")
    if done.returncode:
        pytest.skip(f"no small file system: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)
