"""Places that a manifest.json and the locations.json beside it name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from distribute.listed import expand
from distribute.sending import add_location
from headwater.errors import IntegrityError, UsageError
from headwater.release import Location, Locations, open_release, read_document, write_canonical
from tests.conftest import Cli
from tests.distribute.publish_kit import make_release, some_tree


@pytest.fixture
def release(tmp_path: Path) -> Path:
    make_release(some_tree(tmp_path / "d"), tmp_path / "rel", mirrors=("https://data.example/set/",))
    return tmp_path / "rel"


def test_places_come_from_beside_the_manifest(release: Path) -> None:
    manifest = str(release / "manifest.json")
    places, pinned = expand([manifest], None, ipfs=True)
    assert pinned == manifest and places[0] == "https://data.example/set/"
    assert [place.partition(":")[0] for place in places] == ["https", "magnet", "ipfs", "ipfs"]
    assert [place.partition(":")[0] for place in expand([manifest], None, ipfs=False)[0]] == [
        "https",
        "magnet",
    ]
    opened = open_release(release)
    assert expand([str(release / "locations.json")], None, ipfs=True) == (places, opened.release.manifest_id)
    assert expand([manifest], "a" * 64, ipfs=True)[1] == "a" * 64


def test_other_locations_are_left_as_they_are(release: Path, tmp_path: Path) -> None:
    named = [str(release), "https://other.example/", "magnet:?xt=urn:btih:" + "a" * 40, "manifest.json"]
    assert expand(named, None, ipfs=False) == (tuple(named), None)


def test_a_manifest_alone_says_what_is_missing(release: Path, tmp_path: Path) -> None:
    shutil.copy(release / "manifest.json", tmp_path / "manifest.json")
    with pytest.raises(UsageError, match="no location to fetch from is listed"):
        expand([str(tmp_path / "manifest.json")], None, ipfs=True)
    places, pinned = expand([str(tmp_path / "manifest.json"), str(release)], None, ipfs=True)
    assert places == (str(release),) and pinned == str(tmp_path / "manifest.json")


def test_documents_of_two_releases(release: Path) -> None:
    listing = read_document(release / "locations.json", Locations)
    write_canonical(release / "locations.json", listing.model_copy(update={"manifest_id": "b" * 64}))
    with pytest.raises(IntegrityError, match="another manifest"):
        expand([str(release / "manifest.json")], None, ipfs=True)


def test_the_command_fetches_from_what_is_listed(release: Path, tmp_path: Path, cli: Cli) -> None:
    """A copy elsewhere is listed; the mirror and the magnet link are dead, and that costs no more than their time."""
    shutil.copytree(release, tmp_path / "copy")
    add_location(open_release(release), Location(kind="file", url=str(tmp_path / "copy")))
    (tmp_path / "kept").mkdir()
    for name in ("manifest.json", "locations.json"):
        shutil.copy(release / name, tmp_path / "kept" / name)
    listing = read_document(tmp_path / "kept" / "locations.json", Locations)
    near = [one for one in listing.locations if one.kind == "file"]
    write_canonical(tmp_path / "kept" / "locations.json", listing.model_copy(update={"locations": near}))
    done = cli("fetch", "kept/manifest.json", "-o", "got")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "got" / "sub" / "big.bin").read_bytes() == (
        tmp_path / "d" / "sub" / "big.bin"
    ).read_bytes()
