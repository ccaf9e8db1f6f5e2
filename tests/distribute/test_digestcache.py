"""The cache saves reading and decides nothing: stale, damaged, foreign and read-only ones give the same digests."""

from __future__ import annotations

import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from distribute import digestcache, digests
from distribute.digestcache import TreeCache
from distribute.digests import TreeDigests, TreeFile, digest_tree
from distribute.unixfs import PROFILES
from headwater import console
from headwater.errors import IntegrityError
from tests.distribute.tree_kit import MIXED, OLD, content, plain, plain_pieces, seen, write

ALL = tuple(PROFILES)
PIECE = 65536


def digest(files: list[TreeFile], cache: Path, *, distrust: bool = False, **wants: object) -> TreeDigests:
    asked = {"profiles": ALL, "piece_size": PIECE, "v1": True, "workers": 2, **wants}
    return digest_tree(files, cache=TreeCache(cache, distrust=distrust), **asked)  # type: ignore[arg-type]


class Heard(console.Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, level: str, text: str, fields: dict[str, object]) -> None:
        self.said.append(f"{level}: {text}")


@pytest.fixture
def heard() -> Heard:
    sink = Heard()
    console.listen(sink)
    return sink


@pytest.fixture
def files() -> dict[str, bytes]:
    return content(MIXED)


def check(
    found: TreeDigests, files: dict[str, bytes], *, piece: int = PIECE, profiles: tuple[str, ...] = ALL
) -> None:
    assert found.v1_pieces == plain_pieces(files, piece)
    assert {path: replace(one, padded=None) for path, one in found.files.items()} == {
        path: plain(data, profiles, piece) for path, data in files.items()
    }


def test_nothing_is_read_twice(tmp_path: Path, files: dict[str, bytes], heard: Heard) -> None:
    tree = write(tmp_path / "d", files)
    first = digest(tree, tmp_path / "c")
    again = digest(tree, tmp_path / "c")
    check(again, files)
    assert (first.read_bytes, first.reread_bytes) == (sum(map(len, files.values())), 0)
    assert (again.read_bytes, again.reread_bytes) == (0, 0)
    fewer = digest(tree, tmp_path / "c", profiles=ALL[1:2])
    check(fewer, files, profiles=ALL[1:2])
    assert fewer.read_bytes == 0
    assert heard.said == []


def test_other_parameters_are_read_again(tmp_path: Path, files: dict[str, bytes]) -> None:
    tree = write(tmp_path / "d", files)
    total = sum(map(len, files.values()))
    digest(tree, tmp_path / "c", profiles=ALL[:1])
    more = digest(tree, tmp_path / "c")
    assert more.read_bytes == total
    other = digest(tree, tmp_path / "c", piece_size=2 * PIECE)
    check(other, files, piece=2 * PIECE)
    assert other.read_bytes == total
    hybrid = digest(tree, tmp_path / "c", piece_size=2 * PIECE, hybrid=True)
    assert hybrid.read_bytes == total
    assert digest(tree, tmp_path / "c", piece_size=2 * PIECE, hybrid=True) == replace(hybrid, read_bytes=0)


@pytest.mark.parametrize("seed", range(5))
def test_a_tree_that_changes(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files come, go and change; pieces that occurred before are known wherever they stand."""
    source = random.Random(seed)
    monkeypatch.setattr(digests, "RUN_BYTES", 100_000)
    files = content([source.randrange(300_000) for _ in range(12)], seed)
    digest(write(tmp_path / "d", files), tmp_path / "c")
    for step in range(3):
        changed = source.choice(sorted(files))
        files[changed] = source.randbytes(source.randrange(300_000))
        tree = [seen(tmp_path / "d", changed, files[changed], when=OLD + step + 1)]
        files.pop(next(path for path in sorted(files) if path != changed))
        new = f"b/new{step}"
        files[new] = source.randbytes(source.choice([10, 200_000]))
        tree.append(seen(tmp_path / "d", new, files[new]))
        tree += [seen(tmp_path / "d", path) for path in files if path not in (changed, new)]
        found = digest(tree, tmp_path / "c")
        check(found, files)
        assert found.read_bytes == len(files[changed]) + len(files[new])
        assert digest(tree, tmp_path / "c").reread_bytes == 0


def test_only_seams_are_read_again(tmp_path: Path) -> None:
    """A file put at the end leaves all pieces but the last; a file in the middle of the same size, all but its own."""
    files = {f"{n:02d}": bytes([n]) * 500_000 for n in range(8)}
    digest(write(tmp_path / "d", files), tmp_path / "c")
    files["99"] = b"x" * 1000
    tree = [seen(tmp_path / "d", path, data if path == "99" else None) for path, data in files.items()]
    found = digest(tree, tmp_path / "c")
    check(found, files)
    assert found.read_bytes == 1000
    assert 0 < found.reread_bytes <= PIECE
    files["04"] = b"y" * 500_000
    tree = [
        seen(tmp_path / "d", path, data if path == "04" else None, OLD + 1) for path, data in files.items()
    ]
    found = digest(tree, tmp_path / "c")
    check(found, files)
    assert found.read_bytes == 500_000
    assert 0 < found.reread_bytes <= 2 * PIECE


@pytest.mark.parametrize("how", ["gone", "shorter", "rewritten", "broken"])
def test_a_known_file_that_moves_before_its_seam_is_read_again(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{n:02d}": bytes([n]) * 100_000 for n in range(8)}
    tree = write(tmp_path / "d", files)
    digest(tree, tmp_path / "c")
    victim = tree[4].absolute
    if how == "gone":
        victim.unlink()
    elif how == "shorter":
        os.truncate(victim, 10)
    elif how == "rewritten":
        victim.write_bytes(files["04"])
    else:

        def broken(fd: int, views: object, at: int) -> int:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(IntegrityError, match=r"/0[14]: (changed|is gone|cannot be read)"):
        digest([tree[0], *tree[2:]] if how != "broken" else tree[1:], tmp_path / "c")


def test_a_file_of_this_moment_is_not_kept(tmp_path: Path) -> None:
    tree = [seen(tmp_path / "d", "a", b"x" * 1000, when=int(time.time()) + 60)]
    digest(tree, tmp_path / "c")
    assert digest(tree, tmp_path / "c").read_bytes == 1000


@pytest.mark.parametrize("part", ["size_bytes", "mtime_ns", "inode"])
def test_the_key(tmp_path: Path, part: str) -> None:
    tree = write(tmp_path / "d", {"a": b"x" * 1000})
    digest(tree, tmp_path / "c")
    other = replace(tree[0], **{part: getattr(tree[0], part) + 1})
    with pytest.raises(IntegrityError, match="changed"):  # so it was not taken from the cache
        digest([other], tmp_path / "c")


def test_distrust(tmp_path: Path, files: dict[str, bytes]) -> None:
    tree = write(tmp_path / "d", files)
    digest(tree, tmp_path / "c")
    found = digest(tree, tmp_path / "c", distrust=True)
    check(found, files)
    assert found.read_bytes == sum(map(len, files.values()))
    victim = next(file for file in tree if file.size_bytes > 100)
    with open(victim.absolute, "r+b") as handle:
        handle.seek(50)
        handle.write(bytes([files[victim.path][50] ^ 1]))
    os.utime(victim.absolute, ns=(victim.mtime_ns, victim.mtime_ns))
    assert digest(tree, tmp_path / "c").read_bytes == 0  # what trust means
    with pytest.raises(IntegrityError, match=f"{victim.absolute}: its bytes changed although"):
        digest(tree, tmp_path / "c", distrust=True)


# a cache that is not in order


@pytest.mark.parametrize(
    "damage", [b"", b"not a database at all" * 50, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_damaged_file_is_put_aside_with_a_word(
    tmp_path: Path, damage: bytes, files: dict[str, bytes], heard: Heard
) -> None:
    tree = write(tmp_path / "d", files)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/digests.sqlite").write_bytes(damage)
    check(digest(tree, tmp_path / "c"), files)
    assert bool(heard.said) == bool(damage)
    assert all("damaged" in text for text in heard.said)
    heard.said.clear()
    assert digest(tree, tmp_path / "c").read_bytes == 0
    assert heard.said == []


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bytes_never_change_a_digest(tmp_path: Path, seed: int, files: dict[str, bytes]) -> None:
    tree = write(tmp_path / "d", files)
    digest(tree, tmp_path / "c")
    source, cache = random.Random(seed), tmp_path / "c/digests.sqlite"
    raw = bytearray(cache.read_bytes())
    for _ in range(200):
        raw[source.randrange(100 if seed % 2 else 0, len(raw))] ^= 1 << source.randrange(8)
    cache.write_bytes(raw)
    check(digest(tree, tmp_path / "c"), files)
    check(digest(tree, tmp_path / "c"), files)
    assert digest(tree, tmp_path / "c").read_bytes == 0  # it was made whole again


def test_rows_of_another_file_are_not_taken(tmp_path: Path) -> None:
    tree = write(tmp_path / "d", {"a": b"a" * 1000, "b": b"b" * 1000})
    digest(tree, tmp_path / "c")
    with sqlite3.connect(tmp_path / "c/digests.sqlite") as connection:
        rows = dict(connection.execute("SELECT path, body FROM files"))
        connection.execute("UPDATE files SET body = ? WHERE path = ?", (rows[b"a"], b"b"))
    connection.close()
    found = digest(tree, tmp_path / "c")
    assert found.files["b"] == plain(b"b" * 1000, ALL, PIECE)
    assert found.read_bytes == 1000


@pytest.mark.parametrize("version", [99, digestcache.VERSION])
def test_other_tables_are_written_anew(tmp_path: Path, heard: Heard, version: int) -> None:
    tree = write(tmp_path / "d", {"a": b"a" * 1000})
    (tmp_path / "c").mkdir()
    with sqlite3.connect(tmp_path / "c/digests.sqlite") as connection:
        connection.executescript(f"CREATE TABLE files (other INT); PRAGMA user_version = {version};")
    connection.close()
    assert digest(tree, tmp_path / "c").read_bytes == 1000
    assert digest(tree, tmp_path / "c").read_bytes == 0
    assert len(heard.said) == (version == digestcache.VERSION)


def test_a_cache_that_cannot_be_written(tmp_path: Path, files: dict[str, bytes], heard: Heard) -> None:
    tree = write(tmp_path / "d", files)
    (tmp_path / "c").write_bytes(b"a file where the folder should be")
    check(digest(tree, tmp_path / "c"), files)
    assert len(heard.said) == 1
    assert "--cache DIR" in heard.said[0]


def test_a_link_in_its_place_is_not_followed(tmp_path: Path, heard: Heard) -> None:
    tree = write(tmp_path / "d", {"a": b"a" * 1000})
    (tmp_path / "c").mkdir()
    (tmp_path / "other").write_bytes(b"")
    (tmp_path / "c/digests.sqlite").symlink_to(tmp_path / "other")
    assert digest(tree, tmp_path / "c").read_bytes == 1000
    assert (tmp_path / "other").read_bytes() == b""
    assert len(heard.said) == 1


def test_a_full_disk(
    tmp_path: Path, files: dict[str, bytes], heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write(tmp_path / "d", files)
    real = TreeCache._connect

    def small(self: TreeCache) -> sqlite3.Connection:
        connection = real(self)
        connection.execute("PRAGMA max_page_count = 3")
        return connection

    monkeypatch.setattr(TreeCache, "_connect", small)
    check(digest(tree, tmp_path / "c"), files)
    assert len(heard.said) == 1
    assert "full" in heard.said[0]


def test_a_cache_that_another_process_writes(
    tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write(tmp_path / "d", {"a": b"a" * 1000})
    digest(tree, tmp_path / "c")
    monkeypatch.setattr(digestcache, "WAIT_SECONDS", 0.05)
    other = sqlite3.connect(tmp_path / "c/digests.sqlite", isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        assert digest(tree, tmp_path / "c").read_bytes == 1000
    finally:
        other.close()
    assert len(heard.said) == 1
    assert digest(tree, tmp_path / "c").read_bytes == 0  # and nothing was thrown away


def test_it_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digestcache, "KEEP_ROWS", 5)
    for turn in range(10):
        files = {f"{turn}-{n}": f"{turn}-{n}".encode() * 20_000 for n in range(3)}
        digest(write(tmp_path / "d", files), tmp_path / "c")
    connection = sqlite3.connect(tmp_path / "c/digests.sqlite")
    counts = [
        connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("files", "pieces")
    ]
    connection.close()
    assert counts[0] <= 4 * 3 + 5 + 3
    assert counts[1] <= 4 * 8 + 5 + 8
    tree = write(tmp_path / "d", files)
    assert digest(tree, tmp_path / "c").reread_bytes == 0
    monkeypatch.setattr(digestcache, "KEEP_ROWS", -10)
    assert digest(tree[:1], tmp_path / "c", part=True).read_bytes == 0
    assert digest(tree, tmp_path / "c").read_bytes == 0  # a part of the tree made it forget nothing


KILLED = """
import sys, time
from pathlib import Path
from distribute import digestcache, digests
from distribute.digestcache import TreeCache
from tests.distribute.tree_kit import seen
root = Path(sys.argv[1])
digestcache.SAVE_SECONDS = 0
digests.RUN_FILES = 2
files = [seen(root / "d", f"{n:03d}") for n in range(40)]
real = TreeCache.save
def save(self, *, now=False):
    real(self, now=now)
    print("saved", flush=True)
    time.sleep(0.02)
TreeCache.save = save
digests.digest_tree(files, profiles=("unixfs-v1-2025",), piece_size=65536, v1=True, cache=TreeCache(root / "c"))
"""


@pytest.mark.slow
def test_killed_on_the_way_keeps_what_was_saved(tmp_path: Path) -> None:
    files = {f"{n:03d}": bytes([n]) * 50_000 for n in range(40)}
    tree = write(tmp_path / "d", files)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout
    with process.stdout as lines:
        for _ in range(6):
            assert lines.readline() == b"saved\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    found = digest(tree, tmp_path / "c", profiles=("unixfs-v1-2025",))
    check(found, files, profiles=("unixfs-v1-2025",))
    assert 0 < found.read_bytes <= 50_000 * 28
