"""The safetensors format by its bytes: a header that must describe the file exactly, or the file is refused.

    8 bytes, little-endian: length of the header | header, a JSON object | the tensors' bytes, without a hole

Each header entry is `name: {"dtype": …, "shape": […], "data_offsets": [begin, end]}`; `__metadata__` holds text by name. The
checks are those of the format's description (safetensors README, "Format") and stricter in one thing: a header is at most
16 MiB long (the format says 100 MB), which is room for 100,000 tensors, and keeps a hostile one from filling the memory.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headwater.errors import IntegrityError

HEADER_LIMIT_BYTES = 16 << 20
LENGTH_BYTES = 8
METADATA = "__metadata__"
HINT = "fetch or write the file again: nothing of it was used"

# name in the file -> (name in torch, bytes an element)
DTYPES: dict[str, tuple[str, int]] = {
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "U16": ("uint16", 2),
    "I16": ("int16", 2),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "U32": ("uint32", 4),
    "I32": ("int32", 4),
    "F32": ("float32", 4),
    "U64": ("uint64", 8),
    "I64": ("int64", 8),
    "F64": ("float64", 8),
    "C64": ("complex64", 8),
}
NAMES = {name: code for code, (name, _) in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """One tensor: its element type as torch calls it, its shape, and where its bytes lie in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int  # bytes from the start of the file
    size_bytes: int


def header_length(first: bytes, file_bytes: int, name: str) -> int:
    """Length of the header in bytes, from the `first` 8 of the file; raises IntegrityError for one that cannot be."""
    if len(first) < LENGTH_BYTES:
        raise IntegrityError(f"{name}: {file_bytes:,} bytes are too few for a safetensors file", hint=HINT)
    if first.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        raise IntegrityError(
            f"{name}: is called safetensors, but holds a file that torch.save or pickle wrote",
            hint="do not rename such a file: ask its source for safetensors",
        )
    (length,) = struct.unpack("<Q", first)
    if length > HEADER_LIMIT_BYTES:
        raise IntegrityError(
            f"{name}: its header claims {length:,} bytes; more than {HEADER_LIMIT_BYTES:,} are not read",
            hint=HINT,
        )
    if LENGTH_BYTES + length > file_bytes:
        raise IntegrityError(
            f"{name}: its header claims {length:,} bytes, the whole file has {file_bytes:,}: truncated or no safetensors file",
            hint=HINT,
        )
    return int(length)


def parse_header(header: bytes, file_bytes: int, name: str) -> list[Entry]:
    """Every tensor of the file in the order of its bytes; raises IntegrityError unless they cover the file exactly."""
    if not header.startswith(b"{"):
        raise IntegrityError(f"{name}: its header is not a JSON object", hint=HINT)
    try:
        document = json.loads(header.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:  # ValueError: also bad UTF-8 and numbers of 5,000 digits
        raise IntegrityError(f"{name}: its header is not valid JSON: {error}", hint=HINT) from error
    metadata = document.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise IntegrityError(f"{name}: {METADATA} must hold text by name", hint=HINT)
    if not document:
        raise IntegrityError(f"{name}: holds no tensors", hint=HINT)
    start = LENGTH_BYTES + len(header)
    entries = sorted(
        (_entry(key, value, start, name) for key, value in document.items()),
        key=lambda entry: (entry.start, entry.size_bytes),
    )
    end, previous = start, ""
    for entry in entries:
        if entry.start != end:
            what = "overlaps" if entry.start < end else "leaves a hole after"
            raise IntegrityError(
                f"{name}: tensor {entry.name!r} {what} {previous or 'the header'!r}", hint=HINT
            )
        end, previous = entry.start + entry.size_bytes, entry.name
    if end != file_bytes:
        raise IntegrityError(
            f"{name}: its header describes {end:,} bytes, the file has {file_bytes:,}", hint=HINT
        )
    return entries


def _entry(key: str, value: Any, start: int, name: str) -> Entry:
    def bad(what: str) -> IntegrityError:
        return IntegrityError(f"{name}: tensor {key!r}: {what}", hint=HINT)

    try:
        key.encode()
    except UnicodeEncodeError:
        raise bad("its name is not valid Unicode") from None
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise bad("must have exactly dtype, shape and data_offsets")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise bad(f"unknown dtype {code!r:.40}")
    if not _whole(shape):
        raise bad("its shape is not a list of whole numbers")
    if not _whole(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise bad("its data_offsets are not two whole numbers in order")
    dtype, element_bytes = DTYPES[code]
    size = offsets[1] - offsets[0]
    # a product of few, bounded numbers: a shape of many or long ones is refused before it is computed
    if len(shape) > 64 or any(n >= 1 << 63 for n in shape) or math.prod(shape) * element_bytes != size:
        raise bad(f"its shape {str(shape):.80} of {code} does not fill the {size:,} bytes it is given")
    return Entry(key, dtype, tuple(shape), start + offsets[0], size)


def _whole(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} occurs twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def build_header(shapes: Mapping[str, tuple[str, Sequence[int]]]) -> tuple[bytes, list[str]]:
    """The first bytes of a file (length and header) for `shapes`: name -> (torch's dtype name, shape), and the names in order.

    Wide elements come first, then by name, so that each tensor starts at a multiple of its element's size; the header is
    padded with blanks to a multiple of 8. For tensors of one type these are the bytes of the safetensors package; it has an order
    of its own among types of equal width.
    """
    order = sorted(shapes, key=lambda key: (-DTYPES[NAMES[shapes[key][0]]][1], key.encode()))
    document: dict[str, Any] = {METADATA: {"format": "pt"}}
    begin = 0
    for key in order:
        code = NAMES[shapes[key][0]]
        end = begin + math.prod(shapes[key][1]) * DTYPES[code][1]
        document[key] = {"dtype": code, "shape": list(shapes[key][1]), "data_offsets": [begin, end]}
        begin = end
    header = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header, order
