"""Runs the workers of all sources until every file is placed or nothing more can come."""

from __future__ import annotations

import hashlib
import threading
import time
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path

from distribute.fetching.board import Board
from distribute.fetching.jobs import Feed
from distribute.fetching.ledger import Row
from distribute.fetching.options import FetchOptions
from distribute.fetching.plan import Plan
from distribute.fetching.resolve import Resolved
from distribute.fetching.store import Store
from distribute.fetching.width import FIRST
from distribute.fetching.workers import SwarmWorker, Worker
from distribute.transports._base import Context, NotThere, Source, SourceError, SwarmSource, WrongBytes
from headwater.console import say, track

TICK_SECONDS = 0.2
FIRST_PAUSE_SECONDS = 1.0  # of a source that did not answer when it was opened
JOIN_SECONDS = 2.0  # for workers at the end; one that waits in a dead connection is left behind
JOIN_SWARM_SECONDS = 20.0  # a swarm writes down where it is


@dataclass
class Outcome:
    """What the engine did."""

    rows: list[Row]
    lost: list[str] = field(default_factory=list)  # files that no source could give, and why
    lied: bool = False  # … at least one of them because all that came was wrong
    refusal: SourceError | None = None  # … or because nobody lets us have it, or can
    unfinished: list[str] = field(default_factory=list)  # files that there was no time for
    last_error: str = ""


def run_engine(plan: Plan, found: Resolved, store: Store, context: Context, options: FetchOptions) -> Outcome:
    """Fetch the jobs of `plan`. Raises what is no fault of a source: a full disk, a link in the way."""
    feeds = []
    for source in found.sources:
        swarm = isinstance(source, SwarmSource)
        row = Row(source.label, source.kind)
        feed = Feed(source, row, connections=1 if swarm else options.connections)
        if source not in found.alive and found.alive:  # it did not answer a moment ago: the others begin
            feed.failures, feed.down_until = 1, time.monotonic() + FIRST_PAUSE_SECONDS
        feeds.append(feed)
    board = Board(plan.jobs, feeds, patience_seconds=options.patience_seconds)
    _place_what_is_whole(board, store)
    total = plan.missing_bytes
    crew = _Crew(board, feeds, store, context)
    shown = 0
    try:
        with track("fetch", total=total, unit="bytes") as bar:
            while not board.over:
                crew.grow()
                board.no_more.wait(TICK_SECONDS)
                board.tick()
                if board.progress != shown:
                    bar.add(board.progress - shown, note=_note(feeds))
                    shown = board.progress
                _tell(board)
            if board.progress != shown:
                bar.add(board.progress - shown)
    finally:
        board.stop()
        context.stop.set()
        crew.join()
        store.close_all()
        for feed in feeds:
            feed.source.close()
    _tell(board)
    if board.fatal is not None:
        raise board.fatal
    return Outcome(
        rows=[feed.row for feed in feeds],
        lost=[job.trouble for job in board.lost],
        lied=any(job.lied for job in board.lost),
        refusal=next(
            (j.why for j in board.lost if j.why and not isinstance(j.why, (NotThere, WrongBytes))), None
        ),
        unfinished=[job.wanted.path for job in plan.jobs if not job.done and not job.trouble],
        last_error=next((feed.last_error for feed in feeds if feed.last_error), ""),
    )


def _place_what_is_whole(board: Board, store: Store) -> None:
    """Files whose last piece was written just before an earlier run ended, and empty ones."""
    for job in board.jobs():
        if job.have and all(job.have) and board.claim(job):
            store.place(job)
            board.finish(job)
        elif not job.wanted.size_bytes and board.claim(job):
            store.empty(job)
            board.finish(job)


class _Crew:
    """The threads of all feeds: one for each swarm, as many for a range source as its width says."""

    def __init__(self, board: Board, feeds: list[Feed], store: Store, context: Context) -> None:
        self._board, self._feeds, self._store, self._context = board, feeds, store, context
        self._threads: dict[tuple[int, int], threading.Thread] = {}  # by feed and connection

    def grow(self) -> None:
        """Start those that are lacking; the ones that are too many end by themselves."""
        for number, feed in enumerate(self._feeds):
            for connection in range(0 if feed.dropped else feed.width.now):
                there = self._threads.get((number, connection))
                # of the first ones each has one life: it ends when there is nothing to do any more
                if there is None or (connection >= FIRST and not there.is_alive()):
                    self._start(number, feed, connection)

    def _start(self, number: int, feed: Feed, connection: int) -> None:
        worker: Worker | SwarmWorker
        if feed.swarm:
            folder = swarm_folder(self._context, feed.source)
            worker = SwarmWorker(self._board, feed, self._store, folder)
        else:
            worker = Worker(self._board, feed, self._store, connection)
        name = f"fetch-{number}-{connection}"
        run = copy_context().run
        thread = threading.Thread(target=run, args=(worker.run,), daemon=True, name=name)
        thread.start()
        self._threads[number, connection] = thread

    def join(self) -> None:
        """Wait for them, but not for ever."""
        begun = time.monotonic()
        for (number, _), thread in self._threads.items():
            seconds = JOIN_SWARM_SECONDS if self._feeds[number].swarm else JOIN_SECONDS
            thread.join(max(begun + seconds - time.monotonic(), 0.01))


def swarm_folder(context: Context, source: Source) -> Path:
    """Where a swarm puts its files; in the same file system as the target, so that placing them costs nothing."""
    folder = context.work / f"swarm-{hashlib.sha256(source.label.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _note(feeds: list[Feed]) -> str:
    good = sum(1 for feed in feeds if not feed.dropped and not feed.failures)
    return f"{good} of {len(feeds)} sources" if len(feeds) > 1 else ""


def _tell(board: Board) -> None:
    while board.news:
        level, text = board.news.popleft()
        say(level, text)
