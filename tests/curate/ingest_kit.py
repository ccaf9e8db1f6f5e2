"""Pictures, samples and tars for the tests of `pool import`."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from curate.ingest import import_pool
from headwater.executor import Executor
from headwater.steps import Outcome, RunOptions

ROOT = Path(__file__).resolve().parents[2]
OPENCLIPART = ROOT / "examples" / "openclipart" / "pool"
SERIAL = Executor("serial", 1)
COLUMNS = ["uid", "url", "text", "original_width", "original_height", "sha256"]


def picture(
    width: int = 40, height: int = 30, *, kind: str = "PNG", orientation: int | None = None, tint: int = 0
) -> bytes:
    out = io.BytesIO()
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.new("RGB", (width, height), (tint % 256, 10, 10)).save(out, kind, exif=exif)
    return out.getvalue()


def sample(
    key: str, *, image: bytes | None = None, text: str | bytes | None = "a red boat", **fields: Any
) -> list[tuple[str, bytes]]:
    members = [(f"{key}.png", picture() if image is None else image)]
    if text is not None:
        members.append((f"{key}.txt", text if isinstance(text, bytes) else text.encode()))
    if fields:
        members.append((f"{key}.json", json.dumps(fields).encode()))
    return members


def write_tar(path: Path, samples: list[list[tuple[str, bytes]]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in (member for one in samples for member in one):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def run(source: Path, output: Path, **how: Any) -> Outcome:
    how.setdefault("executor", SERIAL)
    outcome = import_pool(source, output, options=RunOptions(), **how)
    assert outcome is not None
    return outcome


def rows_of(pool: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(pool.glob("*.parquet")) for row in pq.ParquetFile(path).read().to_pylist()]


def invalid(outcome: Outcome) -> dict[str, int]:
    return dict(outcome.step.identity.counts.invalid)
