"""The documents of a release beside its manifest: taken from any source, kept only when they fit the manifest."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from distribute import merkle
from distribute.fetching.pieces import Pieces
from distribute.fetching.resolve import Resolved
from distribute.torrents import TorrentFile
from distribute.transports._base import Source, SourceError
from headwater.console import say
from headwater.errors import HeadwaterError, IntegrityError
from headwater.files import FOLDER_MODE, atomic_file, named_io
from headwater.manifest import Manifest, safe_relative
from headwater.release import (
    LATEST_NAME,
    LOCATIONS_NAME,
    MANIFEST_NAME,
    NODES_NAME,
    RELEASE_NAME,
    Locations,
    Pointer,
    Release,
    parse_document,
)

NODES_BYTES = 64 << 20  # a larger nodes.car is not fetched along
TORRENTS = ("v2.torrent", "v1.torrent", "hybrid.torrent")


def collect(found: Resolved, sources: Sequence[Source], fallback_name: str) -> Release | None:
    """Fill `found.documents` and give the release document, made here when no source has a right one."""
    manifest = found.manifest
    if manifest is None or found.raw is None:
        for name in TORRENTS:
            _take(found, sources, name, lambda raw: _torrent(raw, None))
        return None
    found.documents[MANIFEST_NAME] = found.raw
    manifest_id = found.manifest_id
    assert manifest_id is not None

    def release_fits(raw: bytes) -> None:
        document = parse_document(raw, Release, RELEASE_NAME)
        if document.manifest_id != manifest_id or "/" in safe_relative(document.name):
            raise IntegrityError("belongs to another manifest")

    def locations_fit(raw: bytes) -> None:
        if parse_document(raw, Locations, LOCATIONS_NAME).manifest_id != manifest_id:
            raise IntegrityError("belongs to another manifest")

    def pointer_fits(raw: bytes) -> None:
        if parse_document(raw, Pointer, LATEST_NAME).body.manifest_id != manifest_id:
            raise IntegrityError("points to another manifest")

    _take(found, sources, RELEASE_NAME, release_fits)
    if RELEASE_NAME in found.documents:
        release = parse_document(found.documents[RELEASE_NAME], Release, RELEASE_NAME)
        kinds = {torrent.file for torrent in release.torrents.values()}
        _take(found, sources, LOCATIONS_NAME, locations_fit)
        _take(found, sources, LATEST_NAME, pointer_fits)
        if release.cids:
            _take(found, sources, NODES_NAME, _nodes)
            _hand_on(found)
    else:
        release = Release(
            name=fallback_name,
            manifest_id=manifest_id,
            files=len(manifest.entries),
            size_bytes=sum(entry.size_bytes for entry in manifest.entries),
            cids={},
        )
        kinds = {TORRENTS[0]}
    for name in TORRENTS:
        if name in kinds:
            _take(found, sources, name, lambda raw: _torrent(raw, manifest))
    return release


def _take(found: Resolved, sources: Sequence[Source], name: str, check: Callable[[bytes], object]) -> None:
    for source in sources:
        try:
            raw = source.release_file(name)
            if raw is None:
                continue
            checked = check(raw)
        except SourceError:
            continue  # the files decide what becomes of this source
        except (HeadwaterError, ValueError) as error:
            say("debug", f"{source.label}: its {name} is not used: {error}")
            continue
        found.documents[name] = raw
        if isinstance(checked, TorrentFile):
            found.torrents[name] = checked
        return


def _hand_on(found: Resolved) -> None:
    """Interior nodes of the DAG, for the sources that would else fetch them one by one."""
    for source in found.sources:
        add_nodes: Callable[[bytes], object] | None = getattr(source, "add_nodes", None)
        if add_nodes is not None and NODES_NAME in found.documents:
            try:
                add_nodes(found.documents[NODES_NAME])
            except HeadwaterError as error:
                say("debug", f"{source.label}: {error.message}")


def _torrent(raw: bytes, manifest: Manifest | None) -> TorrentFile:
    parsed = TorrentFile.parse(raw, names="safe")
    if manifest is not None:
        entries = {entry.path: entry for entry in manifest.entries}
        for file in parsed.files:
            entry = entries.get(file.path)
            if entry is None or entry.size_bytes != file.size_bytes:
                raise IntegrityError(f"torrent: {file.path!r} is not in the manifest with this size")
            if file.root is not None and entry.bt_v2_root is not None and file.root.hex() != entry.bt_v2_root:
                raise IntegrityError(f"torrent: {file.path!r} has another root")
    return parsed


def _nodes(raw: bytes) -> None:
    from distribute.car import read_car

    if len(raw) > NODES_BYTES:
        raise IntegrityError("too large to be fetched along")
    for _ in read_car(io.BytesIO(raw)):
        pass  # every block is checked against its CID


def piece_hashes(found: Resolved) -> dict[str, Pieces]:
    """By path, the piece hashes of the files that have a root; layers come from a torrent and are checked against the root."""
    layers: dict[str, tuple[int, bytes]] = {}
    for name in ("hybrid.torrent", "v2.torrent"):
        if (parsed := found.torrents.get(name)) is not None:
            layers |= {file.path: (parsed.piece_size, file.layer) for file in parsed.files if file.layer}
    pieces = {}
    for wanted in found.wanted:
        if wanted.bt_v2_root is None or not wanted.size_bytes or wanted.path not in layers:
            continue
        piece_size, layer = layers[wanted.path]
        root = bytes.fromhex(wanted.bt_v2_root)
        try:
            merkle.check_layer(root, layer, piece_size, wanted.size_bytes)
        except (IntegrityError, ValueError):
            continue
        pieces[wanted.path] = Pieces(wanted.size_bytes, piece_size, root, layer)
    return pieces


def write_documents(folder: Path, documents: dict[str, bytes]) -> None:
    """Put them into DIR/.headwater/release/, the manifest last. Those of another manifest that are not replaced are removed."""
    with named_io(folder):
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        old = folder / MANIFEST_NAME
        if old.is_file() and old.read_bytes() != documents[MANIFEST_NAME]:
            for name in (*TORRENTS, LOCATIONS_NAME, LATEST_NAME, NODES_NAME):
                if name not in documents:
                    (folder / name).unlink(missing_ok=True)
    for name in sorted(documents, key=lambda name: (name == MANIFEST_NAME, name)):
        if folder.joinpath(name).is_file() and folder.joinpath(name).read_bytes() == documents[name]:
            continue
        with atomic_file(folder / name, durable=False) as handle:
            handle.write(documents[name])
