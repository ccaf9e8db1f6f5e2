"""Trusted pairs: which rows of a pool are trusted, their captions, and the rows of the frozen towers for their pictures.

What the picture tower gave is kept under CACHE/towers/<id8>/<tar>-<sha256>.npz, since it costs nearly all of the time: another
run over other captions or another trusted set reads it there. Those files may be deleted at any time.
"""

from __future__ import annotations

import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate._jsonuid import OK
from curate.pool import Pool
from curate.shards import Scan, TarShard, read_sample
from curate.towers import Half, TowerFacts, Towers
from curate.views import RawView
from headwater.console import say, track
from headwater.errors import UsageError
from headwater.files import atomic_file, named_io, remove_stale_temporaries
from headwater.hashing import DigestCache
from headwater.manifest import identity_id

FOLDER = "towers"
FORMAT = 1  # of the kept files, and of how pictures reach the tower
BATCH = 64
Words = npt.NDArray[np.uint64]
Key = tuple[int, int]

NOT_IN_POOL, NO_CAPTION, NOT_IN_SHARDS = "not in the pool", "no caption", "no picture in the shards"


@dataclass
class Pairs:
    """Pairs in the order of their uids. `hashes` are 64-bit difference hashes of the pictures, `sha256` the pool's column or ''."""

    uids: Words
    captions: list[str]
    sha256: list[str]
    image: Half
    hashes: npt.NDArray[np.uint64]
    invalid: dict[str, int] = field(default_factory=dict)  # reason -> trusted uids without a pair

    def __len__(self) -> int:
        return len(self.captions)


def read_pairs(
    pool: Pool,
    trusted: Words,
    shards: list[TarShard],
    digests: DigestCache,
    facts: TowerFacts,
    towers: Towers,
) -> Pairs:
    """The pairs of the trusted uids (sorted, each once). Rows without a caption or a picture that opens are counted."""
    rows, invalid = _captions(pool, trusted)
    found = _pictures(rows, pool.cache, shards, digests, facts, towers)
    keys = sorted(rows)
    statuses = Counter(found[key][0] if key in found else NOT_IN_SHARDS for key in keys)
    usable = [key for key in keys if key in found and not found[key][0]]
    invalid.update({why: count for why, count in sorted(statuses.items()) if why})
    return Pairs(
        uids=np.array(usable, np.uint64).reshape(-1, 2),
        captions=[rows[key][0] for key in usable],
        sha256=[rows[key][1] for key in usable],
        image=np.array([found[key][2] for key in usable], np.float16).reshape(-1, towers.image_width),
        hashes=np.array([found[key][1] for key in usable], np.uint64),
        invalid=invalid,
    )


def plain_caption(text: str) -> str:
    """What makes two captions the same: compatibility forms, case and runs of white space do not count."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def difference_hash(image: Any) -> int:
    """64 bits: in each of 8 rows of 9 grey areas, whether an area is brighter than the one before it."""
    from PIL import Image

    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def rows_among(keys: Words, ordered: Words) -> npt.NDArray[np.int64]:
    """Numbers of the rows of `keys` (n, 2) that are in `ordered` (m, 2), which is sorted by both words."""
    first = np.searchsorted(ordered[:, 0], keys[:, 0], "left")
    last = np.searchsorted(ordered[:, 0], keys[:, 0], "right")
    found = np.zeros(len(keys), bool)
    single = last - first == 1
    found[single] = ordered[first[single], 1] == keys[single, 1]
    for row in np.flatnonzero(last - first > 1).tolist():  # uids with one upper half: rare, or made by hand
        found[row] = bool((ordered[first[row] : last[row], 1] == keys[row, 1]).any())
    return np.flatnonzero(found)


def _captions(pool: Pool, trusted: Words) -> tuple[dict[Key, tuple[str, str]], dict[str, int]]:
    """uid -> (caption, sha256 or '') of trusted rows with a caption, and counts of the others. The first of repeated rows counts."""
    if pool.column_type("text") is None:  # raises for a pool without one
        raise UsageError("the pool has no column 'text'")
    names = ["text"] + (["sha256"] if "sha256" in pool.columns else [])
    rows: dict[Key, tuple[str, str]] = {}
    empty: set[Key] = set()
    for shard in pool.shards:
        for block in RawView(shard, {name: pool.column_type(name) for name in names}).blocks():
            uids, bad = block.uids()
            wanted = np.setdiff1d(rows_among(uids, trusted), bad)
            if not len(wanted):
                continue
            taken = [pa.array(block.column(name)).take(pa.array(wanted)).to_pylist() for name in names]
            for number, row in enumerate(wanted.tolist()):
                key = (int(uids[row, 0]), int(uids[row, 1]))
                if key in rows or key in empty:
                    continue
                text = taken[0][number]
                if not isinstance(text, str) or not text.strip():
                    empty.add(key)
                    continue
                rows[key] = (text, str(taken[1][number] or "") if len(taken) > 1 else "")
    counts = {NOT_IN_POOL: len(trusted) - len(rows) - len(empty), NO_CAPTION: len(empty)}
    return rows, {why: count for why, count in counts.items() if count}


Found = tuple[str, int, Half]  # why there is no row ('' if there is one), hash, row of the tower


def _pictures(
    rows: dict[Key, tuple[str, str]],
    cache: Path,
    shards: list[TarShard],
    digests: DigestCache,
    facts: TowerFacts,
    towers: Towers,
) -> dict[Key, Found]:
    """uid -> what the picture tower gives; the first sample of a uid counts, in the order of the tars."""
    folder = cache / FOLDER / identity_id({"format": FORMAT, "towers": facts.digests})[:8]
    if folder.is_dir():
        remove_stale_temporaries(folder)  # of a run that was killed
    wanted = np.array(sorted(rows), np.uint64).reshape(-1, 2)
    found: dict[Key, Found] = {}
    with track("encode trusted pictures", total=len(rows), unit="pictures") as bar:
        for shard in shards:
            places = _places(shard, wanted)
            places = {key: place for key, place in places.items() if key not in found}
            sha256 = digests.get(shard.path.name).sha256
            path = folder / f"{shard.name}-{sha256[:16]}.npz"
            kept = _load(path, towers.image_width)
            missing = [key for key in places if key not in kept]
            if missing:
                kept.update(_encode(shard, missing, places, towers, bar))
                _save(path, kept, towers.image_width)
            found.update({key: kept[key] for key in places})
            bar.add(len(places) - len(missing))
    digests.save()
    return found


def _places(shard: TarShard, wanted: Words) -> dict[Key, tuple[int, int]]:
    """uid -> (offset, length) of wanted samples in a tar, in its order."""
    found: dict[Key, tuple[int, int]] = {}
    scan = Scan(shard)
    for batch in scan.batches():
        keys = np.stack([batch.hi, batch.lo], axis=1)
        for row in rows_among(keys, wanted).tolist():
            if batch.state[row] == OK:
                key = (int(keys[row, 0]), int(keys[row, 1]))
                found.setdefault(key, (int(batch.offset[row]), int(batch.length[row])))
    if scan.summary.damage:
        say("warning", f"{shard.name}: {scan.summary.damage['reason']}; what lies behind it is not seen")
    return found


def _encode(
    shard: TarShard, keys: list[Key], places: dict[Key, tuple[int, int]], towers: Towers, bar: Any
) -> Iterator[tuple[Key, Found]]:
    from curate.pictures import PictureError

    nothing = np.zeros(towers.image_width, np.float16)
    for start in range(0, len(keys), BATCH):
        some = keys[start : start + BATCH]
        opened = {}
        for key in some:
            try:
                image = _open(shard, key, places[key])
                opened[key] = difference_hash(image), towers.prepare(image)
            except PictureError as error:
                yield key, (error.status, 0, nothing)
        encoded = towers.pictures([prepared for _, prepared in opened.values()])
        for (key, (hashed, _)), row in zip(opened.items(), encoded, strict=True):
            yield key, ("", hashed, row)
        bar.add(len(some))


def _open(shard: TarShard, key: Key, place: tuple[int, int]) -> Any:
    from curate._image_header import SUFFIXES
    from curate.pictures import Picture, PictureError

    members = read_sample(shard.path, *place)
    extension = next((name for name in members if name.lower() in SUFFIXES), None)
    if extension is None:
        raise PictureError(NOT_IN_SHARDS)
    uid = f"{key[0]:016x}{key[1]:016x}"
    return Picture(uid=uid, key=uid, data=members[extension], extension=extension, tar=shard.name).open()


def _load(path: Path, width: int) -> dict[Key, Found]:
    """What is kept of a tar; a file that does not fit is ignored with a word."""
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            uids, why, hashes, image = (archive[name] for name in ("uid", "why", "hash", "image"))
        if (
            image.shape != (len(uids), width)
            or image.dtype != np.float16
            or not len(uids) == len(why) == len(hashes)
        ):
            raise ValueError(f"arrays of other shapes: {image.shape}")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        say("warning", f"{path.name}: cannot be used and is made again ({str(error).splitlines()[0]})")
        return {}
    keys = [(int(hi), int(lo)) for hi, lo in uids.tolist()]
    return {key: (str(w), int(h), row) for key, w, h, row in zip(keys, why, hashes, image, strict=True)}


def _save(path: Path, kept: dict[Key, Found], width: int) -> None:
    keys = sorted(kept)
    with named_io(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, durable=False) as handle:
        np.savez(
            handle,
            uid=np.array(keys, np.uint64).reshape(-1, 2),
            why=np.array([kept[key][0] for key in keys], "U40"),
            hash=np.array([kept[key][1] for key in keys], np.uint64),
            image=np.array([kept[key][2] for key in keys], np.float16).reshape(-1, width),
        )
