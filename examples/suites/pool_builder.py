"""examples/openclipart/build.py under a name of its own, since every example's script is called build.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

SCRIPT = Path(__file__).resolve().parent.parent / "openclipart" / "build.py"
NAME = "openclipart_build"


def load_pool_builder() -> ModuleType:
    """Its functions render, encode and describe: pictures and rows are the pool's to the byte."""
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(NAME, SCRIPT)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = module
        spec.loader.exec_module(module)
    return sys.modules[NAME]
