"""Tables of others, read in batches: Parquet, CSV or TSV with or without a header, JSON lines; and what kind of file one is.

A file's kind is told by its first bytes, never by its name alone. Uids are read as text whatever they look like: 32 digits
without a letter would otherwise become a number.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from curate.pool import family
from headwater.errors import IntegrityError, MissingInput, UsageError, nearest
from headwater.files import named_io

Kind = Literal["npy", "parquet", "csv", "jsonl", "raw"]
LOOK_BYTES = 4096
BATCH_ROWS = 1 << 16
BLOCK_BYTES = 8 << 20
_UID = re.compile(r'"?[0-9a-fA-F]{32}"?')
SUFFIXES = (".parquet", ".csv", ".tsv", ".txt", ".jsonl", ".ndjson")


def kind_of(path: Path) -> Kind:
    """What the first bytes say. Raises MissingInput, and IntegrityError for an empty or a packed file."""
    if not path.is_file():
        what = "is a folder, and this needs a file" if path.is_dir() else "no such file"
        raise MissingInput(f"{path}: {what}")
    with named_io(path), open(path, "rb") as handle:
        head = handle.read(LOOK_BYTES)
    if not head:
        raise IntegrityError(f"{path}: is empty (0 bytes)", hint="fetch it again")
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PAR1"):
        return "parquet"
    if head[:2] == b"\x1f\x8b" or head[:4] in (b"\x28\xb5\x2f\xfd", b"PK\x03\x04"):
        raise IntegrityError(f"{path}: is a packed file", hint="unpack it first (gunzip, unzstd or unzip)")
    text = head.removeprefix(b"\xef\xbb\xbf")
    if any(byte < 32 and byte not in b"\t\r\n" for byte in text) or not _utf8(text):
        return "raw"
    return "jsonl" if text.lstrip()[:1] == b"{" else "csv"


def _utf8(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return (
            len(head) > LOOK_BYTES - 8 and error.start > len(head) - 4
        )  # a letter cut by the end of the look
    return True


def find_tables(paths: Iterable[Path]) -> list[Path]:
    """The tables that are named, and those of named folders by name. Raises MissingInput for a folder without any."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and not p.name.startswith("."))
            if not inside:
                raise MissingInput(
                    f"{path}: no tables in this folder", hint=f"it needs files named {', '.join(SUFFIXES)}"
                )
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise MissingInput(f"{path}: no such table")
    return found


class Table:
    """One table. `schema` is told without reading more than a block."""

    def __init__(self, path: Path, uid_column: str = "uid") -> None:
        self.path = path
        self.kind = kind_of(path)
        if self.kind in ("npy", "raw"):
            raise IntegrityError(f"{path}: is no table (neither Parquet nor CSV nor JSON lines)")
        self.delimiter, self.header = ",", True
        if self.kind == "csv":
            self._sniff()
        self.uid_column = uid_column if self.header else "uid"
        self.schema = self._schema()
        if self.uid_column not in self.schema.names:
            raise UsageError(
                f"{path}: has no column {uid_column!r}: {nearest(uid_column, self.schema.names)}",
                hint="--uid-column names the one that holds the uids",
            )

    def _sniff(self) -> None:
        with open(self.path, encoding="utf-8-sig", errors="replace", newline="") as handle:
            first = handle.readline(1 << 20).strip("\r\n")
        self.delimiter = next((d for d in ("\t", ",", ";") if d in first), ",")
        self.header = not any(_UID.fullmatch(word.strip()) for word in first.split(self.delimiter))

    def _schema(self) -> pa.Schema:
        with self._told():
            if self.kind == "parquet":
                return pq.read_schema(self.path)
            with self._stream(None) as reader:
                return reader.schema

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            with named_io(self.path):
                yield
        except (pa.ArrowException, ValueError, KeyError, OverflowError) as error:
            name = {"csv": "CSV", "jsonl": "JSON lines", "parquet": "Parquet"}[self.kind]
            reason = (str(error).splitlines() or [type(error).__name__])[0][:240]
            raise IntegrityError(
                f"{self.path}: cannot be read as {name}: {reason}", hint="repair it, or fetch it again"
            ) from error

    def _stream(self, columns: list[str] | None) -> Any:
        if self.kind == "jsonl":
            import pyarrow.json as pj

            return pj.open_json(
                self.path, read_options=pj.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)
            )
        import pyarrow.csv as pc

        names = [] if self.header else self._made_names()
        return pc.open_csv(
            self.path,
            read_options=pc.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, column_names=names),
            parse_options=pc.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            convert_options=pc.ConvertOptions(
                column_types={self.uid_column if self.header else "uid": pa.string()},
                include_columns=columns or [],
            ),
        )

    def _made_names(self) -> list[str]:
        with open(self.path, encoding="utf-8-sig", errors="replace", newline="") as handle:
            first = next(csv.reader(handle, delimiter=self.delimiter), [])
        at = next((i for i, word in enumerate(first) if _UID.fullmatch(word.strip())), 0)
        return ["uid" if i == at else f"column_{i + 1}" for i in range(len(first))]

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The rows with the uid column and these columns, in order, at most some 100,000 at a time."""
        wanted = [self.uid_column, *(name for name in columns if name != self.uid_column)]
        with self._told():
            if self.kind == "parquet":
                with pq.ParquetFile(self.path) as file:
                    yield from file.iter_batches(batch_size=BATCH_ROWS, columns=wanted, use_threads=False)
                return
            with self._stream(wanted) as reader:
                for batch in reader:
                    yield batch.select(wanted)

    def place(self, row: int) -> str:
        """What to call data row `row` (from 0) of this file: its line where it has lines."""
        if self.kind == "parquet":
            return f"row {row}"
        try:
            with open(self.path, encoding="utf-8-sig", errors="replace", newline="") as handle:
                lines = csv.reader(handle, delimiter=self.delimiter) if self.kind == "csv" else None
                at = -1 if self.kind == "csv" and self.header else 0
                for number, record in enumerate(lines if lines is not None else handle, 1):
                    if not record or not str(record).strip():
                        continue
                    if at == row:
                        return f"line {lines.line_num if lines is not None else number}"
                    at += 1
        except csv.Error:
            pass
        return f"row {row}"


def storable(kind: pa.DataType) -> str | None:
    """The Arrow type name under which a column of this type is kept as a score; None for one that cannot be."""
    if pa.types.is_dictionary(kind):
        return storable(kind.value_type)
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_float16(kind):
        return "float"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return str(kind)
    return "string" if family(kind) == "text" else None
