"""Who sent what: one row for every source, in bytes, requests and seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MOST_LISTED = 100  # lies of one source that are listed one by one


@dataclass
class Row:
    """One source. Received = used + wrong + doubled (what another source brought first, or came before a break)."""

    source: str
    kind: str
    received_bytes: int = 0
    used_bytes: int = 0
    wrong_bytes: int = 0
    requests: int = 0
    busy_seconds: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)  # by kind of error
    lies: list[dict[str, Any]] = field(default_factory=list)  # path, piece, offset, length
    state: str = "used"
    peers: dict[str, int] = field(default_factory=dict)  # bytes of each peer or web seed of a swarm

    def note(self, error: BaseException) -> None:
        """Count an error by its kind."""
        name = type(error).__name__
        self.errors[name] = self.errors.get(name, 0) + 1

    def lie(self, path: str, piece: int | None, offset: int, length: int, *, peer: str | None = None) -> None:
        """Wrong bytes: where, and of a swarm from whom. A length of 0 is one that nobody counted."""
        self.wrong_bytes += length
        if len(self.lies) < MOST_LISTED:
            found = {"path": path, "piece": piece, "offset": offset, "length": length}
            self.lies.append(found | ({"peer": peer} if peer else {}))

    def as_json(self) -> dict[str, Any]:
        """For records and `--json`."""
        return {
            "source": self.source,
            "kind": self.kind,
            "state": self.state,
            "received_bytes": self.received_bytes,
            "used_bytes": self.used_bytes,
            "wrong_bytes": self.wrong_bytes,
            "requests": self.requests,
            "busy_seconds": round(self.busy_seconds, 3),
            "errors": dict(sorted(self.errors.items())),
            "lies": self.lies,
            "peers": dict(sorted(self.peers.items())),
        }


def table(rows: list[Row]) -> list[str]:
    """Lines for people."""
    if not rows:
        return []
    lines = [f"{'received':>15} {'used':>15} {'wrong':>12} {'requests':>9} {'seconds':>8}  source"]
    for row in rows:
        trouble = "" if row.state == "used" else f"  ({row.state})"
        lines.append(
            f"{row.received_bytes:>15,} {row.used_bytes:>15,} {row.wrong_bytes:>12,} {row.requests:>9,} "
            f"{row.busy_seconds:>8.1f}  {row.source}{trouble}"
        )
    return lines
