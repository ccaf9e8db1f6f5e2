"""Reshard that was stopped, starved or misled: the same call finishes with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate import _tarwrite
from headwater.errors import HeadwaterError, IntegrityError, UsageError
from tests.curate.shard_kit import WANTED, Stop, content, make_pool, run, samples, subset, write_tar


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return make_pool(tmp_path / "in")


ROOT = Path(__file__).resolve().parents[2]


def test_stopped_at_every_rename_and_fsync_the_same_call_finishes(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(pool, tmp_path / "whole", shard_size=20)
    whole = content(tmp_path / "whole")
    real = {name: getattr(os, name) for name in ("replace", "fsync")}
    stopped = 0
    for name in real:
        for stop_at in range(1, 200):
            left = [stop_at]

            def counted(*args: Any, _real: Any = real[name], _left: list[int] = left) -> Any:
                _left[0] -= 1
                if _left[0] == 0:
                    raise Stop
                return _real(*args)

            out = tmp_path / f"{name}{stop_at}"
            monkeypatch.setattr(os, name, counted)
            try:
                run(pool, out, shard_size=20)
                break
            except Stop:
                stopped += 1
            finally:
                monkeypatch.setattr(os, name, real[name])
            run(pool, out, shard_size=20)
            assert content(out) == whole
    assert stopped > 20


@pytest.mark.slow
@pytest.mark.parametrize("after", range(1, 40, 4))
def test_killed_and_run_again(pool: Path, tmp_path: Path, after: int) -> None:
    run(pool, tmp_path / "whole", shard_size=20)
    (tmp_path / "out").mkdir()
    code = f"""
import os, signal, sys
from pathlib import Path
import numpy as np
from curate.reshard import reshard
from curate.shards import list_shards
left = [{after}]
real = os.replace
def replace(*a):
    left[0] -= 1
    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)
    return real(*a)
os.replace = replace
reshard(list_shards(Path({str(pool)!r}))[0], np.load({str(tmp_path / "s.npy")!r}), Path({str(tmp_path / "out")!r}), shard_size=20)
"""
    np.save(tmp_path / "s.npy", WANTED)
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert ended.returncode in (0, -signal.SIGKILL)
    if ended.returncode:
        run(pool, tmp_path / "out", shard_size=20)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_second_run_writes_only_what_is_missing(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    real = _tarwrite._copy_segment
    monkeypatch.setattr(_tarwrite, "_copy_segment", lambda s, fd: written.append(s.tar_name) or real(s, fd))
    monkeypatch.setattr("curate.reshard._write_documents", lambda *a: (_ for _ in ()).throw(Stop))
    with pytest.raises(Stop):
        run(pool, tmp_path / "out", shard_size=20)
    first = len(written)
    (tmp_path / "out" / "00000001.tar").unlink()
    with pytest.raises(Stop):
        run(pool, tmp_path / "out", shard_size=20)
    assert 0 < len(written) - first < first
    before = len(written)
    with pytest.raises(Stop):
        run(pool, tmp_path / "out", shard_size=20, resume=False)
    assert len(written) - before == first


def test_a_finished_folder_is_written_again_only_for_its_own_subset(pool: Path, tmp_path: Path) -> None:
    # what is left when a run is killed between its last clean-up and its return
    run(pool, tmp_path / "out")
    before = content(tmp_path / "out")
    run(pool, tmp_path / "out")
    assert content(tmp_path / "out") == before
    with pytest.raises(UsageError, match="not empty"):
        run(pool, tmp_path / "out", subset([3]))
    assert content(tmp_path / "out") == before


def test_other_arguments_leave_nothing_of_the_stopped_run(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("curate.reshard._write_documents", lambda *a: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            run(pool, tmp_path / "out", shard_size=5)
    other = subset(range(2, 160, 5))
    run(pool, tmp_path / "out", other)
    run(pool, tmp_path / "fresh", other)
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_input_that_changes_between_the_phases_is_noticed(pool: Path, tmp_path: Path) -> None:
    def meddling(fn: Any, items: Any) -> Any:
        if fn is _tarwrite.write_shard:
            write_tar(pool / "00000001.tar", samples(range(500, 540)))
        return map(fn, items)

    with pytest.raises(IntegrityError, match=r"00000001\.tar changed"):
        run(pool, tmp_path / "out", map_shards=meddling)
    assert not list((tmp_path / "out").glob(".*.tmp"))


def test_disk_full_names_the_shard_and_leaves_no_half(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def full(fd: int, data: Any) -> int:
        if len(data) > 5000:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(HeadwaterError, match=r"00000000\.tar could not be written .*No space left"):
            run(pool, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tar")) and not list((tmp_path / "out").glob(".*.tmp"))
    run(pool, tmp_path / "out")


def test_a_read_error_names_the_shard_and_the_byte(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv
    for nth in (1, 2, 5, 9):
        left = [nth]

        def failing(fd: int, views: Any, offset: int, _left: list[int] = left) -> int:
            _left[0] -= 1
            if _left[0] == 0:
                raise OSError(5, "Input/output error")
            return real(fd, views, offset)

        out = tmp_path / f"out{nth}"
        with monkeypatch.context() as patch:
            patch.setattr(os, "preadv", failing)
            with pytest.raises(
                IntegrityError, match=r"0000000\d\.tar cannot be read at byte [\d,]+: Input/output error"
            ):
                run(pool, out)
        run(pool, out)


def test_short_reads_are_read_on(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(pool, tmp_path / "whole")
    real = os.preadv
    monkeypatch.setattr(
        os,
        "preadv",
        lambda fd, views, offset: real(
            fd, [views[0][:700]] + ([views[1][:3]] if len(views[0]) <= 700 and len(views) > 1 else []), offset
        ),
    )
    run(pool, tmp_path / "short")
    assert content(tmp_path / "short") == content(tmp_path / "whole")
