"""What finding duplicates costs beside public tools, in CPU seconds and peak memory of whole commands, all in one run.

Run: python tests/bench/duplicates.py [--rows N,N] [--large] [--captions N] [--pairs N] [--keep FOLDER] [--out FILE.json]
Exact: the row of smallest uid for each sha256. Ours writes a sorted subset file and its record, from raw Parquet and from the side
index (made before); DuckDB either leaves the uids as strings in memory, unsorted, or writes the same file as ours (`.npy`).
Captions: one of each group of word sets at Jaccard 0.8; datasketch takes the captions one by one, MinHash of 32 permutations and
its own LSH, unverified and without components. Precision and recall of ours are measured against every pair of 20,000 rows.
Peers run in their own environment, named by HEADWATER_BENCH_PEERS (duckdb, pyarrow, numpy, datasketch >= 2). Input digests are
known beforehand. Nothing here asserts a speed: it prints PASS and FAIL.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

RAW, SERIAL = ("--no-index",), ("--engine", "serial")
CHECKED_ROWS = 20_000
THRESHOLD = 0.8


# peers: this file is started again by their Python


def duckdb_(pool: str, npy: str | None) -> int:
    import duckdb
    import numpy as np

    connection = duckdb.connect(config={"preserve_insertion_order": "false"})
    found = f"select min(uid) as uid from read_parquet('{pool}/*.parquet') group by sha256"
    if npy is None:
        return int(connection.sql(found).to_arrow_table().num_rows)
    halves = "('0x' || uid[1:16])::UBIGINT as hi, ('0x' || uid[17:32])::UBIGINT as lo"
    columns = connection.execute(f"select {halves} from ({found}) order by hi, lo").fetchnumpy()
    records = np.empty(len(columns["hi"]), "u8,u8")
    records["f0"], records["f1"] = columns["hi"], columns["lo"]
    np.save(npy, records)
    return len(records)


def datasketch_(pool: str) -> int:
    import pyarrow.parquet as pq
    from datasketch import MinHash, MinHashLSH

    index, kept, number = MinHashLSH(threshold=THRESHOLD, num_perm=32), 0, 0
    for path in sorted(Path(pool).glob("*.parquet")):
        for text in pq.read_table(path, columns=["text"])["text"].to_pylist():
            sketch = MinHash(num_perm=32)
            sketch.update_batch([word.encode() for word in set(text.lower().split())])
            if not index.query(sketch):
                index.insert(number, sketch)
                kept += 1
            number += 1
    return kept


# ours


def uids_of(file: Path) -> tuple[int, str]:
    """Number and digest of the uids of a subset file; in pieces, since a child's peak memory begins with that of this process."""
    digest = hashlib.sha256()
    with open(file, "rb") as handle:
        handle.seek(128)  # the header
        while piece := handle.read(1 << 20):
            digest.update(piece)
    return (file.stat().st_size - 128) // 16, digest.hexdigest()


def exact(bench: Any, rows: int, pairs: int) -> dict[str, Any]:
    """All contestants on one pool: answers first, then pairs."""
    from bench import tell

    tell(f"exact: {rows:,} rows")
    bench.warm(rows)
    build = bench.use(bench.ours("pool", "index", bench.pool(rows), "--force", *SERIAL))
    name = ("--name", "exact_duplicates", *SERIAL)
    peer = [bench.peers, __file__, "--peer", "duckdb", bench.pool(rows)]
    npy = [*peer, "--npy", str(bench.out / "peer.npy")]
    commands = {
        "raw": bench.filter(rows, *name, *RAW),
        "index": bench.filter(rows, *name),
        "duckdb, strings": peer,
        "duckdb, .npy": npy,
    }
    answers = {}
    for who, file in (("raw", "ours.npy"), ("index", "ours.npy"), ("duckdb, .npy", "peer.npy")):
        bench.use(commands[who])
        answers[who] = uids_of(bench.out / file)
    if len(set(answers.values())) != 1:
        raise SystemExit("bench: exact duplicates: the answers differ")
    used: dict[str, list[Any]] = defaultdict(list)
    for pair in range(pairs):
        for who in list(commands)[:: -1 if pair % 2 else 1]:
            used[who].append(bench.use(commands[who], sample=True))
    return {
        "rows": rows,
        "kept": answers["raw"][0],
        "index_build_cpu_seconds": round(build.cpu_seconds, 2),
        "cpu_seconds": {who: [round(u.cpu_seconds, 2) for u in uses] for who, uses in used.items()},
        "peak_mib": {
            who: max(max(u.peak_bytes, u.tree_bytes or 0) for u in uses) >> 20 for who, uses in used.items()
        },
    }


def captions(bench: Any, rows: int, pairs: int) -> dict[str, Any]:
    from bench import tell

    tell(f"captions: {rows:,} rows")
    bench.warm(rows)
    cache = bench.store / f"captions-{os.getpid()}"
    named = ("--name", "near_duplicate_captions", *SERIAL, "--cache", str(cache))
    commands = {
        "ours": bench.filter(rows, *named),
        "datasketch": [bench.peers, __file__, "--peer", "datasketch", bench.pool(rows)],
    }
    used: dict[str, list[Any]] = defaultdict(list)
    facts: dict[str, Any] = {}
    for pair in range(pairs):
        for who in list(commands)[:: -1 if pair % 2 else 1]:
            shutil.rmtree(cache, ignore_errors=True)
            used[who].append(bench.use(commands[who], sample=True))
            if who == "ours":
                record = next(cache.glob("scores/captions-*/step.json"))
                facts = json.loads(record.read_bytes())["details"]
    shutil.rmtree(cache, ignore_errors=True)
    return {
        "rows": rows,
        "notes": facts,
        "cpu_seconds": {who: [round(u.cpu_seconds, 2) for u in uses] for who, uses in used.items()},
        "peak_mib": {
            who: max(max(u.peak_bytes, u.tree_bytes or 0) for u in uses) >> 20 for who, uses in used.items()
        },
        **quality(bench),
    }


def quality(bench: Any) -> dict[str, Any]:
    """Precision and recall of our groups over all pairs of distinct word sets of some rows."""
    import numpy as np
    import pyarrow.parquet as pq
    from bench import tell

    tell(f"captions: every pair of {CHECKED_ROWS:,} rows")
    pool = bench.store / f"checked-{os.getpid()}"
    shutil.rmtree(pool, ignore_errors=True)
    pool.mkdir()
    table = pq.read_table(next(iter(sorted(Path(bench.pool(250_000)).glob("*.parquet"))))).slice(
        0, CHECKED_ROWS
    )
    pq.write_table(table, pool / "00000000.parquet")
    bench.use(bench.ours("score", "captions", str(pool), *SERIAL))
    file = next(pool.glob(".headwater/scores/captions-*/*.parquet"))
    groups = pq.read_table(file)["caption_group"].to_pylist()
    shutil.rmtree(pool)
    group_of: dict[frozenset[str], str] = {}
    for text, group in zip(table["text"].to_pylist(), groups, strict=True):
        group_of.setdefault(frozenset(text.casefold().split()), group)
    sets = [words for words in group_of if words]
    postings: dict[str, list[int]] = defaultdict(list)
    for number, words in enumerate(sets):
        for word in words:
            postings[word].append(number)
    arrays = {word: np.array(places) for word, places in postings.items()}
    sizes = np.array([len(words) for words in sets])
    root = list(range(len(sets)))

    def find(x: int) -> int:
        while root[x] != x:
            root[x] = root[root[x]]
            x = root[x]
        return x

    near = found = 0
    for number, words in enumerate(sets):
        shared = np.bincount(np.concatenate([arrays[word] for word in words]), minlength=len(sets))
        similar = np.flatnonzero(shared / (sizes + len(words) - shared) >= THRESHOLD)
        for other in similar[similar > number].tolist():
            near += 1
            found += group_of[words] == group_of[sets[other]]
            root[max(find(number), find(other))] = min(find(number), find(other))
    together: dict[str, set[int]] = defaultdict(set)
    members: dict[str, int] = defaultdict(int)
    for number, words in enumerate(sets):
        together[group_of[words]].add(find(number))
        members[group_of[words]] += 1
    joined = [group for group, count in members.items() if count > 1]
    right = sum(len(together[group]) == 1 for group in joined)
    return {
        "checked_rows": len(groups),
        "near_pairs": near,
        "recall": round(found / max(near, 1), 4),
        "groups_of_several_sets": len(joined),
        "precision": round(right / max(len(joined), 1), 4),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The table: ratio is the peer's median over ours."""
    out = [
        "| task | rows | ours CPU s | peer | peer CPU s | ratio | target | | MiB ours / peer |",
        "|---" * 9 + "|",
    ]

    def add(task: str, part: dict[str, Any], ours: str, peer: str, target: float | None) -> None:
        mine, theirs = (statistics.median(part["cpu_seconds"][who]) for who in (ours, peer))
        memory = f"{part['peak_mib'][ours]:,} / {part['peak_mib'][peer]:,}"
        verdict = "" if target is None else "PASS" if theirs / mine >= target else "FAIL"
        goal = "" if target is None else f">= {target:g}"
        out.append(
            f"| {task} | {part['rows']:,} | {mine:.2f} | {peer} | {theirs:.2f} | {theirs / mine:.2f} | {goal} | {verdict} | {memory} |"
        )

    for part in found["exact"]:
        large = part["rows"] >= 16_000_000
        goals = {"raw": 1.3 if large else 1.0 if part["rows"] >= 4_000_000 else None}
        goals["index"] = 4.0 if large else None
        for ours in ("raw", "index"):
            for peer in ("duckdb, strings", "duckdb, .npy"):
                add(f"exact, {ours}", part, ours, peer, goals[ours])
    if "captions" in found:
        add("near captions", found["captions"], "ours", "datasketch", 12.0)
        out.append("")
        part = found["captions"]
        out.append(
            f"captions: precision {part['precision']:g}, recall {part['recall']:g} of {part['near_pairs']:,} near pairs among "
            f"{part['checked_rows']:,} rows; {part['notes']}"
        )
    parts = found["exact"]
    for small, more in zip(parts, parts[1:], strict=False):
        slope = {
            who: (statistics.median(more["cpu_seconds"][who]) - statistics.median(small["cpu_seconds"][who]))
            / (more["rows"] - small["rows"])
            for who in more["cpu_seconds"]
        }
        told = ", ".join(f"{who} {value * 1e9:.0f}" for who, value in slope.items())
        out.append(f"exact, ns a row from {small['rows']:,} to {more['rows']:,} rows: {told}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="1000000,4000000", help="pools for exact duplicates")
    parser.add_argument("--large", action="store_true", help="a pool of 16,000,000 rows too")
    parser.add_argument(
        "--captions", type=int, default=250_000, help="rows for near-duplicate captions; 0: none"
    )
    parser.add_argument("--pairs", type=int, default=3, help="pairs of runs per comparison")
    parser.add_argument("--keep", type=Path, default=Path(__file__).resolve().parents[2] / ".bench")
    parser.add_argument(
        "--out", type=Path, help="where the JSON goes (default: duplicates.json beside the pools)"
    )
    parser.add_argument("--peers", default=os.environ.get("HEADWATER_BENCH_PEERS", ".venv-bench/bin/python"))
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--npy", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        name, pool = options.peer
        print(datasketch_(pool) if name == "datasketch" else duckdb_(pool, options.npy))
        return
    from bench import FULL, Bench, machine, tell
    from measure import become_reaper

    become_reaper()
    sizes = [int(word) for word in options.rows.split(",") if word] + [16_000_000] * options.large
    bench = Bench(FULL, options.pairs, options.keep.resolve(), str(Path(options.peers).absolute()))
    found: dict[str, Any] = {"format": "bench-duplicates/1", "machine": machine(), "exact": []}
    try:
        bench.make_pools(
            "metadata", sorted({250_000, *sizes, *([options.captions] if options.captions else [])})
        )
        for rows in sizes:
            found["exact"].append(exact(bench, rows, options.pairs))
        if options.captions:
            found["captions"] = captions(bench, options.captions, options.pairs)
    finally:
        shutil.rmtree(bench.out, ignore_errors=True)
    (options.out or options.keep / "duplicates.json").write_text(
        json.dumps(found, indent=2, sort_keys=True) + "\n"
    )
    tell("done\n\n")
    sys.stdout.write("\n".join(lines(found)) + "\n")


if __name__ == "__main__":
    main()
