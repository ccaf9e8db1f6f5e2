"""What every source of `pool import` turns into: rows of a pool, with their uid, in files of one fixed form.

Columns: those of DataComp first and in its order, then whatever else the source has. Files: zstd level 1, row groups of
131,072 rows, page checksums, data pages of version 1, no dictionary where values do not repeat. Bytes depend on the rows alone.
Columns named `__headwater_…` exist only in unfinished parts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.errors import IntegrityError, UsageError, nearest
from headwater.files import write_json

ROW_GROUP_ROWS = 131_072
ROW_GROUP_BYTES = 512 << 20
PART_ROWS = 20_000
MAX_COLUMNS = 1_000
MAX_EXAMPLES = 20
FACES = pa.list_(pa.list_(pa.float64()))
CANONICAL: dict[str, pa.DataType] = {
    "uid": pa.string(),
    "url": pa.string(),
    "text": pa.string(),
    "original_width": pa.int64(),
    "original_height": pa.int64(),
    "clip_b32_similarity_score": pa.float32(),
    "clip_l14_similarity_score": pa.float32(),
    "face_bboxes": FACES,
    "sha256": pa.string(),
}
ALIASES: dict[str, tuple[str, ...]] = {
    "file": ("file", "file_name", "filename", "path", "image", "image_path"),
    "text": ("text", "caption", "title"),
    "url": ("url", "image_url"),
    "original_width": ("original_width", "width"),
    "original_height": ("original_height", "height"),
}
PLAIN_COLUMNS = ("uid", "url", "text", "sha256")  # values do not repeat: a dictionary only costs
COMPUTED, ROW = "__headwater_computed", "__headwater_row"
UID_POLICIES = ("auto", "source", "make")
ON_BAD = ("refuse", "drop")

_UID = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Policy:
    """How rows become rows of the pool; part of the step's config."""

    uid: str = "auto"
    on_bad: str = "refuse"

    def __post_init__(self) -> None:
        if self.uid not in UID_POLICIES:
            raise UsageError(f"--uid {self.uid!r}: {nearest(self.uid, UID_POLICIES)}")
        if self.on_bad not in ON_BAD:
            raise UsageError(f"--on-bad {self.on_bad!r}: {nearest(self.on_bad, ON_BAD)}")


@dataclass
class Part:
    """What one unit of the source became: files of rows, and the rows that were left out."""

    name: str
    read: int = 0
    kept: int = 0
    invalid: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    facts: dict[str, int] = field(default_factory=dict)
    final: bool = False  # the file already is what the pool gets

    def bad(self, reason: str, where: str) -> None:
        """Count one row as invalid."""
        self.invalid[reason] = self.invalid.get(reason, 0) + 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(f"{where}: {reason}")

    def save(self, path: Path) -> None:
        write_json(path, self.__dict__, durable=False)

    @classmethod
    def load(cls, path: Path) -> Part | None:
        """A finished part of an earlier run with the same key, if all its files are there."""
        try:
            part = cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        return part if all(Path(file).is_file() for file in part.files) else None


def uid_of(first: str, text: str) -> str:
    """The uid of a row that has none: 32 hex digits of SHA-256 over (url or image sha256), a zero byte, the caption."""
    return hashlib.sha256(first.encode() + b"\0" + text.encode()).hexdigest()[:32]


def is_uid(value: object) -> bool:
    return isinstance(value, str) and _UID.fullmatch(value) is not None


def is_sha256(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def settle_uid(row: dict[str, Any], policy: Policy, part: Part, where: str) -> bool:
    """Give `row` its uid; False when the row is left out. Raises IntegrityError for a malformed one under `refuse`."""
    given = row.get("uid") if policy.uid != "make" else None
    row[COMPUTED] = given is None
    if given is None:
        if policy.uid == "source":
            return _bad_uid("no_uid", f"{where}: no uid", policy, part, where)
        row["uid"] = uid_of(row.get("url") or row["sha256"], row["text"])
        return True
    if is_uid(given):
        return True
    return _bad_uid(
        "malformed_uid",
        f"{where}: uid {str(given)[:80]!r} is not 32 lower-case hex digits",
        policy,
        part,
        where,
    )


def _bad_uid(reason: str, message: str, policy: Policy, part: Part, where: str) -> bool:
    if policy.on_bad == "refuse":
        raise IntegrityError(
            message, hint="--on-bad drop leaves such rows out; --uid make gives every row a new one"
        )
    part.bad(reason, where)
    return False


def pick_columns(columns: Sequence[str], mapping: Mapping[str, str], wanted: Iterable[str]) -> dict[str, str]:
    """Which source column each of `wanted` comes from: as mapped, else of the same name, else the only alias there is.

    Raises UsageError for a mapping that names nothing, and where several columns could be meant.
    """
    wanted = list(wanted)
    for target, source in mapping.items():
        if target not in wanted:
            raise UsageError(f"--map {target}={source}: unknown column {target!r}: {nearest(target, wanted)}")
        if source not in columns:
            raise UsageError(
                f"--map {target}={source}: the source has no column {source!r}: {nearest(source, columns)}"
            )
    picked = dict(mapping)
    for target in wanted:
        if target in picked:
            continue
        if target in columns:
            picked[target] = target
            continue
        found = [name for name in ALIASES.get(target, ()) if name in columns and name not in mapping.values()]
        if len(found) > 1:
            names = ", ".join(found)
            raise UsageError(
                f"{target}: several columns could be it: {names}",
                hint=f"--map {target}={found[0]} chooses one",
            )
        if found:
            picked[target] = found[0]
    return picked


def table_of(rows: Sequence[Mapping[str, Any]], extras: Mapping[str, pa.DataType] | None = None) -> pa.Table:
    """A table of `rows`; types of the columns that DataComp does not name come from `extras`, else from the values."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if len(names) > MAX_COLUMNS:
        raise IntegrityError(
            f"{len(names):,} columns in one part of the source, at most {MAX_COLUMNS:,} are taken"
        )
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        type_ = CANONICAL.get(name) or (extras or {}).get(name)
        columns[name] = pa.array(values, type_) if type_ is not None else _guess(values)
    return pa.table(columns)


def _guess(values: list[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool}:
        return pa.array(values, pa.bool_() if kinds else pa.null())
    if kinds == {int} and all(value is None or -(1 << 63) <= value < 1 << 63 for value in values):
        return pa.array(values, pa.int64())
    if (
        kinds <= {int, float}
        and all(value is None or abs(value) < 1e300 for value in values)
        and float in kinds
    ):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pa.array(texts, pa.string())


def merge_types(name: str, a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """The type that holds a column of two parts: null fits all, numbers widen, anything else becomes text."""
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if pa.types.is_integer(a) and pa.types.is_integer(b):
        return pa.int64() if pa.uint64() not in (a, b) else pa.string()
    if all(pa.types.is_integer(t) or pa.types.is_floating(t) for t in (a, b)):
        return pa.float64()
    if pa.types.is_nested(a) or pa.types.is_nested(b):
        raise IntegrityError(
            f"column {name!r} is {a} in one part of the source and {b} in another", hint="convert one of them"
        )
    return pa.string()


def pool_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """The schema of the pool: DataComp's columns first, then the others in the order they were met."""
    types: dict[str, pa.DataType] = {}
    for schema in schemas:
        for entry in schema:
            if not entry.name.startswith("__headwater_"):
                types[entry.name] = merge_types(entry.name, types.get(entry.name, pa.null()), entry.type)
    order = [name for name in CANONICAL if name in types] + [name for name in types if name not in CANONICAL]
    plain = {name: pa.string() if pa.types.is_null(types[name]) else types[name] for name in order}
    return pa.schema([pa.field(name, plain[name]) for name in order])


def fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with exactly the columns and types of `schema`; what it lacks is null."""
    columns = []
    for entry in schema:
        if entry.name not in table.column_names:
            columns.append(pa.chunked_array([pa.nulls(len(table), entry.type)]))
        else:
            column = table[entry.name]
            columns.append(column if column.type == entry.type else column.cast(entry.type))
    return pa.Table.from_arrays(columns, schema=schema)


class PoolWriter:
    """Writes one shard in the pool's form; the file is closed when the block ends."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        schema = schema.remove_metadata()
        dictionary = [
            f.name for f in schema if not pa.types.is_nested(f.type) and f.name not in PLAIN_COLUMNS
        ]
        self._schema = schema
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=dictionary or False,
            write_page_checksum=True,
            data_page_version="1.0",
            version="2.6",
        )
        self._held: list[pa.Table] = []
        self._rows = 0
        self._bytes = 0

    def write(self, table: pa.Table) -> None:
        """Add rows; a row group is written when it is full."""
        while len(table):
            piece = table.slice(0, ROW_GROUP_ROWS - self._rows)
            self._held.append(piece)
            self._rows += len(piece)
            self._bytes += piece.nbytes
            if self._rows == ROW_GROUP_ROWS or self._bytes >= ROW_GROUP_BYTES:
                self._flush()
            table = table.slice(len(piece))

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.concat_tables(self._held), row_group_size=self._rows)
        self._held, self._rows, self._bytes = [], 0, 0

    def close(self) -> None:
        """Write what is held, and the footer."""
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """Let go of a file that will not be used."""
        with contextlib.suppress(OSError, pa.ArrowException):  # the first error is the one to tell
            self._writer.close()

    def __enter__(self) -> PoolWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()
