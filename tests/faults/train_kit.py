"""Trainings in processes of their own that die where a test says, and who of them is still alive.

    train(here, "run")                                             the command, to its end
    train(here, "run", fault="engine step - 6 parent:KILL self:KILL")  killed when the loop has done its 6th step
    left(here)                                                     processes that the command started and that still run

A fault is `role event needle nth deeds…`: in the command or the engine (engine0, engine1: of that rank), at the nth audit event
(docs.python.org, "Audit events table") with an argument that holds the needle, or at the nth step of the loop.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater.manifest import Step
from headwater.steps import read_record
from tests.conftest import ROOT, clean_environment
from tests.faults.kit import Done, argv
from tests.train.kit import write_recipe, write_shards

KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
NOT_DESCRIBED = {"timing.json", "report.html", "step.json"}
HOOK = '''\
"""Loaded by every Python process of the test: does the deeds of TEST_FAULT at its place."""
import os, signal, sys

fault = os.environ.get("TEST_FAULT", "").split()
words = " ".join(sys.orig_argv)
role = "engine" if "train._engine" in words and "distributed.run" not in words else ""
role = role or ("command" if "headwater.cli" in words else "other")
left = [int(fault[3])] if fault else []


def count():
    left[0] -= 1
    if left[0] == 0:
        for deed in fault[4:]:
            who, name = deed.split(":")
            os.kill(os.getpid() if who == "self" else os.getppid(), getattr(signal, "SIG" + name))


def watch(event, arguments):
    if event == fault[1] and any(fault[2] in str(one) for one in arguments):
        count()


if fault and fault[0] in (role, role + os.environ.get("RANK", "")):
    if fault[1] == "step":
        from train._record import Recorder
        step = Recorder.step
        Recorder.step = lambda *values: (step(*values), count())[0]
    else:
        sys.addaudithook(watch)
'''


class Payload:
    """Makes a folder when a pickle of it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


def prepare(here: Path, **changes: Any) -> Path:
    """Shards, a recipe and the hook in a folder."""
    write_shards(here / "shards")
    write_recipe(here / "tiny.yaml", **changes)
    (here / "hook").mkdir()
    (here / "hook" / "sitecustomize.py").write_text(HOOK)
    (here / "home").mkdir()
    return here


def line(here: Path, name: str, *more: object, data: Path | None = None) -> list[object]:
    """Arguments of the command; options in `more` come after and win, but shards add up."""
    paths = ["--recipe", here / "tiny.yaml", "--data", data or here / "shards", "-o", here / name]
    return ["train", *paths, "--threads", 1, "--device", "cpu", *more]


def environment(here: Path, fault: str | None = None, **more: str) -> dict[str, str]:
    """What the processes get: nothing of this user's, the hook, and a mark to find them by."""
    path = os.pathsep.join([str(here / "hook"), str(ROOT)])
    marks = {"PYTHONPATH": path, "TEST_MARK": str(here), "TEST_FAULT": fault or "", **more}
    return clean_environment(here / "home", **marks)


def train(
    here: Path,
    name: str,
    *more: object,
    data: Path | None = None,
    fault: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Done:
    """The command in a process of its own."""
    done = subprocess.run(
        argv(*line(here, name, *more, data=data)),
        env=environment(here, fault, **(env or {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
        cwd=cwd or here,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def left(here: Path) -> list[str]:
    """Command lines of the processes of these trainings that still run."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if f"TEST_MARK={here}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(f"{folder.name} {(folder / 'cmdline').read_bytes()!r}")
            except OSError:
                continue  # ended meanwhile, or another user's
    return found


def nobody_left(here: Path, *, patience_seconds: float = 20.0) -> None:
    """All processes end by themselves."""
    until = time.monotonic() + patience_seconds
    while left(here):
        assert time.monotonic() < until, left(here)
        time.sleep(0.1)


def content(run: Path) -> dict[str, str]:
    """SHA-256 of every described file of a run, and the id of its step."""
    files = sorted(p for p in run.rglob("*") if p.is_file() and p.name not in NOT_DESCRIBED)
    found = {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    return {**found, "step": record(run).id}


def record(run: Path) -> Step:
    step = read_record(run)
    assert step is not None
    return step


def attempts(run: Path) -> list[dict[str, Any]]:
    found = json.loads((run / "timing.json").read_text())["attempts"]
    assert isinstance(found, list)
    return found


def job(here: Path, name: str) -> Path:
    """Where an unfinished training keeps what it has."""
    return here / f".{name}.headwater" / "parts" / "job"


def seen(run: Path) -> list[tuple[Any, ...]]:
    """Rows of seen.parquet."""
    import pyarrow.parquet as pq

    table = pq.read_table(run / "seen.parquet")
    columns: Sequence[list[Any]] = [column.to_pylist() for column in table.columns]
    return list(zip(*columns, strict=True))
