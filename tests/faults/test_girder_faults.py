"""Catalogue row 90: Girder says no, breaks off, forgets and returns."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distribute.transports import girder
from distribute.transports._base import NotThere, Refused, SourceError, Unreachable
from headwater.errors import HeadwaterError
from headwater.release import OpenRelease
from tests.distribute.girder_kit import (
    PLACE,
    all_there,
    context,
    failing_girder,
    make_release,
    noise,
    read_all,
    send,
)
from tests.distribute.girder_state import Double, Fault

BIG = noise(1000)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    with failing_girder(monkeypatch) as double:
        yield double


@pytest.fixture
def release(tmp_path: Path) -> OpenRelease:
    return make_release(tmp_path / "release", {"big.bin": BIG, "small.txt": b"small"})


# row 90: the server says no


@pytest.mark.parametrize("key", ["", "wrong-key-0123456789"])
def test_no_key_and_a_wrong_key(
    server: Double, release: OpenRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("GIRDER_API_KEY", key)
    with pytest.raises(Refused) as caught:
        send(server, release, tmp_path)
    assert caught.value.exit_code == 1
    assert "GIRDER_API_KEY" in (caught.value.hint or "")
    assert not key or key not in f"{caught.value.message} {caught.value.hint}"


def test_a_wrong_password(
    server: Double, release: OpenRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GIRDER_API_KEY")
    monkeypatch.setenv("GIRDER_USERNAME", "admin")
    monkeypatch.setenv("GIRDER_PASSWORD", "wrong-password-0123456789")
    with pytest.raises(Refused, match="GIRDER_PASSWORD") as caught:
        send(server, release, tmp_path)
    assert "wrong-password" not in f"{caught.value.message} {caught.value.hint}"
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("status", "message", "kind", "hint"),
    [
        (401, "You must be logged in.", Refused, "GIRDER_API_KEY"),
        (403, "Write access denied for folder", Refused, "right to write"),
        (409, "Conflict", SourceError, "run the same line again"),
        (413, "Request Entity Too Large", SourceError, "more room"),
        (507, "Insufficient Storage", SourceError, "more room"),
        (
            400,
            "Upload would exceed file storage quota (need 5 B, only 0 B available)",
            SourceError,
            "more room",
        ),
        (400, "Assetstore is unavailable or has insufficient free space.", SourceError, "more room"),
        (422, "odd", SourceError, "run the same line again"),
        (418, "odd", SourceError, ""),
        (404, "Not found", NotThere, ""),
    ],
)
def test_a_status_that_stays(
    server: Double,
    release: OpenRelease,
    tmp_path: Path,
    status: int,
    message: str,
    kind: type[SourceError],
    hint: str,
) -> None:
    server.faults.append(Fault("POST", "file", status=status, message=message, times=10**6))
    with pytest.raises(kind, match=str(status)) as caught:
        send(server, release, tmp_path)
    assert hint in (caught.value.hint or "")
    assert caught.value.exit_code == 1
    assert "manifest.json" not in server.items()
    server.faults.clear()
    send(server, release, tmp_path)
    all_there(server, release)


@pytest.mark.parametrize(
    ("status", "path"),
    [(409, "file"), (409, "file/chunk")]  # a conflict is about something that is made
    + [
        (status, path)
        for status in (429, 500, 502, 503, 504)
        for path in ("file", "file/chunk", "file/offset", "item", "item/.*/metadata", "folder")
    ],
)
def test_a_status_that_passes(
    server: Double, release: OpenRelease, tmp_path: Path, status: int, path: str
) -> None:
    method = {"file": "POST", "file/chunk": "POST", "item/.*/metadata": "PUT"}.get(path, "GET")
    if path == "file/offset":
        server.faults.append(Fault("POST", "file/chunk", cut_after=50))
    server.faults.append(Fault(method, path, status=status, message="later", times=2))
    send(server, release, tmp_path)
    all_there(server, release)


def test_a_web_page_instead_of_girder(server: Double, release: OpenRelease, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        girder.publish(
            release,
            f"girder+http://127.0.0.1:{server.port}/#collection/x",
            context(tmp_path / "work"),
            dry_run=False,
        )
    assert caught.value.exit_code in (1, 13)
    assert not server.find("collection")


# row 90: the upload breaks off


@pytest.mark.parametrize(
    ("chunk", "after"),
    [(chunk, 50) for chunk in range(10)] + [(c, a) for c in (0, 4, 9) for a in (0, 1, 99, 100)],
)
def test_cut_in_each_chunk(
    server: Double, release: OpenRelease, tmp_path: Path, chunk: int, after: int
) -> None:
    server.faults.append(Fault("POST", "file/chunk", cut_after=after, skip=chunk))
    send(server, release, tmp_path)
    all_there(server, release)
    # from where it was: not more than the chunk that broke and the rest
    assert server.received_bytes < 1000 + 100 + 3000


@pytest.mark.parametrize("plugin", [True, False])
@pytest.mark.parametrize("chunk", [0, 4, 9])
def test_server_killed_inside_a_chunk_and_back(
    release: OpenRelease,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: Double,
    chunk: int,
    plugin: bool,
) -> None:
    """Its hash is wrong afterwards: the bytes are read back, once more sent if another file's came."""
    server.plugin = plugin
    server.faults.append(Fault("POST", "file/chunk", cut_after=50, crash=True, skip=chunk, down_seconds=0.1))
    send(server, release, tmp_path)
    all_there(server, release)


@pytest.mark.parametrize("plugin", [True, False])
def test_wrong_hash_that_hits_another_file(tmp_path: Path, server: Double, plugin: bool) -> None:
    """Killed when all bytes had come: Girder takes them for the empty file, and would serve that."""
    server.plugin = plugin
    release = make_release(tmp_path / "release", {"a-empty": b"", "big.bin": noise(150)})
    # the hash misses the 100 bytes; what it has then is the hash of the last 50 bytes, which is there as a file
    girder.publish(
        make_release(tmp_path / "first", {"tail": noise(150)[100:]}),
        server.place("collection/sets/more/first"),
        context(tmp_path / "work"),
        dry_run=False,
    )
    server.faults.append(Fault("POST", "file/chunk", cut_after=100, crash=True))
    send(server, release, tmp_path)
    (item,) = server.find("item", name="big.bin")
    assert server.bytes_of(item) == noise(150)


def test_answers_that_are_lost_make_no_second_item(server: Double, tmp_path: Path) -> None:
    files = {f"f{n}": bytes([n]) * (n * 30) for n in range(8)}
    release = make_release(tmp_path / "release", files)
    server.faults.append(Fault("POST", "file", lose_answer=True, times=4))
    server.faults.append(Fault("POST", "file/chunk", lose_answer=True, times=2))
    server.faults.append(Fault("PUT", "item/.*/metadata", lose_answer=True, times=2))
    send(server, release, tmp_path)
    all_there(server, release)
    assert len(server.find("file")) == len(files) + 3


def test_somebody_else_puts_a_file_of_that_name(
    server: Double, release: OpenRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the listing and the upload: Girder then names ours `small.txt (1)`."""
    take, theirs = server.fault_for, []

    def also_them(method: str, path: str, body: bytes = b"") -> Fault | None:
        if (method, path) == ("POST", "file") and not theirs:
            (folder,) = server.find("folder", name="demo")
            for name in ("small.txt", "big.bin"):
                theirs.append(server.add("item", name=name, folderId=folder["_id"], size=0))
        return take(method, path, body)

    monkeypatch.setattr(server, "fault_for", also_them)
    with pytest.raises(HeadwaterError, match="somebody else") as caught:
        send(server, release, tmp_path)
    assert "(1)" in caught.value.message
    assert "manifest.json" not in server.items()


def test_replacing_breaks_off(server: Double, release: OpenRelease, tmp_path: Path) -> None:
    send(server, release, tmp_path)
    newer = make_release(tmp_path / "newer", {"big.bin": noise(1000, 7), "small.txt": b"SMALL"})
    server.faults.append(Fault("PUT", "file/.*/contents", lose_answer=True, times=2))
    server.faults.append(Fault("POST", "file/chunk", cut_after=60, skip=3, times=2))
    send(server, newer, tmp_path)
    all_there(server, newer)


def test_an_old_claim_does_not_outlive_its_bytes(
    server: Double, release: OpenRelease, tmp_path: Path
) -> None:
    send(server, release, tmp_path)
    newer = make_release(tmp_path / "newer", {"big.bin": noise(1000, 7), "small.txt": b"SMALL"})
    server.faults.append(
        Fault("PUT", "item/.*/metadata", status=400, message="no", holds=b"sha256", times=10**6)
    )
    with pytest.raises(SourceError):
        send(server, newer, tmp_path)
    server.faults.clear()
    send(server, release, tmp_path)  # back to the old one: what now has new bytes is no match
    all_there(server, release)


def test_server_gone_for_good_then_back(server: Double, release: OpenRelease, tmp_path: Path) -> None:
    server.faults.append(Fault("POST", "file/chunk", cut_after=100, skip=5, down_seconds=600))
    begun = time.monotonic()
    with pytest.raises(Unreachable):
        send(server, release, tmp_path)
    assert time.monotonic() - begun < 20
    journal = json.loads((tmp_path / "work/girder-uploads.json").read_text())
    assert [entry["size_bytes"] for entry in journal.values()] == [1000]
    server.down_until = 0.0
    before = server.received_bytes
    send(server, release, tmp_path)
    all_there(server, release)
    assert server.received_bytes - before < 500 + 3000  # only the second half of the big file, and documents
    assert json.loads((tmp_path / "work/girder-uploads.json").read_text()) == {}


def test_told_to_stop_in_the_middle(
    server: Double, release: OpenRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = context(tmp_path / "work")
    take, chunks = server.fault_for, []

    def stop(method: str, path: str, body: bytes = b"") -> Fault | None:
        if path == "file/chunk":
            chunks.append(path)
            if len(chunks) == 3:
                place.stop.set()
        return take(method, path, body)

    monkeypatch.setattr(server, "fault_for", stop)
    with pytest.raises(SourceError):
        girder.publish(release, server.place(PLACE), place, dry_run=False)
    assert len(chunks) <= 4
    assert "manifest.json" not in server.items()
    send(server, release, tmp_path)
    all_there(server, release)


@pytest.mark.parametrize("journal", [b"", b"[]", b"{", b'{"x": 1}', b"[" * 100_000, b'{"a": {"sha256": 3}}'])
def test_a_damaged_journal(server: Double, release: OpenRelease, tmp_path: Path, journal: bytes) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/girder-uploads.json").write_bytes(journal)
    send(server, release, tmp_path)
    all_there(server, release)


@pytest.mark.parametrize("state", ["gone", "another user's", "of other bytes"])
def test_a_journal_that_is_out_of_date(
    server: Double, release: OpenRelease, tmp_path: Path, state: str
) -> None:
    server.faults.append(Fault("POST", "file/chunk", skip=5, status=413, times=1))
    with pytest.raises(SourceError):
        send(server, release, tmp_path)
    ((number, upload),) = server.uploads.items()
    if state == "gone":
        server.uploads.clear()
    elif state == "another user's":
        upload.user = "other"
    else:
        release = make_release(tmp_path / "release", {"big.bin": noise(1000, 3), "small.txt": b"small"})
    send(server, release, tmp_path)
    all_there(server, release)
    assert number not in (tmp_path / "work/girder-uploads.json").read_text()


def test_token_expired_in_the_middle(
    server: Double, release: OpenRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = server.fault_for

    def expiring(method: str, path: str, body: bytes = b"") -> Fault | None:
        if path in ("file/chunk", "file") or path.endswith("/metadata"):
            expired.append(path)
            if len(expired) % 3 == 0:
                server.expire_tokens()
        return take(method, path, body)

    expired: list[str] = []
    monkeypatch.setattr(server, "fault_for", expiring)
    monkeypatch.setattr(girder, "WORKERS", 1)  # else another thread's request ends the new token too
    done = send(server, release, tmp_path)
    all_there(server, release)
    assert server.requests.count("POST api_key/token") > 3
    monkeypatch.setenv("GIRDER_API_URL", server.api)
    assert done.location is not None
    source = girder.open_source(done.location.url, context(tmp_path / "work"))
    assert source.release_file("manifest.json")
    server.expire_tokens()
    assert read_all(source, release)["big.bin"] == BIG
    source.close()


def test_a_token_that_is_always_refused(server: Double, release: OpenRelease, tmp_path: Path) -> None:
    server.faults.append(Fault("POST", "file", status=401, message="no", times=10**6))
    with pytest.raises(Refused):
        send(server, release, tmp_path)
    assert server.requests.count("POST api_key/token") < 20  # one renewal a request, no storm
