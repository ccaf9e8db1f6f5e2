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

    def __reduce__(self) -> tuple[Any, ...]:
        # a worker imports the module and loads the model itself
        return (ScorerRef, (self.name, self.config))

    @cached_property
    def module(self) -> ModuleType:
        return plugins.load("scores", self.name)

    @cached_property
    def outputs(self) -> dict[str, str]:
        """Column name -> Arrow type name."""
        return dict(self.module.OUTPUT)

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """Pool columns that the scorer needs."""
        return tuple(self.module.COLUMNS)

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
        return self.module.Scorer(self.settings)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the scorer's answers: name, version, configuration, digests of its assets."""
        settings = dataclasses.asdict(self.settings)
        # where an asset lies does not decide anything; its digest, in `assets`, does
        settings = {k: v for k, v in settings.items() if not isinstance(v, Path)}
        return {
            "scorer": self.name,
            "version": self.module.VERSION,
            "config": {
                k: v for k, v in settings.items() if k not in getattr(self.module, "PATH_SETTINGS", ())
            },
            "assets": dict(self.scorer.identity),
        }

    def folder(self, cache: Path) -> Path:
        """Where the sidecars of this scorer lie."""
        return cache / "scores" / f"{self.name}-v{self.module.VERSION}-{identity_id(self.identity)[:8]}"


def sidecar_path(cache: Path, ref: ScorerRef, shard: str) -> Path:
    """The sidecar of one shard."""
    return ref.folder(cache) / f"{shard}.parquet"


def read_sidecar(cache: Path, ref: ScorerRef, shard: str, shard_sha256: str) -> pa.Table | None:
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
    ref: ScorerRef,
    *,
    shard: str,
    shard_sha256: str,
    uids: pa.Array | pa.ChunkedArray,
    scores: pa.Table,
) -> None:
    """Store columns for one shard, atomically. A cache that cannot be written costs time later, nothing else."""
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
        say(
            "warning",
            f"scores of {ref.name} cannot be kept ({error}); use --cache DIR to keep them elsewhere",
        )


def sweep(cache: Path, refs: Iterable[ScorerRef]) -> None:
    """Remove temporaries that killed runs left among the sidecars of these scorers."""
    for ref in refs:
        if ref.folder(cache).is_dir():
            remove_stale_temporaries(ref.folder(cache))


def known_scorers() -> dict[str, ScorerRef]:
    """Column name -> the scorer that makes it, at its default configuration."""
    found: dict[str, ScorerRef] = {}
    for plugin in plugins.family_members("scores"):
        ref = ScorerRef(plugin.name)
        for column in ref.outputs:
            found.setdefault(column, ref)
    return found
