"""Datasets for tests of splits: images from plain dictionaries, squares as annotations."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from curate.polygons import _schema
from curate.polygons.store import Annotations, Form


def dataset(
    images: list[dict[str, Any]], squares: list[tuple[int, float]] = (), **header: Any
) -> Annotations:  # type: ignore[assignment]
    """Images by column and extra key; `squares` are (image id, side), each an annotation of category 1."""
    columns: dict[str, list[Any]] = {name: [] for name in _schema.IMAGES.names}
    for row, image in enumerate(images):
        own = {"id": row + 1, **image}
        extra = {key: value for key, value in own.items() if key not in columns and value is not None}
        for name in columns:
            columns[name].append(own.get(name))
        columns["extra"][-1] = json.dumps(extra) if extra else None
    numbers = range(len(squares))
    xy = [(x * side, y * side) for _, side in squares for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
    return Annotations(
        {"categories": [{"id": 1, "name": "thing"}, {"id": 2, "name": "leaf"}], **header},
        images=_schema.table(_schema.IMAGES, **columns),
        annotations=_schema.table(
            _schema.ANNOTATIONS,
            id=[number + 1 for number in numbers],
            image_id=[image for image, _ in squares],
            category_id=[1] * len(squares),
            form=[int(Form.KW_ONE)] * len(squares),
            first_part=list(numbers),
        ),
        parts=_schema.table(
            _schema.PARTS,
            first_vertex=[4 * number for number in numbers],
            hole=[False] * len(squares),
            exterior=[0] * len(squares),
        ),
        vertices=_schema.table(
            _schema.VERTICES,
            x=pa.array([x for x, _ in xy], pa.float64()),
            y=pa.array([y for _, y in xy], pa.float64()),
        ),
    )
