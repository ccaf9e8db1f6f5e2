"""A user's list of entries, as MetaCLIP balances by: one entry a line of a text file, or a JSON list of strings.

An entry is used exactly as it is written, blanks included; only the line's end (LF or CRLF) and a byte order mark at the top are no
part of it. An entry that occurs again is counted and used once. Order does not matter: entries are sorted by their bytes, and the
list's id is made of them alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from headwater.console import say
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.files import named_io

MAX_FILE_BYTES = 1 << 29  # MetaCLIP's own list of 500,000 has 10 MB
MAX_ENTRY_BYTES = 1 << 20
SHOWN = 5  # entries named in messages and records


@dataclass(frozen=True)
class Entries:
    """Distinct entries in byte order, as UTF-8."""

    values: tuple[bytes, ...]
    id: str  # SHA-256 over the entries
    repeated: int  # how many more were given than are distinct
    repeats: tuple[str, ...]  # some of those


def read_entries(path: Path) -> Entries:
    """The entries of a file; a name that ends in .json is read as JSON.

    One empty line at the end of a text file is left out. Raises MissingInput; UsageError for an empty list; IntegrityError, with the number of the line or item, for one that is empty,
    longer than 1 MiB, not UTF-8 or not a string.
    """
    if not path.is_file():
        raise MissingInput(f"{path}: no such file of entries")
    with named_io(path):
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise IntegrityError(f"{path}: {size:,} bytes; a list of entries has at most {MAX_FILE_BYTES:,}")
        data = path.read_bytes()
    unit = "item" if path.suffix == ".json" else "line"
    listed = _items(path, data) if unit == "item" else _lines(path, data)
    seen: set[bytes] = set()
    again: list[bytes] = []
    for number, entry in enumerate(listed, 1):
        if not entry.strip():
            raise IntegrityError(f"{path}: {unit} {number:,} is empty", hint="remove it, and run again")
        if len(entry) > MAX_ENTRY_BYTES:
            raise IntegrityError(
                f"{path}: {unit} {number:,} has {len(entry):,} bytes; an entry has at most {MAX_ENTRY_BYTES:,}"
            )
        if unit == "line":
            _check_utf8(path, number, entry)
        if entry in seen:
            again.append(entry)
        seen.add(entry)
    if not seen:
        raise UsageError(f"{path}: holds no entries", hint="one entry a line, or a JSON list of strings")
    values = tuple(sorted(seen))
    digest = hashlib.sha256()
    for entry in values:
        digest.update(b"%d:%b" % (len(entry), entry))
    shown = tuple(e.decode()[:80] for e in dict.fromkeys(again[: 100 * SHOWN]))[:SHOWN]
    return Entries(values, digest.hexdigest(), len(again), shown)


def _lines(path: Path, data: bytes) -> list[bytes]:
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not lines[-1]:
        lines.pop()  # what is behind the last line's end is no line
    lines = [line.removesuffix(b"\r") for line in lines]
    if len(lines) > 1 and not lines[-1]:
        lines.pop()  # one is what editors leave; more, or one between entries, may stand for a lost entry
        say("info", f"{path}: the empty line at its end is left out")
    return lines


def _check_utf8(path: Path, number: int, entry: bytes) -> None:
    try:
        entry.decode()
    except UnicodeDecodeError as error:
        raise IntegrityError(
            f"{path}: line {number:,} is not UTF-8 (byte {error.start + 1} of it)",
            hint=f"iconv -f latin1 -t utf8 {path.name} converts a file of that kind",
        ) from error


def _items(path: Path, data: bytes) -> list[bytes]:
    try:
        values = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(values, list):
        raise IntegrityError(f"{path}: holds {type(values).__name__}, not a list of strings")
    out = []
    for number, value in enumerate(values, 1):
        if not isinstance(value, str):
            raise IntegrityError(f"{path}: item {number:,} is {value!r:.40}, not a string")
        try:
            out.append(value.encode())
        except UnicodeEncodeError as error:
            raise IntegrityError(f"{path}: item {number:,} holds half a surrogate pair") from error
    return out
