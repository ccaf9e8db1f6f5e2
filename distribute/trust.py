"""What was seen before: the newest pointer accepted of each dataset and set of keys, so that an older one is refused.

    $XDG_STATE_HOME/headwater/pointers/<SHA-256 of the dataset's name>.json

The file is replaced atomically under a lock; a version in it never goes down. A file that cannot be read refuses, it does not
forget: whoever can damage it would otherwise turn the protection off.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from distribute.pointer import LastSeen, check_order, key_id, verify_pointer
from headwater.console import say
from headwater.errors import HeadwaterError, IntegrityError
from headwater.files import named_io, remove_stale_temporaries, write_json
from headwater.manifest import Hex64, Record
from headwater.release import Pointer, PointerBody, read_document

FOLDER_MODE = 0o700


class Seen(Record):
    """One line of the state."""

    version: Annotated[int, Field(ge=1, lt=1 << 53)]
    manifest_id: Hex64


class SeenPointers(Record):
    """`last-seen/1`: by the set of keys (SHA-256 over their sorted ids, one a line)."""

    format: Literal["last-seen/1"] = "last-seen/1"
    dataset: str
    seen: dict[Hex64, Seen] = Field(default_factory=dict)


def state_folder() -> Path:
    """Where the state lies: the XDG base directory specification's state home; a relative one is ignored, as it says."""
    home = os.environ.get("XDG_STATE_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path.home() / ".local" / "state"
    return base / "headwater" / "pointers"


def state_file(dataset: str) -> Path:
    """The file of one dataset; its name never follows from what a stranger wrote."""
    return state_folder() / f"{hashlib.sha256(dataset.encode('utf-8', 'surrogatepass')).hexdigest()}.json"


def last_seen(dataset: str, keys: Sequence[bytes]) -> LastSeen | None:
    """What was accepted last of this dataset under exactly these keys. Raises IntegrityError when the state is damaged."""
    found = _load(state_file(dataset), dataset).seen.get(_keys(keys))
    return LastSeen(found.version, found.manifest_id) if found else None


def remember(body: PointerBody, keys: Sequence[bytes]) -> None:
    """Note that `body` was accepted. Raises SignatureFailure when another process has accepted a newer or another one meanwhile.

    Where the state cannot be written this is a warning: the pointer is good, only the next check is weaker.
    """
    path = state_file(body.dataset)
    try:
        with _locked(path):
            state = _load(path, body.dataset)
            name = _keys(keys)
            if (before := state.seen.get(name)) is not None:
                check_order(body, LastSeen(before.version, before.manifest_id))
            now = Seen(version=body.version, manifest_id=body.manifest_id)
            if before != now:
                write_json(
                    path,
                    SeenPointers(dataset=body.dataset, seen={**state.seen, name: now}).model_dump(
                        mode="json"
                    ),
                )
    except HeadwaterError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        say("warning", f"{error}: an older pointer will not be noticed next time")


def accept(
    pointer: Pointer,
    keys: Sequence[bytes],
    *,
    threshold: int = 1,
    now: datetime | None = None,
    dataset: str | None = None,
    allow_expired: bool = False,
) -> PointerBody:
    """Verify a pointer against what was seen before, and remember it. Raises as `verify_pointer` does."""
    seen = last_seen(pointer.body.dataset, keys)
    body = verify_pointer(
        pointer,
        keys,
        threshold=threshold,
        now=now,
        dataset=dataset,
        last_seen=seen,
        allow_expired=allow_expired,
    )
    remember(body, keys)
    return body


def _keys(keys: Sequence[bytes]) -> str:
    return hashlib.sha256("\n".join(sorted({key_id(key) for key in keys})).encode()).hexdigest()


def _load(path: Path, dataset: str) -> SeenPointers:
    with named_io(path):
        if not path.exists():
            return SeenPointers(dataset=dataset)
    try:
        state = read_document(path, SeenPointers)
    except IntegrityError as error:
        raise IntegrityError(
            f"{path}: damaged, so an older pointer could not be told", hint=_FORGET
        ) from error
    if state.dataset != dataset:
        raise IntegrityError(f"{path}: belongs to another dataset", hint=_FORGET)
    return state


_FORGET = "remove this file to forget what was seen, and ask the publisher for the newest version's number"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with named_io(path):
        path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        fd = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with named_io(path):
            fcntl.flock(fd, fcntl.LOCK_EX)  # held for milliseconds, so waiting is right
            remove_stale_temporaries(path.parent, path.name)
        yield
    finally:
        os.close(fd)
