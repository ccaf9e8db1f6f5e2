"""A release in other people's formats: Metalink 4 (RFC 5854) for download programs, BagIt 1.0 (RFC 8493) for archives.

Both say only what the manifest says: sizes and SHA-256. Neither holds a time, so the same release gives the same bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit
from xml.sax.saxutils import escape, quoteattr

import headwater
from distribute._stage import link_or_copy, new_folder
from headwater.console import track
from headwater.errors import IntegrityError, UsageError
from headwater.files import atomic_file, named_io
from headwater.manifest import Manifest, safe_relative
from headwater.release import (
    LATEST_NAME,
    LOCATIONS_NAME,
    MANIFEST_NAME,
    RELEASE_NAME,
    Location,
    Locations,
    OpenRelease,
    Release,
)

_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
TAGS = "headwater"  # folder of a bag that keeps the release's own documents
KEPT = (MANIFEST_NAME, RELEASE_NAME, LOCATIONS_NAME, LATEST_NAME, "step.json")


def metalink(release: Release, manifest: Manifest, locations: Locations) -> bytes:
    """A Metalink 4 document: every file with size, SHA-256, one address per HTTP mirror, and the v1 torrent where there is one.

    A mirror holds what a RELEASE folder holds, so a file is at `BASE/NAME/PATH`. Without an HTTP mirror the addresses are
    `ipfs://CID/PATH`, because RFC 5854 (4.1.2) wants at least one. Raises UsageError without either, or for an address that
    carries a password.
    """
    _attribute(safe_relative(release.name))
    bases = [base for loc in locations.locations if loc.kind == "http" and (base := _base(loc))]
    torrent = _torrent(release, bases)
    prefix = f"{quote(release.name)}/"
    if not bases:
        bases = [f"{loc.url.rstrip('/')}/" for loc in locations.locations if loc.kind == "ipfs"][:1]
        prefix = ""
    if not bases:
        raise UsageError(
            "a Metalink needs an address of the files, and this release has none",
            hint="publish with --mirror URL",
        )
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<metalink xmlns="urn:ietf:params:xml:ns:metalink">',
        f"  <generator>Headwater/{headwater.__version__}</generator>",
    ]
    for entry in manifest.entries:
        path = safe_relative(entry.path)
        name = _attribute(f"{release.name}/{path}")
        lines += [
            f"  <file name={name}>",
            f"    <identity>{escape(release.name)}</identity>",
            f"    <version>{release.manifest_id}</version>",
            f"    <size>{entry.size_bytes}</size>",
            f'    <hash type="sha-256">{entry.sha256}</hash>',
        ]
        if torrent:
            lines.append(f'    <metaurl mediatype="torrent" name={name}>{escape(torrent)}</metaurl>')
        lines += [
            f'    <url priority="{number}">{escape(base + prefix + quote(path))}</url>'
            for number, base in enumerate(bases, 1)
        ]
        lines.append("  </file>")
    return "\n".join([*lines, "</metalink>", ""]).encode()


def _base(location: Location) -> str | None:
    """The folder address of an HTTP mirror, with a slash at its end; None for what is none (s3://, a file)."""
    try:
        parts = urlsplit(location.url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    refuse_secret(location.url)
    return location.url.partition("#")[0].rstrip("/") + "/"


def refuse_secret(url: str) -> None:
    """Raises UsageError for an address of a mirror that must not be published."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UsageError("a mirror's address cannot be read", hint="such as https://HOST/") from None
    if parts.username is not None or parts.password is not None or parts.query:
        raise UsageError(
            f"the mirror at {parts.hostname} has a password or a query in its address; that would be published",
            hint="name the address without it",
        )


def _torrent(release: Release, bases: list[str]) -> str | None:
    # v1 alone: what programs that read Metalink know
    if "v1" not in release.torrents or not bases:
        return None
    return bases[0] + quote(release.torrents["v1"].file)


def _attribute(text: str) -> str:
    if _NO_XML.search(text):
        raise UsageError(
            f"{ascii(text)} cannot stand in a Metalink: XML has no such characters", hint="rename it"
        )
    return quoteattr(text, {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})


@dataclass(frozen=True)
class Bag:
    """A bag that was written. Sizes in bytes; `copied_bytes` is what could not be hard-linked."""

    folder: Path
    files: int
    size_bytes: int
    copied_bytes: int


def bagit(release: OpenRelease, out: Path, *, info: Mapping[str, str] | None = None) -> Bag:
    """Write the bag OUT: the files below `data/` as hard links, and the release's documents as tag files.

    `info`: more lines of bag-info.txt, such as Source-Organization. The digests are the manifest's; the bag's own validation, or
    `headwater verify`, reads the files. Raises UsageError when OUT is there, MissingInput for a file that is gone, IntegrityError
    for one of another size. Killed at any point, OUT is whole or not there.
    """
    with new_folder(out) as stage:
        copied = _payload(release, stage)
        _tags(release, stage, info or {})
    entries = release.manifest.entries
    return Bag(out, len(entries), sum(entry.size_bytes for entry in entries), copied)


def _payload(release: OpenRelease, stage: Path) -> int:
    copied, made = 0, set()
    (stage / "data").mkdir()
    entries = release.manifest.entries
    with track("bag", total=len(entries), unit="files") as bar:
        for entry in entries:
            source = release.data / safe_relative(entry.path)
            target = stage / "data" / entry.path
            if target.parent not in made:
                _no_links(release.data, entry.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                made.add(target.parent)
            copied += link_or_copy(source, target)
            if (size := target.stat().st_size) != entry.size_bytes:
                raise IntegrityError(
                    f"{source}: {size:,} bytes, recorded are {entry.size_bytes:,}",
                    hint="headwater verify names all that changed",
                )
            bar.add()
    return copied


def _no_links(data: Path, path: str) -> None:
    """The folders above a file are folders: a link could lead anywhere."""
    for part in path.split("/")[:-1]:
        data = data / part
        if data.is_symlink():
            raise IntegrityError(f"{data}: a symbolic link where a folder was recorded")


def _tags(release: OpenRelease, stage: Path, info: Mapping[str, str]) -> None:
    entries = release.manifest.entries
    size = sum(entry.size_bytes for entry in entries)
    _write(stage / "bagit.txt", "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n")
    facts = {
        **info,
        "External-Identifier": release.release.manifest_id,
        "External-Description": release.release.name,
        "Bag-Software-Agent": f"Headwater {headwater.__version__}",
        "Payload-Oxum": f"{size}.{len(entries)}",
    }
    _write(
        stage / "bag-info.txt", "".join(f"{_label(key)}: {_value(value)}\n" for key, value in facts.items())
    )
    _write(
        stage / "manifest-sha256.txt",
        "".join(f"{entry.sha256}  data/{encode_path(entry.path)}\n" for entry in entries),
    )
    (stage / TAGS).mkdir()
    for name in KEPT:
        if release.file(name).is_file():
            with named_io(release.file(name)), atomic_file(stage / TAGS / name) as handle:
                handle.write(release.file(name).read_bytes())
    lines = []
    for path in sorted(_tag_files(stage)):
        digest = hashlib.sha256((stage / path).read_bytes()).hexdigest()
        lines.append(f"{digest}  {encode_path(path)}\n")
    _write(stage / "tagmanifest-sha256.txt", "".join(lines))


def _tag_files(stage: Path) -> Iterator[str]:
    yield from (path.name for path in stage.iterdir() if path.is_file())
    yield from (f"{TAGS}/{path.name}" for path in (stage / TAGS).iterdir())


def encode_path(path: str) -> str:
    """A path as a BagIt manifest spells it: CR, LF and % as %0D, %0A and %25 (RFC 8493, 2.1.3)."""
    return path.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _label(key: str) -> str:
    if not key or ":" in key or any(char in key for char in "\r\n") or key != key.strip():
        raise UsageError(f"{key!r} cannot be a label of bag-info.txt")
    return key


def _value(text: str) -> str:
    # a line that begins with a blank goes on with the one before (RFC 8493, 2.2.2)
    return "\n ".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as handle:
        handle.write(text.encode())
