"""k-means and inner products beside faiss and a plain NumPy statement: CPU seconds in alternating pairs, medians of one run.

    python -m tests.bench.clusters [--rows N] [--width D] [--k K] [--pairs P] [--threads T] [--memory-rows N] [--json FILE] [PART …]

Parts: assign (the centroid of the largest inner product), train (objective and cost), pairs (the best earlier row within a cluster, as
SemDeDup needs it), memory (one pass over a float16 file in a process of its own). The gemm lines are the bare products of the same
shapes, which no exact method can beat. A ratio above 1 means cheaper than the peer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
PARTS = ("assign", "train", "pairs", "memory")

CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from curate import kmeans
from curate.features import open_features
from curate.pool import Pool

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

features = open_features(Pool.open(Path(sys.argv[1])), "emb")
centroids = np.load(sys.argv[2])
precision = sys.argv[3]
small = np.ones((4096, features.width), np.float32)
kmeans.Assigner(centroids, precision=precision, rows=features.rows)(small)
before, start, rows = peak(), time.process_time(), 0
for block, label, value in kmeans.assign(features, centroids, precision=precision):
    rows += int((label >= 0).sum())
print(rows, before, peak(), time.process_time() - start)
"""


def clustered(rows: int, width: int, clusters: int, seed: int = 0) -> Floats:
    """Rows of length 1 round a common mean, in clusters of falling spread by coordinate, somewhat as picture features lie."""
    rng = np.random.default_rng(seed)
    spread = np.linspace(1, 0.02, width)
    middle = rng.normal(size=(clusters, width)) * spread
    common = 1.2 * rng.normal(size=width)
    out = np.empty((rows, width), np.float32)
    for first in range(0, rows, 8192):
        part = out[first : first + 8192]
        values = (
            common + middle[rng.integers(0, clusters, len(part))] + 0.8 * rng.normal(size=part.shape) * spread
        )
        part[:] = values / np.linalg.norm(values, axis=1, keepdims=True)
    return out


def noise(rows: int, width: int, clusters: int, seed: int = 0) -> Floats:
    """Rows of length 1 without any clusters: the worst case for telling centroids apart."""
    values = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True))


def alternately(
    works: dict[str, Callable[[], Any]], pairs: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """CPU seconds of each, in an order that turns, and what each gave."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    answers = {}
    names = list(works)
    for pair in range(pairs + 1):
        for name in names[pair % len(names) :] + names[: pair % len(names)]:
            start = time.process_time()
            answers[name] = works[name]()
            if pair:  # the first is for warming up
                seconds[name].append(time.process_time() - start)
    return seconds, answers


def lines(
    title: str, seconds: dict[str, list[float]], peer: str, flops: float, notes: dict[str, str]
) -> list[dict[str, Any]]:
    """Print one table; rows of it for the JSON."""
    print(f"\n{title}")
    print(f"{'':<28}{'CPU s':>9}{'GFLOP/s':>10}{'x peer':>8}  (pair by pair)")
    out = []
    for name, values in seconds.items():
        middle = statistics.median(values)
        ratios = sorted(theirs / mine for theirs, mine in zip(seconds[peer], values, strict=True))
        ratio = statistics.median(ratios)
        note = notes.get(name, "")
        print(
            f"{name:<28}{middle:>9.3f}{flops / middle / 1e9:>10.0f}{ratio:>8.2f}  ({ratios[0]:.2f} – {ratios[-1]:.2f})  {note}"
        )
        out.append(
            {
                "title": title,
                "name": name,
                "cpu_seconds": middle,
                "ratio": ratio,
                "ratios": ratios,
                "note": note,
            }
        )
    return out


def bare(rows: Floats, centres: Floats, precision: str) -> Callable[[], None]:
    """The product alone, of operands that are ready, in blocks of the size ours has; the answer is thrown away."""
    import torch

    kind = {"f32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[precision]
    scale = 127 / max(float(np.abs(rows).max()), float(np.abs(centres).max())) if precision == "int8" else 1
    left = torch.empty(rows.shape, dtype=kind)
    for first in range(0, len(rows), 8192):
        left[first : first + 8192] = torch.from_numpy(rows[first : first + 8192]) * scale
    right = (torch.from_numpy(centres) * scale).to(kind)
    block = 2048
    out = torch.empty((block, len(centres)), dtype=torch.int32 if precision == "int8" else kind)

    def work() -> None:
        for first in range(0, len(left), block):
            part = left[first : first + block]
            if precision == "int8":
                torch._int_mm(part, right.T, out=out[: len(part)])
            elif precision == "bf16":
                torch.mm(part, right.T, out=out[: len(part)])
            else:
                np.matmul(part.numpy(), right.numpy().T, out=out[: len(part)].numpy())

    return work


def assign(options: argparse.Namespace) -> list[dict[str, Any]]:
    import faiss

    from curate import products

    out = []
    for make in (clustered, noise):
        rows = make(options.rows, options.width, options.k)
        made = faiss.Kmeans(options.width, options.k, niter=8, seed=0, max_points_per_centroid=64)
        made.train(rows)
        centres = np.asarray(made.centroids)
        index = faiss.IndexFlatIP(options.width)
        index.add(centres)
        works: dict[str, Callable[[], Any]] = {
            "faiss f32": lambda index=index, rows=rows: index.search(rows, 1)[1][:, 0],
            "NumPy gemm + argmax": lambda rows=rows, centres=centres: np.concatenate(
                [(rows[i : i + 4096] @ centres.T).argmax(1) for i in range(0, len(rows), 4096)]
            ),
        }
        for precision in ("f32", "bf16", "int8"):
            works[f"labels, {precision}"] = lambda p=precision, rows=rows, centres=centres: products.labels(
                rows, centres, precision=p
            )
        works["labels and values, int8"] = lambda rows=rows, centres=centres: products.nearest(
            rows, centres, precision="int8"
        )[0]
        for precision in ("f32", "bf16", "int8"):
            works[f"bare gemm, {precision}"] = bare(rows, centres, precision)
        seconds, answers = alternately(works, options.pairs)
        ours = answers["labels, f32"]
        notes = {
            name: f"{np.count_nonzero(answer != ours)} other labels than ours"
            for name, answer in answers.items()
            if answer is not None
        }
        for precision in ("f32", "bf16", "int8"):
            share = statistics.median(seconds[f"bare gemm, {precision}"]) / statistics.median(
                seconds[f"labels, {precision}"]
            )
            notes[f"labels, {precision}"] += f", {share:.0%} of the bare gemm's speed"
        flops = 2.0 * rows.size * options.k
        title = f"assign, {make.__name__}: {options.rows:,} x {options.width}, k = {options.k}"
        out += lines(title, seconds, "faiss f32", flops, notes)
    return out


def train(options: argparse.Namespace) -> list[dict[str, Any]]:
    from curate import kmeans

    rows = clustered(min(options.rows, 128 * options.k), options.width, options.k)
    told: dict[str, list[float]] = {"faiss": [], "headwater": [], "headwater f32": []}
    cost: dict[str, list[float]] = {name: [] for name in told}
    for seed in range(3):
        for name in told:
            report: dict[str, Any] = {}
            start = time.process_time()
            made = kmeans.train(
                rows,
                options.k,
                seed=seed,
                trainer="faiss" if name == "faiss" else "headwater",
                precision="f32" if name.endswith("f32") else "auto",
                report=report,
            )
            cost[name].append(time.process_time() - start)
            told[name].append(_objective(rows, made))
    flops = 2.0 * rows.size * options.k * 20
    base = statistics.mean(told["faiss"])
    notes = {
        name: f"objective {statistics.mean(values) / base:.4f} of faiss" for name, values in told.items()
    }
    return lines(
        f"train: {len(rows):,} x {options.width}, k = {options.k}, at most 20 rounds",
        cost,
        "faiss",
        flops,
        notes,
    )


def _objective(rows: Floats, centroids: Floats) -> float:
    exact = centroids.astype(np.float64)
    total = 0.0
    for first in range(0, len(rows), 4096):
        x = rows[first : first + 4096].astype(np.float64)
        squares = (x * x).sum(1)[:, None] + (exact * exact).sum(1) - 2 * x @ exact.T
        total += float(squares.min(axis=1).sum())
    return total


def pairs(options: argparse.Namespace) -> list[dict[str, Any]]:
    from curate import products

    out = []
    for size in (800, 6000):
        groups = [clustered(size, options.width, 3, seed) for seed in range(max(1, 12_000 // size))]

        def plain(groups: list[Floats] = groups) -> list[Any]:
            made = []
            for rows in groups:
                s = np.tril(rows @ rows.T, -1)
                made.append(s.argmax(axis=1)[1:])
            return made

        works: dict[str, Callable[[], Any]] = {"NumPy gemm + tril + argmax": plain}
        for precision in ("f32", "bf16"):
            works[f"best earlier, {precision}"] = lambda p=precision, groups=groups: [
                products.best_earlier(rows, precision=p)[1][1:] for rows in groups
            ]
        seconds, answers = alternately(works, options.pairs)
        ours = np.concatenate(answers["best earlier, f32"])
        notes = {
            n: f"{np.count_nonzero(np.concatenate(a) != ours)} other rows than ours"
            for n, a in answers.items()
        }
        flops = 2.0 * len(groups) * size * size * options.width
        out += lines(
            f"best earlier row: {len(groups)} clusters of {size:,} x {options.width}",
            seconds,
            "NumPy gemm + tril + argmax",
            flops,
            notes,
        )
    return out


def memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = []
    with tempfile.TemporaryDirectory(dir=options.folder) as base:
        pool = Path(base) / "pool"
        pool.mkdir()
        rows, width = options.memory_rows, options.width
        uids = pa.array([f"{n:032x}" for n in range(rows)], pa.string())
        pq.write_table(pa.table({"uid": uids}), pool / "0.parquet", compression="zstd")
        file = np.lib.format.open_memmap(pool / "0.emb.npy", "w+", np.float16, (rows, width))
        block = clustered(min(rows, 50_000), width, 300).astype(np.float16)
        for first in range(0, rows, len(block)):
            part = file[first : first + len(block)]
            part[:] = block[: len(part)]
        file.flush()
        del file
        np.save(Path(base) / "c.npy", clustered(options.memory_k, width, 300, seed=1))
        size = rows * width * 2
        print(f"\nmemory: {rows:,} x {width} float16 ({size / 1e9:.2f} GB), k = {options.memory_k}")
        for precision in ("f32", "auto"):
            done = subprocess.run(
                [sys.executable, "-c", CHILD, str(pool), str(Path(base) / "c.npy"), precision],
                capture_output=True,
                text=True,
                check=True,
            )
            seen, before, peak, cpu = done.stdout.split()
            grown = int(peak) - int(before)
            note = f"peak {int(peak) / 2**20:,.0f} MiB, {grown / 2**20:,.0f} MiB of it while assigning, {float(cpu):.1f} CPU s"
            print(f"{precision:<28}{note}, {int(seen):,} rows")
            out.append(
                {
                    "title": "memory",
                    "name": precision,
                    "peak_bytes": int(peak),
                    "grown_bytes": grown,
                    "cpu_seconds": float(cpu),
                    "rows": int(seen),
                    "file_bytes": size,
                }
            )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", default=[])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--k", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-rows", type=int, default=2_000_000)
    parser.add_argument("--memory-k", type=int, default=64)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    import faiss
    import torch

    faiss.omp_set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    made = []
    for part in options.parts or PARTS:
        made += {"assign": assign, "train": train, "pairs": pairs, "memory": memory}[part](options)
    if options.json:
        options.json.write_text(json.dumps({"threads": options.threads, "results": made}, indent=1) + "\n")


if __name__ == "__main__":
    # before NumPy's BLAS starts its threads
    wanted = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv[:-1] else "1"
    if os.environ.get("OPENBLAS_NUM_THREADS") != wanted:
        env = {**os.environ, "OPENBLAS_NUM_THREADS": wanted, "OMP_NUM_THREADS": wanted}
        raise SystemExit(
            subprocess.call([sys.executable, "-m", "tests.bench.clusters", *sys.argv[1:]], env=env)
        )
    main()
