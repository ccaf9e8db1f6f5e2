"""Events of the library and who draws them."""

from __future__ import annotations

import contextvars
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headwater import console
from tests.conftest import clean_environment


def alone(function: Callable[[], Any]) -> Any:
    """Run with a sink of its own, which the next test does not see."""
    return contextvars.copy_context().run(function)


def test_library_use_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        console.listen(console.Silent())
        console.say("warning", "something")
        with console.track("work", 3, "rows") as bar:
            bar.add(3)

    alone(work)
    assert capsys.readouterr() == ("", "")


def test_messages_go_to_standard_error_only(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        console.listen(console.Lines())
        console.say("info", "read 3 rows")
        console.say("warning", "one is odd")
        console.say("debug", "not shown")

    alone(work)
    out, err = capsys.readouterr()
    assert out == "" and err == "read 3 rows\nwarning: one is odd\n"


def test_json_lines_are_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "INTERVAL_SECONDS", 0.0)

    def work() -> None:
        console.listen(console.Lines(as_json=True))
        console.say("warning", "naïve \x1b[31m", shard="a", path=Path("p"))
        with console.track("work", None, "rows") as bar:
            bar.add(2)

    alone(work)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == {"event": "warning", "message": "naïve \x1b[31m", "shard": "a", "path": "p"}
    assert lines[1]["event"] == "progress" and lines[1]["done"] == 2 and lines[1]["total"] is None


def test_progress_in_a_pipe_is_throttled(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])

    def work() -> None:
        console.listen(console.Lines())
        with console.track("filter", 1000, "rows") as bar:
            bar.started = now[0]
            for _ in range(100):
                now[0] += 0.2
                bar.add(10)

    alone(work)
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 5
    assert lines[0].startswith("filter: 250 of 1,000 (25%) rows, 50/s, 15 s left")


def test_work_of_no_length_and_no_time_is_drawn() -> None:
    task = console.Track("work", 0, "rows")
    console.Lines().progress(task)
    assert task.rate >= 0


def test_a_closed_standard_error_never_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream)

    def work() -> None:
        console.listen(console.Lines())
        console.say("error", "nobody hears this")

    alone(work)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"as_json": False, "quiet": True, "verbose": False}, console.Silent),
        ({"as_json": True, "quiet": True, "verbose": False}, console.Silent),
        ({"as_json": True, "quiet": False, "verbose": False}, console.Lines),
        ({"as_json": False, "quiet": False, "verbose": True}, console.Lines),
    ],
)
def test_the_options_choose_the_sink(options: dict[str, bool], kind: type) -> None:
    assert isinstance(console.choose(**options), kind)


def test_track_ends_also_when_the_work_fails() -> None:
    seen: list[bool] = []

    class Sink(console.Silent):
        def progress(self, task: console.Track) -> None:
            seen.append(task.finished)

    def work() -> None:
        console.listen(Sink())
        with pytest.raises(ValueError, match="broken"), console.track("work", 3, "rows") as bar:
            bar.add()
            raise ValueError("broken")

    alone(work)
    assert seen == [False, True]


@pytest.mark.parametrize("columns", ["20", "80"])
def test_bars_on_a_terminal_leave_messages_and_results_readable(columns: str, tmp_path: Path) -> None:
    script = (
        "from headwater import console\n"
        "console.listen(console.choose(as_json=False, quiet=False, verbose=False))\n"
        "with console.track('filter', 10, 'rows') as bar:\n"
        "    bar.add(5, note='half')\n"
        "    console.say('warning', 'one [bold]odd[/bold] row')\n"
        "    with console.track('inner', None, 'shards') as inner:\n"
        "        inner.add()\n"
        "print('result')\n"
    )
    master, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env=clean_environment(tmp_path, TERM="xterm", COLUMNS=columns),
        stdout=subprocess.PIPE,
        stderr=slave,
        timeout=60,
    )
    os.close(slave)
    drawn = b""
    while True:
        try:
            block = os.read(master, 65536)
        except OSError:  # the terminal has no writer any more
            break
        if not block:
            break
        drawn += block
    os.close(master)
    assert done.returncode == 0, drawn
    assert done.stdout == b"result\n"
    assert b"one [bold]odd[/bold] row" in drawn


def test_words_of_strangers_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.Lines().message("warning", "a \x1b[31mname\x07\u009b\tand\nlines é", {})
    assert capsys.readouterr().err == "warning: a \\x1b[31mname\\x07\\x9b\tand\nlines é\n"
