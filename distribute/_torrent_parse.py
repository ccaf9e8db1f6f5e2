"""Reading a torrent that somebody else made: either every field holds, or it is refused with the field named.

    size ── bencode ── info ── name, pieces ── files of v1 ─┐
                          └── file tree of v2, layers ──────┴── both say the same ── TorrentFile

How names are judged is told in `distribute._torrent_names`. The infohash is that of the bytes as they came, in every case.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from distribute import bencode, merkle
from distribute._torrent_names import Names, file_paths
from headwater.errors import IntegrityError

Tree = dict[bytes, Any]


@dataclass(frozen=True)
class TorrentLimits:
    """What a torrent may not exceed."""

    bencode: bencode.Limits = field(default_factory=bencode.Limits)
    files: int = 2_000_000
    size_bytes: int = 1 << 50  # of all files together
    piece_size_bytes: int = 1 << 28
    depth: int = 64  # parts of a path
    addresses: int = 1000  # trackers, and web seeds


FROM_STRANGERS = TorrentLimits()


@dataclass(frozen=True)
class TorrentEntry:
    """One file. `offset` is its place in the v1 stream, pads counted; root and layer are None and empty without v2."""

    path: str
    size_bytes: int
    offset: int
    root: bytes | None = None
    layer: bytes = b""


@dataclass(frozen=True)
class TorrentFile:
    """A torrent that was checked. Paths are below the folder `name`, or `name` itself where `single`."""

    name: str
    single: bool
    files: tuple[TorrentEntry, ...]
    piece_size: int
    pieces: bytes | None  # SHA-1 digests of v1, None for v2 only
    infohash_v1: str | None
    infohash_v2: str | None
    trackers: tuple[tuple[str, ...], ...]  # tiers
    web_seeds: tuple[str, ...]
    private: bool

    @property
    def size_bytes(self) -> int:
        """Of all files, without padding."""
        return sum(file.size_bytes for file in self.files)

    @classmethod
    def parse(
        cls,
        raw: bytes,
        limits: TorrentLimits = FROM_STRANGERS,
        *,
        names: Names = "strict",
        need_layers: bool = True,
    ) -> TorrentFile:
        """The torrent in `raw`. `need_layers=False` takes one made from a magnet link, which has no piece layers yet.

        Raises IntegrityError for anything that is not wholly in order.
        """
        try:
            return _Reader(raw, limits, names, need_layers).read()
        except IntegrityError as error:
            raise IntegrityError(
                f"torrent: {error.message}", hint="do not use this torrent: take it from another place"
            ) from error


def _wrong(what: str) -> IntegrityError:
    return IntegrityError(what)


def _text(raw: Any, what: str) -> bytes:
    if not isinstance(raw, bytes) or not raw:
        raise _wrong(f"no {what}")
    return raw


def _size(raw: Any, what: str) -> int:
    if not isinstance(raw, int) or raw < 0:
        raise _wrong(f"no length of {what}, or a negative one")
    return raw


@dataclass
class _File:
    parts: tuple[bytes, ...]
    size: int
    attr: bytes
    root: bytes | None = None
    offset: int = 0

    @property
    def shown(self) -> str:
        return repr(b"/".join(self.parts))[2:-1][:200]


class _Reader:
    def __init__(self, raw: bytes, limits: TorrentLimits, names: Names, need_layers: bool) -> None:
        self.limits, self.names, self.need_layers = limits, names, need_layers
        self.top, spans = bencode.decode_top(raw, limits=limits.bencode, sorted_keys=False)
        self.info: dict[bytes, Any] = self.top.get(b"info") or {}
        if not isinstance(self.info, dict) or not self.info:
            raise _wrong("it has no info dictionary")
        start, end = spans[b"info"]
        self.info_bytes = raw[start:end]

    def read(self) -> TorrentFile:
        info = self.info
        version = info.get(b"meta version", 1)
        if version not in (1, 2):
            raise _wrong(f"meta version {version!r} is not known")
        v2 = version == 2
        if not v2 and b"file tree" in info:
            raise _wrong("a file tree without meta version 2")
        v1 = not v2 or b"pieces" in info
        self.piece_size = self._piece_size(v2)
        name = _text(info.get(b"name.utf-8", info.get(b"name")), "name")
        tree_files = list(self._tree_files()) if v2 else []
        list_files = self._list_files() if v1 else []
        single = b"files" not in info if v1 else _is_single(info[b"file tree"], name)
        if v1:
            self._check_pieces(list_files)
        if v1 and v2:
            self._check_same(list_files, tree_files, single, name)
        layers = self._layers(tree_files) if v2 else {}
        roots = {file.parts: file.root for file in tree_files}
        files = list_files if v1 else _placed(tree_files, self.piece_size)
        kept = [file for file in files if b"p" not in file.attr and not self._is_link(file)]
        if sum(file.size for file in kept) > self.limits.size_bytes:
            raise _wrong("its files are larger than any disk")
        if not kept or not any(file.size for file in kept):
            raise _wrong("it has no files, or only empty ones")
        folder, paths = file_paths(
            name, [file.parts for file in kept], single=single, how=self.names, depth=self.limits.depth
        )
        entries = []
        for path, file in zip(paths, kept, strict=True):
            root = roots.get(file.parts) if v2 else None
            entries.append(TorrentEntry(path, file.size, file.offset, root, layers.get(root or b"", b"")))
        return TorrentFile(
            name=folder,
            single=single,
            files=tuple(entries),
            piece_size=self.piece_size,
            pieces=info[b"pieces"] if v1 else None,
            infohash_v1=hashlib.sha1(self.info_bytes, usedforsecurity=False).hexdigest() if v1 else None,
            infohash_v2=hashlib.sha256(self.info_bytes).hexdigest() if v2 else None,
            trackers=self._trackers(),
            web_seeds=tuple(self._addresses(self.top.get(b"url-list"), ("http://", "https://"))),
            private=info.get(b"private") == 1,
        )

    def _piece_size(self, v2: bool) -> int:
        size = self.info.get(b"piece length")
        if not isinstance(size, int) or not 0 < size <= self.limits.piece_size_bytes:
            raise _wrong("no piece length, or one out of range")
        if v2 and (size < merkle.BLOCK_BYTES or size & (size - 1)):
            raise _wrong(f"a piece length of {size:,} where v2 needs a power of two from 16,384")
        return size

    def _is_link(self, file: _File) -> bool:
        if b"l" in file.attr and self.names != "clean":
            raise _wrong(f"{file.shown} is a symbolic link")
        return b"l" in file.attr

    # v1

    def _list_files(self) -> list[_File]:
        info = self.info
        if b"files" in info and b"length" in info and self.names != "clean":
            raise _wrong("it says of itself that it is one file, and several")
        if b"files" not in info:
            parts = (_text(info.get(b"name.utf-8", info.get(b"name")), "name"),)
            return [_File(parts, _size(info.get(b"length"), "the file"), b"")]
        listed = info[b"files"]
        if not isinstance(listed, list) or not listed or len(listed) > self.limits.files:
            raise _wrong("no list of files, or one that is too long")
        out, offset = [], 0
        for entry in listed:
            if not isinstance(entry, dict):
                raise _wrong("an entry of the files is no dictionary")
            file = self._listed(entry)
            file.offset = offset
            out.append(file)
            offset += file.size
            if offset > 2 * self.limits.size_bytes:
                raise _wrong("its files are larger than any disk")
        return out

    def _listed(self, entry: dict[bytes, Any]) -> _File:
        attr = entry.get(b"attr", b"")
        if not isinstance(attr, bytes):
            raise _wrong("attributes that are no string")
        parts = entry.get(b"path.utf-8", entry.get(b"path"))
        if parts is None and b"p" in attr:
            parts = [b".pad"]
        if not isinstance(parts, list) or not parts or not all(isinstance(part, bytes) for part in parts):
            raise _wrong("a file without a path")
        if b"l" in attr and self.names == "clean":
            return _File(tuple(parts), 0, attr)  # whatever length it claims, nothing of it is in the pieces
        return _File(tuple(parts), _size(entry.get(b"length"), repr(parts)[:200]), attr)

    def _check_pieces(self, files: list[_File]) -> None:
        pieces = self.info.get(b"pieces")
        if not isinstance(pieces, bytes) or len(pieces) % 20:
            raise _wrong("no piece hashes, or some that are not 20 bytes long")
        total = sum(file.size for file in files)
        if len(pieces) // 20 != merkle.piece_count(total, self.piece_size):
            raise _wrong(
                f"{len(pieces) // 20:,} piece hashes for {total:,} bytes in pieces of {self.piece_size:,}"
            )

    # v2

    def _tree_files(self) -> Iterator[_File]:
        tree = self.info.get(b"file tree")
        if not isinstance(tree, dict) or not tree:
            raise _wrong("no file tree")
        stack: list[tuple[tuple[bytes, ...], Tree]] = [((), tree)]
        count = 0
        while stack:
            path, node = stack.pop()
            if b"" in node:
                if len(node) > 1 or not path:
                    raise _wrong(f"{path!r} is a file and a folder")
                count += 1
                if count > self.limits.files:
                    raise _wrong("too many files")
                yield self._leaf(path, node[b""])
                continue
            if list(node) != sorted(node):
                raise _wrong("the file tree is not sorted")
            if len(path) >= self.limits.depth:
                raise _wrong(f"folders more than {self.limits.depth} deep")
            for name in reversed(node):
                if not isinstance(node[name], dict):
                    raise _wrong(f"{name!r} in the file tree is no dictionary")
                stack.append(((*path, name), node[name]))

    def _leaf(self, path: tuple[bytes, ...], leaf: Any) -> _File:
        if not isinstance(leaf, dict) or not isinstance(leaf.get(b"attr", b""), bytes):
            raise _wrong("a file in the tree that is no dictionary")
        file = _File(path, 0, leaf.get(b"attr", b""))
        if b"p" in file.attr:
            raise _wrong(f"{file.shown} is a pad file in the file tree")
        if self._is_link(file):
            return file
        file.size = _size(leaf.get(b"length"), file.shown)
        if file.size > self.limits.size_bytes:
            raise _wrong(f"{file.shown} is larger than any disk")
        if file.size:
            file.root = leaf.get(b"pieces root")
            if not isinstance(file.root, bytes) or len(file.root) != 32 or file.root == merkle.ZERO:
                raise _wrong(f"{file.shown} has no root")
        return file

    def _layers(self, files: list[_File]) -> dict[bytes, bytes]:
        layers = self.top.get(b"piece layers", {})
        if not isinstance(layers, dict):
            raise _wrong("its piece layers are no dictionary")
        due = {file.root: file.size for file in files if file.root and file.size > self.piece_size}
        if len({(file.root, file.size) for file in files if file.root in due}) != len(due):
            raise _wrong("two files of different size with one root")
        for root, layer in layers.items():
            if root not in due or not isinstance(layer, bytes):
                raise _wrong("a piece layer that belongs to no file")
            merkle.check_layer(root, layer, self.piece_size, due[root])
        if self.need_layers and len(layers) != len(due):
            raise _wrong("a piece layer is missing")
        return layers

    def _check_same(self, listed: list[_File], tree: list[_File], single: bool, name: bytes) -> None:
        """BEP 52: the same files in the same order, each at the start of a piece."""
        real = [file for file in listed if b"p" not in file.attr]
        if [(f.parts, f.size) for f in real] != [(f.parts, f.size) for f in tree]:
            raise _wrong("its v1 and its v2 part name different files")
        if single != _is_single(self.info[b"file tree"], name):
            raise _wrong("its v1 part is one file, its v2 part a folder, or the reverse")
        if any(file.size and file.offset % self.piece_size for file in real):
            raise _wrong("a file of a hybrid torrent that does not start with a piece")

    # addresses

    def _trackers(self) -> tuple[tuple[str, ...], ...]:
        schemes = ("http://", "https://", "udp://")
        listed = self.top.get(b"announce-list")
        tiers = [
            tuple(self._addresses(tier, schemes)) for tier in (listed if isinstance(listed, list) else [])
        ]
        tiers = [tier for tier in tiers if tier]
        if not tiers:
            tiers = [(url,) for url in self._addresses(self.top.get(b"announce"), schemes)]
        if sum(map(len, tiers)) > self.limits.addresses:
            raise _wrong("too many trackers")
        return tuple(tiers)

    def _addresses(self, raw: Any, schemes: tuple[str, ...]) -> list[str]:
        """Those that could be one; others are left out, for a torrent is not wrong because of them."""
        listed = raw if isinstance(raw, list) else [raw]
        if len(listed) > self.limits.addresses:
            raise _wrong("too many addresses")
        out = []
        for item in listed:
            text = item.decode("ascii", "replace").strip() if isinstance(item, bytes) else ""
            if text.lower().startswith(schemes) and text.isprintable() and "\ufffd" not in text:
                out.append(text.replace(" ", "%20"))
        return list(dict.fromkeys(out))


def _is_single(tree: Any, name: bytes) -> bool:
    return list(tree) == [name] and isinstance(tree[name], dict) and b"" in tree[name]


def _placed(files: list[_File], piece_size: int) -> list[_File]:
    at = 0
    for file in files:
        file.offset = at
        at += merkle.piece_count(file.size, piece_size) * piece_size
    return files
