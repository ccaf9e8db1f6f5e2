"""Folders to publish, and the command that publishes them, in this process."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distribute.publishing import PublishOptions, publish
from headwater.steps import RunOptions

PIECE = 1 << 18


def some_tree(folder: Path, *, seed: int = 0, old: bool = True) -> Path:
    """Files around the limits of chunks, pieces and blocks; `old`: an hour old, so that the digest cache takes them."""
    make = random.Random(seed)
    files = {
        "a.txt": b"hello\n",
        "empty": b"",
        "sub/é 1.bin": make.randbytes(300_000),
        "sub/deep/same.bin": make.randbytes(20_000),
        "sub/big.bin": make.randbytes(2_500_000),
        "z.bin": make.randbytes(PIECE),
    }
    write_tree(folder, files, old=old)
    (folder / "nothing inside").mkdir()
    return folder


def write_tree(folder: Path, files: Mapping[str, bytes], *, old: bool = True) -> None:
    """Write the files; `old` sets their times an hour back."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if old:
            age(path)


def age(path: Path) -> None:
    """Make a file an hour old: the cache does not believe files of the last two seconds."""
    moment = time.time_ns() - 3600 * 10**9
    os.utime(path, ns=(moment, moment))


def make_release(
    folder: Path, output: Path, *, run: RunOptions | None = None, **options: Any
) -> dict[str, Any]:
    """Publish `folder` at `output` in this process and return the facts."""
    return publish(folder, output, PublishOptions(**options), run or RunOptions(), workers=2)
