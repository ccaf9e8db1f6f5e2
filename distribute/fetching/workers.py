"""The threads that fetch: every byte is checked in memory before it is written, and what is written is already right.

a run of pieces     source ── piece buffer ── merkle root ── pwrite into NAME.part ── mark in NAME.pieces
a small file        source ── memory ── blake3 or sha256 ── NAME.part ── rename
a large file without piece hashes    source ── NAME.part, goes on where it ended ── digest ── rename
"""

from __future__ import annotations

import inspect
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from distribute.fetching.board import Board
from distribute.fetching.jobs import RUN_BYTES, Feed, Job, Run
from distribute.fetching.pieces import Check, bad_piece, blocks_of, right_bytes, right_file
from distribute.fetching.store import Store, write_all
from distribute.fetching.width import SMALL_FILE_BYTES
from distribute.transports._base import SourceError, SwarmSource, WrongBytes
from headwater.files import explain_os_error

TELL_BYTES = 1 << 20  # between two entries into the ledger


class Worker:
    """One connection of one range source; `run` is the body of its thread."""

    def __init__(self, board: Board, feed: Feed, store: Store, connection: int = 0) -> None:
        self.board, self.feed, self.store, self.connection = board, feed, store, connection
        self._buffer = memoryview(b"")

    def run(self) -> None:
        """Work until there is nothing to do; an error that is not the source's ends the whole fetch."""
        try:
            while (run := self.board.take(self.feed, self.connection)) is not None:
                begun, brought = time.monotonic(), 0
                self._bad: tuple[int | None, int, int] | None = None
                self._waited: float | None = None
                try:
                    if run.count:
                        self._pieces(run)
                    elif run.job.wanted.size_bytes <= RUN_BYTES:
                        self._small(run)
                    else:
                        self._large(run)
                    brought = run.size
                except SourceError as error:
                    self.board.failed(run, self.feed, error, bad=self._bad)
                finally:
                    seconds = time.monotonic() - begun
                    waited = self._waited if brought else None
                    self.board.account(
                        self.feed, requests=1, seconds=seconds, run_bytes=brought, waited=waited
                    )
                    self.board.settle(run, self.feed)
        except OSError as error:
            self.board.stop(explain_os_error(error, self.store.target.root))
        except BaseException as error:
            self.board.stop(error)

    def _pieces(self, run: Run) -> None:
        job, pieces, board = run.job, run.job.pieces, self.board
        assert pieces is not None
        if len(self._buffer) < pieces.piece_size:
            self._buffer = memoryview(bytearray(pieces.piece_size))
        index, last = run.first, run.first + run.count
        start, length = pieces.span(index)
        end = sum(pieces.span(last - 1))
        fill, got = 0, 0
        try:
            for block in self.feed.source.read(job.wanted, start, end - start):
                view = memoryview(block)
                got += len(view)
                while view and index < last:
                    room = min(len(view), length - fill)
                    self._buffer[fill : fill + room] = view[:room]
                    fill, view = fill + room, view[room:]
                    if fill == length:
                        count, got = got, 0  # told by the call, also when the piece is wrong
                        self._piece(job, index, length, count)
                        fill, index = 0, index + 1
                        if index < last:
                            length = pieces.span(index)[1]
                if job.done or board.ended:
                    return
            if index < last:
                raise WrongBytes(f"{self.feed.row.source}: {job.wanted.path} ended early")
        finally:
            if got:
                board.account(self.feed, received=got)
        self._complete(job)

    def _piece(self, job: Job, index: int, length: int, got: int) -> None:
        """One piece is in the buffer: check it, write it, mark it."""
        pieces, board, used = job.pieces, self.board, 0
        assert pieces is not None
        offset = index * pieces.piece_size
        try:
            if not job.have[index]:
                data = self._buffer[:length]
                if not pieces.right(index, data):
                    self._bad = index, offset, length
                    raise WrongBytes(
                        f"{self.feed.row.source}: wrong bytes in {job.wanted.path}, piece {index}"
                    )
                self.store.write(job, index, data, offset)
                used = length if board.mark(job, index) else 0
        finally:
            board.account(self.feed, received=got, used=used)

    def _complete(self, job: Job) -> None:
        if all(job.have) and self.board.claim(job):
            self.store.place(job)
            self.board.finish(job)

    def _small(self, run: Run) -> None:
        job, wanted = run.job, run.job.wanted
        blocks: list[bytes] = []
        got = 0
        begun = time.monotonic()
        try:
            for block in self.feed.source.read(wanted, 0, wanted.size_bytes):
                if not blocks and wanted.size_bytes <= SMALL_FILE_BYTES:
                    self._waited = time.monotonic() - begun
                blocks.append(block)
                got += len(block)
                if got > wanted.size_bytes:
                    raise WrongBytes(f"{self.feed.row.source}: {wanted.path} is longer than it should be")
                if job.done or self.board.ended:
                    return
            data = blocks[0] if len(blocks) == 1 else b"".join(blocks)
            if not right_bytes(wanted, data):
                self._bad = bad_piece(job.pieces, data) or (None, 0, len(data))
                raise WrongBytes(f"{self.feed.row.source}: wrong bytes in {wanted.path}")
        except BaseException:
            self.board.account(self.feed, received=got)
            raise
        if not self.board.claim(job):
            self.board.account(self.feed, received=got)
            return
        name = f"{self.store.name(job)}.part"
        fd = self.store.target.new_partial(name, fresh=True)
        try:
            write_all(fd, memoryview(data), 0)
        finally:
            os.close(fd)
        self.store.target.place(name, wanted.path)
        self.board.account(self.feed, received=got, used=got)
        self.board.finish(job)

    def _large(self, run: Run) -> None:
        """A file with one digest for all of it: on disk as it comes, checked at the end, from zero again when it is wrong."""
        job, wanted = run.job, run.job.wanted
        name = f"{self.store.name(job)}.part"
        fd = self.store.target.new_partial(name, fresh=False)
        try:
            kept = os.fstat(fd).st_size
            if kept > wanted.size_bytes:
                os.ftruncate(fd, 0)
                kept = 0
            check = Check(wanted)
            for view in blocks_of(fd, upto=kept):
                check.update(view)
            at, told = kept, kept
            try:
                for block in (
                    self.feed.source.read(wanted, kept, wanted.size_bytes - kept)
                    if kept < wanted.size_bytes
                    else ()
                ):
                    write_all(fd, memoryview(block), at)
                    check.update(block)
                    at += len(block)
                    if at - told >= TELL_BYTES:
                        self.board.account(self.feed, received=at - told, used=at - told)
                        told = at
                    if self.board.ended or at > wanted.size_bytes:
                        break
            finally:
                self.board.account(self.feed, received=at - told, used=at - told)
            if self.board.ended:
                return
            if not check.right():
                os.ftruncate(fd, 0)
                self.board.account(self.feed, used=kept - at)
                if (
                    kept
                ):  # the beginning may be what an earlier run or another source left: nobody is blamed yet
                    again = SourceError(f"{wanted.path}: the parts do not fit together; it is fetched again")
                    self.board.again(run, self.feed, again)
                    return
                self._bad = None, 0, wanted.size_bytes
                raise WrongBytes(f"{self.feed.row.source}: wrong bytes in {wanted.path}")
        finally:
            os.close(fd)
        if self.board.claim(job):
            self.store.target.place(name, wanted.path)
            self.board.finish(job)


CHECKERS = 2  # threads that check what a swarm has brought


class SwarmWorker:
    """A swarm source: whole files from the far end of the board, checked again before they are placed."""

    def __init__(self, board: Board, feed: Feed, store: Store, folder: Path) -> None:
        self.board, self.feed, self.store, self.folder = board, feed, store, folder

    def run(self) -> None:
        """Like Worker.run."""
        try:
            while jobs := self.board.take_files(self.feed):
                begun = time.monotonic()
                failure: SourceError | None = None
                try:
                    self._batch({job.wanted.path: job for job in jobs})
                except SourceError as error:
                    failure = error
                self.board.account(self.feed, requests=1, seconds=time.monotonic() - begun)
                self.board.swarm_failed(self.feed, jobs, failure)
        except OSError as error:
            self.board.stop(explain_os_error(error, self.store.target.root))
        except BaseException as error:
            self.board.stop(error)

    def _batch(self, jobs: dict[str, Job]) -> None:
        source, board = self.feed.source, self.board
        assert isinstance(source, SwarmSource)

        def note(peer: str, count: int) -> None:
            with board.changed:
                self.feed.row.peers[peer] = self.feed.row.peers.get(peer, 0) + count
            board.account(self.feed, received=count)

        def cancelled() -> bool:
            return board.over or all(job.done or job.claimed for job in jobs.values())

        def liar(peer: str, piece: int, paths: list[str]) -> None:
            board.peer_lied(self.feed, peer, piece, paths)

        more: dict[str, Any] = {}
        if "liar" in inspect.signature(source.download).parameters:  # a swarm that knows who sent what
            more["liar"] = liar
        wanted = [job.wanted for job in jobs.values()]
        found = source.download(wanted, self.folder, note, cancelled=cancelled, **more)
        taken: list[Future[None]] = []
        with ThreadPoolExecutor(CHECKERS) as pool:  # checked beside the swarm, which goes on meanwhile
            for path in found:
                relative = path.relative_to(self.folder).as_posix()
                job = jobs.get(relative) or jobs.get(relative.partition("/")[2])
                if job is not None and not job.done:
                    taken.append(pool.submit(self._take, job, path))
                if cancelled():
                    break
        for one in taken:
            one.result()

    def _take(self, job: Job, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            has_digest = Check(job.wanted).known or not job.wanted.size_bytes
            right = (
                right_file(fd, job.wanted) if has_digest else os.fstat(fd).st_size == job.wanted.size_bytes
            )
        finally:
            os.close(fd)
        if not right:
            self.board.lie(self.feed, job, job.wanted.size_bytes)
            return
        if not self.board.claim(job):
            return
        name = f"{self.store.name(job)}.part"
        self.store.close(job)
        self.store.target.drop_partial(name)
        self.store.target.drop_partial(f"{self.store.name(job)}.pieces")
        # a link, because the swarm still reads its own copy for neighbours that share a piece with it
        os.link(path, name, dst_dir_fd=self.store.target.partial, follow_symlinks=False)
        self.store.target.place(name, job.wanted.path)
        self.board.account(self.feed, used=job.wanted.size_bytes)
        self.board.finish(job)
