"""Part files: the samples that one input tar contributes to a reshard, in tar order, extensions sorted.

Layout, little-endian:
    8 B length of the JSON that follows, the JSON padded with spaces to a multiple of 8, then int64 columns:
    n × uid_hi | n × uid_lo (bits of uint64) | n × row in the table of wanted uids | n × copies | (n+1) × first member |
    m × data offset | m × size | m × extension number.
The JSON holds what the walk saw and a CRC-32 of the columns.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curate._jsonuid import I64, U64


@dataclass
class Part:
    """The selected samples of one input tar."""

    head: dict[str, Any]
    hi: U64
    lo: U64
    row: I64
    copies: I64
    first: I64
    data: I64
    size: I64
    code: I64

    @property
    def sample_bytes(self) -> I64:
        """Bytes of member data of each sample."""
        if not len(self.copies):
            return np.empty(0, np.int64)
        return np.add.reduceat(self.size, self.first[:-1])


_PART_COLUMNS = ("hi", "lo", "row", "copies", "first", "data", "size", "code")


def write_part(path: Path, part: Part) -> int:
    """Write a part file through a temporary name; returns its CRC-32."""
    columns = np.concatenate([getattr(part, name).view(np.int64) for name in _PART_COLUMNS]).astype("<i8")
    crc = zlib.crc32(columns.data)
    head = {**part.head, "samples": len(part.copies), "members": len(part.size), "crc32": crc}
    text = json.dumps(head, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(columns.data)
    os.replace(temporary, path)
    return crc


def read_part(path: Path, *, check: bool = False) -> Part:
    """Read a part file. Raises ValueError when it is not whole."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    if length > len(raw) - 8:
        raise ValueError("part file is cut")
    head = json.loads(raw[8 : 8 + length])
    n, m = head["samples"], head["members"]
    columns = np.frombuffer(raw, "<i8", offset=8 + length)
    if len(columns) != 5 * n + 1 + 3 * m or (check and zlib.crc32(columns.data) != head["crc32"]):
        raise ValueError("part file is not whole")
    cuts = np.cumsum([n, n, n, n, n + 1, m, m])
    hi, lo, row, copies, first, data, size, code = np.split(columns, cuts)
    return Part(head, hi.view(np.uint64), lo.view(np.uint64), row, copies, first, data, size, code)
