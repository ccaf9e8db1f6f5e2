"""Task families: how a set becomes figures. One file a family; the file's name is the family's name.

A family file's docstring begins with its summary. It may import numpy at the top, torch and PIL only inside functions, and has

    FAMILY = "zeroshot"                 the file's name
    VERSION = 1                         raised whenever the same data and model would give other figures
    SPLITS = ("test",)                  splits that it reads; optional, default ("test",)
    FILES = ()                          further files of the task folder that it reads (so that digests cover them); optional

    def check(task: Task, folder: Path) -> None
        Raises IntegrityError or UsageError when the set or the task's options cannot give the figures: called for every task
        before any time is spent. Shards, sizes, labels and headers of pictures are checked by `train.evaldata.check_split`,
        which the family calls with what it needs.

    def run(task: TaskData, model: Encoder, *, seed: int, workers: int) -> TaskResult
        The figures (train.evaldata.TaskData and Encoder, train.results.TaskResult).

Third parties add families through the entry-point group `headwater.evals`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from headwater.errors import UsageError

if TYPE_CHECKING:
    from train.evaldata import Encoder, TaskData
    from train.results import TaskResult
    from train.suite import Task


class _Check(Protocol):
    def __call__(self, task: Task, folder: Path) -> None: ...


class _Run(Protocol):
    def __call__(self, task: TaskData, model: Encoder, *, seed: int, workers: int) -> TaskResult: ...


@dataclass(frozen=True)
class Family:
    """A family file as loaded."""

    name: str
    version: int
    splits: tuple[str, ...]
    files: tuple[str, ...]
    check: _Check
    run: _Run


@functools.lru_cache
def family_of(name: str) -> Family:
    """The family called `name`. Raises UsageError, offering the nearest name, or when the file breaks the protocol."""
    from headwater.plugins import load

    module = load("evals", name)
    if getattr(module, "FAMILY", None) != name or not isinstance(getattr(module, "VERSION", None), int):
        raise UsageError(f"eval family {name!r}: its file must state FAMILY = {name!r} and a whole VERSION")
    if not callable(getattr(module, "check", None)) or not callable(getattr(module, "run", None)):
        raise UsageError(f"eval family {name!r}: its file must have check() and run()")
    return Family(
        name,
        module.VERSION,
        tuple(getattr(module, "SPLITS", ("test",))),
        tuple(getattr(module, "FILES", ())),
        module.check,
        module.run,
    )
