"""Image-text score of a CLIP model over the pictures of shards: what a pool's own clip_…_similarity_score is, from any open_clip model.

clip_NAME_similarity_score is the cosine of picture and caption, computed in float32 and rounded to float16 as in DataComp's pools;
null without a caption or a picture that opens. The rows lie beside it as arrays NAME_img and NAME_txt (float16, length 1; zeros
where there is none), in DataComp's npz layout. Weights are read as data from a file or folder of yours; nothing is downloaded.

NAME is given, or made from the model's: ViT-B-32 gives b32, ViT-L-14 gives l14, of local-dir:DIR it is the folder's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate._clip_source import column_name, embed_width, open_source, source_of
from curate._pair_rows import as_columns, captioned, check_batch, in_batches, picture_rows
from curate.features import normalise

if TYPE_CHECKING:
    from curate.pictures import Picture

SCOPE = "pictures"
VERSION = 1
COLUMNS: tuple[str, ...] = ()
COST = "costly"
PROCESSES = "one"
CAPTIONS = True
BATCH = 256
# where things lie and run is no part of what they are; the digests of the files are
PATH_SETTINGS = ("device", "model", "name")


@dataclass(frozen=True)
class Config:
    """Settings."""

    shards: Path | None = field(
        default=None, metadata={"help": "Folder of webdataset tars with the pictures."}
    )
    model: str = field(
        default="ViT-B-32", metadata={"help": "Name of the model in open_clip; of FILE weights."}
    )
    pretrained: Path | None = field(
        default=None,
        metadata={"help": "FILE of weights, or local-dir:DIR (such as a run of headwater train)."},
    )
    name: str = field(default="", metadata={"help": "What the columns and arrays are called after."})
    batch: int = field(default=64, metadata={"help": "Pictures that are encoded together, 256 at most."})
    device: str = field(
        default="auto",
        metadata={
            "help": "Where the model runs; auto is a GPU if there is one.",
            "choices": ["auto", "cpu", "cuda"],
        },
    )
    precision: str = field(
        default="fp32", metadata={"help": "Arithmetic of the model.", "choices": ["fp32", "bf16"]}
    )


def OUTPUT(config: Config) -> dict[str, str]:
    """The one column, named after the model."""
    return {f"clip_{column_name(config.name, config.model, config.pretrained)}_similarity_score": "float32"}


def ARRAYS(config: Config) -> dict[str, tuple[int, Any]]:
    """The arrays written beside the column; their width is read from the model's configuration."""
    name = column_name(config.name, config.model, config.pretrained)
    width = embed_width(config.model, config.pretrained)
    return {f"{name}_img": (width, np.float16), f"{name}_txt": (width, np.float16)}


class Scorer:
    """Finds and digests the weights at once; the model is built with the first batch."""

    def __init__(self, config: Config) -> None:
        check_batch(config.batch, BATCH)
        self._config = config
        self._source = source_of(config.model, config.pretrained)
        self.identity = {"column": next(iter(OUTPUT(config))), **self._source.identity}

    @cached_property
    def _model(self) -> Any:
        from curate._pair_rows import device_of

        return open_source(self._source, device_of(self._config.device))

    def score_pictures(self, batch: list[Picture]) -> dict[str, npt.NDArray[Any]]:
        """One row a picture: the score, and the rows of picture and caption."""
        import torch

        model = self._model
        width, size = embed_width(self._config.model, self._config.pretrained), self._config.batch
        numbers, captions = captioned(batch)
        with torch.autocast(model.device, torch.bfloat16, enabled=self._config.precision == "bf16"):
            pictures, rows = picture_rows(
                batch, model.transform, lambda some: model.encode_images(torch.stack(some)), size, width
            )
            texts = in_batches(model.encode_texts, captions, size, width)
        if self._config.precision != "fp32":
            rows, texts = normalise(rows), normalise(texts)  # 8 bits of length 1 are not length 1
        (score,), (first, second) = OUTPUT(self._config), ARRAYS(self._config)
        return as_columns(len(batch), (pictures, rows), (numbers, texts), (score, first, second))
