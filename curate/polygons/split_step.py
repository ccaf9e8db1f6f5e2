"""A split as a Step: one store a split, splits.json with both digests of each, membership.parquet for the next time."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.polygons._split_model import SplitFile
from curate.polygons.recording import VERSION, input_of, told
from curate.polygons.splits import assign, named
from curate.polygons.store import Annotations, pixel_digest, write_store
from headwater.files import write_json
from headwater.manifest import Counts, InputRef, canonical
from headwater.options import Settings
from headwater.steps import Plan, Work, run_step

STEP = "polygons-split"
MEMBERSHIP_NAME = "membership.parquet"
SPLITS_NAME = "splits.json"


def run_split(
    settings: Settings,
    annotations: Annotations,
    rule: SplitFile,
    output: Path,
    previous: pa.Table | None,
    images: Path | None,
) -> dict[str, Any]:
    """Write the splits to the folder `output`, and tell."""
    inputs = [input_of("annotations", annotations)]
    if previous is not None:
        lines = canonical(previous.to_pylist())
        inputs.append(InputRef(role="previous", id=hashlib.sha256(lines).hexdigest()))
    if images is not None:
        inputs.append(InputRef(role="pixels", id=pixel_digest(images, annotations)))
    config = {"rule": rule.model_dump(mode="json")}
    plan = Plan(STEP, VERSION, config, inputs, output, kind="folder")

    def work(job: Work) -> Counts:
        found = assign(annotations, rule, previous)
        records = []
        for split, part in found.take(annotations).items():
            one = named(split, part, images)
            write_store(part, job.stage / one.name)
            records.append(one.record())
        write_json(job.stage / SPLITS_NAME, {"splits": records})
        pq.write_table(found.table(), job.stage / MEMBERSHIP_NAME)
        job.details.update({"splits": records, "notes": found.notes + [_line(one) for one in records]})
        return found.counts()

    return told(plan, run_step(plan, work, settings.run_options()))


def _line(record: dict[str, Any]) -> str:
    return f"{record['name']}: {record['images']:,} images, {record['annotations']:,} annotations"
