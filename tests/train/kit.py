"""Tiny recipes, shards and models that the tests of `train` share: they learn in seconds on one core.

    write_shards(folder, samples=64, shards=2)   webdataset tars of coloured shapes with captions that name them
    tiny_recipe(**changes)                       a recipe of 8-pixel patches and 32-wide towers, as a document
    write_recipe(path, **changes)                the same as a file for --recipe
    tiny_run(folder, seed=0)                     a RUN folder with random weights, without any training

Changes are dotted fields: tiny_recipe(**{"budget.samples_seen": 64}).
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import yaml

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 60),
    "blue": (40, 70, 220),
    "yellow": (235, 215, 40),
    "black": (15, 15, 15),
    "purple": (150, 40, 170),
}
SHAPES = ("circle", "square", "triangle", "cross")

DOCUMENT: dict[str, Any] = {
    "format": "recipe/1",
    "name": "tiny",
    "summary": "Tests only.",
    "task": "clip",
    "model": {
        "open_clip_config": {
            "embed_dim": 32,
            "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
            "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
        }
    },
    "preprocess": {
        "size": 32,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "crop_scale": [0.9, 1.0],
    },
    "data_contract": {"kind": "webdataset", "min_shards": 1},
    "budget": {"samples_seen": 192, "global_batch": 16, "checkpoints": 3, "rounding": "exact"},
    "loss": {"kind": "softmax", "local_loss": True, "gather_with_grad": True},
    "optim": {
        "name": "adamw",
        "lr": 1.0e-3,
        "beta1": 0.9,
        "beta2": 0.98,
        "eps": 1.0e-6,
        "weight_decay": 0.2,
        "grad_clip_norm": None,
    },
    "schedule": {"kind": "cosine", "warmup_steps": 2},
    "numerics": {"precision": "fp32", "grad_checkpointing": False, "static_graph": False},
    "sampling": {"mode": "resampled", "shuffle_buffer": 64, "shuffle_initial": 16, "streams": 2},
    "ema": None,
    "keep_checkpoints": True,
    "allowed_overrides": ["numerics.grad_checkpointing"],
}


def picture(number: int, size: int = 40) -> tuple[bytes, str]:
    """A PNG of one coloured shape, and its caption; the same for the same number."""
    from PIL import Image, ImageDraw

    colour = list(COLOURS)[number % len(COLOURS)]
    shape = SHAPES[number // len(COLOURS) % len(SHAPES)]
    image = Image.new("RGB", (size, size), (245, 245, 245))
    draw = ImageDraw.Draw(image)
    shift = number // (len(COLOURS) * len(SHAPES)) % 5
    low, high = 6 + shift, size - 10 + shift
    if shape == "circle":
        draw.ellipse((low, low, high, high), fill=COLOURS[colour])
    elif shape == "square":
        draw.rectangle((low, low, high, high), fill=COLOURS[colour])
    elif shape == "triangle":
        draw.polygon([(low, high), (high, high), ((low + high) // 2, low)], fill=COLOURS[colour])
    else:
        middle = (low + high) // 2
        draw.line((low, middle, high, middle), fill=COLOURS[colour], width=6)
        draw.line((middle, low, middle, high), fill=COLOURS[colour], width=6)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue(), f"a {colour} {shape}"


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """One member, with nothing of this machine in its header."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def write_shards(folder: Path, *, samples: int = 64, shards: int = 2, first: int = 0) -> Path:
    """`samples` pictures over `shards` tars, with sizes.json; the same bytes for the same numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for shard in range(shards):
        numbers = range(first + shard * samples // shards, first + (shard + 1) * samples // shards)
        with tarfile.open(folder / f"{shard:08d}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for number in numbers:
                image, caption = picture(number)
                uid = hashlib.md5(str(number).encode()).hexdigest()
                add(archive, f"{number:08d}.json", json.dumps({"uid": uid}).encode())
                add(archive, f"{number:08d}.png", image)
                add(archive, f"{number:08d}.txt", caption.encode())
        sizes[f"{shard:08d}.tar"] = len(numbers)
    (folder / "sizes.json").write_text(json.dumps(sizes))
    return folder


def tiny_recipe(**changes: Any) -> dict[str, Any]:
    """The document of a tiny recipe with some dotted fields changed."""
    document = copy.deepcopy(DOCUMENT)
    for name, value in changes.items():
        *path, last = name.split(".")
        target = document
        for part in path:
            target = target[part]
        target[last] = value
    return document


def write_recipe(path: Path, **changes: Any) -> Path:
    """A tiny recipe as a YAML file."""
    path.write_text(yaml.safe_dump(tiny_recipe(**changes), sort_keys=False))
    return path


def tiny_run(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A folder that open_run takes for a foreign open_clip model: configuration and random weights, no training."""
    import torch

    from headwater.clip_model import CONFIG, WEIGHTS, build
    from headwater.weights import write_weights
    from train.recipe import parse_recipe
    from train.runs import config_document

    folder.mkdir(parents=True, exist_ok=True)
    document = config_document(parse_recipe(tiny_recipe(**changes), "kit"))
    (folder / CONFIG).write_text(json.dumps(document))
    torch.manual_seed(seed)
    model, _, _ = build(document["model_cfg"], document["preprocess_cfg"])
    write_weights(model.state_dict(), folder / WEIGHTS)
    return folder
