"""An evaluation that is killed, stopped, starved or fed hostile sets: the same bytes in the end, or a name for what is wrong."""

from __future__ import annotations

import shutil
import signal
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from headwater.errors import HeadwaterError, IntegrityError, Locked, UsageError
from headwater.files import locked
from headwater.steps import RunOptions, read_record
from tests.conftest import clean_environment
from tests.faults import inject
from tests.train import eval_kit as kit
from train.evaluation import plan_eval, run_eval
from train.suite import load_suite

SCRIPT = Path(__file__).with_name("eval_step.py")
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    kit.colour_set(tmp_path / "suite/colours", n=10)
    kit.caption_set(tmp_path / "suite/captions", n=8)
    tasks = [
        kit.task("colours", size=10),
        kit.task("captions", family="retrieval", main_metric="mean_recall@1"),
        kit.task("again", folder="colours", main_metric="mean_per_class_recall"),
    ]
    return kit.write_suite(tmp_path / "suite", tasks)


def run(root: Path, output: Path, *more: object) -> subprocess.CompletedProcess[str]:
    argv = inject.python(SCRIPT, root, output, "--quiet", *more)
    env = clean_environment(root.parent)
    return subprocess.run(argv, capture_output=True, text=True, env=env, cwd=root.parent, timeout=100)


def whole(root: Path, output: Path) -> Any:
    """The evaluation in this process; also the reference that resumed ones must equal."""
    return run_eval(plan_eval(kit.subject(), load_suite(root), output), RunOptions())


def assert_same(output: Path, other: Path) -> None:
    mine, theirs = read_record(output), read_record(other)
    assert mine is not None and theirs is not None and mine.id == theirs.id
    for entry in theirs.identity.outputs:
        assert (output / entry.path).read_bytes() == (other / entry.path).read_bytes(), entry.path
    assert not (output.parent / f".{output.name}.headwater").exists()


def test_row_07_killed_in_the_second_task_goes_on_with_it(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    killed = run(root, output, "--die-at", "red thing 0")
    assert killed.returncode in KILLED and not output.exists()
    parts = tmp_path / ".out.headwater/parts"
    first = (parts / "colours.json").stat().st_mtime_ns
    # what is finished is not done again: its prompt kills, and only the third task may ask for it
    again = run(root, output, "--die-at", kit.TEMPLATES[0].replace("{c}", "red"))
    assert again.returncode in KILLED and (parts / "captions.json").is_file()
    assert (parts / "colours.json").stat().st_mtime_ns == first
    done = run(root, output)
    assert done.returncode == 0, done.stderr
    whole(root, tmp_path / "clean")
    assert_same(output, tmp_path / "clean")


@pytest.mark.slow
def test_row_07_killed_at_any_rename(root: Path, tmp_path: Path) -> None:
    inject.need_strace()
    whole(root, tmp_path / "clean")
    env = clean_environment(tmp_path)
    argv = inject.python(SCRIPT, root, tmp_path / "count", "--quiet")
    total = sum(inject.count(argv, calls=["rename"], env=env).values())
    assert total >= 8  # examples and note of each task, results, stage, record
    killed = 0
    for nth in range(1, total + 1, 2):
        output = tmp_path / f"out{nth}"
        argv = inject.python(SCRIPT, root, output, "--quiet")
        done = inject.inject(argv, call="rename", nth=nth, signal="KILL", env=env)
        assert done.returncode in (0, *KILLED), (nth, done.stderr)
        killed += done.returncode in KILLED
        # to the end in this process: the same key, whoever works
        whole(root, output)
        assert_same(output, tmp_path / "clean")
        shutil.rmtree(output)
    assert killed >= 3


def test_stopped_by_a_signal_keeps_what_is_finished(root: Path, tmp_path: Path) -> None:
    argv = inject.python(SCRIPT, root, tmp_path / "out", "--die-at", "red thing 0", "--sleep", 1.5)
    env = clean_environment(tmp_path)
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=env, cwd=tmp_path) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if line == "ready\n":
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 130 and "the same command line goes on from there" in said
    assert not (tmp_path / "out").exists()
    whole(root, tmp_path / "out")
    whole(root, tmp_path / "clean")
    assert_same(tmp_path / "out", tmp_path / "clean")


def test_bad_pictures_end_with_3_and_a_name(root: Path, tmp_path: Path) -> None:
    samples = kit.colour_samples(10)
    samples[3][1]["png"] = b"GIF89a rubbish"
    kit.write_set(root / "colours", samples, classnames=tuple(kit.COLOURS), templates=kit.TEMPLATES)
    done = run(root, tmp_path / "out")
    assert done.returncode == 3 and "0-0003" in done.stderr
    assert (tmp_path / "out/results.json").is_file()


def test_missing_shards_end_with_13_and_all_names_before_the_model(root: Path, tmp_path: Path) -> None:
    (root / "colours/test/0.tar").unlink()
    (root / "captions/test/nshards.txt").write_text("5")
    done = run(root, tmp_path / "out", "--die-at", "anything")
    assert done.returncode == 13
    for part in ("colours", "0.tar", "captions", "2.tar, 3.tar, 4.tar", "2 problems"):
        assert part in done.stderr
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.headwater").exists()


def test_two_evaluations_to_one_output_do_not_mix(root: Path, tmp_path: Path) -> None:
    plan = plan_eval(kit.subject(), load_suite(root), tmp_path / "out")
    with locked(tmp_path / ".out.headwater", tmp_path / "out"), pytest.raises(Locked):
        run_eval(plan, RunOptions())


def test_a_changed_set_is_another_evaluation(root: Path, tmp_path: Path) -> None:
    whole(root, tmp_path / "out")
    kit.write_tar(
        root / "captions/test/0.tar", [("x", {"png": kit.picture((1, 2, 3), 9), "txt": b"black thing"})]
    )
    with pytest.raises(UsageError, match="made by another run"):
        whole(root, tmp_path / "out")


def test_parts_of_another_evaluation_are_not_taken(root: Path, tmp_path: Path) -> None:
    assert run(root, tmp_path / "out", "--die-at", "red thing 0").returncode in KILLED
    (root / "colours/classnames.txt").write_text("\n".join(reversed(kit.COLOURS)) + "\n")
    whole(root, tmp_path / "out")
    whole(root, tmp_path / "clean")
    assert_same(tmp_path / "out", tmp_path / "clean")


def tar_header(name: bytes, size: int) -> bytes:
    header = bytearray(512)
    header[: len(name)] = name
    header[124:136] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[156:157] = b"0"
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "empty"),
        (b"\x1f\x8b rubbish" + bytes(512), "0.tar"),
        (tar_header(b"a.png", 1 << 30) + bytes(2048), "a.png"),
        (tar_header(b"a.png", 5) + b"hello" + bytes(507), None),
    ],
)
def test_hostile_tars_are_refused_with_their_name(
    root: Path, tmp_path: Path, raw: bytes, told: str | None
) -> None:
    (root / "colours/test/0.tar").write_bytes(raw)
    with pytest.raises(IntegrityError) as error:
        plan_eval(kit.subject(), load_suite(root), tmp_path / "out")
    assert (told or "declares 10") in str(error.value) + str(error.value.hint)


def test_a_picture_that_unpacks_to_gigabytes_is_left_out(root: Path, tmp_path: Path) -> None:
    """A PNG header may state any size: it is believed only to refuse it."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")
    samples = kit.colour_samples(10)
    samples[7][1]["png"] = bomb
    kit.write_set(root / "colours", samples, classnames=tuple(kit.COLOURS), templates=kit.TEMPLATES)
    outcome = whole(root, tmp_path / "out")
    assert outcome.step.identity.counts.invalid == {"picture too large": 2}  # two tasks on the set


def test_an_output_that_cannot_be_written_is_told_before_the_work(root: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="no record of how it was made"):
        plan_eval(kit.subject(), load_suite(root), tmp_path / "out")


def test_a_full_disk_names_the_file_and_leaves_no_output(root: Path, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes((4 << 20) - 40_000))
    plan = plan_eval(kit.subject(), load_suite(root), small_disk / "out")
    with pytest.raises(HeadwaterError, match="no space left"):
        run_eval(plan, RunOptions())
    assert not (small_disk / "out").exists()
    (small_disk / "ballast").unlink()
    assert run_eval(plan, RunOptions()) is not None
