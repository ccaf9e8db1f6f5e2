"""Clip art that no shipped training picture equals or resembles, as classification by folder and as retrieval.

Held out: eligible pictures of the two openclipart packages that are in no pool given, no near duplicate of one,
not nearly blank, in one top-level folder only, and no near duplicate of another held-out picture.
"""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

from clipart import TREE, VERSION, Candidate, Skip, list_pngs, read_candidate
from near import Seen, difference_hash
from PIL import Image
from wds import Sample, order, webp

POOL_SIDE = 96  # the shipped pool's; difference hashes are defined on it

# How a top-level folder is called in a prompt: by what is in it, in words that titles use. "unsorted" names no
# class. Chosen among five wordings on the train split, with one small model trained on the shipped pool.
FOLDERS = {
    "animals": "an animal or a bird",
    "buildings": "a house",
    "buttons": "a button",
    "computer": "an icon",
    "containers": "a container",
    "decorations": "a decoration",
    "education": "a book",
    "electronics": "an electronic part",
    "food": "food",
    "geography": "a map",
    "logos": "a logo",
    "office": "paper",
    "people": "a man or a woman",
    "plants": "a flower or a tree",
    "recreation": "music, a card or a game",
    "science": "science",
    "shapes": "an arrow or a shape",
    "signs_and_symbols": "a flag",
    "special": "a pattern",
    "tools": "a tool",
    "transportation": "a car or a ship",
}
TEMPLATES = (
    "{c}",
    "clip art of {c}",
    "a clip art picture of {c}",
    "a drawing of {c}",
    "a simple drawing of {c}",
    "an icon of {c}",
    "a picture of {c}",
)

# A caption says something about the picture: words, not a file name, a series, an author or mark-up.
NO_CAPTION = re.compile(
    r"clipart by|part of the|untitled|[_@&#<>\\]|\b\w+\.(png|svg)\b|https?:", re.IGNORECASE
)
ITALIAN = "archit"  # one author, whose titles are Italian, is in the names of his files
LEFT_OUT = frozenset(
    ("fat man - interior of atomic bomb", "sexy lady", "shadow babe", "ragnetto incazzato", "cannabis leaf")
)
VARIANT = re.compile(r"\([^)]*\)|\b(bw|b and w|black and white|left|right|\w)\b|[\W\d]+", re.IGNORECASE)


@dataclass
class Held:
    """The pictures held out, in the order they are drawn in."""

    candidates: list[Candidate] = field(default_factory=list)
    hashes: dict[str, int] = field(default_factory=dict)  # by sha256
    pictures: dict[str, Image.Image] = field(default_factory=dict)  # by sha256, inside POOL_SIDE
    titles: Counter[str] = field(default_factory=Counter)  # of every eligible file, drawn or not
    counts: Counter[str] = field(default_factory=Counter)


def eligible(png: Path, svg: Path) -> tuple[list[Candidate], Counter[str]]:
    """The files that examples/openclipart takes for its pool, and why the others stay out."""
    Image.MAX_IMAGE_PIXELS = None  # checked on the header by read_candidate, before any decoding
    skipped: Counter[str] = Counter()
    found: list[Candidate] = []
    for path in list_pngs(png):
        try:
            found.append(read_candidate(png, svg, path))
        except Skip as reason:
            skipped[str(reason)] += 1
    return found, skipped


def hold_out(candidates: Sequence[Candidate], pool: Seen, openclipart: ModuleType) -> Held:
    """Pictures that may be tested on, given what training pools hold. Counts say why the others may not."""
    held = Held(titles=Counter(plain(c.meta.title) for c in candidates))
    tops: dict[str, set[str]] = defaultdict(set)
    for c in candidates:
        tops[c.sha256].add(c.path.split("/")[0])
    met = Seen()
    for c in sorted(candidates, key=lambda c: order(c.sha256, c.path)):
        reason = "in the pool" if c.sha256 in pool.digests else None
        if reason is None and c.sha256 in held.hashes:
            reason = "another name of a picture looked at"
        if reason is None:
            try:
                image = openclipart.render(c.real, POOL_SIDE)
            except Exception:  # whatever a decoder raises on a broken file, it is the file's fault
                held.counts["not decodable"] += 1
                continue
            held.hashes[c.sha256] = picture_hash = difference_hash(openclipart.encode(image))
            if openclipart.near_blank(image):
                reason = "nearly blank"
            elif pool.reason(c.sha256, picture_hash):
                reason = "near duplicate of one in the pool"
            elif len(tops[c.sha256]) > 1:
                reason = "in several folders"
            elif met.reason(c.sha256, picture_hash):
                reason = "near duplicate of one held out"
            else:
                met.add(c.sha256, picture_hash)
                held.candidates.append(c)
                held.pictures[c.sha256] = image
        held.counts[reason or "held out"] += 1
    return held


def plain(title: str) -> str:
    return " ".join(title.split()).casefold()


def sample(held: Held, c: Candidate, side: int, **more: Any) -> Sample:
    """A candidate as a sample; the picture is that of the pool, made smaller where `side` is."""
    told = {
        "source": f"debian:openclipart-png/{VERSION}/{TREE}/png/{quote(c.path)}",
        "sha256": c.sha256,
        "difference_hash": f"{held.hashes[c.sha256]:016x}",
        "license": next(s for s in c.meta.licenses if s.strip()),
    }
    return Sample(webp(held.pictures[c.sha256], side), "webp", told, **more)


@dataclass
class Folders:
    """The classification task: `classes` are top-level folders, in the order of their labels."""

    classes: list[str]
    test: list[Candidate]
    train: list[Candidate]

    def label(self, c: Candidate) -> int:
        return self.classes.index(c.path.split("/")[0])


def by_folder(held: Held, *, least: int, test: int, train: int, limit: int | None = None) -> Folders:
    """Classes with at least `least` pictures: of each, at most `test` and at least a half to test on, then `train`."""
    found: dict[str, list[Candidate]] = defaultdict(list)
    for c in held.candidates:
        found[c.path.split("/")[0]].append(c)
    classes = sorted(name for name, some in found.items() if name in FOLDERS and len(some) >= least)
    folders = Folders(classes, [], [])
    for name in classes:
        cut = min(test, -(-len(found[name]) * 2 // 3))
        folders.test += found[name][:cut]
        folders.train += found[name][cut : cut + train]
    folders.test.sort(key=lambda c: order("test", c.path))
    folders.train.sort(key=lambda c: order("train", c.path))
    folders.test, folders.train = folders.test[:limit], folders.train[:limit]
    return folders


def captioned(
    held: Held, *, limit: int, fits: Callable[[str], bool] | None = None
) -> list[tuple[Candidate, str]]:
    """Pictures whose title is a caption of two words or more that no other eligible file has.

    Of titles that differ in a number, a letter or a remark in brackets only the first drawn is taken.
    """
    taken: set[str] = set()
    chosen: list[tuple[Candidate, str]] = []
    for c in held.candidates:
        title = " ".join(c.meta.title.split())
        kind = " ".join(VARIANT.sub(" ", title).casefold().split())
        author = {w for w in plain(c.meta.author).split() if len(w) > 2}
        if (
            not 2 <= len(title.split()) <= 12
            or not title.isascii()
            or NO_CAPTION.search(title)
            or plain(title) in LEFT_OUT
            or ITALIAN in c.path.casefold()
            or held.titles[plain(title)] > 1
            or author & set(plain(title).split())
            or len(kind) < 3
            or kind in taken
            or (fits and not fits(title))
        ):
            continue
        taken.add(kind)
        chosen.append((c, title))
    return sorted(chosen[:limit], key=lambda pair: order("retrieval", pair[0].path))


def decode(picture: bytes) -> Image.Image:
    with Image.open(io.BytesIO(picture)) as image:
        image.load()
        return image.convert("RGBA") if image.mode != "RGB" else image.copy()
