"""`pool import` from webdataset tars (the layout that img2dataset writes): one row for every sample.

A sample is a run of members with one key. Its caption is the `.txt` member, else `caption` or `text` of the json; sizes are
`original_width` and `original_height` of the json, else those in the header of the image; sha256 is the json's, else that of
the image bytes. Every scalar of the json becomes a column, and columns that only the Parquet beside the tar has are joined by
key. Members are read in place and never extracted.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate import tar
from curate._image_header import SUFFIXES, read_header
from curate._ingest_rows import (
    COMPUTED,
    PART_ROWS,
    ROW,
    Part,
    Policy,
    is_sha256,
    settle_uid,
    table_of,
)
from headwater.errors import IntegrityError
from headwater.files import named_io

MAX_IMAGE_BYTES = 256 << 20
MAX_TEXT_BYTES = 64 << 20
SIZES = ("original_width", "original_height")


@dataclass(frozen=True)
class TarUnit:
    """One tar of the source. `name` is its path inside the source."""

    path: Path
    name: str
    parts: Path
    number: int
    policy: Policy


@dataclass
class Sample:
    """The members of one key; `broken` says why it cannot be used."""

    key: bytes
    members: dict[str, tar.Member]
    broken: str | None = None


def import_tar(unit: TarUnit) -> Part:
    """Turn one tar into files of rows. Raises IntegrityError for a header that lies, and under `refuse` for a bad uid."""
    record = unit.parts / f"{unit.number:06d}.json"
    done = Part.load(record)
    if done is not None:
        return done
    part = Part(unit.name)
    beside = _Beside(unit.path.with_suffix(".parquet"))
    rows: list[dict[str, Any]] = []
    with named_io(unit.path), open(unit.path, "rb", buffering=0) as handle:
        size = os.fstat(handle.fileno()).st_size
        for number, sample in enumerate(_samples(part, handle.fileno(), size, unit.name)):
            part.read += 1
            where = f"{unit.name}: sample {sample.key.decode('utf-8', 'backslashreplace')}"
            row = _row(handle.fileno(), sample, part, where)
            if row is None or not settle_uid(row, unit.policy, part, where):
                continue
            row[ROW] = number
            rows.append(row)
            if len(rows) == PART_ROWS:
                _flush(rows, part, unit, beside)
    _flush(rows, part, unit, beside)
    part.save(record)
    return part


def _flush(rows: list[dict[str, Any]], part: Part, unit: TarUnit, beside: _Beside) -> None:
    if not rows:
        return
    path = unit.parts / f"{unit.number:06d}-{len(part.files):04d}.parquet"
    table = beside.add(table_of(rows, {COMPUTED: pa.bool_(), ROW: pa.int64()}))
    pq.write_table(table, path, compression="zstd", compression_level=1)
    part.kept += len(rows)
    part.files.append(str(path))
    rows.clear()


def _samples(part: Part, fd: int, size_bytes: int, name: str) -> Iterator[Sample]:
    """Runs of members with one key. In a file that was cut, the last one counts only if it looks like the one before."""
    current: Sample | None = None
    shape: set[str] | None = None

    def read(offset: int, length: int) -> bytes:
        return os.pread(fd, length, offset)

    for item in tar.members(read, size_bytes, name):
        if isinstance(item, tar.End):
            if not item.marked:
                part.facts["no_end_mark"] = 1
                if current is not None and shape is not None and not shape <= current.members.keys():
                    current.broken = "truncated"
            continue
        if isinstance(item, tar.Damage):
            if current is not None and shape is not None and shape <= current.members.keys():
                yield current
                current = None
            current = current or Sample(b"(cut off)", {})
            current.broken = "truncated"
            continue
        if item.kind != "file":
            continue
        split = tar.split_name(item.name)
        if isinstance(split, str):
            continue
        extension = tar.clean_extension(split[1])
        if current is None or split[0] != current.key:
            if current is not None:
                yield current
                shape = set(current.members)
            current = Sample(split[0], {})
        if extension is None:
            current.broken = "bad_name"
        elif extension in current.members:
            current.broken = "repeated_member"
        else:
            current.members[extension] = item
    if current is not None:
        yield current


def _row(fd: int, sample: Sample, part: Part, where: str) -> dict[str, Any] | None:
    """The row of one sample without its uid settled, or None after counting why there is none."""
    fields: dict[str, Any] = {}
    image = next((sample.members[s] for s in sample.members if s in SUFFIXES), None)
    reason = sample.broken
    if reason is None and image is None:
        reason = "no_image"
    if reason is None and "json" in sample.members:
        fields, reason = _json(fd, sample.members["json"])
    if reason is None:
        reason = _caption(fd, sample, fields)
    if reason is None and image is not None:
        reason = _facts(fd, image, fields)
    if reason is not None:
        part.bad(reason, where)
        return None
    fields.setdefault("key", sample.key.rpartition(b"/")[2].decode("utf-8", "replace"))
    return fields


def _json(fd: int, member: tar.Member) -> tuple[dict[str, Any], str | None]:
    if member.size_bytes > MAX_TEXT_BYTES:
        return {}, "bad_json"
    try:
        document = json.loads(_data(fd, member), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return {}, "bad_json"
    if not isinstance(document, dict):
        return {}, "bad_json"
    fields: dict[str, Any] = {}
    for name, value in document.items():
        if not name or len(name) > 200 or not name.isprintable() or name.startswith("__headwater_"):
            continue
        if isinstance(value, str):
            fields[name] = value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
            if name in ("text", "caption") and fields[name] != value:
                return {}, "bad_utf8"
        elif (
            value is None
            or isinstance(value, (bool, int, float))
            or (name == "face_bboxes" and _is_boxes(value))
        ):
            fields[name] = value
    for name in ("uid", "url", "sha256"):
        if fields.get(name) == "" or (name != "uid" and not isinstance(fields.get(name), str)):
            fields.pop(name, None)
    return fields, None


def _is_boxes(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(box, list) and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in box)
        for box in value
    )


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def _caption(fd: int, sample: Sample, fields: dict[str, Any]) -> str | None:
    given = [fields.pop(name, None) for name in ("caption", "text")]
    found = next((value for value in given if isinstance(value, str)), None)
    if "txt" in sample.members:
        member = sample.members["txt"]
        if member.size_bytes > MAX_TEXT_BYTES:
            return "caption_too_long"
        try:
            text = _data(fd, member).decode("utf-8")
        except UnicodeDecodeError:
            return "bad_utf8"
        if text and found is not None and found != text:
            fields["caption"] = (
                found  # two captions: the txt is the one trained on, the other is kept beside it
            )
        found = text or found
    if not found:
        return "no_caption"
    fields["text"] = found
    return None


def _facts(fd: int, image: tar.Member, fields: dict[str, Any]) -> str | None:
    """Sizes and sha256, from the json where it has them and from the image bytes otherwise."""
    sizes = [fields.pop(name, None) for name in SIZES]
    known = all(isinstance(s, int) and not isinstance(s, bool) and 0 < s < 1 << 31 for s in sizes)
    sha256 = fields.pop("sha256", None)
    sha256 = sha256.lower() if isinstance(sha256, str) else None
    if not known or not is_sha256(sha256):
        if image.size_bytes > MAX_IMAGE_BYTES:
            return "image_too_large"
        data = _data(fd, image)
        sha256 = sha256 if is_sha256(sha256) else hashlib.sha256(data).hexdigest()
        if not known:
            header = read_header(io.BytesIO(data))
            if header is None:
                return "unreadable_image"
            sizes = [header.width, header.height]
    fields["original_width"], fields["original_height"], fields["sha256"] = sizes[0], sizes[1], sha256
    return None


def _data(fd: int, member: tar.Member) -> bytes:
    pieces = []
    at, left = member.data_offset, member.size_bytes
    while left:
        piece = os.pread(fd, min(left, 8 << 20), at)
        if not piece:
            raise IntegrityError(
                f"the file ended while member {member.name!r} was read", hint="it is being written: try later"
            )
        pieces.append(piece)
        at, left = at + len(piece), left - len(piece)
    return b"".join(pieces)


class _Beside:
    """The Parquet beside a tar, which img2dataset writes with one row for every attempt; joined by `key`."""

    def __init__(self, path: Path) -> None:
        self._table: pa.Table | None = None
        if not path.is_file():
            return
        try:
            table = pq.ParquetFile(path).read()
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).splitlines()[0][:200]
            raise IntegrityError(
                f"{path.name}: not readable Parquet: {reason}", hint="remove it: the tar is enough"
            ) from error
        if "key" in table.column_names and len(set(table["key"].to_pylist())) == len(table):
            self._table = table
            self._at = {key: row for row, key in enumerate(table["key"].to_pylist())}

    def add(self, rows: pa.Table) -> pa.Table:
        """`rows` with the columns that only the Parquet has."""
        if self._table is None:
            return rows
        more = [
            name
            for name in self._table.column_names
            if name not in rows.column_names and name not in ("text", "caption")
        ]
        at = pa.array([self._at.get(key) for key in rows["key"].to_pylist()], pa.int64())
        for name in more:
            if not name.startswith("__headwater_"):
                rows = rows.append_column(name, self._table[name].combine_chunks().take(at))
        return rows
