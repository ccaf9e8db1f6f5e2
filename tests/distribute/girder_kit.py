"""A release made by hand, and the contexts that the Girder tests use."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from blake3 import blake3

from distribute.transports import _girder_upload, girder
from distribute.transports._base import Context, Limits, Published, Source, Wanted
from headwater.manifest import FileEntry, Manifest
from headwater.release import (
    LOCATIONS_NAME,
    MANIFEST_NAME,
    RELEASE_NAME,
    Locations,
    OpenRelease,
    Release,
    open_release,
    write_canonical,
)
from tests.distribute.girder_double import girder_double
from tests.distribute.girder_state import Double

FILES = {
    "a.txt": b"first file\n",
    "empty": b"",
    "sub/b.bin": bytes(range(256)) * 20,
    "sub/deep/ü ?#%&+.txt": "näme\n".encode(),
}


def make_release(
    folder: Path, files: Mapping[str, bytes] | None = None, *, name: str = "demo"
) -> OpenRelease:
    """A release folder with `files`, a manifest and its documents."""
    given = FILES if files is None else files
    for path, data in given.items():
        target = folder / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return describe(folder, given, name)


def describe(folder: Path, files: Mapping[str, bytes], name: str = "demo") -> OpenRelease:
    """Write the documents of what lies in `folder`."""
    entries = [
        FileEntry(
            path=path,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            blake3=blake3(data).hexdigest(),
        )
        for path, data in sorted(files.items(), key=lambda pair: pair[0].encode())
    ]
    manifest = Manifest(entries=entries)
    write_canonical(folder / MANIFEST_NAME, manifest)
    size = sum(len(data) for data in files.values())
    release = Release(
        name=name, manifest_id=manifest.id, files=len(files), size_bytes=size, cids={}, torrents={}
    )
    write_canonical(folder / RELEASE_NAME, release)
    write_canonical(folder / LOCATIONS_NAME, Locations(manifest_id=manifest.id, locations=[]))
    return open_release(folder)


def context(work: Path, **limits: float) -> Context:
    """Loopback allowed; short times."""
    work.mkdir(parents=True, exist_ok=True)
    short = {"connect_seconds": 2.0, "stall_seconds": 5.0, "backoff_limit_seconds": 0.05} | limits
    return Context(work, limits=Limits(**short), allow_private=True)  # type: ignore[arg-type]


def read_all(source: Source, release: OpenRelease) -> dict[str, bytes]:
    """Every file of a release, as the source gives it."""
    found = {}
    for entry in release.manifest.entries:
        found[entry.path] = b"".join(source.read(Wanted.of(entry), 0, entry.size_bytes))
    return found


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that look random and are the same each time."""
    return random.Random(seed).randbytes(size)


PLACE = "collection/sets/more/demo release"  # where the tests publish in a double


@contextmanager
def failing_girder(patch: pytest.MonkeyPatch) -> Iterator[Double]:
    """A double with its key in the environment, chunks of 100 bytes and short waits."""
    with girder_double() as double:
        for name in ("GIRDER_API_URL", "GIRDER_USERNAME", "GIRDER_PASSWORD"):
            patch.delenv(name, raising=False)
        patch.setenv("GIRDER_API_KEY", double.key)
        patch.setattr(_girder_upload, "CHUNK_BYTES", 100)
        patch.setattr(_girder_upload, "FIRST_WAIT_SECONDS", 0.01)
        yield double


def send(server: Double, release: OpenRelease, tmp_path: Path) -> Published:
    """Publish into a double."""
    return girder.publish(release, server.place(PLACE), context(tmp_path / "work"), dry_run=False)


def all_there(server: Double, release: OpenRelease) -> None:
    """Every file is in the double once, with its bytes and its metadata."""
    items = server.items()
    for entry in release.manifest.entries:
        item = items[f"demo/{entry.path}"]
        assert server.bytes_of(item) == (release.data / entry.path).read_bytes()
        assert item["meta"]["headwater"]["sha256"] == entry.sha256
    assert not [path for path in items if path.endswith("(1)")]
    assert "manifest.json" in items
