"""A tiny CLIP folder with random weights, and tars with a pool of pictures whose colour and place their captions name."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.subset import from_hex, write_sorted
from tests.curate.feature_kit import uid_of

MODEL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
RGB = ((220, 30, 30), (30, 180, 60), (40, 70, 220), (235, 215, 40), (150, 40, 170), (250, 250, 250))
PLACES = ("left", "right", "above", "below", "middle", "corner", "edge", "side")


def clip_folder(folder: Path, *, seed: int = 0) -> Path:
    """What `local-dir:` names: open_clip_config.json and safetensors."""
    import torch

    from headwater.clip_model import CONFIG, WEIGHTS, build
    from headwater.weights import write_weights

    folder.mkdir(parents=True)
    preprocess = {"size": 32}
    (folder / CONFIG).write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": preprocess}))
    torch.manual_seed(seed)
    model, _, _ = build(MODEL, preprocess)
    write_weights(model.state_dict(), folder / WEIGHTS)
    return folder


def caption(number: int) -> str:
    """Another one for each of the first 48 numbers."""
    return f"a {COLOURS[number % 6]} square {PLACES[number // 6 % 8]}"


def picture(number: int, side: int = 40) -> bytes:
    """A PNG; another one for each of the first 48 numbers, also as a difference hash."""
    from PIL import Image

    rng = np.random.default_rng(number)
    grid = rng.integers(0, 2, (8, 8, 1)) * np.array(RGB[number % 6]) // 2 + np.array(RGB[number % 6]) // 2
    out = io.BytesIO()
    Image.fromarray(grid.astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST).save(out, "PNG")
    return out.getvalue()


def write_tars(folder: Path, samples: Sequence[tuple[str, bytes]], *, tars: int = 2) -> Path:
    """(uid, picture) as webdataset tars."""
    folder.mkdir(parents=True)
    for number, part in enumerate(np.array_split(np.arange(len(samples)), tars)):
        with tarfile.open(folder / f"{number:08d}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for row in part.tolist():
                uid, data = samples[row]
                for name, content in (("json", json.dumps({"uid": uid}).encode()), ("png", data)):
                    info = tarfile.TarInfo(f"{row:08d}.{name}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return folder


def write_pool(folder: Path, uids: Sequence[str], captions: Sequence[str | None], *, shards: int = 1) -> Path:
    """Parquet shards with uid and text."""
    folder.mkdir(parents=True)
    for number, part in enumerate(np.array_split(np.arange(len(uids)), shards)):
        rows = part.tolist()
        table = pa.table(
            {
                "uid": pa.array([uids[i] for i in rows], pa.string()),
                "text": pa.array([captions[i] for i in rows], pa.string()),
            }
        )
        pq.write_table(table, folder / f"{number:08d}.parquet")
    return folder


def subset(path: Path, uids: Sequence[str]) -> Path:
    """A subset file of these uids."""
    words = from_hex(sorted(uids))
    with path.open("wb") as handle:
        write_sorted(handle, [words])
    return path


def small_world(folder: Path, *, pairs: int = 48) -> tuple[Path, Path, Path]:
    """A pool, its tars, and a subset file that trusts all of it."""
    uids = [uid_of(n) for n in range(pairs)]
    pool = write_pool(folder / "pool", uids, [caption(n) for n in range(pairs)])
    tars = write_tars(folder / "tars", [(uid, picture(n)) for n, uid in enumerate(uids)])
    return pool, tars, subset(folder / "trusted.npy", uids)
