"""A repaired copy of a dataset, as a Step: every repair in repairs.parquet, what is still wrong in findings.parquet; the source stays."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.polygons._findings import Findings
from curate.polygons.recording import MOST_LISTED, MOST_SHOWN, Made, input_of, photos_input, store_step
from curate.polygons.repair import as_rows, fix
from curate.polygons.store import Annotations
from curate.polygons.validate import validate
from headwater.errors import BadInputs
from headwater.manifest import Counts
from headwater.options import Settings

REPAIRS = pa.schema(
    [
        ("code", pa.string()),
        ("table", pa.string()),
        ("row", pa.int64()),  # of that table before
        ("image_id", pa.int64()),
        ("annotation_id", pa.int64()),  # before
        ("done", pa.string()),
    ]
)


def run_fix(
    settings: Settings,
    path: Path,
    annotations: Annotations,
    findings: Findings,
    images: Path | None,
    output: Path,
) -> tuple[dict[str, Any], BadInputs | None]:
    """Write the repaired copy; the result to tell, and the error to end with when errors are left in it."""
    profile = findings.profile
    inputs = [input_of("annotations", annotations)]
    if images is not None:
        inputs.append(photos_input("photos", images, annotations.images["file_name"].to_pylist()))

    def make() -> Made:
        repaired, repairs = fix(annotations, findings)
        left = validate(repaired, profile=profile, folder=images)
        gone = {
            (one.row, one.code)
            for one in repairs
            if one.table == "annotations" and one.done.startswith("dropped:")
        }
        read, kept = len(annotations.annotations), len(repaired.annotations)
        dropped = Counter(code for _, code in gone)
        rows = as_rows(repairs)
        notes = [f"{_where(row)}{row['code']}: {row['done']}" for row in rows[:MOST_SHOWN]]
        notes += [f"… and {len(rows) - MOST_SHOWN:,} more repairs (repairs.parquet has all)"] * (
            len(rows) > MOST_SHOWN
        )
        details = {
            "profile": profile,
            "repairs": dict(Counter(row["code"] for row in rows)),
            "repaired": rows[:MOST_LISTED],
            "left": {
                "severities": left.severities,
                "counts": left.counts,
                "findings": left.as_rows()[:MOST_LISTED],
            },
        }
        beside = {
            "repairs.parquet": pa.Table.from_pylist(rows, schema=REPAIRS),
            "findings.parquet": left.table,
        }
        counts = Counts(
            unit="annotations", read=read, kept=kept, dropped=dict(dropped), extra={"repairs": len(rows)}
        )
        return Made(repaired, counts, notes, details, beside)

    config = {"profile": profile, "files": images is not None}
    result = store_step(settings, "polygons-fix", config, inputs, output, make, sources=[path])
    left = result.get("details", {}).get("left", {})
    errors = left.get("severities", {}).get("error", 0)
    if not errors:
        return result, None
    named = ", ".join(f"{count:,} {code}" for code, count in list(left["counts"].items())[:8])
    return result, BadInputs(
        f"{output} is written, and {errors:,} errors by the profile {profile} are left in it: {named}",
        hint="they need a person: headwater polygons validate lists them with their ids",
    )


def _where(row: dict[str, Any]) -> str:
    kind = row["table"].removesuffix("s")
    number = row.get("annotation_id" if kind == "annotation" else "image_id")
    return f"{kind} {number}: " if number is not None else f"{kind} row {row['row']}: "
