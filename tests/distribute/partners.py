"""Real programs and packages that tests talk to: a skip with its reason where one is absent.

`HEADWATER_PARTNERS=required` turns every such skip into a failure: for a machine that was prepared to have them all, but for
those that `HEADWATER_PARTNERS_ABSENT` lists (names of programs or variables, with blanks), which it could not have.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest


def absent(reason: str) -> NoReturn:
    """Skip, or fail where partners are required."""
    excused = os.environ.get("HEADWATER_PARTNERS_ABSENT", "").split()
    if os.environ.get("HEADWATER_PARTNERS") == "required" and not any(name in reason for name in excused):
        pytest.fail(f"a partner is required here: {reason}")
    pytest.skip(reason)


def need_program(name: str) -> str:
    """The path of a program."""
    found = shutil.which(name)
    if found is None:
        absent(f"no program {name}")
    return found


def need_module(name: str) -> ModuleType:
    """An importable module."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        absent(f"no module {name}: {error}")


def need_folder(variable: str, what: str) -> Path:
    """A folder that an environment variable names."""
    value = os.environ.get(variable)
    if not value or not Path(value).is_dir():
        absent(f"{variable} names no folder with {what}")
    return Path(value)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own that is ended, with its children, when the block is left."""
    options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("stdout", subprocess.DEVNULL)
    options.setdefault("stderr", subprocess.DEVNULL)
    process = subprocess.Popen([str(part) for part in command], start_new_session=True, **options)
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                break
            try:
                process.wait(5)
                break
            except subprocess.TimeoutExpired:
                continue
        process.wait(5)


def until(condition: Callable[[], Any], *, seconds: float, what: str) -> Any:
    """Ask `condition` until it gives something true; fails naming `what` after `seconds`."""
    import time

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := condition():
            return answer
        time.sleep(0.05)
    pytest.fail(f"not within {seconds:g} s: {what}")
