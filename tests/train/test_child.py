"""The training process as the command sees it: what it gets, and what is made of its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headwater.errors import HeadwaterError


def test_nothing_of_a_launcher_around_us_reaches_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a SLURM job open_clip would take its rank and world from there, and wait for processes that nobody started."""
    from train._child import _environment
    from train.arguments import Placement

    names = {
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "2",
        "RANK": "1",
        "WORLD_SIZE": "4",
        "MASTER_ADDR": "10.0.0.1",
    }
    more = {
        "OMPI_COMM_WORLD_RANK": "0",
        "PMI_RANK": "1",
        "PMI_SIZE": "2",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
    }
    for name, value in {**names, **more}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", "somewhere::")
    found = _environment(Placement("cpu", 2, 8, 1, 3))
    assert not found.keys() & {*names, *more}
    assert found["OMP_NUM_THREADS"] == "3" and found["CUDA_VISIBLE_DEVICES"] == ""
    assert found["PYTHONPATH"].endswith(":somewhere") and found["HF_HUB_OFFLINE"] == "1"


LOGS: list[tuple[str, str]] = [
    ("", "it said nothing"),
    ("loading\nstep 3\n", "step 3"),
    (
        'Traceback (most recent call last):\n  File "x.py"\nRuntimeError: CUDA error\nbye\n',
        "RuntimeError: CUDA error",
    ),
    (
        "[rank1]: ValueError: bad things\ntorch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n",
        "ValueError: bad things",
    ),
    ("[rank1]: KeyError: 'x'\n[rank0]: RuntimeError: Connection closed by peer\n", "KeyError: 'x'"),
    ("ValueError: a\nRuntimeError: Connection closed\n  Signal 9 (SIGKILL)\n", "Signal 9 (SIGKILL)"),
    (
        "  traceback : Signal 9 (SIGKILL) received by PID 7\n=====\n",
        "traceback : Signal 9 (SIGKILL) received by PID 7",
    ),
]


@pytest.mark.parametrize(("log", "words"), LOGS)
def test_last_words_are_those_of_the_error(log: str, words: str, tmp_path: Path) -> None:
    from train._child import _last_words

    path = tmp_path / "log"
    path.write_text("OSError: of an earlier attempt\n" + log)
    assert _last_words(path, len("OSError: of an earlier attempt\n")) == words


@pytest.mark.parametrize(
    "told",
    [b"", b"{", b"[]", b'{"kind": "HeadwaterError"}', b'{"kind": "json", "message": "x", "hint": null}'],
)
def test_a_failure_that_cannot_be_read_is_still_a_failure(told: bytes, tmp_path: Path) -> None:
    from train._child import _failure

    (tmp_path / "failure.json").write_bytes(told)
    error: Callable[..., Any] = _failure
    found = error(tmp_path, 3, 0)
    assert isinstance(found, HeadwaterError) and found.exit_code == 1
