"""Commands of the spine: verify, schema, plugins, doctor, completion. Parse, call, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from headwater.options import Settings, common


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--sample", type=float, metavar="SHARE", help="Read only this share of the files, chosen by --seed."
)
@click.option("--resume", is_flag=True, help="Go on where a verification of PATH was stopped.")
@click.option(
    "--rerun",
    metavar="STEP|all",
    help="Also make the output of this step again, and compare (with --sample: that share of it).",
)
@common
def verify(
    settings: Settings, *, path: Path, sample: float | None, resume: bool, rerun: str | None
) -> dict[str, Any]:
    """Recompute digests, counts and ids of PATH and compare them with its record or manifest.

    PATH is an output with a step record, a release, a fetched folder, a folder with step.json or manifest.json, or a folder that
    holds such outputs. Exit code 13 names every file that differs. --rerun draws generated pictures again from their recipe.
    """
    from headwater.verify import verify_path

    if settings.dry_run:
        from headwater.verify import describe

        return describe(path)
    if rerun is None:
        report = verify_path(path, sample=sample, seed=settings.seed, resume=resume, workers=settings.workers)
        return report.as_result()
    from headwater.rerun import check_name, rerun_records
    from headwater.verify import step_records

    check_name(rerun)
    report = verify_path(path, sample=sample, seed=settings.seed, resume=resume, workers=settings.workers)
    result = report.as_result()
    again = rerun_records(
        path, step_records(path), rerun, sample=sample, seed=settings.seed or 0, workers=settings.workers
    )
    lines = [
        f"{one['path']}: {one['checked']:,} of {one['of']:,} {one['unit']} made again, all equal"
        for one in again
    ]
    return {**result, "reruns": again, "text": "\n".join([result["text"], *lines])}


@click.command()
@click.argument("name", required=False)
@common
def schema(settings: Settings, *, name: str | None) -> dict[str, Any]:
    """Print the JSON Schema of the file format NAME; without NAME, list the formats."""
    import json

    from headwater.schema import names, schema_text

    if name is None:
        return {"schemas": names(), "text": "\n".join(names())}
    text = schema_text(name)
    return {**json.loads(text), "text": text}


@click.command()
@click.argument("family", required=False)
@common
def plugins(settings: Settings, *, family: str | None) -> dict[str, Any]:
    """List the members of FAMILY, or of every family. Nothing is imported to do so."""
    from headwater.plugins import FAMILIES, family_members

    members = [plugin for name in ([family] if family else FAMILIES) for plugin in family_members(name)]
    width = max((len(plugin.name) for plugin in members), default=0)
    lines, current = [], ""
    for plugin in members:
        if plugin.family != current and not family:
            lines.append(plugin.family)
        current = plugin.family
        lines.append(f"{'' if family else '  '}{plugin.name:<{width}}  {plugin.summary}")
    found = [{"family": p.family, "name": p.name, "summary": p.summary, "path": str(p.path)} for p in members]
    return {"plugins": found, "text": "\n".join(lines)}


@click.command()
@click.option("--fetch", metavar="NAME", help="Bring one asset to the cache folder, and stop.")
@common
def doctor(settings: Settings, *, fetch: str | None) -> dict[str, Any]:
    """Tell what this machine and installation can do: versions, extras, meters, assets, speed, shadowed names."""
    from headwater import doctor as checks

    if fetch:
        return checks.fetch_asset(fetch, dry_run=settings.dry_run)
    facts = checks.examine(Path.cwd(), measure_speed=not settings.dry_run)
    return {**facts, "text": checks.as_text(facts)}


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common
def completion(settings: Settings, *, shell: str) -> dict[str, Any]:
    """Print the completion script of SHELL, to be read by it at start.

    \b
    bash:  headwater completion bash > ~/.local/share/bash-completion/completions/headwater
    zsh:   headwater completion zsh  > a file in $fpath called _headwater
    fish:  headwater completion fish > ~/.config/fish/completions/headwater.fish
    """
    from click.shell_completion import get_completion_class

    from headwater.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None  # the three shells above are click's own
    source = kind.source_template % kind(cli, {}, "headwater", "_HEADWATER_COMPLETE").source_vars()
    return {"shell": shell, "script": source, "text": source}
