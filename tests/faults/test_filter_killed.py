"""A filter or an index build that is killed, interrupted, or started twice (rows 1, 2, 6 and 15 of the catalogue)."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from curate import filtering, shardpass
from headwater.verify import verify_path
from tests.conftest import clean_environment
from tests.faults import inject, kit

KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
# what a run does to the disk, and how many of each call the default run tries
CALLS = {"rename": 6, "fsync": 4, "write": 4, "unlinkat": 2, "unlink": 1, "mkdir": 2, "openat": 3}
EVERY = (*inject.BOUNDARIES, "pwrite64", "renameat")


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return kit.three_shards(tmp_path / "pool")


@pytest.fixture
def reference(pool: Path, tmp_path: Path) -> Path:
    """The same filter, undisturbed, over a copy of the pool."""
    (tmp_path / "reference").mkdir()
    output = tmp_path / "reference" / "out.npy"
    copied = shutil.copytree(pool, tmp_path / "reference" / "pool")
    done = kit.run("filter-pool", copied, "-o", output, "--rule", kit.rule_file(tmp_path))
    assert done.code == 0, done.err
    assert len(kit.words(output)) > 5
    return output


def points(folder: Path, pool: Path, per_call: dict[str, int] | None) -> list[tuple[str, int]]:
    """Where to kill: up to so many of each call, evenly spread and with the last; every one without a limit."""
    folder.mkdir()
    argv = command(shutil.copytree(pool, folder / "pool"), folder, "serial")
    counts = inject.count(argv, calls=per_call or EVERY, env=clean_environment(folder))
    found = []
    for call, total in sorted(counts.items()):
        wanted = total if per_call is None else min(per_call[call], total)
        # files are opened by the hundred before the work begins: the last tenth of them is what matters
        first = total * 9 // 10 if call == "openat" else 0
        found += [(call, first + (n + 1) * (total - first) // wanted) for n in range(wanted)]
    return found


def command(pool: Path, folder: Path, *engine: object) -> list[str]:
    rule = kit.rule_file(folder)
    where = ("--engine", *engine, "--quiet")
    return kit.argv("filter-pool", pool, "-o", folder / "out.npy", "--rule", rule, *where, spread=True)


def killed_then_run_again(
    folder: Path, pool: Path, reference: Path, call: str, nth: int, *engine: object
) -> bool:
    """Whether it was killed; the run after it must give the same bytes and identity, and leave nothing else."""
    folder.mkdir()
    mine = shutil.copytree(pool, folder / "pool")
    output = folder / "out.npy"
    argv = command(mine, folder, *engine)
    done = inject.inject(argv, call=call, nth=nth, signal="KILL", env=clean_environment(folder))
    where = (call, nth, done.returncode, done.stderr)
    # a worker that is killed ends the command with 1 and a word; the command itself just ends
    assert done.returncode in (0, 1, *KILLED), where
    assert done.returncode != 1 or "worker process died" in done.stderr, where
    if output.exists():
        assert output.read_bytes() == reference.read_bytes(), where
    again = kit.run("filter-pool", mine, "-o", output, "--rule", folder / "rule.yaml", "--engine", "serial")
    assert again.code == 0, (where, again.err)
    assert output.read_bytes() == reference.read_bytes(), where
    assert kit.closes(output).id == kit.record(reference).id, where
    assert not verify_path(output).problems, where
    assert kit.temporaries(folder) == [], where
    assert kit.names(folder) == {"out.npy", "out.npy.step.json", "pool", "rule.yaml"}, where
    return done.returncode != 0


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run after the kill also keeps run files, so that finished shards of the killed one are used."""
    monkeypatch.setattr(filtering, "IN_MEMORY_ROWS", 0)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("large")
def test_row_01_killed_then_run_again(pool: Path, reference: Path, tmp_path: Path) -> None:
    inject.need_strace()
    killed = 0
    for call, nth in points(tmp_path / "count", pool, CALLS):
        killed += killed_then_run_again(tmp_path / f"{call}-{nth}", pool, reference, call, nth, "serial")
    assert killed >= 18


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(("call", "nth"), [("rename", 1), ("rename", 3), ("fsync", 2)])
def test_row_01_killed_with_two_workers_then_run_again(
    call: str, nth: int, pool: Path, reference: Path, tmp_path: Path
) -> None:
    inject.need_strace()
    assert killed_then_run_again(tmp_path / "killed", pool, reference, call, nth, "pool", "--workers", 2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("engine", [("serial",), ("pool", "--workers", 2)], ids=["serial", "pool"])
def test_row_01_killed_at_every_call(
    engine: Sequence[object], pool: Path, reference: Path, tmp_path: Path
) -> None:
    inject.need_strace()
    killed = 0
    for call, nth in points(tmp_path / "count", pool, None):
        folder = tmp_path / f"{call}-{nth}"
        killed += killed_then_run_again(folder, pool, reference, call, nth, *engine)
        shutil.rmtree(folder)
    assert killed >= (100 if engine[0] == "serial" else 30)


def test_row_01_finished_shards_of_a_killed_run_are_not_read_again(
    pool: Path, reference: Path, tmp_path: Path, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject.need_strace()
    folder = tmp_path / "killed"
    folder.mkdir()
    rule = kit.rule_file(folder, "{id: size, sql: original_width >= 300}")
    line = ("filter-pool", pool, "-o", folder / "out.npy", "--rule", rule, "--engine", "serial")
    argv = kit.argv(*line, spread=True)
    counts = inject.count(argv, calls=["rename"], env=clean_environment(tmp_path))
    (folder / "out.npy").unlink()
    (folder / "out.npy.step.json").unlink()
    # the last renames are the stage, the record, and the record's own temporary
    done = inject.inject(
        argv, call="rename", nth=counts["rename"] - 3, signal="KILL", env=clean_environment(tmp_path)
    )
    assert done.returncode in KILLED
    parts = folder / ".out.npy.headwater" / "parts"
    finished = sorted(path.name for path in parts.glob("*.done.json"))
    assert len(finished) >= 2, sorted(kit.names(parts))
    read: list[str] = []
    real = shardpass._Run.go

    def go(self: shardpass._Run) -> shardpass.Result:
        read.append(self.task.shard.name)
        return real(self)

    monkeypatch.setattr(shardpass._Run, "go", go)
    assert kit.run(*line).code == 0
    assert len(read) == 3 - len(finished)


@pytest.mark.parametrize(
    ("engine", "number"),
    [
        (("serial",), signal.SIGTERM),
        (("serial",), signal.SIGINT),
        (("serial",), signal.SIGHUP),
        (("pool", "--workers", 2), signal.SIGTERM),
        (("pool", "--workers", 2), signal.SIGINT),
        pytest.param(("pool", "--workers", 2), signal.SIGHUP, marks=pytest.mark.slow),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else value[0],
)
def test_row_02_a_signal_ends_it_with_130_and_leaves_nothing(
    engine: Sequence[object], number: signal.Signals, pool: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    env = {**clean_environment(tmp_path), "HEADWATER_TEST_SLOW": "1.5"}
    child = subprocess.Popen(
        command(pool, folder, *engine)[:-1],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    private = folder / ".out.npy.headwater"
    until(lambda: private.is_dir() and bool(list((private / "parts").glob("*.npy"))))
    workers = {pid for pid in children(child.pid) if engine[0] == "pool"}
    assert workers or engine[0] == "serial"
    started = time.monotonic()
    child.send_signal(number)
    _, errors = child.communicate(timeout=20)
    assert child.returncode == 130
    assert time.monotonic() - started < 2
    assert signal.Signals(number).name in errors and "Traceback" not in errors
    assert kit.names(folder) == {"rule.yaml"}
    assert kit.temporaries(tmp_path) == []
    until(lambda: not [pid for pid in workers if alive(pid)], seconds=3)


def until(condition: object, *, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def children(pid: int) -> set[int]:
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found |= {int(path.parent.name)} | children(int(path.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("call", ["rename", "fsync", "write"])
def test_row_06_an_index_killed_while_built_is_whole_or_absent(call: str, pool: Path, tmp_path: Path) -> None:
    inject.need_strace()
    line = ("pool", "index", pool, "--engine", "serial")
    assert (
        kit.run("filter-pool", pool, "-o", tmp_path / "raw.npy", "--rule", kit.rule_file(tmp_path)).code == 0
    )
    index = pool / ".headwater" / "index"
    files = {f"{n:08d}.parquet" for n in range(3)}
    # the file's second shard: one index is there, the other half made
    env = clean_environment(tmp_path)
    nth = inject.nth_on(kit.argv(*line), call, ".00000001.parquet.tmp-", tmp_path / "log", env=env)
    shutil.rmtree(index)
    done = inject.inject(kit.argv(*line), call=call, nth=nth, signal="KILL", env=env)
    assert done.returncode in KILLED, done.stderr
    whole = {name for name in kit.names(index) if not name.startswith(".")}
    assert whole == {"00000000.parquet"}
    output = tmp_path / "half.npy"
    assert kit.run("filter-pool", pool, "-o", output, "--rule", kit.rule_file(tmp_path)).code == 0
    assert output.read_bytes() == (tmp_path / "raw.npy").read_bytes()
    assert kit.run(*line).code == 0
    assert kit.names(index) == files
    assert kit.run("filter-pool", pool, "-o", output, "--rule", kit.rule_file(tmp_path), "--force").code == 0
    assert output.read_bytes() == (tmp_path / "raw.npy").read_bytes()
    assert kit.temporaries(tmp_path) == []


def test_row_06_a_stale_index_is_told_and_not_used(pool: Path, tmp_path: Path) -> None:
    rule = kit.rule_file(tmp_path, "{id: size, sql: original_width >= 300}")
    assert kit.run("pool", "index", pool).code == 0
    first = kit.run("filter-pool", pool, "-o", tmp_path / "a.npy", "--rule", rule)
    assert kit.record(tmp_path / "a.npy").details["shards_from_index"] == 3 and "stale" not in first.err
    kit.write_pool(pool, {"00000001": kit.rows(range(500, 520))})
    kit.age(pool / "00000001.parquet", 1800)
    second = kit.run("filter-pool", pool, "-o", tmp_path / "b.npy", "--rule", rule)
    assert second.code == 0
    assert "index of shard 00000001 is stale" in second.err and "pool index" in second.err
    assert kit.record(tmp_path / "b.npy").details["shards_from_index"] == 2
    assert kit.run("filter-pool", pool, "-o", tmp_path / "c.npy", "--rule", rule, "--no-index").code == 0
    assert (tmp_path / "b.npy").read_bytes() == (tmp_path / "c.npy").read_bytes()
    assert (tmp_path / "b.npy").read_bytes() != (tmp_path / "a.npy").read_bytes()


def test_row_15_the_second_process_is_told_at_once_and_the_first_is_unharmed(
    pool: Path, reference: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    env = {**clean_environment(tmp_path), "HEADWATER_TEST_SLOW": "0.4"}
    first = subprocess.Popen(
        command(pool, folder, "serial"), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until(lambda: (folder / ".out.npy.headwater" / "lock").exists())
    started = time.monotonic()
    second = kit.run("filter-pool", pool, "-o", folder / "out.npy", "--rule", folder / "rule.yaml")
    assert second.code == 11 and "another process is writing it" in second.err
    assert str(folder / "out.npy") in second.err
    assert time.monotonic() - started < 1
    assert first.poll() is None, "the first had ended already"
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert (folder / "out.npy").read_bytes() == reference.read_bytes()
    assert kit.names(folder) == {"out.npy", "out.npy.step.json", "rule.yaml"}


def test_row_15_two_at_the_same_moment(pool: Path, reference: Path, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    argv = command(pool, folder, "serial")
    both = [
        subprocess.Popen(argv, env=clean_environment(tmp_path), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [child.communicate(timeout=60)[1] for child in both]
    # the later one finds the lock held, or the output made
    assert sorted(child.returncode for child in both) in ([0, 0], [0, 11]), errors
    assert (folder / "out.npy").read_bytes() == reference.read_bytes()
    assert kit.names(folder) == {"out.npy", "out.npy.step.json", "rule.yaml"}
