"""Torrents of strangers: each is read or refused as its table says, and no name of one leads outside."""

from __future__ import annotations

import random
from pathlib import PurePosixPath, PureWindowsPath

import pytest

from distribute import names as naming
from distribute.bencode import Limits
from distribute.torrents import TorrentFile, TorrentLimits, infohash_v1, infohash_v2, parse_magnet
from headwater.errors import IntegrityError
from tests.distribute.partners import need_module
from tests.faults.torrent_corpus import BAD, CLEANED, GOOD, LAYER_ROOT, ROOT, leaf, several, torrent, v2

HARMLESS_ANYWHERE = {  # refused as "strict" only because another system cannot hold them
    "a drive", "a stream", "turned direction", "device CON", "device aux.txt in a folder", "device LPT1 as the name",
    "a dot at the end", "a blank at the end", "case", "case of a folder", "normal form", "v2 case",
}  # fmt: skip


def test_the_tables() -> None:
    assert len(GOOD) >= 30
    assert len(BAD) >= 40
    everything = [*GOOD.values(), *CLEANED.values(), *BAD.values()]
    assert len(set(everything)) == len(everything)


def inside(found: TorrentFile) -> None:
    """Every name stays below the folder, on every system, and none is taken twice."""
    for name in [found.name, *(file.path for file in found.files)]:
        path = PurePosixPath(name)
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert str(path) == name
        for part in path.parts:
            assert naming.unsafe(part) is None
            assert len(part.encode()) <= 255
        windows = PureWindowsPath(name)
        assert not windows.root
        assert ".." not in windows.parts
    paths = [file.path for file in found.files]
    assert len(set(paths)) == len(paths)
    folders = {"/".join(path.split("/")[:n]) for path in paths for n in range(1, path.count("/") + 1)}
    assert not folders & set(paths)


@pytest.mark.parametrize("name", GOOD)
def test_read(name: str) -> None:
    raw = GOOD[name]
    found = TorrentFile.parse(raw)
    inside(found)
    assert found.infohash_v1 in (None, infohash_v1(raw))
    assert found.infohash_v2 in (None, infohash_v2(raw))
    assert found.infohash_v1 or found.infohash_v2
    for how in ("safe", "clean"):
        assert TorrentFile.parse(raw, names=how) == found  # nothing to clean


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    for how in ("strict", "safe", "clean"):
        with pytest.raises(IntegrityError, match="^torrent: ") as caught:
            TorrentFile.parse(BAD[name], names=how)
        assert caught.value.hint
        assert len(caught.value.message) < 1000


@pytest.mark.parametrize("name", CLEANED)
def test_cleaned_or_refused(name: str) -> None:
    raw = CLEANED[name]
    with pytest.raises(IntegrityError, match="^torrent: "):
        TorrentFile.parse(raw)
    if name in HARMLESS_ANYWHERE:
        assert TorrentFile.parse(raw, names="safe").files
    else:
        with pytest.raises(IntegrityError, match="^torrent: "):
            TorrentFile.parse(raw, names="safe")
    found = TorrentFile.parse(raw, names="clean")
    inside(found)
    assert (found.infohash_v1 or infohash_v1(raw)) == infohash_v1(raw)
    assert (found.infohash_v2 or infohash_v2(raw)) == infohash_v2(raw)
    folded = [naming.folded(file.path) for file in found.files]
    assert len(set(folded)) == len(folded)
    for part in "/".join([found.name, *(file.path for file in found.files)]).split("/"):
        assert naming.unportable(part) is None


def test_what_cleaning_makes() -> None:
    def paths(name: str) -> list[str]:
        return [file.path for file in TorrentFile.parse(CLEANED[name], names="clean").files]

    assert paths("dot dot") == ["_/_/etc/passwd"]
    assert paths("a file twice") == ["a", "a.1"]
    assert paths("case") == ["Read.me", "READ.1.ME"]
    assert paths("a symbolic link") == ["a"]
    assert paths("NUL in a name") == ["a_b"]


def test_addresses() -> None:
    assert TorrentFile.parse(GOOD["tracker that is none"]).trackers == ()
    assert TorrentFile.parse(GOOD["trackers that are no list"]).trackers == (("udp://a:1",),)
    assert TorrentFile.parse(GOOD["tiers of trackers"]).trackers == (("udp://a:1", "http://b"), ("http://c",))
    assert TorrentFile.parse(GOOD["web seed as text"]).web_seeds == ("http://w/a%20b",)
    assert TorrentFile.parse(GOOD["web seeds twice"]).web_seeds == ("http://w/",)


def test_limits() -> None:
    raw = several(("a", 5), ("b", 5))
    for limits in (
        TorrentLimits(bencode=Limits(size_bytes=len(raw) - 1)),
        TorrentLimits(files=1),
        TorrentLimits(size_bytes=9),
        TorrentLimits(piece_size_bytes=16383),
        TorrentLimits(depth=0),
    ):
        with pytest.raises(IntegrityError, match="torrent: "):
            TorrentFile.parse(raw, limits)
    with pytest.raises(IntegrityError, match="too many files"):
        TorrentFile.parse(v2({"a": leaf(), "b": leaf()}), TorrentLimits(files=1))
    info = {"name": "a", "piece length": 16384, "pieces": b"h" * 20, "length": 1}
    for key, value in (
        ("url-list", [f"http://{n}/" for n in range(1001)]),
        ("announce-list", [[f"http://{n}/"] for n in range(1001)]),
        ("announce-list", [[f"http://{n}/" for n in range(1001)]]),
    ):
        with pytest.raises(IntegrityError, match="too many"):
            TorrentFile.parse(torrent(info, **{key: value}))


def test_layers_that_are_not_there_yet() -> None:
    """From a magnet link comes only the info dictionary."""
    raw = v2({"a": leaf(1 << 20), "b": leaf(3, pieces_root=LAYER_ROOT)}, layers="none")
    found = TorrentFile.parse(raw, need_layers=False)
    assert [(file.root, file.layer) for file in found.files] == [(ROOT, b""), (LAYER_ROOT, b"")]


@pytest.mark.parametrize("seed", range(40))
def test_damaged_anywhere(seed: int) -> None:
    source = random.Random(seed)
    table = [*GOOD.values(), *CLEANED.values()]
    for _ in range(50):
        raw = bytearray(source.choice(table))
        for _ in range(source.randrange(1, 4)):
            at = source.randrange(len(raw))
            if source.random() < 0.5:
                raw[at] = source.choice([*b"0123456789:ilde-/.\\", source.randrange(256)])
            elif source.random() < 0.5:
                del raw[at : at + source.randrange(1, 9)]
            else:
                raw[at:at] = source.choice([b"i-1e", b"0:", b"9:", b"le", b"de", b"e", b"1:a", b"../"])
        for how in ("strict", "clean"):
            try:
                found = TorrentFile.parse(bytes(raw), names=how)
            except IntegrityError:
                continue
            inside(found)


def test_one_that_costs_time() -> None:
    """Thousands of names that are one when cleaned, and as many in one folder."""
    for raw in (
        several(*[(["x"], 0) for _ in range(8_000)], ("y", 10)),
        several(*[(f"{n}/{n}", 0) for n in range(8_000)], ("y", 10)),
    ):
        assert len(TorrentFile.parse(raw, names="clean").files) == 8_001


@pytest.mark.slow
@pytest.mark.parametrize("name", [*GOOD, *CLEANED])
def test_libtorrent_gives_the_same_infohash(name: str) -> None:
    lt = need_module("libtorrent")
    raw = (GOOD | CLEANED)[name]
    found = TorrentFile.parse(raw, names="clean")
    try:
        theirs = lt.load_torrent_buffer(raw).info_hashes
    except RuntimeError as error:
        assert name in REFUSED_THERE, error  # it refuses more than we do here, and only here
        return
    assert name not in REFUSED_THERE
    assert (str(theirs.v1) if theirs.has_v1() else None) == found.infohash_v1
    assert (str(theirs.v2) if theirs.has_v2() else None) == found.infohash_v2
    if found.infohash_v1 or found.infohash_v2:
        link = lt.make_magnet_uri(lt.load_torrent_buffer(raw))
        assert parse_magnet(link).infohash_v1 == found.infohash_v1


REFUSED_THERE = {"info not in order, tree is"}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_what_libtorrent_reads_and_we_do_not(name: str) -> None:
    """Its verdict is ours but for these, where it believes one of two that differ, or passes over the rest."""
    lt = need_module("libtorrent")
    try:
        lt.load_torrent_buffer(BAD[name])
    except (RuntimeError, ValueError):
        assert name not in READ_THERE
        return
    assert name in READ_THERE


READ_THERE = {
    "bytes after it", "twice", "a key twice in info", "attributes are a number", "nothing but pads", "v2 100 deep",
    "v2 attributes are a list", "v2 a layer is missing", "v2 all layers are missing", "v2 layers are a list",
    "v2 one root for two sizes", "a path of 5,000 bytes",
}  # fmt: skip
