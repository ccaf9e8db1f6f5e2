"""Small pools with pictures, and pages about them, for the tests of the report."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from curate.binding import prepare
from curate.filtering import filter_pool
from curate.pool import Pool
from curate.report import build_report
from curate.rules import RuleFile
from headwater.executor import Executor
from headwater.steps import RunOptions

HOSTILE = [
    '<script>alert("x")</script>',
    "\u202egnp.exe</div><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }} {% for x in y %} ${oops}",
    "NUL\0 and bell\a and \x9b2J",
    "y" * 1_000_000,
    "javascript:alert(1)\" onload='alert(2)'",
    "<!-- --> ]]> </style></title>",
    "https://tracker.example/pixel.gif",
    "",
    None,
]


def picture(number: int, *, side: int = 40, noise: bool = False) -> bytes:
    """A PNG: one colour, or (`noise`) one that no codec makes small."""
    random = np.random.default_rng(number)
    pixels = (
        random.integers(0, 256, (side, side, 3), np.uint8)
        if noise
        else np.full((side, side, 3), number * 37 % 256, np.uint8)
    )
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def write_pool(
    folder: Path,
    captions: list[str | None],
    *,
    shards: int = 2,
    tars: bool = True,
    side: int = 40,
    noise: bool = False,
) -> Path:
    """A pool with its tars: row n has caption n, is n x 10 + 100 pixels wide and 200 high, and every third picture is the first one."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        numbers = list(range(shard * len(captions) // shards, (shard + 1) * len(captions) // shards))
        blobs = [picture(0 if n % 3 == 0 else n, side=side, noise=noise) for n in numbers]
        table = {
            "uid": pa.array([hashlib.md5(str(n).encode()).hexdigest() for n in numbers], pa.string()),
            "text": pa.array([captions[n] for n in numbers], pa.string()),
            "original_width": pa.array([100 + 10 * n for n in numbers], pa.int64()),
            "original_height": pa.array([200] * len(numbers), pa.int64()),
            "score": pa.array([n / 100 for n in numbers], pa.float32()),
            "sha256": pa.array([hashlib.sha256(b).hexdigest() for b in blobs], pa.string()),
        }
        pq.write_table(pa.table(table), folder / f"{shard:08d}.parquet", row_group_size=7)
        if tars:
            with tarfile.open(folder / f"{shard:08d}.tar", "w") as tar:
                for n, uid, blob in zip(numbers, table["uid"].to_pylist(), blobs, strict=True):
                    members = {"json": json.dumps({"uid": uid}).encode(), "png": blob, "txt": b"a caption"}
                    for extension, data in members.items():
                        info = tarfile.TarInfo(f"{n:09d}.{extension}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
    return folder


RULE: dict[str, Any] = {
    "format": "rule/1",
    "name": "try",
    "scores": [],
    "keep": [
        {"id": "wide <b>", "sql": "original_width >= 150"},
        {"id": "best", "top": {"column": "score", "fraction": 0.75}},
        {"id": "once", "dedup": {"by": ["sha256"]}},
    ],
}


def make_subset(
    pool: Path, output: Path, rule: dict[str, Any] = RULE, *, reasons: Path | None = None
) -> Path:
    ready = prepare(Pool.open(pool), RuleFile.model_validate(rule), Path())
    options = RunOptions(command=("headwater", "filter-pool", str(pool), "-o", output.name))
    assert filter_pool(ready, output, executor=Executor("serial"), options=options, reasons=reasons)
    return output


def page(path: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    output = path.parent / "page.html"
    facts = build_report(path, output, executor=Executor("serial"), **options)
    return output.read_text("utf-8"), facts


class Elements(HTMLParser):
    """Collects every element with its attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data + " "

    @property
    def plain(self) -> str:
        return " ".join(self.text.split())


def assert_harmless(text: str) -> Elements:
    """No element that runs or loads anything: sources are data: pictures, links stay on the page, no handlers."""
    seen = Elements(text)
    allowed = {"html", "head", "meta", "title", "style", "body", "main", "header", "footer", "nav", "a", "h1", "h2", "h3", "p", "b", "i",
               "div", "span", "small", "br", "table", "tr", "th", "td", "ol", "li", "pre", "figure", "figcaption", "img", "bdi",
               "svg", "rect", "path", "line", "text"}  # fmt: skip
    assert {tag for tag, _ in seen.found} <= allowed
    for tag, attributes in seen.found:
        assert not [name for name in attributes if name.startswith("on")]
        assert not attributes.keys() & {"srcset", "xlink:href", "action", "formaction", "background"}
        if "src" in attributes:
            assert tag == "img" and re.fullmatch(
                r"data:image/(png|jpeg|webp);base64,[A-Za-z0-9+/]+=*", attributes["src"] or ""
            )
        if "href" in attributes:
            assert tag == "a" and (attributes["href"] or "").startswith("#")
    style = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    return seen
