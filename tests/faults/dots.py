"""Dots on black: a generator that needs nothing but numpy, so that a process that draws it starts fast."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from curate.generators import Category, Picture

VERSION = 1
PRESETS = {"few": {"classes": 4, "instances": 6}}
STREAMS = ("indexed",)
CATEGORY = {"dots": "int32", "shade": "double", "name": "string"}
KIND = "grey"
ANNOTATED = False


@dataclass(frozen=True)
class Config:
    image_size: int = field(default=16, metadata={"help": "side of a picture"})
    mood: str = field(default="calm", metadata={"help": "nothing", "choices": ["calm", "loud"]})


class Generator:
    def __init__(self, config: Config, seed: int) -> None:
        self.config, self.seed = config, seed

    def category(self, index: int) -> Category:
        return {"dots": 3 + index % 5, "shade": (1 + index % 7) / 8, "name": f"class {index}"}

    def cost(self, category: Category) -> float:
        return float(category["dots"])

    def perturbed(self, category: Category, index: int, delta: float) -> Category:
        return {**category, "name": f"{category['name']} {index} {delta}"}

    def painter(self) -> Any:
        return _Painter(self.config.image_size, self.seed)


class _Painter:
    def __init__(self, size: int, seed: int) -> None:
        self._pixels, self._seed = np.zeros((size, size), np.uint8), seed

    def paint(self, category: Category, index: int, instance: int, attempt: int = 0) -> Picture:
        self._pixels.fill(0)
        text = f"{self._seed} {category['name']} {index} {instance} {attempt}"
        places = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)[: category["dots"]]
        self._pixels.flat[places.astype(np.int64) % self._pixels.size] = int(255 * category["shade"])
        return Picture(self._pixels)
