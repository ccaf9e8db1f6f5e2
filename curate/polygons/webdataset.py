"""Webdataset tars out: each image with its annotations as two members, `00000012.jpg` and `00000012.json`.

The json is {"image": …, "annotations": […]}, the objects of COCO about the picture as stored (`exif_orientation` says how it is shown);
`dataset.json` beside the tars holds the rest. Bytes of the tars depend on the contents alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

from curate._sink_tar import header as tar_header
from curate.polygons._json_strict import dump
from curate.polygons._json_write import annotation_texts, image_texts
from curate.polygons.exports import Exported, new_folder, pictures_of, rows_of_images, suffix_of
from curate.polygons.store import Annotations
from headwater.errors import UsageError
from headwater.files import atomic_file

SHARD_BYTES = 512 << 20
MOST_SUFFIX = 16


def write_webdataset(
    annotations: Annotations, folder: Path | str, *, pictures: Path | str, shard_bytes: int = SHARD_BYTES
) -> Exported:
    """Write 000000.tar … and dataset.json into a new or empty `folder`; a tar is closed at `shard_bytes`.

    Keys are the image's row, so that they sort as the dataset does. Raises UsageError when the folder holds something.
    """
    if shard_bytes < 1:
        raise UsageError(f"a shard of {shard_bytes} bytes")
    root, done = new_folder(folder), Exported()
    images = [text for texts in image_texts(annotations) for text in texts]
    texts = [text for some in annotation_texts(annotations) for text in some]
    rows = rows_of_images(annotations, done)
    pending: list[tuple[int, str, Path]] = []
    for row, file_name, path in pictures_of(annotations, Path(pictures), done):
        suffix = suffix_of(file_name)
        if suffix.isalnum() and suffix.isascii() and len(suffix) <= MOST_SUFFIX and suffix != "json":
            pending.append((row, suffix, path))
        else:
            done.left["images whose suffix tells no format"].append(file_name)
    at = 0
    while at < len(pending):
        name = f"{len(done.files):06}.tar"
        with atomic_file(root / name) as out:
            written = 0
            while at < len(pending) and (not written or written < shard_bytes):
                row, suffix, path = pending[at]
                document = (
                    f'{{"image":{images[row]},"annotations":[{",".join(texts[own] for own in rows[row])}]}}'
                )
                written += _member(out, f"{row:08}.{suffix}", path.read_bytes())
                written += _member(out, f"{row:08}.json", document.encode())
                done.images += 1
                done.annotations += len(rows[row])
                at += 1
            out.write(bytes(1024))
        done.files.append(name)
    with atomic_file(root / "dataset.json") as out:
        out.write(dump({"header": annotations.header, "missing": list(annotations.missing)}).encode() + b"\n")
    done.files.append("dataset.json")
    return done


def _member(out: IO[bytes], name: str, content: bytes) -> int:
    padding = bytes(-len(content) % 512)
    out.write(tar_header(name, len(content)) + content + padding)
    return 512 + len(content) + len(padding)
