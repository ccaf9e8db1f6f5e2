#!/usr/bin/env python3
"""Which filters beat no filter, and which beat a random subset of their own size? One recipe, three seeds, two cores.

    python docs/experiments/001-filters/run.py POOL SUITE WORK [--jobs 2] [--seeds 3]

POOL is what examples/mixed/build.py writes, SUITE what examples/suites/build.py writes, WORK a folder for everything that is made.
Every step is a `headwater` command that knows when it is done: stop this script at any time, and the same line goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILTERS = ("size", "caption", "dedup", "cap", "all")
TASKS = ("clipart/folders", "clipart/folders-probe", "clipart/titles", "emoji/names-fluent", "stamps/en")
RECIPE = HERE / "recipe.yaml"
SHARD = 500  # about; shards of one arm are of equal size, since shards are drawn uniformly


def headwater(*arguments: object) -> dict[str, object]:
    """Run one command; its JSON. A failure ends the script with the command's own words."""
    command = [sys.executable, "-P", "-m", "headwater.cli", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}\n{done.stderr[-2000:]}")
    found: dict[str, object] = json.loads(done.stdout)
    return found


def rows(subset: Path) -> int:
    """Uids in a subset file."""
    import numpy as np

    return int(np.load(subset, allow_pickle=False).shape[0])


def prepare(pool_source: Path, work: Path) -> list[str]:
    """Subsets and shards of all arms; returns their names, the unfiltered pool first."""
    pool = work / "pool"
    headwater("pool", "import", pool_source, "-o", pool, "--allow-invalid")
    none = work / "none.npy"
    headwater("filter-pool", pool, "-o", none, "--name", "no_filter")
    arms = ["none"]
    for name in FILTERS:
        subset = work / f"{name}.npy"
        headwater("filter-pool", pool, "-o", subset, "--rule", HERE / "rules" / f"{name}.yaml")
        # one draw for each size: every seed trains on the same random subset
        equal = work / f"random-{name}.npy"
        headwater("subset", "sample", none, "--count", rows(subset), "--seed", 1, "-o", equal)
        arms += [name, f"random-{name}"]
    for name in arms:
        count = rows(work / f"{name}.npy")
        size = -(-count // max(round(count / SHARD), 1))
        out = work / "shards" / name
        out.parent.mkdir(exist_ok=True)
        headwater(
            "reshard",
            pool_source,
            "-s",
            work / f"{name}.npy",
            "-o",
            out,
            "--shard-size",
            size,
            "--cache",
            work / "cache",
        )
    return arms


def one(work: Path, suite: Path, arm: str, seed: int) -> None:
    """Train and evaluate one arm with one seed."""
    run, results = work / "runs" / f"{arm}-s{seed}", work / "results" / f"{arm}-s{seed}"
    shards = work / "shards" / arm
    headwater(
        "train",
        "--recipe",
        RECIPE,
        "--data",
        shards,
        "-o",
        run,
        "--seed",
        seed,
        "--threads",
        1,
        "--device",
        "cpu",
    )
    chosen = [word for task in TASKS for word in ("--task", task)]
    headwater(
        "eval", run, "--suite", suite, "-o", results, "--device", "cpu", "--cache", work / "cache", *chosen
    )
    sys.stdout.write(f"done: {arm}, seed {seed}\n")
    sys.stdout.flush()


def main() -> None:
    """Prepare, train and evaluate all arms, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pool", type=Path)
    parser.add_argument("suite", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    arms = prepare(given.pool, given.work)
    for folder in ("runs", "results"):
        (given.work / folder).mkdir(exist_ok=True)
    todo = [(arm, seed) for seed in range(given.seeds) for arm in arms]
    with ThreadPoolExecutor(given.jobs) as pool:
        for future in [pool.submit(one, given.work, given.suite, arm, seed) for arm, seed in todo]:
            future.result()
    results = [str(given.work / "results" / f"{arm}-s{seed}") for arm in arms for seed in range(given.seeds)]
    found = headwater("compare", *results, "-o", given.work / "compare-none.html")
    (given.work / "compare-none.json").write_text(json.dumps(found, indent=1))
    for name in FILTERS:
        pair = [
            str(given.work / "results" / f"{arm}-s{seed}")
            for arm in (f"random-{name}", name)
            for seed in range(given.seeds)
        ]
        found = headwater("compare", *pair, "-o", given.work / f"compare-random-{name}.html")
        (given.work / f"compare-random-{name}.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
