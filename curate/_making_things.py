"""The things of an annotated set in files of their own: `annotations.json` as COCO, and `polygons/`, the same as a store of polygons."""

from __future__ import annotations

import shutil
from pathlib import Path

from curate._making_block import objects_file
from curate.generation import Generation
from headwater import plugins
from headwater.files import atomic_file

COCO_NAME, STORE_NAME = "annotations.json", "polygons"


def write_things(recipe: Generation, folder: Path, parts: Path) -> None:
    """Write both into `folder`, from the lines that the blocks left in `parts`; what a stopped run left of them is replaced.

    Coordinates beyond a few megabytes are kept in a file meanwhile; about 200 bytes an annotation are kept in memory.
    """
    from curate._coco_file import write_coco
    from curate.polygons._json_scan import Limits
    from curate.polygons.coco import read_coco
    from curate.polygons.store import write_store

    module = plugins.load("generators", recipe.generator)
    names = module.LABELS(module.Config(**recipe.parameters))
    lines = [objects_file(parts, block.name) for block in recipe.blocks]
    path, store = folder / COCO_NAME, folder / STORE_NAME
    with atomic_file(path) as handle:
        write_coco(handle, lines, names, {"description": f"{recipe.generator} {recipe.id[:12]}"})
    if store.exists():
        shutil.rmtree(store)
    # our own file, so however large it is
    write_store(read_coco(path, Limits(file_bytes=path.stat().st_size)), store)
