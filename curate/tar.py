"""Reads tar archives header by header: exact, bounded, and never trusting a length it has not checked.

Layouts: POSIX.1-2017 pax and ustar, GNU tar's 'L'/'K' records and base-256 numbers, and pre-POSIX v7 headers.
Offsets and sizes are bytes from the start of the file; every header starts at a multiple of 512.

Three outcomes, never a fourth:
  * a `Member`, whose framing every common reader agrees on;
  * `Damage`: the file stops before the archive does, so what came before it is still good;
  * `IntegrityError`: a header that lies or that readers would understand differently. Nothing is guessed.
Nothing here writes, extracts or follows anything; `read` is the only way in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from headwater.errors import IntegrityError

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
MAX_EXTENSION_BYTES = 1 << 20  # a long name or pax record list; real ones are below 10 kB
SKIPPED_TYPES = {
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "device",
    b"4": "device",
    b"5": "directory",
    b"6": "fifo",
}
SKIPPED_TYPES |= {b"V": "volume label", b"M": "continuation", b"D": "dump directory"}

Read = Callable[[int, int], bytes]  # read(offset, length): shorter only at the end of the file


@dataclass(frozen=True)
class Member:
    """One member: `header_offset` is where its first header begins, extension records included."""

    name: bytes
    header_offset: int
    data_offset: int
    size_bytes: int
    kind: str  # "file", or why it is skipped

    @property
    def end(self) -> int:
        """Where the next header begins."""
        return self.data_offset + (-(-self.size_bytes // BLOCK)) * BLOCK


@dataclass(frozen=True)
class Damage:
    """Where and why a file stops before its archive does. `name` is the member it stops in, where that is known."""

    offset: int
    reason: str
    name: bytes | None = None


@dataclass(frozen=True)
class End:
    """The archive is over at `offset`. `marked` is False when the closing zero blocks are missing."""

    offset: int
    marked: bool


@dataclass
class _Pending:
    """Extension records read ahead of the header they describe."""

    long_name: bytes | None = None
    long_link: bool = False
    pax: dict[bytes, bytes] | None = None
    names: list[str] = field(default_factory=list)


def members(read: Read, size_bytes: int, tar: str, start: int = 0) -> Iterator[Member | Damage | End]:
    """Every member from `start`; the last item is always a `Damage` or an `End`."""
    offset = start
    while True:
        item = next_member(read, size_bytes, tar, offset)
        yield item
        if not isinstance(item, Member):
            return
        offset = item.end


def next_member(read: Read, size_bytes: int, tar: str, offset: int) -> Member | Damage | End:
    """The member whose header (or first extension record) is at `offset`. `tar` names the file in errors."""
    start, pending = offset, _Pending()
    while True:
        header = read(offset, BLOCK)
        if not header:
            if start != offset:
                return Damage(start, "the file ends after an extension record, before its member")
            if offset == 0:
                return Damage(0, "the file is empty")
            if offset > size_bytes:
                return Damage(size_bytes, "the file ends inside the padding of its last member")
            return End(offset, marked=False)
        if len(header) < BLOCK:
            return Damage(offset, f"the file ends {len(header)} bytes into a header")
        if header == ZERO_BLOCK:
            if start != offset:
                _refuse(tar, offset, "an extension record without a member behind it")
            return End(offset, marked=True)
        try:
            _check_sum(header, tar, offset)
            size = _number(header[124:136], "size", tar, offset)
        except IntegrityError as error:
            if offset == 0:
                error.hint = _what_else(header)
            raise
        kind = header[156:157]
        data = offset + BLOCK
        if kind in (b"L", b"K", b"x", b"g", b"X"):
            if size > MAX_EXTENSION_BYTES:
                _refuse(tar, offset, f"an extension record of {size:,} bytes (limit {MAX_EXTENSION_BYTES:,})")
            body = read(data, size)
            if len(body) < size:
                return Damage(start, "the file ends inside an extension record")
            _extension(kind, body, pending, tar, offset)
            offset = data + -(-size // BLOCK) * BLOCK
            continue
        return _member(header, kind, size, pending, _Frame(read, size_bytes, tar, start, offset))


@dataclass(frozen=True)
class _Frame:
    read: Read
    size_bytes: int
    tar: str
    start: int
    offset: int


def _member(header: bytes, kind: bytes, size: int, pending: _Pending, frame: _Frame) -> Member | Damage:
    tar, offset = frame.tar, frame.offset
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    pax = pending.pax or {}
    if any(key.startswith(b"GNU.sparse") for key in pax) or kind == b"S":
        _refuse(tar, offset, f"sparse member {_show(name)}", hint="pack the file again without --sparse")
    if pending.long_name is not None:
        name = pending.long_name
    if b"path" in pax:
        name = pax[b"path"]
    if b"size" in pax:
        if not pax[b"size"].isdigit() or len(pax[b"size"]) > 18:
            _refuse(tar, offset, f"size {_show(pax[b'size'])} of member {_show(name)} is no number")
        size = int(pax[b"size"])
    data = offset + BLOCK
    if kind in (b"0", b"\0", b"7") and not (kind == b"\0" and name.endswith(b"/")):
        what = "file"
    else:
        what = SKIPPED_TYPES.get(kind, "directory" if kind == b"\0" else f"type {_show(kind)}")
        if size and kind in b"\x00123456":
            # some readers skip this much data, others none: the two would see different members
            _refuse(tar, offset, f"{what} {_show(name)} with a size of {size:,} bytes")
    if data + size > frame.size_bytes:
        if _archive_goes_on(frame, data):
            _refuse(tar, offset, f"member {_show(name)} claims {size:,} bytes, past the end of the archive")
        return Damage(frame.start, f"the file ends inside member {_show(name)} ({size:,} bytes)", name)
    return Member(name, frame.start, data, size, what)


def _extension(kind: bytes, body: bytes, pending: _Pending, tar: str, offset: int) -> None:
    # two records of one kind, or two sources of one name, are where readers differ: refused
    if kind == b"K":
        if pending.long_link:
            _refuse(tar, offset, "two long link names for one member")
        pending.long_link = True
        return
    if kind == b"L":
        if pending.long_name is not None or (pending.pax and b"path" in pending.pax):
            _refuse(tar, offset, "two names for one member")
        pending.long_name = body.split(b"\0", 1)[0]
        return
    records = _pax_records(body, tar, offset)
    if kind == b"g":
        if b"size" in records or b"path" in records or any(k.startswith(b"GNU.sparse") for k in records):
            _refuse(tar, offset, "a global pax header that sets a name or a size")
        return
    if pending.pax is not None:
        _refuse(tar, offset, "two pax headers for one member")
    if b"path" in records and pending.long_name is not None:
        _refuse(tar, offset, "two names for one member")
    pending.pax = records


def _pax_records(body: bytes, tar: str, offset: int) -> dict[bytes, bytes]:
    """`length key=value newline`, repeated; the length counts itself."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(body) and body[at]:
        space = body.find(b" ", at, at + 20)
        digits = body[at:space] if space > at else b""
        length = int(digits) if digits.isdigit() else 0
        record = body[space + 1 : at + length]
        if length < 5 or at + length > len(body) or record[-1:] != b"\n" or b"=" not in record:
            _refuse(tar, offset, f"a pax record at byte {at} that does not follow 'length key=value'")
        key, value = record[:-1].split(b"=", 1)
        if key in records and key in (b"path", b"size"):
            _refuse(tar, offset, f"two pax records for {_show(key)}")
        if key == b"path" and (b"\0" in value or not value):
            _refuse(tar, offset, "a pax name that is empty or holds a zero byte")
        records[key] = value
        at += length
    return records


def _check_sum(header: bytes, tar: str, offset: int) -> None:
    stated = _number(header[148:156], "checksum", tar, offset)
    found = sum(header) - sum(header[148:156]) + 256
    if stated == found:
        return
    # historic writers summed signed bytes
    high = sum(1 for byte in header[:148] + header[156:] if byte > 127)
    if stated == found - 256 * high:
        return
    _refuse(tar, offset, f"header checksum is {found}, the header says {stated}")


def _what_else(header: bytes) -> str:
    kinds = {
        b"\x1f\x8b": "gzip",
        b"\x28\xb5\x2f\xfd": "zstd",
        b"\xfd7zXZ": "xz",
        b"BZh": "bzip2",
        b"PK": "zip",
    }
    for magic, kind in kinds.items():
        if header.startswith(magic):
            return f"it looks {kind} compressed; unpack it first"
    return "is it a tar archive at all?"


def _number(raw: bytes, what: str, tar: str, offset: int) -> int:
    """An octal field, or GNU base-256. Negative and malformed ones are refused."""
    if raw[0] & 0x80:
        if raw[0] != 0x80 or what == "checksum":
            _refuse(tar, offset, f"{what} is negative or beyond 2^88")
        value = int.from_bytes(raw[1:], "big")
        if value >> 62:
            _refuse(tar, offset, f"{what} of {value:,} bytes")
        return value
    text = raw.split(b"\0", 1)[0].strip(b" ")
    if text and not all(48 <= byte <= 55 for byte in text):
        _refuse(tar, offset, f"{what} field {_show(raw)} is not octal")
    return int(text or b"0", 8)


def _archive_goes_on(frame: _Frame, data: int) -> bool:
    """True when the archive has a proper end behind a member that claims to reach past it: its size lies."""
    last = frame.size_bytes - 2 * BLOCK
    if last <= data or frame.size_bytes % BLOCK or any(frame.read(last, 2 * BLOCK)):
        return False
    for at in range(data, last, BLOCK):
        header = frame.read(at, BLOCK)
        if header[257:262] == b"ustar" and _sum_fits(header):
            return True
    return False


def _sum_fits(header: bytes) -> bool:
    text = header[148:156].split(b"\0", 1)[0].strip(b" ")
    if not text or not all(48 <= byte <= 55 for byte in text):
        return False
    return int(text, 8) == sum(header) - sum(header[148:156]) + 256


def _show(raw: bytes) -> str:
    text = raw[:80].decode("utf-8", "backslashreplace")
    return repr(text if len(raw) <= 80 else text + "…")


def _refuse(tar: str, offset: int, what: str, *, hint: str | None = None) -> NoReturn:
    raise IntegrityError(f"{tar}: at byte {offset:,}: {what}", hint=hint or "fetch or pack the shard again")


def split_name(name: bytes) -> tuple[bytes, bytes] | str:
    """(key, extension) by webdataset's rule: cut at the first dot of the base name; or why there is none."""
    base_at = name.rfind(b"/") + 1
    base = name[base_at:]
    if not base_at and base.startswith(b"__") and base.endswith(b"__"):
        return "meta"
    dot = base.find(b".")
    if dot < 1:
        return "no extension"
    return name[: base_at + dot], base[dot + 1 :]


def clean_extension(raw: bytes) -> str | None:
    """The extension in lower case, or None when it may not become part of a file name."""
    try:
        text = raw.decode("utf-8").lower()
    except UnicodeDecodeError:
        return None
    if not text or len(text) > 200 or any(c in "/\\:" or not c.isprintable() for c in text):
        return None
    return text
