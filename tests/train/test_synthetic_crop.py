"""The box of a streamed picture's crop follows torchvision's law, and is resized as torchvision resizes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from headwater.errors import UsageError
from train.synthetic import Crop


def test_crop_follows_torchvisions_law() -> None:
    """Area and ratio of 700 boxes against torchvision's own, drawn from its own numbers: means within five standard errors."""
    from torchvision.transforms.v2 import RandomResizedCrop

    crop, other = Crop(224), RandomResizedCrop(224, antialias=True)
    torch.manual_seed(1)
    blank = torch.zeros((1, 512, 512), dtype=torch.uint8)
    mine = np.array([crop.box(512, random.Random(k)) for k in range(700)], np.float64)
    params = [other.make_params([blank]) for _ in range(700)]
    theirs = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in params], np.float64)
    for values in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: np.log(b[:, 3] / b[:, 2]),
        lambda b: b[:, 0],
        lambda b: b[:, 1],
    ):
        a, b = values(mine), values(theirs)
        assert abs(a.mean() - b.mean()) < 5 * np.sqrt((a.var() + b.var()) / 700)
        assert 0.85 < a.std() / b.std() < 1.18
    assert (mine[:, 0] + mine[:, 2]).max() <= 512
    assert (mine[:, 1] + mine[:, 3]).max() <= 512


def test_boxes_are_uniform_in_area_and_in_the_logarithm_of_the_ratio() -> None:
    crop = Crop(224, scale=(0.1, 0.3))
    boxes = np.array([crop.box(2000, random.Random(k)) for k in range(8000)], np.float64)
    shares, ratios = boxes[:, 2] * boxes[:, 3] / 2000**2, np.log(boxes[:, 3] / boxes[:, 2])
    for values, low, high in ((shares, 0.1, 0.3), (ratios, np.log(3 / 4), np.log(4 / 3))):
        sigma = (high - low) / np.sqrt(12)
        assert abs(values.mean() - (low + high) / 2) < 4 * sigma / np.sqrt(8000)
        assert abs(values.std() / sigma - 1) < 0.03


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
def test_crop_is_resized_as_torchvision_does(name: str) -> None:
    from torchvision.transforms.v2 import functional

    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 70, 55), dtype=np.uint8))
    mode = functional.InterpolationMode(name)
    wanted = functional.resize(pixels, [24, 24], interpolation=mode, antialias=True)
    assert torch.equal(Crop(24, interpolation=name).resize(pixels), wanted)


def test_crop_without_a_fitting_box_takes_the_middle() -> None:
    assert Crop(8, scale=(1, 1), ratio=(3, 4)).box(60, random.Random(0)) == (20, 0, 20, 60)
    assert Crop(8, scale=(1, 1), ratio=(0.25, 0.5)).box(60, random.Random(0)) == (0, 15, 60, 30)


@pytest.mark.parametrize(
    "wrong",
    [{"size": 0}, {"scale": (0, 1)}, {"scale": (0.5, 2)}, {"ratio": (2, 1)}, {"interpolation": "area"}],
)
def test_crop_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"crop {next(iter(wrong))}"):
        Crop(**wrong)
