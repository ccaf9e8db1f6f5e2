"""What the files of images say of their content: digest of the bytes, of the pixels, and hashes of what they look like."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from curate._picture_bytes import MAX_BYTES
from curate.polygons._digest import image_path
from headwater.console import track

AT_ONCE = 64  # images whose answers wait


@dataclass(frozen=True)
class Pictures:
    """Of each image: its status ("ok", "missing", or why it does not decode) and, where ok, what it looks like."""

    status: list[str]
    sha256: list[str | None]  # of the file
    pixels: npt.NDArray[np.int64]  # equal for equal pixels
    bits: npt.NDArray[np.uint64]  # perceptual hash
    contrast: npt.NDArray[np.float32]
    thumbs: npt.NDArray[np.uint8]  # (images, 3072)

    @property
    def seen(self) -> npt.NDArray[np.bool_]:
        """Which ones decode."""
        return np.array([status == "ok" for status in self.status], bool)


@dataclass(frozen=True)
class _Look:
    status: str
    sha256: str | None = None
    pixels: int = 0
    grey: npt.NDArray[np.uint8] | None = None
    thumb: npt.NDArray[np.uint8] | None = None


def look(folder: Path, names: Sequence[str | None], threads: int = 1) -> Pictures:
    """Read the images of these file names under `folder`; none outside of it is touched. About 4 KB are kept of each."""
    from curate._picture_hash import contrast, phash_bits
    from curate._picture_thumbs import WIDTH

    count = len(names)
    found: list[_Look] = []
    pixels, thumbs = np.zeros(count, np.int64), np.zeros((count, WIDTH), np.uint8)
    grey = np.zeros((count, 32, 32), np.uint8)
    with (
        track("look at images", total=count, unit="images") as bar,
        ThreadPoolExecutor(max(1, threads)) as pool,
    ):
        for at in range(0, count, AT_ONCE):
            for one in pool.map(partial(_look, folder), names[at : at + AT_ONCE]):
                row = len(found)
                found.append(replace(one, grey=None, thumb=None))
                if one.grey is not None and one.thumb is not None:
                    pixels[row], thumbs[row], grey[row] = one.pixels, one.thumb, one.grey
                bar.add()
    status, digests = [one.status for one in found], [one.sha256 for one in found]
    return Pictures(status, digests, pixels, phash_bits(grey), contrast(grey), thumbs)


def _look(folder: Path, name: str | None) -> _Look:
    from curate._picture_decode import PictureError, decode
    from curate._picture_hash import grey_for_phash, pixels_hash
    from curate._picture_thumbs import thumbnail

    path = image_path(folder, name)
    if path is None or not path.is_file():
        return _Look("missing")
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        return _Look("too large")
    digest = hashlib.sha256(data).hexdigest()
    try:
        image = decode(data)
    except PictureError as error:
        return _Look(error.status, digest)
    return _Look("ok", digest, pixels_hash(image), grey=grey_for_phash(image), thumb=thumbnail(image))
