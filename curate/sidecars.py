"""Score sidecars: columns of one scorer, at one version and configuration, kept beside the pool and keyed by uid.

    POOL/.headwater/scores/<scorer>-v<version>-<config8>/<shard>.parquet

Rows are those of the shard, in its order; `uid` comes first. A null means "not computed yet" (costly scorers are asked only for
rows that survive the clauses before them) or that the scorer itself gave null. The file carries the sha256 of the shard that it
was made from and is ignored, with a word, when that no longer fits.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from glob import escape as glob_escape
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headwater import plugins
from headwater.console import say
from headwater.errors import HeadwaterError, UsageError, nearest
from headwater.files import atomic_file, remove_stale_temporaries
from headwater.manifest import identity_id

METADATA_KEY = b"headwater"


@dataclass(frozen=True)
class ScorerRef:
    """A scorer at one configuration; the module is imported, and the model loaded, when first needed."""

    name: str
    config: tuple[tuple[str, Any], ...] = ()
    inputs: tuple[tuple[str, str], ...] = ()  # what a scorer of a whole pool read besides the shard: role, id

    def __reduce__(self) -> tuple[Any, ...]:
        # a worker imports the module and loads the model itself
        plugin = self.plugin
        file = (str(plugin.path), plugin.sha256) if plugin.sha256 else None
        return (_rebuilt, (self.name, self.config, self.inputs, file))

    @cached_property
    def plugin(self) -> plugins.Plugin:
        return plugins.find("scores", self.name)

    @cached_property
    def module(self) -> ModuleType:
        return scorer_module(self.name)

    @cached_property
    def outputs(self) -> dict[str, str]:
        """Column name -> Arrow type name; a scorer may name its columns after its configuration."""
        made = self.module.OUTPUT
        return dict(made(self.settings) if callable(made) else made)

    @cached_property
    def scope(self) -> str:
        """What the scorer looks at: rows, pool or pictures (see curate.scores)."""
        return str(getattr(self.module, "SCOPE", "rows"))

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """Pool columns that the scorer needs."""
        columns = self.module.COLUMNS
        return tuple(columns(self.settings) if callable(columns) else columns)

    @property
    def costly(self) -> bool:
        return bool(self.module.COST == "costly")

    @cached_property
    def settings(self) -> Any:
        """The scorer's Config; an unknown key offers the nearest."""
        fields = [f.name for f in dataclasses.fields(self.module.Config)]
        for key, _ in self.config:
            if key not in fields:
                raise UsageError(f"scorer {self.name} has no setting {key!r}: {nearest(key, fields)}")
        return self.module.Config(**dict(self.config))

    @cached_property
    def scorer(self) -> Any:
        """The loaded scorer. Raises MissingExtra when what it needs is not installed."""
        if not self.plugin.foreign:
            return self.module.Scorer(self.settings)
        with plugins.contained(f"scorer {self.name}", "cannot be made"):
            return self.module.Scorer(self.settings)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the scorer's answers: name, version, configuration, digests of its assets."""
        settings = dataclasses.asdict(self.settings)
        # where an asset lies does not decide anything; its digest, in `assets`, does
        settings = {k: v for k, v in settings.items() if not isinstance(v, Path)}
        inputs = {"inputs": dict(self.inputs)} if self.inputs else {}
        code = {"code": self.plugin.sha256} if self.plugin.sha256 else {}
        return {
            "scorer": self.name,
            "version": self.module.VERSION,
            "config": {
                k: v for k, v in settings.items() if k not in getattr(self.module, "PATH_SETTINGS", ())
            },
            "assets": {**dict(self.scorer.identity), **code},
            **inputs,
        }

    def folder(self, cache: Path) -> Path:
        """Where the sidecars of this scorer lie."""
        return cache / "scores" / f"{self.name}-v{self.module.VERSION}-{identity_id(self.identity)[:8]}"


def scorer_module(name: str) -> ModuleType:
    """The module of a scorer; one of someone else must define what a scorer is, which is told by name (UsageError)."""
    module, plugin = plugins.load("scores", name, whole=True), plugins.find("scores", name)
    if not plugin.foreign:
        return module
    wrong = []
    if not dataclasses.is_dataclass(module.Config):
        wrong.append("Config is no dataclass")
    if isinstance(module.VERSION, bool) or not isinstance(module.VERSION, int):
        wrong.append("VERSION is no int")
    if module.COST not in ("cheap", "costly"):
        wrong.append("COST is neither cheap nor costly")
    if getattr(module, "SCOPE", "rows") not in ("rows", "pool", "pictures"):
        wrong.append("SCOPE is none of rows, pool and pictures")
    if not callable(module.OUTPUT):
        try:
            {column: pa.type_for_alias(kind) for column, kind in dict(module.OUTPUT).items()}
        except (ValueError, TypeError, KeyError):
            wrong.append("OUTPUT is no mapping of column names to Arrow type names")
        else:
            wrong += [] if module.OUTPUT else ["OUTPUT is empty"]
    if wrong:
        raise UsageError(
            f"{plugin.path}: {'; '.join(wrong)}", hint="curate/scores/__init__.py says what a scorer is"
        )
    return module


def _rebuilt(name: str, config: Any, inputs: Any, file: tuple[str, str] | None) -> ScorerRef:
    if file is not None:
        plugins.add_file("scores", Path(file[0]), file[1])
    return ScorerRef(name, config, inputs)


@dataclass(frozen=True)
class StoredRef:
    """Scores that lie beside the pool and are not computed while filtering: of a whole pool, of pictures, or imported."""

    name: str
    path: Path
    columns: tuple[tuple[str, str], ...]
    identity_json: str  # canonical JSON of what decided them

    scope = "stored"
    costly = True
    reads: tuple[str, ...] = ()

    @property
    def outputs(self) -> dict[str, str]:
        """Column name -> Arrow type name."""
        return dict(self.columns)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides these scores."""
        return dict(json.loads(self.identity_json))

    def folder(self, cache: Path) -> Path:
        """Where the sidecars lie."""
        return self.path


def as_stored(ref: ScorerRef, cache: Path) -> StoredRef:
    """The scores of a configured scorer as what lies beside the pool."""
    text = json.dumps(ref.identity, sort_keys=True, default=str)
    return StoredRef(ref.name, ref.folder(cache), tuple(ref.outputs.items()), text)


def stored_scores(cache: Path, shard: str, shard_sha256: str) -> list[StoredRef]:
    """Every set of scores that lies beside the pool and fits the bytes of `shard` (the pool's first)."""
    found = []
    for path in sorted((cache / "scores").glob(f"*/{glob_escape(shard)}.parquet")):
        try:
            schema = pq.read_schema(path)
            facts = dict(json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}")))
            columns = tuple((f.name, str(f.type)) for f in schema if f.name != "uid")
        except (pa.ArrowException, OSError, ValueError, TypeError):
            continue
        if facts.pop("shard_sha256", None) != shard_sha256 or not isinstance(facts.get("scorer"), str):
            continue
        found.append(StoredRef(facts["scorer"], path.parent, columns, json.dumps(facts, sort_keys=True)))
    return found


def sidecar_fault(cache: Path, ref: ScorerRef | StoredRef, shard: str, shard_sha256: str, rows: int) -> str:
    """Why the sidecar of one shard cannot be used, from its footer alone; "" when it can."""
    path = sidecar_path(cache, ref, shard)
    if not path.is_file():
        return "is not there"
    try:
        with pq.ParquetFile(path) as file:
            facts = dict(json.loads((file.schema_arrow.metadata or {}).get(METADATA_KEY, b"{}")))
            if facts.get("shard_sha256") != shard_sha256:
                return "was made from other bytes of its shard"
            if file.metadata.num_rows != rows:
                return f"has {file.metadata.num_rows:,} rows, and its shard {rows:,}"
            return "" if set(ref.outputs) <= set(file.schema_arrow.names) else "has other columns"
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        return f"cannot be read ({str(error).splitlines()[0]})"


def sidecar_path(cache: Path, ref: ScorerRef | StoredRef, shard: str) -> Path:
    """The sidecar of one shard."""
    return ref.folder(cache) / f"{shard}.parquet"


def read_sidecar(cache: Path, ref: ScorerRef | StoredRef, shard: str, shard_sha256: str) -> pa.Table | None:
    """The stored columns of one shard, without the uid; None when there are none that fit."""
    path = sidecar_path(cache, ref, shard)
    if not path.is_file():
        return None
    try:
        file = pq.ParquetFile(path)
        facts = dict(json.loads((file.schema_arrow.metadata or {}).get(METADATA_KEY, b"{}")))
        if facts.get("shard_sha256") != shard_sha256:
            say(
                "warning",
                f"scores of {ref.name} for shard {shard} were made from other bytes of it, and are ignored",
            )
            return None
        return file.read(columns=list(ref.outputs), use_threads=False)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        say("warning", f"{path}: cannot be read and is ignored ({str(error).splitlines()[0]})")
        return None


def write_sidecar(
    cache: Path,
    ref: ScorerRef | StoredRef,
    *,
    shard: str,
    shard_sha256: str,
    uids: pa.Array | pa.ChunkedArray,
    scores: pa.Table,
    required: bool = False,
) -> None:
    """Store columns for one shard, atomically. A cache that cannot be written costs time later, nothing else;
    where the scores are what was asked for (`required`) it is an error.
    """
    path = sidecar_path(cache, ref, shard)
    table = pa.table({"uid": uids, **{name: scores[name] for name in ref.outputs}})
    facts = {"shard_sha256": shard_sha256, **ref.identity}
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(facts, sort_keys=True).encode()})
    dictionaries = [name for name, type_ in ref.outputs.items() if type_ == "string"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, durable=False) as handle:
            pq.write_table(
                table, handle, compression="zstd", compression_level=1, use_dictionary=dictionaries
            )
    except (OSError, HeadwaterError) as error:
        if required:
            raise
        say(
            "warning",
            f"scores of {ref.name} cannot be kept ({error}); use --cache DIR to keep them elsewhere",
        )


def sweep(cache: Path, refs: Iterable[ScorerRef | StoredRef]) -> None:
    """Remove temporaries that killed runs left among the sidecars of these scorers."""
    for ref in refs:
        if ref.folder(cache).is_dir():
            remove_stale_temporaries(ref.folder(cache))


def known_scorers() -> dict[str, ScorerRef]:
    """Column name -> the scorer of rows that makes it, at its default configuration."""
    found: dict[str, ScorerRef] = {}
    for plugin in plugins.family_members("scores"):
        ref = ScorerRef(plugin.name)
        try:
            columns = list(ref.outputs) if ref.scope == "rows" else []
        except Exception as error:  # a broken package of someone else must not end every filter
            if not plugin.foreign:
                raise
            say("warning", f"scorer {plugin.name} is left out: {error}")
            continue
        for column in columns:
            found.setdefault(column, ref)
    return found
