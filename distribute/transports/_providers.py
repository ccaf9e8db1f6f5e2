"""Who is asked for blocks: the least busy provider, else the next, each with a standing, so that a liar or sleeper is left out.

Wrong bytes are strikes, and after STRIKES of them a provider is asked no more; silence is forgiven after a rest. Every block
was hashed against its CID by its provider, so falling back to the next one never needs trust.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from distribute.cid import Cid
from distribute.transports._base import NotThere, Refused, SourceError, Stalled, Unreachable, WrongBytes
from distribute.transports._gateway import BLOCK_BYTES, Blocks, Provider
from distribute.transports._web import Failing
from headwater.console import say

STRIKES = 3  # answers with wrong bytes before a provider is asked no more
WAIT_SECONDS = 0.1  # between two looks at whether to stop
REST_SECONDS = 30.0  # a silent provider is passed over for so long while others answer


@dataclass
class _Standing:
    """What one provider did so far."""

    provider: Provider
    strikes: int = 0
    rests_until: float = 0.0
    busy: int = 0  # requests under way
    last: SourceError | None = None
    told: set[type[SourceError]] = field(default_factory=set)


class Providers:
    """Providers in the order of preference, which busy ones lose. A block comes from the first that gives it right."""

    def __init__(self, providers: Sequence[Provider], stop: threading.Event) -> None:
        self._stop = stop
        self._all = [_Standing(provider) for provider in providers]
        self._lock = threading.Lock()

    @property
    def labels(self) -> list[str]:
        return [standing.provider.label for standing in self._all]

    def block(self, cid: Cid, limit_bytes: int = BLOCK_BYTES) -> bytes:
        """One block, checked. Raises the SourceError that tells most when nobody gave it."""
        failures: list[SourceError] = []
        for standing in self._order():
            try:
                with self._busy(standing):
                    return standing.provider.block(cid, limit_bytes)
            except SourceError as error:
                failures.append(error)
                self._note(standing, error)
        raise self._verdict(cid, failures)

    def car(self, cid: Cid, first: int, last: int, *, whole: bool) -> Blocks | None:
        """A CAR stream of the first provider that has one. Never raises a SourceError: single blocks say what is wrong."""
        for standing in self._order():
            try:
                blocks = standing.provider.car(cid, first, last, whole=whole)
            except SourceError as error:
                self._note(standing, error)
                continue
            if blocks is not None:
                return self._watched(standing, blocks)
        return None

    def close(self) -> None:
        for standing in self._all:
            standing.provider.close()

    def _watched(self, standing: _Standing, blocks: Blocks) -> Blocks:
        try:
            with self._busy(standing):
                yield from blocks
        except SourceError as error:
            self._note(standing, error)
        finally:
            blocks.close()

    def _order(self) -> list[_Standing]:
        now = time.monotonic()
        fit = [standing for standing in self._all if standing.strikes < STRIKES]
        awake = [standing for standing in fit if standing.rests_until <= now]
        return sorted(awake or fit, key=lambda standing: standing.busy)  # in their order where equally busy

    @contextmanager
    def _busy(self, standing: _Standing) -> Iterator[None]:
        with self._lock:
            standing.busy += 1
        try:
            yield
        finally:
            with self._lock:
                standing.busy -= 1

    def _note(self, standing: _Standing, error: SourceError) -> None:
        """Count a failure; the first of each kind is told, for the user should know who lies."""
        if self._stop.is_set():
            return  # it failed because we end
        with self._lock:
            standing.last = error
            first = type(error) not in standing.told
            standing.told.add(type(error))
            if isinstance(error, WrongBytes):
                standing.strikes += 1
            elif not isinstance(error, NotThere):
                standing.rests_until = time.monotonic() + REST_SECONDS
            struck_out = isinstance(error, WrongBytes) and standing.strikes == STRIKES
        if first and not isinstance(error, NotThere):
            say("warning", error.message, source=standing.provider.label)
        if struck_out:
            say("warning", f"{standing.provider.label}: wrong bytes {STRIKES} times: it is asked no more")

    def _verdict(self, cid: Cid, failures: list[SourceError]) -> SourceError:
        """One error for all: of the kind that says most about the block, with the words of everybody who was asked."""
        if not failures:
            failures = [standing.last for standing in self._all if standing.last is not None]
        if not failures:
            return Unreachable(f"nobody to ask for the block {cid.text}")
        # Failing, not Unreachable: who answers 500 for one block is there, and waiting for it would not help
        kinds: list[type[SourceError]] = [WrongBytes, Stalled, Refused, Failing, Unreachable, NotThere]
        kind = next((one for one in kinds if any(isinstance(error, one) for error in failures)), SourceError)
        if kind is NotThere and not all(isinstance(error, NotThere) for error in failures):
            kind = SourceError
        hint = next((error.hint for error in failures if isinstance(error, kind)), None)
        why = "; ".join(error.message for error in failures)
        if len(failures) == 1 and cid.text in why:
            return kind(why, hint=hint)
        return kind(f"nobody gave the block {cid.text}: {why}", hint=hint)


class Either(threading.Event):
    """Set when the whole work is to stop, or only this source."""

    def __init__(self, parent: threading.Event) -> None:
        super().__init__()
        self._parent = parent

    def is_set(self) -> bool:
        return super().is_set() or self._parent.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = WAIT_SECONDS if end is None else min(end - time.monotonic(), WAIT_SECONDS)
            if left <= 0:
                return False
            super().wait(left)
        return True
