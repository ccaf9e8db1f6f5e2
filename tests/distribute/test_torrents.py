"""Torrents made here: what is in them, what they refuse, and that they read back as they were made."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distribute import bencode
from distribute.digests import digest_tree
from distribute.torrents import (
    Magnet,
    TorrentFile,
    V2File,
    build_hybrid,
    build_v1,
    build_v2,
    hybrid_padding,
    in_tree_order,
    in_v1_order,
    infohash_v1,
    infohash_v2,
    magnet,
    parse_magnet,
)
from headwater.errors import IntegrityError, UsageError
from tests.distribute.tree_kit import MIXED, content, plain, plain_pieces, write

PIECE = 65536
FILES = content(MIXED)


def v2_files(files: dict[str, bytes], piece: int = PIECE) -> list[V2File]:
    found = {path: plain(data, (), piece) for path, data in files.items()}
    return [
        V2File(path, one.size_bytes, bytes.fromhex(one.bt_v2_root) if one.bt_v2_root else None, one.layer)
        for path, one in found.items()
    ]


def v1(files: dict[str, bytes] = FILES, piece: int = PIECE, **more: Any) -> bytes:
    sizes = [(path, len(data)) for path, data in files.items()]
    return build_v1("tree", sizes, piece, plain_pieces(files, piece), **more)


def hybrid(files: dict[str, bytes] = FILES, piece: int = PIECE, **more: Any) -> bytes:
    padded = [plain(files[path], (), piece, padded=True).padded or b"" for path in in_tree_order(list(files))]
    return build_hybrid("tree", v2_files(files, piece), piece, b"".join(padded), **more)


def test_orders() -> None:
    paths = ["b", "a/b", "a.txt", "a0", "é", "z"]
    assert in_v1_order(paths) == ["a.txt", "a/b", "a0", "b", "z", "é"]
    assert in_tree_order(paths) == ["a/b", "a.txt", "a0", "b", "z", "é"]


def test_v1_fields() -> None:
    raw = v1(
        trackers=["http://a/announce", ["udp://b:1", "udp://c:2"]], web_seeds=["https://w/"], private=True
    )
    document = bencode.decode(raw)  # strict: sorted, nothing after it
    assert set(document) == {b"announce", b"announce-list", b"created by", b"info", b"url-list"}
    info = document[b"info"]
    assert set(info) == {b"files", b"name", b"piece length", b"pieces", b"private"}
    assert [b"/".join(file[b"path"]).decode() for file in info[b"files"]] == in_v1_order(list(FILES))
    assert set(bencode.decode(v1())) == {b"created by", b"info"}
    assert b"private" not in bencode.decode(v1())[b"info"]
    assert set(bencode.decode(v1(trackers=["http://a/"]))) == {b"announce", b"created by", b"info"}
    assert infohash_v1(v1()) == infohash_v1(v1(trackers=["http://a/"], web_seeds=["http://b/"]))
    assert infohash_v1(v1()) != infohash_v1(v1(private=True))
    assert infohash_v1(raw) == hashlib.sha1(bencode.encode(info)).hexdigest()


def test_read_back() -> None:
    raw = v1(trackers=["http://a/announce", ["udp://b:1", "udp://c:2"]], web_seeds=["https://w/x y"])
    torrent = TorrentFile.parse(raw)
    assert (torrent.name, torrent.single, torrent.piece_size, torrent.private) == (
        "tree",
        False,
        PIECE,
        False,
    )
    assert (torrent.infohash_v1, torrent.infohash_v2) == (infohash_v1(raw), None)
    assert torrent.trackers == (("http://a/announce",), ("udp://b:1", "udp://c:2"))
    assert torrent.web_seeds == ("https://w/x%20y",)
    assert torrent.pieces == plain_pieces(FILES, PIECE)
    assert [file.path for file in torrent.files] == in_v1_order(list(FILES))
    assert torrent.size_bytes == sum(map(len, FILES.values()))
    stream = b"".join(FILES[path] for path in in_v1_order(list(FILES)))
    for file in torrent.files:
        assert stream[file.offset : file.offset + file.size_bytes] == FILES[file.path]
        assert (file.root, file.layer) == (None, b"")


@pytest.mark.parametrize("kind", ["v2", "hybrid"])
def test_roots_and_layers_read_back(kind: str) -> None:
    files = FILES | {"a.txt": b"x" * 99, "same": FILES["a/085.bin"], "same2": FILES["b/057.bin"]}
    raw = hybrid(files) if kind == "hybrid" else build_v2("tree", v2_files(files), PIECE)
    torrent = TorrentFile.parse(raw)
    wanted = {file.path: file for file in v2_files(files)}
    assert [file.path for file in torrent.files] == in_tree_order(list(files))
    for file in torrent.files:
        one = wanted[file.path]
        assert (file.size_bytes, file.root, file.layer) == (one.size_bytes, one.root, one.layer)
        assert file.offset % PIECE == 0
    assert torrent.infohash_v2 == infohash_v2(raw)
    assert torrent.infohash_v1 == (infohash_v1(raw) if kind == "hybrid" else None)
    assert (torrent.pieces is None) == (kind == "v2")
    bare = bencode.encode({"info": bencode.decode(raw)[b"info"]})  # what a magnet link brings
    with pytest.raises(IntegrityError, match="layer is missing"):
        TorrentFile.parse(bare)
    found = TorrentFile.parse(bare, need_layers=False)
    assert found.infohash_v2 == torrent.infohash_v2
    assert not any(file.layer for file in found.files)


def test_equal_files_have_equal_roots_everywhere() -> None:
    one = TorrentFile.parse(build_v2("x", v2_files({"a/b": FILES["a/085.bin"], "z": b"q"}), PIECE))
    two = TorrentFile.parse(build_v2("y", v2_files({"k": FILES["a/085.bin"], "l": b"r"}), PIECE))
    assert one.files[0].root == two.files[0].root


def test_the_hybrid_guard() -> None:
    small = {f"{n:03d}": bytes([n]) * 1000 for n in range(200)}
    assert hybrid_padding([1000] * 200, 1 << 20) == 200 * ((1 << 20) - 1000)
    with pytest.raises(
        UsageError, match=r"200 files \(200,000 bytes\).*209,515,200 bytes of padding"
    ) as caught:
        hybrid(small, 1 << 20)
    assert "tars" in str(caught.value.hint)
    assert TorrentFile.parse(
        hybrid(small, 16384)
    ).infohash_v2  # 3 MB of padding: more than 5 %, less than 64 MiB


def test_refused() -> None:
    with pytest.raises(UsageError, match="at least one byte"):
        build_v1("tree", [("a", 0)], PIECE, b"")
    with pytest.raises(UsageError, match="at least one byte"):
        build_v2("tree", [V2File("a", 0, None)], PIECE)
    with pytest.raises(UsageError, match="without its folder"):
        build_v2("tree", v2_files({"tree": b"x"}), PIECE)
    with pytest.raises(IntegrityError, match="layer"):
        build_v2("tree", [V2File("a", PIECE + 1, b"r" * 32, b"l" * 64)], PIECE)
    for bad in (
        lambda: build_v1("tree", [("a", 1)], PIECE, bytes(40)),
        lambda: build_v1("tree", [("a", 1)], PIECE - 1, bytes(20)),
        lambda: build_v1("a/b", [("a", 1)], PIECE, bytes(20)),
        lambda: build_v1("..", [("a", 1)], PIECE, bytes(20)),
        lambda: build_v1("tree", [("a", 1), ("a", 1)], PIECE, bytes(20)),
        lambda: build_v2("tree", [V2File("a", 1, None)], PIECE),
        lambda: build_v2("tree", v2_files({"a": b"x", "a/b": b"y"}), PIECE),
        lambda: build_v2("tree", v2_files({"a/b": b"y", "a": b"x"}), PIECE),
        lambda: build_v2("tree", v2_files({"a": b"y", "a/b/c": b"x"}), PIECE),
        lambda: build_hybrid("tree", v2_files({"b": b"y", "a": b"x"}), PIECE, bytes(20)),
    ):
        with pytest.raises(ValueError, match="."):
            bad()
    for raw in (b"", b"le", b"de", b"d1:ai1ee", b"x" * 100):
        for infohash in (infohash_v1, infohash_v2):
            with pytest.raises(IntegrityError):
                infohash(raw)


def test_from_a_read_tree(tmp_path: Path) -> None:
    found = digest_tree(write(tmp_path, FILES), profiles=(), piece_size=PIECE, v1=True, hybrid=True)
    sizes = [(path, one.size_bytes) for path, one in found.files.items()]
    assert build_v1("tree", sizes, PIECE, found.v1_pieces or b"") == v1()
    assert build_hybrid("tree", v2_files(FILES), PIECE, found.padded_pieces or b"") == hybrid()
    shuffled = random.Random(3).sample(sizes, len(sizes))
    assert build_v1("tree", shuffled, PIECE, found.v1_pieces or b"") == v1()


# magnet links

H1, H2 = "aa" * 20, "bb" * 32


def test_magnet() -> None:
    text = magnet(
        v1=H1,
        v2=H2,
        name="a b&é",
        trackers=["udp://t:1/a?x=1"],
        web_seeds=["http://w/"],
        peers=["1.2.3.4:5", "[::1]:6"],
    )
    assert text == (
        f"magnet:?xt=urn:btih:{H1}&xt=urn:btmh:1220{H2}&dn=a%20b%26%C3%A9&tr=udp%3A%2F%2Ft%3A1%2Fa%3Fx%3D1"
        "&ws=http%3A%2F%2Fw%2F&x.pe=1.2.3.4:5&x.pe=[::1]:6"
    )
    found = parse_magnet(text)
    assert found.text == text
    assert (found.infohash_v1, found.infohash_v2, found.name) == (H1, H2, "a b&é")
    with pytest.raises(ValueError, match="infohash"):
        magnet(name="x")


WORDS = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)


@given(
    st.builds(
        Magnet,
        infohash_v1=st.none() | st.binary(min_size=20, max_size=20).map(bytes.hex),
        infohash_v2=st.binary(min_size=32, max_size=32).map(bytes.hex),
        name=st.none() | WORDS,
        trackers=st.lists(WORDS, max_size=4, unique=True).map(tuple),
        web_seeds=st.lists(WORDS, max_size=4, unique=True).map(tuple),
        peers=st.lists(WORDS, max_size=4, unique=True).map(tuple),
    )
)
def test_magnet_round_trip(link: Magnet) -> None:
    assert parse_magnet(link.text) == link


def test_magnets_of_others() -> None:
    base32 = "VKVKVKVKVKVKVKVKVKVKVKVKVKVKVKVK"
    for text in (
        f"magnet:?xt=urn:btih:{H1}",
        f"MAGNET:?dn=&xt=urn:btih:{H1.upper()}#part",
        f"magnet:?xt.1=urn:btih:{base32}&xt.2=urn:sha1:ABC&tr.1=",
        f"magnet:?xt=URN:BTIH:{base32.lower()}&xl=10&unknown=1&xt=urn:btih:{H1}",
    ):
        assert parse_magnet(text) == Magnet(infohash_v1=H1), text


BAD_MAGNETS = [
    "", "magnet:", "magnet:?", "magnet:?dn=x", "http://x/?xt=urn:btih:" + H1, "magnet:?xt=urn:btih:" + H1[:-1],
    "magnet:?xt=urn:btih:" + H1 + "0", "magnet:?xt=urn:btih:" + "z" * 40, "magnet:?xt=urn:btih:" + "1" * 32,
    "magnet:?xt=urn:btih:" + "é" * 40, "magnet:?xt=urn:btmh:" + H2, "magnet:?xt=urn:btmh:1114" + H1,
    "magnet:?xt=urn:btmh:1220" + H2[:-2], "magnet:?xt=urn:btmh:1220" + "g" * 64, "magnet:?xt=urn:btih:",
    f"magnet:?xt=urn:btih:{H1}&xt=urn:btih:{'cc' * 20}", f"magnet:?xt=urn:btih:{H1}&dn=a%00b",
    f"magnet:?xt=urn:btih:{H1}&tr=http://a%0d%0aHost:%20b", f"magnet:?xt=urn:btih:{H1}&dn=%ff%fe",
    f"magnet:?xt=urn:btih:{H1}" + "&tr=http://a" * 300, f"magnet:?xt=urn:btih:{H1}&dn=" + "x" * 70_000,
    f"magnet:?xt=urn:btih:{H1}&dn=\udcff" + "x" * 70_000, f"magnet:?xt=urn:btmh:{H1}&xt=urn:ed2k:{'0' * 32}",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_MAGNETS, ids=lambda text: ascii(text[:60]))
def test_magnets_that_are_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match="magnet link"):
        parse_magnet(text)


@given(st.text(max_size=80))
def test_any_text_is_a_link_or_refused(text: str) -> None:
    try:
        parse_magnet("magnet:?xt=urn:btih:" + text)
    except IntegrityError:
        pass
