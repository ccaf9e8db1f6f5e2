"""What `pool import` finds in its source: which layout, which files, and the id they have together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from curate._ingest_images import find_captions, is_picture, pictures
from curate._ingest_rows import ALIASES, CANONICAL
from headwater.console import track
from headwater.errors import MissingInput, UsageError, nearest
from headwater.executor import Executor
from headwater.hashing import digest_file
from headwater.manifest import InputRef

LAYOUTS = ("tars", "images", "parquet")
SMALL_BYTES = 32 << 20  # less than this is not worth starting processes for


@dataclass(frozen=True)
class Source:
    """What is imported: `files` are its paths inside `root`, in the order they are read."""

    root: Path
    layout: str
    files: tuple[str, ...]
    captions: Path | None
    mapping: Mapping[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return sum(os.path.getsize(self.root / name) for name in self.files)


def find_source(
    source: Path, output: Path, *, captions: Path | None, layout: str, mapping: Mapping[str, str]
) -> Source:
    """Look at what `source` holds, and decide how it is read."""
    if layout not in ("auto", *LAYOUTS):
        raise UsageError(f"--layout {layout!r}: {nearest(layout, ('auto', *LAYOUTS))}")
    for target in mapping:
        if target not in CANONICAL and target not in ALIASES:
            raise UsageError(
                f"--map {target}: unknown column {target!r}: {nearest(target, {*CANONICAL, *ALIASES})}"
            )
    if source.is_file() and ".parquet" in source.name and captions is None:
        return Source(source.parent, "parquet", (source.name,), None, mapping)
    if not source.is_dir():
        what = "is a file that is no Parquet" if source.exists() else "no such file or folder"
        raise MissingInput(f"{source}: {what}", hint="name a folder of tars, of pictures or of Parquet files")
    inside, outer = os.path.realpath(output), os.path.realpath(source)
    if inside == outer or inside.startswith(outer + "/"):
        raise UsageError(f"-o {output}: lies inside the source", hint="choose a folder outside of it")
    names = list(_walk(source))
    if layout == "auto":
        layout = _guess_layout(source, names, captions)
    if layout == "images":
        captions = captions or find_captions(source)
        return Source(source, layout, tuple(_image_files(source, captions)), captions, mapping)
    suffix = ".tar" if layout == "tars" else ".parquet"
    files = tuple(name for name in names if _matches(name, suffix))
    if not files:
        raise MissingInput(f"{source}: holds no {suffix} files")
    return Source(source, layout, files, None, mapping)


def _matches(name: str, suffix: str) -> bool:
    base = name.rpartition("/")[2]
    return suffix in base if suffix == ".parquet" else base.lower().endswith(suffix)


def _walk(root: Path) -> Iterable[str]:
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for file in sorted(files):
            if not file.startswith(".") and os.path.isfile(os.path.join(folder, file)):
                yield (Path(folder).relative_to(root) / file).as_posix()


def _guess_layout(source: Path, names: Sequence[str], captions: Path | None) -> str:
    if captions is not None:
        return "images"
    if any(_matches(name, ".tar") for name in names):
        return "tars"
    if any(is_picture(name.rpartition("/")[2]) for name in names):
        return "images"
    if any(_matches(name, ".parquet") for name in names):
        return "parquet"
    raise MissingInput(
        f"{source}: holds no tars, pictures or Parquet files", hint="name the folder that holds them"
    )


def _image_files(source: Path, captions: Path | None) -> list[str]:
    files = list(pictures(source))
    if captions is None:
        beside = [str(Path(name).with_suffix(".txt")) for name in files]
        files += sorted({name for name in beside if (source / name).is_file()})
    return files


def source_inputs(source: Source, executor: Executor) -> list[InputRef]:
    """The id of the source: SHA-256 over the sorted lines `sha256  path`, as sha256sum prints them."""
    names = list(source.files)
    if source.layout == "tars":
        names += [
            n
            for n in (str(Path(name).with_suffix(".parquet")) for name in names)
            if (source.root / n).is_file()
        ]
    elif source.layout == "parquet":
        names += [name for name in map(npz_name, names) if (source.root / name).is_file()]
    groups = [tuple(source.root / name for name in names[at : at + 256]) for at in range(0, len(names), 256)]
    if len(names) < 1024:
        groups = [(source.root / name,) for name in names]
    digests: list[str] = []
    with track("know the source", total=len(names), unit="files") as bar:
        for found in executor.map_shards(_digests, groups, light=source.size_bytes < SMALL_BYTES):
            digests += found
            bar.add(len(found))
    lines = sorted(f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=True))
    whole = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    inputs = [InputRef(role="source", id=whole)]
    if source.captions is not None:
        inputs.append(InputRef(role="captions", id=digest_file(source.captions, ("sha256",)).sha256))
    return inputs


def _digests(paths: tuple[Path, ...]) -> list[str]:
    return [digest_file(path, ("sha256",)).sha256 for path in paths]


def npz_name(parquet: str) -> str:
    folder, _, base = parquet.rpartition("/")
    stem = base.split(".parquet")[0]
    return f"{folder}/{stem}.npz" if folder else f"{stem}.npz"
