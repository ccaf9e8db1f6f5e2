"""Tiny pools, the command in this process or in one of its own, and what must hold after any fault."""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.cli import cli
from headwater.manifest import Step
from headwater.options import run_command
from headwater.steps import read_record
from tests.conftest import clean_environment

SPREAD = Path(__file__).with_name("spread.py")
EVERYTHING = "{id: all, sql: original_width > 0}"
RULE = """\
format: rule/1
name: several-passes
keep:
  - {id: size, sql: original_width >= 300}
  - {id: once, dedup: {by: [text]}}
  - {id: best, top: {column: clip_l14_similarity_score, fraction: 0.5}}
"""


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


def uid(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


def rows(numbers: Sequence[int], **columns: Any) -> pa.Table:
    """Well-formed rows; `columns` replaces or adds columns, and None leaves one out."""
    n = np.asarray(numbers)
    base: dict[str, Any] = {
        "uid": pa.array([uid(i) for i in numbers], pa.string()),
        "text": pa.array([f"a caption of number {i // 2}" for i in numbers], pa.string()),
        "original_width": pa.array(200 + 37 * n % 900, pa.int64()),
        "original_height": pa.array(200 + 53 * n % 700, pa.int64()),
        "clip_l14_similarity_score": pa.array(((n * 7919) % 1000 / 1000).astype(np.float32)),
    }
    merged = {**base, **columns}
    return pa.table({name: column for name, column in merged.items() if column is not None})


def with_uids(values: list[str | None]) -> pa.Table:
    return rows(range(len(values)), uid=pa.array(values, pa.string()))


def write_pool(folder: Path, tables: Mapping[str, pa.Table] | Sequence[pa.Table], **options: Any) -> Path:
    """A pool whose files look old enough for their digests to be kept."""
    folder.mkdir(parents=True, exist_ok=True)
    named = tables if isinstance(tables, Mapping) else {f"{n:08d}": t for n, t in enumerate(tables)}
    for name, table in named.items():
        path = folder / f"{name}.parquet"
        pq.write_table(table, path, **options)
        age(path)
    return folder


def age(path: Path, seconds: float = 3600) -> None:
    """Set the file's time back: the digest cache keeps nothing that was written just now."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def three_shards(folder: Path, **options: Any) -> Path:
    return write_pool(folder, [rows(range(30 * s, 30 * s + 30)) for s in range(3)], **options)


def rule_file(folder: Path, *clauses: str, name: str = "rule.yaml", head: str = "") -> Path:
    """A rule with the given clauses (flow mappings); without any, the rule of several passes."""
    path = folder / name
    body = "\n".join(f"  - {clause}" for clause in clauses)
    path.write_text(f"format: rule/1\nname: test\n{head}keep:\n{body}\n" if clauses else RULE)
    return path


def run(*arguments: object) -> Done:
    """The command line in this process: no process effects, and fast."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = contextvars.copy_context().run(run_command, cli, [str(a) for a in arguments])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert "Traceback" not in err.getvalue() and "internal error" not in err.getvalue(), err.getvalue()
    return Done(code, out.getvalue(), err.getvalue())


def argv(*arguments: object, spread: bool = False) -> list[str]:
    """The command line of a process; `spread` treats every pool as a large one (see spread.py)."""
    start = [str(SPREAD)] if spread else ["-m", "headwater.cli"]
    return [sys.executable, "-P", *start, *map(str, arguments)]


def spawn(
    *arguments: object, home: Path, spread: bool = False, env: Mapping[str, str] | None = None, **options: Any
) -> Done:
    """The command line in a process of its own."""
    whole = {**clean_environment(home), **(env or {})}
    options.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run(
        argv(*arguments, spread=spread),
        env=whole,
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        timeout=90,
        **options,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout or "", done.stderr)


def select(pool: Path, folder: Path, *clauses: str, options: tuple[object, ...] = (), head: str = "") -> Done:
    """Filter `pool` by these clauses into `folder/out.npy`, in this process."""
    rule = rule_file(folder, *clauses, head=head)
    return run("filter-pool", pool, "-o", folder / "out.npy", "--rule", rule, "--force", *options)


def kept(output: Path) -> set[int]:
    """Numbers of the rows in a subset."""
    wanted = set(words(output))
    return {n for n in range(3000) if uid(n) in wanted}


def words(path: Path) -> list[str]:
    """The uids of a subset file, in order."""
    array = np.load(path, allow_pickle=False)
    return [f"{int(hi):016x}{int(lo):016x}" for hi, lo in array.tolist()]


def record(output: Path) -> Step:
    step = read_record(output)
    assert step is not None, f"{output} has no record"
    return step


def closes(output: Path) -> Step:
    """The record of a subset, after a look that its counts close and match the file."""
    step = record(output)
    counts = step.identity.counts
    assert counts.read == counts.kept + sum(counts.dropped.values()) + sum(counts.invalid.values())
    assert counts.kept == len(np.load(output, allow_pickle=False))
    return step


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def temporaries(folder: Path) -> list[str]:
    """Everything below `folder` that only a run in progress may have there."""
    return sorted(
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if ".tmp" in p.name
        or (p.name.startswith(".") and p.name.endswith(".headwater") and p.name != ".headwater")
    )


def nothing_at(output: Path) -> None:
    """No output, no record, no temporary beside them."""
    assert not output.exists() and not output.with_name(f"{output.name}.step.json").exists()
    assert temporaries(output.parent) == []
