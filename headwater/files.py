"""One commit point for every file: write beside, fsync, rename, fsync the folder.

A reader therefore sees the old file or the new one, never half of one, and a failed fsync is a failure (it is not
retried: after a failed fsync the kernel may have dropped the dirty pages, so a second success would prove nothing).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from headwater.errors import HeadwaterError, Locked, MissingInput

FILE_MODE = 0o644
FOLDER_MODE = 0o755
STANDARD_OUTPUT = "standard output"  # how messages call it


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def explain_os_error(error: OSError, path: Path | str, *, bytes_needed: int | None = None) -> HeadwaterError:
    """Turn what the system said into a message that names the object and the next thing to do."""
    name = error.filename if isinstance(error.filename, str) else str(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        need = f"; {bytes_needed:,} bytes are needed" if bytes_needed else ""
        free = _free_bytes(Path(name)) if name != STANDARD_OUTPUT else None
        have = f", {free:,} are free" if free is not None else ""
        return HeadwaterError(
            f"{name}: no space left on the device{need}{have}",
            hint="free some space and run the same line again",
        )
    if error.errno == errno.EFBIG:
        return HeadwaterError(
            f"{name}: the file-size limit of this process was reached", hint="raise `ulimit -f`"
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return HeadwaterError(
            f"{name}: {os.strerror(error.errno)}", hint="choose a folder that can be written, or --cache DIR"
        )
    if error.errno == errno.EMFILE:
        return HeadwaterError(f"{name}: too many open files", hint="raise `ulimit -n`")
    if error.errno == errno.ENOENT:
        return MissingInput(f"{name}: no such file or folder")
    what = os.strerror(error.errno) if error.errno else str(error)
    return HeadwaterError(f"{name}: {what}")


def _free_bytes(path: Path) -> int | None:
    for folder in (path, *path.parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    return None


@contextmanager
def named_io(path: Path | str, *, bytes_needed: int | None = None) -> Iterator[None]:
    """Errors of the operating system inside this block come out with the path and a next step."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, path, bytes_needed=bytes_needed) from error


@contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A binary file that appears under `path` whole, or not at all.

    The temporary name is `.NAME.tmp-PID` in the same folder. `durable=False` leaves out the two fsyncs; use it for
    caches, which are checked when read.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with named_io(path):
        handle = open(temporary, "wb")  # noqa: SIM115
        try:
            try:
                yield handle
                handle.flush()
                os.fchmod(handle.fileno(), FILE_MODE)
                if durable:
                    os.fsync(handle.fileno())
            finally:
                handle.close()
            os.replace(temporary, path)
            if durable:
                fsync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, document: Any, *, durable: bool = True) -> None:
    """Write `document` as readable JSON (sorted keys, two blanks, final newline), atomically."""
    text = json.dumps(document, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False)
    with atomic_file(path, durable=durable) as handle:
        handle.write(text.encode() + b"\n")


def remove_stale_temporaries(folder: Path, name: str | None = None) -> None:
    """Delete `.NAME.tmp-PID` files whose process is gone; without a name, those of all names."""
    for path in folder.glob(".*.tmp-*" if name is None else f".{glob_escape(name)}.tmp-*"):
        pid = path.name.rpartition("-")[2]
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            path.unlink(missing_ok=True)


def glob_escape(name: str) -> str:
    """`name` with the characters that a glob pattern would read as wild cards made literal."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


@contextmanager
def locked(private: Path, output: Path) -> Iterator[None]:
    """Hold the lock of `output`, a file in its `private` folder; raises Locked at once when another process has it."""
    while True:
        with named_io(output):
            private.mkdir(mode=FOLDER_MODE, exist_ok=True)
            try:
                fd = os.open(private / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
            except FileNotFoundError:
                continue  # its owner just finished and removed the folder
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise Locked(
                f"{output}: another process is writing it", hint="wait for it, then run again"
            ) from None
        except OSError as error:
            os.close(fd)
            raise HeadwaterError(f"{output}: the file system offers no locks ({error})") from error
        try:
            if os.stat(private / "lock").st_ino == os.fstat(fd).st_ino:
                break
        except FileNotFoundError:
            pass
        os.close(fd)
    try:
        yield
    finally:
        os.close(fd)
