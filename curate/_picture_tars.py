"""Samples of webdataset tars as pictures: which tars there are, where each sample lies in them, and its bytes.

A sample's picture is its first member with the extension of an accepted format, else the first of another picture format (so
that the row is told to be of a format that is not accepted). Where samples lie is kept as a ShardIndex (curate.shards) under
CACHE/pictures/index/<first 16 digits of the tar's sha256>.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate import tar as tarfile
from curate._jsonuid import OK
from curate._picture_decode import MAX_BYTES, PictureError, decode
from curate.shards import Scan, TarShard, as_shard
from headwater.console import say
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.files import named_io, remove_stale_temporaries
from headwater.hashing import DigestCache
from headwater.manifest import identity_id

if TYPE_CHECKING:
    from PIL import Image

FOLDER = "pictures"
ACCEPTED = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
# members that are pictures too, although their formats are not read: the row says so, and not that it has no picture
REFUSED = (
    *("jpe", "jfif", "tif", "tiff", "psd", "eps", "ps", "sgi", "rgb", "jp2", "j2k", "jxl", "avif", "heic"),
    *(
        "ico",
        "cur",
        "pcx",
        "tga",
        "ppm",
        "pgm",
        "pbm",
        "pnm",
        "dds",
        "svg",
        "xpm",
        "fli",
        "icns",
        "qoi",
        "img",
    ),
)
MAX_READ_BYTES = MAX_BYTES + 1
MAX_CAPTION_BYTES = 1 << 20


@dataclass(frozen=True)
class Tar:
    """One tar of the folder, as it was when its digest was taken."""

    path: Path
    name: str
    sha256: str
    size_bytes: int
    mtime_ns: int

    @property
    def shard(self) -> TarShard:
        return TarShard(self.path, self.name, self.size_bytes, self.mtime_ns)


@dataclass
class Picture:
    """One sample with a picture: `data` are the bytes of the member, `extension` its suffix (which says nothing about the format),
    `caption` the sample's .txt; `caption_of_pool` is the pool's text of this uid (only with CAPTIONS = True), else `caption`.
    """

    uid: str
    key: str
    data: bytes = field(repr=False)
    extension: str = ""
    caption: str | None = None
    tar: str = ""
    pool_text: str | None = None
    status: str | None = None  # of the last `open`: "ok", or why it failed

    @property
    def caption_of_pool(self) -> str | None:
        return self.caption if self.pool_text is None else self.pool_text

    def open(self, max_side: int | None = None) -> Image.Image:
        """The picture in RGB, at most `max_side` long; see curate._picture_decode. Raises PictureError(status)."""
        try:
            image = decode(self.data, max_side)
        except PictureError as error:
            self.status = error.status
            raise
        self.status = "ok"
        return image


def list_tars(path: Path | None) -> list[Tar]:
    """Every .tar of a folder (or one file), by name, with its digest; a tar that was seen before is not read again.

    Raises UsageError (none named), MissingInput (no folder, or no tar in it), and IntegrityError for a file that does not begin as a
    tar does, before anything is read whole.
    """
    if path is None:
        raise UsageError("no shards are named", hint="--shards DIR names the folder of webdataset tars")
    folder, names = path, [path.name]
    if path.is_file():
        folder = path.parent
    elif path.is_dir():
        with named_io(path):
            names = sorted(
                e.name
                for e in os.scandir(path)
                if e.name.endswith(".tar") and not e.name.startswith(".") and e.is_file()
            )
        if not names:
            raise MissingInput(f"folder {path} holds no .tar file", hint="unpack compressed shards first")
    else:
        raise MissingInput(f"{path}: no such folder of shards")
    keys = tuple(_key(folder / name) for name in names)
    _check_begins(str(folder), keys, path.is_file())
    return list(_digested(str(folder), keys))


def _key(path: Path) -> tuple[str, int, int, int]:
    with named_io(path):
        found = path.stat()
    return path.name, found.st_size, found.st_mtime_ns, found.st_ino


@functools.lru_cache(maxsize=16)
def _check_begins(folder: str, keys: tuple[tuple[str, int, int, int], ...], named: bool) -> None:
    """Raises IntegrityError for a file whose first header is no tar's.

    One that is too short for a header may be a tar that was cut; where the file itself is `named` it is refused.
    """
    for name, size, *_ in keys:
        path = Path(folder) / name
        with named_io(path), open(path, "rb", buffering=0) as handle:
            read = functools.partial(_pread, handle.fileno())
            first = tarfile.next_member(read, size, str(path), 0)
        if named and isinstance(first, tarfile.Damage) and size < tarfile.BLOCK:
            raise IntegrityError(
                f"{path}: not a tar archive: {first.reason}",
                hint="--shards DIR names the folder of webdataset tars, or one tar",
            )


def _pread(fd: int, offset: int, length: int) -> bytes:
    return os.pread(fd, length, offset)


@functools.lru_cache(maxsize=16)  # asked for whenever a rule names the scorer
def _digested(folder: str, keys: tuple[tuple[str, int, int, int], ...]) -> tuple[Tar, ...]:
    cache = DigestCache(Path(folder), Path(folder) / ".headwater" / "tars")
    tars = []
    for name, size, mtime_ns, _ in keys:
        path = Path(folder) / name
        digests = cache.get(name)
        tars.append(Tar(path, name, digests.sha256, size, mtime_ns))
        if _key(path)[:3] != (name, size, mtime_ns):
            raise _changed(tars[-1])
    if cache.read_bytes:
        say("info", f"read {cache.read_bytes / 1e6:,.1f} MB of shards once to know their digests")
    cache.save()
    return tuple(tars)


def _changed(tar: Tar) -> IntegrityError:
    return IntegrityError(
        f"{tar.name}: changed while it was read", hint="stop what writes to it and run again"
    )


def shards_id(path: Path | None) -> str:
    """Identity of a folder of shards: SHA-256 over (name, sha256) of its tars."""
    return identity_id({"tars": [[tar.name, tar.sha256] for tar in list_tars(path)]})


@dataclass(frozen=True)
class Samples:
    """Where the samples of one tar lie: one row a sample, in tar order. `size` is -1 where there is no picture."""

    tar: Tar
    hi: npt.NDArray[np.uint64]
    lo: npt.NDArray[np.uint64]
    offset: npt.NDArray[np.int64]  # of its first header
    data: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    code: npt.NDArray[np.int64]  # of the picture's extension
    text: npt.NDArray[np.int64]  # (n, 2) offset and size of the .txt member, size -1 without one
    extensions: list[str]
    facts: dict[str, Any]

    def __len__(self) -> int:
        return len(self.hi)

    def uid(self, row: int) -> str:
        return f"{int(self.hi[row]):016x}{int(self.lo[row]):016x}"


def samples_of(tar: Tar, index: Path) -> Samples:
    """Walk a tar, or read its index under `index`. Raises IntegrityError for a header that lies."""
    now = as_shard(tar.path)
    if (now.size_bytes, now.mtime_ns) != (tar.size_bytes, tar.mtime_ns):
        raise _changed(tar)
    folder = index / tar.sha256[:16]
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale_temporaries(folder)
    scan = Scan(tar.shard, folder)
    columns: list[list[npt.NDArray[Any]]] = [[] for _ in range(7)]
    for batch in scan.batches():
        keep = np.flatnonzero(batch.state == OK)
        # the first member of a sample that is a picture: by rank, then by place
        rank = np.array([_rank(name) for name in scan.extensions], np.int64)[batch.members.code]
        count = len(batch.members.size)
        owner = np.repeat(np.arange(len(batch)), np.diff(batch.first))
        best = np.full(len(batch), 3 * count, np.int64)
        here = batch.first[0] if len(batch) else 0
        np.minimum.at(best, owner, rank[here:] * count + np.arange(here, count))
        found = best < 2 * count
        at = np.where(found, best % max(count, 1), 0)
        text = np.full((len(batch), 2), -1, np.int64)
        if "txt" in scan.extensions:
            rows = np.flatnonzero(batch.members.code == scan.extensions.index("txt"))
            text[owner[rows - here], 0], text[owner[rows - here], 1] = (
                batch.members.data[rows],
                batch.members.size[rows],
            )
        size = np.where(found, batch.members.size[at], -1) if count else np.zeros(0, np.int64)
        made = (batch.hi, batch.lo, batch.offset, batch.members.data[at], size, batch.members.code[at], text)
        for column, values in zip(columns, made, strict=True):
            column.append(values[keep])
    summary = scan.summary
    return Samples(
        tar,
        hi=_joined(columns[0], np.uint64),
        lo=_joined(columns[1], np.uint64),
        offset=_joined(columns[2], np.int64),
        data=_joined(columns[3], np.int64),
        size=_joined(columns[4], np.int64),
        code=_joined(columns[5], np.int64),
        text=np.concatenate([np.zeros((0, 2), np.int64), *columns[6]]),
        extensions=list(scan.extensions),
        facts={"samples": summary.samples, "invalid": summary.invalid, "damage": summary.damage},
    )


def _joined(parts: list[npt.NDArray[Any]], kind: type) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, kind), *parts])


def _rank(extension: str) -> int:
    last = extension.rpartition(".")[2]
    return 0 if last in ACCEPTED else 1 if last in REFUSED else 2


def read_pictures(
    samples: Samples, rows: Sequence[int] | npt.NDArray[np.int64], captions: dict[int, str] | None = None
) -> Iterator[tuple[int, Picture]]:
    """(row, picture) of samples that have one, in the order asked for."""
    tar = samples.tar
    with named_io(tar.path), open(tar.path, "rb", buffering=0) as handle:
        _same(tar, handle)
        fd = handle.fileno()
        for row in rows:
            row = int(row)
            size = int(samples.size[row])
            if size < 0:
                continue
            # what is too large to be decoded is told by its size, and not read
            data = os.pread(fd, min(size, MAX_READ_BYTES), int(samples.data[row]))
            caption = None
            if 0 <= samples.text[row, 1] <= MAX_CAPTION_BYTES:
                raw = os.pread(fd, int(samples.text[row, 1]), int(samples.text[row, 0]))
                caption = raw.decode("utf-8", "replace")
            yield (
                row,
                Picture(
                    uid=samples.uid(row),
                    key=_sample_key(fd, samples, row),
                    data=data,
                    extension=samples.extensions[int(samples.code[row])],
                    caption=caption,
                    tar=tar.name,
                    pool_text=None if captions is None else captions.get(row),
                ),
            )
        _same(tar, handle)


def _same(tar: Tar, handle: IO[bytes]) -> None:
    found = os.fstat(handle.fileno())
    if (found.st_size, found.st_mtime_ns) != (tar.size_bytes, tar.mtime_ns):
        raise _changed(tar)


def _sample_key(fd: int, samples: Samples, row: int) -> str:
    tar = samples.tar
    item = tarfile.next_member(
        lambda at, length: os.pread(fd, length, at), tar.size_bytes, tar.name, int(samples.offset[row])
    )
    split = tarfile.split_name(item.name) if isinstance(item, tarfile.Member) else ""
    return "" if isinstance(split, str) else split[0].decode("utf-8", "backslashreplace")
