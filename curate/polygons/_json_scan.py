"""A strict JSON reader for one large object: its lists of interest come in pieces, every other value whole.

The file is read once, in blocks; memory is bounded by the largest single value. Refused by name: bytes that are not UTF-8, a byte order
mark, UTF-16 and UTF-32, NaN and Infinity, numbers beyond a double, keys that stand twice in an object, nesting deeper than a cap,
values and files larger than a cap, anything behind the object. With numba the brackets are matched by compiled code, else by `re`.
"""

from __future__ import annotations

import importlib.util
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from curate.polygons._json_strict import dump as dump
from curate.polygons._json_strict import loads as loads
from headwater.errors import IntegrityError, UsageError
from headwater.files import named_io

Bytes = npt.NDArray[np.uint8]

BLOCK_BYTES = 1 << 20
PIECE_BYTES = 1 << 19  # of a list, given to Python's json at once
BLOCK_ROWS = 32768  # of a table, handed over together
AT, EXPECT, ROWS, PARTS, VERTS, SPANS, WHERE = range(7)  # entries of the kernels' `state`, as in _ring_kernel
MORE, DONE, FAULT, DEEP, FULL, SLOW = 1, 2, 3, 4, 5, 6  # as in _json_kernel


@dataclass(frozen=True)
class Limits:
    """What a file may ask for at most."""

    file_bytes: int = 16 << 30  # unpacked
    value_bytes: int = 512 << 20  # one top-level value, or one element of a list
    depth: int = 64  # of lists and objects inside an element
    ratio: int = 200  # unpacked to packed, of a zip member beyond 64 MiB


def have_numba() -> bool:
    """Whether compiled code can be used."""
    return importlib.util.find_spec("numba") is not None


@dataclass(frozen=True)
class Element:
    """A value, which may be null."""

    value: Any


class Scan:
    """The bytes of a file as a window `buf[at:end]`, followed by a 0."""

    def __init__(self, path: Path, stream: IO[bytes], size: int, limits: Limits) -> None:
        self.path, self.limits, self.size = path, limits, size
        self._stream = stream
        self.buf: Bytes = np.zeros(BLOCK_BYTES + 1, np.uint8)
        self.at = self.end = 0
        self.before = 0  # bytes of the file before the window's array
        self.finished = False
        self._token = _tokens(limits.depth)

    def fault(self, reason: str, at: int | None = None) -> IntegrityError:
        """An error naming the file and the byte."""
        where = self.before + (self.at if at is None else at)
        return IntegrityError(
            f"{self.path}: byte {where:,}: {reason}",
            hint="this file is not read further; mend it at its source",
        )

    def more(self) -> None:
        """Bring more bytes into the window; `at` moves to the front. Raises IntegrityError at the end of the file."""
        if self.finished:
            raise self.fault("the file ends in the middle of a value", self.end)
        kept = self.end - self.at
        if kept > self.limits.value_bytes:
            raise self.fault(f"one value is larger than {self.limits.value_bytes:,} bytes")
        room = self.buf
        if 2 * kept >= len(self.buf) - 1:
            room = np.zeros(2 * len(self.buf) - 1, np.uint8)
        room[:kept] = self.buf[self.at : self.end]  # numpy copies overlapping ranges soundly
        self.before += self.at
        self.buf, self.at, self.end = room, 0, kept
        view = memoryview(self.buf)[kept : len(self.buf) - 1]
        try:
            count = self._stream.readinto(view)  # type: ignore[attr-defined]
        except (zipfile.BadZipFile, EOFError) as error:
            raise self.fault(f"the zip member is damaged ({error})", kept) from error
        self.end += count
        self.buf[self.end] = 0
        if not count:
            self.finished = True
        elif self.before + self.end > self.limits.file_bytes:
            raise self.fault(f"larger than {self.limits.file_bytes:,} bytes")

    def byte(self) -> int:
        """The next byte that is no white space; 0 at the end of the file."""
        while True:
            found = _SOLID.search(memoryview(self.buf), self.at, self.end)
            if found:
                self.at = found.start()
                return int(self.buf[self.at])
            self.at = self.end
            if self.finished:
                return 0
            self.more()

    def take(self, wanted: bytes) -> None:
        """Step over one byte that must come next."""
        found = self.byte()
        if found != wanted[0]:
            seen = (
                f"{chr(found)!r}" if 32 < found < 127 else f"byte {found}" if found else "the end of the file"
            )
            raise self.fault(f"not JSON: {seen} where {wanted.decode()!r} must be")
        self.at += 1

    def value(self) -> Any:
        """The next value, whole."""
        self.byte()
        while True:
            status, behind = self.value_end(self.at)
            if status == DONE:
                break
            if status != MORE:
                raise self.refused(status, behind)
            if self.finished and self.end > self.at and self.buf[self.at] not in b'[{"':
                behind = self.end
                break
            self.more()
        start, self.at = self.at, behind
        return self.parsed(start, behind)

    def element(self, start: int) -> Element | None:
        """The value that starts at a place of the window, and `at` behind it; None where more bytes had to be brought first."""
        status, stop = self.value_end(start)
        if status == MORE:
            self.more()
            return None
        if status != DONE:
            raise self.refused(status, stop)
        self.at = stop
        return Element(self.parsed(start, stop))

    def parsed(self, start: int, stop: int, wrap: bool = False) -> Any:
        """The JSON of buf[start:stop] (as elements of a list with `wrap`); raises IntegrityError."""
        data = self.buf[start:stop].tobytes()
        try:
            return loads(b"[" + data + b"]" if wrap else data)
        except ValueError as error:
            raise self.fault(f"in the value here: {error}", start) from error

    def refused(self, status: int, at: int) -> IntegrityError:
        """The error for FAULT or DEEP at a place of the window."""
        if status == DEEP:
            return self.fault(f"nested deeper than {self.limits.depth}", at)
        return self.fault("not JSON", at)

    def value_end(self, at: int) -> tuple[int, int]:
        """(status, position) behind the value at `at`, by brackets and quotes alone."""
        return self._token.value_end(self.buf, at, self.end)

    def pieces(self) -> Iterator[list[Any]]:
        """The elements of the list whose opening bracket was just stepped over, some at a time."""
        first = True
        while True:
            if self.byte() == 93:
                self.at += 1
                return
            if not first:
                self.take(b",")
                self.byte()
            while True:
                status, stop = self._token.cut(self.buf, self.at, self.end, PIECE_BYTES)
                if status == DONE or (status in (MORE, FULL) and stop > self.at):
                    break
                if status != MORE:
                    raise self.refused(status, stop)
                self.more()
            start, self.at = self.at, stop
            elements = self.parsed(start, stop, wrap=True)
            if not elements:
                raise self.fault("not JSON: a value is missing", start)
            yield elements
            first = False


class _Compiled:
    """`value_end` and `cut` by `_json_kernel`."""

    def __init__(self, depth: int) -> None:
        from curate.polygons import _json_kernel

        self._kernel, self._depth = _json_kernel, depth

    def value_end(self, buf: Bytes, at: int, end: int) -> tuple[int, int]:
        return self._kernel.value_end(buf, at, end, self._depth)  # type: ignore[no-any-return]

    def cut(self, buf: Bytes, at: int, end: int, enough: int) -> tuple[int, int]:
        return self._kernel.cut(buf, at, end, self._depth, enough)  # type: ignore[no-any-return]


_SOLID = re.compile(rb"[^ \n\r\t]")
_TOKEN = re.compile(rb'[\[\]{}]|"(?>[^"\\\x00-\x1f]+|\\.)*("?)', re.DOTALL)
_SCALAR = re.compile(rb"[^,\]}\s]+")


class _Plain:
    """The same by `re`."""

    def __init__(self, depth: int) -> None:
        self._depth = depth

    def value_end(self, buf: Bytes, at: int, end: int) -> tuple[int, int]:
        if at >= end:
            return MORE, at
        if buf[at] not in b'[{"':
            found = _SCALAR.match(memoryview(buf), at, end)
            if not found:
                return FAULT, at
            return (MORE if found.end() >= end else DONE), found.end()
        status, behind, _ = self._walk(buf, at, end, 0, stop_at=0)
        return status, behind

    def cut(self, buf: Bytes, at: int, end: int, enough: int) -> tuple[int, int]:
        status, behind, last = self._walk(buf, at, end, 0, stop_at=-1, enough=enough)
        return status, (last if status in (MORE, FULL) else behind)

    def _walk(
        self, buf: Bytes, at: int, end: int, level: int, *, stop_at: int, enough: int = 1 << 62
    ) -> tuple[int, int, int]:
        """(status, position, behind the last object at the first level), until the level falls to `stop_at`."""
        last, limit = at, at + enough
        for token in _TOKEN.finditer(memoryview(buf), at, end):
            byte = buf[token.start()]
            if byte == 34:
                if not token.group(1):  # it ends with the window, or at a byte that no string holds
                    cut_off = token.end() + (end > token.end() and buf[token.end()] == 92) >= end
                    return (MORE if cut_off else FAULT), token.end(), last
                if level == 0 and stop_at == 0:
                    return DONE, token.end(), last
            elif byte in b"[{":
                level += 1
                if level > self._depth:
                    return DEEP, token.start(), last
            else:
                level -= 1
                if level < 0:
                    return (DONE if byte == 93 else FAULT), token.start(), last
                if level == 0:
                    if stop_at == 0:
                        return DONE, token.end(), last
                    if byte == 125:
                        last = token.end()
                        if last >= limit:
                            return FULL, last, last
        return MORE, at, last


def _tokens(depth: int) -> _Compiled | _Plain:
    return _Compiled(depth) if have_numba() else _Plain(depth)


@contextmanager
def opened(path: Path, limits: Limits | None = None) -> Iterator[Scan]:
    """A Scan of `path`: a JSON file, or a zip with one JSON file in it. Raises IntegrityError, UsageError, MissingInput."""
    limits = limits or Limits()
    with named_io(path), open(path, "rb") as file:
        if file.read(4) == b"PK\x03\x04":
            file.seek(0)
            with _member(path, file, limits) as (stream, size):
                yield _checked(Scan(path, stream, size, limits))
            return
        size = file.seek(0, io.SEEK_END)
        if size > limits.file_bytes:
            raise IntegrityError(f"{path}: {size:,} bytes are more than {limits.file_bytes:,}")
        file.seek(0)
        yield _checked(Scan(path, file, size, limits))


@contextmanager
def _member(path: Path, file: IO[bytes], limits: Limits) -> Iterator[tuple[IO[bytes], int]]:
    try:
        with zipfile.ZipFile(file) as archive:
            names = [info for info in archive.infolist() if not info.is_dir()]
            if len(names) != 1:
                raise UsageError(f"{path}: holds {len(names)} files where one JSON file must be")
            info = names[0]
            if info.flag_bits & 1:
                raise UsageError(f"{path}: {info.filename} is encrypted")
            size = info.file_size
            if size > limits.file_bytes or size > max(64 << 20, limits.ratio * info.compress_size):
                raise IntegrityError(f"{path}: {info.filename} unpacks to {size:,} bytes, which is refused")
            with archive.open(info) as stream:
                yield stream, size
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise IntegrityError(f"{path}: a damaged zip file ({error})") from error


_MARKS = (
    (b"\xef\xbb\xbf", "it begins with a byte order mark"),
    (b"\xff\xfe", "it is UTF-16 or UTF-32, not UTF-8"),
    (b"\xfe\xff", "it is UTF-16 or UTF-32, not UTF-8"),
)


def _checked(scan: Scan) -> Scan:
    scan.more()
    head = scan.buf[:4].tobytes()
    for mark, reason in _MARKS:
        if head.startswith(mark):
            raise scan.fault(f"{reason}; JSON files are UTF-8 without one", 0)
    if 0 in head[: min(scan.end, 4)]:
        raise scan.fault("it is UTF-16 or UTF-32, not UTF-8, or not text at all", 0)
    return scan


def walk(scan: Scan, lists: dict[str, Callable[[Scan], None]]) -> dict[str, Any]:
    """Read the file's object: a list under a name of `lists` is given to its reader, just behind its bracket; the rest is returned.

    A value of such a name that is no list is returned too.
    """
    header: dict[str, Any] = {}
    seen: set[str] = set()
    scan.take(b"{")
    if scan.byte() == 125:
        scan.at += 1
    else:
        while True:
            if scan.byte() != 34:
                scan.take(b'"')
            name = scan.value()
            if name in seen:
                raise scan.fault(f"the key {name!r} stands twice in one object")
            seen.add(name)
            scan.take(b":")
            if name in lists and scan.byte() == 91:
                scan.at += 1
                lists[name](scan)
            else:
                header[name] = scan.value()
            if scan.byte() == 125:
                scan.at += 1
                break
            scan.take(b",")
    if scan.byte() or scan.at < scan.end:
        raise scan.fault("something stands behind the JSON object")
    return header
