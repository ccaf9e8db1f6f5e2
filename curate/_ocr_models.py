"""PP-OCR's detector and recogniser, from the files inside the package rapidocr: nothing is ever downloaded.

The files are named, checked and given to onnxruntime by us (curate._onnx); of rapidocr's code only what makes boxes of the
detector's map is used. Every picture and every line runs alone, so that no answer depends on its neighbours.
"""

from __future__ import annotations

import importlib.util
import math
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate._ocr_boxes import Quads, Size, reading_order
from curate._onnx import Model, need_onnxruntime, open_session, read_model, run_session
from headwater.errors import IntegrityError, MissingExtra

if TYPE_CHECKING:
    from PIL.Image import Image

DETECTOR = "PP-OCRv6_det_small.onnx"
RECOGNISER = "PP-OCRv6_rec_small.onnx"
COMMAND = "pip install 'headwater[ocr]'"
GRID = 32  # the detector's sides are multiples of it
LONGEST = 4  # times the shorter side; what is longer is shrunk further
ENLARGED = 3  # times at most: more found no more text in pictures of 96 pixels, and took longer
# the settings of rapidocr 3.10 for this detector
DETECTION: dict[str, Any] = {
    "thresh": 0.3,
    "max_candidates": 1000,
    "unclip_ratio": 1.6,
    "use_dilation": True,
    "score_mode": "fast",
}
LINE_HEIGHT, LINE_WIDTH, LINE_MOST = 48, 320, 3200  # pixels of a line for the recogniser


def packaged(name: str) -> Path:
    """A model file of rapidocr. Raises MissingExtra; rapidocr itself would look for it on the network."""
    need_onnxruntime("the scorer ocr", "ocr")
    found = importlib.util.find_spec("rapidocr")
    if found is None or not found.submodule_search_locations:
        raise MissingExtra("the scorer ocr needs rapidocr, which is not installed", hint=COMMAND)
    path = Path(found.submodule_search_locations[0]) / "models" / name
    if not path.is_file():
        raise MissingExtra(
            f"rapidocr {metadata.version('rapidocr')} is installed without {name}",
            hint=f"{COMMAND} --upgrade",
        )
    return path


def version() -> str:
    """Of rapidocr, whose code makes the boxes."""
    return metadata.version("rapidocr")


def raster_of(size: Size, side: int) -> Size:
    """Size at which the detector sees a picture: the shorter side is `side` (small pictures are enlarged, ENLARGED times at most),
    the longer at most LONGEST times that (then it decides); each rounded to a multiple of GRID."""
    ratio = min(side / min(size), LONGEST * side / max(size), ENLARGED)
    width, height = (max(GRID, round(length * ratio / GRID) * GRID) for length in size)
    return width, height


class NoBoxes(Exception):
    """The geometry of a picture's boxes cannot be computed."""


class Detector:
    """Finds boxes of text in a picture."""

    def __init__(self, side: int, threshold: float) -> None:
        from rapidocr.ch_ppocr_det.utils import DBPostProcess

        self._side = side
        self._model = read_model(packaged(DETECTOR))
        self._session = open_session(self._model)
        self._boxes = DBPostProcess(box_thresh=threshold, **DETECTION)

    def find(self, image: Image) -> tuple[Quads, Image]:
        """Boxes (n, 4, 2) in reading order, and the picture as the detector sees it, whose pixels they are in. Raises NoBoxes."""
        from PIL import Image as image_module

        seen = image.resize(raster_of(image.size, self._side), image_module.Resampling.BILINEAR)
        # trained on blue, green, red
        values = np.asarray(seen, np.float32)[:, :, ::-1] / np.float32(127.5) - np.float32(1)
        chance = _run(self._session, self._model, values)
        try:
            found, _ = self._boxes(chance, (seen.height, seen.width))
        except Exception as error:  # of OpenCV, Shapely or Clipper: one picture must not end the run
            raise NoBoxes(str(error)) from error
        return reading_order(np.asarray(found, np.int64).reshape(-1, 4, 2)), seen


class Reader:
    """Reads the text in a box. Text that stands on its head is not turned."""

    def __init__(self) -> None:
        self._model = read_model(packaged(RECOGNISER))
        self._session = open_session(self._model)
        known = self._session.get_modelmeta().custom_metadata_map.get("character")
        if not known:
            raise IntegrityError(f"{self._model.path}: names no characters", hint=COMMAND)
        self._characters = ["", *known.splitlines(), " "]  # the first is none

    def read(self, image: Image, quad: Quads) -> tuple[str, float]:
        """The line in a box of the picture, and the mean probability of its characters (0 without any)."""
        from PIL import Image as image_module
        from rapidocr.utils.process_img import get_rotate_crop_image

        crop = get_rotate_crop_image(np.asarray(image)[:, :, ::-1].copy(), quad.astype(np.float32))
        height, width = crop.shape[:2]
        width = min(max(1, math.ceil(LINE_HEIGHT * width / height)), LINE_MOST)
        line = image_module.fromarray(np.ascontiguousarray(crop)).resize(
            (width, LINE_HEIGHT), image_module.Resampling.BILINEAR
        )
        values = np.zeros((LINE_HEIGHT, max(width, LINE_WIDTH), 3), np.float32)
        values[:, :width] = np.asarray(line, np.float32) / np.float32(127.5) - np.float32(1)
        return self._text(_run(self._session, self._model, values)[0])

    def _text(self, chances: npt.NDArray[np.float32]) -> tuple[str, float]:
        """The best character of each step; repeats are one, and the empty one parts them (CTC)."""
        best = chances.argmax(axis=1)
        kept = (best > 0) & np.concatenate([[True], best[1:] != best[:-1]])
        if not kept.any():
            return "", 0.0
        last = len(self._characters) - 1
        text = "".join(self._characters[min(int(step), last)] for step in best[kept])
        return text, float(chances.max(axis=1)[kept].astype(np.float64).mean())


def _run(session: Any, model: Model, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """One picture (height, width, 3) through a model of one input and one output."""
    batch = np.ascontiguousarray(values.transpose(2, 0, 1)[None])
    return np.asarray(run_session(session, model, model.outputs[0].name, batch), np.float32)
