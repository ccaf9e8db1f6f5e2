"""The checks of one shard of `pool validate`: its footer, its values, its features. Runs in a worker process.

Codes, with their severity and meaning, are the table CODES; it is all that a reader of `--json` needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate._npz import npz_arrays
from curate._pages import words_of
from curate._text import invalid_utf8_rows
from curate.pool import Shard, _open_shard, family
from headwater.errors import HeadwaterError

MAX_ROWS_TOLD = 10
BATCH_ROWS = 65_536
MAX_SIZE = (1 << 31) - 1
MAX_RATIO = 2_000  # plain bytes of a row group per stored byte, above PLAUSIBLE_BYTES
PLAUSIBLE_BYTES = 4 << 30

CODES: dict[str, tuple[str, str]] = {
    "empty_file": ("damage", "a file of 0 bytes"),
    "not_parquet": ("damage", "no readable Parquet footer, or one beyond all limits"),
    "bad_footer": ("damage", "the footer claims what the file cannot hold"),
    "bad_page": ("damage", "a page that cannot be decoded, or whose checksum does not fit"),
    "reader_died": ("damage", "reading the shard ended the process"),
    "broken_link": ("damage", "a link to nothing"),
    "shard_twice": ("damage", "two files with one shard name"),
    "no_uid_column": ("damage", "no uid column of text"),
    "wrong_type": ("damage", "a column of DataComp that holds another kind of data"),
    "column_missing": ("damage", "a column that other shards have"),
    "type_differs": ("damage", "a column of another kind than in other shards"),
    "type_drift": ("note", "a column of another width, read without loss"),
    "npz_damaged": ("damage", "features that cannot be read, or hold Python objects"),
    "npz_rows": ("damage", "features with another number of rows"),
    "npz_dtype": ("warning", "features that are neither float16 nor float32"),
    "npz_alone": ("warning", "features without a shard"),
    "manifest_damaged": ("damage", "a manifest that cannot be used"),
    "manifest_missing": ("damage", "a file that the manifest names and that is not there"),
    "manifest_mismatch": ("damage", "other bytes than the manifest names"),
    "manifest_extra": ("warning", "a shard that the manifest does not name"),
    "no_shards": ("warning", "no shard at all"),
    "odd_name": ("warning", "a file name that is read, or not read, against expectation"),
    "uid_null": ("error", "no uid"),
    "uid_malformed": ("error", "not 32 lower-case hex digits"),
    "uid_repeated": ("error", "a uid that an earlier row has"),
    "text_null": ("warning", "no caption"),
    "text_empty": ("warning", "an empty caption"),
    "text_not_utf8": ("error", "bytes that are not UTF-8"),
    "score_null": ("warning", "no score"),
    "score_nan": ("warning", "a score that is not a number"),
    "score_inf": ("warning", "an infinite score"),
    "size_null": ("warning", "no width or height"),
    "size_range": ("error", "a width or height below 1 or above 2^31 - 1"),
    "sha256_null": ("warning", "no sha256"),
    "sha256_malformed": ("error", "not 64 lower-case hex digits"),
}


@dataclass(frozen=True)
class Finding:
    """One fault. `row` counts from 0 in its shard; null where a fault has no row."""

    severity: str
    code: str
    message: str
    shard: str | None = None
    column: str | None = None
    row: int | None = None

    def place(self) -> str:
        """`shard X column Y row Z: `, as far as known."""
        parts = [
            f"{name} {value}"
            for name, value in (("shard", self.shard), ("column", self.column), ("row", self.row))
            if value is not None
        ]
        return " ".join(parts) + ": " if parts else ""


@dataclass(frozen=True)
class ShardCheck:
    name: str
    path: Path
    deep: bool


@dataclass
class ShardReport:
    """Findings of one shard; `shard` is None when its footer could not be read."""

    shard: Shard | None
    findings: list[Finding] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    told: dict[tuple[str, str | None], int] = field(default_factory=dict)

    def add(
        self, code: str, message: str, *, shard: str, column: str | None = None, row: int | None = None
    ) -> None:
        """One finding; beyond MAX_ROWS_TOLD of a code and column only the total grows."""
        self.totals[code] = self.totals.get(code, 0) + 1
        key = (code, column)
        self.told[key] = self.told.get(key, 0) + 1
        if self.told[key] <= MAX_ROWS_TOLD:
            self.findings.append(Finding(CODES[code][0], code, message, shard, column, row))


def check_shard(check: ShardCheck) -> ShardReport:
    """All findings of one shard; nothing is raised for what the file holds."""
    report = ShardReport(None)
    if check.path.stat().st_size == 0:
        report.add("empty_file", "0 bytes", shard=check.name)
        return report
    try:
        shard = _open_shard(check.name, check.path)
    except (HeadwaterError, MemoryError) as error:
        report.add(
            "not_parquet", str(error) or "the footer needs more memory than there is", shard=check.name
        )
        return report
    report.shard = shard
    wrong = implausible(check.path)
    if wrong is None:
        _check_values(shard, report, deep=check.deep)
    else:
        report.add("bad_footer", wrong, shard=shard.name)
    _check_features(shard, report)
    return report


def implausible(path: Path) -> str | None:
    """What a footer claims that its file cannot hold, looked at before anything is decoded; None when all is well."""
    size = path.stat().st_size
    metadata = pq.read_metadata(path)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        stored = plain = 0
        for at in range(group.num_columns):
            column = group.column(at)
            stored += column.total_compressed_size
            plain += column.total_uncompressed_size
            outside = not 4 <= column.data_page_offset <= size
            if column.total_compressed_size < 0 or (outside and column.num_values != 0):
                return f"row group {number}: {column.path_in_schema} lies outside the file"
        if stored > size or (plain > PLAUSIBLE_BYTES and plain > MAX_RATIO * max(stored, 1)):
            return f"row group {number}: {stored:,} stored and {plain:,} plain bytes, in a file of {size:,}"
    return None


def _check_values(shard: Shard, report: ShardReport, *, deep: bool) -> None:
    if family(shard.types.get("uid", pa.null())) != "text":
        report.add("no_uid_column", "no uid column of text", shard=shard.name, column="uid")
    kinds = {"text": "text", "sha256": "text", "original_width": "integer", "original_height": "integer"}
    for name, kind in kinds.items():
        type_ = shard.types.get(name, pa.null())
        if not pa.types.is_null(type_) and family(type_) != kind:
            report.add("wrong_type", f"{type_}, and {kind} is needed", shard=shard.name, column=name)
    scores = [n for n, t in shard.types.items() if pa.types.is_floating(t)]
    wanted = [
        n for n in ("uid", "text", "original_width", "original_height", "sha256") if n in shard.types
    ] + scores
    row = 0
    try:
        file = pq.ParquetFile(shard.path, page_checksum_verification=deep)
        for batch in file.iter_batches(BATCH_ROWS, columns=None if deep else wanted, use_threads=False):
            for name in wanted:
                at = batch.schema.get_field_index(name)
                if at >= 0:
                    _check_column(_Column(shard.name, name, batch.column(at), row), report)
            row += len(batch)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        report.add("bad_page", f"{reason} (after row {row})", shard=shard.name, row=row)
        return
    if row != shard.rows:
        report.add("bad_page", f"{row:,} rows were read, the footer says {shard.rows:,}", shard=shard.name)


@dataclass(frozen=True)
class _Column:
    shard: str
    name: str
    values: pa.Array
    first: int

    def tell(self, report: ShardReport, code: str, rows: Any, message: str) -> None:
        total = len(rows)
        for row in rows[:MAX_ROWS_TOLD].tolist():
            shown = (
                f"{message}: {_shown(self.values, row)}" if code.endswith(("malformed", "range")) else message
            )
            report.add(code, shown, shard=self.shard, column=self.name, row=self.first + row)
        if total > MAX_ROWS_TOLD:
            report.totals[code] += total - MAX_ROWS_TOLD

    def nulls(self) -> Any:
        return (
            np.flatnonzero(pc.is_null(self.values).to_numpy(zero_copy_only=False))
            if self.values.null_count
            else _NONE
        )


_NONE = np.zeros(0, np.int64)


def _shown(values: pa.Array, row: int) -> str:
    try:
        value = values[row].as_py()
    except UnicodeDecodeError:
        return "bytes that are not UTF-8"
    return repr(value if not isinstance(value, str) else value[:80])


def _check_column(column: _Column, report: ShardReport) -> None:
    name, values = column.name, column.values
    if pa.types.is_null(values.type):
        values = values.cast(pa.string() if name in ("uid", "text", "sha256") else pa.int64())
        column = _Column(column.shard, name, values, column.first)
    if name == "uid" and family(values.type) == "text":
        _hex_column(column, report, "uid")
    elif name == "sha256" and family(values.type) == "text":
        _hex_column(column, report, "sha256")
    elif name == "text" and family(values.type) == "text":
        column.tell(report, "text_null", column.nulls(), "no caption")
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        empty = pc.fill_null(pc.equal(pc.binary_length(values), 0), False)
        column.tell(
            report, "text_empty", np.flatnonzero(empty.to_numpy(zero_copy_only=False)), "an empty caption"
        )
        column.tell(report, "text_not_utf8", invalid_utf8_rows(values), "bytes that are not UTF-8")
    elif name in ("original_width", "original_height"):
        column.tell(report, "size_null", column.nulls(), "no size")
        if family(values.type) == "integer":
            low, high = pa.scalar(1, values.type), MAX_SIZE
            bad = pc.less(values, low)
            if values.type.bit_width > 32 or pa.types.is_uint32(values.type):
                bad = pc.or_(bad, pc.greater(values, pa.scalar(high, values.type)))
            rows = np.flatnonzero(pc.fill_null(bad, False).to_numpy(zero_copy_only=False))
            column.tell(report, "size_range", rows, "a size outside 1 … 2^31 - 1")
    elif pa.types.is_floating(values.type):
        column.tell(report, "score_null", column.nulls(), "no score")
        numbers = pc.fill_null(values, 0).to_numpy(zero_copy_only=False)
        column.tell(report, "score_nan", np.flatnonzero(np.isnan(numbers)), "NaN")
        column.tell(report, "score_inf", np.flatnonzero(np.isinf(numbers)), "infinite")


def _hex_column(column: _Column, report: ShardReport, what: str) -> None:
    values = column.values
    nulls = column.nulls()
    column.tell(report, f"{what}_null", nulls, f"no {what}")
    if what == "uid":
        bad = words_of(values)[1]
    else:
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        good = pc.match_substring_regex(values.cast(pa.large_binary()), "^[0-9a-f]{64}$")
        bad = np.flatnonzero(~pc.fill_null(good, True).to_numpy(zero_copy_only=False))
    bad = np.setdiff1d(bad, nulls)
    digits = 32 if what == "uid" else 64
    column.tell(report, f"{what}_malformed", bad, f"not {digits} lower-case hex digits")


def _check_features(shard: Shard, report: ShardReport) -> None:
    if shard.features is None:
        return
    try:
        arrays = npz_arrays(shard.features)
    except HeadwaterError as error:
        report.add("npz_damaged", str(error), shard=shard.name)
        return
    for array in arrays:
        if array.rows != shard.rows:
            what = f"{shard.name}.npz: {array.name} has {array.rows:,} rows, the shard {shard.rows:,}"
            report.add("npz_rows", what, shard=shard.name, column=array.name)
        if array.dtype not in ("float16", "float32"):
            what = f"{shard.name}.npz: {array.name} is {array.dtype}"
            report.add("npz_dtype", what, shard=shard.name, column=array.name)
