"""A run: the folder that a training leaves, which open_clip reads as `local-dir:RUN`, and the record of what it saw.

run.json                      `run/1`, the same bytes for the same recipe, data, seed and placement
recipe.yaml                   the recipe as it was resolved
open_clip_config.json, open_clip_model.safetensors   the model; the averaged weights where the recipe has an average
raw.safetensors               then the last weights themselves
checkpoints/part_N.safetensors  the weights after each part, when the recipe keeps them
seen.parquet, curve.parquet   how often each sample was seen, and the loss of every step
timing.json, report.html      what happened to be true; not described by the record
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from headwater.config import load_yaml
from headwater.errors import IntegrityError, MissingExtra, MissingInput
from headwater.hashing import digest_file
from headwater.manifest import Count, Hex64, Record, Step, identity_id
from headwater.steps import read_record
from train.recipe import Recipe, parse_recipe

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
TEXT_BATCH = 256
MAX_CONFIG_BYTES = 1 << 20


class Run(Record):
    """`run/1`: what a training was, and what it really saw."""

    format: Literal["run/1"] = "run/1"
    recipe_id: Hex64 = Field(description="the recipe that was asked for")
    resolved_id: Hex64 = Field(description="that recipe with the overrides: the same when there are none")
    recipe_name: str
    data_id: Hex64 = Field(description="SHA-256 over the sorted names and digests of the shards")
    seed: int
    conforming: bool = Field(description="no field was changed that the recipe does not leave to the machine")
    overrides: dict[str, Any] = Field(default_factory=dict)
    placement: dict[str, Any] = Field(description="device, processes, micro_batch, accumulation, threads")
    steps: Count
    samples_seen: Count = Field(description="samples that the optimizer saw, with repeats")
    samples_asked: Count = Field(description="the budget; rounding may add to it")
    unique_samples: Count
    usable_samples: Count = Field(description="in the shards, with picture and caption")
    repeats: dict[str, Count] = Field(description="times seen -> samples; a key may be a range such as 17-32")
    skipped: dict[str, Count] = Field(default_factory=dict, description="by reason, each time it happened")
    first_loss: float | None
    last_loss: float | None = Field(description="mean of the last tenth of the steps")
    chance_loss: float = Field(description="of a model that knows nothing, for this loss and batch")
    verdict: str
    parameters: Count
    extras: dict[str, Any] = Field(
        default_factory=dict, description="of steps that make runs otherwise, such as soups"
    )


@dataclass(frozen=True)
class RunFolder:
    """A folder with a model; `run`, `recipe` and `step` are None for one that open_clip made elsewhere."""

    path: Path
    run: Run | None
    recipe: Recipe | None
    step: Step | None
    id: str


def open_run(path: Path) -> RunFolder:
    """The run in a folder. Raises MissingInput (no model there) or IntegrityError (a record that cannot be read)."""
    if not path.is_dir():
        raise MissingInput(f"{path}: no such folder", hint="name a folder that headwater train wrote")
    if not (path / CONFIG).is_file():
        raise MissingInput(f"{path}: has no {CONFIG}, so it is no run and no open_clip folder")
    if not (path / "run.json").is_file():
        weights = find_weights(path)
        digests = [digest_file(file).sha256 for file in (path / CONFIG, weights)]
        return RunFolder(path, None, None, None, identity_id({"open_clip": digests}))
    try:
        run = Run.model_validate_json((path / "run.json").read_bytes())
        recipe = parse_recipe(load_yaml(path / "recipe.yaml"), str(path / "recipe.yaml"))
    except ValidationError as error:
        raise IntegrityError(f"{path / 'run.json'}: not a run/1 record", hint="train again") from error
    step = read_record(path)
    if step is None:
        raise IntegrityError(
            f"{path}: has no step record, so its training did not end", hint="run the same line again"
        )
    if recipe.id != run.resolved_id:
        raise IntegrityError(
            f"{path / 'recipe.yaml'}: is not the recipe that run.json names", hint="train again"
        )
    return RunFolder(path, run, recipe, step, step.id)


def find_weights(path: Path) -> Path:
    """The weights in a folder; safetensors first."""
    for pattern in (WEIGHTS, "*.safetensors", "open_clip_pytorch_model.bin", "*.pt", "*.bin"):
        found = sorted(path.glob(pattern))
        if found:
            return found[0]
    raise MissingInput(f"{path}: holds no weights (.safetensors, .bin or .pt)")


def config_document(recipe: Recipe) -> dict[str, Any]:
    """`open_clip_config.json` of a recipe's model."""
    model = dict(recipe.model.open_clip_config)
    if recipe.loss.kind == "sigmoid":
        model.setdefault("init_logit_bias", -10)  # the parameter exists only where the configuration has it
    preprocess = recipe.preprocess
    return {
        "model_cfg": model,
        "preprocess_cfg": {
            "size": preprocess.size,
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "interpolation": preprocess.interpolation,
            "resize_mode": preprocess.resize_mode,
        },
    }


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
    from train.weights import read_weights

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
