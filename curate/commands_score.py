"""`headwater score SCORER POOL`: one command a scorer, whose options are the settings of its Config.

`train` and `import` are commands of their own under the same word.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import click

from curate.commands import ANY, open_pool, with_pool_options
from headwater.errors import BadInputs, UsageError, nearest
from headwater.options import Settings, common, emit

# name -> (module:attribute, summary); what is not a scorer but belongs under the word
OTHERS: dict[str, tuple[str, str]] = {
    "train": (
        "curate.commands_score_train:train",
        "Fit a scorer of image-text pairs on rows that you trust.",
    ),
    "import": (
        "curate.commands_score_import:import_scores",
        "Keep score tables of others beside a pool, joined by uid.",
    ),
}
_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


class ScoreGroup(click.Group):
    """Its commands are the files of curate/scores, found without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from headwater import plugins

        return sorted([*OTHERS, *(plugin.name for plugin in plugins.family_members("scores"))])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in OTHERS:
            module, _, attribute = OTHERS[cmd_name][0].partition(":")
            command = getattr(importlib.import_module(module), attribute)
            assert isinstance(command, click.Command), cmd_name
            return command
        if cmd_name.endswith(".py"):
            from headwater.plugins import add_file

            return scorer_command(add_file("scores", Path(cmd_name)).name)
        return scorer_command(cmd_name) if cmd_name in self.list_commands(ctx) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        file = bool(args) and args[0].endswith(".py")
        if (
            args
            and not args[0].startswith("-")
            and not file
            and args[0] not in known
            and not ctx.resilient_parsing
        ):
            raise UsageError(
                f"unknown score {args[0]!r}: {nearest(args[0], known)}", hint="headwater plugins scores"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from headwater import plugins

        with formatter.section("Scorers"):
            formatter.write_dl([(p.name, p.summary) for p in plugins.family_members("scores")])
        if OTHERS:
            with formatter.section("Also"):
                formatter.write_dl([(name, summary) for name, (_, summary) in OTHERS.items()])


@click.command(
    "score", cls=ScoreGroup, epilog="headwater score SCORER --help tells the settings of a scorer."
)
def score() -> None:
    """Add the columns of a scorer to every row of a pool; they are kept beside it, for filters and queries."""


def parse_bytes(text: str) -> int:
    """ "512MB", "2GiB" or a plain number as bytes."""
    body = text.strip().lower().removesuffix("b")
    digits = body.rstrip("kmgi")
    try:
        number = float(digits) * _UNITS.get(body[len(digits) :], 0 if body != digits else 1)
    except ValueError:
        number = 0
    if not 1 << 20 <= number < 1 << 62:
        raise UsageError(f"--memory {text}: write it as 512MB or 2GiB, at least 1 MiB")
    return int(number)


def scorer_command(name: str) -> click.Command:
    """The command of one scorer; its module is imported, its model is not loaded."""
    from curate.sidecars import scorer_module
    from headwater import plugins

    plugin = plugins.find("scores", name)
    module = scorer_module(name)
    fields = dataclasses.fields(module.Config)

    @common
    def run(
        settings: Settings,
        *,
        pool: Path,
        cache: Path | None,
        distrust_cache: bool,
        memory: str,
        allow_invalid: bool,
        time_limit: float | None = None,
        **values: Any,
    ) -> dict[str, Any] | None:
        given = {key: value for key, value in values.items() if value is not None}
        if settings.seed is not None and any(field.name == "seed" for field in fields):
            given["seed"] = settings.seed
        memory_bytes = parse_bytes(memory)
        return _run(
            settings, name, pool, given, cache, distrust_cache, memory_bytes, allow_invalid, time_limit
        )

    run = click.option(
        "--memory", default="1GB", show_default=True, help="How much memory a scorer of a whole pool may use."
    )(run)
    run = click.option(
        "--allow-invalid", is_flag=True, help="End with 0 although some rows could not be scored."
    )(run)
    if plugin.foreign:
        run = click.option(
            "--time-limit",
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            help="Stop when the scorer takes longer for one block of rows (default: 600, or what its file says).",
        )(run)
    run = with_pool_options(run)
    for field in reversed(fields):  # what is set last is shown first
        if field.name != "seed":  # a global option
            run = _option(field)(run)
    run = click.argument("pool", type=ANY)(run)
    return click.command(name, help=_prose(module.__doc__ or ""))(run)


def _prose(docstring: str) -> str:
    """A module's docstring as click's help: sentences and list entries are wrapped to the terminal, tables and examples are not."""
    parts: list[str] = []
    for part in docstring.strip().split("\n\n"):
        if part.startswith("* "):
            entries = part.removeprefix("* ").split("\n* ")
            parts += [f"* {' '.join(entry.split())}" for entry in entries]
        elif any(line[:1].isspace() for line in part.split("\n")):
            parts.append(f"\b\n{part}")
        else:
            parts.append(part)
    return "\n\n".join(parts)


def _option(field: Any) -> Any:
    kind = str(field.type)
    help_text = field.metadata.get("help") or None
    default = None if field.default in (dataclasses.MISSING, None, "") else field.default
    shown = f"  [default: {default}]" if default is not None and not isinstance(default, bool) else ""
    option = f"--{field.name.replace('_', '-')}"
    if kind.startswith("bool"):
        return click.option(f"{option}/--no-{option[2:]}", default=None, help=help_text)
    type_: Any = int if kind.startswith("int") else float if kind.startswith("float") else str
    if "Path" in kind:
        type_ = click.Path(path_type=Path)
    elif choices := field.metadata.get("choices"):
        type_ = click.Choice(choices)
    return click.option(option, field.name, type=type_, default=None, help=(help_text or "") + shown)


def _run(
    settings: Settings,
    name: str,
    pool: Path,
    given: dict[str, Any],
    cache: Path | None,
    distrust_cache: bool,
    memory_bytes: int,
    allow_invalid: bool,
    time_limit: float | None,
) -> dict[str, Any] | None:
    from curate.scoring import score_pool, settings_of

    config = settings_of(name, given)
    opened = open_pool(pool, cache, distrust_cache)
    facts = score_pool(
        opened,
        name,
        config,
        executor=settings.executor(),
        force=settings.force,
        dry_run=settings.dry_run,
        memory_bytes=memory_bytes,
        options=settings.run_options(),
        time_limit_seconds=time_limit,
    )
    invalid = facts.get("counts", {}).get("invalid", {})
    lines = [f"{name}: {_said(facts, sum(invalid.values()), settings.dry_run)} {facts['folder']}"]
    lines[0] += f" ({', '.join(facts['columns'])})"
    lines += [f"  no score: {rows:,} × {reason}" for reason, rows in invalid.items()]
    lines += [
        f"  {key}: {_told(value)}"
        for key, value in facts.get("notes", {}).items()
        if not isinstance(value, dict) and value != []
    ]
    emit({**facts, "text": "\n".join(lines)}, as_json=settings.as_json)
    if invalid and not allow_invalid:
        error = BadInputs(
            f"{sum(invalid.values()):,} of {facts['rows']:,} rows have no score",
            hint="they are never kept by a rule; --allow-invalid ends with 0",
        )
        error.told = True
        raise error
    return None


def _said(facts: dict[str, Any], without: int, dry_run: bool) -> str:
    rows, done = facts["rows"], facts["rows_scored"]
    if rows and not done:
        return f"nothing to do, all {rows:,} rows were scored before; they lie in"
    if dry_run:
        return f"would score {done:,} of {rows:,} rows into"
    return f"scored {max(done - without, 0):,} of {rows:,} rows into"


def _told(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(_told(v) for v in value[:8]) + (" …" if len(value) > 8 else "")
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
