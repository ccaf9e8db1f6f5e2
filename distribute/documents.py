"""The documents of a release, from the digests of one read: manifest, CIDs, torrents, interior nodes, Metalink, locations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from distribute.car import write_car
from distribute.cid import Cid
from distribute.digests import TreeDigests
from distribute.torrents import V2File, build_hybrid, build_v1, build_v2, infohash_v1, infohash_v2, magnet
from distribute.unixfs import PROFILES, Built, file_from_leaves, tree
from headwater.files import atomic_file
from headwater.manifest import FileEntry, Manifest
from headwater.release import (
    LOCATIONS_NAME,
    MANIFEST_NAME,
    METALINK_NAME,
    NODES_NAME,
    RELEASE_NAME,
    Location,
    Locations,
    Release,
    Torrent,
    write_canonical,
)

EMPTY_FOLDERS = "empty_folders"  # extension of the manifest: part of the CIDs, so a fetch makes them again


@dataclass(frozen=True)
class Material:
    """Everything a release is made from."""

    name: str
    piece_size_bytes: int
    digests: TreeDigests
    profiles: tuple[str, ...]  # the first gives the manifest's CIDs
    empty_folders: tuple[str, ...] = ()
    step_id: str | None = None  # of the step that made the folder
    parents: tuple[str, ...] = ()
    trackers: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()

    @cached_property
    def paths(self) -> list[str]:
        """All files, in the order of a manifest and of a torrent."""
        return sorted(self.digests.files, key=str.encode)

    @cached_property
    def dags(self) -> dict[str, dict[str, Built]]:
        """By profile and path, the DAG of each file without its leaves."""
        return {
            profile: {
                path: file_from_leaves(PROFILES[profile], found.leaves[profile], found.size_bytes)
                for path, found in self.digests.files.items()
            }
            for profile in self.profiles
        }

    @cached_property
    def roots(self) -> dict[str, Built]:
        """By profile, the folder."""
        return {
            profile: tree(PROFILES[profile], files, self.empty_folders)
            for profile, files in self.dags.items()
        }

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest; its canonical bytes are what the release's id is the SHA-256 of."""
        dag = self.dags[self.profiles[0]]
        return Manifest(
            entries=[self._entry(path, dag[path].cid) for path in self.paths],
            cid_profile=self.profiles[0],
            piece_size_bytes=self.piece_size_bytes,
            parents=list(self.parents),
            step_id=self.step_id,
            extensions={EMPTY_FOLDERS: list(self.empty_folders)} if self.empty_folders else {},
        )

    def _entry(self, path: str, cid: Cid) -> FileEntry:
        found = self.digests.files[path]
        return FileEntry(
            path=path,
            size_bytes=found.size_bytes,
            sha256=found.sha256,
            blake3=found.blake3,
            cid=cid.text,
            bt_v2_root=found.bt_v2_root,
        )


def write_documents(
    stage: Path, material: Material, kinds: tuple[str, ...], delta: TreeDigests | None = None
) -> Release:
    """Write every document of the release into `stage`. `delta`: digests of the new files, for the delta torrent."""
    manifest = material.manifest
    write_canonical(stage / MANIFEST_NAME, manifest)
    torrents = {}
    for kind in kinds:
        if kind == "delta" and not (delta and delta.files):
            continue
        raw = _torrent(kind, material, delta)
        file = f"{kind}.torrent"
        with atomic_file(stage / file) as handle:
            handle.write(raw)
        carried = delta.files if kind == "delta" and delta else material.digests.files
        torrents[kind] = Torrent(
            file=file,
            infohash=infohash_v2(raw) if kind == "v2" else infohash_v1(raw),
            piece_size_bytes=material.piece_size_bytes,
            size_bytes=sum(found.size_bytes for found in carried.values()),
        )
    release = Release(
        name=material.name,
        manifest_id=manifest.id,
        files=len(manifest.entries),
        size_bytes=sum(entry.size_bytes for entry in manifest.entries),
        cids={profile: root.cid.text for profile, root in material.roots.items()},
        torrents=torrents,
        parents=list(material.parents),
    )
    write_canonical(stage / RELEASE_NAME, release)
    _write_nodes(stage / NODES_NAME, material)
    locations = first_locations(release, material.trackers, material.mirrors)
    write_canonical(stage / LOCATIONS_NAME, locations)
    from distribute.exports import metalink

    with atomic_file(stage / METALINK_NAME) as handle:
        handle.write(metalink(release, manifest, locations))
    return release


def first_locations(release: Release, trackers: tuple[str, ...], mirrors: tuple[str, ...]) -> Locations:
    """What is known at publishing: the mirrors that were named, and the addresses that the content itself gives."""
    found = [Location(kind="http", url=url) for url in mirrors]
    if release.torrents:
        found.append(Location(kind="bittorrent", url=release_magnet(release, trackers, mirrors)))
    found += [Location(kind="ipfs", url=f"ipfs://{cid}") for cid in release.cids.values()]
    return Locations(manifest_id=release.manifest_id, locations=found)


def release_magnet(
    release: Release,
    trackers: tuple[str, ...] = (),
    mirrors: tuple[str, ...] = (),
    peers: tuple[str, ...] = (),
) -> str:
    """One magnet link for the whole data: v1 where there is one, for it is what every client reads; else v2."""
    for kind in ("v1", "hybrid", "v2"):
        if kind in release.torrents:
            return kind_magnet(release, kind, trackers, mirrors, peers)
    return ""


def kind_magnet(
    release: Release,
    kind: str,
    trackers: tuple[str, ...] = (),
    mirrors: tuple[str, ...] = (),
    peers: tuple[str, ...] = (),
) -> str:
    """The magnet link of one torrent of the release."""
    infohash = release.torrents[kind].infohash
    return magnet(
        v1=infohash if len(infohash) == 40 else None,
        v2=infohash if len(infohash) == 64 else None,
        name=release.name,
        trackers=trackers,
        web_seeds=mirrors,
        peers=peers,
    )


def _torrent(kind: str, material: Material, delta: TreeDigests | None) -> bytes:
    digests = delta if kind == "delta" and delta else material.digests
    sizes = [(path, found.size_bytes) for path, found in digests.files.items()]
    piece = material.piece_size_bytes
    if kind in ("v1", "delta"):
        assert digests.v1_pieces is not None
        pieces = digests.v1_pieces
        return build_v1(
            material.name, sizes, piece, pieces, trackers=material.trackers, web_seeds=material.mirrors
        )
    files = [
        V2File(
            path, found.size_bytes, bytes.fromhex(found.bt_v2_root) if found.bt_v2_root else None, found.layer
        )
        for path, found in digests.files.items()
    ]
    if kind == "v2":
        return build_v2(material.name, files, piece, trackers=material.trackers, web_seeds=material.mirrors)
    assert digests.padded_pieces is not None
    return build_hybrid(
        material.name,
        files,
        piece,
        digests.padded_pieces,
        trackers=material.trackers,
        web_seeds=material.mirrors,
    )


def _write_nodes(path: Path, material: Material) -> None:
    """The blocks of all DAGs that are not pieces of files, each once: with them and the files every block can be served."""

    def blocks() -> Iterator[tuple[Cid, bytes]]:
        seen: set[bytes] = set()
        for root in material.roots.values():
            for cid, block in root.nodes:
                if cid.bytes not in seen:
                    seen.add(cid.bytes)
                    yield cid, block

    with atomic_file(path) as handle:
        write_car(handle, [root.cid for root in material.roots.values()], blocks())
