"""A release: a manifest, what it is called on each network, where it lies, and the signed pointer to the latest one.

    RELEASE/manifest.json    manifest/1 in canonical form: the SHA-256 of this very file is the manifest id
            release.json     release/1: name, content identifiers, infohashes
            locations.json   locations/1: where it can be had; may change, proves nothing
            latest.json      pointer/1: signed, says which manifest is the newest
            step.json        step/1 of the publishing
            v1.torrent, v2.torrent, hybrid.torrent, delta.torrent, nodes.car, release.meta4 …
            NAME/…           the files (a torrent client's folder NAME, a web seed under the folder above it)

A fetched folder has its files at the top and the rest under `.headwater/release/`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from headwater.errors import IntegrityError, MissingInput
from headwater.files import atomic_file, named_io
from headwater.manifest import Count, FileEntry, Hex64, Manifest, Record, canonical, safe_relative

MANIFEST_NAME = "manifest.json"
RELEASE_NAME = "release.json"
LOCATIONS_NAME = "locations.json"
LATEST_NAME = "latest.json"
PARTIAL_NAME = "partial.json"
LEFTOVERS_NAME = "leftovers.json"
NODES_NAME = "nodes.car"
METALINK_NAME = "release.meta4"
INSIDE = ".headwater/release"  # where a fetched folder keeps them
LIMIT_BYTES = 256 << 20  # of one document; a manifest takes about 400 bytes a file

PATH_BYTES, NAME_BYTES, FOLDERS = (
    4_095,
    255,
    256,
)  # of a path, of one part of it, in each other: what a disk can hold

# they would act on the terminal that a message is shown on
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")

Model = TypeVar("Model", bound=BaseModel)


class Torrent(Record):
    """One .torrent file of a release."""

    file: str = Field(
        pattern="^[A-Za-z0-9][A-Za-z0-9._-]*\\.torrent$", description="its name beside release.json"
    )
    infohash: str = Field(
        pattern="^([0-9a-f]{40}|[0-9a-f]{64})$", description="v1: SHA-1, v2: SHA-256, in hex"
    )
    piece_size_bytes: Count
    size_bytes: Count = Field(description="of the files it carries, without padding")


class Release(Record):
    """`release/1`: what a manifest is called on each network. Nothing here is trusted: bytes are checked by the manifest."""

    format: Literal["release/1"] = "release/1"
    name: str = Field(description="of the data folder, and of the torrents")
    manifest_id: Hex64
    files: Count
    size_bytes: Count
    cids: dict[str, str] = Field(description="CID of the folder, by profile")
    torrents: dict[str, Torrent] = Field(default_factory=dict, description="by kind: v1, v2, hybrid, delta")
    parents: list[Hex64] = Field(default_factory=list, description="manifest ids of the releases before it")


class Location(Record):
    """One place."""

    kind: str = Field(description="transport: bittorrent, ipfs, girder, http, file")
    url: str = Field(
        description="magnet link, ipfs://CID, girder+https://…, https://…, s3://…; never with a secret"
    )


class Locations(Record):
    """`locations/1`: where a release was put. May be out of date; `headwater mirror` asks."""

    format: Literal["locations/1"] = "locations/1"
    manifest_id: Hex64
    locations: list[Location]


class PointerBody(Record):
    """What is signed: RFC 8785 bytes of this object."""

    dataset: str
    version: Annotated[int, Field(ge=1, lt=1 << 53)]
    manifest_id: Hex64
    previous: Hex64 | None = Field(None, description="manifest id that the version before pointed to")
    signed_at: str = Field(description="RFC 3339, UTC")
    expires_at: str = Field(description="RFC 3339, UTC; after it the pointer may be an old one played back")


class Signature(Record):
    """One signature over a PointerBody."""

    algorithm: Literal["ed25519"] = "ed25519"
    key_id: Hex64 = Field(description="SHA-256 of the 32 bytes of the public key")
    signature: str = Field(pattern="^[0-9a-f]{128}$")


class Pointer(Record):
    """`pointer/1`: the signed answer to: which manifest is the latest?"""

    format: Literal["pointer/1"] = "pointer/1"
    body: PointerBody
    signatures: list[Signature]


class Partial(Record):
    """`partial/1`: which files of its manifest a folder holds, because patterns have left out the others."""

    format: Literal["partial/1"] = "partial/1"
    manifest_id: Hex64
    paths: list[str] = Field(description="that were fetched so far, sorted by their bytes")


class Leftovers(Record):
    """`leftovers/1`: files of older releases that still lie in a folder whose release does not have them."""

    format: Literal["leftovers/1"] = "leftovers/1"
    entries: list[FileEntry] = Field(description="as their manifests had them, sorted by path")


@dataclass(frozen=True)
class OpenRelease:
    """A release on this disk."""

    meta: Path  # the folder of manifest.json
    data: Path  # the folder of the files
    manifest: Manifest
    release: Release

    def file(self, name: str) -> Path:
        """Path of one of the documents."""
        return self.meta / name


def public_documents(release: OpenRelease) -> list[str]:
    """Names of the documents that others get, as far as they are there; the manifest last, for it says that the rest is there.

    step.json is not among them: it tells of this machine.
    """
    torrents = sorted(torrent.file for torrent in release.release.torrents.values())
    names = (LOCATIONS_NAME, LATEST_NAME, NODES_NAME, METALINK_NAME, *torrents, RELEASE_NAME, MANIFEST_NAME)
    return [name for name in names if release.file(name).is_file()]


def open_release(path: Path) -> OpenRelease:
    """The release at PATH: a folder that publish wrote or fetch filled.

    Raises MissingInput when it is none, IntegrityError when its documents contradict each other.
    """
    # inside first: among the files that were fetched may be ones with the names of documents
    for meta in (path / INSIDE, path):
        if (meta / RELEASE_NAME).is_file() and (meta / MANIFEST_NAME).is_file():
            break
    else:
        raise MissingInput(f"{path}: no release here", hint=f"headwater publish DIR -o {path}")
    release = read_document(meta / RELEASE_NAME, Release)
    raw = read_limited(meta / MANIFEST_NAME)
    manifest = parse_manifest(raw, release.manifest_id, str(meta / MANIFEST_NAME))
    if "/" in _fit(release.name, str(meta / RELEASE_NAME)) or release.name.startswith("."):
        raise IntegrityError(
            f"{meta / RELEASE_NAME}: {release.name!r} is no name of a folder", hint="do not use this release"
        )
    return OpenRelease(meta, path / release.name if meta == path else path, manifest, release)


def parse_manifest(raw: bytes, manifest_id: str | None, where: str) -> Manifest:
    """A manifest whose bytes hash to `manifest_id`. Raises IntegrityError for anything else, also unsafe or unsorted paths."""
    found = hashlib.sha256(raw).hexdigest()
    if manifest_id is not None and found != manifest_id:
        raise IntegrityError(
            f"{where}: its SHA-256 is {found[:12]}…, wanted is the manifest {manifest_id[:12]}…",
            hint="it was changed, or it is another version's: take it from another place",
        )
    manifest = _parse(raw, Manifest, where)
    paths = [_fit(entry.path, where) for entry in manifest.entries]
    if sorted(set(paths), key=str.encode) != paths:
        raise IntegrityError(f"{where}: its entries are not sorted by path, or one occurs twice")
    if canonical(manifest) != raw:
        raise IntegrityError(
            f"{where}: not in canonical form", hint="its id would not be the SHA-256 of the file"
        )
    folders = {folder for path in paths for folder in _folders(path)}
    if clash := sorted(folders & set(paths)):
        raise IntegrityError(f"{where}: {clash[0]!r} is named as a file and as a folder")
    return manifest


def _fit(path: str, where: str) -> str:
    """`path` if it stays inside its folder and a disk and a terminal can take it; raises IntegrityError."""
    parts = safe_relative(path).split("/")
    long = len(path.encode()) > PATH_BYTES or len(parts) > FOLDERS + 1
    if long or _CONTROL.search(path) or any(len(part.encode()) > NAME_BYTES for part in parts):
        raise IntegrityError(
            f"{where}: the path {path[:100]!r} is too long or holds control characters",
            hint="do not use this manifest",
        )
    return path


def _folders(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def read_limited(path: Path, limit: int = LIMIT_BYTES) -> bytes:
    """The bytes of a document of ours. Raises IntegrityError past `limit`, MissingInput when it is not there."""
    with named_io(path), open(path, "rb") as handle:
        raw = handle.read(limit + 1)
    if len(raw) > limit:
        raise IntegrityError(f"{path}: larger than {limit:,} bytes: not a document of ours")
    return raw


def read_document(path: Path, kind: type[Model]) -> Model:
    """One document from a file."""
    return _parse(read_limited(path), kind, str(path))


def _parse(raw: bytes, kind: type[Model], where: str) -> Model:
    try:
        return kind.model_validate_json(raw)
    except (ValidationError, ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{where}: not a {kind.__name__.lower()} document", hint="take it from another place"
        ) from error


def parse_document(raw: bytes, kind: type[Model], where: str) -> Model:
    """One document from bytes; raises IntegrityError."""
    return _parse(raw, kind, where)


def write_canonical(path: Path, document: BaseModel) -> None:
    """Write a document in its canonical form, so that the SHA-256 of the file is its id."""
    with atomic_file(path) as handle:
        handle.write(canonical(document))
