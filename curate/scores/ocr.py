"""Text in pictures, found by PP-OCR's detector, read if asked, and masked for another image-text score (the idea of T-MARS).

Needs `pip install 'headwater[ocr]'`; the models are those inside that package, nothing is downloaded. From arXiv 2307.03132: pictures
whose caption is only what is written in them teach a model to read, not to see. Theirs detect with FAST at 512 x 512, ours is PP-OCRv6.

    text_boxes     boxes of text (lines or words)
    text_area      share of the picture that they cover together, of the pixels of the detector's raster whose centre lies in a box
    text_height    median height of the boxes over that of the picture; null without boxes

The detector sees the picture with its shorter side at `side` pixels: smaller ones are enlarged, three times at most; the longer side is
four times that at most. On drawings it takes a single thing on a plain ground for a character (in four of five clip arts of our
example); a box therefore counts only if the recogniser is sure (`sure`, its mean probability) of at least three letters or digits in it,
East Asian ones counted twice. Single large letters do not count, nor do scripts that PP-OCRv6 does not read. --no-confirm takes every
box: faster, and meant for photos.

With --read also what is written there:

    ocr_text       the lines that the recogniser is sure of, from the top, parted by line feeds
    text_words     words in it
    text_overlap   share of the different words of the caption that are among them (NFKC, case folded); null without a caption

With --model also clip_masked_similarity_score: the boxes are filled with the mean colour round them (curate._ocr_boxes) and picture and
caption are compared again by a model of yours; null without a caption. A picture without text gets the score of `headwater score clip`
for that model (up to how arithmetic rounds in batches). The paper keeps rows by this score, not by text_area.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from curate._ocr_masked import Masked
    from curate._ocr_models import Detector, Reader
    from curate.pictures import Picture

SCOPE = "pictures"
VERSION = 1
COLUMNS: tuple[str, ...] = ()
COST = "costly"
PROCESSES = "many"
PATH_SETTINGS = ("device",)  # where the model runs is no part of what it is
SIDES = (96, 1024)
LEAST_LETTERS = 3  # in a box of text


@dataclass(frozen=True)
class Config:
    """Settings."""

    shards: Path | None = field(
        default=None, metadata={"help": "Folder of webdataset tars with the pictures."}
    )
    side: int = field(
        default=512, metadata={"help": "Pixels of the shorter side for the detector, 96 to 1024."}
    )
    threshold: float = field(
        default=0.5, metadata={"help": "Least mean probability of text in a box, between 0 and 1."}
    )
    confirm: bool = field(
        default=True,
        metadata={"help": "Count a box only if three letters or digits can be read in it (default)."},
    )
    sure: float = field(
        default=0.75, metadata={"help": "Least mean probability of a line that is read, between 0 and 1."}
    )
    read: bool = field(default=False, metadata={"help": "Give what is written, too."})
    model: Path | None = field(
        default=None,
        metadata={
            "help": "Folder of a model for the masked score: open_clip's local-dir, a run of headwater train, or a trained scorer."
        },
    )
    device: str = field(
        default="cpu",
        metadata={
            "help": "Where that model runs; auto is a GPU if there is one. The detector runs on the CPU.",
            "choices": ["auto", "cpu", "cuda"],
        },
    )


def OUTPUT(config: Config) -> dict[str, str]:
    """What is always there, and what is asked for."""
    made = {"text_boxes": "int32", "text_area": "float32", "text_height": "float32"}
    if config.read:
        made |= {"ocr_text": "string", "text_words": "int32", "text_overlap": "float32"}
    if config.model is not None:
        made["clip_masked_similarity_score"] = "float32"
    return made


def CAPTIONS(config: Config) -> bool:
    """Whether captions are looked at."""
    return config.read or config.model is not None


class Scorer:
    """Finds and digests the files at once; models are built with the first batch."""

    def __init__(self, config: Config) -> None:
        from curate import _ocr_models as models
        from headwater.hashing import digest_file

        if not SIDES[0] <= config.side <= SIDES[1]:
            raise UsageError(f"--side {config.side}: from {SIDES[0]} to {SIDES[1]}")
        for name in ("threshold", "sure"):
            if not 0 < getattr(config, name) < 1:
                raise UsageError(f"--{name} {getattr(config, name)}: between 0 and 1")
        self._reads = config.read or config.confirm
        files = {"detector": models.DETECTOR} | ({"reader": models.RECOGNISER} if self._reads else {})
        self.identity = {
            role: digest_file(models.packaged(name), ("sha256",)).sha256 for role, name in files.items()
        }
        self.identity["rapidocr"] = models.version()
        self._config = config
        self._masked: Masked | None = None
        if config.model is not None:
            from curate._ocr_masked import Masked

            self._masked = Masked(config.model, config.device)
            self.identity |= self._masked.identity

    @cached_property
    def _detector(self) -> Detector:
        from curate._ocr_models import Detector

        return Detector(self._config.side, self._config.threshold)

    @cached_property
    def _reader(self) -> Reader:
        from curate._ocr_models import Reader

        return Reader()

    def score_pictures(self, batch: list[Picture]) -> dict[str, Any]:
        """One row a picture; see the module."""
        import pyarrow as pa

        from curate._ocr_models import NoBoxes
        from curate.pictures import PictureError

        outputs = OUTPUT(self._config)
        rows: list[dict[str, Any]] = []
        for picture in batch:
            try:
                rows.append(self._row(picture.open(), picture.caption_of_pool, picture.uid))
            except (PictureError, NoBoxes):
                rows.append({})
        return {
            name: pa.array([row.get(name) for row in rows], pa.type_for_alias(kind))
            for name, kind in outputs.items()
        }

    def _row(self, image: Image, caption: str | None, uid: str) -> dict[str, Any]:
        from PIL import Image as image_module

        from curate._ocr_boxes import covered, fill, heights

        quads, seen = self._detector.find(image)
        lines = [self._line(seen, quad) for quad in quads] if self._reads else []
        if self._config.confirm:
            told = np.array([letters(line) >= LEAST_LETTERS for line in lines], bool)
            quads, lines = quads[told], [line for line, is_text in zip(lines, told, strict=True) if is_text]
        row: dict[str, Any] = {
            "text_boxes": len(quads),
            "text_area": float(covered(quads, seen.size, seen.size).mean()),
            "text_height": float(np.median(heights(quads)) / seen.height) if len(quads) else None,
        }
        if self._config.read:
            text = "\n".join(line for line in lines if line.strip())
            read, wanted = words(text), set(words(caption or ""))
            row["ocr_text"], row["text_words"] = text, len(read)
            row["text_overlap"] = len(wanted & set(read)) / len(wanted) if wanted else None
        if self._masked is not None and caption and caption.strip():
            shown = image_module.fromarray(fill(np.asarray(image), quads, seen.size)) if len(quads) else image
            row["clip_masked_similarity_score"] = self._masked.score(shown, caption, uid=uid, unmasked=image)
        return row

    def _line(self, seen: Image, quad: Any) -> str:
        text, chance = self._reader.read(seen, quad)
        return text if chance >= self._config.sure else ""


def letters(text: str) -> int:
    """Letters and digits in it, wide ones twice."""
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in text if sign.isalnum())
    return sum(map(str.isalnum, text)) + wide


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, NFKC and case folded."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
