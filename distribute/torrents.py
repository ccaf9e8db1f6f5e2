"""Torrents (BEP 3, 12, 17-19, 27, 47, 52) as plain functions of a list of files: equal files make equal infohashes.

    v1      pieces run over all files in the order of their paths' bytes; every client reads it
    v2      one merkle root a file; files with equal bytes have equal roots in every torrent
    hybrid  both in one: each file is filled up with zeros to a whole piece, so only for files that are large to a piece

Nothing of the time, the machine or the order of a folder enters a file made here. What others made is read by
`TorrentFile.parse`, which believes nothing; `Magnet` is the short form of a torrent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote

from distribute import bencode, merkle
from distribute._torrent_parse import FROM_STRANGERS, TorrentEntry, TorrentFile, TorrentLimits
from headwater.errors import IntegrityError, UsageError

__all__ = [
    "Magnet",
    "TorrentEntry",
    "TorrentFile",
    "TorrentLimits",
    "V2File",
    "build_hybrid",
    "build_v1",
    "build_v2",
    "check_hybrid",
    "hybrid_padding",
    "infohash_v1",
    "infohash_v2",
    "magnet",
    "parse_magnet",
]

CREATED_BY = "headwater"
PADDING_SHARE = 0.05  # of the files' bytes that a hybrid may add …
PADDING_BYTES = 64 << 20  # … or this much, whichever is more
MAGNET_BYTES = 1 << 16
MAGNET_ITEMS = 256  # trackers, web seeds and peers together


@dataclass(frozen=True)
class V2File:
    """One file of a v2 or hybrid torrent. An empty file has no root; one within a piece has an empty layer."""

    path: str
    size_bytes: int
    root: bytes | None
    layer: bytes = b""


def _parts(path: str) -> list[bytes]:
    return [part.encode() for part in path.split("/")]


def in_v1_order(paths: Sequence[str]) -> list[str]:
    """Order of the files in a v1 torrent: by the bytes of the path."""
    return sorted(paths, key=str.encode)


def in_tree_order(paths: Sequence[str]) -> list[str]:
    """Order of the files in a v2 or hybrid torrent (BEP 52): folder by folder; differs where `a.txt` stands beside `a/b`."""
    return sorted(paths, key=_parts)


def build_v1(
    name: str,
    files: Sequence[tuple[str, int]],
    piece_size: int,
    pieces: bytes,
    *,
    trackers: Sequence[str | Sequence[str]] = (),
    web_seeds: Sequence[str] = (),
    private: bool = False,
) -> bytes:
    """Bytes of a v1 .torrent. `files`: (path, size in bytes); `pieces`: SHA-1 of every `piece_size` bytes of all files
    in the order of `in_v1_order`, 20 bytes each. `trackers`: addresses, or tiers of addresses (BEP 12).

    Raises ValueError when the pieces are not those of so many bytes.
    """
    sizes = _sizes(files)
    total = sum(sizes.values())
    if len(pieces) != merkle.piece_count(total, piece_size) * 20:
        raise ValueError(f"{len(pieces)} bytes of piece hashes for {total} bytes in pieces of {piece_size}")
    info = _info(name, piece_size, private)
    info["files"] = [{"length": sizes[path], "path": _parts(path)} for path in in_v1_order(list(sizes))]
    info["pieces"] = pieces
    return _torrent(info, trackers, web_seeds)


def build_v2(
    name: str,
    files: Sequence[V2File],
    piece_size: int,
    *,
    trackers: Sequence[str | Sequence[str]] = (),
    web_seeds: Sequence[str] = (),
    private: bool = False,
) -> bytes:
    """Bytes of a v2-only .torrent (BEP 52). Raises ValueError when a layer does not belong to its root."""
    info = _info(name, piece_size, private)
    info["meta version"] = 2
    info["file tree"] = _tree(name, files, piece_size)
    return _torrent(info, trackers, web_seeds, _layers(files))


def build_hybrid(
    name: str,
    files: Sequence[V2File],
    piece_size: int,
    pieces: bytes,
    *,
    trackers: Sequence[str | Sequence[str]] = (),
    web_seeds: Sequence[str] = (),
    private: bool = False,
) -> bytes:
    """Bytes of a torrent of both kinds, with pad files as libtorrent makes them (also after the last file, but not where
    there is only one).

    `pieces`: for each file in the order of `in_tree_order`, the SHA-1 of each of its pieces, the last one filled up with
    zeros (`TreeDigests.padded_pieces`). Raises UsageError when the padding would be more than 5 % and more than 64 MiB.
    """
    sizes = _sizes([(file.path, file.size_bytes) for file in files])
    check_hybrid(list(sizes.values()), piece_size)
    if len(pieces) != sum(merkle.piece_count(size, piece_size) for size in sizes.values()) * 20:
        raise ValueError(f"{len(pieces)} bytes of piece hashes do not fit these files")
    entries: list[dict[str, Any]] = []
    for path in in_tree_order(list(sizes)):
        entries.append({"length": sizes[path], "path": _parts(path)})
        if len(sizes) > 1 and (pad := -sizes[path] % piece_size):
            entries.append({"attr": "p", "length": pad, "path": [".pad", str(pad)]})
    info = _info(name, piece_size, private)
    info |= {
        "meta version": 2,
        "file tree": _tree(name, files, piece_size),
        "files": entries,
        "pieces": pieces,
    }
    return _torrent(info, trackers, web_seeds, _layers(files))


def check_hybrid(sizes: Sequence[int], piece_size: int) -> None:
    """Raises UsageError with the figures when files of these sizes are too small for a hybrid torrent."""
    total, padding = sum(sizes), hybrid_padding(sizes, piece_size)
    if padding > max(total * PADDING_SHARE, PADDING_BYTES):
        raise UsageError(
            f"a hybrid torrent of these {len(sizes):,} files ({total:,} bytes) in pieces of {piece_size:,} would carry "
            f"{padding:,} bytes of padding",
            hint="publish v1 and v2 torrents instead, pack small files into tars, or take a smaller piece size",
        )


def hybrid_padding(sizes: Sequence[int], piece_size: int) -> int:
    """Bytes of zeros that a hybrid torrent of files of these sizes would carry."""
    return sum(-size % piece_size for size in sizes) if len(sizes) > 1 else 0


def _info(name: str, piece_size: int, private: bool) -> dict[str, Any]:
    merkle.check_piece_size(piece_size)
    if not name or "/" in name or name in (".", ".."):
        raise ValueError(f"{name!r} cannot name a torrent")
    info: dict[str, Any] = {"name": name, "piece length": piece_size}
    if private:
        info["private"] = 1
    return info


def _sizes(files: Sequence[tuple[str, int]]) -> dict[str, int]:
    sizes = dict(files)
    if len(sizes) != len(files):
        raise ValueError("a path occurs twice")
    if not sizes or not any(sizes.values()):
        raise UsageError(
            "a torrent needs at least one byte, and these files are empty",
            hint="publish without torrents: --torrent none",
        )
    return sizes


def _tree(name: str, files: Sequence[V2File], piece_size: int) -> dict[bytes, Any]:
    _sizes([(file.path, file.size_bytes) for file in files])
    if [file.path for file in files] == [name]:
        raise UsageError(
            f"{name}: a v2 torrent with one file that is called like the torrent is read as that file without its folder",
            hint="choose another --name",
        )
    tree: dict[bytes, Any] = {}
    for file in files:
        *folders, last = _parts(file.path)
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
            if b"" in node:
                raise ValueError(f"{file.path!r} is below a file")
        leaf: dict[bytes, Any] = {b"length": file.size_bytes}
        if file.size_bytes:
            if file.root is None or len(file.root) != merkle.HASH_BYTES:
                raise ValueError(f"{file.path}: no root")
            merkle.check_layer(file.root, file.layer, piece_size, file.size_bytes)
            leaf[b"pieces root"] = file.root
        if last in node:
            raise ValueError(f"{file.path!r} is a file and a folder")
        node[last] = {b"": leaf}
    return tree


def _layers(files: Sequence[V2File]) -> dict[bytes, bytes]:
    return {file.root: file.layer for file in files if file.root and file.layer}


def _torrent(
    info: Mapping[str, Any],
    trackers: Sequence[str | Sequence[str]],
    web_seeds: Sequence[str],
    layers: dict[bytes, bytes] | None = None,
) -> bytes:
    document: dict[str, Any] = {"created by": CREATED_BY, "info": info}
    tiers = [[tier] if isinstance(tier, str) else list(tier) for tier in trackers if tier]
    if tiers:
        document["announce"] = tiers[0][0]
        if sum(map(len, tiers)) > 1:
            document["announce-list"] = tiers
    if web_seeds:
        document["url-list"] = list(web_seeds)
    if layers is not None:
        document["piece layers"] = layers
    return bencode.encode(document)


def infohash_v1(raw: bytes) -> str:
    """SHA-1 over the bytes of the info dictionary, in hex. Raises IntegrityError when `raw` is no torrent."""
    return hashlib.sha1(_info_bytes(raw), usedforsecurity=False).hexdigest()


def infohash_v2(raw: bytes) -> str:
    """SHA-256 over the bytes of the info dictionary, in hex. Raises IntegrityError when `raw` is no torrent."""
    return hashlib.sha256(_info_bytes(raw)).hexdigest()


def _info_bytes(raw: bytes) -> bytes:
    _, spans = bencode.decode_top(raw, limits=FROM_STRANGERS.bencode, sorted_keys=False)
    if b"info" not in spans:
        raise IntegrityError("no torrent: it has no info dictionary")
    start, end = spans[b"info"]
    return raw[start:end]


@dataclass(frozen=True)
class Magnet:
    """What a magnet link says. Infohashes in hex; at least one is there."""

    infohash_v1: str | None = None
    infohash_v2: str | None = None
    name: str | None = None
    trackers: tuple[str, ...] = ()
    web_seeds: tuple[str, ...] = ()
    peers: tuple[str, ...] = field(default=())  # host:port

    @property
    def text(self) -> str:
        """The link."""
        return magnet(
            v1=self.infohash_v1,
            v2=self.infohash_v2,
            name=self.name,
            trackers=self.trackers,
            web_seeds=self.web_seeds,
            peers=self.peers,
        )


def magnet(
    *,
    v1: str | None = None,
    v2: str | None = None,
    name: str | None = None,
    trackers: Sequence[str] = (),
    web_seeds: Sequence[str] = (),
    peers: Sequence[str] = (),
) -> str:
    """A magnet link (BEP 9; for v2 a SHA-256 multihash, BEP 52). Raises ValueError without an infohash."""
    topics = [f"xt=urn:btih:{v1}"] if v1 else []
    topics += [f"xt=urn:btmh:1220{v2}"] if v2 else []
    if not topics:
        raise ValueError("a magnet link needs an infohash")
    pairs = [("dn", name)] if name else []
    pairs += [("tr", url) for url in trackers] + [("ws", url) for url in web_seeds]
    parts = [f"{key}={quote(value, safe='')}" for key, value in pairs]
    # some clients take a peer's address as it stands and do not decode it
    parts += [f"x.pe={quote(peer, safe=':[]')}" for peer in peers]
    return "magnet:?" + "&".join(topics + parts)


def parse_magnet(text: str) -> Magnet:
    """What a link says. Raises IntegrityError when it is no BitTorrent magnet link, or too long."""
    if len(text.encode("utf-8", "replace")) > MAGNET_BYTES:
        raise IntegrityError(f"a magnet link of more than {MAGNET_BYTES:,} bytes")
    scheme, _, query = text.strip().partition("?")
    if scheme.lower() != "magnet:":
        raise IntegrityError("not a magnet link")
    try:
        pairs = parse_qsl(
            query.partition("#")[0], max_num_fields=MAGNET_ITEMS, errors="strict", keep_blank_values=True
        )
    except ValueError as error:
        raise IntegrityError("a magnet link that is not UTF-8, or with too many parts") from error
    found: dict[str, list[str]] = {}
    v1: set[str] = set()
    v2: set[str] = set()
    for key, value in pairs:
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
            raise IntegrityError("a magnet link with control characters")
        plain = key.partition(".")[0] if key.startswith(("xt.", "tr.", "ws.")) else key
        if plain == "xt":
            _topic(value, v1, v2)
        else:
            found.setdefault(plain, []).append(value)
    if len(v1) > 1 or len(v2) > 1:
        raise IntegrityError("a magnet link with two infohashes of one kind")
    if not v1 and not v2:
        raise IntegrityError("a magnet link without an infohash")
    return Magnet(
        infohash_v1=next(iter(v1), None),
        infohash_v2=next(iter(v2), None),
        name=next(iter(found.get("dn", [])), None) or None,
        trackers=tuple(dict.fromkeys(filter(None, found.get("tr", [])))),
        web_seeds=tuple(dict.fromkeys(filter(None, found.get("ws", [])))),
        peers=tuple(dict.fromkeys(filter(None, found.get("x.pe", [])))),
    )


def _topic(value: str, v1: set[str], v2: set[str]) -> None:
    import base64
    import binascii

    kind, _, digest = value[:9].lower(), "", value[9:]
    try:
        if kind == "urn:btih:":
            raw = bytes.fromhex(digest) if len(digest) == 40 else base64.b32decode(digest.upper())
            wanted = 20
        elif kind == "urn:btmh:":
            raw, wanted = bytes.fromhex(digest), 34
            if raw[:2] != b"\x12\x20":
                raise ValueError("not SHA-256")
        else:
            return  # another network's name for it
    except (ValueError, binascii.Error) as error:
        raise IntegrityError(f"a magnet link with an infohash that is none: {value[:100]!r}") from error
    if len(raw) != wanted:
        raise IntegrityError(f"a magnet link with an infohash that is none: {value[:100]!r}")
    (v1 if wanted == 20 else v2).add(raw[-(20 if wanted == 20 else 32) :].hex())
