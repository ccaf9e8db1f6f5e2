"""Columns that grow without being copied: in anonymous memory, or, from some size on, in a temporary file that is mapped at the end.

Pages of a mapped file can be dropped by the system when memory is short, and are counted only once they are used.
"""

from __future__ import annotations

import mmap
import tempfile
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headwater.files import named_io

SPILL_BYTES = 2 << 20


class Doubles:
    """Appends float64 arrays; `finish` gives them as one Arrow array."""

    def __init__(self, spill_bytes: int = SPILL_BYTES) -> None:
        self._limit = spill_bytes
        self._held: list[npt.NDArray[np.float64]] = []
        self._bytes = 0
        self._file: IO[bytes] | None = None
        self.count = 0

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Append a copy of `values`."""
        if not len(values):
            return
        self.count += len(values)
        self._held.append(values.copy())
        self._bytes += values.nbytes
        if self._bytes > (self._limit if self._file is None else self._limit // 4):
            self._flush()

    def _flush(self) -> None:
        with named_io(tempfile.gettempdir(), bytes_needed=self.count * 8):
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="headwater-")  # noqa: SIM115
            for held in self._held:
                self._file.write(held.data)
        self._held.clear()
        self._bytes = 0

    def finish(self) -> pa.Array:
        """All values; the object is used up."""
        if self._file is None:
            values = np.concatenate(self._held) if self._held else np.zeros(0)
            self._held.clear()
            return pa.array(values)
        self._flush()
        self._file.flush()
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self._file.close()
        return pa.Array.from_buffers(pa.float64(), self.count, [None, pa.py_buffer(mapped)])


class Grown:
    """Appends numbers of one type; the memory is moved by the system when it must grow, never copied by us."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self._map = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._bytes = 0

    @property
    def count(self) -> int:
        """How many there are."""
        return self._bytes // self._dtype.itemsize

    def add(self, values: npt.NDArray[Any]) -> None:
        """Append a copy of `values`."""
        data = np.ascontiguousarray(values, self._dtype)
        end = self._bytes + data.nbytes
        if end > len(self._map):
            self._map.resize(max(end, len(self._map) * 3 // 2))
        self._map[self._bytes : end] = data.tobytes()
        self._bytes = end

    def finish(self) -> npt.NDArray[Any]:
        """All values, as a view of this memory; nothing can be added afterwards."""
        return np.frombuffer(self._map, self._dtype, self.count)
