"""Frozen towers: pictures and captions become rows of numbers that a small projection can be trained on.

    lite0+minilm     EfficientNet-Lite0 (ImageNet, arXiv 1905.11946) and all-MiniLM-L6-v2 (arXiv 2002.10957, 1908.10084)
    local-dir:DIR    both towers of an open_clip model, such as a run of `headwater train`

The weights of the first are assets (`headwater doctor --fetch lite0`, `--fetch minilm`); all are read as data, nothing is downloaded.
A picture is fitted whole into a square on white: what a caption names may lie at the border. Rows are rounded to float16, so that
the last bits of one machine's arithmetic decide nothing later.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from curate import assets
from headwater.errors import IntegrityError, MissingExtra, MissingInput, UsageError, nearest
from headwater.hashing import digest_file

if TYPE_CHECKING:
    from PIL.Image import Image

Half = npt.NDArray[np.float16]
PACKAGED = "lite0+minilm"
LOCAL = "local-dir:"
SIDE = 160  # of the square that lite0 sees, in pixels
MEAN, SCALE = 127.0, 128.0  # lite0 takes (value - 127) / 128
MAX_TOKENS = 128
MAX_TOKENIZER_BYTES = 4 << 20
LITE0_LIMIT_BYTES = 32 << 20
TEXT_BATCH = 64
CPU_BATCH = 8  # pictures: what lite0 makes of more does not stay in a core's cache, and takes twice as long
LICENCES = {
    "lite0": "Apache-2.0 (EfficientNet-Lite0, trained on ImageNet)",
    "minilm": "Apache-2.0 (sentence-transformers/all-MiniLM-L6-v2)",
}


class Towers(Protocol):
    """Two frozen encoders. `prepare` makes a small thing of an RGB image at once, so that a batch never holds large ones;
    `pictures`: prepared images to (n, image_width); `texts`: captions to (n, text_width).
    """

    image_width: int
    text_width: int

    def prepare(self, image: Image) -> Any: ...

    def pictures(self, prepared: Sequence[Any]) -> Half: ...

    def texts(self, captions: Sequence[str]) -> Half: ...


@dataclass(frozen=True)
class TowerFacts:
    """Which towers: the option's value without a path, SHA-256 of what they are made of by role, their licences."""

    name: str
    digests: dict[str, str]
    licences: dict[str, str]


def describe_towers(spec: str) -> TowerFacts:
    """The towers that `spec` names, without loading them.

    Raises UsageError (an unknown name), MissingExtra (a package or an asset, with the command that brings it) and MissingInput.
    """
    if spec.startswith(LOCAL):
        config, weights = _clip_files(spec)
        _need("torch", "open_clip", extra="clip")
        digests = {"config": _sha256(config), "weights": _sha256(weights)}
        return TowerFacts("local-dir", digests, {"clip": "that of the model's own card"})
    if spec != PACKAGED:
        raise UsageError(f"towers {spec!r}: {nearest(spec, [PACKAGED, LOCAL + 'DIR'])}")
    _need("torch", "timm", "tokenizers", extra="towers")
    for name in ("lite0", "minilm"):
        assets.locate(name)
    return TowerFacts(spec, {name: assets.digest(name) for name in ("lite0", "minilm")}, dict(LICENCES))


def open_towers(spec: str, *, device: str = "cpu") -> Towers:
    """The towers, loaded. Raises what `describe_towers` raises, and IntegrityError for weights that are not theirs."""
    facts = describe_towers(spec)
    if device == "cpu":
        import torch

        # their layers are small: two threads a process take several times the CPU of one where others work beside it
        torch.set_num_threads(1)
    return _Clip(spec, device) if facts.name == "local-dir" else _Packaged(device)


def copy_clip(spec: str, into: Path) -> None:
    """The configuration and weights of `local-dir:DIR` as files of the folder `into`, so that what rests on them needs no other place."""
    config, weights = _clip_files(spec)
    into.mkdir()
    shutil.copyfile(config, into / config.name)
    shutil.copyfile(weights, into / weights.name)


def fitted(image: Image, side: int = SIDE) -> npt.NDArray[np.uint8]:
    """The whole picture in the middle of a white square: (side, side, 3), values 0 to 255."""
    from PIL import Image as Pillow

    scale = side / max(image.size)
    width, height = (max(1, round(n * scale)) for n in image.size)
    square = Pillow.new("RGB", (side, side), (255, 255, 255))
    small = image.resize((width, height), Pillow.Resampling.BICUBIC)
    square.paste(small, ((side - width) // 2, (side - height) // 2))
    return np.asarray(square)


class _Packaged:
    """EfficientNet-Lite0 without its last layer, and MiniLM with mean pooling."""

    image_width = 1280
    text_width = 384

    def __init__(self, device: str) -> None:
        import timm
        import torch
        from tokenizers import Tokenizer

        from curate._tower_bert import Bert
        from curate._tower_legacy import read_legacy
        from headwater.weights import read_weights

        arrays = read_legacy(assets.locate("lite0"), limit_bytes=LITE0_LIMIT_BYTES)
        self._model: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        state = self._model.state_dict()
        # both list their layers from the first to the last, under other names
        for (theirs, array), (name, tensor) in zip(arrays.items(), state.items(), strict=True):
            if array.shape != tuple(tensor.shape) or theirs.rpartition(".")[2] != name.rpartition(".")[2]:
                raise IntegrityError(f"lite0: {theirs} {list(array.shape)} is no {name} {list(tensor.shape)}")
            state[name] = torch.from_numpy(array)
        self._model.load_state_dict(state)
        self._model.eval().to(device)
        folder = assets.locate("minilm")
        if (folder / "tokenizer.json").stat().st_size > MAX_TOKENIZER_BYTES:
            raise IntegrityError(f"{folder}/tokenizer.json: too large for a tokenizer")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()
        self._bert = Bert(read_weights(folder / "model.safetensors"), device=device)
        self._device = device

    def prepare(self, image: Image) -> npt.NDArray[np.uint8]:
        """See `fitted`."""
        return fitted(image)

    def pictures(self, prepared: Sequence[Any]) -> Half:
        """(n, 1280): what the last pooling gives."""
        import torch

        if not prepared:
            return np.zeros((0, self.image_width), np.float16)
        step = CPU_BATCH if self._device == "cpu" else len(prepared)
        rows = []
        with torch.inference_mode():
            for start in range(0, len(prepared), step):
                some = np.stack(prepared[start : start + step]).transpose(0, 3, 1, 2).astype(np.float32)
                batch = torch.from_numpy((some - MEAN) / SCALE).to(self._device)
                found = self._model.forward_features(batch)
                rows.append(_half(self._model.forward_head(found, pre_logits=True)))
        return np.concatenate(rows)

    def texts(self, captions: Sequence[str]) -> Half:
        """(n, 384), of length 1."""
        import torch

        # each caption once, and long ones beside long ones: padding costs as much as words do
        distinct = sorted(set(captions), key=lambda caption: (len(caption), caption))
        rows = [np.zeros((0, self.text_width), np.float16)]
        with torch.inference_mode():
            for start in range(0, len(distinct), TEXT_BATCH):
                found = self._tokenizer.encode_batch(distinct[start : start + TEXT_BATCH])
                ids = torch.tensor([item.ids for item in found], device=self._device)
                mask = torch.tensor([item.attention_mask for item in found], device=self._device)
                rows.append(_half(self._bert.encode(ids, mask)))
        place = {caption: number for number, caption in enumerate(distinct)}
        return np.asarray(
            np.concatenate(rows)[[place[caption] for caption in captions]].reshape(-1, self.text_width)
        )


class _Clip:
    """Both towers of an open_clip model; rows of length 1."""

    def __init__(self, spec: str, device: str) -> None:
        from headwater.clip_model import load_model

        config, weights = _clip_files(spec)
        self._model = load_model(config.parent, device=device, weights=weights)
        self.image_width = self.text_width = int(self._model.encode_texts(["a"]).shape[1])

    def prepare(self, image: Image) -> Any:
        """The model's own transform: (3, size, size)."""
        return self._model.transform(image)

    def pictures(self, prepared: Sequence[Any]) -> Half:
        """(n, image_width), of length 1."""
        import torch

        if not prepared:
            return np.zeros((0, self.image_width), np.float16)
        return np.asarray(self._model.encode_images(torch.stack(list(prepared))), np.float16)

    def texts(self, captions: Sequence[str]) -> Half:
        """(n, text_width), of length 1."""
        if not captions:
            return np.zeros((0, self.text_width), np.float16)
        return np.asarray(self._model.encode_texts(captions), np.float16)


def _clip_files(spec: str) -> tuple[Path, Path]:
    from headwater.clip_model import CONFIG, find_weights

    folder = Path(spec.removeprefix(LOCAL)).expanduser()
    if not (folder / CONFIG).is_file():
        raise MissingInput(
            f"{folder}: no {CONFIG} there", hint="name a run of headwater train, or an open_clip folder"
        )
    return folder / CONFIG, find_weights(folder)


def _need(*packages: str, extra: str) -> None:
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(f"{name} is not installed", hint=f"pip install 'headwater[{extra}]'")


def _sha256(path: Path) -> str:
    return digest_file(path, ("sha256",)).sha256


def _half(rows: Any) -> Half:
    return np.asarray(rows.float().cpu().numpy(), np.float16)
