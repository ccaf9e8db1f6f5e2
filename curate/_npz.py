"""Reads what an npz claims to hold (names, shapes, dtypes) from its headers, without inflating the arrays.

Layout: a zip of NPY files (format versions 1 to 3). Only the first bytes of each member are read, at most 64 KiB; nothing is
unpickled, and a member whose header and zip entry disagree about its size is refused. Sizes in bytes.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwater.errors import IntegrityError

MAX_HEADER_BYTES = 1 << 16
MAX_ARRAYS = 1000


@dataclass(frozen=True)
class NpzArray:
    """One array of an npz. `rows` is its first dimension (0 for a scalar)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored_bytes: int
    compressed: bool

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 0


def npz_arrays(path: Path) -> list[NpzArray]:
    """The arrays of `path`, sorted by name.

    Raises IntegrityError naming file and array: not a zip, not NPY, object dtype, a size that does not fit, encrypted.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ARRAYS:
                raise IntegrityError(
                    f"{path.name}: {len(entries):,} members, at most {MAX_ARRAYS:,} are read"
                )
            names = [entry.filename for entry in entries]
            if len(set(names)) != len(names):
                raise IntegrityError(f"{path.name}: two members have one name")
            return sorted(
                (_header(archive, entry, path.name) for entry in entries), key=lambda array: array.name
            )
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise IntegrityError(
            f"{path.name}: not a readable npz: {error}", hint="fetch the features again"
        ) from error


def _header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: str) -> NpzArray:
    name = entry.filename.removesuffix(".npy")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise IntegrityError(
            f"{file}: array {name!r} is packed by method {entry.compress_type}, which is not read"
        )
    with archive.open(entry) as handle:
        start = io.BytesIO(handle.read(min(MAX_HEADER_BYTES, entry.file_size)))
    try:
        version = np.lib.format.read_magic(start)  # type: ignore[no-untyped-call]
        reader: Any = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            reader = np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(start)
    except (ValueError, SyntaxError, TypeError, EOFError) as error:
        raise IntegrityError(f"{file}: member {entry.filename!r} is not an array: {error}") from error
    if dtype.hasobject:
        raise IntegrityError(
            f"{file}: array {name!r} holds Python objects, which are never unpickled",
            hint="save it with a plain dtype",
        )
    wanted = start.tell() + math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or wanted != entry.file_size:
        raise IntegrityError(
            f"{file}: array {name!r} of shape {shape} needs {wanted:,} bytes, but its member has {entry.file_size:,}",
            hint="the file is damaged: fetch it again",
        )
    packed = entry.compress_type != zipfile.ZIP_STORED
    return NpzArray(name, tuple(int(n) for n in shape), str(dtype), entry.compress_size, packed)
