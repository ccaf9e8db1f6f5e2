"""What a release of 1 GB costs to publish, to send and to fetch, by every way, beside each tool used alone, in one run.

    python -m tests.bench.transports [--size 1g] [--tree A B S] [--only publish faces …] [--pairs 3] [--out FOLDER]

A is many files of 256 KiB, B eight large ones, S a tenth of A (Girder takes about 40 files a second). Bytes are random, in the
page cache; all is on one file system. CPU seconds are those of whole processes, Python's start included. Programs that are
absent are told and left out: tests/distribute/partners.sh installs them. With --wire the bytes of the loopback interface are
counted, which says something only where nobody else uses it: `unshare -n`, then `ip link set lo up`.
Several runs go into one table with --add.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.bench.transports_sent import FAMILIES
from tests.bench.transports_servers import headwater
from tests.bench.transports_table import Found
from tests.bench.transports_ways import Bench

SMALL = 256 << 10
PLAN = {"A": [*FAMILIES][:-1], "B": [*FAMILIES], "S": ["girder"]}
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def shape(tree: str, size: int) -> tuple[int, int]:
    """(files, bytes of each)."""
    if tree == "B":
        return 8, size // 8
    count = max(size // (1 << 30) * 4000 if size >= 1 << 30 else size // SMALL, 1)
    return (max(count // 10, 1) if tree == "S" else count), SMALL


def make(folder: Path, count: int, size: int) -> None:
    """`count` files of random bytes, 100 a folder; no two chunks are the same."""
    for number in range(count):
        path = folder / f"{number // 100:04d}" / f"{number:06d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(np.random.default_rng(number).bytes(size))


def machine() -> dict[str, object]:
    """What the figures depend on."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": f"{os.cpu_count()} x {names[0].partition(': ')[2] if names else platform.machine()}",
        "system": f"{platform.freedesktop_os_release().get('PRETTY_NAME', '')}, Python {platform.python_version()}",
        "load when it began": "{:.1f} {:.1f} {:.1f}".format(*os.getloadavg()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="1g")
    parser.add_argument("--tree", nargs="*", default=list(PLAN), choices=list(PLAN))
    parser.add_argument("--only", nargs="*", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where trees are made (default: the temporary folder)")
    parser.add_argument("--out", type=Path, default=Path(".bench"))
    parser.add_argument("--add", action="store_true", help="to the table that is there")
    parser.add_argument("--wire", action="store_true", help="count bytes of the loopback interface")
    options = parser.parse_args()
    size = (
        int(options.size[:-1]) * UNITS[options.size[-1]] if options.size[-1] in UNITS else int(options.size)
    )
    before = options.out / "transports.json"
    found = Found.load(before) if options.add and before.is_file() else Found(machine())
    for tree in options.tree:
        families = [name for name in PLAN[tree] if name in options.only]
        if not families:
            continue
        with tempfile.TemporaryDirectory(dir=options.work, prefix="transports-") as base:
            work = Path(base)
            source, release = work / f"tree-{tree}", work / "release"
            count, each = shape(tree, size)
            make(source, count, each)
            found.trees[tree] = f"{count:,} files of {each:,} bytes, {count * each / 1e9:.2f} GB"
            headwater("publish", source, "-o", release)
            bench = Bench(tree, source, release, work, found, options.pairs, options.wire, count * each)
            for name in families:
                try:
                    FAMILIES[name](bench)
                except pytest.skip.Exception as absent:
                    found.notes.append(f"{tree}, {name}: not measured: {absent}")
                except (AssertionError, pytest.fail.Exception) as error:
                    found.notes.append(f"{tree}, {name}: failed: {str(error)[-600:]}")
                    print(found.notes[-1], file=sys.stderr)
                found.save(options.out)
                shutil.rmtree(work / "out", ignore_errors=True)
    sys.stdout.write(found.markdown() + "\n")


if __name__ == "__main__":
    main()
