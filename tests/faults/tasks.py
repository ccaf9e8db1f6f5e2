"""Functions that worker processes run in tests; top-level, so that they can be named to another process."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from headwater.errors import IntegrityError


def square(number: int) -> int:
    time.sleep(0.002 * (number % 3))  # later shards finish first
    return number * number


def bytes_of(number: int) -> bytes:
    return bytes([number % 256]) * 1000


def refuse(number: int) -> int:
    if number == 3:
        raise IntegrityError(f"shard {number}: damaged", hint="fetch it again")
    return number


def die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_once(item: tuple[int, str]) -> int:
    number, mark = item
    if number == 3 and not Path(mark).exists():
        Path(mark).write_text("died")
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def pid_and_safe_path(number: int) -> tuple[int, bool, str]:
    return os.getpid(), bool(sys.flags.safe_path), sys.path[0]


def sleep_long(number: int) -> int:
    if number:
        time.sleep(60)
    return os.getpid()
