"""The random resized crop of a streamed picture: its box is known before anything is drawn, so that only the box is."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch

from headwater.errors import UsageError

TRIES = 10  # boxes before the middle is taken, as torchvision has it


@dataclass(frozen=True)
class Crop:
    """A box of `scale` of the area and `ratio` of width to height, resized to (size, size): the law of torchvision's RandomResizedCrop.

    Resized by torch on uint8 with antialias (what torchvision's own transform calls), one channel where pictures are grey. Its last bit
    may differ between processors. Raises UsageError for values that no box has.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"  # or bilinear

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UsageError(
                f"crop scale {self.scale}: two shares of the area, ascending, above 0 and at most 1"
            )
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise UsageError(f"crop ratio {self.ratio}: two positive numbers, ascending")
        if not isinstance(self.size, int) or not 1 <= self.size <= 16384:
            raise UsageError(f"crop size {self.size}: must be a whole number between 1 and 16384")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise UsageError(f"crop interpolation {self.interpolation!r}: bicubic or bilinear")

    def box(self, side: int, draw: random.Random) -> tuple[int, int, int, int]:
        """Top, left, height and width of a box in a picture of side x side pixels."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(TRIES):
            area = side * side * draw.uniform(*self.scale)
            ratio = math.exp(draw.uniform(low, high))
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < width <= side and 0 < height <= side:
                return draw.randint(0, side - height), draw.randint(0, side - width), height, width
        width = max(1, round(side * min(self.ratio[1], 1)))
        height = max(1, round(side / max(self.ratio[0], 1)))
        return (side - height) // 2, (side - width) // 2, height, width

    def resize(self, pixels: torch.Tensor) -> torch.Tensor:
        """(C, h, w) uint8 to (C, size, size)."""
        return torch.nn.functional.interpolate(
            pixels[None], (self.size, self.size), mode=self.interpolation, antialias=True, align_corners=False
        )[0]
