"""Keep freed memory inside the process, so that a loop over blocks pays for its pages once.

glibc hands every block above 128 KiB straight back to the kernel; a loop that allocates the same arrays
again and again then spends more time in page faults than in arithmetic. Sizes in bytes.
"""

from __future__ import annotations

import ctypes
import sys

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
