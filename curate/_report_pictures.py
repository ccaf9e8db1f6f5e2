"""Pictures for a report: found in webdataset tars by uid, embedded as data: URIs, small ones as they are, others made small.

Nothing in a tar is trusted: members are taken by their first bytes and never by name, sizes are read from headers before
anything is decoded, and whatever cannot be shown gives a reason instead.
"""

from __future__ import annotations

import base64
import io
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from curate._image_header import read_header
from curate.shards import TarShard, as_shard, build_index, find_in_index, list_shards, load_index, read_sample
from curate.subset import from_hex
from headwater.console import say, track
from headwater.errors import HeadwaterError, MissingInput

AS_IT_IS_BYTES = 12_000
AS_IT_IS_SIDE = 1024
MOST_PIXELS = 40_000_000
MOST_SAMPLE_BYTES = 32 << 20
SIDE = 192  # of a picture made small
QUALITY = 72
PICTURE_BUDGET_BYTES = 1_500_000  # of all data: URIs of a page
_MAGIC = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))


def sniff(data: bytes) -> str | None:
    """The media type that the first bytes say, of those a page may embed."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)


def data_uri(data: bytes) -> str:
    """A data: URI of one picture, at most a few kilobytes. Raises ValueError with the reason why there is none."""
    header = read_header(io.BytesIO(data))
    if header is None:
        raise ValueError("not a picture that can be read")
    if header.width * header.height > MOST_PIXELS:
        raise ValueError(f"{header.width:,} × {header.height:,} pixels are too many to decode")
    kind = sniff(data)
    if kind and len(data) <= AS_IT_IS_BYTES and max(header.width, header.height) <= AS_IT_IS_SIDE:
        return _uri(kind, data)
    return _uri("image/webp", _smaller(data))


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _smaller(data: bytes) -> bytes:
    from PIL import Image, ImageOps

    from curate._image_header import FORMATS

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                image.draft("RGB", (2 * SIDE, 2 * SIDE))
                turned = ImageOps.exif_transpose(image)
                alpha = "A" in turned.getbands() or "transparency" in turned.info
                plain = turned.convert("RGBA" if alpha else "RGB")
                plain.thumbnail((SIDE, SIDE))
                out = io.BytesIO()
                plain.save(out, "WEBP", quality=QUALITY, method=4)
    except Exception as error:  # Pillow raises many kinds for hostile bytes
        raise ValueError("the picture cannot be decoded") from error
    return out.getvalue()


@dataclass
class Album:
    """Pictures by uid, and lines about what could not be had."""

    uris: dict[str, str] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)  # uid -> why there is no picture
    notes: list[str] = field(default_factory=list)
    bytes_used: int = 0
    tars_read: int = 0

    def take(self, uid: str, members: Mapping[str, bytes]) -> None:
        """Embed the picture among the members of a sample, within the budget."""
        text = members.get("txt")
        if text is not None:
            self.captions[uid] = text[:4096].decode("utf-8", "replace")
        pictures = [
            data
            for name, data in sorted(members.items())
            if name not in ("json", "txt") and read_header(io.BytesIO(data))
        ]
        if not pictures:
            self.problems[uid] = "no picture in its sample"
            return
        try:
            uri = data_uri(pictures[0])
        except ValueError as error:
            self.problems[uid] = str(error)
            return
        if self.bytes_used + len(uri) > PICTURE_BUDGET_BYTES:
            self.problems[uid] = "left out to keep this page small"
            return
        self.bytes_used += len(uri)
        self.uris[uid] = uri


def find_tars(places: Iterable[Path], *, asked: bool) -> tuple[list[TarShard], list[str]]:
    """The tars of folders (or tars named themselves). A place without any is an error when it was asked for."""
    found: dict[Path, TarShard] = {}
    notes: list[str] = []
    for place in places:
        try:
            shards, words = ([as_shard(place)], []) if place.is_file() else list_shards(place)
        except MissingInput:
            if asked:
                raise
            continue
        notes += words if asked else []
        for shard in shards:
            found.setdefault(shard.path.resolve(), shard)
    return list(found.values()), notes


def collect(tars: Sequence[TarShard], wanted: Mapping[str, str], index_dirs: Sequence[Path] = ()) -> Album:
    """Look for the samples of `wanted` (uid -> name of the Parquet shard it lies in).

    Tars called like one of the Parquet shards are read first; the others only while something is still missing.
    """
    album = Album()
    missing = dict(wanted)
    near = [tar for tar in tars if tar.path.name.split(".tar")[0] in set(wanted.values())]
    rest = [tar for tar in tars if tar not in near]
    with track("look for pictures", total=len(missing), unit="rows") as bar:
        for tar in [*near, *rest]:
            if not missing:
                break
            before = len(missing)
            try:
                _from_tar(tar, missing, album, index_dirs)
                album.tars_read += 1
            except (HeadwaterError, OSError) as error:
                album.notes.append(f"{tar.name}: {error}")
                say("warning", f"{tar.name}: no pictures from it: {error}")
            bar.add(before - len(missing))
    return album


def _from_tar(tar: TarShard, missing: dict[str, str], album: Album, index_dirs: Sequence[Path]) -> None:
    table = next((t for t in (load_index(folder, tar) for folder in index_dirs) if t is not None), None)
    if table is None:
        table = build_index(tar)
    summary = json.loads(table.schema.metadata[b"headwater"])["summary"]
    if summary.get("damage"):
        damage = summary["damage"]
        album.notes.append(
            f"{tar.name} is damaged at byte {damage['offset']:,}: {damage['reason']}; samples behind it are not shown"
        )
    uids = sorted(missing)
    words = from_hex(uids)
    here = set(np.asarray(table.column("uid_hi")).tolist())
    for uid, (high, low) in zip(uids, words.tolist(), strict=True):
        if high not in here:
            continue
        for offset, length in find_in_index(table, high, low)[:1]:
            missing.pop(uid)
            if length > MOST_SAMPLE_BYTES:
                album.problems[uid] = f"its sample has {length:,} bytes"
                continue
            album.take(uid, read_sample(tar.path, offset, length))


def some_samples(tars: Sequence[TarShard], count: int, seed: int) -> tuple[list[tuple[str, str]], list[str]]:
    """Uids with the names of their tars: the lowest hashes of uid and seed in up to eight tars spread over all."""
    from curate.clauses import mix
    from curate.subset import to_hex

    spread = [tars[i * len(tars) // 8] for i in range(8)] if len(tars) > 8 else list(tars)
    ranked: list[tuple[int, str, str]] = []
    notes: list[str] = []
    for tar in spread:
        try:
            table = build_index(tar)
        except (HeadwaterError, OSError) as error:
            notes.append(f"{tar.name}: {error}")
            continue
        words = np.stack(
            [np.asarray(table.column(n)).astype(np.uint64) for n in ("uid_hi", "uid_lo")], axis=1
        )
        words = np.unique(words, axis=0)
        ranks = mix(words[:, 0] ^ mix(words[:, 1] ^ mix(np.array([seed & (2**64 - 1)], np.uint64))))
        lowest = np.argsort(ranks, kind="stable")[:count]
        ranked += [
            (int(ranks[i]), uid, tar.path.name.split(".tar")[0])
            for i, uid in zip(lowest, to_hex(words[lowest]), strict=True)
        ]
    chosen: dict[str, str] = {}
    for _, uid, name in sorted(ranked):
        chosen.setdefault(uid, name)
    return list(chosen.items())[:count], notes
