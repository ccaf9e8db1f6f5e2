"""Small pictures with EXIF blocks, and LabelMe sidecars, for the tests of polygon datasets."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

GPS = {
    1: "S",
    2: (IFDRational(33, 1), IFDRational(52, 1), IFDRational(123456, 10007)),
    3: "E",
    4: (IFDRational(151, 1), IFDRational(12, 1), IFDRational(3599, 100)),
    5: b"\x00",
    6: IFDRational(12345, 1000),
    7: (IFDRational(1, 1), IFDRational(2, 1), IFDRational(3, 1)),
    29: "2024:05:01",
}


def pixels(width: int = 40, height: int = 24, seed: int = 0) -> np.ndarray:
    """A picture with something in it."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 255, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def exif_bytes(
    orientation: int | None = None,
    *,
    taken: str | None = None,
    zone: str | None = None,
    gps: dict[int, Any] | None = None,
    main: dict[int, Any] | None = None,
    exif: dict[int, Any] | None = None,
) -> bytes:
    """An EXIF block as Pillow writes it."""
    block = Image.Exif()
    if orientation is not None:
        block[0x0112] = orientation
    for tag, value in (main or {}).items():
        block[tag] = value
    inner = dict(exif or {})
    if taken:
        inner[0x9003] = taken
    if zone:
        inner[0x9011] = zone
    if inner:
        block.get_ifd(0x8769).update(inner)
    if gps:
        block.get_ifd(0x8825).update(gps)
    return block.tobytes()


def picture_bytes(
    form: str = "JPEG", array: np.ndarray | None = None, exif: bytes | None = None, **how: Any
) -> bytes:
    """A picture file."""
    out = io.BytesIO()
    more = {"exif": exif} if exif else {}
    Image.fromarray(pixels() if array is None else array).save(out, form, **more, **how)
    return out.getvalue()


def polygon(label: Any = "nut", points: Any = None, **keys: Any) -> dict[str, Any]:
    """A shape as LabelMe 5 writes it."""
    points = [[1.5, 2.25], [20.0, 3.0], [17.1, 19.3]] if points is None else points
    fresh = {"group_id": None, "description": "", "shape_type": "polygon", "flags": {}, "mask": None}
    return {"label": label, "points": points, **fresh, **keys}


def sidecar(
    folder: Path, name: str, shapes: list[Any], size: tuple[int, int] = (40, 24), **keys: Any
) -> dict[str, Any]:
    """Write NAME.json about NAME.jpg of the shown `size` (width, height)."""
    document = {
        "version": "5.0.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"{Path(name).name}.jpg",
        "imageData": None,
        "imageHeight": size[1],
        "imageWidth": size[0],
        **keys,
    }
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return document


def photo(
    folder: Path, name: str, orientation: int | None = None, array: np.ndarray | None = None, **exif: Any
) -> Path:
    """Write NAME.jpg."""
    path = folder / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    block = exif_bytes(orientation, **exif) if orientation is not None or exif else None
    path.write_bytes(picture_bytes(array=array, exif=block))
    return path


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
