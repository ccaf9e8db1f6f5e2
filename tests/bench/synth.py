"""Cost of made pictures: VisualAtom beside a plain statement of its algorithm, PNG forms, loaders, whole commands, start-up, memory.

    OMP_NUM_THREADS=1 python -m tests.bench.synth [--pairs N] [--classes N] [--only command,start,pictures,forms,loader] [--peers PYTHON]
                                                  [--output FILE.json]

CPU seconds, user + system, medians over rounds whose order turns. All sides draw the same categories with the launcher's values at
512 px; segments (V * K) of a picture are told, since cost goes with them: a picture of the published set has 60,300 in the mean.
Plain is `synth_plain` (pictures as RGB PNG files, as the released script writes them); its noise comes from the package `noise` where the
environment of the peers has it. "PNG" is a picture in memory as a file's bytes, "tar" the product's sink, written and on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.measure import Usage, become_reaper, run

EXPECTED_SEGMENTS = 60_300  # of a picture of the launcher's values
PARTS = ("command", "start", "pictures", "forms", "loader")


def made(stream: str, classes: int, instances: int) -> tuple[Usage, int]:
    """One `headwater make` with one worker, into a tar; and how many segments it drew."""
    with tempfile.TemporaryDirectory() as text:
        words = [sys.executable, "-m", "headwater.cli", "make", "visualatom", "-o", f"{text}/out"]
        words += ["--stream", stream, "--classes", str(classes), "--instances", str(instances)]
        words += ["--sink", "tar", "--workers", "1", "--no-sheet", "--quiet"]
        usage = run(words, dict(os.environ, OMP_NUM_THREADS="1"), sample=True)
        return usage, json.loads((Path(text) / "out/step.json").read_text())["details"]["cost"]


def command(pairs: int) -> dict[str, Any]:
    """`headwater make` as a process: CPU a picture (between a small and a large set), start-up, peak memory at 1,000 instances."""
    out: dict[str, Any] = {}
    classes, few, many = 40, 2, 22
    for stream in ("indexed", "reference"):
        made(stream, 1, 1)
        sets = [[made(stream, classes, n) for _ in range(max(1, pairs // 2))] for n in (few, many)]
        small, large = (statistics.median(usage.cpu_seconds for usage, _ in runs) for runs in sets)
        # by segments: the categories of the reference stream are others where there are more instances
        drawn_small, drawn_large = (runs[0][1] for runs in sets)
        a_picture = (large - small) / (drawn_large - drawn_small) * EXPECTED_SEGMENTS
        start_up = small - a_picture * drawn_small / EXPECTED_SEGMENTS
        whole, _ = made(stream, 1, 1000)
        out[stream] = {
            "ms": a_picture * 1e3,
            "segments": EXPECTED_SEGMENTS,
            "start_up_seconds": start_up,
            "peak_bytes": whole.peak_bytes,
            "tree_bytes": whole.tree_bytes,
        }
        print(
            f"headwater make, {stream}: {a_picture * 1e3:.3f} ms a picture of {EXPECTED_SEGMENTS:,} segments, "
            f"start-up {start_up:.2f} s; 1,000 instances: "
            f"{whole.peak_bytes >> 20} MiB the largest process, {(whole.tree_bytes or 0) >> 20} MiB all together"
        )
    return out


_STARTS = {
    "Python with NumPy": "import numpy",
    "with numba": "import numpy, numba",
    "painter ready, kernels cached": (
        "from curate.generators.visualatom import *\ng = Generator(Config(), 0)\ng.painter().paint(g.category(0), 0, 0)"
    ),
    "reference ready, kernels cached": (
        "from curate.generators.visualatom import Config\nfrom curate.generators._script import ScriptStream\n"
        "next(ScriptStream(Config(), classes=1, instances=1).block(0, 1))"
    ),
    "encoder ready, kernels cached": "import numpy\nfrom curate._png import Encoder\nEncoder(9, 9).encode(numpy.zeros((9, 9), 'u1'))",
}


def start(pairs: int) -> dict[str, float]:
    """CPU seconds until the first picture, by processes of their own."""
    env, out = dict(os.environ, OMP_NUM_THREADS="1"), {}
    for name, script in _STARTS.items():
        out[name] = statistics.median(
            [run([sys.executable, "-c", script], env).cpu_seconds for _ in range(pairs)]
        )
    for name in [name for name in _STARTS if name.endswith("cached")]:
        with tempfile.TemporaryDirectory() as cache:
            cold = dict(env, NUMBA_CACHE_DIR=cache)
            out[name.replace("cached", "compiled")] = run(
                [sys.executable, "-c", _STARTS[name]], cold
            ).cpu_seconds
    for name, seconds in out.items():
        print(f"{name:34}{seconds:7.2f} s")
    return out


def add_peers(python: str | None) -> None:
    """Let the peers' packages be imported here, after ours, where their Python is of our version."""
    if python and Path(python).is_file():
        ask = "import json, sys, sysconfig; print(json.dumps([sys.version_info[:2], sysconfig.get_path('platlib')]))"
        version, folder = json.loads(subprocess.check_output([python, "-c", ask], text=True))
        if tuple(version) == sys.version_info[:2]:
            sys.path.append(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--peers", default=os.environ.get("HEADWATER_BENCH_PEERS"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    wanted = options.only.split(",")
    add_peers(options.peers)
    become_reaper()
    found: dict[str, Any] = {}
    # first, while this process is small: the peak of a child counts from what its parent has
    for name, part in (("command", command), ("start", start)):
        if name in wanted:
            print(name, flush=True)
            found[name] = part(options.pairs)
    if within := [name for name in PARTS[2:] if name in wanted]:
        from tests.bench import synth_sides

        of = synth_sides.Pictures(options.classes)
        print(f"{of.classes} categories, {of.segments:,.0f} segments a picture, {options.pairs} rounds")
        for name in within:
            print(name, flush=True)
            found[name] = getattr(synth_sides, name)(of, options.pairs)
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
