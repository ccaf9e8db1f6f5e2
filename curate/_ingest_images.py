"""`pool import` from a folder of pictures and a file with their captions (CSV, TSV, JSON lines or Parquet).

Without a captions file, `NAME.txt` beside `NAME.jpg` is its caption. Sizes come from the header, sha256 from the bytes; the EXIF
orientation is noted in a column and not applied. A file name in the captions that leaves the folder (`..`, an absolute path, a
symbolic link to the outside) is never opened.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import posixpath
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate._image_header import SUFFIXES, read_header
from curate._ingest_rows import COMPUTED, ROW, Part, Policy, is_sha256, pick_columns, settle_uid, table_of
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.files import named_io

CHUNK_ROWS = 5_000
MAX_TEXT_BYTES = 64 << 20
READ_BYTES = 1 << 20
CAPTION_SUFFIXES = ("csv", "tsv", "jsonl", "parquet")
COLUMNS = ("file", "text", "url", "uid", "sha256")


@dataclass(frozen=True)
class ImageUnit:
    """A run of captions, kept as a Parquet file in the step's own folder."""

    root: Path
    rows: Path
    first: int  # number of the first row in the captions file
    parts: Path
    number: int
    policy: Policy


def is_picture(name: str) -> bool:
    return not name.startswith(".") and name.rpartition(".")[2].lower() in SUFFIXES


def pictures(root: Path) -> Iterator[str]:
    """Paths of all pictures below `root`, relative and sorted folder by folder.

    Passed over: hidden names, what is no regular file, and links that lead out of the folder.
    """
    top = os.path.realpath(root).rstrip("/") + "/"
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for file in sorted(files):
            path = os.path.join(folder, file)
            if not is_picture(file) or not os.path.isfile(path):
                continue
            if not os.path.islink(path) or os.path.realpath(path).startswith(top):
                yield posixpath.normpath((Path(folder).relative_to(root) / file).as_posix())


def find_captions(root: Path) -> Path | None:
    """The one captions file in `root`; None when there is none. Several are a UsageError."""
    found = [p for p in sorted(root.iterdir()) if p.is_file() and p.suffix[1:].lower() in CAPTION_SUFFIXES]
    found = [p for p in found if not p.name.startswith(".")]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UsageError(
            f"{root}: several files could hold the captions: {names}",
            hint=f"--captions {found[0]} chooses one",
        )
    return found[0] if found else None


def write_chunks(
    root: Path, captions: Path | None, mapping: Mapping[str, str], *, parts: Path, policy: Policy, part: Part
) -> list[ImageUnit]:
    """Split the captions into files of CHUNK_ROWS rows; `part` gets the pictures that no caption names."""
    units: list[ImageUnit] = []
    held: list[dict[str, Any]] = []
    named: set[bytes] = set()

    def flush() -> None:
        path = parts / f"rows-{len(units):06d}.parquet"
        pq.write_table(table_of(held, types), path, compression="zstd", compression_level=1)
        units.append(ImageUnit(root, path, len(units) * CHUNK_ROWS, parts, len(units), policy))
        held.clear()

    types: dict[str, pa.DataType] = {"file": pa.string(), "__headwater_problem": pa.string()}
    for row in _caption_rows(root, captions, mapping, types):
        file = row.get("file")
        if isinstance(file, str):
            named.add(_short(posixpath.normpath(file)))
        held.append(row)
        if len(held) == CHUNK_ROWS:
            flush()
    if held:
        flush()
    if captions is not None:
        for file in pictures(root):
            if _short(file) not in named:
                part.read += 1
                part.bad("no_caption", file)
    return units


def _short(file: str) -> bytes:
    return hashlib.blake2b(file.encode("utf-8", "surrogateescape"), digest_size=12).digest()


def _caption_rows(
    root: Path, captions: Path | None, mapping: Mapping[str, str], types: dict[str, pa.DataType]
) -> Iterator[dict[str, Any]]:
    if captions is None:
        yield from _texts_beside(root)
        return
    if not captions.is_file():
        raise MissingInput(f"{captions}: no such captions file")
    rows = _read_parquet(captions, types) if captions.suffix.lower() == ".parquet" else _read_text(captions)
    picked: dict[str, str] | None = None
    for row in rows:
        if picked is None:
            picked = pick_columns(list(row), mapping, COLUMNS)
            for target in ("file", "text"):
                if target not in picked:
                    hint = f"--map {target}=COLUMN chooses one of: {', '.join(row)}"
                    raise UsageError(f"{captions.name}: no column for {target!r}", hint=hint)
        found: dict[str, Any] = {target: row.get(source) for target, source in picked.items()}
        found = {
            name: value if value is None or isinstance(value, str) else str(value)
            for name, value in found.items()
        }
        taken = set(picked.values())
        for name, value in row.items():
            if (
                name not in taken
                and name not in found
                and not name.startswith("__headwater_")
                and name.isprintable()
                and name
            ):
                found[name if name not in ("original_width", "original_height") else f"stated_{name}"] = value
        yield found


def _texts_beside(root: Path) -> Iterator[dict[str, Any]]:
    for file in pictures(root):
        path = (root / file).with_suffix(".txt")
        row: dict[str, Any] = {"file": file, "text": None}
        if path.is_file() and path.stat().st_size <= MAX_TEXT_BYTES:
            try:
                row["text"] = path.read_bytes().decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                row["__headwater_problem"] = "bad_utf8"
        yield row


def _read_text(path: Path) -> Iterator[dict[str, Any]]:
    with named_io(path), open(path, encoding="utf-8-sig", newline="") as handle:
        try:
            if path.suffix.lower() == ".jsonl":
                yield from _read_json_lines(path, handle)
                return
            old = csv.field_size_limit(MAX_TEXT_BYTES)
            try:
                reader = csv.DictReader(
                    handle, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True
                )
                names = reader.fieldnames or []
                if len(set(names)) != len(names):
                    raise UsageError(
                        f"{path.name}: two columns have one name", hint="rename one of them in its first line"
                    )
                for row in reader:
                    if None in row or None in row.values():
                        raise IntegrityError(
                            f"{path.name}: line {reader.line_num}: not {len(names)} fields as in the first line",
                            hint="quote fields that hold the separator or a line break",
                        )
                    yield {name: value if value != "" else None for name, value in row.items()}
            finally:
                csv.field_size_limit(old)
        except UnicodeDecodeError as error:
            raise IntegrityError(
                f"{path.name}: not UTF-8 ({error.reason} at byte {error.start})", hint="convert it"
            ) from error
        except csv.Error as error:
            raise IntegrityError(f"{path.name}: line {reader.line_num}: {error}") from error


def _read_json_lines(path: Path, handle: Any) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(handle, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"{path.name}: line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise IntegrityError(f"{path.name}: line {number}: not a JSON object")
        clean: dict[str, Any] = {}
        for name, value in row.items():
            if isinstance(value, str):
                clean[name] = value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
            elif value is None or isinstance(value, (bool, int, float)):
                clean[name] = value
        yield clean


def _read_parquet(path: Path, types: dict[str, pa.DataType]) -> Iterator[dict[str, Any]]:
    try:
        file = pq.ParquetFile(path)
        types.update({f.name: f.type for f in file.schema_arrow if f.name not in types})
        for batch in file.iter_batches(CHUNK_ROWS):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(
            f"{path.name}: not readable Parquet: {str(error).splitlines()[0][:200]}"
        ) from error


def import_images(unit: ImageUnit) -> Part:
    """Turn one run of captions into rows."""
    record = unit.parts / f"{unit.number:06d}.json"
    done = Part.load(record)
    if done is not None:
        return done
    part = Part(f"rows from {unit.first}")
    source = pq.ParquetFile(unit.rows)
    types = {f.name: f.type for f in source.schema_arrow} | {COMPUTED: pa.bool_(), ROW: pa.int64()}
    types["exif_orientation"] = pa.int64()
    root = os.path.realpath(unit.root)
    rows = []
    for number, row in enumerate(source.read().to_pylist(), unit.first):
        part.read += 1
        where = f"captions row {number} ({row.get('file')})"
        reason = row.pop("__headwater_problem", None) or _look(row, root, part)
        if reason is not None:
            part.bad(reason, where)
        elif settle_uid(row, unit.policy, part, where):
            row[ROW] = number
            rows.append(row)
    if rows:
        path = unit.parts / f"{unit.number:06d}-0000.parquet"
        pq.write_table(table_of(rows, types), path, compression="zstd", compression_level=1)
        part.kept, part.files = len(rows), [str(path)]
    part.save(record)
    return part


def _look(row: dict[str, Any], root: str, part: Part) -> str | None:
    """Fill in what the picture itself tells; the reason when the row cannot be used."""
    file = row.get("file")
    if not isinstance(file, str) or not file:
        return "no_file_name"
    if file.startswith(("/", "\\")) or "\0" in file or ".." in file.replace("\\", "/").split("/"):
        return "unsafe_name"
    path = os.path.join(root, file)
    real = os.path.realpath(path)
    if not real.startswith(root.rstrip("/") + "/"):
        return "unsafe_name"
    try:
        if not stat.S_ISREG(os.stat(real).st_mode):
            return "missing_image"
    except OSError:
        return "missing_image"
    if not row.get("text"):
        return "no_caption"
    with named_io(real), open(real, "rb") as handle:
        hasher = hashlib.sha256()
        while block := handle.read(READ_BYTES):
            hasher.update(block)
        handle.seek(0)
        header = read_header(handle)
    if header is None:
        return "unreadable_image"
    stated = row.get("sha256")
    if is_sha256(stated) and stated != hasher.hexdigest():
        return "sha256_mismatch"
    row["sha256"] = hasher.hexdigest()
    row["original_width"], row["original_height"] = header.width, header.height
    row["exif_orientation"] = header.orientation
    if header.orientation not in (None, 1):
        part.facts["rotated_by_exif"] = part.facts.get("rotated_by_exif", 0) + 1
    return None
