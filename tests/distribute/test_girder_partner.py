"""A real Girder 5 (on mongoeco): publish, compare, read back, break off, go on; and what it does not notice itself."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from distribute.transports import _girder_upload, girder
from distribute.transports._base import Context, Limits, Refused, Wanted
from distribute.transports._girder_api import Credentials, Girder
from headwater.release import OpenRelease
from tests.distribute.girder_kit import FILES, make_release, noise, read_all
from tests.distribute.partners import until
from tests.distribute.partners_girder.serve import PASSWORD, real_girder
from tests.distribute.partners_girder.serve import Girder as Server

pytestmark = pytest.mark.slow

BIG_BYTES = 150_000_000
MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with real_girder(tmp_path_factory.mktemp("girder")) as found:
        yield found


@pytest.fixture
def signed_in(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    for name in ("GIRDER_USERNAME", "GIRDER_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIRDER_API_KEY", server.key)
    monkeypatch.setenv("GIRDER_API_URL", server.api)
    return server


def place(tmp_path: Path) -> Context:
    (tmp_path / "work").mkdir(exist_ok=True)
    return Context(tmp_path / "work", limits=Limits(), allow_private=True)


def target(server: Server, name: str) -> str:
    return f"girder+{server.api}#collection/{name}/release"


def digest(source: girder.GirderSource, release: OpenRelease, path: str) -> tuple[str, str]:
    """SHA-256 of what the source gives and of what the manifest says."""
    (entry,) = [entry for entry in release.manifest.entries if entry.path == path]
    found = hashlib.sha256()
    for block in source.read(Wanted.of(entry), 0, entry.size_bytes):
        found.update(block)
    return found.hexdigest(), entry.sha256


def test_version_key_and_password(server: Server, tmp_path: Path) -> None:
    for given in (Credentials(key=server.key), Credentials(login="admin", password=PASSWORD)):
        client = Girder(server.api, place(tmp_path), given)
        assert client.version().startswith("5.")
        assert client.top("user", "admin") is not None
        assert client.top("collection", "none such") is None
        client.close()
    for given in (Credentials(key="wrong-key"), Credentials(login="admin", password="wrong-word")):
        client = Girder(server.api, place(tmp_path), given)
        with pytest.raises(Refused) as caught:
            client.top("user", "admin")
        assert "GIRDER_API_KEY" in (caught.value.hint or "")
        assert "wrong-" not in caught.value.message
        client.close()


def test_tree_and_large_file(signed_in: Server, tmp_path: Path) -> None:
    files = {f"d{n % 7}/file {n:03}.bin": noise(50 * n, n) for n in range(200)} | FILES
    files["large.bin"] = noise(BIG_BYTES)
    release = make_release(tmp_path / "release", files)
    where = place(tmp_path)
    told = girder.publish(release, target(signed_in, "tree"), where, dry_run=True)
    assert told.files == len(files) + 3
    done = girder.publish(release, target(signed_in, "tree"), where, dry_run=False)
    assert (done.files, done.sent_bytes) == (told.files, _sent(release, done.location.url))  # type: ignore[union-attr]
    again = girder.publish(release, target(signed_in, "tree"), where, dry_run=True)
    assert (again.files, again.sent_bytes, again.text) == (0, 0, "nothing to send")

    assert done.location is not None
    source = girder.open_source(done.location.url, where)
    assert read_all(source, release) == files
    assert source.release_file("manifest.json") == release.file("manifest.json").read_bytes()
    (entry,) = [entry for entry in release.manifest.entries if entry.path == "large.bin"]
    begun = b"".join(source.read(Wanted.of(entry), 0, 70 * MIB))  # as a fetch that broke off
    rest = b"".join(source.read(Wanted.of(entry), len(begun), entry.size_bytes - len(begun)))
    assert begun + rest == files["large.bin"]
    assert girder.alive(done.location.url, release, where)
    known = source.item(Wanted.of(entry)).digests
    assert known["sha256"] == entry.sha256
    assert known["blake3"] == entry.blake3
    assert known["manifest_id"] == release.release.manifest_id
    source.close()


def _sent(release: OpenRelease, url: str) -> int:
    """Bytes of the data and of the documents, of which locations.json gains the new place."""
    documents = sum(path.stat().st_size for path in release.meta.iterdir() if path.is_file())
    location = json.dumps({"kind": "girder", "url": url}, separators=(",", ":"))
    return release.release.size_bytes + documents + len(location)


def test_replaced_files(signed_in: Server, tmp_path: Path) -> None:
    where = place(tmp_path)
    girder.publish(make_release(tmp_path / "old", FILES), target(signed_in, "replaced"), where, dry_run=False)
    changed = {**FILES, "a.txt": b"FIRST file\n", "sub/b.bin": b"", "empty": b"no more"}
    newer = make_release(tmp_path / "new", changed)
    done = girder.publish(newer, target(signed_in, "replaced"), where, dry_run=False)
    assert done.files == 3 + 3  # and the documents
    assert done.location is not None
    source = girder.open_source(done.location.url, where)
    assert read_all(source, newer) == changed
    source.close()


def test_private_without_a_key_and_a_token_that_ended(
    signed_in: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = place(tmp_path)
    release = make_release(tmp_path / "release", FILES)
    done = girder.publish(release, target(signed_in, "private"), where, dry_run=False)
    assert done.location is not None
    source = girder.open_source(done.location.url, where)
    assert source.release_file("release.json")
    token = source._girder._token
    request = urllib.request.Request(
        f"{signed_in.api}/token/session", method="DELETE", headers={"Girder-Token": str(token)}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200
    assert read_all(source, release) == FILES  # signed in again
    assert source._girder._token != token
    source.close()
    monkeypatch.delenv("GIRDER_API_URL")
    stranger = girder.open_source(done.location.url, where)
    with pytest.raises(Refused):
        stranger.release_file("release.json")
    stranger.close()


def test_a_byte_flipped_in_the_store_is_served(signed_in: Server, tmp_path: Path) -> None:
    """Girder says nothing; only the digest of the manifest shows it."""
    where = place(tmp_path)
    data = noise(3 * MIB, 77)
    release = make_release(tmp_path / "release", {"x.bin": data})
    done = girder.publish(release, target(signed_in, "flipped"), where, dry_run=False)
    assert done.location is not None
    name = hashlib.sha512(data).hexdigest()
    stored = signed_in.store / name[:2] / name[2:4] / name
    stored.chmod(0o644)
    with open(stored, "r+b") as handle:
        handle.seek(MIB)
        handle.write(bytes([data[MIB] ^ 1]))
    source = girder.open_source(done.location.url, where)
    found, right = digest(source, release, "x.bin")
    assert found != right
    source.close()


def test_girder_killed_inside_a_chunk(
    signed_in: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes back within seconds, and the same call ends well; the bytes are right though Girder's own hash may not be."""
    where = place(tmp_path)
    data = noise(60 * MIB, 5)
    release = make_release(tmp_path / "release", {"x.bin": data})
    monkeypatch.setattr(_girder_upload, "CHUNK_BYTES", 20 * MIB)
    original = _girder_upload._Sending._blocks
    back: list[threading.Thread] = []

    def until_killed(self: _girder_upload._Sending, begin: int, end: int) -> Iterator[bytes]:
        for number, block in enumerate(original(self, begin, end)):
            if begin == 20 * MIB and number == 12 and not back:
                time.sleep(0.5)  # what was sent is on its disk
                signed_in.kill()
                back.append(threading.Thread(target=signed_in.start))
                back[0].start()
            yield block

    monkeypatch.setattr(_girder_upload._Sending, "_blocks", until_killed)
    done = girder.publish(release, target(signed_in, "killed"), where, dry_run=False)
    back[0].join()
    assert done.location is not None
    assert 60 * MIB <= done.sent_bytes < 85 * MIB
    source = girder.open_source(done.location.url, where)
    found, right = digest(source, release, "x.bin")
    assert found == right
    source.close()


def test_girder_mixes_up_two_files_after_a_kill(
    signed_in: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when a chunk was on its disk but not in its record, it hashes only the rest, and takes the file for another one."""
    where = place(tmp_path)
    data = noise(30 * MIB, 8)
    tail = make_release(tmp_path / "first", {"tail": data[20 * MIB :]})
    girder.publish(tail, target(signed_in, "tail"), where, dry_run=False)
    release = make_release(tmp_path / "release", {"x.bin": data})
    monkeypatch.setattr(_girder_upload, "CHUNK_BYTES", 20 * MIB)
    original = _girder_upload._Sending._blocks
    done = threading.Event()

    def until_killed(self: _girder_upload._Sending, begin: int, end: int) -> Iterator[bytes]:
        for number, block in enumerate(original(self, begin, end)):
            if number == 18 and not done.is_set():
                done.set()
                signed_in.kill()
                (temporary,) = [p for p in (signed_in.store / "temp").iterdir() if p.stat().st_size > MIB]
                temporary.write_bytes(data[: 20 * MIB])
                signed_in.start()
            yield block

    monkeypatch.setattr(_girder_upload._Sending, "_blocks", until_killed)
    found = girder.publish(release, target(signed_in, "mixed"), where, dry_run=False)
    assert found.sent_bytes > 55 * MIB  # a second time from the beginning
    assert found.location is not None
    source = girder.open_source(found.location.url, where)
    assert len(set(digest(source, release, "x.bin"))) == 1
    source.close()


SCRIPT = """
import sys
from pathlib import Path
from distribute.transports import _girder_upload, girder
from distribute.transports._base import Context
from headwater.release import open_release
_girder_upload.CHUNK_BYTES = 10 << 20
girder.publish(open_release(Path(sys.argv[1])), sys.argv[2], Context(Path(sys.argv[3]), allow_private=True), dry_run=False)
"""


def test_publish_killed_goes_on_by_offset(
    signed_in: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = place(tmp_path)
    release = make_release(tmp_path / "release", {"x.bin": noise(120 * MIB, 6)})
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", SCRIPT, str(release.meta), target(signed_in, "ours"), str(where.work)]
    with subprocess.Popen(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}) as process:

        def received() -> bool:
            sizes = [path.stat().st_size for path in (signed_in.store / "temp").iterdir()]
            return max(sizes, default=0) > 40 * MIB

        until(received, seconds=60, what="40 MiB are there")
        process.send_signal(signal.SIGKILL)
        arguments = Path(f"/proc/{process.pid}/cmdline")
        assert not arguments.exists() or signed_in.key.encode() not in arguments.read_bytes()
    assert process.returncode == -signal.SIGKILL
    monkeypatch.setattr(_girder_upload, "CHUNK_BYTES", 10 * MIB)
    done = girder.publish(release, target(signed_in, "ours"), where, dry_run=False)
    assert 0 < done.sent_bytes < 85 * MIB
    assert done.location is not None
    source = girder.open_source(done.location.url, where)
    found, right = digest(source, release, "x.bin")
    assert found == right
    source.close()
    assert signed_in.key not in "".join(path.read_text() for path in where.work.iterdir())
