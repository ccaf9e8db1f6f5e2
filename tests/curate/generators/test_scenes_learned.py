"""The classes of scenes can be learned: a small network tells them apart on scenes of another seed, from crops of their boxes."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from curate.generators.scenes import Config, Generator  # noqa: E402
from tests.curate.generators.test_scenes import preset  # noqa: E402

SIDE = 32


def crops(config: Config, seed: int, count: int) -> tuple[Tensor, Tensor]:
    """`count` things: (count, 3, 32, 32) floats around 0 and their labels; each box with a tenth of its side around it."""
    generator = Generator(config, seed)
    painter = generator.painter()
    pictures: list[Tensor] = []
    labels: list[int] = []
    index = 0
    while len(labels) < count:
        picture = painter.paint(generator.category(index), index, 0)
        for thing in picture.things:
            x, y, width, height = thing.box
            across, down = width // 10 + 1, height // 10 + 1
            window = np.s_[max(y - down, 0) : y + height + down, max(x - across, 0) : x + width + across]
            crop = torch.from_numpy(picture.pixels[window].copy()).permute(2, 0, 1)[None].float() / 128 - 1
            pictures.append(functional.interpolate(crop, (SIDE, SIDE), mode="bilinear", antialias=True))
            labels.append(thing.label)
        index += 1
    return torch.cat(pictures[:count]), torch.tensor(labels[:count])


def accuracy(config: Config, classes: int, things: int, epochs: int) -> float:
    """Share of held-out things that a three-layer network names, after `epochs` passes over `things` others."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels_in, channels in ((3, 24), (24, 48), (48, 96)):
        layers += [
            nn.Conv2d(channels_in, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96 * 4, classes))
    pictures, labels = crops(config, 1, things)
    held_out, wanted = crops(config, 2, 500)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    for _ in range(epochs):
        for batch in torch.randperm(things).split(64):
            loss = functional.cross_entropy(model(pictures[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return float((model(held_out).argmax(1) == wanted).float().mean())


@pytest.mark.slow
def test_nano_is_easy() -> None:
    assert accuracy(preset("scenes-nano"), 3, 768, 5) > 0.85  # chance is a third


@pytest.mark.slow
def test_shapes_alone_are_enough() -> None:
    """Twenty classes, fills that say nothing about them: chance is 0.05."""
    config = preset("scenes-10k", image_size=160, size_min=0.18, size_max=0.56, things_max=6)
    assert accuracy(config, 20, 2000, 7) > 0.3
