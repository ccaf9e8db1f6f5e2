"""Keep freed memory inside the process, so that a loop over blocks pays for its pages once.

glibc hands every block above 128 KiB straight back to the kernel; a loop that allocates the same arrays
again and again then spends more time in page faults than in arithmetic. Sizes in bytes.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.abc
import sys

import numpy as np

_M_TRIM_THRESHOLD = -1  # mallopt(3)
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3

MMAP_THRESHOLD_BYTES = 32 << 20  # the largest value glibc accepts on 64 bit
TRIM_THRESHOLD_BYTES = 64 << 20  # how much freed memory at the top of the heap may be kept
TOP_PAD_BYTES = 1 << 20


def tune_allocator() -> bool:
    """Tell glibc to reuse large blocks; True when it agreed, False (and nothing done) on any other libc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018  musl has a mallopt stub, but not this name
    except (OSError, AttributeError):
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    settings = (
        (_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
        (_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
        (_M_TOP_PAD, TOP_PAD_BYTES),
    )
    agreed = [mallopt(name, value) == 1 for name, value in settings]
    return all(agreed)


def tune_process() -> None:
    """Settings for a process of our own (a command or a worker), never for a program that only imports us."""
    tune_allocator()
    leave_pandas_out()


@functools.lru_cache(maxsize=1)
def leave_pandas_out() -> None:
    """Keep pyarrow from importing pandas, which it tries at the first array it makes: 0.3 CPU s for nothing."""
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    refuse = _NoPandas()
    sys.meta_path.insert(0, refuse)
    try:
        pa.array([1]).to_numpy(zero_copy_only=False)
        pa.array(np.zeros(1))
    finally:
        sys.meta_path.remove(refuse)


class _NoPandas(importlib.abc.MetaPathFinder):
    """Says that there is no pandas, for as long as it stands in sys.meta_path."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is left out", name="pandas")
