"""The signed answer to "which manifest is the latest?": Ed25519 keys, signatures, and what makes a pointer one to follow.

    new_key ── sign (add_signature …) ── latest.json ── verify_pointer(keys, threshold, now, last_seen) ──> PointerBody

Signed are the RFC 8785 bytes of the body alone. A pointer is refused (exit code 12) when too few different trusted keys signed it,
when it is older than one that was seen before (rollback), when it names another manifest under a version that was seen
(equivocation), or when its time is over (freeze): the attacks of The Update Framework's specification, section 1.5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from distribute.keys import key_id, load_private, load_public, new_key, public_key, public_text
from headwater.console import say
from headwater.errors import IntegrityError, SignatureFailure, UsageError
from headwater.manifest import canonical
from headwater.release import OpenRelease, Pointer, PointerBody, Signature, parse_document

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LIMIT_BYTES = 64 << 10  # of a pointer
__all__ = [
    "LastSeen",
    "add_signature",
    "check_order",
    "check_release",
    "key_id",
    "load_private",
    "load_public",
    "new_key",
    "next_body",
    "parse_pointer",
    "public_key",
    "public_text",
    "sign",
    "verify_pointer",
]

SIGNATURES = 64  # more than any threshold needs
DAYS = 90

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@dataclass(frozen=True)
class LastSeen:
    """The newest version that was accepted before, and what it pointed to."""

    version: int
    manifest_id: str


def next_body(
    previous: PointerBody | None,
    dataset: str,
    manifest_id: str,
    *,
    days: float = DAYS,
    now: datetime | None = None,
) -> PointerBody:
    """The body that comes after `previous` (None: the first), good for `days`. Raises UsageError for another dataset's."""
    if previous is not None and previous.dataset != dataset:
        raise UsageError(f"the pointer before is of {previous.dataset!r}, not of {dataset!r}")
    if not 0 < days <= 36_500:
        raise UsageError(f"a pointer cannot be good for {days:g} days", hint="--days 90")
    if previous is not None and previous.version + 1 >= 1 << 53:
        raise UsageError(f"version {previous.version:,} has no successor")
    signed = now or datetime.now(UTC)
    return PointerBody(
        dataset=dataset,
        version=previous.version + 1 if previous else 1,
        manifest_id=manifest_id,
        previous=previous.manifest_id if previous else None,
        signed_at=_written(signed),
        expires_at=_written(signed + timedelta(days=days)),
    )


def sign(body: PointerBody, private: Ed25519PrivateKey) -> Pointer:
    """A pointer with one signature."""
    return Pointer(body=body, signatures=[_signature(body, private)])


def add_signature(pointer: Pointer, private: Ed25519PrivateKey) -> Pointer:
    """The pointer with one signature more; an older one of the same key is replaced."""
    added = _signature(pointer.body, private)
    others = [signature for signature in pointer.signatures if signature.key_id != added.key_id]
    return Pointer(body=pointer.body, signatures=[*others, added])


def _signature(body: PointerBody, private: Ed25519PrivateKey) -> Signature:
    return Signature(key_id=key_id(public_key(private)), signature=private.sign(canonical(body)).hex())


def parse_pointer(raw: bytes, where: str) -> Pointer:
    """A pointer from bytes. Raises SignatureFailure for signatures of another algorithm, IntegrityError for what is no pointer."""
    if len(raw) > LIMIT_BYTES:
        raise IntegrityError(f"{where}: larger than {LIMIT_BYTES:,} bytes: not a pointer")
    try:
        pointer = parse_document(raw, Pointer, where)
    except IntegrityError:
        if (odd := _other_algorithm(raw)) is not None:
            raise SignatureFailure(
                f"{where}: signed by {odd!r}; only ed25519 is accepted", hint="do not use this pointer"
            ) from None
        raise
    if len(pointer.signatures) > SIGNATURES:
        raise IntegrityError(f"{where}: more than {SIGNATURES} signatures")
    return pointer


def _other_algorithm(raw: bytes) -> str | None:
    try:
        found = [signature["algorithm"] for signature in json.loads(raw)["signatures"]]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return next((str(algorithm)[:40] for algorithm in found if algorithm != "ed25519"), None)


def verify_pointer(
    pointer: Pointer,
    keys: Sequence[bytes],
    *,
    threshold: int = 1,
    now: datetime | None = None,
    dataset: str | None = None,
    last_seen: LastSeen | None = None,
    allow_expired: bool = False,
) -> PointerBody:
    """The body, if `threshold` different keys of `keys` (32 bytes each) signed it, and it is neither older than what was seen nor over.

    `now`: the time to judge by, with a zone. A time of signing in the future is no fault: clocks go wrong. Raises
    SignatureFailure that says which of these failed, UsageError for a threshold that the keys cannot reach.
    """
    _signed(pointer, keys, threshold)
    body = pointer.body
    if dataset is not None and body.dataset != dataset:
        raise SignatureFailure(
            f"the pointer is of the dataset {body.dataset!r}, wanted is {dataset!r}",
            hint="it was put in the place of another: take it from another place",
        )
    if (body.version == 1) != (body.previous is None):
        raise SignatureFailure(f"{_title(body)}: only the first version has none before it")
    if last_seen is not None:
        check_order(body, last_seen)
    expires = _time(body.expires_at, "expires_at")
    _time(body.signed_at, "signed_at")
    if expires <= (now or datetime.now(UTC)):
        message = (
            f"{_title(body)}: its time was over at {body.expires_at}, so it may be an old one played back"
        )
        if not allow_expired:
            raise SignatureFailure(
                message,
                hint="ask the publisher for a fresh one, or check this computer's clock; --allow-expired takes it",
            )
        say("warning", message)
    return body


def _signed(pointer: Pointer, keys: Sequence[bytes], threshold: int) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    known = {key_id(public): public for public in keys}  # a key that is named twice is one key
    if not 1 <= threshold <= max(len(known), 1):
        raise UsageError(
            f"{threshold} signatures cannot come from {len(known)} keys", hint="name every key with --key"
        )
    if not known:
        raise SignatureFailure(
            "no key to check the pointer with", hint="--key PUBLIC, from the publisher himself"
        )
    if not pointer.signatures:
        raise SignatureFailure("the pointer is not signed", hint="do not use it")
    message = canonical(pointer.body)
    good, wrong, unknown = set(), set(), set()
    for signature in pointer.signatures[:SIGNATURES]:
        public = known.get(signature.key_id)
        if public is None:
            unknown.add(signature.key_id)
            continue
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(signature.signature), message)
            good.add(signature.key_id)
        except (InvalidSignature, ValueError):
            wrong.add(signature.key_id)
    reasons = [f"the signature of {_short(wrong - good)} does not fit"] if wrong - good else []
    reasons += [f"no such key is trusted: {_short(unknown)}"] if unknown else []
    if len(good) < threshold:
        reasons = [f"{len(good)} of {threshold} needed signatures are good", *reasons]
        raise SignatureFailure(
            f"{_title(pointer.body)}: {'; '.join(reasons)}", hint="do not use this pointer"
        )
    if wrong - good:
        say("warning", f"{_title(pointer.body)}: {reasons[0]}; {len(good)} others do")


def check_order(body: PointerBody, seen: LastSeen) -> None:
    """Raise SignatureFailure when `body` goes back behind what was seen, or contradicts it."""
    hint = "take it from another place; the one you were given is old or forged"
    if body.version < seen.version:
        raise SignatureFailure(
            f"{_title(body)}: version {seen.version:,} was seen before (rollback)", hint=hint
        )
    if body.version == seen.version and body.manifest_id != seen.manifest_id:
        raise SignatureFailure(
            f"{_title(body)}: names the manifest {body.manifest_id[:12]}…, but the same version was seen with "
            f"{seen.manifest_id[:12]}… (two answers under one number)",
            hint="ask the publisher which one holds; the key may be in other hands",
        )
    if body.version == seen.version + 1 and body.previous != seen.manifest_id:
        raise SignatureFailure(
            f"{_title(body)}: follows the manifest {(body.previous or 'none')[:12]}…, but version {seen.version:,} was seen with "
            f"{seen.manifest_id[:12]}…",
            hint="ask the publisher which one holds; the key may be in other hands",
        )


def check_release(body: PointerBody, release: OpenRelease) -> None:
    """Raise IntegrityError unless the release is the one that the pointer names (two releases mixed)."""
    if release.release.manifest_id != body.manifest_id or release.manifest.id != body.manifest_id:
        raise IntegrityError(
            f"{release.meta}: holds the manifest {release.release.manifest_id[:12]}…, but {_title(body)} names "
            f"{body.manifest_id[:12]}…",
            hint="two releases were mixed: take both from one place",
        )


def _title(body: PointerBody) -> str:
    return f"pointer of {body.dataset!r}, version {body.version:,}"


def _short(ids: set[str]) -> str:
    return ", ".join(f"{one[:12]}…" for one in sorted(ids))


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time(text: str, field: str) -> datetime:
    try:
        if not _TIME.fullmatch(text):
            raise ValueError
        return datetime.fromisoformat(text)
    except ValueError:
        raise SignatureFailure(
            f"{field} of the pointer is no time of the form 2026-01-31T12:00:00Z"
        ) from None
