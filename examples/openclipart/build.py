#!/usr/bin/env python3
"""Build a real image-text pool from two Debian packages of public-domain clip art.

    python examples/openclipart/build.py OUT [--limit 3000 | --all] [--side 96] [--cache DIR]
    python examples/openclipart/build.py OUT --png DIR --svg DIR      (packages already unpacked)

Needs Pillow, pyarrow, and Debian's apt-get and dpkg (no root). Every PNG is paired with the RDF block of the
SVG of the same name: the caption (its title), description, keywords, author and licence statement.
OUT gets webdataset shards (NNNNNNNN.tar with KEY.json, KEY.txt, KEY.webp), one Parquet table and one
statistics file beside each, and provenance.json. Same packages and library versions: same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import PIL
import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped,unused-ignore]
from clipart import (
    DEB_SHA256,
    TREE,
    VERSION,
    BuildError,
    Candidate,
    Skip,
    fetch,
    list_pngs,
    read_candidate,
)
from PIL import Image, features

EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
EMAIL_MARK = "[e-mail]"

SALT = "headwater-openclipart-1"
CLUSTER_MAX = 16  # a picture under more names than this is sampled name by name
SAMPLES_PER_SHARD = 1_000
WEBP_QUALITY = 80


# ---- choosing ----------------------------------------------------------------------------------------------


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def choose(candidates: Sequence[Candidate], limit: int | None) -> list[Candidate]:
    """At most `limit` candidates, drawn by hash: every file has the same chance, whatever its title or size.

    All names of one picture are drawn together, so exact duplicates keep their share. Only a picture with
    more than CLUSTER_MAX names is drawn name by name, or it alone would decide that share.
    """
    names = Counter(c.sha256 for c in candidates)
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for c in candidates:
        groups[digest(SALT, c.sha256 if names[c.sha256] <= CLUSTER_MAX else c.path)].append(c)
    chosen: list[Candidate] = []
    for key in sorted(groups):
        if limit is not None and len(chosen) + len(groups[key]) > limit:
            break
        chosen += groups[key]
    return sorted(chosen, key=lambda c: digest("order", c.path))


# ---- pictures ----------------------------------------------------------------------------------------------


def fit(width: int, height: int, side: int) -> tuple[int, int]:
    """The size inside a side x side box with the same aspect; never larger than the original."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def render(path: Path, side: int) -> Image.Image:
    """The picture on white in RGB, inside side x side; in strips, so a huge PNG is never copied whole."""
    with Image.open(path, formats=["PNG"]) as image:
        image.load()
        width, height = image.size
        size = fit(width, height, side)
        step = max(1, min(width // size[0], height // size[1]) // 3)  # box average, 3x is left for the resize
        small = Image.new("RGB", (-(-width // step), -(-height // step)))
        rows = max(1, 4_000_000 // (width * step)) * step
        for top in range(0, height, rows):
            strip = image.crop((0, top, width, min(height, top + rows))).convert("RGBA")
            flat = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB")
            small.paste(flat.reduce(step), (0, top // step))
    return small.resize(size, Image.Resampling.LANCZOS) if small.size != size else small


def near_blank(image: Image.Image) -> bool:
    """No channel spans more than 8 of its 256 levels."""
    bands = [band.getextrema() for band in image.split()]
    return all(int(str(high)) - int(str(low)) <= 8 for low, high in bands)


def encode(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, format="WEBP", quality=WEBP_QUALITY, method=6)
    return out.getvalue()


# ---- writing -----------------------------------------------------------------------------------------------

Row = dict[str, Any]
SCHEMA = pa.schema(
    [(n, pa.string()) for n in ("uid", "url", "text")]
    + [(n, pa.int64()) for n in ("original_width", "original_height")]
    + [("sha256", pa.string()), ("key", pa.string()), ("title", pa.string()), ("description", pa.string())]
    + [("keywords", pa.list_(pa.string())), ("author", pa.string()), ("license", pa.string())]
    + [("source_path", pa.string())]
)


def clean(text: str) -> str:
    return EMAIL.sub(EMAIL_MARK, text)


def present(text: str) -> str | None:
    """Missing is null, and a blank field is missing."""
    return clean(text) if text.strip() else None


def describe(c: Candidate, key: str, size: tuple[int, int]) -> Row:
    """The json of one sample: img2dataset's fields, then ours."""
    url = f"debian:openclipart-png/{VERSION}/{TREE}/png/{quote(c.path)}"
    text = present(c.meta.title) or ""
    return {
        "uid": digest(url, text)[:32],
        "key": key,
        "caption": text,
        "url": url,
        "status": "success",
        "width": size[0],
        "height": size[1],
        "original_width": c.width,
        "original_height": c.height,
        "sha256": c.sha256,
        "title": present(c.meta.title),
        "description": present(c.meta.description),
        "keywords": [clean(k) for k in c.meta.keywords],
        "author": present(c.meta.author),
        "license": next(s for s in c.meta.licenses if s.strip()),
        "source_path": c.path,
    }


def write_file(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def write_shard(out: Path, number: int, samples: Iterable[tuple[Row, bytes]]) -> list[Row]:
    rows: list[Row] = []
    tar_bytes = io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row, picture in samples:
            rows.append(row)
            document = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
            for extension, data in (("json", document), ("txt", row["caption"].encode()), ("webp", picture)):
                info = tarfile.TarInfo(f"{row['key']}.{extension}")  # mtime 0, uid 0, gid 0, mode 0644
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    table = pa.Table.from_pylist([{**r, "text": r["caption"]} for r in rows], schema=SCHEMA)
    parquet_bytes = io.BytesIO()
    pq.write_table(table, parquet_bytes, compression="snappy")
    counts = {"count": len(rows), "successes": len(rows), "failed_to_download": 0, "failed_to_resize": 0}
    write_file(out / f"{number:08d}.tar", tar_bytes.getvalue())
    write_file(out / f"{number:08d}.parquet", parquet_bytes.getvalue())
    write_file(out / f"{number:08d}_stats.json", (json.dumps(counts, indent=2) + "\n").encode())
    return rows


def statistics(rows: Sequence[Row], blank: int) -> dict[str, Any]:
    """Counts of what a filter can find in the pool; all but near_blank follow from the Parquet tables."""
    texts = Counter(r["caption"] for r in rows)
    pictures = Counter(r["sha256"] for r in rows)
    short = [min(r["original_width"], r["original_height"]) for r in rows]
    ratio = [max(r["original_width"], r["original_height"]) / s for r, s in zip(rows, short, strict=True)]
    return {
        "distinct_pictures": len(pictures),
        "distinct_texts": len(texts),
        "rows_whose_picture_occurs_again": sum(n for n in pictures.values() if n > 1),
        "rows_removed_by_exact_dedup": len(rows) - len(pictures),
        "most_names_of_one_picture": max(pictures.values(), default=0),
        "text_empty": texts[""],
        "text_one_word": sum(len(r["caption"].split()) == 1 for r in rows),
        "text_at_most_two_words": sum(len(r["caption"].split()) <= 2 for r in rows),
        "text_like_a_file_name": sum(bool(re.fullmatch(r"\S*[_\d-]\S*", r["caption"].strip())) for r in rows),
        "text_not_ascii": sum(not r["caption"].isascii() for r in rows),
        "text_shared_by_20_or_more": sum(n for n in texts.values() if n >= 20),
        "text_used_once": sum(n == 1 for n in texts.values()),
        "with_description": sum(r["description"] is not None for r in rows),
        "with_keywords": sum(bool(r["keywords"]) for r in rows),
        "email_addresses_masked": sum(
            json.dumps([r["title"], r["description"], r["keywords"], r["author"]]).count(EMAIL_MARK)
            for r in rows
        ),
        "short_side_below_200": sum(s < 200 for s in short),
        "short_side_median": sorted(short)[len(short) // 2] if short else None,
        "short_side_min": min(short, default=None),
        "long_side_max": max((max(r["original_width"], r["original_height"]) for r in rows), default=None),
        "aspect_above_3": sum(a > 3 for a in ratio),
        "near_blank": blank,
        "top_texts": [[t, n] for t, n in sorted(texts.items(), key=lambda i: (-i[1], i[0]))[:20]],
        "folders": dict(sorted(Counter(r["source_path"].split("/")[0] for r in rows).items())),
        "licenses": dict(sorted(Counter(r["license"] for r in rows).items())),
    }


def build(
    out: Path, *, png: Path, svg: Path, limit: int | None, side: int, checked_debs: dict[str, str]
) -> dict[str, Any]:
    """Write the pool into `out` and return what provenance.json says.

    `checked_debs` names the packages whose sha256 was checked: none when the trees were given unpacked.
    """
    for root in (png, svg):
        if not root.is_dir():
            raise BuildError(f"{root}: no such folder. Unpack the packages, or leave out --png and --svg.")
    out.mkdir(parents=True, exist_ok=True)
    strangers = [p.name for p in out.iterdir() if p.name != ".cache"]
    if strangers:
        raise BuildError(f"{out}: not empty ({strangers[0]}). Name a new folder or remove its files first.")

    Image.MAX_IMAGE_PIXELS = None  # ours is PNG_PIXELS_MAX, checked on the header before any decoding
    skipped: Counter[str] = Counter()
    candidates: list[Candidate] = []
    paths = list_pngs(png)
    for path in paths:
        try:
            candidates.append(read_candidate(png, svg, path))
        except Skip as reason:
            skipped[str(reason)] += 1
    chosen = choose(candidates, limit)

    pictures: dict[str, tuple[bytes, tuple[int, int], bool]] = {}
    kept: list[Candidate] = []
    for c in chosen:
        if c.sha256 not in pictures:
            try:
                image = render(c.real, side)
            except Exception:  # whatever a decoder raises on a broken file, it is the file's fault
                skipped["png not decodable"] += 1
                continue
            pictures[c.sha256] = (encode(image), image.size, near_blank(image))
        kept.append(c)

    rows: list[Row] = []
    for number, start in enumerate(range(0, len(kept), SAMPLES_PER_SHARD)):
        part = kept[start : start + SAMPLES_PER_SHARD]
        rows += write_shard(
            out,
            number,
            (
                (describe(c, f"{number:08d}{i:04d}", pictures[c.sha256][1]), pictures[c.sha256][0])
                for i, c in enumerate(part)
            ),
        )
    not_drawn = len(candidates) - len(chosen)
    if len(paths) != len(rows) + not_drawn + sum(skipped.values()):
        raise BuildError("counts do not close: PNG files != rows + not drawn + skipped")
    provenance = {
        "packages": [{"name": n, "version": VERSION, "deb_sha256": h} for n, h in checked_debs.items()],
        "settings": {
            "limit": limit,
            "side": side,
            "webp_quality": WEBP_QUALITY,
            "background": "white",
            "salt": SALT,
        },
        "made_with": {
            "pillow": PIL.__version__,
            "libwebp": features.version("webp"),
            "pyarrow": pa.__version__,
        },
        "png_files": len(paths),
        "eligible": len(candidates),
        "eligible_sha256": digest(*(f"{c.path}\t{c.sha256}" for c in candidates)),
        "skipped": dict(sorted(skipped.items())),
        "not_drawn": not_drawn,
        "rows": len(rows),
        "rate": round(len(chosen) / len(candidates), 6) if candidates else None,
        "statistics": statistics(rows, sum(pictures[c.sha256][2] for c in kept)),
    }
    write_file(out / "provenance.json", (show(provenance) + "\n").encode())
    return provenance


def show(provenance: dict[str, Any]) -> str:
    return json.dumps(provenance, indent=2, ensure_ascii=False)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--limit", type=int, default=3_000, help="at most this many rows (3000)")
    parser.add_argument("--all", action="store_true", help="every eligible file")
    parser.add_argument("--side", type=int, default=96, help="pictures fit in a square of this side (96)")
    parser.add_argument("--cache", type=Path, help="where packages go (OUT/.cache)")
    parser.add_argument("--png", type=Path, help="folder with the PNG tree, instead of downloading")
    parser.add_argument("--svg", type=Path, help="folder with the SVG tree, instead of downloading")
    args = parser.parse_args(argv)
    if (args.png is None) != (args.svg is None):
        parser.error("--png and --svg go together")
    if args.limit < 1 or args.side < 1:
        parser.error("--limit and --side start at 1")
    try:
        cache = args.cache or args.out / ".cache"
        provenance = build(
            args.out,
            png=args.png or fetch(cache, "openclipart-png"),
            svg=args.svg or fetch(cache, "openclipart-svg"),
            limit=None if args.all else args.limit,
            side=args.side,
            checked_debs={} if args.png else DEB_SHA256,
        )
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(show(provenance))
    return 0


if __name__ == "__main__":
    sys.exit(main())
