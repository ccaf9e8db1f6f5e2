"""`headwater subset …`: parse, call, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from curate.commands import ANY, FILE, open_pool, step_result, with_pool_options
from headwater.options import Settings, common, emit


@click.group("subset")
def subset_group() -> None:
    """Combine, sample and compare subset files."""


def _load(paths: tuple[Path, ...], *, unsorted: bool = False) -> list[Any]:
    from curate._order import sort_words
    from curate.subset import load_words

    words = [load_words(path, check_sorted=not unsorted) for path in paths]
    return [sort_words(w) for w in words] if unsorted else words


def _subset_step(
    settings: Settings, what: str, output: Path, inputs: tuple[Path, ...], config: dict[str, Any], make: Any
) -> dict[str, Any]:
    """Run one operation of the algebra as a Step."""
    from curate.algebra import subset_plan, subset_step

    plan = subset_plan(what, output, inputs, config, settings.seed)
    outcome = subset_step(plan, make, settings.run_options())
    result = step_result(outcome, plan)
    if outcome is not None:
        counts = outcome.step.identity.counts
        result["text"] = f"{output}: {counts.extra['entries_written']:,} entries"
    return result


_OUT = click.option("-o", "--output", type=ANY, required=True, help="The subset file to write.")
_UNSORTED = click.option("--unsorted", is_flag=True, help="Accept inputs that are not sorted, and sort them.")


@subset_group.command("union")
@click.argument("files", nargs=-1, required=True, type=FILE)
@_OUT
@_UNSORTED
@common
def union(settings: Settings, *, files: tuple[Path, ...], output: Path, unsorted: bool) -> dict[str, Any]:
    """Every uid of any FILE, as often as in the one that has it most."""
    from curate import subset

    return _subset_step(
        settings, "union", output, files, {}, lambda: subset.union(_load(files, unsorted=unsorted))
    )


@subset_group.command("intersect")
@click.argument("files", nargs=-1, required=True, type=FILE)
@_OUT
@_UNSORTED
@common
def intersect(settings: Settings, *, files: tuple[Path, ...], output: Path, unsorted: bool) -> dict[str, Any]:
    """Every uid that all FILES have, as often as in the one that has it least."""
    from curate import subset

    return _subset_step(
        settings, "intersect", output, files, {}, lambda: subset.intersect(_load(files, unsorted=unsorted))
    )


@subset_group.command("subtract")
@click.argument("first", type=FILE)
@click.argument("others", nargs=-1, required=True, type=FILE)
@_OUT
@_UNSORTED
@common
def subtract(
    settings: Settings, *, first: Path, others: tuple[Path, ...], output: Path, unsorted: bool
) -> dict[str, Any]:
    """Entries of FIRST whose uid is in none of the OTHERS."""
    from curate import subset

    def make() -> Any:
        words = _load((first, *others), unsorted=unsorted)
        return subset.subtract(words[0], words[1:])

    return _subset_step(settings, "subtract", output, (first, *others), {}, make)


@subset_group.command("sample")
@click.argument("file", type=FILE)
@click.option("--count", type=int, help="How many entries.")
@click.option("--fraction", type=float, help="Share of the entries.")
@_OUT
@common
def sample(
    settings: Settings, *, file: Path, count: int | None, fraction: float | None, output: Path
) -> dict[str, Any]:
    """A uniform choice of entries, without replacement (--seed)."""
    from curate import subset

    config = {"count": count, "fraction": fraction}

    def make() -> Any:
        return subset.sample(_load((file,))[0], count=count, fraction=fraction, seed=settings.seed or 0)

    return _subset_step(settings, "sample", output, (file,), config, make)


@subset_group.command("repeat")
@click.argument("file", type=FILE)
@click.option("--times", type=int, required=True, help="How often every entry occurs in the result.")
@_OUT
@common
def repeat(settings: Settings, *, file: Path, times: int, output: Path) -> dict[str, Any]:
    """Every entry several times."""
    from curate import subset

    return _subset_step(
        settings, "repeat", output, (file,), {"times": times}, lambda: subset.repeat(_load((file,))[0], times)
    )


@subset_group.command("soft-cap")
@click.argument("file", type=FILE)
@click.argument("pool", type=ANY)
@click.option("--column", required=True, help="Column of the pool, or of scores beside it.")
@click.option("--count", type=int, required=True, help="How many samples to draw.")
@click.option(
    "--penalty",
    type=float,
    default=0.15,
    show_default=True,
    help="Taken from a row's score each time it is drawn.",
)
@click.option(
    "--batch", type=int, default=100_000, show_default=True, help="Rows drawn without replacement at a time."
)
@click.option(
    "--scale",
    type=float,
    default=1.0,
    show_default=True,
    help="The score is multiplied by this to become a logit.",
)
@_OUT
@with_pool_options
@common
def soft_cap(
    settings: Settings,
    *,
    file: Path,
    pool: Path,
    column: str,
    count: int,
    penalty: float,
    batch: int,
    scale: float,
    output: Path,
    cache: Path | None,
    distrust_cache: bool,
) -> dict[str, Any]:
    """Draw COUNT samples from FILE by a score of POOL, with repeats: soft-cap sampling (FLYT, arXiv 2503.08805)."""
    from curate import subset
    from curate.algebra import scores_of
    from curate.binding import stored_column
    from headwater.manifest import identity_id

    opened = open_pool(pool, cache, distrust_cache)
    stored = stored_column(opened, column)
    config = {
        "column": column,
        "count": count,
        "penalty": penalty,
        "batch": batch,
        "scale": scale,
        "pool": opened.id,
        "scores": identity_id(stored.identity) if stored else None,
    }

    def make() -> Any:
        words = subset.unique(_load((file,))[0])
        scores = scores_of(opened, words, column, stored) * scale
        return subset.soft_cap(
            words, scores, count=count, penalty=penalty, batch=batch, seed=settings.seed or 0
        )

    return _subset_step(settings, "soft-cap", output, (file,), config, make)


@subset_group.command("diff")
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@common
def diff(settings: Settings, *, a: Path, b: Path) -> None:
    """How two subset files differ. Ends with 1 when they do."""
    from curate import subset

    words = _load((a, b))
    facts = subset.difference(words[0], words[1])
    equal = words[0].shape == words[1].shape and bool((words[0] == words[1]).all())
    lines = [
        f"{'equal' if equal else 'different'}: {a} {facts['entries_a']:,} entries, {b} {facts['entries_b']:,} entries"
    ]
    lines.append(
        f"  uids only in {a.name}: {facts['only_in_a']:,}; only in {b.name}: {facts['only_in_b']:,}; in both: {facts['in_both']:,}"
    )
    emit({"equal": equal, **facts, "text": "\n".join(lines)}, as_json=settings.as_json)
    click.get_current_context().exit(0 if equal else 1)


@subset_group.command("import")
@click.argument("file", type=FILE)
@click.option("--pool", type=ANY, help="Tell which of its uids are in this pool.")
@click.option("--only-in-pool", is_flag=True, help="Write only entries whose uid is in --pool.")
@click.option(
    "--uid-column", default="uid", show_default=True, help="Column with the uids, where the file is a table."
)
@_OUT
@with_pool_options
@common
def import_(
    settings: Settings,
    *,
    file: Path,
    pool: Path | None,
    only_in_pool: bool,
    uid_column: str,
    output: Path,
    cache: Path | None,
    distrust_cache: bool,
) -> dict[str, Any]:
    """Make a subset file of a published list of uids: .npy or raw pairs, text, CSV, JSON lines or Parquet.

    Unsorted files are sorted; a uid that occurs several times stays so. A malformed uid is named by its line.

    \b
    headwater subset import datacomp_medium_dfn_20m_inds.npy -o dfn.npy --pool POOL
    """
    from curate.imports import import_subset, plan_import

    opened = open_pool(pool, cache, distrust_cache) if pool else None
    options: dict[str, Any] = {"pool": opened, "uid_column": uid_column, "only_in_pool": only_in_pool}
    plan = plan_import(file, output, **options)
    outcome = import_subset(file, output, options=settings.run_options(), **options)
    result = step_result(outcome, plan)
    if outcome is None:
        return result
    counts, details = outcome.step.identity.counts, outcome.step.details
    again = " (already there)" if outcome.cached else ""
    lines = [
        f"{output}: {counts.kept:,} entries of {counts.read:,}, {details['uids']:,} different uids{again}"
    ]
    if told := details.get("coverage"):
        lines.append(
            f"  {told['uids_in_pool']:,} of its {told['uids']:,} uids are in the pool; {told['uids_not_in_pool']:,} are not"
        )
        lines.append(f"  they cover {told['pool_rows_covered']:,} of the pool's {told['pool_rows']:,} rows")
        lines += [f"  not in the pool: {uid}" for uid in told["uids_not_in_pool_examples"][:5]]
    return {**result, "text": "\n".join(lines)}


@subset_group.command("overlap")
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--pool", type=ANY, help="Also tell each subset's share of this pool's rows.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Also write a page (.html)."
)
@with_pool_options
@common
def overlap(
    settings: Settings,
    *,
    files: tuple[Path, ...],
    pool: Path | None,
    output: Path | None,
    cache: Path | None,
    distrust_cache: bool,
) -> dict[str, Any]:
    """Tell what FILES have in common: for each two the share of the first, and Jaccard; uids count once."""
    from curate import overlap as run
    from curate.report import check_page

    if output is not None:
        check_page(output, run.MARK, force=settings.force)
    found = run.overlap(files, open_pool(pool, cache, distrust_cache) if pool else None)
    facts = {**found.facts, "text": run.as_text(found)}
    if output is not None and not settings.dry_run:
        size = run.write_page(found, output, f"Overlap of {len(files)} subsets")
        facts |= {"output": str(output), "text": f"{facts['text']}\n\n{output}: {size / 1e3:,.0f} kB"}
    return facts
