"""Signing which release is the latest one: the version after the pointer before, or one more signature on the same pointer."""

from __future__ import annotations

from pathlib import Path

from distribute.pointer import (
    add_signature,
    load_private,
    next_body,
    parse_pointer,
    public_key,
    sign,
    verify_pointer,
)
from headwater.errors import MissingInput, SignatureFailure, UsageError
from headwater.release import LATEST_NAME, OpenRelease, Pointer, read_limited, write_canonical


def sign_release(
    opened: OpenRelease,
    key: Path,
    *,
    dataset: str | None = None,
    days: float = 90,
    after: Path | None = None,
    keep: bool = False,
    dry_run: bool = False,
) -> Pointer:
    """Write latest.json of a release: version 1, or the one after the newer of its own and that of `after` (a release or a pointer).

    `keep`: one that says the same already, by this key and not past its date, stays as it is. Raises MissingInput,
    SignatureFailure (no private key), UsageError (a pointer of another dataset).
    """
    private = load_private(key)
    own = opened.file(LATEST_NAME)
    mine = _pointer(own) if own.is_file() else None
    known = [pointer for pointer in (mine, _pointer(after) if after else None) if pointer]
    # never from the older one: a version that was given out already would be told as a rollback
    previous = max(known, key=lambda pointer: pointer.body.version, default=None)
    name = dataset or (previous.body.dataset if previous else opened.release.name)
    if keep and mine and previous is mine and _stands(mine, opened, name, public_key(private)):
        return mine
    body = next_body(previous.body if previous else None, name, opened.release.manifest_id, days=days)
    pointer = sign(body, private)
    if not dry_run:
        write_canonical(own, pointer)
    return pointer


def add_to_release(opened: OpenRelease, key: Path, *, dry_run: bool = False) -> Pointer:
    """Add a signature to the pointer that is there, for those who want several. Raises MissingInput when there is none."""
    own = opened.file(LATEST_NAME)
    pointer = _pointer(own)
    if pointer.body.manifest_id != opened.release.manifest_id:
        raise UsageError(f"{own}: points to another release", hint="sign this one first, without --add")
    pointer = add_signature(pointer, load_private(key))
    if not dry_run:
        write_canonical(own, pointer)
    return pointer


def _stands(pointer: Pointer, opened: OpenRelease, dataset: str, key: bytes) -> bool:
    """Whether a pointer says already what would be signed."""
    try:
        body = verify_pointer(pointer, [key], dataset=dataset)
    except SignatureFailure:
        return False
    return body.manifest_id == opened.release.manifest_id


def _pointer(path: Path) -> Pointer:
    file = path / LATEST_NAME if path.is_dir() else path
    if not file.is_file():
        raise MissingInput(f"{file}: no signed pointer here", hint="headwater sign RELEASE --key KEY")
    return parse_pointer(read_limited(file), str(file))
