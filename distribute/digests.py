"""A tree, read once: SHA-256, BLAKE3, the leaves of CIDs, BitTorrent roots, and v1 pieces over all files in order.

    files in order of their paths ──> runs of neighbours ──> threads (distribute._one_read) ──> in order: cache, v1 seams

v1 pieces do not stop at the end of a file. A run hashes the pieces that lie inside it; at a seam the run before gives a
hash that can go on and the run after the bytes that it lacks, so no byte is read twice and no thread waits. Nothing in
the result depends on the number of threads. Memory: a block and at most one piece a run in flight, and the digests.

With a cache a file known by (size, time of change, inode) is not read. A v1 piece is known by what it is made of, so
only pieces that never occurred are read again: that is counted in `reread_bytes`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from distribute._one_read import (
    FileDigests,
    PieceRun,
    TreeFile,
    Wants,
    digest_one,
    digest_wide,
)
from distribute._pieces import Pieces, read_pieces
from headwater.console import Track

if TYPE_CHECKING:
    from distribute.digestcache import TreeCache

__all__ = ["FileDigests", "TreeDigests", "TreeFile", "digest_tree"]

RUN_BYTES = 64 << 20  # of small files that one thread takes at a time
RUN_FILES = 512
WIDE_FROM = 64 << 20  # a file from this size on may be hashed by all threads together
POLL_SECONDS = 0.2  # between two looks at the progress


@dataclass(frozen=True)
class TreeDigests:
    """Digests of all files. `files` is in the order of the paths' bytes."""

    files: dict[str, FileDigests]
    v1_pieces: bytes | None  # 20 bytes a piece, over all files in the order of `files`
    read_bytes: int  # files that were read for all their digests
    reread_bytes: int  # parts that were read once more, for v1 pieces alone
    padded_pieces: bytes | None = None  # of a hybrid torrent, in the order of its file tree


def digest_tree(
    files: Sequence[TreeFile],
    *,
    profiles: Sequence[str],
    piece_size: int,
    v1: bool,
    hybrid: bool = False,
    cache: TreeCache | None = None,
    part: bool = False,
    workers: int = 1,
    bar: Track | None = None,
) -> TreeDigests:
    """Digests of `files` under the CID `profiles`, for torrents of `piece_size` bytes a piece.

    `part`: these are not all files of the tree, so the cache keeps what it knows of the others.
    Raises IntegrityError naming the file when one changes, vanishes or cannot be read to its end, HeadwaterError when
    one may not be read, UsageError for an unknown profile or files too small for a hybrid torrent.
    """
    if hybrid:
        from distribute.torrents import check_hybrid

        check_hybrid(
            [file.size_bytes for file in files], piece_size
        )  # or far more zeros than bytes are hashed
    # where nothing follows there is no padding either: the pieces of a hybrid torrent are those of v1
    alone = hybrid and len(files) == 1
    wants = Wants.of(profiles, piece_size, v1=v1 or alone, hybrid=hybrid and not alone)
    try:
        found = _Tree(files, wants, cache, max(1, workers), bar, part).digest()
    finally:
        if cache:
            cache.close()
    if alone:
        return replace(found, v1_pieces=found.v1_pieces if v1 else None, padded_pieces=found.v1_pieces)
    return found


@dataclass
class _Run:
    """Neighbours that nobody has digests of yet. `first`: index of its first file; `start`: its place in the v1 stream."""

    first: int
    start: int
    files: list[TreeFile] = field(default_factory=list)
    size: int = 0
    wide: bool = False


class _Progress:
    """Bytes that threads count and the main thread draws."""

    def __init__(self, bar: Track | None) -> None:
        self._bar, self._lock, self._bytes = bar, threading.Lock(), 0

    def add(self, count: int) -> None:
        with self._lock:
            self._bytes += count

    def draw(self) -> None:
        with self._lock:
            count, self._bytes = self._bytes, 0
        if self._bar and count:
            self._bar.add(count)


class _Tree:
    def __init__(
        self,
        files: Sequence[TreeFile],
        wants: Wants,
        cache: TreeCache | None,
        workers: int,
        bar: Track | None,
        part: bool = False,
    ) -> None:
        self.part = part
        self.files = sorted(files, key=lambda file: file.path.encode())
        if len({file.path for file in self.files}) != len(self.files):
            raise ValueError("a path occurs twice")
        self.wants, self.cache, self.workers = wants, cache, workers
        self.progress = _Progress(bar)
        self.stop = threading.Event()
        self.local = threading.local()
        self.found: list[FileDigests | None] = [None] * len(self.files)
        self.offsets = [0, *accumulate(file.size_bytes for file in self.files)]
        self.read_bytes = self.reread_bytes = 0

    def digest(self) -> TreeDigests:
        if self.cache:
            for index, file in enumerate(self.files):
                self.found[index] = known = self.cache.get(file, self.wants)
                self.progress.add(known.size_bytes if known else 0)
        self.progress.draw()
        self.pieces = Pieces(self.offsets, self.found, self.wants.piece_size, self.cache)
        with ThreadPoolExecutor(self.workers, thread_name_prefix="digest") as pool:
            try:
                self._read_all(pool)
                if self.wants.v1:
                    self._read_missing(pool)
            except BaseException:
                self.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return self._result()

    def _runs(self) -> Iterator[_Run]:
        unknown = sum(f.size_bytes for f, known in zip(self.files, self.found, strict=True) if not known)
        # at the least some pieces long, for the part of a piece that a run begins in is hashed by one thread alone
        full = max(4 * self.wants.piece_size, min(RUN_BYTES, unknown // (8 * self.workers)))
        wide_from = max(WIDE_FROM, unknown // self.workers + 1) if self.workers > 1 else unknown + 1
        run: _Run | None = None
        for index, file in enumerate(self.files):
            wide = file.size_bytes >= wide_from
            if run and (self.found[index] or wide or run.size >= full or len(run.files) >= RUN_FILES):
                yield run
                run = None
            if self.found[index]:
                continue
            run = run or _Run(index, self.offsets[index])
            run.files.append(file)
            run.size += file.size_bytes
            if wide:
                run.wide = True
                yield run
                run = None
        if run:
            yield run

    def _read_all(self, pool: ThreadPoolExecutor) -> None:
        """Every run, a few ahead; results are taken in order, so errors and saved rows come in order too."""
        ahead: deque[tuple[_Run, Future[tuple[list[FileDigests], PieceRun | None]]]] = deque()
        for run in self._runs():
            if run.wide:
                while ahead:
                    self._take(*ahead.popleft())
                self._take_wide(run, pool)
                continue
            ahead.append((run, pool.submit(self._read_run, run)))
            if len(ahead) > 2 * self.workers:
                self._take(*ahead.popleft())
        while ahead:
            self._take(*ahead.popleft())

    def _read_run(self, run: _Run) -> tuple[list[FileDigests], PieceRun | None]:
        buffer = getattr(self.local, "buffer", None)
        if buffer is None:
            buffer = self.local.buffer = memoryview(bytearray(self.wants.block_bytes))
        pieces = PieceRun(run.start, self.wants.piece_size) if self.wants.v1 else None
        out = []
        for file in run.files:
            out.append(digest_one(file, self.wants, pieces, buffer, self.stop))
            self.progress.add(file.size_bytes)
        return out, pieces

    def _take(self, run: _Run, future: Future[tuple[list[FileDigests], PieceRun | None]]) -> None:
        while not wait([future], POLL_SECONDS).done:
            self.progress.draw()
        digests, pieces = future.result()
        self.progress.draw()
        self._keep(run, digests, pieces)

    def _take_wide(self, run: _Run, pool: ThreadPoolExecutor) -> None:
        pieces = PieceRun(run.start, self.wants.piece_size) if self.wants.v1 else None
        for step in digest_wide(run.files[0], self.wants, pieces, pool, self.stop):
            if isinstance(step, FileDigests):
                self._keep(run, [step], pieces)
            else:
                self.progress.add(step)
                self.progress.draw()

    def _keep(self, run: _Run, digests: list[FileDigests], pieces: PieceRun | None) -> None:
        self.read_bytes += run.size
        for index, (file, found) in enumerate(zip(run.files, digests, strict=True), run.first):
            self.found[index] = found
            if self.cache:
                self.cache.put(file, self.wants, found)
        if pieces:
            self.pieces.add(pieces)
        if self.cache:
            self.cache.save()

    def _read_missing(self, pool: ThreadPoolExecutor) -> None:
        jobs = deque(self.pieces.missing())
        ahead: deque[tuple[list[int], Future[list[bytes]]]] = deque()
        while jobs or ahead:
            while jobs and len(ahead) <= 2 * self.workers:
                group = jobs.popleft()
                parts = [self.pieces.parts(index) for index in group]
                self.reread_bytes += sum(part.length for piece in parts for part in piece)
                ahead.append((group, pool.submit(read_pieces, parts, self.files, self.stop)))
            group, future = ahead.popleft()
            for index, digest in zip(group, future.result(), strict=True):
                self.pieces.put(index, digest)
            if self.cache:
                self.cache.save()

    def _result(self) -> TreeDigests:
        files = {}
        for file, found in zip(self.files, self.found, strict=True):
            assert found is not None
            files[file.path] = found
        if self.cache and not self.part:
            self.cache.prune(list(files), self.pieces.keys)
        padded = None
        if self.wants.hybrid:
            order = sorted(files, key=lambda path: [part.encode() for part in path.split("/")])
            padded = b"".join(files[path].padded or b"" for path in order)
        return TreeDigests(
            files, self.pieces.joined() if self.wants.v1 else None, self.read_bytes, self.reread_bytes, padded
        )
