"""Which tars are meant by the paths of a command line, under which names, and what their identity is.

A path is a folder of tars, one tar, or a pattern such as `pool/0000*.tar`. Names are what the records of a run use: the file name
where all tars lie in one folder, else `folder/name` with as many parents as tell the folders apart. The order is that of names.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from curate.shards import TarShard, as_shard, list_shards
from headwater.errors import MissingInput, UsageError
from headwater.manifest import identity_id

MAX_SIZES_BYTES = 64 << 20
PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")


@dataclass
class Source:
    """The tars of one folder; `label` is "" when there is no other folder. `shards` keep their file names."""

    folder: Path
    label: str = ""
    shards: dict[str, TarShard] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def name(self, shard: TarShard) -> str:
        return f"{self.label}/{shard.name}" if self.label else shard.name


def list_sources(paths: Sequence[Path]) -> list[Source]:
    """The tars that `paths` name, by folder.

    Raises MissingInput when a path is not there or holds no tar, UsageError when it is another kind of file or named twice.
    """
    if not paths:
        raise UsageError(
            "no shards are named", hint="--data FOLDER, a .tar file, or a pattern like 'pool/0000*.tar'"
        )
    found: dict[Path, Source] = {}
    for path in paths:
        shards, notes = _listed(path)
        for shard in shards:
            folder = shard.path.parent
            source = found.setdefault(folder.resolve(), Source(folder))
            if shard.name in source.shards:
                raise UsageError(f"{shard.path}: named twice", hint="each tar is read once; name it once")
            source.shards[shard.name] = shard
            source.notes, notes = source.notes + notes, []
    sources = list(found.values())
    for source, label in zip(sources, _labels(list(found)), strict=True):
        source.label = label
    return sorted(sources, key=lambda source: source.label)


def _listed(path: Path) -> tuple[list[TarShard], list[str]]:
    if path.is_dir():
        try:
            return list_shards(path)
        except MissingInput as error:
            packed = sorted(entry.name for entry in path.iterdir() if entry.name.endswith(PACKED))
            if packed:
                error.hint = (
                    f"{len(packed)} compressed file(s) are there, like {packed[0]}: unpack them first"
                )
            raise
    if path.exists():
        if path.suffix != ".tar" or not path.is_file():
            raise UsageError(
                f"{path}: no .tar file", hint="name a folder of tars, a tar, or a pattern that fits some"
            )
        return [as_shard(path)], []
    if glob.has_magic(str(path)):
        matches = [Path(match) for match in sorted(glob.glob(str(path)))]
        tars = [match for match in matches if match.suffix == ".tar" and match.is_file()]
        if tars:
            return [as_shard(match) for match in tars], []
        raise MissingInput(f"{path}: no .tar file fits this pattern ({len(matches)} other files do)")
    raise MissingInput(f"{path}: no such folder or tar")


def _labels(folders: list[Path]) -> list[str]:
    if len(folders) == 1:
        return [""]
    depth = 1
    while True:
        labels = ["/".join(part for part in folder.parts[-depth:] if part != "/") for folder in folders]
        if len(set(labels)) == len(labels):
            return labels
        depth += 1


def data_id(sources: Sequence[Source], *, cache: Path | None = None, distrust_cache: bool = False) -> str:
    """Identity of the tars: of one folder what `headwater reshard` calls them, of several one over their labels and ids.

    Reads every byte of a tar that it has not seen. Digests are kept in `cache` (default: FOLDER/.headwater).
    """
    from curate.resharding import default_cache, shards_id

    ids = []
    for source in sources:
        kept = default_cache(source.folder) if cache is None else cache / source.label
        shards = [replace(shard, name=name) for name, shard in sorted(source.shards.items())]
        ids.append([source.label, shards_id(source.folder, shards, kept, distrust_cache=distrust_cache)])
    return ids[0][1] if len(ids) == 1 else identity_id({"sources": sorted(ids)})


def read_sizes(folder: Path) -> dict[str, Any] | str | None:
    """open_clip's sizes.json of a folder; None without one, or why it cannot be used."""
    path = folder / "sizes.json"
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_SIZES_BYTES:
            return f"larger than {MAX_SIZES_BYTES:,} bytes"
        sizes = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return type(error).__name__
    return sizes if isinstance(sizes, dict) else "no JSON object"
