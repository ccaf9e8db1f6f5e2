"""Partial files: a piece that is right is written, then marked; what an earlier run marked is read and checked again.

    .headwater/partial/<SHA-256 of the path>.part      the file, with holes
    .headwater/partial/<SHA-256 of the path>.pieces    one byte for each piece: 1 when it is there

Marks are never believed: they only say which pieces are worth reading. So nothing needs to be flushed in between.
"""

from __future__ import annotations

import hashlib
import os
import threading

from distribute.fetching.jobs import Job
from distribute.fetching.target import Target


class Store:
    """Partial files of the jobs. Thread-safe for different jobs, and for different pieces of one."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._lock = threading.Lock()
        self._closed = False
        self._files: dict[Job, tuple[int, int]] = {}  # descriptors of .part and .pieces

    @staticmethod
    def name(job: Job) -> str:
        """Of its partial file, without the ending."""
        return hashlib.sha256(job.wanted.path.encode()).hexdigest()

    def open(self, job: Job) -> tuple[int, int]:
        """The job's partial file and its marks, made when they are not there."""
        with self._lock:
            return self._open(job)

    def _open(self, job: Job) -> tuple[int, int]:
        if job not in self._files:
            name = self.name(job)
            part = self.target.new_partial(f"{name}.part", fresh=False)
            os.ftruncate(part, job.wanted.size_bytes)
            self._files[job] = part, self.target.new_partial(f"{name}.pieces", fresh=False)
        return self._files[job]

    def write(self, job: Job, index: int, data: memoryview, offset: int) -> None:
        """A piece that is right: the bytes first, then its mark."""
        with self._lock:
            if job.claimed or self._closed:
                return  # another worker has brought the last piece meanwhile, or the fetch is over
            # copies: the originals may be closed, and their numbers used again, while we write
            part, marks = map(os.dup, self._open(job))
        try:
            write_all(part, data, offset)
            write_all(marks, memoryview(b"\x01"), index)
        finally:
            os.close(part)
            os.close(marks)

    def resume(self, job: Job) -> int:
        """Find what an earlier run left of a job with pieces; every marked piece is read and checked. Returns bytes kept."""
        assert job.pieces is not None
        name = self.name(job)
        try:
            marks = os.open(f"{name}.pieces", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self.target.partial)
        except OSError:
            return 0
        try:
            seen = os.pread(marks, len(job.pieces), 0)
        finally:
            os.close(marks)
        part = self.open(job)[0]
        return keep_right_pieces(job, part, [i for i, mark in enumerate(seen) if mark])

    def salvage(self, job: Job, fd: int) -> int:
        """Take the right pieces of a file that lies in place and is not right as a whole. Returns bytes kept."""
        assert job.pieces is not None
        kept = 0
        buffer = memoryview(bytearray(job.pieces.piece_size))
        for index in range(len(job.pieces)):
            at, length = job.pieces.span(index)
            if job.have[index] or os.preadv(fd, [buffer[:length]], at) != length:
                continue
            if job.pieces.right(index, buffer[:length]):
                self.write(job, index, buffer[:length], at)
                job.have[index] = 1
                kept += length
        return kept

    def place(self, job: Job) -> None:
        """Move a job whose pieces are all there to its path."""
        self.close(job)
        name = self.name(job)
        self.target.place(f"{name}.part", job.wanted.path)
        self.target.drop_partial(f"{name}.pieces")

    def empty(self, job: Job) -> None:
        """Place a file of no bytes."""
        name = f"{self.name(job)}.part"
        os.close(self.target.new_partial(name, fresh=True))
        self.target.place(name, job.wanted.path)

    def close(self, job: Job) -> None:
        """Close its descriptors."""
        with self._lock:
            for fd in self._files.pop(job, ()):
                os.close(fd)

    def close_all(self) -> None:
        """Close everything for good; what is partial stays."""
        with self._lock:
            self._closed = True
        for job in list(self._files):
            self.close(job)


def keep_right_pieces(job: Job, fd: int, indices: list[int]) -> int:
    """Mark those of the pieces that the open file really holds. Returns their bytes."""
    assert job.pieces is not None
    kept = 0
    buffer = memoryview(bytearray(job.pieces.piece_size))
    for index in indices:
        at, length = job.pieces.span(index)
        if os.preadv(fd, [buffer[:length]], at) == length and job.pieces.right(index, buffer[:length]):
            job.have[index] = 1
            kept += length
    return kept


def write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(fd, data, offset)
        data, offset = data[count:], offset + count
