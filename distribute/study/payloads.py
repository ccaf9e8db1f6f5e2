"""What is sent: folders that a seed decides to the last byte, published once each.

    few-large     files of about 6.4 MB (ScatSpotter: 6.6 thousand photographs in 42 GB), as many as the size holds
    many-small    files of about 30 kB, 200 to a folder
    one-archive   a single file
    update        few-large, and the receiver has the parent release: 1/42 of the size is new
    annotation    few-large with a small JSON file beside each, and one of those has changed since the parent
    dataset       a folder of the user's

Bytes are random, as those of photographs and archives are to a compressor. The client of `update` and `annotation` starts from
a copy of the fetched parent; only what is missing there counts as payload.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distribute.study.options import DATASET, StudyOptions
from distribute.study.plan import UPDATE_SHARE
from headwater.console import Track, say, track
from headwater.files import write_json
from headwater.steps import RunOptions

LARGE_BYTES, SMALL_BYTES = 6_400_000, 30_000
LARGE_SPREAD, SMALL_SPREAD = 0.35, 0.9  # sigma of the log-normal sizes
PER_FOLDER = 200
BLOCK_BYTES = 4 << 20
MARK = "payload.json"  # written last: the payload is whole


@dataclass(frozen=True)
class Payload:
    """One thing to send. `sent_*`: files that the receiver does not have, which is all of them without a parent."""

    name: str
    release: Path
    base: Path | None  # a fetched parent, from which a client starts
    manifest_id: str
    files: int
    size_bytes: int
    sent_files: int
    sent_bytes: int
    torrent: str  # which of the release's torrents is used
    publish_seconds: float
    publish_cpu_seconds: float

    @property
    def data(self) -> Path:
        """The files that the seeders serve."""
        return self.release / "data"


def make(name: str, folder: Path, options: StudyOptions) -> Payload:
    """The payload in `folder`, made now or found there from an earlier run of the same study."""
    mark = folder / MARK
    if mark.is_file():
        told = json.loads(mark.read_bytes())
        return Payload(
            **{**told, "release": folder / "release", "base": folder / "base" if told["base"] else None}
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parent = base = None
    if name == DATASET:
        assert options.dataset is not None
        data = options.dataset
    else:
        data = folder / "data"
        parent = _generate(name, data, folder / "parent-data", options)
    if parent is not None:
        _publish(parent, folder / "parent", folder, None)
        base = folder / "base"
        _fetch(folder / "parent", base)
    facts = _publish(data, folder / "release", folder, folder / "parent" if parent else None)
    sent_files, sent_bytes = _new(folder, facts, parent is not None)
    payload = Payload(
        name=name,
        release=folder / "release",
        base=base,
        manifest_id=facts["manifest_id"],
        files=facts["files"],
        size_bytes=facts["size_bytes"],
        sent_files=sent_files,
        sent_bytes=sent_bytes,
        # v2 begins every file on a piece of its own: an update brings no neighbour's bytes
        torrent="v2" if parent else "v1",
        publish_seconds=facts["duration_seconds"],
        publish_cpu_seconds=facts["cpu_seconds"],
    )
    write_json(mark, {**asdict(payload), "release": "release", "base": "base" if base else None})
    return payload


def sizes(total: int, mean: int, spread: float, draw: random.Random, least: int = 1) -> list[int]:
    """Log-normal sizes in bytes with about this mean, each at least 1, whose sum is `total`."""
    count = max(round(total / mean), least)
    weights = [draw.lognormvariate(0.0, spread) for _ in range(count)]
    scale = (total - count) / sum(weights)
    found = [1 + int(weight * scale) for weight in weights]
    found[-1] += total - sum(found)
    return found


def tree(name: str, options: StudyOptions) -> dict[str, int]:
    """Paths and sizes in bytes of a generated payload, without its update."""
    draw = random.Random(f"sizes {options.seed} {name}")
    total = options.size_bytes
    if name == "one-archive":
        return {"archive.bin": total}
    if name == "many-small":
        many = sizes(total, SMALL_BYTES, SMALL_SPREAD, draw, least=10)
        return {f"{n // PER_FOLDER:04}/{n:06}.jpg": size for n, size in enumerate(many)}
    large = sizes(total, LARGE_BYTES, LARGE_SPREAD, draw, least=4)
    return {f"images/{n:05}.jpg": size for n, size in enumerate(large)}


def _generate(name: str, data: Path, parent: Path, options: StudyOptions) -> Path | None:
    """Write the files; the folder of the parent where the payload has one."""
    files = tree(name, options)
    extra: dict[str, int] = {}
    if name == "update":
        draw = random.Random(f"update {options.seed}")
        added = sizes(
            max(int(options.size_bytes * UPDATE_SHARE), 2), LARGE_BYTES, LARGE_SPREAD, draw, least=2
        )
        extra = {f"cohort-2/{n:05}.jpg": size for n, size in enumerate(added)}
    with track(f"make {name}", total=sum(files.values()) + sum(extra.values()), unit="bytes") as bar:
        _write(data if name not in ("update", "annotation") else parent, files, options.seed, bar)
        if name == "annotation":
            for path in files:
                _annotate(parent / f"{path}.json", path, 0, options.seed)
        if name in ("update", "annotation"):
            shutil.copytree(parent, data, copy_function=os.link)
        _write(data, extra, options.seed, bar)
    if name == "annotation":
        changed = sorted(files)[len(files) // 2]
        target = data / f"{changed}.json"
        target.unlink()  # a link to the parent's
        _annotate(target, changed, 1, options.seed)
    return parent if name in ("update", "annotation") else None


def _write(folder: Path, files: dict[str, int], seed: int, bar: Track) -> None:
    from numpy.random import PCG64, Generator

    for path, size in files.items():
        make = Generator(PCG64([seed, zlib.crc32(path.encode()), size]))
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as handle:
            for at in range(0, size, BLOCK_BYTES):
                handle.write(make.bytes(min(BLOCK_BYTES, size - at)))
        bar.add(size)


def _annotate(target: Path, image: str, version: int, seed: int) -> None:
    """A polygon file as annotators write them, some kilobytes long."""
    draw = random.Random(f"annotation {seed} {image} {version}")
    points = [[round(draw.uniform(0, 4000), 2), round(draw.uniform(0, 3000), 2)] for _ in range(120)]
    document = {"image": image, "version": version, "shapes": [{"label": "object", "points": points}]}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _publish(data: Path, release: Path, folder: Path, parent: Path | None) -> dict[str, Any]:
    from distribute.publishing import PublishOptions, publish

    options = PublishOptions(
        name="data",
        torrents=("v1", "v2"),
        parent=parent,
        cache=folder / f"cache-{data.name}",
        portable="off",
    )
    facts = publish(data, release, options, RunOptions())
    from headwater.steps import read_record

    record = read_record(release)
    assert record is not None
    return {
        **facts,
        "duration_seconds": record.energy.duration_seconds,
        "cpu_seconds": record.energy.cpu_seconds,
    }


def _fetch(release: Path, base: Path) -> None:
    from distribute.fetch import fetch
    from distribute.fetching.options import FetchOptions

    fetch([str(release)], base, FetchOptions(manifest=str(release / "manifest.json")))


def _new(folder: Path, facts: dict[str, Any], has_parent: bool) -> tuple[int, int]:
    """Files and bytes that a receiver with the parent lacks."""
    from headwater.manifest import diff_entries
    from headwater.release import open_release

    if not has_parent:
        return int(facts["files"]), int(facts["size_bytes"])
    new = open_release(folder / "release").manifest.entries
    difference = diff_entries(open_release(folder / "parent").manifest.entries, new)
    wanted = {*difference.added, *difference.changed}
    return len(wanted), sum(entry.size_bytes for entry in new if entry.path in wanted)


def files_below(folder: Path) -> Iterator[Path]:
    """Regular files, sorted."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def set_cache(payload: Payload, cache: str) -> None:
    """Bring the release's files into the page cache (warm), or ask the kernel to drop them (cold).

    Dropped are clean pages of these files only; caches of the disk itself, of directories and inodes, and of the programs stay.
    """
    for path in files_below(payload.release):
        fd = os.open(path, os.O_RDONLY)
        try:
            if cache == "cold":
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while os.read(fd, BLOCK_BYTES):
                    pass
        except OSError as error:
            say("warning", f"{path}: the cache could not be made {cache}: {error.strerror}")
        finally:
            os.close(fd)
