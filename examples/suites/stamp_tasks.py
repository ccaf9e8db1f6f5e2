"""Tux Paint's stamps: cut-out pictures, each with a sentence in English and its translations.

`NAME.txt` beside `NAME.png` has the English sentence in its first line, then `LANGUAGE.utf8=SENTENCE` a line.
The package is GPL-2: tasks are built from it, and none is shipped.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipart import BuildError
from near import difference_hash
from PIL import Image
from wds import Sample, order, webp

POOL_SIDE = 96
TEXT_BYTES_MAX = 1_000_000
PNG_BYTES_MAX = 64_000_000
PIXELS_MAX = 64_000_000
PACKAGE = "tuxpaint-stamps-default"
TREE = "usr/share/tuxpaint/stamps"
VERSION = "2022.06.04-1"


@dataclass(frozen=True)
class Stamp:
    path: str  # of the picture, below the stamps
    real: Path
    texts: dict[str, str]  # by language; "en" is there
    sha256: str
    size: tuple[int, int]
    picture: bytes  # as a pool stores it
    picture_hash: int


def texts(data: bytes) -> dict[str, str]:
    """Sentences by language. A translation that only repeats the English is none."""
    lines = [" ".join(line.split()) for line in data.decode("utf-8", errors="replace").splitlines()]
    found = {"en": lines[0]} if lines and lines[0] else {}
    for line in lines[1:]:
        language, sign, sentence = line.partition(".utf8=")
        if sign and sentence and sentence != found.get("en") and language not in found:
            found[language] = sentence
    return found


def read(root: Path) -> list[Stamp]:
    """Every PNG with an English sentence, in the order of paths; SVG-only stamps need a renderer and stay out."""
    found = []
    for folder, _, names in sorted(os.walk(root)):
        for name in sorted(n for n in names if n.endswith(".png")):
            path = Path(folder, name)
            text = path.with_suffix(".txt")
            if not text.is_file() or path.is_symlink() or text.is_symlink():
                continue
            if text.stat().st_size > TEXT_BYTES_MAX or path.stat().st_size > PNG_BYTES_MAX:
                continue
            sentences = texts(text.read_bytes())
            if "en" in sentences:
                found.append(_stamp(root, path, sentences))
    if not found:
        raise BuildError(f"{root}: no stamps here")
    return found


def _stamp(root: Path, path: Path, sentences: dict[str, str]) -> Stamp:
    with Image.open(path, formats=["PNG"]) as image:
        if image.width * image.height > PIXELS_MAX:
            raise BuildError(f"{path}: over the pixel limit")
        picture, size = webp(image.convert("RGBA"), POOL_SIDE), image.size
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    name = path.relative_to(root).as_posix()
    return Stamp(name, path, sentences, sha256, size, picture, difference_hash(picture))


def retrieval(stamps: Sequence[Stamp], languages: Sequence[str], limit: int) -> list[Stamp]:
    """Stamps with a sentence in every language that no other stamp has in that language, in the order of a draw."""
    complete = [s for s in stamps if all(n in s.texts for n in languages)]
    counts = {n: [s.texts[n].casefold() for s in stamps if n in s.texts] for n in languages}
    alone = [s for s in complete if all(counts[n].count(s.texts[n].casefold()) == 1 for n in languages)]
    return sorted(alone, key=lambda s: order("stamps", s.path))[:limit]


def sample(stamp: Stamp, **more: Any) -> Sample:
    told = {
        "source": f"debian:{PACKAGE}/{VERSION}/{TREE}/{stamp.path}",
        "sha256": stamp.sha256,
        "difference_hash": f"{stamp.picture_hash:016x}",
        "license": "GPL-2",
    }
    return Sample(stamp.picture, "webp", told, **more)
