"""The modules of examples/suites and examples/mixed, imported as their scripts import them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
SUITES = ROOT / "examples" / "suites"
OWN = [
    "clipart",
    "clipart_tasks",
    "digit_tasks",
    "emoji_tasks",
    "mixed_build",
    "near",
    "openclipart_build",
    "pool_builder",
    "sources",
    "stamp_tasks",
    "suites_build",
    "wds",
]


@contextmanager
def modules() -> Iterator[SimpleNamespace]:
    """The builders' modules by name; both scripts are called build.py, so they get names of their own."""
    before = list(sys.path)
    sys.path[:0] = [str(SUITES), str(ROOT / "examples" / "openclipart")]
    try:
        found = {}
        for name, path in (("suites_build", SUITES), ("mixed_build", ROOT / "examples" / "mixed")):
            spec = importlib.util.spec_from_file_location(name, path / "build.py")
            assert spec is not None
            assert spec.loader is not None
            found[name] = importlib.util.module_from_spec(spec)
            sys.modules[name] = found[name]
            spec.loader.exec_module(found[name])
        names = [n for n in OWN if n in sys.modules and n not in found]
        yield SimpleNamespace(**found, **{n: sys.modules[n] for n in names})
    finally:
        sys.path[:] = before
        for name in OWN:
            sys.modules.pop(name, None)
