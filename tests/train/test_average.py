"""The moving average against one computed by hand, also over a stop between two steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headwater.weights import write_weights
from train._average import Average

torch = pytest.importorskip("torch")


class Toy(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Two weights, one that is never trained, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        self.register_buffer("fixed", torch.tensor([0.5]))
        self.register_buffer("count", torch.tensor(0))


def walk(model: Toy, step: int) -> None:
    """One step to weights that are known."""
    with torch.no_grad():
        model.weight.copy_(torch.tensor([float(step), step**2 / 10]))
        model.count += 1


def by_hand(steps: int, decay: float, *, warmup: bool) -> list[float]:
    """The same in Python's double precision."""
    average = [1.0, -2.0]
    for step in range(1, steps + 1):
        now = min(decay, (1 + step) / (10 + step)) if warmup else decay
        weights = [float(step), step**2 / 10]
        average = [now * old + (1 - now) * new for old, new in zip(average, weights, strict=True)]
    return average


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_average_is_that_computed_by_hand(decay: float, warmup: bool) -> None:
    model = Toy()
    average = Average(model, None, decay=decay, warmup=warmup)
    for step in range(1, 41):
        walk(model, step)
        average.update(model, step)
    assert average.tensors["weight"].tolist() == pytest.approx(by_hand(40, decay, warmup=warmup), rel=1e-5)
    assert average.tensors["fixed"].item() == 0.5
    assert average.tensors["count"].item() == 40, "whole numbers are copied"
    assert model.weight.tolist() == [40.0, 160.0], "the model itself is not touched"


def test_the_warm_up_forgets_the_first_weights() -> None:
    """With decay 0.9999 and no warm-up, 91 % of the average after 1,000 steps would be the random start."""
    kept = {}
    for warmup in (False, True):
        model = Toy()
        average = Average(model, None, decay=0.9999, warmup=warmup)
        with torch.no_grad():
            model.weight.zero_()
        for step in range(1, 1001):
            average.update(model, step)
        kept[warmup] = average.tensors["weight"][0].item()
    assert kept[False] > 0.9 and abs(kept[True]) < 1e-6


def test_an_average_that_was_written_goes_on_bit_by_bit(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"decay": 0.97, "warmup": True}
    model, again = Toy(), Toy()
    whole = Average(model, None, **settings)
    for step in range(1, 21):
        walk(model, step)
        whole.update(model, step)
        if step == 8:
            write_weights(whole.tensors, tmp_path / "part_1.safetensors")
    for step in range(1, 9):
        walk(again, step)
    resumed = Average(again, tmp_path / "part_1.safetensors", **settings)
    for step in range(9, 21):
        walk(again, step)
        resumed.update(again, step)
    assert resumed.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(resumed.tensors[name], whole.tensors[name]) for name in whole.tensors)
