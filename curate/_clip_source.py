"""Where the CLIP model of a scorer comes from: an open_clip name with a file of weights, or a folder with both. Never a hub."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from headwater.errors import IntegrityError, MissingExtra, MissingInput, UsageError, nearest
from headwater.hashing import digest_file

LOCAL = "local-dir:"
MAX_CONFIG_BYTES = 1 << 20
HUB_KEYS = ("hf_model_name", "hf_tokenizer_name", "timm_model_pretrained")


@dataclass(frozen=True)
class Source:
    """A model that can be built: a folder (then `model` is not used), or an open_clip name, and the file of weights."""

    folder: Path | None
    model: str
    weights: Path
    identity: dict[str, str]  # what decides its numbers


def column_name(name: str, model: str, pretrained: Path | None) -> str:
    """What columns and arrays are called after: `name`, else from the folder's or the model's name. Raises UsageError."""
    if name:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_]{0,30}", name):
            raise UsageError(f"--name {name}: small letters, digits and _ only, 31 at most")
        return name
    folder = local_folder(pretrained)
    base = model if folder is None else folder.resolve().name
    vit = re.fullmatch(r"ViT-([A-Za-z])-(\d+)", base)
    short = f"{vit[1]}{vit[2]}" if vit else re.sub(r"[^a-z0-9]+", "_", base.lower()).strip("_")
    return short.lower()[:31] or "model"


def local_folder(pretrained: Path | None) -> Path | None:
    """The folder of `local-dir:DIR` (or a plain path of one), None for a file."""
    if pretrained is None:
        return None
    before, marker, rest = str(pretrained).partition(LOCAL)
    if marker:  # a rule file's own folder may stand before it
        return (Path(before) / rest).expanduser()  # an absolute rest replaces what is before
    return pretrained if pretrained.expanduser().is_dir() else None


def source_of(model: str, pretrained: Path | None) -> Source:
    """The model's files with their digests; nothing is loaded. Raises UsageError, MissingExtra, MissingInput."""
    from headwater.clip_model import CONFIG, find_weights

    _need_packages()
    if pretrained is None:
        raise UsageError(
            "clip needs --pretrained: a FILE of weights, or local-dir:DIR",
            hint="weights are never downloaded: fetch the file yourself, or train a model with headwater train",
        )
    folder = local_folder(pretrained)
    if folder is not None:
        if not (folder / CONFIG).is_file():
            raise MissingInput(
                f"{folder}: has no {CONFIG}", hint="an open_clip folder, or a run of headwater train"
            )
        weights = find_weights(folder)
        return Source(folder, "", weights, {"config": _sha256(folder / CONFIG), "weights": _sha256(weights)})
    _config(model)
    weights = pretrained.expanduser()
    if not weights.is_file():
        raise UsageError(
            f"--pretrained {pretrained}: is no file or folder here, and names of weights on a hub are not looked up",
            hint="fetch the weights yourself (.safetensors or .pt) and name the file, or local-dir:DIR",
        )
    return Source(None, model, weights, {"model": model, "weights": _sha256(weights)})


def embed_width(model: str, pretrained: Path | None) -> int:
    """Numbers a row, from the configuration."""
    folder = local_folder(pretrained)
    config = _config(model) if folder is None else _folder_config(folder)
    width = config.get("embed_dim")
    if type(width) is not int or not 1 <= width <= 65_536:
        raise IntegrityError(f"{folder or model}: its configuration names no embed_dim")
    return width


def open_source(source: Source, device: str) -> Any:
    """The model, ready to encode (headwater.clip_model.LoadedModel).

    Raises IntegrityError: weights that hold code (what they would call is named) or do not fit (the first tensor is named).
    """
    from headwater.clip_model import LoadedModel, build, load_model
    from headwater.weights import read_weights

    if source.folder is not None:
        return load_model(source.folder, device=device, weights=source.weights)
    config = _config(source.model)
    for key in HUB_KEYS:
        if any(config.get(tower, {}).get(key) for tower in ("text_cfg", "vision_cfg")):
            raise UsageError(
                f"model {source.model}: {key}: a part of it comes from a model hub, which is not asked",
                hint="save the model as an open_clip folder without such parts, and give local-dir:DIR",
            )
    state = read_weights(source.weights)
    size = config["vision_cfg"].get("image_size", 224)
    size = size[0] if isinstance(size, list | tuple) else size
    model, transform, tokenizer = build(config, {"size": size})
    _check(model.state_dict(), state, source)
    model.load_state_dict(state)
    model.eval().to(device)
    return LoadedModel(model, transform, tokenizer, float(model.logit_scale.detach().exp()), size, device)


def _check(wanted: dict[str, Any], state: dict[str, Any], source: Source) -> None:
    """That every tensor of the model is there in its shape, and no other."""
    for name in [*wanted, *(extra for extra in state if extra not in wanted)]:
        if name in wanted and name in state and wanted[name].shape == state[name].shape:
            continue
        here = f"is {list(state[name].shape)}" if name in state else "is missing"
        there = f"needs {list(wanted[name].shape)}" if name in wanted else "has no such tensor"
        raise IntegrityError(
            f"{source.weights}: is not of {source.model}: tensor {name!r} {here}, the model {there}",
            hint="name the --model that the weights were trained as",
        )


@lru_cache(maxsize=4)
def _config(model: str) -> dict[str, Any]:
    """open_clip's configuration of a model, by name."""
    _need_packages()
    import open_clip

    known = open_clip.list_models()
    if model not in known:  # get_model_config would also take a name on a hub
        raise UsageError(f"--model {model}: open_clip has no such model: {nearest(model, known)}"[:400])
    return dict(open_clip.get_model_config(model))


def _folder_config(folder: Path) -> dict[str, Any]:
    from headwater.clip_model import CONFIG

    path = folder / CONFIG
    if not path.is_file():
        raise MissingInput(
            f"{folder}: has no {CONFIG}", hint="an open_clip folder, or a run of headwater train"
        )
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise IntegrityError(f"{path}: too large for a configuration")
    try:
        found = json.loads(path.read_bytes())["model_cfg"]
        if not isinstance(found, dict):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{path}: not an open_clip configuration") from error
    return found


def _need_packages() -> None:
    for name in ("torch", "open_clip"):
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(f"{name} is not installed", hint="pip install 'headwater[clip]'")


def _sha256(path: Path) -> str:
    return digest_file(path, ("sha256",)).sha256
