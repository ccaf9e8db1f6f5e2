"""SemDeDup's pairs within clusters: ours, which multiplies below the diagonal only, beside two plain ways.

    OMP_NUM_THREADS=1 python -m tests.bench.semdedup [--sizes 200 500 1000 2000] [--width 512] [--rows 8000] [--pairs 7] [--output FILE.json]

"published": the whole cosine matrix of a cluster by one f32 product in torch, its upper triangle, the maximum of each column, as the
published code has it. "numpy": the same in NumPy, which knows that rows times the same rows is symmetric and computes half, but copies
and searches the whole. All see the same clusters, in alternating order, on one thread. CPU seconds are user + system of this process;
GFLOP/s count the n (n - 1) / 2 products that the answer needs, for all sides. "done" is what each side multiplied / that number.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from curate import _chunked, _inner
from curate.features import normalise

THRESHOLD = 0.95


def published(rows: Any) -> Any:
    """(n,) largest cosine with an earlier row, 0 at least."""
    import torch

    tensor = torch.from_numpy(rows)
    matrix = tensor @ tensor.T
    matrix.fill_diagonal_(0.0)
    return torch.triu(matrix, diagonal=1).max(dim=0)[0].numpy()


def plain(rows: Any) -> Any:
    return np.triu(rows @ rows.T, 1).max(axis=0)


def ours(rows: Any) -> Any:
    """As the scorer gets it; -1 for the first row."""
    value, index = _chunked.best_earlier(rows, len(rows))
    return np.where(index < 0, np.float32(-1), value)


SIDES: dict[str, Callable[[Any], Any]] = {"published": published, "numpy": plain, "ours": ours}


def clusters(size: int, width: int, rows: int, seed: int = 0) -> list[Any]:
    """Clusters of one size: rows around a centre (mean cosine about 0.6), one in ten nearly a copy of another."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(max(1, rows // size)):
        values = rng.standard_normal((size, width)) + 1.2 * rng.standard_normal(width)
        copies = rng.choice(size, size // 10, replace=False)
        values[copies] = values[rng.integers(0, size, len(copies))]
        values[copies] += 0.1 * rng.standard_normal((len(copies), width))
        out.append(normalise(values.astype(np.float32)))
    return out


def multiply_adds(rows: Any) -> int:
    """What our products did for `rows`; of a block with itself, the half that is computed."""
    done = 0
    small, large = _chunked.multiply, _inner.Engine.multiply

    def counted(left: Any, right: Any) -> Any:
        nonlocal done
        pairs = len(left) * (len(left) + 1) // 2 if left is right else len(left) * len(right)
        done += pairs * left.shape[1]
        return small(left, right)

    def counted_large(self: Any, ready: Any, unit: Any, first: int, last: int) -> Any:
        nonlocal done
        done += len(unit) * (last - first) * self.width
        return large(self, ready, unit, first, last)

    _chunked.multiply = counted
    _inner.Engine.multiply = counted_large  # type: ignore[method-assign]
    try:
        ours(rows)
    finally:
        _chunked.multiply = small
        _inner.Engine.multiply = large  # type: ignore[method-assign]
    return done


def cpu_seconds(work: Callable[[Any], Any], some: list[Any]) -> float:
    began = time.process_time()
    for rows in some:
        work(rows)
    return time.process_time() - began


def measure(size: int, width: int, rows: int, pairs: int) -> dict[str, Any]:
    """Medians over alternating rounds for clusters of one size."""
    some = clusters(size, width, rows)
    taken: dict[str, list[float]] = {name: [] for name in SIDES}
    for work in SIDES.values():
        work(some[0])
    names = list(SIDES)
    for round_ in range(pairs):
        for name in names if round_ % 2 else names[::-1]:
            taken[name].append(cpu_seconds(SIDES[name], some))
    needed = len(some) * size * (size - 1) // 2 * width
    medians = {name: statistics.median(times) for name, times in taken.items()}
    removed = {name: [work(r) > THRESHOLD for r in some] for name, work in SIDES.items()}
    whole = len(some) * size * size * width
    done = {"published": whole, "numpy": len(some) * size * (size + 1) // 2 * width}
    done["ours"] = sum(multiply_adds(r) for r in some)
    return {
        "size": size,
        "clusters": len(some),
        "cpu_seconds": {name: [round(t, 4) for t in times] for name, times in taken.items()},
        "gflops": {name: round(2 * needed / seconds / 1e9, 1) for name, seconds in medians.items()},
        "ours_to": {
            name: round(statistics.median(o / p for o, p in zip(taken["ours"], taken[name], strict=True)), 3)
            for name in names[:2]
        },
        "done_per_needed": {name: round(done[name] / needed, 3) for name in names},
        "rows_removed": int(sum(r.sum() for r in removed["ours"])),
        "rows_that_differ": {
            name: sum(int((a != b).sum()) for a, b in zip(removed[name], removed["ours"], strict=True))
            for name in names[:2]
        },
    }


def show(table: list[dict[str, Any]], width: int, pairs: int) -> None:
    print(f"SemDeDup pairs, clusters x {width}, medians of {pairs} alternating rounds, one thread")
    print(f"{'':>6}{'GFLOP/s':>26}{'ours/ (CPU s)':>20}{'done / needed':>28}{'removed':>10}{'differ':>8}")
    head = "".join(f"{name:>10}" for name in ("published", "numpy", "ours", "published", "numpy"))
    print(f"{'size':>6}{head}{'published':>12}{'numpy':>8}{'ours':>8}")
    for row in table:
        cells = [f"{row['gflops'][n]:>10}" for n in SIDES] + [
            f"{row['ours_to'][n]:>10}" for n in row["ours_to"]
        ]
        cells += [f"{row['done_per_needed'][n]:>{w}}" for n, w in zip(SIDES, (12, 8, 8), strict=True)]
        cells += [f"{row['rows_removed']:>10,}{sum(row['rows_that_differ'].values()):>8}"]
        print(f"{row['size']:>6}" + "".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 500, 1000, 2000])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    table = [measure(size, args.width, args.rows, args.pairs) for size in args.sizes]
    show(table, args.width, args.pairs)
    if args.output:
        document = {"width": args.width, "threshold": THRESHOLD, "results": table}
        args.output.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
