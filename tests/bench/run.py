"""`make bench`: what Headwater costs beside public tools, in CPU seconds of whole commands, all in one run.

Run: python tests/bench/run.py [--quick] [--only basic,top30,...] [--pairs N] [--out FOLDER] [--keep FOLDER]
The cost per row is the slope between a small and a large pool, so that start-up is told apart; contestants take turns, and every
ratio is made of runs that stand next to each other. Answers are compared before anything is timed. Input digests are known
beforehand (what they cost is printed). The peers run in their own environment, named by HEADWATER_BENCH_PEERS.
Pools are generated once into .bench/ (about 8 GB; 0.7 GB with --quick). Nothing here asserts a speed: it prints PASS and FAIL.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from bench import FULL, HERE, QUICK, Bench, tell
from measure import become_reaper
from tasks import TASKS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small pools and two pairs, about two minutes")
    parser.add_argument("--only", default=",".join(TASKS), help=f"some of {', '.join(TASKS)}")
    parser.add_argument("--pairs", type=int, help="pairs of runs per comparison (default 5; quick 2)")
    parser.add_argument("--keep", type=Path, default=HERE.parents[1] / ".bench", help="where pools are kept")
    parser.add_argument("--out", type=Path, help="where bench.json and bench.md go (default: the same)")
    parser.add_argument("--peers", default=os.environ.get("HEADWATER_BENCH_PEERS", ".venv-bench/bin/python"))
    options = parser.parse_args()
    tasks = options.only.split(",")
    for task in tasks:
        if task not in TASKS:
            parser.error(f"no task {task!r}: {', '.join(TASKS)}")
    become_reaper()
    peers = str(Path(options.peers).absolute())
    bench = Bench(
        QUICK if options.quick else FULL,
        options.pairs or (2 if options.quick else 5),
        options.keep.resolve(),
        peers,
    )
    try:
        for task in tasks:
            tell(task)
            TASKS[task](bench)
            bench.found.save(options.out or options.keep)
    finally:
        shutil.rmtree(bench.out, ignore_errors=True)
    tell("done\n\n")
    sys.stdout.write(bench.found.markdown() + "\n")


if __name__ == "__main__":
    main()
