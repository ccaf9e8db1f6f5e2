"""Where each packed file lies: `index.parquet` beside the tar shards, one row a file, sorted by path.

Columns: path and shard (text), offset_bytes and length_bytes (64 bits: the file's own bytes, not its tar header), sha256 (hex).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.errors import IntegrityError, MissingInput
from headwater.files import atomic_file, named_io
from headwater.manifest import safe_relative

if TYPE_CHECKING:
    import pyarrow as pa

INDEX_NAME = "index.parquet"
INDEX_LIMIT = 4 << 30  # bytes, also unpacked
ROWS_LIMIT = 20_000_000


@dataclass(frozen=True, slots=True)
class Member:
    """Where a packed file lies: `length_bytes` from `offset_bytes` of the shard."""

    path: str
    shard: str
    offset_bytes: int
    length_bytes: int
    sha256: str


def write_index(path: Path, members: list[Member]) -> None:
    """Write the index of `members`, sorted by path; atomic."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    members = sorted(members, key=lambda member: member.path.encode())
    table = pa.table(
        [pa.array([getattr(m, f.name) for m in members], f.type) for f in _schema()], schema=_schema()
    )
    with atomic_file(path) as handle:
        pq.write_table(table, handle, compression="zstd", row_group_size=1 << 16)


def _schema() -> pa.Schema:
    import pyarrow as pa

    numbers = ("offset_bytes", "length_bytes")
    names = ("path", "shard", "offset_bytes", "length_bytes", "sha256")
    return pa.schema(
        [pa.field(n, pa.int64() if n in numbers else pa.string(), nullable=False) for n in names]
    )


class PackIndex:
    """The packed files of one folder. Nothing of it is believed: paths must be safe, and bytes must have their SHA-256."""

    def __init__(self, folder: Path, members: dict[str, Member]) -> None:
        self.folder = folder
        self._members = members

    @classmethod
    def open(cls, folder: Path) -> PackIndex:
        """Read FOLDER/index.parquet. Raises MissingInput when there is none, IntegrityError when it is not such an index."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = folder / INDEX_NAME
        with named_io(path):
            size = path.stat().st_size
        wrong = IntegrityError(f"{path}: not an index of packed files", hint="take it from another place")
        if size > INDEX_LIMIT:
            raise wrong
        try:
            with pq.ParquetFile(path) as file:
                facts = file.metadata
                unpacked = sum(facts.row_group(n).total_byte_size for n in range(facts.num_row_groups))
                fits = facts.num_rows <= ROWS_LIMIT and unpacked <= INDEX_LIMIT
                if file.schema_arrow.remove_metadata() != _schema() or not fits:
                    raise wrong
                columns = [column.to_pylist() for column in file.read().columns]
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise wrong from error
        members = {row[0]: _member(Member(*row), path) for row in zip(*columns, strict=True)}
        if len(members) != len(columns[0]):
            raise IntegrityError(f"{path}: names a file twice", hint="take it from another place")
        return cls(folder, members)

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def locate(self, path: str) -> Member:
        """Where a packed file lies. Raises MissingInput when it is not among them."""
        try:
            return self._members[path]
        except KeyError:
            raise MissingInput(f"{path}: not among the {len(self):,} packed files of {self.folder}") from None

    def extract(self, path: str) -> bytes:
        """The bytes of one packed file, read from its place in the shard and checked. Raises IntegrityError."""
        member = self.locate(path)
        shard = self.folder / member.shard
        with named_io(shard), open(shard, "rb") as handle:
            if os.fstat(handle.fileno()).st_size < member.offset_bytes + member.length_bytes:
                raise IntegrityError(f"{shard}: shorter than its index says")
            handle.seek(member.offset_bytes)
            data = handle.read(member.length_bytes)
        if hashlib.sha256(data).hexdigest() != member.sha256:
            raise IntegrityError(f"{path}: its bytes in {member.shard} are not those of the index")
        return data


def _member(member: Member, where: Path) -> Member:
    path, shard = safe_relative(member.path), safe_relative(member.shard)
    numbers = 0 <= member.offset_bytes < 1 << 62 and 0 <= member.length_bytes < 1 << 62
    if "/" in shard or not numbers or len(member.sha256) != 64:
        raise IntegrityError(
            f"{where}: the row of {path!r} makes no sense", hint="take it from another place"
        )
    return member
