"""The one read of a publishing: the digests of the whole tree, and the pieces of what is new, from the same bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.console import track

if TYPE_CHECKING:
    from distribute.digests import TreeDigests
    from distribute.publishing import PublishOptions
    from distribute.scan import Scan
    from headwater.manifest import Difference
    from headwater.release import OpenRelease


@dataclass(frozen=True)
class Job:
    """One publishing, with everything resolved."""

    folder: Path
    output: Path
    name: str
    kinds: tuple[str, ...]
    piece_size_bytes: int
    options: PublishOptions
    workers: int
    packed_bytes: int = 0  # of files that were copied into tars


def digest(job: Job, scan: Scan, *, v1: bool, hybrid: bool = False, part: bool = False) -> TreeDigests:
    """Digests of a tree, with what the cache knows and a bar. `part`: not of the whole folder."""
    from distribute.digestcache import TreeCache
    from distribute.digests import digest_tree

    cache = None
    if not job.options.pack:  # packed files are made anew each time
        cache = TreeCache(job.options.cache or job.folder / ".headwater", distrust=job.options.distrust_cache)
    with track("read", total=scan.size_bytes, unit="bytes") as bar:
        return digest_tree(
            scan.files,
            profiles=job.options.profiles,
            piece_size=job.piece_size_bytes,
            v1=v1,
            hybrid=hybrid,
            cache=cache,
            part=part,
            workers=job.workers,
            bar=bar,
        )


def read_ahead(job: Job, scan: Scan, parent: OpenRelease | None) -> TreeDigests | None:
    """Digests of what is new by path or size, with the pieces of the delta torrent: the one read of these files.

    A file that changed and kept its size is not known yet; then `new_files` reads for these pieces once more.
    """
    if parent is None or "delta" not in job.kinds:
        return None
    sizes = {entry.path: entry.size_bytes for entry in parent.manifest.entries}
    return _some_files(job, scan, {f.path for f in scan.files if sizes.get(f.path) != f.size_bytes})


def new_files(
    job: Job, scan: Scan, difference: Difference | None, ahead: TreeDigests | None
) -> TreeDigests | None:
    """Digests of what the parent does not have, for the delta torrent: pieces that run over these files alone."""
    if difference is None or "delta" not in job.kinds:
        return None
    wanted = {*difference.added, *difference.changed}
    return ahead if ahead and ahead.files.keys() == wanted else _some_files(job, scan, wanted)


def _some_files(job: Job, scan: Scan, wanted: set[str]) -> TreeDigests:
    chosen = replace(scan, files=[file for file in scan.files if file.path in wanted])
    return digest(job, chosen, v1=True, part=True)
