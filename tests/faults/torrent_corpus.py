"""Torrents made to be refused or to be read, each with one thing about it; a table for the tests.

`GOOD` are read as they are, `CLEANED` only with names="clean", `BAD` never. Digests in them are of nothing: no data exist.
"""

from __future__ import annotations

import hashlib
from typing import Any

from distribute import merkle
from distribute.bencode import encode

K16 = 16384
SHA1 = b"h" * 20
ROOT = b"r" * 32
LAYER = b"1" * 32 + b"2" * 32  # of a file of two pieces
LAYER_ROOT = hashlib.sha256(LAYER).digest()


def torrent(info: dict[Any, Any], **top: Any) -> bytes:
    """The bytes; a value of None takes a key away; `layers` is short for the piece layers."""
    if "layers" in top:
        top["piece layers"] = top.pop("layers")
    info = {key: value for key, value in info.items() if value is not None}
    return encode({"info": info, **top})


def v1(**changes: Any) -> bytes:
    """One file of 10 bytes."""
    info = {"name": "a", "piece length": K16, "pieces": SHA1, "length": 10}
    return torrent(info | {key.replace("_", " "): value for key, value in changes.items()})


def several(*files: Any, pieces: bytes = SHA1, **changes: Any) -> bytes:
    """Several files; a pair is (path as list or text with slashes, length)."""
    listed = []
    for file in files:
        if isinstance(file, tuple):
            path = file[0].split("/") if isinstance(file[0], str) else file[0]
            file = {"path": path, "length": file[1]}
        listed.append(file)
    return torrent({"name": "d", "piece length": K16, "pieces": pieces, "files": listed, **changes})


def leaf(size: Any = 10, **changes: Any) -> dict[str, Any]:
    """A file in a v2 tree."""
    found = {"length": size, "pieces root": ROOT} | {
        key.replace("_", " "): value for key, value in changes.items()
    }
    return {"": {key: value for key, value in found.items() if value is not None}}


def v2(tree: Any, *, layers: Any = None, **changes: Any) -> bytes:
    """A v2 torrent of this tree."""
    info = {"name": "d", "piece length": K16, "meta version": 2, "file tree": tree}
    info |= {key.replace("_", " "): value for key, value in changes.items()}
    return torrent(info, **({} if layers == "none" else {"layers": layers or {}}))


def hybrid(files: list[Any], tree: Any, pieces: int, **changes: Any) -> bytes:
    """Both; `files` are dictionaries as in v1."""
    return v2(tree, files=files, pieces=SHA1 * pieces, **changes)


def deep(levels: int) -> Any:
    tree: Any = leaf()
    for _ in range(levels):
        tree = {"f": tree}
    return tree


def raw_tree(inner: bytes) -> bytes:
    """A v2 torrent around a tree that no encoder of ours makes."""
    return (
        b"d4:infod9:file tree"
        + inner
        + b"12:meta versioni2e4:name1:d12:piece lengthi16384ee12:piece layersdee"
    )


RAW_LEAF = b"d0:d6:lengthi10e11:pieces root32:" + ROOT + b"ee"
PAD = {"attr": "p", "length": K16 - 10, "path": [".pad", str(K16 - 10)]}
AB = {"a": leaf(), "b": leaf(5)}
AB_FILES = [{"length": 10, "path": ["a"]}, PAD, {"length": 5, "path": ["b"]}]

GOOD: dict[str, bytes] = {
    "one file": v1(),
    "one empty file among others": several(("a", 0), ("b", 10)),
    "folders": several(("x/y/z", 5), ("x/y/w", 5)),
    "not UTF-8 in a comment": torrent({"name": "a", "piece length": K16, "pieces": SHA1, "length": 1}, comment=b"\xff\xfe"),
    "private": v1(private=1),
    "private that is no number": v1(private="yes"),
    "unknown keys": v1(x_cross_seed="abc", source="s", collections=["c"]),
    "piece length no power of two": v1(piece_length=20_000),
    "piece length of one byte": v1(piece_length=1, pieces=SHA1 * 10),
    "piece length of 128 MiB": v1(piece_length=128 << 20),
    "last piece is full": v1(length=2 * K16, pieces=SHA1 * 2),
    "creation date and author": torrent({"name": "a", "piece length": K16, "pieces": SHA1, "length": 1}, **{"creation date": 5, "created by": "x"}),
    "keys not in order": b"d4:infod6:pieces20:" + SHA1 + b"12:piece lengthi16384e4:name1:a6:lengthi10ee8:announce4:http" + b"e",
    "info not in order, tree is": b"d12:piece layersde4:infod12:meta versioni2e9:file treed1:a" + RAW_LEAF + b"e12:piece lengthi16384e4:name1:dee",
    "tracker that is none": torrent({"name": "a", "piece length": K16, "pieces": SHA1, "length": 1}, announce="javascript:x"),
    "trackers that are no list": torrent({"name": "a", "piece length": K16, "pieces": SHA1, "length": 1}, **{"announce-list": "x", "announce": "udp://a:1"}),
    "tiers of trackers": torrent({"name": "a", "piece length": K16, "pieces": SHA1, "length": 1}, **{"announce-list": [["udp://a:1", "http://b"], ["http://c"], [], "x", [1]]}),
    "web seed as text": torrent({"name": "a", "piece length": K16, "pieces": SHA1, "length": 1}, **{"url-list": "http://w/a b"}),
    "web seeds twice": torrent({"name": "a", "piece length": K16, "pieces": SHA1, "length": 1}, **{"url-list": ["http://w/", "http://w/", "file:///etc/passwd", 7]}),
    "name.utf-8 beside another": v1(**{"name.utf-8": "b"}),
    "path.utf-8 beside another": several({"path": [b"\xff"], "path.utf-8": ["ok"], "length": 10}),
    "attributes x and h": several({"path": ["run"], "length": 10, "attr": "xh"}),
    "a pad file": several(("a", 10), PAD, ("b", 10), pieces=SHA1 * 2),
    "a pad file without a path": several(("a", 10), {"attr": "p", "length": 6}, ("b", 10)),
    "names from far away": several(("ファイル/ñandú", 5), ("Ж🙂", 5)),
    "a name of 255 bytes": several(("n" * 255, 10)),
    "name like a hidden file": several((".hidden", 10)),
    "dots inside a name": several(("a..b/c...d", 10)),
    "meta version 1": v1(meta_version=1),
    "v2, one file": v2({"d": leaf()}),
    "v2, two files": v2(AB),
    "v2 without layers, none is due": v2(AB, layers="none"),
    "v2, an empty file": v2({"a": leaf(), "e": leaf(0, pieces_root=None)}),
    "v2, an empty file with a root": v2({"a": leaf(), "e": leaf(0)}),
    "v2, an empty folder": v2({"a": leaf(), "e": {}}),
    "v2, a layer": v2({"a": leaf(2 * K16, pieces_root=LAYER_ROOT)}, layers={LAYER_ROOT: LAYER}),
    "v2, one layer of two equal files": v2({n: leaf(K16 + 1, pieces_root=LAYER_ROOT) for n in "ab"}, layers={LAYER_ROOT: LAYER}),
    "v2, 50 folders deep": v2(deep(50)),
    "v2, a file exactly one piece": v2({"a": leaf(K16)}),
    "hybrid": hybrid(AB_FILES, AB, 2),
    "hybrid, padded to the end": hybrid([*AB_FILES, {"attr": "p", "length": K16 - 5, "path": [".pad", "1"]}], AB, 2),
    "hybrid, one file": v2({"d": leaf()}, length=10, pieces=SHA1),
}  # fmt: skip

# read as most clients do: harmless names, no links, numbers on doubles
CLEANED: dict[str, bytes] = {
    "dot dot": several(("../../etc/passwd", 10)),
    "dot dot in the name": several(("a", 10), name=".."),
    "absolute": several((["", "etc", "passwd"], 10)),
    "a slash in a part": several((["../../x"], 10)),
    "a backslash": several((["..\\..\\x"], 10)),
    "a slash in the name": v1(name="../x"),
    "a drive": several((["C:", "x"], 10)),
    "a stream": several((["a:b"], 10)),
    "a single dot": several((["."], 10)),
    "an empty part": several((["a", "", "b"], 10)),
    "NUL in a name": several((["a\0b"], 10)),
    "newline in a name": several((["a\nb"], 10)),
    "terminal codes in a name": several((["a\x1b[2Jb"], 10)),
    "turned direction": several((["a\u202egpj.exe"], 10)),
    "device CON": several((["CON"], 10)),
    "device aux.txt in a folder": several((["x", "aux.txt", "y"], 10)),
    "device LPT1 as the name": v1(name="LPT1"),
    "a dot at the end": several((["a."], 10)),
    "a blank at the end": several((["a "], 10)),
    "a name of 300 bytes": several(("n" * 300, 10)),
    "a name of 300 bytes in v2": v2({"n" * 300: leaf(), "b": leaf()}),
    "not UTF-8": several(([b"\xff\xfe"], 10)),
    "not UTF-8 in the name": v1(name=b"\xff"),
    "surrogates in UTF-8": several(([b"\xed\xa0\x80"], 10)),
    "overlong UTF-8 of a slash": several(([b"a\xc0\xafb"], 10)),
    "a file twice": several(("a", 5), ("a", 5)),
    "file and folder": several(("a", 5), ("a/b", 5)),
    "folder and file": several(("a/b", 5), ("a", 5)),
    "case": several(("Read.me", 5), ("READ.ME", 5)),
    "case of a folder": several(("A/x", 5), ("a/y", 5)),
    "normal form": several(("caf\u00e9", 5), ("cafe\u0301", 5)),
    "v2 dot dot": v2({"..": {"x": leaf()}}),
    "v2 a slash": v2({"a/b": leaf(), "c": leaf()}),
    "v2 case": v2({"A": leaf(), "a": leaf()}),
    "a symbolic link": several(("a", 10), {"path": ["l"], "attr": "l", "length": 0, "symlink path": ["..", "..", "etc"]}),
    "a link without length": several(("a", 10), {"path": ["l"], "attr": "l", "symlink path": ["a"]}),
    "v2 a symbolic link": v2({"a": leaf(), "l": {"": {"attr": "l", "symlink path": [".."]}}}),
    "one file and several": v1(files=[{"path": ["b"], "length": 10}]),
}  # fmt: skip

BAD: dict[str, bytes] = {
    "nothing": b"",
    "a web page": b"<!DOCTYPE html><html></html>",
    "a list": b"le",
    "an empty dictionary": b"de",
    "cut": GOOD["v2, two files"][:-5],
    "cut at the start": GOOD["one file"][:3],
    "bytes after it": GOOD["one file"] + b"\n",
    "twice": GOOD["one file"] * 2,
    "info is text": encode({"info": "x"}),
    "info is a list": encode({"info": []}),
    "info is empty": encode({"info": {}}),
    "no info": encode({"announce": "http://a"}),
    "info twice": b"d4:infode4:infodee",
    "a key twice in info": b"d4:infod4:name1:a4:name1:b12:piece lengthi16384e6:pieces20:" + SHA1 + b"6:lengthi1eee",
    "no name": v1(name=None),
    "an empty name": v1(name=""),
    "name is a number": v1(name=5),
    "no piece length": v1(piece_length=None),
    "piece length 0": v1(piece_length=0),
    "piece length negative": v1(piece_length=-K16),
    "piece length is text": v1(piece_length="16384"),
    "piece length 2^31": v1(piece_length=1 << 31),
    "piece length 2^62": v1(piece_length=1 << 62),
    "no pieces": v1(pieces=None),
    "pieces is a list": v1(pieces=[SHA1]),
    "pieces of 19 bytes": v1(pieces=SHA1[:19]),
    "pieces of 21 bytes": v1(pieces=SHA1 + b"x"),
    "too few pieces": v1(length=K16 + 1),
    "too many pieces": v1(pieces=SHA1 * 2),
    "no pieces for a file": v1(pieces=b""),
    "no length": v1(length=None),
    "length negative": v1(length=-1),
    "length is text": v1(length="10"),
    "length 2^63 - 1": v1(length=(1 << 63) - 1),
    "length 2^63": v1().replace(b"i10e", b"i9223372036854775808e"),
    "length of more digits than memory": v1().replace(b"i10e", b"i" + b"9" * 100_000 + b"e"),
    "nothing but an empty file": v1(length=0, pieces=b""),
    "sizes that add up to more than 2^63": several(*[(f"{n}", 1 << 61) for n in range(8)]),
    "no files": several(),
    "files is text": torrent({"name": "d", "piece length": K16, "pieces": SHA1, "files": "x"}),
    "files is a dictionary": torrent({"name": "d", "piece length": K16, "pieces": SHA1, "files": {"a": 10}}),
    "a file is a number": several(5),
    "a file without path": several({"length": 10}),
    "a file with an empty path": several(([], 10)),
    "a path that is text": several({"path": "a", "length": 10}),
    "a path of numbers": several(([1, 2], 10)),
    "a path of lists": several(([["a"]], 10)),
    "a file without length": several({"path": ["a"]}),
    "a file with a negative length": several(("a", -5), ("b", 15)),
    "a pad with a negative length": several(("a", 10), {"attr": "p", "length": -5, "path": [".pad"]}),
    "attributes are a number": several({"path": ["a"], "length": 10, "attr": 5}),
    "nothing but pads": several(PAD),
    "nothing but empty files": several(("a", 0), ("b", 0), pieces=b""),
    "200 parts": several((["x"] * 200, 10)),
    "a path of 5,000 bytes": several((["y" * 200] * 25, 10)),
    "lists 200 deep": b"d4:info" + b"l" * 200 + b"e" * 200 + b"e",
    "lists a million deep": b"l" * 1_000_000,
    "meta version 3": v2(AB, meta_version=3),
    "meta version is text": v2(AB, meta_version="2"),
    "a tree without meta version": v2(AB, meta_version=None),
    "meta version 2 without a tree": v1(meta_version=2),
    "v2 tree is a list": v2([]),
    "v2 tree is empty": v2({}),
    "v2 tree is a file": v2(leaf()),
    "v2 a folder is text": v2({"a": "x"}),
    "v2 a file is text": v2({"a": {"": "x"}}),
    "v2 a file that is a folder": v2({"a": leaf() | {"b": leaf()}}),
    "v2 nothing but empty files": v2({"a": leaf(0, pieces_root=None)}),
    "v2 nothing but empty folders": v2({"a": {"b": {}}}),
    "v2 100 deep": v2(deep(90)),
    "v2 tree not sorted": raw_tree(b"d1:b" + RAW_LEAF + b"1:a" + RAW_LEAF + b"e"),
    "v2 tree with a name twice": raw_tree(b"d1:a" + RAW_LEAF + b"1:a" + RAW_LEAF + b"e"),
    "v2 piece length no power of two": v2(AB, piece_length=20_000),
    "v2 piece length 8 KiB": v2(AB, piece_length=8192),
    "v2 length negative": v2({"a": leaf(-10)}),
    "v2 length missing": v2({"a": leaf(None)}),
    "v2 length 2^62": v2({"a": leaf(1 << 62)}, layers={ROOT: b"x" * 64}),
    "v2 no root": v2({"a": leaf(pieces_root=None)}),
    "v2 root of 31 bytes": v2({"a": leaf(pieces_root=b"r" * 31)}),
    "v2 root of zeros": v2({"a": leaf(pieces_root=bytes(32))}),
    "v2 root is a number": v2({"a": leaf(pieces_root=5)}),
    "v2 attributes are a list": v2({"a": leaf(attr=[])}),
    "v2 a pad in the tree": v2({"a": leaf(attr="p"), "b": leaf()}),
    "v2 a layer is missing": v2({"a": leaf(2 * K16, pieces_root=LAYER_ROOT)}),
    "v2 all layers are missing": v2({"a": leaf(2 * K16, pieces_root=LAYER_ROOT)}, layers="none"),
    "v2 layers are a list": v2(AB, layers=[1]),
    "v2 a layer is a number": v2({"a": leaf(2 * K16, pieces_root=LAYER_ROOT)}, layers={LAYER_ROOT: 5}),
    "v2 a layer too short": v2({"a": leaf(3 * K16, pieces_root=LAYER_ROOT)}, layers={LAYER_ROOT: LAYER}),
    "v2 a layer too long": v2({"a": leaf(2 * K16, pieces_root=LAYER_ROOT)}, layers={LAYER_ROOT: LAYER + bytes(32)}),
    "v2 a layer of 33 bytes": v2({"a": leaf(2 * K16, pieces_root=LAYER_ROOT)}, layers={LAYER_ROOT: LAYER[:33]}),
    "v2 a layer with another hash": v2({"a": leaf(2 * K16)}, layers={ROOT: LAYER}),
    "v2 a layer of no file": v2(AB, layers={b"q" * 32: LAYER}),
    "v2 a layer of a small file": v2(AB, layers={ROOT: LAYER}),
    "v2 one root for two sizes": v2({"a": leaf(K16 + 1, pieces_root=LAYER_ROOT), "b": leaf(3 * K16, pieces_root=LAYER_ROOT)}, layers={LAYER_ROOT: LAYER}),
    "hybrid, other sizes": hybrid([{"length": 11, "path": ["a"]}, *AB_FILES[1:]], AB, 2),
    "hybrid, other names": hybrid([{"length": 10, "path": ["x"]}, *AB_FILES[1:]], AB, 2),
    "hybrid, one file less": hybrid(AB_FILES[:2], AB, 1),
    "hybrid, one file more": hybrid([*AB_FILES, {"length": 1, "path": ["c"]}], AB, 2),
    "hybrid, another order": hybrid([AB_FILES[2], {"attr": "p", "length": K16 - 5, "path": [".pad", "1"]}, AB_FILES[0]], AB, 2),
    "hybrid, no pads": hybrid([AB_FILES[0], AB_FILES[2]], AB, 1),
    "hybrid, a file and a folder": v2({"d": {"d": leaf()}}, length=10, pieces=SHA1),
    "hybrid, pieces missing": hybrid(AB_FILES, AB, 1),
}  # fmt: skip

assert merkle.reduce(LAYER, 2) == LAYER_ROOT
