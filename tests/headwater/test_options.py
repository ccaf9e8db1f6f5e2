"""The options every command has, and how every error becomes a message and an exit code."""

from __future__ import annotations

import contextvars
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from headwater import errors
from headwater.options import Settings, common, run_command


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """The command takes the signals of its process; tests give them back."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def command(body: Callable[[Settings, dict[str, Any]], Any]) -> click.Command:
    @click.command()
    @click.option("--threshold", type=float, default=0.5)
    @click.option("--dir-name", default="d")
    @common
    def it(settings: Settings, **values: Any) -> Any:
        return body(settings, values)

    return it


def run(body: Callable[[Settings, dict[str, Any]], Any], *arguments: str) -> int:
    return contextvars.copy_context().run(run_command, command(body), list(arguments))


def fail(error: BaseException) -> Callable[[Settings, dict[str, Any]], Any]:
    def body(settings: Settings, values: dict[str, Any]) -> Any:
        raise error

    return body


ERRORS = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)
]
ENDINGS = [*ERRORS, errors.Cancelled]


def test_every_exit_code_is_the_one_in_the_drawn_tree() -> None:
    tree = errors.__doc__ or ""
    for kind in ENDINGS:
        line = next(line for line in tree.splitlines() if kind.__name__ in line)
        assert f" {kind.exit_code} " in line  # type: ignore[attr-defined]
    assert len({kind.exit_code for kind in ENDINGS}) == len(ENDINGS)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_is_two_lines_and_its_code(kind: type[errors.HeadwaterError], capsys: Any) -> None:
    assert run(fail(kind("shard 3: broken", hint="mend it"))) == kind.exit_code
    assert capsys.readouterr() == ("", "headwater: shard 3: broken\n  mend it\n")


@pytest.mark.parametrize("kind", ERRORS)
def test_with_json_an_error_is_also_the_one_document(kind: type[errors.HeadwaterError], capsys: Any) -> None:
    assert run(fail(kind("broken", hint=None)), "--json") == kind.exit_code
    document = json.loads(capsys.readouterr().out)
    assert document == {
        "error": {"kind": kind.__name__, "message": "broken", "hint": None, "exit_code": kind.exit_code}
    }


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (errors.Cancelled("stopped by SIGTERM"), 130, "headwater: stopped by SIGTERM\n"),
        (MemoryError(), 1, "out of memory"),
        (ZeroDivisionError("by 0"), 1, "internal error: ZeroDivisionError: by 0"),
        (PermissionError(13, "Permission denied", "/x/y"), 1, "/x/y: Permission denied"),
        (FileNotFoundError(2, "No such file", "/x/y"), 10, "/x/y: no such file or folder"),
        (OSError(24, "Too many open files", "/x/y"), 1, "ulimit -n"),
    ],
)
def test_errors_of_others_get_a_code_and_a_short_message(
    error: BaseException, code: int, text: str, capsys: Any
) -> None:
    assert run(fail(error)) == code
    err = capsys.readouterr().err
    assert text in err and "Traceback" not in err


def test_a_signal_is_not_taken_for_a_fault_that_is_passed_over(capsys: Any) -> None:
    def body(settings: Settings, values: dict[str, Any]) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:  # as where pictures are read, or energy
            raise AssertionError("the signal was passed over") from None

    assert run(body) == 130
    assert capsys.readouterr().err == "headwater: stopped by SIGTERM\n"


def test_verbose_adds_the_traceback(capsys: Any) -> None:
    assert run(fail(ZeroDivisionError()), "--verbose") == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--threshold", "high"], ["--nonsense"], ["extra"], ["--workers", "x"], ["--config"]]
)
def test_a_wrong_command_line_is_2(arguments: list[str], capsys: Any) -> None:
    assert run(lambda settings, values: None, *arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_result_is_its_text_or_one_json_document(capsys: Any) -> None:
    def body(settings: Settings, values: dict[str, Any]) -> dict[str, Any]:
        return {"rows": 3, "path": Path("x"), "name": "é", "text": "3 rows"}

    assert run(body) == 0
    assert capsys.readouterr() == ("3 rows\n", "")
    assert run(body, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"rows": 3, "path": "x", "name": "é"}


def test_settings_carry_every_global_option() -> None:
    seen: list[Settings] = []
    arguments = ["--quiet", "--dry-run", "--force", "--workers", "3", "--seed", "7", "--engine", "serial"]
    assert run(lambda settings, values: seen.append(settings), *arguments) == 0
    options = seen[0].run_options()
    assert options.dry_run and options.force and options.observation == {"engine": "serial", "workers": 3}
    executor = seen[0].executor()
    assert (executor.engine, executor.workers, seen[0].seed) == ("serial", 3, 7)


def test_order_of_precedence(tmp_path: Path, capsys: Any) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("threshold: 0.7\ndir-name: from-file\n")
    seen: list[dict[str, Any]] = []

    def body(settings: Settings, values: dict[str, Any]) -> None:
        seen.append(values)

    assert run(body) == 0
    assert run(body, "--config", str(config)) == 0
    assert run(body, "--config", str(config), "--set", "threshold=0.8") == 0
    assert run(body, "--config", str(config), "--set", "threshold=0.8", "--threshold", "0.9") == 0
    assert [values["threshold"] for values in seen] == [0.5, 0.7, 0.8, 0.9]
    assert [values["dir_name"] for values in seen] == ["d", "from-file", "from-file", "from-file"]


def test_an_unknown_configuration_key_offers_the_nearest(tmp_path: Path, capsys: Any) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("treshold: 0.7\n")
    assert run(lambda settings, values: None, "--config", str(config)) == 2
    assert "did you mean 'threshold'" in capsys.readouterr().err
    assert run(lambda settings, values: None, "--config", str(tmp_path / "none.yaml")) == 10


def test_a_configuration_value_is_checked_like_an_option(tmp_path: Path, capsys: Any) -> None:
    assert run(lambda settings, values: None, "--set", "threshold=high") == 2
    assert "high" in capsys.readouterr().err
