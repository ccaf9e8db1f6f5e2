"""Validation of a polygon dataset by a profile: findings with codes, ids and messages; nothing is changed.

Profiles: `coco` (what COCO readers need), `kwcoco` (what kwcoco's schema and integrity checks need), `strict` (everything).
The codes, how bad each is in a profile and what a fix does are in docs/polygon-findings.md, made from `_codes`.

Rules with numbers: a box or vertex may leave its image by half a pixel; a side of a box may be 1 pixel off its shape's; an area may be
off by half the length of the outline and 1 pixel (what rules of drawing differ by; a mask's must be its pixels). Work on one shape is
bounded by a number of steps, so no file can make it run for ever.
"""

from __future__ import annotations

from pathlib import Path

from curate.polygons._codes import PROFILES
from curate.polygons._findings import Collector, Findings, exit_error
from curate.polygons.store import Annotations
from headwater.errors import MissingInput, UsageError, nearest

__all__ = ["PROFILES", "Findings", "exit_error", "validate"]


def validate(
    annotations: Annotations, *, profile: str = "strict", folder: Path | str | None = None
) -> Findings:
    """Everything that `profile` tells about `annotations`; with `folder`, about the files of its images too.

    Raises UsageError for a profile that is none, MissingInput for a folder that is not there, MissingExtra without numba.
    """
    if profile not in PROFILES:
        raise UsageError(f"{profile!r} is no profile: {', '.join(PROFILES)}", hint=nearest(profile, PROFILES))
    root = None if folder is None else Path(folder)
    if root is not None and not root.is_dir():
        raise MissingInput(f"{root}: no such folder")
    from curate.polygons._geometry import measure, need_numba

    need_numba()
    from curate.polygons._check_files import check_files
    from curate.polygons._check_header import check_header
    from curate.polygons._check_rows import Extras, check_fields, check_images, check_references
    from curate.polygons._check_shapes import check_shapes

    out = Collector(annotations, profile)
    check_header(annotations, out)
    sizes, files = ({}, 0) if root is None else check_files(annotations, root, out)
    if root is None:
        _same_bytes(annotations, out)
    check_images(annotations, Extras(annotations.images["extra"]), sizes, out)
    extras = Extras(annotations.annotations["extra"])
    check_references(annotations, extras, out)
    check_fields(annotations, extras, out)
    check_shapes(annotations, measure(annotations), extras, out)
    tables = ("images", "annotations", "parts", "vertices")
    return out.finish({**{name: len(getattr(annotations, name)) for name in tables}, "files": files})


def _same_bytes(annotations: Annotations, out: Collector) -> None:
    """Images that declare one sha256; where files are read, `check_files` looks at their bytes."""
    seen: dict[str, int] = {}
    for row, digest in enumerate(annotations.images["sha256"].to_pylist()):
        if digest is not None and seen.setdefault(digest, row) != row:
            out.add("image-duplicate", "images", [row], f"the sha256 is that of image row {seen[digest]}")
