"""Faults on demand: run a command under strace and let its Nth system call fail, or kill it there.

    inject(argv, call="fsync", nth=1, error="EIO")       the first fsync fails
    inject(argv, call="renameat2", nth=2, signal="KILL") dies as it enters the second rename
    sweep(argv, calls=BOUNDARIES)                        (call, n) for every point where a command can be killed

strace counts each thread and process by itself: keep to commands that work in one.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

# calls that change what is on disk: between any two of them a command may die
BOUNDARIES = (
    "chmod",
    "fchmod",
    "fchmodat",
    "fsync",
    "ftruncate",
    "link",
    "mkdir",
    "rename",
    "renameat2",
    "rmdir",
    "unlink",
    "unlinkat",
    "write",
)
TIMEOUT_SECONDS = 60


@functools.cache
def why_not() -> str | None:
    """Why faults cannot be injected here, or None."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(
        ["strace", "-f", "-o", os.devnull, "true"], capture_output=True, text=True, timeout=20
    )
    return None if done.returncode == 0 else f"strace may not trace here: {done.stderr.strip()[:100]}"


@functools.cache
def _filter() -> tuple[str, ...]:
    """The option that lets all other calls run at full speed, where strace and the kernel have it."""
    command = ["strace", "-f", "--seccomp-bpf", "-o", os.devnull, "-e", "trace=fsync", "true"]
    done = subprocess.run(command, capture_output=True, timeout=20)
    return ("--seccomp-bpf",) if done.returncode == 0 and not done.stderr else ()


def need_strace() -> None:
    """Skip the test, with the reason, where faults cannot be injected."""
    if reason := why_not():
        pytest.skip(reason)


def inject(
    argv: Sequence[str],
    *,
    call: str,
    nth: int,
    signal: str | None = None,
    error: str | None = None,
    path: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `argv`; its `nth` (from 1) `call` delivers `signal` on entry, or returns `error` without being done.

    With `path`, only calls on that file, by name or through a descriptor of it, count.
    """
    if (signal is None) == (error is None):
        raise ValueError("name a signal or an error")
    what = f"signal=SIG{signal}" if signal else f"error={error}"
    options = ["-e", f"trace={call}", "-e", f"inject={call}:{what}:when={nth}"]
    if path is not None:
        options += ["-P", str(path)]
    if error:
        options += _filter()  # signals are not delivered under it (strace 6.1)
    return _strace([*options, "-o", os.devnull], argv, env, cwd)


def count(
    argv: Sequence[str],
    *,
    calls: Iterable[str],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Counter[str]:
    """How often `argv` makes each of `calls` when nothing goes wrong."""
    found: Counter[str] = Counter()
    with tempfile.NamedTemporaryFile("r", suffix=".strace") as log:
        done = _strace([*_filter(), "-e", f"trace={','.join(calls)}", "-o", log.name], argv, env, cwd)
        assert done.returncode == 0, done.stderr
        for line in log:
            if match := re.match(r"(?:\d+\s+)?(\w+)\(", line):
                found[match.group(1)] += 1
    return found


def sweep(
    argv: Sequence[str],
    *,
    calls: Iterable[str] = BOUNDARIES,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> list[tuple[str, int]]:
    """Every (call, n) that `argv` reaches: the points at which to kill it."""
    counts = count(argv, calls=calls, env=env, cwd=cwd)
    return [(call, n) for call in sorted(counts) for n in range(1, counts[call] + 1)]


def nth_on(
    argv: Sequence[str], call: str, name: str, log: Path, *, env: Mapping[str, str] | None = None
) -> int:
    """Which `call` of its process is the first on a file whose name holds `name`, found by running `argv` once.

    For temporary files, whose names hold a process id and so cannot be given to `inject`.
    """
    done = _strace([*_filter(), "-y", "-e", f"trace={call}", "-o", str(log)], argv, env, None)
    assert done.returncode == 0, done.stderr
    lines = log.read_text().splitlines()
    wanted = next(line for line in lines if name in line)
    mine = [line for line in lines if line.split()[0] == wanted.split()[0] and f" {call}(" in line]
    return 1 + mine.index(wanted)


def python(script: Path, *arguments: object) -> list[str]:
    """The command line of a Python script, without the user's site folder and with modules from nowhere else."""
    return [sys.executable, "-P", "-s", str(script), *map(str, arguments)]


def _strace(
    options: list[str], argv: Sequence[str], env: Mapping[str, str] | None, cwd: Path | None
) -> subprocess.CompletedProcess[str]:
    settings = {**(os.environ if env is None else env), "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["strace", "-f", "-qq", "--signal=none", *options, "--", *argv]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=settings,
        cwd=cwd,
        timeout=TIMEOUT_SECONDS,
        stdin=subprocess.DEVNULL,
    )
