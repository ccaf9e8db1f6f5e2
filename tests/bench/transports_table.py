"""What a run of the benchmark of transports found, as Markdown and as JSON."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TARGET = 0.9  # bare over ours: how much of the bare library's rate ours must reach


@dataclass(frozen=True)
class Cost:
    """What one transfer of a whole tree cost. CPU is user + system."""

    wall_seconds: float
    client_cpu: float
    server_cpu: float | None = None
    wire_bytes: int | None = None  # through the loopback interface, both directions
    client_user: float | None = None  # the client's CPU in user mode: what the file system does is not in it


@dataclass(eq=False)
class Way:
    """One way to move a tree, measured some times."""

    tree: str
    what: str  # publish, fetch, send
    name: str
    checked: str  # with what the receiver checks the bytes
    size_bytes: int
    beside: str = ""  # name of the way it is compared with, run in turns with it
    costs: list[Cost] = field(default_factory=list)

    def middle(self, of: str) -> float | None:
        """Median of one figure."""
        values = [value for cost in self.costs if (value := getattr(cost, of)) is not None]
        return statistics.median(values) if values else None

    def line(self) -> list[str]:
        wall, client = self.middle("wall_seconds") or 0.0, self.middle("client_cpu") or 0.0
        user = self.middle("client_user")
        server, wire = self.middle("server_cpu"), self.middle("wire_bytes")
        rate = self.size_bytes / wall / 1e6 if wall else 0.0
        return [
            self.what,
            self.name,
            f"{wall:.1f}",
            f"{rate:,.0f}",
            f"{client:.2f}" + ("" if user is None else f" ({user:.2f})"),
            "" if server is None else f"{server:.2f}",
            "" if wire is None else f"{100 * (wire / self.size_bytes - 1):.2f} %",
            self.checked,
            str(len(self.costs)),
        ]


@dataclass
class Found:
    """Everything of one run."""

    machine: dict[str, Any]
    trees: dict[str, str] = field(default_factory=dict)
    ways: list[Way] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def ratios(self) -> list[list[str]]:
        """Bare over ours of every compared way: CPU of the client, CPU of both ends, wall."""
        lines = []
        for ours in self.ways:
            for bare in self.ways:
                if (bare.tree, bare.what, bare.name) != (ours.tree, ours.what, ours.beside):
                    continue
                pairs = list(zip(ours.costs, bare.costs, strict=False))
                if not pairs:
                    continue
                client = [b.client_cpu / a.client_cpu for a, b in pairs]
                wall = [b.wall_seconds / a.wall_seconds for a, b in pairs]
                both = [
                    (b.client_cpu + b.server_cpu) / (a.client_cpu + a.server_cpu)
                    for a, b in pairs
                    if a.server_cpu is not None and b.server_cpu is not None
                ]
                verdict = ""
                if "bare" in bare.name:
                    good = max(statistics.median(client), statistics.median(wall)) >= TARGET
                    verdict = ("PASS" if min(map(statistics.median, (client, wall))) >= TARGET else
                               "one of two" if good else "FAIL")  # fmt: skip
                user = [b.client_user / a.client_user for a, b in pairs if a.client_user and b.client_user]
                shown = [_spread(client), _spread(user), _spread(both), _spread(wall)]
                lines.append([ours.tree, ours.what, ours.name, bare.name, *shown, verdict])
        return lines

    def markdown(self) -> str:
        parts = [*(f"- {name}: {value}" for name, value in self.machine.items()), ""]
        for tree, words in self.trees.items():
            lines = [way.line() for way in self.ways if way.tree == tree and way.costs]
            if lines:
                parts += [f"## {tree}: {words}\n"]
                head = "what|way|wall s|MB/s|client CPU s (user)|server CPU s|on the wire|checked by|runs"
                parts += table(head, lines)
        if lines := self.ratios():
            parts += ["## Beside the library alone (theirs over ours: above 1 ours is cheaper or faster)\n"]
            parts += table("tree|what|ours|beside|client CPU|in user mode|both ends' CPU|wall|", lines)
        parts += [f"- {note}" for note in self.notes]
        return "\n".join(parts)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        document = {"format": "bench-transports/1", "machine": self.machine, "trees": self.trees}
        document |= {"ways": [asdict(way) for way in self.ways], "notes": self.notes}
        (folder / "transports.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        (folder / "transports.md").write_text(self.markdown() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> Found:
        """What an earlier run saved."""
        document = json.loads(file.read_text(encoding="utf-8"))
        ways = [Way(**{**way, "costs": [Cost(**cost) for cost in way["costs"]]}) for way in document["ways"]]
        return cls(document["machine"], document["trees"], ways, document["notes"])


def table(head: str, lines: list[list[str]]) -> list[str]:
    """A Markdown table whose columns line up."""
    cells = [head.split("|"), *lines]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    rows = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    rows.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return [*rows, ""]


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    middle = f"{statistics.median(values):.2f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.2f}-{max(values):.2f})"
