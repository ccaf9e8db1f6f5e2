"""What is made of a failure: which source is named, pauses or is dropped, and when a file is given up.

Everything here is called by the board, inside its lock.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable

from distribute.fetching.jobs import Feed, Job, Run
from distribute.transports._base import NotThere, SourceError, WrongBytes
from distribute.transports._web import Busy

STRIKES = 3
REFUSALS = 25  # files in a row that a source does not have
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0
FAILING_TIMES = 3  # a source says that it cannot give one object …
FAILING_SECONDS = 4.0  # … over so long
LONGEST_WAIT_SECONDS = 30.0  # that a busy server may ask for


class Verdicts:
    """The state that failures change."""

    def __init__(self, jobs: Iterable[Job], feeds: list[Feed]) -> None:
        self.feeds = feeds
        self._open: OrderedDict[Job, None] = OrderedDict.fromkeys(jobs)  # with runs to give out
        self.waiting = len(self._open)  # files that are neither done nor given up
        self.lost: list[Job] = []
        self.ended = False
        self.no_more = threading.Event()  # for the main thread, which would else be woken by every file
        self.news: deque[tuple[str, str]] = deque()  # (level, text) for the console
        self._first_lost: float | None = None

    def _alone(self, run: Run, feed: Feed) -> bool:
        """Whether nobody else could give what `feed` has given wrongly once: a second try tells chance from damage."""
        return run.refused[feed] < 2 and not self._others(run, feed)

    def _others(self, run: Run, feed: Feed) -> bool:
        return any(
            f is not feed and not f.dropped and f not in run.job.refused and f not in run.refused
            for f in self.feeds
        )

    def _lie(self, run: Run, feed: Feed, bad: tuple[int | None, int, int]) -> None:
        piece, offset, length = bad
        job = run.job
        again = feed in run.refused
        run.refused[feed] = run.refused.get(feed, 0) + 1
        feed.row.lie(job.wanted.path, piece, offset, length)
        where = "" if piece is None else f", piece {piece}"
        others = self._others(run, feed)
        then = (
            "another source is asked" if others else "no other source has it" if again else "asked once more"
        )
        self.news.append((
            "warning",
            f"{feed.row.source}: wrong bytes in {job.wanted.path}{where} (bytes {offset:,} to {offset + length - 1:,}); {then}",
        ))  # fmt: skip
        if not again:
            feed.strikes += 1
        if feed.strikes >= STRIKES and any(f is not feed and not f.dropped for f in self.feeds):
            self._drop(feed, f"sent wrong bytes {feed.strikes} times")

    def _fail(self, run: Run, feed: Feed, error: SourceError) -> None:
        """A source that says again and again that it cannot give this one is not asked for it any more."""
        times = run.failing.setdefault(feed, [])
        times.append(time.monotonic())
        if len(times) >= FAILING_TIMES and times[-1] - times[0] > FAILING_SECONDS:
            run.job.refused.add(feed)
            run.job.why = error

    def _refuse(self, job: Job, feed: Feed, error: SourceError) -> None:
        job.refused.add(feed)
        job.why = error
        if isinstance(error, WrongBytes):  # wrong before its bytes could be: another size, a web page
            feed.row.lie(job.wanted.path, None, 0, 0)
            self.news.append(("warning", error.message))
            feed.strikes += 1
        feed.refusals += 1
        others = any(f is not feed and not f.dropped for f in self.feeds)
        if others and (feed.strikes >= STRIKES or feed.refusals >= REFUSALS):
            self._drop(feed, error.message)

    def _pause(self, feed: Feed, error: SourceError) -> None:
        now = time.monotonic()
        if feed.down_until > now:
            return  # another connection of the same source has told it
        if feed.failures == 0:
            self.news.append(("warning", f"{error.message}; it is asked again later"))
        wait = min(FIRST_PAUSE_SECONDS * 2**feed.failures, LONGEST_PAUSE_SECONDS)
        if isinstance(error, Busy) and error.wait_seconds is not None:
            wait = min(error.wait_seconds, LONGEST_WAIT_SECONDS)
        feed.failures += 1
        feed.down_until = now + wait

    def _drop(self, feed: Feed, why: str) -> None:
        if not feed.dropped:
            feed.dropped = why
            feed.row.state = f"dropped: {why}"
            self.news.append(("warning", f"{feed.row.source}: not asked any more ({why})"))
            self._hope(list(self._open))

    def _hope(self, jobs: list[Job]) -> None:
        """Give up the files that no source can give."""
        for job in jobs:
            if job.done or job.trouble or job.swarm or job.claimed:
                continue
            for run in job.left:
                if not any(self._may(feed, run) for feed in self.feeds):
                    self._lose(job, run)
                    break

    def _may(self, feed: Feed, run: Run) -> bool:
        if feed.dropped or feed in run.job.refused:
            return False
        return feed not in run.refused or (not feed.swarm and self._alone(run, feed))

    def _lose(self, job: Job, run: Run) -> None:
        job.lied = (
            bool(run.refused)
            or isinstance(job.why, WrongBytes)
            or any(lie["path"] == job.wanted.path for feed in self.feeds for lie in feed.row.lies)
        )
        if run.count and job.pieces is not None:
            offset = run.first * job.pieces.piece_size
            end = min(offset + run.count * job.pieces.piece_size, job.pieces.size)
            where = f", piece {run.first} (bytes {offset:,} to {end - 1:,})"
        else:
            where = f" ({job.wanted.size_bytes:,} bytes)"
        why = "every source has wrong bytes" if job.lied else "no source has it"
        for feed in self.feeds:
            lie = next(
                (lie for lie in feed.row.lies if lie["path"] == job.wanted.path and lie["length"]), None
            )
            if lie is not None:
                piece = "" if lie["piece"] is None else f"piece {lie['piece']}, "
                first, last = lie["offset"], lie["offset"] + lie["length"] - 1
                why += f"; {feed.row.source}: {piece}bytes {first:,} to {last:,}"
        if job.why is not None and not isinstance(job.why, NotThere):
            why += f" ({job.why.message})"
        job.trouble = f"{job.wanted.path}{where}: {why}"
        self.news.append(("error", job.trouble))
        self.lost.append(job)
        self.waiting -= 1
        if not self.waiting:
            self.no_more.set()
        self._open.pop(job, None)
        job.left.clear()
        if self._first_lost is None:
            self._first_lost = time.monotonic()
