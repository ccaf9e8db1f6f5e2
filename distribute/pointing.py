"""Signing which release is the latest one: the version after the pointer before, or one more signature on the same pointer."""

from __future__ import annotations

from pathlib import Path

from distribute.pointer import add_signature, load_private, next_body, parse_pointer, sign
from headwater.errors import MissingInput, UsageError
from headwater.release import LATEST_NAME, OpenRelease, Pointer, read_limited, write_canonical


def sign_release(
    opened: OpenRelease, key: Path, *, dataset: str | None = None, days: float = 90, after: Path | None = None
) -> Pointer:
    """Write latest.json of a release: version 1, or the one after that of `after` (a release or a pointer; default: its own).

    Raises MissingInput, SignatureFailure (no private key), UsageError (a pointer of another dataset).
    """
    private = load_private(key)
    previous = _pointer(after) if after else None
    own = opened.file(LATEST_NAME)
    if previous is None and own.is_file():
        previous = _pointer(own)
    name = dataset or (previous.body.dataset if previous else opened.release.name)
    body = next_body(previous.body if previous else None, name, opened.release.manifest_id, days=days)
    pointer = sign(body, private)
    write_canonical(own, pointer)
    return pointer


def add_to_release(opened: OpenRelease, key: Path) -> Pointer:
    """Add a signature to the pointer that is there, for those who want several. Raises MissingInput when there is none."""
    own = opened.file(LATEST_NAME)
    pointer = _pointer(own)
    if pointer.body.manifest_id != opened.release.manifest_id:
        raise UsageError(f"{own}: points to another release", hint="sign this one first, without --add")
    pointer = add_signature(pointer, load_private(key))
    write_canonical(own, pointer)
    return pointer


def _pointer(path: Path) -> Pointer:
    file = path / LATEST_NAME if path.is_dir() else path
    if not file.is_file():
        raise MissingInput(f"{file}: no signed pointer here", hint="headwater sign RELEASE --key KEY")
    return parse_pointer(read_limited(file), str(file))
