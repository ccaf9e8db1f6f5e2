"""Test sets in clip-benchmark's layout and a model of colours, for tests of the evaluation that need no torch.

write_set(folder, samples, shards=2, classnames=…, templates=…, kind=…)   a task folder; a sample is {extension: bytes}
colour_set(folder, n=12) / caption_set(folder, n=10)                      sets that the colour model can solve
write_suite(root, [task(…), …])                                          suite.yaml beside them
ColourModel()                                                            pictures and words as colours, plus some noise
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 60),
    "blue": (40, 70, 220),
    "yellow": (235, 215, 40),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
}
TEMPLATES = ("a photo of something {c}.", "{c}")


def picture(colour: Sequence[int], number: int, *, form: str = "PNG", noise: int = 12) -> bytes:
    """A small picture of about that colour; `number` makes it one of its own."""
    from PIL import Image

    rng = np.random.default_rng(number)
    pixels = np.clip(np.array(colour) + rng.integers(-noise, noise + 1, (12, 12, 3)), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()


def write_tar(path: Path, samples: Sequence[tuple[str, dict[str, bytes]]]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_split(folder: Path, samples: Sequence[tuple[str, dict[str, bytes]]], *, shards: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        rows = samples[shard * len(samples) // shards : (shard + 1) * len(samples) // shards]
        write_tar(folder / f"{shard}.tar", rows)
    (folder / "nshards.txt").write_text(f"{shards}\n")


def write_set(
    folder: Path,
    samples: Sequence[tuple[str, dict[str, bytes]]],
    *,
    shards: int = 2,
    classnames: Sequence[str] = (),
    templates: Sequence[str] = (),
    kind: str | None = None,
    train: Sequence[tuple[str, dict[str, bytes]]] = (),
) -> Path:
    write_split(folder / "test", samples, shards=shards)
    if train:
        write_split(folder / "train", train, shards=shards)
    if classnames:
        (folder / "classnames.txt").write_text("\n".join(classnames) + "\n")
    if templates:
        (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")
    if kind:
        (folder / "dataset_type.txt").write_text(kind + "\n")
    return folder


def colour_samples(n: int, *, seed: int = 0, names: Sequence[str] = tuple(COLOURS)) -> list[Any]:
    return [
        (
            f"{seed}-{i:04d}",
            {
                "png": picture(COLOURS[names[i % len(names)]], seed * 10_000 + i),
                "cls": b"%d" % (i % len(names)),
            },
        )
        for i in range(n)
    ]


def colour_set(folder: Path, *, n: int = 12, shards: int = 2, train: int = 0) -> Path:
    return write_set(
        folder,
        colour_samples(n),
        shards=shards,
        classnames=tuple(COLOURS),
        templates=TEMPLATES,
        train=colour_samples(train, seed=1) if train else (),
    )


def caption_set(folder: Path, *, n: int = 10, shards: int = 2) -> Path:
    """Every picture has its colour and its number as caption, so that no two captions are equal."""
    names = tuple(COLOURS)
    samples = [
        (
            f"c{i:04d}",
            {"png": picture(COLOURS[names[i % 6]], i, noise=40), "txt": f"{names[i % 6]} thing {i}".encode()},
        )
        for i in range(n)
    ]
    return write_set(folder, samples, shards=shards, kind="retrieval")


def task(key: str, **fields: Any) -> dict[str, Any]:
    document = {"key": key, "folder": key, "name": key.title(), "family": "zeroshot", "main_metric": "acc1"}
    return {**document, **fields}


def write_suite(root: Path, tasks: Sequence[dict[str, Any]], *, name: str = "tiny") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "suite.yaml").write_text(
        yaml.safe_dump({"format": "suite/1", "name": name, "tasks": list(tasks)})
    )
    return root


class ColourModel:
    """Features: a fixed linear map of a small thumbnail; a text is the thumbnail of its colour word, plus a little of its hash."""

    def __init__(self, *, dimensions: int = 16, noise: float = 0.05, side: int = 4) -> None:
        self._side = side
        self._map = np.random.default_rng(7).normal(size=(3 * side * side, dimensions))
        self._noise = noise
        self.pictures = 0  # how many were encoded, blanks of the last batch included
        self.texts = 0

    def transform(self, image: Any) -> np.ndarray[Any, Any]:
        pixels = np.asarray(image.resize((self._side, self._side)), np.float32) / 127.5 - 1
        return pixels.transpose(2, 0, 1)

    def encode_images(self, batch: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
        self.pictures += len(batch)
        return self._unit(batch.reshape(len(batch), -1) @ self._map)

    def encode_texts(self, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        self.texts += len(texts)
        rows = []
        for text in texts:
            word = next((name for name in COLOURS if name in text.lower()), None)
            colour = np.array(COLOURS[word]) / 127.5 - 1 if word else np.zeros(3)
            rng = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
            area = self._side * self._side
            thumbnail = np.repeat(colour, area) + self._noise * rng.normal(size=3 * area)
            rows.append(thumbnail @ self._map)
        return self._unit(np.array(rows))

    @staticmethod
    def _unit(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
        return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def subject(model: Any = None, **fields: Any) -> Any:
    """A Subject for `plan_eval` around a model."""
    from train.evaluation import Subject

    model = model or ColourModel()
    known = {"id": "a" * 64, "recipe_id": "b" * 64, "data_id": "c" * 64, "seed": 0, "conforming": True}
    return Subject(load=lambda: model, **{**known, **fields})


def json_member(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def npy_member(value: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(value), allow_pickle=False)
    return out.getvalue()
