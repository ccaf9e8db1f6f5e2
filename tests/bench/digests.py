"""Cost of the one read: CPU seconds of `digest_tree`, of the bare hashes it gives, and of tools that give them one by one.

    python -m tests.bench.digests [--folder DIR] [--tree small|large|NAME:COUNTxBYTES …] [--workers N]

Trees are made of pseudo-random bytes, read once before anything is timed (so all is in memory), and deleted again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from blake3 import blake3

from distribute.digests import TreeFile, digest_tree
from distribute.merkle import leaf_digests, root_and_layer

TREES = {"small": (4000, 262_144), "large": (8, 128 << 20), "tiny": (20_000, 4_096)}
PROFILES = ("unixfs-v1-2025", "kubo-v1-raw")
PIECE = 512 << 10


def make(folder: Path, count: int, size: int) -> list[TreeFile]:
    """`count` files of `size` bytes, 100 a folder."""
    files = []
    block = os.urandom(min(size, 8 << 20))
    for number in range(count):
        path = folder / f"{number // 100:04d}" / f"{number:06d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as handle:
            handle.write(number.to_bytes(8, "big"))
            for at in range(8, size, len(block)):
                handle.write(block[: min(len(block), size - at)])
        stat = path.stat()
        relative = path.relative_to(folder).as_posix()
        files.append(TreeFile(relative, path, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return files


def cpu() -> float:
    """CPU seconds of this process and its ended children."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(wall seconds, CPU seconds)."""
    wall, used = time.perf_counter(), cpu()
    work()
    return time.perf_counter() - wall, cpu() - used


def bare(files: list[TreeFile]) -> dict[str, float]:
    """CPU seconds of each hash alone, on bytes that are in memory: no file is opened, nothing is kept."""
    out = dict.fromkeys(
        (
            "sha256",
            "blake3",
            "sha256 of 1 MiB",
            "sha256 of 256 KiB",
            "sha1 of pieces",
            "sha256 of 16 KiB + tree",
        ),
        0.0,
    )

    def add(name: str, work: Callable[[memoryview], object], view: memoryview) -> None:
        start = time.process_time()
        work(view)
        out[name] += time.process_time() - start

    for file in files:
        view = memoryview(file.absolute.read_bytes())
        add("sha256", lambda data: hashlib.sha256(data).digest(), view)
        add("blake3", lambda data: blake3(data).digest(), view)
        add("sha256 of 1 MiB", lambda data: chunks(data, 1 << 20, hashlib.sha256), view)
        add("sha256 of 256 KiB", lambda data: chunks(data, 1 << 18, hashlib.sha256), view)
        add("sha1 of pieces", lambda data: chunks(data, PIECE, hashlib.sha1), view)
        add(
            "sha256 of 16 KiB + tree", lambda data: root_and_layer(leaf_digests(data), PIECE, len(data)), view
        )
    return out


def chunks(view: memoryview, size: int, hasher: Callable[[memoryview], Any]) -> list[bytes]:
    """Digest of each `size` bytes."""
    return [hasher(view[at : at + size]).digest() for at in range(0, len(view), size)]


def tools(folder: Path, files: list[TreeFile]) -> dict[str, tuple[float, float]]:
    """Each digest by a program of its own over the whole tree: (wall, CPU) seconds."""
    paths = [str(file.absolute) for file in files]
    out = {}

    def shell(name: str, *command: str, stdin: str | None = None) -> None:
        if shutil.which(command[0]):
            call = partial(
                subprocess.run, command, input=stdin, text=True, stdout=subprocess.DEVNULL, check=True
            )
            out[name] = timed(call)

    listed = "\0".join(paths)
    shell("sha256sum", "xargs", "-0", "sha256sum", stdin=listed)
    out["blake3 (Python)"] = timed(lambda: [blake3(Path(path).read_bytes()).digest() for path in paths])
    for size in (1 << 20, 1 << 18):
        out[f"CIDs, {size >> 10} KiB (Python)"] = timed(partial(leaves, paths, size))
    with tempfile.TemporaryDirectory() as target:
        shell("mktorrent", "mktorrent", "-l", str(PIECE.bit_length() - 1), "-o", f"{target}/v1", str(folder))
    try:
        import libtorrent
    except ImportError:
        return out
    entries = sorted(libtorrent.list_files(str(folder)), key=lambda entry: entry.filename.encode())
    made = libtorrent.create_torrent(entries, PIECE, libtorrent.create_torrent.v2_only)
    out["libtorrent v2"] = timed(lambda: libtorrent.set_piece_hashes(made, str(folder.parent)))
    return out


def leaves(paths: list[str], size: int) -> None:
    """SHA-256 of the chunks of each file."""
    for path in paths:
        with open(path, "rb") as handle:
            while part := handle.read(size):
                hashlib.sha256(part).digest()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--tree", nargs="*", default=["small", "large"])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only-ours", action="store_true")
    options = parser.parse_args()
    for name in options.tree:
        label, _, shape = name.partition(":")
        count, size = map(int, shape.split("x")) if shape else TREES[label]
        with tempfile.TemporaryDirectory(dir=options.folder) as base:
            folder = Path(base) / label
            files = make(folder, count, size)
            measure(label, folder, files, options.workers, only_ours=options.only_ours)


def measure(label: str, folder: Path, files: list[TreeFile], workers: int, *, only_ours: bool) -> None:
    """Print one tree's table."""
    total = sum(file.size_bytes for file in files)
    print(f"{label}: {len(files):,} files, {total / 1e9:.2f} GB")
    for file in files:
        file.absolute.read_bytes()
    ours = {}
    for count in sorted({1, workers}):
        work = partial(digest_tree, files, profiles=PROFILES, piece_size=PIECE, v1=True, workers=count)
        runs = [timed(work) for _ in range(3)]
        ours[count] = min(runs, key=lambda run: run[1])
        print(f"  ours, {count} threads: wall {ours[count][0]:.2f} s, CPU {ours[count][1]:.2f} s")
    if only_ours:
        return
    alone = bare(files)
    for name, seconds in alone.items():
        print(f"  {name}: CPU {seconds:.2f} s")
    summed = sum(alone.values())
    print(f"  sum of bare hashes: {summed:.2f} s; ours / sum = {ours[workers][1] / summed:.2f}")
    each = tools(folder, files)
    for name, (wall, used) in each.items():
        print(f"  {name}: wall {wall:.2f} s, CPU {used:.2f} s")
    wall = sum(wall for wall, _ in each.values())
    print(f"  one after the other: wall {wall:.2f} s = {wall / ours[workers][0]:.1f} x ours")
    print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB", flush=True)


if __name__ == "__main__":
    main()
