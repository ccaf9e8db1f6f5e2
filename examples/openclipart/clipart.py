"""The two Debian packages of clip art: fetch them, read each PNG with its SVG, say why one stays out.

Nothing in a file is trusted: sizes are limited before parsing or decoding, XML entities are refused, and a
symbolic link may only lead to a file of the same tree.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from PIL import Image

VERSION = "1:0.18+dfsg-19"
DEB_SHA256 = {
    "openclipart-png": "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    "openclipart-svg": "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
}
TREE = "usr/share/openclipart"

# Every licence statement of a file must be one of these; they are kept word for word.
PUBLIC_DOMAIN = (
    "http://web.resource.org/cc/PublicDomain",
    "http://creativecommons.org/licenses/publicdomain/",
    "Public Domain",
)
# The rights field should name a person or the public domain. These words contradict the licence field.
OTHER_RIGHTS = re.compile(r"copyleft|copyright|\(c\)|©|art libre|\bl?gpl\b|\bgnu\b|^\s*cc\s*$", re.IGNORECASE)

SVG_BYTES_MAX = 8_000_000
SVG_DEPTH_MAX = 200
TEXT_CHARS_MAX = 4_000
PNG_BYTES_MAX = 64_000_000
PNG_PIXELS_MAX = 256_000_000

# Pictures left out by hand, by sha256 of the PNG.
LEFT_OUT = frozenset(
    {"91d0e82e3c04bab00f37410e800358a3fbd5a7d022311d47c67184de4de37df6"}  # a symbol of a hate movement
)


class BuildError(Exception):
    """The build cannot go on; the message says what to do."""


class Skip(Exception):
    """One file stays out of the pool; the message is the reason that is counted."""


@dataclass
class Metadata:
    """What an SVG's RDF block says about itself, word for word."""

    title: str = ""
    description: str = ""
    keywords: list[str] = field(default_factory=list)
    author: str = ""
    licenses: list[str] = field(default_factory=list)
    rights: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Candidate:
    """A PNG that may enter the pool."""

    path: str  # below the PNG folder, with forward slashes
    real: Path
    sha256: str
    width: int
    height: int
    meta: Metadata


def read_metadata(data: bytes) -> Metadata:
    """The RDF block of an SVG. Entity declarations are refused, so nothing can expand or be fetched."""
    if len(data) > SVG_BYTES_MAX:
        raise Skip("svg over the size limit")
    found: dict[str, list[str]] = defaultdict(list)
    stack: list[str] = []
    text: list[str] = []
    works = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal works
        local = name.rpartition("|")[2]
        stack.append(local)
        text.clear()
        if len(stack) > SVG_DEPTH_MAX:
            raise Skip("svg nested too deep")
        works += local == "Work"
        if local == "license":
            found["license"] += [v for k, v in attributes.items() if k.endswith("|resource")]

    def end(_name: str) -> None:
        if "Work" in stack:
            key = "/".join(stack[stack.index("Work") + 1 :])
            if works == 1 or key.startswith("rights"):  # a few files hold two blocks: the first one speaks
                found[key].append("".join(text))
        stack.pop()
        text.clear()

    def entity(*_: object) -> None:
        raise Skip("svg declares entities")

    parser = expat.ParserCreate(namespace_separator="|")
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise Skip("svg not well formed") from error

    def first(key: str) -> str:
        return next(iter(found[key]), "")

    meta = Metadata(
        title=first("title"),
        description=first("description"),
        keywords=[k for k in found["subject/Bag/li"] if k.strip()],
        author=first("creator/Agent/title"),
        licenses=found["license"],
        rights=found["rights/Agent/title"],
    )
    texts = (meta.title, meta.description, meta.author, " ".join(meta.keywords))
    if max(map(len, texts)) > TEXT_CHARS_MAX:
        raise Skip("text over the size limit")
    return meta


def check_licence(meta: Metadata) -> None:
    """Only files whose every statement says public domain pass."""
    stated = [s for s in meta.licenses if s.strip()]
    if not stated:
        raise Skip("states no licence")
    if any("gpl" in s.lower() for s in stated):
        raise Skip("says GPL")
    if any(s not in PUBLIC_DOMAIN for s in stated):
        raise Skip("another licence")
    if any(OTHER_RIGHTS.search(r) for r in meta.rights):
        raise Skip("rights field contradicts the licence")


def inside(path: Path, root: Path) -> Path:
    """The file a link ends at, which must lie in the same tree."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:  # a loop
        raise Skip("link leads nowhere") from error
    if not real.is_relative_to(root.resolve()):
        raise Skip("link leaves the tree")
    if not real.is_file():
        raise Skip("link leads nowhere")
    return real


def read_candidate(png_root: Path, svg_root: Path, path: str) -> Candidate:
    svg = svg_root / Path(path).with_suffix(".svg")
    if not os.path.lexists(svg):
        raise Skip("no svg of that name")
    svg_real = inside(svg, svg_root)
    if svg_real.stat().st_size > SVG_BYTES_MAX:
        raise Skip("svg over the size limit")
    meta = read_metadata(svg_real.read_bytes())
    check_licence(meta)
    real = inside(png_root / path, png_root)
    if real.stat().st_size > PNG_BYTES_MAX:
        raise Skip("png over the size limit")
    data = real.read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            width, height = image.size
    except Exception as error:
        raise Skip("png not readable") from error
    if width * height > PNG_PIXELS_MAX:
        raise Skip("png over the pixel limit")
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 in LEFT_OUT:
        raise Skip("left out by hand")
    return Candidate(path, real, sha256, width, height, meta)


def list_pngs(root: Path) -> list[str]:
    found = [Path(d, f) for d, _, names in os.walk(root) for f in names if f.endswith(".png")]
    return sorted(f.relative_to(root).as_posix() for f in found)


def _run(command: list[str], cwd: Path) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, stdout=sys.stderr)
    except FileNotFoundError as error:
        raise BuildError(f"{command[0]} is not here: this needs Debian, or --png and --svg.") from error
    except subprocess.CalledProcessError as error:
        what = " ".join(command)
        raise BuildError(f"{what} failed. Is {VERSION} in your release? Try apt-get update.") from error


def fetch(cache: Path, package: str) -> Path:
    """Download one package with apt-get, check its sha256, unpack it with dpkg; no root needed."""
    cache.mkdir(parents=True, exist_ok=True)
    name = f"{package}_{VERSION.replace(':', '%3a')}_all.deb"
    if not (cache / name).exists():
        _run(["apt-get", "download", f"{package}={VERSION}"], cache)
    with (cache / name).open("rb") as f:
        found = hashlib.file_digest(f, "sha256").hexdigest()
    if found != DEB_SHA256[package]:
        raise BuildError(
            f"{cache / name}: sha256 is {found}, not {DEB_SHA256[package]}. Remove it and try again."
        )
    if not (cache / package).exists():
        partial = cache / f"{package}.partial"
        _run(["dpkg", "-x", name, partial.name], cache)
        partial.replace(cache / package)
    return cache / package / TREE / package.rpartition("-")[2]
