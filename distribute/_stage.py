"""A folder that appears whole, or not at all: filled under a temporary name beside it, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headwater.errors import HeadwaterError, IntegrityError, UsageError
from headwater.files import FILE_MODE, explain_os_error, fsync_folder, glob_escape, named_io

# another file system, one without links, too many links, or links to others' files not allowed
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES)
_OF_TARGET = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
)  # what a copy fails with for its target's sake


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields the folder to fill; it becomes `out` when the block ends well. Raises UsageError when `out` holds something.

    What a killed run left under its temporary name is removed first.
    """
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise UsageError(f"{out}: is already there", hint="choose another -o, or remove it")
    stage = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    with named_io(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in out.parent.glob(f".{glob_escape(out.name)}.tmp-*"):
            pid = left.name.rpartition("-")[2]
            if pid.isdigit() and (int(pid) == os.getpid() or not os.path.exists(f"/proc/{pid}")):
                shutil.rmtree(left)
        stage.mkdir()
    try:
        yield stage
        with named_io(out):
            for place, _, _ in os.walk(stage):
                fsync_folder(Path(place))
            os.rename(stage, out)  # takes the place of an empty folder
            fsync_folder(out.parent)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise


def link_or_copy(source: Path, target: Path, *, copy: bool = False) -> int:
    """Hard-link `source`, or copy it: on request, and where no link can be (another file system). Returns the bytes copied.

    Raises MissingInput when it is gone, IntegrityError when it is a symbolic link, HeadwaterError (no space).
    """
    with named_io(source):
        if source.is_symlink():
            raise IntegrityError(f"{source}: a symbolic link where a file was recorded")
        try:
            if not copy:
                os.link(source, target, follow_symlinks=False)
                return 0
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
    try:
        with named_io(target):
            shutil.copyfile(source, target, follow_symlinks=False)
            with open(target, "rb") as handle:
                os.fchmod(handle.fileno(), FILE_MODE)
                os.fsync(handle.fileno())
                return os.fstat(handle.fileno()).st_size
    except HeadwaterError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in _OF_TARGET:  # copyfile names its source
            raise explain_os_error(OSError(cause.errno, os.strerror(cause.errno)), target) from cause
        raise
