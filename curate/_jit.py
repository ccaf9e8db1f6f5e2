"""`njit` and `kernel`: numba with a cache of compiled code that knows the sources of all kernels.

numba keeps compiled code by the date and size of the file a function stands in. A function that calls one of another file would go on
with the old code of that other file after a change, and so would an installation whose files keep their dates. So the cache folder
is named after the digest of the kernel files: a change anywhere compiles them again, once, into a folder of its own.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
DRAWING = ("_jit.py", "_png*.py", "generators/_*.py")
POLYGONS = (*DRAWING, "polygons/_*.py")  # these use kernels of the others, not the other way round
KEPT_SECONDS = 30 * 86_400  # folders of other sources that nobody used for so long are removed


def sources(patterns: tuple[str, ...] = POLYGONS) -> list[Path]:
    """The files whose code may be compiled, in a fixed order."""
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})


def sources_digest(patterns: tuple[str, ...] = POLYGONS) -> str:
    """SHA-256 over the names and bytes of `sources`."""
    digest = hashlib.sha256()
    for path in sources(patterns):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


@functools.cache
def _cache_folder(patterns: tuple[str, ...]) -> Path | None:
    """Where compiled code is kept; None where nothing can be written."""
    if os.environ.get("NUMBA_CACHE_DIR"):
        base = Path(os.environ["NUMBA_CACHE_DIR"])
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headwater" / "kernels"
    folder = base / sources_digest(patterns)[:16]
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            _sweep(base)
        os.utime(folder)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _sweep(base: Path) -> None:
    """Remove folders of older sources."""
    for other in base.iterdir():
        ours = re.fullmatch(r"[0-9a-f]{16}", other.name) and other.is_dir()
        if ours and time.time() - other.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(other, ignore_errors=True)


def njit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`numba.njit`, whose cached code (`cache=True`) goes to a folder of these sources; without a writable one nothing is cached."""
    if function is None:
        return lambda found: njit(found, **options)
    import numba

    folder = _cache_folder(POLYGONS if function.__module__.startswith("curate.polygons") else DRAWING)
    if folder is None:
        options.pop("cache", None)
    else:
        config: Any = numba.config
        config.CACHE_DIR = str(folder)
    return numba.njit(function, **options)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` at its first call, with our settings. Never fastmath: sums keep their order."""
    return njit(function, cache=True, nogil=True, error_model="numpy")
