"""The files that target embeddings lie in (see curate.targets): each becomes a Part that gives its rows in pieces.

An npz is unpacked as it is read, so a packed one needs no room; the rest is mapped or read by row groups. Object arrays,
other dtypes than floats and rows of unequal width are refused with the file's name.
"""

from __future__ import annotations

import functools
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate._npz import npz_arrays
from curate.features import MAX_WIDTH, open_features
from curate.pool import Pool
from headwater.console import say
from headwater.errors import IntegrityError, MissingInput, UsageError, nearest
from headwater.hashing import digest_file
from headwater.manifest import identity_id

SUFFIXES = (".npz", ".npy", ".parquet")
READ_ROWS = 8_192
MAX_FILES = 100_000
HINT = "give an .npz, .npy or .parquet file, a folder of them, or a pool with features"


@dataclass(frozen=True)
class Part:
    """The array of one file; `blocks()` gives all its rows in order, in pieces of any length and float type."""

    name: str
    rows: int
    width: int
    blocks: Callable[[], Iterator[npt.NDArray[Any]]]
    uids: Callable[[], pa.Array] | None = None


def content_id(path: Path, array: str) -> str:
    """SHA-256 over the names and digests of the files that are read."""
    if _is_pool(path):
        pool = Pool.open(path)
        return identity_id({"pool": pool.id, "features": open_features(pool, array).id})
    files = [[file.name, _digest(file)] for file in _files(path)]
    return identity_id({"target": files})


def existing(path: Path | None) -> Path:
    """`path`, which must have been given and be there."""
    if path is None:
        raise UsageError("a target is needed: --target FILE, or --param target=FILE for a filter", hint=HINT)
    if not path.exists():
        raise MissingInput(f"target {path}: no such file or folder", hint=HINT)
    return path


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if path.suffix not in SUFFIXES:
            raise UsageError(f"target {path}: {path.suffix or 'this kind of file'} is not read", hint=HINT)
        return [path]
    inside = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    files = [p for p in inside if p.suffix in SUFFIXES]
    if not files:
        others = f" ({', '.join(p.name for p in inside[:3])} …)" if inside else ""
        raise UsageError(f"target {path}: no embeddings in it{others}", hint=HINT)
    if len(files) > MAX_FILES:
        raise UsageError(f"target {path}: {len(files):,} files, at most {MAX_FILES:,} are read")
    return files


def _digest(path: Path) -> str:
    stat = path.stat()
    return _digest_once(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@functools.lru_cache(MAX_FILES)
def _digest_once(path: Path, *_: int) -> str:
    return digest_file(path, ("sha256",)).sha256


def _is_pool(path: Path) -> bool:
    """Whether the folder's Parquet files are rows with uids, and no embeddings of their own."""
    if not path.is_dir():
        return False
    table = next(iter(sorted(path.glob("*.parquet"))), None)
    if table is None:
        return False
    schema = _parquet(table).schema_arrow
    return "uid" in schema.names and not any(_is_vector(field.type) for field in schema)


def parts_of(path: Path, array: str) -> list[Part]:
    """The arrays of a target, one a file or shard; headers are read and checked, values are not."""
    if _is_pool(path):
        return _pool_parts(path, array)
    files = _files(path)
    if path.is_dir():
        passed = [
            p.name for p in path.iterdir() if p.is_file() and p.suffix not in SUFFIXES and p.name[0] != "."
        ]
        if passed:
            say("warning", f"target {path}: {len(passed):,} other files are not read ({sorted(passed)[0]} …)")
    readers = {".npz": _npz_part, ".npy": _npy_part, ".parquet": _table_part}
    return [readers[file.suffix](file, array) for file in files]


def _pool_parts(path: Path, array: str) -> list[Part]:
    pool = Pool.open(path)
    features = open_features(pool, array)

    def blocks(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
        return (values[first : first + READ_ROWS] for first in range(0, len(values), READ_ROWS))

    def uids(file: Path) -> pa.Array:
        column = pq.ParquetFile(file).read(columns=["uid"])["uid"]
        return pa.concat_arrays([chunk.cast(pa.string()) for chunk in column.chunks])

    return [
        Part(
            p.shard.name,
            len(p.values),
            features.width,
            functools.partial(blocks, p.values),
            functools.partial(uids, p.shard.path),
        )
        for p in features.parts
    ]


def _shaped(name: str, shape: tuple[int, ...], dtype: Any) -> tuple[int, int]:
    if len(shape) != 2 or not 1 <= shape[1] <= MAX_WIDTH:
        raise IntegrityError(f"target {name}: its array has shape {shape}, not (rows, width)")
    if np.dtype(dtype) not in (np.float16, np.float32, np.float64):
        raise IntegrityError(f"target {name}: its array holds {dtype}, not float16, 32 or 64")
    return int(shape[0]), int(shape[1])


def _npy_part(path: Path, array: str) -> Part:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        what = (
            "holds Python objects, which are never unpickled" if "allow_pickle" in str(error) else str(error)
        )
        raise IntegrityError(f"target {path.name}: not a readable array: {what}") from error
    if not isinstance(values, np.ndarray):
        raise IntegrityError(f"target {path.name}: an archive under the name of an array")
    rows, width = _shaped(path.name, values.shape, values.dtype)
    return Part(
        path.name,
        rows,
        width,
        lambda: (values[first : first + READ_ROWS] for first in range(0, rows, READ_ROWS)),
    )


def _npz_part(path: Path, array: str) -> Part:
    found = {a.name: a for a in npz_arrays(path)}
    name = array if array in found else next(iter(found), "")
    if array not in found and len(found) != 1:
        raise IntegrityError(
            f"target {path.name}: {len(found)} arrays, and none is {array!r}",
            hint=f"{nearest(array, found)} Keep one array in the file, or name it {array}",
        )
    rows, width = _shaped(path.name, found[name].shape, found[name].dtype)
    return Part(path.name, rows, width, lambda: _member_blocks(path, name, rows, width))


def _member_blocks(path: Path, name: str, rows: int, width: int) -> Iterator[npt.NDArray[Any]]:
    """The rows of one npz member as they are unpacked, so that a packed one needs no room."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as handle:
            version = np.lib.format.read_magic(handle)  # type: ignore[no-untyped-call]
            reader: Any = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                reader = np.lib.format.read_array_header_2_0
            _, fortran, dtype = reader(handle)
            if fortran:
                whole = np.frombuffer(handle.read(), dtype).reshape((width, rows)).T
                yield from (whole[first : first + READ_ROWS] for first in range(0, rows, READ_ROWS))
                return
            for first in range(0, rows, READ_ROWS):
                size = min(READ_ROWS, rows - first) * width * dtype.itemsize
                piece = handle.read(size)
                if len(piece) != size:
                    raise IntegrityError(f"target {path.name}: array {name!r} ends early")
                yield np.frombuffer(piece, dtype).reshape(-1, width)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, zlib.error) as error:
        raise IntegrityError(f"target {path.name}: array {name!r} cannot be read: {error}") from error


def _is_vector(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and pa.types.is_floating(kind.value_type))


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(f"target {path.name}: not a readable Parquet file: {error}") from error


def _table_part(path: Path, array: str) -> Part:
    file = _parquet(path)
    vectors = [field.name for field in file.schema_arrow if _is_vector(field.type)]
    if array not in vectors and len(vectors) != 1:
        raise IntegrityError(
            f"target {path.name}: {len(vectors)} list columns of floats, and none is {array!r}",
            hint=f"{nearest(array, vectors)} Keep one list column in the file, or name it {array}",
        )
    name = array if array in vectors else vectors[0]
    kind = file.schema_arrow.field(name).type
    width = kind.list_size if pa.types.is_fixed_size_list(kind) else _first_width(path, name)
    if file.metadata.num_rows:
        _shaped(path.name, (file.metadata.num_rows, width), kind.value_type.to_pandas_dtype())

    def uids() -> pa.Array:
        column = pq.ParquetFile(path).read(columns=["uid"])["uid"].cast(pa.string())
        return pa.concat_arrays(column.chunks or [pa.array([], pa.string())])

    named = uids if "uid" in file.schema_arrow.names else None
    return Part(path.name, file.metadata.num_rows, width, lambda: _column_blocks(path, name, width), named)


def _batches(path: Path, name: str) -> Iterator[pa.Array]:
    try:
        for batch in _parquet(path).iter_batches(READ_ROWS, columns=[name], use_threads=False):
            yield batch.column(0)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(f"target {path.name}: column {name!r} cannot be read: {error}") from error


def _first_width(path: Path, name: str) -> int:
    for column in _batches(path, name):
        kept = column.drop_null()
        if len(kept):
            return len(kept[0])
    return 0


def _column_blocks(path: Path, name: str, width: int) -> Iterator[npt.NDArray[Any]]:
    for column in _batches(path, name):
        there = column.is_valid().to_numpy(zero_copy_only=False)
        kept = column.drop_null()
        flat = kept.flatten()
        lengths = np.full(len(kept), width)
        if not pa.types.is_fixed_size_list(column.type):
            lengths = np.diff(kept.offsets.to_numpy())
        if (lengths != width).any():
            other = int(lengths[lengths != width][0])
            raise IntegrityError(
                f"target {path.name}: {other:,} numbers in one row of {name!r}, {width:,} in another"
            )
        dtype = np.dtype(column.type.value_type.to_pandas_dtype())
        values = np.full((len(column), width), np.nan, dtype)  # a null number or row becomes NaN
        values[there] = flat.to_numpy(zero_copy_only=False).astype(dtype).reshape(-1, width)
        yield values
