"""What a run of the benchmark found, as a table for people and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure import Series, ratio, ratios

MIB = 1 << 20
MEMORY_TARGET_MIB = 512


@dataclass(frozen=True)
class Row:
    """One comparison: slope of a peer over slope of ours."""

    task: str
    ours: Series
    peer_name: str
    peer: Series
    target: float | None = None  # None: told, not judged
    per: str = "row"

    @property
    def ratios(self) -> list[float]:
        return ratios(self.ours, self.peer)

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        return "PASS" if ratio(self.ours, self.peer) >= self.target else "FAIL"

    def line(self) -> list[str]:
        values = self.ratios
        return [
            self.task,
            self.peer_name,
            nanoseconds(self.ours),
            nanoseconds(self.peer),
            f"{ratio(self.ours, self.peer):.2f}",
            f"{min(values):.2f}-{max(values):.2f}",
            "" if self.target is None else f">= {self.target:g}",
            self.verdict,
            f"{self.ours.start_up:.2f} / {self.peer.start_up:.2f}",
        ]

    def document(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "peer": self.peer_name,
            "per": self.per,
            "ratio": round(ratio(self.ours, self.peer), 3),
            "ratios": [round(value, 3) for value in self.ratios],
            "target": self.target,
            "verdict": self.verdict or None,
            "ours": self.ours.document(),
            "theirs": self.peer.document(),
        }


@dataclass(frozen=True)
class Figure:
    """A single figure with a target from above, or none."""

    name: str
    value: float
    unit: str
    target: float | None = None
    values: tuple[float, ...] = ()

    @property
    def verdict(self) -> str:
        return "" if self.target is None else "PASS" if self.value <= self.target else "FAIL"

    def line(self) -> list[str]:
        spread = f"{min(self.values):.3g}-{max(self.values):.3g}" if self.values else ""
        target = "" if self.target is None else f"<= {self.target:g}"
        return [self.name, f"{self.value:.3g} {self.unit}", spread, target, self.verdict]


@dataclass(frozen=True)
class Memory:
    """Peak memory of one command on one pool."""

    task: str
    rows: int
    engine: str
    peak_bytes: int
    tree_bytes: int
    cpu_seconds: float
    judged: bool = True

    @property
    def verdict(self) -> str:
        return "" if not self.judged else "PASS" if self.peak_bytes <= MEMORY_TARGET_MIB * MIB else "FAIL"

    def line(self) -> list[str]:
        return [
            self.task,
            f"{self.rows:,}",
            self.engine,
            str(round(self.peak_bytes / MIB)),
            str(round(self.tree_bytes / MIB)),
            f"<= {MEMORY_TARGET_MIB}" if self.judged else "",
            self.verdict,
            f"{self.cpu_seconds:.2f}",
        ]


@dataclass
class Findings:
    """Everything of one run, in the order it was found."""

    machine: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        parts = ["# Benchmark\n", *(f"- {name}: {value}" for name, value in self.machine.items()), ""]
        if self.rows:
            parts += [
                "## CPU seconds: peer over ours\n",
                "Slope between the smaller and the larger pool, in nanoseconds (user + system, whole process tree) per row or",
                "sample, between the medians of all pairs; min-max over pairs. The last column is what does not depend on rows: CPU seconds of ours / of the peer.\n",
                *table(
                    "task|peer|ours ns|peer ns|ratio|min-max|target||start-up s",
                    [r.line() for r in self.rows],
                ),
            ]
        if self.memory:
            parts += [
                "## Peak memory, MiB\n",
                "Largest resident set of any one process; largest sum over the process tree (sampled; pages that processes share are counted in each).\n",
                *table(
                    "task|rows or samples|engine|process|tree|target||CPU s", [m.line() for m in self.memory]
                ),
            ]
        if self.figures:
            parts += ["## Figures\n", *table("what|value|min-max|target|", [f.line() for f in self.figures])]
        if self.answers:
            parts += ["## Answers, compared before anything is timed\n"]
            parts += [*table("what|kept|checksum", [[k, *map(str, v)] for k, v in self.answers.items()])]
        if self.commands:
            parts += ["## Commands of ours\n", "```", *dict.fromkeys(self.commands), "```", ""]
        return "\n".join(parts)

    def document(self) -> dict[str, Any]:
        return {
            "format": "bench/1",
            "machine": self.machine,
            "comparisons": [row.document() for row in self.rows],
            "memory": [{**vars(m), "verdict": m.verdict or None} for m in self.memory],
            "figures": [{**vars(f), "verdict": f.verdict or None} for f in self.figures],
            "answers": self.answers,
            "commands": list(dict.fromkeys(self.commands)),
        }

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bench.json").write_text(json.dumps(self.document(), indent=1) + "\n", encoding="utf-8")
        (folder / "bench.md").write_text(self.markdown(), encoding="utf-8")


def nanoseconds(series: Series) -> str:
    """The slope of the medians, and what the pairs range over."""
    values = [value * 1e9 for value in series.slopes]
    digits = 0 if series.slope >= 1e-7 else 1
    return f"{series.slope * 1e9:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def table(head: str, lines: list[list[str]]) -> list[str]:
    """A Markdown table whose columns line up."""
    cells = [head.split("|"), *lines]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    rows = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    rows.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return [*rows, ""]
