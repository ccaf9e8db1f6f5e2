"""Fetch from our own seed by each of its faces and by several at once, and by a signed pointer."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from distribute.cid import DAG_PB, RAW, Cid
from distribute.fetch import FetchOptions, fetch
from distribute.pointer import key_id, load_private, new_key, next_body, public_text, sign
from distribute.publishing import PublishOptions, publish
from distribute.seeding import Seeding, SeedOptions
from distribute.transports._base import NotThere
from distribute.transports._gateway import BLOCK_BYTES
from distribute.transports._providers import Providers
from distribute.transports.http import HttpSource
from headwater.errors import HeadwaterError, MissingInput, SignatureFailure
from headwater.release import Pointer, open_release, write_canonical
from headwater.steps import RunOptions
from tests.distribute.loopback import Mirror
from tests.distribute.partners import need_module
from tests.distribute.release_kit import build_release, same, sample_files, write_files

FILES = sample_files(small=6, big=(9 * 1024 * 1024 + 7,))


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeding]:
    need_module("aiohttp")
    need_module("libtorrent")
    base = tmp_path_factory.mktemp("seed")
    write_files(base / "set", FILES)
    publish(base / "set", base / "rel", PublishOptions(), RunOptions(), workers=1)
    with Seeding(open_release(base / "rel"), SeedOptions(local_only=True)) as seeding:
        yield seeding


def bring(seed: Seeding | None, *locations: str, to: Path, **options: Any) -> dict[str, Any]:
    gateway = seed.gateway if seed is not None else None
    values = {
        "allow_private": True,
        "local_only": True,
        "gateways": (gateway,) if gateway else (),
        "stall_seconds": 15.0,
        "patience_seconds": 15.0,
    }
    return fetch(locations, to, FetchOptions(**{**values, **options}))


def faces(seed: Seeding) -> dict[str, str]:
    found = {"http": seed.url, **{f"torrent {kind}": link for kind, link in seed.magnets.items()}}
    return found | {profile: f"ipfs://{cid}" for profile, cid in seed.release.release.cids.items()}


@pytest.mark.slow
@pytest.mark.parametrize("pinned", [True, False])
def test_every_face_gives_the_same_bytes(seed: Seeding, tmp_path: Path, pinned: bool) -> None:
    manifest = seed.release.release.manifest_id if pinned else None
    tried = faces(seed)
    assert len(tried) >= 5
    for number, (face, location) in enumerate(tried.items()):
        out = tmp_path / str(number)
        if pinned and face.startswith("torrent"):
            with pytest.raises(HeadwaterError):  # a torrent alone cannot give the manifest
                bring(seed, location, to=out, manifest=manifest)
            bring(seed, location, to=out, manifest=str(seed.release.file("manifest.json")))
        else:
            result = bring(seed, location, to=out, manifest=manifest)
            assert result["bytes_wrong"] == 0
        assert same(out, FILES), face
        opened = open_release(out)
        assert {e.path: e.sha256 for e in opened.manifest.entries} == {
            path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()
        }


@pytest.mark.slow
def test_all_faces_at_once(seed: Seeding, tmp_path: Path) -> None:
    result = bring(seed, *faces(seed).values(), to=tmp_path / "out")
    assert same(tmp_path / "out", FILES)
    assert result["manifest_id"] == seed.release.release.manifest_id
    assert sum(row["used_bytes"] for row in result["sources"]) == sum(map(len, FILES.values()))


@pytest.mark.slow
def test_a_small_release_comes_once_though_it_has_two_ways(seed: Seeding, tmp_path: Path) -> None:
    result = bring(seed, seed.url, seed.magnets["v1"], to=tmp_path / "out")
    assert same(tmp_path / "out", FILES)
    assert result["bytes_received"] <= 1.3 * sum(row["used_bytes"] for row in result["sources"])


@pytest.mark.slow
def test_interior_nodes_of_one_source_save_another_the_asking(
    seed: Seeding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nodes.car comes over HTTP; the gateway is then asked for leaves only."""
    asked: list[int] = []
    real = Providers.block

    def block(self: Providers, cid: Cid, limit_bytes: int = BLOCK_BYTES) -> bytes:
        asked.append(cid.codec)
        return real(self, cid, limit_bytes)

    monkeypatch.setattr(Providers, "block", block)
    monkeypatch.setattr(Providers, "car", lambda *_, **__: None)  # block by block
    location = f"ipfs://{next(iter(seed.release.release.cids.values()))}"
    manifest = str(seed.release.file("manifest.json"))
    assert bring(seed, location, to=tmp_path / "alone", manifest=manifest)["bytes_wrong"] == 0
    assert DAG_PB in asked and RAW in asked
    asked.clear()

    def gone(self: HttpSource, *_: object) -> None:
        raise NotThere("documents only")

    monkeypatch.setattr(HttpSource, "read", gone)
    bring(seed, seed.url, location, to=tmp_path / "out", manifest=manifest)
    assert same(tmp_path / "out", FILES)
    assert DAG_PB not in asked and RAW in asked


# signed pointers


@pytest.fixture
def signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str, Any]]:
    """A release, the public key of its pointer, and a function that signs version N of it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "rel"
    folder.mkdir()
    manifest = build_release(folder, {"a.txt": b"first"})
    public = public_text(new_key(tmp_path / "key.pem"))

    def put(place: Path, manifest_id: str, version: int) -> Pointer:
        body = next_body(None, "set", manifest_id, days=5)
        if version > 1:
            body = body.model_copy(update={"version": version, "previous": manifest})
        pointer = sign(body, load_private(tmp_path / "key.pem"))
        write_canonical(place / "latest.json", pointer)
        return pointer

    put(folder, manifest, 1)
    yield folder, public, put


def test_the_newest_signed_pointer_decides(signed: tuple[Path, str, Any], tmp_path: Path) -> None:
    old, key, put = signed
    new = tmp_path / "new"
    new.mkdir()
    newer = build_release(new, {"a.txt": b"second"})
    put(new, newer, 2)
    result = bring(None, str(old), str(new), to=tmp_path / "out", keys=(key,))
    assert result["manifest_id"] == newer and result["pinned"]
    assert same(tmp_path / "out", {"a.txt": b"second"})
    assert [s["source"] for s in result["skipped"]] == [str(old)]
    # an older one is not taken any more: rollback
    with pytest.raises(SignatureFailure):
        bring(None, str(old), to=tmp_path / "back", keys=(key,))
    assert not (tmp_path / "back").exists()


def test_pointers_that_are_not_right(signed: tuple[Path, str, Any], tmp_path: Path) -> None:
    folder, key, _ = signed
    with pytest.raises(SignatureFailure):
        bring(None, str(folder), to=tmp_path / "out", keys=("ab" * 32,))
    other = public_text(new_key(tmp_path / "other.pem"))
    with pytest.raises(SignatureFailure):
        bring(None, str(folder), to=tmp_path / "out", keys=(key, other), threshold=2)
    with Mirror(folder) as mirror:
        raw = bytearray((folder / "latest.json").read_bytes())
        raw[raw.index(b"manifest_id") + 16] ^= 1
        mirror.wrong["latest.json"] = lambda handler, path: handler.file(path, data=bytes(raw))
        with pytest.raises(HeadwaterError) as caught:
            bring(None, mirror.url, to=tmp_path / "out", keys=(key,))
        assert caught.value.exit_code in (12, 13)
    (folder / "latest.json").unlink()
    with pytest.raises(MissingInput, match="latest.json"):
        bring(None, str(folder), to=tmp_path / "out", keys=(key,))
    assert not (tmp_path / "out").exists()


def test_an_expired_pointer(signed: tuple[Path, str, Any], tmp_path: Path) -> None:
    folder, key, put = signed
    body = put(folder, open_release(folder).release.manifest_id, 1).body
    past = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    pointer = sign(body.model_copy(update={"expires_at": past}), load_private(tmp_path / "key.pem"))
    assert pointer.signatures[0].key_id == key_id(bytes.fromhex(key))
    write_canonical(folder / "latest.json", pointer)
    with pytest.raises(SignatureFailure, match="time was over"):
        bring(None, str(folder), to=tmp_path / "out", keys=(key,))
    bring(None, str(folder), to=tmp_path / "out", keys=(key,), allow_expired=True)
    assert same(tmp_path / "out", {"a.txt": b"first"})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["v1", "v2", "http", "ipfs"])
def test_a_flipped_byte_at_our_own_seed(
    seed: Seeding, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, kind: str
) -> None:
    """The only source is damaged: 13, with the file named, soon. With a healthy one beside it: all is well, and it is named."""
    base = tmp_path_factory.mktemp("damaged")
    write_files(base / "set", FILES)
    publish(base / "set", base / "rel", PublishOptions(data="copy"), RunOptions(), workers=1)
    with open(base / "rel/set/big0.bin", "r+b") as handle:
        handle.seek(5_000_000)
        handle.write(b"\0damage\0")
    manifest = str(seed.release.file("manifest.json"))
    with Seeding(open_release(base / "rel"), SeedOptions(local_only=True)) as damaged:
        assert damaged.release.release.manifest_id == seed.release.release.manifest_id
        cid = next(iter(damaged.release.release.cids.values()))
        location = {"http": damaged.url, "ipfs": f"ipfs://{cid}", **damaged.magnets}[kind]
        if kind == "v1":
            location = location.partition("&ws=")[0] + f"&x.pe={damaged.peer}"
        begun = time.monotonic()
        patience = 100.0 if kind == "ipfs" else 8.0  # who answers 500 is not waited for
        with pytest.raises(HeadwaterError, match=r"big0\.bin") as caught:
            bring(
                damaged,
                location,
                to=tmp_path / "out",
                manifest=manifest,
                stall_seconds=4.0,
                patience_seconds=patience,
            )
        assert kind != "ipfs" or "bafk" in caught.value.message  # the block that is damaged
        assert time.monotonic() - begun < 30 and caught.value.exit_code == (
            1 if kind == "ipfs" else 13
        )  # our gateway looks, and says 500
        assert not (tmp_path / "out/big0.bin").exists()
        result = bring(
            damaged, location, seed.url, to=tmp_path / "second", manifest=manifest, stall_seconds=4.0
        )
    assert same(tmp_path / "second", FILES)
    assert result["sources"][1]["wrong_bytes"] == 0
