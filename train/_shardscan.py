"""The members of one tar, found by hopping from header to header: no member is read.

One `pread` a member fetches its header; thousands of headers are then checked and parsed at once as arrays. What is not plain
(long names, pax records other than a time, base-256, links, damage, the end) goes to `curate.tar.next_member`, one header at a
time, so that this and `headwater reshard` read the same archive. (The walk of `curate` reads whole windows instead, because it
needs the json members; here the time does not depend on the size of the pictures.)
Memory: about 700 B for each of at most 4,096 headers in flight, and about 150 B a member of the tar.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from curate import tar
from curate._tarheads import byte_sums
from headwater.errors import IntegrityError

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]

IMAGES = (b"jpg", b"png", b"jpeg", b"webp")  # in open_clip's order: the first that is there is taken
CAPTION = len(IMAGES)  # code of the extension txt
SHARED = 62  # one code for all extensions beyond the first few dozen
MAX_EXAMPLES = 20
MAX_KINDS = 10_000

MOST_HEADERS = 4_096  # checked at once
AHEAD_BYTES = 16 << 20
LARGE_BYTES = 256 << 10  # members of this size are not worth reading ahead

# webdataset's rules for names (tariterators.py: base_plus_ext, and what tar_file_iterator skips)
_NAME = re.compile(rb"^((?:.*/|)[^.]+)[.]([^/]*)$")
_META = re.compile(rb"__[^/]*__($|/)")
_TIME = re.compile(rb"(\d\d) mtime=[0-9.]{1,80}\n")
_OCTAL = 8 ** np.arange(10, -1, -1, dtype=np.int64)
_EXTENSION_BYTES = 16


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: its reason (a name of `train.preflight.REASONS`), the sample's key, and what was found."""

    reason: str
    key: str
    detail: str


@dataclass
class Findings:
    """Problems of one tar: all are counted, the first of each reason kept as examples."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: list[Problem] = field(default_factory=list)
    samples: int = 0  # all keys, also those without picture or caption
    members: int = 0

    def add(self, reason: str, key: bytes, detail: str) -> None:
        count = self.counts[reason] = self.counts.get(reason, 0) + 1
        if count <= MAX_EXAMPLES:
            self.examples.append(Problem(reason, shown(key), detail))


def shown(raw: bytes) -> str:
    """A name for messages."""
    text = raw[:200].decode("utf-8", "backslashreplace")
    return text if len(raw) <= 200 else text + "…"


def split(name: bytes) -> tuple[bytes, bytes] | None:
    """(key, extension) exactly as webdataset 0.2.86 splits a member's name; None where it passes the member over."""
    if _META.match(name) or (b"/" not in name and name.startswith(b"__") and name.endswith(b"__")):
        return None
    found = _NAME.match(name)
    return (found[1], found[2]) if found else None


class Listing:
    """The members of one tar as columns: key, code of the extension, where the data begins, and its size."""

    def __init__(self, fd: int, name: str) -> None:
        self.found = Findings()
        self.keys: list[bytes] = []
        self.links: list[bytes] = []
        self.unmarked = False
        self._codes = {raw: code for code, raw in enumerate((*IMAGES, b"txt"))}
        self._spelt: dict[bytes, int] = dict(self._codes)
        self._columns: list[tuple[Any, Any, Any]] = []
        self._fd, self._name = fd, name
        self._size = os.fstat(fd).st_size
        self._advised = 0

    def columns(self) -> tuple[I64, I64, I64]:
        """(code, data offset, size) of all members."""
        parts = zip(*self._columns, strict=True) if self._columns else [[[]], [[]], [[]]]
        code, data, size = (np.concatenate([np.asarray(p, np.int64) for p in part]) for part in parts)
        return code, data, size

    def walk(self) -> None:
        at, most = 0, 64
        while True:
            at, whole = self._plain(at, most)
            if whole:
                most = MOST_HEADERS
                continue
            most = max(64, most // 2) if most > 64 else 64
            try:
                item = tar.next_member(self._read, self._size, self._name, at)
            except IntegrityError as error:
                packed = at == 0 and "compressed" in (error.hint or "")
                detail = error.message if at else f"{error.message}; {error.hint}"
                self.found.add("compressed_tar" if packed else "damaged_tar", b"", detail)
                return
            if isinstance(item, tar.Damage):
                self.found.add(
                    "damaged_tar", item.name or b"", f"{self._name}: at byte {item.offset:,}: {item.reason}"
                )
                return
            if isinstance(item, tar.End):
                self.unmarked = not item.marked
                return
            self._one(item)
            at = item.end

    def _read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise IntegrityError(
                f"{self._name}: cannot be read at byte {offset:,}: {error.strerror}"
            ) from error

    def _one(self, item: tar.Member) -> None:
        self.found.members += 1
        pair = split(item.name)
        if item.kind != "file":
            if item.kind.endswith("link"):
                self.found.add(
                    "link_member", pair[0] if pair else item.name, f"{shown(item.name)} is a {item.kind}"
                )
                if pair:
                    self.links.append(pair[0])
            return
        if pair is not None:
            self.keys.append(pair[0])
            self._columns.append(([self._code(pair[1])], [item.data_offset], [item.size_bytes]))

    def _plain(self, at: int, most: int) -> tuple[int, bool]:
        """Take members from `at` as long as their headers are plain; (where to go on, whether `most` were taken)."""
        heads, data, timed = self._hop(at, most)
        if not heads:
            return at, False
        table = np.frombuffer(b"".join(heads), np.uint8).reshape(-1, 512)
        places = np.array(data, np.int64)
        size, good = _sizes(table)
        good &= places + size <= self._size
        if timed:
            times = np.frombuffer(b"".join(timed.values()), np.uint8).reshape(-1, 512)
            good[list(timed)] &= _sizes(times)[1]
        count = len(good) if good.all() else int(good.argmin())
        if count:
            self._take(table[:count], places[:count], size[:count])
        if count < len(heads):
            return int(places[count]) - 512 - (1024 if count in timed else 0), False
        return int(places[-1] + -(-size[-1] // 512) * 512), count == most

    def _hop(self, at: int, most: int) -> tuple[list[bytes], list[int], dict[int, bytes]]:
        """Headers that look plain, where their data begins, and the pax headers (a time, nothing else) before some of them."""
        heads: list[bytes] = []
        data: list[int] = []
        timed: dict[int, bytes] = {}
        pread, fd, span = os.pread, self._fd, 512
        try:
            while len(heads) < most:
                if at >= self._advised:
                    self._advise(at, len(self.keys) + len(heads))
                head = pread(fd, span, at)
                if head[156:157] == b"x":
                    span = 1536  # the next one will have a time too
                    pax = head[:512]
                    body = head[512:] if len(head) == span else pread(fd, 1024, at + 512)
                    time = _TIME.match(body)
                    if time is None or time.end() != int(time[1]) or time.end() != int(pax[124:135], 8):
                        break
                    head, at = body[512:], at + 1024
                    timed[len(heads)] = pax
                elif span != 512:
                    head = head[:512]
                if head[156:157] != b"0" or head[257:262] != b"ustar" or len(head) < 512:
                    break
                size = int(head[124:135], 8)
                heads.append(head)
                data.append(at + 512)
                at += 512 + (size + 511 & -512)
        except (ValueError, OSError):
            pass  # a size that is no plain number, or a place that cannot be read: looked at more closely by the caller
        timed.pop(len(heads), None)
        return heads, data, timed

    def _advise(self, at: int, members: int) -> None:
        """Let the system read ahead, in order: many small reads in a file that is not in memory are slow."""
        self._advised = at + AHEAD_BYTES
        if at > members * LARGE_BYTES or not hasattr(os, "posix_fadvise"):
            return
        os.posix_fadvise(self._fd, at, 2 * AHEAD_BYTES, os.POSIX_FADV_WILLNEED)

    def _take(self, table: U8, data: I64, size: I64) -> None:
        self.found.members += len(table)
        keys, code, odd = _names(table, self._code)
        if odd.size:
            keep = np.ones(len(keys), np.bool_)
            for row in odd.tolist():
                pair = split(_full_name(table[row].tobytes()))
                if pair is None:
                    keep[row] = False
                else:
                    keys[row], code[row] = pair[0], self._code(pair[1])
            keys = [key for key, kept in zip(keys, keep.tolist(), strict=True) if kept]
            code, data, size = code[keep], data[keep], size[keep]
        self.keys += keys
        self._columns.append((code, data, size))

    def _code(self, raw: bytes) -> int:
        """The number of an extension as spelt in a name; case does not matter."""
        code = self._spelt.get(raw)
        if code is None:
            lower = raw.decode("utf-8", "surrogateescape").lower().encode("utf-8", "surrogateescape")
            code = (
                self._codes.setdefault(lower, min(len(self._codes), SHARED)) if len(lower) < 256 else SHARED
            )
            if len(self._spelt) < MAX_KINDS:
                self._spelt[raw] = code
        return code


def _sizes(table: U8) -> tuple[I64, Bool]:
    """Stated size of each header, and whether size, magic and checksum are as nearly every writer writes them."""
    digits = table[:, 124:135] - 48
    good = (digits < 8).all(axis=1) & ((table[:, 135] == 0) | (table[:, 135] == 32))
    stated = table[:, 148:154] - 48
    total = stated.astype(np.int64) @ _OCTAL[-6:]
    seventh = table[:, 154] - 48
    total = np.where(seventh < 8, total * 8 + seventh, total)
    ends = np.where(seventh < 8, table[:, 155], table[:, 154])
    good &= (stated < 8).all(axis=1) & ((ends == 0) | (ends == 32))
    good &= byte_sums(table) - table[:, 148:156].sum(axis=1, dtype=np.int64) + 256 == total
    good &= (table[:, 262] == 0) | (table[:, 262] == 32)
    return digits.astype(np.int64) @ _OCTAL, good


def _names(table: U8, code_of: Callable[[bytes], int]) -> tuple[list[bytes], I64, I64]:
    """Key and code of the extension of each header, and the rows whose name needs a closer look."""
    name = table[:, :100]
    ends = name == 0
    length = np.where(ends.any(axis=1), ends.argmax(axis=1), 100)
    width = -(-max(int(length.max()), 1) // 8) * 8
    wide = np.zeros((len(table), width + _EXTENSION_BYTES), np.uint8)
    wide[:, : min(width, 100)] = name[:, :width]
    columns = np.arange(width + _EXTENSION_BYTES)
    wide *= columns < length[:, None]  # bytes behind the first zero are no part of the name
    slashes = wide == 0x2F
    slash = np.where(slashes.any(axis=1), columns[-1] - slashes[:, ::-1].argmax(axis=1), -1)
    dots = (wide == 0x2E) & (columns > slash[:, None])
    dot = dots.argmax(axis=1)
    extra = length - dot - 1
    odd = (dot <= slash + 1) | (extra > _EXTENSION_BYTES) | (extra <= 0) | (wide == 0x0A).any(axis=1)
    odd |= ((wide[:, 0] == 0x5F) & (wide[:, 1] == 0x5F)) | ((table[:, 262] == 0) & (table[:, 345] != 0))
    raw = np.take_along_axis(wide, np.minimum(dot[:, None] + columns[1:17], columns[-1]), axis=1)
    raw *= np.arange(_EXTENSION_BYTES) < extra[:, None]
    words = raw.view(np.uint64)
    code = np.full(len(table), SHARED, np.int64)
    left = np.flatnonzero(~odd)
    for _ in range(64):
        if not len(left):
            break
        same = (words[left] == words[left[0]]).all(axis=1)
        code[left[same]] = code_of(raw[left[0]].tobytes().rstrip(b"\0"))
        left = left[~same]
    odd[left] = True  # too many kinds: one at a time
    keys = (wide[:, :width] * (columns[:width] < dot[:, None])).view(f"S{width}")[:, 0]
    return keys.tolist(), code, np.flatnonzero(odd)


def _full_name(head: bytes) -> bytes:
    name = head[:100].split(b"\0", 1)[0]
    if head[257:263] == b"ustar\0" and head[345]:
        return head[345:500].split(b"\0", 1)[0] + b"/" + name
    return name
