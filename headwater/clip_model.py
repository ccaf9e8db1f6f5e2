"""CLIP towers from an open_clip folder: a configuration beside weights, built without any download and filled by our own reader.

FOLDER/open_clip_config.json         what open_clip writes for `local-dir:FOLDER`
FOLDER/open_clip_model.safetensors   or another file of weights; nothing in it can run (headwater.weights)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headwater.errors import IntegrityError, MissingExtra, MissingInput

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
TEXT_BATCH = 256
MAX_CONFIG_BYTES = 1 << 20


def find_weights(path: Path) -> Path:
    """The weights in a folder; safetensors first."""
    for pattern in (WEIGHTS, "*.safetensors", "open_clip_pytorch_model.bin", "*.pt", "*.bin"):
        found = sorted(path.glob(pattern))
        if found:
            return found[0]
    raise MissingInput(f"{path}: holds no weights (.safetensors, .bin or .pt)")


@dataclass
class LoadedModel:
    """A model ready to encode. `transform` makes a picture (PIL, RGB) a float32 tensor of (3, size, size)."""

    model: Any
    transform: Any
    tokenizer: Any
    logit_scale: float
    size: int
    device: str = "cpu"

    def encode_images(self, batch: Any) -> npt.NDArray[np.float32]:
        """(N, 3, H, W) tensor to (N, D) rows of length 1."""
        import torch

        with torch.inference_mode():
            found = self.model.encode_image(batch.to(self.device), normalize=True)
        return np.asarray(found.float().cpu().numpy(), np.float32)

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(N, D) rows of length 1."""
        import torch

        rows = []
        with torch.inference_mode():
            for start in range(0, len(texts), TEXT_BATCH):
                tokens = self.tokenizer(list(texts[start : start + TEXT_BATCH])).to(self.device)
                rows.append(self.model.encode_text(tokens, normalize=True).float().cpu().numpy())
        return np.concatenate(rows).astype(np.float32) if rows else np.zeros((0, 0), np.float32)


def load_model(folder: Path, *, device: str = "cpu", weights: Path | None = None) -> LoadedModel:
    """Build the towers from the configuration and fill them from `weights` (default: those of the folder).

    Weights are read by our own reader: nothing in them can run. Raises IntegrityError, MissingInput or MissingExtra.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise MissingInput(f"{path}: no such file")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise IntegrityError(f"{path}: too large for a configuration")
    try:
        document = json.loads(path.read_bytes())
        model_cfg, preprocess_cfg = document["model_cfg"], document.get("preprocess_cfg", {})
        towers = [model_cfg["text_cfg"], model_cfg["vision_cfg"]]
        size = preprocess_cfg.get("size", 224)
        if not all(isinstance(tower, dict) for tower in towers) or type(size) is not int:
            raise TypeError("of other kinds than open_clip writes")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{path}: not an open_clip configuration") from error
    for name in ("hf_model_name", "hf_tokenizer_name", "timm_model_pretrained"):
        if any(tower.get(name) for tower in towers):
            raise IntegrityError(
                f"{path}: {name}: a tower comes from a model hub, which is not asked",
                hint="use open_clip's own",
            )
    need_training_packages()
    from headwater.weights import read_weights

    state = read_weights(weights or find_weights(folder))
    model, transform, tokenizer = build(model_cfg, preprocess_cfg)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise IntegrityError(
            f"{folder}: the weights are not those of its configuration: {str(error).splitlines()[-1].strip()}"
        ) from error
    model.eval().to(device)
    scale = float(model.logit_scale.detach().exp())
    return LoadedModel(model, transform, tokenizer, scale, size, device)


def build(model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Model with random weights, transform of an evaluation, tokenizer; by open_clip, without any download."""
    import copy
    import logging

    from open_clip import CLIP, CustomTextCLIP, SimpleTokenizer
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    model_cfg = copy.deepcopy(model_cfg)
    custom = model_cfg.pop("custom_text", False)
    logging.getLogger("timm").setLevel(logging.WARNING)
    try:
        model = (CustomTextCLIP if custom else CLIP)(**model_cfg)
        preprocess = PreprocessCfg(**merge_preprocess_dict({}, preprocess_cfg))
        transform = image_transform_v2(preprocess, is_train=False)
        tokenizer = SimpleTokenizer(context_length=int(model_cfg["text_cfg"].get("context_length", 77)))
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError, RuntimeError) as error:
        raise IntegrityError(f"the model's configuration cannot be built: {error}") from error
    return model, transform, tokenizer


def need_training_packages() -> None:
    """Raises MissingExtra without torch and open_clip."""
    import importlib.util

    for name in ("torch", "open_clip", "open_clip_train"):
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(f"{name} is not installed", hint="pip install 'headwater[train]'")
