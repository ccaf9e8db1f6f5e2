"""A polygon dataset written in a format of others, as a Step."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from curate.polygons.exports import Exported
from curate.polygons.recording import MOST_LISTED, input_of, photos_input, told
from curate.polygons.store import Annotations
from headwater.errors import BadInputs, UsageError
from headwater.manifest import Counts
from headwater.options import Settings
from headwater.steps import Plan, Work, run_step

STEP = "polygons-export"
VERSION = 1
FILES = ("coco", "kwcoco")  # one file; the others are folders with copies of the images
KIND: dict[str, Literal["file", "folder"]] = {
    **dict.fromkeys(FILES, "file"),
    **dict.fromkeys(("labelme", "yolo", "parquet", "webdataset"), "folder"),
}


def export(
    settings: Settings,
    annotations: Annotations,
    output: Path,
    form: str,
    images: Path | None,
    *,
    holes: str,
    split: str = "train",
) -> tuple[dict[str, Any], BadInputs | None]:
    """Write it; the result to tell, and the error to end with when something could not be written in that format.

    Raises UsageError for images that are needed and not named.
    """
    if form not in FILES and form != "labelme" and images is None:
        raise UsageError(f"--format {form} holds the images: name their folder", hint="--images DIR")
    config: dict[str, Any] = {"format": form}
    inputs = [input_of("annotations", annotations)]
    if form == "coco":
        config["holes"] = holes
    if form in FILES:
        config["zip"] = output.suffix.lower() == ".zip"  # a zip or not is told from the name
    if form in ("yolo", "parquet"):
        config["split"] = split
    if form not in FILES and images is not None:
        inputs.append(photos_input("photos", images, annotations.images["file_name"].to_pylist()))
    plan = Plan(STEP, VERSION, config, inputs, output, kind=KIND[form])

    def work(job: Work) -> Counts:
        kept, left = _write(annotations, job, output, form, images, holes, split)
        read = len(annotations.images)
        if read and not kept:
            raise BadInputs(
                f"none of the images can be written: {_reasons(left)}",
                hint="--images is the folder from which the file names of the dataset count",
            )
        job.details["left_out"] = {reason: found[:MOST_LISTED] for reason, found in sorted(left.items())}
        extra = {f"left out: {reason}": len(found) for reason, found in sorted(left.items())}
        invalid = {"left out": read - kept} if kept < read else {}
        return Counts(unit="images", read=read, kept=kept, invalid=invalid, extra=extra)

    result = told(plan, run_step(plan, work, settings.run_options()))
    left = result.get("details", {}).get("left_out", {})
    if not left:
        return result, None
    return result, BadInputs(
        f"{output}: written, but left out: {_reasons(left)}",
        hint="headwater polygons validate lists what is wrong",
    )


def _reasons(left: dict[str, list[Any]]) -> str:
    return "; ".join(
        f"{len(found):,} {reason} ({', '.join(map(str, found[:5]))})" for reason, found in left.items()
    )


def _write(
    annotations: Annotations,
    job: Work,
    output: Path,
    form: str,
    images: Path | None,
    holes: str,
    split: str,
) -> tuple[int, dict[str, list[Any]]]:
    """(images written, what was left out by reason)."""
    if form in FILES:
        from curate.polygons.coco import write_coco
        from curate.polygons.kwcoco import write_kwcoco

        staged = job.parts / f"export{output.suffix.lower()}"
        if form == "coco":
            write_coco(annotations, staged, holes=holes)
        else:
            write_kwcoco(annotations, staged)
        staged.rename(job.stage)
        return len(annotations.images), {}
    if form == "labelme":
        from curate.polygons.labelme_writing import write_labelme

        written = write_labelme(annotations, job.stage, pictures=images)
        return len(annotations.images), {"image missing": list(written.missing)} if written.missing else {}
    assert images is not None
    done: Exported
    if form == "yolo":
        from curate.polygons.yolo import write_yolo

        done = write_yolo({split: annotations}, job.stage, pictures=images)
    elif form == "parquet":
        from curate.polygons.hub import write_hub_parquet

        done = write_hub_parquet(annotations, job.stage, pictures=images)
    else:
        from curate.polygons.webdataset import write_webdataset

        done = write_webdataset(annotations, job.stage, pictures=images)
    return min(done.images, len(annotations.images)), dict(done.left)
