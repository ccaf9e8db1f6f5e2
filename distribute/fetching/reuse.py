"""Files that this disk has under another name or in another folder: taken from there, and checked, instead of fetched.

    an older release in the folder itself   a file that moved: linked when its old name is pruned, else copied
    --reuse DIR                             another fetched folder or RELEASE: copied

A copy shares blocks where the file system can (Btrfs, XFS), never the file itself: an edit in one place does not show in
the other. Every copy is read again and compared before it counts, and all are made before the first is put in its place, so
that two files may have changed their names.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from distribute.fetching.jobs import Job
from distribute.fetching.older import Older
from distribute.fetching.pieces import blocks_of, right_file
from distribute.fetching.plan import Plan
from distribute.fetching.store import Store, write_all
from distribute.fetching.target import Target
from distribute.transports._base import Wanted
from headwater.console import track
from headwater.errors import HeadwaterError
from headwater.manifest import FileEntry
from headwater.release import OpenRelease, open_release

COPY_BYTES = 64 << 20  # in one call of the system
NO_COPY = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF)  # the plain way then

Take = Callable[
    [Target, str, str, Wanted], bool
]  # (from, its path, name of the partial file, what it must be)


def open_reusable(folders: Sequence[str]) -> list[OpenRelease]:
    """The releases of `--reuse`. Raises MissingInput for a folder that is none."""
    return [open_release(Path(folder)) for folder in folders]


class Shelves:
    """All files at hand, by their digests. A context manager: the folders stay open."""

    def __init__(self, target: Target | None, older: Older, releases: Sequence[OpenRelease]) -> None:
        self._held = ExitStack()
        self._own = target
        self._shelves: list[tuple[Target, Collection[FileEntry]]] = []
        if target is not None:
            self._shelves.append((target, older.entries.values()))
        for release in releases:
            folder = self._held.enter_context(Target(release.data, writable=False))
            self._shelves.append((folder, release.manifest.entries))

    def __enter__(self) -> Shelves:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def _find(self, jobs: Sequence[Job]) -> dict[Job, list[tuple[Target, str]]]:
        """Where files with the digests of the jobs should be, by what their manifests say."""
        wanted = {_digest(job.wanted) for job in jobs if job.wanted.size_bytes}
        at: dict[str, list[tuple[Target, str]]] = {}
        for folder, entries in self._shelves if wanted else ():
            for entry in entries:
                for digest in wanted.intersection(filter(None, (entry.sha256, entry.bt_v2_root))):
                    at.setdefault(digest, []).append((folder, entry.path))
        # a job's own place has been looked at already
        found = {
            job: [
                (folder, path)
                for folder, path in at.get(_digest(job.wanted), ())
                if folder is not self._own or path != job.wanted.path
            ]
            for job in jobs
        }
        return {job: places for job, places in found.items() if places}

    def offers(self, plan: Plan) -> int:
        """Bytes of the jobs that may be here; nothing is read."""
        return sum(job.wanted.size_bytes - job.kept_bytes for job in self._find(plan.jobs))

    def link(self, plan: Plan, store: Store, gone: frozenset[str]) -> list[Job]:
        """Jobs whose file lies at a path that will be pruned: a second name for it. They leave the plan."""
        return self._bring(
            plan, store, 1, _link, lambda folder, path: folder is store.target and path in gone
        )

    def copy(self, plan: Plan, store: Store, workers: int) -> list[Job]:
        """Jobs whose file is anywhere at hand: a copy of it. They leave the plan."""

        def copied(folder: Target, path: str, name: str, wanted: Wanted) -> bool:
            return _copy(store.target, folder, path, name, wanted)

        return self._bring(plan, store, workers, copied, lambda folder, path: True)

    def _bring(
        self, plan: Plan, store: Store, workers: int, take: Take, fits: Callable[[Target, str], bool]
    ) -> list[Job]:
        found = self._find(plan.jobs)
        places = {job: [place for place in at if fits(*place)] for job, at in found.items()}
        offered = [job for job in places if places[job]]
        if not offered:
            return []

        def bring(job: Job) -> bool:
            name = here(store, job)
            return any(take(folder, path, name, job.wanted) for folder, path in places[job])

        ready = []
        total = sum(job.wanted.size_bytes for job in offered)
        with (
            track("take what is here", total=total, unit="bytes") as bar,
            ThreadPoolExecutor(workers) as pool,
        ):
            try:
                for job, good in zip(offered, pool.map(bring, offered), strict=True):
                    bar.add(job.wanted.size_bytes)
                    if good:
                        ready.append(job)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        taken = set(ready)
        plan.jobs = [job for job in plan.jobs if job not in taken]
        return ready


def _digest(wanted: Wanted) -> str:
    return wanted.sha256 or wanted.bt_v2_root or ""


def here(store: Store, job: Job) -> str:
    """Name of a partial file that may be a link to a file of the user: nothing ever opens it for writing."""
    return f"{store.name(job)}.here"


def place(ready: Sequence[Job], plan: Plan, store: Store) -> None:
    """Put the files that were taken into their places."""
    for job in ready:
        store.target.place(here(store, job), job.wanted.path)
        for ending in ("part", "pieces"):
            store.target.drop_partial(f"{store.name(job)}.{ending}")
        plan.reused.append(job.wanted)
        plan.resumed_bytes -= job.kept_bytes


def _link(folder: Target, path: str, name: str, wanted: Wanted) -> bool:
    """Whether the file is the wanted one; it has then a second name."""
    folder.drop_partial(name)
    try:
        folder.link(path, name)
    except (OSError, HeadwaterError):
        return False
    return _checked(folder, name, wanted)


def _copy(target: Target, folder: Target, path: str, name: str, wanted: Wanted) -> bool:
    target.drop_partial(name)
    try:
        source = folder.open(path)
    except (OSError, HeadwaterError):
        return False  # not there any more, or a link
    try:
        if os.fstat(source).st_size != wanted.size_bytes:
            return False
        fd = target.new_partial(name, fresh=True)
        try:
            copy_bytes(source, fd)
        finally:
            os.close(fd)
    finally:
        os.close(source)
    return _checked(target, name, wanted)


def _checked(target: Target, name: str, wanted: Wanted) -> bool:
    try:
        fd = target.open_partial(name)
    except OSError:
        right = False
    else:
        try:
            right = right_file(fd, wanted)
        finally:
            os.close(fd)
    if not right:
        target.drop_partial(name)
    return right


def copy_bytes(source: int, fd: int) -> None:
    """All bytes of one open file into another, empty one; shared blocks where the file system can."""
    try:
        while os.copy_file_range(source, fd, COPY_BYTES):
            pass
    except OSError as error:
        if error.errno not in NO_COPY:
            raise
        os.ftruncate(fd, 0)
        at = 0
        for block in blocks_of(source):
            write_all(fd, block, at)
            at += len(block)
