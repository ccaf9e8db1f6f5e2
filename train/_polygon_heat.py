"""Score maps of images: detections painted onto one, or read from files (.npy, .png).

Painting: in ascending order of score, later ones over earlier ones, so that a pixel has the highest score of the detections on it; 0
where there is none. A file is named as its image with .npy or .png instead of its ending, and is as large as the image: 2-D floats in
0..1 (not a number: left out), or uint8 and uint16 for v / 255 and v / 65535.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.polygons._digest import image_path
from curate.polygons.raster import Crop
from headwater.hashing import digest_file

ENDINGS = (".npy", ".png")
GREY = {"L": np.uint8, "I;16": np.uint16}  # Pillow's modes
NPY_MAX_HEADER = 4096


def painted(crops: Sequence[Crop], scores: Sequence[float], size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """(H, W) float64."""
    out = np.zeros(size, dtype=np.float64)
    for place in np.argsort(np.asarray(scores, dtype=np.float64), kind="stable"):
        out[crops[place].window][crops[place].mask] = scores[place]
    return out


def heatmap_path(folder: Path, file_name: str | None) -> Path | None:
    """The map of an image; None where there is none. ValueError where there are two."""
    if not file_name:
        return None
    found = []
    for ending in ENDINGS:
        path = image_path(folder, str(PurePosixPath(file_name).with_suffix(ending)))
        if path is not None and path.is_file():
            found.append(path)
    if len(found) > 1:
        raise ValueError(f"two maps: {found[0].name} and {found[1].name}")
    return found[0] if found else None


def read_heatmap(path: Path, size: tuple[int, int]) -> npt.NDArray[Any]:
    """The map (H, W). ValueError for a file that is none, or of another size; its values are checked where they are counted."""
    if path.suffix == ".png":
        return _read_png(path, size)
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False, max_header_size=NPY_MAX_HEADER)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"no .npy file of numbers: {error}") from None
    if not isinstance(found, np.ndarray) or found.shape != size:
        shape = getattr(found, "shape", "something else")
        raise ValueError(f"a map of {shape}, its image has {size}: scale it before scoring")
    return found


def _read_png(path: Path, size: tuple[int, int]) -> npt.NDArray[Any]:
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in GREY:
                raise ValueError(f"a PNG of mode {image.mode}, not grey of 8 or 16 bits")
            if (image.height, image.width) != size:
                raise ValueError(
                    f"a map of ({image.height}, {image.width}), its image has {size}: scale it before scoring"
                )
            return np.asarray(image).astype(GREY[image.mode])
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"no PNG: {error}") from None


def digest_of(folder: Path, files: Sequence[Path]) -> str:
    """SHA-256 over lines "sha256 of the file, two blanks, its name", sorted: as of pixels of a dataset."""
    lines = [
        f"{digest_file(path, ['sha256']).sha256}  {path.relative_to(folder).as_posix()}\n" for path in files
    ]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
