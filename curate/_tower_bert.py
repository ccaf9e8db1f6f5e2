"""BERT's encoder, forward only: token, position and segment embeddings, then layers of attention and GELU, each normalised after.

arXiv 1810.04805, section 3, with the sizes read off the tensors; names of tensors as in the published checkpoints. The result is
the mean of the last layer over the tokens that are no padding, scaled to length 1 (Sentence-BERT, arXiv 1908.10084, section 3).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from headwater.errors import IntegrityError

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-12  # of layer norm
HEADS = 12
EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings")


class Bert:
    """One encoder, filled with `weights`. Raises IntegrityError when a tensor is missing or of another shape."""

    def __init__(self, weights: dict[str, Tensor], *, heads: int = HEADS, device: str = "cpu") -> None:
        self._weights = {name: tensor.float().to(device) for name, tensor in weights.items()}
        self._heads = heads
        numbers = [int(m[1]) for name in weights if (m := re.match(r"encoder\.layer\.(\d{1,3})\.", name))]
        self.layers = max(numbers, default=-1) + 1
        self.width = int(self._tensor("embeddings.word_embeddings.weight").shape[-1])
        self._check()

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(n, tokens) whole numbers and their mask (1 = a token) to (n, width) of length 1."""
        import torch
        from torch.nn.functional import embedding, gelu, normalize, scaled_dot_product_attention

        word, position, segment = (self._tensor(f"embeddings.{name}.weight") for name in EMBEDDINGS)
        rows, tokens = ids.shape
        x = self._norm(embedding(ids, word) + position[:tokens] + segment[0], "embeddings")
        seen = mask[:, None, None, :].bool()
        for number in range(self.layers):
            layer = f"encoder.layer.{number}"
            query, key, value = (
                self._linear(x, f"{layer}.attention.self.{part}")
                .view(rows, tokens, self._heads, -1)
                .transpose(1, 2)
                for part in ("query", "key", "value")
            )
            attended = scaled_dot_product_attention(query, key, value, attn_mask=seen)
            attended = attended.transpose(1, 2).reshape(rows, tokens, self.width)
            x = self._norm(
                self._linear(attended, f"{layer}.attention.output.dense") + x, f"{layer}.attention.output"
            )
            wide = gelu(self._linear(x, f"{layer}.intermediate.dense"))
            x = self._norm(self._linear(wide, f"{layer}.output.dense") + x, f"{layer}.output")
        weight = mask[..., None].to(x.dtype)
        mean = (x * weight).sum(1) / weight.sum(1).clamp(min=1)
        found: Tensor = normalize(mean, dim=1)
        assert torch.is_tensor(found)
        return found

    def _check(self) -> None:
        wide, d = 4 * self.width, self.width
        if d % self._heads or not self.layers:
            raise IntegrityError(
                f"an encoder of width {d} with {self.layers} layers has no {self._heads} heads"
            )
        shapes = {
            "attention.output.LayerNorm": (d,),
            "output.LayerNorm": (d,),
            "intermediate.dense": (wide, d),
        }
        shapes |= {"output.dense": (d, wide), "attention.output.dense": (d, d)}
        shapes |= {f"attention.self.{part}": (d, d) for part in ("query", "key", "value")}
        for number in range(self.layers):
            for name, shape in shapes.items():
                found = tuple(self._tensor(f"encoder.layer.{number}.{name}.weight").shape)
                if found != shape:
                    raise IntegrityError(
                        f"encoder.layer.{number}.{name}.weight is {list(found)}, not {list(shape)}"
                    )
                self._tensor(f"encoder.layer.{number}.{name}.bias")

    def _tensor(self, name: str) -> Tensor:
        if name not in self._weights:
            raise IntegrityError(f"the text encoder's weights lack {name!r}")
        return self._weights[name]

    def _linear(self, x: Tensor, name: str) -> Any:
        from torch.nn.functional import linear

        return linear(x, self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias"))

    def _norm(self, x: Tensor, name: str) -> Any:
        from torch.nn.functional import layer_norm

        weight, bias = self._tensor(f"{name}.LayerNorm.weight"), self._tensor(f"{name}.LayerNorm.bias")
        return layer_norm(x, (x.shape[-1],), weight, bias, EPSILON)
