"""Metalink and BagIt: what they say, that odd names survive, and that other programs take them."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import re
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distribute.exports import bagit, encode_path, metalink
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.manifest import FileEntry, Manifest
from headwater.release import (
    MANIFEST_NAME,
    RELEASE_NAME,
    Location,
    Locations,
    OpenRelease,
    Release,
    Torrent,
    open_release,
    write_canonical,
)
from tests.distribute.partners import need_module, need_program
from tests.distribute.seed_kit import make_release, some_files

NS = "{urn:ietf:params:xml:ns:metalink}"
FILES = {
    "a.txt": b"hello\n",
    "a & <b> \"c\" 'd'.txt": b"xml",
    "deep/日本 é.txt": b"not ASCII",
    "deep/100%/%25#?.bin": b"percent",
    "empty": b"",
}


def describe(files: dict[str, bytes], name: str = "set") -> tuple[Release, Manifest]:
    entries = [
        FileEntry(path=path, size_bytes=len(files[path]), sha256=hashlib.sha256(files[path]).hexdigest())
        for path in sorted(files, key=str.encode)
    ]
    manifest = Manifest(entries=entries)
    release = Release(
        name=name,
        manifest_id=manifest.id,
        files=len(files),
        size_bytes=sum(map(len, files.values())),
        cids={},
    )
    return release, manifest


def places(*locations: tuple[str, str]) -> Locations:
    found = [Location(kind=kind, url=url) for kind, url in locations]
    return Locations(manifest_id="0" * 64, locations=found)


def plain_release(folder: Path, files: dict[str, bytes] = FILES) -> OpenRelease:
    release, manifest = describe(files)
    for path, data in files.items():
        (folder / "set" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "set" / path).write_bytes(data)
    write_canonical(folder / MANIFEST_NAME, manifest)
    write_canonical(folder / RELEASE_NAME, release)
    return open_release(folder)


# Metalink


def test_every_file_with_size_digest_and_mirrors() -> None:
    release, manifest = describe(FILES)
    where = places(
        ("http", "https://one.example/pub"),
        ("bittorrent", "magnet:?xt=urn:btih:00"),
        ("http", "http://two.example:8080/x%20y/"),
        ("http", "s3://bucket/prefix"),
        ("ipfs", "ipfs://bafyx"),
    )
    raw = metalink(release, manifest, where)
    assert raw == metalink(release, manifest, where)
    root = ElementTree.fromstring(raw)
    assert root.tag == f"{NS}metalink"
    files = root.findall(f"{NS}file")
    assert [file.get("name") for file in files] == [f"set/{entry.path}" for entry in manifest.entries]
    for file, entry in zip(files, manifest.entries, strict=True):
        assert file.findtext(f"{NS}size") == str(entry.size_bytes)
        digest = file.find(f"{NS}hash")
        assert digest is not None and digest.get("type") == "sha-256" and digest.text == entry.sha256
        urls = file.findall(f"{NS}url")
        assert [url.get("priority") for url in urls] == ["1", "2"]
        for url, base in zip(
            urls, ("https://one.example/pub/", "http://two.example:8080/x%20y/"), strict=True
        ):
            assert url.text is not None and url.text.isascii() and url.text.startswith(base + "set/")
            assert unquote(url.text[len(base) :]) == f"set/{entry.path}"
            assert urlsplit(url.text).query == "" and urlsplit(url.text).fragment == ""
        # RFC 5854, 4.1.2: no element twice that may stand once
        for tag in ("size", "identity", "version"):
            assert len(file.findall(NS + tag)) == 1
        assert file.find(f"{NS}metaurl") is None


def test_the_v1_torrent_is_named_with_the_path_in_it() -> None:
    release, manifest = describe(FILES)
    torrent = Torrent(file="v1.torrent", infohash="0" * 40, piece_size_bytes=1 << 18, size_bytes=1)
    release = release.model_copy(update={"torrents": {"v1": torrent}})
    root = ElementTree.fromstring(metalink(release, manifest, places(("http", "https://one.example/"))))
    found = [(meta.get("mediatype"), meta.get("name"), meta.text) for meta in root.iter(f"{NS}metaurl")]
    url = "https://one.example/v1.torrent"
    assert found == [("torrent", f"set/{entry.path}", url) for entry in manifest.entries]


def test_without_a_mirror_the_addresses_are_of_ipfs() -> None:
    release, manifest = describe(FILES)
    root = ElementTree.fromstring(
        metalink(release, manifest, places(("ipfs", "ipfs://bafyx"), ("ipfs", "ipfs://bafyy")))
    )
    urls = [str(url.text) for url in root.iter(f"{NS}url")]
    assert [unquote(url.removeprefix("ipfs://bafyx/")) for url in urls] == [
        entry.path for entry in manifest.entries
    ]


def test_without_any_address_it_is_refused() -> None:
    with pytest.raises(UsageError, match="needs an address"):
        metalink(*describe(FILES), places(("bittorrent", "magnet:?xt=urn:btih:00"), ("http", "s3://b/p")))


@pytest.mark.parametrize(
    "url",
    [
        "https://bob:hunter22@one.example/",
        "https://tokenuser@one.example/",
        "https://one.example/?key=hunter22",
    ],
)
def test_an_address_with_a_secret_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(UsageError, match=r"one\.example") as caught:
        metalink(*describe(FILES), places(("http", url)))
    assert "hunter22" not in caught.value.message and "tokenuser" not in caught.value.message


@pytest.mark.parametrize("url", ["https://[bad/", "http:///x", "javascript:alert(1)"])
def test_addresses_that_are_none_are_left_out(url: str) -> None:
    with pytest.raises(UsageError, match="needs an address"):
        metalink(*describe(FILES), places(("http", url)))


def test_a_manifest_with_traversal_makes_no_metalink() -> None:
    for path in ("../x", "/etc/passwd", "a\\b"):
        release, manifest = describe({path: b"x"})
        with pytest.raises(IntegrityError, match="unsafe path"):
            metalink(release, manifest, places(("http", "https://one.example/")))


@pytest.mark.parametrize("name", ["bell\x07", "lone\ud800", "non\uffff"])
def test_what_xml_cannot_hold_is_refused(name: str) -> None:
    release, manifest = describe({"a": b"x"}, name)
    with pytest.raises(UsageError, match="cannot stand in a Metalink"):
        metalink(release, manifest, places(("http", "https://one.example/")))
    entry = FileEntry(path="a", size_bytes=1, sha256="0" * 64).model_copy(update={"path": name})
    with pytest.raises(UsageError, match="cannot stand in a Metalink"):
        metalink(describe({})[0], Manifest(entries=[entry]), places(("http", "https://one.example/")))


# what XML 1.0 can hold; publish refuses the other names
CHARACTERS = st.characters(
    codec="utf-8", exclude_characters="/\\\ufffe\uffff", exclude_categories=["Cs", "Cc"]
)
PARTS = st.text(CHARACTERS, min_size=1, max_size=12).filter(lambda part: part not in (".", ".."))
PATHS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)


@given(st.sets(PATHS, min_size=1, max_size=5))
def test_any_published_name_survives(paths: set[str]) -> None:
    release, manifest = describe(dict.fromkeys(paths, b"x"))
    root = ElementTree.fromstring(metalink(release, manifest, places(("http", "https://one.example/b"))))
    entries = sorted(paths, key=str.encode)
    assert [file.get("name") for file in root.iter(f"{NS}file")] == [f"set/{path}" for path in entries]
    urls = [str(url.text) for url in root.iter(f"{NS}url")]
    assert [unquote(urlsplit(url).path) for url in urls] == [f"/b/set/{path}" for path in entries]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=os.fspath(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def aria2(folder: Path, document: Path) -> subprocess.CompletedProcess[str]:
    command = [need_program("aria2c"), "--no-conf", "--dir", folder, "--metalink-file", document]
    command += ["--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false"]
    command += ["--interface=127.0.0.1", "--disable-ipv6=true"]
    command += ["--seed-time=0", "--bt-stop-timeout=20", "--file-allocation=none"]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=90)


@pytest.mark.slow
@pytest.mark.parametrize("torrents", [False, True])
def test_aria2_fetches_by_our_metalink(tmp_path: Path, torrents: bool) -> None:
    need_program("aria2c")
    # aria2 1.36 reads `&amp;` in an attribute as `&#38;`, and names the file so
    files = {path: data for path, data in some_files().items() if "&" not in path}
    opened = make_release(tmp_path / "release", files, torrents=torrents)
    with serving(tmp_path / "release") as base:
        document = tmp_path / "release.meta4"
        document.write_bytes(metalink(opened.release, opened.manifest, places(("http", base))))
        done = aria2(tmp_path / "got", document)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ERROR" not in done.stdout and ("v1.torrent" in done.stdout) == torrents
    for entry in opened.manifest.entries:
        data = (tmp_path / "got" / opened.release.name / entry.path).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry.sha256


@pytest.mark.slow
def test_aria2_refuses_what_our_digest_does_not_name(tmp_path: Path) -> None:
    need_program("aria2c")
    opened = make_release(tmp_path / "release", {"a.bin": b"right" * 1000}, name="set", torrents=False)
    with serving(tmp_path / "release") as base:
        document = tmp_path / "release.meta4"
        document.write_bytes(metalink(opened.release, opened.manifest, places(("http", base))))
        (tmp_path / "release" / "set" / "a.bin").write_bytes(b"wrong" * 1000)
        done = aria2(tmp_path / "got", document)
    assert done.returncode == 32, done.stdout + done.stderr  # checksum validation failed


# BagIt


def lines_of(path: Path) -> list[str]:
    raw = path.read_bytes().decode()
    assert raw.endswith("\n")
    return raw.split("\n")[:-1]


def decoded(path: str) -> str:
    return re.sub("%(0[aAdD]|25)", lambda found: chr(int(found.group(1), 16)), path)


def test_a_bag_holds_payload_manifest_and_documents(tmp_path: Path) -> None:
    opened = plain_release(tmp_path / "release")
    bag = bagit(opened, tmp_path / "bag", info={"Source-Organization": "A lab\nwith two lines"})
    assert (bag.files, bag.size_bytes, bag.copied_bytes) == (5, sum(map(len, FILES.values())), 0)
    assert (
        tmp_path / "bag" / "bagit.txt"
    ).read_bytes() == b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
    info = lines_of(tmp_path / "bag" / "bag-info.txt")
    assert f"Payload-Oxum: {bag.size_bytes}.{bag.files}" in info
    assert f"External-Identifier: {opened.release.manifest_id}" in info
    assert info[:2] == ["Source-Organization: A lab", " with two lines"]
    payload = {
        path.relative_to(tmp_path / "bag").as_posix(): path
        for path in (tmp_path / "bag" / "data").rglob("*")
        if path.is_file()
    }
    listed = [line.split("  ", 1) for line in lines_of(tmp_path / "bag" / "manifest-sha256.txt")]
    assert {decoded(path): digest for digest, path in listed} == {
        path: hashlib.sha256(file.read_bytes()).hexdigest() for path, file in payload.items()
    }
    assert {path.removeprefix("data/"): file.read_bytes() for path, file in payload.items()} == FILES
    for path, file in payload.items():
        assert file.stat().st_ino == (opened.data / path.removeprefix("data/")).stat().st_ino
    tags = [line.split("  ", 1) for line in lines_of(tmp_path / "bag" / "tagmanifest-sha256.txt")]
    assert {path for _, path in tags} == {
        "bagit.txt",
        "bag-info.txt",
        "manifest-sha256.txt",
        "headwater/manifest.json",
        "headwater/release.json",
    }
    for digest, path in tags:
        assert hashlib.sha256((tmp_path / "bag" / path).read_bytes()).hexdigest() == digest


def test_the_same_release_gives_the_same_bag(tmp_path: Path) -> None:
    opened = plain_release(tmp_path / "release")
    for name in ("one", "two"):
        bagit(opened, tmp_path / name)
    tags = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.is_file()}
        for name in ("one", "two")
    ]
    assert tags[0] == tags[1]


@given(st.text("ab%\r\n250DdAa", max_size=12))
def test_percent_encoding_goes_back(path: str) -> None:
    spelt = encode_path(path)
    assert "\n" not in spelt and "\r" not in spelt
    assert decoded(spelt) == path


@settings(max_examples=12)
@given(
    st.dictionaries(st.text("a% é", min_size=1, max_size=8), st.binary(max_size=20), min_size=1, max_size=4)
)
def test_percent_signs_in_paths(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bagit(plain_release(folder / "release", files), folder / "bag")
        listed = [line.split("  ", 1)[1] for line in lines_of(folder / "bag" / "manifest-sha256.txt")]
        assert sorted(decoded(path) for path in listed) == sorted(f"data/{path}" for path in files)


def test_a_file_that_is_gone_linked_or_of_another_size_is_named(tmp_path: Path) -> None:
    opened = plain_release(tmp_path / "release")
    victim = opened.data / "a.txt"
    victim.unlink()
    with pytest.raises(MissingInput, match=r"a\.txt"):
        bagit(opened, tmp_path / "bag")
    victim.write_bytes(b"longer than it was")
    with pytest.raises(IntegrityError, match=r"a\.txt: 18 bytes, recorded are 6"):
        bagit(opened, tmp_path / "bag")
    victim.unlink()
    victim.symlink_to("/etc/passwd")
    with pytest.raises(IntegrityError, match="symbolic link"):
        bagit(opened, tmp_path / "bag")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release"]


def test_a_linked_folder_inside_the_release_is_refused(tmp_path: Path) -> None:
    opened = plain_release(tmp_path / "release")
    (opened.data / "deep").rename(tmp_path / "elsewhere")
    (opened.data / "deep").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="symbolic link"):
        bagit(opened, tmp_path / "bag")


def test_a_bag_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    opened = plain_release(tmp_path / "release")
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "mine").write_text("keep")
    with pytest.raises(UsageError, match="already there"):
        bagit(opened, tmp_path / "bag")
    assert [path.name for path in (tmp_path / "bag").iterdir()] == ["mine"]


@pytest.mark.parametrize("label", ["", "a:b", "two\nlines", " blank"])
def test_labels_that_would_break_bag_info(tmp_path: Path, label: str) -> None:
    with pytest.raises(UsageError, match="label"):
        bagit(plain_release(tmp_path / "release"), tmp_path / "bag", info={label: "x"})


@pytest.mark.slow
def test_the_bagit_package_validates_it(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        # bagit 1.9 imports pkg_resources where setuptools still has it, which warns
        warnings.simplefilter("ignore")
        package = need_module("bagit")
    # it does not decode %25, against RFC 8493 (2.1.3): no percent signs here
    odd = {path: data for path, data in FILES.items() if "%" not in path}
    bagit(plain_release(tmp_path / "release", odd), tmp_path / "bag", info={"Contact-Name": "x"})
    bag = package.Bag(os.fspath(tmp_path / "bag"))
    assert bag.validate() is True
    assert bag.info["Payload-Oxum"].endswith(f".{len(odd)}")
    (tmp_path / "bag" / "data" / "empty").write_bytes(b"not")
    with pytest.raises(package.BagValidationError):
        package.Bag(os.fspath(tmp_path / "bag")).validate()
