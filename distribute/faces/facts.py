"""What a seed is asked to do, what it says it does, and what it has done: options, facts, totals."""

from __future__ import annotations

import ipaddress
import shlex
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from headwater.errors import HeadwaterError, UsageError
from headwater.manifest import Energy
from headwater.release import OpenRelease

EVERY_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound


@dataclass(frozen=True)
class SeedOptions:
    """How to seed. Ports: 0 is any free one. `upload_limit`: bytes a second, for HTTP and for BitTorrent each."""

    host: str = "127.0.0.1"
    port: int = 0
    torrent_port: int = 0
    bittorrent: bool = True
    gateway: bool = True
    upload_limit: int | None = None
    trackers: tuple[str, ...] = ()
    public_url: str | None = None  # how others reach the HTTP port, when not by host and port
    local_only: bool = False  # BitTorrent: no DHT, nothing beyond what is configured
    connections: int = 256  # of the HTTP port, at most

    def check(self) -> None:
        """Raises UsageError on values that cannot be."""
        for name, port in (("--port", self.port), ("--torrent-port", self.torrent_port)):
            if not 0 <= port <= 65535:
                raise UsageError(f"{name} {port}: a port is a number from 0 to 65535")
        if self.upload_limit is not None and self.upload_limit < 1:
            raise UsageError("--upload-limit is in bytes a second, and at least 1")
        if self.connections < 1:
            raise UsageError("at least one connection must be allowed")
        if not self.host:
            raise UsageError("--host is empty", hint="0.0.0.0 and :: are every address of this machine")
        for url in self.trackers:
            check_url(url, ("http", "https", "udp"), "http://HOST:PORT/announce")
        if self.public_url:
            check_url(self.public_url, ("http", "https"), "https://HOST/")


def check_url(url: str, schemes: tuple[str, ...], example: str) -> None:
    """Raises UsageError unless `url` has one of the schemes and something after it."""
    scheme, slashes, rest = url.partition("://")
    if scheme not in schemes or not slashes or not rest:
        raise UsageError(f"{url!r} is not an address that others could use", hint=f"such as {example}")


@dataclass(frozen=True)
class Facts:
    """What is served and where: for people, and for scripts that asked for any port."""

    name: str
    manifest_id: str
    files: int
    size_bytes: int
    present_files: int  # with the right size on this disk
    url: str
    gateway: str | None
    peer: str | None
    cids: dict[str, str]
    magnets: dict[str, str]
    fetch: str
    alternatives: list[str]
    problems: list[str] = field(default_factory=list)
    second_copy_bytes: int = 0

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def text(self) -> str:
        """For people."""
        lines = [f"{self.name}: {self.files:,} files, {self.size_bytes:,} bytes, no second copy"]
        lines += [f"  manifest  {self.manifest_id}"]
        lines += [f"  HTTP      {self.url}"]
        lines += [f"  gateway   {self.gateway}"] if self.gateway else []
        lines += [f"  peer      {self.peer}"] if self.peer else []
        lines += [f"  CID       {cid} ({profile})" for profile, cid in self.cids.items()]
        lines += [f"  magnet    {magnet} ({kind})" for kind, magnet in self.magnets.items()]
        lines += [f"  fetch     {self.fetch}"]
        lines += [f"  or        {line}" for line in self.alternatives]
        lines += [f"  problem   {problem}" for problem in self.problems[:3]]
        if self.present_files < self.files:
            lines.append(f"  {self.files - self.present_files:,} of {self.files:,} files are not served")
        return "\n".join(lines)


@dataclass(frozen=True)
class Totals:
    """What was sent, by face."""

    seconds: float
    faces: dict[str, dict[str, int]]  # http, ipfs: requests, sent_bytes; bittorrent: sent_bytes, peers
    refused_connections: int = 0
    energy: Energy | None = None

    @property
    def sent_bytes(self) -> int:
        """Over all faces."""
        return sum(face.get("sent_bytes", 0) for face in self.faces.values())

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "seconds": round(self.seconds, 3),
            "sent_bytes": self.sent_bytes,
            "faces": self.faces,
            "refused_connections": self.refused_connections,
            "energy": self.energy.model_dump(mode="json") if self.energy else None,
        }

    def text(self) -> str:
        """For people."""
        faces = ", ".join(f"{name} {face.get('sent_bytes', 0):,}" for name, face in self.faces.items())
        return f"sent {self.sent_bytes:,} bytes in {self.seconds:,.0f} s ({faces})"


def fetch_lines(
    release: OpenRelease, url: str, gateway: str | None, magnets: Mapping[str, str]
) -> tuple[str, list[str]]:
    """Command lines that fetch it: by HTTP, and the alternatives. Private addresses need a word, since fetch refuses them.

    A magnet link brings no manifest: its infohash is what proves the files, so the one made of SHA-256 is taken if there is one.
    """
    output = f"{' --allow-private' if is_private(url) else ''} -o {shlex.quote(release.release.name)}"
    end = f" --manifest {release.release.manifest_id}{output}"
    others = []
    if kind := next((kind for kind in ("v2", "hybrid", "v1") if kind in magnets), None):
        others.append(f"headwater fetch {shlex.quote(magnets[kind])}{output}")
    if gateway and release.release.cids:
        cids = release.release.cids
        cid = cids.get(release.manifest.cid_profile or "") or next(iter(cids.values()))
        others.append(f"headwater fetch ipfs://{cid} --gateway {shlex.quote(gateway)}{end}")
    return f"headwater fetch {shlex.quote(url)}{end}", others


def page_facts(facts: Facts) -> list[tuple[str, str]]:
    """Rows for the page at `/`."""
    rows = [("fetch", facts.fetch), *(("or", line) for line in facts.alternatives)]
    rows += [(f"CID {profile}", cid) for profile, cid in facts.cids.items()]
    return rows + [(f"magnet {kind}", magnet) for kind, magnet in facts.magnets.items()]


def host_in_url(host: str) -> str:
    """As it stands in an address; for a socket on every address, the name of this machine."""
    if host in EVERY_ADDRESS:
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def is_private(url: str) -> bool:
    """Whether an address is one that fetch refuses by itself: loopback, private, link-local, a local name."""
    name = urlsplit(url).hostname or ""
    try:
        return not ipaddress.ip_address(name).is_global
    except ValueError:
        return "." not in name or name.endswith((".local", ".localhost"))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a socket at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address_of(host: str) -> str:
    """The numeric address of a host of this machine; one name is one socket. Raises HeadwaterError."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        raise HeadwaterError(
            f"{host!r} is no address of this machine: {error}", hint="--host 127.0.0.1"
        ) from error
