"""Every error a command can end with, and its exit code.

    HeadwaterError                1   the work failed
    ├── UsageError                2   the command line, a rule or a config is wrong
    ├── BadInputs                 3   finished, but some inputs were bad and are listed
    ├── MissingExtra              4   an optional package or asset is not installed
    ├── MissingInput             10   a file or folder that was named is not there
    ├── Locked                   11   another process works on the same output
    ├── SignatureFailure         12   a signature or key does not fit
    └── IntegrityError           13   bytes are not what they claim to be

    Cancelled                   130   stopped by a signal

`Cancelled` is no Exception: a signal may arrive anywhere, also where a bad picture or a meter that fails is passed over, and
must not be taken for one of those. A message says what happened, to which object, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HeadwaterError(Exception):
    """The work failed. `hint` is the next thing to try, printed on its own line."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.told = False  # the command has already put it into its JSON document

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        # keyword-only arguments do not survive the default pickling between worker processes
        return (_rebuild, (type(self), self.message, self.hint))


class UsageError(HeadwaterError):
    """The command line, a rule file or a configuration is wrong."""

    exit_code = 2


class BadInputs(HeadwaterError):
    """The work finished, and some inputs were left out; they are listed."""

    exit_code = 3


class MissingExtra(HeadwaterError):
    """An optional package or asset is needed; the hint holds the exact command."""

    exit_code = 4


class MissingInput(HeadwaterError):
    """A file or folder that was named does not exist."""

    exit_code = 10


class Locked(HeadwaterError):
    """Another process is writing the same output."""

    exit_code = 11


class SignatureFailure(HeadwaterError):
    """A signature, or the key it was made with, does not fit."""

    exit_code = 12


class IntegrityError(HeadwaterError):
    """Bytes are not what they claim to be: damaged, truncated, or changed since they were seen."""

    exit_code = 13


class Cancelled(BaseException):
    """Stopped by a signal."""

    exit_code = 130
    hint = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def _rebuild(kind: type[HeadwaterError], message: str, hint: str | None) -> HeadwaterError:
    return kind(message, hint=hint)


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause naming the closest of `known`, for the end of an "unknown X" message."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(choices)}" if choices else "there are none"
