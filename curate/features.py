"""Feature arrays of a pool: one row of numbers for each row of each shard, read through memory maps.

An array such as `l14_img` is looked for, shard by shard, in this order:

    POOL/NAME.npz                               a member `l14_img` (DataComp's layout)
    POOL/NAME.l14_img.npy                       the array alone
    POOL/.headwater/features/SET/NAME.npz       what a scorer of ours made

A member that is stored as it is gets mapped where it lies in the npz; a packed one is inflated once into the cache. Values are
float16, float32 or float64, and are given out as float32. A row without a direction (zero, NaN, infinite) is never computed with:
`Block.bad` says which rows those are and why.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate._npz import NpzArray, npz_arrays
from curate.pool import Pool, Shard
from headwater.console import say
from headwater.errors import IntegrityError, MissingInput, nearest
from headwater.files import atomic_file
from headwater.hashing import digest_file
from headwater.manifest import identity_id

FOLDER = "features"
GOOD, ZERO, NOT_FINITE = 0, 1, 2
REASONS = {ZERO: "features: zero vector", NOT_FINITE: "features: NaN or infinite"}
MAX_WIDTH = 65_536
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
        values = to_float32(self.parts[shard].values[first:last])
        return FeatureBlock(shard, first, values, unusable(values))

    def take(self, shard: int, rows: npt.NDArray[np.int64]) -> Floats:
        """Some rows of one shard, in the order asked for; reads no others."""
        return to_float32(self.parts[shard].values[rows])


def to_float32(values: npt.NDArray[Any]) -> Floats:
    """A C-contiguous copy in float32."""
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, and is told as such
        return np.ascontiguousarray(values, dtype=np.float32)


def unusable(values: Floats) -> npt.NDArray[np.uint8]:
    """Why each row has no direction: 0 (it has one), ZERO or NOT_FINITE."""
    # a sum of squares of finite float32 can overflow; the largest magnitude cannot
    largest = np.abs(values).max(axis=1, initial=0)
    bad = np.where(np.isfinite(largest), GOOD, NOT_FINITE).astype(np.uint8)
    bad[largest == 0] = ZERO
    return bad


def normalise(values: Floats) -> Floats:
    """Rows scaled to length 1; a row without a direction stays as it is."""
    length = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
    length[~np.isfinite(length) | (length == 0)] = 1
    return np.asarray(values / length[:, None], np.float32)


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
    if not pool.shards:
        return []
    shard = pool.shards[0]
    found = [array.name for path in _archives(pool, shard) for array in npz_arrays(path)]
    found += [p.name[len(shard.name) + 1 : -4] for p in pool.path.glob(f"{shard.name}.*.npy")]
    return sorted(set(found))


def _archives(pool: Pool, shard: Shard) -> list[Path]:
    own = [shard.features] if shard.features else []
    return own + sorted((pool.cache / FOLDER).glob(f"*/{shard.name}.npz"))


def _part(pool: Pool, shard: Shard, name: str) -> Part:
    seen: list[str] = []
    alone = pool.path / f"{shard.name}.{name}.npy"
    for path in _archives(pool, shard):
        arrays = {array.name: array for array in npz_arrays(path)}
        if name in arrays:
            sha256 = _sha256(pool, path)
            return Part(shard, path, _check(_mapped(path, arrays[name], pool, sha256), shard, name), sha256)
        seen += arrays
    if alone.is_file():
        try:
            values = np.load(alone, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise IntegrityError(f"{alone.name}: not a readable array: {error}") from error
        return Part(shard, alone, _check(values, shard, name), _sha256(pool, alone))
    what = f"it has {', '.join(sorted(set(seen)))}; {nearest(name, seen)}" if seen else "it has none"
    raise MissingInput(
        f"shard {shard.name}: no features {name!r}",
        hint=f"{what}. They lie in {shard.name}.npz beside the shard, or headwater score clip makes them from pictures",
    )


def _sha256(pool: Pool, path: Path) -> str:
    if path.parent == pool.path:
        return pool.file_digests([path.name])[0].sha256
    return digest_file(path, ("sha256",)).sha256


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
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{array.name}.npy")
        if not array.compressed:
            with path.open("rb") as handle:
                handle.seek(entry.header_offset)
                local = handle.read(30)
                if len(local) != 30 or local[:4] != b"PK\x03\x04":
                    raise IntegrityError(f"{path.name}: the header of member {entry.filename!r} is damaged")
                names, extra = struct.unpack("<HH", local[26:30])
                handle.seek(entry.header_offset + 30 + names + extra)
                return _map_npy(path, handle)
        inflated = pool.cache / FOLDER / "inflated" / f"{sha256[:16]}-{array.name}.npy"
        if not inflated.is_file():
            say("info", f"{path.name}: {array.name} is packed, and unpacked once into {inflated.parent}")
            inflated.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, atomic_file(inflated, durable=False) as target:
                while piece := source.read(1 << 22):
                    target.write(piece)
    return np.asarray(np.load(inflated, mmap_mode="r", allow_pickle=False))


def _map_npy(path: Path, handle: Any) -> npt.NDArray[Any]:
    version = np.lib.format.read_magic(handle)  # type: ignore[no-untyped-call]
    reader: Any = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        reader = np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(handle)
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", handle.tell(), shape, "F" if fortran else "C")
