"""Disks that are full, failing or read-only, and a standard output nobody reads (rows 8 to 12 and 20 of the catalogue)."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import clean_environment
from tests.faults import inject, kit

NOT_ROOT = ("--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")
EVERYTHING = "{id: all, sql: original_width >= 0}"


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return kit.three_shards(tmp_path / "pool")


@pytest.fixture
def rule(tmp_path: Path) -> Path:
    return kit.rule_file(tmp_path)


@pytest.fixture
def wide_pool(tmp_path: Path) -> Path:
    """20,000 rows: a subset of 320 kB."""
    return kit.write_pool(tmp_path / "wide", [kit.rows(range(20_000))])


def fill(folder: Path, *, free_bytes: int) -> None:
    """Leave about so many bytes free on the disk of `folder`."""
    size = shutil.disk_usage(folder).free - free_bytes
    (folder / "ballast").write_bytes(bytes(max(size, 0)))


def test_row_08_disk_full_while_the_subset_is_written(
    wide_pool: Path, small_disk: Path, tmp_path: Path
) -> None:
    rule = kit.rule_file(tmp_path, EVERYTHING)
    earlier = small_disk / "earlier.npy"
    assert kit.run("filter-pool", wide_pool, "-o", earlier, "--rule", rule).code == 0
    before = earlier.read_bytes()
    fill(small_disk, free_bytes=200_000)
    output = small_disk / "out.npy"
    done = kit.run("filter-pool", wide_pool, "-o", output, "--rule", rule)
    assert done.code == 1
    assert str(small_disk) in done.err and "no space left on the device" in done.err
    assert "320,128 bytes are needed" in done.err and "free some space" in done.err
    kit.nothing_at(output)
    assert earlier.read_bytes() == before and kit.closes(earlier)
    (small_disk / "ballast").unlink()
    assert kit.run("filter-pool", wide_pool, "-o", output, "--rule", rule).code == 0
    assert output.read_bytes() == before


def test_row_08_disk_full_while_an_old_subset_is_replaced(
    wide_pool: Path, small_disk: Path, tmp_path: Path
) -> None:
    output = small_disk / "out.npy"
    first = kit.rule_file(tmp_path, "{id: half, sql: original_width >= 700}", name="first.yaml")
    assert kit.run("filter-pool", wide_pool, "-o", output, "--rule", first).code == 0
    before, step = output.read_bytes(), kit.record(output)
    fill(small_disk, free_bytes=100_000)
    rule = kit.rule_file(tmp_path, EVERYTHING)
    assert kit.run("filter-pool", wide_pool, "-o", output, "--rule", rule, "--force").code == 1
    assert output.read_bytes() == before and kit.record(output) == step
    assert kit.temporaries(small_disk) == []


def test_row_08_not_one_byte_left(wide_pool: Path, small_disk: Path, tmp_path: Path) -> None:
    fill(small_disk, free_bytes=0)
    output = small_disk / "out.npy"
    done = kit.run("filter-pool", wide_pool, "-o", output, "--rule", kit.rule_file(tmp_path, EVERYTHING))
    assert done.code == 1 and str(output) in done.err and "no space left" in done.err
    kit.nothing_at(output)


def test_row_08_a_cache_on_a_full_disk_costs_time_only(
    wide_pool: Path, small_disk: Path, tmp_path: Path
) -> None:
    fill(small_disk, free_bytes=0)
    output = tmp_path / "out.npy"
    rule = kit.rule_file(tmp_path, EVERYTHING)
    done = kit.run("filter-pool", wide_pool, "-o", output, "--rule", rule, "--cache", small_disk / "cache")
    assert done.code == 0 and "cannot be written" in done.err
    assert kit.closes(output).identity.counts.kept == 20_000
    (small_disk / "ballast").unlink()
    assert kit.temporaries(small_disk) == []


def test_row_08_disk_full_while_an_index_is_built(wide_pool: Path, small_disk: Path) -> None:
    cache = small_disk / "cache"
    fill(small_disk, free_bytes=150_000)
    done = kit.run("pool", "index", wide_pool, "--cache", cache)
    assert done.code == 1 and "no space left on the device" in done.err and str(cache) in done.err
    assert kit.names(cache / "index") == set()
    (small_disk / "ballast").unlink()
    assert kit.run("pool", "index", wide_pool, "--cache", cache).code == 0
    assert kit.names(cache / "index") == {"00000000.parquet"}


def limited(size_bytes: int) -> None:
    """What a child does before it starts: no file above `size_bytes`, and the signal about it ignored."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))


def test_row_09_the_file_size_limit_is_an_error_that_names_the_output(
    wide_pool: Path, tmp_path: Path
) -> None:
    rule = kit.rule_file(tmp_path, EVERYTHING)
    output = tmp_path / "out.npy"
    line = ("filter-pool", wide_pool, "-o", output, "--rule", rule)
    done = kit.spawn(*line, home=tmp_path, preexec_fn=lambda: limited(100_000))
    assert done.code == 1
    assert str(output) in done.err and "file-size limit" in done.err and "ulimit -f" in done.err
    kit.nothing_at(output)
    assert kit.run(*line).code == 0
    assert kit.closes(output).identity.counts.kept == 20_000


# the calls of the commit, on the subset (`stage`) and on its record
@pytest.mark.parametrize("call", ["write", "fsync", "close", "rename", "chmod"])
def test_row_10_a_failing_disk_is_1_and_leaves_nothing(
    call: str, pool: Path, rule: Path, tmp_path: Path
) -> None:
    inject.need_strace()
    folder = tmp_path / "here"
    folder.mkdir()
    output = folder / "out.npy"
    line = ("filter-pool", pool, "-o", output, "--rule", rule)
    argv = kit.argv(*line, "--quiet")
    stage = folder / ".out.npy.headwater" / "stage"
    done = inject.inject(argv, call=call, nth=1, error="EIO", path=stage, env=clean_environment(tmp_path))
    assert done.returncode == 1, done.stderr
    assert str(folder) in done.stderr and "Input/output error" in done.stderr
    assert "Traceback" not in done.stderr
    assert kit.run(*line).code == 0
    assert kit.names(folder) == {"out.npy", "out.npy.step.json"}
    kit.closes(output)


def test_row_10_a_failed_fsync_is_not_tried_again(pool: Path, rule: Path, tmp_path: Path) -> None:
    inject.need_strace()
    folder = tmp_path / "here"
    folder.mkdir()
    log = tmp_path / "log"
    argv = kit.argv("filter-pool", pool, "-o", folder / "out.npy", "--rule", rule, "--quiet")
    stage = folder / ".out.npy.headwater" / "stage"
    fault = [
        "-e",
        "trace=fsync,rename",
        "-e",
        "inject=fsync:error=EIO:when=1",
        "-P",
        str(stage),
        "-o",
        str(log),
    ]
    env = {**clean_environment(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["strace", "-f", "-qq", *fault, *argv], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    calls = [line for line in log.read_text().splitlines() if "fsync(" in line or "rename(" in line]
    assert len(calls) == 1 and "EIO" in calls[0]
    kit.nothing_at(folder / "out.npy")


@pytest.mark.parametrize("call", ["write", "fsync", "close"])
def test_row_10_a_failing_disk_under_the_index(call: str, pool: Path, tmp_path: Path) -> None:
    inject.need_strace()
    index = pool / ".headwater" / "index"
    argv = kit.argv("pool", "index", pool, "--engine", "serial")
    assert (
        kit.run("pool", "index", pool).code == 0
    )  # digests are known from here on: the next runs make the same calls
    shutil.rmtree(index)
    nth = inject.nth_on(
        argv, call, ".00000001.parquet.tmp-", tmp_path / "log", env=clean_environment(tmp_path)
    )
    shutil.rmtree(index)
    done = inject.inject(argv, call=call, nth=nth, error="EIO", env=clean_environment(tmp_path))
    assert done.returncode == 1, done.stderr
    assert "00000001.parquet" in done.stderr and "Input/output error" in done.stderr
    assert kit.names(index) == {"00000000.parquet"}
    assert kit.run("pool", "index", pool).code == 0
    assert kit.names(index) == {f"{n:08d}.parquet" for n in range(3)}


# read: digests, and the pages that we read ourselves; pread64: what Arrow reads
@pytest.mark.parametrize("call", ["read", "pread64"])
def test_row_11_every_read_of_a_shard(call: str, pool: Path, tmp_path: Path) -> None:
    inject.need_strace()
    shard = pool / "00000001.parquet"
    (tmp_path / "here").mkdir()
    line = (
        "filter-pool",
        pool,
        "-o",
        tmp_path / "here" / "out.npy",
        "--rule",
        kit.rule_file(tmp_path),
        "--quiet",
    )
    codes = []
    for nth in range(1, 40):
        done = inject.inject(
            kit.argv(*line), call=call, nth=nth, error="EIO", path=shard, env=clean_environment(tmp_path)
        )
        codes.append(done.returncode)
        if done.returncode == 0:
            break
        assert "00000001" in done.stderr and "Input/output error" in done.stderr
        assert "Traceback" not in done.stderr
        kit.nothing_at(tmp_path / "here" / "out.npy")
    assert len(codes) >= 2 and set(codes[:-1]) == {13} and codes[-1] == 0, codes


def test_row_11_a_shard_cut_short_after_it_was_opened(pool: Path, tmp_path: Path) -> None:
    """The digest cache still fits (same size and time), and pages lie beyond what can be read: never zeros for data."""
    inject.need_strace()
    shard = pool / "00000001.parquet"
    line = ("filter-pool", pool, "-o", tmp_path / "out.npy", "--rule", kit.rule_file(tmp_path), "--quiet")
    assert kit.run(*line).code == 0
    (tmp_path / "out.npy").unlink()
    (tmp_path / "out.npy.step.json").unlink()
    # every read from the third on says "end of file"
    options = ["-e", "trace=read,pread64", "-e", "inject=read,pread64:retval=0:when=3+", "-P", str(shard)]
    env = {**clean_environment(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["strace", "-f", "-qq", *options, "-o", os.devnull, *kit.argv(*line)],
        env=env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 13, done.stderr
    assert "00000001" in done.stderr and "Traceback" not in done.stderr
    kit.nothing_at(tmp_path / "out.npy")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


def without_roots_rights(*arguments: object) -> list[str]:
    """The command line, for a root that permission bits bind like anyone."""
    if os.geteuid() != 0:
        return kit.argv(*arguments)
    if shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and setpriv, which takes that right away, is not installed")
    return ["setpriv", *NOT_ROOT, *kit.argv(*arguments)]


def bound(*arguments: object, home: Path) -> kit.Done:
    done = subprocess.run(
        without_roots_rights(*arguments),
        env=clean_environment(home),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    return kit.Done(done.returncode, done.stdout, done.stderr)


def test_row_12_a_read_only_folder_is_1_before_any_work(
    wide_pool: Path, rule: Path, read_only: Path, tmp_path: Path
) -> None:
    line = ("filter-pool", wide_pool, "-o", read_only / "out.npy", "--rule", rule)
    done = bound(*line, home=tmp_path)
    assert done.code == 1
    assert str(read_only) in done.err and "Permission denied" in done.err and "can be written" in done.err
    assert kit.names(read_only) == set()
    assert ".headwater" not in kit.names(wide_pool), "the pool was read first"


def test_row_12_a_read_only_pool_is_filtered_without_its_cache(
    pool: Path, rule: Path, tmp_path: Path
) -> None:
    pool.chmod(0o555)
    try:
        output = tmp_path / "out.npy"
        done = bound("filter-pool", pool, "-o", output, "--rule", rule, home=tmp_path)
        assert done.code == 0, done.err
        assert "cannot be written" in done.err and "--cache" in done.err
        kit.closes(output)
        index = bound("pool", "index", pool, home=tmp_path)
        assert index.code == 1 and str(pool) in index.err and "--cache DIR" in index.err
        elsewhere = bound("pool", "index", pool, "--cache", tmp_path / "cache", home=tmp_path)
        assert elsewhere.code == 0
        assert ".headwater" not in kit.names(pool)
    finally:
        pool.chmod(0o755)


def test_row_12_a_read_only_file_system_is_1(pool: Path, rule: Path, small_disk: Path) -> None:
    done = subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no read-only file system: {done.stderr.strip()}")
    for line in (
        ("filter-pool", pool, "-o", small_disk / "out.npy", "--rule", rule),
        ("pool", "index", pool, "--cache", small_disk / "cache"),
    ):
        told = kit.run(*line)
        assert told.code == 1 and str(small_disk) in told.err and "Read-only file system" in told.err
    assert kit.names(small_disk) == set()


@pytest.mark.parametrize("json", [[], ["--json"]], ids=["text", "json"])
def test_row_20_a_full_standard_output_is_1_and_the_subset_is_whole(
    json: list[str], pool: Path, rule: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.npy"
    with open("/dev/full", "w") as full:
        done = kit.spawn("filter-pool", pool, "-o", output, "--rule", rule, *json, home=tmp_path, stdout=full)
    assert done.code == 1 and "no space left on the device" in done.err
    kit.closes(output)
    assert kit.temporaries(tmp_path) == []
    assert kit.run("filter-pool", pool, "-o", output, "--rule", rule).code == 0


def test_row_20_a_closed_standard_output_is_1_and_the_subset_is_whole(
    pool: Path, rule: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.npy"
    done = kit.spawn(
        "filter-pool", pool, "-o", output, "--rule", rule, home=tmp_path, preexec_fn=lambda: os.close(1)
    )
    assert done.code == 1 and done.err.count("\n") <= 4
    kit.closes(output)
    assert kit.temporaries(tmp_path) == []


def test_row_20_a_reader_that_leaves_is_no_noise(pool: Path, rule: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.npy"
    argv = kit.argv("filter-pool", pool, "-o", output, "--rule", rule, "--json")
    child = subprocess.Popen(
        argv, env=clean_environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()  # like `| head -0`
    errors = child.stderr.read().decode()
    child.stderr.close()
    assert child.wait(60) in (1, -signal.SIGPIPE)
    assert "Traceback" not in errors and "Broken pipe" not in errors
    assert len(np.load(output)) == kit.closes(output).identity.counts.kept
