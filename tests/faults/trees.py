"""Small trees, and what a refusal to publish one must look like."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults import kit


def tree(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    for path, data in (files or {"a.txt": b"one", "sub/b.bin": b"two"}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def refused(folder: Path, code: int, *named: str, options: tuple[object, ...] = ()) -> kit.Done:
    """Publishing ends with `code`, names everything in `named`, and leaves nothing."""
    output = folder.parent / "release"
    done = kit.run("publish", folder, "-o", output, *options)
    assert done.code == code, done
    for name in named:
        assert name in done.said, done
    kit.nothing_at(output)
    assert not (folder / ".headwater").exists()
    return done


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything; nobody may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
