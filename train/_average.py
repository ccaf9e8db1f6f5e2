"""An exponential moving average of the weights, kept beside a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Average:
    """`tensors` is the average: decay x average + (1 - decay) x weights after every step.

    With `warmup` the decay of step t (from 1) is min(decay, (1 + t) / (10 + t)), so that the first weights are soon forgotten.
    Whole numbers (such as counters) are copied.
    """

    def __init__(self, model: Any, kept: Path | None, *, decay: float, warmup: bool) -> None:
        self._decay, self._warmup = decay, warmup
        self.tensors: dict[str, Any] = {name: t.detach().clone() for name, t in model.state_dict().items()}
        if kept is not None:
            from headwater.weights import read_weights

            for name, tensor in read_weights(kept).items():
                self.tensors[name].copy_(tensor)

    def update(self, model: Any, step: int) -> None:
        """Take in the weights after step `step`."""
        import torch

        decay = min(self._decay, (1 + step) / (10 + step)) if self._warmup else self._decay
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                average = self.tensors[name]
                if average.is_floating_point():
                    average.lerp_(tensor.detach(), 1 - decay)
                else:
                    average.copy_(tensor)
