"""`headwater report`: one self-contained HTML page about a subset, about resharded shards, about a pool, or about any other output
with a step record.

The page has no script, loads nothing, and forbids both by its own policy. All text from rows and records is escaped, cut, and shown
with control and direction marks made visible. Its bytes depend on the record, the rows and the seed, never on when it was made.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curate import _report_pictures as pictures
from curate import _report_record as records
from curate import _report_sections as sections
from curate._report_data import PICTURE, TEXT, Pick
from curate._report_pool import Look, look, open_pool
from curate.pool import CACHE_NAME, Pool
from curate.shards import TarShard
from headwater.errors import MissingInput, UsageError
from headwater.executor import Executor
from headwater.files import atomic_file, named_io
from headwater.manifest import Step
from headwater.pages import visible
from headwater.steps import RECORD_NAME, read_record

MARK = b"<!doctype html>\n<!-- headwater report/1 -->"


@dataclass
class Subject:
    """What the page is about."""

    path: Path
    kind: str  # subset, shards, pool, record
    record: Step | None
    notes: list[str] = field(default_factory=list)


def build_report(
    path: Path,
    output: Path,
    *,
    executor: Executor,
    pool: Path | None = None,
    shards: Sequence[Path] = (),
    cache: Path | None = None,
    title: str | None = None,
    thumbnails: int = 24,
    seed: int = 0,
    scatter: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the page about `path` to `output`, and tell what is on it.

    `pool` names the pool of a subset when it has moved; `shards` are folders of tars (or tars) to take pictures from;
    `thumbnails` kept rows are shown, and a third as many for each reason; `scatter` names two numbers to draw against each
    other. Raises MissingInput when there is nothing to report on.
    """
    if not 0 <= thumbnails <= 500:
        raise UsageError(f"--thumbnails {thumbnails}: must be between 0 and 500")
    if len(scatter) not in (0, 2):
        raise UsageError("--scatter: name two columns, with a comma between")
    subject = find_subject(path)
    seen = _rows(subject, pool, cache, executor, thumbnails, seed, scatter)
    if seen is not None:
        subject.notes += seen.notes
    album, picks = _pictures(subject, seen, shards, thumbnails, seed)
    page = {
        "title": title or _title(subject, seen),
        "kind": subject.kind,
        "name": path.name or str(path),
        "notes": subject.notes,
        "sentence": _sentence(subject, seen),
        "tiles": _tiles(subject, seen),
        "unit": subject.record.identity.counts.unit if subject.record else "rows",
        "funnel": sections.funnel(subject.record),
        "sum": records.sum_line(subject.record) if subject.record else [],
        "read": subject.record.identity.counts.read if subject.record else None,
        "extra": subject.record.identity.counts.extra if subject.record else {},
        "histograms": sections.histograms(seen, kept=subject.kind == "subset"),
        "scatter": sections.scatter(seen, kept=subject.kind == "subset"),
        "alone": sections.removed_alone(seen),
        "categories": sections.categories(seen),
        "galleries": sections.galleries(seen, album, picks, thumbnails),
        "picture_notes": album.notes,
        "columns": _column_table(seen) if subject.kind == "pool" else [],
        "captions": sections.captions(seen, kept=subject.kind == "subset"),
        "duplicates": sections.duplicates(seen, album, kept=subject.kind == "subset"),
        "similar": sections.similar(seen, album),
        **_from_record(subject, seen),
    }
    text = render(page)
    with atomic_file(output) as handle:
        handle.write(text)
    return {
        "output": str(output),
        "kind": subject.kind,
        "size_bytes": len(text),
        "rows_looked_at": seen.facts.rows if seen else 0,
        "pictures": len(album.uris),
        "notes": [*subject.notes, *album.notes],
    }


def find_subject(path: Path) -> Subject:
    """What lies at `path`. Raises MissingInput when a page about it could tell nothing."""
    if not path.exists():
        raise MissingInput(f"{path}: no such file or folder")
    record = read_record(path)
    if path.is_file():
        if record is None:
            raise MissingInput(
                f"{path}: has no record beside it ({path.name}.{RECORD_NAME})",
                hint="only outputs of headwater can be reported on",
            )
        ours = record.identity.step == "filter-pool" and isinstance(record.identity.config.get("rule"), dict)
        return Subject(path, "subset" if ours else "record", record)
    if any(".parquet" in f.name and not f.name.startswith(".") for f in path.iterdir() if f.is_file()):
        return Subject(path, "pool", record)
    if record is None:
        raise MissingInput(f"{path}: neither a pool (no .parquet in it) nor an output with {RECORD_NAME}")
    problems = record.details.get("bad_inputs")
    return Subject(
        path, "shards" if any(path.glob("*.tar")) else "record", record, [str(problems)] if problems else []
    )


def _rows(
    subject: Subject,
    named: Path | None,
    cache: Path | None,
    executor: Executor,
    thumbnails: int,
    seed: int,
    scatter: Sequence[str],
) -> Look | None:
    wanted: dict[str, Any] = {"executor": executor, "picks": thumbnails, "seed": seed, "scatter": scatter}
    if subject.kind == "pool":
        return look(Pool.open(subject.path, cache=cache), None, **wanted)
    if subject.kind != "subset" or subject.record is None:
        return None
    opened = open_pool(subject.record, named, cache, subject.notes)
    if opened is None:
        return None
    name = subject.path.name
    files = [subject.path.with_name(f"{stem}.reasons.parquet") for stem in (name, name.removesuffix(".npy"))]
    return look(opened, subject.record, reasons_files=files, **wanted)


def _pictures(
    subject: Subject, seen: Look | None, named: Sequence[Path], thumbnails: int, seed: int
) -> tuple[pictures.Album, list[Pick]]:
    """Pictures of all rows that the page shows, and (of shards) the rows themselves."""
    if subject.kind == "shards" and thumbnails:
        tars, notes = pictures.find_tars([subject.path], asked=False)
        chosen, problems = pictures.some_samples(tars, thumbnails, seed)
        album = pictures.collect(tars, dict(chosen), _index_folders(tars))
        album.notes[:0] = [*notes, *problems]
        rows = [
            Pick(0, name, 0, uid, album.captions.get(uid), len(album.captions.get(uid, "")), ())
            for uid, name in chosen
        ]
        return album, rows
    if seen is None or not thumbnails:
        return pictures.Album(), []
    wanted: dict[str, str] = {}
    for code, picks in sorted(seen.facts.picks.items()):
        for pick in picks[: sections.share(code, thumbnails)]:
            wanted.setdefault(pick.uid, pick.shard)
    for group in seen.groups[PICTURE].top[: sections.TOP_PICTURES] if PICTURE in seen.groups else ():
        for member in group.members[:1]:
            wanted.setdefault(member.uid, member.shard)
    for pick in sections.shown_similar(seen):
        wanted.setdefault(pick.uid, pick.shard)
    tars, notes = pictures.find_tars(named or _likely_places(subject, seen), asked=bool(named))
    if not wanted:
        return pictures.Album(), []
    if not tars:
        return pictures.Album(
            notes=[
                "No webdataset tars were found beside the pool, so only captions are shown; --shards DIR names them."
            ]
        ), []
    album = pictures.collect(tars, wanted, _index_folders(tars))
    album.notes[:0] = notes
    absent = len(wanted.keys() - album.uris.keys() - album.problems.keys())
    if absent:
        album.notes.append(
            f"{absent:,} of the {len(wanted):,} rows shown here are in none of the {len(tars):,} tars that were looked at."
        )
    return album, []


def _index_folders(tars: Sequence[TarShard]) -> list[Path]:
    """Where `headwater reshard` keeps the index of tars."""
    folders = dict.fromkeys(tar.path.parent / CACHE_NAME / "shards" for tar in tars)
    return [folder for folder in folders if folder.is_dir()]


def _likely_places(subject: Subject, seen: Look) -> list[Path]:
    """Folders that may hold the pool's tars: the pool's own, and those that records name."""
    places = [seen.pool.path, seen.pool.path / "shards"]
    for record in (subject.record, read_record(seen.pool.path)):
        if record is not None:
            named = [record.observation.get(key) for key in ("shards", "source", "input")]
            places += [Path(p) for p in named if isinstance(p, str) and p]
    return [place for place in places if place.is_dir()]


def _title(subject: Subject, seen: Look | None) -> str:
    what = {"subset": "Subset", "shards": "Shards", "pool": "Pool", "record": "Output"}[subject.kind]
    return f"{what} {subject.path.name or subject.path.resolve().name}"


def _sentence(subject: Subject, seen: Look | None) -> str:
    if subject.record is None or subject.kind == "pool":
        assert seen is not None
        facts, shards = seen.facts, len(seen.pool.shards)
        columns = len(seen.pool.columns)
        return (
            f"A pool of {facts.rows:,} rows in {shards:,} shard{'s' * (shards != 1)} with {columns} columns."
        )
    counts, energy = subject.record.identity.counts, subject.record.energy
    dropped, invalid = sum(counts.dropped.values()), sum(counts.invalid.values())
    time = f"It took {records.seconds(energy.duration_seconds)} and {records.seconds(energy.cpu_seconds)} of CPU time."
    if subject.kind == "subset":
        rule = subject.record.identity.config["rule"]
        clauses = len(rule.get("keep", []))
        judged = f"; {invalid:,} could not be judged" if invalid else ""
        return (
            f"Rule {rule.get('name', '?')} looked at {counts.read:,} rows and kept {counts.kept:,} of them ({sections.percent(counts.kept, counts.read)}): "
            f"{dropped:,} were dropped by {clauses} clause{'s' * (clauses != 1)}{judged}. {time}"
        )
    return (
        f"Step {subject.record.identity.step} read {counts.read:,} {counts.unit} and kept {counts.kept:,} ({sections.percent(counts.kept, counts.read)}); "
        f"{dropped:,} were dropped, {invalid:,} were invalid. {time}"
    )


def _tiles(subject: Subject, seen: Look | None) -> list[tuple[str, str]]:
    tiles: list[tuple[str, str]] = []
    if subject.record is not None and subject.kind != "pool":
        counts, energy = subject.record.identity.counts, subject.record.energy
        tiles += [
            (f"{counts.kept:,}", f"{counts.unit} kept"),
            (sections.percent(counts.kept, counts.read), f"of {counts.read:,} read"),
        ]
        tiles.append(
            (
                f"{sum(counts.invalid.values()):,}",
                "could not be judged" if subject.kind == "subset" else "invalid",
            )
        )
        tiles.append((records.seconds(energy.cpu_seconds), "CPU time"))
        known = energy.measured_joules if energy.measured_joules is not None else energy.modelled_joules
        how = (
            "measured"
            if energy.measured_joules is not None
            else "modelled"
            if known is not None
            else "energy"
        )
        tiles.append((records.joules(known), how))
    elif seen is not None:
        tiles += [
            (f"{seen.facts.rows:,}", "rows"),
            (f"{len(seen.pool.shards):,}", "shards"),
            (f"{len(seen.pool.columns)}", "columns"),
        ]
    for name, label in ((TEXT, "different captions"), (PICTURE, "different pictures (sha256)")):
        if seen is not None and subject.kind == "pool" and name in seen.groups:
            tiles.append((f"{seen.groups[name].distinct:,}", label))
    return tiles


def _column_table(seen: Look | None) -> list[tuple[str, str, int]]:
    """Name, type in the first shard that has it, and number of shards that have it."""
    if seen is None:
        return []
    shards = seen.pool.shards
    rows = []
    for name in seen.pool.columns:
        having = [shard for shard in shards if name in shard.types]
        rows.append((name, str(having[0].types[name]), len(having)))
    return rows


def _from_record(subject: Subject, seen: Look | None) -> dict[str, Any]:
    record = subject.record
    if record is None:
        return {"step": None}
    named = str(record.observation.get("pool") or "")
    pool = seen.pool.path if seen and subject.kind == "subset" else Path(named) if named else None
    others = records.neighbours([subject.path.parent, *([pool, pool.parent] if pool else [])])
    packages = record.observation.get("packages")
    return {
        "step": {
            "name": record.identity.step,
            "version": record.identity.version,
            "id": record.id,
            "key": record.key,
            "seed": record.identity.seed,
        },
        "energy": records.energy_table(
            record.energy, record.identity.counts.read, record.identity.counts.unit
        ),
        "files": records.files_of(record),
        "chain": records.chain(subject.path, record, others, pool=pool),
        "yaml": records.config_yaml(record),
        "yaml_title": "Rule" if subject.kind == "subset" else "Configuration",
        "scorers": records.scorers_of(record),
        "packages": sorted(packages.items()) if isinstance(packages, dict) else [],
        "python": str(record.observation.get("python", "")),
        "platform": str(record.observation.get("platform", "")),
        "engine": str(record.observation.get("engine", "")),
        "command": records.command_line(record),
        "verify": shlex.join(["headwater", "verify", subject.path.name]),
    }


def check_page(output: Path, mark: bytes, *, force: bool) -> None:
    """That a page can be written to `output`: its folder is there, and what lies there is such a page already."""
    if not output.parent.is_dir():
        raise UsageError(
            f"{output.parent}: no such folder to write {output.name} into", hint=f"mkdir -p {output.parent}"
        )
    if output.exists() and not force:
        with named_io(output), open(output, "rb") as handle:
            if handle.read(len(mark)) != mark:
                raise UsageError(
                    f"{output}: exists and is not such a page of ours",
                    hint="--force replaces it, or choose another -o",
                )


def render(page: dict[str, Any], template: str = "report.html.j2") -> bytes:
    """The page as bytes."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
        keep_trailing_newline=True,
    )
    environment.filters["n"] = lambda value: f"{value:,}"
    text = environment.get_template(template).render(page)
    return text.encode("utf-8", "backslashreplace")
