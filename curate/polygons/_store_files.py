"""A store on disk: one Parquet file a table, and `annotations.json`, which is written last and names the digests of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.polygons._json_strict import dump, loads
from curate.polygons._schema import FORMAT
from curate.polygons._spill import Doubles
from curate.polygons.store import TABLES, Annotations
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.files import FOLDER_MODE, atomic_file, named_io
from headwater.hashing import digest_file

HEADER_NAME = "annotations.json"
HEADER_BYTES = 512 << 20
GROUP_ROWS = 1 << 20
BATCH_ROWS = 1 << 17


def write_store_files(annotations: Annotations, folder: Path) -> None:
    """See `store.write_store`."""
    with named_io(folder):
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder}: is not empty", hint="name a new folder")
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    tables = {}
    for name in TABLES:
        path = folder / f"{name}.parquet"
        _write_table(getattr(annotations, name), path)
        tables[name] = {
            "rows": len(getattr(annotations, name)),
            "sha256": digest_file(path, ["sha256"]).sha256,
        }
    document = {
        "format": FORMAT,
        "header": annotations.header,
        "missing": list(annotations.missing),
        "tables": tables,
    }
    with atomic_file(folder / HEADER_NAME) as out:
        # keys in the source's order; ASCII, so that every text can be written
        out.write(json.dumps(document, indent=1, allow_nan=False).encode() + b"\n")


def _write_table(table: pa.Table, path: Path) -> None:
    doubles = [field.name for field in table.schema if field.type == pa.float64()]
    dictionary = [
        field.name for field in table.schema if pa.types.is_string(field.type) and field.name != "file_name"
    ]
    with atomic_file(path) as out:
        pq.write_table(
            table,
            out,
            compression="zstd",
            compression_level=3,
            row_group_size=GROUP_ROWS,
            use_dictionary=dictionary,
            use_byte_stream_split=doubles,
            write_page_checksum=True,
        )


def read_store(folder: Path) -> Annotations:
    """Read a store and compare its files with their digests.

    Raises MissingInput, IntegrityError (another digest, other rows or columns, a header that is none).
    """
    header = _header(folder / HEADER_NAME)
    tables = {}
    for name, schema in TABLES.items():
        path = folder / f"{name}.parquet"
        if not path.is_file():
            raise MissingInput(f"{path}: no such file", hint="the store is not complete: make it again")
        facts = header["tables"].get(name)
        if not isinstance(facts, dict) or digest_file(path, ["sha256"]).sha256 != facts.get("sha256"):
            raise IntegrityError(f"{path}: other bytes than {HEADER_NAME} says", hint="make the store again")
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                if file.schema_arrow != schema or file.metadata.num_rows != facts.get("rows"):
                    raise IntegrityError(f"{path}: other columns or rows than {FORMAT} has")
                tables[name] = _vertices(file, path) if name == "vertices" else file.read()
        except (pa.ArrowException, OSError) as error:
            raise IntegrityError(f"{path}: cannot be read ({error})") from error
    return Annotations(header["header"], missing=tuple(header["missing"]), **tables)


def _vertices(file: pq.ParquetFile, path: Path) -> pa.Table:
    """The coordinates, some rows at a time: they may be larger than all else together."""
    columns = [Doubles() for _ in file.schema_arrow.names]
    for batch in file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
        for column, array in zip(columns, batch.columns, strict=True):
            if array.null_count:
                raise IntegrityError(f"{path}: a coordinate is empty")
            column.add(array.to_numpy())
    return pa.Table.from_arrays([column.finish() for column in columns], schema=file.schema_arrow)


def _header(path: Path) -> dict[str, Any]:
    with named_io(path), open(path, "rb") as file:
        data = file.read(HEADER_BYTES + 1)
    try:
        found = loads(data) if len(data) <= HEADER_BYTES else None
    except ValueError as error:
        raise IntegrityError(f"{path}: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise IntegrityError(f"{path}: no header of a store ({FORMAT})")
    shapes = {"header": dict, "tables": dict, "missing": list}
    if any(not isinstance(found.get(name), kind) for name, kind in shapes.items()):
        raise IntegrityError(f"{path}: a header of a store lacks {', '.join(shapes)}")
    if not set(map(dump, found["missing"])) <= {'"images"', '"annotations"'}:
        raise IntegrityError(f'{path}: unknown entries under "missing"')
    return found
