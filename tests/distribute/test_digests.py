"""The one read gives what every hash over the whole bytes gives, for any number of threads, and names a file that moves."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distribute import _one_read, digests
from distribute.digests import TreeFile, digest_tree
from distribute.torrents import build_v1, infohash_v1
from distribute.unixfs import PROFILES
from headwater.console import Track, track
from headwater.errors import Cancelled, HeadwaterError, IntegrityError, UsageError
from tests.distribute.tree_kit import MIXED, content, plain, plain_pieces, seen, write

ALL = tuple(PROFILES)
PIECE = 65536


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("piece", [16384, 1 << 18, 1 << 21])
def test_every_digest(tmp_path: Path, workers: int, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "RUN_BYTES", 300_000)  # several runs with seams between them
    monkeypatch.setattr(digests, "WIDE_FROM", 1 << 20)  # the largest by all threads together
    files = content((*MIXED, *MIXED), seed=piece)
    found = digest_tree(
        write(tmp_path, files), profiles=ALL, piece_size=piece, v1=True, hybrid=True, workers=workers
    )
    assert list(found.files) == sorted(files, key=str.encode)
    for path, data in files.items():
        assert found.files[path] == plain(data, ALL, piece, padded=True), path
    assert found.v1_pieces == plain_pieces(files, piece)
    order = sorted(files, key=lambda path: path.encode().split(b"/"))
    assert found.padded_pieces == b"".join(found.files[path].padded or b"" for path in order)
    assert (found.read_bytes, found.reread_bytes) == (sum(map(len, files.values())), 0)


@pytest.mark.parametrize("seed", range(6))
def test_seams(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces over many files, files over many pieces, runs within a piece."""
    source = random.Random(seed)
    monkeypatch.setattr(digests, "RUN_FILES", source.choice([1, 2, 7]))
    files = content([source.choice([0, 1, 700, 16384, source.randrange(200_000)]) for _ in range(60)], seed)
    found = digest_tree(
        write(tmp_path, files), profiles=ALL[:1], piece_size=PIECE, v1=True, workers=source.choice([1, 3])
    )
    assert found.v1_pieces == plain_pieces(files, PIECE)
    assert found.padded_pieces is None
    assert all(one.padded is None for one in found.files.values())


def test_nothing_but_names_and_bytes_decides(tmp_path: Path) -> None:
    files = content(MIXED)
    a = write(tmp_path / "a", files)
    b = write(tmp_path / "b", dict(reversed(files.items())), when=1_700_000_123)
    for file in b:
        file.absolute.chmod(0o600)
    one = digest_tree(a, profiles=ALL, piece_size=PIECE, v1=True)
    two = digest_tree(list(reversed(b)), profiles=ALL, piece_size=PIECE, v1=True, workers=3)
    assert (one.files, one.v1_pieces) == (two.files, two.v1_pieces)
    made = [
        infohash_v1(build_v1("d", [(p, f.size_bytes) for p, f in d.files.items()], PIECE, d.v1_pieces or b""))
        for d in (one, two)
    ]
    assert made[0] == made[1]


def test_a_hybrid_of_one_file_has_no_padding(tmp_path: Path) -> None:
    files = {"a": b"x" * 100_000}
    for v1 in (False, True):
        found = digest_tree(write(tmp_path, files), profiles=(), piece_size=PIECE, v1=v1, hybrid=True)
        assert found.padded_pieces == plain_pieces(files, PIECE)
        assert found.v1_pieces == (found.padded_pieces if v1 else None)


def test_no_v1_and_nothing_at_all(tmp_path: Path) -> None:
    found = digest_tree(write(tmp_path, {"a": b"x"}), profiles=(), piece_size=PIECE, v1=False)
    assert found.v1_pieces is None
    assert found.files["a"].leaves == {}
    empty = digest_tree([], profiles=ALL, piece_size=PIECE, v1=True)
    assert (empty.files, empty.v1_pieces) == ({}, b"")
    with pytest.raises(UsageError, match="unixfs"):
        digest_tree([], profiles=("unixfs-v1-2026",), piece_size=PIECE, v1=True)
    with pytest.raises(ValueError, match="power of two"):
        digest_tree([], profiles=ALL, piece_size=PIECE - 1, v1=True)
    file = write(tmp_path, {"a": b"x"})[0]
    with pytest.raises(ValueError, match="twice"):
        digest_tree([file, file], profiles=ALL, piece_size=PIECE, v1=True)


def test_a_hybrid_of_small_files_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    files = write(tmp_path, content([1000] * 100))
    files[0].absolute.unlink()
    with pytest.raises(UsageError, match="padding"):
        digest_tree(files, profiles=(), piece_size=1 << 24, v1=False, hybrid=True)


class Full(Exception):
    """From a progress bar."""


@pytest.mark.parametrize("error", [Full, Cancelled])
@pytest.mark.parametrize("wide", [False, True])
def test_stopped_on_the_way(
    tmp_path: Path, error: type[BaseException], wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal arrives in the main thread: the others end too."""

    class Bar(Track):
        def add(self, amount: int = 1, note: str | None = None) -> None:
            raise error("stop")

    if wide:
        monkeypatch.setattr(digests, "WIDE_FROM", 1 << 20)
    files = write(tmp_path, content([2 << 20] * 12))
    with pytest.raises(error):
        digest_tree(files, profiles=ALL, piece_size=PIECE, v1=True, workers=3, bar=Bar("read", None, "bytes"))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("digest")]


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    files = content(MIXED)
    with track("read", total=None, unit="bytes") as bar:
        digest_tree(write(tmp_path, files), profiles=ALL, piece_size=PIECE, v1=True, workers=2, bar=bar)
    assert bar.done == sum(map(len, files.values()))


def test_many_small_files(tmp_path: Path) -> None:
    files = {f"{n // 500}/{n:05d}": n.to_bytes(4, "big") * (n % 50) for n in range(600)}
    found = digest_tree(write(tmp_path, files), profiles=ALL, piece_size=16384, v1=True, workers=2)
    assert found.v1_pieces == plain_pieces(files, 16384)
    for path in ("0/00000", "0/00001", "1/00599"):
        assert found.files[path] == plain(files[path], ALL, 16384)


# files that move

Change = Callable[[TreeFile], None]


def grow(file: TreeFile) -> None:
    with open(file.absolute, "ab") as handle:
        handle.write(b"more")
    os.utime(file.absolute, ns=(file.mtime_ns, file.mtime_ns))


def shrink(file: TreeFile) -> None:
    os.truncate(file.absolute, file.size_bytes // 2)
    os.utime(file.absolute, ns=(file.mtime_ns, file.mtime_ns))


def rewrite(file: TreeFile) -> None:
    with open(file.absolute, "r+b") as handle:
        handle.write(b"other")
    os.utime(file.absolute)


def replace(file: TreeFile) -> None:
    """Another inode with the same size and time."""
    other = file.absolute.with_name("other")
    other.write_bytes(bytes(file.size_bytes))
    os.utime(other, ns=(file.mtime_ns, file.mtime_ns))
    other.replace(file.absolute)


def vanish(file: TreeFile) -> None:
    file.absolute.unlink()


def become_link(file: TreeFile) -> None:
    moved = file.absolute.with_name("moved")
    file.absolute.rename(moved)
    file.absolute.symlink_to(moved)


def become_pipe(file: TreeFile) -> None:
    file.absolute.unlink()
    os.mkfifo(file.absolute)


def become_folder(file: TreeFile) -> None:
    file.absolute.unlink()
    file.absolute.mkdir()


CHANGES = [grow, shrink, rewrite, replace, vanish, become_link, become_pipe, become_folder]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [5, 40_000, 3_000_000])
@pytest.mark.parametrize("workers", [1, 3])
def test_changed_before_it_is_read(tmp_path: Path, change: Change, size: int, workers: int) -> None:
    files = write(tmp_path, {"a": b"a" * 100, "b": b"b" * size, "c": b"c" * 100})
    change(files[1])
    with pytest.raises(IntegrityError, match=f"{files[1].absolute}: "):
        digest_tree(files, profiles=ALL, piece_size=PIECE, v1=True, workers=workers)


@contextmanager
def at_first_block(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[], None]) -> Iterator[None]:
    """Do `change` when the first block of the file `name` was read."""
    real, once = _one_read._fill, threading.Event()

    def fill(fd: int, view: memoryview, file: TreeFile) -> None:
        real(fd, view, file)
        if file.path == name and not once.is_set():
            once.set()
            change()

    monkeypatch.setattr(_one_read, "_fill", fill)
    yield
    assert once.is_set()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [5, 40_000, 3_000_000])
@pytest.mark.parametrize("wide", [False, True])
def test_changed_while_it_is_read(
    tmp_path: Path, change: Change, size: int, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wide:
        monkeypatch.setattr(digests, "WIDE_FROM", size)
    files = write(tmp_path, {"a": b"a" * 100, "b": b"b" * size, "c": b"c" * 100})
    with (
        at_first_block(monkeypatch, "b", lambda: change(files[1])),
        pytest.raises(IntegrityError, match=f"{files[1].absolute}: "),
    ):
        digest_tree(files, profiles=ALL, piece_size=PIECE, v1=True, workers=2)


def test_the_first_of_two_wrong_files_is_named(tmp_path: Path) -> None:
    files = write(tmp_path, {f"{n:02d}": bytes([n]) * 100_000 for n in range(20)})
    vanish(files[13])
    vanish(files[4])
    for workers in (1, 4):
        with pytest.raises(IntegrityError, match=str(files[4].absolute)):
            digest_tree(files, profiles=ALL, piece_size=PIECE, v1=True, workers=workers)


@pytest.mark.parametrize("size", [5, 3_000_000])
def test_a_disk_that_fails(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int, buffers: list[memoryview]) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    files = write(tmp_path, {"b": b"b" * size})
    monkeypatch.setattr(os, "readv", broken)
    with pytest.raises(IntegrityError, match="b: cannot be read") as caught:
        digest_tree(files, profiles=ALL, piece_size=PIECE, v1=True)
    assert "restore" in str(caught.value.hint)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write(tmp_path, {"b": b"b"})
    files[0].absolute.chmod(0)
    if os.geteuid() == 0:  # whom no mode stops
        real = os.open

        def refused(path: object, *rest: int, **more: int) -> int:
            if path == files[0].absolute:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path, *rest, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "open", refused)
    with pytest.raises(HeadwaterError, match="b: may not be read") as caught:
        digest_tree(files, profiles=ALL, piece_size=PIECE, v1=True)
    assert caught.value.exit_code == 1


def test_short_reads_are_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.readv
    monkeypatch.setattr(os, "readv", lambda fd, views: real(fd, [views[0][:7000]]))
    files = content((100_000, 5))
    found = digest_tree(write(tmp_path, files), profiles=ALL, piece_size=PIECE, v1=True)
    assert all(found.files[path] == plain(data, ALL, PIECE) for path, data in files.items())


def test_a_sparse_terabyte_is_planned_as_one_run_of_all_threads(tmp_path: Path) -> None:
    """Not read here: what is kept of it is digests, and two blocks of a fixed size."""
    with open(tmp_path / "huge", "wb") as handle:
        handle.truncate(1 << 40)
    files = [*write(tmp_path, content((5, 700))), seen(tmp_path, "huge")]
    wants = _one_read.Wants.of(ALL, 1 << 24, v1=True, hybrid=False)
    tree = digests._Tree(files, wants, None, 4, None)
    assert [(run.wide, len(run.files)) for run in tree._runs()] == [(False, 2), (True, 1)]
    stop = threading.Event()
    blocks = _one_read.file_blocks(files[-1], [memoryview(bytearray(1 << 20)) for _ in range(2)], stop)
    assert [len(next(blocks)) for _ in range(5)] == [1 << 20] * 5
    stop.set()
    with pytest.raises(_one_read.Stopped):
        next(blocks)
