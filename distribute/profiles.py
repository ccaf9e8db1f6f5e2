"""How files are cut and folders split: a CID says nothing about it, so the profile is recorded beside the CID.

    name             CID   leaves   chunk     links   a folder becomes a HAMT above 262,144 bytes of
    unixfs-v1-2025   v1    raw      1 MiB     1024    its block
    kubo-v1-raw      v1    raw      256 KiB   174     names and CIDs
    unixfs-v0-2015   v0    dag-pb   256 KiB   174     names and CIDs

Sources: IPIP-499 (ipfs/specs), whose two profiles these are, and `ipfs add --cid-version=1 --raw-leaves`. All: sha2-256, balanced
layout, 256 ways in a HAMT, no mode, no mtime.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from distribute.cid import varint
from headwater.errors import UsageError, nearest

HAMT_ABOVE_BYTES = 262_144


@dataclass(frozen=True, slots=True)
class Profile:
    """How a tree becomes a DAG. `hamt_by` says what is compared with the threshold: block bytes, or names + CIDs."""

    name: str
    chunk_bytes: int
    width: int  # links of a node at most
    raw_leaves: bool
    cid_version: int  # of everything but raw leaves, which have only v1
    hamt_by: Literal["block", "links"]
    hamt_above_bytes: int = HAMT_ABOVE_BYTES

    @property
    def node_start(self) -> bytes:
        """What stands before the digest in the binary CID of a dag-pb block."""
        return b"\x12\x20" if self.cid_version == 0 else b"\x01\x70\x12\x20"

    @property
    def leaf_start(self) -> bytes:
        """The same for a leaf."""
        return b"\x01\x55\x12\x20" if self.raw_leaves else self.node_start


DEFAULT_PROFILE = "unixfs-v1-2025"
PROFILES = {
    profile.name: profile
    for profile in (
        Profile("unixfs-v1-2025", 1 << 20, 1024, True, 1, "block"),
        Profile("kubo-v1-raw", 1 << 18, 174, True, 1, "links"),
        Profile("unixfs-v0-2015", 1 << 18, 174, False, 0, "links"),
    )
}


def profile_named(name: str) -> Profile:
    """One of PROFILES. Raises UsageError with the nearest name."""
    if name not in PROFILES:
        raise UsageError(f"no CID profile {name!r}", hint=nearest(name, PROFILES))
    return PROFILES[name]


def leaf_wrap(profile: Profile, size: int) -> tuple[bytes, bytes]:
    """(before, after): a leaf block of a chunk of `size` bytes is before + chunk + after; both empty for raw leaves."""
    if profile.raw_leaves:
        return b"", b""
    after = b"\x18" + varint(size)
    inner = b"\x08\x02" + (b"\x12" + varint(size) if size else b"")
    return b"\x0a" + varint(len(inner) + size + len(after)) + inner, after


def leaf_digest(profile: Profile, chunk: bytes | memoryview) -> bytes:
    """SHA-256 of the leaf block of one chunk, 32 bytes."""
    before, after = leaf_wrap(profile, len(chunk))
    hasher = hashlib.sha256(before)
    hasher.update(chunk)
    hasher.update(after)
    return hasher.digest()


def leaf_count(profile: Profile, size_bytes: int) -> int:
    """Leaves of a file; an empty file has one."""
    return max(1, -(-size_bytes // profile.chunk_bytes))
