"""Walks a webdataset tar at the speed of its headers: whole windows of headers are checked and parsed as arrays.

A window (8 MiB, read into one reused buffer) is searched for blocks that could be headers. Each candidate's checksum, type,
size and name are parsed at once; then the true members are those on the chain "this header, plus its size, is the next
header", which starts at the window's first byte. A look-alike inside a picture is not on the chain. Whatever is not plain
(long names, pax records other than a time, base-256, links, damage, the end) goes to `curate.tar.next_member`, one header
at a time, so both ways read the same archive. Samples are runs of members with one key, webdataset's rule; a repeated
extension starts a new sample. Memory: the window plus about 60 B for each member in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from curate import tar
from curate._jsonuid import BAD_NAME, I64, MAX_JSON_BYTES, NO_JSON, OK, TRUNCATED, U8, U64, Uids, locate
from curate._tarheads import BAD_CODE, JSON_CODE, MAX_EXTENSIONS, Bool, Heads
from headwater.errors import IntegrityError

WINDOW_BYTES = 8 << 20
MAX_MEMBERS_PER_SAMPLE = 4096


@dataclass
class Members:
    """Columns, one row per member in tar order. `state` is 255 where the member is no json."""

    header: I64
    data: I64
    size: I64
    code: I64
    new: Bool
    hi: U64
    lo: U64
    state: U8

    @staticmethod
    def join(parts: list[Members]) -> Members:
        if not parts:
            return _NO_MEMBERS
        if len(parts) == 1:
            return parts[0]
        return Members(*(np.concatenate([getattr(p, name) for p in parts]) for name in _COLUMNS))

    def rows(self, start: int, stop: int | None) -> Members:
        return Members(*(getattr(self, name)[start:stop] for name in _COLUMNS))


_COLUMNS = ("header", "data", "size", "code", "new", "hi", "lo", "state")
_NO_MEMBERS = Members(*(np.empty(0, dtype) for dtype in ("i8", "i8", "i8", "i8", "?", "u8", "u8", "u1")))


@dataclass(frozen=True)
class Batch:
    """Complete samples. Members of sample i are rows first[i]:first[i+1]; `state` is jsonuid.OK or why it is invalid."""

    hi: U64
    lo: U64
    state: U8
    offset: I64
    length: I64
    first: I64
    members: Members

    def __len__(self) -> int:
        return len(self.hi)


@dataclass
class Walk:
    """One pass over one tar. Iterate `batches` to its end, then read the other fields."""

    path: Path
    name: str
    window_bytes: int = WINDOW_BYTES
    extensions: list[str] = field(default_factory=lambda: ["json", ""])
    spelled: dict[int, str] = field(default_factory=dict)  # data offset of the json -> uid not in lower case
    skipped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    damage: tar.Damage | None = None
    other_key: int = 0  # samples whose key is a uid, and not the uid of their json
    size_bytes: int = 0

    def batches(self) -> Iterator[Batch]:
        self._raw: dict[bytes, int] = {}
        self._key: bytes | None = None
        fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            self._fd = fd
            self.size_bytes = os.fstat(fd).st_size
            self._buffer = np.empty(
                min(self.window_bytes, -(-max(self.size_bytes, 512) // 512) * 512), np.uint8
            )
            carry, offset, more, last_shape = _NO_MEMBERS, 0, True, -1
            while more:
                found, offset, more = self._window(offset)
                table = Members.join([carry, found]) if len(carry.size) else found
                _split_repeats(table, len(self.extensions))
                cut = len(table.size)
                if more:
                    starts = np.flatnonzero(table.new)
                    cut = int(starts[-1]) if len(starts) else 0
                    if len(table.size) - cut > MAX_MEMBERS_PER_SAMPLE:
                        raise IntegrityError(
                            f"{self.name}: more than {MAX_MEMBERS_PER_SAMPLE} members under one key near byte {offset:,}",
                            hint="this is no webdataset shard: samples are told apart by key",
                        )
                carry = table.rows(cut, None)
                batch = _batch(table.rows(0, cut))
                if len(batch) and not more:
                    self._last_sample(batch, last_shape)
                if len(batch):
                    last_shape = int(batch.first[-1] - batch.first[-2])
                    yield batch
        finally:
            os.close(fd)

    def _last_sample(self, batch: Batch, before: int) -> None:
        """Decide whether the sample that was open when the file stopped is whole."""
        shape = int(batch.first[-1] - batch.first[-2])
        if len(batch) > 1:
            before = int(batch.first[-2] - batch.first[-3])
        if self.damage is not None and self.damage.name is not None:
            split = tar.split_name(self.damage.name)
            whole = not isinstance(split, str) and split[0] != self._key
        elif self.damage is not None:
            # the next name is unknown: the sample is believed only if it is like the one before
            whole = 0 < before <= shape
        else:
            # a file cut between two members has a clean end, and only the last sample can show it
            whole = not self._unmarked or before <= shape
            if not whole:
                reason = "no end-of-archive mark, and the last sample has fewer members than the one before"
                self.damage = tar.Damage(self.size_bytes, reason)
        if not whole:
            batch.state[-1] = TRUNCATED

    _unmarked = False

    def _read(self, offset: int, length: int) -> bytes:
        piece = bytearray(max(0, min(length, self.size_bytes - offset)))
        got = self._into(memoryview(piece), offset) if piece else 0
        return bytes(piece[:got])

    def _into(self, view: memoryview, offset: int) -> int:
        try:
            return os.preadv(self._fd, [view], offset)
        except OSError as error:
            raise IntegrityError(
                f"{self.name} cannot be read at byte {offset:,}: {error.strerror}"
            ) from error

    def _finish(self, end: tar.End | tar.Damage) -> None:
        if isinstance(end, tar.Damage):
            self.damage = end
        elif not end.marked:
            self._unmarked = True
            self.notes.append("no end-of-archive mark")
        else:
            rest, at = self.size_bytes - end.offset, end.offset
            while at < min(self.size_bytes, end.offset + (4 << 20)):
                piece = self._read(at, 1 << 20)
                if not piece or piece.count(0) != len(piece):
                    break
                at += len(piece)
            if at < self.size_bytes:
                self.notes.append(f"{rest:,} bytes behind the end-of-archive mark ignored")

    def _window(self, offset: int) -> tuple[Members, int, bool]:
        """Members from `offset`, where to go on, and whether there is anything to go on with."""
        filled = 0
        while filled < len(self._buffer):
            more = self._into(memoryview(self._buffer)[filled:], offset + filled)
            if not more:
                break
            filled += more
        heads = Heads(self._buffer[:filled], offset, self.size_bytes, self._plain_code)
        parts: list[Members] = []
        texts: list[bytes | memoryview] = []
        claims: list[tuple[I64, U64, U64]] = []  # (index in texts, uid of the key)
        at, alive = 0, True
        view = memoryview(self._buffer)
        while True:
            here = offset + at * 512
            if at and at >= filled // 512:
                break
            run = heads.run(at)
            if run is not None:
                chain, at, last = run
                part = _table(*chain)
                first_key = heads.key(last[0])
                part.new[0] = first_key != self._key
                self._key = heads.key(last[1] - 1)
                parts.append(part)
                place, hi, lo = heads.named_uids(*last)
                claims.append((place + len(texts), hi, lo))
                for row in np.flatnonzero(part.code == JSON_CODE).tolist():
                    begin = int(part.data[row]) - offset
                    texts.append(view[begin : begin + int(part.size[row])])
                continue
            if at and heads.is_plain(at):
                break  # only too close to the end of the window
            item = tar.next_member(self._read, self.size_bytes, self.name, here)
            if not isinstance(item, tar.Member):
                self._finish(item)
                alive = False
                break
            one = self._one(item)
            if one is not None:
                parts.append(one)
                if one.code[0] == JSON_CODE:
                    size = min(item.size_bytes, MAX_JSON_BYTES + 1)
                    texts.append(self._read(item.data_offset, size))
            at = (item.end - offset) // 512
        table = Members.join(parts)
        uids = locate(texts)
        self._uids(table, uids)
        for place, hi, lo in claims:
            other = (uids.hi[place] != hi) | (uids.lo[place] != lo)
            self.other_key += int((other & (uids.state[place] == OK)).sum())
        return table, offset + at * 512, alive

    def _uids(self, table: Members, uids: Uids) -> None:
        rows = np.flatnonzero(table.code == JSON_CODE)
        table.hi[rows], table.lo[rows], table.state[rows] = uids.hi, uids.lo, uids.state
        for index, text in uids.spelled.items():
            self.spelled[int(table.data[rows[index]])] = text

    def _one(self, item: tar.Member) -> Members | None:
        if item.kind != "file":
            self.skipped[item.kind] = self.skipped.get(item.kind, 0) + 1
            return None
        split = tar.split_name(item.name)
        if isinstance(split, str):
            self.skipped[split] = self.skipped.get(split, 0) + 1
            return None
        key, raw = split
        new, self._key = key != self._key, key
        return _table([item.header_offset], [item.data_offset], [item.size_bytes], [self.code_of(raw)], [new])

    def _plain_code(self, raw: bytes) -> int:
        # look-alikes inside pictures come here too: they may fill half of the table, not more
        return (
            self.code_of(raw) if len(self.extensions) < MAX_EXTENSIONS // 2 else self._raw.get(raw, BAD_CODE)
        )

    def code_of(self, raw: bytes) -> int:
        """The number of an extension as spelt in a member name."""
        code = self._raw.get(raw)
        if code is None:
            text = tar.clean_extension(raw)
            if text is None:
                return BAD_CODE
            if text in self.extensions:
                code = self.extensions.index(text)
            else:
                code = len(self.extensions)
                self.extensions.append(text)
                if code > MAX_EXTENSIONS:
                    raise IntegrityError(f"{self.name}: more than {MAX_EXTENSIONS:,} different extensions")
            self._raw[raw] = code
        return code


def _table(header: object, data: object, size: object, code: object, new: object) -> Members:
    sizes = np.asarray(size, np.int64)
    zero = np.zeros(len(sizes), np.uint64)
    state = np.full(len(sizes), 255, np.uint8)
    at, start, codes = (np.asarray(column, np.int64) for column in (header, data, code))
    return Members(at, start, sizes, codes, np.asarray(new, np.bool_), zero, zero.copy(), state)


def _split_repeats(table: Members, codes: int) -> None:
    """A member whose extension is already in its sample starts a new sample: sets `new` there."""
    if len(table.size) < 2:
        table.new[:1] = True
        return
    table.new[0] = True
    starts = np.flatnonzero(table.new)
    group = np.cumsum(table.new) - 1
    order = np.sort(group * (codes + 1) + table.code)
    twice = order[1:][(order[1:] == order[:-1])] // (codes + 1)
    for index in np.unique(twice).tolist():
        stop = starts[index + 1] if index + 1 < len(starts) else len(table.size)
        seen: set[int] = set()
        for row in range(int(starts[index]), int(stop)):
            code = int(table.code[row])
            if code in seen and code != BAD_CODE:
                table.new[row] = True
                seen = set()
            seen.add(code)


def _batch(table: Members) -> Batch:
    first = np.append(np.flatnonzero(table.new), len(table.size))
    count = len(first) - 1
    hi, lo = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
    state = np.full(count, NO_JSON, np.uint8)
    offset = np.zeros(count, np.int64)
    length = np.zeros(count, np.int64)
    if count:
        group = np.cumsum(table.new) - 1
        rows = np.flatnonzero(table.code == JSON_CODE)
        hi[group[rows]], lo[group[rows]], state[group[rows]] = (
            table.hi[rows],
            table.lo[rows],
            table.state[rows],
        )
        state[group[table.code == BAD_CODE]] = BAD_NAME
        last = first[1:] - 1
        offset = table.header[first[:-1]]
        length = table.data[last] + -(-table.size[last] // 512) * 512 - offset
    return Batch(hi, lo, state, offset, length, first, table)
