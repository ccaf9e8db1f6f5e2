"""A small release on disk, of random files, for tests that fetch it."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

from distribute.digests import TreeFile, digest_tree
from distribute.torrents import V2File, build_v2, infohash_v2
from headwater.manifest import FileEntry, Manifest, canonical
from headwater.release import Release, Torrent

PIECE_BYTES = 256 << 10
MIB = 1 << 20


def sample_files(
    *, small: int = 12, big: tuple[int, ...] = (12 * MIB + 12_345,), seed: int = 1
) -> dict[str, bytes]:
    """Files of random bytes: an empty one, small ones in a folder, and large ones that are fetched in runs of pieces."""
    dice = random.Random(seed)
    files = {"empty.txt": b"", "notes/ü x?#%.txt": b"odd name\n"}
    for number in range(small):
        files[f"small/{number:03}.bin"] = dice.randbytes(1000 + 977 * number)
    for number, size in enumerate(big):
        files[f"big{number}.bin"] = dice.randbytes(size)
    return files


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Files below a folder."""
    for path, data in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


def build_release(
    folder: Path, files: dict[str, bytes], *, name: str = "set", layers: bool = True, **manifest: Any
) -> str:
    """Write a release folder: documents, v2.torrent with `layers`, and the files. Returns the manifest id."""
    data = folder / name
    write_files(data, files)
    tree = []
    for path in files:
        status = (data / path).stat()
        tree.append(TreeFile(path, data / path, status.st_size, status.st_mtime_ns, status.st_ino))
    digests = digest_tree(
        tree, profiles=(), piece_size=PIECE_BYTES, v1=False, cache=None, workers=1, bar=None
    ).files
    entries = [
        FileEntry(
            path=path,
            size_bytes=len(files[path]),
            sha256=digests[path].sha256,
            blake3=digests[path].blake3,
            bt_v2_root=digests[path].bt_v2_root if layers else None,
        )
        for path in sorted(files, key=str.encode)
    ]
    document = Manifest(entries=entries, piece_size_bytes=PIECE_BYTES, **manifest)
    raw = canonical(document)
    manifest_id = hashlib.sha256(raw).hexdigest()
    (folder / "manifest.json").write_bytes(raw)
    torrents = {}
    if layers:
        listed = []
        for entry in entries:
            root = bytes.fromhex(entry.bt_v2_root) if entry.bt_v2_root else None
            listed.append(V2File(entry.path, entry.size_bytes, root, digests[entry.path].layer))
        torrent = build_v2(name, listed, PIECE_BYTES)
        (folder / "v2.torrent").write_bytes(torrent)
        torrents["v2"] = Torrent(
            file="v2.torrent",
            infohash=infohash_v2(torrent),
            piece_size_bytes=PIECE_BYTES,
            size_bytes=sum(map(len, files.values())),
        )
    release = Release(
        name=name,
        manifest_id=manifest_id,
        files=len(entries),
        size_bytes=sum(map(len, files.values())),
        cids={},
        torrents=torrents,
    )
    (folder / "release.json").write_bytes(canonical(release))
    return manifest_id


def same(folder: Path, files: dict[str, bytes]) -> bool:
    """Whether `folder` holds exactly these files, beside `.headwater`."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).as_posix().startswith(".headwater/")
    }
    return found == files
