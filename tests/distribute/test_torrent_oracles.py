"""Other programs make the same torrents of the same tree: mktorrent, transmission-create, libtorrent.

transmission-create leaves empty files out and sorts without regard to case; libtorrent takes the order it is given. Trees
are chosen where their order is ours. libtorrent 2.1 cannot read the hybrid it makes where `a.txt` stands beside `a/b`.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from distribute import bencode
from distribute.digests import TreeDigests, digest_tree
from distribute.torrents import (
    TorrentFile,
    V2File,
    build_hybrid,
    build_v1,
    build_v2,
    infohash_v1,
    infohash_v2,
    magnet,
    parse_magnet,
)
from tests.distribute.partners import need_module, need_program
from tests.distribute.tree_kit import MIXED, content, write

pytestmark = pytest.mark.slow

TREES = {
    "mixed": content(MIXED),
    "one file": {"only.bin": b"x" * 100_000},
    "beside a folder": {
        "a.txt": b"1" * 50_000,
        "a/b": b"2" * 70_000,
        "a0": b"3",
        "Z": b"4" * 40_000,
        "a/é ö": b"5" * 9,
    },
    "empty ones": {"a": b"", "b/c": b"x" * 33_000, "b/d": b"", "e": b""},
    "whole pieces": {"a": b"a" * 65_536, "b": b"b" * 32_768, "c/d": b"c" * 131_072},
    "small": {f"{n % 7}/{n:03d}": bytes([n]) * (n * 37) for n in range(200)},
}
PIECE = 32_768


def ours(tree: dict[str, bytes], folder: Path, piece: int = PIECE, *, hybrid: bool = True) -> TreeDigests:
    return digest_tree(
        write(folder / "tree", tree), profiles=(), piece_size=piece, v1=True, hybrid=hybrid, workers=2
    )


def our_v1(found: TreeDigests, piece: int = PIECE) -> bytes:
    sizes = [(path, one.size_bytes) for path, one in found.files.items()]
    return build_v1("tree", sizes, piece, found.v1_pieces or b"")


def v2_files(found: TreeDigests) -> list[V2File]:
    return [
        V2File(path, one.size_bytes, bytes.fromhex(one.bt_v2_root) if one.bt_v2_root else None, one.layer)
        for path, one in found.files.items()
    ]


def info(raw: bytes) -> Any:
    return bencode.decode(raw, sorted_keys=False)[b"info"]


@pytest.mark.parametrize("name", TREES)
def test_mktorrent(tmp_path: Path, name: str) -> None:
    program = need_program("mktorrent")
    raw = our_v1(ours(TREES[name], tmp_path))
    made = tmp_path / "made.torrent"
    subprocess.run(
        [program, "-d", "-l", "15", "-o", str(made), "tree"],
        cwd=tmp_path,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    assert info(made.read_bytes()) == info(raw)
    assert infohash_v1(made.read_bytes()) == infohash_v1(raw)
    assert TorrentFile.parse(made.read_bytes()).files == TorrentFile.parse(raw).files


@pytest.mark.parametrize("name", ["mixed", "one file", "whole pieces", "small"])
def test_transmission_create(tmp_path: Path, name: str) -> None:
    program = need_program("transmission-create")
    tree = {path: data for path, data in TREES[name].items() if data}
    raw = our_v1(ours(tree, tmp_path))
    made = tmp_path / "made.torrent"
    subprocess.run(
        [program, "-s", "32", "-o", str(made), "tree"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL
    )
    theirs = info(made.read_bytes())
    assert theirs.pop(b"private") == 0  # it writes that always, which alone makes another infohash
    assert theirs == info(raw)


@pytest.mark.parametrize("piece", [16_384, PIECE, 1 << 20])
@pytest.mark.parametrize("name", TREES)
def test_libtorrent(tmp_path: Path, name: str, piece: int) -> None:
    lt = need_module("libtorrent")
    both = name != "small" or piece < 1 << 20  # else there would be more padding than is allowed
    found = ours(TREES[name], tmp_path, piece, hybrid=both)
    files = v2_files(found)
    mine = {"v1": our_v1(found, piece), "v2": build_v2("tree", files, piece)}
    if both:
        mine["hybrid"] = build_hybrid("tree", files, piece, found.padded_pieces or b"")
    flags = {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only, "hybrid": 0}
    entries = sorted(lt.list_files(str(tmp_path / "tree")), key=lambda entry: entry.filename.encode())
    for kind, raw in mine.items():
        loaded = lt.load_torrent_buffer(raw)
        hashes = loaded.info_hashes
        assert hashes.has_v1() == (kind != "v2")
        assert hashes.has_v2() == (kind != "v1")
        assert not hashes.has_v1() or str(hashes.v1) == infohash_v1(raw)
        assert not hashes.has_v2() or str(hashes.v2) == infohash_v2(raw)
        made = lt.create_torrent(entries, piece, flags[kind])
        lt.set_piece_hashes(made, str(tmp_path))
        theirs = lt.bencode(made.generate())
        if kind == "hybrid" and name == "beside a folder":
            with pytest.raises(RuntimeError, match="does not match"):
                lt.load_torrent_buffer(theirs)
            continue
        assert info(theirs) == info(raw), kind
        assert (infohash_v1(theirs), infohash_v2(theirs)) == (infohash_v1(raw), infohash_v2(raw))
        layers = b"piece layers"
        assert bencode.decode(theirs).get(layers) == bencode.decode(raw).get(layers)
        assert TorrentFile.parse(theirs).files == TorrentFile.parse(raw).files


def test_magnet_links(tmp_path: Path) -> None:
    lt = need_module("libtorrent")
    found = ours(TREES["mixed"], tmp_path)
    raw = build_hybrid(
        "tree",
        v2_files(found),
        PIECE,
        found.padded_pieces or b"",
    )
    link = magnet(
        v1=infohash_v1(raw),
        v2=infohash_v2(raw),
        name="tree é",
        trackers=["http://t:1/a?x=1&y"],
        web_seeds=["http://w/"],
        peers=["127.0.0.1:99"],
    )
    theirs = lt.parse_magnet_uri(link)
    assert (str(theirs.info_hashes.v1), str(theirs.info_hashes.v2)) == (infohash_v1(raw), infohash_v2(raw))
    assert (theirs.name, theirs.trackers, theirs.url_seeds) == (
        "tree é",
        ["http://t:1/a?x=1&y"],
        ["http://w/"],
    )
    back = parse_magnet(lt.make_magnet_uri(theirs))
    assert back == parse_magnet(link)
