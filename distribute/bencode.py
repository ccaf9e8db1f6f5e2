"""Bencoding (BEP 3), where one value has one form: whatever decodes here encodes to the same bytes again.

    int   i-12e            no leading zero, no -0, within 64 bits
    bytes 4:spam           no leading zero in the length
    list  l…e
    dict  d KEY VALUE … e  keys are byte strings, sorted, none twice

Files from strangers are bounded before anything is built: bytes, depth, number of values. Torrents in the wild do not
always sort their keys; `sorted_keys=False` reads those too, and `decode_top` then gives the place of each value of the
outer dictionary, because an infohash is a digest of the bytes as they were sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headwater.errors import IntegrityError

_INT_DIGITS = 20  # "-" and the 19 digits of 2^63


@dataclass(frozen=True)
class Limits:
    """What a document may not exceed."""

    size_bytes: int = 256 << 20
    depth: int = 100  # of lists and dictionaries inside each other
    values: int = 8_000_000  # of all kinds, keys included


def encode(value: Any) -> bytes:
    """Bytes of int, bytes, str (as UTF-8), list, tuple and mappings of bytes or str. Raises TypeError for others."""
    out: list[bytes] = []
    _encode(value, out)
    return b"".join(out)


def _encode(value: Any, out: list[bytes]) -> None:
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        out.append(b"%d:" % len(value))
        out.append(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        out.append(b"i%de" % value)
    elif isinstance(value, Mapping):
        out.append(b"d")
        pairs = [(key.encode() if isinstance(key, str) else key, item) for key, item in value.items()]
        for key, item in sorted(pairs, key=lambda pair: pair[0]):
            _encode(key, out)
            _encode(item, out)
        out.append(b"e")
    elif isinstance(value, list | tuple):
        out.append(b"l")
        for item in value:
            _encode(item, out)
        out.append(b"e")
    else:
        raise TypeError(f"no bencoding of {type(value).__name__}")


def decode(data: bytes, *, limits: Limits | None = None, sorted_keys: bool = True) -> Any:
    """The value of `data`: int, bytes, list, or dict with bytes keys. Raises IntegrityError for anything but one whole value."""
    return _Decoder(data, limits or Limits(), sorted_keys).whole()


def decode_top(
    data: bytes, *, limits: Limits | None = None, sorted_keys: bool = True
) -> tuple[dict[bytes, Any], dict[bytes, tuple[int, int]]]:
    """A dictionary, and for each of its keys (start, end) of the value's bytes in `data`. Raises IntegrityError."""
    decoder = _Decoder(data, limits or Limits(), sorted_keys)
    value = decoder.whole()
    if not isinstance(value, dict):
        raise IntegrityError("bencoding: not a dictionary")
    return value, decoder.spans


class _Decoder:
    def __init__(self, data: bytes, limits: Limits, sorted_keys: bool) -> None:
        if len(data) > limits.size_bytes:
            raise IntegrityError(f"bencoding: {len(data):,} bytes, allowed are {limits.size_bytes:,}")
        self.data = data
        self.at = 0
        self.left = limits.values
        self.depth_limit = limits.depth
        self.sorted_keys = sorted_keys
        self.spans: dict[bytes, tuple[int, int]] = {}

    def whole(self) -> Any:
        value = self.value(0)
        if self.at != len(self.data):
            raise self.wrong(f"{len(self.data) - self.at:,} bytes follow the value")
        return value

    def wrong(self, what: str) -> IntegrityError:
        return IntegrityError(f"bencoding: {what} at byte {self.at:,}")

    def value(self, depth: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise self.wrong("too many values")
        kind = self.data[self.at : self.at + 1]
        if kind.isdigit():
            return self.text()
        if kind == b"i":
            return self.integer()
        if kind not in (b"l", b"d"):
            raise self.wrong("cut short" if not kind else f"no value starts with {kind!r}")
        if depth >= self.depth_limit:
            raise self.wrong(f"nested more than {self.depth_limit} deep")
        self.at += 1
        return self.items(depth + 1) if kind == b"l" else self.mapping(depth + 1)

    def integer(self) -> int:
        end = self.data.find(b"e", self.at, self.at + _INT_DIGITS + 2)
        digits = self.data[self.at + 1 : end] if end > 0 else b""
        plain = digits.removeprefix(b"-")
        if not plain.isdigit() or (plain.startswith(b"0") and digits != b"0"):
            raise self.wrong("not an integer")
        value = int(digits)
        if not -(1 << 63) <= value < 1 << 63:
            raise self.wrong("an integer of more than 64 bits")
        self.at = end + 1
        return value

    def text(self) -> bytes:
        colon = self.data.find(b":", self.at, self.at + 12)
        digits = self.data[self.at : colon] if colon > 0 else b""
        if not digits.isdigit() or (digits.startswith(b"0") and digits != b"0"):
            raise self.wrong("not a string length")
        start, end = colon + 1, colon + 1 + int(digits)
        if end > len(self.data):
            raise self.wrong("a string longer than the rest of the document")
        self.at = end
        return self.data[start:end]

    def items(self, depth: int) -> list[Any]:
        out = []
        while self.data[self.at : self.at + 1] != b"e":
            out.append(self.value(depth))
        self.at += 1
        return out

    def mapping(self, depth: int) -> dict[bytes, Any]:
        out: dict[bytes, Any] = {}
        last: bytes | None = None
        while self.data[self.at : self.at + 1] != b"e":
            if not self.data[self.at : self.at + 1].isdigit():
                raise self.wrong("not a key")
            self.left -= 1
            key = self.text()
            if key in out:
                raise self.wrong(f"key {key[:40]!r} twice")
            if self.sorted_keys and last is not None and key < last:
                raise self.wrong(f"key {key[:40]!r} not in order")
            start = self.at
            out[key] = self.value(depth)
            if depth == 1:
                self.spans[key] = (start, self.at)
            last = key
        self.at += 1
        return out
