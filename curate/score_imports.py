"""Score tables of others, joined to a pool by uid and kept beside it as the scores of a scorer of that name.

The tables are written once to disk as they come, their uids sorted in slices; then each shard of the pool finds its rows there.
Memory holds one slice of uids and the rows of one shard. A uid that the tables hold twice must say the same twice.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate._import_join import Join, join
from curate._import_tables import Table, find_tables, storable
from curate.pool import Pool
from curate.sidecars import StoredRef, known_scorers, stored_scores
from headwater import plugins
from headwater.console import say
from headwater.errors import UsageError, nearest
from headwater.files import locked, write_json
from headwater.hashing import digest_file
from headwater.manifest import Counts, InputRef, describe_file, identity_id
from headwater.steps import RECORD_NAME, Plan, RunOptions, make_record

STEP, VERSION = "score-import", 1
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


@dataclass
class Found:
    """What an import is about to do: everything is checked, of the tables only the head has been read."""

    pool: Pool
    tables: list[Table]
    columns: dict[str, str]  # our name -> column of the tables
    ref: StoredRef
    rivals: list[Path] = field(default_factory=list)  # folders of earlier imports of this name

    @property
    def folder(self) -> Path:
        return self.ref.path

    def into(self, folder: Path) -> Join:
        """The work, with another folder to write to."""
        return Join(self.pool, self.tables, self.columns, dataclasses.replace(self.ref, path=folder))


def prepare(
    pool: Pool, paths: Sequence[Path], name: str, *, uid_column: str, columns: Sequence[str], force: bool
) -> Found:
    """Check names, types and collisions. `columns` are names, or NEW=OLD to call a column otherwise; none: all that can be stored.

    Raises UsageError, MissingInput and IntegrityError, each naming table and column.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"--name {name!r}: use lower-case letters, digits and - _ . (at most 64)")
    if name in {plugin.name for plugin in plugins.family_members("scores")}:
        raise UsageError(f"--name {name}: is a scorer of ours; choose another")
    tables = [Table(path, uid_column) for path in find_tables(paths)]
    renamed = _columns(tables, columns)
    types = {new: _type(tables, old) for new, old in renamed.items()}
    assets = {"table": _digest([digest_file(table.path, ("sha256",)).sha256 for table in tables])}
    identity = {
        "scorer": name,
        "version": VERSION,
        "config": {"uid_column": uid_column, "columns": [f"{new}={old}" for new, old in renamed.items()]},
        "assets": assets,
        "inputs": {"pool": pool.id},
    }
    folder = pool.cache / "scores" / f"{name}-v{VERSION}-{identity_id(identity)[:8]}"
    ref = StoredRef(name, folder, tuple(types.items()), json.dumps(identity, sort_keys=True))
    found = Found(pool, tables, renamed, ref)
    _collisions(found, force=force)
    return found


def _digest(digests: list[str]) -> str:
    """One table is known by its own digest, several by that of their list; neither order nor names count."""
    return digests[0] if len(digests) == 1 else identity_id({"tables": sorted(digests)})


def _columns(tables: Sequence[Table], wanted: Sequence[str]) -> dict[str, str]:
    first = tables[0]
    if wanted:
        pairs = [text.partition("=") for text in wanted]
        named = [(new.strip(), (old or new).strip()) for new, _, old in pairs]
    else:
        there = [f.name for f in first.schema if f.name != first.uid_column]
        named = [(name, name) for name in there if storable(first.schema.field(name).type)]
        left = [name for name in there if (name, name) not in named]
        if left:
            say(
                "info",
                f"{first.path.name}: left out, since they are no numbers, truth values or text: {', '.join(left)}",
            )
    renamed: dict[str, str] = {}
    for new, old in named:
        if new in renamed or not new or new == "uid":
            raise UsageError(
                f"--columns: {new!r} " + ("is given twice" if new in renamed else "cannot be a score")
            )
        renamed[new] = old
    if not renamed:
        raise UsageError(f"{first.path}: has no column to import besides {first.uid_column!r}")
    return renamed


def _type(tables: Sequence[Table], column: str) -> str:
    """The one type under which a column of all tables is kept: whole numbers widen, and become floats where one table has them."""
    kinds: list[str] = []
    for table in tables:
        if column not in table.schema.names:
            raise UsageError(f"{table.path}: has no column {column!r}: {nearest(column, table.schema.names)}")
        kind = table.schema.field(column).type
        if pa.types.is_null(kind):
            continue
        name = storable(kind)
        if name is None:
            raise UsageError(
                f"{table.path}: column {column!r} is {kind}; a score is a number, a truth value or text"
            )
        kinds.append(name)
    different = list(dict.fromkeys(kinds))
    if len(different) <= 1:
        return different[0] if different else "double"
    numbers = [pa.type_for_alias(kind) for kind in different]
    if all(pa.types.is_integer(k) for k in numbers):
        return "int64"
    if all(pa.types.is_integer(k) or pa.types.is_floating(k) for k in numbers):
        return "double"
    raise UsageError(f"column {column!r} is {' in one table and '.join(different[:2])} in another")


def _collisions(found: Found, *, force: bool) -> None:
    pool, name = found.pool, found.ref.name
    makers = known_scorers()
    for column in found.columns:
        hint = f"call it otherwise: --columns {name}_{column}={found.columns[column]}"
        if column in pool.columns:
            raise UsageError(f"column {column!r}: the pool has one of that name", hint=hint)
        if column in makers:
            raise UsageError(
                f"column {column!r}: scorer {makers[column].name} makes one of that name", hint=hint
            )
    if not pool.shards:
        return
    shard = pool.shards[0]
    for other in stored_scores(pool.cache, shard.name, pool.digests(shard).sha256):
        if other.path == found.folder:
            continue
        same = [column for column in found.columns if column in other.outputs]
        if other.name == name and _imported(other.path):
            if not force:
                raise UsageError(
                    f"{other.path.name}: scores called {name} were imported from another table, or with other columns",
                    hint="--force replaces them, or choose another --name",
                )
            found.rivals.append(other.path)
        elif same:
            raise UsageError(
                f"column {same[0]!r}: scores of {other.name} beside the pool ({other.path.name}) have it",
                hint=f"call it otherwise: --columns {name}_{same[0]}={found.columns[same[0]]}",
            )


def _imported(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / RECORD_NAME).read_bytes())["identity"]["step"] == STEP)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def is_done(found: Found) -> bool:
    """Whether exactly these tables were imported into this pool before."""
    there = all((found.folder / f"{shard.name}.parquet").is_file() for shard in found.pool.shards)
    return there and _imported(found.folder)


def import_scores(found: Found, *, options: RunOptions, force: bool = False) -> dict[str, Any]:
    """Write the scores and their record; nothing is seen of them until all of it is there. Returns {counts, notes, rows_scored}."""
    from headwater.energy import Meter

    if is_done(found) and not force:
        document = json.loads((found.folder / RECORD_NAME).read_bytes())
        return {
            "counts": document["identity"]["counts"],
            "notes": document.get("details", {}),
            "cached": True,
        }
    home = found.pool.cache / "imports"
    home.mkdir(parents=True, exist_ok=True)
    (found.pool.cache / "scores").mkdir(exist_ok=True)
    meter = Meter(STEP)
    with locked(home / found.ref.name, found.folder):
        scratch = Path(tempfile.mkdtemp(prefix="work-", dir=_swept(home / found.ref.name)))
        try:
            with meter:
                counts, notes = join(found.into(scratch / "made"), scratch)
            counts.check()
            _record(found, scratch / "made", counts, notes, options, meter)
            for old in (found.folder, *found.rivals):
                shutil.rmtree(old, ignore_errors=True)
            os.rename(scratch / "made", found.folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(home / found.ref.name, ignore_errors=True)
    return {"counts": counts.model_dump(), "notes": notes, "cached": False}


def _swept(home: Path) -> Path:
    """`home` without what killed runs left there; its lock is ours."""
    for path in home.glob("work-*"):
        shutil.rmtree(path, ignore_errors=True)
    return home


def _record(
    found: Found, made: Path, counts: Counts, notes: dict[str, Any], options: RunOptions, meter: Any
) -> None:
    identity = found.ref.identity
    inputs = [InputRef(role="table", id=identity["assets"]["table"]), InputRef(role="pool", id=found.pool.id)]
    plan = Plan(STEP, VERSION, identity, inputs, found.folder, kind="folder")
    outputs = [describe_file(path) for path in sorted(made.iterdir())]
    record = make_record(plan, options, counts, outputs, notes, meter)
    write_json(made / RECORD_NAME, record.model_dump(mode="json"))
