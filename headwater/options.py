"""The options every command has, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import click

from headwater import console
from headwater.errors import Cancelled, HeadwaterError


@dataclass(frozen=True)
class Settings:
    """Values of the global options."""

    as_json: bool
    quiet: bool
    verbose: bool
    dry_run: bool
    force: bool
    config: str | None
    assignments: tuple[str, ...]
    workers: int | None
    seed: int | None
    engine: str

    def executor(self) -> Any:
        """The executor these options ask for."""
        from headwater.executor import Executor

        return Executor(self.engine, self.workers)

    def run_options(self) -> Any:
        """How steps are run under these options."""
        from headwater.energy import account_for_everything
        from headwater.steps import RunOptions

        account_for_everything()
        observation = {"engine": self.engine, "workers": self.workers}
        return RunOptions(
            dry_run=self.dry_run, force=self.force, command=tuple(sys.argv), observation=observation
        )


_OPTIONS = [
    click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="One JSON document on standard output, JSON lines on standard error.",
    ),
    click.option("--quiet", is_flag=True, help="No progress and no messages."),
    click.option("--verbose", is_flag=True, help="More messages; tracebacks for errors."),
    click.option("--dry-run", is_flag=True, help="Say what would be done, and whether it is done already."),
    click.option("--force", is_flag=True, help="Replace an output that exists."),
    click.option(
        "--config", type=click.Path(dir_okay=False), help="YAML file with values for this command's options."
    ),
    click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        help="One value of the configuration; repeatable.",
    ),
    click.option("--workers", type=int, metavar="N", help="Worker processes (default: one per core)."),
    click.option("--seed", type=int, metavar="N", help="Seed of everything random."),
    click.option(
        "--engine", default="pool", metavar="NAME", help="Where shards are worked on: pool or serial."
    ),
]
_NAMES = (
    "as_json",
    "quiet",
    "verbose",
    "dry_run",
    "force",
    "config",
    "assignments",
    "workers",
    "seed",
    "engine",
)


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the global options; it receives them as its first argument, a Settings.

    What the function returns is printed: a dict as JSON with `--json`, otherwise through its "text" entry.
    """

    @functools.wraps(function)
    def run(**values: Any) -> None:
        settings = Settings(**{name: values.pop(name) for name in _NAMES})
        verbose = settings.verbose
        console.listen(console.choose(as_json=settings.as_json, quiet=settings.quiet, verbose=verbose))
        _handle_signals()
        _fill_from_config(settings, values)
        result = function(settings, **values)
        if result is not None:
            emit(result, as_json=settings.as_json)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run


def with_params(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--param KEY=VALUE`; it receives a dict `params`, to which unknown keys of --set and --config go too."""

    def parse(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
        from headwater.config import apply_settings

        return {key.replace("-", "_"): value for key, value in apply_settings({}, given).items()}

    return click.option(
        "-p",
        "--param",
        "params",
        multiple=True,
        metavar="KEY=VALUE",
        callback=parse,
        help="Value of a parameter of the rule; repeatable.",
    )(function)


def _fill_from_config(settings: Settings, values: dict[str, Any]) -> None:
    """Values of --config and --set go to options of the same name that the command line left at their default."""
    if not settings.config and not settings.assignments:
        return
    from pathlib import Path

    from headwater.config import apply_settings, load_yaml
    from headwater.errors import UsageError, nearest

    document = load_yaml(Path(settings.config)) if settings.config else {}
    document = apply_settings(document, settings.assignments)
    context = click.get_current_context()
    parameters = {p.name: p for p in context.command.params if p.name and p.name not in _NAMES}
    for key, value in document.items():
        name = key.replace("-", "_")
        if name not in parameters and "params" in parameters:
            values["params"] = {name: value, **values["params"]}
            continue
        if name not in parameters:
            raise UsageError(f"unknown option {key!r} in the configuration: {nearest(name, parameters)}")
        if context.get_parameter_source(name) is click.core.ParameterSource.DEFAULT:
            values[name] = parameters[name].type_cast_value(context, value)


def emit(result: dict[str, Any], *, as_json: bool) -> None:
    """Write a result to standard output."""
    text = result.pop("text", None)
    if as_json:
        _write_json(result)
    elif text is not None:
        sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")
    sys.stdout.flush()


def _handle_signals() -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Cancelled(f"stopped by {signal.Signals(number).name}")

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, stop)


def run_command(command: click.Command, arguments: list[str]) -> int:
    """Run `command` and return the exit code; the only place that catches everything."""
    as_json, verbose = "--json" in arguments, "--verbose" in arguments
    try:
        code = command.main(arguments, prog_name="headwater", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0  # click gives back what a command exits with
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        usage = getattr(error, "ctx", None)
        hint = (
            f"headwater {' '.join(usage.command_path.split()[1:])} --help".replace("  ", " ")
            if usage
            else None
        )
        return _report("UsageError", error.format_message(), hint, 2, as_json=as_json)
    except Cancelled as error:
        return _report("Cancelled", error.message, None, error.exit_code, as_json=as_json)
    except (KeyboardInterrupt, click.Abort):
        return _report("Cancelled", "stopped", None, 130, as_json=as_json)
    except BrokenPipeError:
        close_stream(1)
        return 1
    except HeadwaterError as error:
        if verbose:
            _traceback()
        in_document = as_json and not error.told
        return _report(type(error).__name__, error.message, error.hint, error.exit_code, as_json=in_document)
    except OSError as error:
        if verbose:
            _traceback()
        from headwater.files import STANDARD_OUTPUT, explain_os_error

        told = explain_os_error(error, STANDARD_OUTPUT if error.filename is None else error.filename)
        code = _report(type(told).__name__, told.message, told.hint, told.exit_code, as_json=as_json)
        close_stream(1)
        return code
    except MemoryError:
        hint = "run with fewer --workers, or on a machine with more memory"
        return _report("HeadwaterError", "out of memory", hint, 1, as_json=as_json)
    except Exception as error:  # a fault of ours: short by default, whole with --verbose
        if verbose:
            _traceback()
        text = f"internal error: {type(error).__name__}: {error}"
        return _report(
            "InternalError", text, "run again with --verbose and report the traceback", 1, as_json=as_json
        )


def _report(kind: str, message: str, hint: str | None, code: int, *, as_json: bool) -> int:
    """Tell an error: for people on standard error, with --json also as the one document on standard output."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(console.printable(f"headwater: {message}\n" + (f"  {hint}\n" if hint else "")))
        sys.stderr.flush()
    if as_json:
        document = {"error": {"kind": kind, "message": message, "hint": hint, "exit_code": code}}
        try:
            _write_json(document)
        except (OSError, ValueError):
            close_stream(1)
    return code


def _write_json(document: dict[str, Any]) -> None:
    # outside UTF-8, what the encoding lacks is written as a JSON escape
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(document, ensure_ascii=not utf8, default=str, allow_nan=False) + "\n")
    sys.stdout.flush()


def _traceback() -> None:
    import traceback

    traceback.print_exc()


def close_stream(number: int) -> None:
    """Point a standard stream at nothing, so that the interpreter's own last flush cannot complain."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)
    except OSError:
        pass
