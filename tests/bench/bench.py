"""What every task of the benchmark shares: pools, command lines, checked answers, and where findings go."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import Series, Usage, run
from report import Figure, Findings, Memory, Row

HERE = Path(__file__).resolve().parent
Command = list[str]


@dataclass(frozen=True)
class Sizes:
    """Rows of metadata pools and samples of tar folders."""

    rows: tuple[int, int]
    memory_rows: tuple[int, ...]
    samples: tuple[int, int]
    memory_samples: tuple[int, ...]
    language_rows: tuple[int, int]
    convert_rows: int
    pandas_rows: tuple[int, int]  # it takes ten times as long


FULL = Sizes(
    rows=(1_000_000, 4_000_000),
    memory_rows=(1_000_000, 4_000_000, 16_000_000),
    samples=(20_000, 60_000),
    memory_samples=(20_000, 60_000, 200_000),
    language_rows=(50_000, 250_000),
    convert_rows=2_000_000,
    pandas_rows=(250_000, 1_000_000),
)
QUICK = Sizes(
    rows=(250_000, 1_000_000),
    memory_rows=(250_000, 1_000_000),
    samples=(10_000, 30_000),
    memory_samples=(10_000, 30_000),
    language_rows=(10_000, 50_000),
    convert_rows=500_000,
    pandas_rows=(250_000, 1_000_000),
)


class Bench:
    """Pools, commands and findings of one run."""

    def __init__(self, sizes: Sizes, pairs: int, store: Path, peers: str) -> None:
        self.sizes, self.pairs, self.store, self.peers = sizes, pairs, store, peers
        self.out = store / f"out-{os.getpid()}"
        self.found = Findings(machine())
        self.series: dict[str, dict[str, Series]] = {}
        leave_out = {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONSTARTUP"}
        self.env = {k: v for k, v in os.environ.items() if k not in leave_out}
        self.env["XDG_CACHE_HOME"] = str(store / "cache")
        self.env.pop("HEADWATER_METER", None)

    # commands

    def pool(self, rows: int) -> str:
        return str(self.store / f"metadata-{rows}")

    def tars(self, samples: int) -> str:
        return str(self.store / f"tars-{samples}")

    def ours(self, *words: str) -> Command:
        return [str(Path(sys.executable).parent / "headwater"), *words, "--quiet"]

    def filter(self, rows: int, *words: str, output: str = "ours.npy") -> Command:
        return self.ours("filter-pool", self.pool(rows), "-o", str(self.out / output), *words)

    def peer(self, *words: str) -> Command:
        return [self.peers, str(HERE / "peers.py"), *words]

    # running

    def fresh(self) -> None:
        """An empty output folder: nothing is ever found done already."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)

    def use(self, command: Command, *, sample: bool = False) -> Usage:
        self.fresh()
        if command[0].endswith("headwater"):
            shown = " ".join(["headwater", *command[1:]]).replace(str(self.out), "OUT")
            self.found.commands.append(
                shown.replace(str(self.store), ".bench").replace(f"{HERE.parents[1]}/", "")
            )
        return run(command, self.env, sample=sample)

    def cpu(self, make: Callable[[int], Command], runs: int = 1) -> Callable[[int], float]:
        """A contestant: CPU seconds of the command, or the median of some runs."""
        return lambda rows: statistics.median(self.use(make(rows)).cpu_seconds for _ in range(runs))

    def json(self, command: Command) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.use(command).output)
        return found

    def checksum(self, command: Command, file: str = "ours.npy") -> tuple[int, str]:
        """Rows and checksum of the subset file that a command leaves."""
        self.use(command)
        line = json.loads(run(self.peer("checksum", str(self.out / file)), self.env).output)
        return line["kept"], line["sum"]

    def same(self, what: str, answers: dict[str, tuple[int, str]]) -> None:
        """Refuse to time contestants that disagree."""
        if len(set(answers.values())) != 1:
            raise SystemExit(f"bench: {what}: the answers differ: {answers}")
        self.found.answers[what] = next(iter(answers.values()))

    def peer_answer(self, *words: str) -> tuple[int, str]:
        line = self.json(self.peer(*words, "--check"))
        return line["kept"], line["sum"]

    def figure(
        self, name: str, value: float, unit: str, target: float | None = None, values: Sequence[float] = ()
    ) -> None:
        self.found.figures.append(Figure(name, value, unit, target, tuple(values)))

    def row(
        self, task: str, group: str, ours: str, peer: str, target: float | None, per: str = "row"
    ) -> None:
        them = self.series[group]
        self.found.rows.append(Row(task, them[ours], peer, them[peer], target, per))

    def peak(self, task: str, rows: int, engine: str, command: Command, *, judged: bool = True) -> None:
        """Add a line to the table of peak memory."""
        usage = self.use(command, sample=True)
        tree, cpu = max(usage.tree_bytes or 0, usage.peak_bytes), round(usage.cpu_seconds, 3)
        self.found.memory.append(Memory(task, rows, engine, usage.peak_bytes, tree, cpu, judged))
        sys.stderr.write(".")

    def make_pools(self, kind: str, sizes: Sequence[int]) -> None:
        tell(f"pools: {kind} {', '.join(f'{s:,}' for s in sizes)}")
        run([sys.executable, str(HERE / "pools.py"), kind, str(self.store), *map(str, sizes)], self.env)

    def warm(self, rows: int) -> None:
        """Make the digests of a pool known."""
        self.use(self.filter(rows, "--name", "no_filter", "--no-index", "--engine", "serial"))


def machine() -> dict[str, Any]:
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load at start": load,
        "python": platform.python_version(),
    }


def tell(what: str) -> None:
    sys.stderr.write(f"\nbench: {what} ")
    sys.stderr.flush()
