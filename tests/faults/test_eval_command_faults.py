"""`headwater eval` and `compare` as a stranger runs them: killed, stopped, run twice at once, and given runs, suites and results
that are not what they claim to be. The same bytes in the end, or an exit code and a name.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.manifest import FileEntry, Step
from headwater.steps import read_record
from tests.conftest import clean_environment
from tests.curate.filter_kit import Told, in_process
from tests.train import eval_kit
from tests.train.command_kit import fake_models, made_run, small_suite
from train.results import examples_path, read_examples, read_results, write_examples

Command = Callable[..., Told]
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
LINE = ("eval", "run", "--suite", "suite", "-o", "out")

# the command in a process of its own with models of colours, which need no torch; in the second task it ends or waits
CHILD = """
import os, signal, sys, time
import pytest
from headwater.cli import cli
from headwater.options import run_command
from tests.train.command_kit import fake_models
from train import evaluation
with pytest.MonkeyPatch.context() as patch:
    fake_models(patch)
    measure, what = evaluation.measure_task, sys.argv[1]
    def measured(model, suite, task, *more, **options):
        if task.key == "captions" and what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if task.key == "captions" and what == "wait":
            print("ready", flush=True)
            time.sleep(60)
        return measure(model, suite, task, *more, **options)
    patch.setattr(evaluation, "measure_task", measured)
    sys.exit(run_command(cli, sys.argv[2:]))
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    small_suite(tmp_path / "suite")
    made_run(tmp_path / "run")
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders whose models were loaded: none, where something is refused before time is spent."""
    return fake_models(monkeypatch)


def child(folder: Path, what: str) -> list[str]:
    return [sys.executable, "-P", "-c", CHILD, what, *LINE]


def bytes_of(folder: Path) -> dict[str, bytes]:
    found = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {
        path.relative_to(folder).as_posix(): data for path, data in found.items() if path.name != "step.json"
    }


def assert_same(first: Path, second: Path) -> None:
    mine, theirs = read_record(first), read_record(second)
    assert mine is not None and theirs is not None and mine.id == theirs.id
    assert bytes_of(first) == bytes_of(second)
    assert not (first.parent / f".{first.name}.headwater").exists()


def refused(done: Told, code: int, *told: str) -> None:
    assert done.returncode == code, done.stderr
    for text in told:
        assert text in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


# killed, stopped, twice


def test_row_07_killed_between_tasks_goes_on_to_the_same_bytes(
    command: Command, loaded: list[Path], tmp_path: Path
) -> None:
    env = clean_environment(tmp_path)
    done = subprocess.run(
        child(tmp_path, "die"), capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60
    )
    assert done.returncode in KILLED and not (tmp_path / "out").exists()
    parts = tmp_path / ".out.headwater/parts"
    assert (parts / "colours.json").is_file() and not (parts / "captions.json").exists()
    # nobody takes half an evaluation for a whole one
    assert command("compare", "out", "run").returncode == 10
    assert "no evaluations" in command("leaderboard", ".").stderr
    again = command(*LINE)
    assert again.returncode == 0 and "1 tasks are measured already, 1 are left" in again.stderr
    clean = command("eval", "run", "--suite", "suite", "-o", "clean")
    assert clean.returncode == 0
    assert_same(tmp_path / "out", tmp_path / "clean")
    assert command("verify", "out").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_stopped_in_the_second_task_and_another_one_meanwhile(
    number: signal.Signals, command: Command, loaded: list[Path], tmp_path: Path
) -> None:
    env = clean_environment(tmp_path)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(child(tmp_path, "wait"), env=env, cwd=tmp_path, **pipes) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        second = command(*LINE)
        assert second.returncode == 11 and "out" in second.stderr and second.stdout == ""
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and out == ""
    assert f"stopped by {number.name}" in err and "the same command line goes on from there" in err
    assert not (tmp_path / "out").exists()
    assert command(*LINE).returncode == 0
    assert command("eval", "run", "--suite", "suite", "-o", "clean").returncode == 0
    assert_same(tmp_path / "out", tmp_path / "clean")


# suites


def test_missing_shards_end_with_13_before_a_model_is_loaded(
    command: Command, loaded: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "suite/colours/test/1.tar").unlink()
    (tmp_path / "suite/captions/test/nshards.txt").write_text("3")
    refused(command(*LINE), 13, "colours/test", "1.tar", "captions/test", "2.tar", "nothing was evaluated")
    refused(command(*LINE, "--dry-run"), 13, "1.tar")
    assert not loaded and not (tmp_path / "out").exists() and not (tmp_path / ".out.headwater").exists()
    only = ("eval", "run", "--suite", "suite", "-o", "other", "--task", "absent")
    assert command(*only).returncode == 10


TASK = "{key: colours, folder: colours, name: A, family: zeroshot, main_metric: acc1}"
HEAD = "format: suite/1\nname: x\ntasks:\n- "
HOSTILE_SUITES: dict[str, tuple[bytes, str]] = {
    "code": (b'!!python/object/apply:os.system ["touch PWNED"]', "not valid YAML"),
    "code in a field": (
        (HEAD + TASK.replace("A", "!!python/name:os.system")).encode(),
        "not valid YAML",
    ),
    "aliases": (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "aliases are not allowed"),
    "deep": (b"[" * 20_000, "not valid YAML"),
    "large": (b"a" * (4 << 20) + b"aa", "larger than"),
    "twice": (b"format: suite/1\nname: x\nname: y\ntasks: []\n", "key 'name' occurs twice"),
    "tabs": (b"format: suite/1\nname: x\ntasks:\n\t- a\n", "not valid YAML"),
    "no tasks": (b"format: suite/1\nname: x\ntasks: []\n", "tasks: "),
    "truth": ((HEAD + TASK.replace("A", "true")).encode(), "name"),
    "version": (f"format: suite/2\nname: x\ntasks:\n- {TASK}\n".encode(), "Input should be 'suite/1'"),
    "up": ((HEAD + TASK.replace("folder: colours", "folder: ../run")).encode(), "does not stay inside"),
    "absolute": ((HEAD + TASK.replace("folder: colours", "folder: /etc")).encode(), "does not stay inside"),
    "key": ((HEAD + TASK.replace("key: colours", "key: ../../out")).encode(), "tasks.0.key"),
    "family": ((HEAD + TASK.replace("zeroshot", "os")).encode(), "unknown eval 'os'"),
    "two": ((HEAD + TASK + "\n- " + TASK).encode(), "two tasks with the key 'colours'"),
    "unknown": ((HEAD + TASK.replace("}", ", weight: 2}")).encode(), "weight"),
    "bytes": (b"\xff\xfe\x00", "suite.yaml"),
}


@pytest.mark.parametrize("kind", HOSTILE_SUITES)
def test_row_66_suites_that_are_more_than_data(
    kind: str, command: Command, loaded: list[Path], tmp_path: Path
) -> None:
    data, told = HOSTILE_SUITES[kind]
    (tmp_path / "suite/suite.yaml").write_bytes(data)
    refused(command(*LINE), 2, told)
    assert not loaded and not (tmp_path / "PWNED").exists() and not (tmp_path / "out").exists()


# runs


class Payload:
    """What a hostile checkpoint would call."""

    def __reduce__(self) -> Any:
        return os.system, ("touch PWNED",)


def test_row_67_weights_that_are_a_pickle_with_code(
    command: Command, loaded: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    evil = pickle.dumps({"state_dict": Payload()})
    (tmp_path / "evil.pt").write_bytes(evil)
    (tmp_path / "suite/colours/test/1.tar").unlink()  # nothing of the suite is looked at before
    told = ("is no plain weights", f"{os.system.__module__}.system", "nothing was run")
    refused(command(*LINE, "--weights", "evil.pt"), 13, "evil.pt", *told)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    shutil.copyfile(tmp_path / "run/open_clip_config.json", foreign / "open_clip_config.json")
    (foreign / "open_clip_pytorch_model.bin").write_bytes(evil)
    refused(command("eval", foreign, *LINE[2:]), 13, "open_clip_pytorch_model.bin", *told)
    assert not loaded and not (tmp_path / "PWNED").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["open_clip_model.safetensors", "open_clip_config.json", "recipe.yaml", "run.json"]
)
def test_a_run_whose_files_are_not_those_of_its_record(
    name: str, command: Command, loaded: list[Path], tmp_path: Path
) -> None:
    """Other weights under a run's name would be measured as that run's."""
    with open(tmp_path / "run" / name, "ab") as handle:
        handle.write(b"\n")
    refused(command(*LINE), 13, name, "is not the file that the run's record names")
    assert not loaded
    if name.endswith(".safetensors"):
        (tmp_path / "run" / name).unlink()
        refused(command(*LINE), 13, name)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("step.json", None),
        ("step.json", b"{}"),
        ("run.json", b"{"),
        ("run.json", b'{"format": "run/2"}'),
        ("recipe.yaml", b"!!python/object/apply:os.system [ls]"),
        ("recipe.yaml", b"format: recipe/1"),
        ("open_clip_config.json", None),
    ],
)
def test_runs_that_cannot_be_read_end_with_a_name(
    name: str, data: bytes | None, command: Command, loaded: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "run" / name
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    done = command(*LINE)
    assert done.returncode in (2, 10, 13) and "run" in done.stderr
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr
    assert not loaded and not (tmp_path / "out").exists()


# results


@pytest.fixture
def evaluated(command: Command, loaded: list[Path], tmp_path: Path) -> Command:
    made_run(tmp_path / "other", data="other", seed=1)
    for name in ("run", "other"):
        assert command("eval", name, "--suite", "suite", "-o", f"res-{name}").returncode == 0
    return command


def forge(folder: Path, columns: dict[str, Any]) -> None:
    """Other rows of examples, with a digest in results.json that fits."""
    path = examples_path(folder, "colours")
    write_examples(path, columns)
    document = json.loads((folder / "results.json").read_bytes())
    document["tasks"][0]["examples_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "results.json").write_text(json.dumps(document))
    record = Step.model_validate_json((folder / "step.json").read_bytes())
    outputs = [describe(folder, entry.path) for entry in record.identity.outputs]
    identity = record.identity.model_copy(update={"outputs": outputs})
    (folder / "step.json").write_text(record.model_copy(update={"identity": identity}).model_dump_json())


def describe(folder: Path, path: str) -> FileEntry:
    data = (folder / path).read_bytes()
    return FileEntry(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("damage", ["other", "cut", "text", "gone", "not json", "nan", "two"])
def test_results_that_were_changed_by_hand(damage: str, evaluated: Command, tmp_path: Path) -> None:
    folder = tmp_path / "res-other"
    path = examples_path(folder, "colours")
    code, told = 13, "changed since it was written"
    if damage == "other":
        shutil.copyfile(examples_path(tmp_path / "res-run", "colours"), path)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "text":
        path.write_text("x")
    elif damage == "gone":
        path.unlink()
        code, told = 10, "no such file"
    else:
        document = (folder / "results.json").read_text()
        value = {"not json": "{", "nan": document.replace('"n": 24', '"n": NaN'), "two": document + document}
        (folder / "results.json").write_text(value[damage])
        told = "not result/1"
    refused(evaluated("compare", "res-run", "res-other"), code, "res-other", told)
    assert evaluated("verify", "res-other").returncode == 13
    board = evaluated("leaderboard", ".", "--json")
    assert board.returncode == 0
    skipped = [entry["path"] for entry in json.loads(board.stdout)["skipped"]]
    assert skipped == ([] if code == 10 or told.startswith("changed") else ["res-other"])


@pytest.mark.parametrize("damage", ["nan", "infinite", "fewer", "no key", "other keys"])
def test_forged_examples_give_an_error_or_no_test_and_never_nan(
    damage: str, evaluated: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "res-other"
    columns = dict(read_examples(folder, "colours"))
    if damage in ("nan", "infinite"):
        bad = np.array(columns["score"], np.float32)
        bad[3] = np.nan if damage == "nan" else np.inf
        columns["score"] = bad
        for name in ("correct", "predicted", "rank"):  # nothing else to judge by
            del columns[name]
    elif damage == "fewer":
        columns = {name: column[:10] for name, column in columns.items()}
    elif damage == "no key":
        del columns["key"]
    else:
        columns["key"] = [f"{i}" for i in range(24)]
    forge(folder, columns)
    done = evaluated("compare", "res-run", "res-other", "--json")
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr
    if damage in ("nan", "infinite"):  # what does not average to the figure is not tested
        assert done.returncode == 0, done.stderr
        [task] = [t for t in json.loads(done.stdout)["pairs"][0]["tasks"] if t["key"] == "colours"]
        assert task["test_se"] is None and task["verdict"] == "not tested" and task["note"]
    else:
        assert done.returncode in (2, 13), done.stderr
    assert "NaN" not in done.stdout and "Infinity" not in done.stdout


def test_a_suite_that_changed_meanwhile_is_another_evaluation(evaluated: Command, tmp_path: Path) -> None:
    before = read_results(tmp_path / "res-run").suite_id
    eval_kit.write_split(tmp_path / "suite/colours/test", eval_kit.colour_samples(24, seed=5))
    again = evaluated("eval", "run", "--suite", "suite", "-o", "res-run")
    assert again.returncode == 2 and "from other inputs or options" in again.stderr
    assert evaluated("eval", "run", "--suite", "suite", "-o", "res-run", "--force").returncode == 0
    assert read_results(tmp_path / "res-run").suite_id != before
    done = evaluated("compare", "res-run", "res-other")
    assert done.returncode == 2 and "task colours has other data, prompts or options" in done.stderr


def test_a_figure_that_was_changed_by_hand(evaluated: Command, tmp_path: Path) -> None:
    path = tmp_path / "res-other/results.json"
    document = json.loads(path.read_bytes())
    document["tasks"][0]["metrics"]["main_metric"] = 0.99
    document["aggregates"][0]["value"] = 0.99
    path.write_text(json.dumps(document))
    refused(
        evaluated("compare", "res-run", "res-other"),
        13,
        "results.json",
        "is not the file that its record names",
    )
    board = evaluated("leaderboard", ".", "--json")
    assert [entry["path"] for entry in json.loads(board.stdout)["skipped"]] == ["res-other"]
