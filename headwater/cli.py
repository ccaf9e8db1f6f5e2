"""The command `headwater`: one table of sub-commands, each imported only when it is used.

A row of the table is name -> (module:attribute, one-line help, section). Help is drawn from the table alone, so that
`headwater --help` loads neither numpy nor DuckDB nor the models. Sections are the folders of this project.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from typing import NamedTuple

import click

from headwater import __version__
from headwater.errors import UsageError, nearest
from headwater.options import close_stream, run_command

SECTIONS = {
    "curate": "curate (pools, scores, subsets, shards)",
    "train": "train (models and results)",
    "distribute": "distribute (releases and networks)",
    "all": "all (records, and this installation)",
}
WIDTH_LIMIT = 110  # columns of help text on a wide terminal


class Entry(NamedTuple):
    """Where a sub-command lives, and what help says about it."""

    target: str
    summary: str
    section: str


COMMANDS: dict[str, Entry] = {
    "pool": Entry(
        "curate.commands_pool:pool_group", "Import, describe, validate, query or index a pool.", "curate"
    ),
    "score": Entry(
        "curate.commands_score:score", "Add the columns of a scorer to every row of a pool.", "curate"
    ),
    "filter-pool": Entry(
        "curate.commands:filter_pool", "Select rows of a pool by a named filter or a rule.", "curate"
    ),
    "explain": Entry(
        "curate.commands:explain", "Tell why uids are in a subset, or which clause dropped them.", "curate"
    ),
    "subset": Entry("curate.commands_subset:subset_group", "Combine, sample and compare subsets.", "curate"),
    "reshard": Entry(
        "curate.commands_shards:reshard", "Write the shards that hold exactly a subset.", "curate"
    ),
    "make": Entry(
        "curate.commands_make:make", "Draw pictures from a formula, or make a recipe of them again.", "curate"
    ),
    "polygons": Entry(
        "curate.commands_polygons:polygons",
        "Polygon datasets: import, validate, split, stats, export.",
        "curate",
    ),
    "report": Entry(
        "curate.commands_report:report", "One HTML page about an output and the steps behind it.", "curate"
    ),
    "demo": Entry("curate.commands_demo:demo", "The whole path on a small pool, without a network.", "all"),
    "train": Entry("train.commands:train", "Train the model of a recipe on shards.", "train"),
    "eval": Entry("train.commands_eval:evaluate", "Measure a run on every task of a suite.", "train"),
    "compare": Entry(
        "train.commands_eval:compare", "Compare trainings that differ only in their data.", "train"
    ),
    "leaderboard": Entry("train.commands_eval:leaderboard", "Rank datasets by their evaluations.", "train"),
    "soup": Entry("train.commands_eval:soup", "Average the weights of runs of one recipe.", "train"),
    "publish": Entry(
        "distribute.commands:publish", "Make a release: one manifest, torrents, CIDs, mirrors.", "distribute"
    ),
    "seed": Entry(
        "distribute.commands:seed", "Give a release over HTTP, IPFS and BitTorrent at once.", "distribute"
    ),
    "fetch": Entry(
        "distribute.commands_fetch:fetch", "Bring a release from several places, checked.", "distribute"
    ),
    "mirror": Entry(
        "distribute.commands_fetch:mirror",
        "Ask each location of a release whether it is alive and right.",
        "distribute",
    ),
    "study": Entry(
        "distribute.commands_study:study",
        "Measure the transports against each other, over links.",
        "distribute",
    ),
    "sign": Entry("distribute.commands:sign", "Sign which release is the latest one.", "distribute"),
    "key": Entry("distribute.commands:key", "Make a key for signing.", "distribute"),
    "verify": Entry("headwater.commands:verify", "Recompute digests, counts and ids of an output.", "all"),
    "schema": Entry("headwater.commands:schema", "Print the JSON Schema of a file format.", "all"),
    "plugins": Entry(
        "headwater.commands:plugins", "List scorers, filters and other one-file extensions.", "all"
    ),
    "doctor": Entry("headwater.commands:doctor", "What this machine and installation can do.", "all"),
    "completion": Entry("headwater.commands:completion", "Print the completion script of a shell.", "all"),
}


class LazyGroup(click.Group):
    """A group whose members are the rows of COMMANDS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), entry.target
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS and not ctx.resilient_parsing:
            raise UsageError(
                f"there is no command {args[0]!r}: {nearest(args[0], COMMANDS)}", hint="headwater --help"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, title in SECTIONS.items():
            rows = [(name, entry.summary) for name, entry in COMMANDS.items() if entry.section == section]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


@click.command(
    "headwater",
    cls=LazyGroup,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": WIDTH_LIMIT},
    epilog="headwater COMMAND --help tells the options of a command.",
)
@click.version_option(__version__, prog_name="headwater")
def cli() -> None:
    """Filter a pool, reshard it, and prove every step: what went in, what came out, what it cost."""


def main() -> None:
    """Entry point of the console script."""
    _open_standard_streams()
    columns = shutil.get_terminal_size().columns
    if columns < 52:  # click never formats narrower than 50 by itself
        cli.context_settings["terminal_width"] = max(columns - 1, 16)
    code = run_command(cli, sys.argv[1:])
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        close_stream(2)  # what could not be said must not change the exit code
    sys.exit(code)


def _open_standard_streams() -> None:
    """Descriptors 0 to 2 exist, and text that the terminal cannot show is escaped instead of ending the work.

    With one of the three closed, the next file opened would take its number, and a stray message would land in it.
    A closed output becomes one that refuses to be written, so the command ends with 1 when it has something to say.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as above
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
