"""`headwater train` killed and started again (row 7 of the catalogue): the same bytes, and nobody left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults import inject
from tests.faults.kit import argv, temporaries
from tests.faults.train_kit import (
    KILLED,
    attempts,
    content,
    environment,
    job,
    left,
    line,
    nobody_left,
    prepare,
    record,
    seen,
    train,
)

pytest.importorskip("torch")
pytest.importorskip("open_clip_train")
BOTH = "parent:KILL self:KILL"  # the power fails
LATEST = "logs/run/checkpoints/epoch_latest.pt"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("killed"), ema={"decay": 0.9, "warmup": True})


@pytest.fixture(scope="module")
def whole(here: Path) -> dict[str, str]:
    """A training that nobody disturbed."""
    done = train(here, "whole")
    assert done.code == 0, done
    assert {"open_clip_model.safetensors", "raw.safetensors", "run.json"} < content(here / "whole").keys()
    return content(here / "whole")


def finish(here: Path, name: str, whole: dict[str, str], *, tries: int) -> str:
    """Run the same line again: the bytes of the whole training, whose account closes."""
    done = train(here, name)
    assert done.code == 0, done
    assert content(here / name) == whole
    assert len(attempts(here / name)) == tries
    run = json.loads((here / name / "run.json").read_text())
    assert sum(row[-1] for row in seen(here / name)) == run["samples_seen"] == 192
    assert record(here / name).identity.counts.extra["samples_seen"] == 192
    assert temporaries(here) == [] and left(here) == []
    return done.err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_row_07_killed_in_the_middle_of_a_part(here: Path, whole: dict[str, str]) -> None:
    # 4 steps a part: two are lost
    done = train(here, "part", fault=f"engine step - 6 {BOTH}")
    assert done.code in KILLED and not (here / "part").exists()
    nobody_left(here)
    assert "going on after part 1" in finish(here, "part", whole, tries=2)
    first = attempts(here / "part")[0]
    assert first["ended"] == "stopped" and "finished_at" not in first


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_row_07_killed_again_and_again(here: Path, whole: dict[str, str]) -> None:
    """Each attempt dies at another point; the last one ends with the bytes of an undisturbed training."""
    points = [
        # before the first state there is nothing to go on from
        (f"engine step - 2 {BOTH}", 0),
        # the account of part 1 is there, its state is written but not in place: the part is done again
        (f"engine os.rename tmp.pt 1 {BOTH}", 0),
        # the average and the weights of part 1 are there, its account is not
        (f"engine os.rename part_001_rank_000 1 {BOTH}", 0),
        # parts 1 and 2 are done, and the account of part 2 is there twice on the way
        (f"engine os.rename tmp.pt 2 {BOTH}", 1),
        # the second name of the state before was just removed
        (f"engine os.link epoch_latest.pt 1 {BOTH}", 1),
        # all parts are done, and the command has not heard of it
        ("command os.rename attempts 2 self:KILL", 3),
        # half of the run is assembled
        ("command open stage/run.json 1 self:KILL", 3),
        # everything but the record is there
        ("command os.rename record.json 1 self:KILL", 3),
    ]
    for fault, parts in points:
        done = train(here, "again", fault=fault)
        assert done.code in KILLED, (fault, done)
        assert not (here / "again").exists()
        nobody_left(here)
        states = (job(here, "again") / LATEST).exists()
        assert states == (parts > 0), fault
    finish(here, "again", whole, tries=len(points) + 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_row_07_killed_while_the_state_is_written(here: Path, whole: dict[str, str]) -> None:
    """Half of tmp.pt is there; open_clip's own name still holds the state before, whole."""
    inject.need_strace()
    temporary = job(here, "save") / LATEST.replace("epoch_latest", "tmp")
    options = ["-f", "-qq", "--signal=none", "-o", os.devnull, "-P", str(temporary)]
    options += ["-e", "trace=writev", "-e", "inject=writev:signal=SIGKILL:when=3"]
    command = ["strace", *options, "--", *argv(*line(here, "save"))]
    done = subprocess.run(
        command, env=environment(here), cwd=here, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 1 and "the training process was ended by SIGKILL" in done.stderr, done.stderr
    assert temporary.stat().st_size > 0 and not (job(here, "save") / LATEST).exists()
    nobody_left(here)
    finish(here, "save", whole, tries=2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_row_07_the_training_process_alone_is_killed(here: Path, whole: dict[str, str]) -> None:
    done = train(here, "child", fault="engine step - 11 self:KILL")
    assert done.code == 1 and not (here / "child").exists()
    assert "the training process was ended by SIGKILL; out of memory?" in done.err
    assert "the same command line goes on after the last checkpoint" in done.err
    nobody_left(here)
    assert "going on after part 2" in finish(here, "child", whole, tries=2)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["INT", "TERM", "HUP"])
def test_row_07_stopped_by_a_signal(name: str, here: Path, whole: dict[str, str]) -> None:
    done = train(here, f"stopped-{name}", fault=f"engine step - 6 parent:{name}")
    assert done.code == 130 and f"stopped by SIG{name}" in done.err
    assert left(here) == [], "processes outlive the command"
    assert "the same command line goes on from there" in done.err
    finish(here, f"stopped-{name}", whole, tries=2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_row_07_an_orphan_ends_by_itself(here: Path) -> None:
    """The command is killed and nobody asks for its exit code: its number stays taken, and the training ends all the same."""
    options = ["--override", "budget.samples_seen=480000", "--override", "budget.checkpoints=1"]
    env = environment(here)
    command = subprocess.Popen(
        argv(*line(here, "orphan", *options)),
        env=env,
        cwd=here,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        events = job(here, "orphan") / "events.jsonl"
        until = time.monotonic() + 100
        while not (events.exists() and "loss" in events.read_text()):
            assert time.monotonic() < until and command.poll() is None
            time.sleep(0.1)
        assert len(left(here)) >= 3  # the command, the training process, its loader
        os.kill(command.pid, signal.SIGKILL)
        # the command itself is a zombie now, without an environment
        nobody_left(here, patience_seconds=10)
    finally:
        command.kill()
        command.wait()


def test_the_hook_reaches_every_process(here: Path) -> None:
    """A fault that never happens would prove nothing."""
    script = "import sitecustomize; print(sitecustomize.role)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env=environment(here),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "other", done
