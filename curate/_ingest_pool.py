"""The work of `pool import`: units through the executor, repeated uids settled, parts put together as shards."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate._ingest_images import import_images, write_chunks
from curate._ingest_rows import (
    CANONICAL,
    COMPUTED,
    MAX_EXAMPLES,
    ROW,
    ROW_GROUP_ROWS,
    Part,
    Policy,
    PoolWriter,
    fit,
    merge_types,
    pool_schema,
)
from curate._ingest_source import SMALL_BYTES, Source, npz_name
from curate._ingest_tables import TableUnit, import_table, renamed, source_schema
from curate._ingest_tars import TarUnit, import_tar
from curate._keys import Keys, rows_among
from curate._pages import words_of
from curate.pool import MANIFEST_NAME
from headwater.console import say, track
from headwater.errors import IntegrityError, UsageError
from headwater.executor import Executor
from headwater.files import write_json
from headwater.manifest import Counts, Manifest, describe_folder
from headwater.steps import Work


@dataclass
class Import:
    source: Source
    policy: Policy
    executor: Executor
    rows_per_shard: int
    features: bool
    units: dict[int, TableUnit] = field(default_factory=dict)

    def work(self, job: Work) -> Counts:
        """Read every unit, put the parts together, write the manifest."""
        parts = self._read(job)
        repeated = self._repeated(parts)
        dropped = _count_repeats(parts, repeated, self.policy)
        if self.source.layout == "parquet":
            self._keep_shards(parts, repeated, job, dropped)
        else:
            self._new_shards(parts, repeated, job)
        invalid: dict[str, int] = {}
        for part in parts:
            for reason, count in part.invalid.items():
                invalid[reason] = invalid.get(reason, 0) + count
        counts = Counts(
            unit="rows",
            read=sum(part.read for part in parts),
            kept=sum(part.kept for part in parts),
            invalid=dict(sorted(invalid.items())),
        )
        unmarked = [part.name for part in parts if part.facts.get("no_end_mark")]
        if unmarked:
            say(
                "warning",
                f"{unmarked[0]} and {len(unmarked) - 1} more tars have no end mark: were they cut short?",
            )
            job.details["no_end_mark"] = unmarked
        job.details.update(
            {
                "layout": self.source.layout,
                "bad": [line for part in parts for line in part.examples][: 10 * MAX_EXAMPLES],
                "computed_uids": sum(part.facts.get("computed_uids", 0) for part in parts),
                "rotated_by_exif": sum(part.facts.get("rotated_by_exif", 0) for part in parts),
                "shards": sum(1 for _ in job.stage.glob("*.parquet")),
            }
        )
        manifest = Manifest(entries=describe_folder(job.stage), extensions={"step_key": job.key})
        write_json(job.stage / MANIFEST_NAME, manifest.model_dump(mode="json"))
        return counts

    def _read(self, job: Work) -> list[Part]:
        root, files, layout = self.source.root, self.source.files, self.source.layout
        light = self.source.size_bytes < SMALL_BYTES
        if layout == "tars":
            tars = [TarUnit(root / name, name, job.parts, at, self.policy) for at, name in enumerate(files)]
            return self._map(import_tar, tars, "tars", light)
        if layout == "images":
            rest = Part("pictures without a caption")
            chunks = write_chunks(
                root,
                self.source.captions,
                self.source.mapping,
                parts=job.parts,
                policy=self.policy,
                part=rest,
            )
            return [*self._map(import_images, chunks, "parts", light), rest]
        self.units = dict(enumerate(self._table_units(job)))
        return self._map(import_table, list(self.units.values()), "files", light)

    def _map(self, fn: Callable[[Any], Part], units: Sequence[Any], unit: str, light: bool) -> list[Part]:
        parts = []
        with track("import", total=len(units), unit=unit) as bar:
            for part in self.executor.map_shards(fn, units, light=light):
                parts.append(part)
                bar.add(1, note=f"{sum(p.kept for p in parts):,} rows")
        return parts

    def _table_units(self, job: Work) -> list[TableUnit]:
        """One unit a file, after comparing all schemas."""
        found = []
        stems: dict[str, str] = {}
        types: dict[str, pa.DataType] = {}
        for name in self.source.files:
            stem = _stem(name)
            if stem in stems:
                raise UsageError(
                    f"{name} and {stems[stem]} would both become shard {stem!r}", hint="rename one of them"
                )
            stems[stem] = name
            picked, schema = renamed(source_schema(self.source.root / name), self.source.mapping)
            found.append((name, picked, schema))
            for entry in schema:
                types[entry.name] = _same_kind(name, entry, types.get(entry.name))
        order = pool_schema([pa.schema(list(types.items()))])
        if "uid" not in order.names:
            if self.policy.uid == "source":
                raise UsageError(
                    "the source has no uid column", hint="--map uid=COLUMN names it; --uid auto computes one"
                )
            if "url" not in order.names and "sha256" not in order.names:
                raise UsageError(
                    "the source has no uid, and neither url nor sha256 to compute one from",
                    hint="--map url=COLUMN",
                )
            order = pa.schema([pa.field("uid", pa.string()), *order])
        for name, _, schema in found:
            for column in order.names:
                if column not in schema.names and column in CANONICAL and column != "uid":
                    raise IntegrityError(
                        f"{name}: column {column!r} is missing, although other files have it",
                        hint="complete the file, or import it as a pool of its own",
                    )
                if column not in schema.names and column != "uid":
                    say("warning", f"{name}: has no column {column!r}; its rows get null")
        return [
            TableUnit(
                path=self.source.root / name,
                name=name,
                features=self._features(name),
                rows_per_shard=self.rows_per_shard,
                picked=picked,
                schema=order,
                parts=job.parts,
                number=at,
                policy=self.policy,
            )
            for at, (name, picked, _) in enumerate(found)
        ]

    def _features(self, name: str) -> Path | None:
        path = self.source.root / npz_name(name)
        return path if self.features and path.is_file() else None

    def _repeated(self, parts: Sequence[Part]) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """All uids that occur more than once."""
        with Keys(2, sum(part.kept for part in parts)) as keys:
            for part in parts:
                for file in part.files:
                    for batch in pq.ParquetFile(file).iter_batches(ROW_GROUP_ROWS, columns=["uid"]):
                        keys.add(words_of(batch.column(0))[0])
            blocks = [block for block, _ in keys.repeated()]
        return np.concatenate(blocks) if blocks else np.zeros((0, 2), np.uint64)

    def _new_shards(self, parts: Sequence[Part], repeated: np.ndarray[Any, Any], job: Work) -> None:
        """Shards of `rows_per_shard` rows, numbered, from the parts in order."""
        files = [file for part in parts for file in part.files]
        schema = pool_schema(pq.read_schema(file) for file in files)
        if not files:
            schema = pa.schema(
                [(name, CANONICAL[name]) for name in ("uid", "url", "text", *list(CANONICAL)[3:5], "sha256")]
            )
        number = in_shard = 0
        seen: set[tuple[int, int]] = set()
        writer = PoolWriter(job.stage / f"{number:08d}.parquet", schema)
        try:
            with track("write the pool", total=sum(part.kept for part in parts), unit="rows") as bar:
                for table in _tables(files, repeated, seen):
                    rows = fit(table, schema)
                    while len(rows):
                        if in_shard == self.rows_per_shard:
                            writer.close()
                            number, in_shard = number + 1, 0
                            writer = PoolWriter(job.stage / f"{number:08d}.parquet", schema)
                        piece = rows.slice(0, self.rows_per_shard - in_shard)
                        writer.write(piece)
                        in_shard += len(piece)
                        rows = rows.slice(len(piece))
                    bar.add(len(table))
            writer.close()
        except BaseException:
            writer.abandon()
            raise

    def _keep_shards(
        self, parts: Sequence[Part], repeated: np.ndarray[Any, Any], job: Work, dropped: Mapping[str, int]
    ) -> None:
        """One shard a source file, with its features when no row was left out."""
        seen: set[tuple[int, int]] = set()
        for at, part in enumerate(parts):
            unit = self.units[at]
            stem = _stem(part.name)
            for number, file in enumerate(part.files):
                name = stem if len(part.files) == 1 else f"{stem}-{number:04d}"
                target = job.stage / f"{name}.parquet"
                if part.final and not dropped:
                    shutil.copyfile(file, target)  # not moved: a later run may need the part again
                    continue
                with PoolWriter(target, unit.schema) as writer:
                    for table in _tables([file], repeated, seen):
                        writer.write(fit(table, unit.schema))
            if unit.features is None:
                continue
            if part.kept == part.read:
                shutil.copyfile(unit.features, job.stage / f"{stem}.npz")
            else:
                lost = part.read - part.kept
                say(
                    "warning",
                    f"{stem}: {lost:,} rows were left out, so its features no longer fit and are not copied",
                )
                job.details.setdefault("features_left_out", []).append(stem)


def _same_kind(file: str, entry: pa.Field, known: pa.DataType | None) -> pa.DataType:
    if known is None:
        return entry.type
    merged = merge_types(entry.name, known, entry.type)
    if merged not in (known, entry.type) and pa.types.is_string(merged):
        raise IntegrityError(
            f"{file}: column {entry.name!r} is {entry.type}, but it is {known} in other files",
            hint="convert the file",
        )
    kinds = {pa.types.is_string(known), pa.types.is_string(entry.type)}
    if len(kinds) == 2 and not pa.types.is_null(known) and not pa.types.is_null(entry.type):
        raise IntegrityError(
            f"{file}: column {entry.name!r} is {entry.type}, but it is {known} in other files",
            hint="convert the file",
        )
    return merged


def _stem(name: str) -> str:
    return name.rpartition("/")[2].split(".parquet")[0] or "shard"


def _tables(
    files: Iterable[str], repeated: np.ndarray[Any, Any], seen: set[tuple[int, int]]
) -> Iterable[pa.Table]:
    """Rows of the parts in order, without the second and later row of one uid."""
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(ROW_GROUP_ROWS):
            table = pa.Table.from_batches([batch])
            if len(repeated):
                keep = np.ones(len(table), bool)
                for row, key in _rows_with(table, repeated):
                    keep[row] = key not in seen
                    seen.add(key)
                if not keep.all():
                    table = table.filter(pa.array(keep))
            yield table


def _rows_with(table: pa.Table, repeated: np.ndarray[Any, Any]) -> list[tuple[int, tuple[int, int]]]:
    words = words_of(table["uid"])[0]
    return [(row, (int(words[row, 0]), int(words[row, 1]))) for row in rows_among(words, repeated).tolist()]


def _count_repeats(parts: Sequence[Part], repeated: np.ndarray[Any, Any], policy: Policy) -> dict[str, int]:
    """Move the second and later row of each uid from kept to invalid; raises IntegrityError under `refuse`.

    A computed uid repeats only where url (or image) and caption do, so such a row is a copy and never refused.
    """
    if not len(repeated):
        return {}
    first: dict[tuple[int, int], str] = {}
    dropped: dict[str, int] = {}
    for part in parts:
        at = 0
        for file in part.files:
            names = pq.read_schema(file).names
            columns = [name for name in ("uid", COMPUTED, ROW) if name in names]
            for batch in pq.ParquetFile(file).iter_batches(ROW_GROUP_ROWS, columns=columns):
                table = pa.Table.from_batches([batch])
                for row, key in _rows_with(table, repeated):
                    number = table[ROW][row].as_py() if ROW in columns else at + row
                    where = f"{part.name}: row {number}"
                    if key not in first:
                        first[key] = where
                        continue
                    if policy.on_bad == "refuse" and not (
                        COMPUTED in columns and table[COMPUTED][row].as_py()
                    ):
                        raise IntegrityError(
                            f"{where}: uid {table['uid'][row].as_py()} is also that of {first[key]}",
                            hint="--on-bad drop keeps the first row of each uid; --uid make gives every row a new one",
                        )
                    part.bad("repeated_uid", where)
                    part.kept -= 1
                    dropped[part.name] = dropped.get(part.name, 0) + 1
                at += len(table)
    return dropped
