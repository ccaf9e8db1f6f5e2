"""From rows of trials to figures of cells, and the table that keeps every trial.

Times are Kaplan-Meier medians over all trials of a cell, failures included as censored. What only a finished trial has (bytes,
CPU seconds, the split of its time) is the median of the finished ones, and is named so.
"""

from __future__ import annotations

import dataclasses
import statistics
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distribute.study import survival
from distribute.study.options import LinkSpec, StudyOptions
from distribute.study.plan import Cell, cells
from distribute.study.trial import Row
from headwater.files import atomic_file

FORMAT = "study/1"
OF_FINISHED = (
    "discovery_seconds",
    "first_byte_seconds",
    "transfer_seconds",
    "finish_seconds",
    "client_cpu_seconds",
    "seeders_cpu_seconds",
    "link_cpu_seconds",
    "other_cpu_seconds",
    "overhead_share",
    "busiest_seeder_share",
    "client_joules_modelled",
    "seeders_joules_modelled",
    "machine_joules_measured",
    "client_peak_rss_bytes",
    "seeders_peak_rss_bytes",
)


def cell_of(row: Row) -> Cell:
    """The cell that a row belongs to."""
    link = LinkSpec(row.rate_bits_per_second, row.rtt_seconds)
    return Cell(row.payload, row.method, row.seeders, link, row.cache)


def summarise(options: StudyOptions, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One dict for each cell, in the order of the options."""
    by_cell: dict[Cell, list[Row]] = {}
    for row in rows:
        by_cell.setdefault(cell_of(row), []).append(row)
    return [_summary(cell, by_cell[cell]) for cell in cells(options) if cell in by_cell]


def _summary(cell: Cell, rows: list[Row]) -> dict[str, Any]:
    times, finished = [row.observed_seconds for row in rows], [row.finished for row in rows]
    median = survival.median(times, finished)
    good = [row for row in rows if row.finished]
    low, high = survival.wilson(len(good), len(rows))
    size = rows[0].payload_bytes
    return {
        "payload": cell.payload,
        "method": cell.method,
        "seeders": cell.seeders,
        "rate_bits_per_second": cell.link.rate_bits_per_second,
        "rtt_seconds": cell.link.rtt_seconds,
        "cache": cell.cache,
        "trials": len(rows),
        "finished": len(good),
        "capped": sum(row.status == "capped" for row in rows),
        "verified": sum(row.verified for row in rows),
        "success_share": len(good) / len(rows),
        "success_low": round(low, 4),
        "success_high": round(high, 4),
        "median_seconds": median.seconds,
        "median_low_seconds": median.low,
        "median_high_seconds": median.high,
        "payload_bytes": size,
        "bytes_per_second": round(size / median.seconds) if median.seconds else None,
        "curve": [dataclasses.asdict(point) for point in survival.curve(times, finished)],
        "reasons": _reasons(rows),
        "of_finished": {name: _median(good, name) for name in OF_FINISHED},
    }


def _median(rows: list[Row], name: str) -> float | None:
    known = [getattr(row, name) for row in rows if getattr(row, name) is not None]
    return round(statistics.median(known), 6) if known else None


def _reasons(rows: list[Row]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        if not row.finished:
            found[row.reason] = found.get(row.reason, 0) + 1
    return found


def row_from(document: dict[str, Any]) -> Row:
    """A row that an earlier session kept. Raises TypeError or KeyError when it is none."""
    return Row(**document)


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """trials.parquet: one row for each trial in the order they were run; columns are the fields of `trial.Row`, units in the names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    hints = typing.get_type_hints(Row)
    fields = []
    for field in dataclasses.fields(Row):
        names = {kind.__name__ for kind in typing.get_args(hints[field.name]) or (hints[field.name],)}
        kind = next(kinds[name] for name in kinds if name in names)
        fields.append(pa.field(field.name, kind, nullable="NoneType" in names))
    schema = pa.schema(fields, metadata={"format": FORMAT})
    table = pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=schema)
    with atomic_file(path) as handle:
        pq.write_table(table, handle, compression="zstd")


def text_table(summary: Sequence[dict[str, Any]]) -> str:
    """For people on a terminal."""
    head = f"{'payload':<12} {'link':<16} {'cache':<5} {'method':<11} {'seeders':>7} {'median s':>9} {'95 % limits':>17} {'ok':>6} {'MB/s':>7} {'CPU s client/seeders':>21} {'overhead':>9}"
    lines = [head]
    for cell in summary:
        link = LinkSpec(cell["rate_bits_per_second"], cell["rtt_seconds"]).text
        done, rate = cell["of_finished"], speed(cell["bytes_per_second"])
        cpu = f"{seconds(done['client_cpu_seconds'])} / {seconds(done['seeders_cpu_seconds'])}"
        over = "" if done["overhead_share"] is None else f"{done['overhead_share']:.2%}"
        limits = f"{seconds(cell['median_low_seconds'])} to {seconds(cell['median_high_seconds'])}"
        lines.append(
            f"{cell['payload']:<12} {link:<16} {cell['cache']:<5} {cell['method']:<11} {cell['seeders']:>7} "
            f"{seconds(cell['median_seconds'], 'not reached'):>9} {limits:>17} {cell['finished']:>3}/{cell['trials']:<2} "
            f"{rate:>7} {cpu:>21} {over:>9}"
        )
    return "\n".join(lines)


def seconds(value: float | None, none: str = "–") -> str:
    """Three digits, or a word for what is not there."""
    if value is None:
        return none
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def speed(bytes_per_second: float | None, none: str = "") -> str:
    """In MB/s, with about three digits."""
    if bytes_per_second is None:
        return none
    rate = bytes_per_second / 1e6
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 10 else f"{rate:.2g}"
