"""Headers of tar members, the same bytes on every machine (POSIX.1-1988 ustar; pax where a name or a size needs it).

Written out here, because the bytes of Python's own module have changed between versions.
"""

from __future__ import annotations

BLOCK = 512
END = bytes(2 * BLOCK)
_OCTAL_LIMIT = 8**11  # of a size in ustar


def header(path: str, size_bytes: int) -> bytes:
    """All blocks that come before the bytes of a regular file: mode 0644, owner 0, time 0."""
    raw = path.encode()
    name, prefix = _split(raw)
    records = b""
    if name is None or not raw.isascii():
        records += _record("path", raw)
        name, prefix = raw.decode("ascii", "replace").encode("ascii", "replace")[-100:], b""
    if size_bytes >= _OCTAL_LIMIT:
        records += _record("size", b"%d" % size_bytes)
    extra = b""
    if records:
        extra = _block(b"PaxHeader", b"", len(records), b"x") + records + padding(len(records))
    return extra + _block(name, prefix, size_bytes if size_bytes < _OCTAL_LIMIT else 0, b"0")


def padding(size_bytes: int) -> bytes:
    """What fills the last block."""
    return bytes(-size_bytes % BLOCK)


def _split(raw: bytes) -> tuple[bytes | None, bytes]:
    """Name and prefix of ustar, or None when the path does not fit."""
    if len(raw) <= 100:
        return raw, b""
    for at in range(min(len(raw), 156) - 1, 0, -1):
        if raw[at : at + 1] == b"/" and len(raw) - at - 1 <= 100:
            return raw[at + 1 :], raw[:at]
    return None, b""


def _record(key: str, value: bytes) -> bytes:
    """One pax record; its length counts its own digits."""
    body = b" " + key.encode() + b"=" + value + b"\n"
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def _block(name: bytes, prefix: bytes, size_bytes: int, kind: bytes) -> bytes:
    fields = (
        (name, 100),
        (b"0000644", 8),
        (b"0000000", 8),
        (b"0000000", 8),
        (b"%011o" % size_bytes, 12),
        (b"00000000000", 12),
        (b" " * 8, 8),
        (kind, 1),
        (b"", 100),
        (b"ustar\x0000", 8),
        (b"", 32),
        (b"", 32),
        (b"0000000", 8),
        (b"0000000", 8),
        (prefix, 155),
        (b"", 12),
    )
    block = b"".join(value.ljust(width, b"\0") for value, width in fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
