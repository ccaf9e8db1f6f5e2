"""What a transport is: a place that bytes come from or go to. Nothing that comes from one is believed.

    location (text) ── open_source ──> Source ── release_file / listing / read ──> the fetch engine checks every byte
    OpenRelease     ── publish ──────> Location

A transport module NAME.py has

    SCHEMES: tuple[str, ...]                                   the beginnings of the locations it takes
    def open_source(location: str, context: Context) -> Source
    def publish(release: OpenRelease, target: str, context: Context, *, dry_run: bool) -> Published

Errors of one source are SourceErrors: the engine says them, and goes on with another source.

    SourceError              this source failed
    ├── Unreachable          no connection, name not found, no peers
    ├── Stalled              it answered and then sent nothing for `Limits.stall_seconds`
    ├── Refused              401, 403, wrong password, a private address
    ├── NotThere             404: this source does not have the object
    └── WrongBytes           what it sent is not what was asked for (exit code 13)
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headwater.errors import HeadwaterError
from headwater.manifest import FileEntry
from headwater.release import Location


class SourceError(HeadwaterError):
    """One source failed; another may not."""


class Unreachable(SourceError):
    """Nobody answered."""


class Stalled(SourceError):
    """Bytes stopped coming."""


class Refused(SourceError):
    """The other side, or our own rule about addresses, said no."""


class NotThere(SourceError):
    """The other side does not have it."""


class WrongBytes(SourceError):
    """Bytes that are not what was asked for."""

    exit_code = 13


@dataclass(frozen=True)
class Limits:
    """What no source may exceed. Times in seconds, sizes in bytes."""

    connect_seconds: float = 10.0
    stall_seconds: float = 20.0  # no byte for so long
    slowest_bytes_per_second: float = 1_000.0  # averaged over one request after stall_seconds
    attempts: int = 4
    backoff_limit_seconds: float = 30.0  # also for what a Retry-After asks
    redirects: int = 5
    document_bytes: int = 256 << 20  # manifest, torrent, listing


@dataclass(frozen=True)
class Context:
    """What every transport gets besides the location."""

    work: Path  # a folder of its own for what it must keep between runs (resume data)
    limits: Limits = field(default_factory=Limits)
    allow_private: bool = False  # loopback and private addresses
    gateways: tuple[str, ...] = ()  # trustless IPFS gateways, in the order they are tried
    ipfs_api: str | None = None  # Kubo's RPC
    peers: tuple[str, ...] = ()  # host:port of BitTorrent peers that are asked directly
    local_only: bool = False  # BitTorrent: no DHT, no trackers outside loopback (tests, study)
    stop: threading.Event = field(default_factory=threading.Event)  # set when the work is to end


@dataclass(frozen=True)
class Wanted:
    """One file to fetch. At least one of sha256, cid and bt_v2_root is known."""

    path: str
    size_bytes: int
    sha256: str | None = None
    blake3: str | None = None
    cid: str | None = None
    bt_v2_root: str | None = None

    @classmethod
    def of(cls, entry: FileEntry) -> Wanted:
        """From a manifest's entry."""
        return cls(entry.path, entry.size_bytes, entry.sha256, entry.blake3, entry.cid, entry.bt_v2_root)


@dataclass(frozen=True)
class Published:
    """What a publish did, or with dry_run would do."""

    location: Location | None
    sent_bytes: int
    files: int
    actions: list[str] = field(default_factory=list)  # one line each, for people
    text: str = ""


class Source(ABC):
    """One place that a release can be had from. Used by several threads at once."""

    kind: str  # name of the transport
    label: str  # how messages call it: the location without its secrets

    @abstractmethod
    def release_file(self, name: str) -> bytes | None:
        """One document (manifest.json, v2.torrent, nodes.car …), or None when this source has no such thing."""

    def listing(self) -> list[Wanted] | None:
        """The files with digests that this source's own address proves (a CID, an infohash), or None."""
        return None

    @abstractmethod
    def read(self, wanted: Wanted, offset: int, length: int) -> Iterator[bytes]:
        """`length` bytes of a file from `offset`, in blocks of any size. Raises SourceError."""

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Give back connections."""


class SwarmSource(Source):
    """A source that decides itself which piece comes when, and from whom (BitTorrent)."""

    @abstractmethod
    def download(
        self,
        wanted: Sequence[Wanted],
        folder: Path,
        progress: Callable[[str, int], None],
        *,
        cancelled: Callable[[], bool],
    ) -> Iterator[Path]:
        """Bring `wanted` below `folder`; yields (path of the file on disk) as each is whole, checked and flushed.

        `progress(peer or web seed, bytes)` is told what came from whom. Raises Stalled when nothing came for
        `Limits.stall_seconds`; what is there stays, and another call goes on from it. Files that other sources
        have brought meanwhile are left out when `cancelled()` or the caller closes the iterator.
        """
