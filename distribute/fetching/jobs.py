"""What a fetch is made of: feeds (sources at work), jobs (files) and runs (pieces that are asked for at once)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from distribute.fetching.ledger import Row
from distribute.fetching.pieces import Pieces
from distribute.fetching.width import Width
from distribute.transports._base import Source, SourceError, SwarmSource, Wanted

RUN_BYTES = 8 << 20  # about so much is asked for at once; smaller files are fetched and checked in memory


@dataclass(eq=False)
class Feed:
    """One source at work."""

    source: Source
    row: Row
    connections: int = 1  # at most
    down_until: float = 0.0
    rate: float = 0.0  # bytes a second of one connection, lately
    failures: int = 0  # in a row
    refusals: int = 0  # in a row
    strikes: int = 0
    dropped: str = ""  # why it is not asked any more
    last_error: str = ""
    width: Width = field(init=False)  # how many of the connections work now

    def __post_init__(self) -> None:
        self.width = Width(self.connections)

    @property
    def swarm(self) -> bool:
        return isinstance(self.source, SwarmSource)


@dataclass(eq=False)
class Run:
    """Pieces `first` … `first + count - 1` of a file; count 0 is the whole file at once."""

    job: Job
    first: int = 0
    count: int = 0
    takers: list[Feed] = field(default_factory=list)
    refused: dict[Feed, int] = field(default_factory=dict)  # wrong bytes: how often
    since: float = 0.0
    failing: dict[Feed, list[float]] = field(
        default_factory=dict
    )  # when a source said that it cannot give it

    @property
    def size(self) -> int:
        """Bytes, at most."""
        pieces = self.job.pieces
        size = self.job.wanted.size_bytes
        return min(self.count * pieces.piece_size, size) if self.count and pieces is not None else size


@dataclass(eq=False)
class Job:
    """One file."""

    wanted: Wanted
    pieces: Pieces | None = None  # None: it is fetched and checked as a whole
    have: bytearray = field(default_factory=bytearray)  # 1 for each piece that is written and right
    left: deque[Run] = field(default_factory=deque)
    out: int = 0  # runs that somebody works on
    refused: set[Feed] = field(default_factory=set)
    swarm: Feed | None = None  # who brings it as a whole
    claimed: bool = False  # somebody places it
    done: bool = False
    trouble: str = ""  # why it was given up
    why: SourceError | None = None  # what the last source that refused it said
    lied: bool = False  # given up because all that came was wrong
    kept_bytes: int = 0  # from an earlier run

    def split_whole(self) -> None:
        """One run of everything: for files that are small, or have no piece hashes."""
        self.left.clear()
        self.left.append(Run(self))

    def split(self) -> None:
        """Make the runs of what is missing."""
        if self.pieces is None or not self.have:
            self.split_whole()
            return
        self.left.clear()
        step, first = max(1, RUN_BYTES // self.pieces.piece_size), None
        for index in range(len(self.pieces) + 1):
            missing = index < len(self.pieces) and not self.have[index]
            if first is not None and (not missing or index - first == step):
                self.left.append(Run(self, first, index - first))
                first = None
            if missing and first is None:
                first = index
