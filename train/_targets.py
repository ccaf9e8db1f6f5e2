"""What is in a picture, as torchvision's detectors take it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from curate.generators import Picture


def detection_target(picture: Picture) -> dict[str, Any]:
    """boxes (n, 4) float32 as x1, y1, x2, y2; labels (n,) int64, 1 + index of the class (0 is the background); masks (n, S, S) uint8;
    area (n,) float32, visible pixels; iscrowd (n,) int64, all 0. A picture without things has n = 0. Nothing is shared with the picture.
    """
    things, side = picture.things, len(picture.pixels)
    boxes = [(x, y, x + width, y + height) for x, y, width, height in (thing.box for thing in things)]
    masks = np.array([thing.mask for thing in things], np.uint8).reshape(-1, side, side)
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([1 + thing.label for thing in things], dtype=torch.int64),
        "masks": torch.from_numpy(masks),
        "area": torch.from_numpy(masks.sum(axis=(1, 2), dtype=np.int64)).to(torch.float32),
        "iscrowd": torch.zeros(len(things), dtype=torch.int64),
    }
