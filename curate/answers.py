"""Answers of `pool sql` for people, programs and files."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.errors import UsageError
from headwater.files import atomic_file

if TYPE_CHECKING:
    from curate.query import Answer

CELL_CHARS = 60


def as_rows(answer: Answer) -> list[dict[str, Any]]:
    """Every row as a dict with JSON values; NaN and infinities become text."""
    return [
        {key: _json(value) for key, value in row.items()}
        for batch in answer.batches()
        for row in batch.to_pylist()
    ]


def terminal_table(answer: Answer, rows: int) -> str:
    """The first `rows` rows as a table, and how many there are."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_edge=False, pad_edge=False)
    for field in answer.schema:
        number = (
            pa.types.is_integer(field.type)
            or pa.types.is_floating(field.type)
            or pa.types.is_decimal(field.type)
        )
        table.add_column(escape(field.name), justify="right" if number else "left", overflow="fold")
    shown = total = 0
    for batch in answer.batches():
        for row in batch.slice(0, max(rows - shown, 0)).to_pylist():
            table.add_row(*(escape(_cell(value)) for value in row.values()))
            shown += 1
        total += batch.num_rows
    out = io.StringIO()
    tty = sys.stdout is not None and sys.stdout.isatty()
    Console(file=out, width=None if tty else 200, no_color=not tty, highlight=False).print(table)
    text = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
    if total > shown:
        text += f"\n… {total - shown:,} more rows; --rows N shows more, -o FILE writes all"
    return text


def write_answer(answer: Answer, path: Path) -> int:
    """Write all rows to a .parquet, .csv or .jsonl file, atomically, or as CSV to standard output for `-`."""
    if str(path) == "-":
        return _csv(answer, sys.stdout.buffer)
    kind = path.suffix.lower()
    if kind not in (".parquet", ".csv", ".jsonl"):
        raise UsageError(f"-o {path}: the ending says what to write: .parquet, .csv or .jsonl")
    with atomic_file(path) as handle:
        if kind == ".parquet":
            with pq.ParquetWriter(handle, answer.schema, compression="zstd", compression_level=1) as parquet:
                return _feed(answer, parquet.write_batch)
        if kind == ".csv":
            return _csv(answer, handle)

        def lines(batch: pa.RecordBatch) -> None:
            for row in batch.to_pylist():
                handle.write(
                    json.dumps({k: _json(v) for k, v in row.items()}, ensure_ascii=False).encode() + b"\n"
                )

        return _feed(answer, lines)


def _csv(answer: Answer, handle: IO[bytes]) -> int:
    """Comma-separated values; lists and structs as JSON."""
    text = io.TextIOWrapper(handle, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(answer.schema.names)

        def rows(batch: pa.RecordBatch) -> None:
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                writer.writerow([_csv_cell(value) for value in row])

        return _feed(answer, rows)
    finally:
        text.detach()


def _csv_cell(value: Any) -> Any:
    return json.dumps(_json(value), ensure_ascii=False) if isinstance(value, list | dict) else value


def _feed(answer: Answer, write: Any) -> int:
    total = 0
    for batch in answer.batches():
        write(batch)
        total += batch.num_rows
    return total


def _json(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    # a caption must not steer the terminal
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
    return text if len(text) <= CELL_CHARS else text[: CELL_CHARS - 1] + "…"
