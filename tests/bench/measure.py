"""CPU seconds and peak memory of whole commands: the process, its workers and whatever they leave behind.

This process makes itself the reaper of orphans, so that workers whose parent ends first are still counted. It must stay small
(no numpy): a child's peak memory counts from what its parent had when it was started. CPU seconds are user + system; memory in bytes.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SAMPLE_SECONDS = 0.02
PR_SET_CHILD_SUBREAPER = 36
LEAST_SLOPE = 1e-9  # seconds a row: below this a slope is noise


@dataclass(frozen=True)
class Usage:
    """What one command cost."""

    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int  # largest resident set of any one process
    tree_bytes: (
        int | None
    )  # largest sum over all processes at once, shared pages counted in each; None when not sampled
    output: str


def become_reaper() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def run(command: Sequence[str | os.PathLike[str]], env: Mapping[str, str], *, sample: bool = False) -> Usage:
    """Run a command to its end and the end of all it started. A failure ends the benchmark with its last words."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command], stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=dict(env)
        )
        sampler = _Sampler(process.pid) if sample else None
        cpu, peak, status = 0.0, 0, 0
        while True:
            try:
                pid, code, usage = os.wait4(-1, 0)
            except ChildProcessError:
                break
            cpu += usage.ru_utime + usage.ru_stime
            peak = max(peak, usage.ru_maxrss * 1024)
            if pid == process.pid:
                status = process.returncode = os.waitstatus_to_exitcode(code)
        wall = time.perf_counter() - began
        tree = sampler.stop() if sampler else None
        out.seek(0)
        err.seek(0)
        if status:
            words = " ".join(str(word) for word in command)
            raise SystemExit(f"bench: {words}\nended with {status}:\n{err.read().decode()[-2000:]}")
        return Usage(cpu, wall, peak, tree, out.read().decode())


class _Sampler(threading.Thread):
    """Adds up the resident sets of a process tree until stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._peak, self._over = pid, 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, sum(_resident(pid) for pid in _tree(self._pid)))

    def stop(self) -> int:
        self._over.set()
        self.join()
        return self._peak


def _tree(pid: int) -> list[int]:
    found, new = [], [pid]
    while new:
        found += new
        new = [child for parent in new for child in _children(parent)]
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += [int(word) for word in task.read_text().split()]
        except OSError:  # ended while we looked
            continue
    return children


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, IndexError):  # ended while we looked
        return 0


@dataclass
class Series:
    """CPU seconds of one contestant in every pair, on the small and on the large pool."""

    rows: tuple[int, int]
    small: list[float] = field(default_factory=list)
    large: list[float] = field(default_factory=list)

    @property
    def slopes(self) -> list[float]:
        """Seconds per row of each pair, start-up taken off."""
        more = self.rows[1] - self.rows[0]
        return [(large - small) / more for small, large in zip(self.small, self.large, strict=True)]

    @property
    def slope(self) -> float:
        """Seconds per row between the medians of both pools: steadier than the median of the pairs' slopes."""
        more = self.rows[1] - self.rows[0]
        return (statistics.median(self.large) - statistics.median(self.small)) / more

    @property
    def start_up(self) -> float:
        """Seconds that do not depend on rows."""
        return max(statistics.median(self.small) - self.slope * self.rows[0], 0.0)

    def document(self) -> dict[str, object]:
        return {
            "rows": self.rows,
            "cpu_seconds_small": [round(x, 4) for x in self.small],
            "cpu_seconds_large": [round(x, 4) for x in self.large],
            "nanoseconds_per_row": [round(x * 1e9, 2) for x in self.slopes],
            "nanoseconds_per_row_of_medians": round(self.slope * 1e9, 2),
            "start_up_cpu_seconds": round(self.start_up, 3),
        }


Contestant = Callable[[int], float]  # runs on the pool of so many rows, returns CPU seconds


def compete(
    contestants: Mapping[str, Contestant],
    rows: tuple[int, int],
    pairs: int,
    *,
    own_rows: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, Series]:
    """All contestants on both pools, again and again, in an order that turns with every pair."""
    series = {name: Series((own_rows or {}).get(name, rows)) for name in contestants}
    names = list(contestants)
    for pair in range(pairs):
        turned = names[pair % len(names) :] + names[: pair % len(names)]
        for name in turned if pair % 2 else turned[::-1]:
            small, large = series[name].rows
            series[name].small.append(contestants[name](small))
            series[name].large.append(contestants[name](large))
        _dot()
    return series


def ratio(ours: Series, peer: Series) -> float:
    """Peer over ours, slope of the medians: above 1 ours is cheaper."""
    return peer.slope / max(ours.slope, LEAST_SLOPE)


def ratios(ours: Series, peer: Series) -> list[float]:
    """The same pair by pair."""
    return [theirs / max(mine, LEAST_SLOPE) for mine, theirs in zip(ours.slopes, peer.slopes, strict=True)]


def _dot() -> None:
    sys.stderr.write(".")
    sys.stderr.flush()
