"""Compiled code is cached by the sources of all kernels, so that no kernel goes on with the old form of another one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from curate import _jit

PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from curate.generators import _one
print(_one.outer(1))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A package with two kernel files, of which one calls the other."""
    package = tmp_path / "code" / "curate"
    (package / "generators").mkdir(parents=True)
    shutil.copy(_jit.__file__, package / "_jit.py")
    for folder in (package, package / "generators"):
        (folder / "__init__.py").write_text("")
    (package / "generators" / "_one.py").write_text(
        "from curate._jit import kernel\nfrom curate.generators._two import inner\n\n\n"
        "@kernel\ndef outer(x):\n    return inner(x) + 1\n"
    )
    (package / "generators" / "_two.py").write_text(
        "from curate._jit import kernel\n\n\n@kernel\ndef inner(x):\n    return x + 10\n"
    )
    return package


def run(copy: Path, cache: Path) -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM.format(root=str(copy.parent))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_change_in_another_file_is_seen(copy: Path, tmp_path: Path) -> None:
    cache, other = tmp_path / "cache", copy / "generators" / "_two.py"
    assert run(copy, cache) == "12"
    assert list(cache.rglob("*.nbc")), "nothing was cached"
    before = other.stat()
    other.write_text(other.read_text().replace("10", "20"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert run(copy, cache) == "22"
    assert len(list(cache.iterdir())) == 2


def test_old_folders_are_swept_and_others_left(copy: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    long_ago = time.time() - 2 * _jit.KEPT_SECONDS
    for name in ("0123456789abcdef", "of someone else"):
        (cache / name).mkdir(parents=True)
        os.utime(cache / name, (long_ago, long_ago))
    assert run(copy, cache) == "12"
    assert not (cache / "0123456789abcdef").exists()
    assert (cache / "of someone else").is_dir()


def test_without_a_folder_to_write_nothing_is_cached(copy: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert run(copy, blocked / "below") == "12"


def test_every_kernel_file_is_among_the_sources() -> None:
    root = Path(_jit.__file__).parent
    using = {
        path for path in root.rglob("*.py") if "from curate._jit import" in path.read_text(encoding="utf-8")
    }
    assert using <= set(_jit.sources()) and using
    direct = [
        path for path in root.rglob("*.py") if "from numba import njit" in path.read_text(encoding="utf-8")
    ]
    assert direct == []
