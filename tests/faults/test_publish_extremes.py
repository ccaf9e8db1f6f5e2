"""Extreme trees that must be published: empty things, very many files, very large ones (row 89 of the catalogue)."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from distribute.packing import PackIndex
from headwater.release import open_release
from tests.conftest import clean_environment
from tests.faults import kit
from tests.faults.trees import refused, tree

# row 89


def test_row_89_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    refused(tmp_path / "tree", 2, "holds no files")
    (tmp_path / "tree" / "only" / "folders").mkdir(parents=True)
    refused(tmp_path / "tree", 2, "holds no files")
    refused(tmp_path / "gone", 10, "gone")
    (tmp_path / "tree" / "a.txt").write_bytes(b"one")
    assert kit.run("publish", tmp_path / "tree", "-o", tmp_path / "with").code == 0
    (tmp_path / "tree" / "only" / "folders").rmdir()
    (tmp_path / "tree" / "only").rmdir()
    assert kit.run("publish", tmp_path / "tree", "-o", tmp_path / "without").code == 0
    first, second = (open_release(tmp_path / name).release for name in ("with", "without"))
    assert first.cids != second.cids  # an empty folder is part of the tree


def test_row_89_an_empty_file(tmp_path: Path) -> None:
    folder = tree(tmp_path / "tree", {"empty": b"", "full": b"x"})
    assert kit.run("publish", folder, "-o", tmp_path / "release").code == 0
    release = open_release(tmp_path / "release")
    entry = release.manifest.entries[0]
    assert entry.size_bytes == 0 and entry.bt_v2_root is None
    # the CID of no bytes: raw, SHA-256 of nothing
    assert entry.cid == "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    assert (release.data / "empty").read_bytes() == b""


def peak(tmp_path: Path, *arguments: object) -> tuple[int, str]:
    """Largest resident set in bytes, and the output, of one run of the command in a process of its own."""
    script = (
        "import sys\n"
        "from headwater.cli import cli\n"
        "from headwater.options import run_command\n"
        "code = run_command(cli, sys.argv[1:])\n"
        "from headwater.energy import own_peak_rss_bytes\n"
        "print(code, own_peak_rss_bytes())\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *map(str, arguments)],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=110,
    )
    code, size = done.stdout.splitlines()[-1].split()
    assert code == "0", done
    return int(size), done.stdout


def many(folder: Path, folders: int) -> Path:
    """A thousand files a folder, each the hard link of one with its number: making them costs little."""
    for part in range(folders):
        (folder / f"{part:02d}").mkdir(parents=True)
        for number in range(1000):
            path = folder / f"{part:02d}" / f"{number:03d}.txt"
            if part:
                os.link(folder / "00" / path.name, path)
            else:
                path.write_bytes(b"%d" % number)
    return folder


@pytest.mark.slow
def test_row_89_a_sparse_file_of_a_terabyte_is_planned_without_reading_it(tmp_path: Path) -> None:
    folder = tree(tmp_path / "tree")
    with open(folder / "sparse.json", "wb") as handle:
        try:
            handle.truncate(1 << 40)
        except OSError as error:
            pytest.skip(f"no such large files here: {error}")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert peak(tmp_path, "publish", folder, "-o", tmp_path / "release", "--dry-run")[0] < 400 << 20
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 60  # a terabyte takes many minutes of hashing
    assert not (tmp_path / "release").exists()


@pytest.mark.slow
def test_row_89_memory_does_not_grow_with_the_size_of_a_file(tmp_path: Path) -> None:
    small, large = (tmp_path / name for name in ("small", "large"))
    for folder, size in ((small, 1 << 20), (large, 256 << 20)):
        folder.mkdir()
        with open(folder / "sparse.bin", "wb") as handle:
            handle.truncate(size)
    least, most = (
        peak(tmp_path, "publish", folder, "-o", tmp_path / f"{folder.name}-release")[0]
        for folder in (small, large)
    )
    assert most - least < 128 << 20


@pytest.mark.slow
def test_row_89_a_hundred_thousand_small_files_are_looked_at(tmp_path: Path) -> None:
    size, said = peak(
        tmp_path, "publish", many(tmp_path / "tree", 100), "-o", tmp_path / "release", "--dry-run"
    )
    assert size < 400 << 20 and "100,000" in said


@pytest.mark.slow
def test_row_89_many_small_files_take_bounded_memory(tmp_path: Path) -> None:
    size, said = peak(tmp_path, "publish", many(tmp_path / "tree", 10), "-o", tmp_path / "release")
    assert (
        size < 300 << 20 and "10,000 files" in said
    )  # about 5 kB a file above what the command takes anyway
    release = open_release(tmp_path / "release")
    assert len(release.manifest.entries) == 10_000


@pytest.mark.slow
def test_row_89_many_small_files_packed_are_few(tmp_path: Path) -> None:
    folder = many(tmp_path / "tree", 2)
    done = kit.run("publish", folder, "-o", tmp_path / "release", "--pack")
    assert done.code == 0, done
    release = open_release(tmp_path / "release")
    assert [entry.path for entry in release.manifest.entries] == ["index.parquet", "tree-00000.tar"]
    index = PackIndex.open(release.data)
    assert len(index) == 2000 and index.extract("01/999.txt") == b"999"
    assert kit.temporaries(tmp_path) == []
