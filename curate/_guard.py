"""A scorer that is not ours, called so that nothing it does goes further than an error with its name, the shard and the rows.

It may raise, give back anything, print, fork or never return. Ours are called straight. What cannot be contained in the same process
is code that ends the process (os._exit, a crash): the run then stops, and the next one finds whole files only.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.pool import family
from curate.sidecars import ScorerRef
from headwater.console import printable, say
from headwater.errors import HeadwaterError
from headwater.plugins import contained

TIME_LIMIT_SECONDS = (
    600.0  # for one block of rows; a scorer's own TIME_LIMIT_SECONDS goes before it, --time-limit before both
)
AGAIN_SECONDS = 1.0  # between two attempts to stop one that catches what stops it
ATTEMPTS = 5
GRACE_SECONDS = (
    10.0  # after that, one that does not even let Python look at signals is ended with the process
)
MOST_LINES, MOST_LINE = 20, 500  # of what one call prints


@dataclass(frozen=True)
class Place:
    """Which rows of which shard: numbers from `first` to `last`, both included."""

    shard: str
    first: int
    last: int

    def __str__(self) -> str:
        rows = f"row {self.first:,}" if self.first == self.last else f"rows {self.first:,} to {self.last:,}"
        return f"shard {self.shard}, {rows}"


@dataclass
class Tally:
    """What was noticed over all calls of a shard."""

    nan: int = 0  # rows whose score is not a number; they count as rows without a score
    places: list[str] = field(default_factory=list)


class _TooLong(BaseException):
    """Raised by the timer inside the scorer; no Exception, so that a broad `except` does not pass it over."""


def score(
    ref: ScorerRef,
    batch: pa.RecordBatch,
    place: Place,
    *,
    seconds: float | None = None,
    tally: Tally | None = None,
) -> pa.RecordBatch:
    """What `ref` gives for the rows of `batch`, under the names and types that it declares.

    Raises HeadwaterError when a scorer that is not ours raises, takes longer than `seconds`, or gives anything but one value of the
    declared family for every row. NaN becomes null and is told.
    """
    if not ref.plugin.foreign:
        return ref.scorer.score(batch)
    limit = seconds or float(getattr(ref.module, "TIME_LIMIT_SECONDS", TIME_LIMIT_SECONDS))
    who = f"scorer {ref.name}: {place}"
    scorer, outputs = ref.scorer, ref.outputs
    process = os.getpid()
    printed = _Lines()
    try:
        with contained(who, "raised"), _standard_output_elsewhere(printed), _time_limit(who, limit):
            made = scorer.score(batch)
    finally:
        if os.getpid() != process:
            os._exit(0)
        for line in printed.lines:
            _tell("info", f"scorer {ref.name} says: {line}")
    return _checked(ref, made, outputs, batch.num_rows, who, place, tally)


def _checked(
    ref: ScorerRef,
    made: Any,
    outputs: dict[str, str],
    rows: int,
    who: str,
    place: Place,
    tally: Tally | None,
) -> pa.RecordBatch:
    if not isinstance(made, pa.RecordBatch):
        raise HeadwaterError(f"{who}: gave {type(made).__name__}, not a pyarrow.RecordBatch")
    names = list(made.schema.names)
    if sorted(names) != sorted(outputs):
        raise HeadwaterError(
            f"{who}: gave the columns {', '.join(names) or 'none'}, and declares {', '.join(outputs)}"
        )
    if made.num_rows != rows:
        raise HeadwaterError(f"{who}: gave {made.num_rows:,} scores for {rows:,} rows")
    arrays, nan = [], np.zeros(rows, bool)
    for name, kind in outputs.items():
        array, wanted = made.column(name), pa.type_for_alias(kind)
        try:
            made.column(name).validate(full=True)
            if not _fits(array.type, wanted):
                raise pa.ArrowTypeError(f"it is {array.type}")
            if pa.types.is_floating(array.type):
                wrong = pc.fill_null(pc.is_nan(array), False)
                if (true := np.asarray(wrong.to_numpy(zero_copy_only=False))).any():
                    nan |= true
                    array = pc.if_else(wrong, pa.scalar(None, array.type), array)
            arrays.append(array.cast(wanted))
        except (pa.ArrowException, ValueError) as error:
            told = str(error).splitlines()[0][:200]
            raise HeadwaterError(
                f"{who}: column {name!r} does not fit the declared {kind}: {told}"
            ) from error
    if nan.any():
        count = int(np.count_nonzero(nan))
        _tell("warning", f"{who}: {count:,} of {rows:,} scores are NaN, and count as no score")
        if tally is not None:
            tally.nan += count
    return pa.RecordBatch.from_arrays(arrays, names=list(outputs))


def _fits(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Of one family, or whole numbers where floats are declared; never text read as a number."""
    if pa.types.is_null(given) or given == wanted:
        return True
    kinds = family(given), family(wanted)
    return kinds[0] != "other" and (kinds[0] == kinds[1] or kinds == ("integer", "float"))


class _Lines(io.TextIOBase):
    """A place for what is printed: the first lines, each cut."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._open = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._open += text
        *whole, self._open = self._open.split("\n")
        for line in whole:
            self._add(line)
        self._open = self._open[: MOST_LINE + 1]
        return len(text)

    def finish(self) -> None:
        """Take what was printed without an end of line."""
        if self._open:
            self._add(self._open)
        self._open = ""

    def _add(self, line: str) -> None:
        if len(self.lines) < MOST_LINES:
            self.lines.append(line[:MOST_LINE])
        elif len(self.lines) == MOST_LINES:
            self.lines.append("… and more, not shown")


@contextlib.contextmanager
def _standard_output_elsewhere(printed: _Lines) -> Iterator[None]:
    """Standard output carries results only: Python's goes to `printed`, that of C code and of children to standard error."""
    _flush()
    kept: int | None = None
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:
        pass  # one of the two is closed
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        printed.finish()
        _flush()
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError):
        if sys.__stdout__ is not None:
            sys.__stdout__.flush()


@contextlib.contextmanager
def _time_limit(who: str, seconds: float) -> Iterator[None]:
    """Stop what runs in this block after `seconds`. Only the main thread can be stopped; elsewhere only the last resort is left."""
    message = f"{who}: did not return within {seconds:g} s"
    fired, finished, process = 0, False, os.getpid()

    def stop(number: int, frame: Any) -> None:
        nonlocal fired
        if finished:
            return
        fired += 1
        if fired > ATTEMPTS:
            # it catches everything: end the process rather than wait for ever
            os.write(2, f"headwater: {printable(message)}, and cannot be stopped\n".encode())
            os._exit(1)
        raise _TooLong

    timed = threading.current_thread() is threading.main_thread()
    with contextlib.suppress(OSError, ValueError, AttributeError):
        faulthandler.dump_traceback_later(
            seconds + ATTEMPTS * AGAIN_SECONDS + GRACE_SECONDS, exit=True, file=2
        )
    before = signal.signal(signal.SIGALRM, stop) if timed else None
    try:
        try:
            if timed:
                signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
            yield
        finally:
            finished = True
            if os.getpid() != process:
                # a child that the scorer forked ends here: the watch of its parent cannot be called off in it
                os._exit(0)
    except _TooLong:
        pass
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()
    if fired:
        raise HeadwaterError(
            message,
            hint="--time-limit SECONDS of headwater score, or TIME_LIMIT_SECONDS in its file, allow more",
        )


def _tell(level: str, text: str) -> None:
    if multiprocessing.parent_process() is None:
        say(level, text)
        return
    with contextlib.suppress(OSError, ValueError):  # a worker has no console of its own
        sys.stderr.write(printable(text if level == "info" else f"{level}: {text}") + "\n")
        sys.stderr.flush()
