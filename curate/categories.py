"""The category table: what each class of a generator is made of, one row a category.

Two forms. Parquet: `category` (the index) and the generator's columns; from it everything can be read back exactly. And, for tools
of the VisualAtom and RCDB papers' community, one headerless `param/CCCCC.csv` of `key,value` lines for each category (the form of the
RCDB script, and of the archived VisualAtom-1k), with that script's names where it has one.

Digest: SHA-256 over one line of JSON with the names of the columns, then one line a category, [index, value, …]; separators without
blanks, floats in their shortest exact form, each line ending in LF. So it does not depend on a file format's version.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curate._memory import leave_pandas_out
from curate.generators import Category
from headwater.errors import HeadwaterError, IntegrityError, MissingInput, UsageError
from headwater.files import atomic_file, named_io

TABLE_NAME = (
    "param/categories.parquet"  # not at the top, where readers of Parquet shards would take it for one
)
PARAM_FOLDER = "param"
TABLE_LIMIT_BYTES = 1 << 30
CSV_LIMIT_BYTES = 64 << 10
ROWS = 10_000  # handled at once
SHOWN = 10  # columns that a message names
# the RCDB script's names (its param files); columns that are not named here keep theirs
SCRIPT_NAMES = {
    "vertex_num": "Vertex",
    "perlin": "Perlin_noise",
    "radius": "Center_rad",
    "line_num": "Line_num",
    "oval_x": "Oval_rate_x",
    "oval_y": "Oval_rate_y",
    "centre_h": "start_pos_h",
    "centre_w": "start_pos_w",
}
_OURS = {name.lower(): ours for ours, name in SCRIPT_NAMES.items()}


class CategoryTable:
    """Rows of one set, `first` the index of row 0. `kinds` is column -> Arrow type name, as in a generator's CATEGORY."""

    def __init__(self, first: int, kinds: Mapping[str, str], columns: dict[str, Any]) -> None:
        self.first, self.kinds, self._columns = first, dict(kinds), columns

    @classmethod
    def collect(
        cls,
        first: int,
        kinds: Mapping[str, str],
        records: Iterable[Category],
        count: int,
        on_rows: Callable[[int], None] = lambda n: None,
    ) -> CategoryTable:
        """A table of `count` records, taken in order."""
        parts: dict[str, list[Any]] = {name: [] for name in kinds}
        stream = iter(records)
        for start in range(0, count, ROWS):
            size = min(ROWS, count - start)
            lists: dict[str, list[Any]] = {name: [] for name in kinds}
            for _ in range(size):
                record = next(stream)
                for name, values in lists.items():
                    values.append(record[name])
            for name, kind in kinds.items():
                parts[name].append(_packed(name, lists[name], kind))
            on_rows(size)
        return cls(first, kinds, {name: _joined(pieces) for name, pieces in parts.items()})

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()))) if self._columns else 0

    def records(self, rows: Sequence[int] | range) -> list[Category]:
        """The parameters of some rows, as plain numbers and strings."""
        names = list(self.kinds)
        picked = [_picked(self._columns[name], rows) for name in names]
        return [dict(zip(names, values, strict=True)) for values in zip(*picked, strict=True)]

    def batches(self) -> Iterator[tuple[int, list[Category]]]:
        """(first row, records) of consecutive rows."""
        for start in range(0, len(self), ROWS):
            yield start, self.records(range(start, min(start + ROWS, len(self))))

    def sha256(self) -> str:
        """Digest of the canonical form."""
        digest = hashlib.sha256(_line(["category", *self.kinds]))
        for start, records in self.batches():
            lines = [_line([self.first + start + k, *record.values()]) for k, record in enumerate(records)]
            digest.update(b"".join(lines))
        return digest.hexdigest()

    def write_parquet(self, path: Path) -> None:
        """Write the Parquet form, atomically."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        leave_pandas_out()
        arrays = [pa.array(np.arange(self.first, self.first + len(self)), pa.int64())]
        arrays += [
            pa.array(self._columns[name], pa.type_for_alias(kind)) for name, kind in self.kinds.items()
        ]
        table = pa.Table.from_arrays(arrays, ["category", *self.kinds])
        with atomic_file(path) as handle:
            pq.write_table(table, handle, compression="zstd", row_group_size=65_536)

    def write_params(self, folder: Path) -> int:
        """Write `param/CCCCC.csv` of every category below `folder`; returns how many."""
        target = folder / PARAM_FOLDER
        with named_io(target):
            target.mkdir(exist_ok=True)
            for start, records in self.batches():
                for k, record in enumerate(records):
                    lines = [f"{SCRIPT_NAMES.get(name, name)},{value}\n" for name, value in record.items()]
                    (target / f"{self.first + start + k:05d}.csv").write_text(
                        "".join(lines), encoding="utf-8"
                    )
        return len(self)


def _packed(name: str, values: list[Any], kind: str) -> Any:
    """Raises HeadwaterError for values that are not of the kind, or not finite: a generator of somebody may tell any."""
    if kind in ("string", "large_string"):
        if all(isinstance(value, str) for value in values):
            return values
        raise HeadwaterError(f"{name} of a category is no text")
    dtype = {"bool": "bool", "float": "float32", "double": "float64"}.get(kind, kind)
    try:
        found = np.array(values, dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise HeadwaterError(f"{name} of a category is no {kind}: {error}") from error
    if found.ndim != 1 or (found.dtype.kind == "f" and not np.isfinite(found).all()):
        raise HeadwaterError(f"{name} of a category is not one finite number")
    return found


def _joined(pieces: list[Any]) -> Any:
    if pieces and isinstance(pieces[0], list):
        return [value for piece in pieces for value in piece]
    return np.concatenate(pieces) if pieces else np.zeros(0)


def _picked(column: Any, rows: Sequence[int] | range) -> list[Any]:
    if isinstance(rows, range) and rows.step == 1:
        part = column[rows.start : rows.stop]
    else:
        part = (
            [column[row] for row in rows] if isinstance(column, list) else column[np.asarray(rows, np.int64)]
        )
    return part if isinstance(part, list) else part.tolist()


def _line(values: list[Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def read_parquet(path: Path, kinds: Mapping[str, str], *, others: bool = False) -> CategoryTable:
    """The table in a Parquet file, which must have the columns that `kinds` names, and no others unless they may be left out.

    Raises MissingInput, and IntegrityError for a file that is damaged, too large or of another generator.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    leave_pandas_out()
    if not path.is_file():
        raise MissingInput(f"{path}: no such category table")
    if path.stat().st_size > TABLE_LIMIT_BYTES:
        raise IntegrityError(f"{path}: larger than {TABLE_LIMIT_BYTES:,} bytes: no category table")
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows > 1_000_000:
                raise IntegrityError(f"{path}: {file.metadata.num_rows:,} rows: no category table of ours")
            found = file.schema_arrow
            wanted = {"category": "int64", **kinds}
            missing = [name for name in wanted if name not in found.names]
            other = [name for name in found.names if name not in wanted]
            if missing or (other and not others):
                raise IntegrityError(
                    f"{path}: not a table of this generator: columns missing {missing}, others {other[:10]}"
                )
            table = file.read(list(wanted)).cast(
                pa.schema([(name, pa.type_for_alias(kind)) for name, kind in wanted.items()])
            )
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:  # Arrow's own have none
            with named_io(path):
                raise
        raise IntegrityError(f"{path}: cannot be read as a category table: {str(error)[:200]}") from error
    if any(column.null_count for column in table.columns):
        raise IntegrityError(f"{path}: a category lacks a value")
    index = table.column("category").to_numpy()
    first = int(index[0]) if len(index) else 0
    if first < 0 or not np.array_equal(index, np.arange(first, first + len(index))):
        raise IntegrityError(f"{path}: its categories are not consecutive")
    columns = {
        name: table.column(name).to_pylist()
        if kind in ("string", "large_string")
        else table.column(name).to_numpy()
        for name, kind in kinds.items()
    }
    return CategoryTable(first, kinds, columns)


def read_params(folder: Path, kinds: Mapping[str, str]) -> CategoryTable:
    """The table in a folder of headerless `CCCCC.csv` files, also those of the RCDB script and the archived VisualAtom-1k.

    Names may be the script's or ours, in any case; what the generator has no column for is left out. Raises MissingInput, UsageError
    for a name or value that a category lacks, IntegrityError for a file that is no such list.
    """
    files = sorted((_number(path), path) for path in folder.glob("*.csv"))
    if not files:
        raise MissingInput(f"{folder}: holds no CCCCC.csv with the parameters of a category")
    first = files[0][0]
    if first < 0 or [number for number, _ in files] != list(range(first, first + len(files))):
        raise IntegrityError(f"{folder}: its files are not named by consecutive category numbers")
    return CategoryTable.collect(first, kinds, (_read_csv(path, kinds) for _, path in files), len(files))


def _number(path: Path) -> int:
    """The category of a CCCCC.csv; -1 for another name."""
    return int(path.stem) if path.stem.isascii() and path.stem.isdigit() and len(path.stem) < 16 else -1


def _read_csv(path: Path, kinds: Mapping[str, str]) -> Category:
    with named_io(path), open(path, "rb") as handle:
        data = handle.read(CSV_LIMIT_BYTES + 1)
    if len(data) > CSV_LIMIT_BYTES:
        raise IntegrityError(
            f"{path}: larger than {CSV_LIMIT_BYTES:,} bytes: not the parameters of a category"
        )
    found: dict[str, str] = {}
    for line in data.decode("utf-8-sig", "replace").splitlines():
        key, comma, value = line.partition(",")
        if not comma:
            if line.strip():
                raise IntegrityError(f"{path}: {line[:60]!r} is not key,value")
            continue
        name = key.strip().lower()
        found[_OURS.get(name, name)] = value.strip()
    missing = [name for name in kinds if name not in found]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise UsageError(
            f"{path}: does not say {', '.join(SCRIPT_NAMES.get(name, name) for name in missing[:SHOWN])}{more}"
        )
    return {name: _value(path, name, found[name], kind) for name, kind in kinds.items()}


def _value(path: Path, name: str, text: str, kind: str) -> Any:
    if kind in ("string", "large_string"):
        return text
    real = kind in ("double", "float64", "float", "float32")
    try:
        value = float(text)
        if not real:  # tools that know only floats write 337.0; whole numbers of ours are exact in one
            value = int(value) if value.is_integer() and abs(value) < 2**53 else math.nan
    except (ValueError, OverflowError):
        value = math.nan
    limits = None if real else np.iinfo(kind)
    if not math.isfinite(value) or (limits is not None and not limits.min <= value <= limits.max):
        raise IntegrityError(f"{path}: {name} is {text[:40]!r}")
    return value
