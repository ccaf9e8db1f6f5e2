"""What a command says while it works: events from the library, drawn here and nowhere else.

Library code calls `say` and `track`; who listens is decided once, by the command line:
a rich bar on a terminal, JSON lines with `--json`, one line per interval in a pipe, silence with `--quiet`.
Everything goes to standard error; standard output carries results only.
"""

from __future__ import annotations

import contextvars
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

INTERVAL_SECONDS = 5.0  # between two progress lines when standard error is not a terminal


# what a file's name or a server's words could do to a terminal: shown as \x1b and the like; line ends and tabs stay
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """`text` without characters that steer a terminal."""
    return text.translate(_CONTROL)


class Sink(Protocol):
    """Where events go."""

    def message(self, level: str, text: str, fields: dict[str, Any]) -> None: ...

    def progress(self, task: Track) -> None: ...


@dataclass
class Track:
    """One piece of work with a known (or unknown) length."""

    description: str
    total: int | None
    unit: str
    done: int = 0
    note: str = ""
    started: float = field(default_factory=time.monotonic)
    finished: bool = False

    def add(self, amount: int = 1, note: str | None = None) -> None:
        """Count `amount` more units as done; `note` replaces the text behind the bar."""
        self.done += amount
        if note is not None:
            self.note = note
        _sink.get().progress(self)

    @property
    def rate(self) -> float:
        """Units per second since the start."""
        return self.done / max(time.monotonic() - self.started, 1e-9)


class Silent:
    """Draws nothing (the default for library use)."""

    def message(self, level: str, text: str, fields: dict[str, Any]) -> None:
        pass

    def progress(self, task: Track) -> None:
        pass


class Lines:
    """Plain lines, at most one progress line per task and interval. `as_json` makes each a JSON object."""

    def __init__(self, *, as_json: bool = False, verbose: bool = False) -> None:
        self._json = as_json
        self._verbose = verbose
        self._last: dict[int, float] = {}

    def message(self, level: str, text: str, fields: dict[str, Any]) -> None:
        if level == "debug" and not self._verbose:
            return
        if self._json:
            _write(json.dumps({"event": level, "message": text, **fields}, ensure_ascii=False, default=str))
        else:
            _write(printable(text if level in ("info", "debug") else f"{level}: {text}"))

    def progress(self, task: Track) -> None:
        now = time.monotonic()
        last = self._last.get(id(task), task.started)
        if now - last < INTERVAL_SECONDS:
            return
        self._last[id(task)] = now
        if self._json:
            event = {"event": "progress", "task": task.description, "done": task.done, "total": task.total}
            _write(json.dumps({**event, "unit": task.unit, "per_second": round(task.rate, 1)}))
            return
        share = f" of {task.total:,} ({task.done / task.total:.0%})" if task.total else ""
        left = ""
        if task.total and task.done:
            left = f", {max(task.total - task.done, 0) / task.rate:.0f} s left"
        _write(f"{task.description}: {task.done:,}{share} {task.unit}, {task.rate:,.0f}/s{left}")


class Bars:
    """Rich progress bars with rate and time left, for a terminal."""

    def __init__(self, *, verbose: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._verbose = verbose
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}  {task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
        )
        self._ids: dict[int, Any] = {}

    def message(self, level: str, text: str, fields: dict[str, Any]) -> None:
        if level == "debug" and not self._verbose:
            return
        style = {"warning": "yellow", "error": "red"}.get(level)
        prefix = "" if level in ("info", "debug") else f"{level}: "
        self._console.print(
            printable(prefix + text), style=style, markup=False, highlight=False, soft_wrap=True
        )

    def progress(self, task: Track) -> None:
        key = id(task)
        if key not in self._ids:
            if not self._ids:
                self._progress.start()
            self._ids[key] = self._progress.add_task(
                task.description, total=task.total, unit=task.unit, rate="", note=""
            )
        rate = f"{task.rate:,.0f}/s"
        self._progress.update(self._ids[key], completed=task.done, rate=rate, note=task.note)
        if task.finished:
            self._progress.remove_task(self._ids.pop(key))
            if not self._ids:
                self._progress.stop()


_sink: contextvars.ContextVar[Sink] = contextvars.ContextVar("headwater_sink", default=Silent())  # noqa: B039


def listen(sink: Sink) -> None:
    """Send the events of this process to `sink`."""
    _sink.set(sink)


def choose(*, as_json: bool, quiet: bool, verbose: bool) -> Sink:
    """The sink that the global options ask for."""
    if quiet:
        return Silent()
    if not as_json and sys.stderr is not None and sys.stderr.isatty():
        return Bars(verbose=verbose)
    return Lines(as_json=as_json, verbose=verbose)


def say(level: str, text: str, **fields: Any) -> None:
    """Emit one message. `level` is debug, info, warning or error."""
    _sink.get().message(level, text, fields)


@contextmanager
def track(description: str, total: int | None, unit: str) -> Iterator[Track]:
    """A running piece of work: `with track("filter", total=rows, unit="rows") as bar: bar.add(n)`."""
    task = Track(description, total, unit)
    try:
        yield task
    finally:
        task.finished = True
        _sink.get().progress(task)


def _write(line: str) -> None:
    # a closed standard error must never end the work
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass
