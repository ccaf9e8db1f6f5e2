"""Reading somebody's dataset into a store, as a Step: what cannot be read of a LabelMe folder is left out by name, all else is all or nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from curate.polygons._store_files import HEADER_NAME
from curate.polygons.recording import (
    MOST_LISTED,
    Made,
    bad_lines,
    sayable,
    sayable_text,
    store_step,
    with_bad,
)
from curate.polygons.store import Annotations, digest, open_annotations
from headwater.errors import BadInputs, IntegrityError
from headwater.hashing import digest_file
from headwater.manifest import Counts, InputRef, canonical
from headwater.options import Settings

STEP = "polygons-import"
BAD = "cannot be read"


def is_labelme_folder(path: Path) -> bool:
    """Whether `open_annotations` would read it as one."""
    return path.is_dir() and not (path / HEADER_NAME).is_file() and any(path.rglob("*.json"))


def open_all(path: Path) -> tuple[Annotations, list[list[str]]]:
    """As `open_annotations`, and [file, reason] of what of a LabelMe folder cannot be read."""
    if not is_labelme_folder(path):
        return open_annotations(path), []
    from curate.polygons.labelme import scan_labelme

    found = scan_labelme(path)
    return found.annotations, sayable(found.bad)


def run_import(settings: Settings, source: Path, output: Path) -> tuple[dict[str, Any], BadInputs | None]:
    """Write the store; the result to tell, and the error to end with when files of a LabelMe folder were left out.

    Raises what `open_annotations` raises, BadInputs when nothing of the folder can be read.
    """
    stored = source / HEADER_NAME
    if is_labelme_folder(source):
        return _labelme(settings, source, output)
    if not source.is_file() and not stored.is_file():
        open_annotations(source)  # tells what is wrong
    # its bytes name it, so that an import that is up to date parses nothing; the header of a store has the digests of its tables
    file = stored if source.is_dir() else source
    before = _state(file)
    name = digest_file(file, ["sha256"]).sha256

    def make() -> Made:
        found = open_annotations(source)
        if _state(file) != before:
            raise IntegrityError(
                f"{file}: changed while it was read", hint="stop what writes to it and run again"
            )
        count = len(found.images)
        return Made(found, Counts(unit="images", read=count, kept=count))

    return store_step(
        settings, STEP, {}, [InputRef(role="source", id=name)], output, make, sources=[source]
    ), None


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _labelme(settings: Settings, source: Path, output: Path) -> tuple[dict[str, Any], BadInputs | None]:
    from curate.polygons.labelme import scan_labelme

    scan = scan_labelme(source)
    found, count = scan.annotations, len(scan.annotations.images)
    bad, others = sayable(scan.bad), [sayable_text(name) for name in scan.others]
    if bad and not count:
        raise BadInputs(f"{source}: nothing of it can be read:\n" + "\n".join(bad_lines(bad)))
    own = digest(found)
    name = hashlib.sha256(canonical([own, bad, others])).hexdigest()
    notes = bad_lines(bad)
    if others:
        notes.append(f"{len(others):,} JSON files that are not LabelMe's were passed over")
    if scan.embedded:
        notes.append(
            f"{len(scan.embedded):,} files carry their picture inside, which was left out (headwater polygons strip copies them without)"
        )
    details = {"bad": bad[:MOST_LISTED], "others": others[:MOST_LISTED]}
    invalid = {BAD: len(bad)} if bad else {}
    made = Made(
        found,
        Counts(unit="images", read=count + len(bad), kept=count, invalid=invalid),
        [note.strip() for note in notes],
        details,
        digest=own,
    )
    inputs = [InputRef(role="source", id=name)]
    result = store_step(settings, STEP, {}, inputs, output, lambda: made, sources=[source])
    return with_bad(settings, result, output, bad, f"{len(bad):,} files are left out")
