"""Task folders in clip-benchmark's `wds/` layout, and the suite.yaml that lists them.

Members of a tar have no times, owners or host names, and samples come in the order given: same samples, same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

WEBP_QUALITY = 80
SAMPLES_PER_SHARD = 500


@dataclass(frozen=True)
class Sample:
    """One picture with its label or captions; `told` is what the json says about where it is from."""

    picture: bytes
    extension: str
    told: dict[str, Any]
    label: int | None = None
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A line of suite.yaml."""

    key: str
    folder: str
    name: str
    family: str
    main_metric: str
    size: int
    options: dict[str, Any] = field(default_factory=dict)
    groups: tuple[str, ...] = ()


def order(*parts: str) -> str:
    """A key to sort by: a draw by hash, that no other picture can change."""
    return hashlib.sha256("\0".join(("headwater-suite-1", *parts)).encode()).hexdigest()


def webp(image: Image.Image, side: int) -> bytes:
    """The picture on white, inside side x side and never enlarged, as WebP."""
    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    scale = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, format="WEBP", quality=WEBP_QUALITY, method=6)
    return out.getvalue()


def write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def write_split(folder: Path, samples: Sequence[Sample], per_shard: int = SAMPLES_PER_SHARD) -> None:
    """nshards.txt and the tars of one split."""
    if not samples:
        raise ValueError(f"{folder}: no samples")
    starts = range(0, len(samples), per_shard)
    for number, start in enumerate(starts):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for i, sample in enumerate(samples[start : start + per_shard], start):
                for extension, data in _members(sample):
                    info = tarfile.TarInfo(f"s{i:06d}.{extension}")  # mtime 0, uid 0, gid 0, mode 0644
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        write_file(folder / f"{number}.tar", out.getvalue())
    write_file(folder / "nshards.txt", f"{len(starts)}\n".encode())


def _members(sample: Sample) -> list[tuple[str, bytes]]:
    members = [(sample.extension, sample.picture)]
    if sample.label is not None:
        members.append(("cls", str(sample.label).encode()))
    if sample.captions:
        members.append(("txt", "\n".join(sample.captions).encode()))
    told = json.dumps(sample.told, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return [*members, ("json", told.encode())]


def write_texts(folder: Path, classnames: Sequence[str], templates: Sequence[str]) -> None:
    """The prompts of a classification folder. `{c}` stands for the class name."""
    if any("{c}" not in t for t in templates) or any("\n" in c or not c for c in classnames):
        raise ValueError(f"{folder}: a template without {{c}}, or a class without a name")
    write_file(folder / "classnames.txt", ("\n".join(classnames) + "\n").encode())
    write_file(folder / "zeroshot_classification_templates.txt", ("\n".join(templates) + "\n").encode())


def write_retrieval(folder: Path, samples: Sequence[Sample], per_shard: int = SAMPLES_PER_SHARD) -> None:
    write_split(folder / "test", samples, per_shard)
    write_file(folder / "dataset_type.txt", b"retrieval\n")


def write_suite(out: Path, name: str, summary: str, tasks: Sequence[Task]) -> None:
    listed = []
    for task in tasks:
        line: dict[str, Any] = {"key": task.key, "folder": task.folder, "name": task.name}
        line |= {"family": task.family, "main_metric": task.main_metric, "size": task.size}
        if task.options:
            line["options"] = task.options
        if task.groups:
            line["groups"] = list(task.groups)
        listed.append(line)
    document = {"format": "suite/1", "name": name, "summary": summary, "tasks": listed}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    write_file(out / "suite.yaml", text.encode())
