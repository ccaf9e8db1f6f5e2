"""Weights as torch before 1.6 saved them, read as data: pickles that are never run, then the raw elements.

    pickle: a magic number | pickle: 1001 | pickle: facts of the machine | pickle: the objects | pickle: names of the storages
    then for each storage, in the order of their names: int64 count of elements | the elements

Layout from torch/serialization.py, `_legacy_save`. The instructions are followed by the same machine as for newer files, which
cannot call anything (headwater._torch_pickle); only what a storage is called differs: one more entry, for views, always None here.
"""

from __future__ import annotations

import io
import pickletools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headwater._torch_pickle import NamesCode, Unreadable, View, _Machine
from headwater._torch_zip import AGAIN, PICKLE_LIMIT_BYTES, code_found
from headwater.errors import IntegrityError
from headwater.files import named_io

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
DTYPES = {"float32": "<f4", "float64": "<f8", "int64": "<i8", "int32": "<i4", "uint8": "|u1"}
Arrays = dict[str, npt.NDArray[Any]]


def read_legacy(path: Path, *, limit_bytes: int) -> Arrays:
    """Name -> array of a saved state_dict, in the order of the file.

    Raises IntegrityError for a file above `limit_bytes`, of another kind, damaged, or that names something to call (it is named).
    """
    with named_io(path), open(path, "rb") as handle:
        data = handle.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise IntegrityError(f"{path}: more than {limit_bytes:,} bytes are not read as weights", hint=AGAIN)
    stream = io.BytesIO(data)
    try:
        if (magic := _next(stream)) != MAGIC or _next(stream) != PROTOCOL:
            raise Unreadable(f"it does not begin as torch before 1.6 wrote it ({str(magic)[:40]})")
        machine = _next(stream)
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise Unreadable("it was not written by a little-endian machine")
        table, keys = _next(stream), _next(stream)
        if not isinstance(table, dict) or not isinstance(keys, list):
            raise Unreadable("it holds no table of tensors")
        return _arrays(table, keys, data, stream.tell())
    except NamesCode as found:
        raise code_found(str(path), str(found)) from None
    except (Unreadable, ValueError, IndexError, KeyError, TypeError, struct.error, UnicodeError) as error:
        raise IntegrityError(f"{path}: cannot be read as weights: {error}", hint=AGAIN) from error


def _next(stream: io.BytesIO) -> Any:
    """What the next pickle of the stream describes."""
    machine, start = _Machine(), stream.tell()
    for code, argument, position in pickletools.genops(stream):
        if (position or 0) - start > PICKLE_LIMIT_BYTES:
            raise Unreadable(f"a pickle of more than {PICKLE_LIMIT_BYTES:,} bytes")
        if code.name == "BINPERSID":
            saved = machine._stack[-1]
            if not isinstance(saved, tuple) or len(saved) != 6 or saved[5] is not None:
                raise Unreadable("its pickle refers to something other than a whole storage")
            machine._stack[-1] = saved[:5]
        machine.step(code.name, argument)
    return machine.result


def _arrays(table: dict[Any, Any], keys: list[Any], data: bytes, at: int) -> Arrays:
    storages = {}
    kinds = {view.storage.key: view.storage for view in table.values() if isinstance(view, View)}
    for key in keys:
        (count,) = struct.unpack_from("<q", data, at)
        kind = kinds[key]
        if count != kind.count or kind.dtype not in DTYPES:
            raise Unreadable(f"a storage of {count:,} {kind.dtype}, described as {kind.count:,}")
        storages[key] = np.frombuffer(data, DTYPES[kind.dtype], count, at + 8)
        at += 8 + count * kind.element_bytes
    if at != len(data):
        raise Unreadable(f"{len(data) - at:,} bytes behind the last storage")
    found: Arrays = {}
    for name, view in table.items():
        if not isinstance(name, str) or not isinstance(view, View):
            raise Unreadable(f"entry {str(name)[:80]!r} is no tensor")
        flat = storages[view.storage.key]
        strides = tuple(step * flat.itemsize for step in view.stride)
        # the machine has checked that the view stays inside its storage
        found[name] = np.array(np.lib.stride_tricks.as_strided(flat[view.offset :], view.shape, strides))
    return found
