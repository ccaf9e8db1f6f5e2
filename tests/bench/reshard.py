"""Measures reshard against webdataset's reader and TarWriter: CPU seconds of whole processes, in pairs, medians.

usage: python -m tests.bench.reshard TARS [--peer-python PY] [--keep 0.3] [--pairs 5] [--smaller TARS2]

TARS is a folder of webdataset tars (jpg + json + txt). The peer runs in PY (an interpreter that has webdataset; default:
this one) and does what DataComp's resharder does: read every sample, look its uid up, write the chosen ones under new keys.
`--smaller` names a folder with fewer samples: the difference of the two gives the CPU per sample without the start-up.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

PEER = """
import bisect, glob, json, os, sys
import numpy as np
import webdataset as wds
src, subset, out = sys.argv[1:4]
s = np.load(subset)
keys = {(int(a), int(b)) for a, b in zip(s["f0"], s["f1"])}
sink, kept, seen = None, 0, 0
for sample in wds.WebDataset(sorted(glob.glob(src + "/*.tar")), shardshuffle=False):
    seen += 1
    uid = json.loads(sample["json"])["uid"]
    if (int(uid[:16], 16), int(uid[16:], 16)) in keys:
        if kept % 10000 == 0:
            if sink: sink.close()
            sink = wds.TarWriter(f"{out}/{kept // 10000:08d}.tar", encoder=False)
        sink.write({"__key__": uid + "-0", "jpg": sample["jpg"], "json": sample["json"], "txt": sample["txt"]})
        kept += 1
if sink: sink.close()
print(seen, kept)
"""

OURS = """
import sys
from pathlib import Path
from typing import Any
import numpy as np
from curate.reshard import reshard
from curate.shards import list_shards
src, subset, out = sys.argv[1:4]
index = Path(sys.argv[4]) if len(sys.argv) > 4 else None
shards, _ = list_shards(Path(src))
r = reshard(shards, np.load(subset), Path(out), index_dir=index)
print(r.samples_read, r.copies)
"""


def cpu_of(command: list[str], root: Path, cache: Path) -> tuple[float, float, int, str]:
    """CPU seconds (user + system), user seconds, peak KiB and standard output of one process."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    # both sides start from byte code, as an installed program does, and without idle BLAS threads
    env |= {"PYTHONPATH": str(root), "PYTHONPYCACHEPREFIX": str(cache), "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as stdout:
        process = subprocess.Popen(command, env=env, stdout=stdout, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        text = stdout.read().decode()
    if process.returncode:
        raise SystemExit(f"{command[0]} … ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_utime, usage.ru_maxrss, text


def subset_of(tars: Path, keep: float, path: Path) -> int:
    """Write a sorted subset of about `keep` of the uids in `tars`; returns the number of samples there."""
    from curate.shards import Scan, list_shards

    found = []
    for shard in list_shards(tars)[0]:
        for batch in Scan(shard).batches():
            found.append(np.stack([batch.hi, batch.lo], axis=1))
    uids = np.concatenate(found)
    chosen = uids[np.random.default_rng(0).random(len(uids)) < keep]
    records = np.zeros(len(chosen), "u8,u8")
    records["f0"], records["f1"] = chosen[:, 0], chosen[:, 1]
    np.save(path, np.sort(records))
    return len(uids)


def measure(tars: Path, keep: float, pairs: int, peer_python: str, work: Path) -> dict[str, object]:
    """Pairs of runs over one folder."""
    root = Path(__file__).resolve().parents[2]
    subset = work / "subset.npy"
    samples = subset_of(tars, keep, subset)
    rows: dict[str, list[float]] = {"peer": [], "ours": [], "indexed": []}
    users: dict[str, list[float]] = {who: [] for who in rows}
    peaks = dict.fromkeys(rows, 0)
    answers = {}
    for turn in range(pairs + 1):  # the first turn warms the caches
        for who in rows:
            out = work / "out"
            out.mkdir()
            python, code = (peer_python, PEER) if who == "peer" else (sys.executable, OURS)
            extra = [str(work / "index")] if who == "indexed" else []
            seconds, user, peak, text = cpu_of(
                [python, "-c", code, str(tars), str(subset), str(out), *extra], root, work / "pyc"
            )
            if turn:
                rows[who].append(seconds)
                users[who].append(user)
            peaks[who] = max(peaks[who], peak)
            answers[who] = text.split()
            shutil.rmtree(out)
    assert answers["peer"] == answers["ours"] == answers["indexed"], answers
    ratios = [peer / ours for peer, ours in zip(rows["peer"], rows["ours"], strict=True)]
    return {
        "samples": samples,
        "kept": int(answers["ours"][1]),
        "cpu_seconds": {who: round(statistics.median(values), 3) for who, values in rows.items()},
        "ratio": round(statistics.median(ratios), 2),
        "user_ratio": round(statistics.median(users["peer"]) / statistics.median(users["ours"]), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "peak_MiB": {who: peak // 1024 for who, peak in peaks.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tars", type=Path)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--keep", type=float, default=0.3)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--smaller", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, Any] = {
            "large": measure(args.tars, args.keep, args.pairs, args.peer_python, Path(folder))
        }
    if args.smaller:
        with tempfile.TemporaryDirectory() as folder:
            result["small"] = measure(args.smaller, args.keep, args.pairs, args.peer_python, Path(folder))
        large, small = result["large"], result["small"]
        more = large["samples"] - small["samples"]
        slope = {
            who: (large["cpu_seconds"][who] - small["cpu_seconds"][who]) / more * 1e6
            for who in ("peer", "ours", "indexed")
        }
        result["microseconds_per_sample"] = {who: round(value, 2) for who, value in slope.items()}
        result["slope_ratio"] = {who: round(slope["peer"] / slope[who], 1) for who in ("ours", "indexed")}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
