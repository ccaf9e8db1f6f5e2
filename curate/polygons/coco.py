"""COCO files: in (kwcoco files too, they are read in the same way), as they are, and out in COCO's own shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curate.polygons import _json_scan
from curate.polygons._builder import Rows
from curate.polygons._image_builder import Images
from curate.polygons._json_scan import Limits, opened, walk
from curate.polygons.store import Annotations


def read_coco(path: Path | str, limits: Limits | None = None) -> Annotations:
    """Read a COCO or kwcoco file; every value is kept, whether it makes sense or not (`validate` looks at that).

    Raises MissingInput, IntegrityError (not strict JSON, beyond `limits`, damaged zip), UsageError (not such a file at all).
    """
    images, rows = Images(), Rows()
    with opened(Path(path), limits) as scan:
        readers = {"images": images.read_plain, "annotations": rows.read_plain}
        if _json_scan.have_numba():
            readers = {"images": images.read_compiled, "annotations": rows.read_compiled}
        seen: set[str] = set()

        def noted(name: str) -> Any:
            def read(scan: Any) -> None:
                seen.add(name)
                readers[name](scan)

            return read

        header = walk(scan, {name: noted(name) for name in readers})
        missing = tuple(name for name in readers if name not in seen and name not in header)
        return rows.finish(header, images.finish(), missing)


def write_coco(annotations: Annotations, path: Path | str, *, holes: str = "refuse") -> None:
    """Write COCO JSON (or a zip with it, where the name ends in .zip): polygons as COCO's lists, all else as it is.

    `holes`: what becomes of holes, which COCO's lists cannot hold: "refuse" (BadInputs naming the annotations) or "keyhole"
    (see `_forms`). Points that are no ring (Form.SHAPE) are written as "points", which COCO's readers pass over.
    """
    from curate.polygons._forms import to_coco_shapes
    from curate.polygons._json_write import write_document

    write_document(to_coco_shapes(annotations, holes), Path(path))
