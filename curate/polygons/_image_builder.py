"""The images table, built row by row: from objects of Python's json, or from bytes by compiled code, in one order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from curate.polygons import _json_scan, _schema
from curate.polygons._json_scan import AT, DONE, EXPECT, FULL, MORE, ROWS, SLOW, WHERE, Scan
from curate.polygons._json_strict import dump
from curate.polygons._rows import image_row

IMAGE_NUMBERS = ("id", "width", "height", "orientation")  # as _image_kernel has them
IMAGE_TEXTS = ("file_name", "datetime", "sha256", "extra")
NUMBER_PLACES, TEXT_PLACES = (0, 2, 3, 5), (1, 4, 6)  # in what image_row gives


class Images:
    """The images table."""

    def __init__(self, rows: int | None = None) -> None:
        rows = rows or _json_scan.BLOCK_ROWS
        self._tables: list[pa.Table] = []
        self._ints = np.zeros((4, rows), np.int64)
        self._valid = np.zeros(rows, np.int64)
        self._texts = np.zeros((4, 2 * _json_scan.BLOCK_BYTES), np.uint8)
        self._used = np.zeros(4, np.int64)
        self._ends = np.zeros((4, rows), np.int32)
        self._state = np.zeros(7, np.int64)

    def read_plain(self, scan: Scan) -> None:
        """All elements of the list that `scan` stands in, by Python's json."""
        for entries in scan.pieces():
            for entry in entries:
                self._add(entry, scan)
        self._flush(scan)

    def read_compiled(self, scan: Scan) -> None:
        """All elements of the list that `scan` stands in, by compiled code."""
        from curate.polygons._image_kernel import MOST_KEYS, scan_images

        state = self._state
        keys, bits = np.zeros((MOST_KEYS, 2), np.int64), np.zeros(1, np.uint64)
        state[AT], state[EXPECT] = scan.at, 0
        while True:
            status = scan_images(
                scan.buf, scan.end, state, self._ints, self._valid, self._texts, self._used, self._ends, keys, bits
            )  # fmt: skip
            scan.at = int(state[AT])
            if status == DONE:
                break
            if status == MORE:
                scan.more()
            elif status == FULL:
                self._flush(scan)
                self._grow(scan.end - scan.at + 8 * MOST_KEYS)
            elif status == SLOW:
                if (element := scan.element(int(state[WHERE]))) is not None:
                    self._add(element.value, scan)
                    state[EXPECT] = 1
            else:
                raise scan.refused(status, int(state[WHERE]))
            state[AT] = scan.at
        self._flush(scan)

    def _grow(self, wanted: int) -> None:
        if wanted > self._texts.shape[1]:
            self._texts = np.zeros((4, 2 * wanted), np.uint8)

    def _add(self, entry: Any, scan: Scan) -> None:
        """Append an image object. Raises IntegrityError where it is none."""
        if not isinstance(entry, dict):
            raise scan.fault("an image that is no object")
        found, extra = image_row(entry)
        texts = [*(found[place] for place in TEXT_PLACES), dump(extra) if extra else None]
        coded = [None if text is None else text.encode() for text in texts]
        most = max(len(text) for text in (*coded, b"") if text is not None)
        if self._state[ROWS] == len(self._valid) or int(self._used.max()) + most > self._texts.shape[1]:
            self._flush(scan)
            self._grow(most)
        row = int(self._state[ROWS])
        valid = 0
        for column, place in enumerate(NUMBER_PLACES):
            if found[place] is not None:
                self._ints[column, row] = found[place]
                valid |= 1 << column
        for column, text in enumerate(coded):
            if text is not None:
                start = int(self._used[column])
                self._texts[column, start : start + len(text)] = np.frombuffer(text, np.uint8)
                self._used[column] += len(text)
                valid |= 16 << column
        self._valid[row] = valid
        self._ends[:, row] = self._used
        self._state[ROWS] += 1

    def _flush(self, scan: Scan) -> None:
        rows = int(self._state[ROWS])
        if not rows:
            return
        valid = self._valid[:rows]
        columns: dict[str, pa.Array] = {}
        for bit, name in enumerate(IMAGE_NUMBERS):
            absent = valid >> bit & 1 == 0
            field = _schema.IMAGES.field(name)
            columns[name] = pa.array(
                self._ints[bit, :rows].astype(field.type.to_pandas_dtype()), field.type, mask=absent
            )
        for column, name in enumerate(IMAGE_TEXTS):
            given = valid >> (4 + column) & 1 == 1
            offsets = np.zeros(rows + 1, np.int32)
            offsets[1:] = self._ends[column, :rows]
            data = self._texts[column, : self._used[column]].tobytes()
            bitmap = pa.py_buffer(np.packbits(given, bitorder="little").tobytes())
            array = pa.Array.from_buffers(
                pa.string(), rows, [bitmap, pa.py_buffer(offsets), pa.py_buffer(data)]
            )
            try:
                array.validate(full=True)
            except pa.ArrowInvalid as error:
                raise scan.fault(f"in an image before here: not UTF-8 ({error})") from error
            columns[name] = array
        self._tables.append(_schema.table(_schema.IMAGES, **columns))
        self._used[:] = 0
        self._state[ROWS] = 0

    def finish(self) -> pa.Table:
        """The table."""
        return (
            pa.concat_tables(self._tables).combine_chunks() if self._tables else _schema.empty(_schema.IMAGES)
        )
