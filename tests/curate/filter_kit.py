"""Small pools and rules for the tests of the filter engine: written as Parquet, and as rows for the oracle."""

from __future__ import annotations

import contextlib
import contextvars
import io
import math
import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.binding import Ready, prepare
from curate.filtering import filter_pool
from curate.index import build_index, index_path
from curate.pool import Pool
from curate.rules import RuleFile
from headwater import console
from headwater.cli import cli as command_line
from headwater.errors import HeadwaterError
from headwater.executor import Executor
from headwater.manifest import Counts
from headwater.options import run_command
from headwater.steps import RunOptions
from tests.conftest import ODD_CAPTIONS
from tests.oracle import ROW, SHARD, SQL

GRID = [i / 16 for i in range(-3, 9)]
FLOATS = {"f32": [pa.float32(), pa.float16()], "f64": [pa.float64()]}
INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
SIZES = [0, 1, 199, 200, 201, 600, 601, 65535, 65536, 2**31, 2**53 + 1, 2**63 - 1, -1, -200, None]


@dataclass
class SmallPool:
    """A pool as tables, and the same rows as the oracle reads them."""

    tables: dict[str, pa.Table]
    rows: list[dict[str, Any]]
    kinds: dict[str, str]

    def write(self, folder: Path, *, rows_per_group: int = 7) -> Path:
        return write_pool(folder, self.tables, rows_per_group=rows_per_group)


def write_pool(folder: Path, tables: Mapping[str, pa.Table], *, rows_per_group: int = 7) -> Path:
    folder.mkdir(parents=True)
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=rows_per_group)
    return folder


def uid(number: int) -> str:
    return f"{number:032x}"


def random_pool(
    rng: random.Random, *, shard_rows: Sequence[int], repeats: bool, null_uids: bool
) -> SmallPool:
    """Shards of the given sizes, with every awkward value that a column may hold."""
    float_kind = rng.choice(["f32", "f64"])
    float_types = FLOATS[float_kind] if float_kind == "f32" else [pa.float64(), pa.float32()]
    float_types = float_types if rng.random() < 0.3 else [rng.choice(float_types[:1])]
    integers = INTEGERS if rng.random() < 0.3 else [rng.choice(INTEGERS)]
    texts = TEXTS if rng.random() < 0.3 else [rng.choice(TEXTS)]
    awkward = rng.random() < 0.7  # nulls, NaN, infinities
    numbers = list(GRID) + (
        [None, math.nan, math.inf, -math.inf, -0.0, 0.3, 1e-7] if awkward else [0.3, -0.0]
    )
    if all(t == pa.float64() for t in float_types):
        float_kind = "f64"
    elif pa.float64() not in float_types:
        float_kind = "f32"
    tables: dict[str, pa.Table] = {}
    rows: list[dict[str, Any]] = []
    kinds = {"s": "f32", "n": "int", "original_width": "int", "original_height": "int", "g": "text"}
    widest = 0
    seen: list[str] = []
    for shard, count in enumerate(shard_rows):
        float_type = rng.choice(float_types)
        widest = max(widest, float_type.bit_width)
        uids = []
        for _ in range(count):
            fresh = uid(rng.getrandbits(128) if rng.random() < 0.7 else rng.getrandbits(6))
            while fresh in seen:
                fresh = uid(rng.getrandbits(128))
            if repeats and seen and rng.random() < 0.2:
                fresh = rng.choice(seen)
            seen.append(fresh)
            uids.append(None if null_uids and rng.random() < 0.1 else fresh)
        columns: dict[str, Any] = {
            "url": pa.array([f"https://images.example/{i}.jpg" for i in range(count)], pa.string()),
            "text": _texts([rng.choice(ODD_CAPTIONS) for _ in range(count)], rng.choice(texts)),
            "uid": pa.array(uids, pa.string()),
            "s": _floats([rng.choice(numbers) for _ in range(count)], float_type),
            "n": pa.array(
                [rng.choice([*range(-4, 5), None] if awkward else range(-4, 5)) for _ in range(count)],
                rng.choice(integers),
            ),
            "original_height": pa.array([rng.choice(SIZES) for _ in range(count)], pa.int64()),
            "original_width": pa.array([rng.choice(SIZES) for _ in range(count)], pa.int64()),
            "g": _texts(
                [rng.choice(["a", "b", "B", "", "ä"] + [None] * awkward) for _ in range(count)],
                rng.choice(texts),
            ),
            "b": pa.array([rng.choice([True, False] + [None] * awkward) for _ in range(count)], pa.bool_()),
            "face_bboxes": pa.array([[[0.0, 0.5]]] * count, pa.list_(pa.list_(pa.float64()))),
            'odd "name"': pa.array(range(count), pa.int64()),
        }
        name = f"{shard:032x}"
        tables[name] = pa.table(columns)
        plain = {key: _values(column) for key, column in columns.items()}
        rows += [
            {key: values[i] for key, values in plain.items()} | {SHARD: name, ROW: i} for i in range(count)
        ]
    kinds["s"] = "f64" if widest == 64 else "f32"
    return SmallPool(tables, rows, kinds)


def shuffled(pool: SmallPool, rng: random.Random) -> SmallPool:
    """The same rows in another order within shards, and the shards under other names."""
    names = [f"{rng.getrandbits(128):032x}" for _ in pool.tables]
    tables = {}
    for name, table in zip(names, pool.tables.values(), strict=True):
        order = list(range(table.num_rows))
        rng.shuffle(order)
        tables[name] = pa.table(
            {
                column: _texts([table[column].to_pylist()[i] for i in order], table.schema.field(column).type)
                if "dict" in str(table.schema.field(column).type)
                or "view" in str(table.schema.field(column).type)
                else table[column].take(pa.array(order, pa.int64()))
                for column in table.column_names
            }
        )
    return SmallPool(tables, [], pool.kinds)


def _floats(values: list[float | None], type_: pa.DataType) -> pa.Array:
    if type_ == pa.float16():
        return pa.array([None if v is None else np.float16(v) for v in values], type_)
    return pa.array(values, type_, from_pandas=False)


def _texts(values: list[str | None], type_: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(type_):
        return pa.array(values, pa.string()).dictionary_encode()
    return pa.array(values, type_)


def _values(array: pa.Array) -> list[Any]:
    return [float(v) if isinstance(v, np.floating) else v for v in array.to_pylist()]


def random_clause(rng: random.Random, name: str, *, repeats: bool, depth: int = 0) -> dict[str, Any]:
    """Any kind of clause over the columns of `random_pool`; numbers that make sense for it are frequent."""
    number = rng.choice(["s", "s", "n", "original_width"])
    of = rng.choice(["pool", "survivors"])
    kinds = ["sql", "in", "in_subset", "threshold", "fraction", "exact_k", "dedup", "sample"]
    kind = rng.choice(kinds + (["any", "all", "not"] if depth < 2 else []))
    if kind == "sql":
        return {"id": name, "sql": rng.choice(sorted(SQL))}
    if kind == "in":
        column = rng.choice(["g", "n", "s", "original_width"])
        values = {
            "g": ["a", "", "zz"],
            "n": [1, 2, -3, 1000],
            "s": [0.3, 0.0, 0.25, -5],
            "original_width": [200, -1, 2**40, 70000, 2**53 - 1],
        }[column]
        return {
            "id": name,
            "in": {"column": column, "values": rng.sample(values, rng.randrange(1, len(values)))},
        }
    if kind == "in_subset":
        return {"id": name, "in": {"subset": "some.npy"}}
    if kind == "threshold":
        least = {
            "s": [0.3, 0.25, -0.0, "inf", "-inf"],
            "n": [0, 1.5, -3],
            "original_width": [200, 65536, 2**53],
        }
        return {"id": name, "top": {"column": number, "threshold": rng.choice(least[number])}}
    if kind == "fraction":
        share = rng.choice([0.01, 0.29, 0.3, 0.5, 0.57, 0.9, 1])
        return {"id": name, "top": {"column": number, "fraction": share, "of": of}}
    if kind == "exact_k":
        return {"id": name, "exact_k": {"column": number, "k": rng.choice([0, 1, 2, 3, 5]), "of": of}}
    if kind == "dedup":
        by = rng.sample(["g", "n", "s", "text", "original_width"], rng.choice([1, 1, 2]))
        order = (
            {}
            if rng.random() < 0.4
            else {rng.choice(["s", "n", "original_height"]): rng.choice(["asc", "desc"])}
        )
        return {"id": name, "dedup": {"by": by, "at_most": rng.choice([1, 1, 2]), "order": order}}
    if kind == "sample":
        return {"id": name, "sample": {"fraction": rng.choice([0.3, 0.8, 1]), "seed": rng.choice([0, 7, -1])}}
    some = [
        random_clause(rng, f"{name}.{i}", repeats=repeats, depth=depth + 1)
        for i in range(1 if kind == "not" else rng.randrange(1, 4))
    ]
    return {"id": name, kind: some[0] if kind == "not" else some}


def random_rule(rng: random.Random, *, repeats: bool) -> list[dict[str, Any]]:
    return [random_clause(rng, f"c{i}", repeats=repeats) for i in range(rng.randrange(0, 5))]


@dataclass
class Ran:
    """What a run of a filter left."""

    data: bytes = b""
    counts: Counts | None = None
    details: dict[str, Any] = field(default_factory=dict)
    reasons: list[tuple[str, int, str, str | None]] = field(
        default_factory=list
    )  # shard, row, verdict, reason
    refused: HeadwaterError | None = None

    @property
    def uids(self) -> list[str]:
        words = np.frombuffer(self.data[128:], "<u8").reshape(-1, 2)
        return [f"{int(hi):016x}{int(lo):016x}" for hi, lo in words]


def ready(pool: Path, keep: list[Any], *, cache: Path, base: Path | None = None, **more: Any) -> Ready:
    rule = RuleFile.model_validate({"format": "rule/1", "name": "test", "keep": keep, **more})
    return prepare(Pool.open(pool, cache=cache), rule, base or Path())


def run_filter(
    pool: Path,
    keep: list[Any],
    work: Path,
    *,
    cache: Path | None = None,
    base: Path | None = None,
    index: bool = False,
    unindexed: int = 0,
    reasons: bool = False,
    engine: str = "serial",
    keep_repeats: bool = True,
    **more: Any,
) -> Ran:
    """Filter `pool` into a folder `work` of its own; a refusal is part of the result."""
    work.mkdir(parents=True)
    place = cache or work / "cache"
    executor = Executor(engine, 2 if engine == "pool" else 1)
    try:
        bound = ready(pool, keep, cache=place, base=base, **more)
        if index:
            build_index(bound.pool, executor)
            for shard in bound.pool.shards[:unindexed]:
                index_path(place, shard.name).unlink()
        table = work / "reasons.parquet"
        outcome = filter_pool(
            bound,
            work / "out.npy",
            executor=executor,
            options=RunOptions(),
            reasons=table if reasons else None,
            keep_repeats=keep_repeats,
        )
    except HeadwaterError as error:
        return Ran(refused=error)
    assert outcome is not None
    told = []
    if reasons:
        columns = pq.ParquetFile(table).read(["shard", "row", "verdict", "reason"]).to_pydict()
        told = list(zip(*columns.values(), strict=True))
    counts = outcome.step.identity.counts
    return Ran((work / "out.npy").read_bytes(), counts, outcome.step.details, told)


class Heard:
    """A console sink that remembers messages."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str]] = []

    def message(self, level: str, text: str, fields: dict[str, Any]) -> None:
        self.messages.append((level, text))

    def progress(self, task: Any) -> None:
        pass

    @property
    def warnings(self) -> list[str]:
        return [text for level, text in self.messages if level == "warning"]


@contextlib.contextmanager
def listening() -> Iterator[Heard]:
    """Collect what the library says."""
    heard = Heard()
    token = console._sink.set(heard)
    try:
        yield heard
    finally:
        console._sink.reset(token)


@dataclass(frozen=True)
class Told:
    """What a command gave, as `subprocess.run` would tell it."""

    returncode: int
    stdout: str
    stderr: str


def in_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    """The command line without a process of its own: a tenth of the time, the same exit codes and streams."""

    def run(*arguments: object) -> Told:
        monkeypatch.chdir(folder)
        handlers = {
            number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
        }
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                words = [str(argument) for argument in arguments]
                code = contextvars.copy_context().run(run_command, command_line, words)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return Told(code, out.getvalue(), err.getvalue())

    return run
