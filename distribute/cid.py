"""A CID is a name that proves its bytes: version, codec and the SHA-256 digest of one block.

    CIDv0   base58btc of            0x12 0x20 digest           always dag-pb          Qm…
    CIDv1   multibase of  0x01 codec 0x12 0x20 digest          raw (bafk…), dag-pb (bafy…), …

Sources: multiformats/cid, multiformats/multihash, multiformats/multibase, multiformats/unsigned-varint.
Only sha2-256 is taken. A weak hash (SHA-1, MD5), an unknown hash or codec, and a CID that carries its data (the identity
hash) are refused with IntegrityError: nothing behind such a name is proved by it, or we could not check it.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TypeAlias

from headwater.errors import IntegrityError

RAW = 0x55
DAG_PB = 0x70
DAG_CBOR = 0x71
DAG_JSON = 0x0129
JSON = 0x0200
CODECS = {RAW: "raw", DAG_PB: "dag-pb", DAG_CBOR: "dag-cbor", DAG_JSON: "dag-json", JSON: "json"}

SHA2_256 = 0x12
IDENTITY = 0x00
DIGEST_BYTES = 32
IDENTITY_LIMIT_BYTES = 128  # also with identity=True; the data of a block does not belong into its name
_WEAK = {0x11: "sha1", 0xD5: "md5", 0xD4: "md4"}
_TEXT_LIMIT = 400  # characters; 128 identity bytes in base16 take 270

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
Octets: TypeAlias = bytes  # inside Cid, `bytes` is a property
_V0_START = bytes((SHA2_256, DIGEST_BYTES))


def varint(number: int) -> bytes:
    """An unsigned varint: seven bits a byte, low bits first (multiformats/unsigned-varint)."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(data: bytes, at: int = 0, *, limit_bytes: int = 9) -> tuple[int, int]:
    """(number, place after it). `limit_bytes` is 9 in multiformats (63 bits) and 10 in protobuf (64 bits).

    Raises IntegrityError when it is cut, too long, above 64 bits, or longer than need be: one number has one form.
    """
    if at < len(data) and data[at] < 0x80:
        return data[at], at + 1  # nearly all are of one byte
    number = shift = 0
    for place in range(at, min(len(data), at + limit_bytes)):
        byte = data[place]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if (byte == 0 and shift) or number >= 1 << 64:
                raise IntegrityError("a varint is not in its shortest form, or above 64 bits")
            return number, place + 1
        shift += 7
    raise IntegrityError(
        "a varint is cut short" if len(data) < at + limit_bytes else "a varint has too many bytes"
    )


@dataclass(frozen=True, slots=True)
class Cid:
    """The name of one block. `digest` is its SHA-256, or with `hash_code` IDENTITY the block itself."""

    version: int
    codec: int
    digest: Octets
    hash_code: int = SHA2_256

    @classmethod
    def of(cls, codec: int, block: Octets, *, version: int = 1) -> Cid:
        """The CID of `block`."""
        return cls(version, codec, hashlib.sha256(block).digest())

    @property
    def multihash(self) -> Octets:
        """Hash code, length, digest."""
        return varint(self.hash_code) + varint(len(self.digest)) + self.digest

    @property
    def bytes(self) -> Octets:
        """The binary form: 34 bytes for v0, 36 for v1 with sha2-256 and a one-byte codec."""
        if self.version == 0:
            return self.multihash
        return b"\x01" + varint(self.codec) + self.multihash

    @property
    def key(self) -> tuple[int, int, Octets]:
        """What identifies the block whatever the version: codec, hash code, digest."""
        return self.codec, self.hash_code, self.digest

    @property
    def text(self) -> str:
        """base58btc without prefix for v0, lower-case base32 for v1."""
        if self.version == 0:
            return _encode_digits(self.multihash, _BASE58)
        return "b" + base64.b32encode(self.bytes).decode().lower().rstrip("=")

    def __str__(self) -> str:
        return self.text

    def with_version(self, version: int) -> Cid:
        """The same block under the other version; only dag-pb with sha2-256 has a v0."""
        if version == 0 and (self.codec != DAG_PB or self.hash_code != SHA2_256):
            raise IntegrityError(f"{self.text}: only dag-pb blocks have a CIDv0")
        return Cid(version, self.codec, self.digest, self.hash_code)

    def check(self, block: Octets | memoryview) -> None:
        """Raises IntegrityError, naming the CID, when `block` is not the block of this name."""
        digest = hashlib.sha256(block).digest() if self.hash_code == SHA2_256 else Octets(block)
        if digest != self.digest:
            raise IntegrityError(
                f"{self.text}: the block of {len(block)} bytes is not the one of this name",
                hint="its source is damaged or lies: fetch the block from another one",
            )

    @classmethod
    def parse(cls, text: str, *, identity: bool = False) -> Cid:
        """From text: v0, or v1 in base32 (b, B), base58btc (z), base16 (f, F), base36 (k, K). IntegrityError otherwise."""
        if len(text) > _TEXT_LIMIT:
            raise IntegrityError(
                f"{text[:40]}…: {len(text)} characters is too long for a CID; one that carries its data is refused"
            )
        try:
            raw = _decode_text(text)
            cid, end = cls.from_bytes(raw, identity=identity)
        except IntegrityError as error:
            raise IntegrityError(f"{text!r} is no CID that can be used: {error.message}") from None
        if end != len(raw):
            raise IntegrityError(f"{text!r} is no CID: {len(raw) - end} bytes follow it")
        if (cid.version == 0) != (len(text) == 46 and text.startswith("Qm")):
            raise IntegrityError(f"{text!r} is no CID: a CIDv0 has no multibase prefix")
        return cid

    @classmethod
    def from_bytes(cls, data: Octets, at: int = 0, *, identity: bool = False) -> tuple[Cid, int]:
        """(CID, place after it) from binary form at `at`. Raises IntegrityError on a CID that is cut or refused."""
        if data[at : at + 2] == _V0_START:
            digest = Octets(data[at + 2 : at + 34])
            if len(digest) != DIGEST_BYTES:
                raise IntegrityError("a CIDv0 is cut short")
            return cls(0, DAG_PB, digest), at + 34
        version, at = read_varint(data, at)
        if version != 1:
            raise IntegrityError(f"CID version {version} is not known")
        codec, at = read_varint(data, at)
        if codec not in CODECS:
            raise IntegrityError(f"the CID has codec 0x{codec:x}, which is not known")
        code, at = read_varint(data, at)
        size, at = read_varint(data, at)
        if code == SHA2_256:
            if size != DIGEST_BYTES:
                raise IntegrityError(f"the CID has a sha2-256 digest of {size} bytes, not 32")
        elif code == IDENTITY:
            if not identity or size > IDENTITY_LIMIT_BYTES:
                raise IntegrityError(f"the CID carries {size} bytes of data instead of a hash")
        elif code in _WEAK:
            raise IntegrityError(f"the CID uses {_WEAK[code]}, which proves nothing any more")
        else:
            raise IntegrityError(f"the CID uses hash 0x{code:x}, which is not known")
        digest = Octets(data[at : at + size])
        if len(digest) != size:
            raise IntegrityError("a CID is cut short")
        return cls(1, codec, digest, code), at + size


def same(first: Cid, second: Cid) -> bool:
    """Whether both name one block, whatever their version and base."""
    return first.key == second.key


def raw_cid_of_sha256(digest: bytes) -> Cid:
    """The CIDv1 of a single raw block, from the SHA-256 that a manifest already holds."""
    if len(digest) != DIGEST_BYTES:
        raise IntegrityError(f"a SHA-256 digest has 32 bytes, not {len(digest)}")
    return Cid(1, RAW, digest)


def _decode_text(text: str) -> bytes:
    if len(text) == 46 and text.startswith("Qm"):
        return _decode_digits(text, _BASE58)
    base, body = text[:1], text[1:]
    if base in ("b", "B"):
        return _decode_base32(body, upper=base == "B")
    if base == "z":
        return _decode_digits(body, _BASE58)
    if base in ("k", "K"):
        return _decode_digits(body.lower() if base == "K" else body, _BASE36)
    if base in ("f", "F"):
        if not body.isascii() or len(body) % 2 or any(c not in "0123456789abcdefABCDEF" for c in body):
            raise IntegrityError("it is not base16")
        return bytes.fromhex(body)
    raise IntegrityError("its base is not known")


def _decode_base32(body: str, *, upper: bool) -> bytes:
    # any case is taken, as gateways do, since host names may change it; mixed case is a typing error
    if body not in (body.lower(), body.upper()) or not body.isascii():
        raise IntegrityError("it is not base32")
    whole = body.upper()
    try:
        raw = base64.b32decode(whole + "=" * (-len(whole) % 8))
    except ValueError:
        raise IntegrityError("it is not base32") from None
    if base64.b32encode(raw).decode().rstrip("=") != whole:
        raise IntegrityError("it is not base32 in its only form")
    return raw


def _encode_digits(data: bytes, alphabet: str) -> str:
    number = int.from_bytes(data, "big")
    out = ""
    while number:
        number, digit = divmod(number, len(alphabet))
        out = alphabet[digit] + out
    return alphabet[0] * (len(data) - len(data.lstrip(b"\0"))) + out


def _decode_digits(body: str, alphabet: str) -> bytes:
    number = 0
    for letter in body:
        digit = alphabet.find(letter)
        if digit < 0:
            raise IntegrityError(f"{letter!r} is not a letter of its base")
        number = number * len(alphabet) + digit
    zeros = len(body) - len(body.lstrip(alphabet[0]))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
