"""What scrubbing took out, encrypted: with the key and the scrubbed file, the original comes back byte for byte.

    HWSEAL1\\n  then AES-256-SIV (RFC 5297) over:  a line of JSON {name, original, scrubbed, ops}, then the bytes that are not in the copy

SIV needs no random number, so equal input gives equal bytes; two equal sidecars show that two photos are equal, and nothing else shows. A key
is a text file of one line, made by `make_key`; who loses it loses the originals' data, who publishes it publishes them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.polygons._json_strict import dump, loads
from headwater.errors import IntegrityError, SignatureFailure, UsageError
from headwater.files import named_io

MAGIC = b"HWSEAL1\n"
KEY_HEAD = "headwater-seal-key-1:"
KEY_BYTES = 64  # AES-256 twice, as SIV wants
MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Copy:
    """`length` bytes of the scrubbed file from `at` on."""

    at: int
    length: int


@dataclass(frozen=True)
class Literal:
    """Bytes that the scrubbed file does not have."""

    data: bytes


Ops = list[Copy | Literal]  # in order, they are the original


@dataclass(frozen=True)
class Key:
    """A secret; never shown."""

    secret: bytes

    def __repr__(self) -> str:
        return "Key(…)"


def make_key(path: Path) -> Key:
    """Write a new key file that only its owner may read. Raises UsageError where there is a file already."""
    secret = os.urandom(KEY_BYTES)
    with named_io(path):
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise UsageError(f"{path}: exists", hint="a key is never overwritten: name a new file") from None
        with open(fd, "w") as out:
            out.write(KEY_HEAD + base64.b64encode(secret).decode() + "\n")
            out.flush()
            os.fsync(out.fileno())
    return Key(secret)


def read_key(path: Path) -> Key:
    """Read a key file. Raises MissingInput, SignatureFailure for one that is none."""
    with named_io(path), open(path, "rb") as file:
        text = file.read(1024).decode("ascii", "replace").strip()
    try:
        secret = base64.b64decode(text.removeprefix(KEY_HEAD), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not text.startswith(KEY_HEAD) or len(secret) != KEY_BYTES:
        raise SignatureFailure(f"{path}: no key file of ours")
    return Key(secret)


def seal(name: str, original: bytes, scrubbed: bytes, ops: Ops, key: Key) -> bytes:
    """The sidecar of a scrubbed file."""
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    head = {
        "name": name,
        "original": _facts(original),
        "scrubbed": _facts(scrubbed),
        "ops": [[op.at, op.length] if isinstance(op, Copy) else [len(op.data)] for op in _merged(ops)],
    }
    literal = b"".join(op.data for op in ops if isinstance(op, Literal))
    return MAGIC + AESSIV(key.secret).encrypt(dump(head).encode() + b"\n" + literal, [MAGIC])


def unseal(sidecar: bytes, scrubbed: bytes, key: Key) -> tuple[str, bytes]:
    """(name, original bytes). Raises SignatureFailure (another key, or a sidecar that was changed), IntegrityError (another file)."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    if not sidecar.startswith(MAGIC) or len(sidecar) > MOST_BYTES + (1 << 20):
        raise IntegrityError("not a sealed sidecar")
    try:
        plain = AESSIV(key.secret).decrypt(sidecar[len(MAGIC) :], [MAGIC])
    except InvalidTag:
        raise SignatureFailure("the key does not open this sidecar, or it was changed") from None
    line, _, literal = plain.partition(b"\n")
    head: dict[str, Any] = loads(line)
    if head["scrubbed"] != _facts(scrubbed):
        raise IntegrityError(f"{head['name']}: this is not the scrubbed file that the sidecar belongs to")
    pieces = []
    at = 0
    for op in head["ops"]:
        if len(op) == 2:
            pieces.append(scrubbed[op[0] : op[0] + op[1]])
        else:
            pieces.append(literal[at : at + op[0]])
            at += op[0]
    original = b"".join(pieces)
    if head["original"] != _facts(original):
        raise IntegrityError(f"{head['name']}: the sidecar does not give the original")
    return head["name"], original


def _facts(data: bytes) -> dict[str, Any]:
    return {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _merged(ops: Ops) -> Ops:
    merged: Ops = []
    for op in ops:
        last = merged[-1] if merged else None
        if isinstance(op, Copy) and isinstance(last, Copy) and last.at + last.length == op.at:
            merged[-1] = Copy(last.at, last.length + op.length)
        else:
            merged.append(op)
    return merged
