"""A polygon dataset written in a format of others, as a Step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curate.polygons.recording import input_of, told
from curate.polygons.store import Annotations
from headwater.errors import BadInputs, UsageError
from headwater.manifest import Counts
from headwater.options import Settings
from headwater.steps import Plan, Work, run_step

STEP = "polygons-export"
VERSION = 1
FILES = ("coco", "kwcoco")  # one file; the others are folders with copies of the images
FORMATS = (*FILES, "labelme", "yolo", "parquet", "webdataset")


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
    config = {"format": form, "holes": holes, "split": split, "images": images is not None}
    kind: Any = "file" if form in FILES else "folder"
    # a zip or not is told from the name, so the stage must have it too
    plan = Plan(STEP, VERSION, config, [input_of("annotations", annotations)], output, kind=kind)

    def work(job: Work) -> Counts:
        left = _write(annotations, job, output, form, images, holes, split)
        read = len(annotations.images)
        job.details["left_out"] = {reason: found[:1000] for reason, found in sorted(left.items())}
        gone = {reason: len(found) for reason, found in sorted(left.items())}
        return Counts(
            unit="images", read=read, kept=read, extra={f"left out: {k}": n for k, n in gone.items()}
        )

    result = told(plan, run_step(plan, work, settings.run_options()))
    left = result.get("details", {}).get("left_out", {})
    if not left:
        return result, None
    reasons = "; ".join(
        f"{len(found):,} {reason} ({', '.join(map(str, found[:5]))})" for reason, found in left.items()
    )
    return result, BadInputs(
        f"{output}: written, but left out: {reasons}", hint="headwater polygons validate lists what is wrong"
    )


def _write(
    annotations: Annotations,
    job: Work,
    output: Path,
    form: str,
    images: Path | None,
    holes: str,
    split: str,
) -> dict[str, list[Any]]:
    if form == "coco":
        from curate.polygons.coco import write_coco

        write_coco(annotations, job.stage, holes=holes)
        return {}
    if form == "kwcoco":
        from curate.polygons.kwcoco import write_kwcoco

        staged = job.stage.with_name(f"export{output.suffix}")
        write_kwcoco(annotations, staged)
        staged.rename(job.stage)
        return {}
    if form == "labelme":
        from curate.polygons.labelme_writing import write_labelme

        written = write_labelme(annotations, job.stage, pictures=images)
        return {"image missing": list(written.missing)} if written.missing else {}
    assert images is not None
    if form == "yolo":
        from curate.polygons.yolo import write_yolo

        return dict(write_yolo({split: annotations}, job.stage, pictures=images).left)
    if form == "parquet":
        from curate.polygons.hub import write_hub_parquet

        return dict(write_hub_parquet(annotations, job.stage, pictures=images).left)
    from curate.polygons.webdataset import write_webdataset

    return dict(write_webdataset(annotations, job.stage, pictures=images).left)
