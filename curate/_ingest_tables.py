"""`pool import` from Parquet: columns are renamed to those of DataComp, rows are checked, bytes are written in the pool's form.

One file becomes one shard of the same name (a DataComp pool passes through this way, with its npz of features), unless it has
more rows than a shard may have and no features; then it becomes NAME-0000, NAME-0001 and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate._ingest_rows import (
    CANONICAL,
    COMPUTED,
    ROW,
    Part,
    Policy,
    PoolWriter,
    is_sha256,
    pick_columns,
    settle_uid,
)
from curate._npz import npz_arrays
from curate._pages import words_of
from curate._text import invalid_utf8_rows
from curate._validate_shard import implausible
from curate.pool import _open_shard
from headwater.errors import IntegrityError, UsageError

BATCH_ROWS = 65_536


@dataclass(frozen=True)
class TableUnit:
    """One Parquet file of the source. `schema` is that of the pool, `picked` says where each column comes from."""

    path: Path
    name: str
    features: Path | None
    rows_per_shard: int
    picked: Mapping[str, str]
    schema: pa.Schema
    parts: Path
    number: int
    policy: Policy


def source_schema(path: Path) -> pa.Schema:
    """The plain schema of a file, dictionaries undone. Raises IntegrityError for what is not Parquet."""
    shard = _open_shard(path.name, path)  # the same limits as for a pool
    wrong = implausible(path)
    if wrong is not None:
        raise IntegrityError(f"{path.name}: {wrong}", hint="the file is damaged: fetch it again")
    return pa.schema([pa.field(name, _plain(type_)) for name, type_ in shard.types.items()])


def _plain(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(type_):
        return _plain(type_.value_type)
    if pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return pa.string()
    return type_


def renamed(schema: pa.Schema, mapping: Mapping[str, str]) -> tuple[dict[str, str], pa.Schema]:
    """Where each column of the pool comes from, and the schema that the file has under its new names."""
    picked = pick_columns(schema.names, mapping, CANONICAL)
    if "text" not in picked:
        raise UsageError(
            "the source has no caption column",
            hint=f"--map text=COLUMN chooses one of: {', '.join(schema.names)}",
        )
    taken = set(picked.values())
    fields = []
    for target, source in picked.items():
        fields.append(pa.field(target, _settled(target, schema.field(source).type)))
    for entry in schema:
        if entry.name not in taken and entry.name not in picked and not entry.name.startswith("__headwater_"):
            picked[entry.name] = entry.name
            fields.append(entry)
    return picked, pa.schema(fields)


def _settled(name: str, type_: pa.DataType) -> pa.DataType:
    """DataComp's type, or a wider one of its kind that the source has."""
    wanted = CANONICAL[name]
    if pa.types.is_float64(type_) and pa.types.is_floating(wanted):
        return type_
    if pa.types.is_list(wanted):
        return type_
    same = pa.types.is_null(type_) or any(
        check(type_) and check(wanted)
        for check in (pa.types.is_integer, pa.types.is_floating, pa.types.is_string)
    )
    if not same:
        raise UsageError(
            f"column {name!r} is {type_}, and {wanted} is needed", hint=f"--map {name}=COLUMN chooses another"
        )
    return wanted


def computes(unit: TableUnit) -> bool:
    """True when the uids of the file are ours, so that equal ones mark copies."""
    return unit.policy.uid == "make" or "uid" not in unit.picked


def import_table(unit: TableUnit) -> Part:
    """Turn one file into one shard (or several). Under `refuse` a malformed uid raises IntegrityError with its row."""
    record = unit.parts / f"{unit.number:06d}.json"
    done = Part.load(record)
    if done is not None:
        return done
    part = Part(unit.name)
    schema = unit.schema
    if computes(unit):
        schema = schema.append(pa.field(COMPUTED, pa.bool_())).append(pa.field(ROW, pa.int64()))
    writer: PoolWriter | None = None
    in_file = 0
    computed = 0
    try:
        file = pq.ParquetFile(unit.path)
        if unit.features is not None:
            _check_features(unit.features, file.metadata.num_rows)
        for batch in file.iter_batches(BATCH_ROWS, columns=sorted(set(unit.picked.values()))):
            table, made = _rows(batch, unit, part)
            computed += made
            while True:
                room = len(table) if unit.features is not None else unit.rows_per_shard - in_file
                if writer is None:
                    path = unit.parts / f"{unit.number:06d}-{len(part.files):04d}.parquet"
                    part.files.append(str(path))
                    writer, in_file = PoolWriter(path, schema), 0
                writer.write(table.slice(0, room))
                in_file += min(room, len(table))
                table = table.slice(room)
                if not len(table):
                    break
                writer.close()
                writer, in_file = None, 0
        if writer is None:
            path = unit.parts / f"{unit.number:06d}-0000.parquet"
            part.files.append(str(path))
            writer = PoolWriter(path, schema)
        writer.close()
        writer = None
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).splitlines()[0][:200]
        raise IntegrityError(
            f"{unit.name}: cannot be read: {reason}", hint="it is damaged: fetch it again"
        ) from error
    finally:
        if writer is not None:
            writer.abandon()
    part.final = not computes(unit)
    part.facts["computed_uids"] = computed
    part.save(record)
    return part


def _check_features(path: Path, rows: int) -> None:
    for array in npz_arrays(path):
        if array.rows != rows:
            raise IntegrityError(
                f"{path.name}: array {array.name!r} has {array.rows:,} rows, its shard has {rows:,}",
                hint="fetch both again, or leave the features out with --no-features",
            )


def _rows(batch: pa.RecordBatch, unit: TableUnit, part: Part) -> tuple[pa.Table, int]:
    """The good rows of a batch in the pool's schema, with their uid, and how many uids were computed."""
    first = part.read
    part.read += len(batch)
    columns: dict[str, Any] = {}
    for entry in unit.schema:
        source = unit.picked.get(entry.name)
        if source is None:
            columns[entry.name] = pa.nulls(len(batch), entry.type)
            continue
        values = batch.column(batch.schema.get_field_index(source)) if source in batch.schema.names else None
        if values is None:
            values = pa.nulls(len(batch), entry.type)
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        columns[entry.name] = values if values.type == entry.type else values.cast(entry.type)
    keep = np.ones(len(batch), bool)

    def drop(rows: Any, reason: str) -> None:
        for row in rows:
            if keep[row]:
                keep[row] = False
                part.bad(reason, f"{unit.name}: row {first + int(row)}")

    text = columns["text"]
    for name in ("text", "url"):
        if name in columns:
            drop(invalid_utf8_rows(columns[name]), "bad_utf8")
    drop(
        np.flatnonzero(~(pc.fill_null(pc.binary_length(text), 0).to_numpy(zero_copy_only=False) > 0)),
        "no_caption",
    )
    computed = _uids(columns, unit, part, keep, first)
    table = pa.table([columns[f.name] for f in unit.schema], schema=unit.schema)
    if computes(unit):
        numbers = pa.array(np.arange(first, first + len(batch)), pa.int64())
        table = table.append_column(COMPUTED, pa.array(computed)).append_column(ROW, numbers)
    kept = table if keep.all() else table.filter(pa.array(keep))
    part.kept += len(kept)
    return kept, int((computed & keep).sum())


def _uids(columns: dict[str, Any], unit: TableUnit, part: Part, keep: Any, first: int) -> Any:
    """Check the uids and compute those that are missing; returns which were computed."""
    n = len(keep)
    computed = np.zeros(n, bool)
    uid = columns["uid"]
    if unit.policy.uid == "make":
        todo = np.arange(n)
        uid = pa.nulls(n, pa.string())
    else:
        todo = words_of(uid)[1]
    if len(todo) == 0:
        return computed
    values = uid.to_pylist()
    for row in todo.tolist():
        if not keep[row]:
            continue
        where = f"{unit.name}: row {first + row}"
        fields: dict[str, Any] = {
            n: columns[n][row].as_py() for n in ("url", "text", "sha256") if n in columns
        }
        fields["uid"] = values[row]
        if (
            values[row] is None
            and unit.policy.uid != "source"
            and not fields.get("url")
            and not is_sha256(fields.get("sha256"))
        ):
            part.bad("no_uid", where)  # nothing to compute one from
            keep[row] = False
        elif settle_uid(fields, unit.policy, part, where):
            values[row], computed[row] = fields["uid"], fields[COMPUTED]
        else:
            keep[row] = False
    columns["uid"] = pa.array(values, pa.string())
    return computed
