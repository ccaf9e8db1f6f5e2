"""What a fetch is told, besides where from and where to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headwater.errors import UsageError


@dataclass(frozen=True)
class FetchOptions:
    """Times in seconds. Patterns: see `plan.matcher`."""

    manifest: str | None = None  # 64 hex digits, a file, or an address: what is trusted
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    allow_private: bool = False
    gateways: tuple[str, ...] = ()
    ipfs_api: str | None = None
    peers: tuple[str, ...] = ()  # host:port of BitTorrent peers
    stall_seconds: float = 20.0  # silence after which a source pauses and others take over
    patience_seconds: float = 60.0  # how long all sources may be silent before the fetch fails
    connections: int = 16  # to one source, at most: see `width`
    keys: tuple[
        str, ...
    ] = ()  # public Ed25519 keys: 64 hex digits, or files; the sources' latest.json is then what is trusted
    threshold: int = 1  # how many of the keys must have signed
    dataset: str | None = None  # that latest.json must be about
    allow_expired: bool = False
    local_only: bool = False  # BitTorrent without DHT and outside trackers
    prune: bool = False  # remove files of the older release in the folder that the new one does not have
    reuse: tuple[str, ...] = ()  # releases and fetched folders whose equal files are copied
    workers: int | None = None  # threads that check what is there already

    def check(self) -> None:
        """Raises UsageError on values that cannot be."""
        for name, value in (("--stall", self.stall_seconds), ("--patience", self.patience_seconds)):
            if not 0 < value < 1e6:
                raise UsageError(f"{name} {value:g}: give a number of seconds above 0")
        if not 1 <= self.connections <= 64:
            raise UsageError(f"--connections {self.connections}: from 1 to 64")
        if self.keys and not 1 <= self.threshold <= len(self.keys):
            raise UsageError(f"--threshold {self.threshold}: there are {len(self.keys)} keys")
        if self.manifest and self.keys:
            raise UsageError(
                "--manifest and --key both say what to trust",
                hint="leave one out: a signed pointer names its manifest",
            )


def is_id(text: str) -> bool:
    """Whether `text` is a manifest id and not the name of a file."""
    return len(text) == 64 and all(c in "0123456789abcdef" for c in text.lower()) and not Path(text).exists()
