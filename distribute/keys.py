"""Ed25519 keys in files: a private one is PEM (PKCS #8), mode 0600, never replaced; a public one is 64 hex digits, or PEM.

No message holds any part of a private key, and none is read from an argument or from the environment.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.console import say
from headwater.errors import MissingInput, SignatureFailure, UsageError
from headwater.files import fsync_folder, named_io

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_MODE = 0o600
LIMIT_BYTES = 64 << 10  # of a key file

_HEX = re.compile(r"[0-9a-f]{64}")


def new_key(path: Path) -> bytes:
    """Make a private key at `path` (PEM, PKCS #8, mode 0600, no passphrase) and return the 32 bytes of its public key.

    Raises UsageError when the file is there: a key that was lost cannot be had again.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    if not path.absolute().parent.is_dir():
        raise MissingInput(
            f"{path.parent}: no such folder to write {path.name} into", hint=f"mkdir -p {path.parent}"
        )
    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        with named_io(path):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, KEY_MODE)
    except Exception as error:
        if isinstance(error.__cause__, FileExistsError):
            raise UsageError(
                f"{path}: is already there; a key is never replaced", hint="name another file"
            ) from error
        raise
    try:
        with named_io(path), open(fd, "wb") as handle:
            os.fchmod(fd, KEY_MODE)
            handle.write(text)
            handle.flush()
            os.fsync(fd)
        fsync_folder(path.absolute().parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return public_key(key)


def public_key(private: Ed25519PrivateKey) -> bytes:
    """The 32 bytes of the public key."""
    return private.public_key().public_bytes_raw()


def key_id(public: bytes) -> str:
    """SHA-256 of the 32 bytes, in hex: how signatures name their key."""
    return hashlib.sha256(public).hexdigest()


def public_text(public: bytes) -> str:
    """The 32 bytes in hex: what to give to those who are to trust it."""
    return public.hex()


def load_private(path: Path) -> Ed25519PrivateKey:
    """The key of a PEM file. Raises MissingInput, or SignatureFailure for anything that is no Ed25519 private key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    raw, mode = _read_key(path)
    if mode & 0o077:
        say("warning", f"{path}: other users can read this key; chmod 600 {path}")
    try:
        key = load_pem_private_key(raw, None)
    except TypeError:
        raise SignatureFailure(
            f"{path}: protected by a passphrase, which is not supported",
            hint="headwater key makes one without",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        # from None: a parser's text may quote what it read
        raise SignatureFailure(
            f"{path}: no Ed25519 private key in PEM form", hint="headwater key makes one"
        ) from None
    return key


def load_public(source: Path | str) -> bytes:
    """The 32 bytes of a public key: from 64 hex digits, or from a file that holds them, or PEM.

    Raises MissingInput when there is no such file, SignatureFailure for what is no Ed25519 public key (a private key is none).
    """
    if isinstance(source, str) and _HEX.fullmatch(source.strip().lower()):
        return bytes.fromhex(source.strip())
    path = Path(source)
    raw, _ = _read_key(path)
    if _HEX.fullmatch(text := raw.decode("ascii", "replace").strip().lower()):
        return bytes.fromhex(text)
    return _public_pem(raw, path)


def _public_pem(raw: bytes, path: Path) -> bytes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY" in raw:
        raise SignatureFailure(
            f"{path}: a private key where a public one is wanted", hint="give others the public key only"
        )
    try:
        key = load_pem_public_key(raw)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise SignatureFailure(
            f"{path}: no Ed25519 public key", hint="64 hex digits, or PEM with BEGIN PUBLIC KEY"
        ) from None
    return key.public_bytes_raw()


def _read_key(path: Path) -> tuple[bytes, int]:
    if not path.is_file():
        raise MissingInput(f"{path}: no such key file", hint=f"headwater key {path} makes a private one")
    with named_io(path), open(path, "rb") as handle:
        raw = handle.read(LIMIT_BYTES + 1)
        mode = os.fstat(handle.fileno()).st_mode
    if len(raw) > LIMIT_BYTES:
        raise SignatureFailure(f"{path}: larger than {LIMIT_BYTES:,} bytes: no key")
    return raw, mode
