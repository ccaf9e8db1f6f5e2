"""What is wrong with a publishing before a byte is read: places, names, kinds of torrents, the size of a piece.

Everything here raises UsageError with the next thing to try.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from distribute.exports import refuse_secret
from distribute.faces.facts import check_url
from distribute.transports._redact import redact
from headwater.console import say
from headwater.errors import HeadwaterError, UsageError, nearest
from headwater.release import INSIDE, OpenRelease, open_release

if TYPE_CHECKING:
    from distribute.publishing import PublishOptions
    from distribute.scan import Scan

TORRENT_KINDS = ("v1", "v2", "hybrid", "delta")
SMALLEST_PIECE, LARGEST_PIECE, PIECES = 1 << 18, 1 << 24, 2_000
# a v2 torrent has a dictionary for each folder; libtorrent, and our own reader, take 100 in each other
V2_PARTS = 96


def piece_size_for(size_bytes: int) -> int:
    """The power of two from 256 KiB to 16 MiB that gives at most 2,000 pieces where it can."""
    piece = SMALLEST_PIECE
    while piece < LARGEST_PIECE and size_bytes > piece * PIECES:
        piece *= 2
    return piece


def piece_size(options: PublishOptions, parent: OpenRelease | None, size_bytes: int) -> int:
    """The one asked for; else the parent's, for equal pieces keep the layers of unchanged files what they were."""
    piece = options.piece_size_bytes
    if piece is None:
        return (parent.manifest.piece_size_bytes if parent else None) or piece_size_for(size_bytes)
    if piece < 1 << 14 or piece > 1 << 28 or piece & (piece - 1):
        raise UsageError(f"--piece-size is {piece:,}: it must be a power of two from 16 KiB to 256 MiB")
    return piece


def kinds_of(options: PublishOptions) -> tuple[str, ...]:
    """The kinds of torrents to make, sorted."""
    kinds = options.torrents or (("delta", "v2") if options.parent else ("v1", "v2"))
    for kind in kinds:
        if kind not in (*TORRENT_KINDS, "none"):
            raise UsageError(f"unknown kind of torrent {kind!r}: {nearest(kind, (*TORRENT_KINDS, 'none'))}")
    if "none" in kinds and len(set(kinds)) > 1:
        raise UsageError("--torrent none goes with no other kind")
    if "delta" in kinds and options.parent is None:
        raise UsageError("a delta torrent is what changed since a parent", hint="--parent RELEASE")
    return () if "none" in kinds else tuple(sorted(set(kinds)))


def check_depth(scan: Scan, kinds: tuple[str, ...]) -> None:
    """A tree too deep for the v2 torrents that are to be made of it."""
    deep = next((file.path for file in scan.files if file.path.count("/") >= V2_PARTS), None)
    if deep is not None and {"v2", "hybrid"} & set(kinds):
        raise UsageError(
            f"{deep[:100]}…: {deep.count('/')} folders deep; v2 torrents are read to {V2_PARTS - 1}",
            hint="--torrent v1, or fewer folders in each other",
        )


def check_addresses(options: PublishOptions) -> None:
    """Mirrors and trackers are addresses, and will be public."""
    for url in options.mirrors:
        check_url(url, ("http", "https"), "https://HOST/")
        refuse_secret(url)
    for url in options.trackers:
        check_url(url, ("http", "https", "udp"), "http://HOST:PORT/announce")
        if redact(url) != url:
            say(
                "warning",
                f"--tracker {redact(url)}: its key will be public, in the torrents and in the magnet link",
            )


def check_places(folder: Path, options: PublishOptions) -> None:
    """The cache does not lie among the files, and what is published is no release itself."""
    if options.cache is not None and _holds(folder, options.cache):
        inside = options.cache.resolve().relative_to(folder.resolve())
        if inside.parts[:1] != (".headwater",):
            raise UsageError(f"--cache {options.cache}: lies inside {folder}, which is published")
    if options.pack and options.data == "none":
        raise UsageError("--pack with --data none: the tars would be nowhere", hint="leave one of them out")
    try:
        own = open_release(folder)
    except HeadwaterError:
        return
    if own.meta == folder and own.data.is_dir():
        raise UsageError(
            f"{folder}: is a release itself, not the files of one",
            hint=f"headwater seed {folder}; its files are in {own.data}",
        )
    if own.meta == folder / INSIDE and options.name is None and folder.resolve().name != own.release.name:
        say(
            "info",
            f"{folder} was fetched as {own.release.name!r}: --name {own.release.name} makes the same torrents of the same files",
        )


def apart(folder: Path, written: Path, option: str) -> None:
    """What is written, such as a release, inside what it publishes would contain itself."""
    if written.resolve() == folder.resolve() or _holds(folder, written):
        raise UsageError(
            f"{option} {written}: lies inside {folder}, which is published", hint="choose a place outside"
        )
    if _holds(written, folder):
        raise UsageError(
            f"{option} {written}: holds {folder}, which is published", hint="choose another place"
        )


def _holds(outer: Path, inner: Path) -> bool:
    return outer.resolve() in inner.resolve().parents


def name_of(folder: Path, options: PublishOptions) -> str:
    """The name of the release."""
    from distribute.names import unsafe

    name = options.name if options.name is not None else folder.resolve().name
    taken = name.startswith(".") or name.endswith((".json", ".torrent", ".car", ".meta4"))
    if taken or "/" in name or unsafe(name) or len(name.encode()) > 200:
        raise UsageError(
            f"{name!r} cannot be the name of a release", hint="--name NAME, without a path and not hidden"
        )
    return name
