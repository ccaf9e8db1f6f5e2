"""Small projections that carry the rows of two frozen towers into one space, and how they are trained.

    picture   standardised by feature -> linear -> GELU -> linear -> length 1       (image_width -> 512 -> 256)
    caption   linear -> length 1                                                    (text_width -> 256)

Trained by the symmetric contrastive loss of CLIP (arXiv 2103.00020, figure 3) with frozen towers as in LiT (arXiv 2111.07991).
Two pairs with one caption are never each other's wrong answer. One thread, one seed: the same pairs give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headwater.console import track
from headwater.errors import IntegrityError

if TYPE_CHECKING:
    from torch import Tensor

HIDDEN, WIDTH = 512, 256
BATCH = 256
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.1
WARM_UP = 0.05  # share of the steps
FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0
BLOCK = 4096  # rows projected at a time
Half = npt.NDArray[np.float16]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Projections:
    """Trained projections by tensor name."""

    tensors: dict[str, Tensor]

    @property
    def image_width(self) -> int:
        return int(self.tensors["image.0.weight"].shape[1])

    @property
    def text_width(self) -> int:
        return int(self.tensors["text.weight"].shape[1])

    def pictures(self, rows: Half) -> Floats:
        """(n, image_width) rows of the picture tower to (n, 256) of length 1."""
        return self._blocks(rows, _image)

    def texts(self, rows: Half) -> Floats:
        """(n, text_width) rows of the caption tower to (n, 256) of length 1."""
        return self._blocks(rows, _text)

    def _blocks(self, rows: Half, forward: Any) -> Floats:
        import torch

        out = [np.zeros((0, WIDTH), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(rows), BLOCK):
                block = torch.from_numpy(rows[start : start + BLOCK].astype(np.float32))
                out.append(forward(self.tensors, block).numpy())
        return np.concatenate(out)


def check_shapes(tensors: dict[str, Tensor], image_width: int, text_width: int, of: str = "") -> Projections:
    """Tensors read from a file as projections; raises IntegrityError naming the first that is missing or of another shape."""
    prefix = f"{of}." if of else ""
    expected = dict(_shapes(image_width, text_width))
    for name in sorted(expected.keys() | tensors.keys()):
        found = list(tensors[name].shape) if name in tensors else "missing"
        wanted = list(expected[name]) if name in expected else "not there"
        if found != wanted:
            raise IntegrityError(f"projections: {prefix}{name} is {found}, and should be {wanted}")
    return Projections({name: tensor.float() for name, tensor in tensors.items()})


def fit(
    image: Half,
    text: Half,
    captions: npt.NDArray[np.int64],
    *,
    epochs: int,
    seed: int,
    title: str = "train projections",
) -> tuple[Projections, float]:
    """Projections trained on pairs, row by row, and the mean loss of the last epoch. One seed gives one set of first values.

    `captions` numbers the captions: rows with one number have the same one. The order of rows decides bytes: give them by uid.
    """
    import torch

    with one_thread():
        generator = torch.Generator().manual_seed(seed)
        tensors = _initial(image, text, generator)
        trained = [t.requires_grad_() for name, t in tensors.items() if not name.startswith("image.standard")]
        decayed = [t for t in trained if t.ndim == 2]
        plain = [t for t in trained if t.ndim != 2]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, lr=LEARNING_RATE, foreach=False)
        rows = torch.from_numpy(image), torch.from_numpy(text)  # widened batch by batch
        numbers = torch.from_numpy(captions)
        order = np.random.Generator(np.random.Philox(key=seed))
        steps = epochs * max(1, math.ceil(len(image) / BATCH))
        done, loss_of_epoch = 0, float("nan")
        with track(title, total=epochs, unit="epochs") as bar:
            for _ in range(epochs):
                losses = []
                for batch in _batches(order.permutation(len(image))):
                    for group in optimiser.param_groups:
                        group["lr"] = LEARNING_RATE * _schedule(done, steps)
                    chosen = torch.from_numpy(batch)
                    loss = _loss(tensors, rows[0][chosen].float(), rows[1][chosen].float(), numbers[chosen])
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                    with torch.no_grad():
                        tensors["scale"].clamp_(0, math.log(LARGEST_SCALE))
                    losses.append(float(loss.detach()))
                    done += 1
                loss_of_epoch = float(np.mean(losses))
                bar.add(1, f"loss {loss_of_epoch:.3f}")
    return Projections({name: tensor.detach() for name, tensor in tensors.items()}), loss_of_epoch


def _shapes(image_width: int, text_width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "image.standard.mean", (image_width,)
    yield "image.standard.deviation", (image_width,)
    yield "image.0.weight", (HIDDEN, image_width)
    yield "image.0.bias", (HIDDEN,)
    yield "image.2.weight", (WIDTH, HIDDEN)
    yield "image.2.bias", (WIDTH,)
    yield "text.weight", (WIDTH, text_width)
    yield "text.bias", (WIDTH,)
    yield "scale", (1,)


def _initial(image: Half, text: Half, generator: Any) -> dict[str, Tensor]:
    import torch

    mean = _sum(image, lambda block: block) / len(image)
    deviation = np.sqrt(_sum(image, lambda block: (block - mean) ** 2) / len(image))
    standard = {"mean": mean, "deviation": np.where(deviation > 1e-6, deviation, 1.0)}
    found: dict[str, Tensor] = {}
    for name, shape in _shapes(image.shape[1], text.shape[1]):
        if name.startswith("image.standard"):
            found[name] = torch.from_numpy(standard[name.rpartition(".")[2]].astype(np.float32))
        elif name == "scale":
            found[name] = torch.full(shape, math.log(FIRST_SCALE))
        elif len(shape) == 2:  # uniform within 1/sqrt(inputs), as torch's own linear layers
            found[name] = (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(shape[1])
        else:
            found[name] = torch.zeros(shape)
    return found


def _sum(rows: Half, of: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> Any:
    """Column sums of `of`, in blocks: the rows are never all widened at once."""
    return sum(of(rows[i : i + BLOCK].astype(np.float64)).sum(axis=0) for i in range(0, len(rows), BLOCK))


def _image(tensors: dict[str, Tensor], rows: Tensor) -> Tensor:
    from torch.nn.functional import gelu, linear, normalize

    x = (rows - tensors["image.standard.mean"]) / tensors["image.standard.deviation"]
    x = gelu(linear(x, tensors["image.0.weight"], tensors["image.0.bias"]))
    found: Tensor = normalize(linear(x, tensors["image.2.weight"], tensors["image.2.bias"]), dim=1)
    return found


def _text(tensors: dict[str, Tensor], rows: Tensor) -> Tensor:
    from torch.nn.functional import linear, normalize

    found: Tensor = normalize(linear(rows, tensors["text.weight"], tensors["text.bias"]), dim=1)
    return found


def _loss(tensors: dict[str, Tensor], image: Tensor, text: Tensor, captions: Tensor) -> Tensor:
    import torch
    from torch.nn.functional import cross_entropy

    logits = tensors["scale"].exp() * _image(tensors, image) @ _text(tensors, text).T
    same = captions[:, None] == captions[None, :]
    same.fill_diagonal_(False)
    logits = logits.masked_fill(same, float("-inf"))
    own = torch.arange(len(image))
    found: Tensor = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    return found


def _batches(order: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Batches of nearly one size: a last one of a few rows would have few wrong answers."""
    yield from np.array_split(order, max(1, math.ceil(len(order) / BATCH)))


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread, as it was before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
