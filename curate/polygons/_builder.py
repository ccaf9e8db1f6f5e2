"""The tables of Annotations, built row by row: from objects of Python's json, or from bytes by compiled code, in one order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from curate.polygons import _json_scan, _schema
from curate.polygons._json_scan import (
    AT,
    DONE,
    EXPECT,
    FULL,
    MORE,
    PARTS,
    ROWS,
    SLOW,
    SPANS,
    VERTS,
    WHERE,
    Scan,
)
from curate.polygons._json_strict import dump, loads
from curate.polygons._rows import (
    INTS,
    NUMBERS,
    Shape,
    exact,
    fits,
    points_of,
    shape_of,
    text_fits,
)
from curate.polygons._spill import Doubles, Grown
from curate.polygons.store import Annotations

CACHED = 65536  # texts of `extra` that are remembered
EXTRA_SPAN, RLE_SPAN, KEYPOINTS_SPAN, SOURCE_SPAN = 0, 8, 9, 10
BBOX_BIT, NUMBER_BIT, CROWD_BIT = 4, 5, 7
SIDES = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
SIZES = ("rle_height", "rle_width")
RLE_BIT = 12  # above the keys of _coco_kernel
BITS = {  # of `valid`, for columns that may be null
    **{name: bit for bit, name in enumerate(INTS)},
    **dict.fromkeys(SIDES, BBOX_BIT),
    **{name: bit for bit, name in enumerate(NUMBERS, NUMBER_BIT)},
    "iscrowd": CROWD_BIT,
    **dict.fromkeys(SIZES, RLE_BIT),
}
COLUMNS = {
    **dict.fromkeys((*INTS, "first_part", "first_vertex"), "i8"),
    **dict.fromkeys((*SIDES, *NUMBERS), "f8"),
    **dict.fromkeys((*SIZES, "exterior"), "i4"),
    **dict.fromkeys(("iscrowd", "form"), "i1"),
    "hole": "?",
    "valid": "i2",
}
TEXTS = ("rle", "keypoints", "source", "segmentation_extra", "extra")


class Rows:
    """The other three tables."""

    def __init__(self, rows: int | None = None) -> None:
        rows = rows or _json_scan.BLOCK_ROWS
        self._ints = np.zeros((4, rows), np.int64)
        self._floats = np.zeros((6, rows))
        self._crowd = np.zeros(rows, np.int8)
        self._forms = np.zeros(rows, np.int8)
        self._valid = np.zeros(rows, np.int64)
        self._first = np.zeros(rows, np.int64)
        self._sizes = np.zeros((2, rows), np.int32)
        self._texts: dict[str, dict[int, Any]] = {name: {} for name in TEXTS}
        self._rings = np.zeros(2 * rows, np.int64)
        self._holes = np.zeros(2 * rows, np.bool_)
        self._exteriors = np.zeros(2 * rows, np.int32)
        self._xs, self._ys = np.zeros(8 * rows), np.zeros(8 * rows)
        self._spans = np.zeros((2 * rows, 4), np.int64)
        self._state = np.zeros(7, np.int64)
        self._known: dict[bytes, str] = {}
        self._columns = {name: Grown(kind) for name, kind in COLUMNS.items()}
        self._chunks: dict[str, list[pa.Array]] = {name: [] for name in TEXTS}
        self._x, self._y = Doubles(), Doubles()

    # ---- from Python objects

    def read_plain(self, scan: Scan) -> None:
        """All elements of the list that `scan` stands in, by Python's json."""
        for entries in scan.pieces():
            for entry in entries:
                self.add_checked(entry, scan)

    def add_checked(self, entry: Any, scan: Scan) -> None:
        if not isinstance(entry, dict):
            raise scan.fault("an annotation that is no object")
        self.add(entry)

    def add(self, entry: dict[str, Any]) -> None:
        """Append one annotation object."""
        if self._state[ROWS] == len(self._forms):
            self._flush()
        shape = Shape(_schema.Form.NONE)
        extra: dict[str, Any] = {}
        numbers: dict[str, Any] = {}
        texts: dict[str, Any] = {}
        for key, value in entry.items():
            if key in INTS and fits(value, 64):
                numbers[key] = value
            elif key in NUMBERS and exact(value):
                numbers[key] = float(value)
            elif (
                key == "bbox"
                and isinstance(value, list)
                and len(value) == 4
                and all(map(exact, value))
                or key == "iscrowd"
                and fits(value, 8)
            ):
                numbers[key] = value
            elif (
                key == "segmentation"
                and (found := shape_of(value)) is not None
                or key == "points"
                and "segmentation" not in entry
                and (found := points_of(value)) is not None
            ):
                shape = found
            elif key == "keypoints" and isinstance(value, list):
                texts[key] = dump(value)
            elif key == "source" and text_fits(value):
                texts[key] = value
            else:
                extra[key] = value
        if extra:
            texts["extra"] = dump(extra)
        self._put(numbers, texts, shape)

    def _put(self, numbers: dict[str, Any], texts: dict[str, Any], shape: Shape) -> None:
        self._room(len(shape.rings), sum(map(len, shape.rings)) // 2)
        row = int(self._state[ROWS])
        valid = 0
        for bit, key in enumerate(INTS):
            if key in numbers:
                self._ints[bit, row] = numbers[key]
                valid |= 1 << bit
        if "bbox" in numbers:
            self._floats[:4, row] = numbers["bbox"]
            valid |= 1 << BBOX_BIT
        for bit, key in enumerate(NUMBERS, NUMBER_BIT):
            if key in numbers:
                self._floats[bit - 1, row] = numbers[key]
                valid |= 1 << bit
        if "iscrowd" in numbers:
            self._crowd[row] = numbers["iscrowd"]
            valid |= 1 << CROWD_BIT
        self._valid[row] = valid
        self._first[row] = self._state[PARTS]
        for name, text in texts.items():
            self._texts[name][row] = text
        self._shape(row, shape)
        self._state[ROWS] += 1

    def _shape(self, row: int, shape: Shape) -> None:
        self._forms[row] = shape.form
        for number, (ring, exterior) in enumerate(zip(shape.rings, shape.exteriors, strict=True)):
            part, vertex = int(self._state[PARTS]), int(self._state[VERTS])
            self._rings[part], self._holes[part], self._exteriors[part] = vertex, exterior != number, exterior
            stop = vertex + len(ring) // 2
            self._xs[vertex:stop], self._ys[vertex:stop] = ring[0::2], ring[1::2]
            self._state[PARTS], self._state[VERTS] = part + 1, stop
        if shape.extra is not None:
            self._texts["segmentation_extra"][row] = dump(shape.extra)
        if shape.rle is not None and shape.size is not None:
            self._texts["rle"][row] = shape.rle
            self._sizes[:, row] = shape.size

    def _room(self, parts: int, vertices: int) -> None:
        if self._state[PARTS] + parts > len(self._rings) or self._state[VERTS] + vertices > len(self._xs):
            self._flush()
            self._grow(parts, vertices, 0)

    def _grow(self, parts: int, vertices: int, spans: int) -> None:
        """Make an empty block large enough."""
        if parts > len(self._rings):
            self._rings = np.zeros(parts, np.int64)
            self._holes = np.zeros(parts, np.bool_)
            self._exteriors = np.zeros(parts, np.int32)
        if vertices > len(self._xs):
            self._xs, self._ys = np.zeros(vertices), np.zeros(vertices)
        if spans > len(self._spans):
            self._spans = np.zeros((spans, 4), np.int64)

    # ---- from bytes

    def read_compiled(self, scan: Scan) -> None:
        """All elements of the list that `scan` stands in, by compiled code."""
        from curate.polygons import _coco_kernel as kernel

        state = self._state
        bits = np.zeros(1, np.uint64)
        state[AT], state[EXPECT] = scan.at, 0
        while True:
            state[SPANS] = 0
            status = kernel.scan(
                scan.buf, scan.end, scan.limits.depth, state, self._ints, self._floats, self._crowd,
                self._forms, self._valid, self._first, self._rings, self._holes, self._exteriors,
                self._xs, self._ys, self._spans, bits,
            )  # fmt: skip
            self._take_spans(scan)
            scan.at = int(state[AT])
            if status == DONE:
                return
            if status == MORE:
                scan.more()
            elif status == FULL:
                if state[ROWS]:
                    self._flush()
                else:
                    self._grow(2 * len(self._rings), 2 * len(self._xs), 2 * len(self._spans))
            elif status == SLOW:
                if (element := scan.element(int(state[WHERE]))) is not None:
                    self.add_checked(element.value, scan)
                    state[EXPECT] = 1
            else:
                raise scan.refused(status, int(state[WHERE]))
            state[AT] = scan.at

    def _take_spans(self, scan: Scan) -> None:
        """Give the values that the compiled code left to Python to their rows."""
        rows: dict[int, list[tuple[int, int, int]]] = {}
        for row, kind, start, stop in self._spans[: self._state[SPANS]].tolist():
            rows.setdefault(row, []).append((kind, start, stop))
        for row, spans in rows.items():
            if all(kind == EXTRA_SPAN for kind, _, _ in spans):
                self._texts["extra"][row] = self._text(scan, spans)
            else:
                self._mixed(scan, row, spans)

    def _text(self, scan: Scan, spans: list[tuple[int, int, int]]) -> str:
        data = b",".join(scan.buf[start:stop].tobytes() for _, start, stop in spans)
        text = self._known.get(data)
        if text is None:
            try:
                text = dump(loads(b"{" + data + b"}"))
            except ValueError as error:
                raise scan.fault(f"in an annotation: {error}", spans[0][1]) from error
            if len(self._known) < CACHED and len(data) < 256:
                self._known[data] = text
        return text

    def _mixed(self, scan: Scan, row: int, spans: list[tuple[int, int, int]]) -> None:
        extra: dict[str, Any] = {}
        for kind, start, stop in spans:
            if kind == EXTRA_SPAN:
                new = loads(self._text(scan, [(kind, start, stop)]).encode())
                if twice := set(new) & set(extra):
                    raise scan.fault(
                        f"in an annotation: the key {twice.pop()!r} stands twice in one object", start
                    )
                extra.update(new)
                continue
            value = scan.parsed(start, stop)
            if kind == KEYPOINTS_SPAN and isinstance(value, list):
                self._texts["keypoints"][row] = dump(value)
            elif kind == SOURCE_SPAN and text_fits(value):
                self._texts["source"][row] = value
            elif kind == RLE_SPAN and (shape := shape_of(value)) is not None:
                self._shape(row, shape)
            else:
                extra[
                    {RLE_SPAN: "segmentation", KEYPOINTS_SPAN: "keypoints", SOURCE_SPAN: "source"}[kind]
                ] = value
        if extra:
            self._texts["extra"][row] = dump(extra)

    # ---- blocks to tables

    def _flush(self) -> None:
        rows, parts, vertices = (int(self._state[entry]) for entry in (ROWS, PARTS, VERTS))
        if not rows:
            return
        add = {name: column.add for name, column in self._columns.items()}
        first_part, first_vertex = self._columns["hole"].count, self._x.count
        valid = self._valid[:rows]
        valid[list(self._texts["rle"])] |= 1 << RLE_BIT
        add["valid"](valid)
        for bit, name in enumerate(INTS):
            add[name](self._ints[bit, :rows])
        for side, name in enumerate((*SIDES, *NUMBERS)):
            add[name](self._floats[side, :rows])
        for side, name in enumerate(SIZES):
            add[name](self._sizes[side, :rows])
        add["iscrowd"](self._crowd[:rows])
        add["form"](self._forms[:rows])
        add["first_part"](self._first[:rows] + first_part)
        add["first_vertex"](self._rings[:parts] + first_vertex)
        add["hole"](self._holes[:parts])
        add["exterior"](self._exteriors[:parts])
        self._x.add(self._xs[:vertices])
        self._y.add(self._ys[:vertices])
        for name, found in self._texts.items():
            kind = _schema.ANNOTATIONS.field(name).type
            if not found:
                self._chunks[name].append(pa.nulls(rows, kind))
                continue
            texts: list[Any] = [None] * rows
            for row, text in found.items():
                texts[row] = text
            self._chunks[name].append(pa.array(texts, kind))
            found.clear()
        self._state[[ROWS, PARTS, VERTS, SPANS]] = 0

    def finish(self, header: dict[str, Any], images: pa.Table, missing: tuple[str, ...]) -> Annotations:
        """The dataset; the object is used up."""
        self._flush()
        valid = self._columns["valid"].finish()
        found: dict[str, pa.Array] = {}
        for name, column in self._columns.items():
            values = column.finish()
            absent = valid >> BITS[name] & 1 == 0 if name in BITS else np.zeros(0, bool)
            found[name] = pa.array(values, mask=absent if absent.any() else None)
        for name, chunks in self._chunks.items():
            found[name] = (
                pa.concat_arrays(chunks) if chunks else pa.array([], _schema.ANNOTATIONS.field(name).type)
            )
        tables = [
            pa.Table.from_arrays([found[name] for name in schema.names], schema=schema)
            for schema in (_schema.ANNOTATIONS, _schema.PARTS)
        ]
        x = self._x.finish()
        vertices = pa.Table.from_arrays([x, self._y.finish()], schema=_schema.VERTICES)
        return Annotations(header, images, tables[0], tables[1], vertices, missing)
