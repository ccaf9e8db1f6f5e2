"""A pool: Parquet shards in one folder, rows known by uid, with score sidecars and an index kept beside them.

Layout (DataComp): `NAME.parquet`, optionally `NAME.npz` with features in the same row order. As in DataComp, every file whose
name contains `.parquet` is a shard, and its name ends at the first `.parquet`. Everything we add lies under `.headwater/`
(or under `--cache DIR` for a pool that cannot be written); the pool's own files are never changed.

All footers are read and compared when a pool is opened: a shard that is damaged, or that lacks a column the others have,
is told before any work starts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.console import say
from headwater.errors import IntegrityError, MissingInput, UsageError, nearest
from headwater.hashing import DigestCache, Digests
from headwater.manifest import Manifest, identity_id

CACHE_NAME = ".headwater"
MANIFEST_NAME = "manifest.json"
MAX_COLUMNS = 10_000
MAX_ROW_GROUPS = 1_000_000


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a pool."""

    name: str
    path: Path
    rows: int
    row_group_rows: tuple[int, ...]
    types: dict[str, pa.DataType] = field(repr=False, hash=False, compare=False)

    @property
    def features(self) -> Path | None:
        """The npz with features of the same rows, if there is one."""
        path = self.path.with_name(f"{self.name}.npz")
        return path if path.is_file() else None


def family(type_: pa.DataType) -> str:
    """The family a column type belongs to; types of one family convert without loss into each other's widest."""
    if pa.types.is_dictionary(type_):
        return family(type_.value_type)
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return "text"
    if pa.types.is_integer(type_):
        return "integer"
    if pa.types.is_floating(type_):
        return "float"
    return "other"


def common_type(name: str, shards: Iterable[Shard]) -> pa.DataType:
    """The type that holds `name` of every shard without loss.

    Raises IntegrityError naming shard and column when one lacks it or has another kind of data.
    """
    found: pa.DataType | None = None
    first: Shard | None = None
    for shard in shards:
        type_ = shard.types.get(name)
        if type_ is None:
            raise IntegrityError(
                f"shard {shard.name}: column {name!r} is missing, although other shards have it",
                hint="complete the shard, or take it out of the pool",
            )
        if found is None or first is None:
            found, first = _plain(type_), shard
            continue
        wide = _widest(found, _plain(type_))
        if wide is None:
            raise IntegrityError(
                f"shard {shard.name}: column {name!r} is {type_}, but it is {found} in shard {first.name}",
                hint="convert the shard, or take it out of the pool",
            )
        found = wide
    if found is None:
        raise UsageError(f"column {name!r}: the pool has no shards")
    return found


def _plain(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(type_):
        return _plain(type_.value_type)
    return pa.string() if family(type_) == "text" else type_


def _widest(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if a == b:
        return a
    if family(a) != family(b) or family(a) == "other":
        return None
    if family(a) == "integer":
        if pa.types.is_unsigned_integer(a) and pa.types.is_unsigned_integer(b):
            return max(a, b, key=lambda t: t.bit_width)
        return None if pa.uint64() in (a, b) else pa.int64()
    return max(a, b, key=lambda t: t.bit_width)


class Pool:
    """An opened pool. `Pool.open(path)` reads every footer and nothing else."""

    def __init__(self, path: Path, shards: list[Shard], cache: Path, *, distrust_cache: bool) -> None:
        self.path = path
        self.shards = shards
        self.cache = cache
        self._digests = DigestCache(path, cache, distrust=distrust_cache)
        self._seen: dict[str, Digests] = {}

    @classmethod
    def open(cls, path: Path, *, cache: Path | None = None, distrust_cache: bool = False) -> Pool:
        """Open the pool in folder `path`.

        Raises MissingInput (no such folder), IntegrityError (a shard that is not Parquet, or two of one name).
        """
        if not path.is_dir():
            what = "is a file, and a pool is a folder" if path.exists() else "no such pool folder"
            raise MissingInput(f"{path}: {what}", hint="headwater pool import SRC -o POOL makes one")
        files = sorted(
            f for f in path.iterdir() if ".parquet" in f.name and not f.name.startswith(".") and f.is_file()
        )
        shards = []
        names: dict[str, Path] = {}
        for file in files:
            name = file.name.split(".parquet")[0]
            if name in names:
                raise IntegrityError(
                    f"{file.name} and {names[name].name} are both shard {name!r} (a name ends at the first .parquet)",
                    hint="move one of them out of the pool",
                )
            names[name] = file
            if not file.name.endswith(".parquet"):
                say(
                    "warning",
                    f"{file.name}: read as a shard, since DataComp takes every name with .parquet in it",
                )
            shards.append(_open_shard(name, file))
        if not shards:
            say("warning", f"{path}: no shards (no file name contains .parquet)")
        return cls(path, shards, cache or path / CACHE_NAME, distrust_cache=distrust_cache)

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.rows for shard in self.shards)

    @cached_property
    def columns(self) -> list[str]:
        """Names of columns that any shard has, in the order of the first that has each."""
        return list(dict.fromkeys(name for shard in self.shards for name in shard.types))

    def column_type(self, name: str) -> pa.DataType:
        """The common type of one column; an unknown name offers the nearest."""
        if name not in self.columns:
            raise UsageError(f"the pool has no column {name!r}: {nearest(name, self.columns)}")
        return common_type(name, self.shards)

    def digests(self, shard: Shard) -> Digests:
        """Digests of a shard's bytes, from the cache when its size, time and inode still fit."""
        if shard.name not in self._seen:
            self._seen[shard.name] = self._digests.get(shard.path.name)
        return self._seen[shard.name]

    def file_digests(self, names: Iterable[str]) -> list[Digests]:
        """Digests of other files in the pool's folder, such as features, from the same cache."""
        found = [self._digests.get(name) for name in names]
        self._digests.save()
        return found

    @cached_property
    def id(self) -> str:
        """Identity of the pool: SHA-256 over the sorted (shard name, sha256) list, wherever it lies.

        Reads every shard the first time. Raises IntegrityError when a manifest beside the shards says otherwise.
        """
        manifest = self._manifest()
        entries = []
        for shard in self.shards:
            sha256 = self.digests(shard).sha256
            if manifest is not None and manifest.get(shard.path.name, sha256) != sha256:
                raise IntegrityError(
                    f"shard {shard.name}: its bytes are not those that {MANIFEST_NAME} names (sha256 {sha256[:12]}…)",
                    hint="the shard was damaged or replaced: fetch it again",
                )
            entries.append([shard.name, sha256])
        if manifest is not None:
            for name in sorted(manifest):
                if name.endswith(".parquet") and "/" not in name and not (self.path / name).is_file():
                    raise IntegrityError(f"{self.path}: {name} is in {MANIFEST_NAME} but not in the pool")
        if self._digests.read_bytes:
            say("info", f"read {self._digests.read_bytes / 1e6:,.1f} MB once to know the pool's id")
        self._digests.save()
        return identity_id({"pool": entries})

    def _manifest(self) -> dict[str, str] | None:
        path = self.path / MANIFEST_NAME
        if not path.is_file():
            return None
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except ValueError as error:
            raise IntegrityError(
                f"{path}: not a manifest/1 document", hint="remove it if it is not ours"
            ) from error
        return {entry.path: entry.sha256 for entry in manifest.entries}

    def __repr__(self) -> str:
        return f"Pool({self.path.name}: {self.rows:,} rows in {len(self.shards)} shards, {len(self.columns)} columns)"


def _open_shard(name: str, file: Path) -> Shard:
    size = file.stat().st_size
    if size == 0:
        raise IntegrityError(
            f"shard {name}: {file.name} is empty (0 bytes)", hint="fetch it again, or take it out of the pool"
        )
    try:
        metadata = pq.read_metadata(file)
        schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise IntegrityError(
            f"shard {name}: {file.name} is not readable Parquet: {reason}",
            hint="it is damaged or truncated: fetch it again",
        ) from error
    if metadata.num_columns > MAX_COLUMNS or metadata.num_row_groups > MAX_ROW_GROUPS:
        raise IntegrityError(
            f"shard {name}: {metadata.num_columns:,} columns, {metadata.num_row_groups:,} row groups: too many"
        )
    groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    if min(groups, default=0) < 0 or sum(groups) != metadata.num_rows:
        raise IntegrityError(f"shard {name}: the footer's row counts contradict each other")
    duplicated = {n for n in schema.names if schema.names.count(n) > 1}
    if duplicated:
        raise IntegrityError(f"shard {name}: column {sorted(duplicated)[0]!r} occurs twice")
    return Shard(name, file, metadata.num_rows, groups, {f.name: f.type for f in schema})
