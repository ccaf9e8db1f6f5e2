"""The command that compares ways to distribute: study. Parse, call, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from headwater.options import Settings, common

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option(
    "-o", "--output", required=True, type=FOLDER, help="Folder for the table, the page and the record."
)
@click.option(
    "--payload",
    "payloads",
    default="few-large,many-small",
    show_default=True,
    metavar="NAMES",
    help="few-large, many-small, one-archive, update, annotation; with commas. With --dataset: that folder alone.",
)
@click.option(
    "--methods",
    default="http,bittorrent,ipfs",
    show_default=True,
    metavar="NAMES",
    help="Also girder, with --girder.",
)
@click.option(
    "--seeders", default="1,2,4", show_default=True, metavar="NUMBERS", help="How many serve at once."
)
@click.option(
    "--rate",
    default="none,100mbit",
    show_default=True,
    metavar="RATES",
    help="Of each seeder's line, each way: 10mbit, 1gbit, none.",
)
@click.option(
    "--rtt", default="0,50", show_default=True, metavar="MS", help="Round trips; each rate with each."
)
@click.option("--pairs", metavar="RATE/MS,…", help="Only these links, instead of --rate and --rtt.")
@click.option("--trials", type=int, default=5, show_default=True, help="Of each combination.")
@click.option("--size", default="64MB", show_default=True, metavar="BYTES", help="Of each payload.")
@click.option(
    "--cap",
    type=float,
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="A trial that takes longer is ended, and counts as not finished.",
)
@click.option(
    "--cache",
    "caches",
    default="warm",
    show_default=True,
    metavar="NAMES",
    help="State of the seeders' files before a trial: warm, cold or both.",
)
@click.option(
    "--girder", metavar="LOCATION", help="girder+http://HOST/api/v1#collection/NAME; key in GIRDER_API_KEY."
)
@click.option("--dataset", type=FOLDER, help="Send this folder instead of generated files.")
@click.option(
    "--link",
    "link_kind",
    type=click.Choice(["proxy", "netem"]),
    default="proxy",
    show_default=True,
    help="What makes rate and delay.",
)
@common
def study(settings: Settings, *, output: Path, **values: Any) -> dict[str, Any]:
    """Compare ways to bring a release: time, bytes, CPU and energy at both ends, failures counted.

    Everything runs on this machine, one trial at a time, in an order drawn from --seed. Interrupted, the same line goes on.

    \b
    headwater study -o study --dry-run
    headwater study -o study --size 16MB --seeders 1,4 --pairs none/0,100mbit/50 --trials 3
    """
    from distribute.study import StudyOptions
    from distribute.study import study as run
    from distribute.study.options import DATASET, parse_links, parse_names, parse_numbers, parse_size

    dataset = values["dataset"]
    given = click.get_current_context().get_parameter_source("payloads")
    named = given not in (None, click.core.ParameterSource.DEFAULT)
    payloads = parse_names(values["payloads"]) if named or dataset is None else ()
    options = StudyOptions(
        payloads=payloads + ((DATASET,) if dataset is not None and DATASET not in payloads else ()),
        methods=parse_names(values["methods"]),
        seeders=parse_numbers(values["seeders"]),
        links=parse_links(values["rate"], values["rtt"], values["pairs"]),
        trials=values["trials"],
        size_bytes=parse_size(values["size"]),
        cap_seconds=values["cap"],
        seed=settings.seed or 0,
        caches=parse_names(values["caches"]),
        girder=values["girder"],
        dataset=dataset,
        link_kind=values["link_kind"],
    )
    return run(output, options, settings.run_options())
