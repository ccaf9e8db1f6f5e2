"""Small sets of generated pictures, made in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from curate import making
from curate.make_request import MakeRequest
from headwater.executor import Executor
from headwater.steps import Outcome, RunOptions

SMALL: dict[str, Any] = {
    "vertex_num_min": 8,
    "vertex_num_max": 40,
    "line_num_min": 1,
    "line_num_max": 8,
    "radius_min": 0,
    "start_pos": 24,
    "image_size": 24,
}


def request(classes: int = 5, instances: int = 7, **given: Any) -> MakeRequest:
    """A set of VisualAtom's pictures of 24 pixels."""
    parameters = {**SMALL, **given.pop("parameters", {})}
    return MakeRequest("visualatom", parameters=parameters, classes=classes, instances=instances, **given)


def make(
    output: Path, asked: MakeRequest | None = None, *, executor: Executor | None = None, **how: Any
) -> Outcome:
    """Make it, without a contact sheet unless asked."""
    how = {"sheet": False, **how}
    force = how.get("force", False)
    plan = making.plan_make(asked or request(), output, **how)
    outcome = making.run_make(plan, executor=executor or Executor("serial"), options=RunOptions(force=force))
    assert outcome is not None
    return outcome


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` but the record, which tells times."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "step.json"
    }


class Heard:
    """Collects what is said."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, level: str, text: str, fields: dict[str, Any]) -> None:
        self.texts.append(f"{level}: {text}")

    def progress(self, task: Any) -> None:
        assert task.total is None or 0 <= task.done <= task.total


@contextmanager
def hearing() -> Iterator[list[str]]:
    """What the block says."""
    import headwater.console

    heard = Heard()
    token = headwater.console._sink.set(heard)
    try:
        yield heard.texts
    finally:
        headwater.console._sink.reset(token)


def tar_pictures(folder: Path) -> dict[str, tuple[np.ndarray, int]]:
    """key -> (pixels, class) of all tars, read by Python's own tarfile and Pillow."""
    import io
    import tarfile

    from PIL import Image

    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                handle = tar.extractfile(member)
                assert handle is not None and member.mtime == 0
                key, _, end = member.name.partition(".")
                found.setdefault(key, {})[end] = handle.read()
    return {
        key: (np.asarray(Image.open(io.BytesIO(parts["png"]))), int(parts["cls"]))
        for key, parts in found.items()
    }
