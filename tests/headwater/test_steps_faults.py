"""A step that is killed, interrupted, starved of space or refused by the disk (faults 1, 2, 8, 9, 10, 12, 15, 16)."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headwater.verify import verify_path
from tests.conftest import INHERITED, ROOT, clean_environment, inheritable
from tests.faults import inject
from tests.faults.tiny_step import content

SCRIPT = ROOT / "tests" / "faults" / "tiny_step.py"
QUICK_CALLS = ("rename", "fsync", "rmdir")  # the commit itself; the slow test sweeps every call


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    # no bytecode is written, so that calls have the same numbers in every run
    return clean_environment(tmp_path, PYTHONDONTWRITEBYTECODE="1")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def run(env: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    argv = inject.python(SCRIPT, *arguments)
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


@contextmanager
def started(env: dict[str, str], *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The tiny step, past its first part; it does not outlive the test."""
    argv = inject.python(SCRIPT, *arguments)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(argv, env=env, text=True, stdin=subprocess.DEVNULL, **pipes) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "part 0\n"
            yield child
        finally:
            child.kill()


def whole(output: Path, *, texts: tuple[str, ...]) -> None:
    """`output` is absent, or one of the whole results; a record beside it fits."""
    allowed = {content(text, 0) for text in texts}
    if output.is_dir():
        assert {p.relative_to(output).as_posix() for p in output.rglob("*")} - {"step.json"} == {
            "a",
            "sub",
            "sub/b",
        }
        found = [(output / "a").read_bytes(), (output / "sub" / "b").read_bytes()]
    elif output.exists():
        found = [output.read_bytes()]
    else:
        return
    assert found[0] in allowed
    assert all(data == found[0] for data in found)
    record = output / "step.json" if output.is_dir() else output.with_name("out.step.json")
    if record.exists():
        assert not verify_path(output).problems


def points(kind: str, calls: tuple[str, ...], env: dict[str, str], folder: Path) -> Iterator[tuple[str, int]]:
    folder.mkdir()
    yield from inject.sweep(
        inject.python(SCRIPT, folder / "out", "--kind", kind, "--quiet"), calls=calls, env=env
    )


def kill_everywhere(
    kind: str, calls: tuple[str, ...], env: dict[str, str], tmp_path: Path, *, replace: bool
) -> int:
    """Kill at every point; the same command line must then finish with the same bytes and leave nothing else."""
    killed = 0
    for call, nth in points(kind, calls, env, tmp_path / "count"):
        folder = tmp_path / f"{call}-{nth}"
        folder.mkdir()
        output = folder / "out"
        arguments: list[object] = [output, "--kind", kind, "--quiet", "--resumable"]
        if replace:
            assert run(env, *arguments, "--text", "old").returncode == 0
            arguments.append("--force")
        done = inject.inject(inject.python(SCRIPT, *arguments), call=call, nth=nth, signal="KILL", env=env)
        if done.returncode == 0:
            continue  # fewer calls this time than when they were counted
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), (call, nth, done.stderr)
        killed += 1
        whole(output, texts=("a", "old") if replace else ("a",))
        again = run(env, *arguments)
        assert again.returncode == 0, (call, nth, again.stderr)
        whole(output, texts=("a",))
        assert not verify_path(output).problems
        left = {path.name for path in folder.iterdir()}
        assert left == ({"out"} if kind == "folder" else {"out", "out.step.json"}), (call, nth)
    return killed


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_killed_in_the_commit_then_run_again(kind: str, env: dict[str, str], tmp_path: Path) -> None:
    inject.need_strace()
    assert kill_everywhere(kind, QUICK_CALLS, env, tmp_path, replace=False) >= 5


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("replace", [False, True], ids=["new", "forced"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_killed_at_every_call_then_run_again(
    kind: str, replace: bool, env: dict[str, str], tmp_path: Path
) -> None:
    inject.need_strace()
    assert kill_everywhere(kind, inject.BOUNDARIES, env, tmp_path, replace=replace) >= 25


@pytest.mark.parametrize("file", ["parts/.0.tmp-*", "stage", ".record.json.tmp-*"])
@pytest.mark.parametrize("call", ["write", "fsync", "close", "rename"])
def test_a_disk_error_is_a_failure_that_names_the_output(
    call: str, file: str, env: dict[str, str], place: Path
) -> None:
    inject.need_strace()
    argv = inject.python(SCRIPT, place / "out", "--quiet")
    if file == "stage":
        done = inject.inject(
            argv, call=call, nth=1, error="EIO", path=place / ".out.headwater" / file, env=env
        )
    else:  # a temporary name holds the process id: find which of the calls it is
        log = place / "log"
        options = ["-f", "-y", "-e", f"trace={call}", "-o", str(log)]
        subprocess.run(["strace", *options, *argv], env=env, check=True, capture_output=True, timeout=60)
        name = file.removesuffix("*")
        lines = log.read_text().splitlines()
        pid = next(line for line in lines if name in line).split()[0]
        own = [line for line in lines if line.split()[0] == pid and f" {call}(" in line]
        nth = 1 + next(n for n, line in enumerate(own) if name in line)
        for path in place.iterdir():
            path.unlink()
        done = inject.inject(argv, call=call, nth=nth, error="EIO", env=env)
    assert done.returncode == 1, done.stderr
    assert str(place) in done.stderr and "Input/output error" in done.stderr
    assert "Traceback" not in done.stderr
    again = run(env, place / "out", "--quiet")
    assert again.returncode == 0, again.stderr
    assert (place / "out").read_bytes() == content("a", 0)
    assert {p.name for p in place.iterdir()} == {"out", "out.step.json"}


def test_a_failed_fsync_is_not_tried_again(env: dict[str, str], place: Path, tmp_path: Path) -> None:
    inject.need_strace()
    argv = inject.python(SCRIPT, place / "out", "--quiet")
    log = tmp_path / "log"
    fault = ["-e", "trace=fsync,rename", "-e", "inject=fsync:error=EIO:when=1", "-o", str(log)]
    done = subprocess.run(
        ["strace", "-f", "-qq", *fault, *argv], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    calls = [line for line in log.read_text().splitlines() if "fsync(" in line or "rename(" in line]
    assert len(calls) == 1 and "EIO" in calls[0]
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("resumable", [False, True])
def test_a_signal_ends_it_with_130_and_nothing_half_done(
    number: signal.Signals, resumable: bool, env: dict[str, str], place: Path
) -> None:
    with started(env, place / "out", "--sleep", "30", *(["--resumable"] if resumable else [])) as child:
        before = time.monotonic()
        child.send_signal(number)
        _, errors = child.communicate(timeout=20)
        seconds = time.monotonic() - before
    assert child.returncode == 130
    assert seconds < 2
    assert signal.Signals(number).name in errors and "Traceback" not in errors
    left = sorted(
        p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file() and p.name != "lock"
    )
    assert left == ([".out.headwater/key", ".out.headwater/parts/0"] if resumable else [])


def test_the_second_process_is_told_at_once(env: dict[str, str], place: Path) -> None:
    with started(env, place / "out", "--sleep", "1.5") as first:
        before = time.monotonic()
        second = run(env, place / "out")
        assert second.returncode == 11 and "another process" in second.stderr
        assert time.monotonic() - before < 4
        first.communicate(timeout=30)
        assert first.returncode == 0
    assert (place / "out").read_bytes() == content("a", 0)
    assert {p.name for p in place.iterdir()} == {"out", "out.step.json"}


def test_a_lock_whose_owner_died_is_taken_over(env: dict[str, str], place: Path) -> None:
    (place / ".out.headwater").mkdir()
    (place / ".out.headwater" / "lock").write_text("1")
    assert run(env, place / "out").returncode == 0
    assert {p.name for p in place.iterdir()} == {"out", "out.step.json"}


def test_a_full_disk_is_told_and_leaves_the_old_output(env: dict[str, str], small_disk: Path) -> None:
    output = small_disk / "out"
    assert run(env, output, "--size", 1000).returncode == 0
    before = output.read_bytes()
    done = run(env, output, "--size", 8 << 20, "--force")
    assert done.returncode == 1
    assert (
        "no space left" in done.stderr and str(small_disk) in done.stderr and "Traceback" not in done.stderr
    )
    assert output.read_bytes() == before
    assert {p.name for p in small_disk.iterdir()} == {"out", "out.step.json"}


def test_a_file_size_limit_is_told(env: dict[str, str], place: Path) -> None:
    argv = inject.python(SCRIPT, place / "out", "--size", 1 << 20)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))

    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, preexec_fn=limit)
    assert done.returncode == 1
    assert "ulimit -f" in done.stderr and "Traceback" not in done.stderr
    assert list(place.iterdir()) == []


def test_a_read_only_folder_is_told_before_any_work(env: dict[str, str], small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, timeout=20)
    done = run(env, small_disk / "out", "--sleep", "1")
    assert done.returncode == 1
    assert "Read-only" in done.stderr and "part 0" not in done.stdout


def test_bytes_and_modes_do_not_depend_on_locale_umask_or_hash_seed(env: dict[str, str], place: Path) -> None:
    ids = set()
    variants = [
        {},
        {"LC_ALL": "C", "LANG": "C", "PYTHONHASHSEED": "1", "TZ": "Pacific/Chatham"},
        {"LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "77", "TZ": "UTC+14"},
    ]
    for number, more in enumerate(variants):
        folder = place / str(number)
        folder.mkdir()
        argv = inject.python(SCRIPT, folder / "out", "--kind", "folder")
        old = os.umask(0o077 if number else 0o000)
        try:
            done = subprocess.run(argv, env={**env, **more}, capture_output=True, text=True, timeout=60)
        finally:
            os.umask(old)
        assert done.returncode == 0, done.stderr
        ids.add(json.loads((folder / "out" / "step.json").read_text())["id"])
        assert (folder / "out" / "a").stat().st_mode & 0o777 == 0o644
        assert (folder / "out" / "step.json").stat().st_mode & 0o777 == 0o644
        assert (folder / "out" / "sub").stat().st_mode & 0o777 == 0o755
        assert (folder / "out").stat().st_mode & 0o777 == 0o755
    assert len(ids) == 1


def test_no_descriptor_is_left_open_for_children() -> None:
    assert inheritable() <= INHERITED, "a test or a module left a descriptor that child processes get"
