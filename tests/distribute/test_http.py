"""A mirror as a source: where documents and files lie, what is asked, and the words about secrets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from distribute.transports import http
from distribute.transports._base import Context, NotThere, Wanted, WrongBytes
from distribute.transports._redact import redact
from headwater.errors import HeadwaterError, UsageError
from headwater.release import open_release
from tests.distribute import loopback
from tests.distribute.loopback import Mirror
from tests.distribute.release_kit import build_release, sample_files

FILES = sample_files(small=3, big=(300_000,))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    (tmp_path / "rel").mkdir()
    build_release(tmp_path / "rel", FILES)
    return tmp_path / "rel"


@pytest.fixture
def mirror(release: Path) -> Iterator[Mirror]:
    with Mirror(release) as server:
        yield server


@pytest.fixture
def source(mirror: Mirror, tmp_path: Path) -> Iterator[http.HttpSource]:
    made = http.open_source(mirror.url, Context(tmp_path, allow_private=True))
    yield made
    made.close()


def test_documents_and_files(source: http.HttpSource, mirror: Mirror, release: Path) -> None:
    assert source.release_file("manifest.json") == (release / "manifest.json").read_bytes()
    assert source.release_file("absent.json") is None
    wanted = Wanted("big0.bin", 300_000)
    assert b"".join(source.read(wanted, 0, 300_000)) == FILES["big0.bin"]
    assert b"".join(source.read(wanted, 1, 9)) == FILES["big0.bin"][1:10]
    assert mirror.about("set/big0.bin") == ["", "bytes=1-9"]
    odd = "notes/ü x?#%.txt"
    assert b"".join(source.read(Wanted(odd, len(FILES[odd])), 0, len(FILES[odd]))) == FILES[odd]
    assert [path for _, path, _ in mirror.asked].count("release.json") == 1  # asked once, kept
    with pytest.raises(NotThere):
        list(source.read(Wanted("absent", 1), 0, 1))
    for path in ("../x", "/x", "a//b"):
        with pytest.raises(HeadwaterError):
            list(source.read(Wanted(path, 1), 0, 1))


def test_the_address_of_the_manifest_and_a_query(mirror: Mirror, release: Path, tmp_path: Path) -> None:
    source = http.open_source(
        mirror.url + "manifest.json?token=canary", Context(tmp_path, allow_private=True)
    )
    assert source.release_file("manifest.json") == (release / "manifest.json").read_bytes()
    assert "canary" not in source.label and source.label.startswith("http://127.0.0.1")
    source.close()


def test_a_name_that_leads_outside_is_refused(source: http.HttpSource, mirror: Mirror, release: Path) -> None:
    text = (release / "release.json").read_text().replace('"name":"set"', '"name":"../.."')
    (release / "release.json").write_text(text)
    with pytest.raises(WrongBytes, match="unsafe"):
        list(source.read(Wanted("big0.bin", 300_000), 0, 10))


def test_connections_are_used_again(source: http.HttpSource, mirror: Mirror, tmp_path: Path) -> None:
    wanted = Wanted("big0.bin", 300_000)
    for offset in range(0, 100_000, 10_000):
        list(source.read(wanted, offset, 10_000))
    list(source.read(wanted, 0, 300_000))
    assert mirror.connections == 1


def test_publish_tells_and_looks(mirror: Mirror, release: Path, tmp_path: Path) -> None:
    opened, context = open_release(release), Context(tmp_path, allow_private=True)
    plan = http.publish(opened, mirror.url, context, dry_run=True)
    assert mirror.asked == [] and plan.sent_bytes == 0
    done = http.publish(opened, mirror.url.rstrip("/"), context, dry_run=False)
    assert done.location is not None and done.location.url == mirror.url
    assert done.actions[-1] == "it is there"
    mirror.wrong["manifest.json"] = loopback.status(404)
    assert http.publish(opened, mirror.url, context, dry_run=False).actions[-1] == "nothing is there yet"
    with pytest.raises(UsageError):
        http.publish(opened, "not-an-address", context, dry_run=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://user:pass@host/x", "https://***@host/x"),
        ("https://host/?a=1&token=abc&b=2", "https://host/?a=1&token=***&b=2"),
        ("https://h/?X-Amz-Signature=abc", "https://h/?X-Amz-Signature=***"),
        ("https://h/?apiKey=abc#frag", "https://h/?apiKey=***#frag"),
        ("Girder-Token: abc", "Girder-Token: ***"),
        ("Authorization: Bearer abcdef", "Authorization: ***"),
        ("http://tracker/0123456789abcdef0123456789abcdef/announce", "http://tracker/***/announce"),
        ("https://host/path?page=2", "https://host/path?page=2"),
        ("plain text about a monkey", "plain text about a monkey"),
    ],
)
def test_secrets_are_taken_out(text: str, expected: str) -> None:
    assert redact(text) == expected
