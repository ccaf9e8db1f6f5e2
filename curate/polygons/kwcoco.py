"""kwcoco files: .kwcoco.json and .kwcoco.zip, in and out.

Everything that Annotations hold has a place in them, so writing as it is loses nothing. kwcoco's own checker refuses some null values
that real files have (a null coco_url of an image, in TACO), so those keys are left out unless told otherwise.
"""

from __future__ import annotations

from pathlib import Path

from curate.polygons._json_strict import dump, loads
from curate.polygons.coco import read_coco
from curate.polygons.store import Annotations, set_column

__all__ = ["read_kwcoco", "write_kwcoco"]

read_kwcoco = read_coco
NULLS = ("file_name", "assets", "auxiliary")  # of an image: may be null in kwcoco


def write_kwcoco(
    annotations: Annotations, path: Path | str, *, polygons: bool = False, nulls: bool = False
) -> None:
    """Write kwcoco JSON, or a zip with it where the name ends in .zip.

    `polygons`: COCO's lists become objects with exterior and interiors. `nulls`: null values of images are written too, so that the
    file says exactly what its source said.
    """
    from curate.polygons._forms import to_kwcoco_shapes
    from curate.polygons._json_write import write_document

    found = to_kwcoco_shapes(annotations) if polygons else annotations
    write_document(found if nulls else _without_nulls(found), Path(path))


def _without_nulls(annotations: Annotations) -> Annotations:
    texts = annotations.images["extra"].to_pylist()
    if not any(text and "null" in text for text in texts):
        return annotations
    for row, text in enumerate(texts):
        if text and "null" in text:
            found = loads(text.encode())
            left = {key: value for key, value in found.items() if value is not None or key in NULLS}
            texts[row] = dump(left) if left else None
    return annotations.replace(images=set_column(annotations.images, "extra", texts))
