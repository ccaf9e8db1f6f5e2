"""Girder: plan, publish, go on, and read back; against a double on loopback (the real one: test_girder_partner)."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distribute.transports import _girder_api, _girder_upload, girder
from distribute.transports._base import NotThere, Refused, Wanted, WrongBytes
from distribute.transports._girder_plan import parse_place
from headwater.errors import HeadwaterError, IntegrityError, UsageError
from headwater.release import LOCATIONS_NAME, Locations, OpenRelease, parse_document
from tests.distribute.girder_double import girder_double
from tests.distribute.girder_kit import FILES, PLACE, context, describe, make_release, noise, read_all
from tests.distribute.girder_state import Double


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    with girder_double() as double:
        for name in ("GIRDER_API_KEY", "GIRDER_API_URL", "GIRDER_USERNAME", "GIRDER_PASSWORD"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("GIRDER_API_KEY", double.key)
        yield double


@pytest.fixture
def release(tmp_path: Path) -> OpenRelease:
    return make_release(tmp_path / "release")


def test_publish_then_read_back(
    server: Double, release: OpenRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = context(tmp_path / "work")
    done = girder.publish(release, server.place(PLACE), place, dry_run=False)
    assert done.location is not None
    assert done.location.url.startswith(f"girder+{server.api}#folder/")
    assert done.files == len(FILES) + 3
    monkeypatch.setenv("GIRDER_API_URL", server.api)
    source = girder.open_source(done.location.url, place)
    assert read_all(source, release) == FILES
    assert source.release_file("manifest.json") == release.file("manifest.json").read_bytes()
    assert source.release_file("v1.torrent") is None
    assert source.listing() is None  # nothing there proves a digest
    entry = release.manifest.entries[2]
    assert b"".join(source.read(Wanted.of(entry), 100, 7)) == FILES[entry.path][100:107]
    source.close()
    by_name = girder.open_source(server.place(PLACE), place)
    assert by_name.release_file("release.json") == release.file("release.json").read_bytes()
    by_name.close()
    assert f"{len(FILES)} files" in girder.alive(done.location.url, release, place)


def test_metadata_says_what_each_file_is(server: Double, release: OpenRelease, tmp_path: Path) -> None:
    girder.publish(release, server.place(PLACE), context(tmp_path / "work"), dry_run=False)
    items = server.items()
    for entry in release.manifest.entries:
        known = items[f"demo/{entry.path}"]["meta"]["headwater"]
        assert known["sha256"] == hashlib.sha256(FILES[entry.path]).hexdigest()
        assert known["blake3"] == entry.blake3
        assert known["manifest_id"] == release.release.manifest_id
    (top,) = server.find("folder", name="demo release")
    assert top["meta"]["headwater"]["manifest_id"] == release.release.manifest_id


def test_manifest_comes_last(server: Double, release: OpenRelease, tmp_path: Path) -> None:
    girder.publish(release, server.place(PLACE), context(tmp_path / "work"), dry_run=False)
    names = [item["name"] for item in server.find("item")]  # in the order they were made
    assert names[-1] == "manifest.json"
    assert names[-2] == "release.json"


def test_the_copy_names_its_own_place(server: Double, release: OpenRelease, tmp_path: Path) -> None:
    done = girder.publish(release, server.place(PLACE), context(tmp_path / "work"), dry_run=False)
    raw = server.bytes_of(server.items()[LOCATIONS_NAME])
    assert parse_document(raw, Locations, "copy").locations == [done.location]


def test_dry_run_tells_and_changes_nothing(server: Double, release: OpenRelease, tmp_path: Path) -> None:
    place = context(tmp_path / "work")
    told = girder.publish(release, server.place(PLACE), place, dry_run=True)
    assert told.location is None
    assert told.files == len(FILES) + 3
    assert "create collection/sets/more/demo release" in told.actions
    assert "create folder demo/sub/deep/" in told.actions
    assert "upload demo/sub/b.bin (5,120 bytes)" in told.actions
    assert not server.find("collection")
    assert all(line.startswith("GET ") or "token" in line for line in server.requests)
    assert not list((tmp_path / "work").iterdir())


def test_second_publish_sends_nothing(server: Double, release: OpenRelease, tmp_path: Path) -> None:
    place = context(tmp_path / "work")
    girder.publish(release, server.place(PLACE), place, dry_run=False)
    told = girder.publish(release, server.place(PLACE), place, dry_run=True)
    assert (told.files, told.sent_bytes, told.text) == (0, 0, "nothing to send")
    before = server.received_bytes
    again = girder.publish(release, server.place(PLACE), place, dry_run=False)
    assert (again.files, again.sent_bytes) == (0, 0)
    assert server.received_bytes - before < 1000  # the sign-in and the folder's metadata


def test_changed_added_and_foreign_files(server: Double, release: OpenRelease, tmp_path: Path) -> None:
    place = context(tmp_path / "work")
    girder.publish(release, server.place(PLACE), place, dry_run=False)
    (folder,) = server.find("folder", name="sub")
    server.add("item", name="notes.txt", folderId=folder["_id"], size=0)
    server.add("folder", name="theirs", parentId=folder["_id"])
    changed = {**FILES, "a.txt": b"FIRST file\n", "sub/new.txt": b"new"}  # one of the same size
    newer = make_release(tmp_path / "newer", changed)
    told = girder.publish(newer, server.place(PLACE), place, dry_run=True)
    assert "replace demo/a.txt (11 bytes)" in told.actions
    assert "upload demo/sub/new.txt (3 bytes)" in told.actions
    assert "leave alone demo/sub/notes.txt: not of this release" in told.actions
    assert "leave alone demo/sub/theirs/: not of this release" in told.actions
    girder.publish(newer, server.place(PLACE), place, dry_run=False)
    items = server.items()
    assert server.bytes_of(items["demo/a.txt"]) == b"FIRST file\n"
    assert items["demo/a.txt"]["meta"]["headwater"]["sha256"] == hashlib.sha256(b"FIRST file\n").hexdigest()
    assert not [path for path in items if "(1)" in path]
    assert "demo/sub/notes.txt" in items


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 200, 1000])
def test_chunked_sizes(server: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(_girder_upload, "CHUNK_BYTES", 64)
    release = make_release(tmp_path / "release", {"x.bin": noise(size)})
    place = context(tmp_path / "work")
    girder.publish(release, server.place(PLACE), place, dry_run=False)
    assert server.bytes_of(server.items()["demo/x.bin"]) == noise(size)
    newer = make_release(tmp_path / "newer", {"x.bin": noise(size, 2)})
    girder.publish(newer, server.place(PLACE), place, dry_run=False)
    assert server.bytes_of(server.items()["demo/x.bin"]) == noise(size, 2)
    assert not server.uploads


def test_pages(server: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_girder_api, "PAGE", 3)
    files = {f"d{n % 4}/f{n}": bytes([n]) for n in range(23)}
    release = make_release(tmp_path / "release", files)
    place = context(tmp_path / "work")
    done = girder.publish(release, server.place(PLACE), place, dry_run=False)
    assert girder.publish(release, server.place(PLACE), place, dry_run=True).files == 0
    server.public = True
    assert done.location is not None
    source = girder.open_source(done.location.url, place)
    assert read_all(source, release) == files
    source.close()


def test_password_instead_of_a_key(
    server: Double, release: OpenRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GIRDER_API_KEY")
    monkeypatch.setenv("GIRDER_USERNAME", "admin")
    monkeypatch.setenv("GIRDER_PASSWORD", server.password)
    assert girder.publish(release, server.place(PLACE), context(tmp_path / "w"), dry_run=False).files


def test_reading_sends_the_key_only_where_it_belongs(
    server: Double, release: OpenRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = context(tmp_path / "work")
    done = girder.publish(release, server.place(PLACE), place, dry_run=False)
    assert done.location is not None
    server.requests.clear()
    source = girder.open_source(done.location.url, place)
    with pytest.raises(Refused) as caught:
        source.release_file("manifest.json")
    assert "GIRDER_API_URL" in (caught.value.hint or "")
    assert "POST api_key/token" not in server.requests
    source.close()
    server.public = True
    source = girder.open_source(done.location.url, place)
    assert source.release_file("manifest.json")
    assert "POST api_key/token" not in server.requests
    source.close()


def test_source_refuses_another_version_and_another_size(
    server: Double, release: OpenRelease, tmp_path: Path
) -> None:
    place = context(tmp_path / "work")
    done = girder.publish(release, server.place(PLACE), place, dry_run=False)
    assert done.location is not None
    server.public = True
    source = girder.open_source(done.location.url, place)
    wanted = Wanted.of(release.manifest.entries[0])
    other = dataclasses.replace(wanted, sha256="0" * 64)
    with pytest.raises(NotThere, match="another version"):
        list(source.read(other, 0, other.size_bytes))
    longer = dataclasses.replace(wanted, size_bytes=wanted.size_bytes + 1)
    with pytest.raises(WrongBytes, match="11 bytes there, 12 are right"):
        list(source.read(longer, 0, 5))
    with pytest.raises(NotThere):
        list(source.read(dataclasses.replace(wanted, path="sub/none"), 0, 1))
    with pytest.raises(IntegrityError):
        list(source.read(dataclasses.replace(wanted, path="../a.txt"), 0, 1))
    source.close()


def test_alive_says_what_is_missing(server: Double, release: OpenRelease, tmp_path: Path) -> None:
    place = context(tmp_path / "work")
    done = girder.publish(release, server.place(PLACE), place, dry_run=False)
    assert done.location is not None
    server.public = True
    item = server.items()["demo/sub/b.bin"]
    server.docs.pop(item["_id"])
    with pytest.raises(NotThere, match=r"1 of 4 files .*sub/b\.bin"):
        girder.alive(done.location.url, release, place)
    other = make_release(tmp_path / "other", {"x": b"1"})
    with pytest.raises(WrongBytes, match="another version"):
        girder.alive(done.location.url, other, place)


def test_a_collection_alone_is_no_source(server: Double, release: OpenRelease, tmp_path: Path) -> None:
    place = context(tmp_path / "work")
    done = girder.publish(release, server.place("collection/sets"), place, dry_run=False)
    assert done.location is not None
    assert server.find("folder", name="demo")  # got the release's name
    server.public = True
    source = girder.open_source(server.place("collection/sets"), place)
    with pytest.raises(NotThere) as caught:
        source.release_file("manifest.json")
    assert caught.value.hint == "folders in it: demo"
    source.close()


def test_names_that_girder_would_change(server: Double, tmp_path: Path) -> None:
    release = make_release(tmp_path / "release", {"sub /x": b"1"})
    with pytest.raises(UsageError, match="blanks at the ends"):
        girder.publish(release, server.place(PLACE), context(tmp_path / "work"), dry_run=False)
    assert not server.find("item")


def test_a_folder_where_a_file_should_be(server: Double, release: OpenRelease, tmp_path: Path) -> None:
    place = context(tmp_path / "work")
    girder.publish(release, server.place(PLACE), place, dry_run=False)
    for path, what in (
        ("a.txt/x", "is an item there and a folder here"),
        ("sub", "is a folder there and a file"),
    ):
        other = make_release(tmp_path / what[3:7], {path: b"1"})
        with pytest.raises(HeadwaterError, match=what):
            girder.publish(other, server.place(PLACE), place, dry_run=False)


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 64])
def test_a_local_file_that_changed_is_not_sent(
    server: Double, release: OpenRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(_girder_upload, "CHUNK_BYTES", chunk_bytes)
    (release.data / "sub/b.bin").write_bytes(noise(5120))  # of the same size
    with pytest.raises(IntegrityError, match=r"b\.bin"):
        girder.publish(release, server.place(PLACE), context(tmp_path / "work"), dry_run=False)
    assert "demo/sub/b.bin" not in server.items()
    assert "manifest.json" not in server.items()
    assert not server.uploads  # given up there, too


def test_a_file_that_is_there_without_metadata_is_adopted(
    server: Double, release: OpenRelease, tmp_path: Path
) -> None:
    """A publish that was killed between the bytes and their metadata."""
    place = context(tmp_path / "work")
    girder.publish(release, server.place(PLACE), place, dry_run=False)
    server.items()["demo/sub/b.bin"]["meta"].clear()
    again = girder.publish(release, server.place(PLACE), place, dry_run=False)
    assert (again.files, again.sent_bytes) == (1, 0)
    assert server.items()["demo/sub/b.bin"]["meta"]["headwater"]["sha256"]


def test_a_fetched_folder_can_be_published(server: Double, tmp_path: Path) -> None:
    for path, data in FILES.items():
        (tmp_path / "got" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "got" / path).write_bytes(data)
    inside = tmp_path / "got/.headwater/release"
    inside.mkdir(parents=True)
    describe(inside, FILES)
    from headwater.release import open_release

    release = open_release(tmp_path / "got")
    girder.publish(release, server.place(PLACE), context(tmp_path / "work"), dry_run=False)
    assert server.bytes_of(server.items()["demo/a.txt"]) == FILES["a.txt"]


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1:80", True), ("localhost", True), ("[::1]:80", True), ("girder.example.org", False)],
)
def test_a_key_over_plain_http_is_remarked_on(host: str, own: bool) -> None:
    assert girder._own_machine(f"http://{host}/api/v1") is own


@pytest.mark.parametrize(
    "location",
    [
        "girder+http://h/api/v1",
        "girder+http://h/api/v1#",
        "girder+http://h/api/v1#collection",
        "girder+http://h/api/v1#collection/",
        "girder+http://h/api/v1#group/x",
        "girder+http://h/api/v1#collection/a/../b",
        "girder+http://h/api/v1#collection/a//b",
        "girder+http://h/api/v1#collection/%20a",
        "girder+http://h/api/v1#collection/a%0a",
        "girder+http://h:99999/api/v1#collection/a",
        "girder+http:///api/v1#collection/a",
        "girder+ftp://h/api/v1#collection/a",
        "http://h/api/v1#collection/a",
        "",
    ],
)
def test_locations_that_are_none(location: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_place(location)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "inside", ["me:SECRETSECRET@h", "SECRETSECRET@h", "h/api/v1?token=SECRETSECRET", "h?key=SECRETSECRET"]
)
def test_secrets_in_a_location_are_refused_and_not_repeated(inside: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_place(f"girder+https://{inside}#collection/a")
    assert "SECRET" not in f"{caught.value.message} {caught.value.hint}"
    assert "GIRDER_API_KEY" in (caught.value.hint or "")


_NAMES = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8).filter(
    lambda name: name == name.strip() and name not in (".", "..") and name.isprintable()
)


@given(_NAMES, st.lists(_NAMES, max_size=3))
def test_a_location_read_and_written_is_the_same(top: str, folders: list[str]) -> None:
    from distribute.transports._girder_plan import Place

    place = Place("https://h.example/api/v1", "collection", top, tuple(folders))
    assert parse_place(place.text) == place
