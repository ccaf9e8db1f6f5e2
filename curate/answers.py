"""Writes the answer of `pool sql`: a table for a terminal, CSV, JSON lines, or a Parquet file.

NaN and infinities have no JSON form and are written as the strings "nan", "inf" and "-inf"; null stays null.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.query import Answer
from headwater.errors import UsageError, nearest
from headwater.files import atomic_file

FORMATS = ("table", "csv", "jsonl", "parquet")
MAX_TABLE_ROWS = 1000
MAX_CELL_CHARS = 80


def format_of(output: Path | None, chosen: str | None) -> str:
    """The format asked for, or that of the file's ending; a table for the terminal."""
    if chosen is None:
        chosen = output.suffix[1:].lower() if output is not None and str(output) != "-" else "table"
        if output is not None and chosen not in FORMATS[1:] and str(output) != "-":
            raise UsageError(
                f"-o {output}: the name must end in .csv, .jsonl or .parquet", hint="or choose with --format"
            )
    if chosen not in FORMATS:
        raise UsageError(f"--format {chosen!r}: {nearest(chosen, FORMATS)}")
    return chosen


def write_answer(answer: Answer, output: Path, format_: str) -> int:
    """Write the rows to a file, atomically; returns how many there were."""
    rows = 0
    with atomic_file(output) as handle:
        if format_ == "parquet":
            with pq.ParquetWriter(
                handle, answer.schema, compression="zstd", write_page_checksum=True
            ) as writer:
                for batch in answer.batches():
                    writer.write_batch(batch)
                    rows += len(batch)
            return rows
        for number, batch in enumerate(answer.batches()):
            handle.write(_text(batch, format_, header=number == 0).encode())
            rows += len(batch)
        if rows == 0 and format_ == "csv":
            handle.write(_csv([answer.schema.names]).encode())
    return rows


def render(answer: Answer, format_: str) -> Iterator[str]:
    """The rows as text for standard output, piece by piece."""
    if format_ == "parquet":
        raise UsageError("Parquet goes to a file", hint="-o FILE.parquet")
    if format_ == "table":
        yield _table(answer)
        return
    if format_ == "csv":
        yield _csv([answer.schema.names])
    for batch in answer.batches():
        yield _text(batch, format_, header=False)


def _text(batch: pa.RecordBatch, format_: str, *, header: bool) -> str:
    if format_ == "csv":
        rows = (
            zip(*[column.to_pylist() for column in batch.columns], strict=True) if batch.num_columns else []
        )
        return (_csv([batch.schema.names]) if header else "") + _csv(
            [[_cell(v) for v in row] for row in rows]
        )
    lines = (
        json.dumps(_plain(row), ensure_ascii=False, allow_nan=False, default=str) for row in batch.to_pylist()
    )
    return "".join(line + "\n" for line in lines)


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        return json.dumps(_plain(value), ensure_ascii=False, default=str)
    return value


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become their names."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _table(answer: Answer) -> str:
    from rich.console import Console
    from rich.table import Table

    view = Table()
    for entry in answer.schema:
        number = pa.types.is_integer(entry.type) or pa.types.is_floating(entry.type)
        view.add_column(_shown(entry.name), justify="right" if number else "left", overflow="fold")
    rows, more = 0, 0
    for batch in answer.batches():
        for row in batch.slice(0, max(MAX_TABLE_ROWS - rows, 0)).to_pylist():
            view.add_row(*[_shown(row[name]) for name in answer.schema.names])
        shown = min(len(batch), max(MAX_TABLE_ROWS - rows, 0))
        rows, more = rows + shown, more + len(batch) - shown
    console = Console(file=io.StringIO(), width=200 if len(answer.schema) > 4 else None)
    console.print(view)
    text = str(console.file.getvalue())  # type: ignore[attr-defined]
    return text + (
        f"{more:,} more rows; use --format csv or -o FILE to get all\n" if more else f"{rows:,} rows\n"
    )


def _shown(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = "".join(c if c.isprintable() else "�" for c in text)
    text = text if len(text) <= MAX_CELL_CHARS else text[: MAX_CELL_CHARS - 1] + "…"
    return text.replace("[", "\\[")
