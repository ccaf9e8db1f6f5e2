"""Feature arrays of a pool: one row of numbers for each row of each shard, read in blocks from where it lies.

An array such as `l14_img` is looked for, shard by shard, in this order:

    POOL/NAME.npz                               a member `l14_img` (DataComp's layout)
    POOL/.headwater/features/SET/NAME.npz       what a scorer of ours made
    POOL/NAME.l14_img.npy                       the array alone
    POOL/NAME.parquet                           a column `l14_img` of fixed-size lists of floats

A member that is stored as it is gets read where it lies in the npz; a packed one, or a column, is written once into the cache.
Values are float16, float32 or float64, and are given out as float32. A row without a direction (zero, NaN, infinite) is never
computed with: `FeatureBlock.bad` says which rows those are and why. Rows are matched by position alone: an array whose rows are in
another order than the shard's cannot be told from a right one, since it carries no uids.

Memory: blocks are plain reads and single rows come from a map whose pages are given back, so a file of any size costs one block.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate._npz import NpzArray, npz_arrays
from curate.pool import Pool, Shard
from headwater.console import say
from headwater.errors import IntegrityError, MissingInput, nearest
from headwater.files import atomic_file, glob_escape, named_io
from headwater.manifest import identity_id

FOLDER = "features"
GOOD, ZERO, NOT_FINITE = 0, 1, 2
REASONS = {ZERO: "features: zero vector", NOT_FINITE: "features: NaN or infinite"}
MAX_WIDTH = 65_536
AT_A_TIME = 256  # rows converted while they are in the cache
TAKEN = 4096  # single rows read before pages of the map are given back
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """The array of one shard: `values` is a memory map of (rows, width) in its own dtype."""

    shard: Shard
    path: Path
    values: npt.NDArray[Any]
    sha256: str  # of the file it lies in


@dataclass(frozen=True)
class FeatureBlock:
    """Rows `first … first + rows - 1` of a shard as float32, C-contiguous; `bad` is 0 for a row that can be used."""

    shard: int
    first: int
    values: Floats
    bad: npt.NDArray[np.uint8]

    @property
    def rows(self) -> int:
        return len(self.values)


class Features:
    """One array over all shards of a pool, in the order of `pool.shards`."""

    def __init__(self, name: str, parts: Sequence[Part], width: int) -> None:
        self.name = name
        self.parts = list(parts)
        self.width = width

    @property
    def rows(self) -> int:
        return sum(len(part.values) for part in self.parts)

    @cached_property
    def id(self) -> str:
        """SHA-256 over the array's name and the digests of the files it lies in, by shard name."""
        return identity_id({"features": self.name, "files": [[p.shard.name, p.sha256] for p in self.parts]})

    def blocks(self, rows: int = 65_536) -> Iterator[FeatureBlock]:
        """All rows in order, at most `rows` of one shard at a time."""
        for number, part in enumerate(self.parts):
            for first in range(0, len(part.values), rows):
                yield self.block(number, first, first + rows)

    def block(self, shard: int, first: int, last: int) -> FeatureBlock:
        """Rows first … last - 1 of shard number `shard`."""
        values = to_float32(_read(self.parts[shard], first, min(last, len(self.parts[shard].values))))
        return FeatureBlock(shard, first, values, unusable(values))

    def take(self, shard: int, rows: npt.NDArray[np.int64]) -> Floats:
        """Some rows of one shard, in the order asked for; reads no others."""
        part = self.parts[shard].values
        out = np.empty((len(rows), self.width), np.float32)
        for first in range(0, len(rows), TAKEN):
            out[first : first + TAKEN] = to_float32(part[rows[first : first + TAKEN]])
            _give_back(part)
        return out


def to_float32(values: npt.NDArray[Any]) -> Floats:
    """A C-contiguous array in float32; the values themselves when they are one."""
    if values.dtype == np.float16 and values.ndim == 2:
        return _from_half(np.ascontiguousarray(values))
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, and is told as such
        return np.ascontiguousarray(values, dtype=np.float32)


def _from_half(values: npt.NDArray[np.float16]) -> Floats:
    """float16 as float32, exactly; NumPy's own conversion is several times slower."""
    out = np.empty(values.shape, np.float32)
    if torch := sys.modules.get("torch"):
        source = values if values.flags.writeable else values.copy()
        torch.from_numpy(out).copy_(torch.from_numpy(source))
        return out
    bits = values.view(np.uint16)
    for first in range(0, len(bits), AT_A_TIME):
        half = bits[first : first + AT_A_TIME]
        wide = half.astype(np.uint32)
        sign = wide & 0x8000
        # the fields of a float32 whose exponent is 112 too small; the product is exact, for subnormals too
        wide &= 0x7FFF
        wide <<= 13
        wide |= sign << 16
        part = np.multiply(wide.view(np.float32), np.float32(2.0**112), out=out[first : first + AT_A_TIME])
        special = (half & 0x7C00) == 0x7C00
        if special.any():
            part[special] = values[first : first + AT_A_TIME][special].astype(np.float32)
    return out


def unusable(values: Floats) -> npt.NDArray[np.uint8]:
    """Why each row has no direction: 0 (it has one), ZERO or NOT_FINITE."""
    # a sum of squares of finite float32 can overflow; the largest magnitude cannot
    largest = np.empty(len(values), np.float32)
    for first in range(0, len(values), AT_A_TIME):
        part = np.abs(values[first : first + AT_A_TIME])
        part.max(axis=1, initial=0, out=largest[first : first + AT_A_TIME])
    bad = np.where(np.isfinite(largest), GOOD, NOT_FINITE).astype(np.uint8)
    bad[largest == 0] = ZERO
    return bad


def normalise(values: Floats) -> Floats:
    """Rows scaled to length 1, in float64 and rounded once; a row without a direction stays as it is."""
    out = np.empty(values.shape, np.float32)
    for first in range(0, len(values), AT_A_TIME):
        exact = values[first : first + AT_A_TIME].astype(np.float64)
        length = np.sqrt(np.add.reduce(exact * exact, axis=1))
        length[~np.isfinite(length) | (length == 0)] = 1
        exact /= length[:, None]
        out[first : first + AT_A_TIME] = exact
    return out


def _read(part: Part, first: int, last: int) -> npt.NDArray[Any]:
    """Rows of a part as a plain read: mapped pages would stay in memory, and a file cut short would end the process."""
    values = part.values
    if not isinstance(values, np.memmap) or not values.flags.c_contiguous or last <= first:
        rows = np.array(values[first:last])
        _give_back(values)
        return rows
    width = values.shape[1]
    start = values.offset + first * width * values.itemsize
    wanted = (last - first) * width
    with named_io(part.path):
        flat = np.fromfile(str(values.filename), values.dtype, wanted, offset=start)
    if len(flat) != wanted:
        raise IntegrityError(f"{part.path.name}: it became shorter while it was read")
    return flat.reshape(last - first, width)


def _give_back(values: npt.NDArray[Any]) -> None:
    """Let the kernel take the pages that were read through a map."""
    whole = getattr(values, "_mmap", None)
    if isinstance(whole, mmap.mmap):
        whole.madvise(mmap.MADV_DONTNEED)


def open_features(pool: Pool, name: str) -> Features:
    """The array `name` of every shard.

    Raises MissingInput (a shard has no such array; the hint names those it has) and IntegrityError (another number of rows or
    another width, a dtype that is no float, a damaged npz).
    """
    parts = [_part(pool, shard, name) for shard in pool.shards]
    widths = {part.values.shape[1] for part in parts}
    if len(widths) > 1:
        first = parts[0]
        other = next(part for part in parts if part.values.shape[1] != first.values.shape[1])
        raise IntegrityError(
            f"features {name}: {other.values.shape[1]} numbers a row in shard {other.shard.name}, "
            f"but {first.values.shape[1]} in shard {first.shard.name}"
        )
    return Features(name, parts, widths.pop() if widths else 0)


def feature_names(pool: Pool) -> list[str]:
    """Arrays that the first shard has."""
    return _names(pool, pool.shards[0]) if pool.shards else []


def _names(pool: Pool, shard: Shard) -> list[str]:
    found = [array.name for path in _archives(pool, shard) for array in npz_arrays(path)]
    found += [p.name[len(shard.name) + 1 : -4] for p in pool.path.glob(f"{glob_escape(shard.name)}.*.npy")]
    found += [name for name, kind in shard.types.items() if _is_vector(kind)]
    return sorted(set(found))


def _archives(pool: Pool, shard: Shard) -> list[Path]:
    own = [shard.features] if shard.features else []
    return own + sorted((pool.cache / FOLDER).glob(f"*/{glob_escape(shard.name)}.npz"))


def _part(pool: Pool, shard: Shard, name: str) -> Part:
    for path in _archives(pool, shard):
        for array in npz_arrays(path):
            if array.name == name:
                sha256 = _sha256(pool, path)
                return Part(shard, path, _check(_mapped(path, array, pool, sha256), shard, name), sha256)
    alone = pool.path / f"{shard.name}.{name}.npy"
    if alone.is_file():
        return Part(shard, alone, _check(_load(alone), shard, name), _sha256(pool, alone))
    if _is_vector(shard.types.get(name)):
        return Part(shard, shard.path, _column(pool, shard, name), pool.digests(shard).sha256)
    seen = _names(pool, shard)
    what = f"it has {', '.join(seen)}; {nearest(name, seen)}" if seen else "it has none"
    raise MissingInput(
        f"shard {shard.name}: no features {name!r}",
        hint=f"{what}. They lie in {shard.name}.npz beside the shard, or headwater score clip makes them from pictures",
    )


def _sha256(pool: Pool, path: Path) -> str:
    return pool.file_digests([os.path.relpath(path, pool.path)])[0].sha256


def _check(values: npt.NDArray[Any], shard: Shard, name: str) -> npt.NDArray[Any]:
    if values.ndim != 2 or not 1 <= values.shape[1] <= MAX_WIDTH:
        raise IntegrityError(
            f"shard {shard.name}: features {name} have shape {values.shape}, not (rows, width)"
        )
    if values.dtype not in (np.float16, np.float32, np.float64):
        raise IntegrityError(f"shard {shard.name}: features {name} are {values.dtype}, not float16, 32 or 64")
    if len(values) != shard.rows:
        raise IntegrityError(
            f"shard {shard.name}: {len(values):,} rows of features {name}, but the shard has {shard.rows:,}",
            hint="features and shard are not of one pool: fetch both again",
        )
    return values


def _mapped(path: Path, array: NpzArray, pool: Pool, sha256: str) -> npt.NDArray[Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(f"{array.name}.npy")
            if not array.compressed:
                with path.open("rb") as handle:
                    handle.seek(entry.header_offset)
                    local = handle.read(30)
                    if len(local) != 30 or local[:4] != b"PK\x03\x04":
                        raise IntegrityError(
                            f"{path.name}: the header of member {entry.filename!r} is damaged"
                        )
                    names, extra = struct.unpack("<HH", local[26:30])
                    handle.seek(entry.header_offset + 30 + names + extra)
                    return _map_npy(path, handle)
            inflated = _kept(pool, sha256, array.name)
            if not _sound(inflated, array.shape):
                say("info", f"{path.name}: {array.name} is packed, and unpacked once into {inflated.parent}")
                with archive.open(entry) as source, atomic_file(inflated, durable=False) as target:
                    while piece := source.read(1 << 22):
                        target.write(piece)
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, struct.error) as error:
        raise IntegrityError(
            f"{path.name}: array {array.name!r} cannot be read: {error}", hint="fetch the features again"
        ) from error
    return _load(inflated)


def _kept(pool: Pool, sha256: str, name: str) -> Path:
    """Where an array lies that had to be unpacked."""
    path = pool.cache / FOLDER / "inflated" / f"{sha256[:32]}-{name}.npy"
    with named_io(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _sound(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        return path.is_file() and _load(path).shape == shape
    except IntegrityError:
        return False  # cut short: it is made anew


def _load(path: Path) -> npt.NDArray[Any]:
    try:
        with path.open("rb") as handle:
            return _map_npy(path, handle)
    except (ValueError, OSError, EOFError, SyntaxError, TypeError) as error:
        raise IntegrityError(f"{path.name}: not a readable array: {error}") from error


def _map_npy(path: Path, handle: Any) -> npt.NDArray[Any]:
    version = np.lib.format.read_magic(handle)  # type: ignore[no-untyped-call]
    reader: Any = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        reader = np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(handle)
    if dtype.hasobject:
        raise IntegrityError(f"{path.name}: holds Python objects, which are never unpickled")
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", handle.tell(), shape, "F" if fortran else "C")


def _is_vector(kind: pa.DataType | None) -> bool:
    return kind is not None and bool(
        pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)
    )


def _column(pool: Pool, shard: Shard, name: str) -> npt.NDArray[Any]:
    """A column of vectors, written once into the cache; a null row becomes NaN, and so is told as unusable."""
    kind = shard.types[name]
    kept = _kept(pool, pool.digests(shard).sha256, name)
    shape = (shard.rows, int(kind.list_size))
    if not _sound(kept, shape):
        dtype = np.dtype(kind.value_type.to_pandas_dtype())
        try:
            file = pq.ParquetFile(shard.path)
            with atomic_file(kept, durable=False) as target:
                facts = {"descr": dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(target, facts)  # type: ignore[no-untyped-call]
                for batch in file.iter_batches(8192, columns=[name], use_threads=False):
                    rows = batch.column(0)
                    flat = (
                        rows.flatten()
                        if not rows.null_count
                        else rows.fill_null([np.nan] * shape[1]).flatten()
                    )
                    target.write(np.ascontiguousarray(flat.fill_null(np.nan), dtype).tobytes())
        except (pa.ArrowException, ValueError) as error:
            raise IntegrityError(f"shard {shard.name}: column {name!r} cannot be read: {error}") from error
    return _check(_load(kept), shard, name)
