"""Cost of polygon datasets: load, validate, digest, pixel metric and filling, beside kwcoco, kwimage and pycocotools.

    OMP_NUM_THREADS=1 python -m tests.bench.polygons [--pairs N] [--only load,checks,pixels,raster] [--polygons N] [--loaded N]
                                                     [--megapixels 3,12] [--peers PYTHON] [--output FILE.json]

CPU seconds, user + system, medians over rounds in which all sides take turns in an order that changes. The peers run in an environment
of their own, pinned by `polygon_requirements.lock`; without them, ours alone is measured.

    load      200,000 polygons, coordinates whole or to hundredths; a process for each run, so that its peak memory is that of reading
              (and of the libraries: told beside it, on a small file). Ours leaves coordinates in a mapped temporary file, whose pages
              count once they are looked at: so it is measured again with every vertex looked at
    checks    validate, read, write and digest 20,000 polygons; kwcoco's check by jsonschema is slow: two runs, after a first one
    pixels    one image's truth filled and its map of scores measured; kwcoco's AP must equal ours made in its way
    raster    848 polygons on 200 images of 12 megapixels; the rule coco must have pycocotools' pixels
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.measure import Usage, become_reaper, run

PARTS = ("load", "checks", "pixels", "raster")
_CLOCK = "import sys, time; b = time.process_time(); "
_OURS = f"from curate.polygons.store import open_annotations; {_CLOCK}a = open_annotations(sys.argv[1]); "
_LOADS = {
    "ours": _OURS + "n = len(a.annotations)",
    "ours, then every vertex": _OURS + "n = len(a.annotations); a.x.sum() + a.y.sum()",
    "kwcoco": "import kwcoco; " + _CLOCK + "n = len(kwcoco.CocoDataset(sys.argv[1]).annots())",
}
_SAY = "; print('\\nspent', time.process_time() - b, n)"
_FIGURES = ("seconds", "process_seconds", "peak_bytes")


def made(folder: Path, count: int, *form: str) -> Path:
    """A file of `count` polygons, written by a process of its own so that this one stays small."""
    path = folder / f"{count}.json"
    script = Path(__file__).with_name("polygon_data.py")
    run([sys.executable, str(script), str(path), str(count), *form], dict(os.environ))
    return path


def load(path: Path, small: Path, count: int, pairs: int, peers: str | None) -> dict[str, Any]:
    """The whole process that reads `path`, and the reading within it (ours: with what it imports and the compiled code it finds)."""
    pythons = {name: peers if name == "kwcoco" else sys.executable for name in _LOADS}
    if not peers:
        del pythons["kwcoco"]
    env = dict(os.environ, OMP_NUM_THREADS="1")
    taken: dict[str, list[tuple[Usage, float]]] = {name: [] for name in pythons}

    def one(name: str, file: Path) -> tuple[Usage, float, int]:
        usage = run([pythons[name], "-c", _LOADS[name] + _SAY, str(file)], env)
        _, seconds, rows = usage.output.strip().rsplit("\n", 1)[-1].split()
        return usage, float(seconds), int(rows)

    bare = {name: one(name, small)[0] for name in pythons}  # and compiles ours, if this is the first time
    bare = {name: one(name, small)[0] for name in pythons}
    for number in range(pairs):
        for name in list(pythons)[:: 1 if number % 2 else -1]:
            usage, seconds, rows = one(name, path)
            if rows != count:
                raise SystemExit(f"bench: {name} read {rows} of {count} annotations")
            taken[name].append((usage, seconds))
    out: dict[str, Any] = {"bytes": path.stat().st_size, "annotations": count}
    for name, runs in taken.items():
        out[name] = {
            "seconds": statistics.median(seconds for _, seconds in runs),
            "process_seconds": statistics.median(usage.cpu_seconds for usage, _ in runs),
            "peak_bytes": statistics.median(usage.peak_bytes for usage, _ in runs),
            "small_file_peak_bytes": bare[name].peak_bytes,
            "small_file_process_seconds": bare[name].cpu_seconds,
            "all": [round(seconds, 3) for _, seconds in runs],
        }
        told = out[name]
        print(
            f"  {name:25} read {told['seconds']:.3f} s, process {told['process_seconds']:.3f} s, "
            f"peak {told['peak_bytes'] / 2**20:,.0f} MiB ({told['small_file_peak_bytes'] / 2**20:,.0f} MiB on a small file)",
            flush=True,
        )
    for name in list(_LOADS)[:2] if peers else ():
        times = [f"{what} {out['kwcoco'][what] / out[name][what]:.2f}" for what in _FIGURES]
        print(f"  kwcoco over {name}: {', '.join(times)}", flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--polygons", type=int, default=20_000)
    parser.add_argument("--loaded", type=int, default=200_000)
    parser.add_argument("--megapixels", default="3,12")
    parser.add_argument("--peers", default=os.environ.get("HEADWATER_BENCH_POLYGON_PEERS"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    wanted, peers = options.only.split(","), options.peers or None
    become_reaper()
    print(f"load of the machine: {os.getloadavg()}", flush=True)
    found: dict[str, Any] = {"load_average": [os.getloadavg()]}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        path = made(folder, options.polygons) if "checks" in wanted else None
        if "load" in wanted:
            # first, while this process is small: the peak of a child counts from what its parent has
            small, found["load"] = made(folder, 4), {}
            for form in ("whole", "hundredths"):
                large = made(folder, options.loaded, form)
                size = large.stat().st_size / 1e6
                print(f"load of {options.loaded:,} polygons, {form}, {size:,.1f} MB", flush=True)
                found["load"][form] = load(large, small, options.loaded, options.pairs, peers)
                large.unlink()
        within = [name for name in PARTS[1:] if name in wanted]
        if within:
            from tests.bench import polygon_sides

            sizes = [int(word) for word in options.megapixels.split(",")]
            found |= polygon_sides.run(within, path, sizes, options.pairs, peers)
    found["load_average"].append(os.getloadavg())
    print(f"load of the machine: {os.getloadavg()}")
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
