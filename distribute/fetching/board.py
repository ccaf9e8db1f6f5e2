"""The board: what is still to fetch, who works on what, and what to make of every failure.

    files ── runs of pieces ── taken from the front by range sources, whole files from the far end by swarms

Wrong bytes: the source is named and another one is asked; three lies, and it is dropped while there are others. Not there: this
source is not asked for that file again. Silence, or busy: it pauses, longer each time, and its run goes to another. Nobody left:
the file is given up, the rest goes on for a while, then the fetch fails with every bad piece named. At the end runs that are
out for long are given to a second source: a slow one never holds up the last file. Judgements are in `verdicts`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from distribute.fetching.jobs import RUN_BYTES, Feed, Job, Run
from distribute.fetching.verdicts import Verdicts
from distribute.fetching.width import FIRST, SMALL_FILE_BYTES
from distribute.transports._base import (
    NotThere,
    Refused,
    SourceError,
    Stalled,
    Unreachable,
    WrongBytes,
)
from distribute.transports._web import Busy, Failing

DOUBLE_AFTER_SECONDS = 2.0  # a run that is out for longer may be given out twice, at the end
GOES_ON_SECONDS = 20.0  # after the first file that nobody can give
ENOUGH_CONNECTIONS = 2  # to a source that is faster, by each, than …
FAST_BYTES_PER_SECOND = 100e6
RATED_BYTES = 64 << 10  # smaller answers say nothing about a rate
RAMP_SECONDS = 0.4  # until the others begin
SWARM_BYTES = 64 << 20  # of one batch, while there are range sources too
SMALL_BYTES = 64 << 20  # for less than this …
HEAD_START_SECONDS = 2.0  # … swarms begin only if range sources have not brought it meanwhile


class Board(Verdicts):
    """Shared by all workers; every method may be called from any thread."""

    def __init__(self, jobs: Iterable[Job], feeds: list[Feed], *, patience_seconds: float) -> None:
        super().__init__(jobs, feeds)
        self.changed = threading.Condition()
        self.patience_seconds = patience_seconds
        self._out: dict[Run, None] = {}
        self._swarmed: dict[Job, float] = {}  # since when
        self._small = sum(job.wanted.size_bytes - job.kept_bytes for job in self._open) < SMALL_BYTES
        self.fatal: BaseException | None = None
        self.received = 0
        self.progress = 0  # bytes that are placed or written and right
        self._begun = self._last_good = time.monotonic()

    def jobs(self) -> list[Job]:
        """Those with runs to give out."""
        with self.changed:
            return list(self._open)

    # what workers call

    def take(self, feed: Feed, connection: int = 0) -> Run | None:
        """The next run for `feed`; waits for one. None: there is nothing left for it to do, or not for this connection.

        `connection`: which one of the feed's asks; the later ones stay idle while the first are fast, since they would only cost
        CPU time, and those that were added for the sake of small files take nothing else.
        """
        added = connection >= FIRST
        with self.changed:
            while not self.over and not feed.dropped and connection < feed.width.now:
                now = time.monotonic()
                pause = feed.down_until - now
                if connection >= ENOUGH_CONNECTIONS and (
                    feed.rate > FAST_BYTES_PER_SECOND or now - self._begun < RAMP_SECONDS
                ):
                    pause = max(pause, RAMP_SECONDS)
                if pause <= 0:
                    run = self._next(feed, now, small=added)
                    if run is not None:
                        run.takers.append(feed)
                        if len(run.takers) == 1:
                            run.since = now
                            run.job.out += 1
                            self._out[run] = None
                        return run
                self.changed.wait(min(max(pause, 0.05), 0.5))
            return None

    def take_files(self, feed: Feed) -> list[Job]:
        """Untouched files from the far end for a swarm; all of them when no range source is alive."""
        with self.changed:
            while not self.over and not feed.dropped:
                now = time.monotonic()
                pause = feed.down_until - now
                if self._small and self._ranged():
                    pause = max(pause, self._begun + HEAD_START_SECONDS - now)
                if pause <= 0 and (jobs := self._far_end(feed)):
                    for job in jobs:
                        job.swarm = feed
                        self._open.pop(job, None)
                        self._swarmed[job] = now
                    return jobs
                self.changed.wait(min(max(pause, 0.05), 0.5))
            return []

    def account(
        self,
        feed: Feed,
        *,
        received: int = 0,
        used: int = 0,
        requests: int = 0,
        seconds: float = 0,
        run_bytes: int = 0,
        waited: float | None = None,
    ) -> None:
        """Count into the ledger. `waited`: seconds to the first byte, of a small file that came whole."""
        with self.changed:
            row = feed.row
            row.received_bytes += received
            row.used_bytes += used
            row.requests += requests
            row.busy_seconds += seconds
            self.received += received
            self.progress += used
            if run_bytes >= RATED_BYTES and seconds > 0:
                feed.rate = (feed.rate or run_bytes / seconds) * 0.7 + run_bytes / seconds * 0.3
            if waited is not None:
                feed.width.answered(run_bytes, seconds, waited, time.monotonic(), len(self._open))
            if used:
                feed.failures = feed.refusals = 0
                self._last_good = time.monotonic()

    def mark(self, job: Job, index: int) -> bool:
        """Note that a piece is written; False when another worker was faster."""
        with self.changed:
            fresh = not job.have[index]
            job.have[index] = 1
            return fresh

    def claim(self, job: Job) -> bool:
        """Whether the caller is the one to place the file."""
        with self.changed:
            if job.claimed or job.trouble or self.ended:
                return False
            job.claimed = True
            return True

    def finish(self, job: Job) -> None:
        """The file is in its place."""
        with self.changed:
            if not job.done:
                job.done = True
                self.waiting -= 1
                if not self.waiting:
                    self.no_more.set()
            job.left.clear()
            self._open.pop(job, None)
            self._swarmed.pop(job, None)
            self.changed.notify_all()

    def settle(self, run: Run, feed: Feed) -> None:
        """`feed` works on the run no longer."""
        with self.changed:
            if feed in run.takers:
                run.takers.remove(feed)
                if not run.takers:
                    self._out.pop(run, None)
                    run.job.out -= 1
                self.changed.notify_all()

    def failed(
        self, run: Run, feed: Feed, error: SourceError, *, bad: tuple[int | None, int, int] | None = None
    ) -> None:
        """A run broke off. `bad`: (piece, offset, length) of wrong bytes; what is missing of the run goes back."""
        with self.changed:
            job = run.job
            self.settle(run, feed)
            if not self.ended:  # what breaks off because we end says nothing about the source
                feed.row.note(error)
                feed.last_error = error.message
            if bad is not None:
                self._lie(run, feed, bad)
            elif isinstance(error, (NotThere, Refused, WrongBytes)) or type(error) is SourceError:
                self._refuse(job, feed, error)
            else:
                feed.width.failed(time.monotonic())
                self._pause(feed, error)
                if isinstance(error, Failing):
                    self._fail(run, feed, error)
            if not job.done and not run.takers and not job.swarm:
                self._put_back(run, bad)
            self._hope([job])
            self.changed.notify_all()

    def again(self, run: Run, feed: Feed, error: SourceError) -> None:
        """Nobody's fault that can be told: the run goes back as it was."""
        with self.changed:
            self.settle(run, feed)
            feed.row.note(error)
            self.news.append(("warning", error.message))
            self._put_back(run, None)
            self.changed.notify_all()

    def swarm_failed(self, feed: Feed, jobs: list[Job], error: SourceError | None) -> None:
        """A batch ended; what the swarm did not bring goes back to all."""
        with self.changed:
            if error is not None:
                feed.row.note(error)
                feed.last_error = error.message
                if isinstance(error, (Unreachable, Stalled, Busy)):
                    self._pause(feed, error)
                elif isinstance(error, (NotThere, WrongBytes)):
                    for job in jobs:
                        if not job.done:
                            job.refused.add(feed)
                            job.why = error
                    if isinstance(error, WrongBytes):
                        self.news.append(("warning", error.message))
                else:
                    self._drop(feed, error.message)
            back = [job for job in jobs if not job.done and job.swarm is feed]
            for job in back:
                job.swarm = None
                self._swarmed.pop(job, None)
                if error is None:
                    job.refused.add(feed)  # it ended well and left the file out
                if not job.left:
                    job.split()
                self._open[job] = None
            self._hope(back)
            self.changed.notify_all()

    def lie(self, feed: Feed, job: Job, length: int) -> None:
        """A swarm brought a file that is not the one of the manifest."""
        with self.changed:
            self._lie(Run(job), feed, (None, 0, length))
            job.refused.add(feed)

    def peer_lied(self, feed: Feed, peer: str, piece: int, paths: list[str]) -> None:
        """One peer or web seed of a swarm sent a wrong piece; the swarm itself goes on without it."""
        with self.changed:
            for path in paths:
                feed.row.lie(path, piece, 0, 0, peer=peer)
            self.news.append(
                (
                    "warning",
                    f"{peer}: wrong bytes in piece {piece} of {feed.row.source} ({', '.join(paths[:3])})",
                )
            )

    def stop(self, error: BaseException | None = None) -> None:
        """End the work; an error here is not one of a source."""
        with self.changed:
            self.ended = True
            self.no_more.set()
            if error is not None and self.fatal is None:
                self.fatal = error
            self.changed.notify_all()

    @property
    def over(self) -> bool:
        return self.ended or self.waiting == 0

    def tick(self) -> None:
        """Called by the main thread: ends the work when nothing more can come."""
        with self.changed:
            now = time.monotonic()
            alive = [feed for feed in self.feeds if not feed.dropped]
            silent = all(f.failures for f in alive) and now - self._last_good > self.patience_seconds
            lost = self._first_lost is not None and now - self._first_lost > GOES_ON_SECONDS
            self.ended = self.ended or lost or silent
            if self.over:
                self.changed.notify_all()

    # inside the lock

    def _next(self, feed: Feed, now: float, *, small: bool) -> Run | None:
        for job in self._open:
            if feed in job.refused or not job.left:
                continue
            run = next((run for run in job.left if feed not in run.refused or self._alone(run, feed)), None)
            if run is None:
                continue
            if small and (run.count or job.wanted.size_bytes > SMALL_FILE_BYTES):
                return None
            job.left.remove(run)
            if not getattr(feed.source, "ranges", True) and run.count:
                run = self._rest(job, run)
            if not job.left:
                del self._open[job]
            return run
        return None if small else self._steal(feed, now) or self._double(feed, now)

    def _rest(self, job: Job, run: Run) -> Run:
        """One run of all that is left of a file, for a source that knows no ranges."""
        runs = [run, *(r for r in job.left if r.count)]
        job.left.clear()
        first = min(r.first for r in runs)
        refused = {feed: 1 for r in runs for feed in r.refused}
        return Run(job, first, max(r.first + r.count for r in runs) - first, refused=refused)

    def _steal(self, feed: Feed, now: float) -> Run | None:
        """A file that a swarm was given and has not brought for a while, when there is nothing else to do."""
        for job in reversed(self._swarmed):
            if feed in job.refused or job.claimed or now - self._swarmed[job] < DOUBLE_AFTER_SECONDS:
                continue
            del self._swarmed[job]
            job.swarm = None
            job.split()
            run = job.left.popleft()
            if job.left:
                self._open[job] = None
            return run
        return None

    def _double(self, feed: Feed, now: float) -> Run | None:
        for run in self._out:
            if (
                now - run.since > DOUBLE_AFTER_SECONDS
                and len(run.takers) == 1
                and feed not in run.takers
                and feed not in run.job.refused
                and feed not in run.refused
                and not run.job.claimed
                and (run.count or run.job.wanted.size_bytes <= RUN_BYTES)
            ):
                return run
        return None

    def _ranged(self) -> bool:
        """Whether a range source is alive."""
        return any(not f.swarm and not f.dropped and not f.failures for f in self.feeds)

    def _far_end(self, feed: Feed) -> list[Job]:
        free = [
            job for job in reversed(self._open)
            if feed not in job.refused and not job.out and not job.claimed and not any(job.have)
        ]  # fmt: skip
        if not self._ranged():
            return free[::-1]
        room = max(SWARM_BYTES, sum(job.wanted.size_bytes for job in free) // 4)
        jobs: list[Job] = []
        for job in free:
            room -= job.wanted.size_bytes
            if jobs and room < 0:
                break
            jobs.append(job)
        return jobs[::-1]

    def _put_back(self, run: Run, bad: tuple[int | None, int, int] | None) -> None:
        job = run.job
        if not run.count:
            back = [Run(job, refused=run.refused, failing=run.failing)]
        else:
            # the wrong piece alone carries the memory of who gave it wrongly
            back = []
            first = None
            wrong = bad[0] if bad is not None else None
            for index in range(run.first, run.first + run.count + 1):
                missing = index < run.first + run.count and not job.have[index] and index != wrong
                if missing and first is None:
                    first = index
                if first is not None and not missing:
                    memory = {} if wrong is not None else dict(run.refused)
                    back.append(Run(job, first, index - first, refused=memory, failing=run.failing))
                    first = None
            if wrong is not None and not job.have[wrong]:
                back.append(Run(job, wrong, 1, refused=run.refused))
        job.left.extendleft(reversed(back))
        if job.left:
            self._open[job] = None
            self._open.move_to_end(job, last=False)
