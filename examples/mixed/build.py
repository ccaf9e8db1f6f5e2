#!/usr/bin/env python3
"""Build the training pool of a DataComp experiment in small: clip art, stamps and emoji with captions.

    python examples/mixed/build.py OUT [--cache DIR] [--without SUITE ...]
    python examples/mixed/build.py OUT --folder NAME=DIR ...            packages already unpacked

Needs Pillow, numpy, pyarrow, and apt-get, dpkg and npm (no root). What a suite holds stays out, as does what
looks like it: the same file by sha256, or a difference hash within 4 of 64 bits. The suite shipped in
examples/suites/small is always one of the suites.
OUT gets webdataset shards (NNNNNNNN.tar with KEY.json, KEY.txt, KEY.webp), one Parquet table and one statistics
file beside each, and provenance.json. Same packages, suites and library versions: same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUITES = Path(__file__).resolve().parent.parent / "suites"
OPENCLIPART = SUITES.parent / "openclipart"
for folder in (OPENCLIPART, SUITES):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import clipart_tasks  # noqa: E402
import emoji_tasks  # noqa: E402
import numpy as np  # noqa: E402
import PIL  # noqa: E402
import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]  # noqa: E402
import pyarrow.parquet as pq  # type: ignore[import-untyped,unused-ignore]  # noqa: E402
import stamp_tasks  # noqa: E402
from clipart import BuildError  # noqa: E402
from near import DISTANCE, Seen, difference_hash, held  # noqa: E402
from PIL import Image, features  # noqa: E402
from pool_builder import load_pool_builder  # noqa: E402
from sources import PACKAGES, Sources  # noqa: E402
from wds import webp, write_file  # noqa: E402

SAMPLES_PER_SHARD = 1_000
SIDE = 96
SALT = "headwater-mixed-1"

Row = dict[str, Any]
SCHEMA = pa.schema(
    [(n, pa.string()) for n in ("uid", "url", "text")]
    + [(n, pa.int64()) for n in ("original_width", "original_height")]
    + [(n, pa.string()) for n in ("sha256", "key", "source", "language", "license", "source_path")]
)


@dataclass(frozen=True)
class Entry:
    """One row to be, with its picture as stored."""

    url: str
    text: str
    size: tuple[int, int]  # of the original
    sha256: str
    source: str
    language: str | None
    license: str
    source_path: str
    picture: bytes
    stored: tuple[int, int]

    @property
    def uid(self) -> str:
        """As in examples/openclipart: the same row has the same uid in both pools."""
        return hashlib.sha256(f"{self.url}\0{self.text}".encode()).hexdigest()[:32]


class Left:
    """What may go in: counts of every source by what became of its rows."""

    def __init__(self, suites: Seen) -> None:
        self.suites = suites
        self.counts: dict[str, Counter[str]] = {}

    def takes(self, source: str, sha256: str, picture_hash: int, rows: int = 1) -> bool:
        reason = self.suites.reason(sha256, picture_hash)
        told = {"exact": "held out", "near": "near duplicate of one held out", None: "rows"}[reason]
        self.counts.setdefault(source, Counter())[told] += rows
        return reason is None


def clip_art(sources: Sources, left: Left) -> Iterable[Entry]:
    """All eligible files of the two packages, every name of a picture a row."""
    builder = load_pool_builder()
    below = "usr/share/openclipart"
    candidates, skipped = clipart_tasks.eligible(
        sources.deb("openclipart-png", f"{below}/png"), sources.deb("openclipart-svg", f"{below}/svg")
    )
    counts = left.counts.setdefault("openclipart", Counter())
    counts["not eligible"] += skipped.total()
    stored: dict[str, tuple[bytes, tuple[int, int], int] | None] = {}
    for c in candidates:
        if c.sha256 not in stored:
            try:
                image = builder.render(c.real, SIDE)
            except Exception:  # whatever a decoder raises on a broken file, it is the file's fault
                stored[c.sha256] = None
            else:
                data = builder.encode(image)
                stored[c.sha256] = (data, image.size, difference_hash(data))
        found = stored[c.sha256]
        if found is None:
            counts["not decodable"] += 1
        elif left.takes("openclipart", c.sha256, found[2]):
            row = builder.describe(c, "", found[1])
            size = (c.width, c.height)
            place = (c.sha256, "openclipart", None, row["license"], c.path)
            yield Entry(row["url"], row["caption"], size, *place, found[0], found[1])


def stamps(sources: Sources, left: Left, languages: Sequence[str]) -> Iterable[Entry]:
    """Stamps that have a PNG, with their sentences in the languages asked for."""
    for s in stamp_tasks.read(sources.deb(stamp_tasks.PACKAGE, stamp_tasks.TREE)):
        texts = [(n, s.texts[n]) for n in languages if n in s.texts]
        if left.takes("tuxpaint", s.sha256, s.picture_hash, len(texts)):
            url = f"debian:{stamp_tasks.PACKAGE}/{stamp_tasks.VERSION}/{stamp_tasks.TREE}/{s.path}"
            for language, text in texts:
                place = (s.sha256, "tuxpaint", language, "GPL-2", s.path)
                yield Entry(url, text, s.size, *place, s.picture, size_of(s.picture))


def emoji(sources: Sources, left: Left, languages: Sequence[str]) -> Iterable[Entry]:
    """Fluent's drawings of characters that CLDR names."""
    emojis = emoji_tasks.read(sources, ("fluent",), languages, with_table=False)
    version = PACKAGES[emoji_tasks.FLUENT].version
    for code, data in sorted(emojis.files["fluent"].items()):
        texts = [(n, emojis.names[n][code]) for n in languages if code in emojis.names[n]]
        if not texts:
            left.counts.setdefault("fluent", Counter())["without a name"] += 1
            continue
        image = emoji_tasks.opened(data)
        picture, sha256 = webp(image, SIDE), hashlib.sha256(data).hexdigest()
        if left.takes("fluent", sha256, difference_hash(picture), len(texts)):
            url = f"npm:{emoji_tasks.FLUENT}/{version}/{code}"
            for language, text in texts:
                place = (sha256, "fluent", language, "MIT", f"{code}.webp")
                yield Entry(url, text, image.size, *place, picture, size_of(picture))


def size_of(picture: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(picture), formats=["WEBP"]) as image:
        return image.size


def row_of(entry: Entry, key: str) -> Row:
    return {
        "uid": entry.uid,
        "key": key,
        "caption": entry.text,
        "url": entry.url,
        "status": "success",
        "width": entry.stored[0],
        "height": entry.stored[1],
        "original_width": entry.size[0],
        "original_height": entry.size[1],
        "sha256": entry.sha256,
        "source": entry.source,
        "language": entry.language,
        "license": entry.license,
        "source_path": entry.source_path,
    }


def write_shard(out: Path, number: int, entries: Sequence[Entry]) -> None:
    """One tar, its table and its counts, as examples/openclipart/build.py writes them."""
    rows = []
    tar_bytes = io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for i, entry in enumerate(entries):
            row = row_of(entry, f"{number:08d}{i:04d}")
            rows.append({**row, "text": row["caption"]})
            document = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
            for extension, data in (
                ("json", document),
                ("txt", entry.text.encode()),
                ("webp", entry.picture),
            ):
                info = tarfile.TarInfo(f"{row['key']}.{extension}")  # mtime 0, uid 0, gid 0, mode 0644
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), table, compression="snappy")
    counts = {"count": len(rows), "successes": len(rows), "failed_to_download": 0, "failed_to_resize": 0}
    write_file(out / f"{number:08d}.tar", tar_bytes.getvalue())
    write_file(out / f"{number:08d}.parquet", table.getvalue())
    write_file(out / f"{number:08d}_stats.json", (json.dumps(counts, indent=2) + "\n").encode())


def build(
    out: Path, sources: Sources, suites: Sequence[Path], languages: Sequence[str], limit: int | None
) -> dict[str, Any]:
    """Write the pool into `out` and return what provenance.json says."""
    out.mkdir(parents=True, exist_ok=True)
    strangers = [p.name for p in out.iterdir() if p.name != ".cache"]
    if strangers:
        raise BuildError(f"{out}: not empty ({strangers[0]}). Name a new folder or remove its files first.")
    for suite in suites:
        if not (suite / "suite.yaml").is_file():
            raise BuildError(f"{suite}: no suite there. Build it first with examples/suites/build.py.")
    held_out = Seen(pair for suite in suites for pair in held(suite))
    left = Left(held_out)
    entries = [*clip_art(sources, left), *stamps(sources, left, languages), *emoji(sources, left, languages)]
    entries.sort(key=lambda e: hashlib.sha256(f"{SALT}\0{e.url}\0{e.text}".encode()).hexdigest())
    entries = entries[:limit]
    for number, start in enumerate(range(0, len(entries), SAMPLES_PER_SHARD)):
        write_shard(out, number, entries[start : start + SAMPLES_PER_SHARD])
    clip = [e for e in entries if e.source == "openclipart"]
    provenance = {
        "packages": dict(sorted(sources.used.items())),
        "made_with": {
            "pillow": PIL.__version__,
            "libwebp": features.version("webp"),
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
        },
        "suites": [hashlib.sha256((suite / "suite.yaml").read_bytes()).hexdigest() for suite in suites],
        "held_out_files": len(held_out.digests),
        "near_duplicate_distance": DISTANCE,
        "languages": list(languages),
        "sources": {source: dict(sorted(c.items())) for source, c in sorted(left.counts.items())},
        "rows": len(entries),
        "rows_by_source": dict(sorted(Counter(e.source for e in entries).items())),
        "rows_by_language": dict(sorted(Counter(str(e.language) for e in entries).items())),
        "distinct_pictures": len({e.sha256 for e in entries}),
        "distinct_texts": len({e.text for e in entries}),
        "openclipart_folders": dict(sorted(Counter(e.source_path.split("/")[0] for e in clip).items())),
    }
    write_file(out / "provenance.json", (show(provenance) + "\n").encode())
    return provenance


def show(provenance: dict[str, Any]) -> str:
    return json.dumps(provenance, indent=2, ensure_ascii=False)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--without", action="append", type=Path, default=[], metavar="SUITE")
    parser.add_argument("--languages", default="en", help="of stamps and emoji, such as en,de,fr (en)")
    parser.add_argument("--limit", type=int, help="at most this many rows (all)")
    parser.add_argument("--cache", type=Path, help="where packages are kept (OUT/.cache)")
    parser.add_argument(
        "--folder", action="append", default=[], metavar="NAME=DIR", help="an unpacked package"
    )
    args = parser.parse_args(argv)
    languages = list(dict.fromkeys(n for n in args.languages.split(",") if n))
    if not languages or (args.limit is not None and args.limit < 1):
        parser.error("--languages names at least one, and --limit starts at 1")
    folders = dict(entry.partition("=")[::2] for entry in args.folder)
    unknown = sorted(set(folders) - set(PACKAGES))
    if unknown:
        parser.error(f"--folder: no package {unknown[0]!r} is used; they are {', '.join(sorted(PACKAGES))}")
    try:
        sources = Sources(args.cache or args.out / ".cache", {n: Path(d) for n, d in folders.items()})
        suites = [SUITES / "small", *args.without]
        provenance = build(args.out, sources, suites, languages, args.limit)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(show(provenance))
    return 0


if __name__ == "__main__":
    sys.exit(main())
