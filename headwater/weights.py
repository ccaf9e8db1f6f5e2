"""Weights of a model, read from files that may be hostile and written so that equal tensors give equal bytes.

`.safetensors` and what torch.save wrote (`.pt`, `.pth`, `.bin`, `.ckpt`) are read by our own readers: neither ever calls
what a file names. The name decides the format, as in open_clip, so that no file is two things to two readers.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater._safetensors import LENGTH_BYTES, NAMES, build_header, header_length, parse_header
from headwater._torch_pickle import View
from headwater._torch_zip import AGAIN, TorchZip
from headwater.console import say
from headwater.errors import IntegrityError, MissingExtra, MissingInput, UsageError
from headwater.files import atomic_file, named_io

if TYPE_CHECKING:
    from torch import Tensor

LIMIT_BYTES = 64 << 30  # of one file: the largest published image-text models have 20 GB
SAFETENSORS = ".safetensors"
POINTER = b"version https://git-lfs"
TORCH_FILES = (".pt", ".pth", ".bin", ".ckpt")

Tensors = dict[str, "Tensor"]


def read_weights(path: Path, *, limit_bytes: int = LIMIT_BYTES) -> Tensors:
    """The model's tensors in `path`, on the CPU, each in memory of its own unless the file shares it.

    Of a training checkpoint ({"epoch", "state_dict", "optimizer", …}, as open_clip writes it) the model's alone; a `module.` that
    data-parallel training put before every name is taken away. Values that are not finite are told as a warning.
    Raises MissingInput, UsageError (a suffix that no weights have), MissingExtra, and IntegrityError for a file that is larger
    than `limit_bytes`, damaged, not what its name says, or would call a function when unpickled: that function is named.
    """
    if path.suffix not in (SAFETENSORS, *TORCH_FILES):
        raise UsageError(
            f"{path}: weights are called *{SAFETENSORS} or *{', *'.join(TORCH_FILES)}",
            hint="rename the file to what it is",
        )
    _torch()
    with _regular_file(path, limit_bytes) as (handle, size):
        if path.suffix == SAFETENSORS:
            tensors = _read_safetensors(handle, size, str(path))
        else:
            tensors = _read_torch(handle, size, str(path), limit_bytes)
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    broken = not_finite(tensors)
    if broken:
        name, count = next(iter(broken.items()))
        say(
            "warning",
            f"{path}: {sum(broken.values()):,} values are NaN or infinite, {count:,} of them in {name!r}",
        )
    return tensors


def write_weights(tensors: Mapping[str, Tensor], path: Path, *, durable: bool = True) -> None:
    """Write `tensors` as safetensors, atomically; equal tensors give equal bytes, whatever their order and memory layout.

    Tensors that share memory are written once for each name. Raises UsageError for what the format cannot hold.
    """
    if path.suffix != SAFETENSORS:
        raise UsageError(f"{path}: weights are written as *{SAFETENSORS}")
    with atomic_file(path, durable=durable) as handle:
        for piece in _pieces(tensors):
            handle.write(piece)


def state_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hex, of the file that `write_weights` makes of `tensors`."""
    digest = hashlib.sha256()
    for piece in _pieces(tensors):
        digest.update(piece)
    return digest.hexdigest()


def same_shapes(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> str | None:
    """How two sets of tensors differ in names, shapes or element types: the first difference by name, None if they do not."""
    for name in sorted(first.keys() | second.keys()):
        if name not in first or name not in second:
            return f"{name!r} is only in the {'first' if name in first else 'second'}"
        left, right = first[name], second[name]
        if left.shape != right.shape:
            return f"{name!r} is {list(left.shape)} in the first and {list(right.shape)} in the second"
        if left.dtype != right.dtype:
            return f"{name!r} is {_dtype(left)} in the first and {_dtype(right)} in the second"
    return None


def not_finite(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """How many values of each tensor are NaN or infinite, for those that have any."""
    torch = _torch()
    found = {}
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        wide = tensor.float() if tensor.element_size() == 1 else tensor
        count = wide.numel() - int(torch.isfinite(wide).sum())
        if count:
            found[name] = count
    return found


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtra(
            "torch is not installed, and weights need it", hint="pip install 'headwater[train]'"
        ) from error
    return torch


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


@contextmanager
def _regular_file(path: Path, limit_bytes: int) -> Iterator[tuple[BufferedReader, int]]:
    """An open file and its size; refused unless it is a regular one that stays as it is while it is read."""
    with named_io(path):
        try:
            # a pipe would block the opening, a device the reading
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise MissingInput(f"{path}: no such file") from None
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode) or before.st_size > limit_bytes:
            os.close(fd)
            what = "is not a regular file"
            if stat.S_ISREG(before.st_mode):
                what = f"{before.st_size:,} bytes; more than {limit_bytes:,} are not read as weights"
            raise IntegrityError(f"{path}: {what}", hint="is it the right file?")
        with open(fd, "rb") as handle:
            if handle.peek(len(POINTER)).startswith(POINTER):
                raise IntegrityError(f"{path}: is a pointer of Git LFS, not the weights", hint="git lfs pull")
            yield handle, before.st_size
            after = os.fstat(fd)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise IntegrityError(
            f"{path}: changed while it was read", hint="stop what writes to it and run again"
        )


def _read_safetensors(handle: BufferedReader, size: int, name: str) -> Tensors:
    length = header_length(handle.read(LENGTH_BYTES), size, name)
    entries = parse_header(handle.read(length), size, name)
    tensors = {}
    for entry in entries:
        handle.seek(entry.start)
        data = bytearray(entry.size_bytes)
        if handle.readinto(data) != entry.size_bytes:
            raise IntegrityError(f"{name}: ends within tensor {entry.name!r}", hint=AGAIN)
        tensors[entry.name] = _elements(data, entry.dtype, f"{name}: tensor {entry.name!r}").reshape(
            entry.shape
        )
    return tensors


def _read_torch(handle: BufferedReader, size: int, name: str, limit_bytes: int) -> Tensors:
    archive = TorchZip(handle, name, size)
    views = _model_part(archive.objects(), name)
    total = sum(math.prod(view.shape) * view.storage.element_bytes for view in views.values())
    if total > limit_bytes:
        raise IntegrityError(
            f"{name}: its tensors share memory and would be {total:,} bytes apart", hint=AGAIN
        )
    storages: dict[str, tuple[str, Tensor]] = {}
    tensors = {}
    for key, view in views.items():
        dtype = view.storage.dtype
        if view.storage.key not in storages:
            data = archive.storage(view.storage)
            storages[view.storage.key] = dtype, _elements(data, dtype, f"{name}: tensor {key!r}")
        known, elements = storages[view.storage.key]
        if known != dtype or elements.numel() != view.storage.count:
            raise IntegrityError(f"{name}: the storage of {key!r} is described in two ways", hint=AGAIN)
        tensors[key] = elements.as_strided(view.shape, view.stride, view.offset).contiguous()
    return tensors


def _model_part(objects: object, name: str) -> dict[str, View]:
    """The table of tensors in what an archive holds."""
    table = objects
    if isinstance(table, dict) and "state_dict" in table:
        table = table["state_dict"]
    if not isinstance(table, dict) or not table:
        raise IntegrityError(f"{name}: holds no table of tensors", hint="name a checkpoint or a state_dict")
    for key, value in table.items():
        if not isinstance(key, str) or not isinstance(value, View):
            raise IntegrityError(
                f"{name}: entry {str(key)[:80]!r} is no tensor", hint="name a checkpoint or a state_dict"
            )
    return table


def _elements(data: bytearray, dtype: str, name: str) -> Tensor:
    """`data` as a flat tensor that owns it."""
    torch = _torch()
    if dtype == "bool" and data.translate(None, b"\0\1"):
        raise IntegrityError(f"{name}: holds truth values other than 0 and 1", hint=AGAIN)
    kind = getattr(torch, dtype)
    flat: Tensor = torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)
    return flat


def _pieces(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, in order."""
    torch = _torch()
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or _dtype(tensor) not in NAMES:
            raise UsageError(f"tensor {name!r} ({tensor.dtype}, {tensor.layout}) cannot be written")
    header, order = build_header({name: (_dtype(t), tuple(t.shape)) for name, t in tensors.items()})
    yield header
    for name in order:
        flat = tensors[name].detach().to("cpu").contiguous().reshape(-1)
        if flat.numel():
            yield memoryview(flat.view(torch.uint8).numpy())
