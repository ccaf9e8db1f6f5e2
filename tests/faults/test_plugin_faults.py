"""A scorer of someone else that misbehaves: contained, told with its name, the shard and the rows, nothing half-written."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import _guard
from headwater import plugins
from tests.faults.kit import (
    Done,
    closes,
    kept,
    nothing_at,
    rows,
    rule_file,
    run,
    spawn,
    temporaries,
    write_pool,
)

HEAD = '''"""A scorer from outside."""
from __future__ import annotations
import os, sys, time, itertools
from dataclasses import dataclass
import pyarrow as pa

VERSION = 1
COLUMNS = ("original_width",)
OUTPUT = {"mine": "float32", "other": "string"}
COST = "%s"
%s

@dataclass(frozen=True)
class Config:
    factor: float = 2.0

class Scorer:
    def __init__(self, config: Config) -> None:
        self.identity = {"theirs": "1"}
        self.factor = config.factor

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        widths = batch.column("original_width").to_pylist()
        bad = 200 + 37 * 13 in widths
        mine, other = [w * self.factor for w in widths], ["x"] * len(widths)
'''
TAIL = """
        return pa.RecordBatch.from_pydict({"mine": pa.array(mine, pa.float32()), "other": pa.array(other)})
"""
FAULTS = {
    "raises": ("if bad: raise ValueError('boom')", "raised: ValueError: boom"),
    "exits": ("if bad: sys.exit(0)", "raised: SystemExit: 0"),
    "asserts": ("assert not bad", "raised: AssertionError"),
    "nothing": ("if bad: return None", "gave NoneType, not a pyarrow.RecordBatch"),
    "list": ("if bad: return mine", "gave list, not a pyarrow.RecordBatch"),
    "short": ("if bad: mine, other = mine[1:], other[1:]", "gave 4 scores for 5 rows"),
    "long": ("if bad: mine, other = mine + [1.0], other + ['y']", "gave 6 scores for 5 rows"),
    "text": (
        "if bad: return pa.RecordBatch.from_pydict({'mine': ['1'] * 5, 'other': other})",
        "column 'mine' does not fit the declared float32: it is string",
    ),
    "object": (
        "if bad: return pa.RecordBatch.from_pydict({'mine': [[1.0]] * 5, 'other': other})",
        "column 'mine' does not fit the declared float32",
    ),
    "names": (
        "if bad: return pa.RecordBatch.from_pydict({'mine': mine})",
        "gave the columns mine, and declares mine, other",
    ),
    "never": ("while bad: time.sleep(0.01)", "did not return within 0.3 s"),
    "busy": ("while bad: pass", "did not return within 0.3 s"),
    "deaf": (
        "while bad:\n            try: time.sleep(0.01)\n            except BaseException: bad = False",
        "did not return within 0.3 s",
    ),
}


def scorer(folder: Path, fault: str, *, cost: str = "cheap", more: str = "") -> Path:
    path = folder / "mine.py"
    path.write_text(HEAD % (cost, f"TIME_LIMIT_SECONDS = 0.3\n{more}") + f"        {fault}\n" + TAIL)
    return path


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Two shards in row groups of five; row 3 of shard 1 (number 13) has the width that the faults wait for."""
    return write_pool(tmp_path / "pool", [rows(range(10)), rows(range(10, 20))], row_group_size=5)


def scores_of(pool: Path) -> list[str]:
    return sorted(p.name for p in (pool / ".headwater").rglob("*.parquet"))


def filtered(pool: Path, folder: Path, *options: object, clause: str = "{id: c, sql: mine > 500}") -> Done:
    rule = rule_file(folder, clause, head="scores: [./mine.py]\n")
    return run("filter-pool", pool, "-o", folder / "out.npy", "--rule", rule, *options)


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_score_names_scorer_shard_and_rows(pool: Path, tmp_path: Path, name: str) -> None:
    fault, told = FAULTS[name]
    mine = scorer(tmp_path, fault, cost="costly")
    done = run("score", mine, pool, "--engine", "serial")
    assert done.code == 1
    assert "scorer mine-" in done.err and f"shard 00000001, rows 0 to 4: {told}" in done.err
    assert scores_of(pool) == ["00000000.parquet"]  # whole, and of use to the next run
    assert temporaries(tmp_path) == [] and done.out == ""
    scorer(tmp_path, "")
    assert run("score", mine, pool, "--engine", "serial").code == 0


@pytest.mark.parametrize(
    ("name", "cost"),
    [*((name, "cheap") for name in sorted(FAULTS)), ("raises", "costly"), ("never", "costly")],
)
def test_a_filter_names_scorer_shard_and_rows(pool: Path, tmp_path: Path, name: str, cost: str) -> None:
    fault, told = FAULTS[name]
    mine = scorer(tmp_path, fault, cost=cost)
    done = filtered(pool, tmp_path, "--plugin", mine)
    assert done.code == 1 and f"shard 00000001, rows 0 to 4: {told}" in done.err, done.err
    nothing_at(tmp_path / "out.npy")
    scorer(tmp_path, "", cost=cost)
    assert filtered(pool, tmp_path, "--plugin", mine).code == 0
    assert kept(tmp_path / "out.npy") == {n for n in range(20) if 2 * (200 + 37 * n % 900) > 500}
    closes(tmp_path / "out.npy")


def test_rows_asked_for_alone_are_named_alone(pool: Path, tmp_path: Path) -> None:
    mine = scorer(tmp_path, "if bad: raise ValueError('boom')", cost="costly")
    rule = rule_file(
        tmp_path, "{id: a, sql: original_width = 681}", "{id: b, sql: mine > 0}", head="scores: [mine.py]\n"
    )
    done = run("filter-pool", pool, "-o", tmp_path / "o.npy", "--rule", rule, "--plugin", mine)
    assert done.code == 1 and "shard 00000001, row 3: raised: ValueError: boom" in done.err


def test_nan_is_no_score_and_is_told(pool: Path, tmp_path: Path) -> None:
    mine = scorer(tmp_path, "if bad: mine[widths.index(681)] = float('nan')", cost="costly")
    done = run("score", mine, pool, "--engine", "serial", "--json")
    assert done.code == 3 and "shard 00000001, rows 0 to 4: 1 of 5 scores are NaN" in done.err
    assert json.loads(done.out)["counts"]["invalid"] == {"NaN": 1}
    table = pq.read_table(next((pool / ".headwater").rglob("00000001.parquet")))
    assert table["mine"].null_count == 1 and table["mine"][3].as_py() is None
    assert run("score", mine, pool, "--engine", "serial").code == 3  # what has no score is asked for again
    assert run("score", mine, pool, "--engine", "serial", "--allow-invalid").code == 0
    assert filtered(pool, tmp_path, "--plugin", mine).code == 3
    assert closes(tmp_path / "out.npy").identity.counts.invalid == {"c: null or NaN": 1}


@pytest.mark.parametrize("engine", ["serial", pytest.param("pool", marks=pytest.mark.slow)])
def test_what_it_prints_never_reaches_standard_output(pool: Path, tmp_path: Path, engine: str) -> None:
    fault = (
        "print('hello', 1); sys.stdout.write('half a line'); os.write(1, b'raw\\n'); os.system('echo child')"
        "; sys.__stdout__.write('under'); [print(n) for n in range(50)]"
    )
    mine = scorer(tmp_path, fault)
    done = spawn("score", mine, pool, "--json", "--engine", engine, "--workers", 2, home=tmp_path)
    assert done.code == 0, done.err
    assert json.loads(done.out)["rows_scored"] == 20 and len(done.out.splitlines()) == 1
    for word in ("says: hello 1", "says: half a line", "raw", "child", "under", "and more, not shown"):
        assert word in done.err
    assert "\n45" not in done.err


@pytest.mark.parametrize("engine", ["serial", "pool"])
@pytest.mark.parametrize("fault", ["os.fork()", "[os.fork() for _ in range(3)]", "if not os.fork(): sys.exit(5)",
                                   "if not os.fork(): raise ValueError('in the child')"])  # fmt: skip
def test_a_child_never_comes_back_into_our_work(pool: Path, tmp_path: Path, fault: str, engine: str) -> None:
    mine = scorer(tmp_path, fault)
    done = spawn("score", mine, pool, "--json", "--engine", engine, "--workers", 2, home=tmp_path)
    assert done.code == 0, done.err
    assert json.loads(done.out)["rows_scored"] == 20 and len(done.out.splitlines()) == 1
    assert "in the child" not in done.err and scores_of(pool) == ["00000000.parquet", "00000001.parquet"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["serial", "pool"])
def test_one_that_catches_every_stop_ends_with_the_process(pool: Path, tmp_path: Path, engine: str) -> None:
    fault = "while bad:\n            try: time.sleep(9)\n            except BaseException: pass"
    mine = scorer(tmp_path, fault, cost="costly")
    started = time.monotonic()
    done = spawn("score", mine, pool, "--engine", engine, "--workers", 2, home=tmp_path)
    assert done.code == 1 and time.monotonic() - started < 60
    assert "shard 00000001, rows 0 to 4: did not return within 0.3 s, and cannot be stopped" in done.err
    assert "00000001.parquet" not in scores_of(pool)
    scorer(tmp_path, "", cost="costly")
    assert run("score", mine, pool, "--engine", "serial").code == 0 and temporaries(tmp_path) == []


@pytest.mark.slow
def test_one_that_never_lets_python_look_ends_too(pool: Path, tmp_path: Path) -> None:
    mine = scorer(tmp_path, "if bad: all(itertools.repeat(True))", cost="costly")
    done = spawn("score", mine, pool, "--engine", "serial", home=tmp_path)
    assert done.code == 1 and "Timeout" in done.err and "mine.py" in done.err
    assert "00000001.parquet" not in scores_of(pool)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise ValueError('boom')", "raised: ValueError: boom"),
        ("return 3", "raised: TypeError"),
        ("yield None", "gave other columns than it declares"),
        ("yield [1]", "gave list, not a dict of columns"),
        ("print('on its way'); yield {'mine': [1.0] * 9, 'other': ['x'] * 9}", "another number of rows"),
        ("yield {'mine': pa.array([1.0] * 10), 'other': ['x'] * 10}; sys.exit(0)", "raised: SystemExit"),
    ],
)
def test_one_of_the_whole_pool_is_contained_too(pool: Path, tmp_path: Path, body: str, told: str) -> None:
    mine = tmp_path / "mine.py"
    head = HEAD.replace(
        "def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:", "def score_pool(self, data):"
    )
    head = head[: head.index("        widths")].replace("pa.RecordBatch", "object")
    mine.write_text(head % ("costly", 'SCOPE = "pool"') + f"        {body}\n")
    done = run("score", mine, pool, "--engine", "serial")
    assert done.code in (1, 2) and "scorer mine-" in done.err and told in done.err, done.err
    assert done.out == "" and not list((pool / ".headwater").rglob("step.json"))


def test_the_time_limit_of_the_command_goes_first(pool: Path, tmp_path: Path) -> None:
    mine = scorer(tmp_path, "if bad: time.sleep(0.5)")
    assert "within 0.3 s" in run("score", mine, pool, "--engine", "serial").err
    assert run("score", mine, pool, "--engine", "serial", "--time-limit", 5).code == 0
    assert run("score", mine, pool, "--engine", "serial", "--time-limit", 0).code == 2


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("def (:\n", 1, "cannot be loaded: SyntaxError"),
        ("raise SystemExit(0)\n", 1, "cannot be loaded: SystemExit"),
        ("import no_such_module_here\n", 1, "cannot be loaded: ModuleNotFoundError"),
        ("VERSION = 1\n", 2, "defines no COLUMNS, OUTPUT, COST, Config, Scorer"),
        (HEAD % ("cheap", "OUTPUT = ['mine']") + TAIL, 2, "OUTPUT is no mapping"),
        (HEAD % ("cheap", "OUTPUT = {'mine': 'floaty'}") + TAIL, 2, "OUTPUT is no mapping"),
        (HEAD % ("dear", "") + TAIL, 2, "COST is neither cheap nor costly"),
        (HEAD.replace("@dataclass(frozen=True)", "") % ("cheap", "") + TAIL, 2, "Config is no dataclass"),
        (
            HEAD.replace("self.factor =", "raise OSError('no model');") % ("cheap", "") + TAIL,
            1,
            "cannot be made: OSError: no model",
        ),
        ("#" * (5 << 20), 2, "are no plug-in"),
    ],
)
def test_a_file_that_is_no_scorer_is_told(
    pool: Path, tmp_path: Path, text: str, code: int, told: str
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(text)
    done = run("score", mine, pool, "--engine", "serial")
    assert done.code == code and told in done.err and not scores_of(pool)
    assert run("score", tmp_path / "none.py", pool).code == 10


def test_a_rule_runs_no_code_that_the_user_did_not_name(pool: Path, tmp_path: Path) -> None:
    mine = scorer(tmp_path, "", more=f"os.mkdir({str(tmp_path / 'ran')!r})")
    done = filtered(pool, tmp_path)
    assert done.code == 2 and "runs only when you name it yourself" in done.err
    assert f"--plugin {mine}" in done.err and not (tmp_path / "ran").exists()
    assert filtered(pool, tmp_path, "--plugin", mine).code == 0 and (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_record_runs_no_code_either(pool: Path, tmp_path: Path) -> None:
    mine = scorer(tmp_path, "", more=f"os.mkdir({str(tmp_path / 'ran')!r})")
    assert filtered(pool, tmp_path, "--plugin", mine).code == 0
    out = tmp_path / "out.npy"
    for command in (("explain", out, "0" * 32), ("report", out, "-o", tmp_path / "p.html")):
        (tmp_path / "ran").rmdir()
        done = spawn(*command, home=tmp_path)
        assert not (tmp_path / "ran").exists() and done.code in (0, 2), done.err
        done = spawn(*command, "--plugin", mine, home=tmp_path)
        assert done.code == 0, done.err
    assert (tmp_path / "ran").exists()


def test_the_bytes_of_the_file_decide_and_not_its_place(pool: Path, tmp_path: Path) -> None:
    mine = scorer(tmp_path, "", cost="costly")
    first = json.loads(run("score", mine, pool, "--engine", "serial", "--json").out)
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "mine.py"
    moved.write_bytes(mine.read_bytes())
    again = json.loads(run("score", moved, pool, "--engine", "serial", "--json").out)
    assert again["folder"] == first["folder"] and again["rows_scored"] == 0
    scorer(tmp_path, "mine[0] = 1.0", cost="costly")
    other = json.loads(run("score", mine, pool, "--engine", "serial", "--json").out)
    assert other["folder"] != first["folder"] and other["rows_scored"] == 20
    identity = json.loads(pq.read_schema(Path(other["folder"]) / "00000000.parquet").metadata[b"headwater"])
    assert len(identity["assets"]["code"]) == 64 and identity["assets"]["theirs"] == "1"
    assert str(tmp_path) not in json.dumps(identity)
    assert not (tmp_path / "__pycache__").exists()
    third = json.loads(run("score", mine, pool, "--engine", "serial", "--json", "--factor", "3").out)
    assert third["folder"] != other["folder"]


@pytest.mark.slow
def test_many_workers_give_the_same_subset(pool: Path, tmp_path: Path) -> None:
    mine = scorer(tmp_path, "")
    rule = rule_file(tmp_path, "{id: c, sql: mine > 500}", head="scores: [./mine.py]\n")
    made = []
    for number, engine in enumerate(("serial", "pool")):
        out = tmp_path / f"{number}.npy"
        line = ("filter-pool", pool, "-o", out, "--rule", rule, "--plugin", mine, "--engine", engine)
        done = spawn(*line, "--workers", 2, home=tmp_path, spread=True)
        assert done.code == 0, done.err
        made.append(out.read_bytes())
    assert made[0] == made[1]


def test_a_broken_package_of_someone_else_does_not_end_every_filter(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "broken_scorer_pkg.py").write_text("raise RuntimeError('not today')\n")
    (tmp_path / "site" / "odd_scorer_pkg.py").write_text("OUTPUT = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    points = [
        importlib.metadata.EntryPoint("broken", "broken_scorer_pkg", "headwater.scores"),
        importlib.metadata.EntryPoint("odd", "odd_scorer_pkg", "headwater.scores"),
    ]
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: points if group == "headwater.scores" else []
    )
    plugins._scan.cache_clear()
    try:
        rule = rule_file(tmp_path, "{id: c, sql: n_words >= 0 and original_width > 300}")
        done = run("filter-pool", pool, "-o", tmp_path / "o.npy", "--rule", rule)
        assert done.code == 0, done.err
        assert "scorer broken is left out" in done.err and "scorer odd is left out" in done.err
        refused = run("score", "broken", pool, "--engine", "serial")
        assert refused.code == 1 and "cannot be loaded: RuntimeError: not today" in refused.err
    finally:
        plugins._scan.cache_clear()
        sys.modules.pop("odd_scorer_pkg", None)


def test_ours_are_called_straight(monkeypatch: pytest.MonkeyPatch) -> None:
    from curate.sidecars import ScorerRef

    monkeypatch.setattr(_guard, "_time_limit", lambda *_: pytest.fail("guarded"))
    batch = pa.RecordBatch.from_pydict({"text": ["a b"]})
    made = _guard.score(ScorerRef("caption"), batch, _guard.Place("s", 0, 0))
    assert made.column("n_words").to_pylist() == [2]
    assert os.getpid() > 0
