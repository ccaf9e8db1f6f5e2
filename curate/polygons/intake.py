"""A camera's folder looked at once: what each photo says, which belong together, which are the same; nothing is moved or changed.

The protocol of the photos is an object, the same view without it, and a place nearby that looks like it: "before", "after", "negative" (arXiv
2412.16473, section 3). Sorted by time, a group begins with a photo that has annotations; the next ones without any take the other roles, as long as
each follows within `gap_seconds`. A group's name comes from the bytes of its first photo, so that it stays when photos are added.
Photos are the same in bytes, in pixels as shown (another EXIF block, another orientation written), or nearly so in looks: a perceptual hash that
differs in few bits, which is a guess and is called one.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate.polygons import _schema
from curate.polygons._json_strict import dump, loads
from curate.polygons.exif import Photo, photo_of, read_bytes
from curate.polygons.labelme import scan_labelme
from curate.polygons.labelme_files import DATASET_NAME, is_labelme, read_document, walk
from curate.polygons.provenance import Provenance, with_source
from curate.polygons.store import Annotations, set_column
from headwater.errors import HeadwaterError, MissingInput, UsageError
from headwater.executor import Executor

ROLES = ("before", "after", "negative")
GAP_SECONDS = 600.0
NEAR_BITS = 6  # of 64
CONTRAST = 4.0  # grey levels; plainer photos have no hash worth comparing
PHOTOS = ("jpg", "jpeg", "png", "webp")
LIGHT_COUNT = 16  # fewer photos are not worth starting processes


@dataclass(frozen=True)
class Seen:
    """One photo: its name in the folder, digests of its bytes and its pixels as shown, a perceptual hash, and what it says."""

    name: str
    size_bytes: int
    sha256: str
    pixels: int
    phash: int
    contrast: float
    photo: Photo


@dataclass(frozen=True)
class Same:
    """Two photos that are the same: `kind` is bytes, pixels or near; `bits` differ in their hashes; whether they are of one group."""

    kind: str
    first: str
    second: str
    bits: int
    one_group: bool


@dataclass
class Intake:
    """All that was found; `bad`: (file, reason) of photos and sidecars that cannot be read, `others`: files that are neither."""

    annotations: Annotations
    seen: list[Seen]
    groups: dict[str, tuple[str, str]]  # photo -> (group, role)
    same: list[Same]
    bad: list[tuple[str, str]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def take_in(
    folder: Path | str,
    *,
    roles: Sequence[str] = ROLES,
    gap_seconds: float = GAP_SECONDS,
    near_bits: int = NEAR_BITS,
    source: Provenance | None = None,
    executor: Executor | None = None,
) -> Intake:
    """Look at all photos and LabelMe sidecars under `folder`; `source` is named for annotations that name none.

    The images of `annotations` get datetime, orientation, size and sha256, and under the key "intake" gps, camera, group and role.
    Raises MissingInput, UsageError (no photo at all, options that make no sense).
    """
    root = Path(folder)
    if not root.is_dir():
        raise MissingInput(f"{root}: no such folder")
    if not roles or len(set(roles)) != len(roles) or not gap_seconds > 0 or not 0 <= near_bits <= 11:
        raise UsageError("roles are different words, gap_seconds is above 0, near_bits is 0 to 11")
    names, sidecars, others = _sorted_out(root)
    if not names:
        raise UsageError(f"{root}: no photo (JPEG, PNG, WebP) in it", hint="name the folder of the photos")
    odd = {name for name in names if not _is_text(name)}
    seen, bad = look(root, [name for name in names if name not in odd], executor)
    bad += [(name, "its name is not UTF-8") for name in odd]
    if sidecars:
        found = scan_labelme(root)
        annotations, others = found.annotations, sorted(others + found.others)
        bad += [entry for entry in found.bad if entry[0] not in dict(bad)]
    else:
        annotations = _bare(seen)
    groups = group(seen, annotated(annotations), roles=roles, gap_seconds=gap_seconds)
    annotations = with_photos(annotations, seen, groups)
    if source is not None:
        annotations = with_source(annotations, source)
    return Intake(annotations, seen, groups, same_photos(seen, groups, near_bits), sorted(bad), others)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sorted_out(root: Path) -> tuple[list[str], list[str], list[str]]:
    names: list[str] = []
    sidecars: list[str] = []
    others: list[str] = []
    for name in walk(root):
        suffix = name.rpartition(".")[2].lower()
        kind = names if suffix in PHOTOS else sidecars if suffix == "json" else others
        kind.append(name)
    for name in sidecars:
        try:
            if name == DATASET_NAME or is_labelme(read_document(root / name)):
                return names, sidecars, others
        except HeadwaterError:
            return names, sidecars, others  # to be listed by the reader
    return names, [], sorted(others + sidecars)


def look(
    root: Path, names: Sequence[str], executor: Executor | None = None
) -> tuple[list[Seen], list[tuple[str, str]]]:
    """(what was seen, (file, reason) of what could not be read) of photos under `root`; serial unless told otherwise."""
    seen, bad = [], []
    executor = executor or Executor("serial")
    light = len(names) < LIGHT_COUNT
    for name, found in zip(
        names, executor.map_shards(functools.partial(_see, root), list(names), light=light), strict=True
    ):
        if isinstance(found, str):
            bad.append((name, found))
        else:
            seen.append(found)
    return seen, bad


def _see(root: Path, name: str) -> Seen | str:
    from curate._picture_decode import PictureError, decode
    from curate._picture_hash import contrast, grey_for_phash, phash_bits, pixels_hash

    try:
        data = read_bytes(root / name)
        photo = photo_of(data, name)
    except HeadwaterError as error:
        return error.message.removeprefix(f"{name}: ")
    try:
        image = decode(data)  # as shown
    except PictureError as error:
        return error.status
    grey = grey_for_phash(image)[None]
    digest = hashlib.sha256(data).hexdigest()
    return Seen(
        name, len(data), digest, pixels_hash(image), int(phash_bits(grey)[0]), float(contrast(grey)[0]), photo
    )


def annotated(annotations: Annotations) -> set[str]:
    """File names of images with at least one annotation."""
    names = annotations.images["file_name"].to_pylist()
    return {names[row] for row in set(annotations.image_rows.tolist()) if row >= 0 and names[row] is not None}


def group(
    seen: Sequence[Seen], marked: set[str], *, roles: Sequence[str] = ROLES, gap_seconds: float = GAP_SECONDS
) -> dict[str, tuple[str, str]]:
    """{photo: (group, role)}; `marked` photos begin a group. Photos without a time are in none.

    Times count in UTC when every photo tells its zone, else by the camera's clock.
    """
    timed = [one for one in seen if one.photo.taken]
    by_zone = all(one.photo.zone_from for one in timed)
    ordered = sorted(((_instant(one, by_zone), one.name, one) for one in timed), key=lambda entry: entry[:2])
    groups: dict[str, tuple[str, str]] = {}
    name, taken, last = "", 0, ordered[0][0] if ordered else None
    for when, _, one in ordered:
        if one.name in marked:
            name, taken = f"group-{one.sha256[:12]}", 0
        elif not name or taken == len(roles) or last is None or when - last > timedelta(seconds=gap_seconds):
            name = ""
            continue
        groups[one.name] = (name, roles[taken])
        taken, last = taken + 1, when
    return groups


def _instant(one: Seen, by_zone: bool) -> datetime:
    when = datetime.fromisoformat(one.photo.taken or "")
    offset = when.utcoffset() if by_zone else None
    return when.replace(tzinfo=None) - (offset or timedelta(0))


def same_photos(
    seen: Sequence[Seen], groups: Mapping[str, tuple[str, str]] | None = None, near_bits: int = NEAR_BITS
) -> list[Same]:
    """Photos that are the same, each with the first of its like; the strongest kind of each pair, sorted."""
    from curate._picture_near import near_pairs

    known: dict[tuple[int, int], str] = {}
    for kind in ("bytes", "pixels"):
        first: dict[Any, int] = {}
        for at, one in enumerate(seen):
            own = first.setdefault(one.sha256 if kind == "bytes" else one.pixels, at)
            if own != at:
                known.setdefault((own, at), kind)
    doubled = {later for _, later in known}
    single = [at for at, one in enumerate(seen) if at not in doubled and one.contrast >= CONTRAST]
    hashes = np.array([seen[at].phash for at in single], np.uint64)
    for left, right in near_pairs(hashes, None, near_bits):
        for i, j in zip(left.tolist(), right.tolist(), strict=True):
            known.setdefault((single[i], single[j]), "near")
    place = {one.name: (groups or {}).get(one.name, (f"alone {at}", ""))[0] for at, one in enumerate(seen)}
    found = []
    for (i, j), kind in known.items():
        a, b = seen[i], seen[j]
        bits = (a.phash ^ b.phash).bit_count()
        found.append(Same(kind, a.name, b.name, bits, place[a.name] == place[b.name]))
    return sorted(found, key=lambda pair: (pair.kind, pair.first, pair.second))


def across(same: Sequence[Same], split_of: Mapping[str, str]) -> list[Same]:
    """Those of `same` whose two photos are in different splits."""
    return [
        pair
        for pair in same
        if pair.first in split_of
        and pair.second in split_of
        and split_of[pair.first] != split_of[pair.second]
    ]


def with_photos(
    annotations: Annotations, seen: Sequence[Seen], groups: Mapping[str, tuple[str, str]]
) -> Annotations:
    """A copy whose images say what their photos say; images without a photo stay as they are."""
    by_name = {one.name: one for one in seen}
    rows = annotations.images.to_pylist()
    for row in rows:
        one = by_name.get(row["file_name"])
        if one is None:
            continue
        photo = one.photo
        found: dict[str, Any] = {
            "gps": photo.gps,
            "make": photo.make,
            "model": photo.model,
            "zone_from": photo.zone_from,
        }
        found["group"], found["role"] = groups.get(one.name, (None, None))
        extra = loads(row["extra"].encode()) if row["extra"] else {}
        extra["intake"] = {key: value for key, value in found.items() if value is not None}
        row["extra"] = dump(extra)
        row |= {"sha256": one.sha256, "datetime": photo.taken or row["datetime"]}
        row["orientation"] = photo.orientation or row["orientation"]
    table = annotations.images
    for name in ("sha256", "datetime", "orientation", "extra"):
        table = set_column(table, name, [row[name] for row in rows])
    return annotations.replace(images=table)


def _bare(seen: Sequence[Seen]) -> Annotations:
    """Images alone."""
    columns = {
        "id": list(range(1, len(seen) + 1)),
        "file_name": [one.name for one in seen],
        "width": [one.photo.width for one in seen],
        "height": [one.photo.height for one in seen],
    }
    schemas = (_schema.ANNOTATIONS, _schema.PARTS, _schema.VERTICES)
    tables = [schema.empty_table() for schema in schemas]
    return Annotations({"categories": []}, _schema.table(_schema.IMAGES, **columns), *tables)


def photo_table(intake: Intake) -> pa.Table:
    """One row a photo, for reports: every fact, places as JSON of exact fractions."""
    rows = []
    for one in intake.seen:
        group_name, role = intake.groups.get(one.name, (None, None))
        photo = replace(one.photo, tags={})
        rows.append(
            {
                "file_name": one.name, "size_bytes": one.size_bytes, "sha256": one.sha256, "pixels": one.pixels,
                "phash": f"{one.phash:016x}", "format": photo.format, "width": photo.width, "height": photo.height,
                "orientation": photo.orientation, "datetime": photo.taken, "datetime_from": photo.taken_from,
                "zone_from": photo.zone_from, "make": photo.make, "model": photo.model,
                "gps": dump(photo.gps) if photo.gps else None, "private": list(photo.private), "trouble": photo.trouble,
                "group": group_name, "role": role,
            }
        )  # fmt: skip
    whole = {"size_bytes": pa.int64(), "pixels": pa.int64(), "width": pa.int32(), "height": pa.int32()}
    kinds = whole | {"orientation": pa.int8(), "private": pa.list_(pa.string())}
    names = list(rows[0]) if rows else []
    return pa.Table.from_pylist(
        rows, schema=pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    )
